//! `explore` and `why`: a program on a page to look at, and questions about it.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use cotangent_explore::{Inside, QUESTIONS, Question, measured};

use crate::opt::write_or_print;
use crate::program::{Backend, FusionArgs, LimitArgs};
use crate::{Failure, print};

/// What `explore` takes.
#[derive(Debug, Args)]
pub(crate) struct ExploreArgs {
    /// A graph in text form (`-`: the standard input), or the name of a workload: its training step, or with `@N` behind it what its
    /// network predicts for N examples
    #[arg(value_name = "FILE|WORKLOAD")]
    source: String,
    /// Write the page to this file instead of the standard output
    #[arg(short, long, value_name = "FILE.html")]
    output: Option<PathBuf>,
    #[command(flatten)]
    fusion: FusionArgs,
    /// The code generator
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Also run it on random inputs and show the time of every step of the plan
    #[arg(long)]
    measure: bool,
    /// Threads to measure with
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: usize,
    #[command(flatten)]
    limits: LimitArgs,
}

/// What `why` takes.
#[derive(Debug, Args)]
#[command(after_help = questions_help())]
pub(crate) struct WhyArgs {
    /// A graph in text form (`-`: the standard input), or the name of a workload
    #[arg(value_name = "FILE|WORKLOAD")]
    source: String,
    /// What is asked, one of the questions below
    #[arg(value_name = "QUESTION", required = true, num_args = 1..)]
    question: Vec<String>,
    #[command(flatten)]
    fusion: FusionArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

fn questions_help() -> String {
    let mut text = String::from("Questions:\n");
    for (word, rest, answer) in QUESTIONS {
        let _ = writeln!(text, "  {:<22} {answer}", format!("{word} {rest}"));
    }
    text + "\nA NODE is `%7` as `cotangent opt` prints it, the name of an input, parameter, state or output, or an op that only one node\n\
            has; in a loop's body `@body%7`. A BUFFER goes by name or number (`b3`), as `cotangent explain` prints it."
}

pub(crate) fn explore(args: &ExploreArgs) -> Result<(), Failure> {
    let graph = args.limits.graph(&args.source)?;
    let compiler = if args.measure { args.limits.compiler() } else { args.limits.onlooker() };
    let mut inside = Inside::of(&compiler.backend(args.backend.into()), args.fusion.choices()?, &graph)?;
    if args.measure {
        inside.measured = Some(measured(&inside.program, args.threads).map_err(Failure::error)?);
    }
    write_or_print(&inside.page(), args.output.as_deref())
}

pub(crate) fn why(args: &WhyArgs) -> Result<(), Failure> {
    let question = Question::of(&args.question).map_err(Failure::Usage)?;
    let graph = args.limits.graph(&args.source)?;
    let inside = Inside::of(&args.limits.onlooker(), args.fusion.choices()?, &graph)?;
    print(&inside.why(&question).map_err(Failure::error)?)
}
