//! The trainer: epochs of mini-batches, validation, callbacks, history, checkpoints.
//!
//! Why it exists: programs have static shapes, so the last batch of an epoch, evaluation and prediction are programs of
//! their own on the same store; which program a batch needs, and that each is compiled once, is looked after here. And a
//! run of hours must survive a crash.
//!
//! Assumes: the model is a function that builds the same parameters for every batch size. Promises: everything follows
//! from the seed (initial weights, shuffles, dropout), with the same bits for any number of threads; every example is
//! seen once an epoch (but in [`Order::Balanced`]); a batch that is refused changes nothing; a run that is killed at any
//! moment and resumed ends with the same bits in the store as one that was not.
//!
//! ```
//! use cotangent_data::synthetic::two_moons;
//! use cotangent_exec::{Runtime, Threads};
//! use cotangent_nn::{Adam, Layers};
//! use cotangent_train::{CrossEntropy, Options, Trainer};
//!
//! # fn main() -> Result<(), cotangent_train::TrainError> {
//! let runtime = Runtime::new(Threads::Exactly(1));
//! let options = Options { epochs: 60, batch_size: 32, progress: false, ..Options::default() };
//! let mut trainer = Trainer::new(
//!     &runtime,
//!     |_, x| x.dense("hidden", 16).tanh().dense("out", 2),
//!     CrossEntropy,
//!     Adam::new(0.05),
//!     options,
//! );
//! let history = trainer.fit(&two_moons(200, 0.1, 1), Some(&two_moons(100, 0.1, 2)))?;
//! assert!(history.last().and_then(|epoch| epoch.validation_accuracy).is_some_and(|accuracy| accuracy > 0.95));
//! # Ok(())
//! # }
//! ```

mod checks;
mod cursor;
pub(crate) mod evaluate;
mod feed;
mod finite;
mod observed;
mod probe;
pub(crate) mod programs;
mod progress;
pub(crate) mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow::{Break, Continue};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use cotangent_data::safetensors::Tensors;
use cotangent_data::table::n_rows;
use cotangent_data::{DataError, Examples, Field, Order};
use cotangent_exec::{Compiler, Runtime, Seed, Store, StoreMut};
use cotangent_graph::{Code, Graph, GraphBuilder, Loc, Node, Tensor, TensorData};
use cotangent_host::float::in_default;
use cotangent_nn::Optimizer;
use cotangent_scalar::plain;

use self::cursor::Cursor;
use self::feed::each_batch;
pub use self::finite::NonFinite;
use self::finite::check_weights;
use self::observed::Observed;
pub use self::probe::{Overfit, RateRange, RateTest};
use self::programs::Programs;
use self::progress::Progress;
use self::task::{Mode, Training};
use crate::TrainError;
use crate::callbacks::{Callback, Context, Nothing, Step};
use crate::checkpoint::{
    Checkpoint, Checkpoints, Load, Loaded, Value, Wanted, Writer, check, fill, put, tensors_of, types_of,
};
use crate::checksum::checksum;
use crate::history::{Epoch, History};
use crate::metrics::Metric;
use crate::named::{ByName, Named, Net};
use crate::objective::Objective;

/// How a trainer works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Passes over the training set in a call of `fit`.
    pub epochs: usize,
    /// Rows of a batch in training; the last batch of an epoch may have fewer.
    pub batch_size: usize,
    /// Other sizes later on: pairs of an epoch, counted from 1, and the size from then on. Larger batches do what a smaller
    /// learning rate does (Smith et al. 2017), in less time.
    pub batch_sizes: Vec<(u64, usize)>,
    /// In which order the examples of an epoch are taken.
    pub order: Order,
    /// What becomes of batches whose loss is not finite.
    pub non_finite: NonFinite,
    /// Rows of a batch in evaluation and prediction.
    pub eval_batch_size: usize,
    /// Everything random follows from it.
    pub seed: Seed,
    /// Of every so many steps of an epoch, from its first on, one also works out what layers do
    /// ([`statistics`](crate::statistics)); the weights have the same bits with it and without.
    pub statistics: Option<u64>,
    /// Whether a progress bar is drawn on the standard error, if that is a terminal: examples a second, and the time left.
    /// There is none without the feature `progress`.
    pub progress: bool,
    /// Where checkpoints are kept, if they are to be made.
    pub checkpoints: Option<Checkpoints>,
    /// Makes the programs.
    pub compiler: Compiler,
}

