//! Losses: what each makes of an error, of outliers, of rare classes and of wrong labels.
//!
//! ```text
//! cargo run --release --example losses
//! ```
//!
//! A line is drawn through points of which some are far off: the squared error follows them, the absolute error and Huber's
//! hardly do. Digits are learned from a set in which half of them are rare, plainly, with weights for the classes, and from
//! balanced batches. Then a tenth of the labels is wrong. Label smoothing keeps the net from learning these by heart, so that it
//! errs less; it also makes it less sure than it has reason to be. Where it is known which labels are worthless, they are
//! ignored, and that is best.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::{Dataset, Mnist, Order, synthetic};
use cotangent::prelude::*;
use cotangent::train::metrics::{Confusion, classes, softmax};
use cotangent::train::plot::{Plot, save_grid};
use cotangent::train::{Options, Trainer, WeightedCrossEntropy};
use ndarray::{Array1, Array2, ArrayD, s};

/// Points of the line, and every how many-th is far off.
const N_POINTS: usize = 60;
const OUTLIER: usize = 6;
const TRUE_LINE: [f32; 2] = [1.5, 0.5];
/// Pictures of each of the digits 0 to 4; of 5 to 9 there are fewer by `RARITY`.
const FREQUENT: usize = 500;
const RARITY: usize = 50;
/// The label of pictures that do not count.
const IGNORED: i64 = -1;

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("steps", "steps of fitting a line (2000)"),
        ("epochs", "passes over the digits (8)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/losses)"),
    ];
    let flags = flags::Flags::parse("Losses, and what each is good for", &known);
    let (steps, epochs) = (flags.get("steps", 2000usize)?, flags.get("epochs", 8usize)?.max(1));
    let out = flags.get("out", PathBuf::from("target/losses"))?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));

    let mut plots = curves(&runtime)?.to_vec();
    plots.push(lines(&runtime, steps)?);
    one_number_in_four_ways(&runtime)?;
    let (train, test) = Mnist::find()?.into_parts();
    let (train, test) = (train.into_dataset(), test.into_dataset());
    plots.push(rare_classes(&runtime, &train, &test, epochs)?);
    plots.extend(wrong_labels(&runtime, &train, &test, epochs)?);
    let path = out.join("losses.svg");
    save_grid(&path, "Losses", 2, &plots)?;
    println!("\nwrote {}", path.display());
    Ok(())
}

// ---- formulas ----------------------------------------------------------------------------------------------------------

/// A loss element by element: of predictions and targets, or of scores and labels of -1 and 1.
type Formula = for<'g> fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>;

const OF_A_DIFFERENCE: [(&str, Formula); 3] = [
    ("squared", |a, y| (a - y).square()),
    ("absolute", |a, y| (a - y).abs()),
    ("Huber, δ = 1", |a, y| a.huber(y, 1.0)),
];

const OF_A_MARGIN: [(&str, Formula); 3] = [
    ("hinge", |a, y| a.hinge(y)),
    // Its targets are 0 and 1.
    ("log-loss", |a, y| a.bce_with_logits(y * 0.5 + 0.5)),
    ("what is counted", |a, y| (-a * y).threshold()),
];

/// The losses as functions of the difference to the target, and of the score of an example of class 1.
fn curves(runtime: &Runtime) -> Result<[Plot; 2], Box<dyn Error>> {
    const N: usize = 301;
    let a = Array1::linspace(-3.0f32, 3.0, N);
    let draw = |mut plot: Plot, target: f64, formulas: &[(&str, Formula)]| -> Result<Plot, Box<dyn Error>> {
        for (name, formula) in formulas {
            let graph = build(|g| {
                let a = g.input("a", F32, [N]);
                g.output("loss", formula(a, a.constant_like(target).broadcast_to([N])));
            })?;
            let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(1))?;
            let results = session.step(("a", &a))?;
            let loss = results.view::<f32>("loss")?;
            plot = plot.line(*name, a.iter().zip(loss.iter()).map(|(&a, &loss)| (f64::from(a), f64::from(loss))));
        }
        Ok(plot)
    };
    let differences = Plot::new("Losses of a difference").x_label("prediction − target").y_label("loss");
    let margins = Plot::new("Losses of a score").x_label("score of an example of the class").y_label("loss");
    Ok([draw(differences.y_range(0.0, 4.0), 0.0, &OF_A_DIFFERENCE)?, draw(margins, 1.0, &OF_A_MARGIN)?])
}

