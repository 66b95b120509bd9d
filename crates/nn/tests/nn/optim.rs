//! Optimisers: ten steps against the textbook in plain Rust, names, sharing, and the cost of an element.

use std::collections::{BTreeMap, HashSet};

use cotangent_graph::DType::{F32, F64, I64};
use cotangent_graph::interp::{Env, interpret_named};
use cotangent_graph::ops;
use cotangent_graph::{DType, Graph, GraphBuilder, Init, NodeId, OpTraits, Role, TensorData};
use cotangent_nn::{
    AdaDelta, AdaGrad, Adam, AdamW, Lamb, Layers, Lion, Minimize, Momentum, NAdam, Nesterov, Optimizer, RmsProp, Sgd,
};
use ndarray::{Array2, array};

use crate::{errors, graph, value};

pub(crate) const CURVATURE: [f64; 8] = [1.0, 2.0, 0.5, 3.0, 0.1, 1.5, 0.7, 2.5];
pub(crate) const TARGET: [f64; 8] = [0.3, -1.0, 2.0, 0.0, 4.0, -0.5, 1.0, -2.0];
pub(crate) const START: [f64; 8] = [1.0, 1.0, 0.5, -1.0, 0.0, 2.0, -0.3, 0.25];
pub(crate) const RATE: f64 = 0.05;

/// `½ Σ a (w − b)²` of a matrix `[3, 2]` and a vector `[2]`; central differences are exact for it up to rounding.
pub(crate) fn quadratic(g: &GraphBuilder, optimizer: impl Optimizer) {
    let loss = |name: &str, shape: &[usize], at: std::ops::Range<usize>| {
        let w = g.param(name, F64, shape, Init::ZEROS);
        let constant = |values: &[f64]| {
            let bits: Vec<u64> = values.iter().map(|v| v.to_bits()).collect();
            g.constant(TensorData::from_bits(F64, &shape.into(), &bits))
        };
        ((w - constant(&TARGET[at.clone()])).square() * constant(&CURVATURE[at])).sum() * 0.5
    };
    let loss = loss("layer.weight", &[3, 2], 0..6) + loss("layer.bias", &[2], 6..8);
    g.output("loss", loss);
    g.minimize(loss, optimizer);
}

/// The gradient of the quadratic at element `i`.
pub(crate) fn slope(i: usize, w: f64) -> f64 {
    CURVATURE[i] * (w - TARGET[i])
}

pub(crate) fn start() -> Env {
    let weight = Array2::from_shape_vec((3, 2), START[..6].to_vec()).expect("shape");
    Env::default().with("layer.weight", weight).with("layer.bias", array![START[6], START[7]])
}

/// Runs one step and stores the updates.
pub(crate) fn step(graph: &Graph, env: &mut Env) {
    for (name, value) in interpret_named(graph, env).expect("runs") {
        if let Some(target) = name.strip_prefix("update ") {
            env.values.insert(target.to_owned(), value);
        }
    }
}

/// Compares ten steps with `next(t, i, w, states)`, the textbook's rule for one element, which keeps up to four values
/// and answers with the value that the graph's parameter must have. Returns the graph.
pub(crate) fn check(optimizer: impl Optimizer, next: impl Fn(i32, usize, &mut [f64; 4]) -> f64) -> Graph {
    let graph = check_steps(optimizer, next);
    assert_cheap(&graph);
    graph
}

/// [`check`] for formulas that are not pointwise.
pub(crate) fn check_steps(optimizer: impl Optimizer, next: impl Fn(i32, usize, &mut [f64; 4]) -> f64) -> Graph {
    let graph = graph(|g| quadratic(g, optimizer));
    let mut env = start();
    env.initialize(&graph, 0).unwrap();
    let mut twins: Vec<[f64; 4]> = START.iter().map(|&w| [w, 0.0, 0.0, 0.0]).collect();
    for t in 1..=10 {
        step(&graph, &mut env);
        let got = [env.values["layer.weight"].to_f64(), env.values["layer.bias"].to_f64()].concat();
        for (i, twin) in twins.iter_mut().enumerate() {
            let want = next(t, i, twin);
            assert!((got[i] - want).abs() <= 1e-8 * want.abs().max(1.0), "step {t}, element {i}: {} {want}", got[i]);
        }
    }
    graph
}

