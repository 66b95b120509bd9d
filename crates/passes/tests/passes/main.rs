//! The tests of this crate, in one binary: derivatives, each rule, the pipeline as a whole.

mod checks;
mod common;
mod gradients;
mod limits;
mod loops;
mod pipeline;
mod random;
mod rules;
