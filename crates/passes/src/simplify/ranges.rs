//! The range of integer values, as far as the graph shows it.
//!
//! Used to prove that an index is in range, so that its check can go; a range that is not proved is `None`, never a guess.

use cotangent_graph::op::Check;
use cotangent_graph::ops::arithmetic::{ADD, MAXIMUM, MINIMUM, OR};
use cotangent_graph::ops::compare::{CAST, EQ, NE, SELECT};
use cotangent_graph::ops::index::GATHER;
use cotangent_graph::ops::reduce::REDUCE_MAX;
use cotangent_graph::ops::source::IOTA;
use cotangent_graph::ops::view::BROADCAST;
use cotangent_graph::{DType, Graph, Lower, NodeId, Source, StepCx};
use cotangent_scalar::ReduceOp;

/// Nodes looked through before the proof is given up.
const DEPTH_LIMIT: u32 = 16;

/// The least and the largest value of an integer tensor, both included.
pub type Range = (i64, i64);

/// The range of a node's values.
pub fn range(graph: &Graph, id: NodeId) -> Option<Range> {
    range_within(graph, id, DEPTH_LIMIT)
}

fn range_within(graph: &Graph, id: NodeId, depth: u32) -> Option<Range> {
    let node = graph.node(id);
    let (dtype, shape) = node.ty.as_tensor()?;
    if depth == 0 || !dtype.is_int() || shape.contains(&0) {
        return None;
    }
    let of = |k: usize| range_within(graph, node.inputs[k], depth - 1);
    let is = |op| node.op.is(op);
    match &node.op.lower {
        Lower::Source(Source::Constant) => {
            let bits = node.constant()?.bits();
            let value = |b: u64| if dtype == DType::I32 { i64::from(b as u32 as i32) } else { b as i64 };
            let values = bits.into_iter().map(value);
            Some((values.clone().min()?, values.max()?))
        }
        Lower::Source(Source::Iota) => Some((0, shape[node.attrs.size("axis")] as i64 - 1)),
        Lower::Check(Check::Index) => {
            let last = node.attrs.int("bound").saturating_sub(1);
            let (low, high) = of(0).unwrap_or((0, last));
            Some((low.max(0), high.min(last)))
        }
        Lower::View(_) => of(0),
        Lower::Reduce(ReduceOp::Min) if is_argmax(graph, id) => {
            // The index along the reduced axis of an element that is there.
            let place = graph.node(graph.node(node.inputs[0]).inputs[1]);
            Some((0, place.ty.shape()[place.attrs.size("axis")] as i64 - 1))
        }
        Lower::Reduce(ReduceOp::Max | ReduceOp::Min) => of(0),
        Lower::Step(_) if is(&GATHER) => of(0),
        Lower::Step(step) => step.range(&StepCx::of(graph, node)),
        _ if is(&CAST) => {
            let (low, high) = of(0)?;
            let (least, most) = limits(dtype);
            (low >= least && high <= most).then_some((low, high))
        }
        _ if is(&SELECT) => {
            let (a, b) = (of(1)?, of(2)?);
            Some((a.0.min(b.0), a.1.max(b.1)))
        }
        _ if is(&MAXIMUM) => {
            let (a, b) = (of(0)?, of(1)?);
            Some((a.0.max(b.0), a.1.max(b.1)))
        }
        _ if is(&MINIMUM) => {
            let (a, b) = (of(0)?, of(1)?);
            Some((a.0.min(b.0), a.1.min(b.1)))
        }
        _ if is(&ADD) => {
            let (a, b) = (of(0)?, of(1)?);
            let (low, high) = (a.0.checked_add(b.0)?, a.1.checked_add(b.1)?);
            let (least, most) = limits(dtype);
            (low >= least && high <= most).then_some((low, high))
        }
        _ => None,
    }
}

fn limits(dtype: DType) -> Range {
    match dtype {
        DType::I32 => (i32::MIN.into(), i32::MAX.into()),
        DType::U8 => (0, 255),
        _ => (i64::MIN, i64::MAX),
    }
}

/// Whether a `reduce_min` is what `argmax` expands to: the least index along the reduced axis at which an element is the
/// largest or NaN. There always is one, so the value that stands for the others never wins.
fn is_argmax(graph: &Graph, id: NodeId) -> bool {
    let node = |id: NodeId| graph.node(id);
    let argument = |id: NodeId, op| node(id).is(op).then(|| node(id).inputs.clone());
    let check = || {
        let select = argument(node(id).inputs[0], &SELECT)?;
        let place = node(select[1]);
        let axes = node(id).attrs.sizes("axes");
        let by_axis = place.is(&IOTA) && axes.as_slice() == [place.attrs.size("axis")];
        let hit = argument(select[0], &OR)?;
        let of = |eq: NodeId, ne: NodeId| {
            let (eq, ne) = (argument(eq, &EQ)?, argument(ne, &NE)?);
            let x = ne[0];
            let other = if eq[0] == x { eq[1] } else { eq[0] };
            let most = argument(other, &BROADCAST)?[0];
            let largest = argument(most, &REDUCE_MAX)?[0] == x && node(most).attrs.sizes("axes") == axes;
            Some(ne[1] == x && eq.contains(&x) && largest)
        };
        Some(by_axis && (of(hit[0], hit[1]) == Some(true) || of(hit[1], hit[0]) == Some(true)))
    };
    check() == Some(true)
}
