//! Places in the arena: lifetimes, sharing of memory between values that are not alive together, best fit.
//!
//! A kernel's result takes over the memory of an operand that dies there if every access to both is at the same element.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use cotangent_scalar::Direction;

use crate::ir::{Input, Kernel, Space, Sweep};
use crate::plan::{BufferId, Factors, Home, Plan, Step};

/// Slices start at multiples of this many bytes: a cache line, and the widest vector.
pub const ALIGNMENT: usize = 64;

/// Computes lifetimes and offsets of all arena buffers, and the size of the arena.
pub fn place(plan: &mut Plan) {
    for (i, live) in lifetimes(plan).into_iter().enumerate() {
        plan.buffers[i].live = live;
    }
    for buffer in results_of_epilogues_only(plan) {
        plan.buffers[buffer.index()].home = Home::Rows;
    }
    let mut same: Vec<BufferId> = (0..plan.buffers.len() as u32).map(BufferId).collect();
    for step in 0..plan.steps.len() {
        take_over(plan, step, &mut same);
    }
    // Lifetimes of slots: buffers that share memory on purpose count as one.
    let root = |mut b: BufferId| {
        while same[b.index()] != b {
            b = same[b.index()];
        }
        b
    };
    let mut slots: HashMap<BufferId, (usize, usize, usize)> = HashMap::new();
    for (i, buffer) in plan.buffers.iter().enumerate() {
        if matches!(buffer.home, Home::Arena { .. }) && !buffer.live.is_empty() {
            let slot = slots.entry(root(BufferId(i as u32))).or_insert((buffer.live.start, buffer.live.end, 0));
            slot.0 = slot.0.min(buffer.live.start);
            slot.1 = slot.1.max(buffer.live.end);
            let size = buffer.n_bytes().max(1).checked_next_multiple_of(ALIGNMENT);
            slot.2 = slot.2.max(size.unwrap_or(usize::MAX));
        }
    }
    let (offsets, size) = best_fit(slots);
    plan.arena_bytes = size;
    for i in 0..plan.buffers.len() {
        let at = offsets.get(&root(BufferId(i as u32))).copied();
        if let (Home::Arena { offset }, Some(at)) = (&mut plan.buffers[i].home, at) {
            *offset = at;
        }
    }
}

/// Longest inner products of which rows are finished at one go, in the product's own memory. Beyond it, products may add up
/// piece by piece, and would have to keep all rows.
pub(crate) const MAX_ROWS_K: usize = 256;

/// Results of products that need no memory of their own: only the epilogue reads them, element by element.
fn results_of_epilogues_only(plan: &Plan) -> Vec<BufferId> {
    let step = |(s, step): (usize, &Step)| match step {
        Step::Product { c, .. } => {
            (plan.buffers[c.index()].live == (s..s + 1) && may_be_rows(plan, step)).then_some(*c)
        }
        _ => None,
    };
    plan.steps.iter().enumerate().filter_map(step).collect()
}

/// Whether the step is a product whose result is read by its epilogue and written by nothing but the product itself.
pub(crate) fn may_be_rows(plan: &Plan, step: &Step) -> bool {
    let Step::Product { factors, c, epilogue: Some(epilogue), .. } = step else { return false };
    // A gradient of filters is small beside what it is summed over.
    let adds_in_place = matches!(factors, Factors::Conv { direction: Direction::Weights, .. });
    let args = plan.kernels[epilogue.call.kernel].args.iter().zip(&epilogue.call.args);
    (factors.dims().k <= MAX_ROWS_K || adds_in_place)
        && matches!(plan.buffers[c.index()].home, Home::Arena { .. } | Home::Rows)
        && args.filter(|(_, id)| *id == c).all(|(arg, _)| !arg.written)
}

/// For each buffer, the first and one past the last step that touches it; outputs live on.
pub(crate) fn lifetimes(plan: &Plan) -> Vec<std::ops::Range<usize>> {
    let n = plan.steps.len();
    let mut live: Vec<Option<(usize, usize)>> = vec![None; plan.buffers.len()];
    for (s, step) in plan.steps.iter().enumerate() {
        for buffer in step.reads(plan).into_iter().chain(step.writes(plan)) {
            let range = live[buffer.index()].get_or_insert((s, s + 1));
            range.1 = s + 1;
        }
    }
    for output in &plan.outputs {
        if let Some(range) = &mut live[output.buffer.index()] {
            range.1 = n + 1;
        }
    }
    live.into_iter().map(|range| range.map_or(0..0, |(a, b)| a..b)).collect()
}

