//! Kernels of products with a vector, y = M·x: the bodies, written once for all instruction sets.
//!
//! An element of y is a sum over a row of M in the order of row reductions: chains of fused multiply-adds for each of up
//! to 32 virtual lanes (16 for 8-byte types), which halving combines ([`cotangent_scalar::order`]). Two kernels have the
//! lanes side by side in vectors: *along* for rows whose elements are adjacent in memory, a few rows at a time; *across*
//! for rows that lie side by side, where a vector holds one lane of several rows and M is read in its own order. A third
//! takes any strides, slowly.

use cotangent_scalar::order;

use crate::number::Number;

/// One call: `rows` elements of y. Strides are in elements.
pub(crate) struct VectorCall<T> {
    /// Length of a row.
    pub k: usize,
    /// Elements of y.
    pub rows: usize,
    /// Virtual lanes of an element.
    pub n_lanes: usize,
    /// The first row of the matrix.
    pub matrix: *const T,
    /// From a row to the next; 1 for a kernel that goes across.
    pub row_stride: isize,
    /// From an element of a row to the next; 1 for a kernel that goes along rows.
    pub k_stride: isize,
    /// The vector.
    pub x: *const T,
    /// From an element of the vector to the next; 1 for a kernel that goes along rows.
    pub x_stride: isize,
    /// The result, whose elements are adjacent.
    pub y: *mut T,
    /// For a kernel that goes across: room for `n_lanes` times the rows, rounded up to whole vectors.
    pub lanes: *mut T,
}

/// A kernel for products with a vector.
///
/// # Safety
/// The CPU has the features of the kernel's set; matrix, vector and result are valid for what the call says and the
/// result overlaps none of the others.
pub(crate) type VectorKernel<T> = unsafe fn(&VectorCall<T>);

/// The kernels of one element type and instruction set.
pub(crate) struct VectorKernels<T: 'static> {
    /// For a k stride of 1, in the matrix and in the vector.
    pub along: VectorKernel<T>,
    /// For a row stride of 1.
    pub across: VectorKernel<T>,
    /// For any strides.
    pub strided: VectorKernel<T>,
}

impl<T> VectorCall<T> {
    /// Stores a sum as element `i` of y.
    ///
    /// # Safety
    /// `i < rows`, and y is valid.
    #[inline(always)]
    pub unsafe fn put(&self, i: usize, sum: T)
    where
        T: Number,
    {
        // SAFETY: an element of y, for which the caller vouches.
        unsafe { *self.y.add(i) = sum };
    }
}

/// The definition, and the kernel for strides that no other takes.
///
/// # Safety
/// As [`VectorKernel`].
#[inline(always)]
pub(crate) unsafe fn strided<T: Number>(call: &VectorCall<T>) {
    for i in 0..call.rows {
        let row = call.matrix.wrapping_offset(i as isize * call.row_stride);
        let terms = (0..call.k as isize).map(|k| {
            // SAFETY: element `k` of row `i` and of the vector.
            unsafe { (*row.offset(k * call.k_stride), *call.x.offset(k * call.x_stride)) }
        });
        let fma = |a: T, b: T, c: T| a.mul_add(b, c);
        let sum = order::product_element(call.n_lanes, T::ZERO, terms, fma, |a, b| a + b);
        // SAFETY: `i < rows`.
        unsafe { call.put(i, sum) };
    }
}

/// The end of a kernel that goes across: combines the lanes, each `width` elements, by halving, two halvings at a time.
///
/// # Safety
/// As [`VectorKernel`]; the first `n_lanes` lanes are complete.
#[inline(always)]
pub(crate) unsafe fn combine<T: Number>(call: &VectorCall<T>, width: usize) {
    let lanes = call.lanes;
    let mut n = call.n_lanes;
    // SAFETY: lanes below `n_lanes`, elements below `width`, for all of which there is room; y has `rows` elements.
    unsafe {
        let at = |lane: usize, j: usize| *lanes.add(lane * width + j);
        while n >= 4 {
            n /= 4;
            for lane in 0..n {
                for j in 0..width {
                    let (even, odd) = (at(lane, j) + at(lane + 2 * n, j), at(lane + n, j) + at(lane + 3 * n, j));
                    *lanes.add(lane * width + j) = even + odd;
                }
            }
        }
        if n == 2 {
            for j in 0..width {
                *lanes.add(j) = at(0, j) + at(1, j);
            }
        }
        call.y.copy_from_nonoverlapping(lanes, call.rows);
    }
}

