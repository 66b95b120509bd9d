//! Named workloads: networks, an elementwise expression, work on whole rows, a matrix product and a table of embeddings, in one
//! table.
//!
//! Why it exists: a measurement means something only if others run the very same arithmetic. [`SPECS`] says what each
//! workload is; graph, starting values and batches follow from its row and nothing else.
//!
//! Assumes: four batches in memory are taken in rotation (one for what has no batches), as in the peers' protocol.
//! Promises: networks of dense layers have parameters `W0`, `b0`, … (gains and biases of batch norm `g0`, `h0`, …) and inputs `x`,
//! `y`; arrays handed in carry those names, a batch's number behind the inputs' (`x0`, `y0`, … `x3`, `y3`). Arrays of convolutional
//! networks are those of systems that have channels first, under the names in [`Workload::array_names`]. Without arrays everything
//! random comes from Philox under a seed.

mod arrays;
mod networks;

use std::collections::{BTreeMap, BTreeSet};

use cotangent_exec::StoreMut;
use cotangent_graph::DType::{F32, I64};
use cotangent_graph::diag::nearest;
use cotangent_graph::{Graph, GraphBuilder, Init, Tensor, TensorData, Type, build};
use cotangent_nn::{Adam, Group, Minimize, Optimizer as _, Recipe};
use cotangent_scalar::philox;

use self::arrays::{Layout, examples, key, loaded};
use self::networks::PLAIN;
pub use self::networks::{Activation, Gpt, Layers, Letters, Loss, Mlp, Network, Optimizer};
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
    /// One training step of a network, or its outputs: [`Workload::inference`].
    Network(Network),
    /// `f = gelu_tanh(tanh(x·w + b)·σ(v) + ½x²)·exp(−x²) − v`, or the gradients of its sum.
    Elementwise,
    /// Work on whole rows of a matrix.
    Rows(Rows),
    /// The block of MobileNetV2 (Sandler et al. 2018) on `x` `[32, 28, 28, 32]`, in training: the result `out`, its gradients with
    /// respect to `x` and to all parameters given its own, `dy`, and running statistics.
    Bottleneck,
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

