//! Layers that disturb in training and do nothing, or almost nothing, at test time.

use cotangent_graph::Tensor;

use super::{Layer, bad_setting, refused, takes};

/// Dropout (Srivastava et al. 2014): in training every element is zeroed with probability `p`.
///
/// By default *inverted*: what is kept is scaled by `1/(1 - p)` in training, and at test time nothing happens, as
/// [`Tensor::dropout`] does it. [`Dropout::classic`] leaves it as it is in training and scales by `1 - p` at test time.
/// The mask is a function of the seed, `name` and the step; it is recomputed in the backward pass, never stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    p: f64,
    classic: bool,
}

impl Dropout {
    /// Inverted dropout with probability `p` in [0, 1).
    pub fn new(p: f64) -> Self {
        Dropout { p, classic: false }
    }

    /// Scaled at test time instead.
    pub fn classic(mut self) -> Self {
        self.classic = true;
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
        if !self.classic {
            return x.dropout(name, self.p);
        }
        if !g.is_training() {
            return x * (1.0 - self.p);
        }
        let kept = g.uniform(name, x.dtype(), x.shape()).ge(x.constant_like(self.p));
        kept.select(x, x.constant_like(0.0))
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
