//! The scalar functions with their derivatives of orders 1 and 2, written down from mathematics and from the table of
//! conventions in `docs/numerics.md`: nothing here is taken from the rules of the ops.

use cotangent_graph::ops::activation::{LEAKY_RELU, RELU};
use cotangent_graph::ops::arithmetic::{ABS, CEIL, FLOOR, NEG, ROUND, SIGN};
use cotangent_graph::ops::math::{
    COS, ERF, ERF_INV, EXP, EXPM1, LOG, LOG1P, NORMAL_CDF, NORMAL_PDF, RSQRT, SIGMOID, SIGMOID_SLOPE, SIN, SOFTPLUS,
    SQRT, SQRT_OF_SQUARES, TANH, TANH_SLOPE,
};
use cotangent_graph::ops::piecewise::{SOFTSIGN, THRESHOLD};
use cotangent_graph::{Attrs, OpDef};

use super::dd::Dd;

/// A function of one number at a point.
#[derive(Clone, Copy, Debug)]
pub struct Jet {
    /// The value.
    pub value: Dd,
    /// The derivative; `None` where it is zero whatever it is multiplied with, because nothing depends on the operand.
    pub first: Option<Dd>,
    /// The second derivative; `None` as above.
    pub second: Option<Dd>,
    /// How far from the point the function is about what it is there: to the next pole or kink, and less than what changes
    /// derivatives by much.
    pub radius: f64,
    /// What the program makes of it.
    pub kind: Kind,
    /// Whether the second derivative is left open by the table of conventions.
    pub is_open: bool,
    /// Whether the second derivative is a sum of terms of both signs.
    pub is_sum: bool,
}

/// How a function is computed, and what it is like at the end of its radius.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Without rounding; there is a kink.
    Kinked,
    /// Without rounding; there is a step.
    Stepped,
    /// With one rounding.
    Rounded,
    /// With several roundings.
    Approximate,
}

/// A function of one number.
pub type Function = fn(Dd, &Attrs) -> Jet;

fn smooth(value: Dd, first: Dd, second: Dd, radius: f64) -> Jet {
    Jet {
        value,
        first: Some(first),
        second: Some(second),
        radius,
        kind: Kind::Approximate,
        is_open: false,
        is_sum: false,
    }
}

fn step(x: Dd, f: fn(f64) -> f64, radius: f64) -> Jet {
    Jet { value: x.map(f), first: None, second: None, radius, kind: Kind::Stepped, is_open: false, is_sum: false }
}

fn kinked(value: Dd, first: Option<Dd>, x: Dd) -> Jet {
    Jet { value, first, second: None, radius: x.size(), kind: Kind::Kinked, is_open: false, is_sum: false }
}

/// The exponential of `-c|x|`, which never overflows.
fn decay(x: Dd, c: f64) -> Dd {
    (-(x.abs() * c)).exp()
}

fn logistic(x: Dd) -> Dd {
    let e = decay(x, 1.0);
    if x.to_f64() < 0.0 { e / (e + 1.0) } else { Dd::ONE / (e + 1.0) }
}

/// `1/cosh²(cx/2)`: for c = 2 the slope of tanh, for c = 1 four times that of the logistic function.
fn bump(x: Dd, c: f64) -> Dd {
    let e = decay(x, c);
    let one = e + 1.0;
    e * 4.0 / one / one
}

fn tanh(x: Dd) -> Dd {
    let e = (-(x.abs() * 2.0)).expm1();
    let t = -e / (e + 2.0);
    if x.to_f64().is_sign_negative() { -t } else { t }
}

/// The density of the standard normal distribution, 0 at the infinities.
fn density(x: Dd) -> Dd {
    let root = Dd::from(2.0).sqrt();
    (x / root).bell() / (root * Dd::sqrt_pi())
}

/// The product of a power of x and what vanishes faster than any.
fn faded(power: Dd, f: Dd) -> Dd {
    if f.is_zero() { f } else { power * f }
}

