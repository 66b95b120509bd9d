//! What a trainer tries out on the side: rates, a few examples, a diagnosis. The run goes on as if nothing had been tried.

use std::fmt;

use cotangent_data::{Examples, Field, Order};
use cotangent_exec::Outputs;
use cotangent_graph::{Code, TensorData};
use cotangent_host::float::in_default;
use cotangent_nn::Optimizer;

use super::Trainer;
use super::checks::positive;
use super::task::Mode;
use crate::TrainError;
use crate::checkpoint::{Checkpoint, put};
use crate::diagnosis::{Course, Diagnosis, Layout};
use crate::named::{Net, OUTPUTS};
use crate::objective::Objective;
use crate::statistics::{Histograms, Looking, Statistics};

/// So many examples a diagnosis looks at for itself.
const LOOKED_AT: usize = 256;

/// The rates of a range test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateRange {
    /// The least rate, above 0.
    pub from: f64,
    /// The largest.
    pub to: f64,
    /// How many steps, each with a rate that is a constant factor above the one before.
    pub steps: usize,
}

impl Default for RateRange {
    /// 100 steps from 10⁻⁶ to 10.
    fn default() -> Self {
        RateRange { from: 1e-6, to: 10.0, steps: 100 }
    }
}

/// What a range test found.
#[derive(Clone, Debug, PartialEq)]
pub struct RateTest {
    /// The rates that were tried, in order; fewer than asked for if the loss went off.
    pub rates: Vec<f64>,
    /// The loss of the batch before each step, smoothed (a running mean that forgets a tenth each step).
    pub losses: Vec<f64>,
}

impl RateTest {
    /// The rate at which the loss falls fastest: the steepest of the smoothed curve against the logarithm of the rate, before its least
    /// value. `None` if it never falls by a twentieth.
    pub fn suggestion(&self) -> Option<f64> {
        let least = (0..self.losses.len()).min_by(|&a, &b| self.losses[a].total_cmp(&self.losses[b]))?;
        if self.losses[least] > 0.95 * self.losses[0] {
            return None;
        }
        // Over five steps, so that one batch does not decide.
        let slope = |k: usize| self.losses[(k + 2).min(least)] - self.losses[k.saturating_sub(2)];
        let steepest = (0..=least).min_by(|&a, &b| slope(a).total_cmp(&slope(b)))?;
        Some(self.rates[steepest])
    }
}

impl fmt::Display for RateTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.suggestion() {
            Some(rate) => write!(f, "the loss falls fastest at a rate of {rate:.1e}")?,
            None => write!(f, "the loss falls at no rate that was tried")?,
        }
        match (self.rates.first(), self.rates.last()) {
            (Some(from), Some(to)) => write!(f, "; tried from {from:.1e} to {to:.1e}"),
            _ => Ok(()),
        }
    }
}

/// Whether a model can learn a few examples by heart. One that cannot has a mistake, or too little capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overfit {
    /// How many examples.
    pub n_examples: usize,
    /// The mean loss of the first pass over them.
    pub before: f64,
    /// The mean loss of the last pass.
    pub after: f64,
    /// Steps that were taken.
    pub n_steps: usize,
}

impl Overfit {
    /// Whether a tenth of the loss is left, or less.
    pub fn is_passed(&self) -> bool {
        self.after <= 0.1 * self.before
    }
}

impl fmt::Display for Overfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overfit { n_examples, before, after, n_steps } = self;
        write!(f, "{n_examples} examples in {n_steps} steps: loss {before:.4} before, {after:.4} after: ")?;
        f.write_str(match self.is_passed() {
            true => "learned by heart",
            false => {
                "not learned by heart; look for a mistake in the model, the loss or the labels, or take a larger model"
            }
        })
    }
}

