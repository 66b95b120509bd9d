//! Scalar bodies: the straight-line programs at the heart of every kernel, and what they are built from.
//!
//! A [`ScalarBody`] computes one element. The graph's pointwise ops expand to scalar instructions, fusion
//! concatenates bodies, code generators translate them, and [`eval`] runs them, so that the interpreter and
//! every backend share one definition of each operation down to the last bit. Mathematical functions
//! ([`math`]) are expansions into the same instructions; random numbers ([`philox`]) are counter-based. Beside them stands
//! what every crate needs to print the names of others ([`mod@plain`]).
//!
//! This crate knows neither graphs nor tensors nor machine code.
#![forbid(unsafe_code)]

pub mod body;
pub mod builder;
pub mod conv;
pub mod dtype;
pub mod eval;
pub mod libm_call;
pub mod math;
pub mod order;
pub mod philox;
pub mod plain;

pub use body::{Inst, ScalarBody, ScalarOp, ValueId};
pub use builder::BodyBuilder;
pub use conv::{Conv, ConvAxis, Direction};
pub use dtype::DType;
pub use libm_call::LibmFn;
pub use order::ReduceOp;
pub use plain::{plain, plain_lines};
