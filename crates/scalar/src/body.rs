//! The instructions of a scalar body and the body itself.
//!
//! A body is in SSA form: instruction `i` defines value `i` and uses only smaller values. It has no control
//! flow and no memory: inputs are numbered, and whoever uses the body says where they come from and which
//! values are results. About twenty instructions are enough; everything else is an expansion.
//!
//! Semantics that are easy to get wrong, in one place:
//! * No implicit contraction: `Mul` then `Add` rounds twice, `Fma` rounds once.
//! * `Min`/`Max` on floats propagate NaN: `max(a, b) = if a > b or a is NaN { a } else { b }`, `min` likewise with `<`.
//! * Integers wrap; integer division by zero gives 0, and `MIN / -1` wraps; `U8` is unsigned everywhere.
//! * `Cast` float→int truncates and saturates (NaN→0); to `Bool` it is `x != 0` (NaN is true); int→int wraps.
//! * Shift amounts are taken modulo the width of the type.

use std::fmt;

use smallvec::SmallVec;

use crate::dtype::DType;
use crate::libm_call::LibmFn;

/// A value of a scalar body: the result of the instruction with the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl ValueId {
    /// The index into [`ScalarBody::insts`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// What one instruction computes. Operand counts are in [`ScalarOp::n_args`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScalarOp {
    /// The numbered input of the body.
    Input(u32),
    /// A constant, given by its bits (zero-extended).
    Const(u64),
    /// `-a` (floats flip the sign bit).
    Neg,
    /// `|a|` (floats clear the sign bit; integers wrap).
    Abs,
    /// IEEE square root.
    Sqrt,
    /// Largest integral value not above `a`.
    Floor,
    /// Smallest integral value not below `a`.
    Ceil,
    /// `a` rounded towards zero.
    Trunc,
    /// `a` rounded to the nearest integral value, ties to even.
    RoundEven,
    /// Bitwise complement; logical for `Bool`.
    Not,
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
    /// The smaller operand; NaN propagates.
    Min,
    /// The larger operand; NaN propagates.
    Max,
    /// Bitwise and (integers, `Bool`).
    And,
    /// Bitwise or (integers, `Bool`).
    Or,
    /// Bitwise exclusive or (integers, `Bool`).
    Xor,
    /// `a << b` (integers).
    Shl,
    /// Logical shift right: zeros come in (integers).
    ShrU,
    /// Arithmetic shift right: the sign comes in (integers; `U8` has none).
    ShrS,
    /// High half of the unsigned 32×32-bit product (`I32` read as unsigned).
    MulHiU,
    /// `a == b`, to `Bool` (like all comparisons; false when unordered, except `Ne`).
    Eq,
    /// `a != b`.
    Ne,
    /// `a < b`.
    Lt,
    /// `a <= b`.
    Le,
    /// `if a { b } else { c }`; `a` is `Bool`.
    Select,
    /// `a * b + c`, rounded once (floats).
    Fma,
    /// Conversion by value to the instruction's dtype.
    Cast,
    /// Reinterpretation of the bits: F32↔I32, F64↔I64.
    Bitcast,
    /// A function of the `libm` crate, called element by element.
    Call(LibmFn),
}

impl ScalarOp {
    /// Number of operands.
    pub fn n_args(self) -> usize {
        use ScalarOp::*;
        match self {
            Input(_) | Const(_) => 0,
            Neg | Abs | Sqrt | Floor | Ceil | Trunc | RoundEven | Not | Cast | Bitcast => 1,
            Add | Sub | Mul | Div | Min | Max | And | Or | Xor | Shl | ShrU | ShrS | MulHiU | Eq | Ne | Lt | Le => 2,
            Select | Fma => 3,
            Call(function) => function.n_args(),
        }
    }

    /// Whether the result is `Bool` whatever the operands are.
    pub fn is_compare(self) -> bool {
        matches!(self, ScalarOp::Eq | ScalarOp::Ne | ScalarOp::Lt | ScalarOp::Le)
    }

    /// The name in printed bodies.
    pub fn name(self) -> &'static str {
        use ScalarOp::*;
        match self {
            Input(_) => "input",
            Const(_) => "const",
            Neg => "neg",
            Abs => "abs",
            Sqrt => "sqrt",
            Floor => "floor",
            Ceil => "ceil",
            Trunc => "trunc",
            RoundEven => "round_even",
            Not => "not",
            Add => "add",
            Sub => "sub",
            Mul => "mul",
            Div => "div",
            Min => "min",
            Max => "max",
            And => "and",
            Or => "or",
            Xor => "xor",
            Shl => "shl",
            ShrU => "shr_u",
            ShrS => "shr_s",
            MulHiU => "mul_hi_u",
            Eq => "eq",
            Ne => "ne",
            Lt => "lt",
            Le => "le",
            Select => "select",
            Fma => "fma",
            Cast => "cast",
            Bitcast => "bitcast",
            Call(function) => function.name(),
        }
    }
}

