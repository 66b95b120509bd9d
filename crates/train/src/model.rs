//! A trained model in one file: graph, weights, what is done with inputs before, what outputs mean, and versions.
//!
//! Why it exists: what is deployed must be what was trained, and must not need the program that trained it: no Rust code of the
//! net, no statistics of the training set kept elsewhere, no list of class names in a README.
//!
//! A file is in the [safetensors](cotangent_data::safetensors) format, so other tools read the weights. Its metadata:
//!
//! | key | value |
//! |---|---|
//! | `format`, `version` | `cotangent model`, `1`; a reader refuses what is newer |
//! | `made by` | the version of this crate that wrote it |
//! | `graph.N` | the program for N rows, in the text form of graphs; there are several N |
//! | `about` | JSON: what rows are made of, the labels of classes, the maker's notes |
//! | `checksum.TENSOR`, `checksum` | as in a [checkpoint](crate::checkpoint) |
//!
//! Promises: a file appears under its name whole, or not at all. [`Model::load`] checks all of it before anything runs: that nothing
//! was changed, that graphs are well formed, fit each other and find exactly the values that they ask for. Then predictions have
//! the bits of the process that trained. The prediction for a row has the same bits whatever rows stand beside it:
//! programs are run for as many rows as they are made for, of which a single one is no case.

mod export;
mod file;
mod forms;
mod json;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cotangent_data::safetensors::{Archive, Tensors};
use cotangent_data::{Examples, Field};
use cotangent_exec::{Compiler, Each, Executable, InputId, ProgramId, Runtime, Seed, Session, Store};
use cotangent_graph::{DType, Diag, Graph, Role, TensorData, Type, map_array};
use cotangent_host::float::in_default;
use ndarray::{ArrayD, ArrayViewD, Axis, Slice};

pub use self::export::{Export, standardized, statistics};
pub use self::forms::{About, Form};
use crate::TrainError;
use crate::checkpoint::{Value, fill, tensors_of};
use crate::named::OUTPUTS;
use crate::trainer::evaluate::{features_alone, only_output};
use crate::trainer::programs::joined;

/// The numbers of rows that programs are made for. A set is taken in the largest that fit; two is the least, since a
/// product with a single row sums in another order.
const ROWS: [usize; 4] = [2, 8, 32, 128];
/// The output of probabilities of a model with labels.
pub const PROBABILITIES: &str = "probabilities";

/// A trained model, ready to predict. See the [module](self).
///
/// ```
/// use cotangent_data::synthetic::two_moons;
/// use cotangent_data::Standardizer;
/// use cotangent_exec::{Runtime, Threads};
/// use cotangent_graph::{GraphBuilder, Tensor};
/// use cotangent_nn::{Adam, Layers};
/// use cotangent_train::{CrossEntropy, Export, Model, Options, Trainer};
///
/// fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
///     x.dense("hidden", 8).tanh().dense("out", 2)
/// }
///
/// # fn main() -> Result<(), cotangent_train::TrainError> {
/// let raw = two_moons(50, 0.1, 1);
/// let standard = Standardizer::fit(raw.features())?;
/// let set = standard.apply_to(&raw)?;
/// let runtime = Runtime::new(Threads::Exactly(1));
/// let options = Options { epochs: 2, progress: false, ..Options::default() };
/// let mut trainer = Trainer::new(&runtime, net, CrossEntropy, Adam::new(0.05), options);
/// trainer.fit(&set, None)?;
///
/// // What was done to features is part of the model: it takes them as they were measured.
/// let model = Export::new(net, &raw)
///     .standardized("x", &standard)
///     .labels(["upper", "lower"])
///     .model(&runtime, trainer.weights()?)?;
/// # let path = std::env::temp_dir().join(format!("cotangent-model-{}.safetensors", std::process::id()));
/// model.save(&path)?;
///
/// let mut model = Model::load(&path, &runtime)?;
/// assert_eq!(model.predict(raw.features())?, trainer.predict(set.features())?);
/// assert_eq!(model.labels(), ["upper", "lower"]);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Model {
    interface: Interface,
    /// Ascending numbers of rows.
    programs: Vec<Program>,
    session: Session,
}

/// What a model takes and gives, without its program: for whoever reads rows and writes answers on other threads.
#[derive(Clone, Debug)]
pub struct Interface {
    about: About,
    /// In the order of the graphs' inputs.
    fields: Vec<Field>,
}

impl Interface {
    /// The fields that examples must have.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// What rows are made of.
    pub fn form(&self) -> &Form {
        &self.about.form
    }

    /// The names of classes, none for a model that does not classify.
    pub fn labels(&self) -> &[String] {
        &self.about.labels
    }

