//! Datasets, readers and batches: everything that happens on the host before a step.
//!
//! Why it exists: a compiled program eats row-major arrays of a fixed batch size; this crate turns files and formulas
//! into such arrays, and an epoch into a reproducible sequence of batches.
//!
//! | module | what it gives |
//! |---|---|
//! | [`idx`] | IDX files (the format of MNIST), plain or gzip |
//! | [`npz`] | NumPy archives, read and written |
//! | [`safetensors`] | named tensors as checkpoints keep them, read and written |
//! | [`mnist`] | the two splits of MNIST, scaled to `[0, 1]` |
//! | [`cifar`] | the two splits of CIFAR-10, pictures in color with channels last |
//! | [`csv`] | tables of text: typed columns, missing values, categories whose ids stay |
//! | `images` | folders of pictures, one for each class (feature `images`) |
//! | `sounds` | sounds in WAV files (feature `sounds`) |
//! | [`text`] | vocabularies of characters and words; pieces of a long text |
//! | [`reading`] | paths opened with care: what is no file, what would expand too far |
//! | [`files`] | files written whole or not at all; folders with one writer |
//! | [`batches`] | [`Dataset`] and its batches: in order, shuffled, stratified or balanced by a key; splits |
//! | [`table`] | [`Examples`]: what batches are taken of; [`Table`]: named fields of any element type |
//! | [`augment`] | pictures flipped, shifted, turned, with noise: anew in every epoch, the same for any number of threads |
//! | [`mod@normalize`] | feature normalization and whitening, fitted on the training part |
//! | [`synthetic`] | the lecture's toy sets: moons, spirals, XOR, linear regression |
//!
//! Assumes: files are hostile until checked. Promises: no reader panics on any input, none allocates more than a small
//! multiple of the data that really arrived, and every error is a [`DataError`] that says what was required, what was
//! got, of which file, and what to do.
#![forbid(unsafe_code)]

pub mod augment;
pub mod batches;
pub mod cifar;
pub mod csv;
mod eigen;
mod error;
pub mod files;
pub mod idx;
#[cfg(feature = "images")]
pub mod images;
pub mod mnist;
pub mod normalize;
pub mod npz;
pub mod reading;
pub mod safetensors;
#[cfg(feature = "sounds")]
pub mod sounds;
pub mod synthetic;
pub mod table;
pub mod text;
mod zip;

pub use batches::{Batch, Batches, Dataset, LastBatch, Order};
pub use cifar::Cifar10;
pub use csv::{Csv, CsvReader};
pub use error::DataError;
#[cfg(feature = "images")]
pub use images::ImageFolder;
pub use mnist::Mnist;
pub use normalize::{Standardizer, Whitening};
pub use reading::ReadLimits;
pub use table::{Examples, Field, Table};
pub use text::Vocabulary;
