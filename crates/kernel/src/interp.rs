//! The kernel interpreter: the slow, obvious twin of the code generators.
//!
//! It exists so that every code generator has something to be compared with, bit for bit, and so that programs run
//! on machines without one. It assumes a kernel that [`Kernel::verify`] accepts; whatever it is given, it answers
//! with an error and never panics. It promises the semantics of [`crate::ir`] and [`cotangent_scalar::order`], the
//! reductions included, for whole kernels and for the rectangles of rows × inner that the threads of a step take. Rows that
//! carry values are taken from the start of a block.

use cotangent_host::float::in_default;
use std::ops::Range;

use cotangent_scalar::eval::Registers;
use cotangent_scalar::order;
use cotangent_scalar::{DType, ReduceOp};

use crate::ir::{IndexMap, Input, Kernel, Phase, Space, Sweep};

/// Where an argument lies: in which buffer, and at which byte of it its element 0 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The index of the buffer; two arguments may share one (updates in place).
    pub buffer: usize,
    /// Bytes before the argument's element 0.
    pub byte_offset: usize,
}

/// Runs the whole kernel; argument `i` is `args[i]`, as native-endian bytes.
///
/// # Errors
/// A kernel that breaks the rules of [`crate::verify`] or leaves the bounds of its arguments.
pub fn run(kernel: &Kernel, args: &mut [&mut [u8]]) -> Result<(), String> {
    kernel.verify().map_err(|errors| errors.join("; "))?;
    let places: Vec<Place> = (0..args.len()).map(|buffer| Place { buffer, byte_offset: 0 }).collect();
    run_unit(kernel, args, &places, 0..kernel.n_rows(), 0..kernel.inner())
}

/// Runs some rows and, unless the sweep is `Row` (which takes whole rows), some of the inner range.
///
/// # Errors
/// A kernel that breaks the rules of [`crate::verify`], a rectangle outside of the kernel, or an access outside of
/// its buffer. What was stored before the error stays stored.
pub fn run_unit(
    kernel: &Kernel,
    buffers: &mut [&mut [u8]],
    places: &[Place],
    rows: Range<usize>,
    cols: Range<usize>,
) -> Result<(), String> {
    kernel.verify().map_err(|errors| errors.join("; "))?;
    if places.len() != kernel.args.len() {
        return Err(format!("the kernel has {} arguments, got {}", kernel.args.len(), places.len()));
    }
    if rows.end > kernel.n_rows() || cols.end > kernel.inner() {
        return Err(format!(
            "rectangle {rows:?} × {cols:?} leaves the kernel's {} × {}",
            kernel.n_rows(),
            kernel.inner()
        ));
    }
    if !rows.start.is_multiple_of(kernel.block().max(1)) {
        return Err(format!("row {} is in the middle of a block of {}", rows.start, kernel.block()));
    }
    in_default(|| units(kernel, buffers, places, rows, cols))
}

/// The same, once it was checked.
fn units(
    kernel: &Kernel,
    buffers: &mut [&mut [u8]],
    places: &[Place],
    rows: Range<usize>,
    cols: Range<usize>,
) -> Result<(), String> {
    let n_slots = kernel.phases.iter().flat_map(|p| &p.reduces).map(|r| r.slot as usize + 1).max().unwrap_or(0);
    let mut machine =
        Machine { kernel, memory: Memory { buffers, places }, registers: Registers::default(), results: vec![] };
    for row in rows {
        let cols = match kernel.sweep {
            Sweep::Row => 0..kernel.inner_of_row(row),
            _ => cols.clone(),
        };
        machine.results = vec![Vec::new(); n_slots];
        for phase in &kernel.phases {
            match (kernel.sweep, phase.space) {
                (Sweep::Elementwise, _) | (Sweep::Row, Space::Full) => machine.row_phase(phase, row, cols.clone())?,
                (Sweep::Row, Space::Reduced) => machine.row_phase(phase, row, 0..1)?,
                (Sweep::Column, Space::Full) => machine.column_phase(phase, row, cols.clone())?,
                (Sweep::Column, Space::Reduced) => machine.sweep_lanes(phase, row, 0, cols.clone())?,
            }
        }
    }
    Ok(())
}

