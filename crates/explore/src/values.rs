//! What the values of a graph are, in a few numbers each.

use std::sync::Arc;

use cotangent_graph::interp::interpret_nodes;
use cotangent_graph::samples::environment;
use cotangent_graph::{Diag, TensorData};

use crate::Inside;

/// The elements of a value in a few numbers; of those that are finite the least, the mean, the largest and the standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The least.
    pub least: f64,
    /// The mean.
    pub mean: f64,
    /// The largest.
    pub most: f64,
    /// The standard deviation, of all elements.
    pub deviation: f64,
    /// How many are zero.
    pub n_zero: usize,
    /// How many are infinite or NaN.
    pub n_wild: usize,
    /// How many there are.
    pub n: usize,
}

impl Statistics {
    /// Of a tensor; `None` if it has no elements.
    pub fn of(tensor: &TensorData) -> Option<Self> {
        let all = tensor.to_f64();
        let finite: Vec<f64> = all.iter().copied().filter(|x| x.is_finite()).collect();
        if all.is_empty() {
            return None;
        }
        let n = finite.len().max(1) as f64;
        let mean = finite.iter().sum::<f64>() / n;
        let variance = finite.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let fold = |f: fn(f64, f64) -> f64| finite.iter().copied().reduce(f).unwrap_or(f64::NAN);
        Some(Statistics {
            least: fold(f64::min),
            mean,
            most: fold(f64::max),
            deviation: variance.sqrt(),
            n_zero: all.iter().filter(|x| **x == 0.0).count(),
            n_wild: all.len() - finite.len(),
            n: all.len(),
        })
    }
}

impl Inside {
    /// Computes every value of the optimized graph once, by the interpreter, on random inputs, so that the page shows what they are.
    ///
    /// # Errors
    /// What samples say of a graph that they have no values for, and what a step may refuse; `E0309` if there is no memory.
    pub fn compute_values(&mut self) -> Result<(), Diag> {
        let program = Arc::clone(&self.program);
        let env = environment(program.source(), 1)?;
        let sheet = &self.trace.last().sheets[0];
        let values = interpret_nodes(&sheet.graph, &env)?;
        let of = |id: &cotangent_graph::NodeId| Statistics::of(values.get(id.index())?.as_ref()?.tensor()?);
        self.values = Some(sheet.order.iter().map(of).collect());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_elements() {
        let of = |values: &[f64]| Statistics::of(&TensorData::from(ndarray::Array1::from(values.to_vec())));
        let got = of(&[0.0, -3.0, 3.0, f64::NAN, f64::INFINITY]).unwrap();
        assert_eq!((got.least, got.mean, got.most, got.n), (-3.0, 0.0, 3.0, 5));
        assert_eq!((got.n_zero, got.n_wild, got.deviation), (1, 2, 6f64.sqrt()));
        assert_eq!(of(&[]), None);
        let wild = of(&[f64::NAN]).unwrap();
        assert!(wild.least.is_nan() && wild.n_wild == 1);
    }
}
