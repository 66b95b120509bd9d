//! Matrices with any layout, the obvious product, and one check that compares a call of the library with it.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use cotangent_gemm::{
    Blocking, Element, EpilogueNeeds, Gemm, Isa, Operand, Pieces, Product, Strides, Target, Way, Workspace, ways,
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

    pub fn strides(&self) -> Strides {
        Strides { batch: self.batch_stride, row: self.row_stride, col: self.col_stride }
    }

    /// The address of element (0, 0) of the first matrix.
    pub fn ptr(&self) -> *const T {
        self.data.as_ptr().wrapping_add(self.start)
    }

    /// One matrix as plain rows.
    fn plain(&self, batch: usize) -> Vec<T> {
        (0..self.rows * self.cols).map(|at| self.data[self.index(batch, at / self.cols, at % self.cols)]).collect()
    }
}

/// The definition, by the page that states the order: C starts from zero and takes the products in the order of k; an
/// element of a product with a vector is a sum over a row. The result is row-major, one C of the batch behind the other.
pub fn reference<T: Number>(a: &Stack<T>, b: &Stack<T>, count: usize) -> Vec<T> {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let one = |batch: usize| {
        let (a, b) = (a.plain(batch), b.plain(batch));
        let mut sums = vec![T::ZERO; m * n];
        if m == 1 || n == 1 {
            let n_lanes = order::product_lanes([m, n, k], T::DTYPE);
            for (at, sum) in sums.iter_mut().enumerate() {
                let (i, j) = (at / n, at % n);
                let terms = (0..k).map(|k_at| (a[i * k + k_at], b[k_at * n + j]));
                *sum = order::product_element(n_lanes, T::ZERO, terms, |a, b, c| a.mul_add(b, c), |x, y| x + y);
            }
        } else {
            add_product(&a, &b, &mut sums, n, k);
        }
        sums
    };
    (0..count).flat_map(one).collect()
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

/// One product to check.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub layouts: [Layout; 2],
    pub isa: Isa,
    /// Sizes for a way picked at random, beside the way that the product goes by itself.
    pub blocking: Option<Blocking>,
    pub count: usize,
    /// A, B: one matrix for the whole batch.
    pub broadcast: [bool; 2],
}

impl Case {
    pub fn new(m: usize, n: usize, k: usize, isa: Isa) -> Self {
        let layouts = [Layout::RowMajor; 2];
        Case { m, n, k, layouts, isa, blocking: None, count: 1, broadcast: [false; 2] }
    }
}

/// The instruction sets of this CPU.
pub fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
}

