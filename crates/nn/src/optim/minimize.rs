//! From a loss to updates: which parameters are trained, their gradients, and the outputs that replace them.
//!
//! All nodes made here carry the user's line and the optimiser's name as their origin. Errors are recorded in the builder
//! at the user's line; a loss that is itself the result of an error is passed over in silence.

use cotangent_graph::{Code, DType, Diag, GraphBuilder, NodeId, Origin, Shape, Tensor};

use super::lazy::{self, Pair};
use super::params::{param_name, reached};
use super::recipe::{ParamInfo, Treatment, accumulator};
use super::{Optimizer, Recipe, UpdateCx, hyper, is_updated, step_number};

/// What updates parameters is of this scope; each parameter has one in it.
const SCOPE: &str = "optimizer";

/// Training as methods of the builder.
pub trait Minimize {
    /// Trains every parameter that a gradient of `loss` flows to: one `grad` node and one update each.
    ///
    /// Parameters behind `stop_gradient`, comparisons or integers are left alone. It is an error if the loss is not a
    /// scalar float, or if there is no such parameter.
    #[track_caller]
    fn minimize(&self, loss: Tensor<'_>, optimizer: impl Optimizer);

    /// Trains these parameters only. It is an error if no gradient of `loss` flows to one of them.
    #[track_caller]
    fn minimize_params(&self, loss: Tensor<'_>, params: &[Tensor<'_>], optimizer: impl Optimizer);

    /// Updates parameters by gradients that the caller made from `g.grad`, for example clipped ones: pairs of a parameter
    /// and its gradient, of equal types.
    #[track_caller]
    fn apply_gradients(&self, gradients: &[(Tensor<'_>, Tensor<'_>)], optimizer: impl Optimizer);

