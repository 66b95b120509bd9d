//! One scalar instruction on a group of four lanes.
//!
//! A group is held in [`Lanes`]: one 128-bit vector for types of up to 4 bytes, two for those of 8 bytes. `U8` lives
//! zero-extended in 32-bit lanes. A `Bool` is a mask (all bits of a lane equal) in lanes of 32 or of 64 bits, whichever
//! its maker left; [`Emitter::mask`] converts. Assumes well-typed instructions ([`cotangent_kernel::verify`]) and
//! promises the bits of [`cotangent_scalar::eval::apply`], NaN payloads excepted.

use std::collections::HashMap;

use cotangent_scalar::{DType, LibmFn, ReduceOp, ScalarOp};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F32X4, F64, F64X2, I8X16, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{ConstantData, Endianness, FuncRef, InstBuilder, MemFlagsData, Type, Value};
use cranelift_frontend::FunctionBuilder;
use smallvec::{SmallVec, smallvec};

/// Elements of a group.
pub(crate) const GROUP: usize = 4;

/// The values of four elements, in one vector or in two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lanes(pub(crate) SmallVec<[Value; 2]>);

impl Lanes {
    fn is_repeated(&self) -> bool {
        self.0.len() == 2 && self.0[0] == self.0[1]
    }
}

/// What an instruction is, as far as its operands' values do not tell.
pub(crate) struct Shape {
    /// The operation.
    pub(crate) op: ScalarOp,
    /// The type of the result.
    pub(crate) dtype: DType,
    /// The type of the first operand.
    pub(crate) from: DType,
    /// Whether all operands are the same in every lane.
    pub(crate) uniform: bool,
    /// Whether the first operand is known not to be NaN.
    pub(crate) first_not_nan: bool,
    /// Whether the second operand is the same in every lane.
    pub(crate) second_uniform: bool,
    /// The bits of the second operand, if it is a constant.
    pub(crate) second_const: Option<u64>,
}

/// Emits instructions into the function being built.
pub(crate) struct Emitter<'f> {
    pub(crate) b: FunctionBuilder<'f>,
    pub(crate) calls: HashMap<(LibmFn, DType), FuncRef>,
    /// Keep Cranelift from folding loads of floats into comparisons. Without VEX such operands must be aligned, and
    /// 0.135 does not know that of `cmpps` and `cmppd`.
    pub(crate) loads_apart: bool,
}

/// The vector type that holds lanes of a number type.
pub(crate) fn vector_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 => F32X4,
        DType::F64 => F64X2,
        DType::I64 => I64X2,
        DType::I32 | DType::U8 | DType::Bool => I32X4,
    }
}

/// Vectors per group, for numbers (a `Bool` may have either).
pub(crate) fn n_parts(dtype: DType) -> usize {
    if dtype.size_bytes() == 8 { 2 } else { 1 }
}

/// Bitcasts between vectors need a byte order; that of the machine is little everywhere Cranelift's vectors are used.
pub(crate) fn reinterpret() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