impl<M: Net, L: Objective, O: Optimizer> Trainer<M, L, O> {
    /// The learning-rate range test (Smith 2017): trains with a rate that grows from step to step, and says how the loss went.
    /// Weights, states and counters are as before when it is done.
    ///
    /// # Errors
    /// A range that is none, an optimiser without `optimizer.lr`, or as [`Trainer::fit`].
    #[track_caller]
    pub fn lr_find(&mut self, train: &impl Examples, range: RateRange) -> Result<RateTest, TrainError> {
        self.programs.called();
        let RateRange { from, to, steps } = range;
        if !(from > 0.0 && from < to && to.is_finite() && steps >= 2) {
            let required = "two rates above 0, in order, and at least 2 steps";
            return Err(TrainError::invalid("rate range", required, format!("{range:?}")));
        }
        let mut test = RateTest { rates: Vec::new(), losses: Vec::new() };
        let (mut smooth, mut total) = (0.0, 0.0);
        self.tried(
            train,
            train.len(),
            steps,
            |trainer, k| {
                let rate = from * (to / from).powf(k as f64 / (steps - 1) as f64);
                let mut store = trainer.programs.store_mut();
                let known = store.get("optimizer.lr").ok().map(|rate| rate.dtype());
                match known {
                    Some(cotangent_graph::DType::F64) => store.set("optimizer.lr", rate)?,
                    _ => store.set("optimizer.lr", rate as f32)?,
                }
                test.rates.push(rate);
                Ok(())
            },
            |loss| {
                smooth = 0.9 * smooth + 0.1 * loss;
                total = 0.9 * total + 0.1;
                let mean = smooth / total;
                let least = test.losses.iter().copied().fold(mean, f64::min);
                test.losses.push(mean);
                mean.is_finite() && mean <= 4.0 * least.max(1e-12)
            },
        )?;
        test.rates.truncate(test.losses.len());
        Ok(test)
    }

    /// Whether the model can learn some examples by heart, in so many steps at most: drawn from the set, without an evaluation. 100 are a
    /// usual number. Weights, states and counters are as before when it is done.
    ///
    /// # Errors
    /// No examples or steps, or as [`Trainer::fit`]; a loss that is not finite.
    #[track_caller]
    pub fn overfit(&mut self, train: &impl Examples, n_examples: usize, n_steps: usize) -> Result<Overfit, TrainError> {
        self.programs.called();
        positive("steps", n_steps)?;
        let n = positive("examples", n_examples.min(train.len()))?;
        let per_pass = n.div_ceil(self.options.batch_size.clamp(1, n));
        let mut losses: Vec<f64> = Vec::new();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        self.tried(
            train,
            n,
            n_steps,
            |_, _| Ok(()),
            |loss| {
                losses.push(loss);
                let last = &losses[losses.len().saturating_sub(per_pass)..];
                // Long before the steps are used up it may be clear.
                losses.len() < 2 * per_pass || mean(last) > 0.02 * mean(&losses[..per_pass])
            },
        )?;
        let first = &losses[..per_pass.min(losses.len())];
        let last = &losses[losses.len().saturating_sub(per_pass)..];
        Ok(Overfit { n_examples: n, before: mean(first), after: mean(last), n_steps: losses.len() })
    }

    /// How the numbers before and after each activation function are distributed over some examples of a set, drawn from it: before
    /// `fit`, as weights start, or after it, as they are. Layers behave as in training, and nothing changes.
    ///
    /// # Errors
    /// No examples, or as [`Trainer::fit`].
    #[track_caller]
    pub fn histograms(&mut self, train: &impl Examples, n_examples: usize) -> Result<Histograms, TrainError> {
        self.programs.called();
        self.looked(train, n_examples)
    }

    fn looked(&mut self, train: &dyn Examples, n_examples: usize) -> Result<Histograms, TrainError> {
        let fields = train.fields();
        let n = positive("examples", n_examples.min(train.len()))?;
        let size = positive("batch_size", self.options.batch_size)?.min(n);
        let mut places = train.places(Order::Shuffled, self.options.seed.0, 0)?;
        places.truncate(n);
        let sizes = [size, n % size];
        let mut batch = Vec::new();
        let mut each = |take: &mut dyn FnMut(&Outputs<'_>, usize) -> Result<(), TrainError>| {
            // As it is after, so that both passes see the same.
            self.undone(Mode::Look, sizes, &fields, |trainer| {
                places.chunks(size).try_for_each(|places| {
                    train.gather(0, places, &mut batch)?;
                    let program = trainer.programs.program(Mode::Look, places.len(), &fields)?;
                    take(&trainer.programs.run(&program, &batch)?, places.len())
                })
            })
        };
        in_default(|| {
            let mut looking = Looking::default();
            each(&mut |out, n| looking.add(out, n))?;
            let mut histograms = looking.histograms();
            each(&mut |out, _| histograms.count(out))?;
            Ok(histograms)
        })
    }

