//! What happens between steps and epochs: early stopping, smaller rates on a plateau, snapshots, and the user's own.
//!
//! A callback keeps what it must remember in the store, under a prefix of its own. So it is part of every checkpoint, and
//! a run that is resumed stops, and falls back to the best weights, as one that was never interrupted.
//!
//! A closure becomes a callback by [`after_epoch`] or [`after_step`]. A tuple of callbacks is one too: they run in order, and
//! any of them ends the run.

use std::marker::PhantomData;
use std::ops::ControlFlow::{self, Break, Continue};

use cotangent_data::safetensors::Tensors;
use cotangent_exec::{Store, StoreMut};
use cotangent_graph::{DType, Diag};

use crate::TrainError;
use crate::checkpoint::{put, tensors_of, tensors_under};
use crate::history::Epoch;
use crate::statistics::Statistics;

/// Whether training goes on.
pub type Flow = Result<ControlFlow<()>, TrainError>;

/// A step that was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Steps taken, this one included, over all calls of `fit`.
    pub number: u32,
    /// The epoch that it belongs to, from 1 on.
    pub epoch: u64,
    /// Rows of its batch.
    pub n_rows: usize,
    /// The mean loss of its batch.
    pub loss: f64,
}

/// What a callback may see and change.
///
/// ```
/// # use cotangent_exec::{Seed, Store};
/// # use cotangent_train::callbacks::Context;
/// fn callback(cx: &mut Context<'_>) {
///     cx.store.set_step(7);
/// }
/// ```
///
/// The programs work on this very store, so it cannot be replaced:
///
/// ```compile_fail,E0594
/// # use cotangent_exec::{Seed, Store};
/// # use cotangent_train::callbacks::Context;
/// fn callback(cx: &mut Context<'_>) {
///     *cx.store = Store::new(Seed(0));
/// }
/// ```
#[derive(Debug)]
pub struct Context<'a> {
    /// Parameters, states, hyper-parameters. What a callback inserts is part of every checkpoint.
    pub store: StoreMut<'a>,
    /// The names of what makes the model at test time: parameters, and states such as running statistics.
    pub model: &'a [String],
    /// Whether the call of `fit` goes on with one that was interrupted; what a callback counts goes on then, too.
    pub resumed: bool,
    /// What layers did in the epoch, if the options ask for it: of steps before the epoch's end, so far.
    pub statistics: &'a Statistics,
}

/// Something that is told of steps and epochs. Every method does nothing unless it is written.
pub trait Callback {
    /// Before the first step of a call of `fit`. A run that ended before it was killed ends again here.
    ///
    /// # Errors
    /// Whatever should end the call of `fit` as an error.
    fn on_start(&mut self, _cx: &mut Context<'_>) -> Flow {
        Ok(Continue(()))
    }

    /// After each step.
    ///
    /// # Errors
    /// Whatever should end the call of `fit` as an error; the step is taken.
    fn on_step(&mut self, _step: &Step, _cx: &mut Context<'_>) -> Flow {
        Ok(Continue(()))
    }

    /// After each epoch and its evaluation, before its checkpoint.
    ///
    /// # Errors
    /// Whatever should end the call of `fit` as an error; the epoch is done.
    fn on_epoch(&mut self, _epoch: &Epoch, _cx: &mut Context<'_>) -> Flow {
        Ok(Continue(()))
    }

