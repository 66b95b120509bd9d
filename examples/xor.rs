//! XOR: the function that no single neuron computes, learned by a net of eight hidden ones.
//!
//! ```text
//! cargo run --release --example xor -- --seed 3
//! ```
//!
//! First the two layers of threshold neurons that a person writes down, and the same net with steep sigmoids in place of
//! thresholds. Then a 2-8-1 net that finds weights of its own, by gradient descent on the binary cross-entropy. Training
//! and evaluation are two programs on one store. The nets are so small that the time of a step is the time it takes to
//! start one.

mod flags;

use std::error::Error;
use std::time::Instant;

use cotangent::prelude::*;
use ndarray::{Array2, array};

const RATE: f64 = 0.5;

/// The net that is trained: logits `[4, 1]` of the four points `[4, 2]`.
fn net(g: &GraphBuilder) -> Tensor<'_> {
    g.input("x", F32, [4, 2]).dense("hidden", 8).tanh().dense("out", 1)
}

/// The lecture's formula th(th(x₁ + x₂ − 1.5) + th(−x₁ − x₂ + 0.5) − 0.5), whatever the neuron `th` is.
///
/// The two hidden neurons are "both" and "neither", so the formula answers whether the inputs are *equal*; XOR is the
/// same net with the signs of the last neuron turned around.
fn by_hand<'g>(g: &'g GraphBuilder, th: impl Fn(Tensor<'g>) -> Tensor<'g>) -> [Tensor<'g>; 2] {
    let x = g.input("x", F32, [4, 2]);
    let sum = x.reduce_sum(&[1]);
    let (both, neither) = (th(sum - 1.5), th(-sum + 0.5));
    [th(both + neither - 0.5), th(-both - neither + 0.5)]
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [("seed", "start of the weights (1)"), ("steps", "steps of gradient descent (2000)")];
    let flags = flags::Flags::parse("XOR by hand and by gradient descent", &known);
    let (seed, n_steps) = (flags.get("seed", 1)?, flags.get("steps", 2000)?);
    let runtime = Runtime::new(Threads::Exactly(1));
    let x = array![[0.0f32, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]];
    let y = array![[0.0f32], [1.0], [1.0], [0.0]];

    by_hand_table(&runtime, &x)?;

    let train = Compiler::new().compile(&build(|g| {
        let y = g.input("y", F32, [4, 1]);
        let loss = net(g).bce_with_logits(y).mean();
        g.output("loss", loss);
        g.minimize(loss, Sgd::new(RATE));
    })?)?;
    let evaluate = Compiler::new().compile(&build(|g| g.output("p", net(g).sigmoid()))?)?;
    let mut session = Session::new(&runtime, train, Seed(seed))?;
    let evaluate = session.load(evaluate)?;

    println!("a 2-8-1 net, tanh, gradient descent with rate {RATE}, seed {seed}:\n");
    let start = Instant::now();
    for step in 0..n_steps {
        let loss = session.step([("x", (&x).into()), ("y", (&y).into())])?.scalar("loss")?;
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
    Ok(())
}

/// The net that a person writes down: exact with thresholds, ever closer with ever steeper sigmoids.
fn by_hand_table(runtime: &Runtime, x: &Array2<f32>) -> Result<(), Box<dyn Error>> {
    println!("th(th(x1 + x2 - 1.5) + th(-x1 - x2 + 0.5) - 0.5) by hand:\n");
    println!("                       rows (0,0)  (0,1)  (1,0)  (1,1)");
    let mut steepness: Vec<Option<f64>> = vec![None];
    steepness.extend([5.0, 20.0, 80.0].map(Some));
    for c in steepness {
        let graph = build(|g| {
            let [equal, xor] = by_hand(g, |z| match c {
                // The threshold: 1 above 0, else 0.
                None => z.gt(z.constant_like(0.0)).cast(F32),
                Some(c) => (z * c).sigmoid(),
            });
            g.output("equal", equal);
            g.output("xor", xor);
        })?;
        let mut session = Session::new(runtime, Compiler::new().compile(&graph)?, Seed(0))?;
        let results = session.step([("x", x.into())])?;
        let neuron = c.map_or("threshold".into(), |c| format!("sigmoid({c} z)"));
        for (name, what) in [("equal", "as written"), ("xor", "negated: XOR")] {
            let cells: String = results.view::<f32>(name)?.iter().map(|v| format!("  {v:.3}")).collect();
            println!("  {neuron:<13} {what:<13}{cells}");
        }
    }
    println!();
    Ok(())
}
