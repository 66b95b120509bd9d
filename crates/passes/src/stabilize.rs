//! `stabilize`: forms that overflow, cancel or end in NaN become the forms that do not.
//!
//! It runs first, on composites: no later rule can repair the derivative of an unstable form. Patterns do not reach
//! through a value that a gradient is taken with respect to, which would cut the path to it ([`crate::anchor`]). The rows
//! whose result is primitive are tried once more by `simplify`, after other rules have brought the patterns to light.

use std::sync::LazyLock;

use cotangent_graph::ops::activation::{LOG_SOFTMAX, SOFTMAX};
use cotangent_graph::ops::arithmetic::{ADD, DIV, MUL, NEG, SUB};
use cotangent_graph::ops::compare::{SELECT, STOP_GRADIENT};
use cotangent_graph::ops::math::{EXP, LOG, LOG1P, POW, SIGMOID, SQRT, SQRT_OF_SQUARES};
use cotangent_graph::ops::norm::{VARIANCE, is_finite};
use cotangent_graph::ops::reduce::{MEAN, REDUCE_MAX, REDUCE_SUM};
use cotangent_graph::ops::view::{BROADCAST, FLIP, RESHAPE, SLICE, TRANSPOSE};
use cotangent_graph::{Graph, OpRef, Shape, Stage, Tensor};

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
        equation: "exp(x) / Σ exp(x) = exp(x) · (1 / Σ exp(x)) = softmax(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&DIV, &MUL]),
        apply: |cx| {
            if cx.op == OpRef(&DIV) {
                return softmax_of(cx, cx.x(), cx.y(), false);
            }
            cx.both_ways().into_iter().find_map(|(e, t)| softmax_of(cx, e, t, true))
        },
    },
    Rule {
        name: "sqrt_of_sum_of_squares",
        equation: "√Σ x·x is `sqrt_of_squares`: the same value, with the derivative 0 at 0",
        safety: Stabilizes,
        roots: Roots::Ops(&[&SQRT]),
        apply: |cx| {
            // √(x·x) is |x|.
            let is_square = cx.args(cx.x(), &MUL).is_some_and(|args| args[0].id() == args[1].id());
            (!is_square && is_sum_of_squares(cx, cx.x(), 12)).then(|| cx.x().unary(&SQRT_OF_SQUARES))
        },
    },
    Rule {
        name: "log_sum_exp_by_hand",
        equation: "log Σ exp(x) = log_sum_exp(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&LOG]),
        apply: |cx| {
            let views = Views::of(cx, cx.x());
            let (terms, attrs) = cx.parts(views.root, &REDUCE_SUM)?;
            let x = cx.arg(terms[0], &EXP)?;
            let axes = attrs.sizes("axes");
            if is_shifted(cx, x) || axes.is_empty() || axes.iter().any(|&a| x.shape()[a] == 0) {
                return None;
            }
            let (rows, axis) = as_one_axis(x, &axes)?;
            Some(views.again(rows.log_sum_exp_over(axis).reshape(views.root.shape())))
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
        name: "sigmoid_by_hand",
        equation: "1 / (1 + exp(x)) = σ(-x); exp(x) / (1 + exp(x)) = σ(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&DIV]),
        apply: |cx| {
            let e = one_plus(cx, cx.y())?;
            let x = cx.arg(e, &EXP)?;
            match () {
                () if cx.is_splat(cx.x(), 1.0) => Some((-x).sigmoid()),
                () if cx.x().id() == e.id() => Some(x.sigmoid()),
                () => None,
            }
        },
    },
    Rule {
        name: "tanh_by_hand",
        equation: "(exp(x) - exp(-x)) / (exp(x) + exp(-x)) = tanh(x)",
        safety: Stabilizes,
        roots: Roots::Ops(&[&DIV]),
        apply: |cx| {
            let (over, under) = (cx.args(cx.x(), &SUB)?, cx.args(cx.y(), &ADD)?);
            let same = |a: usize| over[0].id() == under[a].id() && over[1].id() == under[1 - a].id();
            let (x, minus) = (cx.arg(over[0], &EXP)?, cx.arg(over[1], &EXP)?);
            let is_minus = |a: Tensor<'_>, b| cx.arg(a, &NEG).is_some_and(|of| of.id() == b);
            ((same(0) || same(1)) && (is_minus(minus, x.id()) || is_minus(x, minus.id()))).then(|| x.tanh())
        },
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
        equation: "log Σ exp(x) = m + log Σ exp(x - m), m = max(x); m if that is not finite",
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
            let rest = (x - most.repeat_along(&x.shape(), &axes)).exp().sum_over(&axes);
            Some(is_finite(most).select(rest.log() + most, most))
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

/// The softmax that `e` over `t` is, or `e` times `t`: `e` an exponential, and `t` the sum of its elements (the reciprocal, if
/// `inverse`), repeated to its shape.
fn softmax_of<'g>(cx: &RuleCx<'g, '_>, e: Tensor<'g>, t: Tensor<'g>, inverse: bool) -> Option<Tensor<'g>> {
    let x = cx.arg(e, &EXP)?;
    let mut views = Views::of(cx, t);
    if inverse {
        let args = cx.args(views.root, &DIV).filter(|args| cx.is_splat(args[0], 1.0))?;
        views = views.then(Views::of(cx, args[1]));
    }
    let (terms, attrs) = cx.parts(views.root, &REDUCE_SUM)?;
    let (axes, shape) = (attrs.sizes("axes"), x.shape());
    if terms[0].id() != e.id() || axes.is_empty() || shape.contains(&0) || is_shifted(cx, x) {
        return None;
    }
    // Every element of `t` is the sum that it is a term of. An axis of one element can be anywhere.
    let kept = (0..shape.rank()).filter(|a| !axes.contains(a) && shape[*a] != 1);
    if !views.axes()?.iter().copied().eq(kept) {
        return None;
    }
    match as_one_axis(x, &axes) {
        Some((rows, axis)) => Some(rows.softmax(axis).reshape(shape)),
        None => {
            let most = x.max_over(&axes).stop_gradient();
            let e = (x - most.repeat_along(&shape, &axes)).exp();
            Some(e / e.sum_over(&axes).repeat_along(&shape, &axes))
        }
    }
}

/// `x` in a shape in which `axes` are one axis, if they are neighbours but for axes of one element; and that axis.
fn as_one_axis<'g>(x: Tensor<'g>, axes: &[usize]) -> Option<(Tensor<'g>, usize)> {
    let shape = x.shape();
    let wide: Vec<usize> = axes.iter().copied().filter(|&a| shape[a] != 1).collect();
    match wide.as_slice() {
        [] => Some((x, *axes.first()?)),
        [one] => Some((x, *one)),
        [first, .., last] => {
            if (*first..=*last).any(|a| shape[a] != 1 && !axes.contains(&a)) {
                return None;
            }
            let n = wide.iter().map(|&a| shape[a]).product();
            let merged: Shape = shape[..*first].iter().chain(&[n]).chain(&shape[last + 1..]).copied().collect();
            Some((x.reshape(merged), *first))
        }
    }
}

/// A chain of views that repeat, reorder or reshape, and what they view.
struct Views<'g> {
    /// What is viewed.
    root: Tensor<'g>,
    /// The views' values, from the last to the first.
    chain: Vec<Tensor<'g>>,
}

