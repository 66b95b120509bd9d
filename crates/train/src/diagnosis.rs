//! What is wrong with a run, in plain words: findings, each with what was seen and what to do.
//!
//! Why it exists: the usual mistakes look alike in a loss that does not fall, and each leaves a trace of its own elsewhere: in the
//! data, in what layers do, or in the curves. Rules are in one place, with their limits as constants; [`Trainer::diagnose`](crate::Trainer::diagnose)
//! asks them all.
//!
//! A rule that names what is fine is worse than none, so limits are generous: what is named is far from usual.
//!
//! ```
//! use cotangent_data::synthetic::two_moons;
//! use cotangent_exec::{Runtime, Threads};
//! use cotangent_nn::{Layers, Sgd};
//! use cotangent_train::{CrossEntropy, Options, Problem, Trainer};
//!
//! # fn main() -> Result<(), cotangent_train::TrainError> {
//! let (set, held_out) = (two_moons(200, 0.1, 1), two_moons(100, 0.1, 2));
//! let options = Options { epochs: 5, statistics: Some(4), progress: false, ..Options::default() };
//! let mut trainer = Trainer::new(
//!     &Runtime::new(Threads::Exactly(1)),
//!     |_, x| x.dense("hidden", 16).relu().dense("out", 2),
//!     CrossEntropy,
//!     Sgd::new(1e4),
//!     options,
//! );
//! let _ = trainer.fit(&set, Some(&held_out));
//! let diagnosis = trainer.diagnose(&set, Some(&held_out))?;
//! assert!(diagnosis.has(Problem::RateTooHigh), "{diagnosis}");
//! # Ok(())
//! # }
//! ```

mod data;

use std::fmt;

use cotangent_data::Examples;
use cotangent_scalar::plain_lines;

pub use self::data::correlated;
use crate::TrainError;
use crate::history::Epoch;
use crate::statistics::{Ends, Statistics};

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Problem {
    /// The learning rate is too high: the loss goes off, or does not fall while weights move far.
    RateTooHigh,
    /// The learning rate is too low: the loss hardly falls, and weights hardly move.
    RateTooLow,
    /// Units of a rectifier are active for no example.
    DeadUnits,
    /// Units of a function with two ends are at them.
    SaturatedUnits,
    /// A feature says what the label is, or the validation set has examples of the training set.
    LeakedLabels,
    /// Features are large, or far from zero.
    UnnormalizedInputs,
    /// A class of the model has no example to train on.
    MissingClass,
    /// A class has far fewer examples than another.
    RareClass,
    /// The validation loss rises while the training loss falls.
    Overfitting,
    /// The training loss has hardly fallen.
    Underfitting,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What it is.
    pub problem: Problem,
    /// What was seen, and where.
    pub seen: String,
    /// What to do.
    pub advice: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", plain_lines(&self.seen), self.advice)
    }
}

/// All that was found; see the [module](self).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diagnosis {
    /// The findings: of the data, of the layers, of the curves.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.findings.is_empty() {
            return write!(f, "nothing unusual was found");
        }
        self.findings.iter().enumerate().try_for_each(|(k, finding)| {
            if k > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}. {finding}", k + 1)
        })
    }
}

/// What is known of the model.
pub(crate) struct Layout {
    /// How many classes it tells apart, if it does.
    pub(crate) n_classes: Option<usize>,
}

/// How a call of `fit` went.
pub(crate) struct Course<'a> {
    pub(crate) first_loss: Option<f64>,
    pub(crate) largest_loss: f64,
    pub(crate) is_not_finite: bool,
    pub(crate) epochs: &'a [Epoch],
    pub(crate) statistics: &'a Statistics,
}

/// Changes of a weight matrix in a step, against the matrix.
const FAR: f64 = 0.03;
const NEAR: f64 = 1e-5;
/// The share of units of a layer.
const MANY_DEAD: f64 = 0.4;
const MANY_SATURATED: f64 = 0.6;
/// What is left of the loss where it has hardly fallen.
const HARDLY_FALLEN: f64 = 0.9;
/// The largest loss of a step against that before the first.
const GONE_OFF: f64 = 10.0;
/// The validation loss against its least, in so many last epochs.
const RISEN: f64 = 1.4;
const LATER: usize = 5;

impl Diagnosis {
    /// Whether a problem was found.
    pub fn has(&self, problem: Problem) -> bool {
        self.findings.iter().any(|finding| finding.problem == problem)
    }

    pub(crate) fn new(
        train: &dyn Examples,
        validation: Option<&dyn Examples>,
        layout: &Layout,
        course: &Course<'_>,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let mut diagnosis = Diagnosis::default();
        data::look(&mut diagnosis, train, validation, layout, seed)?;
        diagnosis.layers(course.statistics);
        diagnosis.curves(course);
        Ok(diagnosis)
    }

