//! The command line: run graphs, measure workloads, look at what the compiler makes of them, and find its bugs.
//!
//! Results go to the standard output, everything else to the standard error. Exit codes: 0 for success, 1 for an error of
//! the input or of the machine, 2 for a command line that makes no sense, 3 for a bug of the compiler. A reader that closes
//! the pipe early ends the program quietly.
#![forbid(unsafe_code)]

mod arrays;
mod bench;
mod check;
mod failure;
mod opt;
mod program;
mod reduce;
mod run;
mod show;

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub(crate) use failure::Failure;

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
    /// Check the gradient of a graph against central differences
    Check(check::CheckArgs),
    /// Draw a program in Graphviz form
    Dot(show::DotArgs),
    /// Tell what the compiler did: passes, the verdict on each edge with its reason, the plan
    Explain(show::ExplainArgs),
    /// Print the reference of all ops, or of one
    Ops(show::OpsArgs),
    /// Print a graph after the passes, in text form
    Opt(opt::OptArgs),
    /// Make a graph that fails small, such that it still fails
    Reduce(reduce::ReduceArgs),
    /// Run a graph on arrays
    Run(run::RunArgs),
}

/// Writes a result to the standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::output)
}

/// Writes a report to the standard error. A closed one leaves no one to tell, so what cannot be written is dropped.
pub(crate) fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = || match &cli.command {
        Command::Bench(args) => bench::run(args),
        Command::Check(args) => check::check(args),
        Command::Dot(args) => show::dot(args),
        Command::Explain(args) => show::explain(args),
        Command::Ops(args) => show::ops(args),
        Command::Opt(args) => opt::opt(args),
        Command::Reduce(args) => reduce::reduce(args),
        Command::Run(args) => run::run(args),
    };
    // No input may cause a panic, so one that comes here is a bug; its message is out already.
    let result = catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_| {
        let text = "internal compiler error: the program panicked, see above\n  this is a bug in the compiler, not in \
                    your program; please report it, with what `cotangent reduce` makes of the graph";
        Err(Failure::Bug(text.to_owned()))
    });
    let Err(failure) = result else { return ExitCode::SUCCESS };
    let (code, text) = failure.report();
    tell(&text);
    ExitCode::from(code)
}