impl Default for Options {
    /// 10 epochs of batches of 32, shuffled, evaluation by 256, seed 0, a progress bar, no checkpoints; what is not finite is an
    /// error.
    fn default() -> Self {
        Options {
            epochs: 10,
            batch_size: 32,
            batch_sizes: Vec::new(),
            order: Order::Shuffled,
            non_finite: NonFinite::Refuse,
            eval_batch_size: 256,
            seed: Seed(0),
            statistics: None,
            progress: true,
            checkpoints: None,
            compiler: Compiler::new(),
        }
    }
}

impl Options {
    /// Rows of a batch in an epoch, counted from 1.
    fn batch_size_in(&self, epoch: u64) -> usize {
        let begun = self.batch_sizes.iter().filter(|(from, _)| *from <= epoch);
        begun.max_by_key(|(from, _)| *from).map_or(self.batch_size, |&(_, size)| size)
    }
}

/// The figures of a dataset under the current weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The mean loss.
    pub loss: f64,
    /// The share predicted correctly, if the objective has that notion.
    pub accuracy: Option<f64>,
    /// The metrics of the trainer, by name.
    pub metrics: Vec<(String, f64)>,
}

/// What a run was resumed from.
#[derive(Debug)]
pub struct Resumed {
    /// The checkpoint's file.
    pub path: PathBuf,
    /// Steps that it has behind it.
    pub step: u32,
    /// Whole epochs that it has behind it.
    pub epochs: u64,
    /// Newer files that were passed over because they are damaged, newest first, with what is wrong.
    pub damaged: Vec<(PathBuf, DataError)>,
    /// What became of its values; those of callbacks, and others that no program has, are taken and not listed. Nothing is
    /// listed if an earlier version wrote the file: then its values are held against the model by the next call of `fit`.
    pub loaded: Loaded,
}

/// Trains a model. See the [module](self).
pub struct Trainer<M, L, O> {
    programs: Programs<Training<M, L, O>>,
    options: Options,
    cursor: Cursor,
    /// Whether a call of `fit` was interrupted and the next one goes on with it.
    interrupted: bool,
    /// The folder of checkpoints is this run's if it has none of a later step than this one.
    newest: Option<u32>,
    /// How values that were resumed are to be held against the model, if they were not yet.
    unchecked: Option<Load>,
    /// Parameters, and the states that the model reads at test time.
    model_names: Vec<String>,
    /// What was seen of the call of `fit` under way.
    observed: Observed,
}

impl<M, L, O> fmt::Debug for Trainer<M, L, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trainer({:?}, {} epochs done)", self.programs, self.cursor.epochs)
    }
}

impl<M, L, O> Trainer<M, L, O>
where
    M: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>,
    L: Objective,
    O: Optimizer,
{
    /// A trainer of a model, which makes outputs `[batch, ..]` from features `[batch, ..]`: of the field `x` the output `outputs`.
    /// Nothing is compiled yet.
    #[track_caller]
    pub fn new(runtime: &Runtime, model: M, objective: L, optimizer: O, options: Options) -> Self {
        Trainer::of(runtime, model, objective, optimizer, options)
    }
}