/// Asserts that from parameter, gradient and states to the updates there are only pointwise ops and repeated scalars.
fn assert_cheap(graph: &Graph) {
    let mut stack: Vec<NodeId> =
        graph.outputs().iter().filter(|o| matches!(o.role, Role::Update(_))).map(|o| o.value).collect();
    let mut seen = HashSet::new();
    while let Some(id) = stack.pop() {
        let node = graph.node(id);
        if !seen.insert(id)
            || node.ty.shape().rank() == 0
            || node.op.is_any(&[&ops::region::GRAD, &ops::source::PARAM, &ops::source::STATE, &ops::source::INPUT])
        {
            continue;
        }
        let scalar_repeated = node.is(&ops::view::BROADCAST) && graph.ty(node.inputs[0]).shape().rank() == 0;
        assert!(node.op.traits.has(OpTraits::POINTWISE) || scalar_repeated, "`{}` in an update", node.op.name);
        stack.extend(&node.inputs);
    }
}

/// The names of all states, and of all updates, in order.
pub(crate) fn names(graph: &Graph) -> (Vec<String>, Vec<String>) {
    let states = graph.states().filter_map(|(_, state)| state.name().map(str::to_owned));
    let updates = graph.outputs().iter().filter(|o| matches!(o.role, Role::Update(_))).map(|o| o.name.to_string());
    let (mut states, mut updates): (Vec<_>, Vec<_>) = (states.collect(), updates.collect());
    states.sort();
    updates.sort();
    (states, updates)
}

#[test]
fn sgd_is_the_textbooks() {
    let graph = check(Sgd::new(RATE), |_, i, [w, ..]| {
        *w -= RATE * slope(i, *w);
        *w
    });
    let (states, updates) = names(&graph);
    assert_eq!(states, ["optimizer.lr"]);
    assert_eq!(updates, ["layer.bias", "layer.weight"]);
}

#[test]
fn momentum_is_the_textbooks() {
    let graph = check(Momentum::new(RATE, 0.9), |_, i, [w, m, ..]| {
        *m = 0.9 * *m + slope(i, *w);
        *w -= RATE * *m;
        *w
    });
    let (states, _) = names(&graph);
    assert_eq!(states, ["momentum.m.layer.bias", "momentum.m.layer.weight", "optimizer.lr"]);
}

#[test]
fn nesterov_holds_the_look_ahead_point_of_the_textbooks() {
    // The twin keeps the textbook's parameter and takes the gradient where it looks ahead.
    check(Nesterov::new(RATE, 0.9), |_, i, [w, m, ..]| {
        *m = 0.9 * *m + slope(i, *w - RATE * 0.9 * *m);
        *w -= RATE * *m;
        *w - RATE * 0.9 * *m
    });
    check(Nesterov::new(RATE, 0.9).full_look_ahead(), |_, i, [w, m, ..]| {
        *m = 0.9 * *m + slope(i, *w - RATE * *m);
        *w -= RATE * *m;
        *w - RATE * *m
    });
}

#[test]
fn adagrad_is_the_textbooks() {
    check(AdaGrad::new(RATE).eps(1e-4), |_, i, [w, v, ..]| {
        let g = slope(i, *w);
        *v += g * g;
        *w -= RATE * g / (*v + 1e-4).sqrt();
        *w
    });
    check(AdaGrad::new(RATE).eps(1e-4).eps_outside_root(), |_, i, [w, v, ..]| {
        let g = slope(i, *w);
        *v += g * g;
        *w -= RATE * g / (v.sqrt() + 1e-4);
        *w
    });
}

#[test]
fn rmsprop_is_the_textbooks() {
    check(RmsProp::new(RATE).beta(0.8).eps(1e-4), |_, i, [w, v, ..]| {
        let g = slope(i, *w);
        *v = 0.8 * *v + 0.2 * g * g;
        *w -= RATE * g / (*v + 1e-4).sqrt();
        *w
    });
    check(RmsProp::new(RATE).beta(0.8).eps(1e-4).eps_outside_root(), |_, i, [w, v, ..]| {
        let g = slope(i, *w);
        *v = 0.8 * *v + 0.2 * g * g;
        *w -= RATE * g / (v.sqrt() + 1e-4);
        *w
    });
}

