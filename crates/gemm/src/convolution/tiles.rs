//! Into what tiles a line of the result is divided: how high, and how many vectors wide.

use cotangent_scalar::Conv;

use crate::drive::Heights;
use crate::kernel::{KernelSet, RunKernel};

/// Which kernels make the tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// A sum over channels: a number of the image meets a row of filters.
    Dense,
    /// A filter for each channel: a row of the image's channels meets a row of filters.
    Depthwise,
}

impl Family {
    pub fn of(conv: &Conv) -> Self {
        if conv.groups > 1 && conv.channels == 1 && conv.filters == 1 { Family::Depthwise } else { Family::Dense }
    }

    /// The kernels: by height, then by vectors.
    pub fn kernels<T>(self, kernels: &KernelSet<T>) -> &'static [&'static [RunKernel<T>]] {
        match self {
            Family::Dense => kernels.runs,
            Family::Depthwise => kernels.depthwise,
        }
    }

    /// The highest tile of so many vectors.
    pub fn most_rows<T>(self, kernels: &KernelSet<T>, vectors: usize) -> usize {
        self.kernels(kernels).iter().take_while(|widths| widths.len() >= vectors).count()
    }

    /// The most vectors of a tile.
    pub fn most_vectors<T>(self, kernels: &KernelSet<T>) -> usize {
        self.kernels(kernels).first().map_or(1, |widths| widths.len())
    }

    /// Cycles of a tile for each step of K: two multiply-adds and two loads at a time, and none that waits for the one before, which
    /// takes four.
    fn tile_cycles(self, height: usize, vectors: usize) -> f64 {
        let fmas = height * vectors;
        let loads = vectors + if self == Family::Dense { height } else { fmas };
        (fmas.max(loads) as f64 / 2.0).max(4.0)
    }

    /// Cycles of a line of so many rows and columns for each step of K, in tiles of at most so many vectors.
    pub fn line_cycles<T>(self, kernels: &KernelSet<T>, rows: usize, cols: usize, vectors: usize) -> f64 {
        if rows == 0 || cols == 0 {
            return 0.0;
        }
        let panels = |width: usize| -> f64 {
            let vectors = width.div_ceil(kernels.lanes);
            let heights = Heights::new(rows, self.most_rows(kernels, vectors));
            heights.iter().map(|(_, height)| self.tile_cycles(height, vectors)).sum()
        };
        let width = vectors * kernels.lanes;
        let rest = cols % width;
        (cols / width) as f64 * panels(width) + if rest > 0 { panels(rest) } else { 0.0 }
    }

    /// Numbers of vectors of a panel for lines of so many rows, the one that takes least first, with what each takes.
    pub fn by_vectors<T>(self, kernels: &KernelSet<T>, rows: usize, cols: usize) -> Vec<(usize, f64)> {
        // Of equals the one nearest to two, which reads little of both operands.
        let widths = [2, 1, 3, 4].into_iter().filter(|&vectors| vectors <= self.most_vectors(kernels));
        let mut found: Vec<_> = widths.map(|v| (v, self.line_cycles(kernels, rows, cols, v))).collect();
        found.sort_by(|a, b| a.1.total_cmp(&b.1));
        found
    }
}
