//! One kernel to one function: entry, frame, and the loop over rows.
//!
//! The signature is that of [`crate::KernelFn`], `(ptrs, layout, row0, row1, col0, col1)`, with the calling convention of
//! Unix. The whole loop nest is one function: a row costs a few additions, never a call. The frame, from the stack pointer
//! up: slots for spilled values, then words and slots as the code asks for them. Its size is known last, so the entry jumps
//! to the end of the code, where the frame is made (and each page of it touched), and back.

use cotangent_host::Target;
use std::collections::BTreeMap;

use cotangent_kernel::ir::{Kernel, Stride, Sweep};
use cotangent_scalar::{DType, Inst, ScalarOp};
use iced_x86::{Code, Register};
use smallvec::SmallVec;

use crate::access::{Access, Accesses};
use crate::phase::{Level, PhasePlan};
use crate::wide::alloc::Allocator;
use crate::wide::asm::{Assembler, Label, at, indexed};
use crate::wide::body::{Kept, PhaseCode, Scope, halves};
use crate::wide::encode::{BASES, Output, SPILL_SLOTS, Site};
use crate::wide::isa::{Isa, longest_ahead};
use crate::wide::select::lane;
use crate::wide::vcode::{Vcode, What};

/// A frame larger than this is left to Cranelift.
const MAX_FRAME: i32 = 1 << 15;

/// Bytes between two touches of a large frame, so that none skips the guard page.
const PAGE: i32 = 4096;

/// The callee's to save.
const SAVED: [Register; 6] = [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// What is known of an access besides its [`Site`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Track {
    pub(super) arg: Option<usize>,
    /// Where the layout holds the offset; the strides follow.
    pub(super) layout: usize,
    /// Bytes of an element as a power of two; 0 for an index.
    pub(super) shift: u32,
    /// The word with the address of the row, if [`Site::word`] moves along the reduced dim, and that with its stride.
    pub(super) step: Option<(i32, i32)>,
    /// The word with the address of the row without clamps, if there are any.
    pub(super) unclamped: Option<i32>,
    /// Whether it moves along the last row dim.
    pub(super) by_row: bool,
}

/// A place of the next row while a phase runs: its address at inner index 0, and bytes of an element.
pub(crate) type Fetch = (Register, usize);

/// The clamps of a kernel.
pub(super) struct Clamps {
    /// For each clamp of the kernel that is still to come, the number of the first that is equal.
    pub(super) firsts: std::vec::IntoIter<usize>,
    /// By that number.
    pub(super) known: BTreeMap<usize, Clamped>,
    /// The sites with clamps, and the numbers of these.
    pub(super) sites: Vec<(usize, SmallVec<[usize; 2]>)>,
}

/// One axis whose index is held inside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clamped {
    /// The site that is its index.
    pub(super) index: usize,
    /// Where the layout holds its last index; its stride follows.
    pub(super) layout: usize,
    /// Bytes of an element as a power of two.
    pub(super) shift: u32,
    /// The word with what it adds to addresses, in bytes.
    pub(super) word: i32,
}

impl Clamps {
    pub(super) fn new(kernel: &Kernel) -> Self {
        Clamps { firsts: kernel.first_clamps().into_iter(), known: BTreeMap::new(), sites: Vec::new() }
    }
}

/// Words of the frame that every kernel has.
struct Words {
    stack: i32,
    ptrs: i32,
    row: i32,
    row1: i32,
    /// The inner range's start.
    start: i32,
    /// The index along each row dim, if there are several.
    dims: Vec<i32>,
}

