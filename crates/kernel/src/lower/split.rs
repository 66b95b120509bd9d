//! Reductions that take several kernels: full ones of many elements, and those that finish a product.
//!
//! The order of a full reduction ([`cotangent_scalar::order`]) cuts a flat range into chunks of [`FULL_CHUNK`]; every level
//! of it becomes a kernel whose partial results are a buffer of the plan. The order of a column reduction cuts the rows into
//! blocks of [`COLUMN_BLOCK`], which a product's epilogue reduces one by one, or a kernel that reduces rows takes along; a
//! second kernel combines the blocks' results.

use cotangent_graph::NodeId;
use cotangent_scalar::order::{COLUMN_BLOCK, FULL_CHUNK};
use cotangent_scalar::{DType, ReduceOp};
use smallvec::SmallVec;

use super::{ArgRef, Draft, Lowered, Partial};
use crate::ir::{Arg, ArgId, IndexMap, Input, Kernel, Phase, Reduce, Space, Sweep};

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
    kernel.phases[0].inputs.iter_mut().filter_map(Input::map_mut).for_each(&cut);
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
            let value = draft.input(Input::Reduced(r.slot), dtype);
            let partial = ArgRef::Partial(Partial { first, level, slot: r.slot, n: rows });
            let arg = push_arg(&mut current, partial, dtype, true);
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
            let partial = ArgRef::Partial(Partial { first, level, slot: r.slot, n: rows });
            let arg = push_arg(&mut current, partial, dtype, false);
            let map = IndexMap { offset: 0, strides: strides.clone() };
            let value = draft.input(Input::Load { arg, map }, dtype);
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
        for map in maps(&mut phase) {
            map.strides = SmallVec::from_slice(&[0]);
        }
        move_phase(phase, &kernels[0], &mut current);
    }
    kernels.push(current);
    kernels.iter_mut().for_each(drop_unused_args);
    kernels
}

/// Cuts a column reduction that finishes a product into one over the whole blocks of [`COLUMN_BLOCK`] rows and one that
/// combines the blocks' results, those of a last block of fewer rows included, and goes on with them.
pub(super) fn split_columns(first: NodeId, mut blocks: Lowered) -> Vec<Lowered> {
    let &[rows, cols] = &blocks.kernel.dims[..] else { return vec![blocks] };
    let n_blocks = rows.div_ceil(COLUMN_BLOCK);
    let mut after = blocks.kernel.phases.split_off(1);
    let sweep = &mut blocks.kernel.phases[0];
    for map in maps(sweep) {
        map.strides.insert(0, map.strides[0] * COLUMN_BLOCK as i64);
    }
    let reduces = sweep.reduces.clone();
    let dtypes: Vec<DType> = reduces.iter().map(|r| sweep.body.dtype(r.value)).collect();
    blocks.kernel.dims = SmallVec::from_slice(&[rows / COLUMN_BLOCK, COLUMN_BLOCK, cols]);
    blocks.kernel.total = rows / COLUMN_BLOCK * COLUMN_BLOCK * cols;
    let mut made = Draft::new(Space::Reduced, 0);
    let mut carried = Vec::new();
    for (r, &dtype) in reduces.iter().zip(&dtypes) {
        let partial = Partial { first, level: 0, slot: r.slot, n: n_blocks * cols };
        let value = made.input(Input::Reduced(r.slot), dtype);
        let arg = push_arg(&mut blocks, ArgRef::Partial(partial), dtype, true);
        let map = IndexMap { offset: 0, strides: SmallVec::from_slice(&[cols as i64, 0, 1]) };
        made.stores.push((value, arg, map));
        carried.push(Carried { op: r.op, slot: r.slot, dtype, partial });
    }
    blocks.kernel.phases.push(made.finish());
    combine_blocks(blocks, cols, &carried, after.drain(..))
}

/// A reduction of columns whose blocks some kernel makes.
pub(super) struct Carried {
    pub(super) op: ReduceOp,
    pub(super) slot: u32,
    pub(super) dtype: DType,
    pub(super) partial: Partial,
}

