//! Products with a vector: one row or one column of C. Each element is a sum over a row, in the order of row reductions.
//!
//! Both kinds are y = M·x: M is A or the transpose of B, whichever has more than one row. Its strides decide which way
//! the kernels go. Chunks of y are divided between threads, and given to the epilogue one by one.

use std::ops::Range;

use cotangent_pool::{Pool, split};
use cotangent_scalar::order;

use crate::cpu::Caches;
use crate::kernel::vector::{VectorCall, VectorKernel, VectorKernels};
use crate::plan::{Batch, Blocking, COLUMN_ALIGN, Call, EpilogueNeeds, lcm};
use crate::workspace::LINE;
use crate::{Element, MatMut, MatRef, Workspace};

/// Elements of y in a chunk whose rows the kernels read one after the other.
const LONG_CHUNK: usize = 4096;

/// Below this many multiply-adds (about 10 µs) one thread does it all.
const PARALLEL_MULTIPLY_ADDS: usize = 1 << 17;

/// The plan of a product with a vector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VectorShape {
    m: usize,
    n: usize,
    k: usize,
    /// Lanes of an element.
    n_lanes: usize,
    /// Bounds of threads and chunks are multiples of this.
    unit: usize,
    /// Elements of y that are made at a time, where rows of M lie side by side: their lanes stay in L2.
    chunk_across: usize,
    /// The same elsewhere.
    chunk: usize,
    /// y is kept in the workspace.
    owns_c: bool,
}

/// Which kernel, and what it multiplies.
struct Way<T> {
    kernel: VectorKernel<T>,
    matrix: MatRef<T>,
    matrix_batch: isize,
    /// The vector and its stride.
    x: (*const T, isize),
    x_batch: isize,
    /// The vector must be copied, so that its elements are adjacent.
    copies_x: bool,
    chunk: usize,
}

/// One call: everything its threads read.
struct Job<'a, T> {
    shape: VectorShape,
    way: Way<T>,
    batch: Batch,
    c: MatMut<T>,
    y_stride: isize,
    call: &'a Call<'a>,
    workspace: *mut u8,
}

// SAFETY: threads read the operands, write disjoint parts of C, and write parts of the workspace that nobody else uses.
unsafe impl<T: Element> Sync for Job<'_, T> {}

impl VectorShape {
    /// The plan of an m×k by k×n product, if it is one with a vector.
    pub fn new<T: Element>(
        extents @ [m, n, k]: [usize; 3],
        caches: Caches,
        forced: Option<Blocking>,
        needs: EpilogueNeeds,
    ) -> Option<VectorShape> {
        if m != 1 && n != 1 {
            return None;
        }
        let n_lanes = order::product_lanes(extents, T::DTYPE);
        let row_unit = if m == 1 { 1 } else { needs.row_multiple.max(1) };
        let unit = lcm(COLUMN_ALIGN, row_unit);
        // Long pieces of M's rows keep the hardware's prefetching going, so chunks are as long as lanes fit into half of L2,
        // from where they come once for every `GROUPS` rows:
        //     chunk · lanes · size <= L2 / 2.
        let across = caches.l2 / 2 / (n_lanes * size_of::<T>());
        let chunks = match forced {
            Some(Blocking { mc, nc, .. }) => [if m == 1 { nc } else { mc }.max(1).next_multiple_of(row_unit); 2],
            None => [across, LONG_CHUNK].map(|chunk| chunk.max(1).next_multiple_of(unit)),
        };
        let [chunk_across, chunk] = chunks.map(|chunk| chunk.min(m.max(n)));
        Some(VectorShape { m, n, k, n_lanes, unit, chunk_across, chunk, owns_c: needs.owns_c })
    }

    /// Where the parts of a thread's own memory end, in bytes from its start: a copy of the vector, the lanes of a chunk,
    /// a chunk of y.
    fn own_ends<T>(&self) -> [usize; 3] {
        let lanes = self.n_lanes * self.chunk_across.next_multiple_of(COLUMN_ALIGN);
        let mut end = 0;
        [self.k, lanes, if self.owns_c { self.chunk.max(self.chunk_across) } else { 0 }].map(|elements| {
            end += (elements * size_of::<T>()).next_multiple_of(LINE);
            end
        })
    }

    /// Bytes of workspace for so many threads.
    pub fn workspace_bytes<T>(&self, n_threads: usize) -> usize {
        n_threads * self.own_ends::<T>()[2]
    }

