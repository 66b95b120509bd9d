//! What is minimized: a loss over a model's outputs and the labels, and how a prediction counts as correct.
//!
//! Why it exists: the trainer must sum losses over batches of different sizes, count hits, and refuse labels that have no
//! meaning; only the objective knows how. A user's own objective is another implementation of [`Objective`].
//!
//! Assumes: outputs are `[batch, ..]` and labels `[batch]`.

use cotangent_exec::InputView;
use cotangent_graph::{DType, Shape, Tensor};
use cotangent_nn::Metrics;
use ndarray::Array1;

/// The element type of labels: `i64` for classes, `f32` for targets.
pub trait Label: Copy + PartialOrd {
    /// The element type in the graph.
    const DTYPE: DType;

    /// The label as a number, for checks; classes beyond 2⁵³ are rounded.
    fn number(self) -> f64;

    /// Labels as an input of a step.
    fn view(labels: &Array1<Self>) -> InputView<'_>;
}

macro_rules! labels {
    ($($t:ty, $dtype:ident, |$v:ident| $number:expr;)*) => {
        $(impl Label for $t {
            const DTYPE: DType = DType::$dtype;
            fn number(self) -> f64 {
                let $v = self;
                $number
            }
            fn view(labels: &Array1<Self>) -> InputView<'_> {
                labels.into()
            }
        })*
    };
}
labels! {
    i64, I64, |v| v as f64;
    f32, F32, |v| f64::from(v);
}

/// A loss with its notion of a correct prediction.
pub trait Objective {
    /// The mean loss over the batch, a scalar float.
    #[track_caller]
    fn loss<'g>(&self, outputs: Tensor<'g>, labels: Tensor<'g>) -> Tensor<'g>;

    /// The number of correct predictions in the batch, a scalar i64; `None` if there is no such notion.
    #[track_caller]
    fn n_correct<'g>(&self, outputs: Tensor<'g>, labels: Tensor<'g>) -> Option<Tensor<'g>>;

    /// What labels have to be for outputs of this shape, if this one is not: "a class in 0..10".
    ///
    /// # Errors
    /// The requirement that the label breaks.
    fn check_label(&self, label: f64, outputs: &Shape) -> Result<(), String>;
}

/// Softmax and cross-entropy: outputs are logits `[batch, classes]`, labels classes.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossEntropy;

impl Objective for CrossEntropy {
    #[track_caller]
    fn loss<'g>(&self, outputs: Tensor<'g>, labels: Tensor<'g>) -> Tensor<'g> {
        outputs.cross_entropy(labels).mean()
    }

    #[track_caller]
    fn n_correct<'g>(&self, outputs: Tensor<'g>, labels: Tensor<'g>) -> Option<Tensor<'g>> {
        Some(outputs.n_correct(labels))
    }

    fn check_label(&self, label: f64, outputs: &Shape) -> Result<(), String> {
        let n_classes = outputs.last().copied().unwrap_or(0);
        let is_class = label >= 0.0 && label < n_classes as f64 && label.fract() == 0.0;
        if is_class { Ok(()) } else { Err(format!("a class in 0..{n_classes}")) }
    }
}

/// Sigmoid and binary cross-entropy: outputs are one logit a row, `[batch]` or `[batch, 1]`, labels 0 or 1, or a
/// probability in between. A prediction is correct if logit and label are on the same side of one half.
#[derive(Clone, Copy, Debug, Default)]
pub struct BinaryCrossEntropy;

impl Objective for BinaryCrossEntropy {
    #[track_caller]
    fn loss<'g>(&self, outputs: Tensor<'g>, labels: Tensor<'g>) -> Tensor<'g> {
        let (outputs, labels) = aligned(outputs, labels);
        outputs.bce_with_logits(labels).mean()
    }

    #[track_caller]
    fn n_correct<'g>(&self, outputs: Tensor<'g>, labels: Tensor<'g>) -> Option<Tensor<'g>> {
        let (outputs, labels) = aligned(outputs, labels);
        let (predicted, actual) = (outputs.gt(outputs.constant_like(0.0)), labels.gt(labels.constant_like(0.5)));
        // A NaN is on neither side.
        let hits = predicted.cast(DType::I64).eq(actual.cast(DType::I64)) & outputs.eq(outputs);
        Some(hits.cast(DType::I64).sum())
    }

    fn check_label(&self, label: f64, _outputs: &Shape) -> Result<(), String> {
        if (0.0..=1.0).contains(&label) { Ok(()) } else { Err("a number from 0 to 1".to_owned()) }
    }
}

/// The mean of squared differences: outputs are one number a row, `[batch]` or `[batch, 1]`, labels finite targets.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeanSquared;

impl Objective for MeanSquared {
    #[track_caller]
    fn loss<'g>(&self, outputs: Tensor<'g>, labels: Tensor<'g>) -> Tensor<'g> {
        let (outputs, labels) = aligned(outputs, labels);
        outputs.mse(labels)
    }

    fn n_correct<'g>(&self, _outputs: Tensor<'g>, _labels: Tensor<'g>) -> Option<Tensor<'g>> {
        None
    }

    fn check_label(&self, label: f64, _outputs: &Shape) -> Result<(), String> {
        if label.is_finite() { Ok(()) } else { Err("a finite number".to_owned()) }
    }
}

/// Outputs `[batch, 1]` as `[batch]`, and labels in the outputs' element type. Outputs of other shapes stay as they are, and the
/// loss says that the labels do not fit them.
#[track_caller]
fn aligned<'g>(outputs: Tensor<'g>, labels: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
    let column: Shape = labels.shape().iter().copied().chain([1]).collect();
    let outputs = if outputs.shape() == column { outputs.reshape(labels.shape()) } else { outputs };
    (outputs, labels.cast(outputs.dtype()))
}
