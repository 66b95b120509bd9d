//! Normalizations with trained gains and biases: batch, layer, instance, group and RMS norm. They differ in the axes that
//! statistics run over, and in what happens at test time.
//!
//! Gains start as 1 and biases as 0: `name.gain`, `name.bias`. Features (channels) are along the last axis unless `axis`
//! says otherwise. ε is added to the variance, 1e-5 by default.

use cotangent_graph::{Axis, Code, DType, Diag, Init, Mode, Shape, Tensor};

use super::{Layer, bad_setting, refused, takes};

/// ε of every normalization unless another one is asked for.
pub(super) const EPS: f64 = 1e-5;

/// How batch norm makes the averages that it uses at test time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Statistics {
    /// `average ← (1 - momentum) · average + momentum · batch`, from mean 0 and variance 1 on.
    Exponential {
        /// The weight of the newest batch.
        momentum: f64,
    },
    /// The mean over all batches trained on, weighted by their rows.
    Average,
}

/// Batch normalization (Ioffe and Szegedy 2015): `(x - μ)/√(σ² + ε) · gain + bias`, with μ and σ² over all axes but that of
/// the features. Put it before or after the activation.
///
/// In training μ and σ² are those of the batch. At test time they are the states `name.mean` and `name.variance`, which
/// training keeps up as [`Statistics`] says; variances are averaged in their unbiased form, σ²·n/(n − 1). The third way is
/// a pass over the training data after training: set `name.rows` to 0 in the store and step through the data with a program
/// built in [`Mode::Calibrate`]; the averages are then those of the pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    axis: Axis,
    eps: f64,
    statistics: Statistics,
}

impl BatchNorm {
    /// Features along the last axis, ε = 1e-5, an exponential average with momentum 0.1.
    pub fn new() -> Self {
        BatchNorm { axis: Axis::LAST, eps: EPS, statistics: Statistics::Exponential { momentum: 0.1 } }
    }

    /// Features along another axis; `-1` is the last.
    pub fn axis(mut self, axis: impl Into<Axis>) -> Self {
        self.axis = axis.into();
        self
    }

    /// Another ε.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// Another way to the averages.
    pub fn statistics(mut self, statistics: Statistics) -> Self {
        self.statistics = statistics;
        self
    }

    /// [`Layer::apply`] with a gain and a bias `[features]` that the caller made; only the states are named `name.…`.
    #[track_caller]
    pub fn apply_with<'g>(&self, name: &str, x: Tensor<'g>, gain: Tensor<'g>, bias: Tensor<'g>) -> Tensor<'g> {
        let g = x.builder();
        let Some(axis) = features("batch_norm", name, x, self.axis) else { return refused(x, None) };
        let (shape, dtype) = (x.shape(), x.dtype());
        let axes: Vec<usize> = (0..shape.rank()).filter(|&a| a != axis).collect();
        let kept = [shape[axis]];
        if let Statistics::Exponential { momentum } = self.statistics
            && !(0.0..=1.0).contains(&momentum)
        {
            return bad_setting(x, "batch_norm", name, &format!("a momentum in [0, 1], got {momentum}"));
        }
        if !self.eps.is_finite() || self.eps < 0.0 {
            return bad_setting(
                x,
                "batch_norm",
                name,
                &format!("an ε that is finite and not negative, got {}", self.eps),
            );
        }
        let n: usize = axes.iter().map(|&a| shape[a]).product();
        if n == 1 && g.is_training() {
            return one_alone(x, "batch_norm", name, "choose a batch size that leaves no single row");
        }
        let mean = g.state(&format!("{name}.mean"), dtype, kept, Init::ZEROS);
        let variance = g.state(&format!("{name}.variance"), dtype, kept, Init::ONES);
        if g.mode() == Mode::Evaluate {
            let along = |t: Tensor<'g>| t.repeat_along(&shape, &axes);
            let scale = (variance + self.eps).rsqrt() * gain;
            return (x - along(mean)) * along(scale) + along(bias);
        }
        let y = x.batch_norm(gain, bias, &axes, self.eps);
        if y.is_poisoned() {
            return y;
        }
        // Of a single row, which a pass may end with, there is no unbiased variance; it counts as 0.
        let unbiased = n as f64 / (n.max(2) - 1) as f64;
        let batch = [x.mean_over(&axes), x.variance_over(&axes) * unbiased];
        let weight = match self.statistics {
            Statistics::Exponential { momentum } if g.is_training() => g.scalar(momentum, dtype),
            _ => {
                let rows = g.state(&format!("{name}.rows"), DType::I64, [], Init::ZEROS);
                let seen = rows + n as i64;
                g.update(rows, seen);
                (n as f64 / seen.cast(DType::F64)).cast(dtype)
            }
        };
        for (average, batch) in [mean, variance].into_iter().zip(batch) {
            g.update(average, average + (batch - average) * weight);
        }
        y
    }
}

