//! Indices as affine forms of the loops, and what views make of them.

use cotangent_graph::op::ViewMap;
use cotangent_graph::ops::view::PAD;
use cotangent_graph::{Graph, Lower, NodeId, Shape};
use smallvec::SmallVec;

use crate::ir::IndexMap;

/// An affine form of the loop indices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Affine {
    pub(crate) offset: i64,
    pub(crate) coeffs: SmallVec<[i64; 4]>,
}

impl Affine {
    pub(crate) fn constant(n: usize) -> Self {
        Affine { offset: 0, coeffs: SmallVec::from_elem(0, n) }
    }

    pub(crate) fn add_scaled(&mut self, other: &Affine, scale: i64) {
        self.offset += other.offset * scale;
        for (c, o) in self.coeffs.iter_mut().zip(&other.coeffs) {
            *c += o * scale;
        }
    }
}

impl Affine {
    /// As a map of the loops.
    pub(crate) fn into_map(self) -> IndexMap {
        IndexMap { offset: self.offset, strides: self.coeffs }
    }

    /// The least and the largest value in loops of these extents, of which none is 0.
    pub(crate) fn range(&self, extents: &[usize]) -> (i64, i64) {
        let (mut least, mut most) = (self.offset, self.offset);
        for (&c, &extent) in self.coeffs.iter().zip(extents) {
            let reach = c * (extent as i64 - 1).max(0);
            (least, most) = (least + reach.min(0), most + reach.max(0));
        }
        (least, most)
    }

    /// Whether it is an index of an axis of so many elements all along.
    pub(crate) fn is_within(&self, n: usize, extents: &[usize]) -> bool {
        let (least, most) = self.range(extents);
        least >= 0 && most < n as i64
    }
}

/// Whether an index is one of a tensor of this shape, all along the loops; around a border it need not be.
pub(crate) fn is_inside(index: &Index, shape: &Shape, extents: &[usize]) -> bool {
    extents.contains(&0) || index.iter().zip(shape.iter()).all(|(affine, &n)| affine.is_within(n, extents))
}

/// The index of a value: one affine form for each axis.
pub(crate) type Index = SmallVec<[Affine; 4]>;

/// The index that maps loop `i` to axis `i`.
pub(crate) fn identity(rank: usize) -> Index {
    on_loops(&(0..rank).collect::<Vec<_>>(), rank)
}

/// The index whose axis `i` is loop `loops[i]` of `n`.
pub(crate) fn on_loops(loops: &[usize], n: usize) -> Index {
    loops.iter().map(|&l| loop_index(l, n)).collect()
}

/// The index of loop `l` of `n`.
pub(crate) fn loop_index(l: usize, n: usize) -> Affine {
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
    let mut rest = position.clone();
    // Loops of one iteration move nothing, whatever their stride.
    rest.coeffs.iter_mut().zip(extents).filter(|(_, extent)| **extent == 1).for_each(|(c, _)| *c = 0);
    if rest.offset < 0 || rest.coeffs.iter().any(|&c| c < 0) {
        return None;
    }
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

/// The index of the operand's element of this number, in row-major order, that a reduction at an index combines.
pub(crate) fn tap(graph: &Graph, reduction: NodeId, index: &Index, number: usize, n_loops: usize) -> Index {
    let node = graph.node(reduction);
    let (axes, from) = (node.attrs.sizes("axes"), graph.ty(node.inputs[0]).shape());
    let (mut rest, mut kept) = (number, index.len());
    let mut at: Index = SmallVec::from_elem(Affine::constant(n_loops), from.rank());
    for axis in (0..from.rank()).rev() {
        if axes.contains(&axis) {
            at[axis].offset = (rest % from[axis]) as i64;
            rest /= from[axis];
        } else {
            kept -= 1;
            at[axis] = index[kept].clone();
        }
    }
    at
}

/// How many elements a reduction combines to one.
pub(crate) fn n_taps(graph: &Graph, reduction: NodeId) -> usize {
    let node = graph.node(reduction);
    graph.ty(node.inputs[0]).shape().n_elements() / node.ty.shape().n_elements().max(1)
}

/// An operand of what joins several, at an index of its own, and where it counts: where each of these forms is at least the first
/// and less than the second number. Conditions that hold all along the loops are left out.
pub(crate) struct Piece {
    pub(crate) operand: usize,
    pub(crate) index: Index,
    pub(crate) within: SmallVec<[(Affine, i64, i64); 2]>,
}

/// The operands that have an element at an index of what joins them, or of the one that has a border; none where all is border.
pub(crate) fn pieces(graph: &Graph, id: NodeId, index: &Index, extents: &[usize]) -> Vec<Piece> {
    let node = graph.node(id);
    let condition = |affine: &Affine, first: i64, end: i64| {
        let (least, most) = affine.range(extents);
        (least < first || most >= end).then(|| (affine.clone(), first, end))
    };
    if node.is(&PAD) {
        let shape = graph.ty(node.inputs[0]).shape();
        let mut index = index.clone();
        let lows = node.attrs.ints("low");
        index.iter_mut().zip(lows).for_each(|(affine, &low)| affine.offset -= low);
        let never = |(affine, &n): (&Affine, &usize)| {
            let (least, most) = affine.range(extents);
            n == 0 || most < 0 || least >= n as i64
        };
        if extents.contains(&0) || index.iter().zip(shape.iter()).any(never) {
            return Vec::new();
        }
        let within = index.iter().zip(shape.iter()).filter_map(|(affine, &n)| condition(affine, 0, n as i64)).collect();
        return vec![Piece { operand: 0, index, within }];
    }
    let axis = node.attrs.size("axis");
    let (least, most) = index[axis].range(extents);
    let (mut start, mut pieces) = (0, Vec::new());
    for (operand, &input) in node.inputs.iter().enumerate() {
        let end = start + graph.ty(input).shape()[axis] as i64;
        // Of loops without iterations any operand stands for all.
        if start < end && least < end && most >= start || extents.contains(&0) {
            let within = condition(&index[axis], least, end).into_iter().collect();
            let mut index = index.clone();
            index[axis].offset -= start;
            pieces.push(Piece { operand, index, within });
        }
        start = end;
    }
    pieces
}

/// A form that is held between 0 and `last`, times the stride of its axis.
pub(crate) struct Held {
    pub(crate) of: Affine,
    pub(crate) last: i64,
    pub(crate) stride: i64,
}

/// The position of an element that is held inside of a shape: a form, and those that reach beyond their axis.
pub(crate) fn held(index: &Index, shape: &Shape, extents: &[usize]) -> (Affine, Vec<Held>) {
    let (mut place, mut beyond) = (Affine::constant(extents.len()), Vec::new());
    for ((affine, &stride), &n) in index.iter().zip(&shape.strides()).zip(shape.iter()) {
        if extents.contains(&0) || affine.is_within(n, extents) {
            place.add_scaled(affine, stride);
        } else if n > 1 {
            beyond.push(Held { of: affine.clone(), last: n as i64 - 1, stride });
        }
    }
    (place, beyond)
}
