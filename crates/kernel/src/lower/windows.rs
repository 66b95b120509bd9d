//! Reductions of windows, written out, and the borders beneath them.

use cotangent_graph::NodeId;
use cotangent_graph::eval::reduction_groups;
use cotangent_scalar::order;
use cotangent_scalar::{DType, ReduceOp, ValueId};
use smallvec::SmallVec;

use super::index::is_inside;
use super::{Affine, ArgRef, Draft, Force, Index, Lowerer, flat};
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

    /// A tensor with a border: elements of the operand where the index is one, the border's value elsewhere.
    pub(super) fn bordered(&mut self, draft: &mut Draft, id: NodeId, index: &Index) -> Result<ValueId, Force> {
        let node = self.graph.node(id);
        let (operand, dtype) = (node.inputs[0], node.ty.dtype());
        let border = draft.s.const_from_bits(node.attrs.number("value").bits(dtype), dtype);
        let shape = self.graph.ty(operand).shape();
        if shape.contains(&0) || self.extents.contains(&0) {
            return Ok(border);
        }
        let mut inner = index.clone();
        let mut inside: Option<ValueId> = None;
        for ((affine, &low), &n) in inner.iter_mut().zip(node.attrs.ints("low")).zip(shape.iter()) {
            affine.offset -= low;
            let (least, most) = affine.range(&self.extents);
            if most < 0 || least >= n as i64 {
                return Ok(border);
            }
            if least >= 0 && most < n as i64 {
                continue;
            }
            let map = IndexMap { offset: affine.offset, strides: affine.coeffs.clone() };
            // Wide numbers would halve the vectors of the whole kernel.
            let fits = |v: i64| i32::try_from(v).is_ok();
            let index = if fits(least) && fits(most) && fits(n as i64) { DType::I32 } else { DType::I64 };
            let position = draft.input(Input::Index { map, dtype: index }, index, Some(id));
            let mut need = |draft: &mut Draft, condition: ValueId| {
                inside = Some(inside.map_or(condition, |others| draft.s.and(others, condition)));
            };
            if least < 0 {
                let first = draft.s.const_from_bits(0, index);
                let condition = draft.s.ge(position, first);
                need(draft, condition);
            }
            if most >= n as i64 {
                let end = draft.s.const_from_bits(n as u64, index);
                let condition = draft.s.lt(position, end);
                need(draft, condition);
            }
        }
        let value = self.value(draft, operand, &inner, Some(id))?;
        Ok(inside.map_or(value, |inside| draft.s.select(inside, value, border)))
    }

    /// A reduction of few elements, one after the other in the order that its extent states.
    pub(super) fn written_out(
        &mut self,
        draft: &mut Draft,
        id: NodeId,
        op: ReduceOp,
        index: &Index,
        via: Option<NodeId>,
    ) -> Result<ValueId, Force> {
        let node = self.graph.node(id);
        let (operand, axes, dtype) = (node.inputs[0], node.attrs.sizes("axes"), node.ty.dtype());
        let from = self.graph.ty(operand).shape();
        let n: usize = axes.iter().map(|&axis| from[axis]).product();
        let mut values = Vec::with_capacity(n);
        for position in 0..n {
            let (mut rest, mut kept) = (position, index.len());
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
            values.push(self.value(draft, operand, &at, via)?);
        }
        let is_row = reduction_groups(from, &axes).first().is_some_and(|&(_, _, inner)| inner == 1);
        let identity = draft.s.const_from_bits(op.identity(dtype), dtype);
        let combine = |acc: ValueId, value: ValueId| draft.s.combine(op, acc, value);
        Ok(match is_row {
            true => order::row_of(order::n_lanes(n, dtype), identity, values.into_iter(), combine),
            false => order::column_of(identity, values.into_iter(), combine),
        })
    }
}
