//! Comparisons, selection, conversion, and the end of a gradient.

use cotangent_scalar::DType;
use smallvec::smallvec;

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::builder::Tensor;
use crate::diag::{Code, Diag};
use crate::eval;
use crate::op::{Arity, Fault, InferCx, Lower, OpDef, OpTraits, Vjp};
use crate::ops::arithmetic::{Operand, ScalarFn, pointwise};
use crate::ops::{infer_compare, infer_same};
use crate::samples::{Sample, Sampler};
use crate::types::Type;

fn numbers(s: &mut Sampler) -> Vec<Sample> {
    vec![
        Sample::new(vec![s.float_in(-2.0..2.0, [3, 4]), s.float_in(-2.0..2.0, [3, 4])]),
        Sample::new(vec![s.ints(DType::I64, -2..3, [3, 4]), s.ints(DType::I64, -2..3, [3, 4])]),
        Sample::new(vec![s.ints(DType::U8, 0..5, [7]), s.ints(DType::U8, 0..5, [7])]),
    ]
}

const fn compare(name: &'static str, doc: &'static str, traits: OpTraits, lower: ScalarFn) -> OpDef {
    pointwise(name, doc, 2, traits, infer_compare, lower, Vjp::Zero("truth values have no derivative"), numbers)
}

/// Equality.
pub static EQ: OpDef =
    compare("eq", "Whether `a = b`; false if one is NaN.", OpTraits::COMMUTATIVE, |s, v, _| s.eq(v[0], v[1]));
/// Inequality.
pub static NE: OpDef =
    compare("ne", "Whether `a ≠ b`; true if one is NaN.", OpTraits::COMMUTATIVE, |s, v, _| s.ne(v[0], v[1]));
/// Less.
pub static LT: OpDef =
    compare("lt", "Whether `a < b`; false if one is NaN.", OpTraits::NONE, |s, v, _| s.lt(v[0], v[1]));
/// Less or equal.
pub static LE: OpDef =
    compare("le", "Whether `a ≤ b`; false if one is NaN.", OpTraits::NONE, |s, v, _| s.le(v[0], v[1]));
/// Greater.
pub static GT: OpDef =
    compare("gt", "Whether `a > b`; false if one is NaN.", OpTraits::NONE, |s, v, _| s.gt(v[0], v[1]));
/// Greater or equal.
pub static GE: OpDef =
    compare("ge", "Whether `a ≥ b`; false if one is NaN.", OpTraits::NONE, |s, v, _| s.ge(v[0], v[1]));

fn infer_select(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let (condition, shape) = cx.tensor(0)?;
    let ((a, a_shape), (b, b_shape)) = (cx.tensor(1)?, cx.tensor(2)?);
    if condition != DType::Bool {
        return Err(cx.dtype_fault(format_args!("requires a bool condition, got {condition}")));
    }
    if a != b {
        let fault = cx.dtype_fault(format_args!("requires alternatives of one element type, got {a} and {b}"));
        return Err(fault.help("nothing is promoted implicitly: convert one of them with `cast`"));
    }
    if shape != a_shape || shape != b_shape {
        let text = format_args!("requires shapes that broadcast, got {shape}, {a_shape} and {b_shape}");
        return Err(cx.shape_fault(text));
    }
    Ok(Type::tensor(a, shape))
}

/// Choice by a condition.
pub static SELECT: OpDef = pointwise(
    "select",
    "`a` where the condition holds, `b` elsewhere.",
    3,
    OpTraits::NONE,
    infer_select,
    |s, v, _| s.select(v[0], v[1], v[2]),
    Vjp::Rule(|cx| {
        let zero = cx.dy.constant_like(0.0);
        smallvec![None, Some(cx.inputs[0].select(cx.dy, zero)), Some(cx.inputs[0].select(zero, cx.dy))]
    }),
    |s| vec![Sample::new(vec![s.bools([3, 4]), s.float_in(-2.0..2.0, [3, 4]), s.float_in(-2.0..2.0, [3, 4])])],
);