/// The function being written.
pub(crate) struct Nest<'k> {
    pub(crate) kernel: &'k Kernel,
    pub(crate) isa: Isa,
    /// Elements of a group.
    pub(crate) lanes: usize,
    pub(crate) out: Output,
    /// At most so many groups in flight.
    pub(crate) most_groups: usize,
    /// Results of reductions, by slot.
    pub(crate) results: Vec<Option<Kept>>,
    /// A word for whoever needs one for a moment.
    pub(crate) limit: i32,
    /// Elements of the longest row of which the next one is fetched.
    pub(crate) longest_ahead: i32,
    /// What of the next row the phase under way fetches.
    pub(crate) fetches: Vec<Fetch>,
    pub(super) tracks: Vec<Track>,
    pub(super) clamps: Clamps,
    words: Words,
    frame: i32,
    /// The words of a half-used slot.
    word: i32,
}

/// The scratch registers, the inner index, its end, and the layout.
pub(crate) const SCRATCH: Register = Register::RAX;
pub(crate) const SECOND: Register = Register::RCX;
pub(crate) const INNER: Register = Register::RDI;
pub(crate) const END: Register = Register::R9;
pub(crate) const LAYOUT: Register = Register::RSI;

/// `[rsp + offset]`.
pub(crate) fn frame(offset: i32) -> iced_x86::MemoryOperand {
    at(Register::RSP, offset)
}

/// Machine code of a verified kernel for a machine.
///
/// # Errors
/// Why Cranelift must do it.
pub(crate) fn translate(kernel: &Kernel, target: &Target) -> Result<Vec<u8>, String> {
    supported(kernel)?;
    // Many groups in flight may need more slots than there are.
    translate_with(kernel, target, 4)
        .or_else(|_| translate_with(kernel, target, 2))
        .or_else(|_| translate_with(kernel, target, 1))
}

/// What is known to be out of reach before any code is made.
fn supported(kernel: &Kernel) -> Result<(), String> {
    for phase in &kernel.phases {
        if phase.reduces.iter().any(|r| phase.body.dtype(r.value) == DType::Bool) {
            return Err("reductions of bool have no vector form here".into());
        }
    }
    for accesses in Accesses::of(kernel) {
        let strided = |a: &Access| a.arg.is_some() && a.inner == Stride::Any;
        if accesses.inputs.iter().flatten().any(strided) || accesses.stores.iter().any(strided) {
            return Err("neighbors along the inner dim are not neighbors in memory".into());
        }
    }
    Ok(())
}

/// Whether a phase needs lanes of 8 bytes.
fn has_wide_lanes(plan: &PhasePlan) -> bool {
    let halves = halves(plan);
    let insts = plan.phase.body.insts();
    let is_half = |input: usize| {
        let reads = |inst: &Inst| inst.op == ScalarOp::Input(input as u32);
        insts.iter().zip(&halves).any(|(inst, &half)| half && reads(inst))
    };
    // An access counts even if the body does not use it: the slots of the frame are sized for it too.
    let inputs = plan.accesses.inputs.iter().enumerate().filter(|(k, _)| !is_half(*k));
    let accessed = inputs.filter_map(|(_, a)| a.as_ref()).chain(&plan.accesses.stores).map(|a| a.dtype);
    let computed = insts.iter().zip(&halves).filter(|(_, half)| !**half).map(|(inst, _)| inst.dtype);
    accessed.chain(computed).any(|dtype| lane(dtype) == 8)
}

