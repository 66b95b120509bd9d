//! Further activations: piecewise linear ones, smooth relatives of ReLU, and maxout.

use smallvec::{SmallVec, smallvec};

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::builder::Tensor;
use crate::diag::Code;
use crate::eval;
use crate::op::{Arity, ExpandCx, Fault, Lower, OpDef, OpTraits, Vjp, VjpCx};
use crate::ops::activation::up_to_zero;
use crate::ops::arithmetic::{SampleFn, kinked, one, pointwise};
use crate::ops::infer_float;
use crate::samples::{Sample, Sampler};
use crate::types::{Shape, Type};

/// The scale of SELU (Klambauer et al. 2017).
const SELU_SCALE: f64 = 1.050_700_987_355_480_5;
/// The limit of SELU at minus infinity, before scaling (Klambauer et al. 2017).
const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;

const fn activation(
    name: &'static str,
    doc: &'static str,
    expand: for<'g, 'a> fn(&ExpandCx<'g, 'a>) -> SmallVec<[Tensor<'g>; 1]>,
    vjp: Vjp,
    samples: SampleFn,
) -> OpDef {
    OpDef {
        name,
        doc,
        arity: Arity::Exact(1),
        attrs: &[],
        traits: OpTraits::POINTWISE,
        infer: infer_float,
        eval: eval::unbound,
        vjp,
        lower: Lower::Expand(expand),
        samples,
    }
}

/// Away from the kinks at whole multiples of 3.
fn between_threes(s: &mut Sampler) -> Vec<Sample> {
    let dtype = s.dtype();
    vec![Sample::new(vec![s.of(dtype, [4, 5], |s| 3.0 * s.int(-3..3) as f64 + 0.2 + 2.6 * s.unit())])]
}

/// `dy` where the operand is strictly inside, zero elsewhere.
fn inside<'g>(cx: &VjpCx<'g, '_>, low: f64, high: f64, slope: f64) -> Tensor<'g> {
    let (x, zero) = (cx.x(), cx.dy.constant_like(0.0));
    let within = x.gt(x.constant_like(low)) & x.lt(x.constant_like(high));
    within.select(cx.dy * slope, zero)
}

/// 1 above 0, otherwise 0.
pub static THRESHOLD: OpDef = pointwise(
    "threshold",
    "Threshold `I[x > 0]`: 1 above 0, otherwise 0; its derivative is taken as 0.",
    1,
    OpTraits::MONOTONE,
    infer_float,
    |s, v, _| {
        let (zero, one) = (s.like(0.0, v[0]), s.like(1.0, v[0]));
        let positive = s.gt(v[0], zero);
        s.select(positive, one, zero)
    },
    Vjp::Zero("constant wherever it is smooth"),
    kinked,
);

/// min(max(x, 0), 6).
pub static RELU6: OpDef = activation(
    "relu6",
    "`min(max(x, 0), 6)`.",
    |cx| smallvec![cx.inputs[0].clamp(0.0, 6.0)],
    Vjp::Rule(|cx| smallvec![Some(inside(cx, 0.0, 6.0, 1.0))]),
    between_threes,
);

/// The piecewise linear sigmoid.
pub static HARD_SIGMOID: OpDef = activation(
    "hard_sigmoid",
    "`min(max(x/6 + 1/2, 0), 1)`.",
    |cx| smallvec![(cx.inputs[0] / 6.0 + 0.5).clamp(0.0, 1.0)],
    Vjp::Rule(|cx| smallvec![Some(inside(cx, -3.0, 3.0, 1.0 / 6.0))]),
    between_threes,
);

/// x times the piecewise linear sigmoid.
pub static HARD_SWISH: OpDef = activation(
    "hard_swish",
    "`x · min(max(x/6 + 1/2, 0), 1)` (Howard et al. 2019).",
    |cx| smallvec![cx.inputs[0] * cx.inputs[0].hard_sigmoid()],
    Vjp::ViaExpansion,
    between_threes,
);

/// The self-normalizing ELU.
pub static SELU: OpDef = activation(
    "selu",
    "`λx` above 0 and `λα(eˣ - 1)` below, with the constants of Klambauer et al. 2017.",
    |cx| smallvec![cx.inputs[0].elu(SELU_ALPHA) * SELU_SCALE],
    Vjp::ViaExpansion,
    kinked,
);

/// The continuously differentiable ELU.
pub static CELU: OpDef = OpDef {
    name: "celu",
    doc: "`max(x, 0) + min(0, alpha · (e^(x/alpha) - 1))` (Barron 2017).",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "alpha", kind: AttrKind::Float, doc: "the limit at minus infinity is -alpha; not 0" }],
    traits: OpTraits::POINTWISE.with(OpTraits::ZERO_PRESERVING),
    infer: |cx| {
        let alpha = cx.attrs.float("alpha");
        if !alpha.is_finite() || alpha <= 0.0 {
            return Err(cx.attr_fault(format_args!("requires a positive, finite `alpha`, got {alpha}")));
        }
        infer_float(cx)
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (zero, alpha) = (cx.dy.constant_like(0.0), cx.attrs.float("alpha"));
        let below = cx.dy * (up_to_zero(cx.x()) / alpha).exp();
        smallvec![Some(cx.x().ge(zero).select(cx.dy, below))]
    }),
    lower: Lower::Expand(|cx| {
        let (x, alpha) = (cx.inputs[0], cx.attrs.float("alpha"));
        let zero = x.constant_like(0.0);
        smallvec![x.ge(zero).select(x, (up_to_zero(x) / alpha).expm1() * alpha)]
    }),
    samples: |s| kinked(s).into_iter().map(|x| x.attrs(Attrs::none().with("alpha", 0.7))).collect(),
};