    /// Adds the gradients of `loss` to the sums in the states `optimizer.accumulated.<param>`, for the parameters that
    /// [`Minimize::minimize`] with the same optimiser would train; nothing else changes. A program for the first `n - 1` of
    /// `n` batches whose optimiser has [`Recipe::accumulate`].
    #[track_caller]
    fn accumulate(&self, loss: Tensor<'_>, optimizer: impl Optimizer);

    /// The parameters that a gradient of `value` flows to, in the order in which they were made. If `value` is the result of
    /// an error, all parameters; none if it belongs to another graph.
    fn params_of(&self, value: Tensor<'_>) -> Vec<Tensor<'_>>;
}

impl Minimize for GraphBuilder {
    #[track_caller]
    fn minimize(&self, loss: Tensor<'_>, optimizer: impl Optimizer) {
        let Some((loss, params)) = trained(self, loss, &optimizer, "minimize") else { return };
        let Some(pairs) = with_gradients(self, loss, &params, &optimizer, "minimize") else { return };
        apply(self, pairs, &optimizer, "minimize");
    }

    #[track_caller]
    fn minimize_params(&self, loss: Tensor<'_>, params: &[Tensor<'_>], optimizer: impl Optimizer) {
        const CALL: &str = "minimize_params";
        let Some(loss) = checked_loss(self, loss, CALL) else { return };
        if params.is_empty() {
            self.error(Diag::new(Code::NotDifferentiable, format!("`{CALL}` requires at least one parameter")));
            return;
        }
        let reached = self.with_graph(|graph| reached(graph, loss.id()));
        let mut chosen = Vec::new();
        for &param in params {
            let Some((param, name)) = checked_param(self, param, CALL) else { continue };
            if !reached[param.id().index()] {
                let text = format!("`{CALL}` requires parameters that the loss depends on, it does not on `{name}`");
                let diag = Diag::new(Code::NotDifferentiable, text);
                self.error(diag.made("the loss", loss).made("the parameter", param));
                continue;
            }
            chosen.push(param);
        }
        let Some(pairs) = with_gradients(self, loss, &chosen, &optimizer, CALL) else { return };
        apply(self, pairs, &optimizer, CALL);
    }

    #[track_caller]
    fn apply_gradients(&self, gradients: &[(Tensor<'_>, Tensor<'_>)], optimizer: impl Optimizer) {
        const CALL: &str = "apply_gradients";
        let mut pairs = Vec::new();
        for &(param, grad) in gradients {
            let Some((param, name)) = checked_param(self, param, CALL) else { continue };
            let Some(grad) = own(self, grad, CALL) else { continue };
            if grad.ty() != param.ty() {
                let text = format!("the gradient of `{name}` requires {}, got {}", param.ty(), grad.ty());
                let diag = Diag::new(Code::ShapeMismatch, text);
                self.error(diag.made("the gradient", grad).made("the parameter", param));
                continue;
            }
            if treatment_of(self, param, &optimizer).lazy && !allowed_here(param, &optimizer, CALL) {
                return;
            }
            pairs.push(Pair { param, grad, rows: None });
        }
        apply(self, pairs, &optimizer, CALL);
    }

    #[track_caller]
    fn accumulate(&self, loss: Tensor<'_>, optimizer: impl Optimizer) {
        const CALL: &str = "accumulate";
        let Some((loss, params)) = trained(self, loss, &optimizer, CALL) else { return };
        let Some(pairs) = with_gradients(self, loss, &params, &optimizer, CALL) else { return };
        let outer = self.set_origin(Some(origin(self, &optimizer)));
        if let Some(updates) = contexts(self, pairs, &optimizer, CALL) {
            optimizer.recipe().into_iter().for_each(|recipe| recipe.check_finite(self, &updates));
            for cx in updates {
                let sum = accumulator(self, &cx);
                self.update(sum, sum + cx.grad);
            }
        }
        self.set_origin(outer);
    }

    fn params_of(&self, value: Tensor<'_>) -> Vec<Tensor<'_>> {
        if !std::ptr::eq(value.builder(), self) {
            return Vec::new();
        }
        let ids: Vec<NodeId> = self.with_graph(|graph| {
            let reached = if value.is_poisoned() { vec![true; graph.n_nodes()] } else { reached(graph, value.id()) };
            graph.params().map(|(id, _)| id).filter(|id| reached[id.index()]).collect()
        });
        ids.into_iter().map(|id| self.tensor(id)).collect()
    }
}

/// The tensor, if it is this graph's and no error was recorded on the way to it.
#[track_caller]
fn own<'g>(g: &'g GraphBuilder, tensor: Tensor<'_>, call: &str) -> Option<Tensor<'g>> {
    if !std::ptr::eq(tensor.builder(), g) {
        let diag = Diag::new(Code::ForeignTensor, format!("`{call}` got a tensor of another graph"));
        g.error(diag.made("the tensor", tensor));
        return None;
    }
    if tensor.is_poisoned() { None } else { Some(g.tensor(tensor.id())) }
}

#[track_caller]
fn checked_loss<'g>(g: &'g GraphBuilder, loss: Tensor<'_>, call: &str) -> Option<Tensor<'g>> {
    let loss = own(g, loss, call)?;
    if loss.is_float() && loss.rank() == 0 {
        return Some(loss);
    }
    let text = format!("`{call}` requires a scalar float loss, got {}", loss.ty());
    let diag = Diag::new(Code::NotDifferentiable, text).made("the loss", loss);
    g.error(if loss.is_float() { diag.help("reduce it to a scalar with `.mean()` or `.sum()`") } else { diag });
    None
}

/// The parameter and its name, if it is one of floats.
#[track_caller]
fn checked_param<'g>(g: &'g GraphBuilder, param: Tensor<'_>, call: &str) -> Option<(Tensor<'g>, String)> {
    let param = own(g, param, call)?;
    if let Some(name) = param_name(g, param) {
        return Some((param, name));
    }
    let op = g.with_graph(|graph| graph.node(param.id()).op.name);
    let text = format!("`{call}` requires parameters of floats, got `{op}` of type {}", param.ty());
    g.error(Diag::new(Code::BadUpdate, text).made("it", param));
    None
}

#[track_caller]
fn with_gradients<'g>(
    g: &'g GraphBuilder,
    loss: Tensor<'g>,
    params: &[Tensor<'g>],
    optimizer: &impl Optimizer,
    call: &str,
) -> Option<Vec<Pair<'g>>> {
    // What is differentiated for each parameter: itself, or the rows of it that the loss picks.
    let mut values: Vec<(Tensor<'g>, Option<Vec<Tensor<'g>>>)> = Vec::new();
    for &param in params {
        let is_lazy = treatment_of(g, param, optimizer).lazy;
        if is_lazy && !allowed_here(param, optimizer, call) {
            return None;
        }
        values.push((param, if is_lazy { Some(lazy::picked(g, loss, param)?) } else { None }));
    }
    let wanted: Vec<Tensor<'g>> =
        values.iter().flat_map(|(param, picked)| picked.clone().unwrap_or_else(|| vec![*param])).collect();
    let outer = g.set_origin(Some(origin(g, optimizer)));
    let mut gradients = g.grad(loss, &wanted).into_iter();
    let mut pair = |(param, picked): (Tensor<'g>, Option<Vec<Tensor<'g>>>)| match picked {
        Some(picked) => {
            let own: Vec<Tensor<'g>> = gradients.by_ref().take(picked.len()).collect();
            Some(lazy::summed(param, &picked, &own))
        }
        None => Some(Pair { param, grad: gradients.next()?, rows: None }),
    };
    let pairs = values.into_iter().filter_map(&mut pair).collect();
    g.set_origin(outer);
    Some(pairs)
}

