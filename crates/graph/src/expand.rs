//! Replacing one composite op by what it is made of.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::builder::{GraphBuilder, Tensor};
use crate::diag::Diags;
use crate::ir::{Graph, NodeId, Output, Role};
use crate::op::{ExpandCx, Lower};

/// Builds what node `id` of `graph` expands to, in `builder`; one tensor for each result. Empty if it does
/// not expand.
pub fn expand_node<'g>(
    builder: &'g GraphBuilder,
    graph: &Graph,
    id: NodeId,
    inputs: &[Tensor<'g>],
) -> SmallVec<[Tensor<'g>; 1]> {
    let node = graph.node(id);
    match &node.op.lower {
        Lower::Expand(expand) => {
            let inputs = SmallVec::from_slice(inputs);
            expand(&ExpandCx { builder, inputs, attrs: &node.attrs, ty: &node.ty, bodies: graph.bodies() })
        }
        _ => SmallVec::new(),
    }
}

/// A graph that is the expansion of one node: its inputs are named `0`, `1`, …, and so are its outputs.
pub fn one_op_graph(graph: &Graph, id: NodeId) -> Result<Graph, Diags> {
    let node = graph.node(id);
    let builder = GraphBuilder::new(node.op.name);
    builder.set_origin(Some(node.origin.clone()));
    for body in graph.bodies() {
        builder.add_body(Arc::clone(body));
    }
    let inputs: Vec<Tensor<'_>> = node
        .inputs
        .iter()
        .enumerate()
        .map(|(k, &i)| builder.input(&k.to_string(), graph.ty(i).dtype(), graph.ty(i).shape()))
        .collect();
    for (k, result) in expand_node(&builder, graph, id, &inputs).into_iter().enumerate() {
        builder.output(&k.to_string(), result);
    }
    builder.finish()
}

/// Copies a closed body into `builder` with its inputs replaced; returns its results.
pub fn inline_body<'g>(builder: &'g GraphBuilder, body: &Graph, inputs: &[Tensor<'g>]) -> SmallVec<[Tensor<'g>; 1]> {
    let mut map: HashMap<NodeId, Tensor<'g>> = HashMap::new();
    let bodies: Vec<_> = body.bodies().iter().map(|b| builder.add_body(Arc::clone(b))).collect();
    let mut next_input = 0;
    for id in body.ids() {
        let node = body.node(id);
        let tensor = if node.op.name == "input" {
            next_input += 1;
            inputs[next_input - 1]
        } else {
            let operands = node.inputs.iter().map(|i| map[i].id()).collect();
            let attrs = node.attrs.map_bodies(|b| bodies[b.index()]);
            builder.push_node(node.op, operands, attrs, node.ty.clone(), node.origin.clone())
        };
        map.insert(id, tensor);
    }
    let results = body.outputs().iter().filter(|o| o.role == Role::Result);
    results.map(|o: &Output| map[&o.value]).collect()
}