    /// What its maker noted.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.about.notes
    }
}

/// A graph for a number of rows, compiled and loaded.
#[derive(Debug)]
struct Program {
    rows: usize,
    graph: Graph,
    id: ProgramId,
    /// The places of fields that it needs.
    inputs: Vec<(usize, InputId)>,
}

impl Model {
    /// Opens a file, checks it, compiles its programs, and reads its weights where they work on them.
    ///
    /// # Errors
    /// [`TrainError::Data`] if it cannot be read, is of another kind, of a later version or damaged; [`TrainError::Invalid`] if
    /// its parts do not fit each other, with what differs.
    pub fn load(path: impl AsRef<Path>, runtime: &Runtime) -> Result<Self, TrainError> {
        let path = path.as_ref();
        file::opened(Archive::open(path)?, &path.display().to_string(), runtime)
    }

    /// [`Model::load`] from memory; errors call the file `name`.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn parse(bytes: &[u8], name: &str, runtime: &Runtime) -> Result<Self, TrainError> {
        file::opened(Archive::parse(bytes, name)?, name, runtime)
    }

    /// Writes a file, durably; one that was there before stays until the new one is on the device.
    ///
    /// # Errors
    /// `E0309` if there is no memory for a copy of the weights, [`DataError::Io`](cotangent_data::DataError::Io) if the system refuses.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), TrainError> {
        Ok(file::of(self)?.write(path)?)
    }

    /// A model of graphs that were checked, with exactly their weights.
    fn new<V: Value>(
        about: About,
        graphs: Vec<(usize, Graph)>,
        weights: &BTreeMap<String, V>,
        runtime: &Runtime,
    ) -> Result<Self, TrainError> {
        let compiler = Compiler::new();
        let compiled = graphs.iter().map(|(_, graph)| Ok(compiler.compile(graph)?));
        let compiled: Vec<Arc<Executable>> = compiled.collect::<Result<_, TrainError>>()?;
        let fields = graphs.first().map(|(_, graph)| fields_of(graph)).unwrap_or_default();
        let mut store = Store::new(Seed(0));
        fill(weights, weights.keys(), &mut (&mut store).into())?;
        let Some(first) = compiled.first() else {
            return Err(TrainError::invalid("model", "a graph", "none"));
        };
        let mut session = Session::with_store(runtime, first.clone(), store)?;
        let mut programs = Vec::new();
        for (at, ((rows, graph), program)) in graphs.into_iter().zip(compiled).enumerate() {
            if program.is_sampler() {
                return Err(TrainError::invalid(
                    "model",
                    "a graph that draws no random numbers to predict",
                    "one that does",
                ));
            }
            // An input that nothing is made of is none of the program's.
            let at_field = |name: &str| fields.iter().position(|field| field.name == name);
            let inputs = program.inputs().filter_map(|(name, _)| Some((at_field(name)?, program.input_id(name))));
            let inputs = inputs.map(|(at, id)| Ok((at, id?))).collect::<Result<_, Diag>>()?;
            let id = if at == 0 { session.main() } else { session.load(program)? };
            programs.push(Program { rows, graph, id, inputs });
        }
        Ok(Model { interface: Interface { about, fields }, programs, session })
    }

    /// What it takes and gives.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// The fields that examples must have.
    pub fn fields(&self) -> &[Field] {
        self.interface.fields()
    }

    /// What rows are made of.
    pub fn form(&self) -> &Form {
        self.interface.form()
    }

    /// The names of classes, none for a model that does not classify.
    pub fn labels(&self) -> &[String] {
        self.interface.labels()
    }

    /// What its maker noted.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        self.interface.notes()
    }

    /// Copies of the weights: parameters, and states that the program reads.
    ///
    /// # Errors
    /// `E0309` if there is no memory for them.
    pub fn weights(&self) -> Result<Tensors, TrainError> {
        let store = self.session.store();
        Ok(tensors_of(store, store.iter().map(|(name, _)| name))?)
    }

    /// The outputs with the shapes of a row, in order.
    pub fn outputs(&self) -> Vec<(String, DType, Vec<usize>)> {
        self.programs.first().map(|program| outputs_of(&program.graph)).unwrap_or_default()
    }

    /// The graph of the program for the most rows.
    pub fn graph(&self) -> Option<&Graph> {
        self.programs.last().map(|program| &program.graph)
    }

    /// The output `outputs` for the field `x`, `[n, ..]`: `[n, ..]`.
    ///
    /// # Errors
    /// As [`Model::predict_named`]; a model of other fields and outputs.
    pub fn predict(&mut self, features: ArrayViewD<'_, f32>) -> Result<ArrayD<f32>, TrainError> {
        let mut outputs = self.predict_named(&features_alone(features)?)?;
        outputs.remove(PROBABILITIES);
        only_output(outputs)
    }

    /// All outputs for examples. They may have other fields, too.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if there are no rows, or a field is missing or of another type; what a step reports.
    pub fn predict_named(&mut self, set: &impl Examples) -> Result<BTreeMap<String, TensorData>, TrainError> {
        let places = self.places_of(&set.fields())?;
        if set.is_empty() {
            return Err(TrainError::invalid("examples", "at least one row", 0));
        }
        in_default(|| self.predicted(set, &places))
    }

    /// Where the fields stand among those given.
    fn places_of(&self, given: &[Field]) -> Result<Vec<usize>, TrainError> {
        let rows = |field: &Field| format!("{} rows of shape {:?}", field.dtype, field.shape);
        let place = |field: &Field| match given.iter().position(|other| other.name == field.name) {
            Some(at) if given[at] == *field => Ok(at),
            Some(at) => Err(TrainError::invalid(format!("field `{}`", field.name), rows(field), rows(&given[at]))),
            None => {
                let names: Vec<&str> = given.iter().map(|field| field.name.as_str()).collect();
                Err(TrainError::invalid("examples", format!("a field `{}`", field.name), format!("{names:?}")))
            }
        };
        self.fields().iter().map(place).collect()
    }

    fn predicted(&mut self, set: &impl Examples, places: &[usize]) -> Result<BTreeMap<String, TensorData>, TrainError> {
        let (mut batch, mut parts) = (Vec::new(), BTreeMap::<String, Vec<TensorData>>::new());
        let mut next = 0;
        while next < set.len() {
            let left = set.len() - next;
            let fits = self.programs.iter().rev().find(|program| program.rows <= left);
            let Some(program) = fits.or(self.programs.first()) else { break };
            // Rows that are wanting are copies of the last, whose results nobody looks at.
            let rows: Vec<usize> = (next..next + program.rows).map(|row| row.min(set.len() - 1)).collect();
            set.gather(0, &rows, &mut batch)?;
            let inputs = program.inputs.iter().map(|&(field, id)| (id, (&batch[places[field]]).into()));
            let n_rows = program.rows.min(left);
            let results = self.session.run(program.id, Each(inputs))?;
            for (name, _) in results.iter() {
                let all = results.tensor(name)?;
                let asked = match n_rows < program.rows {
                    true => map_array!(&all, a => a.slice_axis(Axis(0), Slice::from(..n_rows)).to_owned()),
                    false => all,
                };
                parts.entry(name.to_owned()).or_default().push(asked);
            }
            next += n_rows;
        }
        Ok(parts.into_iter().filter_map(|(name, parts)| Some((name, joined(&parts)?))).collect())
    }
}

