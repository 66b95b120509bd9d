//! `run`: a graph on arrays from a file, by the compiled program, by the interpreter of its plan, or by the oracle.
//!
//! Assumes nothing of the arrays: names, element types and shapes are compared with the graph before anything runs, and all
//! mistakes are told at once, at the lines of the graph. Promises: parameters and states that are not given start as their
//! initialisers say under the seed; results, parameters and states are those after the last step; what was written by one
//! run can be given to the next. All ways to run agree bit for bit, except that the oracle does no passes but derivatives.

use std::collections::{BTreeMap, HashMap};

use clap::{Args, ValueEnum};
use cotangent::data::npz::write_npz;
use cotangent::exec::Each;
use cotangent::graph::interp::interpret;
use cotangent::graph::memory;
use cotangent::graph::{Code, CompilerBug, Counters, DType, Diag, Diags, Env, Graph, Loc, Node, Role, TensorData};
use cotangent::kernel::{ClusterOptions, CostModel, PlanMachine, RunError, plan, verify_plan};
use cotangent::passes::{PassOptions, optimize};
use cotangent::prelude::{BackendChoice, HostTensor, Runtime, Seed, Session, Threads};
use cotangent::scalar::plain;

use crate::opt::validator;
use crate::{Failure, arrays, print, program, tell};

/// What executes the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// Wide machine code where the CPU has AVX2 or AVX-512, Cranelift's elsewhere
    Auto,
    /// Cranelift's machine code: 128-bit vectors, on every platform
    Cranelift,
    /// AVX-512 or AVX2 (`COTANGENT_ISA` forces one); an error where the CPU has neither
    Wide,
    /// The slow, obvious twin: the plan, followed element by element
    Interpreter,
}

/// What `run` takes.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A graph in text form (`-`: the standard input), the name of a workload, or a configuration (`.toml`)
    #[arg(value_name = "FILE|WORKLOAD|CONFIG")]
    source: String,
    /// Values of inputs, parameters and states by name (`-`: the standard input); of several archives the last one counts
    #[arg(short, long, value_name = "FILE.npz")]
    inputs: Vec<String>,
    /// Write the results, and the parameters and states after the last step, by name
    #[arg(short, long, value_name = "FILE.npz")]
    outputs: Option<String>,
    /// The number of threads; all that the machine offers unless given
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// What executes the plan
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    #[command(flatten)]
    target: program::TargetArgs,
    #[command(flatten)]
    fusion: program::FusionArgs,
    /// Do not compile: evaluate the graph node by node, after no pass but `differentiate`
    #[arg(long, conflicts_with_all = ["backend", "target", "no_fuse", "fuse", "threads", "verify"])]
    interpret: bool,
    /// Validate every pass, and compare every step of the plan with the oracle
    #[arg(long)]
    verify: bool,
    /// Steps to run, all on the same inputs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// The seed of initialisers and of random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    limits: program::LimitArgs,
}

/// Results by name.
type Results = Vec<(String, TensorData)>;

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let n_piped = args.inputs.iter().chain([&args.source]).filter(|path| *path == "-").count();
    if n_piped > 1 {
        return Err(Failure::Usage("the standard input can be read once only; '-' was given twice".to_owned()));
    }
    let graph = args.limits.graph(&args.source)?;
    let mut given = arrays::Given::default();
    for path in &args.inputs {
        let more = arrays::read(path, args.limits.read.limits(), |name| graph.source(name).is_some())?;
        given.arrays.extend(more.arrays);
        given.others.extend(more.others);
    }
    let mut values = Values::of(&graph, given, args.seed).map_err(Failure::error)?;
    let results = if args.interpret {
        interpreted(args, &graph, &mut values)?
    } else if args.backend == Backend::Interpreter {
        planned(args, &graph, &mut values)?
    } else {
        compiled(args, &graph, &mut values)?
    };
    if let Some(path) = &args.outputs {
        write_npz(path, &archive(results.clone(), values.stored)).map_err(Failure::written)?;
    }
    let lines =
        results.iter().map(|(name, value)| format!("{} : {} = {}\n", plain(name), value.ty(), arrays::preview(value)));
    print(&lines.collect::<String>())
}

/// The values of a graph's sources.
#[derive(Debug)]
struct Values {
    inputs: HashMap<String, TensorData>,
    /// Parameters and states.
    stored: HashMap<String, TensorData>,
}

