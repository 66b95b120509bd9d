//! The ways that a product can go, as values. All that are legal for a product give the same bits.

use std::fmt;

use cotangent_host::Target;

use crate::kernel::KernelSet;
use crate::product::{COLUMN_ALIGN, Product, Strides, lcm};

/// How a product is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One row or one column of C: its elements are sums over the rows of a matrix, so many elements at a time.
    Sums {
        /// In which order the matrix is read.
        order: Order,
        /// Elements of C that are made, and given to the epilogue, at a time.
        chunk: usize,
    },
    /// One call of a kernel that holds all of C in registers, operands in place.
    Tile,
    /// Flat kernels pass over pieces of B while all rows of a block go by.
    Flat {
        /// The pieces.
        pieces: Pieces,
        /// Blocks of rows and of K; columns are not blocked.
        blocking: Blocking,
    },
    /// Five loops around kernels for panels of A and B.
    Panels {
        /// How A is read.
        a: Operand,
        /// How B is read.
        b: Operand,
        /// The blocks of the loops.
        blocking: Blocking,
        /// Blocks of rows are strips of C that stay in the second-level cache until their epilogue is done: threads divide
        /// the rows by whole panels.
        strips: bool,
    },
}

/// In which order a product with a vector reads its matrix, whose rows are summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Along rows, whose elements are adjacent.
    Along,
    /// Across rows that lie side by side: lanes of many sums grow together.
    Across,
    /// Element by element, with any strides.
    Strided,
}

/// How an operand is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Where it is.
    InPlace,
    /// From a packed copy.
    Packed,
    /// Where it is, and transposed in registers; its last columns, less than a vector of them, are packed. Only of B.
    Transposed,
}

/// How flat kernels pass over a matrix B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Steps of K at a time.
    pub depth: usize,
    /// Columns at a time.
    pub cols: usize,
    /// They read a copy of each piece.
    pub copied: bool,
}

/// Block sizes of the loops over rows, K and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Rows of a block of A, which stays in the second-level cache.
    pub mc: usize,
    /// Steps of K in a block.
    pub kc: usize,
    /// Columns of a block of B that threads pack together, which stays in the third-level cache.
    pub nc: usize,
}

/// How threads divide C: rows by columns of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Parts of the rows.
    pub rows: usize,
    /// Parts of the columns.
    pub cols: usize,
    /// The first thread takes the last part, and so on: another core has what the first part needs in its cache.
    pub reversed: bool,
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grid { rows, cols, reversed } = self;
        write!(f, "{rows}×{cols} threads{}", if *reversed { ", the last first" } else { "" })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Sums { order, chunk } => {
                let order = match order {
                    Order::Along => "along rows",
                    Order::Across => "across rows",
                    Order::Strided => "element by element",
                };
                write!(f, "sums {order}, {chunk} at a time")
            }
            Way::Tile => f.write_str("one tile"),
            Way::Flat { pieces: Pieces { depth, cols, copied }, blocking } => {
                let place = if *copied { "copied" } else { "in place" };
                write!(f, "flat, pieces of {depth}×{cols} of B {place}, {} rows at a time", blocking.mc)
            }
            Way::Panels { a, b, blocking: Blocking { mc, kc, nc }, strips } => {
                let blocks = if *strips { "strips" } else { "blocks" };
                write!(f, "panels, A {a}, B {b}, {blocks} of {mc} rows, {kc} steps, {nc} columns")
            }
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operand::InPlace => "in place",
            Operand::Packed => "packed",
            Operand::Transposed => "transposed in registers",
        })
    }
}

/// A product on a machine.
pub(crate) struct Case<'a, T: 'static> {
    pub product: &'a Product,
    pub kernels: &'static KernelSet<T>,
    pub target: &'a Target,
}

impl<T> Clone for Case<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Case<'_, T> {}

/// Row bounds between threads and blocks are multiples of this: a divisor of common tile heights.
const ROW_ALIGN: usize = 4;

