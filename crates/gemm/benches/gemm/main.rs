//! Speed of the products against what the FMA units could do: `cargo bench -p cotangent-gemm [-- filter …]`.
//!
//! For each shape, thread count and element type: GFLOP/s, median and best, each also as a share of the limit. The
//! limit is a loop of FMAs on registers that takes turns with the calls, because the clock of a shared machine moves.
//! `benches/products` of the repository sets the same shapes beside other libraries.

mod convolutions;
mod limit;
mod shapes;
mod time;

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Duration;

use cotangent_gemm::{Element, Gemm, Product, Strides, Target, Workspace};
use cotangent_pool::Pool;
use limit::Limit;
use shapes::{SHAPES, Shape};
use time::Times;

fn main() {
    // cargo passes `--bench`; anything else is a group, or a part of a shape's name.
    let mut filters: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    // `convolution …` asks for convolutions, all or some.
    if filters.first().is_some_and(|word| word == "convolution") {
        filters.remove(0);
        for n_threads in [1, 2] {
            convolutions::table::<f32>(&Pool::new(n_threads), "f32", &filters);
        }
        return;
    }
    for n_threads in [1, 2] {
        let pool = Pool::new(n_threads);
        table::<f32>(&pool, "f32", &filters, |x| x as f32);
        table::<f64>(&pool, "f64", &filters, |x| x);
    }
}

/// This machine, with the instruction set that `COTANGENT_ISA` names.
fn target() -> &'static Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    TARGET.get_or_init(|| Target::from_environment().expect("an instruction set of this CPU"))
}

/// All shapes of one element type.
fn table<T: Element + Limit>(pool: &Pool, type_name: &str, filters: &[String], from: fn(f64) -> T) {
    println!("{type_name}, {} threads, {}", pool.n_threads(), target().isa().name());
    println!("{:<28} {:>8} {:>8} {:>8} {:>8} {:>12}", "shape", "median", "share", "best", "share", "median time");
    for shape in SHAPES.iter().filter(|shape| shape.passes(filters)) {
        let Times { median, best, limit_median, limit_best } = measure(shape, pool, from);
        let speed = |time: f64| shape.flops() / time * 1e-9;
        println!(
            "{shape:<28} {:>8.1} {:>7.1}% {:>8.1} {:>7.1}% {:>9.3} us",
            speed(median),
            100.0 * speed(median) / limit_median,
            speed(best),
            100.0 * speed(best) / limit_best,
            median * 1e6
        );
    }
}

/// The product that a shape stands for.
fn product(&Shape { batch, m, k, n, a_t, b_t, .. }: &Shape) -> Product {
    let stored = |rows: usize, cols: usize, is_transposed: bool| {
        let strides = if is_transposed { Strides::row_major(rows).transposed() } else { Strides::row_major(cols) };
        Strides { batch: (rows * cols) as isize, ..strides }
    };
    Product { batch, a: stored(m, k, a_t), b: stored(k, n, b_t), ..Product::new(m, n, k) }
}

/// One shape, for a twentieth of a second or five calls.
fn measure<T: Element + Limit>(shape: &Shape, pool: &Pool, from: fn(f64) -> T) -> Times {
    let &Shape { batch, m, k, n, .. } = shape;
    let fill = |len: usize| -> Vec<T> { (0..len).map(|i| from((i * 7 % 13) as f64 - 6.0)).collect() };
    let (a, b, mut c) = (fill(batch * m * k), fill(batch * k * n), fill(batch * m * n));
    let gemm = Gemm::<T>::new(product(shape), target()).expect("kernels for this machine");
    let mut workspace = Workspace::with_bytes(gemm.workspace_bytes(pool.n_threads())).expect("memory");
    let mut limit = || limit::limit::<T>(pool);
    time::time(Duration::from_millis(50), Some(&mut limit), &mut || {
        let (operands, c) = ([black_box(a.as_ptr()), b.as_ptr()], c.as_mut_ptr());
        // SAFETY: the vectors outlive the calls; C is a vector of its own; the target is this machine.
        unsafe { gemm.run(pool, operands, c, None, &mut workspace) };
    })
}
