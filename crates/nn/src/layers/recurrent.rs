//! Recurrent layers: sequences `[batch, time, features]` through a state that goes from step to step.

use cotangent_graph::ops::scan::{Checkpoint, Iteration, Loop, Made};
use cotangent_graph::{Code, DType, Diag, GraphBuilder, Init, Tensor, Type};

use super::norm::EPS;
use super::{Dropout, Layer, Layers, bad_setting, refused, takes};

/// What a recurrent layer does in a step with its input `x` and its state `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    /// `h' = tanh(x·W + h·U + b)` (Elman 1990).
    Plain,
    /// Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000: `i, f, g, o` in this order along the last axis;
    /// `c' = σ(f)·c + σ(i)·tanh(g)`, `h' = σ(o)·tanh(c')`.
    Long,
    /// Cho et al. 2014: `r, z, n` in this order; `h' = (1 - σ(z))·tanh(n) + σ(z)·h`. The reset gate takes from the state before its
    /// product, or from the product.
    Gated { reset_after: bool },
}

impl Cell {
    fn name(self) -> &'static str {
        match self {
            Cell::Plain => "rnn",
            Cell::Long => "lstm",
            Cell::Gated { .. } => "gru",
        }
    }

    /// Blocks of the width of the state that weights and biases have along their last axis.
    fn n_gates(self) -> usize {
        match self {
            Cell::Plain => 1,
            Cell::Long => 4,
            Cell::Gated { .. } => 3,
        }
    }

    /// Whether a reset gate takes from the product, which then has a bias of its own.
    fn reset_after(self) -> bool {
        self == Cell::Gated { reset_after: true }
    }

    /// Tensors of the state.
    fn n_states(self) -> usize {
        if self == Cell::Long { 2 } else { 1 }
    }
}

/// A recurrent layer, or several on top of each other: `[batch, time, n_in]` into `[batch, time, n_out]`, of both directions side by
/// side `[.., 2·n_out]`.
///
/// Makes `name.weight` `[n_in, k·n_out]`, `name.recurrent` `[n_out, k·n_out]` and `name.bias` `[k·n_out]`, with k = 1 for an RNN, 4 for
/// an LSTM (`i, f, g, o`), 3 for a GRU (`r, z, n`), and `name.recurrent_bias` where the reset gate of a GRU comes after the product.
/// With [layer norm](Recurrent::layer_norm) also `name.input_norm.gain`, `name.recurrent_norm.gain` and, of an LSTM,
/// `name.cell_norm.gain` and `name.cell_norm.bias`.
/// Layers are `name.0`, `name.1`, … if there are several, and directions `name.forward` and `name.backward` if there are both.
///
/// ```
/// use cotangent_graph::{DType::{F32, I64}, build};
/// use cotangent_nn::{Adam, Layers, Minimize, Recurrent};
///
/// let graph = build(|g| {
///     let (x, y) = (g.input("x", I64, [32, 64]), g.input("y", I64, [32, 64]));
///     let h = x.embedding("letters", 65, 128).layer("lstm", Recurrent::lstm(128));
///     g.minimize(h.dense("out", 65).reshape([32 * 64, 65]).cross_entropy(y.reshape([32 * 64])).mean(), Adam::new(1e-3));
/// })?;
/// # Ok::<(), cotangent_graph::Diags>(())
/// ```
///
/// The product with `name.weight` is one over all steps, and so are the gradients of all weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recurrent {
    cell: Cell,
    n_out: usize,
    n_layers: usize,
    both_ways: bool,
    reverse: bool,
    dropout: f64,
    variational: bool,
    recurrent_dropout: f64,
    layer_norm: bool,
    init: Init,
    recurrent_init: Init,
    bias_init: Init,
    checkpoint: Checkpoint,
}

/// What a recurrent layer is given beside its sequences.
#[derive(Clone, Debug, Default)]
pub struct Given<'g> {
    mask: Option<Tensor<'g>>,
    states: Vec<Tensor<'g>>,
}

impl<'g> Given<'g> {
    /// Nothing: all steps count, and states start at 0.
    pub fn new() -> Self {
        Given::default()
    }

