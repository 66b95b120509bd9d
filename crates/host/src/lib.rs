//! What the machine gives to everything above: memory that does not move ([`Block`]), and how much of
//! it there is ([`Memory`]).
//!
//! Knows neither numbers nor graphs. Unsafe code lives here so that others need not have their own: a block's memory.

mod block;
mod memory;

pub use block::{Block, LINE};
pub use memory::{Because, Bytes, Memory, Refused};
