//! Machine instructions of the vector code, once registers are known: one place for what differs between the two
//! instruction sets in encoding.
//!
//! Registers of the machine: rsp leads to the frame, rsi to the layout; rdi is the inner index, r9 its end, rdx the index
//! along the reduced dim; rax and rcx are scratch; the rest hold addresses ([`BASES`]).

use iced_x86::{Code, Instruction, MemoryOperand, Register};

use crate::wide::asm::{Assembler, PoolId, at, indexed};
use crate::wide::isa::{Form, Isa, Op};
use crate::wide::vcode::{Class, Constant, Home, Place, RegInfo};

/// Registers that hold addresses of arguments.
pub(crate) const BASES: [Register; 9] = [
    Register::RBX,
    Register::RBP,
    Register::R8,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// Slots for spilled values, at the bottom of the frame.
pub(crate) const SPILL_SLOTS: usize = 32;

/// An operand of an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand {
    Register(Class, u8),
    Memory(MemoryOperand),
    /// A constant; whether one element of it is broadcast.
    Pool(PoolId, bool),
}

/// Where an access stands at run time: an address, or for an index the number itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    /// The word of the frame that holds it, at inner index 0.
    pub(crate) word: i32,
    /// The register that holds it now.
    pub(crate) register: Option<Register>,
    /// Bytes of an element; 1 for an index.
    pub(crate) size: usize,
    /// Whether neighbors along the inner dim are neighbors in memory (otherwise the element is the same, or, for an index,
    /// the stride is in a word of the frame).
    pub(crate) moves: bool,
    /// The word with an index's inner stride.
    pub(crate) stride: Option<i32>,
}

/// The code being written.
pub(crate) struct Output {
    pub(crate) asm: Assembler,
    pub(crate) isa: Isa,
    pub(crate) sites: Vec<Site>,
    /// A slot of the frame for bytes on their way.
    pub(crate) bytes: i32,
}

fn register(class: Class, number: u8, width: u8) -> Register {
    let first = match (class, width) {
        (Class::Mask, _) => Register::K0,
        (_, 64) => Register::ZMM0,
        (_, 32) => Register::YMM0,
        _ => Register::XMM0,
    };
    first + u32::from(number)
}

/// One of two codes.
fn pick(isa: Isa, avx2: Code, avx512: Code) -> Code {
    if isa == Isa::Avx512 { avx512 } else { avx2 }
}

impl Output {
    pub(crate) fn spill_address(&mut self, slot: usize) -> MemoryOperand {
        if slot >= SPILL_SLOTS {
            self.asm.fail("more values are alive than there are slots".into());
        }
        at(Register::RSP, (slot * self.isa.vector_bytes()) as i32)
    }

    /// The address of elements; may use rax.
    pub(crate) fn address(&mut self, place: Place) -> MemoryOperand {
        let site = self.sites[place.site];
        let base = site.register.unwrap_or_else(|| {
            self.asm.rm(Code::Mov_r64_rm64, Register::RAX, at(Register::RSP, site.word));
            Register::RAX
        });
        let disp = (place.after * site.size) as i32;
        if site.moves { indexed(base, Register::RDI, site.size as u32, disp) } else { at(base, 0) }
    }

    fn pool_bytes(&self, constant: Constant, width: u8, scalar: bool) -> Vec<u8> {
        match constant {
            Constant::Splat { bits, size } => {
                let element = &bits.to_le_bytes()[..usize::from(size)];
                let n = if scalar { 1 } else { usize::from(width / size) };
                element.repeat(n)
            }
            Constant::Iota { size: 4, start } => {
                (0..u32::from(width) / 4).flat_map(|i| (u32::from(start) + i).to_le_bytes()).collect()
            }
            Constant::Iota { start, .. } => {
                (0..u64::from(width) / 8).flat_map(|i| (u64::from(start) + i).to_le_bytes()).collect()
            }
            Constant::Bits(bits) => bits.to_le_bytes().to_vec(),
        }
    }

    /// A constant as a memory operand.
    pub(crate) fn pool_operand(&mut self, constant: Constant, width: u8) -> Operand {
        let scalar = self.isa == Isa::Avx512 && matches!(constant, Constant::Splat { .. });
        let width = if self.isa == Isa::Avx512 { width } else { self.isa.vector_bytes() as u8 };
        let bytes = self.pool_bytes(constant, width, scalar);
        Operand::Pool(self.asm.constant(bytes), scalar)
    }

