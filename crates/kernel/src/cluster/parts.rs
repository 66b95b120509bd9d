//! The part that each node plays, and what computed nodes read once views and virtual values are seen through.

use cotangent_graph::eval::reduction_groups;
use cotangent_graph::op::ViewMap;
use cotangent_graph::{Graph, Lower, NodeId, Output, Role, Shape, Source, StepCx};
use smallvec::SmallVec;

use super::reach::Known;
use super::values::{has_long_runs, is_squeeze, own_ops, sees_through};
use super::windows::WrittenOut;
use super::{At, ClusterOptions, Fusion, Part, Read};
use crate::cost::RNG_OPS;
use crate::index::n_taps;
use crate::memory::{Blocked, contiguous, matrices, side_by_side};
use crate::nest::Seams;

/// What every node is to the clusterer, before anything is fused.
pub(super) struct Roles {
    /// The part of each node.
    pub(super) parts: Vec<Part>,
    /// Whether a node reduces more than axes of extent 1.
    pub(super) reduces: Vec<bool>,
    /// What is computed window by window.
    pub(super) windows: WrittenOut,
    /// Scalar operations of each value, those of the virtual values it reads included.
    pub(super) ops: Vec<usize>,
    /// What each node that is computed reads.
    pub(super) reads: Vec<SmallVec<[Read; 4]>>,
    /// The virtual pointwise values that each node recomputes, seen through views.
    pub(super) recomputes: Vec<SmallVec<[NodeId; 2]>>,
    /// The memory that must exist whatever is fused: outputs, and indices that are checked.
    pub(super) wanted: Vec<bool>,
    /// The product that each node is, or continues with element by element; of several the last.
    pub(super) finishes: Vec<Option<NodeId>>,
    /// Whether a node's elements end up, element by element, in an update of a parameter or state.
    pub(super) updates: Vec<bool>,
    /// What the accesses of each value ask of its loops.
    pub(super) seams: Vec<Seams>,
    /// Nodes that were given memory because a reader could not be lowered otherwise, each with the reason.
    pub(super) forced: Vec<(NodeId, &'static str)>,
}

impl Roles {
    pub(super) fn new(graph: &Graph, options: &ClusterOptions) -> Self {
        let n = graph.n_nodes();
        let mut wanted = vec![false; n];
        let mut updates = vec![false; n];
        for output in graph.outputs() {
            wanted[memory_of(graph, output).index()] = true;
            updates[output.value.index()] |= matches!(output.role, Role::Update(_));
        }
        let mut roles = Roles {
            parts: vec![Part::Dead; n],
            reduces: graph.ids().map(|id| is_reduction(graph, id)).collect(),
            windows: WrittenOut { unrolled: vec![false; n], inlined: vec![false; n] },
            ops: vec![0; n],
            reads: Vec::new(),
            recomputes: vec![SmallVec::new(); n],
            wanted,
            finishes: vec![None; n],
            updates,
            seams: vec![Seams::default(); n],
            forced: Vec::new(),
        };
        let in_place = roles.read_in_place(graph, options);
        roles.windows = WrittenOut::new(graph, options, |id| roles.wanted[id.index()] || in_place[id.index()]);
        for (reduces, unrolled) in roles.reduces.iter_mut().zip(&roles.windows.unrolled) {
            *reduces &= !unrolled;
        }
        let bases = roles.assign(graph, options, &in_place);
        for id in graph.ids().filter(|id| roles.parts[id.index()] != Part::Dead) {
            let node = graph.node(id);
            let mut want = |k: usize| roles.wanted[bases[node.inputs[k].index()].index()] = true;
            match &node.op.lower {
                Lower::Check(_) => want(0),
                Lower::Step(step) => step.indices(&StepCx::of(graph, node)).iter().for_each(|&(k, _)| want(k)),
                _ => {}
            }
            if !matches!(roles.parts[id.index()], Part::Alias | Part::Buffer) {
                for input in &node.inputs {
                    let base = bases[input.index()];
                    let scalar = matches!(graph.node(base).op.lower, Lower::Scalar(_) | Lower::Join);
                    if roles.parts[base.index()] == Part::Virtual && scalar {
                        roles.recomputes[id.index()].push(base);
                    }
                }
            }
        }
        roles.reads = reads(graph, &roles.parts, &roles.reduces);
        roles.trace_products(graph);
        roles
    }