    /// When all epochs are done or a callback ended the run, after the last checkpoint.
    ///
    /// # Errors
    /// Whatever should end the call of `fit` as an error.
    fn on_end(&mut self, _cx: &mut Context<'_>) -> Result<(), TrainError> {
        Ok(())
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {
        $(impl<C: Callback + ?Sized> Callback for $pointer {
            fn on_start(&mut self, cx: &mut Context<'_>) -> Flow {
                (**self).on_start(cx)
            }

            fn on_step(&mut self, step: &Step, cx: &mut Context<'_>) -> Flow {
                (**self).on_step(step, cx)
            }

            fn on_epoch(&mut self, epoch: &Epoch, cx: &mut Context<'_>) -> Flow {
                (**self).on_epoch(epoch, cx)
            }

            fn on_end(&mut self, cx: &mut Context<'_>) -> Result<(), TrainError> {
                (**self).on_end(cx)
            }
        })*
    };
}
forward!(&mut C, Box<C>);

/// A function as a callback; see [`after_epoch`] and [`after_step`].
#[derive(Debug)]
pub struct After<F, E>(F, PhantomData<fn(&E)>);

/// A callback that calls a function after each epoch and its evaluation: to report, to set a value in the store, to stop.
///
/// ```
/// use std::ops::ControlFlow::Continue;
/// use cotangent_train::callbacks::after_epoch;
///
/// let halve = after_epoch(|epoch, store| {
///     println!("{epoch}");
///     if epoch.number % 10 == 0 {
///         let rate = store.get("optimizer.lr")?.as_scalar().unwrap_or(0.0);
///         store.set("optimizer.lr", 0.5 * rate as f32)?;
///     }
///     Ok(Continue(()))
/// });
/// # let _: &dyn cotangent_train::Callback = &halve;
/// ```
pub fn after_epoch<F: FnMut(&Epoch, &mut StoreMut<'_>) -> Flow>(f: F) -> After<F, Epoch> {
    After(f, PhantomData)
}

/// A callback that calls a function after each step.
pub fn after_step<F: FnMut(&Step, &mut StoreMut<'_>) -> Flow>(f: F) -> After<F, Step> {
    After(f, PhantomData)
}

impl<F: FnMut(&Epoch, &mut StoreMut<'_>) -> Flow> Callback for After<F, Epoch> {
    fn on_epoch(&mut self, epoch: &Epoch, cx: &mut Context<'_>) -> Flow {
        (self.0)(epoch, &mut cx.store)
    }
}

impl<F: FnMut(&Step, &mut StoreMut<'_>) -> Flow> Callback for After<F, Step> {
    fn on_step(&mut self, step: &Step, cx: &mut Context<'_>) -> Flow {
        (self.0)(step, &mut cx.store)
    }
}

macro_rules! tuples {
    ($(($($part:ident),*);)*) => {
        $(impl<$($part: Callback),*> Callback for ($($part,)*) {
            #[expect(non_snake_case, reason = "the names are those of the types")]
            fn on_start(&mut self, _cx: &mut Context<'_>) -> Flow {
                let ($($part,)*) = self;
                let flows: [ControlFlow<()>; _] = [$($part.on_start(_cx)?),*];
                Ok(joined(&flows))
            }

            #[expect(non_snake_case, reason = "the names are those of the types")]
            fn on_step(&mut self, _step: &Step, _cx: &mut Context<'_>) -> Flow {
                let ($($part,)*) = self;
                let flows: [ControlFlow<()>; _] = [$($part.on_step(_step, _cx)?),*];
                Ok(joined(&flows))
            }

            #[expect(non_snake_case, reason = "the names are those of the types")]
            fn on_epoch(&mut self, _epoch: &Epoch, _cx: &mut Context<'_>) -> Flow {
                let ($($part,)*) = self;
                let flows: [ControlFlow<()>; _] = [$($part.on_epoch(_epoch, _cx)?),*];
                Ok(joined(&flows))
            }

            #[expect(non_snake_case, reason = "the names are those of the types")]
            fn on_end(&mut self, _cx: &mut Context<'_>) -> Result<(), TrainError> {
                let ($($part,)*) = self;
                $($part.on_end(_cx)?;)*
                Ok(())
            }
        })*
    };
}
tuples! {
    (A, B);
    (A, B, C);
    (A, B, C, D);
}

/// No callback.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Callback for Nothing {}

/// Any of them ends the run.
fn joined(flows: &[ControlFlow<()>]) -> ControlFlow<()> {
    if flows.iter().any(ControlFlow::is_break) { Break(()) } else { Continue(()) }
}

/// The figure of the validation set that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Watch {
    /// The loss: less is better.
    #[default]
    Loss,
    /// The share of wrong predictions: less is better.
    Error,
    /// A metric of the trainer, of which less is better.
    Least(String),
    /// A metric of the trainer, of which more is better.
    Greatest(String),
}

