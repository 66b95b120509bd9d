//! Attention: rows of V weighted by how well queries and keys agree.
//!
//! Scores are as many as queries times keys. If they are more than caches hold, they are made in strips of whole rows, by loops over heads
//! and strips whose bodies are the same steps; the derivative makes them again. Rows do not depend on each other, so no bit of the value
//! depends on strips.

mod strips;

use cotangent_scalar::DType;
use smallvec::{SmallVec, smallvec};

use self::strips::{Strips, ranges, strip_of};
use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::builder::Tensor;
use crate::diag::{Code, Diag};
use crate::eval;
use crate::op::{Arity, Cotangents, Fault, InferCx, Lower, OpDef, OpTraits, Vjp};
use crate::ops::activation::DROPOUT;
use crate::samples::{Sample, Sampler};
use crate::types::{Shape, Type};

/// The extents of an attention's operands.
#[derive(Clone)]
struct Extents {
    /// The axes in front of the heads.
    lead: Shape,
    heads: usize,
    /// Heads of keys and values, each of which serves `heads / kv_heads` neighbouring heads of queries.
    kv_heads: usize,
    queries: usize,
    keys: usize,
}

impl Extents {
    fn of(q: &Shape, k: &Shape) -> Self {
        let at = q.rank() - 3;
        Extents { lead: Shape::new(&q[..at]), heads: q[at], kv_heads: k[at], queries: q[at + 1], keys: k[at + 1] }
    }

    fn shape(&self, last: [usize; 3]) -> Shape {
        self.lead.iter().chain(&last).copied().collect()
    }

    /// `[.., heads, queries, keys]`.
    fn scores(&self) -> Shape {
        self.shape([self.heads, self.queries, self.keys])
    }

    /// The rows of all heads that share a head of keys and values, one behind the other: `[.., kv_heads, rows, n]`. One product
    /// serves them all.
    fn grouped<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        let group = self.heads / self.kv_heads;
        x.reshape(self.shape([self.kv_heads, group * self.queries, x.dim(-1)]))
    }

    /// `[.., kv_heads, keys, n]` once for each head of queries.
    fn for_each_head<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        let group = self.heads / self.kv_heads;
        if group == 1 {
            return x;
        }
        let apart = self.lead.iter().copied().chain([self.kv_heads, group, self.keys, x.dim(-1)]).collect::<Shape>();
        let axis = self.lead.rank() + 1;
        x.repeat_along(&apart, [axis]).reshape(self.shape([self.heads, self.keys, x.dim(-1)]))
    }

    /// The other way: the sums over the heads of queries that share one, of `[all heads, keys, n]`.
    fn of_kv_heads<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        let group = self.heads / self.kv_heads;
        let n = x.dim(-1);
        if group == 1 {
            return x.reshape(self.shape([self.heads, self.keys, n]));
        }
        let apart = self.lead.iter().copied().chain([self.kv_heads, group, self.keys, n]).collect::<Shape>();
        x.reshape(apart).sum_over([self.lead.rank() + 1])
    }

    fn ungrouped<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.reshape(self.shape([self.heads, self.queries, x.dim(-1)]))
    }
}

/// What forward and derivative have in common, of all queries or of some that follow each other; equal nodes are one node, so that
/// nothing is made twice.
#[derive(Clone)]
struct Parts<'g> {
    extents: Extents,
    /// Queries times the scale.
    q: Tensor<'g>,
    k: Tensor<'g>,
    v: Tensor<'g>,
    /// The keys that some query may see, of the shape of K and of V.
    live: Option<[Tensor<'g>; 2]>,
    /// Which keys which queries may see, of the shape of the scores.
    allowed: Option<Tensor<'g>>,
    bias: Option<Tensor<'g>>,
}

