//! The plan: steps in order, buffers with lifetimes and places.
//!
//! A plan is complete and static: [`Step`]s say what they read and write, [`BufferDecl`]s where the bytes live. The plan
//! verifier ([`crate::verify_plan`]) checks it; the executor only follows it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use cotangent_graph::{CompilerBug, DType, Graph, Lower, NodeId, Origin, Role, Source, TensorData, Type};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use crate::arena;
use crate::cluster::{self, ClusterOptions, Clusters, Edge, Part};
use crate::ir::{Input, Kernel, Sweep};
use crate::lower::{self, ArgRef, Force, Lowered};

/// A buffer of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

impl BufferId {
    /// The index into [`Plan::buffers`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where the bytes of a buffer live.
#[derive(Clone, Debug, PartialEq)]
pub enum Home {
    /// Handed in at every step.
    Input,
    /// In the store: trained.
    Param,
    /// In the store: carried.
    State,
    /// Part of the program.
    Const(Arc<TensorData>),
    /// The three i32 words that random numbers depend on: low and high half of the seed, and the step.
    Counters,
    /// In the session's arena.
    Arena {
        /// Bytes from its start.
        offset: usize,
    },
}

/// A buffer: its type, place and lifetime.
#[derive(Clone, Debug)]
pub struct BufferDecl {
    /// A readable name; that of the source for inputs, parameters and states.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Number of elements.
    pub n_elements: usize,
    /// Where it lives.
    pub home: Home,
    /// First and one past the last step that touches it.
    pub live: Range<usize>,
}

impl BufferDecl {
    /// Size in bytes.
    pub fn n_bytes(&self) -> usize {
        self.n_elements * self.dtype.size_bytes()
    }
}

/// A matrix in a buffer, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixView {
    /// The buffer.
    pub buffer: BufferId,
    /// Element offset of the first matrix.
    pub offset: i64,
    /// From one matrix of the batch to the next; 0 repeats it.
    pub batch_stride: i64,
    /// From one row to the next, as multiplied (after transposition).
    pub row_stride: i64,
    /// From one column to the next.
    pub col_stride: i64,
}

/// Extents of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemmDims {
    /// Number of products.
    pub batch: usize,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of each chain.
    pub k: usize,
}

/// A kernel with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCall {
    /// The index into [`Plan::kernels`].
    pub kernel: usize,
    /// One buffer for each argument.
    pub args: Vec<BufferId>,
}

/// One step of a plan.
#[derive(Clone, Debug)]
pub enum Step {
    /// A kernel.
    Kernel(KernelCall),
    /// A matrix product into a contiguous buffer, perhaps with a kernel that finishes its tiles.
    Gemm {
        /// Extents.
        dims: GemmDims,
        /// f32 or f64.
        dtype: DType,
        /// Left operand.
        a: MatrixView,
        /// Right operand.
        b: MatrixView,
        /// The result, row-major.
        c: BufferId,
        /// What finishes the tiles; its rows are batch × m, its inner loop n.
        epilogue: Option<KernelCall>,
    },
    /// Rows of a table by index.
    Gather {
        /// The table.
        table: BufferId,
        /// The indices.
        indices: BufferId,
        /// The rows picked.
        out: BufferId,
        /// Elements of a row.
        row: usize,
    },
    /// Rows added to zeros by index.
    ScatterAdd {
        /// The rows.
        updates: BufferId,
        /// The indices.
        indices: BufferId,
        /// The sums.
        out: BufferId,
        /// Elements of a row.
        row: usize,
    },
    /// All bytes of one buffer into another.
    Copy {
        /// Read.
        from: BufferId,
        /// Written.
        to: BufferId,
        /// Why a copy is needed.
        reason: &'static str,
    },
    /// Every index must lie in `0..bound`, or the step is an error.
    Check {
        /// The indices.
        indices: BufferId,
        /// One past the largest allowed.
        bound: usize,
        /// The op that asks, for the message.
        op: &'static str,
        /// Where it comes from.
        origin: Origin,
    },
}

