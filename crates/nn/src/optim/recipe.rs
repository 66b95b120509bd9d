//! What stands around an optimiser's formula: schedule, groups of parameters, penalties, clipping, noise, projections,
//! averages.
//!
//! A [`Recipe`] is joined to an optimiser by [`Optimizer::with`]; the two are an optimiser again. In a step, in this order:
//!
//! 1. the gradient, or the mean of those accumulated ([`Recipe::accumulate`]); the step is refused if it is not finite and
//!    [`Recipe::check_gradients`] asks for that;
//! 2. the gradients of penalties, L1 and L2, as if they stood in the loss;
//! 3. clipping by value, then by global norm;
//! 4. noise on the gradients;
//! 5. the optimiser's formula, with the rate `optimizer.lr` times the factors of schedule and groups;
//! 6. decoupled decay;
//! 7. max-norm projection, then the mask of pruned weights;
//! 8. the running average of the weights.
//!
//! Penalties, decay, max-norm and masks are for regularized parameters only: those of rank 2 or more, weights and tables,
//! unless a group says otherwise. So neither biases nor the gains of norms decay by default.
//!
//! Numbers of a recipe are states in the store, named `optimizer.l2`, `optimizer.clip_norm` and so on: setting them
//! recompiles nothing.

use std::fmt;
use std::sync::Arc;

use cotangent_graph::{DType, GraphBuilder, Init, Shape, Tensor};

use super::length::{joint_length, length, times};
use super::schedule::Schedule;
use super::{Optimizer, UpdateCx, hyper};

/// A parameter as a group sees it.
#[derive(Clone, Copy, Debug)]
pub struct ParamInfo<'a> {
    /// The dotted name.
    pub name: &'a str,
    /// The shape.
    pub shape: &'a Shape,
}

impl ParamInfo<'_> {
    /// Whether it has fewer than two axes, as biases, gains and slopes have.
    pub fn is_vector(&self) -> bool {
        self.shape.rank() < 2
    }
}

/// Parameters that are treated in their own way.
#[derive(Clone)]
pub struct Group {
    name: String,
    contains: Arc<dyn Fn(&ParamInfo<'_>) -> bool + Send + Sync>,
    rate: Option<f64>,
    frozen: bool,
    regularized: Option<bool>,
    lazy: bool,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name)
            .field("rate", &self.rate)
            .field("frozen", &self.frozen)
            .field("regularized", &self.regularized)
            .field("lazy", &self.lazy)
            .finish_non_exhaustive()
    }
}

impl Group {
    /// The parameters for which `contains` is true, under a name; nothing special about them yet.
    pub fn new(name: &str, contains: impl Fn(&ParamInfo<'_>) -> bool + Send + Sync + 'static) -> Self {
        let (name, contains) = (name.to_owned(), Arc::new(contains));
        Group { name, contains, rate: None, frozen: false, regularized: None, lazy: false }
    }

    /// The parameters whose dotted names start with `prefix`, which is also the group's name.
    pub fn named(prefix: &str) -> Self {
        let start = prefix.to_owned();
        Group::new(prefix, move |param| param.name.starts_with(&start))
    }

    /// A factor of the learning rate, in the state `optimizer.<group>.rate`.
    pub fn rate(mut self, factor: f64) -> Self {
        self.rate = Some(factor);
        self
    }

    /// Not trained at all: no gradient, no update.
    pub fn frozen(mut self) -> Self {
        self.frozen = true;
        self
    }

    /// Tables that the loss reads by `gather` alone, as embeddings are: a step changes the rows that it picks and touches no others,
    /// so that its time depends on the batch and not on the table.
    ///
    /// That is another algorithm than without, unless the formula has no slots and nothing decays: a row that is not picked keeps
    /// its slots as they are (the moments of Adam do not fade, and nothing moves it), and penalties, decay and noise are for the rows
    /// picked alone. Corrections count all steps. So do PyTorch's `SparseAdam` and TensorFlow's `LazyAdam`. A row that is picked
    /// several times is changed once, by the sum of its gradients.
    ///
    /// It is an error if the loss reads such a parameter otherwise, if the optimiser is not
    /// [element by element](Optimizer::is_elementwise) ([`Lamb`](super::Lamb) is not), and beside [`Recipe::accumulate`],
    /// [`Recipe::max_norm`], [`Recipe::masked`] and [`Recipe::average`], which need all rows.
    ///
    /// ```
    /// use cotangent_graph::{DType::{F32, I64}, build};
    /// use cotangent_nn::{Adam, Group, Layers, Minimize, Optimizer, Recipe};
    ///
    /// let graph = build(|g| {
    ///     let words = g.input("words", I64, [32, 16]).embedding("words", 500_000, 32);
    ///     let loss = words.mean_over(1).dense("out", 10).cross_entropy(g.input("y", I64, [32])).mean();
    ///     g.minimize(loss, Adam::new(1e-3).with(Recipe::new().group(Group::named("words").lazy())));
    /// })?;
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    pub fn lazy(mut self) -> Self {
        self.lazy = true;
        self
    }

    /// Whether penalties, decay, max-norm and masks are for them.
    pub fn regularized(mut self, yes: bool) -> Self {
        self.regularized = Some(yes);
        self
    }
}

/// See the [module](self). Nothing is on by default.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    pub(super) schedule: Option<Schedule>,
    groups: Vec<Group>,
    l1: Option<f64>,
    l2: Option<f64>,
    decay: Option<f64>,
    plain_decay: Option<f64>,
    clip_value: Option<f64>,
    clip_norm: Option<f64>,
    gradient_noise: Option<f64>,
    accumulate: Option<u32>,
    checked: bool,
    max_norm: Option<f64>,
    masked: bool,
    average: Option<f64>,
}

