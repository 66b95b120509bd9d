//! The compiler driver: passes, clusters, plan, machine code, each stage timed and open to inspection.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cotangent_codegen::{BackendChoice, CodegenError, Compiled, MadeBy};
use cotangent_gemm::Candidate;
use cotangent_graph::{
    Code, CompilerBug, Diag, Diags, Env, Graph, HostTensor, Init, Limits, Loc, Lower, Node, Role, Source, Type,
};
use cotangent_host::files::{WriteError, write_report};
use cotangent_host::float::in_default;
use cotangent_host::{Memory, Target};
use cotangent_kernel::{Choice, ClusterOptions, CostModel, Fusion, Fusions, Home, Plan, Step, plan, verify_plan};
use cotangent_passes::{PassError, PassOptions, PassReport, ValidateHook, optimize};
use cotangent_scalar::plain;

use crate::input::InputId;
use crate::needs::{Needs, all_buffers};
use crate::place::Place;
use crate::ready::{Ready, all_kernels};
use crate::stages::StageView;
use crate::turns::{all_turns, other_step};

/// Why a graph did not become a program.
#[non_exhaustive]
pub enum CompileError {
    /// Mistakes in the graph.
    User(Diags),
    /// A bug of the compiler.
    Bug(CompilerBug),
    /// Something that this machine lacks.
    Environment(String),
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompileError::User(diags) => write!(f, "{diags}"),
            CompileError::Bug(bug) => write!(f, "{bug}"),
            CompileError::Environment(text) => write!(f, "{text}"),
        }
    }
}

/// The text of `Display`, so that `main` and `unwrap` print it.
impl fmt::Debug for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for CompileError {}

impl From<PassError> for CompileError {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Diags(diags) => CompileError::User(diags),
            PassError::Bug(bug) => CompileError::Bug(bug),
            PassError::Environment(text) => CompileError::Environment(text),
        }
    }
}

impl From<CompilerBug> for CompileError {
    fn from(bug: CompilerBug) -> Self {
        CompileError::Bug(bug)
    }
}

impl From<CodegenError> for CompileError {
    fn from(error: CodegenError) -> Self {
        match error {
            CodegenError::Environment(text) => CompileError::Environment(text),
            CodegenError::Memory(text) => {
                CompileError::Environment(Diag::new(Code::NoMemory, text).at(Loc::Internal).to_string())
            }
            CodegenError::Internal(text) => CompileError::Bug(CompilerBug::new("codegen", text)),
        }
    }
}

/// Time spent on each part of a compilation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Graph to graph.
    pub passes: Duration,
    /// Clusters, kernels, schedule, buffers.
    pub plan: Duration,
    /// Machine code.
    pub codegen: Duration,
    /// All of it.
    pub total: Duration,
}

/// Turns graphs into programs.
#[derive(Clone, Debug)]
pub struct Compiler {
    fusions: Fusions,
    backend: BackendChoice,
    target: Option<Target>,
    passes: PassOptions,
    limits: Option<Limits>,
    memory: Memory,
    reproducer: PathBuf,
    keep_clif: bool,
}

impl Default for Compiler {
    fn default() -> Self {
        Compiler::new()
    }
}

impl Compiler {
    /// A compiler with everything on. `COTANGENT_DUMP=dir` writes each changed stage there.
    pub fn new() -> Self {
        let passes = PassOptions { dump: std::env::var_os("COTANGENT_DUMP").map(Into::into), ..PassOptions::default() };
        let reproducer = std::env::temp_dir().join(format!("cotangent-reproducer-{}.ct", std::process::id()));
        Compiler {
            fusions: Fusions::auto(),
            backend: BackendChoice::Auto,
            target: None,
            passes,
            limits: None,
            memory: Memory::default(),
            reproducer,
            keep_clif: false,
        }
    }

    /// Where a bug of the compiler leaves the graph that shows it; the error says how to replay it. By default a file in the
    /// folder for temporary files.
    pub fn reproducer(mut self, file: impl Into<PathBuf>) -> Self {
        self.reproducer = file.into();
        self
    }

