//! Convolution and pooling along the axes between the first, which counts examples, and the last, which holds the channels.
//!
//! Convolutions are [products](cotangent_graph::ops::conv), with what follows them as their epilogue; pooling reduces
//! [windows](cotangent_graph::ops::windows), where they are read.

use cotangent_graph::ops::conv::Convolution;
use cotangent_graph::ops::windows::Windows;
use cotangent_graph::{Init, Shape, Tensor};

use super::{Layer, bad_setting, refused, takes};

/// What is put around the spatial axes before windows are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Nothing: windows that fit.
    #[default]
    Valid,
    /// As much that there is a window for every `stride` elements, `⌈n / stride⌉`, half of it before the first element; of an odd
    /// number the larger half comes last (the rule of Keras and TensorFlow).
    Same,
    /// So many elements before and behind, for each spatial axis.
    Sides(Vec<(usize, usize)>),
}

/// The windows that a layer moves over the spatial axes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Moves {
    size: Vec<usize>,
    stride: Vec<usize>,
    dilation: Vec<usize>,
    padding: Padding,
}

impl Moves {
    fn new(size: &[usize], stride: &[usize]) -> Self {
        let padding = Padding::Valid;
        Moves { size: size.to_vec(), stride: stride.to_vec(), dilation: vec![1; size.len()], padding }
    }

    /// What is put before and behind each spatial axis of a tensor, or what is required instead.
    fn sides(&self, x: Tensor<'_>) -> Result<Vec<(usize, usize)>, String> {
        let (n, shape) = (self.size.len(), x.shape());
        let counts = [self.stride.len(), self.dilation.len()];
        let positive = [&self.size, &self.stride, &self.dilation].iter().all(|list| !list.contains(&0));
        if n == 0 || counts != [n, n] || !positive {
            return Err(format!(
                "a size, a stride and a dilation of at least 1 for each spatial axis, got {:?}, {:?} and {:?}",
                self.size, self.stride, self.dilation
            ));
        }
        if shape.rank() != n + 2 {
            return Err(format!("examples, {n} spatial axes and channels, got {}", x.ty()));
        }
        let sides = match &self.padding {
            Padding::Valid => vec![(0, 0); n],
            Padding::Sides(sides) => sides.clone(),
            Padding::Same => (0..n)
                .map(|k| {
                    let (extent, stride) = (shape[k + 1], self.stride[k]);
                    let reach = (self.size[k] - 1).saturating_mul(self.dilation[k]).saturating_add(1);
                    let covered = (extent.div_ceil(stride).saturating_sub(1) * stride).saturating_add(reach);
                    let missing = covered.saturating_sub(extent);
                    (missing / 2, missing - missing / 2)
                })
                .collect(),
        };
        if sides.len() != n {
            return Err(format!("a padding for each of {n} spatial axes, got {}", sides.len()));
        }
        Ok(sides)
    }

    /// The windows over a tensor, or what is required instead. Of a tensor of which only the rank is known there are some.
    fn windows(&self, x: Tensor<'_>) -> Result<Windows, String> {
        let (n, sides) = (self.size.len(), self.sides(x)?);
        let windows = Windows::new(1..n + 1, &self.size).stride(&self.stride).dilation(&self.dilation).padding(&sides);
        Ok(if self.padding == Padding::Same { windows.inside_only() } else { windows })
    }
}

/// The settings of the windows of a layer.
macro_rules! moves {
    ($layer:ident) => {
        impl $layer {
            /// From one window to the next, at least 1, for each spatial axis.
            pub fn stride(mut self, stride: &[usize]) -> Self {
                self.moves.stride = stride.to_vec();
                self
            }

            /// From one element of a window to the next, at least 1, for each spatial axis.
            pub fn dilation(mut self, dilation: &[usize]) -> Self {
                self.moves.dilation = dilation.to_vec();
                self
            }

            /// What is put around the spatial axes.
            pub fn padding(mut self, padding: Padding) -> Self {
                self.moves.padding = padding;
                self
            }
        }
    };
}
moves!(Conv);

