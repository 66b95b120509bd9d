//! The networks among the workloads: what they compute, how they are trained, and what they predict.
//!
//! Assumes: nothing but the builder. Promises: networks of dense layers have parameters `W0`, `b0`, … (gains and biases of batch
//! norm `g0`, `h0`, …); convolutional ones name theirs as layers do (`c0.weight`, `s1b0.a.norm.gain`). Pictures are channels last.

use cotangent_graph::DType::{F32, I64};
use cotangent_graph::{DType, GraphBuilder, Init, Shape, Tensor};
use cotangent_nn::{
    Adam, AdamW, BatchNorm, Conv, Dense, Embedding, Group, LayerNorm, Layers as _, MaxPool, Minimize, Momentum,
    MultiHeadAttention, Optimizer as _, Padding, Positions, Recipe, Recurrent, Sgd, TransformerBlock,
};

/// A network and its training.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// Examples of a batch in training.
    pub batch: usize,
    /// What makes outputs of examples.
    pub layers: Layers,
    /// What is minimized.
    pub loss: Loss,
    /// How.
    pub optimizer: Optimizer,
}

/// The layers of a network.
#[derive(Clone, Copy, Debug)]
pub enum Layers {
    /// Dense layers.
    Mlp(Mlp),
    /// The LeNet of Caffe's examples on pictures `[28, 28, 1]`: 20 filters of 5×5, max-pooling, 50 filters of 5×5, max-pooling, 500
    /// neurons with ReLU, 10 outputs. There is no activation between the convolutions.
    Lenet,
    /// ResNet-20 for pictures `[32, 32, 3]` (He et al. 2016): a convolution and nine blocks of two, of 16, 32 and 64 filters of 3×3, all
    /// with batch norm and without biases. Where a block halves the picture, its shortcut is a convolution of 1×1 with batch norm.
    /// The mean over all places feeds 10 outputs.
    Resnet20,
    /// Letters one after the other, each of which is to be told from those before it: `letters` rows of a table, 64 steps of a recurrent
    /// layer, and a dense layer. An example is 64 letters.
    Letters(Letters),
    /// A transformer that tells each letter from those before it.
    Gpt(Gpt),
}

/// A recurrent network that reads letters.
#[derive(Clone, Copy, Debug)]
pub struct Letters {
    /// How many letters there are.
    pub n_letters: usize,
    /// Letters of an example.
    pub length: usize,
    /// Numbers for each letter, and width of the state.
    pub width: usize,
    /// Whether the layer is a GRU, and no LSTM.
    pub gru: bool,
}

/// A transformer as nanoGPT has it (Karpathy 2022), without biases: tables of letters and of positions, blocks of causal attention and
/// of four times as many hidden neurons with exact GELU, a norm in front of each part and one at the end, and a dense layer.
/// Weights start with a standard deviation of 0.02, those whose products are added to what goes around them with that over the root
/// of their number.
#[derive(Clone, Copy, Debug)]
pub struct Gpt {
    /// How many letters there are.
    pub n_letters: usize,
    /// Letters of an example.
    pub length: usize,
    /// Numbers for each letter.
    pub width: usize,
    /// Blocks.
    pub n_blocks: usize,
    /// Heads of each attention.
    pub heads: usize,
}

/// Dense layers one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Mlp {
    /// Features, hidden widths, outputs.
    pub dims: &'static [usize],
    /// Between layers.
    pub activation: Activation,
    /// Whether hidden layers are normalized over the batch before their activation.
    pub batch_norm: bool,
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
    /// Momentum 0.9 on gradients to which so many times their parameter is added, biases and gains among them.
    DecayedMomentum {
        /// The learning rate.
        rate: f64,
        /// What PyTorch's `SGD` calls `weight_decay`.
        decay: f64,
    },
    /// Adam with its usual constants.
    Adam(f64),
    /// Adam with its usual constants on gradients whose norm over all parameters is held to a limit.
    ClippedAdam {
        /// The learning rate.
        rate: f64,
        /// The largest norm.
        norm: f64,
    },
    /// AdamW with β₂ = 0.99, whose decay is that of matrices alone.
    AdamW {
        /// The learning rate.
        rate: f64,
        /// The decay.
        decay: f64,
    },
}

/// ReLU without anything else; for what follows by `..PLAIN`.
pub(super) const PLAIN: Mlp =
    Mlp { dims: &[], activation: Activation::Relu, batch_norm: false, drop_input: 0.0, drop_hidden: 0.0 };

impl Network {
    /// The graph of a training step: inputs `x` and `y`, the result `loss`, and updates.
    pub(super) fn train(&self, g: &GraphBuilder) {
        let x = g.input("x", self.layers.examples_of(), self.examples(self.batch));
        let (dtype, shape) = self.loss.labels(self.batch, &self.layers);
        let y = g.input("y", dtype, shape);
        let loss = self.loss.apply(self.layers.apply(g, x), y);
        g.output("loss", loss);
        self.optimizer.apply(g, loss);
    }

