//! Cotangents that are pieces of a tensor with zeros around them, side by side.
//!
//! Every slice of a value sends it a cotangent of the value's whole size, zero around the slice. Added up one by one, the
//! cotangents of k slices would take k times the memory and additions of the value. Those that do not overlap are put side by side
//! instead, as one would write it by hand: the gradient of the parts of a split is their gradients one after the other.

use std::collections::BTreeMap;

use cotangent_graph::ops::view::PAD;
use cotangent_graph::{GraphBuilder, Tensor};
use smallvec::SmallVec;

/// A piece: what is there, and how many zeros are before and after it on each axis.
struct Piece<'g> {
    value: Tensor<'g>,
    low: Vec<usize>,
    high: Vec<usize>,
}

impl<'g> Piece<'g> {
    fn of(g: &'g GraphBuilder, whole: Tensor<'g>) -> Option<Self> {
        let (operand, attrs) = g.with_graph(|graph| {
            let node = graph.node(whole.id());
            let zero = node.is(&PAD) && node.attrs.number("value").bits(node.ty.dtype()) == 0;
            zero.then(|| (node.inputs[0], node.attrs.clone()))
        })?;
        let sizes = |name: &str| attrs.sizes(name).to_vec();
        Some(Piece { value: g.tensor(operand), low: sizes("low"), high: sizes("high") })
    }

    /// What must be equal of pieces that lie side by side along an axis: everything along the others.
    fn beside(&self, axis: usize) -> Vec<(usize, usize)> {
        let others = (0..self.low.len()).filter(|&a| a != axis);
        others.map(|a| (self.low[a], self.high[a])).collect()
    }

    fn end(&self, axis: usize) -> usize {
        self.low[axis] + self.value.shape()[axis]
    }

    /// Pieces along an axis, in order and without overlap, as one, with zeros between them.
    fn joined(g: &'g GraphBuilder, mut pieces: Vec<Self>, axis: usize) -> Option<Self> {
        if pieces.len() < 2 {
            return pieces.pop();
        }
        let (first, last) = (pieces.first()?, pieces.last()?);
        let (low, high) = (first.low.clone(), last.high.clone());
        let mut at = low[axis];
        let mut values: Vec<Tensor<'g>> = Vec::new();
        for piece in &pieces {
            if piece.low[axis] > at {
                let mut gap = piece.value.shape().to_vec();
                gap[axis] = piece.low[axis] - at;
                values.push(g.scalar(0.0, piece.value.dtype()).broadcast_to(gap));
            }
            values.push(piece.value);
            at = piece.end(axis);
        }
        Some(Piece { value: g.concat(&values, axis), low, high })
    }

    fn whole(self) -> Tensor<'g> {
        let is_whole = self.low.iter().chain(&self.high).all(|&n| n == 0);
        if is_whole { self.value } else { self.value.pad(&self.low, &self.high, 0.0) }
    }
}

/// Puts pieces side by side where they do not overlap, along one axis after the other; what is to be added up is left.
pub(crate) fn side_by_side<'g>(g: &'g GraphBuilder, terms: SmallVec<[Tensor<'g>; 2]>) -> SmallVec<[Tensor<'g>; 2]> {
    if terms.len() < 2 {
        return terms;
    }
    let mut others = SmallVec::new();
    let mut pieces = Vec::new();
    let n_terms = terms.len();
    for term in &terms {
        match Piece::of(g, *term) {
            Some(piece) => pieces.push(piece),
            None => others.push(*term),
        }
    }
    if pieces.len() < 2 {
        return terms;
    }
    let rank = pieces[0].low.len();
    for axis in (0..rank).rev() {
        let mut rows: BTreeMap<Vec<(usize, usize)>, Vec<Piece<'g>>> = BTreeMap::new();
        for piece in pieces.drain(..) {
            rows.entry(piece.beside(axis)).or_default().push(piece);
        }
        for mut row in rows.into_values() {
            row.sort_by_key(|piece| (piece.low[axis], piece.end(axis)));
            let mut sets: Vec<Vec<Piece<'g>>> = Vec::new();
            for piece in row {
                match sets.iter_mut().find(|set| set.last().is_some_and(|last| last.end(axis) <= piece.low[axis])) {
                    Some(set) => set.push(piece),
                    None => sets.push(vec![piece]),
                }
            }
            pieces.extend(sets.into_iter().filter_map(|set| Piece::joined(g, set, axis)));
        }
    }
    if pieces.len() + others.len() == n_terms {
        return terms;
    }
    others.extend(pieces.into_iter().map(Piece::whole));
    others
}