impl<F, L, O> Trainer<ByName<F>, L, O>
where
    F: for<'g> Fn(&'g GraphBuilder, &Named<'g>) -> Named<'g>,
    L: Objective,
    O: Optimizer,
{
    /// A trainer of a model that makes named outputs of the named fields of a batch: several of each, of any element types.
    ///
    /// ```
    /// use cotangent_data::Table;
    /// use cotangent_exec::{Runtime, Threads};
    /// use cotangent_nn::{Adam, Layers};
    /// use cotangent_train::metrics::MeanAbsolute;
    /// use cotangent_train::{Named, Options, Trainer, loss};
    /// use ndarray::Array2;
    ///
    /// # fn main() -> Result<(), cotangent_train::TrainError> {
    /// // A price follows from words and from a size.
    /// let words = Array2::from_shape_fn((60, 3), |(i, j)| ((i * 7 + j * 5) % 10) as i64);
    /// let size = Array2::from_shape_fn((60, 1), |(i, _)| (i % 6) as f32 / 6.0);
    /// let price = Array2::from_shape_fn((60, 1), |(i, _)| size[[i, 0]] + 0.1 * words[[i, 0]] as f32);
    /// let set = Table::new().with("words", words)?.with("size", size)?.with("price", price)?;
    ///
    /// let options = Options { epochs: 60, batch_size: 16, progress: false, ..Options::default() };
    /// let mut trainer = Trainer::named(
    ///     &Runtime::new(Threads::Exactly(1)),
    ///     |g, batch| {
    ///         let words = batch.get("words").embedding("words", 10, 4).flatten();
    ///         let hidden = g.concat(&[words, batch.get("size")], 1).dense("hidden", 16).tanh();
    ///         Named::outputs(g, [("price", hidden.dense("price", 1))])
    ///     },
    ///     loss(|outputs, batch| outputs.get("price").mse(batch.get("price"))),
    ///     Adam::new(0.02),
    ///     options,
    /// )
    /// .metric(MeanAbsolute::new("price", "price"));
    /// let history = trainer.fit(&set, Some(&set))?;
    /// let last = history.last().expect("an epoch");
    /// assert!(last.metric("mean_absolute").is_some_and(|error| error < 0.2), "{last}");
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn named(runtime: &Runtime, model: F, objective: L, optimizer: O, options: Options) -> Self {
        Trainer::of(runtime, ByName(model), objective, optimizer, options)
    }
}

impl<M: Net, L: Objective, O: Optimizer> Trainer<M, L, O> {
    #[track_caller]
    fn of(runtime: &Runtime, model: M, objective: L, optimizer: O, options: Options) -> Self {
        let (compiler, checks_loss) = (options.compiler.clone(), options.non_finite != NonFinite::Allow);
        let metrics = objective.accuracy().into_iter().collect();
        let task = Training { model, objective, optimizer, metrics, checks_loss, made_at: Loc::here() };
        let programs = Programs::new(runtime, task, compiler, options.seed);
        Trainer {
            programs,
            options,
            cursor: Cursor::default(),
            interrupted: false,
            newest: None,
            unchecked: None,
            model_names: Vec::new(),
            observed: Observed::default(),
        }
    }

    /// Works out another metric whenever it evaluates: before anything is evaluated first.
    pub fn metric(mut self, metric: impl Metric + 'static) -> Self {
        self.programs.task.metrics.push(Box::new(metric));
        self
    }

    // ---- training --------------------------------------------------------------------------------------------------

    /// Trains for the number of epochs in the options, and evaluates on the validation set after each. Another call goes on
    /// for as many; after an error, or after [`Trainer::resume`], the next call goes on with the one that was interrupted.
    ///
    /// # Errors
    /// An empty set, a batch size of zero, a label without meaning, or what is wrong with the model; a checkpoint that
    /// could not be written. What was trained before stays.
    #[track_caller]
    pub fn fit(&mut self, train: &impl Examples, validation: Option<&dyn Examples>) -> Result<History, TrainError> {
        self.fit_with(train, validation, Nothing)
    }

    /// [`Trainer::fit`] with callbacks: early stopping, snapshots, or one's own; see [`callbacks`](crate::callbacks).
    ///
    /// # Errors
    /// As [`Trainer::fit`], and those of the callbacks.
    #[track_caller]
    pub fn fit_with(
        &mut self,
        train: &impl Examples,
        validation: Option<&dyn Examples>,
        mut callback: impl Callback,
    ) -> Result<History, TrainError> {
        self.programs.called();
        let resumed = self.interrupted;
        if !resumed {
            self.cursor.base = self.cursor.epochs;
            self.cursor.stopped = false;
            self.observed = Observed::default();
        }
        self.check_resumed(train)?;
        self.prepare_all(train, validation)?;
        self.cursor.example = Some(train.fields());
        // Looked at before it is touched, and again when nobody else can write.
        self.check_folder()?;
        let writer = self.options.checkpoints.as_ref().map(Checkpoints::writer).transpose()?;
        self.check_folder()?;
        self.interrupted = true;

        let until = self.until();
        let n_examples = |epochs: u64| epochs.saturating_mul(train.len() as u64);
        let n_done = n_examples(self.cursor.epochs - self.cursor.base).saturating_add(self.cursor.examples as u64);
        let bar = Progress::new(self.options.progress, n_examples(until - self.cursor.base), n_done);
        self.cursor.stopped |= callback.on_start(&mut self.context(resumed))?.is_break();
        while !self.cursor.stopped && self.cursor.epochs < until {
            in_default(|| self.train_epoch(train, validation, &mut callback, &bar, writer.as_ref(), resumed))?;
        }
        bar.finish();
        callback.on_end(&mut self.context(resumed))?;
        self.interrupted = false;
        Ok(self.cursor.history.after(self.cursor.base))
    }

