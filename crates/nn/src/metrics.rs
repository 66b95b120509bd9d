//! Metrics: numbers about predictions that are outputs of a graph, not trained on.
//!
//! Logits are `[.., classes]` and labels are class indices `[..]` (i32 or i64), as for `cross_entropy`. A label outside
//! the classes counts as a wrong prediction here, because a metric must not stop a step; so does a row with a NaN.

use cotangent_graph::ops::compare::EQ;
use cotangent_graph::{Code, DType, Diag, Tensor};

/// Metrics as methods of the logits.
pub trait Metrics<'g>: Sized {
    /// The share of rows whose largest logit is at the label: a scalar f32 in [0, 1]. It is the correctly rounded
    /// quotient, so that all correct is exactly 1. Of no rows it is NaN.
    #[track_caller]
    fn accuracy(self, labels: Tensor<'_>) -> Tensor<'g>;

    /// The number of rows whose largest logit is at the label: a scalar i64. For summing over batches.
    #[track_caller]
    fn n_correct(self, labels: Tensor<'_>) -> Tensor<'g>;
}

impl<'g> Metrics<'g> for Tensor<'g> {
    #[track_caller]
    fn accuracy(self, labels: Tensor<'_>) -> Tensor<'g> {
        let hits = hits(self, labels);
        let n_rows = hits.shape().n_elements();
        hits.cast(DType::F32).sum() / n_rows as f64
    }

    #[track_caller]
    fn n_correct(self, labels: Tensor<'_>) -> Tensor<'g> {
        hits(self, labels).cast(DType::I64).sum()
    }
}

/// Whether the largest logit is at the label, for each row.
#[track_caller]
fn hits<'g>(logits: Tensor<'g>, labels: Tensor<'_>) -> Tensor<'g> {
    let g = logits.builder();
    if logits.is_poisoned() || labels.is_poisoned() {
        return g.poisoned();
    }
    // Unequal shapes would broadcast in the comparison and count something else.
    let (logits_ty, labels_ty) = (logits.ty(), labels.ty());
    let fits = logits.rank() > 0 && logits.shape()[..logits.rank() - 1] == labels.shape()[..];
    if !fits {
        let text = format!("accuracy requires logits [.., classes] and labels [..], got {logits_ty} and {labels_ty}");
        return g.poison(Diag::new(Code::ShapeMismatch, text).operands(&[logits, labels]));
    }
    if !matches!(labels_ty.dtype(), DType::I32 | DType::I64) {
        let text = format!("accuracy requires labels of i32 or i64, got {}", labels_ty.dtype());
        let diag = Diag::new(Code::DTypeMismatch, text).operands(&[logits, labels]);
        return g.poison(diag.help("convert with `cast`"));
    }
    // Not `eq`, which wants both of one builder: labels of another graph are an error that the op reports.
    let hits = logits.argmax(logits.rank() - 1).binary(&EQ, labels.cast(DType::I64));
    // `argmax` names the first NaN, which is no prediction of its class.
    let largest = logits.max_over(-1);
    if logits.is_float() { hits & largest.eq(largest) } else { hits }
}
