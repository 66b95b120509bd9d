//! Sample operands of ops: what the tests derived from the registry try.
//!
//! An op's `samples` function asks the [`Sampler`] for operands where the op is defined and, if it has a derivative, where
//! it is smooth, so that central differences mean something.

use std::ops::Range;

use cotangent_scalar::{DType, philox};

use crate::attrs::Attrs;
use crate::tensor::TensorData;
use crate::types::{Shape, Type};

/// Operands and attributes of one op.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The operands.
    pub inputs: Vec<TensorData>,
    /// The attributes.
    pub attrs: Attrs,
    /// The declared type, for ops without operands to infer from.
    pub declared: Option<Type>,
}

impl Sample {
    /// Operands without attributes.
    pub fn new(inputs: Vec<TensorData>) -> Self {
        Sample { inputs, attrs: Attrs::none(), declared: None }
    }

    /// The same operands with attributes.
    pub fn attrs(mut self, attrs: Attrs) -> Self {
        self.attrs = attrs;
        self
    }
}

/// A source of reproducible operands of one float type.
#[derive(Clone, Debug)]
pub struct Sampler {
    dtype: DType,
    seed: u64,
    drawn: u64,
}

impl Sampler {
    /// A sampler whose floats have the given type.
    pub fn new(dtype: DType, seed: u64) -> Self {
        Sampler { dtype, seed, drawn: 0 }
    }

    /// The float type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// A number uniform on `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        self.drawn += 1;
        f64::from(philox::uniform_f32(philox::word(self.seed, 77, 0, self.drawn)))
    }

    /// A whole number of the range.
    pub fn int(&mut self, range: Range<i64>) -> i64 {
        range.start + (self.unit() * (range.end - range.start) as f64) as i64
    }

    /// Floats uniform on the range.
    pub fn float_in(&mut self, range: Range<f64>, shape: impl Into<Shape>) -> TensorData {
        let dtype = self.dtype;
        self.of(dtype, shape, |s| range.start + s.unit() * (range.end - range.start))
    }

    /// Floats whose magnitude is uniform on the range, of either sign: away from kinks at zero.
    pub fn away_from_zero(&mut self, range: Range<f64>, shape: impl Into<Shape>) -> TensorData {
        let dtype = self.dtype;
        self.of(dtype, shape, |s| {
            let magnitude = range.start + s.unit() * (range.end - range.start);
            if s.unit() < 0.5 { -magnitude } else { magnitude }
        })
    }

    /// Distinct floats at least 0.05 apart in a random order: away from ties.
    pub fn distinct(&mut self, shape: impl Into<Shape>) -> TensorData {
        let shape = shape.into();
        let n = shape.n_elements();
        let mut values: Vec<f64> = (0..n).map(|i| 0.1 * i as f64 - 0.05 * n as f64 + 0.05 * self.unit()).collect();
        for i in (1..n).rev() {
            values.swap(i, self.int(0..i as i64 + 1) as usize);
        }
        let bits: Vec<u64> = values.iter().map(|&v| self.dtype.bits_of_f64(v)).collect();
        TensorData::from_bits(self.dtype, &shape, &bits)
    }

    /// Whole numbers of the range, of an integer type.
    pub fn ints(&mut self, dtype: DType, range: Range<i64>, shape: impl Into<Shape>) -> TensorData {
        self.of(dtype, shape, |s| s.int(range.clone()) as f64)
    }

    /// Truth values.
    pub fn bools(&mut self, shape: impl Into<Shape>) -> TensorData {
        self.of(DType::Bool, shape, |s| f64::from(u8::from(s.unit() < 0.5)))
    }

    /// Elements from a function.
    pub fn of(&mut self, dtype: DType, shape: impl Into<Shape>, mut f: impl FnMut(&mut Self) -> f64) -> TensorData {
        let shape = shape.into();
        let bits: Vec<u64> = (0..shape.n_elements()).map(|_| dtype.bits_of_f64(f(self))).collect();
        TensorData::from_bits(dtype, &shape, &bits)
    }
}
