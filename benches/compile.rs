//! Time of compilation by stage, for nets of several depths and for chains of pointwise ops.
//!
//! ```text
//! cargo bench --bench compile
//! ```
//!
//! The passes and the planner should grow linearly with the number of nodes: the last column is the exponent of passes and plan
//! together, from the chain before to this one.

use std::time::Duration;

use cotangent::graph::Graph;
use cotangent::prelude::*;

const N_ROUNDS: usize = 5;

/// A train step of a net of `depth` hidden layers.
fn mlp(depth: usize) -> Graph {
    build(|g| {
        let mut x = g.input("x", F32, [64, 784]);
        for k in 0..depth {
            x = x.dense(&format!("layer{k}"), 128).relu();
        }
        let loss = x.dense("out", 10).cross_entropy(g.input("y", I64, [64])).mean();
        g.output("loss", loss);
        g.minimize(loss, Adam::new(1e-3));
    })
    .expect("the net is well formed")
}

/// A chain of `n` ops that nothing simplifies.
fn chain(n: usize) -> Graph {
    build(|g| {
        let x = g.input("x", F32, [1000]);
        let mut y = x;
        for k in 0..n {
            y = match k % 3 {
                0 => y * x,
                1 => y + x,
                _ => y.tanh(),
            };
        }
        g.output("y", y);
    })
    .expect("the chain is well formed")
}

fn main() {
    let workloads = [
        ("mlp, 1 hidden layer", mlp(1)),
        ("mlp, 3 hidden layers", mlp(3)),
        ("mlp, 10 hidden layers", mlp(10)),
        ("chain of 100", chain(100)),
        ("chain of 1000", chain(1000)),
        ("chain of 10000", chain(10_000)),
    ];
    println!("medians of {N_ROUNDS} compilations, milliseconds\n");
    println!(
        "{:<24} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "program", "nodes", "passes", "plan", "codegen", "total", "exponent"
    );
    let mut before: Option<(usize, Duration)> = None;
    for (name, graph) in workloads {
        let mut rounds: Vec<_> = (0..N_ROUNDS)
            .map(|_| Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{name}: {error}")).timings())
            .collect();
        rounds.sort_by_key(|timings| timings.total);
        let median = rounds[N_ROUNDS / 2];
        let cells = [median.passes, median.plan, median.codegen, median.total];
        let cells: String = cells.iter().map(|time: &Duration| format!(" {:>9.2}", time.as_secs_f64() * 1e3)).collect();
        let now = (graph.n_nodes(), median.passes + median.plan);
        let exponent = |(n, time): (usize, Duration)| {
            (now.1.as_secs_f64() / time.as_secs_f64()).ln() / (now.0 as f64 / n as f64).ln()
        };
        let exponent = before.map_or(String::new(), |before| format!(" {:>9.2}", exponent(before)));
        println!("{name:<24} {:>7}{cells}{exponent}", graph.n_nodes());
        before = name.starts_with("chain").then_some(now);
    }
}