    /// Which steps count, truth values `[batch, time]`: where one does not, the state stays as it is and the output is 0. So
    /// sequences of unequal lengths are filled up behind, in both directions.
    pub fn mask(mut self, mask: Tensor<'g>) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Where the states start, in the order of [`Sequences::states`]; each `[batch, n_out]`.
    ///
    /// For truncated backpropagation through time they are states of the program, which the next step begins with:
    ///
    /// ```
    /// use cotangent_graph::{DType::F32, Init, build};
    /// use cotangent_nn::{Given, Recurrent};
    ///
    /// let graph = build(|g| {
    ///     let x = g.input("x", F32, [8, 20, 3]);
    ///     let starts = ["h", "c"].map(|name| g.state(name, F32, [8, 16], Init::ZEROS));
    ///     let made = Recurrent::lstm(16).run("lstm", x, &Given::new().states(&starts));
    ///     starts.into_iter().zip(made.states).for_each(|(state, last)| g.update(state, last));
    ///     g.output("y", made.outputs);
    /// })?;
    /// # Ok::<(), cotangent_graph::Diags>(())
    /// ```
    ///
    /// At the beginning of other sequences, set them back with `session.store_mut().set("h", …)`. Gradients stop at the step's own
    /// start.
    pub fn states(mut self, states: &[Tensor<'g>]) -> Self {
        self.states = states.to_vec();
        self
    }
}

/// What a recurrent layer makes.
#[derive(Clone, Debug)]
pub struct Sequences<'g> {
    /// The outputs of the last layer at every step, `[batch, time, n_out]`, of both directions side by side.
    pub outputs: Tensor<'g>,
    /// The last states, `[batch, n_out]` each: layer by layer, forward before backward, of an LSTM `h` before `c`. For truncated
    /// backpropagation through time, update states of the graph with them and hand those to [`Given::states`].
    pub states: Vec<Tensor<'g>>,
}

impl Recurrent {
    /// A layer as Keras starts it: weights Glorot uniform, recurrent ones orthogonal, biases 0, those of forget gates 1.
    fn new(cell: Cell, n_out: usize) -> Self {
        Recurrent {
            cell,
            n_out,
            n_layers: 1,
            both_ways: false,
            reverse: false,
            dropout: 0.0,
            variational: false,
            recurrent_dropout: 0.0,
            layer_norm: false,
            init: Init::GlorotUniform,
            recurrent_init: Init::orthogonal(1.0),
            bias_init: if cell == Cell::Long { Init::forget_gate(1.0) } else { Init::ZEROS },
            checkpoint: Checkpoint::All,
        }
    }

    /// `h' = tanh(x·W + h·U + b)`.
    pub fn rnn(n_out: usize) -> Self {
        Recurrent::new(Cell::Plain, n_out)
    }

    /// An LSTM. The biases of the forget gate start as 1, as with Keras' `unit_forget_bias`.
    pub fn lstm(n_out: usize) -> Self {
        Recurrent::new(Cell::Long, n_out)
    }

    /// A GRU whose reset gate comes after the product, `n = x·W + b + σ(r)·(h·U + u)`: that of PyTorch, and of Keras' `reset_after`.
    pub fn gru(n_out: usize) -> Self {
        Recurrent::new(Cell::Gated { reset_after: true }, n_out)
    }

    /// A GRU whose reset gate comes before the product, `n = x·W + b + (σ(r)·h)·U`: that of the paper.
    pub fn gru_reset_before(n_out: usize) -> Self {
        Recurrent::new(Cell::Gated { reset_after: false }, n_out)
    }

    /// Started as PyTorch does: everything uniform on ±1/√n_out. (PyTorch adds two biases where there is one here.)
    pub fn like_pytorch(self) -> Self {
        let bound = 1.0 / (self.n_out.max(1) as f64).sqrt();
        let init = Init::uniform(-bound, bound);
        Recurrent { init, recurrent_init: init, bias_init: init, ..self }
    }

    /// So many layers on top of each other.
    pub fn layers(mut self, n_layers: usize) -> Self {
        self.n_layers = n_layers;
        self
    }

    /// Both directions, their outputs side by side, forward first.
    pub fn both_ways(mut self) -> Self {
        self.both_ways = true;
        self
    }

