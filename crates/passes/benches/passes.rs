//! Time of the whole pipeline for training steps of perceptrons of about 100, 1,000 and 10,000 nodes: it should grow
//! with the number of nodes and not much faster.

use std::time::Instant;

use cotangent_graph::DType::{F32, I64};
use cotangent_graph::{Graph, Init, Tensor, build};
use cotangent_passes::{PassOptions, optimize};

/// A training step of a perceptron with `depth` hidden layers, updated by Adam.
fn train_step(depth: usize) -> Graph {
    let graph = build(|g| {
        let (mut h, labels) = (g.input("x", F32, [32, 64]), g.input("y", I64, [32]));
        let mut params: Vec<(String, Tensor<'_>)> = Vec::new();
        for layer in 0..=depth {
            let (name, n) = (format!("layer{layer}"), if layer == depth { 10 } else { 64 });
            let w = g.param(&format!("{name}.w"), F32, [64, n], Init::GlorotUniform);
            let b = g.param(&format!("{name}.b"), F32, [n], Init::ZEROS);
            h = h.matmul(w) + b;
            h = if layer == depth { h } else { h.relu() };
            params.extend([(format!("{name}.w"), w), (format!("{name}.b"), b)]);
        }
        let loss = h.cross_entropy(labels).mean();
        g.output("loss", loss);
        let targets: Vec<Tensor<'_>> = params.iter().map(|p| p.1).collect();
        let step = g.state("step", F32, [], Init::ZEROS);
        let t = step + 1.0f64;
        g.update(step, t);
        let correction = |beta: f64| 1.0f64 - g.scalar(beta, F32).pow(t);
        for ((name, p), d) in params.iter().zip(g.grad(loss, &targets)) {
            let m = g.state(&format!("{name}.m"), F32, p.shape(), Init::ZEROS);
            let v = g.state(&format!("{name}.v"), F32, p.shape(), Init::ZEROS);
            let (m2, v2) = (m * 0.9f64 + d * 0.1f64, v * 0.999f64 + d * d * 0.001f64);
            g.update(m, m2);
            g.update(v, v2);
            g.update(*p, *p - m2 / correction(0.9) * 1e-3f64 / ((v2 / correction(0.999)).sqrt() + 1e-8f64));
        }
    });
    graph.unwrap_or_else(|diags| panic!("{diags}"))
}

/// How often every graph is optimized, small ones more often.
const ROUNDS: usize = 8;

fn main() {
    let options = PassOptions { verify: false, ..PassOptions::default() };
    let depths = [1, 20, 220];
    let graphs = depths.map(train_step);
    // The best of many, in rounds over all sizes, so that what else runs on the machine slows none of them alone.
    let mut best = [f64::INFINITY; 3];
    let mut last = [None, None, None];
    for _ in 0..ROUNDS {
        for (k, graph) in graphs.iter().enumerate() {
            // Small graphs are done several times a round: their turns are as long as those of the largest, nearly.
            for _ in 0..(depths[2] / depths[k]).min(20) {
                let start = Instant::now();
                last[k] = optimize(graph, &options).ok();
                best[k] = best[k].min(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    let mut smaller: Option<(usize, f64)> = None;
    for (k, depth) in depths.into_iter().enumerate() {
        let (graph, best) = (&graphs[k], best[k]);
        let Some(done) = &last[k] else { continue };
        let (before, after) = (graph.n_nodes(), done.graph.n_nodes());
        let exponent = smaller.map(|(n, time)| (best / time).ln() / (before as f64 / n as f64).ln());
        let exponent = exponent.map_or(String::new(), |e| format!("  exponent {e:.2}"));
        println!("{before:>6} -> {after:<6} nodes {best:>8.0} us  {:.2} us a node{exponent}", best / after as f64);
        smaller = Some((before, best));
        if depth != 20 {
            done.report.iter().for_each(|line| println!("    {line}"));
        }
    }
}
