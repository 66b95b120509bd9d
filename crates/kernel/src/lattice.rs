//! Sets of elements that affine maps reach: are two iterations at one element, and do several sets together make a whole?
//!
//! What a kernel stores is the image of a box of iterations under an affine map, `{o + Σ iₖ·sₖ : 0 ≤ iₖ < nₖ}`. The answers here
//! are proofs: a "no" may mean that the simple argument used does not apply. Nothing overflows, whatever the numbers.

use smallvec::SmallVec;

use crate::ir::{IndexMap, Kernel, Space, Sweep};

/// The image of a box of iterations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lattice {
    /// The least element.
    start: i128,
    /// Extents above 1 with their strides, which ascend and are not negative; neighbors that continue each other are one.
    dims: SmallVec<[(u128, i128); 4]>,
    /// The number of iterations.
    n: u128,
}

impl Lattice {
    /// The image of `(extent, stride)` pairs; nothing if an extent is 0.
    pub(crate) fn new(offset: i64, pairs: impl IntoIterator<Item = (usize, i64)>) -> Self {
        let (mut start, mut n) = (i128::from(offset), 1u128);
        let mut dims: SmallVec<[(u128, i128); 4]> = SmallVec::new();
        for (extent, stride) in pairs {
            n = n.saturating_mul(extent as u128);
            if extent > 1 {
                let stride = i128::from(stride);
                if stride < 0 {
                    start = start.saturating_add(stride.saturating_mul(extent as i128 - 1));
                }
                dims.push((extent as u128, stride.abs()));
            }
        }
        Lattice { start, dims: in_order(dims), n }
    }

    /// The set with so many repetitions at this distance.
    fn repeated(&self, n: usize, distance: i128) -> Self {
        let mut dims = self.dims.clone();
        dims.push((n as u128, distance));
        Lattice { start: self.start, dims: in_order(dims), n: self.n.saturating_mul(n as u128) }
    }

    /// What a map reaches in a phase of a kernel, an element for each iteration. With `row`, within one row only.
    pub(crate) fn of(kernel: &Kernel, space: Space, map: &IndexMap, row: bool) -> Self {
        let n_dims = kernel.dims.len();
        let reduced = match (space, kernel.sweep) {
            (Space::Full, _) | (_, Sweep::Elementwise) => None,
            (Space::Reduced, Sweep::Row) => Some(n_dims - 1),
            (Space::Reduced, Sweep::Column) => Some(n_dims - 2),
        };
        let runs = |&dim: &usize| Some(dim) != reduced && (!row || dim >= kernel.n_row_dims());
        let dims = (0..n_dims).filter(runs);
        let mut lattice = Lattice::new(map.offset, dims.map(|dim| (kernel.dims[dim], map.strides[dim])));
        // Of the last row, or block of rows, only a part may be there. Rows that follow each other in memory then end early.
        let there = match (space, kernel.sweep) {
            (Space::Full, _) => kernel.total as u128,
            (Space::Reduced, Sweep::Row) => kernel.n_rows() as u128,
            (Space::Reduced, _) => lattice.n,
        };
        if !row && there < lattice.n {
            lattice.n = there;
            if let ([(extent, _)], true) = (&mut lattice.dims[..], map.strides.iter().all(|&stride| stride >= 0)) {
                *extent = there;
            }
        }
        lattice
    }

    /// The number of iterations.
    pub(crate) fn n(&self) -> u128 {
        self.n
    }

    /// Whether no two iterations are at one element: each stride goes past all that the smaller ones reach.
    pub(crate) fn is_injective(&self) -> bool {
        let mut reach = 0i128;
        self.n == 0
            || self.dims.iter().all(|&(extent, stride)| {
                let apart = stride > reach;
                reach = reach.saturating_add(stride.saturating_mul(i128::try_from(extent - 1).unwrap_or(i128::MAX)));
                apart
            })
    }

    /// A run of neighboring elements, repeated alike: its length, and the extents and strides of the repetition.
    fn run(&self) -> (u128, &[(u128, i128)]) {
        match self.dims.split_first() {
            Some((&(length, 1), rest)) => (length, rest),
            _ => (1, &self.dims),
        }
    }
}

/// Extents and strides in ascending order, neighbors that continue each other as one.
fn in_order(mut dims: SmallVec<[(u128, i128); 4]>) -> SmallVec<[(u128, i128); 4]> {
    dims.sort_unstable_by_key(|&(extent, stride)| (stride, extent));
    let mut merged: SmallVec<[(u128, i128); 4]> = SmallVec::new();
    for (extent, stride) in dims {
        match merged.last_mut() {
            Some((inner, step)) if inner.checked_mul(step.unsigned_abs()) == Some(stride.unsigned_abs()) => {
                *inner = inner.saturating_mul(extent);
            }
            _ => merged.push((extent, stride)),
        }
    }
    merged
}

