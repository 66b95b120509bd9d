//! `stabilize`: forms that overflow, cancel or end in NaN become the forms that do not.
//!
//! It runs first, on composites: no later rule can repair the derivative of an unstable form. Patterns do not reach
//! through a value that a gradient is taken with respect to, which would cut the path to it ([`crate::anchor`]). The rows
//! whose result is primitive are tried once more by `simplify`, after other rules have brought the patterns to light.

use std::sync::LazyLock;

use cotangent_graph::ops::activation::{LOG_SOFTMAX, SOFTMAX};
use cotangent_graph::ops::arithmetic::{ADD, DIV, MUL, NEG, SUB};
use cotangent_graph::ops::compare::{SELECT, STOP_GRADIENT};
use cotangent_graph::ops::math::{EXP, LOG, LOG1P, SIGMOID, SQRT};
use cotangent_graph::ops::reduce::{REDUCE_MAX, REDUCE_SUM};
use cotangent_graph::ops::view::{BROADCAST, RESHAPE};
use cotangent_graph::{Graph, Stage, Tensor};

use crate::anchor::set_anchors;
use crate::pass::{Pass, PassCx, PassError};
use crate::rules::{Roots, Rule, RuleCx, RuleSet, Safety, apply_rules};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct Stabilize;

impl Pass for Stabilize {
    fn name(&self) -> &'static str {
        "stabilize"
    }

    fn purpose(&self) -> &'static str {
        "Rewrites forms that overflow or cancel into forms that do not, before they are differentiated."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Source, Stage::Source)
    }

    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        static RULES: LazyLock<RuleSet> = LazyLock::new(|| RuleSet::new(&[COMPOSITE, PRIMITIVE]));
        let anchored = set_anchors(graph)?;
        let stable = apply_rules(anchored.as_ref().unwrap_or(graph), &RULES, cx)?;
        Ok(stable.or(anchored))
    }
}

use Safety::Stabilizes;

/// Rules that make composites.
pub static COMPOSITE: &[Rule] = &[
    Rule {
        name: "log_of_softmax",
        equation: "log(softmax(x)) = log_softmax(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG]),
        apply: |cx| {
            let (args, attrs) = cx.parts(cx.x(), &SOFTMAX)?;
            Some(args[0].unary_with(&LOG_SOFTMAX, attrs))
        },
    },
    Rule {
        name: "softmax_by_hand",
        equation: "exp(x) / Σ exp(x) = softmax(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&DIV]),
        apply: |cx| {
            let x = cx.arg(cx.x(), &EXP)?;
            let (sum, axis) = repeated_along_one_axis(cx, cx.y())?;
            let (terms, attrs) = cx.parts(sum, &REDUCE_SUM)?;
            let fits = attrs.sizes("axes").as_slice() == [axis] && terms[0].id() == cx.x().id();
            (fits && !is_shifted(cx, x)).then(|| x.softmax(axis))
        },
    },
];

