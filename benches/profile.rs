//! What a profile costs: steps as they are against steps that are profiled, in turn, and how the times of the steps of the plan add up.
//!
//! ```text
//! cargo bench --bench profile
//! ```

use std::time::{Duration, Instant};

use cotangent::graph::samples::environment;
use cotangent::prelude::*;
use cotangent::train::workloads::Workload;

/// Turns of either kind, and steps of a turn.
const TURNS: usize = 9;
const STEPS: usize = 10;

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() {
    println!(
        "{:<12} {:>7} {:>10} {:>12} {:>9} {:>14} {:>12}",
        "", "threads", "as it is", "profiled ms", "overhead", "steps together", "of the clock"
    );
    for (name, n_threads) in [("mlp-m", 1), ("mlp-m", 2), ("lenet", 1), ("gpt-nano", 1), ("gpt-nano", 2)] {
        let graph = Workload::named(name).and_then(|workload| workload.build()).expect("a workload");
        let env = environment(&graph, 1).expect("values");
        let program = Compiler::new().compile(&graph).expect("it compiles");
        let runtime = Runtime::new(Threads::Exactly(n_threads));
        let mut session = Session::new(&runtime, program.clone(), Seed(1)).expect("a session");
        let main = session.main();
        session.profile(main, program.inputs_of(&env), STEPS).expect("it runs");
        let (mut plain, mut profiled, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            for _ in 0..STEPS {
                let start = Instant::now();
                session.step(program.inputs_of(&env)).expect("it runs");
                plain.push(start.elapsed());
            }
            let profile = session.profile(main, program.inputs_of(&env), STEPS).expect("it runs");
            profiled.push(profile.wall.median);
            shares.push(profile.total().as_secs_f64() / profile.wall.median.as_secs_f64());
        }
        shares.sort_by(f64::total_cmp);
        let (plain, profiled, share) = (median(plain), median(profiled), shares[TURNS / 2]);
        let overhead = 100.0 * (profiled / plain - 1.0);
        println!(
            "{name:<12} {n_threads:>7} {plain:>10.3} {profiled:>12.3} {overhead:>7.1} % {:>14.3} {:>10.1} %",
            share * profiled,
            100.0 * share
        );
    }
}