/// Sets of elements, of which those that repeat one at equal distances are one, if that is injective as they are.
fn joined(mut sets: Vec<Lattice>) -> Vec<Lattice> {
    sets.retain(|set| set.n > 0);
    sets.sort_unstable_by_key(|set| set.start);
    loop {
        let mut all: Vec<Lattice> = Vec::with_capacity(sets.len());
        let mut rest = &sets[..];
        while let Some(first) = rest.first() {
            let distance = rest.get(1).map_or(0, |next| next.start.saturating_sub(first.start));
            let repeats = |(k, set): (usize, &Lattice)| {
                set.dims == first.dims && set.start == first.start.saturating_add(distance.saturating_mul(k as i128))
            };
            let n_alike = rest.iter().enumerate().take_while(|&(k, set)| repeats((k, set))).count();
            let whole =
                (2..=n_alike).rev().map(|n| (n, first.repeated(n, distance))).find(|(_, set)| set.is_injective());
            let (n, set) = whole.unwrap_or_else(|| (1, first.clone()));
            all.push(set);
            rest = &rest[n..];
        }
        if all.len() == sets.len() {
            return all;
        }
        sets = all;
    }
}

/// Whether sets, each injective, have no element in common: together they repeat one of them, or they are runs side by side, repeated
/// alike.
pub(crate) fn apart(sets: &[Lattice]) -> bool {
    forms(sets).iter().any(|runs| runs.len() <= 1 || side_by_side(runs))
}

/// Sets by their starts, without those that are empty: as they are, and with those that repeat one as one.
fn forms(sets: &[Lattice]) -> [Vec<Lattice>; 2] {
    let mut sorted: Vec<Lattice> = sets.iter().filter(|set| set.n > 0).cloned().collect();
    sorted.sort_unstable_by_key(|set| set.start);
    let joined = joined(sorted.clone());
    [sorted, joined]
}

/// Whether sets, by their starts, are runs one after the other that repeat alike, each time past the end of all of them.
fn side_by_side(runs: &[Lattice]) -> bool {
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return false };
    let end = |set: &Lattice| set.start.saturating_add(i128::try_from(set.run().0).unwrap_or(i128::MAX));
    let repetition = first.run().1;
    let mut dims: SmallVec<[(u128, i128); 4]> = SmallVec::from_slice(repetition);
    dims.insert(0, (end(last).saturating_sub(first.start).unsigned_abs(), 1));
    runs.iter().all(|set| set.run().1 == repetition)
        && runs.windows(2).all(|pair| end(&pair[0]) <= pair[1].start)
        && Lattice { start: first.start, dims, n: first.n }.is_injective()
}