/// What the optimiser's recipe says about a parameter.
fn treatment_of<'a>(g: &GraphBuilder, param: Tensor<'_>, optimizer: &'a impl Optimizer) -> Treatment<'a> {
    match (optimizer.recipe(), param_name(g, param)) {
        (Some(recipe), Some(name)) => recipe.treatment(&ParamInfo { name: &name, shape: &param.shape() }),
        _ => Treatment::default(),
    }
}

#[track_caller]
fn allowed_here(param: Tensor<'_>, optimizer: &impl Optimizer, call: &str) -> bool {
    optimizer.recipe().is_none_or(|recipe| lazy::allowed(param, optimizer, recipe, call))
}

#[track_caller]
fn origin(g: &GraphBuilder, optimizer: &impl Optimizer) -> Origin {
    Origin { rule: Some(optimizer.name()), ..g.origin().in_scope(SCOPE) }
}

/// The loss, checked, and the parameters that training changes: those that a gradient flows to and no group freezes.
#[track_caller]
fn trained<'g>(
    g: &'g GraphBuilder,
    loss: Tensor<'_>,
    optimizer: &impl Optimizer,
    call: &str,
) -> Option<(Tensor<'g>, Vec<Tensor<'g>>)> {
    let loss = checked_loss(g, loss, call)?;
    let reached = g.params_of(loss);
    let none = reached.is_empty();
    let params: Vec<_> = reached.into_iter().filter(|&param| !is_frozen(g, param, optimizer)).collect();
    if !params.is_empty() {
        return Some((loss, params));
    }
    let text = format!("`{call}` requires a loss that depends on parameters, got one that depends on none");
    let diag = Diag::new(Code::NotDifferentiable, text).made("the loss", loss);
    g.error(diag.help(if none {
        "parameters come from layers or `g.param`; no gradient flows through `stop_gradient`, comparisons or integers"
    } else {
        "the groups of the optimiser's recipe freeze all that it depends on"
    }));
    None
}

fn is_frozen(g: &GraphBuilder, param: Tensor<'_>, optimizer: &impl Optimizer) -> bool {
    treatment_of(g, param, optimizer).frozen
}

