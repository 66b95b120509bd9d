//! The random graphs are what the differential tests need: deterministic, well formed, mostly finite, and rich.

use std::collections::BTreeMap;

use cotangent_graph::interp::interpret;
use cotangent_graph::ops::region::{ANCHOR, TUPLE};
use cotangent_graph::{Graph, Registry, Stage, verify};
use cotangent_testkit::random::{self, Options};

const N_GRAPHS: u64 = 300;

fn show(seed: u64, graph: &Graph) -> String {
    format!("seed {seed}:\n{graph}")
}

#[test]
fn graphs_and_values_are_reproducible() {
    for seed in 0..50 {
        let (a, b) = (random::graph(seed, &Options::default()), random::graph(seed, &Options::default()));
        assert_eq!(a.to_string(), b.to_string());
        let (env_a, env_b) = (random::env(&a, seed), random::env(&b, seed));
        assert_eq!(env_a.values, env_b.values);
        assert_eq!(env_a.counters, env_b.counters);
    }
    assert_ne!(
        random::graph(1, &Options::default()).to_string(),
        random::graph(2, &Options::default()).to_string().replace("random2", "random1")
    );
}

#[test]
fn graphs_are_well_formed_and_have_values() {
    let options = Options { grads: false, ..Options::default() };
    let (mut n_outputs, mut n_finite) = (0, 0);
    for seed in 0..N_GRAPHS {
        let graph = random::graph(seed, &options);
        let errors = verify(&graph, Stage::Source);
        assert!(errors.is_empty(), "{errors:?}\n{}", show(seed, &graph));
        let outputs = interpret(&graph, &random::env(&graph, seed));
        let outputs = outputs.unwrap_or_else(|diag| panic!("{diag}\n{}", show(seed, &graph)));
        for output in outputs {
            n_outputs += 1;
            n_finite += usize::from(output.to_f64().iter().all(|v| v.is_finite()));
        }
    }
    assert!(n_finite * 100 >= n_outputs * 90, "only {n_finite} of {n_outputs} outputs are finite");
}

#[test]
fn every_op_of_the_registry_occurs() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    fn count(graph: &Graph, counts: &mut BTreeMap<&str, usize>) {
        for node in graph.nodes() {
            *counts.entry(node.op.0.name).or_default() += 1;
        }
        graph.bodies().iter().for_each(|body| count(body, counts));
    }
    for seed in 0..N_GRAPHS {
        count(&random::graph(seed, &Options::default()), &mut counts);
    }
    // Tuples and anchors are made by passes; the user's way to several values is a call.
    let registry = Registry::builtin();
    let users = registry.iter().filter(|op| !op.is_any(&[&TUPLE, &ANCHOR]));
    let missing: Vec<&str> = users.map(|op| op.0.name).filter(|n| !counts.contains_key(n)).collect();
    assert!(missing.is_empty(), "these ops never occur: {missing:?}; counts {counts:?}");
}
