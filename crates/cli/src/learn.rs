//! `train`, `search`, `predict`, `summary`, `lr-find`, `gradcheck`: from a configuration to a model, and what the model says.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use cotangent::data::npz::write_npz;
use cotangent::graph::{Counters, Env, TensorData};
use cotangent::passes::{GradCheck, PassError, Wrt, check_gradients};
use cotangent::prelude::{Runtime, Threads};
use cotangent::train::model::PROBABILITIES;
use cotangent::train::{Model, TrainError};
use cotangent_config::Run;
use cotangent_config::predict::{Rows, rows};

use crate::{Failure, print, tell};

/// What `train` takes.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// A training in TOML; docs/config.md has all keys
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Threads [default: all cores]; the bits of the model do not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
    /// Begin anew: remove the checkpoints of an earlier run
    #[arg(long)]
    fresh: bool,
}

/// What `predict` takes.
#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    /// A model that `train` wrote
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Rows: .csv for a model of a table; .png, .jpg or a folder of them for one of pictures; .json, .npz or IDX
    #[arg(value_name = "DATA")]
    data: PathBuf,
    /// Write all outputs to an archive, too
    #[arg(short, long, value_name = "FILE.npz")]
    output: Option<String>,
    /// Print all outputs as JSON, as a server answers
    #[arg(long)]
    json: bool,
    /// Threads [default: all cores]; the bits of the results do not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
}

/// What `summary` takes.
#[derive(Debug, Args)]
pub(crate) struct SummaryArgs {
    /// A training in TOML
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
}

/// What `lr-find` takes.
#[derive(Debug, Args)]
pub(crate) struct LrFindArgs {
    /// A training in TOML
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Threads [default: all cores]; the bits of the losses do not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
}

/// What `search` takes.
#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// A training in TOML with a table `search`
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Threads [default: all cores]; what is found does not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
    /// Begin anew: remove the trials of an earlier search
    #[arg(long)]
    fresh: bool,
}

/// What `gradcheck` takes.
#[derive(Debug, Args)]
pub(crate) struct GradcheckArgs {
    /// A training in TOML
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Examples of the batch
    #[arg(long, value_name = "N", default_value_t = 4)]
    rows: usize,
    /// Elements to check of each parameter
    #[arg(long, value_name = "N", default_value_t = 4)]
    elements: usize,
}

fn threads(of: Option<std::num::NonZeroUsize>) -> Threads {
    of.map_or(Threads::All, |n| Threads::Exactly(n.into()))
}

pub(crate) fn failed(error: TrainError) -> Failure {
    match error {
        TrainError::Compile(error) => error.into(),
        error => Failure::error(error),
    }
}

pub(crate) fn train(args: &TrainArgs) -> Result<(), Failure> {
    let run = Run::load(&args.config).map_err(Failure::error)?;
    if args.fresh {
        run.forget().map_err(Failure::error)?;
    }
    let outcome = run.train(threads(args.threads), |line| tell(&format!("{line}\n"))).map_err(failed)?;
    print(&format!("{outcome}\n"))
}

pub(crate) fn search(args: &SearchArgs) -> Result<(), Failure> {
    let run = Run::load(&args.config).map_err(Failure::error)?;
    if args.fresh {
        run.forget_search().map_err(Failure::error)?;
    }
    let found = run.search(threads(args.threads), |line| tell(&format!("{line}\n"))).map_err(failed)?;
    print(&format!("{found}\n"))
}

pub(crate) fn summary(args: &SummaryArgs) -> Result<(), Failure> {
    let run = Run::load(&args.config).map_err(Failure::error)?;
    print(&format!("{}\n", run.summary().map_err(failed)?))
}

pub(crate) fn lr_find(args: &LrFindArgs) -> Result<(), Failure> {
    let run = Run::load(&args.config).map_err(Failure::error)?;
    let test = run.lr_find(threads(args.threads)).map_err(failed)?;
    let mut text = format!("{:>10}  {:>10}\n", "rate", "loss");
    for (rate, loss) in test.rates.iter().zip(&test.losses) {
        let _ = writeln!(text, "{rate:10.2e}  {loss:10.4}");
    }
    print(&format!("{text}{test}\n"))
}

