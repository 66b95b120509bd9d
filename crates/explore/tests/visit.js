// Runs behind the explorer's own script.
window.onerror = message => { document.title = `error: ${message}`; };
const failed = [];
const expect = (is, what) => { if (!is) failed.push(what); };

// The middle of a box on the screen, or a place from its corner.
function at(box, x = box.w / 2, y = box.h / 2) {
  const { left, top } = canvas.getBoundingClientRect();
  return { clientX: left + look.left + (box.x + x) * look.scale, clientY: top + look.top + (box.y + y) * look.scale, bubbles: true };
}

function click(box, x, y) {
  for (const kind of ["mousedown", "mouseup"]) canvas.dispatchEvent(new MouseEvent(kind, at(box, x, y)));
}

function press_key(key) {
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
}

// Boxes that stand in the same one do not touch, and stand inside of it, below its title.
function inOrder(what) {
  const inside = Map.groupBy(drawn.boxes, box => box.around);
  for (const [around, boxes] of inside) {
    const rows = [...boxes].sort((a, b) => a.y - b.y);
    const touch = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
    const isFree = rows.every((a, k) => {
      for (let l = k + 1; l < rows.length && rows[l].y < a.y + a.h; l += 1) if (touch(a, rows[l])) return false;
      return true;
    });
    expect(isFree, `${what}: boxes touch`);
    const [x0, y0, x1, y1] = around ? [around.x, around.y + TITLE_HEIGHT, around.x + around.w, around.y + around.h] : [0, 0, drawn.w, drawn.h];
    expect(boxes.every(box => box.x >= x0 && box.y >= y0 && box.x + box.w <= x1 && box.y + box.h <= y1), `${what}: boxes stand out`);
  }
}

// Folds and unfolds at the last stage, by everything that does so.
function folding() {
  show(FUSED, 0);
  $("unfold").click();
  inOrder("unfolded");
  expect(stage().sheets.every((of, on) => of.nodes.every((_, n) => drawn.shown(on, n).number === n)), "unfolded, every node has a box");
  const operands = drawn.edges.reduce((n, edge) => n + edge.operands.length, 0);
  expect(operands >= stage().sheets.reduce((n, of) => n + of.edges.length, 0), "and every edge is drawn");
  $("fold").click();
  inOrder("folded");
  expect(drawn.boxes.every(box => !box.inner) && drawn.boxes.length === sheet().scopes[0][ROWS].flat().length, "folded, the outermost are left");
  const scope = drawn.boxes.find(box => box.scope !== undefined);
  if (!scope) return;
  const { key } = scope, now = () => drawn.boxes.find(box => box.key === key), members = membersOf(sheet(), scope.scope);
  expect(members.every(n => drawn.shown(0, n) === scope) && scope.lines[1].startsWith(`${members.length} nodes`), "a folded scope stands for its nodes");
  const inner = new Set(members), across = sheet().edges.filter(([from, to]) => inner.has(from) !== inner.has(to)).length;
  const touching = drawn.edges.filter(edge => edge.from === scope || edge.to === scope);
  expect(touching.reduce((n, edge) => n + edge.operands.length, 0) === across, "its edges are merged");
  expect(edgeHint(touching[0]).includes(`${touching[0].operands.length} edge`) && hint(scope).includes("edges in"), "and counted");
  const [x, y] = [look.left + scope.x * look.scale, look.top + scope.y * look.scale];
  click(scope);
  expect(now().inner, "a click unfolds a scope");
  expect(Math.abs(look.left + now().x * look.scale - x) < 1 && Math.abs(look.top + now().y * look.scale - y) < 1, "where it stands");
  inOrder("one unfolded");
  $("slider").value = FUSED - 1;
  $("slider").dispatchEvent(new Event("input"));
  expect(now() && now().inner, "it stays unfolded at other stages");
  show(FUSED, 0);
  click(now(), 10, 5);
  expect(!now().inner, "a click on the title folds it");
  press_key("Enter");
  expect(now().inner, "Enter unfolds it");
  press_key("-");
  expect(!now().inner, "- folds it");
  press_key("ArrowDown");
  expect(cursor && cursor.key !== key, "arrows go on");
  // The innermost node of all, in the body of a loop if there is one.
  const on = stage().sheets.length - 1, depth = n => { let d = 0; for (let k = sheetOf(on).home[n]; k > 0; k = sheetOf(on).scopes[k][AROUND]) d += 1; return d; };
  structure(sheetOf(on));
  const deep = sheetOf(on).nodes.map((_, n) => n).reduce((a, b) => depth(b) > depth(a) ? b : a);
  $("search").value = `%${deep} ${info(sheetOf(on).nodes[deep])[OP]}`;
  $("search").dispatchEvent(new Event("input"));
  expect(drawn.boxes.reduce((n, box) => n + box.hits, 0) === look.hits.length && look.hits.length > 0, "folded boxes show what is found in them");
  for (let k = 0; k < look.hits.length && !(look.on === on && look.node === deep); k += 1) {
    $("search").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
    expect(chosenBox() && chosenBox().number === look.node, "search unfolds what it finds");
  }
  expect(look.on === on && look.node === deep, "and comes to all of it");
  inOrder("after a search");
  $("fold").click();
  expect(chosenBox() !== undefined && chosenBox().hits > 0, "a chosen node that is folded is shown by what is around it");
}

