//! The record of an op: everything the compiler knows about it, in one place.
//!
//! There is no `Default` and no `..`: a missing rule does not compile. Families of ops (pointwise, compare, …) are
//! constructors that return complete records. Ops from other crates are equal citizens: [`Registry`] is a value that the
//! builder, the parser and the passes receive.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use cotangent_scalar::{BodyBuilder, DType, ReduceOp, ValueId};
use smallvec::SmallVec;

use crate::attrs::{AttrSpec, Attrs};
use crate::builder::{GraphBuilder, Tensor};
use crate::diag::{Code, Loc, nearest};
use crate::interp::Counters;
use crate::ir::{Graph, OpRef};
use crate::samples::{Sample, Sampler};
use crate::tensor::TensorData;
use crate::types::{Shape, Type};

/// How many operands an op takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly this many.
    Exact(usize),
    /// At least this many.
    AtLeast(usize),
    /// From the first to the second number.
    Between(usize, usize),
}

impl Arity {
    /// Whether `n` operands are allowed.
    pub fn allows(self, n: usize) -> bool {
        match self {
            Arity::Exact(k) => n == k,
            Arity::AtLeast(k) => n >= k,
            Arity::Between(a, b) => (a..=b).contains(&n),
        }
    }
}

impl fmt::Display for Arity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arity::Exact(k) => write!(f, "{k}"),
            Arity::AtLeast(k) => write!(f, "at least {k}"),
            Arity::Between(a, b) => write!(f, "{a} to {b}"),
        }
    }
}

/// Properties that passes rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpTraits(u32);

impl OpTraits {
    /// No property.
    pub const NONE: OpTraits = OpTraits(0);
    /// Computes each element from the elements at the same place.
    pub const POINTWISE: OpTraits = OpTraits(1);
    /// `f(a, b) = f(b, a)`, bit for bit.
    pub const COMMUTATIVE: OpTraits = OpTraits(1 << 1);
    /// `f(-x) = -f(x)`.
    pub const ODD: OpTraits = OpTraits(1 << 2);
    /// `f(-x) = f(x)`.
    pub const EVEN: OpTraits = OpTraits(1 << 3);
    /// `x ≤ y` implies `f(x) ≤ f(y)`.
    pub const MONOTONE: OpTraits = OpTraits(1 << 4);
    /// `f(0) = 0`.
    pub const ZERO_PRESERVING: OpTraits = OpTraits(1 << 5);
    /// Has no operands that are computed: an input, parameter, state or constant, index or random numbers.
    pub const SOURCE: OpTraits = OpTraits(1 << 6);
    /// Identified by its name, not by its contents.
    pub const NAMED: OpTraits = OpTraits(1 << 7);
    /// `f(f(x)) = f(x)`.
    pub const IDEMPOTENT: OpTraits = OpTraits(1 << 8);

    /// These properties and those.
    pub const fn with(self, other: OpTraits) -> OpTraits {
        OpTraits(self.0 | other.0)
    }

    /// Whether all of the given properties hold.
    pub const fn has(self, other: OpTraits) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Why a type cannot be inferred or a value not be computed; becomes a `Diag` at the place of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The code of the error.
    pub code: Code,
    /// What was required and what was got.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Further places, beside those of the operands.
    pub notes: Vec<(String, Loc)>,
}

impl Fault {
    /// A fault without advice.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Fault { code, message: message.into(), help: None, notes: Vec::new() }
    }

    /// The same fault with advice.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// What type inference sees.
#[derive(Clone, Copy)]
pub struct InferCx<'a> {
    /// The op.
    pub op: &'static OpDef,
    /// The operands' types.
    pub inputs: &'a [&'a Type],
    /// The attributes.
    pub attrs: &'a Attrs,
    /// The type written down, for ops whose type does not follow from operands (sources).
    pub declared: Option<&'a Type>,
    /// The graph's bodies.
    pub bodies: &'a [Arc<Graph>],
}

