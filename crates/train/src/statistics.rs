//! What layers do while they are trained: units that are dead or saturated, gradients, and how far weights move.
//!
//! Why it exists: a loss says that something is wrong, and not where. With [`Options::statistics`](crate::Options::statistics) a
//! train step of every so many also works this out, in its own compiled program, and does to the weights what the plain step
//! does, bit for bit.
//!
//! An activation is found by what it does, not by its name: a function of one number in the model, between two layers with
//! parameters, which is finite everywhere, never falls far and is nowhere steeper than 1.3. Its slope at what it is given says
//! how much of a gradient passes: a unit is *active* for an example where the slope is at least 0.02. A unit of a rectifier that is
//! active for no example is dead; a function with two ends is saturated where it is not active.
//!
//! Functions inside of a `scan` or `call` are not seen, and units are counted along the last axis.

mod histograms;

use std::collections::HashMap;

use cotangent_exec::Outputs;
use cotangent_graph::interp::interpret;
use cotangent_graph::{Attrs, DType, Env, GraphBuilder, Node, NodeId, OpRef, OpTraits, Role, Source, Tensor, build};
use cotangent_nn::Minimize;
use ndarray::Array1;

pub(crate) use self::histograms::Looking;
pub use self::histograms::{Histogram, Histograms, Layer};
use crate::TrainError;
use crate::named::Named;

/// The least slope that counts as active.
pub const LEAST_SLOPE: f64 = 0.02;

/// What an activation function does at its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ends {
    /// It is flat below and goes on above, as ReLU: a unit can die.
    One,
    /// It is flat at both ends, as a sigmoid: a unit can be saturated.
    Two,
}

/// What the units of an activation did in the steps of an epoch that were looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// The layer whose parameters are before it: `hidden` of `hidden.weight`.
    pub layer: String,
    /// What its function does at its ends.
    pub ends: Ends,
    /// For each unit, the share of all values where it was active.
    pub active: Vec<f64>,
}

impl Activation {
    /// The share of units that were active for no example.
    pub fn dead(&self) -> f64 {
        self.active.iter().filter(|&&share| share == 0.0).count() as f64 / self.active.len().max(1) as f64
    }

    /// The share of all values where the slope was below 0.02.
    pub fn inactive(&self) -> f64 {
        1.0 - self.active.iter().sum::<f64>() / self.active.len().max(1) as f64
    }
}

/// What a parameter did in the steps of an epoch that were looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// The root of the mean squared norm of its gradients.
    pub gradient: f64,
    /// The norm of the parameter before the last of these steps.
    pub weight: f64,
    /// The root of the mean squared norm of its changes.
    pub change: f64,
}

impl Parameter {
    /// How large a step's change is against the parameter: about 0.001 to 0.01 is usual. `None` for a parameter of zeros.
    pub fn ratio(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.change / self.weight)
    }
}

/// The statistics of an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// The activations, in the order of the model.
    pub activations: Vec<Activation>,
    /// The parameters that are trained.
    pub parameters: Vec<Parameter>,
    /// How many steps were looked at.
    pub n_steps: u64,
}

const ACTIVATION: &str = "statistics.activation.";
const PARAMETER: &str = "statistics.parameter.";
const GIVEN: &str = "statistics.given.";
const MADE: &str = "statistics.made.";

/// What an activation's function does at its ends, and its layer, of the name of an output: `K.ends.layer` behind the prefix.
fn activation_of(output: &str) -> Option<(Ends, String)> {
    let mut parts = output.strip_prefix(ACTIVATION)?.splitn(3, '.').skip(1);
    let ends = if parts.next() == Some("one") { Ends::One } else { Ends::Two };
    Some((ends, parts.next().unwrap_or_default().to_owned()))
}

