//! The trainer: epochs of shuffled mini-batches, evaluation, history.
//!
//! Why it exists: programs have static shapes, so the last batch of an epoch, evaluation and prediction are programs of
//! their own on the same store; which program a batch needs, and that each is compiled once, is looked after here.
//!
//! Assumes: the model is a function that builds the same parameters for every batch size. Promises: everything follows
//! from the seed (initial weights, shuffles, dropout), with the same bits for any number of threads; every example is
//! seen once an epoch; a batch that is refused changes nothing.
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
//! assert!(history.last().and_then(|epoch| epoch.test_accuracy).is_some_and(|accuracy| accuracy > 0.95));
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io::{IsTerminal, stderr};
use std::ops::ControlFlow;
use std::time::Instant;

use cotangent_data::Dataset;
use cotangent_exec::{Compiler, InputId, ProgramId, Runtime, Seed, Session, Store};
use cotangent_graph::{DType, Diag, Graph, GraphBuilder, Shape, Tensor, build};
use cotangent_nn::{Minimize, Optimizer};
use indicatif::{ProgressBar, ProgressStyle};
use ndarray::{Array1, ArrayD, ArrayViewD, Axis, IxDyn, Slice};

use crate::TrainError;
use crate::checksum::checksum;
use crate::objective::{Label, Objective};

/// How a trainer works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Passes over the training set.
    pub epochs: usize,
    /// Rows of a batch in training; the last batch of an epoch may have fewer.
    pub batch_size: usize,
    /// Rows of a batch in evaluation and prediction.
    pub eval_batch_size: usize,
    /// Everything random follows from it.
    pub seed: Seed,
    /// Whether a progress bar is drawn on the standard error, if that is a terminal.
    pub progress: bool,
    /// Makes the programs.
    pub compiler: Compiler,
}

impl Default for Options {
    /// 10 epochs of batches of 32, evaluation by 256, seed 0, a progress bar.
    fn default() -> Self {
        Options {
            epochs: 10,
            batch_size: 32,
            eval_batch_size: 256,
            seed: Seed(0),
            progress: true,
            compiler: Compiler::new(),
        }
    }
}

/// What an epoch achieved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// Its number, from 1 on, over all calls of `fit`.
    pub number: u64,
    /// The mean loss over the examples, each taken when its batch was trained on.
    pub train_loss: f64,
    /// The mean loss on the test set after the epoch.
    pub test_loss: Option<f64>,
    /// The share of the test set that is predicted correctly after the epoch.
    pub test_accuracy: Option<f64>,
    /// Time spent on training, without compilation and evaluation.
    pub seconds: f64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}: train loss {:.4}", self.number, self.train_loss)?;
        if let Some(loss) = self.test_loss {
            write!(f, ", test loss {loss:.4}")?;
        }
        if let Some(accuracy) = self.test_accuracy {
            write!(f, ", test accuracy {:.2} %", 100.0 * accuracy)?;
        }
        write!(f, ", {:.2} s", self.seconds)
    }
}

/// The epochs of a call of `fit`, in order.
pub type History = Vec<Epoch>;

/// The figures of a dataset under the current weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// The mean loss.
    pub loss: f64,
    /// The share predicted correctly, if the objective has that notion.
    pub accuracy: Option<f64>,
}

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    Train,
    Evaluate,
    Predict,
}

/// What tells programs apart: purpose, shape of the features, element type of the labels.
type Key = (Mode, Vec<usize>, DType);

/// A compiled program of the session.
#[derive(Clone, Debug)]
struct Program {
    id: ProgramId,
    x: InputId,
    y: Option<InputId>,
    /// The shape of the model's outputs.
    outputs: Shape,
    counts: bool,
}

/// Trains a model. See the [module](self).
pub struct Trainer<M, L, O> {
    model: M,
    objective: L,
    optimizer: O,
    options: Options,
    runtime: Runtime,
    session: Option<Session>,
    programs: HashMap<Key, Program>,
    n_epochs: u64,
}