    /// The graph of what is predicted for a batch: the input `x`, and the result `outputs` `[batch, n]` (logits).
    pub(super) fn predict(&self, g: &GraphBuilder, batch: usize) {
        g.set_training(false);
        let x = g.input("x", self.layers.examples_of(), self.examples(batch));
        g.output("outputs", self.layers.apply(g, x));
    }

    /// The shape of so many examples.
    pub(super) fn examples(&self, n: usize) -> Shape {
        let rest = match &self.layers {
            Layers::Mlp(mlp) => &mlp.dims[..1],
            Layers::Lenet => &[28, 28, 1],
            Layers::Resnet20 => &[32, 32, 3],
            Layers::Letters(Letters { length, .. }) | Layers::Gpt(Gpt { length, .. }) => std::slice::from_ref(length),
        };
        [n].iter().chain(rest).copied().collect()
    }
}

impl Layers {
    /// Outputs of an example.
    pub(super) fn n_outputs(&self) -> usize {
        match self {
            Layers::Mlp(mlp) => mlp.dims[mlp.dims.len() - 1],
            Layers::Lenet | Layers::Resnet20 => 10,
            Layers::Letters(letters) => letters.n_letters,
            Layers::Gpt(gpt) => gpt.n_letters,
        }
    }

    /// Whether examples are letters, each of which has outputs.
    fn reads_letters(&self) -> bool {
        matches!(self, Layers::Letters(_) | Layers::Gpt(_))
    }

    /// The element type of examples.
    pub(super) fn examples_of(&self) -> DType {
        if self.reads_letters() { I64 } else { F32 }
    }

    /// The outputs `[n, n_outputs]` of examples, of letters for each letter.
    fn apply<'g>(&self, g: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
        match self {
            Layers::Mlp(mlp) => mlp.apply(g, x),
            Layers::Lenet => lenet(x),
            Layers::Resnet20 => resnet20(x),
            Layers::Letters(letters) => letters.apply(x),
            Layers::Gpt(gpt) => gpt.apply(x),
        }
    }
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
    fn labels(self, batch: usize, layers: &Layers) -> (DType, Shape) {
        match (self, layers) {
            (Loss::CrossEntropy, Layers::Letters(Letters { length, .. }) | Layers::Gpt(Gpt { length, .. })) => {
                (I64, Shape::new(&[batch, *length]))
            }
            (Loss::CrossEntropy, _) => (I64, Shape::new(&[batch])),
            (Loss::XorTable, _) => (F32, Shape::new(&[batch, layers.n_outputs()])),
        }
    }

    fn apply<'g>(self, logits: Tensor<'g>, labels: Tensor<'g>) -> Tensor<'g> {
        match self {
            Loss::CrossEntropy => logits.cross_entropy(labels.reshape([logits.dim(0)])).mean(),
            Loss::XorTable => logits.bce_with_logits(labels).mean(),
        }
    }
}

impl Optimizer {
    fn apply(self, g: &GraphBuilder, loss: Tensor<'_>) {
        match self {
            Optimizer::Sgd(rate) => g.minimize(loss, Sgd::new(rate)),
            Optimizer::Momentum(rate) => g.minimize(loss, Momentum::new(rate, 0.9)),
            Optimizer::DecayedMomentum { rate, decay } => {
                // The penalty λ‖w‖² has the gradient 2λw.
                let recipe = Recipe::new().l2(decay / 2.0).group(Group::new("all", |_| true).regularized(true));
                g.minimize(loss, Momentum::new(rate, 0.9).with(recipe));
            }
            Optimizer::Adam(rate) => g.minimize(loss, Adam::new(rate)),
            Optimizer::ClippedAdam { rate, norm } => {
                g.minimize(loss, Adam::new(rate).with(Recipe::new().clip_norm(norm)));
            }
            Optimizer::AdamW { rate, decay } => g.minimize(loss, AdamW::new(rate, decay).beta2(0.99)),
        }
    }
}

impl Letters {
    fn apply<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        let start = Init::normal(0.0, 1.0 / (self.width as f64).sqrt());
        let layer = if self.gru { Recurrent::gru(self.width) } else { Recurrent::lstm(self.width).forget_bias(0.0) };
        let rows = x.embedding("emb", self.n_letters, self.width);
        let states = rows.layer("recurrent", layer.init(start).recurrent_init(start));
        let states = states.reshape([x.shape().n_elements(), self.width]);
        states.layer("out", Dense::new(self.n_letters).init(start))
    }
}

