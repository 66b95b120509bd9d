//! The adjoint of a convolution with respect to the image, where many places that windows would lead to lie outside: tiles take the
//! same element of many examples, which all have the same places inside.
//!
//! ```text
//! examples in units that stay in L2                         `unit`
//!   columns in panels, and the elements of an example
//!     examples in tiles: the tile of C is in registers      `element`
//! ```

use std::ops::Range;

use cotangent_pool::{Pool, split};
use cotangent_scalar::{Conv, ConvAxis, Direction};

use super::call::{Call, Memory};
use super::lines::{Size, zero_rows};
use super::panels::Panels;
use super::phase::{Image, Phase, PhaseAxis, leave_rows};
use super::tiles::Family;
use super::way::ConvWay;
use crate::drive::Heights;
use crate::kernel::KernelSet;
use crate::kernel::RunTile;
use crate::number::Number;
use crate::product::{COLUMN_ALIGN, EpilogueNeeds, lcm};
use crate::workspace::LINE;

/// Made once, with everything decided.
#[derive(Clone, Debug)]
pub(super) struct Across {
    family: Family,
    image: Image,
    phases: Vec<Phase>,
    panels: Panels,
    /// Examples.
    n: usize,
    /// Planes, lines, elements of a line of the result.
    result: [usize; 3],
    /// Columns of a group, and of all.
    cols: usize,
    all_cols: usize,
    /// Elements from one copied image, of a group, to the next.
    stride: usize,
    /// Examples of a unit.
    unit: usize,
    /// Units, and what threads make, start at multiples of so many examples.
    example_unit: usize,
    /// Some rows are in no phase.
    leaves_rows: bool,
    /// The epilogue owns the result.
    owns_c: bool,
}

impl Across {
    pub fn new<T: Number>(
        kernels: &KernelSet<T>,
        conv: &Conv,
        axes: &[ConvAxis; 3],
        epilogue: EpilogueNeeds,
        way: ConvWay,
    ) -> Self {
        let (image, phases) = Image::new(conv, axes, Direction::Data);
        let (result, all_cols, family) = (axes.map(|axis| axis.extent), conv.all_channels(), Family::of(conv));
        let cols = all_cols / image.groups.max(1);
        let size = size_of::<T>();
        let width = way.vectors * kernels.lanes;
        let panels = Panels::new(conv, axes, Direction::Data, (&image, &phases), width, false);
        let n_elements = image.extents.iter().product::<usize>() * image.channels;
        // Copies whose distance is an odd number of lines do not share sets of the caches.
        let line = LINE / size;
        let stride = (n_elements.div_ceil(line) | 1) * line;
        let rows = result.iter().product::<usize>().max(1);
        let multiple = epilogue.row_multiple.clamp(1, (conv.n * rows).max(1));
        let example_unit = lcm(multiple, rows) / rows;
        // The unit's images and its result take so much each, but there is a tile's height of them.
        let bytes = stride.max(rows * all_cols) * size;
        let unit = (way.far / bytes).max(family.most_rows(kernels, way.vectors)).clamp(1, conv.n.max(1));
        Across {
            family,
            n: conv.n,
            result,
            cols,
            all_cols,
            stride,
            unit: unit.next_multiple_of(example_unit),
            example_unit,
            leaves_rows: leave_rows(&phases, result),
            owns_c: epilogue.owns_c,
            image,
            phases,
            panels,
        }
    }

    /// How B is read.
    pub fn panels(&self) -> &Panels {
        &self.panels
    }

    /// What a thread keeps of images.
    pub fn room(&self) -> Size {
        let taps = self.phases.iter().flat_map(|phase| [phase.axes[1].taps.len(), phase.axes[2].taps.len()]);
        Size { line: self.stride, n_lines: self.unit.min(self.n), n_starts: taps.max().unwrap_or(0) }
    }

    /// Rows of the result of an example.
    fn rows(&self) -> usize {
        self.result.iter().product()
    }

    /// Elements of the result that a thread keeps.
    pub fn own_c(&self) -> usize {
        if self.owns_c { self.unit.min(self.n) * self.rows() * self.all_cols } else { 0 }
    }

