//! Views: the same elements at other indices. In kernels they cost nothing: they become strides and offsets.

use smallvec::{SmallVec, smallvec};

use crate::attrs::{Attr, AttrKind, AttrSpec, Attrs};
use crate::axes::{self, Axes, Axis};
use crate::builder::{GraphBuilder, Tensor};
use crate::diag::{Code, Diag};
use crate::eval;
use crate::number::Number;
use crate::op::{Arity, AxisMap, Fault, InferCx, Lower, OpDef, OpTraits, ViewMap, Vjp};
use crate::ops::reduce::{axis_fault, checked_axes, checked_axis, index_type};
use crate::samples::Sample;
use crate::types::{Shape, Type};

pub(crate) fn ints(values: impl IntoIterator<Item = usize>) -> Attr {
    // What is too much for an attribute is too much for a tensor.
    Attr::Ints(values.into_iter().map(|v| i64::try_from(v).unwrap_or(i64::MAX)).collect())
}

pub(crate) fn listed(cx: &InferCx<'_>, name: &str, n: usize) -> Result<SmallVec<[usize; 4]>, Fault> {
    let list = cx.attrs.sizes(name);
    if list.len() != n {
        return Err(cx.attr_fault(format_args!("requires {n} numbers in `{name}`, got {:?}", cx.attrs.ints(name))));
    }
    if list.contains(&usize::MAX) {
        return Err(cx.attr_fault(format_args!("requires non-negative `{name}`, got {:?}", cx.attrs.ints(name))));
    }
    Ok(list)
}

/// The attribute `shape`.
pub(crate) fn new_shape(cx: &InferCx<'_>) -> Result<Shape, Fault> {
    let shape = listed(cx, "shape", cx.attrs.ints("shape").len())?;
    Ok(Shape::new(&shape))
}

/// The elements in row-major order, in another shape.
pub static RESHAPE: OpDef = OpDef {
    name: "reshape",
    doc: "The same elements in row-major order, in shape `shape`.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "shape", kind: AttrKind::Ints, doc: "the new extents" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, from) = cx.tensor(0)?;
        let to = new_shape(cx)?;
        if to.checked_elements() != from.checked_elements() {
            let text = format_args!("requires as many elements as there are, got {from} to {to}");
            return Err(cx.shape_fault(text));
        }
        Ok(Type::tensor(dtype, to))
    },
    eval: eval::view,
    vjp: Vjp::Rule(|cx| smallvec![Some(cx.dy.reshape(cx.x().shape()))]),
    lower: Lower::View(|_, _, _| ViewMap::Reshape),
    samples: |s| {
        vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])]).attrs(Attrs::none().with("shape", ints([2, 6])))]
    },
};

/// Axes in another order.
pub static TRANSPOSE: OpDef = OpDef {
    name: "transpose",
    doc: "Axes in another order: axis `i` of the result is axis `perm[i]` of the operand.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "perm", kind: AttrKind::Ints, doc: "for each axis of the result, the operand's" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, shape) = cx.tensor(0)?;
        let perm = cx.attrs.sizes("perm");
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..shape.rank()) {
            return Err(axis_fault(cx, "each axis once", format!("{:?}", cx.attrs.ints("perm")), shape));
        }
        Ok(Type::tensor(dtype, perm.iter().map(|&p| shape[p]).collect::<Shape>()))
    },
    eval: eval::view,
    vjp: Vjp::Rule(|cx| {
        let perm = cx.attrs.sizes("perm");
        let mut inverse = perm.clone();
        for (i, &p) in perm.iter().enumerate() {
            inverse[p] = i;
        }
        smallvec![Some(cx.dy.transpose(&inverse))]
    }),
    lower: Lower::View(|attrs, from, _| {
        let perm = attrs.sizes("perm");
        let mut axes: SmallVec<[AxisMap; 4]> = SmallVec::from_elem(AxisMap::default(), from.rank());
        for (i, &p) in perm.iter().enumerate() {
            axes[p] = AxisMap::new(0, i, 1);
        }
        ViewMap::Affine(axes)
    }),
    samples: |s| {
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])]).attrs(Attrs::none().with("perm", ints([1, 0]))),
            Sample::new(vec![s.float_in(-2.0..2.0, [2, 3, 4])]).attrs(Attrs::none().with("perm", ints([2, 0, 1]))),
        ]
    },
};

