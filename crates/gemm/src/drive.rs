//! The five loops around the micro-kernel, and how they are divided between threads.
//!
//! ```text
//! columns of C in blocks of nc          a packed block of B (kc × nc) is in L3      `shared`
//!   K in blocks of kc                                                               `shared`, `region`
//!     rows of C in blocks of mc         a packed block of A (mc × kc) is in L2      `region`
//!       columns in panels of nr         a packed panel of B (kc × nr) is in L2,     `block`
//!                                       its front in L1
//!         rows in panels of mr          a panel of A passes through L1,             `block`
//!                                       the tile of C (mr × nr) is in registers     `tile`
//! ```
//! After the last K block, the columns of a block are grouped into rectangles for the epilogue.
//!
//! Threads divide rows and columns of C, never K. Where one block of rows holds all rows, a thread needs each
//! panel of B once only: it is packed just before its use, and threads need not meet at all. Otherwise the threads
//! pack a block of B together, meet, and use it together. Where flat kernels pass over pieces of B (`flat`), they take
//! the place of the loops over panels. All decisions have been made before: they stand in [`Shape`].
//!
//! Promises: each element of C belongs to one thread, which extends its chain K block by K block in order.

use std::ops::Range;

use cotangent_pool::{Pool, split};

use crate::kernel::{KernelSet, Tile};
use crate::number::Number;
use crate::pack::{PACK_DEPTH, Source, pack_panel};
use crate::product::{Epilogue, Matrix};
use crate::shape::{MAX_PANELS, Shape};
use crate::way::{Grid, Operand, Pieces};

/// One call: everything its threads read.
pub(crate) struct Job<'a, T: 'static> {
    pub kernels: &'static KernelSet<T>,
    pub shape: &'a Shape,
    pub a: Matrix<T>,
    pub b: Matrix<T>,
    /// Row-major, the matrices of a batch one behind the other.
    pub c: *mut T,
    pub epilogue: Option<&'a Epilogue<'a>>,
    /// How threads divide one product, if not as the shape suggests.
    pub grid: Option<Grid>,
    /// The shape's shared bytes, then as many of its own bytes for each thread.
    pub workspace: *mut u8,
}

// SAFETY: threads read A and B, write disjoint rectangles of C, write disjoint parts of the workspace, and read
// what others wrote there only after they have met; the caller of `run` vouches for the matrices.
unsafe impl<T: Number> Sync for Job<'_, T> {}

/// Where a block finds B.
#[derive(Clone, Copy)]
enum PanelsOfB<T> {
    /// In place; this thread's own memory is here.
    Direct(*mut T),
    /// To be packed here, a few panels at a time.
    Own(*mut T),
    /// Packed by all threads: the panels from column `start` on are here.
    Shared { panels: *const T, start: usize },
}

/// Which kernels read a panel of B.
#[derive(Clone, Copy)]
enum Family {
    Packed,
    Direct,
    Transposing,
}

/// Columns of B over one K block, as a micro-kernel reads them.
struct Panel<T> {
    family: Family,
    cols: Range<usize>,
    b: *const T,
    b_k_stride: isize,
}

/// A rectangle of C over one K block.
struct Block<T> {
    batch: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    ks: Range<usize>,
    /// Where element (0, 0) of C would be if all of C were where this rectangle is.
    c: *mut T,
}

