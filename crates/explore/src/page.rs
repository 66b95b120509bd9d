//! The explorer: everything about a program on one HTML page that opens from disk.
//!
//! All data is one block of JSON, laid out here; `explorer.js` draws it on a canvas and fills the panels, and uses nothing from
//! elsewhere. The page opens on the plan, where each step is one box; the graph at each stage, and the bodies of loops, are sheets of
//! their own. Nodes go by uid, so that what stays from pass to pass is one row of a table; on a sheet they go by number.

use std::collections::HashMap;

use cotangent_graph::dot::{attributes, color};
use cotangent_graph::picture::{Layout, layout};
use cotangent_graph::{Attr, NodeId, Role, Source};
use cotangent_kernel::{BufferId, Home, Plan, Step, Verdict};
use cotangent_scalar::plain;
use cotangent_scalar::plain::is_hidden;
use serde_json::{Value, json};

use crate::counterpart::counterparts;
use crate::find::Part;
use crate::memory::{Peak, offset};
use crate::scopes::{Item, Leaf, Scope, scopes};
use crate::trace::{Sheet, StageOf};
use crate::{Inside, Statistics, chart};

const PAGE: &str = include_str!("explorer.html");
const STYLE: &str = include_str!("explorer.css");
const CODE: [&str; 4] =
    [include_str!("explorer.js"), include_str!("folding.js"), include_str!("drawing.js"), include_str!("panels.js")];

impl Inside {
    /// The explorer's page.
    pub fn page(&self) -> String {
        let data = escaped(&self.data().to_string());
        // The data comes last: nothing in it is looked at again.
        PAGE.replacen("/* style */", STYLE, 1).replacen("/* code */", &CODE.concat(), 1).replacen(
            "/* data */",
            &data,
            1,
        )
    }

    /// The charts of the page as SVG, each with the name of a file.
    pub fn charts(&self) -> Vec<(&'static str, String)> {
        let profile = self.measured.as_ref().map(|measured| &measured.profile);
        let program = self.parts()[0];
        let mut charts = vec![
            ("roofline.svg", chart::roofline(&self.program, profile)),
            ("memory.svg", chart::arena(program.plan, |id| program.buffer_name(id))),
        ];
        charts.extend(profile.map(|profile| ("timeline.svg", chart::timeline(&self.program, profile))));
        charts
    }

    /// What the page shows.
    pub fn data(&self) -> Value {
        let stages: Vec<Value> = self.trace.stages.iter().map(stage).collect();
        // Machine code is numbered through the program and the bodies of its loops, in the order of the parts.
        let mut first = 0;
        let mut parts: Vec<Value> = Vec::new();
        for part in self.parts() {
            parts.push(self.part(&part, first));
            first += part.plan.kernels.len();
        }
        let plan = self.unfused.plan();
        let predicted = |step: usize| self.unfused.predicted_ns(step) * 1e-3;
        let unfused: Vec<Value> =
            plan.steps.iter().enumerate().map(|(s, step)| step_row(plan, step, predicted(s))).collect();
        let measured = self.measured.as_ref();
        let profile = measured.map(|measured| &measured.profile);
        json!({
            "roofline": inner(&chart::roofline(&self.program, profile)),
            "timeline": profile.map(|profile| inner(&chart::timeline(&self.program, profile))),
            "values": self.values.as_ref().map(|values| values.iter().map(statistics).collect::<Vec<_>>()),
            "name": plain(self.program.source().name()).to_string(),
            "target": self.program.target().to_string(),
            "backend": self.program.backend(),
            "nodes": self.nodes(),
            "derivatives": counterparts(&self.trace).iter().map(|(of, is)| [of.0, is.0]).collect::<Vec<_>>(),
            "stages": stages,
            "parts": parts,
            "unfused": { "steps": unfused, "figures": figures(plan) },
            "threads": measured.map(|measured| measured.profile.n_threads),
            "tried": measured.map(|measured| measured.tried.as_str()),
        })
    }

