//! The floating-point environment: rounding, and what becomes of subnormal numbers.
//!
//! Why it exists: a thread has modes that change what arithmetic means. Some programs set them for speed (flush to zero,
//! subnormal operands taken for zeros) or for interval arithmetic (another rounding), and new threads inherit those of the thread
//! that makes them. Bits of results are part of the semantics here, so everything that computes does so by [`in_default`],
//! whatever the caller has, and the caller has it back afterwards.
//!
//! Assumes: nothing. Promises: within, numbers are rounded to nearest, ties to even, subnormals are kept, and nothing traps;
//! afterwards, also after a panic, the modes are those from before. On x86-64 (and x86 with SSE) and on aarch64; elsewhere the
//! environment is the caller's. It costs some nanoseconds if the modes are the default ones, some tens otherwise.
//!
//! The compiler knows nothing of modes and takes arithmetic for free to be moved. So what is to be computed stands behind a call
//! of an address that it cannot know, between two pieces of assembly that it may not move calls across.

/// Calls `f` under the default environment.
///
/// ```
/// assert_eq!(cotangent_host::float::in_default(|| 1e-40f32 * 0.5), 5e-41);
/// ```
#[inline]
pub fn in_default<R>(f: impl FnOnce() -> R) -> R {
    let (mut f, mut result) = (Some(f), None);
    let mut compute = || {
        if let Some(f) = f.take() {
            result = Some(f());
        }
    };
    {
        let _restore = Restore::new();
        unknown(call)(&mut compute);
    }
    match result {
        Some(result) => result,
        // `compute` has returned, so it has set the result.
        None => unreachable!("nothing was computed"),
    }
}

#[inline(never)]
fn call(compute: &mut dyn FnMut()) {
    compute();
}

/// The same function, of which the compiler does not know that it is the same.
#[cfg(any(target_arch = "x86_64", all(target_arch = "x86", target_feature = "sse"), target_arch = "aarch64"))]
#[inline(always)]
fn unknown(mut function: fn(&mut dyn FnMut())) -> fn(&mut dyn FnMut()) {
    // SAFETY: no instruction; the register keeps its value.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) function, options(nostack, preserves_flags)) };
    function
}

/// Nothing is set here, so nothing has to stay where it is.
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "x86", target_feature = "sse"), target_arch = "aarch64")))]
fn unknown(function: fn(&mut dyn FnMut())) -> fn(&mut dyn FnMut()) {
    function
}

/// Modes of before, to be set again.
struct Restore(Option<modes::Modes>);

impl Restore {
    /// Sets the default modes.
    #[inline(always)]
    fn new() -> Self {
        let before = modes::get();
        if modes::are_default(before) {
            return Restore(None);
        }
        modes::set(modes::DEFAULT);
        Restore(Some(before))
    }
}

impl Drop for Restore {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            modes::set(before);
        }
    }
}

/// The modes of this thread, as the CPU has them.
#[cfg(any(target_arch = "x86_64", all(target_arch = "x86", target_feature = "sse")))]
mod modes {
    use std::arch::asm;

    /// The register MXCSR: six bits for what has happened, then the modes.
    pub(super) type Modes = u32;

    /// Nothing traps, nothing is flushed, rounding to nearest; nothing has happened.
    pub(super) const DEFAULT: Modes = 0x1f80;

    /// Bits that say what has happened are no modes.
    pub(super) fn are_default(modes: Modes) -> bool {
        modes & !0x3f == DEFAULT
    }

    #[inline(always)]
    pub(super) fn get() -> Modes {
        let mut modes = 0u32;
        // SAFETY: it writes four bytes to the variable.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut modes, options(nostack, preserves_flags)) };
        modes
    }

    #[inline(always)]
    pub(super) fn set(modes: Modes) {
        // SAFETY: it reads four bytes of the variable. The value is the default, or one that the register had, so no reserved bit
        // is set. Calls stay where they are, and arithmetic stands behind calls.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const modes, options(nostack, preserves_flags)) };
    }
}

/// The modes of this thread, as the CPU has them.
#[cfg(target_arch = "aarch64")]
mod modes {
    use std::arch::asm;

    /// The register FPCR; what has happened stands in another one.
    pub(super) type Modes = u64;

    /// Nothing traps, nothing is flushed, rounding to nearest.
    pub(super) const DEFAULT: Modes = 0;

    pub(super) fn are_default(modes: Modes) -> bool {
        modes == DEFAULT
    }

    #[inline(always)]
    pub(super) fn get() -> Modes {
        let modes;
        // SAFETY: reading the register changes nothing.
        unsafe { asm!("mrs {}, fpcr", out(reg) modes, options(nostack, preserves_flags)) };
        modes
    }

