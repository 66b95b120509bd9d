//! Hyper-parameters: random search, successive halving, and grids to compare with.
//!
//! Why it exists: a grid of n points tries each hyper-parameter at a few values only, however many points it has, while of n random
//! points each has a value of its own (Bergstra and Bengio 2012). Most configurations show early that they are bad, so successive halving
//! (Jamieson and Talwalkar 2016) gives all of them a little, and the better ones more.
//!
//! Promises: a configuration is a function of (space, seed, number), so a search that was killed goes on from its file as if it
//! had not been; every result is on the device before the next trial begins; a score that is not finite is the worst.
//!
//! ```
//! use cotangent_train::search::{Search, Space};
//!
//! # fn main() -> Result<(), cotangent_train::TrainError> {
//! let space = Space::new().log_uniform("rate", 1e-4, 1.0)?.integer("width", 4, 64)?.choice("rule", ["sgd", "adam"])?;
//! let found = Search::random(space, 20, 1).run(|configuration, _budget| {
//!     // Here a model is trained; less is better.
//!     let (rate, width) = (configuration.number("rate")?, configuration.integer("width")?);
//!     Ok((rate.log10() + 2.0).powi(2) + (width as f64 - 30.0).abs() / 30.0)
//! })?;
//! let best = found.best().ok_or_else(|| cotangent_train::TrainError::from(found.none()))?;
//! assert!(best.score < 1.0, "{best}");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use cotangent_data::DataError;
use cotangent_data::files::write_durably;
use cotangent_host::float::in_default;
use cotangent_scalar::philox::PhiloxRng;
use rand::RngExt;

use crate::TrainError;
use crate::checksum::Fnv;

/// Keeps the search's random streams apart from every other use of the same seed.
const SEARCH_STREAM: u64 = u64::from_be_bytes(*b"search\0\0");

/// A search has so many first trials at most.
const MOST_TRIALS: u64 = 1 << 20;

/// The values that a hyper-parameter may have.
#[derive(Clone, Debug, PartialEq)]
enum Range {
    Uniform(f64, f64),
    LogUniform(f64, f64),
    Integer(i64, i64),
    Choice(Vec<String>),
}

/// A value of a hyper-parameter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A number.
    Number(f64),
    /// A whole number.
    Integer(i64),
    /// One of several names.
    Choice(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number:.4e}"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Choice(name) => f.write_str(name),
        }
    }
}

impl Range {
    /// The value at a share of the range, from 0 to 1.
    fn at(&self, share: f64) -> Value {
        let of = |n: u64| ((share * n as f64) as u64).min(n - 1);
        match self {
            Range::Uniform(from, to) => Value::Number(from + share * (to - from)),
            Range::LogUniform(from, to) => Value::Number(from * (to / from).powf(share)),
            Range::Integer(from, to) => Value::Integer(from + of(to.abs_diff(*from) + 1) as i64),
            Range::Choice(names) => Value::Choice(names[of(names.len() as u64) as usize].clone()),
        }
    }
}

/// Named ranges of values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Space {
    ranges: Vec<(String, Range)>,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (k, (name, range)) in self.ranges.iter().enumerate() {
            let start = if k == 0 { "" } else { ", " };
            match range {
                Range::Uniform(from, to) => write!(f, "{start}{name} uniform {from} to {to}"),
                Range::LogUniform(from, to) => write!(f, "{start}{name} log-uniform {from} to {to}"),
                Range::Integer(from, to) => write!(f, "{start}{name} integer {from} to {to}"),
                Range::Choice(names) => write!(f, "{start}{name} choice {}", names.join("|")),
            }?;
        }
        Ok(())
    }
}

impl Space {
    /// No hyper-parameter yet.
    pub fn new() -> Self {
        Space::default()
    }

