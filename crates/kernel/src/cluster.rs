//! Clusters: which ops run in one kernel, and the reason for every edge.
//!
//! Nodes of a primitive graph play one of a few [`Part`]s. *Views* and *virtual* values have no memory: whoever reads them
//! computes indices or recomputes them. *Values* are computed by kernels, *opaque* nodes by steps of their own. Clusters
//! are sets of values (with at most one matrix product) that share loops: they grow along producer–consumer edges by
//! union-find, unless that would make a cluster wait for itself. Every edge between two nodes with memory gets a
//! [`Verdict`].

use std::collections::{HashMap, HashSet};
use std::fmt;

use cotangent_graph::eval::reduction_groups;
use cotangent_graph::op::ScalarCx;
use cotangent_graph::{Graph, Lower, NodeId, Role, Shape, Source};
use cotangent_scalar::BodyBuilder;
use smallvec::SmallVec;

use crate::cost::CostModel;

/// What a node is to the clusterer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Nothing needs it.
    Dead,
    /// A buffer that exists before the step: input, parameter, state or constant tensor.
    Buffer,
    /// Other indices into its operand.
    View,
    /// Recomputed by every reader: scalar constants, indices, random numbers, cheap pointwise values.
    Virtual,
    /// Computed by a kernel.
    Value,
    /// A matrix product.
    Product,
    /// Computed by a step of its own.
    Opaque,
}

/// Why two nodes share a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Both run over the same elements.
    SameElements,
    /// The producer's elements are reduced as they are made.
    IntoReduction,
    /// The reader continues with the reduction's result.
    OutOfReduction,
    /// The product's tiles are finished while they are in cache.
    Epilogue,
    /// The producer is cheap and is recomputed by its reader.
    Recomputed,
}

/// Why two nodes do not share a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Fusion was turned off.
    FusionOff,
    /// The reader is a step that reads memory.
    ReadsMemory(&'static str),
    /// The producer is a step that writes memory.
    WritesMemory(&'static str),
    /// The reader sees other indices than the producer makes (transposed, sliced, broadcast).
    OtherIndices,
    /// The reader needs the reduction's result at every element it was made of: a second sweep.
    SecondSweep,
    /// The two reduce over different axes, or run over different elements.
    OtherLoops,
    /// A kernel that finishes a product's tiles cannot reduce.
    ReducesProduct,
    /// The cluster already finishes another product.
    TwoProducts,
    /// The cluster would wait for itself through this op.
    Cycle(&'static str),
    /// The kernel would be larger than the cost model allows.
    TooLarge,
    /// An earlier attempt could not be lowered: these loops do not merge.
    CannotMerge,
}

/// A decision about an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One kernel computes both.
    Fuse(Joined),
    /// The value goes through memory.
    Keep(Reason),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Fuse(Joined::SameElements) => f.write_str("fuse: same elements"),
            Verdict::Fuse(Joined::IntoReduction) => f.write_str("fuse: reduced as it is made"),
            Verdict::Fuse(Joined::OutOfReduction) => f.write_str("fuse: continues with the reduction's result"),
            Verdict::Fuse(Joined::Epilogue) => {
                f.write_str("fuse: finishes the product's tiles while they are in cache")
            }
            Verdict::Fuse(Joined::Recomputed) => f.write_str("fuse: cheap, recomputed by its reader"),
            Verdict::Keep(Reason::FusionOff) => f.write_str("keep: fusion is turned off"),
            Verdict::Keep(Reason::ReadsMemory(op)) => write!(f, "keep: `{op}` reads its operands from memory"),
            Verdict::Keep(Reason::WritesMemory(op)) => write!(f, "keep: `{op}` writes its result to memory"),
            Verdict::Keep(Reason::OtherIndices) => f.write_str("keep: read at other indices than it is made"),
            Verdict::Keep(Reason::SecondSweep) => {
                f.write_str("keep: the reduction's result is needed in a second sweep")
            }
            Verdict::Keep(Reason::OtherLoops) => f.write_str("keep: the loops differ"),
            Verdict::Keep(Reason::ReducesProduct) => f.write_str("keep: a product's epilogue does not reduce"),
            Verdict::Keep(Reason::TwoProducts) => f.write_str("keep: the kernel already finishes another product"),
            Verdict::Keep(Reason::Cycle(op)) => write!(f, "keep: the kernel would wait for itself through `{op}`"),
            Verdict::Keep(Reason::TooLarge) => f.write_str("keep: the kernel would be too large"),
            Verdict::Keep(Reason::CannotMerge) => f.write_str("keep: the loops do not merge into one"),
        }
    }
}

