//! Reductions over axes. The reduced axes disappear from the shape.

use std::fmt;

use cotangent_scalar::{DType, ReduceOp, order};
use smallvec::{SmallVec, smallvec};

use crate::attrs::{Attr, AttrKind, AttrSpec, Attrs};
use crate::axes::{self, Axes, Axis};
use crate::builder::Tensor;
use crate::diag::Code;
use crate::eval;
use crate::op::{Arity, ExpandCx, Fault, InferCx, Lower, OpDef, OpTraits, Vjp, VjpCx};
use crate::ops::norm::VARIANCE;
use crate::samples::{Sample, Sampler};
use crate::types::{Shape, Type};

const AXES: &[AttrSpec] = &[AttrSpec { name: "axes", kind: AttrKind::Ints, doc: "the axes reduced, ascending" }];

/// What is wrong with axes of a tensor of this shape; `required` says what they have to be.
pub(crate) fn axis_fault(cx: &InferCx<'_>, required: &str, got: impl fmt::Display, shape: &Shape) -> Fault {
    let text = format!("`{}` requires {required} of a tensor of shape {shape}, got {got}", cx.op.name);
    Fault::new(Code::BadAxis, text).help(axes::advice(shape.rank()))
}

/// The axes of an attribute, checked to be ascending and inside the shape.
pub(crate) fn checked_axes(cx: &InferCx<'_>, shape: &Shape) -> Result<SmallVec<[usize; 4]>, Fault> {
    let axes = cx.attrs.sizes("axes");
    let ascending = axes.windows(2).all(|w| w[0] < w[1]);
    if !ascending || axes.last().is_some_and(|&a| a >= shape.rank()) {
        let listed = format!("{:?}", cx.attrs.ints("axes"));
        return Err(axis_fault(cx, "distinct, ascending axes", listed, shape));
    }
    Ok(axes)
}

/// The axis of the attribute `axis`, checked to be one of the shape's.
pub(crate) fn checked_axis(cx: &InferCx<'_>, shape: &Shape) -> Result<usize, Fault> {
    let axis = cx.attrs.size("axis");
    if axis >= shape.rank() {
        return Err(axis_fault(cx, "an axis", cx.attrs.int("axis"), shape));
    }
    Ok(axis)
}

fn infer_reduce(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let (dtype, shape) = cx.tensor(0)?;
    let axes = checked_axes(cx, shape)?;
    if dtype == DType::Bool {
        return Err(cx.dtype_fault("requires numbers, got bool").help("convert with `cast`"));
    }
    Ok(Type::tensor(dtype, shape.without(&axes)))
}

fn samples(s: &mut Sampler) -> Vec<Sample> {
    let axes = |axes: &[usize]| Attrs::none().with("axes", axes);
    vec![
        Sample::new(vec![s.distinct([3, 5])]).attrs(axes(&[1])),
        Sample::new(vec![s.distinct([3, 5])]).attrs(axes(&[0])),
        Sample::new(vec![s.distinct([2, 3, 2])]).attrs(axes(&[0, 2])),
        Sample::new(vec![s.distinct([3, 5])]).attrs(axes(&[0, 1])),
    ]
}

const fn reduction(name: &'static str, doc: &'static str, op: ReduceOp, vjp: Vjp) -> OpDef {
    OpDef {
        name,
        doc,
        arity: Arity::Exact(1),
        attrs: AXES,
        traits: OpTraits::NONE,
        infer: infer_reduce,
        eval: eval::reduce,
        vjp,
        lower: Lower::Reduce(op),
        samples,
    }
}

/// `value` (of the reduced shape) repeated along the reduced axes of the operand.
fn spread<'g>(cx: &VjpCx<'g, '_>, value: Tensor<'g>) -> Tensor<'g> {
    value.repeat_along(&cx.x().shape(), &cx.attrs.sizes("axes"))
}

/// The gradient of an extreme goes to the element that attains it first in row-major order within each group, or to the first
/// NaN. That place alone decides, so what spreads the gradient reads the places and not the elements again.
fn extreme_vjp<'g>(cx: &VjpCx<'g, '_>) -> Tensor<'g> {
    let x = cx.x();
    let axes = cx.attrs.sizes("axes");
    let attains = x.eq(spread(cx, cx.output)) | x.ne(x);
    let place = linear_index(x, &axes);
    let first = first_place(attains, place, &axes);
    place.eq(spread(cx, first)).select(spread(cx, cx.dy), x.constant_like(0.0))
}

