//! Double-double numbers: an unevaluated sum of two f64, about 106 bits, with the exponents of f64 (Dekker 1971).
//!
//! They exist so that derivatives in f64 have something better to be compared with. Infinities, NaN and the sign of zeros are
//! those of f64. Functions are good to about 1e-29 of their value, but near the ends of the exponents, where the lower half is
//! subnormal, and for `sin` and `cos` beyond 1e5, which are those of f64.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// A number `hi + lo`, where `lo` is at most half a unit in the last place of `hi`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Dd {
    hi: f64,
    lo: f64,
}

const LN_2: Dd = Dd { hi: std::f64::consts::LN_2, lo: 2.319_046_813_846_299_6e-17 };
const PI: Dd = Dd { hi: std::f64::consts::PI, lo: 1.224_646_799_147_353_2e-16 };
const HALF_PI: Dd = Dd { hi: std::f64::consts::FRAC_PI_2, lo: 6.123_233_995_736_766e-17 };

/// Beyond this, angles are reduced by the functions of f64.
const FAR: f64 = 1e5;

impl From<f64> for Dd {
    fn from(value: f64) -> Self {
        Dd { hi: value, lo: 0.0 }
    }
}

/// `a + b`, where `a` is the larger or the sum is not finite.
fn quick(a: f64, b: f64) -> Dd {
    let sum = a + b;
    if !sum.is_finite() || b == 0.0 { Dd::from(sum) } else { Dd { hi: sum, lo: b - (sum - a) } }
}

/// `a + b` and its rounding error.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let rest = sum - a;
    (sum, (a - (sum - rest)) + (b - rest))
}

impl Add for Dd {
    type Output = Dd;
    fn add(self, other: Dd) -> Dd {
        let (hi, e) = two_sum(self.hi, other.hi);
        if !hi.is_finite() || (self.lo == 0.0 && other.lo == 0.0 && e == 0.0) {
            return Dd::from(hi);
        }
        let (lo, f) = two_sum(self.lo, other.lo);
        let first = quick(hi, e + lo);
        quick(first.hi, first.lo + f)
    }
}

impl Neg for Dd {
    type Output = Dd;
    fn neg(self) -> Dd {
        Dd { hi: -self.hi, lo: -self.lo }
    }
}

impl Sub for Dd {
    type Output = Dd;
    fn sub(self, other: Dd) -> Dd {
        self + -other
    }
}

impl Mul for Dd {
    type Output = Dd;
    fn mul(self, other: Dd) -> Dd {
        let product = self.hi * other.hi;
        if product == 0.0 || !product.is_finite() {
            return Dd::from(product);
        }
        let rest = self.hi.mul_add(other.hi, -product);
        quick(product, rest + (self.hi * other.lo + self.lo * other.hi))
    }
}

impl Mul<f64> for Dd {
    type Output = Dd;
    fn mul(self, other: f64) -> Dd {
        self * Dd::from(other)
    }
}

impl Add<f64> for Dd {
    type Output = Dd;
    fn add(self, other: f64) -> Dd {
        self + Dd::from(other)
    }
}

impl Div for Dd {
    type Output = Dd;
    fn div(self, other: Dd) -> Dd {
        let first = self.hi / other.hi;
        if first == 0.0 || !first.is_finite() || !other.hi.is_finite() {
            return Dd::from(first);
        }
        let rest = self - other * first;
        let second = rest.hi / other.hi;
        let third = (rest - other * second).hi / other.hi;
        if !second.is_finite() || !third.is_finite() {
            return Dd::from(first);
        }
        quick(first, second) + third
    }
}

impl Div<f64> for Dd {
    type Output = Dd;
    fn div(self, other: f64) -> Dd {
        self / Dd::from(other)
    }
}

/// 2 to a power, of any size.
fn scaled(x: Dd, power: i32) -> Dd {
    let half = power / 2;
    let (a, b) = (2f64.powi(half), 2f64.powi(power - half));
    Dd { hi: x.hi * a * b, lo: x.lo * a * b }
}

