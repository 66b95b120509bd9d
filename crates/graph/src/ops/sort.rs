//! Orders: the places of elements by size, and of the largest.
//!
//! One total order serves all: by value, -0 as 0, NaN behind everything in both directions, equal elements by their place. So
//! sorting is stable and no result depends on how it is done. Values in order are taken along the axis by their places, and have
//! their derivative from there.

use std::ops::Range;

use cotangent_scalar::DType;
use smallvec::SmallVec;

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::axes::{self, Axis};
use crate::builder::Tensor;
use crate::diag::Code;
use crate::op::{Arity, EvalCx, Fault, InferCx, Lower, OpDef, OpTraits, Vjp};
use crate::samples::Sample;
use crate::step::{Elements, ElementsMut, StepCx, StepOp, with_slice};
use crate::tensor::{Element, TensorData};
use crate::types::{Shape, Type};

/// An element type with the order of this file.
trait Ordered: Element {
    /// Whether two elements of it and their places fit into eight bytes.
    const IS_SHORT: bool = size_of::<Self>() <= 4;

    /// A number that grows with the element, below all ones; of short elements one of four bytes. `None` for NaN.
    fn rank(self) -> Option<u64>;

    /// The number that elements are sorted by.
    fn key(self, descending: bool) -> u64 {
        let most = if Self::IS_SHORT { u64::from(u32::MAX) } else { u64::MAX };
        // An integer may be all ones or zeros: then it shares its number with NaN, which its type does not have.
        self.rank().map_or(most, |rank| if descending { most - rank } else { rank })
    }
}

macro_rules! ordered {
    ($($t:ty, |$v:ident| $rank:expr;)*) => {
        $(impl Ordered for $t {
            fn rank(self) -> Option<u64> { let $v = self; $rank }
        })*
    };
}
ordered! {
    // Negative floats are turned over, positive ones moved above them; adding 0 makes 0 of -0.
    f32, |v| (!v.is_nan()).then(|| {
        let bits = (v + 0.0).to_bits();
        u64::from(bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 })
    });
    f64, |v| (!v.is_nan()).then(|| {
        let bits = (v + 0.0).to_bits();
        bits ^ if bits >> 63 == 1 { u64::MAX } else { 1 << 63 }
    });
    i32, |v| Some(u64::from(v as u32 ^ 1 << 31));
    i64, |v| Some(v as u64 ^ 1 << 63);
    u8, |v| Some(u64::from(v));
    bool, |v| Some(u64::from(v));
}

/// The step of [`ARGSORT`].
struct Argsort;

impl StepOp for Argsort {
    fn doc(&self) -> &'static str {
        "sorts the places of each row by their elements"
    }

    fn text(&self, cx: &StepCx<'_>) -> String {
        format!("argsort rows of {}", last(cx.ty.shape()))
    }

    fn range(&self, cx: &StepCx<'_>) -> Option<(i64, i64)> {
        Some((0, last(cx.ty.shape()) as i64 - 1))
    }

    fn n_ops(&self, cx: &StepCx<'_>) -> f64 {
        cx.ty.shape().n_elements() as f64 * (last(cx.ty.shape()).max(2) as f64).log2()
    }

    fn n_pieces(&self, cx: &StepCx<'_>) -> usize {
        rows(cx.ty.shape())
    }

    fn run(&self, cx: &StepCx<'_>, operands: &[Elements<'_>], pieces: Range<usize>, out: ElementsMut<'_>) {
        let (ElementsMut::I64(out), n, descending) = (out, last(cx.ty.shape()), cx.attrs.bool("descending")) else {
            return;
        };
        if n == 0 {
            return;
        }
        with_slice!(operands[0], x => {
            for (places, x) in out.chunks_exact_mut(n).zip(x[pieces.start * n..].chunks_exact(n)) {
                sort(x, descending, places);
            }
        });
    }
}

/// The places of a row's elements in order.
fn sort<T: Ordered>(x: &[T], descending: bool, places: &mut [i64]) {
    let numbered = || x.iter().zip(0i64..);
    if T::IS_SHORT && u32::try_from(x.len()).is_ok() {
        // Key and place are one number.
        let one = |(&x, k): (&T, i64)| (x.key(descending) << 32) as i64 | k;
        places.iter_mut().zip(numbered()).for_each(|(place, numbered)| *place = one(numbered));
        places.sort_unstable_by_key(|&both| both as u64);
        places.iter_mut().for_each(|place| *place &= i64::from(u32::MAX));
        return;
    }
    places.iter_mut().zip(0..).for_each(|(place, k)| *place = k);
    places.sort_unstable_by_key(|&k| (x[k as usize].key(descending), k));
}

/// The step of [`ARG_TOP_K`].
struct ArgTopK;