/// Elements repeated along axes.
pub static BROADCAST: OpDef = OpDef {
    name: "broadcast",
    doc: "The operand repeated to shape `shape`: its axis `i` is axis `axes[i]` of the result (of equal extent, or 1 and \
          repeated); along all other axes everything repeats.",
    arity: Arity::Exact(1),
    attrs: &[
        AttrSpec { name: "shape", kind: AttrKind::Ints, doc: "the extents of the result" },
        AttrSpec { name: "axes", kind: AttrKind::Ints, doc: "for each axis of the operand, the result's; ascending" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, from) = cx.tensor(0)?;
        let to = new_shape(cx)?;
        let axes = checked_axes(cx, &to)?;
        let fits = axes.len() == from.rank() && axes.iter().zip(from.iter()).all(|(&a, &n)| n == 1 || n == to[a]);
        if !fits {
            let text = format_args!("cannot repeat {from} along axes {:?} of {to}", axes.as_slice());
            return Err(cx.shape_fault(text).help("aligned at the last axis, extents must be equal or 1"));
        }
        Ok(Type::tensor(dtype, to))
    },
    eval: eval::view,
    vjp: Vjp::Rule(|cx| {
        let from = cx.x().shape();
        let axes = cx.attrs.sizes("axes");
        let to = cx.dy.shape();
        let kept = |a: usize| axes.iter().zip(from.iter()).any(|(&axis, &n)| axis == a && n == to[a]);
        let repeated: Vec<usize> = (0..to.rank()).filter(|&a| !kept(a)).collect();
        smallvec![Some(cx.dy.sum_over(&repeated).reshape(from))]
    }),
    lower: Lower::View(|attrs, from, to| {
        let map = |(&axis, &n): (&usize, &usize)| AxisMap::new(0, axis, i64::from(n == to[axis] && n != 1));
        ViewMap::Affine(attrs.sizes("axes").iter().zip(from.iter()).map(map).collect())
    }),
    samples: |s| {
        let attrs = |shape: &[usize], axes: &[usize]| Attrs::none().with("shape", shape).with("axes", axes);
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [4])]).attrs(attrs(&[3, 4], &[1])),
            Sample::new(vec![s.float_in(-2.0..2.0, [3])]).attrs(attrs(&[3, 4], &[0])),
            Sample::new(vec![s.float_in(-2.0..2.0, [3, 1])]).attrs(attrs(&[2, 3, 4], &[1, 2])),
            Sample::new(vec![s.float_in(-2.0..2.0, [])]).attrs(attrs(&[2, 3], &[])),
        ]
    },
};