/// Cuts the rows of a kernel that carries reductions of columns along into blocks of [`COLUMN_BLOCK`], and makes the kernel
/// that combines these and goes on with the last phase.
pub(super) fn split_rows(mut blocks: Lowered, carried: &[Carried]) -> Vec<Lowered> {
    let &[rows, cols] = &blocks.kernel.dims[..] else { return vec![blocks] };
    let after = blocks.kernel.phases.pop();
    let partials: Vec<ArgId> = (0..blocks.args.len() as u32)
        .map(ArgId)
        .filter(|arg| matches!(blocks.args[arg.0 as usize], ArgRef::Partial(_)))
        .collect();
    let cut = |arg: Option<ArgId>, map: &mut IndexMap| {
        let block = match arg {
            Some(arg) if partials.contains(&arg) => cols as i64,
            _ => map.strides[0] * COLUMN_BLOCK as i64,
        };
        map.strides.insert(0, block);
    };
    for phase in &mut blocks.kernel.phases {
        for input in &mut phase.inputs {
            let arg = input.access().map(|(arg, _)| arg);
            input.map_mut().into_iter().for_each(|map| cut(arg, map));
        }
        phase.stores.iter_mut().for_each(|store| cut(Some(store.arg), &mut store.map));
    }
    blocks.kernel.dims = SmallVec::from_slice(&[rows.div_ceil(COLUMN_BLOCK), COLUMN_BLOCK, cols]);
    combine_blocks(blocks, cols, carried, after.into_iter())
}

/// Adds the kernel that combines the partial results of blocks and goes on with them.
fn combine_blocks(
    blocks: Lowered,
    cols: usize,
    carried: &[Carried],
    after: impl Iterator<Item = Phase>,
) -> Vec<Lowered> {
    let n_blocks = carried.first().map_or(0, |c| c.partial.n / cols.max(1));
    let kernel = Kernel {
        name: format!("{} (blocks)", blocks.kernel.name),
        sweep: Sweep::Column,
        dims: SmallVec::from_slice(&[n_blocks, cols]),
        total: n_blocks * cols,
        args: Vec::new(),
        phases: Vec::new(),
    };
    let mut combined = Lowered { kernel, args: Vec::new() };
    let mut read = Draft::new(Space::Full, 0);
    for &Carried { op, slot, dtype, partial } in carried {
        let arg = push_arg(&mut combined, ArgRef::Partial(partial), dtype, false);
        let map = IndexMap { offset: 0, strides: SmallVec::from_slice(&[cols as i64, 1]) };
        let value = read.input(Input::Load { arg, map }, dtype);
        read.reduces.push(Reduce { value, op, slot, chain: true });
    }
    combined.kernel.phases.push(read.finish());
    for phase in after {
        move_phase(phase, &blocks, &mut combined);
    }
    let mut kernels = vec![blocks, combined];
    kernels.iter_mut().for_each(drop_unused_args);
    kernels
}

/// The maps of all accesses of a phase.
fn maps(phase: &mut Phase) -> impl Iterator<Item = &mut IndexMap> {
    phase.inputs.iter_mut().filter_map(Input::map_mut).chain(phase.stores.iter_mut().map(|store| &mut store.map))
}

/// Appends a phase that was another kernel's: its arguments go along.
fn move_phase(mut phase: Phase, before: &Lowered, to: &mut Lowered) {
    let mut moved = |arg: ArgId, written: bool| {
        let dtype = before.kernel.args[arg.0 as usize].dtype;
        push_arg(to, before.args[arg.0 as usize], dtype, written)
    };
    phase.inputs.iter_mut().filter_map(Input::arg_mut).for_each(|arg| *arg = moved(*arg, false));
    for store in &mut phase.stores {
        store.arg = moved(store.arg, true);
    }
    to.kernel.phases.push(phase);
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
    for (number, phase) in lowered.kernel.phases.iter().enumerate() {
        for input in &phase.inputs {
            if let Input::Load { arg, map } = input {
                read[arg.0 as usize] |= !lowered.kernel.loads_own(number, *arg, map);
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
        phase.inputs.iter_mut().filter_map(Input::arg_mut).for_each(|arg| *arg = map[arg.0 as usize]);
        phase.stores.iter_mut().for_each(|s| s.arg = map[s.arg.0 as usize]);
    }
    (lowered.kernel.args, lowered.args) = (args, refs);
}