pub(crate) fn gradcheck(args: &GradcheckArgs) -> Result<(), Failure> {
    let run = Run::load(&args.config).map_err(Failure::error)?;
    let (graph, values) = run.step(args.rows.max(1)).map_err(failed)?;
    let env = Env { values, counters: Counters { seed: run.config.seed, step: 0 }, ..Env::default() };
    let options = GradCheck {
        wrt: Wrt::Params,
        max_elements_per_tensor: args.elements.max(1),
        env: Some(env),
        ..GradCheck::default()
    };
    let report = check_gradients(&graph, &options).map_err(|error| match error {
        PassError::Bug(bug) => Failure::found(bug, &graph),
        error => error.into(),
    })?;
    print(&report.to_string())?;
    if report.passed() { Ok(()) } else { Err(Failure::error("central differences do not confirm the gradient")) }
}

pub(crate) fn predict(args: &PredictArgs) -> Result<(), Failure> {
    let is_read = |output: &&str| {
        let output = Path::new(output).canonicalize().ok();
        output.is_some() && [&args.model, &args.data].into_iter().any(|read| read.canonicalize().ok() == output)
    };
    if let Some(output) = args.output.as_deref().filter(is_read) {
        return Err(Failure::error(format!("{output}: required a file to write to, got one that is read")));
    }
    let mut model = Model::load(&args.model, &Runtime::new(threads(args.threads))).map_err(failed)?;
    let Rows { table, names } = rows(&model, &args.data).map_err(failed)?;
    let outputs = model.predict_named(&table).map_err(failed)?;
    if args.json {
        print(&format!("{}\n", model.interface().to_json(&outputs).map_err(failed)?))?;
    } else {
        let lines = match model.labels() {
            [] => numbers(&names, outputs.iter().filter(|(name, _)| *name != PROBABILITIES)),
            labels => {
                let answers = model.interface().answers(&outputs).map_err(failed)?;
                let probabilities = outputs.get(PROBABILITIES).map(TensorData::to_f64).unwrap_or_default();
                let n = labels.len();
                let line = |(row, (name, at)): (usize, (&String, usize))| {
                    let share = probabilities.get(row * n + at).copied().unwrap_or(f64::NAN);
                    format!("{},{},{share:.6}\n", quoted(name), quoted(&labels[at]))
                };
                let lines: String = names.iter().zip(answers).enumerate().map(line).collect();
                format!("row,label,probability\n{lines}")
            }
        };
        print(&lines)?;
    }
    match &args.output {
        Some(path) => write_npz(path, &outputs).map_err(Failure::written),
        None => Ok(()),
    }
}

/// All numbers of every row, a line each.
fn numbers<'a>(names: &[String], outputs: impl Iterator<Item = (&'a String, &'a TensorData)>) -> String {
    let outputs: Vec<(&String, Vec<f64>, usize)> = outputs
        .map(|(name, tensor)| {
            let values = tensor.to_f64();
            let n = values.len().checked_div(names.len()).unwrap_or(0);
            (name, values, n)
        })
        .collect();
    let mut text = String::from("row");
    for (name, _, n) in &outputs {
        for at in 0..*n {
            let _ = if *n == 1 {
                write!(text, ",{}", quoted(name))
            } else {
                write!(text, ",{}", quoted(&format!("{name}[{at}]")))
            };
        }
    }
    text.push('\n');
    for (row, name) in names.iter().enumerate() {
        text += &quoted(name);
        for (_, values, n) in &outputs {
            for value in &values[row * n..(row + 1) * n] {
                // As f32 prints: the shortest text that reads back.
                let _ = write!(text, ",{}", *value as f32);
            }
        }
        text.push('\n');
    }
    text
}

/// A cell of a table of text.
fn quoted(text: &str) -> String {
    let is_plain = !text.contains([',', '"', '\n', '\r']);
    if is_plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}