/// Rules that make primitives.
pub static PRIMITIVE: &[Rule] = &[
    Rule {
        name: "log_of_exp",
        equation: "log(exp(x)) = x",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG]),
        apply: |cx| cx.arg(cx.x(), &EXP),
    },
    Rule {
        name: "log_of_sigmoid",
        equation: "log(σ(x)) = -softplus(-x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG]),
        apply: |cx| Some(-(-cx.arg(cx.x(), &SIGMOID)?).softplus()),
    },
    Rule {
        name: "log_of_one_minus_sigmoid",
        equation: "log(1 - σ(x)) = -softplus(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG]),
        apply: |cx| Some(-one_minus(cx, cx.x(), &SIGMOID)?.softplus()),
    },
    Rule {
        name: "log_of_one_plus_exp",
        equation: "log(1 + exp(x)) = softplus(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG]),
        apply: |cx| Some(cx.arg(one_plus(cx, cx.x())?, &EXP)?.softplus()),
    },
    Rule {
        name: "log1p_of_exp",
        equation: "log1p(exp(x)) = softplus(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG1P]),
        apply: |cx| Some(cx.arg(cx.x(), &EXP)?.softplus()),
    },
    Rule {
        name: "log1p_of_minus_sigmoid",
        equation: "log1p(-σ(x)) = -softplus(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG1P]),
        apply: |cx| Some(-cx.arg(cx.arg(cx.x(), &NEG)?, &SIGMOID)?.softplus()),
    },
    Rule {
        name: "log_of_one_plus",
        equation: "log(1 + x) = log1p(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG]),
        apply: |cx| Some(one_plus(cx, cx.x())?.log1p()),
    },
    Rule {
        name: "log_of_one_minus",
        equation: "log(1 - x) = log1p(-x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG]),
        apply: |cx| {
            let args = cx.args(cx.x(), &SUB)?;
            cx.is_splat(args[0], 1.0).then(|| (-args[1]).log1p())
        },
    },
    Rule {
        name: "exp_minus_one",
        equation: "exp(x) - 1 = expm1(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&SUB]),
        apply: |cx| {
            let x = cx.arg(cx.x(), &EXP)?;
            cx.is_splat(cx.y(), 1.0).then(|| x.expm1())
        },
    },
    Rule {
        name: "exp_plus_minus_one",
        equation: "exp(x) + (-1) = expm1(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&ADD]),
        apply: |cx| {
            let (e, _) = cx.both_ways().into_iter().find(|&(_, c)| cx.is_splat(c, -1.0))?;
            Some(cx.arg(e, &EXP)?.expm1())
        },
    },
    Rule {
        name: "log_sum_exp",
        equation: "log Σ exp(x) = m + log Σ exp(x - m), m = max(x) or 0 if that is not finite",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG]),
        apply: |cx| {
            let (terms, attrs) = cx.parts(cx.x(), &REDUCE_SUM)?;
            let x = cx.arg(terms[0], &EXP)?;
            let axes = attrs.sizes("axes");
            if is_shifted(cx, x) || axes.iter().any(|&a| x.shape()[a] == 0) {
                return None;
            }
            let most = x.max_over(&axes).stop_gradient();
            let finite = most.abs().lt(most.constant_like(f64::INFINITY));
            let shift = finite.select(most, most.constant_like(0.0));
            let rest = (x - shift.repeat_along(&x.shape(), &axes)).exp().sum_over(&axes);
            Some(rest.log() + shift)
        },
    },
    Rule {
        name: "sqrt_of_square",
        equation: "√(x·x) = |x|",
        safety: Stabilizes,
        roots: Roots::Ops(&[&SQRT]),
        apply: |cx| {
            let args = cx.args(cx.x(), &MUL)?;
            (args[0].id() == args[1].id()).then(|| args[0].abs())
        },
    },
];

/// `x`, if `t` is `1 + x` or `x + 1`.
fn one_plus<'g>(cx: &RuleCx<'g, '_>, t: Tensor<'g>) -> Option<Tensor<'g>> {
    let args = cx.args(t, &ADD)?;
    match () {
        () if cx.is_splat(args[0], 1.0) => Some(args[1]),
        () if cx.is_splat(args[1], 1.0) => Some(args[0]),
        () => None,
    }
}

/// `x`, if `t` is `1 - op(x)`, however the difference is written.
fn one_minus<'g>(cx: &RuleCx<'g, '_>, t: Tensor<'g>, op: &'static cotangent_graph::OpDef) -> Option<Tensor<'g>> {
    if let Some(args) = cx.args(t, &SUB) {
        return if cx.is_splat(args[0], 1.0) { cx.arg(args[1], op) } else { None };
    }
    cx.arg(cx.arg(one_plus(cx, t)?, &NEG)?, op)
}

/// What `t` repeats along one new axis, and that axis; reshapes that only add axes of extent 1 are looked through.
fn repeated_along_one_axis<'g>(cx: &RuleCx<'g, '_>, t: Tensor<'g>) -> Option<(Tensor<'g>, usize)> {
    let (args, attrs) = cx.parts(t, &BROADCAST)?;
    let (axes, shape) = (attrs.sizes("axes"), t.shape());
    let mut from = args[0];
    let rest = |axis: usize| shape.without(&[axis]);
    if axes.len() + 1 == shape.rank() {
        let axis = (0..shape.rank()).find(|a| !axes.contains(a))?;
        return (from.shape() == rest(axis)).then_some((from, axis));
    }
    // `[.., 1, ..]` repeated along the axis of extent 1: what was reduced with that axis kept.
    from = cx.arg(from, &RESHAPE)?;
    let axis = (0..shape.rank()).find(|&a| args[0].shape().get(a) == Some(&1))?;
    (axes.len() == shape.rank() && from.shape() == rest(axis)).then_some((from, axis))
}

/// Whether `x` is a difference from its own largest element already.
fn is_shifted<'g>(cx: &RuleCx<'g, '_>, x: Tensor<'g>) -> bool {
    cx.args(x, &SUB).is_some_and(|args| holds_max(cx, args[1], 6))
}

fn holds_max<'g>(cx: &RuleCx<'g, '_>, t: Tensor<'g>, depth: u32) -> bool {
    if depth == 0 {
        return false;
    }
    if cx.args(t, &REDUCE_MAX).is_some() {
        return true;
    }
    for op in [&BROADCAST, &RESHAPE, &STOP_GRADIENT, &SELECT] {
        if let Some(args) = cx.args(t, op) {
            let skip = usize::from(std::ptr::eq(op, &SELECT));
            return args[skip..].iter().any(|&a| holds_max(cx, a, depth - 1));
        }
    }
    false
}
