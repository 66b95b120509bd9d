//! Running sums, products and linear recurrences along an axis: each element is made of the one before.
//!
//! They are computed in order along the axis, so the bits depend on nothing else. Their derivatives are such recurrences in the
//! other direction: that of a running product divides by no factor, which may be 0.

use std::ops::Range;

use cotangent_scalar::ReduceOp;
use smallvec::smallvec;

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::axes::Axis;
use crate::builder::Tensor;
use crate::op::{Arity, EvalCx, Fault, InferCx, Lower, OpDef, OpTraits, Vjp};
use crate::ops::reduce::checked_axis;
use crate::ops::{infer_float, infer_number};
use crate::samples::{Sample, Sampler};
use crate::step::{Arithmetic, Elements, ElementsMut, StepCx, StepOp, with_numbers};
use crate::tensor::TensorData;
use crate::types::{Shape, Type};

const AXIS: AttrSpec =
    AttrSpec { name: "axis", kind: AttrKind::Int, doc: "the axis along which elements follow each other" };
const REVERSE: AttrSpec =
    AttrSpec { name: "reverse", kind: AttrKind::Bool, doc: "whether the last element is the first" };
const EXCLUSIVE: AttrSpec =
    AttrSpec { name: "exclusive", kind: AttrKind::Bool, doc: "whether an element is made of those before it alone" };

/// The elements along an axis: `outer` times `n` times `inner`, in an order.
#[derive(Clone, Copy)]
struct Lines {
    n: usize,
    inner: usize,
    reverse: bool,
    exclusive: bool,
}

impl Lines {
    fn of(attrs: &Attrs, shape: &Shape) -> Self {
        let axis = attrs.size("axis");
        let inner = shape[axis + 1..].iter().product();
        Lines { n: shape[axis], inner, reverse: attrs.bool("reverse"), exclusive: attrs.bool("exclusive") }
    }

    /// Elements of a block: all along the axis and inside of it.
    fn block(self) -> usize {
        self.n * self.inner
    }

    /// Where along the axis the element of this number is.
    fn place(self, p: usize) -> usize {
        if self.reverse { self.n - 1 - p } else { p }
    }

    /// Which operand's element makes the element of this number of the one before.
    fn source(self, p: usize) -> usize {
        self.place(if self.exclusive { p - 1 } else { p })
    }
}

/// How an element follows from the one before, and the first from nothing, given the operands' elements.
trait Rule<const K: usize>: Copy {
    fn first<T: Arithmetic>(self, x: [T; K]) -> T;
    fn next<T: Arithmetic>(self, before: T, x: [T; K]) -> T;
    /// What stands before the first element.
    fn nothing<T: Arithmetic>(self) -> T;
}

/// How many rows are computed side by side: each is a chain whose links take a few cycles.
const ROWS: usize = 8;

/// Fills whole blocks of a result by a rule.
fn fill<T: Arithmetic, const K: usize>(lines: Lines, rule: impl Rule<K>, xs: [&[T]; K], out: &mut [T]) {
    let block = lines.block();
    if block == 0 {
        return;
    }
    if lines.inner > 1 {
        for (b, out) in out.chunks_exact_mut(block).enumerate() {
            side_by_side(lines, rule, xs.map(|x| &x[b * block..][..block]), out);
        }
        return;
    }
    let mut at = 0;
    let mut groups = out.chunks_exact_mut(ROWS * block);
    for group in &mut groups {
        rows::<T, K, ROWS>(lines, rule, xs.map(|x| &x[at..]), group);
        at += ROWS * block;
    }
    for row in groups.into_remainder().chunks_exact_mut(block) {
        rows::<T, K, 1>(lines, rule, xs.map(|x| &x[at..]), row);
        at += block;
    }
}

