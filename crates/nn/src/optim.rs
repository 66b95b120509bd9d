//! Optimisers: how a parameter's gradient becomes its next value, as ops of the same graph.
//!
//! An [`Optimizer`] states one formula over a parameter, its gradient and its own states; [`Minimize`] finds the
//! parameters, makes the gradients and declares the updates. Every formula is pointwise in the parameter's shape, with
//! scalars that are computed once a step, so that it fuses into one sweep, or into the product that makes the gradient.
//!
//! Names, behind the scopes that are open at the call: the learning rate is the state `optimizer.lr`, which no graph
//! updates, so that a schedule sets it in the store and recompiles nothing; a slot is `adam.m.hidden.weight`; the number of
//! steps taken is `adam.t`. Two optimisers of one graph with different learning rates stand in scopes of their own.

mod minimize;
mod rules;

pub use minimize::Minimize;
pub use rules::{AdaGrad, Adam, AdamW, Momentum, Nesterov, RmsProp, Sgd};

use cotangent_graph::{Code, DType, Diag, GraphBuilder, Init, Loc, Role, Tensor};

/// A training algorithm that treats each parameter by itself.
pub trait Optimizer {
    /// The name in front of its states, for example `adam`.
    fn name(&self) -> &'static str;

    /// The learning rate that `optimizer.lr` starts with.
    fn learning_rate(&self) -> f64;

    /// What is wrong with its hyper-parameters, if anything: "beta1 in [0, 1), got 1.5".
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The next value of the parameter `cx.param`, whose gradient is `cx.grad`. Declares the updates of its own states.
    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g>;
}

macro_rules! forward {
    ($($pointer:ty),*) => {
        $(impl<O: Optimizer + ?Sized> Optimizer for $pointer {
            fn name(&self) -> &'static str {
                (**self).name()
            }
            fn learning_rate(&self) -> f64 {
                (**self).learning_rate()
            }
            fn check(&self) -> Result<(), String> {
                (**self).check()
            }
            #[track_caller]
            fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
                (**self).step(cx)
            }
        })*
    };
}
forward!(&O, Box<O>);

/// What an optimiser sees of one parameter.
#[derive(Clone, Debug)]
pub struct UpdateCx<'g> {
    /// The parameter's value in this step.
    pub param: Tensor<'g>,
    /// The gradient, of the parameter's type.
    pub grad: Tensor<'g>,
    rate: Tensor<'g>,
    optimizer: &'static str,
    param_name: String,
}

impl<'g> UpdateCx<'g> {
    /// The graph under construction.
    pub fn builder(&self) -> &'g GraphBuilder {
        self.param.builder()
    }

    /// The learning rate as a scalar of the parameter's element type.
    #[track_caller]
    pub fn rate(&self) -> Tensor<'g> {
        self.rate.cast(self.param.dtype())
    }

    /// The learning rate as a scalar f64, for what is computed once a step.
    #[track_caller]
    pub fn rate_f64(&self) -> Tensor<'g> {
        self.rate.cast(DType::F64)
    }

    /// A scalar f64 as one of the parameter's element type.
    #[track_caller]
    pub fn narrow(&self, scalar: Tensor<'g>) -> Tensor<'g> {
        scalar.cast(self.param.dtype())
    }

    /// A state of the parameter's type that starts at zero, named `<optimizer>.<slot>.<param>`.
    #[track_caller]
    pub fn slot(&self, slot: &str) -> Tensor<'g> {
        let name = format!("{}.{slot}.{}", self.optimizer, self.param_name);
        self.builder().state(&name, self.param.dtype(), self.param.shape(), Init::ZEROS)
    }

    /// The number of this step, 1 at first, as a scalar f64. Its state `<optimizer>.t` (i64, the steps taken) is made and
    /// counted up once a graph, however many parameters ask for it.
    #[track_caller]
    pub fn step_number(&self) -> Tensor<'g> {
        let g = self.builder();
        let name = format!("{}.t", self.optimizer);
        let taken = match known_state(g, &name) {
            Some(taken) => taken,
            None => g.state(&name, DType::I64, [], Init::ZEROS),
        };
        let now = taken + 1;
        if !taken.is_poisoned() && !is_updated(g, taken) {
            g.update(taken, now);
        }
        now.cast(DType::F64)
    }
}

/// The state of this (scoped) name, if it was made earlier.
fn known_state<'g>(g: &'g GraphBuilder, name: &str) -> Option<Tensor<'g>> {
    let full = g.scoped(name);
    let id = g.with_graph(|graph| graph.source(&full).filter(|&id| graph.node(id).op.name == "state"))?;
    Some(g.tensor(id))
}

/// Whether the graph updates this parameter or state.
fn is_updated(g: &GraphBuilder, target: Tensor<'_>) -> bool {
    g.with_graph(|graph| graph.outputs().iter().any(|o| o.role == Role::Update(target.id())))
}

/// The learning rate's state, shared by optimisers of one scope that agree on where it starts.
#[track_caller]
fn rate_state(g: &GraphBuilder, rate: f64, dtype: DType) -> Tensor<'_> {
    const NAME: &str = "optimizer.lr";
    let Some(known) = known_state(g, NAME) else {
        return g.state(NAME, dtype, [], Init::constant(rate));
    };
    let (init, loc) = g.with_graph(|graph| {
        let node = graph.node(known.id());
        (node.attrs.init("init").copied(), node.origin.loc())
    });
    if init == Some(Init::constant(rate)) {
        return known;
    }
    let started = init.map(|i| i.to_string()).unwrap_or_default();
    let text = format!("`{}` starts as {started} and cannot start as {rate} too", g.scoped(NAME));
    let diag = Diag::new(Code::DuplicateName, text).note("first used", loc);
    g.poison(diag.help("two optimisers with different learning rates need a `g.scope(name, ..)` each"))
}

/// Where a tensor was made.
fn made_at(tensor: Tensor<'_>) -> Loc {
    if tensor.is_poisoned() {
        return Loc::Internal;
    }
    tensor.builder().with_graph(|graph| graph.node(tensor.id()).origin.loc())
}
