//! Attention with several heads, and the blocks of transformers.
//!
//! Tensors are `[.., time, features]`. What a layer attends to beside its operand (a mask, another sequence, what it has seen in
//! earlier steps) is an [`Around`] that [`MultiHeadAttention::run`] and [`TransformerBlock::run`] take.

use cotangent_graph::{Attention, DType, Init, Shape, Tensor};

use super::positions::rotated;
use super::{Dense, Dropout, Layer, LayerNorm, Layers as _, bad_setting, refused, takes};

/// What an attention is given beside its operand.
#[derive(Clone, Debug, Default)]
pub struct Around<'g> {
    memory: Option<Tensor<'g>>,
    mask: Option<Tensor<'g>>,
    cache: Option<(usize, Tensor<'g>)>,
}

impl<'g> Around<'g> {
    /// Nothing.
    pub fn new() -> Self {
        Around::default()
    }

    /// Keys and values come from this `[.., keys, features]` (cross-attention), not from the operand itself.
    pub fn memory(mut self, memory: Tensor<'g>) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Which keys a query may see, see [`Attention::mask`]: truth values that broadcast to `[.., heads, queries, keys]`.
    pub fn mask(mut self, mask: Tensor<'g>) -> Self {
        self.mask = Some(mask);
        self
    }

    /// The operand is what follows at `position` (a scalar of i32 or i64) in a sequence of at most `length`. Keys and values of what came
    /// before are states of the program, `name.keys` and `name.values`, `[.., kv_heads, length, d]`, to which the new ones are added
    /// where they stand. A place beyond the end is an error of the step. The layer must be causal.
    pub fn cache(mut self, length: usize, position: Tensor<'g>) -> Self {
        self.cache = Some((length, position));
        self
    }
}

/// Attention with several heads (Vaswani et al. 2017): `[.., time, features]` into the same.
///
/// Makes `name.qkv.weight` `[features, features + 2 · kv_heads · d]` with queries, keys and values side by side, head by head, `d` being
/// `features / heads`; and `name.out.weight` `[features, features]`; and a bias to each. With a memory, in the place of `qkv`, `name.q`
/// and `name.kv`. Scores are divided by √d.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultiHeadAttention {
    heads: usize,
    kv_heads: usize,
    causal: bool,
    bias: bool,
    dropout: f64,
    rotary: Option<f64>,
    init: Init,
    out_init: Init,
}

impl MultiHeadAttention {
    /// So many heads, which must divide the number of features; every place attends to every place; Glorot uniform weights, biases
    /// of zero.
    pub fn new(heads: usize) -> Self {
        MultiHeadAttention {
            heads,
            kv_heads: heads,
            causal: false,
            bias: true,
            dropout: 0.0,
            rotary: None,
            init: Init::GlorotUniform,
            out_init: Init::GlorotUniform,
        }
    }

    /// Fewer heads of keys and values, each for several neighbouring heads of queries (Ainslie et al. 2023): a divisor of the heads.
    pub fn kv_heads(mut self, n: usize) -> Self {
        self.kv_heads = n;
        self
    }

    /// A place attends to itself and what comes before.
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    /// No biases.
    pub fn without_bias(mut self) -> Self {
        self.bias = false;
        self
    }

    /// Dropout of the probabilities, in training.
    pub fn dropout(mut self, p: f64) -> Self {
        self.dropout = p;
        self
    }

    /// Rotary positions (Su et al. 2021): queries and keys are turned by angles that grow with their place, the slowest of `base` places;
    /// 10,000 is usual. Elements `i` and `i + d/2` are a pair.
    pub fn rotary(mut self, base: f64) -> Self {
        self.rotary = Some(base);
        self
    }

    /// Another start of all weights.
    pub fn init(mut self, init: Init) -> Self {
        (self.init, self.out_init) = (init, init);
        self
    }

    /// Another start of the last product's weights.
    pub fn out_init(mut self, init: Init) -> Self {
        self.out_init = init;
        self
    }

    /// [`Layer::apply`] with what it is given beside the operand.
    #[track_caller]
    pub fn run<'g>(&self, name: &str, x: Tensor<'g>, around: &Around<'g>) -> Tensor<'g> {
        let outer = x.builder().enter(name);
        let made = self.inside(name, x, around);
        x.builder().leave(outer);
        made
    }

