//! The convolution and its adjoint with respect to the image: rows of the result in lines of the image's neighbours.
//!
//! ```text
//! rows of the result in units that stay in L2, with the lines of the image that they read      `unit`
//!   planes and phases                                                                          `piece`
//!     columns in panels                      a packed panel of B passes from L2                `tiles`
//!       runs of K in blocks                  a part of the panel stays in L1
//!         lines, and tiles along a line      the tile of C is in registers
//! ```

use std::ops::Range;

use cotangent_pool::{Pool, split};
use cotangent_scalar::{Conv, ConvAxis, Direction};

use super::call::{Call, Memory};
use super::lines::{Lines, Size, zero, zero_rows};
use super::panels::Panels;
use super::phase::{Image, Phase, leave_rows};
use super::tiles::Family;
use super::way::ConvWay;
use crate::drive::Heights;
use crate::kernel::{KernelSet, RunTile};
use crate::number::Number;
use crate::product::{COLUMN_ALIGN, EpilogueNeeds, lcm};

/// Made once, with everything decided.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    family: Family,
    image: Image,
    phases: Vec<Phase>,
    /// Examples.
    n: usize,
    /// Planes, lines, elements of a line of the result.
    result: [usize; 3],
    /// Columns of a group, and of all.
    cols: usize,
    all_cols: usize,
    panels: Panels,
    /// Rows of the result of a unit.
    unit: usize,
    /// Units, and what threads make, start at multiples of this.
    row_unit: usize,
    /// Lines of the result that a unit may touch.
    unit_lines: usize,
    /// Bytes of B that stay in L1.
    near: usize,
    /// Some rows are in no phase.
    leaves_rows: bool,
    /// The epilogue owns the result.
    owns_c: bool,
    /// Bytes of an element.
    size: usize,
}

impl Gather {
    pub fn new<T: Number>(
        kernels: &KernelSet<T>,
        conv: &Conv,
        axes: &[ConvAxis; 3],
        direction: Direction,
        epilogue: EpilogueNeeds,
        way: ConvWay,
    ) -> Self {
        let (image, phases) = Image::new(conv, axes, direction);
        let result = match direction {
            Direction::Data => axes.map(|axis| axis.extent),
            _ => axes.map(|axis| axis.places),
        };
        let [rows, all_cols] = conv.matrix(direction);
        let cols = all_cols / image.groups.max(1);
        let size = size_of::<T>();
        // The unit's result, and the lines of the image that it reads, take so much each.
        let line_bytes = phases.iter().map(|p| (p.line * size * p.axes[1].stride * p.axes[0].taps.len()).max(1)).max();
        let of_lines = (way.far / line_bytes.unwrap_or(1)).max(1).saturating_mul(result[2]);
        let of_result = way.far / (all_cols * size).max(1);
        let row_unit = epilogue.row_multiple.clamp(1, rows.max(1));
        let unit = of_lines.min(of_result).clamp(1, rows.max(1));
        // Whole lines, unless the epilogue wants whole blocks.
        let unit = if row_unit == 1 { unit.next_multiple_of(result[2].max(1)) } else { unit };
        let unit = unit.next_multiple_of(row_unit);
        let plane = result[1];
        let width = way.vectors * kernels.lanes;
        Gather {
            family: Family::of(conv),
            n: conv.n,
            result,
            cols,
            all_cols,
            panels: Panels::new(conv, axes, direction, (&image, &phases), width, !way.packed),
            unit,
            row_unit,
            unit_lines: (unit / result[2].max(1) + 2).min(plane),
            near: way.near,
            leaves_rows: leave_rows(&phases, result),
            owns_c: epilogue.owns_c,
            size,
            image,
            phases,
        }
    }

    fn rows(&self) -> usize {
        self.n * self.result.iter().product::<usize>()
    }

    /// How B is read.
    pub fn panels(&self) -> &Panels {
        &self.panels
    }

