//! Numbers as they are written down, before they have an element type: literals, initialisers, borders.
//!
//! A whole number of 64 bits is kept whole: going by way of f64 it would lose what lies below 2⁻⁵³ of it.

use std::fmt;

use cotangent_scalar::DType;

use crate::init::Real;

/// A number without an element type: an f64, or a whole number that no f64 is.
///
/// There is one form for each number, so equality is that of numbers (and of bits: `-0.0` is not `0.0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number(Repr);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Repr {
    Real(Real),
    /// Not representable as f64.
    Whole(i64),
}

impl Number {
    /// A number that is a constant of the program.
    pub const fn of(value: f64) -> Self {
        Number(Repr::Real(Real(value)))
    }

    /// Its bits in an element type: floats round to nearest, integers truncate and saturate, `bool` is `≠ 0`.
    pub fn bits(self, dtype: DType) -> u64 {
        match (self.0, dtype) {
            (Repr::Real(v), _) => dtype.bits_of_f64(v.0),
            (Repr::Whole(v), DType::I64) => v as u64,
            // Rounded once: by way of f64 it would be twice.
            (Repr::Whole(v), DType::F32) => u64::from((v as f32).to_bits()),
            (Repr::Whole(v), _) => dtype.bits_of_f64(v as f64),
        }
    }

    /// Whether an element type can hold it, so that [`Number::bits`] does not make something else of it; see [`DType::holds`].
    pub fn held_by(self, dtype: DType) -> bool {
        match self.0 {
            Repr::Real(v) => dtype.holds(v.0),
            // Floats round; of the other types only i64 has numbers that no f64 is.
            Repr::Whole(_) => dtype.is_float() || dtype == DType::I64,
        }
    }

    /// An element type that does hold it, for advice.
    pub(crate) fn home(self) -> DType {
        [DType::I32, DType::I64, DType::F32].into_iter().find(|&dtype| self.held_by(dtype)).unwrap_or(DType::F64)
    }

    /// The nearest f64.
    pub fn value(self) -> f64 {
        match self.0 {
            Repr::Real(v) => v.0,
            Repr::Whole(v) => v as f64,
        }
    }

    /// The number, if it is whole and no f64 is.
    pub fn wide(self) -> Option<i64> {
        match self.0 {
            Repr::Real(_) => None,
            Repr::Whole(v) => Some(v),
        }
    }

    /// Reads `1`, `-0.5`, `1e-3`, `inf`, `nan`, or any whole number of 64 bits.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<i64>()
            .map(Number::from)
            .ok()
            .filter(|n| n.wide().is_some())
            .or_else(|| text.parse().ok().map(Number::of))
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Number::of(value)
    }
}

macro_rules! exact {
    ($($t:ty),*) => {
        $(impl From<$t> for Number {
            fn from(value: $t) -> Self {
                Number::of(f64::from(value))
            }
        })*
    };
}
exact!(f32, i32, u8);

impl From<usize> for Number {
    /// What no i64 is becomes the nearest f64.
    fn from(value: usize) -> Self {
        i64::try_from(value).map_or(Number::of(value as f64), Number::from)
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        // Of 2⁶³ - 1 the nearest f64 is 2⁶³, which a conversion back saturates.
        let exact = (value as f64) as i64 == value && value != i64::MAX;
        if exact { Number::of(value as f64) } else { Number(Repr::Whole(value)) }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Repr::Real(v) => write!(f, "{:?}", v.0),
            Repr::Whole(v) => write!(f, "{v}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_keep_their_bits() {
        for v in [0, 1, -1, 1 << 53, (1 << 53) + 1, -(1 << 53) - 1, i64::MAX, i64::MIN, i64::MAX - 512, i64::MAX - 511]
        {
            let n = Number::from(v);
            assert_eq!(n.bits(DType::I64) as i64, v);
            assert_eq!(Number::parse(&v.to_string()), Some(n));
            assert_eq!(n.bits(DType::F32), u64::from((v as f32).to_bits()), "{v}");
            assert_eq!(n.bits(DType::F64), (v as f64).to_bits());
            assert_eq!(n.bits(DType::I32) as u32 as i32, v.clamp(i32::MIN.into(), i32::MAX.into()) as i32);
        }
        assert_eq!(Number::from(3), Number::from(3.0));
        assert_ne!(Number::from(0.0), Number::from(-0.0));
        assert_eq!(Number::parse("1e3"), Some(Number::from(1000)));
        assert_eq!(Number::parse("-inf").map(Number::value), Some(f64::NEG_INFINITY));
        assert_eq!((Number::parse("x"), Number::parse("")), (None, None));
    }
}
