//! The element types of tensors and scalar values.
//!
//! Promises: `DType` is a closed set; sizes are in bytes of memory storage (a `Bool` is one byte, 0 or 1).

use std::fmt;
use std::str::FromStr;

/// The type of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// Two's complement, 32 bits; arithmetic wraps.
    I32,
    /// Two's complement, 64 bits; arithmetic wraps.
    I64,
    /// Unsigned, 8 bits; arithmetic wraps.
    U8,
    /// Truth value, stored as one byte that is 0 or 1.
    Bool,
}

impl DType {
    /// All element types, in declaration order.
    pub const ALL: [DType; 6] = [DType::F32, DType::F64, DType::I32, DType::I64, DType::U8, DType::Bool];

    /// Bytes of one element in memory.
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F64 | DType::I64 => 8,
            DType::U8 | DType::Bool => 1,
        }
    }

    /// The bits that values of the type may have, zero-extended to 64: all ones.
    pub const fn mask(self) -> u64 {
        match self {
            DType::Bool => 1,
            DType::U8 => 0xff,
            DType::F32 | DType::I32 => 0xffff_ffff,
            DType::F64 | DType::I64 => u64::MAX,
        }
    }

    /// Whether this is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64)
    }

    /// Whether this is an integer type (`Bool` is not).
    pub const fn is_int(self) -> bool {
        matches!(self, DType::I32 | DType::I64 | DType::U8)
    }

    /// The name in the text form, for example `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }

    /// The bits of the value nearest to `value` in this type: floats round, integers saturate (NaN becomes 0),
    /// `Bool` is `value != 0`. The result is zero-extended to 64 bits.
    pub fn bits_of_f64(self, value: f64) -> u64 {
        match self {
            DType::F32 => u64::from((value as f32).to_bits()),
            DType::F64 => value.to_bits(),
            DType::I32 => u64::from(value as i32 as u32),
            DType::I64 => value as i64 as u64,
            DType::U8 => u64::from(value as u8),
            DType::Bool => u64::from(value != 0.0),
        }
    }

    /// Whether this type can hold `value`, so that [`DType::bits_of_f64`] does not make something else of it: integers hold the
    /// whole numbers of their range, `Bool` holds 0 and 1. Floats round to nearest, but no finite number to infinity, and none
    /// but 0 to 0.
    pub fn holds(self, value: f64) -> bool {
        match self {
            DType::F64 => true,
            DType::F32 => {
                let rounded = value as f32;
                rounded.is_finite() == value.is_finite() && (rounded == 0.0) == (value == 0.0)
            }
            // 2⁶³ saturates to the largest i64, which as f64 is 2⁶³ again.
            DType::I64 => value as i64 as f64 == value && value < 9_223_372_036_854_775_808.0,
            DType::I32 | DType::U8 => self.f64_of_bits(self.bits_of_f64(value)) == value,
            DType::Bool => value == 0.0 || value == 1.0,
        }
    }

    /// What [`DType::holds`], for messages: "whole numbers from 0 to 255".
    pub const fn held(self) -> &'static str {
        match self {
            DType::F32 => "0 and numbers of magnitude 1.4e-45 to 3.4e38",
            DType::F64 => "0 and numbers of magnitude 4.9e-324 to 1.8e308",
            DType::I32 => "whole numbers from -2147483648 to 2147483647",
            DType::I64 => "whole numbers from -9223372036854775808 to 9223372036854775807",
            DType::U8 => "whole numbers from 0 to 255",
            DType::Bool => "0 and 1",
        }
    }

    /// The value of `bits` (as [`DType::bits_of_f64`] makes them) as f64; exact for all but large `I64`.
    pub fn f64_of_bits(self, bits: u64) -> f64 {
        match self {
            DType::F32 => f64::from(f32::from_bits(bits as u32)),
            DType::F64 => f64::from_bits(bits),
            DType::I32 => f64::from(bits as u32 as i32),
            DType::I64 => bits as i64 as f64,
            DType::U8 => f64::from(bits as u8),
            DType::Bool => f64::from(u8::from(bits != 0)),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        DType::ALL
            .into_iter()
            .find(|d| d.name() == text)
            .ok_or_else(|| format!("unknown dtype `{text}`: expected one of f32, f64, i32, i64, u8, bool"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_holds_what_it_does_not_bend() {
        let held = |dtype: DType| {
            let all = [
                0.0,
                -0.0,
                1.0,
                -1.0,
                0.5,
                255.0,
                256.0,
                2147483647.0,
                -2147483648.0,
                2147483648.0,
                5e9,
                1e18,
                1e39,
                1e-50,
            ];
            all.into_iter().filter(|&v| dtype.holds(v)).count()
        };
        assert_eq!(DType::ALL.map(held), [12, 14, 8, 11, 4, 3]);
        assert!(!DType::I64.holds(9_223_372_036_854_775_808.0) && DType::I64.holds(-9_223_372_036_854_775_808.0));
        for special in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(DType::ALL.map(|dtype| dtype.holds(special)), [true, true, false, false, false, false]);
        }
        assert!(DType::F32.holds(1e-45) && DType::F32.holds(0.1) && DType::F32.holds(f64::from(f32::MAX)));
    }
}
