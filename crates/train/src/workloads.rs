//! Named workloads: networks, an elementwise expression, work on whole rows, a matrix product and a table of embeddings, in one
//! table.
//!
//! Why it exists: a measurement means something only if others run the very same arithmetic. [`SPECS`] says what each
//! workload is; graph, starting values and batches follow from its row and nothing else.
//!
//! Assumes: four batches in memory are taken in rotation (one for what has no batches), as in the peers' protocol.
//! Promises: parameters are named `W0`, `b0`, … (gains and biases of batch norm `g0`, `h0`, …) and inputs `x`, `y`; arrays
//! handed in carry those names, a batch's number behind the inputs' (`x0`, `y0`, … `x3`, `y3`). Without arrays everything
//! random comes from Philox under a seed.

use std::collections::BTreeMap;

use cotangent_data::npz::NpzArray;
use cotangent_exec::StoreMut;
use cotangent_graph::DType::{F32, I64};
use cotangent_graph::diag::nearest;
use cotangent_graph::{DType, Graph, GraphBuilder, Init, Shape, Tensor, TensorData, Type, build};
use cotangent_nn::{Adam, BatchNorm, Group, Minimize, Momentum, Optimizer as _, Recipe, Sgd};
use cotangent_scalar::philox;

use crate::TrainError;

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// What it is called.
    pub name: &'static str,
    /// What it is, in a line.
    pub doc: &'static str,
    /// The arithmetic.
    pub kind: Kind,
    /// How many batches are in memory; step i takes batch i modulo this.
    pub n_batches: usize,
}

/// The arithmetic of a workload.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One training step of a network of dense layers.
    Mlp(Mlp),
    /// `f = gelu_tanh(tanh(x·w + b)·σ(v) + ½x²)·exp(−x²) − v`, or the gradients of its sum.
    Elementwise,
    /// Work on whole rows of a matrix.
    Rows(Rows),
    /// One matrix product.
    Matmul,
    /// One training step of a table of m rows of n numbers, `k` of which are picked and drawn to `y`; whether only those rows are
    /// updated.
    Embedding {
        /// Rows that are not picked stay as they are.
        lazy: bool,
    },
}

/// What is done with the rows of a matrix `z` of m × n elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The mean cross-entropy of rows of logits with class indices `y`, and its gradient.
    SoftmaxXent,
    /// Layer normalization with gain `g` and bias `b`, and the gradients of all three given the result's, `dy`.
    LayerNorm,
    /// log Σ exp of each row.
    LogSumExp,
}

/// A network of dense layers and its training.
#[derive(Clone, Copy, Debug)]
pub struct Mlp {
    /// Rows of a batch.
    pub batch: usize,
    /// Features, hidden widths, outputs.
    pub dims: &'static [usize],
    /// Between layers.
    pub activation: Activation,
    /// Whether hidden layers are normalized over the batch before their activation.
    pub batch_norm: bool,
    /// What is minimized.
    pub loss: Loss,
    /// How.
    pub optimizer: Optimizer,
    /// Share of the input that is dropped.
    pub drop_input: f64,
    /// Share of each hidden layer that is dropped.
    pub drop_hidden: f64,
}

/// The function between two layers; it decides the variance of the weights that feed it.
#[derive(Clone, Copy, Debug)]
pub enum Activation {
    /// Hyperbolic tangent; weights of variance 1/n.
    Tanh,
    /// max(x, 0); weights of variance 2/n (He et al. 2015).
    Relu,
    /// x·Φ(x), exact; weights of variance 2/n.
    Gelu,
}

/// The loss, and with it the labels: the mean over the batch.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// Softmax and cross-entropy with class indices, i64.
    CrossEntropy,
    /// Sigmoid and binary cross-entropy with the exclusive or of two bits, f32; the features are those bits.
    XorTable,
}

/// The training algorithm and its learning rate.
#[derive(Clone, Copy, Debug)]
pub enum Optimizer {
    /// Gradient descent.
    Sgd(f64),
    /// Momentum 0.9.
    Momentum(f64),
    /// Adam with its usual constants.
    Adam(f64),
}

const MLP: Mlp = Mlp {
    batch: 0,
    dims: &[],
    activation: Activation::Relu,
    batch_norm: false,
    loss: Loss::CrossEntropy,
    optimizer: Optimizer::Sgd(0.0),
    drop_input: 0.0,
    drop_hidden: 0.0,
};