impl Values {
    /// Every source with its value, given or by its initialiser.
    fn of(graph: &Graph, mut given: arrays::Given, seed: u64) -> Result<Self, Diags> {
        let starts = named(graph).filter(|(name, _)| !given.arrays.contains_key(*name));
        let starts = starts.filter_map(|(_, node)| Some((node, node.init()?))).collect::<Vec<_>>();
        let beside = starts.iter().map(|(node, init)| init.bytes_beside(node.ty.shape())).max().unwrap_or(0);
        memory::ask("the start of parameters and states", starts.iter().map(|(node, _)| *node), beside)?;
        let mut values = Values { inputs: HashMap::new(), stored: HashMap::new() };
        let mut diags = Vec::new();
        for (name, node) in named(graph) {
            let value = match (given.arrays.remove(name), node.init()) {
                (Some(value), _) if value.ty() == node.ty => value,
                (Some(value), _) => {
                    diags.push(wrong_type(node, name, &value));
                    continue;
                }
                (None, Some(init)) => init.sample(seed, name, node.ty.dtype(), node.ty.shape()),
                (None, _) => {
                    let text = format!("the {} `{name}` of type {} has no value", node.op.name, node.ty);
                    let help = format!("hand it in: --inputs FILE.npz with an array named `{name}`");
                    diags.push(Diag::new(Code::InputNames, text).at(node.origin.loc()).help(help));
                    continue;
                }
            };
            let group = if node.is_stored() { &mut values.stored } else { &mut values.inputs };
            group.insert(name.to_owned(), value);
        }
        // Results of an earlier run stand beside its parameters and states, and are of no use here.
        let is_result = |name: &str| graph.has_result(name.strip_prefix(RESULT_PREFIX).unwrap_or(name));
        let left = given.others.iter().filter(|name| !is_result(name));
        diags.extend(left.take(MAX_UNKNOWN).map(|name| unknown(graph, name)));
        if diags.is_empty() { Ok(values) } else { Err(Diags(diags)) }
    }
}

/// The inputs, parameters and states, by name.
fn named(graph: &Graph) -> impl Iterator<Item = (&str, &Node)> {
    graph.nodes().iter().filter_map(|node| Some((node.name()?, node)))
}

fn wrong_type(node: &Node, name: &str, value: &TensorData) -> Diag {
    let text = format!("the {} `{name}` requires {}, got {}", node.op.name, node.ty, value.ty());
    let diag = Diag::new(Code::InputType, text).at(node.origin.loc());
    if value.dtype() == node.ty.dtype() {
        diag.help("shapes are static: reshape the array, or change the type that the graph declares")
    } else {
        let numpy = match node.ty.dtype() {
            DType::F32 => "float32",
            DType::F64 => "float64",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::U8 => "uint8",
            DType::Bool => "bool",
        };
        diag.help(format!("nothing is converted implicitly: convert the array with `.astype(\"{numpy}\")`"))
    }
}

fn unknown(graph: &Graph, name: &str) -> Diag {
    let text = format!("the graph has no input, parameter or state named `{name}`, which an array is given for");
    let diag = Diag::new(Code::InputNames, text).at(Loc::Internal);
    diag.suggest(name, named(graph).map(|(name, _)| name))
}

/// So many unknown names are told.
const MAX_UNKNOWN: usize = 20;

/// What stands before the name of a result that is also the name of a parameter or state.
const RESULT_PREFIX: &str = "result ";

/// What is written: results, parameters and states.
fn archive(results: Results, stored: HashMap<String, TensorData>) -> BTreeMap<String, TensorData> {
    let mut all: BTreeMap<String, TensorData> = stored.into_iter().collect();
    for (name, value) in results {
        let key = if all.contains_key(&name) { format!("{RESULT_PREFIX}{name}") } else { name };
        all.insert(key, value);
    }
    all
}

/// The options of the passes, and what is to be told after them.
fn checked_passes(args: &RunArgs) -> (PassOptions, impl Fn()) {
    // The seed that `opt` replays with.
    let validator = args.verify.then(|| validator(0));
    let mut options = PassOptions { validate: validator.as_ref().map(|v| v.hook()), ..args.limits.pass_options() };
    options.verify |= args.verify;
    (options, move || tell(&validator.as_ref().map(|v| v.report().to_string()).unwrap_or_default()))
}

/// Runs machine code in a session.
fn compiled(args: &RunArgs, graph: &Graph, values: &mut Values) -> Result<Results, Failure> {
    let (mut passes, report) = checked_passes(args);
    passes.dump = std::env::var_os("COTANGENT_DUMP").map(Into::into);
    let backend = match args.backend {
        Backend::Cranelift => BackendChoice::Cranelift,
        Backend::Wide => BackendChoice::Wide,
        Backend::Auto | Backend::Interpreter => BackendChoice::Auto,
    };
    let compiler = args.limits.compiler().fuse(args.fusion.choices()?).backend(backend).passes(passes);
    let program = args.target.compiler(compiler)?.compile(graph)?;
    report();
    let runtime = Runtime::new(args.threads.map_or(Threads::All, |n| Threads::Exactly(n.into())));
    let mut session = Session::new(&runtime, program.clone(), Seed(args.seed)).map_err(Failure::error)?;
    if args.verify {
        session.set_checked(true);
    }
    // Parameters that nothing needs any more are not in the store, and stay as they are.
    let names: Vec<String> = session.store().iter().map(|(name, _)| name.to_owned()).collect();
    for name in &names {
        if let Some(value) = values.stored.get(name) {
            session.store_mut().set(name, value.clone()).map_err(Failure::error)?;
        }
    }
    let mut results = Vec::new();
    for step in 1..=args.steps {
        let inputs = || values.inputs.iter().map(|(name, value)| (name.as_str(), HostTensor::from(value)));
        let outputs = match session.step(Each(inputs())) {
            Ok(outputs) => outputs,
            Err(diag) if diag.code == Code::NotFinite => {
                let start = session.find_non_finite(session.main(), Each(inputs())).ok().flatten();
                let diag = diag.help("nothing has been changed by this step; where it starts follows");
                return Err(Failure::error(Diags([Some(diag), start].into_iter().flatten().collect())));
            }
            Err(diag) => return Err(Failure::step(diag, graph)),
        };
        if step == args.steps {
            let result = |(name, _): (&str, _)| Ok((name.to_owned(), outputs.tensor(name)?));
            results = outputs.iter().map(result).collect::<Result<Results, Diag>>().map_err(Failure::error)?;
        }
    }
    for name in names {
        let value = session.store().get(&name).map_err(Failure::error)?;
        values.stored.insert(name, value);
    }
    Ok(results)
}

