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
//! the place of the loops over panels.
//!
//! Promises: each element of C belongs to one thread, which extends its chain K block by K block in order.

use std::ops::Range;

use cotangent_pool::{Pool, split};

use crate::kernel::{KernelSet, MAX_TILE, Tile};
use crate::pack::{PACK_DEPTH, Source, pack_panel};
use crate::plan::{Batch, COLUMN_ALIGN, Call, Flat, FlatFor, MAX_PANELS, Pieces, SET_PERIOD, Shape, lcm};
use crate::{Element, MatMut, MatRef, Workspace};

/// One call: everything its threads read.
pub(crate) struct Job<'a, T: Element> {
    kernels: &'static KernelSet<T>,
    shape: &'a Shape,
    batch: Batch,
    a: MatRef<T>,
    b: MatRef<T>,
    c: MatMut<T>,
    call: &'a Call<'a>,
    /// The product is Cᵀ = Bᵀ·Aᵀ: the epilogue gets rows and columns exchanged.
    swapped: bool,
    /// A is used in place.
    a_direct: bool,
    /// B is used in place.
    b_direct: bool,
    /// B is used in place and transposed in registers, as far as its columns are whole vectors.
    b_transposed: bool,
    /// The columns of C are adjacent.
    c_direct: bool,
    /// Flat kernels do it.
    flat: Option<Pieces>,
    /// Row bounds are multiples of this.
    row_align: usize,
    workspace: *mut u8,
}

// SAFETY: threads read A and B, write disjoint rectangles of C, write disjoint parts of the workspace, and read
// what others wrote there only after they have met; the caller of `run` vouches for the matrices.
unsafe impl<T: Element> Sync for Job<'_, T> {}

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

impl<'a, T: Element> Job<'a, T> {
    /// Makes the decisions that depend on strides.
    #[expect(clippy::too_many_arguments, reason = "the parts of one call, named where it is made")]
    pub fn new(
        kernels: &'static KernelSet<T>,
        shape: &'a Shape,
        batch: Batch,
        [a, b]: [MatRef<T>; 2],
        c: MatMut<T>,
        call: &'a Call<'a>,
        swapped: bool,
        workspace: &'a mut Workspace,
    ) -> Self {
        let b_adjacent = b.col_stride == 1;
        let b_row_bytes = b.row_stride.unsigned_abs() * size_of::<T>();
        let crowded = b_row_bytes.is_multiple_of(SET_PERIOD);
        let stays = shape.stays && b_adjacent && !crowded;
        let packs = shape.packs_crowded && b_adjacent && crowded;
        let a_direct = (shape.a_direct && !packs) || stays;
        let b_direct = (shape.b_direct && b_adjacent && !packs) || stays;
        // Worth it if one panel of rows is all that reads B.
        let b_transposed = !b_adjacent && b.row_stride == 1 && shape.m <= kernels.transposing.len();
        let c_direct = c.col_stride == 1;
        let n_panels = shape.m.div_ceil(kernels.mr());
        // Short pieces read A in place, where only adjacent steps of K share cache lines.
        let suits = |flat: &Flat| !matches!(flat.is_for, FlatFor::ShortPieces) || a.col_stride == 1;
        let flat = shape.flat.filter(|flat| b_adjacent && c_direct && suits(flat));
        let flat = flat.and_then(|flat| flat.pieces(b_row_bytes, n_panels, kernels.nr));
        let (a_direct, b_direct) = (a_direct || flat.is_some(), b_direct || flat.is_some());
        let row_align = if swapped { lcm(COLUMN_ALIGN, shape.row_unit) } else { shape.row_unit };
        let workspace = workspace.as_ptr();
        Job {
            kernels,
            shape,
            batch,
            a,
            b,
            c,
            call,
            swapped,
            a_direct,
            b_direct,
            b_transposed,
            c_direct,
            flat,
            row_align,
            workspace,
        }
    }

