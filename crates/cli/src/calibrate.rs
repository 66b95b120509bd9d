//! `calibrate`: what things cost on this machine, and how good predictions are.

use std::path::PathBuf;

use clap::Args;
use cotangent::prelude::Compiler;
use cotangent_explore::{calibrate, compared, peaks, summary};
use cotangent_train::workloads::{SPECS, Workload};

use crate::opt::write_or_print;
use crate::program::TargetArgs;
use crate::{Failure, print, tell};

/// What `calibrate` takes.
#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// Write the target to this file instead of the standard output
    #[arg(short, long, value_name = "FILE", conflicts_with = "report")]
    output: Option<PathBuf>,
    /// Instead of the target, print how far its predictions are from the best of 20 runs, for every step of these workloads; of
    /// all unless some are named
    #[arg(long, value_name = "WORKLOAD,…", num_args = 0.., value_delimiter = ',')]
    report: Option<Vec<String>>,
    /// --report: every step, not only those that are far off
    #[arg(long, requires = "report")]
    all: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(crate) fn run(args: &CalibrateArgs) -> Result<(), Failure> {
    let target = match args.target.target()? {
        Some(target) => target,
        None => calibrate().map_err(Failure::error)?,
    };
    tell(&peaks(&target));
    let Some(named) = &args.report else { return write_or_print(&target.to_text(), args.output.as_deref()) };
    let all = SPECS.iter().map(|spec| spec.name);
    let names: Vec<&str> = if named.is_empty() { all.collect() } else { named.iter().map(String::as_str).collect() };
    let compiler = Compiler::new().target(target);
    let mut rows = Vec::new();
    for name in names {
        let graph = Workload::named(name).and_then(|workload| workload.build()).map_err(Failure::error)?;
        rows.extend(compared(name, &compiler.compile(&graph)?).map_err(Failure::error)?);
    }
    let mut text = String::new();
    for row in rows.iter().filter(|_| args.all) {
        let (predicted, measured) = (row.predicted * 1e-3, row.measured * 1e-3);
        text += &format!("{predicted:12.2} {measured:12.2} {:5.2} {}: {}\n", row.factor(), row.program, row.text);
    }
    print(&(text + &summary(&rows)))
}
