//! Random well-typed graphs and values for them: what drives the differential tests.
//!
//! The same seed and options give the same graph. Graphs are of the source stage: composites, bodies and `grad` nodes
//! occur unless the options say otherwise. Estimates of magnitude are carried along, and values that grow are squashed, so
//! that most results are finite and comparisons mean something; now and then an op is applied outside of its domain, so
//! that NaN and infinities are seen too.

mod composites;
mod grow;
mod loops;
mod products;
mod training;
mod values;

use cotangent_graph::builder::GraphBuilder;
use cotangent_graph::{Body, DType, Graph, Init, NodeId, Shape, Tensor};

use crate::Rng;

pub use loops::loops;
pub use values::{edge_env, env, smooth_env};

/// What random graphs may contain.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many times an op (or a small group of ops) is added.
    pub n_ops: usize,
    /// The most elements of a tensor.
    pub max_elements: usize,
    /// Whether `grad` nodes occur, in about half of the graphs.
    pub grads: bool,
    /// Whether derivatives of derivatives occur.
    pub second_order: bool,
    /// Whether bodies and calls occur.
    pub bodies: bool,
    /// Whether loops occur.
    pub loops: bool,
    /// Whether composites (softmax, GELU, losses, …) occur.
    pub composites: bool,
    /// Whether random numbers and dropout occur.
    pub random_numbers: bool,
    /// Whether integers, truth values and conversions occur.
    pub integers: bool,
    /// Whether f64 occurs beside f32.
    pub mixed_floats: bool,
    /// The probability that a float is f64, where it occurs.
    pub doubles: f64,
    /// Whether gathers and scatters occur.
    pub gathers: bool,
    /// Whether running sums and products, recurrences and orders occur.
    pub recurrences: bool,
    /// Whether matrix products occur.
    pub matmuls: bool,
    /// The probability that a graph has train steps in small, where products occur.
    pub training: f64,
    /// Whether extents of 0 occur, in a few graphs.
    pub empty: bool,
    /// The probability that an op is applied where it may not be finite.
    pub wild: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            n_ops: 18,
            max_elements: 2048,
            grads: true,
            second_order: true,
            bodies: true,
            loops: true,
            composites: true,
            random_numbers: true,
            integers: true,
            mixed_floats: true,
            doubles: 0.12,
            gathers: true,
            recurrences: true,
            matmuls: true,
            training: 0.25,
            empty: true,
            wild: 0.02,
        }
    }
}

impl Options {
    /// Graphs on which comparisons to a tolerance mean something: no steps outside of domains, no empty tensors.
    pub fn tame() -> Self {
        Options { wild: 0.0, empty: false, ..Options::default() }
    }
}

/// A tensor with an estimate of the largest magnitude of its elements.
#[derive(Clone, Copy, Debug)]
struct Item<'g> {
    tensor: Tensor<'g>,
    magnitude: f64,
}

/// Where ops take their operands from.
struct Pool<'g, 'o> {
    g: &'g GraphBuilder,
    rng: Rng,
    options: &'o Options,
    /// Extents that shapes are made of, so that shapes meet again.
    extents: Vec<usize>,
    items: Vec<Item<'g>>,
    n_names: usize,
    /// Parameters and states that have an update.
    updated: Vec<NodeId>,
    /// How deep bodies are nested here.
    depth: usize,
}

/// The random graph of a seed.
///
/// # Panics
/// If the generator makes a mistake, with the errors that the builder recorded.
pub fn graph(seed: u64, options: &Options) -> Graph {
    let builder = GraphBuilder::new(&format!("random{seed}"));
    let mut pool = Pool::new(&builder, Rng::new(seed), options, 0);
    pool.sources();
    // Before the other ops, which then read what they compute, or after them.
    let trains = options.matmuls && options.training > 0.0 && pool.rng.chance(options.training);
    let (n_before, n_after) = if trains { *pool.rng.pick(&[(1, 0), (0, 1), (1, 1), (0, 2)]) } else { (0, 0) };
    (0..n_before).for_each(|_| pool.train());
    pool.grow(options.n_ops);
    (0..n_after).for_each(|_| pool.train());
    pool.finish();
    builder.finish().unwrap_or_else(|diags| panic!("seed {seed}: the generator made a mistake:\n{diags}"))
}