    fn add(&mut self, problem: Problem, seen: String, advice: &'static str) {
        self.findings.push(Finding { problem, seen, advice });
    }

    fn layers(&mut self, statistics: &Statistics) {
        for activation in &statistics.activations {
            let (layer, n) = (&activation.layer, activation.active.len());
            let percent = |share: f64| format!("{:.0} %", 100.0 * share);
            if activation.ends == Ends::One && activation.dead() > MANY_DEAD {
                let seen = format!(
                    "{} of the {n} units after `{layer}` are zero for every example",
                    percent(activation.dead())
                );
                let advice = "nothing flows back through them: lower the rate, start biases at 0 and weights by He's rule, look at the \
                              scale of what comes in, or take LeakyReLU";
                self.add(Problem::DeadUnits, seen, advice);
            }
            if activation.ends == Ends::Two && activation.inactive() > MANY_SATURATED {
                let seen = format!(
                    "the units after `{layer}` are at their ends for {} of all values",
                    percent(activation.inactive())
                );
                let advice = "hardly anything flows back through them: start with smaller weights (Glorot's rule), normalize what comes \
                              in, or take ReLU";
                self.add(Problem::SaturatedUnits, seen, advice);
            }
        }
    }

    fn curves(&mut self, course: &Course<'_>) {
        // Of weights: biases begin at zero, and move far against that.
        let ratios = course.statistics.parameters.iter().filter(|parameter| parameter.name.ends_with("weight"));
        let largest = ratios
            .filter_map(|parameter| Some((parameter.ratio()?, &parameter.name)))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let too_high = "lower the rate (`Trainer::lr_find` tries rates), or clip gradients";
        if course.is_not_finite {
            let seen = "the loss of a step is not finite".to_owned();
            return self.add(
                Problem::RateTooHigh,
                seen,
                "if the data are fine: lower the rate (`Trainer::lr_find` tries rates), or clip gradients",
            );
        }
        let (Some(first), Some(last)) = (course.first_loss, course.epochs.last()) else { return };
        let has_fallen = last.train_loss < HARDLY_FALLEN * first;
        if course.largest_loss > GONE_OFF * first.abs() || last.train_loss > 3.0 * first {
            let seen = format!(
                "the loss was {first:.3} before the first step, {:.3} at most, and {:.3} in the last epoch",
                course.largest_loss, last.train_loss
            );
            return self.add(Problem::RateTooHigh, seen, too_high);
        }
        if !has_fallen && first > 0.0 {
            let seen = format!(
                "the training loss was {first:.4} before the first step and is {:.4} in the last epoch",
                last.train_loss
            );
            match largest {
                Some((ratio, name)) if ratio > FAR => {
                    let seen = format!("{seen}, while steps change `{name}` by {:.0} % of its size", 100.0 * ratio);
                    self.add(Problem::RateTooHigh, seen, too_high);
                }
                Some((ratio, name)) if ratio < NEAR => {
                    let seen =
                        format!("{seen}, while steps change weights by {ratio:.0e} of their size at most (`{name}`)");
                    self.add(Problem::RateTooLow, seen, "raise the rate (`Trainer::lr_find` tries rates)");
                }
                _ => {
                    let advice = "look whether a hundred examples can be learned by heart (`Trainer::overfit`); train longer, or take a \
                                  larger model";
                    self.add(Problem::Underfitting, seen, advice);
                }
            }
        }
        self.overfitting(course.epochs);
    }

    fn overfitting(&mut self, epochs: &[Epoch]) {
        let losses: Vec<(f64, f64)> = epochs.iter().filter_map(|e| Some((e.train_loss, e.validation_loss?))).collect();
        let Some((best, &(train_then, least))) = losses.iter().enumerate().min_by(|a, b| a.1.1.total_cmp(&b.1.1))
        else {
            return;
        };
        let Some(&(train_now, now)) = losses.last() else { return };
        let since = &losses[best + 1..];
        let has_risen =
            since.len() >= LATER && since[since.len() - LATER..].iter().all(|(_, loss)| *loss > RISEN * least);
        if has_risen && train_now < 0.8 * train_then && now > 2.0 * train_now {
            let seen = format!(
                "since epoch {} the validation loss has risen from {least:.4} to {now:.4}, and the training loss fallen from \
                 {train_then:.4} to {train_now:.4}",
                epochs[best].number
            );
            let advice = "stop there (`EarlyStopping`); take dropout, weight decay, augmentation or more data, or a smaller model";
            self.add(Problem::Overfitting, seen, advice);
        }
    }
}
