//! The command line: measure workloads, draw graphs, explain what the compiler decided.
//!
//! Results go to the standard output, everything else to the standard error. Exit codes: 0 for success, 1 for an error of
//! the input or of the machine, 2 for a command line that makes no sense. A reader that closes the pipe early ends the
//! program quietly.
#![forbid(unsafe_code)]

mod bench;
mod program;
mod show;

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Cotangent compiles a network, its gradient and its update into one program.
#[derive(Debug, Parser)]
#[command(name = "cotangent", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Time a workload: every step by itself, after a warm-up
    Bench(bench::BenchArgs),
    /// Draw a program in Graphviz form
    Dot(show::DotArgs),
    /// Tell what the compiler did: passes, the verdict on each edge with its reason, the plan
    Explain(show::ExplainArgs),
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// The input is wrong, or the machine lacks something.
    Error(String),
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
}

/// Writes a result to the standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::output)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Bench(args) => bench::run(args),
        Command::Dot(args) => show::dot(args),
        Command::Explain(args) => show::explain(args),
    };
    // A closed standard error leaves no one to tell, so reports that cannot be written are dropped.
    match result {
        Ok(()) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Error(text)) => {
            let prefix = if text.starts_with("error") || text.starts_with("internal") { "" } else { "error: " };
            let _ = writeln!(io::stderr(), "{prefix}{text}");
            ExitCode::FAILURE
        }
        Err(Failure::Usage(text)) => {
            let _ = writeln!(io::stderr(), "error: {text}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
    }
}
