//! Activations and softmax, with their own stable derivatives, and dropout.

use std::f64::consts::PI;

use smallvec::smallvec;

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::axes::Axis;
use crate::builder::Tensor;
use crate::diag::{Code, Diag};
use crate::eval;
use crate::op::{Arity, ExpandCx, Fault, InferCx, Lower, OpDef, OpTraits, Vjp};
use crate::ops::arithmetic::{kinked, one, pointwise};
use crate::ops::infer_float;
use crate::ops::math::levelled;
use crate::ops::reduce::checked_axis;
use crate::samples::{Sample, Sampler};
use crate::types::Type;

/// A composite of one operand, pointwise, without attributes.
const fn composite(
    name: &'static str,
    doc: &'static str,
    traits: OpTraits,
    expand: for<'g, 'a> fn(&ExpandCx<'g, 'a>) -> smallvec::SmallVec<[Tensor<'g>; 1]>,
    vjp: Vjp,
) -> OpDef {
    OpDef {
        name,
        doc,
        arity: Arity::Exact(1),
        attrs: &[],
        traits: OpTraits::POINTWISE.with(traits),
        infer: infer_float,
        eval: eval::unbound,
        vjp,
        lower: Lower::Expand(expand),
        samples: one,
    }
}

/// A float operand, and an attribute that is a finite number.
fn infer_with_finite(cx: &InferCx<'_>, name: &'static str) -> Result<Type, Fault> {
    let value = cx.attrs.float(name);
    if !value.is_finite() {
        return Err(cx.attr_fault(format_args!("requires a finite `{name}`, got {value}")));
    }
    infer_float(cx)
}

/// The operand where it is below 0, and 0 from there on. Not by `minimum`: NaN keeps its derivative.
pub(crate) fn up_to_zero(x: Tensor<'_>) -> Tensor<'_> {
    let zero = x.constant_like(0.0);
    x.ge(zero).select(zero, x)
}

/// max(x, 0).
pub static RELU: OpDef = pointwise(
    "relu",
    "Rectifier `max(x, 0)`; the derivative at 0 is 0. NaN stays NaN.",
    1,
    OpTraits::MONOTONE.with(OpTraits::ZERO_PRESERVING).with(OpTraits::IDEMPOTENT),
    infer_float,
    |s, v, _| {
        let zero = s.like(0.0, v[0]);
        let negative = s.lt(v[0], zero);
        s.select(negative, zero, v[0])
    },
    // The value is positive exactly where the operand is, so the operand need not be kept.
    Vjp::Rule(|cx| {
        let zero = cx.dy.constant_like(0.0);
        smallvec![Some(cx.output.gt(zero).select(cx.dy, zero))]
    }),
    kinked,
);

/// x above 0, slope·x below.
pub static LEAKY_RELU: OpDef = OpDef {
    name: "leaky_relu",
    doc: "`x` above 0 and `slope · x` below; the derivative at 0 is `slope`.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "slope", kind: AttrKind::Float, doc: "the slope below 0" }],
    traits: OpTraits::POINTWISE.with(OpTraits::ZERO_PRESERVING),
    infer: |cx| infer_with_finite(cx, "slope"),
    eval: eval::scalar,
    vjp: Vjp::Rule(|cx| {
        let positive = cx.x().gt(cx.dy.constant_like(0.0));
        smallvec![Some(positive.select(cx.dy, cx.dy * cx.attrs.float("slope")))]
    }),
    lower: Lower::Scalar(|s, v, cx| {
        let (zero, slope) = (s.like(0.0, v[0]), s.like(cx.attrs.float("slope"), v[0]));
        let (positive, below) = (s.gt(v[0], zero), s.mul(v[0], slope));
        s.select(positive, v[0], below)
    }),
    samples: |s| kinked(s).into_iter().map(|x| x.attrs(Attrs::none().with("slope", 0.1))).collect(),
};

/// x above 0, α(eˣ − 1) below.
pub static ELU: OpDef = OpDef {
    name: "elu",
    doc: "`x` from 0 on and `alpha · (eˣ - 1)` below.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "alpha", kind: AttrKind::Float, doc: "the limit at minus infinity is -alpha" }],
    traits: OpTraits::POINTWISE.with(OpTraits::ZERO_PRESERVING),
    infer: |cx| infer_with_finite(cx, "alpha"),
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (zero, alpha) = (cx.dy.constant_like(0.0), cx.attrs.float("alpha"));
        let below = cx.dy * (up_to_zero(cx.x()).exp() * alpha);
        smallvec![Some(cx.x().ge(zero).select(cx.dy, below))]
    }),
    lower: Lower::Expand(|cx| {
        let (x, zero) = (cx.inputs[0], cx.inputs[0].constant_like(0.0));
        let below = up_to_zero(x).expm1() * cx.attrs.float("alpha");
        smallvec![x.ge(zero).select(x, below)]
    }),
    samples: |s| kinked(s).into_iter().map(|x| x.attrs(Attrs::none().with("alpha", 0.7))).collect(),
};

