//! The evaluator of scalar bodies: the slow, obvious twin of every code generator.
//!
//! Values are raw bits in `u64` lanes (zero-extended), many lanes at a time so that whole tensors can be
//! interpreted at a tolerable speed. [`apply`] is the definition of every instruction.

use crate::body::{Inst, ScalarBody, ScalarOp, ValueId};
use crate::dtype::DType;

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn of_f32(value: f32) -> u64 {
    u64::from(value.to_bits())
}

/// Generates one arm per element type for an operation on floats.
macro_rules! float_op {
    ($dtype:expr, |$($x:ident),+| $body:expr) => {
        match $dtype {
            DType::F32 => { $(let $x = f32_of($x);)+ of_f32($body) }
            _ => { $(let $x = f64::from_bits($x);)+ f64::to_bits($body) }
        }
    };
}

/// The same for an operation that floats and integers both have, given by a float and an integer expression.
macro_rules! number_op {
    ($dtype:expr, |$($x:ident),+| $float:expr, $int:expr) => {
        match $dtype {
            DType::F32 => { $(let $x = f32_of($x);)+ of_f32($float) }
            DType::F64 => { $(let $x = f64::from_bits($x);)+ f64::to_bits($float) }
            DType::I32 => { $(let $x = $x as u32 as i32;)+ { let r = $int; u64::from(r as u32) } }
            DType::I64 => { $(let $x = $x as i64;)+ { let r = $int; r as u64 } }
            DType::U8 | DType::Bool => { $(let $x = $x as u8;)+ { let r = $int; u64::from(r) } }
        }
    };
}

macro_rules! compare_op {
    ($dtype:expr, $a:ident $op:tt $b:ident) => {
        u64::from(match $dtype {
            DType::F32 => f32_of($a) $op f32_of($b),
            DType::F64 => f64::from_bits($a) $op f64::from_bits($b),
            DType::I32 => ($a as u32 as i32) $op ($b as u32 as i32),
            DType::I64 => ($a as i64) $op ($b as i64),
            DType::U8 | DType::Bool => ($a as u8) $op ($b as u8),
        })
    };
}

fn cast(from: DType, to: DType, bits: u64) -> u64 {
    if to == DType::Bool {
        return u64::from(match from {
            DType::F32 => f32_of(bits) != 0.0,
            DType::F64 => f64::from_bits(bits) != 0.0,
            _ => bits != 0,
        });
    }
    match from {
        DType::F32 => match to {
            DType::F32 => bits,
            _ => to.bits_of_f64(f64::from(f32_of(bits))),
        },
        DType::F64 => to.bits_of_f64(f64::from_bits(bits)),
        _ => {
            let value = match from {
                DType::I32 => i64::from(bits as u32 as i32),
                DType::I64 => bits as i64,
                _ => bits as i64 & 0xff,
            };
            match to {
                DType::F32 => of_f32(value as f32),
                DType::F64 => (value as f64).to_bits(),
                DType::I32 => u64::from(value as u32),
                DType::I64 => value as u64,
                DType::U8 | DType::Bool => u64::from(value as u8),
            }
        }
    }
}

