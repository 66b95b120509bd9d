//! The builder of scalar bodies: typed constructors, common sub-expressions shared, constants folded.
//!
//! Assumes its callers pass values of matching types: they come from ops whose types were already checked, so
//! a mismatch is a bug in the compiler and only asserted in debug builds. Promises a well-formed body: operands
//! precede uses, nothing is computed twice, dead instructions are gone after [`BodyBuilder::finish`].

use std::collections::HashMap;

use smallvec::{SmallVec, smallvec};

use crate::body::{Inst, ScalarBody, ScalarOp, ValueId};
use crate::dtype::DType;
use crate::eval;
use crate::libm_call::LibmFn;
use crate::order::ReduceOp;

/// Builds one [`ScalarBody`].
#[derive(Debug, Default)]
pub struct BodyBuilder {
    insts: Vec<Inst>,
    seen: HashMap<Inst, ValueId>,
    /// Values that somebody knows never to be above zero.
    not_positive: Vec<ValueId>,
    n_inputs: usize,
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident, $op:ident;)*) => {
        $($(#[$doc])* pub fn $name(&mut self, a: ValueId) -> ValueId {
            let dtype = self.dtype(a);
            self.push(ScalarOp::$op, smallvec![a], dtype)
        })*
    };
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident, $op:ident;)*) => {
        $($(#[$doc])* pub fn $name(&mut self, a: ValueId, b: ValueId) -> ValueId {
            let dtype = self.dtype(a);
            debug_assert_eq!(dtype, self.dtype(b), "operands of {} differ", stringify!($name));
            let dtype = if ScalarOp::$op.is_compare() { DType::Bool } else { dtype };
            self.push(ScalarOp::$op, smallvec![a, b], dtype)
        })*
    };
}

impl BodyBuilder {
    /// An empty body.
    pub fn new() -> Self {
        BodyBuilder::default()
    }

    /// The type of a value.
    pub fn dtype(&self, value: ValueId) -> DType {
        self.insts[value.index()].dtype
    }

    /// The bits of a value if it is a constant.
    pub fn const_bits(&self, value: ValueId) -> Option<u64> {
        match self.insts[value.index()].op {
            ScalarOp::Const(bits) => Some(bits),
            _ => None,
        }
    }

    /// Notes that a value is never above zero (but perhaps NaN), which its instructions do not tell: an element minus the
    /// largest one.
    pub fn note_not_positive(&mut self, value: ValueId) {
        self.not_positive.push(value);
    }

    /// Whether a value is known never to be above zero; it may be NaN.
    pub fn is_not_positive(&self, value: ValueId) -> bool {
        let inst = &self.insts[value.index()];
        // A square or a magnitude.
        let is_not_negative = |value: ValueId| {
            let inst = &self.insts[value.index()];
            inst.op == ScalarOp::Abs || (inst.op == ScalarOp::Mul && inst.args[0] == inst.args[1])
        };
        let negated = inst.op == ScalarOp::Neg && inst.dtype.is_float() && is_not_negative(inst.args[0]);
        negated || self.not_positive.contains(&value)
    }

    fn push(&mut self, op: ScalarOp, args: SmallVec<[ValueId; 3]>, dtype: DType) -> ValueId {
        let constants: SmallVec<[u64; 3]> = args.iter().filter_map(|&a| self.const_bits(a)).collect();
        let (op, args) = if !args.is_empty() && constants.len() == args.len() {
            let at = |k: usize| constants.get(k).copied().unwrap_or(0);
            let bits = eval::apply(op, dtype, self.dtype(args[0]), at(0), at(1), at(2));
            (ScalarOp::Const(bits), SmallVec::new())
        } else {
            (op, args)
        };
        let inst = Inst { op, args, dtype };
        if let Some(&known) = self.seen.get(&inst) {
            return known;
        }
        let id = ValueId(self.insts.len() as u32);
        self.insts.push(inst.clone());
        self.seen.insert(inst, id);
        id
    }

    /// The numbered input.
    pub fn input(&mut self, number: u32, dtype: DType) -> ValueId {
        self.n_inputs = self.n_inputs.max(number as usize + 1);
        self.push(ScalarOp::Input(number), SmallVec::new(), dtype)
    }

    /// A constant given by its bits; those that the type does not have are left out.
    pub fn const_from_bits(&mut self, bits: u64, dtype: DType) -> ValueId {
        self.push(ScalarOp::Const(bits & dtype.mask()), SmallVec::new(), dtype)
    }

    /// Whether a value is one of this body.
    pub fn has(&self, value: ValueId) -> bool {
        value.index() < self.insts.len()
    }

    /// A constant of the given type nearest to `value`.
    pub fn constant(&mut self, value: f64, dtype: DType) -> ValueId {
        self.const_from_bits(dtype.bits_of_f64(value), dtype)
    }

    /// A constant of the type of `like`.
    pub fn like(&mut self, value: f64, like: ValueId) -> ValueId {
        let dtype = self.dtype(like);
        self.constant(value, dtype)
    }

    unary! {
        /// `-a`.
        neg, Neg;
        /// `|a|`.
        abs, Abs;
        /// Square root.
        sqrt, Sqrt;
        /// Round down.
        floor, Floor;
        /// Round up.
        ceil, Ceil;
        /// Round towards zero.
        trunc, Trunc;
        /// Round to nearest, ties to even.
        round_even, RoundEven;
        /// Complement.
        not, Not;
    }