/// Bytes that interpreting a kernel takes beside its arguments: the registers and inputs of all lanes of a row at once, as bits.
pub(crate) fn bytes_beside(kernel: &Kernel) -> usize {
    // What is collected up to the first error may have room for twice as much, while the half of that is copied.
    let of_lane = |phase: &Phase| phase.body.insts().len() + 3 * (phase.inputs.len() + phase.reduces.len());
    let most = kernel.phases.iter().map(of_lane).max().unwrap_or(0);
    kernel.inner().saturating_mul(most).saturating_mul(size_of::<u64>())
}

/// The arguments' bytes.
struct Memory<'a, 'b> {
    buffers: &'a mut [&'b mut [u8]],
    places: &'a [Place],
}

impl Memory<'_, '_> {
    fn bytes(&mut self, arg: usize, index: i64, size: usize) -> Result<&mut [u8], String> {
        let place = self.places[arg];
        let n_buffers = self.buffers.len();
        let buffer = self
            .buffers
            .get_mut(place.buffer)
            .ok_or_else(|| format!("no buffer {} among {n_buffers}", place.buffer))?;
        let length = buffer.len();
        let range = usize::try_from(index)
            .ok()
            .and_then(|index| index.checked_mul(size)?.checked_add(place.byte_offset))
            .and_then(|start| Some(start..start.checked_add(size)?));
        range
            .and_then(|range| buffer.get_mut(range))
            .ok_or_else(|| format!("element {index} of argument {arg} is outside of its {length} bytes"))
    }

    fn read(&mut self, arg: usize, dtype: DType, index: i64) -> Result<u64, String> {
        let bytes = self.bytes(arg, index, dtype.size_bytes())?;
        let mut wide = [0; 8];
        Ok(match dtype.size_bytes() {
            1 => u64::from(bytes[0]),
            4 => {
                wide[..4].copy_from_slice(bytes);
                u64::from(u32::from_ne_bytes([wide[0], wide[1], wide[2], wide[3]]))
            }
            _ => {
                wide.copy_from_slice(bytes);
                u64::from_ne_bytes(wide)
            }
        })
    }

    fn write(&mut self, arg: usize, dtype: DType, index: i64, bits: u64) -> Result<(), String> {
        let bytes = self.bytes(arg, index, dtype.size_bytes())?;
        match dtype.size_bytes() {
            1 => bytes[0] = bits as u8,
            4 => bytes.copy_from_slice(&(bits as u32).to_ne_bytes()),
            _ => bytes.copy_from_slice(&bits.to_ne_bytes()),
        }
        Ok(())
    }
}

struct Machine<'k, 'a, 'b> {
    kernel: &'k Kernel,
    memory: Memory<'a, 'b>,
    registers: Registers,
    /// By slot: one value (`Row`), or one per column of the unit (`Column`).
    results: Vec<Vec<u64>>,
}