impl Dd {
    /// Zero.
    pub const ZERO: Dd = Dd { hi: 0.0, lo: 0.0 };
    /// One.
    pub const ONE: Dd = Dd { hi: 1.0, lo: 0.0 };

    /// The nearest f64.
    pub fn to_f64(self) -> f64 {
        self.hi
    }

    /// The magnitude, as f64.
    pub fn size(self) -> f64 {
        self.hi.abs()
    }

    /// The magnitude.
    pub fn abs(self) -> Dd {
        if self.hi.is_sign_negative() { -self } else { self }
    }

    /// Whether it is neither infinite nor NaN.
    pub fn is_finite(self) -> bool {
        self.hi.is_finite()
    }

    /// Whether it is not a number.
    pub fn is_nan(self) -> bool {
        self.hi.is_nan()
    }

    /// Whether it is 0, of either sign.
    pub fn is_zero(self) -> bool {
        self.hi == 0.0
    }

    /// What a function of f64 makes of it, where it is exact or where nothing better is asked for.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Dd {
        Dd::from(f(self.hi))
    }

    /// Rounded down.
    pub fn floor(self) -> Dd {
        let hi = self.hi.floor();
        if hi == self.hi { quick(hi, self.lo.floor()) } else { Dd::from(hi) }
    }

    /// The square root.
    pub fn sqrt(self) -> Dd {
        let root = self.hi.sqrt();
        if root == 0.0 || !root.is_finite() {
            return Dd::from(root);
        }
        // Scaled, so that the remainder is not subnormal.
        let power = if self.hi < 1e-200 { 400 } else { 0 };
        let (x, root) = (scaled(self, power), root * 2f64.powi(power / 2));
        let rest = x - Dd::from(root) * root;
        scaled(quick(root, rest.hi / (2.0 * root)), -power / 2)
    }

    /// `e^x - 1` for a small x.
    fn small_expm1(self) -> Dd {
        let r = scaled(self, -9);
        let (mut term, mut sum) = (r, r);
        for k in 2..=12 {
            term = term * r / f64::from(k);
            sum = sum + term;
        }
        (0..9).fold(sum, |sum, _| sum * 2.0 + sum * sum)
    }

    /// The exponential.
    pub fn exp(self) -> Dd {
        if !(-746.0..=710.0).contains(&self.hi) {
            return Dd::from(self.hi.exp());
        }
        let power = (self.hi / LN_2.hi).round();
        let result = scaled((self - LN_2 * power).small_expm1() + 1.0, power as i32);
        if result.hi.is_finite() { result } else { Dd::from(f64::INFINITY) }
    }

    /// `e^x - 1`.
    pub fn expm1(self) -> Dd {
        if self.is_zero() {
            return self;
        }
        if self.size() < 0.3 { self.small_expm1() } else { self.exp() + -1.0 }
    }

    /// `log(1 + x)`.
    pub fn log1p(self) -> Dd {
        if self.is_zero() {
            return self;
        }
        if self.size() >= 0.1 || self.is_nan() {
            return (self + 1.0).ln();
        }
        // 2 artanh(x / (2 + x)).
        let s = self / (self + 2.0);
        let square = s * s;
        let (mut power, mut sum) = (s, s);
        for k in 1..16 {
            power = power * square;
            sum = sum + power / f64::from(2 * k + 1);
        }
        sum * 2.0
    }

    /// The natural logarithm.
    pub fn ln(self) -> Dd {
        if self.hi <= 0.0 || !self.hi.is_finite() {
            return Dd::from(self.hi.ln());
        }
        if (self.hi - 1.0).abs() < 0.09 {
            return (self + -1.0).log1p();
        }
        let power = match self.hi {
            small if small < 1e-200 => 600,
            large if large > 1e200 => -600,
            _ => 0,
        };
        let x = scaled(self, power);
        let first = Dd::from(x.hi.ln());
        // One step of Newton doubles the digits.
        first + (x * (-first).exp() + -1.0) - LN_2 * f64::from(power)
    }

    /// Sine and cosine of an angle in radians.
    pub fn sin_cos(self) -> (Dd, Dd) {
        if self.is_nan() || self.size() > FAR {
            return (Dd::from(self.hi.sin()), Dd::from(self.hi.cos()));
        }
        let quarter = (self.hi / HALF_PI.hi).round();
        let r = self - HALF_PI * quarter;
        let square = r * r;
        let series = |first: Dd, start: u32| {
            let (mut term, mut sum) = (first, first);
            for k in 0..15 {
                let n = f64::from(start + 2 * k);
                term = -(term * square / ((n + 1.0) * (n + 2.0)));
                sum = sum + term;
            }
            sum
        };
        let (sin, cos) = (series(r, 1), series(Dd::ONE, 0));
        match (quarter as i64).rem_euclid(4) {
            0 => (sin, cos),
            1 => (cos, -sin),
            2 => (-sin, -cos),
            _ => (-cos, sin),
        }
    }

    /// `e^(-x²)`.
    pub fn bell(self) -> Dd {
        (-(self * self)).exp()
    }

    /// The error function.
    pub fn erf(self) -> Dd {
        if self.size() >= 2.0 {
            let tail = Dd::ONE - self.abs().erfc();
            return if self.hi < 0.0 { -tail } else { tail };
        }
        self.erf_by_series()
    }

    /// `2/√π e^(-x²) Σ 2ⁿ x^(2n+1) / (2n+1)!!`, whose terms have one sign.
    fn erf_by_series(self) -> Dd {
        let square = self * self * 2.0;
        let (mut term, mut sum) = (self, self);
        for n in 1..100 {
            term = term * square / f64::from(2 * n + 1);
            sum = sum + term;
        }
        sum * self.bell() * 2.0 / PI.sqrt()
    }

    /// `1 - erf(x)`, with all digits where it is small.
    pub fn erfc(self) -> Dd {
        if !self.is_finite() {
            return Dd::from(1.0 - self.hi.signum());
        }
        if self.hi < 2.0 {
            return Dd::ONE - self.erf();
        }
        let n = if self.hi < 4.0 { 260 } else { 90 };
        let fraction = (1..=n).rev().fold(self, |rest, k| self + Dd::from(f64::from(k) / 2.0) / rest);
        self.bell() / PI.sqrt() / fraction
    }

    /// The inverse of the error function.
    pub fn erf_inv(self) -> Dd {
        let size = self.abs();
        if self.is_zero() {
            return self;
        }
        if size.is_nan() || size >= Dd::ONE {
            return Dd::from(if size == Dd::ONE { self.hi * f64::INFINITY } else { f64::NAN });
        }
        let rest = Dd::ONE - size;
        // Winitzki's approximation, then Newton's steps of second order.
        let log = (rest * (size + 1.0)).ln().hi;
        let a = 0.147;
        let t = 2.0 / (PI.hi * a) + log / 2.0;
        let mut y = Dd::from(((t * t - log / a).sqrt() - t).sqrt());
        if size.hi < 1e-4 {
            y = size * PI.sqrt() / 2.0;
        }
        for _ in 0..6 {
            let off = if size.hi < 0.5 { size - y.erf() } else { y.erfc() - rest };
            let step = off * PI.sqrt() / 2.0 / y.bell();
            y = y + step / (Dd::ONE - y * step);
        }
        if self.hi < 0.0 { -y } else { y }
    }

    /// A power, with the special cases of f64.
    pub fn pow(self, exponent: Dd) -> Dd {
        let plain = Dd::from(self.hi.powf(exponent.hi));
        if self.is_zero() || exponent.is_zero() || !self.is_finite() || !exponent.is_finite() || plain.is_nan() {
            return plain;
        }
        let size = (exponent * self.abs().ln()).exp();
        if plain.hi < 0.0 || (plain.is_zero() && plain.hi.is_sign_negative()) { -size } else { size }
    }

    /// `√π`.
    pub fn sqrt_pi() -> Dd {
        PI.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That a number agrees with one written down to 30 digits as a sum of f64.
    #[track_caller]
    fn near(got: Dd, hi: f64, lo: f64) {
        let want = Dd { hi, lo };
        assert!((got - want).size() <= 1e-28 * want.size(), "{got:?}, not {want:?}");
    }

    #[test]
    fn arithmetic_has_twice_the_digits() {
        let third = Dd::ONE / 3.0;
        assert!((third * 3.0 - Dd::ONE).size() < 1e-31);
        let root = Dd::from(2.0).sqrt();
        assert!((root * root + -2.0).size() < 1e-31);
        assert!((Dd::from(1e-300).sqrt() * Dd::from(1e150)).size() > 0.0);
        assert!((Dd::from(-0.0) + Dd::from(-0.0)).hi.is_sign_negative());
        assert_eq!(Dd::ONE / Dd::ZERO, Dd::from(f64::INFINITY));
        assert!((Dd::ZERO * Dd::from(f64::INFINITY)).is_nan());
        assert_eq!((Dd::ONE / Dd::from(f64::INFINITY)).hi, 0.0);
    }

    /// Functions agree with their inverses, with identities, and with f64.
    #[test]
    fn functions_have_twice_the_digits() {
        near(Dd::ONE.exp(), std::f64::consts::E, 1.445_646_891_729_250_2e-16);
        near(Dd::from(10.0).ln(), std::f64::consts::LN_10, -2.170_756_223_382_249_4e-16);
        for x in [1e-300, 1e-9, 0.01, 0.3, 0.95, 1.0, 1.05, 2.5, 40.0, 1e10, 1e300] {
            let x = Dd::from(x);
            assert!((x.ln().exp() - x).size() <= 1e-28 * x.size(), "{x:?}");
            assert!((x.log1p().expm1() - x).size() <= 1e-27 * x.size(), "{x:?}");
            let (s, c) = x.sin_cos();
            assert!((s * s + c * c + -1.0).size() < if x.hi > FAR { 1e-15 } else { 1e-29 }, "{x:?}");
            assert!((s.hi - x.hi.sin()).abs() < 1e-15, "{x:?}");
        }
        for x in [-5.0, -1.9, -0.3, 1e-20, 0.5, 1.99, 2.0, 2.01, 3.0, 3.99, 4.0, 6.0] {
            let x = Dd::from(x);
            assert!((x.erf() + x.erfc() + -1.0).size() < 1e-30, "{x:?}");
            // The derivative of erfc, by central differences of the tenth of its digits.
            let h = 1e-10;
            let slope = ((x + h).erfc() - (x + -h).erfc()) / (2.0 * h);
            let want = -(x.bell() * 2.0 / PI.sqrt());
            assert!((slope - want).size() <= 1e-15 * want.size().max(x.erfc().size()), "{x:?}: {slope:?} {want:?}");
        }
        for x in [2.0, 2.5, 3.0] {
            // The series has digits to spare there.
            let x = Dd::from(x);
            assert!((x.erf_by_series() + x.erfc() + -1.0).size() < 1e-30, "{x:?}");
        }
        for x in [1e-30, 1e-5, 0.1, 0.49, 0.51, 0.99, 1.0 - 1e-12] {
            let x = Dd::from(x);
            assert!((x.erf_inv().erf() - x).size() <= 1e-27 * x.size(), "{x:?}");
            assert!(((-x).erf_inv() + x.erf_inv()).is_zero());
        }
        assert!((Dd::from(-2.0).pow(Dd::from(3.0)) + 8.0).size() < 1e-28);
        assert_eq!(Dd::ZERO.pow(Dd::ZERO), Dd::ONE);
    }
}
