//! Losses, in forms that stay finite and with derivatives of their own.

use cotangent_scalar::DType;
use smallvec::{SmallVec, smallvec};

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::builder::Tensor;
use crate::diag::{Code, Diag};
use crate::eval;
use crate::op::{Arity, ExpandCx, Lower, OpDef, OpTraits, Vjp};
use crate::ops::activation::shifted;
use crate::ops::arithmetic::{InferFn, SampleFn};
use crate::ops::infer_float;
use crate::samples::Sample;
use crate::types::Type;

/// Cross-entropy of logits and class indices.
pub static CROSS_ENTROPY: OpDef = OpDef {
    name: "cross_entropy",
    doc: "Log-loss `-a_y + max a + log Σ exp(a_j - max a)` of logits `[.., classes]` and class indices `[..]`, one number a \
          row; finite for any finite logits. A class outside `0..classes` is an error of the step.",
    arity: Arity::Exact(2),
    attrs: &[],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ((dtype, logits), (label, labels)) = (cx.tensor(0)?, cx.tensor(1)?);
        if !dtype.is_float() {
            return Err(cx.dtype_fault(format_args!("requires float logits, got {dtype}")).help("convert with `cast`"));
        }
        if !matches!(label, DType::I32 | DType::I64) {
            let fault = cx.dtype_fault(format_args!("requires class indices of i32 or i64, got {label}"));
            return Err(fault.help("convert with `cast`"));
        }
        if logits.rank() == 0 || logits[..logits.rank() - 1] != labels[..] || logits.last() == Some(&0) {
            let text = format_args!("requires logits [.., classes] and class indices [..], got {logits} and {labels}");
            return Err(cx.shape_fault(text));
        }
        Ok(Type::tensor(dtype, labels))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let logits = cx.inputs[0];
        let axis = logits.rank() - 1;
        let p = logits.softmax(axis);
        let hit = cx.inputs[1].is_class(logits.dim(-1));
        let dy = cx.dy.repeat_along(&logits.shape(), [axis]);
        smallvec![Some(hit.select(p - 1.0, p) * dy), None]
    }),
    lower: Lower::Expand(|cx| {
        let logits = cx.inputs[0];
        let axis = logits.rank() - 1;
        let z = shifted(logits, axis);
        let hit = cx.inputs[1].is_class(logits.dim(-1));
        let picked = hit.select(z, z.constant_like(0.0)).sum_over([axis]);
        smallvec![z.exp().sum_over([axis]).log() - picked]
    }),
    samples: |s| {
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [4, 5]), s.ints(DType::I64, 0..5, [4])]),
            Sample::new(vec![s.float_in(-9.0..9.0, [2, 2, 3]), s.ints(DType::I32, 0..3, [2, 2])]),
        ]
    },
};

/// Binary cross-entropy of logits and targets.
pub static BCE_WITH_LOGITS: OpDef = OpDef {
    name: "bce_with_logits",
    doc: "Binary cross-entropy `softplus(z) - z·y` of logits `z` and targets `y` in [0, 1], element by element; equals \
          `-(y log σ(z) + (1-y) log(1-σ(z)))`, is finite for any finite logits and 0 at infinite ones that are right.",
    arity: Arity::Exact(2),
    attrs: &[],
    traits: OpTraits::POINTWISE,
    infer: infer_float,
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let z = cx.inputs[0];
        let Doubt { minus, missed, dropped } = Doubt::of(z, cx.inputs[1]);
        let s = minus.sigmoid();
        let slope = z.gt(0.0).select(missed - s, s - missed);
        smallvec![Some(cx.dy * dropped.select(0.0, slope)), Some(dropped.select(0.0, -(cx.dy * z)))]
    }),
    lower: Lower::Expand(|cx| {
        let Doubt { minus, missed, dropped } = Doubt::of(cx.inputs[0], cx.inputs[1]);
        smallvec![minus.softplus() - dropped.select(0.0, minus * missed)]
    }),
    samples: |s| vec![Sample::new(vec![s.float_in(-4.0..4.0, [3, 4]), s.float_in(0.0..1.0, [3, 4])])],
};

