//! The phases of one row of an `Elementwise` or a `Row` sweep.
//!
//! A row reduction follows `cotangent_scalar::order` with all 32 virtual lanes (16 of 8-byte types) whatever the extent:
//! surplus lanes hold the identity, and combining with the identity changes no accumulator (a sum that started from +0 is
//! never −0). The lanes are two or more vectors, the *accumulators*, which the groups of a row go to in turn. They stay in
//! registers if there are not too many of them, otherwise in the frame.

use cotangent_kernel::ir::{Reduce, Space, Stride, Sweep};
use cotangent_scalar::{DType, ReduceOp};
use iced_x86::Code;

use crate::wide::ahead::Ahead;
use crate::wide::alloc::{Allocator, choose_pins, preload, pressure};
use crate::wide::body::{Kept, PhaseCode, Scope, Tail};
use crate::wide::isa::{Isa, Op};
use crate::wide::nest::{END, INNER, Nest};
use crate::wide::select::lane;
use crate::wide::vcode::{Class, Home, Reg, RegInfo, Vcode, What};

/// Bodies with more operations than this are interleaved half as far: the code would leave the caches of the front end, or too
/// many values the registers.
const LONG_OPS: usize = 128;

/// Groups in flight at most.
const MOST_GROUPS: usize = 4;

/// Groups of a longer body that are interleaved at once, if registers are few.
const LONG_TOGETHER: usize = 2;

/// Where an accumulator lives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cell {
    Register(u8),
    Slot(i32),
}

/// The accumulators of a reduction.
pub(crate) struct Accumulators {
    pub(crate) reduce: Reduce,
    pub(crate) dtype: DType,
    pub(crate) cells: Vec<Cell>,
    /// Of an extreme of floats: all ones where a NaN went by. Then the cells may lose it.
    pub(crate) nan: Option<Cell>,
}

/// Accumulators of reductions, `n` of each, and the registers they take. `watches` says whether NaN have an accumulator of their
/// own.
pub(crate) fn accumulators(
    nest: &mut Nest,
    phase: &PhaseCode,
    n: impl Fn(DType) -> usize,
    watches: bool,
) -> (Vec<Accumulators>, u32) {
    let reduces = &phase.plan.phase.reduces;
    let has_watch =
        |r: &Reduce| watches && phase.dtype(r.value).is_float() && matches!(r.op, ReduceOp::Max | ReduceOp::Min);
    let total: usize = reduces.iter().map(|r| n(phase.dtype(r.value)) + usize::from(has_watch(r))).sum();
    let n_registers = nest.isa.n_vectors();
    let in_registers = 5 * total <= 2 * n_registers;
    let (mut taken, mut next) = (0u32, n_registers as u8);
    let all = reduces
        .iter()
        .map(|&reduce| {
            let dtype = phase.dtype(reduce.value);
            let mut cell = || {
                if !in_registers {
                    return Cell::Slot(nest.new_slot());
                }
                next -= 1;
                taken |= 1 << next;
                Cell::Register(next)
            };
            let cells = (0..n(dtype)).map(|_| cell()).collect();
            let nan = has_watch(&reduce).then(cell);
            Accumulators { reduce, dtype, cells, nan }
        })
        .collect();
    (all, taken)
}

impl Accumulators {
    /// An accumulator as a value.
    pub(crate) fn value(&self, code: &mut Vcode, cell: Cell) -> Reg {
        let width = code.width(lane(self.dtype));
        let (home, pinned) = match cell {
            Cell::Register(register) => (None, Some(register)),
            Cell::Slot(slot) => (Some(Home::Cell(slot)), None),
        };
        code.reg(RegInfo { class: Class::Vector, width, lane: 0, home, pinned })
    }

    /// Sets all accumulators to the identity.
    pub(crate) fn reset(&self, code: &mut Vcode) {
        let identity = code.splat(self.reduce.op.identity(self.dtype), self.dtype);
        let zero = code.splat(0, self.dtype);
        let cells = self.cells.iter().map(|&cell| (cell, identity));
        for (cell, start) in cells.chain(self.nan.map(|cell| (cell, zero))) {
            match cell {
                Cell::Slot(slot) => {
                    code.push(What::Keep(slot), None, &[start], 0);
                }
                Cell::Register(_) => {
                    let (to, width) = (self.value(code, cell), code.width_of(start));
                    code.push(What::Op(Op::MovUps), Some(to), &[start], width);
                }
            }
        }
    }