fn translate_with(kernel: &Kernel, target: &Target, most_groups: usize) -> Result<Vec<u8>, String> {
    let isa = Isa::of(target.isa()).ok_or("there is no wide code for the machine")?;
    let mut accesses = Accesses::of(kernel);
    let plans: Vec<PhasePlan> =
        kernel.phases.iter().zip(accesses.drain(..)).map(|(phase, a)| PhasePlan::new(kernel, phase, a)).collect();
    let wide = plans.iter().any(has_wide_lanes);
    let lanes = isa.vector_bytes() / if wide { 8 } else { 4 };
    let n_slots = kernel.phases.iter().flat_map(|p| &p.reduces).map(|r| r.slot as usize + 1).max().unwrap_or(0);
    let out = Output { asm: Assembler::new(), isa, sites: Vec::new(), bytes: 0 };
    let words = Words { stack: 0, ptrs: 0, row: 0, row1: 0, start: 0, dims: vec![] };
    let mut nest = Nest {
        kernel,
        isa,
        lanes,
        out,
        most_groups,
        results: vec![None; n_slots],
        limit: 0,
        longest_ahead: longest_ahead(target),
        fetches: vec![],
        tracks: vec![],
        clamps: Clamps::new(kernel),
        words,
        frame: (SPILL_SLOTS * isa.vector_bytes()) as i32,
        word: 0,
    };
    nest.words = Words {
        stack: nest.new_word(),
        ptrs: nest.new_word(),
        row: nest.new_word(),
        row1: nest.new_word(),
        start: nest.new_word(),
        dims: if kernel.n_row_dims() > 1 {
            (0..kernel.n_row_dims()).map(|_| nest.new_word()).collect()
        } else {
            vec![]
        },
    };
    nest.limit = nest.new_word();
    nest.out.bytes = nest.new_slot();
    let mut phases: Vec<PhaseCode> = plans.into_iter().map(|plan| nest.phase_code(plan)).collect();
    nest.function(&mut phases)?;
    if nest.frame > MAX_FRAME {
        return Err(format!("the frame would take {} bytes", nest.frame));
    }
    nest.out.asm.finish()
}

impl<'k> Nest<'k> {
    /// A slot of the frame for a vector.
    pub(crate) fn new_slot(&mut self) -> i32 {
        self.frame += 64;
        self.frame - 64
    }

    /// A word of the frame.
    pub(crate) fn new_word(&mut self) -> i32 {
        if self.word % 64 == 0 {
            self.word = self.new_slot();
        }
        self.word += 8;
        self.word - 8
    }

