//! Training by a configuration, from start to the files that it leaves in its folder:
//!
//! | file | what it is |
//! |---|---|
//! | `model.safetensors` | the [model](cotangent_train::Model) |
//! | `report.html` | the page of [`report`](crate::report::page) |
//! | `history.csv`, `history.json`, `curves.svg` | a line for each epoch |
//! | `activations.svg` | the numbers before and after activation functions, before training |
//! | `checkpoints/` | what an interrupted training goes on from |
//! | `configuration.toml` | what the checkpoints began with |

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow::{Break, Continue};
use std::path::{Path, PathBuf};
use std::time::Instant;

use cotangent_data::files::{FolderLock, write_text};
use cotangent_data::{DataError, Examples};
use cotangent_exec::{Runtime, Seed, Threads};
use cotangent_graph::{Code, Diags, Graph, GraphBuilder, Loc, Tensor, TensorData, build};
use cotangent_nn::optim::Optimizer;
use cotangent_nn::{Minimize, Summary, Tuned, summary};
use cotangent_train::callbacks::{Context, Flow, Step, after_epoch};
use cotangent_train::model::{standardized, statistics};
use cotangent_train::{
    Callback, Checkpoints, CrossEntropy, EarlyStopping, Epoch, Evaluation, Export, History, MeanSquared, NonFinite,
    Objective, Options, Problem, RateRange, RateTest, ReduceOnPlateau, TrainError, Trainer, WeightedCrossEntropy,
};

use crate::examples::{Set, Sets};
use crate::net::{Net, augmented, optimizer};
use crate::sections::Config;
use crate::{read, report};

mod begun;
mod search;

pub use self::search::Found;

/// Of every so many steps of an epoch one also works out what layers do, for the diagnosis.
const STATISTICS: u64 = 50;

/// So many examples the histograms of activations are made of.
const LOOKED_AT: usize = 256;

/// A configuration with its text and its file.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it says.
    pub config: Config,
    text: String,
    path: PathBuf,
}

/// What a training came to.
#[derive(Debug)]
pub struct Outcome {
    /// The epochs.
    pub history: History,
    /// The name of the set that the model was judged by, and its figures.
    pub judged: (&'static str, Evaluation),
    /// What is unusual about the training, with advice.
    pub diagnosis: Option<String>,
    /// The file of the model.
    pub model: PathBuf,
    /// The file of the report.
    pub report: PathBuf,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (set, figures) = &self.judged;
        write!(f, "{set} loss {:.4}", figures.loss)?;
        if let Some(accuracy) = figures.accuracy {
            write!(f, ", {set} error {:.2} %", 100.0 * (1.0 - accuracy))?;
        }
        if let Some(diagnosis) = &self.diagnosis {
            write!(f, "\n{diagnosis}")?;
        }
        write!(f, "\nmodel:  {}\nreport: {}", self.model.display(), self.report.display())
    }
}

impl Run {
    /// Reads a configuration.
    ///
    /// # Errors
    /// `E0401` for everything that is wrong with it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Diags> {
        let path = path.as_ref();
        let text = crate::text_of(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let config = read::read(&text, &path.display().to_string(), folder)?;
        Ok(Run { config, text, path: path.to_owned() })
    }

    /// The folder that is written into.
    pub fn folder(&self) -> PathBuf {
        match &self.config.output.folder {
            Some(folder) => folder.clone(),
            None => self.path.with_file_name("runs").join(self.path.file_stem().unwrap_or_default()),
        }
    }

    /// Removes the checkpoints of an earlier run.
    ///
    /// # Errors
    /// [`DataError::Locked`] if a training is under way there; [`DataError::Io`] if they cannot be removed.
    pub fn forget(&self) -> Result<(), DataError> {
        let _lock = self.lock_if_there()?;
        removed(self.checkpoints())
    }

    /// The right to write to the folder, if there is one.
    fn lock_if_there(&self) -> Result<Option<FolderLock>, DataError> {
        let folder = self.folder();
        folder.is_dir().then(|| FolderLock::new(&folder)).transpose()
    }

