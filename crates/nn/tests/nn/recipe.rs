//! What stands around a formula, each part against plain Rust.

use cotangent_graph::DType::F64;
use cotangent_graph::interp::Env;
use cotangent_graph::ops;
use cotangent_graph::{Code, Graph, GraphBuilder, Init, Role, Tensor, TensorData};
use cotangent_nn::{Adam, Group, Layers, Minimize, Momentum, Optimizer, Recipe, Sgd, global_norm, pruning};
use ndarray::Array2;

use crate::optim::{CURVATURE, RATE, START, TARGET, check, check_steps, quadratic, slope, start, step};
use crate::{errors, graph};

fn sgd(recipe: Recipe) -> impl Optimizer {
    Sgd::new(RATE).with(recipe)
}

#[test]
fn penalties_are_gradients_of_weights_and_not_of_biases() {
    check(sgd(Recipe::new().l2(0.1)), |_, i, [w, ..]| {
        *w -= RATE * (slope(i, *w) + if i < 6 { 0.2 * *w } else { 0.0 });
        *w
    });
    // The slope of |w| at 0 is taken as 0, which element 4 starts at.
    let sign = |w: f64| if w == 0.0 { 0.0 } else { w.signum() };
    check(sgd(Recipe::new().l1(0.1)), |_, i, [w, ..]| {
        *w -= RATE * (slope(i, *w) + if i < 6 { 0.1 * sign(*w) } else { 0.0 });
        *w
    });
}

#[test]
fn decay_is_decoupled_from_momentum() {
    let twin = |kept: f64| {
        move |_: i32, i: usize, [w, m, ..]: &mut [f64; 4]| {
            *m = 0.9 * *m + slope(i, *w);
            *w = if i < 6 { kept * *w } else { *w } - RATE * *m;
            *w
        }
    };
    check(Momentum::new(RATE, 0.9).with(Recipe::new().decay(0.3)), twin(1.0 - RATE * 0.3));
    check(Momentum::new(RATE, 0.9).with(Recipe::new().plain_decay(0.3)), twin(0.7));
}

#[test]
fn gradients_are_clipped_by_value_and_by_norm() {
    check(sgd(Recipe::new().clip_value(0.4)), |_, i, [w, ..]| {
        *w -= RATE * slope(i, *w).clamp(-0.4, 0.4);
        *w
    });
    // One length for all parameters; below the limit nothing changes.
    for limit in [1.0, 100.0] {
        let graph = graph(|g| quadratic(g, sgd(Recipe::new().clip_norm(limit))));
        let (mut env, mut w) = (start(), START);
        env.initialize(&graph, 0).unwrap();
        for _ in 0..10 {
            step(&graph, &mut env);
            let norm = (0..8).map(|i| slope(i, w[i]).powi(2)).sum::<f64>().sqrt();
            let slopes: Vec<f64> = (0..8).map(|i| slope(i, w[i]) * limit.min(norm) / norm).collect();
            w.iter_mut().zip(slopes).for_each(|(w, g)| *w -= RATE * g);
            assert_close(&weights(&env), &w);
        }
    }
}

#[test]
fn a_gradient_of_zero_is_not_divided_by_its_length() {
    let graph = graph(|g| {
        let w = g.param("w", F64, [2], Init::ONES);
        let zero = w.constant_like(0.0).broadcast_to([2]);
        g.output("norm", global_norm(g, &[zero, w]));
        g.apply_gradients(&[(w, zero)], sgd(Recipe::new().clip_norm(1.0)));
    });
    let mut env = Env::default();
    env.initialize(&graph, 0).unwrap();
    let outputs = cotangent_graph::interp::interpret_named(&graph, &env).expect("runs");
    assert_eq!(crate::value(&outputs, "norm").to_f64(), [2f64.sqrt()]);
    assert_eq!(crate::value(&outputs, "update w").to_f64(), [1.0, 1.0]);
}

