//! Scalar instructions to vector instructions, one group of lanes at a time.
//!
//! Promises the bits of [`cotangent_scalar::eval::apply`], NaN payloads excepted. Types of 8 bytes fill a vector of
//! `8 * lanes` bytes, all others one of `4 * lanes`: a kernel with an 8-byte value anywhere has half as many lanes, and its
//! 4-byte values half vectors. `U8` lives zero-extended in 32-bit lanes. A `Bool` is a mask register (AVX-512), or a vector
//! whose lanes are all ones or zeros (AVX2), of 4 or 8 bytes as its maker left them. What has no sequence here is an error
//! that says so, and the kernel goes to Cranelift.

use cotangent_scalar::{DType, ScalarOp};

use crate::wide::isa::{Isa, Op};
use crate::wide::vcode::{Constant, Reg, RegInfo, Vcode, What};

/// What a scalar instruction is, besides its operands' registers.
pub(crate) struct Shape {
    pub(crate) op: ScalarOp,
    pub(crate) dtype: DType,
    /// The type of the first operand.
    pub(crate) from: DType,
    /// Whether the first operand is known not to be NaN.
    pub(crate) first_not_nan: bool,
    /// The bits of the operands that are constants.
    pub(crate) constants: [Option<u64>; 3],
}

/// Predicates of float comparisons, quiet.
const EQ: u8 = 0x00;
const UNORDERED: u8 = 0x03;
const NE: u8 = 0x04;
const ORDERED: u8 = 0x07;
const LT: u8 = 0x11;
const LE: u8 = 0x12;
const GE: u8 = 0x1d;

/// Bytes of a lane.
pub(crate) fn lane(dtype: DType) -> usize {
    if dtype.size_bytes() == 8 { 8 } else { 4 }
}

/// The operation for 4- or 8-byte lanes.
fn by_lane(dtype: DType, narrow: Op, wide: Op) -> Op {
    if lane(dtype) == 8 { wide } else { narrow }
}

impl Vcode {
    fn is_masked(&self) -> bool {
        self.isa == Isa::Avx512
    }

    /// The constant with these bits in every lane.
    pub(crate) fn splat(&mut self, bits: u64, dtype: DType) -> Reg {
        if dtype != DType::Bool {
            let (size, width) = (lane(dtype), self.width(lane(dtype)));
            let bits = if size == 8 { bits } else { bits & 0xffff_ffff };
            return self.constant(Constant::Splat { bits, size: size as u8 }, width);
        }
        if self.is_masked() {
            return self.constant(Constant::Bits(if bits != 0 { 0xffff } else { 0 }), 0);
        }
        let reg = self.word(if bits != 0 { u32::MAX } else { 0 });
        self.regs[reg.index()].lane = 4;
        reg
    }

    fn ones(&mut self, width: u8) -> Reg {
        self.constant(Constant::Splat { bits: 0xffff_ffff, size: 4 }, width)
    }

    /// A mask in lanes of so many bytes (AVX2; with mask registers every mask fits every lane).
    pub(crate) fn mask_in(&mut self, mask: Reg, lane: usize) -> Reg {
        let from = usize::from(self.info(mask).lane);
        if self.is_masked() || from == lane {
            return mask;
        }
        let (narrow, wide) = (self.width(4), self.width(8));
        let converted = if lane == 8 {
            self.op_to(wide, Op::Pmovsxdq, &[mask], wide, 0)
        } else {
            self.low_words(mask, narrow, wide)
        };
        self.regs[converted.index()].lane = lane as u8;
        converted
    }

    /// The low half of every 8-byte lane (AVX2).
    fn low_words(&mut self, a: Reg, narrow: u8, wide: u8) -> Reg {
        let high = self.op_to(narrow, Op::Extracthigh, &[a], wide, 1);
        self.op_to(narrow, Op::ShufPs, &[a, high], narrow, 0x88)
    }

    /// An operation on masks, by its mask register and its vector form.
    fn mask_op2(&mut self, mask: Op, vector: Op, a: Reg, b: Reg) -> Reg {
        if self.is_masked() {
            return self.mask_op(mask, &[a, b], 0, 0);
        }
        let lane = self.info(a).lane;
        let b = self.mask_in(b, usize::from(lane));
        self.mask_op(vector, &[a, b], 0, lane)
    }

