//! Indices as affine forms of the loops, and what views make of them.

use cotangent_graph::op::ViewMap;
use cotangent_graph::{Graph, Lower, NodeId, Shape};
use smallvec::SmallVec;

/// An affine form of the loop indices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Affine {
    pub(crate) offset: i64,
    pub(crate) coeffs: SmallVec<[i64; 4]>,
}

impl Affine {
    pub(super) fn constant(n: usize) -> Self {
        Affine { offset: 0, coeffs: SmallVec::from_elem(0, n) }
    }

    pub(super) fn add_scaled(&mut self, other: &Affine, scale: i64) {
        self.offset += other.offset * scale;
        for (c, o) in self.coeffs.iter_mut().zip(&other.coeffs) {
            *c += o * scale;
        }
    }
}

impl Affine {
    /// The least and the largest value in loops of these extents, of which none is 0.
    pub(super) fn range(&self, extents: &[usize]) -> (i64, i64) {
        let (mut least, mut most) = (self.offset, self.offset);
        for (&c, &extent) in self.coeffs.iter().zip(extents) {
            let reach = c * (extent as i64 - 1).max(0);
            (least, most) = (least + reach.min(0), most + reach.max(0));
        }
        (least, most)
    }

    /// Whether it is an index of an axis of so many elements all along.
    pub(super) fn is_within(&self, n: usize, extents: &[usize]) -> bool {
        let (least, most) = self.range(extents);
        least >= 0 && most < n as i64
    }
}

/// Whether an index is one of a tensor of this shape, all along the loops; around a border it need not be.
pub(super) fn is_inside(index: &Index, shape: &Shape, extents: &[usize]) -> bool {
    extents.contains(&0) || index.iter().zip(shape.iter()).all(|(affine, &n)| affine.is_within(n, extents))
}

/// The index of a value: one affine form for each axis.
pub(crate) type Index = SmallVec<[Affine; 4]>;

/// The index that maps loop `i` to axis `i`.
pub(crate) fn identity(rank: usize) -> Index {
    on_loops(&(0..rank).collect::<Vec<_>>(), rank)
}

/// The index whose axis `i` is loop `loops[i]` of `n`.
pub(super) fn on_loops(loops: &[usize], n: usize) -> Index {
    loops.iter().map(|&l| loop_index(l, n)).collect()
}

/// The index of loop `l` of `n`.
pub(super) fn loop_index(l: usize, n: usize) -> Affine {
    let mut affine = Affine::constant(n);
    affine.coeffs[l] = 1;
    affine
}

/// The row-major position of an index in a shape.
pub(crate) fn flat(index: &Index, shape: &Shape, n_loops: usize) -> Affine {
    let mut sum = Affine::constant(n_loops);
    for (affine, &stride) in index.iter().zip(&shape.strides()) {
        sum.add_scaled(affine, stride);
    }
    sum
}

/// The index in `shape` of a row-major position, if each axis is affine in the loops.
fn unflatten(position: &Affine, shape: &Shape, extents: &[usize]) -> Option<Index> {
    if position.offset < 0 || position.coeffs.iter().any(|&c| c < 0) {
        return None;
    }
    let mut rest = position.clone();
    let mut index = Index::new();
    for (axis, &stride) in shape.strides().iter().enumerate() {
        let stride = stride.max(1);
        let mut affine = Affine::constant(extents.len());
        affine.offset = rest.offset / stride;
        rest.offset %= stride;
        let mut most = affine.offset;
        for (d, c) in rest.coeffs.iter_mut().enumerate() {
            affine.coeffs[d] = *c / stride;
            *c %= stride;
            most += affine.coeffs[d] * (extents[d] as i64 - 1).max(0);
        }
        // With a carry into the next axis the digits would not be independent.
        if most >= shape[axis].max(1) as i64 {
            return None;
        }
        index.push(affine);
    }
    Some(index)
}

/// The index of a view's operand, given the view's. `None` if it is not affine.
pub(crate) fn through_view(graph: &Graph, view: NodeId, index: &Index, extents: &[usize]) -> Option<Index> {
    let node = graph.node(view);
    let from = graph.ty(node.inputs[0]).shape();
    let map = match &node.op.lower {
        Lower::View(map) => map,
        // A reduction over axes of extent 1 only drops them.
        Lower::Reduce(_) => {
            let axes = node.attrs.sizes("axes");
            let mut kept = index.iter();
            let axis = |a: usize| {
                let dropped = || Affine::constant(extents.len());
                if axes.contains(&a) { dropped() } else { kept.next().cloned().unwrap_or_else(dropped) }
            };
            return Some((0..from.rank()).map(axis).collect());
        }
        _ => return Some(index.clone()),
    };
    match map(&node.attrs, from, node.ty.shape()) {
        ViewMap::Affine(axes) => Some(
            axes.iter()
                .map(|m| {
                    let mut affine = Affine::constant(extents.len());
                    affine.offset = m.offset;
                    for &(axis, step) in &m.moves {
                        affine.add_scaled(&index[axis], step);
                    }
                    affine
                })
                .collect(),
        ),
        ViewMap::Reshape => unflatten(&flat(index, node.ty.shape(), extents.len()), from, extents),
    }
}
