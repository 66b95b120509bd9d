//! The element types of a product.

use std::ops::Add;

use cotangent_scalar::DType;

use crate::cpu::Isa;
use crate::kernel::{KernelSet, portable};

/// `f32` and `f64`: the types that have micro-kernels.
pub trait Element:
    Copy + PartialEq + std::fmt::Debug + Send + Sync + Add<Output = Self> + sealed::Kernels + 'static
{
    /// The type's name in graphs, by which [`cotangent_scalar::order`] knows it.
    const DTYPE: DType;

    /// Positive zero, from which a chain starts.
    const ZERO: Self;

    /// `self * b + c`, rounded once.
    #[must_use]
    fn mul_add(self, b: Self, c: Self) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn mul_add(self, b: f32, c: f32) -> f32 {
        f32::mul_add(self, b, c)
    }
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
    const ZERO: f64 = 0.0;

    #[inline(always)]
    fn mul_add(self, b: f64, c: f64) -> f64 {
        f64::mul_add(self, b, c)
    }
}

pub(crate) mod sealed {
    use super::{Isa, KernelSet};

    /// The link from an element type to its kernels; private, so that nobody adds types without kernels.
    pub trait Kernels: Sized {
        #[expect(private_interfaces, reason = "the trait cannot be named outside this crate")]
        fn kernels(isa: Isa) -> &'static KernelSet<Self>;
    }
}

impl sealed::Kernels for f32 {
    #[expect(private_interfaces, reason = "the trait cannot be named outside this crate")]
    fn kernels(isa: Isa) -> &'static KernelSet<f32> {
        match isa {
            Isa::Portable => &portable::F32,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &crate::kernel::x86::AVX2_F32,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &crate::kernel::x86::AVX512_F32,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &crate::kernel::neon::F32,
        }
    }
}

impl sealed::Kernels for f64 {
    #[expect(private_interfaces, reason = "the trait cannot be named outside this crate")]
    fn kernels(isa: Isa) -> &'static KernelSet<f64> {
        match isa {
            Isa::Portable => &portable::F64,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &crate::kernel::x86::AVX2_F64,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &crate::kernel::x86::AVX512_F64,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &crate::kernel::neon::F64,
        }
    }
}
