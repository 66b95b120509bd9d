//! The micro-kernels for x86-64 with AVX2 and FMA (6 rows) and with AVX-512 (12 rows), and transposing packs.
//!
//! Why these tiles: a core starts two FMAs per cycle and each takes four, so at least eight accumulators must be
//! in flight; each FMA also wants operands, and only two vectors are loaded per cycle. Two vectors of columns by
//! six rows use 12 accumulators of the 16 AVX2 registers and load 8 times for 12 FMAs; by twelve rows, 24 of the
//! 32 AVX-512 registers and 14 loads for 24 FMAs. Columns stay narrow because layers are often 10, 16, 32 or 48
//! wide and rows come in batches that kernels of every height serve.

use std::arch::x86_64::*;

use crate::Element;
use crate::kernel::{KernelSet, Tile, direct_table, packed_table};

/// The kernels for `f32` with AVX2 and FMA.
pub(crate) static AVX2_F32: KernelSet<f32> = KernelSet {
    name: "avx2",
    lanes: 8,
    nr: 16,
    packed: packed_table!(avx2_f32: 1 2 3 4 5 6),
    direct: direct_table!(avx2_f32: 1 2 3 4 5 6),
    transpose: transpose_f32,
    copy: copy_avx2::<f32>,
};

/// The kernels for `f64` with AVX2 and FMA.
pub(crate) static AVX2_F64: KernelSet<f64> = KernelSet {
    name: "avx2",
    lanes: 4,
    nr: 8,
    packed: packed_table!(avx2_f64: 1 2 3 4 5 6),
    direct: direct_table!(avx2_f64: 1 2 3 4 5 6),
    transpose: transpose_f64,
    copy: copy_avx2::<f64>,
};

/// The kernels for `f32` with AVX-512.
pub(crate) static AVX512_F32: KernelSet<f32> = KernelSet {
    name: "avx512",
    lanes: 16,
    nr: 32,
    packed: packed_table!(avx512_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
    direct: direct_table!(avx512_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
    transpose: transpose_f32,
    copy: copy_avx512::<f32>,
};

/// The kernels for `f64` with AVX-512.
pub(crate) static AVX512_F64: KernelSet<f64> = KernelSet {
    name: "avx512",
    lanes: 8,
    nr: 16,
    packed: packed_table!(avx512_f64: 1 2 3 4 5 6 7 8 9 10 11 12),
    direct: direct_table!(avx512_f64: 1 2 3 4 5 6 7 8 9 10 11 12),
    transpose: transpose_f64,
    copy: copy_avx512::<f64>,
};

/// Sixteen words of which the last `n` of the first eight are set, wherever `n <= 8`: a window into it is a mask.
static WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// The mask of the first `n` of 8 lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn mask_8x32(n: usize) -> __m256i {
    let n = n.min(8);
    // SAFETY: words `8 - n..16 - n` lie in the sixteen of the window.
    unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - n).cast()) }
}

/// The mask of the first `n` of 4 lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn mask_4x64(n: usize) -> __m256i {
    let n = n.min(4);
    // SAFETY: words `8 - 2n..16 - 2n` lie in the sixteen of the window.
    unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - 2 * n).cast()) }
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

/// Rows of the highest tile.
const MAX_ROWS: usize = 12;

/// The same pointer, of unknown origin to the compiler. It would otherwise compute the address of each row from
/// that of the one before, a chain through the whole loop that takes longer than the arithmetic.
#[inline(always)]
fn opaque<T>(mut pointer: *const T) -> *const T {
    // SAFETY: there is no instruction; the pointer goes through a register.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, readonly, nostack, preserves_flags)) };
    pointer
}

