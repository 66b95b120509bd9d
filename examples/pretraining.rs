//! Unsupervised pre-training: what an auto-encoder learns from digits without labels, a classifier need not learn from few.
//!
//! ```text
//! cargo run --release --example pretraining
//! ```
//!
//! A denoising auto-encoder of 512 sigmoids sees 20,000 pictures with holes and fills the holes in. Then a classifier of the
//! same shape is trained from a handful of labeled pictures of each digit, several times with other pictures: from fresh
//! weights, on the encoder as it is, and with everything trained on from the encoder. Labels, steps and rate are the same for
//! all. A fresh net of ReLUs stands beside them, because that is what one would take without pre-training.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::safetensors::Tensors;
use cotangent::data::{Dataset, LastBatch, Mnist, Order};
use cotangent::prelude::*;
use cotangent::train::checkpoint::tensors_of;
use cotangent::train::plot::{Plot, save_grid};
use cotangent::train::{CrossEntropy, Options, Trainer};
use ndarray::{Array2, ArrayView2};

const BATCH: usize = 128;
const WIDTH: usize = 512;
/// Labeled pictures of each digit.
const COUNTS: [usize; 4] = [3, 10, 30, 100];
/// Test pictures that are shown, with holes and filled in.
const SHOWN: usize = 5;
const SIDE: usize = 28;

/// What the hidden layer makes of pictures `[n, 784]`: `[n, 512]`.
fn encoder(pictures: Tensor<'_>) -> Tensor<'_> {
    pictures.dense("encoder", WIDTH).sigmoid()
}

type Net = for<'g> fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>;

/// How a classifier starts and what of it is trained.
struct Way<'a> {
    name: &'static str,
    net: Net,
    weights: Option<&'a Tensors>,
    recipe: Recipe,
}

fn classifier<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    encoder(pictures).dense("head", 10)
}

fn of_relus<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    pictures.layer("hidden", Dense::new(WIDTH).init(Init::HeUniform)).relu().dense("head", 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("pictures", "pictures without labels (20000)"),
        ("epochs", "passes of the auto-encoder over them (6)"),
        ("steps", "steps of each classifier (400)"),
        ("runs", "runs with other labeled pictures that each error is the mean of (3)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/pretraining)"),
    ];
    let flags = flags::Flags::parse("Pre-training by an auto-encoder", &known);
    let (n_pictures, epochs) = (flags.get("pictures", 20_000usize)?, flags.get("epochs", 6u64)?);
    let (steps, runs) = (flags.get("steps", 400usize)?, flags.get("runs", 3u64)?.max(1));
    let out = flags.get("out", PathBuf::from("target/pretraining"))?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let (train, test) = Mnist::find()?.into_parts();
    let (train, test) = (train.into_dataset(), test.into_dataset());

    let (weights, shown) = pretrain(&runtime, &train.head(n_pictures), &test, epochs)?;

    let frozen = Recipe::new().group(Group::named("encoder.").frozen());
    let way = |name, net, weights, recipe| Way { name, net, weights, recipe };
    let ways = [
        way("fresh weights", classifier, None, Recipe::new()),
        way("fresh weights, ReLUs", of_relus, None, Recipe::new()),
        way("the encoder as it is, new head", classifier, Some(&weights), frozen),
        way("trained on from the encoder", classifier, Some(&weights), Recipe::new()),
    ];
    println!("\ntest error, %, from so many labeled pictures of each digit: mean and deviation of {runs} runs");
    println!("{:32}{}", "", COUNTS.map(|n| format!("{n:>14}")).concat());
    let mut plot = Plot::new("The same net from the same labels")
        .x_label("labeled pictures of each digit")
        .y_label("test error, %")
        .log_x();
    let mut all = Vec::new();
    for way in ways {
        let mut errors = Vec::new();
        for count in COUNTS {
            let run = |run| learn(&runtime, &way, [&train, &test], count, steps, run);
            errors.push((0..runs).map(run).collect::<Result<Vec<f64>, _>>()?);
        }
        let figures = errors.iter().map(|errors| spread(errors));
        println!("{:32}{}", way.name, figures.map(|(mean, by)| format!("{mean:8.1} ±{by:4.1}")).collect::<String>());
        plot = plot.dotted_line(way.name, COUNTS.iter().map(|&n| n as f64).zip(errors.iter().map(|e| spread(e).0)));
        all.push(errors);
    }
    let better = |count: usize| all[3][count].iter().zip(&all[0][count]).filter(|(tuned, fresh)| tuned < fresh).count();
    let won: Vec<String> = (0..COUNTS.len()).map(|count| format!("{} of {runs}", better(count))).collect();
    println!("trained on from the encoder beats fresh weights in {} runs", won.join(", "));

    let path = out.join("pretraining.svg");
    let pictures = Plot::new("Test pictures, with holes, and filled in by the auto-encoder").without_ticks();
    let pictures = pictures.heat((0.0, SHOWN as f64), (0.0, 3.0), shown.view());
    save_grid(&path, &format!("{n_pictures} digits without labels, and a few with"), 2, &[pictures, plot])?;
    println!("wrote {}", path.display());
    Ok(())
}