impl Watch {
    /// A figure of which less is better.
    fn value(&self, epoch: &Epoch, who: &str) -> Result<f64, TrainError> {
        let (value, required) = match self {
            Watch::Loss => (epoch.validation_loss, "a validation set".to_owned()),
            Watch::Error => (
                epoch.validation_accuracy.map(|accuracy| 1.0 - accuracy),
                "a validation set and an objective that counts correct predictions".to_owned(),
            ),
            Watch::Least(name) => (epoch.metric(name), format!("a validation set and a metric `{name}`")),
            Watch::Greatest(name) => {
                (epoch.metric(name).map(|figure| -figure), format!("a validation set and a metric `{name}`"))
            }
        };
        let names = || epoch.metrics.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        value.ok_or_else(|| match names() {
            names if names.is_empty() => TrainError::invalid(who, required, "none"),
            names => TrainError::invalid(who, required, format!("the metrics {names}")),
        })
    }
}

/// How long a figure has not become better, kept in the store: `PREFIX.best` (f64) and `PREFIX.waited` (i64).
#[derive(Clone, Debug, PartialEq)]
struct Patience {
    prefix: &'static str,
    watch: Watch,
    epochs: u64,
    min_change: f64,
}

impl Patience {
    fn new(prefix: &'static str, epochs: u64) -> Self {
        Patience { prefix, watch: Watch::Loss, epochs, min_change: 0.0 }
    }

    fn number(&self, name: &str, store: &Store) -> Option<f64> {
        store.get(&format!("{}.{name}", self.prefix)).ok()?.as_scalar()
    }

    fn waited(&self, store: &Store) -> u64 {
        self.number("waited", store).unwrap_or(0.0) as u64
    }

    fn is_over(&self, store: &Store) -> bool {
        self.waited(store) >= self.epochs.max(1)
    }

    fn set_waited(&self, waited: u64, store: &mut StoreMut<'_>) -> Result<(), TrainError> {
        Ok(store.insert(&format!("{}.waited", self.prefix), waited as i64)?)
    }

    /// What is wrong with its numbers, if anything.
    fn check(&self) -> Result<(), TrainError> {
        not_negative(&format!("min_change of {}", self.prefix), self.min_change)
    }

    /// The figure of an epoch that is watched.
    fn value(&self, epoch: &Epoch) -> Result<f64, TrainError> {
        self.watch.value(epoch, self.prefix)
    }

    /// Forgets what another call of `fit` has noted, perhaps on other data.
    fn begin(&self, store: &mut StoreMut<'_>) -> Result<(), TrainError> {
        if self.number("best", store).is_some() {
            store.insert(&format!("{}.best", self.prefix), f64::INFINITY)?;
        }
        self.set_waited(0, store)
    }

    /// Notes a figure, and says whether it is the best so far. One that is no number never is.
    fn note(&self, value: f64, store: &mut StoreMut<'_>) -> Result<bool, TrainError> {
        let best = self.number("best", store).unwrap_or(f64::INFINITY);
        let is_best = value < best - self.min_change;
        if is_best {
            store.insert(&format!("{}.best", self.prefix), value)?;
        }
        self.set_waited(if is_best { 0 } else { self.waited(store).saturating_add(1) }, store)?;
        Ok(is_best)
    }
}

fn not_negative(of: &str, value: f64) -> Result<(), TrainError> {
    let fine = value.is_finite() && value >= 0.0;
    if fine { Ok(()) } else { Err(TrainError::invalid(of, "a number that is finite and not negative", value)) }
}

