//! Lazy updates: of a table that the loss reads by `gather` alone, only the rows read change.
//!
//! The gradient is taken with respect to the rows picked, so that none of the table's size is ever made. Rows that several
//! indices pick have the sum of their gradients, in the order of the indices. Parameter and slots are gathered, the formula runs
//! on those rows, and the results are put back where they stand. Every index has a row of its own: those of equal ones are equal,
//! so that it does not matter which is put back last.

use cotangent_graph::ops::index::GATHER;
use cotangent_graph::{Code, DType, Diag, GraphBuilder, NodeId, Tensor};

use super::params::{param_name, reached};
use super::{Optimizer, Recipe};

/// The rows of a table that a step changes.
#[derive(Clone, Debug)]
pub(super) struct Rows<'g> {
    /// The whole: the parameter.
    pub(super) table: Tensor<'g>,
    /// Which rows: `[n]`, with repetitions.
    pub(super) indices: Tensor<'g>,
    /// Whether an index occurs for the first time: `[n]`.
    first: Tensor<'g>,
}

/// A parameter, or the rows of it that a loss picks, with the gradient.
pub(super) struct Pair<'g> {
    pub(super) param: Tensor<'g>,
    pub(super) grad: Tensor<'g>,
    pub(super) rows: Option<Rows<'g>>,
}

impl<'g> Rows<'g> {
    /// The rows of a tensor of the table's shape.
    #[track_caller]
    pub(super) fn of(&self, whole: Tensor<'g>) -> Tensor<'g> {
        whole.gather(self.indices)
    }

    /// A tensor of the table's shape with other rows.
    #[track_caller]
    pub(super) fn put(&self, whole: Tensor<'g>, rows: Tensor<'g>) -> Tensor<'g> {
        whole.scatter_set(rows, self.indices)
    }

    /// Rows, with zeros for those that are there already.
    #[track_caller]
    pub(super) fn once(&self, rows: Tensor<'g>) -> Tensor<'g> {
        let axes: Vec<usize> = (1..rows.rank()).collect();
        let first = if axes.is_empty() { self.first } else { self.first.repeat_along(&rows.shape(), &axes) };
        first.select(rows, rows.constant_like(0.0))
    }
}

/// The rows of a table that a loss picks, if it reads the table in no other way; the error if it does.
#[track_caller]
pub(super) fn picked<'g>(g: &'g GraphBuilder, loss: Tensor<'g>, table: Tensor<'g>) -> Option<Vec<Tensor<'g>>> {
    let (rows, other): (Vec<NodeId>, Vec<NodeId>) = g.with_graph(|graph| {
        let reached = reached(graph, loss.id());
        let readers = graph.ids().filter(|id| reached[id.index()] && graph.node(*id).inputs.contains(&table.id()));
        readers.partition(|id| graph.node(*id).is(&GATHER))
    });
    if let Some(&other) = other.first() {
        let name = param_name(g, table).unwrap_or_default();
        let text = format!("lazy updates require that `{name}` is read by `gather` alone");
        let diag =
            Diag::new(Code::BadUpdate, text).made("the parameter", table).made("the other reader", g.tensor(other));
        g.error(
            diag.help("leave it out of the lazy groups: its gradient is not zero for the rows that are not picked"),
        );
        return None;
    }
    Some(rows.into_iter().map(|id| g.tensor(id)).collect())
}

/// The table's update, given the gradients of the rows picked.
#[track_caller]
pub(super) fn summed<'g>(table: Tensor<'g>, picked: &[Tensor<'g>], gradients: &[Tensor<'g>]) -> Pair<'g> {
    let (g, row) = (table.builder(), table.shape()[1..].to_vec());
    let (mut indices, mut rows) = (Vec::new(), Vec::new());
    for (&picked, &gradient) in picked.iter().zip(gradients) {
        let of_pick = g.tensor(g.with_graph(|graph| graph.node(picked.id()).inputs[1]));
        let n = of_pick.shape().n_elements();
        indices.push(of_pick.cast(DType::I64).reshape([n]));
        rows.push(gradient.reshape([&[n][..], &row].concat()));
    }
    let [indices, rows] = [indices, rows].map(|parts| if let [one] = parts[..] { one } else { g.concat(&parts, 0) });
    let n = indices.dim(0);
    if n == 0 {
        let first = indices.eq(indices);
        return Pair { param: table, grad: rows, rows: Some(Rows { table, indices, first }) };
    }
    // Equal indices are neighbours once they are sorted; each run of them is a group.
    let order = indices.argsort(0);
    let sorted = indices.gather(order);
    let is_new = sorted.ne(sorted.slice(&[0], &[n - 1]).pad(&[1], &[0], -1));
    let back = |x: Tensor<'g>| x.constant_like(0).scatter_set(x, order);
    let group = back(is_new.cast(DType::I64).cumsum(0) - 1);
    let grad = rows.scatter_add(group, n).gather(group);
    let first = back(is_new.cast(DType::I64)).ne(indices.constant_like(0));
    Pair { param: table, grad, rows: Some(Rows { table, indices, first }) }
}

/// Whether lazy updates of a parameter make sense with an optimiser; the error if not.
#[track_caller]
pub(super) fn allowed(param: Tensor<'_>, optimizer: &impl Optimizer, recipe: &Recipe, call: &str) -> bool {
    let why = match recipe.needs_whole() {
        _ if !optimizer.is_elementwise() => format!("the formula of `{}` needs all of a parameter", optimizer.name()),
        Some(setting) => format!("`{setting}` needs all of a parameter"),
        None if !matches!(call, "minimize" | "minimize_params") => format!("`{call}` has gradients of all rows"),
        None => return true,
    };
    let text = format!("lazy updates change the rows used alone, but {why}");
    let diag = Diag::new(Code::BadUpdate, text).made("the parameter", param);
    param.builder().error(diag.help("leave the group's `lazy()` out, or what needs the whole"));
    false
}
