//! The micro-kernels for x86-64 with AVX2 and FMA (6 rows) and with AVX-512 (12 rows), and transposing packs.
//!
//! Why these tiles: a core starts two FMAs per cycle and each takes four, so at least eight accumulators must be
//! in flight; each FMA also wants operands, and only two vectors are loaded per cycle. Two vectors of columns by
//! six rows use 12 accumulators of the 16 AVX2 registers and load 8 times for 12 FMAs; by twelve rows, 24 of the
//! 32 AVX-512 registers and 14 loads for 24 FMAs. Columns stay narrow because layers are often 10, 16, 32 or 48
//! wide and rows come in batches that kernels of every height serve.

use std::arch::x86_64::*;

use crate::kernel::tile::{micro_kernels, transposing_kernels};
use crate::kernel::vector::{VectorCall, VectorKernels, strided, vector_kernels};
use crate::kernel::{KernelSet, RunTile, Tile, direct_table, flat_table, packed_table, runs_table, transposing_table};
use crate::number::Number;

/// The kernels for `f32` with AVX2 and FMA.
pub(crate) static AVX2_F32: KernelSet<f32> = KernelSet {
    lanes: 8,
    nr: 16,
    packed: packed_table!(avx2_f32: 1 2 3 4 5 6),
    direct: direct_table!(avx2_f32: 1 2 3 4 5 6),
    flat: flat_table!(flat_avx2_f32: 1 2 3 4 5 6),
    runs: runs_table!(runs_avx2_f32, false: [1 2] [3] [4 5 6] [7 8 9 10 11 12]),
    depthwise: runs_table!(runs_avx2_f32, true: [] [] [1 2 3 4 5 6 7 8] []),
    transposing: transposing_table!(transposing_avx2_f32: 1 2 3 4 5 6),
    vector: VectorKernels { along: along_avx2_f32, across: across_avx2_f32, strided: strided_avx2::<f32> },
    transpose: transpose_f32,
    copy: copy_avx2::<f32>,
    copy_panels: copy_panels_avx2::<f32, 16>,
};

/// The kernels for `f64` with AVX2 and FMA.
pub(crate) static AVX2_F64: KernelSet<f64> = KernelSet {
    lanes: 4,
    nr: 8,
    packed: packed_table!(avx2_f64: 1 2 3 4 5 6),
    direct: direct_table!(avx2_f64: 1 2 3 4 5 6),
    flat: flat_table!(flat_avx2_f64: 1 2 3 4 5 6),
    runs: runs_table!(runs_avx2_f64, false: [1 2] [3] [4 5 6] [7 8 9 10 11 12]),
    depthwise: runs_table!(runs_avx2_f64, true: [] [] [1 2 3 4 5 6 7 8] []),
    transposing: transposing_table!(transposing_avx2_f64: 1 2 3 4 5 6),
    vector: VectorKernels { along: along_avx2_f64, across: across_avx2_f64, strided: strided_avx2::<f64> },
    transpose: transpose_f64,
    copy: copy_avx2::<f64>,
    copy_panels: copy_panels_avx2::<f64, 8>,
};