/// A function that is flat where a bell has vanished: by the table of conventions an infinity that meets its derivative of order
/// 2 there may be NaN or not.
fn under_bell(value: Dd, first: Dd, second: Dd, bell: Dd, x: Dd) -> Jet {
    Jet { is_open: bell.is_zero(), ..smooth(value, first, second, 1.0 / (1.0 + x.size())) }
}

fn to_half(x: Dd) -> f64 {
    let at = (x.to_f64() - 0.5).rem_euclid(1.0);
    at.min(1.0 - at)
}

fn to_whole(x: Dd) -> f64 {
    let at = x.to_f64().rem_euclid(1.0);
    at.min(1.0 - at)
}

/// All functions of one number that have a scalar program, and composites whose derivative is not that of their expansion.
pub static FUNCTIONS: &[(&OpDef, Function)] = &[
    (&NEG, |x, _| Jet { radius: f64::INFINITY, ..kinked(-x, Some(-Dd::ONE), x) }),
    (&ABS, |x, _| {
        let slope = if x.is_zero() { 0.0 } else { x.to_f64().signum() };
        kinked(x.abs(), Some(Dd::from(if x.is_nan() { f64::NAN } else { slope })), x)
    }),
    (&SIGN, |x, _| step(x, |x| if x == 0.0 || x.is_nan() { x } else { x.signum() }, x.size())),
    (&FLOOR, |x, _| step(x, f64::floor, to_whole(x))),
    (&CEIL, |x, _| step(x, f64::ceil, to_whole(x))),
    (&ROUND, |x, _| step(x, f64::round_ties_even, to_half(x))),
    (&THRESHOLD, |x, _| step(x, |x| f64::from(u8::from(x > 0.0)), x.size())),
    (&RELU, |x, _| {
        let above = x.to_f64() > 0.0;
        let value = if above || x.is_nan() { x } else { Dd::ZERO };
        kinked(value, above.then_some(Dd::ONE), x)
    }),
    (&LEAKY_RELU, |x, attrs| {
        let slope = Dd::from(if x.to_f64() > 0.0 { 1.0 } else { attrs.float("slope") });
        Jet { kind: Kind::Rounded, ..kinked(x * slope, Some(slope), x) }
    }),
    (&EXP, |x, _| smooth(x.exp(), x.exp(), x.exp(), 1.0)),
    (&EXPM1, |x, _| smooth(x.expm1(), x.exp(), x.exp(), 1.0)),
    (&LOG, |x, _| smooth(x.ln(), Dd::ONE / x, -(Dd::ONE / x / x), x.size())),
    (&LOG1P, |x, _| {
        let y = x + 1.0;
        smooth(x.log1p(), Dd::ONE / y, -(Dd::ONE / y / y), y.size())
    }),
    (&SQRT, |x, _| {
        let y = x.sqrt();
        let first = Dd::ONE / (y * 2.0);
        Jet { kind: Kind::Rounded, ..smooth(y, first, -(first / x / 2.0), x.size()) }
    }),
    (&SQRT_OF_SQUARES, length),
    (&SOFTSIGN, |x, _| {
        let one = Dd::ONE / (x.abs() + 1.0);
        let first = one * one;
        let sign = if x.is_zero() { 0.0 } else { x.to_f64().signum() };
        smooth(x * one, first, first * one * (-2.0 * sign), x.size())
    }),
    (&RSQRT, |x, _| {
        let y = Dd::ONE / x.sqrt();
        let first = -(y / x / 2.0);
        smooth(y, first, -(first / x * 1.5), x.size())
    }),
    (&TANH, |x, _| {
        let (t, slope) = (tanh(x), bump(x, 2.0));
        smooth(t, slope, t * slope * -2.0, 0.5)
    }),
    (&TANH_SLOPE, |x, _| {
        let (t, s) = (tanh(x), bump(x, 2.0));
        Jet { is_sum: true, ..smooth(s, t * s * -2.0, s * (t * t * 4.0 - s * 2.0), 0.5) }
    }),
    (&SIGMOID, |x, _| {
        let slope = bump(x, 1.0) / 4.0;
        smooth(logistic(x), slope, -(slope * tanh(x / 2.0)), 1.0)
    }),
    (&SIGMOID_SLOPE, |x, _| {
        let (s, t) = (bump(x, 1.0) / 4.0, tanh(x / 2.0));
        Jet { is_sum: true, ..smooth(s, -(s * t), s * (t * t - s * 2.0), 1.0) }
    }),
    (&SOFTPLUS, |x, _| {
        let value = if x.to_f64() > 0.0 { x + decay(x, 1.0).log1p() } else { x.exp().log1p() };
        smooth(value, logistic(x), bump(x, 1.0) / 4.0, 1.0)
    }),
    (&ERF, |x, _| {
        let slope = x.bell() * 2.0 / Dd::sqrt_pi();
        under_bell(x.erf(), slope, faded(x * -2.0, slope), slope, x)
    }),
    (&ERF_INV, |x, _| {
        let y = x.erf_inv();
        let slope = Dd::sqrt_pi() / 2.0 / y.bell();
        smooth(y, slope, y * 2.0 * slope * slope, (1.0 - x.size()).abs())
    }),
    (&NORMAL_CDF, |x, _| {
        let root = Dd::from(2.0).sqrt();
        let p = density(x);
        under_bell((-(x / root)).erfc() / 2.0, p, faded(-x, p), p, x)
    }),
    (&NORMAL_PDF, |x, _| {
        let p = density(x);
        Jet { is_sum: true, ..under_bell(p, faded(-x, p), faded(x * x + -1.0, p), p, x) }
    }),
    (&SIN, |x, _| {
        let (sin, cos) = x.sin_cos();
        smooth(sin, cos, -sin, 1.0)
    }),
    (&COS, |x, _| {
        let (sin, cos) = x.sin_cos();
        smooth(cos, -sin, -cos, 1.0)
    }),
];

