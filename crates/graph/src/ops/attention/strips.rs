//! Attention by strips of whole rows of scores, for more of them than caches hold.

use cotangent_scalar::DType;

use super::{Extents, RANGES, Range, joined, ranges_of, rows, sum_of_all};
use crate::attrs::Attrs;
use crate::builder::{GraphBuilder, Tensor};
use crate::ops::scan::{Loop, Made};
use crate::types::Shape;

/// Scores up to which all of them are made at once.
const MOST_AT_ONCE: usize = 1 << 21;
/// The most scores of a strip, unless it would be fewer than [`LEAST_ROWS`]: half a MiB of f32, in the caches of any core.
const MOST_OF_A_STRIP: usize = 1 << 17;
const LEAST_ROWS: usize = 16;
/// The rows of a strip for these extents, or 0 if there are no strips.
pub(super) fn strip_of(extents: &Extents, causal: bool) -> usize {
    let scores = extents.scores().iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
    if scores.is_some_and(|n| n <= MOST_AT_ONCE) || extents.keys == 0 {
        return 0;
    }
    let range = extents.queries / ranges(extents.queries, causal);
    let most = (MOST_OF_A_STRIP / extents.keys).clamp(LEAST_ROWS, range.max(LEAST_ROWS));
    (LEAST_ROWS / 2..=most).rev().find(|&rows| range.is_multiple_of(rows)).unwrap_or(0)
}

pub(super) fn ranges(queries: usize, causal: bool) -> usize {
    if causal && queries.is_multiple_of(RANGES) { RANGES } else { 1 }
}

/// Attention by strips.
pub(super) struct Strips<'g> {
    extents: Extents,
    /// Heads of all examples: queries, keys and values `[n, rows, _]`.
    operands: [Tensor<'g>; 3],
    strip: usize,
    causal: bool,
    scale: f64,
}

