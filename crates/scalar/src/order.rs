//! The order of every reduction, stated once.
//!
//! The oracle, the kernel interpreter and every backend follow this page, so that results have the same bits for any
//! thread count, backend and fusion setting.
//!
//! * **Row** (over contiguous logical neighbours, extent `n`): `L = min(next_pow2(n), 32)` virtual lanes (16 for 8-byte
//!   types). Every lane starts from the identity; lane `i` combines elements `i, i+L, i+2L, …` in order; then lanes are
//!   combined by halving: lane `i` with lane `i + L/2`, until one is left.
//! * **Column** (over an outer dim, extent `n`, for each inner element): sequentially inside blocks of 64, each from the
//!   identity; the blocks' partials are combined in order, from the identity.
//! * **Everything**: by rows, each by the row rule, and then their results, if [`goes_by_rows`] says so by the extents;
//!   otherwise full.
//! * **Full** (a flat range): up to 4,096 elements the row rule; beyond that the flat range is cut into chunks of 4,096 (the
//!   last may be shorter), each reduced by the row rule, and the partials are reduced by the full rule again.
//! * A reduction over several separate groups of axes is done group by group, innermost first.
//! * **Product** of matrices: every element is one chain of fused multiply-adds over `k` in order, from the identity. If
//!   the result has one row or one column, the element is a sum over a row: as many chains as the row rule has lanes, lane
//!   `i` over `i, i+L, …`, combined by halving.

use crate::body::ScalarOp;
use crate::dtype::DType;
use crate::eval::apply;

/// Rows of a column reduction that are combined sequentially before partials are.
pub const COLUMN_BLOCK: usize = 64;

/// Elements of a full reduction that one row holds.
pub const FULL_CHUNK: usize = 4096;

/// The least number of elements of rows that everything is reduced by: shorter ones take longer to combine than to load.
const LEAST_ROW: usize = 128;

/// From so many rows on, rows are reduced whole, however long they are: there are enough for threads to share.
const MANY_ROWS: usize = 8;

/// The most virtual lanes of a row reduction: those of types of up to 4 bytes.
pub const MOST_LANES: usize = 32;

/// How a reduction combines values. The identity starts every lane and block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// `acc + x` from 0.
    Sum,
    /// `acc * x` from 1.
    Prod,
    /// `max(acc, x)` from the least value; NaN propagates.
    Max,
    /// `min(acc, x)` from the greatest value; NaN propagates.
    Min,
}

impl ReduceOp {
    /// The scalar instruction that combines an accumulator (first) and a value.
    pub fn scalar_op(self) -> ScalarOp {
        match self {
            ReduceOp::Sum => ScalarOp::Add,
            ReduceOp::Prod => ScalarOp::Mul,
            ReduceOp::Max => ScalarOp::Max,
            ReduceOp::Min => ScalarOp::Min,
        }
    }

    /// The name in printed kernels.
    pub fn name(self) -> &'static str {
        match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Prod => "prod",
            ReduceOp::Max => "max",
            ReduceOp::Min => "min",
        }
    }

    /// The bits of the identity.
    pub fn identity(self, dtype: DType) -> u64 {
        match (self, dtype) {
            (ReduceOp::Sum, _) => 0,
            (ReduceOp::Prod, _) => dtype.bits_of_f64(1.0),
            (ReduceOp::Max, DType::I64) => i64::MIN as u64,
            (ReduceOp::Min, DType::I64) => i64::MAX as u64,
            (ReduceOp::Max, _) => dtype.bits_of_f64(f64::NEG_INFINITY),
            (ReduceOp::Min, _) => dtype.bits_of_f64(f64::INFINITY),
        }
    }

    /// The accumulator after `value`.
    pub fn combine(self, dtype: DType, acc: u64, value: u64) -> u64 {
        apply(self.scalar_op(), dtype, dtype, acc, value, 0)
    }
}

/// Number of virtual lanes of a row reduction over `n` elements.
pub fn n_lanes(n: usize, dtype: DType) -> usize {
    let most = if dtype.size_bytes() == 8 { MOST_LANES / 2 } else { MOST_LANES };
    n.max(1).next_power_of_two().min(most)
}

/// Number of virtual lanes of every element of a product of m×k by k×n matrices (one of a batch).
pub fn product_lanes([m, n, k]: [usize; 3], dtype: DType) -> usize {
    if m == 1 || n == 1 { n_lanes(k, dtype) } else { 1 }
}

/// An element of a product, given its number of lanes, the factors of its terms in order, `fma(a, b, c)` = a·b + c, and
/// `add`.
#[inline(always)]
pub fn product_element<T: Copy>(
    n_lanes: usize,
    zero: T,
    terms: impl Iterator<Item = (T, T)>,
    fma: impl Fn(T, T, T) -> T,
    add: impl Fn(T, T) -> T,
) -> T {
    let mut lanes = [zero; MOST_LANES];
    let mut lane = 0;
    for (a, b) in terms {
        lanes[lane] = fma(a, b, lanes[lane]);
        lane = if lane + 1 < n_lanes { lane + 1 } else { 0 };
    }
    let mut width = n_lanes / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = add(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Whether everything, `rows` rows of `n` elements, is reduced by rows and then their results, or as one flat range: if it is
/// little, its rows are short, or they are few and long.
pub fn goes_by_rows(rows: usize, n: usize) -> bool {
    let is_much = rows >= 2 && rows.saturating_mul(n) > FULL_CHUNK;
    is_much && n >= LEAST_ROW && (n <= FULL_CHUNK || rows >= MANY_ROWS)
}

/// The row rule on anything that can be combined.
pub fn row_of<T: Clone>(
    n_lanes: usize,
    identity: T,
    values: impl Iterator<Item = T>,
    mut combine: impl FnMut(T, T) -> T,
) -> T {
    let mut lanes = vec![identity; n_lanes];
    for (i, value) in values.enumerate() {
        let lane = &mut lanes[i % n_lanes];
        *lane = combine(lane.clone(), value);
    }
    let mut width = n_lanes / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i].clone(), lanes[i + width].clone());
        }
        width /= 2;
    }
    lanes.swap_remove(0)
}