    /// The place of a byte of the text.
    fn loc(&self, at: usize) -> Loc {
        read::place(&self.text, &self.path.display().to_string().into(), at)
    }

    fn checkpoints(&self) -> PathBuf {
        self.folder().join("checkpoints")
    }

    /// Trains, evaluates, and writes model and report. A training that was interrupted goes on where its last checkpoint was made;
    /// one that is done is only evaluated. `say` is told of every epoch.
    ///
    /// # Errors
    /// What is wrong with data, layers or files; another training that is under way in the folder; one that was interrupted there and
    /// began with another configuration or other data. What was trained before stays in the checkpoints.
    pub fn train(&self, threads: Threads, mut say: impl FnMut(&str)) -> Result<Outcome, TrainError> {
        let folder = self.folder();
        let sets = Sets::load(&self.config)?;
        let _lock = self.taken()?;
        self.begun(&sets)?;
        let runtime = Runtime::new(threads);
        let net = self.net(&sets);
        let mut trainer = self.trainer(&runtime, &sets, &net);
        self.begin(&mut trainer, &sets, &mut say)?;
        let picture = folder.join("activations.svg");
        if trainer.history().is_empty() {
            trainer.histograms(&sets.train, LOOKED_AT)?.save(&picture)?;
        }
        let start = Instant::now();
        let fitted = self.fit(&mut trainer, &sets, &mut say);
        let validation = sets.validation.as_ref().map(|set| set as &dyn Examples);
        let history = match fitted {
            Ok(history) => history,
            Err(error) => {
                // Why numbers ran away may show in what came before.
                if matches!(&error, TrainError::Step(diag) if diag.code == Code::NotFinite)
                    && let Ok(Some(diagnosis)) = diagnosed(&mut trainer, &sets, validation)
                {
                    say(&diagnosis);
                }
                return Err(error);
            }
        };
        let diagnosis = diagnosed(&mut trainer, &sets, validation)?;
        let seconds = start.elapsed().as_secs_f64();
        let (name, judge) = sets.judge();
        let evaluation = trainer.evaluate(judge)?;

        let mut export = Export::new(&net, &sets.train).labels(sets.labels.iter().map(String::as_str));
        export = export.form(sets.form.clone()).note("configuration", &self.text);
        let model = export.model(&runtime, trainer.weights()?)?;
        history.write(&folder)?;
        let path = folder.join("model.safetensors");
        model.save(&path)?;
        let outputs = trainer.predict(judge.features())?;
        let activations = trainer.histograms(&sets.train, LOOKED_AT)?;
        let about = report::About {
            title: &self.path.display().to_string(),
            configuration: &self.text,
            history: trainer.history(),
            set: name,
            evaluation: &evaluation,
            seconds,
            n_threads: runtime.n_threads(),
            summary: &self.summary_of(&sets)?.to_string(),
            diagnosis: diagnosis.as_deref(),
            activations: &activations,
        };
        let page = folder.join("report.html");
        write_text(&page, &report::page(&about, judge, &sets, outputs.view(), &model.weights()?)?)?;
        Ok(Outcome { history, judged: (name, evaluation), diagnosis, model: path, report: page })
    }

    /// Goes back to the last checkpoint, if there is one.
    fn begin<M: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>>(
        &self,
        trainer: &mut Training<'_, M>,
        sets: &Sets,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), TrainError> {
        if let Some(standardizer) = &sets.standardizer {
            trainer.load_weights(&statistics("x", standardizer), &sets.train)?;
        }
        if let Some(resumed) = trainer.resume()? {
            say(&format!("going on after epoch {}, step {}", resumed.epochs, resumed.step));
            for (path, error) in &resumed.damaged {
                say(&format!("passed over {}: {error}", path.display()));
            }
        }
        Ok(())
    }

    /// Trains to the end.
    fn fit<M: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>>(
        &self,
        trainer: &mut Training<'_, M>,
        sets: &Sets,
        say: &mut dyn FnMut(&str),
    ) -> Result<History, TrainError> {
        let validation = sets.validation.as_ref().map(|set| set as &dyn Examples);
        let callbacks = Callbacks::of(&self.config, say);
        match self.config.augmentation.is_empty() {
            true => trainer.fit_with(&sets.train, validation, callbacks),
            false => trainer.fit_with(&augmented(&self.config, &sets.train)?, validation, callbacks),
        }
    }