    fn mask_not(&mut self, a: Reg) -> Reg {
        if self.is_masked() {
            return self.mask_op(Op::Knot, &[a], 0, 0);
        }
        let (width, lane) = (self.width_of(a), self.info(a).lane);
        let ones = self.ones(width);
        self.mask_op(Op::PxorD, &[a, ones], 0, lane)
    }

    /// `value` where the mask is set, zero elsewhere.
    pub(crate) fn keep(&mut self, mask: Reg, value: Reg, lane: usize) -> Reg {
        let width = self.width_of(value);
        let mask = self.mask_in(mask, lane);
        if !self.is_masked() {
            return self.op(Op::PandD, &[value, mask]);
        }
        let dst = self.vector(width);
        let op = if lane == 8 { Op::MovUpd } else { Op::MovUps };
        let inst = self.push(What::Op(op), Some(dst), &[value], width);
        (inst.mask, inst.zero) = (Some(mask), true);
        dst
    }

    /// `if mask { yes } else { no }`.
    pub(crate) fn blend(&mut self, mask: Reg, yes: Reg, no: Reg, lane: usize) -> Reg {
        let mask = self.mask_in(mask, lane);
        let op = if lane == 8 { Op::BlendPd } else { Op::BlendPs };
        self.op(op, &[no, yes, mask])
    }

    /// Wraps 32-bit lanes that stand for `U8`.
    fn wrapped(&mut self, a: Reg, dtype: DType) -> Reg {
        if dtype != DType::U8 {
            return a;
        }
        let low = self.word(0xff);
        self.op(Op::PandD, &[a, low])
    }

