//! The programs of a trainer or predictor: which one a batch needs, made when it is asked for first, all on one store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use cotangent_data::{Examples, Field};
use cotangent_exec::{
    Compiler, Each, Executable, InputId, Outputs, ProgramId, Runtime, Seed, Session, Store, StoreMut,
};
use cotangent_graph::{Code, Diag, Graph, Loc, Origin, Shape, TensorData, build};

use super::task::{Mode, Task};
use crate::TrainError;
use crate::checkpoint::Wanted;
use crate::named::Named;

/// What tells programs apart: purpose, rows of a batch, fields.
type Key = (Mode, usize, Vec<Field>);

/// A compiled program of the session.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    id: ProgramId,
    /// The places among the fields of what it takes.
    inputs: Vec<(usize, InputId)>,
    made: Arc<Made>,
}

impl Program {
    /// The shapes of the model's outputs.
    pub(crate) fn outputs(&self) -> &[(String, Shape)] {
        &self.made.outputs
    }
}

/// What is compiled of a graph.
#[derive(Debug)]
struct Made {
    executable: Arc<Executable>,
    outputs: Vec<(String, Shape)>,
    /// Fields with the names of their inputs.
    inputs: Vec<(String, String)>,
}

/// A graph, with what is to be known of it.
pub(crate) struct Built {
    pub(crate) graph: Graph,
    outputs: Vec<(String, Shape)>,
    inputs: Vec<(String, String)>,
}

impl Built {
    /// The shapes of the model's outputs.
    pub(crate) fn outputs(&self) -> &[(String, Shape)] {
        &self.outputs
    }
}

/// A task, and what was compiled of it.
pub(crate) struct Programs<T> {
    pub(crate) task: T,
    compiler: Compiler,
    runtime: Runtime,
    state: State,
    known: HashMap<Key, Program>,
    /// What was compiled, loaded into the session or not.
    compiled: HashMap<Key, Arc<Made>>,
    /// The names of parameters and states of all that was compiled.
    names: BTreeSet<String>,
    /// The fields that the first program was made for.
    first: Option<Vec<Field>>,
    /// Where the user last asked for something.
    called_at: Loc,
}

/// The store stands alone until there is a program.
enum State {
    Store(Store),
    Session(Session),
}

impl<T> fmt::Debug for Programs<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} programs", self.known.len())
    }
}

impl<T> Programs<T> {
    #[track_caller]
    pub(crate) fn new(runtime: &Runtime, task: T, compiler: Compiler, seed: Seed) -> Self {
        Programs {
            task,
            compiler,
            runtime: runtime.clone(),
            state: State::Store(Store::new(seed)),
            known: HashMap::new(),
            compiled: HashMap::new(),
            names: BTreeSet::new(),
            first: None,
            called_at: Loc::here(),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        match &self.state {
            State::Store(store) => store,
            State::Session(session) => session.store(),
        }
    }

    pub(crate) fn store_mut(&mut self) -> StoreMut<'_> {
        match &mut self.state {
            State::Store(store) => store.into(),
            State::Session(session) => session.store_mut(),
        }
    }

    /// Says that the caller's caller asks for what follows.
    #[track_caller]
    pub(crate) fn called(&mut self) {
        self.called_at = Loc::here();
    }

    /// Where the caller asked for what is done now.
    pub(crate) fn called_at(&self) -> Loc {
        self.called_at.clone()
    }

    /// Whether a program that was compiled has a parameter or state of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

impl<T: Task> Programs<T> {
    /// The program for a purpose, a number of rows and fields, compiled when it is asked for first.
    pub(crate) fn program(&mut self, mode: Mode, rows: usize, fields: &[Field]) -> Result<Program, TrainError> {
        let key = (mode, rows, fields.to_vec());
        if let Some(program) = self.known.get(&key) {
            return Ok(program.clone());
        }
        let program = self.make(&key).map_err(|error| self.other_rows(fields, error))?;
        self.first.get_or_insert_with(|| fields.to_vec());
        self.known.insert(key, program.clone());
        Ok(program)
    }

    /// An error with what is likely its cause: fields of other rows than the model was made for.
    fn other_rows(&self, fields: &[Field], error: TrainError) -> TrainError {
        let first = self.first.iter().flatten();
        let pairs = first.filter_map(|known| Some((known, fields.iter().find(|field| field.name == known.name)?)));
        let differs = |(known, field): &(&Field, &Field)| (known.dtype, &known.shape) != (field.dtype, &field.shape);
        match pairs.into_iter().find(differs) {
            Some((known, field)) => {
                let rows = |field: &Field| format!("{} rows of shape {:?}", field.dtype, field.shape);
                let required = format!("{}, which this model was made for", rows(known));
                let got = format!("{}, for which there is\n{error}", rows(field));
                TrainError::invalid(format!("field `{}`", known.name), required, got)
            }
            None => error,
        }
    }

