//! `explore`, `profile` and `why`: a program on a page to look at, what its steps take, and questions about it.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use cotangent_explore::{Inside, MEASURED_STEPS, QUESTIONS, Question, measured};

use crate::opt::write_or_print;
use crate::program::{LookArgs, ProgramArgs};
use crate::{Failure, print};

/// What `explore` takes.
#[derive(Debug, Args)]
pub(crate) struct ExploreArgs {
    #[command(flatten)]
    look: LookArgs,
    /// Also compute every value once, on random inputs, and show its range, mean and deviation; slow for large programs
    #[arg(long)]
    values: bool,
    /// Also show the code of every kernel: CLIF where Cranelift made it, and the machine code
    #[arg(long)]
    code: bool,
    /// Write the charts into this folder, as SVG, and no page: roofline, memory, and with --measure the timeline of the threads
    #[arg(long, value_name = "FOLDER", conflicts_with = "output")]
    svg: Option<PathBuf>,
    /// Write the page to this file instead of the standard output
    #[arg(short, long, value_name = "FILE.html")]
    output: Option<PathBuf>,
}

/// What `profile` takes.
#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    #[command(flatten)]
    program: ProgramArgs,
    /// Threads to run it with
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Steps that are timed
    #[arg(long, default_value_t = MEASURED_STEPS as u32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Write the last steps to this file, in the trace event format that Perfetto and `chrome://tracing` open
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
}

/// What `why` takes.
#[derive(Debug, Args)]
#[command(after_help = questions_help())]
pub(crate) struct WhyArgs {
    #[command(flatten)]
    program: ProgramArgs,
    /// What is asked, one of the questions below
    #[arg(value_name = "QUESTION", required = true, num_args = 1..)]
    question: Vec<String>,
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
    let LookArgs { program, measure, threads } = &args.look;
    let mut inside = Inside::of(&program.compiler(*measure)?, &program.graph()?)?;
    if *measure {
        inside.measured = Some(measured(&inside.program, *threads, MEASURED_STEPS).map_err(Failure::error)?);
    }
    if let Some(folder) = &args.svg {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::error(format!("{}: could not make the folder: {error}", folder.display())))?;
        return inside.charts().iter().try_for_each(|(name, svg)| write_or_print(svg, Some(&folder.join(name))));
    }
    if args.values {
        inside.compute_values().map_err(Failure::error)?;
    }
    inside.with_code = args.code;
    write_or_print(&inside.page(), args.output.as_deref())
}

pub(crate) fn profile(args: &ProfileArgs) -> Result<(), Failure> {
    let program = args.program.compiler(true)?.compile(&args.program.graph()?)?;
    let measured = measured(&program, args.threads.into(), args.steps as usize).map_err(Failure::error)?;
    if let Some(file) = &args.trace {
        write_or_print(&measured.trace(&program), Some(file))?;
    }
    print(&measured.table(&program))
}

pub(crate) fn why(args: &WhyArgs) -> Result<(), Failure> {
    let question = Question::of(&args.question).map_err(Failure::Usage)?;
    let inside = Inside::of(&args.program.compiler(false)?, &args.program.graph()?)?;
    print(&inside.why(&question).map_err(Failure::error)?)
}