/// Every workload.
pub static SPECS: [Spec; 12] = [
    Spec {
        name: "xor",
        doc: "2-8-1, tanh, binary cross-entropy, batch 4, gradient descent 0.5",
        kind: Kind::Mlp(Mlp {
            batch: 4,
            dims: &[2, 8, 1],
            activation: Activation::Tanh,
            loss: Loss::XorTable,
            optimizer: Optimizer::Sgd(0.5),
            ..MLP
        }),
        n_batches: 4,
    },
    Spec {
        name: "mlp-s",
        doc: "784-128-10, ReLU, cross-entropy, batch 32, momentum 0.01",
        kind: Kind::Mlp(Mlp { batch: 32, dims: &[784, 128, 10], optimizer: Optimizer::Momentum(0.01), ..MLP }),
        n_batches: 4,
    },
    Spec {
        name: "mlp-m",
        doc: "784-1024-1024-10, ReLU, cross-entropy, batch 128, Adam 0.001",
        kind: Kind::Mlp(Mlp { batch: 128, dims: &[784, 1024, 1024, 10], optimizer: Optimizer::Adam(1e-3), ..MLP }),
        n_batches: 4,
    },
    Spec {
        name: "mlp-l",
        doc: "784-2048-2048-2048-10, ReLU, dropout 0.2 and 0.5, cross-entropy, batch 256, momentum 0.01",
        kind: Kind::Mlp(Mlp {
            batch: 256,
            dims: &[784, 2048, 2048, 2048, 10],
            optimizer: Optimizer::Momentum(0.01),
            drop_input: 0.2,
            drop_hidden: 0.5,
            ..MLP
        }),
        n_batches: 4,
    },
    Spec {
        name: "bn-mlp",
        doc: "784-512-512-512-512-10, batch norm, exact GELU, cross-entropy, batch 128, Adam 0.001",
        kind: Kind::Mlp(Mlp {
            batch: 128,
            dims: &[784, 512, 512, 512, 512, 10],
            activation: Activation::Gelu,
            batch_norm: true,
            optimizer: Optimizer::Adam(1e-3),
            ..MLP
        }),
        n_batches: 4,
    },
    Spec {
        name: "elementwise",
        doc: "gelu(tanh(x·w + b)·σ(v) + x²/2)·exp(-x²) - v over n elements, or the gradients of its sum",
        kind: Kind::Elementwise,
        n_batches: 1,
    },
    Spec {
        name: "softmax-xent",
        doc: "mean cross-entropy of m rows of n logits, and its gradient",
        kind: Kind::Rows(Rows::SoftmaxXent),
        n_batches: 1,
    },
    Spec {
        name: "layernorm",
        doc: "layer normalization of m rows of n elements with gain and bias, and all three gradients",
        kind: Kind::Rows(Rows::LayerNorm),
        n_batches: 1,
    },
    Spec {
        name: "logsumexp",
        doc: "log-sum-exp of m rows of n elements",
        kind: Kind::Rows(Rows::LogSumExp),
        n_batches: 1,
    },
    Spec { name: "matmul", doc: "one product of m×k and k×n matrices", kind: Kind::Matmul, n_batches: 1 },
    Spec {
        name: "embedding",
        doc: "a table of m rows of n numbers, k of them picked, mean square error, Adam 0.001 on the rows picked",
        kind: Kind::Embedding { lazy: true },
        n_batches: 4,
    },
    Spec {
        name: "embedding-dense",
        doc: "the same with Adam on all rows",
        kind: Kind::Embedding { lazy: false },
        n_batches: 4,
    },
];

/// The names of all workloads, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    SPECS.iter().map(|spec| spec.name)
}

/// What the elementwise workload computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// f itself.
    Value,
    /// The sum of f and its gradients with respect to x, w, b and v.
    Gradient,
}

impl What {
    /// Its name: `value` or `gradient`.
    pub fn name(self) -> &'static str {
        match self {
            What::Value => "value",
            What::Gradient => "gradient",
        }
    }
}

