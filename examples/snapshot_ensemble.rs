//! A snapshot ensemble (Huang et al. 2017): one run, several nets. The learning rate falls along a cosine and starts again,
//! cycle by cycle (SGDR); the net at the end of each cycle is kept, and their probabilities are averaged.
//!
//! ```text
//! cargo run --release --example snapshot_ensemble
//! ```
//!
//! Beside it a single net takes as many steps along one long cosine. Whether the ensemble wins depends on the cycles being
//! long enough for each snapshot to be good; the printed table says what happened.

mod flags;

use std::error::Error;
use std::ops::ControlFlow::Continue;
use std::path::PathBuf;

use cotangent::data::{Dataset, Mnist};
use cotangent::prelude::*;
use cotangent::train::callbacks::after_epoch;
use cotangent::train::metrics::accuracy;
use cotangent::train::plot::{Plot, save_grid};
use cotangent::train::{CrossEntropy, Ensemble, History, Options, Snapshots, Trainer};

const BATCH: usize = 128;
const RATE: f64 = 0.1;

fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    pictures.dense("first", 256).relu().dropout("drop", 0.2).dense("second", 128).relu().dense("out", 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("cycles", "cycles of the learning rate, and members of the ensemble (5)"),
        ("length", "epochs of a cycle (3)"),
        ("examples", "pictures to train on (20000)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/snapshot_ensemble)"),
    ];
    let flags = flags::Flags::parse("An ensemble from a single run", &known);
    let (cycles, length) = (flags.get("cycles", 5usize)?.max(1), flags.get("length", 3usize)?.max(1));
    let out = flags.get("out", PathBuf::from("target/snapshot_ensemble"))?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let (train, test) = Mnist::find()?.into_parts();
    let (train, test) = (train.head(flags.get("examples", 20_000)?).into_dataset(), test.into_dataset());
    let steps = (cycles * length * train.len().div_ceil(BATCH)) as u64;

    let restarts = Schedule::warm_restarts(steps / cycles as u64, 1);
    let (mut trainer, cycled) = fit(&runtime, &train, &test, cycles * length, length, restarts.clone())?;
    println!("\nmember   its error   error of the ensemble so far");
    let (mut ensemble, mut alone, mut together) = (Ensemble::new(), Vec::new(), Vec::new());
    for (k, snapshot) in Snapshots::taken(trainer.store())?.iter().enumerate() {
        let logits = trainer.with_values(snapshot, |trainer| trainer.predict(test.features()))??;
        ensemble.add_logits(logits.view())?;
        let mean = ensemble.mean().ok_or("the ensemble has a member")?;
        let error = |accuracy: f64| 100.0 * (1.0 - accuracy);
        let own = error(accuracy(logits.view(), test.labels())?);
        let all = error(accuracy(mean.view(), test.labels())?);
        println!("{:6}   {own:7.2} %   {all:7.2} %", k + 1);
        alone.push(((k + 1) as f64, own));
        together.push(((k + 1) as f64, all));
    }

    println!();
    let (mut single, long) = fit(&runtime, &train, &test, cycles * length, length, Schedule::cosine(steps))?;
    let single = 100.0 * (1.0 - single.evaluate(&test)?.accuracy.unwrap_or_default());
    println!("\na single net, as many steps: {single:.2} %");

    let rate = |schedule: &Schedule| {
        let at = |i: u64| (i as f64 / (steps as f64 / (cycles * length) as f64), RATE * schedule.factor(i));
        (0..steps).step_by(10).map(at).collect::<Vec<_>>()
    };
    let errors = |history: &History| {
        let point = |e: &cotangent::train::Epoch| Some((e.number as f64, 100.0 * (1.0 - e.validation_accuracy?)));
        history.iter().filter_map(point).collect::<Vec<_>>()
    };
    let plots = [
        Plot::new("Learning rate")
            .x_label("epoch")
            .y_label("rate")
            .line("cycles", rate(&restarts))
            .dashed("one cosine", rate(&Schedule::cosine(steps))),
        Plot::new("While training")
            .x_label("epoch")
            .y_label("test error, %")
            .line("cycles", errors(&cycled))
            .dashed("one cosine", errors(&long)),
        Plot::new("Averaging the snapshots")
            .x_label("members")
            .y_label("test error, %")
            .dotted_line("ensemble of all so far", together)
            .dotted_line("the newest alone", alone)
            .level("a single net, one cosine", single),
    ];
    let path = out.join("snapshot_ensemble.svg");
    save_grid(&path, "A snapshot ensemble", 3, &plots)?;
    println!("wrote {}", path.display());
    Ok(())
}

type Net = for<'g> fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>;
type Run = Trainer<Net, CrossEntropy, Tuned<Momentum>>;

fn fit(
    runtime: &Runtime,
    train: &Dataset,
    test: &Dataset,
    epochs: usize,
    length: usize,
    schedule: Schedule,
) -> Result<(Run, History), Box<dyn Error>> {
    let options = Options { epochs, batch_size: BATCH, seed: Seed(1), ..Options::default() };
    let momentum = Momentum::new(RATE, 0.9).with(Recipe::new().schedule(schedule));
    let mut trainer = Trainer::new(runtime, net as Net, CrossEntropy, momentum, options);
    let say = after_epoch(|epoch, _| {
        println!("{epoch}");
        Ok(Continue(()))
    });
    let history = trainer.fit_with(train, Some(test), (Snapshots::every(length as u64), say))?;
    Ok((trainer, history))
}
