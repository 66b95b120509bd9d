//! The order of convolutions, stated once, as [`order`](crate::order) does for reductions.
//!
//! A convolution takes `x [n, extents.., c]` and filters `w [windows.., c / groups, f]` to `y [n, places.., f]`. It and its two
//! adjoints are three sums of products of two of these tensors' elements, each a matrix: a row for each element of the leading
//! axes of the result, a column for each of its last. **Every element is one chain** of fused multiply-adds, from +0.0:
//!
//! * [`Forward`](Direction::Forward), `y` of `x` and `w`: over the elements of a filter in row-major order, `(windows.., c)`.
//! * [`Data`](Direction::Data), `x`'s gradient of `y`'s and `w`: over the places whose windows hold the element, in row-major
//!   order, and the filters of each, `(places.., f)`.
//! * [`Weights`](Direction::Weights), `w`'s gradient of `x` and `y`'s: over the examples and places in row-major order,
//!   `(n, places..)`.
//!
//! What a window has outside of `x` are zeros that take part: times an infinity they are NaN. So are places outside of `y` that
//! the stride would lead to, where they are few; where there would be many, they are left out ([`Conv::skips_outside`] says which,
//! by the extents alone).

use smallvec::SmallVec;

/// The most axes along which windows move.
pub const MOST_AXES: usize = 3;

/// The most elements that windows reach over, zeros of the padding among them.
pub const MOST_REACHED: usize = 1 << 48;

/// One of the axes along which windows move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvAxis {
    /// Elements of `x`.
    pub extent: usize,
    /// Elements of a window.
    pub window: usize,
    /// Windows: elements of `y`.
    pub places: usize,
    /// From one window to the next, at least 1.
    pub stride: usize,
    /// From one element of a window to the next, at least 1.
    pub dilation: usize,
    /// Zeros before the first element.
    pub low: usize,
}

/// The extents of a convolution.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Examples.
    pub n: usize,
    /// The axes along which windows move, outermost first.
    pub axes: SmallVec<[ConvAxis; 3]>,
    /// Groups of channels, each with filters of its own.
    pub groups: usize,
    /// Channels of a group.
    pub channels: usize,
    /// Filters of a group.
    pub filters: usize,
}

/// Which of the three sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The convolution: `y` of `x` and `w`.
    Forward,
    /// Its adjoint with respect to `x`, of `y` and `w`: the transposed convolution.
    Data,
    /// Its adjoint with respect to `w`, of `x` and `y`.
    Weights,
}

impl Direction {
    /// The name in print.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Data => "data",
            Direction::Weights => "weights",
        }
    }
}

impl ConvAxis {
    /// Where element `tap` of the window at `place` lies in `x`; `None` outside.
    pub fn element(&self, place: usize, tap: usize) -> Option<usize> {
        let at = (place * self.stride + tap * self.dilation).checked_sub(self.low)?;
        (at < self.extent).then_some(at)
    }

    /// The place whose window has `element` as its element `tap`: `None` if the stride passes it over, and an inner `None`
    /// outside of `y`.
    pub fn place(&self, element: usize, tap: usize) -> Option<Option<usize>> {
        let (at, first) = (element + self.low, tap * self.dilation);
        at.abs_diff(first).is_multiple_of(self.stride).then(|| {
            let place = at.checked_sub(first)? / self.stride;
            (place < self.places).then_some(place)
        })
    }
}

impl ConvAxis {
    /// Pairs of an element of `x` and a window's element that meet at a place, inside of `y` or not.
    fn n_reached(&self) -> usize {
        // Elements from the first that the stride does not pass over, a stride apart.
        let first = |tap: usize| (tap * self.dilation).wrapping_sub(self.low) as isize;
        let first = |tap: usize| first(tap).rem_euclid(self.stride as isize) as usize;
        let count = |tap: usize| self.extent.saturating_sub(first(tap)).div_ceil(self.stride);
        (0..self.window).map(count).fold(0, usize::saturating_add)
    }

    /// Pairs of a place and a window's element that lies inside of `x`.
    fn n_inside(&self) -> usize {
        // Places before which an element `at` is beyond the tap.
        let before = |tap: usize, at: usize| (at + self.low).saturating_sub(tap * self.dilation).div_ceil(self.stride);
        let count = |tap: usize| before(tap, self.extent).min(self.places).saturating_sub(before(tap, 0));
        (0..self.window).map(count).fold(0, usize::saturating_add)
    }
}