    /// An instruction of the table.
    #[expect(clippy::too_many_arguments, reason = "an instruction of AVX-512 has as many operands")]
    pub(crate) fn op(
        &mut self,
        op: Op,
        width: u8,
        dst: Operand,
        args: &[Operand],
        imm: u8,
        mask: Option<u8>,
        zero: bool,
    ) {
        let row = op.row();
        let code = row.code(self.isa, width);
        if code == Code::INVALID {
            self.asm.fail(format!("{op:?} of {width} bytes does not exist with {:?}", self.isa));
            return;
        }
        let half = (width / 2).max(16);
        let (to, from) = match row.form {
            Form::Widen => (width, half),
            Form::Narrow | Form::NarrowImm => (half, width),
            Form::FromXmm => (width, 16),
            Form::ToXmm => (16, width),
            _ => (width, width),
        };
        let as_register = |operand: &Operand, width: u8| match operand {
            Operand::Register(class, number) => register(*class, *number, width),
            _ => Register::None,
        };
        let d = as_register(&dst, to);
        let i = i32::from(imm);
        let pool = args.iter().find_map(|arg| match arg {
            Operand::Pool(id, broadcast) => Some((*id, self.asm.pool_operand(*broadcast))),
            _ => None,
        });
        let memory = args.iter().find_map(|arg| match arg {
            Operand::Memory(memory) => Some(*memory),
            _ => None,
        });
        let memory = memory.or(pool.map(|(_, operand)| operand));
        let r = |k: usize| as_register(&args[k], from);
        let instruction = match (row.form, memory) {
            (Form::Unary | Form::Widen | Form::Narrow | Form::FromXmm | Form::ToXmm | Form::MaskUnary, None) => {
                Instruction::with2(code, d, r(0))
            }
            (Form::Unary | Form::Widen | Form::Narrow | Form::FromXmm | Form::ToXmm | Form::MaskUnary, Some(m)) => {
                Instruction::with2(code, d, m)
            }
            (Form::UnaryImm | Form::NarrowImm, None) => Instruction::with3(code, d, r(0), i),
            (Form::UnaryImm | Form::NarrowImm, Some(m)) => Instruction::with3(code, d, m, i),
            (Form::Binary | Form::Fma | Form::Mask, None) => Instruction::with3(code, d, r(0), r(1)),
            (Form::Binary | Form::Fma | Form::Mask, Some(m)) => Instruction::with3(code, d, r(0), m),
            (Form::BinaryImm, None) => Instruction::with4(code, d, r(0), r(1), i),
            (Form::BinaryImm, Some(m)) => Instruction::with4(code, d, r(0), m, i),
            (Form::Blend, None) if self.isa == Isa::Avx2 => Instruction::with4(code, d, r(0), r(1), r(2)),
            (Form::Blend, Some(m)) if self.isa == Isa::Avx2 => Instruction::with4(code, d, r(0), m, r(2)),
            (Form::Blend, None) => Instruction::with3(code, d, r(0), r(1)),
            (Form::Blend, Some(m)) => Instruction::with3(code, d, r(0), m),
        };
        let blend = (row.form == Form::Blend && self.isa == Isa::Avx512).then(|| as_register(&args[2], 0));
        let mask = mask.map(|number| register(Class::Mask, number, 0)).or(blend);
        let instruction = instruction.map(|mut instruction| {
            if let Some(mask) = mask {
                instruction.set_op_mask(mask);
                instruction.set_zeroing_masking(zero);
            }
            instruction
        });
        match pool {
            Some((id, _)) => self.asm.with_pool(instruction, id),
            None => {
                self.asm.emit(instruction);
            }
        }
    }

    /// Copies a vector.
    pub(crate) fn copy(&mut self, to: u8, from: u8, width: u8) {
        if to != from {
            let [to, from] = [to, from].map(|number| Operand::Register(Class::Vector, number));
            self.op(Op::MovUps, width, to, &[from], 0, None, false);
        }
    }