/// The kernels for `f32` with AVX-512.
pub(crate) static AVX512_F32: KernelSet<f32> = KernelSet {
    lanes: 16,
    nr: 32,
    packed: packed_table!(avx512_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
    direct: direct_table!(avx512_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
    flat: flat_table!(flat_avx512_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
    runs: runs_table!(runs_avx512_f32, false: [1 2 3 4 5 6] [7 8] [9 10 11 12] []),
    depthwise: runs_table!(runs_avx512_f32, true: [] [] [1 2 3 4 5 6 7 8] []),
    transposing: transposing_table!(transposing_avx512_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
    vector: VectorKernels { along: along_avx512_f32, across: across_avx512_f32, strided: strided_avx512::<f32> },
    transpose: transpose_f32,
    copy: copy_avx512::<f32>,
    copy_panels: copy_panels_avx512::<f32, 32>,
};

/// The kernels for `f64` with AVX-512.
pub(crate) static AVX512_F64: KernelSet<f64> = KernelSet {
    lanes: 8,
    nr: 16,
    packed: packed_table!(avx512_f64: 1 2 3 4 5 6 7 8 9 10 11 12),
    direct: direct_table!(avx512_f64: 1 2 3 4 5 6 7 8 9 10 11 12),
    flat: flat_table!(flat_avx512_f64: 1 2 3 4 5 6 7 8 9 10 11 12),
    runs: runs_table!(runs_avx512_f64, false: [1 2 3 4 5 6] [7 8] [9 10 11 12] []),
    depthwise: runs_table!(runs_avx512_f64, true: [] [] [1 2 3 4 5 6 7 8] []),
    transposing: transposing_table!(transposing_avx512_f64: 1 2 3 4 5 6 7 8 9 10 11 12),
    vector: VectorKernels { along: along_avx512_f64, across: across_avx512_f64, strided: strided_avx512::<f64> },
    transpose: transpose_f64,
    copy: copy_avx512::<f64>,
    copy_panels: copy_panels_avx512::<f64, 16>,
};

/// Sixteen words of which the last `n` of the first eight are set, wherever `n <= 8`: a window into it is a mask.
static WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// The first `n` lanes of 256 bits.
#[derive(Clone, Copy)]
struct First {
    words: __m256i,
    n: usize,
}

/// The first `n` of 8 lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn mask_8x32(n: usize) -> First {
    let n = n.min(8);
    // SAFETY: words `8 - n..16 - n` lie in the sixteen of the window.
    First { words: unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - n).cast()) }, n }
}

/// The first `n` of 4 lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn mask_4x64(n: usize) -> First {
    let n = n.min(4);
    // SAFETY: words `8 - 2n..16 - 2n` lie in the sixteen of the window.
    First { words: unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - 2 * n).cast()) }, n }
}

/// Stores the first `n < 8` lanes. A masked store takes some CPUs dozens of internal steps.
///
/// # Safety
/// So many elements are writable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_first_f32(mut to: *mut f32, n: usize, x: __m256) {
    let mut half = _mm256_castps256_ps128(x);
    // SAFETY: four, two and one elements, as far as `n` has them.
    unsafe {
        if n & 4 != 0 {
            _mm_storeu_ps(to, half);
            (to, half) = (to.add(4), _mm256_extractf128_ps::<1>(x));
        }
        if n & 2 != 0 {
            _mm_storel_pd(to.cast(), _mm_castps_pd(half));
            (to, half) = (to.add(2), _mm_movehl_ps(half, half));
        }
        if n & 1 != 0 {
            _mm_store_ss(to, half);
        }
    }
}

/// Stores the first `n < 4` lanes.
///
/// # Safety
/// So many elements are writable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_first_f64(mut to: *mut f64, n: usize, x: __m256d) {
    let mut half = _mm256_castpd256_pd128(x);
    // SAFETY: two and one elements, as far as `n` has them.
    unsafe {
        if n & 2 != 0 {
            _mm_storeu_pd(to, half);
            (to, half) = (to.add(2), _mm256_extractf128_pd::<1>(x));
        }
        if n & 1 != 0 {
            _mm_store_sd(to, half);
        }
    }
}

/// The mask of the first `n` of 16 lanes.
#[inline]
fn mask_16(n: usize) -> __mmask16 {
    ((1_u32 << n.min(16)) - 1) as __mmask16
}

/// The mask of the first `n` of 8 lanes.
#[inline]
fn mask_8(n: usize) -> __mmask8 {
    ((1_u32 << n.min(8)) - 1) as __mmask8
}

