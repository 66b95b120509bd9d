//! What is bound by name: inputs, parameters and states, and the outputs of a graph.

use std::collections::{HashMap, HashSet};

use cotangent_graph::{Graph, Node, Output, Role};

/// The same outputs and updates, in the same order, of the same types; and no source that was not there.
pub(crate) fn same_interface(before: &Graph, after: &Graph) -> Result<(), String> {
    let equal = |x: &Output, y: &Output| {
        let target = |graph: &Graph, o: &Output| match o.role {
            Role::Result => None,
            Role::Update(target) => Some(graph.node(target).name().map(str::to_owned)),
        };
        x.name == y.name && before.ty(x.value) == after.ty(y.value) && target(before, x) == target(after, y)
    };
    let all = |graph: &Graph, o: &Output| format!("{} : {}", title(o), graph.ty(o.value));
    for (x, y) in before.outputs().iter().zip(after.outputs()) {
        if !equal(x, y) {
            return Err(format!("{} becomes {}", all(before, x), all(after, y)));
        }
    }
    let (x, y) = (before.outputs().len(), after.outputs().len());
    if x != y {
        return Err(format!("{x} outputs become {y}"));
    }
    let known: HashMap<&str, &Node> = before.nodes().iter().filter_map(|node| Some((node.name()?, node))).collect();
    let mut seen = HashSet::new();
    for (name, node) in after.nodes().iter().filter_map(|node| Some((node.name()?, node))) {
        let same = known.get(name).is_some_and(|known| known.op == node.op && known.ty == node.ty);
        if !same || !seen.insert(name) {
            return Err(format!("the {} `{name}` : {} is not one of the graph before", node.op.name, node.ty));
        }
    }
    Ok(())
}

/// An output as messages name it.
pub(crate) fn title(output: &Output) -> String {
    match output.role {
        Role::Result => format!("output `{}`", output.name),
        Role::Update(_) => format!("the update of `{}`", output.name),
    }
}
