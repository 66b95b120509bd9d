//! Matrices with any layout, the obvious product, and one check that compares a call of the library with it.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use cotangent_gemm::{
    Batch, Blocking, Call, Element, EpilogueNeeds, Gemm, IsaChoice, MatMut, MatRef, Options, Workspace,
};
use cotangent_pool::Pool;
use cotangent_scalar::order;

/// A small generator of numbers (SplitMix64): the tests need variety, not quality.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())]
    }
}

/// What the tests need of a number beyond what the library does.
pub trait Number: Element {
    const NAN: Self;
    fn of(x: f64) -> Self;
    /// The bits, the same for all NaNs: which one comes out is the hardware's choice.
    fn bits(self) -> u64;
}

impl Number for f32 {
    const NAN: f32 = f32::NAN;

    fn of(x: f64) -> f32 {
        x as f32
    }

    fn bits(self) -> u64 {
        if self.is_nan() { u64::MAX } else { u64::from(self.to_bits()) }
    }
}

impl Number for f64 {
    const NAN: f64 = f64::NAN;

    fn of(x: f64) -> f64 {
        x
    }

    fn bits(self) -> u64 {
        if self.is_nan() { u64::MAX } else { self.to_bits() }
    }
}

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    RowMajor,
    ColMajor,
    /// Rows further apart than their length.
    RowGaps,
    /// The transpose of that.
    ColGaps,
    /// Neither stride is 1.
    BothGaps,
    /// Rows in reverse order.
    Reversed,
}

pub const LAYOUTS: [Layout; 6] =
    [Layout::RowMajor, Layout::ColMajor, Layout::RowGaps, Layout::ColGaps, Layout::BothGaps, Layout::Reversed];

/// Matrices of one shape, one after the other; the memory between elements holds a mark.
#[derive(Clone)]
pub struct Stack<T> {
    pub data: Vec<T>,
    pub rows: usize,
    pub cols: usize,
    pub start: usize,
    pub row_stride: isize,
    pub col_stride: isize,
    pub batch_stride: isize,
    pub count: usize,
}

const MARK: f64 = 12345.0;

impl<T: Number> Stack<T> {
    /// `count` matrices with values by `value`.
    pub fn new(layout: Layout, count: usize, rows: usize, cols: usize, mut value: impl FnMut() -> T) -> Self {
        let (row_stride, col_stride) = match layout {
            Layout::RowMajor | Layout::Reversed => (cols, 1),
            Layout::ColMajor => (1, rows),
            Layout::RowGaps => (cols + 3, 1),
            Layout::ColGaps => (1, rows + 5),
            Layout::BothGaps => (2 * cols + 3, 2),
        };
        let span = rows.saturating_sub(1) * row_stride + cols.saturating_sub(1) * col_stride + 1;
        let batch_stride = span + 7;
        let mut stack = Stack {
            data: vec![T::of(MARK); 5 + count * batch_stride],
            rows,
            cols,
            start: 5,
            row_stride: row_stride as isize,
            col_stride: col_stride as isize,
            batch_stride: batch_stride as isize,
            count,
        };
        if layout == Layout::Reversed && rows > 0 {
            stack.start += (rows - 1) * row_stride;
            stack.row_stride = -stack.row_stride;
        }
        for batch in 0..count {
            for i in 0..rows {
                for j in 0..cols {
                    let index = stack.index(batch, i, j);
                    stack.data[index] = value();
                }
            }
        }
        stack
    }

    pub fn index(&self, batch: usize, i: usize, j: usize) -> usize {
        (self.start as isize
            + batch as isize * self.batch_stride
            + i as isize * self.row_stride
            + j as isize * self.col_stride) as usize
    }

    /// The same matrix `count` times: one matrix in memory.
    pub fn broadcast(mut self, count: usize) -> Self {
        (self.batch_stride, self.count) = (0, count);
        self
    }

    pub fn view(&self) -> MatRef<T> {
        let ptr = self.data.as_ptr().wrapping_add(self.start);
        MatRef { ptr, rows: self.rows, cols: self.cols, row_stride: self.row_stride, col_stride: self.col_stride }
    }

