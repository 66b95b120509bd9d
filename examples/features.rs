//! Features made ready: normalized, and whitened by PCA and ZCA, all fitted on the training part.
//!
//! ```text
//! cargo run --release --example features
//! ```
//!
//! The same net learns digits by plain gradient descent from pictures as they are, from pixels of mean 0 and variance 1, from
//! 100 principal components of variance 1, and from pictures without correlations. Each gets the rate that serves it best of
//! several. Descent has one rate for all directions, so it is slow along those in which the features hardly vary; whitening
//! makes all directions alike, and the training loss falls many times faster. It does not make the net know more: from these
//! few pictures it reads others a little worse, because what hardly varies in digits is mostly noise.
//!
//! Inside of a net that gets the pictures as they are, batch norm does the first for its neurons, and decorrelated batch norm
//! (Huang et al. 2018) both; most of what there is to gain comes with the first.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::{Dataset, Mnist, Standardizer, Whitening};
use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};
use cotangent::train::{CrossEntropy, Options, Trainer};
use ndarray::{Array2, ArrayViewD};

const BATCH: usize = 200;
const RATES: [f64; 4] = [0.1, 0.3, 1.0, 3.0];
const COMPONENTS: usize = 100;
/// Added to variances, so that directions that hardly vary are not blown up.
const EPS: f64 = 0.1;
/// Pictures of a set that are shown: columns and rows.
const SHOWN: [usize; 2] = [5, 3];
const SIDE: usize = 28;

type Net = for<'g> fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>;

fn plain<'g>(_: &'g GraphBuilder, features: Tensor<'g>) -> Tensor<'g> {
    features.dense("hidden", 64).tanh().dense("out", 10)
}

fn batch_norm<'g>(_: &'g GraphBuilder, features: Tensor<'g>) -> Tensor<'g> {
    features.dense("hidden", 64).layer("norm", BatchNorm::new()).tanh().dense("out", 10)
}

/// Decorrelated in four groups: a batch tells little about the covariance of all neurons at once.
fn decorrelated<'g>(_: &'g GraphBuilder, features: Tensor<'g>) -> Tensor<'g> {
    let groups = cotangent::nn::Whitening::new().groups(4);
    features.dense("hidden", 64).layer("norm", groups).tanh().dense("out", 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("pictures", "pictures to train on (5000)"),
        ("epochs", "passes over them (8)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the picture (target/features)"),
    ];
    let flags = flags::Flags::parse("Features normalized and whitened", &known);
    let (n, epochs) = (flags.get("pictures", 5000usize)?, flags.get("epochs", 8usize)?);
    let out = flags.get("out", PathBuf::from("target/features"))?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let (train, test) = Mnist::find()?.into_parts();
    let (train, test) = (train.into_dataset().head(n), test.into_dataset().head(4000));

    // Means, deviations and directions come from the training part; the test part is treated with them.
    let standard = Standardizer::fit(train.features())?;
    let pca = Whitening::pca(train.features(), COMPONENTS, EPS)?;
    let zca = Whitening::zca(train.features(), EPS)?;
    let share: f64 = pca.variances.sum() / zca.variances.sum();
    println!("{COMPONENTS} of 784 principal components hold {:.0} % of the variance\n", 100.0 * share);
    let sets: [(&str, Net, Dataset, Dataset); 6] = [
        ("as they are", plain, train.clone(), test.clone()),
        ("mean 0, variance 1", plain, standard.apply_to(&train)?, standard.apply_to(&test)?),
        ("100 components, whitened (PCA)", plain, pca.apply_to(&train)?, pca.apply_to(&test)?),
        ("pictures, whitened (ZCA)", plain, zca.apply_to(&train)?, zca.apply_to(&test)?),
        ("as they are, batch norm", batch_norm, train.clone(), test.clone()),
        ("as they are, decorrelated", decorrelated, train, test),
    ];

    println!("{:32}{:>6}{:>16}{:>14}", "", "rate", "training loss", "test error");
    let mut losses = Plot::new("How fast plain descent learns").x_label("epoch").y_label("training loss").log_y();
    let mut errors = Plot::new("What it has learned").x_label("epoch").y_label("test error, %").log_y();
    for (name, net, train, test) in &sets {
        let (rate, history) = best(&runtime, *net, train, test, epochs)?;
        let loss = history.last().map_or(f64::NAN, |point| point.1);
        let error = history.last().map_or(f64::NAN, |point| point.2);
        println!("{name:32}{rate:6}{loss:16.4}{error:12.2} %");
        losses = losses.line(*name, history.iter().map(|&(epoch, loss, _)| (epoch, loss)));
        errors = errors.line(*name, history.iter().map(|&(epoch, _, error)| (epoch, error)));
    }

    let shown = |set: &Dataset, scale: f64| montage(set.features(), scale);
    let pictures = [
        Plot::new("As they are").without_ticks().heat((0.0, 1.0), (0.0, 1.0), shown(&sets[0].3, 1.0).view()),
        Plot::new("Whitened (ZCA): edges remain").without_ticks().heat(
            (0.0, 1.0),
            (0.0, 1.0),
            shown(&sets[3].3, 2.0).view(),
        ),
    ];
    let path = out.join("features.svg");
    save_grid(&path, "Digits made ready", 2, &[vec![losses, errors], pictures.to_vec()].concat())?;
    println!("\nwrote {}", path.display());
    Ok(())
}

/// Epoch, training loss, test error in percent.
type Curve = Vec<(f64, f64, f64)>;

/// The rate with the least training loss at the end, and the run with it.
fn best(
    runtime: &Runtime,
    net: Net,
    train: &Dataset,
    test: &Dataset,
    epochs: usize,
) -> Result<(f64, Curve), Box<dyn Error>> {
    let mut best: (f64, Curve) = (f64::NAN, Vec::new());
    let mut least = f64::INFINITY;
    for rate in RATES {
        let options =
            Options { epochs, batch_size: BATCH, eval_batch_size: 1000, progress: false, ..Options::default() };
        let mut trainer = Trainer::new(runtime, net, CrossEntropy, Sgd::new(rate), options);
        let history = trainer.fit(train, Some(test))?;
        let error = |accuracy: Option<f64>| 100.0 * (1.0 - accuracy.unwrap_or_default());
        let curve: Curve =
            history.iter().map(|e| (e.number as f64, e.train_loss, error(e.validation_accuracy))).collect();
        let loss = curve.last().map_or(f64::INFINITY, |point| point.1);
        if loss < least {
            (least, best) = (loss, (rate, curve));
        }
    }
    Ok(best)
}

/// The first pictures, row by row, divided by `scale`; rows of the result go upwards.
fn montage(features: ArrayViewD<'_, f32>, scale: f64) -> Array2<f64> {
    let [n_columns, n_rows] = SHOWN;
    Array2::from_shape_fn((n_rows * SIDE, n_columns * SIDE), |(y, x)| {
        let y = n_rows * SIDE - 1 - y;
        let pixel = y % SIDE * SIDE + x % SIDE;
        f64::from(features[[y / SIDE * n_columns + x / SIDE, pixel]]) / scale
    })
}
