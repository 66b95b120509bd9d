//! `dot`, `explain` and `ops`: programs as pictures and as reasons, and what they can be made of.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use cotangent::graph::Registry;
use cotangent::graph::dot::{DotOptions, dot as draw};
use cotangent::graph::picture::svg;
use cotangent::graph::reference;
use cotangent::kernel::Step;
use cotangent::prelude::{Executable, StageView};
use cotangent_explore::{MEASURED_STEPS, Measured, measured};

use crate::opt::write_or_print;
use crate::program::{Backend, FusionArgs, LimitArgs};
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
    /// A graph in text form (`-`: the standard input), or the name of a workload
    #[arg(value_name = "FILE|WORKLOAD")]
    source: String,
    /// The stage to draw
    #[arg(long, value_enum, default_value_t = Stage::Fused)]
    stage: Stage,
    /// A picture in SVG instead of Graphviz text; groups have a border of one color instead of a frame
    #[arg(long)]
    svg: bool,
    #[command(flatten)]
    fusion: FusionArgs,
    /// Write to this file instead of the standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// What `explain` takes.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A graph in text form (`-`: the standard input), or the name of a workload: its training step, or with `@N` behind it what its
    /// network predicts for N examples
    #[arg(value_name = "FILE|WORKLOAD")]
    source: String,
    #[command(flatten)]
    fusion: FusionArgs,
    /// The code generator
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Also run it on random inputs and print the time of every step of the plan
    #[arg(long)]
    measure: bool,
    /// Threads to measure with
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: usize,
    #[command(flatten)]
    limits: LimitArgs,
}

/// What `ops` takes.
#[derive(Debug, Args)]
pub(crate) struct OpsArgs {
    /// The op; all of them unless given
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// The time of every step of a plan, on random inputs, beside what the cost model predicts for one thread.
fn measure(program: &Arc<Executable>, threads: usize) -> Result<String, Failure> {
    let Measured { times, tried, .. } = measured(program, threads).map_err(Failure::error)?;
    let plan = program.plan();
    let total: f64 = times.iter().map(|t| t.as_secs_f64()).sum();
    let (mut text, mut predicted_total) = (format!("    {:>10} {:>10}\n", "measured", "predicted"), 0.0);
    for (k, (step, time)) in plan.steps.iter().zip(&times).enumerate() {
        let seconds = time.as_secs_f64();
        let rate = match step {
            Step::Product { factors, .. } => {
                let flop = 2.0 * factors.multiply_adds() as f64;
                format!("{:7.1} GFLOP/s", flop / seconds * 1e-9)
            }
            _ => format!("{:7.1} GB/s   ", plan.step_bytes(step) as f64 / seconds * 1e-9),
        };
        let share = 100.0 * seconds / total;
        let predicted = program.predicted_ns(k) * 1e-3;
        predicted_total += predicted;
        let (micros, text_of_step) = (seconds * 1e6, plan.step_text(step));
        let _ = writeln!(text, "{k:3} {micros:10.2} {predicted:10.2} us {share:5.1} % {rate} {text_of_step}");
    }
    let micros = total * 1e6;
    let _ = writeln!(
        text,
        "    {micros:10.2} {predicted_total:10.2} us in all, medians of {MEASURED_STEPS} steps, {threads} threads"
    );
    if !tried.is_empty() {
        let _ =
            write!(text, "ways tried, and what each took at best with its epilogue; the session stays with *\n{tried}");
    }
    Ok(text)
}

pub(crate) fn dot(args: &DotArgs) -> Result<(), Failure> {
    let graph = args.limits.graph(&args.source)?;
    let fusions = args.fusion.choices()?;
    let compile = || args.limits.onlooker().fuse(fusions).compile(&graph).map_err(Failure::from);
    let stage = match args.stage {
        // Not compiled, so that a graph can be looked at when it does not compile.
        Stage::Source => {
            let drawn = if args.svg { svg } else { draw };
            return write_or_print(&drawn(&graph, &DotOptions::default()), args.output.as_deref());
        }
        Stage::Optimized => StageView::Optimized,
        Stage::Fused => StageView::Fused,
    };
    let program = compile()?;
    let text = if args.svg { program.svg(stage) } else { program.dot(stage) };
    write_or_print(&text, args.output.as_deref())
}

pub(crate) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let graph = args.limits.graph(&args.source)?;
    let compiler = if args.measure { args.limits.compiler() } else { args.limits.onlooker() };
    let program = compiler.fuse(args.fusion.choices()?).backend(args.backend.into()).compile(&graph)?;
    let mut text = String::new();
    let _ = writeln!(text, "passes");
    for report in program.pass_reports() {
        let _ = writeln!(text, "  {report}");
    }
    let mut parts = vec![("fusion", program.explain()), ("plan", program.plan_text()), ("code", program.code_text())];
    if args.measure {
        parts.push(("times", measure(&program, args.threads)?));
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
