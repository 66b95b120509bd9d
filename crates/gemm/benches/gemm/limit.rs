//! The limit of every product: FMAs on registers, without memory.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use cotangent_gemm::Isa;
use cotangent_pool::Pool;

/// The limit of an element type.
pub trait Limit {
    /// GFLOP/s of this thread, from a loop of some microseconds.
    fn one_thread() -> f64;
}

/// The limit of all threads together, in GFLOP/s.
pub fn limit<T: Limit>(pool: &Pool) -> f64 {
    let sum = Mutex::new(0.0);
    pool.run(pool.n_threads(), &|_| {
        let one = T::one_thread();
        if let Ok(mut sum) = sum.lock() {
            *sum += one;
        }
    });
    sum.into_inner().unwrap_or(0.0)
}

/// GFLOP/s of twenty independent chains of FMAs in the widest registers of the target.
macro_rules! limits {
    ($elem:ty, $wide:ident, $half:ident) => {
        impl Limit for $elem {
            fn one_thread() -> f64 {
                // Short, so that it sees the same clock as the calls around it.
                const N_STEPS: usize = 8_000;
                /// The loop in plain Rust; the result is how many multiply-adds a step has.
                fn plain(n_steps: usize) -> usize {
                    let mut sums = [1.0 as $elem; 64];
                    let factor = black_box(0.5 as $elem);
                    for _ in 0..n_steps {
                        for sum in &mut sums {
                            *sum = sum.mul_add(factor, factor);
                        }
                    }
                    black_box(sums).len()
                }
                let start = Instant::now();
                #[cfg(target_arch = "x86_64")]
                let per_step = if crate::target().isa() == Isa::Avx512 {
                    // SAFETY: the target is this machine.
                    unsafe { x86::$wide(N_STEPS) }
                } else if crate::target().isa() == Isa::Avx2 {
                    // SAFETY: the target is this machine.
                    unsafe { x86::$half(N_STEPS) }
                } else {
                    plain(N_STEPS)
                };
                #[cfg(not(target_arch = "x86_64"))]
                let per_step = plain(N_STEPS);
                (2 * N_STEPS * per_step) as f64 / start.elapsed().as_secs_f64() * 1e-9
            }
        }
    };
}

limits!(f32, wide_f32, half_f32);
limits!(f64, wide_f64, half_f64);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    macro_rules! peak_loop {
        ($name:ident, $feature:literal, $lanes:literal, $chains:literal, $splat:ident, $fma:ident) => {
            /// The result is how many multiply-adds a step has.
            #[target_feature(enable = $feature)]
            pub fn $name(n_steps: usize) -> usize {
                let factor = $splat(black_box(0.5));
                let mut sums = [$splat(black_box(1.0)); $chains];
                for _ in 0..n_steps {
                    for sum in &mut sums {
                        *sum = $fma(*sum, factor, factor);
                    }
                }
                black_box(sums).len() * $lanes
            }
        };
    }

    peak_loop!(wide_f32, "avx512f", 16, 20, _mm512_set1_ps, _mm512_fmadd_ps);
    peak_loop!(wide_f64, "avx512f", 8, 20, _mm512_set1_pd, _mm512_fmadd_pd);
    peak_loop!(half_f32, "avx2,fma", 8, 12, _mm256_set1_ps, _mm256_fmadd_ps);
    peak_loop!(half_f64, "avx2,fma", 4, 12, _mm256_set1_pd, _mm256_fmadd_pd);
}
