//! Mathematical functions as expansions into scalar instructions.
//!
//! Every function takes a value of a floating type and appends what computes it. In f32 that is an expansion of our
//! own, branch-free, so that a vectorizing backend computes lanes side by side and every backend computes the same
//! bits; in f64 it is a call of the `libm` crate (or, for [`erf_inv`], which that crate lacks, a polynomial).
//!
//! The f32 expansions promise, over all inputs: NaN in, NaN out; limits at the infinities; signs of zeros; gradual
//! underflow of results; and the worst errors stated at each function in units in the last place (ulp), measured
//! by `benches/accuracy.rs` over every seventh f32 bit pattern. The counts are those of
//! [`ScalarBody::n_ops`](crate::ScalarBody::n_ops) on a body of one function; a vector unit needs fewer instructions,
//! since bit casts are free and `select(lt(a, b), a, b)` is one minimum.
//!
//! Two idioms recur:
//! * *Round by magic number.* Adding 1.5·2²³ to a small float leaves its nearest integer in the low bits of the sum,
//!   so shifting those bits left by 23 makes a power of two without a conversion.
//! * *Clamp with the constant first.* `select(lt(bound, x), bound, x)` keeps a NaN in `x`.
//!
//! Polynomials called "minimax" are weighted minimax fits computed by linear programming over 800 Chebyshev nodes,
//! rounding one coefficient at a time to f32 and fitting the others again. They belong to their intervals.

mod erf_inv;

use std::f64::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E, PI};

use crate::body::ValueId;
use crate::builder::BodyBuilder;
use crate::dtype::DType;
use crate::libm_call::LibmFn;

pub use erf_inv::erf_inv;

/// 1.5·2²³: its neighbors are one apart, on either side.
const MAGIC: f64 = 12_582_912.0;
/// The exponent bias of f32.
const BIAS: f64 = 127.0;
/// 1/√2's nearest f64 minus 1/√2.
const FRAC_1_SQRT_2_LOW: f64 = 4.833_646_656_726_457e-17;
/// ln 2 minus its nearest f32.
const LN_2_LOW: f64 = LN_2 - 0.693_147_182_464_599_6;

/// eʳ = 1 + r + r²·p(r) for |r| ≤ ½ ln 2, highest coefficient first: minimax of the relative error, 3.1e-9.
const EXP: [f64; 5] = [
    0.001_382_094_575_092_196_5,
    0.008_368_683_978_915_215,
    0.041_668_266_057_968_14,
    0.166_665_211_319_923_4,
    0.499_999_940_395_355_2,
];

/// eʳ − 1 = r + r²·p(r) for |r| ≤ ½ ln 2, highest coefficient first: minimax of the relative error, 1.4e-8.
const EXPM1: [f64; 5] = [
    0.001_387_065_742_165_050_2,
    0.008_366_261_608_898_64,
    0.041_667_435_318_231_58,
    0.166_665_464_639_663_7,
    0.499_999_970_197_677_6,
];

/// log(1 + f) = f + f²·p(f) for |f| ≤ ⅓, highest coefficient first: minimax of the relative error, 4.6e-9.
const LOG1P: [f64; 9] = [
    -0.128_826_886_415_481_57,
    0.139_852_672_815_322_88,
    -0.121_868_118_643_760_68,
    0.140_056_222_677_230_83,
    -0.166_802_510_619_163_5,
    0.200_104_311_108_589_17,
    -0.249_998_047_947_883_6,
    0.333_332_151_174_545_3,
    -0.5,
];

/// −log(erfc(t)) = 1.125·t + t·p(t) for 0 ≤ t ≤ 4, highest coefficient first: minimax of the relative error in
/// erf(t), 3.6e-8. The leading 1.125 of 2/√π = 1.1284 is exact, which saves most of the rounding near zero.
const ERF: [f64; 8] = [
    4.051_759_242_429_398e-5,
    -0.000_379_828_183_213_248_85,
    0.001_249_021_384_865_045_5,
    0.000_208_714_220_207_184_55,
    -0.019_323_315_471_410_75,
    0.102_814_786_136_150_36,
    0.636_616_468_429_565_4,
    0.003_379_207_104_444_504,
];

