//! `check`: the gradient of any graph against central differences.

use clap::Args;
use clap::builder::PossibleValuesParser;
use cotangent::graph::{Graph, Node};
use cotangent::passes::{GradCheck, PassError, Wrt, check_gradients};

use crate::{Failure, print, program};

/// What `check` takes.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A graph in text form (`-`: the standard input), the name of a workload, or a configuration (`.toml`)
    #[arg(value_name = "FILE|WORKLOAD|CONFIG")]
    source: String,
    /// 1: the gradient; 2: also its derivative in a random direction
    #[arg(long, value_name = "N", default_value = "1", value_parser = PossibleValuesParser::new(["1", "2"]))]
    order: String,
    /// The result to differentiate [default: `loss`, or else the first of floats]
    #[arg(long, value_name = "NAME")]
    loss: Option<String>,
    /// What to differentiate by [default: all parameters, or if there are none all inputs]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    wrt: Option<Vec<String>>,
    /// Elements to check of each tensor
    #[arg(long, value_name = "N", default_value_t = GradCheck::default().max_elements_per_tensor)]
    elements: usize,
    /// The largest relative error that is let pass
    #[arg(long, value_name = "X", default_value_t = GradCheck::default().tolerance)]
    tolerance: f64,
    /// The seed of values, directions and the choice of elements
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    limits: program::LimitArgs,
}

pub(crate) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let graph = args.limits.graph(&args.source)?;
    let options = GradCheck {
        loss: args.loss.clone(),
        wrt: args.wrt.clone().map_or_else(|| default_wrt(&graph), Wrt::Named),
        order: if args.order == "2" { 2 } else { 1 },
        seed: args.seed,
        max_elements_per_tensor: args.elements,
        tolerance: args.tolerance,
        env: None,
        limits: args.limits.limits(),
    };
    let report = check_gradients(&graph, &options).map_err(|error| match error {
        PassError::Bug(bug) => Failure::found(bug, &graph),
        error => error.into(),
    })?;
    if report.entries.is_empty() {
        return Err(Failure::error("the graph has no parameter and no input of floats to differentiate by"));
    }
    print(&report.to_string())?;
    if report.passed() { Ok(()) } else { Err(Failure::error("central differences do not confirm the gradient")) }
}

/// The parameters; a graph without any is differentiated by its inputs.
fn default_wrt(graph: &Graph) -> Wrt {
    let is_float = |node: &Node| node.ty.dtype().is_float();
    if graph.params().any(|(_, param)| is_float(param)) {
        return Wrt::Params;
    }
    let inputs = graph.inputs().filter(|(_, input)| is_float(input));
    Wrt::Named(inputs.filter_map(|(_, input)| input.name().map(str::to_owned)).collect())
}
