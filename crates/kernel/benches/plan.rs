//! How planning scales: training steps of deep multilayer perceptrons, and other shapes of graphs that tempt a clusterer to
//! be quadratic. Prints microseconds per node, which should not grow with the number of nodes.

use std::time::Instant;

use cotangent_graph::{DType, Graph, Init, Tensor, build};
use cotangent_kernel::{ClusterOptions, cluster, plan, verify_plan};
use cotangent_passes::{PassOptions, optimize};

const F32: DType = DType::F32;

/// Forward, backward and momentum updates of `depth` layers.
fn mlp(depth: usize) -> Option<Graph> {
    let graph = build(|g| {
        let mut x = g.input("x", F32, [32, 16]);
        let mut weights = Vec::new();
        for i in 0..depth {
            let w = g.param(&format!("w{i}"), F32, [16, 16], Init::GlorotUniform);
            let b = g.param(&format!("b{i}"), F32, [16], Init::ZEROS);
            x = (x.matmul(w) + b).relu();
            weights.extend([w, b]);
        }
        let loss = x.square().mean();
        g.output("loss", loss);
        for (i, (w, dw)) in weights.iter().zip(g.grad(loss, &weights)).enumerate() {
            let v = g.state(&format!("v{i}"), F32, w.shape(), Init::ZEROS);
            let next = v * 0.9 + dw;
            g.update(v, next);
            g.update(*w, *w - next * 0.01);
        }
    });
    optimize(&graph.ok()?, &PassOptions::default()).ok().map(|o| o.graph)
}

/// A chain of pointwise ops with a skip from every tenth value to the end.
fn chain(n: usize) -> Option<Graph> {
    build(|g| {
        let mut x = g.input("x", F32, [64, 64]);
        let mut skips: Vec<Tensor<'_>> = Vec::new();
        for i in 0..n {
            x = if i % 2 == 0 { x.tanh() } else { x * x };
            if i % 10 == 0 {
                skips.push(x);
            }
        }
        for skip in skips {
            x += skip;
        }
        g.output("y", x);
    })
    .ok()
}

/// Many reductions whose results meet in one scalar.
fn norms(n: usize) -> Option<Graph> {
    build(|g| {
        let mut total = g.scalar(0.0, F32);
        for i in 0..n / 3 {
            let w = g.param(&format!("w{i}"), F32, [8 + i % 7, 16], Init::GlorotUniform);
            total += w.square().sum();
        }
        g.output("norm", total.sqrt());
    })
    .ok()
}

/// Makes the graph of about so many nodes.
type Family = fn(usize) -> Option<Graph>;

fn main() {
    let families: [(&str, Family); 3] = [("mlp", |n| mlp(n / 18)), ("chain", chain), ("norms", norms)];
    println!(
        "{:8} {:>7} {:>7} {:>12} {:>12} {:>12}",
        "graph", "nodes", "steps", "cluster µs/n", "plan µs/n", "verify µs/n"
    );
    for (name, family) in families {
        for n in [100, 1_000, 10_000] {
            let Some(graph) = family(n) else { continue };
            let options = ClusterOptions::default();
            let n = graph.n_nodes() as f64;
            let micros = |start: Instant| start.elapsed().as_secs_f64() * 1e6 / n;
            let start = Instant::now();
            let clusters = cluster::cluster(&graph, &options);
            let clustered = micros(start);
            let start = Instant::now();
            let Ok(plan) = plan(&graph, &options) else { continue };
            let planned = micros(start);
            let start = Instant::now();
            let errors = verify_plan(&plan);
            assert!(errors.is_empty() && !clusters.clusters.is_empty(), "{errors:?}");
            let verified = micros(start);
            println!("{name:8} {n:7} {:7} {clustered:12.2} {planned:12.2} {verified:12.2}", plan.steps.len());
        }
    }
}
