//! Registers for straight-line code, and its encoding.
//!
//! One pass from the first instruction to the last. Every value is in a register of the machine, in its home in memory, or
//! spilled to a slot of the frame; when registers run out, the value whose next use is farthest goes, without a store if
//! it has a home or was spilled before. A value in memory is used from there if the instruction can; the constant behind
//! an embedded broadcast (AVX-512) among them. A register is written while its operands are still counted as in use only
//! where it takes over a dying one; a slot is given back after the instruction that reads it.

use iced_x86::{MemoryOperand, Register};
use smallvec::SmallVec;

use crate::wide::asm::at;
use crate::wide::encode::{Operand, Output};
use crate::wide::isa::{Form, Isa, Op};
use crate::wide::vcode::{Class, Constant, Home, Inst, Reg, Vcode, What};

/// The mask registers that values may live in; k0 means "no mask" to an instruction.
const MASKS: std::ops::Range<u8> = 1..8;

/// Assigns registers and encodes.
pub(crate) struct Allocator<'a, 'o> {
    code: &'a Vcode,
    out: &'o mut Output,
    /// Where each value is used, ascending, and how many of these lie behind.
    uses: Vec<SmallVec<[u32; 4]>>,
    behind: Vec<usize>,
    /// The register of the machine that holds a value.
    place: Vec<Option<u8>>,
    slot: Vec<Option<usize>>,
    vectors: [Option<Reg>; 32],
    masks: [Option<Reg>; 8],
    free_slots: Vec<usize>,
    n_slots: usize,
    /// Registers that the current instruction reads, by class; they are not evicted.
    busy: [u32; 2],
    /// Pinned registers, by class.
    pinned: [u32; 2],
}

fn class_index(class: Class) -> usize {
    match class {
        Class::Vector => 0,
        Class::Mask => 1,
    }
}

/// Whether a value needs a register from its first to its last use: constants and slots of the frame are read from memory.
fn needs_register(code: &Vcode, reg: Reg) -> bool {
    let info = code.info(reg);
    let in_memory = matches!(info.home, Some(Home::Const(_) | Home::Frame(_)));
    info.class == Class::Vector && info.pinned.is_none() && !in_memory
}

/// The most vector registers that the code needs at once, pinned ones and constants apart.
pub(crate) fn pressure(code: &Vcode) -> usize {
    let mut last = vec![0usize; code.regs.len()];
    for (i, inst) in code.insts.iter().enumerate() {
        for arg in &inst.args {
            last[arg.index()] = i;
        }
    }
    let (mut live, mut most) = (0usize, 0usize);
    let mut alive = vec![false; code.regs.len()];
    for (i, inst) in code.insts.iter().enumerate() {
        for &reg in inst.args.iter().chain(&inst.dst) {
            if needs_register(code, reg) && !std::mem::replace(&mut alive[reg.index()], true) {
                live += 1;
            }
        }
        most = most.max(live);
        for &reg in inst.args.iter().chain(&inst.dst) {
            if alive[reg.index()] && last[reg.index()] <= i {
                alive[reg.index()] = false;
                live -= 1;
            }
        }
    }
    most
}

/// Values with homes that a loop around this code is best entered with in registers: the most used ones, as many as the
/// code leaves free, as (value, register of the machine). `taken` are registers that accumulators hold.
pub(crate) fn choose_pins(code: &Vcode, taken: u32) -> Vec<(Reg, u8)> {
    let mut n_uses = vec![0u32; code.regs.len()];
    for arg in code.insts.iter().flat_map(|inst| &inst.args) {
        n_uses[arg.index()] += 1;
    }
    // One register stays free for operands that no instruction reads from memory.
    let n_free = (code.isa.n_vectors() - taken.count_ones() as usize).saturating_sub(pressure(code) + 1);
    let mut candidates: Vec<Reg> = (0..code.regs.len() as u32).map(Reg).collect();
    candidates.retain(|&reg| {
        let info = code.info(reg);
        let housed = matches!(info.home, Some(Home::Const(_) | Home::Frame(_)));
        info.class == Class::Vector && info.pinned.is_none() && housed && n_uses[reg.index()] > 0
    });
    candidates.sort_by_key(|reg| std::cmp::Reverse(n_uses[reg.index()]));
    candidates.truncate(n_free);
    let free = (0..code.isa.n_vectors() as u8).rev().filter(|&r| taken & (1 << r) == 0);
    candidates.into_iter().zip(free).collect()
}

