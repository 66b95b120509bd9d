//! Searches over values of a configuration's keys.
//!
//! Promises: every trial is read, and its layers are put together, before the first is trained; a search that was killed goes on where
//! it was and ends as it would have; the test set chooses nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use cotangent_data::DataError;
use cotangent_data::files::write_text;
use cotangent_exec::{Runtime, Threads};
use cotangent_graph::{Code, Diag, Diags, Loc};
use cotangent_train::TrainError;
use cotangent_train::search::{Configuration, Search, Space, Trials, Value};
use toml::Spanned;

use super::{Run, removed};
use crate::change::{Change, changed};
use crate::examples::{Set, Sets};
use crate::read::read_changed;
use crate::schema::{Between, Placed};
use crate::sections::{self, Config, Measure, Method, Values};

/// How the file of the best configuration begins.
const BEST: &str = "# The best of";

/// The most trials of a search: all are read before the first is trained.
const MOST: usize = 10_000;

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// All that was tried, in order.
    pub trials: Trials,
    /// What trials were judged by.
    pub measure: Measure,
    /// The configuration of the best trial, for [`Run::load`].
    pub best: PathBuf,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measure = format!("validation {}", name_of(self.measure));
        let mut head = vec!["trial".to_owned(), "epochs".to_owned(), measure.clone()];
        let keys = self.trials.0.first().map(|trial| trial.configuration.values()).unwrap_or_default();
        head.extend(keys.iter().map(|(key, _)| key.clone()));
        let rows = self.trials.0.iter().map(|trial| {
            let mut cells = vec![trial.number.to_string(), trial.budget.to_string(), format!("{:.6}", trial.score)];
            cells.extend(trial.configuration.values().iter().map(|(_, value)| value.to_string()));
            cells
        });
        let table: Vec<Vec<String>> = [head].into_iter().chain(rows).collect();
        let width = |at: usize| table.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
        for row in &table {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  "))?;
        }
        if let Some(best) = self.trials.best() {
            writeln!(f, "best: trial {}, {measure} {:.6} after {} epochs", best.number, best.score, best.budget)?;
        }
        write!(f, "configuration: {}", self.best.display())
    }
}

fn name_of(measure: Measure) -> &'static str {
    match measure {
        Measure::Loss => "loss",
        Measure::Error => "error",
    }
}

