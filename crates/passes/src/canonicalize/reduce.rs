//! Reductions of one group of neighbouring axes, none of extent 1.
//!
//! A reduction over several separate groups is defined as one after the other, innermost first
//! ([`cotangent_graph::eval::reduction_groups`]), so taking it apart changes no bit; and axes of extent 1 take no part.

use cotangent_graph::Tensor;
use cotangent_graph::ops::reduce::{REDUCE_MAX, REDUCE_MIN, REDUCE_PROD, REDUCE_SUM};
use smallvec::SmallVec;

use crate::canonicalize::views::squeezed;
use crate::rules::{Roots, Rule, RuleCx, Safety::Exact};

type Axes = SmallVec<[usize; 4]>;

/// The rows.
pub static ROWS: &[Rule] = &[
    Rule {
        name: "reduce_nothing",
        equation: "a reduction over axes of extent 1 is a reshape",
        safety: Exact,
        roots: Roots::Ops(REDUCTIONS),
        apply: |cx| {
            let shape = cx.x().shape();
            cx.attrs.sizes("axes").iter().all(|&a| shape[a] == 1).then(|| cx.x().reshape(cx.ty.shape()))
        },
    },
    Rule {
        name: "squeeze_reduce",
        equation: "axes of extent 1 among or between the reduced ones are dropped first",
        safety: Exact,
        roots: Roots::Ops(REDUCTIONS),
        apply: |cx| {
            let (shape, axes) = (cx.x().shape(), cx.attrs.sizes("axes"));
            let (first, last) = (*axes.first()?, *axes.last()?);
            if !(first..=last).any(|a| shape[a] == 1) {
                return None;
            }
            let place = |axis: usize| axis - (0..axis).filter(|&a| shape[a] == 1).count();
            let wide: Axes = axes.iter().filter(|&&a| shape[a] != 1).map(|&a| place(a)).collect();
            Some(reduce(cx, cx.x().reshape(squeezed(&shape)), &wide).reshape(cx.ty.shape()))
        },
    },
    Rule {
        name: "split_reduce",
        equation: "a reduction over separate groups of axes is one over the innermost, then over the others",
        safety: Exact,
        roots: Roots::Ops(REDUCTIONS),
        apply: |cx| {
            let axes = cx.attrs.sizes("axes");
            let start = (1..axes.len()).rev().find(|&i| axes[i] != axes[i - 1] + 1)?;
            Some(reduce(cx, reduce(cx, cx.x(), &axes[start..]), &axes[..start]))
        },
    },
];

static REDUCTIONS: &[&cotangent_graph::OpDef] = &[&REDUCE_SUM, &REDUCE_PROD, &REDUCE_MAX, &REDUCE_MIN];

fn reduce<'g>(cx: &RuleCx<'g, '_>, x: Tensor<'g>, axes: &[usize]) -> Tensor<'g> {
    let attrs = cotangent_graph::Attrs::none().with("axes", axes);
    x.unary_with(cx.op.0, attrs)
}
