//! Fully connected layers, embeddings, and the activation with a trained slope.

use cotangent_graph::{Code, DType, Diag, Init, Shape, Tensor, Type};

use super::{Layer, bad_setting, refused, takes};

/// Fully connected layer `x · W + b`: `[.., n_in]` into `[.., n_out]`.
///
/// Makes `name.weight` `[n_in, n_out]` and `name.bias` `[n_out]` of the operand's own element type. Leading axes are merged
/// into one for the product, so that it is one large matrix product. A scalar or a tensor that is not of floats is an error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dense {
    n_out: usize,
    init: Init,
    bias: Option<Init>,
    drop_connect: f64,
    weight_noise: f64,
}

impl Dense {
    /// A layer of `n_out` neurons with Glorot uniform weights, ±√(6/(n_in + n_out)) (Glorot and Bengio 2010), and biases
    /// of zero.
    pub fn new(n_out: usize) -> Self {
        Dense { n_out, init: Init::GlorotUniform, bias: Some(Init::ZEROS), drop_connect: 0.0, weight_noise: 0.0 }
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

    /// DropConnect (Wan et al. 2013): in training every weight is zeroed with probability `p`, in [0, 1), and scaled by
    /// `1/(1 - p)` otherwise; one mask for the whole batch, another one each step. The biases stay.
    pub fn drop_connect(mut self, p: f64) -> Self {
        self.drop_connect = p;
        self
    }

    /// In training, weights with normal noise of this standard deviation added; the parameters themselves stay.
    pub fn weight_noise(mut self, deviation: f64) -> Self {
        self.weight_noise = deviation;
        self
    }
}

impl Layer for Dense {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let g = x.builder();
        if !takes("dense", name, x, 1, "the last axis holds the features") {
            return refused(x, Some(self.n_out));
        }
        if !(0.0..1.0).contains(&self.drop_connect) || !self.weight_noise.is_finite() || self.weight_noise < 0.0 {
            let required = "DropConnect with a probability in [0, 1) and weight noise of a finite deviation from 0 on";
            return bad_setting(x, "dense", name, required);
        }
        let shape = x.shape();
        let (leading, n_in) = (&shape[..shape.rank() - 1], shape[shape.rank() - 1]);
        if n_in == 0 || self.n_out == 0 {
            let required = format!("features and neurons, got {n_in} and {}", self.n_out);
            return bad_setting(x, "dense", name, &required);
        }
        let mut weight = g.param(&format!("{name}.weight"), x.dtype(), [n_in, self.n_out], self.init);
        weight = weight.dropout(&format!("{name}.drop_connect"), self.drop_connect);
        if self.weight_noise > 0.0 && g.is_training() {
            let noise = g.normal(&format!("{name}.weight_noise"), x.dtype(), weight.shape());
            weight += noise * self.weight_noise;
        }
        let rows: usize = leading.iter().product();
        let mut out = x.reshape([rows, n_in]).matmul(weight);
        if let Some(init) = self.bias {
            out += g.param(&format!("{name}.bias"), x.dtype(), [self.n_out], init);
        }
        out.reshape(leading.iter().copied().chain([self.n_out]).collect::<Shape>())
    }
}

/// A table whose rows are picked by indices (i32 or i64): `[..]` into `[.., n_cols]`.
///
/// Makes `name.weight` `[n_rows, n_cols]`. An index outside `0..n_rows` is an error of the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedding {
    n_rows: usize,
    n_cols: usize,
    padding: Option<usize>,
    init: Init,
    dtype: DType,
}

impl Embedding {
    /// A table of `n_rows` rows of independent standard normal f32.
    pub fn new(n_rows: usize, n_cols: usize) -> Self {
        Embedding { n_rows, n_cols, padding: None, init: Init::normal(0.0, 1.0), dtype: DType::F32 }
    }

    /// An index that stands for nothing, with which sequences are filled up: its row counts as zeros whatever stands there, and gets
    /// no gradient.
    pub fn padding(mut self, index: usize) -> Self {
        self.padding = Some(index);
        self
    }

    /// Another start.
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// Another element type of the table; the indices do not tell it.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }
}

impl Layer for Embedding {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let g = x.builder();
        if !x.is_poisoned() && !matches!(x.ty().as_tensor(), Some((DType::I32 | DType::I64, _))) {
            let text = format!("`embedding` requires indices of i32 or i64, got {} for `{}`", x.ty(), g.scoped(name));
            let diag = Diag::new(Code::DTypeMismatch, text).made("the operand", x);
            g.error(diag.help("convert with `cast`"));
            return g.poisoned_as(Type::tensor(
                self.dtype,
                x.shape().iter().copied().chain([self.n_cols]).collect::<Shape>(),
            ));
        }
        if self.n_rows == 0 || self.n_cols == 0 {
            let required = format!("a table with rows and columns, got {} and {}", self.n_rows, self.n_cols);
            return bad_setting(x, "embedding", name, &required);
        }
        if let Some(index) = self.padding.filter(|&index| index >= self.n_rows) {
            let required = format!("a padding index below the {} rows of the table, got {index}", self.n_rows);
            return bad_setting(x, "embedding", name, &required);
        }
        let rows = g.param(&format!("{name}.weight"), self.dtype, [self.n_rows, self.n_cols], self.init).gather(x);
        let Some(index) = self.padding else { return rows };
        let axes: Vec<usize> = (0..x.rank()).collect();
        let is_padding = x.eq(x.constant_like(index as i64)).broadcast_along(&rows.shape(), axes);
        is_padding.select(rows.constant_like(0.0), rows)
    }
}

/// Leaky ReLU whose slope below 0 is trained (He et al. 2015). Makes `name.slope`, `[]` or `[features]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PRelu {
    start: f64,
    per_feature: bool,
}

impl PRelu {
    /// One slope for all elements, 0.25 at first.
    pub fn new() -> Self {
        PRelu { start: 0.25, per_feature: false }
    }

    /// Another slope at first.
    pub fn start(mut self, slope: f64) -> Self {
        self.start = slope;
        self
    }

    /// A slope for each place along the last axis.
    pub fn per_feature(mut self) -> Self {
        self.per_feature = true;
        self
    }
}

impl Default for PRelu {
    fn default() -> Self {
        PRelu::new()
    }
}

impl Layer for PRelu {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        let g = x.builder();
        let rank = usize::from(self.per_feature);
        if !takes("prelu", name, x, rank, "the last axis holds the features, each with its slope") {
            return refused(x, None);
        }
        let shape = if self.per_feature { Shape::new(&[x.dim(-1)]) } else { Shape::default() };
        x.prelu(g.param(&format!("{name}.slope"), x.dtype(), shape, Init::constant(self.start)))
    }
}
