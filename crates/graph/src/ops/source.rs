//! Sources: inputs, parameters, states, constants, indices and random numbers.

use cotangent_scalar::DType;

use crate::attrs::{AttrKind, AttrSpec, Attrs};
use crate::axes::Axis;
use crate::builder::{GraphBuilder, Tensor};
use crate::diag::Code;
use crate::eval;
use crate::op::{Arity, EvalCx, Fault, InferCx, Lower, OpDef, OpTraits, Source, Vjp};
use crate::ops::arithmetic::InferFn;
use crate::ops::reduce::checked_axis;
use crate::samples::Sample;
use crate::tensor::TensorData;
use crate::types::{Shape, Type};

fn declared(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let ty = cx.declared.ok_or_else(|| cx.attr_fault("requires a type, for example `f32[32,784]`"))?;
    if ty.as_tensor().is_none() {
        return Err(cx.attr_fault(format_args!("requires a tensor type, got {ty}")));
    }
    Ok(ty.clone())
}

pub(crate) const NAME: AttrSpec = AttrSpec { name: "name", kind: AttrKind::Str, doc: "the dotted name" };
pub(crate) const INIT: AttrSpec = AttrSpec { name: "init", kind: AttrKind::Init, doc: "how it starts" };
pub(crate) const VALUE: AttrSpec =
    AttrSpec { name: "value", kind: AttrKind::Tensor, doc: "the elements in row-major order" };

/// The declared type, and a start that makes sense for it.
fn started(cx: &InferCx<'_>) -> Result<Type, Fault> {
    let ty = declared(cx)?;
    match cx.attrs.init(INIT.name).map(|init| init.check(ty.dtype())) {
        Some(Err(required)) => {
            let name = cx.attrs.str(NAME.name);
            Err(Fault::new(Code::BadAttribute, format!("the start of `{name}` {required}")))
        }
        _ => Ok(ty),
    }
}

const fn named(
    name: &'static str,
    doc: &'static str,
    attrs: &'static [AttrSpec],
    infer: InferFn,
    source: Source,
) -> OpDef {
    OpDef {
        name,
        doc,
        arity: Arity::Exact(0),
        attrs,
        traits: OpTraits::NONE,
        infer,
        eval: eval::unbound,
        vjp: Vjp::Zero("a source has no operands"),
        lower: Lower::Source(source),
        samples: |_| Vec::new(),
    }
}

/// Given at every step.
pub static INPUT: OpDef = named("input", "A tensor given at every step.", &[NAME], declared, Source::Input);

/// Trained.
pub static PARAM: OpDef =
    named("param", "A trained tensor; starts as `init` says.", &[NAME, INIT], started, Source::Param);

/// Carried from step to step.
pub static STATE: OpDef =
    named("state", "A tensor carried from step to step; starts as `init` says.", &[NAME, INIT], started, Source::State);

/// Known at compile time.
pub static CONSTANT: OpDef = OpDef {
    name: "constant",
    doc: "A tensor known at compile time.",
    arity: Arity::Exact(0),
    attrs: &[VALUE],
    traits: OpTraits::NONE,
    infer: |cx| match cx.attrs.tensor(VALUE.name) {
        Some(value) => Ok(value.ty()),
        None => Err(cx.attr_fault("requires a value")),
    },
    eval: |cx: &EvalCx<'_>, _| match cx.attrs.tensor(VALUE.name) {
        Some(value) => Ok(value.as_ref().clone()),
        None => Err(Fault::new(Code::BadAttribute, "`constant` without a value")),
    },
    vjp: Vjp::Zero("a source has no operands"),
    lower: Lower::Source(Source::Constant),
    samples: |s| {
        let value = s.float_in(-2.0..2.0, [2, 3]);
        vec![Sample::new(Vec::new()).attrs(Attrs::none().with(VALUE.name, value))]
    },
};