/// A range of every axis.
pub static SLICE: OpDef = OpDef {
    name: "slice",
    doc: "Elements `start, start + step, …` below `limit` of every axis.",
    arity: Arity::Exact(1),
    attrs: &[
        AttrSpec { name: "start", kind: AttrKind::Ints, doc: "first index of each axis" },
        AttrSpec { name: "limit", kind: AttrKind::Ints, doc: "one past the last index of each axis" },
        AttrSpec { name: "step", kind: AttrKind::Ints, doc: "distance of neighbours on each axis, at least 1" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, shape) = cx.tensor(0)?;
        let n = shape.rank();
        let (start, limit, step) = (listed(cx, "start", n)?, listed(cx, "limit", n)?, listed(cx, "step", n)?);
        let fits = (0..n).all(|i| start[i] <= limit[i] && limit[i] <= shape[i] && step[i] >= 1);
        if !fits {
            let text = format_args!(
                "requires start ≤ limit ≤ extent and steps of at least 1, got {:?}..{:?} by {:?} of {shape}",
                start.as_slice(),
                limit.as_slice(),
                step.as_slice()
            );
            return Err(cx.shape_fault(text));
        }
        Ok(Type::tensor(dtype, (0..n).map(|i| (limit[i] - start[i]).div_ceil(step[i])).collect::<Shape>()))
    },
    eval: eval::view,
    vjp: Vjp::Rule(|cx| {
        // Zeros between the elements, then around them. Between: a new axis of extent `step`, filled and merged.
        let shape = cx.x().shape();
        let (start, step) = (cx.attrs.sizes("start"), cx.attrs.sizes("step"));
        let mut dy = cx.dy;
        for axis in 0..shape.rank() {
            let (mut extents, step) = (dy.shape().to_vec(), step[axis]);
            let n = extents[axis];
            // Of fewer elements there is no distance, however long the step is.
            if step > 1 && n > 1 {
                // The other axes as two: with one more for each of them there might be too many.
                let (before, after) = (extents[..axis].iter().product(), extents[axis + 1..].iter().product());
                let spaced = dy.reshape([before, n, 1, after]).pad(&[0; 4], &[0, 0, step - 1, 0], 0.0);
                extents[axis] = (n - 1) * step + 1;
                // Nothing follows the last element, where the operand may end.
                let limit = [before, extents[axis], after];
                dy = spaced.reshape([before, n * step, after]).slice(&[0; 3], &limit).reshape(extents);
            }
        }
        let high: Vec<usize> = (0..shape.rank()).map(|i| shape[i] - start[i] - dy.shape()[i]).collect();
        smallvec![Some(dy.pad(&start, &high, 0.0))]
    }),
    lower: Lower::View(|attrs, _, to| {
        let map = |(axis, (&start, &step)): (usize, (&i64, &i64))| {
            let step = if to[axis] > 1 { step } else { 0 };
            AxisMap::new(start, axis, step)
        };
        ViewMap::Affine(attrs.ints("start").iter().zip(attrs.ints("step")).enumerate().map(map).collect())
    }),
    samples: |s| {
        let attrs = |start: &[usize], limit: &[usize], step: &[usize]| {
            Attrs::none().with("start", start).with("limit", limit).with("step", step)
        };
        vec![
            Sample::new(vec![s.float_in(-2.0..2.0, [4, 5])]).attrs(attrs(&[1, 0], &[3, 5], &[1, 1])),
            Sample::new(vec![s.float_in(-2.0..2.0, [4, 7])]).attrs(attrs(&[0, 1], &[4, 6], &[3, 2])),
        ]
    },
};

/// Axes backwards.
pub static FLIP: OpDef = OpDef {
    name: "flip",
    doc: "The elements backwards along `axes`.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "axes", kind: AttrKind::Ints, doc: "the axes turned round, ascending" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, shape) = cx.tensor(0)?;
        checked_axes(cx, shape)?;
        Ok(Type::tensor(dtype, shape))
    },
    eval: eval::view,
    vjp: Vjp::Rule(|cx| smallvec![Some(cx.dy.flip(&cx.attrs.sizes("axes")))]),
    lower: Lower::View(|attrs, from, _| {
        let axes = attrs.sizes("axes");
        let map = |axis: usize| match axes.contains(&axis) {
            true => AxisMap::new(from[axis] as i64 - 1, axis, -1),
            false => AxisMap::new(0, axis, 1),
        };
        ViewMap::Affine((0..from.rank()).map(map).collect())
    }),
    samples: |s| vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])]).attrs(Attrs::none().with("axes", ints([1])))],
};