/// What a recipe says about one parameter.
#[derive(Default)]
pub(super) struct Treatment<'a> {
    pub(super) frozen: bool,
    pub(super) lazy: bool,
    pub(super) regularized: bool,
    /// Names and starts of factors of the rate.
    pub(super) rates: Vec<(&'a str, f64)>,
}

impl Recipe {
    /// Nothing but the optimiser's formula.
    pub fn new() -> Self {
        Recipe::default()
    }

    /// A learning rate that changes with the number of steps.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = Some(schedule);
        self
    }

    /// A group more. Where several contain a parameter, their rates multiply, one that freezes is enough, and the last word
    /// on regularization counts.
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// The penalty `lambda · ‖w‖₁` on the loss: `lambda · sign(w)` in the gradient.
    pub fn l1(mut self, lambda: f64) -> Self {
        self.l1 = Some(lambda);
        self
    }

    /// The penalty `lambda · ‖w‖²` on the loss: `2 lambda · w` in the gradient. With plain gradient descent that is the
    /// coupled decay `w ← (1 - 2 lambda η) w - η ∇L`; what PyTorch's `SGD` and `Adam` call `weight_decay` is `2 lambda`.
    pub fn l2(mut self, lambda: f64) -> Self {
        self.l2 = Some(lambda);
        self
    }

    /// Decoupled decay in proportion to the rate in use, as in AdamW: `w ← (1 - η lambda) w - step`.
    pub fn decay(mut self, lambda: f64) -> Self {
        self.decay = Some(lambda);
        self
    }

    /// Decoupled decay whatever the rate: `w ← (1 - lambda) w - step`.
    pub fn plain_decay(mut self, lambda: f64) -> Self {
        self.plain_decay = Some(lambda);
        self
    }

    /// Every element of the gradients inside `[-limit, limit]`.
    pub fn clip_value(mut self, limit: f64) -> Self {
        self.clip_value = Some(limit);
        self
    }

    /// All gradients together, as one long vector `g`, no longer than `limit`: `g · min(limit, ‖g‖)/‖g‖`.
    pub fn clip_norm(mut self, limit: f64) -> Self {
        self.clip_norm = Some(limit);
        self
    }

    /// Refuses a step whose gradients hold NaN or an infinity: the error is `E0305`, and nothing has changed. A finite loss may
    /// have such gradients (`√x` at 0), and a step by them would make parameters NaN for good. A trainer passes over such a
    /// batch if its options say so (`NonFinite::Skip`). No update is made before all gradients are known, so none of them joins
    /// the product that makes its gradient: like [`Recipe::clip_norm`], it costs a pass over the gradients.
    pub fn check_gradients(mut self) -> Self {
        self.checked = true;
        self
    }

    /// Normal noise of this standard deviation on the gradients (Neelakantan et al. 2015).
    pub fn gradient_noise(mut self, deviation: f64) -> Self {
        self.gradient_noise = Some(deviation);
        self
    }

    /// The step takes the mean of `n` gradients: its own and those that `n - 1` runs of a program with
    /// [`Minimize::accumulate`](super::Minimize::accumulate) have summed up before it.
    pub fn accumulate(mut self, n: u32) -> Self {
        self.accumulate = Some(n);
        self
    }

    /// How many gradients a step takes the mean of, its own included: 1 without [`Recipe::accumulate`].
    pub fn gradients_per_step(&self) -> u32 {
        self.accumulate.unwrap_or(1)
    }

    /// Max-norm (Srivastava et al. 2014): after the update, the weights into each neuron (a place along the last axis) are
    /// scaled down to a length of `limit` if they are longer.
    pub fn max_norm(mut self, limit: f64) -> Self {
        self.max_norm = Some(limit);
        self
    }

    /// After the update, weights are multiplied by the state `mask.<param>`, ones at first. Masks are made by the program
    /// [`pruning`](crate::pruning).
    pub fn masked(mut self) -> Self {
        self.masked = true;
        self
    }

    /// A running average of the weights in the states `average.<param>`: `a ← d a + (1 - d) w`, `d = min(decay, (t - 1)/t)`, so
    /// that it starts as the plain mean and needs no correction. It is for every parameter that is trained. A model reads it
    /// inside of `g.params_from("average", …)`.
    pub fn average(mut self, decay: f64) -> Self {
        self.average = Some(decay);
        self
    }

    /// The plain mean of the weights of all steps (Polyak and Juditsky 1992): [`Recipe::average`] with decay 1.
    pub fn polyak(self) -> Self {
        self.average(1.0)
    }

    /// The program's own factor of the learning rate at a step counted from 0; 1 without a schedule.
    pub fn rate_factor(&self, step: u64) -> f64 {
        self.schedule.as_ref().map_or(1.0, |schedule| schedule.factor(step))
    }

    /// What is wrong with its numbers, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        let settings = [
            ("l1", self.l1),
            ("l2", self.l2),
            ("decay", self.decay),
            ("plain_decay", self.plain_decay),
            ("clip_value", self.clip_value),
            ("clip_norm", self.clip_norm),
            ("gradient_noise", self.gradient_noise),
            ("max_norm", self.max_norm),
        ];
        for (name, value) in settings {
            if let Some(value) = value.filter(|v| !v.is_finite() || *v < 0.0) {
                return Err(format!("`{name}` to be finite and not negative, got {value}"));
            }
        }
        if let Some(factor) = self.groups.iter().filter_map(|g| g.rate).find(|r| !r.is_finite() || *r < 0.0) {
            return Err(format!("a group's rate to be finite and not negative, got {factor}"));
        }
        if let Some(decay) = self.average.filter(|d| !(0.0..=1.0).contains(d)) {
            return Err(format!("the average's decay in [0, 1], got {decay}"));
        }
        if self.accumulate == Some(0) {
            return Err("at least 1 gradient to accumulate, got 0".to_owned());
        }
        self.schedule.as_ref().map_or(Ok(()), Schedule::check)
    }

    pub(super) fn treatment(&self, param: &ParamInfo<'_>) -> Treatment<'_> {
        let mut treatment = Treatment { regularized: !param.is_vector(), ..Treatment::default() };
        for group in self.groups.iter().filter(|group| (group.contains)(param)) {
            treatment.frozen |= group.frozen;
            treatment.lazy |= group.lazy;
            treatment.regularized = group.regularized.unwrap_or(treatment.regularized);
            treatment.rates.extend(group.rate.map(|rate| (group.name.as_str(), rate)));
        }
        treatment
    }

    /// The gradients that the formula sees, steps 1 to 4.
    #[track_caller]
    pub(super) fn shape_gradients<'g>(&self, g: &'g GraphBuilder, updates: &mut [UpdateCx<'g>]) {
        if let Some(n) = self.accumulate {
            for cx in updates.iter_mut() {
                let sum = accumulator(g, cx);
                g.update(sum, sum.constant_like(0.0).broadcast_to(sum.shape()));
                cx.grad = (sum + cx.grad) / f64::from(n);
            }
        }
        self.check_finite(g, updates);
        for cx in updates.iter_mut().filter(|cx| cx.regularized) {
            if let Some(lambda) = self.l1 {
                cx.grad += cx.param.sign() * cx.hyper("l1", lambda);
            }
            if let Some(lambda) = self.l2 {
                cx.grad += cx.param * (cx.hyper("l2", lambda) * 2.0);
            }
        }
        if let Some(limit) = self.clip_value {
            for cx in updates.iter_mut() {
                let limit = cx.hyper("clip_value", limit);
                cx.grad = cx.grad.minimum(limit).maximum(-limit);
            }
        }
        if let (Some(limit), Some(first)) = (self.clip_norm, updates.first()) {
            let limit = hyper(g, "clip_norm", limit, first.hyper_dtype).cast(DType::F64);
            let norm = global_norm(g, &updates.iter().map(UpdateCx::grad_once).collect::<Vec<_>>());
            let scale = norm.gt(limit).select(limit / norm, g.scalar(1.0, DType::F64));
            updates.iter_mut().for_each(|cx| cx.grad = times(cx.grad, scale, |t, shape| t.broadcast_to(shape)));
        }
        if let Some(deviation) = self.gradient_noise {
            for cx in updates.iter_mut() {
                let noise = g.normal(&format!("gradient_noise.{}", cx.param_name), cx.grad.dtype(), cx.grad.shape());
                cx.grad += noise * cx.hyper("gradient_noise", deviation);
            }
        }
    }

    /// The check of all gradients, if it is asked for.
    #[track_caller]
    pub(super) fn check_finite<'g>(&self, g: &'g GraphBuilder, updates: &[UpdateCx<'g>]) {
        if self.checked {
            global_norm(g, &updates.iter().map(UpdateCx::grad_once).collect::<Vec<_>>()).check_finite();
        }
    }

    /// A setting that needs all rows of a parameter.
    pub(super) fn needs_whole(&self) -> Option<&'static str> {
        let settings = [
            (self.accumulate.is_some(), "accumulate"),
            (self.max_norm.is_some(), "max_norm"),
            (self.masked, "masked"),
            (self.average.is_some(), "average"),
        ];
        settings.into_iter().find(|setting| setting.0).map(|setting| setting.1)
    }

    /// The groups that contain none of these parameters.
    pub(super) fn empty_groups(&self, params: &[ParamInfo<'_>]) -> Vec<&str> {
        let is_empty = |group: &&Group| !params.iter().any(|param| (group.contains)(param));
        self.groups.iter().filter(is_empty).map(|group| group.name.as_str()).collect()
    }

    /// The parameter's next value, given the formula's: steps 6 to 8.
    #[track_caller]
    pub(super) fn finish<'g>(&self, cx: &UpdateCx<'g>, formula: Tensor<'g>) -> Tensor<'g> {
        let g = cx.builder();
        let mut next = formula;
        if cx.regularized {
            if let Some(lambda) = self.decay {
                next -= cx.param * (cx.rate() * cx.hyper("decay", lambda));
            }
            if let Some(lambda) = self.plain_decay {
                next -= cx.param * cx.hyper("plain_decay", lambda);
            }
            if let Some(limit) = self.max_norm.filter(|_| next.rank() > 0) {
                let axes: Vec<usize> = (0..next.rank() - 1).collect();
                let norm = length(next, &axes);
                let limit = cx.hyper("max_norm", limit).cast(DType::F64).broadcast_to(norm.shape());
                let scale = norm.gt(limit).select(limit / norm, norm.constant_like(1.0));
                next = times(next, scale, |t, shape| t.repeat_along(shape, &axes));
            }
            if self.masked {
                let name = format!("{MASK}{}", cx.param_name);
                next = next * g.state(&name, next.dtype(), next.shape(), Init::ONES);
            }
        }
        if let Some(decay) = self.average {
            let average = g.state(&format!("average.{}", cx.param_name), next.dtype(), next.shape(), Init::ZEROS);
            let t = cx.step_number();
            let weight = (1.0 / t).maximum(g.scalar(1.0 - decay, DType::F64));
            g.update(average, average + (next - average) * cx.narrow(weight));
        }
        next
    }
}

