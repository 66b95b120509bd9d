//! Adam and its relatives, and Lion.
//!
//! `m` and `v` are running means of the gradient and of its square. Corrections for their start at zero are scalars, computed
//! in f64 once a step.

use cotangent_graph::{DType, Tensor};

use super::length::{length, times};
use super::rules::{above_zero, fraction, not_negative, root};
use super::{Optimizer, UpdateCx};

/// Adam (Kingma and Ba 2014), with the paper's bias correction and ε outside the root:
/// `m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; m̂ = m/(1 − β₁ᵗ); v̂ = v/(1 − β₂ᵗ); w ← w − η m̂/(√v̂ + ε)`.
///
/// The corrections are folded into the step size `η/(1 − β₁ᵗ)` and the scale `1/√(1 − β₂ᵗ)` of the root, which changes the
/// textbook's result by rounding only. Other textbooks' forms: [`Adam::uncorrected`], [`Adam::eps_inside_root`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    rate: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    eps_inside: bool,
    corrected: bool,
    max: bool,
}

impl Adam {
    /// Adam with learning rate `rate`, β₁ = 0.9, β₂ = 0.999 and ε = 1e-8.
    pub fn new(rate: f64) -> Self {
        Adam { rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, eps_inside: false, corrected: true, max: false }
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

    /// ε inside of the root, `√(v̂ + ε)`.
    pub fn eps_inside_root(mut self) -> Self {
        self.eps_inside = true;
        self
    }

    /// No bias correction: `w ← w − η m/(√v + ε)`.
    pub fn uncorrected(mut self) -> Self {
        self.corrected = false;
        self
    }

    /// AMSGrad (Reddi et al. 2018): the largest `v` so far in the place of `v`, in the slot `vmax`; corrected as `v` is, like
    /// in PyTorch.
    pub fn amsgrad(mut self) -> Self {
        self.max = true;
        self
    }

    fn check_all(&self) -> Result<(), String> {
        fraction("beta1", self.beta1).and(fraction("beta2", self.beta2)).and(above_zero("eps", self.eps))
    }

    /// The states' next values, with their updates declared: `m`, and `v` or the largest so far.
    #[track_caller]
    fn moments<'g>(&self, cx: &UpdateCx<'g>) -> [Tensor<'g>; 2] {
        let (m, v) = (cx.slot("m"), cx.slot("v"));
        let m_next = m * self.beta1 + cx.grad * (1.0 - self.beta1);
        let v_next = v * self.beta2 + cx.grad * cx.grad * (1.0 - self.beta2);
        cx.update_slot("m", m_next);
        cx.update_slot("v", v_next);
        if !self.max {
            return [m_next, v_next];
        }
        let most = cx.slot("vmax");
        let most_next = most.maximum(v_next);
        cx.update_slot("vmax", most_next);
        [m_next, most_next]
    }

    /// The corrections `1 − β₁ᵗ` and `1 − β₂ᵗ`, scalars f64.
    #[track_caller]
    fn corrections<'g>(&self, cx: &UpdateCx<'g>) -> [Tensor<'g>; 2] {
        let (g, t) = (cx.builder(), cx.step_number());
        [1.0 - g.scalar(self.beta1, DType::F64).pow(t), 1.0 - g.scalar(self.beta2, DType::F64).pow(t)]
    }

    /// `√v̂ + ε`, given the correction of `v` if there is one.
    #[track_caller]
    fn denominator<'g>(&self, cx: &UpdateCx<'g>, v: Tensor<'g>, correction: Option<Tensor<'g>>) -> Tensor<'g> {
        match correction {
            None => root(v, self.eps, !self.eps_inside),
            Some(correction) if self.eps_inside => (v * cx.narrow(1.0 / correction) + self.eps).sqrt(),
            Some(correction) => v.sqrt() * cx.narrow(1.0 / correction.sqrt()) + self.eps,
        }
    }

    /// What the parameter is changed by, with the states' updates declared.
    #[track_caller]
    fn change<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        if !self.corrected {
            let [m, v] = self.moments(cx);
            return cx.rate() * m / self.denominator(cx, v, None);
        }
        let [correction1, correction2] = self.corrections(cx);
        let step_size = cx.narrow(cx.rate_f64() / correction1);
        let [m, v] = self.moments(cx);
        step_size * m / self.denominator(cx, v, Some(correction2))
    }
}

impl Optimizer for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        self.check_all()
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        cx.param - self.change(cx)
    }
}

/// Adam's numbers as settings of the optimisers that are built around it.
macro_rules! numbers_of_adam {
    ($($optimizer:ty),*) => {
        $(impl $optimizer {
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
        })*
    };
}
numbers_of_adam!(AdamW, NAdam, Lamb);

/// Adam with decoupled weight decay (Loshchilov and Hutter 2017): `w ← (1 − η λ) w − η m̂/(√v̂ + ε)`.
///
/// Only regularized parameters decay: by default those of rank 2 or more, not biases nor the gains of norms.
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

    /// AMSGrad; see [`Adam::amsgrad`].
    pub fn amsgrad(mut self) -> Self {
        self.adam = self.adam.amsgrad();
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

    fn is_elementwise(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        self.adam.check_all().and(not_negative("decay", self.decay))
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let change = self.adam.change(cx);
        decayed(cx, self.decay) - change
    }
}

/// `(1 − η λ) w`, or `w` if the parameter does not decay.
#[track_caller]
fn decayed<'g>(cx: &UpdateCx<'g>, decay: f64) -> Tensor<'g> {
    if !cx.is_regularized() {
        return cx.param;
    }
    cx.param * cx.narrow(1.0 - cx.rate_f64() * decay)
}

