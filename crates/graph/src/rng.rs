//! Random numbers: the scalar program of `rng`, shared by the oracle and the kernels.

use cotangent_scalar::eval::Registers;
use cotangent_scalar::{BodyBuilder, DType, ValueId, philox};

use crate::attrs::Attrs;
use crate::op::{EvalCx, Fault};
use crate::tensor::TensorData;

/// The random number at an element: `counters` are the three run-time words (low and high half of the seed, the step) and
/// `index` is the element's row-major position (i32 or i64).
pub fn body(s: &mut BodyBuilder, attrs: &Attrs, dtype: DType, counters: [ValueId; 3], index: ValueId) -> ValueId {
    let stream = s.const_from_bits(u64::from(philox::stream_of(attrs.str("stream"))), DType::I32);
    let [seed_low, seed_high, step] = counters;
    let word = philox::word_body(s, seed_low, seed_high, stream, step, index);
    match attrs.str("dist") {
        "normal" => philox::normal_body(s, word, dtype),
        _ => philox::uniform_body(s, word, dtype),
    }
}

/// Reference semantics of the op `rng`.
pub(crate) fn eval(cx: &EvalCx<'_>, _: &[&TensorData]) -> Result<TensorData, Fault> {
    let mut s = BodyBuilder::new();
    let counters = [0, 1, 2].map(|k| s.input(k, DType::I32));
    let index = s.input(3, DType::I64);
    let root = body(&mut s, cx.attrs, cx.ty.dtype(), counters, index);
    let (body, roots) = s.finish(&[root]);
    let words = [cx.counters.seed & 0xffff_ffff, cx.counters.seed >> 32, u64::from(cx.counters.step)];
    let mut registers = Registers::default();
    registers.run(&body, cx.ty.shape().n_elements(), |k, lanes| match words.get(k as usize) {
        Some(&word) => lanes.fill(word),
        None => lanes.iter_mut().enumerate().for_each(|(i, lane)| *lane = i as u64),
    });
    Ok(TensorData::from_bits(cx.ty.dtype(), cx.ty.shape(), registers.lanes_of(roots[0])))
}
