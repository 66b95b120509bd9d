//! Adding random ops to a pool of tensors.
//!
//! A step picks a family by weight and operands that fit; where none fit it does nothing, and the next step tries again.

use cotangent_graph::ops::math::SQRT_OF_SQUARES;
use cotangent_graph::ops::view::STRIDED;
use cotangent_graph::ops::windows::Windows;
use cotangent_graph::{Attr, Attrs, DType, Shape, Tensor, TensorData};

use super::{Item, Pool};

/// Values beyond this magnitude are squashed before they are used further.
const LARGE: f64 = 60.0;

/// A family of ops and how often it is tried.
type Family<'g, 'o> = (u32, fn(&mut Pool<'g, 'o>) -> Option<()>);

impl<'g, 'o> Pool<'g, 'o> {
    /// Adds `n` ops, or as many as fit in a bounded number of tries.
    pub(super) fn grow(&mut self, n: usize) {
        let options = self.options;
        let on = |flag: bool, weight: u32| if flag { weight } else { 0 };
        let families: [Family<'g, 'o>; 22] = [
            (22, Self::unary),
            (22, Self::binary),
            (6, Self::literal),
            (6, Self::compare_and_select),
            (14, Self::view),
            (4, Self::windows),
            (4, Self::broadcast),
            (3, Self::concat),
            (12, Self::reduce),
            (on(options.matmuls, 9), Self::matmul),
            (on(options.matmuls, 3), Self::convolution),
            (on(options.composites, 8), Self::composite),
            (on(options.composites, 6), Self::normalization),
            (on(options.composites && options.integers, 3), Self::class_loss),
            (on(options.gathers && options.integers, 5), Self::gather),
            (on(options.gathers && options.integers, 4), Self::moved),
            (on(options.recurrences, 4), Self::along),
            (on(options.integers, 8), Self::integer),
            (on(options.integers || options.mixed_floats, 4), Self::cast),
            (on(options.random_numbers && self.depth == 0, 4), Self::random),
            (on(options.bodies && self.depth < 2, 3), Self::call),
            (on(options.loops && self.depth < 2, 3), Self::repeat),
        ];
        let total: u32 = families.iter().map(|f| f.0).sum();
        let (mut done, mut tries) = (0, 0);
        while done < n && tries < 20 * n {
            tries += 1;
            let mut at = self.rng.below(total as usize) as u32;
            for (weight, family) in families {
                if at < weight {
                    done += usize::from(family(self).is_some());
                    break;
                }
                at -= weight;
            }
        }
    }

