//! `opt`: a graph after the passes, in text form.
//!
//! The passes run in the order of the pipeline, whatever the order of their names. With `--verify` each change is verified
//! and validated; what was compared goes to the standard error.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use cotangent::data::files::write_durably;
use cotangent::graph::Graph;
use cotangent::graph::diag::nearest;
use cotangent::passes::{Pass, PassError, PassOptions, ValidateOptions, Validator, optimize_with, pipeline};

use crate::{Failure, print, program, tell};

/// What `opt` takes.
#[derive(Debug, Args)]
#[command(after_help = passes_help())]
pub(crate) struct OptArgs {
    /// A graph in text form (`-`: the standard input), the name of a workload, or a configuration (`.toml`)
    #[arg(value_name = "FILE|WORKLOAD|CONFIG")]
    source: String,
    /// Run only these passes, in the order of the pipeline; '' for none
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    passes: Option<Vec<String>>,
    /// Check after each pass that the graph is well formed and still means the same
    #[arg(long)]
    verify: bool,
    /// Print what each pass did, and its time, to the standard error
    #[arg(long)]
    times: bool,
    /// Apply at most this many rules in all, to find the one that is to blame
    #[arg(long, value_name = "N")]
    fuel: Option<u64>,
    /// The seed of the values that `--verify` runs the graphs on
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write to this file instead of the standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    limits: program::LimitArgs,
}

fn passes_help() -> String {
    let mut text = String::from("Passes:\n");
    for pass in pipeline() {
        let _ = writeln!(text, "  {:<14} {}", pass.name(), pass.purpose());
    }
    text
}

pub(crate) fn opt(args: &OptArgs) -> Result<(), Failure> {
    let passes = pipeline();
    let only = args.passes.as_deref().map(|names| chosen(&passes, names)).transpose()?;
    let graph = args.limits.graph(&args.source)?;
    let mut options = PassOptions { only, fuel: args.fuel, ..args.limits.pass_options() };
    options.verify |= args.verify;
    let (optimized, report) = optimized(&passes, &graph, options, args.verify.then_some(args.seed))?;
    if args.times {
        tell(&report.passes);
    }
    tell(&report.validation);
    write_or_print(&optimized.to_string(), args.output.as_deref())
}

/// Writes a text into a file if there is one, else to the standard output.
pub(crate) fn write_or_print(text: &str, path: Option<&Path>) -> Result<(), Failure> {
    match path {
        None => print(text),
        Some(path) => write_durably(path, |out| out.write_all(text.as_bytes())).map_err(Failure::written),
    }
}

/// The names of passes, all known. An empty name is what an empty list is split into.
fn chosen(passes: &[&dyn Pass], names: &[String]) -> Result<Vec<String>, Failure> {
    let known = || passes.iter().map(|pass| pass.name());
    let names = names.iter().filter(|name| !name.is_empty());
    if let Some(unknown) = names.clone().find(|name| !known().any(|pass| pass == *name)) {
        return Err(Failure::Usage(match nearest(unknown, known()) {
            Some(near) => format!("no pass is named '{unknown}'; did you mean '{near}'?"),
            None => {
                format!("no pass is named '{unknown}'; the passes are: {}", known().collect::<Vec<_>>().join(", "))
            }
        }));
    }
    Ok(names.cloned().collect())
}

/// What the passes did.
#[derive(Debug)]
struct Report {
    /// A line for each pass.
    passes: String,
    /// What was compared, if anything was.
    validation: String,
}

/// The graph after the passes; with a seed, every change is validated.
fn optimized(
    passes: &[&dyn Pass],
    graph: &Graph,
    options: PassOptions,
    seed: Option<u64>,
) -> Result<(Graph, Report), Failure> {
    let validator = seed.map(validator);
    let validate = validator.as_ref().map(Validator::hook);
    let result = optimize_with(passes, graph, &PassOptions { validate, ..options }).map_err(|error| match error {
        PassError::Bug(mut bug) => {
            if let (Some(reproducer), Some(seed @ 1..)) = (&mut bug.reproducer, seed) {
                reproducer.command += &format!(" --seed {seed}");
            }
            Failure::Bug(bug.to_string())
        }
        error => error.into(),
    })?;
    let lines = result.report.iter().map(|report| format!("{report}\n")).collect();
    let validation = validator.map(|validator| validator.report().to_string()).unwrap_or_default();
    Ok((result.graph, Report { passes: lines, validation }))
}

/// A validator of this seed.
pub(crate) fn validator(seed: u64) -> Validator {
    Validator::new(ValidateOptions { seed, ..ValidateOptions::default() })
}

#[cfg(test)]
mod tests {
    //! Bugs of the compiler, made on purpose: what users never meet in tests of the program itself.

    use cotangent::graph::text::parse;
    use cotangent::graph::{NodeId, Output, Registry, Stage};
    use cotangent::passes::PassCx;

    use super::*;

    const GRAPH: &str = "cotangent 1 graph @bad { %0 = input \"x\" : f32[4] %1 = exp %0 output \"y\" = %1 }";

    /// Forgets what the output is computed from, or claims a change that it has not made.
    struct Broken {
        honest: bool,
    }

    impl Pass for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }
        fn purpose(&self) -> &'static str {
            "to be found out"
        }
        fn stage(&self) -> (Stage, Stage) {
            (Stage::Source, Stage::Source)
        }
        fn run(&self, graph: &Graph, _: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
            if !self.honest {
                return Ok(Some(graph.clone()));
            }
            let mut new = Graph::new(graph.name().clone());
            let node = graph.node(NodeId(0)).clone();
            let value = new.add(node.op, node.inputs, node.attrs, node.ty, node.origin).unwrap();
            new.add_output(Output { value, ..graph.outputs()[0].clone() }).unwrap();
            Ok(Some(new))
        }
    }

    fn failed(pass: &Broken, name: &str) -> (u8, String, String) {
        let file = std::env::temp_dir().join(format!("cotangent-opt-{}-{name}.ct", std::process::id()));
        let graph = parse(GRAPH, "bad.ct", &Registry::builtin()).unwrap();
        let options = PassOptions { verify: true, reproducer: Some(file.clone()), ..PassOptions::default() };
        let (code, text) = optimized(&[pass], &graph, options, Some(5)).unwrap_err().report();
        let reproducer = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(reproducer, graph.to_string());
        (code, text, reproducer)
    }

    #[test]
    fn a_pass_that_changes_the_meaning_is_named_and_leaves_a_reproducer() {
        let (code, text, _) = failed(&Broken { honest: true }, "meaning");
        assert_eq!(code, 3);
        assert!(text.starts_with("internal compiler error in `broken`: its result has another meaning"), "{text}");
        assert!(text.contains("-meaning.ct --passes broken --verify --seed 5\n"), "{text}");
    }

    #[test]
    fn a_pass_that_claims_a_change_is_named_and_leaves_a_reproducer() {
        let (code, text, _) = failed(&Broken { honest: false }, "claim");
        assert_eq!(code, 3);
        assert!(text.contains("it reports a change and has made none"), "{text}");
        assert!(text.contains("-claim.ct --passes broken --verify --seed 5\n"), "{text}");
    }
}