impl<'g, 'o> Pool<'g, 'o> {
    fn new(g: &'g GraphBuilder, mut rng: Rng, options: &'o Options, depth: usize) -> Self {
        const EXTENTS: [usize; 16] = [1, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 32, 33, 64, 67];
        let mut extents: Vec<usize> = (0..4).map(|_| *rng.pick(&EXTENTS)).collect();
        extents.extend([1, 2]);
        if options.empty && rng.chance(0.06) {
            extents[0] = 0;
        }
        if options.max_elements >= 1024 && rng.chance(0.2) {
            extents[1] = 100 + rng.below(200);
        }
        if options.max_elements >= 16_384 && rng.chance(0.5) {
            // Past the chunks of full reductions (4,096) and the blocks of products (256 to 512), primes among them.
            extents[2] = *rng.pick(&[521, 1021, 1024, 2053, 4096, 4099, 8191]);
        }
        Pool { g, rng, options, extents, items: Vec::new(), n_names: 0, updated: Vec::new(), depth }
    }

    /// A new name.
    fn name(&mut self, kind: &str) -> String {
        self.n_names += 1;
        format!("{kind}{}", self.n_names)
    }

    /// A random shape of at most the given rank.
    fn shape(&mut self, max_rank: usize) -> Shape {
        let rank = self.rng.below(max_rank + 1);
        let mut n = 1;
        let mut dims = Vec::new();
        for _ in 0..rank {
            let extent = *self.rng.pick(&self.extents);
            if n * extent <= self.options.max_elements {
                n *= extent;
                dims.push(extent);
            }
        }
        Shape::new(&dims)
    }

    fn float_type(&mut self) -> DType {
        if self.options.mixed_floats && self.rng.chance(self.options.doubles) { DType::F64 } else { DType::F32 }
    }

    fn push(&mut self, tensor: Tensor<'g>, magnitude: f64) {
        debug_assert!(!tensor.is_poisoned() || !self.g.is_ok());
        if !tensor.is_poisoned() && tensor.ty().as_tensor().is_some() {
            self.items.push(Item { tensor, magnitude });
        }
    }

    fn sources(&mut self) {
        for _ in 0..1 + self.rng.below(3) {
            let (dtype, shape, name) = (self.float_type(), self.shape(3), self.name("x"));
            let tensor = self.g.input(&name, dtype, shape);
            self.push(tensor, 2.0);
        }
        for _ in 0..1 + self.rng.below(3) {
            let (dtype, shape, name) = (self.float_type(), self.shape(3), self.name("w"));
            let init = *self.rng.pick(&[
                Init::ZEROS,
                Init::ONES,
                Init::constant(0.37),
                Init::uniform(-1.0, 1.0),
                Init::normal(0.1, 0.5),
                Init::GlorotUniform,
                Init::HeNormal,
            ]);
            let tensor = self.g.param(&name, dtype, shape, init);
            self.push(tensor, 4.0);
        }
        if self.rng.chance(0.3) {
            let (dtype, shape, name) = (self.float_type(), self.shape(2), self.name("s"));
            let tensor = self.g.state(&name, dtype, shape, Init::uniform(0.0, 1.0));
            self.push(tensor, 2.0);
        }
        if self.options.integers {
            for _ in 0..self.rng.below(3) {
                let dtype = *self.rng.pick(&[DType::I32, DType::I64, DType::U8, DType::Bool]);
                let (shape, name) = (self.shape(2), self.name("k"));
                let tensor = self.g.input(&name, dtype, shape);
                self.push(tensor, 8.0);
            }
        }
    }