/// Asks for a cache line, without waiting for it; any address does.
#[inline(always)]
fn prefetch<T>(address: *const T) {
    // SAFETY: a hint, which never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}

/// [`prefetch`] into the second-level cache: for lines that would push each other out of the first.
#[inline(always)]
fn prefetch_l2<T>(address: *const T) {
    // SAFETY: a hint, which never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
}

micro_kernels!(
    /// Six rows of two vectors of eight.
    avx2_f32, flat_avx2_f32, runs_avx2_f32, "avx2,fma", f32, 8, mask: mask_8x32, zero: _mm256_setzero_ps,
    splat: _mm256_set1_ps, fma: _mm256_fmadd_ps, prefetch: prefetch, load: _mm256_loadu_ps, store: _mm256_storeu_ps,
    load_masked: |p, m| _mm256_maskload_ps(p, m.words),
    store_masked: |p, m, x| store_first_f32(p, m.n, x),
);
micro_kernels!(
    /// Six rows of two vectors of four.
    avx2_f64, flat_avx2_f64, runs_avx2_f64, "avx2,fma", f64, 4, mask: mask_4x64, zero: _mm256_setzero_pd,
    splat: _mm256_set1_pd, fma: _mm256_fmadd_pd, prefetch: prefetch, load: _mm256_loadu_pd, store: _mm256_storeu_pd,
    load_masked: |p, m| _mm256_maskload_pd(p, m.words),
    store_masked: |p, m, x| store_first_f64(p, m.n, x),
);
micro_kernels!(
    /// Twelve rows of two vectors of sixteen.
    avx512_f32, flat_avx512_f32, runs_avx512_f32, "avx512f", f32, 16, mask: mask_16, zero: _mm512_setzero_ps,
    splat: _mm512_set1_ps, fma: _mm512_fmadd_ps, prefetch: prefetch, load: _mm512_loadu_ps, store: _mm512_storeu_ps,
    load_masked: |p, m| _mm512_maskz_loadu_ps(m, p),
    store_masked: |p, m, x| _mm512_mask_storeu_ps(p, m, x),
);
micro_kernels!(
    /// Twelve rows of two vectors of eight.
    avx512_f64, flat_avx512_f64, runs_avx512_f64, "avx512f", f64, 8, mask: mask_8, zero: _mm512_setzero_pd,
    splat: _mm512_set1_pd, fma: _mm512_fmadd_pd, prefetch: prefetch, load: _mm512_loadu_pd, store: _mm512_storeu_pd,
    load_masked: |p, m| _mm512_maskz_loadu_pd(m, p),
    store_masked: |p, m, x| _mm512_mask_storeu_pd(p, m, x),
);

/// Four values of each of eight columns: a vector for each of the four steps of K.
///
/// # Safety
/// Four values are readable at `from` and at seven further columns, `column` apart.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_8x4_f32(from: *const f32, column: isize) -> [__m256; 4] {
    let mut pairs = [_mm256_setzero_ps(); 4];
    for (j, pair) in pairs.iter_mut().enumerate() {
        // SAFETY: columns `j` and `j + 4` of eight.
        unsafe {
            let low = _mm_loadu_ps(from.offset(j as isize * column));
            let high = _mm_loadu_ps(from.offset((j + 4) as isize * column));
            *pair = _mm256_set_m128(high, low);
        }
    }
    // Four by four within each half.
    let [r0, r1, r2, r3] = pairs;
    let (a0, a1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
    let (a2, a3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
    [
        _mm256_shuffle_ps::<0x44>(a0, a2),
        _mm256_shuffle_ps::<0xee>(a0, a2),
        _mm256_shuffle_ps::<0x44>(a1, a3),
        _mm256_shuffle_ps::<0xee>(a1, a3),
    ]
}

/// Two values of each of four columns.
///
/// # Safety
/// Two values are readable at `from` and at three further columns, `column` apart.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_4x2_f64(from: *const f64, column: isize) -> [__m256d; 2] {
    let mut pairs = [_mm256_setzero_pd(); 2];
    for (j, pair) in pairs.iter_mut().enumerate() {
        // SAFETY: columns `j` and `j + 2` of four.
        unsafe {
            let low = _mm_loadu_pd(from.offset(j as isize * column));
            let high = _mm_loadu_pd(from.offset((j + 2) as isize * column));
            *pair = _mm256_set_m128d(high, low);
        }
    }
    [_mm256_unpacklo_pd(pairs[0], pairs[1]), _mm256_unpackhi_pd(pairs[0], pairs[1])]
}

/// Four vectors of 128 bits, `stride` values apart, as one. Masked loads do it beside the shuffles that follow,
/// whereas the compiler would turn the intrinsics for them into more shuffles.
///
/// # Safety
/// The four vectors are readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_quarters(from: *const f32, stride: isize) -> __m512 {
    let mut quarters: __m512;
    // SAFETY: loads from where the caller says, and nothing else.
    unsafe {
        std::arch::asm!(
            "vbroadcastf32x4 {x}, xmmword ptr [{p}]",
            "vbroadcastf32x4 {x}{{{second}}}, xmmword ptr [{p} + {s}]",
            "vbroadcastf32x4 {x}{{{third}}}, xmmword ptr [{p} + 2 * {s}]",
            "vbroadcastf32x4 {x}{{{fourth}}}, xmmword ptr [{p} + {t}]",
            x = out(zmm_reg) quarters,
            p = in(reg) from,
            s = in(reg) stride * 4,
            t = in(reg) stride * 12,
            second = in(kreg) 0x00f0_u16,
            third = in(kreg) 0x0f00_u16,
            fourth = in(kreg) 0xf000_u16,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    quarters
}

/// Sixteen values of each of sixteen columns: a whole cache line of each, because the lines of columns that are a
/// power of two apart push each other out of the cache.
///
/// # Safety
/// Sixteen values are readable at `from` and at fifteen further columns, `column` apart.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn block_16x16_f32(from: *const f32, column: isize) -> [__m512; 16] {
    // `rows[r][q]`: four values from `4q` of the columns `r`, `r + 4`, `r + 8`, `r + 12`.
    let mut rows = [[_mm512_setzero_ps(); 4]; 4];
    for (r, row) in rows.iter_mut().enumerate() {
        for (q, quarters) in row.iter_mut().enumerate() {
            // SAFETY: four values of sixteen from `4q`, of columns below sixteen.
            *quarters = unsafe { load_quarters(from.offset(r as isize * column).add(4 * q), 4 * column) };
        }
    }
    let mut block = [_mm512_setzero_ps(); 16];
    for q in 0..4 {
        // Four by four within each quarter.
        let (a0, a1) = (_mm512_unpacklo_ps(rows[0][q], rows[1][q]), _mm512_unpackhi_ps(rows[0][q], rows[1][q]));
        let (a2, a3) = (_mm512_unpacklo_ps(rows[2][q], rows[3][q]), _mm512_unpackhi_ps(rows[2][q], rows[3][q]));
        block[4 * q] = _mm512_shuffle_ps::<0x44>(a0, a2);
        block[4 * q + 1] = _mm512_shuffle_ps::<0xee>(a0, a2);
        block[4 * q + 2] = _mm512_shuffle_ps::<0x44>(a1, a3);
        block[4 * q + 3] = _mm512_shuffle_ps::<0xee>(a1, a3);
    }
    block
}

/// Eight values of each of eight columns: a whole cache line of each.
///
/// # Safety
/// Eight values are readable at `from` and at seven further columns, `column` apart.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn block_8x8_f64(from: *const f64, column: isize) -> [__m512d; 8] {
    let mut block = [_mm512_setzero_pd(); 8];
    for q in 0..4 {
        // Two values from `2q` of the columns `r`, `r + 2`, `r + 4`, `r + 6`.
        let quarters = |r: usize| {
            // SAFETY: two values of eight from `2q`, of columns below eight; strides are twice as many `f32`.
            let quarters = unsafe { load_quarters(from.offset(r as isize * column).add(2 * q).cast(), 2 * 2 * column) };
            _mm512_castps_pd(quarters)
        };
        let (even, odd) = (quarters(0), quarters(1));
        block[2 * q] = _mm512_unpacklo_pd(even, odd);
        block[2 * q + 1] = _mm512_unpackhi_pd(even, odd);
    }
    block
}