    /// Computes the result on at most `n_threads` threads.
    ///
    /// # Safety
    /// As [`Convolution::run`](super::Convolution::run); the memory holds what the shape says for each thread.
    pub unsafe fn run<T: Number>(&self, call: &Call<'_, T>, pool: &Pool, n_threads: usize) {
        // SAFETY: what the caller promises.
        unsafe { self.panels.pack(call, &self.phases, pool, n_threads) };
        let n_rows = n_threads.min(self.n.div_ceil(self.example_unit)).max(1);
        let wide = if self.image.groups == 1 { self.cols.div_ceil(self.panels.width) } else { 1 };
        let n_cols = (n_threads / n_rows).min(wide).max(1);
        let unit = lcm(COLUMN_ALIGN, self.panels.width);
        pool.run(n_rows * n_cols, &|part| {
            let examples = split(self.n, n_rows, part / n_cols, self.example_unit);
            let cols = if n_cols == 1 { 0..self.all_cols } else { split(self.all_cols, n_cols, part % n_cols, unit) };
            let memory = call.own(part);
            let n_units = examples.len().div_ceil(self.unit);
            for number in 0..n_units {
                let own = split(examples.len(), n_units, number, self.example_unit);
                let own = examples.start + own.start..examples.start + own.end;
                if !own.is_empty() && !cols.is_empty() {
                    // SAFETY: what the caller promises; examples and columns belong to this thread.
                    unsafe { self.unit(call, &memory, own, cols.clone()) };
                }
            }
        });
    }

    /// Some examples, with the epilogue.
    ///
    /// # Safety
    /// As [`Across::run`]; B is packed.
    unsafe fn unit<T: Number>(&self, call: &Call<'_, T>, own: &Memory<T>, examples: Range<usize>, cols: Range<usize>) {
        let rows = examples.start * self.rows()..examples.end * self.rows();
        let c = if self.owns_c { own.c.wrapping_sub(rows.start * self.all_cols) } else { call.c };
        if self.leaves_rows {
            // SAFETY: rows and columns of the result that belong to this thread.
            unsafe { zero_rows(c, self.all_cols, rows.clone(), cols.clone()) };
        }
        let (image, channels) = (&self.image, self.image.channels);
        let n_elements = image.extents.iter().product::<usize>();
        for group in 0..image.groups {
            for (number, example) in examples.clone().enumerate() {
                let from = call.a.wrapping_add(example * n_elements * channels * image.groups + group * channels);
                let to = own.room.lines.wrapping_add(number * self.stride);
                let pieces = if image.groups == 1 { 1 } else { n_elements };
                let length = n_elements * channels / pieces.max(1);
                for piece in 0..pieces {
                    let from = from.wrapping_add(piece * channels * image.groups);
                    // SAFETY: an image of the operand, or the group's channels of its elements, and room for them.
                    unsafe { to.add(piece * length).copy_from_nonoverlapping(from, length) };
                }
            }
            let own_cols = if image.groups == 1 { cols.clone() } else { 0..self.cols };
            for col in own_cols.clone().step_by(self.panels.width) {
                let panel = col..own_cols.end.min(col + self.panels.width);
                for phase in &self.phases {
                    let [planes, lines, along] = &phase.axes;
                    for (plane, line) in
                        (0..planes.count).flat_map(|plane| (0..lines.count).map(move |line| (plane, line)))
                    {
                        for at in 0..along.count {
                            let c = c.wrapping_add(rows.start * self.all_cols + group * self.cols);
                            // SAFETY: the images are there; examples and columns belong to this thread.
                            unsafe {
                                self.element(call, own, (group, phase), [plane, line, at], examples.len(), &panel, c);
                            }
                        }
                    }
                }
            }
        }
        if let Some(epilogue) = call.epilogue {
            epilogue(0, rows, cols, c.cast());
        }
    }