/// The textbook's Adam, with an ε large enough to be seen.
fn adam(t: i32, i: usize, [w, m, v, ..]: &mut [f64; 4], (beta1, beta2, eps): (f64, f64, f64), kept: f64) -> f64 {
    let g = slope(i, *w);
    *m = beta1 * *m + (1.0 - beta1) * g;
    *v = beta2 * *v + (1.0 - beta2) * g * g;
    let (m_hat, v_hat) = (*m / (1.0 - beta1.powi(t)), *v / (1.0 - beta2.powi(t)));
    *w = kept * *w - RATE * m_hat / (v_hat.sqrt() + eps);
    *w
}

#[test]
fn adam_is_the_textbooks() {
    let graph = check(Adam::new(RATE), |t, i, s| adam(t, i, s, (0.9, 0.999, 1e-8), 1.0));
    let (states, updates) = names(&graph);
    let slots = ["adam.m.layer.bias", "adam.m.layer.weight", "adam.v.layer.bias", "adam.v.layer.weight"];
    assert_eq!(states, slots.iter().copied().chain(["optimizer.lr", "optimizer.t"]).collect::<Vec<_>>());
    assert_eq!(updates, slots.iter().copied().chain(["layer.bias", "layer.weight", "optimizer.t"]).collect::<Vec<_>>());
    // The corrections are computed once, as scalars, for both parameters.
    let powers: Vec<NodeId> = graph.ids().filter(|&id| graph.node(id).is(&ops::math::POW)).collect();
    assert_eq!(powers.len(), 2);
    assert!(powers.iter().all(|&id| graph.ty(id).to_string() == "f64[]"));
    check(Adam::new(RATE).beta1(0.5).beta2(0.8).eps(0.1), |t, i, s| adam(t, i, s, (0.5, 0.8, 0.1), 1.0));
}

#[test]
fn adamw_decays_matrices_and_not_vectors() {
    check(AdamW::new(RATE, 0.3).beta1(0.8).beta2(0.9).eps(1e-3), |t, i, s| {
        adam(t, i, s, (0.8, 0.9, 1e-3), if i < 6 { 1.0 - RATE * 0.3 } else { 1.0 })
    });
}

#[test]
fn adam_has_other_textbooks_forms() {
    check(Adam::new(RATE).uncorrected().eps_inside_root().eps(1e-4), |_, i, [w, m, v, ..]| {
        let g = slope(i, *w);
        *m = 0.9 * *m + 0.1 * g;
        *v = 0.999 * *v + 0.001 * g * g;
        *w -= RATE * *m / (*v + 1e-4).sqrt();
        *w
    });
    check(Adam::new(RATE).eps_inside_root().eps(1e-2), |t, i, [w, m, v, ..]| {
        let g = slope(i, *w);
        *m = 0.9 * *m + 0.1 * g;
        *v = 0.999 * *v + 0.001 * g * g;
        let (m_hat, v_hat) = (*m / (1.0 - 0.9f64.powi(t)), *v / (1.0 - 0.999f64.powi(t)));
        *w -= RATE * m_hat / (v_hat + 1e-2).sqrt();
        *w
    });
}

#[test]
fn amsgrad_divides_by_the_largest_v_so_far() {
    let largest = |t: i32, i: usize, [w, m, v, most]: &mut [f64; 4], kept: f64| {
        let g = slope(i, *w);
        *m = 0.5 * *m + 0.5 * g;
        *v = 0.6 * *v + 0.4 * g * g;
        *most = most.max(*v);
        let (m_hat, v_hat) = (*m / (1.0 - 0.5f64.powi(t)), *most / (1.0 - 0.6f64.powi(t)));
        *w = kept * *w - RATE * m_hat / (v_hat.sqrt() + 1e-3);
        *w
    };
    let adam = Adam::new(RATE).beta1(0.5).beta2(0.6).eps(1e-3).amsgrad();
    check(adam, |t, i, s| largest(t, i, s, 1.0));
    let adamw = AdamW::new(RATE, 0.3).beta1(0.5).beta2(0.6).eps(1e-3).amsgrad();
    check(adamw, |t, i, s| largest(t, i, s, if i < 6 { 1.0 - RATE * 0.3 } else { 1.0 }));
}