    /// The learning-rate range test (see [`Trainer::lr_find`]). Nothing is written.
    ///
    /// # Errors
    /// What is wrong with data or layers.
    pub fn lr_find(&self, threads: Threads) -> Result<RateTest, TrainError> {
        let sets = Sets::load(&self.config)?;
        let net = self.net(&sets);
        let mut trainer = self.trainer(&Runtime::new(threads), &sets, &net);
        if let Some(standardizer) = &sets.standardizer {
            trainer.load_weights(&statistics("x", standardizer), &sets.train)?;
        }
        trainer.lr_find(&sets.train, RateRange::default())
    }

    /// The layers with shapes, parameters and operations, for one example.
    ///
    /// # Errors
    /// What is wrong with data or layers.
    pub fn summary(&self) -> Result<Summary, TrainError> {
        self.summary_of(&Sets::load(&self.config)?)
    }

    fn summary_of(&self, sets: &Sets) -> Result<Summary, TrainError> {
        let net = self.net(sets);
        let shape: Vec<usize> = [1].into_iter().chain(sets.train.features().shape()[1..].iter().copied()).collect();
        let graph = build(|g| {
            g.set_training(false);
            g.output("outputs", net(g, g.input("x", cotangent_graph::DType::F32, &shape[..])));
        })?;
        Ok(summary(&graph))
    }

    /// The graph of a training step on at most so many rows, and values for its inputs and for what features are normalized by.
    ///
    /// # Errors
    /// As [`Run::summary`].
    pub fn step(&self, most_rows: usize) -> Result<(Graph, HashMap<String, TensorData>), TrainError> {
        let sets = Sets::load(&self.config)?;
        let net = self.net(&sets);
        let rows = self.config.training.batch_size.min(sets.train.len()).min(most_rows);
        let mut batch = Vec::new();
        let places: Vec<usize> = (0..rows).collect();
        sets.train.gather(0, &places, &mut batch)?;
        let fields = sets.train.fields();
        let optimizer = self.optimizer(&sets);
        let graph = build(|g| {
            let shape = |at: usize| [rows].into_iter().chain(fields[at].shape.iter().copied()).collect::<Vec<_>>();
            let x = g.input("x", fields[0].dtype, &shape(0)[..]);
            let y = g.input("y", fields[1].dtype, &shape(1)[..]);
            let outputs = net(g, x);
            let loss = match sets.train {
                Set::Classes(_) => outputs.cross_entropy(y).mean(),
                Set::Numbers(_) => outputs.reshape(y.shape()).mse(y),
            };
            g.output("loss", loss);
            g.minimize(loss, &optimizer);
        })?;
        let mut values: HashMap<String, TensorData> =
            fields.iter().map(|field| field.name.clone()).zip(batch).collect();
        values.extend(sets.standardizer.iter().flat_map(|standardizer| statistics("x", standardizer)));
        Ok((graph, values))
    }

    fn net<'a>(&'a self, sets: &'a Sets) -> impl for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g> + 'a {
        let n_classes = matches!(sets.train, Set::Classes(_)).then_some(sets.labels.len());
        let net = Net::new(&self.config, n_classes);
        cotangent_nn::model(move |g, x| {
            let x = if sets.standardizer.is_some() { standardized(g, "x", x) } else { x };
            net.outputs(g, x)
        })
    }

    fn optimizer(&self, sets: &Sets) -> Tuned<Box<dyn Optimizer>> {
        optimizer(&self.config, sets.train.len().div_ceil(self.config.training.batch_size))
    }