    /// A random item that passes a test; late ones are likelier, so that graphs grow deep.
    pub(super) fn item(&mut self, fits: impl Fn(&Item<'g>) -> bool) -> Option<Item<'g>> {
        let fitting: Vec<Item<'g>> = self.items.iter().filter(|i| fits(i)).copied().collect();
        if fitting.is_empty() {
            return None;
        }
        let late = fitting.len() - fitting.len().min(5);
        let from = if self.rng.chance(0.6) { late } else { 0 };
        Some(fitting[from + self.rng.below(fitting.len() - from)])
    }

    /// A float item, squashed if it has grown large.
    pub(super) fn float(&mut self) -> Option<Item<'g>> {
        let item = self.item(|i| i.tensor.is_float())?;
        Some(self.squashed(item))
    }

    pub(super) fn squashed(&mut self, item: Item<'g>) -> Item<'g> {
        if !item.tensor.is_float() || item.magnitude <= LARGE || self.rng.chance(self.options.wild) {
            return item;
        }
        let x = item.tensor;
        let (tensor, magnitude) = match self.rng.below(5) {
            0 => (x.tanh(), 1.0),
            1 => (x.clamp(-3.0, 3.0), 3.0),
            2 => ((x * (1.0 / item.magnitude)).sin(), 1.0),
            3 => (x.sigmoid(), 1.0),
            _ => (x * (2.0 / item.magnitude.min(1e30)), 2.0),
        };
        Item { tensor, magnitude }
    }

    fn wild(&mut self) -> bool {
        self.rng.chance(self.options.wild)
    }

    /// The tensor made positive and at least `low`, unless this is one of the wild steps.
    fn positive(&mut self, item: Item<'g>, low: f64) -> Item<'g> {
        if self.wild() {
            return item;
        }
        let x = item.tensor;
        let (tensor, magnitude) = match self.rng.below(3) {
            0 => (x.square() + low, item.magnitude * item.magnitude + low),
            1 => (x.sigmoid() + low, 1.0 + low),
            _ => (x.softplus() + low, item.magnitude + 1.0 + low),
        };
        Item { tensor, magnitude }
    }

    fn unary(&mut self) -> Option<()> {
        let item = self.float()?;
        let (x, m) = (item.tensor, item.magnitude);
        let (tensor, magnitude) = match self.rng.below(32) {
            0 => (-x, m),
            1 => (x.abs(), m),
            2 => (x.sign(), 1.0),
            3 => (x.floor(), m + 1.0),
            4 => (x.ceil(), m + 1.0),
            5 => (x.round(), m + 1.0),
            6 if m < 4.0 => (x.exp(), m.exp()),
            6 => ((-x.abs()).exp(), 1.0),
            7 if m < 4.0 => (x.expm1(), m.exp()),
            7 => (x.tanh().expm1(), 2.0),
            8 => (self.positive(item, 0.1).tensor.log(), 5.0 + m.ln().abs()),
            9 => (self.positive(item, 0.1).tensor.log1p(), 5.0 + m),
            10 => (self.positive(item, 0.1).tensor.sqrt(), m + 2.0),
            11 => (self.positive(item, 0.2).tensor.rsqrt(), 3.0),
            12 => (x.tanh(), 1.0),
            13 => (x.sigmoid(), 1.0),
            14 => (x.erf(), 1.0),
            15 if !self.wild() => ((x.tanh() * 0.9f64).erf_inv(), 2.0),
            15 => (x.erf_inv(), 4.0),
            16 => (x.softplus(), m + 1.0),
            17 => (x.sin(), 1.0),
            18 => (x.cos(), 1.0),
            19 | 20 => (x.relu(), m),
            21 => (x.leaky_relu(0.1), m),
            22 => (x.square(), m * m),
            23 => (x.powf(3.0), m * m * m),
            24 => (x.clamp(-0.7, 0.9), 1.0),
            25 => (x.stop_gradient(), m),
            26 => (x.normal_cdf(), 1.0),
            27 => (x.normal_pdf(), 0.4),
            28 => (x.tanh_slope(), 1.0),
            29 => (x.sigmoid_slope(), 0.25),
            30 => ((x * x + 0.5f64).unary(&SQRT_OF_SQUARES), m + 1.0),
            _ => (1.0 / self.positive(item, 0.3).tensor, 4.0),
        };
        self.push(tensor, magnitude);
        Some(())
    }

    /// A second float operand whose shape broadcasts with the first one's.
    pub(super) fn partner(&mut self, first: Tensor<'g>) -> Option<Item<'g>> {
        let (dtype, shape, most) = (first.dtype(), first.shape(), self.options.max_elements);
        let fits = |i: &Item<'g>| {
            let joint = || i.tensor.shape().broadcast(&shape);
            i.tensor.dtype() == dtype && joint().is_some_and(|s| s.n_elements() <= most)
        };
        let item = self.item(fits)?;
        Some(self.squashed(item))
    }

    fn binary(&mut self) -> Option<()> {
        let a = self.float()?;
        let b = self.partner(a.tensor)?;
        let (a, b) = if self.rng.chance(0.5) { (a, b) } else { (b, a) };
        let (x, y, m, n) = (a.tensor, b.tensor, a.magnitude, b.magnitude);
        let (tensor, magnitude) = match self.rng.below(9) {
            0 | 1 => (x + y, m + n),
            2 => (x - y, m + n),
            3 | 4 => (x * y, m * n),
            5 => (x / self.positive(b, 0.3).tensor, m * 4.0),
            6 => (x.maximum(y), m.max(n)),
            7 => (x.minimum(y), m.max(n)),
            _ => {
                let base = self.positive(a, 0.3);
                let exponent = if n > 2.0 && !self.wild() { y.tanh() } else { y };
                let exponent_magnitude = n.min(2.0);
                (base.tensor.pow(exponent), base.magnitude.max(4.0).powf(exponent_magnitude))
            }
        };
        self.push(tensor, magnitude);
        Some(())
    }

    fn literal(&mut self) -> Option<()> {
        let item = self.float()?;
        let x = item.tensor;
        let number = *self.rng.pick(&[0.0, 1.0, -1.0, 2.0, 0.5, -0.25, 3.0, 0.1]);
        let scale: f64 = item.magnitude + 3.0;
        let (tensor, magnitude) = match self.rng.below(6) {
            0 => (x + number, scale),
            1 => (x - number, scale),
            2 => (number - x, scale),
            3 => (x * number, 3.0 * item.magnitude),
            4 if number != 0.0 => (x / number, 10.0 * item.magnitude),
            4 => (x * 1.0, item.magnitude),
            _ => {
                let (dtype, shape) = (x.dtype(), x.shape());
                let constant = self.constant(dtype, &shape, -2.0, 2.0);
                (x + constant, item.magnitude + 2.0)
            }
        };
        self.push(tensor, magnitude);
        Some(())
    }

    /// A constant of random numbers.
    pub(super) fn constant(&mut self, dtype: DType, shape: &Shape, low: f64, high: f64) -> Tensor<'g> {
        let rng = &mut self.rng;
        let bits: Vec<u64> = (0..shape.n_elements()).map(|_| dtype.bits_of_f64(rng.float(low..high))).collect();
        self.g.constant(TensorData::from_bits(dtype, shape, &bits))
    }

    fn compare_and_select(&mut self) -> Option<()> {
        let a = self.float()?;
        let b = self.partner(a.tensor)?;
        let (x, y) = (a.tensor, b.tensor);
        let mut condition = match self.rng.below(6) {
            0 => x.gt(y),
            1 => x.ge(y),
            2 => x.lt(y),
            3 => x.le(y),
            4 => x.eq(y),
            _ => x.ne(y),
        };
        let (dtype, shape) = (condition.dtype(), condition.shape());
        let other = self.item(|i| i.tensor.dtype() == dtype && i.tensor.shape() == shape);
        if let Some(other) = other {
            condition = match self.rng.below(4) {
                0 => condition & other.tensor,
                1 => condition | other.tensor,
                2 => condition ^ other.tensor,
                _ => !condition,
            };
        }
        if self.options.integers && self.rng.chance(0.3) {
            self.push(condition, 1.0);
        }
        self.push(condition.select(x, y), a.magnitude.max(b.magnitude));
        Some(())
    }

    fn view(&mut self) -> Option<()> {
        let item = self.item(|_| true)?;
        let x = item.tensor;
        let (shape, rank) = (x.shape(), x.rank());
        let tensor = match self.rng.below(7) {
            0 => {
                let to = self.other_shape(&shape);
                x.reshape(to)
            }
            1 | 2 if rank >= 2 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                for i in (1..rank).rev() {
                    perm.swap(i, self.rng.below(i + 1));
                }
                x.transpose(&perm)
            }
            3 | 4 if rank >= 1 => {
                let (mut start, mut limit, mut step) = (Vec::new(), Vec::new(), Vec::new());
                for &n in shape.iter() {
                    let low = self.rng.below(n.div_ceil(2).max(1)).min(n);
                    let high = n - self.rng.below((n - low).div_ceil(2).max(1)).min(n - low);
                    start.push(low);
                    limit.push(high);
                    step.push(*self.rng.pick(&[1, 1, 1, 2, 3]));
                }
                x.slice_steps(&start, &limit, &step)
            }
            5 if rank >= 1 => {
                let axes: Vec<usize> = (0..rank).filter(|_| self.rng.chance(0.6)).collect();
                x.flip(&axes)
            }
            6 if rank >= 1 && x.dtype() != DType::Bool => {
                let low: Vec<usize> = (0..rank).map(|_| self.rng.below(3)).collect();
                let high: Vec<usize> = (0..rank).map(|_| self.rng.below(3)).collect();
                let n: usize = (0..rank).map(|i| shape[i] + low[i] + high[i]).product();
                if n > self.options.max_elements {
                    return None;
                }
                let least = if x.dtype() == DType::U8 { 2.0 } else { -2.0 };
                let value = *self.rng.pick(&[0.0, 0.0, 1.0, least]);
                x.pad(&low, &high, value)
            }
            _ => return None,
        };
        self.push(tensor, item.magnitude.max(2.0));
        Some(())
    }

    /// Overlapping pieces of a tensor: themselves, reduced, or added up again.
    fn windows(&mut self) -> Option<()> {
        let item = self.item(|i| i.tensor.dtype() != DType::Bool && i.tensor.rank() >= 1)?;
        let (x, shape) = (item.tensor, item.tensor.shape());
        let axes: Vec<usize> = (0..shape.rank()).filter(|&a| shape[a] > 0 && self.rng.chance(0.6)).take(2).collect();
        let mut numbers = |most: usize| -> Vec<usize> { axes.iter().map(|_| 1 + self.rng.below(most)).collect() };
        let (mut size, stride, dilation) = (numbers(3), numbers(3), numbers(2));
        for (k, &axis) in axes.iter().enumerate() {
            if (size[k] - 1) * dilation[k] >= shape[axis] {
                size[k] = 1;
            }
        }
        if axes.is_empty() || shape.n_elements() * size.iter().product::<usize>() > self.options.max_elements {
            return None;
        }
        let w = Windows::new(&axes, &size).stride(&stride).dilation(&dilation);
        let extents: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
        let padding: Vec<(usize, usize)> = axes.iter().map(|_| (self.rng.below(3), self.rng.below(3))).collect();
        let padded = w.clone().padding(&padding);
        let n = size.iter().product::<usize>() as f64;
        let (tensor, magnitude) = match self.rng.below(5) {
            0 if self.options.composites => (x.windows(&w), item.magnitude),
            1 if self.options.composites => {
                let w = if self.rng.below(2) == 0 { &w } else { &padded };
                (x.windows(w).overlap_add(w, &extents), item.magnitude * n)
            }
            2 if self.options.composites => (x.max_pool(&padded), item.magnitude),
            3 if self.options.composites && x.is_float() => (x.mean_pool(&padded), item.magnitude),
            // The pieces of one axis, from the last backwards.
            _ => {
                let (axis, last) = (axes[0], shape[axes[0]] as i64 - 1);
                let mut to = shape.to_vec();
                (to[axis], _) = (shape[axis] - size[0] + 1, to.push(size[0]));
                let mut offset = vec![0; shape.rank()];
                offset[axis] = last;
                let mut steps = vec![0; shape.rank() * to.len()];
                for a in 0..shape.rank() {
                    steps[a * to.len() + a] = if a == axis { -1 } else { 1 };
                }
                steps[axis * to.len() + shape.rank()] = -1;
                let attrs = Attrs::none().with("shape", &to[..]);
                let list = |values: Vec<i64>| Attr::Ints(values.into_iter().collect());
                let attrs = attrs.with("offset", list(offset)).with("steps", list(steps));
                (x.unary_with(&STRIDED, attrs), item.magnitude)
            }
        };
        self.push(tensor, magnitude.max(2.0));
        Some(())
    }

    /// Another shape of as many elements.
    fn other_shape(&mut self, shape: &Shape) -> Shape {
        let n = shape.n_elements();
        match self.rng.below(4) {
            0 => Shape::new(&[n]),
            1 => {
                let divisors: Vec<usize> = (1..=n.min(64)).filter(|d| n.is_multiple_of(*d)).collect();
                match divisors.is_empty() {
                    true => Shape::new(&[n, 1]),
                    false => {
                        let d = *self.rng.pick(&divisors);
                        Shape::new(&[d, n / d])
                    }
                }
            }
            2 => {
                let at = self.rng.below(shape.rank() + 1);
                let mut dims = shape.to_vec();
                dims.insert(at, 1);
                if dims.len() > 5 { Shape::new(&[n]) } else { Shape::new(&dims) }
            }
            _ => Shape::new(&shape.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>()),
        }
    }

    fn broadcast(&mut self) -> Option<()> {
        let item = self.item(|i| i.tensor.rank() <= 3)?;
        let x = item.tensor;
        let extent = *self.rng.pick(&self.extents);
        let at = self.rng.below(x.rank() + 1);
        let mut dims = x.shape().to_vec();
        dims.insert(at, extent);
        let shape = Shape::new(&dims);
        if shape.n_elements() > self.options.max_elements {
            return None;
        }
        self.push(x.repeat_along(&shape, [at]), item.magnitude);
        Some(())
    }

    fn concat(&mut self) -> Option<()> {
        let item = self.item(|i| i.tensor.rank() >= 1)?;
        let (dtype, shape) = (item.tensor.dtype(), item.tensor.shape());
        let axis = self.rng.below(shape.rank());
        let mut parts = vec![item.tensor];
        let mut magnitude = item.magnitude;
        let fits = |i: &Item<'g>| {
            let other = i.tensor.shape();
            i.tensor.dtype() == dtype
                && other.rank() == shape.rank()
                && other.without(&[axis]) == shape.without(&[axis])
        };
        for _ in 0..1 + self.rng.below(2) {
            let other = self.item(fits)?;
            parts.push(other.tensor);
            magnitude = magnitude.max(other.magnitude);
        }
        let n: usize = parts.iter().map(|p| p.shape().n_elements()).sum();
        if n > self.options.max_elements {
            return None;
        }
        self.push(self.g.concat(&parts, axis), magnitude);
        Some(())
    }

