//! Metrics that a trainer works out while it evaluates: what is to be known of a batch is computed by the program, and the
//! figure of the whole set on the host.

use std::collections::BTreeMap;

use cotangent_graph::{Code, DType, Diag, Tensor, TensorData};
use cotangent_host::float::in_default;
use cotangent_nn::Metrics;
use ndarray::{Array1, arr0};

use crate::named::{Named, OUTPUTS};
use crate::objective::aligned;

/// A figure of a set of examples. A user's own is another implementation.
///
/// ```
/// use cotangent_graph::{Tensor, TensorData};
/// use cotangent_train::{Metric, Named};
///
/// /// The sum of squared errors.
/// struct Squares;
///
/// impl Metric for Squares {
///     fn name(&self) -> String {
///         "squares".to_owned()
///     }
///
///     fn observe<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Vec<Tensor<'g>> {
///         vec![(outputs.get("outputs") - batch.get("y")).square().sum()]
///     }
///
///     fn figure(&self, batches: &[Vec<TensorData>]) -> f64 {
///         batches.iter().flatten().filter_map(TensorData::as_scalar).sum()
///     }
/// }
/// # let _: Box<dyn Metric> = Box::new(Squares);
/// ```
pub trait Metric {
    /// Its name in histories and for callbacks.
    fn name(&self) -> String;

    /// What is to be known of a batch.
    #[track_caller]
    fn observe<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Vec<Tensor<'g>>;

    /// The figure, of what was observed of each batch.
    fn figure(&self, batches: &[Vec<TensorData>]) -> f64;
}

/// The output and the field that a metric compares.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    outputs: String,
    labels: String,
}

impl Pair {
    fn new(outputs: &str, labels: &str) -> Self {
        Pair { outputs: outputs.to_owned(), labels: labels.to_owned() }
    }

    #[track_caller]
    fn get<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> (Tensor<'g>, Tensor<'g>) {
        (outputs.get(&self.outputs), batch.get(&self.labels))
    }

    /// One output for each label, in the same shape and type; a tensor after an error of the metric if they do not fit.
    #[track_caller]
    fn aligned<'g>(
        &self,
        metric: &str,
        outputs: &Named<'g>,
        batch: &Named<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>), Tensor<'g>> {
        let (outputs, labels) = self.get(outputs, batch);
        let (outputs, labels) = aligned(outputs, labels);
        checked(metric, "floats, one for each label", outputs, labels, |outputs, labels| {
            outputs.is_float() && outputs.shape() == labels.shape()
        })
    }

    /// Logits of classes, and a class for each row of them; a tensor after an error of the metric if they do not fit.
    #[track_caller]
    fn classes<'g>(
        &self,
        metric: &str,
        outputs: &Named<'g>,
        batch: &Named<'g>,
    ) -> Result<(Tensor<'g>, Tensor<'g>), Tensor<'g>> {
        let (logits, labels) = self.get(outputs, batch);
        let required = "logits [.., classes] and labels [..] of i32 or i64";
        checked(metric, required, logits, labels, |logits, labels| {
            matches!(labels.dtype(), DType::I32 | DType::I64)
                && logits.shape().split_last().is_some_and(|(_, rows)| *rows == labels.shape()[..])
        })
    }
}

/// Outputs and labels that a metric can compare, or a tensor after its error.
#[track_caller]
fn checked<'g>(
    metric: &str,
    required: &str,
    outputs: Tensor<'g>,
    labels: Tensor<'g>,
    fits: impl Fn(Tensor<'g>, Tensor<'g>) -> bool,
) -> Result<(Tensor<'g>, Tensor<'g>), Tensor<'g>> {
    let g = outputs.builder();
    if outputs.is_poisoned() || labels.is_poisoned() {
        return Err(g.poisoned());
    }
    if fits(outputs, labels) {
        return Ok((outputs, labels));
    }
    let text = format!("the metric `{metric}` requires {required}, got {} and {}", outputs.ty(), labels.ty());
    Err(g.poison(Diag::new(Code::ShapeMismatch, text).operands(&[outputs, labels])))
}

macro_rules! pairs {
    ($($metric:ident),*) => {
        $(impl Default for $metric {
            /// Of the output `outputs` and the field `y`.
            fn default() -> Self {
                $metric::new(OUTPUTS, "y")
            }
        })*
    };
}
pairs! { Accuracy, BinaryAccuracy, F1, Auc, MeanAbsolute, Perplexity }

/// A sum and what it is over, of each batch, as a mean.
fn mean(batches: &[Vec<TensorData>]) -> f64 {
    let sum = |at: usize| batches.iter().filter_map(|batch| batch.get(at)?.as_scalar()).sum::<f64>();
    in_default(|| sum(0) / sum(1))
}

/// The number of elements, as what a mean is over.
#[track_caller]
fn count<'g>(of: Tensor<'g>) -> Tensor<'g> {
    of.builder().constant(arr0(of.shape().n_elements() as i64))
}