impl<'g> Parts<'g> {
    fn of(inputs: &[Tensor<'g>], attrs: &Attrs) -> Self {
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        let extents = Extents::of(&q.shape(), &k.shape());
        let optional = |float: bool| inputs[3..].iter().copied().find(|x| x.is_float() == float);
        let (mask, bias) = (optional(false), optional(true));
        let scores = extents.scores();
        let causal = attrs.bool("causal").then(|| {
            let square = [extents.queries, extents.keys];
            let place = |axis: usize| q.builder().iota(DType::I32, square, axis);
            place(1).le(place(0))
        });
        let allowed = match (mask, causal) {
            (Some(mask), Some(causal)) => Some(mask.broadcast_to(scores.clone()) & causal.broadcast_to(scores)),
            (one, other) => one.or(other).map(|seen| seen.broadcast_to(scores)),
        };
        let live = mask.map(|mask| {
            let seen = some_query(mask, causal, &extents);
            [k, v].map(|of| seen.broadcast_to(of.shape()))
        });
        let kept = |x: Tensor<'g>, i: usize| live.map_or(x, |live| live[i].select(x, x.constant_like(0.0)));
        Parts { q: q * attrs.float("scale"), k: kept(k, 0), v: kept(v, 1), extents, live, allowed, bias }
    }

    /// The ranges that queries are divided into: with a causal mask the later keys are nothing to the earlier ranges. With dropout there
    /// is one, for the mask of random numbers is one.
    fn ranges(&self, attrs: &Attrs) -> Vec<Range> {
        let Extents { queries, keys, .. } = self.extents;
        let n = match attrs.bool("causal") && attrs.float("p") == 0.0 {
            true => (2..=RANGES).rev().find(|&n| queries.is_multiple_of(n) && queries / n >= LEAST_RANGE).unwrap_or(1),
            false => 1,
        };
        ranges_of(n, queries, keys)
    }

    /// What concerns a range of queries.
    fn of_range(&self, range: Range) -> Self {
        if (range.from, range.to, range.keys) == (0, self.extents.queries, self.extents.keys) {
            return self.clone();
        }
        let keys = |x: Tensor<'g>| rows(x, 0, range.keys);
        let scores = |x: Tensor<'g>| {
            let some = rows(x, range.from, range.to);
            let mut end = some.shape().to_vec();
            *end.last_mut().expect("scores have axes") = range.keys;
            some.slice(&vec![0; end.len()], &end)
        };
        Parts {
            extents: Extents { queries: range.to - range.from, keys: range.keys, ..self.extents.clone() },
            q: rows(self.q, range.from, range.to),
            k: keys(self.k),
            v: keys(self.v),
            live: self.live.map(|live| live.map(keys)),
            allowed: self.allowed.map(scores),
            bias: self.bias.map(scores),
        }
    }

    fn value(&self, attrs: &Attrs) -> Tensor<'g> {
        let value = |range: Range| {
            let parts = self.of_range(range);
            let p = dropped(parts.probabilities(), attrs);
            parts.extents.ungrouped(parts.extents.grouped(p).matmul(parts.v))
        };
        joined(&self.ranges(attrs).into_iter().map(value).collect::<Vec<_>>())
    }

    /// Softmax of the scores over the keys that a query may see; zeros where it sees none.
    fn probabilities(&self) -> Tensor<'g> {
        let product = self.extents.grouped(self.q).matmul_with(self.k, false, true);
        let mut scores = self.extents.ungrouped(product);
        if let Some(bias) = self.bias {
            scores += bias;
        }
        if let Some(allowed) = self.allowed {
            scores = allowed.select(scores, scores.constant_like(f64::NEG_INFINITY));
        }
        let axis = scores.rank() - 1;
        let p = scores.softmax(axis);
        if self.live.is_none() && self.bias.is_none() {
            // Causal alone: every query sees at least one key.
            return p;
        }
        let most = scores.max_over([axis]).repeat_along(&scores.shape(), [axis]);
        most.eq(most.constant_like(f64::NEG_INFINITY)).select(p.constant_like(0.0), p)
    }
}

