//! Mathematical functions, element by element.

use std::f64::consts::PI;

use cotangent_scalar::math as m;
use smallvec::smallvec;

use crate::builder::Tensor;
use crate::eval;
use crate::op::{Arity, Lower, OpDef, OpTraits, Vjp};
use crate::ops::arithmetic::{Operand, one, pointwise};
use crate::ops::infer_float;
use crate::ops::norm::is_finite;
use crate::samples::{Sample, Sampler};

fn positive(s: &mut Sampler) -> Vec<Sample> {
    vec![Sample::new(vec![s.float_in(0.2..4.0, [3, 5])])]
}

fn above_minus_one(s: &mut Sampler) -> Vec<Sample> {
    vec![Sample::new(vec![s.float_in(-0.8..3.0, [3, 5])])]
}

fn inside_one(s: &mut Sampler) -> Vec<Sample> {
    vec![Sample::new(vec![s.float_in(-0.9..0.9, [3, 5])])]
}

fn base_and_exponent(s: &mut Sampler) -> Vec<Sample> {
    vec![Sample::new(vec![s.float_in(0.3..3.0, [3, 4]), s.float_in(-2.0..2.0, [3, 4])])]
}

/// `x`, but no further from 0 than `limit`, beyond which what it is used for is 0 or 1: so that an infinity does not meet that
/// zero. The derivative is 0 there. NaN stays what it is.
pub(crate) fn levelled(x: Tensor<'_>, limit: f64) -> Tensor<'_> {
    x.abs().gt(x.constant_like(limit)).select(x.sign() * limit, x)
}

/// e to the power of x.
pub static EXP: OpDef = pointwise(
    "exp",
    "Exponential `eˣ`; at most 1 ulp off in f32.",
    1,
    OpTraits::MONOTONE,
    infer_float,
    |s, v, _| m::exp(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * cx.output)]),
    one,
);

/// e to the power of x, minus 1, accurate near 0.
pub static EXPM1: OpDef = pointwise(
    "expm1",
    "`eˣ - 1`, accurate near 0.",
    1,
    OpTraits::MONOTONE.with(OpTraits::ZERO_PRESERVING),
    infer_float,
    |s, v, _| m::expm1(s, v[0]),
    // Not from the value, which is rounded where it is close to -1.
    Vjp::Rule(|cx| smallvec![Some(cx.dy * cx.x().exp())]),
    one,
);

/// Natural logarithm.
pub static LOG: OpDef = pointwise(
    "log",
    "Natural logarithm; -inf at 0, NaN below; at most 1 ulp off in f32.",
    1,
    OpTraits::MONOTONE.with(OpTraits::POLE),
    infer_float,
    |s, v, _| m::log(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy / cx.x())]),
    positive,
);

/// Natural logarithm of 1 + x, accurate near 0.
pub static LOG1P: OpDef = pointwise(
    "log1p",
    "`log(1 + x)`, accurate near 0.",
    1,
    OpTraits::MONOTONE.with(OpTraits::ZERO_PRESERVING).with(OpTraits::POLE),
    infer_float,
    |s, v, _| m::log1p(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy / (cx.x() + 1.0))]),
    above_minus_one,
);

/// Square root.
pub static SQRT: OpDef = pointwise(
    "sqrt",
    "Square root, correctly rounded; NaN below 0. Of a sum of squares the derivative at 0 is taken as 0 (`sqrt_of_squares`).",
    1,
    OpTraits::MONOTONE.with(OpTraits::ZERO_PRESERVING).with(OpTraits::POLE),
    infer_float,
    |s, v, _| s.sqrt(v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * 0.5 / cx.output)]),
    positive,
);

/// Reciprocal square root.
pub static RSQRT: OpDef = pointwise(
    "rsqrt",
    "Reciprocal square root `1/√x`.",
    1,
    OpTraits::POLE,
    infer_float,
    |s, v, _| m::rsqrt(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * -0.5 * (cx.output / cx.x()))]),
    positive,
);

/// Hyperbolic tangent.
pub static TANH: OpDef = pointwise(
    "tanh",
    "Hyperbolic tangent.",
    1,
    OpTraits::ODD.with(OpTraits::MONOTONE).with(OpTraits::ZERO_PRESERVING),
    infer_float,
    |s, v, _| m::tanh(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * cx.x().tanh_slope())]),
    one,
);