/// Logits and targets in numbers in which nothing cancels: `softplus(z) - z·y` is `softplus(-|z|) + |z|·missed`, and `σ(z) - y` is
/// `±(σ(-|z|) - missed)`.
struct Doubt<'g> {
    /// `-|z|`.
    minus: Tensor<'g>,
    /// How much of the target is on the other side than the logit.
    missed: Tensor<'g>,
    /// Whether an infinite logit is right: its product with nothing is nothing.
    dropped: Tensor<'g>,
}

impl<'g> Doubt<'g> {
    #[track_caller]
    fn of(z: Tensor<'g>, y: Tensor<'g>) -> Self {
        let positive = z.gt(0.0);
        // Not `-z.abs()`, which has the derivative 0 at 0.
        let (minus, missed) = (positive.select(-z, z), positive.select(1.0 - y, y));
        let dropped = missed.eq(0.0) & minus.eq(f64::NEG_INFINITY);
        Doubt { minus, missed, dropped }
    }
}

/// Mean squared error.
pub static MSE: OpDef = OpDef {
    name: "mse",
    doc: "Mean squared error `mean((a - b)²)` over all elements.",
    arity: Arity::Exact(2),
    attrs: &[],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ty = infer_float(cx)?;
        if ty.shape().n_elements() == 0 {
            return Err(cx.shape_fault(format_args!("of no elements is undefined: {}", ty.shape())));
        }
        Ok(Type::tensor(ty.dtype(), []))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let difference = cx.inputs[0] - cx.inputs[1];
        let n = difference.shape().n_elements() as f64;
        let d = difference * (cx.dy * 2.0 / n).broadcast_to(difference.shape());
        smallvec![Some(d), Some(-d)]
    }),
    lower: Lower::Expand(|cx| {
        let difference = cx.inputs[0] - cx.inputs[1];
        smallvec![(difference * difference).mean()]
    }),
    samples: |s| vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 4]), s.float_in(-2.0..2.0, [3, 4])])],
};