/// One instruction on one lane: `dtype` is the type of the result, `from` that of the first operand, and unused
/// operands are ignored. `Input` gives 0: inputs are bound by the caller.
pub fn apply(op: ScalarOp, dtype: DType, from: DType, a: u64, b: u64, c: u64) -> u64 {
    use ScalarOp::*;
    let width = 8 * from.size_bytes() as u64;
    match op {
        Input(_) => 0,
        Const(bits) => bits,
        Neg => number_op!(dtype, |a| -a, a.wrapping_neg()),
        Abs => match dtype {
            DType::U8 | DType::Bool => a,
            DType::I32 => u64::from((a as u32 as i32).wrapping_abs() as u32),
            DType::I64 => (a as i64).wrapping_abs() as u64,
            _ => float_op!(dtype, |a| a.abs()),
        },
        Sqrt => float_op!(dtype, |a| a.sqrt()),
        Floor => float_op!(dtype, |a| a.floor()),
        Ceil => float_op!(dtype, |a| a.ceil()),
        Trunc => float_op!(dtype, |a| a.trunc()),
        RoundEven => float_op!(dtype, |a| a.round_ties_even()),
        Not => !a & dtype.mask(),
        Add => number_op!(dtype, |a, b| a + b, a.wrapping_add(b)),
        Sub => number_op!(dtype, |a, b| a - b, a.wrapping_sub(b)),
        Mul => number_op!(dtype, |a, b| a * b, a.wrapping_mul(b)),
        Div => number_op!(dtype, |a, b| a / b, if b == 0 { 0 } else { a.wrapping_div(b) }),
        Min => number_op!(dtype, |a, b| if a < b || a.is_nan() { a } else { b }, a.min(b)),
        Max => number_op!(dtype, |a, b| if a > b || a.is_nan() { a } else { b }, a.max(b)),
        And => a & b,
        Or => a | b,
        Xor => a ^ b,
        Shl => (a << (b & (width - 1))) & dtype.mask(),
        ShrU => a >> (b & (width - 1)),
        ShrS => match dtype {
            DType::I32 => u64::from(((a as u32 as i32) >> (b & 31)) as u32),
            DType::I64 => ((a as i64) >> (b & 63)) as u64,
            _ => a >> (b & (width - 1)),
        },
        MulHiU => (u64::from(a as u32) * u64::from(b as u32)) >> 32,
        Eq => compare_op!(from, a == b),
        Ne => compare_op!(from, a != b),
        Lt => compare_op!(from, a < b),
        Le => compare_op!(from, a <= b),
        Select => {
            if a != 0 {
                b
            } else {
                c
            }
        }
        Fma => float_op!(dtype, |a, b, c| a.mul_add(b, c)),
        Cast => cast(from, dtype, a),
        Bitcast => a,
        Call(function) => match dtype {
            DType::F32 => of_f32(function.eval_f32(f32_of(a), f32_of(b))),
            _ => function.eval_f64(f64::from_bits(a), f64::from_bits(b)).to_bits(),
        },
    }
}

/// The registers of a body over a block of lanes; reused from block to block.
#[derive(Debug, Default)]
pub struct Registers {
    values: Vec<Vec<u64>>,
}

impl Registers {
    /// Runs the body on `n_lanes` lanes. `input(k, out)` fills `out` (of length `n_lanes`) with the bits of input `k`.
    pub fn run(&mut self, body: &ScalarBody, n_lanes: usize, mut input: impl FnMut(u32, &mut [u64])) {
        let insts = body.insts();
        self.values.resize_with(self.values.len().max(insts.len()), Vec::new);
        for (i, inst) in insts.iter().enumerate() {
            let mut out = std::mem::take(&mut self.values[i]);
            out.resize(n_lanes, 0);
            match inst.op {
                ScalarOp::Input(k) => input(k, &mut out),
                _ => self.lanes(inst, body, &mut out),
            }
            self.values[i] = out;
        }
    }

    fn lanes(&self, inst: &Inst, body: &ScalarBody, out: &mut [u64]) {
        let args = &inst.args;
        let from = args.first().map_or(inst.dtype, |&a| body.dtype(a));
        let arg = |k: usize| &self.values[args[k].index()][..out.len()];
        match args.len() {
            0 => out.fill(apply(inst.op, inst.dtype, from, 0, 0, 0)),
            1 => {
                let a = arg(0);
                for (o, &a) in out.iter_mut().zip(a) {
                    *o = apply(inst.op, inst.dtype, from, a, 0, 0);
                }
            }
            2 => {
                let (a, b) = (arg(0), arg(1));
                for (o, (&a, &b)) in out.iter_mut().zip(a.iter().zip(b)) {
                    *o = apply(inst.op, inst.dtype, from, a, b, 0);
                }
            }
            _ => {
                let (a, b, c) = (arg(0), arg(1), arg(2));
                for (o, ((&a, &b), &c)) in out.iter_mut().zip(a.iter().zip(b).zip(c)) {
                    *o = apply(inst.op, inst.dtype, from, a, b, c);
                }
            }
        }
    }

    /// The lanes of a value after [`Registers::run`].
    pub fn lanes_of(&self, value: ValueId) -> &[u64] {
        &self.values[value.index()]
    }
}
