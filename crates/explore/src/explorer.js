// The explorer: draws the sheets of a program on a canvas and fills the panels beside it.
//
// `data` is what page.rs writes. A stage has sheets (the graph, then bodies); a node of a sheet is a row
// [uid, left, top, width, height, operands, bodies], where operands are numbers on the same sheet. Behind the last
// stage comes the plan, where a box is a step. Text from the program is only ever set as text, never as HTML.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const [OP, NAME, TYPE, ATTRS, LINES, RULE, COLOR] = [0, 1, 2, 3, 4, 5, 6];
const [UID, X, Y, W, H, OPERANDS, BODIES] = [0, 1, 2, 3, 4, 5, 6];
const KERNEL_COLORS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f"];
const PLAN = data.stages.length; // the slider's place behind the last stage
const FUSED = PLAN - 1; // the stage that is planned

// What is looked at.
const look = { stage: null, sheet: 0, node: null, step: null, tab: "Node", scale: 1, left: 0, top: 0, hits: new Set() };

const isPlan = () => look.stage === PLAN;
const stage = () => data.stages[Math.min(look.stage, FUSED)];
const sheet = () => stage().sheets[look.sheet] || stage().sheets[0];
const partOf = number => data.parts.find(part => part.sheet === number);
const part = () => partOf(look.sheet) || data.parts[0];
const kernelColor = kernel => KERNEL_COLORS[kernel % KERNEL_COLORS.length];
const info = row => data.nodes[row[UID]];
const nodeText = (row, number) => `%${number} ${info(row)[OP]}${info(row)[NAME] === null ? "" : " " + info(row)[NAME]}`;

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${unit === 0 ? n : n.toFixed(1)} ${units[unit]}`;
}

const micros = us => us === null || us === undefined ? "" : `${us.toFixed(2)} µs`;

// ---- What is derived of the data once

// For each part: the kernel of each number, the verdicts by reader and operand.
for (const p of data.parts) {
  p.kernelOf = new Map();
  p.clusters.forEach((members, kernel) => members.forEach(n => p.kernelOf.set(n, kernel)));
  p.verdictOf = new Map(p.edges.map(edge => [`${edge[0]} ${edge[1]}`, edge]));
}

// The readers of each number of a sheet.
function readers(of) {
  if (!of.readers) {
    of.readers = of.nodes.map(() => []);
    of.nodes.forEach((row, n) => row[OPERANDS].forEach(operand => of.readers[operand].push(n)));
  }
  return of.readers;
}

// What the derivative rule of each node made, and whose derivative a node is part of, by uid.
const [derivativeOf, partOfDerivative] = [new Map(), new Map()];
for (const [of, is] of data.derivatives) {
  for (const [map, key, value] of [[derivativeOf, of, is], [partOfDerivative, is, of]]) {
    if (!map.has(key)) map.set(key, []);
    map.get(key).push(value);
  }
}
const DERIVED = data.stages.findIndex(s => s.pass === "differentiate");

// What a node of the stage of `differentiate` or before has become at a later one; undefined if it went without a successor.
function become(uid, at) {
  for (let k = Math.min(DERIVED, at); k <= at; k += 1) {
    if (place(k).has(uid)) continue;
    const successors = data.stages[k].successors ||= new Map(data.stages[k].replaced);
    uid = successors.get(uid);
    if (uid === undefined) return undefined;
  }
  return uid;
}

// What the nodes of a stage were when they were differentiated.
function were(at) {
  const of = data.stages[at];
  if (!of.were) {
    of.were = new Map();
    for (const uid of new Set([...derivativeOf.keys(), ...partOfDerivative.keys()])) {
      const is = become(uid, at);
      if (!of.were.has(is)) of.were.set(is, []);
      of.were.get(is).push(uid);
    }
  }
  return of.were;
}

// Where counterparts of a node are at this stage, [sheet, number] each: those of what it was when it was differentiated.
function counterparts(uid, map) {
  if (DERIVED < 0 || look.stage < DERIVED || isPlan()) return [];
  const was = (were(look.stage).get(uid) || []).filter(known => map.has(known));
  const are = new Set(was.flatMap(known => map.get(known)).map(other => become(other, look.stage)));
  are.delete(undefined);
  are.delete(uid);
  return [...are].map(other => place(look.stage).get(other)).filter(found => found !== undefined);
}

// ---- Small pieces of the page

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function add(parent, tag, text, attributes) {
  return parent.appendChild(element(tag, text, attributes));
}

// A link to a node of the sheet that is shown, or of the stage that it belongs to.
function link(parent, number, at = look.stage, on = look.sheet) {
  const row = data.stages[Math.min(at, FUSED)].sheets[on].nodes[number];
  const made = add(parent, "a", `${nodeText(row, number)} : ${info(row)[TYPE]}`, { class: "node" });
  made.onclick = () => { show(Math.min(at, FUSED), on); select(number); };
  return made;
}

function table(parent, heads, rows) {
  const made = add(parent, "table");
  const head = add(made, "tr");
  heads.forEach(text => add(head, "th", text));
  for (const cells of rows) {
    const line = add(made, "tr");
    for (const cell of cells) {
      const isNumber = typeof cell === "string" && /^[\d.]+( [KMG]?i?B| µs)?$/.test(cell);
      const place = add(line, "td", undefined, isNumber ? { class: "number" } : {});
      if (typeof cell === "function") cell(place); else place.textContent = cell;
    }
  }
  return made;
}

// ---- The canvas

const canvas = $("canvas");
const context = canvas.getContext("2d");

// The boxes of what is shown: { x, y, w, h, lines, fill, border, thick, number }.
function boxes() {
  if (isPlan()) {
    const p = part();
    return p.picture.boxes.map(([label, x, y, w, h], number) => {
      const kernel = p.steps[number].kernel;
      const border = kernel === null ? "#333333" : kernelColor(kernel);
      return { x, y, w, h, lines: [label], fill: "#ffffff", border, thick: 2, number };
    });
  }
  const here = stage(), added = here.addedSet ||= new Set(here.added);
  const next = data.stages[look.stage + 1];
  const going = next ? next.removedSet ||= new Set(next.removed) : new Set();
  const kernels = look.stage === FUSED ? (partOf(look.sheet) || {}).kernelOf : undefined;
  const made = sheet().nodes.map((row, number) => {
    const node = info(row), kernel = kernels && kernels.get(number);
    let border = "#666666", thick = 1;
    if (kernel !== undefined) [border, thick] = [kernelColor(kernel), 3];
    else if (added.has(row[UID])) [border, thick] = ["#1a7f37", 3];
    else if (going.has(row[UID])) [border, thick] = ["#b03a2e", 3];
    return { x: row[X], y: row[Y], w: row[W], h: row[H], lines: [nodeText(row, number), node[TYPE]], fill: node[COLOR], border, thick, number };
  });
  for (const output of sheet().outputs.filter(output => output.at)) {
    const [x, y, w, h] = output.at;
    made.push({ x, y, w, h, lines: [output.name], fill: "#ffffff", border: "#333333", thick: 1, number: null, value: output.value });
  }
  return made;
}

// The edges of what is shown, from box to box: [from, to, color].
function edges(of) {
  if (isPlan()) return part().picture.edges.map(([from, to]) => [of[from], of[to], "#999999"]);
  const verdicts = look.stage === FUSED ? (partOf(look.sheet) || {}).verdictOf : undefined;
  const found = [];
  sheet().nodes.forEach((row, to) => row[OPERANDS].forEach(from => {
    const verdict = verdicts && verdicts.get(`${from} ${to}`);
    found.push([of[from], of[to], verdict ? (verdict[2] ? "#1a7f37" : "#b03a2e") : "#999999"]);
  }));
  of.filter(box => box.value !== undefined).forEach(box => found.push([of[box.value], box, "#999999"]));
  return found;
}

let drawn = { boxes: [], edges: [] };

function draw() {
  const { width, height } = canvas.getBoundingClientRect(), dots = window.devicePixelRatio || 1;
  canvas.width = width * dots;
  canvas.height = height * dots;
  context.setTransform(dots * look.scale, 0, 0, dots * look.scale, dots * look.left, dots * look.top);
  const [x0, y0, x1, y1] = [-look.left, -look.top, width - look.left, height - look.top].map(v => v / look.scale);
  const seen = box => box.x < x1 && box.x + box.w > x0 && box.y < y1 && box.y + box.h > y0;
  context.lineWidth = 1 / Math.sqrt(look.scale);
  for (const [from, to, color] of drawn.edges) {
    const [ax, ay, bx, by] = [from.x + from.w / 2, from.y + from.h, to.x + to.w / 2, to.y];
    if (Math.max(ax, bx) < x0 || Math.min(ax, bx) > x1 || by < y0 || ay > y1) continue;
    const middle = (ay + by) / 2;
    context.strokeStyle = color;
    context.beginPath();
    context.moveTo(ax, ay);
    context.bezierCurveTo(ax, middle, bx, middle, bx, by);
    context.stroke();
  }
  context.font = "10px Helvetica, Arial, sans-serif";
  context.textAlign = "center";
  const chosen = isPlan() ? look.step : look.node;
  for (const box of drawn.boxes.filter(seen)) {
    context.fillStyle = look.hits.has(box.number) ? "#ffe066" : box.fill;
    context.strokeStyle = box.border;
    context.lineWidth = box.number !== null && box.number === chosen ? 5 : box.thick;
    context.beginPath();
    context.rect(box.x, box.y, box.w, box.h);
    context.fill();
    context.stroke();
    // Text that nobody could read takes most of the time.
    if (look.scale < 0.35) continue;
    context.fillStyle = "#000000";
    box.lines.forEach((line, k) => context.fillText(line, box.x + box.w / 2, box.y + 16 + 13 * k));
  }
}

// Shows all of it, or from its top what can be read.
function fit(least = 0.4) {
  const of = isPlan() ? part().picture : sheet();
  const { width, height } = canvas.getBoundingClientRect();
  look.scale = Math.min(1.5, Math.max(least, Math.min(width / (of.width + 40), height / (of.height + 40))));
  look.left = (width - of.width * look.scale) / 2;
  look.top = 10;
  draw();
}

function center(box) {
  const { width, height } = canvas.getBoundingClientRect();
  look.scale = Math.max(look.scale, 0.8);
  look.left = width / 2 - (box.x + box.w / 2) * look.scale;
  look.top = height / 2 - (box.y + box.h / 2) * look.scale;
  draw();
}

function boxAt(event) {
  const { left, top } = canvas.getBoundingClientRect();
  const x = (event.clientX - left - look.left) / look.scale, y = (event.clientY - top - look.top) / look.scale;
  return drawn.boxes.find(box => x >= box.x && x <= box.x + box.w && y >= box.y && y <= box.y + box.h);
}

let drag = null;
canvas.onmousedown = event => { drag = { x: event.clientX, y: event.clientY, left: look.left, top: look.top, moved: false }; };
window.addEventListener("mouseup", event => {
  if (drag && !drag.moved && event.target === canvas) {
    const box = boxAt(event);
    if (box && box.number !== null) select(box.number);
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
  const box = event.target === canvas ? boxAt(event) : undefined, tip = $("tip");
  tip.hidden = !box;
  if (!box) return;
  const { left, top } = canvas.getBoundingClientRect();
  tip.textContent = hint(box);
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
  const box = boxAt(event);
  const bodies = box && box.number !== null && !isPlan() ? sheet().nodes[box.number][BODIES] : [];
  if (bodies.length > 0) show(look.stage, bodies[0]);
};
window.addEventListener("resize", draw);

// What stands beside the pointer.
function hint(box) {
  if (box.number === null) return `result ${box.lines[0]}`;
  if (isPlan()) return part().steps[box.number].text;
  const row = sheet().nodes[box.number], node = info(row), lines = [`${nodeText(row, box.number)} : ${node[TYPE]}`];
  if (node[ATTRS]) lines.push(node[ATTRS]);
  if (node[LINES].length > 0) lines.push(`at ${node[LINES].join(", ")}`);
  if (node[RULE]) lines.push(`made by ${node[RULE]}`);
  for (const [title, map] of [["its derivative", derivativeOf], ["in the derivative of", partOfDerivative]]) {
    const found = counterparts(row[UID], map);
    const text = ([on, n]) => nodeText(stage().sheets[on].nodes[n], n);
    if (found.length > 0) lines.push(`${title}: ${found.slice(0, 4).map(text).join(", ")}${found.length > 4 ? ", …" : ""}`);
  }
  const p = look.stage === FUSED && partOf(look.sheet);
  if (p) {
    if (p.kernelOf.has(box.number)) lines.push(`in kernel ${p.kernelOf.get(box.number)}`);
    for (const [from, to, , text] of p.edges.filter(edge => edge[1] === box.number)) lines.push(`← %${from}: ${p.verdicts[text]}`);
  }
  if (row[BODIES].length > 0) lines.push("double click: open the body");
  return lines.join("\n");
}

// ---- Panels

const panels = {
  Node(to) {
    if (isPlan()) return stepPanel(to);
    if (look.node === null) { add(to, "p", "Click a node. Drag to move, turn the wheel to zoom; a double click opens a loop's body."); return; }
    const number = look.node, row = sheet().nodes[number], node = info(row);
    add(to, "h3", nodeText(row, number));
    add(to, "p", node[TYPE]);
    if (node[ATTRS]) add(to, "p", node[ATTRS]);
    if (node[LINES].length > 0) add(to, "p", `at ${node[LINES].join(", ")}`);
    const values = data.values && look.stage === FUSED && look.sheet === 0 && data.values[number];
    if (values) {
      const [least, mean, most, deviation, zero, wild, n] = values, short = x => x === null ? "none" : Number(x.toPrecision(4));
      add(to, "p", `${n} elements from ${short(least)} to ${short(most)}, mean ${short(mean)}, deviation ${short(deviation)}; ${zero} are zero, ${wild} infinite or NaN`);
    }
    const first = data.stages.findIndex(s => s.sheets.some(of => of.nodes.some(other => other[UID] === row[UID])));
    add(to, "p", first === 0 ? "of the source" : `first seen after ${data.stages[first].pass} (stage ${first})${node[RULE] ? `, made by ${node[RULE]}` : ""}`);
    list(to, "operands", row[OPERANDS], n => p => link(p, n));
    list(to, "readers", readers(sheet())[number], n => p => link(p, n));
    list(to, "its derivative", counterparts(row[UID], derivativeOf), ([on, n]) => p => link(p, n, look.stage, on));
    list(to, "in the derivative of", counterparts(row[UID], partOfDerivative), ([on, n]) => p => link(p, n, look.stage, on));
    if (row[BODIES].length > 0) {
      const open = add(add(to, "p"), "a", "open the body", { class: "node" });
      open.onclick = () => show(look.stage, row[BODIES][0]);
    }
    const p = look.stage === FUSED && partOf(look.sheet);
    if (!p) return;
    const kernel = p.kernelOf.get(number);
    if (kernel !== undefined) list(to, `kernel ${kernel}`, p.clusters[kernel], n => q => link(q, n));
    verdicts(to, "reads", p, p.edges.filter(edge => edge[1] === number), 0);
    verdicts(to, "is read by", p, p.edges.filter(edge => edge[0] === number), 1);
    p.forced.filter(([n]) => n === number).forEach(([, why]) => add(to, "p", `has memory of its own: ${why}`));
  },

  Changes(to) {
    const here = stage();
    if (look.stage === 0) { add(to, "p", "The graph as it came to the passes."); return; }
    if (isPlan()) { add(to, "p", "Behind the last pass: kernels and steps."); return; }
    add(to, "p", `${here.pass}: ${here.added.length} nodes more, ${here.removed.length} fewer`);
    const byRule = new Map();
    here.added.forEach(uid => byRule.set(data.nodes[uid][RULE] || here.pass, (byRule.get(data.nodes[uid][RULE] || here.pass) || 0) + 1));
    table(to, ["rule", "nodes"], [...byRule].sort().map(([rule, n]) => [rule, String(n)]));
    const text = uid => `${data.nodes[uid][OP]} : ${data.nodes[uid][TYPE]}`;
    const now = place(look.stage), before = place(look.stage - 1);
    const go = (uid, at, where) => p => where.has(uid) ? link(p, where.get(uid)[1], at, where.get(uid)[0]) : add(p, "span", text(uid));
    add(to, "h3", "replaced");
    table(to, ["before", "after", "rule"], here.replaced.map(([old, is]) =>
      [go(old, look.stage - 1, before), go(is, look.stage, now), data.nodes[is][RULE] || here.pass]));
    list(to, "added", here.added, uid => go(uid, look.stage, now));
    list(to, "removed", here.removed, uid => go(uid, look.stage - 1, before));
  },

  Steps(to) {
    const p = part(), isMeasured = p.steps.some(step => step.measured !== null);
    const total = key => p.steps.reduce((sum, step) => sum + (step[key] || 0), 0);
    add(to, "p", `${p.steps.length} steps, predicted ${micros(total("predicted"))} on one thread` + (isMeasured ? `, measured ${micros(total("measured"))} on ${data.threads}` : ""));
    table(to, ["", "step", "bytes", "predicted"].concat(isMeasured ? ["measured"] : []), p.steps.map((step, s) =>
      [String(s), stepLink(s), bytes(step.bytes), micros(step.predicted)].concat(isMeasured ? [micros(step.measured)] : [])));
    if (data.tried) { add(to, "h3", "ways tried"); add(to, "pre", data.tried); }
  },

  Roofline(to) {
    const isMeasured = data.threads !== null;
    add(to, "p", `Each circle is a step, its area the step's share of the time, which is ${isMeasured ? `measured on ${data.threads} thread${data.threads === 1 ? "" : "s"}` : "predicted"}. The lines are what the target allows on one thread. A click leads to the step.`);
    chart(to, data.roofline);
  },

  Timeline(to) {
    if (data.timeline === null) { add(to, "p", "Nothing was measured: `cotangent explore --measure`."); return; }
    add(to, "p", "One run of the program: above what the caller went through step by step, in the rows below it each thread's shares of steps that are divided.");
    chart(to, data.timeline);
  },

  Kernels(to) {
    const p = part();
    p.kernels.forEach((text, k) => {
      const callers = p.steps.map((step, s) => step.calls.includes(k) ? s : null).filter(s => s !== null);
      add(to, "p", `called by step ${callers.join(", ")}`);
      add(to, "pre", text);
      codeOf(to, p.code[k]);
    });
  },

  Products(to) {
    const made = part().steps.map((step, s) => [step, s]).filter(([step]) => step.product !== null);
    if (made.length === 0) add(to, "p", "There are none here.");
    for (const [step, s] of made) {
      stepLink(s)(add(to, "p"));
      add(to, "pre", step.product);
    }
  },

  Memory(to) {
    const p = part();
    add(to, "p", `arena ${bytes(p.arena)}, without sharing ${bytes(p.figures.unshared)}; most is in use at step ${p.peak.step}: ${bytes(p.peak.bytes)}`);
    chart(to, p.memory);
    add(to, "p", "From left to right the steps, from top to bottom the arena; alive at the peak: red.", { class: "faint" });
    add(to, "h3", "alive at the peak");
    table(to, ["", "buffer", "size"], p.peak.live.map(b => [`b${b}`, p.buffers[b].name, bytes(p.buffers[b].bytes)]));
    add(to, "h3", "all buffers");
    table(to, ["", "buffer", "size", "where", "steps"], p.buffers.map((buffer, b) =>
      [`b${b}`, buffer.name, bytes(buffer.bytes), buffer.home, `${buffer.live[0]}..${buffer.live[1]}`]));
  },

  "Fused or not"(to) {
    const sides = [["fused", data.parts[0]], ["unfused", data.unfused]];
    table(to, ["", "steps", "kernels", "products", "arena", "moved a step"], sides.map(([name, p]) =>
      [name, ...["steps", "kernels", "products"].map(key => String(p.figures[key])), bytes(p.figures.arena), bytes(p.figures.moved)]));
    const both = table(to, ["fused", "unfused"], [sides.map(([, p]) => cell =>
      table(cell, ["", "step", "predicted"], p.steps.map((step, s) => [String(s), step.text, micros(step.predicted)])))]);
    both.id = "sides";
  },
};