/// The derivative of the hyperbolic tangent.
pub static TANH_SLOPE: OpDef = pointwise(
    "tanh_slope",
    "Derivative `1/cosh²(x)` of the hyperbolic tangent, accurate in both tails, where `1 - tanh²(x)` cancels.",
    1,
    OpTraits::EVEN,
    infer_float,
    |s, v, _| m::tanh_slope(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * -2.0 * (cx.output * cx.x().tanh()))]),
    one,
);

/// Logistic function.
pub static SIGMOID: OpDef = pointwise(
    "sigmoid",
    "Logistic function `1 / (1 + e⁻ˣ)`.",
    1,
    OpTraits::MONOTONE,
    infer_float,
    |s, v, _| m::sigmoid(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * cx.x().sigmoid_slope())]),
    one,
);

/// The derivative of the logistic function.
pub static SIGMOID_SLOPE: OpDef = pointwise(
    "sigmoid_slope",
    "Derivative `σ(x) · σ(-x)` of the logistic function, accurate in both tails.",
    1,
    OpTraits::EVEN,
    infer_float,
    |s, v, _| m::sigmoid_slope(s, v[0]),
    // σ'' = σ' · (1 - 2σ) = -σ' · tanh(x/2), the form that does not cancel at 0.
    Vjp::Rule(|cx| smallvec![Some(-(cx.dy * (cx.output * (cx.x() * 0.5).tanh())))]),
    one,
);

/// Error function.
pub static ERF: OpDef = pointwise(
    "erf",
    "Error function `2/√π ∫₀ˣ e^(-t²) dt`.",
    1,
    OpTraits::ODD.with(OpTraits::MONOTONE).with(OpTraits::ZERO_PRESERVING),
    infer_float,
    |s, v, _| m::erf(s, v[0]),
    Vjp::Rule(|cx| {
        let x = levelled(cx.x(), 30.0);
        smallvec![Some(cx.dy * (-(x * x)).exp() * (2.0 / PI.sqrt()))]
    }),
    one,
);

/// Inverse of the error function.
pub static ERF_INV: OpDef = pointwise(
    "erf_inv",
    "Inverse of the error function on (-1, 1).",
    1,
    OpTraits::ODD.with(OpTraits::MONOTONE).with(OpTraits::ZERO_PRESERVING).with(OpTraits::POLE),
    infer_float,
    |s, v, _| m::erf_inv(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * (cx.output * cx.output).exp() * (PI.sqrt() / 2.0))]),
    inside_one,
);

/// The distribution function of the standard normal distribution.
pub static NORMAL_CDF: OpDef = pointwise(
    "normal_cdf",
    "Distribution function `Φ(x) = ½ erfc(-x/√2)` of the standard normal distribution, accurate in the left tail.",
    1,
    OpTraits::NONE,
    infer_float,
    |s, v, _| m::normal_cdf(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * cx.x().normal_pdf())]),
    one,
);

/// The density of the standard normal distribution.
pub static NORMAL_PDF: OpDef = pointwise(
    "normal_pdf",
    "Density `e^(-x²/2)/√(2π)` of the standard normal distribution.",
    1,
    OpTraits::EVEN,
    infer_float,
    |s, v, _| m::normal_pdf(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(-(cx.dy * (levelled(cx.x(), 40.0) * cx.output)))]),
    one,
);

/// √s of a sum of squares.
pub static SQRT_OF_SQUARES: OpDef = OpDef {
    name: "sqrt_of_squares",
    doc: "Square root of a sum of squares: as `sqrt`, but the derivative at 0 is taken as 0, as that of `|x|` is. `stabilize` \
          puts it in the place of `sqrt` where the operand is a sum of squares.",
    arity: Arity::Exact(1),
    attrs: &[],
    traits: OpTraits::POINTWISE.with(OpTraits::ZERO_PRESERVING),
    infer: infer_float,
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (y, zero) = (cx.output, cx.dy.constant_like(0.0));
        smallvec![Some(y.eq(zero).select(zero, cx.dy * 0.5 / y))]
    }),
    lower: Lower::Expand(|cx| smallvec![cx.inputs[0].sqrt()]),
    samples: positive,
};

/// log(1 + eˣ) without overflow.
pub static SOFTPLUS: OpDef = pointwise(
    "softplus",
    "`log(1 + eˣ)`, computed as `max(x, 0) + log1p(e^(-|x|))`: no overflow.",
    1,
    OpTraits::MONOTONE,
    infer_float,
    |s, v, _| m::softplus(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * cx.x().sigmoid())]),
    one,
);

