//! Symbolic derivatives of every differentiable op, first and second, against central differences in f64.

use cotangent_graph::samples::Sampler;
use cotangent_graph::{DType, Env, Graph, OpRef, Registry, Vjp, build};
use cotangent_passes::{PassOptions, optimize};
use cotangent_testkit::finite::check_gradient;

/// The largest relative error that is let pass.
const TOLERANCE: f64 = 1e-6;

fn differentiate(graph: &Graph) -> Result<Graph, String> {
    let options = PassOptions { verify: true, ..PassOptions::default() };
    optimize(graph, &options).map(|optimized| optimized.graph).map_err(|error| error.to_string())
}

/// Checks every sample of an op; returns how many derivatives were compared.
fn check_op(op: OpRef, failures: &mut Vec<String>) -> usize {
    let mut n_compared = 0;
    for (n, sample) in (op.0.samples)(&mut Sampler::new(DType::F64, 17)).into_iter().enumerate() {
        let name = |k: usize| format!("x{k}");
        let wrt: Vec<String> =
            (0..sample.inputs.len()).filter(|&k| sample.inputs[k].dtype().is_float()).map(name).collect();
        let graph = build(|g| {
            let inputs: Vec<_> =
                sample.inputs.iter().enumerate().map(|(k, x)| g.input(&name(k), x.dtype(), x.shape())).collect();
            g.output("y", g.op(op.0, &inputs, sample.attrs.clone(), sample.declared.clone()));
        });
        let graph = graph.unwrap_or_else(|diags| panic!("{}: {diags}", op.0.name));
        let is_float = graph.ty(graph.outputs()[0].value).dtype() == DType::F64;
        if wrt.is_empty() || !is_float {
            continue;
        }
        let env = sample.inputs.iter().enumerate().fold(Env::default(), |env, (k, x)| env.with(&name(k), x.clone()));
        let wrt: Vec<&str> = wrt.iter().map(String::as_str).collect();
        match check_gradient(&graph, &wrt, &env, 2, differentiate) {
            Err(error) => failures.push(format!("{} sample {n}: {error}", op.0.name)),
            Ok(deviations) => {
                n_compared += deviations.len();
                let bad = deviations.iter().filter(|d| d.worst >= TOLERANCE);
                failures.extend(bad.map(|d| format!("{} sample {n}: {d:?}", op.0.name)));
            }
        }
    }
    n_compared
}

#[test]
fn every_derivative_agrees_with_central_differences() {
    let mut failures = Vec::new();
    let mut n_compared = 0;
    for op in Registry::builtin().iter() {
        // The derivative of `stop_gradient` is wrong on purpose.
        if op.0.name != "stop_gradient" && !matches!(op.0.vjp, Vjp::None(_)) {
            n_compared += check_op(op, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(n_compared > 150, "only {n_compared} derivatives were compared");
}

/// A body is differentiated through its call, and so is a body inside a body.
#[test]
fn derivatives_go_through_bodies() {
    let graph = build(|g| {
        let x = g.input("x", DType::F64, [3]);
        let w = g.param("w", DType::F64, [3], cotangent_graph::Init::ONES);
        let body = g.body("outer", &[x.ty(), w.ty()], |g, v| {
            let inner = g.body("inner", &[v[0].ty()], |_, v| vec![v[0].tanh(), v[0] * v[0]]);
            let results = g.call(&inner, &[v[0] * v[1]]);
            vec![results[0] * results[1], results[1].exp()]
        });
        let results = g.call(&body, &[x, w]);
        g.output("y", results[0] + results[1].sum());
    });
    let mut s = Sampler::new(DType::F64, 2);
    let env = Env::default().with("x", s.float_in(-1.0..1.0, [3])).with("w", s.float_in(0.5..1.5, [3]));
    let deviations = check_gradient(&graph.unwrap(), &["x", "w"], &env, 2, differentiate);
    let deviations = deviations.unwrap_or_else(|error| panic!("{error}"));
    assert!(deviations.iter().all(|d| d.worst < TOLERANCE), "{deviations:?}");
}
