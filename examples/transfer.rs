//! Transfer learning: what a net learned about the digits 0 to 4 helps it to tell 5 to 9 apart from few examples.
//!
//! ```text
//! cargo run --release --example transfer
//! cargo run --release --example transfer -- --body conv
//! ```
//!
//! A net learns the first five digits from all their pictures and is written to a file. Its body is read back under other
//! names into a net with a new head, which learns the other five digits from a handful of pictures each: with the body
//! frozen, with everything trained on, and from scratch for comparison. Frozen features of other digits are no help beyond a
//! few pictures: what 64 numbers made for 0 to 4 do not tell apart, no head can; the error stays near 14 % however many
//! pictures there are, where training on goes below 5 %.
//!
//! With `--body conv` it is otherwise: strokes are the same in all digits, and the 512 numbers that two convolutions make of them
//! leave a head enough. From 10 pictures of each digit the error is 6.7 % with the body frozen and 9.8 % from scratch, from 300 it
//! is 2.1 and 2.6 %, and 1.8 % where everything is trained on.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::safetensors::Tensors;
use cotangent::data::{Dataset, Mnist, Order};
use cotangent::prelude::*;
use cotangent::train::checkpoint::renamed;
use cotangent::train::plot::Plot;
use cotangent::train::{Checkpoint, CrossEntropy, Options, Trainer};

/// Pictures of each digit to learn from.
const COUNTS: [usize; 6] = [1, 3, 10, 30, 100, 300];

/// What is learned once and used twice: features `[n, k]` of pictures `[n, 784]`, by the layers `first` and `second`.
type Body = for<'g> fn(Tensor<'g>) -> Tensor<'g>;

