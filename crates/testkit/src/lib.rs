//! What tests need: files with the expected text beside the input, random graphs, finite differences, and a shrinker.
//!
//! For tests only: a mistake in a test file or in a generator panics. The library uses the graph crate alone, so that every
//! crate above can use it; what it needs of them is handed in as closures. The binary `fuzz` beside it uses them all.
#![forbid(unsafe_code)]

pub mod copy;
pub mod filetest;
pub mod finite;
pub mod random;
pub mod rng;
pub mod shrink;

pub use filetest::check_file;
pub use rng::Rng;
pub use shrink::shrink;
