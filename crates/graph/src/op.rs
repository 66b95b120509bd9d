//! The record of an op: everything the compiler knows about it, in one place.
//!
//! There is no `Default` and no `..`: a missing rule does not compile. Families of ops (pointwise, compare, …) are
//! constructors that return complete records. Ops from other crates are equal citizens: [`Registry`] is a value that the
//! builder, the parser and the passes receive.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, LazyLock};

use cotangent_scalar::{BodyBuilder, DType, Direction, ReduceOp, ScalarOp, ValueId};
use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use crate::attrs::{AttrSpec, Attrs};
use crate::builder::{GraphBuilder, Tensor};
use crate::diag::{Code, Diag, Loc, nearest, panic_text};
use crate::interp::Counters;
use crate::ir::{Graph, OpRef};
use crate::samples::{Sample, Sampler};
use crate::step::StepOp;
use crate::tensor::TensorData;
use crate::text;
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
    /// `f(f(x)) = f(x)`.
    pub const IDEMPOTENT: OpTraits = OpTraits(1 << 6);
    /// The derivative is infinite at some finite operands, as that of a logarithm at 0.
    pub const POLE: OpTraits = OpTraits(1 << 7);

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

    /// The same as an error at the caller's place.
    #[track_caller]
    pub fn diag(self) -> Diag {
        let Fault { code, message, help, notes } = self;
        Diag { help, notes, ..Diag::new(code, message) }
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

/// How an axis of a view's operand is indexed: `offset + Σ step · index[axis of the view]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AxisMap {
    /// Index at 0.
    pub offset: i64,
    /// The axes of the view that move it, each at most once, with their steps, none of which is 0.
    pub moves: SmallVec<[(usize, i64); 1]>,
}

impl AxisMap {
    /// An axis that one axis of the view moves, or none if `step` is 0.
    pub fn new(offset: i64, axis: usize, step: i64) -> Self {
        AxisMap { offset, moves: (step != 0).then_some((axis, step)).into_iter().collect() }
    }

