//! Random graphs through everything: text, passes, plans, machine code, threads.
//!
//! For each graph the print parses back to the same print, before and after the passes; every change that a pass makes is
//! validated; and the interpreter of the optimized graph, the unfused program, one with some kinds of fusion forbidden and
//! others forced, and the fused program on one and on two threads give the same bits, updates of parameters and states
//! included. A step that is an error must be the same error for all of them, and must change nothing.
//!
//! What validation says of derivatives rests on differences, and on constants rounded to f32; the summary counts the graphs
//! where only the latter make values differ.
//!
//! A graph that fails is made small while it fails in the same way, and written with the command that checks it again.

use std::collections::BTreeSet;
use std::sync::Arc;

use cotangent_exec::{
    BackendChoice, Choice, Compiler, Executable, Fusion, Fusions, Isa, Runtime, Session, Target, Threads,
};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::ops::region::GRAD;
use cotangent_graph::text::{parse, print, print::Style};
use cotangent_graph::{Code, DType, Diag, Env, Graph, Registry, Stage, TensorData, verify};
use cotangent_passes::pass::ValidateHook;
use cotangent_passes::{PassOptions, ValidateOptions, Validator};
use cotangent_testkit::random::{self, Options};
use cotangent_testkit::{Rng, shrink};

use super::{Fault, Limits, Mode, drive, guarded, keep, replay};

/// The most operations that the validation of one pass may take: a hundredth of a second.
const VALIDATION_BUDGET: u64 = 1 << 21;
/// Elements of each derivative that are compared with differences.
const GRADIENT_ELEMENTS: usize = 4;

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Gradients of functions.
    pub n_first: u64,
    /// Gradients of functions of gradients.
    pub n_second: u64,
    /// Elements of programs that were compared by their bits.
    pub n_elements: u64,
    /// Changes of graphs that were validated.
    pub n_passes: u64,
    /// Elements that the validation of passes compared.
    pub n_validated: u64,
    /// Graphs whose values were not judged, because they differ by the rounding of constants only.
    pub n_rounded: u64,
    /// Elements of derivatives that were not judged: at a kink, or not finite.
    pub n_unjudged: u64,
    /// Steps that were errors, as they should be.
    pub n_errors: u64,
    /// Ops that occurred, also in bodies.
    pub ops: BTreeSet<&'static str>,
}

/// The threads that programs run on.
pub struct Runtimes {
    one: Runtime,
    two: Runtime,
    eight: Runtime,
}

impl Runtimes {
    /// Starts the threads.
    pub fn new() -> Self {
        let runtime = |n| Runtime::new(Threads::Exactly(n));
        Runtimes { one: runtime(1), two: runtime(2), eight: runtime(8) }
    }
}

/// What the graph of a seed is made of: mostly the default mix, else mixes that favor sizes, emptiness, length, depth.
pub fn options(seed: u64) -> Options {
    let all = Options::default();
    match seed % 12 {
        0 => Options { wild: 0.3, max_elements: 64, n_ops: 30, ..all },
        1 => Options { max_elements: 20_000, n_ops: 8, second_order: false, ..all },
        2 => Options { n_ops: 60, max_elements: 256, ..all },
        3 => Options { grads: false, n_ops: 40, max_elements: 512, ..all },
        4 => Options::tame(),
        5 => Options { n_ops: 4, max_elements: 100, ..all },
        6 => Options { doubles: 0.9, ..all },
        7 => Options { max_elements: 40_000, n_ops: 6, grads: false, ..all },
        _ => all,
    }
}

/// The graph of a seed: of twelve one is around a loop of which much can be taken out.
fn graph(seed: u64) -> Graph {
    match seed % 12 {
        8 => random::loops(seed, &Options { n_ops: 4, max_elements: 512, ..options(seed) }),
        _ => random::graph(seed, &options(seed)),
    }
}

/// Named values after a step: results, and parameters and states under `update NAME`; or the error's code.
pub type Outcome = Result<Vec<(String, TensorData)>, Code>;

/// What a program makes of an environment.
pub fn execute(program: &Arc<Executable>, runtime: &Runtime, env: &Env) -> Result<Outcome, Fault> {
    let fault = |diag: Diag| Fault::new("session", diag.to_string());
    let value = |name: &str| {
        env.values.get(name).cloned().ok_or_else(|| Fault::new("session", format!("`{name}` has no value")))
    };
    let mut session = Session::with_env(runtime, Arc::clone(program), env).map_err(fault)?;
    let names: Vec<String> = session.store().iter().map(|(name, _)| name.to_owned()).collect();
    let mut values = Vec::new();
    match session.step(program.inputs_of(env)) {
        Ok(results) => {
            for (name, _) in results.iter() {
                values.push((name.to_owned(), results.tensor(name).map_err(fault)?));
            }
        }
        Err(diag) => {
            for name in &names {
                if !session.store().get(name).map_err(fault)?.same_bits(&value(name)?) {
                    return Err(Fault::new("failed step", format!("it changed `{name}`")));
                }
            }
            return Ok(Err(diag.code));
        }
    }
    for name in &names {
        values.push((format!("update {name}"), session.store().get(name).map_err(fault)?));
    }
    Ok(Ok(values))
}