impl Run {
    /// Tries values of the keys that the table `search` names, and writes the configuration of the best trial beside this one. Trials that
    /// an earlier call finished are not trained again. `say` is told of every epoch and every trial.
    ///
    /// # Errors
    /// `E0401` for a configuration without `search`, or values that are none for their keys, before anything is trained; what is wrong
    /// with data or files, such as a folder that somebody else writes to, or another file where the best configuration goes. What was tried before stays. A training whose loss is no number any more is no error but the worst score.
    pub fn search(&self, threads: Threads, mut say: impl FnMut(&str)) -> Result<Found, TrainError> {
        let Some(placed) = &self.config.search else {
            let text = "`search` is missing: it requires a table with `ranges`, the values of keys that are tried";
            return Err(Diag::new(Code::Config, text).at(self.loc(0)).into());
        };
        let of = &placed.value;
        if of.trials > MOST {
            let text = format!("`trials` of `search` requires at most {MOST}, got {}", of.trials);
            return Err(Diag::new(Code::Config, text).at(placed.at.clone()).into());
        }
        let best_path = self.path.with_extension("best.toml");
        if fs::read_to_string(&best_path).is_ok_and(|text| !text.starts_with(BEST)) {
            return Err(TrainError::Invalid {
                of: best_path.display().to_string(),
                required: "the result of an earlier search, or no file".to_owned(),
                got: "another file; move it elsewhere, for the best configuration is written there".to_owned(),
            });
        }
        let space = self.space(placed)?;
        let numbers = 0..of.trials as u64;
        let drawn: Vec<Configuration> = numbers.map(|number| space.draw(of.seed, number)).collect();
        let runs = self.trials(of, &drawn)?;
        // Data is read once, unless what is tried is which.
        let mut loaded = Loaded::default();
        for run in &runs {
            run.summary_of(loaded.sets(&run.config, placed)?)?;
        }
        let _lock = self.taken()?;

        let (trials, budget) = (of.trials as u64, of.budget as u64);
        let search = match of.method {
            Method::Random => Search::random(space, trials, budget),
            Method::Halving => Search::halving(space, trials, budget, of.keep as u64),
        };
        let search = search.seed(of.seed).file(self.searched().join("trials.txt"));
        let search = search.depends_on(&format!("{} {}", name_of(of.measure), self.without_search()?));
        let runtime = Runtime::new(threads);
        let trials = search.run(|configuration, budget| {
            let number = drawn.iter().position(|known| known == configuration).unwrap_or_default();
            let mut run = runs[number].clone();
            run.config.training.epochs = usize::try_from(budget).unwrap_or(usize::MAX);
            run.config.output.folder = Some(self.searched().join(format!("trial-{number}-{budget}")));
            say(&format!("trial {number}, {budget} epochs: {configuration}"));
            let score = run.score(loaded.sets(&run.config, placed)?, &runtime, of.measure, &mut say)?;
            say(&format!("trial {number}: validation {} {score:.6}", name_of(of.measure)));
            Ok(score)
        })?;
        let Some(best) = trials.best() else { return Err(trials.none().into()) };
        let changes = self.changes(of, &best.configuration);
        let text = changed(&self.text, &changes, "search").map_err(|error| self.invalid(error))?;
        let measure = name_of(of.measure);
        let head = format!(
            "{BEST} {} trials of {}: validation {measure} {:.6} after {} epochs, trial {}.\n",
            of.trials,
            self.path.file_name().unwrap_or_default().display(),
            best.score,
            best.budget,
            best.number
        );
        write_text(&best_path, &(head + &text))?;
        Ok(Found { measure: of.measure, best: best_path, trials })
    }

    /// Removes the trials of an earlier search.
    ///
    /// # Errors
    /// [`DataError::Locked`] if somebody writes to the folder; [`DataError::Io`] if they cannot be removed.
    pub fn forget_search(&self) -> Result<(), DataError> {
        let _lock = self.lock_if_there()?;
        removed(self.searched())
    }

    fn invalid(&self, error: String) -> TrainError {
        Diag::new(Code::Config, error).at(self.loc(0)).into()
    }

    fn searched(&self) -> PathBuf {
        self.folder().join("search")
    }

    /// The configuration as all trials share it, without comments.
    fn without_search(&self) -> Result<String, TrainError> {
        let mut table: toml_edit::DocumentMut =
            self.text.parse().map_err(|error: toml_edit::TomlError| self.invalid(error.message().to_owned()))?;
        table.remove("search");
        Ok(table.to_string().lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n"))
    }

    fn space(&self, of: &Placed<sections::Search>) -> Result<Space, TrainError> {
        let refuse = |at: Loc, text: String| Err(TrainError::from(Diag::new(Code::Config, text).at(at)));
        let mut space = Space::new();
        if of.value.ranges.0.is_empty() {
            return refuse(of.at.clone(), "`ranges` of `search` requires at least one key, got none".to_owned());
        }
        for (key, values) in &of.value.ranges.0 {
            let at = self.loc(key.span().start);
            let key = key.get_ref().as_str();
            let own = ["output", "search"].iter().find(|own| key.split('.').next() == Some(own));
            if own.is_some() || key == "training.epochs" {
                let text = format!(
                    "`{key}` is none to search over: trials have folders, and epochs of the budget, of their own"
                );
                return refuse(at, text);
            }
            let with = match values.get_ref() {
                Values::Uniform(Between(from, to)) => space.uniform(key, *from, *to),
                Values::Log(Between(from, to)) => space.log_uniform(key, *from, *to),
                Values::Integer(Between(from, to)) => space.integer(key, *from, *to),
                Values::Choice(of) => space.choice(key, of.iter().map(|value| value.get_ref().0.as_str())),
            };
            space = match with {
                Ok(space) => space,
                Err(error) => return refuse(at, error.to_string()),
            };
        }
        Ok(space)
    }

    /// The runs of trials; what is wrong with their values is told at the ranges, once for each place.
    fn trials(&self, of: &sections::Search, drawn: &[Configuration]) -> Result<Vec<Run>, Diags> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let (mut runs, mut problems, mut places) = (Vec::new(), Vec::new(), BTreeSet::new());
        for configuration in drawn {
            let changes = self.changes(of, configuration);
            match read_changed::<Config>(&self.text, &self.path.display().to_string(), folder, &changes) {
                Ok(config) => runs.push(Run { config, text: self.text.clone(), path: self.path.clone() }),
                Err(diags) => problems.extend(diags.0.into_iter().filter(|diag| places.insert(diag.at.to_string()))),
            }
        }
        if problems.is_empty() { Ok(runs) } else { Err(Diags(problems)) }
    }