transposing_kernels!(
    transposing_avx2_f32, "avx2,fma", f32, 8, depth: 4: 0 1 2 3, block: block_8x4_f32, zero: _mm256_setzero_ps,
    splat: _mm256_set1_ps, fma: _mm256_fmadd_ps, prefetch: prefetch, load: _mm256_loadu_ps, store: _mm256_storeu_ps,
);
transposing_kernels!(
    transposing_avx2_f64, "avx2,fma", f64, 4, depth: 2: 0 1, block: block_4x2_f64, zero: _mm256_setzero_pd,
    splat: _mm256_set1_pd, fma: _mm256_fmadd_pd, prefetch: prefetch, load: _mm256_loadu_pd, store: _mm256_storeu_pd,
);
transposing_kernels!(
    transposing_avx512_f32, "avx512f", f32, 16, depth: 16: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15,
    block: block_16x16_f32, zero: _mm512_setzero_ps,
    splat: _mm512_set1_ps, fma: _mm512_fmadd_ps, prefetch: prefetch_l2, load: _mm512_loadu_ps, store: _mm512_storeu_ps,
);
transposing_kernels!(
    transposing_avx512_f64, "avx512f", f64, 8, depth: 8: 0 1 2 3 4 5 6 7, block: block_8x8_f64, zero: _mm512_setzero_pd,
    splat: _mm512_set1_pd, fma: _mm512_fmadd_pd, prefetch: prefetch_l2, load: _mm512_loadu_pd, store: _mm512_storeu_pd,
);