    fn trainer<'a, M: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>>(
        &self,
        runtime: &Runtime,
        sets: &Sets,
        net: &'a M,
    ) -> Training<'a, M> {
        let of = &self.config.training;
        let smoothing = self.config.regularization.label_smoothing;
        let objective: Box<dyn Objective> = match sets.train {
            Set::Numbers(_) => Box::new(MeanSquared),
            Set::Classes(_) if smoothing > 0.0 => Box::new(WeightedCrossEntropy::new().smoothing(smoothing)),
            Set::Classes(_) => Box::new(CrossEntropy),
        };
        let mut checkpoints = Checkpoints::new(self.checkpoints());
        if let Some(steps) = self.config.output.checkpoint_steps {
            checkpoints = checkpoints.every_steps(u32::try_from(steps).unwrap_or(u32::MAX));
        }
        let options = Options {
            epochs: of.epochs,
            batch_size: of.batch_size,
            order: of.order.into(),
            non_finite: if of.skip_non_finite { NonFinite::Skip } else { NonFinite::Refuse },
            seed: Seed(self.config.seed),
            statistics: Some(STATISTICS),
            checkpoints: Some(checkpoints),
            ..Options::default()
        };
        Trainer::new(runtime, net, objective, self.optimizer(sets), options)
    }
}

/// The trainer of a configuration.
type Training<'a, M> = Trainer<&'a M, Box<dyn Objective>, Tuned<Box<dyn Optimizer>>>;

/// Removes a folder, if it is there.
fn removed(path: PathBuf) -> Result<(), DataError> {
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(DataError::Io { path, action: "remove", source })
        }
        _ => Ok(()),
    }
}

/// What is unusual about a training, in plain words; `None` if nothing is.
fn diagnosed<M: cotangent_train::Net, L: Objective, O: Optimizer>(
    trainer: &mut Trainer<M, L, O>,
    sets: &Sets,
    validation: Option<&dyn Examples>,
) -> Result<Option<String>, TrainError> {
    let mut diagnosis = trainer.diagnose(&sets.train, validation)?;
    if sets.standardizer.is_some() {
        // It looks at features as they are stored; the net normalizes them.
        diagnosis.findings.retain(|finding| finding.problem != Problem::UnnormalizedInputs);
    }
    let unnormalized =
        |finding: &&mut cotangent_train::diagnosis::Finding| finding.problem == Problem::UnnormalizedInputs;
    for finding in diagnosis.findings.iter_mut().filter(unnormalized) {
        finding.advice = "set `normalize = \"standardize\"` in `[preparation]`";
    }
    Ok((!diagnosis.findings.is_empty()).then(|| diagnosis.to_string()))
}

/// The callbacks that a configuration asks for.
struct Callbacks<'a>(Vec<Box<dyn Callback + 'a>>);

impl<'a> Callbacks<'a> {
    fn of(config: &Config, say: &'a mut dyn FnMut(&str)) -> Self {
        let mut all: Vec<Box<dyn Callback + 'a>> = vec![Box::new(after_epoch(|epoch, _| {
            say(&epoch.to_string());
            Ok(Continue(()))
        }))];
        if let Some(epochs) = config.training.plateau {
            all.push(Box::new(ReduceOnPlateau::new(0.5, epochs as u64)));
        }
        if let Some(epochs) = config.training.patience {
            all.push(Box::new(EarlyStopping::new(epochs as u64)));
        }
        Callbacks(all)
    }

    /// Any of them ends the run.
    fn each(&mut self, mut f: impl FnMut(&mut dyn Callback) -> Flow) -> Flow {
        let mut flow = Continue(());
        for callback in &mut self.0 {
            if f(&mut **callback)?.is_break() {
                flow = Break(());
            }
        }
        Ok(flow)
    }
}

impl Callback for Callbacks<'_> {
    fn on_start(&mut self, cx: &mut Context<'_>) -> Flow {
        self.each(|callback| callback.on_start(cx))
    }

    fn on_step(&mut self, step: &Step, cx: &mut Context<'_>) -> Flow {
        self.each(|callback| callback.on_step(step, cx))
    }

    fn on_epoch(&mut self, epoch: &Epoch, cx: &mut Context<'_>) -> Flow {
        self.each(|callback| callback.on_epoch(epoch, cx))
    }

    fn on_end(&mut self, cx: &mut Context<'_>) -> Result<(), TrainError> {
        self.0.iter_mut().try_for_each(|callback| callback.on_end(cx))
    }
}