    /// Epochs that are done when the call of `fit` is.
    fn until(&self) -> u64 {
        self.cursor.base.saturating_add(self.options.epochs as u64)
    }

    /// The rest of an epoch, its evaluation and its checkpoint.
    fn train_epoch(
        &mut self,
        train: &dyn Examples,
        validation: Option<&dyn Examples>,
        callback: &mut impl Callback,
        bar: &Progress,
        writer: Option<&Writer>,
        resumed: bool,
    ) -> Result<(), TrainError> {
        let number = self.cursor.epochs + 1;
        let size = self.options.batch_size_in(number);
        self.cursor.begin(train, size, self.options.order)?;
        self.observed.begin(self.options.statistics, size.min(train.len()));
        let fields = train.fields();
        let places = train.places(self.options.order, self.options.seed.0, self.cursor.epochs)?;
        let epoch = self.cursor.epochs;
        let mut start = Instant::now();
        each_batch(train, epoch, &places[self.cursor.examples.min(places.len())..], size, |batch| {
            let n_rows = n_rows(batch);
            let loss = self.train_on(batch, n_rows, &fields)?;
            self.cursor.examples += n_rows;
            self.cursor.seconds += start.elapsed().as_secs_f64();
            bar.add(n_rows as u64);
            let Some(loss) = loss else {
                start = Instant::now();
                return Ok(Continue(()));
            };
            let step = Step { number: self.programs.store().step(), epoch: number, n_rows, loss };
            let stop = callback.on_step(&step, &mut self.context(resumed))?.is_break();
            self.cursor.stopped |= stop;
            let is_inside = self.cursor.examples < train.len();
            if is_inside && (stop || self.is_due(step.number)) {
                self.save(writer)?;
            }
            start = Instant::now();
            Ok(if stop && is_inside { Break(()) } else { Continue(()) })
        })?;
        if self.cursor.examples < train.len() {
            return Ok(());
        }
        let n_taken = self.cursor.examples - self.cursor.skipped;
        if n_taken == 0 {
            let required = format!("a batch of epoch {number} whose loss and gradients are finite");
            return Err(TrainError::invalid("training set", required, "none: all were passed over"));
        }
        self.check_weights()?;
        let evaluation = validation.map(|set| self.evaluate_checked(set)).transpose()?;
        let store = self.programs.store();
        let epoch = Epoch {
            number,
            step: store.step(),
            batch_size: size,
            train_loss: self.cursor.loss / self.cursor.weight,
            validation_loss: evaluation.as_ref().map(|e| e.loss),
            validation_accuracy: evaluation.as_ref().and_then(|e| e.accuracy),
            metrics: evaluation.map(|e| e.metrics).unwrap_or_default(),
            rate: store.get("optimizer.lr").ok().and_then(|rate| rate.as_scalar()),
            seconds: self.cursor.seconds,
            n_skipped: self.cursor.skipped,
        };
        self.cursor.history.push(epoch.clone());
        self.cursor.end_epoch();
        self.observed.end_epoch();
        let flow = bar.after_epoch(&epoch, || callback.on_epoch(&epoch, &mut self.context(resumed)))?;
        self.cursor.stopped |= flow.is_break();
        self.save(writer)
    }

