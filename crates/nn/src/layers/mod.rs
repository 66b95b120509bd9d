//! Layers: what turns a tensor into another one with parameters of its own.
//!
//! A [`Layer`] is a value that says how it is made, for example `Dense::new(128).without_bias()`. It is put to use under a
//! name, by [`Layers::layer`] on a tensor or in a [`Sequential`], and owns `name.weight` and whatever else it needs, behind
//! the scopes that are open. So names depend on what the user wrote and on nothing else. A second layer of the same name is
//! an error; sharing is asked for with `g.shared_scope("name", ..)` or, for one tensor, `g.shared("name.weight")`. Layers assume nothing of what follows: activations are
//! methods of tensors, or steps of a `Sequential`.
//!
//! What a layer does in training and at test time follows from the builder's [`Mode`](cotangent_graph::Mode).
//!
//! No closure stands between the user's call and the nodes, because a closure would hide the user's line from errors.

mod attention;
mod conv;
mod dense;
mod functions;
mod noise;
mod norm;
mod places;
mod pool;
mod positions;
mod recurrent;
mod sequential;
mod whitening;

pub use attention::{Around, MultiHeadAttention, TransformerBlock};
pub use conv::{Border, Conv, ConvTransposed};
pub use dense::{Dense, Embedding, PRelu};
pub use functions::{function, model};
pub use noise::{Dropout, GaussianNoise};
pub use norm::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RmsNorm, Statistics};
pub use places::{Layout, Padding};
pub use pool::{AdaptiveMaxPool, AdaptiveMeanPool, GlobalMaxPool, GlobalMeanPool, MaxPool, MeanPool};
pub use positions::Positions;
pub use recurrent::{Given, Recurrent, Sequences};
pub use sequential::Sequential;
pub use whitening::Whitening;

use cotangent_graph::{Code, Diag, Tensor, Type};

/// A layer; see the [module](self).
pub trait Layer {
    /// The layer's output for `x`, with parameters, states and random streams named `name.…`.
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g>;
}

macro_rules! forward {
    ($($pointer:ty),*) => {
        $(impl<L: Layer + ?Sized> Layer for $pointer {
            #[track_caller]
            fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
                (**self).apply(name, x)
            }
        })*
    };
}
forward!(&L, Box<L>);

/// Layers as methods of a tensor.
pub trait Layers<'g>: Sized {
    /// The output of a layer of this name for this tensor.
    #[track_caller]
    fn layer(self, name: &str, layer: impl Layer) -> Tensor<'g>;

    /// Fully connected layer `x · W + b` of `[.., n_in]` into `[.., n_out]`: [`Dense::new`].
    #[track_caller]
    fn dense(self, name: &str, n_out: usize) -> Tensor<'g> {
        self.layer(name, Dense::new(n_out))
    }

    /// Rows of a table of standard normal f32 picked by these indices (i32 or i64), `[..]` into `[.., n_cols]`:
    /// [`Embedding::new`].
    #[track_caller]
    fn embedding(self, name: &str, n_rows: usize, n_cols: usize) -> Tensor<'g> {
        self.layer(name, Embedding::new(n_rows, n_cols))
    }

    /// All axes but the first merged into one: `[n, ..]` into `[n, rest]`. A scalar is an error.
    #[track_caller]
    fn flatten(self) -> Tensor<'g>;
}

impl<'g> Layers<'g> for Tensor<'g> {
    #[track_caller]
    fn layer(self, name: &str, layer: impl Layer) -> Tensor<'g> {
        let outer = self.builder().enter(name);
        let y = layer.apply(name, self);
        self.builder().leave(outer);
        y
    }

    #[track_caller]
    fn flatten(self) -> Tensor<'g> {
        let shape = self.shape();
        let Some((&n, rest)) = shape.split_first() else {
            let text = format!("`flatten` requires rank 1 or more, got {}", self.ty());
            return self.refuse(Diag::new(Code::ShapeMismatch, text).made("the operand", self));
        };
        self.reshape([n, rest.iter().product()])
    }
}

/// Records that layer `name` (a `kind`) cannot take `x` if it has no floats or fewer axes than `rank`. Whether it can; of a
/// poisoned tensor, whether it seems so: then the layer goes on, so that its parameters can be asked for by name.
#[track_caller]
fn takes(kind: &str, name: &str, x: Tensor<'_>, rank: usize, help: &str) -> bool {
    let (g, ty) = (x.builder(), x.ty());
    if !x.is_float() {
        let text = format!("`{kind}` requires floats (f32 or f64), got {ty} for layer `{}`", g.scoped(name));
        x.refuse(Diag::new(Code::DTypeMismatch, text).made("the operand", x).help("convert with `cast`"));
        return false;
    }
    if x.rank() < rank {
        let text = format!("`{kind}` requires rank {rank} or more, got {ty} for layer `{}`", g.scoped(name));
        x.refuse(Diag::new(Code::ShapeMismatch, text).made("the operand", x).help(help));
        return false;
    }
    true
}

/// What a layer that cannot take `x` makes of it: a poisoned tensor of the same type, but for the last extent if that is given.
fn refused<'g>(x: Tensor<'g>, last: Option<usize>) -> Tensor<'g> {
    let mut shape = x.shape().to_vec();
    if let (Some(end), Some(last)) = (shape.last_mut(), last) {
        *end = last;
    }
    x.builder().poisoned_as(Type::tensor(x.dtype(), shape))
}

/// Records that a layer's setting is out of range.
#[track_caller]
fn bad_setting<'g>(x: Tensor<'g>, kind: &str, name: &str, required: &str) -> Tensor<'g> {
    let text = format!("`{kind}` requires {required} for layer `{}`", x.builder().scoped(name));
    x.builder().error(Diag::new(Code::BadAttribute, text));
    refused(x, None)
}
