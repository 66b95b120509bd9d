// ---- The canvas

const canvas = $("canvas");
const context = canvas.getContext("2d");

// What is drawn: boxes { x, y, w, h, lines, fill, border, thick, number, on }, those that fold with { key, open, title, inner }; edges
// { from, to, color, operands }.
let drawn = { boxes: [], edges: [], w: 0, h: 0, shown: () => undefined };
let cursor = null; // the box that the keys are at

// The plan: a box for each step.
function steps() {
  const p = part(), { boxes: rows, edges, width: w, height: h } = p.picture;
  const boxes = rows.map(([label, x, y, w, h], number) => {
    const kernel = p.steps[number].kernel;
    return { x, y, w, h, lines: [label], fill: "#ffffff", border: kernel === null ? "#333333" : kernelColor(kernel), thick: 2, number };
  });
  return { boxes, edges: edges.map(([from, to]) => ({ from: boxes[from], to: boxes[to], color: "#999999", operands: [] })), w, h, shown: (_, step) => boxes[step] };
}

// Arranges what is shown anew.
function arrange() {
  drawn = isPlan() ? steps() : arranged();
  cursor = null;
  $("tip").hidden = true;
  mark();
}

const chosenBox = () => {
  const number = isPlan() ? look.step : look.node;
  return number === null ? undefined : drawn.shown(look.on, number);
};

// Counts in each box what the search has found there.
function mark() {
  drawn.boxes.forEach(box => { box.hits = 0; });
  for (const [on, number] of look.hits) {
    const box = drawn.shown(on, number);
    if (box) box.hits += 1;
  }
}

// The way of an edge. One that would run through boxes goes around them, in a straight line on the side where less is in the way.
function curve({ from, to }) {
  const path = new Path2D(), [ay, by] = [from.y + from.h, to.y], turn = ROW_GAP * 0.8;
  let [ax, bx] = [from.x + from.w / 2, to.x + to.w / 2];
  const crossed = inTheWay(from, to);
  if (by < ay || crossed.length === 0) {
    // What leads up swings down first.
    const reach = by > ay ? (by - ay) / 2 : 3 * ROW_GAP;
    path.moveTo(ax, ay);
    path.bezierCurveTo(ax, ay + reach, bx, by - reach, bx, by);
    return path;
  }
  const apart = GAP + (by - ay) * 0.04, middle = (ax + bx) / 2;
  const [left, right] = [Math.min(...crossed.map(box => box.x)) - apart, Math.max(...crossed.map(box => box.x + box.w)) + apart];
  const [toLeft, toRight] = [left, right].map(x => drawn.boxes.filter(box => !box.inner && x > box.x && x < box.x + box.w && box.y < by && box.y + box.h > ay).length);
  const x = toLeft < toRight || toLeft === toRight && middle - left < right - middle ? left : right, sign = Math.sign(x - middle);
  [ax, bx] = [ax + sign * from.w / 4, bx + sign * to.w / 4];
  path.moveTo(ax, ay);
  path.bezierCurveTo(ax, ay + turn, x, ay, x, ay + turn);
  path.lineTo(x, by - turn);
  path.bezierCurveTo(x, by, bx, by - turn, bx, by);
  return path;
}

// The boxes that a straight edge would run through: beside the two in which its ends are, and these where they are unfolded.
function inTheWay(from, to) {
  const chain = box => box ? [...chain(box.around), box] : [];
  const [above, below] = [chain(from), chain(to)], depth = above.findIndex((box, k) => box !== below[k]);
  const ends = [above[depth], below[depth]], around = above[depth - 1] || null;
  const [ax, ay, bx, by] = [from.x + from.w / 2, from.y + from.h, to.x + to.w / 2, to.y];
  const crossed = drawn.boxes.filter(box => {
    if ((box.around || null) !== around || ends.includes(box) || box.y < ay || box.y + box.h > by) return false;
    const x = ax + (bx - ax) * (box.y - ay) / (by - ay);
    return x > box.x - 4 && x < box.x + box.w + 4;
  });
  return crossed.length === 0 ? crossed : [...crossed, ...ends.filter(box => box.inner)];
}

