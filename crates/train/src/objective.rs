//! What is minimized: a loss over a model's outputs and a batch, and what a prediction is judged by.
//!
//! Why it exists: the trainer must average losses over batches of different sizes, judge predictions, and refuse labels that
//! have no meaning; only the objective knows how. Those here go by the output `outputs` and the field `y`; a function of any
//! outputs and fields becomes one by [`loss`], and a user's own is another implementation of [`Objective`].

use std::fmt;

use cotangent_data::{Examples, Order};
use cotangent_graph::{DType, Shape, Tensor};
use cotangent_nn::{CrossEntropyOptions, Losses};
use ndarray::Array1;

use crate::TrainError;
use crate::metrics::{Accuracy, BinaryAccuracy, Metric};
use crate::named::{Named, OUTPUTS};

/// A loss, and how predictions are judged.
pub trait Objective {
    /// The mean loss over the batch, a scalar float.
    #[track_caller]
    fn loss<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Tensor<'g>;

    /// What the mean is over, a scalar: the sum of the weights of what counts. An epoch's figure is the mean over all of them, so it
    /// does not depend on the batch size. `None` is the number of examples.
    #[track_caller]
    fn weight<'g>(&self, _outputs: &Named<'g>, _batch: &Named<'g>) -> Option<Tensor<'g>> {
        None
    }

    /// The share of correct predictions, if there is such a notion.
    fn accuracy(&self) -> Option<Box<dyn Metric>> {
        None
    }

    /// Looks at labels before the first step, with the shapes of the model's outputs for a batch.
    ///
    /// # Errors
    /// [`TrainError::Label`] for one without meaning.
    fn check(&self, _set: &dyn Examples, _outputs: &[(String, Shape)]) -> Result<(), TrainError> {
        Ok(())
    }
}

impl<L: Objective + ?Sized> Objective for Box<L> {
    #[track_caller]
    fn loss<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Tensor<'g> {
        (**self).loss(outputs, batch)
    }

    #[track_caller]
    fn weight<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Option<Tensor<'g>> {
        (**self).weight(outputs, batch)
    }

    fn accuracy(&self) -> Option<Box<dyn Metric>> {
        (**self).accuracy()
    }

    fn check(&self, set: &dyn Examples, outputs: &[(String, Shape)]) -> Result<(), TrainError> {
        (**self).check(set, outputs)
    }
}

/// A function as an objective; see [`loss`].
#[derive(Clone, Copy)]
pub struct Loss<F>(F);

impl<F> fmt::Debug for Loss<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Loss")
    }
}

/// A function of outputs and batch as an objective: their mean loss, a scalar float.
///
/// ```
/// use cotangent_train::objective::loss;
///
/// let reconstruction = loss(|outputs, batch| outputs.get("outputs").mse(batch.get("x")));
/// # let _: &dyn cotangent_train::Objective = &reconstruction;
/// ```
pub fn loss<F: for<'g> Fn(&Named<'g>, &Named<'g>) -> Tensor<'g>>(f: F) -> Loss<F> {
    Loss(f)
}

impl<F: for<'g> Fn(&Named<'g>, &Named<'g>) -> Tensor<'g>> Objective for Loss<F> {
    #[track_caller]
    fn loss<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Tensor<'g> {
        let g = outputs.builder();
        // Errors in it are at its own lines.
        let outer = g.set_origin(None);
        let loss = (self.0)(outputs, batch);
        g.set_origin(outer);
        loss
    }
}

/// Softmax and cross-entropy: outputs are logits `[batch, .., classes]`, labels classes `[batch, ..]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossEntropy;

impl Objective for CrossEntropy {
    #[track_caller]
    fn loss<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Tensor<'g> {
        outputs.get(OUTPUTS).cross_entropy(batch.get("y")).mean()
    }

    fn accuracy(&self) -> Option<Box<dyn Metric>> {
        Some(Box::new(Accuracy::default()))
    }

    fn check(&self, set: &dyn Examples, outputs: &[(String, Shape)]) -> Result<(), TrainError> {
        let n_classes = n_classes(outputs);
        check_labels(set, "y", &format!("a class in 0..{n_classes}"), |label| is_class(label, n_classes))
    }
}

/// [`CrossEntropy`] with a weight for each class, smoothed labels, and a label that does not count; the mean is over the weights
/// of what counts, of a batch and of an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightedCrossEntropy {
    weights: Option<Vec<f64>>,
    smoothing: f64,
    ignored: Option<i64>,
}

impl WeightedCrossEntropy {
    /// The plain loss.
    pub fn new() -> Self {
        WeightedCrossEntropy::default()
    }

    /// A weight for each class.
    pub fn weights(mut self, weights: impl IntoIterator<Item = f64>) -> Self {
        self.weights = Some(weights.into_iter().collect());
        self
    }

    /// The target is `1 - ε` at the label plus `ε/classes` everywhere.
    pub fn smoothing(mut self, eps: f64) -> Self {
        self.smoothing = eps;
        self
    }

    /// What has this label does not count; it may lie outside the classes.
    pub fn ignore(mut self, label: i64) -> Self {
        self.ignored = Some(label);
        self
    }
}

