//! What things cost on this machine, measured by programs of ours, and how far predictions are from measurements.
//!
//! Each cost is the slope between two programs that differ in nothing else, or the best of programs that do little else, so that
//! what a step takes beside its elements drops out. Costs that say when work is divided between threads, and from which size on
//! memory is treated otherwise, are not measured: they stay those of [`Target::here`].

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use cotangent_exec::{CompileError, Compiler, Costs, Executable, Target, Tuning};
use cotangent_graph::DType::F32;
use cotangent_graph::{Diag, Diags, GraphBuilder, build};
use cotangent_kernel::{Factors, Step};

use crate::profile::session_of;

/// Runs of each program; the shortest counts.
const RUNS: usize = 60;

/// Steps shorter than this many nanoseconds are summed by kind: they are near the clock's own steps.
const SHORT_NS: f64 = 2_000.0;

/// Runs of each program whose predictions are compared with what is measured.
const COMPARED_RUNS: usize = 20;

/// Why a machine could not be measured.
#[derive(Debug)]
#[non_exhaustive]
pub enum CalibrationError {
    /// A program was not compiled.
    Compile(CompileError),
    /// A program did not run.
    Run(Diag),
    /// What was measured is not what machines take.
    Target(cotangent_exec::BadTarget),
}

impl std::fmt::Display for CalibrationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CalibrationError::Compile(error) => write!(f, "{error}"),
            CalibrationError::Run(diag) => write!(f, "{diag}"),
            CalibrationError::Target(bad) => write!(f, "{bad}: the machine was too busy to be measured; try again"),
        }
    }
}

impl std::error::Error for CalibrationError {}

impl From<Diags> for CalibrationError {
    fn from(diags: Diags) -> Self {
        CalibrationError::Compile(CompileError::User(diags))
    }
}

impl From<CompileError> for CalibrationError {
    fn from(error: CompileError) -> Self {
        CalibrationError::Compile(error)
    }
}

impl From<Diag> for CalibrationError {
    fn from(diag: Diag) -> Self {
        CalibrationError::Run(diag)
    }
}

/// The shortest time of a program on one thread in nanoseconds, all steps together, and the number of its steps.
fn shortest(compiler: &Compiler, program: impl FnOnce(&GraphBuilder)) -> Result<(f64, usize), CalibrationError> {
    let program = compiler.compile(&build(program)?)?;
    let steps = best(&program, RUNS)?;
    Ok((steps.iter().sum(), steps.len()))
}

/// The shortest time of each step of a program on one thread, in nanoseconds, products by the ways that are predicted.
fn best(program: &Arc<Executable>, n_runs: usize) -> Result<Vec<f64>, Diag> {
    let (mut session, env) = session_of(program, 1)?;
    session.set_tuning(Tuning::Off);
    let main = session.main();
    let profile = session.profile(main, program.inputs_of(&env), n_runs)?;
    Ok(profile.steps.iter().map(|times| times.best.as_secs_f64() * 1e9).collect())
}

/// The slope between two programs whose amounts of work differ, never below zero.
fn slope(less: (f64, f64), more: (f64, f64)) -> f64 {
    ((more.1 - less.1) / (more.0 - less.0)).max(0.0)
}

