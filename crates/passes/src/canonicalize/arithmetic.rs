//! Operand order, signs, comparisons, selections and conversions.

use cotangent_graph::ops::arithmetic::{ABS, ADD, AND, DIV, MUL, NEG, NOT, OR, SUB, XOR};
use cotangent_graph::ops::compare::{CAST, EQ, GE, GT, NE, SELECT};
use cotangent_graph::{DType, Tensor};

use crate::rules::{Roots, Rule, RuleCx, Safety::Exact, widens};

/// The rows.
pub static ROWS: &[Rule] = &[
    Rule {
        name: "operand_order",
        equation: "f(b, a) = f(a, b) for commutative f: constants last, deep values first",
        safety: Exact,
        roots: Roots::Ops(&[&ADD, &MUL, &AND, &OR, &XOR, &EQ, &NE]),
        apply: |cx| {
            let (a, b) = (cx.order_key(cx.x()), cx.order_key(cx.y()));
            (b < a).then(|| cx.y().binary(cx.op.0, cx.x()))
        },
    },
    Rule {
        name: "neg_of_neg",
        equation: "-(-x) = x",
        safety: Exact,
        roots: Roots::Ops(&[&NEG]),
        apply: |cx| cx.arg(cx.x(), &NEG),
    },
    Rule {
        name: "add_of_neg",
        equation: "x + (-y) = x - y",
        safety: Exact,
        roots: Roots::Ops(&[&ADD]),
        apply: |cx| cx.both_ways().into_iter().find_map(|(x, y)| cx.arg(y, &NEG).map(|y| x - y)),
    },
    Rule {
        name: "sub_of_neg",
        equation: "x - (-y) = x + y",
        safety: Exact,
        roots: Roots::Ops(&[&SUB]),
        apply: |cx| cx.arg(cx.y(), &NEG).map(|y| cx.x() + y),
    },
    Rule {
        name: "signs_cancel",
        equation: "(-x)·(-y) = x·y, (-x)/(-y) = x/y",
        safety: Exact,
        roots: Roots::Ops(&[&MUL, &DIV]),
        apply: |cx| {
            let (x, y) = (cx.arg(cx.x(), &NEG)?, cx.arg(cx.y(), &NEG)?);
            cx.is_float().then(|| x.binary(cx.op.0, y))
        },
    },
    Rule {
        name: "neg_into_constant",
        equation: "(-x)·c = x·(-c), (-x)/c = x/(-c), -(x·c) = x·(-c), -(x/c) = x/(-c), -(c/x) = (-c)/x",
        safety: Exact,
        roots: Roots::Ops(&[&MUL, &DIV, &NEG]),
        apply: neg_into_constant,
    },
    Rule {
        name: "times_minus_one",
        equation: "x·(-1) = -x, x/(-1) = -x",
        safety: Exact,
        roots: Roots::Ops(&[&MUL, &DIV]),
        apply: |cx| (cx.is_float() && cx.is_splat(cx.y(), -1.0)).then(|| -cx.x()),
    },
    Rule {
        name: "neg_outwards",
        equation: "(-x)·y = -(x·y), (-x)/y = -(x/y), x/(-y) = -(x/y)",
        safety: Exact,
        roots: Roots::Ops(&[&MUL, &DIV]),
        apply: |cx| {
            let has_constant = cx.splat_bits(cx.x()).is_some() || cx.splat_bits(cx.y()).is_some();
            if !cx.is_float() || has_constant {
                return None;
            }
            match (cx.arg(cx.x(), &NEG), cx.arg(cx.y(), &NEG)) {
                (Some(x), None) => Some(-x.binary(cx.op.0, cx.y())),
                (None, Some(y)) => Some(-cx.x().binary(cx.op.0, y)),
                _ => None,
            }
        },
    },
    Rule {
        name: "abs_of_neg",
        equation: "|-x| = |x|",
        safety: Exact,
        roots: Roots::Ops(&[&ABS]),
        apply: |cx| cx.arg(cx.x(), &NEG).filter(|_| cx.is_float()).map(Tensor::abs),
    },
    Rule {
        name: "gt_to_lt",
        equation: "(a > b) = (b < a)",
        safety: Exact,
        roots: Roots::Ops(&[&GT]),
        apply: |cx| Some(cx.y().lt(cx.x())),
    },
    Rule {
        name: "ge_to_le",
        equation: "(a ≥ b) = (b ≤ a)",
        safety: Exact,
        roots: Roots::Ops(&[&GE]),
        apply: |cx| Some(cx.y().le(cx.x())),
    },
    Rule {
        name: "not_of_not",
        equation: "¬¬x = x",
        safety: Exact,
        roots: Roots::Ops(&[&NOT]),
        apply: |cx| cx.arg(cx.x(), &NOT),
    },
    Rule {
        name: "not_of_eq",
        equation: "¬(a = b) = (a ≠ b)",
        safety: Exact,
        roots: Roots::Ops(&[&NOT]),
        apply: |cx| cx.args(cx.x(), &EQ).map(|a| a[0].ne(a[1])),
    },
    Rule {
        name: "not_of_ne",
        equation: "¬(a ≠ b) = (a = b)",
        safety: Exact,
        roots: Roots::Ops(&[&NOT]),
        apply: |cx| cx.args(cx.x(), &NE).map(|a| a[0].eq(a[1])),
    },
    Rule {
        name: "select_of_not",
        equation: "select(¬c, a, b) = select(c, b, a)",
        safety: Exact,
        roots: Roots::Ops(&[&SELECT]),
        apply: |cx| cx.arg(cx.x(), &NOT).map(|c| c.select(cx.inputs[2], cx.inputs[1])),
    },
    Rule {
        name: "cast_to_same",
        equation: "cast(x, dtype of x) = x",
        safety: Exact,
        roots: Roots::Ops(&[&CAST]),
        apply: |cx| (cx.x().dtype() == cx.ty.dtype()).then(|| cx.x()),
    },
    Rule {
        name: "cast_of_widening",
        equation: "cast(cast(x, wider), to) = cast(x, to)",
        safety: Exact,
        roots: Roots::Ops(&[&CAST]),
        apply: |cx| {
            let x = cx.arg(cx.x(), &CAST)?;
            passes_through(x.dtype(), cx.x().dtype(), cx.ty.dtype()).then(|| x.cast(cx.ty.dtype()))
        },
    },
];

/// Whether a conversion by way of a second type is the direct one. Through a float, an integer must fit its target:
/// floats saturate where integers wrap.
fn passes_through(from: DType, by: DType, to: DType) -> bool {
    widens(from, by) && (from.is_float() || !by.is_float() || to.is_float() || widens(from, to))
}

fn neg_into_constant<'g>(cx: &RuleCx<'g, '_>) -> Option<Tensor<'g>> {
    if !cx.is_float() {
        return None;
    }
    let constant = |t: Tensor<'g>| cx.splat(t).filter(|c| !c.is_nan());
    if !cx.op.is(&NEG) {
        let (x, c) = (cx.arg(cx.x(), &NEG)?, constant(cx.y())?);
        return Some(x.binary(cx.op.0, cx.fill(-c)));
    }
    if let Some(args) = cx.args(cx.x(), &MUL) {
        return Some(args[0] * cx.fill(-constant(args[1])?));
    }
    let args = cx.args(cx.x(), &DIV)?;
    match (constant(args[0]), constant(args[1])) {
        (_, Some(c)) => Some(args[0] / cx.fill(-c)),
        (Some(c), None) => Some(cx.fill(-c) / args[1]),
        _ => None,
    }
}