impl Step {
    /// The buffers read.
    pub fn reads(&self, plan: &Plan) -> Vec<BufferId> {
        let kernel_reads = |call: &KernelCall| -> Vec<BufferId> {
            let args = &plan.kernels[call.kernel].args;
            call.args.iter().zip(args).filter(|(_, a)| a.read).map(|(b, _)| *b).collect()
        };
        match self {
            Step::Kernel(call) => kernel_reads(call),
            Step::Gemm { a, b, epilogue, .. } => {
                let mut reads = vec![a.buffer, b.buffer];
                reads.extend(epilogue.iter().flat_map(kernel_reads));
                reads
            }
            Step::Gather { table, indices, .. } => vec![*table, *indices],
            Step::ScatterAdd { updates, indices, .. } => vec![*updates, *indices],
            Step::Copy { from, .. } => vec![*from],
            Step::Check { indices, .. } => vec![*indices],
        }
    }

    /// The buffers written.
    pub fn writes(&self, plan: &Plan) -> Vec<BufferId> {
        let kernel_writes = |call: &KernelCall| -> Vec<BufferId> {
            let args = &plan.kernels[call.kernel].args;
            call.args.iter().zip(args).filter(|(_, a)| a.written).map(|(b, _)| *b).collect()
        };
        match self {
            Step::Kernel(call) => kernel_writes(call),
            Step::Gemm { c, epilogue, .. } => {
                let mut writes = vec![*c];
                writes.extend(epilogue.iter().flat_map(kernel_writes));
                writes
            }
            Step::Gather { out, .. } | Step::ScatterAdd { out, .. } => vec![*out],
            Step::Copy { to, .. } => vec![*to],
            Step::Check { .. } => Vec::new(),
        }
    }
}

/// A result handed to the caller.
#[derive(Clone, Debug)]
pub struct PlanOutput {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is after the step.
    pub buffer: BufferId,
    /// Its type.
    pub ty: Type,
}

/// Steps, kernels and buffers: everything that happens in one step of the program.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// The kernels that steps call.
    pub kernels: Vec<Kernel>,
    /// The buffers.
    pub buffers: Vec<BufferDecl>,
    /// The results.
    pub outputs: Vec<PlanOutput>,
    /// The parameters and states that steps update.
    pub updated: Vec<BufferId>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// The decisions of the clusterer.
    pub edges: Vec<Edge>,
    /// The clusters, for drawing.
    pub clusters: Vec<Vec<NodeId>>,
    /// For each step, a node it computes, for messages.
    pub step_nodes: Vec<NodeId>,
}

/// Work that is scheduled as a whole.
enum Work {
    Cluster(usize),
    Opaque(NodeId),
    Check {
        node: NodeId,
        indices: NodeId,
        bound: usize,
    },
    /// A source handed out as a result, or used as an update: its old value is kept.
    Keep(NodeId),
}

struct Unit {
    work: Work,
    order: NodeId,
    /// Memory read and written, by node.
    reads: Vec<NodeId>,
    /// Nodes of `reads` that the unit reads other than element by element where it writes.
    reads_apart: HashSet<NodeId>,
    writes: Vec<NodeId>,
    lowered: Vec<Lowered>,
    views: Option<[(NodeId, i64, i64, i64, i64); 2]>,
}

/// Plans a primitive graph.
pub fn plan(graph: &Graph, options: &ClusterOptions) -> Result<Plan, CompilerBug> {
    let mut forced: HashSet<NodeId> = HashSet::new();
    let mut options = options.clone();
    for _ in 0..=graph.n_nodes() + 1 {
        let clusters = cluster::cluster(graph, &options, &forced);
        match units(graph, &clusters) {
            Ok(units) => return schedule(graph, clusters, units),
            Err(Force(id)) => {
                if !forced.insert(id) {
                    // Forcing it again does not help: the loops of its cluster stand in the way. Fuse nothing.
                    if !options.fuse {
                        let text = format!("{id} = {} cannot be lowered", graph.node(id).op.name);
                        return Err(CompilerBug::new("lower", text));
                    }
                    options.fuse = false;
                }
            }
        }
    }
    Err(CompilerBug::new("lower", "lowering does not come to an end"))
}

