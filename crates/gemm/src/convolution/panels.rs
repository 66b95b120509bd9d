//! The filters as a matrix B: rows are the elements of windows that a phase meets, with their channels; read where it is, or packed
//! into panels of columns.

use cotangent_pool::{Pool, split};
use cotangent_scalar::{Conv, ConvAxis, Direction};

use super::call::Call;
use super::phase::{Image, Phase};
use crate::kernel::KernelSet;
use crate::number::Number;
use crate::pack::{Source, pack_panel};

/// How B is read.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    /// Rows of B are columns of the filters as they are stored.
    turned: bool,
    groups: usize,
    /// Columns of a group.
    cols: usize,
    /// Columns of a panel.
    pub width: usize,
    /// Rows of B of all phases.
    depth: usize,
    /// Rows for each element of a window.
    channels: usize,
    /// Filters of all groups: the columns of B as it is stored.
    filters: usize,
    /// Rows of B as it is stored, for each element of a window.
    stored: usize,
    /// Elements of a window along the last two axes: they number the rows of B as it is stored.
    window: [usize; 2],
    /// B is read where it is.
    in_place: bool,
}

impl Panels {
    /// For the phases of a sum; in place only where B's rows are in order, in a convolution.
    pub fn new(
        conv: &Conv,
        axes: &[ConvAxis; 3],
        direction: Direction,
        (image, phases): (&Image, &[Phase]),
        width: usize,
        in_place: bool,
    ) -> Self {
        let turned = direction == Direction::Data && image.steps == image.channels;
        Panels {
            turned,
            groups: image.groups,
            cols: conv.matrix(direction)[1] / image.groups.max(1),
            width,
            depth: phases.iter().map(Phase::k).sum(),
            channels: image.steps,
            filters: conv.all_filters(),
            stored: conv.channels,
            window: [axes[1].window, axes[2].window],
            in_place,
        }
    }

    /// B is read where it is.
    pub fn in_place(&self) -> bool {
        self.in_place
    }

    /// Bytes of the packed panels.
    pub fn bytes<T>(&self, kernels: &KernelSet<T>) -> usize {
        let of_group = self.depth * self.cols.next_multiple_of(kernels.lanes);
        if self.in_place { 0 } else { self.groups * of_group * size_of::<T>() }
    }

    /// The panel from a column of a group on, for a phase: its first element, and from a row to the next.
    pub fn at<T>(&self, call: &Call<'_, T>, group: usize, col: usize, phase: &Phase) -> (*const T, usize) {
        if self.in_place {
            return (call.b.wrapping_add(group * self.cols + col), self.filters);
        }
        let lanes = call.kernels.lanes;
        let width = self.width.min((self.cols - col).next_multiple_of(lanes));
        let of_group = self.depth * self.cols.next_multiple_of(lanes);
        let packed = call.shared.cast::<T>().cast_const();
        (packed.wrapping_add(group * of_group + col * self.depth + phase.first_k * width), width)
    }

    /// Packs all panels, unless they are read in place.
    ///
    /// # Safety
    /// B is readable; the memory that threads share holds the panels, and nobody reads them meanwhile.
    pub unsafe fn pack<T: Number>(&self, call: &Call<'_, T>, phases: &[Phase], pool: &Pool, n_threads: usize) {
        if self.in_place {
            return;
        }
        let panels = self.cols.div_ceil(self.width);
        let n_items = self.groups * panels * phases.len();
        let n_parts = n_threads.min(n_items).max(1);
        pool.run(n_parts, &|part| {
            for item in split(n_items, n_parts, part, 1) {
                let (phase, item) = (&phases[item % phases.len()], item / phases.len());
                // SAFETY: each panel of a phase is packed by one thread.
                unsafe { self.pack_one(call, item / panels, item % panels * self.width, phase) };
            }
        });
    }

    /// Packs the panel from a column of a group on, for a phase.
    ///
    /// # Safety
    /// As [`Panels::pack`]; nobody else packs it.
    unsafe fn pack_one<T: Number>(&self, call: &Call<'_, T>, group: usize, col: usize, phase: &Phase) {
        let (to, width) = self.at(call, group, col, phase);
        let (mut to, cols) = (to.cast_mut(), self.width.min(self.cols - col));
        for [a, b, c] in phase.taps() {
            let row = ((a * self.window[0] + b) * self.window[1] + c) * self.stored;
            let (row, first, width_stride, depth_stride) = if self.turned {
                (row + col, group * self.channels, self.filters as isize, 1)
            } else {
                (row, group * self.cols + col, 1, self.filters as isize)
            };
            let from = call.b.wrapping_add(row * self.filters + first);
            let source = Source { from, width_stride, depth_stride, ahead: 0 };
            // SAFETY: the channels of this element of the window, and the panel's columns, lie in B; the panel has room for them.
            unsafe { pack_panel(call.kernels, &source, cols, self.channels, to, width) };
            to = to.wrapping_add(self.channels * width);
        }
    }
}