    /// What is wrong, as far as it shows in the data, in the statistics of layers and in the curves: after `fit`, also after one that
    /// ended with an error, or before it. Where no step was looked at ([`Options::statistics`](super::Options::statistics)), 256 examples
    /// are, with the weights as they are. Labels are the field `y`.
    ///
    /// # Errors
    /// What is wrong with the model, or data that cannot be read.
    #[track_caller]
    pub fn diagnose(
        &mut self,
        train: &impl Examples,
        validation: Option<&dyn Examples>,
    ) -> Result<Diagnosis, TrainError> {
        self.programs.called();
        let judges = self.programs.task.objective.accuracy().is_some();
        let built = self.programs.graph(Mode::Predict, 1, &train.fields())?;
        let output = built.outputs().iter().find(|(name, _)| name == OUTPUTS);
        let width = output.and_then(|(_, shape)| shape.last().copied()).filter(|_| judges);
        let layout = Layout { n_classes: width.map(|width| width.max(2)) };
        // Of weights that are not finite there is nothing to say but that.
        let mut looked = Statistics::default();
        if self.observed.statistics().n_steps == 0 && !self.observed.is_not_finite && !train.is_empty() {
            looked.activations = self.looked(train, LOOKED_AT)?.activations();
        }
        let statistics = self.observed.statistics();
        let run = &self.cursor.history;
        let base = run.iter().position(|epoch| epoch.number > self.cursor.base).unwrap_or(run.len());
        let course = Course {
            first_loss: self.observed.first_loss(),
            largest_loss: self.observed.largest_loss(),
            is_not_finite: self.observed.is_not_finite,
            epochs: &run[base..],
            statistics: if statistics.n_steps == 0 { &looked } else { statistics },
        };
        in_default(|| Diagnosis::new(train, validation, &layout, &course, self.options.seed.0))
    }

    /// What layers did in the epoch under way, or in the last one, if [`Options::statistics`](super::Options::statistics) asks for it.
    pub fn statistics(&self) -> &Statistics {
        self.observed.statistics()
    }

    /// Trains for some steps on the first examples of a shuffled order, until it is told to stop or the loss is not finite, and
    /// puts everything back.
    fn tried(
        &mut self,
        train: &dyn Examples,
        n_examples: usize,
        n_steps: usize,
        mut before: impl FnMut(&mut Self, usize) -> Result<(), TrainError>,
        mut after: impl FnMut(f64) -> bool,
    ) -> Result<(), TrainError> {
        let size = positive("batch_size", self.options.batch_size)?.min(positive("examples", n_examples)?);
        let fields = train.fields();
        let mut places = train.places(Order::Shuffled, self.options.seed.0, 0)?;
        places.truncate(n_examples);
        let sizes = [size, n_examples % size];
        self.undone(Mode::Train, sizes, &fields, |trainer| {
            let mut batch: Vec<TensorData> = Vec::new();
            for (k, places) in places.chunks(size).cycle().take(n_steps).enumerate() {
                before(trainer, k)?;
                train.gather(0, places, &mut batch)?;
                let program = trainer.programs.program(Mode::Train, places.len(), &fields)?;
                match trainer.programs.run(&program, &batch) {
                    Ok(out) => {
                        if !after(out.scalar("loss")?) {
                            break;
                        }
                    }
                    Err(TrainError::Step(diag)) if diag.code == Code::NotFinite => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }

    /// Runs programs of a mode for batches of these sizes, and puts parameters, states and counters back.
    fn undone<T>(
        &mut self,
        mode: Mode,
        sizes: [usize; 2],
        fields: &[Field],
        run: impl FnOnce(&mut Self) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        // What a program starts with is there once it is loaded.
        for size in sizes.into_iter().filter(|size| *size > 0) {
            self.programs.program(mode, size, fields)?;
        }
        let kept = Checkpoint::of_store(self.programs.store())?;
        let result = in_default(|| run(self));
        let mut store = self.programs.store_mut();
        put(&kept.tensors, &mut store)?;
        store.set_step(kept.step);
        store.set_draws(kept.draws);
        result
    }
}