/// The sizes of workloads that have no fixed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Elements (elementwise), or columns of the result or matrix.
    pub n: usize,
    /// Rows of the result or matrix.
    pub m: usize,
    /// Length of the inner products.
    pub k: usize,
    /// Whether the left operand is stored transposed.
    pub ta: bool,
    /// Whether the right operand is stored transposed.
    pub tb: bool,
    /// What the elementwise workload computes.
    pub what: What,
}

impl Sizes {
    /// Where each workload starts: 2²⁰ elements with gradients, 4096 rows of 1024, products of 1024×1024 matrices, tables of
    /// 500,000 rows of 32.
    pub fn of(kind: &Kind) -> Self {
        let (m, n) = match kind {
            Kind::Elementwise => (1024, 1 << 20),
            Kind::Rows(_) => (4096, 1024),
            Kind::Embedding { .. } => (500_000, 32),
            Kind::Mlp(_) | Kind::Matmul => (1024, 1024),
        };
        Sizes { n, m, k: 1024, ta: false, tb: false, what: What::Gradient }
    }
}

/// Inputs of one step, by name.
pub type Feed = Vec<(String, TensorData)>;

/// A workload with its sizes.
#[derive(Clone, Debug)]
pub struct Workload {
    spec: &'static Spec,
    sizes: Sizes,
}

impl Workload {
    /// The workload of a name, with its usual sizes.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if there is none of this name.
    pub fn named(name: &str) -> Result<Self, TrainError> {
        let Some(spec) = SPECS.iter().find(|spec| spec.name == name) else {
            let near = nearest(name, names()).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let known = names().collect::<Vec<_>>().join(", ");
            return Err(TrainError::invalid("workload", format!("one of {known}"), format!("`{name}`{near}")));
        };
        Ok(Workload { spec, sizes: Sizes::of(&spec.kind) })
    }

    /// The same workload with other sizes. Networks have fixed sizes and take no notice.
    pub fn sized(mut self, sizes: Sizes) -> Self {
        self.sizes = sizes;
        self
    }

    /// Its row of the table.
    pub fn spec(&self) -> &'static Spec {
        self.spec
    }

    /// Its sizes.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The graph of one step.
    ///
    /// # Errors
    /// The mistakes in it: sizes that are too large.
    pub fn build(&self) -> Result<Graph, TrainError> {
        let sizes = self.sizes;
        let graph = match self.spec.kind {
            Kind::Mlp(mlp) => build(|g| mlp.build(g)),
            Kind::Elementwise => build(|g| elementwise(g, sizes.n, sizes.what)),
            Kind::Rows(what) => build(|g| what.build(g, sizes.m, sizes.n)),
            Kind::Matmul => build(|g| matmul(g, sizes)),
            Kind::Embedding { lazy } => build(|g| embedding(g, sizes, lazy)),
        };
        Ok(graph?)
    }

    /// The batches of a graph that [`Workload::build`] made: from arrays if there are any, or else random, or the truth
    /// table where the workload is that.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if an array is missing or of another type.
    pub fn batches(
        &self,
        graph: &Graph,
        arrays: Option<&BTreeMap<String, NpzArray>>,
        seed: u64,
    ) -> Result<Vec<Feed>, TrainError> {
        let inputs: Vec<(&str, &Type)> =
            graph.inputs().filter_map(|(_, input)| Some((input.name()?, &input.ty))).collect();
        let batch = |i: usize| -> Result<Feed, TrainError> {
            inputs
                .iter()
                .map(|&(name, ty)| {
                    // What has a single batch needs no numbers.
                    let key = if self.spec.n_batches == 1 { name.to_owned() } else { format!("{name}{i}") };
                    let value = match arrays {
                        Some(arrays) => loaded(arrays, &key, ty)?,
                        None => self.sample(name, &key, ty, seed),
                    };
                    Ok((name.to_owned(), value))
                })
                .collect()
        };
        (0..self.spec.n_batches).map(batch).collect()
    }

    /// A batch's value without arrays.
    fn sample(&self, name: &str, key: &str, ty: &Type, seed: u64) -> TensorData {
        match self.spec.kind {
            Kind::Mlp(Mlp { loss: Loss::XorTable, .. }) => {
                let rows = [[0u8, 0], [0, 1], [1, 0], [1, 1]];
                let values: Vec<f64> = match name {
                    "x" => rows.iter().flatten().map(|&bit| f64::from(bit)).collect(),
                    _ => rows.iter().map(|[a, b]| f64::from(a ^ b)).collect(),
                };
                let bits: Vec<u64> = values.into_iter().map(|v| ty.dtype().bits_of_f64(v)).collect();
                TensorData::from_bits(ty.dtype(), ty.shape(), &bits)
            }
            _ if ty.dtype() == I64 => {
                let classes = match self.spec.kind {
                    Kind::Mlp(mlp) => mlp.dims.last().copied().unwrap_or(1) as u64,
                    Kind::Embedding { .. } => self.sizes.m as u64,
                    _ => self.sizes.n as u64,
                };
                let stream = philox::stream_of(key);
                // The upper half of word × classes: uniform on 0..classes but for a bias of classes / 2³².
                let class = |i: usize| (u64::from(philox::word(seed, stream, 0, i as u64)) * classes) >> 32;
                let bits: Vec<u64> = (0..ty.shape().n_elements()).map(class).collect();
                TensorData::from_bits(I64, ty.shape(), &bits)
            }
            _ => Init::normal(0.0, 1.0).sample(seed, key, ty.dtype(), ty.shape()),
        }
    }
}

