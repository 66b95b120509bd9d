// ---- What is folded, and where the boxes of a sheet stand

const [GAP, ROW_GAP, TITLE_HEIGHT, SWEEPS] = [14, 34, 20, 6];
const SMALL = 60; // nodes of a sheet whose scopes start unfolded
const MARK = 12; // the side of the mark that unfolds a loop

// What was folded or unfolded by hand: scopes by path, loops by uid. It holds for all stages, and so does what starts unfolded: on a
// sheet that is small at every stage all scopes. Loops start folded.
const folds = { by: new Map(), all: undefined };
const startsOpen = Math.max(...data.stages.map(of => of.sheets[0].nodes.length)) <= SMALL;

function isOpen(key, on) {
  if (folds.by.has(key)) return folds.by.get(key);
  if (folds.all !== undefined) return folds.all;
  return typeof key === "string" && (on === 0 ? startsOpen : sheetOf(on).nodes.length <= SMALL);
}

// What follows from the rows of a sheet: the results that have boxes; for each item the scope that it is in; the edges; for each scope
// what stands above and below its items.
function structure(of) {
  if (of.home) return of;
  of.results = of.outputs.filter(output => output.size);
  of.home = [];
  of.scopes.forEach((scope, k) => scope[ROWS].flat().forEach(item => { if (item >= 0) of.home[item] = k; }));
  of.edges = of.nodes.flatMap((row, to) => row[OPERANDS].map(from => [from, to]));
  of.results.forEach((output, k) => of.edges.push([output.value, of.nodes.length + k]));
  of.near = of.scopes.map(() => new Map());
  for (const [from, to] of of.edges) {
    const ends = [[from, of.home[from]], [to, of.home[to]]];
    // A scope has a larger number than the one around it.
    while (ends[0][1] !== ends[1][1]) {
      const inner = ends[0][1] > ends[1][1] ? 0 : 1, scope = ends[inner][1];
      ends[inner] = [-1 - scope, of.scopes[scope][AROUND]];
    }
    const [[above, scope], [below]] = ends, near = of.near[scope];
    if (above === below) continue;
    for (const [item, side, other] of [[above, "below", below], [below, "above", above]]) {
      if (!near.has(item)) near.set(item, { above: [], below: [] });
      near.get(item)[side].push(other);
    }
  }
  return of;
}

// The [sheet, node] that each body of a stage is first of.
function owners() {
  const here = stage();
  if (!here.owners) {
    here.owners = new Map();
    here.sheets.forEach((of, on) => of.nodes.forEach((row, n) => row[BODIES].forEach(body => {
      if (!here.owners.has(body)) here.owners.set(body, [on, n]);
    })));
  }
  return here.owners;
}

// Whether a sheet is the one that is shown, or is a body inside of it.
function isUnder(on) {
  while (on !== look.sheet && owners().has(on)) [on] = owners().get(on);
  return on === look.sheet;
}

// Unfolds all that is around a node of a sheet that is under the one that is shown; whether that changed anything.
function reveal(on, number) {
  let changed = false;
  const unfold = (key, of) => { if (!isOpen(key, of)) { folds.by.set(key, true); changed = true; } };
  for (;;) {
    const of = structure(sheetOf(on));
    for (let k = of.home[number]; k > 0; k = of.scopes[k][AROUND]) unfold(of.scopes[k][PATH], on);
    if (on === look.sheet) return changed;
    [on, number] = owners().get(on);
    unfold(sheetOf(on).nodes[number][UID], on);
  }
}

// The boxes of the sheet that is shown, those around others first, the edges between them, and the size of all. `shown` finds the box of
// a node, which is that of a scope or loop around it where that is folded.
function arranged() {
  const instances = [], marks = marksOf();
  const whole = sheetBox(look.sheet, instances, marks);
  const boxes = [];
  settle(whole.inner, 0, 0, null, boxes);
  const where = new Map();
  for (const { on, box } of instances) if (!where.has(on)) where.set(on, box);
  const shown = (on, number) => {
    while (!where.has(on)) {
      if (!owners().has(on)) return undefined;
      [on, number] = owners().get(on);
    }
    return where.get(on)[number];
  };
  return { boxes, edges: instances.flatMap(merged), w: whole.w, h: whole.h, shown };
}

