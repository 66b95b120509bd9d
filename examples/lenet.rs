//! LeNet reads MNIST's digits, 99.4 % of the test set after five epochs, and shows what it looks for.
//!
//! ```text
//! cargo run --release --example lenet -- --threads 2 --epochs 5
//! ```
//!
//! Two convolutions of 5×5, each followed by max-pooling, and two dense layers, with pictures channels last, `[n, 28, 28, 1]`. The
//! pictures in `--out` show the 20 filters of the first convolution, and what these and the 50 of the second make of a few test
//! pictures: a program of its own with the weights of the trained one, whose results are the feature maps.

mod flags;

use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use cotangent::data::{Dataset, Mnist};
use cotangent::prelude::*;
use cotangent::train::callbacks::after_epoch;
use cotangent::train::plot::{Plot, save_grid};
use cotangent::train::{CrossEntropy, Options, Trainer};
use ndarray::Array2;

const BATCH: usize = 64;
/// Test pictures whose feature maps are shown.
const SHOWN: usize = 2;

/// What the two convolutions make of pictures `[n, 784]`: `[n, 24, 24, 20]` and `[n, 8, 8, 50]`.
fn feature_maps(pictures: Tensor<'_>) -> [Tensor<'_>; 2] {
    let conv = |n_filters| Conv::new(n_filters, &[5, 5]).init(Init::HeNormal);
    let first = pictures.reshape([pictures.dim(0), 28, 28, 1]).layer("first", conv(20)).relu();
    let second = first.layer("pool_first", MaxPool::new(&[2, 2])).layer("second", conv(50)).relu();
    [first, second]
}

/// Logits `[n, 10]` of pictures `[n, 784]`.
fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    let [_, maps] = feature_maps(pictures);
    let x = maps.layer("pool_second", MaxPool::new(&[2, 2])).flatten();
    x.layer("hidden", Dense::new(500).init(Init::HeNormal)).relu().dropout("drop", 0.5).dense("out", 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("threads", "number of threads (2)"),
        ("epochs", "passes over the training set (5)"),
        ("pictures", "how many pictures to train on (60000)"),
        ("seed", "seed of weights, shuffles and dropout (1)"),
        ("out", "folder of the pictures (target/lenet)"),
    ];
    let flags = flags::Flags::parse("LeNet on MNIST", &known);
    let (epochs, seed) = (flags.get("epochs", 5usize)?, Seed(flags.get("seed", 1)?));
    let out = flags.get("out", PathBuf::from("target/lenet"))?;
    let (train, test) = Mnist::find()?.into_parts();
    let (train, test) = (train.into_dataset().head(flags.get("pictures", 60_000)?), test.into_dataset());

    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let n_steps = epochs * train.len().div_ceil(BATCH);
    let optimizer = Adam::new(1e-3).with(Recipe::new().schedule(Schedule::cosine(n_steps as u64)));
    let options = Options { epochs, batch_size: BATCH, seed, ..Options::default() };
    let mut trainer = Trainer::new(&runtime, net, CrossEntropy, optimizer, options);
    let start = Instant::now();
    let say = after_epoch(|epoch, _| {
        println!("{epoch}");
        Ok(ControlFlow::Continue(()))
    });
    trainer.fit_with(&train, Some(&test), say)?;
    let accuracy = trainer.evaluate(&test)?.accuracy.unwrap_or_default();
    println!("{:.1} s; test accuracy: {:.2} %", start.elapsed().as_secs_f64(), 100.0 * accuracy);

    let path = out.join("lenet.svg");
    save_grid(&path, "LeNet on MNIST", 3, &pictures(&runtime, trainer.store(), &test)?)?;
    println!("wrote {}", path.display());
    Ok(())
}

/// The filters of the first layer, and the feature maps of some test pictures after both, with trained weights.
fn pictures(runtime: &Runtime, trained: &Store, test: &Dataset) -> Result<Vec<Plot>, Box<dyn Error>> {
    let graph = build(|g| {
        let [first, second] = feature_maps(g.input("x", F32, [SHOWN, 784]));
        g.output("first", first);
        g.output("second", second);
    })?;
    let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(0))?;
    for name in ["first.weight", "first.bias", "second.weight", "second.bias"] {
        session.store_mut().set(name, trained.get(name)?)?;
    }
    let (x, _) = test.batches(SHOWN).next().ok_or("the test set is not empty")?;
    let maps = session.step(("x", &x))?;
    let plot = |title: &str, values: Array2<f64>| {
        let (rows, columns) = values.dim();
        Plot::new(title).without_ticks().heat((0.0, columns as f64), (0.0, rows as f64), values.view())
    };
    // A filter `[5, 5, 1, 20]` is a place along the last axis; so is a map of a picture.
    let filters = tiles(&trained.get("first.weight")?.to_f64(), 1, 5, 20, 5);
    let first = tiles(&maps.tensor("first")?.to_f64(), SHOWN, 24, 20, 10);
    let second = tiles(&maps.tensor("second")?.to_f64(), SHOWN, 8, 50, 10);
    Ok(vec![
        plot("The filters of the first layer", filters),
        plot("What they make of two test pictures", first),
        plot("What the second layer makes of them", second),
    ])
}

/// Maps `[n, side, side, channels]` side by side with a gap, `columns` in a row, those of an example behind those of the one before;
/// each scaled to `[0, 1]`. Rows of the result go upwards, so they come from the last.
fn tiles(values: &[f64], n: usize, side: usize, channels: usize, columns: usize) -> Array2<f64> {
    let map = |i: usize| {
        let (example, channel) = (i / channels, i % channels);
        let at = move |y: usize, x: usize| values[((example * side + y) * side + x) * channels + channel];
        let all = (0..side * side).map(|k| at(k / side, k % side));
        let (low, high) = all.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        move |y: usize, x: usize| (at(y, x) - low) / (high - low).max(1e-12)
    };
    let maps: Vec<_> = (0..n * channels).map(map).collect();
    let (rows, cell) = (maps.len().div_ceil(columns), side + 1);
    // Gaps are between maps alone, so the lowest row has none beneath.
    Array2::from_shape_fn((rows * cell - 1, columns * cell - 1), |(y, x)| {
        let (row, y) = (rows - 1 - (y + 1) / cell, cell - 1 - (y + 1) % cell);
        let (column, x) = (x / cell, x % cell);
        match maps.get(row * columns + column) {
            Some(map) if y < side && x < side => map(y, x),
            // The gaps in a color of their own, for much of a map is 0.
            _ => -0.3,
        }
    })
}
