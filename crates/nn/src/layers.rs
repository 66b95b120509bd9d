//! Layers with parameters: methods of [`Tensor`] that make the parameters and the ops on them.
//!
//! A layer called `name` owns `name.weight` and, where it has one, `name.bias`, behind the scopes that are open. A second
//! layer of the same name is an error; sharing is asked for with `g.shared("name.weight")`. Layers assume nothing of what
//! follows: activations are methods of their own.
//!
//! No closure stands between the user's call and the nodes, because a closure would hide the user's line from errors.

use cotangent_graph::{Code, DType, Diag, Init, Shape, Tensor};

/// How a dense layer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenseOptions {
    /// How the weight `[n_in, n_out]` starts.
    pub init: Init,
    /// How the bias `[n_out]` starts.
    pub bias_init: Init,
    /// Whether there is a bias.
    pub bias: bool,
}

impl Default for DenseOptions {
    /// Glorot uniform weights, ±√(6/(n_in + n_out)) (Glorot and Bengio 2010), and a bias of zeros.
    fn default() -> Self {
        DenseOptions { init: Init::GlorotUniform, bias_init: Init::ZEROS, bias: true }
    }
}

/// How an embedding is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingOptions {
    /// How the table `[n_rows, n_cols]` starts.
    pub init: Init,
    /// The element type of the table; the indices do not tell it.
    pub dtype: DType,
}

impl Default for EmbeddingOptions {
    /// Rows of independent standard normal f32.
    fn default() -> Self {
        EmbeddingOptions { init: Init::normal(0.0, 1.0), dtype: DType::F32 }
    }
}

/// Layers as methods of a tensor.
pub trait Layers<'g>: Sized {
    /// Fully connected layer `x · W + b` of `[.., n_in]` into `[.., n_out]`, Glorot uniform weights, zero bias.
    ///
    /// Makes `name.weight` `[n_in, n_out]` and `name.bias` `[n_out]` of the tensor's own element type. Leading axes are
    /// merged into one for the product, so that it is one large matrix product. A scalar or a tensor that is not of floats
    /// is an error.
    #[track_caller]
    fn dense(self, name: &str, n_out: usize) -> Tensor<'g> {
        self.dense_with(name, n_out, DenseOptions::default())
    }

    /// [`Layers::dense`] with other initialisers, or without the bias.
    #[track_caller]
    fn dense_with(self, name: &str, n_out: usize, options: DenseOptions) -> Tensor<'g>;

    /// Rows of a table of standard normal f32 picked by these indices (i32 or i64): `[..]` into `[.., n_cols]`.
    ///
    /// Makes `name.weight` `[n_rows, n_cols]`. An index outside `0..n_rows` is an error of the step.
    #[track_caller]
    fn embedding(self, name: &str, n_rows: usize, n_cols: usize) -> Tensor<'g> {
        self.embedding_with(name, n_rows, n_cols, EmbeddingOptions::default())
    }

    /// [`Layers::embedding`] with another initialiser or element type.
    #[track_caller]
    fn embedding_with(self, name: &str, n_rows: usize, n_cols: usize, options: EmbeddingOptions) -> Tensor<'g>;

    /// All axes but the first merged into one: `[n, ..]` into `[n, rest]`. A scalar is an error.
    #[track_caller]
    fn flatten(self) -> Tensor<'g>;
}

impl<'g> Layers<'g> for Tensor<'g> {
    #[track_caller]
    fn dense_with(self, name: &str, n_out: usize, options: DenseOptions) -> Tensor<'g> {
        if self.is_poisoned() {
            return self;
        }
        let g = self.builder();
        let (ty, shape) = (self.ty(), self.shape());
        if !self.is_float() {
            let text = format!("`dense` requires floats (f32 or f64), got {ty} for layer `{}`", g.scoped(name));
            return g.poison(Diag::new(Code::DTypeMismatch, text).help("convert with `cast`"));
        }
        let Some((&n_in, leading)) = shape.split_last() else {
            let text = format!("`dense` requires rank 1 or more, got {ty} for layer `{}`", g.scoped(name));
            return g.poison(Diag::new(Code::ShapeMismatch, text).help("the last axis holds the features"));
        };
        let weight = g.param(&format!("{name}.weight"), self.dtype(), [n_in, n_out], options.init);
        let rows: usize = leading.iter().product();
        let mut out = self.reshape([rows, n_in]).matmul(weight);
        if options.bias {
            out = out + g.param(&format!("{name}.bias"), self.dtype(), [n_out], options.bias_init);
        }
        out.reshape(leading.iter().copied().chain([n_out]).collect::<Shape>())
    }

    #[track_caller]
    fn embedding_with(self, name: &str, n_rows: usize, n_cols: usize, options: EmbeddingOptions) -> Tensor<'g> {
        if self.is_poisoned() {
            return self;
        }
        let g = self.builder();
        if !matches!(self.ty().as_tensor(), Some((DType::I32 | DType::I64, _))) {
            let text =
                format!("`embedding` requires indices of i32 or i64, got {} for `{}`", self.ty(), g.scoped(name));
            return g.poison(Diag::new(Code::DTypeMismatch, text).help("convert with `cast`"));
        }
        g.param(&format!("{name}.weight"), options.dtype, [n_rows, n_cols], options.init).gather(self)
    }

    #[track_caller]
    fn flatten(self) -> Tensor<'g> {
        if self.is_poisoned() {
            return self;
        }
        let shape = self.shape();
        let Some((&n, rest)) = shape.split_first() else {
            let text = format!("`flatten` requires rank 1 or more, got {}", self.ty());
            return self.builder().poison(Diag::new(Code::ShapeMismatch, text));
        };
        self.reshape([n, rest.iter().product()])
    }
}