/// A pointwise loss of predictions and targets.
const fn pointwise_loss(
    name: &'static str,
    doc: &'static str,
    attrs: &'static [AttrSpec],
    infer: InferFn,
    expand: for<'g, 'a> fn(&ExpandCx<'g, 'a>) -> SmallVec<[Tensor<'g>; 1]>,
    vjp: Vjp,
    samples: SampleFn,
) -> OpDef {
    OpDef {
        name,
        doc,
        arity: Arity::Exact(2),
        attrs,
        traits: OpTraits::POINTWISE,
        infer,
        eval: eval::unbound,
        vjp,
        lower: Lower::Expand(expand),
        samples,
    }
}

/// Squared near 0, linear far away.
pub static HUBER: OpDef = pointwise_loss(
    "huber",
    "Huber's loss of `d = a - b`, element by element: `d²/2` for `|d| <= delta`, `delta · (|d| - delta/2)` beyond (smooth L1 \
     for `delta = 1`).",
    &[AttrSpec { name: "delta", kind: AttrKind::Float, doc: "where the loss becomes linear" }],
    |cx| {
        let delta = cx.attrs.float("delta");
        if !delta.is_finite() || delta <= 0.0 {
            return Err(cx.attr_fault(format_args!("requires a positive, finite `delta`, got {delta}")));
        }
        infer_float(cx)
    },
    |cx| {
        let (d, delta) = (cx.inputs[0] - cx.inputs[1], cx.attrs.float("delta"));
        let near = d.abs().le(d.constant_like(delta));
        smallvec![near.select(d * d * 0.5, (d.abs() - 0.5 * delta) * delta)]
    },
    Vjp::Rule(|cx| {
        let delta = cx.attrs.float("delta");
        let d = cx.inputs[0] - cx.inputs[1];
        // `d` itself up to `delta` included, as in the loss, so that its slope is 1 there.
        let near = d.abs().le(d.constant_like(delta));
        let slope = cx.dy * near.select(d, d.clamp(-delta, delta));
        smallvec![Some(slope), Some(-slope)]
    }),
    |s| {
        let inputs = vec![s.away_from_zero(0.1..0.6, [3, 4]), s.away_from_zero(2.0..4.0, [3, 4])];
        let near = vec![s.float_in(-0.3..0.3, [5]), s.float_in(-0.3..0.3, [5])];
        let delta = || Attrs::none().with("delta", 1.0);
        vec![Sample::new(inputs).attrs(delta()), Sample::new(near).attrs(delta())]
    },
);

/// max(0, 1 − y·a).
pub static HINGE: OpDef = pointwise_loss(
    "hinge",
    "Hinge loss `max(0, 1 - y·a)` of scores `a` and labels `y` of -1 or 1, element by element.",
    &[],
    infer_float,
    |cx| smallvec![(1.0 - cx.inputs[0] * cx.inputs[1]).relu()],
    Vjp::ViaExpansion,
    |s| vec![Sample::new(vec![s.away_from_zero(0.2..0.8, [3, 4]), s.away_from_zero(0.5..0.9, [3, 4])])],
);

/// y·(log y − log p).
pub static KL_DIVERGENCE: OpDef = pointwise_loss(
    "kl_divergence",
    "Terms `y · (log y - q)` of the Kullback-Leibler divergence of targets `y` from log-probabilities `q`; 0 where `y = 0`. \
     NaN where `y` is negative or NaN. Operands: `q`, `y`.",
    &[],
    infer_float,
    |cx| {
        let (q, y) = (cx.inputs[0], cx.inputs[1]);
        let zero = y.constant_like(0.0);
        smallvec![y.eq(zero).select(zero, y * (y.log() - q))]
    },
    Vjp::ViaExpansion,
    |s| vec![Sample::new(vec![s.float_in(-3.0..0.0, [3, 4]), s.float_in(0.1..1.0, [3, 4])])],
);

/// The negative log-likelihood of class indices.
pub static NLL: OpDef = OpDef {
    name: "nll",
    doc: "Negative log-likelihood `-q_y` of log-probabilities `[.., classes]` and class indices `[..]`, one number a row. A \
          class outside `0..classes` is an error of the step.",
    arity: Arity::Exact(2),
    attrs: &[],
    traits: OpTraits::NONE,
    infer: CROSS_ENTROPY.infer,
    eval: eval::unbound,
    vjp: Vjp::ViaExpansion,
    lower: Lower::Expand(|cx| {
        let q = cx.inputs[0];
        let hit = cx.inputs[1].is_class(q.dim(-1));
        smallvec![-(hit.select(q, q.constant_like(0.0)).sum_over([q.rank() - 1]))]
    }),
    samples: |s| vec![Sample::new(vec![s.float_in(-4.0..0.0, [4, 5]), s.ints(DType::I64, 0..5, [4])])],
};

/// `y·q` of log-probabilities `q`; 0 where `y = 0`, also where `q` is -∞: a class that is impossible and not wanted.
fn weighted<'g>(q: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
    impossible(q, y).select(y.constant_like(0.0), q * y)
}

/// Whether `y = 0` and `q` is -∞.
fn impossible<'g>(q: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
    y.eq(y.constant_like(0.0)) & q.eq(q.constant_like(f64::NEG_INFINITY))
}

