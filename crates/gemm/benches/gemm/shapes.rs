//! The shapes that products are timed on.

use std::fmt;

/// A product of m×k by k×n matrices, or a batch of them.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What the shape stands for; a filter may name it.
    pub group: &'static str,
    pub batch: usize,
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// A is stored as its transpose, k×m.
    pub a_t: bool,
    /// B is stored as its transpose, n×k.
    pub b_t: bool,
}

impl Shape {
    /// Floating-point operations: a multiplication and an addition for each step of each chain.
    pub fn flops(&self) -> f64 {
        2.0 * self.batch as f64 * self.m as f64 * self.k as f64 * self.n as f64
    }

    /// Whether no filter is given, or one is the shape's group or a part of its name.
    pub fn passes(&self, filters: &[String]) -> bool {
        let name = self.to_string();
        filters.is_empty() || filters.iter().any(|filter| filter == self.group || name.contains(filter.as_str()))
    }
}

/// `AtB 784x128.128x1024`: which operands are stored transposed, then the extents of A and B.
impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { group: _, batch, m, k, n, a_t, b_t } = *self;
        let stored = match (a_t, b_t) {
            (false, false) => "",
            (true, false) => "AtB ",
            (false, true) => "ABt ",
            (true, true) => "AtBt ",
        };
        let count = if batch == 1 { String::new() } else { format!("{batch}*") };
        out.pad(&format!("{stored}{count}{m}x{k}.{k}x{n}"))
    }
}

const fn plain(group: &'static str, m: usize, k: usize, n: usize) -> Shape {
    Shape { group, batch: 1, m, k, n, a_t: false, b_t: false }
}

const fn a_t(group: &'static str, m: usize, k: usize, n: usize) -> Shape {
    Shape { a_t: true, ..plain(group, m, k, n) }
}

const fn b_t(group: &'static str, m: usize, k: usize, n: usize) -> Shape {
    Shape { b_t: true, ..plain(group, m, k, n) }
}

/// All shapes, by group.
pub const SHAPES: &[Shape] = &[
    plain("small", 2, 2, 2),
    plain("small", 4, 2, 8),
    plain("small", 8, 8, 8),
    plain("small", 16, 16, 16),
    plain("small", 32, 32, 32),
    plain("small", 48, 48, 48),
    plain("small", 32, 128, 10),
    a_t("small", 128, 32, 10),
    b_t("small", 32, 10, 128),
    plain("square", 64, 64, 64),
    plain("square", 96, 96, 96),
    plain("square", 128, 128, 128),
    plain("square", 192, 192, 192),
    plain("square", 256, 256, 256),
    plain("square", 384, 384, 384),
    plain("square", 512, 512, 512),
    plain("square", 768, 768, 768),
    plain("square", 1024, 1024, 1024),
    plain("square", 1536, 1536, 1536),
    plain("square", 2048, 2048, 2048),
    // A layer and the gradients of its weights and its inputs; at a small batch too.
    plain("layer", 128, 784, 1024),
    a_t("layer", 784, 128, 1024),
    b_t("layer", 128, 1024, 784),
    plain("layer", 256, 2048, 2048),
    plain("layer", 32, 784, 128),
    a_t("layer", 784, 32, 128),
    Shape { batch: 48, ..plain("batch", 64, 32, 64) },
    plain("vector", 1, 256, 256),
    plain("vector", 256, 256, 1),
    plain("vector", 1, 1024, 1024),
    b_t("vector", 1, 1024, 1024),
    plain("vector", 1024, 1024, 1),
    a_t("vector", 1024, 1024, 1),
    plain("vector", 1, 4096, 4096),
    plain("vector", 4096, 4096, 1),
    plain("vector", 128, 1, 128),
    plain("vector", 1024, 1, 1024),
    plain("vector", 1, 4096, 1),
    plain("skinny", 1024, 8, 1024),
    plain("skinny", 1024, 16, 1024),
    a_t("skinny", 784, 16, 128),
    plain("skinny", 1024, 1024, 4),
    plain("skinny", 4096, 64, 8),
    plain("skinny", 128, 1024, 10),
    plain("skinny", 2048, 512, 16),
    a_t("skinny", 1024, 128, 16),
    plain("skinny", 4, 1024, 1024),
    plain("skinny", 10, 1024, 1024),
    b_t("skinny", 16, 1024, 1024),
    plain("prime", 61, 61, 61),
    plain("prime", 127, 127, 127),
    plain("prime", 251, 251, 251),
    plain("prime", 509, 509, 509),
    plain("prime", 1021, 1021, 1021),
    plain("prime", 97, 787, 1021),
    b_t("prime", 131, 1031, 787),
    // The layer at batch 96 and at widths 1000 and 1536, which no block size divides.
    plain("perturbed", 96, 784, 1024),
    a_t("perturbed", 784, 96, 1024),
    b_t("perturbed", 96, 1024, 784),
    plain("perturbed", 128, 784, 1000),
    a_t("perturbed", 784, 128, 1000),
    b_t("perturbed", 128, 1000, 784),
    plain("perturbed", 128, 784, 1536),
    a_t("perturbed", 784, 128, 1536),
    b_t("perturbed", 128, 1536, 784),
    plain("perturbed", 256, 1000, 1000),
    plain("perturbed", 256, 1536, 1536),
    plain("perturbed", 96, 2048, 2048),
];
