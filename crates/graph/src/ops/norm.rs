//! Statistics and normalizations over axes, with their own derivatives.

use smallvec::{SmallVec, smallvec};

use crate::attrs::{Attr, AttrKind, AttrSpec, Attrs};
use crate::axes::{Axes, Axis};
use crate::builder::Tensor;
use crate::eval;
use crate::op::{Arity, Fault, InferCx, Lower, OpDef, OpTraits, Vjp, VjpCx};
use crate::ops::infer_float;
use crate::ops::reduce::{axis_fault, checked_axes, checked_axis};
use crate::samples::{Sample, Sampler};
use crate::types::{Shape, Type};

const AXES: AttrSpec =
    AttrSpec { name: "axes", kind: AttrKind::Ints, doc: "the axes that statistics run over, ascending" };
const EPS: AttrSpec = AttrSpec { name: "eps", kind: AttrKind::Float, doc: "added to the variance" };

fn axes_and_eps(axes: &[usize], eps: f64) -> Attrs {
    Attrs::none().with("axes", axes).with("eps", eps)
}

/// Checks that ε is finite and not negative: it keeps what is under the root from 0.
fn check_eps(cx: &InferCx<'_>) -> Result<(), Fault> {
    let eps = cx.attrs.float("eps");
    if eps.is_finite() && eps >= 0.0 {
        return Ok(());
    }
    Err(cx.attr_fault(format_args!("requires an `eps` that is finite and not negative, got {eps}")))
}

/// A float operand whose reduced axes have elements.
fn infer_statistics(cx: &InferCx<'_>) -> Result<(Type, SmallVec<[usize; 4]>), Fault> {
    let ty = infer_float(cx)?;
    let axes = checked_axes(cx, ty.shape())?;
    if axes.iter().any(|&a| ty.shape()[a] == 0) {
        return Err(cx.shape_fault(format_args!(
            "of no elements is undefined: axes {:?} of {}",
            axes.as_slice(),
            ty.shape()
        )));
    }
    Ok((ty, axes))
}

fn samples(s: &mut Sampler) -> Vec<Sample> {
    vec![
        Sample::new(vec![s.float_in(-2.0..2.0, [4, 5])]).attrs(axes_and_eps(&[1], 1e-3)),
        Sample::new(vec![s.float_in(-2.0..2.0, [4, 5])]).attrs(axes_and_eps(&[0], 1e-3)),
        Sample::new(vec![s.float_in(-2.0..2.0, [2, 3, 2])]).attrs(axes_and_eps(&[0, 2], 1e-3)),
    ]
}

/// The operand minus its mean over axes.
fn centered<'g>(x: Tensor<'g>, axes: &[usize]) -> Tensor<'g> {
    x - x.mean_over(axes).repeat_along(&x.shape(), axes)
}

/// Mean squared distance from the mean.
pub static VARIANCE: OpDef = OpDef {
    name: "variance",
    doc: "Population variance `mean((x - mean(x))²)` over `axes`, from the centered operand.",
    arity: Arity::Exact(1),
    attrs: &[AXES],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (ty, axes) = infer_statistics(cx)?;
        Ok(Type::tensor(ty.dtype(), ty.shape().without(&axes)))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (x, axes) = (cx.x(), cx.attrs.sizes("axes"));
        let n: usize = axes.iter().map(|&a| x.shape()[a]).product();
        smallvec![Some(centered(x, &axes) * (cx.dy * 2.0 / n as f64).repeat_along(&x.shape(), &axes))]
    }),
    lower: Lower::Expand(|cx| {
        let axes = cx.attrs.sizes("axes");
        smallvec![centered(cx.inputs[0], &axes).square().mean_over(&axes)]
    }),
    samples: |s| {
        let axes = |axes: &[usize]| Attrs::none().with("axes", axes);
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [4, 5])]).attrs(axes(&[1])),
            Sample::new(vec![s.float_in(-2.0..2.0, [4, 5])]).attrs(axes(&[0, 1])),
        ]
    },
};

/// 1/√(variance + eps).
fn inverse_deviation<'g>(x: Tensor<'g>, axes: &[usize], eps: f64) -> Tensor<'g> {
    (centered(x, axes).square().mean_over(axes) + eps).rsqrt()
}

