//! Units: the work that is scheduled as a whole, with the memory it reads and writes.

use std::collections::HashSet;

use cotangent_graph::op::Check;
use cotangent_graph::ops::view::PAD;
use cotangent_graph::{Graph, Lower, NodeId, StepCx};
use cotangent_scalar::{Conv, Direction, order};
use smallvec::{SmallVec, smallvec};

use super::Bodies;
use crate::arena;
use crate::cluster::{Clusters, Part, corners};
use crate::ir::IndexMap;
use crate::lower::{self, ArgRef, Blocked, Lowered};
use crate::memory::{Operand, contiguous, matrices, side_by_side};
use crate::plan::{CheckWhat, GemmDims};
use crate::repeat;

/// Work that is scheduled as a whole.
pub(super) enum Work {
    Cluster(usize),
    Opaque(NodeId),
    Check {
        node: NodeId,
        values: NodeId,
        what: CheckWhat,
    },
    /// A source handed out as a result, or used as an update: its old value is kept.
    Keep(NodeId),
}

pub(super) struct Unit {
    pub(super) work: Work,
    pub(super) order: NodeId,
    /// Memory read and written, by node.
    pub(super) reads: Vec<NodeId>,
    /// Nodes of `reads` that the unit reads other than by kernels: operands of products, rows picked by index.
    pub(super) reads_apart: HashSet<NodeId>,
    pub(super) writes: Vec<NodeId>,
    pub(super) lowered: Vec<Lowered>,
    /// Of a loop: where its operands are, by the node that has the memory and the first element there.
    pub(super) places: Vec<(NodeId, usize)>,
    pub(super) is_loop: bool,
    /// It tests run-time values, so that it comes before any change of a parameter or state.
    pub(super) checks: bool,
    pub(super) factors: Option<Operands>,
}

/// What a product multiplies, and where that lies in memory.
#[derive(Clone, Debug)]
pub(super) enum Operands {
    Matrices(GemmDims, [Operand; 2]),
    /// Whole tensors, by the node that has the memory and the first element there.
    Conv(Conv, Direction, [(NodeId, usize); 2]),
}

impl Operands {
    pub(super) fn bases(&self) -> [NodeId; 2] {
        match self {
            Operands::Matrices(_, [a, b]) => [a.base, b.base],
            Operands::Conv(_, _, [a, b]) => [a.0, b.0],
        }
    }
}

/// All units of a program.
pub(super) fn units(graph: &Graph, clusters: &Clusters, bodies: &Bodies) -> Result<Vec<Unit>, Blocked> {
    let mut units = Vec::new();
    for index in 0..clusters.clusters.len() {
        units.push(cluster_unit(graph, clusters, index)?);
    }
    let live = graph.live();
    let mut checks: HashSet<(NodeId, CheckWhat)> = HashSet::new();
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        let demanded: SmallVec<[(NodeId, CheckWhat); 4]> = match &node.op.lower {
            Lower::Check(Check::Index) => smallvec![(node.inputs[0], CheckWhat::Below(node.attrs.size("bound")))],
            Lower::Check(Check::Finite) => smallvec![(node.inputs[0], CheckWhat::Finite)],
            Lower::Step(step) => {
                let indices = step.indices(&StepCx::of(graph, node)).into_iter();
                indices.map(|(k, bound)| (node.inputs[k], CheckWhat::Below(bound))).collect()
            }
            _ => SmallVec::new(),
        };
        for (values, what) in demanded {
            let base = contiguous(graph, &clusters.parts, values)?;
            let is_known = clusters.parts[base.index()] == Part::Buffer && what.holds_of(graph.node(base).constant());
            if !is_known && checks.insert((base, what)) {
                let work = Work::Check { node: id, values: base, what };
                units.push(Unit::new(work, id, vec![base], Vec::new()));
            }
        }
        // The results of loops are made by these.
        if clusters.parts[id.index()] == Part::Opaque && !graph.is_of_loop(node) {
            units.push(opaque_unit(graph, clusters, bodies, id)?);
        }
    }
    let mut kept: HashSet<NodeId> = HashSet::new();
    for output in graph.outputs() {
        if clusters.parts[output.value.index()] == Part::Buffer && kept.insert(output.value) {
            let work = Work::Keep(output.value);
            units.push(Unit::new(work, output.value, vec![output.value], Vec::new()));
        }
    }
    Ok(units)
}