    /// One step on a batch, or one gradient of several that a step takes the mean of: the loss, `None` if it was passed over.
    fn train_on(&mut self, batch: &[TensorData], n_rows: usize, fields: &[Field]) -> Result<Option<f64>, TrainError> {
        let completes = self.cursor.pending + 1 >= self.programs.task.gradients_per_step();
        let mode = match completes {
            true if self.observed.wants(n_rows) => Mode::Observe,
            true => Mode::Train,
            false => Mode::Accumulate,
        };
        let program = self.programs.program(mode, n_rows, fields)?;
        let out = match self.programs.run(&program, batch) {
            Ok(out) => out,
            Err(TrainError::Step(diag))
                if self.options.non_finite == NonFinite::Skip && diag.code == Code::NotFinite =>
            {
                self.cursor.skipped += n_rows;
                self.observed.note_not_finite();
                return Ok(None);
            }
            Err(error) => {
                if matches!(&error, TrainError::Step(diag) if diag.code == Code::NotFinite) {
                    self.observed.note_not_finite();
                }
                return Err(error);
            }
        };
        let loss = out.scalar("loss")?;
        self.observed.note(loss, if mode == Mode::Observe { Some(&out) } else { None })?;
        let has_weight = out.iter().any(|(name, _)| name == "weight");
        let weight = if has_weight { out.scalar("weight")? } else { n_rows as f64 };
        // What no weight is in has no mean.
        if weight != 0.0 {
            self.cursor.loss += loss * weight;
        }
        self.cursor.weight += weight;
        self.cursor.pending = if completes { 0 } else { self.cursor.pending + 1 };
        Ok(Some(loss))
    }

    /// Goes on with the newest checkpoint that is whole: parameters, states, counters, place in the data, history. The next
    /// call of [`Trainer::fit`] finishes the call that made it; if that had done all its epochs, or a callback had ended it,
    /// it returns at once with its history. `None` if there is no checkpoint yet; then nothing has changed and the run starts.
    ///
    /// # Errors
    /// [`TrainError::NoCheckpoint`] if there are some and all are damaged; [`DataError::Unsupported`] if a later version wrote
    /// the newest; [`TrainError::Invalid`] if the options name no folder, or the checkpoint has another seed;
    /// [`TrainError::Differs`] if it is of another model or optimiser; what is wrong with the model. Nothing has changed then.
    #[track_caller]
    pub fn resume(&mut self) -> Result<Option<Resumed>, TrainError> {
        self.resume_with(Load::Strict)
    }

    /// [`Trainer::resume`] with a choice: [`Load::Fitting`] goes on with another model or optimiser, from what fits.
    ///
    /// # Errors
    /// As [`Trainer::resume`].
    #[track_caller]
    pub fn resume_with(&mut self, how: Load) -> Result<Option<Resumed>, TrainError> {
        self.programs.called();
        let Some(checkpoints) = self.options.checkpoints.clone() else {
            return Err(TrainError::invalid("checkpoints", "a folder in the options, to resume from", "none"));
        };
        let newest = checkpoints.newest_step()?.unwrap_or(0);
        let resumed = checkpoints.newest(|path| self.resume_from(path, how))?;
        self.newest = Some(newest);
        Ok(resumed.map(|(resumed, damaged)| Resumed { damaged, ..resumed }))
    }

    /// Takes what is in a file, read straight into the store.
    fn resume_from(&mut self, path: &Path, how: Load) -> Result<Resumed, TrainError> {
        let checkpoint = Checkpoint::open(path)?;
        if checkpoint.seed != self.options.seed {
            let required = format!("seed {}, as {} has", checkpoint.seed.0, path.display());
            return Err(TrainError::invalid("options", required, format!("seed {}", self.options.seed.0)));
        }
        let cursor = Cursor::from_notes(&checkpoint.notes)?;
        // What no program of that run had, callbacks have put there.
        let is_other = |name: &str| checkpoint.notes.contains_key(&other(name));
        let mut loaded = Loaded::default();
        if let Some(fields) = &cursor.example {
            let rows = self.options.batch_size_in(cursor.epochs + 1).max(1);
            let mut own = types_of(&checkpoint.tensors);
            own.retain(|name, _| !is_other(name));
            let wanted = self.programs.wanted(rows, fields)?.compare(&own, &BTreeSet::new());
            loaded = check(wanted, how, path.display().to_string())?;
        }
        let takes_all = cursor.example.is_none();
        let is_taken = |name: &&String| takes_all || is_other(name) || loaded.taken.binary_search(name).is_ok();
        let mut store = self.programs.store_mut();
        fill(&checkpoint.tensors, checkpoint.tensors.keys().filter(is_taken), &mut store)?;
        store.set_step(checkpoint.step);
        store.set_draws(checkpoint.draws);
        self.unchecked = takes_all.then_some(how);
        (self.cursor, self.interrupted) = (cursor, true);
        let (path, epochs, damaged) = (path.to_owned(), self.cursor.epochs, Vec::new());
        Ok(Resumed { step: checkpoint.step, epochs, path, damaged, loaded })
    }

