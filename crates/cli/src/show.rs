//! `dot`, `explain` and `ops`: programs as pictures and as reasons, and what they can be made of.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cotangent::graph::Registry;
use cotangent::graph::dot::{DotOptions, dot as draw};
use cotangent::graph::picture::svg;
use cotangent::graph::reference;
use cotangent::prelude::StageView;
use cotangent_explore::{MEASURED_STEPS, measured};

use crate::opt::write_or_print;
use crate::program::{LookArgs, ProgramArgs};
use crate::{Failure, print};

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
    #[command(flatten)]
    program: ProgramArgs,
    /// The stage to draw
    #[arg(long, value_enum, default_value_t = Stage::Fused)]
    stage: Stage,
    /// A picture in SVG instead of Graphviz text; groups have a border of one color instead of a frame
    #[arg(long)]
    svg: bool,
    /// Write to this file instead of the standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What `explain` takes.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    look: LookArgs,
}

/// What `ops` takes.
#[derive(Debug, Args)]
pub(crate) struct OpsArgs {
    /// The op; all of them unless given
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

pub(crate) fn dot(args: &DotArgs) -> Result<(), Failure> {
    let graph = args.program.graph()?;
    let compiler = args.program.compiler(false)?;
    let stage = match args.stage {
        // Not compiled, so that a graph can be looked at when it does not compile.
        Stage::Source => {
            let drawn = if args.svg { svg } else { draw };
            return write_or_print(&drawn(&graph, &DotOptions::default()), args.output.as_deref());
        }
        Stage::Optimized => StageView::Optimized,
        Stage::Fused => StageView::Fused,
    };
    let program = compiler.compile(&graph)?;
    let text = if args.svg { program.svg(stage) } else { program.dot(stage) };
    write_or_print(&text, args.output.as_deref())
}

pub(crate) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let LookArgs { program, measure, threads } = &args.look;
    let program = program.compiler(*measure)?.compile(&program.graph()?)?;
    let mut text = String::new();
    let _ = writeln!(text, "passes");
    for report in program.pass_reports() {
        let _ = writeln!(text, "  {report}");
    }
    let mut parts = vec![("fusion", program.explain()), ("plan", program.plan_text()), ("code", program.code_text())];
    if *measure {
        let measured = measured(&program, *threads, MEASURED_STEPS).map_err(Failure::error)?;
        parts.push(("times", measured.table(&program)));
    }
    for (title, body) in parts {
        let _ = writeln!(text, "\n{title}");
        for line in body.lines() {
            let _ = writeln!(text, "{}{line}", if line.is_empty() { "" } else { "  " });
        }
    }
    let t = program.timings();
    let _ = writeln!(
        text,
        "\ncompiled in {:.2?}: passes {:.2?}, plan {:.2?}, machine code {:.2?}",
        t.total, t.passes, t.plan, t.codegen
    );
    print(&text)
}

pub(crate) fn ops(args: &OpsArgs) -> Result<(), Failure> {
    let registry = Registry::builtin();
    let Some(name) = &args.name else { return print(&reference::reference(&registry)) };
    match registry.get(name) {
        Some(op) => print(&reference::section(op.0)),
        None => Err(Failure::Usage(match registry.nearest(name) {
            Some(near) => format!("no op is named '{name}'; did you mean '{near}'?"),
            None => format!("no op is named '{name}'; `cotangent ops` lists them"),
        })),
    }
}