    /// The axis of the view whose index is this one's, if it is as simple as that.
    pub fn same(&self) -> Option<usize> {
        match self.moves[..] {
            [(axis, 1)] if self.offset == 0 => Some(axis),
            _ => None,
        }
    }
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

/// The sources: what has no operands.
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
    /// A convolution or one of its adjoints: a product whose factors are not matrices.
    Conv(Direction),
    /// What is not loops.
    Step(&'static dyn StepOp),
    /// A value check before the step changes anything; the value passes through.
    Check(Check),
    /// The operand itself.
    Identity,
    /// A body that is run again and again: the attributes say what [`crate::ops::scan::Scan`] reads off them.
    Loop,
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

/// The most instructions of a scalar program from outside: the values of a kernel's body live in its frame, which must fit a
/// thread's stack.
const MAX_PROGRAM: usize = 4096;

impl OpDef {
    /// A mistake in this record, found when one of its functions was called.
    pub fn mistake(&self, what: impl fmt::Display) -> Fault {
        let fault = Fault::new(Code::BadOp, format!("the record of `{}` is wrong: it {what}", self.name));
        fault.help("the mistake is in the definition of the op, not where it is used")
    }

    /// What one of this record's functions makes.
    ///
    /// # Errors
    /// A mistake in the record, if it is of an op from outside and the function panics. A panic of a built-in op is the
    /// compiler's own and goes on.
    pub fn guard<R>(&'static self, f: impl FnOnce() -> R) -> Result<R, Fault> {
        // What a panic leaves half done is of a node that is never made, or of a graph that is dropped.
        catch_unwind(AssertUnwindSafe(f)).or_else(|payload| match self.is_builtin() {
            true => resume_unwind(payload),
            false => Err(self.mistake(format_args!("panics: {}", panic_text(&*payload)))),
        })
    }

    /// The type of a node of this op; see [`crate::builder::infer_type`].
    ///
    /// # Errors
    /// What the record's rule says, or a mistake in the record.
    pub(crate) fn infer(&'static self, cx: &InferCx<'_>) -> Result<Type, Fault> {
        self.guard(|| (self.infer)(cx))?
    }

    /// The value of a node of this op, by the reference semantics.
    ///
    /// # Errors
    /// What the record's function says, or a mistake in the record: it panics, or makes another type than the node has.
    pub fn eval(&'static self, cx: &EvalCx<'_>, operands: &[&TensorData]) -> Result<TensorData, Fault> {
        let value = self.guard(|| (self.eval)(cx, operands))??;
        if value.ty() != *cx.ty {
            return Err(self.mistake(format_args!("evaluates to {}, not to {}", value.ty(), cx.ty)));
        }
        Ok(value)
    }

    /// Whether an op from outside may lower like this.
    fn check_lowering(&self) -> Result<(), Fault> {
        if matches!(self.lower, Lower::Scalar(_) | Lower::Expand(_)) {
            return Ok(());
        }
        let text = format!("an op from outside must lower as Scalar or Expand; `{}` does not", self.name);
        Err(Fault::new(Code::Unsupported, text))
    }

    /// The value of the op's scalar program at some values of a body under construction.
    ///
    /// # Errors
    /// A mistake in the record: the program of an op from outside is not one of such operands, makes another type than
    /// `cx.dtype`, or panics. Such programs are made apart from the body, so that they see nothing of it and break nothing.
    pub fn scalar(&'static self, s: &mut BodyBuilder, args: &[ValueId], cx: &ScalarCx<'_>) -> Result<ValueId, Fault> {
        let Lower::Scalar(program) = &self.lower else { return Err(self.mistake("has no scalar program")) };
        if self.is_builtin() {
            return Ok(program(s, args, cx));
        }
        let wrong = |what: String| self.mistake(format_args!("has a scalar program that {what}"));
        let mut own = BodyBuilder::new();
        let mut inputs: SmallVec<[ValueId; 3]> = SmallVec::new();
        for (k, &arg) in args.iter().enumerate() {
            let dtype = s.dtype(arg);
            let input = match s.const_bits(arg) {
                Some(bits) => own.const_from_bits(bits, dtype),
                None => own.input(k as u32, dtype),
            };
            if s.is_not_positive(arg) {
                own.note_not_positive(input);
            }
            inputs.push(input);
        }
        let root = self.guard(|| program(&mut own, &inputs, cx))?;
        if !own.has(root) {
            return Err(wrong("returns no value of its body".into()));
        }
        let (body, roots) = own.finish(&[root]);
        let n = body.insts().len();
        if n > MAX_PROGRAM {
            return Err(wrong(format!("has {n} instructions, more than {MAX_PROGRAM}")));
        }
        if body.dtype(roots[0]) != cx.dtype {
            return Err(wrong(format!("makes {} where {} is inferred", body.dtype(roots[0]), cx.dtype)));
        }
        for inst in body.insts() {
            if let ScalarOp::Input(k) = inst.op
                && args.get(k as usize).map(|&arg| s.dtype(arg)) != Some(inst.dtype)
            {
                return Err(wrong(format!("reads operand {k} as {}, which it has not", inst.dtype)));
            }
        }
        match body.verify().into_iter().next() {
            Some(error) => Err(wrong(format!("is wrong: {error}"))),
            None => Ok(s.inline(&body, args)[roots[0].index()]),
        }
    }

    /// Whether it is one of the built-in ops.
    pub fn is_builtin(&'static self) -> bool {
        Registry::builtin().contains(OpRef(self))
    }

    /// Which source it is, if it is one.
    pub fn source(&self) -> Option<Source> {
        match self.lower {
            Lower::Source(source) => Some(source),
            _ => None,
        }
    }

    /// Whether a node of it is identified by its name and not by its contents: an input, parameter or state.
    pub fn is_named(&self) -> bool {
        matches!(self.source(), Some(Source::Input | Source::Param | Source::State))
    }
}

/// The ops that a builder, parser or pass knows, by name. An op is its record: another record of the same name is another
/// op. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    known: Arc<Known>,
}

#[derive(Clone, Default)]
struct Known {
    by_name: BTreeMap<&'static str, OpRef>,
    records: FxHashSet<OpRef>,
}

impl Known {
    fn insert(&mut self, op: &'static OpDef) {
        self.by_name.insert(op.name, OpRef(op));
        self.records.insert(OpRef(op));
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry::builtin()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.known.by_name.values()).finish()
    }
}

