//! `canonicalize`: of the many ways to write a thing, one.
//!
//! Later rules, fusion and hash-consing then meet fewer forms: `x + y` and `y + x` are one node, views are composed and
//! sit on small operands, transposes are flags of the matrix product, every reduction has one group of neighbouring axes,
//! and what is computed from repeated values alone is computed once and then repeated. Every row is exact: it changes no
//! bit of a result.

pub mod arithmetic;
pub mod broadcast;
pub mod products;
pub mod reduce;
pub mod views;

use std::sync::LazyLock;

use cotangent_graph::{Graph, Stage};

use crate::pass::{Pass, PassCx, PassError};
use crate::rules::{RuleSet, apply_rules};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct Canonicalize;

impl Pass for Canonicalize {
    fn name(&self) -> &'static str {
        "canonicalize"
    }

    fn purpose(&self) -> &'static str {
        "Brings equal things into one form: operand order, views, transposes as flags, reductions of one group."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Primitive, Stage::Primitive)
    }

    fn repeats(&self) -> bool {
        true
    }

    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        static RULES: LazyLock<RuleSet> = LazyLock::new(|| {
            RuleSet::new(&[arithmetic::ROWS, views::ROWS, broadcast::ROWS, products::ROWS, reduce::ROWS])
        });
        apply_rules(graph, &RULES, cx)
    }
}