impl Conv {
    /// Elements of all axes.
    fn product(&self, of: impl Fn(&ConvAxis) -> usize) -> usize {
        self.axes.iter().fold(1, |n, axis| n.saturating_mul(of(axis)))
    }

    /// Whether it is one: there are 1 to [`MOST_AXES`] axes; groups, windows, places, strides and dilations are at least 1; and
    /// every index, every size and the number of multiply-adds is below 2⁶³, also if what is 0 were 1; and of an example's channels,
    /// or filters, all windows reach over at most [`MOST_REACHED`] elements. The rest of this page is for what is one.
    pub fn is_sound(&self) -> bool {
        let size = |factors: &[usize]| {
            let n = factors.iter().try_fold(1usize, |n, &factor| n.checked_mul(factor.max(1)));
            n.is_some_and(|n| i64::try_from(n).is_ok())
        };
        let axis = |a: &ConvAxis| {
            let reach = |n: usize, step: usize| n.checked_sub(1)?.checked_mul(step);
            let last = reach(a.places, a.stride).and_then(|first| first.checked_add(reach(a.window, a.dilation)?));
            let padded = a.extent.checked_add(a.low);
            let sizes = [Some(a.stride), Some(a.dilation), last, padded];
            a.stride > 0 && a.dilation > 0 && sizes.into_iter().all(|n| n.is_some_and(|n| size(&[n])))
        };
        let last = |a: &ConvAxis| (a.places - 1) * a.stride + (a.window - 1) * a.dilation;
        let reached =
            |n: usize| self.product(|axis| (axis.extent + axis.low).max(last(axis) + 1)).checked_mul(n.max(1));
        let [extents, places, windows] = [
            self.product(|axis| axis.extent.max(1)),
            self.product(|axis| axis.places),
            self.product(|axis| axis.window),
        ];
        let (n, groups, channels, filters) = (self.n, self.groups, self.channels, self.filters);
        (1..=MOST_AXES).contains(&self.axes.len())
            && groups > 0
            && self.axes.iter().all(axis)
            && size(&[n, extents, groups, channels])
            && size(&[n, places, windows, groups, channels, filters])
            && reached(groups * channels.max(filters)).is_some_and(|n| n <= MOST_REACHED)
    }

    /// Whether filters are of one element, at every element, and see all channels: then each sum is one of matrices, in the same
    /// order.
    pub fn is_pointwise(&self) -> bool {
        let stays = |a: &ConvAxis| a.window == 1 && a.stride == 1 && a.low == 0 && a.places == a.extent;
        self.groups == 1 && self.axes.iter().all(stays)
    }

    /// Channels of `x`.
    pub fn all_channels(&self) -> usize {
        self.groups * self.channels
    }

    /// Channels of `y`.
    pub fn all_filters(&self) -> usize {
        self.groups * self.filters
    }

    /// Rows and columns of a sum as a matrix.
    pub fn matrix(&self, direction: Direction) -> [usize; 2] {
        match direction {
            Direction::Forward => [self.n * self.product(|axis| axis.places), self.all_filters()],
            Direction::Data => [self.n * self.product(|axis| axis.extent), self.all_channels()],
            Direction::Weights => [self.product(|axis| axis.window) * self.channels, self.all_filters()],
        }
    }

    /// Elements of the two operands of a sum.
    pub fn operands(&self, direction: Direction) -> [usize; 2] {
        let n_elements = |[rows, cols]: [usize; 2]| rows * cols;
        let [x, w, y] = [Direction::Data, Direction::Weights, Direction::Forward].map(|d| n_elements(self.matrix(d)));
        match direction {
            Direction::Forward => [x, w],
            Direction::Data => [y, w],
            Direction::Weights => [x, y],
        }
    }

    /// Terms of an element of a sum, at most.
    pub fn most_terms(&self, direction: Direction) -> usize {
        match direction {
            Direction::Forward => self.product(|axis| axis.window) * self.channels,
            Direction::Data => self.product(|axis| axis.window) * self.filters,
            Direction::Weights => self.n * self.product(|axis| axis.places),
        }
    }

    /// Multiply-adds of any of the three sums, those with zeros outside of `x` among them.
    pub fn multiply_adds(&self) -> usize {
        let factors = [self.n, self.product(|axis| axis.places), self.product(|axis| axis.window)];
        factors.into_iter().chain([self.channels, self.filters, self.groups]).fold(1, usize::saturating_mul)
    }