/// x·σ(x).
pub static SILU: OpDef = composite(
    "silu",
    "`x · σ(x)` (swish).",
    OpTraits::ZERO_PRESERVING,
    |cx| smallvec![cx.inputs[0] * cx.inputs[0].sigmoid()],
    Vjp::Rule(|cx| {
        let x = cx.x();
        smallvec![Some(cx.dy * (x.sigmoid() + x * x.sigmoid_slope()))]
    }),
);

/// x·Φ(x) with the exact Φ.
pub static GELU: OpDef = composite(
    "gelu",
    "`x · Φ(x)` with the exact distribution function of the standard normal (Hendrycks and Gimpel 2016).",
    OpTraits::ZERO_PRESERVING,
    |cx| smallvec![cx.inputs[0] * cx.inputs[0].normal_cdf()],
    Vjp::Rule(|cx| {
        let x = cx.x();
        smallvec![Some(cx.dy * (x.normal_cdf() + x * x.normal_pdf()))]
    }),
);

/// `z = 2 √(2/π) (x + 0.044715 x³)`, and `x · dz/dx`. Far out, where `σ(z)` has levelled off long ago and x² may overflow, both
/// are constant.
fn gelu_inner(x: Tensor<'_>) -> [Tensor<'_>; 2] {
    let linear = 2.0 * (2.0 / PI).sqrt();
    let cubic = 0.044715 * linear;
    let near = levelled(x, 100.0);
    let square = near * near;
    [near * (square * cubic + linear), near * (square * (3.0 * cubic) + linear)]
}

/// x·Φ(x) with Φ approximated through tanh.
pub static GELU_TANH: OpDef = composite(
    "gelu_tanh",
    "`0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`, the usual approximation of `gelu`, as `x · σ(2√(2/π) (x + 0.044715 x³))`, \
     which does not cancel in the left tail.",
    OpTraits::ZERO_PRESERVING,
    |cx| {
        let x = cx.inputs[0];
        smallvec![x * gelu_inner(x)[0].sigmoid()]
    },
    Vjp::Rule(|cx| {
        let [z, change] = gelu_inner(cx.x());
        smallvec![Some(cx.dy * (z.sigmoid() + change * z.sigmoid_slope()))]
    }),
);

const AXIS: &[AttrSpec] = &[AttrSpec { name: "axis", kind: AttrKind::Int, doc: "the axis normalized over" }];

fn infer_axis(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let ty = infer_float(cx)?;
    checked_axis(cx, ty.shape())?;
    Ok(ty)
}

fn axis_samples(s: &mut Sampler) -> Vec<Sample> {
    let axis = |axis: i64| Attrs::none().with("axis", axis);
    vec![
        Sample::new(vec![s.float_in(-2.0..2.0, [3, 5])]).attrs(axis(1)),
        Sample::new(vec![s.float_in(-2.0..2.0, [3, 5])]).attrs(axis(0)),
        Sample::new(vec![s.float_in(-20.0..20.0, [2, 3])]).attrs(axis(1)),
    ]
}

/// The operand minus its largest element along the axis, through which no gradient flows.
pub(crate) fn shifted(x: Tensor<'_>, axis: usize) -> Tensor<'_> {
    x - x.max_over([axis]).stop_gradient().repeat_along(&x.shape(), [axis])
}

/// eˣ over its sum.
pub static SOFTMAX: OpDef = OpDef {
    name: "softmax",
    doc: "`exp(xᵢ) / Σ exp(xⱼ)` along `axis`, shifted by the largest element: no overflow.",
    arity: Arity::Exact(1),
    attrs: AXIS,
    traits: OpTraits::NONE,
    infer: infer_axis,
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let axis = cx.attrs.size("axis");
        let weighted = cx.dy * cx.output;
        let sum = weighted.sum_over([axis]).repeat_along(&cx.dy.shape(), [axis]);
        smallvec![Some(weighted - cx.output * sum)]
    }),
    lower: Lower::Expand(|cx| {
        let (x, axis) = (cx.inputs[0], cx.attrs.size("axis"));
        let e = shifted(x, axis).exp();
        smallvec![e / e.sum_over([axis]).repeat_along(&x.shape(), [axis])]
    }),
    samples: axis_samples,
};

