//! Losses of classification with options: class weights, label smoothing, ignored rows, soft targets.
//!
//! They are made of the loss ops, which are stable and have derivatives of their own. Logits are `[.., classes]`, labels
//! class indices `[..]` (i32 or i64).

use cotangent_graph::{Code, DType, Diag, Tensor, Type};

/// What changes cross-entropy; all off by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossEntropyOptions<'g> {
    smoothing: f64,
    weights: Option<Tensor<'g>>,
    ignored: Option<i64>,
}

impl<'g> CrossEntropyOptions<'g> {
    /// The plain loss.
    pub fn new() -> Self {
        CrossEntropyOptions::default()
    }

    /// Label smoothing (Szegedy et al. 2016): the target is `1 - ε` at the label plus `ε/classes` everywhere, ε in [0, 1].
    pub fn smoothing(mut self, eps: f64) -> Self {
        self.smoothing = eps;
        self
    }

    /// A weight for each class, `[classes]` of the logits' element type: a row counts with the weight of its label.
    pub fn weights(mut self, weights: Tensor<'g>) -> Self {
        self.weights = Some(weights);
        self
    }

    /// Rows with this label do not count; it may lie outside the classes.
    pub fn ignore(mut self, label: i64) -> Self {
        self.ignored = Some(label);
        self
    }
}

/// Losses as methods of the logits.
pub trait Losses<'g>: Sized {
    /// Mean cross-entropy with options, a scalar: `Σ w_y · l / Σ w_y` over the rows that are not ignored, with
    /// `l = (1 - ε) · (-log p_y) + ε/classes · Σ_j (w_j/w_y) · (-log p_j)`, as PyTorch's `cross_entropy` has it. If no row
    /// counts, it is 0.
    #[track_caller]
    fn mean_cross_entropy(self, labels: Tensor<'_>, options: CrossEntropyOptions<'g>) -> Tensor<'g>;

    /// Distillation (Hinton et al. 2015): the mean cross-entropy at temperature `t` against a teacher's logits at that
    /// temperature, `t² · mean(-Σ softmax(teacher/t) · log softmax(self/t))`, a scalar. No gradient flows to the teacher. The
    /// factor t² keeps gradients of the size of those of the hard labels' loss, to which it is usually added.
    #[track_caller]
    fn mean_distillation(self, teacher: Tensor<'_>, temperature: f64) -> Tensor<'g>;
}

impl<'g> Losses<'g> for Tensor<'g> {
    #[track_caller]
    fn mean_cross_entropy(self, labels: Tensor<'_>, options: CrossEntropyOptions<'g>) -> Tensor<'g> {
        let g = self.builder();
        let scalar = Type::tensor(self.dtype(), []);
        if self.is_poisoned() || labels.is_poisoned() {
            return g.poisoned_as(scalar);
        }
        let eps = options.smoothing;
        if !(0.0..=1.0).contains(&eps) {
            let text = format!("`mean_cross_entropy` requires a smoothing in [0, 1], got {eps}");
            g.error(Diag::new(Code::BadAttribute, text));
            return g.poisoned_as(scalar);
        }
        let n_classes = self.shape().last().copied().unwrap_or(1);
        if let Some(weights) = options.weights.filter(|w| !w.is_poisoned() && w.shape()[..] != [n_classes]) {
            let text =
                format!("class weights require shape [{n_classes}] for {} logits, got {}", self.ty(), weights.ty());
            let diag = Diag::new(Code::ShapeMismatch, text);
            g.error(diag.made("the logits", self).made("the weights", weights));
            return g.poisoned_as(scalar);
        }
        if !std::ptr::eq(labels.builder(), g) || !matches!(labels.dtype(), DType::I32 | DType::I64) {
            // Not ours, or no labels: the op says so.
            return self.cross_entropy(labels).mean();
        }
        let labels = g.tensor(labels.id());
        // An ignored row counts as one of class 0 with weight 0.
        let counted = options.ignored.map(|ignored| labels.ne(labels.constant_like(ignored)));
        let labels = counted.map_or(labels, |counted| counted.select(labels, labels.constant_like(0.0)));
        let mut rows = self.cross_entropy(labels);
        if rows.is_poisoned() {
            return g.poisoned_as(scalar);
        }
        let last = self.rank() - 1;
        let mut weights = options.weights.map(|of_class| {
            let hit = labels.is_class(n_classes);
            let of_class = of_class.broadcast_to(self.shape());
            hit.select(of_class, of_class.constant_like(0.0)).sum_over([last])
        });
        if let Some(weights) = weights {
            rows = weighted(rows, weights);
        }
        if eps > 0.0 {
            let mut spread = -self.log_softmax(last);
            if let Some(of_class) = options.weights {
                spread = weighted(spread, of_class.broadcast_to(self.shape()));
            }
            rows = rows * (1.0 - eps) + spread.sum_over([last]) * (eps / n_classes as f64);
        }
        if let Some(counted) = counted {
            let zero = rows.constant_like(0.0);
            rows = counted.select(rows, zero);
            let of_row = weights.unwrap_or_else(|| rows.constant_like(1.0).broadcast_to(rows.shape()));
            weights = Some(counted.select(of_row, zero));
        }
        let Some(weights) = weights else { return rows.mean() };
        let total = weights.sum();
        // Of no rows the sum is 0, which any divisor leaves.
        let one = total.constant_like(1.0);
        rows.sum() / total.eq(total.constant_like(0.0)).select(one, total)
    }

    #[track_caller]
    fn mean_distillation(self, teacher: Tensor<'_>, temperature: f64) -> Tensor<'g> {
        let g = self.builder();
        let scalar = Type::tensor(self.dtype(), []);
        if self.is_poisoned() || teacher.is_poisoned() {
            return g.poisoned_as(scalar);
        }
        if !temperature.is_finite() || temperature <= 0.0 {
            let text = format!("`mean_distillation` requires a positive temperature, got {temperature}");
            g.error(Diag::new(Code::BadAttribute, text));
            return g.poisoned_as(scalar);
        }
        if teacher.shape() != self.shape() || self.rank() == 0 {
            let text =
                format!("`mean_distillation` requires two equal [.., classes], got {} and {}", self.ty(), teacher.ty());
            g.error(Diag::new(Code::ShapeMismatch, text).operands(&[self, teacher]));
            return g.poisoned_as(scalar);
        }
        let targets = (teacher.stop_gradient() / temperature).softmax(self.rank() - 1);
        (self / temperature).soft_cross_entropy(targets).mean() * (temperature * temperature)
    }
}

/// `losses · weights`, 0 where the weight is, also of an infinite loss: what has no weight does not count.
#[track_caller]
fn weighted<'g>(losses: Tensor<'g>, weights: Tensor<'g>) -> Tensor<'g> {
    let zero = losses.constant_like(0.0);
    weights.eq(zero).select(zero, losses * weights)
}
