//! Arithmetic, element by element: `+ - * /`, extremes, rounding, and logic on bits.

use std::cmp::Ordering;
use std::ops;

use cotangent_scalar::{BodyBuilder, DType, ValueId};
use smallvec::smallvec;

use crate::builder::{GraphBuilder, Tensor};
use crate::diag::{Code, Diag};
use crate::eval;
use crate::number::Number;
use crate::op::{Arity, Cotangents, Fault, InferCx, Lower, OpDef, OpTraits, ScalarCx, Vjp, VjpCx};
use crate::ops::{infer_bits, infer_float, infer_number};
use crate::samples::{Sample, Sampler};
use crate::tensor::TensorData;
use crate::types::{Shape, Type};

/// A scalar program.
pub type ScalarFn = fn(&mut BodyBuilder, &[ValueId], &ScalarCx<'_>) -> ValueId;
/// A type rule.
pub type InferFn = fn(&InferCx<'_>) -> Result<Type, Fault>;
/// A sample function.
pub type SampleFn = fn(&mut Sampler) -> Vec<Sample>;

/// The complete record of a pointwise op without attributes.
#[expect(clippy::too_many_arguments, reason = "a record's constructor names every field that differs")]
pub const fn pointwise(
    name: &'static str,
    doc: &'static str,
    n_operands: usize,
    traits: OpTraits,
    infer: InferFn,
    lower: ScalarFn,
    vjp: Vjp,
    samples: SampleFn,
) -> OpDef {
    OpDef {
        name,
        doc,
        arity: Arity::Exact(n_operands),
        attrs: &[],
        traits: OpTraits::POINTWISE.with(traits),
        infer,
        eval: eval::scalar,
        vjp,
        lower: Lower::Scalar(lower),
        samples,
    }
}

/// Two operands anywhere.
pub fn two(s: &mut Sampler) -> Vec<Sample> {
    vec![
        Sample::new(vec![s.float_in(-2.0..2.0, [3, 4]), s.float_in(-2.0..2.0, [3, 4])]),
        Sample::new(vec![s.float_in(-2.0..2.0, []), s.float_in(-2.0..2.0, [])]),
    ]
}

/// One operand anywhere.
pub fn one(s: &mut Sampler) -> Vec<Sample> {
    vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 5])]), Sample::new(vec![s.float_in(-2.0..2.0, [])])]
}

/// One operand away from a kink at zero.
pub fn kinked(s: &mut Sampler) -> Vec<Sample> {
    vec![Sample::new(vec![s.away_from_zero(0.1..3.0, [3, 5])])]
}

fn two_apart(s: &mut Sampler) -> Vec<Sample> {
    let all = s.distinct([2, 12]).bits();
    let part =
        |range: ops::Range<usize>, s: &Sampler| TensorData::from_bits(s.dtype(), &Shape::new(&[3, 4]), &all[range]);
    vec![Sample::new(vec![part(0..12, s), part(12..24, s)])]
}

fn dividend_and_divisor(s: &mut Sampler) -> Vec<Sample> {
    vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 4]), s.away_from_zero(0.5..2.0, [3, 4])])]
}

fn fractions(s: &mut Sampler) -> Vec<Sample> {
    // Between whole and half numbers, where rounding is flat.
    let whole = |s: &mut Sampler| s.int(-3..3) as f64 + 0.1 + 0.3 * s.unit();
    let dtype = s.dtype();
    vec![Sample::new(vec![s.of(dtype, [3, 5], whole)])]
}

fn bit_operands(s: &mut Sampler) -> Vec<Sample> {
    vec![
        Sample::new(vec![s.bools([3, 4]), s.bools([3, 4])]),
        Sample::new(vec![s.ints(DType::I32, -9..9, [3, 4]), s.ints(DType::I32, -9..9, [3, 4])]),
    ]
}

/// The sum. Integers wrap.
pub static ADD: OpDef = pointwise(
    "add",
    "Sum `a + b`, element by element. Integers wrap.",
    2,
    OpTraits::COMMUTATIVE,
    infer_number,
    |s, v, _| s.add(v[0], v[1]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy), Some(cx.dy)]),
    two,
);

/// The difference. Integers wrap.
pub static SUB: OpDef = pointwise(
    "sub",
    "Difference `a - b`, element by element. Integers wrap.",
    2,
    OpTraits::NONE,
    infer_number,
    |s, v, _| s.sub(v[0], v[1]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy), Some(-cx.dy)]),
    two,
);

/// The product. Integers wrap.
pub static MUL: OpDef = pointwise(
    "mul",
    "Product `a · b`, element by element. Integers wrap.",
    2,
    OpTraits::COMMUTATIVE,
    infer_number,
    |s, v, _| s.mul(v[0], v[1]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * cx.inputs[1]), Some(cx.dy * cx.inputs[0])]),
    two,
);