    /// The last instruction's result goes to an accumulator; returns it as the value that the accumulator now has.
    fn put(&self, code: &mut Vcode, cell: Cell, acc: Reg, result: Reg) -> Result<Reg, String> {
        match (cell, code.insts.last_mut()) {
            (Cell::Register(_), Some(last)) if last.dst == Some(result) => {
                last.dst = Some(acc);
                Ok(acc)
            }
            (Cell::Register(_), _) => Err("a reduction does not end in an instruction".into()),
            (Cell::Slot(_), _) => Ok(result),
        }
    }

    /// Combines values, each with the cell of its number modulo the number of cells, the first of which is number `first`.
    pub(crate) fn take(&self, code: &mut Vcode, first: usize, values: &[Reg]) -> Result<(), String> {
        let n = self.cells.len();
        for start in 0..n.min(values.len()) {
            let cell = self.cells[(first + start) % n];
            let mut acc = self.value(code, cell);
            for &value in values.iter().skip(start).step_by(n) {
                let combined = match self.nan {
                    Some(_) => code.op(self.machine_op(), &[acc, value]),
                    None => code.combine(self.reduce.op, self.dtype, acc, value)?,
                };
                acc = self.put(code, cell, acc, combined)?;
            }
            if let Cell::Slot(slot) = cell {
                code.push(What::Keep(slot), None, &[acc], 0);
            }
        }
        let Some(cell) = self.nan else { return Ok(()) };
        let mut acc = self.value(code, cell);
        for pair in values.chunks(2) {
            let unordered = code.unordered(self.dtype, pair[0], pair[pair.len() - 1]);
            let seen = code.op(Op::PorD, &[acc, unordered]);
            acc = self.put(code, cell, acc, seen)?;
        }
        if let Cell::Slot(slot) = cell {
            code.push(What::Keep(slot), None, &[acc], 0);
        }
        Ok(())
    }

    /// The machine's maximum or minimum, which gives its second operand if either is NaN.
    fn machine_op(&self) -> Op {
        match (self.reduce.op, lane(self.dtype)) {
            (ReduceOp::Max, 8) => Op::MaxPd,
            (ReduceOp::Max, _) => Op::MaxPs,
            (_, 8) => Op::MinPd,
            _ => Op::MinPs,
        }
    }
}

