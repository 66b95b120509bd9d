//! Slices whose place is known at run time, and rows put into a table.
//!
//! Where an operand changes in a few places (a cache, a table of which few rows are trained), the result is made in its memory if
//! nobody needs the old value any more. A place is checked before a step changes anything; nothing is clamped.

use std::ops::Range;

use cotangent_scalar::DType;
use smallvec::{SmallVec, smallvec};

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::builder::Tensor;
use crate::eval::checked_indices;
use crate::op::{Arity, EvalCx, Fault, InferCx, Lower, OpDef, OpTraits, Vjp};
use crate::ops::index::{require_indices, row};
use crate::samples::Sample;
use crate::step::{Elements, ElementsMut, StepCx, StepOp, with_elements};
use crate::tensor::TensorData;
use crate::types::{Shape, Type};

/// A box of a tensor, as runs of neighbours: the axes behind the last one that is cut are one run.
struct Runs<'a> {
    shape: &'a Shape,
    sizes: &'a Shape,
    /// Axes that are stepped through; the runs go over the others and the last of these.
    outer: usize,
}

impl<'a> Runs<'a> {
    fn of(shape: &'a Shape, sizes: &'a Shape) -> Self {
        let whole = (0..shape.rank()).rev().take_while(|&axis| shape[axis] == sizes[axis]).count();
        Runs { shape, sizes, outer: (shape.rank() - whole).saturating_sub(1) }
    }

    /// Elements of a run.
    fn length(&self) -> usize {
        self.sizes[self.outer..].iter().product()
    }

    fn n(&self) -> usize {
        self.sizes[..self.outer].iter().product()
    }

    /// Where run `k` of the box that starts there starts in the tensor.
    fn start(&self, k: usize, corner: &[usize]) -> usize {
        let (mut rest, mut stride, mut at) = (k, 1, 0);
        for axis in (0..self.shape.rank()).rev() {
            let mut index = corner[axis];
            if axis < self.outer {
                index += rest % self.sizes[axis];
                rest /= self.sizes[axis];
            }
            at += index * stride;
            stride *= self.shape[axis];
        }
        at
    }
}

/// The place along each axis that operands from `first` on say.
fn corner(operands: &[Elements<'_>], first: usize) -> SmallVec<[usize; 6]> {
    operands[first..].iter().map(|start| start.index(0)).collect()
}

/// The starts, each with one past the largest that leaves the box inside.
fn starts(shape: &Shape, sizes: &Shape, first: usize) -> SmallVec<[(usize, usize); 4]> {
    (0..shape.rank()).map(|axis| (first + axis, shape[axis] - sizes[axis] + 1)).collect()
}

/// The step of [`DYNAMIC_SLICE`].
struct Cut;

impl StepOp for Cut {
    fn doc(&self) -> &'static str {
        "copies runs of neighbours, after a check of the starts"
    }

    fn text(&self, cx: &StepCx<'_>) -> String {
        format!("dynamic slice {} of {}", cx.ty, cx.inputs[0])
    }

    fn indices(&self, cx: &StepCx<'_>) -> SmallVec<[(usize, usize); 4]> {
        starts(cx.shape(0), cx.ty.shape(), 1)
    }

    fn n_bytes(&self, cx: &StepCx<'_>) -> u64 {
        2 * cx.ty.n_bytes() as u64
    }

    fn n_pieces(&self, cx: &StepCx<'_>) -> usize {
        Runs::of(cx.shape(0), cx.ty.shape()).n()
    }

    fn run(&self, cx: &StepCx<'_>, operands: &[Elements<'_>], pieces: Range<usize>, out: ElementsMut<'_>) {
        let (runs, corner) = (Runs::of(cx.shape(0), cx.ty.shape()), corner(operands, 1));
        with_elements!(out, out: T => {
            let (from, length) = (operands[0].of::<T>(), runs.length());
            for (k, to) in pieces.zip(out.chunks_exact_mut(length.max(1))) {
                to.copy_from_slice(&from[runs.start(k, &corner)..][..length]);
            }
        });
    }
}

/// The step of [`DYNAMIC_UPDATE_SLICE`].
struct Paste;