    #[inline(always)]
    pub(super) fn set(modes: Modes) {
        // SAFETY: the value is the default, or one that the register had. Calls stay where they are, and arithmetic stands behind
        // calls.
        unsafe { asm!("msr fpcr, {}", in(reg) modes, options(nostack, preserves_flags)) };
    }
}

/// Nothing is known of the modes.
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "x86", target_feature = "sse"), target_arch = "aarch64")))]
mod modes {
    pub(super) type Modes = ();

    pub(super) const DEFAULT: Modes = ();

    pub(super) fn are_default((): Modes) -> bool {
        true
    }

    pub(super) fn get() -> Modes {}

    pub(super) fn set((): Modes) {}
}

/// Other environments, for tests: what a caller may have set.
pub mod testing {
    use super::modes;

    /// A caller's environment.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Environment {
        /// Subnormal results and operands are zeros.
        Flushing,
        /// Rounding towards zero.
        TowardZero,
        /// Rounding upwards.
        Upward,
    }

    impl Environment {
        /// All that the CPU has; none where it is not known.
        pub fn all() -> &'static [Environment] {
            let known = cfg!(any(
                target_arch = "x86_64",
                all(target_arch = "x86", target_feature = "sse"),
                target_arch = "aarch64"
            ));
            if known { &[Environment::Flushing, Environment::TowardZero, Environment::Upward] } else { &[] }
        }

        #[cfg(any(target_arch = "x86_64", all(target_arch = "x86", target_feature = "sse")))]
        fn modes(self) -> modes::Modes {
            modes::DEFAULT
                | match self {
                    Environment::Flushing => 1 << 15 | 1 << 6,
                    Environment::TowardZero => 3 << 13,
                    Environment::Upward => 2 << 13,
                }
        }

        #[cfg(target_arch = "aarch64")]
        fn modes(self) -> modes::Modes {
            match self {
                Environment::Flushing => 1 << 24,
                Environment::TowardZero => 3 << 22,
                Environment::Upward => 1 << 22,
            }
        }

        #[cfg(not(any(
            target_arch = "x86_64",
            all(target_arch = "x86", target_feature = "sse"),
            target_arch = "aarch64"
        )))]
        fn modes(self) -> modes::Modes {}

        /// Calls `f` under this environment, and says whether it was still set afterwards. What `f` computes itself is at the
        /// compiler's mercy; what it calls may be tested.
        pub fn during<R>(self, f: impl FnOnce() -> R) -> (R, bool) {
            let before = modes::get();
            let restore = super::Restore(Some(before));
            modes::set(self.modes());
            let (mut f, mut result) = (Some(f), None);
            let mut compute = || {
                if let Some(f) = f.take() {
                    result = Some(f());
                }
            };
            super::unknown(super::call)(&mut compute);
            let kept = has_modes(self.modes());
            drop(restore);
            match result {
                Some(result) => (result, kept),
                None => unreachable!("nothing was computed"),
            }
        }
    }

    #[cfg(any(target_arch = "x86_64", all(target_arch = "x86", target_feature = "sse")))]
    fn has_modes(modes: modes::Modes) -> bool {
        modes::get() & !0x3f == modes
    }

    #[cfg(not(any(target_arch = "x86_64", all(target_arch = "x86", target_feature = "sse"))))]
    fn has_modes(modes: modes::Modes) -> bool {
        modes::get() == modes
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::in_default;
    use super::testing::Environment;

    /// A product that is subnormal, and a sum that is rounded.
    #[inline(never)]
    fn numbers() -> [u32; 3] {
        let (tiny, third) = (black_box(1e-38f32), black_box(1.0f32) / black_box(3.0f32));
        [(tiny * black_box(0.01)).to_bits(), third.to_bits(), (-third).to_bits()]
    }

    #[test]
    fn what_is_computed_within_does_not_depend_on_the_caller() {
        let expected = numbers();
        for environment in Environment::all() {
            let ((bare, within), kept) = environment.during(|| (numbers(), in_default(numbers)));
            assert_ne!(bare, expected, "{environment:?} changes nothing, so this test could not fail");
            assert_eq!(within, expected, "{environment:?}");
            assert!(kept, "{environment:?} is not what it was");
            assert_eq!(numbers(), expected);
        }
    }

    #[test]
    fn a_panic_gives_the_environment_back() {
        for environment in Environment::all() {
            let (caught, kept) = environment.during(|| {
                catch_unwind(AssertUnwindSafe(|| {
                    in_default(|| {
                        if black_box(true) {
                            panic!("on purpose")
                        }
                    })
                }))
                .is_err()
            });
            assert!(caught && kept, "{environment:?}");
        }
    }

    #[test]
    fn calls_nest() {
        for environment in Environment::all() {
            let (result, kept) = environment.during(|| in_default(|| (in_default(numbers), numbers())));
            assert_eq!((result, kept), ((numbers(), numbers()), true), "{environment:?}");
        }
    }
}
