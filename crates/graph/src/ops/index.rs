//! Run-time indices: picking and adding rows, one-hot, and the check that indices are in range.
//!
//! Every run-time index passes a check before a step changes anything; no option removes it.

use std::ops::Range;

use cotangent_scalar::DType;
use smallvec::{SmallVec, smallvec};

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::builder::Tensor;
use crate::eval;
use crate::op::{Arity, Check, Fault, InferCx, Lower, OpDef, OpTraits, Vjp};
use crate::ops::reduce::index_type;
use crate::samples::Sample;
use crate::step::{Arithmetic, Elements, ElementsMut, StepCx, StepOp, with_elements, with_numbers};
use crate::types::{Shape, Type};

pub(crate) fn require_indices(cx: &InferCx<'_>, dtype: DType) -> Result<(), Fault> {
    if matches!(dtype, DType::I32 | DType::I64) {
        return Ok(());
    }
    Err(cx.dtype_fault(format_args!("requires i32 or i64 indices, got {dtype}")).help("convert with `cast`"))
}

/// Rows of a table.
pub static GATHER: OpDef = OpDef {
    name: "gather",
    doc: "Rows of a table `[n, ..]` picked by indices `[i..]`: `[i.., ..]`. An index outside `0..n` is an error of the step.",
    arity: Arity::Exact(2),
    attrs: &[],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ((dtype, table), (index, indices)) = (cx.tensor(0)?, cx.tensor(1)?);
        require_indices(cx, index)?;
        if table.rank() == 0 {
            return Err(cx.shape_fault("requires a table of rank 1 or more, got a scalar"));
        }
        Ok(Type::tensor(dtype, indices.iter().chain(&table[1..]).copied().collect::<Shape>()))
    },
    eval: eval::gather,
    vjp: Vjp::Rule(|cx| smallvec![Some(cx.dy.scatter_add(cx.inputs[1], cx.x().dim(0))), None]),
    lower: Lower::Step(&Gather),
    samples: |s| vec![Sample::new(vec![s.float_in(-2.0..2.0, [5, 3]), s.ints(DType::I64, 0..5, [2, 2])])],
};

/// The step of [`GATHER`].
struct Gather;

impl StepOp for Gather {
    fn doc(&self) -> &'static str {
        "copies rows, after a check of the indices"
    }

    fn text(&self, cx: &StepCx<'_>) -> String {
        format!("gather rows of {}", row(cx.shape(0)))
    }

    fn indices(&self, cx: &StepCx<'_>) -> SmallVec<[(usize, usize); 4]> {
        smallvec![(1, cx.shape(0)[0])]
    }

    fn n_bytes(&self, cx: &StepCx<'_>) -> u64 {
        cx.n_bytes(1) + 2 * cx.ty.n_bytes() as u64
    }

    fn n_pieces(&self, cx: &StepCx<'_>) -> usize {
        cx.shape(1).n_elements()
    }

    fn run(&self, cx: &StepCx<'_>, operands: &[Elements<'_>], pieces: Range<usize>, out: ElementsMut<'_>) {
        let (indices, n) = (operands[1], row(cx.shape(0)));
        with_elements!(out, out: T => {
            let table = operands[0].of::<T>();
            match n {
                0 => {}
                // A copy of one element is shorter than a call for it.
                1 => pieces.zip(out).for_each(|(k, place)| *place = table[indices.index(k)]),
                _ => pieces.zip(out.chunks_exact_mut(n)).for_each(|(k, place)| {
                    place.copy_from_slice(&table[indices.index(k) * n..][..n]);
                }),
            }
        });
    }
}

/// The elements of a row: all but the first axis.
pub(crate) fn row(shape: &Shape) -> usize {
    shape[1..].iter().product()
}

