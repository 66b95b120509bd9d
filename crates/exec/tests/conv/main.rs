//! Convolutions end to end: what they are, on every kind of machine code, and what they share kernels with.

mod common;
mod epilogues;
mod reports;
mod values;
