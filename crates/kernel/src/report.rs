//! Plans and fusion decisions as text, and the figures in them.
//!
//! For users who want to know where their memory and time go: [`explain`] says for every edge of the program whether both
//! ends share a kernel, and why; [`Plan`] prints as its steps and buffers. Tests ask for the same facts by value
//! ([`Plan::verdict`], [`Plan::figures`]). Nothing here decides anything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::{self, Write};

use cotangent_graph::{Graph, NodeId};
use cotangent_host::Bytes;
use cotangent_scalar::plain;

use crate::cluster::{Edge, Fusion, Verdict};
use crate::ir::{Clamp, IndexMap, Kernel, Space, Sweep};
use crate::plan::{BufferDecl, BufferId, CheckWhat, Factors, Home, KernelCall, MatrixView, Plan, Step};

/// The figures of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes of all buffers of the arena if none shared memory.
    pub unshared_bytes: usize,
    /// Steps that run a kernel, epilogues included.
    pub n_kernels: usize,
    /// Kernels that differ in their code.
    pub n_codes: usize,
    /// Matrix products.
    pub n_products: usize,
    /// Copies of whole buffers.
    pub n_copies: usize,
    /// Bytes that steps read and write, caches not counted.
    pub bytes_moved: u64,
}

impl Plan {
    /// The decision about an edge, if there is one.
    pub fn verdict(&self, from: NodeId, to: NodeId) -> Option<&Verdict> {
        self.edges.iter().find(|e| e.from == from && e.to == to).map(|e| &e.verdict)
    }

    /// The kinds of fusion that it uses.
    pub fn fusions(&self) -> BTreeSet<Fusion> {
        let kind = |edge: &Edge| match edge.verdict {
            Verdict::Fuse(kind) => Some(kind),
            Verdict::Keep(_) => None,
        };
        self.edges.iter().filter_map(kind).collect()
    }

    /// The kernels that steps call, in order, epilogues included.
    pub fn calls(&self) -> impl Iterator<Item = &KernelCall> {
        self.steps.iter().flat_map(Step::calls)
    }

    /// Bytes that the steps read and write: of each operand what is touched of it, once per step. An estimate, since
    /// caches are not counted.
    pub fn bytes_moved(&self) -> u64 {
        self.steps.iter().map(|step| self.step_bytes(step)).fold(0, u64::saturating_add)
    }

    /// Bytes that one step reads and writes.
    pub fn step_bytes(&self, step: &Step) -> u64 {
        self.touched(step).into_iter().map(|(_, n_bytes)| n_bytes).sum()
    }

    /// The buffers that a step touches, and how many bytes of each it reads and writes. What a step that is not loops touches counts as
    /// of the largest of its operands.
    pub(crate) fn touched(&self, step: &Step) -> Vec<(BufferId, u64)> {
        let whole = |id: BufferId| self.buffers[id.index()].n_bytes() as u64;
        match step {
            Step::Kernel(call) => self.touched_by(call, None).collect(),
            Step::Product { factors, dtype, c, .. } => {
                let operands = match factors {
                    Factors::Matrices { dims, a, b } => {
                        let batch = |view: &MatrixView| if view.batch_stride == 0 { 1 } else { dims.batch };
                        [batch(a) * dims.m * dims.k, batch(b) * dims.k * dims.n]
                    }
                    Factors::Conv { conv, direction, .. } if conv.is_sound() => conv.operands(*direction),
                    Factors::Conv { .. } => [0, 0],
                };
                let bytes = operands.map(|n| (n * dtype.size_bytes()) as u64);
                let mut touched: Vec<(BufferId, u64)> = factors.buffers().into_iter().zip(bytes).collect();
                if self.buffers[c.index()].home != Home::Rows {
                    touched.push((*c, whole(*c)));
                }
                touched.extend(step.calls().flat_map(|call| self.touched_by(call, Some(*c))));
                touched
            }
            Step::Op(op) => {
                let copied =
                    if op.start().is_some_and(|from| !self.in_one_place(from, op.out)) { 2 * whole(op.out) } else { 0 };
                let largest = op.operands.iter().map(|(id, _)| *id).max_by_key(|id| whole(*id)).unwrap_or(op.out);
                vec![(op.out, copied), (largest, op.how().map_or(0, |how| how.n_bytes(&op.cx())))]
            }
            Step::Loop(step) => vec![(step.frame, step.n_bytes(self))],
            Step::Copy { from, to, .. } => vec![(*from, whole(*from)), (*to, whole(*to))],
            Step::Check { values, .. } => vec![(*values, whole(*values))],
        }
    }

    /// Whether two buffers are the same memory.
    pub(crate) fn in_one_place(&self, a: BufferId, b: BufferId) -> bool {
        let offset = |id: BufferId| match self.buffers[id.index()].home {
            Home::Arena { offset } => Some(offset),
            _ => None,
        };
        a == b || offset(a).is_some() && offset(a) == offset(b)
    }

