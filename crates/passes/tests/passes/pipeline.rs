//! The pipeline as a whole: values, stages, idempotency, honesty, options.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{Values, assert_bits, assert_close, env, graph, only, ops, optimized, run};
use cotangent_graph::DType::{F32, F64, I64};
use cotangent_graph::ops;
use cotangent_graph::{
    Code, CompilerBug, Env, Graph, GraphBuilder, Init, Loc, Registry, Stage, Tensor, TensorData, Type, verify,
};
use cotangent_passes::{Pass, PassCx, PassError, PassOptions, StopReason, optimize, optimize_with, pipeline, stage_of};

/// A training step: two layers, cross-entropy, momentum.
fn train_step(g: &GraphBuilder) {
    let (x, labels) = (g.input("x", F64, [4, 6]), g.input("labels", I64, [4]));
    let w1 = g.param("w1", F64, [6, 5], Init::GlorotUniform);
    let b1 = g.param("b1", F64, [5], Init::ZEROS);
    let w2 = g.param("w2", F64, [5, 3], Init::GlorotUniform);
    let h = (x.matmul(w1) + b1).relu().dropout("drop", 0.25);
    let loss = h.matmul(w2).cross_entropy(labels).mean();
    g.output("loss", loss);
    let params = [("w1", w1), ("b1", b1), ("w2", w2)];
    let gradients = g.grad(loss, &params.map(|p| p.1));
    for ((name, p), d) in params.into_iter().zip(gradients) {
        let v = g.state(&format!("{name}.v"), F64, p.shape(), Init::ZEROS);
        let v2 = v * 0.9f64 + d;
        g.update(v, v2);
        g.update(p, p - v2 * 0.1f64);
    }
}

fn mixed(g: &GraphBuilder) {
    let x = g.input("x", F64, [2, 1, 3]);
    g.input("unused", F32, [7]);
    let s = (x * 2.0f64).sum() * 0.125f64;
    let wide = x.broadcast_to([2, 4, 3]);
    let y = (wide + s).transpose([1, 0, 2]).reshape([4, 6]).t();
    g.output("y", y.matmul(y.t()).softmax(0).log());
    g.output("z", (wide.relu() / 4.0f64 - (-wide)).max_over([0, 2]) + 0.0f64);
    g.output("w", g.grad((x.sigmoid().log() - (1.0f64 - x.sigmoid()).log()).sum(), &[x])[0]);
}

fn sources() -> Vec<Graph> {
    vec![graph(train_step), graph(mixed)]
}

#[test]
fn the_pipeline_keeps_the_meaning_and_reaches_the_primitive_stage() {
    for source in sources() {
        let done = optimized(&source);
        assert_eq!((stage_of(&source), stage_of(&done.graph)), (Stage::Source, Stage::Primitive));
        assert_eq!(verify(&done.graph, Stage::Primitive), Vec::<String>::new());
        assert_eq!(done.stop, StopReason::Fixpoint);
        let env = env(&source, 2, Values::Tame);
        assert_close(&run(&source, &env), &run(&done.graph, &env), 1e-5, "the pipeline");
    }
}

#[test]
fn every_op_keeps_its_values_on_its_samples() {
    for op in Registry::builtin().iter() {
        for dtype in [F32, F64] {
            let samples = (op.samples)(&mut cotangent_graph::samples::Sampler::new(dtype, 5));
            for (k, sample) in samples.into_iter().enumerate() {
                let source = graph(|g| {
                    let input = |(i, t): (usize, &TensorData)| g.input(&format!("x{i}"), t.dtype(), t.shape());
                    let inputs: Vec<Tensor<'_>> = sample.inputs.iter().enumerate().map(input).collect();
                    g.output("y", g.op(op.0, &inputs, sample.attrs.clone(), sample.declared.clone()));
                });
                let mut env = Env::default();
                for (i, t) in sample.inputs.iter().enumerate() {
                    env.values.insert(format!("x{i}"), t.clone());
                }
                let done = optimized(&source);
                let what = format!("{} sample {k}", op.name);
                // A single op meets rules that keep bits, or at most the sign of a zero.
                assert_bits(&run(&source, &env), &run(&done.graph, &env), true, &what);
            }
        }
    }
}

