//! `fold`: what is known at compile time is computed then, by the op's own reference semantics.
//!
//! Values are only folded while they stay small and do not grow: a repeated constant stays a broadcast, which costs
//! nothing in a kernel. What fails (an index out of range) is left for the step to report.

use std::sync::{Arc, LazyLock};

use smallvec::SmallVec;

use cotangent_graph::op::EvalCx;
use cotangent_graph::{Counters, Graph, Lower, Stage, TensorData};

use crate::pass::{Pass, PassCx, PassError};
use crate::rules::{Roots, Rule, RuleSet, Safety::Exact, apply_rules};

/// The most elements of a folded value.
const MOST_ELEMENTS: usize = 1 << 16;

/// The most products that a folded matrix product may take: compiling must not take longer than running.
const MOST_PRODUCTS: usize = 1 << 20;

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct Fold;

impl Pass for Fold {
    fn name(&self) -> &'static str {
        "fold"
    }

    fn purpose(&self) -> &'static str {
        "Computes what depends on constants alone."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Primitive, Stage::Primitive)
    }

    fn repeats(&self) -> bool {
        true
    }

    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        static RULES: LazyLock<RuleSet> = LazyLock::new(|| RuleSet::new(&[ROWS]));
        apply_rules(graph, &RULES, cx)
    }
}

/// The rows.
pub static ROWS: &[Rule] = &[Rule {
    name: "constant_operands",
    equation: "f(constants) = constant",
    safety: Exact,
    roots: Roots::Any,
    apply: |cx| {
        let evaluable = matches!(
            cx.op.lower,
            Lower::Scalar(_)
                | Lower::Reduce(_)
                | Lower::View(_)
                | Lower::Join
                | Lower::Gemm
                | Lower::Gather
                | Lower::ScatterAdd
                | Lower::Check
        );
        if !evaluable || cx.inputs.is_empty() || cx.ty.shape().n_elements() > MOST_ELEMENTS {
            return None;
        }
        let values: Option<SmallVec<[Arc<TensorData>; 3]>> = cx.inputs.iter().map(|&t| cx.constant(t)).collect();
        let values = values?;
        let n_elements = |t: &Arc<TensorData>| t.shape().n_elements();
        let grows = matches!(cx.op.name, "broadcast" | "pad" | "scatter_add" | "gather")
            && cx.ty.shape().n_elements() > values.iter().map(n_elements).sum();
        let large = values.iter().any(|v| n_elements(v) > MOST_ELEMENTS);
        let depth = if matches!(cx.op.lower, Lower::Gemm) { values[0].shape().iter().copied().max()? } else { 1 };
        if grows || large || cx.ty.shape().n_elements().saturating_mul(depth) > MOST_PRODUCTS {
            return None;
        }
        let bodies = &[];
        let eval_cx = EvalCx {
            op: cx.op.0,
            attrs: cx.attrs,
            ty: cx.ty,
            counters: Counters::default(),
            bodies: bodies.as_slice(),
        };
        let operands: SmallVec<[&TensorData; 3]> = values.iter().map(AsRef::as_ref).collect();
        let value = (cx.op.eval)(&eval_cx, &operands).ok()?;
        (value.ty() == *cx.ty).then(|| cx.g.constant(value))
    },
}];
