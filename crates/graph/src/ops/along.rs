//! One element of each line along an axis: taken by an index of its own, and put back.
//!
//! Both are composites of a gather, or of its adjoint, over the elements in row-major order. The indices are checked against the
//! extent of the axis first, for a wrong one may well be a place of another line.

use cotangent_scalar::DType;
use smallvec::smallvec;

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::axes::Axis;
use crate::builder::Tensor;
use crate::eval;
use crate::op::{Arity, Fault, InferCx, Lower, OpDef, OpTraits, Vjp};
use crate::ops::index::require_indices;
use crate::ops::reduce::checked_axis;
use crate::samples::Sample;
use crate::types::{Shape, Type};

/// The shape of the first operand with another extent of the axis; the shapes must agree in the others.
fn other_extent(cx: &InferCx<'_>, axis: usize, values: &Shape, indices: &Shape) -> Result<(), Fault> {
    let agree = values.rank() == indices.rank()
        && (0..values.rank()).all(|other| other == axis || values[other] == indices[other]);
    if agree {
        return Ok(());
    }
    Err(cx.shape_fault(format_args!(
        "requires indices of the same extents but along axis {axis}, got values {values} and indices {indices}"
    )))
}

/// Elements picked along an axis.
pub static TAKE_ALONG_AXIS: OpDef = OpDef {
    name: "take_along_axis",
    doc: "Elements of `x` picked along `axis`: `y[.., j, ..] = x[.., i[.., j, ..], ..]`, of the indices' shape, which is that of \
          `x` but along `axis`. An index outside of the axis is an error of the step.",
    arity: Arity::Exact(2),
    attrs: &[AttrSpec { name: "axis", kind: AttrKind::Int, doc: "the axis along which elements are picked" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ((dtype, values), (index, indices)) = (cx.tensor(0)?, cx.tensor(1)?);
        require_indices(cx, index)?;
        let axis = checked_axis(cx, values)?;
        other_extent(cx, axis, values, indices)?;
        Ok(Type::tensor(dtype, indices))
    },
    eval: eval::unbound,
    vjp: Vjp::ViaExpansion,
    lower: Lower::Expand(|cx| {
        let (x, shape, axis) = (cx.inputs[0], cx.inputs[0].shape(), cx.attrs.size("axis"));
        let places = places(cx.inputs[1], &shape, axis);
        let elements = x.reshape([shape.n_elements(), 1]);
        smallvec![elements.gather(places).reshape(cx.inputs[1].shape())]
    }),
    samples: |s| {
        let along = |axis: i64| Attrs::none().with("axis", axis);
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [3, 4]), s.ints(DType::I64, 0..4, [3, 2])]).attrs(along(1)),
            Sample::new(vec![s.float_in(-2.0..2.0, [3, 2, 2]), s.ints(DType::I32, 0..3, [5, 2, 2])]).attrs(along(0)),
        ]
    },
};

/// Elements added along an axis.
pub static SCATTER_ALONG_AXIS: OpDef = OpDef {
    name: "scatter_along_axis",
    doc: "Elements added to zeros of `extent` places along `axis`: `y[.., i[.., j, ..], ..] += x[.., j, ..]`, in row-major order of \
          `x`. The indices have the shape of `x`; one outside of the axis is an error of the step.",
    arity: Arity::Exact(2),
    attrs: &[
        AttrSpec { name: "axis", kind: AttrKind::Int, doc: "the axis along which elements are put" },
        AttrSpec { name: "extent", kind: AttrKind::Int, doc: "the result's extent along it" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ((dtype, values), (index, indices)) = (cx.tensor(0)?, cx.tensor(1)?);
        require_indices(cx, index)?;
        if dtype == DType::Bool {
            return Err(cx.dtype_fault("requires numbers, got bool").help("convert with `cast`"));
        }
        let axis = checked_axis(cx, values)?;
        if values != indices {
            return Err(cx.shape_fault(format_args!("requires indices of shape {values}, got {indices}")));
        }
        if cx.attrs.int("extent") < 0 {
            let got = cx.attrs.int("extent");
            return Err(cx.attr_fault(format_args!("requires an extent of at least 0, got {got}")));
        }
        let extent = |(other, &n): (usize, &usize)| if other == axis { cx.attrs.size("extent") } else { n };
        Ok(Type::tensor(dtype, values.iter().enumerate().map(extent).collect::<Shape>()))
    },
    eval: eval::unbound,
    vjp: Vjp::ViaExpansion,
    lower: Lower::Expand(|cx| {
        let (x, shape, axis) = (cx.inputs[0], cx.ty.shape(), cx.attrs.size("axis"));
        let places = places(cx.inputs[1], shape, axis);
        let n = x.shape().n_elements();
        let sums = x.reshape([n, 1]).scatter_add(places.reshape([n]), shape.n_elements());
        smallvec![sums.reshape(shape.clone())]
    }),
    samples: |s| {
        let along = |axis: i64| Attrs::none().with("axis", axis).with("extent", 4);
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [3, 2]), s.ints(DType::I64, 0..4, [3, 2])]).attrs(along(1)),
            Sample::new(vec![s.float_in(-2.0..2.0, [5, 2]), s.ints(DType::I32, 0..4, [5, 2])]).attrs(along(0)),
        ]
    },
};

/// The row-major places, in a tensor of this shape, of the elements that these indices along an axis name.
#[track_caller]
fn places<'g>(indices: Tensor<'g>, shape: &Shape, axis: usize) -> Tensor<'g> {
    let strides = shape.strides();
    let mut place = indices.check_index(shape[axis]).cast(DType::I64) * strides[axis];
    for other in (0..shape.rank()).filter(|&other| other != axis) {
        place += indices.builder().iota(DType::I64, indices.shape(), other) * strides[other];
    }
    place
}

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&TAKE_ALONG_AXIS, &SCATTER_ALONG_AXIS];

impl<'g> Tensor<'g> {
    /// Elements picked along an axis by indices of their own, of the result's shape: this one's but along the axis.
    ///
    /// ```
    /// use cotangent_graph::{DType::F32, build};
    ///
    /// let graph = build(|g| {
    ///     let scores = g.input("scores", F32, [8, 10]);
    ///     // The largest score of each row.
    ///     let best = scores.argmax(-1).reshape([8, 1]);
    ///     g.output("best", scores.take_along_axis(best, -1));
    /// })?;
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    #[track_caller]
    pub fn take_along_axis(self, indices: Tensor<'_>, axis: impl Into<Axis>) -> Tensor<'g> {
        let attrs = Attrs::none().with("axis", axis.into().number(self.rank()));
        self.builder().op(&TAKE_ALONG_AXIS, &[self, indices], attrs, None)
    }

    /// These elements added to zeros, each at the place along an axis that its index says; the result has `extent` places along it.
    /// The adjoint of [`Tensor::take_along_axis`].
    #[track_caller]
    pub fn scatter_along_axis(self, indices: Tensor<'_>, axis: impl Into<Axis>, extent: usize) -> Tensor<'g> {
        let attrs = Attrs::none().with("axis", axis.into().number(self.rank())).with("extent", extent as i64);
        self.builder().op(&SCATTER_ALONG_AXIS, &[self, indices], attrs, None)
    }
}
