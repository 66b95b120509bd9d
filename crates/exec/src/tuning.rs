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
use cotangent_kernel::{Plan, Step};

use crate::compile::Executable;
use crate::products::{AnyEngine, ProductPlan};
use crate::ready::Ready;

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
    products: Products,
    /// Steps of the trial so far, and until it is over.
    n_steps: usize,
    n_trial: usize,
    n_threads: usize,
}

/// The products of a plan that have a choice of ways, and those in its loops.
#[derive(Debug)]
struct Products {
    /// For each step of the plan.
    own: Vec<Option<Tried>>,
    /// For each step of the plan, if it is a loop.
    inner: Vec<Option<Products>>,
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

/// How the products of a plan go in a step of the program.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    products: &'a mut Products,
    /// The number of the step, if ways are tried.
    tries: Option<usize>,
}

impl Turn<'_> {
    /// How the product of a step goes now, and when it starts if it is timed.
    pub(crate) fn engine(&self, step: usize) -> Option<(&AnyEngine, Option<Instant>)> {
        let tried = self.products.own[step].as_ref()?;
        let number = self.tries.map_or(tried.chosen, |turn| turn % tried.engines.len());
        Some((tried.engines.get(number)?, self.tries.map(|_| Instant::now())))
    }

    /// A product that was timed is over.
    pub(crate) fn took(&mut self, step: usize, start: Instant) {
        let took = start.elapsed();
        if let (Some(turn), Some(Tried { best, .. })) = (self.tries, &mut self.products.own[step]) {
            let at = turn % best.len();
            best[at] = best[at].min(took);
        }
    }

    /// How those of a loop go.
    pub(crate) fn inside(&mut self, step: usize) -> Option<Turn<'_>> {
        Some(Turn { products: self.products.inner[step].as_mut()?, tries: self.tries })
    }
}

impl Products {
    /// Those of a plan that runs so many times in a step; `matters` says which of them have a choice.
    fn of(
        plan: &Plan,
        ready: &Ready,
        times: usize,
        matters: &dyn Fn(&ProductPlan, usize) -> bool,
        n_threads: usize,
    ) -> Self {
        let own = ready.products.iter().map(|product| {
            let matters = |p: &&ProductPlan| matters(p, times);
            let engines = product.as_ref().filter(matters)?.ways(n_threads);
            let best = vec![Duration::MAX; engines.len()];
            (engines.len() > 1).then_some(Tried { best, engines, chosen: 0, is_found: false })
        });
        let inner = plan.steps.iter().zip(&ready.bodies).map(|(step, body)| match (step, body) {
            (Step::Loop(step), Some(body)) => {
                Some(Products::of(&step.body, body, times.saturating_mul(step.n), matters, n_threads))
            }
            _ => None,
        });
        Products { own: own.collect(), inner: inner.collect() }
    }

    /// All of them, those of loops too, with the plans and the steps that they are, from the outermost on.
    fn all<'a>(&'a self, plan: &'a Plan) -> Vec<(Vec<usize>, &'a Plan, &'a Tried)> {
        let mut all = Vec::new();
        for (k, step) in plan.steps.iter().enumerate() {
            all.extend(self.own.get(k).and_then(Option::as_ref).map(|tried| (vec![k], plan, tried)));
            if let (Step::Loop(step), Some(Some(inner))) = (step, self.inner.get(k)) {
                let inner = inner.all(&step.body).into_iter();
                all.extend(inner.map(|(path, plan, tried)| ([vec![k], path].concat(), plan, tried)));
            }
        }
        all
    }

    /// Goes through all of them.
    fn each(&mut self, f: &mut dyn FnMut(&mut Tried)) {
        self.own.iter_mut().flatten().for_each(&mut *f);
        self.inner.iter_mut().flatten().for_each(|inner| inner.each(f));
    }
}

impl Tuner {
    /// Before the first step.
    pub(crate) fn new(program: &Executable, tuning: Tuning, n_threads: usize) -> Self {
        let (plan, ready) = (&program.plan, &program.ready);
        let total: f64 = (0..plan.steps.len()).map(|step| ready.product_nanos(plan, step)).sum();
        let matters = |product: &ProductPlan, times| tuning != Tuning::Off && product.matters(times, total);
        let mut products = Products::of(plan, ready, 1, &matters, n_threads);
        if let Tuning::Found(ways) = &tuning {
            products.each(&mut |tried| {
                let way = ways.found.get(&key(program, n_threads, &tried.engines[0]));
                let is_it = |engine: &AnyEngine| way.is_some_and(|way| *way == engine.way());
                let known = tried.engines.iter().position(is_it);
                (tried.chosen, tried.is_found) = (known.unwrap_or(0), known.is_some());
            });
        }
        let mut most = 0;
        products.each(&mut |tried| most = most.max(tried.engines.len()));
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

    /// How products go in this step, in which other ways may be tried or not.
    pub(crate) fn turn(&mut self, may_try: bool) -> Turn<'_> {
        let tries = (may_try && !self.is_settled()).then_some(self.n_steps);
        Turn { products: &mut self.products, tries }
    }

    /// A step of the program is over.
    pub(crate) fn next_step(&mut self) {
        if self.is_settled() {
            return;
        }
        self.n_steps += 1;
        if self.is_settled() {
            self.products.each(&mut |tried| {
                let fastest = (1..tried.best.len()).min_by_key(|&k| tried.best[k]);
                let gains = |&k: &usize| tried.best[k].as_secs_f64() < GAIN * tried.best[0].as_secs_f64();
                (tried.chosen, tried.is_found) = (fastest.filter(gains).unwrap_or(0), true);
            });
        }
    }

    /// The ways that were found.
    pub(crate) fn found(&self, program: &Executable) -> Ways {
        let all = self.products.all(&program.plan).into_iter().map(|(.., tried)| tried);
        let way = |tried: &Tried| (key(program, self.n_threads, &tried.engines[0]), tried.engines[tried.chosen].way());
        Ways { found: all.filter(|tried| tried.is_found).map(way).collect() }
    }

    /// What was tried, and what came of it.
    pub(crate) fn explain(&self, program: &Executable) -> String {
        let mut text = String::new();
        for (path, plan, Tried { engines, best, chosen, .. }) in self.products.all(&program.plan) {
            let steps: Vec<String> = path.iter().map(|step| format!("step {step}, ")).collect();
            let step = path.last().map_or_else(String::new, |&step| plan.step_text(&plan.steps[step]));
            let _ = writeln!(text, "{}{step}", steps.join("loop, "));
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
