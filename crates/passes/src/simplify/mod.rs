//! `simplify`: algebra that removes work.
//!
//! Rows that change values only where they are infinite or NaN, or only by rounding, are there and off; `PassOptions`
//! turns them on. The stabilizing rows are tried again here, because simplification brings their patterns to light.

pub mod algebra;
pub mod indices;
pub mod ranges;

use std::sync::LazyLock;

use cotangent_graph::{Graph, Stage};

use crate::pass::{Pass, PassCx, PassError};
use crate::rules::{RuleSet, apply_rules};
use crate::stabilize;

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct Simplify;

impl Pass for Simplify {
    fn name(&self) -> &'static str {
        "simplify"
    }

    fn purpose(&self) -> &'static str {
        "Removes work by algebra: neutral elements, idempotent ops, checks that are proved."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Primitive, Stage::Primitive)
    }

    fn repeats(&self) -> bool {
        true
    }

    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        static RULES: LazyLock<RuleSet> =
            LazyLock::new(|| RuleSet::new(&[algebra::ROWS, indices::ROWS, stabilize::PRIMITIVE]));
        apply_rules(graph, &RULES, cx)
    }
}
