//! Full reductions of many elements: one kernel over chunks, and one or more over the chunks' results.
//!
//! The order of a full reduction ([`cotangent_scalar::order`]) cuts a flat range into chunks of [`FULL_CHUNK`]; every level
//! of it becomes a kernel whose partial results are a buffer of the plan.

use cotangent_graph::NodeId;
use cotangent_scalar::DType;
use cotangent_scalar::order::FULL_CHUNK;
use smallvec::SmallVec;

use super::{ArgRef, Draft, Lowered};
use crate::ir::{Arg, ArgId, IndexMap, Input, Kernel, Reduce, Space, Sweep};

/// Cuts a full reduction into one over chunks of [`FULL_CHUNK`] and one (or more) over their partial results.
pub(super) fn split_full(first: NodeId, lowered: Lowered) -> Vec<Lowered> {
    let Lowered { mut kernel, args } = lowered;
    let after = (kernel.phases.len() > 1).then(|| kernel.phases.remove(1));
    let n = kernel.inner();
    let n_rows = n.div_ceil(FULL_CHUNK);
    kernel.dims = SmallVec::from_slice(&[n_rows, FULL_CHUNK]);
    kernel.total = n;
    let cut = |map: &mut IndexMap| {
        let stride = map.strides[0];
        map.strides = SmallVec::from_slice(&[stride * FULL_CHUNK as i64, stride]);
    };
    for input in &mut kernel.phases[0].inputs {
        if let Input::Load { map, .. } | Input::Index { map, .. } = input {
            cut(map);
        }
    }
    kernel.phases[0].stores.iter_mut().for_each(|s| cut(&mut s.map));
    let mut kernels = Vec::new();
    let reduces = kernel.phases[0].reduces.clone();
    let dtypes: Vec<DType> = reduces.iter().map(|r| kernel.phases[0].body.dtype(r.value)).collect();
    let mut current = Lowered { kernel, args };
    let (mut rows, mut level) = (n_rows, 0);
    loop {
        // The partial results of this level.
        let mut draft = Draft::new(Space::Reduced, 0);
        for (r, &dtype) in reduces.iter().zip(&dtypes) {
            let value = draft.input(Input::Reduced(r.slot), dtype, None);
            let arg = push_arg(&mut current, ArgRef::Partial(first, level, r.slot), dtype, true);
            draft.stores.push((value, arg, IndexMap { offset: 0, strides: SmallVec::from_slice(&[1, 0]) }));
        }
        current.kernel.phases.push(draft.finish());
        let name = format!("{} (partials)", current.kernel.name.trim_end_matches(" (partials)"));
        kernels.push(current);
        // The next level reads them.
        let is_last = rows <= FULL_CHUNK;
        let dims: SmallVec<[usize; 4]> = if is_last {
            SmallVec::from_slice(&[rows])
        } else {
            SmallVec::from_slice(&[rows.div_ceil(FULL_CHUNK), FULL_CHUNK])
        };
        let strides: SmallVec<[i64; 4]> =
            if is_last { SmallVec::from_slice(&[1]) } else { SmallVec::from_slice(&[FULL_CHUNK as i64, 1]) };
        let kernel = Kernel { name, sweep: Sweep::Row, dims, total: rows, args: Vec::new(), phases: Vec::new() };
        current = Lowered { kernel, args: Vec::new() };
        let mut draft = Draft::new(Space::Full, 0);
        for (r, &dtype) in reduces.iter().zip(&dtypes) {
            let arg = push_arg(&mut current, ArgRef::Partial(first, level, r.slot), dtype, false);
            let map = IndexMap { offset: 0, strides: strides.clone() };
            let value = draft.input(Input::Load { arg, map }, dtype, None);
            draft.reduces.push(Reduce { value, ..*r });
        }
        current.kernel.phases.push(draft.finish());
        if is_last {
            break;
        }
        rows = rows.div_ceil(FULL_CHUNK);
        level += 1;
    }
    if let Some(mut phase) = after {
        // Its arguments belonged to the first kernel; those that it alone used move here.
        let before = kernels[0].clone();
        let moved = |arg: ArgId, written: bool, current: &mut Lowered| {
            let old = &before.kernel.args[arg.0 as usize];
            push_arg(current, before.args[arg.0 as usize], old.dtype, written)
        };
        for input in &mut phase.inputs {
            if let Input::Load { arg, map } = input {
                *arg = moved(*arg, false, &mut current);
                map.strides = SmallVec::from_slice(&[0]);
            } else if let Input::Index { map, .. } = input {
                map.strides = SmallVec::from_slice(&[0]);
            }
        }
        for store in &mut phase.stores {
            store.arg = moved(store.arg, true, &mut current);
            store.map.strides = SmallVec::from_slice(&[0]);
        }
        current.kernel.phases.push(phase);
    }
    kernels.push(current);
    kernels.iter_mut().for_each(drop_unused_args);
    kernels
}

fn push_arg(lowered: &mut Lowered, reference: ArgRef, dtype: DType, written: bool) -> ArgId {
    let at = lowered.args.iter().position(|&a| a == reference).unwrap_or_else(|| {
        lowered.args.push(reference);
        lowered.kernel.args.push(Arg { dtype, read: false, written: false });
        lowered.args.len() - 1
    });
    let arg = &mut lowered.kernel.args[at];
    if written {
        arg.written = true
    } else {
        arg.read = true
    }
    ArgId(at as u32)
}

/// Recomputes which arguments a kernel touches, and drops the others.
fn drop_unused_args(lowered: &mut Lowered) {
    let n = lowered.args.len();
    let (mut read, mut written) = (vec![false; n], vec![false; n]);
    for phase in &lowered.kernel.phases {
        for input in &phase.inputs {
            if let Input::Load { arg, .. } = input {
                read[arg.0 as usize] = true;
            }
        }
        for store in &phase.stores {
            written[store.arg.0 as usize] = true;
        }
    }
    let mut map = vec![ArgId(0); n];
    let (mut args, mut refs) = (Vec::new(), Vec::new());
    for i in 0..n {
        if read[i] || written[i] {
            map[i] = ArgId(args.len() as u32);
            args.push(Arg { dtype: lowered.kernel.args[i].dtype, read: read[i], written: written[i] });
            refs.push(lowered.args[i]);
        }
    }
    for phase in &mut lowered.kernel.phases {
        for input in &mut phase.inputs {
            if let Input::Load { arg, .. } = input {
                *arg = map[arg.0 as usize];
            }
        }
        phase.stores.iter_mut().for_each(|s| s.arg = map[s.arg.0 as usize]);
    }
    (lowered.kernel.args, lowered.args) = (args, refs);
}
