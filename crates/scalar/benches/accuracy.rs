//! The accuracy of the f32 functions over a sweep of all bit patterns: `cargo bench -p cotangent-scalar --bench
//! accuracy -- [stride] [function]`. Stride 1 is the dense sweep behind the figures in the documentation of
//! `cotangent_scalar::math` (minutes a function); the default takes seconds.

#[path = "../tests/support/ulp.rs"]
mod ulp;

use std::time::Instant;

use cotangent_scalar::DType;

fn main() {
    // Cargo passes `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let stride = arguments.iter().find_map(|a| a.parse::<usize>().ok()).unwrap_or(4099).max(1);
    let only = arguments.iter().find(|a| a.parse::<usize>().is_err());
    println!("{:<10} {:>4} {:>9} {:>6}  worst at (stride {stride})", "function", "ops", "max ulp", "limit");
    for case in ulp::CASES.iter().filter(|c| only.is_none_or(|name| name == c.name)) {
        let start = Instant::now();
        let (body, _) = ulp::body_of(case.build, DType::F32);
        let worst = ulp::worst_over(case, (0..=u32::MAX).step_by(stride));
        println!(
            "{:<10} {:>4} {:>9.4} {:>6}  {:e} [{:#010x}] gave {:e}, reference {:e}; {:.1} s",
            case.name,
            body.n_ops(),
            worst.ulp,
            case.limit,
            worst.at,
            worst.at.to_bits(),
            worst.got,
            (case.reference)(f64::from(worst.at)),
            start.elapsed().as_secs_f64()
        );
    }
}
