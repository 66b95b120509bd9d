// ---- Panels

const panels = {
  Node(to) {
    if (isPlan()) return stepPanel(to);
    if (look.node === null) { add(to, "p", "Click a node. Drag to move, turn the wheel to zoom; a double click opens a loop's body. A click on a scope or on a loop's + unfolds it, one on its title folds it; by keys: arrows, Enter, and - for the scope around."); return; }
    const number = look.node, on = look.on, row = sheetOf(on).nodes[number], node = info(row);
    add(to, "h3", nodeText(row, number));
    add(to, "p", node[TYPE]);
    if (node[ATTRS]) add(to, "p", node[ATTRS]);
    if (node[LINES].length > 0) add(to, "p", `at ${node[LINES].join(", ")}`);
    const values = data.values && look.stage === FUSED && on === 0 && data.values[number];
    if (values) {
      const [least, mean, most, deviation, zero, wild, n] = values, short = x => x === null ? "none" : Number(x.toPrecision(4));
      add(to, "p", `${n} elements from ${short(least)} to ${short(most)}, mean ${short(mean)}, deviation ${short(deviation)}; ${zero} are zero, ${wild} infinite or NaN`);
    }
    const first = data.stages.findIndex(s => s.sheets.some(of => of.nodes.some(other => other[UID] === row[UID])));
    add(to, "p", first === 0 ? "of the source" : `first seen after ${data.stages[first].pass} (stage ${first})${node[RULE] ? `, made by ${node[RULE]}` : ""}`);
    list(to, "operands", row[OPERANDS], n => p => link(p, n));
    list(to, "readers", readers(sheetOf(on))[number], n => p => link(p, n));
    list(to, "its derivative", counterparts(row[UID], derivativeOf), ([sheet, n]) => p => link(p, n, look.stage, sheet));
    list(to, "in the derivative of", counterparts(row[UID], partOfDerivative), ([sheet, n]) => p => link(p, n, look.stage, sheet));
    if (row[BODIES].length > 0) {
      const open = add(add(to, "p"), "a", "open the body", { class: "node" });
      open.onclick = () => show(look.stage, row[BODIES][0]);
    }
    const p = look.stage === FUSED && partOf(on);
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
  list(to, step.kernel === null ? "node" : `kernel ${step.kernel}`, members.filter(n => n !== null), n => q => link(q, n, FUSED, look.sheet));
  const buffer = b => q => add(q, "span", `b${b} ${p.buffers[b].name}: ${p.buffers[b].type}, ${p.buffers[b].home}`);
  list(to, "reads", step.reads, buffer);
  list(to, "writes", step.writes, buffer);
  step.calls.forEach(k => { add(to, "pre", p.kernels[k]); codeOf(to, p.code[k]); });
}

// ---- What is shown

function show(at, on) {
  const keep = look.node !== null && !isPlan() ? sheetOf(look.on).nodes[look.node][UID] : null;
  const isSame = look.stage === at && look.sheet === on;
  look.stage = at;
  const sheets = data.stages[Math.min(at, FUSED)].sheets;
  look.sheet = on < sheets.length && (at !== PLAN || partOf(on)) ? on : 0;
  if (!isSame) {
    const stays = at === PLAN || keep === null ? undefined : place(at).get(keep);
    [look.on, look.node] = stays && isUnder(stays[0]) ? stays : [look.sheet, null];
    look.step = null;
  }
  $("slider").value = at;
  $("stage").textContent = at === PLAN ? `plan: ${part().steps.length} steps` : `${at} ${stage().pass}: ${look.sheet === 0 ? `${stage().n_nodes} nodes, ${sheet().nodes.length} of them needed` : `${sheet().nodes.length} nodes`}`;
  const choice = $("sheet");
  choice.replaceChildren();
  sheets.forEach((of, k) => { if (at !== PLAN || partOf(k)) add(choice, "option", k === 0 ? `@${of.name}` : `body @${of.name}`, { value: k }); });
  choice.value = look.sheet;
  for (const id of ["fold", "unfold"]) $(id).disabled = isPlan();
  search();
  arrange();
  if (isSame) draw(); else fit();
  fill();
}

// Chooses a step, or a node of a sheet; what is folded around it is unfolded.
function select(number, on = look.sheet) {
  if (isPlan()) look.step = number;
  else {
    [look.on, look.node] = [on, number];
    if (reveal(on, number)) arrange();
  }
  look.tab = "Node";
  fill();
  const box = chosenBox();
  if (box) center(box);
}

// Goes to a node of any sheet of a stage.
function go(at, on, number) {
  if (look.stage !== at) show(at, look.sheet);
  if (!isUnder(on)) show(at, on);
  select(number, on);
}

function fill() {
  for (const button of $("tabs").children) button.className = button.textContent === look.tab ? "open" : "";
  $("panel").replaceChildren();
  panels[look.tab]($("panel"));
}

// Finds steps, or nodes of the sheet that is shown and of the bodies inside of it.
function search() {
  const wanted = $("search").value.trim().toLowerCase(), found = [];
  const text = row => {
    const node = info(row);
    return [node[OP], node[NAME] || "", node[TYPE], node[ATTRS], node[RULE] || "", ...node[LINES]].join(" ");
  };
  const isHit = text => text.toLowerCase().includes(wanted);
  if (wanted && isPlan()) part().steps.forEach((step, s) => { if (isHit(step.text)) found.push([look.sheet, s]); });
  if (wanted && !isPlan()) {
    const under = [...stage().sheets.keys()].filter(isUnder);
    for (const on of [look.sheet, ...under.filter(on => on !== look.sheet)]) {
      sheetOf(on).nodes.forEach((row, n) => { if (isHit(`%${n} ${text(row)}`)) found.push([on, n]); });
    }
  }
  look.hits = found;
  $("hits").textContent = wanted ? `${found.length} found` : "";
}

$("search").oninput = () => { search(); mark(); draw(); };
$("search").onkeydown = event => {
  if (event.key !== "Enter" || look.hits.length === 0) return;
  const chosen = isPlan() ? look.step : look.node;
  const at = look.hits.findIndex(([on, n]) => n === chosen && (isPlan() || on === look.on));
  const [on, n] = look.hits[(at + 1) % look.hits.length];
  select(n, on);
};
$("slider").max = PLAN;
$("slider").oninput = event => show(Number(event.target.value), look.sheet);
$("sheet").onchange = event => show(look.stage, Number(event.target.value));
$("fit").onclick = () => fit(0.02);
$("fold").onclick = () => foldAll(false);
$("unfold").onclick = () => foldAll(true);
$("title").textContent = `@${data.name}`;
document.title = `@${data.name}`;
for (const name of Object.keys(panels)) add($("tabs"), "button", name).onclick = () => { look.tab = name; fill(); };
show(PLAN, 0);