/// The root of a sum of squares: at 0 it has, as `|x|` has, the derivative 0.
pub fn length(x: Dd, _: &Attrs) -> Jet {
    let y = x.sqrt();
    let slope = |slope: Dd| (!x.is_zero()).then_some(slope);
    let first = Dd::ONE / (y * 2.0);
    let second = slope(-(first / x / 2.0));
    Jet { first: slope(first), second, kind: Kind::Rounded, ..smooth(y, first, first, x.size()) }
}

/// A function of two numbers at a point: the value, and the derivatives by `a`, `b`, `aa`, `ab`, `bb`, as in [`Jet`].
#[derive(Clone, Copy, Debug)]
pub struct Jet2 {
    /// The value.
    pub value: Dd,
    /// The derivatives.
    pub slopes: [Option<Dd>; 5],
    /// As in [`Jet`], for each operand.
    pub radius: [f64; 2],
    /// What the program makes of it.
    pub kind: Kind,
    /// Whether the mixed derivative, and all of order 2, are left open by the table of conventions.
    pub is_open: [bool; 2],
    /// What the derivatives of order 2 are sums of, which cancels.
    pub spread: [f64; 3],
    /// How many times more than others derivatives are rounded.
    pub digits: f64,
    /// The sizes of what derivatives are made of.
    pub parts: [f64; 3],
}

impl Jet2 {
    fn rounded(value: Dd, slopes: [Option<Dd>; 5], radius: [f64; 2]) -> Self {
        let spread = [2, 3, 4].map(|k: usize| slopes[k].map_or(0.0, Dd::size));
        Jet2 { value, slopes, radius, kind: Kind::Rounded, is_open: [false; 2], spread, digits: 0.0, parts: [1.0; 3] }
    }
}