/// What the interpreter makes of it; what is not updated stays.
fn oracle(graph: &Graph, env: &Env) -> Outcome {
    let mut values = interpret_named(graph, env).map_err(|diag| diag.code)?;
    for stored in graph.stored().filter_map(|(_, node)| node.name()) {
        let name = format!("update {stored}");
        if values.iter().all(|v| v.0 != name) {
            values.extend(env.values.get(stored).map(|value| (name, value.clone())));
        }
    }
    Ok(values)
}

/// Compares two outcomes; returns the number of elements.
pub fn compare(kind: &'static str, got: &Outcome, expected: &Outcome) -> Result<u64, Fault> {
    let (got, expected) = match (got, expected) {
        (Ok(got), Ok(expected)) => (got, expected),
        (Err(got), Err(expected)) if got == expected => return Ok(0),
        (Err(got), _) => return Err(Fault::new(kind, format!("the step is the error {got:?}"))),
        (_, Err(expected)) => return Err(Fault::new(kind, format!("the step is not the error {expected:?}"))),
    };
    if got.len() != expected.len() {
        return Err(Fault::new(kind, format!("{} values instead of {}", got.len(), expected.len())));
    }
    let mut n_elements = 0;
    for (name, value) in expected {
        match got.iter().find(|g| g.0 == *name) {
            None => return Err(Fault::new(kind, format!("`{name}` is missing"))),
            Some((_, other)) if value.same_bits(other) => n_elements += value.shape().n_elements() as u64,
            Some((_, other)) => {
                return Err(Fault::new(kind, format!("`{name}`:\ngot\n{other}\nexpected\n{value}")));
            }
        }
    }
    Ok(n_elements)
}

/// Whether the text of a graph parses back to itself.
pub fn round_trip(graph: &Graph) -> Result<(), Fault> {
    let text = print(graph, Style::default());
    let again = parse(&text, "fuzz.ct", &Registry::builtin())
        .map_err(|diags| Fault::new("text", format!("the print does not parse: {diags}\n{text}")))?;
    let second = print(&again, Style::default());
    let same = second == text;
    same.then_some(()).ok_or_else(|| Fault::new("text", format!("printed\n{text}\nparsed and printed\n{second}")))
}

/// Values for a graph. For some seeds an integer is far out of any range, so that steps fail that take it as an index.
fn environment(graph: &Graph, seed: u64) -> Env {
    let mut env = random::env(graph, seed);
    if !seed.is_multiple_of(7) {
        return env;
    }
    for name in graph.inputs().filter_map(|(_, input)| input.name()) {
        let Some(value) = env.values.get_mut(name) else { continue };
        let mut bits = value.bits();
        if matches!(value.dtype(), DType::I32 | DType::I64)
            && let Some(last) = bits.last_mut()
        {
            *last = value.dtype().bits_of_f64(if seed.is_multiple_of(2) { 1e9 } else { -3.0 });
            *value = TensorData::from_bits(value.dtype(), &value.shape(), &bits);
            break;
        }
    }
    env
}

/// Everything that must hold of a graph. The passes are validated if `validate`.
pub fn check(graph: &Graph, seed: u64, runtimes: &Runtimes, validate: bool, counts: &mut Counts) -> Result<(), Fault> {
    let errors = verify(graph, Stage::Source);
    if !errors.is_empty() {
        return Err(Fault::new("source", errors.join("\n")));
    }
    round_trip(graph)?;
    let validator = Validator::new(ValidateOptions {
        seed,
        budget: VALIDATION_BUDGET,
        max_gradient_elements: GRADIENT_ELEMENTS,
        ..ValidateOptions::default()
    });
    let compile_by = |compiler: Compiler, graph: &Graph, fusions: Fusions, hook: Option<ValidateHook>| {
        let passes = PassOptions { verify: true, validate: hook, ..PassOptions::default() };
        compiler.fuse(fusions).passes(passes).compile(graph).map_err(|error| Fault::new("passes", error.to_string()))
    };
    let compile = |graph: &Graph, fuse: bool, hook| compile_by(Compiler::new(), graph, fuse.into(), hook);
    let fused = compile(graph, true, validate.then(|| validator.hook()))?;
    let checks = validator.report().checks;
    if let Some(check) = checks.iter().find(|check| check.is_rounded) {
        counts.n_rounded += 1;
        eprintln!("graphs: case {seed}: {}", check.skipped.join("; "));
    }
    for check in checks {
        counts.n_passes += u64::from(check.n_samples > 0);
        counts.n_validated += check.n_elements;
        counts.n_unjudged += check.n_unjudged;
    }
    round_trip(fused.optimized())?;
    let env = environment(graph, seed);
    let expected = oracle(fused.optimized(), &env);
    counts.n_errors += u64::from(expected.is_err());
    counts.n_elements += compare("fused", &execute(&fused, &runtimes.one, &env)?, &expected)?;
    counts.n_elements += compare("two threads", &execute(&fused, &runtimes.two, &env)?, &expected)?;
    let unfused = compile(graph, false, None)?;
    if unfused.optimized().to_string() != fused.optimized().to_string() {
        return Err(Fault::new("determinism", "the passes give another graph the second time"));
    }
    counts.n_elements += compare("unfused", &execute(&unfused, &runtimes.one, &env)?, &expected)?;
    let some = compile_by(Compiler::new(), graph, some_fusions(seed), None)?;
    counts.n_elements += compare("some fusions", &execute(&some, &runtimes.two, &env)?, &expected)?;
    // `auto` took the widest instruction set that there is.
    let cranelift = compile_by(Compiler::new().backend(BackendChoice::Cranelift), graph, Fusions::auto(), None)?;
    counts.n_elements += compare("cranelift", &execute(&cranelift, &runtimes.two, &env)?, &expected)?;
    if Isa::Avx2.is_available() {
        let avx2 = compile_by(
            Compiler::new().target(Target::here().clone().with_isa(Isa::Avx2)),
            graph,
            Fusions::auto(),
            None,
        )?;
        let runtime = if seed.is_multiple_of(8) { &runtimes.eight } else { &runtimes.one };
        counts.n_elements += compare("avx2", &execute(&avx2, runtime, &env)?, &expected)?;
    }
    Ok(())
}