    /// The buffers that a kernel touches, with bytes; `in_cache` is a buffer that need not be counted.
    fn touched_by(&self, call: &KernelCall, in_cache: Option<BufferId>) -> impl Iterator<Item = (BufferId, u64)> {
        let kernel = &self.kernels[call.kernel];
        let args = kernel.args.iter().zip(&call.args).enumerate();
        args.filter_map(move |(k, (arg, &id))| {
            let decl = &self.buffers[id.index()];
            if Some(id) == in_cache || decl.home == Home::Rows {
                return None;
            }
            let touched = elements_touched(kernel, k).min(decl.n_elements) * decl.dtype.size_bytes();
            Some((id, touched as u64 * (u64::from(arg.read) + u64::from(arg.written))))
        })
    }

    /// The clusters, each with the views, constants and recomputed values that it alone reads; `graph` is the one that was planned.
    pub fn drawn_clusters(&self, graph: &Graph) -> Vec<Vec<NodeId>> {
        let mut clusters = self.clusters.clone();
        let mut of: Vec<Option<usize>> = vec![None; graph.n_nodes()];
        for (k, nodes) in clusters.iter().enumerate() {
            nodes.iter().for_each(|n| of[n.index()] = Some(k));
        }
        let readers = graph.readers();
        for id in graph.ids().rev() {
            let named = graph.node(id).op.is_named();
            let Some(&first) = readers[id.index()].first().filter(|_| !named && of[id.index()].is_none()) else {
                continue;
            };
            let Some(k) = of[first.index()] else { continue };
            if readers[id.index()].iter().all(|r| of[r.index()] == Some(k)) {
                of[id.index()] = Some(k);
                clusters[k].push(id);
            }
        }
        clusters
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        let in_arena = |decl: &&BufferDecl| matches!(decl.home, Home::Arena { .. });
        let count = |f: fn(&Step) -> bool| self.steps.iter().filter(|s| f(s)).count();
        let codes: HashSet<_> = self.calls().map(|call| self.kernels[call.kernel].code_key()).collect();
        Figures {
            arena_bytes: self.arena_bytes,
            unshared_bytes: self
                .buffers
                .iter()
                .filter(in_arena)
                .map(BufferDecl::n_bytes)
                .fold(0, usize::saturating_add),
            n_kernels: self.calls().count(),
            n_codes: codes.len(),
            n_products: count(|s| matches!(s, Step::Product { .. })),
            n_copies: count(|s| matches!(s, Step::Copy { .. })),
            bytes_moved: self.bytes_moved(),
        }
    }

    /// Buffers that a step makes in the memory of an operand: (step, operand, result), and (step, target, target) for
    /// parameters and states that are read and written by one kernel.
    pub fn in_place(&self) -> Vec<(usize, BufferId, BufferId)> {
        let mut found = Vec::new();
        for (s, step) in self.steps.iter().enumerate() {
            if let Step::Op(op) = step {
                let start = op.start().filter(|&from| self.in_one_place(from, op.out));
                found.extend(start.map(|from| (s, from, op.out)));
            }
            let Some(call) = step.calls().next() else { continue };
            let args = &self.kernels[call.kernel].args;
            for (to_arg, &to) in args.iter().zip(&call.args).filter(|(a, _)| a.written) {
                for (from_arg, &from) in args.iter().zip(&call.args).filter(|(a, _)| a.read) {
                    let shared = from != to && self.in_one_place(from, to);
                    let in_arena = matches!(self.buffers[from.index()].home, Home::Arena { .. });
                    let updated = from == to && !in_arena && !std::ptr::eq(from_arg, to_arg);
                    if shared || updated {
                        found.push((s, from, to));
                    }
                }
            }
        }
        found
    }
}

/// Elements of an argument that a kernel touches: for each of its different accesses the product of the extents along which it
/// moves. What several of them touch is counted for each, so the argument's own length is the limit.
fn elements_touched(kernel: &Kernel, arg: usize) -> usize {
    let count = |space: Space, map: &IndexMap, clamps: &[Clamp]| {
        let n = kernel.dims.len();
        let skipped = match (space, kernel.sweep) {
            (Space::Reduced, Sweep::Row) => Some(n - 1),
            (Space::Reduced, Sweep::Column) => Some(n - 2),
            _ => None,
        };
        let moves = |d: &usize| map.strides[*d] != 0 || clamps.iter().any(|clamp| clamp.map.strides[*d] != 0);
        (0..n).filter(moves).filter(|&d| Some(d) != skipped).map(|d| kernel.dims[d]).product::<usize>()
    };
    let mut known: Vec<(&IndexMap, &[Clamp])> = Vec::new();
    let mut touched = 0usize;
    for phase in &kernel.phases {
        let loads = phase.inputs.iter().filter_map(|input| Some((input.access()?, input.clamps())));
        for ((a, map), clamps) in loads.chain(phase.stores.iter().map(|s| ((s.arg, &s.map), &[][..]))) {
            if a.0 as usize == arg && !known.contains(&(map, clamps)) {
                known.push((map, clamps));
                touched = touched.saturating_add(count(phase.space, map, clamps));
            }
        }
    }
    touched
}

