//! The optimisers, a formula each.
//!
//! `w` is the parameter, `g` its gradient, `η` the learning rate, `ε` a small number against division by zero. Constants
//! are folded into scalars in f64 before they meet a tensor, so that an element costs a few multiplications, one root
//! and one division.

use cotangent_graph::{DType, Tensor};

use super::{Optimizer, UpdateCx};

/// Reads as "`name` in [0, 1)".
fn fraction(name: &str, value: f64) -> Result<(), String> {
    if (0.0..1.0).contains(&value) { Ok(()) } else { Err(format!("{name} in [0, 1), got {value}")) }
}

/// Reads as "`name` finite and not negative".
fn not_negative(name: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(format!("{name} to be finite and not negative, got {value}"))
    }
}

/// Stochastic gradient descent: `w ← w − η g`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    rate: f64,
}

impl Sgd {
    /// Gradient descent with learning rate `rate`.
    pub fn new(rate: f64) -> Self {
        Sgd { rate }
    }
}

impl Optimizer for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        cx.param - cx.rate() * cx.grad
    }
}

/// Gradient descent with momentum (Polyak 1964): `m ← ρ m + g; w ← w − η m`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    rate: f64,
    rho: f64,
}

impl Momentum {
    /// Momentum with learning rate `rate` and the share `rho` of the old momentum that is kept, usually 0.9.
    pub fn new(rate: f64, rho: f64) -> Self {
        Momentum { rate, rho }
    }
}

impl Optimizer for Momentum {
    fn name(&self) -> &'static str {
        "momentum"
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    fn check(&self) -> Result<(), String> {
        fraction("rho", self.rho)
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let m = cx.slot("m");
        let m_next = m * self.rho + cx.grad;
        cx.builder().update(m, m_next);
        cx.param - cx.rate() * m_next
    }
}

/// Nesterov's accelerated gradient: the gradient is taken where the momentum is about to carry the parameter.
///
/// In terms of the parameter `u` of the textbook: `m ← ρ m + ∇L(u − ηρ m); u ← u − η m` (Sutskever et al. 2013). A graph
/// differentiates at the values that it holds, so the parameter of the graph is the look-ahead point `w = u − ηρ m`
/// itself, and the same sequence reads `m ← ρ m + ∇L(w); w ← w − η (ρ m + ∇L(w))` with the new `m`. Both start at the
/// same point because `m` starts at zero. They are equal for a constant `η`; when `η` changes between two steps, the
/// look-ahead of the first of them was made with the old one, as in other libraries.
///
/// [`Nesterov::full_look_ahead`] takes the gradient at `u − η m` instead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nesterov {
    rate: f64,
    rho: f64,
    full: bool,
}

impl Nesterov {
    /// Nesterov's momentum with learning rate `rate` and the share `rho` of the old momentum that is kept, usually 0.9.
    pub fn new(rate: f64, rho: f64) -> Self {
        Nesterov { rate, rho, full: false }
    }

    /// The form `m ← ρ m + ∇L(u − η m); u ← u − η m`, which looks ahead by the whole momentum rather than by the share of
    /// it that will be kept. The parameter of the graph is `w = u − η m`, and `w ← w − η (2 m_new − m_old)`.
    pub fn full_look_ahead(mut self) -> Self {
        self.full = true;
        self
    }
}

impl Optimizer for Nesterov {
    fn name(&self) -> &'static str {
        "nesterov"
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    fn check(&self) -> Result<(), String> {
        fraction("rho", self.rho)
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let m = cx.slot("m");
        let m_next = m * self.rho + cx.grad;
        cx.builder().update(m, m_next);
        let direction = if self.full { m_next * 2.0 - m } else { m_next * self.rho + cx.grad };
        cx.param - cx.rate() * direction
    }
}

/// AdaGrad (Duchi et al. 2011): `v ← v + g²; w ← w − η g/√(v + ε)`, with ε inside the root.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaGrad {
    rate: f64,
    eps: f64,
}

impl AdaGrad {
    /// AdaGrad with learning rate `rate` and ε = 1e-8.
    pub fn new(rate: f64) -> Self {
        AdaGrad { rate, eps: 1e-8 }
    }

    /// Another ε.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }
}

impl Optimizer for AdaGrad {
    fn name(&self) -> &'static str {
        "adagrad"
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    fn check(&self) -> Result<(), String> {
        not_negative("eps", self.eps)
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let v = cx.slot("v");
        let v_next = v + cx.grad * cx.grad;
        cx.builder().update(v, v_next);
        cx.param - cx.rate() * cx.grad / (v_next + self.eps).sqrt()
    }
}

/// RMSprop (Hinton 2012): `v ← β v + (1 − β) g²; w ← w − η g/√(v + ε)`, with ε inside the root.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsProp {
    rate: f64,
    beta: f64,
    eps: f64,
}