impl Unit {
    fn new(work: Work, order: NodeId, reads: Vec<NodeId>, writes: Vec<NodeId>) -> Self {
        let checks = matches!(work, Work::Check { .. });
        Unit {
            work,
            order,
            reads,
            reads_apart: HashSet::new(),
            writes,
            lowered: Vec::new(),
            places: Vec::new(),
            is_loop: false,
            checks,
            factors: None,
        }
    }

    /// Whether the unit may write `value` to the memory of `target`: it reads the old value only element by element, before
    /// it writes there.
    pub(super) fn can_update(&self, target: NodeId, value: NodeId) -> bool {
        if self.reads_apart.contains(&target) {
            return false;
        }
        // A product writes its result before its epilogue reads anything.
        let mut written = self.factors.is_some() && !self.lowered.iter().any(|l| l.args.contains(&ArgRef::Node(value)));
        for l in &self.lowered {
            let place = |node: NodeId| l.args.iter().position(|&a| a == ArgRef::Node(node));
            match (place(target), place(value)) {
                (Some(_), _) if written => return false,
                (Some(from), Some(to)) if !arena::aligned(&l.kernel, from, to) => return false,
                (_, Some(to)) => written |= l.kernel.args[to].written,
                _ => {}
            }
        }
        true
    }
}

fn cluster_unit(graph: &Graph, clusters: &Clusters, index: usize) -> Result<Unit, Blocked> {
    let cluster = &clusters.clusters[index];
    let stored = clusters.stored(index);
    let others: Vec<NodeId> = stored.iter().copied().filter(|n| Some(*n) != cluster.product).collect();
    let mut lowered =
        if others.is_empty() { Vec::new() } else { lower::lower_cluster(graph, clusters, index, &stored)? };
    let mut reads: Vec<NodeId> = Vec::new();
    for l in &lowered {
        for (arg, reference) in l.kernel.args.iter().zip(&l.args) {
            if let (true, ArgRef::Node(n)) = (arg.read, reference) {
                reads.push(*n);
            }
        }
    }
    let last = cluster.nodes.last().copied().unwrap_or(NodeId(0));
    let mut writes = stored;
    let mut factors = None;
    let mut apart = HashSet::new();
    if let Some(product) = cluster.product {
        let operands = match graph.convolution(product) {
            Some((conv, direction)) => convolved(graph, clusters, product, conv, direction)?,
            None => multiplied(graph, clusters, product)?,
        };
        reads.retain(|n| *n != product);
        reads.extend(operands.bases());
        apart.extend(operands.bases());
        factors = Some(operands);
        if !writes.contains(&product) {
            writes.push(product);
        }
        if let Some(epilogue) = lowered.first_mut() {
            epilogue.kernel.name = format!("{} epilogue", epilogue.kernel.name);
        }
    }
    reads.sort_unstable();
    reads.dedup();
    let mut unit = Unit::new(Work::Cluster(index), last, reads, writes);
    (unit.lowered, unit.factors, unit.reads_apart) = (lowered, factors, apart);
    Ok(unit)
}