/// The column rule on anything that can be combined, from the first row to the last.
pub fn column_of<T: Clone>(identity: T, values: impl Iterator<Item = T>, mut combine: impl FnMut(T, T) -> T) -> T {
    let (mut total, mut partial, mut in_block) = (identity.clone(), identity.clone(), 0);
    for value in values {
        partial = combine(partial, value);
        in_block += 1;
        if in_block == COLUMN_BLOCK {
            total = combine(total, partial);
            (partial, in_block) = (identity.clone(), 0);
        }
    }
    if in_block > 0 { combine(total, partial) } else { total }
}

/// The row rule.
pub fn reduce_row(op: ReduceOp, dtype: DType, values: &[u64]) -> u64 {
    let combine = |acc, value| op.combine(dtype, acc, value);
    row_of(n_lanes(values.len(), dtype), op.identity(dtype), values.iter().copied(), combine)
}

/// The column rule for one inner element, given its values from the first row to the last.
pub fn reduce_column(op: ReduceOp, dtype: DType, values: impl Iterator<Item = u64>) -> u64 {
    column_of(op.identity(dtype), values, |acc, value| op.combine(dtype, acc, value))
}

/// The full rule.
pub fn reduce_full(op: ReduceOp, dtype: DType, values: &[u64]) -> u64 {
    if values.len() <= FULL_CHUNK {
        return reduce_row(op, dtype, values);
    }
    let partials: Vec<u64> = values.chunks(FULL_CHUNK).map(|chunk| reduce_row(op, dtype, chunk)).collect();
    reduce_full(op, dtype, &partials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(values: &[f32]) -> Vec<u64> {
        values.iter().map(|v| u64::from(v.to_bits())).collect()
    }

    #[test]
    fn rows_follow_lanes_then_halving() {
        let values: Vec<f32> = (0..37).map(|i| 1.0 / (i as f32 + 1.0)).collect();
        let mut lanes = [0.0f32; 32];
        for (i, v) in values.iter().enumerate() {
            lanes[i % 32] += v;
        }
        for width in [16, 8, 4, 2, 1] {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        assert_eq!(reduce_row(ReduceOp::Sum, DType::F32, &bits(&values)), u64::from(lanes[0].to_bits()));
    }

    #[test]
    fn empty_reductions_are_the_identity() {
        assert_eq!(reduce_row(ReduceOp::Sum, DType::F32, &[]), 0);
        assert_eq!(reduce_column(ReduceOp::Max, DType::I64, std::iter::empty()), i64::MIN as u64);
        assert_eq!(reduce_full(ReduceOp::Max, DType::F32, &bits(&[f32::NAN, 1.0])) as u32, f32::NAN.to_bits());
    }

    #[test]
    fn products_with_vectors_are_sums_over_rows() {
        let (a, b): (Vec<f32>, Vec<f32>) = (0..77).map(|i| (0.3 + 1.0 / (i as f32 + 1.0), (i as f32).sin())).unzip();
        let element = |extents| {
            let terms = a.iter().copied().zip(b.iter().copied());
            product_element(product_lanes(extents, DType::F32), 0.0, terms, f32::mul_add, |x, y| x + y)
        };
        let chain = a.iter().zip(&b).fold(0.0_f32, |c, (a, b)| a.mul_add(*b, c));
        assert_eq!(element([2, 2, 77]).to_bits(), chain.to_bits());
        let mut lanes = [0.0_f32; 32];
        for i in 0..77 {
            lanes[i % 32] = a[i].mul_add(b[i], lanes[i % 32]);
        }
        let halved = bits(&lanes);
        for extents in [[1, 5, 77], [5, 1, 77], [1, 1, 77]] {
            assert_eq!(u64::from(element(extents).to_bits()), reduce_row(ReduceOp::Sum, DType::F32, &halved));
        }
        assert_ne!(element([1, 5, 77]), chain);
        let lanes = [[1, 1, 0], [1, 1, 3], [1, 9, 16], [9, 1, 99], [2, 9, 99]].map(|e| product_lanes(e, DType::F64));
        assert_eq!(lanes, [1, 4, 16, 16, 1]);
    }

    #[test]
    fn everything_goes_by_rows_unless_they_are_short_or_few_and_long() {
        let flat = [(0, 100), (100, 0), (64, 64), (1, 1 << 20), (1 << 20, 127), (7, 4097)];
        flat.iter().for_each(|&(rows, n)| assert!(!goes_by_rows(rows, n), "{rows} of {n}"));
        let by_rows = [(33, 128), (2, 4096), (8, 4097), (100_000, 100_000), (usize::MAX, 128)];
        by_rows.iter().for_each(|&(rows, n)| assert!(goes_by_rows(rows, n), "{rows} of {n}"));
    }

    #[test]
    fn columns_combine_blocks_in_order() {
        let values: Vec<f32> = (0..150).map(|i| (i as f32).sin()).collect();
        let mut total = 0.0f32;
        for block in values.chunks(64) {
            total += block.iter().fold(0.0, |a, b| a + b);
        }
        let got = reduce_column(ReduceOp::Sum, DType::F32, bits(&values).into_iter());
        assert_eq!(got, u64::from(total.to_bits()));
    }
}