#[test]
fn optimizing_twice_is_optimizing_once() {
    for source in sources() {
        let once = optimized(&source).graph;
        let twice = optimized(&once);
        assert_eq!(twice.graph.to_string(), once.to_string());
        assert!(twice.report.iter().all(|r| !r.changed), "{:?}", twice.report);
    }
}

#[test]
fn equal_expressions_in_other_words_are_one_node() {
    let source = graph(|g| {
        let (x, y) = (g.input("x", F32, [2, 3]), g.input("y", F32, [2, 3]));
        g.output("a", (x + y).exp() * (y - -x).exp());
        g.output("b", x.lt(y).select(x, y) - y.gt(x).select(x, y).t().t());
    });
    let done = optimized(&source);
    let count = |op: &str| ops(&done.graph).iter().filter(|o| **o == op).count();
    assert_eq!((count("add"), count("exp"), count("lt"), count("select")), (1, 1, 1, 1), "{}", done.graph);
}

#[test]
fn inputs_stay_and_unused_parameters_go() {
    let source = graph(|g| {
        let x = g.input("x", F32, []);
        g.input("unused", F32, []);
        g.param("dead", F32, [3], Init::ZEROS);
        g.output("y", x * 2.0f64);
    });
    let done = optimized(&source);
    assert!(done.graph.source("unused").is_some() && done.graph.source("dead").is_none(), "{}", done.graph);
}

#[test]
fn scalars_are_computed_before_they_are_repeated() {
    let source = graph(|g| {
        let (x, t) = (g.input("x", F32, [8, 16]), g.state("t", F32, [], Init::ZEROS));
        let correction = 1.0f64 - g.scalar(0.9, F32).broadcast_to([8, 16]).pow(t.broadcast_to([8, 16]));
        g.output("y", x / correction);
    });
    let done = optimized(&source);
    for id in done.graph.ids() {
        let node = done.graph.node(id);
        let is_large = node.ty.shape().rank() > 0 && !node.op.is_any(&[&ops::source::INPUT, &ops::view::BROADCAST]);
        assert!(!is_large || node.is(&ops::arithmetic::DIV), "{}", done.graph);
    }
}

#[test]
fn the_order_of_the_pipeline_is_the_documented_one() {
    let names: Vec<&str> = pipeline().iter().map(|p| p.name()).collect();
    let want = ["stabilize", "differentiate", "expand", "canonicalize", "fold", "simplify", "hoist", "dce"];
    assert_eq!(names, want);
    assert!(pipeline().iter().all(|p| p.purpose().ends_with('.')));
}

/// A pass that does what it is told, to try the driver's checks.
struct Liar(fn(&Graph) -> Option<Graph>);

impl Pass for Liar {
    fn name(&self) -> &'static str {
        "liar"
    }

    fn purpose(&self) -> &'static str {
        "Breaks promises."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Source, Stage::Source)
    }

    fn run(&self, graph: &Graph, _: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        Ok((self.0)(graph))
    }
}

fn bug_of(pass: &dyn Pass, options: &PassOptions) -> CompilerBug {
    let source = graph(|g| g.output("y", g.input("x", F32, [2]).exp()));
    match optimize_with(&[pass], &source, options) {
        Err(PassError::Bug(bug)) => bug,
        other => panic!("{:?}", other.map(|o| o.graph.to_string())),
    }
}

#[test]
fn a_pass_that_reports_a_change_must_make_one() {
    let options = PassOptions { verify: true, ..PassOptions::default() };
    let bug = bug_of(&Liar(|graph| Some(graph.clone())), &options);
    assert!(bug.message.contains("has made none"), "{bug}");
    assert_eq!(bug.pass, "liar");
    assert!(bug.graph.is_some());
}

