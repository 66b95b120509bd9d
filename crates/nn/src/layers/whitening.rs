//! Decorrelated batch norm: features of a batch with covariance close to the identity, not only variances of 1.

use cotangent_graph::{Code, DType, Diag, Init, Mode, Shape, Tensor};

use super::{Layer, bad_setting, refused, takes};

/// Decorrelated batch normalization (Huang et al. 2018): `y = (x - μ) Σ^(-1/2) · gain + bias` over all axes but the last, with
/// Σ the covariance of the batch. `Σ^(-1/2)` is the symmetric root (ZCA), which turns features as little as possible.
///
/// The root comes from Newton's iteration as in Huang et al. 2019 (IterNorm): with `Σ' = (Σ + εI)/tr`,
/// `P ← (3P - P³Σ')/2` from `P = I` on, `Σ^(-1/2) = P/√tr`; matrix products only, so it differentiates like the rest. Small
/// eigenvalues are whitened in part after few iterations, which is what keeps noise from being amplified.
///
/// Features are whitened in groups of neighbours. At test time `name.mean` `[features]` and `name.whitening` `[groups, size,
/// size]` are used, exponential averages kept by training, of which the first batch is the start. For averages of a pass over
/// the training data, set `name.batches` to 0 in the store and step with a program built in [`Mode::Calibrate`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whitening {
    n_groups: usize,
    n_iterations: usize,
    eps: f64,
    momentum: f64,
}

impl Whitening {
    /// One group, 5 iterations, ε = 1e-5, momentum 0.1 for the averages.
    pub fn new() -> Self {
        Whitening { n_groups: 1, n_iterations: 5, eps: 1e-5, momentum: 0.1 }
    }

    /// So many groups of neighbours, each decorrelated by itself; they must divide the number of features.
    pub fn groups(mut self, n_groups: usize) -> Self {
        self.n_groups = n_groups;
        self
    }

    /// So many steps of Newton's iteration.
    pub fn iterations(mut self, n_iterations: usize) -> Self {
        self.n_iterations = n_iterations;
        self
    }

    /// Another ε, added to the variances.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// Another weight of the newest batch in the averages.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }
}

impl Default for Whitening {
    fn default() -> Self {
        Whitening::new()
    }
}

impl Layer for Whitening {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let g = x.builder();
        if !takes("whitening", name, x, 2, "rows of features are needed for a covariance") {
            return refused(x, None);
        }
        let (shape, dtype) = (x.shape(), x.dtype());
        let n_features = shape[shape.rank() - 1];
        let n_rows = shape.n_elements() / n_features.max(1);
        let k = self.n_groups;
        if k == 0 || n_features == 0 || !n_features.is_multiple_of(k) || n_rows == 0 {
            let text = format!(
                "`whitening` requires rows of features in a number that {k} groups divide, got {shape} for layer `{}`",
                g.scoped(name)
            );
            return x.refuse(Diag::new(Code::ShapeMismatch, text).made("the operand", x));
        }
        if self.n_iterations == 0 || !(0.0..=1.0).contains(&self.momentum) || !self.eps.is_finite() || self.eps < 0.0 {
            let required = format!(
                "an iteration or more, a momentum in [0, 1] and an ε that is finite and not negative, got {}, {} and {}",
                self.n_iterations, self.momentum, self.eps
            );
            return bad_setting(x, "whitening", name, &required);
        }
        if n_rows == 1 && g.is_training() {
            let text =
                format!("`whitening` requires 2 rows or more in training, got {shape} for layer `{}`", g.scoped(name));
            return x
                .refuse(Diag::new(Code::ShapeMismatch, text).made("the operand", x).help("one row has no covariance"));
        }
        let size = n_features / k;
        let gain = g.param(&format!("{name}.gain"), dtype, [n_features], Init::ONES);
        let bias = g.param(&format!("{name}.bias"), dtype, [n_features], Init::ZEROS);
        let mean = g.state(&format!("{name}.mean"), dtype, [n_features], Init::ZEROS);
        let average = g.state(&format!("{name}.whitening"), dtype, [k, size, size], Init::ZEROS);
        let rows = x.reshape([n_rows, n_features]);
        let by_group = |t: Tensor<'g>| t.reshape([n_rows, k, size]).transpose([1, 0, 2]);
        let whitened = if g.mode() == Mode::Evaluate {
            by_group(rows - mean.broadcast_to([n_rows, n_features])).matmul(average)
        } else {
            let batch_mean = rows.mean_over([0]);
            let centered = by_group(rows - batch_mean.broadcast_to([n_rows, n_features]));
            let root = self.inverse_root(centered, n_rows);
            self.keep_averages(name, [(mean, batch_mean), (average, root)]);
            centered.matmul(root)
        };
        let y = whitened.transpose([1, 0, 2]).reshape([n_rows, n_features]);
        (y * gain + bias).reshape(shape)
    }
}

impl Whitening {
    /// `Σ^(-1/2)`, `[groups, size, size]`, of centered features `[groups, rows, size]`.
    #[track_caller]
    fn inverse_root<'g>(&self, centered: Tensor<'g>, n_rows: usize) -> Tensor<'g> {
        let g = centered.builder();
        let (k, size) = (centered.shape()[0], centered.shape()[2]);
        let square: Shape = [k, size, size].into();
        let index = |axis: usize| g.iota(DType::I32, square.clone(), axis);
        let one = index(1).eq(index(2)).cast(centered.dtype());
        let covariance = centered.matmul_with(centered, true, false) / n_rows as f64 + one * self.eps;
        let trace = (covariance * one).sum_over([1, 2]);
        let scaled = covariance / trace.repeat_along(&square, [1, 2]);
        let mut p = one;
        for _ in 0..self.n_iterations {
            p = (p * 3.0 - p.matmul(p).matmul(p).matmul(scaled)) * 0.5;
        }
        p * trace.rsqrt().repeat_along(&square, [1, 2])
    }

    /// Declares the averages' updates, given pairs of an average and its newest value.
    #[track_caller]
    fn keep_averages<'g>(&self, name: &str, pairs: [(Tensor<'g>, Tensor<'g>); 2]) {
        let g = pairs[0].0.builder();
        let batches = g.state(&format!("{name}.batches"), DType::I64, [], Init::ZEROS);
        let seen = batches + 1;
        g.update(batches, seen);
        let mut weight: Tensor<'g> = 1.0 / seen.cast(DType::F64);
        if g.is_training() {
            weight = weight.maximum(g.scalar(self.momentum, DType::F64));
        }
        for (average, newest) in pairs {
            g.update(average, average + (newest - average) * weight.cast(average.dtype()));
        }
    }
}