fn units(graph: &Graph, clusters: &Clusters) -> Result<Vec<Unit>, Force> {
    let mut units = Vec::new();
    let live = graph.live();
    let mut checks: HashSet<(NodeId, usize)> = HashSet::new();
    for index in 0..clusters.clusters.len() {
        units.push(cluster_unit(graph, clusters, index)?);
    }
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        let check = match &node.op.lower {
            Lower::Check => Some((node.inputs[0], node.attrs.size("bound"))),
            Lower::Gather => Some((node.inputs[1], graph.ty(node.inputs[0]).shape()[0])),
            Lower::ScatterAdd => Some((node.inputs[1], node.attrs.size("rows"))),
            _ => None,
        };
        if let Some((indices, bound)) = check {
            let base = contiguous(graph, clusters, indices)?;
            if checks.insert((base, bound)) {
                let work = Work::Check { node: id, indices: base, bound };
                units.push(Unit::new(work, id, vec![base], Vec::new()));
            }
        }
        if clusters.parts[id.index()] == Part::Opaque {
            units.push(opaque_unit(graph, clusters, id)?);
        }
    }
    let mut kept: HashSet<NodeId> = HashSet::new();
    for output in graph.outputs() {
        if clusters.parts[output.value.index()] == Part::Buffer && kept.insert(output.value) {
            units.push(Unit::new(Work::Keep(output.value), output.value, vec![output.value], Vec::new()));
        }
    }
    Ok(units)
}

impl Unit {
    fn new(work: Work, order: NodeId, reads: Vec<NodeId>, writes: Vec<NodeId>) -> Self {
        Unit { work, order, reads, reads_apart: HashSet::new(), writes, lowered: Vec::new(), views: None }
    }
}

/// The node whose memory holds exactly this node's elements in row-major order.
fn contiguous(graph: &Graph, clusters: &Clusters, id: NodeId) -> Result<NodeId, Force> {
    let (base, place) = lower::in_memory(graph, clusters, id)?;
    let shape = graph.ty(id).shape();
    let strides = shape.strides();
    let straight = place.offset == 0
        && place.coeffs.iter().zip(&strides).zip(shape.iter()).all(|((c, s), &n)| n <= 1 || c == s)
        && graph.ty(base).shape().n_elements() == shape.n_elements();
    if straight { Ok(base) } else { Err(Force(id)) }
}

fn cluster_unit(graph: &Graph, clusters: &Clusters, index: usize) -> Result<Unit, Force> {
    let cluster = &clusters.clusters[index];
    let stored = cluster::stored(graph, clusters, index);
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
    let mut views = None;
    let mut apart = HashSet::new();
    if let Some(product) = cluster.product {
        let node = graph.node(product);
        let a = matrix(graph, clusters, node.inputs[0], node.attrs.bool("ta"))?;
        let b = matrix(graph, clusters, node.inputs[1], node.attrs.bool("tb"))?;
        reads.retain(|n| *n != product);
        reads.extend([a.0, b.0]);
        apart.extend([a.0, b.0]);
        views = Some([a, b]);
        if !writes.contains(&product) {
            writes.push(product);
        }
        if let [epilogue] = lowered.as_mut_slice() {
            epilogue.kernel.name = format!("{} epilogue", epilogue.kernel.name);
        }
    }
    reads.sort_unstable();
    reads.dedup();
    let mut unit = Unit::new(Work::Cluster(index), last, reads, writes);
    for l in &lowered {
        apart.extend(apart_reads(l));
    }
    (unit.lowered, unit.views, unit.reads_apart) = (lowered, views, apart);
    Ok(unit)
}

