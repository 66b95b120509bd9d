//! Universal approximation: one hidden layer of sigmoids comes as close to a continuous function as one likes, if it is
//! wide enough (Hornik 1991); one of polynomials does not, however wide it is (Leshno et al. 1993).
//!
//! ```text
//! cargo run --release --example universal_approximation
//! ```
//!
//! Nets of 1, 2, 4, … hidden neurons learn the same function on [-1, 1]; what counts is the largest error anywhere. A
//! square of a weighted sum is a parabola, and a sum of parabolas is a parabola: neurons more change nothing.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};
use ndarray::Array2;

const N_POINTS: usize = 256;

/// What is to be learned: smooth, with a kink at 0.3.
fn target(x: f64) -> f64 {
    (5.0 * x).sin() * 0.6 + (x - 0.3).abs() - 0.5
}

/// A hidden layer's activation, and how large its weights are at first, given the width of the layer.
type Activation = (fn(Tensor<'_>) -> Tensor<'_>, fn(f64) -> f64);

const ACTIVATIONS: [(&str, Activation); 4] = [
    // The more neurons, the less of the interval each one has to itself, and the steeper it has to be.
    ("sigmoid", (|z| z.sigmoid(), |width| 4.0 + width)),
    // Large weights scaled down again learn more slowly, and so do not kill their neurons.
    ("ReLU", (|z| (z * 0.125).relu(), |_| 8.0)),
    ("z² (a polynomial)", (|z| z.square(), |_| 1.0)),
    ("z³ (a polynomial)", (|z| z.square() * z, |_| 1.0)),
];

fn net<'g>(x: Tensor<'g>, width: usize, (activation, scale): Activation) -> Tensor<'g> {
    // Weights and biases of one size, so that the neurons' transitions lie all over the interval.
    let scale = scale(width as f64);
    let start = Init::uniform(-scale, scale);
    activation(x.layer("hidden", Dense::new(width).init(start).bias_init(start))).dense("out", 1)
}

/// `n` points of [-1, 1] at equal distances.
fn grid(n: usize) -> Array2<f32> {
    Array2::from_shape_fn((n, 1), |(i, _)| (2.0 * i as f64 / (n - 1) as f64 - 1.0) as f32)
}

/// Trains a net; its values on a fine grid.
fn fit(
    runtime: &Runtime,
    width: usize,
    activation: Activation,
    steps: u64,
    seed: u64,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let (x, fine) = (grid(N_POINTS), grid(4 * N_POINTS));
    let y = x.mapv(|x| target(f64::from(x)) as f32);
    let train = build(|g| {
        let loss = net(g.input("x", F32, [N_POINTS, 1]), width, activation).mse(g.input("y", F32, [N_POINTS, 1]));
        g.output("loss", loss);
        g.minimize(loss, Adam::new(0.03).with(Recipe::new().schedule(Schedule::cosine(steps))));
    })?;
    let evaluate = build(|g| g.output("y", net(g.input("x", F32, fine.shape()), width, activation)))?;
    let mut session = Session::new(runtime, Compiler::new().compile(&train)?, Seed(seed))?;
    let evaluate = session.load(Compiler::new().compile(&evaluate)?)?;
    for _ in 0..steps {
        session.step(inputs![x, y])?;
    }
    let results = session.run(evaluate, [("x", (&fine).into())])?;
    Ok(results.view::<f32>("y")?.iter().map(|&y| f64::from(y)).collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("steps", "steps of training for each net (6000)"),
        ("widest", "the largest number of hidden neurons (128)"),
        ("tries", "nets of each kind, of which the best counts (3)"),
        ("out", "folder of the picture (target/universal_approximation)"),
    ];
    let flags = flags::Flags::parse("One hidden layer is enough, unless it is one of polynomials", &known);
    let (steps, widest, tries) = (flags.get("steps", 6000)?, flags.get("widest", 128)?, flags.get("tries", 3)?);
    let out = flags.get("out", PathBuf::from("target/universal_approximation"))?;
    let runtime = Runtime::new(Threads::Exactly(1));
    let widths: Vec<usize> = (0..).map(|k| 1usize << k).take_while(|w| *w <= widest).collect();
    let points: Vec<f64> = grid(4 * N_POINTS).iter().map(|&x| f64::from(x)).collect();

    let mut errors = Plot::new("The largest error falls with the width")
        .x_label("hidden neurons")
        .y_label("largest error on [−1, 1]");
    errors = errors.log_x().log_y();
    let mut fits = Plot::new(format!("What {widest} neurons have learned")).x_label("x").y_label("f(x)");
    print!("largest error    ");
    widths.iter().for_each(|width| print!("{width:>8}"));
    println!("  hidden neurons");
    for (name, activation) in ACTIVATIONS {
        let mut row = Vec::new();
        let mut last = Vec::new();
        print!("{name:<17}");
        for &width in &widths {
            let mut best = (f64::INFINITY, Vec::new());
            for seed in 0..tries {
                let y = fit(&runtime, width, activation, steps, seed)?;
                let worst = points.iter().zip(&y).map(|(&x, y)| (y - target(x)).abs()).fold(0.0, f64::max);
                if worst < best.0 {
                    best = (worst, y);
                }
            }
            print!("{:>8.4}", best.0);
            row.push((width as f64, best.0));
            last = best.1;
        }
        println!();
        errors = errors.dotted_line(name, row);
        fits = fits.line(name, points.iter().copied().zip(last));
    }
    fits = fits.dashed("the function", points.iter().map(|&x| (x, target(x))));
    let path = out.join("universal_approximation.svg");
    save_grid(&path, "One hidden layer", 2, &[errors, fits])?;
    println!("\nwrote {}", path.display());
    Ok(())
}