/// What a convolution sums up: matrices where it is a product of such, of which no element is summed in lanes.
fn convolved(
    graph: &Graph,
    clusters: &Clusters,
    id: NodeId,
    conv: Conv,
    direction: Direction,
) -> Result<Operands, Blocked> {
    let inputs = &graph.node(id).inputs;
    let at = |k: usize| side_by_side(graph, &clusters.parts, inputs[k]);
    let (a, b) = (at(0)?, at(1)?);
    let ([m, n], k) = (conv.matrix(direction), conv.most_terms(direction));
    if !conv.is_pointwise() || order::product_lanes([m, n, k], graph.ty(id).dtype()) != 1 {
        return Ok(Operands::Conv(conv, direction, [a, b]));
    }
    let (c, f) = (conv.channels as i64, conv.filters as i64);
    let [of_a, of_b] = match direction {
        Direction::Forward => [(c, 1), (f, 1)],
        Direction::Data => [(f, 1), (1, f)],
        Direction::Weights => [(1, c), (f, 1)],
    };
    let view = |(base, offset): (NodeId, usize), (row_stride, col_stride)| Operand {
        base,
        offset: offset as i64,
        batch_stride: 0,
        row_stride,
        col_stride,
    };
    Ok(Operands::Matrices(GemmDims { batch: 1, m, n, k }, [view(a, of_a), view(b, of_b)]))
}

/// What a product of matrices multiplies.
fn multiplied(graph: &Graph, clusters: &Clusters, id: NodeId) -> Result<Operands, Blocked> {
    let node = graph.node(id);
    let (shape, of_a) = (node.ty.shape(), graph.ty(node.inputs[0]).shape());
    let rank = shape.rank();
    let k = if node.attrs.bool("ta") { of_a[rank - 2] } else { of_a[rank - 1] };
    let dims = GemmDims { batch: shape[..rank - 2].iter().product(), m: shape[rank - 2], n: shape[rank - 1], k };
    let [a, b] = matrices(graph, &clusters.parts, id);
    Ok(Operands::Matrices(dims, [a?, b?]))
}

fn opaque_unit(graph: &Graph, clusters: &Clusters, bodies: &Bodies, id: NodeId) -> Result<Unit, Blocked> {
    let node = graph.node(id);
    let mut unit = Unit::new(Work::Opaque(id), id, Vec::new(), vec![id]);
    let parts = &clusters.parts;
    match &node.op.lower {
        Lower::Step(step) => {
            unit.reads = node.inputs.iter().map(|&input| contiguous(graph, parts, input)).collect::<Result<_, _>>()?;
            unit.reads_apart = unit.reads.iter().copied().collect();
            if let Some(start) = step.starts_as().map(|k| unit.reads[k])
                && unit.reads.iter().filter(|&&read| read == start).count() == 1
            {
                // The result may be made in its place.
                unit.reads_apart.remove(&start);
            }
            return Ok(unit);
        }
        Lower::Loop => {
            unit.places =
                node.inputs.iter().map(|&input| side_by_side(graph, parts, input)).collect::<Result<_, _>>()?;
            unit.reads = unit.places.iter().map(|(base, _)| *base).collect();
            unit.reads.sort_unstable();
            unit.reads.dedup();
            let is_result =
                |item: &NodeId| clusters.parts[item.index()] != Part::Dead && graph.node(*item).inputs[..] == [id];
            unit.writes = graph.ids().filter(|item| graph.is_of_loop(graph.node(*item)) && is_result(item)).collect();
            (unit.is_loop, unit.checks) = (true, bodies.get(&id).is_some_and(|body| repeat::checks(body)));
        }
        Lower::Join => {
            let strides = node.ty.shape().strides();
            if node.is(&PAD) {
                let bits = node.attrs.number("value").bits(node.ty.dtype());
                unit.lowered.push(lower::lower_fill(graph, id, bits));
            }
            for (&input, offset) in node.inputs.iter().zip(corners(graph, id)) {
                if clusters.placed.contains_key(&input) {
                    // It is there once the kernel that makes it is over.
                    unit.reads.push(input);
                    continue;
                }
                let place = IndexMap { offset, strides: strides.clone() };
                unit.lowered.push(lower::lower_copy(graph, clusters, input, id, place)?);
            }
            for l in &unit.lowered {
                for (arg, reference) in l.kernel.args.iter().zip(&l.args) {
                    if let (true, ArgRef::Node(n)) = (arg.read, reference) {
                        unit.reads.push(*n);
                    }
                }
            }
        }
        _ => return Err(Blocked::new(id, "its op has no step")),
    }
    unit.reads_apart = unit.reads.iter().copied().collect();
    Ok(unit)
}
