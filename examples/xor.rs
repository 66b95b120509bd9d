//! XOR: the function that no single neuron computes, written down by hand and learned by a net of eight hidden neurons.
//!
//! ```text
//! cargo run --release --example xor -- --seed 3
//! ```
//!
//! First the two layers of threshold neurons that a person writes down, and the same net with steep sigmoids in place of
//! thresholds. Then a 2-8-1 net that finds weights of its own, by gradient descent on the binary cross-entropy. Training
//! and evaluation, of the four points and of a map of the plane, are three programs on one store. The nets are so small that
//! the time of a step is the time it takes to start one. The picture shows what each of the nets makes of the plane.

mod flags;

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};
use ndarray::{Array2, ArrayView2, array};

const RATE: f64 = 0.5;
/// Cells of a map along each side of the square from -EDGE to 1 + EDGE.
const N_CELLS: usize = 80;
const EDGE: f64 = 0.5;

/// The net that is trained: logits `[n, 1]` of points `[n, 2]`.
fn net(g: &GraphBuilder, n: usize) -> Tensor<'_> {
    g.input("x", F32, [n, 2]).dense("hidden", 8).tanh().dense("out", 1)
}

/// The lecture's formula th(th(x₁ + x₂ − 1.5) + th(−x₁ − x₂ + 0.5) − 0.5), of points `[n, 2]`, whatever the neuron `th` is.
///
/// The two hidden neurons are "both" and "neither", so the formula answers whether the inputs are *equal*; XOR is the
/// same net with the signs of the last neuron turned around.
fn by_hand<'g>(g: &'g GraphBuilder, n: usize, th: impl Fn(Tensor<'g>) -> Tensor<'g>) -> [Tensor<'g>; 2] {
    let x = g.input("x", F32, [n, 2]);
    let sum = x.sum_over([1]);
    let (both, neither) = (th(sum - 1.5), th(-sum + 0.5));
    [th(both + neither - 0.5), th(-both - neither + 0.5)]
}

