//! Train steps in small: matrix products whose results are summed by columns and change parameters as optimisers do.
//!
//! Grown graphs seldom have a product of more than 64 rows, the block of column sums, with a sum of columns behind it or
//! behind the update that it is for; here every one has. Products of one row, one column and one term occur too.

use cotangent_graph::{DType, Init, NodeId, Shape, Tensor};

use super::{Item, Pool};

/// Rows around whole blocks of 64, and few.
const ROWS: [usize; 16] = [1, 1, 2, 17, 63, 64, 65, 67, 100, 127, 128, 129, 192, 193, 200, 300];
/// Columns around whole vectors.
const COLUMNS: [usize; 14] = [1, 1, 2, 3, 4, 5, 7, 8, 9, 10, 16, 17, 31, 33];
/// Terms of each element of a product.
const TERMS: [usize; 10] = [1, 1, 2, 3, 4, 8, 13, 16, 33, 70];

impl<'g> Pool<'g, '_> {
    /// A parameter that a product changes, or a chain of two of them.
    pub(super) fn train(&mut self) {
        let dtype = self.float_type();
        let [m, n, k] = self.product_extents();
        let name = self.name("w");
        let w = self.g.param(&name, dtype, [m, n], Init::GlorotUniform);
        let mut gradient = match self.options.grads && self.rng.chance(0.4) {
            true => self.gradient_of(w, k),
            false => self.product(dtype, [m, n, k]),
        };
        if self.rng.chance(0.3) {
            // As behind a ReLU: zero where the forward value was.
            let name = self.name("x");
            let forward = self.g.input(&name, dtype, [m, n]);
            gradient = forward.gt(forward.constant_like(0.0)).select(gradient, gradient.constant_like(0.0));
        }
        if self.rng.chance(0.5) {
            self.columns(gradient, m);
        }
        self.push(gradient, 8.0);
        let mut new = self.optimizer(w, gradient);
        if self.rng.chance(0.5) {
            new = self.max_norm(new);
        }
        if self.rng.chance(0.4) {
            self.columns(new, m);
        }
        self.push(new, 8.0);
        self.update(w, new);
    }

    /// Rows, columns and terms of a product that is not too large.
    fn product_extents(&mut self) -> [usize; 3] {
        let most = self.options.max_elements;
        for _ in 0..20 {
            let (m, n, k) = (*self.rng.pick(&ROWS), *self.rng.pick(&COLUMNS), *self.rng.pick(&TERMS));
            let extents = match self.options.empty && self.rng.chance(0.02) {
                true => [[0, n, k], [m, 0, k], [m, n, 0]][self.rng.below(3)],
                false => [m, n, k],
            };
            if [m * n, m * k, k * n].iter().all(|&n| n <= most) {
                return extents;
            }
        }
        [most.min(65), 1, 1]
    }

    /// An operand of a product: new, or an item of this shape.
    fn operand(&mut self, dtype: DType, shape: &Shape) -> Tensor<'g> {
        let known = self.item(|i| i.tensor.dtype() == dtype && i.tensor.shape() == *shape);
        match known.filter(|_| self.rng.chance(0.5)) {
            Some(known) => self.squashed(known).tensor,
            None => {
                let name = self.name("x");
                self.g.input(&name, dtype, shape)
            }
        }
    }

    /// A product of `m` rows, `n` columns and `k` terms, of operands as they are or transposed.
    fn product(&mut self, dtype: DType, [m, n, k]: [usize; 3]) -> Tensor<'g> {
        let (ta, tb) = (self.rng.chance(0.5), self.rng.chance(0.3));
        let a = self.operand(dtype, &Shape::new(&if ta { [k, m] } else { [m, k] }));
        let b = self.operand(dtype, &Shape::new(&if tb { [n, k] } else { [k, n] }));
        a.matmul_with(b, ta, tb)
    }

    /// The gradient of a layer's loss by its weights, with rows of data as the terms.
    fn gradient_of(&mut self, w: Tensor<'g>, n_rows: usize) -> Tensor<'g> {
        let (shape, dtype) = (w.shape(), w.dtype());
        let x = self.operand(dtype, &Shape::new(&[n_rows, shape[0]]));
        let name = self.name("w");
        let bias = self.g.param(&name, dtype, [shape[1]], Init::constant(0.1));
        let z = x.matmul(w) + bias;
        let y = match self.rng.below(4) {
            0 => z.relu(),
            1 => z.tanh(),
            2 => z.sigmoid(),
            _ => z,
        };
        let loss = (y.square() * 0.5).sum();
        let gradients = self.g.grad(loss, &[w, bias]);
        self.push(y, 4.0);
        let new = self.optimizer(bias, gradients[1]);
        self.update(bias, new);
        gradients[0]
    }

    /// What one of the optimisers makes of a parameter.
    fn optimizer(&mut self, w: Tensor<'g>, gradient: Tensor<'g>) -> Tensor<'g> {
        let (dtype, shape) = (w.dtype(), w.shape());
        let mut gradient = gradient;
        if self.rng.chance(0.2) {
            // Clipped by the norm of the whole.
            let norm = gradient.square().sum().sqrt();
            gradient *= 1.0 / norm.maximum(norm.constant_like(1.0));
        }
        if self.rng.chance(0.2) {
            gradient += w * 0.01;
        }
        let state = |pool: &mut Self, init| {
            let name = pool.name("s");
            pool.g.state(&name, dtype, shape.clone(), init)
        };
        match self.rng.below(4) {
            0 | 1 => w - gradient * 0.1,
            2 => {
                let velocity = state(self, Init::ZEROS);
                let next = velocity * 0.9 + gradient;
                self.update(velocity, next);
                w - next * 0.1
            }
            _ => {
                let (mean, square) = (state(self, Init::ZEROS), state(self, Init::constant(0.5)));
                let next_mean = mean * 0.9 + gradient * 0.1;
                let next_square = square * 0.99 + gradient.square() * 0.01;
                self.update(mean, next_mean);
                self.update(square, next_square);
                w - next_mean * 0.05 / (next_square.sqrt() + 1e-3)
            }
        }
    }

    /// Columns (or rows) of a norm of at most 1.
    fn max_norm(&mut self, new: Tensor<'g>) -> Tensor<'g> {
        let axis = usize::from(self.rng.chance(0.2));
        let norm = new.square().sum_over([axis]).sqrt();
        let scale = 1.0 / norm.maximum(norm.constant_like(1.0));
        new * scale.repeat_along(&new.shape(), [axis])
    }

    /// Something of each column as an output.
    fn columns(&mut self, x: Tensor<'g>, n_rows: usize) {
        let (tensor, magnitude) = match self.rng.below(5) {
            0 => (x.square().sum_over([0]), 1e3),
            1 if n_rows > 0 => (x.max_over([0]), 8.0),
            2 if n_rows > 0 => (x.mean_over([0]), 8.0),
            _ => (x.sum_over([0]), 1e3),
        };
        let name = self.name("columns");
        self.g.output(&name, tensor);
        self.items.push(Item { tensor, magnitude });
    }

    fn update(&mut self, target: Tensor<'g>, value: Tensor<'g>) {
        self.g.update(target, value);
        self.updated.push(target.id());
    }

    pub(super) fn is_updated(&self, id: NodeId) -> bool {
        self.updated.contains(&id)
    }
}