/// Which keys some query of their group may see: `[.., kv_heads or 1, keys or 1, 1]`, with as many axes as K.
fn some_query<'g>(mask: Tensor<'g>, causal: Option<Tensor<'g>>, extents: &Extents) -> Tensor<'g> {
    let rank = extents.lead.rank() + 3;
    let full: Shape = std::iter::repeat_n(1, rank - mask.rank()).chain(mask.shape().iter().copied()).collect();
    let mut seen = mask.reshape(full.clone());
    let [heads, queries, keys] = [full[rank - 3], full[rank - 2], full[rank - 1]];
    // With one row for all queries, query j, which sees key j, is as good as any.
    if let Some(causal) = causal.filter(|_| queries > 1) {
        let square: Shape = full[..rank - 1].iter().copied().chain([extents.keys]).collect();
        seen = seen.broadcast_to(square.clone()) & causal.broadcast_to(square);
    }
    let keys = if queries > 1 { seen.dim(-1) } else { keys };
    let group = if heads > 1 { heads / extents.kv_heads } else { 1 };
    let lead = &full[..rank - 3];
    let apart: Shape = lead.iter().copied().chain([heads / group, group, queries, keys]).collect();
    let seen = seen.reshape(apart);
    let seen = match group * queries {
        1 => seen,
        _ => {
            let most = seen.cast(DType::U8).max_over([rank - 2, rank - 1]);
            most.ne(most.constant_like(0.0))
        }
    };
    seen.reshape(lead.iter().copied().chain([heads / group, keys, 1]).collect::<Shape>())
}

/// With a causal mask queries are divided into so many ranges, each of which meets the keys up to its end; without strips into fewer
/// if they would have fewer queries than this.
const RANGES: usize = 8;
const LEAST_RANGE: usize = 64;

/// A range of queries and the keys that it meets.
#[derive(Clone, Copy)]
struct Range {
    from: usize,
    to: usize,
    keys: usize,
}

/// `n` equal ranges of queries: one that meets all keys, or several of which each meets the keys up to its end.
fn ranges_of(n: usize, queries: usize, keys: usize) -> Vec<Range> {
    let range = |i: usize| {
        let (from, to) = (i * queries / n, (i + 1) * queries / n);
        Range { from, to, keys: if n > 1 { to } else { keys } }
    };
    (0..n).map(range).collect()
}

/// Some of the rows of `[.., rows, n]`.
fn rows<'g>(x: Tensor<'g>, from: usize, to: usize) -> Tensor<'g> {
    let (mut start, mut end, axis) = (vec![0; x.rank()], x.shape().to_vec(), x.rank() - 2);
    if (from, to) == (0, end[axis]) {
        return x;
    }
    (start[axis], end[axis]) = (from, to);
    x.slice(&start, &end)
}

/// The rows `[.., rows, n]` of all ranges.
fn joined<'g>(parts: &[Tensor<'g>]) -> Tensor<'g> {
    if let [part] = parts { *part } else { parts[0].builder().concat(parts, parts[0].rank() - 2) }
}

/// With zeros behind, up to an extent.
fn padded<'g>(x: Tensor<'g>, axis: usize, extent: usize) -> Tensor<'g> {
    if x.dim(axis as isize) == extent {
        return x;
    }
    let mut behind = vec![0; x.rank()];
    behind[axis] = extent - x.dim(axis as isize);
    x.pad(&vec![0; x.rank()], &behind, 0.0)
}

/// The sum of `[.., rows, n]` of several ranges, of which the shorter ones lack the last rows.
fn sum_of_all<'g>(parts: &[Tensor<'g>], n_rows: usize) -> Tensor<'g> {
    let whole = parts.iter().map(|&part| padded(part, part.rank() - 2, n_rows));
    whole.reduce(|sum, part| sum + part).unwrap_or_else(|| parts[0])
}

