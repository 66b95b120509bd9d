//! Which ways products go: tried in a session's first steps, in place.
//!
//! What a way takes depends on what the steps before it left in the caches, on the machine and on what else runs there, so
//! predictions err. All legal ways give the same bits, so a session tries the promising ones, each some times, inside of steps that
//! count, and stays with the fastest. A program is not changed by that, nor does its memory depend on it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use cotangent_host::files::{Kind, write_text};

use crate::compile::Executable;
use crate::products::{AnyEngine, ProductPlan};

/// Times that every way is tried.
const ROUNDS: usize = 5;

/// Another way than the predicted one must take at most so much of its time: less is within what measurements differ by.
const GAIN: f64 = 0.97;

/// What a session does about the ways of its products. Bits do not depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tuning {
    /// Nothing is tried: products go as the compiler predicted, on all cores.
    Off,
    /// The first steps try what promises to be fast, and the session stays with the fastest. Small train steps try one core too.
    #[default]
    Trial,
    /// Products go as they were found before, and as predicted where they were not; one core is tried as with [`Tuning::Trial`].
    Found(Ways),
}

/// The ways that a session found for its products, by machine and product.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    found: BTreeMap<String, String>,
}

/// The first line of a file of ways.
const TITLE: &str = "cotangent ways 1";

impl Ways {
    /// How many products have a way.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// No product has a way.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Takes the ways of another session over; they replace those of the same products.
    pub fn extend(&mut self, other: Ways) {
        self.found.extend(other.found);
    }

    /// Writes them to a file, as a whole or not at all: a line for each product, then one for its way.
    ///
    /// # Errors
    /// What the system says, with the file's name.
    pub fn save(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let mut text = format!("{TITLE}\n");
        for (product, way) in &self.found {
            let _ = write!(text, "{product}\n  {way}\n");
        }
        write_text(path, &text).map_err(io::Error::other)
    }

