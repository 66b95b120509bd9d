//! The driver and the executor: [`Compiler`] turns a graph into an [`Executable`]; a [`Session`] runs it on a
//! [`Runtime`]'s threads with the parameters and states of a [`Store`].
//!
//! ```text
//! Graph ── Compiler ──▶ Executable (immutable: plan, machine code; Send + Sync)
//!                            │
//! Runtime (the pool) ──▶ Session ◀── Store (parameters, states, counters)
//! ```
//!
//! Unsafe code is confined to `machine.rs` and `machine/frame.rs`: it calls kernels and slices the arena, relying on what the plan verifier
//! and [`cotangent_kernel::ir::Kernel::check_bounds`] have proven.

mod check;
mod compile;
mod cores;
mod initial;
mod input;
mod machine;
mod memory;
mod needs;
mod perf;
mod place;
mod products;
mod profile;
mod ready;
mod runtime;
mod session;
mod stages;
mod store;
mod tuning;
mod turns;

pub use cotangent_codegen::BackendChoice;
pub use cotangent_gemm::{Candidate, Way};
pub use cotangent_graph::HostTensor;
pub use cotangent_host::{BadTarget, Caches, Costs, Isa, Target};
pub use cotangent_kernel::{Choice, Fusion, Fusions};

pub use compile::{CompileError, Compiler, Executable, Timings};
pub use input::{AsInput, Each, InputId, InputKey, StepInputs};
pub use profile::{Profile, Span, Times, Work};
pub use runtime::{Runtime, Threads};
pub use session::{Outputs, ProgramId, Session};
pub use stages::StageView;
pub use store::{Seed, Store, StoreMut};
pub use tuning::{Tuning, Ways};