    /// Finds what continues with a product, and what ends in an update.
    fn trace_products(&mut self, graph: &Graph) {
        for id in graph.ids() {
            let own = self.reads[id.index()].iter().filter(|r| r.at == At::Own && !self.reduces[r.node.index()]);
            self.finishes[id.index()] = match self.parts[id.index()] {
                Part::Product => Some(id),
                _ => own.filter_map(|r| self.finishes[r.node.index()]).max(),
            };
        }
        for id in graph.ids().rev() {
            if self.updates[id.index()] && !self.reduces[id.index()] {
                for read in self.reads[id.index()].iter().filter(|r| r.at == At::Own) {
                    self.updates[read.node.index()] = true;
                }
            }
        }
    }

    /// Assigns parts and operations; returns the node below each chain of views. Operands come first, so that what stands in the
    /// way of making a value is found when the value is reached, and is given memory at once.
    fn assign(&mut self, graph: &Graph, options: &ClusterOptions, in_place: &[bool]) -> Vec<NodeId> {
        let live = graph.live();
        let readers = graph.readers();
        let in_memory = stored_anyway(graph, &live);
        let recomputes = options.fusions.allows(Fusion::Recompute);
        let mut bases: Vec<NodeId> = graph.ids().collect();
        // Full-sized operands that the readers of a virtual value load in its place, and the operations they repeat.
        let mut leaves: Vec<f64> = vec![0.0; graph.n_nodes()];
        let mut repeated: Vec<usize> = vec![0; graph.n_nodes()];
        let mut own: Vec<usize> = vec![0; graph.n_nodes()];
        for id in graph.ids().filter(|id| live[id.index()]) {
            let (node, i) = (graph.node(id), id.index());
            let needs_memory = self.wanted[i] || in_place[i];
            let mut part = self.first_part(graph, options, id, in_place[i]);
            leaves[i] = 1.0;
            own[i] = own_ops(graph, id);
            self.ops[i] = self.n_ops(graph, id, own[i], &repeated);
            match (part, &node.op.lower) {
                (Part::Alias, _) => {
                    let operand = node.inputs[0];
                    bases[i] = bases[operand.index()];
                    let (from, to) = (graph.ty(operand).n_bytes().max(1) as f64, node.ty.n_bytes().max(1) as f64);
                    leaves[i] = leaves[operand.index()] * (from / to).min(1.0);
                    repeated[i] = repeated[operand.index()];
                }
                (Part::Virtual, lower) => {
                    leaves[i] = 0.0;
                    repeated[i] = if matches!(lower, Lower::Source(Source::Rng)) { RNG_OPS } else { 0 };
                }
                (Part::Value | Part::Opaque, _) if self.windows.inlined[i] && !needs_memory => {
                    part = Part::Virtual;
                    leaves[i] = node.inputs.iter().map(|k| leaves[k.index()]).sum();
                    repeated[i] = self.ops[i];
                }
                (Part::Value, Lower::Scalar(_)) | (Part::Opaque, Lower::Join)
                    if recomputes && !needs_memory && (part == Part::Value || has_long_runs(graph, node)) =>
                {
                    // Of what is joined each element is one operand's.
                    let share = |k: NodeId| match node.op.lower {
                        Lower::Join => (graph.ty(k).n_bytes() as f64 / node.ty.n_bytes().max(1) as f64).min(1.0),
                        _ => 1.0,
                    };
                    let n_leaves: f64 = node.inputs.iter().map(|&k| leaves[k.index()] * share(k)).sum();
                    let live_readers = || readers[i].iter().copied().filter(|r| live[r.index()]);
                    let k = live_readers().count() as f64;
                    // A value whose operands are values of kernels is better made where they are made, unless those are
                    // in memory anyhow (the mask of an activation that a product reads).
                    let from_memory = node.inputs.iter().all(|input| {
                        let base = bases[input.index()].index();
                        self.parts[base] != Part::Value || self.reduces[base] || in_memory[base]
                    });
                    let cheap = options.cost.recomputing_pays(self.ops[i], node.ty.n_bytes(), [k, n_leaves]);
                    let any = options.fusions.forces(Fusion::Recompute) && self.ops[i] <= options.cost.max_kernel_ops;
                    if k > 0.0 && (any || cheap && from_memory) && live_readers().all(|r| sees_through(graph, id, r)) {
                        part = Part::Virtual;
                        (leaves[i], repeated[i]) = (n_leaves, self.ops[i]);
                    }
                }
                _ => {}
            }
            self.parts[i] = part;
            self.reach(graph, id);
        }
        if !self.forced.is_empty() {
            for id in graph.ids().filter(|id| live[id.index()]) {
                let (node, i) = (graph.node(id), id.index());
                self.ops[i] = self.n_ops(graph, id, own[i], &repeated);
                (bases[i], repeated[i]) = match self.parts[i] {
                    Part::Alias => (bases[node.inputs[0].index()], repeated[node.inputs[0].index()]),
                    Part::Virtual if matches!(node.op.lower, Lower::Source(_)) => (id, repeated[i]),
                    Part::Virtual => (id, self.ops[i]),
                    _ => (id, 0),
                };
            }
        }
        bases
    }

