//! `reduce`: a graph that fails, made small, such that it still fails in the same way.
//!
//! What counts as failing: an error of the compilation, a bug that it reports, a panic, and an error of a checked step on
//! sample values; with `--verify` also a pass that changes the meaning. Candidates are kept only if they show the same
//! symptom, so that the search does not slip from a bug to a mere mistake.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::PathBuf;

use clap::Args;
use cotangent::graph::samples::environment;
use cotangent::graph::{Code, interp};
use cotangent::passes::{PassOptions, ValidateOptions, validate};
use cotangent::prelude::{CompileError, Compiler, Fusions, Graph, Runtime, Session, Threads};
use cotangent_testkit::shrink;

use crate::opt::write_or_print;
use crate::{Failure, program, tell};

/// What `reduce` takes.
#[derive(Debug, Args)]
pub(crate) struct ReduceArgs {
    /// A graph in text form (`-`: the standard input), the name of a workload, or a configuration (`.toml`)
    #[arg(value_name = "FILE|WORKLOAD|CONFIG")]
    source: String,
    /// Also ask of each pass whether its result still means the same
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    fusion: program::FusionArgs,
    /// The code generator
    #[arg(long, value_enum, default_value_t)]
    backend: program::Backend,
    /// The seed of the sample values
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write to this file instead of the standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    limits: program::LimitArgs,
}

pub(crate) fn reduce(args: &ReduceArgs) -> Result<(), Failure> {
    let graph = args.limits.graph(&args.source)?;
    let runtime = Runtime::new(Threads::Exactly(1));
    let fusions = args.fusion.choices()?;
    let Some((small, symptom)) = reduced(&graph, |graph| symptom(graph, args, fusions, &runtime)) else {
        // What this machine lacks is no property of the graph.
        interp::room(&graph).map_err(Failure::error)?;
        return Err(Failure::error("the graph compiles, and a checked step runs: there is nothing to reduce"));
    };
    tell(&format!("{} nodes -> {} nodes, which show the same: {symptom}\n", graph.n_nodes(), small.n_nodes()));
    write_or_print(&small.to_string(), args.output.as_deref())
}

/// The smallest graph found that shows the symptom of this one, and the symptom; `None` if it shows none.
fn reduced(graph: &Graph, symptom: impl Fn(&Graph) -> Option<String>) -> Option<(Graph, String)> {
    // Panics are what is looked for, so their messages would only be in the way.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let shown = |graph: &Graph| {
        catch_unwind(AssertUnwindSafe(|| symptom(graph))).unwrap_or_else(|_| Some("a panic".to_owned()))
    };
    let result =
        shown(graph).map(|first| (shrink(graph, |candidate| shown(candidate).as_ref() == Some(&first)), first));
    set_hook(hook);
    result
}

/// How a graph fails, without what differs between graphs of the same mistake.
fn symptom(graph: &Graph, args: &ReduceArgs, fusions: Fusions, runtime: &Runtime) -> Option<String> {
    let options = ValidateOptions { seed: args.seed, ..ValidateOptions::default() };
    let validate = args.verify.then(|| validate::validator(options));
    let passes = PassOptions { verify: true, validate, ..PassOptions::default() };
    let compiler =
        Compiler::new().fuse(fusions).backend(args.backend.into()).passes(passes).limits(args.limits.limits());
    let program = match compiler.compile(graph) {
        Ok(program) => program,
        Err(CompileError::User(diags)) => return diags.0.first().map(|diag| format!("error {}", diag.code)),
        Err(CompileError::Bug(bug)) => return Some(format!("a bug in `{}`", bug.pass)),
        Err(_) => return None,
    };
    let checked_step = || {
        let env = environment(graph, args.seed)?;
        let mut session = Session::with_env(runtime, program.clone(), &env)?;
        session.set_checked(true);
        session.step(program.inputs_of(&env)).map(|_| ())
    };
    let error = checked_step().err().filter(|diag| diag.code != Code::NoMemory);
    error.map(|diag| format!("error {} of a step", diag.code))
}

#[cfg(test)]
mod tests {
    //! Failures that only a closure can make: the compiler has none to offer.

    use cotangent::prelude::*;

    use super::*;

    fn sample() -> Graph {
        build(|g| {
            let x = g.input("x", F32, [4, 3]);
            let hidden = x.dense("a", 8).tanh().dense("b", 8).exp();
            g.output("loss", hidden.mean());
            g.output("other", x.sum());
        })
        .unwrap()
    }

    #[test]
    fn a_panic_is_a_symptom_and_the_graph_gets_small() {
        let has_tanh = |graph: &Graph| graph.nodes().iter().any(|node| node.is(&cotangent::graph::ops::math::TANH));
        let fails = |graph: &Graph| -> Option<String> {
            assert!(!has_tanh(graph), "made on purpose");
            None
        };
        let (small, symptom) = reduced(&sample(), fails).unwrap();
        assert_eq!(symptom, "a panic");
        assert!(has_tanh(&small) && small.n_nodes() <= 3, "{small}");
    }

    #[test]
    fn another_symptom_is_not_taken_for_the_same() {
        let fails = |graph: &Graph| {
            let n = graph.params().count();
            (n > 0).then(|| if n >= 2 { "many".to_owned() } else { "few".to_owned() })
        };
        let (small, symptom) = reduced(&sample(), fails).unwrap();
        assert_eq!((symptom.as_str(), fails(&small).as_deref()), ("many", Some("many")));
        assert!(reduced(&sample(), |_| None).is_none());
    }
}