/// The least of the places where `hit` holds, which it does somewhere in each group.
pub(crate) fn first_place<'g>(hit: Tensor<'g>, place: Tensor<'g>, axes: &[usize]) -> Tensor<'g> {
    let beyond: i64 = if place.dtype() == DType::I32 { i32::MAX.into() } else { i64::MAX };
    hit.select(place, place.constant_like(beyond)).min_over(axes)
}

/// The element type of indices below `n`: i32 if that can hold them.
pub(crate) fn index_type(n: usize) -> DType {
    if n <= i32::MAX as usize { DType::I32 } else { DType::I64 }
}

/// The row-major position of each element of `x` within its group of reduced axes.
pub(crate) fn linear_index<'g>(x: Tensor<'g>, axes: &[usize]) -> Tensor<'g> {
    let shape = x.shape();
    let dtype = index_type(axes.iter().map(|&a| shape[a]).product());
    let mut index = x.builder().scalar(0.0, dtype).broadcast_to(shape.clone());
    for &axis in axes {
        index = index * shape[axis] as i64 + x.builder().iota(dtype, shape.clone(), axis);
    }
    index
}

/// Sum over axes.
pub static REDUCE_SUM: OpDef = reduction(
    "reduce_sum",
    "Sum over `axes`, in the fixed order of `docs/numerics.md`; 0 over nothing.",
    ReduceOp::Sum,
    Vjp::Rule(|cx| smallvec![Some(spread(cx, cx.dy))]),
);

/// The cotangent of the factors of a product: for each, that of the product times all others. They are multiplied pairwise, and
/// the pairs' products pairwise, so that nothing is divided by a factor, which may be 0.
fn product_vjp<'g>(cx: &VjpCx<'g, '_>) -> Tensor<'g> {
    let (x, shape, axes) = (cx.x(), cx.x().shape(), cx.attrs.sizes("axes"));
    let order: Vec<usize> = axes.iter().copied().chain((0..shape.rank()).filter(|a| !axes.contains(a))).collect();
    let n: usize = axes.iter().map(|&a| shape[a]).product();
    let rest = cx.dy.shape().n_elements();
    if shape.n_elements() == 0 {
        return x.constant_like(0.0);
    }
    let turned = x.transpose(&order);
    let mut level = turned.reshape([n, rest]).pad(&[0, 0], &[n.next_power_of_two() - n, 0], 1.0);
    let mut pairs = Vec::new();
    while level.shape()[0] > 1 {
        let rows = level.shape()[0];
        let (a, b) = (level.slice(&[0, 0], &[rows / 2, rest]), level.slice(&[rows / 2, 0], &[rows, rest]));
        pairs.push((a, b));
        level = a * b;
    }
    let mut dy = cx.dy.reshape([1, rest]);
    for (a, b) in pairs.into_iter().rev() {
        dy = x.builder().concat(&[dy * b, dy * a], 0);
    }
    let mut inverse = order.clone();
    order.iter().enumerate().for_each(|(i, &axis)| inverse[axis] = i);
    dy.slice(&[0, 0], &[n, rest]).reshape(turned.shape()).transpose(&inverse)
}

/// Product over axes.
pub static REDUCE_PROD: OpDef = reduction(
    "reduce_prod",
    "Product over `axes`; 1 over nothing. The gradient by a factor is the product of the others, also where factors are 0.",
    ReduceOp::Prod,
    Vjp::Rule(|cx| smallvec![Some(product_vjp(cx))]),
);

/// Largest element over axes.
pub static REDUCE_MAX: OpDef = reduction(
    "reduce_max",
    "Largest element over `axes`; NaN if one is NaN. The gradient goes to the element that `argmax` names: the first largest, or \
     the first NaN.",
    ReduceOp::Max,
    Vjp::Rule(|cx| smallvec![Some(extreme_vjp(cx))]),
);

/// Smallest element over axes.
pub static REDUCE_MIN: OpDef = reduction(
    "reduce_min",
    "Smallest element over `axes`; NaN if one is NaN. The gradient goes to the first smallest, or to the first NaN.",
    ReduceOp::Min,
    Vjp::Rule(|cx| smallvec![Some(extreme_vjp(cx))]),
);