/// Φ(−t)·e^(t²/2) = p(t)/q(t) for 0 ≤ t ≤ 14.6, below which Φ(−t) is not 0 in f32: p, highest coefficient first. Minimax of the
/// relative error by iteratively reweighted least squares, 1.4e-8.
const NORMAL_TAIL_P: [f64; 5] =
    [0.004_093_008_115_887_642, 0.040_493_402_630_090_714, 0.182_845_219_969_749_45, 0.437_807_768_583_297_73, 0.5];

/// The denominator q beside [`NORMAL_TAIL_P`].
const NORMAL_TAIL_Q: [f64; 6] = [
    0.010_259_529_575_705_528,
    0.101_508_401_334_285_74,
    0.468_433_648_347_854_6,
    1.200_946_807_861_328_1,
    1.673_500_299_453_735_4,
    1.0,
];

/// The polynomial at `x`, highest coefficient first.
fn horner(s: &mut BodyBuilder, x: ValueId, coefficients: &[f64]) -> ValueId {
    let (first, others) = coefficients.split_first().unwrap_or((&0.0, &[]));
    let mut sum = s.like(*first, x);
    for &coefficient in others {
        let coefficient = s.like(coefficient, x);
        sum = s.fma(sum, x, coefficient);
    }
    sum
}

/// `x`, but at most `bound`; NaN stays.
fn at_most(s: &mut BodyBuilder, x: ValueId, bound: f64) -> ValueId {
    let bound = s.like(bound, x);
    let above = s.lt(bound, x);
    s.select(above, bound, x)
}

/// `x`, but at least `bound`; NaN stays.
fn at_least(s: &mut BodyBuilder, x: ValueId, bound: f64) -> ValueId {
    let bound = s.like(bound, x);
    let below = s.lt(x, bound);
    s.select(below, bound, x)
}

fn int(s: &mut BodyBuilder, bits: u32) -> ValueId {
    s.const_from_bits(u64::from(bits), DType::I32)
}

/// The float of exponent field `e` (low eight bits; the ninth must be 0): 2^(e − 127).
fn power_of_two(s: &mut BodyBuilder, e: ValueId) -> ValueId {
    let places = int(s, 23);
    let bits = s.shl(e, places);
    s.bitcast(bits, DType::F32)
}

/// `magnitude` (not negative, or of the sign of `x` already) with the sign of `x`.
fn with_sign_of(s: &mut BodyBuilder, magnitude: ValueId, x: ValueId) -> ValueId {
    let mask = int(s, 0x8000_0000);
    let (bits, source) = (s.bitcast(magnitude, DType::I32), s.bitcast(x, DType::I32));
    let sign = s.and(source, mask);
    let bits = s.or(bits, sign);
    s.bitcast(bits, DType::F32)
}

/// x = n·ln 2 + r: what the exponentials share.
struct Reduced {
    /// The integer n plus the offset asked for, in the low bits (an `I32`).
    n_bits: ValueId,
    /// The remainder, |r| ≤ ½ ln 2.
    r: ValueId,
}

/// How exactly the remainder of the reduction is needed.
#[derive(Clone, Copy, PartialEq)]
enum Precision {
    /// ln 2 in one constant: an error of n · 1.9e-9 in the remainder, for small |n|.
    Single,
    /// ln 2 in two constants (Cody and Waite).
    Double,
}

