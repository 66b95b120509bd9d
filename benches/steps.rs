//! Time of a train step by net, fused or not, and threads: one quick table, for seeing a regression at a glance.
//!
//! ```text
//! cargo bench --bench steps
//! ```
//!
//! Not a measuring stand: medians of short rounds on a machine that may be doing other things. The example
//! `fused_vs_unfused` compares the two more carefully.

use std::time::Instant;

use cotangent::prelude::*;

/// A row of the table: widths of a net, input first, and the batch.
const NETS: [(&[usize], usize); 4] =
    [(&[2, 8, 2], 4), (&[784, 128, 10], 32), (&[784, 256, 128, 10], 128), (&[64, 64, 64, 64, 64, 10], 64)];
const N_ROUNDS: usize = 15;
/// The least time of a round.
const ROUND_MILLIS: f64 = 5.0;

fn net(g: &GraphBuilder, widths: &[usize], batch: usize) {
    let mut x = g.input("x", F32, [batch, widths[0]]);
    for (k, &width) in widths[1..].iter().enumerate() {
        x = if k == 0 { x } else { x.relu() };
        x = x.dense(&format!("layer{k}"), width);
    }
    let loss = x.cross_entropy(g.input("y", I64, [batch])).mean();
    g.output("loss", loss);
    g.minimize(loss, Adam::new(1e-3));
}

/// The median time of a step in microseconds.
fn micros(session: &mut Session, inputs: &[(String, TensorData)]) -> f64 {
    let mut steps = |n: u32| {
        let start = Instant::now();
        for _ in 0..n {
            session
                .step(cotangent::exec::Each(inputs.iter().map(|(name, value)| (name.as_str(), value.into()))))
                .expect("the inputs fit");
        }
        start.elapsed().as_secs_f64() * 1e6
    };
    let mut n = 1;
    while steps(n) < ROUND_MILLIS * 1e3 {
        n *= 2;
    }
    let mut times: Vec<f64> = (0..N_ROUNDS).map(|_| steps(n) / f64::from(n)).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    println!("{:<24} {:>6} {:>8} {:>14} {:>14} {:>7}", "net", "batch", "threads", "unfused µs", "fused µs", "faster");
    for (widths, batch) in NETS {
        let graph = build(|g| net(g, widths, batch)).expect("the net is well formed");
        for n_threads in [1, 2] {
            let runtime = Runtime::new(Threads::Exactly(n_threads));
            let [unfused, fused] = [false, true].map(|fuse| {
                let program = Compiler::new().fuse(fuse).compile(&graph).expect("the net compiles");
                let fill = |(name, ty): (&str, &Type)| {
                    let n_classes = widths[widths.len() - 1] as f64;
                    let start = if ty.dtype() == I64 { Init::uniform(0.0, n_classes) } else { Init::normal(0.0, 1.0) };
                    (name.to_owned(), start.sample(1, name, ty.dtype(), ty.shape()))
                };
                let inputs: Vec<(String, TensorData)> = program.inputs().map(fill).collect();
                let mut session = Session::new(&runtime, program, Seed(1)).expect("a fresh store fits");
                micros(&mut session, &inputs)
            });
            let name = widths.iter().map(usize::to_string).collect::<Vec<_>>().join("-");
            let faster = unfused / fused;
            println!("{name:<24} {batch:>6} {n_threads:>8} {unfused:>14.1} {fused:>14.1} {faster:>6.2}×");
        }
    }
}