fn weights(env: &Env) -> Vec<f64> {
    [env.values["layer.weight"].to_f64(), env.values["layer.bias"].to_f64()].concat()
}

fn assert_close(got: &[f64], want: &[f64]) {
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 1e-7, "{got} {want}");
    }
}

#[test]
fn noise_has_its_deviation_and_changes_with_the_step() {
    let n = 20_000;
    let graph = graph(|g| {
        let w = g.param("w", F64, [n], Init::ZEROS);
        let zero = w.constant_like(0.0).broadcast_to([n]);
        g.apply_gradients(&[(w, zero)], Sgd::new(1.0).with(Recipe::new().gradient_noise(0.3)));
    });
    let mut env = Env::default();
    env.initialize(&graph, 0).unwrap();
    step(&graph, &mut env);
    let first = env.values["w"].to_f64();
    let variance = first.iter().map(|w| w * w).sum::<f64>() / n as f64;
    assert!((variance / 0.09 - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt(), "{variance}");
    env.counters.step += 1;
    env.values.insert("w".into(), TensorData::from(ndarray::Array1::<f64>::zeros(n)));
    step(&graph, &mut env);
    assert_ne!(env.values["w"].to_f64(), first);
}

#[test]
fn max_norm_shortens_the_weights_into_each_neuron() {
    let limit = 0.7;
    let graph = graph(|g| quadratic(g, sgd(Recipe::new().max_norm(limit))));
    let (mut env, mut w) = (start(), START);
    env.initialize(&graph, 0).unwrap();
    for _ in 0..10 {
        step(&graph, &mut env);
        (0..8).for_each(|i| w[i] -= RATE * slope(i, w[i]));
        for column in 0..2 {
            let length = (0..3).map(|row| w[2 * row + column].powi(2)).sum::<f64>().sqrt();
            (0..3).for_each(|row| w[2 * row + column] *= limit.min(length) / length);
        }
        assert_close(&weights(&env), &w);
    }
}

#[test]
fn groups_have_rates_of_their_own_and_can_be_frozen() {
    let recipe = || {
        Recipe::new()
            .l2(0.1)
            .group(Group::named("layer.weight").rate(0.5).regularized(false))
            .group(Group::new("biases", |p| p.is_vector()).regularized(true))
    };
    let graph = check(sgd(recipe()), |_, i, [w, ..]| {
        *w -= if i < 6 { 0.5 * RATE * slope(i, *w) } else { RATE * (slope(i, *w) + 0.2 * *w) };
        *w
    });
    assert!(graph.source("optimizer.layer.weight.rate").is_some());
    let frozen = check(sgd(recipe().group(Group::named("layer.weight").frozen())), |_, i, [w, ..]| {
        *w -= if i < 6 { 0.0 } else { RATE * (slope(i, *w) + 0.2 * *w) };
        *w
    });
    assert_eq!(updated(&frozen), ["layer.bias"]);
    assert!(frozen.nodes().iter().filter(|n| n.is(&ops::region::GRAD)).count() == 1);
    let diags = errors(|g| quadratic(g, sgd(Recipe::new().group(Group::named("layer").frozen()))));
    assert_eq!(diags.0.len(), 1, "{diags}");
    assert_eq!(diags.0[0].code, Code::NotDifferentiable);
    assert!(diags.0[0].help.as_deref().is_some_and(|help| help.contains("freeze")), "{diags}");
}

/// The parameters that a graph updates.
fn updated(graph: &Graph) -> Vec<&str> {
    let of_param = |role: Role| matches!(role, Role::Update(id) if graph.node(id).is(&ops::source::PARAM));
    graph.outputs().iter().filter(|o| of_param(o.role)).map(|o| &*o.name).collect()
}

#[test]
fn accumulated_gradients_are_those_of_one_large_batch() {
    let n = 3;
    let x = Array2::from_shape_fn((2 * n, 2), |(i, j)| ((7 * i + 3 * j) as f64 * 0.7).sin());
    fn loss(g: &GraphBuilder, rows: usize) -> Tensor<'_> {
        g.input("x", F64, [rows, 2]).dense("a", 3).tanh().dense("b", 1).square().mean()
    }
    let optimizer = |recipe: Recipe| Adam::new(0.1).with(recipe.clip_norm(0.5));
    let whole = graph(|g| {
        g.minimize(loss(g, 2 * n), optimizer(Recipe::new()));
    });
    let part = graph(|g| {
        g.accumulate(loss(g, 2), optimizer(Recipe::new().accumulate(3)));
    });
    let last = graph(|g| {
        g.minimize(loss(g, 2), optimizer(Recipe::new().accumulate(3)));
    });
    assert!(updated(&part).is_empty() && part.source("adam.m.a.weight").is_none());
    let (mut one, mut many) = (Env::default().with("x", x.clone()), Env::default());
    one.initialize(&whole, 3).unwrap();
    many.initialize(&last, 3).unwrap();
    for _ in 0..4 {
        step(&whole, &mut one);
        for k in 0..n {
            many.values.insert("x".into(), TensorData::from(x.slice(ndarray::s![2 * k..2 * k + 2, ..]).to_owned()));
            step(if k + 1 == n { &last } else { &part }, &mut many);
        }
        for name in ["a.weight", "a.bias", "b.weight", "b.bias"] {
            assert_close(&many.values[name].to_f64(), &one.values[name].to_f64());
        }
    }
    assert_eq!(many.values["optimizer.t"], TensorData::from(4i64));
    assert!(many.values["optimizer.accumulated.a.weight"].to_f64().iter().all(|&v| v == 0.0));
}