    /// One instruction that is neither an input nor a constant.
    pub(crate) fn scalar(&mut self, shape: &Shape, args: &[Reg]) -> Result<Reg, String> {
        use ScalarOp::*;
        let (dtype, from) = (shape.dtype, shape.from);
        let float = from.is_float();
        let wide = lane(dtype) == 8;
        let float_op = |narrow: Op, wide_op: Op| if wide { wide_op } else { narrow };
        Ok(match shape.op {
            Input(_) | Const(_) => args[0],
            Neg | Abs if float => {
                let sign = if wide { 1 << 63 } else { 1 << 31 };
                let all = if wide { u64::MAX } else { 0xffff_ffff };
                let (bits, op) = match shape.op {
                    Neg => (sign, float_op(Op::XorPs, Op::XorPd)),
                    _ => (all & !sign, float_op(Op::AndPs, Op::AndPd)),
                };
                let bits = self.splat(bits, dtype);
                self.op(op, &[args[0], bits])
            }
            Neg => {
                let zero = self.splat(0, dtype);
                let negated = self.op(by_lane(dtype, Op::PsubD, Op::PsubQ), &[zero, args[0]]);
                self.wrapped(negated, dtype)
            }
            Abs if dtype == DType::U8 => args[0],
            Abs if !wide => self.op(Op::PabsD, args),
            Abs if self.is_masked() => self.op(Op::PabsQ, args),
            Abs => {
                let zero = self.splat(0, dtype);
                let sign = self.op(Op::PcmpgtQ, &[zero, args[0]]);
                let flipped = self.op(Op::PxorQ, &[args[0], sign]);
                self.op(Op::PsubQ, &[flipped, sign])
            }
            Sqrt => self.op(float_op(Op::SqrtPs, Op::SqrtPd), args),
            RoundEven | Floor | Ceil | Trunc => {
                // The rounding mode, and no exception for inexact results.
                let mode = match shape.op {
                    RoundEven => 0,
                    Floor => 1,
                    Ceil => 2,
                    _ => 3,
                };
                self.op_imm(float_op(Op::RoundPs, Op::RoundPd), args, mode | 8)
            }
            Not if dtype == DType::Bool => self.mask_not(args[0]),
            Not => {
                let ones = self.splat(if dtype == DType::U8 { 0xff } else { u64::MAX }, dtype);
                self.op(by_lane(dtype, Op::PxorD, Op::PxorQ), &[args[0], ones])
            }
            Add if float => self.op(float_op(Op::AddPs, Op::AddPd), args),
            Sub if float => self.op(float_op(Op::SubPs, Op::SubPd), args),
            Mul if float => self.op(float_op(Op::MulPs, Op::MulPd), args),
            Div if float => self.op(float_op(Op::DivPs, Op::DivPd), args),
            Div => return Err("integer division is done element by element".into()),
            Mul if wide && !self.is_masked() => return Err("products of i64 need AVX-512".into()),
            Add | Sub | Mul => {
                let op = match shape.op {
                    Add => by_lane(dtype, Op::PaddD, Op::PaddQ),
                    Sub => by_lane(dtype, Op::PsubD, Op::PsubQ),
                    _ => by_lane(dtype, Op::PmullD, Op::PmullQ),
                };
                let result = self.op(op, args);
                self.wrapped(result, dtype)
            }
            Min | Max => self.extreme(shape, args[0], args[1]),
            And if dtype == DType::Bool => self.mask_op2(Op::Kand, Op::PandD, args[0], args[1]),
            Or if dtype == DType::Bool => self.mask_op2(Op::Kor, Op::PorD, args[0], args[1]),
            Xor if dtype == DType::Bool => self.mask_op2(Op::Kxor, Op::PxorD, args[0], args[1]),
            And => self.op(by_lane(dtype, Op::PandD, Op::PandQ), args),
            Or => self.op(by_lane(dtype, Op::PorD, Op::PorQ), args),
            Xor => self.op(by_lane(dtype, Op::PxorD, Op::PxorQ), args),
            Shl | ShrU | ShrS => return self.shift(shape, args[0], args[1]),
            MulHiU => self.mul_hi(shape, args[0], args[1]),
            Eq | Ne | Lt | Le => self.compare(shape.op, from, args[0], args[1]),
            Select if dtype == DType::Bool => {
                let yes = self.mask_op2(Op::Kand, Op::PandD, args[0], args[1]);
                // The condition is complemented by the instruction.
                let no = self.mask_op2(Op::Kandn, Op::PandnD, args[0], args[2]);
                self.mask_op2(Op::Kor, Op::PorD, yes, no)
            }
            Select if shape.constants[2] == Some(0) => self.keep(args[0], args[1], lane(dtype)),
            Select => self.blend(args[0], args[1], args[2], lane(dtype)),
            Fma => {
                let width = self.width_of(args[0]);
                let dst = self.vector(width);
                self.push(What::Fma(float_op(Op::Fma132Ps, Op::Fma132Pd)), Some(dst), args, width);
                dst
            }
            Cast => return self.cast(args[0], from, dtype),
            Bitcast => args[0],
            Call(function) => return Err(format!("`{}` is a call for each element", function.name())),
        })
    }

    /// A comparison of two operands of a type.
    pub(crate) fn compare(&mut self, op: ScalarOp, from: DType, a: Reg, b: Reg) -> Reg {
        if from == DType::Bool {
            return match op {
                ScalarOp::Ne => self.mask_op2(Op::Kxor, Op::PxorD, a, b),
                ScalarOp::Eq => {
                    let differ = self.mask_op2(Op::Kxor, Op::PxorD, a, b);
                    self.mask_not(differ)
                }
                ScalarOp::Lt => self.mask_op2(Op::Kandn, Op::PandnD, a, b),
                _ => {
                    let not = self.mask_not(a);
                    self.mask_op2(Op::Kor, Op::PorD, not, b)
                }
            };
        }
        let size = lane(from) as u8;
        if from.is_float() {
            let predicate = match op {
                ScalarOp::Eq => EQ,
                ScalarOp::Ne => NE,
                ScalarOp::Lt => LT,
                _ => LE,
            };
            return self.mask_op(by_lane(from, Op::CmpPs, Op::CmpPd), &[a, b], predicate, size);
        }
        if self.is_masked() {
            let predicate = match op {
                ScalarOp::Eq => 0,
                ScalarOp::Ne => 4,
                ScalarOp::Lt => 1,
                _ => 2,
            };
            return self.mask_op(by_lane(from, Op::PcmpD, Op::PcmpQ), &[a, b], predicate, size);
        }
        let (equal, greater) = (by_lane(from, Op::PcmpeqD, Op::PcmpeqQ), by_lane(from, Op::PcmpgtD, Op::PcmpgtQ));
        match op {
            ScalarOp::Eq => self.mask_op(equal, &[a, b], 0, size),
            ScalarOp::Lt => self.mask_op(greater, &[b, a], 0, size),
            ScalarOp::Ne => {
                let same = self.mask_op(equal, &[a, b], 0, size);
                self.mask_not(same)
            }
            _ => {
                let above = self.mask_op(greater, &[a, b], 0, size);
                self.mask_not(above)
            }
        }
    }