/// A producer, a reader, and what was decided.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The producer.
    pub from: NodeId,
    /// The reader.
    pub to: NodeId,
    /// The decision.
    pub verdict: Verdict,
}

/// The loops of a reduction: extents before, of and after the reduced axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loops {
    /// Product of the extents before.
    pub outer: usize,
    /// Extent reduced.
    pub reduced: usize,
    /// Product of the extents after; 1 means the innermost axes are reduced.
    pub inner: usize,
}

/// Values that share loops.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The values (and the product), in topological order.
    pub nodes: Vec<NodeId>,
    /// The elements that the loops run over.
    pub domain: Shape,
    /// The reduction loops, if there is a reduction.
    pub loops: Option<Loops>,
    /// The axes reduced.
    pub axes: SmallVec<[usize; 4]>,
    /// The product whose tiles the cluster finishes.
    pub product: Option<NodeId>,
}

/// The result of clustering.
#[derive(Clone, Debug)]
pub struct Clusters {
    /// The part of each node.
    pub parts: Vec<Part>,
    /// The cluster of each value and product.
    pub of: Vec<Option<usize>>,
    /// The clusters, in no particular order.
    pub clusters: Vec<Cluster>,
    /// Every edge between nodes that have memory or are recomputed.
    pub edges: Vec<Edge>,
    /// For each node that is computed, the computed nodes and buffers it reads (through views and virtual values).
    pub reads: Vec<SmallVec<[Read; 4]>>,
}

/// A read of one node by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The node read.
    pub node: NodeId,
    /// Whether at the reader's own indices, through no view.
    pub direct: bool,
}

/// What the clusterer may do.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Whether ops share kernels at all.
    pub fuse: bool,
    /// The constants of decisions.
    pub cost: CostModel,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions { fuse: true, cost: CostModel::default() }
    }
}

/// Clusters a primitive graph. Nodes in `forced` are given memory and are not fused with their readers.
pub fn cluster(graph: &Graph, options: &ClusterOptions, forced: &HashSet<NodeId>) -> Clusters {
    let parts = parts(graph, options, forced);
    let reads = reads(graph, &parts);
    Clusterer::new(graph, options, forced, parts, reads).run()
}

/// Scalar operations of a node on its own.
fn own_ops(graph: &Graph, id: NodeId) -> usize {
    let node = graph.node(id);
    match &node.op.lower {
        Lower::Scalar(lower) => {
            let mut s = BodyBuilder::new();
            let args: SmallVec<[_; 3]> =
                node.inputs.iter().enumerate().map(|(k, i)| s.input(k as u32, graph.ty(*i).dtype())).collect();
            let root = lower(&mut s, &args, &ScalarCx { attrs: &node.attrs, dtype: node.ty.dtype() });
            s.finish(&[root]).0.n_ops()
        }
        Lower::Source(Source::Rng) => 100,
        _ => 1,
    }
}

/// Reshapes that only add or drop axes of extent 1 can be seen through index by index.
pub(crate) fn is_squeeze(from: &Shape, to: &Shape) -> bool {
    from.iter().filter(|&&d| d != 1).eq(to.iter().filter(|&&d| d != 1))
}

