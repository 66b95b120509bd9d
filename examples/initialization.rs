//! How the weights start, and what normalization does about it: a net of twenty layers that learns, or does not.
//!
//! ```text
//! cargo run --release --example initialization
//! ```
//!
//! Before training: the standard deviation of the activations, layer by layer. ReLU halves the second moment, so weights of
//! variance 2/n keep the signal (He et al. 2015); smaller ones let it die, larger ones let it explode. Then the same nets
//! learn to read digits, with and without norms: from weights that are too small only batch norm leads out, which
//! tells the pictures of a batch apart; those that work on each picture by itself do not in so many steps. Last, the three ways in which batch norm
//! gets its statistics for the test.

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
    Batch(Statistics),
    Layer,
    Rms,
    Group,
}

/// What batch norm keeps for the test unless told otherwise.
const EXPONENTIAL: Statistics = Statistics::Exponential { momentum: 0.1 };

/// Logits, and the activations of each hidden layer.
fn net<'g>(x: Tensor<'g>, init: Init, norm: Norm) -> (Tensor<'g>, Vec<Tensor<'g>>) {
    let mut x = x;
    let mut activations = Vec::new();
    for layer in 0..DEPTH {
        x = x.layer(&format!("layer{layer}"), Dense::new(WIDTH).init(init));
        let name = format!("norm{layer}");
        x = match norm {
            Norm::None => x,
            Norm::Batch(statistics) => x.layer(&name, BatchNorm::new().statistics(statistics)),
            Norm::Layer => x.layer(&name, LayerNorm::new()),
            Norm::Rms => x.layer(&name, RmsNorm::new()),
            Norm::Group => x.layer(&name, GroupNorm::new(10)),
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
    let mnist = Mnist::find()?;

    let starts = [
        ("normal, 0.01", Init::normal(0.0, 0.01)),
        ("LeCun normal", Init::LecunNormal),
        ("Glorot normal", Init::GlorotNormal),
        ("He normal", Init::HeNormal),
        ("orthogonal, √2", Init::orthogonal(2f64.sqrt())),
        // What is left within two deviations has 0.88 of one: as He, for layers of 100.
        ("truncated normal, 0.16", Init::truncated_normal(0.0, 0.16)),
        ("normal, 0.3", Init::normal(0.0, 0.3)),
    ];
    let mut deviations =
        Plot::new("Before training: the signal, layer by layer").x_label("layer").y_label("standard deviation").log_y();
    println!("standard deviation of the activations of {DEPTH} layers of {WIDTH} ReLUs:\n");
    println!("{:<24}{:>12}{:>12}{:>12}", "", "layer 1", "layer 10", "layer 20");
    let (pictures, _) = mnist.train().dataset().batches(BATCH).next().ok_or("no pictures")?;
    for (name, init) in starts {
        let graph = build(|g| {
            let (_, activations) = net(g.input("x", F32, [BATCH, 784]), init, Norm::None);
            for (layer, x) in activations.into_iter().enumerate() {
                g.output(&format!("deviation{layer}"), x.variance_over([0, 1]).sqrt());
            }
        })?;
        let mut session = Session::new(&runtime, Compiler::new().compile(&graph)?, Seed(1))?;
        let results = session.step(("x", &pictures))?;
        let of = |layer: usize| results.scalar(&format!("deviation{layer}"));
        let values = (0..DEPTH).map(of).collect::<Result<Vec<f64>, Diag>>()?;
        println!("{name:<24}{:>12.2e}{:>12.2e}{:>12.2e}", values[0], values[9], values[19]);
        // Those left out would lie on others.
        if !["LeCun normal", "orthogonal, √2"].contains(&name) {
            deviations = deviations.dotted_line(name, values.into_iter().enumerate().map(|(k, v)| (k as f64 + 1.0, v)));
        }
    }

    let small = Init::normal(0.0, 0.01);
    let runs = [
        ("normal, 0.01", small, Norm::None),
        ("Glorot normal", Init::GlorotNormal, Norm::None),
        ("He normal", Init::HeNormal, Norm::None),
        ("normal, 0.01, batch norm", small, Norm::Batch(EXPONENTIAL)),
        ("normal, 0.01, layer norm", small, Norm::Layer),
        ("normal, 0.01, RMS norm", small, Norm::Rms),
        ("normal, 0.01, group norm", small, Norm::Group),
    ];
    let mut losses = Plot::new("Training").x_label("step").y_label("loss, mean of the last 20 steps").y_range(0.0, 2.5);
    println!("\nloss after {steps} steps of {BATCH} digits, gradient descent with momentum, rate {RATE}:\n");
    for (name, init, norm) in runs {
        let (_, curve) = train(&runtime, &mnist, init, norm, steps)?;
        println!("{name:<26}{:>8.4}", curve.last().map_or(f64::NAN, |p| p.1));
        if !matches!(norm, Norm::Rms | Norm::Group) {
            losses = losses.line(name, curve);
        }
    }

    // Training is the same whatever is averaged on the way; what is kept for the test is not.
    println!("\ntest error of the net with batch norm, %, with statistics that are\n");
    let (mut session, _) = train(&runtime, &mnist, small, Norm::Batch(EXPONENTIAL), steps)?;
    println!("{:<44}{:>6.2}", "exponential averages", test_error(&mut session, &mnist)?);
    let (mut averaged, _) = train(&runtime, &mnist, small, Norm::Batch(Statistics::Average), steps)?;
    println!("{:<44}{:>6.2}", "averages over all of the training", test_error(&mut averaged, &mnist)?);
    calibrate(&mut session, &mnist, steps)?;
    println!("{:<44}{:>6.2}", "those of a pass over the data afterwards", test_error(&mut session, &mnist)?);

    let path = out.join("initialization.svg");
    save_grid(&path, "A net of 20 layers", 2, &[deviations, losses])?;
    println!("\nwrote {}", path.display());
    Ok(())
}

/// Step and loss.
type Curve = Vec<(f64, f64)>;

/// A net after so many steps, and its losses.
fn train(
    runtime: &Runtime,
    mnist: &Mnist,
    init: Init,
    norm: Norm,
    steps: usize,
) -> Result<(Session, Curve), Box<dyn Error>> {
    let graph = build(|g| {
        let (logits, _) = net(g.input("x", F32, [BATCH, 784]), init, norm);
        let loss = logits.cross_entropy(g.input("y", I64, [BATCH])).mean();
        g.output("loss", loss);
        // No component of the gradient above a half, and none of it longer than 1.
        g.minimize(loss, Momentum::new(RATE, 0.9).with(Recipe::new().clip_value(0.5).clip_norm(1.0)));
    })?;
    let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(1))?;
    let mut recent = Vec::new();
    let mut curve = Vec::new();
    let epochs = (0..).flat_map(|epoch| mnist.train().shuffled_batches(BATCH, 1).last(LastBatch::Drop).epoch(epoch));
    for (step, (x, y)) in epochs.take(steps).enumerate() {
        let loss = session.step(inputs![x, y])?.scalar("loss")?;
        recent.push(loss);
        let window = &recent[recent.len().saturating_sub(20)..];
        curve.push((step as f64, window.iter().sum::<f64>() / window.len() as f64));
    }
    Ok((session, curve))
}

/// A program of the net with batch norm on the store of a session, for evaluation or for a pass over the training data.
fn load(session: &mut Session, n: usize, mode: Mode) -> Result<ProgramId, Box<dyn Error>> {
    let graph = build(|g| {
        g.set_mode(mode);
        let (logits, _) = net(g.input("x", F32, [n, 784]), Init::ZEROS, Norm::Batch(EXPONENTIAL));
        g.output("n_correct", logits.n_correct(g.input("y", I64, [n])));
    })?;
    Ok(session.load(Compiler::new().compile(&graph)?)?)
}

/// In percent.
fn test_error(session: &mut Session, mnist: &Mnist) -> Result<f64, Box<dyn Error>> {
    let set = mnist.test().dataset();
    let program = load(session, set.len(), Mode::Evaluate)?;
    let (x, y) = set.batches(set.len()).next().ok_or("no pictures")?;
    let n_correct = session.run(program, [("x", (&x).into()), ("y", (&y).into())])?.scalar("n_correct")?;
    Ok(100.0 * (1.0 - n_correct / set.len() as f64))
}

/// Measures the statistics anew, on as many batches as were trained on.
fn calibrate(session: &mut Session, mnist: &Mnist, n_batches: usize) -> Result<(), Box<dyn Error>> {
    let program = load(session, BATCH, Mode::Calibrate)?;
    for layer in 0..DEPTH {
        session.store_mut().set(&format!("norm{layer}.rows"), 0i64)?;
    }
    for (x, y) in mnist.train().batches(BATCH).last(LastBatch::Drop).take(n_batches) {
        session.run(program, [("x", (&x).into()), ("y", (&y).into())])?;
    }
    Ok(())
}
