//! Programs against the oracle: a train step, compiled, gives what the interpreter gives.

use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::{DType, Env, Graph, GraphBuilder, Init, TensorData, build};
use cotangent_nn::{
    AdaDelta, AdaGrad, Adam, AdamW, Group, Layers, Lion, Minimize, Momentum, NAdam, Nesterov, Optimizer, Recipe,
    RmsProp, Schedule, Sgd,
};
use ndarray::{Array, Array1, Array2};

fn mlp(g: &GraphBuilder, batch: usize) {
    let x = g.input("x", DType::F32, [batch, 20]);
    let y = g.input("y", DType::I64, [batch]);
    let logits = x.dense("hidden", 33).relu().dense("out", 10);
    let loss = logits.cross_entropy(y).mean();
    g.output("loss", loss);
    g.output("logits", logits);
    g.minimize(loss, Adam::new(1e-2));
}

fn data(batch: usize) -> (Array2<f32>, Array1<i64>) {
    let x = Array::from_shape_fn((batch, 20), |(i, j)| ((i * 31 + j * 17) % 23) as f32 / 11.0 - 1.0);
    let y = Array::from_shape_fn(batch, |i| (i * 7 % 10) as i64);
    (x, y)
}

fn check(graph: &Graph, batch: usize, fuse: bool, threads: usize) -> Vec<TensorData> {
    let program = Compiler::new().fuse(fuse).compile(graph).unwrap_or_else(|e| panic!("{e}"));
    let runtime = Runtime::new(Threads::Exactly(threads));
    let mut session = Session::new(&runtime, program.clone(), Seed(7)).unwrap();
    let (x, y) = data(batch);
    for step in 0..3 {
        let mut env = Env::default();
        for (name, _) in session.store().iter() {
            env.values.insert(name.to_owned(), session.store().get(name).unwrap());
        }
        env.values.insert("x".into(), x.clone().into());
        env.values.insert("y".into(), y.clone().into());
        env.counters = cotangent_graph::Counters { seed: 7, step };
        let expected = interpret_named(program.optimized(), &env).unwrap();
        let out = session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
        let got: Vec<(String, TensorData)> = expected
            .iter()
            .filter(|e| !e.0.starts_with("update "))
            .map(|e| (e.0.clone(), out.tensor(&e.0).unwrap()))
            .collect();
        for (name, value) in expected {
            let got = match name.strip_prefix("update ") {
                Some(target) => session.store().get(target).unwrap(),
                None => got.iter().find(|g| g.0 == name).unwrap().1.clone(),
            };
            assert!(value.same_bits(&got), "step {step}, {name}: {value} and {got}");
        }
    }
    session.store().iter().map(|(name, _)| session.store().get(name).unwrap()).collect()
}

#[test]
fn sums_that_rows_carry_do_not_depend_on_threads() {
    let graph = build(|g| {
        let (x, y) = (g.input("x", DType::F32, [200, 20]), g.input("y", DType::I64, [200]));
        let (gain, bias) =
            (g.param("gain", DType::F32, [20], Init::ONES), g.param("bias", DType::F32, [20], Init::ZEROS));
        let loss = x.layer_norm(gain, bias, 1e-5).cross_entropy(y).mean();
        g.output("loss", loss);
        g.minimize(loss, Adam::new(1e-2));
    });
    let graph = graph.unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    assert!(program.plan().kernels.iter().any(|kernel| kernel.block() == 64), "{}", program.plan());
    let reference = check(&graph, 200, true, 1);
    for (fuse, threads) in [(false, 2), (true, 2), (true, 3), (true, 8)] {
        assert!(reference.iter().zip(check(&graph, 200, fuse, threads)).all(|(a, b)| a.same_bits(&b)));
    }
}

#[test]
fn a_train_step_equals_the_interpreter_fused_or_not_for_any_thread_count() {
    let graph = build(|g| mlp(g, 32)).unwrap();
    let reference = check(&graph, 32, true, 1);
    for (fuse, threads) in [(false, 1), (true, 2), (true, 3), (false, 4)] {
        for (a, b) in reference.iter().zip(check(&graph, 32, fuse, threads)) {
            assert!(a.same_bits(&b));
        }
    }
}