/// Adam with Nesterov's momentum (Dozat 2016), in the form of PyTorch: `μₜ = β₁ (1 − ½ · 0.96^(0.004 t))`, `Πₜ = μ₁ ⋯ μₜ`,
/// `w ← w − η ((1 − μₜ)/(1 − Πₜ) · g + μₜ₊₁/(1 − Πₜ₊₁) · m)/(√v̂ + ε)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NAdam {
    adam: Adam,
    psi: f64,
}

impl NAdam {
    /// NAdam with learning rate `rate`, β₁ = 0.9, β₂ = 0.999, ε = 1e-8 and ψ = 0.004.
    pub fn new(rate: f64) -> Self {
        NAdam { adam: Adam::new(rate), psi: 0.004 }
    }

    /// Another ψ, which says how fast μ approaches β₁; 0 keeps it at β₁/2.
    pub fn psi(mut self, psi: f64) -> Self {
        self.psi = psi;
        self
    }
}

impl Optimizer for NAdam {
    fn name(&self) -> &'static str {
        "nadam"
    }

    fn learning_rate(&self) -> f64 {
        self.adam.rate
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        self.adam.check_all().and(not_negative("psi", self.psi))
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let g = cx.builder();
        let (t, base) = (cx.step_number(), g.scalar(0.96, DType::F64));
        let mu: Tensor<'g> = (1.0 - base.pow(t * self.psi) * 0.5) * self.adam.beta1;
        let mu_after: Tensor<'g> = (1.0 - base.pow((t + 1.0) * self.psi) * 0.5) * self.adam.beta1;
        let before = cx.shared("product", 1.0);
        let product = before * mu;
        cx.update_shared(before, product);
        let [_, correction2] = self.adam.corrections(cx);
        let of_gradient = cx.narrow(cx.rate_f64() * (1.0 - mu) / (1.0 - product));
        let of_mean = cx.narrow(cx.rate_f64() * mu_after / (1.0 - product * mu_after));
        let [m, v] = self.adam.moments(cx);
        let direction = of_gradient * cx.grad + of_mean * m;
        cx.param - direction / self.adam.denominator(cx, v, Some(correction2))
    }
}

/// Lion (Chen et al. 2023): `c = β₁ m + (1 − β₁) g; w ← (1 − η λ) w − η sign(c); m ← β₂ m + (1 − β₂) g`. Only regularized
/// parameters decay. Its rate is a third to a tenth of what Adam wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    rate: f64,
    decay: f64,
    beta1: f64,
    beta2: f64,
}

impl Lion {
    /// Lion with learning rate `rate`, decay λ = `decay`, β₁ = 0.9 and β₂ = 0.99.
    pub fn new(rate: f64, decay: f64) -> Self {
        Lion { rate, decay, beta1: 0.9, beta2: 0.99 }
    }

    /// Another β₁, the share of the old mean gradient in the direction.
    pub fn beta1(mut self, beta1: f64) -> Self {
        self.beta1 = beta1;
        self
    }

    /// Another β₂, the share of the old mean gradient that is kept.
    pub fn beta2(mut self, beta2: f64) -> Self {
        self.beta2 = beta2;
        self
    }
}

impl Optimizer for Lion {
    fn name(&self) -> &'static str {
        "lion"
    }

    fn learning_rate(&self) -> f64 {
        self.rate
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), String> {
        fraction("beta1", self.beta1).and(fraction("beta2", self.beta2)).and(not_negative("decay", self.decay))
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let m = cx.slot("m");
        let direction = (m * self.beta1 + cx.grad * (1.0 - self.beta1)).sign();
        cx.update_slot("m", m * self.beta2 + cx.grad * (1.0 - self.beta2));
        decayed(cx, self.decay) - cx.rate() * direction
    }
}

/// LAMB (You et al. 2019), for large batches: Adam's direction with decay, `r = m̂/(√v̂ + ε) + λ w`, scaled for each parameter
/// to the length of the parameter: `w ← w − η ‖w‖/‖r‖ · r`; the factor is 1 where one of the lengths is 0. Only regularized
/// parameters decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lamb {
    adam: Adam,
    decay: f64,
}

impl Lamb {
    /// LAMB with learning rate `rate`, decay λ = `decay`, β₁ = 0.9, β₂ = 0.999 and ε = 1e-6.
    pub fn new(rate: f64, decay: f64) -> Self {
        Lamb { adam: Adam::new(rate).eps(1e-6), decay }
    }
}

impl Optimizer for Lamb {
    fn name(&self) -> &'static str {
        "lamb"
    }

    fn learning_rate(&self) -> f64 {
        self.adam.rate
    }

    fn check(&self) -> Result<(), String> {
        self.adam.check_all().and(not_negative("decay", self.decay))
    }

    #[track_caller]
    fn step<'g>(&self, cx: &UpdateCx<'g>) -> Tensor<'g> {
        let [correction1, correction2] = self.adam.corrections(cx);
        let [m, v] = self.adam.moments(cx);
        let mut direction = m * cx.narrow(1.0 / correction1) / self.adam.denominator(cx, v, Some(correction2));
        if cx.is_regularized() {
            direction += cx.param * self.decay;
        }
        let axes: Vec<usize> = (0..cx.param.rank()).collect();
        let (of_param, of_direction) = (length(cx.param, &axes), length(direction, &axes));
        let (zero, one) = (of_param.constant_like(0.0), of_param.constant_like(1.0));
        let trusted = of_param.gt(zero) & of_direction.gt(zero);
        let trust = trusted.select(of_param / of_direction, one);
        cx.param - times(direction, cx.rate_f64() * trust, |t, shape| t.broadcast_to(shape))
    }
}