#[test]
fn pruned_weights_stay_zero_while_the_others_train() {
    let train = graph(|g| quadratic(g, Adam::new(RATE).with(Recipe::new().masked())));
    let prune = pruning(&train).unwrap_or_else(|diags| panic!("{diags}"));
    let mut env = start();
    env.initialize(&train, 0).unwrap();
    // After a few steps no two weights are of the same size.
    (0..3).for_each(|_| step(&train, &mut env));
    let before = env.values["layer.weight"].to_f64();
    let mut sizes: Vec<f64> = before.iter().map(|w| w.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let zeros = |env: &Env| env.values["layer.weight"].to_f64().iter().filter(|&&w| w == 0.0).count();
    let run = |share: f32, env: &mut Env| {
        env.values.insert("share".into(), TensorData::from(share));
        let outputs = cotangent_graph::interp::interpret_named(&prune, env).expect("runs");
        let kept = crate::value(&outputs, "kept.layer.weight").to_f64()[0];
        step(&prune, env);
        kept
    };
    assert_eq!(run(0.0, &mut env), 6.0);
    assert_eq!(env.values["layer.weight"].to_f64(), before);
    assert_eq!(run(0.5, &mut env), 3.0);
    // The three smallest are gone, the others are what they were.
    let pruned = env.values["layer.weight"].to_f64();
    for (before, after) in before.iter().zip(&pruned) {
        assert_eq!(*after, if before.abs() > sizes[2] { *before } else { 0.0 });
    }
    for _ in 0..5 {
        step(&train, &mut env);
        assert_eq!(zeros(&env), 3);
    }
    assert_ne!(env.values["layer.weight"].to_f64(), pruned);
    // What is pruned stays so, even if less is asked for.
    assert_eq!(run(0.1, &mut env), 3.0);
    assert_eq!(run(1.0, &mut env), 0.0);
    assert_eq!(zeros(&env), 6);
    assert!(pruning(&graph(|g| quadratic(g, Sgd::new(0.1)))).is_err());
}

#[test]
fn numbers_of_a_recipe_are_in_the_store() {
    let recipe = Recipe::new().l2(0.1).clip_norm(1e9).max_norm(1e9).decay(0.0).l1(0.0);
    let graph = graph(|g| quadratic(g, sgd(recipe)));
    let mut env = start();
    env.initialize(&graph, 0).unwrap();
    for name in ["l1", "l2", "decay", "clip_norm", "max_norm", "lr"] {
        assert!(env.values.contains_key(&format!("optimizer.{name}")), "{name}");
    }
    env.values.insert("optimizer.l2".into(), TensorData::from(0.0));
    step(&graph, &mut env);
    for (i, got) in weights(&env).into_iter().enumerate() {
        let want = START[i] - RATE * CURVATURE[i] * (START[i] - TARGET[i]);
        assert!((got - want).abs() < 1e-8, "{got} {want}");
    }
}

#[test]
fn settings_out_of_range_are_errors() {
    for (recipe, text) in [
        (Recipe::new().l2(-1.0), "`l2` to be finite and not negative, got -1"),
        (Recipe::new().clip_norm(f64::NAN), "`clip_norm`"),
        (Recipe::new().average(1.5), "decay in [0, 1], got 1.5"),
        (Recipe::new().accumulate(0), "at least 1 gradient"),
        (Recipe::new().group(Group::named("a").rate(-2.0)), "group's rate"),
        (Recipe::new().group(Group::named("layr").rate(2.0)), "the group `layr` of the recipe requires a parameter"),
        (Recipe::new().group(Group::new("none", |_| false).frozen()), "the group `none` of the recipe"),
    ] {
        let diags = errors(|g| quadratic(g, sgd(recipe)));
        assert!(diags.0.len() == 1 && diags.0[0].message.contains(text), "{diags}");
    }
}

#[test]
fn gradients_that_are_not_finite_are_refused_if_asked_for() {
    for (accumulates, optimizer) in [
        (false, Sgd::new(RATE).with(Recipe::new().check_gradients())),
        (true, Sgd::new(RATE).with(Recipe::new().accumulate(2).check_gradients())),
    ] {
        for value in [0.0, 1.0] {
            let graph = graph(|g| {
                let w = g.param("w", F64, [2], Init::constant(value));
                // The value is finite, its slope at 0 is not.
                let loss = w.sqrt().sum();
                if accumulates { g.accumulate(loss, &optimizer) } else { g.minimize(loss, &optimizer) }
            });
            let mut env = Env::default();
            env.initialize(&graph, 0).unwrap();
            let result = cotangent_graph::interp::interpret_named(&graph, &env);
            assert_eq!(result.is_err(), value == 0.0, "{result:?}");
            assert!(result.err().is_none_or(|error| error.code == Code::NotFinite));
        }
    }
}

#[test]
fn everything_at_once_is_still_a_program() {
    let recipe = Recipe::new()
        .schedule(cotangent_nn::Schedule::warm_restarts(3, 2).warm_up(2))
        .l1(1e-3)
        .l2(1e-3)
        .decay(1e-2)
        .clip_value(1.0)
        .clip_norm(2.0)
        .gradient_noise(1e-3)
        .max_norm(3.0)
        .masked()
        .average(0.9)
        .group(Group::named("layer").rate(0.5));
    // Twins of all parts stand above; here they meet.
    let graph = check_steps(sgd(Recipe::new()), |_, i, [w, ..]| {
        *w -= RATE * slope(i, *w);
        *w
    });
    assert!(graph.source("average.layer.weight").is_none());
    let graph = crate::graph(|g| quadratic(g, Adam::new(RATE).with(recipe)));
    let mut env = start();
    env.initialize(&graph, 0).unwrap();
    let loss = |env: &Env| {
        crate::value(&cotangent_graph::interp::interpret_named(&graph, env).expect("runs"), "loss").to_f64()[0]
    };
    let before = loss(&env);
    for t in 0..20 {
        env.counters.step = t;
        step(&graph, &mut env);
    }
    assert!(loss(&env) < before);
}
