//! The trainer, the named workloads and the protocol that times them.
//!
//! Why it exists: examples, tests, the command line and comparisons with other systems should train and measure in one
//! and the same way.
//!
//! | module | what it gives |
//! |---|---|
//! | [`workloads`] | named networks, expressions and products, in one table |
//! | [`bench`] | how a workload is timed, and the report |
//! | [`checksum`](mod@checksum) | a stable hash of weights, to compare runs bit for bit |
//!
//! Promises: everything follows from the seed, with the same bits for any number of threads, and no input panics: what
//! is wrong comes back as a [`TrainError`].
#![forbid(unsafe_code)]

pub mod bench;
pub mod checksum;
mod error;
pub mod workloads;

pub use checksum::checksum;
pub use error::TrainError;