/// Puts the arrays named like the graph's parameters into the store.
///
/// # Errors
/// [`TrainError::Invalid`] if one is missing or of another type.
pub fn load_params<'s>(
    store: impl Into<StoreMut<'s>>,
    graph: &Graph,
    arrays: &BTreeMap<String, NpzArray>,
) -> Result<(), TrainError> {
    let mut store = store.into();
    for (name, ty) in graph.params().filter_map(|(_, param)| Some((param.name()?, &param.ty))) {
        store.set(name, loaded(arrays, name, ty)?)?;
    }
    Ok(())
}

/// An array of an archive as a tensor of the type required.
fn loaded(arrays: &BTreeMap<String, NpzArray>, key: &str, ty: &Type) -> Result<TensorData, TrainError> {
    let of = || format!("array `{key}`");
    let Some(array) = arrays.get(key) else {
        let known = arrays.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(TrainError::invalid(of(), ty.to_string(), format!("an archive with {known} only")));
    };
    let value = match array.clone() {
        NpzArray::F32(a) => TensorData::from(a),
        NpzArray::F64(a) => TensorData::from(a),
        NpzArray::I32(a) => TensorData::from(a),
        NpzArray::I64(a) => TensorData::from(a),
        NpzArray::U8(a) => TensorData::from(a),
        NpzArray::Bool(a) => TensorData::from(a),
    };
    if value.ty() != *ty {
        return Err(TrainError::invalid(of(), ty.to_string(), value.ty()));
    }
    Ok(value)
}

impl Activation {
    fn apply<'g>(self, x: Tensor<'g>) -> Tensor<'g> {
        match self {
            Activation::Tanh => x.tanh(),
            Activation::Relu => x.relu(),
            Activation::Gelu => x.gelu(),
        }
    }

    /// Normal with variance gain / n_in, the gain being 1 for tanh and 2 otherwise.
    fn init(self) -> Init {
        match self {
            Activation::Tanh => Init::LecunNormal,
            Activation::Relu | Activation::Gelu => Init::HeNormal,
        }
    }
}

impl Loss {
    fn labels(self, batch: usize, n_outputs: usize) -> (DType, Shape) {
        match self {
            Loss::CrossEntropy => (I64, Shape::new(&[batch])),
            Loss::XorTable => (F32, Shape::new(&[batch, n_outputs])),
        }
    }

    fn apply<'g>(self, logits: Tensor<'g>, labels: Tensor<'g>) -> Tensor<'g> {
        match self {
            Loss::CrossEntropy => logits.cross_entropy(labels).mean(),
            Loss::XorTable => logits.bce_with_logits(labels).mean(),
        }
    }
}

impl Optimizer {
    fn apply(self, g: &GraphBuilder, loss: Tensor<'_>) {
        match self {
            Optimizer::Sgd(rate) => g.minimize(loss, Sgd::new(rate)),
            Optimizer::Momentum(rate) => g.minimize(loss, Momentum::new(rate, 0.9)),
            Optimizer::Adam(rate) => g.minimize(loss, Adam::new(rate)),
        }
    }
}