/// A block whose inner elements are neighbours: a vector follows from the vector before.
fn side_by_side<T: Arithmetic, const K: usize>(lines: Lines, rule: impl Rule<K>, xs: [&[T]; K], out: &mut [T]) {
    let inner = lines.inner;
    let operands = |place: usize| xs.map(|x| &x[place * inner..][..inner]);
    let first = &mut out[lines.place(0) * inner..][..inner];
    if lines.exclusive {
        first.fill(rule.nothing());
    } else {
        let xs = operands(lines.place(0));
        first.iter_mut().enumerate().for_each(|(j, y)| *y = rule.first(xs.map(|x| x[j])));
    }
    for p in 1..lines.n {
        let (xs, middle) = (operands(lines.source(p)), lines.place(p).max(lines.place(p - 1)) * inner);
        let (low, high) = out.split_at_mut(middle);
        let (low, high) = (&mut low[middle - inner..], &mut high[..inner]);
        let (before, y) = if lines.reverse { (&*high, low) } else { (&*low, high) };
        for j in 0..inner {
            y[j] = rule.next(before[j], xs.map(|x| x[j]));
        }
    }
}

/// Rows whose elements are neighbours.
fn rows<T: Arithmetic, const K: usize, const R: usize>(lines: Lines, rule: impl Rule<K>, xs: [&[T]; K], out: &mut [T]) {
    let n = lines.n;
    let mut rows = out.chunks_exact_mut(n);
    let mut rows: [Row<'_, T, K>; R] = std::array::from_fn(|r| Row {
        xs: xs.map(|x| &x[r * n..][..n]),
        out: rows.next().unwrap_or_default(),
        last: rule.nothing(),
    });
    rows.iter_mut().for_each(|row| row.put(lines.place(0), lines.exclusive, |_, x| rule.first(x)));
    let mut go_on =
        |place: usize| rows.iter_mut().for_each(|row| row.put(place, lines.exclusive, |y, x| rule.next(y, x)));
    match lines.reverse {
        false => (1..n).for_each(&mut go_on),
        true => (0..n - 1).rev().for_each(&mut go_on),
    }
}

/// A row under way.
struct Row<'a, T, const K: usize> {
    xs: [&'a [T]; K],
    out: &'a mut [T],
    last: T,
}

impl<T: Arithmetic, const K: usize> Row<'_, T, K> {
    fn put(&mut self, place: usize, exclusive: bool, next: impl Fn(T, [T; K]) -> T) {
        let y = next(self.last, self.xs.map(|x| x[place]));
        self.out[place] = if exclusive { self.last } else { y };
        self.last = y;
    }
}

/// A running sum or product.
#[derive(Clone, Copy)]
struct Running(ReduceOp);

impl Running {
    fn combine<T: Arithmetic>(self, a: T, b: T) -> T {
        if self.0 == ReduceOp::Sum { a.plus(b) } else { a.times(b) }
    }
}

impl Rule<1> for Running {
    fn first<T: Arithmetic>(self, x: [T; 1]) -> T {
        self.combine(self.nothing(), x[0])
    }

    fn next<T: Arithmetic>(self, before: T, x: [T; 1]) -> T {
        self.combine(before, x[0])
    }

    fn nothing<T: Arithmetic>(self) -> T {
        if self.0 == ReduceOp::Sum { T::ZERO } else { T::ONE }
    }
}

impl StepOp for Running {
    fn doc(&self) -> &'static str {
        "goes along the axis, element by element, for many lines at a time"
    }

    fn text(&self, cx: &StepCx<'_>) -> String {
        format!("running {} along axis {} of {}", self.0.name(), cx.attrs.size("axis"), cx.ty)
    }

    fn n_pieces(&self, cx: &StepCx<'_>) -> usize {
        outer(cx)
    }

    fn run(&self, cx: &StepCx<'_>, operands: &[Elements<'_>], pieces: Range<usize>, out: ElementsMut<'_>) {
        let (lines, rule) = (Lines::of(cx.attrs, cx.ty.shape()), *self);
        let at = pieces.start * lines.block()..pieces.end * lines.block();
        with_numbers!(out, out: T => fill(lines, rule, [&operands[0].of::<T>()[at]], out));
    }
}

/// The extents before the axis.
fn outer(cx: &StepCx<'_>) -> usize {
    cx.ty.shape()[..cx.attrs.size("axis")].iter().product()
}

/// `y = a · y before + x`.
#[derive(Clone, Copy)]
struct Linear;

impl Rule<2> for Linear {
    fn first<T: Arithmetic>(self, [_, x]: [T; 2]) -> T {
        x
    }

    fn next<T: Arithmetic>(self, before: T, [a, x]: [T; 2]) -> T {
        a.times(before).plus(x)
    }