function draw() {
  const { width, height } = canvas.getBoundingClientRect(), dots = window.devicePixelRatio || 1;
  canvas.width = width * dots;
  canvas.height = height * dots;
  context.setTransform(dots * look.scale, 0, 0, dots * look.scale, dots * look.left, dots * look.top);
  const [x0, y0, x1, y1] = [-look.left, -look.top, width - look.left, height - look.top].map(v => v / look.scale);
  const seen = box => box.x < x1 && box.x + box.w > x0 && box.y < y1 && box.y + box.h > y0;
  const isLegible = look.scale >= 0.35; // text that nobody could read takes most of the time
  context.font = "10px Helvetica, Arial, sans-serif";
  context.textAlign = "left";
  const chosen = chosenBox(), visible = drawn.boxes.filter(seen);
  const outlined = box => {
    context.strokeStyle = box.border;
    context.lineWidth = box === chosen ? 5 : box.thick;
    context.strokeRect(box.x, box.y, box.w, box.h);
    if (box !== cursor) return;
    context.strokeStyle = "#1f5fa8";
    context.lineWidth = 2;
    context.setLineDash([5, 3]);
    context.strokeRect(box.x - 4, box.y - 4, box.w + 8, box.h + 8);
    context.setLineDash([]);
  };
  for (const box of visible.filter(box => box.inner)) {
    context.fillStyle = "rgba(110, 140, 175, 0.09)";
    context.fillRect(box.x, box.y, box.w, box.h);
    context.fillStyle = box.hits > 0 ? "#ffe066" : "rgba(110, 140, 175, 0.25)";
    context.fillRect(box.x, box.y, box.w, TITLE_HEIGHT);
    outlined(box);
    context.fillStyle = "#000000";
    if (isLegible) context.fillText(`− ${box.title}`, box.x + 6, box.y + 14);
  }
  const thin = 1 / Math.sqrt(look.scale);
  for (const edge of drawn.edges) {
    const { from, to } = edge, [top, bottom] = [Math.min(from.y + from.h, to.y), Math.max(from.y + from.h, to.y)];
    const [ax, bx] = [from.x + from.w / 2, to.x + to.w / 2];
    if (Math.max(ax, bx) < x0 || Math.min(ax, bx) > x1 || bottom < y0 || top > y1) continue;
    context.strokeStyle = edge.color;
    context.lineWidth = thin * Math.min(4, 1 + Math.log2(Math.max(1, edge.operands.length)) / 2);
    context.stroke(edge.path ||= curve(edge));
  }
  context.textAlign = "center";
  for (const box of visible.filter(box => !box.inner)) {
    context.fillStyle = box.hits > 0 ? "#ffe066" : box.fill;
    context.fillRect(box.x, box.y, box.w, box.h);
    outlined(box);
    if (!isLegible) continue;
    context.fillStyle = "#000000";
    box.lines.forEach((line, k) => context.fillText(line, box.x + box.w / 2, box.y + 16 + 13 * k));
    if (box.key !== undefined && box.number !== null) context.fillText("+", box.x + MARK / 2 + 2, box.y + 14);
  }
}

// Shows all of it, or from its top what can be read.
function fit(least = 0.4) {
  const { width, height } = canvas.getBoundingClientRect();
  look.scale = Math.min(1.5, Math.max(least, Math.min(width / (drawn.w + 40), height / (drawn.h + 40))));
  look.left = (width - drawn.w * look.scale) / 2;
  look.top = 10;
  draw();
}

function center(box) {
  const { width, height } = canvas.getBoundingClientRect();
  look.scale = Math.max(look.scale, 0.8);
  look.left = width / 2 - (box.x + box.w / 2) * look.scale;
  look.top = height / 2 - (box.y + (box.inner ? 0 : box.h / 2)) * look.scale;
  draw();
}

// Folds a box or unfolds it, where it stands on the screen.
function toggle(box) {
  folds.by.set(box.key, !box.open);
  const same = ({ key, on }) => key === box.key && on === box.on;
  const [x, y] = [box.x, box.y];
  arrange();
  const now = drawn.boxes.find(same);
  cursor = now;
  look.left += (x - now.x) * look.scale;
  look.top += (y - now.y) * look.scale;
  draw();
}