/// Whether sets of elements below `n_elements`, each injective, are together all of them: one is, or they are runs side by side,
/// repeated alike.
pub(crate) fn cover(sets: &[Lattice], n_elements: usize) -> bool {
    let n_elements = n_elements as u128;
    let is_whole = |runs: &Vec<Lattice>| {
        let n: u128 = runs.iter().map(|set| set.n).sum();
        runs.iter().any(|set| set.n == n_elements) || side_by_side(runs) && n == n_elements
    };
    n_elements == 0 || forms(sets).iter().any(is_whole)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The slow, obvious twin: all elements, one by one, with repetitions.
    fn elements(offset: i64, pairs: &[(usize, i64)]) -> Vec<i64> {
        pairs.iter().fold(vec![offset], |list, &(extent, stride)| {
            list.iter().flat_map(|&at| (0..extent as i64).map(move |i| at + i * stride)).collect()
        })
    }

    fn random() -> impl FnMut(usize) -> usize {
        let mut bits = 7u64;
        move |n| {
            bits = bits.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (bits >> 33) as usize % n
        }
    }

    #[test]
    fn what_is_said_to_be_apart_is_apart() {
        let mut random = random();
        let (mut n_apart, mut n_all) = (0, 0);
        for _ in 0..20_000 {
            let n_dims = 1 + random(4);
            let pairs: Vec<(usize, i64)> = (0..n_dims).map(|_| (random(5), random(60) as i64 - 20)).collect();
            let all = elements(random(9) as i64, &pairs);
            let lattice = Lattice::new(0, pairs.iter().copied());
            let distinct: HashSet<i64> = all.iter().copied().collect();
            assert_eq!(lattice.n(), all.len() as u128);
            if lattice.is_injective() {
                assert_eq!(distinct.len(), all.len(), "{pairs:?}");
                n_apart += 1;
            }
            n_all += usize::from(distinct.len() == all.len());
        }
        // The argument misses some that are.
        assert!(n_apart * 10 > n_all * 7 && n_apart < n_all, "{n_apart} of {n_all}");
    }

    #[test]
    fn sets_that_repeat_one_are_one_if_no_element_is_in_two() {
        let mut random = random();
        let (mut n_joined, mut n_refused) = (0, 0);
        for _ in 0..5_000 {
            let mut pairs = || (0..1 + random(2)).map(|_| (1 + random(3), 1 + random(12) as i64)).collect::<Vec<_>>();
            let (of_one, of_starts) = (pairs(), pairs());
            let starts = elements(0, &of_starts);
            let sets: Vec<Lattice> = starts.iter().map(|&at| Lattice::new(at, of_one.iter().copied())).collect();
            if !sets[0].is_injective() {
                continue;
            }
            let all: Vec<i64> = starts.iter().flat_map(|&at| elements(at, &of_one)).collect();
            let distinct: HashSet<i64> = all.iter().copied().collect();
            let joined = joined(sets);
            assert_eq!(joined.iter().map(Lattice::n).sum::<u128>(), all.len() as u128);
            if joined.len() == 1 {
                assert_eq!(distinct.len(), all.len(), "{of_one:?} at {of_starts:?}");
                n_joined += usize::from(starts.len() > 1);
            }
            n_refused += usize::from(distinct.len() < all.len());
        }
        assert!(n_joined > 500 && n_refused > 500, "{n_joined}, {n_refused}");
        // The four phases of a stride of two along both axes of a plane of channels.
        let phases = [0, 8, 96, 104].map(|at| Lattice::new(at, [(5, 192), (6, 16), (8, 1)]));
        assert_eq!(joined(phases.to_vec()), [Lattice::new(0, [(960, 1)])]);
    }

    #[test]
    fn row_major_places_are_apart_and_cover_what_they_are_cut_from() {
        let mut random = random();
        for _ in 0..2_000 {
            let shape: Vec<usize> = (0..1 + random(4)).map(|_| random(5)).collect();
            let strides: Vec<i64> = (0..shape.len()).map(|k| shape[k + 1..].iter().product::<usize>() as i64).collect();
            let n: usize = shape.iter().product();
            let axis = random(shape.len());
            // The parts along an axis, as `concat` has them, turned round here and there.
            let mut parts = Vec::new();
            let mut from = 0;
            while from < shape[axis] {
                let length = 1 + random(shape[axis] - from);
                let mut pairs: Vec<(usize, i64)> = shape.iter().copied().zip(strides.iter().copied()).collect();
                pairs[axis].0 = length;
                let mut offset = from as i64 * strides[axis];
                if random(2) == 0 {
                    offset += pairs[0].1 * (pairs[0].0 as i64 - 1).max(0);
                    pairs[0].1 = -pairs[0].1;
                }
                parts.push(Lattice::new(offset, pairs));
                from += length;
            }
            assert!(parts.iter().all(Lattice::is_injective), "{shape:?} by {axis}");
            assert!(cover(&parts, n), "{shape:?} by {axis}: {parts:?}");
            if parts.len() > 1 && n > 0 {
                let one = parts.remove(random(parts.len()));
                assert!(!cover(&parts, n), "{shape:?} by {axis} without {one:?}");
                parts.push(parts[0].clone());
                assert!(one == parts[0] || !cover(&parts, n));
            }
        }
    }

    #[test]
    fn sets_that_are_said_to_be_apart_have_nothing_in_common() {
        let mut random = random();
        let (mut n_apart, mut n_all) = (0, 0);
        for _ in 0..20_000 {
            let repetition: Vec<(usize, i64)> =
                (0..random(3)).map(|_| (1 + random(3), 1 + random(20) as i64)).collect();
            let starts: Vec<(i64, usize)> = (0..1 + random(3)).map(|_| (random(20) as i64, 1 + random(4))).collect();
            let pairs = |run: usize| [&[(run, 1)], &repetition[..]].concat();
            let sets: Vec<Lattice> = starts.iter().map(|&(at, run)| Lattice::new(at, pairs(run))).collect();
            if !sets.iter().all(Lattice::is_injective) {
                continue;
            }
            let all: Vec<i64> = starts.iter().flat_map(|&(at, run)| elements(at, &pairs(run))).collect();
            let is_apart = all.iter().collect::<HashSet<_>>().len() == all.len();
            if apart(&sets) {
                assert!(is_apart, "{starts:?} {repetition:?}");
                n_apart += 1;
            }
            n_all += usize::from(is_apart);
        }
        assert!(n_apart * 10 > n_all * 6 && n_apart < n_all, "{n_apart} of {n_all}");
        // Runs that fit between the repetitions of each other's inner loop, and meet in the outer one.
        assert!(!apart(&[Lattice::new(0, [(2, 10), (2, 15)]), Lattice::new(5, [(2, 10), (2, 15)])]));
    }

    #[test]
    fn large_numbers_prove_nothing_wrong() {
        let huge = [(usize::MAX, i64::MAX), (usize::MAX, i64::MIN), (usize::MAX, 1)];
        assert!(!Lattice::new(i64::MAX, huge).is_injective());
        assert!(!cover(&[Lattice::new(i64::MIN, huge)], usize::MAX));
        assert!(Lattice::new(0, [(0, 0), (5, 0)]).is_injective(), "no iterations");
        assert!(!Lattice::new(0, [(5, 0)]).is_injective());
    }
}