/// Reduces `sign · x` by multiples of ln 2. For `sign` = −1 the remainder is also negated:
/// −x = n·ln 2 − r, which spares the negation of `x`.
fn reduce(s: &mut BodyBuilder, x: ValueId, sign: f64, offset: f64, precision: Precision) -> Reduced {
    let (scale, magic) = (s.like(sign * LOG2_E, x), s.like(MAGIC + offset, x));
    let shifted = s.fma(x, scale, magic);
    let n = s.sub(shifted, magic);
    let high = s.like(-sign * LN_2, x);
    let mut r = s.fma(n, high, x);
    if precision == Precision::Double {
        let low = s.like(-sign * LN_2_LOW, x);
        r = s.fma(n, low, r);
    }
    Reduced { n_bits: s.bitcast(shifted, DType::I32), r }
}

/// 2ⁿ as a product of two floats, each far from overflow and underflow: scaling by one after the other rounds
/// once, also where the result is subnormal. `n_bits` must carry the offset 254.
fn halves(s: &mut BodyBuilder, n_bits: ValueId) -> (ValueId, ValueId, ValueId) {
    let one = int(s, 1);
    // Of n + 254 the halves are the exponent fields of 2^⌊n/2⌋ and 2^⌈n/2⌉; the bits of the magic number stay
    // above the ninth.
    let half = s.shr_u(n_bits, one);
    let rest = s.sub(n_bits, half);
    (half, power_of_two(s, half), power_of_two(s, rest))
}

/// eʳ for |r| ≤ ½ ln 2.
fn exp_polynomial(s: &mut BodyBuilder, r: ValueId) -> ValueId {
    let mut p = horner(s, r, &EXP);
    let one = s.like(1.0, r);
    p = s.fma(p, r, one);
    s.fma(p, r, one)
}

/// e^x for `x` at most 0. From −104 down, where the result underflows to 0, it is that of −104.
///
/// The bits are those of [`exp`] for fewer instructions: 2ⁿ·p is one product with 2^(n + 65), exact since n is −150 at least, and
/// one with 2⁻⁶⁵, which rounds.
fn exp_not_positive(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    let x = at_least(s, x, -104.0);
    // The offset is even, as that of `exp`, so that ties go to the same n.
    let Reduced { n_bits, r } = reduce(s, x, 1.0, BIAS + 65.0, Precision::Double);
    let p = exp_polynomial(s, r);
    let (power, rest) = (power_of_two(s, n_bits), s.like(2f64.powi(-65), x));
    let p = s.mul(p, power);
    s.mul(p, rest)
}

/// e to the power of `x`.
///
/// f32: 0.89 ulp, 23 instructions (18 in a vector unit); 17 (14) if the builder knows that `x` is not above 0.
pub fn exp(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    if s.dtype(x) != DType::F32 {
        return s.call(LibmFn::Exp, &[x]);
    }
    if s.is_not_positive(x) {
        return exp_not_positive(s, x);
    }
    // Beyond these the result underflows to 0, or overflows.
    let x = at_least(s, x, -104.0);
    let x = at_most(s, x, 89.0);
    let Reduced { n_bits, r } = reduce(s, x, 1.0, 2.0 * BIAS, Precision::Double);
    let p = exp_polynomial(s, r);
    let (_, first, second) = halves(s, n_bits);
    let p = s.mul(p, first);
    s.mul(p, second)
}

/// eʳ − 1 near zero: r + r²·p(r).
fn expm1_polynomial(s: &mut BodyBuilder, r: ValueId) -> ValueId {
    let p = horner(s, r, &EXPM1);
    let square = s.mul(r, r);
    s.fma(square, p, r)
}

/// e to the power of `x`, minus 1, accurate near zero.
///
/// f32: 1.51 ulp, 23 instructions (19 in a vector unit).
pub fn expm1(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    if s.dtype(x) != DType::F32 {
        return s.call(LibmFn::Expm1, &[x]);
    }
    let y = at_least(s, x, -20.0);
    let y = at_most(s, y, 89.0);
    // The power is halved, and the result doubled, because n = 128 occurs for finite results.
    let Reduced { n_bits, r } = reduce(s, y, 1.0, BIAS - 1.0, Precision::Double);
    let p = expm1_polynomial(s, r);
    let power = power_of_two(s, n_bits);
    let minus_half = s.like(-0.5, x);
    let start = s.add(power, minus_half);
    let half = s.fma(power, p, start);
    let value = s.add(half, half);
    // Halving has cost subnormals a bit, and a zero its sign; below 2⁻²⁴ the result is x anyway.
    let tiny = s.like(2f64.powi(-24), x);
    let magnitude = s.abs(x);
    let is_tiny = s.lt(magnitude, tiny);
    s.select(is_tiny, x, value)
}

