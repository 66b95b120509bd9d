//! Compiled programs against the oracle, on random graphs: outputs, updates and gradients, bit for bit.
//!
//! Every graph is compiled with and without fusion; both programs must give what the interpreter gives for the optimized
//! graph, any NaN being equal to any other. `COTANGENT_GRAPHS` sets the number of graphs (1,000), `COTANGENT_SEED` the
//! first seed (0), so that a failure, which names its seed, is tried again with
//! `COTANGENT_GRAPHS=1 COTANGENT_SEED=… cargo test --test differential`.

use std::sync::Arc;

use cotangent::exec::InputView;
use cotangent::graph::interp::interpret_named;
use cotangent::graph::{Env, Graph, TensorData};
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
    let inputs: Vec<(&str, InputView<'_>)> =
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

/// What is wrong with the programs of a seed, if anything.
fn check(seed: u64, runtime: &Runtime) -> Result<(), String> {
    let graph = random::graph(seed, &random::Options::default());
    let env = random::env(&graph, seed);
    let mut expected = None;
    for fuse in [true, false] {
        let what = if fuse { "fused" } else { "unfused" };
        let program = Compiler::new().fuse(fuse).compile(&graph).map_err(|e| format!("{what}: {e}"))?;
        let expected = expected.get_or_insert_with(|| oracle(program.optimized(), &env));
        let got = execute(&program, runtime, &env).map_err(|e| format!("{what}: {e}"))?;
        if let Some(text) = difference(&got, expected) {
            return Err(format!("{what}: {text}\n{}", program.text(StageView::Optimized)));
        }
    }
    Ok(())
}

fn run(part: u64) {
    let (n, first) = (variable("COTANGENT_GRAPHS", N_GRAPHS), variable("COTANGENT_SEED", 0));
    let runtime = Runtime::new(Threads::Exactly(1 + part as usize % 2));
    let mut failures = Vec::new();
    for seed in (first..first + n).filter(|seed| seed % N_PARTS == part) {
        if let Err(text) = check(seed, &runtime) {
            eprintln!("seed {seed}: {text}");
            failures.push(seed);
        }
    }
    let again = "try one again with COTANGENT_GRAPHS=1 COTANGENT_SEED=… cargo test --test differential";
    assert!(failures.is_empty(), "seeds {failures:?} failed; {again}");
}

#[test]
fn random_graphs_first_part() {
    run(0);
}

#[test]
fn random_graphs_second_part() {
    run(1);
}

#[test]
fn random_graphs_third_part() {
    run(2);
}

#[test]
fn random_graphs_fourth_part() {
    run(3);
}
