//! The adjoint of a convolution with respect to its filters: sums over the places, in strips of lines that stay in the caches.
//!
//! ```text
//! rows of the result in blocks that stay in L2                                   `block`
//!   lines in strips                          their elements stay in L1 or L2     `strip`
//!     columns in panels
//!       elements of windows, and tiles of channels: the tile of C is in registers
//! ```

use std::ops::Range;

use cotangent_pool::{Pool, split};
use cotangent_scalar::{Conv, ConvAxis, Direction};

use super::call::{Call, Memory};
use super::lines::{Lines, Size, zero};
use super::phase::{Image, Phase};
use super::tiles::Family;
use super::way::ConvWay;
use crate::drive::Heights;
use crate::kernel::{KernelSet, RunTile};
use crate::number::Number;
use crate::product::{COLUMN_ALIGN, EpilogueNeeds, lcm};

/// Made once, with everything decided.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    family: Family,
    image: Image,
    phase: Phase,
    /// Lines of `y`, of all examples and planes.
    n_lines: usize,
    /// Columns of a group, and of all.
    cols: usize,
    all_cols: usize,
    /// Rows of the result.
    rows: usize,
    /// Columns of a panel.
    panel: usize,
    /// Lines of a strip.
    strip: usize,
    /// Rows of a block.
    block: usize,
    /// What threads make starts at multiples of this.
    row_unit: usize,
    /// The epilogue owns the result.
    owns_c: bool,
}

impl Weights {
    pub fn new<T: Number>(
        kernels: &KernelSet<T>,
        conv: &Conv,
        axes: &[ConvAxis; 3],
        epilogue: EpilogueNeeds,
        way: ConvWay,
    ) -> Self {
        let (image, mut phases) = Image::new(conv, axes, Direction::Weights);
        // There is one phase: strides do not move the places.
        let phase = phases.swap_remove(0);
        let [rows, all_cols] = conv.matrix(Direction::Weights);
        let size = size_of::<T>();
        let [planes, lines, along] = &phase.axes;
        let panel = way.vectors * kernels.lanes;
        // What a tile reads of a strip stays in L1: its panel of `y`.
        let place = along.count.max(1) * panel.min(all_cols.max(1)) * size;
        let n_lines = conv.n * planes.count * lines.count;
        let strip = match Family::of(conv) {
            Family::Dense => way.near / place,
            // Each line is read for few multiply-adds: lines that strips share are copied for both.
            Family::Depthwise => way.far / (phase.line * size).max(1),
        };
        let strip = strip.clamp(1, n_lines.max(1));
        let row_unit = epilogue.row_multiple.clamp(1, rows.max(1));
        let block =
            (way.far.saturating_mul(2) / (all_cols * size).max(1)).clamp(1, rows.max(1)).next_multiple_of(row_unit);
        Weights {
            family: Family::of(conv),
            n_lines,
            cols: all_cols / image.groups.max(1),
            all_cols,
            rows,
            panel,
            strip,
            block,
            row_unit,
            owns_c: epilogue.owns_c,
            image,
            phase,
        }
    }

    /// What a thread keeps of lines.
    pub fn room(&self) -> Size {
        Size::of(&self.phase, self.strip, self.strip / self.phase.axes[1].count.max(1) + 2)
    }

    /// Elements of the result that a thread keeps.
    pub fn own_c(&self) -> usize {
        if self.owns_c { self.block.min(self.rows.next_multiple_of(self.row_unit)) * self.all_cols } else { 0 }
    }

    /// The parts of each run that a range of rows has: the run, and the rows in it.
    fn pieces(&self, rows: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        let run = self.phase.run.max(1);
        (rows.start / run..rows.end.div_ceil(run)).map(move |number| {
            let first = number * run;
            (number, rows.start.max(first) - first..rows.end.min(first + run) - first)
        })
    }

    /// What a rectangle takes, in cycles for each place.
    fn cycles<T>(&self, kernels: &KernelSet<T>, rows: Range<usize>, cols: usize) -> f64 {
        let vectors = self.panel / kernels.lanes;
        self.pieces(rows).map(|(_, piece)| self.family.line_cycles(kernels, piece.len(), cols, vectors)).sum()
    }

    /// The grid of threads, rows by columns, whose largest part takes least.
    fn grid<T>(&self, kernels: &KernelSet<T>, n_threads: usize) -> [usize; 2] {
        let unit = lcm(COLUMN_ALIGN, self.panel);
        let cost = |[n_rows, n_cols]: [usize; 2]| -> f64 {
            let cols = split(self.cols, n_cols, 0, unit).len();
            let rows = (0..n_rows).map(|part| split(self.rows, n_rows, part, self.row_unit));
            rows.map(|rows| self.cycles(kernels, rows, cols)).fold(0.0, f64::max)
        };
        let most_cols = if self.image.groups == 1 { n_threads } else { 1 };
        let grids = (1..=n_threads).map(|n_rows| [n_rows, (n_threads / n_rows).min(most_cols)]);
        grids.min_by(|&a, &b| cost(a).total_cmp(&cost(b))).unwrap_or([1, 1])
    }

