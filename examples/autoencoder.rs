//! A convolutional auto-encoder: pictures of digits through a bottleneck of a few numbers and back.
//!
//! ```text
//! cargo run --release --example autoencoder -- --code 16 --epochs 3
//! ```
//!
//! The encoder halves the picture twice by max-pooling, the decoder doubles it twice. Doubling needs no op of its own: a tensor
//! `[n, h, w, c]` is seen as `[n, h, 1, w, 1, c]`, repeated to `[n, h, 2, w, 2, c]` and seen as `[n, 2h, 2w, c]`, all of them views,
//! and a convolution smooths what comes out. Test pictures and what is left of them are drawn side by side. After three epochs 16
//! numbers leave a mean square error of 0.020 a pixel, where the mean picture leaves 0.065.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::{LastBatch, Mnist};
use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};
use ndarray::Array2;

const BATCH: usize = 64;
const SIDE: usize = 28;
/// Test pictures that are shown.
const SHOWN: usize = 8;
/// Test pictures that are measured.
const TESTED: usize = 1000;

fn conv(n_filters: usize) -> Conv {
    Conv::new(n_filters, &[3, 3]).padding(Padding::Same).init(Init::HeNormal)
}

/// Every element of `[n, h, w, c]` four times: `[n, 2h, 2w, c]`.
fn doubled(x: Tensor<'_>) -> Tensor<'_> {
    let [n, h, w, c] = [0, 1, 2, 3].map(|axis| x.dim(axis));
    x.reshape([n, h, 1, w, 1, c]).broadcast_to([n, h, 2, w, 2, c]).reshape([n, 2 * h, 2 * w, c])
}

/// Pictures `[n, 784]` as `[n, code]`.
fn encoder(pictures: Tensor<'_>, code: usize) -> Tensor<'_> {
    let x = pictures.reshape([pictures.dim(0), SIDE, SIDE, 1]);
    let x = x.layer("encoder.first", conv(16)).relu().layer("encoder.pool_first", MaxPool::new(&[2, 2]));
    let x = x.layer("encoder.second", conv(16)).relu().layer("encoder.pool_second", MaxPool::new(&[2, 2]));
    x.flatten().dense("encoder.code", code)
}

/// Logits of pixels, `[n, 784]`, of codes `[n, code]`.
fn decoder(codes: Tensor<'_>) -> Tensor<'_> {
    let x = codes.layer("decoder.code", Dense::new(7 * 7 * 16).init(Init::HeNormal)).relu();
    let x = doubled(x.reshape([codes.dim(0), 7, 7, 16])).layer("decoder.first", conv(16)).relu();
    doubled(x).layer("decoder.second", conv(16)).relu().layer("decoder.out", conv(1)).flatten()
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("code", "numbers that a picture is squeezed into (16)"),
        ("pictures", "how many pictures to train on (20000)"),
        ("epochs", "passes over them (3)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/autoencoder)"),
    ];
    let flags = flags::Flags::parse("A convolutional auto-encoder of digits", &known);
    let (code, epochs) = (flags.get("code", 16usize)?, flags.get("epochs", 3u64)?);
    let out = flags.get("out", PathBuf::from("target/autoencoder"))?;
    let (train, test) = Mnist::find()?.into_parts();
    let train = train.into_dataset().head(flags.get("pictures", 20_000)?);
    if train.len() < BATCH {
        return Err(format!("--pictures {}: required at least a batch of {BATCH}", train.len()).into());
    }

    let compile = |n: usize, training: bool| -> Result<_, Box<dyn Error>> {
        let graph = build(|g| {
            let x = g.input("x", F32, [n, SIDE * SIDE]);
            let logits = decoder(encoder(x, code));
            let loss = logits.bce_with_logits(x).mean();
            g.output("loss", loss);
            if training {
                g.minimize(loss, Adam::new(1e-3));
            } else {
                g.output("pictures", logits.sigmoid());
                g.output("error", logits.sigmoid().mse(x));
            }
        })?;
        Ok(Compiler::new().compile(&graph)?)
    };
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let mut session = Session::new(&runtime, compile(BATCH, true)?, Seed(1))?;
    let evaluation = session.load(compile(TESTED, false)?)?;
    let (shown, _) = test.batches(TESTED).next().ok_or("the test set is not empty")?;
    let mut errors = Vec::new();
    for epoch in 0..epochs {
        let (mut sum, mut n) = (0.0, 0.0);
        for (x, _) in train.shuffled_batches(BATCH, 1).last(LastBatch::Drop).epoch(epoch) {
            sum += session.step(("x", &x))?.scalar("loss")?;
            n += 1.0;
        }
        let error = session.run(evaluation, ("x", &shown))?.scalar("error")?;
        println!("epoch {}: loss {:.4}, mean square error of test pictures {error:.5}", epoch + 1, sum / n);
        errors.push(((epoch + 1) as f64, error));
    }

    // What one makes of a picture without looking at it: the mean of all.
    let originals: Vec<f64> = shown.iter().map(|&v| f64::from(v)).collect();
    let mean =
        |pixel: usize| train.features().iter().skip(pixel).step_by(SIDE * SIDE).sum::<f32>() / train.len() as f32;
    let mean: Vec<f64> = (0..SIDE * SIDE).map(|pixel| f64::from(mean(pixel))).collect();
    let squares = originals.iter().zip(mean.iter().cycle()).map(|(v, mean)| (v - mean).powi(2));
    let of_mean = squares.sum::<f64>() / originals.len() as f64;
    println!("784 pixels as {code} numbers; the mean picture in the place of each has an error of {of_mean:.5}");

    let made = session.run(evaluation, ("x", &shown))?.tensor("pictures")?.to_f64();
    // Rows of a heat map go upwards: the originals are on top.
    let sets = [&made, &originals];
    let montage = Array2::from_shape_fn((2 * SIDE, SHOWN * SIDE), |(y, x)| {
        let pixel = (SIDE - 1 - y % SIDE) * SIDE + x % SIDE;
        sets[y / SIDE][x / SIDE * SIDE * SIDE + pixel]
    });
    let pictures = Plot::new(format!("Test pictures, and what is left after {code} numbers")).without_ticks();
    let highest = errors.iter().map(|point| point.1).fold(of_mean, f64::max);
    let curve =
        Plot::new("Error of test pictures").x_label("epoch").y_label("mean square error").y_range(0.0, highest * 1.1);
    let plots = [
        pictures.heat((0.0, SHOWN as f64), (0.0, 2.0), montage.view()),
        curve.dotted_line("auto-encoder", errors).level("the mean picture", of_mean),
    ];
    let path = out.join("autoencoder.svg");
    save_grid(&path, "A convolutional auto-encoder", 2, &plots)?;
    println!("wrote {}", path.display());
    Ok(())
}
