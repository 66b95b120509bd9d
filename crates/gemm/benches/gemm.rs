//! Speed of the products against what the FMA units could do: `cargo bench -p cotangent-gemm [-- filter]`.
//!
//! For each shape and thread count: GFLOP/s, best and median, and the best as a share of the peak. The peak is a
//! loop of FMAs on registers, run right before each shape's calls, because the clock of a shared machine moves.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use cotangent_gemm::{Call, Element, Gemm, MatMut, MatRef, Workspace};
use cotangent_pool::Pool;

/// A shape to measure; `a_t` and `b_t` say which operands are stored transposed.
struct Shape {
    name: &'static str,
    m: usize,
    n: usize,
    k: usize,
    a_t: bool,
    b_t: bool,
}

const fn shape(name: &'static str, m: usize, k: usize, n: usize, a_t: bool, b_t: bool) -> Shape {
    Shape { name, m, n, k, a_t, b_t }
}

const SHAPES: &[Shape] = &[
    shape("tiny 4x2.2x8", 4, 2, 8, false, false),
    shape("tiny 16x16.16x16", 16, 16, 16, false, false),
    shape("mlp out 32x128.128x10", 32, 128, 10, false, false),
    shape("mlp out grad 128x32.32x10", 128, 32, 10, true, false),
    shape("mlp hidden 32x784.784x128", 32, 784, 128, false, false),
    shape("mlp hidden grad 784x32.32x128", 784, 32, 128, true, false),
    shape("64", 64, 64, 64, false, false),
    shape("128", 128, 128, 128, false, false),
    shape("256", 256, 256, 256, false, false),
    shape("512", 512, 512, 512, false, false),
    shape("1024", 1024, 1024, 1024, false, false),
    shape("2048", 2048, 2048, 2048, false, false),
    shape("128x784.784x1024", 128, 784, 1024, false, false),
    shape("AtB 784x128.128x1024", 784, 128, 1024, true, false),
    shape("ABt 128x1024.1024x784", 128, 1024, 784, false, true),
    shape("gemv 1x1024.1024x1024", 1, 1024, 1024, false, false),
    shape("gemv 1024x1024.1024x1", 1024, 1024, 1, false, false),
];

fn main() {
    // cargo passes `--bench`; anything else is a part of a shape's name.
    let filters: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    for n_threads in [1, 2] {
        let pool = Pool::new(n_threads);
        measure::<f32>(&pool, "f32", &filters, peak_f32, |x| x as f32);
        measure::<f64>(&pool, "f64", &filters, peak_f64, |x| x);
    }
}

/// All shapes of one element type.
fn measure<T: Element>(pool: &Pool, type_name: &str, filters: &[String], peak: fn() -> f64, from: fn(f64) -> T) {
    println!(
        "{:<34} {:>10} {:>10} {:>10} {:>7}  ({type_name}, {} threads, {})",
        "shape",
        "best",
        "median",
        "peak",
        "share",
        pool.n_threads(),
        Gemm::<T>::new(1, 1, 1).kernel_name()
    );
    for shape in SHAPES {
        if !filters.is_empty() && !filters.iter().any(|filter| shape.name.contains(filter.as_str())) {
            continue;
        }
        let &Shape { name, m, n, k, a_t, b_t } = shape;
        let flops = 2.0 * (m * n * k) as f64;
        let fill = |len: usize| -> Vec<T> { (0..len).map(|i| from((i * 7 % 13) as f64 - 6.0)).collect() };
        let (a, b, mut c) = (fill(m * k), fill(k * n), fill(m * n));
        let a =
            if a_t { MatRef::row_major(a.as_ptr(), k, m).transposed() } else { MatRef::row_major(a.as_ptr(), m, k) };
        let b =
            if b_t { MatRef::row_major(b.as_ptr(), n, k).transposed() } else { MatRef::row_major(b.as_ptr(), k, n) };
        let c = MatMut::row_major(c.as_mut_ptr(), m, n);
        let gemm = Gemm::<T>::new(m, n, k);
        let mut workspace = Workspace::with_bytes(gemm.workspace_bytes(pool.n_threads()));
        // Enough calls per sample to dwarf the clock, enough samples to find quiet moments.
        let n_calls = (2e6 / flops).ceil() as usize;
        let n_samples = (6e9 / (flops * n_calls as f64)).clamp(7.0, 400.0) as usize;
        let mut times = Vec::new();
        let mut peaks = Vec::new();
        for sample in 0..n_samples {
            if sample % (n_samples / 5).max(1) == 0 {
                peaks.push(pool_peak(pool, peak));
            }
            let start = Instant::now();
            for _ in 0..n_calls {
                // SAFETY: the vectors outlive the loop; C is a vector of its own.
                unsafe { gemm.run(pool, black_box(a), b, c, &Call::default(), &mut workspace) };
            }
            times.push(start.elapsed().as_secs_f64() / n_calls as f64);
        }
        times.sort_by(f64::total_cmp);
        let speed = |time: f64| flops / time * 1e-9;
        let peak = peaks.into_iter().fold(0.0, f64::max);
        let (best, median) = (times[0], times[times.len() / 2]);
        println!(
            "{name:<34} {:>10.1} {:>10.1} {peak:>10.1} {:>6.1}%  {:>10.3} us",
            speed(best),
            speed(median),
            100.0 * speed(best) / peak,
            best * 1e6
        );
    }
}

/// The peak of all threads together, in GFLOP/s.
fn pool_peak(pool: &Pool, peak: fn() -> f64) -> f64 {
    let sum = Mutex::new(0.0);
    pool.run(pool.n_threads(), &|_| {
        let one = peak();
        if let Ok(mut sum) = sum.lock() {
            *sum += one;
        }
    });
    sum.into_inner().unwrap_or(0.0)
}

/// GFLOP/s of twenty independent chains of FMAs in the widest registers this CPU has.
macro_rules! peak {
    ($name:ident, $elem:ty, $wide:ident, $half:ident, $plain:ident) => {
        fn $name() -> f64 {
            const N_STEPS: usize = 100_000;
            let mut best = 0.0_f64;
            for _ in 0..3 {
                let start = Instant::now();
                #[cfg(target_arch = "x86_64")]
                let n_lanes = if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the CPU has the feature.
                    unsafe { x86::$wide(N_STEPS) }
                } else if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
                    // SAFETY: the CPU has the features.
                    unsafe { x86::$half(N_STEPS) }
                } else {
                    $plain(N_STEPS)
                };
                #[cfg(not(target_arch = "x86_64"))]
                let n_lanes = $plain(N_STEPS);
                best = best.max((2 * N_STEPS * n_lanes) as f64 / start.elapsed().as_secs_f64() * 1e-9);
            }
            best
        }

        /// The loop in plain Rust; the result is how many multiply-adds a step has.
        fn $plain(n_steps: usize) -> usize {
            let mut sums = [1.0 as $elem; 64];
            let factor = black_box(0.5 as $elem);
            for _ in 0..n_steps {
                for sum in &mut sums {
                    *sum = sum.mul_add(factor, factor);
                }
            }
            black_box(sums).len()
        }
    };
}

peak!(peak_f32, f32, wide_f32, half_f32, plain_f32);
peak!(peak_f64, f64, wide_f64, half_f64, plain_f64);

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
