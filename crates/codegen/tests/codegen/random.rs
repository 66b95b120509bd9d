//! Random kernels: machine code and interpreter agree on all memory, inside and outside of what is written.
//!
//! `COTANGENT_SEED=n` replays one kernel and `COTANGENT_KERNELS=n` runs more of them.

use std::ops::Range;

use cotangent_codegen::{Backend, CraneliftBackend, MadeBy, Options};
use cotangent_kernel::ir::{Clamp, Input, Kernel, Phase, Reduce, Space, Store, Sweep};
use cotangent_scalar::{BodyBuilder, DType, LibmFn, ReduceOp, ValueId};

use crate::common::*;

/// A kernel with memory for it.
struct Case {
    kernel: Kernel,
    buffers: Vec<Vec<u8>>,
    /// The buffer of each argument; several when a store is in place.
    binding: Vec<usize>,
    rows: Range<usize>,
    cols: Range<usize>,
}

const INNER: &[usize] = &[1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 47, 64, 65, 100, 127, 300, 517];
const OUTER: &[usize] = &[1, 2, 3, 5];
const REDUCED: &[usize] = &[0, 1, 2, 3, 17, 63, 64, 65, 128, 150];

struct Generator<'r> {
    random: &'r mut Random,
    sweep: Sweep,
    dims: Vec<usize>,
    args: Vec<cotangent_kernel::ir::Arg>,
    buffers: Vec<Vec<u8>>,
    binding: Vec<usize>,
    /// Stored so far: argument, map, space; may be read by later phases.
    stored: Vec<(usize, cotangent_kernel::ir::IndexMap, Space)>,
    slots: Vec<(u32, DType)>,
    /// Rows may carry values to the next ones of their block.
    in_blocks: bool,
    /// Only what has a vector form: neighbors along the inner dim, no calls, no integer division.
    plain: bool,
}