    /// From the last step to the first.
    pub fn reversed(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// In training, outputs of all layers but the last are dropped with this probability, in [0, 1).
    pub fn dropout(mut self, p: f64) -> Self {
        self.dropout = p;
        self
    }

    /// Dropout between layers zeroes the same numbers at all steps of a sequence (Gal and Ghahramani 2016); see also
    /// [`Recurrent::recurrent_dropout`] and, for what goes into the first layer, [`Dropout::shared_along`].
    pub fn variational(mut self) -> Self {
        self.variational = true;
        self
    }

    /// In training, numbers of the state are zeroed with this probability, in [0, 1), where the product with `name.recurrent` reads
    /// them: the same at all steps of a sequence (Gal and Ghahramani 2016).
    pub fn recurrent_dropout(mut self, p: f64) -> Self {
        self.recurrent_dropout = p;
        self
    }

    /// Layer norm in the cell (Ba et al. 2016): each product with `name.weight` and `name.recurrent` over all of its results, with a
    /// gain, and an LSTM's `c'` before its tanh, with gain and bias. At least 2 neurons.
    pub fn layer_norm(mut self) -> Self {
        self.layer_norm = true;
        self
    }

    /// Biases that start as this for an LSTM's forget gate and as 0 otherwise; an error for other cells.
    pub fn forget_bias(self, bias: f64) -> Self {
        self.bias_init(Init::forget_gate(bias))
    }

    /// Another start of the weights of inputs.
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// Another start of the weights of states.
    pub fn recurrent_init(mut self, init: Init) -> Self {
        self.recurrent_init = init;
        self
    }

    /// Another start of the biases.
    pub fn bias_init(mut self, init: Init) -> Self {
        self.bias_init = init;
        self
    }

    /// What is kept of the states for the gradients.
    pub fn checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.checkpoint = checkpoint;
        self
    }

    /// Outputs and last states for sequences `[batch, time, features]`.
    #[track_caller]
    pub fn run<'g>(&self, name: &str, x: Tensor<'g>, given: &Given<'g>) -> Sequences<'g> {
        let outer = x.builder().enter(name);
        let made = self.inside(name, x, given);
        x.builder().leave(outer);
        made
    }

    #[track_caller]
    fn inside<'g>(&self, name: &str, x: Tensor<'g>, given: &Given<'g>) -> Sequences<'g> {
        let kind = self.cell.name();
        let n_directions = if self.both_ways { 2 } else { 1 };
        let no = |outputs: Tensor<'g>| Sequences { outputs, states: Vec::new() };
        if !takes(kind, name, x, 3, "sequences are [batch, time, features]") {
            return no(refused(x, Some(n_directions * self.n_out)));
        }
        let shape = x.shape();
        if shape.rank() != 3
            || shape[2] == 0
            || self.n_out == 0
            || self.n_layers == 0
            || ![self.dropout, self.recurrent_dropout].iter().all(|p| (0.0..1.0).contains(p))
        {
            let required = format!(
                "sequences [batch, time, features] of features, neurons, layers and probabilities of dropout in [0, 1), got {shape}, \
                 {} neurons, {} layers, {} and {}",
                self.n_out, self.n_layers, self.dropout, self.recurrent_dropout
            );
            return no(bad_setting(x, kind, name, &required));
        }
        if self.layer_norm && self.n_out == 1 {
            return no(bad_setting(x, kind, name, "2 neurons or more for layer norm, got 1"));
        }
        if self.cell != Cell::Long && matches!(self.bias_init, Init::ForgetGate(_)) {
            return no(bad_setting(x, kind, name, "biases without forget gates, which LSTMs have, got `forget_bias`"));
        }
        let n_states = self.n_layers * n_directions * self.cell.n_states();
        if let Err(diag) = self.check(name, x, given, n_states) {
            x.builder().error(diag);
            return no(refused(x, Some(n_directions * self.n_out)));
        }
        // Time first: a step is a part of the first axis.
        let mut sequences = x.transpose([1, 0, 2]);
        let mask = given.mask.map(|mask| mask.transpose([1, 0]));
        let mut states = Vec::with_capacity(n_states);
        let mut starts = given.states.chunks(self.cell.n_states());
        for layer in 0..self.n_layers {
            let name = if self.n_layers == 1 { name.to_owned() } else { format!("{name}.{layer}") };
            let mut outputs = Vec::with_capacity(2);
            for reverse in [self.reverse, !self.reverse].into_iter().take(n_directions) {
                let way = if reverse { "backward" } else { "forward" };
                let name = if self.both_ways { format!("{name}.{way}") } else { name.clone() };
                let start = starts.next().unwrap_or_default();
                let (all, last) = self.direction(&name, sequences, (mask, start), reverse);
                outputs.push(all);
                states.extend(last);
            }
            let g = x.builder();
            sequences = if outputs.len() == 1 { outputs[0] } else { g.concat(&outputs, 2) };
            if layer + 1 < self.n_layers {
                let over_time = if self.variational { vec![0] } else { Vec::new() };
                let dropout = Dropout::new(self.dropout).shared_along(over_time);
                sequences = sequences.layer(&format!("{name}.dropout"), dropout);
            }
        }
        Sequences { outputs: sequences.transpose([1, 0, 2]), states }
    }