fn parts(graph: &Graph, options: &ClusterOptions, forced: &HashSet<NodeId>) -> Vec<Part> {
    let live = graph.live();
    let readers = graph.readers();
    let is_output: HashSet<NodeId> = graph.outputs().iter().map(|o| o.value).collect();
    let mut parts = vec![Part::Dead; graph.n_nodes()];
    // Full-sized operands that a virtual value's readers would load in its place, and its operations.
    let mut leaves: Vec<f64> = vec![0.0; graph.n_nodes()];
    let mut ops: Vec<usize> = vec![0; graph.n_nodes()];
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        let needs_memory = is_output.contains(&id) || forced.contains(&id);
        parts[id.index()] = match &node.op.lower {
            Lower::Source(Source::Input | Source::Param | Source::State) => Part::Buffer,
            Lower::Source(Source::Constant) if node.ty.shape().rank() > 0 => Part::Buffer,
            Lower::Source(Source::Constant) => {
                if needs_memory {
                    Part::Value
                } else {
                    Part::Virtual
                }
            }
            Lower::Source(Source::Iota | Source::Rng) if needs_memory || !options.fuse => Part::Value,
            Lower::Source(Source::Iota | Source::Rng) => Part::Virtual,
            Lower::View(_) | Lower::Check | Lower::Identity => {
                if needs_memory {
                    Part::Value
                } else {
                    Part::View
                }
            }
            Lower::Gemm => Part::Product,
            Lower::Reduce(_) => Part::Value,
            Lower::Scalar(_) => Part::Value,
            _ => Part::Opaque,
        };
        let bytes = node.ty.n_bytes().max(1) as f64;
        match parts[id.index()] {
            Part::View => {
                let operand = node.inputs[0];
                let size = graph.ty(operand).n_bytes().max(1) as f64;
                ops[id.index()] = ops[operand.index()];
                leaves[id.index()] = leaves[operand.index()] * (size / bytes).min(1.0);
            }
            Part::Virtual => {}
            Part::Value if matches!(node.op.lower, Lower::Scalar(_)) => {
                let hard = |i: &NodeId| {
                    let base = base_of(graph, &parts, *i);
                    parts[base.index()] != Part::Value || matches!(graph.node(base).op.lower, Lower::Reduce(_))
                };
                let n_ops = own_ops(graph, id) + node.inputs.iter().map(|i| ops[i.index()]).sum::<usize>();
                let n_leaves: f64 = node.inputs.iter().map(|i| leaves[i.index()]).sum();
                let seen_through = readers[id.index()].iter().filter(|r| live[r.index()]).all(|&r| {
                    let reader = graph.node(r);
                    match &reader.op.lower {
                        Lower::Scalar(_) | Lower::Reduce(_) => true,
                        Lower::View(_) => {
                            let reshape = reader.op.name == "reshape";
                            !reshape || is_squeeze(node.ty.shape(), reader.ty.shape())
                        }
                        _ => false,
                    }
                });
                let k = readers[id.index()].iter().filter(|r| live[r.index()]).count() as f64;
                let worth = k * n_leaves <= n_leaves + 1.0 + k;
                let cheap = n_ops <= options.cost.cheap_ops && node.inputs.iter().all(hard);
                if options.fuse && !needs_memory && cheap && seen_through && worth && k > 0.0 {
                    parts[id.index()] = Part::Virtual;
                    (ops[id.index()], leaves[id.index()]) = (n_ops, n_leaves);
                } else {
                    leaves[id.index()] = 1.0;
                }
            }
            _ => leaves[id.index()] = 1.0,
        }
    }
    parts
}

/// The node whose memory a chain of views reads.
fn base_of(graph: &Graph, parts: &[Part], mut id: NodeId) -> NodeId {
    while parts[id.index()] == Part::View {
        id = graph.node(id).inputs[0];
    }
    id
}

/// For each computed node, what it reads.
fn reads(graph: &Graph, parts: &[Part]) -> Vec<SmallVec<[Read; 4]>> {
    let mut reads: Vec<SmallVec<[Read; 4]>> = vec![SmallVec::new(); graph.n_nodes()];
    for id in graph.ids() {
        if matches!(parts[id.index()], Part::Dead | Part::Buffer) {
            continue;
        }
        let through_view = parts[id.index()] == Part::View || matches!(graph.node(id).op.lower, Lower::View(_));
        let mut found: SmallVec<[Read; 4]> = SmallVec::new();
        for &input in &graph.node(id).inputs {
            let inner: SmallVec<[Read; 4]> = match parts[input.index()] {
                Part::View | Part::Virtual => reads[input.index()].clone(),
                _ => SmallVec::from_iter([Read { node: input, direct: true }]),
            };
            for mut read in inner {
                read.direct &= !through_view;
                match found.iter_mut().find(|r| r.node == read.node) {
                    Some(known) => known.direct &= read.direct,
                    None => found.push(read),
                }
            }
        }
        reads[id.index()] = found;
    }
    reads
}

struct Clusterer<'a> {
    graph: &'a Graph,
    options: &'a ClusterOptions,
    forced: &'a HashSet<NodeId>,
    parts: Vec<Part>,
    reads: Vec<SmallVec<[Read; 4]>>,
    /// Computed readers of each computed node or buffer.
    readers: Vec<SmallVec<[NodeId; 4]>>,
    parent: Vec<u32>,
    groups: HashMap<u32, Group>,
}

