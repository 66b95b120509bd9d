//! The optimisers, a formula each.
//!
//! `w` is the parameter, `g` its gradient, `η` the learning rate, `ε` a small number against division by zero. Constants
//! are folded into scalars in f64 before they meet a tensor, so that an element costs a few multiplications, one root
//! and one division.

use cotangent_graph::Tensor;

use super::{Optimizer, UpdateCx};

/// `√(v + ε)`, or `√v + ε` where ε stands outside of the root.
#[track_caller]
pub(super) fn root(v: Tensor<'_>, eps: f64, outside: bool) -> Tensor<'_> {
    if outside { v.sqrt() + eps } else { (v + eps).sqrt() }
}

/// Reads as "`name` in [0, 1)".
pub(super) fn fraction(name: &str, value: f64) -> Result<(), String> {
    if (0.0..1.0).contains(&value) { Ok(()) } else { Err(format!("{name} in [0, 1), got {value}")) }
}

/// Reads as "`name` finite and above 0": what is added to a root that may be 0, and divided by.
pub(super) fn above_zero(name: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(format!("{name} to be finite and above 0, got {value}")) }
}

/// Reads as "`name` finite and not negative".
pub(super) fn not_negative(name: &str, value: f64) -> Result<(), String> {
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

    fn is_elementwise(&self) -> bool {
        true
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

    fn is_elementwise(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        fraction("rho", self.rho)
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let m = cx.slot("m");
        let m_next = m * self.rho + cx.grad;
        cx.update_slot("m", m_next);
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

    fn is_elementwise(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        fraction("rho", self.rho)
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let m = cx.slot("m");
        let m_next = m * self.rho + cx.grad;
        cx.update_slot("m", m_next);
        let direction = if self.full { m_next * 2.0 - m } else { m_next * self.rho + cx.grad };
        cx.param - cx.rate() * direction
    }
}

/// AdaGrad (Duchi et al. 2011): `v ← v + g²; w ← w − η g/√(v + ε)`, with ε inside the root.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaGrad {
    rate: f64,
    eps: f64,
    outside: bool,
}

impl AdaGrad {
    /// AdaGrad with learning rate `rate` and ε = 1e-8.
    pub fn new(rate: f64) -> Self {
        AdaGrad { rate, eps: 1e-8, outside: false }
    }

    /// Another ε.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// ε outside of the root, `√v + ε`, as in PyTorch.
    pub fn eps_outside_root(mut self) -> Self {
        self.outside = true;
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

    fn is_elementwise(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        above_zero("eps", self.eps)
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let v = cx.slot("v");
        let v_next = v + cx.grad * cx.grad;
        cx.update_slot("v", v_next);
        cx.param - cx.rate() * cx.grad / root(v_next, self.eps, self.outside)
    }
}

/// RMSprop (Hinton 2012): `v ← β v + (1 − β) g²; w ← w − η g/√(v + ε)`, with ε inside the root.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsProp {
    rate: f64,
    beta: f64,
    eps: f64,
    outside: bool,
}

impl RmsProp {
    /// RMSprop with learning rate `rate`, β = 0.9 and ε = 1e-8.
    pub fn new(rate: f64) -> Self {
        RmsProp { rate, beta: 0.9, eps: 1e-8, outside: false }
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

    /// ε outside of the root, `√v + ε`, as in PyTorch.
    pub fn eps_outside_root(mut self) -> Self {
        self.outside = true;
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

    fn is_elementwise(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        fraction("beta", self.beta).and(above_zero("eps", self.eps))
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let v = cx.slot("v");
        let v_next = v * self.beta + cx.grad * cx.grad * (1.0 - self.beta);
        cx.update_slot("v", v_next);
        cx.param - cx.rate() * cx.grad / root(v_next, self.eps, self.outside)
    }
}

/// AdaDelta (Zeiler 2012): `v ← β v + (1 − β) g²; Δ = −√(h + ε)/√(v + ε) · g; w ← w + η Δ; h ← γ h + (1 − γ) Δ²`, with ε inside
/// the roots, as in PyTorch. The paper's formula has η = 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaDelta {
    rate: f64,
    beta: f64,
    gamma: f64,
    eps: f64,
    sums: bool,
}

impl AdaDelta {
    /// AdaDelta with learning rate `rate`, usually 1, β = γ = 0.9 and ε = 1e-6.
    pub fn new(rate: f64) -> Self {
        AdaDelta { rate, beta: 0.9, gamma: 0.9, eps: 1e-6, sums: false }
    }

    /// Another β, the share of the old mean square of gradients that is kept.
    pub fn beta(mut self, beta: f64) -> Self {
        self.beta = beta;
        self
    }

    /// Another γ, the share of the old mean square of changes that is kept.
    pub fn gamma(mut self, gamma: f64) -> Self {
        self.gamma = gamma;
        self
    }

    /// Another ε.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// The sum of all squared gradients in the place of their running mean: `v ← v + g²`, as in AdaGrad.
    pub fn with_sums(mut self) -> Self {
        self.sums = true;
        self
    }
}

impl Optimizer for AdaDelta {
    fn name(&self) -> &'static str {
        "adadelta"
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        fraction("beta", self.beta).and(fraction("gamma", self.gamma)).and(above_zero("eps", self.eps))
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let (v, h) = (cx.slot("v"), cx.slot("h"));
        let square = cx.grad * cx.grad;
        let v_next = if self.sums { v + square } else { v * self.beta + square * (1.0 - self.beta) };
        let change = -((h + self.eps).sqrt() / (v_next + self.eps).sqrt() * cx.grad);
        cx.update_slot("v", v_next);
        cx.update_slot("h", h * self.gamma + change * change * (1.0 - self.gamma));
        cx.param + cx.rate() * change
    }
}
