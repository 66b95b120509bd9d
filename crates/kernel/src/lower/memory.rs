//! Where elements lie in memory, and what must be there before others can be made.

use std::collections::HashSet;

use cotangent_graph::{Graph, Lower, NodeId};

use super::index::{Affine, Index, flat, identity, through_view};
use super::{Force, READ_AS_MEMORY, RESHAPED};
use crate::cluster::{Clusters, Part};

/// Where a node's elements lie in memory: the node that has the memory and the position for loops over the node's axes.
pub(crate) fn in_memory(graph: &Graph, clusters: &Clusters, id: NodeId) -> Result<(NodeId, Affine), Force> {
    let extents = graph.ty(id).shape().to_vec();
    let (mut at, mut index) = (id, identity(extents.len()));
    loop {
        match clusters.parts[at.index()] {
            Part::Alias => {
                let operand = graph.node(at).inputs[0];
                let has_memory = !matches!(clusters.parts[operand.index()], Part::Alias | Part::Virtual);
                if graph.node(at).is_reshape() && has_memory {
                    return Ok((operand, flat(&index, graph.ty(at).shape(), extents.len())));
                }
                index = through_view(graph, at, &index, &extents).ok_or(Force::new(operand, RESHAPED))?;
                at = operand;
            }
            Part::Virtual | Part::Dead => return Err(Force::new(id, READ_AS_MEMORY)),
            _ => return Ok((at, flat(&index, graph.ty(at).shape(), extents.len()))),
        }
    }
}

/// What stands in the way of making a node's memory, once it has its own: the nodes below it that need memory first. It goes the
/// way that lowering goes, from the node's own indices down to memory.
pub(crate) fn behind(graph: &Graph, clusters: &Clusters, root: NodeId) -> Vec<Force> {
    let is_reduction = clusters.reduces[root.index()];
    let start = if is_reduction { graph.node(root).inputs[0] } else { root };
    let extents = graph.ty(start).shape().to_vec();
    let mut forces = Vec::new();
    let mut visited: HashSet<(NodeId, Index)> = HashSet::new();
    let mut stack = vec![(start, identity(extents.len()))];
    while let Some((at, index)) = stack.pop() {
        let has_memory = |id: NodeId| !matches!(clusters.parts[id.index()], Part::Alias | Part::Virtual | Part::Dead);
        if has_memory(at) && at != root || !visited.insert((at, index.clone())) {
            continue;
        }
        let node = graph.node(at);
        match &node.op.lower {
            Lower::View(_) | Lower::Reduce(_) if !clusters.reduces[at.index()] => {
                let operand = node.inputs[0];
                match through_view(graph, at, &index, &extents) {
                    _ if has_memory(operand) => {}
                    Some(inner) => stack.push((operand, inner)),
                    None => forces.push(Force::new(operand, RESHAPED)),
                }
            }
            Lower::Identity | Lower::Check(_) | Lower::Scalar(_) => {
                stack.extend(node.inputs.iter().map(|&input| (input, index.clone())));
            }
            _ => {}
        }
    }
    forces
}