    binary! {
        /// `a + b`.
        add, Add;
        /// `a - b`.
        sub, Sub;
        /// `a * b`.
        mul, Mul;
        /// `a / b`.
        div, Div;
        /// Smaller operand; NaN propagates.
        min, Min;
        /// Larger operand; NaN propagates.
        max, Max;
        /// Bitwise and.
        and, And;
        /// Bitwise or.
        or, Or;
        /// Bitwise exclusive or.
        xor, Xor;
        /// Shift left.
        shl, Shl;
        /// Logical shift right.
        shr_u, ShrU;
        /// Arithmetic shift right.
        shr_s, ShrS;
        /// High half of the unsigned 32-bit product.
        mul_hi_u, MulHiU;
        /// `a == b`.
        eq, Eq;
        /// `a != b`.
        ne, Ne;
        /// `a < b`.
        lt, Lt;
        /// `a <= b`.
        le, Le;
    }

    /// A reduction's accumulator combined with a value.
    pub fn combine(&mut self, op: ReduceOp, acc: ValueId, value: ValueId) -> ValueId {
        let dtype = self.dtype(acc);
        self.push(op.scalar_op(), smallvec![acc, value], dtype)
    }

    /// `a > b`.
    pub fn gt(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.lt(b, a)
    }

    /// `a >= b`.
    pub fn ge(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.le(b, a)
    }

    /// `if cond { a } else { b }`.
    pub fn select(&mut self, cond: ValueId, a: ValueId, b: ValueId) -> ValueId {
        let dtype = self.dtype(a);
        debug_assert_eq!(self.dtype(cond), DType::Bool);
        debug_assert_eq!(dtype, self.dtype(b));
        // One choice in the place of two with the same way out.
        if let Inst { op: ScalarOp::Select, ref args, .. } = self.insts[a.index()]
            && args[2] == b
        {
            let (inner, value) = (args[0], args[1]);
            let both = self.and(cond, inner);
            return self.push(ScalarOp::Select, smallvec![both, value, b], dtype);
        }
        self.push(ScalarOp::Select, smallvec![cond, a, b], dtype)
    }

    /// `a * b + c`, rounded once.
    pub fn fma(&mut self, a: ValueId, b: ValueId, c: ValueId) -> ValueId {
        let dtype = self.dtype(a);
        self.push(ScalarOp::Fma, smallvec![a, b, c], dtype)
    }

    /// Conversion by value.
    pub fn cast(&mut self, a: ValueId, to: DType) -> ValueId {
        if self.dtype(a) == to {
            return a;
        }
        self.push(ScalarOp::Cast, smallvec![a], to)
    }

    /// Reinterpretation of the bits.
    pub fn bitcast(&mut self, a: ValueId, to: DType) -> ValueId {
        debug_assert_eq!(self.dtype(a).size_bytes(), to.size_bytes());
        self.push(ScalarOp::Bitcast, smallvec![a], to)
    }

    /// A call of a `libm` function (the second operand only for functions of two).
    pub fn call(&mut self, function: LibmFn, args: &[ValueId]) -> ValueId {
        let dtype = self.dtype(args[0]);
        self.push(ScalarOp::Call(function), SmallVec::from_slice(args), dtype)
    }

    /// Appends a copy of `body`, with its inputs replaced by `inputs`; returns where each of its values went.
    pub fn inline(&mut self, body: &ScalarBody, inputs: &[ValueId]) -> Vec<ValueId> {
        let mut map: Vec<ValueId> = Vec::with_capacity(body.insts().len());
        for inst in body.insts() {
            let value = match inst.op {
                ScalarOp::Input(k) => inputs[k as usize],
                op => self.push(op, inst.args.iter().map(|a| map[a.index()]).collect(), inst.dtype),
            };
            map.push(value);
        }
        map
    }

    /// The finished body without dead instructions, and the new names of `roots`.
    pub fn finish(self, roots: &[ValueId]) -> (ScalarBody, Vec<ValueId>) {
        let mut live = vec![false; self.insts.len()];
        for root in roots {
            live[root.index()] = true;
        }
        for i in (0..self.insts.len()).rev() {
            if live[i] {
                for arg in &self.insts[i].args {
                    live[arg.index()] = true;
                }
            }
        }
        let mut map = vec![ValueId(u32::MAX); self.insts.len()];
        let mut insts = Vec::new();
        for (i, mut inst) in self.insts.into_iter().enumerate() {
            if live[i] {
                for arg in &mut inst.args {
                    *arg = map[arg.index()];
                }
                map[i] = ValueId(insts.len() as u32);
                insts.push(inst);
            }
        }
        (ScalarBody::new(insts, self.n_inputs), roots.iter().map(|r| map[r.index()]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Registers;

    #[test]
    fn shares_folds_and_drops() {
        let mut s = BodyBuilder::new();
        let x = s.input(0, DType::F32);
        let two = s.constant(2.0, DType::F32);
        let four = s.add(two, two);
        let a = s.mul(x, four);
        let b = s.mul(x, four);
        assert_eq!(a, b);
        let _dead = s.neg(x);
        let (body, roots) = s.finish(&[a]);
        assert_eq!(body.n_ops(), 1);
        let mut registers = Registers::default();
        registers.run(&body, 1, |_, out| out[0] = u64::from(1.5f32.to_bits()));
        assert_eq!(registers.lanes_of(roots[0]), [u64::from(6.0f32.to_bits())]);
    }

    #[test]
    fn extremes_propagate_nan_on_either_side() {
        let (nan, one) = (DType::F32.bits_of_f64(f64::NAN), DType::F32.bits_of_f64(1.0));
        for op in [ScalarOp::Min, ScalarOp::Max] {
            for (a, b) in [(nan, one), (one, nan)] {
                assert!(f32::from_bits(eval::apply(op, DType::F32, DType::F32, a, b, 0) as u32).is_nan());
            }
        }
    }
}
