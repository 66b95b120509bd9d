//! The verifier: what holds of every well-formed graph, checked of every graph that is handed in, and after every pass in debug
//! builds. What cannot be otherwise, because a graph refuses it, is at the top of [`mod@crate::ir`].
//!
//! * The number of operands is one that the op takes.
//! * The attributes are those that the op declares, in its order, of their kinds.
//! * The type of a node is the one that its op infers from its operands.
//! * Inputs, parameters and states have distinct names.
//! * Every output names an existing node; results are tensors and have distinct names.
//! * An update's target is a parameter or state, is updated once, and the types are equal.
//! * Bodies are closed graphs that hold these invariants themselves.
//! * At the primitive stage there are no composites, calls, tuples or `grad`; of tuples only the results of loops, and their items.

use std::collections::HashSet;

use crate::attrs::Attrs;
use crate::builder::{check_result, infer_type};
use crate::diag::Code;
use crate::ir::{Graph, Role};
use crate::op::{Fault, Lower, OpDef};
use crate::ops::region::closed;

/// How far a graph has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// As built: composites, regions and `grad` are allowed.
    Source,
    /// No `grad` any more.
    Differentiated,
    /// Only ops that lower to loops and steps.
    Primitive,
}

/// Everything that is wrong with a graph; empty if it is well formed.
pub fn verify(graph: &Graph, stage: Stage) -> Vec<String> {
    let mut errors = verify_one(graph, stage);
    for body in graph.all_bodies() {
        let outside = closed(body).err().map(|diag| diag.message);
        let of_body = verify_one(body, stage).into_iter().chain(outside);
        errors.extend(of_body.map(|e| format!("in body @{}: {e}", body.name())));
    }
    errors
}

/// The same without its bodies.
fn verify_one(graph: &Graph, stage: Stage) -> Vec<String> {
    let mut errors = Vec::new();
    let mut names = HashSet::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let mut wrong = |text: String| errors.push(format!("{id} = {}: {text}", node.op.name));
        match infer_type(graph, node.op.0, &node.inputs, &node.attrs, Some(&node.ty)) {
            Err(fault) => wrong(fault.message),
            Ok(ty) if ty != node.ty => wrong(format!("has type {}, but {ty} is inferred", node.ty)),
            Ok(_) => {}
        }
        if let Some(name) = node.name()
            && !names.insert(name)
        {
            wrong(format!("the name `{name}` is used twice"));
        }
        if stage >= Stage::Differentiated && matches!(node.op.lower, Lower::Grad) {
            wrong("`grad` after differentiation".into());
        }
        let composite =
            matches!(node.op.lower, Lower::Expand(_) | Lower::Tuple | Lower::Item) && !graph.is_of_loop(node);
        if stage >= Stage::Primitive && composite {
            wrong("a composite at the primitive stage".into());
        }
    }
    verify_outputs(graph, &mut errors);
    errors
}

fn verify_outputs(graph: &Graph, errors: &mut Vec<String>) {
    let (mut results, mut targets) = (HashSet::new(), HashSet::new());
    for output in graph.outputs() {
        let mut wrong = |text: String| errors.push(format!("output `{}`: {text}", output.name));
        match output.role {
            Role::Result => {
                if !results.insert(&output.name) {
                    wrong("the name is used twice".into());
                }
                if let Err(diag) = check_result(graph, &output.name, output.value) {
                    wrong(diag.message);
                }
            }
            Role::Update(target) => {
                let node = graph.node(target);
                if !node.is_stored() {
                    wrong(format!("updates `{}`, not a parameter or state", node.op.name));
                }
                if &node.ty != graph.ty(output.value) {
                    wrong(format!("updates {} with {}", node.ty, graph.ty(output.value)));
                }
                if !targets.insert(target) {
                    wrong("its target is updated twice".into());
                }
            }
        }
    }
}

/// Checks that attributes are those that an op declares.
pub fn check_attrs(op: &'static OpDef, attrs: &Attrs) -> Result<(), Fault> {
    let declared = || op.attrs.iter().map(|a| a.name).collect::<Vec<_>>().join(", ");
    let mut given = attrs.iter();
    for spec in op.attrs {
        match given.next() {
            Some((name, value)) if name == spec.name && value.kind() == spec.kind => {}
            Some((name, value)) if name == spec.name => {
                let text = format!("`{}` requires {:?} for `{name}`, got {:?}", op.name, spec.kind, value.kind());
                return Err(Fault::new(Code::BadAttribute, text));
            }
            _ => {
                let text = format!(
                    "`{}` requires the attributes ({}), `{}` is missing or misplaced",
                    op.name,
                    declared(),
                    spec.name
                );
                return Err(Fault::new(Code::BadAttribute, text));
            }
        }
    }
    match given.next() {
        Some((name, _)) => {
            let text = format!("`{}` has the attributes ({}), not `{name}`", op.name, declared());
            Err(Fault::new(Code::BadAttribute, text))
        }
        None => Ok(()),
    }
}
