//! Compiled programs against the oracle, on random graphs: outputs, updates and gradients, bit for bit.
//!
//! Every graph is compiled with and without fusion, graphs around loops also without `hoist`; all programs must give what the interpreter gives for the optimized
//! graph, any NaN being equal to any other. `COTANGENT_GRAPHS` sets the number of graphs (1,000), `COTANGENT_SEED` the
//! first seed (0), so that a failure, which names its seed, is tried again with
//! `COTANGENT_GRAPHS=1 COTANGENT_SEED=… cargo test --test differential`.

use std::collections::BTreeSet;
use std::sync::Arc;

use cotangent::graph::HostTensor;
use cotangent::graph::interp::interpret_named;
use cotangent::graph::{Env, Graph, TensorData};
use cotangent::passes::PassOptions;
use cotangent::prelude::*;
use cotangent_testkit::random;

const N_GRAPHS: u64 = 1000;
/// The tests below, which run side by side and share the graphs.
const N_PARTS: u64 = 4;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Named values after a step: results, and parameters and states under `update NAME`; or the error's code.
type Outcome = Result<Vec<(String, TensorData)>, cotangent::graph::Code>;

/// What a program makes of an environment.
fn execute(program: &Arc<Executable>, runtime: &Runtime, env: &Env) -> Result<Outcome, Diag> {
    let mut store = Store::new(Seed(env.counters.seed));
    store.set_step(env.counters.step);
    let mut session = Session::with_store(runtime, program.clone(), store)?;
    let names: Vec<String> = session.store().iter().map(|(name, _)| name.to_owned()).collect();
    for name in &names {
        session.store_mut().set(name, env.values[name].clone())?;
    }
    let inputs: Vec<(&str, HostTensor<'_>)> =
        program.inputs().map(|(name, _)| (name, (&env.values[name]).into())).collect();
    let results = match session.step(inputs) {
        Ok(results) => results,
        Err(diag) => {
            for name in &names {
                assert_eq!(session.store().get(name)?, env.values[name], "a failed step changed `{name}`");
            }
            return Ok(Err(diag.code));
        }
    };
    let mut values = Vec::new();
    for (name, _) in results.iter() {
        values.push((name.to_owned(), results.tensor(name)?));
    }
    for name in &names {
        values.push((format!("update {name}"), session.store().get(name)?));
    }
    Ok(Ok(values))
}

/// What the interpreter makes of it; what is not updated stays.
fn oracle(graph: &Graph, env: &Env) -> Outcome {
    let mut values = interpret_named(graph, env).map_err(|diag| diag.code)?;
    for node in graph.stored().map(|(_, node)| node) {
        let name = format!("update {}", node.attrs.str("name"));
        if values.iter().all(|v| v.0 != name) {
            values.push((name, env.values[node.attrs.str("name")].clone()));
        }
    }
    Ok(values)
}

/// The first difference between two outcomes.
fn difference(got: &Outcome, expected: &Outcome) -> Option<String> {
    let (got, expected) = match (got, expected) {
        (Ok(got), Ok(expected)) => (got, expected),
        (Err(got), Err(expected)) if got == expected => return None,
        _ => return Some(format!("got {got:?}, expected {expected:?}")),
    };
    if got.len() != expected.len() {
        return Some(format!("{} values instead of {}", got.len(), expected.len()));
    }
    expected.iter().find_map(|(name, value)| match got.iter().find(|g| g.0 == *name) {
        None => Some(format!("`{name}` is missing")),
        Some((_, other)) if value.same_bits(other) => None,
        Some((_, other)) => Some(format!("`{name}`:\ngot\n{other}\nexpected\n{value}")),
    })
}

/// What is wrong with the programs of a graph, if anything; also with those that are made without some pass. Whether that pass makes
/// another graph.
fn check(graph: &Graph, seed: u64, runtime: &Runtime, without: Option<&str>) -> Result<bool, String> {
    let env = random::env(graph, seed);
    let (mut expected, mut texts) = (None, BTreeSet::new());
    for (fuse, without) in [(true, None), (false, None)].into_iter().chain(without.map(|pass| (true, Some(pass)))) {
        let only = without.map(|pass| {
            let passes = cotangent::passes::pipeline().into_iter().map(|stage| stage.name().to_owned());
            passes.filter(|name| name != pass).collect()
        });
        let what = format!("fused: {fuse}, without {without:?}");
        let passes = PassOptions { only, ..PassOptions::default() };
        let program = Compiler::new().passes(passes).fuse(fuse).compile(graph).map_err(|e| format!("{what}: {e}"))?;
        texts.insert(program.text(StageView::Optimized));
        let own = oracle(program.optimized(), &env);
        let expected = expected.get_or_insert_with(|| own.clone());
        let got = execute(&program, runtime, &env).map_err(|e| format!("{what}: {e}"))?;
        for outcome in [own, got] {
            if let Some(text) = difference(&outcome, expected) {
                return Err(format!("{what}: {text}\n{}", program.text(StageView::Optimized)));
            }
        }
    }
    Ok(texts.len() > 1)
}

/// Checks graphs; how many some pass makes another graph of.
fn run(part: u64, without: Option<&str>, graph: impl Fn(u64) -> Graph) -> u64 {
    let (n, first) = (variable("COTANGENT_GRAPHS", N_GRAPHS), variable("COTANGENT_SEED", 0));
    let runtime = Runtime::new(Threads::Exactly(1 + part as usize % 2));
    let (mut failures, mut n_changed) = (Vec::new(), 0);
    for seed in (first..first + n).filter(|seed| seed % N_PARTS == part) {
        match check(&graph(seed), seed, &runtime, without) {
            Ok(changed) => n_changed += u64::from(changed),
            Err(text) => {
                eprintln!("seed {seed}: {text}");
                failures.push(seed);
            }
        }
    }
    let again = "try one again with COTANGENT_GRAPHS=1 COTANGENT_SEED=… cargo test --test differential";
    assert!(failures.is_empty(), "seeds {failures:?} failed; {again}");
    n_changed
}

fn random_graphs(part: u64) {
    run(part, None, |seed| random::graph(seed, &random::Options::default()));
}

/// Loops, f32 in even parts and f64 in odd ones: what leaves them leaves every bit as it was.
fn random_loops(part: u64) {
    let doubles = (part % 2) as f64;
    let options = random::Options { n_ops: 2, max_elements: 512, doubles, wild: 0.05, ..random::Options::default() };
    let n_changed = run(part, Some("hoist"), |seed| random::loops(seed, &options));
    let n = variable("COTANGENT_GRAPHS", N_GRAPHS);
    assert!(n < N_GRAPHS || n_changed > n / N_PARTS / 2, "something leaves the loops of {n_changed} graphs only");
}

#[test]
fn random_graphs_first_part() {
    random_graphs(0);
}

#[test]
fn random_graphs_second_part() {
    random_graphs(1);
}

#[test]
fn random_graphs_third_part() {
    random_graphs(2);
}

#[test]
fn random_graphs_fourth_part() {
    random_graphs(3);
}

#[test]
fn random_loops_first_part() {
    random_loops(0);
}

#[test]
fn random_loops_second_part() {
    random_loops(1);
}

#[test]
fn random_loops_third_part() {
    random_loops(2);
}

#[test]
fn random_loops_fourth_part() {
    random_loops(3);
}
