//! What single values cost, and through whom they can be seen: what the parts of nodes are decided by, before clusters grow.

use cotangent_graph::op::{Fault, ScalarCx};
use cotangent_graph::ops::view::PAD;
use cotangent_graph::{Graph, Lower, Node, NodeId, Shape, Source};
use cotangent_scalar::BodyBuilder;
use smallvec::SmallVec;

use crate::cost::{LONG_PART, LONG_RUN, MOST_JOINED, RNG_OPS};

/// Scalar operations of a node on its own.
pub(crate) fn own_ops(graph: &Graph, id: NodeId) -> usize {
    let node = graph.node(id);
    match &node.op.lower {
        Lower::Scalar(_) => scalar_ops(graph, node).unwrap_or(1),
        Lower::Source(Source::Rng) => RNG_OPS,
        Lower::Gemm | Lower::Conv(_) => 0,
        // Of an element beside a border or another tensor: the choice. What it depends on is known once for a row.
        Lower::Join => 2 * (node.inputs.len() - 1).max(1),
        _ => 1,
    }
}

/// Scalar operations of the program of a node.
///
/// # Errors
/// A mistake in the record of the op.
pub(crate) fn scalar_ops(graph: &Graph, node: &Node) -> Result<usize, Fault> {
    let mut s = BodyBuilder::new();
    let args: SmallVec<[_; 3]> =
        node.inputs.iter().enumerate().map(|(k, i)| s.input(k as u32, graph.ty(*i).dtype())).collect();
    let root = node.op.0.scalar(&mut s, &args, &ScalarCx { attrs: &node.attrs, dtype: node.ty.dtype() })?;
    Ok(s.finish(&[root]).0.n_ops())
}

/// Whether a node joins runs of elements that are long beside the choice by index that each of them then costs: a tensor and a
/// border, or a few tensors, all of which its reader loads.
pub(super) fn has_long_runs(graph: &Graph, node: &Node) -> bool {
    let shape = graph.ty(node.inputs[0]).shape();
    let (whole, least) = if node.is(&PAD) {
        let (low, high) = (node.attrs.sizes("low"), node.attrs.sizes("high"));
        ((0..shape.rank()).rev().take_while(|&axis| low[axis] == 0 && high[axis] == 0).count(), LONG_RUN)
    } else {
        (shape.rank() - 1 - node.attrs.size("axis"), LONG_PART)
    };
    shape[shape.rank() - whole..].iter().product::<usize>() >= least && node.inputs.len() <= MOST_JOINED
}

/// Whether a reader can recompute a value at whatever index it reads.
pub(super) fn sees_through(graph: &Graph, value: NodeId, reader: NodeId) -> bool {
    let node = graph.node(reader);
    match &node.op.lower {
        Lower::Scalar(_) | Lower::Reduce(_) => true,
        Lower::View(_) => !node.is_reshape() || is_squeeze(graph.ty(value).shape(), node.ty.shape()),
        _ => false,
    }
}

/// Reshapes that only add or drop axes of extent 1 can be seen through index by index.
pub(super) fn is_squeeze(from: &Shape, to: &Shape) -> bool {
    from.iter().filter(|&&d| d != 1).eq(to.iter().filter(|&&d| d != 1))
}
