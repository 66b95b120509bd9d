//! Machine code against the interpreter, and the life of compiled code.

mod common;
mod life;
mod ops;
mod random;