    /// What a node is before anything is recomputed because it is cheap. What is read in place has memory.
    fn first_part(&self, graph: &Graph, options: &ClusterOptions, id: NodeId, in_place: bool) -> Part {
        let (node, wanted) = (graph.node(id), self.wanted[id.index()]);
        let unless_needed = |part: Part| if wanted || in_place { Part::Value } else { part };
        match &node.op.lower {
            Lower::Source(Source::Input | Source::Param | Source::State) => Part::Buffer,
            Lower::Source(Source::Constant) if node.ty.shape().rank() > 0 || in_place && !wanted => Part::Buffer,
            Lower::Source(Source::Iota | Source::Rng) if !options.fusions.allows(Fusion::Recompute) => Part::Value,
            Lower::Source(_) => unless_needed(Part::Virtual),
            Lower::View(_) | Lower::Check(_) | Lower::Identity => unless_needed(Part::Alias),
            Lower::Reduce(_) if !self.reduces[id.index()] && !self.windows.unrolled[id.index()] => {
                unless_needed(Part::Alias)
            }
            Lower::Gemm | Lower::Conv(_) => Part::Product,
            Lower::Reduce(_) | Lower::Scalar(_) => Part::Value,
            _ => Part::Opaque,
        }
    }

    /// What must lie in memory as it is, whatever becomes of the rest: operands of products and steps, and values that are checked,
    /// where the views on the way to memory do not keep them side by side, or there is no memory below them.
    fn read_in_place(&mut self, graph: &Graph, options: &ClusterOptions) -> Vec<bool> {
        let mut in_place = vec![false; graph.n_nodes()];
        let live = graph.live();
        for id in graph.ids().filter(|id| live[id.index()]) {
            self.parts[id.index()] = self.first_part(graph, options, id, false);
            for Blocked { node, why } in self.operands_out_of_place(graph, id) {
                if self.force(graph, node) {
                    self.forced.push((node, why));
                    in_place[node.index()] = true;
                }
            }
        }
        in_place
    }

    /// Scalar operations of a node, with those that it repeats of virtual values.
    fn n_ops(&self, graph: &Graph, id: NodeId, own: usize, repeated: &[usize]) -> usize {
        let n_ops = own + graph.node(id).inputs.iter().map(|k| repeated[k.index()]).sum::<usize>();
        if self.windows.unrolled[id.index()] { n_ops * n_taps(graph, id) } else { n_ops }
    }

    /// Gives memory to what stands in the way of computing a node, and to what then stands in the way of that.
    fn reach(&mut self, graph: &Graph, id: NodeId) {
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            let n_before = todo.len();
            for Blocked { node, why } in self.obstacles(graph, id) {
                if self.force(graph, node) {
                    self.forced.push((node, why));
                    todo.push(node);
                }
            }
            if todo.len() > n_before {
                // What it reads now may be in the way in turn.
                todo.insert(n_before, id);
            }
        }
    }

