//! Pooling along the axes between the first, which counts examples, and the last, which holds the channels.
//!
//! Pooling reduces [windows](cotangent_graph::ops::windows), where they are read. No layer here has parameters.

use cotangent_graph::ops::windows::Windows;
use cotangent_graph::{Tensor, Type};

use super::places::{Layout, Moves, Padding, moves};
use super::{Layer, bad_setting, refused, takes};

/// What a layer says that cannot take a tensor.
const AXES: &str = "the first axis counts examples, the last holds the channels";

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
                    if !takes($kind, name, x, 3, AXES) {
                        return refused(x, None);
                    }
                    let x = self.moves.layout.last(x);
                    let y = match self.moves.windows(x) {
                        Ok(windows) => x.$method(&windows),
                        Err(required) => bad_setting(x, $kind, name, &required),
                    };
                    self.moves.layout.back(y)
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

/// The most results of adaptive pooling along an axis: each may be an op of its own.
const MOST_RESULTS: usize = 1 << 16;

/// A tensor whose spatial axes have elements, as the layers below take it with channels last; or what comes of another.
#[track_caller]
fn pooled<'g>(kind: &str, name: &str, x: Tensor<'g>, layout: Layout) -> Result<Tensor<'g>, Tensor<'g>> {
    if !takes(kind, name, x, 3, AXES) {
        return Err(refused(x, None));
    }
    let last = layout.last(x);
    let shape = last.shape();
    if shape[1..shape.rank() - 1].contains(&0) {
        return Err(bad_setting(x, kind, name, &format!("elements along every spatial axis, got {}", x.ty())));
    }
    Ok(last)
}

macro_rules! global {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $method:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            pub struct $name {
                layout: Layout,
                keeps_axes: bool,
            }

            impl $name {
                /// All elements along the spatial axes; the result is `[n, channels]`.
                pub fn new() -> Self {
                    $name::default()
                }

                /// The spatial axes stay, with extent 1.
                pub fn keep_axes(mut self) -> Self {
                    self.keeps_axes = true;
                    self
                }

                /// Where the operand, and a result that keeps its axes, have the channels.
                pub fn layout(mut self, layout: Layout) -> Self {
                    self.layout = layout;
                    self
                }
            }

            impl Layer for $name {
                #[track_caller]
                fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
                    let x = match pooled($kind, name, x, self.layout) {
                        Ok(x) => x,
                        Err(refused) => return refused,
                    };
                    let (shape, rank) = (x.shape(), x.rank());
                    let y = x.$method(1..rank - 1);
                    if !self.keeps_axes {
                        return y;
                    }
                    let kept = [shape[0]].into_iter().chain(vec![1; rank - 2]).chain([shape[rank - 1]]);
                    self.layout.back(y.reshape(kept.collect::<Vec<usize>>()))
                }
            }
        )*
    };
}

global! {
    /// The largest element of each channel over all spatial axes (Keras's `GlobalMaxPooling`). Of several largest the first gets the
    /// gradient.
    GlobalMaxPool, "global_max_pool", max_over;
    /// The mean of each channel over all spatial axes (Keras's `GlobalAveragePooling`).
    GlobalMeanPool, "global_mean_pool", mean_over;
}

macro_rules! adaptive {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $pool:ident, $method:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $name {
                size: Vec<usize>,
                layout: Layout,
            }

            impl $name {
                /// As many results along each spatial axis.
                pub fn new(size: &[usize]) -> Self {
                    $name { size: size.to_vec(), layout: Layout::default() }
                }

                /// Where operand and result have the channels.
                pub fn layout(mut self, layout: Layout) -> Self {
                    self.layout = layout;
                    self
                }
            }

            impl Layer for $name {
                #[track_caller]
                fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
                    let x = match pooled($kind, name, x, self.layout) {
                        Ok(x) => x,
                        Err(refused) => return refused,
                    };
                    let (shape, n) = (x.shape(), self.size.len());
                    if shape.rank() != n + 2 || !self.size.iter().all(|size| (1..=MOST_RESULTS).contains(size)) {
                        let required = format!(
                            "results along each of {} spatial axes, 1 to {MOST_RESULTS}, got {:?}",
                            shape.rank() - 2,
                            self.size
                        );
                        return self.layout.back(bad_setting(x, $kind, name, &required));
                    }
                    if x.is_poisoned() {
                        let ty = Type::tensor(x.dtype(), [&shape[..1], &self.size, &shape[n + 1..]].concat());
                        return self.layout.back(x.builder().poisoned_as(ty));
                    }
                    if (0..n).all(|k| shape[k + 1].is_multiple_of(self.size[k])) {
                        let sizes: Vec<usize> = (0..n).map(|k| shape[k + 1] / self.size[k]).collect();
                        return self.layout.back(x.$pool(&Windows::new(1..n + 1, &sizes).stride(&sizes)));
                    }
                    let mut y = x;
                    for (k, &size) in self.size.iter().enumerate() {
                        let (axis, shape) = (k + 1, y.shape());
                        let extent = shape[axis];
                        let mut parts = Vec::with_capacity(size);
                        for i in 0..size {
                            let (mut start, mut limit) = (vec![0; shape.rank()], shape.to_vec());
                            (start[axis], limit[axis]) = (i * extent / size, ((i + 1) * extent).div_ceil(size));
                            let mut one = shape.to_vec();
                            one[axis] = 1;
                            parts.push(y.slice(&start, &limit).$method(axis).reshape(one));
                        }
                        y = y.builder().concat(&parts, axis);
                    }
                    self.layout.back(y)
                }
            }
        )*
    };
}

adaptive! {
    /// The largest element of windows that are as large as it takes for so many results (PyTorch's `AdaptiveMaxPool`): of `n` elements
    /// and `m` results, number `i` is of elements `⌊i·n/m⌋` to `⌈(i + 1)·n/m⌉`, the latter not among them.
    AdaptiveMaxPool, "adaptive_max_pool", max_pool, max_over;
    /// The mean of windows that are as large as it takes for so many results (PyTorch's `AdaptiveAvgPool`): of `n` elements and `m`
    /// results, number `i` is of elements `⌊i·n/m⌋` to `⌈(i + 1)·n/m⌉`, the latter not among them. Where windows are not of one size, axis
    /// by axis: a mean of means.
    AdaptiveMeanPool, "adaptive_mean_pool", mean_pool, mean_over;
}
