//! Reductions of windows, written out, and the borders beneath them.

use cotangent_graph::eval::reduction_groups;
use cotangent_graph::{Lower, NodeId};
use cotangent_scalar::{DType, ReduceOp, ValueId, order};
use smallvec::SmallVec;

use super::index::is_inside;
use super::{Affine, ArgRef, Draft, Found, Index, Lowerer, Of, flat};
use crate::ir::{Clamp, IndexMap, Input};

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

    /// A tensor with a border at an index: the border's value, or what the operand has there, if that is known to be inside or on
    /// a condition.
    pub(super) fn border(&mut self, draft: &mut Draft, id: NodeId, index: &Index) -> Found {
        let node = self.graph.node(id);
        let shape = self.graph.ty(node.inputs[0]).shape();
        let mut inner = index.clone();
        let lows = node.attrs.ints("low");
        inner.iter_mut().zip(lows).for_each(|(affine, &low)| affine.offset -= low);
        let ranges: SmallVec<[(i64, i64); 4]> = inner.iter().map(|affine| affine.range(&self.extents)).collect();
        let never = |(&(least, most), &n): (&(i64, i64), &usize)| n == 0 || most < 0 || least >= n as i64;
        if self.extents.contains(&0) || ranges.iter().zip(shape.iter()).any(never) {
            return Found::Value(self.border_value(draft, id));
        }
        let mut inside: Option<ValueId> = None;
        for ((affine, (least, most)), &n) in inner.iter().zip(ranges).zip(shape.iter()) {
            let end = n as i64;
            if least >= 0 && most < end {
                continue;
            }
            // Wide numbers would halve the vectors of the whole kernel.
            let is_short = [least, most, end].iter().all(|&v| i32::try_from(v).is_ok());
            let dtype = if is_short { DType::I32 } else { DType::I64 };
            let map = IndexMap { offset: affine.offset, strides: affine.coeffs.clone() };
            let position = draft.input(Input::Index { map, dtype }, dtype, Some(id));
            let s = &mut draft.s;
            let (first, end) = (s.const_from_bits(0, dtype), s.const_from_bits(end as u64, dtype));
            let conditions =
                [(least < 0).then(|| s.ge(position, first)), (most >= n as i64).then(|| s.lt(position, end))];
            for condition in conditions.into_iter().flatten() {
                inside = Some(inside.map_or(condition, |others| s.and(others, condition)));
            }
        }
        Found::Made(Of::Bordered(inner, inside))
    }

    fn border_value(&self, draft: &mut Draft, id: NodeId) -> ValueId {
        let node = self.graph.node(id);
        draft.s.const_from_bits(node.attrs.number("value").bits(node.ty.dtype()), node.ty.dtype())
    }

    /// The operand's value where it counts, that of the border elsewhere.
    pub(super) fn bordered(&self, draft: &mut Draft, id: NodeId, inside: Option<ValueId>, value: ValueId) -> ValueId {
        let border = self.border_value(draft, id);
        inside.map_or(value, |inside| draft.s.select(inside, value, border))
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
