//! Losses, in forms that stay finite and with derivatives of their own.

use cotangent_scalar::DType;
use smallvec::smallvec;

use crate::attrs::Attrs;
use crate::builder::Tensor;
use crate::eval;
use crate::op::{Arity, Lower, OpDef, OpTraits, Vjp};
use crate::ops::activation::shifted;
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
        let dy = cx.dy.repeat_along(&logits.shape(), &[axis]);
        smallvec![Some(hit.select(p - 1.0, p) * dy), None]
    }),
    lower: Lower::Expand(|cx| {
        let logits = cx.inputs[0];
        let axis = logits.rank() - 1;
        let z = shifted(logits, axis);
        let hit = cx.inputs[1].is_class(logits.dim(-1));
        let picked = hit.select(z, z.constant_like(0.0)).reduce_sum(&[axis]);
        smallvec![z.exp().reduce_sum(&[axis]).log() - picked]
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
          `-(y log σ(z) + (1-y) log(1-σ(z)))` and is finite for any finite logits.",
    arity: Arity::Exact(2),
    attrs: &[],
    traits: OpTraits::POINTWISE,
    infer: infer_float,
    eval: eval::unbound,
    vjp: Vjp::Rule(|cx| {
        let (z, y) = (cx.inputs[0], cx.inputs[1]);
        smallvec![Some(cx.dy * (z.sigmoid() - y)), Some(-(cx.dy * z))]
    }),
    lower: Lower::Expand(|cx| {
        let (z, y) = (cx.inputs[0], cx.inputs[1]);
        smallvec![z.softplus() - z * y]
    }),
    samples: |s| vec![Sample::new(vec![s.float_in(-4.0..4.0, [3, 4]), s.float_in(0.0..1.0, [3, 4])])],
};

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
        let scale = 2.0 / difference.shape().n_elements() as f64;
        let d = difference * (cx.dy * scale).broadcast_to(difference.shape());
        smallvec![Some(d), Some(-d)]
    }),
    lower: Lower::Expand(|cx| {
        let difference = cx.inputs[0] - cx.inputs[1];
        smallvec![(difference * difference).mean()]
    }),
    samples: |s| vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 4]), s.float_in(-2.0..2.0, [3, 4])])],
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&CROSS_ENTROPY, &BCE_WITH_LOGITS, &MSE];

impl<'g> Tensor<'g> {
    /// Cross-entropy of these logits `[.., classes]` and class indices `[..]`: one number a row.
    #[track_caller]
    pub fn cross_entropy(self, labels: Tensor<'_>) -> Tensor<'g> {
        self.builder().op(&CROSS_ENTROPY, &[self, labels], Attrs::none(), None)
    }

    /// Binary cross-entropy of these logits and targets, element by element.
    #[track_caller]
    pub fn bce_with_logits(self, targets: Tensor<'_>) -> Tensor<'g> {
        self.binary(&BCE_WITH_LOGITS, targets)
    }

    /// Mean squared error against targets of the same shape.
    #[track_caller]
    pub fn mse(self, targets: Tensor<'_>) -> Tensor<'g> {
        self.binary(&MSE, targets)
    }
}
