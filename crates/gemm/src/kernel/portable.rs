//! The micro-kernels in plain Rust: the reference for the others, and what CPUs without kernels of their own use.
//!
//! Assumes nothing about the CPU. Where the compilation target has a fused multiply-add (aarch64, for one) the
//! compiler turns `mul_add` into it and vectorizes the lanes; elsewhere `mul_add` is a library call: slow, with
//! the same bits.

use crate::kernel::vector::{VectorCall, VectorKernels, strided};
use crate::kernel::{KernelSet, RunTile, Tile, direct_table, packed_table, runs_table};
use crate::number::Number;
use crate::workspace::LINE;

/// Lanes of a "vector" here: what the loops over columns work on at a time.
const LANES_F32: usize = 8;
const LANES_F64: usize = 4;

/// The kernels for `f32`.
pub(crate) static F32: KernelSet<f32> = KernelSet {
    lanes: LANES_F32,
    nr: 2 * LANES_F32,
    packed: packed_table!(tile_f32: 1 2 3 4 5 6),
    direct: direct_table!(tile_f32: 1 2 3 4 5 6),
    flat: &[],
    runs: runs_table!(runs_f32, false: [1 2] [3] [4 5 6] [7 8 9 10 11 12]),
    depthwise: runs_table!(runs_f32, true: [] [] [1 2 3 4 5 6 7 8] []),
    transposing: &[],
    vector: VectorKernels { along: vector::<f32>, across: vector::<f32>, strided: vector::<f32> },
    transpose: transpose::<f32>,
    copy: copy_plain::<f32>,
    copy_panels: copy_panels::<f32, { 2 * LANES_F32 }>,
};

/// The kernels for `f64`.
pub(crate) static F64: KernelSet<f64> = KernelSet {
    lanes: LANES_F64,
    nr: 2 * LANES_F64,
    packed: packed_table!(tile_f64: 1 2 3 4 5 6),
    direct: direct_table!(tile_f64: 1 2 3 4 5 6),
    flat: &[],
    runs: runs_table!(runs_f64, false: [1 2] [3] [4 5 6] [7 8 9 10 11 12]),
    depthwise: runs_table!(runs_f64, true: [] [] [1 2 3 4 5 6 7 8] []),
    transposing: &[],
    vector: VectorKernels { along: vector::<f64>, across: vector::<f64>, strided: vector::<f64> },
    transpose: transpose::<f64>,
    copy: copy_plain::<f64>,
    copy_panels: copy_panels::<f64, { 2 * LANES_F64 }>,
};

/// # Safety
/// As [`tile`].
unsafe fn tile_f32<const M: usize, const V: usize, const PACKED: bool>(call: &Tile<f32>) {
    // SAFETY: the caller promises what `tile` asks for.
    unsafe { tile::<f32, LANES_F32, M, V, PACKED>(call) }
}

/// # Safety
/// As [`tile`].
unsafe fn tile_f64<const M: usize, const V: usize, const PACKED: bool>(call: &Tile<f64>) {
    // SAFETY: the caller promises what `tile` asks for.
    unsafe { tile::<f64, LANES_F64, M, V, PACKED>(call) }
}

/// # Safety
/// The tile's pointers are valid for what the tile says.
#[inline(always)]
unsafe fn tile<T: Number, const L: usize, const M: usize, const V: usize, const PACKED: bool>(call: &Tile<T>) {
    let mut sums = [[[T::ZERO; L]; V]; M];
    // The columns of vector `v`.
    let width = |v: usize| if v + 1 < V { L } else { call.cols - L * (V - 1) };
    if call.load {
        for (i, row) in sums.iter_mut().enumerate() {
            for (v, vector) in row.iter_mut().enumerate() {
                for (j, sum) in vector.iter_mut().enumerate().take(width(v)) {
                    // SAFETY: row `i < M` and column `v * L + j < cols` lie in the tile of C.
                    *sum = unsafe { *call.c.offset(i as isize * call.c_row_stride + (v * L + j) as isize) };
                }
            }
        }
    }
    let (a_row_stride, a_k_stride) = if PACKED { (1, M as isize) } else { (call.a_row_stride, call.a_k_stride) };
    for k in 0..call.k as isize {
        let mut b = [[T::ZERO; L]; V];
        for (v, vector) in b.iter_mut().enumerate() {
            for (j, value) in vector.iter_mut().enumerate().take(width(v)) {
                // SAFETY: row `k` and column `v * L + j < cols` lie in B.
                *value = unsafe { *call.b.offset(k * call.b_k_stride + (v * L + j) as isize) };
            }
        }
        for (i, row) in sums.iter_mut().enumerate() {
            // SAFETY: row `i < M` and column `k` lie in A.
            let a = unsafe { *call.a.offset(i as isize * a_row_stride + k * a_k_stride) };
            for (vector, b) in row.iter_mut().zip(&b) {
                for (sum, b) in vector.iter_mut().zip(b) {
                    *sum = a.mul_add(*b, *sum);
                }
            }
        }
    }
    for (i, row) in sums.iter().enumerate() {
        for (v, vector) in row.iter().enumerate() {
            for (j, sum) in vector.iter().enumerate().take(width(v)) {
                // SAFETY: row `i < M` and column `v * L + j < cols` lie in the tile of C.
                unsafe { *call.c.offset(i as isize * call.c_row_stride + (v * L + j) as isize) = *sum };
            }
        }
    }
}