/// Lets results of an elementwise kernel, and that of a step that changes an operand, take over the memory of operands that die
/// there.
fn take_over(plan: &Plan, step: usize, same: &mut [BufferId]) {
    let call = match &plan.steps[step] {
        Step::Kernel(call) => call,
        Step::Op(op) => {
            if let Some(from) = op.in_place_of().filter(|&from| dies_into(plan, step, from, op.out)) {
                same[op.out.index()] = from;
            }
            return;
        }
        Step::Loop(step_of) => {
            for end in step_of.carries.iter().map(|carry| carry.end) {
                if let Some(from) = step_of.in_place_of(end).filter(|&from| dies_into(plan, step, from, end)) {
                    same[end.index()] = from;
                }
            }
            return;
        }
        _ => return,
    };
    let kernel = &plan.kernels[call.kernel];
    if kernel.sweep != Sweep::Elementwise {
        return;
    }
    let mut taken: Vec<BufferId> = Vec::new();
    for (k, arg) in kernel.args.iter().enumerate() {
        let out = call.args[k];
        if !arg.written || arg.read || call.args.iter().filter(|&&a| a == out).count() > 1 {
            continue;
        }
        let donor = call.args.iter().enumerate().find(|&(j, &from)| {
            kernel.args[j].read
                && !kernel.args[j].written
                && dies_into(plan, step, from, out)
                && !taken.contains(&from)
                && call.args.iter().filter(|&&a| a == from).count() == 1
                && aligned(kernel, j, k)
        });
        if let Some((_, &from)) = donor {
            taken.push(from);
            same[out.index()] = from;
        }
    }
}

/// Whether one buffer of the arena is last touched by the step that first touches the other, which is as large.
fn dies_into(plan: &Plan, step: usize, from: BufferId, to: BufferId) -> bool {
    let (from, to) = (&plan.buffers[from.index()], &plan.buffers[to.index()]);
    [from, to].iter().all(|decl| matches!(decl.home, Home::Arena { .. }))
        && (from.live.end, to.live.start) == (step + 1, step)
        && from.n_bytes() == to.n_bytes()
        && from.dtype.size_bytes() == to.dtype.size_bytes()
}

/// Whether the two arguments may be the same memory: every load of `from` is at the very element that `to` is stored at, and
/// each element is visited once, its load before its store. That is so in kernels of one sweep, and after a reduction for
/// what is both loaded and stored only there, and not loaded again after a later sweep; never for what rows carry along.
pub(crate) fn aligned(kernel: &Kernel, from: usize, to: usize) -> bool {
    let phases = || kernel.phases.iter().enumerate();
    let stores = phases()
        .flat_map(|(k, p)| p.stores.iter().filter(|s| s.arg.0 as usize == to).map(move |s| (k, (p.space, &s.map))));
    let loads = phases().flat_map(|(k, p)| {
        p.inputs.iter().filter_map(move |input| match input {
            Input::Load { arg, map } if arg.0 as usize == from => Some((k, (p.space, map))),
            _ => None,
        })
    });
    let one_sweep = kernel.phases.iter().filter(|p| p.space == Space::Full).count() == 1;
    let visited_once = |space: Space| one_sweep || space == Space::Reduced;
    let in_order = stores.clone().map(|s| s.0).min() >= loads.clone().map(|l| l.0).max();
    let mut accesses = stores.clone().chain(loads.clone()).map(|access| access.1);
    let first = stores.clone().map(|store| store.1).next();
    let is_carried = |input: &Input| matches!(input, Input::Carried { arg, .. } if arg.0 as usize == to);
    let is_clamped = |input: &Input| matches!(input, Input::Clamped { arg, .. } if arg.0 as usize == from);
    if kernel.phases.iter().flat_map(|p| &p.inputs).any(is_clamped) {
        return stores.clone().next().is_none();
    }
    if from != to && kernel.phases.iter().flat_map(|p| &p.inputs).any(is_carried) {
        return false;
    }
    loads.clone().next().is_none()
        || first.is_some_and(|first| visited_once(first.0) && in_order && accesses.all(|access| access == first))
}

