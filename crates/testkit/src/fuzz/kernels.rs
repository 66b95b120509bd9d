//! Kernels of random graphs: the kernel interpreter, step by step on the plan's bytes, against the machine code of every
//! backend that this machine runs.
//!
//! The kernels are those that lowering makes of graphs rich in elementwise work and reductions, fused and unfused. Kernels
//! that lowering would never make are the business of `COTANGENT_KERNELS=n cargo test --release -p cotangent-codegen`.

use std::collections::HashSet;

use cotangent_exec::{BackendChoice, Compiler, Isa, Runtime, Target, Threads};
use cotangent_kernel::{PlanMachine, RunError};
use cotangent_passes::PassOptions;
use cotangent_testkit::random::{self, Options};

use super::graphs::{Outcome, compare, execute};
use super::{Fault, Limits, Mode, drive, replay};

/// Small graphs with much elementwise work; every fourth with derivatives, every fifth with long tensors.
fn options(seed: u64) -> Options {
    let long = seed.is_multiple_of(5);
    Options {
        n_ops: if long { 8 } else { 14 },
        max_elements: if long { 8192 } else { 700 },
        grads: seed.is_multiple_of(4),
        second_order: false,
        matmuls: seed.is_multiple_of(3),
        wild: 0.05,
        ..Options::default()
    }
}

/// Runs the mode; returns the number of failures.
pub fn run(limits: &Limits) -> usize {
    let runtime = Runtime::new(Threads::Exactly(1));
    let (mut n_kernels, mut n_wide, mut n_elements, mut keys) = (0u64, 0u64, 0u64, HashSet::new());
    let case = |seed: u64| {
        let graph = random::graph(seed, &options(seed));
        let env = random::env(&graph, seed);
        for fuse in [true, false] {
            let passes = PassOptions { verify: false, ..PassOptions::default() };
            let compile = |compiler: Compiler| {
                let program = compiler.fuse(fuse).passes(passes.clone()).compile(&graph);
                program.map_err(|error| Fault::new("compile", error.to_string()))
            };
            let program = compile(Compiler::new().backend(BackendChoice::Cranelift))?;
            n_kernels += program.plan().kernels.len() as u64;
            keys.extend(program.plan().kernels.iter().map(|kernel| kernel.code_key()));
            let mut store = env.values.clone();
            let run = PlanMachine::new(program.plan());
            let run = run.and_then(|mut machine| machine.run(&env.values, &mut store, env.counters));
            let expected: Outcome = match run {
                Ok(mut values) => {
                    let carried = graph.stored().filter_map(|(_, node)| node.name());
                    let live: Vec<&str> = carried.filter(|name| is_stored(&program, name)).collect();
                    values.extend(live.iter().map(|name| (format!("update {name}"), store[*name].clone())));
                    Ok(values)
                }
                Err(RunError::User(diag)) => Err(diag.code),
                Err(error) => return Err(Fault::new("plan", error.to_string())),
            };
            let kind = if fuse { "fused" } else { "unfused" };
            n_elements += compare(kind, &execute(&program, &runtime, &env)?, &expected)?;
            for isa in [Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available()) {
                let target = Target::here().clone().with_isa(isa);
                let program = compile(Compiler::new().backend(BackendChoice::Wide).target(target))?;
                n_wide += program.n_wide_kernels() as u64;
                n_elements += compare(isa.name(), &execute(&program, &runtime, &env)?, &expected)?;
            }
        }
        Ok(())
    };
    let write = |seed: u64, _: &Fault| replay(Mode::Kernels, &format!("--seed {seed} --count 1"));
    let done = drive(Mode::Kernels, limits, case, write);
    let text = format!(
        "{n_kernels} kernels, {} of them distinct; {n_wide} times wide code; {n_elements} elements compared by bits",
        keys.len()
    );
    done.summary(Mode::Kernels, limits, &text);
    done.n_failures
}

/// Whether a program has a parameter or state of this name.
fn is_stored(program: &cotangent_exec::Executable, name: &str) -> bool {
    program.optimized().stored().any(|(_, node)| node.name() == Some(name))
}