    fn phase_code(&mut self, plan: PhasePlan<'k>) -> PhaseCode<'k> {
        let inputs: Vec<Option<usize>> =
            plan.accesses.inputs.iter().map(|access| access.as_ref().map(|a| self.new_site(a))).collect();
        let stores = plan.accesses.stores.iter().map(|access| self.new_site(access)).collect();
        let steps = plan.accesses.inputs.iter().map(|access| {
            let strided = access.as_ref().is_some_and(|a| a.arg.is_none() && a.inner == Stride::Any);
            strided.then(|| self.new_slot())
        });
        let lane_steps = steps.collect();
        let kept = vec![None; plan.phase.body.insts().len()];
        let halves = halves(&plan);
        PhaseCode { plan, inputs, stores, kept, halves, lane_steps }
    }

    fn new_site(&mut self, access: &Access) -> usize {
        let size = access.arg.map_or(1, |_| access.dtype.size_bytes());
        let word = self.new_word();
        let stride = (access.arg.is_none() && access.inner == Stride::Any).then(|| self.new_word());
        let step = access.steps.then(|| (self.new_word(), self.new_word()));
        let site = Site { word, register: None, size, moves: access.inner == Stride::One, stride };
        let unclamped = (!access.clamps.is_empty()).then(|| self.new_word());
        self.out.sites.push(site);
        let (layout, shift) = (access.layout, size.trailing_zeros());
        self.tracks.push(Track { arg: access.arg, layout, shift, step, unclamped, by_row: access.by_row });
        let number = self.tracks.len() - 1;
        self.new_clamps(number, access, shift);
        number
    }

    /// `[layout + 8 * position]`.
    pub(crate) fn layout_at(&self, position: usize) -> iced_x86::MemoryOperand {
        at(LAYOUT, 8 * position as i32)
    }

    /// The extent of a dim, in the layout.
    pub(crate) fn extent(&self, dim: usize) -> iced_x86::MemoryOperand {
        self.layout_at(1 + dim)
    }

    pub(super) fn load(&mut self, register: Register, address: iced_x86::MemoryOperand) {
        self.out.asm.rm(Code::Mov_r64_rm64, register, address);
    }

    pub(super) fn store(&mut self, address: iced_x86::MemoryOperand, register: Register) {
        self.out.asm.mr(Code::Mov_rm64_r64, address, register);
    }

    /// The whole function.
    fn function(&mut self, phases: &mut [PhaseCode<'k>]) -> Result<(), String> {
        let (setup, body, done) = (self.out.asm.label(), self.out.asm.label(), self.out.asm.label());
        self.out.asm.jump(Code::Jmp_rel32_64, setup);
        self.out.asm.bind(body);
        self.entry(phases, done);
        self.rows(phases)?;
        self.out.asm.bind(done);
        self.load(Register::RSP, frame(self.words.stack));
        for register in SAVED.into_iter().rev() {
            self.out.asm.op1(Code::Pop_r64, register);
        }
        if phases.iter().any(|phase| phase.streams().next().is_some()) {
            // Before anybody is told that the part is done.
            self.out.asm.op0(Code::Sfence);
        }
        self.out.asm.op0(Code::VEX_Vzeroupper);
        self.out.asm.op0(Code::Retnq);
        self.out.asm.bind(setup);
        for register in SAVED {
            self.out.asm.op1(Code::Push_r64, register);
        }
        self.out.asm.rr(Code::Mov_r64_rm64, SCRATCH, Register::RSP);
        let mut below = self.frame;
        while below > PAGE {
            self.out.asm.ri(Code::Sub_rm64_imm32, Register::RSP, PAGE);
            self.out.asm.mr(Code::Test_rm64_r64, frame(0), Register::RSP);
            below -= PAGE;
        }
        self.out.asm.ri(Code::Sub_rm64_imm32, Register::RSP, below);
        self.out.asm.ri(Code::And_rm64_imm8, Register::RSP, -64);
        self.store(frame(self.words.stack), SCRATCH);
        self.out.asm.jump(Code::Jmp_rel32_64, body);
        Ok(())
    }

    /// Keeps the arguments and what does not change from row to row.
    fn entry(&mut self, phases: &[PhaseCode], done: Label) {
        let (rdi, rdx, rcx, r8) = (Register::RDI, Register::RDX, Register::RCX, Register::R8);
        self.out.asm.rr(Code::Cmp_r64_rm64, rdx, rcx);
        self.out.asm.jump(Code::Jge_rel32_64, done);
        if self.kernel.sweep != Sweep::Row {
            self.out.asm.rr(Code::Cmp_r64_rm64, r8, END);
            self.out.asm.jump(Code::Jge_rel32_64, done);
        }
        self.store(frame(self.words.ptrs), rdi);
        self.store(frame(self.words.row), rdx);
        self.store(frame(self.words.row1), rcx);
        self.store(frame(self.words.start), r8);
        for number in (0..self.words.dims.len()).rev() {
            let (quotient, rest) = (Register::RAX, Register::RDX);
            if number + 1 == self.words.dims.len() {
                self.out.asm.rr(Code::Mov_r64_rm64, quotient, rdx);
            }
            self.out.asm.rr(Code::Xor_r32_rm32, Register::EDX, Register::EDX);
            let extent = self.extent(number);
            self.load(SECOND, extent);
            self.out.asm.op1(Code::Div_rm64, SECOND);
            self.store(frame(self.words.dims[number]), rest);
        }
        let n_dims = self.kernel.dims.len();
        for number in 0..self.tracks.len() {
            let (track, site) = (self.tracks[number], self.out.sites[number]);
            if let Some(word) = site.stride {
                let stride = self.layout_at(track.layout + n_dims);
                self.load(SCRATCH, stride);
                self.store(frame(word), SCRATCH);
            }
            if let Some((_, word)) = track.step {
                let stride = self.layout_at(track.layout + n_dims - 1);
                self.load(SCRATCH, stride);
                self.shift(SCRATCH, track.shift);
                self.store(frame(word), SCRATCH);
            }
        }
        for phase in phases {
            for (number, slot) in phase.lane_steps.iter().enumerate() {
                let (Some(slot), Some(site)) = (slot, phase.inputs[number]) else { continue };
                let Some(stride) = self.out.sites[site].stride else { continue };
                let size = phase.plan.accesses.inputs[number].as_ref().map_or(4, |a| lane(a.dtype)) as i32;
                self.out.asm.rr(Code::Xor_r32_rm32, Register::EAX, Register::EAX);
                for i in 0..self.lanes as i32 {
                    let address = frame(slot + i * size);
                    match size {
                        8 => self.store(address, SCRATCH),
                        _ => self.out.asm.mr(Code::Mov_rm32_r32, address, Register::EAX),
                    }
                    self.out.asm.rm(Code::Add_r64_rm64, SCRATCH, frame(stride));
                }
            }
        }
    }

    pub(super) fn shift(&mut self, register: Register, by: u32) {
        if by > 0 {
            self.out.asm.ri(Code::Shl_rm64_imm8, register, by as i32);
        }
    }

    /// The loop over rows. Addresses move along the last row dim by addition, and are made afresh where it wraps.
    fn rows(&mut self, phases: &mut [PhaseCode<'k>]) -> Result<(), String> {
        let n_row_dims = self.kernel.n_row_dims();
        let afresh = self.out.asm.here();
        for number in 0..self.tracks.len() {
            let track = self.tracks[number];
            let offset = self.layout_at(track.layout);
            self.load(SCRATCH, offset);
            for dim in 0..n_row_dims {
                let stride = self.layout_at(track.layout + 1 + dim);
                self.load(SECOND, stride);
                let index = self.words.dims.get(dim).copied().unwrap_or(self.words.row);
                self.out.asm.rm(Code::Imul_r64_rm64, SECOND, frame(index));
                self.out.asm.rr(Code::Add_r64_rm64, SCRATCH, SECOND);
            }
            self.shift(SCRATCH, track.shift);
            if let Some(arg) = track.arg {
                self.load(SECOND, frame(self.words.ptrs));
                self.out.asm.rm(Code::Add_r64_rm64, SCRATCH, at(SECOND, 8 * arg as i32));
            }
            let word = self.row_word(number);
            self.store(frame(word), SCRATCH);
        }
        self.clamp(false);
        for phase in &mut *phases {
            self.keep(phase, 1, None, |level| level == Level::default())?;
        }
        let again = self.out.asm.here();
        self.clamp(true);
        self.add_clamps();
        match self.kernel.sweep {
            Sweep::Elementwise | Sweep::Row => self.row(phases)?,
            Sweep::Column => self.columns(phases)?,
        }
        if n_row_dims == 0 {
            return Ok(());
        }
        let done = self.out.asm.label();
        self.load(SCRATCH, frame(self.words.row));
        self.out.asm.ri(Code::Add_rm64_imm8, SCRATCH, 1);
        self.store(frame(self.words.row), SCRATCH);
        self.out.asm.rm(Code::Cmp_r64_rm64, SCRATCH, frame(self.words.row1));
        self.out.asm.jump(Code::Jge_rel32_64, done);
        let wraps = self.out.asm.label();
        if let Some(&last) = self.words.dims.last() {
            self.load(SCRATCH, frame(last));
            self.out.asm.ri(Code::Add_rm64_imm8, SCRATCH, 1);
            self.store(frame(last), SCRATCH);
            let extent = self.extent(n_row_dims - 1);
            self.out.asm.rm(Code::Cmp_r64_rm64, SCRATCH, extent);
            self.out.asm.jump(Code::Jge_rel32_64, wraps);
        }
        for number in 0..self.tracks.len() {
            let track = self.tracks[number];
            if !track.by_row {
                continue;
            }
            let stride = self.layout_at(track.layout + n_row_dims);
            self.load(SCRATCH, stride);
            self.shift(SCRATCH, track.shift);
            let word = self.row_word(number);
            self.out.asm.mr(Code::Add_rm64_r64, frame(word), SCRATCH);
        }
        self.out.asm.jump(Code::Jmp_rel32_64, again);
        self.out.asm.bind(wraps);
        for dim in (0..self.words.dims.len()).rev().take(self.words.dims.len().saturating_sub(1)) {
            self.out.asm.rr(Code::Xor_r32_rm32, Register::EAX, Register::EAX);
            self.store(frame(self.words.dims[dim]), SCRATCH);
            self.load(SCRATCH, frame(self.words.dims[dim - 1]));
            self.out.asm.ri(Code::Add_rm64_imm8, SCRATCH, 1);
            self.store(frame(self.words.dims[dim - 1]), SCRATCH);
            if dim > 1 {
                let extent = self.extent(dim - 1);
                self.out.asm.rm(Code::Cmp_r64_rm64, SCRATCH, extent);
                self.out.asm.jump(Code::Jl_rel32_64, afresh);
            }
        }
        self.out.asm.jump(Code::Jmp_rel32_64, afresh);
        self.out.asm.bind(done);
        Ok(())
    }

    /// The stride of an access along the last row dim, in the layout.
    pub(crate) fn row_stride(&self, number: usize) -> iced_x86::MemoryOperand {
        self.layout_at(self.tracks[number].layout + self.kernel.n_row_dims())
    }

    /// The word with an access's address at inner index 0 and step 0 of the row.
    fn row_word(&self, number: usize) -> i32 {
        let track = &self.tracks[number];
        track.step.map(|(word, _)| word).or(track.unclamped).unwrap_or(self.out.sites[number].word)
    }

    /// Sets the inner index to the start of the range, and its end.
    pub(crate) fn begin_inner(&mut self) {
        match self.kernel.sweep {
            Sweep::Row => {
                let inner = self.extent(self.kernel.dims.len() - 1);
                self.load(SCRATCH, frame(self.words.row));
                self.out.asm.rm(Code::Imul_r64_rm64, SCRATCH, inner);
                let total = self.layout_at(0);
                self.load(END, total);
                self.out.asm.rr(Code::Sub_r64_rm64, END, SCRATCH);
                self.load(SCRATCH, inner);
                self.out.asm.rr(Code::Cmp_r64_rm64, SCRATCH, END);
                self.out.asm.rr(Code::Cmovl_r64_rm64, END, SCRATCH);
                self.out.asm.rr(Code::Xor_r32_rm32, Register::EDI, Register::EDI);
            }
            _ => self.load(INNER, frame(self.words.start)),
        }
    }

    /// Jumps unless the row is the first one of its block.
    pub(crate) fn skip_in_block(&mut self, label: Label) {
        let in_block = self.words.dims.last().copied().unwrap_or(self.words.row);
        self.load(SCRATCH, frame(in_block));
        self.out.asm.ri(Code::Cmp_rm64_imm8, SCRATCH, 0);
        self.out.asm.jump(Code::Jne_rel32_64, label);
    }

    /// Jumps if the place of a site at the inner index does not lie at a multiple of so many bytes.
    pub(crate) fn jump_unless_aligned(&mut self, number: usize, width: u8, label: Label) {
        let site = self.out.sites[number];
        self.load(SCRATCH, frame(site.word));
        let first = indexed(SCRATCH, INNER, site.size as u32, 0);
        self.out.asm.rm(Code::Lea_r64_m, SCRATCH, first);
        self.out.asm.ri(Code::Test_rm64_imm32, SCRATCH, i32::from(width) - 1);
        self.out.asm.jump(Code::Jne_rel32_64, label);
    }

    /// Jumps if fewer than so many elements are left.
    pub(crate) fn jump_if_fewer(&mut self, n: usize, label: Label) {
        self.out.asm.rm(Code::Lea_r64_m, SCRATCH, at(INNER, n as i32));
        self.out.asm.rr(Code::Cmp_r64_rm64, SCRATCH, END);
        self.out.asm.jump(Code::Jg_rel32_64, label);
    }

    /// Moves on by so many elements and repeats if as many are left.
    pub(crate) fn repeat(&mut self, n: usize, label: Label) {
        self.out.asm.ri(Code::Add_rm64_imm32, INNER, n as i32);
        self.out.asm.rm(Code::Lea_r64_m, SCRATCH, at(INNER, n as i32));
        self.out.asm.rr(Code::Cmp_r64_rm64, SCRATCH, END);
        self.out.asm.jump(Code::Jle_rel32_64, label);
    }

    /// Gives addresses of the named sites registers, as far as these reach, and loads them.
    pub(crate) fn assign_bases(&mut self, sites: impl Iterator<Item = usize>) {
        for site in &mut self.out.sites {
            site.register = None;
        }
        let mut wanted: SmallVec<[usize; 16]> = sites.filter(|&s| self.tracks[s].arg.is_some()).collect();
        wanted.truncate(BASES.len());
        for (number, register) in wanted.into_iter().zip(BASES) {
            let word = self.out.sites[number].word;
            self.load(register, frame(word));
            self.out.sites[number].register = Some(register);
        }
    }

    /// Sites that move along the reduced dim go back to its start.
    pub(crate) fn rewind(&mut self, phase: &PhaseCode) {
        for number in phase.inputs.iter().flatten().chain(&phase.stores) {
            if let Some((row, _)) = self.tracks[*number].step {
                self.load(SCRATCH, frame(row));
                let word = self.out.sites[*number].word;
                self.store(frame(word), SCRATCH);
            }
        }
    }

    /// Sites that move along the reduced dim move on by one.
    pub(crate) fn advance(&mut self, phase: &PhaseCode) {
        for number in phase.inputs.iter().flatten().chain(&phase.stores) {
            let Some((_, stride)) = self.tracks[*number].step else { continue };
            match self.out.sites[*number].register {
                Some(register) => self.out.asm.rm(Code::Add_r64_rm64, register, frame(stride)),
                None => {
                    self.load(SCRATCH, frame(stride));
                    let word = self.out.sites[*number].word;
                    self.out.asm.mr(Code::Add_rm64_r64, frame(word), SCRATCH);
                }
            }
        }
    }

    /// New straight-line code.
    pub(crate) fn vcode(&self) -> Vcode {
        Vcode::new(self.isa, self.lanes)
    }

    /// Writes straight-line code; `taken` are registers that it must leave alone.
    pub(crate) fn write(&mut self, mut code: Vcode, taken: u32) {
        code.prune();
        Allocator::run(&code, &mut self.out, taken);
    }

    /// Computes values of the wanted levels and keeps those that others read, one slot per group if they differ.
    pub(crate) fn keep(
        &mut self,
        phase: &mut PhaseCode,
        n_groups: usize,
        tail: Option<&crate::wide::body::Tail>,
        wanted: impl Fn(Level) -> bool + Copy,
    ) -> Result<(), String> {
        let mut code = self.vcode();
        let results = std::mem::take(&mut self.results);
        let scope = Scope { results: &results, first: 0, n_groups, tail, streams: false };
        let mut env = phase.evaluate(&mut code, &scope, wanted)?;
        let read = phase.read_elsewhere(wanted, true);
        let insts = phase.plan.phase.body.insts();
        for i in 0..insts.len() {
            let value = cotangent_scalar::ValueId(i as u32);
            let constant = matches!(insts[i].op, cotangent_scalar::ScalarOp::Const(_));
            if constant || !wanted(phase.plan.level(value)) || !read[i] || phase.kept[i].is_some() {
                continue;
            }
            // Results of reductions are in the frame already.
            if let cotangent_scalar::ScalarOp::Input(k) = insts[i].op
                && phase.inputs[k as usize].is_none()
            {
                continue;
            }
            let n = if phase.plan.level(value).inner { n_groups } else { 1 };
            let mut kept = Kept::default();
            for group in 0..n {
                let reg = phase.get(&mut code, &scope, &mut env, value, group)?;
                kept.lane = code.info(reg).lane;
                let slot = self.new_slot();
                kept.slots.push(slot);
                code.push(What::Keep(slot), None, &[reg], 0);
            }
            phase.kept[i] = Some(kept);
        }
        self.results = results;
        self.write(code, 0);
        Ok(())
    }

    /// The masks of the elements that are left, `n_groups` groups of them.
    pub(crate) fn tail_masks(&mut self, tail: &mut crate::wide::body::Tail, n_groups: usize) {
        let asm_isa = self.isa;
        while tail.slots.len() < n_groups {
            let slots = match asm_isa {
                Isa::Avx2 => (self.new_slot(), self.new_slot(), self.new_word()),
                Isa::Avx512 => (0, 0, 0),
            };
            tail.slots.push(slots);
        }
        let asm = &mut self.out.asm;
        asm.rr(Code::Mov_r64_rm64, SECOND, END);
        asm.rr(Code::Sub_r64_rm64, SECOND, INNER);
        if self.isa == Isa::Avx512 {
            asm.ri(Code::Mov_rm64_imm32, SCRATCH, -1);
            asm.emit(iced_x86::Instruction::with3(Code::VEX_Bzhi_r64_rm64_r64, SCRATCH, SCRATCH, SECOND));
            for group in 0..n_groups {
                if group > 0 {
                    asm.ri(Code::Shr_rm64_imm8, SCRATCH, self.lanes as i32);
                }
                let code = if self.lanes == 8 { Code::VEX_Kmovb_kr_r32 } else { Code::VEX_Kmovw_kr_r32 };
                let mask = Register::K0 + u32::from(crate::wide::body::Tail::register(group));
                asm.rr(code, mask, Register::EAX);
            }
            return;
        }
        // A window over ones and zeros, 4 bytes a lane and then 8.
        let lanes = self.lanes;
        let window = |size: usize| {
            let mut bytes = vec![0xff; lanes * size];
            bytes.extend(vec![0; lanes * size]);
            bytes
        };
        let (narrow, wide) = (asm.constant(window(4)), asm.constant(window(8)));
        for (group, &(slot4, slot8, count)) in tail.slots[..n_groups].iter().enumerate() {
            if group > 0 {
                asm.ri(Code::Sub_rm64_imm8, SECOND, lanes as i32);
            }
            // The count of this group, from 0 to all.
            asm.rr(Code::Xor_r32_rm32, Register::EAX, Register::EAX);
            asm.rr(Code::Cmp_r64_rm64, SECOND, SCRATCH);
            asm.rr(Code::Cmovg_r64_rm64, SCRATCH, SECOND);
            asm.mr(Code::Mov_rm64_r64, frame(count), SCRATCH);
            asm.ri(Code::Cmp_rm64_imm8, SCRATCH, lanes as i32);
            let fits = asm.label();
            asm.jump(Code::Jle_rel32_64, fits);
            asm.emit(iced_x86::Instruction::with2(Code::Mov_rm64_imm32, frame(count), lanes as i32));
            asm.bind(fits);
            asm.mr(Code::Mov_rm64_r64, frame(self.limit), SECOND);
            for (slot, size, id) in [(slot4, 4usize, narrow), (slot8, 8, wide)] {
                if size * lanes > 32 {
                    continue;
                }
                asm.ri(Code::Mov_rm64_imm32, SECOND, lanes as i32);
                asm.rm(Code::Sub_r64_rm64, SECOND, frame(count));
                asm.address_of(SCRATCH, id);
                asm.rm(Code::Lea_r64_m, SCRATCH, indexed(SCRATCH, SECOND, size as u32, 0));
                for part in 0..(size * lanes / 8) as i32 {
                    asm.rm(Code::Mov_r64_rm64, SECOND, at(SCRATCH, 8 * part));
                    asm.mr(Code::Mov_rm64_r64, frame(slot + 8 * part), SECOND);
                }
            }
            asm.rm(Code::Mov_r64_rm64, SECOND, frame(self.limit));
        }
    }
}
