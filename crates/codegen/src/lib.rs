//! Kernels to machine code: through Cranelift, which only this crate imports, or wide, by a generator of our own for AVX2
//! and AVX-512 whose code lies in the same module.
//!
//! A [`Backend`] compiles a batch of kernels into a [`Compiled`], which owns the code and hands out a [`KernelFn`] per
//! kernel; kernels with equal code keys share code. The pipeline, outermost first:
//!
//! | module | what it knows |
//! |---|---|
//! | `backend` | batches, sharing, the JIT module, what a caller can inspect |
//! | `memory` | the only unsafe code: calling machine code and freeing it |
//! | `function` | one kernel to one function: entry, rows, loops |
//! | `iterate` | a loop around kernels to one function |
//! | `row`, `column` | the phases of one work unit, reductions included |
//! | `phase` | a scalar body: what varies along which dim, evaluation of several groups of lanes interleaved |
//! | `access` | addresses, loads and stores |
//! | `lanes`, `casts` | one scalar instruction on a group of four lanes |
//! | `wide` | the same kernels straight to AVX2 and AVX-512 |
//!
//! In Cranelift's code everything is computed on groups of four elements: one 128-bit vector for types of up to 4 bytes, two for those of
//! 8 bytes. Values that do not depend on the inner index are computed once, outside of the inner loop, as vectors of
//! equal lanes; operations without a vector form are done lane by lane; ragged ends are groups whose surplus lanes
//! repeat the last element and are never stored. So there is one translation of each instruction, and the same bits
//! come out wherever an element falls.
#![deny(unsafe_op_in_unsafe_fn)]

mod access;
mod backend;
mod casts;
mod column;
mod function;
mod iterate;
mod lanes;
mod listing;
mod memory;
mod phase;
mod row;
mod wide;

pub use backend::{
    Backend, BackendChoice, CodegenError, Compiled, CraneliftBackend, MadeBy, Options, Stats, WideBackend,
};
pub use iterate::{Act, LoopBody};
pub use memory::{KernelFn, LoopFn};