    /// Whether places outside of `y` are left out of the sums for `x`'s gradient: if they would be more than a quarter of the places
    /// inside.
    pub fn skips_outside(&self) -> bool {
        let ratio = |axis: &ConvAxis| axis.n_reached() as f64 / (axis.n_inside() as f64).max(1.0);
        self.axes.iter().map(ratio).product::<f64>() > 1.25
    }

    /// The terms of an element of a sum in order: where their factors are in the two operands, `None` for a zero outside.
    pub fn terms(&self, direction: Direction, row: usize, col: usize, mut term: impl FnMut(Option<usize>, usize)) {
        let (axes, channels, filters) = (&self.axes[..], self.channels, self.filters);
        // Windows may be of any size then.
        if channels == 0 || filters == 0 {
            return;
        }
        let windows = self.product(|axis| axis.window);
        let extents = |index: &[usize]| flat(index, axes.iter().map(|axis| axis.extent));
        let places = |index: &[usize]| flat(index, axes.iter().map(|axis| axis.places));
        match direction {
            Direction::Forward => {
                let (n, place) = self.example(row, |axis| axis.places);
                let first = col / filters * channels;
                for tap in 0..windows {
                    let taps = indices(tap, axes.iter().map(|axis| axis.window));
                    let at = each(axes, &place, &taps, ConvAxis::element).map(|at| self.x_at(n, extents(&at)) + first);
                    for c in 0..channels {
                        term(at.map(|at| at + c), (tap * channels + c) * self.all_filters() + col);
                    }
                }
            }
            Direction::Data => {
                let (n, element) = self.example(row, |axis| axis.extent);
                let (c, first) = (col % channels, col / channels * filters);
                let skips = self.skips_outside();
                for tap in (0..windows).rev() {
                    let taps = indices(tap, axes.iter().map(|axis| axis.window));
                    let Some(place) = each(axes, &element, &taps, ConvAxis::place) else { continue };
                    let inside: Option<SmallVec<[usize; 3]>> = place.into_iter().collect();
                    if inside.is_none() && skips {
                        continue;
                    }
                    let at = inside.map(|at| self.y_at(n, places(&at)) + first);
                    for f in 0..filters {
                        let of_w = (tap * channels + c) * self.all_filters() + first + f;
                        term(at.map(|at| at + f), of_w);
                    }
                }
            }
            Direction::Weights => {
                let (tap, c) = (row / channels, row % channels + col / filters * channels);
                let taps = indices(tap, axes.iter().map(|axis| axis.window));
                for row in 0..self.matrix(Direction::Forward)[0] {
                    let (n, place) = self.example(row, |axis| axis.places);
                    let at = each(axes, &place, &taps, ConvAxis::element).map(|at| self.x_at(n, extents(&at)) + c);
                    term(at, row * self.all_filters() + col);
                }
            }
        }
    }

    /// The example of a row, and its indices along the axes.
    fn example(&self, row: usize, of: impl Fn(&ConvAxis) -> usize) -> (usize, SmallVec<[usize; 3]>) {
        let size = self.product(&of);
        (row / size, indices(row % size, self.axes.iter().map(of)))
    }

    fn x_at(&self, n: usize, at: usize) -> usize {
        (n * self.product(|axis| axis.extent) + at) * self.all_channels()
    }

    fn y_at(&self, n: usize, at: usize) -> usize {
        (n * self.product(|axis| axis.places) + at) * self.all_filters()
    }
}

/// A function of every axis; `None` if it is so for one.
fn each<T>(
    axes: &[ConvAxis],
    a: &[usize],
    b: &[usize],
    f: impl Fn(&ConvAxis, usize, usize) -> Option<T>,
) -> Option<SmallVec<[T; 3]>> {
    axes.iter().zip(a.iter().zip(b)).map(|(axis, (&a, &b))| f(axis, a, b)).collect()
}

/// The row-major number of an element.
fn flat(index: &[usize], extents: impl Iterator<Item = usize>) -> usize {
    index.iter().zip(extents).fold(0, |at, (&i, extent)| at * extent + i)
}

/// The indices of an element by its row-major number.
fn indices(mut at: usize, extents: impl DoubleEndedIterator<Item = usize>) -> SmallVec<[usize; 3]> {
    let mut found: SmallVec<[usize; 3]> = extents
        .rev()
        .map(|extent| {
            let i = at % extent;
            at /= extent;
            i
        })
        .collect();
    found.reverse();
    found
}