fn dense(pictures: Tensor<'_>) -> Tensor<'_> {
    pictures.dense("first", 256).relu().dropout("drop", 0.3).dense("second", 64).relu()
}

fn conv(pictures: Tensor<'_>) -> Tensor<'_> {
    let x = pictures.reshape([pictures.dim(0), 28, 28, 1]);
    let x = x.layer("first", Conv::new(16, &[5, 5])).relu().layer("pool_first", MaxPool::new(&[2, 2]));
    let x = x.layer("second", Conv::new(32, &[5, 5])).relu().layer("pool_second", MaxPool::new(&[2, 2]));
    x.flatten().dropout("drop", 0.3)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("body", "dense, or conv for a convolutional one (dense)"),
        ("threads", "number of threads (2)"),
        ("runs", "runs with other examples that each error is the mean of (3)"),
        ("out", "folder of weights and picture (target/transfer)"),
    ];
    let flags = flags::Flags::parse("Five digits help to learn the other five", &known);
    let runs = flags.get("runs", 3u64)?.max(1);
    let body: Body = match flags.get("body", "dense".to_owned())?.as_str() {
        "dense" => dense,
        "conv" => conv,
        other => return Err(format!("--body {other}: required dense or conv").into()),
    };
    let out = flags.get("out", PathBuf::from("target/transfer"))?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let (train, test) = Mnist::find()?.into_parts();
    let (train, test) = (train.into_dataset(), test.into_dataset());

    let options = Options { epochs: 4, batch_size: 64, seed: Seed(1), ..Options::default() };
    let source = model(move |_, pictures| body(pictures).dense("out", 5));
    let mut teacher = Trainer::new(&runtime, source, CrossEntropy, Adam::new(1e-3), options);
    let learned = teacher.fit(&digits(&train, 0)?, Some(&digits(&test, 0)?))?;
    println!("0 to 4: {}", learned.last().ok_or("there was an epoch")?);
    let file = out.join("digits-0-4.safetensors");
    std::fs::create_dir_all(&out)?;
    teacher.checkpoint()?.write(&file)?;

    // The body under its new names; head, optimiser and callbacks' states are left behind.
    let weights = renamed(Checkpoint::read(&file)?.tensors, |name| {
        let is_body = name.starts_with("first.") || name.starts_with("second.");
        is_body.then(|| format!("body.{name}"))
    })?;
    println!("took {} from {}", weights.keys().cloned().collect::<Vec<_>>().join(", "), file.display());

    let (train, test) = (digits(&train, 5)?, digits(&test, 5)?);
    let frozen = Recipe::new().group(Group::named("body.").frozen());
    // A head alone is a small convex problem: it bears a higher rate, and with that of the others it would be half-way after
    // as many steps.
    let ways = [
        ("from scratch", None, Adam::new(1e-3).with(Recipe::new())),
        ("body frozen, new head", Some(&weights), Adam::new(1e-2).with(frozen)),
        ("everything trained on", Some(&weights), Adam::new(1e-3).with(Recipe::new())),
    ];
    println!(
        "\nerror on 5 to 9, %, from so many pictures of each digit:\n{:24}{}",
        "",
        row(&COUNTS.map(|n| n as f64), 0)
    );
    let mut plot = Plot::new("Learning 5 to 9 after 0 to 4").x_label("pictures of each digit").y_label("test error, %");
    plot = plot.log_x();
    for (name, weights, optimizer) in ways {
        let mut errors = [0.0; COUNTS.len()];
        for (error, count) in errors.iter_mut().zip(COUNTS) {
            for run in 0..runs {
                *error += learn(&runtime, body, [&train, &test], count, run, weights, optimizer.clone())? / runs as f64;
            }
        }
        println!("{name:24}{}", row(&errors, 1));
        plot = plot.dotted_line(name, COUNTS.iter().map(|&n| n as f64).zip(errors));
    }
    let path = out.join("transfer.svg");
    plot.save(&path)?;
    println!("wrote {}", path.display());
    Ok(())
}

/// The test error in percent after learning from so many examples of each digit.
fn learn(
    runtime: &Runtime,
    body: Body,
    [train, test]: [&Dataset; 2],
    count: usize,
    run: u64,
    weights: Option<&Tensors>,
    optimizer: impl Optimizer,
) -> Result<f64, Box<dyn Error>> {
    // Balanced batches have every digit equally often, so the first of them is a sample with so many of each.
    let mut batches = train.shuffled_batches(5 * count, run).order(Order::Balanced);
    let (x, y) = batches.next().ok_or("the set is not empty")?;
    let few = Dataset::new(x, y)?;
    // As many steps whatever the number of examples.
    let batch_size = few.len().min(32);
    let options = Options {
        epochs: 600 / few.len().div_ceil(batch_size),
        batch_size,
        eval_batch_size: 1000,
        seed: Seed(run),
        progress: false,
        ..Options::default()
    };
    let target = model(move |g, pictures| g.scope("body", || body(pictures)).dense("head", 5));
    let mut trainer = Trainer::new(runtime, target, CrossEntropy, optimizer, options);
    if let Some(weights) = weights {
        let loaded = trainer.load_weights(weights, &few)?;
        assert_eq!((loaded.missing.len(), loaded.unused.len()), (2, 0), "only the head is new: {loaded:?}");
    }
    trainer.fit(&few, None)?;
    Ok(100.0 * (1.0 - trainer.evaluate(test)?.accuracy.unwrap_or_default()))
}

/// The pictures of five digits from `first` on, labeled 0 to 4.
fn digits(set: &Dataset, first: i64) -> Result<Dataset, Box<dyn Error>> {
    let is_wanted = |&place: &usize| (first..first + 5).contains(&set.labels()[place]);
    let places: Vec<usize> = (0..set.len()).filter(is_wanted).collect();
    let (x, y) = set.select(&places)?.into_parts();
    Ok(Dataset::new(x, y - first)?)
}

fn row(numbers: &[f64], n_digits: usize) -> String {
    numbers.iter().map(|v| format!("{v:8.n_digits$}")).collect()
}