impl Default for BatchNorm {
    fn default() -> Self {
        BatchNorm::new()
    }
}

impl Layer for BatchNorm {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let Some(axis) = features("batch_norm", name, x, self.axis) else { return refused(x, None) };
        let (gain, bias) = gain_and_bias(name, x, x.shape()[axis]);
        self.apply_with(name, x, gain, bias)
    }
}

/// Norms whose only setting is ε.
macro_rules! with_eps_alone {
    ($($norm:ident),*) => {
        $(impl $norm {
            /// ε = 1e-5.
            pub fn new() -> Self {
                $norm { eps: EPS }
            }

            /// Another ε.
            pub fn eps(mut self, eps: f64) -> Self {
                self.eps = eps;
                self
            }
        }

        impl Default for $norm {
            fn default() -> Self {
                $norm::new()
            }
        })*
    };
}
with_eps_alone!(RmsNorm);

/// Layer normalization (Ba et al. 2016): statistics over the last axis, each row by itself, the same at test time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    eps: f64,
    bias: bool,
}

impl LayerNorm {
    /// ε = 1e-5, a gain and a bias.
    pub fn new() -> Self {
        LayerNorm { eps: EPS, bias: true }
    }

    /// Another ε.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// A gain alone.
    pub fn without_bias(mut self) -> Self {
        self.bias = false;
        self
    }
}

impl Default for LayerNorm {
    fn default() -> Self {
        LayerNorm::new()
    }
}

impl Layer for LayerNorm {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let Some(axis) = features("layer_norm", name, x, Axis::LAST) else { return refused(x, None) };
        if x.dim(axis) == 1 {
            return one_alone(x, "layer_norm", name, "the last axis holds the features");
        }
        if !self.bias {
            return x.normalize([axis], self.eps) * gain(name, x, x.dim(axis));
        }
        let (gain, bias) = gain_and_bias(name, x, x.shape()[axis]);
        x.layer_norm(gain, bias, self.eps)
    }
}

/// RMS normalization (Zhang and Sennrich 2019): `x/√(mean(x²) + ε) · gain` over the last axis, without centering or bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    eps: f64,
}

impl Layer for RmsNorm {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let Some(axis) = features("rms_norm", name, x, Axis::LAST) else { return refused(x, None) };
        x.rms_norm([axis], self.eps) * gain(name, x, x.dim(axis))
    }
}

/// Group normalization (Wu and He 2018): statistics over the features of a group and all places of an example, each example
/// (axis 0) by itself, the same at test time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    n_groups: usize,
    axis: Axis,
    eps: f64,
}

impl GroupNorm {
    /// So many groups, which must divide the number of features; ε = 1e-5.
    pub fn new(n_groups: usize) -> Self {
        GroupNorm { n_groups, axis: Axis::LAST, eps: EPS }
    }

    /// Features along another axis than the last.
    pub fn axis(mut self, axis: impl Into<Axis>) -> Self {
        self.axis = axis.into();
        self
    }

    /// Another ε.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }
}

impl Layer for GroupNorm {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        grouped("group_norm", name, x, self.axis, Some(self.n_groups), self.eps)
    }
}

/// Instance normalization (Ulyanov et al. 2016): group norm with a group for each feature. An example needs places to take
/// statistics over, so the rank is 3 or more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceNorm {
    axis: Axis,
    eps: f64,
}

