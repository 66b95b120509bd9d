//! The text form of graphs: a version line, then blocks that print and parse back.
//!
//! ```text
//! text      = "cotangent" NUMBER "graph" name block
//! block     = "{" { statement } "}"
//! statement = "%" NUMBER "=" OP [ STRING ] [ value { "," value } ] [ attrs ] [ ":" type ]
//!           | "output" STRING "=" value
//!           | "update" STRING "=" value
//!           | "body" NUMBER name block
//! name      = "@" ( WORD | STRING )
//! value     = "%" NUMBER
//! attrs     = "{" [ WORD "=" attr { "," WORD "=" attr } ] "}"
//! type      = DTYPE "[" [ NUMBER { "," NUMBER } ] "]" | "(" [ type { "," type } ] ")"
//! ```
//! White space, line breaks included, is free; `;` starts a comment that ends with the line. Attributes may come in any
//! order, truth values that are absent are false, and a type that follows from the operands may be left out.

mod cursor;
pub mod parse;
pub mod print;
mod value;

pub use parse::parse;
pub use print::{Style, print};

/// The version that this program writes and reads.
pub const VERSION: u32 = 1;

/// Whether a name can be written without quotes.
pub(crate) fn is_plain(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(cursor::starts_word) && bytes.all(cursor::continues_word)
}