/// Nodes that a kernel reads elsewhere than where it stores: they cannot share memory with its results.
fn apart_reads(l: &Lowered) -> Vec<NodeId> {
    let store_maps: Vec<_> = l.kernel.phases.iter().flat_map(|p| p.stores.iter().map(|s| &s.map)).collect();
    let mut apart = Vec::new();
    for phase in &l.kernel.phases {
        for input in &phase.inputs {
            if let Input::Load { arg, map } = input {
                let aligned = l.kernel.sweep == Sweep::Elementwise && store_maps.iter().all(|s| *s == map);
                if let (false, ArgRef::Node(n)) = (aligned, l.args[arg.0 as usize]) {
                    apart.push(n);
                }
            }
        }
    }
    apart
}

/// A product's operand in memory: base, offset, batch, row and column strides as multiplied.
fn matrix(
    graph: &Graph,
    clusters: &Clusters,
    id: NodeId,
    transposed: bool,
) -> Result<(NodeId, i64, i64, i64, i64), Force> {
    let (base, place) = lower::in_memory(graph, clusters, id)?;
    let shape = graph.ty(id).shape();
    let rank = shape.rank();
    // The leading axes must step through memory evenly to be one batch.
    let mut batch: Option<(i64, usize)> = None;
    for axis in (0..rank - 2).rev().filter(|&a| shape[a] != 1) {
        let stride = place.coeffs[axis];
        batch = match batch {
            None => Some((stride, shape[axis])),
            Some((inner, n)) if stride == inner * n as i64 => Some((inner, n * shape[axis])),
            Some(_) => return Err(Force(id)),
        };
    }
    let (row, col) = (place.coeffs[rank - 2], place.coeffs[rank - 1]);
    let (row, col) = if transposed { (col, row) } else { (row, col) };
    Ok((base, place.offset, batch.map_or(0, |b| b.0), row, col))
}