    fn with(mut self, name: &str, range: Range, is_fine: bool, required: &str) -> Result<Self, TrainError> {
        let invalid = |required: &str, got: String| Err(TrainError::invalid("search space", required, got));
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.')) {
            return invalid("a name of letters, digits, `_`, `-` and `.`", format!("{name:?}"));
        }
        if self.ranges.iter().any(|(known, _)| known == name) {
            return invalid("a name that no hyper-parameter has yet", format!("`{name}` again"));
        }
        if !is_fine {
            return invalid(&format!("{required} for `{name}`"), format!("{range:?}"));
        }
        self.ranges.push((name.to_owned(), range));
        Ok(self)
    }

    /// Numbers between two, all equally likely.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] for a name that is there already, or numbers that are not finite and in order.
    pub fn uniform(self, name: &str, from: f64, to: f64) -> Result<Self, TrainError> {
        let is_fine = from < to && (to - from).is_finite();
        self.with(name, Range::Uniform(from, to), is_fine, "two finite numbers in order")
    }

    /// Positive numbers between two, each order of magnitude equally likely: for rates and penalties.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] for a name that is there already, or numbers that are not positive, finite and in order.
    pub fn log_uniform(self, name: &str, from: f64, to: f64) -> Result<Self, TrainError> {
        let is_fine = 0.0 < from && from < to && (to / from).is_finite();
        self.with(name, Range::LogUniform(from, to), is_fine, "two positive finite numbers in order")
    }

    /// Whole numbers from one to another, both included.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] for a name that is there already, or numbers that are not in order.
    pub fn integer(self, name: &str, from: i64, to: i64) -> Result<Self, TrainError> {
        let is_fine = from <= to && to.checked_sub(from).is_some_and(|n| n < 1 << 50);
        self.with(name, Range::Integer(from, to), is_fine, "two whole numbers in order, less than 2⁵⁰ apart")
    }

    /// One of several names.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] for a name that is there already, or no choice.
    pub fn choice<'a>(self, name: &str, names: impl IntoIterator<Item = &'a str>) -> Result<Self, TrainError> {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let is_fine = !names.is_empty() && names.iter().all(|name| !name.contains(['\n', ',', '|']));
        self.with(name, Range::Choice(names), is_fine, "at least one name, without commas and lines")
    }

    fn values(&self, mut share: impl FnMut(usize) -> f64) -> Configuration {
        let value = |(at, (name, range)): (usize, &(String, Range))| (name.clone(), range.at(share(at)));
        Configuration { values: self.ranges.iter().enumerate().map(value).collect() }
    }

    /// The random configuration of a number.
    pub fn draw(&self, seed: u64, number: u64) -> Configuration {
        let mut rng = PhiloxRng::new(seed, SEARCH_STREAM.wrapping_add(number));
        in_default(|| self.values(|_| rng.random::<f64>()))
    }
}

/// A value for each hyper-parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    values: Vec<(String, Value)>,
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(&values.join(" "))
    }
}

impl Configuration {
    /// The values, in the order of the space.
    pub fn values(&self) -> &[(String, Value)] {
        &self.values
    }

    fn get(&self, name: &str, kind: &str) -> Result<&Value, TrainError> {
        let value = self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        value.ok_or_else(|| TrainError::invalid("configuration", format!("{kind} `{name}`"), format!("{self}")))
    }

    /// A number; a whole one, too.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if there is none of this name.
    pub fn number(&self, name: &str) -> Result<f64, TrainError> {
        match self.get(name, "a number")? {
            Value::Number(number) => Ok(*number),
            Value::Integer(number) => Ok(*number as f64),
            Value::Choice(choice) => Err(TrainError::invalid(format!("`{name}`"), "a number", choice)),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// As [`Configuration::number`].
    pub fn integer(&self, name: &str) -> Result<i64, TrainError> {
        match self.get(name, "a whole number")? {
            Value::Integer(number) => Ok(*number),
            other => Err(TrainError::invalid(format!("`{name}`"), "a whole number", other)),
        }
    }

    /// One of several names.
    ///
    /// # Errors
    /// As [`Configuration::number`].
    pub fn choice(&self, name: &str) -> Result<&str, TrainError> {
        match self.get(name, "a choice")? {
            Value::Choice(choice) => Ok(choice),
            other => Err(TrainError::invalid(format!("`{name}`"), "a choice", other)),
        }
    }
}

/// A configuration that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Its number among all configurations of the search.
    pub number: u64,
    /// What it was given: epochs, steps, examples, as the caller means it.
    pub budget: u64,
    /// What came of it; less is better.
    pub score: f64,
    /// Its values.
    pub configuration: Configuration,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} with {} (number {}, budget {})", self.score, self.configuration, self.number, self.budget)
    }
}