/// Convolution (cross-correlation, as everywhere in this field) of `[n, spatial.., channels]` with `n_filters` filters, into
/// `[n, spatial.., n_filters]`: `y[.., f] = Σ x[window, c] · w[window, c, f] + b[f]`.
///
/// Makes `name.weight` `[size.., channels, n_filters]` and `name.bias` `[n_filters]` of the operand's own element type. An axis of
/// `n` elements becomes one of `(n + padding - (size - 1)·dilation - 1) / stride + 1`. Another rank than `size` says, settings of
/// another length or of 0, windows that do not fit, and what has no floats are errors.
///
/// ```
/// use cotangent_graph::{DType::F32, build};
/// use cotangent_nn::{Conv, Layers, MaxPool, Padding};
///
/// let graph = build(|g| {
///     let pictures = g.input("pictures", F32, [8, 28, 28, 1]);
///     let maps = pictures.layer("conv", Conv::new(16, &[3, 3]).padding(Padding::Same)).relu();
///     let halved = maps.layer("pool", MaxPool::new(&[2, 2]));
///     assert_eq!(halved.shape()[..], [8, 14, 14, 16]);
///     g.output("halved", halved);
/// })?;
/// # Ok::<(), cotangent_graph::Diags>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    n_filters: usize,
    moves: Moves,
    groups: usize,
    init: Init,
    bias: Option<Init>,
}

impl Conv {
    /// A layer of filters of this size along the spatial axes, moved by one element, without padding (which is of zeros), with
    /// biases of zero and Glorot uniform weights, ±√(6/(k·(channels + filters))) for filters of `k` elements: every place of a window
    /// counts as a neuron of its own, as in Keras and PyTorch.
    pub fn new(n_filters: usize, size: &[usize]) -> Self {
        let moves = Moves::new(size, &vec![1; size.len()]);
        Conv { n_filters, moves, groups: 1, init: Init::GlorotUniform, bias: Some(Init::ZEROS) }
    }

    /// In how many groups channels and filters are; both counts must be multiples. A filter sees the channels of its group only,
    /// `name.weight` is `[size.., channels / groups, n_filters]`. As many groups as channels are a *depthwise* convolution.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// Another start of the weights.
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// Another start of the biases.
    pub fn bias_init(mut self, init: Init) -> Self {
        self.bias = Some(init);
        self
    }

    /// No biases.
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }
}

impl Layer for Conv {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let g = x.builder();
        if !takes("conv", name, x, 3, "the first axis counts examples, the last holds the channels") {
            return refused(x, Some(self.n_filters));
        }
        let sides = match self.moves.sides(x) {
            Ok(sides) => sides,
            Err(required) => return bad_setting(x, "conv", name, &required),
        };
        let n_channels = x.shape()[x.rank() - 1];
        if n_channels == 0 || self.n_filters == 0 {
            let required = format!("channels and filters, got {n_channels} and {}", self.n_filters);
            return bad_setting(x, "conv", name, &required);
        }
        if self.groups == 0 || !n_channels.is_multiple_of(self.groups) || !self.n_filters.is_multiple_of(self.groups) {
            let required = format!(
                "groups that divide channels and filters, got {} for {n_channels} and {}",
                self.groups, self.n_filters
            );
            return bad_setting(x, "conv", name, &required);
        }
        let channels = n_channels / self.groups;
        let shape: Shape = self.moves.size.iter().copied().chain([channels, self.n_filters]).collect();
        let fan = |channels: usize| self.moves.size.iter().fold(channels, |n, &size| n.saturating_mul(size));
        let start = self.init.law(&Shape::new(&[fan(channels), fan(self.n_filters)]));
        let weight = g.param(&format!("{name}.weight"), x.dtype(), shape, start);
        let bias = self.bias.map(|init| g.param(&format!("{name}.bias"), x.dtype(), [self.n_filters], init));
        let settings = Convolution::new().stride(&self.moves.stride).dilation(&self.moves.dilation);
        let out = x.conv(weight, &settings.padding(&sides).groups(self.groups));
        if out.is_poisoned() {
            return refused(x, Some(self.n_filters));
        }
        match bias {
            Some(bias) => out + bias,
            None => out,
        }
    }
}

macro_rules! pooling {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $method:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $name {
                moves: Moves,
            }

            impl $name {
                /// Windows of this size along the spatial axes, side by side: the stride is the size.
                pub fn new(size: &[usize]) -> Self {
                    $name { moves: Moves::new(size, size) }
                }
            }
            moves!($name);

            impl Layer for $name {
                #[track_caller]
                fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
                    if !takes($kind, name, x, 3, "the first axis counts examples, the last holds the channels") {
                        return refused(x, None);
                    }
                    match self.moves.windows(x) {
                        Ok(windows) => x.$method(&windows),
                        Err(required) => bad_setting(x, $kind, name, &required),
                    }
                }
            }
        )*
    };
}

pooling! {
    /// The largest element of every window of `[n, spatial.., channels]`, for each channel; no parameters. Padding is below every
    /// number. Of several largest the first gets the gradient.
    MaxPool, "max_pool", max_pool;
    /// The mean of every window of `[n, spatial.., channels]`, for each channel; no parameters. With [`Padding::Same`] the padding
    /// does not count, as in Keras; with [`Padding::Sides`] it does, as in PyTorch.
    MeanPool, "mean_pool", mean_pool;
}
