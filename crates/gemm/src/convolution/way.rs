//! The ways that a convolution can go, as values. All give the same bits.

use std::fmt;

use cotangent_host::Target;
use cotangent_scalar::{Conv, ConvAxis, Direction};

use super::phase::{Image, Phase};
use super::tiles::Family;
use crate::kernel::KernelSet;

/// How a convolution, or one of its adjoints, is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvWay {
    /// Vectors of a tile's columns.
    pub vectors: usize,
    /// Vectors of half the width, where the instruction set has them: fewer lanes are left over, and some CPUs compute as much with
    /// them.
    pub narrow: bool,
    /// The filters are packed into panels of columns, and not read where they are: only a convolution can do without.
    pub packed: bool,
    /// Bytes of the filters, or of `y` for their gradient, that pass through the first-level cache at a time.
    pub near: usize,
    /// Bytes of the result, and of the image, that stay in the second-level cache at a time.
    pub far: usize,
}

impl fmt::Display for ConvWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConvWay { vectors, narrow, packed, near, far } = self;
        let place = if *packed { "packed" } else { "in place" };
        let width = if *narrow { "narrow " } else { "" };
        let (near, far) = (near >> 10, far >> 10);
        write!(f, "tiles of {vectors} {width}vectors, filters {place}, {near} KiB near, {far} KiB far")
    }
}

/// Rows of the result from which on packing the filters pays.
const PACK_ROWS: usize = 512;

/// A way is tried if it takes at most so many times what the best is predicted to take.
const PROMISING: f64 = 1.3;

/// What tiles divide, and how often.
struct Work {
    family: Family,
    /// Rows and columns that tiles divide: a line of the result, a run of the filters' gradient, or examples.
    rows: usize,
    cols: usize,
    /// Steps of K of all such pieces.
    steps: usize,
}

impl Work {
    fn of(conv: &Conv, axes: &[ConvAxis; 3], direction: Direction) -> Self {
        let (image, phases) = Image::new(conv, axes, direction);
        let steps_of_phase = |phase: &Phase| conv.n * phase.axes[0].count * phase.axes[1].count * phase.k();
        let all_cols = conv.matrix(direction)[1];
        let (rows, steps) = match direction {
            Direction::Weights => {
                let (run, n_runs) = phases.first().map_or((1, 1), |phase| (phase.run, phase.n_runs));
                (run, conv.matrix(Direction::Forward)[0] * n_runs)
            }
            Direction::Data if conv.skips_outside() => (conv.n, conv.multiply_adds() / (conv.n * all_cols).max(1)),
            _ => {
                let width = phases.iter().map(|phase| phase.axes[2].count).max().unwrap_or(1);
                (width, phases.iter().map(steps_of_phase).sum())
            }
        };
        Work { family: Family::of(conv), rows, cols: all_cols / image.groups.max(1), steps: steps * image.groups }
    }
}

/// What a way is predicted to take on one thread, in nanoseconds.
pub(super) fn nanos<T>(
    kernels: &KernelSet<T>,
    conv: &Conv,
    axes: &[ConvAxis; 3],
    direction: Direction,
    way: ConvWay,
    target: &Target,
) -> f64 {
    let work = Work::of(conv, axes, direction);
    // Two vectors of multiply-adds a cycle.
    let cycle = 2.0 * (kernels.lanes * size_of::<T>()) as f64 * target.costs().fma_ns;
    work.family.line_cycles(kernels, work.rows, work.cols, way.vectors) * work.steps as f64 * cycle
}

/// The ways that promise something, the one to take first.
pub(super) fn ways<T>(
    kernels: &KernelSet<T>,
    conv: &Conv,
    axes: &[ConvAxis; 3],
    direction: Direction,
    narrow: Option<&KernelSet<T>>,
    target: &Target,
) -> Vec<ConvWay> {
    let work = Work::of(conv, axes, direction);
    let [n_rows, _] = conv.matrix(direction);
    let in_place = direction == Direction::Forward && n_rows < PACK_ROWS;
    let (l1, l2) = (target.caches().l1, target.caches().l2);
    let vectors = work.family.by_vectors(kernels, work.rows, work.cols);
    let (best, least) = vectors[0];
    let first = ConvWay { vectors: best, narrow: false, packed: !in_place, near: l1 / 2, far: l2 / 4 };
    let others = vectors[1..].iter().filter(|(_, cycles)| *cycles <= PROMISING * least);
    let mut found = vec![first];
    found.extend(others.map(|&(vectors, _)| ConvWay { vectors, ..first }));
    if let Some(narrow) = narrow.filter(|_| !work.cols.is_multiple_of(kernels.lanes)) {
        let vectors = work.family.by_vectors(narrow, work.rows, work.cols);
        let least = vectors[0].1;
        let good = vectors.into_iter().filter(|(_, cycles)| *cycles <= PROMISING * least);
        found.extend(good.map(|(vectors, _)| ConvWay { vectors, narrow: true, ..first }));
    }
    found.extend([l1 / 4, l1, l2 / 4].map(|near| ConvWay { near, ..first }));
    found.push(ConvWay { far: l2 / 16, ..first });
    if direction == Direction::Forward {
        found.push(ConvWay { packed: in_place, ..first });
    }
    found
}