/// 1/√(variance + eps), repeated to the operand's shape.
fn spread_scale<'g>(x: Tensor<'g>, axes: &[usize], eps: f64) -> Tensor<'g> {
    inverse_deviation(x, axes, eps).repeat_along(&x.shape(), axes)
}

/// The cotangent of the operand of `normalize`, given that of its value.
fn normalize_vjp<'g>(x: Tensor<'g>, axes: &[usize], eps: f64, dy: Tensor<'g>) -> Tensor<'g> {
    let scale = spread_scale(x, axes, eps);
    let y = centered(x, axes) * scale;
    let mean = |t: Tensor<'g>| t.mean_over(axes).repeat_along(&x.shape(), axes);
    (dy - mean(dy) - y * mean(dy * y)) * scale
}

/// Mean 0 and variance 1.
pub static NORMALIZE: OpDef = OpDef {
    name: "normalize",
    doc: "`(x - mean(x)) / √(variance(x) + eps)` over `axes`: the core of batch, layer, instance and group norm, which differ \
          in the axes.",
    arity: Arity::Exact(1),
    attrs: &[AXES, EPS],
    traits: OpTraits::NONE,
    infer: |cx| {
        check_eps(cx)?;
        infer_statistics(cx).map(|(ty, _)| ty)
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let axes = cx.attrs.sizes("axes");
        smallvec![Some(normalize_vjp(cx.x(), &axes, cx.attrs.float("eps"), cx.dy))]
    }),
    lower: Lower::Expand(|cx| {
        let (x, axes) = (cx.inputs[0], cx.attrs.sizes("axes"));
        smallvec![centered(x, &axes) * spread_scale(x, &axes, cx.attrs.float("eps"))]
    }),
    samples,
};

/// Root mean square 1.
pub static RMS_NORM: OpDef = OpDef {
    name: "rms_norm",
    doc: "`x / √(mean(x²) + eps)` over `axes` (Zhang and Sennrich 2019), without a gain.",
    arity: Arity::Exact(1),
    attrs: &[AXES, EPS],
    traits: OpTraits::NONE,
    infer: |cx| {
        check_eps(cx)?;
        infer_statistics(cx).map(|(ty, _)| ty)
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx: &VjpCx<'_, '_>| {
        let (x, axes) = (cx.x(), cx.attrs.sizes("axes"));
        let scale = (x.square().mean_over(&axes) + cx.attrs.float("eps")).rsqrt().repeat_along(&x.shape(), &axes);
        let y = x * scale;
        let along = (cx.dy * y).mean_over(&axes).repeat_along(&x.shape(), &axes);
        smallvec![Some((cx.dy - y * along) * scale)]
    }),
    lower: Lower::Expand(|cx| {
        let (x, axes) = (cx.inputs[0], cx.attrs.sizes("axes"));
        let scale = (x.square().mean_over(&axes) + cx.attrs.float("eps")).rsqrt();
        smallvec![x * scale.repeat_along(&x.shape(), &axes)]
    }),
    samples,
};

/// Layer normalization with gain and bias.
pub static LAYER_NORM: OpDef = OpDef {
    name: "layer_norm",
    doc: "`normalize(x) · gain + bias` over the last axis (Ba et al. 2016): `[.., n]`, `[n]`, `[n]`.",
    arity: Arity::Exact(3),
    attrs: &[EPS],
    traits: OpTraits::NONE,
    infer: |cx| {
        check_eps(cx)?;
        let ((dtype, shape), (gain_dtype, gain), (bias_dtype, bias)) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
        if !dtype.is_float() || dtype != gain_dtype || dtype != bias_dtype {
            let text =
                format_args!("requires three f32 or three f64 operands, got {dtype}, {gain_dtype} and {bias_dtype}");
            return Err(cx.dtype_fault(text).help("convert with `cast`"));
        }
        let fits = |s: &Shape| s.rank() == 1 && s.last() == shape.last();
        if shape.rank() == 0 || shape.last() == Some(&0) || !fits(gain) || !fits(bias) {
            return Err(cx.shape_fault(format_args!("requires [.., n], [n] and [n], got {shape}, {gain} and {bias}")));
        }
        Ok(Type::tensor(dtype, shape))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (x, gain, eps) = (cx.inputs[0], cx.inputs[1], cx.attrs.float("eps"));
        let axis = x.rank() - 1;
        let leading: Vec<usize> = (0..axis).collect();
        let y = centered(x, &[axis]) * spread_scale(x, &[axis], eps);
        let dx = normalize_vjp(x, &[axis], eps, cx.dy * gain.broadcast_to(x.shape()));
        smallvec![Some(dx), Some((cx.dy * y).sum_over(&leading)), Some(cx.dy.sum_over(&leading))]
    }),
    lower: Lower::Expand(|cx| {
        let (x, axis) = (cx.inputs[0], cx.inputs[0].rank() - 1);
        let y = centered(x, &[axis]) * spread_scale(x, &[axis], cx.attrs.float("eps"));
        smallvec![y * cx.inputs[1] + cx.inputs[2]]
    }),
    samples: |s| {
        let inputs = vec![s.float_in(-2.0..2.0, [3, 5]), s.float_in(0.5..1.5, [5]), s.float_in(-1.0..1.0, [5])];
        vec![Sample::new(inputs).attrs(Attrs::none().with("eps", 1e-3))]
    },
};

