//! The micro-kernels for aarch64 with NEON: twelve rows of two vectors of 128 bits, 24 of the 32 registers.
//!
//! Every aarch64 CPU that Rust's targets name has NEON with fused multiply-adds, so nothing is asked at run time.

use std::arch::aarch64::*;

use crate::kernel::tile::{micro_kernels, transposing_kernels};
use crate::kernel::vector::{VectorKernels, vector_kernels};
use crate::kernel::{
    KernelSet, RunTile, Tile, direct_table, flat_table, packed_table, portable, runs_table, transposing_table,
};

/// The kernels for `f32`.
pub(crate) static F32: KernelSet<f32> = KernelSet {
    lanes: 4,
    nr: 8,
    packed: packed_table!(neon_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
    direct: direct_table!(neon_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
    flat: flat_table!(flat_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
    runs: runs_table!(runs_f32, false: [1 2 3 4 5 6] [7 8] [9 10 11 12] []),
    depthwise: runs_table!(runs_f32, true: [] [] [1 2 3 4 5 6 7 8] []),
    transposing: transposing_table!(transposing_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
    vector: VectorKernels { along: along_f32, across: across_f32, strided: portable::vector::<f32> },
    transpose: portable::transpose::<f32>,
    copy: portable::copy_plain::<f32>,
    copy_panels: portable::copy_panels::<f32, 8>,
};

/// The kernels for `f64`.
pub(crate) static F64: KernelSet<f64> = KernelSet {
    lanes: 2,
    nr: 4,
    packed: packed_table!(neon_f64: 1 2 3 4 5 6 7 8 9 10 11 12),
    direct: direct_table!(neon_f64: 1 2 3 4 5 6 7 8 9 10 11 12),
    flat: flat_table!(flat_f64: 1 2 3 4 5 6 7 8 9 10 11 12),
    runs: runs_table!(runs_f64, false: [1 2 3 4 5 6] [7 8] [9 10 11 12] []),
    depthwise: runs_table!(runs_f64, true: [] [] [1 2 3 4 5 6 7 8] []),
    transposing: transposing_table!(transposing_f64: 1 2 3 4 5 6 7 8 9 10 11 12),
    vector: VectorKernels { along: along_f64, across: across_f64, strided: portable::vector::<f64> },
    transpose: portable::transpose::<f64>,
    copy: portable::copy_plain::<f64>,
    copy_panels: portable::copy_panels::<f64, 4>,
};

/// There are no masks: a partial vector is loaded and stored element by element, and its "mask" is their count.
#[inline]
fn count(n: usize) -> usize {
    n
}

/// A hint that stable Rust has no intrinsic for; the hardware's own prefetching has to do.
#[inline(always)]
fn prefetch<T>(_address: *const T) {}

/// Defines the operations of one element type that NEON has under other names, or not at all.
macro_rules! operations {
    (
        $elem:ty, $vector:ty, $lanes:literal, zero: $zero:ident, fma: $fma:ident, load_first: $load_first:ident,
        store_first: $store_first:ident, intrinsics: $splat:ident $fused:ident $load:ident $store:ident
    ) => {
        #[inline]
        #[target_feature(enable = "neon")]
        fn $zero() -> $vector {
            $splat(0.0)
        }

        /// `a * b + c`, rounded once.
        #[inline]
        #[target_feature(enable = "neon")]
        fn $fma(a: $vector, b: $vector, c: $vector) -> $vector {
            $fused(c, a, b)
        }

        /// The first `n` elements, then zeros.
        ///
        /// # Safety
        /// `n` elements are readable, and `n` is at most the lanes of a vector.
        #[inline]
        #[target_feature(enable = "neon")]
        unsafe fn $load_first(from: *const $elem, n: usize) -> $vector {
            let mut buffer = [0.0; $lanes];
            for (i, value) in buffer.iter_mut().enumerate().take(n) {
                // SAFETY: `i < n`, for which the caller vouches.
                *value = unsafe { *from.add(i) };
            }
            // SAFETY: the buffer holds one vector.
            unsafe { $load(buffer.as_ptr()) }
        }

        /// Stores the first `n` elements.
        ///
        /// # Safety
        /// `n` elements are writable, and `n` is at most the lanes of a vector.
        #[inline]
        #[target_feature(enable = "neon")]
        unsafe fn $store_first(to: *mut $elem, n: usize, vector: $vector) {
            let mut buffer = [0.0; $lanes];
            // SAFETY: the buffer holds one vector.
            unsafe { $store(buffer.as_mut_ptr(), vector) };
            for (i, value) in buffer.iter().enumerate().take(n) {
                // SAFETY: `i < n`, for which the caller vouches.
                unsafe { *to.add(i) = *value };
            }
        }
    };
}

operations!(
    f32, float32x4_t, 4, zero: zero_f32, fma: fma_f32, load_first: load_first_f32, store_first: store_first_f32,
    intrinsics: vdupq_n_f32 vfmaq_f32 vld1q_f32 vst1q_f32
);
operations!(
    f64, float64x2_t, 2, zero: zero_f64, fma: fma_f64, load_first: load_first_f64, store_first: store_first_f64,
    intrinsics: vdupq_n_f64 vfmaq_f64 vld1q_f64 vst1q_f64
);

micro_kernels!(
    /// Twelve rows of two vectors of four.
    neon_f32, flat_f32, runs_f32, "neon", f32, 4, mask: count, zero: zero_f32,
    splat: vdupq_n_f32, fma: fma_f32, prefetch: prefetch, load: vld1q_f32, store: vst1q_f32,
    load_masked: |p, n| load_first_f32(p, n),
    store_masked: |p, n, x| store_first_f32(p, n, x),
);
micro_kernels!(
    /// Twelve rows of two vectors of two.
    neon_f64, flat_f64, runs_f64, "neon", f64, 2, mask: count, zero: zero_f64,
    splat: vdupq_n_f64, fma: fma_f64, prefetch: prefetch, load: vld1q_f64, store: vst1q_f64,
    load_masked: |p, n| load_first_f64(p, n),
    store_masked: |p, n, x| store_first_f64(p, n, x),
);

/// Four values of each of four columns: a vector for each of the four steps of K.
///
/// # Safety
/// Four values are readable at `from` and at three further columns, `column` apart.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn block_4x4_f32(from: *const f32, column: isize) -> [float32x4_t; 4] {
    let mut rows = [zero_f32(); 4];
    for (j, row) in rows.iter_mut().enumerate() {
        // SAFETY: column `j` of four.
        *row = unsafe { vld1q_f32(from.offset(j as isize * column)) };
    }
    let [r0, r1, r2, r3] = rows;
    let halves = |x, y| (vreinterpretq_f64_f32(vtrn1q_f32(x, y)), vreinterpretq_f64_f32(vtrn2q_f32(x, y)));
    let ((a0, a1), (a2, a3)) = (halves(r0, r1), halves(r2, r3));
    [
        vreinterpretq_f32_f64(vtrn1q_f64(a0, a2)),
        vreinterpretq_f32_f64(vtrn1q_f64(a1, a3)),
        vreinterpretq_f32_f64(vtrn2q_f64(a0, a2)),
        vreinterpretq_f32_f64(vtrn2q_f64(a1, a3)),
    ]
}

/// Two values of each of two columns.
///
/// # Safety
/// Two values are readable at `from` and at the next column, `column` further.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn block_2x2_f64(from: *const f64, column: isize) -> [float64x2_t; 2] {
    // SAFETY: two columns of two values.
    let (x, y) = unsafe { (vld1q_f64(from), vld1q_f64(from.offset(column))) };
    [vtrn1q_f64(x, y), vtrn2q_f64(x, y)]
}

transposing_kernels!(
    transposing_f32, "neon", f32, 4, depth: 4: 0 1 2 3, block: block_4x4_f32, zero: zero_f32,
    splat: vdupq_n_f32, fma: fma_f32, prefetch: prefetch, load: vld1q_f32, store: vst1q_f32,
);
transposing_kernels!(
    transposing_f64, "neon", f64, 2, depth: 2: 0 1, block: block_2x2_f64, zero: zero_f64,
    splat: vdupq_n_f64, fma: fma_f64, prefetch: prefetch, load: vld1q_f64, store: vst1q_f64,
);
vector_kernels!(
    along_f32, along_rows_f32, across_f32, across_lane_f32, "neon", f32, 4, virtual: 32, rows: 2, mask: count,
    zero: zero_f32, splat: vdupq_n_f32, fma: fma_f32, load: vld1q_f32, store: vst1q_f32,
    load_masked: |p, n| load_first_f32(p, n),
);
vector_kernels!(
    along_f64, along_rows_f64, across_f64, across_lane_f64, "neon", f64, 2, virtual: 16, rows: 2, mask: count,
    zero: zero_f64, splat: vdupq_n_f64, fma: fma_f64, load: vld1q_f64, store: vst1q_f64,
    load_masked: |p, n| load_first_f64(p, n),
);
