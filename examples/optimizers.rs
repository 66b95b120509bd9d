//! Optimisers and schedules: the paths that they take through a valley, how fast they learn digits, how rates fall, and
//! larger batches instead of a smaller rate (Smith et al. 2017).
//!
//! ```text
//! cargo run --release --example optimizers
//! ```
//!
//! An optimiser is a formula in the graph, so all of them are compiled into the step, and a schedule with them. What follows
//! from a measurement, such as a plateau, is set in the store between steps.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::{Dataset, LastBatch, Mnist};
use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};
use cotangent::train::{CrossEntropy, Options, ReduceOnPlateau, Trainer};
use ndarray::Array2;

const BATCH: usize = 50;
/// Gradients of a step when they are accumulated.
const PARTS: usize = 4;
/// Steps in the valley.
const STEPS: usize = 60;

/// A name, an optimiser at a rate that suits digits, and the rate that it takes through the valley if its path is shown.
type Entry = (&'static str, Box<dyn Optimizer>, Option<Box<dyn Optimizer>>);

fn optimizers() -> Vec<Entry> {
    vec![
        ("SGD", Box::new(Sgd::new(0.1)), Some(Box::new(Sgd::new(0.07)))),
        ("momentum", Box::new(Momentum::new(0.02, 0.9)), Some(Box::new(Momentum::new(0.01, 0.9)))),
        ("Nesterov", Box::new(Nesterov::new(0.02, 0.9)), Some(Box::new(Nesterov::new(0.01, 0.9)))),
        ("AdaGrad", Box::new(AdaGrad::new(0.02)), Some(Box::new(AdaGrad::new(0.5)))),
        ("RMSprop", Box::new(RmsProp::new(1e-3)), Some(Box::new(RmsProp::new(0.1)))),
        ("Adam", Box::new(Adam::new(1e-3)), Some(Box::new(Adam::new(0.15)))),
        ("AdaDelta", Box::new(AdaDelta::new(1.0)), None),
        ("AMSGrad", Box::new(Adam::new(1e-3).amsgrad()), None),
        ("AdamW", Box::new(AdamW::new(1e-3, 0.01)), None),
        ("NAdam", Box::new(NAdam::new(1e-3)), None),
        ("Lion", Box::new(Lion::new(2e-4, 0.01)), None),
        ("LAMB", Box::new(Lamb::new(1e-2, 0.01)), None),
    ]
}

/// A valley that is 25 times as steep across as along.
fn height(w: [f64; 2]) -> f64 {
    0.5 * w[0].powi(2) + 12.5 * w[1].powi(2)
}

fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    pictures.dense("hidden", 100).relu().dense("out", 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("pictures", "pictures to train on (5000)"),
        ("epochs", "passes over them (6)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/optimizers)"),
    ];
    let flags = flags::Flags::parse("Optimisers and schedules", &known);
    let (n, epochs) = (flags.get("pictures", 5000usize)?, flags.get("epochs", 6usize)?.max(1));
    let out = flags.get("out", PathBuf::from("target/optimizers"))?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let (train, test) = Mnist::find()?.into_parts();
    let (train, test) = (train.into_dataset().head(n), test.into_dataset().head(4000));

    let mut paths =
        Plot::new("Paths through a valley").x_label("along").y_label("across").x_range(-3.2, 0.8).y_range(-1.2, 1.2);
    let floor = Array2::from_shape_fn((48, 80), |(row, column)| {
        let w = [-3.2 + 4.0 * (column as f64 + 0.5) / 80.0, -1.2 + 2.4 * (row as f64 + 0.5) / 48.0];
        (height(w) / 18.0).sqrt() - 0.2
    });
    paths = paths.heat((-3.2, 0.8), (-1.2, 1.2), floor.view());
    let mut losses = Plot::new("Digits").x_label("epoch").y_label("training loss").log_y();
    println!("{:12}{:>16}{:>14}", "", "training loss", "test error");
    let options = Options { epochs, batch_size: BATCH, eval_batch_size: 1000, progress: false, ..Options::default() };
    for (name, on_digits, in_valley) in optimizers() {
        let mut trainer = Trainer::new(&runtime, net, CrossEntropy, on_digits, options.clone());
        let history = trainer.fit(&train, Some(&test))?;
        let last = history.last().ok_or("there was an epoch")?;
        println!("{name:12}{:16.4}{:12.2} %", last.train_loss, error(last.validation_accuracy));
        if let Some(optimizer) = in_valley {
            paths = paths.line(name, path(&runtime, &optimizer)?);
            losses = losses.line(name, history.iter().map(|e| (e.number as f64, e.train_loss)));
        }
    }

    let difference = accumulated(&runtime, &train)?;
    println!("\nsteps of {PARTS} accumulated gradients differ from steps of one batch by {difference:.1e} at most");

    let steps = epochs * train.len().div_ceil(BATCH);
    let mut factors = Plot::new("Schedules").x_label("step").y_label("factor of the rate");
    for (name, schedule) in schedules(steps as u64) {
        let every = (steps / 150).max(1);
        factors = factors.line(name, (0..steps).step_by(every).map(|t| (t as f64, schedule.factor(t as u64))));
    }
    let cooled = cooled(&runtime, &train, &test, &options)?;
    let path = out.join("optimizers.svg");
    save_grid(&path, "Optimisers and schedules", 2, &[paths, losses, factors, cooled])?;
    println!("\nwrote {}", path.display());
    Ok(())
}

