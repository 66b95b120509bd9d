//! What a convolution and its adjoint with respect to the image have in common: every row of the result is a sum over an image's
//! neighbouring elements.
//!
//! The convolution takes them from `x`. Its adjoint takes them from `y`: where windows lie further apart than one element, by
//! *phases*. Elements of `x` whose indices have the same remainders by the strides are reached by the same elements of windows, so
//! each phase is a convolution of `y` with stride 1 and a part of each filter, turned round. No zeros are put between elements.

use std::collections::BTreeMap;

use cotangent_scalar::{Conv, ConvAxis, Direction};
use smallvec::SmallVec;

use super::tiles::Family;

/// Three axes of which outer ones may be of one element: planes, lines, and along a line.
pub(super) fn three(axes: &[ConvAxis]) -> Option<[ConvAxis; 3]> {
    const ONE: ConvAxis = ConvAxis { extent: 1, window: 1, places: 1, stride: 1, dilation: 1, low: 0 };
    // Axes along which nothing moves are one long axis: so lines are long.
    let still = |axis: &ConvAxis| axis.window == 1 && axis.stride == 1 && axis.low == 0 && axis.places == axis.extent;
    let mut found: SmallVec<[ConvAxis; 3]> = SmallVec::new();
    for &axis in axes {
        match found.last_mut() {
            Some(last) if still(last) && still(&axis) => {
                let extent = last.extent * axis.extent;
                *last = ConvAxis { extent, places: extent, ..ONE };
            }
            _ => found.push(axis),
        }
    }
    found.retain(|axis| *axis != ONE);
    (found.len() <= 3).then(|| {
        let mut all = [ONE; 3];
        all[3 - found.len()..].copy_from_slice(&found);
        all
    })
}

/// An axis of a phase: which elements of the result it makes, and of what.
#[derive(Clone, Debug)]
pub(super) struct PhaseAxis {
    /// The first element of the result.
    pub first: usize,
    /// From one element of the result to the next.
    pub step: usize,
    /// How many.
    pub count: usize,
    /// Elements of the image from one result's first neighbour to the next's.
    pub stride: usize,
    /// Elements of the image from one neighbour to the next.
    pub dilation: usize,
    /// Elements of the image that the first neighbour of the first result lies before the image's first.
    pub low: isize,
    /// Which element of a window each neighbour meets.
    pub taps: SmallVec<[usize; 8]>,
}

impl PhaseAxis {
    /// The convolution: all places.
    pub fn of_places(axis: &ConvAxis) -> Self {
        PhaseAxis {
            first: 0,
            step: 1,
            count: axis.places,
            // A single place is at no distance from another.
            stride: if axis.places > 1 { axis.stride } else { 1 },
            dilation: axis.dilation,
            low: axis.low as isize,
            taps: (0..axis.window).collect(),
        }
    }

    /// The adjoint: the phases whose elements meet something. Elements that the strides pass over are in none of them.
    fn of_elements(axis: &ConvAxis) -> Vec<Self> {
        let mut phases: BTreeMap<usize, SmallVec<[usize; 8]>> = BTreeMap::new();
        // The last element of a window meets the first place.
        for tap in (0..axis.window).rev() {
            let at = (tap * axis.dilation) as isize - axis.low as isize;
            let first = at.rem_euclid(axis.stride as isize) as usize;
            if first < axis.extent {
                phases.entry(first).or_default().push(tap);
            }
        }
        phases.into_iter().map(|(first, taps)| PhaseAxis::from(axis, first, taps)).collect()
    }

    /// Elements of `x` from `first` on, a stride apart, that these elements of windows meet.
    fn from(axis: &ConvAxis, first: usize, taps: SmallVec<[usize; 8]>) -> Self {
        let at = |tap: usize| (first + axis.low) as isize - (tap * axis.dilation) as isize;
        let place = |tap: usize| at(tap) / axis.stride as isize;
        PhaseAxis {
            first,
            step: axis.stride,
            count: axis.extent.saturating_sub(first).div_ceil(axis.stride),
            stride: 1,
            dilation: if let [a, b, ..] = taps[..] { (place(b) - place(a)) as usize } else { 1 },
            low: taps.first().map_or(0, |&tap| -place(tap)),
            taps,
        }
    }

    /// Elements of the image from the first to the last that is a neighbour of one of `count` results, both counted.
    pub fn reach(&self, count: usize) -> usize {
        match (count, self.taps.len()) {
            (0, _) | (_, 0) => 0,
            (count, taps) => (count - 1) * self.stride + (taps - 1) * self.dilation + 1,
        }
    }

