//! The command line: run graphs, measure workloads, look at what the compiler makes of them, and find its bugs.
//!
//! Results go to the standard output, everything else to the standard error. Exit codes: 0 for success, 1 for an error of
//! the input or of the machine, 2 for a command line that makes no sense, 3 for a bug of the compiler. A reader that closes
//! the pipe early ends the program quietly.
#![forbid(unsafe_code)]

mod arrays;
mod bench;
mod calibrate;
mod check;
mod failure;
mod inside;
mod last;
mod learn;
mod opt;
mod program;
mod reduce;
mod run;
mod show;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cotangent::graph::CompilerBug;

pub(crate) use failure::Failure;

/// Memory that is refused is an error, here too.
#[global_allocator]
static ALLOCATOR: cotangent_host::OrExit = cotangent_host::OrExit;

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
    /// Measure what things cost on this machine, for predictions and rooflines
    Calibrate(calibrate::CalibrateArgs),
    /// Check the gradient of a graph against central differences
    Check(check::CheckArgs),
    /// Draw a program in Graphviz form
    Dot(show::DotArgs),
    /// Tell what the compiler did: passes, the verdict on each edge with its reason, the plan
    Explain(show::ExplainArgs),
    /// Write a page that shows a program from the graph to its steps, to look at in a browser
    Explore(inside::ExploreArgs),
    /// Check the gradient of a configuration's loss on its first examples against central differences
    Gradcheck(learn::GradcheckArgs),
    /// Print the reference of all ops, or of one
    Ops(show::OpsArgs),
    /// Print a graph after the passes, in text form
    Opt(opt::OptArgs),
    /// Find a learning rate for a configuration: train with a rate that grows, and tell how the loss goes
    LrFind(learn::LrFindArgs),
    /// Say what a model makes of rows
    Predict(learn::PredictArgs),
    /// Tell what every step of a program takes, and how near that is to what the machine can do
    Profile(inside::ProfileArgs),
    /// Make a graph that fails small, such that it still fails
    Reduce(reduce::ReduceArgs),
    /// Run a graph on arrays
    Run(run::RunArgs),
    /// Try values of a configuration's keys, and write the best configuration
    Search(learn::SearchArgs),
    /// Print the layers of a configuration: shapes, parameters, operations
    Summary(learn::SummaryArgs),
    /// Train by a configuration, and write the model and a report
    Train(learn::TrainArgs),
    /// Answer why a program is as it is: what is fused, copied, largest, in a gradient, made by which rule
    Why(inside::WhyArgs),
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

/// Runs a command. No input may cause a panic, so one is a bug, which leaves the graph that it happened on.
fn guarded(command: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    CompilerBug::guard("command", command).unwrap_or_else(|bug| Err(Failure::panic(bug, last::text())))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = || match &cli.command {
        Command::Bench(args) => bench::run(args),
        Command::Calibrate(args) => calibrate::run(args),
        Command::Check(args) => check::check(args),
        Command::Dot(args) => show::dot(args),
        Command::Explain(args) => show::explain(args),
        Command::Explore(args) => inside::explore(args),
        Command::Gradcheck(args) => learn::gradcheck(args),
        Command::Ops(args) => show::ops(args),
        Command::Opt(args) => opt::opt(args),
        Command::LrFind(args) => learn::lr_find(args),
        Command::Predict(args) => learn::predict(args),
        Command::Profile(args) => inside::profile(args),
        Command::Reduce(args) => reduce::reduce(args),
        Command::Run(args) => run::run(args),
        Command::Search(args) => learn::search(args),
        Command::Summary(args) => learn::summary(args),
        Command::Train(args) => learn::train(args),
        Command::Why(args) => inside::why(args),
    };
    let Err(failure) = guarded(command) else { return ExitCode::SUCCESS };
    let (code, text) = failure.report();
    tell(&text);
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use cotangent::data::ReadLimits;

    use super::*;

    #[test]
    fn a_panic_leaves_the_graph_and_the_command_that_replays_it() {
        let folder = std::env::temp_dir().join(format!("cotangent-cli-panic-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::env::set_current_dir(&folder).unwrap();
        let command = || {
            program::graph("xor", ReadLimits::default())?;
            panic!("on purpose")
        };
        let (code, text) = guarded(command).unwrap_err().report();
        let left = std::fs::read_to_string("reproducer.ct").unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(code, 3);
        assert!(text.starts_with("internal compiler error in `command`: it panicked: on purpose"), "{text}");
        assert!(text.contains("the graph in reproducer.ct\n  replay: cotangent"), "{text}");
        assert_eq!(left, program::graph("xor", ReadLimits::default()).unwrap().to_string());
        assert!(guarded(|| Ok(())).is_ok());
    }
}