/// Rows added by index.
pub static SCATTER_ADD: OpDef = OpDef {
    name: "scatter_add",
    doc: "Rows `[i.., ..]` added to zeros `[rows, ..]` at indices `[i..]`, in the order of the indices. An index outside \
          `0..rows` is an error of the step.",
    arity: Arity::Exact(2),
    attrs: &[AttrSpec { name: "rows", kind: AttrKind::Int, doc: "the number of rows of the result" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ((dtype, updates), (index, indices)) = (cx.tensor(0)?, cx.tensor(1)?);
        require_indices(cx, index)?;
        if dtype == DType::Bool {
            return Err(cx.dtype_fault("requires numbers, got bool").help("convert with `cast`"));
        }
        if updates.rank() < indices.rank() || updates[..indices.rank()] != indices[..] {
            return Err(cx.shape_fault(format_args!(
                "requires updates that start with the indices' shape {indices}, got {updates}"
            )));
        }
        if cx.attrs.int("rows") < 0 {
            return Err(cx.attr_fault(format_args!("requires rows of at least 0, got {}", cx.attrs.int("rows"))));
        }
        let rows = cx.attrs.size("rows");
        Ok(Type::tensor(dtype, [rows].iter().chain(&updates[indices.rank()..]).copied().collect::<Shape>()))
    },
    eval: eval::scatter_add,
    vjp: Vjp::Rule(|cx| smallvec![Some(cx.dy.gather(cx.inputs[1])), None]),
    lower: Lower::Step(&ScatterAdd),
    samples: |s| {
        let inputs = vec![s.float_in(-2.0..2.0, [4, 3]), s.ints(DType::I64, 0..5, [4])];
        vec![Sample::new(inputs).attrs(Attrs::none().with("rows", 5))]
    },
};

/// The step of [`SCATTER_ADD`].
struct ScatterAdd;

impl StepOp for ScatterAdd {
    fn doc(&self) -> &'static str {
        "adds rows in the order of the indices, after a check of the indices"
    }

    fn text(&self, cx: &StepCx<'_>) -> String {
        format!("scatter_add rows of {}", row(cx.ty.shape()))
    }

    fn indices(&self, cx: &StepCx<'_>) -> SmallVec<[(usize, usize); 4]> {
        smallvec![(1, cx.ty.shape()[0])]
    }

    fn n_bytes(&self, cx: &StepCx<'_>) -> u64 {
        3 * cx.n_bytes(0) + cx.n_bytes(1) + cx.ty.n_bytes() as u64
    }

    fn n_pieces(&self, cx: &StepCx<'_>) -> usize {
        cx.ty.shape()[0]
    }

    fn run(&self, cx: &StepCx<'_>, operands: &[Elements<'_>], pieces: Range<usize>, out: ElementsMut<'_>) {
        let n = row(cx.ty.shape());
        let indices = (0..cx.shape(1).n_elements()).map(|k| operands[1].index(k));
        // Every piece of work looks at all indices and adds the rows that are its own: in their order, whoever does it.
        with_numbers!(out, out: T => {
            out.fill(T::ZERO);
            for (k, i) in indices.enumerate().filter(|(_, i)| pieces.contains(i)) {
                let rows = &operands[0].of::<T>()[k * n..][..n];
                let sums = &mut out[(i - pieces.start) * n..][..n];
                sums.iter_mut().zip(rows).for_each(|(sum, &value)| *sum = sum.plus(value));
            }
        });
    }
}

/// Indices, checked.
pub static CHECK_INDEX: OpDef = OpDef {
    name: "check_index",
    doc: "The operand, once every element was seen to lie in `0..bound`; otherwise the step is an error and changes nothing.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "bound", kind: AttrKind::Int, doc: "one past the largest index allowed" }],
    traits: OpTraits::IDEMPOTENT,
    infer: |cx| {
        let (dtype, shape) = cx.tensor(0)?;
        require_indices(cx, dtype)?;
        if cx.attrs.int("bound") < 0 {
            return Err(cx.attr_fault(format_args!("requires a bound of at least 0, got {}", cx.attrs.int("bound"))));
        }
        Ok(Type::tensor(dtype, shape))
    },
    eval: eval::check_index,
    vjp: Vjp::Zero("integers have no derivative"),
    lower: Lower::Check(Check::Index),
    samples: |s| vec![Sample::new(vec![s.ints(DType::I64, 0..5, [4])]).attrs(Attrs::none().with("bound", 5))],
};