// Who made a kernel's code, and the code, folded.
function codeOf(to, code) {
  add(to, "p", `${bytes(code.bytes)} of machine code, ${code.by}`, { class: "faint" });
  for (const [name, text] of [["CLIF", code.clif], ["machine code", code.listing]]) {
    if (text === null) continue;
    const folded = add(to, "details");
    add(folded, "summary", name);
    add(folded, "pre", text);
  }
}

// A chart that the exporter drew, its text escaped there; a click on a step's mark leads to the step.
function chart(to, svg) {
  const made = add(to, "div", undefined, { class: "chart" });
  made.innerHTML = svg;
  for (const mark of made.querySelectorAll("[data-step]")) {
    mark.onclick = () => { show(PLAN, look.sheet); select(Number(mark.dataset.step)); };
  }
}

function list(to, title, items, make) {
  const MOST = 400;
  if (items.length === 0) return;
  add(to, "h3", `${title} (${items.length})`);
  items.slice(0, MOST).forEach(item => make(item)(add(to, "p")));
  if (items.length > MOST) add(to, "p", `and ${items.length - MOST} more`, { class: "faint" });
}

function verdicts(to, title, p, found, other) {
  list(to, title, found, edge => place => {
    link(place, edge[other]);
    add(place, "div", p.verdicts[edge[3]], { class: edge[2] ? "fused" : "kept" });
  });
}