impl Gpt {
    fn apply<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        let start = Init::normal(0.0, 0.02);
        let residual = Init::normal(0.0, 0.02 / (2.0 * self.n_blocks as f64).sqrt());
        let attention = MultiHeadAttention::new(self.heads).causal().without_bias().init(start).out_init(residual);
        let letters = x.layer("wte", Embedding::new(self.n_letters, self.width).init(start));
        let mut h = letters.layer("wpe", Positions::learned(self.length).init(start));
        for block in 0..self.n_blocks {
            h = h.layer(&format!("block.{block}"), TransformerBlock::new(attention));
        }
        let h = h.reshape([x.shape().n_elements(), self.width]).layer("last", LayerNorm::new().without_bias());
        h.layer("head", Dense::new(self.n_letters).init(start).without_bias())
    }
}

impl Mlp {
    fn apply<'g>(&self, g: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
        let n_layers = self.dims.len() - 1;
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
        h
    }
}

/// Batch norm of layer `i` with gain `g0`, …, and bias `h0`, …
fn batch_norm<'g>(g: &'g GraphBuilder, x: Tensor<'g>, i: usize, n: usize) -> Tensor<'g> {
    let gain = g.param(&format!("g{i}"), F32, [n], Init::ONES);
    let bias = g.param(&format!("h{i}"), F32, [n], Init::ZEROS);
    BatchNorm::new().apply_with(&format!("norm.{i}"), x, gain, bias)
}

/// A convolution that starts as He et al. 2015 say.
fn conv(n_filters: usize, size: usize) -> Conv {
    Conv::new(n_filters, &[size, size]).init(Init::HeNormal)
}

/// The layer whose rows follow from the pictures in front of it, flattened, and the shape of these.
pub(super) const FLATTENED: (&str, [usize; 3]) = ("f0.weight", [4, 4, 50]);

fn lenet(x: Tensor<'_>) -> Tensor<'_> {
    let halved = MaxPool::new(&[2, 2]);
    let x = x.layer("c0", conv(20, 5)).layer("pool0", &halved);
    let x = x.layer("c1", conv(50, 5)).layer("pool1", &halved);
    let dense = |n| Dense::new(n).init(Init::HeNormal);
    x.flatten().layer("f0", dense(500)).relu().layer("f1", dense(10))
}

/// A convolution of `size` × `size` with batch norm and without biases; of 3×3 it keeps the borders, of any size `stride` divides
/// the extents.
fn normalized<'g>(x: Tensor<'g>, name: &str, n_filters: usize, size: usize, stride: usize) -> Tensor<'g> {
    let border = size / 2;
    let padding = Padding::Sides(vec![(border, border); 2]);
    let conv = conv(n_filters, size).stride(&[stride, stride]).padding(padding).without_bias();
    x.layer(name, conv).layer(&format!("{name}.norm"), BatchNorm::new())
}

/// See [`Kind::Bottleneck`](super::Kind::Bottleneck).
pub(super) fn bottleneck(g: &GraphBuilder) {
    const N: usize = 32;
    const WIDE: usize = 192;
    let shape = [32, 28, 28, N];
    let (x, dy) = (g.input("x", F32, shape), g.input("dy", F32, shape));
    let wide = normalized(x, "a", WIDE, 1, 1).relu6();
    let depthwise = conv(WIDE, 3).groups(WIDE).padding(Padding::Same).without_bias();
    let wide = wide.layer("b", depthwise).layer("b.norm", BatchNorm::new()).relu6();
    let out = x + normalized(wide, "c", N, 1, 1);
    g.output("out", out);
    let params = g.params_of(out);
    let with: Vec<Tensor<'_>> = [x].into_iter().chain(params.iter().copied()).collect();
    let name_of =
        |param: &Tensor<'_>| g.with_graph(|graph| graph.node(param.id()).name().unwrap_or_default().to_owned());
    let names: Vec<String> = ["x".to_owned()].into_iter().chain(params.iter().map(name_of)).collect();
    for (name, gradient) in names.into_iter().zip(g.grad_with_seed(out, dy, &with)) {
        g.output(&format!("d{name}"), gradient);
    }
}

fn resnet20(x: Tensor<'_>) -> Tensor<'_> {
    let mut x = normalized(x, "stem", 16, 3, 1).relu();
    for (stage, n_filters) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..3 {
            let name = |part: &str| format!("s{stage}b{block}.{part}");
            let halves = stage > 0 && block == 0;
            let stride = if halves { 2 } else { 1 };
            let inner = normalized(x, &name("a"), n_filters, 3, stride).relu();
            let inner = normalized(inner, &name("b"), n_filters, 3, 1);
            let shortcut = if halves { normalized(x, &name("s"), n_filters, 1, stride) } else { x };
            x = (inner + shortcut).relu();
        }
    }
    x.mean_over([1, 2]).layer("fc", Dense::new(10).init(Init::LecunNormal))
}
