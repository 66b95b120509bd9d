//! `dot` and `explain`: programs as pictures and as reasons.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cotangent::graph::dot::{DotOptions, dot as draw};
use cotangent::prelude::{Compiler, StageView};

use crate::{Failure, print, program};

/// A stage of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// As written
    Source,
    /// After the passes
    Optimized,
    /// After the passes, with a frame around what runs in one kernel
    Fused,
}

/// What `dot` takes.
#[derive(Debug, Args)]
pub(crate) struct DotArgs {
    /// A graph in text form (`-`: the standard input), or the name of a workload
    #[arg(value_name = "FILE|WORKLOAD")]
    source: String,
    /// The stage to draw
    #[arg(long, value_enum, default_value_t = Stage::Fused)]
    stage: Stage,
    /// Give each op a kernel of its own
    #[arg(long)]
    no_fuse: bool,
    /// Write to this file instead of the standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What `explain` takes.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A graph in text form (`-`: the standard input), or the name of a workload
    #[arg(value_name = "FILE|WORKLOAD")]
    source: String,
    /// Give each op a kernel of its own
    #[arg(long)]
    no_fuse: bool,
}

pub(crate) fn dot(args: &DotArgs) -> Result<(), Failure> {
    let graph = program::graph(&args.source)?;
    let compile = || Compiler::new().fuse(!args.no_fuse).compile(&graph).map_err(Failure::error);
    let text = match args.stage {
        // Not compiled, so that a graph can be looked at when it does not compile.
        Stage::Source => draw(&graph, &DotOptions::default()),
        Stage::Optimized => compile()?.dot(StageView::Optimized),
        Stage::Fused => compile()?.dot(StageView::Fused),
    };
    match &args.output {
        None => print(&text),
        Some(path) => fs::write(path, text)
            .map_err(|error| Failure::Error(format!("could not write `{}`: {error}", path.display()))),
    }
}

pub(crate) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let graph = program::graph(&args.source)?;
    let program = Compiler::new().fuse(!args.no_fuse).compile(&graph).map_err(Failure::error)?;
    let mut text = String::new();
    let _ = writeln!(text, "passes");
    for report in program.pass_reports() {
        let _ = writeln!(text, "  {report}");
    }
    for (title, body) in [("fusion", program.explain()), ("plan", program.plan_text())] {
        let _ = writeln!(text, "\n{title}");
        for line in body.lines() {
            let _ = writeln!(text, "{}{line}", if line.is_empty() { "" } else { "  " });
        }
    }
    let t = program.timings();
    let _ = writeln!(text, "\ncompiled in {:.2?}: passes {:.2?}, plan {:.2?}, machine code {:.2?}", t.total, t.passes, t.plan, t.codegen);
    print(&text)
}