impl Registry {
    /// The built-in ops.
    pub fn builtin() -> Self {
        static BUILTIN: LazyLock<Registry> = LazyLock::new(|| {
            let mut known = Known::default();
            crate::ops::FAMILIES.iter().copied().flatten().for_each(|op| known.insert(op));
            Registry { known: Arc::new(known) }
        });
        BUILTIN.clone()
    }

    /// These ops and one from outside; see [`Registry::register`].
    ///
    /// # Errors
    /// As [`Registry::register`]; also `E0901` for a built-in op that lowers otherwise.
    pub fn with(mut self, op: &'static OpDef) -> Result<Self, Fault> {
        op.check_lowering()?;
        self.register(op)?;
        Ok(self)
    }

    /// Adds an op from outside. Nothing happens if this very op is known already.
    ///
    /// # Errors
    /// `E0901` if it lowers other than as `Scalar` or `Expand`; `E0107` if another op has its name; `E0104` if its name or that
    /// of an attribute is no word of the text form, or two attributes have one name.
    pub fn register(&mut self, op: &'static OpDef) -> Result<(), Fault> {
        if self.contains(OpRef(op)) {
            return Ok(());
        }
        op.check_lowering()?;
        let refuse = |code, text: String| Err(Fault::new(code, text));
        let names = || std::iter::once(op.name).chain(op.attrs.iter().map(|attr| attr.name));
        if let Some(name) = names().find(|name| !text::is_plain(name)) {
            return refuse(Code::BadAttribute, format!("`{}`: the name {name:?} is no word of the text form", op.name));
        }
        for (k, attr) in op.attrs.iter().enumerate() {
            if op.attrs[..k].iter().any(|other| other.name == attr.name) {
                return refuse(Code::BadAttribute, format!("`{}` has two attributes `{}`", op.name, attr.name));
            }
        }
        if self.known.by_name.contains_key(op.name) {
            return refuse(Code::DuplicateName, format!("another op named `{}` is already registered", op.name));
        }
        Arc::make_mut(&mut self.known).insert(op);
        Ok(())
    }

    /// Adds the ops of another registry.
    ///
    /// # Errors
    /// `E0107` if both know different ops by one name.
    pub fn merge(&mut self, other: &Registry) -> Result<(), Fault> {
        if Arc::ptr_eq(&self.known, &other.known) {
            return Ok(());
        }
        other.iter().try_for_each(|op| self.register(op.0))
    }

    /// Whether this very op, and not only one of its name, is known.
    pub fn contains(&self, op: OpRef) -> bool {
        self.known.records.contains(&op)
    }

    /// Why an op that is not known cannot be used.
    pub(crate) fn unknown(&self, op: OpRef) -> Fault {
        let known = self.get(op.name);
        let text = match known {
            Some(_) => format!("this is another op than the one that is registered as `{}`", op.name),
            None => format!("the op `{}` is not registered", op.name),
        };
        Fault::new(Code::UnknownOp, text).help("hand its record to `GraphBuilder::register` or `Registry::with`")
    }

    /// The op of this name.
    pub fn get(&self, name: &str) -> Option<OpRef> {
        self.known.by_name.get(name).copied()
    }

    /// The known name nearest to a misspelled one.
    pub fn nearest(&self, name: &str) -> Option<&'static str> {
        nearest(name, self.known.by_name.keys().copied())
    }

    /// All ops by name.
    pub fn iter(&self) -> impl Iterator<Item = OpRef> {
        self.known.by_name.values().copied()
    }
}