/// The exponent that brings a positive float between ⅔ and 4⁄3, in place (an `I32`, a multiple of 2²³).
fn exponent_in_place(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    let (offset, mask) = (int(s, (2f32 / 3.0).to_bits()), int(s, 0xff80_0000));
    let bits = s.bitcast(x, DType::I32);
    let shifted = s.sub(bits, offset);
    s.and(shifted, mask)
}

/// e·2⁻²³·ln 2 + log(1 + f), `e` an exponent in place, plus `extra` in units of ln 2 if there is one.
fn log_of_parts(s: &mut BodyBuilder, e: ValueId, extra: Option<ValueId>, f: ValueId) -> ValueId {
    let unit = s.like(2f64.powi(-23), f);
    let e = s.cast(e, DType::F32);
    let p = horner(s, f, &LOG1P);
    let square = s.mul(f, f);
    let small = s.fma(p, square, f);
    match extra {
        Some(extra) => {
            let n = s.fma(e, unit, extra);
            let ln_2 = s.like(LN_2, f);
            s.fma(n, ln_2, small)
        }
        None => {
            // The product of a power of two and the constant is exact.
            let ln_2 = s.like(f64::from(LN_2 as f32) * 2f64.powi(-23), f);
            s.fma(e, ln_2, small)
        }
    }
}

/// log(x) for a positive normal `x`, plus `extra` in units of ln 2 if there is one.
fn log_of_normal(s: &mut BodyBuilder, x: ValueId, extra: Option<ValueId>) -> ValueId {
    let e = exponent_in_place(s, x);
    let bits = s.bitcast(x, DType::I32);
    let bits = s.sub(bits, e);
    let m = s.bitcast(bits, DType::F32);
    let one = s.like(1.0, x);
    let f = s.sub(m, one);
    log_of_parts(s, e, extra, f)
}

/// What a logarithm gives outside its domain: `value` where `x` is above `pole` and finite, −∞ at the pole, NaN
/// below it, and `x` where it is +∞ or NaN.
fn log_limits(s: &mut BodyBuilder, value: ValueId, x: ValueId, pole: f64) -> ValueId {
    let (pole, infinity) = (s.like(pole, x), s.like(f64::INFINITY, x));
    let (minus_infinity, nan) = (s.like(f64::NEG_INFINITY, x), s.like(f64::NAN, x));
    let finite = s.lt(x, infinity);
    let value = s.select(finite, value, x);
    let below = s.lt(x, pole);
    let outside = s.select(below, nan, minus_infinity);
    let is_outside = s.le(x, pole);
    s.select(is_outside, outside, value)
}

/// Natural logarithm.
///
/// f32: 0.94 ulp, 29 instructions (27 in a vector unit).
pub fn log(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    if s.dtype(x) != DType::F32 {
        return s.call(LibmFn::Log, &[x]);
    }
    // Subnormals are scaled into the normal range.
    let (least, scale) = (s.like(f64::from(f32::MIN_POSITIVE), x), s.like(2f64.powi(23), x));
    let (shift, zero) = (s.like(-23.0, x), s.like(0.0, x));
    let is_small = s.lt(x, least);
    let scaled = s.mul(x, scale);
    let normal = s.select(is_small, scaled, x);
    let extra = s.select(is_small, shift, zero);

    let value = log_of_normal(s, normal, Some(extra));
    log_limits(s, value, x, 0.0)
}

