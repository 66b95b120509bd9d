//! Values that are made where they are joined: in the memory of the tensor that they are a part of, and nowhere else.

use std::collections::{HashMap, HashSet};

use cotangent_graph::ops::view::PAD;
use cotangent_graph::{Graph, Lower, NodeId, Role};
use smallvec::SmallVec;

use super::grow::Topology;
use super::parts::Roles;
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

/// All places of a value: one in each join that reads it.
pub type Places = SmallVec<[Place; 1]>;

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

/// The values that are made where they are joined, each with all its places; their edges say so.
///
/// Such a value is computed, element by element, by a kernel that does nothing else, so that its loops can have any strides; outside
/// of that kernel only joins read it. What joins it does not fill its memory beforehand and updates nothing, so nobody minds
/// that it is written early. And its runs are long beside what a loop over them costs.
pub(super) fn placed(
    graph: &Graph,
    fusions: &Fusions,
    (roles, topology): (&Roles, &Topology),
    (clusters, of): (&[Cluster], &[Option<usize>]),
    edges: &mut [Edge],
) -> HashMap<NodeId, Places> {
    let parts = &roles.parts;
    let is_join = |id: &NodeId| {
        parts[id.index()] == Part::Opaque
            && matches!(graph.node(*id).op.lower, Lower::Join)
            && !graph.node(*id).is(&PAD)
    };
    let updates: HashSet<NodeId> =
        graph.outputs().iter().filter(|o| matches!(o.role, Role::Update(_))).map(|o| o.value).collect();
    let mut placed: HashMap<NodeId, Places> = HashMap::new();
    for join in graph.ids().filter(|id| is_join(id) && !updates.contains(id)) {
        let node = graph.node(join);
        let axis = node.attrs.size("axis");
        for (&value, offset) in node.inputs.iter().zip(corners(graph, join)) {
            let (outer, run) = graph.ty(value).shape().split_at(axis);
            let is_long = outer.iter().all(|&n| n == 1) || run.iter().product::<usize>() >= LONG_PART;
            if is_long || fusions.forces(Fusion::IntoJoin) {
                placed.entry(value).or_default().push(Place { within: join, offset });
            }
        }
    }
    placed.retain(|value, places| {
        let own = of[value.index()];
        let is_made = parts[value.index()] == Part::Value && !roles.wanted[value.index()];
        let cluster = own.filter(|_| is_made).map(|c| &clusters[c]);
        // A join may look at the value in another way beside.
        let looks = |input: &NodeId| {
            matches!(parts[input.index()], Part::Alias | Part::Virtual)
                && topology.reads[input.index()].iter().any(|read| read.node == *value)
        };
        let is_place = |reader: NodeId| {
            places.iter().any(|place| place.within == reader) && !graph.node(reader).inputs.iter().any(looks)
        };
        let mut others = topology.readers[value.index()].iter().filter(|reader| of[reader.node.index()] != own);
        cluster.is_some_and(|c| c.loops.is_none() && c.product.is_none()) && others.all(|reader| is_place(reader.node))
    });
    let verdict = match fusions.allows(Fusion::IntoJoin) {
        true => Verdict::Fuse(Fusion::IntoJoin),
        false => Verdict::Keep(Reason::Forbidden(Fusion::IntoJoin)),
    };
    for edge in edges.iter_mut().filter(|edge| is_join(&edge.to) && placed.contains_key(&edge.from)) {
        edge.verdict = verdict.clone();
    }
    if fusions.allows(Fusion::IntoJoin) { placed } else { HashMap::new() }
}