/// `a + b` or, with a sign, `a - b`.
pub fn sum(a: Dd, b: Dd, sign: f64) -> Jet2 {
    let slopes = [Some(Dd::ONE), Some(Dd::from(sign)), None, None, None];
    Jet2::rounded(a + b * sign, slopes, [f64::INFINITY; 2])
}

/// `a · b`.
pub fn product(a: Dd, b: Dd) -> Jet2 {
    let slopes = [Some(b), Some(a), None, Some(Dd::ONE), None];
    Jet2::rounded(a * b, slopes, [f64::INFINITY; 2])
}

/// `a · b` in a product of many with an infinity, in which it depends on the order what is of order 2.
pub fn infinite_product(a: Dd, b: Dd) -> Jet2 {
    Jet2 { is_open: [true; 2], ..product(a, b) }
}

/// `a / b`.
pub fn quotient(a: Dd, b: Dd) -> Jet2 {
    let (value, one) = (a / b, Dd::ONE / b);
    let slopes = [Some(one), Some(-(value / b)), None, Some(-(one / b)), Some(value / b / b * 2.0)];
    let parts = [if b.is_zero() { 1.0 } else { one.size() }, 1.0, 1.0];
    // Of an infinite numerator what is of order 2 is an infinity times what may vanish.
    let is_open = [false, !a.is_finite()];
    Jet2 { parts, is_open, ..Jet2::rounded(value, slopes, [f64::INFINITY, b.size()]) }
}

/// `a` to the power `b`. Where `a` is 0 or infinite a derivative is 0 by convention where the exponent says so.
pub fn power(a: Dd, b: Dd) -> Jet2 {
    let at_edge = a.is_zero() || !a.is_finite();
    // By the base: b · a^(b - 1).
    let by_base = |b: Dd| if b.is_zero() && at_edge { None } else { Some(b * a.pow(b + -1.0)) };
    // By the exponent: a^b · log a.
    let by_exponent = |b: Dd| if a.is_zero() && b.to_f64() >= 0.0 { None } else { Some(a.pow(b) * a.ln()) };
    let (first, second) = (by_base(b), by_exponent(b));
    let twice = match first {
        Some(_) if b == Dd::ONE && !at_edge => Some(Dd::ZERO),
        first => first.and(by_base(b + -1.0)).map(|slope| b * slope),
    };
    // Where a is 0 and b at most 1, it depends on the order.
    let is_open = [a.is_zero() && b.to_f64() <= 1.0, !a.is_finite()];
    let mixed = match second {
        _ if is_open[0] => Some(Dd::from(f64::NAN)),
        _ if a.is_zero() => Some(Dd::ZERO),
        _ => second.map(|_| a.pow(b + -1.0) * (b * a.ln() + 1.0)),
    };
    let slopes = [first, second, twice, mixed, second.map(|slope| slope * a.ln())];
    let log = if a.is_zero() { 0.0 } else { a.abs().ln().size() };
    // A negative base has whole exponents only.
    let by_exponent = if a.to_f64() < 0.0 { f64::MIN_POSITIVE } else { 1.0 / (1.0 + log) };
    let radius = [if a.is_zero() { 0.0 } else { (a.size() / (2.0 + b.size())).max(5e-324) }, by_exponent];
    let size = |slope: Option<Dd>| slope.map_or(0.0, Dd::size);
    let steep = size(first) * (1.0 + b.size()) / a.size();
    let spread = [steep, size(first) * (log + 1.0 / b.size()), size(second) * (1.0 + log)];
    // The exponent comes first, and is squared at order 2.
    let parts = [if at_edge { 1.0 } else { a.pow(b + -1.0).size() }, b.size(), b.size() * b.size()];
    // The exponent b - 1 is rounded.
    let digits = log * (2.0 + b.size());
    Jet2 { value: a.pow(b), slopes, radius, kind: Kind::Approximate, is_open, spread, digits, parts }
}