    pub fn view_mut(&mut self) -> MatMut<T> {
        let ptr = self.data.as_mut_ptr().wrapping_add(self.start);
        MatMut { ptr, rows: self.rows, cols: self.cols, row_stride: self.row_stride, col_stride: self.col_stride }
    }

    /// One matrix as plain rows.
    fn plain(&self, batch: usize) -> Vec<T> {
        (0..self.rows * self.cols).map(|at| self.data[self.index(batch, at / self.cols, at % self.cols)]).collect()
    }
}

/// The definition, by the page that states the order: C starts from zero or from itself, and takes the products in the
/// order of k; an element of a product with a vector is a sum over a row.
pub fn reference<T: Number>(a: &Stack<T>, b: &Stack<T>, c: &mut Stack<T>, accumulate: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    for batch in 0..c.count {
        let (a, b) = (a.plain(batch), b.plain(batch));
        let mut sums = if accumulate { c.plain(batch) } else { vec![T::ZERO; m * n] };
        if m == 1 || n == 1 {
            let n_lanes = order::product_lanes([m, n, k], T::DTYPE);
            for (at, sum) in sums.iter_mut().enumerate() {
                let (i, j) = (at / n, at % n);
                let terms = (0..k).map(|k_at| (a[i * k + k_at], b[k_at * n + j]));
                let total = order::product_element(n_lanes, T::ZERO, terms, |a, b, c| a.mul_add(b, c), |x, y| x + y);
                *sum = if accumulate { *sum + total } else { total };
            }
        } else {
            add_product(&a, &b, &mut sums, n, k);
        }
        for i in 0..m {
            for j in 0..n {
                let index = c.index(batch, i, j);
                c.data[index] = sums[i * n + j];
            }
        }
    }
}

/// The loop of the definition; compiled for FMA where there is one, because calls of `fma` take long.
fn add_product<T: Number>(a: &[T], b: &[T], sums: &mut [T], n: usize, k: usize) {
    #[inline(always)]
    fn body<T: Number>(a: &[T], b: &[T], sums: &mut [T], n: usize, k: usize) {
        if n == 0 || k == 0 {
            return;
        }
        for (a, sums) in a.chunks(k).zip(sums.chunks_mut(n)) {
            for (a, b) in a.iter().zip(b.chunks(n)) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = a.mul_add(*b, *sum);
                }
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn with_fma<T: Number>(a: &[T], b: &[T], sums: &mut [T], n: usize, k: usize) {
            body(a, b, sums, n, k);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has the features.
            return unsafe { with_fma(a, b, sums, n, k) };
        }
    }
    body(a, b, sums, n, k);
}

/// One call to check.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub layouts: [Layout; 3],
    pub accumulate: bool,
    pub isa: IsaChoice,
    pub blocking: Option<Blocking>,
    pub count: usize,
    /// A, B: one matrix for the whole batch.
    pub broadcast: [bool; 2],
}

impl Case {
    pub fn new(m: usize, n: usize, k: usize, isa: IsaChoice) -> Self {
        let layouts = [Layout::RowMajor; 3];
        Case { m, n, k, layouts, accumulate: false, isa, blocking: None, count: 1, broadcast: [false; 2] }
    }
}

/// The instruction sets of this CPU.
pub fn isas() -> Vec<IsaChoice> {
    [IsaChoice::Portable, IsaChoice::Avx2, IsaChoice::Avx512, IsaChoice::Neon]
        .into_iter()
        .filter(|&isa| Gemm::<f32>::with_options(1, 1, 1, &Options { isa, ..Options::default() }).is_some())
        .collect()
}