/// Place of the first maximum.
pub static ARGMAX: OpDef = place(
    "argmax",
    "Index (i64) of the first largest element along `axis`, which disappears; of the first NaN if there is one. Of truth \
     values, true is the larger.",
    Lower::Expand(|cx| smallvec![place_of(cx, |x, axis| x.max_over(axis))]),
);

/// Place of the first minimum.
pub static ARGMIN: OpDef = place(
    "argmin",
    "Index (i64) of the first smallest element along `axis`, which disappears; of the first NaN if there is one. Of truth \
     values, false is the smaller.",
    Lower::Expand(|cx| smallvec![place_of(cx, |x, axis| x.min_over(axis))]),
);

const fn place(name: &'static str, doc: &'static str, lower: Lower) -> OpDef {
    OpDef {
        name,
        doc,
        arity: Arity::Exact(1),
        attrs: &[AttrSpec { name: "axis", kind: AttrKind::Int, doc: "the axis searched" }],
        traits: OpTraits::NONE,
        infer: |cx| {
            let (_, shape) = cx.tensor(0)?;
            let axis = checked_axis(cx, shape)?;
            if shape[axis] == 0 {
                return Err(axis_fault(cx, "an axis with elements", axis, shape));
            }
            Ok(Type::tensor(DType::I64, shape.without(&[axis])))
        },
        eval: eval::unbound,
        vjp: Vjp::Zero("an index has no derivative"),
        lower,
        samples: |s| vec![Sample::new(vec![s.distinct([3, 5])]).attrs(Attrs::none().with("axis", 1))],
    }
}

/// The place of the first extreme element along an axis, or of the first NaN.
fn place_of<'g>(cx: &ExpandCx<'g, '_>, extreme: fn(Tensor<'g>, usize) -> Tensor<'g>) -> Tensor<'g> {
    // Truth values have an order, but no largest one.
    let x = if cx.inputs[0].dtype() == DType::Bool { cx.inputs[0].cast(DType::U8) } else { cx.inputs[0] };
    let axis = cx.attrs.size("axis");
    let most = extreme(x, axis).repeat_along(&x.shape(), [axis]);
    let hit = x.eq(most) | x.ne(x);
    let place = x.builder().iota(index_type(x.shape()[axis]), x.shape(), axis);
    first_place(hit, place, &[axis]).cast(DType::I64)
}

/// Mean over axes.
pub static MEAN: OpDef = OpDef {
    name: "mean",
    doc: "Mean over `axes`: the sum divided by the number of elements.",
    arity: Arity::Exact(1),
    attrs: AXES,
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, shape) = cx.tensor(0)?;
        if !dtype.is_float() {
            return Err(cx
                .dtype_fault(format_args!("requires floats (f32 or f64), got {dtype}"))
                .help("convert with `cast`"));
        }
        let axes = checked_axes(cx, shape)?;
        if axes.iter().any(|&a| shape[a] == 0) {
            return Err(
                cx.shape_fault(format_args!("of no elements is undefined: axes {:?} of {shape}", axes.as_slice()))
            );
        }
        Ok(Type::tensor(dtype, shape.without(&axes)))
    },
    eval: eval::unbound,
    vjp: Vjp::ViaExpansion,
    lower: Lower::Expand(|cx: &ExpandCx<'_, '_>| {
        let x = cx.inputs[0];
        let axes = cx.attrs.sizes("axes");
        let n: usize = axes.iter().map(|&a| x.shape()[a]).product();
        smallvec![x.sum_over(&axes) / n as f64]
    }),
    samples,
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&REDUCE_SUM, &REDUCE_PROD, &REDUCE_MAX, &REDUCE_MIN, &ARGMAX, &ARGMIN, &MEAN];

