//! What is wrong with a run: planted problems, what a trainer says of each, and what is tried before one trains at all.
//!
//! ```text
//! cargo run --release --example diagnosis
//! ```
//!
//! A small net on two moons: as it should be, with a rate that is too high, with units that are dead or saturated, with a feature that
//! gives the label away, with features that are not normalized, and with a class that has no examples. Then the numbers before and after
//! activation functions before training, the learning-rate range test, a hundred examples learned by heart, and a search that beats a grid.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::Dataset;
use cotangent::data::synthetic::two_moons;
use cotangent::prelude::*;
use cotangent::train::diagnosis::correlated;
use cotangent::train::{CrossEntropy, Options, Plot, RateRange, Search, Space, TensorBoard, Trainer, plot};
use ndarray::Array2;

/// What a net of the table below is like.
#[derive(Clone, Copy)]
struct Plan {
    bias: f64,
    deviation: f64,
    is_sigmoid: bool,
    n_classes: usize,
}

const USUAL: Plan = Plan { bias: 0.0, deviation: 1.0, is_sigmoid: false, n_classes: 2 };

/// Logits `[n, classes]` of features.
fn net<'g>(plan: Plan, x: Tensor<'g>) -> Tensor<'g> {
    let hidden = Dense::new(16).init(Init::normal(0.0, plan.deviation)).bias_init(Init::constant(plan.bias));
    let z = x.layer("hidden", hidden);
    if plan.is_sigmoid { z.sigmoid() } else { z.relu() }.dense("out", plan.n_classes)
}

