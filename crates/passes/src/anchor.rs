//! Anchors: what keeps an intermediate value that a gradient is taken with respect to apart.
//!
//! A derivative with respect to an intermediate value counts what is computed from that very node. Rules and expansions
//! must not bypass it, and an equal expression that they make elsewhere must not be merged with it. An anchor, with a
//! number of its own, stands between the value and its readers while that matters: from `stabilize` to the end of
//! `differentiate`. Named sources are never merged and need none.

use std::collections::HashSet;

use cotangent_graph::ops::region::ANCHOR;
use cotangent_graph::{Attrs, Graph, GraphBuilder, Lower, Node, NodeId};

use crate::pass::PassError;
use crate::rebuild::{Copier, map_bodies};

fn is_anchor(node: &Node) -> bool {
    node.is(&ANCHOR)
}

/// The graph with an anchor at every intermediate value that a gradient is taken with respect to, or `None` if there is
/// none to set; in bodies as well.
pub fn set_anchors(graph: &Graph) -> Result<Option<Graph>, PassError> {
    let (bodies, bodies_changed) = map_bodies(graph, set_anchors)?;
    let unnamed = |id: &NodeId| !graph.node(*id).op.is_named() && !is_anchor(graph.node(*id));
    let gradients = graph.nodes().iter().filter(|node| matches!(node.op.lower, Lower::Grad));
    let targets: HashSet<NodeId> = gradients.filter_map(|node| node.inputs.get(1).copied()).filter(unnamed).collect();
    if targets.is_empty() && !bodies_changed {
        return Ok(None);
    }
    let anchors = graph.nodes().iter().filter(|node| is_anchor(node));
    let used: HashSet<i64> = anchors.map(|node| node.attrs.int("number")).collect();
    let mut numbers = (0..).filter(|number| !used.contains(number));
    let builder = GraphBuilder::like(graph);
    let mut copier = Copier::new(graph, &bodies, &builder);
    for id in copier.order() {
        let tensor = copier.copy(id);
        if targets.contains(&id) {
            builder.set_origin(Some(graph.node(id).origin.clone()));
            let number = numbers.next().unwrap_or(i64::MAX);
            copier.set(id, tensor.unary_with(&ANCHOR, Attrs::none().with("number", number)));
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