    /// Where either float is NaN.
    pub(crate) fn unordered(&mut self, dtype: DType, a: Reg, b: Reg) -> Reg {
        self.mask_op(by_lane(dtype, Op::CmpPs, Op::CmpPd), &[a, b], UNORDERED, lane(dtype) as u8)
    }

    fn extreme(&mut self, shape: &Shape, a: Reg, b: Reg) -> Reg {
        let is_max = shape.op == ScalarOp::Max;
        let (dtype, size) = (shape.dtype, lane(shape.dtype));
        match dtype {
            DType::Bool if is_max => self.mask_op2(Op::Kor, Op::PorD, a, b),
            DType::Bool => self.mask_op2(Op::Kand, Op::PandD, a, b),
            DType::I32 | DType::U8 => self.op(if is_max { Op::PmaxsD } else { Op::PminsD }, &[a, b]),
            DType::I64 if self.is_masked() => self.op(if is_max { Op::PmaxsQ } else { Op::PminsQ }, &[a, b]),
            DType::I64 => {
                let above = self.mask_op(Op::PcmpgtQ, &[a, b], 0, 8);
                let (yes, no) = if is_max { (a, b) } else { (b, a) };
                self.blend(above, yes, no, 8)
            }
            DType::F32 | DType::F64 => {
                // The instruction gives its second operand where either is NaN and where both are zeros, as the definition
                // does but for a NaN on the left.
                let op =
                    if is_max { by_lane(dtype, Op::MaxPs, Op::MaxPd) } else { by_lane(dtype, Op::MinPs, Op::MinPd) };
                let harmless = |bits: u64| {
                    let value = dtype.f64_of_bits(bits);
                    !value.is_nan() && value != 0.0
                };
                if shape.first_not_nan {
                    return self.op(op, &[a, b]);
                }
                if shape.constants[1].is_some_and(harmless) {
                    // Equal operands have equal bits here, so exchanging them only brings the NaN through.
                    return self.op(op, &[b, a]);
                }
                let result = self.op(op, &[a, b]);
                let nan = self.unordered(dtype, a, a);
                self.blend(nan, a, result, size)
            }
        }
    }

    fn shift(&mut self, shape: &Shape, a: Reg, amount: Reg) -> Result<Reg, String> {
        let dtype = shape.dtype;
        let bits = 8 * dtype.size_bytes() as u64 - 1;
        let wide = lane(dtype) == 8;
        // `U8` has no sign.
        let arithmetic = shape.op == ScalarOp::ShrS && dtype != DType::U8;
        if arithmetic && wide && !self.is_masked() {
            return Err("arithmetic shifts of i64 need AVX-512".into());
        }
        let shifted = match shape.constants[1] {
            Some(amount) => {
                let op = match shape.op {
                    ScalarOp::Shl => by_lane(dtype, Op::PsllD, Op::PsllQ),
                    _ if arithmetic => by_lane(dtype, Op::PsraD, Op::PsraQ),
                    _ => by_lane(dtype, Op::PsrlD, Op::PsrlQ),
                };
                self.op_imm(op, &[a], (amount & bits) as u8)
            }
            None => {
                let mask = self.splat(bits, dtype);
                let amount = self.op(by_lane(dtype, Op::PandD, Op::PandQ), &[amount, mask]);
                let op = match shape.op {
                    ScalarOp::Shl => by_lane(dtype, Op::PsllvD, Op::PsllvQ),
                    _ if arithmetic => by_lane(dtype, Op::PsravD, Op::PsravQ),
                    _ => by_lane(dtype, Op::PsrlvD, Op::PsrlvQ),
                };
                self.op(op, &[a, amount])
            }
        };
        Ok(if shape.op == ScalarOp::Shl { self.wrapped(shifted, dtype) } else { shifted })
    }