#[test]
fn an_ill_formed_result_and_another_meaning_are_bugs_of_the_pass() {
    let options = PassOptions { verify: true, ..PassOptions::default() };
    let ill_typed = Liar(|_| {
        let g = GraphBuilder::new("main");
        let x = g.input("x", F32, [2]);
        let op = Registry::builtin().get("exp")?;
        let bad = g.push_node(
            op,
            [x.id()].into_iter().collect(),
            Default::default(),
            Type::tensor(F64, [5]),
            Default::default(),
        );
        g.output("y", bad);
        g.finish().ok()
    });
    assert!(bug_of(&ill_typed, &options).message.contains("not well formed"));

    let wrong = Liar(|_| cotangent_graph::build(|g| g.output("y", g.input("x", F32, [2]).tanh())).ok());
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let validate = move |pass: &str, before: &Graph, after: &Graph| {
        counted.fetch_add(1, Ordering::Relaxed);
        assert_eq!(pass, "liar");
        let env = env(before, 1, Values::Tame);
        let same = run(before, &env).iter().zip(&run(after, &env)).all(|(a, b)| a.same_bits(b));
        if same { Ok(()) } else { Err("the values differ".to_owned()) }
    };
    let options = PassOptions { validate: Some(Arc::new(validate)), ..options };
    assert!(bug_of(&wrong, &options).message.contains("the values differ"));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn fuel_stops_the_rules_and_says_so() {
    let source = graph(|g| {
        let x = g.input("x", F32, [2]);
        g.output("y", ((-(-x)) * 1.0f64).relu().relu());
    });
    let with = |fuel| {
        let options = PassOptions { fuel: Some(fuel), verify: true, ..PassOptions::default() };
        optimize(&source, &options).unwrap_or_else(|e| panic!("{e}"))
    };
    let applied = |fuel| with(fuel).report.iter().flat_map(|r| r.rules.values()).sum::<u64>();
    assert_eq!((applied(0), applied(1), applied(2), applied(3), applied(9)), (0, 1, 2, 3, 3));
    assert_eq!((with(2).stop, with(9).stop), (StopReason::OutOfFuel, StopReason::Fixpoint));
}

#[test]
fn passes_can_be_chosen_and_wrong_choices_are_explained() {
    let source = graph(|g| {
        let x = g.input("x", F32, [2]);
        g.output("y", -(-x.softmax(0)));
    });
    let done = only(&source, &["stabilize", "dce"], PassOptions::default());
    assert_eq!(done.report.len(), 2);
    let fails = |name: &str| {
        let options = PassOptions { only: Some(vec![name.to_owned()]), ..PassOptions::default() };
        match optimize(&source, &options) {
            Err(PassError::Diags(diags)) => diags.0[0].clone(),
            other => panic!("{:?}", other.map(|o| o.graph.to_string())),
        }
    };
    let misspelled = fails("canonicalise");
    assert_eq!(
        (misspelled.code, misspelled.help.as_deref()),
        (Code::UnknownName, Some("did you mean `canonicalize`?"))
    );
    assert_eq!(fails("simplify").code, Code::Unsupported);
}

#[test]
fn dumps_show_each_change() {
    let directory = std::env::temp_dir().join(format!("cotangent-passes-{}", std::process::id()));
    let drawn = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&drawn);
    let dot = move |_: &Graph| {
        *counted.lock().unwrap_or_else(|e| e.into_inner()) += 1;
        "digraph {}".to_owned()
    };
    let options = PassOptions { dump: Some(directory.clone()), dot: Some(Arc::new(dot)), ..PassOptions::default() };
    optimize(&graph(train_step), &options).unwrap_or_else(|e| panic!("{e}"));
    let listing = std::fs::read_dir(&directory).expect("the dump directory");
    let mut names: Vec<String> = listing.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    std::fs::remove_dir_all(&directory).expect("it can be removed");
    assert_eq!(&names[..4], ["00-source.dot", "00-source.txt", "01-differentiate.dot", "01-differentiate.txt"]);
    assert_eq!(names.len(), 2 * *drawn.lock().unwrap_or_else(|e| e.into_inner()));
    let blocked = PassOptions { dump: Some(std::path::PathBuf::from("/dev/null/x")), ..PassOptions::default() };
    assert!(matches!(optimize(&graph(train_step), &blocked), Err(PassError::Environment(_))));
}