function foldAll(open) {
  folds.by.clear();
  folds.all = open;
  arrange();
  fit();
}

// The innermost box at a place of the drawing.
function boxAt(event) {
  const { left, top } = canvas.getBoundingClientRect();
  const x = (event.clientX - left - look.left) / look.scale, y = (event.clientY - top - look.top) / look.scale;
  const box = drawn.boxes.findLast(box => x >= box.x && x <= box.x + box.w && y >= box.y && y <= box.y + box.h);
  return { box, x: box && x - box.x, y: box && y - box.y };
}

// The edge at a place of the drawing.
function edgeAt(event) {
  const { left, top } = canvas.getBoundingClientRect(), dots = window.devicePixelRatio || 1;
  const [x, y] = [(event.clientX - left) * dots, (event.clientY - top) * dots];
  context.lineWidth = 8 / look.scale;
  return drawn.edges.find(edge => edge.operands.length > 0 && edge.path && context.isPointInStroke(edge.path, x, y));
}

// A click on a box: folded scopes and the marks of loops unfold, titles fold, nodes are chosen.
function press({ box, x, y }) {
  const isTitle = box.inner && y <= TITLE_HEIGHT, isMark = box.key !== undefined && (box.number === null || x <= MARK + 4);
  if (isTitle || !box.inner && isMark) toggle(box);
  else if (!box.inner && box.number !== null) select(box.number, box.on);
}

let drag = null;
canvas.onmousedown = event => { drag = { x: event.clientX, y: event.clientY, left: look.left, top: look.top, moved: false }; };
window.addEventListener("mouseup", event => {
  if (drag && !drag.moved && event.target === canvas) {
    const at = boxAt(event);
    if (at.box) press(at);
  }
  drag = null;
});
window.addEventListener("mousemove", event => {
  if (drag) {
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.moved ||= Math.abs(dx) + Math.abs(dy) > 3;
    [look.left, look.top] = [drag.left + dx, drag.top + dy];
    draw();
    return;
  }
  const isOver = event.target === canvas, { box } = isOver ? boxAt(event) : {}, tip = $("tip");
  const edge = isOver && (!box || box.inner) ? edgeAt(event) : undefined;
  tip.hidden = !box && !edge;
  if (tip.hidden) return;
  const { left, top } = canvas.getBoundingClientRect();
  tip.textContent = edge ? edgeHint(edge) : hint(box);
  tip.style.left = `${event.clientX - left + 14}px`;
  tip.style.top = `${event.clientY - top + 14}px`;
});
canvas.onwheel = event => {
  event.preventDefault();
  const { left, top } = canvas.getBoundingClientRect(), factor = Math.exp(-event.deltaY * 0.0015);
  const [x, y] = [event.clientX - left, event.clientY - top], scale = Math.min(4, Math.max(0.02, look.scale * factor));
  look.left = x - (x - look.left) * scale / look.scale;
  look.top = y - (y - look.top) * scale / look.scale;
  look.scale = scale;
  draw();
};
canvas.ondblclick = event => {
  const { box } = boxAt(event);
  const bodies = box && !box.inner && box.number !== null && !isPlan() ? sheetOf(box.on).nodes[box.number][BODIES] : [];
  if (bodies.length > 0) show(look.stage, bodies[0]);
};
// By keys: arrows go to the nearest box, Enter does what a click does, - folds the scope around.
canvas.onkeydown = event => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const at = cursor || chosenBox() || drawn.boxes[0];
  if (!at) return;
  if (way) move(at, way);
  else if (event.key === "Enter") press({ box: at, x: 0, y: 0 });
  else if (event.key === "-" && (at.inner ? at : at.around)) toggle(at.inner ? at : at.around);
  else return;
  event.preventDefault();
};
window.addEventListener("resize", draw);