    /// Reads them from a file that [`Ways::save`] wrote. A pipe or a device, which may never end, is refused.
    ///
    /// # Errors
    /// What the system says, and [`io::ErrorKind::InvalidData`] for what is no such file, with the line.
    pub fn load(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let kind = Kind::of(&std::fs::metadata(path).map_err(named)?);
        if kind != Kind::File {
            let text = format!("{}: required a file, got {kind}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let text = std::fs::read_to_string(path).map_err(named)?;
        let wrong = |line: usize, what: &str| {
            let text = format!("{}, line {line}: expected {what}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let mut lines = text.lines().enumerate();
        if lines.next().is_none_or(|(_, line)| line != TITLE) {
            return Err(wrong(1, &format!("`{TITLE}`, as `Ways::save` writes it")));
        }
        let mut found = BTreeMap::new();
        while let Some((number, product)) = lines.next() {
            let Some(way) = lines.next().and_then(|(_, line)| line.strip_prefix("  ")) else {
                return Err(wrong(number + 2, "the way of the product above, behind two blanks"));
            };
            found.insert(product.to_owned(), way.to_owned());
        }
        Ok(Ways { found })
    }
}

/// The ways of a program's products in a session.
#[derive(Debug)]
pub(crate) struct Tuner {
    tuning: Tuning,
    /// For each step of the plan, if it is a product with a choice.
    products: Vec<Option<Tried>>,
    /// Steps of the trial so far, and until it is over.
    n_steps: usize,
    n_trial: usize,
    n_threads: usize,
}

/// A product and its ways.
#[derive(Debug)]
struct Tried {
    /// The first is the predicted one.
    engines: Vec<AnyEngine>,
    best: Vec<Duration>,
    chosen: usize,
    /// It was chosen by a trial, here or before.
    is_found: bool,
}

impl Tuner {
    /// Before the first step.
    pub(crate) fn new(program: &Executable, tuning: Tuning, n_threads: usize) -> Self {
        let total: f64 = program.ready.products.iter().flatten().map(ProductPlan::nanos).sum();
        let mut products: Vec<Option<Tried>> = (program.ready.products.iter())
            .map(|product| {
                let engines = product.as_ref().filter(|p| tuning != Tuning::Off && p.matters(total))?.ways(n_threads);
                let best = vec![Duration::MAX; engines.len()];
                (engines.len() > 1).then_some(Tried { best, engines, chosen: 0, is_found: false })
            })
            .collect();
        if let Tuning::Found(ways) = &tuning {
            for tried in products.iter_mut().flatten() {
                let way = ways.found.get(&key(program, n_threads, &tried.engines[0]));
                let is_it = |engine: &AnyEngine| way.is_some_and(|way| *way == engine.way());
                let known = tried.engines.iter().position(is_it);
                (tried.chosen, tried.is_found) = (known.unwrap_or(0), known.is_some());
            }
        }
        let most = products.iter().flatten().map(|tried| tried.engines.len()).max().unwrap_or(0);
        let n_trial = if tuning == Tuning::Trial { ROUNDS * most } else { 0 };
        Tuner { tuning, products, n_steps: 0, n_trial, n_threads }
    }

    /// The session may try what is faster.
    pub(crate) fn tries(&self) -> bool {
        self.tuning != Tuning::Off
    }

    /// No step to come tries anything.
    pub(crate) fn is_settled(&self) -> bool {
        self.n_steps >= self.n_trial
    }

    /// How the product of a step goes now; `None` if as predicted.
    pub(crate) fn engine(&self, step: usize) -> Option<&AnyEngine> {
        let tried = self.products[step].as_ref()?;
        let number = if self.is_settled() { tried.chosen } else { self.n_steps % tried.engines.len() };
        tried.engines.get(number)
    }

    /// When a product starts that is timed.
    pub(crate) fn start(&self, step: usize) -> Option<Instant> {
        (!self.is_settled() && self.products[step].is_some()).then(Instant::now)
    }

    /// A product that was timed is over.
    pub(crate) fn took(&mut self, step: usize, start: Instant) {
        let (took, number) = (start.elapsed(), self.n_steps);
        if let Some(Tried { best, .. }) = &mut self.products[step] {
            let at = number % best.len();
            best[at] = best[at].min(took);
        }
    }

    /// A step of the program is over.
    pub(crate) fn next_step(&mut self) {
        if self.is_settled() {
            return;
        }
        self.n_steps += 1;
        if self.is_settled() {
            for tried in self.products.iter_mut().flatten() {
                let fastest = (1..tried.best.len()).min_by_key(|&k| tried.best[k]);
                let gains = |&k: &usize| tried.best[k].as_secs_f64() < GAIN * tried.best[0].as_secs_f64();
                (tried.chosen, tried.is_found) = (fastest.filter(gains).unwrap_or(0), true);
            }
        }
    }

    /// The ways that were found.
    pub(crate) fn found(&self, program: &Executable) -> Ways {
        let settled = self.products.iter().flatten().filter(|tried| tried.is_found);
        let found =
            settled.map(|tried| (key(program, self.n_threads, &tried.engines[0]), tried.engines[tried.chosen].way()));
        Ways { found: found.collect() }
    }

    /// What was tried, and what came of it.
    pub(crate) fn explain(&self, program: &Executable) -> String {
        let mut text = String::new();
        for (step, tried) in self.products.iter().enumerate() {
            let Some(Tried { engines, best, chosen, .. }) = tried else { continue };
            let _ = writeln!(text, "step {step}, {}", program.plan.step_text(&program.plan.steps[step]));
            for (number, (engine, time)) in engines.iter().zip(best).enumerate() {
                let mark = if self.is_settled() && number == *chosen { '*' } else { ' ' };
                let time = match *time {
                    Duration::MAX => "not tried".to_owned(),
                    time => format!("{:.1} µs", time.as_secs_f64() * 1e6),
                };
                let _ = writeln!(text, "  {mark} {time:>12}  {}", engine.way());
            }
        }
        text
    }
}

/// What a way is found for: the machine, the threads and the product.
fn key(program: &Executable, n_threads: usize, engine: &AnyEngine) -> String {
    let target = program.target().to_string().lines().collect::<Vec<_>>().join("; ");
    format!("{} | {n_threads} threads | {target}", engine.key())
}