/// Batch normalization with gain and bias.
pub static BATCH_NORM: OpDef = OpDef {
    name: "batch_norm",
    doc: "`normalize(x) · gain + bias` with statistics over `axes` and one gain and one bias for each place along the others \
          (Ioffe and Szegedy 2015): `[n, c]`, `[c]`, `[c]` for `axes = [0]`. Its derivative reduces the cotangent twice, and \
          the gradients of gain and bias are those very sums.",
    arity: Arity::Exact(3),
    attrs: &[AXES, EPS],
    traits: OpTraits::NONE,
    infer: |cx| {
        check_eps(cx)?;
        let ((dtype, shape), (gain_dtype, gain), (bias_dtype, bias)) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
        if !dtype.is_float() || dtype != gain_dtype || dtype != bias_dtype {
            let text =
                format_args!("requires three f32 or three f64 operands, got {dtype}, {gain_dtype} and {bias_dtype}");
            return Err(cx.dtype_fault(text).help("convert with `cast`"));
        }
        let axes = checked_axes(cx, shape)?;
        let kept = shape.without(&axes);
        if axes.iter().any(|&a| shape[a] == 0) {
            return Err(
                cx.shape_fault(format_args!("of no elements is undefined: axes {:?} of {shape}", axes.as_slice()))
            );
        }
        if *gain != kept || *bias != kept {
            let text = format_args!("requires a gain and a bias {kept} for {shape}, got {gain} and {bias}");
            return Err(cx.shape_fault(text));
        }
        Ok(Type::tensor(dtype, shape))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (x, gain, axes) = (cx.inputs[0], cx.inputs[1], cx.attrs.sizes("axes"));
        let n: usize = axes.iter().map(|&a| x.shape()[a]).product();
        let (shape, n) = (x.shape(), n as f64);
        let scale = inverse_deviation(x, &axes, cx.attrs.float("eps"));
        let y = centered(x, &axes) * scale.repeat_along(&shape, &axes);
        let (along, total) = ((cx.dy * y).sum_over(&axes), cx.dy.sum_over(&axes));
        let mean_along = (along / n).repeat_along(&shape, &axes);
        let mean_total = (total / n).repeat_along(&shape, &axes);
        let dx = (cx.dy - mean_total - y * mean_along) * (gain * scale).repeat_along(&shape, &axes);
        smallvec![Some(dx), Some(along), Some(total)]
    }),
    lower: Lower::Expand(|cx| {
        let (x, axes) = (cx.inputs[0], cx.attrs.sizes("axes"));
        let y = centered(x, &axes) * spread_scale(x, &axes, cx.attrs.float("eps"));
        smallvec![y * cx.inputs[1].repeat_along(&x.shape(), &axes) + cx.inputs[2].repeat_along(&x.shape(), &axes)]
    }),
    samples: |s| {
        let flat = vec![s.float_in(-2.0..2.0, [5, 3]), s.float_in(0.5..1.5, [3]), s.float_in(-1.0..1.0, [3])];
        let deep = vec![s.float_in(-2.0..2.0, [2, 3, 2]), s.float_in(0.5..1.5, [3]), s.float_in(-1.0..1.0, [3])];
        vec![Sample::new(flat).attrs(axes_and_eps(&[0], 1e-3)), Sample::new(deep).attrs(axes_and_eps(&[0, 2], 1e-3))]
    },
};

