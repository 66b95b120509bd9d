//! Adding random composites to a pool of tensors: activations, losses and normalizations.

use cotangent_graph::{Attention, Shape, Tensor};

use super::{Item, Pool};

impl<'g> Pool<'g, '_> {
    pub(super) fn composite(&mut self) -> Option<()> {
        let item = self.float()?;
        let (x, m) = (item.tensor, item.magnitude);
        let axis = self.rng.below(x.rank().max(1));
        let last = x.shape().last().copied().unwrap_or(0);
        let (tensor, magnitude) = match self.rng.below(24) {
            0 => (x.silu(), m),
            1 => (x.gelu(), m),
            2 => (x.gelu_tanh(), m),
            3 => (x.elu(0.7), m),
            4 if x.rank() > 0 => (x.softmax(axis), 1.0),
            5 if x.rank() > 0 => (x.log_softmax(axis), 2.0 * m + 8.0),
            6 if x.shape().n_elements() > 0 => (x - x.mean(), 2.0 * m),
            7 if x.shape().n_elements() > 0 => return self.attention(item),
            8 => (x.threshold(), 1.0),
            9 => (x.relu6(), 6.0),
            10 => (x.hard_sigmoid(), 1.0),
            11 => (x.hard_swish(), m),
            12 => (x.selu(), 2.0 * m),
            13 => (x.celu(0.8), m),
            14 => (x.softsign(), 1.0),
            15 => (x.mish(), m),
            16 => (x.log_sigmoid(), m + 1.0),
            17 if last > 0 => (x.maxout((1..=4).rev().find(|pieces| last % pieces == 0)?), m),
            // NaN is not equal to itself, so that the check holds whatever came before.
            18 => (x.eq(x).select(x.tanh(), x.constant_like(0.0)).check_finite(), 1.0),
            _ => return self.pair(item),
        };
        self.push(tensor, magnitude);
        Some(())
    }

    /// A loss, or another function of two tensors whose shapes broadcast.
    fn pair(&mut self, item: Item<'g>) -> Option<()> {
        let (x, m) = (item.tensor, item.magnitude);
        let other = self.partner(x)?;
        let (y, n) = (other.tensor, other.magnitude);
        // Losses do not broadcast by themselves.
        let joint = x.shape().broadcast(&y.shape())?;
        let (x, y) = (x.broadcast_to(joint.clone()), y.broadcast_to(joint));
        let some = |t: Tensor<'_>| t.shape().n_elements() > 0;
        let (tensor, magnitude) = match self.rng.below(7) {
            0 => (x.bce_with_logits(y.sigmoid()), 2.0 * m + 1.0),
            1 if some(x) && some(y) => (x.mse(y), (m + n) * (m + n)),
            2 => (x.huber(y, 1.5), 2.0 * (m + n)),
            3 => (x.hinge(y.sign()), m + 1.0),
            4 => (x.log_sigmoid().kl_divergence(y.sigmoid()), m + 2.0),
            5 => (x.prelu(y.sigmoid()), m),
            _ if x.rank() > 0 && y.shape() == x.shape() && some(x) => {
                let axis = x.rank() - 1;
                (x.softmax(axis).cross_entropy_of_probabilities(y.softmax(axis)), 2.0 * m + 8.0)
            }
            _ => return None,
        };
        self.push(tensor, magnitude);
        Some(())
    }

    pub(super) fn normalization(&mut self) -> Option<()> {
        let item = self.item(|i| i.tensor.is_float() && i.tensor.rank() > 0 && i.tensor.shape().n_elements() > 0)?;
        let item = self.squashed(item);
        let (x, m, shape) = (item.tensor, item.magnitude, item.tensor.shape());
        let mut axes: Vec<usize> = (0..shape.rank()).filter(|_| self.rng.chance(0.5)).collect();
        if axes.is_empty() {
            axes.push(self.rng.below(shape.rank()));
        }
        let n: usize = axes.iter().map(|&a| shape[a]).product();
        let spread = (n as f64).sqrt();
        let (tensor, magnitude) = match self.rng.below(6) {
            0 => (x.variance_over(&axes), m * m),
            1 => (x.normalize(&axes, 1e-2), spread),
            2 => (x.rms_norm(&axes, 1e-2), spread),
            3 => {
                let last = Shape::new(&shape[shape.rank() - 1..]);
                let gain = self.constant(x.dtype(), &last, 0.5, 1.5);
                let bias = self.constant(x.dtype(), &last, -1.0, 1.0);
                (x.layer_norm(gain, bias, 1e-2), 2.0 * (last[0] as f64).sqrt() + 1.0)
            }
            4 => {
                let kept = shape.without(&axes);
                let gain = self.constant(x.dtype(), &kept, 0.5, 1.5);
                let bias = self.constant(x.dtype(), &kept, -1.0, 1.0);
                (x.batch_norm(gain, bias, &axes, 1e-2), 2.0 * spread + 1.0)
            }
            _ => (x.log_sum_exp_over(axes[0]), m + 8.0),
        };
        self.push(tensor, magnitude);
        Some(())
    }

    /// Attention of a tensor's rows to each other, of one head or of those along its axis before the last two.
    fn attention(&mut self, item: Item<'g>) -> Option<()> {
        let item = self.squashed(item);
        let (shape, rank) = (item.tensor.shape(), item.tensor.rank());
        if rank < 2 {
            return None;
        }
        let (rows, scores) = (shape[rank - 2], shape.n_elements() / shape[rank - 1] * shape[rank - 2]);
        if scores > self.options.max_elements {
            return None;
        }
        let x = if rank == 2 { item.tensor.reshape([1, rows, shape[1]]) } else { item.tensor };
        let mut how = Attention::new().scale(self.rng.float(0.2..1.0));
        if self.rng.chance(0.4) {
            how = how.causal();
        }
        if self.rng.chance(0.4) {
            let queries = if self.rng.chance(0.5) { 1 } else { rows };
            let mask = self.constant(x.dtype(), &Shape::new(&[queries, rows]), -1.0, 2.0);
            how = how.mask(mask.gt(0.0));
        }
        if self.rng.chance(0.3) {
            how = how.bias(self.constant(x.dtype(), &Shape::new(&[rows, rows]), -1.0, 1.0));
        }
        let values = if self.rng.chance(0.5) { x.tanh() } else { x };
        self.push(x.attention(x, values, how), item.magnitude);
        Some(())
    }

    pub(super) fn class_loss(&mut self) -> Option<()> {
        let item = self.item(|i| i.tensor.is_float() && i.tensor.shape().last().is_some_and(|&n| n > 0))?;
        let (x, shape) = (item.tensor, item.tensor.shape());
        let axis = shape.rank() - 1;
        let labels = self.indices(shape[axis], &Shape::new(&shape[..axis]));
        let loss = match self.rng.below(4) {
            0 => x.log_softmax(axis).nll(labels),
            1 => x.soft_cross_entropy(self.constant(x.dtype(), &shape, 0.0, 1.0).softmax(axis)),
            _ => x.cross_entropy(labels),
        };
        self.push(loss, 2.0 * item.magnitude + 8.0);
        Some(())
    }
}