/// The quotient. Integer division truncates; by zero it gives 0.
pub static DIV: OpDef = pointwise(
    "div",
    "Quotient `a / b`, element by element. Integer division truncates towards zero; division by zero gives 0.",
    2,
    OpTraits::POLE,
    infer_number,
    |s, v, _| s.div(v[0], v[1]),
    Vjp::Rule(|cx| {
        let da = cx.dy / cx.inputs[1];
        smallvec![Some(da), Some(-(da * cx.output))]
    }),
    dividend_and_divisor,
);

fn extreme<'g>(cx: &VjpCx<'g, '_>, first_wins: Tensor<'g>) -> Cotangents<'g> {
    let zero = cx.dy.constant_like(0.0);
    smallvec![Some(first_wins.select(cx.dy, zero)), Some(first_wins.select(zero, cx.dy))]
}

/// The larger operand; NaN propagates; the gradient goes to the first where it is larger, else to the second.
pub static MAXIMUM: OpDef = pointwise(
    "maximum",
    "The larger of two elements; NaN if one is NaN. The gradient goes to the first where it is larger, and to the second \
     otherwise, where they tie as well.",
    2,
    OpTraits::NONE,
    infer_number,
    |s, v, _| s.max(v[0], v[1]),
    Vjp::Rule(|cx| extreme(cx, cx.inputs[0].gt(cx.inputs[1]))),
    two_apart,
);

/// The smaller operand; NaN propagates; the gradient goes to the first where it is smaller, else to the second.
pub static MINIMUM: OpDef = pointwise(
    "minimum",
    "The smaller of two elements; NaN if one is NaN. The gradient goes to the first where it is smaller, and to the second \
     otherwise, where they tie as well.",
    2,
    OpTraits::NONE,
    infer_number,
    |s, v, _| s.min(v[0], v[1]),
    Vjp::Rule(|cx| extreme(cx, cx.inputs[0].lt(cx.inputs[1]))),
    two_apart,
);

/// The negative.
pub static NEG: OpDef = pointwise(
    "neg",
    "Negative `-x`.",
    1,
    OpTraits::ODD,
    infer_number,
    |s, v, _| s.neg(v[0]),
    Vjp::Rule(|cx| smallvec![Some(-cx.dy)]),
    one,
);

/// The magnitude; its derivative at 0 is 0.
pub static ABS: OpDef = pointwise(
    "abs",
    "Magnitude `|x|`; the derivative at 0 is taken as 0.",
    1,
    OpTraits::EVEN.with(OpTraits::ZERO_PRESERVING).with(OpTraits::IDEMPOTENT),
    infer_number,
    |s, v, _| s.abs(v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * cx.x().sign())]),
    kinked,
);

/// −1, 0 or 1; NaN stays NaN.
pub static SIGN: OpDef = pointwise(
    "sign",
    "-1, 0 or 1 by the sign of `x`; NaN stays NaN, and zeros keep their sign.",
    1,
    OpTraits::ODD.with(OpTraits::MONOTONE).with(OpTraits::ZERO_PRESERVING).with(OpTraits::IDEMPOTENT),
    infer_number,
    |s, v, _| {
        let (zero, one, minus) = (s.like(0.0, v[0]), s.like(1.0, v[0]), s.like(-1.0, v[0]));
        let (positive, negative) = (s.gt(v[0], zero), s.lt(v[0], zero));
        let rest = s.select(negative, minus, v[0]);
        s.select(positive, one, rest)
    },
    Vjp::Zero("constant wherever it is smooth"),
    kinked,
);

const ROUNDING: OpTraits = OpTraits::MONOTONE.with(OpTraits::ZERO_PRESERVING).with(OpTraits::IDEMPOTENT);

/// Rounding down.
pub static FLOOR: OpDef = pointwise(
    "floor",
    "Largest whole number not above `x`.",
    1,
    ROUNDING,
    infer_float,
    |s, v, _| s.floor(v[0]),
    Vjp::Zero("constant wherever it is smooth"),
    fractions,
);

/// Rounding up.
pub static CEIL: OpDef = pointwise(
    "ceil",
    "Smallest whole number not below `x`.",
    1,
    ROUNDING,
    infer_float,
    |s, v, _| s.ceil(v[0]),
    Vjp::Zero("constant wherever it is smooth"),
    fractions,
);

/// Rounding to nearest, ties to even.
pub static ROUND: OpDef = pointwise(
    "round",
    "`x` rounded to the nearest whole number, ties to even.",
    1,
    ROUNDING.with(OpTraits::ODD),
    infer_float,
    |s, v, _| s.round_even(v[0]),
    Vjp::Zero("constant wherever it is smooth"),
    fractions,
);

