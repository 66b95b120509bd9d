//! Hessian-vector products: Newton's method on a logistic regression without ever forming a Hessian.
//!
//! ```text
//! cargo run --release --example hessian_vector
//! ```
//!
//! The product H·v of the Hessian of a loss with a vector is a derivative of the gradient in a direction. It can be written
//! in two ways, forward over reverse (`g.jvp` of the gradient) and reverse over reverse (`g.grad` of ⟨gradient, v⟩), and
//! the compiler makes one program of the order of a gradient's cost of either. Both are compared with central differences
//! of the gradient. Then the largest eigenvalue of the Hessian is found by power iteration, and conjugate gradients on
//! H·p = −∇ give Newton's steps (truncated Newton; Nocedal and Wright 2006, chapter 7), which need a few iterations where
//! gradient descent with the best fixed rate, 2 / (λmax + λmin), is still far from the end.

mod flags;

use std::error::Error;

use cotangent::prelude::*;
use ndarray::{Array1, Array2};

const SAMPLES: usize = 400;
const FEATURES: usize = 30;
/// The weight of ‖w‖²/2, which is also the least eigenvalue that the Hessian can have.
const RIDGE: f64 = 1e-3;

/// The loss of `w`: the mean of the binary cross-entropy, and the ridge.
fn loss(g: &GraphBuilder) -> (Tensor<'_>, Tensor<'_>) {
    let (x, y) = (g.input("x", F64, [SAMPLES, FEATURES]), g.input("y", F64, [SAMPLES]));
    let w = g.param("w", F64, [FEATURES], Init::ZEROS);
    let logits = x.matmul(w.reshape([FEATURES, 1])).reshape([SAMPLES]);
    (logits.bce_with_logits(y).mean() + w.square().sum() * (RIDGE / 2.0), w)
}

/// The programs, which share `w`.
struct Model {
    session: Session,
    x: Array2<f64>,
    y: Array1<f64>,
    forward: ProgramId,
    reverse: ProgramId,
}

impl Model {
    fn new(seed: u64) -> Result<Self, Box<dyn Error>> {
        let compiler = Compiler::new();
        let gradient = compiler.compile(&build(|g| {
            let (loss, w) = loss(g);
            g.output("loss", loss);
            g.output("slope", g.grad(loss, &[w])[0]);
        })?)?;
        let forward = compiler.compile(&build(|g| {
            let (loss, w) = loss(g);
            g.output("hv", g.jvp(g.grad(loss, &[w])[0], w, g.input("v", F64, [FEATURES])));
        })?)?;
        let reverse = compiler.compile(&build(|g| {
            let (loss, w) = loss(g);
            let along = (g.grad(loss, &[w])[0] * g.input("v", F64, [FEATURES])).sum();
            g.output("hv", g.grad(along, &[w])[0]);
        })?)?;
        let nodes = |program: &Executable| program.optimized().n_nodes();
        println!(
            "loss and gradient: {} ops; H·v forward over reverse: {}, reverse over reverse: {}\n",
            nodes(&gradient),
            nodes(&forward),
            nodes(&reverse)
        );
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), gradient, Seed(seed))?;
        let (forward, reverse) = (session.load(forward)?, session.load(reverse)?);
        let (x, y) = data(seed);
        Ok(Model { session, x, y, forward, reverse })
    }

    fn set(&mut self, w: &Array1<f64>) -> Result<(), Diag> {
        self.session.store_mut().set("w", w.clone())
    }

    /// The loss and its gradient at the current `w`.
    fn slope(&mut self) -> Result<(f64, Array1<f64>), Box<dyn Error>> {
        let out = self.session.step((("x", &self.x), ("y", &self.y)))?;
        let slope = out.view::<f64>("slope")?.to_owned().into_dimensionality()?;
        Ok((out.scalar("loss")?, slope))
    }

    /// H·v at the current `w`.
    fn product(&mut self, program: ProgramId, v: &Array1<f64>) -> Result<Array1<f64>, Box<dyn Error>> {
        let inputs = [("x", (&self.x).into()), ("y", (&self.y).into()), ("v", v.into())];
        let out = self.session.run(program, inputs)?;
        Ok(out.view::<f64>("hv")?.to_owned().into_dimensionality()?)
    }
}

/// Features on very different scales, so that the Hessian's eigenvalues are too, and labels of a noisy linear rule.
fn data(seed: u64) -> (Array2<f64>, Array1<f64>) {
    let noise = |element: usize, stream: u32| {
        let word = cotangent::scalar::philox::word(seed, stream, 0, element as u64);
        2.0 * f64::from(cotangent::scalar::philox::uniform_f32(word)) - 1.0
    };
    let scale = |j: usize| 10f64.powf(-1.5 * j as f64 / (FEATURES - 1) as f64);
    let x = Array2::from_shape_fn((SAMPLES, FEATURES), |(i, j)| noise(i * FEATURES + j, 1) * scale(j) * 3.0);
    let rule = Array1::from_shape_fn(FEATURES, |j| noise(j, 2) / scale(j).sqrt());
    let y = x.dot(&rule).iter().enumerate().map(|(i, z)| f64::from(u8::from(z + noise(i, 3) > 0.0))).collect();
    (x, y)
}

