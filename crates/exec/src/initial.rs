//! Starting values of large parameters, at the rate of a compiled kernel.
//!
//! [`Init::sample`] interprets a scalar program for each element, some hundreds of nanoseconds. Here the same program is written
//! as a graph whose updates are the starting values, compiled, and run once on the very memory that they start in: some
//! milliseconds, then about a nanosecond an element. The bits are the same; a test compares them. What cannot be compiled (no
//! code generator for this machine) is sampled.

use std::collections::BTreeMap;

use cotangent_graph::init::TAIL;
use cotangent_graph::{Counters, DType, Graph, GraphBuilder, Init, Tensor, Type};

use crate::compile::Compiler;
use crate::input::Inputs;
use crate::machine::Machine;
use crate::runtime::Runtime;
use crate::store::{Seed, Slot};
use crate::tuning::Tuning;

/// A parameter or state: its name, type and start.
type Stored = (String, Type, Init);

/// With fewer elements in all of a program's parameters compiling takes longer than sampling.
const LEAST_ELEMENTS: usize = 1 << 14;

/// Sets those of the parameters that can be computed by a graph; `slots` has their memory, zeroed. The others are returned.
pub(crate) fn compute<'a>(
    stored: Vec<&'a Stored>,
    slots: &mut BTreeMap<String, Slot>,
    seed: Seed,
    runtime: &Runtime,
) -> Vec<&'a Stored> {
    let (compiled, others): (Vec<_>, Vec<_>) = stored.iter().copied().partition(|(_, ty, init)| is_random(ty, init));
    if compiled.iter().map(|(_, ty, _)| ty.shape().n_elements()).sum::<usize>() < LEAST_ELEMENTS {
        return stored;
    }
    let done = graph(&compiled).is_some_and(|graph| run(&graph, slots, seed, runtime).is_some());
    if done { others } else { stored }
}

/// Runs the graph once; a failure may leave some values set, to what they would be set to anyway.
fn run(graph: &Graph, slots: &BTreeMap<String, Slot>, seed: Seed, runtime: &Runtime) -> Option<()> {
    // The memory of the parameters was granted already.
    let Ok(program) = Compiler::new().memory_limit(usize::MAX).compile(graph) else { return None };
    let mut machine = Machine::new(program, |name| slots.get(name), runtime, Tuning::Off).ok()?;
    let none = Inputs::new(machine.program(), ()).ok()?;
    machine.run(&none, Counters { seed: seed.0, step: 0 }, None).ok()
}

/// Whether the starting values are floats of which each has a random word of its own.
fn is_random(ty: &Type, init: &Init) -> bool {
    ty.dtype().is_float()
        && !matches!(init.law(ty.shape()), Init::Constant(_) | Init::Orthogonal(_) | Init::ForgetGate(_))
}

/// A graph that sets each of these parameters to its starting value. Step 0 of the seed gives the random numbers.
fn graph(parameters: &[&Stored]) -> Option<Graph> {
    let g = GraphBuilder::new("initial");
    for (name, ty, init) in parameters {
        let value = value(&g, name, ty, init)?;
        let parameter = g.param(name, ty.dtype(), ty.shape().clone(), Init::ZEROS);
        g.update(parameter, value.cast(ty.dtype()));
    }
    g.finish().ok()
}

/// The same as [`Init::sample`], as a graph: in f64, from the words of the stream of the parameter's name.
fn value<'g>(g: &'g GraphBuilder, name: &str, ty: &Type, init: &Init) -> Option<Tensor<'g>> {
    let shape = || ty.shape().clone();
    Some(match init.law(ty.shape()) {
        Init::Uniform(low, high) => g.uniform(name, DType::F32, shape()).cast(DType::F64) * (high.0 - low.0) + low.0,
        Init::Normal(mean, std) => g.normal(name, DType::F32, shape()).cast(DType::F64) * std.0 + mean.0,
        Init::TruncatedNormal(mean, std) => {
            const WORDS: f64 = 4_294_967_296.0;
            let share = g.uniform(name, DType::F64, shape()) * (1.0 - 2.0 * TAIL) + TAIL;
            let word = (share * WORDS).floor();
            let centered = word * (2.0 / WORDS) + (1.0 / WORDS - 1.0);
            centered.erf_inv() * std::f64::consts::SQRT_2 * std.0 + mean.0
        }
        _ => return None,
    })
}