/// # Safety
/// As [`runs`], or [`depthwise`].
unsafe fn runs_f32<const M: usize, const V: usize, const EACH: bool>(call: &RunTile<f32>) {
    // SAFETY: the caller promises what either asks for.
    unsafe { if EACH { depthwise(call, M) } else { runs::<f32, LANES_F32, M, V>(call) } }
}

/// # Safety
/// As [`runs`], or [`depthwise`].
unsafe fn runs_f64<const M: usize, const V: usize, const EACH: bool>(call: &RunTile<f64>) {
    // SAFETY: the caller promises what either asks for.
    unsafe { if EACH { depthwise(call, M) } else { runs::<f64, LANES_F64, M, V>(call) } }
}

/// A tile over runs is one tile after the other.
///
/// # Safety
/// The tile's pointers are valid for what the tile says.
#[inline(always)]
unsafe fn runs<T: Number, const L: usize, const M: usize, const V: usize>(call: &RunTile<T>) {
    for run in 0..call.n.max(1) {
        let k = if call.n == 0 { 0 } else { call.k };
        // SAFETY: as many starts as runs; a tile without steps reads none of A.
        let a = if k == 0 { call.b } else { unsafe { *call.starts.add(run) }.wrapping_offset(call.a_offset) };
        let part = Tile {
            k,
            a,
            a_row_stride: call.a_row_stride,
            a_k_stride: call.a_k_stride,
            b: call.b.wrapping_offset(run as isize * call.b_run_stride),
            b_k_stride: call.b_k_stride,
            c: call.c,
            c_row_stride: call.c_row_stride,
            next_c: call.c,
            cols: call.cols,
            load: call.load || run > 0,
        };
        // SAFETY: what the caller promises.
        unsafe { tile::<T, L, M, V, false>(&part) }
    }
}

/// A tile over runs whose columns have columns of A of their own, element by element.
///
/// # Safety
/// The tile's pointers are valid for what the tile says.
unsafe fn depthwise<T: Number>(call: &RunTile<T>, height: usize) {
    for i in 0..height as isize {
        for j in 0..call.cols as isize {
            let c = call.c.wrapping_offset(i * call.c_row_stride + j);
            // SAFETY: an element of the tile, of each run's rows of A and of B.
            unsafe {
                let mut sum = if call.load { *c } else { T::ZERO };
                for run in 0..call.n {
                    let a = (*call.starts.add(run)).wrapping_offset(call.a_offset + i * call.a_row_stride + j);
                    let b = call.b.wrapping_offset(run as isize * call.b_run_stride + j);
                    for k in 0..call.k as isize {
                        sum = (*a.offset(k * call.a_k_stride)).mul_add(*b.offset(k * call.b_k_stride), sum);
                    }
                }
                *c = sum;
            }
        }
    }
}

/// The plain product with a vector.
///
/// # Safety
/// As [`VectorKernel`](crate::kernel::vector::VectorKernel).
pub(crate) unsafe fn vector<T: Number>(call: &VectorCall<T>) {
    // SAFETY: what the caller promises.
    unsafe { strided(call) }
}