    /// What is wrong with mask and states.
    fn check(&self, name: &str, x: Tensor<'_>, given: &Given<'_>, n_states: usize) -> Result<(), Diag> {
        let (kind, shape) = (self.cell.name(), x.shape());
        let of = x.builder().scoped(name);
        let wanted = Type::tensor(DType::Bool, [shape[0], shape[1]]);
        if let Some(mask) = given.mask.filter(|mask| mask.ty() != wanted && !mask.is_poisoned()) {
            let text = format!("`{kind}` requires a mask of type {wanted}, got {} for layer `{of}`", mask.ty());
            return Err(Diag::new(Code::ShapeMismatch, text).made("the mask", mask));
        }
        if !given.states.is_empty() && given.states.len() != n_states {
            let text = format!("`{kind}` requires {n_states} states, got {} for layer `{of}`", given.states.len());
            return Err(
                Diag::new(Code::ShapeMismatch, text).help("layer by layer, forward before backward, `h` before `c`")
            );
        }
        let wanted = Type::tensor(x.dtype(), [shape[0], self.n_out]);
        match given.states.iter().find(|state| state.ty() != wanted && !state.is_poisoned()) {
            Some(state) => {
                let text = format!("`{kind}` requires states of type {wanted}, got {} for layer `{of}`", state.ty());
                Err(Diag::new(Code::ShapeMismatch, text).made("the state", *state))
            }
            None => Ok(()),
        }
    }