/// A border of constants.
pub static PAD: OpDef = OpDef {
    name: "pad",
    doc: "The operand with `low` elements of `value` before and `high` after it on each axis.",
    arity: Arity::Exact(1),
    attrs: &[
        AttrSpec { name: "low", kind: AttrKind::Ints, doc: "elements before, for each axis" },
        AttrSpec { name: "high", kind: AttrKind::Ints, doc: "elements after, for each axis" },
        AttrSpec { name: "value", kind: AttrKind::Number, doc: "what is put there" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, shape) = cx.tensor(0)?;
        let value = cx.attrs.number("value");
        if !value.held_by(dtype) {
            let text = format_args!("of {dtype}{shape} with the number {value}: {dtype} holds {}", dtype.held());
            return Err(cx.dtype_fault(text).help(format!("write a number of {dtype}, or convert with `cast`")));
        }
        let (low, high) = (listed(cx, "low", shape.rank())?, listed(cx, "high", shape.rank())?);
        let extent = |i: usize| shape[i].saturating_add(low[i]).saturating_add(high[i]);
        Ok(Type::tensor(dtype, (0..shape.rank()).map(extent).collect::<Shape>()))
    },
    eval: eval::pad,
    vjp: Vjp::Rule(|cx| {
        let low = cx.attrs.sizes("low");
        let limit: Vec<usize> = cx.x().shape().iter().zip(&low).map(|(n, l)| n + l).collect();
        smallvec![Some(cx.dy.slice(&low, &limit))]
    }),
    lower: Lower::Join,
    samples: |s| {
        let attrs = Attrs::none().with("low", ints([1, 0])).with("high", ints([0, 2]));
        let attrs = attrs.with("value", Number::of(0.5));
        vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])]).attrs(attrs)]
    },
};

/// Tensors one after the other.
pub static CONCAT: OpDef = OpDef {
    name: "concat",
    doc: "The operands one after the other along `axis`; their other extents are equal.",
    arity: Arity::AtLeast(1),
    attrs: &[AttrSpec { name: "axis", kind: AttrKind::Int, doc: "the axis along which they follow each other" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, first) = cx.tensor(0)?;
        let axis = checked_axis(cx, first)?;
        let mut extent = 0usize;
        for k in 0..cx.inputs.len() {
            let (other, shape) = cx.tensor(k)?;
            if other != dtype {
                let text = format_args!("requires operands of one element type, got {dtype} and {other}");
                return Err(cx.dtype_fault(text).help("convert one of them with `cast`"));
            }
            if shape.rank() != first.rank() || shape.without(&[axis]) != first.without(&[axis]) {
                let text = format_args!("requires equal extents beside axis {axis}, got {first} and {shape}");
                return Err(cx.shape_fault(text));
            }
            extent = extent.saturating_add(shape[axis]);
        }
        let mut shape = first.to_vec();
        shape[axis] = extent;
        Ok(Type::tensor(dtype, shape))
    },
    eval: eval::concat,
    vjp: Vjp::Rule(|cx| {
        let axis = cx.attrs.size("axis");
        let mut start = 0;
        let part = |input: &Tensor<'_>| {
            let (mut low, mut limit) = (vec![0; cx.dy.rank()], cx.dy.shape().to_vec());
            (low[axis], limit[axis]) = (start, start + input.shape()[axis]);
            start = limit[axis];
            Some(cx.dy.slice(&low, &limit))
        };
        cx.inputs.iter().map(part).collect()
    }),
    lower: Lower::Join,
    samples: |s| {
        let inputs = vec![s.float_in(-2.0..2.0, [3, 2]), s.float_in(-2.0..2.0, [3, 4]), s.float_in(-2.0..2.0, [3, 1])];
        vec![Sample::new(inputs).attrs(Attrs::none().with("axis", 1))]
    },
};