impl StepOp for Paste {
    fn doc(&self) -> &'static str {
        "copies runs of neighbours into the place, after a check of the starts; in the operand's memory if nobody needs it"
    }

    fn text(&self, cx: &StepCx<'_>) -> String {
        format!("dynamic update {} of {}", cx.inputs[1], cx.ty)
    }

    fn indices(&self, cx: &StepCx<'_>) -> SmallVec<[(usize, usize); 4]> {
        starts(cx.ty.shape(), cx.shape(1), 2)
    }

    fn starts_as(&self) -> Option<usize> {
        Some(0)
    }

    fn n_bytes(&self, cx: &StepCx<'_>) -> u64 {
        2 * cx.n_bytes(1)
    }

    fn n_pieces(&self, _: &StepCx<'_>) -> usize {
        1
    }

    fn run(&self, cx: &StepCx<'_>, operands: &[Elements<'_>], _: Range<usize>, out: ElementsMut<'_>) {
        let (runs, corner) = (Runs::of(cx.ty.shape(), cx.shape(1)), corner(operands, 2));
        with_elements!(out, out: T => {
            for (k, from) in operands[1].of::<T>().chunks_exact(runs.length().max(1)).enumerate() {
                out[runs.start(k, &corner)..][..from.len()].copy_from_slice(from);
            }
        });
    }
}

/// The step of [`SCATTER_SET`].
struct SetRows;

impl StepOp for SetRows {
    fn doc(&self) -> &'static str {
        "copies rows in the order of the indices, after a check of these; in the table's memory if nobody needs it"
    }

    fn text(&self, cx: &StepCx<'_>) -> String {
        format!("scatter_set rows of {}", row(cx.ty.shape()))
    }

    fn indices(&self, cx: &StepCx<'_>) -> SmallVec<[(usize, usize); 4]> {
        smallvec![(2, cx.ty.shape()[0])]
    }

    fn starts_as(&self) -> Option<usize> {
        Some(0)
    }

    fn n_bytes(&self, cx: &StepCx<'_>) -> u64 {
        2 * cx.n_bytes(1) + cx.n_bytes(2)
    }

    fn n_pieces(&self, cx: &StepCx<'_>) -> usize {
        cx.ty.shape()[0]
    }

    fn run(&self, cx: &StepCx<'_>, operands: &[Elements<'_>], pieces: Range<usize>, out: ElementsMut<'_>) {
        let n = row(cx.ty.shape());
        // Every piece of work looks at all indices and copies the rows that are its own.
        with_elements!(out, out: T => {
            for (k, from) in operands[1].of::<T>().chunks_exact(n.max(1)).enumerate() {
                let i = operands[2].index(k);
                if pieces.contains(&i) {
                    out[(i - pieces.start) * n..][..n].copy_from_slice(from);
                }
            }
        });
    }
}

/// The places of a box's elements in row-major order: the reference.
fn places(shape: &Shape, sizes: &Shape, starts: &[&TensorData], op: &str) -> Result<Vec<usize>, Fault> {
    let mut places = vec![0];
    for (axis, stride) in shape.strides().into_iter().enumerate() {
        let start = checked_indices(op, starts[axis], shape[axis] - sizes[axis] + 1)?[0];
        let along = |place: usize| (0..sizes[axis]).map(move |k| place + (start + k) * stride as usize);
        places = places.into_iter().flat_map(along).collect();
    }
    Ok(places)
}

fn eval_cut(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    let places = places(&inputs[0].shape(), cx.ty.shape(), &inputs[1..], cx.op.name)?;
    let bits = inputs[0].bits();
    Ok(TensorData::from_bits(cx.ty.dtype(), cx.ty.shape(), &places.iter().map(|&at| bits[at]).collect::<Vec<u64>>()))
}

fn eval_paste(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    let places = places(cx.ty.shape(), &inputs[1].shape(), &inputs[2..], cx.op.name)?;
    let mut bits = inputs[0].bits();
    places.into_iter().zip(inputs[1].bits()).for_each(|(at, new)| bits[at] = new);
    Ok(TensorData::from_bits(cx.ty.dtype(), cx.ty.shape(), &bits))
}

fn eval_set(cx: &EvalCx<'_>, inputs: &[&TensorData]) -> Result<TensorData, Fault> {
    let (shape, mut bits, rows) = (cx.ty.shape(), inputs[0].bits(), inputs[1].bits());
    let n = row(shape);
    for (k, i) in checked_indices(cx.op.name, inputs[2], shape[0])?.into_iter().enumerate() {
        bits[i * n..][..n].copy_from_slice(&rows[k * n..][..n]);
    }
    Ok(TensorData::from_bits(cx.ty.dtype(), shape, &bits))
}

