//! Replacing one composite op by what it is made of.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::builder::{GraphBuilder, Tensor};
use crate::diag::{Code, Diag, Diags, Loc};
use crate::ir::{Graph, MAX_BODY_DEPTH, Node, NodeId, OpRef, Output, Role};
use crate::op::{ExpandCx, Fault, Lower, Source};
use crate::types::Type;

/// How deep composites may be made of composites: calls of bodies that nest as deep as they may, and composites in these.
pub const MAX_EXPANSION_DEPTH: usize = 2 * MAX_BODY_DEPTH;

/// The error where composites are nested deeper, as one that holds itself is.
pub fn too_deep() -> Diag {
    let text = format!("composites are nested more than {MAX_EXPANSION_DEPTH} deep");
    Diag::new(Code::Unsupported, text).at(Loc::Internal)
}

/// Builds what a node expands to, in `builder`, over operands of its types; one tensor for each result. `bodies` are those
/// that the node names.
///
/// # Errors
/// A mistake in the record of the op: it does not expand, or to something else than it is inferred to be. Where the builder
/// has an error that is not the record's, tensors may be poisoned.
pub fn expand_node<'g>(
    builder: &'g GraphBuilder,
    node: &Node,
    bodies: &[Arc<Graph>],
    inputs: &[Tensor<'g>],
) -> Result<SmallVec<[Tensor<'g>; 1]>, Fault> {
    let Lower::Expand(expand) = &node.op.lower else { return Err(node.op.mistake("does not expand")) };
    let inputs = SmallVec::from_slice(inputs);
    let cx = ExpandCx { builder, inputs, attrs: &node.attrs, ty: &node.ty, bodies };
    let results = watched(builder, node.op, || expand(&cx))?;
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
            let error = builder.last_error();
            if error.as_ref().is_some_and(|error| node.op.0.is_builtin() || error.code == Code::TooManyNodes) {
                return Ok(results);
            }
            let why = error.map_or("no error says why".into(), |error| error.message);
            return Err(node.op.mistake(format_args!("expands to no node: {why}")));
        }
        if result.ty() != *wanted {
            return Err(node.op.mistake(format_args!("expands to {}, not to {wanted}", result.ty())));
        }
    }
    Ok(results)
}

/// What a function of an op's record builds: nodes that compute, and nothing else.
///
/// # Errors
/// A mistake in the record of an op from outside: the function panics, or has made an input, parameter or state,
/// declared an output, or dropped a check.
pub fn watched<R>(builder: &GraphBuilder, op: OpRef, f: impl FnOnce() -> R) -> Result<R, Fault> {
    if op.0.is_builtin() {
        return Ok(f());
    }
    let (n_nodes, n_outputs, checks) =
        builder.with_graph(|graph| (graph.n_nodes(), graph.outputs().len(), graph.checks().to_vec()));
    let result = op.0.guard(f)?;
    builder.with_graph(|graph| {
        if let Some(source) = graph.nodes()[n_nodes..].iter().find_map(|node| node.name()) {
            return Err(op.mistake(format_args!("makes the source `{source}`")));
        }
        if graph.outputs().len() != n_outputs {
            return Err(op.mistake("declares an output"));
        }
        if !graph.checks().starts_with(&checks) {
            return Err(op.mistake("drops a check"));
        }
        Ok(result)
    })
}

/// A graph that is the expansion of one node: its inputs are named `0`, `1`, …, and so are its outputs.
///
/// # Errors
/// A mistake in the record of the op.
pub fn one_op_graph(graph: &Graph, id: NodeId) -> Result<Graph, Diags> {
    let node = graph.node(id);
    let builder = GraphBuilder::with_registry(node.op.name, graph.registry()).rounding();
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