/// In front of a parameter's name, the name of its mask.
pub(super) const MASK: &str = "mask.";

/// The state that sums up a parameter's gradients.
#[track_caller]
pub(super) fn accumulator<'g>(g: &'g GraphBuilder, cx: &UpdateCx<'g>) -> Tensor<'g> {
    let name = format!("optimizer.accumulated.{}", cx.param_name);
    g.state(&name, cx.grad.dtype(), cx.grad.shape(), Init::ZEROS)
}

/// The length of all tensors together as one vector, `√(Σ Σ x²)`, a scalar f64: what [`Recipe::clip_norm`] compares. No square
/// over- or underflows: those of f32 are summed in f64, those of f64 scaled where the plain sum is infinite, 0 or subnormal.
#[track_caller]
pub fn global_norm<'g>(g: &'g GraphBuilder, tensors: &[Tensor<'g>]) -> Tensor<'g> {
    joint_length(tensors).unwrap_or_else(|| g.scalar(0.0, DType::F64))
}

/// An optimiser with a recipe; see [`Optimizer::with`].
#[derive(Clone, Debug)]
pub struct Tuned<O> {
    pub(super) optimizer: O,
    pub(super) recipe: Recipe,
}

impl<O: Optimizer> Optimizer for Tuned<O> {
    fn name(&self) -> &'static str {
        self.optimizer.name()
    }

    fn learning_rate(&self) -> f64 {
        self.optimizer.learning_rate()
    }

    fn check(&self) -> Result<(), String> {
        self.optimizer.check()
    }

    fn is_elementwise(&self) -> bool {
        self.optimizer.is_elementwise()
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        self.optimizer.step(cx)
    }

    fn recipe(&self) -> Option<&Recipe> {
        Some(&self.recipe)
    }
}