/// Cross-entropy of probabilities and target probabilities.
pub static CROSS_ENTROPY_OF_PROBABILITIES: OpDef = OpDef {
    name: "cross_entropy_of_probabilities",
    doc: "`-Σ y · log p` along the last axis, of probabilities `p` and target probabilities `y`, `[.., classes]` both; a term \
          with `y = 0` is 0, also where `p = 0`. Prefer `cross_entropy` of logits, which cannot overflow.",
    arity: Arity::Exact(2),
    attrs: &[],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ty = infer_float(cx)?;
        let rank = ty.shape().rank();
        if rank == 0 {
            return Err(cx.shape_fault("requires probabilities [.., classes], got a scalar"));
        }
        Ok(Type::tensor(ty.dtype(), ty.shape().without(&[rank - 1])))
    },
    eval: eval::unbound,
    vjp: Vjp::ViaExpansion,
    lower: Lower::Expand(|cx| {
        let (p, y) = (cx.inputs[0], cx.inputs[1]);
        smallvec![-(weighted(p.log(), y).sum_over([p.rank() - 1]))]
    }),
    samples: |s| vec![Sample::new(vec![s.float_in(0.1..0.9, [3, 4]), s.float_in(0.1..0.9, [3, 4])])],
};

/// Cross-entropy of logits and target probabilities.
pub static SOFT_CROSS_ENTROPY: OpDef = OpDef {
    name: "soft_cross_entropy",
    doc: "`-Σ y · log softmax(a)` along the last axis, of logits `a` and target probabilities `y`, `[.., classes]` both; finite \
          for any finite logits. A term with `y = 0` is 0, also where a logit is -inf. The targets need not sum to 1.",
    arity: Arity::Exact(2),
    attrs: &[],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ty = infer_float(cx)?;
        let rank = ty.shape().rank();
        if rank == 0 || ty.shape().last() == Some(&0) {
            return Err(cx.shape_fault(format_args!("requires logits [.., classes], got {}", ty.shape())));
        }
        Ok(Type::tensor(ty.dtype(), ty.shape().without(&[rank - 1])))
    },
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (a, y) = (cx.inputs[0], cx.inputs[1]);
        let (shape, axis) = (a.shape(), a.rank() - 1);
        let dy = cx.dy.repeat_along(&shape, [axis]);
        let (total, q) = (y.sum_over([axis]).repeat_along(&shape, [axis]), a.log_softmax(axis));
        let by_target = impossible(q, y).select(q.constant_like(0.0), -(q * dy));
        smallvec![Some((a.softmax(axis) * total - y) * dy), Some(by_target)]
    }),
    lower: Lower::Expand(|cx| {
        let (a, y) = (cx.inputs[0], cx.inputs[1]);
        let axis = a.rank() - 1;
        smallvec![-(weighted(a.log_softmax(axis), y).sum_over([axis]))]
    }),
    samples: |s| vec![Sample::new(vec![s.float_in(-3.0..3.0, [3, 4]), s.float_in(0.1..0.9, [3, 4])])],
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[
    &CROSS_ENTROPY,
    &SOFT_CROSS_ENTROPY,
    &BCE_WITH_LOGITS,
    &MSE,
    &HUBER,
    &HINGE,
    &KL_DIVERGENCE,
    &NLL,
    &CROSS_ENTROPY_OF_PROBABILITIES,
];