impl Statistics {
    /// Adds the figures of a step.
    pub(crate) fn add(&mut self, out: &Outputs<'_>) -> Result<(), TrainError> {
        let n = self.n_steps as f64;
        let mean = |old: f64, new: f64| (old * n + new) / (n + 1.0);
        let (mut activations, mut parameters) = (0, 0);
        let names: Vec<String> = out.iter().map(|(name, _)| name.to_owned()).collect();
        for name in &names {
            if let Some((ends, layer)) = activation_of(name) {
                let active = out.tensor(name)?.to_f64();
                if self.n_steps == 0 {
                    self.activations.push(Activation { layer, ends, active: vec![0.0; active.len()] });
                }
                let known = self.activations[activations].active.iter_mut();
                known.zip(active).for_each(|(known, share)| *known = mean(*known, share));
                activations += 1;
            } else if let Some(rest) = name.strip_prefix(PARAMETER) {
                let squares = out.tensor(name)?.to_f64();
                if self.n_steps == 0 {
                    let name = rest.split_once('.').map_or(rest, |(_, name)| name).to_owned();
                    self.parameters.push(Parameter { name, gradient: 0.0, weight: 0.0, change: 0.0 });
                }
                let known = &mut self.parameters[parameters];
                known.gradient = mean(known.gradient.powi(2), squares[0]).sqrt();
                known.change = mean(known.change.powi(2), squares[1]).sqrt();
                known.weight = squares[2].sqrt();
                parameters += 1;
            }
        }
        self.n_steps += 1;
        Ok(())
    }
}

/// An activation function of a graph.
struct Found {
    given: NodeId,
    made: NodeId,
    ends: Ends,
    layer: String,
}

fn is_param(node: &Node) -> bool {
    node.source() == Some(Source::Param)
}

/// The activation functions among the first nodes of a graph, those of the model.
fn found(g: &GraphBuilder, n_nodes: usize) -> Vec<Found> {
    let mut known: HashMap<(OpRef, Attrs), Option<Ends>> = HashMap::new();
    g.with_graph(|graph| {
        let nodes = &graph.nodes()[..n_nodes];
        let mut has_params = vec![false; n_nodes];
        for (at, node) in nodes.iter().enumerate() {
            has_params[at] = is_param(node) || node.inputs.iter().any(|input| has_params[input.index()]);
        }
        // Whether a layer with parameters of its own comes after a node.
        let is_followed = |from: usize| {
            let mut after = vec![false; n_nodes];
            after[from] = true;
            (from + 1..n_nodes).any(|at| {
                let inputs = &nodes[at].inputs;
                after[at] = inputs.iter().any(|input| after[input.index()]);
                after[at] && inputs.iter().any(|input| !after[input.index()] && has_params[input.index()])
            })
        };
        let layer_of = |from: NodeId| {
            let mut at = from;
            loop {
                let inputs = &nodes[at.index()].inputs;
                if let Some(name) =
                    inputs.iter().filter(|id| is_param(&nodes[id.index()])).find_map(|id| nodes[id.index()].name())
                {
                    return name.rsplit_once('.').map_or(name, |(layer, _)| layer).to_owned();
                }
                // Towards what was made last: the layer before, and not its operand.
                match inputs.iter().filter(|id| has_params[id.index()]).max() {
                    Some(&next) => at = next,
                    None => return nodes[at.index()].name().unwrap_or("model").to_owned(),
                }
            }
        };
        let mut all = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            let &[given] = &node.inputs[..] else { continue };
            let is_candidate = node.op.traits.has(OpTraits::POINTWISE)
                && has_params[given.index()]
                && node.ty == nodes[given.index()].ty
                && node.ty.as_tensor().is_some_and(|(dtype, shape)| dtype.is_float() && shape.rank() >= 2);
            if !is_candidate {
                continue;
            }
            let key = (node.op, node.attrs.clone());
            let ends = *known.entry(key).or_insert_with(|| ends_of(node.op, &node.attrs));
            if let Some(ends) = ends
                && is_followed(at)
            {
                all.push(Found { given, made: NodeId(at as u32), ends, layer: layer_of(given) });
            }
        }
        all
    })
}

