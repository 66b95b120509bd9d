//! Random loops.

use cotangent_graph::ops::scan::{Checkpoint, Loop, Made};

use super::{Item, Options, Pool};
use crate::Rng;

/// The most iterations: the interpreter, differences and tapes take each.
const MOST_ITERATIONS: usize = 5;

impl<'g> Pool<'g, '_> {
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
