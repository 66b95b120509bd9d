//! What the machine gives to everything above: memory that does not move ([`Block`]).
//!
//! Knows neither numbers nor graphs. Unsafe code lives here so that others need not have their own: a block's memory.

mod block;

pub use block::{Block, LINE, Refused};
