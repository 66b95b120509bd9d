//! What changes of pictures cost: microseconds a picture for each of them, and what shift, flip and noise take of the throughput of
//! LeNet on MNIST.
//!
//! ```text
//! cargo bench --bench augment            # `-- lenet`, `-- changes`, `-- files` for one of the three
//! ```
//!
//! Each change is timed on one thread, on pictures of 28 × 28 × 1 and of 32 × 32 × 3, as the best of several rounds, and so is reading PNG
//! files, which the system has in memory: digits, and gradients with noise in color. The training runs on
//! one thread and on two, beside which the trainer's own thread makes the pictures; epochs with changes and without take turns, and the
//! best of each counts. Standard output is a table; nothing is asserted here.

use std::time::Instant;

use cotangent::data::augment::{
    Augment, Augmented, Brightness, Contrast, Crop, Cutout, Elastic, Flip, Lens, Noise, Palette, Pitch, Rescale,
    Rotate, Shift, TimeShift,
};
use cotangent::data::{DataError, Dataset, Examples, ImageFolder, Mnist, Table};
use cotangent::prelude::*;
use cotangent::train::{CrossEntropy, Options, TrainError, Trainer};
use image::{GrayImage, Luma, Rgb, RgbImage};
use ndarray::{Array2, Array4};

const N_ROUNDS: usize = 7;
/// Epochs of each kind of training.
const N_EPOCHS: usize = 4;

/// The best microseconds that a picture takes.
fn best(set: &dyn Examples) -> Result<f64, DataError> {
    let places: Vec<usize> = (0..set.len()).collect();
    let mut batch = Vec::new();
    let mut best = f64::INFINITY;
    for epoch in 0..N_ROUNDS as u64 {
        let start = Instant::now();
        set.gather(epoch, &places, &mut batch)?;
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / set.len() as f64);
    }
    Ok(best)
}

/// What a change takes of pictures of a shape, or of sounds.
fn of<A: Augment + 'static>(set: &Table, change: A) -> Result<f64, DataError> {
    best(&Augmented::new(set, "x", 1)?.then(change)?)
}

fn changes() -> Result<(), DataError> {
    let pictures = |side: usize, channels: usize| {
        let x = Array4::from_shape_fn((512, side, side, channels), |(i, r, c, k)| ((i + r * c + k) % 97) as f32 / 97.0);
        Table::new().with("x", x)
    };
    let (gray, color) = (pictures(28, 1)?, pictures(32, 3)?);
    println!("{:24} {:>10} {:>10}   µs a picture, one thread", "", "28×28×1", "32×32×3");
    macro_rules! line {
        ($name:expr, $change:expr) => {
            println!("{:24} {:10.2} {:10.2}", $name, of(&gray, $change)?, of(&color, $change)?)
        };
    }
    println!("{:24} {:10.2} {:10.2}", "none", best(&gray)?, best(&color)?);
    line!("shift", Shift::by(2));
    line!("flip", Flip::horizontal(0.5));
    line!("crop", Crop::to(24, 24));
    line!("noise", Noise::of(0.1));
    line!("brightness", Brightness::by(0.2));
    line!("contrast", Contrast::between(0.8, 1.2));
    line!("palette", Palette::by(0.2));
    line!("cutout", Cutout::of(8));
    line!("rescale", Rescale::between(0.8, 1.2));
    line!("rotate", Rotate::by(15.0));
    line!("lens", Lens::between(-0.2, 0.2));
    line!("elastic", Elastic::of(1.0, 7));
    let sounds = Table::new().with("x", Array2::from_shape_fn((64, 16_000), |(i, k)| ((i + k) % 89) as f32 / 89.0))?;
    println!("\nsounds of 16,000 samples, µs a sound");
    println!("{:24} {:10.2}", "time shift", of(&sounds, TimeShift::by(1600))?);
    println!("{:24} {:10.2}", "pitch", of(&sounds, Pitch::by(2.0))?);
    println!("{:24} {:10.2}", "noise", of(&sounds, Noise::of(0.1))?);
    Ok(())
}

