//! Pooling and its gradients beside a copy of as many bytes, every operand and result counted once.
//!
//! ```text
//! cargo bench --bench pooling            # one thread; `-- 2` for two; `-- gradient` for the lines with that in their names
//! ```
//!
//! Each round runs every line and the copy after it, a few times in succession, so that slow spells of the machine meet all alike
//! and all find in the caches what they left there; the best time of each counts. The copy is of arrays as large as the operand of
//! the pooling, read and written on one thread.

use std::hint::black_box;
use std::time::Instant;

use cotangent::graph::ops::windows::Windows;
use cotangent::prelude::*;
use ndarray::ArrayViewD;

/// Examples, height, width, channels.
const SHAPE: [usize; 4] = [32, 56, 56, 64];
const N_ROUNDS: usize = 8;
/// The copy goes by pieces of so many elements, so that nobody makes stores past the caches of it.
const PIECE: usize = 512;
/// Times in succession in each round.
const N_REPEATS: usize = 4;

/// A line of the table.
struct Line {
    name: String,
    session: Session,
    inputs: Vec<(&'static str, Vec<usize>, Aligned)>,
    bytes: usize,
    best: f64,
}

/// So many numbers at the start of a line of the cache, as values between steps are.
struct Aligned {
    all: Vec<f32>,
    start: usize,
    n: usize,
}

impl Aligned {
    fn new(n: usize, value: impl FnMut() -> f32) -> Self {
        let mut all = vec![0.0; n + 16];
        let start = all.as_ptr().align_offset(64);
        all[start..start + n].fill_with(value);
        Aligned { all, start, n }
    }

    fn slice(&self) -> &[f32] {
        &self.all[self.start..self.start + self.n]
    }

    fn slice_mut(&mut self) -> &mut [f32] {
        &mut self.all[self.start..self.start + self.n]
    }
}

fn line(runtime: &Runtime, kind: &str, (size, stride, padding): (usize, usize, usize), backwards: bool) -> Line {
    let w = Windows::new([1, 2], &[size; 2]).stride(&[stride; 2]).padding(&[(padding, padding); 2]);
    let out = [SHAPE[1], SHAPE[2]].map(|n| (n + 2 * padding - size) / stride + 1);
    let pooled = [SHAPE[0], out[0], out[1], SHAPE[3]];
    let is_max = kind == "max";
    let graph = build(|g| {
        let x = g.input("x", F32, SHAPE);
        let y = if is_max { x.max_pool(&w) } else { x.mean_pool(&w) };
        if backwards {
            let dy = g.input("dy", F32, pooled);
            g.output("dx", g.grad((y * dy).sum(), &[x])[0]);
        } else {
            g.output("y", y);
        }
    })
    .expect("the graph is well formed");
    let values = |name: &'static str, shape: &[usize]| {
        let mut k = 0u32;
        let value = || {
            k = k.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (k >> 8) as f32 / (1 << 24) as f32
        };
        (name, shape.to_vec(), Aligned::new(shape.iter().product(), value))
    };
    let (x, y): (usize, usize) = (SHAPE.iter().product(), pooled.iter().product());
    // Of a mean the gradient does not need the operand; of the largest element it does, and the result.
    let elements = if backwards && is_max { 2 * x + 2 * y } else { x + y };
    let mut inputs = vec![values("x", &SHAPE)];
    if backwards {
        inputs.push(values("dy", &pooled));
    }
    let program = Compiler::new().compile(&graph).expect("it compiles");
    Line {
        name: format!(
            "{kind} {size}×{size}, stride {stride}, padding {padding}{}",
            if backwards { ", gradient" } else { "" }
        ),
        session: Session::new(runtime, program, Seed(0)).expect("there is memory"),
        inputs,
        bytes: 4 * elements,
        best: f64::INFINITY,
    }
}

fn main() {
    let n_threads = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(1);
    let runtime = Runtime::new(Threads::Exactly(n_threads));
    let named = std::env::args().skip(1).find(|arg| !arg.starts_with('-') && arg.parse::<usize>().is_err());
    let mut lines: Vec<Line> = Vec::new();
    for windows in [(2, 2, 0), (3, 2, 0), (3, 2, 1)] {
        for kind in ["max", "mean"] {
            lines.extend([false, true].map(|backwards| line(&runtime, kind, windows, backwards)));
        }
    }
    lines.retain(|line| named.as_ref().is_none_or(|named| line.name.contains(named)));
    let n = SHAPE.iter().product();
    let (from, mut to) = (Aligned::new(n, || 1.0), Aligned::new(n, || 0.0));
    let mut copy = f64::INFINITY;
    for _ in 0..N_ROUNDS {
        for line in &mut lines {
            for _ in 0..N_REPEATS {
                let start = Instant::now();
                let inputs = line.inputs.iter().map(|(name, shape, values)| {
                    let view = ArrayViewD::from_shape(&shape[..], values.slice()).expect("as many numbers");
                    (*name, view.into())
                });
                line.session.step(cotangent::exec::Each(inputs)).expect("the inputs fit");
                line.best = line.best.min(start.elapsed().as_secs_f64());
            }
            for _ in 0..N_REPEATS {
                let start = Instant::now();
                for (to, from) in
                    to.slice_mut().chunks_exact_mut(PIECE).zip(black_box(&from).slice().chunks_exact(PIECE))
                {
                    to.copy_from_slice(from);
                    black_box(to);
                }
                copy = copy.min(start.elapsed().as_secs_f64());
            }
        }
    }
    let copied = 8.0 * n as f64 / copy / 1e9;
    println!("{n_threads} threads; a copy moves {copied:.1} GB/s on one");
    println!("{:<44} {:>8} {:>8} {:>8}", "", "ms", "GB/s", "of copy");
    for line in &lines {
        let rate = line.bytes as f64 / line.best / 1e9;
        println!("{:<44} {:>8.2} {rate:>8.1} {:>6.0} %", line.name, 1e3 * line.best, 100.0 * rate / copied);
    }
}