/// The machine at hand, with costs as they are measured now, in some seconds and best with nothing else running.
///
/// # Errors
/// [`CalibrationError`] if a program does not run, for lack of memory, or nothing useful was measured.
pub fn calibrate() -> Result<Target, CalibrationError> {
    let here = Target::from_environment().map_err(CalibrationError::Target)?;
    let caches = here.caches();
    let fused = Compiler::new().target(here.clone());
    let apart = fused.clone().fuse(false);
    let mut costs: Costs = *here.costs();

    // A chain of kernels of four elements: nearly all of it is the way from step to step.
    let (time, n_steps) = shortest(&apart, |g| {
        let mut y = g.input("x", F32, [4]);
        for _ in 0..64 {
            y = y.relu() + 1.0;
        }
        g.output("y", y);
    })?;
    costs.step_ns = time / n_steps.max(1) as f64;

    // Multiply-adds: the best that squares of several sizes reach.
    costs.fma_ns = f64::INFINITY;
    for n in [96, 192, 256, 384, 512] {
        let (time, _) = shortest(&fused, |g| {
            g.output("y", g.input("a", F32, [n, n]).matmul(g.input("b", F32, [n, n])));
        })?;
        costs.fma_ns = costs.fma_ns.min((time - costs.step_ns) / (4 * n * n * n) as f64);
    }

    // Operations: long bodies without slow ones on rows that stay near, a polynomial and functions, and their mean.
    let n = caches.l1 / 16;
    let bodies: [&dyn Fn(&GraphBuilder); 3] = [
        &|g| {
            let x = g.input("x", F32, [n]);
            let y = (0..32).fold(x, |y, k| y * x + f64::from(k));
            g.output("y", y);
        },
        &|g| g.output("y", g.input("x", F32, [n]).tanh().tanh()),
        &|g| g.output("y", g.input("x", F32, [n]).square().log().log()),
    ];
    let mut logs = 0.0;
    for body in bodies {
        let program = fused.compile(&build(body)?)?;
        let time: f64 = best(&program, RUNS * 4)?.iter().sum();
        let flop: f64 = (0..program.plan().steps.len()).map(|step| program.work(step).flop).sum();
        logs += ((time - costs.step_ns).max(1.0) / (4.0 * flop)).ln();
    }
    costs.op_ns = (logs / bodies.len() as f64).exp();

    // Divisions: the slope between eight and sixteen of them.
    let divided = |count: u32| -> Result<(f64, f64), CalibrationError> {
        let (time, _) = shortest(&fused, |g| {
            let (x, y) = (g.input("x", F32, [n]), g.input("y", F32, [n]));
            g.output("z", (0..count).fold(x, |z, _| y / (z + 1.0)));
        })?;
        Ok((f64::from(count) * (4 * n) as f64, time))
    };
    costs.divide_ns = (slope(divided(8)?, divided(16)?) - costs.op_ns).max(costs.op_ns);

    // Rows: the slope between few long rows and many short ones, of as many elements.
    let reduced = |rows: usize| -> Result<(f64, f64), CalibrationError> {
        let (time, _) = shortest(&fused, |g| {
            g.output("s", g.input("x", F32, [rows, (1 << 14) / rows]).sum_over([1]));
        })?;
        Ok((rows as f64, time))
    };
    costs.row_ns = slope(reduced(64)?, reduced(1024)?).max(0.1);

    // Bytes: one operation an element, on sizes between two caches.
    let copied = |n_bytes: usize| -> Result<(f64, f64), CalibrationError> {
        let n = n_bytes / 8;
        let (time, _) = shortest(&fused, |g| g.output("y", g.input("x", F32, [n]) * 2.0))?;
        Ok(((8 * n) as f64, time))
    };
    let of_memory = (2 * caches.l3).clamp(64 << 20, 256 << 20);
    costs.first_byte_ns = slope(copied(caches.l1 / 8)?, copied(caches.l1 * 3 / 4)?);
    costs.near_byte_ns = slope(copied(2 * caches.l1)?, copied(caches.l2 * 3 / 4)?);
    let within = (caches.l3 / 4).clamp(3 * caches.l2, 16 << 20);
    costs.third_byte_ns = slope(copied(2 * caches.l2)?, copied(within)?);
    costs.far_byte_ns = slope(copied(of_memory / 2)?, copied(of_memory)?);

    // Elements that lie apart: a matrix that is turned, less what it takes to copy it.
    let side = 256;
    let (turned, _) = shortest(&apart, |g| g.output("y", g.input("x", F32, [side, side]).t() * 2.0))?;
    let (_, straight) = copied(8 * side * side)?;
    costs.strided_ns = ((turned - straight) / (side * side) as f64).max(costs.op_ns);

    // A small step behind one that touches more than the second-level cache holds.
    let program = apart.compile(&build(|g| {
        let (x, mut y) = (g.input("x", F32, [caches.l2 / 2]), g.input("y", F32, [4]));
        for k in 0..4 {
            let sum = (x * (2.0 + f64::from(k)) + y.sum()).sum();
            y = (y + sum).relu();
        }
        g.output("y", y);
    })?)?;
    let plan = program.plan();
    let times = best(&program, RUNS)?;
    let small = plan.steps.iter().zip(&times).filter(|(step, _)| plan.step_bytes(step) < 1 << 10);
    let (sum, count) = small.fold((0.0, 0.0), |(sum, count), (_, time)| (sum + time, count + 1.0));
    costs.cold_ns = (sum / f64::max(count, 1.0) - costs.step_ns).max(1.0);

    // What is done element by element: an order.
    let n = 1 << 14;
    let program = fused.compile(&build(|g| g.output("y", g.input("x", F32, [n]).sort(0)))?)?;
    let flop: f64 = (0..program.plan().steps.len()).map(|step| program.work(step).flop).sum();
    costs.single_ns = best(&program, RUNS)?.iter().sum::<f64>() / flop;

    // A tile: many products of eight by eight by eight.
    let many = 512;
    let (time, _) = shortest(&fused, |g| {
        g.output("y", g.input("a", F32, [many, 8, 8]).matmul(g.input("b", F32, [many, 8, 8])));
    })?;
    costs.tile_ns = (time / many as f64 - f64::from(8 * 8 * 8 * 4) * costs.fma_ns).max(1.0);

    // A level is never dearer than the next one; noise must not say so.
    costs.near_byte_ns = costs.near_byte_ns.max(costs.first_byte_ns);
    costs.third_byte_ns = costs.third_byte_ns.max(costs.near_byte_ns);
    costs.far_byte_ns = costs.far_byte_ns.max(costs.third_byte_ns);
    here.with_costs(costs).map_err(CalibrationError::Target)
}