#[test]
fn a_checked_session_agrees_and_the_search_finds_where_a_nan_starts() {
    let mut line = 0;
    let graph = build(|g| {
        let x = g.input("x", DType::F32, [8]);
        let w = g.param("w", DType::F32, [8], cotangent_graph::Init::ONES);
        let shifted = x * w - 1.0;
        line = line!() + 1;
        let root = shifted.sqrt();
        let loss = (root * 2.0 + 1.0).sum();
        g.output("loss", loss.check_finite());
        g.minimize(loss, cotangent_nn::Sgd::new(0.1));
    })
    .unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    session.set_checked(true);
    let good = Array1::from_elem(8, 2.0f32);
    session.step([("x", (&good).into())]).unwrap();
    assert!(session.find_non_finite(session.main(), [("x", (&good).into())]).unwrap().is_none());
    let before = session.store().get("w").unwrap();
    let bad = Array1::from_elem(8, 0.0f32);
    let error = session.step([("x", (&bad).into())]).unwrap_err();
    assert_eq!(error.code, cotangent_graph::Code::NotFinite);
    assert_eq!((session.store().get("w").unwrap(), session.store().step()), (before, 1));
    let found = session.find_non_finite(session.main(), [("x", (&bad).into())]).unwrap().unwrap();
    assert!(found.message.contains("`sqrt` makes it"), "{found}");
    assert!(found.at.to_string().ends_with(&format!("train.rs:{line}")), "{found}");
}

#[test]
fn updates_made_after_a_reduction_are_in_place_too() {
    // The biases' gradients are column sums, and Adam continues with them in the same kernel.
    let program = Compiler::new().compile(&build(|g| mlp(g, 32)).unwrap()).unwrap();
    let copies = program.plan().steps.iter().filter(|s| matches!(s, cotangent_kernel::Step::Copy { .. })).count();
    assert_eq!(copies, 0, "{}", program.plan_text());
}

#[test]
fn a_parameter_and_all_its_states_are_written_by_one_step_whatever_the_recipe() {
    let optimizers: [Box<dyn Optimizer>; 11] = [
        Box::new(Sgd::new(0.1)),
        Box::new(Momentum::new(0.1, 0.9)),
        Box::new(Nesterov::new(0.1, 0.9)),
        Box::new(AdaGrad::new(0.1)),
        Box::new(RmsProp::new(0.1)),
        Box::new(AdaDelta::new(1.0)),
        Box::new(Adam::new(0.1)),
        Box::new(Adam::new(0.1).amsgrad()),
        Box::new(AdamW::new(0.1, 0.1)),
        Box::new(NAdam::new(0.1)),
        Box::new(Lion::new(0.1, 0.1)),
    ];
    for optimizer in optimizers {
        let name = optimizer.name();
        let recipe = Recipe::new()
            .schedule(Schedule::cosine(100).warm_up(10))
            .group(Group::named("out.").rate(10.0))
            .group(Group::new("vectors", |param| param.is_vector()).rate(0.5))
            .l2(1e-4)
            .plain_decay(1e-5)
            .clip_value(1.0)
            .average(0.99);
        let graph = build(|g| {
            let x = g.input("x", DType::F32, [128, 20]);
            let logits = x.dense("hidden", 33).relu().dense("out", 10);
            g.minimize(logits.cross_entropy(g.input("y", DType::I64, [128])).mean(), optimizer.with(recipe));
        });
        let program = Compiler::new().compile(&graph.unwrap()).unwrap();
        let plan = program.plan();
        for param in ["hidden.weight", "hidden.bias", "out.weight", "out.bias"] {
            let mut writers: Vec<usize> = Vec::new();
            let mut n_written = 0;
            for (number, step) in plan.steps.iter().enumerate() {
                for buffer in step.writes(plan) {
                    let buffer = &plan.buffers[buffer.index()];
                    let kept = matches!(buffer.home, cotangent_kernel::Home::Param | cotangent_kernel::Home::State);
                    if kept && buffer.name.ends_with(param) {
                        writers.push(number);
                        n_written += 1;
                    }
                }
            }
            writers.dedup();
            // The parameter, its average, and what the optimiser keeps.
            assert!(n_written >= 2 && writers.len() == 1, "{name}, {param}: {writers:?}\n{}", program.plan_text());
        }
    }
}