impl<'a, 'o> Allocator<'a, 'o> {
    /// Encodes the code; `taken` are vector registers that it must leave alone, besides those of its pinned values.
    pub(crate) fn run(code: &'a Vcode, out: &'o mut Output, taken: u32) {
        let n = code.regs.len();
        let mut uses: Vec<SmallVec<[u32; 4]>> = vec![SmallVec::new(); n];
        for (i, inst) in code.insts.iter().enumerate() {
            for arg in inst.args.iter().chain(&inst.mask) {
                uses[arg.index()].push(i as u32);
            }
        }
        let mut pinned = [taken, 0];
        let mut place = vec![None; n];
        for (i, info) in code.regs.iter().enumerate() {
            if let Some(register) = info.pinned {
                place[i] = Some(register);
                pinned[class_index(info.class)] |= 1 << register;
            }
        }
        let mut allocator = Allocator {
            code,
            out,
            uses,
            behind: vec![0; n],
            place,
            slot: vec![None; n],
            vectors: [None; 32],
            masks: [None; 8],
            free_slots: Vec::new(),
            n_slots: 0,
            busy: [0; 2],
            pinned,
        };
        for inst in &code.insts {
            allocator.instruction(inst);
        }
    }

    fn next_use(&self, reg: Reg) -> u32 {
        self.uses[reg.index()].get(self.behind[reg.index()]).copied().unwrap_or(u32::MAX)
    }

    fn is_pinned(&self, reg: Reg) -> bool {
        self.code.info(reg).pinned.is_some()
    }

    fn occupant(&mut self, class: Class, register: u8) -> &mut Option<Reg> {
        match class {
            Class::Vector => &mut self.vectors[register as usize],
            Class::Mask => &mut self.masks[register as usize],
        }
    }

    /// A register that holds nothing, if there is one.
    fn free_register(&mut self, class: Class) -> Option<u8> {
        let mut range = match class {
            Class::Vector => 0..self.code.isa.n_vectors() as u8,
            Class::Mask => MASKS,
        };
        let pinned = self.pinned[class_index(class)];
        range.find(|&r| pinned & (1 << r) == 0 && self.occupant(class, r).is_none())
    }

    /// A register to write to: a free one, or that of the value whose next use is farthest.
    fn take_register(&mut self, class: Class) -> u8 {
        if let Some(register) = self.free_register(class) {
            return register;
        }
        let range = match class {
            Class::Vector => 0..self.code.isa.n_vectors() as u8,
            Class::Mask => MASKS,
        };
        let forbidden = self.pinned[class_index(class)] | self.busy[class_index(class)];
        let mut best: Option<(u32, bool, u8, Reg)> = None;
        for register in range.filter(|r| forbidden & (1 << r) == 0) {
            if let Some(reg) = *self.occupant(class, register) {
                let clean = self.code.info(reg).home.is_some() || self.slot[reg.index()].is_some();
                let candidate = (self.next_use(reg), clean, register, reg);
                if best.is_none_or(|b| (candidate.0, candidate.1) > (b.0, b.1)) {
                    best = Some(candidate);
                }
            }
        }
        let Some((_, clean, register, reg)) = best else {
            self.out.asm.fail("an instruction needs more registers than there are".into());
            return 0;
        };
        if !clean {
            let slot = self.free_slots.pop().unwrap_or_else(|| {
                self.n_slots += 1;
                self.n_slots - 1
            });
            self.slot[reg.index()] = Some(slot);
            let address = self.out.spill_address(slot);
            let width = self.code.width_of(reg);
            self.out.store_register(class, register, width, address);
        }
        self.place[reg.index()] = None;
        *self.occupant(class, register) = None;
        register
    }