/// And of bits or truth values.
pub static AND: OpDef = pointwise(
    "and",
    "And, bit by bit; logical for bool.",
    2,
    OpTraits::COMMUTATIVE,
    infer_bits,
    |s, v, _| s.and(v[0], v[1]),
    Vjp::Zero("integers and truth values have no derivative"),
    bit_operands,
);

/// Or of bits or truth values.
pub static OR: OpDef = pointwise(
    "or",
    "Or, bit by bit; logical for bool.",
    2,
    OpTraits::COMMUTATIVE,
    infer_bits,
    |s, v, _| s.or(v[0], v[1]),
    Vjp::Zero("integers and truth values have no derivative"),
    bit_operands,
);

/// Exclusive or of bits or truth values.
pub static XOR: OpDef = pointwise(
    "xor",
    "Exclusive or, bit by bit; logical for bool.",
    2,
    OpTraits::COMMUTATIVE,
    infer_bits,
    |s, v, _| s.xor(v[0], v[1]),
    Vjp::Zero("integers and truth values have no derivative"),
    bit_operands,
);

/// Complement of bits or truth values.
pub static NOT: OpDef = pointwise(
    "not",
    "Complement, bit by bit; logical for bool.",
    1,
    OpTraits::NONE,
    infer_bits,
    |s, v, _| s.not(v[0]),
    Vjp::Zero("integers and truth values have no derivative"),
    |s| vec![Sample::new(vec![s.bools([3, 4])]), Sample::new(vec![s.ints(DType::I64, -9..9, [5])])],
);

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&ADD, &SUB, &MUL, &DIV, &MAXIMUM, &MINIMUM, &NEG, &ABS, &SIGN, &FLOOR, &CEIL, &ROUND, &AND, &OR, &XOR, &NOT];

impl<'g> Tensor<'g> {
    /// The larger element; NaN if one is NaN.
    #[track_caller]
    pub fn maximum(self, other: impl Operand<'g>) -> Tensor<'g> {
        self.binary(&MAXIMUM, other.beside(self))
    }

    /// The smaller element; NaN if one is NaN.
    #[track_caller]
    pub fn minimum(self, other: impl Operand<'g>) -> Tensor<'g> {
        self.binary(&MINIMUM, other.beside(self))
    }

    /// Every element moved into `[low, high]`. The derivative is 1 strictly inside, and 0 at the bounds and beyond.
    #[track_caller]
    pub fn clamp(self, low: f64, high: f64) -> Tensor<'g> {
        // Not `low > high`, which a NaN would pass.
        if !matches!(low.partial_cmp(&high), Some(Ordering::Less | Ordering::Equal)) {
            let text = format!("`clamp` requires a range that does not end before it begins, got {low} to {high}");
            return self.refuse(Diag::new(Code::BadAttribute, text).made("the operand", self));
        }
        self.maximum(self.constant_like(low)).minimum(self.constant_like(high))
    }

    /// The magnitude.
    #[track_caller]
    pub fn abs(self) -> Tensor<'g> {
        self.unary(&ABS)
    }

    /// −1, 0 or 1.
    #[track_caller]
    pub fn sign(self) -> Tensor<'g> {
        self.unary(&SIGN)
    }

    /// Rounded down.
    #[track_caller]
    pub fn floor(self) -> Tensor<'g> {
        self.unary(&FLOOR)
    }

    /// Rounded up.
    #[track_caller]
    pub fn ceil(self) -> Tensor<'g> {
        self.unary(&CEIL)
    }

    /// Rounded to the nearest whole number, ties to even.
    #[track_caller]
    pub fn round(self) -> Tensor<'g> {
        self.unary(&ROUND)
    }

    /// The square.
    #[track_caller]
    pub fn square(self) -> Tensor<'g> {
        self * self
    }

    /// A constant of this tensor's element type and shape. A number that the type does not hold is an error.
    #[track_caller]
    pub fn constant_like(self, value: impl Into<Number>) -> Tensor<'g> {
        let (g, value, ty) = (self.builder(), value.into(), self.ty());
        if self.is_poisoned() {
            return self;
        }
        if !g.rounds() && !value.held_by(ty.dtype()) {
            let text = format!("a tensor of {ty} and the number {value}: {} holds {}", ty.dtype(), ty.dtype().held());
            let diag = Diag::new(Code::DTypeMismatch, text).made("the tensor", self);
            let home = format!("{:?}", value.home());
            return self.refuse(
                diag.help(format!("write a number of {}, or convert the tensor: `.cast({home})`", ty.dtype())),
            );
        }
        g.constant(TensorData::scalar(ty.dtype(), value)).broadcast_to(self.shape())
    }
}