    /// What a thread keeps of lines.
    pub fn room(&self) -> Size {
        self.phases.iter().map(|phase| Size::of(phase, self.unit_lines, 1)).fold(Size::default(), Size::max)
    }

    /// Elements of the result that a thread keeps.
    pub fn own_c(&self) -> usize {
        if self.owns_c { self.unit * self.all_cols } else { 0 }
    }

    /// A grid of threads, rows by columns.
    fn grid(&self, n_threads: usize) -> [usize; 2] {
        let units = self.rows().div_ceil(self.row_unit);
        // Few rows: columns are divided too, as far as there are panels.
        let n_rows = n_threads.min(units).max(1);
        let n_cols =
            if self.image.groups == 1 { (n_threads / n_rows).min(self.cols.div_ceil(self.panels.width)) } else { 1 };
        [n_rows, n_cols.max(1)]
    }

    /// Computes the result on at most `n_threads` threads.
    ///
    /// # Safety
    /// As [`Convolution::run`](super::Convolution::run); the memory holds what the shape says for each thread.
    pub unsafe fn run<T: Number>(&self, call: &Call<'_, T>, pool: &Pool, n_threads: usize) {
        // SAFETY: what the caller promises.
        unsafe { self.panels.pack(call, &self.phases, pool, n_threads) };
        let [n_rows, n_cols] = self.grid(n_threads);
        let unit = lcm(COLUMN_ALIGN, self.panels.width);
        let align = if self.row_unit == 1 && self.rows() >= 4 * n_rows * self.result[2] {
            self.result[2].max(1)
        } else {
            self.row_unit
        };
        pool.run(n_rows * n_cols, &|part| {
            let rows = split(self.rows(), n_rows, part / n_cols, align);
            let cols = if n_cols == 1 { 0..self.all_cols } else { split(self.all_cols, n_cols, part % n_cols, unit) };
            let memory = call.own(part);
            // SAFETY: the zeros are this thread's own.
            unsafe { zero(memory.room.zeros, self.phases.iter().map(|phase| phase.line).max().unwrap_or(0)) };
            let n_units = rows.len().div_ceil(self.unit);
            for number in 0..n_units {
                let own = split(rows.len(), n_units, number, align);
                let own = rows.start + own.start..rows.start + own.end;
                // SAFETY: what the caller promises; rows and columns belong to this thread.
                unsafe { self.unit(call, &memory, own, cols.clone()) };
            }
        });
    }

    /// Some rows of the result, with the epilogue.
    ///
    /// # Safety
    /// As [`Gather::run`]; B is packed.
    unsafe fn unit<T: Number>(&self, call: &Call<'_, T>, own: &Memory<T>, rows: Range<usize>, cols: Range<usize>) {
        if rows.is_empty() || cols.is_empty() {
            return;
        }
        let c = if self.owns_c { own.c.wrapping_sub(rows.start * self.all_cols) } else { call.c };
        if self.leaves_rows {
            // SAFETY: rows and columns of the result that belong to this thread.
            unsafe { zero_rows(c, self.all_cols, rows.clone(), cols.clone()) };
        }
        let [n_planes, n_lines, width] = self.result;
        let plane_rows = n_lines * width;
        for plane in rows.start / plane_rows..rows.end.div_ceil(plane_rows) {
            let first = plane * plane_rows;
            let part = rows.start.max(first) - first..rows.end.min(first + plane_rows) - first;
            let (example, index) = (plane / n_planes, plane % n_planes);
            for phase in &self.phases {
                let planes = phase.axes[0].within(index..index + 1);
                let lines = phase.axes[1].within(part.start / width..part.end.div_ceil(width));
                if planes.is_empty() || lines.is_empty() {
                    continue;
                }
                for group in 0..self.image.groups {
                    let room = &own.room;
                    let strides = [phase.n_runs, 1];
                    let (image, from) = (&self.image, call.a);
                    let mut table = Lines { image, phase, group, from, room, used: 0, n: 0, strides };
                    let piece = Piece {
                        part: part.clone(),
                        cols: if self.image.groups == 1 { cols.clone() } else { 0..self.cols },
                        group,
                        c: c.wrapping_add((first * self.all_cols) + group * self.cols),
                    };
                    // SAFETY: the room holds the lines of a unit.
                    unsafe {
                        table.add(example, planes.start, lines.clone());
                        self.piece(call, own, phase, lines.clone(), &piece);
                    }
                }
            }
        }
        if let Some(epilogue) = call.epilogue {
            epilogue(0, rows, cols, c.cast());
        }
    }