#[test]
fn nadam_is_dozats_in_pytorchs_form() {
    let mu = |t: i32| 0.9 * (1.0 - 0.5 * 0.96f64.powf(0.004 * f64::from(t)));
    check(NAdam::new(RATE).eps(1e-3), |t, i, [w, m, v, _]| {
        let g = slope(i, *w);
        *m = 0.9 * *m + 0.1 * g;
        *v = 0.999 * *v + 0.001 * g * g;
        let product: f64 = (1..=t).map(mu).product();
        let of_gradient = (1.0 - mu(t)) / (1.0 - product);
        let of_mean = mu(t + 1) / (1.0 - product * mu(t + 1));
        let v_hat = *v / (1.0 - 0.999f64.powi(t));
        *w -= RATE * (of_gradient * g + of_mean * *m) / (v_hat.sqrt() + 1e-3);
        *w
    });
}

#[test]
fn adadelta_is_the_papers_and_the_lectures() {
    for sums in [false, true] {
        let optimizer = AdaDelta::new(1.0).beta(0.8).gamma(0.7).eps(1e-3);
        check(if sums { optimizer.with_sums() } else { optimizer }, |_, i, [w, v, h, ..]| {
            let g = slope(i, *w);
            *v = if sums { *v + g * g } else { 0.8 * *v + 0.2 * g * g };
            let change = -(*h + 1e-3).sqrt() / (*v + 1e-3).sqrt() * g;
            *w += change;
            *h = 0.7 * *h + 0.3 * change * change;
            *w
        });
    }
}

#[test]
fn lion_is_the_papers() {
    check(Lion::new(RATE, 0.3), |_, i, [w, m, ..]| {
        let g = slope(i, *w);
        let direction = (0.9 * *m + 0.1 * g).signum();
        *w = if i < 6 { (1.0 - RATE * 0.3) * *w } else { *w } - RATE * direction;
        *m = 0.99 * *m + 0.01 * g;
        *w
    });
}

#[test]
fn lamb_is_the_papers() {
    // The factor is a parameter's, not an element's, so the twin moves all elements at once.
    let graph = graph(|g| quadratic(g, Lamb::new(RATE, 0.1)));
    let mut env = start();
    env.initialize(&graph, 0).unwrap();
    let (mut w, mut m, mut v) = (START, [0.0; 8], [0.0f64; 8]);
    for t in 1..=10 {
        step(&graph, &mut env);
        for part in [0..6, 6..8] {
            let decay = if part.start == 0 { 0.1 } else { 0.0 };
            let r: Vec<f64> = part
                .clone()
                .map(|i| {
                    let g = slope(i, w[i]);
                    m[i] = 0.9 * m[i] + 0.1 * g;
                    v[i] = 0.999 * v[i] + 0.001 * g * g;
                    let (m_hat, v_hat) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                    m_hat / (v_hat.sqrt() + 1e-6) + decay * w[i]
                })
                .collect();
            let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let trust = length(&w[part.clone()]) / length(&r);
            part.clone().zip(&r).for_each(|(i, r)| w[i] -= RATE * trust * r);
        }
        let got = [env.values["layer.weight"].to_f64(), env.values["layer.bias"].to_f64()].concat();
        for (got, want) in got.iter().zip(w) {
            assert!((got - want).abs() < 1e-7, "step {t}: {got} {want}");
        }
    }
}

#[test]
fn the_learning_rate_is_a_state_that_nothing_updates() {
    let graph = graph(|g| quadratic(g, Adam::new(RATE)));
    let mut env = start();
    env.initialize(&graph, 0).unwrap();
    assert_eq!(env.values["optimizer.lr"], TensorData::from(RATE));
    // With a rate of zero the parameters stay and the states move.
    env.values.insert("optimizer.lr".into(), TensorData::from(0.0));
    step(&graph, &mut env);
    assert_eq!(env.values["layer.bias"].to_f64(), START[6..]);
    assert_eq!(env.values["optimizer.t"], TensorData::from(1i64));
    assert_eq!(env.values["optimizer.lr"], TensorData::from(0.0));
}