// Gives boxes their places on the sheet.
function settle(inner, x, y, around, boxes) {
  for (const box of inner) {
    [box.x, box.y, box.around] = [box.x + x, box.y + y, around];
    boxes.push(box);
    if (box.inner) settle(box.inner, box.x, box.y, box, boxes);
  }
}

// A whole sheet; `instances` gets the box of each of its numbers.
function sheetBox(on, instances, marks) {
  const instance = { on, box: [] };
  instances.push(instance);
  return scopeBox(0, instance, instances, marks);
}

// The inside of an unfolded scope: rows below each other, and in a row what is wider than its folded box pushes the others apart.
function scopeBox(scope, instance, instances, marks) {
  const of = structure(sheetOf(instance.on)), made = new Map();
  const rows = of.scopes[scope][ROWS].map(row => row.map(item => {
    const box = itemBox(item, instance, instances, marks);
    made.set(item, box);
    return { item, box, middle: 0 };
  }));
  const cells = new Map(rows.flat().map(cell => [cell.item, cell]));
  for (let sweep = -1; sweep < SWEEPS; sweep += 1) {
    const down = sweep % 2 === 0;
    const wish = cell => {
      const near = sweep < 0 ? [] : (of.near[scope].get(cell.item) || { above: [], below: [] })[down ? "above" : "below"];
      return near.length === 0 ? cell.middle : near.reduce((sum, item) => sum + cells.get(item).middle, 0) / near.length;
    };
    for (const row of down ? rows : [...rows].reverse()) pack(row, wish);
  }
  const left = Math.min(...rows.map(row => row[0].middle - row[0].box.w / 2));
  let [right, top] = [0, GAP];
  for (const row of rows) {
    for (const { box, middle } of row) {
      [box.x, box.y] = [Math.round(middle - box.w / 2 - left + GAP), top];
      right = Math.max(right, box.x + box.w);
    }
    top += Math.max(...row.map(({ box }) => box.h)) + ROW_GAP;
  }
  return { inner: [...made.values()], w: right + GAP, h: top - ROW_GAP + GAP };
}

// Places a row in its order, as near to where its cells would be as they fit: the mean of packing it from both sides.
function pack(row, wish) {
  const apart = k => (row[k - 1].box.w + row[k].box.w) / 2 + GAP;
  const fromLeft = row.map(wish), fromRight = [...fromLeft];
  for (let k = 1; k < row.length; k += 1) fromLeft[k] = Math.max(fromLeft[k], fromLeft[k - 1] + apart(k));
  for (let k = row.length - 1; k > 0; k -= 1) fromRight[k - 1] = Math.min(fromRight[k - 1], fromRight[k] - apart(k));
  row.forEach((cell, k) => { cell.middle = (fromLeft[k] + fromRight[k]) / 2; });
}

// The box of a node, a result or a scope, with its inside if that is unfolded.
function itemBox(item, instance, instances, marks) {
  const on = instance.on, of = sheetOf(on);
  if (item < 0) {
    const scope = of.scopes[-1 - item], key = scope[PATH], open = isOpen(key, on);
    const about = { key, on, scope: -1 - item, open, number: null, title: scope[TITLE] };
    if (open) return titled(about, [scopeBox(-1 - item, instance, instances, marks)]);
    const params = scope[N_PARAMS] > 0 ? `, ${scope[N_PARAMS]} parameters` : "";
    const lines = [`+ ${scope[TITLE]}`, `${scope[N_NODES]} nodes${params}`];
    const members = membersOf(of, -1 - item);
    const box = { ...about, lines, w: scope[WIDE], h: scope[HIGH], fill: "#e8eef5", ...marks.ofScope(on, members) };
    members.forEach(n => { instance.box[n] = box; });
    return box;
  }
  if (item >= of.nodes.length) {
    const { name, size: [w, h] } = of.results[item - of.nodes.length];
    return instance.box[item] = { on, w, h, lines: [name], fill: "#ffffff", border: "#333333", thick: 1, number: null };
  }
  const row = of.nodes[item], lines = [nodeText(row, item), info(row)[TYPE]], isLoop = row[BODIES].length > 0;
  const about = { on, number: item, lines, fill: info(row)[COLOR], ...marks.ofNode(on, item) };
  if (!isLoop) return instance.box[item] = { ...about, w: row[W], h: row[H] };
  const key = row[UID], open = isOpen(key, on), title = lines[0];
  const box = open ? titled({ ...about, key, open, title }, row[BODIES].map(body => sheetBox(body, instances, marks)))
    : { ...about, key, open, w: row[W] + 2 * MARK, h: row[H] };
  return instance.box[item] = box;
}