function stepLink(s) {
  return place => {
    const made = add(place, "a", part().steps[s].text, { class: "node" });
    made.onclick = () => { show(PLAN, look.sheet); select(s); };
  };
}

// What a step computes and moves in a second, by the measured time or else by the predicted one.
function rates(step) {
  const time = step.measured || step.predicted, giga = amount => (amount / time * 1e-3).toFixed(1);
  return `${giga(step.flop)} GFLOP/s, ${giga(step.bytes)} GB/s, ${(100 * step.least / time).toFixed(0)} % of the roofline`;
}

function stepPanel(to) {
  if (look.step === null) { add(to, "p", "Each box is a step of the plan: a kernel, a product with the kernel that finishes it, a loop. Click one; move the slider to see the graph and what each pass did."); return; }
  const p = part(), s = look.step, step = p.steps[s];
  add(to, "h3", `step ${s}`);
  add(to, "p", step.text);
  add(to, "p", `${bytes(step.bytes)}${step.predicted === null ? "" : `, predicted ${micros(step.predicted)}`}${step.measured === null ? "" : `, measured ${micros(step.measured)}`}`);
  if (step.flop !== undefined) add(to, "p", rates(step));
  if (step.product !== null) add(to, "pre", step.product);
  const members = step.kernel === null ? [step.node] : p.clusters[step.kernel];
  list(to, step.kernel === null ? "node" : `kernel ${step.kernel}`, members.filter(n => n !== null), n => q => link(q, n, FUSED));
  const buffer = b => q => add(q, "span", `b${b} ${p.buffers[b].name}: ${p.buffers[b].type}, ${p.buffers[b].home}`);
  list(to, "reads", step.reads, buffer);
  list(to, "writes", step.writes, buffer);
  step.calls.forEach(k => { add(to, "pre", p.kernels[k]); codeOf(to, p.code[k]); });
}