/// A value: mostly of ordinary size, sometimes a zero of either sign, tiny or large.
pub fn value<T: Number>(random: &mut Random) -> T {
    let x = (random.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
    T::of(match random.below(40) {
        0 => 0.0,
        1 => -0.0,
        2 => x * 1e-30,
        3 => x * 1e12,
        _ => x,
    })
}

/// Runs the case on each pool and compares every bit, of C and of the memory around it, with the definition; and
/// asserts that the epilogue sees each element once, complete.
pub fn check<T: Number>(case: &Case, pools: &[&Pool], random: &mut Random) {
    let Case { m, n, k, layouts, accumulate, isa, blocking, count, broadcast } = *case;
    let mut operand = |layout, rows, cols, broadcast| {
        let stack = Stack::<T>::new(layout, if broadcast { 1 } else { count }, rows, cols, || value(random));
        if broadcast { stack.broadcast(count) } else { stack }
    };
    let a = operand(layouts[0], m, k, broadcast[0]);
    let b = operand(layouts[1], k, n, broadcast[1]);
    // A C that is read although it should not be shows up as NaN.
    let old = Stack::<T>::new(layouts[2], count, m, n, || if accumulate { value(random) } else { T::NAN });
    let mut expected = old.clone();
    reference(&a, &b, &mut expected, accumulate);
    // What an epilogue asks for changes no bit, only which rectangles it gets, and where C is.
    let may_own = layouts[2] == Layout::RowMajor && !accumulate;
    let asking = EpilogueNeeds {
        row_multiple: random.pick(&[0, 5, 16, 64]),
        n_companions: random.below(4),
        owns_c: may_own && random.below(4) > 0,
    };
    for (pool, needs) in pools.iter().flat_map(|pool| [EpilogueNeeds::default(), asking].map(|needs| (pool, needs))) {
        let options = Options { isa, blocking, epilogue: needs };
        let gemm = Gemm::<T>::with_options(m, n, k, &options).expect("the instruction set is there");
        let mut c = old.clone();
        let view = c.view_mut();
        let seen: Vec<AtomicU8> = (0..count * m * n).map(|_| AtomicU8::new(0)).collect();
        let n_wrong = AtomicUsize::new(0);
        let epilogue = |batch: usize, rows: Range<usize>, cols: Range<usize>, c: *mut u8| {
            assert!(!rows.is_empty() && !cols.is_empty() && rows.end <= m && cols.end <= n);
            assert!(cols.start.is_multiple_of(16) || n < 16 || blocking.is_some(), "{cols:?}");
            let unit = needs.row_multiple.max(1);
            assert!(rows.start.is_multiple_of(unit) && (rows.end.is_multiple_of(unit) || rows.end == m), "{rows:?}");
            for i in rows {
                for j in cols.clone() {
                    seen[(batch * m + i) * n + j].fetch_add(1, Ordering::Relaxed);
                    let at = i as isize * view.row_stride + j as isize * view.col_stride;
                    // SAFETY: the element lies in C or where C is kept, and this rectangle is ours now.
                    let found = unsafe { *c.cast::<T>().wrapping_offset(at) };
                    if found.bits() != expected.data[expected.index(batch, i, j)].bits() {
                        n_wrong.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        };
        let call = Call { accumulate, epilogue: Some(&epilogue) };
        let batch =
            Batch { count, a_stride: a.batch_stride, b_stride: b.batch_stride, c_stride: expected.batch_stride };
        let mut workspace = Workspace::with_bytes(gemm.workspace_bytes(pool.n_threads())).unwrap();
        let bytes = workspace.bytes();
        let c_view = if needs.owns_c { MatMut { ptr: std::ptr::null_mut(), ..view } } else { view };
        // SAFETY: the stacks outlive the call and are distinct.
        unsafe { gemm.run_batch(pool, &batch, a.view(), b.view(), c_view, &call, &mut workspace) };
        let context = || format!("{case:?} {needs:?} on {} threads, {}", pool.n_threads(), gemm.kernel_name());
        assert_eq!(workspace.bytes(), bytes, "the workspace grew: {}", context());
        assert_eq!(n_wrong.into_inner(), 0, "the epilogue saw incomplete elements: {}", context());
        assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == 1), "epilogue counts: {}", context());
        let stored = if needs.owns_c { &old } else { &expected };
        for (at, (found, expected)) in c.data.iter().zip(&stored.data).enumerate() {
            assert_eq!(found.bits(), expected.bits(), "at {at}: {found:?}, not {expected:?}: {}", context());
        }
    }
}
