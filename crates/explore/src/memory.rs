//! Where a plan takes most memory.

use cotangent_kernel::{BufferId, Home, Plan};

/// The step at which most of the arena is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// The step.
    pub step: usize,
    /// Bytes in use then; memory that buffers hand on to each other counts once.
    pub n_bytes: usize,
    /// The buffers alive then, the largest first.
    pub live: Vec<BufferId>,
}

/// The offset of a buffer in the arena, if it lies there.
pub(crate) fn offset(plan: &Plan, id: BufferId) -> Option<usize> {
    match plan.buffers[id.index()].home {
        Home::Arena { offset } => Some(offset),
        _ => None,
    }
}

impl Peak {
    /// The peak of a plan; the first of several.
    pub fn of(plan: &Plan) -> Self {
        let mut peak = Peak::default();
        for step in 0..plan.steps.len() {
            let live = live(plan, step);
            let n_bytes = covered(plan, &live);
            if n_bytes > peak.n_bytes {
                peak = Peak { step, n_bytes, live };
            }
        }
        peak.live.sort_by_key(|id| (std::cmp::Reverse(plan.buffers[id.index()].n_bytes()), *id));
        peak
    }
}

/// The buffers of the arena that are alive at a step.
fn live(plan: &Plan, step: usize) -> Vec<BufferId> {
    let ids = (0..plan.buffers.len() as u32).map(BufferId);
    ids.filter(|id| offset(plan, *id).is_some() && plan.buffers[id.index()].live.contains(&step)).collect()
}

/// The bytes that buffers of the arena cover together.
fn covered(plan: &Plan, ids: &[BufferId]) -> usize {
    let range = |id: &BufferId| offset(plan, *id).map(|at| (at, at + plan.buffers[id.index()].n_bytes()));
    let mut ranges: Vec<(usize, usize)> = ids.iter().filter_map(range).collect();
    ranges.sort_unstable();
    let (mut total, mut end) = (0, 0);
    for (from, to) in ranges {
        total += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    total
}