    /// Runs the batch on at most `n_threads` threads of the pool.
    ///
    /// # Safety
    /// The CPU has the kernels' features; the matrices are as `Gemm::run_batch` asks; the workspace has the
    /// shape's shared bytes and `n_threads` times its own bytes.
    pub unsafe fn run(&self, pool: &Pool, n_threads: usize) {
        let Shape { m, n, .. } = *self.shape;
        if n_threads == 1 && (self.b_direct || m <= self.shape.blocking.mc) {
            // The short way for the many small products of small networks.
            for batch in 0..self.batch.count {
                // SAFETY: what the caller promises; thread 0 is the only one.
                unsafe { self.region(batch, 0..m, 0..n, 0) };
            }
        } else if self.batch.count >= n_threads && n_threads > 1 {
            pool.run(n_threads, &|part| {
                for batch in split(self.batch.count, n_threads, part, 1) {
                    // SAFETY: what the caller promises; `part` is this thread's own.
                    unsafe { self.region(batch, 0..m, 0..n, part) };
                }
            });
        } else {
            for batch in 0..self.batch.count {
                // SAFETY: what the caller promises.
                unsafe { self.product(pool, n_threads, batch) };
            }
        }
    }

    /// Gives a finished rectangle to the epilogue.
    fn finish(&self, batch: usize, rows: Range<usize>, cols: Range<usize>, c: *mut T) {
        if let Some(epilogue) = self.call.epilogue {
            let (rows, cols) = if self.swapped { (cols, rows) } else { (rows, cols) };
            epilogue(batch, rows, cols, c.cast());
        }
    }

    /// Where element (0, 0) of C would be if all of C were where the block of rows is that starts at `row`.
    fn origin(&self, batch: usize, part: usize, row: usize) -> *mut T {
        if self.shape.c_rows == 0 {
            return self.c.ptr.wrapping_offset(batch as isize * self.batch.c_stride);
        }
        // A thread that keeps some rows only has one block of them at a time.
        let first = if self.shape.c_rows < self.shape.m { row } else { 0 };
        self.own(part)[2].wrapping_offset(-(first as isize * self.c.row_stride))
    }