/// What the optimiser sees of each parameter that is to be updated. The origin must be set.
#[track_caller]
fn contexts<'g>(
    g: &'g GraphBuilder,
    pairs: Vec<Pair<'g>>,
    optimizer: &impl Optimizer,
    call: &str,
) -> Option<Vec<UpdateCx<'g>>> {
    let rate = optimizer.learning_rate();
    let in_range = if rate.is_finite() && rate >= 0.0 {
        optimizer.check().and(optimizer.recipe().map_or(Ok(()), Recipe::check))
    } else {
        Err(format!("a learning rate that is finite and not negative, got {rate}"))
    };
    if let Err(required) = in_range {
        let text = format!("the optimiser `{}` requires {required}", optimizer.name());
        g.error(Diag::new(Code::BadAttribute, text));
        return None;
    }
    let plain = Recipe::new();
    let recipe = optimizer.recipe().unwrap_or(&plain);
    if !groups_have_params(g, recipe) {
        return None;
    }
    let wide = pairs.iter().any(|pair| pair.param.dtype() == DType::F64);
    let hyper_dtype = if wide { DType::F64 } else { DType::F32 };
    let mut common: Option<Tensor<'g>> = None;
    let mut updates = Vec::new();
    for Pair { param, grad, rows } in pairs {
        let Some(param_name) = param_name(g, param) else { continue };
        if is_updated(g, param) {
            let text = format!("`{call}` would update `{param_name}` twice");
            let diag = Diag::new(Code::BadUpdate, text).made("the parameter", param);
            let first = g.updated_at(param);
            let diag = first.into_iter().fold(diag, |diag, first| diag.note("first updated", first));
            g.error(diag.help("one step replaces a parameter once: add the losses, or list the parameters of each"));
            continue;
        }
        let shape = param.shape();
        let treatment = recipe.treatment(&ParamInfo { name: &param_name, shape: &shape });
        if treatment.frozen {
            continue;
        }
        let mut rate = match common {
            Some(rate) => rate,
            None => scheduled_rate(g, rate, hyper_dtype, recipe),
        };
        common = Some(rate);
        for (group, factor) in treatment.rates {
            let factor = hyper(g, &format!("{group}.rate"), factor, hyper_dtype);
            rate = rate.cast(DType::F64) * factor.cast(DType::F64);
        }
        let (regularized, optimizer) = (treatment.regularized, optimizer.name());
        let param = rows.as_ref().map_or(param, |rows| rows.of(param));
        updates.push(UpdateCx { param, grad, rows, rate, regularized, optimizer, param_name, hyper_dtype });
    }
    Some(updates)
}

/// Whether each group of the recipe contains a parameter of the graph; the error if not. A group that contains none would change
/// nothing, without a word.
#[track_caller]
fn groups_have_params(g: &GraphBuilder, recipe: &Recipe) -> bool {
    let params: Vec<(String, Shape)> = g.with_graph(|graph| {
        graph.params().filter_map(|(_, node)| Some((node.name()?.to_owned(), node.ty.shape().clone()))).collect()
    });
    let infos: Vec<_> = params.iter().map(|(name, shape)| ParamInfo { name, shape }).collect();
    let empty = recipe.empty_groups(&infos);
    for group in &empty {
        let names = infos.iter().map(|param| param.name);
        let text = format!("the group `{group}` of the recipe requires a parameter that it is for, got none");
        let known = names.clone().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let diag = Diag::new(Code::BadAttribute, text).suggest(group, names);
        g.error(
            diag.help(format!("a group has the parameters whose dotted names begin as it says; there are {known}")),
        );
    }
    empty.is_empty()
}

/// The rate in the store, times the schedule's factor at this step.
#[track_caller]
fn scheduled_rate<'g>(g: &'g GraphBuilder, rate: f64, dtype: DType, recipe: &Recipe) -> Tensor<'g> {
    let rate = hyper(g, "lr", rate, dtype);
    let Some(schedule) = &recipe.schedule else { return rate };
    rate.cast(DType::F64) * schedule.factor_of(g, step_number(g) - 1.0)
}

/// Declares the updates of parameters by their gradients.
#[track_caller]
fn apply<'g>(g: &'g GraphBuilder, pairs: Vec<Pair<'g>>, optimizer: &impl Optimizer, call: &str) {
    let origin = origin(g, optimizer);
    let outer = g.set_origin(Some(origin.clone()));
    if let Some(mut updates) = contexts(g, pairs, optimizer, call) {
        let plain = Recipe::new();
        let recipe = optimizer.recipe().unwrap_or(&plain);
        recipe.shape_gradients(g, &mut updates);
        for cx in &updates {
            g.set_origin(Some(origin.clone().in_scope(format!("{SCOPE}.{}", cx.param_name))));
            let formula = optimizer.step(cx);
            cx.update_param(recipe.finish(cx, formula));
        }
    }
    g.set_origin(outer);
}