/// Elements at affine indices.
pub static STRIDED: OpDef = OpDef {
    name: "strided",
    doc: "The view `y[i] = x[offset + steps · i]` of shape `shape`: `steps` has a row for each axis of the operand and a column for \
          each axis of the result. Every index must lie in the operand.",
    arity: Arity::Exact(1),
    attrs: &[
        AttrSpec { name: "shape", kind: AttrKind::Ints, doc: "the extents of the result" },
        AttrSpec {
            name: "offset",
            kind: AttrKind::Ints,
            doc: "the index of the first element, for each axis of the operand",
        },
        AttrSpec { name: "steps", kind: AttrKind::Ints, doc: "the matrix of steps, row by row" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, from) = cx.tensor(0)?;
        let to = new_shape(cx)?;
        let (offset, steps) = (cx.attrs.ints("offset"), cx.attrs.ints("steps"));
        if offset.len() != from.rank() || steps.len() != from.rank() * to.rank() {
            let text = format_args!(
                "requires {} offsets and {} × {} steps, got {} and {}",
                from.rank(),
                from.rank(),
                to.rank(),
                offset.len(),
                steps.len()
            );
            return Err(cx.attr_fault(text));
        }
        if to.contains(&0) {
            return Ok(Type::tensor(dtype, to));
        }
        for (axis, &extent) in from.iter().enumerate() {
            let (mut least, mut most) = (i128::from(offset[axis]), i128::from(offset[axis]));
            for (&step, &n) in steps[axis * to.rank()..].iter().zip(to.iter()) {
                let reach = i128::from(step) * (n as i128 - 1);
                (least, most) = (least + reach.min(0), most + reach.max(0));
            }
            if least < 0 || most >= extent as i128 {
                let text =
                    format_args!("requires indices in 0..{extent} on axis {axis} of {from}, got {least}..={most}");
                return Err(cx.shape_fault(text));
            }
        }
        Ok(Type::tensor(dtype, to))
    },
    eval: eval::view,
    // Elements may be in the view any number of times: the general rule adds them at their places.
    vjp: Vjp::Rule(|cx| {
        let (x, to) = (cx.x().shape(), cx.dy.shape());
        let dtype = index_type(x.n_elements());
        let mut place = cx.dy.builder().scalar(0.0, dtype).broadcast_to(to.clone());
        for (map, &stride) in strided_axes(cx.attrs, &to).zip(&x.strides()) {
            place += stride * map.offset;
            for (moving, step) in map.moves {
                place += cx.dy.builder().iota(dtype, to.clone(), moving) * (stride * step);
            }
        }
        let n = to.n_elements();
        let sums = cx.dy.reshape([n, 1]).scatter_add(place.reshape([n]), x.n_elements());
        smallvec![Some(sums.reshape(x))]
    }),
    lower: Lower::View(|attrs, _, to| ViewMap::Affine(strided_axes(attrs, to).collect())),
    samples: |s| {
        let attrs = |shape: &[usize], offset: &[i64], steps: &[i64]| {
            let of = |values: &[i64]| Attr::Ints(values.iter().copied().collect());
            Attrs::none().with("shape", shape).with("offset", of(offset)).with("steps", of(steps))
        };
        vec![
            // Windows of three, from the end; the diagonal, twice; nothing.
            Sample::new(vec![s.float_in(-2.0..2.0, [6])]).attrs(attrs(&[4, 3], &[5], &[-1, -1])),
            Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])]).attrs(attrs(&[3, 2], &[0, 1], &[1, 0, 1, 0])),
            Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])]).attrs(attrs(&[0, 2], &[9, 9], &[1, 1, 1, 1])),
        ]
    },
};

/// Where the elements of a `strided` of shape `to` lie along each axis of its operand. What says nothing of an element may be any
/// number: steps along axes of one element, and all of a view of nothing; it is left out.
fn strided_axes(attrs: &Attrs, to: &Shape) -> impl Iterator<Item = AxisMap> {
    let (offset, steps, is_empty) = (attrs.ints("offset"), attrs.ints("steps"), to.contains(&0));
    offset.iter().enumerate().map(move |(axis, &offset)| AxisMap {
        offset: if is_empty { 0 } else { offset },
        moves: steps[axis * to.rank()..][..to.rank()]
            .iter()
            .enumerate()
            .filter(|&(moving, &step)| step != 0 && to[moving] > 1 && !is_empty)
            .map(|(moving, &step)| (moving, step))
            .collect(),
    })
}

/// A view at affine indices, with a row of steps for each axis of the operand.
pub(super) fn strided<'g>(x: Tensor<'g>, shape: Shape, offset: &[i64], steps: &[Vec<i64>]) -> Tensor<'g> {
    let attrs = Attrs::none().with("shape", ints(shape.iter().copied()));
    let attrs = attrs.with("offset", Attr::Ints(offset.iter().copied().collect()));
    x.unary_with(&STRIDED, attrs.with("steps", Attr::Ints(steps.iter().flatten().copied().collect())))
}

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&RESHAPE, &TRANSPOSE, &BROADCAST, &SLICE, &FLIP, &PAD, &CONCAT, &STRIDED];