/// Ends a run when the validation set has not become better for some epochs, and gives the model the weights of the best
/// epoch of this call of `fit` back: in the end, also if the run ended for another reason. Another call begins anew.
///
/// In the store: `early_stopping.best`, `early_stopping.waited`, and the best model under `early_stopping.model.`.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyStopping(Patience);

impl EarlyStopping {
    const MODEL: &'static str = "early_stopping.model";

    /// Ends a run after so many epochs without a lower validation loss, at least 1.
    pub fn new(patience: u64) -> Self {
        EarlyStopping(Patience::new("early_stopping", patience))
    }

    /// Another figure.
    pub fn watch(mut self, watch: Watch) -> Self {
        self.0.watch = watch;
        self
    }

    /// Only what is lower by more than this counts as better; 0 at first.
    pub fn min_change(mut self, change: f64) -> Self {
        self.0.min_change = change;
        self
    }

    fn flow(&self, store: &Store) -> ControlFlow<()> {
        if self.0.is_over(store) { Break(()) } else { Continue(()) }
    }
}

impl Callback for EarlyStopping {
    fn on_start(&mut self, cx: &mut Context<'_>) -> Flow {
        self.0.check()?;
        if !cx.resumed {
            self.0.begin(&mut cx.store)?;
        }
        Ok(self.flow(&cx.store))
    }

    fn on_epoch(&mut self, epoch: &Epoch, cx: &mut Context<'_>) -> Flow {
        if self.0.note(self.0.value(epoch)?, &mut cx.store)? {
            keep(cx, Self::MODEL)?;
        }
        Ok(self.flow(&cx.store))
    }

    fn on_end(&mut self, cx: &mut Context<'_>) -> Result<(), TrainError> {
        // Without a best epoch in this call, the model that is kept is another call's.
        if self.0.number("best", &cx.store).is_some_and(f64::is_finite) {
            put(&tensors_under(&cx.store, Self::MODEL)?, &mut cx.store)?;
        }
        Ok(())
    }
}

/// Copies the model under a prefix.
fn keep(cx: &mut Context<'_>, prefix: &str) -> Result<(), TrainError> {
    let model = tensors_of(&cx.store, cx.model.iter().map(String::as_str))?;
    let model = model.into_iter().map(|(name, value)| (format!("{prefix}.{name}"), value)).collect();
    Ok(put(&model, &mut cx.store)?)
}

/// Makes the learning rate smaller when the validation set has not become better for some epochs of a call of `fit`. Loops without a trainer
/// call [`ReduceOnPlateau::observe`] with a figure of theirs.
///
/// In the store: `plateau.best` and `plateau.waited`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReduceOnPlateau {
    patience: Patience,
    factor: f64,
    min_rate: f64,
    name: String,
}

impl ReduceOnPlateau {
    /// Multiplies `optimizer.lr` by `factor` after so many epochs without a lower validation loss, at least 1.
    pub fn new(factor: f64, patience: u64) -> Self {
        let patience = Patience::new("plateau", patience);
        ReduceOnPlateau { patience, factor, min_rate: 0.0, name: "optimizer.lr".to_owned() }
    }

    /// Another figure.
    pub fn watch(mut self, watch: Watch) -> Self {
        self.patience.watch = watch;
        self
    }

    /// Only what is lower by more than this counts as better; 0 at first.
    pub fn min_change(mut self, change: f64) -> Self {
        self.patience.min_change = change;
        self
    }

    /// The rate does not become less than this; 0 at first.
    pub fn min_rate(mut self, rate: f64) -> Self {
        self.min_rate = rate;
        self
    }

    /// The state that holds the rate, if it is not `optimizer.lr`.
    pub fn rate_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What is wrong with its numbers, if anything.
    fn check(&self) -> Result<(), TrainError> {
        if !(0.0..1.0).contains(&self.factor) {
            return Err(TrainError::invalid("factor of the rate on a plateau", "a number in [0, 1)", self.factor));
        }
        not_negative("min_rate on a plateau", self.min_rate)?;
        self.patience.check()
    }