    /// A row for each uid, as it was when it was first seen: op, name, type, attributes, the user's lines, rule, color.
    fn nodes(&self) -> Vec<Value> {
        let mut rows = vec![Value::Null; self.trace.n_uids];
        for sheet in self.trace.stages.iter().flat_map(|stage| &stage.sheets) {
            for (&id, uid) in sheet.order.iter().zip(&sheet.uids) {
                let node = sheet.graph.node(id);
                let row = &mut rows[uid.0 as usize];
                if row.is_null() {
                    let lines: Vec<String> = node.origin.lines.iter().map(ToString::to_string).collect();
                    let name = node.name().map(|name| plain(name).to_string());
                    let attrs = plain(&attributes(&sheet.graph, node)).to_string();
                    *row =
                        json!([node.op.name, name, node.ty.to_string(), attrs, lines, node.origin.rule, color(node)]);
                }
            }
        }
        rows
    }

    /// What a kernel became: who made its code, how large it is, and in print if that is asked for.
    fn code(&self, kernel: usize) -> Value {
        let compiled = self.program.compiled();
        let stats = compiled.stats(kernel);
        let shown = |text: Option<String>| text.filter(|_| self.with_code);
        json!({
            "by": stats.made_by.to_string(), "bytes": stats.code_bytes,
            "clif": shown(stats.clif.clone()), "listing": shown(compiled.functions()[kernel].listing()),
        })
    }

    /// A plan with what was decided on its sheet.
    fn part(&self, part: &Part<'_>, first: usize) -> Value {
        let plan = part.plan;
        let number = |id: NodeId| part.sheet.number.get(&id).copied();
        let is_program = part.depth == 0;
        let measured = self.measured.as_ref().filter(|_| is_program);
        let members = plan.clusters.iter().enumerate().flat_map(|(k, nodes)| nodes.iter().map(move |&id| (id, k)));
        let kernel_of: HashMap<NodeId, usize> = members.collect();
        let mut steps: Vec<Value> = Vec::with_capacity(plan.steps.len());
        for (s, step) in plan.steps.iter().enumerate() {
            let predicted = if is_program { self.program.predicted_ns(s) * 1e-3 } else { f64::NAN };
            let mut row = step_row(plan, step, predicted);
            row["measured"] =
                measured.and_then(|m| m.profile.steps.get(s)).map(|times| times.median.as_secs_f64() * 1e6).into();
            if is_program {
                let work = self.program.work(s);
                row["flop"] = work.flop.into();
                row["least"] = (work.least_nanos * 1e-3).into();
            }
            row["product"] = self.program.product_text(s).filter(|_| is_program).into();
            row["node"] = number(plan.step_nodes[s]).into();
            row["kernel"] = kernel_of.get(&plan.step_nodes[s]).copied().into();
            row["calls"] = step.calls().map(|call| call.kernel).collect::<Vec<_>>().into();
            steps.push(row);
        }
        let mut texts: Vec<String> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut edges: Vec<Value> = Vec::new();
        for edge in &plan.edges {
            let text = edge.verdict.to_string();
            let text = *known.entry(text).or_insert_with_key(|text| {
                texts.push(text.clone());
                texts.len() - 1
            });
            let fused = matches!(edge.verdict, Verdict::Fuse(_));
            edges.push(json!([number(edge.from), number(edge.to), fused, text]));
        }
        let clusters = plan.drawn_clusters(&part.sheet.graph);
        let clusters: Vec<Vec<usize>> =
            clusters.iter().map(|nodes| nodes.iter().filter_map(|&id| number(id)).collect()).collect();
        let forced: Vec<Value> = plan.forced.iter().map(|(id, why)| json!([number(*id), why])).collect();
        let peak = Peak::of(plan);
        json!({
            "sheet": part.number,
            "depth": part.depth,
            "name": plain(part.sheet.graph.name()).to_string(),
            "clusters": clusters,
            "edges": edges,
            "verdicts": texts,
            "forced": forced,
            "steps": steps,
            "picture": step_picture(plan),
            "kernels": plan.kernels.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "code": (0..plan.kernels.len()).map(|k| self.code(first + k)).collect::<Vec<_>>(),
            "memory": inner(&chart::arena(plan, |id| part.buffer_name(id))),
            "buffers": buffers(part),
            "arena": plan.arena_bytes,
            "peak": { "step": peak.step, "bytes": peak.n_bytes, "live": peak.live.iter().map(|id| id.0).collect::<Vec<_>>() },
            "figures": figures(plan),
        })
    }
}