/// The encoder's weights after training the auto-encoder, and some test pictures as drawn by [`montage`].
fn pretrain(
    runtime: &Runtime,
    pictures: &Dataset,
    test: &Dataset,
    epochs: u64,
) -> Result<(Tensors, Array2<f64>), Box<dyn Error>> {
    let compile = |n: usize, training: bool| -> Result<_, Box<dyn Error>> {
        let graph = build(|g| {
            let x = g.input("x", F32, [n, SIDE * SIDE]);
            // A third of the pixels is missing. What remains is not scaled up, so that it looks as it did.
            let with_holes = x.layer("holes", Dropout::new(1.0 / 3.0).classic());
            let logits = encoder(with_holes).dense("decoder", SIDE * SIDE);
            let loss = logits.bce_with_logits(x).mean();
            g.output("loss", loss);
            if training {
                g.minimize(loss, Adam::new(1e-3));
            } else {
                g.output("with_holes", with_holes);
                g.output("filled", logits.sigmoid());
            }
        })?;
        Ok(Compiler::new().compile(&graph)?)
    };
    let mut session = Session::new(runtime, compile(BATCH, true)?, Seed(1))?;
    for epoch in 0..epochs {
        let (mut sum, mut n) = (0.0, 0.0);
        for (x, _) in pictures.shuffled_batches(BATCH, 1).last(LastBatch::Drop).epoch(epoch) {
            sum += session.step(("x", &x))?.scalar("loss")?;
            n += 1.0;
        }
        println!("auto-encoder, epoch {}: loss {:.4}", epoch + 1, sum / n);
    }
    let show = session.load(compile(SHOWN, false)?)?;
    let (x, _) = test.batches(SHOWN).next().ok_or("the test set is not empty")?;
    let results = session.run(show, [("x", (&x).into())])?;
    let rows = |values: Vec<f64>| Array2::from_shape_vec((SHOWN, SIDE * SIDE), values);
    let original = rows(x.iter().map(|&v| f64::from(v)).collect())?;
    let (holes, filled) = (rows(results.tensor("with_holes")?.to_f64())?, rows(results.tensor("filled")?.to_f64())?);
    let shown = montage(&[filled.view(), holes.view(), original.view()]);
    let weights = tensors_of(session.store(), ["encoder.weight", "encoder.bias"])?;
    Ok((weights, shown))
}

/// Pictures `[n, 784]` side by side, a row for each set, the first at the bottom; rows of the result go upwards.
fn montage(sets: &[ArrayView2<'_, f64>]) -> Array2<f64> {
    let n = sets.first().map_or(0, |set| set.nrows());
    Array2::from_shape_fn((sets.len() * SIDE, n * SIDE), |(y, x)| {
        let (set, place) = (&sets[y / SIDE], x / SIDE);
        set[[place, (SIDE - 1 - y % SIDE) * SIDE + x % SIDE]]
    })
}

/// The test error in percent after learning from so many labeled pictures of each digit.
fn learn(
    runtime: &Runtime,
    way: &Way<'_>,
    [train, test]: [&Dataset; 2],
    count: usize,
    steps: usize,
    run: u64,
) -> Result<f64, Box<dyn Error>> {
    // Balanced batches have every digit equally often, so the first of them is a sample with so many of each.
    let mut batches = train.shuffled_batches(10 * count, run).order(Order::Balanced);
    let (x, y) = batches.next().ok_or("the set is not empty")?;
    let few = Dataset::new(x, y)?;
    let batch_size = few.len().min(32);
    let options = Options {
        epochs: (steps / few.len().div_ceil(batch_size)).max(1),
        batch_size,
        eval_batch_size: 1000,
        seed: Seed(run),
        progress: false,
        ..Options::default()
    };
    let mut trainer = Trainer::new(runtime, way.net, CrossEntropy, Adam::new(3e-3).with(way.recipe.clone()), options);
    if let Some(weights) = way.weights {
        let loaded = trainer.load_weights(weights, &few)?;
        assert_eq!((loaded.missing.len(), loaded.unused.len()), (2, 0), "only the head is new: {loaded:?}");
    }
    trainer.fit(&few, None)?;
    Ok(100.0 * (1.0 - trainer.evaluate(test)?.accuracy.unwrap_or_default()))
}

/// Mean and standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
}