// Where each uid of a stage is: [sheet, number].
function place(at) {
  const of = data.stages[at];
  of.place ||= new Map(of.sheets.flatMap((s, k) => s.nodes.map((row, n) => [row[UID], [k, n]])));
  return of.place;
}

// ---- What is shown

function show(at, on) {
  const keep = look.node !== null && !isPlan() && sheet().nodes[look.node] ? sheet().nodes[look.node][UID] : null;
  const isSame = look.stage === at && look.sheet === on;
  look.stage = at;
  const sheets = data.stages[Math.min(at, FUSED)].sheets;
  look.sheet = on < sheets.length && (at !== PLAN || partOf(on)) ? on : 0;
  if (!isSame) {
    const stays = at === PLAN ? undefined : place(at).get(keep);
    look.node = stays && stays[0] === look.sheet ? stays[1] : null;
    look.step = null;
  }
  $("slider").value = at;
  $("stage").textContent = at === PLAN ? `plan: ${part().steps.length} steps` : `${at} ${stage().pass}: ${look.sheet === 0 ? `${stage().n_nodes} nodes, ${sheet().nodes.length} of them needed` : `${sheet().nodes.length} nodes`}`;
  const choice = $("sheet");
  choice.replaceChildren();
  sheets.forEach((of, k) => { if (at !== PLAN || partOf(k)) add(choice, "option", k === 0 ? `@${of.name}` : `body @${of.name}`, { value: k }); });
  choice.value = look.sheet;
  drawn.boxes = boxes();
  drawn.edges = edges(drawn.boxes);
  search();
  if (isSame) draw(); else fit();
  fill();
}

