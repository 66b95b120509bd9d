//! What the accuracy test and the accuracy sweep share: the f32 functions, their references, and errors in ulp.
//!
//! The references are the f64 functions of the `libm` crate, whose errors are 2⁻²⁹ of an f32 ulp or so, and
//! compositions of them chosen so that no digits cancel. They share no code with the expansions.

use cotangent_scalar::eval::Registers;
use cotangent_scalar::{BodyBuilder, DType, ScalarBody, ValueId, math};

/// A function under test.
pub struct Case {
    /// Its name in reports.
    pub name: &'static str,
    /// What appends it to a body.
    pub build: fn(&mut BodyBuilder, ValueId) -> ValueId,
    /// Its reference.
    pub reference: fn(f64) -> f64,
    /// The largest error allowed, in ulp.
    pub limit: f64,
}

/// All functions of one f32 that are expansions.
pub const CASES: &[Case] = &[
    Case { name: "exp", build: math::exp, reference: libm::exp, limit: 1.0 },
    Case { name: "expm1", build: math::expm1, reference: libm::expm1, limit: 2.0 },
    Case { name: "log", build: math::log, reference: libm::log, limit: 1.0 },
    Case { name: "log1p", build: math::log1p, reference: libm::log1p, limit: 2.0 },
    Case { name: "tanh", build: math::tanh, reference: libm::tanh, limit: 3.0 },
    Case { name: "sigmoid", build: math::sigmoid, reference: sigmoid, limit: 3.0 },
    Case { name: "erf", build: math::erf, reference: libm::erf, limit: 3.0 },
    Case { name: "softplus", build: math::softplus, reference: softplus, limit: 3.0 },
    Case { name: "erf_inv", build: math::erf_inv, reference: erf_inv, limit: 4.0 },
    Case { name: "tanh_slope", build: math::tanh_slope, reference: tanh_slope, limit: 5.0 },
    Case { name: "sigmoid_slope", build: math::sigmoid_slope, reference: sigmoid_slope, limit: 5.0 },
    Case { name: "normal_pdf", build: math::normal_pdf, reference: normal_pdf, limit: 3.0 },
    Case { name: "normal_cdf", build: math::normal_cdf, reference: normal_cdf, limit: 7.0 },
    Case { name: "rsqrt", build: math::rsqrt, reference: rsqrt, limit: 1.5 },
];

/// The logistic function without overflow.
pub fn sigmoid(x: f64) -> f64 {
    let e = libm::exp(-x.abs());
    if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

/// 1/cosh²(x) without overflow.
pub fn tanh_slope(x: f64) -> f64 {
    4.0 * sigmoid_slope(2.0 * x)
}

/// σ(x)·σ(−x) without cancellation.
pub fn sigmoid_slope(x: f64) -> f64 {
    let e = libm::exp(-x.abs());
    e / ((1.0 + e) * (1.0 + e))
}

/// The density of the standard normal distribution; the square of an f32 is exact.
pub fn normal_pdf(x: f64) -> f64 {
    libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt()
}

/// The distribution function of the standard normal distribution.
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

/// log(1 + eˣ) without overflow.
pub fn softplus(x: f64) -> f64 {
    (if x < 0.0 { 0.0 } else { x }) + libm::log1p(libm::exp(-x.abs()))
}

fn rsqrt(x: f64) -> f64 {
    1.0 / x.sqrt()
}

/// The inverse error function by Newton's method on log(erfc), where it is nearly linear and convex.
pub fn erf_inv(x: f64) -> f64 {
    use std::f64::consts::PI;
    let magnitude = x.abs();
    if magnitude.is_nan() || magnitude > 1.0 {
        return f64::NAN;
    }
    if magnitude == 1.0 {
        return x * f64::INFINITY;
    }
    if magnitude < 1e-5 {
        // erf⁻¹(x) = ½√π·(x + π/12·x³ + …)
        return 0.5 * PI.sqrt() * (x + PI / 12.0 * x * x * x);
    }
    // For an f32 the difference is exact.
    let complement = 1.0 - magnitude;
    let mut y = (-libm::log(complement)).sqrt().min(magnitude * 2.0);
    for _ in 0..60 {
        let slope = -2.0 / PI.sqrt() * libm::exp(-y * y);
        // Near zero erf is the one with digits, in the tail erfc is.
        let step = if magnitude < 0.5 {
            (magnitude - libm::erf(y)) / slope
        } else {
            let value = libm::erfc(y);
            libm::log(value / complement) * value / slope
        };
        y -= step;
        if step.abs() <= 1e-15 * y {
            break;
        }
    }
    y.copysign(x)
}

/// The body of one function of input 0, and its result.
pub fn body_of(build: fn(&mut BodyBuilder, ValueId) -> ValueId, dtype: DType) -> (ScalarBody, ValueId) {
    let mut s = BodyBuilder::new();
    let x = s.input(0, dtype);
    let value = build(&mut s, x);
    let (body, roots) = s.finish(&[value]);
    (body, roots[0])
}

/// The error of `got` in units of the spacing of f32 at `want`; 0 for equal infinities and for two NaN, infinite for
/// a wrong special value or a wrong sign of zero.
pub fn error_ulp(got: f32, want: f64) -> f64 {
    if want.is_nan() || got.is_nan() {
        return if want.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    let rounded = want as f32;
    if rounded.is_infinite() || got.is_infinite() {
        if got == rounded {
            return 0.0;
        }
        // One of the two has overflowed: count from the last finite binade.
        let clamp = |v: f64| v.clamp(-(2f64.powi(128)), 2f64.powi(128));
        return (clamp(f64::from(got)) - clamp(want)).abs() / 2f64.powi(104);
    }
    if want == 0.0 && got == 0.0 && want.is_sign_negative() != got.is_sign_negative() {
        return f64::INFINITY;
    }
    let (_, exponent) = libm::frexp(want);
    let spacing = 2f64.powi((exponent - 24).max(-149));
    (f64::from(got) - want).abs() / spacing
}

/// The worst error of one function over some bit patterns, and where it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Worst {
    /// The error in ulp.
    pub ulp: f64,
    /// The argument.
    pub at: f32,
    /// What the body gave there.
    pub got: f32,
}

/// Runs a case over bit patterns, in blocks.
pub fn worst_over(case: &Case, patterns: impl Iterator<Item = u32>) -> Worst {
    const BLOCK: usize = 4096;
    let (body, root) = body_of(case.build, DType::F32);
    let mut registers = Registers::default();
    let mut worst = Worst::default();
    let mut patterns = patterns.peekable();
    let mut block: Vec<u32> = Vec::with_capacity(BLOCK);
    while patterns.peek().is_some() {
        block.clear();
        block.extend(patterns.by_ref().take(BLOCK));
        registers.run(&body, block.len(), |_, lanes| {
            for (lane, &bits) in lanes.iter_mut().zip(&block) {
                *lane = u64::from(bits);
            }
        });
        for (&bits, &out) in block.iter().zip(registers.lanes_of(root)) {
            let (x, got) = (f32::from_bits(bits), f32::from_bits(out as u32));
            let ulp = error_ulp(got, (case.reference)(f64::from(x)));
            if ulp > worst.ulp {
                worst = Worst { ulp, at: x, got };
            }
        }
    }
    worst
}