/// Follows the plan without machine code.
fn planned(args: &RunArgs, graph: &Graph, values: &mut Values) -> Result<Results, Failure> {
    let bug = |bug: CompilerBug| Failure::found(bug, graph);
    let (passes, report) = checked_passes(args);
    let optimized = optimize(graph, &passes)?.graph;
    report();
    let cost = args.target.target()?.map_or_else(CostModel::default, CostModel::new);
    let options = ClusterOptions { fusions: args.fusion.choices()?, cost };
    let plan = plan(&optimized, &options).map_err(bug)?;
    let errors = verify_plan(&plan);
    if !errors.is_empty() {
        return Err(bug(CompilerBug::new("plan", errors.join("\n"))));
    }
    let mut machine = PlanMachine::new(&plan).map_err(Failure::error)?;
    let mut counters = Counters { seed: args.seed, step: 0 };
    let mut results = Vec::new();
    for _ in 0..args.steps {
        let before = args.verify.then(|| environment(args, values, counters));
        results = machine.run(&values.inputs, &mut values.stored, counters).map_err(|error| match error {
            RunError::User(diag) => Failure::step(diag, graph),
            RunError::Bug(found) => bug(found),
        })?;
        if let Some(env) = before {
            let expected = outputs_of(&optimized, &env).map_err(Failure::error)?;
            compare(&expected, &results, &values.stored).map_err(|text| bug(CompilerBug::new("plan", text)))?;
        }
        counters.step = counters.step.wrapping_add(u32::from(!plan.updated.is_empty()));
    }
    Ok(results)
}

/// Evaluates the graph node by node. Derivatives are made symbolic first: the oracle's own are differences, which say
/// nothing in f32.
fn interpreted(args: &RunArgs, graph: &Graph, values: &mut Values) -> Result<Results, Failure> {
    let only = Some(vec!["differentiate".to_owned()]);
    let options = PassOptions { only, ..args.limits.pass_options() };
    let graph = optimize(graph, &options)?.graph;
    let mut counters = Counters { seed: args.seed, step: 0 };
    let mut results = Vec::new();
    for _ in 0..args.steps {
        let outputs = outputs_of(&graph, &environment(args, values, counters)).map_err(Failure::error)?;
        counters.step = counters.step.wrapping_add(u32::from(!outputs.updates.is_empty()));
        values.stored.extend(outputs.updates);
        results = outputs.results;
    }
    Ok(results)
}

fn environment(args: &RunArgs, values: &Values, counters: Counters) -> Env {
    let all = values.inputs.iter().chain(&values.stored);
    Env {
        values: all.map(|(name, value)| (name.clone(), value.clone())).collect(),
        counters,
        limits: args.limits.limits(),
        ..Env::default()
    }
}

/// What a step gives, by the oracle.
#[derive(Debug)]
struct StepOutputs {
    results: Results,
    /// New values of parameters and states.
    updates: Results,
}

fn outputs_of(graph: &Graph, env: &Env) -> Result<StepOutputs, Diag> {
    let mut outputs = StepOutputs { results: Vec::new(), updates: Vec::new() };
    for (output, value) in graph.outputs().iter().zip(interpret(graph, env)?) {
        match output.role {
            Role::Result => outputs.results.push((output.name.to_string(), value)),
            Role::Update(_) => outputs.updates.push((output.name.to_string(), value)),
        }
    }
    Ok(outputs)
}

/// Compares a step with the oracle's, bit for bit.
fn compare(expected: &StepOutputs, results: &Results, stored: &HashMap<String, TensorData>) -> Result<(), String> {
    for (name, value) in &expected.results {
        if !results.iter().any(|(other, got)| other == name && got.same_bits(value)) {
            return Err(format!("the result `{name}` is not what the oracle computes"));
        }
    }
    for (name, value) in &expected.updates {
        if !stored.get(name).is_some_and(|got| got.same_bits(value)) {
            return Err(format!("the update of `{name}` is not what the oracle computes"));
        }
    }
    Ok(())
}
