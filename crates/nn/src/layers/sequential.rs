//! Layers one after the other.

use std::fmt;

use cotangent_graph::{Loc, Origin, Tensor};

use super::{Layer, Layers};

type Function = dyn for<'g> Fn(Tensor<'g>) -> Tensor<'g> + Send + Sync;

enum Step {
    Layer(String, Box<dyn Layer + Send + Sync>),
    Function(Box<Function>),
}

/// Layers and functions one after the other; itself a layer.
///
/// A layer's parameters are named by the name that it was added under, behind that of the `Sequential` if it has one. Nodes,
/// and errors about them, carry the line on which the step was added.
///
/// ```
/// use cotangent_graph::{DType::F32, build};
/// use cotangent_nn::{BatchNorm, Dense, Dropout, Sequential};
///
/// let net = Sequential::new()
///     .add("hidden", Dense::new(128))
///     .add("norm", BatchNorm::new())
///     .then(|x| x.gelu())
///     .add("drop", Dropout::new(0.2))
///     .add("out", Dense::new(10));
/// let graph = build(|g| g.output("logits", net.forward(g.input("x", F32, [32, 784])))).expect("well formed");
/// assert!(graph.source("hidden.weight").is_some() && graph.source("norm.variance").is_some());
/// ```
#[derive(Default)]
pub struct Sequential {
    steps: Vec<(Step, Loc)>,
}

impl fmt::Debug for Sequential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.steps.iter().map(|(step, _)| match step {
            Step::Layer(name, _) => name.as_str(),
            Step::Function(_) => "fn",
        });
        f.debug_list().entries(names).finish()
    }
}

impl Sequential {
    /// No layers: the operand itself.
    pub fn new() -> Self {
        Sequential::default()
    }

    /// A layer more.
    #[track_caller]
    pub fn add(mut self, name: &str, layer: impl Layer + Send + Sync + 'static) -> Self {
        self.steps.push((Step::Layer(name.to_owned(), Box::new(layer)), Loc::here()));
        self
    }

    /// A function more, for example an activation: `.then(|x| x.relu())`.
    #[track_caller]
    pub fn then(mut self, function: impl for<'g> Fn(Tensor<'g>) -> Tensor<'g> + Send + Sync + 'static) -> Self {
        self.steps.push((Step::Function(Box::new(function)), Loc::here()));
        self
    }

    /// The output for `x`, with the layers' own names.
    #[track_caller]
    pub fn forward<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        self.apply("", x)
    }
}

impl Layer for Sequential {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let g = x.builder();
        let mut x = x;
        for (step, at) in &self.steps {
            let outer = g.set_origin(Some(Origin::at(at.clone())));
            x = match step {
                Step::Layer(own, layer) if name.is_empty() => x.layer(own, layer),
                Step::Layer(own, layer) => x.layer(&format!("{name}.{own}"), layer),
                Step::Function(function) => function(x),
            };
            g.set_origin(outer);
        }
        x
    }
}
