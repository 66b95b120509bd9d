//! The ways that a convolution can go, as values. All give the same bits.

use std::fmt;

use cotangent_host::Target;
use cotangent_scalar::{Conv, ConvAxis, Direction};

use super::phase::Image;
use super::tiles::by_vectors;
use crate::kernel::KernelSet;

/// How a convolution, or one of its adjoints, is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvWay {
    /// Vectors of a tile's columns.
    pub vectors: usize,
    /// The filters are packed into panels of columns, and not read where they are: only a convolution can do without.
    pub packed: bool,
    /// Bytes of the filters, or of `y` for their gradient, that pass through the first-level cache at a time.
    pub near: usize,
    /// Bytes of the result, and of the image, that stay in the second-level cache at a time.
    pub far: usize,
}

impl fmt::Display for ConvWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConvWay { vectors, packed, near, far } = self;
        let place = if *packed { "packed" } else { "in place" };
        write!(f, "tiles of {vectors} vectors, filters {place}, {} KiB near, {} KiB far", near >> 10, far >> 10)
    }
}

/// Rows of the result from which on packing the filters pays.
const PACK_ROWS: usize = 512;

/// A way is tried if it takes at most so many times what the best is predicted to take.
const PROMISING: f64 = 1.3;

/// The ways that promise something, the one to take first, each with its cycles for each step of K of a line.
pub(super) fn ways<T>(
    kernels: &KernelSet<T>,
    conv: &Conv,
    axes: &[ConvAxis; 3],
    direction: Direction,
    target: &Target,
) -> Vec<(ConvWay, f64)> {
    let (image, phases) = Image::new(conv, axes, direction);
    let width = phases.iter().map(|phase| phase.axes[2].count).max().unwrap_or(1);
    let (rows, cols) = match direction {
        Direction::Weights => (phases.iter().map(|phase| phase.run).max().unwrap_or(1), conv.filters),
        Direction::Data if conv.skips_outside() => (conv.n, conv.channels),
        Direction::Data => (width, conv.channels),
        Direction::Forward => (width, conv.filters),
    };
    let [n_rows, _] = conv.matrix(direction);
    let in_place = direction == Direction::Forward && n_rows < PACK_ROWS && image.channels > 0;
    let (l1, l2) = (target.caches().l1, target.caches().l2);
    let vectors = by_vectors(kernels, rows, cols);
    let first = ConvWay { vectors: vectors[0].0, packed: !in_place, near: l1 / 2, far: l2 / 4 };
    let mut found = vec![(first, vectors[0].1)];
    let mut add = |way: ConvWay, cycles: f64| {
        if cycles <= PROMISING * vectors[0].1 {
            found.push((way, cycles));
        }
    };
    for &(vectors, cycles) in &vectors[1..] {
        add(ConvWay { vectors, ..first }, cycles);
    }
    for near in [l1 / 4, l1, l2 / 4] {
        add(ConvWay { near, ..first }, vectors[0].1);
    }
    add(ConvWay { far: l2 / 16, ..first }, vectors[0].1);
    if direction == Direction::Forward {
        add(ConvWay { packed: in_place, ..first }, vectors[0].1);
    }
    found
}