/// Indices along an axis.
pub static IOTA: OpDef = OpDef {
    name: "iota",
    doc: "The index along `axis` at every element, as i32 or i64.",
    arity: Arity::Exact(0),
    attrs: &[AttrSpec { name: "axis", kind: AttrKind::Int, doc: "the axis whose index is taken" }],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ty = declared(cx)?;
        if !matches!(ty.dtype(), DType::I32 | DType::I64) {
            return Err(cx.dtype_fault(format_args!("makes i32 or i64, not {}", ty.dtype())));
        }
        checked_axis(cx, ty.shape())?;
        let n = ty.shape()[cx.attrs.size("axis")];
        if ty.dtype() == DType::I32 && n > 1 << 31 {
            let text = format_args!("of i32 holds indices below 2147483648, got an axis of extent {n}");
            return Err(cx.shape_fault(text).help("use i64"));
        }
        Ok(ty)
    },
    eval: |cx: &EvalCx<'_>, _| {
        let (shape, axis) = (cx.ty.shape(), cx.attrs.size("axis"));
        let stride = shape.strides()[axis] as usize;
        let index = |i: usize| (i / stride % shape[axis].max(1)) as u64;
        let bits: Vec<u64> = (0..shape.n_elements()).map(index).collect();
        Ok(TensorData::from_bits(cx.ty.dtype(), shape, &bits))
    },
    vjp: Vjp::Zero("a source has no operands"),
    lower: Lower::Source(Source::Iota),
    samples: |_| {
        let mut sample = Sample::new(Vec::new()).attrs(Attrs::none().with("axis", 1));
        sample.declared = Some(Type::tensor(DType::I64, [2, 3, 2]));
        vec![sample]
    },
};

/// Random numbers.
pub static RNG: OpDef = OpDef {
    name: "rng",
    doc: "Random floats by Philox4x32-10 of (seed, stream, step, element): the same for any thread count, recomputed rather \
          than stored. `dist` is `uniform` on [0, 1) or `normal` with mean 0 and variance 1. The stream is a name: other \
          layers never renumber it.",
    arity: Arity::Exact(0),
    attrs: &[
        AttrSpec { name: "stream", kind: AttrKind::Str, doc: "the dotted name of the stream" },
        AttrSpec { name: "dist", kind: AttrKind::Str, doc: "`uniform` or `normal`" },
    ],
    traits: OpTraits::NONE,
    infer: |cx| {
        let ty = declared(cx)?;
        if !ty.dtype().is_float() {
            return Err(cx.dtype_fault(format_args!("makes floats, not {}", ty.dtype())));
        }
        if !matches!(cx.attrs.str("dist"), "uniform" | "normal") {
            let text = format_args!("requires the distribution `uniform` or `normal`, got `{}`", cx.attrs.str("dist"));
            return Err(cx.attr_fault(text));
        }
        Ok(ty)
    },
    eval: crate::rng::eval,
    vjp: Vjp::Zero("a source has no operands"),
    lower: Lower::Source(Source::Rng),
    samples: |s| {
        let sample = |dist: &str, s: &crate::samples::Sampler| {
            let mut sample = Sample::new(Vec::new()).attrs(Attrs::none().with("stream", "sample").with("dist", dist));
            sample.declared = Some(Type::tensor(s.dtype(), [5, 37]));
            sample
        };
        vec![sample("uniform", s), sample("normal", s)]
    },
};

/// The ops of this file.
pub(crate) static OPS: &[&OpDef] = &[&INPUT, &PARAM, &STATE, &CONSTANT, &IOTA, &RNG];

impl GraphBuilder {
    /// A constant tensor: anything that becomes a [`TensorData`], for example an `ndarray` array.
    #[track_caller]
    pub fn constant(&self, value: impl Into<TensorData>) -> Tensor<'_> {
        self.op(&CONSTANT, &[], Attrs::none().with(VALUE.name, value.into()), None)
    }

    /// The index along `axis` at every element.
    #[track_caller]
    pub fn iota(&self, dtype: DType, shape: impl Into<Shape>, axis: impl Into<Axis>) -> Tensor<'_> {
        let shape = shape.into();
        let axis = axis.into().number(shape.rank());
        self.op(&IOTA, &[], Attrs::none().with("axis", axis), Some(Type::tensor(dtype, shape)))
    }

    /// Random floats uniform on [0, 1), from a stream named in the current scope.
    #[track_caller]
    pub fn uniform(&self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Tensor<'_> {
        self.random(name, "uniform", Type::tensor(dtype, shape))
    }

    /// Random floats of the standard normal distribution, from a stream named in the current scope.
    #[track_caller]
    pub fn normal(&self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Tensor<'_> {
        self.random(name, "normal", Type::tensor(dtype, shape))
    }

    #[track_caller]
    fn random(&self, name: &str, dist: &str, ty: Type) -> Tensor<'_> {
        let attrs = Attrs::none().with("stream", self.stream_name(name).as_str()).with("dist", dist);
        self.op(&RNG, &[], attrs, Some(ty))
    }
}
