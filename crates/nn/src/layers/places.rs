//! Where windows are along the spatial axes, the axes between examples and channels: what convolutions and pooling have in common.

use cotangent_graph::Tensor;
use cotangent_graph::ops::windows::Windows;

/// Where the channels are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// `[n, spatial.., channels]`, as in Keras: neighbouring elements in memory are the channels of one place.
    #[default]
    ChannelsLast,
    /// `[n, channels, spatial..]`, as in PyTorch. The layer turns its operand and its result round. Memory is turned where the
    /// data comes in and goes out only; but what follows a convolution element by element is a kernel of its own, not its
    /// epilogue.
    ChannelsFirst,
}

impl Layout {
    /// The tensor with channels last.
    #[track_caller]
    pub(super) fn last(self, x: Tensor<'_>) -> Tensor<'_> {
        let rank = x.rank();
        if self == Layout::ChannelsLast || rank < 3 {
            return x;
        }
        x.transpose([0].into_iter().chain(2..rank).chain([1]).collect::<Vec<usize>>())
    }

    /// What is made of it with channels last, as it is wanted.
    #[track_caller]
    pub(super) fn back(self, y: Tensor<'_>) -> Tensor<'_> {
        let rank = y.rank();
        if self == Layout::ChannelsLast || rank < 3 {
            return y;
        }
        y.transpose([0, rank - 1].into_iter().chain(1..rank - 1).collect::<Vec<usize>>())
    }
}

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

/// Elements before and behind, for each spatial axis.
pub(super) type Sides = Vec<(usize, usize)>;

/// The windows that a layer moves over the spatial axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moves {
    pub(super) size: Vec<usize>,
    pub(super) stride: Vec<usize>,
    pub(super) dilation: Vec<usize>,
    pub(super) padding: Padding,
    pub(super) layout: Layout,
}

impl Moves {
    pub(super) fn new(size: &[usize], stride: &[usize]) -> Self {
        let padding = Padding::Valid;
        Moves {
            size: size.to_vec(),
            stride: stride.to_vec(),
            dilation: vec![1; size.len()],
            padding,
            layout: Layout::default(),
        }
    }

    /// What is put before and behind each spatial axis of a tensor, or what is required instead.
    pub(super) fn sides(&self, x: Tensor<'_>) -> Result<Sides, String> {
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
    pub(super) fn windows(&self, x: Tensor<'_>) -> Result<Windows, String> {
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

            /// Where operand and result have the channels.
            pub fn layout(mut self, layout: Layout) -> Self {
                self.moves.layout = layout;
                self
            }
        }
    };
}
pub(super) use moves;
