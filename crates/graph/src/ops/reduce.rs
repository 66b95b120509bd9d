//! Reductions over axes. The reduced axes disappear from the shape.

use cotangent_scalar::{DType, ReduceOp};
use smallvec::{SmallVec, smallvec};

use crate::attrs::{Attr, AttrKind, AttrSpec, Attrs};
use crate::builder::Tensor;
use crate::diag::Code;
use crate::eval;
use crate::op::{Arity, ExpandCx, Fault, InferCx, Lower, OpDef, OpTraits, Vjp, VjpCx};
use crate::samples::{Sample, Sampler};
use crate::types::{Shape, Type};

const AXES: &[AttrSpec] = &[AttrSpec { name: "axes", kind: AttrKind::Ints, doc: "the axes reduced, ascending" }];

/// The axes of an attribute, checked to be ascending and inside the shape.
pub(crate) fn checked_axes(cx: &InferCx<'_>, shape: &Shape) -> Result<SmallVec<[usize; 4]>, Fault> {
    let axes = cx.attrs.sizes("axes");
    let ascending = axes.windows(2).all(|w| w[0] < w[1]);
    if !ascending || axes.last().is_some_and(|&a| a >= shape.rank()) {
        let listed = cx.attrs.ints("axes");
        let text = format!(
            "`{}` requires ascending axes below {}, got {listed:?} for shape {shape}",
            cx.op.name,
            shape.rank()
        );
        return Err(Fault::new(Code::BadAxis, text));
    }
    Ok(axes)
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
    let first = attains.select(place, last).reduce_min(&axes);
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
        let axis = cx.attrs.size("axis");
        if axis >= shape.rank() || shape[axis] == 0 {
            let text = format!(
                "`argmax` requires an axis of at least one element, got axis {} of {shape}",
                cx.attrs.int("axis")
            );
            return Err(Fault::new(Code::BadAxis, text));
        }
        Ok(Type::tensor(DType::I64, shape.without(&[axis])))
    },
    eval: eval::unbound,
    vjp: Vjp::Zero("an index has no derivative"),
    lower: Lower::Expand(|cx: &ExpandCx<'_, '_>| {
        let x = cx.inputs[0];
        let axis = cx.attrs.size("axis");
        let most = x.reduce_max(&[axis]).repeat_along(&x.shape(), &[axis]);
        let hit = x.eq(most) | x.ne(x);
        let place = x.builder().iota(DType::I32, x.shape(), axis);
        smallvec![hit.select(place, place.constant_like(i32::MAX.into())).reduce_min(&[axis]).cast(DType::I64)]
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
        smallvec![x.reduce_sum(&axes) * (1.0 / n as f64)]
    }),
    samples,
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&REDUCE_SUM, &REDUCE_PROD, &REDUCE_MAX, &REDUCE_MIN, &ARGMAX, &MEAN];

fn axes_attr(axes: &[usize]) -> Attrs {
    let mut sorted: SmallVec<[i64; 4]> = axes.iter().map(|&a| a as i64).collect();
    sorted.sort_unstable();
    Attrs::none().with("axes", Attr::Ints(sorted))
}

impl<'g> Tensor<'g> {
    /// Sum over axes.
    #[track_caller]
    pub fn reduce_sum(self, axes: &[usize]) -> Tensor<'g> {
        self.unary_with(&REDUCE_SUM, axes_attr(axes))
    }

    /// Product over axes.
    #[track_caller]
    pub fn reduce_prod(self, axes: &[usize]) -> Tensor<'g> {
        self.unary_with(&REDUCE_PROD, axes_attr(axes))
    }

    /// Largest element over axes.
    #[track_caller]
    pub fn reduce_max(self, axes: &[usize]) -> Tensor<'g> {
        self.unary_with(&REDUCE_MAX, axes_attr(axes))
    }

    /// Smallest element over axes.
    #[track_caller]
    pub fn reduce_min(self, axes: &[usize]) -> Tensor<'g> {
        self.unary_with(&REDUCE_MIN, axes_attr(axes))
    }

    /// Mean over axes.
    #[track_caller]
    pub fn mean_over(self, axes: &[usize]) -> Tensor<'g> {
        self.unary_with(&MEAN, axes_attr(axes))
    }

    /// Sum of all elements.
    #[track_caller]
    pub fn sum(self) -> Tensor<'g> {
        self.reduce_sum(&(0..self.rank()).collect::<Vec<_>>())
    }

    /// Mean of all elements.
    #[track_caller]
    pub fn mean(self) -> Tensor<'g> {
        self.mean_over(&(0..self.rank()).collect::<Vec<_>>())
    }

    /// Index of the first largest element along an axis.
    #[track_caller]
    pub fn argmax(self, axis: usize) -> Tensor<'g> {
        self.unary_with(&ARGMAX, Attrs::none().with("axis", axis as i64))
    }
}
