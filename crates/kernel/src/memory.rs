//! Where elements lie in memory, and which values are there at all.

use cotangent_graph::{Graph, NodeId};

use crate::index::{Affine, flat, identity, through_view};

/// What a node is to the clusterer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Nothing needs it.
    Dead,
    /// A buffer that exists before the step: input, parameter, state or constant tensor.
    Buffer,
    /// The elements of its operand, which have memory or are recomputed, at the same or other indices: views, reductions over axes
    /// of one element, checks, and the ends of gradients.
    Alias,
    /// Recomputed by every reader: scalar constants, indices, random numbers, cheap pointwise values.
    Virtual,
    /// Computed by a kernel.
    Value,
    /// A matrix product.
    Product,
    /// Computed by a step of its own.
    Opaque,
}

impl Part {
    /// Whether whoever reads a node finds its elements somewhere, in memory or in the kernel that makes them, rather than by way of
    /// its operands.
    pub(crate) fn is_made(self) -> bool {
        !matches!(self, Part::Alias | Part::Virtual | Part::Dead)
    }
}

/// A node that stands in the way of lowering, and why. The clusterer gives it memory of its own; what lowering itself finds is a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The node.
    pub node: NodeId,
    /// The reason, as it is reported.
    pub why: &'static str,
}

impl Blocked {
    pub(crate) fn new(node: NodeId, why: &'static str) -> Self {
        Blocked { node, why }
    }
}

pub(crate) const RESHAPED: &str = "it is reshaped, and its own indices are no simple function of the new ones";
pub(crate) const PAST_BORDER: &str = "it is reshaped, and read beyond its border";
pub(crate) const READ_AS_MEMORY: &str = "its reader needs it in memory";
const SIDE_BY_SIDE: &str = "its reader needs its elements side by side in memory";
const UNEVEN_BATCH: &str = "the matrices of its batch do not lie evenly in memory";

/// Where a node's elements lie in memory: the node that has the memory and the position for loops over the node's axes.
pub(crate) fn in_memory(graph: &Graph, parts: &[Part], id: NodeId) -> Result<(NodeId, Affine), Blocked> {
    let extents = graph.ty(id).shape().to_vec();
    let (mut at, mut index) = (id, identity(extents.len()));
    loop {
        match parts[at.index()] {
            Part::Alias => {
                let operand = graph.node(at).inputs[0];
                let has_memory = !matches!(parts[operand.index()], Part::Alias | Part::Virtual);
                if graph.node(at).is_reshape() && has_memory {
                    return Ok((operand, flat(&index, graph.ty(at).shape(), extents.len())));
                }
                let why = RESHAPED;
                index = through_view(graph, at, &index, &extents).ok_or(Blocked::new(operand, why))?;
                at = operand;
            }
            Part::Virtual | Part::Dead => return Err(Blocked::new(id, READ_AS_MEMORY)),
            _ => return Ok((at, flat(&index, graph.ty(at).shape(), extents.len()))),
        }
    }
}

/// The node in whose memory this node's elements lie side by side in row-major order, and the first one's place there.
pub(crate) fn side_by_side(graph: &Graph, parts: &[Part], id: NodeId) -> Result<(NodeId, usize), Blocked> {
    let (base, place) = in_memory(graph, parts, id)?;
    let shape = graph.ty(id).shape();
    let strides = shape.strides();
    let mut axes = place.coeffs.iter().zip(&strides).zip(shape.iter());
    let offset = match usize::try_from(place.offset) {
        // Of no elements none is anywhere.
        _ if shape.n_elements() == 0 => Some(0),
        Ok(offset) if axes.all(|((c, s), &n)| n <= 1 || c == s) => Some(offset),
        _ => None,
    };
    let found = offset.map(|offset| (base, offset));
    found.ok_or(Blocked::new(id, SIDE_BY_SIDE))
}

/// The node whose memory holds exactly this node's elements in row-major order.
pub(crate) fn contiguous(graph: &Graph, parts: &[Part], id: NodeId) -> Result<NodeId, Blocked> {
    match side_by_side(graph, parts, id)? {
        (base, 0) if graph.ty(base).shape().n_elements() == graph.ty(id).shape().n_elements() => Ok(base),
        _ => Err(Blocked::new(id, SIDE_BY_SIDE)),
    }
}

/// A matrix product's operand in memory, strides in elements and as multiplied (after transposition).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub(crate) base: NodeId,
    pub(crate) offset: i64,
    pub(crate) batch_stride: i64,
    pub(crate) row_stride: i64,
    pub(crate) col_stride: i64,
}

/// Where a product's operand lies in memory.
fn matrix(graph: &Graph, parts: &[Part], id: NodeId, transposed: bool) -> Result<Operand, Blocked> {
    let (base, place) = in_memory(graph, parts, id)?;
    let shape = graph.ty(id).shape();
    let rank = shape.rank();
    // The leading axes must step through memory evenly to be one batch.
    let mut batch: Option<(i64, usize)> = None;
    for axis in (0..rank - 2).rev().filter(|&a| shape[a] != 1) {
        let stride = place.coeffs[axis];
        batch = match batch {
            None => Some((stride, shape[axis])),
            Some((inner, n)) if stride == inner * n as i64 => Some((inner, n * shape[axis])),
            Some(_) => return Err(Blocked::new(id, UNEVEN_BATCH)),
        };
    }
    let (row, col) = (place.coeffs[rank - 2], place.coeffs[rank - 1]);
    let (row, col) = if transposed { (col, row) } else { (row, col) };
    let batch_stride = batch.map_or(0, |b| b.0);
    Ok(Operand { base, offset: place.offset, batch_stride, row_stride: row, col_stride: col })
}

/// The operands of a product of matrices, each where it lies, or what must be in memory first.
pub(crate) fn matrices(graph: &Graph, parts: &[Part], id: NodeId) -> [Result<Operand, Blocked>; 2] {
    let node = graph.node(id);
    [(0, "ta"), (1, "tb")].map(|(k, flag)| matrix(graph, parts, node.inputs[k], node.attrs.bool(flag)))
}
