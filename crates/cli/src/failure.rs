//! Why a command failed, and what is left behind for the one who looks into it.
//!
//! Four kinds look different and have different exit codes: a command line that makes no sense (2), a mistake in the input
//! or something that the machine lacks (1), a bug of the compiler (3), and a reader of the results that is gone (0). A bug
//! leaves `reproducer.ct` behind, and its text ends with the command that shows it again. That is so for panics too.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::Path;

use cotangent::data::DataError;
use cotangent::exec::CompileError;
use cotangent::graph::{Code, CompilerBug, Diag, Graph};
use cotangent::passes::PassError;
use cotangent::scalar::plain_lines;

use crate::last;

/// The file that a bug leaves behind.
pub(crate) const REPRODUCER: &str = "reproducer.ct";

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

impl From<PassError> for Failure {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Diags(diags) => Failure::error(diags),
            PassError::Environment(text) => Failure::Error(text),
            PassError::Bug(bug) => Failure::Bug(bug.to_string()),
        }
    }
}

impl From<CompileError> for Failure {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::User(diags) => Failure::error(diags),
            CompileError::Environment(text) => Failure::Error(text),
            CompileError::Bug(bug) => Failure::Bug(bug.to_string()),
            other => Failure::Error(other.to_string()),
        }
    }
}

/// This command, on another file.
fn command_on(file: &str) -> String {
    replay(std::env::args().skip(1), file)
}

/// A command line with `file` in the place of its source: the first word after the subcommand that is no option's.
fn replay(arguments: impl Iterator<Item = String>, file: &str) -> String {
    let source = last::source();
    let mut words = vec!["cotangent".to_owned()];
    let mut replaced = false;
    for word in arguments {
        let is_source = !replaced && source.as_ref().is_some_and(|source| *source == word);
        replaced |= is_source;
        let word = if is_source { file.to_owned() } else { word };
        let plain = |c: char| c.is_alphanumeric() || "-_./=,:+".contains(c);
        let quoted = || format!("'{}'", word.replace('\'', r"'\''"));
        words.push(if !word.is_empty() && word.chars().all(plain) { word } else { quoted() });
    }
    words.join(" ")
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

    /// What writing to a path reported; a pipe may be one that nobody reads any more.
    pub(crate) fn written(error: DataError) -> Self {
        match error {
            DataError::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe => Failure::ClosedPipe,
            error => Failure::error(error),
        }
    }

    /// A step of this graph that failed: a result that is not the interpreter's is a bug.
    pub(crate) fn step(diag: Diag, source: &Graph) -> Self {
        match diag.code {
            Code::Diverged => Failure::found(CompilerBug::new("step", diag.message), source),
            _ => Failure::error(diag),
        }
    }

    /// A bug that this command has found by itself: the command is what replays it.
    pub(crate) fn found(bug: CompilerBug, source: &Graph) -> Self {
        Failure::Bug(bug.reproduce(Path::new(REPRODUCER), || source.to_string(), command_on).to_string())
    }

    /// A panic outside of what the compiler guards, while the command worked on a graph of this text.
    pub(crate) fn panic(bug: CompilerBug, source: Option<String>) -> Self {
        match source {
            Some(text) => Failure::Bug(bug.reproduce(Path::new(REPRODUCER), || text, command_on).to_string()),
            None => Failure::Bug(bug.to_string()),
        }
    }

    /// The exit code, and the text for the standard error.
    pub(crate) fn report(self) -> (u8, String) {
        match self {
            Failure::ClosedPipe => (0, String::new()),
            Failure::Error(text) => {
                let prefix = if text.starts_with("error") || text.starts_with("internal") { "" } else { "error: " };
                // What a user has typed, or a shell for them, may be the name of a file from elsewhere.
                (1, format!("{prefix}{}\n", plain_lines(&text)))
            }
            Failure::Usage(text) => (2, format!("error: {text}\n\nFor more information, try '--help'.\n")),
            Failure::Bug(text) => (3, format!("{text}\n")),
        }
    }
}
