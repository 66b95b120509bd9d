//! The lecture's net for MNIST: three hidden layers of 1024 ReLUs with dropout and max-norm (Srivastava et al. 2014, table 2:
//! 1.25 % test error with dropout, 1.06 % with max-norm as well).
//!
//! ```text
//! cargo run --release --example mnist_dropout                   # under a minute: what a few epochs give
//! cargo run --release --example mnist_dropout -- --epochs 100   # the whole of it
//! ```
//!
//! A fifth of the pixels and half of the hidden neurons are dropped in training. The weights into a neuron are no longer than
//! 2 after each update, which permits a high learning rate; it falls to zero along a cosine. All of that is in the compiled
//! step. The curve is written as a picture and as a table.

mod flags;

use std::error::Error;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use cotangent::data::Mnist;
use cotangent::data::files::write_text;
use cotangent::prelude::*;
use cotangent::train::callbacks::after_epoch;
use cotangent::train::{CrossEntropy, Options, Plot, Trainer};

const BATCH: usize = 128;

/// Logits `[batch, 10]` of pictures `[batch, 784]`.
fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    let mut x = pictures.dropout("drop_pictures", 0.2);
    for layer in ["first", "second", "third"] {
        x = x.layer(layer, Dense::new(1024).init(Init::HeNormal)).relu().dropout(&format!("drop_{layer}"), 0.5);
    }
    x.dense("out", 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("epochs", "passes over the training set (4)"),
        ("rate", "learning rate at the start (0.05)"),
        ("momentum", "share of the old momentum that is kept (0.95)"),
        ("max-norm", "largest length of the weights into a neuron (2)"),
        ("threads", "number of threads (2)"),
        ("seed", "seed of weights, shuffles and dropout (1)"),
        ("out", "folder of the curve (target/mnist_dropout)"),
    ];
    let flags = flags::Flags::parse("Dropout and max-norm on MNIST", &known);
    let (epochs, n_threads, seed) = (flags.get("epochs", 4usize)?, flags.get("threads", 2)?, flags.get("seed", 1)?);
    let (rate, momentum) = (flags.get("rate", 0.05)?, flags.get("momentum", 0.95)?);
    let max_norm = flags.get("max-norm", 2.0)?;
    let out = flags.get("out", PathBuf::from("target/mnist_dropout"))?;

    let (train, test) = Mnist::find()?.into_parts();
    let n_steps = epochs * train.len().div_ceil(BATCH);
    let recipe = Recipe::new().max_norm(max_norm).schedule(Schedule::cosine(n_steps as u64).warm_up(100));
    let optimizer = Momentum::new(rate, momentum).with(recipe);
    let options = Options { epochs, batch_size: BATCH, eval_batch_size: 1000, seed: Seed(seed), ..Options::default() };
    let runtime = Runtime::new(Threads::Exactly(n_threads));
    let mut trainer = Trainer::new(&runtime, net, CrossEntropy, optimizer, options);

    let start = Instant::now();
    let say = after_epoch(|epoch, _| {
        println!("{epoch}");
        Ok(ControlFlow::Continue(()))
    });
    let history = trainer.fit_with(train.dataset(), Some(test.dataset()), say)?;
    let error = |accuracy: Option<f64>| 100.0 * (1.0 - accuracy.unwrap_or_default());
    let curve: Vec<(f64, f64)> = history.iter().map(|e| (e.number as f64, error(e.validation_accuracy))).collect();
    let in_steps: f64 = history.iter().map(|epoch| epoch.seconds).sum();
    println!(
        "test error {:.2} % after {epochs} epochs, {:.0} s in all, {in_steps:.0} s of them training on {n_threads} threads",
        curve.last().map_or(f64::NAN, |last| last.1),
        start.elapsed().as_secs_f64()
    );

    let mut table = String::from("epoch,train_loss,test_loss,test_error_percent,seconds\n");
    for (epoch, (_, error)) in history.iter().zip(&curve) {
        let test_loss = epoch.validation_loss.unwrap_or_default();
        writeln!(table, "{},{},{test_loss},{error:.2},{:.3}", epoch.number, epoch.train_loss, epoch.seconds)?;
    }
    write_text(out.join("history.csv"), &table)?;
    Plot::new("MNIST: 784-1024-1024-1024-10, ReLU, dropout, max-norm")
        .x_label("epoch")
        .y_label("test error, %")
        .log_y()
        .line("", curve)
        .level("dropout, published", 1.25)
        .level("dropout and max-norm, published", 1.06)
        .save(out.join("error.svg"))?;
    println!("wrote error.svg and history.csv to {}", out.display());
    Ok(())
}