    /// Which ops share kernels: `false` gives each op a kernel of its own, on the same path; [`Fusions`] forbids or forces
    /// some kinds. The bits do not depend on it.
    pub fn fuse(mut self, fusions: impl Into<Fusions>) -> Self {
        self.fusions = fusions.into();
        self
    }

    /// Which code generator makes the kernels; the bits do not depend on it.
    pub fn backend(mut self, backend: BackendChoice) -> Self {
        self.backend = backend;
        self
    }

    /// The machine to compile for: instruction set, caches, cores, costs. Unless given it is this one
    /// ([`Target::from_environment`]). The bits do not depend on it. A program for another instruction set can be looked at; a
    /// session of it is `E0311` where the CPU lacks the set.
    ///
    /// ```
    /// # use cotangent_exec::{Caches, Compiler, Target};
    /// # use cotangent_graph::{DType::F32, build};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let graph = build(|g| g.output("y", g.input("x", F32, [2]) * 2.0))?;
    /// let here = Target::here();
    /// let caches = Caches { l2: 256 << 10, ..here.caches() };
    /// let smaller = Target::new(here.isa(), caches, here.cores(), *here.costs())?;
    /// let program = Compiler::new().target(smaller.clone()).compile(&graph)?;
    /// assert_eq!(program.target(), &smaller);
    /// assert!(program.explain().contains("256.0 KiB"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// The most bytes that a session of a program may take for parameters, states, constants, and what it computes with. Unless
    /// given it is what `COTANGENT_MEMORY` says, or what the machine has, as far as that is known.
    pub fn memory_limit(mut self, n_bytes: usize) -> Self {
        self.memory = Memory::limited_to(n_bytes);
        self
    }

    /// The choice of fusions on the command line of `cotangent`.
    fn fusion_flags(&self) -> String {
        let flag = |(choice, flag): (Choice, &str)| {
            let names: Vec<&str> = self.fusions.which(choice).map(Fusion::name).collect();
            match names.len() {
                0 => String::new(),
                n if n == Fusion::ALL.len() && choice == Choice::Never => format!(" --{flag}"),
                _ => format!(" --{flag}={}", names.join(",")),
            }
        };
        [(Choice::Never, "no-fuse"), (Choice::Always, "fuse")].map(flag).concat()
    }

    /// The options of the passes.
    pub fn passes(mut self, passes: PassOptions) -> Self {
        self.passes = passes;
        self
    }

    /// Hands the graphs before and after each pass that changes something to `hook`, which may refuse the change; how tools look at
    /// every stage.
    pub fn validate(mut self, hook: ValidateHook) -> Self {
        self.passes.validate = Some(hook);
        self
    }

    /// Keeps the intermediate code of the kernels that Cranelift makes, to be looked at.
    pub fn keep_clif(mut self, keep: bool) -> Self {
        self.keep_clif = keep;
        self
    }

    /// What a graph may grow to: more is `E0116`, in a second or two instead of never. Unless given, those of
    /// [`PassOptions::limits`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Compiles a graph for this machine.
    ///
    /// # Errors
    /// The mistakes of the user, all at once; or a bug of the compiler, panics among them, which leaves its reproducer; or
    /// what this machine lacks, memory among it: the text is then that of `E0309`.
    pub fn compile(&self, graph: &Graph) -> Result<Arc<Executable>, CompileError> {
        self.compile_with(graph, |_| {})
    }

    /// Compiles with a plan that was changed before it is verified and becomes code: how tests plant bugs in kernels.
    pub(crate) fn compile_with(
        &self,
        graph: &Graph,
        change: impl FnOnce(&mut Plan),
    ) -> Result<Arc<Executable>, CompileError> {
        in_default(|| self.stages(graph, change)).map_err(|error| match error {
            CompileError::Bug(bug) => CompileError::Bug(bug.reproduce(
                &self.reproducer,
                || graph.to_string(),
                |file| {
                    let fuse = self.fusion_flags();
                    let backend = match self.backend {
                        BackendChoice::Auto => "",
                        BackendChoice::Cranelift => " --backend cranelift",
                        BackendChoice::Wide => " --backend wide",
                    };
                    format!("cotangent explain {file}{fuse}{backend}")
                },
            )),
            error => error,
        })
    }