/// Whether elements are neither infinite nor NaN.
pub fn is_finite(x: Tensor<'_>) -> Tensor<'_> {
    x.abs().lt(x.constant_like(f64::INFINITY))
}

/// log Σ eˣ.
pub static LOG_SUM_EXP: OpDef = OpDef {
    name: "log_sum_exp",
    doc: "`log Σ exp(xⱼ)` along `axis`, shifted by the largest element: finite for any finite operand, and the largest element \
          where that is infinite.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "axis", kind: AttrKind::Int, doc: "the axis summed over" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ty = infer_float(cx)?;
        let axis = checked_axis(cx, ty.shape())?;
        if ty.shape()[axis] == 0 {
            return Err(axis_fault(cx, "an axis with elements", axis, ty.shape()));
        }
        Ok(Type::tensor(ty.dtype(), ty.shape().without(&[axis])))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (x, axis) = (cx.x(), cx.attrs.size("axis"));
        smallvec![Some(x.softmax(axis) * cx.dy.repeat_along(&x.shape(), [axis]))]
    }),
    lower: Lower::Expand(|cx| {
        let (x, axis) = (cx.inputs[0], cx.attrs.size("axis"));
        let most = x.max_over([axis]).stop_gradient();
        let sum = (x - most.repeat_along(&x.shape(), [axis])).exp().sum_over([axis]);
        smallvec![is_finite(most).select(sum.log() + most, most)]
    }),
    samples: |s| {
        let axis = |axis: i64| Attrs::none().with("axis", axis);
        vec![
            Sample::new(vec![s.float_in(-3.0..3.0, [3, 5])]).attrs(axis(1)),
            Sample::new(vec![s.float_in(-3.0..3.0, [3, 5])]).attrs(axis(0)),
        ]
    },
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&VARIANCE, &NORMALIZE, &RMS_NORM, &LAYER_NORM, &BATCH_NORM, &LOG_SUM_EXP];

impl<'g> Tensor<'g> {
    /// Mean 0 and variance 1 over axes.
    #[track_caller]
    pub fn normalize(self, axes: impl Into<Axes>, eps: f64) -> Tensor<'g> {
        self.reduce(&NORMALIZE, axes.into(), Attrs::none().with("eps", eps))
    }

    /// Root mean square 1 over axes.
    #[track_caller]
    pub fn rms_norm(self, axes: impl Into<Axes>, eps: f64) -> Tensor<'g> {
        self.reduce(&RMS_NORM, axes.into(), Attrs::none().with("eps", eps))
    }

    /// Layer normalization over the last axis with a gain and a bias.
    #[track_caller]
    pub fn layer_norm(self, gain: Tensor<'_>, bias: Tensor<'_>, eps: f64) -> Tensor<'g> {
        self.builder().op(&LAYER_NORM, &[self, gain, bias], Attrs::none().with("eps", eps), None)
    }

    /// Batch normalization over `axes` with a gain and a bias for each place along the other axes.
    #[track_caller]
    pub fn batch_norm(self, gain: Tensor<'_>, bias: Tensor<'_>, axes: impl Into<Axes>, eps: f64) -> Tensor<'g> {
        let attrs = Attrs::none().with("axes", Attr::Ints(axes.into().ascending(self.rank())));
        self.builder().op(&BATCH_NORM, &[self, gain, bias], attrs.with("eps", eps), None)
    }

    /// log Σ eˣ over one axis, which disappears.
    #[track_caller]
    pub fn log_sum_exp_over(self, axis: impl Into<Axis>) -> Tensor<'g> {
        self.along(&LOG_SUM_EXP, axis)
    }

    /// log Σ eˣ over one axis, which is kept with extent 1.
    #[track_caller]
    pub fn log_sum_exp_keep(self, axis: impl Into<Axis>) -> Tensor<'g> {
        let axis = axis.into();
        self.keep(self.along(&LOG_SUM_EXP, axis), &axis.into())
    }
}
