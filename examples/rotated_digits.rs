//! How far digits may be turned: a 6 that stands on its head is a 9.
//!
//! ```text
//! cargo run --release --example rotated_digits
//! ```
//!
//! The same net is trained on few pictures, changed anew in every epoch: turned by up to so many degrees either way, or mirrored.
//! Turned a little, pictures are more examples of the same, and the net gets better; turned by up to 180 degrees, a 6 and a 9 are
//! one, and so are other pairs for a mirror. What is lost is written for each digit, and in two pictures: accuracies, and digits as the
//! net sees them.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::augment::{Augmented, Flip, Rotate};
use cotangent::data::{Dataset, Examples, Mnist};
use cotangent::graph::TensorData;
use cotangent::prelude::*;
use cotangent::train::{Confusion, CrossEntropy, Options, Plot, Trainer, plot};
use ndarray::{Array2, Axis};

/// Logits `[n, 10]` of pictures `[n, 28, 28]`.
fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    let conv = |n_filters| Conv::new(n_filters, &[5, 5]).init(Init::HeNormal);
    let x = pictures.reshape([pictures.dim(0), 28, 28, 1]);
    let x = x.layer("first", conv(8)).relu().layer("pool_first", MaxPool::new(&[2, 2]));
    let x = x.layer("second", conv(16)).relu().layer("pool_second", MaxPool::new(&[2, 2]));
    x.flatten().dense("hidden", 64).relu().dense("out", 10)
}

/// Pictures as squares.
fn squares(set: Dataset) -> Result<Dataset, Box<dyn Error>> {
    let (features, labels) = set.into_parts();
    let features = features.into_shape_with_order((labels.len(), 28, 28))?;
    Ok(Dataset::new(features.into_dyn(), labels)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("pictures", "how many pictures to train on (2000)"),
        ("epochs", "passes over them (30)"),
        ("threads", "number of threads (2)"),
        ("seed", "seed of the changes, weights and shuffles (1)"),
        ("out", "folder of the pictures (target/rotated_digits)"),
    ];
    let flags = flags::Flags::parse("How far digits may be turned", &known);
    let (epochs, seed) = (flags.get("epochs", 30usize)?, flags.get("seed", 1u64)?);
    let out = flags.get("out", PathBuf::from("target/rotated_digits"))?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let (train, test) = Mnist::find()?.into_parts();
    let train = squares(train.into_dataset().head(flags.get("pictures", 2000)?))?;
    let test = squares(test.into_dataset())?;

    let turned = |degrees: f32| Augmented::new(&train, "x", seed)?.then(Rotate::by(degrees));
    let mirrored = || Augmented::new(&train, "x", seed)?.then(Flip::horizontal(0.5))?.then(Flip::vertical(0.5));
    let degrees = [0.0f32, 10.0, 20.0, 45.0, 90.0, 180.0];
    let mut sets = Vec::new();
    for by in degrees {
        sets.push((format!("turned by up to {by}°"), turned(by)?));
    }
    sets.push(("mirrored, both ways".to_owned(), mirrored()?));

    let mut curve = Vec::new();
    let mut by_digit = Plot::new("The test set, digit by digit").x_label("digit").y_label("recognized, %");
    for (k, (name, set)) in sets.iter().enumerate() {
        let options =
            Options { epochs, eval_batch_size: 1000, seed: Seed(seed), progress: false, ..Options::default() };
        let mut trainer = Trainer::new(&runtime, net, CrossEntropy, Adam::new(1e-3), options);
        trainer.fit(set, None)?;
        let outputs = trainer.predict(test.features())?;
        let confusion = Confusion::new(outputs.view(), test.labels())?;
        let recalls: Vec<f64> = confusion.recall().iter().map(|recall| 100.0 * recall).collect();
        let accuracy = 100.0 * trainer.evaluate(&test)?.accuracy.unwrap_or_default();
        println!("{name:24} {accuracy:5.1} % of the test set; 6: {:5.1} %, 9: {:5.1} %", recalls[6], recalls[9]);
        if let Some(by) = degrees.get(k) {
            curve.push((f64::from(*by), accuracy));
        }
        if [0, 5, 6].contains(&k) {
            by_digit =
                by_digit.line(name.clone(), recalls.into_iter().enumerate().map(|(d, recall)| (d as f64, recall)));
        }
    }
    let accuracies = Plot::new("Pictures to train on, turned").x_label("degrees at most").y_label("test accuracy, %");
    let path = out.join("rotated_digits.svg");
    plot::save_grid(&path, "How far digits may be turned", 2, &[accuracies.line("turned", curve), by_digit])?;
    println!("wrote {}", path.display());

    // A 6, a 9 and a 2 as they are, and as the net sees them in five epochs when they are turned by anything.
    let mut digits = Vec::new();
    for digit in [6, 9, 2] {
        let place = train.labels().iter().position(|label| *label == digit).ok_or("too few pictures")?;
        for epoch in 0..6 {
            let set: &dyn Examples = if epoch == 0 { &sets[0].1 } else { &sets[5].1 };
            let mut batch = Vec::new();
            set.gather(epoch, &[place], &mut batch)?;
            let TensorData::F32(picture) = &batch[0] else { return Err("pictures are f32".into()) };
            let picture: Array2<f32> = picture.index_axis(Axis(0), 0).to_owned().into_dimensionality()?;
            // Heat maps have their first row below.
            let seen = picture.slice(ndarray::s![..;-1, ..]).mapv(f64::from);
            let name = if epoch == 0 { format!("{digit}") } else { format!("{digit}, turned") };
            digits.push(Plot::new(name).without_ticks().heat((0.0, 28.0), (0.0, 28.0), seen.view()));
        }
    }
    let path = out.join("turned.svg");
    plot::save_grid(&path, "Digits turned by up to 180 degrees", 6, &digits)?;
    println!("wrote {}", path.display());
    Ok(())
}
