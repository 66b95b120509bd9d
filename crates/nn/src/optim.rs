//! Optimisers: how a parameter's gradient becomes its next value, as ops of the same graph.
//!
//! An [`Optimizer`] states one formula over a parameter, its gradient and its own states; [`Minimize`] finds the
//! parameters, makes the gradients and declares the updates; a [`Recipe`] says what stands around the formula: schedule,
//! groups, penalties, clipping, averages. Every formula (but that of [`Lamb`], which needs lengths) is pointwise in the
//! parameter's shape, with scalars that are computed once a step, so that it fuses into one sweep, or into the product that
//! makes the gradient.
//!
//! Names, behind the scopes that are open at the call: the learning rate is the state `optimizer.lr`, which no graph
//! updates, so that setting it in the store recompiles nothing; a slot is `adam.m.hidden.weight`; the number of steps taken
//! is `optimizer.t`, if anything depends on it. Two optimisers of one graph with different learning rates stand in scopes of
//! their own.
//!
//! The formulas are those of the papers named; where ε stands, and whether bias is corrected, differs between textbooks and
//! libraries, so each type says what it does by default and has a method for the other convention.

mod adam;
mod lazy;
mod length;
mod minimize;
mod params;
mod prune;
pub mod recipe;
mod rules;
mod schedule;

pub use adam::{Adam, AdamW, Lamb, Lion, NAdam};
pub use minimize::Minimize;
pub use prune::pruning;
pub use recipe::{Group, ParamInfo, Recipe, Tuned, global_norm};
pub use rules::{AdaDelta, AdaGrad, Momentum, Nesterov, RmsProp, Sgd};
pub use schedule::Schedule;

use self::lazy::Rows;
use cotangent_graph::ops::source::STATE;
use cotangent_graph::{Code, DType, Diag, GraphBuilder, Init, Role, Tensor};

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

    /// Whether the formula treats every element of a parameter by itself, so that some rows can be updated and others not
    /// ([`Group::lazy`]). An optimiser has to say so.
    fn is_elementwise(&self) -> bool {
        false
    }

    /// What stands around the formula; nothing by default.
    fn recipe(&self) -> Option<&Recipe> {
        None
    }

    /// This optimiser with a recipe around its formula, in the place of one that it has:
    /// `Adam::new(1e-3).with(Recipe::new().clip_norm(1.0))`.
    fn with(self, recipe: Recipe) -> Tuned<Self>
    where
        Self: Sized,
    {
        Tuned { optimizer: self, recipe }
    }
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
            fn is_elementwise(&self) -> bool {
                (**self).is_elementwise()
            }
            fn recipe(&self) -> Option<&Recipe> {
                (**self).recipe()
            }
        })*
    };
}
forward!(&O, Box<O>);

/// What an optimiser sees of one parameter.
#[derive(Clone, Debug)]
pub struct UpdateCx<'g> {
    /// The parameter's value in this step; of a lazy one the rows that the loss picks, one for each index.
    pub param: Tensor<'g>,
    /// The gradient, of the type of `param`.
    pub grad: Tensor<'g>,
    rows: Option<Rows<'g>>,
    rate: Tensor<'g>,
    regularized: bool,
    optimizer: &'static str,
    param_name: String,
    hyper_dtype: DType,
}

