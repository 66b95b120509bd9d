//! What is computed before and after loops rather than in them, and why the rest stays.

use std::fmt::{self, Display, Write};

use cotangent_graph::ops::scan::Scan;
use cotangent_graph::{Graph, Lower, Node, NodeId};

use super::{keeps_bits, may_fail};
use crate::rebuild::kept;

/// What a value in a body depends on.
#[derive(Clone, Copy, Default)]
struct Reads {
    carry: bool,
    slice: bool,
}

/// Why something stays in a loop.
enum Stays {
    Carry,
    Loop,
    MayFail,
    /// A product that would have other bits.
    Lanes,
    Slice,
    Constants,
}

impl Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stays::Carry => "it depends on a carry",
            Stays::Loop => "it is a loop of its own",
            Stays::MayFail => "it may fail, which must not happen where the loop does not run",
            Stays::Lanes => "of one row it is summed in lanes; with the rows of all iterations bits would be others",
            Stays::Slice => "it depends on a part of a slice, and is no product of that with captures",
            Stays::Constants => "it depends on nothing that is given",
        })
    }
}

/// For every loop of a graph, and loops in these: what is computed once before it, for all iterations before and after it, and what
/// stays, with the reason. Empty without loops.
pub fn explain(graph: &Graph) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_loops(&mut text, graph);
    text
}

fn write_loops(out: &mut String, graph: &Graph) -> fmt::Result {
    for id in kept(graph) {
        let node = graph.node(id);
        let Some(scan) = graph.scan(node) else { continue };
        writeln!(out, "loop {}, {} times @{}", graph.describe(id), scan.n, scan.body.name())?;
        let (slices, captures) = node.inputs[scan.n_carries..].split_at(scan.n_slices);
        for product in products_before(graph, slices) {
            writeln!(out, "  for all iterations, before it: {}", graph.describe(product))?;
        }
        for &capture in captures.iter().filter(|&&id| graph.node(id).origin.rule == Some(super::RULE)) {
            writeln!(out, "  once, before it: {}", graph.describe(capture))?;
        }
        for product in products_of_results(graph, id, &scan) {
            writeln!(out, "  for all iterations, after it: {}", graph.describe(product))?;
        }
        write_staying(out, &scan)?;
        let mut inside = String::new();
        write_loops(&mut inside, scan.body)?;
        inside.lines().try_for_each(|line| writeln!(out, "  | {line}"))?;
    }
    Ok(())
}

/// What stays in a loop: what is more than a formula line by line, formulas on elements counted.
fn write_staying(out: &mut String, scan: &Scan<'_>) -> fmt::Result {
    let body = scan.body;
    let inputs: Vec<NodeId> = body.inputs().map(|(id, _)| id).collect();
    let n_taken = scan.n_carries + scan.n_slices;
    let mut reads = vec![Reads::default(); body.n_nodes()];
    for (k, id) in inputs.iter().enumerate() {
        let slice = (scan.n_carries..n_taken).contains(&k);
        reads[id.index()] = Reads { carry: k < scan.n_carries, slice };
    }
    let mut n_formulas = [0; 3];
    for id in kept(body) {
        let node = body.node(id);
        if node.source().is_some() {
            continue;
        }
        let of = node.inputs.iter().map(|input| reads[input.index()]).fold(Reads::default(), Reads::with);
        reads[id.index()] = of;
        if let Lower::Scalar(_) = node.op.lower {
            let kind = if of.carry {
                0
            } else if of.slice {
                1
            } else {
                2
            };
            n_formulas[kind] += 1;
            continue;
        }
        let is_work =
            matches!(node.op.lower, Lower::Gemm | Lower::Conv(_) | Lower::Reduce(_) | Lower::Step(_) | Lower::Loop);
        if !is_work {
            continue;
        }
        let of_slice = || node.inputs.first().is_some_and(|input| inputs[scan.n_carries..n_taken].contains(input));
        let why = match () {
            () if matches!(node.op.lower, Lower::Loop) => Stays::Loop,
            () if of.carry => Stays::Carry,
            () if may_fail(body, node) => Stays::MayFail,
            () if of.slice && is_product(node) && of_slice() && !keeps_bits(body, node, scan.n) => Stays::Lanes,
            () if of.slice => Stays::Slice,
            () => Stays::Constants,
        };
        writeln!(out, "  stays: {}: {why}", body.describe(id))?;
    }
    let of = [
        "that depend on a carry",
        "that depend on a part of a slice: they are computed where they are read",
        "that depend on captures: to compute them again is less than to read them",
    ];
    for (n, of) in n_formulas.iter().zip(of).filter(|(n, _)| **n > 0) {
        writeln!(out, "  stay: formulas on elements {of}: {n}")?;
    }
    Ok(())
}

impl Reads {
    fn with(self, other: Reads) -> Reads {
        Reads { carry: self.carry || other.carry, slice: self.slice || other.slice }
    }
}

fn is_product(node: &Node) -> bool {
    matches!(node.op.lower, Lower::Gemm | Lower::Conv(_))
}

/// Products that slices are made of, seen through views and formulas on as many elements.
fn products_before(graph: &Graph, slices: &[NodeId]) -> Vec<NodeId> {
    let n_elements = |id: NodeId| graph.ty(id).shape().n_elements();
    let (mut seen, mut stack, mut products) = (vec![false; graph.n_nodes()], slices.to_vec(), Vec::new());
    while let Some(id) = stack.pop() {
        let node = graph.node(id);
        if std::mem::replace(&mut seen[id.index()], true) {
            continue;
        }
        match node.op.lower {
            Lower::View(_) | Lower::Scalar(_) => {
                stack.extend(node.inputs.iter().filter(|&&input| n_elements(input) == n_elements(id)));
            }
            _ if is_product(node) => products.push(id),
            _ => {}
        }
    }
    products.sort_unstable();
    products
}

/// Products of what a loop made in all of its iterations, seen through views.
fn products_of_results(graph: &Graph, of: NodeId, scan: &Scan<'_>) -> Vec<NodeId> {
    let mut is_result = vec![false; graph.n_nodes()];
    let mut products = Vec::new();
    for id in kept(graph) {
        let node = graph.node(id);
        let from_result = node.inputs.iter().any(|input| is_result[input.index()]);
        match node.op.lower {
            Lower::Item if node.inputs[0] == of => {
                is_result[id.index()] = node.attrs.size("index") >= scan.n_carries;
            }
            Lower::View(_) => is_result[id.index()] = from_result,
            _ if from_result && is_product(node) => products.push(id),
            _ => {}
        }
    }
    products
}
