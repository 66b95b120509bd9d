//! Anchors: what keeps an intermediate value that a gradient is taken with respect to apart.
//!
//! A derivative with respect to an intermediate value counts what is computed from that very node. Rules and expansions
//! must not bypass it, and an equal expression that they make elsewhere must not be merged with it. An anchor, with a
//! number of its own, stands between the value and its readers while that matters: from `stabilize` to the end of
//! `differentiate`. Named sources are never merged and need none. The seed of a sweep has an anchor too, so that what is made of
//! it equals nothing else (`support.rs`).

use std::collections::HashSet;
use std::sync::Arc;

use cotangent_graph::ops::region::ANCHOR;
use cotangent_graph::{Attrs, Graph, GraphBuilder, Lower, Node, NodeId, Tensor};

use crate::pass::PassError;
use crate::rebuild::{Copier, bottom_up};

fn is_anchor(node: &Node) -> bool {
    node.is(&ANCHOR)
}

/// The numbers that no anchor of the graph has.
pub fn free_numbers(graph: &Graph) -> impl Iterator<Item = i64> + use<> {
    let anchors = graph.nodes().iter().filter(|node| is_anchor(node));
    let used: HashSet<i64> = anchors.map(|node| node.attrs.int("number")).collect();
    (0..).filter(move |number| !used.contains(number))
}

/// The tensor behind an anchor.
pub fn anchored(tensor: Tensor<'_>, number: i64) -> Tensor<'_> {
    tensor.unary_with(&ANCHOR, Attrs::none().with("number", number))
}

/// The graph with an anchor at every intermediate value that a gradient is taken with respect to, or `None` if there is
/// none to set; in bodies as well.
pub fn set_anchors(graph: &Graph) -> Result<Option<Graph>, PassError> {
    bottom_up(graph, with_anchors)
}

fn with_anchors(graph: &Graph, bodies: &[Arc<Graph>], bodies_changed: bool) -> Result<Option<Graph>, PassError> {
    let unnamed = |id: &NodeId| !graph.node(*id).op.is_named() && !is_anchor(graph.node(*id));
    let gradients = graph.nodes().iter().filter(|node| matches!(node.op.lower, Lower::Grad));
    let targets: HashSet<NodeId> = gradients.filter_map(|node| node.inputs.get(1).copied()).filter(unnamed).collect();
    if targets.is_empty() && !bodies_changed {
        return Ok(None);
    }
    let mut numbers = free_numbers(graph);
    let builder = GraphBuilder::like(graph);
    let mut copier = Copier::new(graph, bodies, &builder);
    for id in copier.order() {
        let tensor = copier.copy(id);
        if targets.contains(&id) {
            builder.set_origin(Some(graph.node(id).origin.clone()));
            copier.set(id, anchored(tensor, numbers.next().unwrap_or(i64::MAX)));
        }
    }
    copier.outputs();
    Ok(Some(builder.into_graph()?))
}

/// The graph without anchors.
pub fn weigh_anchors(graph: Graph) -> Result<Graph, PassError> {
    if !graph.nodes().iter().any(is_anchor) {
        return Ok(graph);
    }
    let builder = GraphBuilder::like(&graph);
    let mut copier = Copier::new(&graph, graph.bodies(), &builder);
    for id in copier.order() {
        if is_anchor(graph.node(id)) {
            copier.set(id, copier.operands(id)[0]);
        } else {
            copier.copy(id);
        }
    }
    copier.outputs();
    Ok(builder.into_graph()?)
}