fn dropped<'g>(x: Tensor<'g>, attrs: &Attrs) -> Tensor<'g> {
    let p = attrs.float("p");
    if p == 0.0 {
        return x;
    }
    x.unary_with(&DROPOUT, Attrs::none().with("p", p).with("stream", attrs.str("stream")))
}

fn infer(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let ((dtype, q), (k_dtype, k), (v_dtype, v)) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
    if !dtype.is_float() || dtype != k_dtype || dtype != v_dtype {
        let text = format_args!(
            "requires queries, keys and values all of f32 or all of f64, got {dtype}, {k_dtype} and {v_dtype}"
        );
        return Err(cx.dtype_fault(text).help("convert with `cast`"));
    }
    let rank = q.rank();
    let same = rank >= 3
        && k.rank() == rank
        && v.rank() == rank
        && q[..rank - 3] == k[..rank - 3]
        && k[..rank - 1] == v[..rank - 1]
        && q[rank - 1] == k[rank - 1];
    if !same {
        let text = format_args!(
            "requires queries [.., heads, queries, d], keys [.., heads, keys, d] and values [.., heads, keys, n], got {q}, \
             {k} and {v}"
        );
        return Err(cx.shape_fault(text).help("make the axis of heads with `reshape` and `transpose`"));
    }
    let extents = Extents::of(q, k);
    if extents.keys == 0 || q[rank - 1] == 0 {
        return Err(cx.shape_fault(format_args!("requires keys with elements, got {k}")));
    }
    if extents.kv_heads == 0 || !extents.heads.is_multiple_of(extents.kv_heads) {
        let text = format_args!(
            "requires a number of heads of queries that is a multiple of that of keys and values, got {} and {}",
            extents.heads, extents.kv_heads
        );
        return Err(cx.shape_fault(text));
    }
    if cx.attrs.bool("causal") && extents.queries != extents.keys {
        let text = format_args!(
            "that is causal requires as many queries as keys, got {} and {}",
            extents.queries, extents.keys
        );
        return Err(cx.shape_fault(text).help("say which keys which query may see with a mask"));
    }
    let (scale, p) = (cx.attrs.float("scale"), cx.attrs.float("p"));
    if !scale.is_finite() {
        return Err(cx.attr_fault(format_args!("requires a finite `scale`, got {scale}")));
    }
    if !(0.0..1.0).contains(&p) {
        return Err(cx.attr_fault(format_args!("requires a probability of dropout in [0, 1), got {p}")));
    }
    let strip = cx.attrs.int("strip");
    let whole = extents.queries / ranges(extents.queries, cx.attrs.bool("causal"));
    if strip < 0 || (strip > 0 && !whole.is_multiple_of(strip as usize)) {
        return Err(
            cx.attr_fault(format_args!("requires strips whose rows divide {whole}, or 0 for none, got {strip}"))
        );
    }
    if strip > 0 && (cx.inputs.len() > 3 || p > 0.0) {
        return Err(cx.attr_fault("in strips takes no mask, no bias and no dropout"));
    }
    let scores = extents.scores();
    let mut n_masks = 0;
    for operand in 3..cx.inputs.len() {
        let (other, shape) = cx.tensor(operand)?;
        if other == DType::Bool && operand == 3 {
            if scores.broadcast(shape).as_ref() != Some(&scores) {
                let text = format_args!("requires a mask that broadcasts to the scores {scores}, got {shape}");
                return Err(cx.shape_fault(text).help("a mask of keys alone is [batch, 1, 1, keys]"));
            }
            n_masks = 1;
        } else if other == dtype && operand == 3 + n_masks {
            if *shape != scores {
                return Err(cx.shape_fault(format_args!("requires a bias of the scores' shape {scores}, got {shape}")));
            }
        } else {
            let text = format_args!(
                "takes one mask of bool and then one bias of {dtype} behind the values, got {other} as operand {operand}"
            );
            return Err(cx.dtype_fault(text));
        }
    }
    Ok(Type::tensor(dtype, extents.shape([extents.heads, extents.queries, v[rank - 1]])))
}

