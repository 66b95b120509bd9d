//! Replacing one composite op by what it is made of.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use crate::builder::{GraphBuilder, Tensor};
use crate::diag::{Code, Diag, Diags, Loc};
use crate::ir::{Graph, Inputs, Node, NodeId, OpRef, Output, Role};
use crate::limits::Limits;
use crate::op::{ExpandCx, Fault, Lower, Source};
use crate::types::Type;

/// How deep composites may be made of composites: the calls that are gone into one by one, and composites in these.
pub const MAX_EXPANSION_DEPTH: usize = 2 * MAX_CALLS;

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

/// Calls that may hold each other before they are replaced by what they call: what goes into a call stays on the stack.
const MAX_CALLS: usize = 64;

/// The graph with bodies that hold no calls, if it had deeper ones than may be gone into one by one; and where its nodes are now.
///
/// # Errors
/// `E0116` if that is more nodes than the limits allow, `E0106` if one of the deep bodies holds a `grad`.
pub fn with_flat_bodies(graph: &Graph, limits: Limits) -> Result<Option<(Graph, Vec<NodeId>)>, Diag> {
    if graph.body_depth() <= MAX_CALLS {
        return Ok(None);
    }
    let find = |graphs: &[&Graph], is: fn(&Lower) -> bool| {
        let place = |graph: &&Graph| graph.nodes().iter().find(|node| is(&node.op.lower)).map(|node| node.origin.loc());
        graphs.iter().find_map(|graph| Some((Arc::clone(graph.name()), place(graph)?)))
    };
    let mut graphs: Vec<&Graph> = graph.all_bodies().into_iter().map(AsRef::as_ref).collect();
    if let Some((name, at)) = find(&graphs, |lower| matches!(lower, Lower::Grad)) {
        let text = format!("the body @{name} takes a gradient inside of bodies that nest more than {MAX_CALLS} deep");
        return Err(Diag::new(Code::TooLarge, text).at(at).help("take the gradient outside of the bodies"));
    }
    graphs.push(graph);
    if let Some((name, at)) = find(&graphs, |lower| matches!(lower, Lower::Loop)) {
        let text = format!("@{name} has a loop beside bodies that nest more than {MAX_CALLS} deep");
        return Err(Diag::new(Code::TooLarge, text).at(at).help("nest bodies less deep"));
    }
    let mut out = Graph::with_registry(Arc::clone(graph.name()), graph.registry());
    let (mut bodies, mut n_made) = (Vec::with_capacity(graph.bodies().len()), 0);
    for body in graph.bodies() {
        let builder = GraphBuilder::like(body);
        builder.count_from(n_made, limits);
        let inputs: Vec<Tensor<'_>> =
            body.inputs().map(|(_, node)| copied(&builder, node, Default::default())).collect();
        for (output, value) in body.outputs().iter().zip(inline_deep(&builder, body, &inputs)?) {
            builder.output(&output.name, value);
        }
        n_made = builder.n_made();
        let flat = builder.finish().map_err(|mut diags| diags.0.swap_remove(0))?;
        bodies.push(out.add_body(Arc::new(flat)).map_err(Fault::diag)?);
    }
    let mut places: Vec<NodeId> = Vec::with_capacity(graph.n_nodes());
    for node in graph.nodes() {
        let inputs = node.inputs.iter().map(|input| places[input.index()]).collect();
        let attrs = node.attrs.map_bodies(|body| bodies[body.index()]);
        places.push(out.add(node.op, inputs, attrs, node.ty.clone(), node.origin.clone()).map_err(Fault::diag)?);
    }
    for output in graph.outputs() {
        let role = match output.role {
            Role::Result => Role::Result,
            Role::Update(target) => Role::Update(places[target.index()]),
        };
        let output = Output { name: Arc::clone(&output.name), value: places[output.value.index()], role };
        out.add_output(output).map_err(Fault::diag)?;
    }
    Ok(Some((out, places)))
}

fn copied<'g>(builder: &'g GraphBuilder, node: &Node, operands: Inputs) -> Tensor<'g> {
    builder.push_node(node.op, operands, node.attrs.clone(), node.ty.clone(), node.origin.clone())
}

/// A body on the way through the bodies that it calls.
struct Inlined<'a, 'g> {
    body: &'a Graph,
    /// What the nodes so far became: of a call its results.
    made: Vec<SmallVec<[Tensor<'g>; 1]>>,
    /// What its inputs stand for, those that are still to come.
    operands: smallvec::IntoIter<[Tensor<'g>; 4]>,
}

/// Copies a closed body, and what it calls, into `builder`; its results. Every node on the way counts, made or not: bodies that only
/// hand on what they are given, to each other and twice, are gone through as often as if they made something.
fn inline_deep<'g>(
    builder: &'g GraphBuilder,
    body: &Graph,
    operands: &[Tensor<'g>],
) -> Result<SmallVec<[Tensor<'g>; 1]>, Diag> {
    let enter =
        |body, operands: SmallVec<[Tensor<'g>; 4]>| Inlined { body, made: Vec::new(), operands: operands.into_iter() };
    let mut open = vec![enter(body, SmallVec::from_slice(operands))];
    while let Some(current) = open.last_mut() {
        let body = current.body;
        let Some(node) = body.nodes().get(current.made.len()) else {
            let results = body.outputs().iter().map(|output| current.made[output.value.index()][0]).collect();
            open.pop();
            match open.last_mut() {
                Some(caller) => caller.made.push(results),
                None => return Ok(results),
            }
            continue;
        };
        if builder.is_full() {
            return Err(builder.limits().too_many_nodes(node.origin.loc()));
        }
        let operands = |made: &[SmallVec<[Tensor<'g>; 1]>]| node.inputs.iter().map(|i| made[i.index()][0]).collect();
        match &node.op.lower {
            Lower::Source(Source::Input) => {
                let operand = current.operands.next().unwrap_or_else(|| builder.poisoned());
                builder.spend(1);
                current.made.push(smallvec![operand]);
            }
            Lower::Item if body.called(body.node(node.inputs[0])).is_some() => {
                let result = current.made[node.inputs[0].index()][node.attrs.size("index")];
                builder.spend(1);
                current.made.push(smallvec![result]);
            }
            _ => match body.called(node) {
                Some(inner) => {
                    let inner = enter(inner, operands(&current.made));
                    builder.spend(1);
                    open.push(inner);
                }
                None => {
                    let operands: SmallVec<[Tensor<'g>; 4]> = operands(&current.made);
                    let made = copied(builder, node, operands.iter().map(|t| t.id()).collect());
                    current.made.push(smallvec![made]);
                }
            },
        }
    }
    Ok(SmallVec::new())
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
