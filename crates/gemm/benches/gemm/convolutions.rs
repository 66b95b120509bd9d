//! The three sums of convolutions, as the products: each against the limit.

use std::hint::black_box;
use std::time::Duration;

use cotangent_gemm::{Convolution, Element, EpilogueNeeds, Workspace};
use cotangent_pool::Pool;
use cotangent_scalar::{Conv, ConvAxis, Direction};

use crate::limit::{self, Limit};
use crate::time::{self, Times};

/// Square images and windows: examples, extent, channels, window, stride, zeros around, groups, filters.
type Case = (usize, usize, usize, usize, usize, usize, usize, usize);

const CASES: [Case; 18] = [
    (8, 56, 64, 3, 1, 1, 1, 64),
    (32, 28, 64, 3, 1, 1, 1, 64),
    (64, 14, 64, 3, 1, 1, 1, 64),
    // Networks for CIFAR.
    (32, 32, 3, 3, 1, 1, 1, 16),
    (32, 32, 16, 3, 1, 1, 1, 16),
    (32, 32, 16, 3, 2, 1, 1, 32),
    (32, 32, 16, 1, 2, 0, 1, 32),
    (32, 16, 32, 3, 1, 1, 1, 32),
    (32, 16, 32, 3, 2, 1, 1, 64),
    (32, 8, 64, 3, 1, 1, 1, 64),
    // LeNet.
    (64, 28, 1, 5, 1, 0, 1, 20),
    (64, 12, 20, 5, 1, 0, 1, 50),
    // Wide, and of odd sizes.
    (8, 14, 256, 3, 1, 1, 1, 256),
    (48, 31, 17, 3, 1, 1, 1, 40),
    (48, 31, 40, 3, 1, 1, 1, 17),
    (32, 28, 192, 3, 1, 1, 192, 192),
    (16, 28, 64, 3, 1, 1, 4, 64),
    // One example.
    (1, 32, 16, 3, 1, 1, 1, 16),
];

/// All cases whose description has a part of the filters, or all.
pub fn table<T: Element + Limit>(pool: &Pool, type_name: &str, filters: &[String]) {
    println!("{type_name}, {} threads, {}", pool.n_threads(), crate::target().isa().name());
    println!("{:<44} {:>8} {:>8} {:>8} {:>8} {:>12}", "convolution", "median", "share", "best", "share", "median time");
    for (n, extent, channels, window, stride, low, groups, n_filters) in CASES {
        let places = (extent + 2 * low - window) / stride + 1;
        let axis = ConvAxis { extent, window, places, stride, dilation: 1, low };
        let axes = [axis; 2].into_iter().collect();
        let conv = Conv { n, axes, groups, channels: channels / groups, filters: n_filters / groups };
        for direction in [Direction::Forward, Direction::Data, Direction::Weights] {
            let group = if groups == 1 { String::new() } else { format!(" in {groups} groups") };
            let image = format!("{n}×{extent}²×{channels}");
            let name = format!("{image} · {window}²×{n_filters}, stride {stride}{group}, {}", direction.name());
            if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
                continue;
            }
            let Times { median, best, limit_median, limit_best } = measure::<T>(&conv, direction, pool);
            let speed = |time: f64| 2e-9 * conv.multiply_adds() as f64 / time;
            println!(
                "{name:<44} {:>8.1} {:>7.1}% {:>8.1} {:>7.1}% {:>9.3} us",
                speed(median),
                100.0 * speed(median) / limit_median,
                speed(best),
                100.0 * speed(best) / limit_best,
                median * 1e6
            );
        }
    }
}

fn measure<T: Element + Limit>(conv: &Conv, direction: Direction, pool: &Pool) -> Times {
    let [a, b] = conv.operands(direction).map(|n| vec![T::ZERO; n]);
    let [rows, cols] = conv.matrix(direction);
    let mut c = vec![T::ZERO; rows * cols];
    let made = Convolution::<T>::new(conv.clone(), direction, EpilogueNeeds::default(), crate::target())
        .expect("kernels for this machine");
    let mut workspace = Workspace::with_bytes(made.workspace_bytes(pool.n_threads())).expect("memory");
    let mut limit = || limit::limit::<T>(pool);
    time::time(Duration::from_millis(60), Some(&mut limit), &mut || {
        let (operands, c) = ([black_box(a.as_ptr()), b.as_ptr()], c.as_mut_ptr());
        // SAFETY: the vectors outlive the calls and have the sizes of the geometry; the target is this machine.
        unsafe { made.run(pool, operands, c, None, &mut workspace) };
    })
}
