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

/// Numbers of vectors of a panel for lines of so many rows, the one that takes least first, with what each takes.
pub(super) fn by_vectors<T>(kernels: &KernelSet<T>, rows: usize, cols: usize) -> Vec<(usize, f64)> {
    let most = kernels.runs.first().map_or(1, |widths| widths.len());
    // Of equals the one nearest to two, which reads little of both operands.
    let widths = [2, 1, 3, 4].into_iter().filter(|&vectors| vectors <= most);
    let mut found: Vec<_> = widths.map(|v| (v, line_cycles(kernels, rows, cols, v))).collect();
    found.sort_by(|a, b| a.1.total_cmp(&b.1));
    found
}