impl<'g> UpdateCx<'g> {
    /// The graph under construction.
    pub fn builder(&self) -> &'g GraphBuilder {
        self.param.builder()
    }

    /// The learning rate as a scalar of the parameter's element type, with all factors.
    #[track_caller]
    pub fn rate(&self) -> Tensor<'g> {
        self.rate.cast(self.param.dtype())
    }

    /// The learning rate as a scalar f64, for what is computed once a step.
    #[track_caller]
    pub fn rate_f64(&self) -> Tensor<'g> {
        self.rate.cast(DType::F64)
    }

    /// Whether decay is for this parameter: by default if its rank is 2 or more; see [`Group::regularized`].
    pub fn is_regularized(&self) -> bool {
        self.regularized
    }

    /// A scalar f64 as one of the parameter's element type.
    #[track_caller]
    pub fn narrow(&self, scalar: Tensor<'g>) -> Tensor<'g> {
        scalar.cast(self.param.dtype())
    }

    /// A number that can be set in the store: the state `optimizer.<name>`, as a scalar of the parameter's element type. No
    /// graph updates it. Parameters of one scope share it.
    #[track_caller]
    pub fn hyper(&self, name: &str, start: f64) -> Tensor<'g> {
        hyper(self.builder(), name, start, self.hyper_dtype).cast(self.param.dtype())
    }

    /// The value before this step of a state of the parameter's type that starts at zero, named `<optimizer>.<slot>.<param>`; of
    /// a lazy parameter the rows of `param`. [`UpdateCx::update_slot`] declares its next value.
    #[track_caller]
    pub fn slot(&self, slot: &str) -> Tensor<'g> {
        let whole = self.rows.as_ref().map_or(self.param, |rows| rows.table);
        let state = self.builder().state(&self.slot_name(slot), whole.dtype(), whole.shape(), Init::ZEROS);
        self.rows.as_ref().map_or(state, |rows| rows.of(state))
    }

    /// Declares the next value of a slot.
    #[track_caller]
    pub fn update_slot(&self, slot: &str, next: Tensor<'g>) {
        if let Some(state) = known_state(self.builder(), &self.slot_name(slot)) {
            self.update(state, next);
        }
    }

    fn slot_name(&self, slot: &str) -> String {
        format!("{}.{slot}.{}", self.optimizer, self.param_name)
    }

    /// Declares the next value of the parameter.
    #[track_caller]
    fn update_param(&self, next: Tensor<'g>) {
        self.update(self.rows.as_ref().map_or(self.param, |rows| rows.table), next);
    }

    #[track_caller]
    fn update(&self, whole: Tensor<'g>, next: Tensor<'g>) {
        self.builder().update(whole, self.rows.as_ref().map_or(next, |rows| rows.put(whole, next)));
    }

    /// The gradient with each row once, for lengths.
    #[track_caller]
    fn grad_once(&self) -> Tensor<'g> {
        self.rows.as_ref().map_or(self.grad, |rows| rows.once(self.grad))
    }

    /// The number of this step, 1 at first, as a scalar f64. The state `optimizer.t` (i64, the steps taken) is made and
    /// counted up once a graph, however many parameters ask for it.
    #[track_caller]
    pub fn step_number(&self) -> Tensor<'g> {
        step_number(self.builder())
    }

    /// A scalar f64 carried from step to step, `<optimizer>.<name>`, that is the same for all parameters: the value before
    /// this step. The caller declares its update with [`UpdateCx::update_shared`].
    #[track_caller]
    pub fn shared(&self, name: &str, start: f64) -> Tensor<'g> {
        let (g, name) = (self.builder(), format!("{}.{name}", self.optimizer));
        known_state(g, &name).unwrap_or_else(|| g.state(&name, DType::F64, [], Init::constant(start)))
    }

    /// Declares the next value of a state that parameters share, unless another parameter has done so.
    #[track_caller]
    pub fn update_shared(&self, state: Tensor<'g>, next: Tensor<'g>) {
        if !state.is_poisoned() && !is_updated(self.builder(), state) {
            self.builder().update(state, next);
        }
    }
}

/// The number of this step, 1 at first, as a scalar f64; its counter is made and counted up once a graph.
#[track_caller]
fn step_number(g: &GraphBuilder) -> Tensor<'_> {
    const NAME: &str = "optimizer.t";
    let taken = match known_state(g, NAME) {
        Some(taken) => taken,
        None => g.state(NAME, DType::I64, [], Init::ZEROS),
    };
    let now = taken + 1;
    if !taken.is_poisoned() && !is_updated(g, taken) {
        g.update(taken, now);
    }
    now.cast(DType::F64)
}

/// The state of this (scoped) name, if it was made earlier.
fn known_state<'g>(g: &'g GraphBuilder, name: &str) -> Option<Tensor<'g>> {
    let full = g.scoped(name);
    let id = g.with_graph(|graph| graph.source(&full).filter(|&id| graph.node(id).is(&STATE)))?;
    Some(g.tensor(id))
}

/// Whether the graph updates this parameter or state.
fn is_updated(g: &GraphBuilder, target: Tensor<'_>) -> bool {
    g.with_graph(|graph| graph.outputs().iter().any(|o| o.role == Role::Update(target.id())))
}

/// The state `optimizer.<name>`, a scalar shared by optimisers of one scope that agree on where it starts.
#[track_caller]
fn hyper<'g>(g: &'g GraphBuilder, name: &str, start: f64, dtype: DType) -> Tensor<'g> {
    let name = format!("optimizer.{name}");
    let Some(known) = known_state(g, &name) else {
        return g.state(&name, dtype, [], Init::constant(start));
    };
    let (init, loc) = g.with_graph(|graph| {
        let node = graph.node(known.id());
        (node.init().copied(), node.origin.loc())
    });
    if init == Some(Init::constant(start)) {
        return known;
    }
    let started = init.map(|i| i.to_string()).unwrap_or_default();
    let text = format!("`{}` starts as {started} and cannot start as {start} too", g.scoped(&name));
    let diag = Diag::new(Code::DuplicateName, text).note("first used", loc);
    g.poison(diag.help("two optimisers with different settings need a `g.scope(name, ..)` each"))
}
