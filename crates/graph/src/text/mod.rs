//! The text form of graphs: a version line, then blocks that print and parse back.

pub mod parse;
pub mod print;

pub use parse::parse;

/// The version that this program writes and reads.
pub const VERSION: u32 = 1;