impl<T: Number> Job<'_, T> {
    /// Runs the batch on at most `n_threads` threads of the pool.
    ///
    /// # Safety
    /// The CPU has the kernels' features; the matrices are as `Gemm::run` asks; the workspace has the
    /// shape's shared bytes and `n_threads` times its own bytes.
    pub unsafe fn run(&self, pool: &Pool, n_threads: usize) {
        let Shape { batch: count, m, n, .. } = *self.shape;
        if n_threads == 1 && !self.shape.shares_b {
            // The short way for the many small products of small networks.
            for batch in 0..count {
                // SAFETY: what the caller promises; thread 0 is the only one.
                unsafe { self.region(batch, 0..m, 0..n, 0) };
            }
        } else if count >= n_threads && n_threads > 1 {
            pool.run(n_threads, &|part| {
                for batch in split(count, n_threads, part, 1) {
                    // SAFETY: what the caller promises; `part` is this thread's own.
                    unsafe { self.region(batch, 0..m, 0..n, part) };
                }
            });
        } else {
            for batch in 0..count {
                // SAFETY: what the caller promises.
                unsafe { self.product(pool, n_threads, batch) };
            }
        }
    }

    /// Gives a finished rectangle to the epilogue.
    fn finish(&self, batch: usize, rows: Range<usize>, cols: Range<usize>, c: *mut T) {
        if let Some(epilogue) = self.epilogue {
            epilogue(batch, rows, cols, c.cast());
        }
    }

    /// Where element (0, 0) of C would be if all of C were where the block of rows is that starts at `row`.
    fn origin(&self, batch: usize, part: usize, row: usize) -> *mut T {
        let Shape { m, n, c_rows, .. } = *self.shape;
        if c_rows == 0 {
            return self.c.wrapping_add(batch * m * n);
        }
        // A thread that keeps some rows only has one block of them at a time.
        let first = if c_rows < m { row } else { 0 };
        self.own(part)[2].wrapping_sub(first * n)
    }

    /// One product on a grid of threads.
    ///
    /// # Safety
    /// As [`Job::run`].
    unsafe fn product(&self, pool: &Pool, n_threads: usize, batch: usize) {
        let Shape { m, n, blocking, .. } = *self.shape;
        let Grid { rows: n_rows, cols: n_cols, reversed } = self.grid.unwrap_or_else(|| self.shape.grid(n_threads));
        let n_parts = n_rows * n_cols;
        let place = |part: usize| if reversed { n_parts - 1 - part } else { part };
        let rows_of = |part: usize| split(m, n_rows, place(part) / n_cols, self.shape.row_unit);
        let unit = self.shape.column_unit;
        if !self.shape.shares_b {
            pool.run(n_parts, &|part| {
                // SAFETY: what the caller promises; `part` is this thread's own.
                unsafe { self.region(batch, rows_of(part), split(n, n_cols, place(part) % n_cols, unit), part) };
            });
            return;
        }
        for start in (0..n).step_by(blocking.nc) {
            let cols = start..n.min(start + blocking.nc);
            for ks in self.k_blocks() {
                let shared = Shared { batch, ks };
                pool.run(n_parts, &|part| {
                    let own = split(cols.len(), n_parts, place(part), self.kernels.nr);
                    let to = self.workspace.cast::<T>().wrapping_add(own.start * shared.ks.len());
                    let own = start + own.start..start + own.end;
                    // SAFETY: each part packs panels of its own; nobody reads them before all parts are done.
                    unsafe { self.pack_b(batch, &shared.ks, own, to) };
                });
                pool.run(n_parts, &|part| {
                    let own = split(cols.len(), n_cols, place(part) % n_cols, unit);
                    let own = start + own.start..start + own.end;
                    let panels = PanelsOfB::Shared { panels: self.workspace.cast::<T>(), start };
                    // SAFETY: the panels were packed by the run before; `part` is this thread's own.
                    unsafe { self.rows(&shared, rows_of(part), own, part, panels) };
                });
            }
        }
    }

    /// A rectangle of C from beginning to end, by one thread that needs no other.
    ///
    /// # Safety
    /// As [`Job::run`]; no other thread has this `part` or touches this rectangle.
    unsafe fn region(&self, batch: usize, rows: Range<usize>, cols: Range<usize>, part: usize) {
        let own = self.own(part)[1];
        let panels = if self.shape.b == Operand::InPlace { PanelsOfB::Direct(own) } else { PanelsOfB::Own(own) };
        for ks in self.k_blocks() {
            let shared = Shared { batch, ks };
            // SAFETY: what the caller promises.
            unsafe { self.rows(&shared, rows.clone(), cols.clone(), part, panels) };
        }
    }

    /// One K block of a thread's rectangle, in blocks of rows.
    ///
    /// # Safety
    /// As [`Job::region`], and shared panels are packed.
    unsafe fn rows(&self, shared: &Shared, rows: Range<usize>, cols: Range<usize>, part: usize, panels: PanelsOfB<T>) {
        if rows.is_empty() || cols.is_empty() {
            return;
        }
        let [a_block, ..] = self.own(part);
        // Equal blocks rather than a short last one; none is higher than `mc`, which the workspace allows for.
        let mc = self.shape.blocking.mc;
        let n_blocks = rows.len().div_ceil(mc);
        for index in 0..n_blocks {
            let block = split(rows.len(), n_blocks, index, self.shape.row_unit);
            let rows = rows.start + block.start..rows.start + block.end;
            let c = self.origin(shared.batch, part, rows.start);
            let block = Block { batch: shared.batch, rows, cols: cols.clone(), ks: shared.ks.clone(), c };
            // SAFETY: what the caller promises; the block has at most `mc` rows, for which `a_block` has room.
            unsafe { self.block(&block, a_block, panels) };
        }
    }

    /// Packs A, multiplies it with all panels of B, and gives finished rectangles to the epilogue.
    ///
    /// # Safety
    /// As [`Job::rows`]; `a_block` has room for the block's rows unless A is used in place.
    unsafe fn block(&self, block: &Block<T>, a_block: *mut T, panels: PanelsOfB<T>) {
        let Block { batch, rows, cols, ks, c } = block;
        let (batch, depth, shape) = (*batch, ks.len(), self.shape);
        let b = self.b.number(batch);
        let heights = Heights::new(rows.len(), self.kernels.mr());
        if shape.a == Operand::Packed {
            // SAFETY: what the caller promises.
            unsafe { self.pack_a(block, &heights, a_block) };
        }
        let (lanes, nr) = (self.kernels.lanes, self.kernels.nr);
        for group in cols.clone().step_by(shape.epilogue_cols) {
            let group = group..cols.end.min(group + shape.epilogue_cols);
            if let Some(flat) = shape.flat {
                let PanelsOfB::Direct(copy) = panels else { continue };
                // SAFETY: the columns lie in the block; `copy` has room for what a flat kernel passes over.
                unsafe { self.flat(block, &heights, group.clone(), flat, copy) };
                if ks.end == shape.k {
                    self.finish(batch, rows.clone(), group, *c);
                }
                continue;
            }
            let mut j = group.start;
            // Columns up to here are packed.
            let mut packed = Range { start: j, end: j };
            while j < group.end {
                let left = group.end - j;
                let (family, width, b, b_k_stride) = match panels {
                    PanelsOfB::Direct(_) => {
                        // Low tiles read in place may be wider, for more accumulators.
                        let most = self.kernels.direct[heights.most() - 1].len() * lanes;
                        (Family::Direct, most.min(left), b.at(ks.start, j), b.strides.row)
                    }
                    PanelsOfB::Shared { panels, start } => {
                        (Family::Packed, nr.min(left), panels.wrapping_add((j - start) * depth), nr as isize)
                    }
                    PanelsOfB::Own(_) if shape.b == Operand::Transposed && left >= lanes => {
                        let most = self.kernels.transposing[heights.most() - 1].len();
                        (Family::Transposing, most.min(left / lanes) * lanes, b.at(ks.start, j), b.strides.col)
                    }
                    PanelsOfB::Own(panels) => {
                        if j >= packed.end {
                            packed = j..group.end.min(j + shape.packed_cols);
                            // SAFETY: this thread's own memory has room for so many columns over a K block.
                            unsafe { self.pack_b(batch, ks, packed.clone(), panels) };
                        }
                        let panel = panels.wrapping_add((j - packed.start) * depth).cast_const();
                        (Family::Packed, nr.min(left), panel, nr as isize)
                    }
                };
                let panel = Panel { family, cols: j..j + width, b, b_k_stride };
                for (i, height) in heights.iter() {
                    // SAFETY: rows `i..i + height` and the panel's columns lie in the block.
                    unsafe { self.tile(block, a_block, i, height, &panel) };
                }
                j += width;
            }
            if ks.end == shape.k {
                self.finish(batch, rows.clone(), group, *c);
            }
        }
    }

    /// Columns of a block, by flat kernels: over pieces of B that stay in L1 while all rows of the block pass.
    ///
    /// # Safety
    /// As [`Job::block`]; the columns lie in the block; `copy` has room for a piece.
    unsafe fn flat(&self, block: &Block<T>, heights: &Heights, cols: Range<usize>, pieces: Pieces, copy: *mut T) {
        let Block { batch, rows, ks, c, .. } = block;
        let [a, b] = [self.a, self.b].map(|x| x.number(*batch));
        let n = self.shape.n;
        for j in cols.clone().step_by(pieces.cols) {
            let width = pieces.cols.min(cols.end - j);
            for k in ks.clone().step_by(pieces.depth) {
                let depth = pieces.depth.min(ks.end - k);
                let (mut from, mut b_k_stride) = (b.at(k, j), b.strides.row);
                if pieces.copied {
                    // SAFETY: the columns of B, and room for them.
                    unsafe { (self.kernels.copy)(from, b_k_stride, copy, width, width, depth, 0) };
                    (from, b_k_stride) = (copy.cast_const(), width as isize);
                }
                for (i, height) in heights.iter() {
                    let to = c.wrapping_add((rows.start + i) * n + j);
                    let tile = Tile {
                        k: depth,
                        a: a.at(rows.start + i, k),
                        a_row_stride: a.strides.row,
                        a_k_stride: a.strides.col,
                        b: from,
                        b_k_stride,
                        c: to,
                        c_row_stride: n as isize,
                        next_c: to,
                        cols: width,
                        load: k > 0,
                    };
                    // SAFETY: the tile lies in the matrices, whose validity the caller promises, or in the copy of B.
                    unsafe { self.kernels.flat[height - 1](&tile) };
                }
            }
        }
    }

    /// One tile of C: rows `i..i + height` of the block, the columns of the panel.
    ///
    /// # Safety
    /// As [`Job::block`]; A is packed or used in place, the panel of B holds the columns.
    #[inline]
    unsafe fn tile(&self, block: &Block<T>, a_block: *const T, i: usize, height: usize, panel: &Panel<T>) {
        let Block { batch, rows, ks, .. } = block;
        let &Panel { family, cols: Range { start: j, end }, b, b_k_stride } = panel;
        let width = end - j;
        let n_vectors = width.div_ceil(self.kernels.lanes);
        let is_packed = self.shape.a == Operand::Packed;
        let kernel = match family {
            Family::Packed if is_packed => self.kernels.packed[height - 1][n_vectors - 1],
            Family::Packed | Family::Direct => self.kernels.direct[height - 1][n_vectors - 1],
            Family::Transposing => self.kernels.transposing[height - 1][n_vectors - 1],
        };
        let (a, a_row_stride, a_k_stride) = if is_packed {
            (a_block.wrapping_add(i * ks.len()), 1, height as isize)
        } else {
            let a = self.a.number(*batch);
            (a.at(rows.start + i, ks.start), a.strides.row, a.strides.col)
        };
        let n = self.shape.n;
        let at = |i: usize, j: usize| block.c.wrapping_add(i * n + j);
        let c = at(rows.start + i, j);
        let tile = Tile {
            k: ks.len(),
            a,
            a_row_stride,
            a_k_stride,
            b,
            b_k_stride,
            c,
            c_row_stride: n as isize,
            next_c: if i + height < rows.len() { at(rows.start + i + height, j) } else { at(rows.start, j + width) },
            cols: width,
            load: ks.start > 0,
        };
        // SAFETY: the tile lies in the matrices, whose validity the caller promises.
        unsafe { kernel(&tile) };
    }

    /// Packs a block of A into panels, one after the other, each as high as its tile.
    ///
    /// # Safety
    /// As [`Job::block`].
    unsafe fn pack_a(&self, block: &Block<T>, heights: &Heights, a_block: *mut T) {
        let Block { batch, rows, ks, .. } = block;
        let a = self.a.number(*batch);
        let (depth_stride, width_stride) = (a.strides.col, a.strides.row);
        let step = if width_stride == 1 { PACK_DEPTH } else { ks.len().max(1) };
        for k in (0..ks.len()).step_by(step) {
            let depth = step.min(ks.len() - k);
            for (i, height) in heights.iter() {
                let from = a.at(rows.start + i, ks.start + k);
                // The next panel, or the first one a step deeper.
                let ahead = if i + height < rows.len() {
                    height as isize * width_stride
                } else {
                    step as isize * depth_stride - i as isize * width_stride
                };
                let source = Source { from, width_stride, depth_stride, ahead };
                let to = a_block.wrapping_add(i * ks.len() + k * height);
                // SAFETY: rows `i..i + height` of the block are readable; panels are `height * ks.len()` long
                // and follow each other in the block's memory.
                unsafe { pack_panel(self.kernels, &source, height, depth, to, height) };
            }
        }
    }

    /// Packs columns of B over one K block, panel after panel.
    ///
    /// # Safety
    /// As [`Job::run`]; `to` has room for the panels, and no other thread uses that.
    unsafe fn pack_b(&self, batch: usize, ks: &Range<usize>, cols: Range<usize>, to: *mut T) {
        let (nr, depth) = (self.kernels.nr, ks.len());
        let b = self.b.number(batch);
        let (depth_stride, width_stride) = (b.strides.row, b.strides.col);
        let from = |j: usize| b.at(ks.start, j);
        let to = |j: usize| to.wrapping_add((j - cols.start) * depth);
        let n_whole = if width_stride == 1 { cols.len() / nr } else { 0 };
        let whole = cols.start..cols.start + n_whole * nr;
        for j in whole.clone().step_by(MAX_PANELS * nr) {
            let n_panels = ((whole.end - j) / nr).min(MAX_PANELS);
            // SAFETY: whole panels of the columns; panels are `nr * depth` long and follow each other.
            unsafe { (self.kernels.copy_panels)(from(j), depth_stride, to(j), nr * depth, n_panels, depth) };
        }
        for j in (whole.end..cols.end).step_by(nr) {
            let source = Source { from: from(j), width_stride, depth_stride, ahead: 0 };
            // SAFETY: columns `j..j + nr`, as far as there are so many, are readable.
            unsafe { pack_panel(self.kernels, &source, nr.min(cols.end - j), depth, to(j), nr) };
        }
    }

    /// The K blocks in order; a single empty one if there is nothing to add up, so that C is still written.
    fn k_blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (k, kc) = (self.shape.k, self.shape.blocking.kc);
        (0..k.div_ceil(kc).max(1)).map(move |index| index * kc..k.min((index + 1) * kc))
    }

    /// The memory of one thread: its block of A, its panels of B, its rows of C.
    fn own(&self, part: usize) -> [*mut T; 3] {
        let start = self.shape.shared_bytes + part * self.shape.own_bytes();
        let [a_end, b_end, _] = self.shape.own_ends;
        [0, a_end, b_end].map(|at| self.workspace.wrapping_add(start + at).cast())
    }
}