    fn nothing<T: Arithmetic>(self) -> T {
        T::ZERO
    }
}

impl StepOp for Linear {
    fn doc(&self) -> &'static str {
        "goes along the axis, element by element, for many lines at a time"
    }

    fn text(&self, cx: &StepCx<'_>) -> String {
        format!("linear recurrence along axis {} of {}", cx.attrs.size("axis"), cx.ty)
    }

    fn n_pieces(&self, cx: &StepCx<'_>) -> usize {
        outer(cx)
    }

    fn run(&self, cx: &StepCx<'_>, operands: &[Elements<'_>], pieces: Range<usize>, out: ElementsMut<'_>) {
        let lines = Lines { exclusive: false, ..Lines::of(cx.attrs, cx.ty.shape()) };
        let at = pieces.start * lines.block()..pieces.end * lines.block();
        with_numbers!(out, out: T => {
            fill(lines, Linear, [&operands[0].of::<T>()[at.clone()], &operands[1].of::<T>()[at]], out);
        });
    }
}

/// The reference: element by element, on bits. `next` makes an element of the one before, if there is one, and of the place of
/// the operands' element, if there is one.
fn along(
    cx: &EvalCx<'_>,
    exclusive: bool,
    mut next: impl FnMut(Option<u64>, Option<usize>) -> u64,
) -> Result<TensorData, Fault> {
    let (shape, axis) = (cx.ty.shape(), cx.attrs.size("axis"));
    let (strides, n) = (shape.strides(), shape[axis]);
    let mut out = vec![0u64; shape.n_elements()];
    let stride = strides[axis] as usize;
    let starts = (0..out.len()).filter(|i| (i / stride).is_multiple_of(n)).collect::<Vec<usize>>();
    for start in starts {
        let mut before: Option<(u64, usize)> = None;
        for k in 0..n {
            let at = start + stride * if cx.attrs.bool("reverse") { n - 1 - k } else { k };
            let source = if exclusive { before.map(|b| b.1) } else { Some(at) };
            out[at] = next(before.map(|b| b.0), source);
            before = Some((out[at], at));
        }
    }
    Ok(TensorData::from_bits(cx.ty.dtype(), shape, &out))
}

fn running(cx: &EvalCx<'_>, x: &TensorData, op: ReduceOp) -> Result<TensorData, Fault> {
    let (dtype, bits) = (cx.ty.dtype(), x.bits());
    along(cx, cx.attrs.bool("exclusive"), |before, at| {
        let before = before.unwrap_or_else(|| op.identity(dtype));
        at.map_or(before, |at| op.combine(dtype, before, bits[at]))
    })
}

fn infer(cx: &InferCx<'_>) -> Result<Type, Fault> {
    checked_axis(cx, cx.tensor(0)?.1)?;
    infer_number(cx)
}

/// All elements but the first along the axis, in this order.
fn but_first<'g>(x: Tensor<'g>, axis: usize, reverse: bool) -> Tensor<'g> {
    let (mut low, mut high) = (vec![0; x.rank()], x.shape().to_vec());
    if reverse {
        high[axis] -= 1
    } else {
        low[axis] = 1
    }
    x.slice(&low, &high)
}

/// One element more, the last along the axis in this order.
fn and_last<'g>(x: Tensor<'g>, axis: usize, reverse: bool) -> Tensor<'g> {
    let (mut before, mut behind) = (vec![0; x.rank()], vec![0; x.rank()]);
    if reverse {
        before[axis] = 1
    } else {
        behind[axis] = 1
    }
    x.pad(&before, &behind, 0.0)
}

/// `x` where each element is the one that comes after it along the axis, in this order; the last is 0.
fn after<'g>(x: Tensor<'g>, axis: usize, reverse: bool) -> Tensor<'g> {
    if x.shape()[axis] == 0 { x } else { and_last(but_first(x, axis, reverse), axis, reverse) }
}

/// The cotangent of a running product's factors:
/// Σ_{j ≥ i} dy[j] Π_{k ≤ j, k ≠ i} x[k] = Π_{k < i} x[k] · r[i], where r[i] = dy[i] + x[i+1] · r[i+1].
fn product_vjp<'g>(x: Tensor<'g>, dy: Tensor<'g>, axis: usize, reverse: bool) -> Tensor<'g> {
    let rest = dy.linear_recurrence_with(after(x, axis, reverse), axis, !reverse);
    x.cumprod_with(axis, reverse, true) * rest
}

