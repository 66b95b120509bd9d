//! Fetching the next row ahead: the first-level cache is asked for it while the present one is computed.
//!
//! Rows are read from memory in their first sweep, which does little but wait for them. So the sweep with the most operations asks
//! for the lines of the next row, one instruction for each 64 bytes. Only kernels do so that store past the caches: what comes from
//! a cache comes in time by itself, and more of it in the first level only pushes out what the next sweep needs. A fetch past the
//! last row does no harm: it never faults.

use cotangent_host::LINE;
use cotangent_kernel::ir::{ArgId, IndexMap, Input, Space, Stride, Sweep};
use iced_x86::{Code, Instruction, Register};

use crate::wide::asm::indexed;
use crate::wide::body::PhaseCode;
use crate::wide::encode::BASES;
use crate::wide::nest::{INNER, Nest, SCRATCH, frame};

/// What of the next row is fetched, and in which phase.
pub(crate) struct Ahead {
    phase: usize,
    sites: Vec<usize>,
}

impl<'k> Nest<'k> {
    /// Chooses what is fetched ahead: what the sweeps of a row load that lies elsewhere for the next row.
    pub(crate) fn ahead(&self, phases: &[PhaseCode<'k>]) -> Option<Ahead> {
        let n_rows = self.kernel.n_row_dims();
        if self.kernel.sweep != Sweep::Row || n_rows == 0 || phases.iter().all(|phase| phase.streams().next().is_none())
        {
            return None;
        }
        let full = || phases.iter().enumerate().filter(|(_, phase)| phase.plan.phase.space == Space::Full);
        let mut known: Vec<(ArgId, &IndexMap)> = Vec::new();
        let mut sites = Vec::new();
        for (_, phase) in full() {
            for (input, site) in phase.plan.phase.inputs.iter().zip(&phase.inputs) {
                let (Input::Load { arg, map }, Some(site)) = (input, site) else { continue };
                let moves = map.strides[n_rows - 1] != 0 && Stride::of(map.strides[n_rows]) == Stride::One;
                if moves && !known.contains(&(*arg, map)) {
                    known.push((*arg, map));
                    sites.push(*site);
                }
            }
        }
        let (phase, _) = full().max_by_key(|(_, phase)| phase.plan.n_varying_ops())?;
        (full().count() > 1).then_some(Ahead { phase, sites })
    }

    /// Puts the addresses of the next row into registers that are left, if the phase is the one that fetches.
    pub(crate) fn aim(&mut self, ahead: Option<&Ahead>, phase: usize) {
        self.fetches.clear();
        let Some(ahead) = ahead.filter(|ahead| ahead.phase == phase) else { return };
        let used: Vec<Register> = self.out.sites.iter().filter_map(|site| site.register).collect();
        let free = BASES.into_iter().filter(|base| !used.contains(base));
        let inner = self.extent(self.kernel.dims.len() - 1);
        for (&number, register) in ahead.sites.iter().zip(free) {
            let (site, stride) = (self.out.sites[number], self.row_stride(number));
            let asm = &mut self.out.asm;
            asm.rm(Code::Mov_r64_rm64, SCRATCH, stride);
            asm.ri(Code::Shl_rm64_imm8, SCRATCH, site.size.trailing_zeros() as i32);
            // For long rows the present one is named, which is there already.
            asm.rr(Code::Xor_r32_rm32, Register::ECX, Register::ECX);
            asm.emit(Instruction::with2(Code::Cmp_rm64_imm32, inner, self.longest_ahead));
            asm.rr(Code::Cmovg_r64_rm64, SCRATCH, Register::RCX);
            asm.rm(Code::Mov_r64_rm64, register, frame(site.word));
            asm.rr(Code::Add_r64_rm64, register, SCRATCH);
            self.fetches.push((register, site.size));
        }
    }

    /// Fetches what of the next row corresponds to the next `n` elements of this one.
    pub(crate) fn fetch(&mut self, n: usize) {
        for &(register, size) in &self.fetches {
            for line in 0..(n * size).div_ceil(LINE) {
                let address = indexed(register, INNER, size as u32, (line * LINE) as i32);
                self.out.asm.emit(Instruction::with1(Code::Prefetcht0_m8, address));
            }
        }
    }
}