impl<'a> InferCx<'a> {
    /// Element type and shape of operand `k`, which must be a tensor.
    pub fn tensor(&self, k: usize) -> Result<(DType, &'a Shape), Fault> {
        self.inputs[k].as_tensor().ok_or_else(|| {
            let text = format!("`{}` requires tensors, got {} as operand {k}", self.op.name, self.inputs[k]);
            Fault::new(Code::DTypeMismatch, text)
        })
    }

    /// A shape error of this op.
    pub fn shape_fault(&self, what: impl fmt::Display) -> Fault {
        Fault::new(Code::ShapeMismatch, format!("`{}` {what}", self.op.name))
    }

    /// An element type error of this op.
    pub fn dtype_fault(&self, what: impl fmt::Display) -> Fault {
        Fault::new(Code::DTypeMismatch, format!("`{}` {what}", self.op.name))
    }

    /// An attribute error of this op.
    pub fn attr_fault(&self, what: impl fmt::Display) -> Fault {
        Fault::new(Code::BadAttribute, format!("`{}` {what}", self.op.name))
    }
}

/// What evaluation sees besides the operands' values.
#[derive(Clone, Copy)]
pub struct EvalCx<'a> {
    /// The op.
    pub op: &'static OpDef,
    /// The attributes.
    pub attrs: &'a Attrs,
    /// The type of the result.
    pub ty: &'a Type,
    /// The counters that random numbers depend on.
    pub counters: Counters,
    /// The graph's bodies.
    pub bodies: &'a [Arc<Graph>],
}

/// What a derivative rule sees. All tensors belong to the graph under construction.
pub struct VjpCx<'g, 'a> {
    /// The operands of the op.
    pub inputs: SmallVec<[Tensor<'g>; 3]>,
    /// The value of the op.
    pub output: Tensor<'g>,
    /// The derivative of the differentiated scalar with respect to the op's value.
    pub dy: Tensor<'g>,
    /// The attributes of the op.
    pub attrs: &'a Attrs,
}

impl<'g> VjpCx<'g, '_> {
    /// The first operand.
    pub fn x(&self) -> Tensor<'g> {
        self.inputs[0]
    }
}

/// The cotangents of the operands; `None` where there is none (integers, or zero).
pub type Cotangents<'g> = SmallVec<[Option<Tensor<'g>>; 3]>;

/// How an op is differentiated.
pub enum Vjp {
    /// By a rule that builds the operands' cotangents from that of the value.
    Rule(for<'g, 'a> fn(&VjpCx<'g, 'a>) -> Cotangents<'g>),
    /// By expanding it and differentiating what it expands to.
    ViaExpansion,
    /// The derivative is zero wherever it exists; the reason.
    Zero(&'static str),
    /// Not differentiable; the reason.
    None(&'static str),
}

/// What a scalar lowering sees.
#[derive(Clone, Copy)]
pub struct ScalarCx<'a> {
    /// The attributes.
    pub attrs: &'a Attrs,
    /// The element type of the result.
    pub dtype: DType,
}

/// How an axis of a view's operand is indexed: `offset + step · index[axis of the view]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AxisMap {
    /// Index at 0.
    pub offset: i64,
    /// Step; 0 if the axis does not move.
    pub step: i64,
    /// The axis of the view that moves it.
    pub axis: usize,
}

/// How a view finds its elements in its operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewMap {
    /// One map for each axis of the operand.
    Affine(SmallVec<[AxisMap; 4]>),
    /// The elements in row-major order stay the same.
    Reshape,
}

/// What an expansion sees. All tensors belong to the graph under construction.
pub struct ExpandCx<'g, 'a> {
    /// The builder of the graph under construction.
    pub builder: &'g GraphBuilder,
    /// The operands.
    pub inputs: SmallVec<[Tensor<'g>; 3]>,
    /// The attributes.
    pub attrs: &'a Attrs,
    /// The type of the op's value.
    pub ty: &'a Type,
    /// The graph's bodies.
    pub bodies: &'a [Arc<Graph>],
}

/// The sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Given at every step.
    Input,
    /// Trained.
    Param,
    /// Carried from step to step.
    State,
    /// Known at compile time.
    Constant,
    /// Indices along an axis.
    Iota,
    /// Random numbers.
    Rng,
}