    fn stages(&self, graph: &Graph, change: impl FnOnce(&mut Plan)) -> Result<Arc<Executable>, CompileError> {
        let target = match &self.target {
            Some(target) => target.clone(),
            None => Target::from_environment().map_err(|bad| CompileError::Environment(bad.to_string()))?,
        };
        room_to_compile(graph)?;
        let start = Instant::now();
        let reproducer = self.passes.reproducer.clone().or_else(|| Some(self.reproducer.clone()));
        let limits = self.limits.unwrap_or(self.passes.limits);
        let optimized = optimize(graph, &PassOptions { reproducer, limits, ..self.passes.clone() })?;
        let passes = start.elapsed();
        let options = ClusterOptions { fusions: self.fusions, cost: CostModel::new(target) };
        let plan = CompilerBug::guard("plan", || {
            let mut plan = plan(&optimized.graph, &options)?;
            change(&mut plan);
            Ok::<_, CompilerBug>(plan)
        })??;
        let interface = Interface::of(&optimized.graph, graph);
        let needs = Needs::of_plan(&plan, &interface);
        if let Err(refused) = self.memory.may_need(needs.total()) {
            return Err(CompileError::Environment(needs.refusal(refused, &plan, &optimized.graph).to_string()));
        }
        // Memory safety rests on these proofs, so they are made in release builds too.
        let errors = CompilerBug::guard("plan", || verify_plan(&plan))?;
        if !errors.is_empty() {
            return Err(CompilerBug::new("plan", errors.join("\n")).into());
        }
        let planned = start.elapsed();
        let keep_clif = self.keep_clif || self.passes.dump.is_some();
        let kernels = all_kernels(&plan);
        let cost = options.cost;
        let (compiled, backend) = CompilerBug::guard("codegen", || {
            let options = cotangent_codegen::Options { keep_clif, ..Default::default() };
            let backend = self.backend.backend(&cost.target, options)?;
            backend.compile_with_loops(&kernels, &all_turns(&plan, 0)).map(|compiled| (compiled, backend.name()))
        })??;
        let total = start.elapsed();
        let timings = Timings { passes, plan: planned - passes, codegen: total - planned, total };
        let ready = Ready::of(&plan, Place::of_plan(&plan, &interface)?, &cost.target)?;
        let predicted = cost.step_times(&plan, &|step| ready.product_nanos(&plan, step));
        let executable = Executable {
            id: Identity::new(),
            source: graph.clone(),
            optimized: optimized.graph,
            reports: optimized.report,
            plan,
            compiled,
            ready,
            interface,
            cost,
            predicted,
            memory: self.memory,
            timings,
            backend,
            fusions: self.fusions,
            reproducer: self.reproducer.clone(),
        };
        if let Some(dir) = &self.passes.dump {
            executable
                .dump(dir)
                .map_err(|error| CompileError::Environment(format!("the dump: {}", plain(&error.to_string()))))?;
        }
        executable.tell_perf();
        Ok(Arc::new(executable))
    }
}

/// Asks for what compiling takes, about: many small pieces that nobody asks for, and whose refusal would end the process. The
/// user's limit is for what a program takes.
fn room_to_compile(graph: &Graph) -> Result<(), CompileError> {
    /// Measured on chains of softmax and functions: with passes, kernels and code.
    const BYTES_OF_A_NODE: usize = 1 << 13;
    let n_bytes = graph.n_nodes().saturating_mul(BYTES_OF_A_NODE);
    let asked = Memory::limited_to(usize::MAX).ask(n_bytes);
    asked.map_err(|refused| {
        let text = format!("compiling a graph of {} nodes takes about {refused}", graph.n_nodes());
        CompileError::Environment(Diag::new(Code::NoMemory, text).at(Loc::Internal).to_string())
    })
}