    /// One layer in one direction, time first: outputs and last states.
    #[track_caller]
    fn direction<'g>(
        &self,
        name: &str,
        x: Tensor<'g>,
        (mask, start): (Option<Tensor<'g>>, &[Tensor<'g>]),
        reverse: bool,
    ) -> (Tensor<'g>, Vec<Tensor<'g>>) {
        let (g, dtype, shape) = (x.builder(), x.dtype(), x.shape());
        let (time, batch, n_in, n) = (shape[0], shape[1], shape[2], self.n_out);
        let width = self.cell.n_gates() * n;
        let weight = g.param(&format!("{name}.weight"), dtype, [n_in, width], self.init);
        let recurrent = g.param(&format!("{name}.recurrent"), dtype, [n, width], self.recurrent_init);
        let bias = g.param(&format!("{name}.bias"), dtype, [width], self.bias_init);
        // One product over all steps.
        let mut gates = x.reshape([time * batch, n_in]).matmul(weight);
        let gain = |of: &str, n: usize| g.param(&format!("{name}.{of}.gain"), dtype, [n], Init::ONES);
        if self.layer_norm {
            gates = gates.normalize(-1, EPS) * gain("input_norm", width);
        }
        let gates = (gates + bias).reshape([time, batch, width]);
        let mut over = Loop::new().slice(gates).capture(recurrent).checkpoint(self.checkpoint);
        // In the order in which a step takes them.
        if self.cell.reset_after() {
            over = over.capture(g.param(&format!("{name}.recurrent_bias"), dtype, [width], self.bias_init));
        }
        if self.drops(g) {
            let ones = g.ones(dtype, [batch, n]);
            over = over.capture(ones.dropout(&format!("{name}.recurrent_dropout"), self.recurrent_dropout));
        }
        if self.layer_norm {
            over = over.capture(gain("recurrent_norm", width));
            if self.cell == Cell::Long {
                let bias = g.param(&format!("{name}.cell_norm.bias"), dtype, [n], Init::ZEROS);
                over = over.capture(gain("cell_norm", n)).capture(bias);
            }
        }
        for k in 0..self.cell.n_states() {
            over = over.carry(start.get(k).copied().unwrap_or_else(|| g.zeros(dtype, [batch, n])));
        }
        over = mask.into_iter().fold(over, |over, mask| over.slice(mask));
        let drops = self.drops(g);
        let made = g.scan(name, if reverse { over.reversed() } else { over }, |g, i| self.step(g, i, drops));
        (made.outputs[0], made.carries)
    }

    /// Whether numbers of the state are zeroed.
    fn drops(&self, g: &GraphBuilder) -> bool {
        self.recurrent_dropout > 0.0 && g.is_training()
    }

    /// One step.
    fn step<'b>(&self, g: &'b GraphBuilder, i: &Iteration<'b>, drops: bool) -> Made<'b> {
        let (x, h, n) = (i.slices[0], i.carries[0], self.n_out);
        let batch = h.dim(0);
        let mut captures = i.captures.iter().copied();
        let mut take = |there: bool| if there { captures.next() } else { None };
        let recurrent = i.captures[0];
        let (_, bias, mask) = (take(true), take(self.cell.reset_after()), take(drops));
        let (gain, long) = (take(self.layer_norm), self.layer_norm && self.cell == Cell::Long);
        let of_cell = take(long).zip(take(long));
        // Gates from one on and before another.
        let part = |t: Tensor<'b>, from: usize, to: usize| {
            let (mut start, mut limit) = (vec![0; t.rank()], t.shape().to_vec());
            let last = limit.len() - 1;
            (start[last], limit[last]) = (from * n, to * n);
            if from == 0 && limit[..] == t.shape()[..] { t } else { t.slice(&start, &limit) }
        };
        let gate = |t: Tensor<'b>, k: usize| part(t, k, k + 1);
        let product = |h: Tensor<'b>, from: usize, to: usize| {
            let h = mask.map_or(h, |mask| h * mask);
            let product = h.matmul(part(recurrent, from, to));
            gain.map_or(product, |gain| product.normalize(-1, EPS) * part(gain, from, to))
        };
        let mut carries = match self.cell {
            Cell::Plain => vec![(x + product(h, 0, 1)).tanh()],
            Cell::Long => {
                let gates = x + product(h, 0, 4);
                let [input, forget, new, output] = [0, 1, 2, 3].map(|k| gate(gates, k));
                let c = forget.sigmoid() * i.carries[1] + input.sigmoid() * new.tanh();
                let shown = of_cell.map_or(c, |(gain, bias)| c.layer_norm(gain, bias, EPS));
                vec![output.sigmoid() * shown.tanh(), c]
            }
            Cell::Gated { reset_after: true } => {
                let product = product(h, 0, 3);
                let product = bias.map_or(product, |bias| product + bias);
                let [reset, keep] = [0, 1].map(|k| (gate(x, k) + gate(product, k)).sigmoid());
                let new = (gate(x, 2) + reset * gate(product, 2)).tanh();
                vec![new + keep * (h - new)]
            }
            Cell::Gated { reset_after: false } => {
                let both = product(h, 0, 2);
                let [reset, keep] = [0, 1].map(|k| (gate(x, k) + gate(both, k)).sigmoid());
                let new = (gate(x, 2) + product(reset * h, 2, 3)).tanh();
                vec![new + keep * (h - new)]
            }
        };
        let mut output = carries[0];
        if let Some(mask) = i.slices.get(1) {
            let counts = mask.broadcast_along(&h.shape(), [0]);
            carries = carries.into_iter().zip(&i.carries).map(|(new, old)| counts.select(new, *old)).collect();
            output = counts.select(output, g.zeros(h.dtype(), [batch, n]));
        }
        Made { carries, outputs: vec![output] }
    }
}

impl Layer for Recurrent {
    #[track_caller]
    fn apply<'g>(&self, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        self.run(name, x, &Given::new()).outputs
    }
}