fn error(accuracy: Option<f64>) -> f64 {
    100.0 * (1.0 - accuracy.unwrap_or_default())
}

/// Where an optimiser goes from the valley's upper end.
fn path(runtime: &Runtime, optimizer: &dyn Optimizer) -> Result<Vec<(f64, f64)>, Box<dyn Error>> {
    let graph = build(|g| {
        let (x, y) = (g.param("x", F32, [], Init::constant(-3.0)), g.param("y", F32, [], Init::constant(1.0)));
        g.output("x", x);
        g.output("y", y);
        g.minimize(x.square() * 0.5 + y.square() * 12.5, optimizer);
    })?;
    let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(1))?;
    let mut points = Vec::new();
    for _ in 0..STEPS {
        let at = session.step(())?;
        points.push((at.scalar("x")?, at.scalar("y")?));
    }
    Ok(points)
}

/// Steps of one batch of 200, and steps of four gradients of batches of 50: by how much a weight differs at most after 10.
fn accumulated(runtime: &Runtime, train: &Dataset) -> Result<f64, Box<dyn Error>> {
    let compile = |n: usize, parts: usize, is_last: bool| -> Result<_, Box<dyn Error>> {
        let graph = build(|g| {
            let loss = net(g, g.input("x", F32, [n, 784])).cross_entropy(g.input("y", I64, [n])).mean();
            let optimizer = Adam::new(1e-3).with(Recipe::new().accumulate(parts as u32));
            if is_last {
                g.minimize(loss, optimizer)
            } else {
                g.accumulate(loss, optimizer)
            };
        })?;
        Ok(Compiler::new().compile(&graph)?)
    };
    let mut whole = Session::new(runtime, compile(PARTS * BATCH, 1, true)?, Seed(1))?;
    let mut parts = Session::new(runtime, compile(BATCH, PARTS, true)?, Seed(1))?;
    let (last, adding) = (parts.main(), parts.load(compile(BATCH, PARTS, false)?)?);
    for (x, y) in train.batches(PARTS * BATCH).last(LastBatch::Drop).take(10) {
        whole.step(inputs![x, y])?;
        for (k, (x, y)) in Dataset::new(x, y)?.batches(BATCH).enumerate() {
            let program = if k + 1 == PARTS { last } else { adding };
            parts.run(program, [("x", (&x).into()), ("y", (&y).into())])?;
        }
    }
    let weights = |session: &Session| Ok::<_, Diag>(session.store().get("hidden.weight")?.to_f64());
    let (whole, parts) = (weights(&whole)?, weights(&parts)?);
    Ok(whole.iter().zip(&parts).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max))
}

fn schedules(steps: u64) -> [(&'static str, Schedule); 6] {
    [
        ("steps", Schedule::step(steps / 4 + 1, 0.5)),
        ("exponential", Schedule::exponential(0.01f64.powf(1.0 / steps as f64))),
        ("linear", Schedule::linear(steps)),
        ("cosine after a warm-up", Schedule::cosine(steps * 9 / 10 + 1).warm_up(steps / 10 + 1)),
        ("one cycle", Schedule::one_cycle(steps.max(8))),
        ("warm restarts", Schedule::warm_restarts(steps / 7 + 1, 2)),
    ]
}

/// The same rate all along, a rate that falls, one that falls on a plateau, and batches that grow.
fn cooled(runtime: &Runtime, train: &Dataset, test: &Dataset, options: &Options) -> Result<Plot, Box<dyn Error>> {
    let epochs = 2 * options.epochs as u64;
    let (first, second) = (epochs / 2 + 1, epochs * 3 / 4 + 1);
    let per_epoch = train.len().div_ceil(BATCH) as u64;
    let falling = Schedule::milestones(&[(first - 1) * per_epoch, (second - 1) * per_epoch], 0.25);
    let growing = vec![(first, 4 * BATCH), (second, 16 * BATCH)];
    let ways = [
        ("the same rate", Recipe::new(), Vec::new(), false),
        ("a quarter of the rate, twice", Recipe::new().schedule(falling), Vec::new(), false),
        ("four times the batch, twice", Recipe::new(), growing, false),
        ("a quarter of the rate on a plateau", Recipe::new(), Vec::new(), true),
    ];
    let mut plot = Plot::new("Larger batches instead of a smaller rate").x_label("epoch").y_label("test error, %");
    println!("\n{:36}{:>8}{:>14}", "momentum", "steps", "test error");
    for (name, recipe, batch_sizes, on_plateau) in ways {
        let options = Options { epochs: epochs as usize, batch_sizes, ..options.clone() };
        let mut trainer = Trainer::new(runtime, net, CrossEntropy, Momentum::new(0.05, 0.9).with(recipe), options);
        let history = match on_plateau {
            true => trainer.fit_with(train, Some(test), ReduceOnPlateau::new(0.25, 2))?,
            false => trainer.fit(train, Some(test))?,
        };
        let last = history.last().ok_or("there was an epoch")?;
        println!("{name:36}{:8}{:12.2} %", last.step, error(last.validation_accuracy));
        plot = plot.line(name, history.iter().map(|e| (e.number as f64, error(e.validation_accuracy))));
    }
    Ok(plot)
}
