//! Which nodes are parameters, and which a gradient flows to.

use cotangent_graph::ops::source::PARAM;
use cotangent_graph::{Graph, GraphBuilder, NodeId, Tensor, Vjp};

/// For each node, whether a gradient of `from` flows to it.
pub(super) fn reached(graph: &Graph, from: NodeId) -> Vec<bool> {
    let mut reached = vec![false; graph.n_nodes()];
    reached[from.index()] = true;
    for id in graph.ids().rev() {
        let node = graph.node(id);
        // Integers and truth values carry no gradient. Tuples may hold floats anywhere, so they pass.
        if node.ty.as_tensor().is_some_and(|(dtype, _)| !dtype.is_float()) {
            reached[id.index()] = false;
        }
        if reached[id.index()] && !matches!(node.op.vjp, Vjp::Zero(_)) {
            for input in &node.inputs {
                reached[input.index()] = true;
            }
        }
    }
    reached
}

/// The name of a parameter of floats.
pub(super) fn param_name(g: &GraphBuilder, param: Tensor<'_>) -> Option<String> {
    g.with_graph(|graph| {
        let node = graph.node(param.id());
        node.name().filter(|_| node.is(&PARAM) && node.ty.dtype().is_float()).map(str::to_owned)
    })
}
