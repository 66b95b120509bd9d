//! Random products: of matrices, and convolutions.

use cotangent_graph::ops::conv::{CONV_WEIGHTS, Convolution};
use cotangent_graph::{Attr, Attrs, DType, Init, Shape, Tensor};

use super::{Item, Pool};

/// The most multiply-adds of a convolution: the interpreter takes them one by one.
const MOST_MULTIPLY_ADDS: usize = 1 << 15;

impl<'g> Pool<'g, '_> {
    /// A product of matrices, perhaps a batch of them, perhaps transposed.
    pub(super) fn matmul(&mut self) -> Option<()> {
        let a = self.item(|i| i.tensor.is_float() && (2..=3).contains(&i.tensor.rank()))?;
        let a = self.squashed(a);
        let (shape, dtype, most) = (a.tensor.shape(), a.tensor.dtype(), self.options.max_elements);
        let rank = shape.rank();
        let (ta, tb) = (self.rng.chance(0.3), self.rng.chance(0.3));
        let (m, k) = if ta { (shape[rank - 1], shape[rank - 2]) } else { (shape[rank - 2], shape[rank - 1]) };
        let lead: usize = shape[..rank - 2].iter().product();
        let inner = |s: &Shape| s[s.rank() - if tb { 1 } else { 2 }];
        let outer = |s: &Shape| s[s.rank() - if tb { 2 } else { 1 }];
        let fits = |i: &Item<'g>| {
            let s = i.tensor.shape();
            let leads = s.rank() == 2 || (s.rank() == rank && s[..s.rank() - 2] == shape[..rank - 2]);
            i.tensor.dtype() == dtype && s.rank() >= 2 && leads && inner(&s) == k && lead * m * outer(&s) <= most
        };
        let known = if self.rng.chance(0.5) { self.item(fits) } else { None };
        let b = match known {
            Some(b) => self.squashed(b),
            None => {
                let n = *self.rng.pick(&self.extents);
                if k * n > most || lead * m * n > most {
                    return None;
                }
                let shape = if tb { Shape::new(&[n, k]) } else { Shape::new(&[k, n]) };
                let tensor = self.weights(dtype, shape);
                self.push(tensor, 2.0);
                Item { tensor, magnitude: 2.0 }
            }
        };
        self.push(a.tensor.matmul_with(b.tensor, ta, tb), a.magnitude * b.magnitude * (k.max(1) as f64).sqrt() * 2.0);
        Some(())
    }

    /// A parameter, or in a body a constant.
    fn weights(&mut self, dtype: DType, shape: Shape) -> Tensor<'g> {
        match self.depth {
            0 => {
                let name = self.name("w");
                self.g.param(&name, dtype, shape, Init::GlorotUniform)
            }
            _ => self.constant(dtype, &shape, -1.0, 1.0),
        }
    }

    /// A convolution or one of its adjoints, of whatever has floats, as an image.
    pub(super) fn convolution(&mut self) -> Option<()> {
        let item = self.item(|i| i.tensor.is_float() && i.tensor.rank() <= 5)?;
        let item = self.squashed(item);
        let (dtype, mut shape) = (item.tensor.dtype(), item.tensor.shape().to_vec());
        while shape.len() < 3 {
            let at = self.rng.below(shape.len() + 1);
            shape.insert(at, 1);
        }
        let (image, n_axes) = (item.tensor.reshape(&shape[..]), shape.len() - 2);
        let mut numbers = |most: usize| -> Vec<usize> { (0..n_axes).map(|_| self.rng.below(most)).collect() };
        let (low, high, left) = (numbers(3), numbers(3), numbers(3));
        let [mut window, stride, dilation] =
            [3, 3, 2].map(|most| numbers(most).iter().map(|n| n + 1).collect::<Vec<_>>());
        let last = shape[n_axes + 1];
        let groups = match self.rng.below(4) {
            0 if last > 0 => last,
            1 if last.is_multiple_of(2) => 2,
            _ => 1,
        };
        let (each, other) = (last / groups, 1 + self.rng.below(3));
        let padding: Vec<(usize, usize)> = low.iter().copied().zip(high.iter().copied()).collect();
        let settings = Convolution::new().stride(&stride).dilation(&dilation).padding(&padding).groups(groups);
        let transposed = self.rng.chance(0.3);
        // Of a place for each element of the image, or of the image itself.
        let mut others = Vec::new();
        for k in 0..n_axes {
            let reach = (window[k] - 1) * dilation[k] + 1;
            others.push(if transposed {
                let covered = shape[k + 1].checked_sub(1)? * stride[k] + reach;
                (covered + left[k].min(stride[k] - 1)).checked_sub(low[k] + high[k]).filter(|&extent| extent > 0)?
            } else {
                let padded = shape[k + 1] + low[k] + high[k];
                if padded < reach {
                    window[k] = 1;
                }
                padded.checked_sub((window[k] - 1) * dilation[k] + 1)? / stride[k] + 1
            });
        }
        let count = |list: &[usize]| list.iter().product::<usize>();
        let (taps, n_other) = (count(&window), shape[0] * count(&others) * groups * other);
        let work = n_other.max(count(&shape)) * taps * each.max(other);
        if work > MOST_MULTIPLY_ADDS || n_other > self.options.max_elements {
            return None;
        }
        let filters = |channels: usize, filters: usize| -> Shape {
            window.iter().copied().chain([channels, groups * filters]).collect()
        };
        let tensor = if transposed {
            let w = self.weights(dtype, filters(other, each));
            image.conv_transposed(w, &settings, &others)
        } else if self.rng.chance(0.7) {
            let w = self.weights(dtype, filters(each, other));
            image.conv(w, &settings)
        } else {
            let y: Shape = [shape[0]].into_iter().chain(others).chain([groups * other]).collect();
            let y = self.weights(dtype, y);
            let attrs = Attrs::none().with("stride", &stride[..]).with("dilation", &dilation[..]);
            let attrs = attrs.with("low", &low[..]).with("high", &high[..]).with("groups", Attr::Int(groups as i64));
            self.g.op(&CONV_WEIGHTS, &[image, y], attrs.with("window", &window[..]), None)
        };
        self.push(tensor, item.magnitude * 2.0 * (work.max(1) as f64).sqrt());
        Some(())
    }
}