impl<M, L, O> fmt::Debug for Trainer<M, L, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trainer({} programs, {} epochs done)", self.programs.len(), self.n_epochs)
    }
}

impl<M, L, O> Trainer<M, L, O>
where
    M: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>,
    L: Objective,
    O: Optimizer,
{
    /// A trainer of a model, which makes outputs `[batch, ..]` from features `[batch, ..]`. Nothing is compiled yet.
    pub fn new(runtime: &Runtime, model: M, objective: L, optimizer: O, options: Options) -> Self {
        Trainer {
            model,
            objective,
            optimizer,
            options,
            runtime: runtime.clone(),
            session: None,
            programs: HashMap::new(),
            n_epochs: 0,
        }
    }

    /// Trains for the number of epochs in the options, and evaluates on the test set after each. Another call goes on.
    ///
    /// # Errors
    /// An empty set, a batch size of zero, a label without meaning, or what is wrong with the model.
    pub fn fit<T: Label>(&mut self, train: &Dataset<T>, test: Option<&Dataset<T>>) -> Result<History, TrainError> {
        self.fit_with(train, test, |_, _| ControlFlow::Continue(()))
    }

    /// [`Trainer::fit`] with a word in after each epoch: to report, to set `optimizer.lr` in the store, or to stop.
    ///
    /// # Errors
    /// As [`Trainer::fit`].
    pub fn fit_with<T: Label>(
        &mut self,
        train: &Dataset<T>,
        test: Option<&Dataset<T>>,
        mut on_epoch: impl FnMut(&Epoch, &mut Store) -> ControlFlow<()>,
    ) -> Result<History, TrainError> {
        let size = self.options.batch_size;
        self.check_set("training set", train, "batch_size", size)?;
        // Whatever can be refused is refused before the first step, and compiled before the first clock starts.
        for rows in [size.min(train.len()), train.len() % size] {
            self.prepare(Mode::Train, train, rows)?;
        }
        self.check_labels(Mode::Train, train, size.min(train.len()))?;
        if let Some(test) = test {
            self.check_evaluation(test)?;
        }

        let bar = self.progress_bar((self.options.epochs * train.len().div_ceil(size)) as u64);
        let mut history = History::new();
        for _ in 0..self.options.epochs {
            let start = Instant::now();
            let train_loss = self.train_epoch(train, &bar)?;
            self.n_epochs += 1;
            let seconds = start.elapsed().as_secs_f64();
            let evaluation = test.map(|test| self.evaluate(test)).transpose()?;
            let epoch = Epoch {
                number: self.n_epochs,
                train_loss,
                test_loss: evaluation.map(|e| e.loss),
                test_accuracy: evaluation.and_then(|e| e.accuracy),
                seconds,
            };
            bar.set_message(epoch.to_string());
            history.push(epoch);
            if let Some(session) = &mut self.session
                // Printing there must not tear the bar.
                && bar.suspend(|| on_epoch(&epoch, session.store_mut())).is_break()
            {
                break;
            }
        }
        bar.finish_and_clear();
        Ok(history)
    }

    /// One pass over the training set; the mean loss.
    fn train_epoch<T: Label>(&mut self, train: &Dataset<T>, bar: &ProgressBar) -> Result<f64, TrainError> {
        let mut batches = train.shuffled_batches(self.options.batch_size, self.options.seed.0).epoch(self.n_epochs);
        let mut batch = (ArrayD::zeros(IxDyn(&[0])), Array1::from_vec(Vec::new()));
        let mut total = 0.0;
        while batches.next_into(&mut batch) {
            let program = self.program::<T>(Mode::Train, batch.0.shape())?;
            total += self.run(&program, &batch.0, &batch.1)?.0 * batch.1.len() as f64;
            bar.inc(1);
        }
        Ok(total / train.len() as f64)
    }

    /// Loss and accuracy on a dataset, without dropout and without changing anything.
    ///
    /// # Errors
    /// An empty set, an evaluation batch size of zero, a label without meaning, or what is wrong with the model.
    pub fn evaluate<T: Label>(&mut self, set: &Dataset<T>) -> Result<Evaluation, TrainError> {
        self.check_evaluation(set)?;
        let mut batches = set.batches(self.options.eval_batch_size);
        let mut batch = (ArrayD::zeros(IxDyn(&[0])), Array1::from_vec(Vec::new()));
        let (mut total, mut n_correct) = (0.0, Some(0.0));
        while batches.next_into(&mut batch) {
            let program = self.program::<T>(Mode::Evaluate, batch.0.shape())?;
            let (loss, correct) = self.run(&program, &batch.0, &batch.1)?;
            total += loss * batch.1.len() as f64;
            n_correct = n_correct.zip(correct).map(|(sum, n)| sum + n);
        }
        let n = set.len() as f64;
        Ok(Evaluation { loss: total / n, accuracy: n_correct.map(|correct| correct / n) })
    }

    /// The model's outputs for features `[n, ..]`, without dropout: `[n, ..]`.
    ///
    /// # Errors
    /// No rows, an evaluation batch size of zero, or what is wrong with the model.
    pub fn predict(&mut self, features: ArrayViewD<'_, f32>) -> Result<ArrayD<f32>, TrainError> {
        let n = features.shape().first().copied().unwrap_or(0);
        if n == 0 {
            return Err(TrainError::invalid("features", "at least one row", format!("shape {:?}", features.shape())));
        }
        let size = positive("eval_batch_size", self.options.eval_batch_size)?;
        let mut parts = Vec::new();
        for start in (0..n).step_by(size) {
            let rows = features.slice_axis(Axis(0), Slice::from(start..n.min(start.saturating_add(size))));
            let program = self.program::<i64>(Mode::Predict, rows.shape())?;
            let outputs = self.session()?.run(program.id, [(program.x, rows.into())])?;
            parts.push(outputs.view::<f32>("outputs")?.to_owned());
        }
        let parts: Vec<_> = parts.iter().map(|part| part.view()).collect();
        ndarray::concatenate(Axis(0), &parts)
            .map_err(|error| TrainError::invalid("outputs of the model", "one row for each row of features", error))
    }

    /// The parameters, states and counters, once something has run.
    pub fn store(&self) -> Option<&Store> {
        self.session.as_ref().map(Session::store)
    }

    /// The parameters, states and counters, to be changed, once something has run.
    pub fn store_mut(&mut self) -> Option<&mut Store> {
        self.session.as_mut().map(Session::store_mut)
    }

    /// The hash of all parameters (see [`checksum`]), once something has run.
    pub fn weights_checksum(&self) -> Option<u64> {
        let session = self.session.as_ref()?;
        let nodes = session.program().source().nodes().iter();
        let names = nodes.filter(|node| node.op.name == "param").map(|node| node.attrs.str("name"));
        checksum(session.store(), names).ok()
    }

    // ---- programs --------------------------------------------------------------------------------------------------

    /// The program for a purpose and a shape of features, compiled when it is asked for first.
    fn program<T: Label>(&mut self, mode: Mode, features: &[usize]) -> Result<Program, TrainError> {
        let key = (mode, features.to_vec(), T::DTYPE);
        if let Some(program) = self.programs.get(&key) {
            return Ok(program.clone());
        }
        let (graph, outputs, counts) = self.graph(mode, features, T::DTYPE)?;
        let executable = self.options.compiler.compile(&graph)?;
        let x = executable.input_id("x")?;
        let y = if mode == Mode::Predict { None } else { Some(executable.input_id("y")?) };
        let id = match &mut self.session {
            Some(session) => session.load(executable)?,
            None => {
                let session = Session::new(&self.runtime, executable, self.options.seed)?;
                let id = session.main();
                self.session = Some(session);
                id
            }
        };
        let program = Program { id, x, y, outputs, counts };
        self.programs.insert(key, program.clone());
        Ok(program)
    }

    /// The graph of a program, the shape of the model's outputs, and whether it counts correct predictions.
    fn graph(&self, mode: Mode, features: &[usize], label: DType) -> Result<(Graph, Shape, bool), TrainError> {
        let (mut shape, mut counts) = (Shape::default(), false);
        let graph = build(|g| {
            g.set_training(mode == Mode::Train);
            let x = g.input("x", DType::F32, Shape::new(features));
            let outputs = (self.model)(g, x);
            shape = outputs.shape();
            if mode == Mode::Predict {
                g.output("outputs", outputs);
                return;
            }
            let y = g.input("y", label, Shape::new(&features[..1]));
            let loss = self.objective.loss(outputs, y);
            g.output("loss", loss);
            if mode == Mode::Train {
                g.minimize(loss, &self.optimizer);
            } else if let Some(n_correct) = self.objective.n_correct(outputs, y) {
                g.output("n_correct", n_correct);
                counts = true;
            }
        })?;
        Ok((graph, shape, counts))
    }

    /// One step with labels: the loss, and the number of correct predictions if the program counts them.
    fn run<T: Label>(
        &mut self,
        program: &Program,
        x: &ArrayD<f32>,
        y: &Array1<T>,
    ) -> Result<(f64, Option<f64>), TrainError> {
        let inputs = [Some((program.x, x.into())), program.y.map(|id| (id, T::view(y)))];
        let out = self.session()?.run(program.id, inputs.into_iter().flatten())?;
        let n_correct = if program.counts { Some(out.scalar("n_correct")?) } else { None };
        Ok((out.scalar("loss")?, n_correct))
    }

    fn session(&mut self) -> Result<&mut Session, Diag> {
        // Programs are made with the session, so whoever has a program has a session.
        self.session.as_mut().ok_or_else(|| {
            Diag::new(cotangent_graph::Code::NoSuchValue, "nothing was compiled, so there is nothing to run")
        })
    }

    // ---- checks ----------------------------------------------------------------------------------------------------

    fn check_set<T: Label>(&self, of: &str, set: &Dataset<T>, name: &str, size: usize) -> Result<(), TrainError> {
        positive(name, size)?;
        if set.is_empty() {
            return Err(TrainError::invalid(of, "at least one example", 0));
        }
        Ok(())
    }

    fn check_evaluation<T: Label>(&mut self, set: &Dataset<T>) -> Result<(), TrainError> {
        let size = self.options.eval_batch_size;
        self.check_set("evaluation set", set, "eval_batch_size", size)?;
        for rows in [size.min(set.len()), set.len() % size] {
            self.prepare(Mode::Evaluate, set, rows)?;
        }
        self.check_labels(Mode::Evaluate, set, size.min(set.len()))
    }

    /// Compiles the program for batches of so many rows, if there are such batches.
    fn prepare<T: Label>(&mut self, mode: Mode, set: &Dataset<T>, rows: usize) -> Result<(), TrainError> {
        if rows > 0 {
            self.program::<T>(mode, &batch_shape(set, rows))?;
        }
        Ok(())
    }

    fn check_labels<T: Label>(&mut self, mode: Mode, set: &Dataset<T>, rows: usize) -> Result<(), TrainError> {
        let outputs = self.program::<T>(mode, &batch_shape(set, rows))?.outputs;
        for (example, label) in set.labels().iter().enumerate() {
            if let Err(required) = self.objective.check_label(label.number(), &outputs) {
                return Err(TrainError::Label { example, required, got: label.number().to_string() });
            }
        }
        Ok(())
    }

    fn progress_bar(&self, n_steps: u64) -> ProgressBar {
        if !self.options.progress || !stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(n_steps);
        match ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left  {msg}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}

/// The shape of the features of a batch of so many rows.
fn batch_shape<T: Label>(set: &Dataset<T>, rows: usize) -> Vec<usize> {
    let mut shape = set.features().shape().to_vec();
    shape[0] = rows;
    shape
}

fn positive(name: &str, size: usize) -> Result<usize, TrainError> {
    if size == 0 { Err(TrainError::invalid(name, "at least 1", 0)) } else { Ok(size) }
}
