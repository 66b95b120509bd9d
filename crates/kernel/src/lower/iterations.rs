//! Loops of few iterations that the body of an elementwise kernel does one after the other.
//!
//! The adjoint of windows that are a stride apart goes by the phases of the stride: loops of as few iterations as the stride, in
//! each of which other windows hold an element. In a loop every iteration asks by index what it adds up, and loads it. Written
//! out, each knows what it adds up, and all of them load what several need once.

use smallvec::SmallVec;

use super::Draft;
use crate::cluster::Cluster;
use crate::cost::{LONG_ROW, MOST_ITERATIONS};
use crate::index::{Affine, Index, identity, loop_index};
use crate::ir::Input;

/// The loops of a cluster that had better be written out, by what its body is with all of them: those of few iterations around a
/// long row along which a choice by index changes.
pub(super) fn short_loops(cluster: &Cluster, drafts: &[Draft]) -> SmallVec<[usize; 4]> {
    let Some(inner) = cluster.domain.iter().rposition(|&extent| extent > 1) else { return SmallVec::new() };
    if cluster.loops.is_some() || cluster.product.is_some() || cluster.domain[inner] < LONG_ROW {
        return SmallVec::new();
    }
    let inputs = || drafts.iter().flat_map(|draft| &draft.inputs);
    let chooses_by = |l: usize| {
        inputs().any(|input| {
            let position = if let Input::Index { map, .. } = input { Some(map) } else { None };
            let mut maps = position.into_iter().chain(input.clamps().iter().map(|clamp| &clamp.map));
            maps.any(|map| map.strides[l] != 0)
        })
    };
    (0..inner).filter(|&l| (2..=MOST_ITERATIONS).contains(&cluster.domain[l]) && chooses_by(l)).collect()
}

/// The loops' own indices, once for each iteration of those that are written out.
pub(super) fn iterations(extents: &[usize], written_out: &[usize]) -> Vec<Index> {
    let n = extents.len();
    let mut all = vec![identity(n)];
    for &l in written_out {
        let each = |index: &Index| {
            let mut of_loop = vec![index.clone(); extents[l]];
            for (number, index) in of_loop.iter_mut().enumerate() {
                debug_assert_eq!(index[l], loop_index(l, n));
                index[l] = Affine { offset: number as i64, ..Affine::constant(n) };
            }
            of_loop
        };
        all = all.iter().flat_map(each).collect();
    }
    all
}
