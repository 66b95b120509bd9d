//! Convolution and transposed convolution along the axes between the first, which counts examples, and the last, which holds the
//! channels.
//!
//! They are [products](cotangent_graph::ops::conv), with what follows them as their epilogue.

use cotangent_graph::ops::conv::Convolution;
use cotangent_graph::{Init, Shape, Tensor};

use super::places::{Layout, Moves, Padding, Sides, moves};
use super::{Layer, bad_setting, refused, takes};

/// What the padding of a convolution is, as PyTorch's `padding_mode` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Border {
    /// Zeros.
    #[default]
    Zeros,
    /// The elements next to the first and the last, mirrored: `c b | a b c | b a`. There must be more elements than padding.
    Reflect,
    /// The first and the last element again and again: `a a | a b c | c c`.
    Replicate,
}

impl Border {
    /// What is required of a tensor with these sides, if it is not so.
    fn check(self, x: Tensor<'_>, sides: &[(usize, usize)]) -> Result<(), String> {
        let shape = x.shape();
        let least = |&(low, high): &(usize, usize)| match self {
            Border::Zeros => 0,
            Border::Reflect => low.max(high).saturating_add(1),
            Border::Replicate => usize::from(low > 0 || high > 0),
        };
        match sides.iter().zip(&shape[1..]).position(|(sides, &extent)| extent < least(sides)) {
            None => Ok(()),
            Some(k) => Err(format!(
                "at least {} elements along spatial axis {k} for {:?} of padding by {self:?}, got {}",
                least(&sides[k]),
                sides[k],
                shape[k + 1]
            )),
        }
    }

    /// The tensor with what is put around it, and the zeros that are left to be put.
    #[track_caller]
    fn put<'g>(self, x: Tensor<'g>, sides: Sides) -> (Tensor<'g>, Sides) {
        if self == Border::Zeros || x.is_poisoned() {
            return (x, sides);
        }
        let mut y = x;
        for (k, &(low, high)) in sides.iter().enumerate() {
            if (low, high) == (0, 0) {
                continue;
            }
            let (axis, shape) = (k + 1, y.shape());
            let extent = shape[axis];
            let part = |start: usize, limit: usize| {
                let (mut from, mut to) = (vec![0; shape.rank()], shape.to_vec());
                (from[axis], to[axis]) = (start, limit);
                y.slice(&from, &to)
            };
            let repeated = |one: Tensor<'g>, n: usize| {
                let mut to = shape.to_vec();
                to[axis] = n;
                one.broadcast_to(to)
            };
            let (before, behind) = match self {
                Border::Reflect => (part(1, low + 1).flip([axis]), part(extent - 1 - high, extent - 1).flip([axis])),
                _ => (repeated(part(0, 1), low), repeated(part(extent - 1, extent), high)),
            };
            let parts: Vec<Tensor<'g>> = [(low, before), (1, y), (high, behind)]
                .into_iter()
                .filter(|(n, _)| *n > 0)
                .map(|(_, part)| part)
                .collect();
            y = y.builder().concat(&parts, axis);
        }
        let n = sides.len();
        (y, vec![(0, 0); n])
    }
}

/// What is required of groups, if it is not so.
fn check_groups(groups: usize, n_channels: usize, n_filters: usize) -> Result<(), String> {
    if n_channels == 0 || n_filters == 0 {
        return Err(format!("channels and filters, got {n_channels} and {n_filters}"));
    }
    if groups == 0 || !n_channels.is_multiple_of(groups) || !n_filters.is_multiple_of(groups) {
        return Err(format!("groups that divide channels and filters, got {groups} for {n_channels} and {n_filters}"));
    }
    Ok(())
}

/// Elements of a filter, times channels.
fn fan(size: &[usize], channels: usize) -> usize {
    size.iter().fold(channels, |n, &size| n.saturating_mul(size))
}

moves!(Conv);
moves!(ConvTransposed);