fn opaque_unit(graph: &Graph, clusters: &Clusters, id: NodeId) -> Result<Unit, Force> {
    let node = graph.node(id);
    let mut unit = Unit::new(Work::Opaque(id), id, Vec::new(), vec![id]);
    match &node.op.lower {
        Lower::Gather | Lower::ScatterAdd => {
            for &input in &node.inputs {
                unit.reads.push(contiguous(graph, clusters, input)?);
            }
        }
        Lower::Join => {
            let strides = node.ty.shape().strides();
            if node.op.name == "pad" {
                let bits = node.ty.dtype().bits_of_f64(node.attrs.float("value"));
                unit.lowered.push(lower::lower_fill(graph, id, bits));
            }
            let mut start = 0;
            for &input in &node.inputs {
                let offset = if node.op.name == "pad" {
                    node.attrs.ints("low").iter().zip(&strides).map(|(l, s)| l * s).sum()
                } else {
                    let axis = node.attrs.size("axis");
                    start += graph.ty(input).shape()[axis] as i64;
                    (start - graph.ty(input).shape()[axis] as i64) * strides[axis]
                };
                let place = crate::ir::IndexMap { offset, strides: strides.clone() };
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
        _ => return Err(Force(id)),
    }
    unit.reads_apart = unit.reads.iter().copied().collect();
    Ok(unit)
}

/// Orders the units, gives every value memory, and writes the steps down.
fn schedule(graph: &Graph, clusters: Clusters, mut units: Vec<Unit>) -> Result<Plan, CompilerBug> {
    units.sort_by_key(|u| (u.order, matches!(u.work, Work::Cluster(_) | Work::Opaque(_))));
    let mut dag: DiGraph<usize, ()> = DiGraph::with_capacity(units.len(), units.len() * 2);
    let at: Vec<NodeIndex> = (0..units.len()).map(|i| dag.add_node(i)).collect();
    let mut maker: HashMap<NodeId, usize> = HashMap::new();
    for (i, unit) in units.iter().enumerate() {
        if !matches!(unit.work, Work::Check { .. } | Work::Keep(_)) {
            maker.extend(unit.writes.iter().map(|&n| (n, i)));
        }
    }
    for (i, unit) in units.iter().enumerate() {
        for read in &unit.reads {
            if let Some(&m) = maker.get(read).filter(|&&m| m != i) {
                dag.update_edge(at[m], at[i], ());
            }
        }
    }
    // Rows picked by index wait for the check of the index.
    for (i, unit) in units.iter().enumerate() {
        if let Work::Check { indices, .. } = unit.work {
            for (j, other) in units.iter().enumerate() {
                if matches!(other.work, Work::Opaque(_)) && other.reads.contains(&indices) {
                    dag.update_edge(at[i], at[j], ());
                }
            }
        }
    }
    let updates = Updates::new(graph, &units, &maker);
    let (order, copied) = updates.order(&dag, &units)?;
    Builder::new(graph, &clusters, &units).build(&order, &updates, &copied).map(|mut plan| {
        plan.edges = clusters.edges;
        plan.clusters = clusters.clusters.into_iter().map(|c| c.nodes).filter(|n| n.len() > 1).collect();
        plan
    })
}

/// Which units write which parameter or state in place.
struct Updates {
    /// For each unit, the (target, value) pairs that it would write in place.
    by_unit: Vec<Vec<(NodeId, NodeId)>>,
    /// Updates that cannot be in place, and why.
    never: Vec<(NodeId, NodeId, &'static str)>,
}

impl Updates {
    fn new(graph: &Graph, units: &[Unit], maker: &HashMap<NodeId, usize>) -> Self {
        let mut by_unit: Vec<Vec<(NodeId, NodeId)>> = vec![Vec::new(); units.len()];
        let mut never = Vec::new();
        let mut used: HashSet<NodeId> = HashSet::new();
        for output in graph.outputs() {
            let Role::Update(target) = output.role else { continue };
            let value = output.value;
            if value == target {
                continue;
            }
            let Some(&unit) = maker.get(&value) else {
                never.push((target, value, "the new value is another tensor's"));
                continue;
            };
            if !used.insert(value) {
                never.push((target, value, "the new value is used by two updates"));
            } else if units[unit].reads_apart.contains(&target) {
                never.push((target, value, "its step reads the old value at other places"));
            } else {
                by_unit[unit].push((target, value));
            }
        }
        Updates { by_unit, never }
    }

    /// A topological order in which units that update in place come as soon as every reader of the old value and every
    /// check is done; the updates for which that is impossible are returned.
    #[expect(clippy::type_complexity, reason = "an order and the updates it could not serve")]
    fn order(
        &self,
        dag: &DiGraph<usize, ()>,
        units: &[Unit],
    ) -> Result<(Vec<usize>, HashMap<NodeId, &'static str>), CompilerBug> {
        let n = units.len();
        let mut waits: Vec<usize> = vec![0; n];
        for edge in dag.edge_references() {
            waits[*dag.node_weight(edge.target()).unwrap_or(&0)] += 1;
        }
        let mut old_readers: HashMap<NodeId, HashSet<usize>> = HashMap::new();
        let targets: HashSet<NodeId> = self.by_unit.iter().flatten().map(|(t, _)| *t).collect();
        for (i, unit) in units.iter().enumerate() {
            for read in unit.reads.iter().filter(|r| targets.contains(r)) {
                old_readers.entry(*read).or_default().insert(i);
            }
        }
        let mut checks_left = units.iter().filter(|u| matches!(u.work, Work::Check { .. })).count();
        let mut ready: BinaryHeap<Reverse<(bool, usize)>> = BinaryHeap::new();
        let mut blocked: Vec<usize> = Vec::new();
        let mut copied: HashMap<NodeId, &'static str> = self.never.iter().map(|&(t, _, why)| (t, why)).collect();
        let is_update = |i: usize| !self.by_unit[i].is_empty();
        for i in (0..n).filter(|&i| waits[i] == 0) {
            ready.push(Reverse((!is_update(i), i)));
        }
        let mut order = Vec::with_capacity(n);
        let free = |i: usize, old: &HashMap<NodeId, HashSet<usize>>, checks: usize| {
            checks == 0
                && self.by_unit[i].iter().all(|(t, _)| old.get(t).is_none_or(|r| r.iter().all(|&reader| reader == i)))
        };
        while order.len() < n {
            let next = match ready.pop() {
                Some(Reverse((_, i))) if is_update(i) && !free(i, &old_readers, checks_left) => {
                    blocked.push(i);
                    continue;
                }
                Some(Reverse((_, i))) => i,
                // Only blocked units are left: the first goes ahead and writes beside the old value.
                None => {
                    blocked.sort_unstable();
                    if blocked.is_empty() {
                        return Err(CompilerBug::new("schedule", "the steps wait for each other"));
                    }
                    let i = blocked.remove(0);
                    for (target, _) in &self.by_unit[i] {
                        let why = if checks_left > 0 { "a check comes later" } else { "the old value is read later" };
                        copied.insert(*target, why);
                    }
                    i
                }
            };
            order.push(next);
            if matches!(units[next].work, Work::Check { .. }) {
                checks_left -= 1;
            }
            for read in &units[next].reads {
                if let Some(readers) = old_readers.get_mut(read) {
                    readers.remove(&next);
                }
            }
            for edge in dag.edges(NodeIndex::new(next)) {
                let target = *dag.node_weight(edge.target()).unwrap_or(&0);
                waits[target] -= 1;
                if waits[target] == 0 {
                    ready.push(Reverse((!is_update(target), target)));
                }
            }
            let (freed, still): (Vec<usize>, Vec<usize>) =
                blocked.drain(..).partition(|&i| free(i, &old_readers, checks_left));
            blocked = still;
            ready.extend(freed.into_iter().map(|i| Reverse((false, i))));
        }
        Ok((order, copied))
    }
}

struct Builder<'a> {
    graph: &'a Graph,
    clusters: &'a Clusters,
    units: &'a [Unit],
    buffers: Vec<BufferDecl>,
    of_node: HashMap<NodeId, BufferId>,
    of_partial: HashMap<ArgRef, BufferId>,
    counters: Option<BufferId>,
    steps: Vec<Step>,
    step_nodes: Vec<NodeId>,
    kernels: Vec<Kernel>,
    known_kernels: HashMap<Kernel, usize>,
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph, clusters: &'a Clusters, units: &'a [Unit]) -> Self {
        Builder {
            graph,
            clusters,
            units,
            buffers: Vec::new(),
            of_node: HashMap::new(),
            of_partial: HashMap::new(),
            counters: None,
            steps: Vec::new(),
            step_nodes: Vec::new(),
            kernels: Vec::new(),
            known_kernels: HashMap::new(),
        }
    }

    fn buffer(&mut self, name: String, dtype: DType, n_elements: usize, home: Home) -> BufferId {
        self.buffers.push(BufferDecl { name, dtype, n_elements, home, live: 0..0 });
        BufferId(self.buffers.len() as u32 - 1)
    }

    fn arena(&mut self, name: String, ty: &Type) -> BufferId {
        self.buffer(name, ty.dtype(), ty.shape().n_elements(), Home::Arena { offset: 0 })
    }

    fn node_buffer(&mut self, id: NodeId) -> BufferId {
        if let Some(&known) = self.of_node.get(&id) {
            return known;
        }
        let node = self.graph.node(id);
        let home = match &node.op.lower {
            Lower::Source(Source::Input) => Home::Input,
            Lower::Source(Source::Param) => Home::Param,
            Lower::Source(Source::State) => Home::State,
            Lower::Source(Source::Constant) if self.clusters.parts[id.index()] == Part::Buffer => {
                let empty = || Arc::new(TensorData::zeros(node.ty.dtype(), node.ty.shape()));
                Home::Const(node.attrs.tensor("value").cloned().unwrap_or_else(empty))
            }
            _ => Home::Arena { offset: 0 },
        };
        let name = match home {
            Home::Input | Home::Param | Home::State => node.attrs.str("name").to_owned(),
            _ => format!("{id} {}", node.op.name),
        };
        let buffer = self.buffer(name, node.ty.dtype(), node.ty.shape().n_elements(), home);
        self.of_node.insert(id, buffer);
        buffer
    }

    fn arg_buffer(&mut self, reference: ArgRef, kernel: &Kernel, dtype: DType) -> BufferId {
        match reference {
            ArgRef::Node(id) => self.node_buffer(id),
            ArgRef::Counters => match self.counters {
                Some(known) => known,
                None => {
                    let buffer = self.buffer("counters".into(), DType::I32, 3, Home::Counters);
                    self.counters = Some(buffer);
                    buffer
                }
            },
            ArgRef::Partial(..) => {
                if let Some(&known) = self.of_partial.get(&reference) {
                    return known;
                }
                let buffer = self.buffer("partials".into(), dtype, kernel.n_rows(), Home::Arena { offset: 0 });
                self.of_partial.insert(reference, buffer);
                buffer
            }
        }
    }

    fn call(&mut self, lowered: &Lowered) -> KernelCall {
        let mut args = Vec::new();
        for (arg, &reference) in lowered.kernel.args.iter().zip(&lowered.args) {
            args.push(self.arg_buffer(reference, &lowered.kernel, arg.dtype));
        }
        let kernel = *self.known_kernels.entry(lowered.kernel.clone()).or_insert_with(|| {
            self.kernels.push(lowered.kernel.clone());
            self.kernels.len() - 1
        });
        KernelCall { kernel, args }
    }

    fn push(&mut self, step: Step, node: NodeId) {
        self.steps.push(step);
        self.step_nodes.push(node);
    }

    fn build(
        mut self,
        order: &[usize],
        updates: &Updates,
        copied: &HashMap<NodeId, &'static str>,
    ) -> Result<Plan, CompilerBug> {
        // Values that are written straight to a parameter or state.
        let mut in_place: HashMap<NodeId, NodeId> = HashMap::new();
        for (target, value) in updates.by_unit.iter().flatten() {
            if !copied.contains_key(target) {
                in_place.insert(*value, *target);
            }
        }
        // Inputs keep their buffers even if nothing reads them, so that a step accepts what the program declares.
        for id in self.graph.ids() {
            if self.graph.node(id).op.name == "input" {
                self.node_buffer(id);
            }
        }
        for (&value, &target) in &in_place {
            let buffer = self.node_buffer(target);
            self.of_node.insert(value, buffer);
        }
        let mut kept: HashMap<NodeId, BufferId> = HashMap::new();
        for &i in order {
            self.emit(&self.units[i], &mut kept);
        }
        let mut updated: Vec<BufferId> = Vec::new();
        for output in self.graph.outputs() {
            let Role::Update(target) = output.role else { continue };
            let to = self.node_buffer(target);
            updated.push(to);
            if output.value == target || in_place.contains_key(&output.value) && in_place[&output.value] == target {
                continue;
            }
            let from = kept.get(&output.value).copied().unwrap_or_else(|| self.node_buffer(output.value));
            let reason = copied.get(&target).copied().unwrap_or("the new value is used elsewhere");
            self.push(Step::Copy { from, to, reason }, target);
        }
        let mut outputs = Vec::new();
        for output in self.graph.outputs().iter().filter(|o| o.role == Role::Result) {
            let buffer = kept.get(&output.value).copied().unwrap_or_else(|| self.node_buffer(output.value));
            outputs.push(PlanOutput { name: output.name.clone(), buffer, ty: self.graph.ty(output.value).clone() });
        }
        let mut plan = Plan {
            steps: self.steps,
            kernels: self.kernels,
            buffers: self.buffers,
            outputs,
            updated,
            arena_bytes: 0,
            edges: Vec::new(),
            clusters: Vec::new(),
            step_nodes: self.step_nodes,
        };
        arena::place(&mut plan);
        Ok(plan)
    }

    fn emit(&mut self, unit: &Unit, kept: &mut HashMap<NodeId, BufferId>) {
        match &unit.work {
            Work::Cluster(index) => match self.clusters.clusters[*index].product {
                None => {
                    for lowered in &unit.lowered {
                        let call = self.call(lowered);
                        self.push(Step::Kernel(call), unit.order);
                    }
                }
                Some(product) => self.emit_product(unit, product),
            },
            Work::Opaque(id) => self.emit_opaque(unit, *id),
            Work::Check { node, indices, bound } => {
                let origin = self.graph.node(*node).origin.clone();
                let indices = self.node_buffer(*indices);
                let op = self.graph.node(*node).op.name;
                self.push(Step::Check { indices, bound: *bound, op, origin }, *node);
            }
            Work::Keep(id) => {
                let from = self.node_buffer(*id);
                let ty = self.graph.ty(*id).clone();
                let name = format!("{} (kept)", self.buffers[from.index()].name);
                let to = self.arena(name, &ty);
                kept.insert(*id, to);
                self.push(Step::Copy { from, to, reason: "its value at the start of the step is asked for" }, *id);
            }
        }
    }

    fn emit_product(&mut self, unit: &Unit, product: NodeId) {
        let ty = self.graph.ty(product).clone();
        let shape = ty.shape();
        let rank = shape.rank();
        let node = self.graph.node(product);
        let operand = self.graph.ty(node.inputs[0]).shape();
        let k = if node.attrs.bool("ta") { operand[rank - 2] } else { operand[rank - 1] };
        let batch = shape[..rank - 2].iter().product();
        let dims = GemmDims { batch, m: shape[rank - 2], n: shape[rank - 1], k };
        let Some([a, b]) = unit.views else { return };
        let mut view = |(base, offset, batch_stride, row_stride, col_stride): (NodeId, i64, i64, i64, i64)| {
            MatrixView { buffer: self.node_buffer(base), offset, batch_stride, row_stride, col_stride }
        };
        let (a, b) = (view(a), view(b));
        // If nobody else reads the product itself, its tiles are made in the memory of one of the epilogue's results.
        let read_elsewhere = self.units.iter().any(|u| !std::ptr::eq(u, unit) && u.reads.contains(&product))
            || self.graph.outputs().iter().any(|o| o.value == product);
        if !read_elsewhere && !self.of_node.contains_key(&product) {
            let result = unit.writes.iter().copied().find(|&w| {
                w != product
                    && self.graph.ty(w) == &ty
                    && self.of_node.get(&w).is_none_or(|b| matches!(self.buffers[b.index()].home, Home::Arena { .. }))
            });
            if let Some(result) = result {
                let buffer = self.node_buffer(result);
                self.of_node.insert(product, buffer);
            }
        }
        let c = self.node_buffer(product);
        let epilogue = unit.lowered.first().map(|l| self.call(l));
        self.push(Step::Gemm { dims, dtype: ty.dtype(), a, b, c, epilogue }, product);
    }

    fn emit_opaque(&mut self, unit: &Unit, id: NodeId) {
        let node = self.graph.node(id);
        match &node.op.lower {
            Lower::Gather => {
                let (table, indices) = (self.node_buffer(unit.reads[0]), self.node_buffer(unit.reads[1]));
                let row = self.graph.ty(node.inputs[0]).shape()[1..].iter().product();
                let out = self.node_buffer(id);
                self.push(Step::Gather { table, indices, out, row }, id);
            }
            Lower::ScatterAdd => {
                let (from, indices) = (self.node_buffer(unit.reads[0]), self.node_buffer(unit.reads[1]));
                let row = node.ty.shape()[1..].iter().product();
                let out = self.node_buffer(id);
                self.push(Step::ScatterAdd { updates: from, indices, out, row }, id);
            }
            _ => {
                for lowered in &unit.lowered {
                    let call = self.call(lowered);
                    self.push(Step::Kernel(call), id);
                }
            }
        }
    }
}