/// What a function does at its ends, if it is an activation: looked at from -40 to 40.
fn ends_of(op: OpRef, attrs: &Attrs) -> Option<Ends> {
    const N: usize = 641;
    let at = |k: usize| k as f64 / 8.0 - 40.0;
    let xs: Array1<f64> = (0..N).map(at).collect();
    let graph = build(|g| g.output("y", g.input("x", DType::F64, [N]).unary_with(op.0, attrs.clone()))).ok()?;
    let values = interpret(&graph, &Env::default().with("x", xs)).ok()?.first()?.to_f64();
    let slopes: Vec<f64> = values.windows(2).map(|pair| (pair[1] - pair[0]) * 8.0).collect();
    let steepest = slopes.iter().copied().fold(0.0, f64::max);
    let is_activation = values.iter().all(|value| value.is_finite())
        && slopes.iter().all(|slope| (-0.2..=1.3).contains(slope))
        && steepest >= 0.1;
    let is_flat = |slopes: &[f64]| slopes.iter().all(|slope| slope.abs() < LEAST_SLOPE);
    match (is_activation, is_flat(&slopes[..40]), is_flat(&slopes[N - 41..])) {
        (true, true, false) => Some(Ends::One),
        (true, true, true) => Some(Ends::Two),
        _ => None,
    }
}

/// Hands out how often the units of each activation among the first nodes are active; returns what is given to its function, and
/// what that makes.
fn observe_activations<'g>(g: &'g GraphBuilder, n_nodes: usize, outputs: &Named<'_>) -> Vec<(Tensor<'g>, Tensor<'g>)> {
    let is_output = |id: NodeId| outputs.tensors().iter().any(|(_, tensor)| tensor.id() == id);
    let found = found(g, n_nodes).into_iter().filter(|found| !is_output(found.made));
    let observed = found.enumerate().map(|(k, found)| {
        let (given, made) = (g.tensor(found.given), g.tensor(found.made));
        let slope = g.grad(made.sum(), &[given])[0];
        let one = slope.constant_like(1.0);
        let is_active = slope.abs().ge(slope.constant_like(LEAST_SLOPE));
        let share = is_active.select(one, one.constant_like(0.0)).mean_over(0..slope.rank() - 1);
        let ends = if found.ends == Ends::One { "one" } else { "two" };
        g.output(&format!("{ACTIVATION}{k}.{ends}.{}", found.layer), share);
        (given, made)
    });
    observed.collect()
}

/// Hands out all numbers before and after each activation among the first nodes, and how often its units are active.
pub(crate) fn look(g: &GraphBuilder, n_nodes: usize, outputs: &Named<'_>) {
    for (k, (given, made)) in observe_activations(g, n_nodes, outputs).into_iter().enumerate() {
        let function = g.with_graph(|graph| graph.nodes()[made.id().index()].op.name);
        g.output(&format!("{GIVEN}{k}"), given);
        g.output(&format!("{MADE}{k}.{function}"), made);
    }
}

/// Hands out the statistics of a train step: of the activations among the first nodes, and of the parameters that the loss
/// depends on, whose updates are there.
pub(crate) fn observe(g: &GraphBuilder, n_nodes: usize, loss: Tensor<'_>, outputs: &Named<'_>) {
    observe_activations(g, n_nodes, outputs);
    let params = g.params_of(loss);
    let gradients = g.grad(loss, &params);
    for (k, (param, gradient)) in params.iter().zip(gradients).enumerate() {
        let next = g.with_graph(|graph| {
            let is_own = |role: Role| matches!(role, Role::Update(id) if id == param.id());
            graph.outputs().iter().find(|output| is_own(output.role)).map(|output| output.value)
        });
        let Some(next) = next else { continue };
        let squares = [gradient, g.tensor(next) - *param, *param].map(|tensor| tensor.square().sum());
        let name = param.name().unwrap_or_default();
        g.output(&format!("{PARAMETER}{k}.{name}"), g.stack(&squares, 0));
    }
}
