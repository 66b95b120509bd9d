//! Prediction without a trainer: a model and its weights, for any number of rows.

use std::collections::{BTreeMap, BTreeSet};

use cotangent_data::Examples;
use cotangent_exec::{Compiler, Runtime, Seed};
use cotangent_graph::{GraphBuilder, Tensor, TensorData};
use ndarray::{ArrayD, ArrayViewD};

use crate::TrainError;
use crate::checkpoint::{Load, Value, Wanted, check, fill, types_of};
use crate::named::{ByName, Named, Net};
use crate::trainer::evaluate::{features_alone, only_output, predicted};
use crate::trainer::programs::Programs;
use crate::trainer::task::{Mode, Prediction};

/// A model with weights, for any number of rows, without loss and optimiser.
///
/// ```
/// use cotangent_data::synthetic::two_moons;
/// use cotangent_exec::{Runtime, Threads};
/// use cotangent_graph::{GraphBuilder, Tensor};
/// use cotangent_nn::{Adam, Layers};
/// use cotangent_train::{CrossEntropy, Options, Predictor, Trainer};
///
/// fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
///     x.dense("hidden", 8).tanh().dense("out", 2)
/// }
///
/// # fn main() -> Result<(), cotangent_train::TrainError> {
/// let (runtime, set) = (Runtime::new(Threads::Exactly(1)), two_moons(50, 0.1, 1));
/// let options = Options { epochs: 2, progress: false, ..Options::default() };
/// let mut trainer = Trainer::new(&runtime, net, CrossEntropy, Adam::new(0.05), options);
/// trainer.fit(&set, None)?;
///
/// // The optimiser's values of a whole checkpoint are left out.
/// let mut predictor = Predictor::new(&runtime, net, trainer.checkpoint()?.tensors);
/// assert_eq!(predictor.predict(set.features())?, trainer.predict(set.features())?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Predictor<M> {
    programs: Programs<Prediction<M>>,
    /// What is not yet held against the model.
    weights: Option<BTreeMap<String, Box<dyn Value>>>,
    batch_size: usize,
}

impl<M: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>> Predictor<M> {
    /// A predictor of a model of the field `x`, as [`Trainer::new`](crate::Trainer::new) takes it. Weights of a file are read at the
    /// first prediction.
    #[track_caller]
    pub fn new<V: Value + 'static>(runtime: &Runtime, model: M, weights: BTreeMap<String, V>) -> Self {
        Predictor::of(runtime, model, weights)
    }
}

impl<F: for<'g> Fn(&'g GraphBuilder, &Named<'g>) -> Named<'g>> Predictor<ByName<F>> {
    /// A predictor of a model of named fields, as [`Trainer::named`](crate::Trainer::named) takes it.
    #[track_caller]
    pub fn named<V: Value + 'static>(runtime: &Runtime, model: F, weights: BTreeMap<String, V>) -> Self {
        Predictor::of(runtime, ByName(model), weights)
    }
}

impl<M: Net> Predictor<M> {
    #[track_caller]
    fn of<V: Value + 'static>(runtime: &Runtime, model: M, weights: BTreeMap<String, V>) -> Self {
        let weights = weights.into_iter().map(|(name, value)| (name, Box::new(value) as Box<dyn Value>)).collect();
        let programs = Programs::new(runtime, Prediction(model), Compiler::new(), Seed(0));
        Predictor { programs, weights: Some(weights), batch_size: 256 }
    }

    /// Rows of a batch, at least 1; 256 at first.
    pub fn batch_size(mut self, rows: usize) -> Self {
        self.batch_size = rows.max(1);
        self
    }

    /// The output `outputs` for the field `x`, `[n, ..]`: `[n, ..]`.
    ///
    /// # Errors
    /// No rows, weights that are missing, of another type or in a file that cannot be read, or what is wrong with the model.
    #[track_caller]
    pub fn predict(&mut self, features: ArrayViewD<'_, f32>) -> Result<ArrayD<f32>, TrainError> {
        self.programs.called();
        only_output(self.predicted(&features_alone(features)?)?)
    }

    /// All outputs for examples, which need no fields but those that the model asks for.
    ///
    /// # Errors
    /// As [`Predictor::predict`].
    #[track_caller]
    pub fn predict_named(&mut self, set: &impl Examples) -> Result<BTreeMap<String, TensorData>, TrainError> {
        self.programs.called();
        self.predicted(set)
    }

    fn predicted(&mut self, set: &dyn Examples) -> Result<BTreeMap<String, TensorData>, TrainError> {
        if let Some(weights) = &self.weights {
            let graph = self.programs.graph(Mode::Predict, 1, &set.fields())?.graph;
            let mut wanted = Wanted::default();
            wanted.add(graph.stored().filter_map(|(_, node)| Some((node.name()?, &node.ty))), true);
            let loaded = wanted.compare(&types_of(weights), &BTreeSet::new());
            let loaded = check(loaded, Load::Complete, "the weights of a predictor")?;
            fill(weights, &loaded.taken, &mut self.programs.store_mut())?;
            self.weights = None;
        }
        predicted(&mut self.programs, set, self.batch_size)
    }
}