impl StepOp for ArgTopK {
    fn doc(&self) -> &'static str {
        "goes through each row once and keeps the places of the largest elements so far"
    }

    fn text(&self, cx: &StepCx<'_>) -> String {
        format!("largest {} of rows of {}", last(cx.ty.shape()), last(cx.shape(0)))
    }

    fn range(&self, cx: &StepCx<'_>) -> Option<(i64, i64)> {
        Some((0, last(cx.shape(0)) as i64 - 1))
    }

    fn n_ops(&self, cx: &StepCx<'_>) -> f64 {
        cx.shape(0).n_elements() as f64
    }

    fn n_pieces(&self, cx: &StepCx<'_>) -> usize {
        rows(cx.ty.shape())
    }

    fn run(&self, cx: &StepCx<'_>, operands: &[Elements<'_>], pieces: Range<usize>, out: ElementsMut<'_>) {
        let (ElementsMut::I64(out), n, k) = (out, last(cx.shape(0)), last(cx.ty.shape())) else { return };
        if k == 0 {
            return;
        }
        with_slice!(operands[0], x => {
            for (places, x) in out.chunks_exact_mut(k).zip(x[pieces.start * n..].chunks_exact(n)) {
                largest(x, places);
            }
        });
    }
}

/// The places of a row's largest elements, the largest first.
fn largest<T: Ordered>(x: &[T], places: &mut [i64]) {
    let key = |place: i64| (x[place as usize].key(true), place);
    places.iter_mut().zip(0..).for_each(|(place, k)| *place = k);
    // A heap with the last of them, the one to go next, on top.
    (0..places.len() / 2).rev().for_each(|at| sink(places, at, key));
    let mut worst = key(places[0]).0;
    for (&value, place) in x.iter().zip(0..).skip(places.len()) {
        // Of equal elements the earlier one stays.
        if value.key(true) < worst {
            places[0] = place;
            sink(places, 0, key);
            worst = key(places[0]).0;
        }
    }
    places.sort_unstable_by_key(|&place| key(place));
}

/// Moves an entry of a heap down to where none below it has a larger key.
fn sink(heap: &mut [i64], mut at: usize, key: impl Fn(i64) -> (u64, i64)) {
    loop {
        let below = [2 * at + 1, 2 * at + 2].into_iter().filter(|&b| b < heap.len());
        match below.max_by_key(|&b| key(heap[b])).filter(|&b| key(heap[b]) > key(heap[at])) {
            Some(next) => {
                heap.swap(at, next);
                at = next;
            }
            None => return,
        }
    }
}

fn last(shape: &Shape) -> usize {
    shape.last().copied().unwrap_or(1)
}

fn rows(shape: &Shape) -> usize {
    shape[..shape.rank() - 1].iter().product()
}

/// The reference: for each row, places in the order of a stable sort that compares as the conventions say.
fn in_order(cx: &EvalCx<'_>, x: &TensorData, descending: bool, k: usize) -> TensorData {
    use std::cmp::Ordering;
    fn compare<T: PartialOrd + Copy>(a: T, b: T, descending: bool) -> Ordering {
        let is_nan = |v: T| v.partial_cmp(&v).is_none();
        let order = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
        is_nan(a).cmp(&is_nan(b)).then(if descending { order.reverse() } else { order })
    }
    let n = last(&x.shape());
    let mut places: Vec<u64> = Vec::new();
    crate::with_array!(x, x => {
        let flat: Vec<_> = x.iter().copied().collect();
        for row in flat.chunks(n.max(1)) {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| compare(row[a], row[b], descending));
            places.extend(order.into_iter().take(k).map(|place| place as u64));
        }
    });
    TensorData::from_bits(DType::I64, cx.ty.shape(), &places)
}

fn require_rows<'a>(cx: &InferCx<'a>) -> Result<(DType, &'a Shape), Fault> {
    let (dtype, shape) = cx.tensor(0)?;
    if shape.rank() == 0 {
        return Err(cx.shape_fault("requires a tensor of rank 1 or more, got a scalar"));
    }
    Ok((dtype, shape))
}

/// Places in order.
pub static ARGSORT: OpDef = OpDef {
    name: "argsort",
    doc: "The places (i64) of the elements along the last axis in ascending or descending order: stable, -0 as 0, NaN last in \
          both.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "descending", kind: AttrKind::Bool, doc: "whether the largest comes first" }],
    traits: OpTraits::NONE,
    infer: |cx| Ok(Type::tensor(DType::I64, require_rows(cx)?.1)),
    eval: |cx, inputs| Ok(in_order(cx, inputs[0], cx.attrs.bool("descending"), usize::MAX)),
    vjp: Vjp::Zero("an index has no derivative"),
    lower: Lower::Step(&Argsort),
    samples: |s| {
        let descending = |descending: bool| Attrs::none().with("descending", descending);
        vec![
            Sample::new(vec![s.distinct([3, 5])]).attrs(descending(false)),
            Sample::new(vec![s.distinct([7])]).attrs(descending(true)),
        ]
    },
};