/// Cross-entropy, and what it is made of.
fn one_number_in_four_ways(runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    let graph = build(|g| {
        let (z, y) =
            (g.param("logits", F32, [4, 3], Init::normal(0.0, 2.0)), g.constant(Array1::from(vec![0i64, 2, 1, 2])));
        let (q, targets) = (z.log_softmax(1), y.is_class(3).cast(F32));
        g.output("cross_entropy", z.cross_entropy(y).mean());
        g.output("nll of log_softmax", q.nll(y).mean());
        g.output("soft_cross_entropy of targets 0 and 1", z.soft_cross_entropy(targets).mean());
        g.output("kl_divergence of targets 0 and 1", q.kl_divergence(targets).sum_over([1]).mean());
    })?;
    let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(1))?;
    let results = session.step(())?;
    println!("\none number in four ways:");
    for name in graph.outputs().iter().map(|output| output.name.to_string()) {
        println!("  {name:<40}{:.6}", results.scalar(&name)?);
    }
    Ok(())
}

// ---- outliers ----------------------------------------------------------------------------------------------------------

/// A line through points of which every sixth is far below, with each loss.
fn lines(runtime: &Runtime, steps: usize) -> Result<Plot, Box<dyn Error>> {
    let (x, mut y) = synthetic::linear_regression(N_POINTS, &TRUE_LINE[..1], TRUE_LINE[1], 0.2, 1).into_parts();
    // Most of them on the right, so that they do not merely shift the line.
    let is_outlier = |k: usize| k.is_multiple_of(OUTLIER) && x[[k, 0]] > -0.5;
    y.iter_mut().enumerate().filter(|(k, _)| is_outlier(*k)).for_each(|(_, y)| *y -= 6.0);
    let targets = Array2::from_shape_fn((N_POINTS, 1), |(k, _)| y[k]);
    let point = |k: usize| (f64::from(x[[k, 0]]), f64::from(y[k]));

    println!("a line y = {} x + {} through {N_POINTS} points, some of them far off:\n", TRUE_LINE[0], TRUE_LINE[1]);
    println!("{:<16}{:>10}{:>12}", "", "slope", "intercept");
    let mut plot = Plot::new("A line through points, some far off").x_label("x").y_label("y");
    for (name, formula) in OF_A_DIFFERENCE {
        let graph = build(|g| {
            let (x, y) = (g.input("x", F32, [N_POINTS, 1]), g.input("y", F32, [N_POINTS, 1]));
            let loss = formula(x.dense("line", 1), y).mean();
            g.minimize(loss, Adam::new(0.05).with(Recipe::new().schedule(Schedule::cosine(steps as u64))));
        })?;
        let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(1))?;
        for _ in 0..steps {
            session.step((("x", &x), ("y", &targets)))?;
        }
        let number = |name: &str| Ok::<f64, Diag>(session.store().get(name)?.to_f64()[0]);
        let (slope, intercept) = (number("line.weight")?, number("line.bias")?);
        println!("{name:<16}{slope:>10.3}{intercept:>12.3}");
        plot = plot.line(name, [-2.5, 2.5].map(|x| (x, slope * x + intercept)));
    }
    let (good, bad): (Vec<usize>, Vec<usize>) = (0..N_POINTS).partition(|&k| !is_outlier(k));
    Ok(plot.dots("points", good.into_iter().map(point)).dots("far off", bad.into_iter().map(point)))
}

// ---- digits ------------------------------------------------------------------------------------------------------------

fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    pictures.layer("hidden", Dense::new(200).init(Init::HeNormal)).relu().dense("out", 10)
}

/// Logits of the test pictures after training with an objective.
fn learn(
    runtime: &Runtime,
    train: &Dataset,
    test: &Dataset,
    objective: WeightedCrossEntropy,
    order: Order,
    epochs: usize,
) -> Result<ArrayD<f32>, Box<dyn Error>> {
    let options =
        Options { epochs, batch_size: 50, eval_batch_size: 1000, order, progress: false, ..Options::default() };
    let mut trainer = Trainer::new(runtime, net, objective, Adam::new(1e-3), options);
    trainer.fit(train, None)?;
    Ok(trainer.predict(test.features())?)
}

/// Half of the digits are rare: the error on each digit, with remedies and without.
fn rare_classes(runtime: &Runtime, train: &Dataset, test: &Dataset, epochs: usize) -> Result<Plot, Box<dyn Error>> {
    let mut counts = [0; 10];
    let mut places = Vec::new();
    for (place, &digit) in train.labels().iter().enumerate() {
        let wanted = if digit < 5 { FREQUENT } else { FREQUENT / RARITY };
        if counts[digit as usize] < wanted {
            counts[digit as usize] += 1;
            places.push(place);
        }
    }
    let train = train.select(&places)?;
    // As much weight for each class as a whole.
    let weights = counts.map(|n| train.len() as f64 / (10 * n) as f64);
    let ways = [
        ("plain", WeightedCrossEntropy::new(), Order::Shuffled),
        ("class weights", WeightedCrossEntropy::new().weights(weights), Order::Shuffled),
        ("balanced batches", WeightedCrossEntropy::new(), Order::Balanced),
    ];
    println!("\n{FREQUENT} pictures of 0 to 4 each, {} of 5 to 9; test errors in percent:\n", FREQUENT / RARITY);
    println!("{:<20}{:>10}{:>10}{:>10}", "", "0 to 4", "5 to 9", "all");
    let mut plot = Plot::new(format!("{FREQUENT} pictures of 0 to 4 each, {} of 5 to 9", FREQUENT / RARITY))
        .x_label("digit")
        .x_range(-0.5, 9.5)
        .y_label("test error, %");
    for (name, objective, order) in ways {
        let logits = learn(runtime, &train, test, objective, order, epochs)?;
        let confusion = Confusion::new(logits.view(), test.labels())?;
        let errors = confusion.recall().mapv(|recall| 100.0 * (1.0 - recall));
        let mean = |range: std::ops::Range<usize>| errors.slice(s![range]).mean().unwrap_or(f64::NAN);
        println!("{name:<20}{:>10.1}{:>10.1}{:>10.1}", mean(0..5), mean(5..10), 100.0 * (1.0 - confusion.accuracy()));
        plot = plot.dots(name, errors.iter().enumerate().map(|(digit, &error)| (digit as f64, error)));
    }
    Ok(plot)
}