const opened = performance.now();
try {
  expect(opened < 3000, `open after ${opened} ms`);
  expect(drawn.boxes.length === data.parts[0].steps.length, "the page opens on the plan");
  const all = part().picture.width * look.scale;
  expect(Math.abs(look.left + all / 2 - canvas.getBoundingClientRect().width / 2) < 1, "in the middle");
  for (const name of Object.keys(panels)) {
    [...$("tabs").children].find(button => button.textContent === name).click();
    expect($("panel").textContent.length > 0, `panel ${name}`);
  }
  for (let at = 0; at <= PLAN; at += 1) {
    $("slider").value = at;
    $("slider").dispatchEvent(new Event("input"));
    expect(at === PLAN || drawn.boxes.length > 0 && sheet().nodes.every((_, n) => drawn.shown(0, n)), `boxes of stage ${at}`);
    look.tab = "Changes"; fill();
    expect($("panel").textContent.length > 0, `changes of stage ${at}`);
  }
  show(FUSED, 0);
  select(sheet().nodes.length - 1);
  expect($("panel").textContent.includes(nodeText(sheet().nodes[look.node], look.node)), "the chosen node's panel");
  canvas.dispatchEvent(new MouseEvent("mousemove", at(chosenBox())));
  expect(!$("tip").hidden && $("tip").textContent.includes("%"), "the hint beside the pointer");
  if (data.derivatives.length > 0) {
    const pairs = sheet().nodes.map((row, n) => [n, counterparts(row[UID], derivativeOf)]).filter(([, found]) => found.length > 0);
    expect(pairs.length > 0, "nodes of the last stage have their derivatives");
    const [n, [[on, other]]] = pairs[0];
    expect(counterparts(stage().sheets[on].nodes[other][UID], partOfDerivative).some(([s, m]) => s === 0 && m === n), "and back");
    select(n);
    expect($("panel").textContent.includes("its derivative"), "the panel of a derivative");
    expect(hint(drawn.shown(0, n)).includes("its derivative"), "the hint of a derivative");
  }
  folding();
  $("search").value = data.nodes[sheet().nodes[0][UID]][OP];
  $("search").dispatchEvent(new Event("input"));
  expect(look.hits.some(([on, n]) => on === 0 && n === 0), "search");
  expect(window.stolen === undefined, "a name was run");
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  expect(pixels.some(value => value !== 0), "something is drawn");
} catch (error) { failed.push(String(error)); }
document.title = failed.length === 0 ? "all is well" : `failed: ${failed.join("; ")}`;