/// Floats, checked.
pub static CHECK_FINITE: OpDef = OpDef {
    name: "check_finite",
    doc: "The operand, once every element was seen to be neither infinite nor NaN; otherwise the step is an error and changes \
          nothing.",
    arity: Arity::Exact(1),
    attrs: &[],
    traits: OpTraits::IDEMPOTENT,
    infer: super::infer_float,
    eval: eval::check_finite,
    vjp: Vjp::Rule(|cx| smallvec![Some(cx.dy)]),
    lower: Lower::Check(Check::Finite),
    samples: |s| vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])])],
};

/// Unit vectors by index.
pub static ONE_HOT: OpDef = OpDef {
    name: "one_hot",
    doc: "For indices `[i..]`, `[i.., depth]` of element type `to` with 1 at the index and 0 elsewhere. An index outside \
          `0..depth` is an error of the step.",
    arity: Arity::Exact(1),
    attrs: &[
        AttrSpec { name: "depth", kind: AttrKind::Int, doc: "the extent of the new last axis" },
        AttrSpec { name: "to", kind: AttrKind::DType, doc: "the element type of the result" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let (dtype, shape) = cx.tensor(0)?;
        require_indices(cx, dtype)?;
        let to = cx.attrs.dtype("to").ok_or_else(|| cx.attr_fault("requires the attribute `to`"))?;
        Ok(Type::tensor(to, shape.iter().copied().chain([cx.attrs.size("depth")]).collect::<Shape>()))
    },
    eval: eval::unbound,
    vjp: Vjp::Zero("integers have no derivative"),
    lower: Lower::Expand(|cx| {
        let depth = cx.attrs.size("depth");
        smallvec![cx.inputs[0].is_class(depth).cast(cx.ty.dtype())]
    }),
    samples: |s| {
        let attrs = Attrs::none().with("depth", 5).with("to", s.dtype());
        vec![Sample::new(vec![s.ints(DType::I64, 0..5, [4])]).attrs(attrs)]
    },
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&GATHER, &SCATTER_ADD, &CHECK_INDEX, &CHECK_FINITE, &ONE_HOT];

impl<'g> Tensor<'g> {
    /// Rows of this table picked by indices.
    #[track_caller]
    pub fn gather(self, indices: Tensor<'_>) -> Tensor<'g> {
        let g = self.builder();
        g.op(&GATHER, &[self, indices], Attrs::none(), None)
    }

    /// These rows added to zeros of `rows` rows, by index.
    #[track_caller]
    pub fn scatter_add(self, indices: Tensor<'_>, rows: usize) -> Tensor<'g> {
        self.builder().op(&SCATTER_ADD, &[self, indices], Attrs::none().with("rows", rows as i64), None)
    }

    /// These indices, checked to lie in `0..bound` at every step.
    #[track_caller]
    pub fn check_index(self, bound: usize) -> Tensor<'g> {
        self.unary_with(&CHECK_INDEX, Attrs::none().with("bound", bound as i64))
    }

    /// These values, checked at every step to be finite before anything is changed. A loss that is checked refuses a step whose
    /// loss is NaN or infinite; a finite loss may still have gradients that are not, which `Recipe::check_gradients` refuses.
    #[track_caller]
    pub fn check_finite(self) -> Tensor<'g> {
        self.unary(&CHECK_FINITE)
    }

    /// Unit vectors of length `depth` with 1 at these indices.
    #[track_caller]
    pub fn one_hot(self, depth: usize, to: DType) -> Tensor<'g> {
        self.unary_with(&ONE_HOT, Attrs::none().with("depth", depth as i64).with("to", to))
    }

    /// For class indices `[i..]`, whether the class is `c`, at `[i.., c]` for each of `n_classes`; checked.
    #[track_caller]
    pub fn is_class(self, n_classes: usize) -> Tensor<'g> {
        let shape = self.shape();
        let wide: Shape = shape.iter().copied().chain([n_classes]).collect();
        let dtype = index_type(n_classes);
        let class = self.check_index(n_classes).cast(dtype).repeat_along(&wide, [shape.rank()]);
        class.eq(self.builder().iota(dtype, wide, shape.rank()))
    }
}