    /// What must be in memory before a node can be computed. Without any, what its accesses ask of its loops is noted.
    fn obstacles(&mut self, graph: &Graph, id: NodeId) -> Vec<Blocked> {
        let node = graph.node(id);
        let mut forces = self.operands_out_of_place(graph, id);
        let known = Known { graph, parts: &self.parts, reduces: &self.reduces, unrolled: &self.windows.unrolled };
        match (self.parts[id.index()], &node.op.lower) {
            (Part::Value, _) => match known.of_value(id) {
                Ok(seams) => self.seams[id.index()] = seams,
                Err(others) => forces.extend(others),
            },
            (Part::Opaque, Lower::Join) => {
                forces.extend(node.inputs.iter().filter_map(|&input| known.of_copy(input).err()).flatten());
            }
            _ => {}
        }
        forces
    }

    /// The operands that a node reads as they lie in memory, and that do not lie so.
    fn operands_out_of_place(&self, graph: &Graph, id: NodeId) -> Vec<Blocked> {
        let (node, parts) = (graph.node(id), &self.parts[..]);
        let each =
            |ask: &dyn Fn(NodeId) -> Option<Blocked>| node.inputs.iter().filter_map(|&input| ask(input)).collect();
        match &node.op.lower {
            Lower::Gemm => matrices(graph, parts, id).into_iter().filter_map(Result::err).collect(),
            Lower::Conv(_) | Lower::Loop => each(&|input| side_by_side(graph, parts, input).err()),
            Lower::Step(_) | Lower::Check(_) => each(&|input| contiguous(graph, parts, input).err()),
            _ => Vec::new(),
        }
    }

    /// Gives a node memory of its own; whether it had none.
    fn force(&mut self, graph: &Graph, id: NodeId) -> bool {
        let part = match (self.parts[id.index()], &graph.node(id).op.lower) {
            (Part::Virtual, Lower::Source(Source::Constant)) => Part::Buffer,
            (Part::Virtual, Lower::Join) => Part::Opaque,
            (Part::Virtual | Part::Alias, _) => Part::Value,
            _ => return false,
        };
        self.parts[id.index()] = part;
        true
    }
}

/// The node in whose memory an output is found: what a result only reshapes has the same elements in the same order.
pub(crate) fn memory_of(graph: &Graph, output: &Output) -> NodeId {
    let mut at = output.value;
    while output.role == Role::Result && graph.node(at).is_reshape() {
        at = graph.node(at).inputs[0];
    }
    if matches!(graph.node(at).op.lower, Lower::Source(_)) { output.value } else { at }
}

/// For each node, whether an output or a step that reads memory needs it whatever is fused.
fn stored_anyway(graph: &Graph, live: &[bool]) -> Vec<bool> {
    let mut stored = vec![false; graph.n_nodes()];
    for output in graph.outputs() {
        stored[memory_of(graph, output).index()] = true;
    }
    for id in graph.ids().rev().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        let passes_on = match &node.op.lower {
            Lower::Gemm | Lower::Conv(_) | Lower::Step(_) | Lower::Join | Lower::Loop => true,
            // A view that is an output itself is a copy.
            Lower::View(_) | Lower::Check(_) | Lower::Identity => stored[id.index()],
            _ => false,
        };
        if passes_on {
            node.inputs.iter().for_each(|input| stored[input.index()] = true);
        }
    }
    stored
}

/// Whether a node reduces more than axes of extent 1.
fn is_reduction(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    matches!(node.op.lower, Lower::Reduce(_))
        && !reduction_groups(graph.ty(node.inputs[0]).shape(), &node.attrs.sizes("axes")).is_empty()
}