fn vjp<'g>(cx: &crate::op::VjpCx<'g, '_>) -> Cotangents<'g> {
    if let Some(strips) = Strips::of(&cx.inputs, cx.attrs) {
        return strips.cotangents(cx.output, cx.dy).into_iter().map(Some).collect();
    }
    let whole = Parts::of(&cx.inputs, cx.attrs);
    // Σ p·dp over the keys is dy·y: it is known before the scores' gradients are.
    let mean = (cx.dy * cx.output).sum_keep([cx.dy.rank() - 1]);
    let (mut dq, mut of_scores) = (Vec::new(), Vec::new());
    let (mut dk, mut dv) = (Vec::new(), Vec::new());
    for range in whole.ranges(cx.attrs) {
        let parts = whole.of_range(range);
        let (extents, p) = (&parts.extents, parts.probabilities());
        let [dy, mean] = [cx.dy, mean].map(|x| rows(x, range.from, range.to));
        let dy = extents.grouped(dy);
        dv.push(extents.grouped(dropped(p, cx.attrs)).matmul_with(dy, true, false));
        let dp = dropped(extents.ungrouped(dy.matmul_with(parts.v, false, true)), cx.attrs);
        let mut ds = p * (dp - mean.broadcast_to(p.shape()));
        if let Some(allowed) = parts.allowed {
            ds = allowed.select(ds, ds.constant_like(0.0));
        }
        let grouped = extents.grouped(ds);
        dq.push(extents.ungrouped(grouped.matmul(parts.k)) * cx.attrs.float("scale"));
        dk.push(grouped.matmul_with(extents.grouped(parts.q), true, false));
        of_scores.push(ds);
    }
    let kept = |dx: Tensor<'g>, i: usize| whole.live.map_or(dx, |live| live[i].select(dx, dx.constant_like(0.0)));
    let keys = whole.extents.keys;
    let mut cotangents: Cotangents<'g> =
        smallvec![Some(joined(&dq)), Some(kept(sum_of_all(&dk, keys), 0)), Some(kept(sum_of_all(&dv, keys), 1))];
    let padded = |ds: &Tensor<'g>| padded(*ds, ds.rank() - 1, keys);
    let of_bias = |x: &Tensor<'g>| x.is_float().then(|| joined(&of_scores.iter().map(padded).collect::<Vec<_>>()));
    cotangents.extend(cx.inputs[3..].iter().map(of_bias));
    cotangents
}

fn samples(s: &mut Sampler) -> Vec<Sample> {
    let in_strips = |causal: bool, strip: usize| {
        let attrs = Attrs::none().with("causal", causal).with("scale", 0.5).with("strip", strip as i64);
        attrs.with("p", 0.0).with("stream", "sample")
    };
    let attrs = |causal: bool, p: f64| {
        let attrs = Attrs::none().with("causal", causal).with("scale", 0.5).with("strip", 0i64);
        attrs.with("p", p).with("stream", "sample")
    };
    let mut floats = |shape: [usize; 4]| s.float_in(-1.5..1.5, shape);
    let plain = vec![floats([2, 2, 3, 4]), floats([2, 2, 5, 4]), floats([2, 2, 5, 3])];
    let causal = vec![floats([1, 2, 4, 3]), floats([1, 2, 4, 3]), floats([1, 2, 4, 2])];
    let biased = vec![floats([2, 4, 3, 2]), floats([2, 2, 4, 2]), floats([2, 2, 4, 2]), floats([2, 4, 3, 4])];
    let strips = vec![floats([1, 2, 6, 3]), floats([1, 1, 5, 3]), floats([1, 1, 5, 2])];
    let causal_strips = vec![floats([1, 1, 16, 3]), floats([1, 1, 16, 3]), floats([1, 1, 16, 2])];
    let mut grouped = vec![floats([2, 4, 5, 3]), floats([2, 2, 5, 3]), floats([2, 2, 5, 4])];
    grouped.push(s.bools([2, 1, 1, 5]));
    let mut both =
        vec![s.float_in(-1.5..1.5, [2, 3, 2]), s.float_in(-1.5..1.5, [1, 4, 2]), s.float_in(-1.5..1.5, [1, 4, 3])];
    both.extend([s.bools([2, 3, 4]), s.float_in(-1.5..1.5, [2, 3, 4])]);
    vec![
        Sample::new(plain).attrs(attrs(false, 0.0)),
        Sample::new(causal).attrs(attrs(true, 0.0)),
        Sample::new(grouped).attrs(attrs(true, 0.0)),
        Sample::new(biased).attrs(attrs(false, 0.3)),
        Sample::new(both).attrs(attrs(false, 0.0)),
        Sample::new(strips).attrs(in_strips(false, 2)),
        Sample::new(causal_strips).attrs(in_strips(true, 2)),
    ]
}