fn norm(v: &Array1<f64>) -> f64 {
    v.dot(v).sqrt()
}

/// Conjugate gradients on H·p = −slope, until the residual is a small share of the slope; the step and the products used.
fn newton_step(model: &mut Model, slope: &Array1<f64>) -> Result<(Array1<f64>, usize), Box<dyn Error>> {
    let mut step = Array1::zeros(FEATURES);
    let mut residual = -slope;
    let mut direction = residual.clone();
    // The closer to the end, the more exact, so that convergence is faster than linear.
    let enough = norm(slope) * norm(slope).sqrt().min(0.1);
    for n in 0..2 * FEATURES {
        if norm(&residual) <= enough {
            return Ok((step, n));
        }
        let product = model.product(model.forward, &direction)?;
        let before = residual.dot(&residual);
        let length = before / direction.dot(&product);
        step = step + &direction * length;
        residual = residual - &product * length;
        direction = &residual + &direction * (residual.dot(&residual) / before);
    }
    Ok((step, 2 * FEATURES))
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [("seed", "of the data (1)"), ("descent", "steps of gradient descent to compare with (2000)")];
    let flags = flags::Flags::parse("Newton's method by Hessian-vector products", &known);
    let (seed, n_descent): (u64, usize) = (flags.get("seed", 1)?, flags.get("descent", 2000)?);
    let mut model = Model::new(seed)?;

    // Both ways against central differences of the gradient, at a point that is not special.
    let at = Array1::from_shape_fn(FEATURES, |j| (j as f64 * 0.7).sin());
    let v = Array1::from_shape_fn(FEATURES, |j| (j as f64 * 1.3).cos());
    model.set(&at)?;
    let forward = model.product(model.forward, &v)?;
    let reverse = model.product(model.reverse, &v)?;
    let step = 1e-5;
    model.set(&(&at + &v * step))?;
    let high = model.slope()?.1;
    model.set(&(&at - &v * step))?;
    let low = model.slope()?.1;
    let differences = (high - low) / (2.0 * step);
    let error = |a: &Array1<f64>, b: &Array1<f64>| norm(&(a - b)) / norm(b);
    let (ways, finite) = (error(&forward, &reverse), error(&forward, &differences));
    println!("H·v, forward against reverse over reverse: relative error {ways:.1e}");
    println!("H·v against central differences:           relative error {finite:.1e}\n");
    assert!(ways < 1e-12 && finite < 1e-8, "the products are wrong");

    // At the start every sample's curvature is 1/4, the most there is.
    model.set(&Array1::zeros(FEATURES))?;
    let (mut vector, mut largest) = (Array1::ones(FEATURES), 0.0);
    for _ in 0..60 {
        vector /= norm(&vector);
        let product = model.product(model.forward, &vector)?;
        largest = vector.dot(&product);
        vector = product;
    }
    println!("largest eigenvalue of the Hessian at the start: {largest:.4}; the least is above {RIDGE}\n");

    println!("Newton's method, each step by conjugate gradients:");
    let mut w = Array1::zeros(FEATURES);
    let mut n_products = 0;
    let (mut value, mut slope) = model.slope()?;
    for iteration in 0..20 {
        println!("  step {iteration:>2}   loss {value:.10}   gradient {:.1e}   {n_products:>3} products", norm(&slope));
        if norm(&slope) < 1e-10 {
            break;
        }
        let (step, n) = newton_step(&mut model, &slope)?;
        n_products += n;
        // Full steps, unless one goes uphill.
        let mut length = 1.0;
        loop {
            let next = &w + &step * length;
            model.set(&next)?;
            let (new, new_slope) = model.slope()?;
            if new <= value + 1e-4 * length * slope.dot(&step) + 1e-14 || length < 1e-6 {
                (w, value, slope) = (next, new, new_slope);
                break;
            }
            length /= 2.0;
        }
    }
    let newton = value;
    assert!(norm(&slope) < 1e-8, "Newton's method has not converged");

    let rate = 2.0 / (largest + RIDGE);
    let mut w = Array1::zeros(FEATURES);
    println!("\ngradient descent, rate {rate:.3}:");
    for iteration in 0..=n_descent {
        model.set(&w)?;
        let (value, slope) = model.slope()?;
        if iteration % (n_descent / 4).max(1) == 0 {
            println!("  step {iteration:>5}   loss {value:.10}   gradient {:.1e}", norm(&slope));
        }
        w = w - slope * rate;
    }
    println!("\nNewton's method ends {:.1e} below gradient descent's last loss", {
        model.set(&w)?;
        model.slope()?.0 - newton
    });
    Ok(())
}