    /// Computes the result on at most `n_threads` threads.
    ///
    /// # Safety
    /// As [`Convolution::run`](super::Convolution::run); the memory holds what the shape says for each thread.
    pub unsafe fn run<T: Number>(&self, call: &Call<'_, T>, pool: &Pool, n_threads: usize) {
        let [n_rows, n_cols] = self.grid(call.kernels, n_threads);
        let unit = lcm(COLUMN_ALIGN, self.panel);
        pool.run(n_rows * n_cols, &|part| {
            let rows = split(self.rows, n_rows, part / n_cols, self.row_unit);
            let cols = if n_cols == 1 { 0..self.all_cols } else { split(self.all_cols, n_cols, part % n_cols, unit) };
            if rows.is_empty() || cols.is_empty() {
                return;
            }
            let memory = call.own(part);
            // SAFETY: the zeros are this thread's own.
            unsafe { zero(memory.room.zeros, self.phase.line) };
            for start in rows.clone().step_by(self.block) {
                let rows = start..rows.end.min(start + self.block);
                let c = if self.owns_c { memory.c.wrapping_sub(rows.start * self.all_cols) } else { call.c };
                for group in 0..self.image.groups {
                    let cols = if self.image.groups == 1 { cols.clone() } else { 0..self.cols };
                    // A single empty strip if there is nothing to add up, so that the result is still written.
                    for first in (0..self.n_lines.max(1)).step_by(self.strip) {
                        let lines = first..self.n_lines.min(first + self.strip);
                        // SAFETY: what the caller promises; rows and columns belong to this thread.
                        unsafe { self.strip(call, &memory, lines, rows.clone(), cols.clone(), (group, c)) };
                    }
                }
                if let Some(epilogue) = call.epilogue {
                    epilogue(0, rows, cols.clone(), c.cast());
                }
            }
        });
    }

    /// Adds the places of some lines to a rectangle of the result, in a group.
    ///
    /// # Safety
    /// As [`Weights::run`].
    unsafe fn strip<T: Number>(
        &self,
        call: &Call<'_, T>,
        own: &Memory<T>,
        lines: Range<usize>,
        rows: Range<usize>,
        cols: Range<usize>,
        (group, c): (usize, *mut T),
    ) {
        let Weights { image, phase, .. } = self;
        let [planes, across, along] = &phase.axes;
        let (from, room, strides) = (call.a, &own.room, [1, self.strip]);
        let mut table = Lines { image, phase, group, from, room, used: 0, n: 0, strides };
        let mut at = lines.start;
        while at < lines.end {
            let (plane, line) = (at / across.count, at % across.count);
            let n = (across.count - line).min(lines.end - at);
            // SAFETY: the room holds the lines of a strip.
            unsafe { table.add(plane / planes.count, plane % planes.count, line..line + n) };
            at += n;
        }
        let kernels = call.kernels;
        // From a row of the result to the next in the image: a channel, or an element along the line.
        let apart = if self.family == Family::Depthwise { image.channels } else { 1 };
        // Behind a row of `y` comes the next, but behind the last one.
        let padded = lines.end < self.n_lines && self.all_cols >= kernels.lanes;
        let b = call.b.wrapping_add(lines.start * along.count * self.all_cols + group * self.cols);
        for col in cols.clone().step_by(self.panel) {
            let n_cols = self.panel.min(cols.end - col);
            let vectors = n_cols.div_ceil(kernels.lanes);
            for (run, piece) in self.pieces(rows.clone()) {
                let starts = own.room.starts.wrapping_add(run * self.strip).cast_const();
                let heights = Heights::new(piece.len(), self.family.most_rows(kernels, vectors));
                for (i, height) in heights.iter() {
                    let channel = piece.start + i;
                    let c_row = run * phase.run + channel;
                    let tile = RunTile {
                        starts,
                        n: lines.len(),
                        k: along.count,
                        a_offset: (channel * apart + if apart > 1 { col } else { 0 }) as isize,
                        a_row_stride: apart as isize,
                        a_k_stride: (along.stride * image.channels) as isize,
                        b: b.wrapping_add(col),
                        b_k_stride: self.all_cols as isize,
                        b_run_stride: (along.count * self.all_cols) as isize,
                        c: c.wrapping_add(c_row * self.all_cols + group * self.cols + col),
                        c_row_stride: self.all_cols as isize,
                        cols: n_cols,
                        padded,
                        load: lines.start > 0,
                    };
                    // SAFETY: the tile lies in the result, its rows of A in the lines of the table, and those of B in `y`.
                    unsafe { self.family.kernels(kernels)[height - 1][vectors - 1](&tile) };
                }
            }
        }
    }
}