/// Weighted rows of V.
pub static ATTENTION: OpDef = OpDef {
    name: "attention",
    doc: "`softmax((scale · Q)·Kᵀ + bias) · V` of queries `[.., heads, queries, d]`, keys `[.., kv_heads, keys, d]` and values \
          `[.., kv_heads, keys, n]` (Vaswani et al. 2017), in this order: each query times `scale`, products as of `matmul`, plus \
          the bias; softmax over the keys; a product again. Each head of keys and values serves `heads / kv_heads` neighbouring heads \
          of queries. A mask of truth values that broadcasts to the scores says which keys a query may see, `causal` that query `i` \
          sees keys `0..=i`; the scores of others are -∞, whatever they were. A query that sees no key has the result 0 and no \
          gradient. Keys and values of a key that the mask hides from all queries do not take part, NaN or not. Operands: `q`, `k`, \
          `v`, and then a mask of bool and a bias of the scores' shape, each or none. With `p > 0` probabilities are dropped as by \
          `dropout`.",
    arity: Arity::Between(3, 5),
    attrs: &[
        AttrSpec { name: "causal", kind: AttrKind::Bool, doc: "query `i` sees keys `0..=i` only" },
        AttrSpec { name: "scale", kind: AttrKind::Float, doc: "the factor of the scores" },
        AttrSpec {
            name: "strip",
            kind: AttrKind::Int,
            doc: "rows of scores that are made at a time, by loops whose derivative makes them again; 0: all of them, once",
        },
        AttrSpec { name: "p", kind: AttrKind::Float, doc: "the probability that a probability is zeroed, in [0, 1)" },
        AttrSpec { name: "stream", kind: AttrKind::Str, doc: "the dotted name of the dropout mask's random stream" },
    ],
    traits: OpTraits::NONE,
    infer,
    eval: eval::unbound,
    vjp: Vjp::Rule(vjp),
    lower: Lower::Expand(|cx| {
        if let Some(strips) = Strips::of(&cx.inputs, cx.attrs) {
            return smallvec![strips.value()];
        }
        smallvec![Parts::of(&cx.inputs, cx.attrs).value(cx.attrs)]
    }),
    samples,
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&ATTENTION];

/// How [`Tensor::attention`] attends: every query to every key with scale 1/√d, unless more is said.
#[derive(Clone, Debug, Default)]
pub struct Attention<'g> {
    causal: bool,
    scale: Option<f64>,
    mask: Option<Tensor<'g>>,
    bias: Option<Tensor<'g>>,
    dropout: Option<(String, f64)>,
}

impl<'g> Attention<'g> {
    /// Every query attends to every key.
    pub fn new() -> Self {
        Attention::default()
    }

