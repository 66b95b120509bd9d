//! Reductions over axes. The reduced axes disappear from the shape.

use std::fmt;

use cotangent_scalar::{DType, ReduceOp};
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

/// The gradient of an extreme goes to the elements that attain it first in row-major order within each group.
fn extreme_vjp<'g>(cx: &VjpCx<'g, '_>) -> Tensor<'g> {
    let x = cx.x();
    let axes = cx.attrs.sizes("axes");
    let attains = x.eq(spread(cx, cx.output));
    let place = linear_index(x, &axes);
    let last = place.constant_like(i32::MAX.into());
    let first = attains.select(place, last).min_over(&axes);
    let hit = attains & place.eq(spread(cx, first));
    hit.select(spread(cx, cx.dy), x.constant_like(0.0))
}

/// The row-major position of each element of `x` within its group of reduced axes, as i32.
fn linear_index<'g>(x: Tensor<'g>, axes: &[usize]) -> Tensor<'g> {
    let shape = x.shape();
    let mut index = x.builder().scalar(0.0, DType::I32).broadcast_to(shape.clone());
    for &axis in axes {
        index = index * shape[axis] as i64 + x.builder().iota(DType::I32, shape.clone(), axis);
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

/// Product over axes.
pub static REDUCE_PROD: OpDef = reduction(
    "reduce_prod",
    "Product over `axes`; 1 over nothing. The gradient divides by the elements, so it is not finite where one is 0.",
    ReduceOp::Prod,
    Vjp::Rule(|cx| smallvec![Some(spread(cx, cx.dy * cx.output) / cx.x())]),
);

/// Largest element over axes.
pub static REDUCE_MAX: OpDef = reduction(
    "reduce_max",
    "Largest element over `axes`; NaN if one is NaN. Where several tie, the gradient goes to the first.",
    ReduceOp::Max,
    Vjp::Rule(|cx| smallvec![Some(extreme_vjp(cx))]),
);

/// Smallest element over axes.
pub static REDUCE_MIN: OpDef = reduction(
    "reduce_min",
    "Smallest element over `axes`; NaN if one is NaN. Where several tie, the gradient goes to the first.",
    ReduceOp::Min,
    Vjp::Rule(|cx| smallvec![Some(extreme_vjp(cx))]),
);

/// Index of the largest element.
pub static ARGMAX: OpDef = OpDef {
    name: "argmax",
    doc: "Index (i64) of the first largest element along `axis`, which disappears; of the first NaN if there is one.",
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
    lower: Lower::Expand(|cx: &ExpandCx<'_, '_>| {
        let x = cx.inputs[0];
        let axis = cx.attrs.size("axis");
        let most = x.max_over([axis]).repeat_along(&x.shape(), [axis]);
        let hit = x.eq(most) | x.ne(x);
        let place = x.builder().iota(DType::I32, x.shape(), axis);
        smallvec![hit.select(place, place.constant_like(i32::MAX.into())).min_over([axis]).cast(DType::I64)]
    }),
    samples: |s| vec![Sample::new(vec![s.distinct([3, 5])]).attrs(Attrs::none().with("axis", 1))],
};

/// Mean over axes.
pub static MEAN: OpDef = OpDef {
    name: "mean",
    doc: "Mean over `axes`: the sum times the reciprocal of the number of elements.",
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
        smallvec![x.sum_over(&axes) * (1.0 / n as f64)]
    }),
    samples,
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&REDUCE_SUM, &REDUCE_PROD, &REDUCE_MAX, &REDUCE_MIN, &ARGMAX, &MEAN];

impl<'g> Tensor<'g> {
    /// A reduction with the attribute `axes`, and others after it.
    #[track_caller]
    pub(crate) fn reduce(self, op: &'static OpDef, axes: Axes, rest: Attrs) -> Tensor<'g> {
        let attrs = Attrs::none().with("axes", Attr::Ints(axes.ascending(self.rank())));
        let attrs = rest.iter().fold(attrs, |attrs, (name, value)| attrs.with(name, value.clone()));
        self.unary_with(op, attrs).or_like(|| self.ty())
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

    /// An op whose only attribute is `axis`.
    #[track_caller]
    pub(crate) fn along(self, op: &'static OpDef, axis: impl Into<Axis>) -> Tensor<'g> {
        self.unary_with(op, Attrs::none().with("axis", axis.into().number(self.rank()))).or_like(|| self.ty())
    }
}