/// Best fit in order of birth: the smallest free gap that is large enough, or the end.
fn best_fit(slots: HashMap<BufferId, (usize, usize, usize)>) -> (HashMap<BufferId, usize>, usize) {
    let mut order: Vec<(BufferId, (usize, usize, usize))> = slots.into_iter().collect();
    order.sort_by_key(|&(id, (start, _, size))| (start, Reverse(size), id));
    let mut offsets = HashMap::new();
    let mut end = 0;
    let mut free = Gaps::default();
    // Slices in use, those that are freed first on top: one past the last step, offset, size.
    let mut used: BinaryHeap<Reverse<(usize, usize, usize)>> = BinaryHeap::new();
    for (id, (start, stop, size)) in order {
        while let Some(&Reverse((_, at, size))) = used.peek().filter(|u| u.0.0 <= start) {
            used.pop();
            free.give(at, size);
        }
        let at = free.take(size);
        used.push(Reverse((stop, at, size)));
        end = end.max(at + size);
        offsets.insert(id, at);
    }
    (offsets, end)
}

/// The gaps between slices in use.
#[derive(Default)]
struct Gaps {
    /// By offset, and by size and offset; no two adjoin.
    by_offset: BTreeMap<usize, usize>,
    by_size: BTreeSet<(usize, usize)>,
    /// The end of the last slice in use.
    top: usize,
}

impl Gaps {
    /// The offset of a slice of this size: in the smallest gap that holds it, the first of equal ones.
    fn take(&mut self, size: usize) -> usize {
        let Some(&(gap, at)) = self.by_size.range((size, 0)..).next() else {
            // What is more than any memory stays that: whoever is asked for it says so.
            self.top = self.top.saturating_add(size);
            return self.top - size;
        };
        self.remove(at, gap);
        if gap > size {
            self.insert(at + size, gap - size);
        }
        at
    }

    /// Takes a slice back.
    fn give(&mut self, mut at: usize, mut size: usize) {
        if let Some((&before, &gap)) =
            self.by_offset.range(..at).next_back().filter(|(before, gap)| **before + **gap == at)
        {
            self.remove(before, gap);
            (at, size) = (before, size + gap);
        }
        if let Some(&gap) = self.by_offset.get(&(at + size)) {
            self.remove(at + size, gap);
            size += gap;
        }
        if at + size == self.top { self.top = at } else { self.insert(at, size) }
    }

    fn insert(&mut self, at: usize, size: usize) {
        self.by_offset.insert(at, size);
        self.by_size.insert((size, at));
    }

    fn remove(&mut self, at: usize, size: usize) {
        self.by_offset.remove(&at);
        self.by_size.remove(&(size, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slow, obvious twin: every slice in use is looked at.
    fn by_looking(mut order: Vec<(BufferId, (usize, usize, usize))>) -> (HashMap<BufferId, usize>, usize) {
        order.sort_by_key(|&(id, (start, _, size))| (start, Reverse(size), id));
        let (mut offsets, mut end) = (HashMap::new(), 0);
        let mut used: Vec<(usize, usize, usize)> = Vec::new();
        for (id, (start, stop, size)) in order {
            used.retain(|u| u.2 > start);
            let (mut best, mut cursor): (Option<(usize, usize)>, usize) = (None, 0);
            for &(offset, taken, _) in &used {
                let gap = offset - cursor;
                if gap >= size && best.is_none_or(|(g, _)| gap < g) {
                    best = Some((gap, cursor));
                }
                cursor = offset + taken;
            }
            let at = best.map_or(cursor, |(_, at)| at);
            used.insert(used.partition_point(|u| u.0 < at), (at, size, stop));
            end = end.max(at + size);
            offsets.insert(id, at);
        }
        (offsets, end)
    }

    #[test]
    fn gaps_are_those_that_looking_at_every_slice_finds() {
        let mut bits = 1u64;
        let mut random = |n: usize| {
            bits = bits.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (bits >> 33) as usize % n
        };
        for n in 1..200u32 {
            let slot = |id: u32| {
                let start = random(40);
                (BufferId(id), (start, start + 1 + random(12), ALIGNMENT * (1 + random(9))))
            };
            let slots: Vec<_> = (0..n).map(slot).collect();
            assert_eq!(best_fit(slots.iter().copied().collect()), by_looking(slots), "{n} slots");
        }
    }
}