    pub(crate) fn load_register(&mut self, class: Class, number: u8, width: u8, address: MemoryOperand) {
        match class {
            Class::Mask => self.asm.rm(Code::VEX_Kmovw_kr_km16, register(class, number, 0), address),
            Class::Vector => {
                let operand = Operand::Memory(address);
                self.op(Op::MovUps, width, Operand::Register(class, number), &[operand], 0, None, false);
            }
        }
    }

    pub(crate) fn store_register(&mut self, class: Class, number: u8, width: u8, address: MemoryOperand) {
        let code = match class {
            Class::Mask => Code::VEX_Kmovw_m16_kr,
            Class::Vector => self.store_code(width),
        };
        self.asm.mr(code, address, register(class, number, width));
    }

    fn store_code(&self, width: u8) -> Code {
        match width {
            64 => Code::EVEX_Vmovups_zmmm512_k1z_zmm,
            32 => pick(self.isa, Code::VEX_Vmovups_ymmm256_ymm, Code::EVEX_Vmovups_ymmm256_k1z_ymm),
            _ => pick(self.isa, Code::VEX_Vmovups_xmmm128_xmm, Code::EVEX_Vmovups_xmmm128_k1z_xmm),
        }
    }

    /// Loads a value from its home.
    pub(crate) fn load_home(&mut self, info: &RegInfo, number: u8) {
        let dst = Operand::Register(info.class, number);
        match info.home {
            Some(Home::Const(Constant::Splat { bits: 0, .. })) => {
                self.op(Op::PxorD, info.width, dst, &[dst, dst], 0, None, false);
            }
            Some(Home::Const(Constant::Bits(bits))) => {
                let id = self.asm.constant(bits.to_le_bytes().to_vec());
                let operand = self.asm.pool_operand(false);
                let to = register(Class::Mask, number, 0);
                self.asm.with_pool(Instruction::with2(Code::VEX_Kmovw_kr_km16, to, operand), id);
            }
            Some(Home::Const(constant)) => match (self.pool_operand(constant, info.width), constant) {
                (Operand::Pool(id, true), Constant::Splat { size, .. }) => {
                    let op = if size == 8 { Op::PbroadcastQ } else { Op::PbroadcastD };
                    self.op(op, info.width, dst, &[Operand::Pool(id, false)], 0, None, false);
                }
                (operand, _) => self.op(Op::MovUps, info.width, dst, &[operand], 0, None, false),
            },
            Some(Home::Frame(offset) | Home::Cell(offset)) => {
                self.load_register(info.class, number, info.width, at(Register::RSP, offset));
            }
            Some(Home::Argument(place)) => {
                let address = self.address(place);
                self.load_register(info.class, number, info.width, address);
            }
            None => self.asm.fail("a value is read before it is defined".into()),
        }
    }

    /// A general register in every lane of 4 or 8 bytes.
    fn broadcast(&mut self, size: u8, dst: u8, width: u8) {
        let scalar = if size == 8 { Register::RAX } else { Register::EAX };
        let to = register(Class::Vector, dst, width);
        if self.isa == Isa::Avx512 {
            let code = match (size, width) {
                (8, 64) => Code::EVEX_Vpbroadcastq_zmm_k1z_r64,
                (8, 32) => Code::EVEX_Vpbroadcastq_ymm_k1z_r64,
                (8, _) => Code::EVEX_Vpbroadcastq_xmm_k1z_r64,
                (_, 64) => Code::EVEX_Vpbroadcastd_zmm_k1z_r32,
                (_, 32) => Code::EVEX_Vpbroadcastd_ymm_k1z_r32,
                _ => Code::EVEX_Vpbroadcastd_xmm_k1z_r32,
            };
            self.asm.rr(code, to, scalar);
            return;
        }
        let xmm = register(Class::Vector, dst, 16);
        let code = if size == 8 { Code::VEX_Vmovq_xmm_rm64 } else { Code::VEX_Vmovd_xmm_rm32 };
        self.asm.rr(code, xmm, scalar);
        let op = if size == 8 { Op::PbroadcastQ } else { Op::PbroadcastD };
        let operand = Operand::Register(Class::Vector, dst);
        self.op(op, width, operand, &[operand], 0, None, false);
    }