/// Groups of lanes, that is rows of K that are `n_lanes` apart, which a kernel that goes across takes at a time: so
/// many fused multiply-adds for each load and store of a lane.
pub(crate) const GROUPS: usize = 8;

/// Defines the two fast kernels of an instruction set: `$virtual` lanes, `$rows` rows at a time.
macro_rules! vector_kernels {
    (
        $along:ident, $along_rows:ident, $across:ident, $across_lane:ident, $features:literal, $elem:ty, $lanes:literal,
        virtual: $virtual:literal, rows: $rows:literal, mask: $mask:ident, zero: $zero:ident, splat: $splat:ident,
        fma: $fma:ident, load: $load:ident, store: $store:ident,
        load_masked: |$load_p:ident, $load_m:ident| $load_masked:expr $(,)?
    ) => {
        /// # Safety
        /// As [`VectorKernel`]($crate::kernel::vector::VectorKernel).
        #[target_feature(enable = $features)]
        unsafe fn $along(call: &$crate::kernel::vector::VectorCall<$elem>) {
            let tail = call.k % $virtual;
            // Lanes that the rule does not have, if k is short, hold -0, which changes no sum. So does what lies beyond
            // the vector's end: 0 · -0 added to a lane.
            let (mut start, mut end) = ([-0.0; $virtual], [-0.0; $virtual]);
            start[..call.n_lanes].fill(0.0);
            for (lane, x) in end.iter_mut().enumerate().take(tail) {
                // SAFETY: an element of the vector.
                *x = unsafe { *call.x.add(call.k - tail + lane) };
            }
            let mut i = 0;
            while i + $rows <= call.rows {
                // SAFETY: rows `i..i + $rows` of the call.
                unsafe { $along_rows::<$rows>(call, &start, &end, i) };
                i += $rows;
            }
            while i < call.rows {
                // SAFETY: row `i` of the call.
                unsafe { $along_rows::<1>(call, &start, &end, i) };
                i += 1;
            }
        }

        /// # Safety
        /// As above; rows `first..first + R` are below `call.rows`.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $along_rows<const R: usize>(
            call: &$crate::kernel::vector::VectorCall<$elem>,
            start: &[$elem; $virtual],
            end: &[$elem; $virtual],
            first: usize,
        ) {
            const V: usize = $virtual / $lanes;
            let mut sums = [[$zero(); V]; R];
            for v in 0..V {
                // SAFETY: `V` vectors of lanes.
                let lanes = unsafe { $load(start.as_ptr().add(v * $lanes)) };
                for row in &mut sums {
                    row[v] = lanes;
                }
            }
            let mut rows = [call.matrix; R];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = row.wrapping_offset((first + r) as isize * call.row_stride);
            }
            let whole = call.k / $virtual * $virtual;
            for k in (0..whole).step_by($virtual) {
                for v in 0..V {
                    // SAFETY: elements from `k` on, `$virtual` of them, of the vector and of every row.
                    unsafe {
                        let x = $load(call.x.add(k + v * $lanes));
                        for r in 0..R {
                            sums[r][v] = $fma($load(rows[r].add(k + v * $lanes)), x, sums[r][v]);
                        }
                    }
                }
            }
            let tail = call.k - whole;
            for v in 0..V {
                if v * $lanes < tail {
                    let $load_m = $mask((tail - v * $lanes).min($lanes));
                    // SAFETY: elements from `whole` on, the last vector masked.
                    unsafe {
                        let x = $load(end.as_ptr().add(v * $lanes));
                        for r in 0..R {
                            let $load_p = rows[r].add(whole + v * $lanes);
                            sums[r][v] = $fma($load_masked, x, sums[r][v]);
                        }
                    }
                }
            }
            // Halving: first whole vectors (x · 1 + y rounds as x + y does), then the lanes of one.
            let one = $splat(1.0);
            for r in 0..R {
                let mut width = V / 2;
                while width > 0 {
                    for v in 0..width {
                        sums[r][v] = $fma(sums[r][v + width], one, sums[r][v]);
                    }
                    width /= 2;
                }
                let mut last = [0.0; $lanes];
                // SAFETY: the array is one vector.
                unsafe { $store(last.as_mut_ptr(), sums[r][0]) };
                let mut width = $lanes / 2;
                while width > 0 {
                    for lane in 0..width {
                        last[lane] += last[lane + width];
                    }
                    width /= 2;
                }
                // SAFETY: a row of the call.
                unsafe { call.put(first + r, last[0]) };
            }
        }

        /// # Safety
        /// As [`VectorKernel`]($crate::kernel::vector::VectorKernel).
        #[target_feature(enable = $features)]
        unsafe fn $across(call: &$crate::kernel::vector::VectorCall<$elem>) {
            use $crate::kernel::vector::GROUPS;
            let width = call.rows.next_multiple_of($lanes);
            for first in (0..call.k).step_by(GROUPS * $virtual) {
                for lane in 0..$virtual.min(call.k - first) {
                    // SAFETY: so many rows of K from `first + lane` on, `$virtual` apart, are below `call.k`.
                    unsafe {
                        match (call.k - first - lane).div_ceil($virtual).min(GROUPS) {
                            1 => $across_lane::<1>(call, width, first, lane),
                            2 => $across_lane::<2>(call, width, first, lane),
                            3 => $across_lane::<3>(call, width, first, lane),
                            4 => $across_lane::<4>(call, width, first, lane),
                            5 => $across_lane::<5>(call, width, first, lane),
                            6 => $across_lane::<6>(call, width, first, lane),
                            7 => $across_lane::<7>(call, width, first, lane),
                            _ => $across_lane::<GROUPS>(call, width, first, lane),
                        }
                    }
                }
            }
            // Lanes that no term falls into.
            for at in call.k * width..call.n_lanes * width {
                // SAFETY: there is room for `n_lanes` lanes.
                unsafe { *call.lanes.add(at) = 0.0 };
            }
            // SAFETY: all lanes are complete.
            unsafe { $crate::kernel::vector::combine(call, width) }
        }

        /// The terms `first + lane`, and so on in steps of `$virtual`, `G` of them.
        ///
        /// # Safety
        /// As above; all terms are below `call.k`.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $across_lane<const G: usize>(
            call: &$crate::kernel::vector::VectorCall<$elem>,
            width: usize,
            first: usize,
            lane: usize,
        ) {
            let mut x = [$zero(); G];
            let mut from = [call.matrix; G];
            for g in 0..G {
                let k = (first + lane + g * $virtual) as isize;
                // SAFETY: an element of the vector.
                x[g] = unsafe { $splat(*call.x.offset(k * call.x_stride)) };
                from[g] = call.matrix.wrapping_offset(k * call.k_stride);
            }
            let lanes = call.lanes.wrapping_add(lane * width);
            let whole = call.rows / $lanes * $lanes;
            for j in (0..whole).step_by($lanes) {
                // SAFETY: a whole vector of rows, and of the lane.
                unsafe {
                    let mut sum = if first > 0 { $load(lanes.add(j)) } else { $zero() };
                    for g in 0..G {
                        sum = $fma(x[g], $load(from[g].add(j)), sum);
                    }
                    $store(lanes.add(j), sum);
                }
            }
            if whole < call.rows {
                let $load_m = $mask(call.rows - whole);
                // SAFETY: the last rows, masked; the lane has room for a whole vector.
                unsafe {
                    let mut sum = if first > 0 { $load(lanes.add(whole)) } else { $zero() };
                    for g in 0..G {
                        let $load_p = from[g].add(whole);
                        sum = $fma(x[g], $load_masked, sum);
                    }
                    $store(lanes.add(whole), sum);
                }
            }
        }
    };
}

pub(crate) use vector_kernels;
