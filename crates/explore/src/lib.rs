//! See inside: what the compiler made of a graph, pass by pass, and why.
//!
//! [`Inside`] compiles a graph and keeps what it was after every pass; [`Inside::page`] writes all of it as one HTML page, and
//! [`Inside::why`] answers questions in text. Nothing here decides anything: it reads the records that passes, clusterer and
//! scheduler leave, so what it says is what they did.
//!
//! Numbers of nodes (`%7`) are those of the text form: of the optimized graph those that `cotangent opt` prints.
#![forbid(unsafe_code)]

mod find;
mod matching;
mod memory;
mod page;
mod trace;
mod why;

use std::sync::Arc;
use std::time::Duration;

use cotangent_exec::{CompileError, Compiler, Executable, Fusions, Runtime, Seed, Session, Threads};
use cotangent_graph::samples::environment;
use cotangent_graph::{Diag, Graph};

pub use memory::Peak;
pub use trace::{Change, Sheet, StageOf, Trace, Uid};
pub use why::{QUESTIONS, Question};

/// Steps run to measure a plan.
pub const MEASURED_STEPS: usize = 50;

/// A program with everything that led to it.
#[derive(Debug)]
pub struct Inside {
    /// The program.
    pub program: Arc<Executable>,
    /// The same without any fusion, to compare with.
    pub unfused: Arc<Executable>,
    /// The graph after each pass that changed it.
    pub trace: Trace,
    /// The time that each step of the plan took, if it was measured.
    pub measured: Option<Measured>,
}

/// Times of the steps of a plan, medians of [`MEASURED_STEPS`].
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// For each step.
    pub times: Vec<Duration>,
    /// Threads that it was measured with.
    pub n_threads: usize,
    /// The ways that the session tried, and what they took.
    pub tried: String,
}

impl Inside {
    /// Compiles a graph, with these fusions and without any, and keeps what every pass makes of it.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn of(compiler: &Compiler, fusions: Fusions, graph: &Graph) -> Result<Self, CompileError> {
        let recorder = trace::Recorder::default();
        let program = compiler.clone().fuse(fusions).validate(recorder.hook()).compile(graph)?;
        let unfused = compiler.clone().fuse(false).compile(graph)?;
        let trace = Trace::of(&program, recorder.changes());
        Ok(Inside { program, unfused, trace, measured: None })
    }
}

/// The time of every step of a program's plan, on random inputs.
///
/// # Errors
/// As [`Session::new`] and [`Session::profile`], and what samples say of a graph that they have no values for.
pub fn measured(program: &Arc<Executable>, n_threads: usize) -> Result<Measured, Diag> {
    let env = environment(program.source(), 1)?;
    let runtime = Runtime::new(Threads::Exactly(n_threads));
    let mut session = Session::new(&runtime, Arc::clone(program), Seed(1))?;
    let main = session.main();
    let times = session.profile(main, program.inputs_of(&env), MEASURED_STEPS)?;
    Ok(Measured { times, n_threads, tried: session.explain(main)? })
}