/// Sine.
pub static SIN: OpDef = pointwise(
    "sin",
    "Sine of an angle in radians.",
    1,
    OpTraits::ODD.with(OpTraits::ZERO_PRESERVING),
    infer_float,
    |s, v, _| m::sin(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(cx.dy * cx.x().cos())]),
    one,
);

/// Cosine.
pub static COS: OpDef = pointwise(
    "cos",
    "Cosine of an angle in radians.",
    1,
    OpTraits::EVEN,
    infer_float,
    |s, v, _| m::cos(s, v[0]),
    Vjp::Rule(|cx| smallvec![Some(-(cx.dy * cx.x().sin()))]),
    one,
);

/// Power.
pub static POW: OpDef = pointwise(
    "pow",
    "Power `aᵇ`; NaN for a negative base and a fractional exponent. The derivative by `a` is 0 where `b = 0`, that by `b` is 0 \
     where `a = 0` and `b ≥ 0`, and NaN where `a < 0`.",
    2,
    OpTraits::POLE,
    infer_float,
    |s, v, _| m::pow(s, v[0], v[1]),
    Vjp::Rule(|cx| {
        let (a, b) = (cx.inputs[0], cx.inputs[1]);
        let zero = a.constant_like(0.0);
        // Where 0 would meet an infinity; elsewhere the formula is 0 as well, and changes with the exponent.
        let power = a.pow(b - 1.0);
        let by_base = (b.eq(zero) & !(is_finite(power) & is_finite(a))).select(zero, cx.dy * b * power);
        let flat = a.eq(zero) & b.ge(zero);
        smallvec![Some(by_base), Some(flat.select(zero, cx.dy * (cx.output * a.log())))]
    }),
    base_and_exponent,
);

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[
    &EXP,
    &EXPM1,
    &LOG,
    &LOG1P,
    &SQRT,
    &SQRT_OF_SQUARES,
    &RSQRT,
    &TANH,
    &TANH_SLOPE,
    &SIGMOID,
    &SIGMOID_SLOPE,
    &ERF,
    &ERF_INV,
    &NORMAL_CDF,
    &NORMAL_PDF,
    &SOFTPLUS,
    &SIN,
    &COS,
    &POW,
];

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident, $op:ident;)*) => {
        impl<'g> Tensor<'g> {
            $($(#[$doc])* #[track_caller] pub fn $name(self) -> Tensor<'g> { self.unary(&$op) })*
        }
    };
}

methods! {
    /// Exponential.
    exp, EXP;
    /// Exponential minus 1, accurate near 0.
    expm1, EXPM1;
    /// Natural logarithm.
    log, LOG;
    /// Natural logarithm of 1 + x, accurate near 0.
    log1p, LOG1P;
    /// Square root.
    sqrt, SQRT;
    /// Reciprocal square root.
    rsqrt, RSQRT;
    /// Hyperbolic tangent.
    tanh, TANH;
    /// Logistic function.
    sigmoid, SIGMOID;
    /// Derivative of the hyperbolic tangent.
    tanh_slope, TANH_SLOPE;
    /// Derivative of the logistic function.
    sigmoid_slope, SIGMOID_SLOPE;
    /// Distribution function of the standard normal distribution.
    normal_cdf, NORMAL_CDF;
    /// Density of the standard normal distribution.
    normal_pdf, NORMAL_PDF;
    /// Error function.
    erf, ERF;
    /// Inverse error function.
    erf_inv, ERF_INV;
    /// log(1 + eˣ).
    softplus, SOFTPLUS;
    /// Sine.
    sin, SIN;
    /// Cosine.
    cos, COS;
}

impl<'g> Tensor<'g> {
    /// Power, with NumPy broadcasting.
    #[track_caller]
    pub fn pow(self, exponent: impl Operand<'g>) -> Tensor<'g> {
        self.binary(&POW, exponent.beside(self))
    }

    /// Power with a constant exponent; whole and half exponents that have cheaper forms use them.
    #[track_caller]
    pub fn powf(self, exponent: f64) -> Tensor<'g> {
        match exponent {
            1.0 => self,
            2.0 => self.square(),
            0.5 => self.sqrt(),
            -0.5 => self.rsqrt(),
            -1.0 => 1.0 / self,
            _ => self.pow(self.constant_like(exponent)),
        }
    }
}