/// Products of a network so small that loops would cost more than the arithmetic: one call of a micro-kernel for each, with
/// the matrices in place.
///
/// # Safety
/// As [`Job::run`], on one thread; C fits one tile, and the columns of B are adjacent.
pub(crate) unsafe fn one_tile<T: Number>(job: &Job<'_, T>) {
    let Shape { batch, m, n, k, .. } = *job.shape;
    let kernel = job.kernels.direct[m - 1][(n - 1) / job.kernels.lanes];
    for index in 0..batch {
        let (a, b, c) = (job.a.number(index), job.b.number(index), job.origin(index, 0, 0));
        let tile = Tile {
            k,
            a: a.ptr,
            a_row_stride: a.strides.row,
            a_k_stride: a.strides.col,
            b: b.ptr,
            b_k_stride: b.strides.row,
            c,
            c_row_stride: n as isize,
            next_c: c,
            cols: n,
            load: false,
        };
        // SAFETY: the tile is the matrices, whose validity the caller promises, or a row-major C in the workspace.
        unsafe { kernel(&tile) };
        job.finish(index, 0..m, 0..n, c);
    }
}

/// What threads share over one K block: which product, and the columns of the shared block of B.
struct Shared {
    batch: usize,
    ks: Range<usize>,
}

/// How the rows of a block are divided into panels: as few as possible, and as equal as possible, because low
/// tiles do not keep the FMA units busy (13 rows are 7 + 6, not 12 + 1).
pub(crate) struct Heights {
    n_panels: usize,
    least: usize,
    /// This many panels, the first ones, have one row more.
    n_higher: usize,
}

impl Heights {
    pub(crate) fn new(rows: usize, mr: usize) -> Self {
        let n_panels = rows.div_ceil(mr);
        Heights { n_panels, least: rows / n_panels, n_higher: rows % n_panels }
    }

    /// The greatest height.
    fn most(&self) -> usize {
        self.least + usize::from(self.n_higher > 0)
    }

    /// First row and height of each panel.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        let (least, n_higher) = (self.least, self.n_higher);
        (0..self.n_panels)
            .map(move |panel| (panel * least + panel.min(n_higher), least + usize::from(panel < n_higher)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_cover_and_are_equal() {
        for rows in 1..100 {
            for mr in [6, 12] {
                let mut at = 0;
                for (i, height) in Heights::new(rows, mr).iter() {
                    assert_eq!(i, at);
                    assert!((1..=mr).contains(&height) && height <= Heights::new(rows, mr).most());
                    assert!(rows < mr || height * 2 >= mr, "{rows} {height}");
                    at += height;
                }
                assert_eq!(at, rows);
            }
        }
    }
}