/// The peaks of a target on one thread, in a line or two.
pub fn peaks(target: &Target) -> String {
    let Costs { fma_ns, op_ns, first_byte_ns, near_byte_ns, third_byte_ns, far_byte_ns, .. } = *target.costs();
    let [first, near, third, far] = [first_byte_ns, near_byte_ns, third_byte_ns, far_byte_ns].map(|ns| 1.0 / ns);
    format!(
        "f32: {:.1} GFLOP/s in products, {:.1} G operations/s in kernels\n\
         bytes: {first:.1} GB/s in the first-level cache, {near:.1} in the second, {third:.1} in the third, {far:.1} in memory\n",
        0.5 / fma_ns,
        0.25 / op_ns
    )
}

/// A step that was predicted and measured, or all short ones of a kind and a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The program.
    pub program: String,
    /// The step in words.
    pub text: String,
    /// Predicted nanoseconds.
    pub predicted: f64,
    /// The best of twenty runs, in nanoseconds.
    pub measured: f64,
}

impl Compared {
    /// How many times too long or too short the prediction is, at least 1.
    pub fn factor(&self) -> f64 {
        let ratio = self.predicted / self.measured.max(1.0);
        ratio.max(1.0 / ratio)
    }
}

/// What a step is, in a word or two.
fn kind(step: &Step) -> String {
    match step {
        Step::Kernel(_) => "kernels".to_owned(),
        Step::Product { factors: Factors::Matrices { .. }, .. } => "products".to_owned(),
        Step::Product { .. } => "convolutions".to_owned(),
        Step::Op(op) => format!("steps of `{}`", op.op),
        Step::Loop(_) => "loops".to_owned(),
        Step::Copy { .. } => "copies".to_owned(),
        Step::Check { .. } => "checks".to_owned(),
    }
}

/// Every step of a program as it is predicted beside the best of twenty runs on one thread; steps that are both predicted and
/// measured below 2 µs are summed by kind.
///
/// # Errors
/// As [`measured`](crate::measured).
pub fn compared(name: &str, program: &Arc<Executable>) -> Result<Vec<Compared>, Diag> {
    let times = best(program, COMPARED_RUNS)?;
    let plan = program.plan();
    let mut rows = Vec::new();
    let mut short: BTreeMap<String, (f64, f64, usize)> = BTreeMap::new();
    for (s, (step, &measured)) in plan.steps.iter().zip(&times).enumerate() {
        let predicted = program.predicted_ns(s);
        if predicted < SHORT_NS && measured < SHORT_NS {
            let sum = short.entry(kind(step)).or_default();
            *sum = (sum.0 + predicted, sum.1 + measured, sum.2 + 1);
        } else {
            let text = format!("{s} {}", plan.step_text(step));
            rows.push(Compared { program: name.to_owned(), text, predicted, measured });
        }
    }
    rows.extend(short.into_iter().map(|(kind, (predicted, measured, n))| {
        let text = format!("{n} short {kind}");
        Compared { program: name.to_owned(), text, predicted, measured }
    }));
    Ok(rows)
}

/// The share of rows within 1.5 and 2.5 times what was measured, and those that are farther off.
pub fn summary(rows: &[Compared]) -> String {
    let mut text = String::new();
    for limit in [1.5, 2.5] {
        let within = rows.iter().filter(|row| row.factor() <= limit).count();
        let share = 100.0 * within as f64 / rows.len().max(1) as f64;
        let _ = writeln!(text, "{within} of {} within {limit} times: {share:.1} %", rows.len());
    }
    let mut off: Vec<&Compared> = rows.iter().filter(|row| row.factor() > 2.5).collect();
    off.sort_by(|a, b| b.factor().total_cmp(&a.factor()));
    if !off.is_empty() {
        let _ = writeln!(text, "farther off:\n{:>12} {:>12}", "predicted µs", "measured");
    }
    for row in off {
        let (predicted, measured) = (row.predicted * 1e-3, row.measured * 1e-3);
        let _ = writeln!(text, "{predicted:12.2} {measured:12.2} {}: {}", row.program, row.text);
    }
    text
}