/// Defines one family of micro-kernels. The body is the same for all; the operations are the instruction set's.
macro_rules! micro_kernels {
    (
        $(#[$doc:meta])*
        $name:ident, $features:literal, $elem:ty, $lanes:literal, mask: $mask:ident, zero: $zero:ident,
        splat: $splat:ident, fma: $fma:ident, load: $load:ident, store: $store:ident,
        load_masked: |$load_p:ident, $load_m:ident| $load_masked:expr,
        store_masked: |$store_p:ident, $store_m:ident, $store_x:ident| $store_masked:expr $(,)?
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The CPU has the features; the tile's pointers are valid for what the tile says, and for a packed
        /// kernel for whole vectors of B.
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize, const V: usize, const PACKED: bool>(call: &Tile<$elem>) {
            let tail = call.cols - $lanes * (V - 1);
            let mask = $mask(tail);
            let whole = tail == $lanes;
            let mut sums = [[$zero(); V]; M];
            if call.load {
                for i in 0..M {
                    for v in 0..V {
                        // SAFETY: row `i < M` of the tile, and vector `v` of its columns, the last one masked
                        // (masked lanes are not accessed).
                        unsafe {
                            let from = call.c.offset(i as isize * call.c_row_stride).add(v * $lanes);
                            sums[i][v] = if v + 1 < V || whole {
                                $load(from)
                            } else {
                                let ($load_p, $load_m) = (from, mask);
                                $load_masked
                            };
                        }
                    }
                }
            }
            if PACKED {
                for i in 0..M {
                    // A chain starts from C: without this, each tile would begin with a wait for it.
                    let next = call.next_c.wrapping_offset(i as isize * call.c_row_stride);
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(V * $lanes - 1).cast());
                }
            }
            let mut b = call.b;
            let (a_row_stride, a_k_stride, b_k_stride) = if PACKED {
                (1, M as isize, 2 * $lanes)
            } else {
                (call.a_row_stride, call.a_k_stride, call.b_k_stride)
            };
            // A pointer for every third row: the rows between are a stride away, which is an addressing mode.
            let mut a = [call.a; MAX_ROWS / 3];
            for (group, a) in a.iter_mut().enumerate() {
                *a = a.wrapping_offset(3 * group as isize * a_row_stride);
                if !PACKED {
                    *a = opaque(*a);
                }
            }
            for _ in 0..call.k {
                let mut columns = [$zero(); V];
                for v in 0..V {
                    // SAFETY: row `k` of B: whole vectors of a packed panel, or the columns of the tile with the
                    // last vector masked.
                    unsafe {
                        let from = b.add(v * $lanes);
                        columns[v] = if PACKED || v + 1 < V {
                            $load(from)
                        } else {
                            let ($load_p, $load_m) = (from, mask);
                            $load_masked
                        };
                    }
                }
                for i in 0..M {
                    // SAFETY: row `i < M`, column `k` of A.
                    let x = unsafe { $splat(*a[i / 3].offset((i % 3) as isize * a_row_stride)) };
                    for v in 0..V {
                        sums[i][v] = $fma(x, columns[v], sums[i][v]);
                    }
                }
                for a in &mut a {
                    *a = a.wrapping_offset(a_k_stride);
                }
                b = b.wrapping_offset(b_k_stride);
            }
            for i in 0..M {
                for v in 0..V {
                    // SAFETY: as for loading C.
                    unsafe {
                        let to = call.c.offset(i as isize * call.c_row_stride).add(v * $lanes);
                        if v + 1 < V || whole {
                            $store(to, sums[i][v]);
                        } else {
                            let ($store_p, $store_m, $store_x) = (to, mask, sums[i][v]);
                            $store_masked
                        }
                    }
                }
            }
        }
    };
}

micro_kernels!(
    /// Six rows of two vectors of eight.
    avx2_f32, "avx2,fma", f32, 8, mask: mask_8x32, zero: _mm256_setzero_ps,
    splat: _mm256_set1_ps, fma: _mm256_fmadd_ps, load: _mm256_loadu_ps, store: _mm256_storeu_ps,
    load_masked: |p, m| _mm256_maskload_ps(p, m),
    store_masked: |p, m, x| _mm256_maskstore_ps(p, m, x),
);
micro_kernels!(
    /// Six rows of two vectors of four.
    avx2_f64, "avx2,fma", f64, 4, mask: mask_4x64, zero: _mm256_setzero_pd,
    splat: _mm256_set1_pd, fma: _mm256_fmadd_pd, load: _mm256_loadu_pd, store: _mm256_storeu_pd,
    load_masked: |p, m| _mm256_maskload_pd(p, m),
    store_masked: |p, m, x| _mm256_maskstore_pd(p, m, x),
);
micro_kernels!(
    /// Twelve rows of two vectors of sixteen.
    avx512_f32, "avx512f", f32, 16, mask: mask_16, zero: _mm512_setzero_ps,
    splat: _mm512_set1_ps, fma: _mm512_fmadd_ps, load: _mm512_loadu_ps, store: _mm512_storeu_ps,
    load_masked: |p, m| _mm512_maskz_loadu_ps(m, p),
    store_masked: |p, m, x| _mm512_mask_storeu_ps(p, m, x),
);
micro_kernels!(
    /// Twelve rows of two vectors of eight.
    avx512_f64, "avx512f", f64, 8, mask: mask_8, zero: _mm512_setzero_pd,
    splat: _mm512_set1_pd, fma: _mm512_fmadd_pd, load: _mm512_loadu_pd, store: _mm512_storeu_pd,
    load_masked: |p, m| _mm512_maskz_loadu_pd(m, p),
    store_masked: |p, m, x| _mm512_mask_storeu_pd(p, m, x),
);

/// [`CopyRows`](crate::kernel::CopyRows) with vectors of 256 bits.
///
/// # Safety
/// The CPU has AVX2; `from` and `to` are valid for the elements named there and do not overlap.
#[target_feature(enable = "avx2")]
unsafe fn copy_avx2<T: Element>(
    from: *const T,
    stride: isize,
    to: *mut T,
    to_stride: usize,
    width: usize,
    depth: usize,
) {
    // SAFETY: what the caller promises.
    unsafe { super::portable::copy(from, stride, to, to_stride, width, depth) }
}

/// [`CopyRows`](crate::kernel::CopyRows) with vectors of 512 bits.
///
/// # Safety
/// The CPU has AVX-512; `from` and `to` are valid for the elements named there and do not overlap.
#[target_feature(enable = "avx2,avx512f")]
unsafe fn copy_avx512<T: Element>(
    from: *const T,
    stride: isize,
    to: *mut T,
    to_stride: usize,
    width: usize,
    depth: usize,
) {
    // SAFETY: what the caller promises.
    unsafe { super::portable::copy(from, stride, to, to_stride, width, depth) }
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
