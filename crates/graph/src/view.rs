//! Graphs as `petgraph` graphs, for users who want its algorithms: paths, dominators, isomorphism.
//!
//! The view is a copy of the structure; node weights are ids into the graph it was made from.

use petgraph::graph::{DiGraph, NodeIndex};

use crate::ir::{Graph, NodeId};

/// Every node of a graph (bodies are not entered), with an edge from each operand to its reader; the weight of an edge is
/// the operand's number. Node `NodeIndex::new(i)` is `NodeId(i)`.
pub fn to_petgraph(graph: &Graph) -> DiGraph<NodeId, usize> {
    let n_edges = graph.nodes().iter().map(|n| n.inputs.len()).sum();
    let mut view = DiGraph::with_capacity(graph.n_nodes(), n_edges);
    for id in graph.ids() {
        let reader = view.add_node(id);
        for (k, input) in graph.node(id).inputs.iter().enumerate() {
            view.add_edge(NodeIndex::new(input.index()), reader, k);
        }
    }
    view
}