/// What a program asks for from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interface {
    pub(crate) input_names: Vec<String>,
    pub(crate) input_types: Vec<Type>,
    /// Parameters and states: name, type, start.
    pub(crate) stored: Vec<(String, Type, Init)>,
    /// Whether anything depends on random numbers.
    is_random: bool,
}

impl Interface {
    fn of(optimized: &Graph, source: &Graph) -> Self {
        // Of bodies none is left that nobody runs.
        let is_random = draws(optimized) || optimized.all_bodies().into_iter().any(|body| draws(body));
        let mut interface = Interface { is_random, ..Interface::default() };
        for (_, input) in source.inputs() {
            interface.input_names.push(input.name().unwrap_or_default().to_owned());
            interface.input_types.push(input.ty.clone());
        }
        for (_, stored) in optimized.stored() {
            if let (Some(name), Some(init)) = (stored.name(), stored.init()) {
                interface.stored.push((name.to_owned(), stored.ty.clone(), *init));
            }
        }
        interface
    }
}

/// Whether something that is needed depends on random numbers.
fn draws(graph: &Graph) -> bool {
    let is_random = |(node, live): (&Node, bool)| live && matches!(node.op.lower, Lower::Source(Source::Rng));
    graph.nodes().iter().zip(graph.live()).any(is_random)
}

/// What tells an executable or a session from all others of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity(u64);

impl Identity {
    /// One that nothing else has.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Identity(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a step changes, by name.
pub(crate) struct Updated<'a> {
    pub(crate) params: BTreeSet<&'a str>,
    pub(crate) states: BTreeSet<&'a str>,
}

/// A compiled program: immutable, shared between sessions and threads.
pub struct Executable {
    pub(crate) id: Identity,
    pub(crate) source: Graph,
    pub(crate) optimized: Graph,
    pub(crate) reports: Vec<PassReport>,
    pub(crate) plan: Plan,
    pub(crate) compiled: Compiled,
    pub(crate) ready: Ready,
    pub(crate) interface: Interface,
    /// The machine that it was compiled for.
    pub(crate) cost: CostModel,
    /// For each step of the plan, how long it is predicted to take, in nanoseconds.
    predicted: Vec<f64>,
    /// What a session may take.
    pub(crate) memory: Memory,
    timings: Timings,
    backend: &'static str,
    fusions: Fusions,
    /// Where a bug that shows only in a step leaves the graph.
    pub(crate) reproducer: PathBuf,
}

impl fmt::Debug for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Executable(@{}, {} steps)", self.source.name(), self.plan.steps.len())
    }
}

impl Executable {
    /// The graph as built.
    pub fn source(&self) -> &Graph {
        &self.source
    }

    /// The graph after the passes.
    pub fn optimized(&self) -> &Graph {
        &self.optimized
    }

    /// What each pass did.
    pub fn pass_reports(&self) -> &[PassReport] {
        &self.reports
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The machine code and its measures.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Time spent on compilation.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The code generator's name.
    pub fn backend(&self) -> &'static str {
        self.backend
    }

    /// Which kinds of fusion the compiler was free to use.
    pub fn fusions(&self) -> Fusions {
        self.fusions
    }

    /// Names and types of the parameters and states that it works on.
    pub fn stored(&self) -> impl Iterator<Item = (&str, &Type)> {
        self.interface.stored.iter().map(|(name, ty, _)| (name.as_str(), ty))
    }