/// For each computed node (and each view and virtual value on the way), what it reads.
fn reads(graph: &Graph, parts: &[Part], reduces: &[bool]) -> Vec<SmallVec<[Read; 4]>> {
    let mut reads: Vec<SmallVec<[Read; 4]>> = vec![SmallVec::new(); graph.n_nodes()];
    for id in graph.ids() {
        let part = parts[id.index()];
        if matches!(part, Part::Dead | Part::Buffer) {
            continue;
        }
        // A reduction that reduces nothing is a view; one that does reads its operand where its loops are.
        let lower = &graph.node(id).op.lower;
        let is_view = matches!(lower, Lower::View(_)) || matches!(lower, Lower::Reduce(_)) && !reduces[id.index()];
        // Products and steps of their own read memory, which nothing in the same kernel can have written.
        let elsewhere = matches!(part, Part::Product | Part::Opaque);
        let mut found: SmallVec<[Read; 4]> = SmallVec::new();
        for &input in &graph.node(id).inputs {
            let inner: SmallVec<[Read; 4]> = match parts[input.index()] {
                Part::Alias | Part::Virtual => reads[input.index()].clone(),
                _ => SmallVec::from_iter([Read { node: input, at: At::Own }]),
            };
            for mut read in inner {
                if elsewhere || matches!(lower, Lower::Join) {
                    read.at = At::Other;
                } else if is_view {
                    read.at = through_view(graph, id, read.node, &read.at);
                }
                match found.iter_mut().find(|r| r.node == read.node) {
                    Some(known) if known.at == read.at => {}
                    Some(known) => known.at = At::Other,
                    None => found.push(read),
                }
            }
        }
        reads[id.index()] = found;
    }
    reads
}

/// Where a view's reader reads a node that the view reads at `at`.
fn through_view(graph: &Graph, view: NodeId, node: NodeId, at: &At) -> At {
    let viewed = graph.node(view);
    let (from, to) = (graph.ty(viewed.inputs[0]).shape(), viewed.ty.shape());
    let own: SmallVec<[usize; 4]> = (0..from.rank()).collect();
    let axes = match at {
        At::Own => &own,
        At::Along(axes) => axes,
        At::Other => return At::Other,
    };
    let Some(map) = axes_through(graph, view, from, to) else { return At::Other };
    let shape = graph.ty(node).shape();
    // What has extent 1 may have the number of no axis.
    let axes: SmallVec<[usize; 4]> = axes.iter().map(|&a| map.get(a).copied().unwrap_or(usize::MAX)).collect();
    // A reduction that is written out reads every element along these.
    if axes.iter().zip(shape.iter()).any(|(&axis, &extent)| axis == usize::MAX && extent != 1) {
        return At::Other;
    }
    let stands = |(i, &axis): (usize, &usize)| axis == i || shape[i] == 1;
    if shape == to && axes.iter().enumerate().all(stands) { At::Own } else { At::Along(axes) }
}

/// For each axis of a view's operand, the axis of the view that it is; those of extent 1 are none. `None` for views that do
/// more than repeat, reorder, add and drop axes.
fn axes_through(graph: &Graph, view: NodeId, from: &Shape, to: &Shape) -> Option<SmallVec<[usize; 4]>> {
    let node = graph.node(view);
    match &node.op.lower {
        Lower::View(map) => match map(&node.attrs, from, to) {
            ViewMap::Affine(axes) => axes
                .iter()
                .zip(from.iter())
                .map(|(m, &extent)| if extent == 1 { Some(usize::MAX) } else { m.same() })
                .collect(),
            ViewMap::Reshape if is_squeeze(from, to) => {
                let mut long = (0..to.rank()).filter(|&a| to[a] != 1);
                Some(
                    from.iter().map(|&n| if n == 1 { usize::MAX } else { long.next().unwrap_or(usize::MAX) }).collect(),
                )
            }
            ViewMap::Reshape => None,
        },
        // A reduction over axes of extent 1 only drops them; one that is written out is read along the others as if it did.
        _ => {
            let axes = node.attrs.sizes("axes");
            let mut kept = 0..to.rank();
            let axis = |a: usize| if axes.contains(&a) { None } else { kept.next() };
            Some((0..from.rank()).map(axis).map(|a| a.unwrap_or(usize::MAX)).collect())
        }
    }
}