/// The set with features of a function of features and label.
fn changed(set: &Dataset, f: impl Fn(f32, f32, i64) -> [f32; 3]) -> Result<Dataset, Box<dyn Error>> {
    let (features, labels) = set.clone().into_parts();
    let row = |k: usize| f(features[[k, 0]], features[[k, 1]], labels[k]);
    let features = Array2::from_shape_fn((labels.len(), 3), |(k, column)| row(k)[column]);
    Ok(Dataset::new(features.into_dyn(), labels)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("epochs", "passes over the set (15)"),
        ("trials", "configurations of the search (16)"),
        ("seed", "seed of the set, weights and shuffles (1)"),
        ("out", "folder of the picture (target/diagnosis)"),
    ];
    let flags = flags::Flags::parse("What is wrong with a run", &known);
    let (epochs, seed) = (flags.get("epochs", 15usize)?, flags.get("seed", 1u64)?);
    let out = flags.get("out", PathBuf::from("target/diagnosis"))?;
    let runtime = Runtime::new(Threads::Exactly(1));
    let options = Options { epochs, statistics: Some(2), seed: Seed(seed), progress: false, ..Options::default() };
    let plain = [two_moons(300, 0.15, seed), two_moons(100, 0.15, seed + 1)];
    let leaked = |set: &Dataset| changed(set, |a, b, label| [a, b, label as f32 * 0.3]);
    let raw = |set: &Dataset| changed(set, |a, b, _| [a, b, 1900.0 + 50.0 * a]);
    let leaked = [leaked(&plain[0])?, leaked(&plain[1])?];
    let raw = [raw(&plain[0])?, raw(&plain[1])?];

    let cases: [(&str, Plan, f64, &[Dataset; 2]); 7] = [
        ("as it should be", USUAL, 0.2, &plain),
        ("a rate of 500", USUAL, 500.0, &plain),
        ("biases of -10", Plan { bias: -10.0, ..USUAL }, 0.2, &plain),
        ("sigmoids, weights of 60", Plan { deviation: 60.0, is_sigmoid: true, ..USUAL }, 0.2, &plain),
        ("the label among the features", USUAL, 0.2, &leaked),
        ("years among the features", USUAL, 1e-7, &raw),
        ("three classes, of which there are two", Plan { n_classes: 3, ..USUAL }, 0.2, &plain),
    ];
    for (name, plan, rate, [train, validation]) in cases {
        let mut trainer =
            Trainer::new(&runtime, move |_, x| net(plan, x), CrossEntropy, Sgd::new(rate), options.clone());
        // Without statistics there would be less to say; a run that goes off ends with an error, and is diagnosed all the same.
        if let Err(error) = trainer.fit(train, Some(validation)) {
            println!("({})", error.to_string().lines().next().unwrap_or_default());
        }
        println!("{name}:\n{}\n", trainer.diagnose(train, Some(validation))?);
    }
    // Before any step: a net as it should be beside one whose sigmoids are saturated from the start.
    let mut pictures = Vec::new();
    for plan in [USUAL, Plan { deviation: 60.0, is_sigmoid: true, ..USUAL }] {
        let mut trainer =
            Trainer::new(&runtime, move |_, x| net(plan, x), CrossEntropy, Sgd::new(0.2), options.clone());
        let histograms = trainer.histograms(&plain[0], 256)?;
        println!("before training: {histograms}");
        pictures.extend(histograms.plots());
    }
    plot::save_grid(out.join("activations.svg"), "Activations before training", 2, &pictures)?;
    for (a, b, r) in correlated(&raw[0], "x", 0.95)? {
        println!("features {a} and {b} of the years are correlated: r = {r:.3}");
    }

    let [train, validation] = &plain;
    let fresh = |rate: f64| Trainer::new(&runtime, |_, x| net(USUAL, x), CrossEntropy, Sgd::new(rate), options.clone());
    let test = fresh(0.1).lr_find(train, RateRange::default())?;
    println!("{test}");
    println!("{}", fresh(0.5).overfit(train, 100, 2000)?);

    let space = || Space::new().log_uniform("rate", 1e-4, 10.0).and_then(|s| s.log_uniform("l2", 1e-8, 1e-2));
    let n = flags.get("trials", 16u64)?;
    let points = (1..=n).take_while(|k| k * k <= n).last().unwrap_or(1);
    for (name, search) in [
        ("grid", Search::grid(space()?, points, 4)),
        ("random search", Search::random(space()?, n, 4)),
        ("successive halving", Search::halving(space()?, n, 1, 2)),
    ] {
        let trials = search.seed(seed).run(|configuration, epochs| {
            let optimizer = Sgd::new(configuration.number("rate")?).with(Recipe::new().l2(configuration.number("l2")?));
            let options = Options { epochs: epochs as usize, ..options.clone() };
            let mut trainer = Trainer::new(&runtime, |_, x| net(USUAL, x), CrossEntropy, optimizer, options);
            let history = trainer.fit(train, Some(validation));
            Ok(history.ok().and_then(|h| h.last().and_then(|e| e.validation_loss)).unwrap_or(f64::INFINITY))
        })?;
        let best = trials.best().map_or("none".to_owned(), ToString::to_string);
        println!("{name}, {} epochs in all: a validation loss of {best}", trials.cost());
    }

    let curve = test.rates.iter().copied().zip(test.losses.iter().copied());
    let rates = Plot::new("The range test").log_x().x_label("learning rate").y_label("loss").line("smoothed", curve);
    let mut trainer = fresh(0.2);
    let history = trainer.fit_with(train, Some(validation), TensorBoard::new(out.join("events")))?;
    let of = |f: fn(&cotangent::train::Epoch) -> Option<f64>| {
        history.iter().filter_map(|e| Some((e.number as f64, f(e)?))).collect::<Vec<_>>()
    };
    let curves = Plot::new("Curves of a healthy run").x_label("epoch").y_label("loss");
    let curves = curves.line("training", of(|e| Some(e.train_loss))).dashed("validation", of(|e| e.validation_loss));
    let units = trainer.statistics().activations.iter().flat_map(|a| a.active.clone()).enumerate();
    let active = Plot::new("How often units are active").x_label("unit").y_label("share of examples");
    let active = active.bars("after `hidden`", units.map(|(k, share)| (k as f64, share)));
    let path = out.join("diagnosis.svg");
    plot::save_grid(&path, "What is seen of a run", 3, &[rates, curves, active])?;
    println!("wrote {} and activations.svg beside it", path.display());
    Ok(())
}
