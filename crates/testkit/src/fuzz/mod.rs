//! The modes of the fuzzer, and what they share: the loop over cases, panics made into failures, and reports.
//!
//! A case is a function of its number alone. A mode promises that a failure names its number and the command that replays
//! it; after [`MAX_FAILURES`] of them a mode ends, for more of the same help nobody.

pub mod checkpoint;
pub mod duals;
pub mod graphs;
pub mod idx;
pub mod kernels;
pub mod meter;
pub mod mutate;
pub mod npz;
pub mod records;
pub mod safetensors;
pub mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After so many failures a mode ends.
const MAX_FAILURES: usize = 10;
/// How often a long run says that it is alive.
const PROGRESS: Duration = Duration::from_secs(20);

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Random graphs: passes, plans, machine code, threads, text.
    Graphs,
    /// Gradients of random graphs at edges: dual numbers.
    Duals,
    /// Kernels of random graphs: machine code against the kernel interpreter.
    Kernels,
    /// Mutated graph texts.
    Text,
    /// Mutated NumPy archives.
    Npz,
    /// Mutated IDX files.
    Idx,
    /// Mutated safetensors files.
    SafeTensors,
    /// Damaged and forged checkpoints, and folders of them.
    Checkpoint,
    /// Graphs with ops from outside whose records are wrong.
    Records,
}

impl Mode {
    /// Every mode, in the order that `all` runs them.
    pub const ALL: [Mode; 9] = [
        Mode::Graphs,
        Mode::Duals,
        Mode::Kernels,
        Mode::Text,
        Mode::Npz,
        Mode::Idx,
        Mode::SafeTensors,
        Mode::Checkpoint,
        Mode::Records,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Graphs => "graphs",
            Mode::Duals => "duals",
            Mode::Kernels => "kernels",
            Mode::Text => "text",
            Mode::Npz => "npz",
            Mode::Idx => "idx",
            Mode::SafeTensors => "safetensors",
            Mode::Checkpoint => "checkpoint",
            Mode::Records => "records",
        }
    }

    /// The modes of a name.
    pub fn named(name: &str) -> Option<Vec<Mode>> {
        if name == "all" {
            return Some(Mode::ALL.to_vec());
        }
        Mode::ALL.into_iter().find(|mode| mode.name() == name).map(|mode| vec![mode])
    }
}

/// Which cases are run, and where failures go.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Cases per mode.
    pub count: u64,
    /// Seconds per mode.
    pub seconds: Option<f64>,
    /// The number of the first case.
    pub seed: u64,
    /// Where failing cases are written.
    pub folder: PathBuf,
    /// A graph to check in place of random ones.
    pub file: Option<PathBuf>,
}

/// What is wrong with a case. Shrinking keeps the kind.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which check failed.
    pub kind: &'static str,
    /// How.
    pub text: String,
}

impl Fault {
    /// A fault found by a check.
    pub fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Fault { kind, text: text.into() }
    }
}

/// Where the last panic was; the payload does not say.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Panics are failures of cases here: they are remembered and not printed.
pub fn keep_panics_quiet() {
    std::panic::set_hook(Box::new(|info| {
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
}

/// Runs a check; a panic is a fault.
pub fn guarded<T>(f: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
        let text = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(Fault::new("panic", text))
    })
}

/// The command that runs one case again.
pub fn replay(mode: Mode, rest: &str) -> String {
    format!("cargo run --release -p cotangent-testkit --bin fuzz -- {} {rest}", mode.name())
}

/// Runs a mode, prints what it found, and returns the number of failures.
pub fn run(mode: Mode, limits: &Limits) -> usize {
    match mode {
        Mode::Graphs => graphs::run(limits),
        Mode::Duals => duals::run(limits),
        Mode::Kernels => kernels::run(limits),
        Mode::Text => text::run(limits),
        Mode::Npz => npz::run(limits),
        Mode::Idx => idx::run(limits),
        Mode::SafeTensors => safetensors::run(limits),
        Mode::Checkpoint => checkpoint::run(limits),
        Mode::Records => records::run(limits),
    }
}

/// What a loop over cases came to.
pub struct Done {
    /// Cases that were run.
    pub n_cases: u64,
    /// Cases that failed.
    pub n_failures: usize,
    /// How long it took.
    pub time: Duration,
}

/// The loop over cases. `write` keeps the input of a case that failed, and says where and how it is replayed.
pub fn drive(
    mode: Mode,
    limits: &Limits,
    mut case: impl FnMut(u64) -> Result<(), Fault>,
    mut write: impl FnMut(u64, &Fault) -> String,
) -> Done {
    let start = Instant::now();
    let (mut n_cases, mut n_failures, mut said) = (0, 0, start);
    let in_time = || limits.seconds.is_none_or(|seconds| start.elapsed().as_secs_f64() < seconds);
    while n_cases < limits.count && n_failures < MAX_FAILURES && in_time() {
        let seed = limits.seed.wrapping_add(n_cases);
        meter::start_case(seed);
        n_cases += 1;
        if let Err(fault) = guarded(|| case(seed)) {
            n_failures += 1;
            println!("{}: case {seed} fails ({}):\n{}", mode.name(), fault.kind, fault.text);
            println!("  {}", write(seed, &fault));
        }
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            let seconds = start.elapsed().as_secs();
            eprintln!("{}: {n_cases} cases, {n_failures} failures, {seconds} s, next seed {}", mode.name(), seed + 1);
        }
    }
    Done { n_cases, n_failures, time: start.elapsed() }
}

impl Done {
    /// Prints the line that sums a run up.
    pub fn summary(&self, mode: Mode, limits: &Limits, counts: &str) {
        println!(
            "{}: {} cases from seed {}, {} failures, {counts}, {:.1} s, peak {} MiB resident",
            mode.name(),
            self.n_cases,
            limits.seed,
            self.n_failures,
            self.time.as_secs_f64(),
            meter::resident_peak() >> 10,
        );
    }
}

/// Writes a failing input beside others, and says where; or why not.
pub fn keep(limits: &Limits, name: &str, bytes: &[u8]) -> String {
    let path = limits.folder.join(name);
    match std::fs::create_dir_all(&limits.folder).and_then(|()| std::fs::write(&path, bytes)) {
        Ok(()) => format!("written to {}", path.display()),
        Err(error) => format!("{} could not be written: {error}", path.display()),
    }
}