impl Generator<'_> {
    fn reduced_dim(&self) -> usize {
        self.dims.len() - 2
    }

    /// Which dim a `Reduced` phase does not have.
    fn absent_dim(&self) -> usize {
        if self.sweep == Sweep::Row { self.dims.len() - 1 } else { self.reduced_dim() }
    }

    /// A map with a length of the argument that contains it.
    fn fit(&mut self, strides: Vec<i64>) -> (cotangent_kernel::ir::IndexMap, usize) {
        let reach = |sign: i64| -> i64 {
            let ends = strides.iter().zip(&self.dims).map(|(&s, &d)| s * (d as i64 - 1).max(0));
            ends.filter(|end| end.signum() == sign).sum()
        };
        let (low, high) = (reach(-1), reach(1));
        let slack = self.random.below(3) as i64;
        let offset = -low + slack;
        (map(offset, &strides), (offset + high + 1) as usize + self.random.below(3))
    }

    fn load_strides(&mut self, space: Space) -> Vec<i64> {
        let mut strides: Vec<i64> = if self.random.one_in(2) {
            let mut stride = 1;
            let mut dense = vec![0; self.dims.len()];
            for (slot, &extent) in dense.iter_mut().zip(&self.dims).rev() {
                *slot = stride;
                stride *= extent.max(1) as i64;
            }
            dense
        } else {
            (0..self.dims.len()).map(|_| self.random.pick(&[0, 1, 1, 2, 5, -1, 7])).collect()
        };
        if let Some(inner) = strides.last_mut().filter(|_| self.plain) {
            *inner = 1;
        }
        for stride in &mut strides {
            if self.random.one_in(5) {
                *stride = 0;
            }
        }
        if space == Space::Reduced {
            let absent = self.absent_dim();
            strides[absent] = 0;
        }
        strides
    }

    /// Strides that map no two elements of a space to the same place.
    fn store_strides(&mut self, space: Space) -> Vec<i64> {
        let unit = if self.plain { 1 } else { self.random.pick(&[1, 1, 1, 2, -1]) };
        let mut stride = unit;
        let absent = if space == Space::Reduced { Some(self.absent_dim()) } else { None };
        let mut strides = vec![0; self.dims.len()];
        for dim in (0..self.dims.len()).rev() {
            if Some(dim) != absent {
                strides[dim] = stride;
                stride *= self.dims[dim].max(1) as i64;
            }
        }
        strides
    }

    fn buffer(&mut self, dtype: DType, length: usize) -> usize {
        let random = &mut *self.random;
        self.buffers.push(elements(dtype, length, |_| random_bits(random, dtype)));
        self.buffers.len() - 1
    }

    fn input(&mut self, s: &mut BodyBuilder, inputs: &mut Vec<Input>, space: Space) -> (ValueId, bool) {
        let number = inputs.len() as u32;
        let kind = self.random.below(10);
        if kind == 0 {
            let dtype = self.random.pick(&[DType::I32, DType::I64]);
            let strides = self.load_strides(space);
            inputs.push(Input::Index { map: map(self.random.below(9) as i64 - 4, &strides), dtype });
            return (s.input(number, dtype), true);
        }
        if kind <= 2 && !self.slots.is_empty() {
            let (slot, dtype) = self.random.pick(&self.slots);
            inputs.push(Input::Reduced(slot));
            return (s.input(number, dtype), false);
        }
        let readable: Vec<_> =
            self.stored.iter().filter(|(_, _, of)| *of == space || *of == Space::Reduced).cloned().collect();
        if kind == 3 && !readable.is_empty() {
            let (arg, map, _) = readable[self.random.below(readable.len())].clone();
            // What is stored there is no read of what was there before.
            inputs.push(Input::Load { arg: id(arg), map });
            return (s.input(number, self.args[arg].dtype), false);
        }
        let dtype = self.random.pick(&[
            DType::F32,
            DType::F32,
            DType::F32,
            DType::F32,
            DType::I32,
            DType::Bool,
            DType::U8,
            DType::F64,
            DType::I64,
        ]);
        let strides = self.load_strides(space);
        let (mut map, mut length) = self.fit(strides);
        let mut clamps = Vec::new();
        while self.sweep == Sweep::Elementwise && clamps.len() < 2 && self.random.one_in(4) {
            // One more axis around what there is, either way round, whose index leaves it at times.
            let last = self.random.below(4) as i64;
            let mut strides: Vec<i64> = self.dims.iter().map(|_| self.random.below(4) as i64 - 1).collect();
            strides[self.dims.len() - 1] = 0;
            let mut stride = length as i64;
            if self.random.one_in(3) {
                map.offset += last * stride;
                stride = -stride;
            }
            clamps.push(Clamp { map: self::map(self.random.below(7) as i64 - 3, &strides), last, stride });
            length *= last as usize + 1;
        }
        let buffer = self.buffer(dtype, length);
        self.args.push(arg(dtype, true, false));
        self.binding.push(buffer);
        let arg = id(self.args.len() - 1);
        inputs.push(match clamps.is_empty() {
            true => Input::Load { arg, map },
            false => Input::Clamped { arg, map, clamps },
        });
        (s.input(number, dtype), true)
    }

    /// One more value from those there are; `exact` values have bits that are the same everywhere, NaN or not.
    fn operation(&mut self, s: &mut BodyBuilder, values: &mut Vec<(ValueId, bool)>) {
        let (a, exact) = self.random.pick(values);
        let ty = s.dtype(a);
        let same: Vec<ValueId> = values.iter().map(|v| v.0).filter(|&v| s.dtype(v) == ty).collect();
        let b = if self.random.one_in(4) {
            let bits = random_bits(self.random, ty);
            s.const_from_bits(bits, ty)
        } else {
            self.random.pick(&same)
        };
        let c = self.random.pick(&same);
        let bools: Vec<ValueId> = values.iter().map(|v| v.0).filter(|&v| s.dtype(v) == DType::Bool).collect();
        let (a, b) = if self.random.one_in(8) { (b, a) } else { (a, b) };
        let choice = self.random.below(16);
        let value = match choice {
            0 => {
                let to = self.random.pick(&DType::ALL);
                s.cast(a, to)
            }
            1 => s.lt(a, b),
            2 => s.le(a, b),
            3 => s.eq(a, b),
            4 => s.ne(a, b),
            5 if !bools.is_empty() => {
                let condition = self.random.pick(&bools);
                s.select(condition, a, b)
            }
            6 => s.max(a, b),
            7 => s.min(a, b),
            _ if ty == DType::Bool => match choice {
                8 | 9 => s.and(a, b),
                10 | 11 => s.or(a, b),
                12 | 13 => s.xor(a, b),
                _ => s.not(a),
            },
            8 | 9 => s.add(a, b),
            10 => s.sub(a, b),
            11 | 12 => s.mul(a, b),
            13 if self.random.one_in(2) => s.neg(a),
            13 => s.abs(a),
            _ if ty.is_float() => match self.random.below(9) {
                0 => s.sqrt(a),
                1 => s.floor(a),
                2 => s.round_even(a),
                3 => s.div(a, b),
                4 | 5 => s.fma(a, b, c),
                6 if self.random.one_in(3) && !self.plain => {
                    let function = self.random.pick(LibmFn::ALL);
                    let args = [a, b];
                    s.call(function, &args[..function.n_args()])
                }
                7 if exact && values.iter().any(|v| v.0 == a && v.1) => {
                    s.bitcast(a, if ty == DType::F32 { DType::I32 } else { DType::I64 })
                }
                _ => s.trunc(a),
            },
            _ => match self.random.below(9) {
                0 if !self.plain => s.div(a, b),
                1 => s.and(a, b),
                2 => s.or(a, b),
                3 => s.xor(a, b),
                4 => s.shl(a, b),
                5 => s.shr_u(a, b),
                6 => s.shr_s(a, b),
                7 if ty == DType::I32 => s.mul_hi_u(a, b),
                8 if ty != DType::U8 => s.bitcast(a, if ty == DType::I32 { DType::F32 } else { DType::F64 }),
                _ => s.not(a),
            },
        };
        let exact = !s.dtype(value).is_float();
        values.push((value, exact));
    }

    fn phase(&mut self, space: Space) -> Phase {
        let mut s = BodyBuilder::new();
        let mut inputs = Vec::new();
        let n_inputs = 1 + self.random.below(4);
        let mut values: Vec<(ValueId, bool)> = (0..n_inputs).map(|_| self.input(&mut s, &mut inputs, space)).collect();
        if self.random.one_in(4) {
            let dtype = self.random.pick(&DType::ALL);
            let bits = random_bits(self.random, dtype);
            values.push((s.const_from_bits(bits, dtype), true));
        }
        for _ in 0..self.random.pick(&[0, 1, 2, 4, 4, 8, 8, 8, 20, 20, 250]) {
            self.operation(&mut s, &mut values);
        }
        let carried = (self.in_blocks && space == Space::Full && self.random.one_in(2))
            .then(|| self.carry(&mut s, &mut inputs, &values));
        let may_reduce = self.sweep != Sweep::Elementwise && space == Space::Full;
        let n_reduces = if may_reduce { self.random.pick(&[0, 1, 1, 2, 3]) } else { 0 };
        let n_stores = if n_reduces > 0 { self.random.below(3) } else { 1 + self.random.below(2) };
        let recent = values.len().min(5);
        let choose = |random: &mut Random| values[values.len() - 1 - random.below(recent)].0;
        let mut roots: Vec<ValueId> = (0..n_reduces + n_stores).map(|_| choose(self.random)).collect();
        roots.extend(carried.iter().map(|(sum, ..)| *sum));
        let dtypes: Vec<DType> = roots.iter().map(|&v| s.dtype(v)).collect();
        let (body, roots) = s.finish(&roots);
        let mut reduces = Vec::new();
        let chain = self.sweep == Sweep::Column && self.random.below(3) == 0;
        for i in 0..n_reduces {
            let op = if dtypes[i] == DType::Bool {
                self.random.pick(&[ReduceOp::Max, ReduceOp::Min])
            } else {
                self.random.pick(&[ReduceOp::Sum, ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min])
            };
            let slot = self.slots.len() as u32 + i as u32;
            reduces.push(Reduce { value: roots[i], op, slot, chain });
        }
        let mut stores = Vec::new();
        for i in n_reduces..n_reduces + n_stores {
            stores.push(self.store(roots[i], dtypes[i], space, &inputs));
        }
        stores.extend(carried.map(|(_, arg, map)| Store {
            value: roots[n_reduces + n_stores],
            arg,
            map,
            stream: false,
        }));
        for (i, reduce) in reduces.iter().enumerate() {
            self.slots.push((reduce.slot, dtypes[i]));
        }
        Phase { space, body, inputs, stores, reduces }
    }

    /// Combines a value with what the row before left, to be stored there again.
    fn carry(
        &mut self,
        s: &mut BodyBuilder,
        inputs: &mut Vec<Input>,
        values: &[(ValueId, bool)],
    ) -> (ValueId, cotangent_kernel::ir::ArgId, cotangent_kernel::ir::IndexMap) {
        let (value, _) = self.random.pick(values);
        let dtype = s.dtype(value);
        let ops = [ReduceOp::Max, ReduceOp::Min, ReduceOp::Sum, ReduceOp::Prod];
        let op = self.random.pick(if dtype == DType::Bool { &ops[..2] } else { &ops });
        let apart = (self.dims[2] + self.random.below(2)) as i64;
        let (map, length) = self.fit(vec![apart, 0, 1]);
        let buffer = self.buffer(dtype, length);
        self.args.push(arg(dtype, false, true));
        self.binding.push(buffer);
        let arg = id(self.args.len() - 1);
        let start = if self.random.one_in(2) { op.identity(dtype) } else { random_bits(self.random, dtype) };
        let acc = s.input(inputs.len() as u32, dtype);
        inputs.push(Input::Carried { arg, map: map.clone(), start });
        (s.combine(op, acc, value), arg, map)
    }

    fn store(&mut self, value: ValueId, dtype: DType, space: Space, inputs: &[Input]) -> Store {
        let strides = self.store_strides(space);
        // In place of an input that this phase reads element by element and nothing else touches.
        let in_place = inputs.iter().find_map(|input| match input {
            Input::Load { arg, map } => {
                let number = arg.0 as usize;
                let alone = self.binding.iter().filter(|&&b| b == self.binding[number]).count() == 1;
                let fits = map.strides.as_slice() == strides && self.args[number].dtype == dtype;
                (fits && alone && !self.args[number].written).then(|| (map.clone(), self.binding[number]))
            }
            _ => None,
        });
        let (map, buffer) = match in_place {
            Some(place) if self.random.one_in(2) => place,
            _ => {
                let (map, length) = self.fit(strides);
                let buffer = self.buffer(dtype, length);
                (map, buffer)
            }
        };
        self.args.push(arg(dtype, false, true));
        self.binding.push(buffer);
        let number = self.args.len() - 1;
        self.stored.push((number, map.clone(), space));
        let stream = self.random.one_in(3);
        Store { value, arg: id(number), map, stream }
    }
}