#[test]
fn new_nodes_keep_the_users_line_and_name_their_rule() {
    let line = line!() + 3;
    let source = graph(|g| {
        let x = g.input("x", F32, [2]);
        let y = x.sigmoid().log();
        g.output("y", y);
        g.output("d", g.grad(y.sum(), &[x])[0]);
    });
    let done = optimized(&source);
    let softplus = done.graph.nodes().iter().find(|n| n.is(&ops::math::SOFTPLUS)).expect("the stable form");
    assert_eq!(softplus.origin.rule, Some("log_of_sigmoid"));
    assert!(matches!(softplus.origin.loc(), Loc::Code(place) if place.line() == line), "{}", softplus.origin.loc());
    let sigmoid = done.graph.nodes().iter().find(|n| n.is(&ops::math::SIGMOID)).expect("its derivative");
    assert_eq!(sigmoid.origin.rule, Some("differentiate"));
    assert!(matches!(sigmoid.origin.loc(), Loc::Code(place) if place.line() == line));
}

#[test]
fn bodies_are_optimized_in_place_before_they_are_inlined() {
    let source = graph(|g| {
        let body = g.body("stable", &[Type::tensor(F32, [2])], |_, t| vec![t[0].sigmoid().log()]);
        g.output("y", g.call(&body, &[g.input("x", F32, [2])])[0]);
    });
    let stable = only(&source, &["stabilize"], PassOptions::default());
    assert_eq!(ops(&stable.graph.bodies()[0]), ["input", "neg", "softplus", "neg"]);
    let done = optimized(&source);
    assert!(done.graph.bodies().is_empty());
    assert_eq!(ops(&done.graph), ["input", "neg", "softplus", "neg"]);
}

#[test]
fn an_ill_formed_source_is_not_blamed_on_a_pass() {
    let g = GraphBuilder::new("main");
    let x = g.input("x", F32, [2]);
    let op = Registry::builtin().get("exp").expect("the op");
    let ty = Type::tensor(F64, [5]);
    let bad = g.push_node(op, [x.id()].into_iter().collect(), Default::default(), ty, Default::default());
    g.output("y", bad);
    let source = g.finish().unwrap_or_else(|diags| panic!("{diags}"));
    // In release builds too.
    match optimize(&source, &PassOptions { verify: false, ..PassOptions::default() }) {
        Err(PassError::Diags(diags)) => assert_eq!(diags.0[0].code, Code::IllFormed),
        other => panic!("{:?}", other.map(|o| o.graph.to_string())),
    }
}

#[test]
fn sweeps_and_rules_grow_with_the_nodes_and_no_faster() {
    // A train step of that many layers: sweeps must not go layer by layer, and a layer costs the rules of a layer.
    let net = |depth: usize| {
        let done = optimized(&graph(|g| {
            let mut h = g.input("x", F64, [4, 6]);
            let params: Vec<Tensor<'_>> =
                (0..depth).map(|k| g.param(&format!("w{k}"), F64, [6, 6], Init::GlorotUniform)).collect();
            for &w in &params {
                h = (h.matmul(w) * 2.0f64 + 1.0f64).relu();
            }
            let loss = h.square().mean();
            for (&w, d) in params.iter().zip(g.grad(loss, &params)) {
                g.update(w, w - d * 0.1f64);
            }
        }));
        let rounds: u32 = done.report.iter().map(|pass| pass.rounds).sum();
        let rules: u64 = done.report.iter().flat_map(|pass| pass.rules.values()).sum();
        (rounds, rules)
    };
    let (few, many) = (net(4), net(40));
    assert_eq!(few.0, many.0, "sweeps");
    assert!(many.1 <= 10 * few.1, "{few:?} {many:?}");
}