/// What stands beside a tensor in a formula: another tensor, or a number, which becomes a constant of the tensor's element type.
pub trait Operand<'g>: Copy {
    /// It, if it is a tensor.
    fn tensor(self) -> Option<Tensor<'g>>;

    /// It as a tensor, beside another one.
    #[track_caller]
    fn beside(self, other: Tensor<'g>) -> Tensor<'g>;
}

impl<'g> Operand<'g> for Tensor<'g> {
    fn tensor(self) -> Option<Tensor<'g>> {
        Some(self)
    }

    fn beside(self, _: Tensor<'g>) -> Tensor<'g> {
        self
    }
}

macro_rules! numbers {
    ($($t:ty),*) => {
        $(impl<'g> Operand<'g> for $t {
            fn tensor(self) -> Option<Tensor<'g>> {
                None
            }

            #[track_caller]
            fn beside(self, other: Tensor<'g>) -> Tensor<'g> {
                other.constant_like(self)
            }
        })*
    };
}
numbers!(f32, f64, i32, i64, u8, usize);

macro_rules! operators {
    ($($Trait:ident, $method:ident, $Assign:ident, $assign:ident, $op:ident;)*) => {
        $(
            impl<'g, R: Operand<'g>> ops::$Trait<R> for Tensor<'g> {
                type Output = Tensor<'g>;
                #[track_caller]
                fn $method(self, other: R) -> Tensor<'g> {
                    self.binary(&$op, other.beside(self))
                }
            }

            /// The variable then stands for the result; the tensor that it stood for stays as it is.
            impl<'g, R: Operand<'g>> ops::$Assign<R> for Tensor<'g> {
                #[track_caller]
                fn $assign(&mut self, other: R) {
                    *self = self.binary(&$op, other.beside(*self));
                }
            }

            // Of one float and one integer type only, so that literals need no suffix.
            operators!(@left $Trait, $method, $op; f64, i64);
        )*
    };
    (@left $Trait:ident, $method:ident, $op:ident; $($t:ty),*) => {
        $(impl<'g> ops::$Trait<Tensor<'g>> for $t {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, other: Tensor<'g>) -> Tensor<'g> {
                self.beside(other).binary(&$op, other)
            }
        })*
    };
}

operators! {
    Add, add, AddAssign, add_assign, ADD;
    Sub, sub, SubAssign, sub_assign, SUB;
    Mul, mul, MulAssign, mul_assign, MUL;
    Div, div, DivAssign, div_assign, DIV;
}

macro_rules! bit_operators {
    ($($Trait:ident, $method:ident, $op:ident;)*) => {
        $(impl<'g> ops::$Trait for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, other: Tensor<'g>) -> Tensor<'g> {
                self.binary(&$op, other)
            }
        })*
    };
}

bit_operators! {
    BitAnd, bitand, AND;
    BitOr, bitor, OR;
    BitXor, bitxor, XOR;
}

impl<'g> ops::Neg for Tensor<'g> {
    type Output = Tensor<'g>;
    #[track_caller]
    fn neg(self) -> Tensor<'g> {
        self.unary(&NEG)
    }
}

impl<'g> ops::Not for Tensor<'g> {
    type Output = Tensor<'g>;
    #[track_caller]
    fn not(self) -> Tensor<'g> {
        self.unary(&NOT)
    }
}

impl GraphBuilder {
    /// A scalar constant of the given element type, which must hold the number.
    #[track_caller]
    pub fn scalar(&self, value: impl Into<Number>, dtype: DType) -> Tensor<'_> {
        self.full(dtype, [], value)
    }

    /// A constant of this element type and shape, the same number everywhere. A number that the type does not hold is an error.
    #[track_caller]
    pub fn full(&self, dtype: DType, shape: impl Into<Shape>, value: impl Into<Number>) -> Tensor<'_> {
        let (shape, value) = (shape.into(), value.into());
        if !self.rounds() && !value.held_by(dtype) {
            let text = format!("a constant of {dtype} and the number {value}: {dtype} holds {}", dtype.held());
            self.error(Diag::new(Code::BadAttribute, text).help(format!("ask for another type: `{:?}`", value.home())));
            return self.poisoned_as(Type::tensor(dtype, shape));
        }
        self.constant(TensorData::scalar(dtype, value)).broadcast_to(shape)
    }

    /// Zeros of this element type and shape.
    #[track_caller]
    pub fn zeros(&self, dtype: DType, shape: impl Into<Shape>) -> Tensor<'_> {
        self.full(dtype, shape, 0.0)
    }

    /// Ones of this element type and shape.
    #[track_caller]
    pub fn ones(&self, dtype: DType, shape: impl Into<Shape>) -> Tensor<'_> {
        self.full(dtype, shape, 1.0)
    }
}