    fn occupy(&mut self, class: Class, register: u8, reg: Reg) {
        self.place[reg.index()] = Some(register);
        *self.occupant(class, register) = Some(reg);
    }

    /// Brings a value into a register and keeps it there for the current instruction.
    fn require(&mut self, reg: Reg) -> u8 {
        let info = *self.code.info(reg);
        let register = match self.place[reg.index()] {
            Some(register) => register,
            None => {
                let register = self.take_register(info.class);
                match self.slot[reg.index()] {
                    Some(slot) => {
                        let address = self.out.spill_address(slot);
                        self.out.load_register(info.class, register, info.width, address);
                    }
                    None => self.out.load_home(&info, register),
                }
                self.occupy(info.class, register, reg);
                register
            }
        };
        self.busy[class_index(info.class)] |= 1 << register;
        register
    }

    /// Whether an instruction had better read a value from memory than from a register.
    fn folds(&mut self, reg: Reg, op: Op) -> bool {
        let info = *self.code.info(reg);
        if self.place[reg.index()].is_some() || info.class == Class::Mask {
            return false;
        }
        if self.slot[reg.index()].is_some() {
            return true;
        }
        let uses_left = self.uses[reg.index()].len() - self.behind[reg.index()];
        if uses_left > 1 && self.free_register(info.class).is_some() {
            return false;
        }
        match info.home {
            Some(Home::Const(Constant::Splat { size, .. })) => self.code.isa == Isa::Avx2 || op.row().element == size,
            home => home.is_some(),
        }
    }

    /// The memory operand of a value that folds. Nothing may be loaded between this and the instruction.
    fn memory(&mut self, reg: Reg) -> Operand {
        let info = *self.code.info(reg);
        if let Some(slot) = self.slot[reg.index()] {
            return Operand::Memory(self.out.spill_address(slot));
        }
        match info.home {
            Some(Home::Const(constant)) => self.out.pool_operand(constant, info.width),
            Some(Home::Frame(offset) | Home::Cell(offset)) => Operand::Memory(at(Register::RSP, offset)),
            Some(Home::Argument(place)) => Operand::Memory(self.out.address(place)),
            None => {
                self.out.asm.fail("a value without a home is read from memory".into());
                Operand::Register(info.class, 0)
            }
        }
    }

    /// Counts the uses of this instruction as done and frees what dies with it.
    fn retire(&mut self, inst: &Inst) {
        for &arg in inst.args.iter().chain(&inst.mask) {
            self.behind[arg.index()] += 1;
        }
        for &arg in inst.args.iter().chain(&inst.mask) {
            if self.next_use(arg) == u32::MAX
                && !self.is_pinned(arg)
                && let Some(register) = self.place[arg.index()].take()
            {
                *self.occupant(self.code.info(arg).class, register) = None;
            }
        }
    }

    /// Gives back the slots of what died with this instruction, which has been encoded.
    fn free_slots_of(&mut self, inst: &Inst) {
        for &arg in inst.args.iter().chain(&inst.mask) {
            if self.next_use(arg) == u32::MAX
                && let Some(slot) = self.slot[arg.index()].take()
            {
                self.free_slots.push(slot);
            }
        }
    }

    /// Whether the current instruction is the last to read a value.
    fn dies(&self, reg: Reg, inst: &Inst) -> bool {
        let here = inst.args.iter().chain(&inst.mask).filter(|&&a| a == reg).count();
        let left = self.uses[reg.index()].len() - self.behind[reg.index()];
        left <= here && !self.is_pinned(reg)
    }

