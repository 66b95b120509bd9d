//! Neutral and absorbing elements, idempotent ops, selections, powers.

use cotangent_graph::ops::arithmetic::{ADD, AND, DIV, MAXIMUM, MINIMUM, MUL, NEG, OR, SUB, XOR};
use cotangent_graph::ops::compare::{EQ, LE, LT, NE, SELECT, STOP_GRADIENT};
use cotangent_graph::ops::math::POW;
use cotangent_graph::{DType, OpTraits, Tensor};

use crate::rules::Safety::{Exact, FiniteOnly, Reassociates, Stabilizes, ZeroSign};
use crate::rules::{Roots, Rule, RuleCx};

/// The rows.
pub static ROWS: &[Rule] = &[
    Rule {
        name: "stop_gradient",
        equation: "stop_gradient(x) = x, after differentiation",
        safety: Exact,
        roots: Roots::Ops(&[&STOP_GRADIENT]),
        apply: |cx| Some(cx.x()),
    },
    // ---- sums --------------------------------------------------------------------------------------------------------
    Rule {
        name: "add_negative_zero",
        equation: "x + (-0) = x, x - 0 = x; of integers x + 0 = x",
        safety: Exact,
        roots: Roots::Ops(&[&ADD, &SUB]),
        apply: |cx| {
            let neutral = if cx.op.is(&ADD) && cx.is_float() { -0.0 } else { 0.0 };
            cx.is_splat(cx.y(), neutral).then(|| cx.x())
        },
    },
    Rule {
        name: "add_zero",
        equation: "x + 0 = x, x - (-0) = x, but -0 + 0 = 0",
        safety: ZeroSign,
        roots: Roots::Ops(&[&ADD, &SUB]),
        apply: |cx| (cx.splat(cx.y()) == Some(0.0)).then(|| cx.x()),
    },
    Rule {
        name: "zero_minus",
        equation: "0 - x = -x, but 0 - 0 = 0",
        safety: ZeroSign,
        roots: Roots::Ops(&[&SUB]),
        apply: |cx| (cx.splat(cx.x()) == Some(0.0)).then(|| -cx.y()),
    },
    Rule {
        name: "neg_of_sub",
        equation: "-(a - b) = b - a, but -(a - a) = -0",
        safety: ZeroSign,
        roots: Roots::Ops(&[&NEG]),
        apply: |cx| cx.args(cx.x(), &SUB).map(|args| args[1] - args[0]),
    },
    Rule {
        name: "sub_itself_integer",
        equation: "x - x = 0 of integers, x xor x = 0",
        safety: Exact,
        roots: Roots::Ops(&[&SUB, &XOR]),
        apply: |cx| (!cx.is_float() && same(cx)).then(|| cx.fill(0.0)),
    },
    Rule {
        name: "sub_itself",
        equation: "x - x = 0",
        safety: FiniteOnly,
        roots: Roots::Ops(&[&SUB]),
        apply: |cx| same(cx).then(|| cx.fill(0.0)),
    },
    Rule {
        name: "add_constants",
        equation: "(x + a) + b = x + (a + b)",
        safety: Reassociates,
        roots: Roots::Ops(&[&ADD]),
        apply: |cx| join_constants(cx),
    },
    Rule {
        name: "add_constants_integer",
        equation: "(x + a) + b = x + (a + b) of integers",
        safety: Exact,
        roots: Roots::Ops(&[&ADD]),
        apply: |cx| if cx.is_float() { None } else { join_constants(cx) },
    },
    // ---- products ----------------------------------------------------------------------------------------------------
    Rule {
        name: "times_one",
        equation: "x·1 = x, x/1 = x",
        safety: Exact,
        roots: Roots::Ops(&[&MUL, &DIV]),
        apply: |cx| cx.is_splat(cx.y(), 1.0).then(|| cx.x()),
    },
    Rule {
        name: "times_zero_integer",
        equation: "x·0 = 0 of integers",
        safety: Exact,
        roots: Roots::Ops(&[&MUL]),
        apply: |cx| (!cx.is_float() && cx.is_splat(cx.y(), 0.0)).then(|| cx.y()),
    },
    Rule {
        name: "times_zero",
        equation: "x·0 = 0",
        safety: FiniteOnly,
        roots: Roots::Ops(&[&MUL]),
        apply: |cx| (cx.splat(cx.y()) == Some(0.0)).then(|| cx.fill(0.0)),
    },
    Rule {
        name: "div_itself",
        equation: "x/x = 1",
        safety: FiniteOnly,
        roots: Roots::Ops(&[&DIV]),
        apply: |cx| (cx.is_float() && same(cx)).then(|| cx.fill(1.0)),
    },
    Rule {
        name: "div_by_power_of_two",
        equation: "x / 2ⁿ = x · 2⁻ⁿ",
        safety: Exact,
        roots: Roots::Ops(&[&DIV]),
        apply: |cx| Some(cx.x() * cx.fill(exact_reciprocal(cx.splat(cx.y())?, cx.ty.dtype())?)),
    },
    Rule {
        name: "div_by_constant",
        equation: "x / c = x · (1/c)",
        safety: Reassociates,
        roots: Roots::Ops(&[&DIV]),
        apply: |cx| {
            let c = cx.splat(cx.y()).filter(|c| cx.is_float() && c.is_normal() && c.recip().is_normal())?;
            Some(cx.x() * cx.fill(c.recip()))
        },
    },
    Rule {
        name: "mul_constants",
        equation: "(x·a)·b = x·(a·b)",
        safety: Reassociates,
        roots: Roots::Ops(&[&MUL]),
        apply: |cx| join_constants(cx),
    },
    Rule {
        name: "mul_constants_integer",
        equation: "(x·a)·b = x·(a·b) of integers",
        safety: Exact,
        roots: Roots::Ops(&[&MUL]),
        apply: |cx| if cx.is_float() { None } else { join_constants(cx) },
    },
    // ---- powers ------------------------------------------------------------------------------------------------------
    Rule {
        name: "pow_small",
        equation: "x¹ = x, x² = x·x, x⁻¹ = 1/x, each correctly rounded",
        safety: Stabilizes,
        roots: Roots::Ops(&[&POW]),
        apply: |cx| match cx.splat(cx.y())? {
            1.0 => Some(cx.x()),
            2.0 => Some(cx.x() * cx.x()),
            -1.0 => Some(cx.fill(1.0) / cx.x()),
            _ => None,
        },
    },
    Rule {
        name: "pow_zero",
        equation: "x⁰ = 1",
        safety: Exact,
        roots: Roots::Ops(&[&POW]),
        apply: |cx| (cx.splat(cx.y()) == Some(0.0)).then(|| cx.fill(1.0)),
    },
    Rule {
        name: "pow_half",
        equation: "x^½ = √x, but not at -0 and -∞",
        safety: FiniteOnly,
        roots: Roots::Ops(&[&POW]),
        apply: |cx| cx.is_splat(cx.y(), 0.5).then(|| cx.x().sqrt()),
    },
    // ---- idempotent ops and bits -------------------------------------------------------------------------------------
    Rule {
        name: "idempotent",
        equation: "f(f(x)) = f(x)",
        safety: Exact,
        roots: Roots::Pointwise,
        apply: |cx| {
            let repeated =
                cx.op.traits.has(OpTraits::IDEMPOTENT) && cx.inputs.len() == 1 && cx.attrs.iter().count() == 0;
            (repeated && cx.arg(cx.x(), cx.op.0).is_some()).then(|| cx.x())
        },
    },
    Rule {
        name: "same_operands",
        equation: "max(x, x) = min(x, x) = x and x = x or x = x",
        safety: Exact,
        roots: Roots::Ops(&[&MAXIMUM, &MINIMUM, &AND, &OR]),
        apply: |cx| same(cx).then(|| cx.x()),
    },
    Rule {
        name: "logic_constants",
        equation: "x and true = x or false = x xor false = x; x and false = false, x or true = true",
        safety: Exact,
        roots: Roots::Ops(&[&AND, &OR, &XOR]),
        apply: |cx| {
            let c = cx.splat_bits(cx.y()).filter(|_| cx.ty.dtype() == DType::Bool)? != 0;
            // What leaves the other operand as it is; of `xor` there is no absorbing one.
            let neutral = cx.op.is(&AND);
            Some(if c == neutral {
                cx.x()
            } else if cx.op.is(&XOR) {
                !cx.x()
            } else {
                cx.y()
            })
        },
    },
    // ---- comparisons and selections ----------------------------------------------------------------------------------
    Rule {
        name: "lt_itself",
        equation: "(x < x) = false",
        safety: Exact,
        roots: Roots::Ops(&[&LT]),
        apply: |cx| same(cx).then(|| cx.fill(0.0)),
    },
    Rule {
        name: "compare_itself",
        equation: "(x = x) = (x ≤ x) = true, (x ≠ x) = false, of integers",
        safety: Exact,
        roots: Roots::Ops(&[&EQ, &LE, &NE]),
        apply: |cx| (same(cx) && !cx.x().is_float()).then(|| cx.fill(f64::from(u8::from(!cx.op.is(&NE))))),
    },
    Rule {
        name: "select_same",
        equation: "select(c, x, x) = x",
        safety: Exact,
        roots: Roots::Ops(&[&SELECT]),
        apply: |cx| (cx.inputs[1].id() == cx.inputs[2].id()).then(|| cx.inputs[1]),
    },
    Rule {
        name: "select_constant",
        equation: "select(true, a, b) = a, select(false, a, b) = b",
        safety: Exact,
        roots: Roots::Ops(&[&SELECT]),
        apply: |cx| cx.splat_bits(cx.x()).map(|c| if c != 0 { cx.inputs[1] } else { cx.inputs[2] }),
    },
    Rule {
        name: "select_of_select",
        equation: "select(c, select(c, a, b), d) = select(c, a, d), select(c, a, select(c, b, d)) = select(c, a, d)",
        safety: Exact,
        roots: Roots::Ops(&[&SELECT]),
        apply: |cx| {
            let inner = |k: usize| cx.args(cx.inputs[k], &SELECT).filter(|args| args[0].id() == cx.x().id());
            match (inner(1), inner(2)) {
                (Some(args), _) => Some(cx.x().select(args[1], cx.inputs[2])),
                (None, Some(args)) => Some(cx.x().select(cx.inputs[1], args[2])),
                (None, None) => None,
            }
        },
    },
];

/// Whether both operands are the same value.
fn same(cx: &RuleCx<'_, '_>) -> bool {
    cx.x().id() == cx.y().id()
}

/// `f(f(x, a), b)` as `f(x, f(a, b))` for constants a and b; folding does the rest.
fn join_constants<'g>(cx: &RuleCx<'g, '_>) -> Option<Tensor<'g>> {
    let args = cx.args(cx.x(), cx.op.0)?;
    cx.splat_bits(cx.y())?;
    cx.splat_bits(args[1])?;
    Some(args[0].binary(cx.op.0, args[1].binary(cx.op.0, cx.y())))
}

/// `1/c`, if that is exact and normal in the element type, so that multiplying by it is dividing by `c`.
fn exact_reciprocal(c: f64, dtype: DType) -> Option<f64> {
    let least = if dtype == DType::F32 { f64::from(f32::MIN_POSITIVE) } else { f64::MIN_POSITIVE };
    let mantissa = c.to_bits() & ((1 << 52) - 1);
    let r = c.recip();
    let in_range = c.abs() >= least && r.abs() >= least && r.is_finite() && c.is_finite();
    (dtype.is_float() && mantissa == 0 && in_range && c.abs() != 1.0).then_some(r)
}