    #[track_caller]
    fn inside<'g>(&self, name: &str, x: Tensor<'g>, around: &Around<'g>) -> Tensor<'g> {
        const KIND: &str = "multi_head_attention";
        let fits = |x: Tensor<'g>| takes(KIND, name, x, 2, "the last axes are time and features");
        if !fits(x) || !around.memory.is_none_or(fits) {
            return refused(x, None);
        }
        let (features, heads, kv_heads) = (x.dim(-1), self.heads, self.kv_heads);
        if heads == 0 || kv_heads == 0 || features == 0 || features % heads != 0 || heads % kv_heads != 0 {
            let required = format!(
                "heads that divide the features, and heads of keys and values that divide these, got {heads} and {kv_heads} \
                 for {features} features"
            );
            return bad_setting(x, KIND, name, &required);
        }
        let d = features / heads;
        if let Some(base) = self.rotary
            && (d % 2 != 0 || !base.is_finite() || base <= 0.0)
        {
            let required =
                format!("for rotary positions heads of an even width and a base above 0, got {d} and {base}");
            return bad_setting(x, KIND, name, &required);
        }
        if around.cache.is_some() && (!self.causal || around.memory.is_some()) {
            return bad_setting(x, KIND, name, "for a cache that it is causal and attends to its own operand");
        }
        let dense = |x: Tensor<'g>, part: &str, n: usize, init: Init| {
            let layer = Dense::new(n).init(init);
            x.layer(&format!("{name}.{part}"), if self.bias { layer } else { layer.without_bias() })
        };
        let of_kv = kv_heads * d;
        let [q, k, v] = match around.memory {
            None => {
                let made = dense(x, "qkv", features + 2 * of_kv, self.init).split_sizes(&[features, of_kv, of_kv], -1);
                [made[0], made[1], made[2]]
            }
            Some(memory) => {
                let pair = dense(memory, "kv", 2 * of_kv, self.init).split(2, -1);
                [dense(x, "q", features, self.init), pair[0], pair[1]]
            }
        };
        let (mut q, mut k, v) = (by_head(q, heads), by_head(k, kv_heads), by_head(v, kv_heads));
        let position = around.cache.as_ref().map(|(_, position)| *position);
        if let Some(base) = self.rotary {
            (q, k) = (rotated(q, position, base), rotated(k, position, base));
        }
        let mut how = Attention::new().dropout(&format!("{name}.dropout"), self.dropout);
        let (k, v) = match around.cache {
            None => {
                how = if self.causal { how.causal() } else { how };
                how = around.mask.map_or(how.clone(), |mask| how.mask(mask));
                (k, v)
            }
            Some((length, position)) => {
                let seen = place_in(length, position, x.dim(-2));
                how = how.mask(around.mask.map_or(seen, |mask| mask & seen));
                let kept = |part: &str, new: Tensor<'g>| remembered(&format!("{name}.{part}"), new, length, position);
                (kept("keys", k), kept("values", v))
            }
        };
        let (y, rank) = (q.attention(k, v, how), q.rank());
        let back: Vec<usize> = (0..rank - 3).chain([rank - 2, rank - 3, rank - 1]).collect();
        let joined = if y.is_poisoned() { refused(x, None) } else { y.transpose(back).reshape(x.shape()) };
        dense(joined, "out", features, self.out_init)
    }
}

impl Layer for MultiHeadAttention {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        self.run(name, x, &Around::new())
    }
}

/// `[.., time, heads · d]` as `[.., heads, time, d]`.
#[track_caller]
fn by_head(x: Tensor<'_>, heads: usize) -> Tensor<'_> {
    let (shape, rank) = (x.shape(), x.rank());
    let (lead, last) = (&shape[..rank - 1], shape[rank - 1]);
    let apart: Shape = lead.iter().copied().chain([heads, last / heads]).collect();
    let order: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2, rank]).collect();
    x.reshape(apart).transpose(order)
}

