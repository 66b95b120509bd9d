//! A small convolutional net learns to read digits: two convolutions, each followed by pooling, and a dense layer.
//!
//! ```text
//! cargo run --release --example convolution -- --pictures 10000 --epochs 2
//! ```
//!
//! The first convolution is written out, as the layer [`Conv`] makes it: windows of the picture, which are a view, side by side as
//! the rows of a matrix, times the filters. Pooling is a reduction of windows, and so are their gradients: the compiler makes one
//! kernel of each, and `fusion.txt` in `--out` says how.

mod flags;

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use cotangent::data::Mnist;
use cotangent::graph::ops::windows::Windows;
use cotangent::prelude::*;
use cotangent::train::{CrossEntropy, Options, Trainer};

/// A convolution of `[n, h, w, channels]` with filters of `size` × `size`: `[n, h - size + 1, w - size + 1, n_filters]`.
fn convolution<'g>(x: Tensor<'g>, name: &str, size: usize, n_filters: usize) -> Tensor<'g> {
    let (g, k) = (x.builder(), size * size * x.dim(-1));
    let filters = g.param(&format!("{name}.weight"), F32, [k, n_filters], Init::GlorotUniform);
    let bias = g.param(&format!("{name}.bias"), F32, [n_filters], Init::ZEROS);
    let windows = x.windows(&Windows::new([1, 2], &[size, size]));
    let (n, h, w) = (windows.dim(0), windows.dim(1), windows.dim(2));
    (windows.reshape([n * h * w, k]).matmul(filters) + bias).reshape([n, h, w, n_filters])
}

/// Logits `[batch, 10]` of pictures `[batch, 784]`.
fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    let pictures = pictures.reshape([pictures.dim(0), 28, 28, 1]);
    let x = convolution(pictures, "first", 5, 8).relu().max_pool(&Windows::new([1, 2], &[2, 2]).stride(&[2, 2]));
    let x = x.layer("second", Conv::new(16, &[5, 5])).relu().layer("pool", MaxPool::new(&[2, 2]));
    x.flatten().dense("out", 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("threads", "number of threads (2)"),
        ("epochs", "passes over the training set (2)"),
        ("pictures", "how many pictures to train on (10000)"),
        ("out", "folder of the reports (target/convolution)"),
    ];
    let flags = flags::Flags::parse("A convolutional net that reads handwritten digits", &known);
    let out = flags.get("out", PathBuf::from("target/convolution"))?;
    let (train, test) = Mnist::find()?.into_parts();
    let train = train.into_dataset().head(flags.get("pictures", 10_000)?);

    let graph = build(|g| {
        let (x, y) = (g.input("x", F32, [64, 784]), g.input("y", I64, [64]));
        g.minimize(net(g, x).cross_entropy(y).mean(), Adam::new(1e-3));
    })?;
    let step = Compiler::new().compile(&graph)?;
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("fusion.txt"), step.explain())?;
    std::fs::write(out.join("plan.txt"), step.plan_text())?;
    println!("train step compiled in {:.1} ms", step.timings().total.as_secs_f64() * 1e3);

    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let options = Options { epochs: flags.get("epochs", 2)?, batch_size: 64, ..Options::default() };
    let mut trainer = Trainer::new(&runtime, net, CrossEntropy, Adam::new(1e-3), options);
    let start = Instant::now();
    for epoch in trainer.fit(&train, None)?.iter() {
        println!("{epoch}");
    }
    let accuracy = trainer.evaluate(test.dataset())?.accuracy.unwrap_or_default();
    println!("{:.1} s; test accuracy: {:.2} %", start.elapsed().as_secs_f64(), 100.0 * accuracy);
    Ok(())
}
