//! The phases of a range of columns of a `Column` sweep.
//!
//! A few groups of columns at a time go through all phases. Along the reduced dim the order is that of
//! `cotangent_scalar::order`: blocks of 64 from the identity, whose partials (in registers) are combined in order into
//! totals (in the frame).

use cotangent_kernel::ir::Space;
use iced_x86::{Code, Register};

use crate::wide::alloc::{Allocator, choose_pins, preload, pressure};
use crate::wide::body::{Kept, PhaseCode, Scope, Tail};
use crate::wide::nest::{END, INNER, Nest, SCRATCH, frame};
use crate::wide::row::accumulators;
use crate::wide::select::lane;
use crate::wide::vcode::{Class, Home, What};

/// The index along the reduced dim.
const STEP: Register = Register::RDX;

/// Groups of columns in flight at most.
const MOST_GROUPS: usize = 4;

impl<'k> Nest<'k> {
    /// All phases for the columns of one row.
    pub(crate) fn columns(&mut self, phases: &mut [PhaseCode<'k>]) -> Result<(), String> {
        self.assign_bases(std::iter::empty());
        for phase in phases.iter_mut() {
            self.keep(phase, 1, None, |level| !level.inner && !level.step)?;
        }
        let mut n_groups = MOST_GROUPS.min(self.most_groups);
        for phase in phases.iter() {
            let n_reduces = phase.plan.phase.reduces.len();
            while n_groups > 1 && n_groups * (n_reduces + self.live(phase)?) > self.isa.n_vectors() {
                n_groups /= 2;
            }
        }
        self.begin_inner();
        let (lanes, tail_start) = (self.lanes, self.out.asm.label());
        self.jump_if_fewer(n_groups * lanes, tail_start);
        let next = self.out.asm.here();
        self.chunk(phases, n_groups, None)?;
        self.repeat(n_groups * lanes, next);
        self.out.asm.bind(tail_start);
        let (again, done) = (self.out.asm.label(), self.out.asm.label());
        self.out.asm.bind(again);
        self.out.asm.rr(Code::Cmp_r64_rm64, INNER, END);
        self.out.asm.jump(Code::Jge_rel32_64, done);
        let mut tail = Tail::default();
        self.tail_masks(&mut tail, 1);
        self.chunk(phases, 1, Some(&tail))?;
        self.out.asm.ri(Code::Add_rm64_imm32, INNER, lanes as i32);
        self.out.asm.jump(Code::Jmp_rel32_64, again);
        self.out.asm.bind(done);
        Ok(())
    }

    /// Registers that one group of a phase needs at once.
    fn live(&self, phase: &PhaseCode) -> Result<usize, String> {
        let mut code = self.vcode();
        // Results of reductions are not known yet; any slot will do.
        let anywhere = vec![Some(Kept { slots: [0].into_iter().collect(), lane: 0 }); self.results.len()];
        let scope = Scope { results: &anywhere, first: 0, n_groups: 1, tail: None, streams: false };
        phase.evaluate(&mut code, &scope, |_| true)?;
        Ok(pressure(&code))
    }

    /// All phases for a few groups of columns.
    fn chunk(&mut self, phases: &mut [PhaseCode<'k>], n_groups: usize, tail: Option<&Tail>) -> Result<(), String> {
        for phase in phases {
            self.assign_bases(std::iter::empty());
            // What an earlier call kept for another number of groups.
            for i in 0..phase.kept.len() {
                if phase.plan.level(cotangent_scalar::ValueId(i as u32)).inner {
                    phase.kept[i] = None;
                }
            }
            if phase.plan.phase.space == Space::Reduced {
                let mut code = self.vcode();
                let scope = Scope { results: &self.results, first: 0, n_groups, tail, streams: false };
                let mut env = phase.evaluate(&mut code, &scope, |_| true)?;
                phase.store_all(&mut code, &scope, &mut env, false)?;
                self.write(code, 0);
                continue;
            }
            self.keep(phase, n_groups, tail, |level| !level.step)?;
            self.steps(phase, n_groups, tail)?;
        }
        Ok(())
    }

    /// A `Full` phase: all steps along the reduced dim for the columns in flight.
    fn steps(&mut self, phase: &PhaseCode, n_groups: usize, tail: Option<&Tail>) -> Result<(), String> {
        let (partials, mut taken) = accumulators(self, phase, |_| n_groups, false);
        let mut code = self.vcode();
        let scope = Scope { results: &self.results, first: 0, n_groups, tail, streams: false };
        let mut env = phase.evaluate(&mut code, &scope, |_| true)?;
        for partial in &partials {
            let mut values = Vec::with_capacity(n_groups);
            for group in 0..n_groups {
                values.push(phase.get(&mut code, &scope, &mut env, partial.reduce.value, group)?);
            }
            partial.take(&mut code, 0, &values)?;
        }
        phase.store_all(&mut code, &scope, &mut env, false)?;
        code.prune();
        let pins = choose_pins(&code, taken);
        for &(reg, register) in &pins {
            code.regs[reg.index()].pinned = Some(register);
            taken |= 1 << register;
        }
        // The totals start from the identity too.
        let mut totals: Vec<Kept> = Vec::new();
        let mut start = self.vcode();
        for partial in &partials {
            let identity = start.splat(partial.reduce.op.identity(partial.dtype), partial.dtype);
            let mut kept = Kept::default();
            for _ in 0..n_groups {
                let slot = self.new_slot();
                kept.slots.push(slot);
                start.push(What::Keep(slot), None, &[identity], 0);
            }
            totals.push(kept);
        }
        self.write(start, 0);
        self.rewind(phase);
        let inputs = phase.inputs.iter().zip(&phase.plan.accesses.inputs);
        let moving = inputs.filter(|(_, access)| access.as_ref().is_some_and(|a| a.steps));
        let sites: Vec<usize> = moving.filter_map(|(site, _)| *site).chain(phase.stores.iter().copied()).collect();
        self.assign_bases(sites.into_iter());
        preload(&code, &pins, &mut self.out);
        let extent = self.extent(self.kernel.dims.len() - 2);
        let done = self.out.asm.label();
        self.out.asm.rr(Code::Xor_r32_rm32, Register::EDX, Register::EDX);
        self.out.asm.rm(Code::Cmp_r64_rm64, STEP, extent);
        self.out.asm.jump(Code::Jge_rel32_64, done);
        let block = self.out.asm.here();
        if !partials.is_empty() {
            let mut reset = self.vcode();
            for partial in &partials {
                partial.reset(&mut reset);
            }
            self.write(reset, taken);
        }
        // The end of the block: 64 steps on, or where the dim ends.
        let size = if partials.is_empty() { i32::MAX >> 1 } else { phase.plan.phase.block() as i32 };
        let asm = &mut self.out.asm;
        asm.rm(Code::Lea_r64_m, SCRATCH, crate::wide::asm::at(STEP, size));
        asm.rm(Code::Mov_r64_rm64, Register::RCX, extent);
        asm.rr(Code::Cmp_r64_rm64, SCRATCH, Register::RCX);
        asm.rr(Code::Cmovg_r64_rm64, SCRATCH, Register::RCX);
        asm.mr(Code::Mov_rm64_r64, frame(self.limit), SCRATCH);
        let step = asm.here();
        Allocator::run(&code, &mut self.out, taken);
        self.advance(phase);
        let limit = frame(self.limit);
        let asm = &mut self.out.asm;
        asm.ri(Code::Add_rm64_imm8, STEP, 1);
        asm.rm(Code::Cmp_r64_rm64, STEP, limit);
        asm.jump(Code::Jl_rel32_64, step);
        if !partials.is_empty() {
            let mut sum = self.vcode();
            for (partial, total) in partials.iter().zip(&totals) {
                for group in 0..n_groups {
                    let width = sum.width(lane(partial.dtype));
                    let old = sum.housed(Class::Vector, width, 0, Home::Cell(total.slots[group]));
                    let value = partial.value(&mut sum, partial.cells[group]);
                    let new = sum.combine(partial.reduce.op, partial.dtype, old, value)?;
                    sum.push(What::Keep(total.slots[group]), None, &[new], 0);
                }
            }
            self.write(sum, taken);
        }
        self.out.asm.rm(Code::Cmp_r64_rm64, STEP, extent);
        self.out.asm.jump(Code::Jl_rel32_64, block);
        self.out.asm.bind(done);
        for (partial, total) in partials.iter().zip(totals) {
            self.results[partial.reduce.slot as usize] = Some(total);
        }
        Ok(())
    }
}