/// The starts are one scalar index for each axis, and a box of these sizes fits.
fn require_box(cx: &InferCx<'_>, sizes: &Shape, first: usize) -> Result<(), Fault> {
    let (_, shape) = cx.tensor(0)?;
    if sizes.rank() != shape.rank() || sizes.iter().zip(shape.iter()).any(|(size, n)| size > n) {
        return Err(cx.shape_fault(format_args!("requires a part that fits into {shape}, got {sizes}")));
    }
    let n = cx.inputs.len() - first;
    if n != shape.rank() {
        return Err(cx.shape_fault(format_args!("requires one start for each axis of {shape}, got {n}")));
    }
    for k in first..cx.inputs.len() {
        let (dtype, start) = cx.tensor(k)?;
        require_indices(cx, dtype)?;
        if start.rank() != 0 {
            return Err(cx.shape_fault(format_args!("requires scalars as starts, got {start}")));
        }
    }
    Ok(())
}

fn same_dtype(cx: &InferCx<'_>, [a, b]: [DType; 2]) -> Result<(), Fault> {
    if a == b {
        return Ok(());
    }
    let fault = cx.dtype_fault(format_args!("requires operands of one element type, got {a} and {b}"));
    Err(fault.help("nothing is promoted implicitly: convert one of them with `cast`"))
}

/// A box of a tensor at a place known at run time.
pub static DYNAMIC_SLICE: OpDef = OpDef {
    name: "dynamic_slice",
    doc: "For `(x, start..)` with a scalar start for each axis, the part of `x` of extents `sizes` from there on. A start that \
          leaves less than that is an error of the step: nothing is clamped.",
    arity: Arity::AtLeast(1),
    attrs: &[AttrSpec { name: "sizes", kind: AttrKind::Ints, doc: "the extents of the result" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        if let Some(size) = cx.attrs.ints("sizes").iter().find(|&&size| size < 0) {
            return Err(cx.attr_fault(format_args!("requires sizes of at least 0, got {size}")));
        }
        let sizes = Shape::new(&cx.attrs.sizes("sizes"));
        require_box(cx, &sizes, 1)?;
        Ok(Type::tensor(cx.tensor(0)?.0, sizes))
    },
    eval: eval_cut,
    vjp: Vjp::Rule(|cx| {
        let zeros = cx.x().constant_like(0.0);
        let dx = zeros.dynamic_update_slice(cx.dy, &cx.inputs[1..]);
        std::iter::once(Some(dx)).chain(cx.inputs[1..].iter().map(|_| None)).collect()
    }),
    lower: Lower::Step(&Cut),
    samples: |s| {
        let sizes = |sizes: &[usize]| Attrs::none().with("sizes", sizes);
        vec![
            Sample::new(vec![
                s.float_in(-2.0..2.0, [5, 4]),
                s.ints(DType::I64, 0..4, [0; 0]),
                s.ints(DType::I32, 0..2, [0; 0]),
            ])
            .attrs(sizes(&[2, 3])),
            Sample::new(vec![s.float_in(-2.0..2.0, [6]), s.ints(DType::I64, 0..3, [0; 0])]).attrs(sizes(&[4])),
        ]
    },
};

/// A tensor with another box at a place known at run time.
pub static DYNAMIC_UPDATE_SLICE: OpDef = OpDef {
    name: "dynamic_update_slice",
    doc: "For `(x, part, start..)` with a scalar start for each axis, `x` with `part` in the place of what is there. A start that \
          leaves less room than that is an error of the step: nothing is clamped. Made in the memory of `x` if nothing needs its old \
          value any more.",
    arity: Arity::AtLeast(2),
    attrs: &[],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ((dtype, shape), (other, part)) = (cx.tensor(0)?, cx.tensor(1)?);
        same_dtype(cx, [dtype, other])?;
        require_box(cx, part, 2)?;
        Ok(Type::tensor(dtype, shape))
    },
    eval: eval_paste,
    vjp: Vjp::Rule(|cx| {
        let (part, starts) = (cx.inputs[1], &cx.inputs[2..]);
        let zeros = part.constant_like(0.0);
        let dx = cx.dy.dynamic_update_slice(zeros, starts);
        let dpart = cx.dy.dynamic_slice(starts, part.shape());
        [Some(dx), Some(dpart)].into_iter().chain(starts.iter().map(|_| None)).collect()
    }),
    lower: Lower::Step(&Paste),
    samples: |s| {
        vec![
            Sample::new(vec![
                s.float_in(-2.0..2.0, [5, 4]),
                s.float_in(-2.0..2.0, [2, 3]),
                s.ints(DType::I64, 0..4, [0; 0]),
                s.ints(DType::I32, 0..2, [0; 0]),
            ]),
            Sample::new(vec![s.float_in(-2.0..2.0, [6]), s.float_in(-2.0..2.0, [2]), s.ints(DType::I64, 0..5, [0; 0])]),
        ]
    },
};