    /// One element of some examples: `c` is the first example's first, of the group's columns.
    ///
    /// # Safety
    /// As [`Across::unit`].
    #[expect(clippy::too_many_arguments, reason = "the innermost of the loops, which have one index each")]
    unsafe fn element<T: Number>(
        &self,
        call: &Call<'_, T>,
        own: &Memory<T>,
        (group, phase): (usize, &Phase),
        q: [usize; 3],
        n: usize,
        cols: &Range<usize>,
        c: *mut T,
    ) {
        let (kernels, channels, steps) = (call.kernels, self.image.channels, self.image.steps);
        let depthwise = self.family == Family::Depthwise;
        let [planes, lines, along] = [0, 1, 2].map(|k| inside(&phase.axes[k], q[k], self.image.extents[k]));
        let counts = [0, 1, 2].map(|k| phase.axes[k].taps.len());
        let place = |k: usize, tap: usize| phase.axes[k].neighbour(q[k], tap) as usize;
        let index = |k: usize| phase.axes[k].first + q[k] * phase.axes[k].step;
        let row = (index(0) * self.result[1] + index(1)) * self.result[2] + index(2);
        let (b, b_k_stride) = self.panels.at(call, group, cols.start, phase);
        let b_at = |taps: [usize; 3]| {
            let row = ((taps[0] * counts[1] + taps[1]) * counts[2] + taps[2]) * steps;
            b.wrapping_add(row * b_k_stride)
        };
        let a_at = |taps: [usize; 3]| {
            let [plane, line, at] = [0, 1, 2].map(|k| place(k, taps[k]));
            let element = (plane * self.image.extents[1] + line) * self.image.extents[2] + at;
            let first = if depthwise { cols.start } else { 0 };
            own.room.lines.wrapping_add(element * channels + first).cast_const()
        };
        let vectors = cols.len().div_ceil(kernels.lanes);
        let heights = Heights::new(n, self.family.most_rows(kernels, vectors));
        let mut load = false;
        // Runs whose B lies evenly: the lines of a plane, or the elements of a line where those are not adjacent.
        let tiles = |starts: usize, k: usize, b: *const T, b_run: usize, load: bool| {
            for (i, height) in heights.iter() {
                let tile = RunTile {
                    starts: own.room.starts.cast_const(),
                    n: starts,
                    k,
                    a_offset: (i * self.stride) as isize,
                    a_row_stride: self.stride as isize,
                    a_k_stride: if depthwise { channels as isize } else { 1 },
                    b,
                    b_k_stride: b_k_stride as isize,
                    b_run_stride: (b_run * b_k_stride) as isize,
                    c: c.wrapping_add((i * self.rows() + row) * self.all_cols + cols.start),
                    c_row_stride: (self.rows() * self.all_cols) as isize,
                    cols: cols.len(),
                    padded: true,
                    load,
                };
                // SAFETY: the tile lies in the result, its rows of A in the copied images, and those of B in the panel.
                unsafe { self.family.kernels(kernels)[height - 1][vectors - 1](&tile) };
            }
        };
        let start = |number: usize, at: *const T| {
            // SAFETY: an entry of the table, which has one for each element of a window along an axis.
            unsafe { *own.room.starts.add(number) = at };
        };
        if !lines.is_empty() && !along.is_empty() && steps > 0 {
            for plane in planes {
                if phase.runs_of_line == 1 {
                    for (number, line) in lines.clone().enumerate() {
                        start(number, a_at([plane, line, along.start]));
                    }
                    let b = b_at([plane, lines.start, along.start]);
                    tiles(lines.len(), along.len() * steps, b, counts[2] * steps, load);
                    load = true;
                    continue;
                }
                for line in lines.clone() {
                    for (number, at) in along.clone().enumerate() {
                        start(number, a_at([plane, line, at]));
                    }
                    tiles(along.len(), steps, b_at([plane, line, along.start]), steps, load);
                    load = true;
                }
            }
        }
        if !load {
            tiles(0, 0, b, 0, false);
        }
    }
}

/// The neighbours of a result that lie inside of the image.
fn inside(axis: &PhaseAxis, q: usize, extent: usize) -> Range<usize> {
    let first = axis.neighbour(q, 0);
    let before = |at: isize| (at - first).max(0).unsigned_abs().div_ceil(axis.dilation).min(axis.taps.len());
    let (start, end) = (before(0), before(extent as isize));
    start..end.max(start)
}
