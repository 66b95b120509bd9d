//! The passes preserve values, on random graphs: the interpreter is asked before and after.
//!
//! Bits must be the same, NaNs being equal to each other and zeros too (rules may change the sign of a zero). Only where
//! a stabilizing rule was applied, values need only be close.

use cotangent_graph::interp::interpret_named;
use cotangent_graph::{Env, Graph, Stage, TensorData, verify};
use cotangent_passes::{Optimized, PassOptions, Safety, all_rules, optimize};
use cotangent_testkit::random::{self, Options};
use cotangent_testkit::shrink;

const N_GRAPHS: u64 = 400;

fn run(graph: &Graph, options: &PassOptions) -> Result<Optimized, String> {
    optimize(graph, options).map_err(|error| error.to_string())
}

fn values(graph: &Graph, env: &Env) -> Result<Vec<(String, TensorData)>, String> {
    interpret_named(graph, env).map_err(|diag| diag.to_string())
}

/// Whether two results are the same: see the top of the file. `tolerance` is relative to the largest element.
fn same(a: &TensorData, b: &TensorData, tolerance: f64) -> bool {
    if a.ty() != b.ty() {
        return false;
    }
    let (a, b) = (a.to_f64(), b.to_f64());
    let largest = a.iter().filter(|v| v.is_finite()).fold(1.0, |m: f64, v| m.max(v.abs()));
    let close = |x: f64, y: f64| {
        let near = (x - y).abs() <= tolerance * largest;
        // A more stable form may be finite where the plain one is not.
        let repaired = tolerance > 0.0 && !x.is_finite();
        x == y || (x.is_nan() && y.is_nan()) || near || repaired
    };
    a.iter().zip(&b).all(|(&x, &y)| close(x, y))
}

/// Why the passes do not preserve the values of a graph, if they do not. `before` makes the graph whose values count.
fn difference(graph: &Graph, seed: u64, before: impl Fn(&Graph) -> Result<Graph, String>) -> Option<String> {
    let check = || -> Result<Option<String>, String> {
        let env = random::env(graph, seed);
        let reference = values(&before(graph)?, &env)?;
        let optimized = run(graph, &PassOptions::default())?;
        let errors = verify(&optimized.graph, Stage::Primitive);
        if !errors.is_empty() {
            return Ok(Some(errors.join("\n")));
        }
        let stabilizes = |name: &str| all_rules().iter().any(|(_, r)| r.name == name && r.safety == Safety::Stabilizes);
        // Such rules are tried again when the passes have brought their patterns to light.
        let stabilized = optimized.report.iter().any(|pass| pass.rules.keys().any(|rule| stabilizes(rule)));
        let tolerance = if stabilized { 2e-3 } else { 0.0 };
        let got = values(&optimized.graph, &env)?;
        for ((name, x), (other, y)) in reference.iter().zip(&got) {
            if name != other || !same(x, y, tolerance) {
                return Ok(Some(format!("`{name}` differs: {x} and {y} (tolerance {tolerance})")));
            }
        }
        Ok((reference.len() != got.len()).then(|| "other outputs".to_owned()))
    };
    check().unwrap_or_else(Some)
}

fn check(graph: &Graph, seed: u64, before: impl Fn(&Graph) -> Result<Graph, String> + Copy) {
    if let Some(why) = difference(graph, seed, before) {
        let small = shrink(graph, |g| difference(g, seed, before).is_some());
        let now = difference(&small, seed, before).unwrap_or_default();
        let after = run(&small, &PassOptions::default()).map(|o| o.graph.to_string()).unwrap_or_default();
        panic!("seed {seed}: {why}\nshrunk: {now}\n{small}\nafter the passes:\n{after}");
    }
}

#[test]
fn values_are_preserved() {
    let options = Options { grads: false, ..Options::default() };
    for seed in 0..N_GRAPHS {
        check(&random::graph(seed, &options), seed, |graph| Ok(graph.clone()));
    }
}

/// With derivatives: the reference is the graph that was differentiated and expanded and nothing else.
#[test]
fn values_of_derivatives_are_preserved() {
    let plain = |graph: &Graph| {
        let only = ["differentiate", "expand"].map(str::to_owned).to_vec();
        run(graph, &PassOptions { only: Some(only), ..PassOptions::default() }).map(|o| o.graph)
    };
    for seed in 0..N_GRAPHS {
        check(&random::graph(seed, &Options::default()), seed, plain);
    }
}

#[test]
fn passes_are_idempotent_and_deterministic() {
    for seed in 0..N_GRAPHS {
        let graph = random::graph(seed, &Options::default());
        let once = run(&graph, &PassOptions::default()).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{graph}"));
        let twice = run(&once.graph, &PassOptions::default()).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{graph}"));
        assert_eq!(twice.graph.to_string(), once.graph.to_string(), "seed {seed}");
        let again = run(&graph, &PassOptions::default()).map(|o| o.graph.to_string());
        assert_eq!(again, Ok(once.graph.to_string()), "seed {seed}");
    }
}
