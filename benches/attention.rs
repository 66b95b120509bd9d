//! Attention of `[batch, 4 heads, T, 64]`, and it with its gradients, for several T.
//!
//! ```text
//! cargo bench --bench attention          # one thread; `-- 2` for two; `-- 1 1024` for the lines of T = 1024
//! ```
//!
//! The best of so many steps as make half a second, at least five.

use std::time::Instant;

use cotangent::exec::{Each, HostTensor};
use cotangent::prelude::*;
use ndarray::Array4;

fn line(runtime: &Runtime, batch: usize, time: usize, causal: bool, gradients: bool) -> f64 {
    let shape = [batch, 4, time, 64];
    let graph = build(|g| {
        let all = ["q", "k", "v"].map(|name| g.input(name, F32, shape));
        let how = if causal { Attention::new().causal() } else { Attention::new() };
        let y = all[0].attention(all[1], all[2], how);
        if gradients {
            let dy = g.input("dy", F32, shape);
            for (name, gradient) in ["dq", "dk", "dv"].into_iter().zip(g.grad_with_seed(y, dy, &all)) {
                g.output(name, gradient);
            }
        }
        g.output("y", y);
    })
    .expect("it is well formed");
    let program = Compiler::new().compile(&graph).expect("it compiles");
    let mut session = Session::new(runtime, program, Seed(0)).expect("it starts");
    let value = |n: usize| Array4::from_shape_fn(shape, |(b, h, t, c)| ((b * 7 + h * 5 + t * 3 + c * n) as f32).sin());
    let names = ["q", "k", "v", "dy"];
    let inputs: Vec<_> =
        names.iter().zip(1..).take(3 + usize::from(gradients)).map(|(name, n)| (*name, value(n))).collect();
    let mut best = f64::INFINITY;
    let (began, mut n) = (Instant::now(), 0);
    while n < 5 || began.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        session.step(Each(inputs.iter().map(|(name, value)| (*name, HostTensor::from(value))))).expect("it runs");
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
        n += 1;
    }
    best
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let runtime = Runtime::new(Threads::Exactly(numbers.first().copied().unwrap_or(1)));
    for batch in [1, 8] {
        for time in [256, 1024, 4096] {
            if numbers.get(1).is_some_and(|&only| only != time) {
                continue;
            }
            for causal in [false, true] {
                let [value, gradients] = [false, true].map(|g| line(&runtime, batch, time, causal, g));
                let kind = if causal { "causal" } else { "full" };
                println!("[{batch}, 4, {time}, 64] {kind:<6} {value:9.2} ms, with gradients {gradients:9.2} ms");
            }
        }
    }
}
