//! The programs of a trainer: which one a batch needs, made when it is asked for first, all on one store.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use cotangent_exec::{Compiler, Each, Executable, InputId, ProgramId, Runtime, Seed, Session, Store, StoreMut};
use cotangent_graph::{DType, Diag, Graph, GraphBuilder, Loc, Origin, Shape, Tensor, build};
use cotangent_nn::{Minimize, Optimizer, Recipe};
use ndarray::{Array1, ArrayD, ArrayViewD};

use crate::TrainError;
use crate::checkpoint::Wanted;
use crate::objective::{Label, Objective};

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    Train,
    Evaluate,
    Predict,
}

/// What tells programs apart: purpose, shape of the features, element type of the labels.
type Key = (Mode, Vec<usize>, DType);

/// A compiled program of the session.
#[derive(Clone, Debug)]
pub(super) struct Program {
    id: ProgramId,
    x: InputId,
    y: Option<InputId>,
    /// The shape of the model's outputs.
    pub(super) outputs: Shape,
    counts: bool,
}

/// Model, objective, optimiser, and what was compiled of them.
pub(super) struct Programs<M, L, O> {
    model: M,
    pub(super) objective: L,
    optimizer: O,
    compiler: Compiler,
    runtime: Runtime,
    state: State,
    known: HashMap<Key, Program>,
    /// What was compiled, loaded into the session or not.
    compiled: HashMap<Key, Compiled>,
    /// The names of parameters and states of all that was compiled.
    names: BTreeSet<String>,
    /// Whether train steps refuse a loss that is not finite.
    checks_loss: bool,
    /// The shape of a row of the features that the first program was made for.
    row: Option<Vec<usize>>,
    /// The user's lines that errors point at: where the trainer was made, and where it was last asked for something.
    made_at: Loc,
    called_at: Loc,
}

/// An executable, the shape of the model's outputs, and whether it counts correct predictions.
type Compiled = (Arc<Executable>, Shape, bool);

/// The store stands alone until there is a program.
enum State {
    Store(Store),
    Session(Session),
}

impl<M, L, O> fmt::Debug for Programs<M, L, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} programs", self.known.len())
    }
}

impl<M, L, O> Programs<M, L, O> {
    pub(super) fn store(&self) -> &Store {
        match &self.state {
            State::Store(store) => store,
            State::Session(session) => session.store(),
        }
    }

    pub(super) fn store_mut(&mut self) -> StoreMut<'_> {
        match &mut self.state {
            State::Store(store) => store.into(),
            State::Session(session) => session.store_mut(),
        }
    }
}