/// A graph that updates an f32 parameter by a gradient given as an input, which needs no differences in f32.
fn given_gradient(optimizer: impl Optimizer) -> Graph {
    graph(|g| {
        let w = g.param("w", F32, [4], Init::ONES);
        g.apply_gradients(&[(w, g.input("gradient", F32, [4]))], optimizer);
    })
}

#[test]
fn in_f32_adam_differs_from_the_textbook_by_rounding_over_a_thousand_steps() {
    let graph = given_gradient(Adam::new(1e-3));
    let ty = |name: &str| graph.ty(graph.source(name).expect(name)).to_string();
    assert_eq!((ty("optimizer.lr"), ty("adam.m.w")), ("f32[]".into(), "f32[4]".into()));
    assert_cheap(&graph);
    let mut env = Env::default();
    env.initialize(&graph, 0).unwrap();
    let mut twins = [[1.0f64, 0.0, 0.0]; 4];
    for t in 1..=1000 {
        // Gradients of magnitudes from 1e-6 to 1e3 that change sign.
        let gradient: Vec<f32> =
            (0..4).map(|i| (t as f32 * 0.7 + i as f32).sin() * 1e-6f32 * 1000f32.powi(i)).collect();
        env.values.insert("gradient".into(), ndarray::Array::from(gradient.clone()).into());
        step(&graph, &mut env);
        let got = env.values["w"].to_f64();
        for (i, [w, m, v]) in twins.iter_mut().enumerate() {
            let g = f64::from(gradient[i]);
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * g * g;
            let (m_hat, v_hat) = (*m / (1.0 - 0.9f64.powi(t)), *v / (1.0 - 0.999f64.powi(t)));
            *w -= 1e-3 * m_hat / (v_hat.sqrt() + 1e-8);
            assert!((got[i] - *w).abs() < 1e-5, "step {t}, element {i}: {} {w}", got[i]);
        }
    }
}

#[test]
fn mixed_types_share_one_rate_of_the_wider_type() {
    let graph = graph(|g| {
        let (a, b) = (g.param("a", F32, [2], Init::ONES), g.param("b", F64, [2], Init::ONES));
        g.minimize(a.cast(F64).sum() + b.sum(), Sgd::new(RATE));
    });
    assert_eq!(graph.ty(graph.source("optimizer.lr").expect("rate")).dtype(), DType::F64);
    let mut env = Env::default();
    env.initialize(&graph, 0).unwrap();
    let outputs = interpret_named(&graph, &env).expect("runs");
    assert_eq!(value(&outputs, "update a").dtype(), F32);
    assert!((value(&outputs, "update b").to_f64()[0] - (1.0 - RATE)).abs() < 1e-9);
}

#[test]
fn two_optimisers_in_scopes_of_their_own_keep_apart() {
    let graph = graph(|g| {
        let x = g.input("x", F32, [4, 3]);
        let (generator, critic) = (x.dense("generator", 1).mean(), x.dense("critic", 1).mean());
        g.scope("g", || g.minimize(generator, Adam::new(1e-3)));
        g.scope("c", || g.minimize(critic, Adam::new(1e-4)));
    });
    for name in
        ["g.optimizer.lr", "c.optimizer.lr", "g.optimizer.t", "c.adam.m.critic.weight", "g.adam.v.generator.bias"]
    {
        assert!(graph.source(name).is_some(), "no `{name}`");
    }
}

#[test]
fn one_scope_shares_rate_and_step_number() {
    let graph = graph(|g| {
        let (a, b) = (g.param("a", F64, [2], Init::ONES), g.param("b", F64, [2], Init::ONES));
        g.minimize(a.square().sum(), Adam::new(RATE));
        g.minimize(b.square().sum(), Adam::new(RATE));
    });
    let mut env = Env::default();
    env.initialize(&graph, 0).unwrap();
    for _ in 0..3 {
        step(&graph, &mut env);
    }
    assert_eq!(env.values["optimizer.t"], TensorData::from(3i64));
    assert_eq!(env.values["a"].to_f64(), env.values["b"].to_f64());
}

