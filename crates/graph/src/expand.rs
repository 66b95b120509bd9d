//! Replacing one composite op by what it is made of.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::builder::{GraphBuilder, Tensor};
use crate::diag::{Code, Diag, Diags};
use crate::ir::{Graph, Node, NodeId, Output, Role};
use crate::op::{ExpandCx, Fault, Lower, Source};
use crate::types::Type;

/// Builds what a node expands to, in `builder`, over operands of its types; one tensor for each result. `bodies` are those
/// that the node names.
///
/// # Errors
/// A mistake in the record of the op: it does not expand, or to something else than it is inferred to be. A tensor is
/// poisoned if the builder has an error that says why.
pub fn expand_node<'g>(
    builder: &'g GraphBuilder,
    node: &Node,
    bodies: &[Arc<Graph>],
    inputs: &[Tensor<'g>],
) -> Result<SmallVec<[Tensor<'g>; 1]>, Fault> {
    let Lower::Expand(expand) = &node.op.lower else { return Err(node.op.mistake("does not expand")) };
    let results =
        expand(&ExpandCx { builder, inputs: SmallVec::from_slice(inputs), attrs: &node.attrs, ty: &node.ty, bodies });
    let wanted = if let Type::Tuple(members) = &node.ty { members.as_slice() } else { std::slice::from_ref(&node.ty) };
    if results.len() != wanted.len() {
        let text = format!("expands to {} values, not to {}", results.len(), wanted.len());
        return Err(node.op.mistake(text));
    }
    for (result, wanted) in results.iter().zip(wanted) {
        if !std::ptr::eq(result.builder(), builder) {
            return Err(node.op.mistake("expands to a tensor of another graph"));
        }
        if result.is_poisoned() {
            if builder.is_ok() {
                return Err(node.op.mistake("expands to no node, without an error that says why"));
            }
        } else if result.ty() != *wanted {
            return Err(node.op.mistake(format_args!("expands to {}, not to {wanted}", result.ty())));
        }
    }
    Ok(results)
}

/// A graph that is the expansion of one node: its inputs are named `0`, `1`, …, and so are its outputs.
///
/// # Errors
/// A mistake in the record of the op.
pub fn one_op_graph(graph: &Graph, id: NodeId) -> Result<Graph, Diags> {
    let node = graph.node(id);
    let builder = GraphBuilder::with_registry(node.op.name, graph.registry());
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
    let results = expand_node(&builder, node, graph.bodies(), &inputs);
    for (k, result) in results.map_err(|fault| fault.diag().at(node.origin.loc()))?.into_iter().enumerate() {
        builder.output(&k.to_string(), result);
    }
    builder.finish()
}

/// Copies a closed body into `builder` with its inputs replaced; returns its results.
pub fn inline_body<'g>(builder: &'g GraphBuilder, body: &Graph, inputs: &[Tensor<'g>]) -> SmallVec<[Tensor<'g>; 1]> {
    let mut map: HashMap<NodeId, Tensor<'g>> = HashMap::new();
    let wanted: Vec<NodeId> = body.inputs().map(|(id, _)| id).collect();
    if wanted.len() != inputs.len() {
        let text = format!("the body @{} requires {} operands, got {}", body.name(), wanted.len(), inputs.len());
        return SmallVec::from_iter([builder.poison(Diag::new(Code::BadBody, text).operands(inputs))]);
    }
    map.extend(wanted.into_iter().zip(inputs.iter().copied()));
    let bodies: Vec<_> = body.bodies().iter().map(|b| builder.add_body(Arc::clone(b))).collect();
    for id in body.ids() {
        if builder.is_full() {
            builder.error(builder.limits().too_many_nodes(body.node(id).origin.loc()));
            return body.outputs().iter().filter(|o| o.role == Role::Result).map(|_| builder.poisoned()).collect();
        }
        let node = body.node(id);
        let tensor = if node.source() == Some(Source::Input) {
            map[&id]
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