/// Convolution (cross-correlation, as everywhere in this field) of `[n, spatial.., channels]` with `n_filters` filters, into
/// `[n, spatial.., n_filters]`: `y[.., f] = Σ x[window, c] · w[window, c, f] + b[f]`.
///
/// Makes `name.weight` `[size.., channels, n_filters]` and `name.bias` `[n_filters]` of the operand's own element type. An axis of
/// `n` elements becomes one of `(n + padding - (size - 1)·dilation - 1) / stride + 1`, as PyTorch and Keras have it. Another rank than
/// `size` says, settings of another length or of 0, windows that do not fit, and what has no floats are errors.
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
    border: Border,
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
        Conv { n_filters, moves, border: Border::Zeros, groups: 1, init: Init::GlorotUniform, bias: Some(Init::ZEROS) }
    }

    /// In how many groups channels and filters are; both counts must be multiples. A filter sees the channels of its group only,
    /// `name.weight` is `[size.., channels / groups, n_filters]`. As many groups as channels are a *depthwise* convolution.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// What the padding is.
    pub fn border(mut self, border: Border) -> Self {
        self.border = border;
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
        self.moves.layout.back(self.channels_last(name, self.moves.layout.last(x)))
    }
}

impl Conv {
    #[track_caller]
    fn channels_last<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let g = x.builder();
        if !takes("conv", name, x, 3, "the first axis counts examples, the last holds the channels") {
            return refused(x, Some(self.n_filters));
        }
        let sides = match self.moves.sides(x).and_then(|sides| self.border.check(x, &sides).map(|()| sides)) {
            Ok(sides) => sides,
            Err(required) => return bad_setting(x, "conv", name, &required),
        };
        let n_channels = x.shape()[x.rank() - 1];
        if let Err(required) = check_groups(self.groups, n_channels, self.n_filters) {
            return bad_setting(x, "conv", name, &required);
        }
        let channels = n_channels / self.groups;
        let shape: Shape = self.moves.size.iter().copied().chain([channels, self.n_filters]).collect();
        let fans = [channels, self.n_filters].map(|channels| fan(&self.moves.size, channels));
        let start = self.init.law(&Shape::new(&fans));
        let weight = g.param(&format!("{name}.weight"), x.dtype(), shape, start);
        // No closure, so that a mistake has the caller's line.
        #[expect(clippy::manual_map, reason = "in a closure the caller's line would be lost")]
        let bias = match self.bias {
            Some(init) => Some(g.param(&format!("{name}.bias"), x.dtype(), [self.n_filters], init)),
            None => None,
        };
        let (padded, sides) = self.border.put(x, sides);
        let settings = Convolution::new().stride(&self.moves.stride).dilation(&self.moves.dilation);
        let out = padded.conv(weight, &settings.padding(&sides).groups(self.groups));
        if out.is_poisoned() {
            return refused(x, Some(self.n_filters));
        }
        match bias {
            Some(bias) => out + bias,
            None => out,
        }
    }
}

/// Transposed convolution of `[n, spatial.., channels]` into `[n, spatial.., n_filters]`, the adjoint of a convolution from the latter
/// to the former: every element of the operand puts a multiple of a filter at its place, `stride` apart, and what overlaps is
/// added.
///
/// Makes `name.weight` `[size.., n_filters / groups, channels]`, as Keras has it, and `name.bias` `[n_filters]`. An axis of `n` elements
/// becomes one of, with `reach = (size - 1)·dilation + 1`,
///
/// * `n·stride + max(reach - stride, 0)` with [`Padding::Valid`], and `n·stride` with [`Padding::Same`], as Keras says;
/// * `(n - 1)·stride + reach - low - high + output_padding` with [`Padding::Sides`], as PyTorch says.
///
/// What is an error for [`Conv`] is one here, and output padding with another padding than `Sides` or not below the stride, and
/// padding that leaves nothing.
///
/// ```
/// use cotangent_graph::{DType::F32, build};
/// use cotangent_nn::{ConvTransposed, Layers, Padding};
///
/// let graph = build(|g| {
///     let maps = g.input("maps", F32, [8, 7, 7, 32]);
///     let larger = maps.layer("up", ConvTransposed::new(16, &[3, 3]).stride(&[2, 2]).padding(Padding::Same));
///     assert_eq!(larger.shape()[..], [8, 14, 14, 16]);
///     g.output("larger", larger);
/// })?;
/// # Ok::<(), cotangent_graph::Diags>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ConvTransposed {
    n_filters: usize,
    moves: Moves,
    output_padding: Vec<usize>,
    groups: usize,
    init: Init,
    bias: Option<Init>,
}

impl ConvTransposed {
    /// A layer of filters of this size along the spatial axes, one element apart, without padding, with biases of zero and Glorot uniform
    /// weights. A fan is the elements of a filter times `n_filters / groups` (in) or the channels (out), as in PyTorch and Keras.
    pub fn new(n_filters: usize, size: &[usize]) -> Self {
        let moves = Moves::new(size, &vec![1; size.len()]);
        let output_padding = vec![0; size.len()];
        ConvTransposed {
            n_filters,
            moves,
            output_padding,
            groups: 1,
            init: Init::GlorotUniform,
            bias: Some(Init::ZEROS),
        }
    }