// The nodes in a scope and in those in it.
function membersOf(of, scope) {
  of.members ||= [];
  return of.members[scope] ||= of.scopes[scope][ROWS].flat().flatMap(item => item < 0 ? membersOf(of, -1 - item) : [item]);
}

// An unfolded box: its title, and below that its parts side by side.
function titled(about, parts) {
  const least = 7 * about.title.length + 3 * MARK, sum = parts.reduce((sum, part) => sum + part.w, 0), w = Math.max(sum, least);
  let left = (w - sum) / 2;
  const inner = [];
  for (const part of parts) {
    part.inner.forEach(box => { box.x += left; box.y += TITLE_HEIGHT; inner.push(box); });
    left += part.w;
  }
  return { border: "#8295a8", thick: 1, ...about, inner, w, h: Math.max(...parts.map(part => part.h)) + TITLE_HEIGHT };
}

// The edges of a sheet from box to box, each once with the operands that it stands for.
function merged({ on, box }) {
  const verdicts = look.stage === FUSED ? (partOf(on) || {}).verdictOf : undefined, found = new Map();
  for (const [from, to] of sheetOf(on).edges) {
    const [above, below] = [box[from], box[to]];
    if (above === below) continue;
    if (!found.has(above)) found.set(above, new Map());
    const ends = found.get(above);
    if (!ends.has(below)) ends.set(below, { from: above, to: below, operands: [], on, color: undefined });
    const verdict = verdicts && verdicts.get(`${from} ${to}`), edge = ends.get(below);
    const color = verdict ? (verdict[2] ? "#1a7f37" : "#b03a2e") : "#999999";
    edge.operands.push([from, to]);
    edge.color = edge.color === undefined || edge.color === color ? color : "#999999";
  }
  return [...found.values()].flatMap(ends => [...ends.values()]);
}

// The borders of nodes and of folded scopes: by kernel, or by what the pass has added and the next one takes away.
function marksOf() {
  const here = stage(), added = here.addedSet ||= new Set(here.added);
  const next = data.stages[look.stage + 1], going = next ? next.removedSet ||= new Set(next.removed) : new Set();
  const changed = (nAdded, nGoing) => nAdded > 0 ? { border: "#1a7f37", thick: 3 } : nGoing > 0 ? { border: "#b03a2e", thick: 3 } : { border: "#666666", thick: 1 };
  const kernelOf = on => look.stage === FUSED ? (partOf(on) || {}).kernelOf : undefined;
  return {
    ofNode(on, number) {
      const kernels = kernelOf(on), uid = sheetOf(on).nodes[number][UID];
      if (kernels && kernels.has(number)) return { border: kernelColor(kernels.get(number)), thick: 3 };
      return changed(Number(added.has(uid)), Number(going.has(uid)));
    },
    ofScope(on, members) {
      const kernels = kernelOf(on), of = new Set(kernels ? members.map(n => kernels.get(n)) : []);
      of.delete(undefined);
      if (of.size === 1) return { border: kernelColor([...of][0]), thick: 3, nAdded: 0, nGoing: 0, nKernels: 1 };
      const count = set => members.filter(n => set.has(sheetOf(on).nodes[n][UID])).length, [nAdded, nGoing] = [added, going].map(count);
      return { ...changed(nAdded, nGoing), nAdded, nGoing, nKernels: of.size };
    },
  };
}