impl fmt::Display for Plan {
    /// The steps with what they read and write, the buffers with sizes, lifetimes and homes, and the totals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "steps")?;
        let mut shared: HashMap<usize, Vec<(BufferId, BufferId)>> = HashMap::new();
        for (s, from, to) in self.in_place() {
            shared.entry(s).or_default().push((from, to));
        }
        for (s, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {s:3} {} [{}]", self.step_text(step), Bytes(self.step_bytes(step) as usize))?;
            for &(from, to) in shared.get(&s).map_or(&[][..], Vec::as_slice) {
                let name = |id: BufferId| plain(&self.buffers[id.index()].name);
                if from == to {
                    writeln!(f, "      in place: `{}` is updated where it stands", name(to))?;
                } else {
                    writeln!(f, "      in place: `{}` is made in the memory of `{}`", name(to), name(from))?;
                }
            }
            if let Step::Loop(step) = step {
                step.body.to_string().lines().try_for_each(|line| writeln!(f, "      | {line}"))?;
            }
        }
        writeln!(f, "buffers")?;
        for (i, decl) in self.buffers.iter().enumerate() {
            let home = match &decl.home {
                Home::Input => "input".to_owned(),
                Home::Param => "parameter".to_owned(),
                Home::State => "state".to_owned(),
                Home::Const(_) => "constant".to_owned(),
                Home::Counters => "counters".to_owned(),
                Home::Arena { offset } => format!("arena at {offset}"),
                Home::Output => "where the loop says".to_owned(),
                Home::Rows => "what is under way, in each thread's memory".to_owned(),
            };
            let bytes = Bytes(decl.n_bytes());
            let live = match decl.live.is_empty() {
                true => "never used".to_owned(),
                false => format!("steps {}..{}", decl.live.start, decl.live.end),
            };
            writeln!(
                f,
                "  b{i} `{}` {} × {} = {bytes}, {home}, {live}",
                plain(&decl.name),
                decl.n_elements,
                decl.dtype
            )?;
        }
        for output in &self.outputs {
            writeln!(f, "  output `{}` : {} in b{}", plain(&output.name), output.ty, output.buffer.0)?;
        }
        for (node, why) in &self.forced {
            writeln!(f, "  {node} has memory of its own: {why}")?;
        }
        let figures = self.figures();
        let part = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        writeln!(
            f,
            "totals: {}, {} ({} of code), {}, {}",
            part(self.steps.len(), "step"),
            part(figures.n_kernels, "kernel"),
            part(figures.n_codes, "piece"),
            part(figures.n_products, "product"),
            if figures.n_copies == 1 { "1 copy".to_owned() } else { format!("{} copies", figures.n_copies) },
        )?;
        let (arena, unshared) = (Bytes(figures.arena_bytes), Bytes(figures.unshared_bytes));
        writeln!(
            f,
            "memory: arena {arena}, without reuse {unshared}; moved per step: {}",
            Bytes(figures.bytes_moved as usize)
        )
    }
}

impl Plan {
    /// One line on a step: what it does, what it reads and writes.
    pub fn step_text(&self, step: &Step) -> String {
        let name = |id: &BufferId| format!("b{}", id.0);
        let list = |ids: &mut dyn Iterator<Item = BufferId>| {
            let mut seen: Vec<BufferId> = Vec::new();
            ids.for_each(|id| {
                if !seen.contains(&id) {
                    seen.push(id);
                }
            });
            seen.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        let (reads, writes) = (list(&mut step.reads(self).into_iter()), list(&mut step.writes(self).into_iter()));
        let kernel = |call: &KernelCall| {
            let k = &self.kernels[call.kernel];
            format!("{} {:?} {:?}", k.name, k.sweep, k.dims.as_slice())
        };
        let what = match step {
            Step::Kernel(call) => format!("kernel {}", kernel(call)),
            Step::Product { factors, dtype, .. } => {
                let finish =
                    step.calls().next().map_or(String::new(), |call| format!(", finished by {}", kernel(call)));
                format!("{factors} of {dtype}{finish}")
            }
            Step::Op(op) => op.how().map_or_else(String::new, |how| how.text(&op.cx())),
            Step::Loop(step) => {
                let times = if step.n == 1 { "once".to_owned() } else { format!("{} times", step.n) };
                let reverse = if step.reverse { ", from the last to the first" } else { "" };
                let n = step.body.steps.len();
                format!("loop of {n} step{}, {times}{reverse}", if n == 1 { "" } else { "s" })
            }
            Step::Copy { reason, .. } => format!("copy ({reason})"),
            Step::Check { what: CheckWhat::Below(bound), op, .. } => format!("check of `{op}`: indices below {bound}"),
            Step::Check { what: CheckWhat::Finite, op, .. } => format!("check of `{op}`: finite values"),
        };
        format!("{what}: {reads} → {writes}")
    }
}

/// Every fusion decision, with both ops, their types and the user's lines: first what shares a kernel, kernel by kernel,
/// then what goes through memory, reason by reason, then the counts.
pub fn explain(graph: &Graph, plan: &Plan) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_explanation(&mut text, graph, plan);
    text
}