/// One instruction: it defines the value with its own index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inst {
    /// What is computed.
    pub op: ScalarOp,
    /// The operands, all of smaller index than the instruction.
    pub args: SmallVec<[ValueId; 3]>,
    /// The type of the result.
    pub dtype: DType,
}

/// A straight-line scalar program. Results are named by whoever holds the body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ScalarBody {
    insts: Vec<Inst>,
    n_inputs: usize,
}

impl ScalarBody {
    /// A body of these instructions; only [`crate::BodyBuilder`] makes them, so they are well formed.
    pub(crate) fn new(insts: Vec<Inst>, n_inputs: usize) -> Self {
        ScalarBody { insts, n_inputs }
    }

    /// The instructions in order of definition.
    pub fn insts(&self) -> &[Inst] {
        &self.insts
    }

    /// One past the largest input number that the body may name.
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// The type of a value.
    pub fn dtype(&self, value: ValueId) -> DType {
        self.insts[value.index()].dtype
    }

    /// Whether the instruction only names an input or a constant (and so costs no arithmetic).
    pub fn is_leaf(&self, value: ValueId) -> bool {
        matches!(self.insts[value.index()].op, ScalarOp::Input(_) | ScalarOp::Const(_))
    }

    /// Everything that is wrong with the instructions, each as a sentence: operands that are missing, not earlier, or of types
    /// that the instruction is not defined for (`Bool` has no arithmetic); constants that are no bits of their type.
    pub fn verify(&self) -> Vec<String> {
        let mut errors = Vec::new();
        for (i, inst) in self.insts.iter().enumerate() {
            let id = ValueId(i as u32);
            if inst.args.len() != inst.op.n_args() || inst.args.iter().any(|a| a.index() >= i) {
                errors.push(format!("the operands of {id} are malformed"));
            } else if !self.well_typed(inst) {
                errors.push(format!("{id} = {} has operands of the wrong types", inst.op.name()));
            }
        }
        errors
    }

    /// Whether an instruction, whose operands are there, is defined for their types.
    fn well_typed(&self, inst: &Inst) -> bool {
        use ScalarOp::*;
        let ty = |k: usize| self.dtype(inst.args[k]);
        let same = |n: usize| (0..n).all(|k| ty(k) == inst.dtype);
        match inst.op {
            Input(k) => (k as usize) < self.n_inputs,
            Const(bits) => bits == bits & inst.dtype.mask(),
            Cast => true,
            Neg | Abs => same(1) && inst.dtype != DType::Bool,
            Sqrt | Floor | Ceil | Trunc | RoundEven => same(1) && inst.dtype.is_float(),
            Not => same(1) && !inst.dtype.is_float(),
            Add | Sub | Mul | Div => same(2) && inst.dtype != DType::Bool,
            Min | Max => same(2),
            And | Or | Xor => same(2) && !inst.dtype.is_float(),
            Shl | ShrU | ShrS => same(2) && inst.dtype.is_int(),
            MulHiU => same(2) && inst.dtype == DType::I32,
            Eq | Ne | Lt | Le => ty(0) == ty(1) && inst.dtype == DType::Bool,
            Select => ty(0) == DType::Bool && ty(1) == inst.dtype && ty(2) == inst.dtype,
            Fma => same(3) && inst.dtype.is_float(),
            Bitcast => {
                let size = inst.dtype.size_bytes();
                ty(0) != inst.dtype && ty(0).size_bytes() == size && size > 1
            }
            Call(_) => (0..inst.args.len()).all(|k| ty(k) == inst.dtype) && inst.dtype.is_float(),
        }
    }

    /// Number of instructions that do arithmetic.
    pub fn n_ops(&self) -> usize {
        (0..self.insts.len()).filter(|&i| !self.is_leaf(ValueId(i as u32))).count()
    }
}

impl fmt::Display for ScalarBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, inst) in self.insts.iter().enumerate() {
            write!(f, "v{i} = {}", inst.op.name())?;
            match inst.op {
                ScalarOp::Input(k) => write!(f, " {k}")?,
                ScalarOp::Const(bits) if inst.dtype == DType::F32 => write!(f, " {:?}", f32::from_bits(bits as u32))?,
                ScalarOp::Const(bits) if inst.dtype == DType::F64 => write!(f, " {:?}", f64::from_bits(bits))?,
                ScalarOp::Const(bits) if inst.dtype == DType::I64 => write!(f, " {}", bits as i64)?,
                ScalarOp::Const(bits) => write!(f, " {}", inst.dtype.f64_of_bits(bits))?,
                _ => {}
            }
            for (k, arg) in inst.args.iter().enumerate() {
                write!(f, "{}{arg}", if k == 0 { " " } else { ", " })?;
            }
            writeln!(f, " : {}", inst.dtype)?;
        }
        Ok(())
    }
}