/// x / (1 + |x|).
pub static SOFTSIGN: OpDef = activation(
    "softsign",
    "`x / (1 + |x|)`.",
    |cx| smallvec![cx.inputs[0] / (cx.inputs[0].abs() + 1.0)],
    // Not over the square, which overflows first.
    Vjp::Rule(|cx| smallvec![Some(cx.dy * (1.0 / (cx.x().abs() + 1.0)).square())]),
    kinked,
);

/// x·tanh(softplus(x)).
pub static MISH: OpDef = activation(
    "mish",
    "`x · tanh(log(1 + eˣ))` (Misra 2019).",
    |cx| smallvec![cx.inputs[0] * cx.inputs[0].softplus().tanh()],
    Vjp::Rule(|cx| {
        let (x, inner) = (cx.x(), cx.x().softplus());
        smallvec![Some(cx.dy * (inner.tanh() + x * (inner.tanh_slope() * x.sigmoid())))]
    }),
    one,
);

/// log σ(x).
pub static LOG_SIGMOID: OpDef = activation(
    "log_sigmoid",
    "`log σ(x) = -log(1 + e⁻ˣ)`: finite for any finite operand.",
    |cx| smallvec![-((-cx.inputs[0]).softplus())],
    Vjp::Rule(|cx| smallvec![Some(cx.dy * (-cx.x()).sigmoid())]),
    one,
);

/// Leaky ReLU with a trained slope.
pub static PRELU: OpDef = OpDef {
    name: "prelu",
    doc: "`x` above 0 and `slope · x` below, with a slope that is trained (He et al. 2015); equal shapes.",
    arity: Arity::Exact(2),
    attrs: &[],
    traits: OpTraits::POINTWISE,
    infer: infer_float,
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (x, slope, zero) = (cx.inputs[0], cx.inputs[1], cx.dy.constant_like(0.0));
        let positive = x.gt(zero);
        smallvec![Some(positive.select(cx.dy, cx.dy * slope)), Some(positive.select(zero, cx.dy * x))]
    }),
    lower: Lower::Expand(|cx| {
        let (x, slope) = (cx.inputs[0], cx.inputs[1]);
        smallvec![x.gt(x.constant_like(0.0)).select(x, x * slope)]
    }),
    samples: |s| vec![Sample::new(vec![s.away_from_zero(0.1..3.0, [3, 4]), s.float_in(0.05..0.5, [3, 4])])],
};

