//! Clusters: which ops run in one kernel, and the reason for every edge.
//!
//! Nodes of a primitive graph play one of a few [`Part`]s. *Aliases* and *virtual* values have no memory: whoever reads them
//! computes indices or recomputes them. *Values* are computed by kernels, *opaque* nodes by steps of their own. Clusters
//! are sets of values (with at most one matrix product) that share loops: they grow along producer–consumer edges by
//! union-find, unless that would make a cluster wait for itself. Every edge between two nodes with memory gets a
//! [`Verdict`].
//!
//! It assumes a primitive graph whose reductions each run over one group of adjacent axes (the pass `canonicalize` sees to
//! that; the plan says so if not). It promises:
//! * clusters do not wait for each other in a circle;
//! * inside a cluster, members read each other at their own indices, and results of reductions at every element that was
//!   reduced, so a member is made once in each sweep that needs it;
//! * a cluster has at most one product, and reductions over one set of axes: with a product, its columns, in one sweep;
//!   otherwise reductions that wait for each other are sweeps of one kernel, one after the other; and reductions of rows may
//!   take along those of columns of the same elements, whose results none of them reads;
//! * the work is near-linear in the number of nodes: union by size, and cycle tests inside a window of the order.

mod columns;
mod fusions;
mod grow;
mod joins;
mod order;
mod parts;
mod reach;
mod values;
mod windows;

use std::collections::HashMap;
use std::fmt;

use cotangent_graph::{Graph, Lower, NodeId, Shape};
use smallvec::SmallVec;

pub use self::fusions::{Choice, Fusion, Fusions};
use crate::cost::CostModel;
pub use crate::memory::Part;
use crate::nest::{Frame, Refusal};

pub(crate) use joins::corners;
pub use joins::{Place, Places};
pub(crate) use parts::memory_of;
pub(crate) use values::{own_ops, scalar_ops};

/// Why two nodes do not share a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// This kind of fusion was turned off.
    Forbidden(Fusion),
    /// The reader is a step that reads memory.
    ReadsMemory(&'static str),
    /// The producer is a step that writes memory.
    WritesMemory(&'static str),
    /// The reader sees other indices than the producer makes (transposed, sliced, broadcast).
    OtherIndices,
    /// The reader needs the reduction's result at every element it was made of, but these are too many to be still in cache
    /// when they are swept again.
    SecondSweep,
    /// The two reduce over different axes, or run over different elements.
    OtherLoops,
    /// A kernel that finishes a product's tiles cannot reduce like this; the text says what is in the way.
    ReducesProduct(&'static str),
    /// The cluster already finishes another product.
    TwoProducts,
    /// The cluster would wait for itself through this op.
    Cycle(&'static str),
    /// The two are so far apart that nobody looked whether the cluster would wait for itself.
    TooFarApart,
    /// The kernel would be larger than the cost model allows.
    TooLarge,
    /// Something that one of the two reads does not step evenly through memory along axes that must be one loop together: those
    /// reduced, or the rows of a product.
    Uneven,
    /// One of the two reads around a border, and together they would reduce.
    Border,
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Uneven => Reason::Uneven,
            Refusal::Border => Reason::Border,
            Refusal::Product(why) => Reason::ReducesProduct(why),
        }
    }
}

/// A decision about an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One kernel computes both.
    Fuse(Fusion),
    /// The value goes through memory.
    Keep(Reason),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Fuse(fusion) => write!(f, "fuse {fusion}: {}", fusion.doc()),
            Verdict::Keep(Reason::Forbidden(fusion)) => write!(f, "keep: fusion `{fusion}` is turned off"),
            Verdict::Keep(Reason::ReadsMemory(op)) => write!(f, "keep: `{op}` reads its operands from memory"),
            Verdict::Keep(Reason::WritesMemory(op)) => write!(f, "keep: `{op}` writes its result to memory"),
            Verdict::Keep(Reason::OtherIndices) => f.write_str("keep: read at other indices than it is made"),
            Verdict::Keep(Reason::SecondSweep) => {
                f.write_str("keep: what was reduced is too long to be in cache for a second sweep")
            }
            Verdict::Keep(Reason::OtherLoops) => f.write_str("keep: the loops differ"),
            Verdict::Keep(Reason::ReducesProduct(why)) => write!(f, "keep: a product's epilogue {why}"),
            Verdict::Keep(Reason::TwoProducts) => f.write_str("keep: the kernel already finishes another product"),
            Verdict::Keep(Reason::Cycle(op)) => write!(f, "keep: the kernel would wait for itself through `{op}`"),
            Verdict::Keep(Reason::TooFarApart) => {
                f.write_str("keep: too far apart to see whether the kernel would wait for itself")
            }
            Verdict::Keep(Reason::TooLarge) => f.write_str("keep: the kernel would be too large"),
            Verdict::Keep(Reason::Uneven) => {
                f.write_str("keep: something is not read evenly along axes that would have to be one loop")
            }
            Verdict::Keep(Reason::Border) => {
                f.write_str("keep: a border is chosen for whole rows, which must not be reduced")
            }
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
    /// For each of them, the sweep that makes it: one more than that of the reductions whose results it needs at every
    /// element.
    pub sweeps: Vec<usize>,
    /// For each of them, whether there is one for each row or column that is reduced, rather than for each element.
    pub is_reduced: Vec<bool>,
    /// For each of them, whether it is reduced along the columns of a cluster that reduces rows, or goes on with such
    /// results. Those are known when the whole kernel is over.
    pub is_column: Vec<bool>,
    /// The elements that the loops run over.
    pub domain: Shape,
    /// The reduction loops, if there is a reduction.
    pub loops: Option<Loops>,
    /// The axes reduced.
    pub axes: SmallVec<[usize; 4]>,
    /// The product whose tiles the cluster finishes.
    pub product: Option<NodeId>,
}