    pub(crate) fn broadcast_byte(&mut self, place: Place, dst: u8, width: u8) {
        let address = self.address(place);
        self.asm.rm(Code::Movzx_r32_rm8, Register::EAX, address);
        self.broadcast(4, dst, width);
    }

    pub(crate) fn index(&mut self, place: Place, size: u8, dst: u8, width: u8) {
        let site = self.sites[place.site];
        let word = at(Register::RSP, site.word);
        let after = place.after as i32;
        match site.stride {
            Some(stride) => {
                self.asm.rm(Code::Lea_r64_m, Register::RAX, at(Register::RDI, after));
                self.asm.rm(Code::Imul_r64_rm64, Register::RAX, at(Register::RSP, stride));
                self.asm.rm(Code::Add_r64_rm64, Register::RAX, word);
            }
            None => {
                self.asm.rm(Code::Mov_r64_rm64, Register::RAX, word);
                if site.moves {
                    let sum = indexed(Register::RAX, Register::RDI, 1, after);
                    self.asm.rm(Code::Lea_r64_m, Register::RAX, sum);
                }
            }
        }
        self.broadcast(size, dst, width);
    }

    pub(crate) fn load_masked(&mut self, place: Place, lane: u8, dst: u8, mask: u8, width: u8) {
        let address = self.address(place);
        let code = match (lane, width) {
            (8, 32) => Code::VEX_Vpmaskmovq_ymm_ymm_m256,
            (8, _) => Code::VEX_Vpmaskmovq_xmm_xmm_m128,
            (_, 32) => Code::VEX_Vpmaskmovd_ymm_ymm_m256,
            _ => Code::VEX_Vpmaskmovd_xmm_xmm_m128,
        };
        let [dst, mask] = [dst, mask].map(|number| register(Class::Vector, number, width));
        self.asm.emit(Instruction::with3(code, dst, mask, address));
    }

    pub(crate) fn store_masked(&mut self, place: Place, lane: u8, value: u8, mask: u8, width: u8) {
        let address = self.address(place);
        let code = match (lane, width) {
            (8, 32) => Code::VEX_Vpmaskmovq_m256_ymm_ymm,
            (8, _) => Code::VEX_Vpmaskmovq_m128_xmm_xmm,
            (_, 32) => Code::VEX_Vpmaskmovd_m256_ymm_ymm,
            _ => Code::VEX_Vpmaskmovd_m128_xmm_xmm,
        };
        let [value, mask] = [value, mask].map(|number| register(Class::Vector, number, width));
        self.asm.emit(Instruction::with3(code, address, mask, value));
    }

    pub(crate) fn store(&mut self, place: Place, lane: u8, value: u8, width: u8, mask: Option<u8>) {
        let address = self.address(place);
        // Lanes matter only to a mask, and so does the name of the instruction.
        let code = match (mask, lane, width) {
            (Some(_), 8, 64) => Code::EVEX_Vmovupd_zmmm512_k1z_zmm,
            (Some(_), 8, 32) => Code::EVEX_Vmovupd_ymmm256_k1z_ymm,
            (Some(_), 8, _) => Code::EVEX_Vmovupd_xmmm128_k1z_xmm,
            _ => self.store_code(width),
        };
        let instruction = Instruction::with2(code, address, register(Class::Vector, value, width));
        self.asm.emit(instruction.map(|mut instruction| {
            if let Some(mask) = mask {
                instruction.set_op_mask(register(Class::Mask, mask, 0));
            }
            instruction
        }));
    }

    /// Stores a vector past the caches.
    pub(crate) fn stream(&mut self, place: Place, value: u8, width: u8) {
        let address = self.address(place);
        let code = match width {
            64 => Code::EVEX_Vmovntps_m512_zmm,
            32 => pick(self.isa, Code::VEX_Vmovntps_m256_ymm, Code::EVEX_Vmovntps_m256_ymm),
            _ => pick(self.isa, Code::VEX_Vmovntps_m128_xmm, Code::EVEX_Vmovntps_m128_xmm),
        };
        self.asm.mr(code, address, register(Class::Vector, value, width));
    }

