//! Graph to graph passes: from the graph that a user builds to the graph that is lowered to kernels.
//!
//! [`optimize`] runs [`pipeline()`]: stabilize, differentiate, expand, canonicalize, fold, simplify, hoist, dce. Passes know graphs
//! and ops and nothing of kernels; what each assumes and promises is at the top of its file.
#![forbid(unsafe_code)]

pub mod anchor;
pub mod canonicalize;
pub mod dce;
pub mod differentiate;
pub mod expand;
pub mod fold;
pub mod gradcheck;
pub mod hoist;
mod interface;
mod loops;
pub mod pass;
mod pieces;
pub mod pipeline;
pub mod rebuild;
pub mod rules;
pub mod simplify;
pub mod stabilize;
mod support;
pub mod validate;

pub use gradcheck::{GradCheck, GradEntry, GradReport, Suspect, Verdict, Wrt, check_gradients};
pub use pass::{DumpHook, Pass, PassCx, PassError, PassOptions, PassReport, StopReason, ValidateHook};
pub use pipeline::{Optimized, all_rules, optimize, optimize_with, pipeline, stage_of};
pub use rules::{Roots, Rule, RuleCx, RuleSet, Safety, apply_rules};
pub use validate::{ValidateOptions, ValidateReport, Validator, validator};