/// The plain [`Transpose`](crate::kernel::Transpose).
///
/// # Safety
/// `from` and `to` are valid for the elements named there and do not overlap.
pub(crate) unsafe fn transpose<T: Number>(
    from: *const T,
    width_stride: isize,
    to: *mut T,
    to_stride: usize,
    width: usize,
    depth: usize,
) {
    for i in 0..width {
        for k in 0..depth {
            // SAFETY: `i < width` and `k < depth`, for which the caller vouches.
            unsafe { *to.add(k * to_stride + i) = *from.offset(i as isize * width_stride + k as isize) };
        }
    }
}

/// The plain [`CopyRows`](crate::kernel::CopyRows), which fetches nothing.
///
/// # Safety
/// `from` and `to` are valid for the elements named there and do not overlap.
pub(crate) unsafe fn copy_plain<T: Number>(
    from: *const T,
    depth_stride: isize,
    to: *mut T,
    to_stride: usize,
    width: usize,
    depth: usize,
    ahead: isize,
) {
    // SAFETY: what the caller promises.
    unsafe { copy(from, depth_stride, to, to_stride, width, depth, ahead, |_| ()) }
}

/// The body of all [`CopyRows`](crate::kernel::CopyRows); `fetch` is called on a part of every cache line that
/// lies `ahead`.
///
/// # Safety
/// `from` and `to` are valid for the elements named there and do not overlap.
#[expect(clippy::too_many_arguments, reason = "those of `CopyRows`, and what fetches")]
#[inline(always)]
pub(crate) unsafe fn copy<T: Number>(
    from: *const T,
    depth_stride: isize,
    to: *mut T,
    to_stride: usize,
    width: usize,
    depth: usize,
    ahead: isize,
    fetch: impl Fn(*const T),
) {
    let fetch = |k: usize| {
        let row = from.wrapping_offset(k as isize * depth_stride + ahead);
        for i in (0..width).step_by(LINE / size_of::<T>()) {
            fetch(row.wrapping_add(i));
        }
    };
    // SAFETY: what the caller promises; each chunk is not wider than `width`.
    unsafe {
        match width {
            32 => copy_chunks::<T, 32>(from, depth_stride, to, to_stride, 32, depth, fetch),
            16 => copy_chunks::<T, 16>(from, depth_stride, to, to_stride, 16, depth, fetch),
            12 => copy_chunks::<T, 8>(from, depth_stride, to, to_stride, 12, depth, fetch),
            8.. => copy_chunks::<T, 8>(from, depth_stride, to, to_stride, width, depth, fetch),
            4.. => copy_chunks::<T, 4>(from, depth_stride, to, to_stride, width, depth, fetch),
            _ => copy_chunks::<T, 1>(from, depth_stride, to, to_stride, width, depth, fetch),
        }
    }
}

/// The body of all [`CopyPanels`](crate::kernel::CopyPanels).
///
/// # Safety
/// `from` and `to` are valid for the elements named there and do not overlap.
#[inline(always)]
pub(crate) unsafe fn copy_panels<T: Number, const NR: usize>(
    from: *const T,
    depth_stride: isize,
    to: *mut T,
    panel_stride: usize,
    n_panels: usize,
    depth: usize,
) {
    for k in 0..depth {
        let row = from.wrapping_offset(k as isize * depth_stride);
        for panel in 0..n_panels {
            // SAFETY: row `k`, panel `panel`, for which the caller vouches; an array has the alignment of its elements.
            unsafe {
                let values = *row.add(panel * NR).cast::<[T; NR]>();
                *to.add(panel * panel_stride + k * NR).cast::<[T; NR]>() = values;
            }
        }
    }
}

/// Copies rows in chunks of `N`, the last one moved back to end at the row's end (it copies some values twice).
///
/// # Safety
/// As [`copy`], and `width >= N` unless it is zero.
#[inline(always)]
unsafe fn copy_chunks<T: Number, const N: usize>(
    from: *const T,
    depth_stride: isize,
    to: *mut T,
    to_stride: usize,
    width: usize,
    depth: usize,
    fetch: impl Fn(usize),
) {
    for k in 0..depth {
        fetch(k);
        for chunk in 0..width.div_ceil(N) {
            let i = (chunk * N).min(width - N);
            // SAFETY: `i + N <= width` and `k < depth`, for which the caller vouches; an array has the alignment
            // of its elements.
            unsafe {
                let values = *from.offset(k as isize * depth_stride).add(i).cast::<[T; N]>();
                *to.add(k * to_stride + i).cast::<[T; N]>() = values;
            }
        }
    }
}