#[test]
fn only_parameters_that_a_gradient_reaches_are_trained() {
    let graph = graph(|g| {
        let x = g.input("x", F32, [4, 3]);
        let ids = g.input("ids", I64, [4]);
        g.param("unused", F32, [2], Init::ONES);
        let frozen = x.dense("frozen", 3).stop_gradient();
        let condition = x.dense("condition", 3).gt(frozen);
        let chosen = condition.select(frozen.dense("head", 3), ids.embedding("words", 9, 3));
        let loss = chosen.cross_entropy(ids).mean();
        let names: Vec<String> = g.params_of(loss).iter().map(|p| name(g, p.id())).collect();
        assert_eq!(names, ["head.weight", "head.bias", "words.weight"]);
        g.minimize(loss, AdamW::new(1e-3, 0.1));
    });
    let trained: BTreeMap<&str, ()> = graph
        .outputs()
        .iter()
        .filter(|o| matches!(o.role, Role::Update(id) if graph.node(id).is(&ops::source::PARAM)))
        .map(|o| (&*o.name, ()))
        .collect();
    assert_eq!(trained.into_keys().collect::<Vec<_>>(), ["head.bias", "head.weight", "words.weight"]);
}

fn name(g: &GraphBuilder, id: NodeId) -> String {
    g.with_graph(|graph| graph.node(id).attrs.str("name").to_owned())
}

#[test]
fn chosen_parameters_are_trained_and_others_stay() {
    let graph = graph(|g| {
        let loss = g.input("x", F64, [2, 3]).dense("a", 2).dense("b", 1).square().mean();
        g.minimize_params(loss, &[g.shared("b.weight"), g.shared("a.bias")], Sgd::new(RATE));
    });
    assert_eq!(names(&graph).1, ["a.bias", "b.weight"]);
}

#[test]
fn clipped_gradients_can_be_applied() {
    let graph = graph(|g| {
        let w = g.param("w", F64, [2], Init::constant(3.0));
        let loss = w.square().sum();
        let gradients: Vec<_> =
            g.params_of(loss).into_iter().map(|p| (p, g.grad(loss, &[p])[0].clamp(-1.0, 1.0))).collect();
        g.apply_gradients(&gradients, Sgd::new(0.5));
    });
    let mut env = Env::default();
    env.initialize(&graph, 0).unwrap();
    step(&graph, &mut env);
    assert_eq!(env.values["w"].to_f64(), [2.5, 2.5]);
}

/// An optimiser of a user: the sign of the gradient decides.
struct SignDescent;

impl Optimizer for SignDescent {
    fn name(&self) -> &'static str {
        "sign"
    }

    fn learning_rate(&self) -> f64 {
        RATE
    }

    fn step<'g>(&self, cx: &cotangent_nn::UpdateCx<'g>) -> cotangent_graph::Tensor<'g> {
        cx.param - cx.rate() * cx.grad.sign()
    }
}

#[test]
fn users_can_write_optimisers_and_choose_them_at_run_time() {
    check(&SignDescent, |_, i, [w, ..]| {
        *w -= RATE * slope(i, *w).signum();
        *w
    });
    let boxed: Vec<Box<dyn Optimizer>> = vec![Box::new(Sgd::new(RATE)), Box::new(Adam::new(RATE))];
    for optimizer in boxed {
        graph(|g| quadratic(g, &optimizer));
        let twice = errors(|g| {
            quadratic(g, &optimizer);
            g.minimize(g.shared("layer.bias").sum(), &optimizer);
        });
        assert_eq!(twice.0.len(), 1, "{twice}");
    }
}

#[test]
fn a_small_network_learns_exclusive_or() {
    let graph = graph(|g| {
        let (x, y) = (g.input("x", F64, [4, 2]), g.input("y", F64, [4, 1]));
        let loss = x.dense("hidden", 4).tanh().dense("out", 1).bce_with_logits(y).mean();
        g.output("loss", loss);
        g.minimize(loss, Adam::new(0.1));
    });
    let mut env = Env::default()
        .with("x", array![[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        .with("y", array![[0.0], [1.0], [1.0], [0.0]]);
    env.initialize(&graph, 1).unwrap();
    for _ in 0..200 {
        step(&graph, &mut env);
    }
    let loss = value(&interpret_named(&graph, &env).expect("runs"), "loss").to_f64()[0];
    assert!(loss < 0.05, "{loss}");
}