impl<'g> Tensor<'g> {
    /// The same elements in another shape.
    #[track_caller]
    pub fn reshape(self, shape: impl Into<Shape>) -> Tensor<'g> {
        let shape = shape.into();
        if self.shape() == shape {
            return self;
        }
        let made = self.unary_with(&RESHAPE, Attrs::none().with("shape", ints(shape.iter().copied())));
        made.or_like(|| Type::tensor(self.dtype(), shape))
    }

    /// The axes in another order: axis `i` of the result is axis `perm[i]` of this tensor.
    #[track_caller]
    pub fn transpose(self, perm: impl Into<Axes>) -> Tensor<'g> {
        self.unary_with(&TRANSPOSE, Attrs::none().with("perm", Attr::Ints(perm.into().number(self.rank()))))
    }

    /// The last two axes exchanged.
    #[track_caller]
    pub fn t(self) -> Tensor<'g> {
        let mut perm: Vec<usize> = (0..self.rank()).collect();
        let n = perm.len();
        if n >= 2 {
            perm.swap(n - 1, n - 2);
        }
        self.transpose(perm)
    }

    /// Repeated to a shape, aligned at the last axis (NumPy's rule).
    #[track_caller]
    pub fn broadcast_to(self, shape: impl Into<Shape>) -> Tensor<'g> {
        let shape = shape.into();
        if self.shape() == shape {
            return self;
        }
        let first = shape.rank().saturating_sub(self.rank());
        self.broadcast_along(&shape, first..first + self.rank())
    }

    /// Repeated to a shape: axis `i` of this tensor is axis `axes[i]` of the result.
    #[track_caller]
    pub fn broadcast_along(self, shape: &Shape, axes: impl Into<Axes>) -> Tensor<'g> {
        let attrs = Attrs::none().with("shape", ints(shape.iter().copied()));
        let made = self.unary_with(&BROADCAST, attrs.with("axes", Attr::Ints(axes.into().number(shape.rank()))));
        made.or_like(|| Type::tensor(self.dtype(), shape))
    }

    /// The inverse of reducing over `axes`: repeated along these axes of `shape`.
    #[track_caller]
    pub fn repeat_along(self, shape: &Shape, axes: impl Into<Axes>) -> Tensor<'g> {
        let axes = axes.into().number(shape.rank());
        let kept: SmallVec<[usize; 4]> = (0..shape.rank()).filter(|&a| !axes.contains(&(a as i64))).collect();
        self.broadcast_along(shape, &kept)
    }

    /// Elements from `start` up to `limit` of every axis.
    #[track_caller]
    pub fn slice(self, start: &[usize], limit: &[usize]) -> Tensor<'g> {
        self.slice_steps(start, limit, &vec![1; start.len()])
    }

    /// Elements `start, start + step, …` below `limit` of every axis.
    #[track_caller]
    pub fn slice_steps(self, start: &[usize], limit: &[usize], step: &[usize]) -> Tensor<'g> {
        let attrs = Attrs::none().with("start", ints(start.iter().copied()));
        let attrs = attrs.with("limit", ints(limit.iter().copied()));
        self.unary_with(&SLICE, attrs.with("step", ints(step.iter().copied())))
    }

    /// The elements backwards along axes.
    #[track_caller]
    pub fn flip(self, axes: impl Into<Axes>) -> Tensor<'g> {
        self.reduce(&FLIP, axes.into(), Attrs::none())
    }

    /// `n` equal parts along an axis, whose extent `n` must divide.
    #[track_caller]
    pub fn split(self, n: usize, axis: impl Into<Axis>) -> Vec<Tensor<'g>> {
        let axis = axis.into();
        let extent = axis.of(self.rank()).map_or(0, |axis| self.shape()[axis]);
        if axis.of(self.rank()).is_some() && (n == 0 || !extent.is_multiple_of(n)) {
            let text = format!(
                "`split` into {n} equal parts requires an extent that {n} divides, got {extent} of {}",
                self.ty()
            );
            let diag = Diag::new(Code::ShapeMismatch, text).made("the operand", self);
            return vec![self.refuse(diag.help("`split_sizes` makes parts of any sizes")); n];
        }
        self.split_sizes(&vec![extent / n.max(1); n], axis)
    }

    /// Parts of these extents along an axis, one after the other; together they are its whole extent.
    #[track_caller]
    pub fn split_sizes(self, sizes: &[usize], axis: impl Into<Axis>) -> Vec<Tensor<'g>> {
        let (axis, shape) = (axis.into(), self.shape());
        let Some(at) = axis.of(shape.rank()) else {
            let text = format!("`split` requires an axis of a tensor of shape {shape}, got {axis}");
            let diag = Diag::new(Code::BadAxis, text).made("the operand", self);
            return vec![self.refuse(diag.help(axes::advice(shape.rank()))); sizes.len()];
        };
        if sizes.iter().try_fold(0usize, |sum, &n| sum.checked_add(n)) != Some(shape[at]) {
            let text =
                format!("`split` requires extents that sum to {}, got {sizes:?} along axis {at} of {shape}", shape[at]);
            return vec![self.refuse(Diag::new(Code::ShapeMismatch, text).made("the operand", self)); sizes.len()];
        }
        let (mut start, mut limit) = (vec![0; shape.rank()], shape.to_vec());
        limit[at] = 0;
        let mut parts = Vec::with_capacity(sizes.len());
        for &n in sizes {
            (start[at], limit[at]) = (limit[at], limit[at] + n);
            parts.push(self.slice(&start, &limit));
        }
        parts
    }

    /// A border of `low` elements before and `high` after, on each axis.
    #[track_caller]
    pub fn pad(self, low: &[usize], high: &[usize], value: impl Into<Number>) -> Tensor<'g> {
        let attrs = Attrs::none().with("low", ints(low.iter().copied())).with("high", ints(high.iter().copied()));
        self.unary_with(&PAD, attrs.with("value", value.into()))
    }
}

