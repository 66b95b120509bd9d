//! What the machine gives to everything above: memory that does not move ([`Block`]), how much of it there is ([`Memory`]), an
//! end in good order where there is none ([`OrExit`]), vectors, caches, cores and what things cost ([`Target`]), the
//! floating-point environment ([`float`]), and files that are whole or not there ([`files`]).
//!
//! Knows no graphs. Unsafe code lives here so that others need not have their own: a block's memory, an allocator, and the
//! registers of the floating-point environment.

mod block;
mod exhausted;
pub mod files;
pub mod float;
mod memory;
mod target;

pub use block::{Block, LINE};
pub use exhausted::{OrExit, refusable};
pub use memory::{Because, Bytes, Memory, Refused};
pub use target::{BadTarget, Caches, Costs, Isa, Target};
