//! How a workload is timed, and the report.
//!
//! Why it exists: figures of different systems compare only under one protocol. Each step is timed by itself, from
//! handing over the inputs until the results are there, forward and backward pass and update included; the median is the
//! figure. Batches rotate. Losses of the first five steps are reported so that a wrong program cannot look fast.
//!
//! Promises: [`Report::fields`] is the one list of figures; tables and JSON are made of it.

mod fusions;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cotangent_exec::{
    BackendChoice, Choice, Compiler, Each, Executable, Fusions, ProgramId, Runtime, Seed, Session, StepInputs, Target,
    Threads, Tuning, Ways,
};
use cotangent_graph::{Diag, TensorData};
use cotangent_nn::product_flops;

pub use self::fusions::{FusionTimes, Variant, bench_fusions};
use crate::TrainError;
use crate::workloads::{Feed, Kind, What, Workload};

/// How long is warmed up and measured. The numbers are those of the peers' scripts.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Steps before the first timed one, at least.
    pub warm_steps: usize,
    /// Time before the first timed step, at least.
    pub warm_time: Duration,
    /// Timed steps, at least.
    pub steps: usize,
    /// Time measured, at least.
    pub time: Duration,
    /// Measuring ends after so many steps.
    pub max_steps: usize,
    /// Measuring slow steps ends after so many of them, if the time is over too.
    pub slow: [(usize, Duration); 2],
    /// If given: exactly so many timed steps.
    pub exact_steps: Option<usize>,
}

impl Default for Protocol {
    fn default() -> Self {
        Protocol {
            warm_steps: 5,
            warm_time: Duration::from_millis(500),
            steps: 30,
            time: Duration::from_millis(2500),
            max_steps: 50_000,
            slow: [(12, Duration::from_secs(12)), (8, Duration::from_secs(60))],
            exact_steps: None,
        }
    }
}

impl Protocol {
    fn is_over(&self, n_steps: usize, elapsed: Duration) -> bool {
        if let Some(exact) = self.exact_steps {
            return n_steps >= exact;
        }
        let enough = |&(steps, time): &(usize, Duration)| n_steps >= steps && elapsed >= time;
        n_steps >= self.max_steps || enough(&(self.steps, self.time)) || self.slow.iter().any(enough)
    }
}

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The threads.
    pub threads: Threads,
    /// Which ops share kernels.
    pub fusions: Fusions,
    /// Which code generator makes the kernels.
    pub backend: BackendChoice,
    /// The machine that is compiled for, if it is not this one as it says of itself; on another one the session is an error.
    pub target: Option<Target>,
    /// The timing.
    pub protocol: Protocol,
    /// What is done about the ways of products.
    pub tuning: Tuning,
    /// Starting weights and batches; random if absent.
    pub arrays: Option<BTreeMap<String, TensorData>>,
    /// The seed of what is random.
    pub seed: u64,
}

impl Default for BenchOptions {
    fn default() -> Self {
        BenchOptions {
            threads: Threads::All,
            fusions: Fusions::auto(),
            backend: BackendChoice::Auto,
            target: None,
            protocol: Protocol::default(),
            tuning: Tuning::default(),
            arrays: None,
            seed: 1234,
        }
    }
}

impl BenchOptions {
    /// A compiler with everything that was chosen, but for these fusions.
    fn compiler(&self, fusions: Fusions) -> Compiler {
        let compiler = Compiler::new().fuse(fusions).backend(self.backend);
        match &self.target {
            Some(target) => compiler.target(target.clone()),
            None => compiler,
        }
    }
}

/// Times of steps in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTimes {
    /// The middle one.
    pub median_ms: f64,
    /// The shortest.
    pub min_ms: f64,
    /// Nine of ten are not longer.
    pub p90_ms: f64,
    /// How many were timed.
    pub steps: usize,
}

impl StepTimes {
    /// The figures of a list of times; of none they are zero.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let n = times.len();
        let ms = |at: usize| times.get(at).map_or(0.0, |t| t.as_secs_f64() * 1e3);
        StepTimes { median_ms: ms(n / 2), min_ms: ms(0), p90_ms: ms(n * 9 / 10), steps: n }
    }
}

