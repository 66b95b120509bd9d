//! Conversions of a group of four lanes, by pair of types.
//!
//! Promises the bits of the scalar `Cast`: floats to integers truncate and saturate with NaN to 0, integers wrap,
//! anything to `Bool` is `x != 0`. Pairs without a vector form in Cranelift go lane by lane.

use cotangent_scalar::DType;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{self, F32X4, F64X2, I32X4};
use cranelift_codegen::ir::{InstBuilder, Value};
use smallvec::smallvec;

use crate::lanes::{Emitter, Lanes, n_parts, vector_type};

impl Emitter<'_> {
    /// `a`, of type `from`, converted to type `to`.
    pub(crate) fn cast(&mut self, a: &Lanes, from: DType, to: DType, uniform: bool) -> Lanes {
        use DType::*;
        match (from, to) {
            _ if from == to => a.clone(),
            (_, Bool) => {
                let zero = self.constant(0, from);
                self.map2(a, &zero, |e, x, y| {
                    if from.is_float() {
                        e.b.ins().fcmp(FloatCC::NotEqual, x, y)
                    } else {
                        e.b.ins().icmp(IntCC::NotEqual, x, y)
                    }
                })
            }
            (Bool, _) => {
                let one = self.constant(to.bits_of_f64(1.0), to);
                let mask = self.mask(a, n_parts(to));
                self.map2(&mask, &one, |e, x, y| {
                    let ty = e.b.func.dfg.value_type(x);
                    let y = e.as_type(ty, y);
                    let masked = e.b.ins().band(x, y);
                    e.as_type(vector_type(to), masked)
                })
            }
            (F32, F64) => self.widen(a, |e, low| e.b.ins().fvpromote_low(low)),
            (F64, F32) => {
                let low = self.b.ins().fvdemote(a.0[0]);
                let high = self.b.ins().fvdemote(a.0[1]);
                Lanes(smallvec![self.shuffle_words(low, high, [0, 1, 4, 5])])
            }
            (F32, I32) => self.map1(a, |e, x| e.b.ins().fcvt_to_sint_sat(I32X4, x)),
            (F32, U8) => {
                let wide = self.map1(a, |e, x| e.b.ins().fcvt_to_sint_sat(I32X4, x));
                let (low, high) = (self.constant(0, U8), self.constant(255, U8));
                let clamped = self.map2(&wide, &low, |e, x, y| e.b.ins().smax(x, y));
                self.map2(&clamped, &high, |e, x, y| e.b.ins().smin(x, y))
            }
            (F32 | F64, I64) => self.per_lane(&[a], to, uniform, |e, s| e.b.ins().fcvt_to_sint_sat(types::I64, s[0])),
            (F64, I32) => self.per_lane(&[a], to, uniform, |e, s| e.b.ins().fcvt_to_sint_sat(types::I32, s[0])),
            (F64, U8) => {
                let wide = self.cast(a, F64, I32, uniform);
                let (low, high) = (self.constant(0, U8), self.constant(255, U8));
                let clamped = self.map2(&wide, &low, |e, x, y| e.b.ins().smax(x, y));
                self.map2(&clamped, &high, |e, x, y| e.b.ins().smin(x, y))
            }
            (I32 | U8, F32) => self.map1(a, |e, x| e.b.ins().fcvt_from_sint(F32X4, x)),
            (I32 | U8, F64) => self.widen(a, |e, low| {
                let wide = e.b.ins().swiden_low(low);
                e.b.ins().fcvt_from_sint(F64X2, wide)
            }),
            (I64, F32) => self.per_lane(&[a], to, uniform, |e, s| e.b.ins().fcvt_from_sint(types::F32, s[0])),
            (I64, F64) => self.map1(a, |e, x| e.b.ins().fcvt_from_sint(F64X2, x)),
            (I32 | U8, I64) => self.widen(a, |e, low| e.b.ins().swiden_low(low)),
            (I64, I32) => Lanes(smallvec![self.shuffle_to_i32(a)]),
            (I64, U8) => {
                let words = Lanes(smallvec![self.shuffle_to_i32(a)]);
                self.wrap_u8(words, U8)
            }
            (I32, U8) => self.wrap_u8(a.clone(), U8),
            _ => a.clone(),
        }
    }

    /// Two vectors from one, each from two of its lanes, which `f` gets in the low half.
    fn widen(&mut self, a: &Lanes, mut f: impl FnMut(&mut Self, Value) -> Value) -> Lanes {
        let low = f(self, a.0[0]);
        let high = self.shuffle_words(a.0[0], a.0[0], [2, 3, 2, 3]);
        Lanes(smallvec![low, f(self, high)])
    }
}