/// The inputs as fields, without their axis of rows.
fn fields_of(graph: &Graph) -> Vec<Field> {
    let field = |(name, (dtype, shape)): (&str, (DType, &cotangent_graph::Shape))| Field {
        name: name.to_owned(),
        dtype,
        shape: shape.get(1..).unwrap_or_default().to_vec(),
    };
    let named = graph.inputs().filter_map(|(_, node)| Some((node.name()?, node.ty.as_tensor()?)));
    named.map(field).collect()
}

/// The results, with the shapes of a row.
fn outputs_of(graph: &Graph) -> Vec<(String, DType, Vec<usize>)> {
    let results = graph.outputs().iter().filter(|output| matches!(output.role, Role::Result));
    let ty = |output: &cotangent_graph::Output| {
        let (dtype, shape) = graph.ty(output.value).as_tensor()?;
        Some((output.name.to_string(), dtype, shape.get(1..).unwrap_or_default().to_vec()))
    };
    results.filter_map(ty).collect()
}

/// The parameters and states of a graph with their types.
fn stored_of(graph: &Graph) -> Vec<(&str, &Type)> {
    graph.stored().filter_map(|(_, node)| Some((node.name()?, &node.ty))).collect()
}

/// Whether an output is that of classes, with as many elements as there are labels; or one element that says which of two.
fn classifies(outputs: &[(String, DType, Vec<usize>)], n_labels: usize) -> Option<Decision> {
    let (_, dtype, shape) = outputs.iter().find(|(name, ..)| name == OUTPUTS)?;
    match &shape[..] {
        [n] if dtype.is_float() && *n == n_labels => Some(Decision::Softmax),
        [] | [1] if dtype.is_float() && n_labels == 2 => Some(Decision::Sigmoid),
        _ => None,
    }
}

/// How outputs become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Softmax,
    Sigmoid,
}
