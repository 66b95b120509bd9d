//! How the weights start, and what normalization does about it: a net of twenty layers that learns, or does not.
//!
//! ```text
//! cargo run --release --example initialization
//! ```
//!
//! Before training: the standard deviation of the activations, layer by layer. ReLU halves the second moment, so weights of
//! variance 2/n keep the signal (He et al. 2015); smaller ones let it die, larger ones let it explode. Then the same nets
//! learn to read digits, with and without batch and layer norm.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::{LastBatch, Mnist};
use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};

const BATCH: usize = 128;
const WIDTH: usize = 100;
const DEPTH: usize = 20;
const RATE: f64 = 0.01;

#[derive(Clone, Copy, PartialEq)]
enum Norm {
    None,
    Batch,
    Layer,
}

/// Logits, and the activations of each hidden layer.
fn net<'g>(x: Tensor<'g>, init: Init, norm: Norm) -> (Tensor<'g>, Vec<Tensor<'g>>) {
    let mut x = x;
    let mut activations = Vec::new();
    for layer in 0..DEPTH {
        x = x.layer(&format!("layer{layer}"), Dense::new(WIDTH).init(init));
        let name = format!("norm{layer}");
        x = match norm {
            Norm::None => x,
            Norm::Batch => x.layer(&name, BatchNorm::new()),
            Norm::Layer => x.layer(&name, LayerNorm::new()),
        };
        x = x.relu();
        activations.push(x);
    }
    (x.dense("out", 10), activations)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("steps", "steps of training for each net (300)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/initialization)"),
    ];
    let flags = flags::Flags::parse("Starts of the weights, and normalizations, of a deep net", &known);
    let (steps, n_threads) = (flags.get("steps", 300usize)?, flags.get("threads", 2)?);
    let out = flags.get("out", PathBuf::from("target/initialization"))?;
    let runtime = Runtime::new(Threads::Exactly(n_threads));
    let mnist = Mnist::bundled()?;

    let starts = [
        ("normal, 0.01", Init::normal(0.0, 0.01)),
        ("Glorot normal", Init::GlorotNormal),
        ("He normal", Init::HeNormal),
        ("orthogonal, √2", Init::orthogonal(2f64.sqrt())),
        ("normal, 0.3", Init::normal(0.0, 0.3)),
    ];
    let mut deviations =
        Plot::new("Before training: the signal, layer by layer").x_label("layer").y_label("standard deviation").log_y();
    println!("standard deviation of the activations of {DEPTH} layers of {WIDTH} ReLUs:\n");
    println!("{:<18}{:>12}{:>12}{:>12}", "", "layer 1", "layer 10", "layer 20");
    let (pictures, _) = mnist.train().dataset().batches(BATCH).next().ok_or("no pictures")?;
    for (name, init) in starts {
        let graph = build(|g| {
            let (_, activations) = net(g.input("x", F32, [BATCH, 784]), init, Norm::None);
            for (layer, x) in activations.into_iter().enumerate() {
                g.output(&format!("deviation{layer}"), x.variance(&[0, 1]).sqrt());
            }
        })?;
        let mut session = Session::new(&runtime, Compiler::new().compile(&graph)?, Seed(1))?;
        let results = session.step([("x", (&pictures).into())])?;
        let of = |layer: usize| results.scalar(&format!("deviation{layer}"));
        let values = (0..DEPTH).map(of).collect::<Result<Vec<f64>, Diag>>()?;
        println!("{name:<18}{:>12.2e}{:>12.2e}{:>12.2e}", values[0], values[9], values[19]);
        deviations = deviations.dotted_line(name, values.into_iter().enumerate().map(|(k, v)| (k as f64 + 1.0, v)));
    }

    let runs = [
        ("normal, 0.01", Init::normal(0.0, 0.01), Norm::None),
        ("Glorot normal", Init::GlorotNormal, Norm::None),
        ("He normal", Init::HeNormal, Norm::None),
        ("normal, 0.01, batch norm", Init::normal(0.0, 0.01), Norm::Batch),
        ("normal, 0.01, layer norm", Init::normal(0.0, 0.01), Norm::Layer),
    ];
    let mut losses = Plot::new("Training").x_label("step").y_label("loss, mean of the last 20 steps").y_range(0.0, 2.5);
    println!("\nloss after {steps} steps of {BATCH} digits, gradient descent with momentum, rate {RATE}:\n");
    for (name, init, norm) in runs {
        let graph = build(|g| {
            let (logits, _) = net(g.input("x", F32, [BATCH, 784]), init, norm);
            let loss = logits.cross_entropy(g.input("y", I64, [BATCH])).mean();
            g.output("loss", loss);
            g.minimize(loss, Momentum::new(RATE, 0.9).with(Recipe::new().clip_norm(1.0)));
        })?;
        let mut session = Session::new(&runtime, Compiler::new().compile(&graph)?, Seed(1))?;
        let mut recent = Vec::new();
        let mut curve = Vec::new();
        let epochs =
            (0..).flat_map(|epoch| mnist.train().shuffled_batches(BATCH, 1).last(LastBatch::Drop).epoch(epoch));
        for (step, (x, y)) in epochs.take(steps).enumerate() {
            let loss = session.step([("x", (&x).into()), ("y", (&y).into())])?.scalar("loss")?;
            recent.push(loss);
            let window = &recent[recent.len().saturating_sub(20)..];
            curve.push((step as f64, window.iter().sum::<f64>() / window.len() as f64));
        }
        println!("{name:<26}{:>8.4}", curve.last().map_or(f64::NAN, |p| p.1));
        losses = losses.line(name, curve);
    }
    let path = out.join("initialization.svg");
    save_grid(&path, "A net of 20 layers", 2, &[deviations, losses])?;
    println!("\nwrote {}", path.display());
    Ok(())
}