/// A chart to stand in a page, whose parser knows its elements without the address of their name space.
fn inner(svg: &str) -> String {
    svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1)
}

/// The numbers of a value, if it has some; of what is not finite JSON knows nothing.
fn statistics(of: &Option<Statistics>) -> Value {
    of.map_or(Value::Null, |s| json!([s.least, s.mean, s.most, s.deviation, s.n_zero, s.n_wild, s.n]))
}

/// JSON that can stand in a script element: nothing in it ends the element, and no character is invisible.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if is_hidden(c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")))
            }
            c => out.push(c),
        }
    }
    out
}

fn stage(stage: &StageOf) -> Value {
    let numbers = |uids: &[crate::Uid]| uids.iter().map(|uid| uid.0).collect::<Vec<_>>();
    json!({
        "pass": stage.pass,
        "n_nodes": stage.sheets[0].graph.n_nodes(),
        "added": numbers(&stage.change.added),
        "removed": numbers(&stage.change.removed),
        "replaced": stage.change.replaced.iter().map(|(old, new)| [old.0, new.0]).collect::<Vec<_>>(),
        "sheets": stage.sheets.iter().map(|of| sheet(stage, of)).collect::<Vec<_>>(),
    })
}

/// A sheet with its scopes. A row for each node: uid, width, height, numbers of operands, sheets of bodies; and for each scope: name,
/// path, number of the one around it, nodes, elements of parameters, width and height of the folded box, rows of what is directly in
/// it. There results stand behind the nodes, and `-1 - n` is scope `n`.
fn sheet(stage: &StageOf, sheet: &Sheet) -> Value {
    let graph = &*sheet.graph;
    let mut leaves: Vec<Leaf<'_>> = Vec::with_capacity(sheet.order.len());
    let mut edges = Vec::new();
    for (at, &id) in sheet.order.iter().enumerate() {
        let node = graph.node(id);
        let name = node.name().map_or(String::new(), |name| format!(" {}", plain(name)));
        let n_params = if node.source() == Some(Source::Param) { node.ty.shape().n_elements() } else { 0 };
        let label = format!("%{at} {}{name}\n{}", node.op.name, node.ty);
        leaves.push(Leaf { label, scope: node.origin.scope.as_deref(), n_params });
        edges.extend(node.inputs.iter().map(|input| (sheet.number[input], at)));
    }
    let mut outputs = Vec::new();
    for output in graph.outputs() {
        let value = sheet.number[&output.value];
        let name = plain(&output.name).to_string();
        let target = match output.role {
            Role::Update(target) => Some(sheet.number[&target]),
            Role::Result => {
                edges.push((value, leaves.len()));
                leaves.push(Leaf { label: name.clone(), scope: None, n_params: 0 });
                None
            }
        };
        outputs.push((name, value, target));
    }
    let (scopes, sizes) = scopes(&leaves, sheet.order.len(), &edges);
    let mut rows = Vec::with_capacity(sheet.order.len());
    for (at, &id) in sheet.order.iter().enumerate() {
        let node = graph.node(id);
        let operands: Vec<usize> = node.inputs.iter().map(|input| sheet.number[input]).collect();
        let body = |attr: &Attr| if let Attr::Body(id) = attr { stage.sheet_of(graph.body(*id)) } else { None };
        let bodies: Vec<usize> = node.attrs.iter().filter_map(|(_, attr)| body(attr)).collect();
        let (w, h) = sizes[at];
        rows.push(json!([sheet.uids[at].0, w, h, operands, bodies]));
    }
    let mut next = sheet.order.len();
    let mut results = Vec::new();
    for (name, value, target) in outputs {
        let size = target.is_none().then(|| {
            next += 1;
            sizes[next - 1]
        });
        results.push(json!({ "name": name, "value": value, "target": target, "size": size }));
    }
    let item = |item: &Item| match *item {
        Item::Node(n) => n as i64,
        Item::Scope(k) => -1 - k as i64,
    };
    let scope = |scope: &Scope| {
        let rows: Vec<Vec<i64>> = scope.rows.iter().map(|row| row.iter().map(item).collect()).collect();
        let (name, path) = (plain(&scope.name).to_string(), plain(&scope.path).to_string());
        json!([name, path, scope.parent, scope.n_nodes, scope.n_params, scope.size.0, scope.size.1, rows])
    };
    let scopes: Vec<Value> = scopes.iter().map(scope).collect();
    json!({ "name": plain(graph.name()).to_string(), "nodes": rows, "outputs": results, "scopes": scopes })
}

