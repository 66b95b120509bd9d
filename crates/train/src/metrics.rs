//! Figures about predictions: [`Metric`]s that a trainer works out while it evaluates ([`Trainer::metric`](crate::Trainer::metric)),
//! and functions of outputs that are already on the host: probabilities, accuracy, top-k, the confusion matrix, and the mean of
//! an ensemble.
//!
//! The functions work on the outputs
//! of [`Trainer::predict`](crate::Trainer::predict). Outputs are `[n, classes]`, labels `[n]` class indices; a label that
//! is no class counts as predicted wrongly, and so does a row with a NaN. Of equal outputs the one of the lower class
//! counts as larger, as in `argmax`.
//!
//! ```
//! use cotangent_train::metrics::{Confusion, top_k};
//! use ndarray::array;
//!
//! # fn main() -> Result<(), cotangent_train::TrainError> {
//! let outputs = array![[2.0f32, 1.0, 0.0], [0.0, 1.0, 2.0]].into_dyn();
//! let labels = array![1i64, 2];
//! assert_eq!(top_k(outputs.view(), labels.view(), 1)?, 0.5);
//! assert_eq!(top_k(outputs.view(), labels.view(), 2)?, 1.0);
//! println!("{}", Confusion::new(outputs.view(), labels.view())?);
//! # Ok(())
//! # }
//! ```

mod running;

use std::fmt;

use cotangent_host::float::in_default;
use ndarray::{Array1, Array2, ArrayD, ArrayView1, ArrayView2, ArrayViewD, Axis, Ix2};

pub use self::running::{Accuracy, Auc, BinaryAccuracy, F1, MeanAbsolute, Metric, Perplexity, TopK};
use crate::TrainError;

/// Softmax of each row: probabilities that sum to 1.
///
/// # Errors
/// [`TrainError::Invalid`] if the outputs are not `[n, classes]`.
pub fn softmax(outputs: ArrayViewD<'_, f32>) -> Result<Array2<f32>, TrainError> {
    let mut result = rows(outputs)?.into_owned();
    in_default(|| {
        for mut row in result.rows_mut() {
            let largest = row.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            row.mapv_inplace(|v| (v - largest).exp());
            let sum: f32 = row.sum();
            row.mapv_inplace(|v| v / sum);
        }
    });
    Ok(result)
}

/// The class with the largest output, for each row; that of the first NaN if there is one.
///
/// # Errors
/// [`TrainError::Invalid`] if the outputs are not `[n, classes]`.
pub fn classes(outputs: ArrayViewD<'_, f32>) -> Result<Array1<i64>, TrainError> {
    let largest = |row: ArrayView1<'_, f32>| {
        let larger = |a: f32, b: f32| a > b || a.is_nan() && !b.is_nan();
        row.iter()
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, (i, &v)| if larger(v, best.1) { (i, v) } else { best })
            .0
    };
    Ok(rows(outputs)?.rows().into_iter().map(|row| largest(row) as i64).collect())
}

/// The share of rows whose label is among the `k` largest outputs: in [0, 1], NaN of no rows.
///
/// # Errors
/// [`TrainError::Invalid`] if the outputs are not `[n, classes]`, or there is not one label for each row.
pub fn top_k(outputs: ArrayViewD<'_, f32>, labels: ArrayView1<'_, i64>, k: usize) -> Result<f64, TrainError> {
    let outputs = rows(outputs)?;
    check(outputs.nrows(), labels)?;
    let hit = |(row, &label): (ArrayView1<'_, f32>, &i64)| {
        let Some((label, own)) = usize::try_from(label).ok().and_then(|l| Some((l, *row.get(l)?))) else {
            return false;
        };
        let before = row.iter().enumerate().filter(|&(i, &v)| v > own || (v == own && i < label)).count();
        before < k && !row.iter().any(|v| v.is_nan())
    };
    let n_hits = outputs.rows().into_iter().zip(labels).filter(|pair| hit(*pair)).count();
    Ok(share(n_hits as u64, labels.len() as u64))
}

/// The share of rows whose largest output is that of the label.
///
/// # Errors
/// As [`top_k`].
pub fn accuracy(outputs: ArrayViewD<'_, f32>, labels: ArrayView1<'_, i64>) -> Result<f64, TrainError> {
    top_k(outputs, labels, 1)
}

/// How often each class was taken for each: a table `[actual, predicted]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    counts: Array2<u64>,
}

