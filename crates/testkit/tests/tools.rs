//! The tools themselves: they find what is wrong, and are quiet about what is right.

use cotangent_graph::interp::interpret;
use cotangent_graph::ops;
use cotangent_graph::ops::infer_float;
use cotangent_graph::{Attrs, DType, Env, Graph, Init, OpDef, OpTraits, Stage, TensorData, Vjp, build, verify};
use cotangent_passes::{PassOptions, optimize};
use cotangent_testkit::filetest::difference;
use cotangent_testkit::finite::{check_gradient, to_f64, wide_env};
use cotangent_testkit::random::{self, Options};
use cotangent_testkit::shrink;

fn differentiate(graph: &Graph) -> Result<Graph, String> {
    optimize(graph, &PassOptions::default()).map(|o| o.graph).map_err(|error| error.to_string())
}

/// `x²` with the derivative `3x`.
static WRONG: OpDef = cotangent_graph::ops::arithmetic::pointwise(
    "wrong_square",
    "Square with a wrong derivative.",
    1,
    OpTraits::NONE,
    infer_float,
    |s, v, _| s.mul(v[0], v[0]),
    Vjp::Rule(|cx| [Some(cx.dy * cx.x() * 3.0)].into_iter().collect()),
    |_| Vec::new(),
);

#[test]
fn a_wrong_derivative_is_found() {
    let graph = build(|g| {
        let x = g.input("x", DType::F64, [3]);
        g.register(&WRONG);
        g.output("y", g.op(&WRONG, &[x], Attrs::none(), None));
    });
    let x = TensorData::from_bits(DType::F64, &[3].into(), &[1.0, 2.0, -1.0].map(f64::to_bits));
    let deviations = check_gradient(&graph.unwrap(), &["x"], &Env::default().with("x", x), 2, differentiate).unwrap();
    assert_eq!(deviations.len(), 2);
    assert!((deviations[0].worst - 0.5).abs() < 1e-6, "{deviations:?}");
    // The second derivative is that of the wrong first one: consistent with it.
    assert!(deviations[1].worst < 1e-6, "{deviations:?}");
}

#[test]
fn shrinking_keeps_the_failure_and_drops_the_rest() {
    let has = |graph: &Graph, op: &'static OpDef| graph.nodes().iter().any(|n| n.is(op));
    let fails = |graph: &Graph| {
        let live = cotangent_testkit::copy::clean(graph);
        // Without checks of values, which may stop a smaller graph.
        has(&live, &ops::math::TANH) && has(&live, &ops::matmul::MATMUL) && !has(&live, &ops::index::CHECK_FINITE)
    };
    let mut n_tried = 0;
    for seed in 0..200 {
        let graph = random::graph(seed, &Options::default());
        if !fails(&graph) {
            continue;
        }
        n_tried += 1;
        let small = shrink(&graph, fails);
        assert!(fails(&small));
        assert_eq!(verify(&small, Stage::Source), Vec::<String>::new(), "{small}");
        assert!(small.n_nodes() <= 16 && small.outputs().len() <= 2, "seed {seed}: still large\n{small}");
        assert!(interpret(&small, &random::env(&small, 0)).is_ok());
    }
    assert!(n_tried > 20, "{n_tried}");
    let fine = random::graph(3, &Options::default());
    assert_eq!(shrink(&fine, |_| false).to_string(), fine.to_string());
}

#[test]
fn a_graph_in_f64_has_the_same_values_but_for_rounding() {
    let options = Options { grads: false, integers: false, random_numbers: false, ..Options::tame() };
    let (mut n_outputs, mut n_close) = (0, 0);
    for seed in 0..200 {
        let graph = random::graph(seed, &options);
        let wide = to_f64(&graph);
        assert_eq!(verify(&wide, Stage::Source), Vec::<String>::new());
        assert!(wide.nodes().iter().all(|n| n.ty.as_tensor().is_none_or(|(dtype, _)| dtype != DType::F32)));
        let env = random::env(&graph, seed);
        let (a, b) = (interpret(&graph, &env).unwrap(), interpret(&wide, &wide_env(&env)).unwrap());
        for (a, b) in a.iter().zip(&b) {
            let (a, b) = (a.to_f64(), b.to_f64());
            let scale = b.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
            n_outputs += 1;
            n_close += usize::from(a.iter().zip(&b).all(|(x, y)| (x - y).abs() <= 1e-3 * scale));
        }
    }
    // Steps (floor, sign, comparisons) may fall on either side.
    assert!(n_close * 100 >= n_outputs * 95, "{n_close} of {n_outputs}");
}

/// Random graphs, differentiated. Kinks and steps lie near a few points, so not every comparison has to hold.
#[test]
fn random_derivatives_agree_with_central_differences() {
    let options = Options { grads: false, mixed_floats: false, n_ops: 12, max_elements: 40, ..Options::tame() };
    let (mut n_compared, mut n_good) = (0, 0);
    for seed in 0..300 {
        let graph = to_f64(&random::graph(seed, &options));
        let output = &graph.outputs()[0];
        let stops = graph.nodes().iter().any(|n| n.is(&ops::compare::STOP_GRADIENT))
            || graph.bodies().iter().any(|b| b.to_string().contains("stop_gradient"));
        if stops || graph.ty(output.value).dtype() != DType::F64 {
            continue;
        }
        let env = random::smooth_env(&graph, seed);
        let sources = graph.nodes().iter().filter(|n| n.op.is_named());
        let floats = sources.filter(|n| n.ty.dtype() == DType::F64);
        let wrt: Vec<&str> = floats.map(|n| n.attrs.str("name")).collect();
        let deviations = check_gradient(&graph, &wrt, &env, 1, differentiate);
        let deviations = deviations.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{graph}"));
        n_compared += deviations.len();
        n_good += deviations.iter().filter(|d| d.worst < 1e-5).count();
        for d in deviations.iter().filter(|d| d.worst >= 1e-5) {
            eprintln!("seed {seed}: {d:?}");
        }
    }
    assert!(n_compared > 300 && n_good * 100 >= n_compared * 95, "{n_good} of {n_compared}");
}

#[test]
fn differences_show_what_changed() {
    let (old, new) = ("a\nb\nc\nd\ne\nf", "a\nb\nc\nx\ne\nf");
    assert_eq!(difference(old, new), "  a\n  b\n  c\n- d\n+ x\n  e\n  f\n");
    assert_eq!(difference("", "a"), "+ a\n");
    assert_eq!(difference("a", "a"), "  a\n");
}

#[test]
fn environments_bind_every_source_with_indices_in_range() {
    let graph = build(|g| {
        let table = g.param("t", DType::F32, [3, 2], Init::ZEROS);
        let index = g.input("i", DType::I64, [40]);
        g.output("y", table.gather(index.reshape([8, 5]).cast(DType::I32)));
        g.output("z", index.one_hot(2, DType::F32));
    });
    let graph = graph.unwrap();
    for seed in 0..20 {
        let env = random::env(&graph, seed);
        assert_eq!(env.values.len(), 2);
        assert!(interpret(&graph, &env).is_ok());
    }
}