impl<'k> Nest<'k> {
    /// All phases for one row.
    pub(crate) fn row(&mut self, phases: &mut [PhaseCode<'k>]) -> Result<(), String> {
        if self.kernel.is_carried() {
            self.start_block(phases)?;
        }
        let ahead = self.ahead(phases);
        for (number, phase) in phases.iter_mut().enumerate() {
            self.assign_bases(std::iter::empty());
            if self.kernel.sweep == Sweep::Row && phase.plan.phase.space == Space::Reduced {
                let mut code = self.vcode();
                let scope = Scope { results: &self.results, first: 0, n_groups: 1, tail: None, streams: false };
                let mut env = phase.evaluate(&mut code, &scope, |_| true)?;
                phase.store_all(&mut code, &scope, &mut env, true)?;
                self.write(code, 0);
                continue;
            }
            self.keep(phase, 1, None, |level| !level.inner)?;
            self.full_phase(phase, ahead.as_ref(), number)?;
        }
        Ok(())
    }

    /// In the first row of a block, puts what rows carry at its start.
    fn start_block(&mut self, phases: &[PhaseCode<'k>]) -> Result<(), String> {
        let later = self.out.asm.label();
        self.skip_in_block(later);
        for phase in phases {
            let starts: Vec<(usize, u64)> = phase.starts().collect();
            if starts.is_empty() {
                continue;
            }
            self.assign_bases(starts.iter().map(|&(number, _)| phase.stores[number]));
            self.begin_inner();
            let code = |nest: &Self, tail: Option<&Tail>| {
                let mut code = nest.vcode();
                let scope = Scope { results: &nest.results, first: 0, n_groups: 1, tail, streams: false };
                for &(number, start) in &starts {
                    let value = code.splat(start, phase.plan.accesses.stores[number].dtype);
                    phase.store(&mut code, &scope, number, value, 0)?;
                }
                Ok::<Vcode, String>(code)
            };
            let whole = code(self, None)?;
            self.vector_loop(whole, self.lanes, 0, true);
            let done = self.out.asm.label();
            self.out.asm.rr(Code::Cmp_r64_rm64, INNER, END);
            self.out.asm.jump(Code::Jge_rel32_64, done);
            let mut tail = Tail::default();
            self.tail_masks(&mut tail, 1);
            let rest = code(self, Some(&tail))?;
            self.write(rest, 0);
            self.out.asm.bind(done);
        }
        self.out.asm.bind(later);
        Ok(())
    }

    /// The code of some groups: evaluation, reductions, stores.
    fn groups(
        &self,
        phase: &PhaseCode,
        accumulators: &[Accumulators],
        n_groups: usize,
        tail: Option<&Tail>,
        streams: bool,
    ) -> Result<Vcode, String> {
        let is_long = phase.plan.n_varying_ops() > LONG_OPS;
        let together = if is_long && self.isa == Isa::Avx2 { LONG_TOGETHER } else { n_groups };
        let mut code = self.vcode();
        for first in (0..n_groups).step_by(together.max(1)) {
            let scope =
                Scope { results: &self.results, first, n_groups: together.min(n_groups - first), tail, streams };
            let mut env = phase.evaluate(&mut code, &scope, |_| true)?;
            for acc in accumulators {
                let mut values = Vec::with_capacity(scope.n_groups);
                for group in 0..scope.n_groups {
                    let mut value = phase.get(&mut code, &scope, &mut env, acc.reduce.value, group)?;
                    if let Some(tail) = tail {
                        let size = lane(acc.dtype);
                        let mask = code.tail_mask(tail, first + group, size);
                        let identity = acc.reduce.op.identity(acc.dtype);
                        value = if identity == 0 {
                            code.keep(mask, value, size)
                        } else {
                            let identity = code.splat(identity, acc.dtype);
                            code.blend(mask, value, identity, size)
                        };
                    }
                    values.push(value);
                }
                acc.take(&mut code, first, &values)?;
            }
            phase.store_all(&mut code, &scope, &mut env, false)?;
        }
        code.prune();
        Ok(code)
    }

    fn full_phase(&mut self, phase: &PhaseCode, ahead: Option<&Ahead>, number: usize) -> Result<(), String> {
        let lanes = self.lanes;
        let n_lanes = |dtype: DType| if lane(dtype) == 8 { 16 } else { 32 };
        let (accumulators, taken) = accumulators(self, phase, |dtype| n_lanes(dtype) / lanes, self.isa == Isa::Avx2);
        // A round gives every accumulator its groups.
        let round = accumulators.iter().map(|a| a.cells.len()).max().unwrap_or(1);
        let mut tail = Tail::default();
        self.begin_inner();
        let inputs = phase.inputs.iter().zip(&phase.plan.accesses.inputs);
        let moving = inputs.filter(|(_, a)| a.as_ref().is_some_and(|a| a.inner != Stride::Zero));
        let sites: Vec<usize> = moving.filter_map(|(site, _)| *site).chain(phase.stores.iter().copied()).collect();
        self.assign_bases(sites.into_iter());
        self.aim(ahead, number);
        if !accumulators.is_empty() {
            let mut code = self.vcode();
            for acc in &accumulators {
                acc.reset(&mut code);
            }
            self.write(code, taken);
        }
        let single = self.groups(phase, &accumulators, round, None, false)?;
        let unroll = self.unroll(phase, &single, round, taken);
        let streams: Vec<usize> = phase.streams().collect();
        if !streams.is_empty() {
            // What is left over, or all if a place is not aligned, is for the loops that follow.
            let plain = self.out.asm.label();
            for &number in &streams {
                let width = self.vcode().width(phase.plan.accesses.stores[number].dtype.size_bytes());
                self.jump_unless_aligned(phase.stores[number], width, plain);
            }
            let code = self.groups(phase, &accumulators, unroll, None, true)?;
            self.vector_loop(code, unroll * lanes, taken, true);
            self.out.asm.bind(plain);
        }
        if unroll > round {
            let code = self.groups(phase, &accumulators, unroll, None, false)?;
            self.vector_loop(code, unroll * lanes, taken, true);
        }
        // On AVX2 masked accesses are slow; with mask registers they cost nothing.
        if unroll == round || (self.isa == Isa::Avx2 && accumulators.is_empty()) {
            self.vector_loop(single, round * lanes, taken, unroll == round);
        }
        let (again, done) = (self.out.asm.label(), self.out.asm.label());
        self.out.asm.bind(again);
        self.out.asm.rr(Code::Cmp_r64_rm64, INNER, END);
        self.out.asm.jump(Code::Jge_rel32_64, done);
        self.tail_masks(&mut tail, round);
        let code = self.groups(phase, &accumulators, round, Some(&tail), false)?;
        Allocator::run(&code, &mut self.out, taken);
        self.out.asm.ri(Code::Add_rm64_imm32, INNER, (round * lanes) as i32);
        self.out.asm.jump(Code::Jmp_rel32_64, again);
        self.out.asm.bind(done);
        self.fetches.clear();
        if !accumulators.is_empty() {
            self.halve(&accumulators, taken)?;
        }
        Ok(())
    }

    /// Groups in flight, a multiple of those that the accumulators need: as many as registers allow. The 16 registers of AVX2
    /// hold two groups of the lightest bodies only; there it pays to have groups in flight all the same, some of their values in
    /// memory, because one group's chain of operations is mostly waiting.
    fn unroll(&self, phase: &PhaseCode, single: &Vcode, round: usize, taken: u32) -> usize {
        let n_free = self.isa.n_vectors() - taken.count_ones() as usize;
        let fits = n_free * round / pressure(single).max(1);
        let most = match self.isa {
            Isa::Avx2 => MOST_GROUPS,
            Isa::Avx512 if phase.plan.n_varying_ops() > LONG_OPS => fits.min(MOST_GROUPS / 2),
            Isa::Avx512 => fits.min(MOST_GROUPS),
        };
        let most = most.min(self.most_groups);
        let rounds = (most / round).max(1);
        // Powers of two keep the numbers of code variants and of leftovers low.
        round << rounds.ilog2()
    }

    /// A loop over so many elements at a time while there are as many.
    fn vector_loop(&mut self, mut code: Vcode, n: usize, taken: u32, pin: bool) {
        let pins = if pin { choose_pins(&code, taken) } else { vec![] };
        let mut taken = taken;
        for &(reg, register) in &pins {
            code.regs[reg.index()].pinned = Some(register);
            taken |= 1 << register;
        }
        let after = self.out.asm.label();
        self.jump_if_fewer(n, after);
        preload(&code, &pins, &mut self.out);
        let next = self.out.asm.here();
        self.fetch(n);
        Allocator::run(&code, &mut self.out, taken);
        self.repeat(n, next);
        self.out.asm.bind(after);
    }

    /// Combines lanes by halving, lane `i` with lane `i + L/2`, until one is left; keeps it in all lanes of a slot.
    fn halve(&mut self, accumulators: &[Accumulators], taken: u32) -> Result<(), String> {
        let mut code = self.vcode();
        for acc in accumulators {
            let (op, dtype) = (acc.reduce.op, acc.dtype);
            let mut parts: Vec<Reg> = acc.cells.iter().map(|&cell| acc.value(&mut code, cell)).collect();
            if let Some(cell) = acc.nan {
                // All ones are a NaN.
                let seen = acc.value(&mut code, cell);
                parts[0] = code.op(Op::PorD, &[parts[0], seen]);
            }
            while parts.len() > 1 {
                let high = parts.split_off(parts.len() / 2);
                for (low, high) in parts.iter_mut().zip(high) {
                    *low = code.combine(op, dtype, *low, high)?;
                }
            }
            let mut rest = parts[0];
            let mut width = code.width_of(rest);
            while width > 16 {
                let high = code.op_to(width / 2, Op::Extracthigh, &[rest], width, 1);
                let low = code.op_to(width / 2, Op::MovUps, &[rest], width / 2, 0);
                rest = code.combine(op, dtype, low, high)?;
                width /= 2;
            }
            // The high half of the vector, then (for four lanes) the second lane.
            let shuffles: &[u8] = if lane(dtype) == 8 { &[0x4e] } else { &[0x4e, 0xb1] };
            for &words in shuffles {
                let other = code.op_imm(Op::PshufD, &[rest], words);
                rest = code.combine(op, dtype, rest, other)?;
            }
            let width = code.width(lane(dtype));
            let broadcast = if lane(dtype) == 8 { Op::PbroadcastQ } else { Op::PbroadcastD };
            let result = code.op_to(width, broadcast, &[rest], width, 0);
            let slot = self.new_slot();
            code.push(What::Keep(slot), None, &[result], 0);
            self.results[acc.reduce.slot as usize] = Some(Kept { slots: [slot].into_iter().collect(), lane: 0 });
        }
        self.write(code, taken);
        Ok(())
    }
}