function select(number) {
  if (isPlan()) look.step = number; else look.node = number;
  look.tab = "Node";
  fill();
  const box = drawn.boxes[number];
  if (box) center(box);
}

function fill() {
  for (const button of $("tabs").children) button.className = button.textContent === look.tab ? "open" : "";
  $("panel").replaceChildren();
  panels[look.tab]($("panel"));
}

function search() {
  const wanted = $("search").value.trim().toLowerCase();
  look.hits = new Set();
  if (wanted) {
    const text = isPlan() ? n => part().steps[n].text : n => {
      const row = sheet().nodes[n], node = info(row);
      return [nodeText(row, n), node[TYPE], node[ATTRS], node[RULE] || "", ...node[LINES]].join(" ");
    };
    const n = isPlan() ? part().steps.length : sheet().nodes.length;
    for (let k = 0; k < n; k += 1) if (text(k).toLowerCase().includes(wanted)) look.hits.add(k);
  }
  $("hits").textContent = wanted ? `${look.hits.size} found` : "";
}

$("search").oninput = () => { search(); draw(); };
$("search").onkeydown = event => {
  if (event.key !== "Enter" || look.hits.size === 0) return;
  const hits = [...look.hits], chosen = isPlan() ? look.step : look.node;
  const next = hits.find(n => chosen !== null && n > chosen);
  select(next === undefined ? hits[0] : next);
};
$("slider").max = PLAN;
$("slider").oninput = event => show(Number(event.target.value), look.sheet);
$("sheet").onchange = event => show(look.stage, Number(event.target.value));
$("fit").onclick = () => fit(0.02);
$("title").textContent = `@${data.name}`;
document.title = `@${data.name}`;
for (const name of Object.keys(panels)) add($("tabs"), "button", name).onclick = () => { look.tab = name; fill(); };
show(PLAN, 0);
