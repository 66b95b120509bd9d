//! Stores that go past the caches.
//!
//! An ordinary store reads the line that it writes to, and turns another one out of the cache. Where a step touches more than
//! the caches hold, that is in vain for what it writes once and reads never: nobody finds it in cache any more.

use std::collections::HashMap;

use crate::cost::CostModel;
use crate::ir::{ArgId, Input, Kernel, Space, Store, Stride, Sweep};
use crate::plan::{KernelCall, Plan, Step};

/// Marks such stores of all kernels that are steps of their own.
pub(super) fn mark(plan: &mut Plan, cost: &CostModel) {
    let wanted: Vec<Option<Vec<ArgId>>> = plan.steps.iter().map(|step| streamed(plan, step, cost)).collect();
    // Calls of one kernel may differ; each way of storing is a kernel.
    let mut variants: HashMap<(usize, Vec<ArgId>), usize> = HashMap::new();
    let mut is_taken = vec![false; plan.kernels.len()];
    for call in plan.steps.iter().filter(|step| matches!(step, Step::Product { .. })).flat_map(Step::calls) {
        is_taken[call.kernel] = true;
        variants.insert((call.kernel, Vec::new()), call.kernel);
    }
    for (step, args) in plan.steps.iter_mut().zip(wanted) {
        let (Step::Kernel(call), Some(args)) = (step, args) else { continue };
        let original = call.kernel;
        call.kernel = *variants.entry((original, args.clone())).or_insert_with(|| {
            if !std::mem::replace(&mut is_taken[original], true) {
                return original;
            }
            plan.kernels.push(plan.kernels[original].clone());
            plan.kernels.len() - 1
        });
        let stores = plan.kernels[call.kernel].phases.iter_mut().flat_map(|phase| &mut phase.stores);
        stores.for_each(|store| store.stream = args.contains(&store.arg));
    }
}

/// The arguments of a step's kernel that are stored past the caches.
fn streamed(plan: &Plan, step: &Step, cost: &CostModel) -> Option<Vec<ArgId>> {
    let Step::Kernel(call) = step else { return None };
    let kernel = &plan.kernels[call.kernel];
    let is_large = cost.streams(plan.step_bytes(step)) && kernel.sweep != Sweep::Column;
    let args = (0..kernel.args.len()).map(|k| ArgId(k as u32));
    Some(args.filter(|&arg| is_large && is_written_once(plan, call, kernel, arg)).collect())
}

/// Whether a kernel stores every element of a matrix once, neighbors side by side, and loads none.
fn is_written_once(plan: &Plan, call: &KernelCall, kernel: &Kernel, arg: ArgId) -> bool {
    let n_elements = plan.buffers[call.args[arg.0 as usize].index()].n_elements;
    let stores = || {
        let all = kernel.phases.iter().flat_map(|p| p.stores.iter().map(move |s| (p.space, s)));
        all.filter(|(_, store)| store.arg == arg)
    };
    let inputs = kernel.phases.iter().flat_map(|p| &p.inputs).filter_map(Input::access);
    let is_side_by_side = |(space, store): (Space, &Store)| {
        let inner = store.map.strides.last().copied();
        space == Space::Full && inner.is_some_and(|stride| Stride::of(stride) == Stride::One)
    };
    let n_stored = kernel.total.saturating_mul(stores().count());
    stores().next().is_some()
        && stores().all(is_side_by_side)
        && n_elements >= n_stored
        && inputs.into_iter().all(|(input, _)| input != arg)
        && call.args.iter().filter(|&&id| id == call.args[arg.0 as usize]).count() == 1
}