/// Conversion to another element type.
pub static CAST: OpDef = OpDef {
    name: "cast",
    doc: "Conversion to element type `to`. Floats to integers truncate and saturate (NaN becomes 0); integers wrap; to \
          bool it is `x ≠ 0`.",
    arity: Arity::Exact(1),
    attrs: &[AttrSpec { name: "to", kind: AttrKind::DType, doc: "the element type of the result" }],
    traits: OpTraits::POINTWISE,
    infer: |cx| {
        let (_, shape) = cx.tensor(0)?;
        let to = cx.attrs.dtype("to").ok_or_else(|| cx.attr_fault("requires the attribute `to`"))?;
        Ok(Type::tensor(to, shape))
    },
    eval: eval::scalar,
    vjp: Vjp::Rule(|cx| {
        let from = cx.x().dtype();
        smallvec![(from.is_float() && cx.dy.dtype().is_float()).then(|| cx.dy.cast(from))]
    }),
    lower: Lower::Scalar(|s, v, cx| s.cast(v[0], cx.dtype)),
    samples: |s| {
        let to = |dtype| Attrs::none().with("to", dtype);
        vec![
            Sample::new(vec![s.float_in(-9.0..9.0, [3, 4])]).attrs(to(DType::F64)),
            Sample::new(vec![s.float_in(-9.0..9.0, [3, 4])]).attrs(to(DType::I32)),
            Sample::new(vec![s.ints(DType::I64, -9..9, [3, 4])]).attrs(to(DType::F32)),
            Sample::new(vec![s.bools([5])]).attrs(to(DType::U8)),
        ]
    },
};

/// The operand, with no gradient through it.
pub static STOP_GRADIENT: OpDef = OpDef {
    name: "stop_gradient",
    doc: "The operand itself; its derivative is taken as zero.",
    arity: Arity::Exact(1),
    attrs: &[],
    traits: OpTraits::IDEMPOTENT,
    infer: infer_same,
    eval: eval::identity,
    vjp: Vjp::Zero("that is its purpose"),
    lower: Lower::Identity,
    samples: |s| vec![Sample::new(vec![s.float_in(-2.0..2.0, [3, 4])])],
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&EQ, &NE, &LT, &LE, &GT, &GE, &SELECT, &CAST, &STOP_GRADIENT];

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident, $op:ident;)*) => {
        impl<'g> Tensor<'g> {
            $($(#[$doc])* #[track_caller] pub fn $name(self, other: impl Operand<'g>) -> Tensor<'g> { self.binary(&$op, other.beside(self)) })*
        }
    };
}

methods! {
    /// Whether equal.
    eq, EQ;
    /// Whether different.
    ne, NE;
    /// Whether less.
    lt, LT;
    /// Whether less or equal.
    le, LE;
    /// Whether greater.
    gt, GT;
    /// Whether greater or equal.
    ge, GE;
}

impl<'g> Tensor<'g> {
    /// `a` where this condition holds, `b` elsewhere, with NumPy broadcasting. One of the two may be a number, which takes the
    /// other's element type.
    #[track_caller]
    pub fn select(self, a: impl Operand<'g>, b: impl Operand<'g>) -> Tensor<'g> {
        let g = self.builder();
        let Some(other) = a.tensor().or(b.tensor()) else {
            let text = "`select` requires a tensor among its alternatives, for the element type, got two numbers";
            let diag = Diag::new(Code::BadAttribute, text).made("the condition", self);
            g.error(diag.help("make one of them a tensor, for example with `g.scalar(value, F32)`"));
            return g.poisoned_as(Type::tensor(DType::F32, self.shape()));
        };
        g.pointwise(&SELECT, &[self, a.beside(other), b.beside(other)])
    }

    /// Conversion to another element type; this very tensor if it has it already.
    #[track_caller]
    pub fn cast(self, to: DType) -> Tensor<'g> {
        if self.dtype() == to {
            return self;
        }
        self.unary_with(&CAST, Attrs::none().with("to", to))
    }

    /// This tensor, with no gradient through it.
    #[track_caller]
    pub fn stop_gradient(self) -> Tensor<'g> {
        self.unary(&STOP_GRADIENT)
    }
}