/// A table with other rows.
pub static SCATTER_SET: OpDef = OpDef {
    name: "scatter_set",
    doc: "For `(x, rows, indices)`, the table `x` `[n, ..]` with rows `[i.., ..]` in the place of those at indices `[i..]`; of equal \
          indices the last counts. An index outside `0..n` is an error of the step. Made in the memory of `x` if nothing needs its \
          old value any more.",
    arity: Arity::Exact(3),
    attrs: &[],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ((dtype, table), (other, rows), (index, indices)) = (cx.tensor(0)?, cx.tensor(1)?, cx.tensor(2)?);
        require_indices(cx, index)?;
        same_dtype(cx, [dtype, other])?;
        if table.rank() == 0 {
            return Err(cx.shape_fault("requires a table of rank 1 or more, got a scalar"));
        }
        let expected: Shape = indices.iter().chain(&table[1..]).copied().collect();
        if *rows != expected {
            return Err(cx.shape_fault(format_args!("requires rows of shape {expected}, got {rows}")));
        }
        Ok(Type::tensor(dtype, table))
    },
    eval: eval_set,
    // What is overwritten has no derivative, and of equal indices the last alone has one.
    vjp: Vjp::Rule(|cx| {
        let (rows, indices) = (cx.inputs[1], cx.inputs[2]);
        let zeros = rows.constant_like(0.0);
        let dx = cx.dy.scatter_set(zeros, indices);
        let n = indices.shape().n_elements();
        let number = dx.builder().iota(DType::I64, [n], 0).reshape(indices.shape());
        let nobody = number.builder().scalar(0, DType::I64).broadcast_to([cx.dy.dim(0)]);
        let counts = nobody.scatter_set(number, indices).gather(indices).eq(number);
        let axes: SmallVec<[usize; 4]> = (indices.rank()..rows.rank()).collect();
        let drows = counts.repeat_along(&rows.shape(), axes.as_slice()).select(cx.dy.gather(indices), zeros);
        smallvec![Some(dx), Some(drows), None]
    }),
    lower: Lower::Step(&SetRows),
    samples: |s| {
        vec![
            Sample::new(vec![
                s.float_in(-2.0..2.0, [5, 3]),
                s.float_in(-2.0..2.0, [4, 3]),
                s.ints(DType::I64, 0..5, [4]),
            ]),
            Sample::new(vec![
                s.float_in(-2.0..2.0, [4]),
                s.float_in(-2.0..2.0, [2, 2]),
                s.ints(DType::I32, 0..4, [2, 2]),
            ]),
        ]
    },
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&DYNAMIC_SLICE, &DYNAMIC_UPDATE_SLICE, &SCATTER_SET];

impl<'g> Tensor<'g> {
    /// The part of extents `sizes` that starts, along each axis, at a scalar index known at run time. Starts that leave less than
    /// that are an error of the step.
    #[track_caller]
    pub fn dynamic_slice(self, starts: &[Tensor<'_>], sizes: impl Into<Shape>) -> Tensor<'g> {
        let operands: SmallVec<[Tensor<'_>; 4]> = std::iter::once(self).chain(starts.iter().copied()).collect();
        self.builder().op(&DYNAMIC_SLICE, &operands, Attrs::none().with("sizes", &sizes.into()[..]), None)
    }

    /// This tensor with a part that starts, along each axis, at a scalar index known at run time. Starts that leave too little room
    /// are an error of the step.
    ///
    /// ```
    /// use cotangent_graph::{DType::{F32, I64}, Init, build};
    ///
    /// // A cache of which each step writes one row, where it stands.
    /// let graph = build(|g| {
    ///     let cache = g.state("cache", F32, [128, 64], Init::ZEROS);
    ///     let (row, position) = (g.input("row", F32, [1, 64]), g.input("position", I64, []));
    ///     let next = cache.dynamic_update_slice(row, &[position, g.scalar(0, I64)]);
    ///     g.update(cache, next);
    ///     g.output("sum", next.sum_over(0));
    /// })?;
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    #[track_caller]
    pub fn dynamic_update_slice(self, part: Tensor<'_>, starts: &[Tensor<'_>]) -> Tensor<'g> {
        let operands: SmallVec<[Tensor<'_>; 4]> = [self, part].into_iter().chain(starts.iter().copied()).collect();
        self.builder().op(&DYNAMIC_UPDATE_SLICE, &operands, Attrs::none(), None)
    }

    /// This table with other rows at indices; of equal indices the last counts. See also [`Tensor::scatter_add`].
    #[track_caller]
    pub fn scatter_set(self, rows: Tensor<'_>, indices: Tensor<'_>) -> Tensor<'g> {
        self.builder().op(&SCATTER_SET, &[self, rows, indices], Attrs::none(), None)
    }
}
