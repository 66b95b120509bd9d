//! See inside: what the compiler made of a graph, pass by pass, and why.
//!
//! [`Inside`] compiles a graph and keeps what it was after every pass; [`Inside::page`] writes all of it as one HTML page, and
//! [`Inside::why`] answers questions in text. Nothing here decides anything: it reads the records that passes, clusterer and
//! scheduler leave, so what it says is what they did.
//!
//! Numbers of nodes (`%7`) are those of the text form: of the optimized graph those that `cotangent opt` prints.
#![forbid(unsafe_code)]

mod calibrate;
pub mod chart;
mod counterpart;
mod find;
mod matching;
mod memory;
mod page;
mod profile;
mod scopes;
mod trace;
mod values;
mod why;

use std::sync::Arc;

use cotangent_exec::{CompileError, Compiler, Executable};
use cotangent_graph::Graph;

pub use calibrate::{CalibrationError, Compared, calibrate, compared, peaks, summary};
pub use memory::Peak;
pub use profile::{MEASURED_STEPS, Measured, measured};
pub use trace::{Change, Sheet, StageOf, Trace, Uid};
pub use values::Statistics;
pub use why::{QUESTIONS, Question};

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
    /// What the values are, if they were computed.
    pub values: Option<Vec<Option<Statistics>>>,
    /// Whether the page has machine code, which makes it several times as large.
    pub with_code: bool,
}

impl Inside {
    /// Compiles a graph, with the compiler's fusions and without any, and keeps what every pass makes of it.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn of(compiler: &Compiler, graph: &Graph) -> Result<Self, CompileError> {
        let recorder = trace::Recorder::default();
        let program = compiler.clone().keep_clif(true).validate(recorder.hook()).compile(graph)?;
        let unfused = compiler.clone().fuse(false).compile(graph)?;
        let trace = Trace::of(&program, recorder.changes());
        Ok(Inside { program, unfused, trace, measured: None, values: None, with_code: false })
    }
}