/// This machine with another instruction set.
pub fn target(isa: Isa) -> Target {
    Target::here().clone().with_isa(isa)
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

/// A legal way of the product, at random, with sizes of its own if there are some.
fn any_way<T: Element>(product: &Product, target: &Target, sizes: Option<Blocking>, random: &mut Random) -> Way {
    let known = ways::<T>(product, target);
    let way = known[random.below(known.len())].way;
    let Some(blocking) = sizes else { return way };
    match way {
        Way::Sums { order, .. } => Way::Sums { order, chunk: blocking.mc },
        Way::Tile => Way::Panels { a: Operand::Packed, b: Operand::Packed, blocking, strips: false },
        Way::Flat { pieces, .. } => {
            let pieces = Pieces { depth: blocking.kc / 2, cols: blocking.nc / 2, ..pieces };
            Way::Flat { pieces, blocking }
        }
        Way::Panels { a, b, .. } => Way::Panels { a, b, blocking, strips: random.below(2) == 0 },
    }
}

/// Runs the case on each pool, by its own way and by another one, and compares every bit, of C and of the memory around it,
/// with the definition; and asserts that the epilogue sees each element once, complete.
pub fn check<T: Number>(case: &Case, pools: &[&Pool], random: &mut Random) {
    let Case { m, n, k, layouts, isa, blocking, count, broadcast } = *case;
    let mut operand = |layout, rows, cols, broadcast| {
        let stack = Stack::<T>::new(layout, if broadcast { 1 } else { count }, rows, cols, || value(random));
        if broadcast { stack.broadcast(count) } else { stack }
    };
    let a = operand(layouts[0], m, k, broadcast[0]);
    let b = operand(layouts[1], k, n, broadcast[1]);
    let expected = reference(&a, &b, count);
    // What an epilogue asks for changes no bit, only which rectangles it gets, and where C is.
    let asking = EpilogueNeeds {
        row_multiple: random.pick(&[0, 5, 16, 64]),
        n_companions: random.below(4),
        owns_c: random.below(4) > 0,
    };
    let target = target(isa);
    for (pool, needs) in pools.iter().flat_map(|pool| [EpilogueNeeds::default(), asking].map(|needs| (pool, needs))) {
        let product = Product { batch: count, m, n, k, a: a.strides(), b: b.strides(), epilogue: needs };
        let way = any_way::<T>(&product, &target, blocking, random);
        for gemm in [Gemm::<T>::new(product, &target), Gemm::by(product, way, &target)] {
            let mut gemm = gemm.expect("a way that is listed");
            let grids = gemm.grids(pool.n_threads());
            if !grids.is_empty() && random.below(2) == 0 {
                gemm = gemm.divided(random.pick(&grids));
            }
            run(&gemm, pool, [a.ptr(), b.ptr()], &expected, case);
        }
    }
}

/// Runs a product and compares it.
fn run<T: Number>(gemm: &Gemm<T>, pool: &Pool, operands: [*const T; 2], expected: &[T], case: &Case) {
    let &Product { batch, m, n, epilogue: needs, .. } = gemm.product();
    // A C that is read although it should not be shows up as NaN, and so does what lies around it if it is written.
    const AROUND: usize = 7;
    let mut c = vec![T::NAN; batch * m * n + 2 * AROUND];
    let seen: Vec<AtomicU8> = (0..batch * m * n).map(|_| AtomicU8::new(0)).collect();
    let n_wrong = AtomicUsize::new(0);
    let epilogue = |batch: usize, rows: Range<usize>, cols: Range<usize>, c: *mut u8| {
        assert!(!rows.is_empty() && !cols.is_empty() && rows.end <= m && cols.end <= n);
        assert!(cols.start.is_multiple_of(16), "{cols:?}");
        let unit = needs.row_multiple.max(1);
        assert!(rows.start.is_multiple_of(unit) && (rows.end.is_multiple_of(unit) || rows.end == m), "{rows:?}");
        for i in rows {
            for j in cols.clone() {
                seen[(batch * m + i) * n + j].fetch_add(1, Ordering::Relaxed);
                // SAFETY: the element lies in C or where C is kept, and this rectangle is ours now.
                let found = unsafe { *c.cast::<T>().wrapping_add(i * n + j) };
                if found.bits() != expected[(batch * m + i) * n + j].bits() {
                    n_wrong.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    let mut workspace = Workspace::with_bytes(gemm.workspace_bytes(pool.n_threads())).unwrap();
    let bytes = workspace.bytes();
    let to = if needs.owns_c { std::ptr::null_mut() } else { c.as_mut_ptr().wrapping_add(AROUND) };
    // SAFETY: the stacks outlive the call and are distinct; the CPU has the instruction set.
    unsafe { gemm.run(pool, operands, to, Some(&epilogue), &mut workspace) };
    let context = || format!("{case:?} {gemm:?} {:?} on {} threads", gemm.grid(), pool.n_threads());
    assert_eq!(workspace.bytes(), bytes, "the workspace grew: {}", context());
    assert_eq!(n_wrong.into_inner(), 0, "the epilogue saw incomplete elements: {}", context());
    assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == 1), "epilogue counts: {}", context());
    let (before, rest) = c.split_at(AROUND);
    let (found, after) = rest.split_at(batch * m * n);
    assert!(before.iter().chain(after).all(|x| x.bits() == T::NAN.bits()), "memory around C: {}", context());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let expected = if needs.owns_c { T::NAN } else { *expected };
        assert_eq!(found.bits(), expected.bits(), "at {at}: {found:?}, not {expected:?}: {}", context());
    }
}
