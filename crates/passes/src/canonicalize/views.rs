//! Views: no-ops vanish, neighbours are composed, and a view of something repeated views the small thing.

use cotangent_graph::ops::view::{BROADCAST, CONCAT, FLIP, PAD, RESHAPE, SLICE, TRANSPOSE};
use cotangent_graph::{Shape, Tensor};
use smallvec::SmallVec;

use crate::rules::{Roots, Rule, RuleCx, Safety::Exact};

type Axes = SmallVec<[usize; 4]>;

/// The rows.
pub static ROWS: &[Rule] = &[
    Rule {
        name: "identity_view",
        equation: "a view that moves nothing is its operand",
        safety: Exact,
        roots: Roots::Ops(&[&RESHAPE, &TRANSPOSE, &BROADCAST, &SLICE, &FLIP, &PAD, &CONCAT]),
        apply: |cx| is_identity(cx).then(|| cx.x()),
    },
    Rule {
        name: "view_of_scalar",
        equation: "a view of a repeated scalar is that scalar, repeated",
        safety: Exact,
        roots: Roots::Ops(&[&RESHAPE, &TRANSPOSE, &BROADCAST, &SLICE, &FLIP]),
        apply: |cx| {
            let scalar = cx.arg(cx.x(), &BROADCAST)?;
            (scalar.rank() == 0).then(|| scalar.broadcast_to(cx.ty.shape()))
        },
    },
    Rule {
        name: "reshape_of_reshape",
        equation: "reshape(reshape(x)) = reshape(x)",
        safety: Exact,
        roots: Roots::Ops(&[&RESHAPE]),
        apply: |cx| cx.arg(cx.x(), &RESHAPE).map(|x| x.reshape(cx.ty.shape())),
    },
    Rule {
        name: "transpose_of_transpose",
        equation: "transpose(transpose(x, p), q) = transpose(x, p∘q)",
        safety: Exact,
        roots: Roots::Ops(&[&TRANSPOSE]),
        apply: |cx| {
            let (args, inner) = cx.parts(cx.x(), &TRANSPOSE)?;
            let inner = inner.sizes("perm");
            Some(args[0].transpose(&perm(cx).iter().map(|&p| inner[p]).collect::<Axes>()))
        },
    },
    Rule {
        name: "transpose_to_reshape",
        equation: "a transpose that moves only axes of extent 1 is a reshape",
        safety: Exact,
        roots: Roots::Ops(&[&TRANSPOSE]),
        apply: |cx| {
            let shape = cx.x().shape();
            let moved: Axes = perm(cx).into_iter().filter(|&p| shape[p] != 1).collect();
            moved.is_sorted().then(|| cx.x().reshape(cx.ty.shape()))
        },
    },
    Rule {
        name: "transpose_of_broadcast",
        equation: "transpose(broadcast(x)) = broadcast(transpose(x))",
        safety: Exact,
        roots: Roots::Ops(&[&TRANSPOSE]),
        apply: |cx| {
            let (args, inner) = cx.parts(cx.x(), &BROADCAST)?;
            let (axes, perm) = (inner.sizes("axes"), perm(cx));
            // For each axis of x, where it is in the result; then x in the order in which they are there.
            let place = |axis: usize| perm.iter().position(|&p| p == axis).unwrap_or(axis);
            let mut places: SmallVec<[(usize, usize); 4]> =
                axes.iter().enumerate().map(|(i, &axis)| (place(axis), i)).collect();
            places.sort_unstable();
            let order: Axes = places.iter().map(|&(_, i)| i).collect();
            let to: Axes = places.iter().map(|&(p, _)| p).collect();
            let turned = if order.is_sorted() { args[0] } else { args[0].transpose(&order) };
            Some(turned.broadcast_along(cx.ty.shape(), &to))
        },
    },
    Rule {
        name: "broadcast_of_broadcast",
        equation: "broadcast(broadcast(x, a), b) = broadcast(x, b∘a)",
        safety: Exact,
        roots: Roots::Ops(&[&BROADCAST]),
        apply: |cx| {
            let (args, inner) = cx.parts(cx.x(), &BROADCAST)?;
            let (inner, outer) = (inner.sizes("axes"), cx.attrs.sizes("axes"));
            let axes: Axes = inner.iter().map(|&a| outer[a]).collect();
            Some(args[0].broadcast_along(cx.ty.shape(), &axes))
        },
    },
    Rule {
        name: "squeeze_broadcast",
        equation: "axes of extent 1 are dropped before they are repeated",
        safety: Exact,
        roots: Roots::Ops(&[&BROADCAST]),
        apply: |cx| {
            let from = cx.x().shape();
            if !from.contains(&1) || from.contains(&0) {
                return None;
            }
            let axes = cx.attrs.sizes("axes");
            let kept: Axes = axes.iter().zip(from.iter()).filter(|(_, n)| **n != 1).map(|(&a, _)| a).collect();
            Some(cx.x().reshape(squeezed(&from)).broadcast_along(cx.ty.shape(), &kept))
        },
    },
    Rule {
        name: "broadcast_to_reshape",
        equation: "a broadcast that repeats nothing is a reshape",
        safety: Exact,
        roots: Roots::Ops(&[&BROADCAST]),
        apply: |cx| {
            let (from, to) = (cx.x().shape(), cx.ty.shape());
            (from.n_elements() == to.n_elements() && from.n_elements() > 0).then(|| cx.x().reshape(to))
        },
    },
    Rule {
        name: "reshape_of_broadcast",
        equation: "a reshape of a broadcast that only adds or drops axes of extent 1 is a broadcast",
        safety: Exact,
        roots: Roots::Ops(&[&RESHAPE]),
        apply: |cx| {
            let (args, inner) = cx.parts(cx.x(), &BROADCAST)?;
            let (from, to) = (cx.x().shape(), cx.ty.shape());
            if squeezed(&from) != squeezed(to) || args[0].shape().contains(&1) || from.contains(&0) {
                return None;
            }
            // The k-th axis of more than one element stays the k-th.
            let wide = |s: &Shape| -> Axes { (0..s.rank()).filter(|&a| s[a] != 1).collect() };
            let (before, after) = (wide(&from), wide(to));
            let place = |axis: usize| before.iter().position(|&a| a == axis).map(|k| after[k]);
            let axes: Option<Axes> = inner.sizes("axes").iter().map(|&a| place(a)).collect();
            Some(args[0].broadcast_along(to, &axes?))
        },
    },
    Rule {
        name: "flip_of_flip",
        equation: "flip(flip(x, a), b) = flip(x, a ⊕ b)",
        safety: Exact,
        roots: Roots::Ops(&[&FLIP]),
        apply: |cx| {
            let (args, inner) = cx.parts(cx.x(), &FLIP)?;
            let (a, b) = (inner.sizes("axes"), cx.attrs.sizes("axes"));
            let axes: Axes = (0..cx.ty.shape().rank()).filter(|axis| a.contains(axis) != b.contains(axis)).collect();
            Some(if axes.is_empty() { args[0] } else { args[0].flip(&axes) })
        },
    },
    Rule {
        name: "slice_of_slice",
        equation: "slice(slice(x)) = slice(x)",
        safety: Exact,
        roots: Roots::Ops(&[&SLICE]),
        apply: |cx| {
            let (args, inner) = cx.parts(cx.x(), &SLICE)?;
            let (outer, to) = (Ranges::of(cx.attrs), cx.ty.shape());
            let inner = Ranges::of(&inner);
            if to.contains(&0) {
                return None;
            }
            let axes = 0..to.rank();
            let start: Axes = axes.clone().map(|i| inner.start[i] + outer.start[i] * inner.step[i]).collect();
            // Where there are no neighbors, their distance may be any number.
            let step: Axes = axes.clone().map(|i| if to[i] > 1 { inner.step[i] * outer.step[i] } else { 1 }).collect();
            let limit: Axes = axes.map(|i| start[i] + (to[i] - 1) * step[i] + 1).collect();
            Some(args[0].slice_steps(&start, &limit, &step))
        },
    },
    Rule {
        name: "slice_of_pad",
        equation: "a slice inside what was padded is a slice of it",
        safety: Exact,
        roots: Roots::Ops(&[&SLICE]),
        apply: |cx| {
            let (args, inner) = cx.parts(cx.x(), &PAD)?;
            let (ranges, low, shape) = (Ranges::of(cx.attrs), inner.sizes("low"), args[0].shape());
            let inside = |i: usize| ranges.start[i] >= low[i] && ranges.limit[i] <= low[i] + shape[i];
            if !(0..shape.rank()).all(inside) {
                return None;
            }
            let moved = |list: &Axes| -> Axes { list.iter().zip(&low).map(|(a, l)| a - l).collect() };
            Some(args[0].slice_steps(&moved(&ranges.start), &moved(&ranges.limit), &ranges.step))
        },
    },
    Rule {
        name: "slice_of_concat",
        equation: "a slice inside one part of a concat is a slice of that part",
        safety: Exact,
        roots: Roots::Ops(&[&SLICE]),
        apply: |cx| {
            let (parts, inner) = cx.parts(cx.x(), &CONCAT)?;
            let (mut ranges, axis) = (Ranges::of(cx.attrs), inner.size("axis"));
            let mut first = 0;
            for part in parts {
                let end = first + part.shape()[axis];
                if ranges.start[axis] >= first && ranges.limit[axis] <= end {
                    ranges.start[axis] -= first;
                    ranges.limit[axis] -= first;
                    return Some(part.slice_steps(&ranges.start, &ranges.limit, &ranges.step));
                }
                first = end;
            }
            None
        },
    },
    Rule {
        name: "slice_limit",
        equation: "the limit of a slice is one past its last element",
        safety: Exact,
        roots: Roots::Ops(&[&SLICE]),
        apply: |cx| {
            let (ranges, to) = (Ranges::of(cx.attrs), cx.ty.shape());
            if to.contains(&0) {
                return None;
            }
            let step: Axes = (0..to.rank()).map(|i| if to[i] == 1 { 1 } else { ranges.step[i] }).collect();
            let limit: Axes = (0..to.rank()).map(|i| ranges.start[i] + (to[i] - 1) * step[i] + 1).collect();
            (limit != ranges.limit || step != ranges.step).then(|| cx.x().slice_steps(&ranges.start, &limit, &step))
        },
    },
];