/// Which of `length` places each of `n` queries from `position` on may see.
fn place_in(length: usize, position: Tensor<'_>, n: usize) -> Tensor<'_> {
    let g = position.builder();
    let place = |axis: usize| g.iota(position.dtype(), [n, length], axis);
    place(1).le(place(0) + position)
}

/// A state with the places of a sequence along the axis before the last, with new ones from `position` on.
#[track_caller]
fn remembered<'g>(name: &str, new: Tensor<'g>, length: usize, position: Tensor<'g>) -> Tensor<'g> {
    let (g, mut shape) = (new.builder(), new.shape().to_vec());
    let axis = shape.len() - 2;
    shape[axis] = length;
    let state = g.state(name, new.dtype(), shape, Init::ZEROS);
    let start = |a: usize| if a == axis { position } else { g.scalar(0, DType::I64) };
    let next = state.dynamic_update_slice(new, &(0..new.rank()).map(start).collect::<Vec<_>>());
    g.update(state, next);
    next
}

/// Where a transformer's blocks have their norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Norms {
    /// In front of each part, so that what goes around the parts is never normalized.
    Before,
    /// Behind each sum, as Vaswani et al. have them.
    After,
}

/// A block of a transformer: attention, and two dense layers with an activation between them, each with a norm and with its
/// operand added to what it makes.
///
/// Makes `name.norm1`, `name.attention`, `name.norm2`, `name.up` and `name.down`.
#[derive(Clone, Copy, Debug)]
pub struct TransformerBlock {
    attention: MultiHeadAttention,
    hidden: Option<usize>,
    activation: for<'g> fn(Tensor<'g>) -> Tensor<'g>,
    norms: Norms,
    dropout: f64,
    eps: f64,
}

impl TransformerBlock {
    /// A block around an attention, whose biases (or none), starts and dropout the dense layers share: norms before the parts, four
    /// times as many hidden neurons as features, exact GELU.
    pub fn new(attention: MultiHeadAttention) -> Self {
        TransformerBlock {
            attention,
            hidden: None,
            activation: |x| x.gelu(),
            norms: Norms::Before,
            dropout: attention.dropout,
            eps: super::norm::EPS,
        }
    }

    /// Another number of hidden neurons.
    pub fn hidden(mut self, n: usize) -> Self {
        self.hidden = Some(n);
        self
    }

    /// Another activation: `.activation(|x| x.relu())`.
    pub fn activation(mut self, activation: for<'g> fn(Tensor<'g>) -> Tensor<'g>) -> Self {
        self.activation = activation;
        self
    }

    /// Norms behind the sums (Vaswani et al. 2017), not before the parts.
    pub fn norms_after(mut self) -> Self {
        self.norms = Norms::After;
        self
    }

    /// Dropout of what both parts make, before it is added.
    pub fn dropout(mut self, p: f64) -> Self {
        self.dropout = p;
        self
    }

    /// Another ε of the norms.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// [`Layer::apply`] with what the attention is given beside the operand.
    #[track_caller]
    pub fn run<'g>(&self, name: &str, x: Tensor<'g>, around: &Around<'g>) -> Tensor<'g> {
        let outer = x.builder().enter(name);
        let made = self.inside(name, x, around);
        x.builder().leave(outer);
        made
    }

    #[track_caller]
    fn inside<'g>(&self, name: &str, x: Tensor<'g>, around: &Around<'g>) -> Tensor<'g> {
        if !takes("transformer_block", name, x, 2, "the last axes are time and features") {
            return refused(x, None);
        }
        let attention = self.attention;
        let norm = |x: Tensor<'g>, part: &str| {
            let norm = LayerNorm::new().eps(self.eps);
            x.layer(&format!("{name}.{part}"), if attention.bias { norm } else { norm.without_bias() })
        };
        let dense = |x: Tensor<'g>, part: &str, n: usize, init: Init| {
            let layer = Dense::new(n).init(init);
            x.layer(&format!("{name}.{part}"), if attention.bias { layer } else { layer.without_bias() })
        };
        let attend = |x: Tensor<'g>| attention.run(&format!("{name}.attention"), x, around);
        let think = |x: Tensor<'g>| {
            let hidden = self.hidden.unwrap_or(4 * x.dim(-1));
            let up = (self.activation)(dense(x, "up", hidden, attention.init));
            dense(up, "down", x.dim(-1), attention.out_init)
        };
        let dropped = |x: Tensor<'g>, part: &str| x.layer(&format!("{name}.{part}"), Dropout::new(self.dropout));
        match self.norms {
            Norms::Before => {
                let x = x + dropped(attend(norm(x, "norm1")), "dropout1");
                x + dropped(think(norm(x, "norm2")), "dropout2")
            }
            Norms::After => {
                let x = norm(x + dropped(attend(x), "dropout1"), "norm1");
                norm(x + dropped(think(x), "dropout2"), "norm2")
            }
        }
    }
}

impl Layer for TransformerBlock {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        self.run(name, x, &Around::new())
    }
}
