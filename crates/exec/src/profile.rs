//! What the steps of a plan take, measured as they run.
//!
//! The clock is read once after each step of the plan, so what is measured is what runs otherwise, and the times of the steps add
//! up to that of the run. Which thread worked when is noted by the pool, in the last few runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cotangent_graph::Diag;

use crate::compile::Executable;
use crate::input::{Inputs, StepInputs};
use crate::machine::Machine;
use crate::session::{ProgramId, Session};

/// Runs whose threads are noted.
const TRACED: usize = 5;

/// Times of something that ran several times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The middle one.
    pub median: Duration,
    /// The shortest.
    pub best: Duration,
}

impl Times {
    /// The figures of a list; of none they are zero.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |n: usize| times.get(n).copied().unwrap_or_default();
        Times { median: at(times.len() / 2), best: at(0) }
    }
}

/// Something that a thread did in one of the last runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The step of the plan.
    pub step: usize,
    /// The thread; 0 is the one that runs the program.
    pub thread: usize,
    /// It is a thread's share of a step that is divided; otherwise the whole step.
    pub is_part: bool,
    /// Since the first noted run began.
    pub start: Duration,
    /// Since the first noted run began.
    pub end: Duration,
}

/// What [`Session::profile`] measured.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Threads of the runtime.
    pub n_threads: usize,
    /// Runs that count.
    pub n_runs: usize,
    /// Whole runs, by the clock around them.
    pub wall: Times,
    /// For each step of the plan.
    pub steps: Vec<Times>,
    /// What the threads did in the last runs, in the order of the starts.
    pub spans: Vec<Span>,
}

impl Profile {
    /// The medians of all steps together.
    pub fn total(&self) -> Duration {
        self.steps.iter().map(|times| times.median).sum()
    }
}

/// One run: when it began, and when each step ended.
struct Run {
    start: Instant,
    ends: Vec<Instant>,
    end: Instant,
}

impl Run {
    /// Each step with its start and end.
    fn steps(&self) -> impl Iterator<Item = (Instant, Instant)> {
        let starts = std::iter::once(self.start).chain(self.ends.iter().copied());
        starts.zip(self.ends.iter().copied())
    }
}

impl Session {
    /// Runs a program `n` times on the same inputs and measures each step of its plan. These are steps like any other: they update
    /// parameters and states. More come first while the program still tries which cores and ways are faster.
    ///
    /// ```
    /// # use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
    /// # use cotangent_graph::{DType::F32, Init, build};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let graph = build(|g| g.output("y", g.param("w", F32, [64, 64], Init::ONES).matmul(g.param("v", F32, [64, 64], Init::ONES))))?;
    /// # let program = Compiler::new().compile(&graph)?;
    /// let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(1))?;
    /// let profile = session.profile(session.main(), (), 20)?;
    /// for (step, times) in profile.steps.iter().enumerate() {
    ///     let work = session.program().work(step);
    ///     println!("step {step}: {:?}, {} FLOP, {} bytes", times.median, work.flop, work.bytes);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Session::step`], and `E0308` if the program is of another session.
    #[track_caller]
    pub fn profile<'a>(&mut self, program: ProgramId, inputs: impl StepInputs<'a>, n: usize) -> Result<Profile, Diag> {
        let at = self.position(program)?;
        let machine = &mut self.programs[at];
        let executable = Arc::clone(machine.program());
        let mut inputs = Inputs::new(&executable, inputs)?;
        inputs.in_order(&executable)?;
        let n_steps = executable.plan.steps.len();
        let mut runs: Vec<Run> = Vec::with_capacity(n.min(1 << 16));
        while runs.len() < n {
            let counts = machine.is_settled();
            if counts && n - runs.len() == TRACED.min(n) {
                self.runtime.pool().record(true);
            }
            let mut ends = Vec::with_capacity(n_steps);
            let start = Instant::now();
            let mut observe = |_: &Machine, _: usize| {
                ends.push(Instant::now());
                Ok(())
            };
            let counters = self.store.counters(&executable)?;
            let done = machine.run(&inputs, counters, Some(&mut observe));
            let end = Instant::now();
            if let Err(diag) = done {
                self.runtime.pool().record(false);
                return Err(diag);
            }
            self.store.advance(&executable);
            if counts {
                runs.push(Run { start, ends, end });
            }
        }
        let parts = self.runtime.pool().record(false);
        let steps = (0..n_steps).map(|s| {
            let took = |run: &Run| run.ends[s] - if s == 0 { run.start } else { run.ends[s - 1] };
            Times::of(runs.iter().map(took).collect())
        });
        Ok(Profile {
            n_threads: self.runtime.n_threads(),
            n_runs: runs.len(),
            wall: Times::of(runs.iter().map(|run| run.end - run.start).collect()),
            steps: steps.collect(),
            spans: spans(&runs[runs.len().saturating_sub(TRACED)..], &parts),
        })
    }
}

/// Steps of the last runs, and the threads' shares of them.
fn spans(runs: &[Run], parts: &[cotangent_pool::Span]) -> Vec<Span> {
    let Some(first) = runs.first().map(|run| run.start) else { return Vec::new() };
    let mut spans = Vec::new();
    for run in runs {
        for (step, (start, end)) in run.steps().enumerate() {
            spans.push(Span { step, thread: 0, is_part: false, start: start - first, end: end - first });
            // A region ends before its step does.
            for part in parts.iter().filter(|part| start <= part.start && part.end <= end) {
                let (start, end) = (part.start - first, part.end - first);
                spans.push(Span { step, thread: part.thread, is_part: true, start, end });
            }
        }
    }
    spans.sort_by_key(|span| (span.start, span.is_part));
    spans
}

/// What a step of a plan does, whatever it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Operations on numbers: of products two for each multiply-add, of kernels those of their bodies.
    pub flop: f64,
    /// Bytes read and written, caches not counted.
    pub bytes: u64,
    /// The least nanoseconds that the target's peaks allow on one thread: the roofline.
    pub least_nanos: f64,
}

impl Executable {
    /// What a step of the plan does; nothing if it does not exist.
    pub fn work(&self, step: usize) -> Work {
        let Some(step) = self.plan.steps.get(step) else { return Work::default() };
        let (flop, bytes) = (self.plan.step_flop(step), self.plan.step_bytes(step));
        Work { flop, bytes, least_nanos: self.cost.least_time(&self.plan, step) }
    }
}