    fn changes(&self, of: &sections::Search, configuration: &Configuration) -> Vec<Change> {
        let mut changes = Vec::new();
        for ((key, values), (_, value)) in of.ranges.0.iter().zip(configuration.values()) {
            let value = toml(value);
            let own = match values.get_ref() {
                Values::Choice(of) => of.iter().find(|choice| choice.get_ref().0 == value).map(Spanned::span),
                _ => None,
            };
            let value_at = own.unwrap_or_else(|| values.span());
            changes.push(Change { key: key.get_ref().clone(), key_at: key.span(), value, value_at });
        }
        changes
    }

    /// Trains a trial and judges it. Its checkpoints last as long as it does.
    fn score(
        &self,
        sets: &Sets,
        runtime: &Runtime,
        measure: Measure,
        say: &mut dyn FnMut(&str),
    ) -> Result<f64, TrainError> {
        let net = self.net(sets);
        let mut trainer = self.trainer(runtime, sets, &net);
        self.begin(&mut trainer, sets, say)?;
        let score = match self.fit(&mut trainer, sets, say) {
            Ok(_) => {
                let evaluation = trainer.evaluate(sets.validation.as_ref().unwrap_or(&sets.train))?;
                match measure {
                    Measure::Loss => evaluation.loss,
                    Measure::Error => evaluation.accuracy.map_or(f64::NAN, |accuracy| 1.0 - accuracy),
                }
            }
            Err(TrainError::Step(diag)) if diag.code == Code::NotFinite => f64::INFINITY,
            Err(error) => return Err(error),
        };
        removed(self.folder())?;
        Ok(score)
    }
}

/// The data of the last trial, which is most often that of the next.
#[derive(Default)]
struct Loaded(Option<(Config, Sets)>);

impl Loaded {
    fn sets(&mut self, config: &Config, of: &Placed<sections::Search>) -> Result<&Sets, TrainError> {
        let parts = |config: &Config| (config.data.value.clone(), config.preparation.clone(), config.seed);
        let known = self.0.take().filter(|(known, _)| parts(known) == parts(config));
        let sets = match known {
            Some((_, sets)) => sets,
            None => Sets::load(config)?,
        };
        let wrong = |text: &str| Err(TrainError::from(Diag::new(Code::Config, text).at(of.at.clone())));
        if sets.validation.is_none() || config.preparation.validate_on_test {
            return wrong(
                "`search` requires a validation set that is not the test set: `preparation.validation` above 0, and \
                 `validate_on_test` off",
            );
        }
        if of.value.measure == Measure::Error && matches!(sets.train, Set::Numbers(_)) {
            return wrong("`measure` of `search` requires \"loss\" where numbers are predicted, got \"error\"");
        }
        Ok(&self.0.insert((config.clone(), sets)).1)
    }
}

fn toml(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("{number:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Choice(text) => text.clone(),
        other => other.to_string(),
    }
}
