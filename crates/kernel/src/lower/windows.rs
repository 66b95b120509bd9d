//! Reductions of windows, written out, and what is joined beneath them: borders and neighbors.

use cotangent_graph::eval::reduction_groups;
use cotangent_graph::ops::view::PAD;
use cotangent_graph::{Lower, NodeId};
use cotangent_scalar::{DType, ReduceOp, ValueId, order};

use super::{ArgRef, Draft, Found, Index, Lowerer, Of};
use crate::index::{Affine, held, pieces};
use crate::ir::{Clamp, Input};

/// An operand at an index of its own, and where it counts, if not all along.
pub(super) struct Chosen {
    pub(super) operand: usize,
    pub(super) index: Index,
    pub(super) when: Option<ValueId>,
}

pub(super) type Choices = Vec<Chosen>;

impl Lowerer<'_> {
    /// The element of a node in memory at an index, which is held inside of the node's shape.
    pub(super) fn load_at(&mut self, draft: &mut Draft, node: NodeId, index: &Index) -> ValueId {
        let (place, beyond) = held(index, self.graph.ty(node).shape(), &self.extents);
        if beyond.is_empty() {
            return self.load(draft, node, place);
        }
        let clamps = beyond.into_iter().map(|h| Clamp { map: h.of.into_map(), last: h.last, stride: h.stride });
        let dtype = self.graph.ty(node).dtype();
        let arg = self.args.read(ArgRef::Node(node), dtype);
        draft.input(Input::Clamped { arg, map: place.into_map(), clamps: clamps.collect() }, dtype)
    }

    /// What is joined of several tensors, or of one and a border, at an index: the operands that have an element there, where they are
    /// known to, or on conditions.
    pub(super) fn joined(&mut self, draft: &mut Draft, id: NodeId, index: &Index) -> Found {
        let node = self.graph.node(id);
        let border = node.is(&PAD).then(|| {
            let bits = node.attrs.number("value").bits(node.ty.dtype());
            draft.s.const_from_bits(bits, node.ty.dtype())
        });
        let mut choices = Choices::new();
        for piece in pieces(self.graph, id, index, &self.extents) {
            let when = piece
                .within
                .into_iter()
                .fold(None, |others, (affine, first, end)| self.within(draft, affine, (first, end), others));
            choices.push(Chosen { operand: piece.operand, index: piece.index, when });
        }
        match border {
            Some(border) if choices.is_empty() => Found::Value(border),
            _ => Found::Made(Of::Chosen(choices, border)),
        }
    }

    /// Whether an index is in a range, of which it may be outside, and another condition holds.
    fn within(
        &self,
        draft: &mut Draft,
        affine: Affine,
        (first, end): (i64, i64),
        others: Option<ValueId>,
    ) -> Option<ValueId> {
        let (least, most) = affine.range(&self.extents);
        // Wide numbers would halve the vectors of the whole kernel.
        let is_short = [least, most, end].iter().all(|&v| i32::try_from(v).is_ok());
        let dtype = if is_short { DType::I32 } else { DType::I64 };
        let map = affine.into_map();
        let position = draft.input(Input::Index { map, dtype }, dtype);
        let s = &mut draft.s;
        let (low, high) = (s.const_from_bits(first as u64, dtype), s.const_from_bits(end as u64, dtype));
        let above = (least < first).then(|| s.ge(position, low));
        let below = (most >= end).then(|| s.lt(position, high));
        others.into_iter().chain(above).chain(below).reduce(|condition, other| s.and(condition, other))
    }

    /// The first of the values whose condition holds; if there is none, that of the border or the last one.
    pub(super) fn chosen(draft: &mut Draft, choices: &Choices, border: Option<ValueId>, values: &[ValueId]) -> ValueId {
        let mut all = choices.iter().zip(values).rev();
        let otherwise = border.or_else(|| all.next().map(|(_, &value)| value)).unwrap_or(values[0]);
        all.fold(otherwise, |otherwise, (choice, &value)| {
            choice.when.map_or(value, |when| draft.s.select(when, value, otherwise))
        })
    }

    /// A reduction of few elements, in the order that its extent states.
    pub(super) fn combined(&self, draft: &mut Draft, id: NodeId, elements: &[ValueId]) -> ValueId {
        let node = self.graph.node(id);
        let (dtype, from) = (node.ty.dtype(), self.graph.ty(node.inputs[0]).shape());
        let Lower::Reduce(op) = node.op.lower else { return elements[0] };
        let is_row = reduction_groups(from, &node.attrs.sizes("axes")).first().is_some_and(|group| group.2 == 1);
        let identity = draft.s.const_from_bits(op.identity(dtype), dtype);
        let mut elements = elements.iter().copied();
        let mut combine = |acc: ValueId, value: ValueId| draft.s.combine(op, acc, value);
        if is_row {
            return order::row_of(order::n_lanes(elements.len(), dtype), identity, elements, combine);
        }
        // One block of the column rule. Combined with the identity a value is itself, but for -0 in a sum, and what a sum has come to
        // from +0 is never that.
        let first = match (op, elements.next()) {
            (_, None) => return identity,
            (ReduceOp::Sum, Some(first)) => combine(identity, first),
            (_, Some(first)) => first,
        };
        elements.fold(first, combine)
    }
}