    /// Query `i` sees keys `0..=i` only. There must be as many queries as keys.
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    /// Another factor of the scores than 1/√d.
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Truth values that broadcast to the scores `[.., heads, queries, keys]`: true where the query may see the key. A mask of
    /// padded keys is `[batch, 1, 1, keys]`; what it hides from all queries is never used.
    pub fn mask(mut self, mask: Tensor<'g>) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Numbers that broadcast to the scores and are added to them behind the scale: relative positions, or an additive mask. An
    /// element of -∞ makes the probability 0, but key and value still take part: a NaN in them shows.
    pub fn bias(mut self, bias: Tensor<'g>) -> Self {
        self.bias = Some(bias);
        self
    }

    /// Dropout of probabilities while the builder trains, see [`Tensor::dropout`]. The mask's stream is `name` in the current scope.
    pub fn dropout(mut self, name: &str, p: f64) -> Self {
        self.dropout = Some((name.to_owned(), p));
        self
    }
}

impl<'g> Tensor<'g> {
    /// Attention of these queries `[.., heads, queries, d]` to keys `[.., kv_heads, keys, d]` with values `[.., kv_heads, keys, n]`:
    /// `softmax(scale · Q·Kᵀ) · V`, of shape `[.., heads, queries, n]` (Vaswani et al. 2017). Each head of keys and values serves
    /// `heads / kv_heads` neighbouring heads of queries. A query that may see no key gets zeros, and gradients of zero. Keys that
    /// no query may see do not take part, NaN or not; a causal mask leaves later values out only where these are finite: they
    /// count 0 times.
    ///
    /// An error at the caller's line where shapes or element types do not fit, or a setting of `how` makes no sense.
    ///
    /// ```
    /// use cotangent_graph::{Attention, DType::F32, build};
    ///
    /// let graph = build(|g| {
    ///     let [q, k, v] = ["q", "k", "v"].map(|name| g.input(name, F32, [2, 4, 16, 8]));
    ///     g.output("y", q.attention(k, v, Attention::new().causal()));
    /// })?;
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    #[track_caller]
    pub fn attention(self, k: Tensor<'_>, v: Tensor<'_>, how: Attention<'_>) -> Tensor<'g> {
        let g = self.builder();
        let (name, p) = match &how.dropout {
            Some((_, p)) if p.is_nan() => {
                let text = "`attention` requires a probability of dropout in [0, 1), got NaN";
                return self.refuse(Diag::new(Code::BadAttribute, text));
            }
            Some((name, p)) if g.is_training() || !(0.0..1.0).contains(p) => (&name[..], *p),
            _ => ("", 0.0),
        };
        let stream = if p == 0.0 { String::new() } else { g.stream_name(name) };
        let scale =
            how.scale.unwrap_or_else(|| (self.shape().last().copied().unwrap_or(1).max(1) as f64).sqrt().recip());
        let mut operands: SmallVec<[Tensor<'_>; 5]> = smallvec![self, k, v];
        operands.extend(how.mask);
        if let Some(bias) = how.bias {
            let known = [self, k, bias].iter().all(|x| g.owns(*x)) && self.rank() >= 3 && k.rank() == self.rank();
            let scores = known.then(|| Extents::of(&self.shape(), &k.shape()).scores());
            let fits = scores.filter(|scores| scores.broadcast(&bias.shape()).as_ref() == Some(scores));
            // Not in a closure: what is made here is made at the caller's line.
            operands.push(if let Some(scores) = fits { bias.broadcast_to(scores) } else { bias });
        }
        let known = operands.len() == 3 && p == 0.0 && self.rank() >= 3 && k.rank() == self.rank();
        let strip = if known { strip_of(&Extents::of(&self.shape(), &k.shape()), how.causal) } else { 0 };
        let attrs =
            Attrs::none().with("causal", how.causal).with("scale", scale).with("strip", strip as i64).with("p", p);
        g.op(&ATTENTION, &operands, attrs.with("stream", &stream[..]), None)
    }
}
