//! The floating-point environment belongs to the library: whatever modes the caller has, or had when the pool was made, every
//! part of it gives the same bits, subnormals among them, and the caller has the modes afterwards.

use cotangent::data::synthetic::{spirals, two_moons};
use cotangent::data::{self, Order, Standardizer};
use cotangent::graph::interp::interpret;
use cotangent::graph::{Env, Registry, text};
use cotangent::kernel::{ClusterOptions, PlanMachine, plan};
use cotangent::passes::{PassOptions, optimize};
use cotangent::prelude::*;
use cotangent::train::metrics;
use cotangent_gemm::{Gemm, Product, Target, Workspace};
use cotangent_host::float::testing::Environment;
use cotangent_pool::Pool;
use ndarray::{Array1, ArrayD, IxDyn};

/// Enough for several threads.
const N: usize = 1 << 18;

/// Half of the products with 0.01 are subnormal.
fn numbers() -> Array1<f32> {
    Array1::from_shape_fn(N, |i| f32::from_bits(0x0060_0000 + (i as u32 * 97) % 0x0400_0000))
}

fn train_step() -> Graph {
    let graph = build(|g| {
        let x = g.input("x", F32, [N]);
        let w = g.param("w", F32, [N], Init::uniform(0.1, 0.3));
        g.output("product", x * w);
        g.output("sum", (x * 1e-3).sum());
        g.output("third", w / 3.0);
        // Known at compile time: folded.
        let c = g.constant(ndarray::array![1e-38f32, 3e-39, 1.0]);
        g.output("folded", c * g.constant(ndarray::array![0.01f32, 0.3, 0.1]) / 3.0);
        g.update(w, w * 0.999);
    });
    graph.unwrap()
}

/// Bits of everything: a train step's results and its update, by every way to run it, on a pool made here or elsewhere.
fn everything(given: Option<&Runtime>) -> Vec<(String, Vec<u64>)> {
    let mut all = Vec::new();
    let graph = train_step();
    all.push(("text".to_owned(), graph.to_string().bytes().map(u64::from).collect()));
    let x = numbers();
    let own = Runtime::new(Threads::Exactly(2));
    let runtime = given.unwrap_or(&own);
    for backend in [BackendChoice::Auto, BackendChoice::Cranelift] {
        for fuse in [true, false] {
            let program = Compiler::new().backend(backend).fuse(fuse).compile(&graph).unwrap();
            let mut session = Session::new(runtime, program, Seed(5)).unwrap();
            all.push((format!("start {backend:?}"), session.store().get("w").unwrap().bits()));
            let out = session.step([("x", (&x).into())]).unwrap();
            for name in ["product", "sum", "third", "folded"] {
                all.push((format!("{name} {backend:?} {fuse}"), out.tensor(name).unwrap().bits()));
            }
            all.push((format!("scalar {backend:?} {fuse}"), vec![out.scalar("sum").unwrap().to_bits()]));
            all.push((format!("update {backend:?} {fuse}"), session.store().get("w").unwrap().bits()));
        }
    }
    let mut env = Env::default().with("x", x);
    env.initialize(&graph, 5).unwrap();
    let values = interpret(&graph, &env).unwrap();
    all.extend(values.iter().enumerate().map(|(k, value)| (format!("interpreter {k}"), value.bits())));
    let optimized = optimize(&graph, &PassOptions::default()).unwrap().graph;
    let plan = plan(&optimized, &ClusterOptions::default()).unwrap();
    let mut store = env.values.clone();
    let results = PlanMachine::new(&plan).unwrap().run(&env.values, &mut store, env.counters).unwrap();
    all.extend(results.into_iter().map(|(name, value)| (format!("plan's interpreter {name}"), value.bits())));
    all
}

/// Starting values, literals, conversions, and products without a graph.
fn parts() -> Vec<(String, Vec<u64>)> {
    let mut all = Vec::new();
    for init in ["glorot_uniform", "he_normal", "truncated_normal(0.0, 1e-39)", "orthogonal(1.0)", "normal(0.0, 1e-38)"]
    {
        let init: Init = init.parse().unwrap();
        all.push((init.to_string(), init.sample(3, "w", F32, &[40, 30].into()).bits()));
    }
    let tiny = TensorData::from(ndarray::array![1e-40f32, -3e-39]);
    all.push(("f64 of f32".to_owned(), tiny.to_f64().into_iter().map(f64::to_bits).collect()));
    all.push(("scalar".to_owned(), TensorData::scalar(F32, 1e-40).bits()));
    let source = "cotangent 1\ngraph @f {\n  %0 = constant {value = [0.1, 1e-40, 3.4e38, 7.3e-309]} : f64[4]\n  \
                  %1 = constant {value = [0.3, 1e-40, 1.4e-45]} : f32[3]\n  output \"a\" = %0\n  output \"b\" = %1\n}\n";
    let graph = text::parse(source, "f.ct", &Registry::builtin()).unwrap();
    all.push(("read".to_owned(), graph.to_string().bytes().map(u64::from).collect()));
    all.extend(on_the_host());
    for [m, n, k] in [[1, 300, 70], [3, 5, 7], [150, 140, 130], [64, 1, 500]] {
        // From bits, because this test's own arithmetic is the caller's. Around 2⁻⁶³: products are subnormal.
        let number = |i: usize| f32::from_bits(0x2000_0000 + (i as u32 * 7919) % 0x0100_0000);
        let (a, b): (Vec<f32>, Vec<f32>) = ((0..m * k).map(number).collect(), (0..k * n).map(number).collect());
        for n_threads in [1, 2] {
            let mut c = vec![0f32; m * n];
            let pool = Pool::new(n_threads);
            let gemm = Gemm::<f32>::new(Product::new(m, n, k), Target::here()).unwrap();
            let (operands, workspace) = ([a.as_ptr(), b.as_ptr()], &mut Workspace::new());
            // SAFETY: the arrays outlive the call, C is not one of the operands, and the target is this machine.
            unsafe { gemm.run(&pool, operands, c.as_mut_ptr(), None, workspace) };
            all.push((format!("product {m} {n} {k} on {n_threads}"), c.iter().map(|v| v.to_bits().into()).collect()));
        }
    }
    all
}