fn samples(s: &mut Sampler) -> Vec<Sample> {
    let attrs = |axis: i64, reverse: bool, exclusive: bool| {
        Attrs::none().with("axis", axis).with("reverse", reverse).with("exclusive", exclusive)
    };
    vec![
        Sample::new(vec![s.float_in(-2.0..2.0, [10, 5])]).attrs(attrs(1, false, false)),
        Sample::new(vec![s.float_in(-2.0..2.0, [4, 3])]).attrs(attrs(0, true, false)),
        Sample::new(vec![s.float_in(-2.0..2.0, [2, 4, 2])]).attrs(attrs(1, false, true)),
        Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])]).attrs(attrs(1, true, true)),
    ]
}

/// Running sum.
pub static CUMSUM: OpDef = OpDef {
    name: "cumsum",
    doc: "Running sum along `axis`, in order from 0: `y[i] = y[i-1] + x[i]`. Exclusive: of the elements before, so that the first \
          is 0. Reverse: from the last element on.",
    arity: Arity::Exact(1),
    attrs: &[AXIS, REVERSE, EXCLUSIVE],
    traits: OpTraits::NONE,
    infer,
    eval: |cx, inputs| running(cx, inputs[0], ReduceOp::Sum),
    vjp: Vjp::Rule(|cx| {
        let (axis, reverse, exclusive) = order(cx.attrs);
        smallvec![Some(cx.dy.cumsum_with(axis, !reverse, exclusive))]
    }),
    lower: Lower::Step(&Running(ReduceOp::Sum)),
    samples,
};

/// Running product.
pub static CUMPROD: OpDef = OpDef {
    name: "cumprod",
    doc: "Running product along `axis`, in order from 1: `y[i] = y[i-1] · x[i]`. Exclusive: of the elements before, so that the \
          first is 1. Reverse: from the last element on. The gradient by a factor is made of the others, also where factors are 0.",
    arity: Arity::Exact(1),
    attrs: &[AXIS, REVERSE, EXCLUSIVE],
    traits: OpTraits::NONE,
    infer,
    eval: |cx, inputs| running(cx, inputs[0], ReduceOp::Prod),
    vjp: Vjp::Rule(|cx| {
        let (x, (axis, reverse, exclusive)) = (cx.x(), order(cx.attrs));
        if !exclusive || x.shape()[axis] == 0 {
            return smallvec![Some(product_vjp(x, cx.dy, axis, reverse))];
        }
        // The last element is not used, whatever it is, and the first result is 1.
        let (used, dy) = (but_first(x, axis, !reverse), but_first(cx.dy, axis, reverse));
        smallvec![Some(and_last(product_vjp(used, dy, axis, reverse), axis, reverse))]
    }),
    lower: Lower::Step(&Running(ReduceOp::Prod)),
    samples,
};

fn order(attrs: &Attrs) -> (usize, bool, bool) {
    (attrs.size("axis"), attrs.bool("reverse"), attrs.bool("exclusive"))
}