impl<T> Case<'_, T> {
    /// Row bounds between threads and blocks are multiples of this.
    pub fn row_unit(&self, strips: bool) -> usize {
        lcm(if strips { self.kernels.mr() } else { ROW_ALIGN }, self.product.row_multiple())
    }

    /// Columns are divided between threads and rectangles in units of this: both are powers of two.
    pub fn column_unit(&self) -> usize {
        self.kernels.nr.max(COLUMN_ALIGN)
    }

    /// Bytes from a row of B to the next.
    pub fn row_bytes(&self) -> usize {
        self.product.b.row.unsigned_abs().wrapping_mul(size_of::<T>())
    }

    /// All rows of B fall into the same sets of the first-level cache.
    pub fn rows_share_sets(&self) -> bool {
        self.row_bytes().is_multiple_of(self.target.caches().l1_period)
    }

    /// For one row or column of C, the matrix M of y = M·x and the vector: their strides, and whether M is Bᵀ and not A.
    pub fn turned(&self) -> (Strides, Strides, bool) {
        let Product { m, n, a, b, .. } = *self.product;
        let b = b.transposed();
        // If both are rows, the one with adjacent elements does for M.
        let is_b = n != 1 || (m == 1 && a.col != 1 && b.col == 1);
        if is_b { (b, a, is_b) } else { (a, b, is_b) }
    }

    /// The way with its sizes rounded up to what bounds of rectangles have to be multiples of; `None` if it cannot make this
    /// product.
    pub fn legal(&self, way: Way) -> Option<Way> {
        let Product { m, n, k, b, .. } = *self.product;
        let rounded = |Blocking { mc, kc, nc }: Blocking, strips| {
            let up = |size: usize, extent: usize, unit: usize| size.clamp(1, extent.max(1)).next_multiple_of(unit);
            Blocking { mc: up(mc, m, self.row_unit(strips)), kc: up(kc, k, 1), nc: up(nc, n, self.column_unit()) }
        };
        if let Way::Sums { order, chunk } = way {
            let (matrix, ..) = self.turned();
            let suits = match order {
                Order::Along => matrix.col == 1 || k <= 1,
                Order::Across => matrix.row == 1,
                Order::Strided => true,
            };
            let most = m.max(n).max(1);
            let unit = lcm(COLUMN_ALIGN, if m == 1 { 1 } else { self.product.row_multiple() });
            let chunk = chunk.clamp(1, most).next_multiple_of(unit).min(most);
            return (self.product.is_vector() && suits).then_some(Way::Sums { order, chunk });
        }
        if self.product.is_vector() {
            return None;
        }
        match way {
            Way::Tile => (b.col == 1 && self.fits_a_tile()).then_some(way),
            Way::Flat { pieces: Pieces { depth, cols, copied }, blocking } => {
                let (depth, cols) = (depth.clamp(1, k.max(1)), cols.clamp(1, n.max(1)));
                let way = Way::Flat {
                    pieces: Pieces { depth, cols: cols.next_multiple_of(self.kernels.nr), copied },
                    blocking: rounded(blocking, false),
                };
                (b.col == 1 && k > 0 && self.kernels.flat.len() >= self.kernels.mr()).then_some(way)
            }
            Way::Panels { a, b: reading, blocking, strips } => {
                let suits = match reading {
                    Operand::InPlace => b.col == 1,
                    Operand::Packed => true,
                    Operand::Transposed => b.row == 1 && m <= self.kernels.transposing.len(),
                };
                let way = Way::Panels { a, b: reading, blocking: rounded(blocking, strips), strips };
                (suits && a != Operand::Transposed).then_some(way)
            }
            Way::Sums { .. } => None,
        }
    }

    /// C has so few rows and columns that one tile holds it.
    fn fits_a_tile(&self) -> bool {
        let widest = |m: usize| self.kernels.direct.get(m - 1).map_or(0, |kernels| kernels.len());
        let Product { m, n, .. } = *self.product;
        (1..=self.kernels.mr()).contains(&m) && (1..=widest(m) * self.kernels.lanes).contains(&n)
    }
}