/// What is computed without a program: sets, their order, what normalizes them, figures about predictions, and schedules.
fn on_the_host() -> Vec<(String, Vec<u64>)> {
    let mut all = Vec::new();
    let mut note = |what: &str, values: ArrayD<f32>| all.push((what.to_owned(), TensorData::from(values).bits()));
    let moons = two_moons(60, 0.1, 3);
    note("moons", moons.features().to_owned());
    note("spirals", spirals(3, 20, 0.1, 3).features().to_owned());
    note("xor", data::synthetic::xor(20, 0.1, 3).features().to_owned());
    let line = data::synthetic::linear_regression(20, &[0.3, -0.1], 0.7, 0.1, 3);
    note("line", line.features().to_owned());
    note("targets", line.labels().to_owned().into_dyn());
    let (kept, held_out) = moons.split(0.2, Order::Stratified, 1).unwrap();
    note("kept", kept.features().to_owned());
    note("held out", held_out.features().to_owned());
    for order in [Order::Shuffled, Order::Stratified, Order::Balanced] {
        for (k, (features, _)) in moons.shuffled_batches(7, 5).order(order).enumerate() {
            note(&format!("{order:?} {k}"), features);
        }
    }
    let standard = Standardizer::fit(moons.features()).unwrap();
    note("standardized", standard.apply(moons.features()).unwrap());
    let [pca, zca] = [data::Whitening::pca(moons.features(), 2, 1e-3), data::Whitening::zca(moons.features(), 1e-3)]
        .map(Result::unwrap);
    note("principal components", pca.apply(moons.features()).unwrap());
    note("whitened", zca.apply(moons.features()).unwrap());
    // From bits, because this test's own arithmetic is the caller's.
    let logits = ArrayD::from_shape_fn(IxDyn(&[6, 3]), |i| {
        f32::from_bits(0x3e80_0000 + (i[0] * 31 + i[1] * 7) as u32 * 104_729)
    });
    note("softmax", metrics::softmax(logits.view()).unwrap().into_dyn());
    let mut ensemble = metrics::Ensemble::new();
    ensemble.add_logits(logits.view()).unwrap();
    ensemble.add(ArrayD::from_elem(IxDyn(&[6, 3]), 0.3).view()).unwrap();
    ensemble.add(ArrayD::from_elem(IxDyn(&[6, 3]), 0.1).view()).unwrap();
    note("ensemble", ensemble.mean().unwrap());
    let labels = ndarray::array![0, 1, 2, 2, 2, 0];
    let confusion = metrics::Confusion::new(logits.view(), labels.view()).unwrap();
    let mut numbers =
        |what: &str, values: Vec<f64>| all.push((what.to_owned(), values.into_iter().map(f64::to_bits).collect()));
    numbers("accuracies", vec![confusion.accuracy(), metrics::accuracy(logits.view(), labels.view()).unwrap()]);
    numbers("shares", confusion.recall().into_iter().chain(confusion.precision()).collect());
    for schedule in
        [Schedule::cosine(100).warm_up(7), Schedule::exponential(0.97), Schedule::one_cycle(90), Schedule::step(9, 0.3)]
    {
        numbers(&format!("{schedule:?}"), (0..90).step_by(13).map(|step| schedule.factor(step)).collect());
    }
    all
}

fn compare(of: &str, expected: &[(String, Vec<u64>)], got: &[(String, Vec<u64>)]) {
    assert_eq!(expected.len(), got.len());
    let mut wrong = Vec::new();
    for ((name, expected), (_, got)) in expected.iter().zip(got) {
        let n = expected.iter().zip(got).filter(|(a, b)| a != b).count();
        if n > 0 || expected.len() != got.len() {
            wrong.push(format!("{n} of {} differ in {name}", expected.len()));
        }
    }
    assert!(wrong.is_empty(), "{of}:\n{}", wrong.join("\n"));
}

#[test]
fn whatever_the_caller_has_the_bits_are_the_same() {
    let (expected, expected_parts) = (everything(None), parts());
    let subnormal = |bits: u64| (bits as u32 & 0x7f80_0000) == 0 && bits as u32 & 0x7f_ffff != 0;
    let (_, products) = expected.iter().find(|(name, _)| name.starts_with("product")).unwrap();
    let n = products.iter().filter(|&&bits| subnormal(bits)).count();
    assert!(n > N / 100, "only {n} of {N} products are subnormal, so little could be flushed");
    for environment in Environment::all() {
        // The pool is made under it too, so that threads inherit it.
        let (got, kept) = environment.during(|| everything(None));
        assert!(kept, "{environment:?} is not what it was");
        compare(&format!("{environment:?}"), &expected, &got);
        let (got, kept) = environment.during(parts);
        assert!(kept, "{environment:?} is not what it was");
        compare(&format!("{environment:?}"), &expected_parts, &got);
        // Made under it, and used without.
        let (runtime, _) = environment.during(|| Runtime::new(Threads::Exactly(2)));
        compare(&format!("a pool made under {environment:?}"), &expected, &everything(Some(&runtime)));
    }
}
