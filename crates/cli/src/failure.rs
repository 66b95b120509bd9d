//! Why a command failed, and what is left behind for the one who looks into it.
//!
//! Four kinds look different and have different exit codes: a command line that makes no sense (2), a mistake in the input
//! or something that the machine lacks (1), a bug of the compiler (3), and a reader of the results that is gone (0). A bug
//! leaves `reproducer.ct` behind, and its text ends with the command that shows it again.

use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use cotangent::exec::CompileError;
use cotangent::graph::{Code, CompilerBug, Diag, Graph};
use cotangent::passes::PassError;

/// The file that a bug leaves behind.
const REPRODUCER: &str = "reproducer.ct";

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// The input is wrong, or the machine lacks something.
    Error(String),
    /// The compiler is wrong.
    Bug(String),
    /// The reader of the results is gone, which is no failure.
    ClosedPipe,
}

impl Failure {
    /// An error whose text says it all.
    pub(crate) fn error(error: impl Display) -> Self {
        Failure::Error(error.to_string())
    }

    /// What writing to the standard output reported.
    pub(crate) fn output(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Error(format!("could not write the result: {error}")),
        }
    }

    /// A pass that failed on this graph.
    pub(crate) fn pass(error: PassError, source: &Graph, directory: &Path) -> Self {
        match error {
            PassError::Diags(diags) => Failure::error(diags),
            PassError::Environment(text) => Failure::Error(text),
            PassError::Bug(bug) => Failure::bug(bug, source, directory),
        }
    }

    /// A compilation of this graph that failed.
    pub(crate) fn compile(error: CompileError, source: &Graph, directory: &Path) -> Self {
        match error {
            CompileError::User(diags) => Failure::error(diags),
            CompileError::Environment(text) => Failure::Error(text),
            CompileError::Bug(bug) => Failure::bug(bug, source, directory),
        }
    }

    /// A step of this graph that failed: a result that is not the interpreter's is a bug.
    pub(crate) fn step(diag: Diag, source: &Graph, directory: &Path) -> Self {
        match diag.code {
            Code::Diverged => Failure::bug(CompilerBug::new("step", diag.to_string()), source, directory),
            _ => Failure::error(diag),
        }
    }

    /// A bug: writes the graph that shows it, unless validation has done so.
    pub(crate) fn bug(mut bug: CompilerBug, source: &Graph, directory: &Path) -> Self {
        let graph = bug.graph.take();
        if bug.message.contains("\n  replay: ") {
            return Failure::Bug(bug.to_string());
        }
        let path = directory.join(REPRODUCER);
        let replay = match &graph {
            // A graph that a bug carries is the one before the pass.
            Some(_) => format!("cotangent opt {} --passes {} --verify", path.display(), bug.pass),
            None => format!("cotangent reduce {} --verify", path.display()),
        };
        let note = match fs::write(&path, graph.unwrap_or_else(|| source.to_string())) {
            Ok(()) => format!("replay: {replay}"),
            Err(error) => format!("`{}` could not be written: {error}", path.display()),
        };
        Failure::Bug(format!("{bug}\n  {note}"))
    }

    /// The exit code, and the text for the standard error.
    pub(crate) fn report(self) -> (u8, String) {
        match self {
            Failure::ClosedPipe => (0, String::new()),
            Failure::Error(text) => {
                let prefix = if text.starts_with("error") || text.starts_with("internal") { "" } else { "error: " };
                (1, format!("{prefix}{text}\n"))
            }
            Failure::Usage(text) => (2, format!("error: {text}\n\nFor more information, try '--help'.\n")),
            Failure::Bug(text) => (3, format!("{text}\n")),
        }
    }
}