impl RmsProp {
    /// RMSprop with learning rate `rate`, β = 0.9 and ε = 1e-8.
    pub fn new(rate: f64) -> Self {
        RmsProp { rate, beta: 0.9, eps: 1e-8 }
    }

    /// Another β.
    pub fn beta(mut self, beta: f64) -> Self {
        self.beta = beta;
        self
    }

    /// Another ε.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }
}

impl Optimizer for RmsProp {
    fn name(&self) -> &'static str {
        "rmsprop"
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    fn check(&self) -> Result<(), String> {
        fraction("beta", self.beta).and(not_negative("eps", self.eps))
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let v = cx.slot("v");
        let v_next = v * self.beta + cx.grad * cx.grad * (1.0 - self.beta);
        cx.builder().update(v, v_next);
        cx.param - cx.rate() * cx.grad / (v_next + self.eps).sqrt()
    }
}

/// Adam (Kingma and Ba 2014), with the paper's bias correction and ε outside the root:
/// `m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; m̂ = m/(1 − β₁ᵗ); v̂ = v/(1 − β₂ᵗ); w ← w − η m̂/(√v̂ + ε)`.
///
/// The corrections are scalars, computed in f64 once a step and folded into the step size `η/(1 − β₁ᵗ)` and the scale
/// `1/√(1 − β₂ᵗ)` of the root, which changes the textbook's result by rounding only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    rate: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
}

impl Adam {
    /// Adam with learning rate `rate`, β₁ = 0.9, β₂ = 0.999 and ε = 1e-8.
    pub fn new(rate: f64) -> Self {
        Adam { rate, beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }

    /// Another β₁, the share of the old mean gradient that is kept.
    pub fn beta1(mut self, beta1: f64) -> Self {
        self.beta1 = beta1;
        self
    }

    /// Another β₂, the share of the old mean square that is kept.
    pub fn beta2(mut self, beta2: f64) -> Self {
        self.beta2 = beta2;
        self
    }

    /// Another ε.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    fn check_all(&self) -> Result<(), String> {
        fraction("beta1", self.beta1).and(fraction("beta2", self.beta2)).and(not_negative("eps", self.eps))
    }

    /// What the parameter is changed by, with the states' updates declared.
    #[track_caller]
    fn change<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let g = cx.builder();
        let t = cx.step_number();
        let correction1: Tensor<'g> = 1.0 - g.scalar(self.beta1, DType::F64).pow(t);
        let correction2: Tensor<'g> = 1.0 - g.scalar(self.beta2, DType::F64).pow(t);
        let step_size = cx.narrow(cx.rate_f64() / correction1);
        let root_scale = cx.narrow(1.0 / correction2.sqrt());
        let (m, v) = (cx.slot("m"), cx.slot("v"));
        let m_next = m * self.beta1 + cx.grad * (1.0 - self.beta1);
        let v_next = v * self.beta2 + cx.grad * cx.grad * (1.0 - self.beta2);
        g.update(m, m_next);
        g.update(v, v_next);
        step_size * m_next / (v_next.sqrt() * root_scale + self.eps)
    }
}

impl Optimizer for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    fn check(&self) -> Result<(), String> {
        self.check_all()
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        cx.param - self.change(cx)
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2017): `w ← (1 − η λ) w − η m̂/(√v̂ + ε)`.
///
/// Only parameters of rank 2 or more decay: weights and tables, not biases nor the scales of norms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    adam: Adam,
    decay: f64,
}

impl AdamW {
    /// AdamW with learning rate `rate`, decay λ = `decay`, β₁ = 0.9, β₂ = 0.999 and ε = 1e-8.
    pub fn new(rate: f64, decay: f64) -> Self {
        AdamW { adam: Adam::new(rate), decay }
    }

    /// Another β₁, the share of the old mean gradient that is kept.
    pub fn beta1(mut self, beta1: f64) -> Self {
        self.adam.beta1 = beta1;
        self
    }

    /// Another β₂, the share of the old mean square that is kept.
    pub fn beta2(mut self, beta2: f64) -> Self {
        self.adam.beta2 = beta2;
        self
    }

    /// Another ε.
    pub fn eps(mut self, eps: f64) -> Self {
        self.adam.eps = eps;
        self
    }
}

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn learning_rate(&self) -> f64 {
        self.adam.rate
    }

    fn check(&self) -> Result<(), String> {
        self.adam.check_all().and(not_negative("decay", self.decay))
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let change = self.adam.change(cx);
        if cx.param.rank() < 2 {
            return cx.param - change;
        }
        let kept = cx.narrow(1.0 - cx.rate_f64() * self.decay);
        cx.param * kept - change
    }
}