fn case(seed: u64) -> Case {
    let random = &mut Random(seed);
    let sweep = random.pick(&[Sweep::Elementwise, Sweep::Row, Sweep::Column]);
    let mut dims: Vec<usize> = (0..random.below(3)).map(|_| random.pick(OUTER)).collect();
    if sweep == Sweep::Column {
        dims.push(random.pick(REDUCED));
    }
    dims.push(if random.one_in(30) { 0 } else { random.pick(INNER) });
    if random.one_in(40) {
        dims[0] = 0;
    }
    let ragged = sweep == Sweep::Row && dims.len() == 2 && dims[0] * dims[1] > 1 && random.one_in(2);
    let in_blocks = sweep == Sweep::Row && dims.len() == 3 && random.one_in(2);
    let mut generator = Generator {
        random,
        sweep,
        dims,
        args: vec![],
        buffers: vec![],
        binding: vec![],
        stored: vec![],
        slots: vec![],
        in_blocks,
        plain: !seed.is_multiple_of(3),
    };
    let mut phases = Vec::new();
    for number in 0..generator.random.pick(&[1, 1, 2, 3, 4]) {
        let reduced = number > 0 && sweep != Sweep::Elementwise && generator.random.one_in(3);
        let phase = generator.phase(if reduced { Space::Reduced } else { Space::Full });
        phases.push(phase);
    }
    let Generator { random, dims, args, buffers, binding, .. } = generator;
    let mut kernel = kernel(&format!("random_{seed}"), sweep, &dims, args, phases);
    if ragged {
        kernel.total -= random.below(kernel.inner());
    }
    if kernel.is_carried() && kernel.total > 0 {
        kernel.total -= random.below(kernel.block()) * kernel.inner();
    }
    let mut part = |n: usize, block: usize| {
        if random.one_in(2) {
            return 0..n;
        }
        let start = random.below(n + 1) / block.max(1) * block;
        start..start + random.below(n - start + 1)
    };
    let (rows, cols) = (part(kernel.n_rows(), kernel.block()), part(kernel.inner(), 1));
    Case { kernel, buffers, binding, rows, cols }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Compares the kernels of these seeds in batches; returns how many of them the wide backend made.
fn check(backend: &dyn Backend, seeds: &[u64]) -> usize {
    let mut n_wide = 0;
    for batch in seeds.chunks(25) {
        let cases: Vec<Case> = batch.iter().map(|&seed| case(seed)).collect();
        for case in &cases {
            assert_eq!(case.kernel.verify(), Ok(()), "{}", case.kernel);
        }
        let compiled = backend.compile(&cases.iter().map(|c| &c.kernel).collect::<Vec<_>>()).expect("code");
        for (number, ((case, code), seed)) in cases.iter().zip(compiled.functions()).zip(batch).enumerate() {
            let Case { kernel, buffers, binding, rows, cols } = case;
            let made_by = &compiled.stats(number).made_by;
            n_wide += usize::from(matches!(made_by, MadeBy::Wide(_)));
            let found = difference(code, kernel, buffers, binding, rows.clone(), cols.clone());
            let found = found.unwrap_or_default();
            assert!(found.is_empty(), "{made_by}: replay with COTANGENT_SEED={seed}\n{found}");
        }
    }
    n_wide
}

fn seeds(n: u64) -> Vec<u64> {
    match number_from("COTANGENT_SEED") {
        Some(seed) => vec![seed],
        None => (0..number_from("COTANGENT_KERNELS").unwrap_or(n)).map(|i| i * 0x1_0001 + 7).collect(),
    }
}

#[test]
fn random_kernels_agree_with_the_interpreter() {
    for backend in backends() {
        let seeds = seeds(2500);
        let n_wide = check(&*backend, &seeds);
        println!("{}: {} kernels, {n_wide} of them wide", backend.name(), seeds.len());
        if backend.name() == "cranelift" {
            assert_eq!(n_wide, 0);
        } else if seeds.len() > 100 {
            assert!(3 * n_wide > seeds.len(), "{}: {n_wide} of {} kernels are wide", backend.name(), seeds.len());
        }
    }
}

#[test]
fn random_kernels_agree_on_a_cpu_without_wide_encodings_and_fma() {
    let options = Options { baseline: true, ..Options::default() };
    check(&CraneliftBackend::new(options).expect("a code generator"), &seeds(600));
}
