//! What recurrent nets remember: the adding problem, what is left of gradients after many steps, and the cliffs that clipping is for.
//!
//! ```text
//! cargo run --release --example sequences
//! ```
//!
//! Of 200 numbers two are marked, one in each half, and the net is to say their sum at the end. Whoever says 1 each time is wrong by 1/6
//! in the mean square. After 2,500 steps a plain RNN still says 1 (0.17), and on the way back its gradients lose some 17 powers of ten;
//! the LSTM begins to learn after 2,200 steps (0.002) and the GRU after 500 (0.0004), and then gradients reach each mark undiminished. Not
//! so at the start: there the RNN, whose weights are orthogonal, has the largest. The program draws its sequences by itself, so a step
//! needs no input.
//!
//! The second part is the smallest net that has a cliff (Pascanu et al. 2013): one neuron, h ← w·σ(h) + b, 50 times. Gradient descent
//! that meets the cliff is thrown 166 away by one step (where, by luck, there is another place without error); with the gradient's norm
//! clipped it moves by 0.05 at most and goes down along the foot.

mod flags;

use std::error::Error;
use std::path::PathBuf;

use cotangent::graph::ops::scan::{Loop, Made};
use cotangent::prelude::*;
use cotangent::train::plot::{Plot, save_grid};
use ndarray::Array2;

/// Sequences of a step.
const BATCH: usize = 32;
/// Steps over which a loss that is printed is the mean.
const WINDOW: usize = 50;
/// Iterations of the one neuron, and what it should end with.
const ITERATIONS: usize = 50;
const TARGET: f64 = 0.7;
/// Numbers on each side of the surface.
const SIDE: usize = 120;
const WEIGHTS: (f64, f64) = (3.0, 7.0);
const BIASES: (f64, f64) = (-4.0, -1.0);
/// Weight and bias that descent starts with, and its rate at first.
const START: [f64; 2] = [6.0, -2.6];
const RATE: f64 = 0.05;

/// The mean square error of a cell on the adding problem, and the sequences.
fn adding<'g>(g: &'g GraphBuilder, cell: Recurrent, length: usize, width: usize) -> (Tensor<'g>, Tensor<'g>) {
    let shape = [BATCH, length];
    let values = g.uniform("values", F32, shape);
    let place = g.iota(I64, shape, 1);
    // A mark somewhere in each half.
    let half = (length / 2) as f64;
    let marked = [("first", 0.0), ("second", half)].map(|(name, from)| {
        let at = (g.uniform(name, F32, [BATCH, 1]) * half + from).floor().cast(I64);
        place.eq(at.broadcast_to(shape)).cast(F32)
    });
    let marks = marked[0] + marked[1];
    let sums = (values * marks).sum_over([1]);
    let each = |t: Tensor<'g>| t.reshape([BATCH, length, 1]);
    let x = g.concat(&[each(values), each(marks)], 2);
    let h = x.layer("cell", cell);
    let last = h.slice(&[0, length - 1, 0], &[BATCH, length, width]).reshape([BATCH, width]);
    (last.dense("out", 1).reshape([BATCH]).mse(sums), x)
}

/// Losses in training, and norms of gradients by place before and after it.
fn learn(runtime: &Runtime, cell: Recurrent, [length, width, steps]: [usize; 3]) -> Result<[Vec<f64>; 3], Diag> {
    let program = |f: &dyn Fn(&GraphBuilder, Tensor<'_>, Tensor<'_>)| {
        let graph = build(|g| {
            let (loss, x) = adding(g, cell, length, width);
            f(g, loss, x);
        });
        Compiler::new().compile(&graph.expect("the net is well formed")).expect("the net compiles")
    };
    let train = program(&|g, loss, _| {
        g.output("loss", loss);
        g.minimize(loss, Adam::new(5e-3).with(Recipe::new().clip_norm(1.0)));
    });
    let look = program(&|g, loss, x| {
        let gradient = g.grad(loss, &[x])[0];
        g.output("norms", gradient.square().sum_over([0, 2]).sqrt());
    });
    let mut session = Session::new(runtime, train, Seed(1))?;
    let look = session.load(look)?;
    let before = session.run(look, ())?.tensor("norms")?.to_f64();
    let mut losses = Vec::with_capacity(steps);
    for _ in 0..steps {
        losses.push(session.step(())?.scalar("loss")?);
    }
    let after = session.run(look, ())?.tensor("norms")?.to_f64();
    Ok([losses, before, after])
}

/// The square error of the one neuron for weights and biases of one shape.
fn error<'g>(g: &'g GraphBuilder, w: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
    let over = Loop::new().carry(w.constant_like(0.5).broadcast_to(w.shape())).capture(w).capture(b).times(ITERATIONS);
    let made = g.scan("neuron", over, |_, i| {
        let [w, b] = [i.captures[0], i.captures[1]];
        Made { carries: vec![w * i.carries[0].sigmoid() + b], outputs: Vec::new() }
    });
    (made.carries[0] - TARGET).square()
}

/// The errors of all weights (along rows) and biases (down the columns).
fn surface(runtime: &Runtime) -> Result<Array2<f64>, Box<dyn Error>> {
    let graph = build(|g| {
        let (w, b) = (g.input("w", F64, [SIDE, SIDE]), g.input("b", F64, [SIDE, SIDE]));
        g.output("error", error(g, w, b));
    })?;
    let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(0))?;
    let at = |(from, to): (f64, f64), k: usize| from + (to - from) * (k as f64 + 0.5) / SIDE as f64;
    let w = Array2::from_shape_fn((SIDE, SIDE), |(_, k)| at(WEIGHTS, k));
    let b = Array2::from_shape_fn((SIDE, SIDE), |(k, _)| at(BIASES, k));
    Ok(session.step(inputs![w, b])?.view::<f64>("error")?.to_owned().into_dimensionality()?)
}

