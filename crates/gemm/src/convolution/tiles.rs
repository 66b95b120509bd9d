//! Into what tiles a line of the result is divided: how high, and how many vectors wide.

use crate::drive::Heights;
use crate::kernel::KernelSet;

/// Cycles of a tile for each step of K: two multiply-adds and two loads at a time, and none that waits for the one before, which
/// takes four.
fn tile_cycles(height: usize, vectors: usize) -> f64 {
    let [fmas, loads] = [height * vectors, height + vectors];
    (fmas.max(loads) as f64 / 2.0).max(4.0)
}

/// The highest tile of so many vectors.
pub(super) fn most_rows<T>(kernels: &KernelSet<T>, vectors: usize) -> usize {
    kernels.runs.iter().take_while(|widths| widths.len() >= vectors).count()
}

/// Cycles of a line of so many rows and columns for each step of K, in tiles of at most so many vectors.
pub(super) fn line_cycles<T>(kernels: &KernelSet<T>, rows: usize, cols: usize, vectors: usize) -> f64 {
    if rows == 0 {
        return 0.0;
    }
    let panels = |width: usize| -> f64 {
        let vectors = width.div_ceil(kernels.lanes);
        let heights = Heights::new(rows, most_rows(kernels, vectors));
        heights.iter().map(|(_, height)| tile_cycles(height, vectors)).sum()
    };
    let width = vectors * kernels.lanes;
    let rest = cols % width;
    (cols / width) as f64 * panels(width) + if rest > 0 { panels(rest) } else { 0.0 }
}

/// The number of vectors of a panel that takes least for lines of so many rows.
pub(super) fn best_vectors<T>(kernels: &KernelSet<T>, rows: usize, cols: usize) -> usize {
    let most = kernels.runs.first().map_or(1, |widths| widths.len());
    let cost = |&vectors: &usize| line_cycles(kernels, rows, cols, vectors);
    // Of equals the one nearest to two, which reads little of both operands.
    let preferred = [2, 1, 3, 4];
    preferred.into_iter().filter(|&v| v <= most).min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(1)
}