/// Every workload.
pub static SPECS: [Spec; 18] = [
    Spec {
        name: "xor",
        doc: "2-8-1, tanh, binary cross-entropy, batch 4, gradient descent 0.5",
        kind: Kind::Network(Network {
            batch: 4,
            layers: Layers::Mlp(Mlp { dims: &[2, 8, 1], activation: Activation::Tanh, ..PLAIN }),
            loss: Loss::XorTable,
            optimizer: Optimizer::Sgd(0.5),
        }),
        n_batches: 4,
    },
    Spec {
        name: "mlp-s",
        doc: "784-128-10, ReLU, cross-entropy, batch 32, momentum 0.01",
        kind: Kind::Network(Network {
            batch: 32,
            layers: Layers::Mlp(Mlp { dims: &[784, 128, 10], ..PLAIN }),
            loss: Loss::CrossEntropy,
            optimizer: Optimizer::Momentum(0.01),
        }),
        n_batches: 4,
    },
    Spec {
        name: "mlp-m",
        doc: "784-1024-1024-10, ReLU, cross-entropy, batch 128, Adam 0.001",
        kind: Kind::Network(Network {
            batch: 128,
            layers: Layers::Mlp(Mlp { dims: &[784, 1024, 1024, 10], ..PLAIN }),
            loss: Loss::CrossEntropy,
            optimizer: Optimizer::Adam(1e-3),
        }),
        n_batches: 4,
    },
    Spec {
        name: "mlp-l",
        doc: "784-2048-2048-2048-10, ReLU, dropout 0.2 and 0.5, cross-entropy, batch 256, momentum 0.01",
        kind: Kind::Network(Network {
            batch: 256,
            layers: Layers::Mlp(Mlp { dims: &[784, 2048, 2048, 2048, 10], drop_input: 0.2, drop_hidden: 0.5, ..PLAIN }),
            loss: Loss::CrossEntropy,
            optimizer: Optimizer::Momentum(0.01),
        }),
        n_batches: 4,
    },
    Spec {
        name: "bn-mlp",
        doc: "784-512-512-512-512-10, batch norm, exact GELU, cross-entropy, batch 128, Adam 0.001",
        kind: Kind::Network(Network {
            batch: 128,
            layers: Layers::Mlp(Mlp {
                dims: &[784, 512, 512, 512, 512, 10],
                activation: Activation::Gelu,
                batch_norm: true,
                ..PLAIN
            }),
            loss: Loss::CrossEntropy,
            optimizer: Optimizer::Adam(1e-3),
        }),
        n_batches: 4,
    },
    Spec {
        name: "lenet",
        doc: "28×28×1, 20 and 50 filters of 5×5 with max-pooling, 500-10, ReLU, cross-entropy, batch 64, momentum 0.001",
        kind: Kind::Network(Network {
            batch: 64,
            layers: Layers::Lenet,
            loss: Loss::CrossEntropy,
            optimizer: Optimizer::Momentum(0.001),
        }),
        n_batches: 4,
    },
    Spec {
        name: "resnet20",
        doc: "32×32×3, ResNet-20 with batch norm, cross-entropy, batch 32, momentum 0.1, decay 0.0001 of all parameters",
        kind: Kind::Network(Network {
            batch: 32,
            layers: Layers::Resnet20,
            loss: Loss::CrossEntropy,
            optimizer: Optimizer::DecayedMomentum { rate: 0.1, decay: 1e-4 },
        }),
        n_batches: 4,
    },
    Spec {
        name: "lstm-char",
        doc: "65 letters, table of 128, LSTM of 128 over 64 letters, cross-entropy, batch 32, Adam 0.001, gradients of norm 1 at most",
        kind: Kind::Network(Network {
            batch: 32,
            layers: Layers::Letters(Letters { n_letters: 65, length: 64, width: 128, gru: false }),
            loss: Loss::CrossEntropy,
            optimizer: Optimizer::ClippedAdam { rate: 1e-3, norm: 1.0 },
        }),
        n_batches: 4,
    },
    Spec {
        name: "gru-char",
        doc: "the same with a GRU, whose reset gate comes after the product",
        kind: Kind::Network(Network {
            batch: 32,
            layers: Layers::Letters(Letters { n_letters: 65, length: 64, width: 128, gru: true }),
            loss: Loss::CrossEntropy,
            optimizer: Optimizer::ClippedAdam { rate: 1e-3, norm: 1.0 },
        }),
        n_batches: 4,
    },
    Spec {
        name: "gpt-nano",
        doc: "65 letters, 4 causal blocks of width 128 with 4 heads over 64 letters, cross-entropy, batch 12, AdamW 0.001 with decay 0.1",
        kind: Kind::Network(Network {
            batch: 12,
            layers: Layers::Gpt(Gpt { n_letters: 65, length: 64, width: 128, n_blocks: 4, heads: 4 }),
            loss: Loss::CrossEntropy,
            optimizer: Optimizer::AdamW { rate: 1e-3, decay: 0.1 },
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
    Spec {
        name: "mobilenet-block",
        doc: "an inverted residual block, [32, 28, 28, 32→192→32], 1×1, depthwise 3×3, 1×1, batch norms, ReLU6: values and all gradients",
        kind: Kind::Bottleneck,
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
            Kind::Network(_) | Kind::Matmul | Kind::Bottleneck => (1024, 1024),
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
    /// Examples of a batch to predict; none in training, and where there is no network.
    inference: Option<usize>,
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
        Ok(Workload { spec, sizes: Sizes::of(&spec.kind), inference: None })
    }

    /// The same workload with other sizes. Networks have fixed sizes and take no notice.
    pub fn sized(mut self, sizes: Sizes) -> Self {
        self.sizes = sizes;
        self
    }

    /// What the network predicts for a batch of so many examples, or as many as in training, in the place of a training step: dropout
    /// is off, and batch norm takes its running averages.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if the workload is no network, or the batch has no example.
    pub fn inference(mut self, batch: Option<usize>) -> Result<Self, TrainError> {
        let Kind::Network(network) = &self.spec.kind else {
            let is_network = |spec: &&Spec| matches!(spec.kind, Kind::Network(_));
            let known = SPECS.iter().filter(is_network).map(|spec| spec.name).collect::<Vec<_>>().join(", ");
            return Err(TrainError::invalid(
                "inference",
                format!("a network: {known}"),
                format!("`{}`", self.spec.name),
            ));
        };
        let batch = batch.unwrap_or(network.batch);
        if batch == 0 {
            return Err(TrainError::invalid("batch", "1 example or more", batch));
        }
        self.inference = Some(batch);
        Ok(self)
    }

    /// How many examples it predicts, if that is what it does.
    pub fn predicts(&self) -> Option<usize> {
        self.inference
    }

    /// Whether a step has a result `loss` that updates make smaller.
    pub fn trains(&self) -> bool {
        match self.spec.kind {
            Kind::Network(_) => self.inference.is_none(),
            Kind::Embedding { .. } => true,
            Kind::Elementwise | Kind::Rows(_) | Kind::Matmul | Kind::Bottleneck => false,
        }
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
            Kind::Network(network) => build(|g| match self.inference {
                Some(batch) => network.predict(g, batch),
                None => network.train(g),
            }),
            Kind::Elementwise => build(|g| elementwise(g, sizes.n, sizes.what)),
            Kind::Rows(what) => build(|g| what.build(g, sizes.m, sizes.n)),
            Kind::Matmul => build(|g| matmul(g, sizes)),
            Kind::Bottleneck => build(networks::bottleneck),
            Kind::Embedding { lazy } => build(|g| embedding(g, sizes, lazy)),
        };
        Ok(graph?)
    }

    /// The layers of a network.
    fn layers(&self) -> Option<&Layers> {
        match &self.spec.kind {
            Kind::Network(network) => Some(&network.layers),
            _ => None,
        }
    }

    /// The names of the arrays that a graph which [`Workload::build`] made takes from an archive: those of its parameters (what
    /// layers call `c0.weight` and `c0.bias` is `c0` and `c0b` there, gain and bias of a norm, `c0.norm.gain` and `c0.norm.bias`,
    /// are `c0.g` and `c0.h`), and those of its inputs, with the batch's number if there are several.
    pub fn array_names(&self, graph: &Graph) -> BTreeSet<String> {
        let params = graph.params().filter_map(|(_, param)| Some(key(param.name()?)));
        let inputs = graph.inputs().filter_map(|(_, input)| input.name());
        params.chain(inputs.flat_map(|name| (0..self.spec.n_batches).map(move |i| self.input_key(name, i)))).collect()
    }

    /// An input's name in an archive. What has a single batch needs no numbers.
    fn input_key(&self, name: &str, batch: usize) -> String {
        if self.spec.n_batches == 1 { name.to_owned() } else { format!("{name}{batch}") }
    }

    /// The batches of a graph that [`Workload::build`] made: from arrays if there are any, or else random, or the truth
    /// table where the workload is that. To predict there is one batch, of the examples of all arrays one after the other.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if an array is missing or of another type, or if the arrays have fewer examples than are predicted.
    pub fn batches(
        &self,
        graph: &Graph,
        arrays: Option<&BTreeMap<String, TensorData>>,
        seed: u64,
    ) -> Result<Vec<Feed>, TrainError> {
        let inputs: Vec<(&str, &Type)> =
            graph.inputs().filter_map(|(_, input)| Some((input.name()?, &input.ty))).collect();
        let n_batches = if self.inference.is_some() { 1 } else { self.spec.n_batches };
        let batch = |i: usize| -> Result<Feed, TrainError> {
            inputs
                .iter()
                .map(|&(name, ty)| {
                    let key = self.input_key(name, i);
                    let layout = Layout::of(self.layers(), name, ty.shape().rank());
                    let value = match (arrays, self.inference, &self.spec.kind) {
                        (None, ..) => self.sample(name, &key, ty, seed),
                        (Some(arrays), Some(n), Kind::Network(network)) => {
                            let whole = Type::tensor(ty.dtype(), network.examples(network.batch));
                            examples(arrays, n, self.spec.n_batches, &whole, layout)?
                        }
                        (Some(arrays), ..) => loaded(arrays, &key, ty, layout)?,
                    };
                    Ok((name.to_owned(), value))
                })
                .collect()
        };
        (0..n_batches).map(batch).collect()
    }

    /// Puts arrays into the store, as the parameters of a graph that [`Workload::build`] made; [`Workload::array_names`] says which.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if one is missing or of another type.
    pub fn load_params<'s>(
        &self,
        store: impl Into<StoreMut<'s>>,
        graph: &Graph,
        arrays: &BTreeMap<String, TensorData>,
    ) -> Result<(), TrainError> {
        let mut store = store.into();
        for (name, ty) in graph.params().filter_map(|(_, param)| Some((param.name()?, &param.ty))) {
            let layout = Layout::of(self.layers(), name, ty.shape().rank());
            store.set(name, loaded(arrays, &key(name), ty, layout)?)?;
        }
        Ok(())
    }

    /// A batch's value without arrays.
    fn sample(&self, name: &str, key: &str, ty: &Type, seed: u64) -> TensorData {
        match self.spec.kind {
            Kind::Network(Network { loss: Loss::XorTable, .. }) => {
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
                    Kind::Network(network) => network.layers.n_outputs() as u64,
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