/// log(1 + x) for finite `x` above −1; a negative zero loses its sign.
fn log1p_in_range(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    let (one, quarter, minus_one) = (s.like(1.0, x), s.like(0.25, x), s.like(-1.0, x));
    // The exponent comes from the rounded 1 + x, but (1 + x)·2^−e − 1 is put together from its exact parts.
    let sum = s.add(x, one);
    let e = exponent_in_place(s, sum);
    let bits = s.bitcast(x, DType::I32);
    let bits = s.sub(bits, e);
    let scaled = s.bitcast(bits, DType::F32);
    // Four times 2^−e stays normal where 2^−e would not.
    let four = int(s, 4f32.to_bits());
    let bits = s.sub(four, e);
    let power = s.bitcast(bits, DType::F32);
    let rest = s.fma(power, quarter, minus_one);
    let f = s.add(scaled, rest);
    log_of_parts(s, e, None, f)
}

/// log(1 + x), accurate near zero.
///
/// f32: 1.53 ulp, 33 instructions (27 in a vector unit).
pub fn log1p(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    if s.dtype(x) != DType::F32 {
        return s.call(LibmFn::Log1p, &[x]);
    }
    let value = log1p_in_range(s, x);
    let value = with_sign_of(s, value, x);
    log_limits(s, value, x, -1.0)
}

/// Hyperbolic tangent, as t / (t + 2) with t = e²ˣ − 1.
///
/// f32: 2.54 ulp, 25 instructions (19 in a vector unit).
pub fn tanh(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    if s.dtype(x) != DType::F32 {
        return s.call(LibmFn::Tanh, &[x]);
    }
    // From 9.02 on the result rounds to 1; at 10 the formula gives it exactly.
    let magnitude = s.abs(x);
    let magnitude = at_most(s, magnitude, 10.0);
    let twice = s.add(magnitude, magnitude);
    let Reduced { n_bits, r } = reduce(s, twice, 1.0, BIAS, Precision::Single);
    let p = expm1_polynomial(s, r);
    let power = power_of_two(s, n_bits);
    let (minus_one, two) = (s.like(-1.0, x), s.like(2.0, x));
    let start = s.add(power, minus_one);
    let t = s.fma(power, p, start);
    let divisor = s.add(t, two);
    let value = s.div(t, divisor);
    with_sign_of(s, value, x)
}

/// The derivative of the hyperbolic tangent, 1/cosh²(x) = 4e^(−2|x|) / (1 + e^(−2|x|))², accurate in both tails: 1 − tanh²(x) would
/// cancel.
///
/// f32: 4.04 ulp, 24 instructions.
pub fn tanh_slope(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    let magnitude = s.abs(x);
    let twice = s.add(magnitude, magnitude);
    let minus = s.neg(twice);
    let e = if s.dtype(x) == DType::F32 { exp_not_positive(s, minus) } else { s.call(LibmFn::Exp, &[minus]) };
    let (one, four) = (s.like(1.0, x), s.like(4.0, x));
    let divisor = s.add(e, one);
    let square = s.mul(divisor, divisor);
    let numerator = s.mul(e, four);
    s.div(numerator, square)
}

/// The logistic function 1 / (1 + e^−x), accurate in both tails.
///
/// f32: 2.47 ulp, 24 instructions (19 in a vector unit).
pub fn sigmoid(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    let one = s.like(1.0, x);
    if s.dtype(x) != DType::F32 {
        // e^−|x| cannot overflow, so that the left tail ends in subnormals and not in an early 0.
        let magnitude = s.abs(x);
        let minus = s.neg(magnitude);
        let e = s.call(LibmFn::Exp, &[minus]);
        let zero = s.like(0.0, x);
        let negative = s.lt(x, zero);
        let numerator = s.select(negative, e, one);
        let divisor = s.add(e, one);
        return s.div(numerator, divisor);
    }
    let Logistic { numerator, divisor, .. } = logistic(s, x);
    s.div(numerator, divisor)
}

