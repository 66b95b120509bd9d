//! Layers that disturb in training and do nothing, or almost nothing, at test time.

use cotangent_graph::{Axis, Tensor};

use super::{Layer, bad_setting, refused, takes};

/// Dropout (Srivastava et al. 2014): in training every element is zeroed with probability `p`.
///
/// By default *inverted*: what is kept is scaled by `1/(1 - p)` in training, and at test time nothing happens, as
/// [`Tensor::dropout`] does it. [`Dropout::classic`] leaves it as it is in training and scales by `1 - p` at test time.
/// The mask is a function of the seed, `name` and the step; it is recomputed in the backward pass, never stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    p: f64,
    classic: bool,
    shared: Vec<Axis>,
}

impl Dropout {
    /// Inverted dropout with probability `p` in [0, 1).
    pub fn new(p: f64) -> Self {
        Dropout { p, classic: false, shared: Vec::new() }
    }

    /// Scaled at test time instead.
    pub fn classic(mut self) -> Self {
        self.classic = true;
        self
    }

    /// One mask for all places along these axes: over time, of sequences `[batch, time, features]`, it is the variational dropout
    /// of Gal and Ghahramani 2016; over the places of a picture whole channels are zeroed (Tompson et al. 2015).
    pub fn shared_along<A: Into<Axis>>(mut self, axes: impl IntoIterator<Item = A>) -> Self {
        self.shared = axes.into_iter().map(Into::into).collect();
        self
    }
}

impl Layer for Dropout {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let g = x.builder();
        if !takes("dropout", name, x, 0, "") {
            return refused(x, None);
        }
        if !(0.0..1.0).contains(&self.p) {
            return bad_setting(x, "dropout", name, &format!("a probability in [0, 1), got {}", self.p));
        }
        let shape = x.shape();
        let mut of_mask = shape.to_vec();
        for axis in &self.shared {
            match axis.of(shape.rank()) {
                Some(axis) => of_mask[axis] = 1,
                None => {
                    return bad_setting(x, "dropout", name, &format!("axes of a tensor of shape {shape}, got {axis}"));
                }
            }
        }
        if !self.classic && (self.shared.is_empty() || !g.is_training()) {
            return x.dropout(name, self.p);
        }
        if !g.is_training() {
            return x * (1.0 - self.p);
        }
        let draws = g.uniform(name, x.dtype(), of_mask);
        let kept = draws.ge(draws.constant_like(self.p)).broadcast_to(shape);
        let scale = if self.classic { 1.0 } else { 1.0 / (1.0 - self.p) };
        kept.select(x * scale, x.constant_like(0.0))
    }
}

/// Normal noise added in training; another one each step, the same in the backward pass. Nothing at test time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaussianNoise {
    deviation: f64,
}

impl GaussianNoise {
    /// Noise of this standard deviation, finite and from 0 on.
    pub fn new(deviation: f64) -> Self {
        GaussianNoise { deviation }
    }
}

impl Layer for GaussianNoise {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let g = x.builder();
        if !takes("gaussian_noise", name, x, 0, "") {
            return refused(x, None);
        }
        if !self.deviation.is_finite() || self.deviation < 0.0 {
            let required = format!("a finite deviation from 0 on, got {}", self.deviation);
            return bad_setting(x, "gaussian_noise", name, &required);
        }
        if !g.is_training() || self.deviation == 0.0 {
            return x;
        }
        x + g.normal(name, x.dtype(), x.shape()) * self.deviation
    }
}