impl Confusion {
    /// Counts the rows of outputs `[n, classes]` by label and by predicted class.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if the outputs are not `[n, classes]` or one is a NaN, or there is not one label for each row;
    /// [`TrainError::Label`] for a label that is no class.
    pub fn new(outputs: ArrayViewD<'_, f32>, labels: ArrayView1<'_, i64>) -> Result<Self, TrainError> {
        let predicted = classes(outputs.view())?;
        let outputs = rows(outputs)?;
        if let Some(row) = outputs.rows().into_iter().position(|row| row.iter().any(|v| v.is_nan())) {
            return Err(TrainError::invalid("outputs", "numbers, to predict a class", format!("a NaN in row {row}")));
        }
        let n_classes = outputs.ncols();
        check(predicted.len(), labels)?;
        let mut counts = Array2::zeros((n_classes, n_classes));
        for (example, (&label, predicted)) in labels.iter().zip(predicted).enumerate() {
            let actual = usize::try_from(label).ok().filter(|&label| label < n_classes);
            let Some(actual) = actual else {
                let required = format!("a class in 0..{n_classes}");
                return Err(TrainError::Label { example, required, got: label.to_string() });
            };
            counts[[actual, predicted as usize]] += 1;
        }
        Ok(Confusion { counts })
    }

    /// The counts `[actual, predicted]`.
    pub fn counts(&self) -> ArrayView2<'_, u64> {
        self.counts.view()
    }

    /// The share on the diagonal.
    pub fn accuracy(&self) -> f64 {
        share(self.counts.diag().sum(), self.counts.sum())
    }

    /// Of the examples of each class, the share that was found; NaN for a class without examples.
    pub fn recall(&self) -> Array1<f64> {
        self.shares(Axis(1))
    }

    /// Of what was taken for each class, the share that is of it; NaN for a class that was never predicted.
    pub fn precision(&self) -> Array1<f64> {
        self.shares(Axis(0))
    }

    fn shares(&self, axis: Axis) -> Array1<f64> {
        let totals = self.counts.sum_axis(axis);
        self.counts.diag().iter().zip(&totals).map(|(&hits, &total)| share(hits, total)).collect()
    }
}

impl fmt::Display for Confusion {
    /// A row for each actual class, a column for each predicted one, and the recall at the end of each row.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.counts.iter().max().map_or(1, |n| n.to_string().len()).max(3) + 1;
        write!(f, "{:>8}", "actual")?;
        for class in 0..self.counts.ncols() {
            write!(f, "{class:>width$}")?;
        }
        writeln!(f, "  recall")?;
        for ((class, row), recall) in self.counts.rows().into_iter().enumerate().zip(self.recall()) {
            write!(f, "{class:>8}")?;
            for count in row {
                write!(f, "{count:>width$}")?;
            }
            writeln!(f, "{:>6.1} %", 100.0 * recall)?;
        }
        Ok(())
    }
}

/// The mean of the probabilities of several nets, or of several snapshots of one.
#[derive(Clone, Debug, Default)]
pub struct Ensemble {
    sum: Option<Array2<f64>>,
    n: usize,
}

impl Ensemble {
    /// An ensemble without members.
    pub fn new() -> Self {
        Ensemble::default()
    }

    /// Adds a member by its logits `[n, classes]`.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if the outputs are not `[n, classes]`, or not as many as those of the members before.
    pub fn add_logits(&mut self, logits: ArrayViewD<'_, f32>) -> Result<(), TrainError> {
        self.add(softmax(logits)?.view().into_dyn())
    }

