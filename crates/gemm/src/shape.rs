//! What follows from a product and its way: sizes of blocks and rectangles, units, and the memory that they take.

use crate::number::Number;
use crate::product::Product;
use crate::time::PACK_COST;
use crate::way::{Blocking, Case, Grid, Operand, Pieces, Way};
use crate::workspace::LINE;

/// The most panels of B that are packed at a time, along their rows: more do not make reading B faster.
pub(crate) const MAX_PANELS: usize = 8;

/// A product of several rows and columns, ready for the loops.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// How panels read A.
    pub a: Operand,
    /// How panels read B.
    pub b: Operand,
    /// Flat kernels instead of panels.
    pub flat: Option<Pieces>,
    pub blocking: Blocking,
    /// Columns of the rectangles given to the epilogue.
    pub epilogue_cols: usize,
    /// Columns of B that a thread packs for itself at a time: whole panels.
    pub packed_cols: usize,
    /// Row bounds between threads and blocks are multiples of this.
    pub row_unit: usize,
    /// Columns are divided between threads and rectangles in units of this.
    pub column_unit: usize,
    /// Rows of C that a thread keeps in the workspace: 0 if C is stored, all where it takes several K blocks.
    pub c_rows: usize,
    /// Threads pack blocks of B together: products too high for one block of rows.
    pub shares_b: bool,
    /// Bytes that threads share: a packed block of B.
    pub shared_bytes: usize,
    /// Where the parts of a thread's own memory end, in bytes from its start: a packed block of A; packed panels of B, or a
    /// piece of B that flat kernels read; rows of C.
    pub own_ends: [usize; 3],
}

impl Shape {
    /// Of a way that is legal for the product and that is no way of sums.
    pub fn new<T: Number>(case: &Case<'_, T>, way: Way) -> Self {
        let Product { batch, m, n, k, epilogue, .. } = *case.product;
        let (nr, size, l2) = (case.kernels.nr, size_of::<T>(), case.target.caches().l2);
        let in_place = [Operand::InPlace; 2];
        let whole = Blocking { mc: m.max(1), kc: k.max(1), nc: n.max(1) };
        let (blocking, [a, b], flat, strips) = match way {
            Way::Tile | Way::Sums { .. } => (whole, in_place, None, false),
            Way::Flat { pieces, blocking } => (blocking, in_place, Some(pieces), false),
            Way::Panels { a, b, blocking, strips } => (blocking, [a, b], None, strips),
        };
        let column_unit = case.column_unit();
        // A rectangle of C takes a quarter of L2, so that it is still there when the epilogue reads it:
        //     mc · epilogue_cols · size <= L2 / 4.
        let rows = blocking.mc.min(m).max(1);
        let epilogue_cols = (l2 / 4 / (rows * size)).max(column_unit).next_multiple_of(column_unit);
        // Panels of B that a thread packs at once, so that it reads longer pieces of B's rows, stay in L2:
        //     kc · packed_cols · size <= L2 / 4.
        let packed_cols = (l2 / 4 / (blocking.kc * nr * size)).clamp(1, MAX_PANELS) * nr;
        let c_rows = match epilogue.owns_c {
            false => 0,
            true if k <= blocking.kc => blocking.mc.min(m),
            true => m,
        };
        let row_unit = case.row_unit(strips);
        let shares_b = b != Operand::InPlace && m > blocking.mc;
        let depth = blocking.kc.min(k);
        let of_all = if shares_b { blocking.nc.min(n).next_multiple_of(nr) * depth } else { 0 };
        let of_a = if a == Operand::Packed { blocking.mc.min(m) * depth } else { 0 };
        let of_b = match (flat, b) {
            (Some(Pieces { depth, cols, copied: true }), _) => depth * cols,
            (None, Operand::Packed | Operand::Transposed) => packed_cols.min(n.next_multiple_of(nr)) * depth,
            _ => 0,
        };
        let bytes = |elements: usize| (elements * size).next_multiple_of(LINE);
        let mut end = 0;
        let own_ends = [of_a, of_b, c_rows * n].map(|elements| {
            end += bytes(elements);
            end
        });
        Shape {
            batch,
            m,
            n,
            k,
            a,
            b,
            flat,
            blocking,
            epilogue_cols,
            packed_cols,
            row_unit,
            column_unit,
            c_rows,
            shares_b,
            shared_bytes: bytes(of_all),
            own_ends,
        }
    }

    /// Bytes that each thread has of its own.
    pub fn own_bytes(&self) -> usize {
        self.own_ends[2]
    }

    /// A grid of threads for one product: the one whose largest part costs least.
    pub fn grid(&self, n_threads: usize) -> Grid {
        let cost = |[n_rows, n_cols]: [usize; 2]| {
            let rows = cotangent_pool::split(self.m, n_rows, 0, self.row_unit).len();
            let cols = cotangent_pool::split(self.n, n_cols, 0, self.column_unit).len();
            // Flat kernels pack nothing and go back to C often, so a row of C had better belong to one thread.
            rows * cols + PACK_COST * if self.flat.is_some() { rows } else { rows + cols }
        };
        let grids = (1..=n_threads).map(|n_rows| [n_rows, n_threads / n_rows]);
        let [rows, cols] = grids.min_by_key(|&grid| cost(grid)).unwrap_or([1, 1]);
        Grid { rows, cols, reversed: false }
    }
}