/// All elements of what was observed at a place, batch after batch.
fn all(batches: &[Vec<TensorData>], at: usize) -> Vec<f64> {
    batches.iter().filter_map(|batch| batch.get(at)).flat_map(TensorData::to_f64).collect()
}

/// The share of labels `[batch, ..]` whose logit is the largest of `[batch, .., classes]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accuracy {
    of: Pair,
    ignored: Option<i64>,
}

impl Accuracy {
    /// Of an output and a field.
    pub fn new(outputs: &str, labels: &str) -> Self {
        Accuracy { of: Pair::new(outputs, labels), ignored: None }
    }

    /// What has this label does not count.
    pub fn ignore(mut self, label: i64) -> Self {
        self.ignored = Some(label);
        self
    }
}

impl Metric for Accuracy {
    fn name(&self) -> String {
        "accuracy".to_owned()
    }

    #[track_caller]
    fn observe<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Vec<Tensor<'g>> {
        let (logits, labels) = match self.of.classes(&self.name(), outputs, batch) {
            Ok(pair) => pair,
            Err(poisoned) => return vec![poisoned],
        };
        let Some(ignored) = self.ignored else { return vec![logits.n_correct(labels), count(labels)] };
        // What is ignored counts as neither, also if the label is a class.
        let is_ignored = labels.eq(labels.constant_like(ignored));
        let never = labels.constant_like(-1.0).broadcast_to(labels.shape());
        let n_counted = (!is_ignored).cast(DType::I64).sum();
        vec![logits.n_correct(is_ignored.select(never, labels)), n_counted]
    }

    fn figure(&self, batches: &[Vec<TensorData>]) -> f64 {
        mean(batches)
    }
}

/// The share of labels, 0 or 1, that are on the side of one half that the logit is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryAccuracy(Pair);

impl BinaryAccuracy {
    /// Of an output and a field.
    pub fn new(outputs: &str, labels: &str) -> Self {
        BinaryAccuracy(Pair::new(outputs, labels))
    }
}

impl Metric for BinaryAccuracy {
    fn name(&self) -> String {
        "accuracy".to_owned()
    }

    #[track_caller]
    fn observe<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Vec<Tensor<'g>> {
        let (outputs, labels) = match self.0.aligned(&self.name(), outputs, batch) {
            Ok(pair) => pair,
            Err(poisoned) => return vec![poisoned],
        };
        let (predicted, actual) = (outputs.gt(outputs.constant_like(0.0)), labels.gt(labels.constant_like(0.5)));
        // A NaN is on neither side.
        let hits = predicted.cast(DType::I64).eq(actual.cast(DType::I64)) & outputs.eq(outputs);
        vec![hits.cast(DType::I64).sum(), count(labels)]
    }

    fn figure(&self, batches: &[Vec<TensorData>]) -> f64 {
        mean(batches)
    }
}

/// The share of labels whose logit is among the `k` largest; of equal ones that of the lower class counts as larger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopK {
    of: Pair,
    k: usize,
}

impl TopK {
    /// Of the output `outputs` and the field `y`; `k` of 0 is an error where it is used.
    pub fn new(k: usize) -> Self {
        TopK { of: Pair::new(OUTPUTS, "y"), k }
    }

    /// Of another output and another field.
    pub fn of(mut self, outputs: &str, labels: &str) -> Self {
        self.of = Pair::new(outputs, labels);
        self
    }
}

impl Metric for TopK {
    fn name(&self) -> String {
        format!("top_{}", self.k)
    }

    #[track_caller]
    fn observe<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Vec<Tensor<'g>> {
        let (logits, labels) = match self.of.classes(&self.name(), outputs, batch) {
            Ok(pair) => pair,
            Err(poisoned) => return vec![poisoned],
        };
        if self.k == 0 {
            let diag =
                Diag::new(Code::BadAttribute, "`TopK` requires at least the largest logit, k of 1 or more, got 0");
            return vec![logits.builder().poison(diag.help("`TopK::new(5)` counts labels among the five largest"))];
        }
        let last = logits.rank() - 1;
        let n_classes = logits.shape()[last];
        let column: Vec<usize> = labels.shape().iter().copied().chain([1]).collect();
        let class = logits.builder().constant((0..n_classes as i64).collect::<Array1<i64>>());
        let class = class.broadcast_to(logits.shape());
        let label = labels.cast(DType::I64).reshape(column.clone()).broadcast_to(logits.shape());
        // A label that is no class is a wrong prediction.
        let is_label = class.eq(label);
        let own = is_label.select(logits, logits.constant_like(0.0)).sum_over([last]);
        let own = own.reshape(column).broadcast_to(logits.shape());
        let before = logits.gt(own) | (logits.eq(own) & class.lt(label));
        let n = |flags: Tensor<'g>| flags.cast(DType::I64).sum_over([last]);
        let (n_before, n_labels, n_nan) = (n(before), n(is_label), n(logits.ne(logits)));
        let zero = n_before.constant_like(0.0);
        let hits = n_before.lt(n_before.constant_like(self.k as f64)) & n_labels.gt(zero) & n_nan.eq(zero);
        vec![hits.cast(DType::I64).sum(), count(labels)]
    }

    fn figure(&self, batches: &[Vec<TensorData>]) -> f64 {
        mean(batches)
    }
}