impl<'g> Tensor<'g> {
    /// A reduction with the attribute `axes`, and others after it.
    #[track_caller]
    pub(crate) fn reduce(self, op: &'static OpDef, axes: Axes, rest: Attrs) -> Tensor<'g> {
        let axes = axes.ascending(self.rank());
        if let (Lower::Reduce(_), Some(last)) = (&op.lower, self.rows_of_everything(&axes)) {
            let rest: Axes = (0..self.rank() - 1).into();
            return self.reduce(op, Axes::from(last), Attrs::none()).reduce(op, rest, Attrs::none());
        }
        let attrs = Attrs::none().with("axes", Attr::Ints(axes));
        let attrs = rest.iter().fold(attrs, |attrs, (name, value)| attrs.with(name, value.clone()));
        self.unary_with(op, attrs).or_like(|| self.ty())
    }

    /// The axis of rows, if these axes are everything and that is reduced by rows. What makes the elements of a row, broadcasts of
    /// rows and columns among it, moves evenly along it, so it needs no memory; along a flat range it would.
    fn rows_of_everything(self, axes: &[i64]) -> Option<usize> {
        let Type::Tensor { shape, .. } = self.ty() else { return None };
        let are_axes = axes.windows(2).all(|w| w[0] < w[1]) && axes.iter().all(|&a| (a as usize) < shape.rank());
        let mut long = (0..shape.rank()).filter(|&a| shape[a] != 1).rev();
        let is_everything = long.clone().all(|a| axes.contains(&(a as i64)));
        let last = long.next().filter(|_| are_axes && is_everything)?;
        order::goes_by_rows(long.map(|a| shape[a]).product(), shape[last]).then_some(last)
    }

    /// What was reduced of `self`, with the reduced axes back as axes of extent 1.
    #[track_caller]
    pub(crate) fn keep(self, reduced: Tensor<'g>, axes: &Axes) -> Tensor<'g> {
        let mut shape = self.shape().to_vec();
        let axes = axes.number(shape.len());
        for (axis, extent) in shape.iter_mut().enumerate() {
            if axes.contains(&(axis as i64)) {
                *extent = 1;
            }
        }
        reduced.reshape(shape)
    }
}

macro_rules! reductions {
    ($($all:ident, $over:ident, $keep:ident: $what:literal, $op:ident;)*) => {
        /// Reductions come in three forms: of all elements, over some axes, which disappear, and over axes that are kept, with
        /// extent 1, so that the result broadcasts against the operand: `x - x.mean_keep(-1)`.
        impl<'g> Tensor<'g> {
            $(
                #[doc = concat!($what, " of all elements, a scalar.")]
                #[track_caller]
                pub fn $all(self) -> Tensor<'g> {
                    self.$over(0..self.rank())
                }

                #[doc = concat!($what, " over axes, which disappear.")]
                #[track_caller]
                pub fn $over(self, axes: impl Into<Axes>) -> Tensor<'g> {
                    self.reduce(&$op, axes.into(), Attrs::none())
                }

                #[doc = concat!($what, " over axes, which are kept with extent 1.")]
                #[track_caller]
                pub fn $keep(self, axes: impl Into<Axes>) -> Tensor<'g> {
                    let axes = axes.into();
                    self.keep(self.reduce(&$op, axes.clone(), Attrs::none()), &axes)
                }
            )*
        }
    };
}
reductions! {
    sum, sum_over, sum_keep: "Sum", REDUCE_SUM;
    prod, prod_over, prod_keep: "Product", REDUCE_PROD;
    max, max_over, max_keep: "Largest element", REDUCE_MAX;
    min, min_over, min_keep: "Smallest element", REDUCE_MIN;
    mean, mean_over, mean_keep: "Mean", MEAN;
    variance, variance_over, variance_keep: "Population variance", VARIANCE;
}

impl<'g> Tensor<'g> {
    /// Index (i64) of the first largest element along an axis, which disappears.
    #[track_caller]
    pub fn argmax(self, axis: impl Into<Axis>) -> Tensor<'g> {
        self.along(&ARGMAX, axis)
    }

    /// Index (i64) of the first smallest element along an axis, which disappears.
    #[track_caller]
    pub fn argmin(self, axis: impl Into<Axis>) -> Tensor<'g> {
        self.along(&ARGMIN, axis)
    }

    /// An op whose only attribute is `axis`.
    #[track_caller]
    pub(crate) fn along(self, op: &'static OpDef, axis: impl Into<Axis>) -> Tensor<'g> {
        self.unary_with(op, Attrs::none().with("axis", axis.into().number(self.rank()))).or_like(|| self.ty())
    }
}
