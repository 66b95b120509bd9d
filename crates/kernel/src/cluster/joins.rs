//! Values that are made where they are joined: in the memory of the tensor that they are a part of, and nowhere else.

use std::collections::{HashMap, HashSet};

use cotangent_graph::ops::view::PAD;
use cotangent_graph::{Graph, Lower, NodeId, Role};

use super::{Cluster, Edge, Fusion, Fusions, Part, Reason, Verdict};
use crate::cost::LONG_PART;

/// Where a value lies that is made in the memory of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node that it is joined into. Its axes are those of the value, and it strides along them.
    pub within: NodeId,
    /// Where the value's first element is, in elements.
    pub offset: i64,
}

/// Where the first element of each operand of a join lies in its memory.
pub(crate) fn corners(graph: &Graph, join: NodeId) -> Vec<i64> {
    let node = graph.node(join);
    let strides = node.ty.shape().strides();
    if node.is(&PAD) {
        return vec![node.attrs.ints("low").iter().zip(&strides).map(|(low, stride)| low * stride).sum()];
    }
    let axis = node.attrs.size("axis");
    let mut start = 0;
    let corner = |&input: &NodeId| {
        start += graph.ty(input).shape()[axis] as i64;
        (start - graph.ty(input).shape()[axis] as i64) * strides[axis]
    };
    node.inputs.iter().map(corner).collect()
}

/// The values that are made where they are joined; their edges say so.
///
/// Such a value is computed, element by element, by a kernel that does nothing else, so that its loops can have any strides; outside
/// of that kernel only the join reads it, once. What joins it does not fill its memory beforehand and updates nothing, so nobody minds
/// that it is written early. And its runs are long beside what a loop over them costs.
pub(super) fn placed(
    graph: &Graph,
    fusions: &Fusions,
    (parts, wanted): (&[Part], &[bool]),
    (clusters, of): (&[Cluster], &[Option<usize>]),
    edges: &mut [Edge],
) -> HashMap<NodeId, Place> {
    let (live, readers) = (graph.live(), graph.readers());
    let is_join = |id: &NodeId| {
        parts[id.index()] == Part::Opaque
            && matches!(graph.node(*id).op.lower, Lower::Join)
            && !graph.node(*id).is(&PAD)
    };
    let joins: Vec<NodeId> = graph.ids().filter(is_join).collect();
    let mut placed = HashMap::new();
    if joins.is_empty() {
        return placed;
    }
    let updates: HashSet<NodeId> =
        graph.outputs().iter().filter(|o| matches!(o.role, Role::Update(_))).map(|o| o.value).collect();
    let mut forbidden = HashSet::new();
    for join in joins.into_iter().filter(|join| !updates.contains(join)) {
        let node = graph.node(join);
        let axis = node.attrs.size("axis");
        for (&value, offset) in node.inputs.iter().zip(corners(graph, join)) {
            let cluster = of[value.index()].filter(|_| parts[value.index()] == Part::Value && !wanted[value.index()]);
            let elementwise = |c: &usize| clusters[*c].loops.is_none() && clusters[*c].product.is_none();
            let Some(cluster) = cluster.filter(elementwise) else { continue };
            let shape = graph.ty(value).shape();
            let (outer, run) = shape.split_at(axis);
            let is_long = outer.iter().all(|&n| n == 1) || run.iter().product::<usize>() >= LONG_PART;
            let all = || readers[value.index()].iter().filter(|reader| live[reader.index()]);
            let is_inside =
                |reader: &NodeId| parts[reader.index()] == Part::Value && of[reader.index()] == Some(cluster);
            let n_joins = all().filter(|reader| **reader == join).count();
            let is_alone = n_joins == 1 && all().all(|reader| *reader == join || is_inside(reader));
            if !is_alone || !is_long && !fusions.forces(Fusion::IntoJoin) {
                continue;
            }
            if fusions.allows(Fusion::IntoJoin) {
                placed.insert(value, Place { within: join, offset });
            } else {
                forbidden.insert(value);
            }
        }
    }
    for edge in edges.iter_mut().filter(|edge| is_join(&edge.to)) {
        if placed.contains_key(&edge.from) {
            edge.verdict = Verdict::Fuse(Fusion::IntoJoin);
        } else if forbidden.contains(&edge.from) {
            edge.verdict = Verdict::Keep(Reason::Forbidden(Fusion::IntoJoin));
        }
    }
    placed
}