    /// Outputs, updates and derivatives.
    fn finish(&mut self) {
        let n_items = self.items.len();
        if self.options.grads && self.rng.chance(0.5) {
            self.gradients();
        }
        for k in 0..1 + self.rng.below(4) {
            // Late items reach far back; a random one now and then keeps early ones alive beside their readers.
            let late = self.rng.chance(0.7);
            let from = if late { n_items.saturating_sub(4) } else { 0 };
            let index = from + self.rng.below(n_items - from);
            self.g.output(&format!("y{k}"), self.items[index].tensor);
        }
        // Views that change nothing return their operand, so a tensor can be there twice.
        let mut targets: Vec<Tensor<'g>> = self.items.iter().map(|i| i.tensor).filter(|t| is_carried(*t)).collect();
        targets.sort_by_key(|t| t.id());
        targets.dedup_by_key(|t| t.id());
        for target in targets {
            if !self.is_updated(target.id()) && self.rng.chance(0.5) {
                let ty = target.ty();
                let fits = self.items.iter().filter(|i| i.tensor.ty() == ty && i.tensor.id() != target.id());
                let fits: Vec<Item<'g>> = fits.copied().collect();
                let value = match fits.len() {
                    0 => target * 0.9,
                    n => target - fits[self.rng.below(n)].tensor * 0.1,
                };
                self.g.update(target, value);
            }
        }
    }

    /// A loss of a few items, its gradient by some items, and perhaps the gradient of that.
    fn gradients(&mut self) {
        let floats: Vec<Item<'g>> = self.items.iter().filter(|i| i.tensor.is_float()).copied().collect();
        let dtype = floats[floats.len() - 1].tensor.dtype();
        let mut loss = self.g.scalar(0.0, dtype);
        for _ in 0..1 + self.rng.below(3) {
            let late = floats.len().saturating_sub(6);
            let part = floats[late + self.rng.below(floats.len() - late)];
            let part = if part.magnitude > 4.0 { part.tensor.tanh() } else { part.tensor };
            let n = part.shape().n_elements();
            let total = if n > 0 { part.mean() } else { part.sum() };
            loss = loss + total.cast(dtype) * total.cast(dtype) + total.cast(dtype);
        }
        let mut wrt: Vec<Tensor<'g>> = floats.iter().map(|i| i.tensor).filter(|t| is_carried(*t)).collect();
        if self.rng.chance(0.3) {
            wrt.push(floats[self.rng.below(floats.len())].tensor);
        }
        if self.options.second_order && self.rng.chance(0.15) && !wrt.is_empty() {
            // Along a direction, which is a derivative of a derivative.
            let x = wrt[self.rng.below(wrt.len())];
            let direction = self.constant(x.dtype(), &x.shape(), -1.0, 1.0);
            self.g.output("along", self.g.jvp(loss, x, direction));
        }
        let gradients = self.g.grad(loss, &wrt);
        self.g.output("loss", loss);
        for (k, gradient) in gradients.iter().enumerate() {
            self.g.output(&format!("d{k}"), *gradient);
            if wrt[k].shape().n_elements() > 0 {
                self.push(*gradient, 10.0);
            }
        }
        if self.options.second_order && self.rng.chance(0.3) {
            let norm = gradients.iter().map(|d| d.square().sum().cast(dtype)).reduce(|a, b| a + b);
            if let Some(norm) = norm {
                let k = self.rng.below(wrt.len());
                let second = self.g.grad(norm, &wrt[k..=k]);
                self.g.output("dd", second[0]);
            }
        }
    }
}

/// Whether a tensor is a parameter or state.
fn is_carried(tensor: Tensor<'_>) -> bool {
    tensor.builder().with_graph(|graph| graph.node(tensor.id()).is_stored())
}

/// The bodies that calls use: closed graphs of a few ops.
fn body<'g>(pool: &mut Pool<'g, '_>, operands: &[Tensor<'g>]) -> Body {
    let types: Vec<_> = operands.iter().map(|t| t.ty()).collect();
    let (rng, n_ops) = (Rng::new(pool.rng.bits()), 2 + pool.rng.below(4));
    let n_results = 1 + pool.rng.below(2);
    let options = Options { random_numbers: false, ..pool.options.clone() };
    let (name, depth) = (pool.name("body"), pool.depth + 1);
    pool.g.body(&name, &types, |g, inputs| {
        let mut inner = Pool::new(g, rng, &options, depth);
        inputs.iter().for_each(|t| inner.push(*t, 4.0));
        inner.grow(n_ops);
        inner.items.iter().rev().take(n_results).map(|item| item.tensor).collect()
    })
}
