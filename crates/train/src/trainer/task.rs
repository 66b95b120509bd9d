//! What programs are made of: a model, and what is asked of it.

use cotangent_graph::{GraphBuilder, Loc, Origin, Tensor};
use cotangent_nn::{Minimize, Optimizer, Recipe};

use crate::metrics::Metric;
use crate::named::{Named, Net};
use crate::objective::Objective;
use crate::statistics;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// Gradients are added up for a step to come.
    Accumulate,
    Train,
    /// As `Train`, and works statistics out.
    Observe,
    Evaluate,
    Predict,
    /// Activations are handed out as they are in a train step; nothing is trained.
    Look,
}

impl Mode {
    /// Whether layers behave as in training.
    pub(crate) fn trains(self) -> bool {
        matches!(self, Mode::Accumulate | Mode::Train | Mode::Observe | Mode::Look)
    }
}

/// What builds a program.
pub(crate) trait Task {
    /// Builds what the mode asks for, and hands out what the model makes.
    fn build<'g>(&self, g: &'g GraphBuilder, mode: Mode, batch: &Named<'g>) -> Named<'g>;
}

/// A model alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prediction<M>(pub(crate) M);

impl<M: Net> Task for Prediction<M> {
    fn build<'g>(&self, g: &'g GraphBuilder, _mode: Mode, batch: &Named<'g>) -> Named<'g> {
        let outputs = self.0.outputs(g, batch);
        outputs.tensors().into_iter().for_each(|(name, tensor)| g.output(&name, tensor));
        outputs
    }
}

/// A model with what is minimized and how.
pub(crate) struct Training<M, L, O> {
    pub(crate) model: M,
    pub(crate) objective: L,
    pub(crate) optimizer: O,
    /// The objective's own, if it has one, comes first.
    pub(crate) metrics: Vec<Box<dyn Metric>>,
    /// Whether train steps refuse a loss that is not finite.
    pub(crate) checks_loss: bool,
    /// The user's line where the trainer was made.
    pub(crate) made_at: Loc,
}

/// The name of the output that holds what a metric observes.
pub(crate) fn observed(metric: usize, at: usize) -> String {
    format!("metric.{metric}.{at}")
}

impl<M, L, O: Optimizer> Training<M, L, O> {
    /// How many gradients a step takes the mean of.
    pub(crate) fn gradients_per_step(&self) -> u32 {
        self.optimizer.recipe().map_or(1, Recipe::gradients_per_step).max(1)
    }
}

impl<M: Net, L: Objective, O: Optimizer> Task for Training<M, L, O> {
    fn build<'g>(&self, g: &'g GraphBuilder, mode: Mode, batch: &Named<'g>) -> Named<'g> {
        let outputs = self.model.outputs(g, batch);
        let n_nodes = g.with_graph(|graph| graph.nodes().len());
        if mode == Mode::Look && g.is_ok() {
            statistics::look(g, n_nodes, &outputs);
        }
        if matches!(mode, Mode::Predict | Mode::Look) {
            outputs.tensors().into_iter().for_each(|(name, tensor)| g.output(&name, tensor));
            return outputs;
        }
        g.set_origin(Some(Origin::at(self.made_at.clone())));
        let mut loss = self.objective.loss(&outputs, batch);
        if mode.trains() && self.checks_loss && loss.is_float() {
            loss = loss.check_finite();
        }
        g.output("loss", loss);
        let is_ok = g.is_ok();
        match mode {
            Mode::Accumulate => g.accumulate(loss, &self.optimizer),
            Mode::Train | Mode::Observe => g.minimize(loss, &self.optimizer),
            // A mistake that the loss has reported would be reported again.
            _ if is_ok => self.observe(g, &outputs, batch),
            _ => (),
        }
        if mode == Mode::Observe && g.is_ok() {
            statistics::observe(g, n_nodes, loss, &outputs);
        }
        if is_ok && let Some(weight) = self.objective.weight(&outputs, batch) {
            g.output("weight", weight);
        }
        outputs
    }
}

impl<M, L, O> Training<M, L, O> {
    fn observe<'g>(&self, g: &'g GraphBuilder, outputs: &Named<'g>, batch: &Named<'g>) {
        for (k, metric) in self.metrics.iter().enumerate() {
            let tensors: Vec<Tensor<'g>> = metric.observe(outputs, batch);
            tensors.into_iter().enumerate().for_each(|(at, tensor)| g.output(&observed(k, at), tensor));
        }
    }
}