    fn reduce(&mut self) -> Option<()> {
        let item = self.item(|i| i.tensor.dtype() != DType::Bool && i.tensor.rank() >= 1)?;
        let item = if item.tensor.is_float() { self.squashed(item) } else { item };
        let (x, shape) = (item.tensor, item.tensor.shape());
        let mut axes: Vec<usize> = (0..shape.rank()).filter(|_| self.rng.chance(0.5)).collect();
        if axes.is_empty() {
            axes.push(self.rng.below(shape.rank()));
        }
        let n: usize = axes.iter().map(|&a| shape[a]).product();
        let (tensor, magnitude) = match self.rng.below(7) {
            0 | 1 => (x.sum_over(&axes), item.magnitude * n as f64),
            2 if n > 0 => (x.max_over(&axes), item.magnitude),
            3 if n > 0 => (x.min_over(&axes), item.magnitude),
            4 if n <= 8 => (x.prod_over(&axes), item.magnitude.powi(n as i32)),
            5 if n > 0 && x.is_float() && self.options.composites => (x.mean_over(&axes), item.magnitude),
            6 if shape[axes[0]] > 0 && self.options.composites && self.options.integers => {
                (if self.rng.chance(0.5) { x.argmax(axes[0]) } else { x.argmin(axes[0]) }, n as f64)
            }
            _ => return None,
        };
        self.push(tensor, magnitude);
        Some(())
    }