    /// Neighbour `tap` of result `q` in the image, perhaps outside.
    pub fn neighbour(&self, q: usize, tap: usize) -> isize {
        (q * self.stride + tap * self.dilation) as isize - self.low
    }

    /// The results whose elements lie in a range.
    pub fn within(&self, elements: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let number = |element: usize| element.saturating_sub(self.first).div_ceil(self.step).min(self.count);
        number(elements.start)..number(elements.end)
    }
}

/// A part of the result that has the same neighbours everywhere.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    /// Planes, lines, and along a line.
    pub axes: [PhaseAxis; 3],
    /// Runs of K that lie in a line of the image: 1 if neighbours along it are adjacent.
    pub runs_of_line: usize,
    /// Runs of K.
    pub n_runs: usize,
    /// Steps of a run.
    pub run: usize,
    /// Rows of B, over all phases, before this one's.
    pub first_k: usize,
    /// Elements of a line that are read, channels among them.
    pub line: usize,
    /// Lines are read where they are.
    pub direct: bool,
}

impl Phase {
    fn new(axes: [PhaseAxis; 3], image: &Image, first_k: usize) -> Self {
        let [planes, lines, along] = [0, 1, 2].map(|k| axes[k].taps.len());
        let joined = axes[2].dilation == 1 || along <= 1;
        let (runs_of_line, run) = if joined { (1, along * image.steps) } else { (along, image.steps) };
        let n_runs = if run == 0 { 0 } else { planes * lines * runs_of_line };
        let width = axes[2].reach(axes[2].count);
        let first = -axes[2].low;
        let direct = image.groups == 1 && first >= 0 && first as usize + width <= image.extents[2];
        Phase { runs_of_line, n_runs, run, first_k, line: width * image.channels, direct, axes }
    }

    /// Length of each chain.
    pub fn k(&self) -> usize {
        self.n_runs * self.run
    }

    /// Elements of windows that are met.
    pub fn taps(&self) -> impl Iterator<Item = [usize; 3]> + '_ {
        let [a, b, c] = [0, 1, 2].map(|k| &self.axes[k].taps);
        a.iter().flat_map(move |&a| b.iter().flat_map(move |&b| c.iter().map(move |&c| [a, b, c])))
    }
}

/// The operand whose neighbouring elements are read.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Planes, lines, elements of a line.
    pub extents: [usize; 3],
    /// Channels of a group.
    pub channels: usize,
    /// Groups of channels. Where each channel has filters of its own all are one group.
    pub groups: usize,
    /// Steps of K for each element of a window: the channels, or one where each channel has filters of its own.
    pub steps: usize,
}

impl Image {
    /// The image of a sum, and its phases: those that meet something. `x` is the image of a convolution and of its weights' gradient.
    pub fn new(conv: &Conv, axes: &[ConvAxis; 3], direction: Direction) -> (Image, Vec<Phase>) {
        let (extents, channels) = match direction {
            Direction::Data => (axes.map(|axis| axis.places), conv.filters),
            _ => (axes.map(|axis| axis.extent), conv.channels),
        };
        let image = match Family::of(conv) {
            Family::Dense => Image { extents, channels, groups: conv.groups, steps: channels },
            Family::Depthwise => Image { extents, channels: conv.groups, groups: 1, steps: 1 },
        };
        let parts = [0, 1, 2].map(|k| match direction {
            Direction::Data => PhaseAxis::of_elements(&axes[k]),
            _ => vec![PhaseAxis::of_places(&axes[k])],
        });
        let mut phases: Vec<Phase> = Vec::new();
        for plane in &parts[0] {
            for (line, along) in parts[1].iter().flat_map(|line| parts[2].iter().map(move |along| (line, along))) {
                let axes = [plane, line, along].map(PhaseAxis::clone);
                let first_k = phases.last().map_or(0, |phase| phase.first_k + phase.k());
                phases.push(Phase::new(axes, &image, first_k));
            }
        }
        (image, phases)
    }
}

/// Whether phases leave out some rows of a result with these extents, which are zeros.
pub(super) fn leave_rows(phases: &[Phase], result: [usize; 3]) -> bool {
    let rows = |phase: &Phase| phase.axes.iter().map(|axis| axis.count).product::<usize>();
    phases.iter().map(rows).sum::<usize>() < result.iter().product()
}