    /// Holds what was resumed from a checkpoint that does not say what its model was made for against the model.
    fn check_resumed(&mut self, train: &dyn Examples) -> Result<(), TrainError> {
        let Some(how) = self.unchecked else { return Ok(()) };
        let rows = self.options.batch_size_in(self.cursor.epochs + 1).clamp(1, train.len().max(1));
        let wanted = self.programs.wanted(rows, &train.fields())?;
        let given = self.store().iter().map(|(name, ty)| (name, ty.clone())).collect();
        // Which values are those of callbacks it does not say either.
        let loaded = Loaded { unused: Vec::new(), ..wanted.compare(&given, &BTreeSet::new()) };
        check(loaded, how, "the checkpoint that was resumed from")?;
        self.unchecked = None;
        Ok(())
    }

    /// Everything that a run needs to go on, as it is now.
    ///
    /// # Errors
    /// `E0309` if there is no memory for the copies.
    pub fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        let checkpoint = Checkpoint::of_store(self.programs.store())?;
        let others = checkpoint.tensors.keys().filter(|name| !self.programs.has(name));
        let notes = others.map(|name| (other(name), String::new())).chain(self.cursor.to_notes()).collect();
        Ok(Checkpoint { notes, ..checkpoint })
    }

    fn save(&mut self, writer: Option<&Writer>) -> Result<(), TrainError> {
        if let Some(writer) = writer {
            self.check_weights()?;
            let checkpoint = self.checkpoint()?;
            let step = checkpoint.step;
            writer.save(checkpoint)?;
            self.newest = self.newest.max(Some(step));
        }
        Ok(())
    }

    fn is_due(&self, step: u32) -> bool {
        self.options.checkpoints.as_ref().is_some_and(|checkpoints| checkpoints.is_due(step))
    }

    fn context(&mut self, resumed: bool) -> Context<'_> {
        let statistics = self.observed.statistics();
        Context { store: self.programs.store_mut(), model: &self.model_names, resumed, statistics }
    }

    fn check_weights(&self) -> Result<(), TrainError> {
        match self.options.non_finite {
            NonFinite::Allow => Ok(()),
            _ => Ok(check_weights(self.store(), &self.model_names, self.programs.called_at())?),
        }
    }

    /// A folder with checkpoints of another run would be mixed up with this one's.
    fn check_folder(&self) -> Result<(), TrainError> {
        let Some(checkpoints) = &self.options.checkpoints else { return Ok(()) };
        let Some(step) = checkpoints.newest_step()? else { return Ok(()) };
        let required = match self.newest {
            None => "an empty one, or a call of `resume` before `fit`".to_owned(),
            Some(newest) if step > newest => format!("no checkpoint after step {newest}, as this run knows it"),
            Some(_) => return Ok(()),
        };
        let got = format!("{} with one of step {step}", checkpoints.folder().display());
        Err(TrainError::invalid("folder of checkpoints", required, got))
    }

    // ---- weights ---------------------------------------------------------------------------------------------------

    /// Does something with other values in the place of those in the store, and puts the old ones back: evaluates a snapshot
    /// ([`Snapshots::taken`](crate::Snapshots::taken)), or the averaged weights
    /// (`checkpoint::tensors_under(trainer.store(), "average")?`).
    ///
    /// # Errors
    /// `E0302` if the store has a value of one of these names with another type, `E0309` if there is no memory for the old ones;
    /// nothing has changed then.
    pub fn with_values<R>(&mut self, values: &Tensors, f: impl FnOnce(&mut Self) -> R) -> Result<R, TrainError> {
        let old = tensors_of(self.store(), values.keys().map(String::as_str))?;
        put(values, self.store_mut())?;
        // Also after a panic: what was trained is not lost.
        let result = catch_unwind(AssertUnwindSafe(|| f(self)));
        put(&old, self.store_mut())?;
        Ok(result.unwrap_or_else(|panic| resume_unwind(panic)))
    }

    /// Hands weights, in memory or in a file, to the model before it is trained on such a dataset, and says what became of each
    /// name. For weights of another model, rename them first ([`checkpoint::renamed`](crate::checkpoint::renamed)).
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if a weight has another type than the model's of that name, or if the model has none of
    /// the names; what is wrong with the model, or with the file. Nothing has changed then.
    #[track_caller]
    pub fn load_weights<V: Value>(
        &mut self,
        weights: &BTreeMap<String, V>,
        set: &impl Examples,
    ) -> Result<Loaded, TrainError> {
        self.programs.called();
        let graph = self.programs.graph(Mode::Predict, 1, &set.fields())?.graph;
        let mut wanted = Wanted::default();
        wanted.add(stored_names(&graph).map(|(name, node)| (name, &node.ty)), true);
        let loaded = wanted.compare(&types_of(weights), &BTreeSet::new());
        if let Some((name, required, got)) = loaded.differ.first() {
            let of = format!("weights of `{name}`");
            return Err(TrainError::invalid(of, format!("{required}, as the model has"), got));
        }
        if loaded.taken.is_empty() {
            let some = |names: Vec<&str>| {
                names.into_iter().take(6).map(|name| plain(name).to_string()).collect::<Vec<_>>().join(", ")
            };
            let required =
                format!("names of the model, as {}", some(stored_names(&graph).map(|(name, _)| name).collect()));
            let got = format!("only others: {}", some(weights.keys().map(String::as_str).collect()));
            return Err(TrainError::invalid("weights", required, got));
        }
        fill(weights, &loaded.taken, &mut self.store_mut())?;
        Ok(loaded)
    }

    /// The parameters, states and counters. Before anything ran it has only what was put in.
    pub fn store(&self) -> &Store {
        self.programs.store()
    }

    /// The parameters, states and counters, to be changed; the programs go on with the same store.
    ///
    /// ```
    /// # use cotangent_exec::{Runtime, Seed, Store, Threads};
    /// # use cotangent_nn::{Layers, Sgd};
    /// # use cotangent_train::{CrossEntropy, Options, Trainer};
    /// # let runtime = Runtime::new(Threads::Exactly(1));
    /// # let mut trainer =
    /// #     Trainer::new(&runtime, |_, x| x.dense("out", 2), CrossEntropy, Sgd::new(0.1), Options::default());
    /// trainer.store_mut().insert("epochs_seen", 3i64)?;
    /// # Ok::<(), cotangent_graph::Diag>(())
    /// ```
    ///
    /// ```compile_fail,E0594
    /// # use cotangent_exec::{Runtime, Seed, Store, Threads};
    /// # use cotangent_nn::{Layers, Sgd};
    /// # use cotangent_train::{CrossEntropy, Options, Trainer};
    /// # let runtime = Runtime::new(Threads::Exactly(1));
    /// # let mut trainer =
    /// #     Trainer::new(&runtime, |_, x| x.dense("out", 2), CrossEntropy, Sgd::new(0.1), Options::default());
    /// *trainer.store_mut() = Store::new(Seed(0));
    /// # Ok::<(), cotangent_graph::Diag>(())
    /// ```
    pub fn store_mut(&mut self) -> StoreMut<'_> {
        self.programs.store_mut()
    }

    /// The values that make the model at test time, once it was trained: parameters, and states such as running statistics.
    ///
    /// # Errors
    /// `E0309` if there is no memory for the copies.
    pub fn weights(&self) -> Result<Tensors, TrainError> {
        Ok(tensors_of(self.store(), self.model_names.iter().map(String::as_str))?)
    }

    /// The hash of these values (see [`checksum`]).
    ///
    /// # Errors
    /// `E0309` if there is no memory for a copy of one of them.
    pub fn weights_checksum(&self) -> Result<u64, TrainError> {
        Ok(checksum(self.store(), self.model_names.iter().map(String::as_str))?)
    }

    /// The epochs of all calls of `fit`.
    pub fn history(&self) -> &History {
        &self.cursor.history
    }
}

/// The note that says that a value is no program's.
fn other(name: &str) -> String {
    format!("other.{name}")
}

/// The parameters and states of a graph.
fn stored_names(graph: &Graph) -> impl Iterator<Item = (&str, &Node)> {
    graph.stored().filter_map(|(_, node)| Some((node.name()?, node)))
}