    /// The register that a result goes to.
    fn define(&mut self, dst: Reg) -> u8 {
        let info = *self.code.info(dst);
        if let Some(register) = info.pinned {
            return register;
        }
        let register = self.take_register(info.class);
        self.occupy(info.class, register, dst);
        register
    }

    fn instruction(&mut self, inst: &Inst) {
        self.busy = [0; 2];
        for arg in inst.args.iter().chain(&inst.mask) {
            if let Some(register) = self.place[arg.index()] {
                self.busy[class_index(self.code.info(*arg).class)] |= 1 << register;
            }
        }
        match inst.what {
            What::Fma(op) => self.fma(inst, op),
            What::Op(op) => self.table_op(inst, op),
            _ => self.special(inst),
        }
        self.free_slots_of(inst);
        if let Some(dst) = inst.dst
            && self.uses[dst.index()].is_empty()
            && !self.is_pinned(dst)
            && let Some(register) = self.place[dst.index()].take()
        {
            *self.occupant(self.code.info(dst).class, register) = None;
        }
    }

    /// An instruction of the table: its last operand may be memory.
    fn table_op(&mut self, inst: &Inst, op: Op) {
        let row = op.row();
        let foldable = match row.form {
            Form::Unary | Form::Binary | Form::BinaryImm | Form::Blend => true,
            Form::UnaryImm => self.code.isa == Isa::Avx512,
            _ => false,
        };
        let mut args: SmallVec<[Reg; 3]> = inst.args.clone();
        let n = if row.form == Form::Blend { 2 } else { args.len() };
        let mut folds = false;
        if foldable && n > 0 && !(n == 2 && args[0] == args[1]) {
            folds = self.folds(args[n - 1], op);
            if !folds && n == 2 && op.commutes() && self.place[args[1].index()].is_some() && self.folds(args[0], op) {
                folds = true;
                args.swap(0, 1);
            }
        }
        let mut operands: SmallVec<[Operand; 4]> = SmallVec::new();
        for (k, &arg) in args.iter().enumerate() {
            let class = self.code.info(arg).class;
            let register = if folds && k == n - 1 { 0 } else { self.require(arg) };
            operands.push(Operand::Register(class, register));
        }
        let mask = inst.mask.map(|mask| self.require(mask));
        if folds {
            operands[n - 1] = self.memory(args[n - 1]);
        }
        self.retire(inst);
        let Some(dst) = inst.dst else { return };
        let register = self.define(dst);
        let dst = Operand::Register(self.code.info(dst).class, register);
        self.out.op(op, inst.width, dst, &operands, inst.imm, mask, inst.zero);
    }

    /// A fused multiply-add takes over the register of one of its operands.
    fn fma(&mut self, inst: &Inst, op132: Op) {
        let [op213, op231] = [op132.next(1), op132.next(2)];
        let (mut a, mut b, c) = (inst.args[0], inst.args[1], inst.args[2]);
        // Which of them is read from memory: the third operand of the instruction, whose role the form says.
        let mut in_memory = None;
        if c != a && c != b && self.folds(c, op132) {
            in_memory = Some(2);
        } else if a != b && b != c && self.folds(b, op132) {
            in_memory = Some(1);
        } else if a != b && a != c && self.folds(a, op132) {
            in_memory = Some(1);
            std::mem::swap(&mut a, &mut b);
        }
        let registers: [u8; 3] = [a, b, c]
            .iter()
            .enumerate()
            .map(|(k, &arg)| if in_memory == Some(k) { 0 } else { self.require(arg) })
            .collect::<SmallVec<[u8; 3]>>()
            .into_inner()
            .unwrap_or_default();
        let [ra, rb, rc] = registers;
        let folded = in_memory.map(|k| (k, self.memory([a, b, c][k])));
        let dying = [a, b, c].map(|arg| self.dies(arg, inst));
        let vector = |register: u8| Operand::Register(Class::Vector, register);
        // The operand whose register the result takes over, the form, and the other two operands.
        let (tied, tied_dies, op, second, third) = match folded {
            Some((2, m)) if dying[1] && !dying[0] => (rb, true, op213, vector(ra), m),
            Some((2, m)) => (ra, dying[0], op213, vector(rb), m),
            Some((_, m)) if dying[2] => (rc, true, op231, vector(ra), m),
            Some((_, m)) => (ra, dying[0], op132, vector(rc), m),
            None if dying[2] && c != a && c != b => (rc, true, op231, vector(ra), vector(rb)),
            None if dying[0] => (ra, true, op213, vector(rb), vector(rc)),
            None if dying[1] => (rb, true, op213, vector(ra), vector(rc)),
            None if dying[2] => (rc, true, op231, vector(ra), vector(rb)),
            None => (rc, false, op231, vector(ra), vector(rb)),
        };
        let Some(dst) = inst.dst else { return };
        if tied_dies {
            self.retire(inst);
            self.occupy(Class::Vector, tied, dst);
            self.out.op(op, inst.width, vector(tied), &[second, third], 0, None, false);
        } else {
            // All registers that are read stay occupied, so the new one is none of them.
            let register = self.define(dst);
            self.out.copy(register, tied, inst.width);
            self.retire(inst);
            self.out.op(op, inst.width, vector(register), &[second, third], 0, None, false);
        }
    }

