//! A convolutional net learns labels by heart that have nothing to do with the pictures (Zhang et al. 2017).
//!
//! ```text
//! cargo run --release --example shuffled_labels
//! ```
//!
//! The same net is trained twice on the same 2,000 pictures: with their labels, and with these dealt out anew by chance. Both times
//! it comes to know all pictures that it is trained on, after 8 epochs and after some 20; but the second time what it knows is of no
//! use, 10 % of the test set in the place of 96. So it is not for want of capacity that a net generalizes, and a training loss that
//! falls proves nothing.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::data::{Dataset, Mnist};
use cotangent::prelude::*;
use cotangent::train::{CrossEntropy, Options, Plot, Trainer};

/// Logits `[n, 10]` of pictures `[n, 784]`: more parameters than there are pictures.
fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    let conv = |n_filters| Conv::new(n_filters, &[5, 5]).init(Init::HeNormal);
    let x = pictures.reshape([pictures.dim(0), 28, 28, 1]);
    let x = x.layer("first", conv(16)).relu().layer("pool_first", MaxPool::new(&[2, 2]));
    let x = x.layer("second", conv(32)).relu().layer("pool_second", MaxPool::new(&[2, 2]));
    x.flatten().layer("hidden", Dense::new(256).init(Init::HeNormal)).relu().dense("out", 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("pictures", "how many pictures to train on (2000)"),
        ("epochs", "passes over them (40)"),
        ("threads", "number of threads (2)"),
        ("seed", "seed of the labels, weights and shuffles (1)"),
        ("out", "folder of the picture (target/shuffled_labels)"),
    ];
    let flags = flags::Flags::parse("What a net learns from labels without meaning", &known);
    let (epochs, seed) = (flags.get("epochs", 40usize)?, flags.get("seed", 1u64)?);
    let out = flags.get("out", PathBuf::from("target/shuffled_labels"))?;
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let (train, test) = Mnist::find()?.into_parts();
    let (train, test) = (train.into_dataset().head(flags.get("pictures", 2000)?), test.into_dataset());

    let mut plot =
        Plot::new("The same pictures with their labels, and with others").x_label("epoch").y_label("accuracy, %");
    for (name, set) in [("true labels", train.clone()), ("shuffled labels", shuffled(&train, seed)?)] {
        let options =
            Options { epochs: 1, eval_batch_size: 1000, seed: Seed(seed), progress: false, ..Options::default() };
        let mut trainer = Trainer::new(&runtime, net, CrossEntropy, Adam::new(1e-3), options);
        let (mut known, mut guessed) = (Vec::new(), Vec::new());
        for epoch in 1..=epochs {
            trainer.fit(&set, None)?;
            for (curve, set) in [(&mut known, &set), (&mut guessed, &test)] {
                curve.push((epoch as f64, 100.0 * trainer.evaluate(set)?.accuracy.unwrap_or_default()));
            }
            if epoch == epochs || epoch.is_power_of_two() {
                let [known, guessed] = [&known, &guessed].map(|curve| curve[epoch - 1].1);
                println!("{name}, epoch {epoch}: {known:.1} % of the training set, {guessed:.1} % of the test set");
            }
        }
        plot = plot.line(format!("{name}: training set"), known).dashed(format!("{name}: test set"), guessed);
    }
    let path = out.join("shuffled_labels.svg");
    plot.level("chance", 10.0).y_range(0.0, 100.0).save(&path)?;
    println!("wrote {}", path.display());
    Ok(())
}

/// The pictures of a set, each with the label of another one: every label is as frequent as before.
fn shuffled(set: &Dataset, seed: u64) -> Result<Dataset, Box<dyn Error>> {
    let (_, labels) = set.shuffled_batches(set.len(), seed).next().ok_or("the set is empty")?;
    Ok(Dataset::new(set.features().to_owned(), labels)?)
}
