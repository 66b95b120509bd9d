//! What a model consists of: layers, shapes, parameters, floating-point operations.
//!
//! The table is made of the finished graph, so it is the same for a [`Sequential`](crate::Sequential) and for plain
//! functions, and cannot differ from what is compiled. It covers what the results need, the forward pass; gradients and
//! updates are left out.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use cotangent_graph::ops::matmul::MATMUL;
use cotangent_graph::{Graph, Lower, Node, NodeId, Role, Source, Type};
use cotangent_scalar::plain;

/// A row: consecutive ops of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// The dotted name in front of its parameters' last part; empty for ops without parameters.
    pub layer: String,
    /// The ops, in order, without those that only move elements.
    pub ops: Vec<&'static str>,
    /// The type of the last op's value.
    pub ty: Type,
    /// Elements of the parameters that occur here first.
    pub n_params: usize,
    /// Multiplications and additions in matrix products, `2·m·n·k` each.
    pub flops: u64,
}

/// The layers of a model in order; prints as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The rows.
    pub rows: Vec<SummaryRow>,
}

/// The summary of a graph as it was built.
///
/// ```
/// use cotangent_graph::{DType::F32, build};
/// use cotangent_nn::{Layers, summary};
///
/// let graph = build(|g| {
///     let x = g.input("x", F32, [32, 784]);
///     g.output("logits", x.dense("hidden", 128).relu().dense("out", 10));
/// })
/// .expect("well formed");
/// let summary = summary(&graph);
/// assert_eq!(summary.n_params(), 784 * 128 + 128 + 128 * 10 + 10);
/// println!("{summary}");
/// ```
pub fn summary(graph: &Graph) -> Summary {
    let wanted = forward(graph);
    let mut rows: Vec<SummaryRow> = Vec::new();
    let mut counted: HashSet<NodeId> = HashSet::new();
    let mut sources: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    for id in graph.ids().filter(|id| wanted[id.index()]) {
        let node = graph.node(id);
        if let Some(params) = params_behind(node, &sources, id) {
            sources.insert(id, params);
            continue;
        }
        if matches!(node.op.lower, Lower::Source(_) | Lower::View(_) | Lower::Tuple | Lower::Item) {
            continue;
        }
        let params: Vec<NodeId> = node.inputs.iter().filter_map(|i| sources.get(i)).flatten().copied().collect();
        let layer = params.first().map(|&p| layer_of(graph.node(p).name().unwrap_or_default())).unwrap_or_default();
        let fresh = params.iter().filter(|&&p| counted.insert(p)).map(|&p| graph.ty(p).shape().n_elements());
        let (n_params, flops) = (fresh.sum(), flops_of(graph, node));
        match rows.last_mut().filter(|row| row.layer == layer) {
            Some(row) => {
                row.ops.push(node.op.name);
                row.ty = node.ty.clone();
                row.n_params += n_params;
                row.flops = row.flops.saturating_add(flops);
            }
            None => rows.push(SummaryRow { layer, ops: vec![node.op.name], ty: node.ty.clone(), n_params, flops }),
        }
    }
    Summary { rows }
}

/// Multiplications and additions in the matrix products and convolutions of a graph, whatever they are for.
pub fn product_flops(graph: &Graph) -> u64 {
    graph.nodes().iter().map(|node| flops_of(graph, node)).fold(0, u64::saturating_add)
}

impl Summary {
    /// Elements of all parameters.
    pub fn n_params(&self) -> usize {
        self.rows.iter().map(|row| row.n_params).sum()
    }

    /// Multiplications and additions in matrix products and convolutions of one forward pass. A training step takes about three times as
    /// many.
    pub fn flops(&self) -> u64 {
        self.rows.iter().map(|row| row.flops).fold(0, u64::saturating_add)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cells = vec![["layer", "ops", "output", "parameters", "FLOPs"].map(str::to_owned)];
        for row in &self.rows {
            let (n_params, flops) = (grouped(row.n_params as u64), grouped(row.flops));
            let layer = plain(&row.layer).to_string();
            cells.push([layer, row.ops.join(", "), row.ty.to_string(), n_params, flops]);
        }
        let (n_params, flops) = (grouped(self.n_params() as u64), grouped(self.flops()));
        cells.push(["total".to_owned(), String::new(), String::new(), n_params, flops]);
        let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..5).map(width).collect();
        let rule = "-".repeat(widths.iter().sum::<usize>() + 8);
        for (at, [layer, ops, ty, n_params, flops]) in cells.iter().enumerate() {
            if at == 1 || at + 1 == cells.len() {
                writeln!(f, "{rule}")?;
            }
            let [a, b, c, d, e] = widths[..] else { return Ok(()) };
            writeln!(f, "{layer:<a$}  {ops:<b$}  {ty:<c$}  {n_params:>d$}  {flops:>e$}")?;
        }
        Ok(())
    }
}

/// 1234567 as 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What the results need, up to gradients.
fn forward(graph: &Graph) -> Vec<bool> {
    let mut wanted = vec![false; graph.n_nodes()];
    for output in graph.outputs().iter().filter(|output| output.role == Role::Result) {
        wanted[output.value.index()] = true;
    }
    for id in graph.ids().rev() {
        let node = graph.node(id);
        if matches!(node.op.lower, Lower::Grad) {
            wanted[id.index()] = false;
        } else if wanted[id.index()] {
            node.inputs.iter().for_each(|input| wanted[input.index()] = true);
        }
    }
    wanted
}

/// The parameters that a value is made of, if it is made of parameters, constants and random numbers alone: the weights a
/// layer works with are still the layer's when they are masked or transposed. Empty for constants.
fn params_behind(node: &Node, known: &BTreeMap<NodeId, Vec<NodeId>>, id: NodeId) -> Option<Vec<NodeId>> {
    match node.source() {
        Some(Source::Input) => return None,
        Some(Source::Param) => return Some(vec![id]),
        Some(_) => return Some(Vec::new()),
        None => {}
    }
    let (mut params, mut seen) = (Vec::new(), HashSet::new());
    for input in &node.inputs {
        params.extend(known.get(input)?.iter().filter(|&&param| seen.insert(param)));
    }
    Some(params)
}

fn layer_of(param: &str) -> String {
    param.rsplit_once('.').map_or(param, |(layer, _)| layer).to_owned()
}

fn flops_of(graph: &Graph, node: &Node) -> u64 {
    let types: Vec<&Type> = node.inputs.iter().map(|&input| graph.ty(input)).collect();
    if let Some((conv, _)) = node.convolution(&types) {
        return (conv.multiply_adds() as u64).saturating_mul(2);
    }
    if !node.is(&MATMUL) {
        return 0;
    }
    let a = graph.ty(node.inputs[0]).shape();
    let inner = if node.attrs.bool("ta") { a.len() - 2 } else { a.len() - 1 };
    (2 * node.ty.shape().n_elements() as u64).saturating_mul(a[inner] as u64)
}