    /// Notes a figure that ought to fall, and lowers the rate in the store if it has not for long enough. One that is no
    /// number counts as no fall.
    ///
    /// ```
    /// use cotangent_exec::{Runtime, Seed, Session, Threads};
    /// # use cotangent_exec::Compiler;
    /// # use cotangent_graph::{DType::F32, Init, build};
    /// # use cotangent_nn::{Minimize, Sgd};
    /// use cotangent_train::ReduceOnPlateau;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let graph = build(|g| g.minimize(g.param("w", F32, [], Init::ONES).square(), Sgd::new(0.5)))?;
    /// # let program = Compiler::new().compile(&graph)?;
    /// let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(1))?;
    /// let plateau = ReduceOnPlateau::new(0.1, 2);
    /// for loss in [1.0, 0.9, 0.95, 0.93] {
    ///     plateau.observe(loss, session.store_mut())?;
    /// }
    /// assert_eq!(session.store().get("optimizer.lr")?.as_scalar(), Some(f64::from(0.05f32)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if the factor is not in [0, 1), or another number not finite or negative; `E0304` if the store has
    /// no such rate.
    pub fn observe<'s>(&self, value: f64, store: impl Into<StoreMut<'s>>) -> Result<(), TrainError> {
        let mut store = store.into();
        self.check()?;
        self.patience.note(value, &mut store)?;
        if self.patience.is_over(&store) {
            let rate = store.get(&self.name)?;
            let old = rate.as_scalar().unwrap_or(0.0);
            // A rate that is below the least one already, by a schedule or by hand, stays.
            let next = (old * self.factor).max(self.min_rate).min(old);
            match rate.dtype() {
                DType::F64 => store.set(&self.name, next)?,
                _ => store.set(&self.name, next as f32)?,
            }
            self.patience.set_waited(0, &mut store)?;
        }
        Ok(())
    }
}

impl Callback for ReduceOnPlateau {
    fn on_start(&mut self, cx: &mut Context<'_>) -> Flow {
        self.check()?;
        if !cx.resumed {
            self.patience.begin(&mut cx.store)?;
        }
        Ok(Continue(()))
    }

    fn on_epoch(&mut self, epoch: &Epoch, cx: &mut Context<'_>) -> Flow {
        self.observe(self.patience.value(epoch)?, &mut cx.store)?;
        Ok(Continue(()))
    }
}

/// Keeps a copy of the model every so many epochs: with a learning rate that falls and restarts in cycles as long, the
/// members of a snapshot ensemble (Huang et al. 2017).
///
/// In the store: the model of the k-th snapshot, from 0 on, under `snapshot.K.`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshots {
    every: u64,
}

impl Snapshots {
    /// A snapshot after every so many epochs, at least 1.
    pub fn every(epochs: u64) -> Self {
        Snapshots { every: epochs.max(1) }
    }

    /// The snapshots that were taken, oldest first, each with the names of the model: for
    /// [`Trainer::with_values`](crate::Trainer::with_values).
    ///
    /// # Errors
    /// `E0309` if there is no memory for the copies.
    pub fn taken(store: &Store) -> Result<Vec<Tensors>, Diag> {
        let snapshots = (0..).map(|k| tensors_under(store, &format!("snapshot.{k}")));
        snapshots.take_while(|snapshot| snapshot.as_ref().map_or(true, |tensors| !tensors.is_empty())).collect()
    }
}

impl Callback for Snapshots {
    fn on_epoch(&mut self, epoch: &Epoch, cx: &mut Context<'_>) -> Flow {
        if epoch.number.is_multiple_of(self.every) {
            keep(cx, &format!("snapshot.{}", epoch.number / self.every - 1))?;
        }
        Ok(Continue(()))
    }
}
