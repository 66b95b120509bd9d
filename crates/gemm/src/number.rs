//! The numbers that kernels compute with.

use std::ops::Add;

use cotangent_scalar::DType;

/// `f32` or `f64`, without its kernels.
pub trait Number: Copy + PartialEq + std::fmt::Debug + Send + Sync + Add<Output = Self> + 'static {
    /// The type's name in graphs, by which [`cotangent_scalar::order`] knows it.
    const DTYPE: DType;

    /// Positive zero, from which a chain starts.
    const ZERO: Self;

    /// `self * b + c`, rounded once.
    #[must_use]
    fn mul_add(self, b: Self, c: Self) -> Self;
}

impl Number for f32 {
    const DTYPE: DType = DType::F32;
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn mul_add(self, b: f32, c: f32) -> f32 {
        f32::mul_add(self, b, c)
    }
}

impl Number for f64 {
    const DTYPE: DType = DType::F64;
    const ZERO: f64 = 0.0;

    #[inline(always)]
    fn mul_add(self, b: f64, c: f64) -> f64 {
        f64::mul_add(self, b, c)
    }
}