/// What reading PNG files takes, decoded and as numbers.
fn files() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("cotangent-augment-{}", std::process::id()));
    println!("\nPNG files, µs a picture, one thread");
    let mnist = Mnist::find()?;
    let digits = mnist.test().images();
    let level = |k: usize, x: u32, y: u32| Luma([(digits[[k, (28 * y + x) as usize]] * 255.0) as u8]);
    let color = |k: usize, x: u32, y: u32| {
        // A gradient with a little noise, so that the file is neither tiny nor random.
        let noise =
            (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503) ^ k as u32).wrapping_mul(2_246_822_519) >> 28;
        Rgb([x + noise, y + noise, x / 2 + y / 2 + noise].map(|v| v as u8))
    };
    for (name, side, is_gray) in [("28×28×1", 28, true), ("32×32×3", 32, false), ("224×224×3", 224, false)] {
        let own = folder.join(name).join("all");
        std::fs::create_dir_all(&own)?;
        let n = if side > 100 { 32 } else { 512 };
        for k in 0..n {
            let path = own.join(format!("{k:04}.png"));
            match is_gray {
                true => GrayImage::from_fn(side, side, |x, y| level(k, x, y)).save(path)?,
                false => RgbImage::from_fn(side, side, |x, y| color(k, x, y)).save(path)?,
            }
        }
        let bytes: u64 =
            std::fs::read_dir(&own)?.map(|entry| Ok(entry?.metadata()?.len())).sum::<std::io::Result<u64>>()?;
        let set = ImageFolder::open(folder.join(name))?;
        let set = if is_gray { set.gray() } else { set };
        println!("{name:24} {:10.2}   files of {} bytes", best(&set)?, bytes / n as u64);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// The workload `lenet`, on pictures `[n, 28, 28, 1]`.
fn lenet<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    let conv = |n: usize| Conv::new(n, &[5, 5]).init(Init::HeNormal);
    let x = x.layer("c0", conv(20)).layer("pool0", MaxPool::new(&[2, 2]));
    let x = x.layer("c1", conv(50)).layer("pool1", MaxPool::new(&[2, 2]));
    let dense = |n| Dense::new(n).init(Init::HeNormal);
    x.flatten().layer("f0", dense(500)).relu().layer("f1", dense(10))
}

fn training() -> Result<(), TrainError> {
    let (train, _) = Mnist::find()?.into_parts();
    let (features, labels) = train.into_dataset().head(6_400).into_parts();
    let n = labels.len();
    let features = features.into_shape_with_order((n, 28, 28, 1)).expect("28 × 28 pixels").into_dyn();
    let set = Dataset::new(features, labels)?;
    let changed =
        Augmented::new(&set, "x", 1)?.then(Shift::by(2))?.then(Flip::horizontal(0.5))?.then(Noise::of(0.1))?;
    let options = |statistics| Options { epochs: 1, batch_size: 64, statistics, progress: false, ..Options::default() };
    for n_threads in [1, 2] {
        let runtime = Runtime::new(Threads::Exactly(n_threads));
        let trainer =
            |statistics| Trainer::new(&runtime, lenet, CrossEntropy, Momentum::new(0.01, 0.9), options(statistics));
        let (mut plain, mut with, mut observed) = (trainer(None), trainer(None), trainer(Some(10)));
        let mut seconds = [f64::INFINITY; 3];
        for _ in 0..N_EPOCHS {
            let all = [plain.fit(&set, None)?, with.fit(&changed, None)?, observed.fit(&set, None)?];
            for (best, history) in seconds.iter_mut().zip(all) {
                *best = best.min(history.last().map_or(f64::INFINITY, |epoch| epoch.seconds));
            }
        }
        println!(
            "\nLeNet, batches of 64, {n} pictures, {n_threads} threads, the best of {N_EPOCHS} epochs: pictures a second"
        );
        for (name, seconds_of) in
            ["as they are", "shift, flip and noise", "statistics of every tenth step"].iter().zip(seconds)
        {
            let share = 100.0 * (seconds_of / seconds[0] - 1.0);
            println!("{name:32} {:10.0}   {share:+.1} % of the time", n as f64 / seconds_of);
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|arg| arg == name);
    if wanted("changes") {
        changes()?;
    }
    if wanted("files") {
        files()?;
    }
    if wanted("lenet") {
        training()?;
    }
    Ok(())
}
