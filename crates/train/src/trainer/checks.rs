//! What is refused before the first step, and compiled before the first clock starts.

use cotangent_data::Examples;
use cotangent_nn::Optimizer;

use super::finite::check_features;
use super::task::Mode;
use super::{NonFinite, Trainer, stored_names};
use crate::TrainError;
use crate::metrics::Metric;
use crate::named::Net;
use crate::objective::Objective;

impl<M: Net, L: Objective, O: Optimizer> Trainer<M, L, O> {
    /// Whatever can be refused is refused before the first step, and compiled before the first clock starts.
    pub(super) fn prepare_all(
        &mut self,
        train: &dyn Examples,
        validation: Option<&dyn Examples>,
    ) -> Result<(), TrainError> {
        check_metrics(&self.programs.task.metrics)?;
        self.options.statistics.map_or(Ok(0), |every| positive("statistics", every as usize))?;
        let first = self.cursor.epochs + 1;
        let last = first.max(self.until());
        let begun = self.options.batch_sizes.iter().filter(|(from, _)| (first..=last).contains(from));
        let mut sizes = vec![self.options.batch_size_in(first)];
        sizes.extend(begun.map(|(_, size)| size));
        for size in sizes {
            check_set("training set", train, "batch_size", size)?;
            let accumulates = self.programs.task.gradients_per_step() > 1;
            for rows in [size.min(train.len()), train.len() % size] {
                self.prepare(Mode::Train, train, rows)?;
                if self.options.statistics.is_some() && rows == size.min(train.len()) {
                    self.prepare(Mode::Observe, train, rows)?;
                }
                if accumulates {
                    self.prepare(Mode::Accumulate, train, rows)?;
                }
            }
            self.check_labels(Mode::Train, train, size.min(train.len()))?;
        }
        self.check_features("training set", train)?;
        let graph = self.programs.graph(Mode::Predict, 1, &train.fields())?.graph;
        self.model_names = stored_names(&graph).map(|(name, _)| name.to_owned()).collect();
        validation.map_or(Ok(()), |set| self.check_evaluation(set))
    }

    pub(super) fn check_evaluation(&mut self, set: &dyn Examples) -> Result<(), TrainError> {
        let size = self.options.eval_batch_size;
        check_set("evaluation set", set, "eval_batch_size", size)?;
        for rows in [size.min(set.len()), set.len() % size] {
            self.prepare(Mode::Evaluate, set, rows)?;
        }
        self.check_labels(Mode::Evaluate, set, size.min(set.len()))?;
        self.check_features("evaluation set", set)
    }

    fn check_features(&self, of: &str, set: &dyn Examples) -> Result<(), TrainError> {
        match self.options.non_finite {
            NonFinite::Allow => Ok(()),
            _ => check_features(of, set),
        }
    }

    /// Compiles the program for batches of so many rows, if there are such batches.
    fn prepare(&mut self, mode: Mode, set: &dyn Examples, rows: usize) -> Result<(), TrainError> {
        if rows > 0 {
            self.programs.program(mode, rows, &set.fields())?;
        }
        Ok(())
    }

    fn check_labels(&mut self, mode: Mode, set: &dyn Examples, rows: usize) -> Result<(), TrainError> {
        let program = self.programs.program(mode, rows, &set.fields())?;
        self.programs.task.objective.check(set, program.outputs())
    }
}

/// That metrics can be told apart, and be columns of a table.
fn check_metrics(metrics: &[Box<dyn Metric>]) -> Result<(), TrainError> {
    let names: Vec<String> = metrics.iter().map(|metric| metric.name()).collect();
    for (at, name) in names.iter().enumerate() {
        let is_plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if !is_plain || names[..at].contains(name) {
            let required = "names of letters, digits, `_`, `-` and `.`, each once";
            return Err(TrainError::invalid("metrics", required, format!("{names:?}")));
        }
    }
    Ok(())
}

fn check_set(of: &str, set: &dyn Examples, name: &str, size: usize) -> Result<(), TrainError> {
    positive(name, size)?;
    if set.is_empty() {
        return Err(TrainError::invalid(of, "at least one example", 0));
    }
    Ok(())
}

pub(super) fn positive(name: &str, size: usize) -> Result<usize, TrainError> {
    if size == 0 { Err(TrainError::invalid(name, "at least 1", 0)) } else { Ok(size) }
}