impl Trial {
    /// Of trials of one budget the better first: not finite last, of equal ones the lower number first.
    fn key(&self) -> (bool, f64) {
        (!self.score.is_finite(), self.score)
    }
}

fn sort(trials: &mut [&Trial]) {
    trials.sort_by(|a, b| {
        let ((a_bad, a_score), (b_bad, b_score)) = (a.key(), b.key());
        a_bad.cmp(&b_bad).then(a_score.total_cmp(&b_score)).then(a.number.cmp(&b.number))
    });
}

/// All that was tried, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trials(pub Vec<Trial>);

impl Trials {
    /// The best of those that had the largest budget, if its score is finite.
    pub fn best(&self) -> Option<&Trial> {
        let most = self.0.iter().map(|trial| trial.budget).max()?;
        let mut last: Vec<&Trial> = self.0.iter().filter(|trial| trial.budget == most).collect();
        sort(&mut last);
        last.first().copied().filter(|trial| trial.score.is_finite())
    }

    /// What was given in all.
    pub fn cost(&self) -> u64 {
        self.0.iter().fold(0, |sum, trial| sum.saturating_add(trial.budget))
    }

    /// The error that none has a finite score.
    pub fn none(&self) -> DataError {
        DataError::Mismatch {
            of: "search".to_owned(),
            required: "a trial with a finite score".to_owned(),
            got: format!("none of {}", self.0.len()),
            fix: "take other ranges".to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Plan {
    Random { n: u64, budget: u64 },
    Grid { points: u64, budget: u64 },
    Halving { n: u64, first: u64, keep: u64 },
}

/// A search over a space. See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    space: Space,
    plan: Plan,
    seed: u64,
    file: Option<PathBuf>,
    depends_on: Option<String>,
}

impl Search {
    fn of(space: Space, plan: Plan) -> Self {
        Search { space, plan, seed: 0, file: None, depends_on: None }
    }

    /// So many random configurations, each with a budget.
    pub fn random(space: Space, n: u64, budget: u64) -> Self {
        Search::of(space, Plan::Random { n, budget })
    }

    /// All combinations of so many values of each hyper-parameter, in the middle of equal parts of its range, each with a budget.
    pub fn grid(space: Space, points: u64, budget: u64) -> Self {
        Search::of(space, Plan::Grid { points, budget })
    }

    /// So many random configurations with a budget of `first` each; then one of every `keep` with `keep` times the budget, the
    /// best, and so on until one is left.
    pub fn halving(space: Space, n: u64, first: u64, keep: u64) -> Self {
        Search::of(space, Plan::Halving { n, first, keep })
    }

    /// Which configurations are random ones; 0 at first.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Writes every result to a file, and begins with what is there.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.file = Some(path.as_ref().to_owned());
        self
    }

    /// What results depend on beside a configuration, such as the rest of the training's settings: a file of other such is refused.
    pub fn depends_on(mut self, text: &str) -> Self {
        let mut hash = Fnv::new();
        hash.write(text.as_bytes());
        self.depends_on = Some(hash.to_string());
        self
    }

    fn configuration(&self, number: u64) -> Configuration {
        match self.plan {
            Plan::Grid { points, .. } => {
                let mut rest = number;
                in_default(|| {
                    self.space.values(|_| {
                        let at = rest % points;
                        rest /= points;
                        (at as f64 + 0.5) / points as f64
                    })
                })
            }
            _ => self.space.draw(self.seed, number),
        }
    }

    /// Tries what is not in the file yet: `score` gets a configuration and its budget, and less is better. A configuration is begun anew
    /// for each budget.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] for a space without hyper-parameters or a plan of nothing, or a file of another search; what `score`
    /// says, after which another call goes on; a file that cannot be read or written.
    pub fn run(
        &self,
        mut score: impl FnMut(&Configuration, u64) -> Result<f64, TrainError>,
    ) -> Result<Trials, TrainError> {
        let invalid =
            |required: &str| Err(TrainError::invalid("search", required, format!("{:?} of {}", self.plan, self.space)));
        if self.space.ranges.is_empty() {
            return invalid("a space with at least one hyper-parameter");
        }
        let first = match self.plan {
            Plan::Random { n, .. } | Plan::Halving { n, .. } if n > MOST_TRIALS => {
                return invalid("at most 1,048,576 trials");
            }
            Plan::Random { n, budget } if n > 0 && budget > 0 => n,
            Plan::Grid { points, budget } if points > 0 && budget > 0 => {
                let n = points.checked_pow(self.space.ranges.len() as u32).filter(|n| *n <= MOST_TRIALS);
                match n {
                    Some(n) => n,
                    None => return invalid("a grid of at most 1,048,576 points"),
                }
            }
            Plan::Halving { n, first, keep } if n > 0 && first > 0 && keep > 1 => n,
            _ => {
                return invalid(
                    "at least one trial and a budget of at least 1, and for halving one of at least 2 that is kept",
                );
            }
        };
        let known = self.read()?;
        let mut trials = Trials::default();
        let mut rung: Vec<u64> = (0..first).collect();
        let mut budget = match self.plan {
            Plan::Random { budget, .. } | Plan::Grid { budget, .. } => budget,
            Plan::Halving { first, .. } => first,
        };
        loop {
            let from = trials.0.len();
            for &number in &rung {
                let configuration = self.configuration(number);
                let found = known.iter().find(|(n, b, _)| (*n, *b) == (number, budget));
                let value = match found {
                    Some(&(.., value)) => value,
                    None => score(&configuration, budget)?,
                };
                trials.0.push(Trial { number, budget, score: value, configuration });
                if found.is_none() {
                    self.write(&trials)?;
                }
            }
            let Plan::Halving { keep, .. } = self.plan else { break };
            if rung.len() == 1 {
                break;
            }
            let mut best: Vec<&Trial> = trials.0[from..].iter().collect();
            sort(&mut best);
            rung = best.iter().take((rung.len() / keep as usize).max(1)).map(|trial| trial.number).collect();
            budget = budget.saturating_mul(keep);
        }
        Ok(trials)
    }

    /// What a file of this search begins with.
    fn header(&self) -> String {
        let rest = self.depends_on.as_ref().map(|rest| format!(", on {rest}")).unwrap_or_default();
        format!("cotangent search 1\nspace: {}\nplan: {:?}, seed {}{rest}\n", self.space, self.plan, self.seed)
    }

    fn read(&self) -> Result<Vec<(u64, u64, f64)>, TrainError> {
        let Some(path) = self.file.as_ref().filter(|path| path.exists()) else { return Ok(Vec::new()) };
        let text = cotangent_data::text::read_text(path)?;
        let header = self.header();
        let of = || path.display().to_string();
        let Some(lines) = text.strip_prefix(&header) else {
            let start: Vec<&str> = text.lines().take(3).collect();
            let required =
                format!("the file of this search, with {}", header.lines().skip(1).collect::<Vec<_>>().join(", "));
            return Err(TrainError::invalid(of(), required, start.join(", ")));
        };
        let line = |(at, line): (usize, &str)| {
            let mut words = line.splitn(4, ' ');
            let mut word = || words.next().unwrap_or_default();
            let trial = match (word().parse(), word().parse(), word().parse(), word()) {
                // A line that was cut off or changed would have another configuration.
                (Ok(number), Ok(budget), Ok(score), values) if values == self.configuration(number).to_string() => {
                    Some((number, budget, score))
                }
                _ => None,
            };
            trial.ok_or_else(|| {
                let required = format!("number, budget, score and the configuration of that number in line {}", at + 4);
                TrainError::invalid(of(), required, format!("{line:?}; remove the line to try that one again"))
            })
        };
        lines.lines().enumerate().map(line).collect()
    }

    fn write(&self, trials: &Trials) -> Result<(), TrainError> {
        let Some(path) = &self.file else { return Ok(()) };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|source| DataError::Io {
                path: folder.to_owned(),
                action: "write",
                source,
            })?;
        }
        write_durably(path, |out| {
            out.write_all(self.header().as_bytes())?;
            trials.0.iter().try_for_each(|t| writeln!(out, "{} {} {} {}", t.number, t.budget, t.score, t.configuration))
        })?;
        Ok(())
    }
}