impl Cluster {
    /// What its kernel is to do in loops of these extents.
    pub(crate) fn frame<'a>(&'a self, graph: &Graph, extents: &'a [usize]) -> Frame<'a> {
        Frame {
            extents,
            axes: &self.axes,
            product: self.product.map(|product| matches!(graph.node(product).op.lower, Lower::Conv(_))),
            carries_columns: self.is_column.contains(&true),
            n_sweeps: self.sweeps.iter().copied().max().unwrap_or(0) + 1,
        }
    }
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
    /// For each node, whether it reduces (a reduction over axes of extent 1 does not: it is a view).
    pub reduces: Vec<bool>,
    /// For each node, whether it reduces the few elements of a window: its readers' loops run over its own elements, and the
    /// reduction is written out in the body.
    pub unrolled: Vec<bool>,
    /// The constants of decisions.
    pub cost: CostModel,
    /// For each node, whether somebody needs it in memory: it is an output, checked, or read outside of its cluster.
    pub needed: Vec<bool>,
    /// Values that lie in the memory of what they are joined into, in all of their places.
    pub placed: HashMap<NodeId, Places>,
    /// Nodes that were given memory because a reader could not be lowered otherwise, each with the reason.
    pub forced: Vec<(NodeId, &'static str)>,
}

impl Clusters {
    /// The members of a cluster that must be stored.
    pub fn stored(&self, index: usize) -> Vec<NodeId> {
        self.clusters[index].nodes.iter().copied().filter(|n| self.needed[n.index()]).collect()
    }
}

/// At which indices a node is read. A reduction's own indices are those of its operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The reader's own.
    Own,
    /// The reader's own along some axes, repeated along the others: axis `i` of the node is axis `[i]` of the reader. An
    /// axis of extent 1 may have any number here.
    Along(SmallVec<[usize; 4]>),
    /// Any others.
    Other,
}

/// A read of one node by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The node read.
    pub node: NodeId,
    /// At which indices.
    pub at: At,
}

/// What the clusterer may do.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// Which kinds of fusion.
    pub fusions: Fusions,
    /// The constants of decisions.
    pub cost: CostModel,
}

/// Clusters a primitive graph.
pub fn cluster(graph: &Graph, options: &ClusterOptions) -> Clusters {
    grow::run(graph, options, parts::Roles::new(graph, options))
}
