// The explorer: what a program's data say, and small pieces of the page. drawing.js puts the sheets on a canvas, panels.js fills what
// is beside it.
//
// `data` is what page.rs writes. A stage has sheets (the graph, then bodies); a node of a sheet is a row
// [uid, width, height, operands, bodies], where operands are numbers on the same sheet. A scope is a row
// [name, path, number of the scope around it, nodes, parameters, width, height, rows of items], where an item is a node or, as -1 - n,
// scope n; scope 0 is the sheet. Behind the last stage comes the plan, where a box is a step. Text from the program is only ever set as
// text, never as HTML.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const [OP, NAME, TYPE, ATTRS, LINES, RULE, COLOR] = [0, 1, 2, 3, 4, 5, 6];
const [UID, W, H, OPERANDS, BODIES] = [0, 1, 2, 3, 4];
const [TITLE, PATH, AROUND, N_NODES, N_PARAMS, WIDE, HIGH, ROWS] = [0, 1, 2, 3, 4, 5, 6, 7];
const KERNEL_COLORS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f"];
const PLAN = data.stages.length; // the slider's place behind the last stage
const FUSED = PLAN - 1; // the stage that is planned

// What is looked at: the chosen node is number `node` of sheet `on`, which is the one that is shown or unfolded in it.
const look = { stage: null, sheet: 0, node: null, on: 0, step: null, tab: "Node", scale: 1, left: 0, top: 0, hits: [] };

const isPlan = () => look.stage === PLAN;
const stage = () => data.stages[Math.min(look.stage, FUSED)];
const sheet = () => stage().sheets[look.sheet] || stage().sheets[0];
const sheetOf = on => stage().sheets[on];
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

// Where each uid of a stage is: [sheet, number].
function place(at) {
  const of = data.stages[at];
  of.place ||= new Map(of.sheets.flatMap((s, k) => s.nodes.map((row, n) => [row[UID], [k, n]])));
  return of.place;
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

// A link to a node, at first of the sheet that the chosen one is on.
function link(parent, number, at = look.stage, on = look.on) {
  const row = data.stages[Math.min(at, FUSED)].sheets[on].nodes[number];
  const made = add(parent, "a", `${nodeText(row, number)} : ${info(row)[TYPE]}`, { class: "node" });
  made.onclick = () => go(Math.min(at, FUSED), on, number);
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

