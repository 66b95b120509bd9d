//! What the machine offers: instruction set and cache sizes, asked once.
//!
//! Neither changes a bit of a result; both only choose which kernels run and how large blocks are.

use std::sync::OnceLock;

/// Which instruction set's kernels to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IsaChoice {
    /// The best the CPU has.
    #[default]
    Auto,
    /// Plain Rust.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
    /// aarch64 with NEON.
    Neon,
}

/// An instruction set that the CPU is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The best the CPU has.
    pub(crate) fn best() -> Isa {
        IsaChoice::Auto.resolve().unwrap_or(Isa::Portable)
    }
}

impl IsaChoice {
    /// The instruction set chosen, or `None` if this CPU does not have it.
    pub(crate) fn resolve(self) -> Option<Isa> {
        match self {
            IsaChoice::Portable => Some(Isa::Portable),
            IsaChoice::Auto => {
                const BEST_FIRST: [IsaChoice; 4] =
                    [IsaChoice::Avx512, IsaChoice::Avx2, IsaChoice::Neon, IsaChoice::Portable];
                BEST_FIRST.into_iter().find_map(IsaChoice::resolve)
            }
            #[cfg(target_arch = "x86_64")]
            IsaChoice::Avx2 => {
                (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Isa::Avx2)
            }
            // The packing routines beside the AVX-512 kernels use AVX2, which every such CPU has; asking is free.
            #[cfg(target_arch = "x86_64")]
            IsaChoice::Avx512 => {
                (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2")).then_some(Isa::Avx512)
            }
            #[cfg(not(target_arch = "x86_64"))]
            IsaChoice::Avx2 | IsaChoice::Avx512 => None,
            #[cfg(target_arch = "aarch64")]
            IsaChoice::Neon => Some(Isa::Neon),
            #[cfg(not(target_arch = "aarch64"))]
            IsaChoice::Neon => None,
        }
    }
}

/// Data cache sizes in bytes: of one core for the first two levels, of the whole chip for the third.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caches {
    pub l1: usize,
    pub l2: usize,
    pub l3: usize,
}

/// Common sizes, for CPUs that do not tell.
const USUAL: Caches = Caches { l1: 32 << 10, l2: 1 << 20, l3: 32 << 20 };

/// The caches of this machine.
pub(crate) fn caches() -> Caches {
    static CACHES: OnceLock<Caches> = OnceLock::new();
    *CACHES.get_or_init(|| sane(detect()))
}

/// Replaces what cannot be: virtual machines report odd values, and some machines have no third level.
fn sane(found: Caches) -> Caches {
    let l1 = if (8 << 10..=1 << 20).contains(&found.l1) { found.l1 } else { USUAL.l1 };
    let l2 = if (2 * l1..=64 << 20).contains(&found.l2) { found.l2 } else { USUAL.l2 };
    let l3 = if found.l3 >= l2 { found.l3 } else { 4 * l2 };
    Caches { l1, l2, l3 }
}

/// Reads the cache leaves of `cpuid`: 0x8000001D on AMD, 4 on Intel, with the same layout.
#[cfg(target_arch = "x86_64")]
fn detect() -> Caches {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const AMD: u32 = 0x8000_001d;
    const INTEL: u32 = 4;
    let leaf = if __cpuid(0x8000_0000).eax >= AMD {
        AMD
    } else if __cpuid(0).eax >= INTEL {
        INTEL
    } else {
        return USUAL;
    };
    let mut found = Caches { l1: 0, l2: 0, l3: 0 };
    // Leaves end with kind 0; the limit is for machines that do not end them.
    for index in 0..8 {
        let info = __cpuid_count(leaf, index);
        let (kind, level) = (info.eax & 31, info.eax >> 5 & 7);
        let field = |shift: u32, bits: u32| (info.ebx >> shift & ((1 << bits) - 1)) as usize + 1;
        let bytes = field(0, 12) * field(12, 10) * field(22, 10) * (info.ecx as usize + 1);
        match (kind, level) {
            (0, _) => break,
            (1 | 3, 1) => found.l1 = bytes,
            (1 | 3, 2) => found.l2 = bytes,
            (1 | 3, 3) => found.l3 = bytes,
            _ => {}
        }
    }
    found
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Caches {
    USUAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_plausible() {
        let caches = caches();
        assert!(caches.l1 >= 8 << 10 && caches.l1 < caches.l2 && caches.l2 <= caches.l3, "{caches:?}");
        assert_eq!(sane(Caches { l1: 0, l2: 0, l3: 0 }), Caches { l3: 4 << 20, ..USUAL });
        assert_eq!(sane(USUAL), USUAL);
    }

    #[test]
    fn auto_always_resolves() {
        assert!(IsaChoice::Auto.resolve().is_some());
        assert_eq!(IsaChoice::Portable.resolve(), Some(Isa::Portable));
    }
}