/// σ(x) = numerator / divisor and σ(−x) = p·power / divisor in f32, no part of which overflows.
struct Logistic {
    numerator: ValueId,
    p: ValueId,
    power: ValueId,
    divisor: ValueId,
}

fn logistic(s: &mut BodyBuilder, x: ValueId) -> Logistic {
    let one = s.like(1.0, x);
    let x = at_least(s, x, -104.0);
    let x = at_most(s, x, 104.0);
    // e^−x = 2ⁿ·p; with h = ⌊n/2⌋ both parts of 2^−h / (2^−h + 2^(n−h)·p) are in range for every n.
    let Reduced { n_bits, r } = reduce(s, x, -1.0, 2.0 * BIAS, Precision::Double);
    let mut p = horner(s, r, &alternating(&EXP, 1.0));
    let minus_one = s.like(-1.0, x);
    p = s.fma(p, r, minus_one);
    p = s.fma(p, r, one);
    let (half, _, power) = halves(s, n_bits);
    let bias = int(s, 254);
    let opposite = s.sub(bias, half);
    let numerator = power_of_two(s, opposite);
    let divisor = s.fma(p, power, numerator);
    Logistic { numerator, p, power, divisor }
}

/// The derivative of the logistic function, σ(x)·σ(−x), accurate in both tails: 1 − σ(x) would cancel in one of them.
///
/// f32: 4.24 ulp, 27 instructions, of which 3 are its own where the function itself is computed too.
pub fn sigmoid_slope(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    if s.dtype(x) != DType::F32 {
        let (magnitude, one) = (s.abs(x), s.like(1.0, x));
        let minus = s.neg(magnitude);
        let e = s.call(LibmFn::Exp, &[minus]);
        let divisor = s.add(e, one);
        let square = s.mul(divisor, divisor);
        return s.div(e, square);
    }
    let Logistic { numerator, p, power, divisor } = logistic(s, x);
    let other = s.mul(p, power);
    let (value, rest) = (s.div(numerator, divisor), s.div(other, divisor));
    s.mul(value, rest)
}

/// The coefficients of `sign · p(−x)`, for p given by its coefficients, highest first.
fn alternating<const N: usize>(coefficients: &[f64; N], sign: f64) -> [f64; N] {
    std::array::from_fn(
        |i| if (N - 1 - i).is_multiple_of(2) { sign * coefficients[i] } else { -sign * coefficients[i] },
    )
}

/// log(1 + eˣ), as max(x, 0) + log(1 + e^−|x|).
///
/// f32: 1.97 ulp, 45 instructions (37 in a vector unit).
pub fn softplus(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    let magnitude = s.abs(x);
    let minus = s.neg(magnitude);
    let tail = if s.dtype(x) == DType::F32 {
        let e = exp_not_positive(s, minus);
        log1p_in_range(s, e)
    } else {
        let e = s.call(LibmFn::Exp, &[minus]);
        s.call(LibmFn::Log1p, &[e])
    };
    let positive = at_least(s, x, 0.0);
    s.add(positive, tail)
}

/// The error function, as 1 − e^−h with h = −log(erfc(|x|)), a polynomial.
///
/// f32: 2.31 ulp, 31 instructions (25 in a vector unit).
pub fn erf(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    if s.dtype(x) != DType::F32 {
        return s.call(LibmFn::Erf, &[x]);
    }
    // From 3.92 on the result rounds to 1.
    let t = s.abs(x);
    let t = at_most(s, t, 4.0);
    let p = horner(s, t, &ERF);
    let rest = s.mul(p, t);
    let leading = s.like(1.125, x);
    let h = s.fma(t, leading, rest);
    // −h = n·ln 2 − r, and 1 − e^−h = (1 − 2ⁿ) + 2ⁿ·(1 − e^−r).
    let Reduced { n_bits, r } = reduce(s, h, -1.0, BIAS, Precision::Single);
    let q = horner(s, r, &alternating(&EXPM1, -1.0));
    let square = s.mul(r, r);
    let q = s.fma(square, q, r);
    let power = power_of_two(s, n_bits);
    let one = s.like(1.0, x);
    let start = s.sub(one, power);
    let value = s.fma(power, q, start);
    with_sign_of(s, value, x)
}