/// Where descent goes from a point before the cliff: weight, bias, and error at each step.
fn descend(runtime: &Runtime, recipe: Recipe, steps: usize) -> Result<Vec<[f64; 3]>, Box<dyn Error>> {
    let graph = build(|g| {
        let w = g.param("w", F64, [], Init::constant(START[0]));
        let b = g.param("b", F64, [], Init::constant(START[1]));
        let loss = error(g, w, b);
        [("w", w), ("b", b), ("error", loss)].into_iter().for_each(|(name, value)| g.output(name, value));
        g.minimize(loss, Sgd::new(RATE).with(recipe.schedule(Schedule::cosine(steps as u64))));
    })?;
    let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(0))?;
    let mut path = Vec::with_capacity(steps);
    for _ in 0..steps {
        let out = session.step(())?;
        path.push([out.scalar("w")?, out.scalar("b")?, out.scalar("error")?]);
    }
    Ok(path)
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [
        ("length", "numbers of a sequence (200)"),
        ("width", "neurons of a cell (32)"),
        ("steps", "steps of training (2500)"),
        ("threads", "number of threads (2)"),
        ("out", "folder of the pictures (target/sequences)"),
    ];
    let flags = flags::Flags::parse("What recurrent nets remember", &known);
    let (length, width) = (flags.get("length", 200usize)?, flags.get("width", 32usize)?);
    let (steps, out) = (flags.get("steps", 2500usize)?, flags.get("out", PathBuf::from("target/sequences"))?);
    if length < 4 || width < 1 || steps < 1 {
        return Err("required sequences of 4 numbers or more, a neuron and a step".into());
    }
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));

    let guess = 1.0 / 6.0;
    let mut curves = Plot::new("The adding problem").x_label("step").y_label("mean square error").log_y();
    let mut start = Plot::new("At the start").x_label("place in the sequence").y_label("norm of the gradient").log_y();
    let mut end = Plot::new("After training").x_label("place in the sequence").y_label("norm of the gradient").log_y();
    println!("{:<6}{:>14}{:>14}{:>32}", "", "first error", "last error", "gradient, first : last place");
    for (name, cell) in
        [("RNN", Recurrent::rnn(width)), ("LSTM", Recurrent::lstm(width)), ("GRU", Recurrent::gru(width))]
    {
        let [losses, before, after] = learn(&runtime, cell, [length, width, steps])?;
        let means: Vec<(f64, f64)> = losses
            .chunks(WINDOW)
            .enumerate()
            .map(|(k, part)| ((k * WINDOW + part.len()) as f64, part.iter().sum::<f64>() / part.len() as f64))
            .collect();
        let ratio = before[0] / before[length - 1];
        println!("{name:<6}{:>14.4}{:>14.4}{ratio:>32.1e}", means[0].1, means[means.len() - 1].1);
        curves = curves.line(name, means);
        // Zeros have no place on the axis.
        let shown = |norms: Vec<f64>| {
            norms.into_iter().enumerate().filter(|(_, norm)| *norm > 0.0).map(|(k, norm)| (k as f64, norm))
        };
        start = start.line(name, shown(before));
        end = end.line(name, shown(after));
    }
    curves = curves.level("saying 1", guess);
    let path = out.join("adding.svg");
    save_grid(&path, &format!("Two of {length} numbers are marked"), 3, &[curves, start, end])?;
    println!("wrote {}\n", path.display());

    let errors = surface(&runtime)?;
    let ways = [("as it is", Recipe::new()), ("norm clipped at 1", Recipe::new().clip_norm(1.0))];
    let mut picture = Plot::new("Logarithm of the error").x_label("weight").y_label("bias");
    // From 10⁻⁴, blue, to 10², orange.
    picture = picture.heat(
        WEIGHTS,
        BIASES,
        errors.mapv(|error| (error.log10() + 1.0) / 3.0).mapv(|v| v.clamp(-1.0, 1.0)).view(),
    );
    let mut curves = Plot::new("Descent").x_label("step").y_label("error").log_y();
    println!("{:<22}{:>12}{:>12}{:>14}{:>14}", "gradient", "last w", "last b", "largest jump", "last error");
    for (name, recipe) in ways {
        let path = descend(&runtime, recipe, 300)?;
        let jump = path.windows(2).map(|p| (p[1][0] - p[0][0]).hypot(p[1][1] - p[0][1])).fold(0.0, f64::max);
        let [w, b, error] = path[path.len() - 1];
        println!("{name:<22}{w:>12.3}{b:>12.3}{jump:>14.3}{error:>14.2e}");
        let inside = |p: &&[f64; 3]| (WEIGHTS.0..WEIGHTS.1).contains(&p[0]) && (BIASES.0..BIASES.1).contains(&p[1]);
        picture = picture.dotted_line(name, path.iter().filter(inside).map(|p| (p[0], p[1])));
        curves = curves.line(name, path.iter().enumerate().map(|(k, p)| (k as f64, p[2].max(1e-12))));
    }
    let path = out.join("cliff.svg");
    save_grid(&path, "h ← w·σ(h) + b, 50 times", 2, &[picture, curves])?;
    println!("wrote {}", path.display());
    Ok(())
}
