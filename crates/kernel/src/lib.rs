//! From primitive graphs to loops: clusters (what is fused with what, and why), Kernel IR, the plan, and the
//! kernel interpreter that code generators are compared with.
#![forbid(unsafe_code)]

pub mod interp;
pub mod ir;
pub mod verify;