impl Objective for WeightedCrossEntropy {
    #[track_caller]
    fn loss<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Tensor<'g> {
        let logits = outputs.get(OUTPUTS);
        let mut options = CrossEntropyOptions::new().smoothing(self.smoothing);
        if let Some(weights) = &self.weights {
            options = options.weights(outputs.builder().constant(Array1::from(weights.clone())).cast(logits.dtype()));
        }
        if let Some(ignored) = self.ignored {
            options = options.ignore(ignored);
        }
        logits.mean_cross_entropy(batch.get("y"), options)
    }

    #[track_caller]
    fn weight<'g>(&self, _outputs: &Named<'g>, batch: &Named<'g>) -> Option<Tensor<'g>> {
        let (g, labels) = (batch.builder(), batch.get("y"));
        let one = g.scalar(1.0, DType::F64).broadcast_to(labels.shape());
        let weights = self.weights.iter().flatten().enumerate().fold(None, |sum, (class, &weight)| {
            let zero = one.constant_like(0.0);
            let own = labels.eq(labels.constant_like(class as f64)).select(one * weight, zero);
            Some(sum.map_or(own, |sum| sum + own))
        });
        let weights = weights.unwrap_or(one);
        let zero = weights.constant_like(0.0);
        let counted = self.ignored.map(|ignored| labels.ne(labels.constant_like(ignored)));
        Some(counted.map_or(weights, |counted| counted.select(weights, zero)).sum())
    }

    fn accuracy(&self) -> Option<Box<dyn Metric>> {
        let accuracy = Accuracy::default();
        Some(Box::new(self.ignored.map_or(accuracy.clone(), |label| accuracy.ignore(label))))
    }

    fn check(&self, set: &dyn Examples, outputs: &[(String, Shape)]) -> Result<(), TrainError> {
        let n_classes = n_classes(outputs);
        let other = self.ignored.map_or(String::new(), |label| format!(", or {label} for none"));
        check_labels(set, "y", &format!("a class in 0..{n_classes}{other}"), |label| {
            is_class(label, n_classes) || self.ignored.is_some_and(|ignored| label == ignored as f64)
        })
    }
}

/// Sigmoid and binary cross-entropy: outputs are one logit for each label, `[batch, ..]` or `[batch, .., 1]`, labels 0 or 1, or
/// a probability in between. A prediction is correct if logit and label are on the same side of one half.
#[derive(Clone, Copy, Debug, Default)]
pub struct BinaryCrossEntropy;

impl Objective for BinaryCrossEntropy {
    #[track_caller]
    fn loss<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Tensor<'g> {
        let (outputs, labels) = aligned(outputs.get(OUTPUTS), batch.get("y"));
        outputs.bce_with_logits(labels).mean()
    }

    fn accuracy(&self) -> Option<Box<dyn Metric>> {
        Some(Box::new(BinaryAccuracy::default()))
    }

    fn check(&self, set: &dyn Examples, _outputs: &[(String, Shape)]) -> Result<(), TrainError> {
        check_labels(set, "y", "a number from 0 to 1", |label| (0.0..=1.0).contains(&label))
    }
}

/// The mean of squared differences: outputs are one number for each label, `[batch, ..]` or `[batch, .., 1]`, labels finite
/// targets.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeanSquared;

impl Objective for MeanSquared {
    #[track_caller]
    fn loss<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Tensor<'g> {
        let (outputs, labels) = aligned(outputs.get(OUTPUTS), batch.get("y"));
        outputs.mse(labels)
    }

    fn check(&self, set: &dyn Examples, _outputs: &[(String, Shape)]) -> Result<(), TrainError> {
        check_labels(set, "y", "a finite number", f64::is_finite)
    }
}

fn n_classes(outputs: &[(String, Shape)]) -> usize {
    outputs.iter().find(|(name, _)| name == OUTPUTS).and_then(|(_, shape)| shape.last().copied()).unwrap_or(0)
}

fn is_class(label: f64, n_classes: usize) -> bool {
    label >= 0.0 && label < n_classes as f64 && label.fract() == 0.0
}

/// That all values of a field have a meaning.
///
/// # Errors
/// [`TrainError::Label`] for the first that has none.
pub fn check_labels(
    set: &dyn Examples,
    field: &str,
    required: &str,
    has_meaning: impl Fn(f64) -> bool,
) -> Result<(), TrainError> {
    // Without the field the graph has reported an error.
    let Some(at) = set.fields().iter().position(|known| known.name == field) else { return Ok(()) };
    let mut rows = Vec::new();
    let places = set.places(Order::Given, 0, 0)?;
    for places in places.chunks(1024) {
        set.gather(0, places, &mut rows)?;
        let labels = rows[at].to_f64();
        if let Some(wrong) = labels.iter().position(|&label| !has_meaning(label)) {
            let example = places[wrong / (labels.len() / places.len()).max(1)];
            return Err(TrainError::Label { example, required: required.to_owned(), got: labels[wrong].to_string() });
        }
    }
    Ok(())
}

/// Outputs `[.., 1]` as `[..]`, and labels in the outputs' element type. Outputs of other shapes stay as they are, and the
/// loss says that the labels do not fit them.
#[track_caller]
pub(crate) fn aligned<'g>(outputs: Tensor<'g>, labels: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
    let column: Shape = labels.shape().iter().copied().chain([1]).collect();
    let outputs = if outputs.shape() == column { outputs.reshape(labels.shape()) } else { outputs };
    (outputs, labels.cast(outputs.dtype()))
}
