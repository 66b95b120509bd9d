//! The element types of a product, and which kernels an instruction set has for them.

use cotangent_host::Isa;

use crate::kernel::{KernelSet, portable};
use crate::number::Number;

/// `f32` and `f64`: the types that have micro-kernels.
pub trait Element: Number + sealed::Kernels {}

impl Element for f32 {}
impl Element for f64 {}

pub(crate) mod sealed {
    use super::{Isa, KernelSet};

    /// The link from an element type to its kernels; private, so that nobody adds types without kernels.
    pub trait Kernels: Sized {
        /// `None` if the set belongs to another architecture.
        #[expect(private_interfaces, reason = "the trait cannot be named outside this crate")]
        fn kernels(isa: Isa) -> Option<&'static KernelSet<Self>>;
    }
}

macro_rules! kernels {
    ($t:ty: $portable:ident $avx2:ident $avx512:ident $neon:ident) => {
        impl sealed::Kernels for $t {
            #[expect(private_interfaces, reason = "the trait cannot be named outside this crate")]
            fn kernels(isa: Isa) -> Option<&'static KernelSet<$t>> {
                match isa {
                    Isa::Portable => Some(&portable::$portable),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => Some(&crate::kernel::x86::$avx2),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => Some(&crate::kernel::x86::$avx512),
                    #[cfg(target_arch = "aarch64")]
                    Isa::Neon => Some(&crate::kernel::neon::$neon),
                    _ => None,
                }
            }
        }
    };
}

kernels!(f32: F32 AVX2_F32 AVX512_F32 F32);
kernels!(f64: F64 AVX2_F64 AVX512_F64 F64);
