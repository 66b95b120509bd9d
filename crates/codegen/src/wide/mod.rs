//! The wide backend: kernels straight to AVX-512 or AVX2 machine code.
//!
//! Cranelift's vectors are 128 bits wide; on elementwise work that leaves a factor of three to five. This backend compiles
//! the same kernels from the same scalar bodies, so the same bits come out, and its bytes lie in the same module as
//! Cranelift's code. A kernel that it cannot do is left to Cranelift, with a reason.
//!
//! | module | what it knows |
//! |---|---|
//! | `nest` | one kernel to one function: entry, frame, rows |
//! | `row`, `column` | the phases of one work unit, reductions included |
//! | `ahead` | fetching the next row |
//! | `body` | a phase's body, several groups of lanes interleaved; loads and stores |
//! | `select` | one scalar instruction on a group of lanes |
//! | `vcode` | straight-line code over virtual registers |
//! | `alloc` | registers for it: farthest next use goes, memory operands where they serve |
//! | `encode` | machine instructions, and what differs between the instruction sets |
//! | `isa` | the instruction sets and the table of instructions |
//! | `asm` | iced's encoder, labels, constants |

mod ahead;
mod alloc;
mod asm;
mod body;
mod clamps;
mod column;
mod encode;
mod isa;
mod nest;
mod row;
mod select;
mod vcode;

pub(crate) use asm::ALIGNMENT;
pub(crate) use isa::Isa;
pub(crate) use nest::translate;
