//! What a product is: its extents, where the elements of its operands lie, and what finishes it.

use std::ops::Range;

/// What to do with a rectangle of C that is complete: its batch index, rows and columns, and the address that element (0, 0)
/// of that C would have if all of it were where the rectangle is.
///
/// It is called exactly once for every element, on the thread that finished it, as disjoint rectangles whose
/// first column is a multiple of 16. It may change the rectangle of C and nothing else that the product uses.
pub type Epilogue<'a> = dyn Fn(usize, Range<usize>, Range<usize>, *mut u8) + Sync + 'a;

/// Column starts that epilogues get, and column bounds between threads, are multiples of this.
pub(crate) const COLUMN_ALIGN: usize = 16;

/// C = A·B, or a batch of such products: A is m×k, B is k×n, and C, m×n, is row-major; the matrices of a batch lie one
/// behind the other in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// How many products.
    pub batch: usize,
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A and rows of B: the length of each chain.
    pub k: usize,
    /// Where the elements of A lie.
    pub a: Strides,
    /// Where the elements of B lie.
    pub b: Strides,
    /// What the epilogue needs.
    pub epilogue: EpilogueNeeds,
}

/// Where the elements of a matrix lie: how many elements one is from the next. Any strides do; a broadcast has stride 0, a
/// reversal a negative one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// From one matrix of the batch to the next; 0 uses the same for all.
    pub batch: isize,
    /// From a row to the next.
    pub row: isize,
    /// From a column to the next.
    pub col: isize,
}

/// What an epilogue needs of the product whose rectangles it finishes, known when that is planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpilogueNeeds {
    /// Rectangles start at rows that are multiples of this, and end there or at the last row; 0 counts as 1. An epilogue
    /// that sums blocks of rows asks for whole blocks.
    pub row_multiple: usize,
    /// Matrices of C's extents and element type that it reads or writes beside C: they share the cache with C.
    pub n_companions: usize,
    /// It alone reads C, so C need not be stored: the workspace holds the rows under way. The C that is handed in is not
    /// touched; its address may be anything.
    pub owns_c: bool,
}

impl Strides {
    /// Those of a row-major matrix of so many columns, without gaps, the same for all of a batch.
    pub fn row_major(cols: usize) -> Strides {
        Strides { batch: 0, row: cols as isize, col: 1 }
    }

    /// Of the same elements with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Strides {
        Strides { row: self.col, col: self.row, ..self }
    }
}

impl Product {
    /// One product of row-major matrices without gaps.
    pub fn new(m: usize, n: usize, k: usize) -> Product {
        let (a, b) = (Strides::row_major(k), Strides::row_major(n));
        Product { batch: 1, m, n, k, a, b, epilogue: EpilogueNeeds::default() }
    }

    /// One row or one column of C: its elements are sums over rows, in the order of reductions.
    pub(crate) fn is_vector(&self) -> bool {
        self.m == 1 || self.n == 1
    }

    /// Multiply-adds of the whole batch.
    pub(crate) fn multiply_adds(&self) -> usize {
        [self.batch, self.m, self.n, self.k].into_iter().fold(1, usize::saturating_mul)
    }

    /// What the bounds of rectangles' rows are multiples of.
    pub(crate) fn row_multiple(&self) -> usize {
        // From all rows on, every multiple means one rectangle.
        self.epilogue.row_multiple.clamp(1, self.m.max(1))
    }
}

/// A matrix: where element (0, 0) of one is, and its strides.
#[derive(Debug)]
pub(crate) struct Matrix<T> {
    pub ptr: *const T,
    pub strides: Strides,
}

impl<T> Clone for Matrix<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Matrix<T> {}

impl<T> Matrix<T> {
    /// The address of element (i, j).
    #[inline]
    pub fn at(&self, i: usize, j: usize) -> *const T {
        self.ptr.wrapping_offset(i as isize * self.strides.row + j as isize * self.strides.col)
    }

    /// The matrix of this number in the batch.
    #[inline]
    #[must_use]
    pub fn number(&self, index: usize) -> Self {
        Matrix { ptr: self.ptr.wrapping_offset(index as isize * self.strides.batch), ..*self }
    }
}

/// The least common multiple.
pub(crate) fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}