    /// Elements added behind each spatial axis of the result, fewer than the stride: of the extents that a strided convolution makes
    /// to one, another than the smallest. Each is its bias and what filters put there.
    pub fn output_padding(mut self, output_padding: &[usize]) -> Self {
        self.output_padding = output_padding.to_vec();
        self
    }

    /// In how many groups channels and filters are; both counts must be multiples.
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

    /// The extents of the result, and its sides as the operand of the convolution that this is the adjoint of; or what is required.
    fn extents(&self, x: Tensor<'_>) -> Result<(Vec<usize>, Sides), String> {
        let moves = &self.moves;
        // Checked as those of a convolution; what is the same for both are the lengths.
        let given = moves.sides(x)?;
        let (n, shape) = (moves.size.len(), x.shape());
        let of_sides = matches!(moves.padding, Padding::Sides(_));
        let allowed = |k: usize| self.output_padding[k] < if of_sides { moves.stride[k] } else { 1 };
        if self.output_padding.len() != n || !(0..n).all(allowed) {
            return Err(format!(
                "an output padding below the stride for each of {n} spatial axes, and only with `Padding::Sides`, got {:?} \
                 with strides {:?} and {:?}",
                self.output_padding, moves.stride, moves.padding
            ));
        }
        let (mut extents, mut sides) = (Vec::new(), Vec::new());
        for k in 0..n {
            let (places, stride) = (shape[k + 1], moves.stride[k]);
            let reach = (moves.size[k] - 1).saturating_mul(moves.dilation[k]).saturating_add(1);
            let covered = places.saturating_sub(1).saturating_mul(stride).saturating_add(reach);
            let (extent, low) = match moves.padding {
                Padding::Valid => (Some(covered.max(places.saturating_mul(stride))), 0),
                Padding::Same => (Some(places.saturating_mul(stride)), reach.saturating_sub(stride) / 2),
                Padding::Sides(_) => {
                    let (low, high) = given[k];
                    let grown = covered.saturating_add(self.output_padding[k]);
                    (grown.checked_sub(low.saturating_add(high)), low)
                }
            };
            let Some(extent) = extent.filter(|&extent| extent > 0 && places > 0) else {
                return Err(format!(
                    "elements along spatial axis {k}, of which padding leaves some, got {places} with {:?} of padding",
                    given[k]
                ));
            };
            extents.push(extent);
            sides.push((low, covered.saturating_sub(low.saturating_add(extent))));
        }
        Ok((extents, sides))
    }

    #[track_caller]
    fn channels_last<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        const KIND: &str = "conv_transposed";
        let g = x.builder();
        if !takes(KIND, name, x, 3, "the first axis counts examples, the last holds the channels") {
            return refused(x, Some(self.n_filters));
        }
        let (extents, sides) = match self.extents(x) {
            Ok(found) => found,
            Err(required) => return bad_setting(x, KIND, name, &required),
        };
        let n_channels = x.shape()[x.rank() - 1];
        if let Err(required) = check_groups(self.groups, n_channels, self.n_filters) {
            return bad_setting(x, KIND, name, &required);
        }
        let filters = self.n_filters / self.groups;
        let shape: Shape = self.moves.size.iter().copied().chain([filters, n_channels]).collect();
        let fans = [filters, n_channels].map(|channels| fan(&self.moves.size, channels));
        let weight = g.param(&format!("{name}.weight"), x.dtype(), shape, self.init.law(&Shape::new(&fans)));
        // No closure, so that a mistake has the caller's line.
        #[expect(clippy::manual_map, reason = "in a closure the caller's line would be lost")]
        let bias = match self.bias {
            Some(init) => Some(g.param(&format!("{name}.bias"), x.dtype(), [self.n_filters], init)),
            None => None,
        };
        let settings = Convolution::new().stride(&self.moves.stride).dilation(&self.moves.dilation);
        let out = x.conv_transposed(weight, &settings.padding(&sides).groups(self.groups), &extents);
        if out.is_poisoned() {
            return refused(x, Some(self.n_filters));
        }
        match bias {
            Some(bias) => out + bias,
            None => out,
        }
    }
}

impl Layer for ConvTransposed {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        self.moves.layout.back(self.channels_last(name, self.moves.layout.last(x)))
    }
}