/// |x|, but at most `bound`, where e^(−x²/2) is 0; and e^(−x²/2).
///
/// The rounding of the square is made up for: it alone would cost x²/2 half-ulps.
fn gaussian(s: &mut BodyBuilder, x: ValueId, bound: f64) -> (ValueId, ValueId) {
    let t = s.abs(x);
    let t = at_most(s, t, bound);
    let (square, minus_half) = (s.mul(t, t), s.like(-0.5, x));
    let minus = s.neg(square);
    let rest = s.fma(t, t, minus);
    let half = s.mul(square, minus_half);
    let e = if s.dtype(x) == DType::F32 { exp_not_positive(s, half) } else { s.call(LibmFn::Exp, &[half]) };
    let change = s.mul(rest, minus_half);
    (t, s.fma(e, change, e))
}

/// The density of the standard normal distribution, e^(−x²/2)/√(2π).
///
/// f32: 2.64 ulp, 27 instructions.
pub fn normal_pdf(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    let bound = if s.dtype(x) == DType::F32 { 15.0 } else { 40.0 };
    let (_, e) = gaussian(s, x, bound);
    let scale = s.like(1.0 / (2.0 * PI).sqrt(), x);
    s.mul(e, scale)
}

/// The distribution function of the standard normal distribution, accurate in the left tail.
///
/// f32: 5.89 ulp, 40 instructions.
pub fn normal_cdf(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    if s.dtype(x) != DType::F32 {
        return normal_cdf_f64(s, x);
    }
    let (t, e) = gaussian(s, x, 15.0);
    let (p, q) = (horner(s, t, &NORMAL_TAIL_P), horner(s, t, &NORMAL_TAIL_Q));
    let ratio = s.div(p, q);
    let tail = s.mul(e, ratio);
    let (zero, one) = (s.like(0.0, x), s.like(1.0, x));
    let upper = s.sub(one, tail);
    let is_left = s.lt(x, zero);
    s.select(is_left, tail, upper)
}

/// ½ erfc(z), z = −x/√2, with the rounding error of z made up for: in the tail it counts 2z² times.
fn normal_cdf_f64(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    // -1/√2 in two parts.
    let (high, low) = (s.like(-FRAC_1_SQRT_2, x), s.like(FRAC_1_SQRT_2_LOW, x));
    let x = at_least(s, x, -40.0);
    let x = at_most(s, x, 40.0);
    let z = s.mul(x, high);
    let minus = s.neg(z);
    let rest = s.fma(x, high, minus);
    let rest = s.fma(x, low, rest);
    let minus_square = s.mul(z, minus);
    let (tail, e) = (s.call(LibmFn::Erfc, &[z]), s.call(LibmFn::Exp, &[minus_square]));
    let (half, slope) = (s.like(0.5, x), s.like(-1.0 / PI.sqrt(), x));
    let (tail, e) = (s.mul(tail, half), s.mul(e, slope));
    s.fma(e, rest, tail)
}

/// `1 / sqrt(x)`, rounded twice: 1.5 ulp, 2 instructions.
pub fn rsqrt(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    let one = s.like(1.0, x);
    let root = s.sqrt(x);
    s.div(one, root)
}

/// Sine of an angle in radians (a call in both precisions).
pub fn sin(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    s.call(LibmFn::Sin, &[x])
}

/// Cosine of an angle in radians (a call in both precisions).
pub fn cos(s: &mut BodyBuilder, x: ValueId) -> ValueId {
    s.call(LibmFn::Cos, &[x])
}

/// `x` to the power of `y` (a call in both precisions).
pub fn pow(s: &mut BodyBuilder, x: ValueId, y: ValueId) -> ValueId {
    s.call(LibmFn::Pow, &[x, y])
}