impl InstanceNorm {
    /// Features along the last axis, ε = 1e-5.
    pub fn new() -> Self {
        InstanceNorm { axis: Axis::LAST, eps: EPS }
    }

    /// Features along another axis; `-1` is the last.
    pub fn axis(mut self, axis: impl Into<Axis>) -> Self {
        self.axis = axis.into();
        self
    }

    /// Another ε.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }
}

impl Default for InstanceNorm {
    fn default() -> Self {
        InstanceNorm::new()
    }
}

impl Layer for InstanceNorm {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        if !takes("instance_norm", name, x, 3, "statistics run over the axes between example and features") {
            return refused(x, None);
        }
        grouped("instance_norm", name, x, self.axis, None, self.eps)
    }
}

/// Normalization of groups of features; a group for each feature if no number is given.
#[track_caller]
fn grouped<'g>(kind: &str, name: &str, x: Tensor<'g>, axis: Axis, n_groups: Option<usize>, eps: f64) -> Tensor<'g> {
    let g = x.builder();
    let Some(axis) = features(kind, name, x, axis) else { return refused(x, None) };
    let shape = x.shape();
    let n_features = shape[axis];
    let n_groups = n_groups.unwrap_or(n_features);
    if axis == 0 || n_groups == 0 || !n_features.is_multiple_of(n_groups) {
        let text = format!(
            "`{kind}` requires features behind axis 0 in a number that {n_groups} divides, got axis {axis} of {shape} for \
             layer `{}`",
            g.scoped(name)
        );
        return x.refuse(Diag::new(Code::ShapeMismatch, text).made("the operand", x));
    }
    if shape[1..].iter().product::<usize>() == n_groups {
        return one_alone(x, kind, name, "take fewer groups, or examples with more than one place");
    }
    // The features' axis as two, groups and their members; everything but example and group is summed over.
    let (before, after) = (&shape[..axis], &shape[axis + 1..]);
    let members = [n_groups, n_features / n_groups];
    let split: Shape = before.iter().chain(&members).chain(after).copied().collect();
    let axes: Vec<usize> = (1..split.rank()).filter(|&a| a != axis).collect();
    let y = x.reshape(split).normalize(&axes, eps).reshape(shape.clone());
    let (gain, bias) = gain_and_bias(name, x, n_features);
    y * gain.broadcast_along(&shape, [axis]) + bias.broadcast_along(&shape, [axis])
}

/// The axis of the features, if `x` has it and there are floats along it.
#[track_caller]
fn features(kind: &str, name: &str, x: Tensor<'_>, axis: Axis) -> Option<usize> {
    if !takes(kind, name, x, 1, "features are along the last axis, or along the one given") {
        return None;
    }
    let found = axis.of(x.rank());
    if found.is_none() {
        let (g, shape) = (x.builder(), x.shape());
        let text = format!(
            "`{kind}` requires an axis of a tensor of shape {shape}, got {axis} for layer `{}`",
            g.scoped(name)
        );
        x.refuse(Diag::new(Code::BadAxis, text).made("the operand", x));
    }
    found
}

/// Records that a layer has one element to take statistics over: it would make 0 of whatever it is given.
#[track_caller]
fn one_alone<'g>(x: Tensor<'g>, kind: &str, name: &str, help: &str) -> Tensor<'g> {
    let text = format!(
        "`{kind}` requires statistics over 2 elements or more, got one of {} for layer `{}`",
        x.ty(),
        x.builder().scoped(name)
    );
    let diag = Diag::new(Code::ShapeMismatch, text).made("the operand", x);
    x.refuse(diag.help(format!("the variance of one is 0, and so is all that the layer makes: {help}")))
}

#[track_caller]
fn gain_and_bias<'g>(name: &str, x: Tensor<'g>, n: usize) -> (Tensor<'g>, Tensor<'g>) {
    (gain(name, x, n), x.builder().param(&format!("{name}.bias"), x.dtype(), [n], Init::ZEROS))
}

#[track_caller]
fn gain<'g>(name: &str, x: Tensor<'g>, n: usize) -> Tensor<'g> {
    x.builder().param(&format!("{name}.gain"), x.dtype(), [n], Init::ONES)
}