impl Mlp {
    fn build(&self, g: &GraphBuilder) {
        let n_layers = self.dims.len() - 1;
        let n_outputs = self.dims[n_layers];
        let x = g.input("x", F32, [self.batch, self.dims[0]]);
        let (dtype, shape) = self.loss.labels(self.batch, n_outputs);
        let y = g.input("y", dtype, shape);
        let mut h = x.dropout("drop.input", self.drop_input);
        for (i, ends) in self.dims.windows(2).enumerate() {
            let weight = g.param(&format!("W{i}"), F32, [ends[0], ends[1]], self.activation.init());
            let bias = g.param(&format!("b{i}"), F32, [ends[1]], Init::ZEROS);
            h = h.matmul(weight) + bias;
            if i + 1 < n_layers {
                if self.batch_norm {
                    h = batch_norm(g, h, i, ends[1]);
                }
                h = self.activation.apply(h).dropout(&format!("drop.{i}"), self.drop_hidden);
            }
        }
        let loss = self.loss.apply(h, y);
        g.output("loss", loss);
        self.optimizer.apply(g, loss);
    }
}

/// Batch norm of layer `i` with gain `g0`, …, and bias `h0`, …
fn batch_norm<'g>(g: &'g GraphBuilder, x: Tensor<'g>, i: usize, n: usize) -> Tensor<'g> {
    let gain = g.param(&format!("g{i}"), F32, [n], Init::ONES);
    let bias = g.param(&format!("h{i}"), F32, [n], Init::ZEROS);
    BatchNorm::new().apply_with(&format!("norm.{i}"), x, gain, bias)
}

fn elementwise(g: &GraphBuilder, n: usize, what: What) {
    let [x, w, b, v] = ["x", "w", "b", "v"].map(|name| g.input(name, F32, [n]));
    let inner: Tensor<'_> = (x * w + b).tanh() * v.sigmoid() + x.square() * 0.5;
    let f: Tensor<'_> = inner.gelu_tanh() * (-x.square()).exp() - v;
    match what {
        What::Value => g.output("f", f),
        What::Gradient => {
            let sum = f.sum();
            g.output("sum", sum);
            for (name, grad) in ["dx", "dw", "db", "dv"].into_iter().zip(g.grad(sum, &[x, w, b, v])) {
                g.output(name, grad);
            }
        }
    }
}

impl Rows {
    fn build(self, g: &GraphBuilder, m: usize, n: usize) {
        let z = g.input("z", F32, [m, n]);
        match self {
            Rows::SoftmaxXent => {
                let loss = z.cross_entropy(g.input("y", I64, [m])).mean();
                g.output("loss", loss);
                for grad in g.grad(loss, &[z]) {
                    g.output("dz", grad);
                }
            }
            Rows::LayerNorm => {
                let (gain, bias, dy) = (g.input("g", F32, [n]), g.input("b", F32, [n]), g.input("dy", F32, [m, n]));
                let y = z.layer_norm(gain, bias, 1e-5);
                g.output("out", y);
                for (name, grad) in ["dz", "dg", "db"].into_iter().zip(g.grad_with_seed(y, dy, &[z, gain, bias])) {
                    g.output(name, grad);
                }
            }
            Rows::LogSumExp => g.output("out", z.log_sum_exp_over(1)),
        }
    }
}

fn embedding(g: &GraphBuilder, s: Sizes, lazy: bool) {
    let table = g.param("W0", F32, [s.m, s.n], Init::normal(0.0, 1.0));
    let (x, y) = (g.input("x", I64, [s.k]), g.input("y", F32, [s.k, s.n]));
    let loss = (table.gather(x) - y).square().mean();
    g.output("loss", loss);
    let group = Group::named("W0");
    let recipe = if lazy { Recipe::new().group(group.lazy()) } else { Recipe::new() };
    g.minimize(loss, Adam::new(1e-3).with(recipe));
}

fn matmul(g: &GraphBuilder, s: Sizes) {
    let a = g.input("a", F32, if s.ta { [s.k, s.m] } else { [s.m, s.k] });
    let b = g.input("b", F32, if s.tb { [s.n, s.k] } else { [s.k, s.n] });
    g.output("c", a.matmul_with(b, s.ta, s.tb));
}
