//! `fold`: what is known at compile time is computed then, by the op's own reference semantics.
//!
//! Values are only folded while they stay small and do not grow: a repeated constant stays a broadcast, which costs
//! nothing in a kernel. What fails (an index out of range) is left for the step to report.

use std::sync::{Arc, LazyLock};

use smallvec::SmallVec;

use cotangent_graph::op::{EvalCx, Fault};
use cotangent_graph::ops::view::BROADCAST;
use cotangent_graph::{Attrs, Code, Counters, Graph, Lower, OpRef, Stage, Tensor, TensorData, Type};

use crate::pass::{Pass, PassCx, PassError};
use crate::rules::{Roots, Rule, RuleCx, RuleSet, Safety::Exact, apply_rules};

/// The most elements of a folded value.
const MOST_ELEMENTS: usize = 1 << 16;

/// A value may be made of fewer elements than it has if it has at most this many.
const SMALL: usize = 256;

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
                | Lower::Conv(_)
                | Lower::Step(_)
                | Lower::Check(_)
        );
        // A broadcast of a constant is in normal form.
        if !evaluable || cx.op.is(&BROADCAST) || cx.inputs.is_empty() {
            return None;
        }
        if !cx.inputs.iter().all(|&t| cx.constant(t).is_some() || cx.arg(t, &BROADCAST).is_some()) {
            return None;
        }
        let operands: Option<SmallVec<[Known; 3]>> = cx.inputs.iter().map(|&t| known(cx, t)).collect();
        let operands = operands?;
        let n_out = cx.ty.shape().n_elements();
        let n_known: usize = operands.iter().map(|k| k.n_elements).sum();
        let depth = match cx.op.lower {
            Lower::Gemm => cx.x().shape().iter().copied().max()?,
            // No chain has more terms than both operands have elements.
            Lower::Conv(_) => cx.inputs.iter().map(|input| input.shape().n_elements()).max()?,
            _ => 1,
        };
        if n_out > MOST_ELEMENTS || n_out > n_known.max(SMALL) || n_out.saturating_mul(depth) > MOST_PRODUCTS {
            return None;
        }
        let values: SmallVec<[&TensorData; 3]> = operands.iter().map(|k| k.value.as_ref()).collect();
        match evaluate(cx.op, cx.attrs, cx.ty, &values) {
            Ok(value) => Some(cx.g.constant(value)),
            Err(fault) if fault.code == Code::BadOp => Some(cx.g.poison(fault.diag())),
            // A check that fails does so when the step runs.
            Err(_) => None,
        }
    },
}];

/// The value of an operand, and how many elements it is made of.
struct Known {
    value: Arc<TensorData>,
    n_elements: usize,
}

/// The value of a constant, or of a constant repeated.
fn known<'g>(cx: &RuleCx<'g, '_>, t: Tensor<'g>) -> Option<Known> {
    let ty = t.ty();
    if ty.as_tensor()?.1.n_elements() > MOST_ELEMENTS {
        return None;
    }
    if let Some(value) = cx.constant(t) {
        let n_elements = value.shape().n_elements();
        return Some(Known { value, n_elements });
    }
    let (args, attrs) = cx.parts(t, &BROADCAST)?;
    let small = cx.constant(args[0])?;
    let value = evaluate(OpRef(&BROADCAST), &attrs, &ty, &[&small]).ok()?;
    Some(Known { value: Arc::new(value), n_elements: small.shape().n_elements() })
}

fn evaluate(op: OpRef, attrs: &Attrs, ty: &Type, operands: &[&TensorData]) -> Result<TensorData, Fault> {
    op.0.eval(&EvalCx { op: op.0, attrs, ty, counters: Counters::default(), bodies: &[] }, operands)
}