    /// Adds a member by its probabilities `[n, classes]`.
    ///
    /// # Errors
    /// As [`Ensemble::add_logits`].
    pub fn add(&mut self, probabilities: ArrayViewD<'_, f32>) -> Result<(), TrainError> {
        let member = rows(probabilities)?.mapv(f64::from);
        match &mut self.sum {
            None => self.sum = Some(member),
            Some(sum) if sum.dim() == member.dim() => in_default(|| *sum += &member),
            Some(sum) => {
                let required = format!("shape {:?} as of the members before", sum.shape());
                return Err(TrainError::invalid("member of the ensemble", required, format!("{:?}", member.shape())));
            }
        }
        self.n += 1;
        Ok(())
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The mean probabilities `[n, classes]`; `None` without members.
    pub fn mean(&self) -> Option<ArrayD<f32>> {
        self.sum.as_ref().map(|sum| in_default(|| sum.mapv(|v| (v / self.n as f64) as f32)).into_dyn())
    }
}

fn share(hits: u64, of: u64) -> f64 {
    in_default(|| hits as f64 / of as f64)
}

fn rows(outputs: ArrayViewD<'_, f32>) -> Result<ArrayView2<'_, f32>, TrainError> {
    let shape = outputs.shape().to_vec();
    outputs
        .into_dimensionality::<Ix2>()
        .map_err(|_| TrainError::invalid("outputs", "shape [n, classes]", format!("shape {shape:?}")))
}

fn check(n_rows: usize, labels: ArrayView1<'_, i64>) -> Result<(), TrainError> {
    if n_rows == labels.len() {
        return Ok(());
    }
    Err(TrainError::invalid("labels", format!("{n_rows}, one for each row of the outputs"), labels.len()))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn softmax_gives_the_numbers_of_the_lecture() {
        let p = softmax(array![[0.5f32, 0.5, 0.1, 0.7], [1e4, -1e4, 0.0, 0.0]].into_dyn().view()).unwrap();
        for (got, expected) in p.row(0).iter().zip([0.257, 0.257, 0.172, 0.314]) {
            assert!((got - expected).abs() < 6e-4, "{p}");
        }
        assert_eq!(p.row(1), array![1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn top_k_counts_ranks_and_breaks_ties_as_argmax_does() {
        let outputs = array![[3.0f32, 2.0, 1.0], [1.0, 1.0, 0.0], [f32::NAN, 0.0, 1.0], [0.0, 1.0, 2.0]].into_dyn();
        let of = |labels: [i64; 4], k| top_k(outputs.view(), Array1::from_vec(labels.to_vec()).view(), k).unwrap();
        assert_eq!(of([0, 0, 2, 2], 1), 0.75, "the row with a NaN is wrong");
        assert_eq!(of([1, 1, 2, 0], 1), 0.0);
        assert_eq!(of([1, 1, 2, 0], 2), 0.5);
        assert_eq!(of([2, 2, 9, -1], 3), 0.5, "a label that is no class is wrong");
        assert_eq!(of([0, 1, 2, 2], 0), 0.0);
        assert!(accuracy(outputs.view(), array![0].view()).is_err());
        assert!(classes(array![1.0f32].into_dyn().view()).unwrap_err().to_string().contains("[n, classes]"));
    }

    #[test]
    fn confusion_counts_rows_by_label_and_prediction() {
        let outputs = array![[1.0f32, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]].into_dyn();
        let confusion = Confusion::new(outputs.view(), array![0, 0, 1, 1, 1].view()).unwrap();
        assert_eq!(confusion.counts(), array![[1, 1], [2, 1]]);
        assert_eq!((confusion.accuracy(), confusion.recall()[0], confusion.precision()[1]), (0.4, 0.5, 0.5));
        let text = confusion.to_string();
        assert!(text.contains("actual") && text.contains("33.3 %"), "{text}");
        // A row with a NaN has no place in the table.
        let with_nan = array![[1.0f32, 0.0], [f32::NAN, 2.0]].into_dyn();
        let error = Confusion::new(with_nan.view(), array![0, 1].view()).unwrap_err();
        assert!(error.to_string().contains("got a NaN in row 1"), "{error}");
        assert_eq!(classes(with_nan.view()).unwrap(), array![0, 0], "as argmax");
        assert!(matches!(
            Confusion::new(outputs.view(), array![0, 0, 1, 1, 2].view()),
            Err(TrainError::Label { example: 4, .. })
        ));
    }

    #[test]
    fn an_ensemble_is_the_mean_of_probabilities() {
        let mut ensemble = Ensemble::new();
        assert!(ensemble.mean().is_none() && ensemble.is_empty());
        ensemble.add(array![[1.0f32, 0.0]].into_dyn().view()).unwrap();
        ensemble.add(array![[0.0f32, 1.0]].into_dyn().view()).unwrap();
        ensemble.add_logits(array![[0.0f32, 0.0]].into_dyn().view()).unwrap();
        assert_eq!((ensemble.len(), ensemble.mean().unwrap()), (3, array![[0.5, 0.5]].into_dyn()));
        assert!(ensemble.add(array![[1.0f32]].into_dyn().view()).is_err());
    }
}