/// The figures of a workload.
#[derive(Clone, Debug)]
pub struct Report {
    /// The workload's name.
    pub workload: &'static str,
    /// What it is; tells which figures apply.
    pub kind: Kind,
    /// Threads used.
    pub threads: usize,
    /// The code generator.
    pub backend: &'static str,
    /// Whether every kind of fusion was allowed.
    pub fused: bool,
    /// The timed steps.
    pub times: StepTimes,
    /// The ways that products were found to go fastest.
    pub ways: Ways,
    /// Building the graph.
    pub build_ms: f64,
    /// From the finished graph to the executable.
    pub compile_ms: f64,
    /// The first step, compilation excluded.
    pub first_step_ms: f64,
    /// The largest memory of the process so far, where the system tells it.
    pub peak_rss_mib: Option<f64>,
    /// Bytes of parameters, states, arena, workspace of products and batches: what the process cannot do without.
    pub held_bytes: usize,
    /// Bytes that a step holds besides parameters, states and inputs.
    pub arena_bytes: usize,
    /// Nodes after the passes.
    pub n_nodes: usize,
    /// Steps of the plan.
    pub n_plan_steps: usize,
    /// Kernels of the plan.
    pub n_kernels: usize,
    /// Kernels that differ in their code.
    pub n_distinct_kernels: usize,
    /// The losses of steps 1 to 5, if there is a loss.
    pub loss_first5: Vec<f64>,
    /// Additions and multiplications in matrix products of one step.
    pub flops: f64,
    /// Bytes of all inputs and results: what must be moved at least.
    pub io_bytes: usize,
    /// Bytes that the plan's steps read and write, each buffer counted once a step.
    pub plan_bytes: usize,
    /// Of the elementwise workload: what, of how many elements, and the sum of all results as a check.
    pub elementwise: Option<(What, usize, f64)>,
    /// Of work on rows: how many, of how many elements, and the sum of the sizes of all results as a check.
    pub rows: Option<(usize, usize, f64)>,
    /// Of inference: how many examples, and the mean size of all outputs as a check.
    pub inference: Option<(usize, f64)>,
}

/// A figure of a report.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// A word.
    Text(&'static str),
    /// Yes or no.
    Flag(bool),
    /// A count.
    Count(u64),
    /// A measure.
    Real(f64),
    /// Several measures.
    Reals(Vec<f64>),
    /// Not known on this system.
    Unknown,
}

impl Report {
    /// Every figure with its name, in the order of a table.
    pub fn fields(&self) -> Vec<(&'static str, Field)> {
        let t = &self.times;
        let held_mib = self.held_bytes as f64 / (1024.0 * 1024.0);
        let mut fields = vec![
            ("workload", Field::Text(self.workload)),
            ("threads", Field::Count(self.threads as u64)),
            ("backend", Field::Text(self.backend)),
            ("fused", Field::Flag(self.fused)),
            ("median_ms", Field::Real(t.median_ms)),
            ("min_ms", Field::Real(t.min_ms)),
            ("p90_ms", Field::Real(t.p90_ms)),
            ("steps", Field::Count(t.steps as u64)),
            ("build_ms", Field::Real(self.build_ms)),
            ("compile_ms", Field::Real(self.compile_ms)),
            ("first_step_ms", Field::Real(self.first_step_ms)),
            ("peak_rss_mib", self.peak_rss_mib.map_or(Field::Unknown, Field::Real)),
            ("held_mib", Field::Real(held_mib)),
            ("excess_mib", self.peak_rss_mib.map_or(Field::Unknown, |peak| Field::Real(peak - held_mib))),
            ("arena_bytes", Field::Count(self.arena_bytes as u64)),
            ("n_nodes", Field::Count(self.n_nodes as u64)),
            ("n_plan_steps", Field::Count(self.n_plan_steps as u64)),
            ("n_kernels", Field::Count(self.n_kernels as u64)),
            ("n_distinct_kernels", Field::Count(self.n_distinct_kernels as u64)),
            ("plan_bytes", Field::Count(self.plan_bytes as u64)),
            ("loss_first5", Field::Reals(self.loss_first5.clone())),
        ];
        // Figures per second: the numerator per millisecond, times 1e-6, is giga per second.
        let giga = |amount: f64, ms: f64| Field::Real(if ms > 0.0 { amount / ms * 1e-6 } else { 0.0 });
        if let Some((what, n, sum)) = self.elementwise {
            let per_element = |ms: f64| Field::Real(if n > 0 { ms * 1e6 / n as f64 } else { 0.0 });
            fields.extend([
                ("what", Field::Text(what.name())),
                ("n", Field::Count(n as u64)),
                ("ns_per_element", per_element(t.median_ms)),
                ("ns_per_element_min", per_element(t.min_ms)),
                ("bytes_moved", Field::Count(self.io_bytes as u64)),
                ("gb_per_s", giga(self.io_bytes as f64, t.median_ms)),
                ("check", Field::Real(sum)),
            ]);
        }
        if let Some((m, n, sum)) = self.rows {
            fields.extend([
                ("m", Field::Count(m as u64)),
                ("n", Field::Count(n as u64)),
                ("bytes_moved", Field::Count(self.io_bytes as u64)),
                ("gb_per_s", giga(self.io_bytes as f64, t.median_ms)),
                ("check", Field::Real(sum)),
            ]);
        }
        if let Some((batch, mean)) = self.inference {
            let per_second = if t.median_ms > 0.0 { batch as f64 / t.median_ms * 1e3 } else { 0.0 };
            fields.extend([
                ("batch", Field::Count(batch as u64)),
                ("examples_per_s", Field::Real(per_second)),
                ("check", Field::Real(mean)),
            ]);
        }
        if self.flops > 0.0 {
            fields.extend([
                ("gflop", Field::Real(self.flops * 1e-9)),
                ("gflops_median", giga(self.flops, t.median_ms)),
                ("gflops_best", giga(self.flops, t.min_ms)),
            ]);
        }
        fields
    }
}