    fn special(&mut self, inst: &Inst) {
        let registers: SmallVec<[u8; 3]> = inst.args.iter().map(|&arg| self.require(arg)).collect();
        let classes: SmallVec<[Class; 3]> = inst.args.iter().map(|&arg| self.code.info(arg).class).collect();
        let mask = inst.mask.map(|mask| self.require(mask));
        let widths: SmallVec<[u8; 3]> = inst.args.iter().map(|&arg| self.code.width_of(arg)).collect();
        self.retire(inst);
        let dst = inst.dst.map(|dst| self.define(dst)).unwrap_or(0);
        let out = &mut *self.out;
        match inst.what {
            What::Load(op, place) => {
                let address = Operand::Memory(out.address(place));
                out.op(op, inst.width, Operand::Register(Class::Vector, dst), &[address], 0, mask, inst.zero);
            }
            What::BroadcastByte(place) => out.broadcast_byte(place, dst, inst.width),
            What::Index(place, size) => out.index(place, size, dst, inst.width),
            What::LoadMasked(place, lane) => out.load_masked(place, lane, dst, registers[0], inst.width),
            What::LoadBytes(place, count) => out.load_bytes(place, count, dst, inst.width),
            What::Stream(place) => out.stream(place, registers[0], inst.width),
            What::Store(place, lane) => out.store(place, lane, registers[0], inst.width, mask),
            What::StoreMasked(place, lane) => out.store_masked(place, lane, registers[0], registers[1], inst.width),
            What::StoreBytes(place, n) => out.store_bytes(place, n, registers[0], mask),
            What::StoreSomeBytes(place, count) => out.store_some_bytes(place, count, registers[0]),
            What::StoreLane(place, size) => out.store_lane(place, size, classes[0], registers[0]),
            What::Keep(offset) => {
                let address: MemoryOperand = at(Register::RSP, offset);
                out.store_register(classes[0], registers[0], widths[0], address);
            }
            What::Op(_) | What::Fma(_) => {}
        }
    }
}

impl Op {
    /// The operation so many rows further down the table.
    fn next(self, n: usize) -> Op {
        use Op::*;
        match (self, n) {
            (Fma132Ps, 1) => Fma213Ps,
            (Fma132Ps, 2) => Fma231Ps,
            (Fma132Pd, 1) => Fma213Pd,
            (Fma132Pd, 2) => Fma231Pd,
            _ => self,
        }
    }
}

/// Loads the values that are pinned for a loop.
pub(crate) fn preload(code: &Vcode, pins: &[(Reg, u8)], out: &mut Output) {
    for &(reg, register) in pins {
        let info = *code.info(reg);
        out.load_home(&info, register);
    }
}