/// Each kind of fusion left to the cost model, forbidden or forced, by the seed.
fn some_fusions(seed: u64) -> Fusions {
    let mut rng = Rng::new(seed);
    Fusion::ALL.into_iter().fold(Fusions::auto(), |fusions, kind| {
        fusions.with(kind, [Choice::Auto, Choice::Never, Choice::Always][rng.below(3)])
    })
}

/// Counts gradients by their order, and ops.
fn take_stock(graph: &Graph, counts: &mut Counts) {
    let mut order = vec![0; graph.n_nodes()];
    for (k, node) in graph.nodes().iter().enumerate() {
        counts.ops.insert(node.op.0.name);
        order[k] = node.inputs.iter().map(|input| order[input.index()]).max().unwrap_or(0);
        if node.is(&GRAD) {
            order[k] += 1;
            *if order[k] == 1 { &mut counts.n_first } else { &mut counts.n_second } += 1;
        }
    }
    graph.bodies().iter().for_each(|body| take_stock(body, counts));
}

/// Makes a failing graph small, writes it, and says where.
pub fn keep_small(graph: &Graph, seed: u64, fault: &Fault, limits: &Limits, runtimes: &Runtimes) -> String {
    let validate = fault.kind == "passes" || fault.kind == "panic";
    let fails = |graph: &Graph| {
        guarded(|| check(graph, seed, runtimes, validate, &mut Counts::default()))
            .is_err_and(|again| again.kind == fault.kind)
    };
    let small = shrink(graph, fails);
    let name = format!("graph-{seed}.ct");
    let path = limits.folder.join(&name);
    let command = replay(Mode::Graphs, &format!("--seed {seed} --file {}", path.display()));
    let text = format!("; {}\n; {command}\n{small}", fault.kind);
    format!("{}; {command}\n{small}", keep(limits, &name, text.as_bytes()))
}

/// Runs the mode; returns the number of failures.
pub fn run(limits: &Limits) -> usize {
    let runtimes = Runtimes::new();
    if let Some(path) = &limits.file {
        let checked = std::fs::read_to_string(path).map_err(|error| Fault::new("file", error.to_string()));
        let checked = checked.and_then(|text| {
            let graph = parse(&text, &path.display().to_string(), &Registry::builtin());
            let graph = graph.map_err(|diags| Fault::new("file", diags.to_string()))?;
            guarded(|| check(&graph, limits.seed, &runtimes, true, &mut Counts::default()))
        });
        return match checked {
            Ok(()) => {
                println!("graphs: {} passes", path.display());
                0
            }
            Err(fault) => {
                println!("graphs: {} fails ({}):\n{}", path.display(), fault.kind, fault.text);
                1
            }
        };
    }
    let mut counts = Counts::default();
    let case = |seed| {
        let graph = graph(seed);
        take_stock(&graph, &mut counts);
        check(&graph, seed, &runtimes, true, &mut counts)
    };
    let write = |seed, fault: &Fault| keep_small(&graph(seed), seed, fault, limits, &runtimes);
    let done = drive(Mode::Graphs, limits, case, write);
    let text = format!(
        "{} gradients of order 1 and {} of order 2, {} ops, {} elements compared by bits, {} changes validated on {} \
         elements ({} more not judged, and the values of {} graphs), {} steps that had to fail",
        counts.n_first,
        counts.n_second,
        counts.ops.len(),
        counts.n_elements,
        counts.n_passes,
        counts.n_validated,
        counts.n_unjudged,
        counts.n_rounded,
        counts.n_errors
    );
    done.summary(Mode::Graphs, limits, &text);
    done.n_failures
}