// Takes the keys to the nearest box in a direction.
function move(from, [dx, dy]) {
  const middle = box => [box.x + box.w / 2, box.inner ? box.y : box.y + box.h / 2], [x, y] = middle(from);
  let least = Infinity;
  if (!cursor) cursor = from;
  for (const box of drawn.boxes) {
    const [mx, my] = middle(box), along = (mx - x) * dx + (my - y) * dy, aside = Math.abs((mx - x) * dy) + Math.abs((my - y) * dx);
    if (box !== from && along > 1 && along + 2 * aside < least) [least, cursor] = [along + 2 * aside, box];
  }
  const { width, height } = canvas.getBoundingClientRect(), [sx, sy] = [cursor.x * look.scale + look.left, cursor.y * look.scale + look.top];
  if (sx < 0 || sy < 0 || sx + cursor.w * look.scale > width || sy + (cursor.inner ? TITLE_HEIGHT : cursor.h) * look.scale > height) center(cursor);
  else draw();
}

const nameOf = box => box.title || box.lines[0].replace(/^\+ /, "");

function edgeHint({ from, to, operands, on }) {
  const lines = [`${operands.length === 1 ? "1 edge" : `${operands.length} edges`}: ${nameOf(from)} → ${nameOf(to)}`];
  const text = n => n < sheetOf(on).nodes.length ? nodeText(sheetOf(on).nodes[n], n) : `result ${sheetOf(on).results[n - sheetOf(on).nodes.length].name}`;
  if (operands.length === 1 && from.number !== null && to.number !== null) return lines[0];
  operands.slice(0, 8).forEach(([a, b]) => lines.push(`${text(a)} → ${text(b)}`));
  if (operands.length > 8) lines.push(`and ${operands.length - 8} more`);
  return lines.join("\n");
}

// What stands beside the pointer on a scope.
function scopeHint(box) {
  const scope = sheetOf(box.on).scopes[box.scope], lines = [scope[PATH], `${scope[N_NODES]} nodes, ${scope[N_PARAMS]} elements of parameters`];
  if (box.inner) return [...lines, "click on the title: fold"].join("\n");
  const sum = edges => edges.reduce((n, edge) => n + edge.operands.length, 0);
  lines.push(`${sum(drawn.edges.filter(edge => edge.to === box))} edges in, ${sum(drawn.edges.filter(edge => edge.from === box))} out`);
  if (box.nAdded > 0) lines.push(`${box.nAdded} nodes added by this pass`);
  if (box.nGoing > 0) lines.push(`${box.nGoing} nodes removed by the next pass`);
  if (box.nKernels > 0) lines.push(`nodes of ${box.nKernels === 1 ? "one kernel" : `${box.nKernels} kernels`}`);
  if (box.hits > 0) lines.push(`${box.hits} found inside`);
  return [...lines, "click: unfold"].join("\n");
}

// What stands beside the pointer on a box.
function hint(box) {
  if (box.scope !== undefined) return scopeHint(box);
  if (box.number === null) return `result ${box.lines[0]}`;
  if (isPlan()) return part().steps[box.number].text;
  const row = sheetOf(box.on).nodes[box.number], node = info(row), lines = [`${nodeText(row, box.number)} : ${node[TYPE]}`];
  if (node[ATTRS]) lines.push(node[ATTRS]);
  if (node[LINES].length > 0) lines.push(`at ${node[LINES].join(", ")}`);
  if (node[RULE]) lines.push(`made by ${node[RULE]}`);
  for (const [title, map] of [["its derivative", derivativeOf], ["in the derivative of", partOfDerivative]]) {
    const found = counterparts(row[UID], map);
    const text = ([on, n]) => nodeText(sheetOf(on).nodes[n], n);
    if (found.length > 0) lines.push(`${title}: ${found.slice(0, 4).map(text).join(", ")}${found.length > 4 ? ", …" : ""}`);
  }
  const p = look.stage === FUSED && partOf(box.on);
  if (p) {
    if (p.kernelOf.has(box.number)) lines.push(`in kernel ${p.kernelOf.get(box.number)}`);
    for (const [from, to, , text] of p.edges.filter(edge => edge[1] === box.number)) lines.push(`← %${from}: ${p.verdicts[text]}`);
  }
  if (row[BODIES].length > 0) lines.push(box.inner ? "click on the title: fold" : "click on +: unfold the body here; double click: open it alone");
  return lines.join("\n");
}

