//! What tests need: files with the expected text beside the input, random graphs, finite differences, and a shrinker.
//!
//! For tests only: a mistake in a test file or in a generator panics. [`derived`] runs ops through the whole compiler, also
//! ops of your own crate; everything else uses the graph crate alone, and what it needs of others is handed in as closures.
//! The binary `fuzz` beside it uses them all.
#![forbid(unsafe_code)]

pub mod archives;
pub mod copy;
pub mod derived;
pub mod duals;
pub mod filetest;
pub mod finite;
pub mod growing;
pub mod random;
pub mod rng;
pub mod shrink;

pub use filetest::check_file;
pub use rng::Rng;
pub use shrink::shrink;