    /// The high halves of 32-bit products: those of even lanes and of odd lanes, put together.
    fn mul_hi(&mut self, shape: &Shape, a: Reg, b: Reg) -> Reg {
        let even = self.op(Op::PmuludQ, &[a, b]);
        // The lanes of a constant are equal, so it need not be shifted.
        let odd_of = |code: &mut Self, reg: Reg, constant: Option<u64>| match constant {
            Some(_) => reg,
            None => code.op_imm(Op::PsrlQ, &[reg], 32),
        };
        let (odd_a, odd_b) = (odd_of(self, a, shape.constants[0]), odd_of(self, b, shape.constants[1]));
        let odd = self.op(Op::PmuludQ, &[odd_a, odd_b]);
        let even = self.op(Op::Movshdup, &[even]);
        if self.is_masked() {
            let odd_lanes = self.constant(Constant::Bits(0xaaaa), 0);
            self.blend(odd_lanes, odd, even, 4)
        } else {
            self.op_imm(Op::PblendD, &[even, odd], 0xaa)
        }
    }

    /// `a`, of type `from`, converted to type `to`.
    fn cast(&mut self, a: Reg, from: DType, to: DType) -> Result<Reg, String> {
        use DType::*;
        let (narrow, wide) = (self.width(4), self.width(8));
        let masked = self.is_masked();
        let lacking = || Err(format!("conversions from {from} to {to} need AVX-512"));
        Ok(match (from, to) {
            _ if from == to => a,
            (_, Bool) => {
                let zero = self.splat(0, from);
                self.compare(ScalarOp::Ne, from, a, zero)
            }
            (Bool, _) => {
                let one = self.splat(to.bits_of_f64(1.0), to);
                self.keep(a, one, lane(to))
            }
            (F32, F64) => self.op_to(wide, Op::Cvtps2pd, &[a], wide, 0),
            (F64, F32) => self.op_to(narrow, Op::Cvtpd2ps, &[a], wide, 0),
            (F32, I32) => self.saturated(a, Op::Cvttps2dq, F32, I32),
            (F32, U8) => {
                let wide = self.cast(a, F32, I32)?;
                self.clamped(wide)
            }
            (F32, I64) if masked => {
                // Widened first: every f32 is an f64.
                let widened = self.op_to(wide, Op::Cvtps2pd, &[a], wide, 0);
                self.saturated(widened, Op::Cvttpd2qq, F64, I64)
            }
            (F64, I64) if masked => self.saturated(a, Op::Cvttpd2qq, F64, I64),
            (F32 | F64, I64) => return lacking(),
            (F64, I32) => {
                let ordered = self.mask_op(Op::CmpPd, &[a, a], ORDERED, 8);
                let number = self.keep(ordered, a, 8);
                let most = self.splat(f64::from(i32::MAX).to_bits(), F64);
                let limited = self.op(Op::MinPd, &[number, most]);
                // Below the least integer the instruction gives the least integer.
                self.op_to(narrow, Op::Cvttpd2dq, &[limited], wide, 0)
            }
            (F64, U8) => {
                let wide = self.cast(a, F64, I32)?;
                self.clamped(wide)
            }
            (I32 | U8, F32) => self.op(Op::Cvtdq2ps, &[a]),
            (I32 | U8, F64) => self.op_to(wide, Op::Cvtdq2pd, &[a], wide, 0),
            (I64, F32) if masked => self.op_to(narrow, Op::Cvtqq2ps, &[a], wide, 0),
            (I64, F64) if masked => self.op(Op::Cvtqq2pd, &[a]),
            (I64, F32 | F64) => return lacking(),
            (I32 | U8, I64) => self.op_to(wide, Op::Pmovsxdq, &[a], wide, 0),
            (I64, I32 | U8) => {
                let low = if masked {
                    self.op_to(narrow, Op::Pmovqd, &[a], wide, 0)
                } else {
                    self.low_words(a, narrow, wide)
                };
                self.wrapped(low, to)
            }
            (I32, U8) => self.wrapped(a, U8),
            _ => a,
        })
    }

