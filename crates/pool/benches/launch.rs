//! The cost of an empty run of two parts: what a step pays each time it uses a second thread.

use std::time::Instant;

use cotangent_pool::Pool;

fn main() {
    let pool = Pool::new(2);
    let mut nanos: Vec<f64> = (0..20_000)
        .map(|_| {
            let start = Instant::now();
            pool.run(2, &|_| {});
            start.elapsed().as_secs_f64() * 1e9
        })
        .collect();
    nanos.sort_by(f64::total_cmp);
    println!("empty run of two parts: median {:.0} ns, best {:.0} ns", nanos[nanos.len() / 2], nanos[0]);
}