/// A tenth of the labels is wrong: what the net makes of it, and how sure it is.
fn wrong_labels(
    runtime: &Runtime,
    train: &Dataset,
    test: &Dataset,
    epochs: usize,
) -> Result<[Plot; 2], Box<dyn Error>> {
    let (pictures, labels) = train.head(4000).into_parts();
    // Every tenth picture is labeled as the next digit, or is known to be mislabeled.
    let relabeled = |relabel: fn(i64) -> i64| {
        let label = |(k, &digit): (usize, &i64)| if k % 10 == 0 { relabel(digit) } else { digit };
        Dataset::new(pictures.clone(), labels.iter().enumerate().map(label).collect())
    };
    let (wrong, unknown) = (relabeled(|digit| (digit + 1) % 10)?, relabeled(|_| IGNORED)?);
    let smooth = |smoothing| WeightedCrossEntropy::new().smoothing(smoothing).ignore(IGNORED);
    let ways = [
        ("plain", &wrong, smooth(0.0)),
        ("smoothing 0.1", &wrong, smooth(0.1)),
        ("smoothing 0.3", &wrong, smooth(0.3)),
        ("wrong ones ignored", &unknown, smooth(0.0)),
    ];
    println!("\n{} digits, a tenth of them with a wrong label:\n", wrong.len());
    println!(
        "{:<22}{:>14}{:>14}{:>14}{:>22}",
        "", "test error, %", "test loss", "confidence, %", "where it is wrong, %"
    );
    let mut reliability = Plot::new("A tenth of the labels is wrong").x_label("confidence, %").y_label("right, %");
    let mut histogram = Plot::new("How sure it is").x_label("confidence, %").y_label("test pictures").log_y();
    for (name, train, objective) in ways {
        let logits = learn(runtime, train, test, objective, Order::Shuffled, epochs)?;
        let (probabilities, predicted) = (softmax(logits.view())?, classes(logits.view())?);
        let confidence: Vec<f64> =
            probabilities.outer_iter().map(|row| f64::from(row.iter().copied().fold(0.0, f32::max))).collect();
        let is_right: Vec<bool> = predicted.iter().zip(test.labels()).map(|(a, b)| a == b).collect();
        let loss = probabilities.outer_iter().zip(test.labels()).map(|(row, &y)| -f64::from(row[y as usize]).ln());
        let loss = loss.sum::<f64>() / test.len() as f64;
        let mean = |keep: fn(bool) -> bool| {
            let kept = || confidence.iter().zip(&is_right).filter(|(_, right)| keep(**right)).map(|(c, _)| 100.0 * c);
            kept().sum::<f64>() / kept().count() as f64
        };
        let error = 100.0 * is_right.iter().filter(|right| !**right).count() as f64 / test.len() as f64;
        println!("{name:<22}{error:>14.2}{loss:>14.3}{:>14.1}{:>22.1}", mean(|_| true), mean(|right| !right));
        // Ten classes of confidence.
        let mut bins = [(0.0, 0.0); 10];
        for (confidence, right) in confidence.iter().zip(&is_right) {
            let bin = &mut bins[((confidence * 10.0) as usize).min(9)];
            *bin = (bin.0 + 1.0, bin.1 + f64::from(u8::from(*right)));
        }
        let middle = |k: usize| 10.0 * k as f64 + 5.0;
        let filled = || bins.iter().enumerate().filter(|(_, (n, _))| *n >= 10.0);
        reliability = reliability.dotted_line(name, filled().map(|(k, (n, right))| (middle(k), 100.0 * right / n)));
        histogram = histogram.dotted_line(name, bins.iter().enumerate().map(|(k, (n, _))| (middle(k), *n)));
    }
    Ok([reliability.dashed("as sure as it should be", [(20.0, 20.0), (100.0, 100.0)]), histogram])
}