    /// Floats to integers of the same width: the instruction's "indefinite" (the least integer) becomes the greatest where
    /// the float is too large, and 0 where it is NaN.
    fn saturated(&mut self, a: Reg, op: Op, from: DType, to: DType) -> Reg {
        let size = lane(from);
        let converted = self.op(op, &[a]);
        let limit = if size == 8 { 9_223_372_036_854_775_808.0 } else { 2_147_483_648.0 };
        let limit = self.splat(from.bits_of_f64(limit), from);
        let compare = by_lane(from, Op::CmpPs, Op::CmpPd);
        let large = self.mask_op(compare, &[a, limit], GE, size as u8);
        let most = self.splat(if size == 8 { i64::MAX as u64 } else { i32::MAX as u64 }, to);
        let limited = self.blend(large, most, converted, size);
        let ordered = self.mask_op(compare, &[a, a], ORDERED, size as u8);
        self.keep(ordered, limited, size)
    }

    fn clamped(&mut self, a: Reg) -> Reg {
        let (low, high) = (self.word(0), self.word(255));
        let a = self.op(Op::PmaxsD, &[a, low]);
        self.op(Op::PminsD, &[a, high])
    }

    /// A value's bytes in the low part of an xmm register: `U8`, or `Bool` as 0 and 1.
    pub(crate) fn bytes(&mut self, value: Reg, dtype: DType) -> Reg {
        let width = self.width(4);
        if self.is_masked() {
            if dtype == DType::U8 {
                return self.op_to(16, Op::Pmovdb, &[value], width, 0);
            }
            let ones = self.constant(Constant::Splat { bits: 0x0101_0101, size: 4 }, 16);
            let dst = self.vector(16);
            let inst = self.push(What::Op(Op::Movdqu8), Some(dst), &[ones], 16);
            (inst.mask, inst.zero) = (Some(value), true);
            return dst;
        }
        let value = self.number_of_bool(value, dtype);
        let high = if width == 32 { self.op_to(16, Op::Extracthigh, &[value], 32, 1) } else { value };
        let words = self.op_to(16, Op::Packusdw, &[value, high], 16, 0);
        self.op_to(16, Op::Packuswb, &[words, words], 16, 0)
    }

    /// A `Bool` that is a vector as 0 or 1 in 32-bit lanes; anything else as it is.
    pub(crate) fn number_of_bool(&mut self, value: Reg, dtype: DType) -> Reg {
        if dtype != DType::Bool || self.is_masked() {
            return value;
        }
        let one = self.word(1);
        self.keep(value, one, 4)
    }

    /// Lanes of bytes in memory, as loaded: a mask if they are `Bool`.
    pub(crate) fn truth(&mut self, loaded: Reg, dtype: DType) -> Reg {
        if dtype != DType::Bool {
            return loaded;
        }
        if self.is_masked() {
            return self.mask_op(Op::PtestmD, &[loaded, loaded], 0, 4);
        }
        let zero = self.word(0);
        self.mask_op(Op::PcmpgtD, &[loaded, zero], 0, 4)
    }

    /// What a register that holds a value of a type looks like, apart from where it lies.
    pub(crate) fn info_of(&self, dtype: DType, mask_lane: u8) -> RegInfo {
        use crate::wide::vcode::Class;
        let (class, lane, size) = match dtype {
            DType::Bool if self.isa == Isa::Avx512 => (Class::Mask, 0, 4),
            DType::Bool => (Class::Vector, mask_lane, usize::from(mask_lane)),
            _ => (Class::Vector, 0, lane(dtype)),
        };
        RegInfo { class, width: self.width(size), lane, home: None, pinned: None }
    }
}