/// What a value check demands of every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// To lie in `0..bound` (attribute `bound`).
    Index,
    /// To be neither infinite nor NaN.
    Finite,
}

/// How an op becomes loops or steps.
pub enum Lower {
    /// A scalar program applied to each element.
    Scalar(fn(&mut BodyBuilder, &[ValueId], &ScalarCx<'_>) -> ValueId),
    /// A reduction over the attribute `axes`.
    Reduce(ReduceOp),
    /// Other indices into the same elements.
    View(fn(&Attrs, &Shape, &Shape) -> ViewMap),
    /// Operands copied into places of the result: `pad` and `concat`.
    Join,
    /// A matrix product.
    Gemm,
    /// Rows picked by index.
    Gather,
    /// Rows added by index.
    ScatterAdd,
    /// A value check before the step changes anything; the value passes through.
    Check(Check),
    /// The operand itself.
    Identity,
    /// Other ops.
    Expand(for<'g, 'a> fn(&ExpandCx<'g, 'a>) -> SmallVec<[Tensor<'g>; 1]>),
    /// A source.
    Source(Source),
    /// Several values as one.
    Tuple,
    /// One of several values.
    Item,
    /// A derivative, replaced by the pass `differentiate`.
    Grad,
}

/// Everything the compiler knows about an op.
pub struct OpDef {
    /// The name in the text form.
    pub name: &'static str,
    /// What it computes: shapes, units, source of the formula.
    pub doc: &'static str,
    /// Number of operands.
    pub arity: Arity,
    /// Its attributes.
    pub attrs: &'static [AttrSpec],
    /// Properties.
    pub traits: OpTraits,
    /// Shape and dtype rule.
    pub infer: fn(&InferCx<'_>) -> Result<Type, Fault>,
    /// Reference semantics: the oracle and constant folding.
    pub eval: fn(&EvalCx<'_>, &[&TensorData]) -> Result<TensorData, Fault>,
    /// The derivative.
    pub vjp: Vjp,
    /// The way to loops.
    pub lower: Lower,
    /// Operands that the derived tests try.
    pub samples: fn(&mut Sampler) -> Vec<Sample>,
}

impl fmt::Debug for OpDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpDef({})", self.name)
    }
}

/// The ops that a builder, parser or pass knows, by name.
#[derive(Clone, Debug)]
pub struct Registry {
    ops: BTreeMap<&'static str, OpRef>,
}

impl Registry {
    /// The built-in ops.
    pub fn builtin() -> Self {
        let mut registry = Registry { ops: BTreeMap::new() };
        for family in crate::ops::FAMILIES {
            for op in *family {
                registry.ops.insert(op.name, OpRef(op));
            }
        }
        registry
    }

    /// These ops and one more, which must have a new name and lower as `Scalar` or `Expand`.
    pub fn with(mut self, op: &'static OpDef) -> Result<Self, Fault> {
        if !matches!(op.lower, Lower::Scalar(_) | Lower::Expand(_)) {
            let text = format!("an op from outside must lower as Scalar or Expand; `{}` does not", op.name);
            return Err(Fault::new(Code::Unsupported, text));
        }
        if self.ops.insert(op.name, OpRef(op)).is_some() {
            return Err(Fault::new(Code::DuplicateName, format!("an op named `{}` is already registered", op.name)));
        }
        Ok(self)
    }

    /// The op of this name.
    pub fn get(&self, name: &str) -> Option<OpRef> {
        self.ops.get(name).copied()
    }

    /// The known name nearest to a misspelled one.
    pub fn nearest(&self, name: &str) -> Option<&'static str> {
        nearest(name, self.ops.keys().copied())
    }

    /// All ops by name.
    pub fn iter(&self) -> impl Iterator<Item = OpRef> {
        self.ops.values().copied()
    }
}