impl<'g> Strips<'g> {
    pub(super) fn of(inputs: &[Tensor<'g>], attrs: &Attrs) -> Option<Self> {
        let strip = attrs.size("strip");
        if strip == 0 {
            return None;
        }
        let extents = Extents::of(&inputs[0].shape(), &inputs[1].shape());
        let q = Strips::flat(inputs[0]);
        let [k, v] = [inputs[1], inputs[2]].map(|x| Strips::flat(extents.for_each_head(x)));
        let (causal, scale) = (attrs.bool("causal"), attrs.float("scale"));
        Some(Strips { extents, operands: [q, k, v], strip, causal, scale })
    }

    /// `[.., heads, rows, n]` as `[all heads, rows, n]`.
    fn flat(x: Tensor<'g>) -> Tensor<'g> {
        let shape = x.shape();
        let (heads, last) = shape.split_at(shape.rank() - 2);
        x.reshape([heads.iter().product(), last[0], last[1]])
    }

    fn ranges(&self) -> Vec<Range> {
        let (queries, keys) = (self.extents.queries, self.extents.keys);
        ranges_of(ranges(queries, self.causal), queries, keys)
    }

    /// A loop over all heads of what a range meets, with further operands `[all heads, queries, _]`.
    fn heads(&self, range: Range, others: &[Tensor<'g>]) -> Loop<'g> {
        let [q, k, v] = self.operands;
        let over = Loop::new().slice(rows(k, 0, range.keys)).slice(rows(v, 0, range.keys));
        std::iter::once(&q).chain(others).fold(over, |over, &x| over.slice(rows(x, range.from, range.to)))
    }

    pub(super) fn value(&self) -> Tensor<'g> {
        let mut parts = Vec::new();
        for range in self.ranges() {
            let strip = self.strip(range);
            let made = self.builder().scan("heads", self.heads(range, &[]), |g, head| {
                let over = head.slices.iter().fold(Loop::new(), |over, &x| over.capture(x));
                let made = g.fori("strips", strip.n, over, |_, number, i| {
                    let [k, v] = [i.captures[0], i.captures[1]];
                    let p = strip.probabilities(strip.of(i.captures[2], number), k, number);
                    Made { carries: Vec::new(), outputs: vec![p.matmul(v)] }
                });
                Made { carries: Vec::new(), outputs: made.outputs }
            });
            parts.push(made.outputs[0]);
        }
        self.joined(&parts)
    }

    pub(super) fn cotangents(&self, output: Tensor<'g>, dy: Tensor<'g>) -> [Tensor<'g>; 3] {
        let others = [dy, (dy * output).sum_keep([dy.rank() - 1])].map(Strips::flat);
        let (mut of_q, mut of_kv) = (Vec::new(), Vec::new());
        for range in self.ranges() {
            let strip = self.strip(range);
            let made = self.builder().scan("heads", self.heads(range, &others), |g, head| {
                let [k, v] = [head.slices[0], head.slices[1]];
                let over = Loop::new().carry(k.constant_like(0.0)).carry(v.constant_like(0.0));
                let over = head.slices.iter().fold(over, |over, &x| over.capture(x));
                let made = g.fori("strips", strip.n, over, |_, number, i| {
                    let [k, v] = [i.captures[0], i.captures[1]];
                    let [q, dy, mean] = [2, 3, 4].map(|operand| strip.of(i.captures[operand], number));
                    let p = strip.probabilities(q, k, number);
                    let mut ds = p * (dy.matmul_with(v, false, true) - mean);
                    if strip.causal {
                        ds = strip.seen(number, ds.shape()).select(ds, ds.constant_like(0.0));
                    }
                    let dk = i.carries[0] + ds.matmul_with(q * strip.scale, true, false);
                    let dv = i.carries[1] + p.matmul_with(dy, true, false);
                    Made { carries: vec![dk, dv], outputs: vec![ds.matmul(k) * strip.scale] }
                });
                Made { carries: Vec::new(), outputs: [made.outputs, made.carries].concat() }
            });
            of_q.push(made.outputs[0]);
            of_kv.push([made.outputs[1], made.outputs[2]]);
        }
        let total = |which: usize| {
            let parts: Vec<Tensor<'g>> = of_kv.iter().map(|of| of[which]).collect();
            self.extents.of_kv_heads(sum_of_all(&parts, self.extents.keys))
        };
        [self.joined(&of_q), total(0), total(1)]
    }

    /// What the strips `[all heads, strips, rows, n]` of all ranges made, as queries are.
    fn joined(&self, parts: &[Tensor<'g>]) -> Tensor<'g> {
        let rows = |x: &Tensor<'g>| x.reshape([x.dim(0), x.dim(1) * x.dim(2), x.dim(3)]);
        self.extents.ungrouped(joined(&parts.iter().map(rows).collect::<Vec<_>>()))
    }

    fn builder(&self) -> &'g GraphBuilder {
        self.operands[0].builder()
    }

    fn strip(&self, range: Range) -> Strip {
        let (rows, n) = (self.strip, (range.to - range.from) / self.strip);
        Strip { n, rows, from: range.from, causal: self.causal, scale: self.scale }
    }
}

/// The strips of a range of queries.
#[derive(Clone, Copy)]
struct Strip {
    n: usize,
    rows: usize,
    /// The range's first query.
    from: usize,
    causal: bool,
    scale: f64,
}

impl Strip {
    /// The rows of a strip, of `[rows of the range, n]`. By its number, not as slices of the loop: what a loop makes of slices and
    /// captures alone leaves it, as one product for all strips.
    fn of<'g>(self, x: Tensor<'g>, number: Tensor<'g>) -> Tensor<'g> {
        let start = number * self.rows as i64;
        x.dynamic_slice(&[start, x.builder().scalar(0, DType::I64)], [self.rows, x.dim(1)])
    }

    /// Which keys the queries of a strip may see, of the shape of their scores.
    fn seen<'g>(self, number: Tensor<'g>, scores: Shape) -> Tensor<'g> {
        let first = (number * self.rows as i64 + self.from as i64).cast(DType::I32);
        let place = |axis: usize| number.builder().iota(DType::I32, scores.clone(), axis);
        place(1).le(place(0) + first)
    }

    fn probabilities<'g>(self, q: Tensor<'g>, k: Tensor<'g>, number: Tensor<'g>) -> Tensor<'g> {
        let mut scores = (q * self.scale).matmul_with(k, false, true);
        if self.causal {
            scores = self.seen(number, scores.shape()).select(scores, scores.constant_like(f64::NEG_INFINITY));
        }
        scores.softmax(1)
    }
}
