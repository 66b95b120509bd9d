//! What must not depend on sizes: the time to compile a loop on its number of iterations, and the time of a small update of a large
//! carry on its number of rows. And what an iteration costs that does next to nothing, with gradients that end in 0 and in subnormals.
//!
//! ```text
//! cargo bench --bench loops
//! ```

use std::time::Instant;

use cotangent::graph::ops::scan::{Loop, Made};
use cotangent::nn::Given;
use cotangent::prelude::*;

const ROUNDS: usize = 15;

/// The least milliseconds of some rounds.
fn least(mut f: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

/// An LSTM of 128 over so many steps, and its gradients.
fn lstm(n: usize) -> Graph {
    let graph = build(|g| {
        let x = g.input("x", F32, [8, n, 128]);
        let made = Recurrent::lstm(128).run("lstm", x, &Given::new());
        g.minimize(made.states[0].square().mean(), Sgd::new(0.1));
    });
    graph.expect("the net is well formed")
}

/// Each iteration replaces a row of a table that is a state of the program.
fn updates(n_rows: usize, n: usize) -> Graph {
    let graph = build(|g| {
        let (table, rows) = (g.state("table", F32, [n_rows, 16], Init::ZEROS), g.input("rows", I64, [n]));
        let made = g.scan("updates", Loop::new().carry(table).slice(rows), |g, i| {
            let (table, row) = (i.carries[0], i.slices[0]);
            let start = [row, g.scalar(0i64, I64)];
            let old = table.dynamic_slice(&start, [1, 16]);
            Made { carries: vec![table.dynamic_update_slice(old * 0.5 + 1.0, &start)], outputs: Vec::new() }
        });
        g.update(table, made.carries[0]);
    });
    graph.expect("the program is well formed")
}

/// h ← tanh(a·h + x), of single numbers: the last, with the gradients with respect to a and x if asked for.
fn recurrence(n: usize, gradients: bool) -> Graph {
    let graph = build(|g| {
        let (a, h, x) = (g.input("a", F32, []), g.input("h", F32, []), g.input("x", F32, [n]));
        let made = g.scan("recurrence", Loop::new().carry(h).slice(x).capture(a), |_, i| {
            let h = (i.captures[0] * i.carries[0] + i.slices[0]).tanh();
            Made { carries: vec![h], outputs: Vec::new() }
        });
        g.output("h", made.carries[0]);
        if gradients {
            for (name, value) in ["da", "dx"].into_iter().zip(g.grad(made.carries[0], &[a, x])) {
                g.output(name, value);
            }
        }
    });
    graph.expect("the program is well formed")
}

fn main() {
    println!("{:>10} {:>12} {:>12}", "iterations", "compile ms", "code bytes");
    for n in [64, 10_000] {
        let graph = lstm(n);
        let mut bytes = 0;
        let time = least(|| bytes = Compiler::new().compile(&graph).expect("the net compiles").code_bytes());
        println!("{n:>10} {time:>12.2} {bytes:>12}");
    }
    println!("\n{:>10} {:>18}", "rows", "ns per iteration");
    let runtime = Runtime::new(Threads::Exactly(1));
    for n_rows in [4_000, 40_000, 400_000] {
        const N: [usize; 2] = [4_000, 12_000];
        // A check inside of the loop may fail, so the step changes a copy of the table: the difference is that of iterations.
        let [few, many] = N.map(|n| {
            let program = Compiler::new().compile(&updates(n_rows, n)).expect("the program compiles");
            let mut session = Session::new(&runtime, program, Seed(1)).expect("a fresh store fits");
            // The same rows of each table, so that caches are as warm.
            let rows = cotangent::ndarray::Array1::from_shape_fn(n, |i| (i * 7919 % 4_000) as i64);
            least(|| {
                session.step(inputs![rows]).expect("the rows are there");
            })
        });
        println!("{n_rows:>10} {:>18.1}", (many - few) * 1e6 / (N[1] - N[0]) as f64);
    }
    println!("\n{:>10} {:>18}", "tanh", "ns per iteration");
    // At 0.9 the cotangent comes to the least subnormal number and stays there; at 0.5 it comes to 0. Some CPUs take more than a hundred
    // cycles for an operation on subnormals.
    for (name, gradients, a) in [("value", false, 0.9f32), ("gradients", true, 0.5), ("subnormal", true, 0.9)] {
        const N: usize = 10_000;
        let program = Compiler::new().compile(&recurrence(N, gradients)).expect("the program compiles");
        let mut session = Session::new(&runtime, program, Seed(1)).expect("a fresh store fits");
        let (a, h) = (cotangent::ndarray::arr0(a), cotangent::ndarray::arr0(0.0f32));
        let x = cotangent::ndarray::Array1::from_shape_fn(N, |i| (i % 7) as f32 * 0.03 - 0.1);
        let time = least(|| {
            session.step(inputs![a, h, x]).expect("all inputs are there");
        });
        println!("{name:>10} {:>18.1}", time * 1e6 / N as f64);
    }
}
