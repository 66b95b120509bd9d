//! What every tensor can be asked, and the ops on one or several of any kind; the ops by name stand with their records.

use cotangent_scalar::DType;
use smallvec::SmallVec;

use crate::attrs::Attrs;
use crate::axes::{self, Axis};
use crate::diag::{Code, Diag, Loc};
use crate::ir::NodeId;
use crate::op::OpDef;
use crate::types::{Shape, Type};

use super::{FIRST_POISON, GraphBuilder, Tensor, UNKNOWN, UNKNOWN_RANK};

impl<'g> Tensor<'g> {
    /// The builder it belongs to.
    pub fn builder(self) -> &'g GraphBuilder {
        self.builder
    }

    /// Its node. Not to be asked of a poisoned tensor.
    pub fn id(self) -> NodeId {
        self.id
    }

    /// Whether an error was recorded on the way to it.
    pub fn is_poisoned(self) -> bool {
        self.id.0 >= FIRST_POISON
    }

    /// Records an error about this tensor, unless one was recorded on the way to it. The poisoned tensor that is returned has
    /// this one's type.
    pub fn refuse(self, diag: Diag) -> Tensor<'g> {
        if self.is_poisoned() {
            return self;
        }
        self.builder.error(diag);
        self.builder.poisoned_as(self.ty())
    }

    /// This tensor, or, if it is poisoned and nothing is known about it, a poisoned one of this type.
    pub(crate) fn or_like(self, ty: impl FnOnce() -> Type) -> Tensor<'g> {
        if self.id == UNKNOWN { self.builder.poisoned_as(ty()) } else { self }
    }

    /// The dotted name, if it is an input, parameter or state.
    pub fn name(self) -> Option<String> {
        if self.is_poisoned() {
            return None;
        }
        self.builder.graph.borrow().node(self.id).name().map(str::to_owned)
    }

    /// Where it was made.
    pub fn made_at(self) -> Loc {
        if self.is_poisoned() { Loc::Internal } else { self.builder.graph.borrow().node(self.id).origin.loc() }
    }

    /// Its type. Of a poisoned tensor it is that which it would have without the mistake, if that can be told; otherwise it has
    /// sixteen axes, so that none that is asked for is missing.
    pub fn ty(self) -> Type {
        match self.id.0.checked_sub(FIRST_POISON) {
            None => self.builder.graph.borrow().ty(self.id).clone(),
            Some(guess) => {
                let known = self.builder.guesses.borrow().get(guess as usize).cloned();
                known.unwrap_or_else(|| Type::tensor(DType::F32, [1; UNKNOWN_RANK]))
            }
        }
    }

    /// Its shape.
    pub fn shape(self) -> Shape {
        self.ty().shape().clone()
    }

    /// Its element type.
    pub fn dtype(self) -> DType {
        self.ty().dtype()
    }

    /// Number of axes.
    pub fn rank(self) -> usize {
        self.shape().rank()
    }

    /// Extent of an axis; `-1` is the last. That there is no such axis is an error of the graph, and the extent then 1.
    #[track_caller]
    pub fn dim(self, axis: impl Into<Axis>) -> usize {
        let (axis, shape) = (axis.into(), self.shape());
        match axis.of(shape.rank()) {
            Some(axis) => shape[axis],
            None if self.is_poisoned() => 1,
            None => {
                let text = format!("`dim` requires an axis of a tensor of shape {shape}, got {axis}");
                let diag = Diag::new(Code::BadAxis, text).made("the tensor", self);
                self.builder.error(diag.help(axes::advice(shape.rank())));
                1
            }
        }
    }

    /// An op on this tensor alone.
    #[track_caller]
    pub fn unary(self, op: &'static OpDef) -> Tensor<'g> {
        // What refuses integers would take floats.
        let like = || Type::tensor(if self.is_float() { self.dtype() } else { DType::F32 }, self.shape());
        self.builder.op(op, &[self], Attrs::none(), None).or_like(like)
    }

    /// An op on this tensor alone, with attributes.
    #[track_caller]
    pub fn unary_with(self, op: &'static OpDef, attrs: Attrs) -> Tensor<'g> {
        self.builder.op(op, &[self], attrs, None)
    }

    /// A pointwise op on this tensor and another one, with NumPy broadcasting.
    #[track_caller]
    pub fn binary(self, op: &'static OpDef, other: Tensor<'_>) -> Tensor<'g> {
        self.builder.pointwise(op, &[self, other])
    }
}

impl GraphBuilder {
    /// A pointwise op with NumPy broadcasting of its operands.
    #[track_caller]
    pub fn pointwise(&self, op: &'static OpDef, operands: &[Tensor<'_>]) -> Tensor<'_> {
        self.pointwise_with(op, operands, Attrs::none())
    }

    /// A pointwise op with attributes, with NumPy broadcasting of its operands.
    #[track_caller]
    pub fn pointwise_with(&self, op: &'static OpDef, operands: &[Tensor<'_>], attrs: Attrs) -> Tensor<'_> {
        if operands.iter().any(|t| !std::ptr::eq(t.builder, self)) {
            return self.op(op, operands, attrs, None);
        }
        let shapes: SmallVec<[Shape; 3]> = operands.iter().map(|t| t.shape()).collect();
        let joint = shapes.iter().try_fold(Shape::default(), |joint, s| joint.broadcast(s));
        let made = match &joint {
            Some(joint) => {
                let mut aligned: SmallVec<[Tensor<'_>; 3]> = SmallVec::new();
                for operand in operands {
                    aligned.push(self.tensor(operand.id).broadcast_to(joint.clone()));
                }
                self.op_of(op, &aligned, operands, attrs.clone(), None)
            }
            // Inference says what does not fit.
            None => self.op(op, operands, attrs.clone(), None),
        };
        if made.id != UNKNOWN {
            return made;
        }
        // What it would be if the extents, and then if the element types fitted.
        let joint =
            joint.unwrap_or_else(|| shapes.iter().fold(Shape::default(), |joint, s| joint.broadcast_loosely(s)));
        let types: SmallVec<[Type; 4]> = operands.iter().map(|t| Type::tensor(t.dtype(), joint.clone())).collect();
        self.guessed(op, &types, &attrs, None).or(types.last().map(|ty| self.poisoned_as(ty.clone()))).unwrap_or(made)
    }
}
