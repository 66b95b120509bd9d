//! Products with a vector: one row or one column of C. Each element is a sum over a row, in the order of row reductions.
//!
//! Both kinds are y = M·x: M is A or the transpose of B, whichever has more than one row. Chunks of y are divided between
//! threads, and given to the epilogue one by one.

use std::ops::Range;

use cotangent_pool::{Pool, split};
use cotangent_scalar::order;

use crate::kernel::vector::{VectorCall, VectorKernel};
use crate::number::Number;
use crate::product::{COLUMN_ALIGN, Epilogue, Matrix, Product, lcm};
use crate::way::{Case, Order};
use crate::workspace::LINE;

/// A product with a vector, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct VectorShape<T: 'static> {
    kernel: VectorKernel<T>,
    /// M is the transpose of B and the vector is A.
    turns: bool,
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    /// Lanes of an element.
    n_lanes: usize,
    /// Bounds of threads and chunks are multiples of this.
    unit: usize,
    /// Elements of y that are made at a time.
    chunk: usize,
    /// The vector must be copied, so that its elements are adjacent.
    copies_x: bool,
    /// y is kept in the workspace.
    owns_c: bool,
    /// Where the parts of a thread's own memory end, in bytes from its start: a copy of the vector, the lanes of a chunk,
    /// a chunk of y.
    own_ends: [usize; 3],
}

/// One call: everything its threads read.
struct Job<'a, T: 'static> {
    shape: &'a VectorShape<T>,
    matrix: Matrix<T>,
    /// The vector, a row.
    x: Matrix<T>,
    y: *mut T,
    epilogue: Option<&'a Epilogue<'a>>,
    workspace: *mut u8,
}

// SAFETY: threads read the operands, write disjoint parts of C, and write parts of the workspace that nobody else uses.
unsafe impl<T: Number> Sync for Job<'_, T> {}

impl<T: Number> VectorShape<T> {
    /// Of a way of sums that is legal for the product.
    pub fn new(case: &Case<'_, T>, order: Order, chunk: usize) -> Self {
        let Product { batch, m, n, k, epilogue, .. } = *case.product;
        let (_, x, turns) = case.turned();
        let n_lanes = order::product_lanes([m, n, k], T::DTYPE);
        let kernels = &case.kernels.vector;
        let (kernel, copies_x, lanes) = match order {
            Order::Across => (kernels.across, false, n_lanes * chunk.next_multiple_of(COLUMN_ALIGN)),
            Order::Along => (kernels.along, x.col != 1, 0),
            Order::Strided => (kernels.strided, false, 0),
        };
        let unit = lcm(COLUMN_ALIGN, if m == 1 { 1 } else { case.product.row_multiple() });
        let owns_c = epilogue.owns_c;
        let mut end = 0;
        let own_ends = [if copies_x { k } else { 0 }, lanes, if owns_c { chunk } else { 0 }].map(|elements| {
            end += (elements * size_of::<T>()).next_multiple_of(LINE);
            end
        });
        VectorShape { kernel, turns, batch, m, n, k, n_lanes, unit, chunk, copies_x, owns_c, own_ends }
    }

    /// Bytes that each thread has of its own.
    pub fn own_bytes(&self) -> usize {
        self.own_ends[2]
    }

    /// Runs the batch on so many threads of the pool.
    ///
    /// # Safety
    /// The CPU has the kernels' features; the matrices are as `Gemm::run` asks; the workspace has `n_threads` times the
    /// shape's own bytes.
    pub unsafe fn run(
        &self,
        pool: &Pool,
        n_threads: usize,
        [a, b]: [Matrix<T>; 2],
        c: *mut T,
        epilogue: Option<&Epilogue<'_>>,
        workspace: *mut u8,
    ) {
        let n_rows = self.m.max(self.n);
        let b = Matrix { strides: b.strides.transposed(), ..b };
        let (matrix, x) = if self.turns { (b, a) } else { (a, b) };
        let job = Job { shape: self, matrix, x, y: c, epilogue, workspace };
        if n_threads > 1 && self.batch >= n_threads {
            pool.run(n_threads, &|part| {
                for batch in split(self.batch, n_threads, part, 1) {
                    // SAFETY: what the caller promises; `part` is this thread's own.
                    unsafe { job.part(batch, 0..n_rows, part) };
                }
            });
        } else {
            for batch in 0..self.batch {
                if n_threads == 1 {
                    // SAFETY: what the caller promises; thread 0 is the only one.
                    unsafe { job.part(batch, 0..n_rows, 0) };
                } else {
                    pool.run(n_threads, &|part| {
                        // SAFETY: what the caller promises; `part` is this thread's own.
                        unsafe { job.part(batch, split(n_rows, n_threads, part, self.unit), part) };
                    });
                }
            }
        }
    }
}

impl<T: Number> Job<'_, T> {
    /// Elements of y by one thread, chunk after chunk.
    ///
    /// # Safety
    /// As [`VectorShape::run`]; no other thread has this `part` or touches these elements.
    unsafe fn part(&self, batch: usize, rows: Range<usize>, part: usize) {
        let VectorShape { m, n, k, chunk, .. } = *self.shape;
        let ends = self.shape.own_ends;
        let own = self.workspace.wrapping_add(part * ends[2]);
        let [copy, lanes, kept]: [*mut T; 3] = [0, ends[0], ends[1]].map(|at| own.wrapping_add(at).cast());
        let (matrix, x) = (self.matrix.number(batch), self.x.number(batch));
        let mut x = (x.ptr, x.strides.col);
        if self.shape.copies_x && !rows.is_empty() {
            for at in 0..k {
                // SAFETY: element `at` of the vector, and room for it.
                unsafe { *copy.add(at) = *x.0.offset(at as isize * x.1) };
            }
            x = (copy.cast_const(), 1);
        }
        let y = self.y.wrapping_add(batch * m * n);
        let mut first = rows.start;
        while first < rows.end {
            // The bounds of chunks are multiples of a chunk, so that they are also of what the epilogue asks for.
            let end = rows.end.min((first / chunk + 1) * chunk);
            let origin = if self.shape.owns_c { kept.wrapping_sub(first) } else { y };
            let call = VectorCall {
                k,
                rows: end - first,
                n_lanes: self.shape.n_lanes,
                matrix: matrix.at(first, 0),
                row_stride: matrix.strides.row,
                k_stride: matrix.strides.col,
                x: x.0,
                x_stride: x.1,
                y: origin.wrapping_add(first),
                lanes,
            };
            // SAFETY: rows of the matrix and elements of y that are this thread's, whose validity the caller promises.
            unsafe { (self.shape.kernel)(&call) };
            if let Some(epilogue) = self.epilogue {
                let (rows, cols) = if n == 1 { (first..end, 0..1) } else { (0..1, first..end) };
                epilogue(batch, rows, cols, origin.cast());
            }
            first = end;
        }
    }
}
