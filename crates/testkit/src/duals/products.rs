//! Products on the tape: of matrices, and convolutions.

use cotangent_graph::{Node, Type};
use cotangent_scalar::Direction;

use super::eval::{Result, Value, Writer};
use super::slopes;
use super::tape::{Dense, Id};

impl Writer {
    /// A product of matrices.
    pub(super) fn product(&mut self, node: &Node, operands: &[Value]) -> Result<Vec<Id>> {
        let [Value::Floats(dtype, a_shape, a), Value::Floats(_, b_shape, b)] = operands else {
            return Err("a product of no floats".into());
        };
        let (shape, rank) = (node.ty.shape(), a_shape.rank());
        let (m, n) = (shape[rank - 2], shape[rank - 1]);
        let k = if node.attrs.bool("ta") { a_shape[rank - 2] } else { a_shape[rank - 1] };
        let strides = |turned: bool, columns: usize| if turned { (1, columns) } else { (columns, 1) };
        let (ai, ak) = strides(node.attrs.bool("ta"), a_shape[rank - 1]);
        let (bk, bj) = strides(node.attrs.bool("tb"), b_shape[rank - 1]);
        if shape.n_elements() == 0 {
            // What comes back is a sum of nothing.
            for &x in a.iter().chain(b) {
                self.dense(x, Dense::Product);
            }
        }
        let mut results = Vec::with_capacity(shape.n_elements());
        for l in 0..shape.n_elements() / (m * n).max(1) {
            for i in 0..m {
                for j in 0..n {
                    let mut sum = None;
                    for p in 0..k {
                        let (x, y) = (a[l * m * k + i * ai + p * ak], b[l * k * n + p * bk + j * bj]);
                        let term = self.tape.binary(slopes::product, x, y, self.tag);
                        self.tape.note_dense(term, Dense::Product);
                        sum = Some(sum.map_or(term, |sum| self.add(sum, term)));
                    }
                    results.push(sum.unwrap_or_else(|| self.tape.leaf(*dtype, 0.0, true)));
                }
            }
        }
        Ok(results)
    }

    /// A convolution or one of its adjoints.
    pub(super) fn convolution(&mut self, node: &Node, operands: &[Value]) -> Result<Vec<Id>> {
        let [Value::Floats(dtype, a_shape, a), Value::Floats(_, b_shape, b)] = operands else {
            return Err("a convolution of no floats".into());
        };
        let types = [a_shape, b_shape].map(|shape| Type::tensor(*dtype, shape.clone()));
        let found = node.convolution(&[&types[0], &types[1]]);
        let (conv, direction) = found.ok_or_else(|| format!("`{}` of operands that do not fit", node.op.name))?;
        // What comes back is a sum by another of the three, whose zeros outside take part: what they meet is used by nothing here.
        let other = match direction {
            Direction::Forward => Some(Direction::Data),
            Direction::Data => Some(Direction::Forward),
            Direction::Weights => None,
        };
        if let Some(direction) = other {
            let mut outside = Vec::new();
            let [rows, cols] = conv.matrix(direction);
            for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
                conv.terms(direction, row, col, |of_a, of_b| {
                    outside.extend(of_a.is_none().then_some((a[row * cols + col], b[of_b])));
                });
            }
            for (x, w) in outside {
                let term = self.tape.binary(slopes::product, x, w, self.tag);
                self.tape.note_dense(term, Dense::Product);
            }
        }
        // What no window holds is a sum of nothing.
        for &x in a.iter().chain(b) {
            self.dense(x, Dense::Product);
        }
        let zero = self.tape.leaf(*dtype, 0.0, true);
        let [rows, cols] = conv.matrix(direction);
        let mut results = Vec::with_capacity(rows * cols);
        for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            let mut terms = Vec::new();
            conv.terms(direction, row, col, |of_a, of_b| terms.push((of_a.map_or(zero, |at| a[at]), b[of_b])));
            let mut sum = None;
            for (x, y) in terms {
                let term = self.tape.binary(slopes::product, x, y, self.tag);
                self.tape.note_dense(term, Dense::Product);
                sum = Some(sum.map_or(term, |sum| self.add(sum, term)));
            }
            results.push(sum.unwrap_or(zero));
        }
        Ok(results)
    }
}