vector_kernels!(
    along_avx2_f32, along_rows_avx2_f32, across_avx2_f32, across_lane_avx2_f32, "avx2,fma", f32, 8, virtual: 32, rows: 3,
    mask: mask_8x32, zero: _mm256_setzero_ps, splat: _mm256_set1_ps, fma: _mm256_fmadd_ps, load: _mm256_loadu_ps,
    store: _mm256_storeu_ps, load_masked: |p, m| _mm256_maskload_ps(p, m.words),
);
vector_kernels!(
    along_avx2_f64, along_rows_avx2_f64, across_avx2_f64, across_lane_avx2_f64, "avx2,fma", f64, 4, virtual: 16, rows: 3,
    mask: mask_4x64, zero: _mm256_setzero_pd, splat: _mm256_set1_pd, fma: _mm256_fmadd_pd, load: _mm256_loadu_pd,
    store: _mm256_storeu_pd, load_masked: |p, m| _mm256_maskload_pd(p, m.words),
);
vector_kernels!(
    along_avx512_f32, along_rows_avx512_f32, across_avx512_f32, across_lane_avx512_f32, "avx512f", f32, 16, virtual: 32, rows: 4,
    mask: mask_16, zero: _mm512_setzero_ps, splat: _mm512_set1_ps, fma: _mm512_fmadd_ps, load: _mm512_loadu_ps,
    store: _mm512_storeu_ps, load_masked: |p, m| _mm512_maskz_loadu_ps(m, p),
);
vector_kernels!(
    along_avx512_f64, along_rows_avx512_f64, across_avx512_f64, across_lane_avx512_f64, "avx512f", f64, 8, virtual: 16, rows: 4,
    mask: mask_8, zero: _mm512_setzero_pd, splat: _mm512_set1_pd, fma: _mm512_fmadd_pd, load: _mm512_loadu_pd,
    store: _mm512_storeu_pd, load_masked: |p, m| _mm512_maskz_loadu_pd(m, p),
);

/// [`strided`] with the FMA of the instruction set.
///
/// # Safety
/// As [`VectorKernel`](crate::kernel::vector::VectorKernel).
#[target_feature(enable = "avx2,fma")]
unsafe fn strided_avx2<T: Number>(call: &VectorCall<T>) {
    // SAFETY: what the caller promises.
    unsafe { strided(call) }
}

/// [`strided`] with the FMA of the instruction set.
///
/// # Safety
/// As [`VectorKernel`](crate::kernel::vector::VectorKernel).
#[target_feature(enable = "avx512f")]
unsafe fn strided_avx512<T: Number>(call: &VectorCall<T>) {
    // SAFETY: what the caller promises.
    unsafe { strided(call) }
}

/// [`CopyRows`](crate::kernel::CopyRows) with vectors of 256 bits.
///
/// # Safety
/// The CPU has AVX2; `from` and `to` are valid for the elements named there and do not overlap.
#[target_feature(enable = "avx2")]
unsafe fn copy_avx2<T: Number>(
    from: *const T,
    stride: isize,
    to: *mut T,
    to_stride: usize,
    width: usize,
    depth: usize,
    ahead: isize,
) {
    // SAFETY: what the caller promises.
    unsafe { super::portable::copy(from, stride, to, to_stride, width, depth, ahead, prefetch) }
}