/// Linear recurrence.
pub static LINEAR_RECURRENCE: OpDef = OpDef {
    name: "linear_recurrence",
    doc: "For `(a, x)`, `y[i] = a[i] · y[i-1] + x[i]` along `axis`, in order, each element rounded twice; the first is that of `x`, \
          and that of `a` is not used. Reverse: from the last element on. Discounted sums and moving averages are such.",
    arity: Arity::Exact(2),
    attrs: &[AXIS, REVERSE],
    traits: OpTraits::NONE,
    infer: |cx| {
        checked_axis(cx, cx.tensor(0)?.1)?;
        infer_float(cx)
    },
    eval: |cx, inputs| {
        let (dtype, [a, x]) = (cx.ty.dtype(), [inputs[0].bits(), inputs[1].bits()]);
        along(cx, false, |before, at| {
            let at = at.unwrap_or_default();
            let link = |before| ReduceOp::Prod.combine(dtype, a[at], before);
            before.map_or(x[at], |before| ReduceOp::Sum.combine(dtype, link(before), x[at]))
        })
    },
    vjp: Vjp::Rule(|cx| {
        let (axis, reverse) = (cx.attrs.size("axis"), cx.attrs.bool("reverse"));
        let dx = cx.dy.linear_recurrence_with(after(cx.inputs[0], axis, reverse), axis, !reverse);
        let before = after(cx.output, axis, !reverse);
        smallvec![Some(dx * before), Some(dx)]
    }),
    lower: Lower::Step(&Linear),
    samples: |s| {
        let attrs = |axis: i64, reverse: bool| Attrs::none().with("axis", axis).with("reverse", reverse);
        let mut pair = |shape: [usize; 2]| vec![s.float_in(-1.0..1.0, shape), s.float_in(-2.0..2.0, shape)];
        vec![Sample::new(pair([9, 4])).attrs(attrs(1, false)), Sample::new(pair([4, 3])).attrs(attrs(0, true))]
    },
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&CUMSUM, &CUMPROD, &LINEAR_RECURRENCE];

impl<'g> Tensor<'g> {
    /// Running sum along an axis.
    ///
    /// ```
    /// use cotangent_graph::{DType::F32, build};
    ///
    /// let graph = build(|g| {
    ///     let rewards = g.input("rewards", F32, [8, 100]);
    ///     g.output("so_far", rewards.cumsum(-1));
    ///     // What is still to come, the present one left out.
    ///     g.output("to_come", rewards.cumsum_with(-1, true, true));
    /// })?;
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    #[track_caller]
    pub fn cumsum(self, axis: impl Into<Axis>) -> Tensor<'g> {
        self.cumsum_with(axis, false, false)
    }

    /// Running sum along an axis: from the last element on if `reverse`, of the elements before alone if `exclusive`.
    #[track_caller]
    pub fn cumsum_with(self, axis: impl Into<Axis>, reverse: bool, exclusive: bool) -> Tensor<'g> {
        self.cumulative(&CUMSUM, axis, reverse, exclusive)
    }

    /// Running product along an axis.
    #[track_caller]
    pub fn cumprod(self, axis: impl Into<Axis>) -> Tensor<'g> {
        self.cumprod_with(axis, false, false)
    }

    /// Running product along an axis: from the last element on if `reverse`, of the elements before alone if `exclusive`.
    #[track_caller]
    pub fn cumprod_with(self, axis: impl Into<Axis>, reverse: bool, exclusive: bool) -> Tensor<'g> {
        self.cumulative(&CUMPROD, axis, reverse, exclusive)
    }

    #[track_caller]
    fn cumulative(self, op: &'static OpDef, axis: impl Into<Axis>, reverse: bool, exclusive: bool) -> Tensor<'g> {
        let attrs = Attrs::none().with("axis", axis.into().number(self.rank()));
        self.unary_with(op, attrs.with("reverse", reverse).with("exclusive", exclusive))
    }

    /// `y[i] = a[i] · y[i-1] + x[i]` along an axis of this `x`, from `y[0] = x[0]` on; `a` is broadcast to its shape.
    ///
    /// ```
    /// use cotangent_graph::{DType::F32, build};
    ///
    /// let graph = build(|g| {
    ///     let rewards = g.input("rewards", F32, [8, 100]);
    ///     // Discounted returns.
    ///     g.output("returns", rewards.linear_recurrence_with(rewards.constant_like(0.99), -1, true));
    /// })?;
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    #[track_caller]
    pub fn linear_recurrence(self, a: Tensor<'_>, axis: impl Into<Axis>) -> Tensor<'g> {
        self.linear_recurrence_with(a, axis, false)
    }

    /// As [`Tensor::linear_recurrence`], from the last element on if `reverse`.
    #[track_caller]
    pub fn linear_recurrence_with(self, a: Tensor<'_>, axis: impl Into<Axis>, reverse: bool) -> Tensor<'g> {
        let attrs = Attrs::none().with("axis", axis.into().number(self.rank())).with("reverse", reverse);
        let shape = self.shape();
        let a = if a.is_poisoned() || a.shape() == shape { a } else { a.broadcast_to(shape) };
        self.builder().op(&LINEAR_RECURRENCE, &[a, self], attrs, None)
    }
}