    /// The kernel for these strides.
    fn way<T: Element>(&self, kernels: &VectorKernels<T>, [a, b]: [MatRef<T>; 2], batch: &Batch) -> Way<T> {
        let (a, b) = ((a, batch.a_stride), (b.transposed(), batch.b_stride));
        // M and the vector, which is a row. If both are rows, the one with adjacent elements does for M.
        let swaps = self.n != 1 || (self.m == 1 && a.0.col_stride != 1 && b.0.col_stride == 1);
        let ((matrix, matrix_batch), (x, x_batch)) = if swaps { (b, a) } else { (a, b) };
        let x = (x.ptr, x.col_stride);
        let side_by_side = matrix.rows > 1 && matrix.row_stride == 1;
        let (kernel, copies_x, chunk) = if side_by_side && (matrix.col_stride != 1 || self.k == 1) {
            (kernels.across, false, self.chunk_across)
        } else if matrix.col_stride == 1 || self.k == 1 {
            (kernels.along, x.1 != 1, self.chunk)
        } else {
            (kernels.strided, false, self.chunk)
        };
        Way { kernel, matrix, matrix_batch, x, x_batch, copies_x, chunk }
    }

    /// Runs a batch on at most `n_threads` threads of the pool.
    ///
    /// # Safety
    /// The CPU has the kernels' features; the matrices are as `Gemm::run_batch` asks, with the extents of the plan.
    #[expect(clippy::too_many_arguments, reason = "the parts of one call, named where it is made")]
    pub unsafe fn run<T: Element>(
        &self,
        kernels: &VectorKernels<T>,
        pool: &Pool,
        batch: &Batch,
        operands: [MatRef<T>; 2],
        c: MatMut<T>,
        call: &Call<'_>,
        workspace: &mut Workspace,
    ) {
        let n_rows = self.m.max(self.n);
        let multiply_adds = n_rows.saturating_mul(self.k).saturating_mul(batch.count);
        let n_threads = if multiply_adds < PARALLEL_MULTIPLY_ADDS { 1 } else { pool.n_threads() };
        workspace.reserve_now(self.workspace_bytes::<T>(n_threads));
        let job = Job {
            shape: *self,
            way: self.way(kernels, operands, batch),
            batch: *batch,
            c,
            y_stride: if self.n == 1 { c.row_stride } else { c.col_stride },
            call,
            workspace: workspace.as_ptr(),
        };
        if n_threads > 1 && batch.count >= n_threads {
            pool.run(n_threads, &|part| {
                for batch in split(batch.count, n_threads, part, 1) {
                    // SAFETY: what the caller promises; `part` is this thread's own.
                    unsafe { job.part(batch, 0..n_rows, part) };
                }
            });
        } else {
            for batch in 0..batch.count {
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

impl<T: Element> Job<'_, T> {
    /// Elements of y by one thread, chunk after chunk.
    ///
    /// # Safety
    /// As [`VectorShape::run`]; no other thread has this `part` or touches these elements.
    unsafe fn part(&self, batch: usize, rows: Range<usize>, part: usize) {
        let Job { shape, way, y_stride, .. } = self;
        let ends = shape.own_ends::<T>();
        let own = self.workspace.wrapping_add(part * ends[2]);
        let [copy, lanes, kept]: [*mut T; 3] = [0, ends[0], ends[1]].map(|at| own.wrapping_add(at).cast());
        let mut x = (way.x.0.wrapping_offset(batch as isize * way.x_batch), way.x.1);
        if way.copies_x && !rows.is_empty() {
            for k in 0..shape.k {
                // SAFETY: element `k` of the vector, and room for it.
                unsafe { *copy.add(k) = *x.0.offset(k as isize * x.1) };
            }
            x = (copy.cast_const(), 1);
        }
        let c = self.c.ptr.wrapping_offset(batch as isize * self.batch.c_stride);
        let matrix = way.matrix.ptr.wrapping_offset(batch as isize * way.matrix_batch);
        let mut first = rows.start;
        while first < rows.end {
            // The bounds of chunks are multiples of a chunk, so that they are also of what the epilogue asks for.
            let end = rows.end.min((first / way.chunk + 1) * way.chunk);
            let origin = if shape.owns_c { kept.wrapping_offset(-(first as isize * y_stride)) } else { c };
            let call = VectorCall {
                k: shape.k,
                rows: end - first,
                n_lanes: shape.n_lanes,
                matrix: matrix.wrapping_offset(first as isize * way.matrix.row_stride),
                row_stride: way.matrix.row_stride,
                k_stride: way.matrix.col_stride,
                x: x.0,
                x_stride: x.1,
                y: origin.wrapping_offset(first as isize * y_stride),
                y_stride: *y_stride,
                add: self.call.accumulate,
                lanes,
            };
            // SAFETY: rows of the matrix and elements of y that are this thread's, whose validity the caller promises.
            unsafe { (way.kernel)(&call) };
            if let Some(epilogue) = self.call.epilogue {
                let (rows, cols) = if shape.n == 1 { (first..end, 0..1) } else { (0..1, first..end) };
                epilogue(batch, rows, cols, origin.cast());
            }
            first = end;
        }
    }
}
