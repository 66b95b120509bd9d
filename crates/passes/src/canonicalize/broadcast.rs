//! What is computed from repeated values alone is computed once, and then repeated.

use cotangent_graph::ops::reduce::{REDUCE_MAX, REDUCE_MIN};
use cotangent_graph::ops::source::CONSTANT;
use cotangent_graph::ops::view::BROADCAST;
use cotangent_graph::{Shape, Tensor, TensorData};
use smallvec::SmallVec;

use crate::rules::{Roots, Rule, RuleCx, Safety::Exact};

type Axes = SmallVec<[usize; 4]>;

/// Constants of more elements are not searched for a repeated one.
const SEARCH_LIMIT: usize = 1 << 16;

/// The rows.
pub static ROWS: &[Rule] = &[
    Rule {
        name: "constant_to_scalar",
        equation: "a constant whose elements are equal is a scalar, repeated",
        safety: Exact,
        roots: Roots::Ops(&[&CONSTANT]),
        apply: |cx| {
            let value = cx.attrs.tensor("value")?;
            let n = value.shape().n_elements();
            if !(2..=SEARCH_LIMIT).contains(&n) {
                return None;
            }
            let bits = value.bits();
            let equal = bits.iter().all(|&b| b == bits[0]);
            let scalar = || TensorData::from_bits(value.dtype(), &Shape::default(), &bits[..1]);
            equal.then(|| cx.g.constant(scalar()).broadcast_to(value.shape()))
        },
    },
    Rule {
        name: "broadcast_outwards",
        equation: "f(broadcast(a), broadcast(b)) = broadcast(f(a, b)) for f element by element",
        safety: Exact,
        roots: Roots::Pointwise,
        apply: broadcast_outwards,
    },
    Rule {
        name: "extreme_of_broadcast",
        equation: "max and min over repeated axes are the value",
        safety: Exact,
        roots: Roots::Ops(&[&REDUCE_MAX, &REDUCE_MIN]),
        apply: |cx| {
            let (args, inner) = cx.parts(cx.x(), &BROADCAST)?;
            let (kept, reduced, shape) = (inner.sizes("axes"), cx.attrs.sizes("axes"), cx.x().shape());
            let over_repeated = reduced.iter().all(|a| !kept.contains(a) && shape[*a] > 0);
            let left = |axis: usize| axis - reduced.iter().filter(|&&r| r < axis).count();
            let axes: Axes = kept.iter().map(|&a| left(a)).collect();
            (over_repeated && !reduced.is_empty()).then(|| args[0].broadcast_along(cx.ty.shape(), &axes))
        },
    },
];

fn broadcast_outwards<'g>(cx: &RuleCx<'g, '_>) -> Option<Tensor<'g>> {
    let shape = cx.ty.shape();
    if shape.n_elements() == 0 {
        return None;
    }
    // The axes along which some operand varies.
    let mut varying: Axes = SmallVec::new();
    let mut operands: SmallVec<[(Tensor<'g>, Axes); 3]> = SmallVec::new();
    for &input in cx.inputs {
        let (args, attrs) = cx.parts(input, &BROADCAST)?;
        let axes = attrs.sizes("axes");
        if args[0].shape().contains(&1) {
            // Not in normal form yet; another rule drops the axis first.
            return None;
        }
        varying.extend(axes.iter().copied());
        operands.push((args[0], axes));
    }
    varying.sort_unstable();
    varying.dedup();
    let small: Shape = varying.iter().map(|&a| shape[a]).collect();
    if operands.is_empty() || small.n_elements() == shape.n_elements() {
        return None;
    }
    let place = |axis: &usize| varying.iter().position(|a| a == axis);
    let mut inputs: SmallVec<[Tensor<'g>; 3]> = SmallVec::new();
    for (x, axes) in operands {
        let axes: Axes = axes.iter().filter_map(place).collect();
        inputs.push(if x.shape() == small { x } else { x.broadcast_along(&small, &axes) });
    }
    Some(cx.g.op(cx.op.0, &inputs, cx.attrs.clone(), None).broadcast_along(shape, &varying))
}