/// [`CopyRows`](crate::kernel::CopyRows) with vectors of 512 bits.
///
/// # Safety
/// The CPU has AVX-512; `from` and `to` are valid for the elements named there and do not overlap.
#[target_feature(enable = "avx2,avx512f")]
unsafe fn copy_avx512<T: Number>(
    from: *const T,
    stride: isize,
    to: *mut T,
    to_stride: usize,
    width: usize,
    depth: usize,
    ahead: isize,
) {
    // SAFETY: what the caller promises.
    unsafe { super::portable::copy(from, stride, to, to_stride, width, depth, ahead, prefetch) }
}

/// [`CopyPanels`](crate::kernel::CopyPanels) with vectors of 256 bits.
///
/// # Safety
/// The CPU has AVX2; `from` and `to` are valid for the elements named there and do not overlap.
#[target_feature(enable = "avx2")]
unsafe fn copy_panels_avx2<T: Number, const NR: usize>(
    from: *const T,
    depth_stride: isize,
    to: *mut T,
    panel_stride: usize,
    n_panels: usize,
    depth: usize,
) {
    // SAFETY: what the caller promises.
    unsafe { super::portable::copy_panels::<T, NR>(from, depth_stride, to, panel_stride, n_panels, depth) }
}

/// [`CopyPanels`](crate::kernel::CopyPanels) with vectors of 512 bits.
///
/// # Safety
/// The CPU has AVX-512; `from` and `to` are valid for the elements named there and do not overlap.
#[target_feature(enable = "avx2,avx512f")]
unsafe fn copy_panels_avx512<T: Number, const NR: usize>(
    from: *const T,
    depth_stride: isize,
    to: *mut T,
    panel_stride: usize,
    n_panels: usize,
    depth: usize,
) {
    // SAFETY: what the caller promises.
    unsafe { super::portable::copy_panels::<T, NR>(from, depth_stride, to, panel_stride, n_panels, depth) }
}

/// The starts of blocks of `block` that cover `0..len`, the last one moved back to end at `len` (it overlaps the
/// one before and writes the same values again): no remainder to treat apart. Needs `len >= block`.
fn blocks(len: usize, block: usize) -> impl Iterator<Item = usize> {
    (0..len.div_ceil(block)).map(move |index| (index * block).min(len - block))
}

/// [`Transpose`](crate::kernel::Transpose) of `f32` in blocks of 8×8, or of 4×8 for narrow panels.
///
/// # Safety
/// The CPU has AVX2; `from` and `to` are valid for the elements named there and do not overlap.
#[target_feature(enable = "avx2")]
unsafe fn transpose_f32(
    from: *const f32,
    width_stride: isize,
    to: *mut f32,
    to_stride: usize,
    width: usize,
    depth: usize,
) {
    if width >= 8 && depth >= 8 {
        for i in blocks(width, 8) {
            for k in blocks(depth, 8) {
                // SAFETY: the block ends at or before `width` and `depth`.
                unsafe {
                    let from = from.offset(i as isize * width_stride).add(k);
                    transpose_8x8(from, width_stride, to.add(k * to_stride + i), to_stride);
                }
            }
        }
    } else if width >= 4 && depth >= 4 {
        for i in blocks(width, 4) {
            for k in blocks(depth, 4) {
                // SAFETY: the block ends at or before `width` and `depth`.
                unsafe {
                    let from = from.offset(i as isize * width_stride).add(k);
                    transpose_4x4(from, width_stride, to.add(k * to_stride + i), to_stride);
                }
            }
        }
    } else {
        // SAFETY: what the caller promises.
        unsafe { super::portable::transpose(from, width_stride, to, to_stride, width, depth) }
    }
}