#[derive(Clone, Debug)]
struct Group {
    nodes: Vec<NodeId>,
    domain: Shape,
    loops: Option<Loops>,
    axes: SmallVec<[usize; 4]>,
    product: Option<NodeId>,
    /// Members at the reduced shape.
    has_reduced: bool,
    n_ops: usize,
    first: NodeId,
    last: NodeId,
}

impl<'a> Clusterer<'a> {
    fn new(
        graph: &'a Graph,
        options: &'a ClusterOptions,
        forced: &'a HashSet<NodeId>,
        parts: Vec<Part>,
        reads: Vec<SmallVec<[Read; 4]>>,
    ) -> Self {
        let mut readers: Vec<SmallVec<[NodeId; 4]>> = vec![SmallVec::new(); graph.n_nodes()];
        let mut groups = HashMap::new();
        for id in graph.ids() {
            if !matches!(parts[id.index()], Part::Value | Part::Product | Part::Opaque) {
                continue;
            }
            for read in &reads[id.index()] {
                readers[read.node.index()].push(id);
            }
            if parts[id.index()] != Part::Opaque {
                groups.insert(id.0, group_of(graph, id, parts[id.index()]));
            }
        }
        let parent = (0..graph.n_nodes() as u32).collect();
        Clusterer { graph, options, forced, parts, reads, readers, parent, groups }
    }

    fn find(&self, id: NodeId) -> u32 {
        let mut root = id.0;
        while self.parent[root as usize] != root {
            root = self.parent[root as usize];
        }
        root
    }

    fn run(mut self) -> Clusters {
        let mut edges = Vec::new();
        for id in self.graph.ids() {
            match self.parts[id.index()] {
                Part::Virtual => {
                    let from = self.graph.node(id);
                    if matches!(from.op.lower, Lower::Scalar(_)) {
                        let verdict = Verdict::Fuse(Joined::Recomputed);
                        let to =
                            self.graph.ids().skip(id.index() + 1).find(|r| self.graph.node(*r).inputs.contains(&id));
                        edges.extend(to.map(|to| Edge { from: id, to, verdict }));
                    }
                }
                Part::Value | Part::Product | Part::Opaque => {
                    for read in self.reads[id.index()].clone() {
                        if matches!(self.parts[read.node.index()], Part::Value | Part::Product | Part::Opaque) {
                            let verdict = self.decide(read, id);
                            edges.push(Edge { from: read.node, to: id, verdict });
                        }
                    }
                }
                Part::Dead | Part::Buffer | Part::View => {}
            }
        }
        let mut of = vec![None; self.graph.n_nodes()];
        let mut clusters = Vec::new();
        let mut roots: Vec<u32> = self.groups.keys().copied().collect();
        roots.sort_unstable_by_key(|r| self.groups[r].first);
        for root in roots {
            let Some(mut group) = self.groups.remove(&root) else { continue };
            group.nodes.sort_unstable();
            for node in &group.nodes {
                of[node.index()] = Some(clusters.len());
            }
            clusters.push(Cluster {
                nodes: group.nodes,
                domain: group.domain,
                loops: group.loops,
                axes: group.axes,
                product: group.product,
            });
        }
        Clusters { parts: self.parts, of, clusters, edges, reads: self.reads }
    }

    fn decide(&mut self, read: Read, to: NodeId) -> Verdict {
        let from = read.node;
        let (from_op, to_op) = (self.graph.node(from).op.name, self.graph.node(to).op.name);
        if self.parts[to.index()] != Part::Value {
            return Verdict::Keep(Reason::ReadsMemory(to_op));
        }
        if self.parts[from.index()] == Part::Opaque {
            return Verdict::Keep(Reason::WritesMemory(from_op));
        }
        if !self.options.fuse {
            return Verdict::Keep(Reason::FusionOff);
        }
        let (a, b) = (self.find(from), self.find(to));
        if a == b {
            return self.within(read, to);
        }
        if self.forced.contains(&from) || self.forced.contains(&to) {
            return Verdict::Keep(Reason::CannotMerge);
        }
        match self.joint(read, to) {
            Err(reason) => Verdict::Keep(reason),
            Ok((joined, group)) => match self.path_outside(a, b) {
                Some(through) => Verdict::Keep(Reason::Cycle(through)),
                None => {
                    self.parent[a as usize] = b;
                    self.groups.remove(&a);
                    self.groups.insert(b, group);
                    Verdict::Fuse(joined)
                }
            },
        }
    }