impl<M, L, O> Programs<M, L, O>
where
    M: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>,
    L: Objective,
    O: Optimizer,
{
    #[track_caller]
    pub(super) fn new(
        runtime: &Runtime,
        model: M,
        objective: L,
        optimizer: O,
        compiler: Compiler,
        seed: Seed,
        checks_loss: bool,
    ) -> Self {
        let state = State::Store(Store::new(seed));
        let (runtime, known, row) = (runtime.clone(), HashMap::new(), None);
        let (compiled, names) = (HashMap::new(), BTreeSet::new());
        let (made_at, called_at) = (Loc::here(), Loc::here());
        Programs {
            model,
            objective,
            optimizer,
            compiler,
            runtime,
            state,
            known,
            compiled,
            names,
            checks_loss,
            row,
            made_at,
            called_at,
        }
    }

    /// Says that the caller's caller asks for what follows.
    #[track_caller]
    pub(super) fn called(&mut self) {
        self.called_at = Loc::here();
    }

    /// Where the caller asked for what is done now.
    pub(super) fn called_at(&self) -> Loc {
        self.called_at.clone()
    }

    /// The program for a purpose and a shape of features, compiled when it is asked for first.
    pub(super) fn program<T: Label>(&mut self, mode: Mode, features: &[usize]) -> Result<Program, TrainError> {
        let key = (mode, features.to_vec(), T::DTYPE);
        if let Some(program) = self.known.get(&key) {
            return Ok(program.clone());
        }
        let row = features.get(1..).unwrap_or_default();
        let made = self.make::<T>(mode, features);
        let program = made.map_err(|error| match &self.row {
            Some(known) if known != row => {
                let required = format!("rows of shape {known:?}, which this model was made for");
                TrainError::invalid("features", required, format!("{row:?}, for which there is\n{error}"))
            }
            _ => error,
        })?;
        self.row.get_or_insert_with(|| row.to_vec());
        self.known.insert(key, program.clone());
        Ok(program)
    }

    fn make<T: Label>(&mut self, mode: Mode, features: &[usize]) -> Result<Program, TrainError> {
        let (executable, outputs, counts) = self.compiled((mode, features.to_vec(), T::DTYPE))?;
        let x = executable.input_id("x")?;
        let y = if mode == Mode::Predict { None } else { Some(executable.input_id("y")?) };
        let id = match &mut self.state {
            State::Session(session) => session.load(executable)?,
            State::Store(store) => {
                let seed = store.seed();
                let taken = std::mem::replace(store, Store::new(seed));
                match Session::try_with_store(&self.runtime, executable, taken) {
                    Ok(session) => {
                        let id = session.main();
                        self.state = State::Session(session);
                        id
                    }
                    Err((diag, unchanged)) => {
                        *store = unchanged;
                        return Err(diag.into());
                    }
                }
            }
        };
        Ok(Program { id, x, y, outputs, counts })
    }

    /// What is compiled for a purpose, shape and label, when it is asked for first.
    fn compiled(&mut self, key: Key) -> Result<Compiled, TrainError> {
        if let Some(known) = self.compiled.get(&key) {
            return Ok(known.clone());
        }
        let (graph, outputs, counts) = self.graph(key.0, &key.1, key.2)?;
        let executable = self.compiler.compile(&graph)?;
        self.names.extend(executable.stored().map(|(name, _)| name.to_owned()));
        let compiled = (executable, outputs, counts);
        self.compiled.insert(key, compiled.clone());
        Ok(compiled)
    }

    /// The parameters and states that training on such batches works on, and those that evaluation knows besides. The program
    /// is compiled for it, and used when it is asked for.
    pub(super) fn wanted(&mut self, features: &[usize], label: DType) -> Result<Wanted, TrainError> {
        let key = (Mode::Train, features.to_vec(), label);
        let mut wanted = Wanted::default();
        wanted.add(self.compiled(key)?.0.stored(), true);
        for mode in [Mode::Train, Mode::Evaluate, Mode::Predict] {
            let graph = self.graph(mode, features, label)?.0;
            wanted.add(graph.stored().filter_map(|(_, node)| Some((node.name()?, &node.ty))), false);
        }
        Ok(wanted)
    }

    /// Whether a program that was compiled has a parameter or state of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The graph of a program, the shape of the model's outputs, and whether it counts correct predictions.
    pub(super) fn graph(
        &self,
        mode: Mode,
        features: &[usize],
        label: DType,
    ) -> Result<(Graph, Shape, bool), TrainError> {
        // The programs that would sum up the others are not run, so a step would take an n-th of its gradient.
        if let Some(n) = self.optimizer.recipe().map(Recipe::gradients_per_step).filter(|&n| n > 1) {
            return Err(TrainError::invalid(
                "optimizer of a trainer",
                "a recipe that takes one gradient a step (a larger batch does the same)",
                format!("`accumulate({n})`"),
            ));
        }
        let (mut shape, mut counts) = (Shape::default(), false);
        let graph = build(|g| {
            g.set_training(mode == Mode::Train);
            // The model has lines of its own; the rest is asked for where the trainer is.
            g.set_origin(Some(Origin::at(self.called_at.clone())));
            let x = g.input("x", DType::F32, Shape::new(features));
            g.set_origin(None);
            let outputs = (self.model)(g, x);
            g.set_origin(Some(Origin::at(self.made_at.clone())));
            shape = outputs.shape();
            if mode == Mode::Predict {
                g.output("outputs", outputs);
                return;
            }
            let y = g.input("y", label, Shape::new(&features[..1]));
            let mut loss = self.objective.loss(outputs, y);
            if mode == Mode::Train && self.checks_loss && loss.is_float() {
                loss = loss.check_finite();
            }
            g.output("loss", loss);
            if mode == Mode::Train {
                g.minimize(loss, &self.optimizer);
            } else if g.is_ok() {
                // A mistake that the loss has reported would be reported again.
                let n_correct = self.objective.n_correct(outputs, y);
                counts = n_correct.is_some();
                n_correct.into_iter().for_each(|n| g.output("n_correct", n));
            }
        })?;
        Ok((graph, shape, counts))
    }

    /// One step with labels: the loss, and the number of correct predictions if the program counts them.
    pub(super) fn run<T: Label>(
        &mut self,
        program: &Program,
        x: &ArrayD<f32>,
        y: &Array1<T>,
    ) -> Result<(f64, Option<f64>), TrainError> {
        let inputs = [Some((program.x, x.into())), program.y.map(|id| (id, T::view(y)))];
        let called_at = self.called_at.clone();
        let out = self.session()?.run(program.id, Each(inputs.into_iter().flatten())).map_err(|d| at(d, called_at))?;
        let n_correct = if program.counts { Some(out.scalar("n_correct")?) } else { None };
        Ok((out.scalar("loss")?, n_correct))
    }

    /// The model's outputs for rows of features.
    pub(super) fn predict(&mut self, rows: ArrayViewD<'_, f32>) -> Result<ArrayD<f32>, TrainError> {
        let program = self.program::<i64>(Mode::Predict, rows.shape())?;
        let called_at = self.called_at.clone();
        let outputs = self.session()?.run(program.id, (program.x, rows)).map_err(|diag| at(diag, called_at))?;
        Ok(outputs.view::<f32>("outputs")?.to_owned())
    }

    fn session(&mut self) -> Result<&mut Session, Diag> {
        match &mut self.state {
            State::Session(session) => Ok(session),
            // Programs are made with the session, so whoever has a program has a session.
            State::Store(_) => {
                let text = "nothing was compiled, so there is nothing to run";
                Err(Diag::new(cotangent_graph::Code::NoSuchValue, text))
            }
        }
    }
}

/// An error that has no other line than that of the call in this file, at the user's call.
fn at(diag: Diag, called_at: Loc) -> Diag {
    match &diag.at {
        Loc::Code(place) if place.file() == file!() => diag.at(called_at),
        _ => diag,
    }
}
