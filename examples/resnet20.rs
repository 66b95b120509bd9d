//! ResNet-20 (He et al. 2016) on CIFAR-10: nine blocks of two convolutions, each block added to what it was given.
//!
//! ```text
//! cargo run --release --example resnet20 -- --data cifar-10-batches-bin --epochs 30
//! cargo run --release --example resnet20 -- --data mnist --pictures 1000 --epochs 1
//! ```
//!
//! `--data` is the folder of CIFAR-10's binary files; without them the program says which it needs. With `--data mnist` the same net
//! reads digits, of 28×28×1 with a border of zeros around them, as a smoke run.
//!
//! Batch norm takes the batch's statistics in training and running averages in evaluation: two programs on one store, which the
//! trainer makes. Pictures are shifted by up to four pixels, and those of CIFAR-10 mirrored, anew for each epoch.

mod flags;

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use cotangent::data::files::write_text;
use cotangent::data::{Cifar10, Dataset, Mnist};
use cotangent::prelude::*;
use cotangent::train::{CrossEntropy, Options, Trainer};
use ndarray::{Array4, ArrayView3, s};

const SIDE: usize = 32;
const BATCH: usize = 128;

/// A convolution of `size` × `size` and batch norm.
fn normalized<'g>(x: Tensor<'g>, name: &str, n_filters: usize, size: usize, stride: usize) -> Tensor<'g> {
    let padding = Padding::Sides(vec![(size / 2, size / 2); 2]);
    let conv = Conv::new(n_filters, &[size, size]).stride(&[stride, stride]).padding(padding);
    x.layer(name, conv.init(Init::HeNormal).without_bias()).layer(&format!("{name}.norm"), BatchNorm::new())
}

/// Two convolutions, and `x` itself beside them; where the block has a stride, a convolution of 1×1 of it.
fn block<'g>(x: Tensor<'g>, name: &str, n_filters: usize, stride: usize) -> Tensor<'g> {
    let inner = normalized(x, &format!("{name}.a"), n_filters, 3, stride).relu();
    let inner = normalized(inner, &format!("{name}.b"), n_filters, 3, 1);
    let shortcut = if stride == 1 { x } else { normalized(x, &format!("{name}.s"), n_filters, 1, stride) };
    (inner + shortcut).relu()
}

/// Logits `[n, 10]` of pictures `[n, 32, 32, channels]`.
fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    let mut x = normalized(pictures, "stem", 16, 3, 1).relu();
    for (stage, n_filters) in [16, 32, 64].into_iter().enumerate() {
        for i in 0..3 {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            x = block(x, &format!("stage{stage}.block{i}"), n_filters, stride);
        }
    }
    x.mean_over([1, 2]).dense("out", 10)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("data", "folder of CIFAR-10's binary files, or mnist (cifar-10-batches-bin)"),
        ("threads", "number of threads (2)"),
        ("epochs", "passes over the training set (30)"),
        ("pictures", "how many pictures to train on (all)"),
        ("rate", "learning rate at the start (0.1)"),
        ("seed", "seed of weights, shuffles, shifts (1)"),
        ("out", "folder of the history (target/resnet20)"),
    ];
    let flags = flags::Flags::parse("A residual network on small pictures", &known);
    let (epochs, seed) = (flags.get("epochs", 30u64)?, flags.get("seed", 1u64)?);
    let out = flags.get("out", PathBuf::from("target/resnet20"))?;
    let data = flags.get("data", "cifar-10-batches-bin".to_owned())?;
    let is_mnist = data == "mnist";
    let (train, test) = if is_mnist {
        let (train, test) = Mnist::find()?.into_parts();
        (with_border(&train.into_dataset())?, with_border(&test.into_dataset())?)
    } else {
        let (train, test) = Cifar10::load(&data)?.into_parts();
        (train.to_dataset(), test.to_dataset())
    };
    let train = train.head(flags.get("pictures", usize::MAX)?);
    // No more to test on than to train on: a smoke run is over soon.
    let test = test.head(train.len());

    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let n_steps = epochs * train.len().div_ceil(BATCH) as u64;
    let recipe = Recipe::new().l2(0.5e-4).schedule(Schedule::cosine(n_steps));
    let optimizer = Momentum::new(flags.get("rate", 0.1)?, 0.9).with(recipe);
    let options = Options { epochs: 1, batch_size: BATCH, seed: Seed(seed), ..Options::default() };
    let mut trainer = Trainer::new(&runtime, net, CrossEntropy, optimizer, options);
    let start = Instant::now();
    for epoch in 0..epochs {
        let moved = augmented(&train, !is_mnist, seed.wrapping_add(epoch))?;
        for epoch in trainer.fit(&moved, Some(&test))?.iter() {
            println!("{epoch}");
        }
    }
    let accuracy = trainer.evaluate(&test)?.accuracy.unwrap_or_default();
    println!("{:.1} s; test accuracy: {:.2} %", start.elapsed().as_secs_f64(), 100.0 * accuracy);
    let path = out.join("history.csv");
    write_text(&path, &trainer.history().to_csv())?;
    println!("wrote {}", path.display());
    Ok(())
}

/// Pictures `[n, 784]` as `[n, 32, 32, 1]` with two pixels of zeros on every side.
fn with_border(set: &Dataset) -> Result<Dataset, Box<dyn Error>> {
    let pictures = set.features().to_shape((set.len(), 28, 28, 1))?.into_owned();
    let mut wide = Array4::zeros((set.len(), SIDE, SIDE, 1));
    wide.slice_mut(s![.., 2..30, 2..30, ..]).assign(&pictures);
    Ok(Dataset::new(wide.into_dyn(), set.labels().to_owned())?)
}

/// The set with every picture shifted by up to four pixels either way, zeros moving in, and mirrored or not.
fn augmented(set: &Dataset, mirror: bool, seed: u64) -> Result<Dataset, Box<dyn Error>> {
    const REACH: usize = 4;
    let features = set.features().into_dimensionality::<ndarray::Ix4>()?;
    // Three numbers for each picture: the picture's number in a stream of the epoch.
    let draw = Init::uniform(0.0, 1.0).sample(seed, "shifts", F32, &Shape::new(&[set.len(), 3]));
    let draw = draw.array::<f32>().ok_or("they are f32")?;
    let mut moved = Array4::zeros(features.dim());
    for (i, (from, mut to)) in features.outer_iter().zip(moved.outer_iter_mut()).enumerate() {
        let offset = |k: usize| (draw[[i, k]] * (2 * REACH + 1) as f32) as usize;
        let mut wide = Array4::zeros((1, SIDE + 2 * REACH, SIDE + 2 * REACH, from.dim().2));
        wide.slice_mut(s![0, REACH..REACH + SIDE, REACH..REACH + SIDE, ..]).assign(&from);
        let (y, x) = (offset(0), offset(1));
        let cut: ArrayView3<'_, f32> = wide.slice(s![0, y..y + SIDE, x..x + SIDE, ..]);
        let flips = mirror && draw[[i, 2]] < 0.5;
        to.assign(&cut.slice(if flips { s![.., ..;-1, ..] } else { s![.., ..;1, ..] }));
    }
    Ok(Dataset::new(moved.into_dyn(), set.labels().to_owned())?)
}