/// Places of the largest.
pub static ARG_TOP_K: OpDef = OpDef {
    name: "arg_top_k",
    doc: "The places (i64) of the `k` largest elements along the last axis, the largest first: the first `k` of `argsort` in \
          descending order, so NaN counts as the least.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "k", kind: AttrKind::Int, doc: "how many" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (_, shape) = require_rows(cx)?;
        let (n, k) = (last(shape), cx.attrs.size("k"));
        if k > n {
            return Err(cx.attr_fault(format_args!("requires k in 0..={n}, got {}", cx.attrs.int("k"))));
        }
        let rows = &shape[..shape.rank() - 1];
        Ok(Type::tensor(DType::I64, rows.iter().copied().chain([k]).collect::<Shape>()))
    },
    eval: |cx, inputs| Ok(in_order(cx, inputs[0], true, cx.attrs.size("k"))),
    vjp: Vjp::Zero("an index has no derivative"),
    lower: Lower::Step(&ArgTopK),
    samples: |s| {
        let k = |k: i64| Attrs::none().with("k", k);
        vec![Sample::new(vec![s.distinct([3, 6])]).attrs(k(2)), Sample::new(vec![s.distinct([5])]).attrs(k(5))]
    },
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&ARGSORT, &ARG_TOP_K];

impl<'g> Tensor<'g> {
    /// The places (i64) of the elements along an axis in ascending order: stable, NaN last.
    #[track_caller]
    pub fn argsort(self, axis: impl Into<Axis>) -> Tensor<'g> {
        self.argsort_with(axis, false)
    }

    /// The places (i64) of the elements along an axis in ascending order, or in `descending` order: stable, NaN last in both.
    #[track_caller]
    pub fn argsort_with(self, axis: impl Into<Axis>, descending: bool) -> Tensor<'g> {
        let attrs = Attrs::none().with("descending", descending);
        self.last_axis(axis, |x| x.unary_with(&ARGSORT, attrs))
    }

    /// The elements along an axis in ascending order, NaN last. The derivative goes to where each element came from.
    ///
    /// ```
    /// use cotangent_graph::{DType::F32, build};
    ///
    /// let graph = build(|g| {
    ///     let x = g.input("x", F32, [8, 101]);
    ///     g.output("median", x.sort(-1).slice(&[0, 50], &[8, 51]));
    ///     let (values, places) = x.top_k(5, -1);
    ///     g.output("values", values);
    ///     g.output("places", places);
    /// })?;
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    #[track_caller]
    pub fn sort(self, axis: impl Into<Axis>) -> Tensor<'g> {
        self.sort_with(axis, false)
    }

    /// The elements along an axis in ascending order, or in `descending` order; NaN last in both.
    #[track_caller]
    pub fn sort_with(self, axis: impl Into<Axis>, descending: bool) -> Tensor<'g> {
        let axis = axis.into();
        self.take_along_axis(self.argsort_with(axis, descending), axis)
    }

    /// The `k` largest elements along an axis, the largest first, and their places (i64). Of equal elements the first comes
    /// first, and NaN counts as the least.
    #[track_caller]
    pub fn top_k(self, k: usize, axis: impl Into<Axis>) -> (Tensor<'g>, Tensor<'g>) {
        let axis = axis.into();
        let places = self.last_axis(axis, |x| x.unary_with(&ARG_TOP_K, Attrs::none().with("k", k as i64)));
        (self.take_along_axis(places, axis), places)
    }

    /// What an op makes of rows, of the lines along another axis.
    #[track_caller]
    fn last_axis(self, axis: impl Into<Axis>, f: impl FnOnce(Tensor<'g>) -> Tensor<'g>) -> Tensor<'g> {
        let (rank, axis) = (self.rank(), axis.into().number(self.rank()));
        match usize::try_from(axis) {
            Ok(axis) if axis < rank && axis + 1 < rank => {
                let order: SmallVec<[usize; 4]> = (0..rank).filter(|&a| a != axis).chain([axis]).collect();
                let back: SmallVec<[usize; 4]> = (0..axis).chain([rank - 1]).chain(axis..rank - 1).collect();
                f(self.transpose(&order)).transpose(&back)
            }
            Ok(axis) if axis + 1 == rank => f(self),
            _ => {
                let text = format!("an order requires an axis of a tensor of shape {}, got {axis}", self.shape());
                self.builder().poison(Fault::new(Code::BadAxis, text).help(axes::advice(rank)).diag())
            }
        }
    }
}