    /// The verdict on an edge inside a cluster that other edges already joined.
    fn within(&self, read: Read, to: NodeId) -> Verdict {
        let from = self.graph.node(read.node);
        let joined = match (&from.op.lower, &self.graph.node(to).op.lower) {
            (Lower::Gemm, _) => Joined::Epilogue,
            (_, Lower::Reduce(_)) => Joined::IntoReduction,
            (Lower::Reduce(_), _) => Joined::OutOfReduction,
            _ => Joined::SameElements,
        };
        Verdict::Fuse(joined)
    }

    /// The cluster that `read.node` and `to` would make, if their loops fit.
    fn joint(&self, read: Read, to: NodeId) -> Result<(Joined, Group), Reason> {
        let (a, b) = (&self.groups[&self.find(read.node)], &self.groups[&self.find(to)]);
        let from_reduces = matches!(self.graph.node(read.node).op.lower, Lower::Reduce(_));
        if !read.direct {
            let back = from_reduces && a.domain == b.domain && a.domain != *self.graph.ty(read.node).shape();
            return Err(if back { Reason::SecondSweep } else { Reason::OtherIndices });
        }
        // The space in which the producer lives: all elements, or the reduced shape after a reduction.
        let in_reduced_space = from_reduces || self.is_reduced_member(a, read.node);
        let to_reduces = matches!(self.graph.node(to).op.lower, Lower::Reduce(_));
        let (joined, domain, loops, axes) = if in_reduced_space {
            // The reader must be pointwise at the reduced shape, alone or with others like it.
            if b.loops.is_some() || b.domain != *self.graph.ty(read.node).shape() || b.product.is_some() {
                return Err(Reason::OtherLoops);
            }
            (Joined::OutOfReduction, a.domain.clone(), a.loops, a.axes.clone())
        } else {
            if a.domain != b.domain {
                return Err(Reason::OtherLoops);
            }
            match (a.loops, b.loops) {
                (Some(x), Some(y)) if x != y || a.axes != b.axes => return Err(Reason::OtherLoops),
                _ => {}
            }
            let product = self.graph.node(read.node).op.name == "matmul";
            let joined = match (product, to_reduces) {
                (true, _) => Joined::Epilogue,
                (_, true) => Joined::IntoReduction,
                _ => Joined::SameElements,
            };
            let axes = if a.loops.is_some() { a.axes.clone() } else { b.axes.clone() };
            (joined, a.domain.clone(), a.loops.or(b.loops), axes)
        };
        if a.product.is_some() && b.product.is_some() {
            return Err(Reason::TwoProducts);
        }
        let product = a.product.or(b.product);
        if product.is_some() && loops.is_some() {
            return Err(Reason::ReducesProduct);
        }
        // A tile's epilogue sees that tile only: no member may read another at other indices.
        let member = |id: NodeId| a.nodes.contains(&id) || b.nodes.contains(&id);
        let elsewhere = |n: &NodeId| self.reads[n.index()].iter().any(|r| !r.direct && member(r.node));
        if product.is_some() && a.nodes.iter().chain(&b.nodes).any(elsewhere) {
            return Err(Reason::OtherIndices);
        }
        // A member at the full shape must not wait for a reduction of the same sweep.
        if loops.is_some() && self.waits_for_reduction(a, b) {
            return Err(Reason::SecondSweep);
        }
        let n_ops = a.n_ops + b.n_ops;
        let n_args: HashSet<NodeId> =
            a.nodes.iter().chain(&b.nodes).flat_map(|n| self.reads[n.index()].iter().map(|r| r.node)).collect();
        if n_ops > self.options.cost.max_ops || n_args.len() > self.options.cost.max_args {
            return Err(Reason::TooLarge);
        }
        let nodes: Vec<NodeId> = a.nodes.iter().chain(&b.nodes).copied().collect();
        let (first, last) = (a.first.min(b.first), a.last.max(b.last));
        let has_reduced = a.has_reduced || b.has_reduced || in_reduced_space;
        Ok((joined, Group { nodes, domain, loops, axes, product, has_reduced, n_ops, first, last }))
    }

