//! Which reductions of windows are written out in the body of a kernel over their results, and what goes with them.

use cotangent_graph::eval::reduction_groups;
use cotangent_graph::op::{AxisMap, ViewMap};
use cotangent_graph::ops::view::PAD;
use cotangent_graph::{Graph, Lower, Node, NodeId};
use cotangent_scalar::DType;

use super::values::{own_ops, sees_through};
use super::{ClusterOptions, Fusion};
use crate::cost::{BORDER_OPS, MOST_TAPS};

/// Reductions of the few elements of windows, and what they reduce.
pub(super) struct WrittenOut {
    /// Whether a node is such a reduction: it is written out in the body of a kernel over its own elements, for loops over the
    /// elements of overlapping windows do not merge into one, and windows in memory are many times what they are views of.
    pub(super) unrolled: Vec<bool>,
    /// Whether a pointwise node is computed where such reductions combine it, and nowhere else.
    pub(super) inlined: Vec<bool>,
}

impl WrittenOut {
    pub(super) fn new(graph: &Graph, options: &ClusterOptions, needs_memory: impl Fn(NodeId) -> bool) -> Self {
        let n = graph.n_nodes();
        let mut windows = WrittenOut { unrolled: vec![false; n], inlined: vec![false; n] };
        if !options.fusions.allows(Fusion::Windows) {
            return windows;
        }
        // The operations on the way from a view of windows, for what is made of one element by element.
        let mut ops: Vec<Option<usize>> = vec![None; n];
        // How often the body of whoever combines a node has it, and the operations of that body.
        let mut body: Vec<(usize, usize)> = vec![(1, 0); n];
        for id in graph.ids() {
            let node = graph.node(id);
            let below = node.inputs.iter().filter_map(|input| ops[input.index()]).reduce(|a, b| a.saturating_add(b));
            match &node.op.lower {
                Lower::View(map) => {
                    let map = map(&node.attrs, graph.ty(node.inputs[0]).shape(), node.ty.shape());
                    let overlaps = matches!(map, ViewMap::Affine(axes) if axes.iter().any(|a| a.moves.len() > 1));
                    ops[id.index()] = if overlaps { Some(0) } else { below };
                }
                Lower::Join if node.is(&PAD) => ops[id.index()] = below,
                Lower::Scalar(_) => ops[id.index()] = below.map(|ops| ops.saturating_add(own_ops(graph, id))),
                Lower::Identity => ops[id.index()] = below,
                Lower::Reduce(_) => {
                    let from = graph.ty(node.inputs[0]).shape();
                    let groups = reduction_groups(from, &node.attrs.sizes("axes"));
                    let (&[(_, n_taps, _)], Some(ops)) = (groups.as_slice(), below) else { continue };
                    body[id.index()] = (n_taps, n_taps.saturating_mul(ops.saturating_add(1)));
                    let fits = n_taps <= MOST_TAPS && body[id.index()].1 <= options.cost.max_kernel_ops;
                    windows.unrolled[id.index()] = fits && node.ty.dtype() != DType::Bool && !from.contains(&0);
                }
                _ => {}
            }
        }
        // Upwards from the reductions, and from copies that keep elements side by side: what nothing else reads.
        let (live, readers) = (graph.live(), graph.readers());
        // Whether a node is read so, and whether some elements of it are read several times.
        let (mut leads, mut repeats) = (vec![false; n], vec![false; n]);
        for id in graph.ids().rev().filter(|id| live[id.index()]) {
            let (node, i) = (graph.node(id), id.index());
            let grows = || node.ty.shape().n_elements() > graph.ty(node.inputs[0]).shape().n_elements();
            if needs_memory(id) {
                leads[i] = is_copy(graph, node) && !grows();
                continue;
            }
            let by_windows = |r: &NodeId| windows.unrolled[r.index()] || leads[r.index()];
            let sees = |r: &NodeId| graph.node(*r).is(&PAD) || sees_through(graph, id, *r);
            let mut read_by = readers[i].iter().filter(|r| live[r.index()]).peekable();
            if read_by.peek().is_none() || !read_by.clone().all(|r| by_windows(r) && sees(r)) {
                continue;
            }
            let of_readers = read_by.clone().map(|r| body[r.index()]);
            let (taps, n_ops) = of_readers.fold((1, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
            let own = match node.op.lower {
                Lower::Scalar(_) if ops[i].is_none() => taps.saturating_mul(own_ops(graph, id)),
                // A border is a choice by index for each axis.
                Lower::Join => taps.saturating_mul(BORDER_OPS),
                _ => 0,
            };
            body[i] = (taps, n_ops.saturating_add(own));
            if body[i].1 > options.cost.max_kernel_ops {
                continue;
            }
            repeats[i] = read_by.any(|r| leads[r.index()] && repeats[r.index()]);
            leads[i] = match &node.op.lower {
                Lower::Scalar(_) => !repeats[i],
                Lower::Identity => true,
                Lower::Join => node.is(&PAD),
                Lower::View(_) => {
                    repeats[i] |= grows();
                    true
                }
                _ => false,
            };
            windows.inlined[i] = leads[i] && matches!(node.op.lower, Lower::Scalar(_) | Lower::Join);
        }
        windows
    }
}

/// Whether a node is a view whose last axis is that of its operand: a copy of it is made by whole runs of elements.
fn is_copy(graph: &Graph, node: &Node) -> bool {
    let Lower::View(map) = &node.op.lower else { return false };
    match map(&node.attrs, graph.ty(node.inputs[0]).shape(), node.ty.shape()) {
        ViewMap::Affine(axes) => axes.last().and_then(AxisMap::same) == node.ty.shape().rank().checked_sub(1),
        ViewMap::Reshape => false,
    }
}
