//! What fusion is worth: the same graphs compiled with and without it, measured side by side.
//!
//! ```text
//! cargo run --release --example fused_vs_unfused -- --threads 2
//! ```
//!
//! Without fusion every op is a kernel of its own, which reads its operands from memory and writes its result there.
//! Fused, a chain of ops is one loop that keeps intermediate values in registers. Both programs come out of the same
//! compiler and give the same bits; what differs is the number of kernels, the memory they need, and the bytes that they
//! move. The two are stepped in turns (A B A B …), so that a machine that slows down slows both, and medians are shown.

mod flags;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cotangent::exec::Each;
use cotangent::graph::Graph;
use cotangent::kernel::{Plan, Step};
use cotangent::prelude::*;

/// What is compared: a name and a graph.
type Workload = (&'static str, fn(&GraphBuilder));

const WORKLOADS: [Workload; 4] = [
    ("elementwise, 1M", elementwise),
    ("softmax + loss, 256 × 1000", softmax_cross_entropy),
    ("MLP train step, batch 64", train_step),
    ("MLP train step, batch 8", small_train_step),
];

/// A formula of a dozen ops on a million elements.
fn elementwise(g: &GraphBuilder) {
    let (x, y) = (g.input("x", F32, [1 << 20]), g.input("y", F32, [1 << 20]));
    let gate: Tensor<'_> = (x * 1.7 + y * 0.3).sigmoid();
    g.output("z", gate * x.tanh() + (1.0 - gate) * (y * y + 1.0).sqrt() - x.maximum(y) * 0.1);
}

/// A loss over a thousand classes, its gradient, and the probabilities.
fn softmax_cross_entropy(g: &GraphBuilder) {
    let logits = g.input("x", F32, [256, 1000]);
    let loss = logits.cross_entropy(g.input("labels", I64, [256])).mean();
    g.output("loss", loss);
    g.output("gradient", g.grad(loss, &[logits])[0]);
    g.output("p", logits.softmax(1));
}

fn train_step(g: &GraphBuilder) {
    mlp(g, 64);
}

fn small_train_step(g: &GraphBuilder) {
    mlp(g, 8);
}

/// Forward, backward and Adam of a 784-256-10 net with dropout.
fn mlp(g: &GraphBuilder, batch: usize) {
    let x = g.input("x", F32, [batch, 784]);
    let logits = x.dense("hidden", 256).relu().dropout("drop", 0.2).dense("out", 10);
    let loss = logits.cross_entropy(g.input("labels", I64, [batch])).mean();
    g.output("loss", loss);
    g.minimize(loss, Adam::new(1e-3));
}

fn main() -> Result<(), Box<dyn Error>> {
    let known = [("threads", "number of threads (2)"), ("quick", "few repetitions, for a test that it runs")];
    let flags = flags::Flags::parse("The same programs with and without fusion", &known);
    let runtime = Runtime::new(Threads::Exactly(flags.get("threads", 2)?));
    let (n_rounds, round) = if flags.get("quick", false)? { (3, 2) } else { (31, 20) };
    println!("{} threads, medians of {n_rounds} rounds of at least {round} ms, unfused → fused\n", runtime.n_threads());
    println!(
        "{:<27} {:>21} {:>7} {:>12} {:>17} {:>17}",
        "", "µs per step", "faster", "kernels", "arena KiB", "moved KiB"
    );
    for (name, define) in WORKLOADS {
        let graph = build(define)?;
        let [mut unfused, mut fused] =
            [Contender::new(&graph, &runtime, false)?, Contender::new(&graph, &runtime, true)?];
        for _ in 0..n_rounds {
            for contender in [&mut unfused, &mut fused] {
                contender.round(Duration::from_millis(round))?;
            }
        }
        let (a, b) = (unfused.median(), fused.median());
        let pair = |f: fn(&Contender) -> u64| format!("{} → {}", f(&unfused), f(&fused));
        println!(
            "{name:<27} {:>21} {:>6.2}× {:>12} {:>17} {:>17}",
            format!("{a:.1} → {b:.1}"),
            a / b,
            pair(|c| n_kernels(c.session.program().plan())),
            pair(|c| c.session.program().arena_bytes() as u64 >> 10),
            pair(|c| c.session.program().plan().bytes_moved() >> 10),
        );
    }
    Ok(())
}

/// A compiled program with its inputs and its times.
struct Contender {
    session: Session,
    inputs: Vec<(String, TensorData)>,
    micros: Vec<f64>,
}

impl Contender {
    fn new(graph: &Graph, runtime: &Runtime, fuse: bool) -> Result<Self, Box<dyn Error>> {
        let program: Arc<Executable> = Compiler::new().fuse(fuse).compile(graph)?;
        // Floats on [-1, 1], and labels that are in range for ten classes and more.
        let fill = |(name, ty): (&str, &Type)| {
            let start = if ty.dtype() == I64 { Init::uniform(0.0, 10.0) } else { Init::uniform(-1.0, 1.0) };
            (name.to_owned(), start.sample(1, name, ty.dtype(), ty.shape()))
        };
        let inputs = program.inputs().map(fill).collect();
        let mut contender = Contender { session: Session::new(runtime, program, Seed(1))?, inputs, micros: Vec::new() };
        contender.steps(2)?;
        Ok(contender)
    }

    fn steps(&mut self, n: u32) -> Result<Duration, Diag> {
        let start = Instant::now();
        for _ in 0..n {
            self.session.step(Each(self.inputs.iter().map(|(name, value)| (name.as_str(), value.into()))))?;
        }
        Ok(start.elapsed())
    }

    /// Steps for at least this long; the mean time of a step is one measurement.
    fn round(&mut self, at_least: Duration) -> Result<(), Diag> {
        let mut n = 1;
        loop {
            let time = self.steps(n)?;
            if time >= at_least {
                self.micros.push(time.as_secs_f64() * 1e6 / f64::from(n));
                return Ok(());
            }
            n *= 2;
        }
    }

    fn median(&self) -> f64 {
        let mut sorted = self.micros.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

/// Kernels and matrix products of a step.
fn n_kernels(plan: &Plan) -> u64 {
    plan.steps.iter().filter(|step| matches!(step, Step::Kernel(_) | Step::Product { .. })).count() as u64
}
