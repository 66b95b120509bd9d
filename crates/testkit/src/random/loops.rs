//! Random loops.

use cotangent_graph::builder::GraphBuilder;
use cotangent_graph::ops::scan::{Checkpoint, Loop, Made};
use cotangent_graph::{Graph, Init};

use super::{Item, Options, Pool};
use crate::Rng;

/// The most iterations: the interpreter, differences and tapes take each.
const MOST_ITERATIONS: usize = 5;

/// The random graph of a seed around a loop of which much can be taken out: products of the slice's parts and of carries with captures,
/// what is made of captures alone, and a few random ops beside them; with gradients in about half of the graphs.
///
/// # Panics
/// If the generator makes a mistake, with the errors that the builder recorded.
pub fn loops(seed: u64, options: &Options) -> Graph {
    let builder = GraphBuilder::new(&format!("loops{seed}"));
    let mut pool = Pool::new(&builder, Rng::new(seed), options, 0);
    pool.sources();
    pool.recur();
    pool.grow(pool.options.n_ops);
    pool.finish();
    builder.finish().unwrap_or_else(|diags| panic!("seed {seed}: the generator made a mistake:\n{diags}"))
}

impl<'g> Pool<'g, '_> {
    /// A recurrent loop: a slice, a carry, and matrices for both.
    fn recur(&mut self) {
        let (n, rows) = (self.rng.below(MOST_ITERATIONS + 1), *self.rng.pick(&[1, 1, 2, 3]));
        let [k, m] = [0, 1].map(|_| *self.rng.pick(&[1, 2, 3, 5, 8, 17]));
        let dtype = self.float_type();
        let (x, h) = (self.g.input("inputs", dtype, [n, rows, k]), self.g.input("start", dtype, [rows, m]));
        let weights = [("w", [k, m]), ("u", [m, m])];
        let [w, u] =
            weights.map(|(name, shape)| self.g.param(&format!("loop.{name}"), dtype, shape, Init::GlorotUniform));
        let checkpoint = *self.rng.pick(&[Checkpoint::All, Checkpoint::All, Checkpoint::Every(2)]);
        let over = Loop::new().carry(h).slice(x).capture(w).capture(u).checkpoint(checkpoint);
        let over = if self.rng.chance(0.4) { over.reversed() } else { over };
        let (mut rng, n_ops) = (Rng::new(self.rng.bits()), self.rng.below(6));
        let options = Options { random_numbers: false, max_elements: 256, ..self.options.clone() };
        let depth = self.depth + 1;
        let made = self.g.scan("recur", over, |g, i| {
            let (x, old, [w, u]) = (i.slices[0], i.carries[0], [i.captures[0], i.captures[1]]);
            // What leaves the loop, or may.
            let mut beside = Vec::new();
            for tensor in [
                x.matmul(w),
                x.matmul(w.tanh()),
                w.square().sum_over([0]).broadcast_to([rows, m]),
                u.exp().max_over([0]).broadcast_to([rows, m]),
            ] {
                if rng.chance(0.5) {
                    beside.push(tensor);
                }
            }
            let u = if rng.chance(0.3) { u * 0.5 } else { u };
            let sum = beside.iter().fold(old.matmul(u), |sum, &tensor| sum + tensor);
            let mut inner = Pool::new(g, rng, &options, depth);
            for tensor in [old, x, w, u, sum].into_iter().chain(beside) {
                inner.push(tensor, 4.0);
            }
            inner.grow(n_ops);
            let fits = |item: &&Item<'_>| item.tensor.ty() == old.ty();
            let next = inner.items.iter().rev().find(fits).map_or(old, |item| item.tensor);
            let output = inner.items.last().map_or(old, |item| item.tensor);
            Made { carries: vec![old * 0.5 + sum.tanh() * 0.25 + next.tanh() * 0.25], outputs: vec![output] }
        });
        self.push(made.carries[0], 2.0);
        if n * made.outputs[0].shape().n_elements() <= self.options.max_elements {
            self.push(made.outputs[0], 1e3);
        }
    }

    /// A loop over the parts of a tensor, with a carry and a capture; a body of a few ops.
    pub(super) fn repeat(&mut self) -> Option<()> {
        let slice = self.item(|i| i.tensor.is_float() && i.tensor.rank() > 0 && i.tensor.dim(0) <= MOST_ITERATIONS)?;
        let (slice, carry, capture) = (self.squashed(slice), self.float()?, self.float()?);
        let n = slice.tensor.dim(0);
        let checkpoint = if self.rng.chance(0.3) { Checkpoint::Every(2) } else { Checkpoint::All };
        let over = Loop::new().carry(carry.tensor).slice(slice.tensor).capture(capture.tensor).checkpoint(checkpoint);
        let over = if self.rng.chance(0.4) { over.reversed() } else { over };
        let (rng, n_ops, name) = (Rng::new(self.rng.bits()), 2 + self.rng.below(4), self.name("loop"));
        let options = Options { random_numbers: false, max_elements: 256, ..self.options.clone() };
        let depth = self.depth + 1;
        let made = self.g.scan(&name, over, |g, i| {
            let mut inner = Pool::new(g, rng, &options, depth);
            let old = i.carries[0];
            for (tensor, item) in [(old, carry), (i.slices[0], slice), (i.captures[0], capture)] {
                inner.push(tensor, item.magnitude.max(1.0));
            }
            inner.grow(n_ops);
            let fits = |item: &&Item<'_>| item.tensor.ty() == old.ty();
            let next = inner.items.iter().rev().find(fits).map_or(old, |item| item.tensor);
            let output = inner.items.last().map_or(old, |item| item.tensor);
            // Most of the old value goes on, so that gradients do.
            Made { carries: vec![old * 0.75 + next.tanh() * 0.25], outputs: vec![output] }
        });
        self.push(made.carries[0], carry.magnitude.max(1.0));
        if n * made.outputs[0].shape().n_elements() <= self.options.max_elements {
            self.push(made.outputs[0], 1e3);
        }
        Some(())
    }
}
