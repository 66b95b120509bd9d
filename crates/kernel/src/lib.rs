//! From primitive graphs to loops: clusters (what is fused with what, and why), Kernel IR, the plan, and the
//! kernel interpreter that code generators are compared with.
#![forbid(unsafe_code)]

pub mod arena;
pub mod cluster;
pub mod cost;
pub mod interp;
pub mod ir;
pub mod lower;
pub mod plan;
pub mod verify;

pub use cluster::{ClusterOptions, Edge, Joined, Reason, Verdict};
pub use cost::CostModel;
pub use ir::Kernel;
pub use plan::{BufferDecl, BufferId, GemmDims, Home, KernelCall, MatrixView, Plan, PlanOutput, Step, plan};
