//! The trainer, the named workloads and the protocol that times them.
//!
//! Why it exists: examples, tests, the command line and comparisons with other systems should train and measure in one
//! and the same way.
//!
//! | module | what it gives |
//! |---|---|
//! | [`trainer`] | [`Trainer`]: epochs of mini-batches, validation, prediction; deterministic and resumable |
//! | [`callbacks`] | early stopping, smaller rates on a plateau, snapshots, or the user's own |
//! | [`checkpoint`] | a run in a file, checked and durable; the last few in a folder; weights of other models |
//! | [`history`] | a line for each epoch, as CSV, JSON and curves |
//! | [`Predictor`] | a model with weights, for any number of rows |
//! | [`mod@model`] | [`Model`]: a trained model in one file, to deploy |
//! | [`metrics`] | figures that a trainer works out: F1, AUC, perplexity, the user's own; confusion matrix, ensembles |
//! | [`named`] | tensors by name: fields of a batch, outputs of a model |
//! | [`objective`] | what is minimized: [`CrossEntropy`], [`BinaryCrossEntropy`], [`MeanSquared`], a function ([`loss()`]), or the user's own |
//! | [`diagnosis`] | what is wrong with a run, in plain words: data, layers, curves |
//! | [`statistics`] | what layers do while they are trained, worked out by the compiled program |
//! | [`search`] | hyper-parameters: random search, successive halving, grids; resumable |
//! | [`tensorboard`] | event files of a run for TensorBoard |
//! | [`plot`] | charts as SVG |
//! | [`workloads`] | named networks, expressions and products, in one table |
//! | [`bench`](mod@bench) | how a workload is timed, and the report |
//! | [`checksum`](mod@checksum) | a stable hash of weights, to compare runs bit for bit |
//!
//! Promises: everything follows from the seed, with the same bits for any number of threads, and no input panics: what
//! is wrong comes back as a [`TrainError`].
#![forbid(unsafe_code)]

pub mod bench;
pub mod callbacks;
pub mod checkpoint;
pub mod checksum;
pub mod diagnosis;
mod error;
pub mod history;
pub mod metrics;
pub mod model;
pub mod named;
pub mod objective;
pub mod plot;
mod predictor;
pub mod search;
pub mod statistics;
pub mod tensorboard;
pub mod trainer;
pub mod workloads;

pub use callbacks::{Callback, Context, EarlyStopping, Flow, ReduceOnPlateau, Snapshots, Step};
pub use checkpoint::{Checkpoint, Checkpoints, Load, Loaded};
pub use checksum::{checksum, checksum_all};
pub use diagnosis::{Diagnosis, Problem};
pub use error::TrainError;
pub use history::{Epoch, History};
pub use metrics::{Confusion, Ensemble, Metric};
pub use model::{Export, Model};
pub use named::{Named, Net};
pub use objective::{BinaryCrossEntropy, CrossEntropy, MeanSquared, Objective, WeightedCrossEntropy, loss};
pub use plot::Plot;
pub use predictor::Predictor;
pub use search::{Search, Space};
pub use statistics::{Histograms, Statistics};
pub use tensorboard::TensorBoard;
pub use trainer::{Evaluation, NonFinite, Options, Overfit, RateRange, RateTest, Resumed, Trainer};