/// The attributes of a slice.
struct Ranges {
    start: Axes,
    limit: Axes,
    step: Axes,
}

impl Ranges {
    fn of(attrs: &cotangent_graph::Attrs) -> Self {
        Ranges { start: attrs.sizes("start"), limit: attrs.sizes("limit"), step: attrs.sizes("step") }
    }
}

fn perm(cx: &RuleCx<'_, '_>) -> Axes {
    cx.attrs.sizes("perm")
}

/// A shape without its axes of extent 1.
pub fn squeezed(shape: &Shape) -> Shape {
    shape.iter().copied().filter(|&n| n != 1).collect()
}

fn is_identity<'g>(cx: &RuleCx<'g, '_>) -> bool {
    let x: Tensor<'g> = cx.x();
    if x.shape() != *cx.ty.shape() {
        return false;
    }
    if cx.op.is(&TRANSPOSE) {
        perm(cx).is_sorted()
    } else if cx.op.is(&FLIP) {
        cx.attrs.sizes("axes").iter().all(|&a| cx.ty.shape()[a] == 1)
    } else if cx.op.is(&CONCAT) {
        cx.inputs.len() == 1
    } else {
        // Of equal shapes these have nothing left to move: a broadcast's axes ascend, a slice or pad that changes
        // something changes an extent, and a concat of one extent has one part that is not empty.
        cx.op.is_any(&[&RESHAPE, &BROADCAST, &SLICE, &PAD])
    }
}