/// The mean over classes of `2·TP / (2·TP + FP + FN)`: over those that were there or were predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct F1(Pair);

impl F1 {
    /// Of logits `[batch, .., classes]` and a field of classes `[batch, ..]`.
    pub fn new(outputs: &str, labels: &str) -> Self {
        F1(Pair::new(outputs, labels))
    }
}

impl Metric for F1 {
    fn name(&self) -> String {
        "f1".to_owned()
    }

    #[track_caller]
    fn observe<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Vec<Tensor<'g>> {
        let (logits, labels) = match self.0.classes(&self.name(), outputs, batch) {
            Ok(pair) => pair,
            Err(poisoned) => return vec![poisoned],
        };
        vec![logits.argmax(logits.rank() - 1), labels.cast(DType::I64)]
    }

    fn figure(&self, batches: &[Vec<TensorData>]) -> f64 {
        // Of each class: hits, and how often it was there or predicted.
        let mut counts: BTreeMap<i64, [f64; 2]> = BTreeMap::new();
        for (predicted, actual) in all(batches, 0).into_iter().zip(all(batches, 1)) {
            counts.entry(predicted as i64).or_default()[1] += 1.0;
            counts.entry(actual as i64).or_default()[1] += 1.0;
            if predicted == actual {
                counts.entry(actual as i64).or_default()[0] += 1.0;
            }
        }
        in_default(|| counts.values().map(|[hits, all]| 2.0 * hits / all).sum::<f64>() / counts.len() as f64)
    }
}

/// The area under the curve of true against false positives: how likely a positive example has a larger output than a negative
/// one, ties counting half. NaN if all examples are of one kind, or an output is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auc(Pair);

impl Auc {
    /// Of one output for each label, and a field of labels 0 and 1.
    pub fn new(outputs: &str, labels: &str) -> Self {
        Auc(Pair::new(outputs, labels))
    }
}

impl Metric for Auc {
    fn name(&self) -> String {
        "auc".to_owned()
    }

    #[track_caller]
    fn observe<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Vec<Tensor<'g>> {
        match self.0.aligned(&self.name(), outputs, batch) {
            Ok((outputs, labels)) => vec![outputs, labels],
            Err(poisoned) => vec![poisoned],
        }
    }

    fn figure(&self, batches: &[Vec<TensorData>]) -> f64 {
        let labels = all(batches, 1);
        // -0.0 and 0.0 are one output.
        let outputs = all(batches, 0).into_iter().map(|output| output + 0.0);
        let mut pairs: Vec<(f64, bool)> = outputs.zip(labels.iter().map(|&label| label > 0.5)).collect();
        if pairs.iter().any(|(output, _)| output.is_nan()) {
            return f64::NAN;
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut n_negative, mut area) = (0.0, 0.0);
        for ties in pairs.chunk_by(|a, b| a.0 == b.0) {
            let positive = ties.iter().filter(|pair| pair.1).count() as f64;
            let negative = ties.len() as f64 - positive;
            area += positive * (n_negative + 0.5 * negative);
            n_negative += negative;
        }
        in_default(|| area / (n_negative * (pairs.len() as f64 - n_negative)))
    }
}

/// The mean of absolute differences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeanAbsolute(Pair);

impl MeanAbsolute {
    /// Of one output for each target, and a field of targets.
    pub fn new(outputs: &str, targets: &str) -> Self {
        MeanAbsolute(Pair::new(outputs, targets))
    }
}

impl Metric for MeanAbsolute {
    fn name(&self) -> String {
        "mean_absolute".to_owned()
    }

    #[track_caller]
    fn observe<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Vec<Tensor<'g>> {
        match self.0.aligned(&self.name(), outputs, batch) {
            Ok((outputs, targets)) => vec![(outputs - targets).abs().sum(), count(targets)],
            Err(poisoned) => vec![poisoned],
        }
    }

    fn figure(&self, batches: &[Vec<TensorData>]) -> f64 {
        mean(batches)
    }
}

/// The exponential of the mean cross-entropy of logits `[batch, .., classes]`: between how many classes the model wavers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perplexity(Pair);

impl Perplexity {
    /// Of an output and a field of classes.
    pub fn new(outputs: &str, labels: &str) -> Self {
        Perplexity(Pair::new(outputs, labels))
    }
}

impl Metric for Perplexity {
    fn name(&self) -> String {
        "perplexity".to_owned()
    }

    #[track_caller]
    fn observe<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Vec<Tensor<'g>> {
        let (logits, labels) = match self.0.classes(&self.name(), outputs, batch) {
            Ok(pair) => pair,
            Err(poisoned) => return vec![poisoned],
        };
        let losses = logits.cross_entropy(labels);
        vec![losses.sum(), count(losses)]
    }

    fn figure(&self, batches: &[Vec<TensorData>]) -> f64 {
        in_default(|| mean(batches).exp())
    }
}
