//! Checks of run-time values survive every optimization: whoever reads them, however known the result is.

use std::ops::{Mul, Sub};

use crate::common::{graph, optimized};
use cotangent_graph::DType::{F32, I32, I64};
use cotangent_graph::interp::interpret;
use cotangent_graph::text::parse;
use cotangent_graph::{Code, Env, Graph, GraphBuilder, Init, Lower, Registry, TensorData};

fn n_checks(graph: &Graph) -> usize {
    graph.nodes().iter().filter(|node| matches!(node.op.lower, Lower::Check(_))).count()
}

fn floats(values: &[f32]) -> TensorData {
    TensorData::from_bits(
        F32,
        &[values.len()].into(),
        &values.iter().map(|v| u64::from(v.to_bits())).collect::<Vec<_>>(),
    )
}

type Case = (&'static str, Code, fn(&GraphBuilder));

/// Each graph takes `x : f32[3]` and `i : i32[3]`, and holds one check that nothing else keeps alive.
const KEPT: [Case; 9] = [
    ("a result that nobody reads", Code::NotFinite, |g| {
        let (x, _) = sources(g);
        let _ = x.log().check_finite();
        g.output("y", x * 2.0);
    }),
    ("an index that nobody reads", Code::IndexOutOfRange, |g| {
        let (x, i) = sources(g);
        i.check_index(3);
        g.output("y", x * 2.0);
    }),
    ("a product with zero", Code::IndexOutOfRange, |g| {
        let (_, i) = sources(g);
        g.output("y", i.check_index(3).mul(g.scalar(0.0, I32)));
    }),
    ("a difference of equals", Code::IndexOutOfRange, |g| {
        let (_, i) = sources(g);
        let checked = i.check_index(3);
        g.output("y", checked.sub(checked));
    }),
    ("the branch that is never taken", Code::NotFinite, |g| {
        let (x, _) = sources(g);
        let never = g.constant(TensorData::from_bits(cotangent_graph::DType::Bool, &[3].into(), &[0; 3]));
        g.output("y", never.select(x.log().check_finite(), x));
    }),
    ("elements that are cut off", Code::NotFinite, |g| {
        let (x, _) = sources(g);
        g.output("y", g.concat(&[x.log().check_finite(), x], 0).slice(&[3], &[6]));
    }),
    ("a loss that only its gradient is taken of", Code::NotFinite, |g| {
        let (x, _) = sources(g);
        let w = g.param("w", F32, [3], Init::ONES);
        let loss = (x.log() * w).sum().check_finite();
        g.update(w, w - g.grad(loss, &[w])[0]);
    }),
    ("a body whose results nobody reads", Code::NotFinite, |g| {
        let (x, _) = sources(g);
        let body = g.body("checked", &[x.ty()], |_, v| vec![v[0].log().check_finite()]);
        g.call(&body, &[x]);
        g.output("y", x);
    }),
    ("a check inside of a body", Code::NotFinite, |g| {
        let (x, _) = sources(g);
        let body = g.body("checked", &[x.ty()], |_, v| {
            let _ = v[0].log().check_finite();
            vec![v[0] * 2.0]
        });
        g.output("y", g.call(&body, &[x])[0]);
    }),
];

fn sources<'g>(g: &'g GraphBuilder) -> (cotangent_graph::Tensor<'g>, cotangent_graph::Tensor<'g>) {
    (g.input("x", F32, [3]), g.input("i", I32, [3]))
}

#[test]
fn checks_survive_whoever_reads_them() {
    for (what, code, build) in KEPT {
        let source = graph(build);
        let done = optimized(&source).graph;
        assert_eq!(n_checks(&done), 1, "{what}\n{done}");
        // Optimized again, and through a file, it is still there.
        let again = optimized(&parse(&done.to_string(), "again.ct", &Registry::builtin()).unwrap()).graph;
        assert_eq!(again.to_string(), done.to_string(), "{what}");
        let env = |x: f32, i: u64| {
            let mut env = Env::default().with("x", floats(&[1.0, x, 2.0]));
            env = env.with("i", TensorData::from_bits(I32, &[3].into(), &[0, i, 1]));
            env.initialize(&source, 0).unwrap();
            env
        };
        for graph in [&source, &done] {
            // The gradient of the interpreter is by differences, which no check is about.
            assert!(interpret(graph, &env(1.0, 2)).is_ok(), "{what}");
            let error = interpret(graph, &env(-1.0, 7)).unwrap_err();
            assert_eq!(error.code, code, "{what}");
            assert!(error.at.to_string().contains("checks.rs"), "{what}: {error}");
        }
    }
}

#[test]
fn a_check_of_a_constant_that_fails_is_left_for_the_step() {
    let source = graph(|g| {
        let nan = g.constant(floats(&[f32::NAN, 1.0]));
        g.output("y", nan.check_finite());
        g.output("z", g.constant(floats(&[1.0])).check_finite());
    });
    let done = optimized(&source).graph;
    assert_eq!(n_checks(&done), 1, "{done}");
    assert_eq!(interpret(&done, &Env::default()).unwrap_err().code, Code::NotFinite);
}

#[test]
fn what_is_proved_is_not_tested_again() {
    let source = graph(|g| {
        g.output("a", g.iota(I64, [4], 0).check_index(4));
        let i = g.input("i", I32, [3]);
        g.output("b", i.check_index(3).check_index(3));
    });
    let done = optimized(&source).graph;
    assert_eq!(n_checks(&done), 1, "{done}");
}