    fn make(&mut self, key: &Key) -> Result<Program, TrainError> {
        let made = self.compiled(key)?;
        let at = |name: &str| key.2.iter().position(|field| field.name == name);
        let inputs = made.inputs.iter().filter_map(|(field, input)| Some((at(field)?, input)));
        let inputs: Vec<(usize, InputId)> =
            inputs.map(|(at, input)| Ok((at, made.executable.input_id(input)?))).collect::<Result<_, Diag>>()?;
        let executable = made.executable.clone();
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
        Ok(Program { id, inputs, made })
    }

    /// What is compiled for a purpose, when it is asked for first.
    fn compiled(&mut self, key: &Key) -> Result<Arc<Made>, TrainError> {
        if let Some(known) = self.compiled.get(key) {
            return Ok(known.clone());
        }
        let Built { graph, outputs, inputs } = self.graph(key.0, key.1, &key.2)?;
        let executable = self.compiler.compile(&graph)?;
        self.names.extend(executable.stored().map(|(name, _)| name.to_owned()));
        let made = Arc::new(Made { executable, outputs, inputs });
        self.compiled.insert(key.clone(), made.clone());
        Ok(made)
    }

    /// The parameters and states that training on such batches works on, and those that evaluation knows besides. The program
    /// is compiled for it, and used when it is asked for.
    pub(crate) fn wanted(&mut self, rows: usize, fields: &[Field]) -> Result<Wanted, TrainError> {
        let key = (Mode::Train, rows, fields.to_vec());
        let mut wanted = Wanted::default();
        wanted.add(self.compiled(&key)?.executable.stored(), true);
        for mode in [Mode::Train, Mode::Evaluate, Mode::Predict] {
            let graph = self.graph(mode, rows, fields)?.graph;
            wanted.add(graph.stored().filter_map(|(_, node)| Some((node.name()?, &node.ty))), false);
        }
        Ok(wanted)
    }

    /// The graph of a program.
    pub(crate) fn graph(&self, mode: Mode, rows: usize, fields: &[Field]) -> Result<Built, TrainError> {
        let (mut outputs, mut inputs) = (Vec::new(), Vec::new());
        let graph = build(|g| {
            g.set_training(mode.trains());
            let batch = Named::batch(g, fields, rows, Origin::at(self.called_at.clone()));
            let made = self.task.build(g, mode, &batch);
            outputs = made.tensors().into_iter().map(|(name, tensor)| (name, tensor.shape())).collect();
            inputs = batch.inputs();
        })?;
        Ok(Built { graph, outputs, inputs })
    }

    /// One step on a batch.
    pub(crate) fn run(&mut self, program: &Program, batch: &[TensorData]) -> Result<Outputs<'_>, TrainError> {
        let called_at = self.called_at.clone();
        let State::Session(session) = &mut self.state else {
            // Programs are made with the session, so whoever has a program has a session.
            return Err(Diag::new(Code::NoSuchValue, "nothing was compiled, so there is nothing to run").into());
        };
        let inputs = program.inputs.iter().map(|&(at, id)| (id, (&batch[at]).into()));
        Ok(session.run(program.id, Each(inputs)).map_err(|diag| at(diag, called_at))?)
    }

    /// The model's outputs for all examples, in batches of so many rows.
    pub(crate) fn predict(
        &mut self,
        set: &dyn Examples,
        size: usize,
    ) -> Result<BTreeMap<String, TensorData>, TrainError> {
        let fields = set.fields();
        let places: Vec<usize> = (0..set.len()).collect();
        let (mut batch, mut parts) = (Vec::new(), BTreeMap::<String, Vec<TensorData>>::new());
        for places in places.chunks(size) {
            set.gather(0, places, &mut batch)?;
            let program = self.program(Mode::Predict, places.len(), &fields)?;
            let results = self.run(&program, &batch)?;
            for (name, shape) in program.outputs() {
                if shape.first() != Some(&places.len()) {
                    let required = "one row for each row of the examples";
                    return Err(TrainError::invalid(format!("output `{name}` of the model"), required, shape));
                }
                parts.entry(name.clone()).or_default().push(results.tensor(name)?);
            }
        }
        Ok(parts.into_iter().filter_map(|(name, parts)| Some((name, joined(&parts)?))).collect())
    }
}

/// Parts of one type, one behind the other.
pub(crate) fn joined(parts: &[TensorData]) -> Option<TensorData> {
    let mut shape = parts.first()?.shape().to_vec();
    shape[0] = parts.iter().map(|part| part.shape()[0]).sum();
    let bits: Vec<u64> = parts.iter().flat_map(TensorData::bits).collect();
    Some(TensorData::from_bits(parts[0].dtype(), &Shape::new(&shape), &bits))
}

/// An error that has no other line than that of the call in this file, at the user's call.
fn at(diag: Diag, called_at: Loc) -> Diag {
    match &diag.at {
        Loc::Code(place) if place.file() == file!() => diag.at(called_at),
        _ => diag,
    }
}