/// A loss has a number for each of what it compares: of elements for each element, of rows (classes along the last axis) for each
/// row; `.mean()` makes a scalar of them. A loss that is a mean has that in its name: `mse`, `mae`, `mean_…`. Predictions and
/// targets have one shape; nothing is broadcast, because that would compare each with all.
impl<'g> Tensor<'g> {
    /// Cross-entropy of these logits `[.., classes]` and class indices `[..]`: one number a row.
    #[track_caller]
    pub fn cross_entropy(self, labels: Tensor<'_>) -> Tensor<'g> {
        self.builder().op(&CROSS_ENTROPY, &[self, labels], Attrs::none(), None)
    }

    /// Cross-entropy of these logits and target probabilities, `[.., classes]` both: one number a row.
    #[track_caller]
    pub fn soft_cross_entropy(self, targets: Tensor<'_>) -> Tensor<'g> {
        self.compared(&SOFT_CROSS_ENTROPY, targets, Attrs::none())
    }

    /// Binary cross-entropy of these logits and targets of the same shape: one number an element.
    #[track_caller]
    pub fn bce_with_logits(self, targets: Tensor<'_>) -> Tensor<'g> {
        self.compared(&BCE_WITH_LOGITS, targets, Attrs::none())
    }

    /// Squared error `(a - b)²` against targets of the same shape: one number an element.
    #[track_caller]
    pub fn squared_error(self, targets: Tensor<'_>) -> Tensor<'g> {
        self.error_of("squared_error", targets).square()
    }

    /// Mean squared error against targets of the same shape, a scalar.
    #[track_caller]
    pub fn mse(self, targets: Tensor<'_>) -> Tensor<'g> {
        self.compared(&MSE, targets, Attrs::none())
    }

    /// Absolute error `|a - b|` against targets of the same shape: one number an element.
    #[track_caller]
    pub fn absolute_error(self, targets: Tensor<'_>) -> Tensor<'g> {
        self.error_of("absolute_error", targets).abs()
    }

    /// Mean absolute error against targets of the same shape, a scalar.
    #[track_caller]
    pub fn mae(self, targets: Tensor<'_>) -> Tensor<'g> {
        self.error_of("mae", targets).abs().mean()
    }

    /// Huber's loss against targets of the same shape: one number an element.
    #[track_caller]
    pub fn huber(self, targets: Tensor<'_>, delta: f64) -> Tensor<'g> {
        self.compared(&HUBER, targets, Attrs::none().with("delta", delta))
    }

    /// Hinge loss of these scores and labels of -1 or 1, of the same shape: one number an element.
    #[track_caller]
    pub fn hinge(self, labels: Tensor<'_>) -> Tensor<'g> {
        self.compared(&HINGE, labels, Attrs::none())
    }

    /// Terms of the Kullback-Leibler divergence of targets from these log-probabilities, of the same shape: one number an
    /// element.
    #[track_caller]
    pub fn kl_divergence(self, targets: Tensor<'_>) -> Tensor<'g> {
        self.compared(&KL_DIVERGENCE, targets, Attrs::none())
    }

    /// Negative log-likelihood of class indices `[..]` under these log-probabilities `[.., classes]`: one number a row.
    #[track_caller]
    pub fn nll(self, labels: Tensor<'_>) -> Tensor<'g> {
        self.builder().op(&NLL, &[self, labels], Attrs::none(), None)
    }

    /// Cross-entropy of these probabilities and target probabilities, `[.., classes]` both: one number a row.
    #[track_caller]
    pub fn cross_entropy_of_probabilities(self, targets: Tensor<'_>) -> Tensor<'g> {
        self.compared(&CROSS_ENTROPY_OF_PROBABILITIES, targets, Attrs::none())
    }

    /// A loss of predictions and targets, whose shapes must be equal.
    #[track_caller]
    fn compared(self, op: &'static OpDef, targets: Tensor<'_>, attrs: Attrs) -> Tensor<'g> {
        let targets = self.targets(op.name, targets);
        self.builder().op(op, &[self, targets], attrs, None)
    }

    /// Predictions minus targets.
    #[track_caller]
    fn error_of(self, loss: &str, targets: Tensor<'_>) -> Tensor<'g> {
        let targets = self.targets(loss, targets);
        self.builder().op(&super::arithmetic::SUB, &[self, targets], Attrs::none(), None)
    }

    /// The targets of these predictions, or, with an error, what would be some.
    #[track_caller]
    fn targets<'t>(self, loss: &str, targets: Tensor<'t>) -> Tensor<'t>
    where
        'g: 't,
    {
        let g = self.builder();
        if self.is_poisoned() || !g.owns(targets) || self.shape() == targets.shape() {
            return targets;
        }
        let text = format!("`{loss}` requires targets of the predictions' type, {}, got {}", self.ty(), targets.ty());
        let diag = Diag::new(Code::ShapeMismatch, text).operands(&[self, targets]);
        g.error(diag.help("a loss does not broadcast, for that would compare each with all: `reshape` one of them"));
        g.poisoned_as(Type::tensor(targets.dtype(), self.shape()))
    }
}