/// The logarithm of softmax.
pub static LOG_SOFTMAX: OpDef = OpDef {
    name: "log_softmax",
    doc: "`xᵢ - log Σ exp(xⱼ)` along `axis`, shifted by the largest element: finite for any finite operand.",
    arity: Arity::Exact(1),
    attrs: AXIS,
    traits: OpTraits::NONE,
    infer: infer_axis,
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let axis = cx.attrs.size("axis");
        let sum = cx.dy.sum_over([axis]).repeat_along(&cx.dy.shape(), [axis]);
        smallvec![Some(cx.dy - cx.x().softmax(axis) * sum)]
    }),
    lower: Lower::Expand(|cx| {
        let (x, axis) = (cx.inputs[0], cx.attrs.size("axis"));
        let z = shifted(x, axis);
        smallvec![z - z.exp().sum_over([axis]).log().repeat_along(&x.shape(), [axis])]
    }),
    samples: axis_samples,
};

/// Elements zeroed at random.
pub static DROPOUT: OpDef = OpDef {
    name: "dropout",
    doc: "Inverted dropout (Srivastava et al. 2014): every element is zeroed with probability `p` and scaled by `1/(1 - p)` \
          otherwise. The mask comes from a counter-based generator and is recomputed in the backward pass, never stored.",
    arity: Arity::Exact(1),
    attrs: &[
        AttrSpec { name: "p", kind: AttrKind::Float, doc: "the probability of zero, in [0, 1)" },
        AttrSpec { name: "stream", kind: AttrKind::Str, doc: "the dotted name of the mask's random stream" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let p = cx.attrs.float("p");
        if !(0.0..1.0).contains(&p) {
            return Err(cx.attr_fault(format_args!("requires a probability in [0, 1), got {p}")));
        }
        infer_float(cx)
    },
    eval: eval::unbound,
    vjp: Vjp::ViaExpansion,
    lower: Lower::Expand(|cx| {
        let (x, p) = (cx.inputs[0], cx.attrs.float("p"));
        let attrs = Attrs::none().with("stream", cx.attrs.str("stream")).with("dist", "uniform");
        let u = x.builder().op(&super::source::RNG, &[], attrs, Some(x.ty()));
        smallvec![u.ge(x.constant_like(p)).select(x * (1.0 / (1.0 - p)), x.constant_like(0.0))]
    }),
    samples: |s| {
        let attrs = Attrs::none().with("p", 0.4).with("stream", "sample");
        vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 5])]).attrs(attrs)]
    },
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&RELU, &LEAKY_RELU, &ELU, &SILU, &GELU, &GELU_TANH, &SOFTMAX, &LOG_SOFTMAX, &DROPOUT];

impl<'g> Tensor<'g> {
    /// max(x, 0).
    #[track_caller]
    pub fn relu(self) -> Tensor<'g> {
        self.unary(&RELU)
    }

    /// x above 0, slope·x below.
    #[track_caller]
    pub fn leaky_relu(self, slope: f64) -> Tensor<'g> {
        self.unary_with(&LEAKY_RELU, Attrs::none().with("slope", slope))
    }

    /// x from 0 on, alpha·(eˣ − 1) below.
    #[track_caller]
    pub fn elu(self, alpha: f64) -> Tensor<'g> {
        self.unary_with(&ELU, Attrs::none().with("alpha", alpha))
    }

    /// x·σ(x).
    #[track_caller]
    pub fn silu(self) -> Tensor<'g> {
        self.unary(&SILU)
    }

    /// x·Φ(x), exact.
    #[track_caller]
    pub fn gelu(self) -> Tensor<'g> {
        self.unary(&GELU)
    }

    /// x·Φ(x), approximated through tanh.
    #[track_caller]
    pub fn gelu_tanh(self) -> Tensor<'g> {
        self.unary(&GELU_TANH)
    }

    /// Softmax along an axis.
    #[track_caller]
    pub fn softmax(self, axis: impl Into<Axis>) -> Tensor<'g> {
        self.along(&SOFTMAX, axis)
    }

    /// Logarithm of softmax along an axis.
    #[track_caller]
    pub fn log_softmax(self, axis: impl Into<Axis>) -> Tensor<'g> {
        self.along(&LOG_SOFTMAX, axis)
    }

    /// Inverted dropout with probability `p` while the builder trains; this very tensor in evaluation. The mask's stream is
    /// `name` in the current scope.
    #[track_caller]
    pub fn dropout(self, name: &str, p: f64) -> Tensor<'g> {
        let g = self.builder();
        if self.is_poisoned() || (!g.is_training() && (0.0..1.0).contains(&p)) || p == 0.0 {
            return self;
        }
        if p.is_nan() {
            return self.refuse(Diag::new(Code::BadAttribute, "`dropout` requires a probability in [0, 1), got NaN"));
        }
        let stream = g.stream_name(name);
        self.unary_with(&DROPOUT, Attrs::none().with("p", p).with("stream", stream.as_str()))
    }
}