    /// Whether a member of a group with a reduction lives at the reduced shape.
    fn is_reduced_member(&self, group: &Group, id: NodeId) -> bool {
        group.loops.is_some()
            && !matches!(self.graph.node(id).op.lower, Lower::Reduce(_))
            && self.reads[id.index()].iter().any(|r| {
                group.nodes.contains(&r.node)
                    && r.direct
                    && (matches!(self.graph.node(r.node).op.lower, Lower::Reduce(_))
                        || self.is_reduced_member(group, r.node))
            })
    }

    /// Whether, in the union of two groups, a value at the full shape reads a reduced one (through a broadcast).
    fn waits_for_reduction(&self, a: &Group, b: &Group) -> bool {
        let member = |id: NodeId| a.nodes.contains(&id) || b.nodes.contains(&id);
        let reduced: HashSet<NodeId> = a
            .nodes
            .iter()
            .chain(&b.nodes)
            .copied()
            .filter(|&n| {
                let group = if a.nodes.contains(&n) { a } else { b };
                matches!(self.graph.node(n).op.lower, Lower::Reduce(_)) || self.is_reduced_member(group, n)
            })
            .collect();
        a.nodes
            .iter()
            .chain(&b.nodes)
            .any(|n| self.reads[n.index()].iter().any(|r| !r.direct && member(r.node) && reduced.contains(&r.node)))
    }

    /// A node outside both clusters on a path from the first to the second, if there is one.
    fn path_outside(&self, a: u32, b: u32) -> Option<&'static str> {
        let (from, to) = (&self.groups[&a], &self.groups[&b]);
        let limit = to.last;
        let mut seen: HashSet<u32> = HashSet::new();
        let mut stack: Vec<(NodeId, NodeId)> = Vec::new();
        let outside = |id: NodeId| {
            let root = self.find(id);
            root != a && root != b
        };
        for &n in &from.nodes {
            stack.extend(self.readers[n.index()].iter().filter(|&&r| outside(r) && r < limit).map(|&r| (r, r)));
        }
        while let Some((id, via)) = stack.pop() {
            let root = self.find(id);
            if !seen.insert(root) {
                continue;
            }
            if seen.len() > self.options.cost.max_search {
                return Some(self.graph.node(via).op.name);
            }
            let alone = [id];
            let members: &[NodeId] = self.groups.get(&root).map_or(&alone, |g| &g.nodes);
            for m in members {
                for &r in &self.readers[m.index()] {
                    let reader = self.find(r);
                    if reader == b {
                        return Some(self.graph.node(via).op.name);
                    }
                    // The way may lead back into the first cluster only if that is a cycle already; it is not.
                    if reader != a && r < limit {
                        stack.push((r, via));
                    }
                }
            }
        }
        None
    }
}

fn group_of(graph: &Graph, id: NodeId, part: Part) -> Group {
    let node = graph.node(id);
    let (domain, loops, axes) = match &node.op.lower {
        Lower::Reduce(_) => {
            let shape = graph.ty(node.inputs[0]).shape();
            let axes = node.attrs.sizes("axes");
            let groups = reduction_groups(shape, &axes);
            let loops = groups.first().map(|&(outer, reduced, inner)| Loops { outer, reduced, inner });
            (shape.clone(), Some(loops.unwrap_or(Loops { outer: shape.n_elements(), reduced: 1, inner: 1 })), axes)
        }
        _ => (node.ty.shape().clone(), None, SmallVec::new()),
    };
    let n_ops = if part == Part::Product { 0 } else { own_ops(graph, id) };
    Group {
        nodes: vec![id],
        domain,
        loops,
        axes,
        product: (part == Part::Product).then_some(id),
        has_reduced: loops.is_some(),
        n_ops,
        first: id,
        last: id,
    }
}

/// The values of a cluster that others need: outputs of the graph, or read outside.
pub fn stored(graph: &Graph, clusters: &Clusters, index: usize) -> Vec<NodeId> {
    let mut needed: HashSet<NodeId> = HashSet::new();
    for output in graph.outputs() {
        needed.insert(output.value);
        if let Role::Update(target) = output.role {
            needed.insert(target);
        }
    }
    for id in graph.ids() {
        if matches!(clusters.parts[id.index()], Part::Value | Part::Product | Part::Opaque) {
            let own = clusters.of[id.index()];
            needed.extend(
                clusters.reads[id.index()]
                    .iter()
                    .filter(|r| own.is_none() || clusters.of[r.node.index()] != own)
                    .map(|r| r.node),
            );
        }
    }
    clusters.clusters[index].nodes.iter().copied().filter(|n| needed.contains(n)).collect()
}