/// A neuron: a sigmoid of steepness `c`, or the threshold, 1 above 0 and else 0.
fn neuron(z: Tensor<'_>, c: Option<f64>) -> Tensor<'_> {
    match c {
        None => z.gt(z.constant_like(0.0)).cast(F32),
        Some(c) => (z * c).sigmoid(),
    }
}

/// The middles of a map's cells, row by row.
fn cells() -> Array2<f32> {
    let at = |k: usize| (k as f64 + 0.5) / N_CELLS as f64 * (1.0 + 2.0 * EDGE) - EDGE;
    Array2::from_shape_fn((N_CELLS * N_CELLS, 2), |(k, axis)| {
        at(if axis == 0 { k % N_CELLS } else { k / N_CELLS }) as f32
    })
}

/// What a net makes of the plane: blue is 0, orange is 1.
fn map(title: String, values: impl Iterator<Item = f32>) -> Result<Plot, Box<dyn Error>> {
    let values: Vec<f64> = values.map(|p| 2.0 * f64::from(p) - 1.0).collect();
    let side = (-EDGE, 1.0 + EDGE);
    let values = ArrayView2::from_shape((N_CELLS, N_CELLS), &values)?;
    Ok(Plot::new(title)
        .x_label("x1")
        .y_label("x2")
        .x_range(side.0, side.1)
        .y_range(side.0, side.1)
        .heat(side, side, values)
        .dots("xor = 0", [(0.0, 0.0), (1.0, 1.0)])
        .dots("xor = 1", [(0.0, 1.0), (1.0, 0.0)]))
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("seed", "start of the weights (1)"),
        ("steps", "steps of gradient descent (2000)"),
        ("out", "folder of the picture (target/xor)"),
    ];
    let flags = flags::Flags::parse("XOR by hand and by gradient descent", &known);
    let (seed, n_steps) = (flags.get("seed", 1)?, flags.get("steps", 2000)?);
    let out = flags.get("out", PathBuf::from("target/xor"))?;
    let runtime = Runtime::new(Threads::Exactly(1));
    let x = array![[0.0f32, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]];
    let y = array![[0.0f32], [1.0], [1.0], [0.0]];

    let mut plots = written_by_hand(&runtime, &x)?;

    let train = Compiler::new().compile(&build(|g| {
        let y = g.input("y", F32, [4, 1]);
        let loss = net(g, 4).bce_with_logits(y).mean();
        g.output("loss", loss);
        g.minimize(loss, Sgd::new(RATE));
    })?)?;
    let evaluation = |n| build(|g| g.output("p", net(g, n).sigmoid()));
    let mut session = Session::new(&runtime, train, Seed(seed))?;
    let evaluate = session.load(Compiler::new().compile(&evaluation(4)?)?)?;
    let draw = session.load(Compiler::new().compile(&evaluation(N_CELLS * N_CELLS)?)?)?;

    println!("a 2-8-1 net, tanh, gradient descent with rate {RATE}, seed {seed}:\n");
    let start = Instant::now();
    let mut losses = Vec::new();
    for step in 0..n_steps {
        let loss = session.step(inputs![x, y])?.scalar("loss")?;
        losses.push((f64::from(step) + 1.0, loss));
        if step % (n_steps / 10).max(1) == 0 || step + 1 == n_steps {
            println!("  step {:>5}   loss {loss:.5}", step + 1);
        }
    }
    let seconds = start.elapsed().as_secs_f64();

    let results = session.run(evaluate, [("x", (&x).into())])?;
    let p = results.view::<f32>("p")?;
    println!("\n  x1 x2   xor   p(xor = 1)");
    let mut n_right = 0;
    for (row, (point, target)) in x.outer_iter().zip(&y).enumerate() {
        println!("   {}  {}    {target}      {:.4}", point[0], point[1], p[[row, 0]]);
        n_right += usize::from((p[[row, 0]] > 0.5) == (*target > 0.5));
    }
    println!("\n{n_right} of 4 right; {:.0} steps per second", f64::from(n_steps) / seconds);

    let grid = cells();
    let results = session.run(draw, [("x", (&grid).into())])?;
    plots.push(map("learned, 2-8-1".into(), results.view::<f32>("p")?.iter().copied())?);
    plots.push(Plot::new("learning").x_label("step").y_label("binary cross-entropy").log_y().line("", losses));
    let path = out.join("xor.svg");
    save_grid(&path, "XOR: by hand with ever steeper neurons, and learned", 3, &plots)?;
    println!("wrote {}", path.display());
    Ok(())
}

/// The net that a person writes down: exact with thresholds, ever closer with ever steeper sigmoids. Prints its values, and
/// draws it.
fn written_by_hand(runtime: &Runtime, x: &Array2<f32>) -> Result<Vec<Plot>, Box<dyn Error>> {
    println!("th(th(x1 + x2 - 1.5) + th(-x1 - x2 + 0.5) - 0.5) by hand:\n");
    println!("                       rows (0,0)  (0,1)  (1,0)  (1,1)");
    let grid = cells();
    let mut plots = Vec::new();
    for c in [None, Some(5.0), Some(20.0), Some(80.0)] {
        let program = |n: usize| -> Result<_, Box<dyn Error>> {
            let graph = build(|g| {
                let [equal, xor] = by_hand(g, n, |z| neuron(z, c));
                g.output("equal", equal);
                g.output("xor", xor);
            })?;
            Ok(Compiler::new().compile(&graph)?)
        };
        let mut session = Session::new(runtime, program(4)?, Seed(0))?;
        let results = session.step([("x", x.into())])?;
        let neuron = c.map_or("threshold".into(), |c| format!("sigmoid({c} z)"));
        for (name, what) in [("equal", "as written"), ("xor", "negated: XOR")] {
            let cells: String = results.view::<f32>(name)?.iter().map(|v| format!("  {v:.3}")).collect();
            println!("  {neuron:<13} {what:<13}{cells}");
        }
        let mut session = Session::new(runtime, program(N_CELLS * N_CELLS)?, Seed(0))?;
        let results = session.step(("x", &grid))?;
        plots.push(map(format!("by hand, {neuron}"), results.view::<f32>("xor")?.iter().copied())?);
    }
    println!();
    Ok(plots)
}
