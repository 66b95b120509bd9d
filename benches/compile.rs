//! Time of compilation by stage, for nets of several depths and for chains of pointwise ops.
//!
//! ```text
//! cargo bench --bench compile
//! ```
//!
//! The passes and the planner should grow linearly with the number of nodes: the last column is the exponent of passes and plan
//! together, from the chain of the same kind before to this one. Chains of more than 10,000 links are compiled once.

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

/// A chain of `n` links and the gradient of its sum.
fn with_gradient(n: usize, link: impl for<'g> Fn(usize, Tensor<'g>) -> Tensor<'g>) -> Graph {
    build(|g| {
        let x = g.input("x", F32, [2, 2]);
        let y = (0..n).fold(x, |y, k| link(k, y));
        g.output("y", y);
        g.output("dx", g.grad(y.sum(), &[x])[0]);
    })
    .expect("the chain is well formed")
}

/// `n` times tanh, with the gradient.
fn tanhs(n: usize) -> Graph {
    with_gradient(n, |_, y| y.tanh())
}

/// The same with other links between.
fn links(n: usize) -> Graph {
    with_gradient(n, |k, y| match k % 3 {
        0 => y.tanh(),
        1 => y * 1.5,
        _ => y.t(),
    })
}

fn main() {
    let workloads = [
        ("mlp, 1 hidden layer", mlp(1)),
        ("mlp, 3 hidden layers", mlp(3)),
        ("mlp, 10 hidden layers", mlp(10)),
        ("chain of 100", chain(100)),
        ("chain of 1000", chain(1000)),
        ("chain of 10000", chain(10_000)),
        ("tanh 10000, gradient", tanhs(10_000)),
        ("tanh 30000, gradient", tanhs(30_000)),
        ("links 10000, gradient", links(10_000)),
        ("links 100000, gradient", links(100_000)),
    ];
    println!("medians of {N_ROUNDS} compilations, milliseconds\n");
    println!(
        "{:<24} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "program", "nodes", "passes", "plan", "codegen", "total", "exponent"
    );
    let kind = |name: &str| name.split(' ').next().unwrap_or_default().to_owned();
    let mut before: Option<(String, usize, Duration)> = None;
    for (name, graph) in workloads {
        let n_rounds = if graph.n_nodes() > 20_000 { 1 } else { N_ROUNDS };
        let mut rounds: Vec<_> = (0..n_rounds)
            .map(|_| Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{name}: {error}")).timings())
            .collect();
        rounds.sort_by_key(|timings| timings.total);
        let median = rounds[n_rounds / 2];
        let cells = [median.passes, median.plan, median.codegen, median.total];
        let cells: String = cells.iter().map(|time: &Duration| format!(" {:>9.2}", time.as_secs_f64() * 1e3)).collect();
        let (n_nodes, time) = (graph.n_nodes(), median.passes + median.plan);
        let exponent = before.filter(|(of, ..)| *of == kind(name)).map_or(String::new(), |(_, n, earlier)| {
            let exponent = (time.as_secs_f64() / earlier.as_secs_f64()).ln() / (n_nodes as f64 / n as f64).ln();
            format!(" {exponent:>9.2}")
        });
        println!("{name:<24} {n_nodes:>7}{cells}{exponent}");
        before = (!name.starts_with("mlp")).then(|| (kind(name), n_nodes, time));
    }
}