/// A step in a row: its text, what it reads and writes, bytes, predicted time in microseconds.
fn step_row(plan: &Plan, step: &Step, predicted: f64) -> Value {
    let ids = |ids: Vec<BufferId>| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    json!({
        "text": plan.step_text(step),
        "reads": ids(step.reads(plan)),
        "writes": ids(step.writes(plan)),
        "bytes": plan.step_bytes(step),
        "predicted": predicted,
    })
}

/// The steps as boxes, each below those that make what it reads: left, top, width, height, and the edges.
fn step_picture(plan: &Plan) -> Value {
    let mut edges = Vec::new();
    let mut last_writer: HashMap<BufferId, usize> = HashMap::new();
    for (s, step) in plan.steps.iter().enumerate() {
        let mut before: Vec<usize> = step.reads(plan).iter().filter_map(|id| last_writer.get(id).copied()).collect();
        before.sort_unstable();
        before.dedup();
        edges.extend(before.into_iter().map(|from| (from, s)));
        last_writer.extend(step.writes(plan).into_iter().map(|id| (id, s)));
    }
    let label = |(s, step): (usize, &Step)| {
        let text = plan.step_text(step);
        let (what, _) = text.rsplit_once(": ").unwrap_or((&text, ""));
        let shown: String = what.chars().take(40).collect();
        format!("{s} {shown}{}", if what.chars().count() > 40 { "…" } else { "" })
    };
    let labels: Vec<String> = plan.steps.iter().enumerate().map(label).collect();
    let Layout { boxes, width, height } = layout(&labels, &edges);
    let rows = boxes
        .iter()
        .zip(&labels)
        .map(|(b, label)| json!([label, b.x.round(), b.y.round(), b.width.round(), b.height.round()]));
    json!({ "width": width, "height": height, "boxes": rows.collect::<Vec<_>>(), "edges": edges })
}

fn buffers(part: &Part<'_>) -> Vec<Value> {
    let plan = part.plan;
    let row = |(at, decl): (usize, &cotangent_kernel::BufferDecl)| {
        let home = match decl.home {
            Home::Input => "input",
            Home::Param => "parameter",
            Home::State => "state",
            Home::Const(_) => "constant",
            Home::Counters => "counters",
            Home::Arena { .. } => "arena",
            Home::Output => "where the loop says",
            Home::Rows => "under way in each thread",
        };
        let offset = offset(plan, BufferId(at as u32));
        json!({
            "name": part.buffer_name(BufferId(at as u32)), "type": format!("{} × {}", decl.n_elements, decl.dtype), "bytes": decl.n_bytes(),
            "home": home, "offset": offset, "live": [decl.live.start, decl.live.end],
        })
    };
    plan.buffers.iter().enumerate().map(row).collect()
}

fn figures(plan: &Plan) -> Value {
    let figures = plan.figures();
    json!({
        "steps": plan.steps.len(), "kernels": figures.n_kernels, "products": figures.n_products, "copies": figures.n_copies,
        "arena": figures.arena_bytes, "unshared": figures.unshared_bytes, "moved": figures.bytes_moved,
    })
}
