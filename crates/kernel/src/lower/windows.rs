//! Reductions of windows, written out, and what is joined beneath them: borders and neighbors.

use cotangent_graph::eval::reduction_groups;
use cotangent_graph::ops::view::PAD;
use cotangent_graph::{Lower, NodeId};
use cotangent_scalar::{DType, ReduceOp, ValueId, order};
use smallvec::SmallVec;

use super::index::is_inside;
use super::{Affine, ArgRef, Draft, Found, Index, Lowerer, Of, flat};
use crate::ir::{Clamp, IndexMap, Input};

/// An operand at an index of its own, and where it counts, if not all along.
pub(super) struct Chosen {
    pub(super) operand: usize,
    pub(super) index: Index,
    pub(super) when: Option<ValueId>,
}

pub(super) type Choices = Vec<Chosen>;

impl Lowerer<'_> {
    /// The element of a node in memory at an index, which is held inside of the node's shape.
    pub(super) fn load_at(&mut self, draft: &mut Draft, node: NodeId, index: &Index, via: Option<NodeId>) -> ValueId {
        let shape = self.graph.ty(node).shape();
        if is_inside(index, shape, &self.extents) {
            return self.load(draft, node, flat(index, shape, self.extents.len()), via);
        }
        let mut place = Affine::constant(self.extents.len());
        let mut clamps = Vec::new();
        for ((affine, &stride), &n) in index.iter().zip(&shape.strides()).zip(shape.iter()) {
            if affine.is_within(n, &self.extents) {
                place.add_scaled(affine, stride);
            } else if n > 1 {
                let map = IndexMap { offset: affine.offset, strides: affine.coeffs.clone() };
                clamps.push(Clamp { map, last: n as i64 - 1, stride });
            }
        }
        if clamps.is_empty() {
            return self.load(draft, node, place, via);
        }
        let dtype = self.graph.ty(node).dtype();
        let arg = self.args.read(ArgRef::Node(node), dtype);
        let map = IndexMap { offset: place.offset, strides: place.coeffs };
        draft.input(Input::Clamped { arg, map, clamps }, dtype, via)
    }

    /// What is joined of several tensors, or of one and a border, at an index: the operands that have an element there, where they are
    /// known to, or on conditions.
    pub(super) fn joined(&mut self, draft: &mut Draft, id: NodeId, index: &Index) -> Found {
        let node = self.graph.node(id);
        let mut choices = Choices::new();
        if node.is(&PAD) {
            let shape = self.graph.ty(node.inputs[0]).shape();
            let mut inner = index.clone();
            let lows = node.attrs.ints("low");
            inner.iter_mut().zip(lows).for_each(|(affine, &low)| affine.offset -= low);
            let border = draft.s.const_from_bits(node.attrs.number("value").bits(node.ty.dtype()), node.ty.dtype());
            let never = |(affine, &n): (&Affine, &usize)| {
                let (least, most) = affine.range(&self.extents);
                n == 0 || most < 0 || least >= n as i64
            };
            if self.extents.contains(&0) || inner.iter().zip(shape.iter()).any(never) {
                return Found::Value(border);
            }
            let mut inside: Option<ValueId> = None;
            for (affine, &n) in inner.iter().zip(shape.iter()) {
                inside = self.within(draft, id, affine, (0, n as i64), inside);
            }
            choices.push(Chosen { operand: 0, index: inner, when: inside });
            return Found::Made(Of::Chosen(choices, Some(border)));
        }
        let axis = node.attrs.size("axis");
        let (least, most) = index[axis].range(&self.extents);
        let mut start = 0;
        for (operand, &input) in node.inputs.iter().enumerate() {
            let end = start + self.graph.ty(input).shape()[axis] as i64;
            // Of loops without iterations any operand stands for all.
            if start < end && least < end && most >= start || self.extents.contains(&0) {
                let when = self.within(draft, id, &index[axis], (least, end), None);
                let mut index = index.clone();
                index[axis].offset -= start;
                choices.push(Chosen { operand, index, when });
            }
            start = end;
        }
        Found::Made(Of::Chosen(choices, None))
    }

    /// Whether an index is in a range, and another condition holds; `None` if both are so all along.
    fn within(
        &self,
        draft: &mut Draft,
        id: NodeId,
        affine: &Affine,
        (first, end): (i64, i64),
        others: Option<ValueId>,
    ) -> Option<ValueId> {
        let (least, most) = affine.range(&self.extents);
        if least >= first && most < end {
            return others;
        }
        // Wide numbers would halve the vectors of the whole kernel.
        let is_short = [least, most, end].iter().all(|&v| i32::try_from(v).is_ok());
        let dtype = if is_short { DType::I32 } else { DType::I64 };
        let map = IndexMap { offset: affine.offset, strides: affine.coeffs.clone() };
        let position = draft.input(Input::Index { map, dtype }, dtype, Some(id));
        let s = &mut draft.s;
        let (low, high) = (s.const_from_bits(first as u64, dtype), s.const_from_bits(end as u64, dtype));
        let conditions = [(least < first).then(|| s.ge(position, low)), (most >= end).then(|| s.lt(position, high))];
        conditions
            .into_iter()
            .flatten()
            .fold(others, |others, condition| Some(others.map_or(condition, |others| s.and(others, condition))))
    }

    /// The first of the values whose condition holds; if there is none, that of the border or the last one.
    pub(super) fn chosen(draft: &mut Draft, choices: &Choices, border: Option<ValueId>, values: &[ValueId]) -> ValueId {
        let mut all = choices.iter().zip(values).rev();
        let otherwise = border.or_else(|| all.next().map(|(_, &value)| value)).unwrap_or(values[0]);
        all.fold(otherwise, |otherwise, (choice, &value)| {
            choice.when.map_or(value, |when| draft.s.select(when, value, otherwise))
        })
    }

    /// The index of the operand's element of this number, in row-major order, that a reduction at an index combines.
    pub(super) fn tap(&self, id: NodeId, index: &Index, number: usize) -> Index {
        let node = self.graph.node(id);
        let (axes, from) = (node.attrs.sizes("axes"), self.graph.ty(node.inputs[0]).shape());
        let (mut rest, mut kept) = (number, index.len());
        let mut at: Index = SmallVec::from_elem(Affine::constant(self.extents.len()), from.rank());
        for axis in (0..from.rank()).rev() {
            if axes.contains(&axis) {
                at[axis].offset = (rest % from[axis]) as i64;
                rest /= from[axis];
            } else {
                kept -= 1;
                at[axis] = index[kept].clone();
            }
        }
        at
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
