//! How long a way is predicted to take, on one thread and without the epilogue.
//!
//! Counted are multiply-adds, with what low tiles waste; packed elements; visits to C; what is read of the operands; and calls
//! of kernels. What all ways have in common need not be right.

use cotangent_host::Costs;

use crate::kernel::vector::GROUPS;
use crate::number::Number;
use crate::product::Product;
use crate::way::{Blocking, Case, Operand, Order, Pieces, Way};

/// Multiply-adds that pass while one element is packed.
pub(crate) const PACK_COST: usize = 12;

/// Vectors of accumulators that keep the multiply-adds of a tile from waiting for each other.
const IN_FLIGHT: usize = 8;

/// How many times longer multiply-adds take that are made one by one.
const ONE_BY_ONE: f64 = 16.0;

/// How many times longer it takes to read pieces of a cache line or two than to read whole rows.
const SHORT_PIECES: f64 = 3.0;

/// The nanoseconds of a way that is legal for the product.
pub(crate) fn nanos<T: Number>(case: &Case<'_, T>, way: Way) -> f64 {
    let one = match way {
        Way::Sums { order, chunk } => case.sums(order, chunk),
        Way::Tile => case.fmas() + case.target.costs().tile_ns,
        Way::Flat { pieces, blocking } => case.flat(pieces, blocking),
        Way::Panels { a, b, blocking, .. } => case.panels([a, b], blocking),
    };
    case.product.batch as f64 * one
}

/// How many pieces of a size an extent has.
fn pieces_of(extent: usize, size: usize) -> f64 {
    extent.div_ceil(size).max(1) as f64
}

impl<T: Number> Case<'_, T> {
    fn sums(&self, order: Order, chunk: usize) -> f64 {
        let Product { m, n, k, .. } = *self.product;
        let rows = m.max(n);
        let elements = rows as f64 * k as f64;
        let (fmas, read) = (elements * self.fma(), self.moved(elements, elements));
        let calls = pieces_of(rows, chunk) * self.target.costs().tile_ns;
        calls
            + match order {
                Order::Along => fmas.max(read),
                // Lanes come and go once for every few rows of the matrix.
                Order::Across => fmas.max(read) + self.moved(2.0 * elements / GROUPS as f64, 0.0),
                Order::Strided => ONE_BY_ONE * fmas + SHORT_PIECES * read,
            }
    }

    fn flat(&self, Pieces { depth, cols, copied }: Pieces, blocking: Blocking) -> f64 {
        let Product { m, n, k, .. } = *self.product;
        let [_, of_b, of_c] = self.elements();
        let (n_blocks, passes) = (pieces_of(m, blocking.mc), pieces_of(k, depth));
        let n_calls = passes * pieces_of(n, cols) * pieces_of(m, self.kernels.mr());
        let copies = if copied { self.moved(2.0 * n_blocks * of_b, 0.0) } else { 0.0 };
        self.fmas()
            + self.moved_c(of_c)
            + self.moved(2.0 * (passes - 1.0) * of_c, 0.0)
            + n_blocks * self.moved(of_b, of_b)
            + copies
            + n_calls * self.target.costs().tile_ns
    }

    fn panels(&self, [a, b]: [Operand; 2], blocking: Blocking) -> f64 {
        let Product { m, n, k, .. } = *self.product;
        let [of_a, of_b, of_c] = self.elements();
        let (n_panels, n_columns) = (pieces_of(m, self.kernels.mr()), pieces_of(n, self.kernels.nr));
        let passes = pieces_of(k, blocking.kc);
        let packing = |elements: f64| PACK_COST as f64 * elements * self.fma() + self.moved(elements, elements);
        let reading_a = match a {
            // Once for every block of columns that threads share.
            Operand::Packed if m > blocking.mc => pieces_of(n, blocking.nc) * packing(of_a),
            Operand::Packed => packing(of_a),
            // Every panel of columns reads it, from the first level if it stays there.
            _ if of_a * size_of::<T>() as f64 <= self.target.caches().l1 as f64 => 0.0,
            _ => self.moved(n_columns * of_a, 0.0),
        };
        let reading_b = match b {
            Operand::Packed => packing(of_b),
            // Where rows share cache sets, a panel does not stay near between two panels of rows.
            Operand::InPlace if self.rows_share_sets() => {
                SHORT_PIECES * (self.moved(of_b, of_b) + self.moved((n_panels - 1.0) * of_b, 0.0))
            }
            _ => SHORT_PIECES * self.moved(of_b, of_b),
        };
        self.fmas()
            + reading_a
            + reading_b
            + self.moved_c((2.0 * passes - 1.0) * of_c)
            + passes * n_panels * n_columns * self.target.costs().tile_ns
    }

    /// Reading or writing so many elements of C, which is near if only the epilogue reads it.
    fn moved_c(&self, elements: f64) -> f64 {
        let [.., of_c] = self.elements();
        self.moved(elements, if self.product.epilogue.owns_c { 0.0 } else { of_c })
    }

    /// Elements of A, B and C.
    fn elements(&self) -> [f64; 3] {
        let Product { m, n, k, .. } = *self.product;
        [[m, k], [k, n], [m, n]].map(|[rows, cols]| rows as f64 * cols as f64)
    }

    /// A multiply-add.
    fn fma(&self) -> f64 {
        size_of::<T>() as f64 * self.target.costs().fma_ns
    }

    /// All multiply-adds: columns are whole vectors, and low tiles wait for themselves.
    fn fmas(&self) -> f64 {
        let Product { m, n, k, .. } = *self.product;
        let vectors = n.div_ceil(self.kernels.lanes).max(1);
        let height = m.clamp(1, self.kernels.mr());
        let widest = self.kernels.direct[height - 1].len().min(vectors);
        let waits = (IN_FLIGHT as f64 / (height * widest) as f64).max(1.0);
        waits * m as f64 * k as f64 * (vectors * self.kernels.lanes) as f64 * self.fma()
    }

    /// So many elements read or written, of so many that are to stay near.
    fn moved(&self, elements: f64, of: f64) -> f64 {
        let Costs { near_byte_ns, far_byte_ns, .. } = *self.target.costs();
        let is_far = of * size_of::<T>() as f64 > self.target.caches().l2 as f64;
        elements * size_of::<T>() as f64 * if is_far { far_byte_ns } else { near_byte_ns }
    }
}