/// # Safety
/// Eight rows of eight are readable at `from` and writable at `to`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_8x8(from: *const f32, from_stride: isize, to: *mut f32, to_stride: usize) {
    let mut rows = [_mm256_setzero_ps(); 8];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: row `i < 8`.
        *row = unsafe { _mm256_loadu_ps(from.offset(i as isize * from_stride)) };
    }
    let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
    // Pairs, then quadruples, then the halves of 128 bits.
    let (a0, a1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
    let (a2, a3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
    let (a4, a5) = (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5));
    let (a6, a7) = (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7));
    let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
    let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
    let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
    let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
    let columns = [
        _mm256_permute2f128_ps::<0x20>(b0, b4),
        _mm256_permute2f128_ps::<0x20>(b1, b5),
        _mm256_permute2f128_ps::<0x20>(b2, b6),
        _mm256_permute2f128_ps::<0x20>(b3, b7),
        _mm256_permute2f128_ps::<0x31>(b0, b4),
        _mm256_permute2f128_ps::<0x31>(b1, b5),
        _mm256_permute2f128_ps::<0x31>(b2, b6),
        _mm256_permute2f128_ps::<0x31>(b3, b7),
    ];
    for (k, column) in columns.into_iter().enumerate() {
        // SAFETY: row `k < 8`.
        unsafe { _mm256_storeu_ps(to.add(k * to_stride), column) };
    }
}

/// # Safety
/// Four rows of four are readable at `from` and writable at `to`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_4x4(from: *const f32, from_stride: isize, to: *mut f32, to_stride: usize) {
    let mut rows = [_mm_setzero_ps(); 4];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: row `i < 4`.
        *row = unsafe { _mm_loadu_ps(from.offset(i as isize * from_stride)) };
    }
    let [r0, r1, r2, r3] = rows;
    let (a0, a1) = (_mm_unpacklo_ps(r0, r1), _mm_unpackhi_ps(r0, r1));
    let (a2, a3) = (_mm_unpacklo_ps(r2, r3), _mm_unpackhi_ps(r2, r3));
    let columns = [_mm_movelh_ps(a0, a2), _mm_movehl_ps(a2, a0), _mm_movelh_ps(a1, a3), _mm_movehl_ps(a3, a1)];
    for (k, column) in columns.into_iter().enumerate() {
        // SAFETY: row `k < 4`.
        unsafe { _mm_storeu_ps(to.add(k * to_stride), column) };
    }
}

/// [`Transpose`](crate::kernel::Transpose) of `f64` in blocks of 4×4.
///
/// # Safety
/// The CPU has AVX2; `from` and `to` are valid for the elements named there and do not overlap.
#[target_feature(enable = "avx2")]
unsafe fn transpose_f64(
    from: *const f64,
    width_stride: isize,
    to: *mut f64,
    to_stride: usize,
    width: usize,
    depth: usize,
) {
    if width < 4 || depth < 4 {
        // SAFETY: what the caller promises.
        return unsafe { super::portable::transpose(from, width_stride, to, to_stride, width, depth) };
    }
    for i in blocks(width, 4) {
        for k in blocks(depth, 4) {
            let mut rows = [_mm256_setzero_pd(); 4];
            for (r, row) in rows.iter_mut().enumerate() {
                // SAFETY: the block ends at or before `width` and `depth`.
                *row = unsafe { _mm256_loadu_pd(from.offset((i + r) as isize * width_stride).add(k)) };
            }
            let [r0, r1, r2, r3] = rows;
            let (a0, a1) = (_mm256_unpacklo_pd(r0, r1), _mm256_unpackhi_pd(r0, r1));
            let (a2, a3) = (_mm256_unpacklo_pd(r2, r3), _mm256_unpackhi_pd(r2, r3));
            let columns = [
                _mm256_permute2f128_pd::<0x20>(a0, a2),
                _mm256_permute2f128_pd::<0x20>(a1, a3),
                _mm256_permute2f128_pd::<0x31>(a0, a2),
                _mm256_permute2f128_pd::<0x31>(a1, a3),
            ];
            for (c, column) in columns.into_iter().enumerate() {
                // SAFETY: the block ends at or before `width` and `depth`.
                unsafe { _mm256_storeu_pd(to.add((k + c) * to_stride + i), column) };
            }
        }
    }
}
