//! Which nodes of a program are the derivative of which.
//!
//! A node that `differentiate` makes remembers the lines of the node whose derivative rule made it; several nodes may be of one line.
//! So the graph before that pass is printed and read again, which gives every node a line of its own, and differentiated once more:
//! what comes out prints as it did in the program, and its lines tell node from node.

use std::collections::HashMap;
use std::sync::Arc;

use cotangent_graph::text::parse::parse;
use cotangent_graph::{Graph, Loc, Node};
use cotangent_passes::{PassOptions, optimize};

use crate::trace::{Sheet, StageOf, Trace, Uid, sheets_of};

const PASS: &str = "differentiate";

/// Pairs of a node and one that its derivative rule made, by what they are at the stage of `differentiate`; none if the program has no
/// gradients.
pub(crate) fn counterparts(trace: &Trace) -> Vec<(Uid, Uid)> {
    let Some(at) = trace.stages.iter().position(|stage| stage.pass == PASS).filter(|at| *at > 0) else {
        return Vec::new();
    };
    let (before, after) = (&trace.stages[at - 1], &trace.stages[at]);
    again(&before.sheets[0].graph).map_or(Vec::new(), |(read, made)| {
        let of_line: HashMap<u32, Uid> =
            same(&read, before).flat_map(|(node, uid)| lines(node).map(move |line| (line, uid))).collect();
        let made = same(&made, after).filter(|(node, _)| node.origin.rule == Some(PASS));
        made.flat_map(|(node, uid)| {
            lines(node).filter_map(|line| Some((*of_line.get(&line)?, uid))).collect::<Vec<_>>()
        })
        .collect()
    })
}

/// The graph with a line for each node, and its derivative.
fn again(graph: &Graph) -> Option<(Vec<Sheet>, Vec<Sheet>)> {
    let read = parse(&graph.to_string(), "before", graph.registry()).ok()?;
    let options = PassOptions { only: Some(vec![PASS.to_owned()]), verify: false, ..PassOptions::default() };
    let made = optimize(&read, &options).ok()?.graph;
    Some((sheets_of(Arc::new(read)), sheets_of(Arc::new(made))))
}

/// The nodes of sheets with what the same nodes are called at a stage. A sheet that is not the same is left out.
fn same<'s>(sheets: &'s [Sheet], stage: &'s StageOf) -> impl Iterator<Item = (&'s Node, Uid)> {
    let alike = |(a, b): &(&Sheet, &Sheet)| a.graph.to_string() == b.graph.to_string();
    let pairs = sheets.iter().zip(&stage.sheets).filter(alike);
    pairs.flat_map(|(a, b)| a.order.iter().map(|&id| a.graph.node(id)).zip(b.uids.iter().copied()))
}

fn lines(node: &Node) -> impl Iterator<Item = u32> {
    node.origin.lines.iter().filter_map(|line| if let Loc::Text { line, .. } = line { Some(*line) } else { None })
}