    pub(crate) fn store_bytes(&mut self, place: Place, n: u8, value: u8, mask: Option<u8>) {
        let address = self.address(place);
        let xmm = register(Class::Vector, value, 16);
        if let Some(mask) = mask {
            let instruction = Instruction::with2(Code::EVEX_Vmovdqu8_xmmm128_k1z_xmm, address, xmm);
            self.asm.emit(instruction.map(|mut instruction| {
                instruction.set_op_mask(register(Class::Mask, mask, 0));
                instruction
            }));
            return;
        }
        let code = match n {
            16 => self.store_code(16),
            8 => pick(self.isa, Code::VEX_Vmovq_xmmm64_xmm, Code::EVEX_Vmovq_xmmm64_xmm),
            _ => pick(self.isa, Code::VEX_Vmovd_rm32_xmm, Code::EVEX_Vmovd_rm32_xmm),
        };
        self.asm.mr(code, address, xmm);
    }

    /// The address of byte `rcx - 1` of a place that bytes move to or from.
    fn last_byte(&mut self, place: Place) {
        let address = self.address(place);
        self.asm.rm(Code::Lea_r64_m, Register::RAX, address);
    }

    /// Copies as many bytes as a word of the frame says, one at a time, between [rax] and the frame.
    fn copy_bytes(&mut self, count: i32, to_frame: bool) {
        let asm = &mut self.asm;
        asm.rm(Code::Mov_r64_rm64, Register::RCX, at(Register::RSP, count));
        let (next, done) = (asm.label(), asm.label());
        asm.bind(next);
        asm.ri(Code::Sub_rm64_imm8, Register::RCX, 1);
        asm.jump(Code::Jl_rel32_64, done);
        let argument = indexed(Register::RAX, Register::RCX, 1, 0);
        let frame = indexed(Register::RSP, Register::RCX, 1, self.bytes);
        let (from, to) = if to_frame { (argument, frame) } else { (frame, argument) };
        // r8 to r15 and rbx may hold addresses; dl would clobber the step, so the byte goes through the frame's word.
        asm.mr(Code::Mov_rm64_r64, at(Register::RSP, self.bytes + 16), Register::RDX);
        asm.rm(Code::Movzx_r32_rm8, Register::EDX, from);
        asm.mr(Code::Mov_rm8_r8, to, Register::DL);
        asm.rm(Code::Mov_r64_rm64, Register::RDX, at(Register::RSP, self.bytes + 16));
        asm.jump(Code::Jmp_rel32_64, next);
        asm.bind(done);
    }

    pub(crate) fn load_bytes(&mut self, place: Place, count: i32, dst: u8, width: u8) {
        self.last_byte(place);
        self.copy_bytes(count, true);
        let operand = Operand::Memory(at(Register::RSP, self.bytes));
        self.op(Op::Pmovzxbd, width, Operand::Register(Class::Vector, dst), &[operand], 0, None, false);
    }

    pub(crate) fn store_some_bytes(&mut self, place: Place, count: i32, value: u8) {
        self.store_register(Class::Vector, value, 16, at(Register::RSP, self.bytes));
        self.last_byte(place);
        self.copy_bytes(count, false);
    }

    pub(crate) fn store_lane(&mut self, place: Place, size: u8, class: Class, value: u8) {
        let address = self.address(place);
        let xmm = register(Class::Vector, value, 16);
        match size {
            8 => {
                let code = pick(self.isa, Code::VEX_Vmovq_xmmm64_xmm, Code::EVEX_Vmovq_xmmm64_xmm);
                self.asm.mr(code, address, xmm);
            }
            4 => {
                let code = pick(self.isa, Code::VEX_Vmovd_rm32_xmm, Code::EVEX_Vmovd_rm32_xmm);
                self.asm.mr(code, address, xmm);
            }
            _ => {
                match class {
                    Class::Mask => {
                        self.asm.rr(Code::VEX_Kmovw_r32_kr, Register::ECX, register(class, value, 0));
                        self.asm.ri(Code::And_rm32_imm8, Register::ECX, 1);
                    }
                    Class::Vector => {
                        let code = pick(self.isa, Code::VEX_Vmovd_rm32_xmm, Code::EVEX_Vmovd_rm32_xmm);
                        self.asm.rr(code, Register::ECX, xmm);
                    }
                }
                self.asm.mr(Code::Mov_rm8_r8, address, Register::CL);
            }
        }
    }
}