    /// One product on a grid of threads.
    ///
    /// # Safety
    /// As [`Job::run`].
    unsafe fn product(&self, pool: &Pool, n_threads: usize, batch: usize) {
        let Shape { m, n, blocking, .. } = *self.shape;
        let [n_rows, n_cols] = self.shape.grid(n_threads, self.row_align, self.flat.is_some());
        let rows_of = |part: usize| split(m, n_rows, part / n_cols, self.row_align);
        let unit = self.shape.column_unit;
        if self.b_direct || m <= blocking.mc {
            pool.run(n_rows * n_cols, &|part| {
                // SAFETY: what the caller promises; `part` is this thread's own.
                unsafe { self.region(batch, rows_of(part), split(n, n_cols, part % n_cols, unit), part) };
            });
            return;
        }
        let n_parts = n_rows * n_cols;
        for start in (0..n).step_by(blocking.nc) {
            let cols = start..n.min(start + blocking.nc);
            for ks in self.k_blocks() {
                let shared = Shared { batch, ks };
                pool.run(n_parts, &|part| {
                    let own = split(cols.len(), n_parts, part, self.kernels.nr);
                    let to = self.workspace.cast::<T>().wrapping_add(own.start * shared.ks.len());
                    let own = start + own.start..start + own.end;
                    // SAFETY: each part packs panels of its own; nobody reads them before all parts are done.
                    unsafe { self.pack_b(batch, &shared.ks, own, to) };
                });
                pool.run(n_parts, &|part| {
                    let own = split(cols.len(), n_cols, part % n_cols, unit);
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
        let panels = if self.b_direct { PanelsOfB::Direct(own) } else { PanelsOfB::Own(own) };
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
        let align = if mc.is_multiple_of(self.row_align) { self.row_align } else { 1 };
        let n_blocks = rows.len().div_ceil(mc);
        for index in 0..n_blocks {
            let block = split(rows.len(), n_blocks, index, align);
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
        let b = self.b.ptr.wrapping_offset(batch as isize * self.batch.b_stride);
        let b = MatRef { ptr: b, ..self.b };
        let heights = Heights::new(rows.len(), self.kernels.mr());
        if !self.a_direct {
            // SAFETY: what the caller promises.
            unsafe { self.pack_a(block, &heights, a_block) };
        }
        let (lanes, nr) = (self.kernels.lanes, self.kernels.nr);
        for group in cols.clone().step_by(shape.epilogue_cols) {
            let group = group..cols.end.min(group + shape.epilogue_cols);
            if let Some(flat) = self.flat {
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
                        (Family::Direct, most.min(left), b.at(ks.start, j), b.row_stride)
                    }
                    PanelsOfB::Shared { panels, start } => {
                        (Family::Packed, nr.min(left), panels.wrapping_add((j - start) * depth), nr as isize)
                    }
                    PanelsOfB::Own(_) if self.b_transposed && left >= lanes => {
                        let most = self.kernels.transposing[heights.most() - 1].len();
                        (Family::Transposing, most.min(left / lanes) * lanes, b.at(ks.start, j), b.col_stride)
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
        let [a, b] = [(self.a, self.batch.a_stride), (self.b, self.batch.b_stride)]
            .map(|(x, stride)| MatRef { ptr: x.ptr.wrapping_offset(*batch as isize * stride), ..x });
        let c = MatMut { ptr: *c, ..self.c };
        for j in cols.clone().step_by(pieces.cols) {
            let width = pieces.cols.min(cols.end - j);
            for k in ks.clone().step_by(pieces.depth) {
                let depth = pieces.depth.min(ks.end - k);
                let (mut from, mut b_k_stride) = (b.at(k, j), b.row_stride);
                if pieces.copied {
                    // SAFETY: the columns of B, and room for them.
                    unsafe { (self.kernels.copy)(from, b_k_stride, copy, width, width, depth, 0) };
                    (from, b_k_stride) = (copy.cast_const(), width as isize);
                }
                for (i, height) in heights.iter() {
                    let to = c.at(rows.start + i, j);
                    let tile = Tile {
                        k: depth,
                        a: a.at(rows.start + i, k),
                        a_row_stride: a.row_stride,
                        a_k_stride: a.col_stride,
                        b: from,
                        b_k_stride,
                        c: to,
                        c_row_stride: c.row_stride,
                        next_c: to,
                        cols: width,
                        load: self.call.accumulate || k > 0,
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
        let kernel = match family {
            Family::Packed if !self.a_direct => self.kernels.packed[height - 1][n_vectors - 1],
            Family::Packed | Family::Direct => self.kernels.direct[height - 1][n_vectors - 1],
            Family::Transposing => self.kernels.transposing[height - 1][n_vectors - 1],
        };
        let (a, a_row_stride, a_k_stride) = if self.a_direct {
            let a = self.a.at(rows.start + i, ks.start).wrapping_offset(*batch as isize * self.batch.a_stride);
            (a, self.a.row_stride, self.a.col_stride)
        } else {
            (a_block.wrapping_add(i * ks.len()), 1, height as isize)
        };
        let at = |i: usize, j: usize| MatMut { ptr: block.c, ..self.c }.at(i, j);
        let c = at(rows.start + i, j);
        let load = self.call.accumulate || ks.start > 0;
        let c_row_stride = self.c.row_stride;
        let next_c = if i + height < rows.len() {
            c.wrapping_offset(height as isize * c_row_stride)
        } else {
            at(rows.start, j + width)
        };
        let k = ks.len();
        let tile = Tile { k, a, a_row_stride, a_k_stride, b, b_k_stride, c, c_row_stride, next_c, cols: width, load };
        if self.c_direct {
            // SAFETY: the tile lies in the matrices, whose validity the caller promises.
            unsafe { kernel(&tile) };
        } else {
            // SAFETY: as above; columns of C have a stride, which this goes around.
            unsafe { self.scattered_tile(kernel, tile, height) };
        }
    }

    /// A tile of a C with gaps between its columns, by way of a buffer.
    ///
    /// # Safety
    /// As [`Job::tile`].
    #[cold]
    unsafe fn scattered_tile(&self, kernel: crate::kernel::Kernel<T>, tile: Tile<T>, height: usize) {
        let mut buffer = [T::ZERO; MAX_TILE];
        let (c, cols) = (tile.c, tile.cols);
        let at =
            |i: usize, j: usize| c.wrapping_offset(i as isize * self.c.row_stride + j as isize * self.c.col_stride);
        if tile.load {
            for i in 0..height {
                for j in 0..cols {
                    // SAFETY: the element lies in C.
                    buffer[i * cols + j] = unsafe { *at(i, j) };
                }
            }
        }
        // SAFETY: no kernel has a tile of more than `MAX_TILE` elements, so the buffer stands in for C.
        unsafe { kernel(&Tile { c: buffer.as_mut_ptr(), c_row_stride: cols as isize, ..tile }) };
        for i in 0..height {
            for j in 0..cols {
                // SAFETY: the element lies in C.
                unsafe { *at(i, j) = buffer[i * cols + j] };
            }
        }
    }

    /// Packs a block of A into panels, one after the other, each as high as its tile.
    ///
    /// # Safety
    /// As [`Job::block`].
    unsafe fn pack_a(&self, block: &Block<T>, heights: &Heights, a_block: *mut T) {
        let Block { batch, rows, ks, .. } = block;
        let (depth_stride, width_stride) = (self.a.col_stride, self.a.row_stride);
        let step = if width_stride == 1 { PACK_DEPTH } else { ks.len().max(1) };
        for k in (0..ks.len()).step_by(step) {
            let depth = step.min(ks.len() - k);
            for (i, height) in heights.iter() {
                let from = self.a.at(rows.start + i, ks.start + k);
                let from = from.wrapping_offset(*batch as isize * self.batch.a_stride);
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
        let (depth_stride, width_stride) = (self.b.row_stride, self.b.col_stride);
        let from = |j: usize| self.b.at(ks.start, j).wrapping_offset(batch as isize * self.batch.b_stride);
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
        let start = self.shape.shared_bytes::<T>() + part * self.shape.own_bytes::<T>();
        let [a_end, b_end, _] = self.shape.own_ends::<T>();
        [0, a_end, b_end].map(|at| self.workspace.wrapping_add(start + at).cast())
    }
}

/// Products of a network so small that loops would cost more than the arithmetic: one call of a micro-kernel for each, with
/// the matrices in place.
///
/// # Safety
/// As `Gemm::run_batch`; the shape is one tile, the columns of B and C are adjacent, and the CPU has the kernels' features.
pub(crate) unsafe fn one_tile<T: Element>(
    kernels: &KernelSet<T>,
    shape: &Shape,
    batch: &Batch,
    [a, b]: [MatRef<T>; 2],
    c: MatMut<T>,
    call: &Call<'_>,
    workspace: &mut Workspace,
) {
    let Shape { m, n, k, .. } = *shape;
    let kernel = kernels.direct[m - 1][(n - 1) / kernels.lanes];
    for index in 0..batch.count {
        let at = |stride: isize| index as isize * stride;
        let c_ptr = if shape.c_rows > 0 {
            workspace.reserve_now(m * n * size_of::<T>());
            workspace.as_ptr().cast()
        } else {
            c.ptr.wrapping_offset(at(batch.c_stride))
        };
        let tile = Tile {
            k,
            a: a.ptr.wrapping_offset(at(batch.a_stride)),
            a_row_stride: a.row_stride,
            a_k_stride: a.col_stride,
            b: b.ptr.wrapping_offset(at(batch.b_stride)),
            b_k_stride: b.row_stride,
            c: c_ptr,
            c_row_stride: c.row_stride,
            next_c: c_ptr,
            cols: n,
            load: call.accumulate,
        };
        // SAFETY: the tile is the matrices, whose validity the caller promises, or a row-major C in the workspace.
        unsafe { kernel(&tile) };
        if let Some(epilogue) = call.epilogue {
            epilogue(index, 0..m, 0..n, c_ptr.cast());
        }
    }
}

/// What threads share over one K block: which product, and the columns of the shared block of B.
struct Shared {
    batch: usize,
    ks: Range<usize>,
}

/// How the rows of a block are divided into panels: as few as possible, and as equal as possible, because low
/// tiles do not keep the FMA units busy (13 rows are 7 + 6, not 12 + 1).
struct Heights {
    n_panels: usize,
    least: usize,
    /// This many panels, the first ones, have one row more.
    n_higher: usize,
}

impl Heights {
    fn new(rows: usize, mr: usize) -> Self {
        let n_panels = rows.div_ceil(mr);
        Heights { n_panels, least: rows / n_panels, n_higher: rows % n_panels }
    }

    /// The greatest height.
    fn most(&self) -> usize {
        self.least + usize::from(self.n_higher > 0)
    }

    /// First row and height of each panel.
    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
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
