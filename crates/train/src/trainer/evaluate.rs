//! Evaluation and prediction with the current weights.

use std::collections::BTreeMap;
use std::ops::ControlFlow::Continue;

use cotangent_data::{Examples, Table};
use cotangent_graph::TensorData;
use cotangent_host::float::in_default;
use cotangent_nn::Optimizer;
use ndarray::{ArrayD, ArrayViewD};

use super::checks::positive;
use super::feed::each_batch;
use super::task::{Mode, Task, observed};
use super::{Evaluation, Trainer};
use crate::TrainError;
use crate::named::{Net, OUTPUTS};
use crate::objective::Objective;

impl<M: Net, L: Objective, O: Optimizer> Trainer<M, L, O> {
    /// The loss and all metrics on a dataset, without dropout and without changing anything.
    ///
    /// # Errors
    /// An empty set, an evaluation batch size of zero, a label without meaning, or what is wrong with the model.
    #[track_caller]
    pub fn evaluate(&mut self, set: &impl Examples) -> Result<Evaluation, TrainError> {
        self.programs.called();
        self.check_evaluation(set)?;
        in_default(|| self.evaluate_checked(set))
    }

    pub(super) fn evaluate_checked(&mut self, set: &dyn Examples) -> Result<Evaluation, TrainError> {
        let (programs, fields) = (&mut self.programs, set.fields());
        let places: Vec<usize> = (0..set.len()).collect();
        let n_metrics = programs.task.metrics.len();
        let (mut loss, mut weight) = (0.0, 0.0);
        let mut batches: Vec<Vec<Vec<TensorData>>> = vec![Vec::new(); n_metrics];
        each_batch(set, 0, &places, self.options.eval_batch_size, |batch| {
            let n_rows = cotangent_data::table::n_rows(batch);
            let program = programs.program(Mode::Evaluate, n_rows, &fields)?;
            let out = programs.run(&program, batch)?;
            let has = |name: &str| out.iter().any(|(known, _)| known == name);
            let own = if has("weight") { out.scalar("weight")? } else { n_rows as f64 };
            // What no weight is in has no mean.
            if own != 0.0 {
                loss += out.scalar("loss")? * own;
            }
            weight += own;
            for (k, batches) in batches.iter_mut().enumerate() {
                let names = (0..).map(|at| observed(k, at)).take_while(|name| has(name));
                batches.push(names.map(|name| out.tensor(&name)).collect::<Result<_, _>>()?);
            }
            Ok(Continue(()))
        })?;
        let metrics = &programs.task.metrics;
        let mut figures: Vec<(String, f64)> =
            metrics.iter().zip(&batches).map(|(metric, batches)| (metric.name(), metric.figure(batches))).collect();
        let accuracy = programs.task.objective.accuracy().map(|_| figures.remove(0).1);
        Ok(Evaluation { loss: loss / weight, accuracy, metrics: figures })
    }

    /// The model's output `outputs` for the field `x`, `[n, ..]`, without dropout: `[n, ..]`. [`metrics`](crate::metrics) has
    /// what can be said about it.
    ///
    /// # Errors
    /// No rows, an evaluation batch size of zero, or what is wrong with the model.
    #[track_caller]
    pub fn predict(&mut self, features: ArrayViewD<'_, f32>) -> Result<ArrayD<f32>, TrainError> {
        self.programs.called();
        only_output(self.predicted(&features_alone(features)?)?)
    }

    /// All outputs of the model for examples, which need no fields but those that the model asks for.
    ///
    /// # Errors
    /// As [`Trainer::predict`].
    #[track_caller]
    pub fn predict_named(&mut self, set: &impl Examples) -> Result<BTreeMap<String, TensorData>, TrainError> {
        self.programs.called();
        self.predicted(set)
    }

    fn predicted(&mut self, set: &dyn Examples) -> Result<BTreeMap<String, TensorData>, TrainError> {
        let size = positive("eval_batch_size", self.options.eval_batch_size)?;
        predicted(&mut self.programs, set, size)
    }
}

/// The outputs for examples, of which there must be one.
pub(crate) fn predicted<T: Task>(
    programs: &mut super::programs::Programs<T>,
    set: &dyn Examples,
    size: usize,
) -> Result<BTreeMap<String, TensorData>, TrainError> {
    if set.is_empty() {
        return Err(TrainError::invalid("examples", "at least one row", 0));
    }
    in_default(|| programs.predict(set, size))
}

/// Features as examples with the one field `x`.
pub(crate) fn features_alone(features: ArrayViewD<'_, f32>) -> Result<Table, TrainError> {
    Ok(Table::new().with("x", features)?)
}

/// The output of a model that has one.
pub(crate) fn only_output(mut outputs: BTreeMap<String, TensorData>) -> Result<ArrayD<f32>, TrainError> {
    match outputs.remove(OUTPUTS) {
        Some(TensorData::F32(outputs)) => Ok(outputs.into_owned()),
        Some(other) => Err(TrainError::invalid("output `outputs` of the model", "f32", other.dtype())),
        None => {
            let names: Vec<&str> = outputs.keys().map(String::as_str).collect();
            let required = "an output `outputs` (`predict_named` gives all)";
            Err(TrainError::invalid("model", required, format!("{names:?}")))
        }
    }
}