impl Machine<'_, '_, '_> {
    /// The index of an access at inner index 0 of a row and, for `Column`, a step of the reduced dim.
    fn start_of(&self, map: &IndexMap, row: usize, step: usize) -> i64 {
        let n_row_dims = self.kernel.n_row_dims();
        let mut index = map.offset;
        let mut rest = row;
        for dim in (0..n_row_dims).rev() {
            let extent = self.kernel.dims[dim];
            index = index.wrapping_add(((rest % extent) as i64).wrapping_mul(map.strides[dim]));
            rest /= extent;
        }
        if self.kernel.sweep == Sweep::Column {
            index = index.wrapping_add((step as i64).wrapping_mul(map.strides[n_row_dims]));
        }
        index
    }

    /// Loads, computes and stores a range of the inner dim; the values stay in the registers.
    fn sweep_lanes(&mut self, phase: &Phase, row: usize, step: usize, cols: Range<usize>) -> Result<(), String> {
        let kernel = self.kernel;
        let block = kernel.block().max(1);
        let at = |start: i64, map: &IndexMap, col: usize| {
            start.wrapping_add((col as i64).wrapping_mul(map.strides[map.strides.len() - 1]))
        };
        let mut inputs: Vec<Vec<u64>> = Vec::with_capacity(phase.inputs.len());
        for (number, input) in phase.inputs.iter().enumerate() {
            let dtype = kernel.input_dtype(phase, number);
            let lanes: Result<Vec<u64>, String> = match input {
                Input::Load { arg, map } => {
                    let start = self.start_of(map, row, step);
                    cols.clone().map(|c| self.memory.read(arg.0 as usize, dtype, at(start, map, c))).collect()
                }
                Input::Clamped { arg, map, clamps } => {
                    let mut start = self.start_of(map, row, step);
                    for clamp in clamps {
                        let index = self.start_of(&clamp.map, row, step).min(clamp.last).max(0);
                        start = start.wrapping_add(index.wrapping_mul(clamp.stride));
                    }
                    cols.clone().map(|c| self.memory.read(arg.0 as usize, dtype, at(start, map, c))).collect()
                }
                Input::Carried { start, .. } if row.is_multiple_of(block) => Ok(vec![*start; cols.len()]),
                Input::Carried { arg, map, .. } => {
                    let start = self.start_of(map, row, step);
                    cols.clone().map(|c| self.memory.read(arg.0 as usize, dtype, at(start, map, c))).collect()
                }
                Input::Index { map, .. } => {
                    let start = self.start_of(map, row, step);
                    let narrow = |index: i64| if dtype == DType::I32 { index as u32 as u64 } else { index as u64 };
                    Ok(cols.clone().map(|c| narrow(at(start, map, c))).collect())
                }
                Input::Reduced(slot) => {
                    let result = &self.results[*slot as usize];
                    let columns = kernel.sweep == Sweep::Column;
                    (0..cols.len())
                        .map(|i| result.get(if columns { i } else { 0 }).copied().ok_or("a result is missing".into()))
                        .collect()
                }
            };
            inputs.push(lanes?);
        }
        self.registers.run(&phase.body, cols.len(), |number, out| out.copy_from_slice(&inputs[number as usize]));
        for store in &phase.stores {
            let start = self.start_of(&store.map, row, step);
            let dtype = kernel.args[store.arg.0 as usize].dtype;
            for (&bits, col) in self.registers.lanes_of(store.value).iter().zip(cols.clone()) {
                self.memory.write(store.arg.0 as usize, dtype, at(start, &store.map, col), bits)?;
            }
        }
        Ok(())
    }

    fn row_phase(&mut self, phase: &Phase, row: usize, cols: Range<usize>) -> Result<(), String> {
        self.sweep_lanes(phase, row, 0, cols)?;
        for reduce in &phase.reduces {
            let values = self.registers.lanes_of(reduce.value);
            let result = order::reduce_row(reduce.op, phase.body.dtype(reduce.value), values);
            self.results[reduce.slot as usize] = vec![result];
        }
        Ok(())
    }

    fn column_phase(&mut self, phase: &Phase, row: usize, cols: Range<usize>) -> Result<(), String> {
        let n_steps = self.kernel.reduced_extent();
        let ops: Vec<(ReduceOp, DType)> = phase.reduces.iter().map(|r| (r.op, phase.body.dtype(r.value))).collect();
        let identities = || ops.iter().map(|(op, dtype)| vec![op.identity(*dtype); cols.len()]).collect::<Vec<_>>();
        let combine = |into: &mut [u64], values: &[u64], (op, dtype): (ReduceOp, DType)| {
            for (acc, &value) in into.iter_mut().zip(values) {
                *acc = op.combine(dtype, *acc, value);
            }
        };
        let mut totals = identities();
        for block in (0..n_steps).step_by(phase.block()) {
            let mut partials = identities();
            for step in block..n_steps.min(block + phase.block()) {
                self.sweep_lanes(phase, row, step, cols.clone())?;
                for (i, reduce) in phase.reduces.iter().enumerate() {
                    combine(&mut partials[i], self.registers.lanes_of(reduce.value), ops[i]);
                }
            }
            for (i, total) in totals.iter_mut().enumerate() {
                combine(total, &partials[i], ops[i]);
            }
        }
        for (reduce, total) in phase.reduces.iter().zip(totals) {
            self.results[reduce.slot as usize] = total;
        }
        Ok(())
    }
}