impl Emitter<'_> {
    pub(crate) fn iconst(&mut self, value: i64) -> Value {
        self.b.ins().iconst(I64, value)
    }

    pub(crate) fn as_type(&mut self, ty: Type, value: Value) -> Value {
        if self.b.func.dfg.value_type(value) == ty { value } else { self.b.ins().bitcast(ty, reinterpret(), value) }
    }

    /// A vector constant of four 32-bit words.
    pub(crate) fn words(&mut self, ty: Type, words: [u32; 4]) -> Value {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let constant = self.b.func.dfg.constants.insert(ConstantData::from(bytes));
        self.b.ins().vconst(ty, constant)
    }

    /// The constant with these bits in every lane.
    pub(crate) fn constant(&mut self, bits: u64, dtype: DType) -> Lanes {
        let low = match dtype {
            DType::Bool if bits != 0 => u32::MAX,
            _ => bits as u32,
        };
        let high = if n_parts(dtype) == 2 { (bits >> 32) as u32 } else { low };
        let part = self.words(vector_type(dtype), [low, high, low, high]);
        Lanes(std::iter::repeat_n(part, n_parts(dtype)).collect())
    }

    /// A scalar in every lane.
    pub(crate) fn splat(&mut self, scalar: Value, dtype: DType) -> Lanes {
        let part = self.b.ins().splat(vector_type(dtype), scalar);
        Lanes(std::iter::repeat_n(part, n_parts(dtype)).collect())
    }

    pub(crate) fn map1(&mut self, a: &Lanes, mut f: impl FnMut(&mut Self, Value) -> Value) -> Lanes {
        let first = f(self, a.0[0]);
        match a.0.len() {
            1 => Lanes(smallvec![first]),
            _ if a.is_repeated() => Lanes(smallvec![first, first]),
            _ => Lanes(smallvec![first, f(self, a.0[1])]),
        }
    }

    pub(crate) fn map2(&mut self, a: &Lanes, b: &Lanes, mut f: impl FnMut(&mut Self, Value, Value) -> Value) -> Lanes {
        let first = f(self, a.0[0], b.0[0]);
        match a.0.len() {
            1 => Lanes(smallvec![first]),
            _ if a.is_repeated() && b.is_repeated() => Lanes(smallvec![first, first]),
            _ => Lanes(smallvec![first, f(self, a.0[1], b.0[1])]),
        }
    }

    fn map3(&mut self, [a, b, c]: [&Lanes; 3], mut f: impl FnMut(&mut Self, Value, Value, Value) -> Value) -> Lanes {
        let first = f(self, a.0[0], b.0[0], c.0[0]);
        match a.0.len() {
            1 => Lanes(smallvec![first]),
            _ if a.is_repeated() && b.is_repeated() && c.is_repeated() => Lanes(smallvec![first, first]),
            _ => Lanes(smallvec![first, f(self, a.0[1], b.0[1], c.0[1])]),
        }
    }

    /// Picks 32-bit words out of the eight of two vectors.
    pub(crate) fn shuffle_words(&mut self, a: Value, b: Value, words: [u8; 4]) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        let (a, b) = (self.as_type(I8X16, a), self.as_type(I8X16, b));
        let bytes: Vec<u8> = words.iter().flat_map(|w| (0..4).map(move |k| w * 4 + k)).collect();
        let mask = self.b.func.dfg.immediates.push(ConstantData::from(bytes));
        let shuffled = self.b.ins().shuffle(a, b, mask);
        self.as_type(ty, shuffled)
    }

    /// A mask in `n` vectors: 1 of 32-bit lanes or 2 of 64-bit lanes.
    pub(crate) fn mask(&mut self, a: &Lanes, n: usize) -> Lanes {
        match (a.0.len(), n) {
            (1, 2) => {
                let low = self.b.ins().swiden_low(a.0[0]);
                Lanes(smallvec![low, self.b.ins().swiden_high(a.0[0])])
            }
            (2, 1) => Lanes(smallvec![self.shuffle_to_i32(a)]),
            _ => a.clone(),
        }
    }

    /// The low words of four 64-bit lanes.
    pub(crate) fn shuffle_to_i32(&mut self, a: &Lanes) -> Value {
        let low = self.shuffle_words(a.0[0], a.0[1], [0, 2, 4, 6]);
        self.as_type(I32X4, low)
    }

    /// Cuts 32-bit lanes down to the range of a `U8`.
    pub(crate) fn wrap_u8(&mut self, a: Lanes, dtype: DType) -> Lanes {
        if dtype != DType::U8 {
            return a;
        }
        let low = self.constant(0xff, DType::U8);
        self.map2(&a, &low, |e, x, y| e.b.ins().band(x, y))
    }

    /// The element of one lane, as a scalar (`U8` and `Bool` as `I32`).
    pub(crate) fn extract(&mut self, a: &Lanes, lane: usize) -> Value {
        let per_part = GROUP / a.0.len();
        self.b.ins().extractlane(a.0[lane / per_part], (lane % per_part) as u8)
    }

    /// Four scalars as a group.
    pub(crate) fn gather(&mut self, scalars: [Value; GROUP], dtype: DType) -> Lanes {
        let n = n_parts(dtype);
        let parts = scalars.chunks(GROUP / n).map(|chunk| {
            let mut vector = self.b.ins().scalar_to_vector(vector_type(dtype), chunk[0]);
            for (lane, &scalar) in chunk.iter().enumerate().skip(1) {
                vector = self.b.ins().insertlane(vector, scalar, lane as u8);
            }
            vector
        });
        Lanes(parts.collect())
    }

    /// An operation without a vector form, lane by lane; of uniform operands only one lane is computed.
    pub(crate) fn per_lane(
        &mut self,
        args: &[&Lanes],
        dtype: DType,
        uniform: bool,
        mut f: impl FnMut(&mut Self, &[Value]) -> Value,
    ) -> Lanes {
        let mut one = |e: &mut Self, lane: usize| {
            let scalars: SmallVec<[Value; 2]> = args.iter().map(|a| e.extract(a, lane)).collect();
            f(e, &scalars)
        };
        if uniform {
            let scalar = one(self, 0);
            return self.splat(scalar, dtype);
        }
        let scalars = [one(self, 0), one(self, 1), one(self, 2), one(self, 3)];
        self.gather(scalars, dtype)
    }

    /// One instruction that is neither an input nor a constant.
    pub(crate) fn apply(&mut self, shape: &Shape, args: &[&Lanes]) -> Lanes {
        use ScalarOp::*;
        let (dtype, from) = (shape.dtype, shape.from);
        let float = from.is_float();
        match shape.op {
            Input(_) => args[0].clone(),
            Const(bits) => self.constant(bits, dtype),
            Neg if float => self.map1(args[0], |e, x| e.b.ins().fneg(x)),
            Neg => {
                let negated = self.map1(args[0], |e, x| e.b.ins().ineg(x));
                self.wrap_u8(negated, dtype)
            }
            Abs if float => self.map1(args[0], |e, x| e.b.ins().fabs(x)),
            Abs if dtype == DType::U8 => args[0].clone(),
            Abs => self.map1(args[0], |e, x| e.b.ins().iabs(x)),
            Sqrt => self.map1(args[0], |e, x| e.b.ins().sqrt(x)),
            Floor => self.map1(args[0], |e, x| e.b.ins().floor(x)),
            Ceil => self.map1(args[0], |e, x| e.b.ins().ceil(x)),
            Trunc => self.map1(args[0], |e, x| e.b.ins().trunc(x)),
            RoundEven => self.map1(args[0], |e, x| e.b.ins().nearest(x)),
            Not => {
                let flipped = self.map1(args[0], |e, x| e.b.ins().bnot(x));
                self.wrap_u8(flipped, dtype)
            }
            Add if float => self.map2(args[0], args[1], |e, x, y| e.b.ins().fadd(x, y)),
            Sub if float => self.map2(args[0], args[1], |e, x, y| e.b.ins().fsub(x, y)),
            Mul if float => self.map2(args[0], args[1], |e, x, y| e.b.ins().fmul(x, y)),
            Div if float => self.map2(args[0], args[1], |e, x, y| e.b.ins().fdiv(x, y)),
            Add | Sub | Mul => {
                let result = self.map2(args[0], args[1], |e, x, y| match shape.op {
                    Add => e.b.ins().iadd(x, y),
                    Sub => e.b.ins().isub(x, y),
                    _ => e.b.ins().imul(x, y),
                });
                self.wrap_u8(result, dtype)
            }
            Div => self.per_lane(args, dtype, shape.uniform, |e, s| e.divide(s[0], s[1])),
            Min | Max => self.extreme(shape, args[0], args[1]),
            And | Or | Xor => {
                let second = self.mask_like(args[1], args[0], dtype);
                self.map2(args[0], &second, |e, x, y| match shape.op {
                    And => e.b.ins().band(x, y),
                    Or => e.b.ins().bor(x, y),
                    _ => e.b.ins().bxor(x, y),
                })
            }
            Shl | ShrU | ShrS => self.shift(shape, args[0], args[1]),
            MulHiU => self.map2(args[0], args[1], |e, x, y| {
                let (xl, yl) = (e.b.ins().uwiden_low(x), e.b.ins().uwiden_low(y));
                let low = e.b.ins().imul(xl, yl);
                let (xh, yh) = (e.b.ins().uwiden_high(x), e.b.ins().uwiden_high(y));
                let high = e.b.ins().imul(xh, yh);
                let words = e.shuffle_words(low, high, [1, 3, 5, 7]);
                e.as_type(I32X4, words)
            }),
            Eq | Ne | Lt | Le if from == DType::Bool => {
                let second = self.mask_like(args[1], args[0], from);
                self.map2(args[0], &second, |e, x, y| match shape.op {
                    Eq => {
                        let differ = e.b.ins().bxor(x, y);
                        e.b.ins().bnot(differ)
                    }
                    Ne => e.b.ins().bxor(x, y),
                    Lt => {
                        let not = e.b.ins().bnot(x);
                        e.b.ins().band(not, y)
                    }
                    _ => {
                        let not = e.b.ins().bnot(x);
                        e.b.ins().bor(not, y)
                    }
                })
            }
            Eq | Ne | Lt | Le => self.map2(args[0], args[1], |e, x, y| {
                let (float_cc, int_cc) = match shape.op {
                    Eq => (FloatCC::Equal, IntCC::Equal),
                    Ne => (FloatCC::NotEqual, IntCC::NotEqual),
                    Lt => (FloatCC::LessThan, IntCC::SignedLessThan),
                    _ => (FloatCC::LessThanOrEqual, IntCC::SignedLessThanOrEqual),
                };
                if float { e.b.ins().fcmp(float_cc, x, y) } else { e.b.ins().icmp(int_cc, x, y) }
            }),
            Select => {
                let n = if dtype == DType::Bool { args[0].0.len() } else { n_parts(dtype) };
                let condition = self.mask(args[0], n);
                let (a, b) = if dtype == DType::Bool {
                    (self.mask(args[1], n), self.mask(args[2], n))
                } else {
                    (args[1].clone(), args[2].clone())
                };
                self.map3([&condition, &a, &b], |e, c, x, y| e.blend(c, x, y))
            }
            Fma => self.map3([args[0], args[1], args[2]], |e, x, y, z| e.b.ins().fma(x, y, z)),
            Cast => self.cast(args[0], from, dtype, shape.uniform),
            Bitcast => {
                let ty = vector_type(dtype);
                self.map1(args[0], |e, x| e.as_type(ty, x))
            }
            Call(function) => {
                let callee = self.calls[&(function, dtype)];
                self.per_lane(args, dtype, shape.uniform, |e, scalars| {
                    let call = e.b.ins().call(callee, scalars);
                    e.b.inst_results(call)[0]
                })
            }
        }
    }

    /// An accumulator (first) combined with a value.
    pub(crate) fn combine(&mut self, op: ReduceOp, dtype: DType, acc: &Lanes, value: &Lanes) -> Lanes {
        let shape = Shape {
            op: op.scalar_op(),
            dtype,
            from: dtype,
            uniform: false,
            first_not_nan: false,
            second_uniform: false,
            second_const: None,
        };
        self.apply(&shape, &[acc, value])
    }

    /// `if mask { a } else { b }`, in the integer domain, where Cranelift recognizes comparisons of either kind.
    pub(crate) fn blend(&mut self, mask: Value, a: Value, b: Value) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        let int = self.b.func.dfg.value_type(mask);
        let (a, b) = (self.as_type(int, a), self.as_type(int, b));
        let blended = self.b.ins().bitselect(mask, a, b);
        self.as_type(ty, blended)
    }

    fn mask_like(&mut self, a: &Lanes, like: &Lanes, dtype: DType) -> Lanes {
        if dtype == DType::Bool { self.mask(a, like.0.len()) } else { a.clone() }
    }

    fn extreme(&mut self, shape: &Shape, a: &Lanes, b: &Lanes) -> Lanes {
        let is_max = shape.op == ScalarOp::Max;
        match shape.dtype {
            DType::F32 | DType::F64 => self.map2(a, b, |e, x, y| {
                // This comparison and bitselect are what `minps` and `maxps` compute: the second operand if either is NaN.
                let ty = e.b.func.dfg.value_type(x);
                let (lesser, greater) = if is_max { (y, x) } else { (x, y) };
                let less = e.b.ins().fcmp(FloatCC::LessThan, lesser, greater);
                let less = e.as_type(ty, less);
                let result = e.b.ins().bitselect(less, x, y);
                if shape.first_not_nan {
                    return result;
                }
                let nan = e.b.ins().fcmp(FloatCC::Unordered, x, x);
                e.blend(nan, x, result)
            }),
            DType::Bool => {
                let b = self.mask(b, a.0.len());
                self.map2(a, &b, |e, x, y| if is_max { e.b.ins().bor(x, y) } else { e.b.ins().band(x, y) })
            }
            DType::I64 => self.map2(a, b, |e, x, y| {
                let cc = if is_max { IntCC::SignedGreaterThan } else { IntCC::SignedLessThan };
                let better = e.b.ins().icmp(cc, x, y);
                e.blend(better, x, y)
            }),
            DType::I32 | DType::U8 => {
                self.map2(a, b, |e, x, y| if is_max { e.b.ins().smax(x, y) } else { e.b.ins().smin(x, y) })
            }
        }
    }

    /// Shifts by an amount that is the same in every lane have a vector form, others have not.
    fn shift(&mut self, shape: &Shape, a: &Lanes, amount: &Lanes) -> Lanes {
        let width = 8 * shape.dtype.size_bytes() as i64;
        let shifted = if shape.second_uniform && !shape.uniform {
            let scalar = match shape.second_const {
                Some(bits) => self.b.ins().iconst(I32, bits as i64 & (width - 1)),
                None => {
                    let scalar = self.extract(amount, 0);
                    self.b.ins().band_imm_s(scalar, width - 1)
                }
            };
            self.map1(a, |e, x| e.shift_by(shape, x, scalar))
        } else {
            self.per_lane(&[a, amount], shape.dtype, shape.uniform, |e, s| {
                let scalar = e.b.ins().band_imm_s(s[1], width - 1);
                e.shift_by(shape, s[0], scalar)
            })
        };
        if shape.op == ScalarOp::Shl { self.wrap_u8(shifted, shape.dtype) } else { shifted }
    }

    fn shift_by(&mut self, shape: &Shape, x: Value, amount: Value) -> Value {
        match shape.op {
            ScalarOp::Shl => self.b.ins().ishl(x, amount),
            ScalarOp::ShrU => self.b.ins().ushr(x, amount),
            _ => self.b.ins().sshr(x, amount),
        }
    }

    /// Wrapping integer division of scalars; by zero it gives 0. Neither trap of the machine's division can occur.
    fn divide(&mut self, a: Value, b: Value) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        let (zero, one) = (self.b.ins().iconst(ty, 0), self.b.ins().iconst(ty, 1));
        let by_zero = self.b.ins().icmp(IntCC::Equal, b, zero);
        let next = self.b.ins().iadd(b, one);
        // Of 0 and -1, `b + 1` is 1 and 0, the two that are at most 1 when read as unsigned.
        let special = self.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, next, one);
        let divisor = self.b.ins().select(special, one, b);
        let quotient = self.b.ins().sdiv(a, divisor);
        let negated = self.b.ins().ineg(a);
        let special_result = self.b.ins().select(by_zero, zero, negated);
        self.b.ins().select(special, special_result, quotient)
    }
}

/// The scalar type in which one lane of a type is held.
pub(crate) fn lane_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 => F32,
        DType::F64 => F64,
        DType::I64 => I64,
        DType::I32 | DType::U8 | DType::Bool => I32,
    }
}