fn inputs_of(feed: &Feed) -> impl StepInputs<'_> {
    Each(feed.iter().map(|(name, value)| (name.as_str(), value.into())))
}

/// A compiled workload that steps through its batches.
struct Runner {
    session: Session,
    /// Inputs by name: programs that differ in their fusions take them in turns.
    feeds: Vec<Feed>,
    next: usize,
}

impl Runner {
    fn new(session: Session, feeds: Vec<Feed>) -> Self {
        Runner { session, feeds, next: 0 }
    }

    /// The main program still tries ways of its products; not asked where the number of steps is given.
    fn tries(&self, protocol: &Protocol) -> Result<bool, Diag> {
        Ok(protocol.exact_steps.is_none() && !self.session.is_settled(self.session.main())?)
    }

    /// Bytes of parameters, states and batches, and of what steps hold besides the arena.
    fn held_bytes(&self) -> usize {
        let batches = self.feeds.iter().flatten().map(|(_, value)| value.ty().n_bytes());
        let stored = self.session.store().iter().map(|(_, ty)| ty.n_bytes());
        stored.chain(batches).sum::<usize>() + self.session.scratch_bytes()
    }

    /// One step of the main program; what it took, and the loss if asked for.
    fn step(&mut self, loss: bool) -> Result<(Duration, Option<f64>), Diag> {
        self.run(self.session.main(), loss.then_some("loss"))
    }

    /// One step of a program; what it took, and the named result if asked for.
    fn run(&mut self, program: ProgramId, result: Option<&str>) -> Result<(Duration, Option<f64>), Diag> {
        let feed = &self.feeds[self.next % self.feeds.len()];
        self.next += 1;
        let start = Instant::now();
        let out = self.session.run(program, inputs_of(feed))?;
        let time = start.elapsed();
        Ok((time, result.map(|name| out.scalar(name)).transpose()?))
    }

    /// The sum of `f` of each element of the results of certain ranks: a fingerprint that other systems can compute too.
    fn sum_of_results(&mut self, of_rank: impl Fn(usize) -> bool, f: impl Fn(f64) -> f64) -> Result<f64, Diag> {
        let feed = &self.feeds[0];
        let out = self.session.step(inputs_of(feed))?;
        let mut sum = 0.0;
        for (name, _) in out.iter().filter(|(_, ty)| of_rank(ty.shape().rank())) {
            sum += out.tensor(name)?.to_f64().into_iter().map(&f).sum::<f64>();
        }
        Ok(sum)
    }
}