/// The largest of k pieces.
pub static MAXOUT: OpDef = OpDef {
    name: "maxout",
    doc: "The largest of each `pieces` neighbours along the last axis, `[.., n · pieces]` to `[.., n]` (Goodfellow et al. \
          2013). Where several tie, the gradient goes to the first.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "pieces", kind: AttrKind::Int, doc: "how many compete for each element of the result" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ty = infer_float(cx)?;
        let (last, pieces) = (ty.shape().last().copied().unwrap_or(0), cx.attrs.size("pieces"));
        if ty.shape().rank() == 0 || pieces == 0 || last % pieces != 0 {
            let text =
                format!("`maxout` requires a last axis that {} divides, got {}", cx.attrs.int("pieces"), ty.shape());
            return Err(Fault::new(Code::ShapeMismatch, text));
        }
        let rank = ty.shape().rank();
        let shape: Shape = ty.shape()[..rank - 1].iter().copied().chain([last / pieces]).collect();
        Ok(Type::tensor(ty.dtype(), shape))
    },
    eval: eval::unbound,
    vjp: Vjp::ViaExpansion,
    lower: Lower::Expand(|cx| {
        // As rows of pieces: an axis more would be one too many of 32.
        let n = cx.ty.shape().n_elements();
        smallvec![cx.inputs[0].reshape([n, cx.attrs.size("pieces")]).max_over([1]).reshape(cx.ty.shape())]
    }),
    samples: |s| vec![Sample::new(vec![s.distinct([3, 8])]).attrs(Attrs::none().with("pieces", 4))],
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] =
    &[&THRESHOLD, &RELU6, &HARD_SIGMOID, &HARD_SWISH, &SELU, &CELU, &SOFTSIGN, &MISH, &LOG_SIGMOID, &PRELU, &MAXOUT];

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident, $op:ident;)*) => {
        impl<'g> Tensor<'g> {
            $($(#[$doc])* #[track_caller] pub fn $name(self) -> Tensor<'g> { self.unary(&$op) })*
        }
    };
}

methods! {
    /// 1 above 0, otherwise 0.
    threshold, THRESHOLD;
    /// min(max(x, 0), 6).
    relu6, RELU6;
    /// The piecewise linear sigmoid.
    hard_sigmoid, HARD_SIGMOID;
    /// x times the piecewise linear sigmoid.
    hard_swish, HARD_SWISH;
    /// The self-normalizing ELU.
    selu, SELU;
    /// x / (1 + |x|).
    softsign, SOFTSIGN;
    /// x·tanh(softplus(x)).
    mish, MISH;
    /// log σ(x).
    log_sigmoid, LOG_SIGMOID;
}

impl<'g> Tensor<'g> {
    /// max(x, 0) + min(0, alpha·(e^(x/alpha) − 1)).
    #[track_caller]
    pub fn celu(self, alpha: f64) -> Tensor<'g> {
        self.unary_with(&CELU, Attrs::none().with("alpha", alpha))
    }

    /// x above 0, slope·x below, with a trained slope; NumPy broadcasting.
    #[track_caller]
    pub fn prelu(self, slope: Tensor<'_>) -> Tensor<'g> {
        self.binary(&PRELU, slope)
    }

    /// The largest of each `pieces` neighbours along the last axis.
    #[track_caller]
    pub fn maxout(self, pieces: usize) -> Tensor<'g> {
        self.unary_with(&MAXOUT, Attrs::none().with("pieces", pieces as i64))
    }
}
