//! MNIST: a net of two hidden layers learns to read digits, better than 98 % of the test set within a minute.
//!
//! ```text
//! cargo run --release --example mnist -- --threads 2 --epochs 12
//! ```
//!
//! The net is a function from pictures to logits. The trainer compiles it with its gradient and Adam into one program for
//! each size of batch that it meets, feeds them shuffled batches, and evaluates on programs without dropout on the same
//! store. The learning rate falls along a cosine: it is a value in the store, so nothing is compiled again.
//!
//! Everything follows from the seed. The checksum of the weights is the same for any number of threads, to the bit.
//!
//! What the compiler made of the train step is written to `--out`: the graph before and after the passes, the graph with
//! a frame around what runs in one kernel, the plan, and the reason for every fusion that was made or not.

mod flags;

use std::error::Error;
use std::f64::consts::PI;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cotangent::data::Mnist;
use cotangent::prelude::*;
use cotangent::train::callbacks::after_epoch;
use cotangent::train::{CrossEntropy, Options, Trainer};

const BATCH: usize = 128;
const RATE: f64 = 2e-3;

/// Logits `[batch, 10]` of pictures `[batch, 784]`.
fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    let hidden = pictures.dense("first", 256).relu().dropout("drop_first", 0.2);
    let hidden = hidden.dense("second", 128).relu().dropout("drop_second", 0.2);
    hidden.dense("out", 10)
}

/// The learning rate after a share of the training from 0 to 1.
fn rate(done: f64) -> f64 {
    RATE * 0.5 * (1.0 + (PI * done).cos())
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("threads", "number of threads (2)"),
        ("epochs", "passes over the training set (12)"),
        ("seed", "seed of weights, shuffles and dropout (1)"),
        ("out", "folder of the pictures and reports (target/mnist)"),
    ];
    let flags = flags::Flags::parse("A net that reads handwritten digits", &known);
    let (n_threads, epochs) = (flags.get("threads", 2)?, flags.get("epochs", 12)?);
    let seed = Seed(flags.get("seed", 1)?);
    let out = flags.get("out", PathBuf::from("target/mnist"))?;

    let step = train_step()?;
    write_reports(&step, &out)?;

    let (train, test) = Mnist::find()?.into_parts();
    println!("{} pictures to train on, {} to test on", train.len(), test.len());
    let runtime = Runtime::new(Threads::Exactly(n_threads));
    let options = Options { epochs, batch_size: BATCH, seed, ..Options::default() };
    let mut trainer = Trainer::new(&runtime, net, CrossEntropy, Adam::new(RATE), options);
    let start = Instant::now();
    let after = after_epoch(|epoch, store| {
        println!("{epoch}");
        store.set("optimizer.lr", rate(epoch.number as f64 / epochs as f64) as f32)?;
        Ok(ControlFlow::Continue(()))
    });
    let history = trainer.fit_with(train.dataset(), Some(test.dataset()), after)?;
    let in_steps: f64 = history.iter().map(|epoch| epoch.seconds).sum();
    println!(
        "{} threads, {:.1} s in all, {in_steps:.1} s of them training: {:.0} pictures per second",
        runtime.n_threads(),
        start.elapsed().as_secs_f64(),
        (train.len() * history.len()) as f64 / in_steps
    );
    println!("checksum of the weights: {:016x}", trainer.weights_checksum()?);
    let accuracy = trainer.evaluate(test.dataset())?.accuracy.unwrap_or_default();
    println!("test accuracy: {:.2} %", 100.0 * accuracy);
    Ok(())
}

/// The train step as the trainer builds it: loss, gradient and update in one graph.
fn train_step() -> Result<Arc<Executable>, Box<dyn Error>> {
    let graph = build(|g| {
        let x = g.input("x", F32, [BATCH, 784]);
        let y = g.input("y", I64, [BATCH]);
        let loss = net(g, x).cross_entropy(y).mean();
        g.output("loss", loss);
        g.minimize(loss, Adam::new(RATE));
    })?;
    Ok(Compiler::new().compile(&graph)?)
}

fn write_reports(step: &Executable, out: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(out)?;
    let files = [
        ("before.dot", step.dot(StageView::Source)),
        ("before.txt", step.text(StageView::Source)),
        ("after.dot", step.dot(StageView::Optimized)),
        ("after.txt", step.text(StageView::Optimized)),
        ("fused.dot", step.dot(StageView::Fused)),
        ("plan.txt", step.plan_text()),
        ("fusion.txt", step.explain()),
    ];
    for (name, text) in &files {
        std::fs::write(out.join(name), text)?;
    }
    println!(
        "train step: {} nodes as written, {} after the passes, {} steps in the plan, compiled in {:.0} ms",
        step.source().n_nodes(),
        step.optimized().n_nodes(),
        step.plan().steps.len(),
        step.timings().total.as_secs_f64() * 1e3
    );
    println!("wrote {} to {}", files.map(|file| file.0).join(", "), out.display());
    Ok(())
}