/// Builds, compiles and times a workload.
///
/// # Errors
/// What is wrong with its sizes, its arrays, or this machine.
pub fn bench(workload: &Workload, options: &BenchOptions) -> Result<Report, TrainError> {
    let start = Instant::now();
    let graph = workload.build()?;
    let build_ms = ms(start.elapsed());

    let start = Instant::now();
    let program = options.compiler(options.fusions).compile(&graph)?;
    let compile_ms = ms(start.elapsed());

    let runtime = Runtime::new(options.threads);
    let feeds = workload.batches(&graph, options.arrays.as_ref(), options.seed)?;
    let mut session = Session::new(&runtime, program.clone(), Seed(options.seed))?;
    session.set_tuning(options.tuning.clone());
    if let Some(arrays) = &options.arrays {
        workload.load_params(session.store_mut(), &graph, arrays)?;
    }
    let mut runner = Runner::new(session, feeds);

    let has_loss = workload.trains();
    let (first_step, first_loss) = runner.step(has_loss)?;
    let mut loss_first5: Vec<f64> = first_loss.into_iter().collect();
    for _ in 1..5 {
        loss_first5.extend(runner.step(has_loss)?.1);
    }
    let times = time_steps(&mut runner, &options.protocol)?;

    let sizes = workload.sizes();
    let (mut elementwise, mut rows) = (None, None);
    match workload.spec().kind {
        // The gradients, without the sum that they are of.
        Kind::Elementwise => elementwise = Some((sizes.what, sizes.n, runner.sum_of_results(|rank| rank == 1, |x| x)?)),
        Kind::Rows(_) => rows = Some((sizes.m, sizes.n, runner.sum_of_results(|_| true, f64::abs)?)),
        _ => {}
    }
    let inference = match workload.predicts() {
        Some(batch) => {
            let n_outputs: usize = program.plan().outputs.iter().map(|o| o.ty.shape().n_elements()).sum();
            Some((batch, runner.sum_of_results(|_| true, f64::abs)? / n_outputs as f64))
        }
        None => None,
    };
    let plan = program.plan();
    Ok(Report {
        workload: workload.spec().name,
        kind: workload.spec().kind,
        threads: runtime.n_threads(),
        backend: program.backend(),
        fused: options.fusions.which(Choice::Never).next().is_none(),
        times,
        ways: runner.session.found(),
        build_ms,
        compile_ms,
        first_step_ms: ms(first_step),
        peak_rss_mib: peak_rss_mib(),
        held_bytes: runner.held_bytes() + program.arena_bytes(),
        arena_bytes: program.arena_bytes(),
        n_nodes: program.optimized().n_nodes(),
        n_plan_steps: plan.steps.len(),
        n_kernels: plan.kernels.len(),
        n_distinct_kernels: program.compiled().n_distinct(),
        loss_first5,
        flops: product_flops(program.optimized()) as f64,
        io_bytes: io_bytes(&program),
        plan_bytes: plan_bytes(&program),
        elementwise,
        rows,
        inference,
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn time_steps(runner: &mut Runner, protocol: &Protocol) -> Result<StepTimes, Diag> {
    let start = Instant::now();
    let mut n_warm = 0;
    // No step counts before the session is done with trying ways.
    while n_warm < protocol.warm_steps || start.elapsed() < protocol.warm_time || runner.tries(protocol)? {
        runner.step(false)?;
        n_warm += 1;
    }
    let start = Instant::now();
    let mut times = Vec::new();
    while !protocol.is_over(times.len(), start.elapsed()) {
        times.push(runner.step(false)?.0);
    }
    Ok(StepTimes::of(times))
}

/// Bytes of inputs and results.
fn io_bytes(program: &Executable) -> usize {
    let inputs: usize = program.inputs().map(|(_, ty)| ty.n_bytes()).sum();
    inputs + program.plan().outputs.iter().map(|o| o.ty.n_bytes()).sum::<usize>()
}

/// Bytes that the steps of the plan read and write.
fn plan_bytes(program: &Executable) -> usize {
    let plan = program.plan();
    let touched = plan.steps.iter().flat_map(|step| step.reads(plan).into_iter().chain(step.writes(plan)));
    touched.map(|buffer| plan.buffers[buffer.index()].n_bytes()).sum()
}

/// The largest resident set so far, from `VmHWM` of the process's status; none where there is no such file.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