impl GraphBuilder {
    /// Tensors one after the other along an axis.
    #[track_caller]
    pub fn concat(&self, parts: &[Tensor<'_>], axis: impl Into<Axis>) -> Tensor<'_> {
        let axis = axis.into().number(parts.first().map_or(0, |part| part.rank()));
        let made = self.op(&CONCAT, parts, Attrs::none().with("axis", axis), None);
        // The extent is of no use where the others do not fit, but there are as many axes.
        parts.first().map_or(made, |first| made.or_like(|| first.ty()))
    }

    /// Tensors of one shape as one tensor with an axis more, which counts them: `axis` is an axis of the result.
    #[track_caller]
    pub fn stack(&self, parts: &[Tensor<'_>], axis: impl Into<Axis>) -> Tensor<'_> {
        let (axis, shape) = (axis.into(), parts.first().map(|part| part.shape()).unwrap_or_default());
        let known = parts.iter().all(|part| !part.is_poisoned());
        if known && let Some(other) = parts.iter().find(|part| part.shape() != shape) {
            let text = format!("`stack` requires tensors of one shape, got {shape} and {}", other.shape());
            return self.poison(Diag::new(Code::ShapeMismatch, text).operands(parts));
        }
        let Some(at) = axis.of(shape.rank() + 1) else {
            let text = format!("`stack` requires an axis of the result, which has one more than {shape}, got {axis}");
            return self.poison(Diag::new(Code::BadAxis, text).operands(parts).help(axes::advice(shape.rank() + 1)));
        };
        let mut rows = Vec::with_capacity(parts.len());
        for part in parts {
            let mut wide = part.shape().to_vec();
            wide.insert(at.min(wide.len()), 1);
            rows.push(part.reshape(wide));
        }
        self.concat(&rows, at)
    }
}