    /// Indices below `bound`: an input (whose values the environment keeps in range), an iota, or a constant.
    pub(super) fn indices(&mut self, bound: usize, shape: &Shape) -> Tensor<'g> {
        let dtype = *self.rng.pick(&[DType::I32, DType::I64]);
        let along = (0..shape.rank()).find(|&a| shape[a] <= bound);
        let indices = match (self.rng.below(5), along) {
            (0..=2, _) if self.depth == 0 => {
                let name = self.name("index");
                self.g.input(&name, dtype, shape)
            }
            (3, Some(axis)) => self.g.iota(dtype, shape, axis),
            _ => self.constant(dtype, shape, 0.0, bound as f64),
        };
        if self.rng.chance(0.2) { indices.check_index(bound) } else { indices }
    }

    fn gather(&mut self) -> Option<()> {
        let item = self.item(|i| i.tensor.shape().first().is_some_and(|&n| n > 0))?;
        let (x, shape, most) = (item.tensor, item.tensor.shape(), self.options.max_elements);
        let (tensor, magnitude) = match self.rng.below(6) {
            0 | 1 => {
                let picked = self.shape(2);
                if picked.n_elements() * shape[1..].iter().product::<usize>() > most {
                    return None;
                }
                let indices = self.indices(shape[0], &picked);
                (x.gather(indices), item.magnitude)
            }
            2 if x.dtype() != DType::Bool => {
                let rows = 1 + self.rng.below(20);
                if rows * shape[1..].iter().product::<usize>() > most {
                    return None;
                }
                let indices = self.indices(rows, &Shape::new(&shape[..1]));
                (x.scatter_add(indices, rows), item.magnitude * shape[0] as f64)
            }
            3 if self.options.composites => {
                let (depth, picked) = (1 + self.rng.below(12), self.shape(2));
                if picked.n_elements() * depth > most {
                    return None;
                }
                let to = *self.rng.pick(&[DType::F32, DType::F32, DType::I32, DType::Bool]);
                (self.indices(depth, &picked).one_hot(depth, to), 1.0)
            }
            4 if self.options.composites && !shape.contains(&0) => {
                let (axis, n) = (self.rng.below(shape.rank()), 1 + self.rng.below(6));
                let extent = |(other, &m): (usize, &usize)| if other == axis { n } else { m };
                let picked: Shape = shape.iter().enumerate().map(extent).collect();
                if picked.n_elements() > most {
                    return None;
                }
                let indices = self.indices(shape[axis], &picked);
                (x.take_along_axis(indices, axis), item.magnitude)
            }
            5 if self.options.composites && x.dtype() != DType::Bool => {
                let (axis, extent) = (self.rng.below(shape.rank()), 1 + self.rng.below(12));
                let most_added = item.magnitude * shape[axis] as f64;
                let result = shape.n_elements() / shape[axis].max(1) * extent;
                if result > most {
                    return None;
                }
                let indices = self.indices(extent, &shape);
                (x.scatter_along_axis(indices, axis, extent), most_added)
            }
            _ => return None,
        };
        self.push(tensor, magnitude);
        Some(())
    }

    /// Slices and rows whose places are known at run time.
    fn moved(&mut self) -> Option<()> {
        let item = self.item(|i| i.tensor.rank() >= 1 && !i.tensor.shape().contains(&0))?;
        let (x, shape) = (item.tensor, item.tensor.shape());
        let sizes: Vec<usize> = shape.iter().map(|&n| 1 + self.rng.below(n)).collect();
        let part = |pool: &mut Self, shape: &Shape| match x.is_float() {
            true => pool.constant(x.dtype(), shape, -2.0, 2.0),
            false => pool.constant(x.dtype(), shape, 0.0, 2.0),
        };
        let tensor = match self.rng.below(3) {
            0 | 1 => {
                let scalar = Shape::default();
                let starts: Vec<Tensor<'g>> =
                    shape.iter().zip(&sizes).map(|(n, size)| self.indices(n - size + 1, &scalar)).collect();
                if self.rng.chance(0.5) {
                    x.dynamic_slice(&starts, sizes)
                } else {
                    let part = part(self, &Shape::new(&sizes));
                    x.dynamic_update_slice(part, &starts)
                }
            }
            _ => {
                let n = 1 + self.rng.below(5);
                let rows: Shape = [n].iter().chain(&shape[1..]).copied().collect();
                if rows.n_elements() > self.options.max_elements {
                    return None;
                }
                let (rows, indices) = (part(self, &rows), self.indices(shape[0], &Shape::new(&[n])));
                x.scatter_set(rows, indices)
            }
        };
        self.push(tensor, item.magnitude.max(2.0));
        Some(())
    }

    /// Running sums and products, recurrences, and orders along an axis.
    fn along(&mut self) -> Option<()> {
        let item = self.item(|i| i.tensor.rank() >= 1)?;
        let item = if item.tensor.is_float() { self.squashed(item) } else { item };
        let (x, shape) = (item.tensor, item.tensor.shape());
        let axis = self.rng.below(shape.rank());
        let (n, reverse, exclusive) = (shape[axis], self.rng.chance(0.3), self.rng.chance(0.3));
        let (is_bool, with_orders) = (x.dtype() == DType::Bool, self.options.composites && self.options.integers);
        let (tensor, magnitude) = match self.rng.below(6) {
            0 if !is_bool => (x.cumsum_with(axis, reverse, exclusive), item.magnitude * n.max(1) as f64),
            1 if !is_bool && n <= 8 => {
                (x.cumprod_with(axis, reverse, exclusive), item.magnitude.max(1.0).powi(n as i32))
            }
            2 if x.is_float() => {
                let a = self.item(|i| i.tensor.dtype() == x.dtype() && i.tensor.shape() == shape)?;
                let (a, y) = (a.tensor.tanh(), item.magnitude * n.max(1) as f64);
                (x.linear_recurrence_with(a, axis, reverse), y)
            }
            3 if with_orders => (x.argsort_with(axis, reverse), n as f64),
            4 if with_orders => (x.sort_with(axis, reverse), item.magnitude),
            5 if with_orders => {
                let (values, places) = x.top_k(self.rng.below(n + 1), axis);
                self.push(places, n as f64);
                (values, item.magnitude)
            }
            _ => return None,
        };
        self.push(tensor, magnitude);
        Some(())
    }

    fn integer(&mut self) -> Option<()> {
        let a = self.item(|i| !i.tensor.is_float())?;
        let b = self.partner(a.tensor)?;
        let (x, y) = (a.tensor, b.tensor);
        let is_bool = x.dtype() == DType::Bool;
        let tensor = match self.rng.below(12) {
            0 => x & y,
            1 => x | y,
            2 => x ^ y,
            3 => !x,
            4 => x.eq(y),
            5 if !is_bool => x + y,
            6 if !is_bool => x - y,
            7 if !is_bool => x * y,
            8 if !is_bool => x / y,
            9 if !is_bool => x.maximum(y),
            10 if !is_bool => -x.abs(),
            11 if !is_bool => x.lt(y),
            _ => return None,
        };
        self.push(tensor, 1e9);
        Some(())
    }

    fn cast(&mut self) -> Option<()> {
        let item = self.item(|_| true)?;
        let mut to = Vec::new();
        if self.options.mixed_floats {
            to.extend([DType::F32, DType::F64]);
        }
        if self.options.integers {
            to.extend([DType::F32, DType::F32, DType::I32, DType::I64, DType::U8, DType::Bool]);
        }
        let to = *self.rng.pick(&to);
        if to == item.tensor.dtype() {
            return None;
        }
        // Floats from large integers are rounded, so they are brought down first.
        let item = if item.tensor.is_float() { self.squashed(item) } else { item };
        self.push(item.tensor.cast(to), item.magnitude);
        Some(())
    }

    fn random(&mut self) -> Option<()> {
        let name = self.name("stream");
        if self.rng.chance(0.5) {
            let item = self.float()?;
            let p = *self.rng.pick(&[0.1, 0.5, 0.9]);
            if !self.options.composites {
                return None;
            }
            self.push(item.tensor.dropout(&name, p), item.magnitude * 10.0);
        } else {
            let (dtype, shape) = (self.float_type(), self.shape(2));
            match self.rng.chance(0.5) {
                true => self.push(self.g.uniform(&name, dtype, shape), 1.0),
                false => self.push(self.g.normal(&name, dtype, shape), 6.0),
            }
        }
        Some(())
    }

    fn call(&mut self) -> Option<()> {
        let mut operands = Vec::new();
        for _ in 0..1 + self.rng.below(2) {
            operands.push(self.float()?.tensor);
        }
        let body = super::body(self, &operands);
        for result in self.g.call(&body, &operands) {
            self.push(result, 1e3);
        }
        Some(())
    }
}