impl<'g> Views<'g> {
    fn of(cx: &RuleCx<'g, '_>, t: Tensor<'g>) -> Self {
        let mut views = Views { root: t, chain: Vec::new() };
        while let Some(from) = [&BROADCAST, &RESHAPE, &TRANSPOSE].into_iter().find_map(|op| cx.arg(views.root, op)) {
            views.chain.push(views.root);
            views.root = from;
        }
        views
    }

    /// The views of `inner`, then these.
    fn then(mut self, inner: Views<'g>) -> Self {
        self.chain.extend(inner.chain);
        Views { root: inner.root, chain: self.chain }
    }

    /// The same views of something else.
    fn again(&self, root: Tensor<'g>) -> Tensor<'g> {
        let g = root.builder();
        let view = |from: Tensor<'g>, view: &Tensor<'g>| {
            let (op, attrs) = g.with_graph(|graph| {
                let node = graph.node(view.id());
                (node.op.0, node.attrs.clone())
            });
            from.unary_with(op, attrs)
        };
        self.chain.iter().rev().fold(root, view)
    }

    /// For each axis of the root of more than one element, in order, the axis of the last view that moves along it; `None` if
    /// one is taken apart or merged.
    fn axes(&self) -> Option<Vec<usize>> {
        let wide = |shape: &Shape| (0..shape.rank()).filter(|&a| shape[a] != 1).collect::<Vec<usize>>();
        let (mut from, mut axes) = (self.root.shape(), wide(&self.root.shape()));
        for view in self.chain.iter().rev() {
            let to = view.shape();
            let (op, attrs) = view.builder().with_graph(|graph| {
                let node = graph.node(view.id());
                (node.op, node.attrs.clone())
            });
            let (before, after) = (wide(&from), wide(&to));
            let place = |axis: usize| match () {
                () if op == OpRef(&BROADCAST) => Some(attrs.sizes("axes")[axis]),
                () if op == OpRef(&TRANSPOSE) => attrs.sizes("perm").iter().position(|&p| p == axis),
                // A reshape that only adds or drops axes of one element.
                () if before.iter().map(|&a| from[a]).ne(after.iter().map(|&a| to[a])) => None,
                () => before.iter().position(|&a| a == axis).map(|k| after[k]),
            };
            axes = axes.into_iter().map(place).collect::<Option<_>>()?;
            from = to;
        }
        Some(axes)
    }
}

/// Whether `t` is a sum of squares by its form, so that all of them are 0 where it is.
fn is_sum_of_squares<'g>(cx: &RuleCx<'g, '_>, t: Tensor<'g>, depth: u32) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    let is_positive = |t: Tensor<'g>| cx.splat(t).is_some_and(|c| c > 0.0 && c.is_finite());
    if let Some(args) = cx.args(t, &MUL) {
        let scaled = |x: Tensor<'g>, c: Tensor<'g>| is_positive(c) && is_sum_of_squares(cx, x, depth);
        return args[0].id() == args[1].id() || scaled(args[0], args[1]) || scaled(args[1], args[0]);
    }
    if let Some(args) = cx.args(t, &DIV) {
        return is_positive(args[1]) && is_sum_of_squares(cx, args[0], depth);
    }
    if let Some(args) = cx.args(t, &POW) {
        return cx.is_splat(args[1], 2.0);
    }
    if let Some(args) = cx.args(t, &ADD) {
        return args.iter().all(|&a| is_sum_of_squares(cx, a, depth));
    }
    let through = [&REDUCE_SUM, &MEAN, &BROADCAST, &RESHAPE, &TRANSPOSE, &SLICE, &FLIP];
    cx.args(t, &VARIANCE).is_some()
        || through.into_iter().any(|op| cx.arg(t, op).is_some_and(|x| is_sum_of_squares(cx, x, depth)))
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