    /// Lines of a phase in one plane, for one group.
    ///
    /// # Safety
    /// As [`Gather::run`]; the table holds the lines.
    unsafe fn piece<T: Number>(
        &self,
        call: &Call<'_, T>,
        own: &Memory<T>,
        phase: &Phase,
        lines: Range<usize>,
        piece: &Piece<T>,
    ) {
        let [_, across, along] = &phase.axes;
        let width = self.result[2];
        let (kernels, depthwise) = (call.kernels, self.family == Family::Depthwise);
        let channels = self.image.channels;
        for col in piece.cols.clone().step_by(self.panels.width) {
            let cols = self.panels.width.min(piece.cols.end - col);
            let vectors = cols.div_ceil(kernels.lanes);
            let (b, b_k_stride) = self.panels.at(call, piece.group, col, phase);
            let block = if lines.len() > 1 {
                (self.near / (phase.run * cols * self.size).max(1)).clamp(1, phase.n_runs.max(1))
            } else {
                phase.n_runs.max(1)
            };
            // Equal blocks; a single empty one if there is nothing to add up, so that the result is still written.
            let n_blocks = phase.n_runs.div_ceil(block).max(1);
            for number in 0..n_blocks {
                let runs = split(phase.n_runs, n_blocks, number, 1);
                let b = b.wrapping_add(runs.start * phase.run * b_k_stride);
                for (at, line) in lines.clone().enumerate() {
                    let row = (across.first + line * across.step) * width;
                    let part =
                        piece.part.start.saturating_sub(row).min(width)..piece.part.end.saturating_sub(row).min(width);
                    let results = along.within(part);
                    if results.is_empty() {
                        continue;
                    }
                    let starts = own.room.starts.wrapping_add(at * phase.n_runs + runs.start).cast_const();
                    let heights = Heights::new(results.len(), self.family.most_rows(kernels, vectors));
                    for (i, height) in heights.iter() {
                        let q = results.start + i;
                        let c_row = row + along.first + q * along.step;
                        let tile = RunTile {
                            starts,
                            n: runs.len(),
                            k: phase.run,
                            a_offset: (q * along.stride * channels + if depthwise { col } else { 0 }) as isize,
                            a_row_stride: (along.stride * channels) as isize,
                            a_k_stride: if depthwise { channels as isize } else { 1 },
                            b,
                            b_k_stride: b_k_stride as isize,
                            b_run_stride: (phase.run * b_k_stride) as isize,
                            c: piece.c.wrapping_add(c_row * self.all_cols + col),
                            c_row_stride: (along.step * self.all_cols) as isize,
                            cols,
                            padded: !self.panels.in_place(),
                            load: runs.start > 0,
                        };
                        // SAFETY: the tile lies in the result; its rows of A lie in the lines of the table, and those of B in
                        // its panel.
                        unsafe { self.family.kernels(kernels)[height - 1][vectors - 1](&tile) };
                    }
                }
            }
        }
    }
}

/// What a piece of a unit is.
struct Piece<T> {
    /// Rows of the plane.
    part: Range<usize>,
    /// Columns of the group.
    cols: Range<usize>,
    group: usize,
    /// The plane's first element of the group's columns.
    c: *mut T,
}