    /// Names and types of the inputs, in order.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &Type)> {
        self.interface.input_names.iter().map(String::as_str).zip(&self.interface.input_types)
    }

    /// The inputs of a step whose values stand in an environment; one that it does not name is left out.
    pub fn inputs_of<'a>(&self, env: &'a Env) -> Vec<(&str, HostTensor<'a>)> {
        self.inputs().filter_map(|(name, _)| Some((name, HostTensor::from(env.values.get(name)?)))).collect()
    }

    /// The id of an input, for steps that should not look names up.
    ///
    /// # Errors
    /// `E0301` if the program has no such input.
    #[track_caller]
    pub fn input_id(&self, name: &str) -> Result<InputId, Diag> {
        match self.interface.input_names.iter().position(|n| n == name) {
            Some(at) => Ok(InputId { program: self.id, at }),
            None => Err(self.unknown_input(name)),
        }
    }

    /// Whether a value has the element type and shape that the input of this position is declared with.
    #[track_caller]
    pub(crate) fn check_input(&self, at: usize, view: &HostTensor<'_>) -> Result<(), Diag> {
        let (name, ty) = (&self.interface.input_names[at], &self.interface.input_types[at]);
        if view.dtype() == ty.dtype() && view.shape() == *ty.shape() {
            return Ok(());
        }
        let diag = Diag::new(Code::InputType, format!("input `{name}` requires {ty}, got {}", view.ty()))
            .note("the input was declared", self.declared_at(name));
        Err(if view.dtype() == ty.dtype() && view.shape().rank() == ty.shape().rank() {
            diag.help("shapes are static: compile a program for each batch size on the same store")
        } else {
            diag
        })
    }

    #[track_caller]
    pub(crate) fn unknown_input(&self, name: &str) -> Diag {
        let names = self.interface.input_names.iter().map(String::as_str);
        let diag = Diag::new(Code::InputNames, format!("the program has no input `{name}`"));
        diag.suggest(name, names)
    }

    #[track_caller]
    pub(crate) fn missing_input(&self, at: usize) -> Diag {
        let (name, ty) = (&self.interface.input_names[at], &self.interface.input_types[at]);
        let diag = Diag::new(Code::InputNames, format!("the program requires input `{name}` of type {ty}, got none"));
        diag.note("the input was declared", self.declared_at(name))
    }

    /// Where the user declared an input, parameter or state.
    pub(crate) fn declared_at(&self, name: &str) -> Loc {
        self.source.source(name).map_or(Loc::Internal, |id| self.source.node(id).origin.loc())
    }

    /// Whether it has a state of this name.
    pub(crate) fn has_state(&self, name: &str) -> bool {
        self.optimized.source(name).is_some_and(|id| self.optimized.node(id).source() == Some(Source::State))
    }

    /// The names of the parameters and of the states that a step changes.
    pub(crate) fn updated_by_kind(&self) -> Updated<'_> {
        let (mut params, mut states) = (BTreeSet::new(), BTreeSet::new());
        for output in self.optimized.outputs() {
            let Role::Update(target) = output.role else { continue };
            match self.optimized.node(target).source() {
                Some(Source::Param) => params.insert(&*output.name),
                _ => states.insert(&*output.name),
            };
        }
        Updated { params, states }
    }

    /// Whether a step has random numbers and changes nothing: each call draws anew.
    pub fn is_sampler(&self) -> bool {
        !self.updates() && self.interface.is_random
    }

    /// Whether a step changes parameters or states.
    pub fn updates(&self) -> bool {
        !self.plan.updated.is_empty()
    }

    /// The plan as text: steps, buffers with sizes, places and lifetimes.
    pub fn plan_text(&self) -> String {
        self.plan.to_string()
    }

    /// The machine that it was compiled for.
    pub fn target(&self) -> &Target {
        &self.cost.target
    }

    /// Every decision of the clusterer, with its reason; what left loops and why the rest stays in them; the way of every matrix product, with its reason and its predicted
    /// time; and the machine that all of these follow from.
    pub fn explain(&self) -> String {
        let mut text = cotangent_kernel::explain(&self.optimized, &self.plan);
        text += &cotangent_passes::hoist::explain(&self.optimized);
        explain_products(&self.plan, &self.ready, "", &mut text);
        let _ = write!(text, "for {}", self.target());
        text
    }

    /// How long a step of the plan is predicted to take on one thread, in nanoseconds; 0 for one that does not exist.
    pub fn predicted_ns(&self, step: usize) -> f64 {
        self.predicted.get(step).copied().unwrap_or(0.0)
    }

    /// Which way the matrix product of a step goes, why, and how long that is predicted to take; `None` for a step that is
    /// no product of matrices, or that does not exist.
    pub fn way(&self, step: usize) -> Option<&Candidate> {
        self.ready.products.get(step)?.as_ref()?.choice()
    }

    /// The way of the product of a step, why it goes so, and how long that is predicted to take; `None` for a step that is no product,
    /// or that does not exist.
    pub fn product_text(&self, step: usize) -> Option<String> {
        Some(self.ready.products.get(step)?.as_ref()?.to_string())
    }

    /// The number of kernels that have wide code.
    pub fn n_wide_kernels(&self) -> usize {
        let is_wide = |k: &usize| matches!(self.compiled.stats(*k).made_by, MadeBy::Wide(_));
        (0..all_kernels(&self.plan).len()).filter(is_wide).count()
    }

    /// Which code generator made each kernel, with the reason if it was not the one that was asked first; the code's size
    /// and the time that it took.
    pub fn code_text(&self) -> String {
        let mut text = String::new();
        for (k, kernel) in all_kernels(&self.plan).into_iter().enumerate() {
            let stats = self.compiled.stats(k);
            let (bytes, time) = (stats.code_bytes, stats.compile_time);
            let _ = writeln!(text, "kernel {k} {}: {bytes} bytes in {time:.1?}, {}", kernel.name, stats.made_by);
        }
        text
    }

    /// Bytes of machine code.
    pub fn code_bytes(&self) -> usize {
        (0..all_kernels(&self.plan).len()).map(|k| self.compiled.stats(k).code_bytes).sum()
    }

    /// Writes clusters, plan, decisions, kernels and their intermediate code into a directory.
    fn dump(&self, dir: &Path) -> Result<(), WriteError> {
        let kernels: Vec<String> = all_kernels(&self.plan).into_iter().map(|k| k.to_string()).collect();
        let clif = (0..kernels.len()).filter_map(|k| self.compiled.stats(k).clif.clone());
        let files = [
            ("90-fused.dot", self.dot(StageView::Fused)),
            ("91-plan.txt", self.plan_text()),
            ("92-explain.txt", self.explain()),
            ("93-kernels.txt", kernels.join("\n")),
            ("94-clif.txt", clif.collect::<Vec<_>>().join("\n")),
            ("95-code.txt", self.code_text()),
        ];
        files.iter().try_for_each(|(name, text)| write_report(dir.join(name), text))
    }

    /// Bytes that steps hold besides parameters, states and inputs.
    pub fn arena_bytes(&self) -> usize {
        self.plan.arena_bytes
    }

    /// Bytes of constants.
    pub fn const_bytes(&self) -> usize {
        let is_const = |b: &&cotangent_kernel::BufferDecl| matches!(b.home, Home::Const(_));
        all_buffers(&self.plan).into_iter().filter(is_const).map(|b| b.n_bytes()).sum()
    }
}

/// `Executable` is shared between threads.
const _: fn() = || {
    fn assert<T: Send + Sync>() {}
    assert::<Executable>();
};

/// The ways of products, those of loops among them, and of the loops.
fn explain_products(plan: &Plan, ready: &Ready, of: &str, text: &mut String) {
    for (number, (step, product)) in plan.steps.iter().zip(&ready.products).enumerate() {
        if let (Step::Loop(step), Some(ready)) = (step, &ready.bodies[number]) {
            let how = match other_step(&step.body) {
                None => "one function for all iterations, where threads divide none of its kernels".to_owned(),
                Some(other) => {
                    format!("iteration by iteration, since step {other} of its body is neither a kernel nor a copy")
                }
            };
            let _ = writeln!(text, "{of}step {number}, loop\n  {how}");
            explain_products(&step.body, ready, &format!("{of}step {number}, loop, "), text);
        }
        let (Step::Product { factors, dtype, .. }, Some(product)) = (step, product) else { continue };
        let _ = writeln!(text, "{of}step {number}, {factors} of {dtype}");
        product.to_string().lines().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
    }
}
