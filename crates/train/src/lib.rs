//! The trainer, the named workloads and the protocol that times them.
//!
//! Why it exists: examples, tests, the command line and comparisons with other systems should train and measure in one
//! and the same way.
//!
//! | module | what it gives |
//! |---|---|
//! | [`trainer`] | [`Trainer`]: epochs, shuffled mini-batches of any size, evaluation, history |
//! | [`objective`] | what is minimized: [`CrossEntropy`], [`BinaryCrossEntropy`], [`MeanSquared`], or the user's own |
//! | [`plot`] | charts as SVG |
//! | [`workloads`] | named networks, expressions and products, in one table |
//! | [`bench`](mod@bench) | how a workload is timed, and the report |
//! | [`checksum`](mod@checksum) | a stable hash of weights, to compare runs bit for bit |
//!
//! Promises: everything follows from the seed, with the same bits for any number of threads, and no input panics: what
//! is wrong comes back as a [`TrainError`].
#![forbid(unsafe_code)]

pub mod bench;
pub mod checksum;
mod error;
pub mod objective;
pub mod plot;
pub mod trainer;
pub mod workloads;

pub use checksum::{checksum, checksum_all};
pub use error::TrainError;
pub use objective::{BinaryCrossEntropy, CrossEntropy, Label, MeanSquared, Objective};
pub use plot::Plot;
pub use trainer::{Epoch, Evaluation, History, Options, Trainer};
