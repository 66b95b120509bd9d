//! From primitive graphs to loops: clusters (what is fused with what, and why), Kernel IR, the plan, and the
//! kernel interpreter that code generators are compared with.
#![forbid(unsafe_code)]

pub mod arena;
pub mod cluster;
pub mod cost;
mod index;
pub mod interp;
pub mod interp_plan;
pub mod ir;
mod lattice;
pub mod lower;
mod memory;
mod nest;
pub mod plan;
pub mod planner;
pub mod predict;
pub mod repeat;
pub mod report;
pub mod verify;
pub mod verify_plan;

pub use cluster::{Choice, ClusterOptions, Edge, Fusion, Fusions, Reason, Verdict};
pub use cost::CostModel;
pub use interp_plan::{PlanMachine, RunError};
pub use ir::Kernel;
pub use plan::{
    BufferDecl, BufferId, CheckWhat, Epilogue, Factors, GemmDims, Home, KernelCall, MatrixView, OpStep, Piece, Plan,
    PlanOutput, Step,
};
pub use planner::plan;
pub use repeat::{Carry, Given, LoopStep};
pub use report::explain;
pub use verify_plan::verify_plan;