fn write_explanation(out: &mut String, graph: &Graph, plan: &Plan) -> fmt::Result {
    let mut cluster_of: HashMap<NodeId, usize> = HashMap::new();
    for (c, nodes) in plan.clusters.iter().enumerate() {
        cluster_of.extend(nodes.iter().map(|&n| (n, c)));
    }
    let is_fused = |e: &Edge| matches!(e.verdict, Verdict::Fuse(_));
    let mut by_cluster: BTreeMap<usize, Vec<&Edge>> = BTreeMap::new();
    let mut loose: Vec<&Edge> = Vec::new();
    for edge in plan.edges.iter().filter(|e| is_fused(e)) {
        match cluster_of.get(&edge.to) {
            Some(&c) => by_cluster.entry(c).or_default().push(edge),
            None => loose.push(edge),
        }
    }
    for (c, nodes) in plan.clusters.iter().enumerate() {
        match nodes.len() {
            0 => writeln!(out, "kernel {c}: a copy of a carry for the loop's results")?,
            n => writeln!(out, "kernel {c}: {n} ops")?,
        }
        for &node in nodes {
            writeln!(out, "  {}", graph.describe(node))?;
        }
        for edge in by_cluster.get(&c).map_or(&[][..], Vec::as_slice) {
            writeln!(out, "    {} → {}  {}", short(graph, edge.from), short(graph, edge.to), edge.verdict)?;
        }
    }
    let (joined, loose): (Vec<_>, Vec<_>) =
        loose.into_iter().partition(|edge| edge.verdict == Verdict::Fuse(Fusion::IntoJoin));
    for (what, edges) in
        [("made where they are joined", joined), ("recomputed by readers that have a kernel to themselves", loose)]
    {
        if !edges.is_empty() {
            writeln!(out, "{what}")?;
            write_edges(out, graph, &edges)?;
        }
    }
    let mut kept: BTreeMap<String, Vec<&Edge>> = BTreeMap::new();
    for edge in plan.edges.iter().filter(|e| !is_fused(e)) {
        kept.entry(edge.verdict.to_string()).or_default().push(edge);
    }
    for (reason, edges) in &kept {
        writeln!(out, "through memory ({reason})")?;
        write_edges(out, graph, edges)?;
    }
    for (step, &id) in plan.steps.iter().zip(&plan.step_nodes) {
        if let (Step::Loop(step), Some(scan)) = (step, graph.scan(graph.node(id))) {
            writeln!(out, "body @{} of {}", scan.body.name(), graph.describe(id))?;
            explain(scan.body, &step.body).lines().try_for_each(|line| writeln!(out, "  | {line}"))?;
        }
    }
    if !plan.forced.is_empty() {
        writeln!(out, "memory of their own")?;
        for (node, why) in &plan.forced {
            writeln!(out, "  {}  {why}", graph.describe(*node))?;
        }
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for edge in &plan.edges {
        *counts.entry(edge.verdict.to_string()).or_default() += 1;
    }
    let n_fused = plan.edges.iter().filter(|e| is_fused(e)).count();
    writeln!(out, "{} edges: {n_fused} fused, {} through memory", plan.edges.len(), plan.edges.len() - n_fused)?;
    for (verdict, n) in counts {
        writeln!(out, "  {n:5} {verdict}")?;
    }
    let figures = plan.figures();
    writeln!(
        out,
        "{} kernels, {} products; moved per step: {}",
        figures.n_kernels,
        figures.n_products,
        Bytes(figures.bytes_moved as usize)
    )
}

fn write_edges(out: &mut String, graph: &Graph, edges: &[&Edge]) -> fmt::Result {
    for edge in edges {
        writeln!(out, "  {}", graph.describe(edge.from))?;
        writeln!(out, "    → {}", graph.describe(edge.to))?;
    }
    Ok(())
}

fn short(graph: &Graph, id: NodeId) -> String {
    format!("{id} {}", graph.node(id).op.name)
}
