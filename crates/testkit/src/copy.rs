//! Copying graphs with changes: what the shrinker and the finite differences have in common.

use std::sync::Arc;

use cotangent_graph::op::Fault;
use cotangent_graph::ops::source::INPUT;
use cotangent_graph::{Attrs, Graph, Node, NodeId, OpRef, Origin, Output, Role, Type};

/// A copy of the nodes that outputs and checks need (and of all inputs), with some changed.
///
/// `change` sees each node with its operands already replaced by ids of the copy, and may add nodes to the copy; it
/// returns the node that takes its place, or `None` for the node itself. `keep` chooses and changes the outputs. Updates whose target
/// was replaced by something that is no parameter or state are dropped.
pub fn copy(
    graph: &Graph,
    keep: impl Fn(usize, &Output) -> Option<Output>,
    mut change: impl FnMut(&mut Graph, NodeId, &Node) -> Option<NodeId>,
) -> Graph {
    let outputs: Vec<Output> = graph.outputs().iter().enumerate().filter_map(|(k, output)| keep(k, output)).collect();
    let mut live = vec![false; graph.n_nodes()];
    graph.checks().iter().for_each(|check| live[check.index()] = true);
    for output in &outputs {
        live[output.value.index()] = true;
        if let Role::Update(target) = output.role {
            live[target.index()] = true;
        }
    }
    for id in graph.ids().rev().filter(|id| !graph.node(*id).is(&INPUT)) {
        if live[id.index()] {
            graph.node(id).inputs.iter().for_each(|input| live[input.index()] = true);
        }
    }
    let mut out = Graph::with_registry(Arc::clone(graph.name()), graph.registry());
    let bodies: Vec<_> = graph.bodies().iter().map(|body| done(out.add_body(Arc::clone(body)))).collect();
    let mut map: Vec<Option<NodeId>> = vec![None; graph.n_nodes()];
    for id in graph.ids().filter(|id| live[id.index()]) {
        let mut node = graph.node(id).clone();
        node.inputs = node.inputs.iter().filter_map(|input| map[input.index()]).collect();
        node.attrs = node.attrs.map_bodies(|body| bodies[body.index()]);
        let new = change(&mut out, id, &node);
        let copied = |out: &mut Graph| done(out.add(node.op, node.inputs, node.attrs, node.ty, node.origin));
        map[id.index()] = Some(new.unwrap_or_else(|| copied(&mut out)));
    }
    for output in outputs {
        let role = match output.role {
            Role::Result => Some(Role::Result),
            Role::Update(target) => map[target.index()].filter(|id| out.node(*id).is_stored()).map(Role::Update),
        };
        if let (Some(value), Some(role)) = (map[output.value.index()], role) {
            done(out.add_output(Output { name: output.name, value, role }));
        }
    }
    out
}

/// A copy of the whole graph with nothing changed but that unneeded nodes are gone.
pub fn clean(graph: &Graph) -> Graph {
    copy(graph, |_, output| Some(output.clone()), |_, _, _| None)
}

/// Adds an input.
pub fn add_input(graph: &mut Graph, name: &str, ty: Type) -> NodeId {
    done(graph.add(OpRef(&INPUT), Default::default(), Attrs::none().with("name", name), ty, Origin::default()))
}

/// What a graph cannot refuse, because the graph that it is copied from did not.
fn done<T>(added: Result<T, Fault>) -> T {
    added.unwrap_or_else(|fault| panic!("{}", fault.message))
}
