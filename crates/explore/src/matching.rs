//! Which nodes of a graph are which of the graph before a pass.
//!
//! First from below: a node is the same if it is the same op with the same attributes over operands that are the same. Then from
//! the outputs down: readers that are alike but for their operands are the same too, and where they read something unlike, that was
//! put in the place of what they read before. Then from below again, with what is known now; and what is left is the same if op,
//! attributes, type and origin are, in order. Each step is linear in the graph.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use cotangent_graph::{Attr, Attrs, BodyId, Graph, Node, NodeId, OpRef, OpTraits, Output, Role, Type};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::trace::{Sheet, Uid};

/// What is matched.
#[derive(Debug, Default)]
pub(crate) struct Matched {
    /// The uid of each number of the new graph.
    pub(crate) uids: Vec<Uid>,
    /// Those that the old graph has not.
    pub(crate) fresh: Vec<Uid>,
    /// What was read before, and the number of what is read instead.
    pub(crate) replaced: Vec<(Uid, usize)>,
    /// Bodies before and after the pass, of nodes that stayed.
    pub(crate) bodies: Vec<(Arc<Graph>, Arc<Graph>)>,
}

/// What makes two nodes the same.
type Key = (OpRef, SmallVec<[Uid; 3]>, Attrs, Type, SmallVec<[usize; 1]>);

/// The address of each body that a node names: bodies are shared as long as nothing changes in them.
fn bodies_of(graph: &Graph, node: &Node) -> SmallVec<[usize; 1]> {
    let ids = node.attrs.iter().filter_map(|(_, attr)| if let Attr::Body(id) = attr { Some(*id) } else { None });
    ids.map(|id| Arc::as_ptr(graph.body(id)) as usize).collect()
}

/// Attributes without the numbers of bodies.
fn plain_attrs(node: &Node) -> Attrs {
    node.attrs.map_bodies(|_| BodyId(0))
}

/// The key of a node whose operands all have a uid.
fn key(graph: &Graph, node: &Node, uid: impl Fn(NodeId) -> Option<Uid>) -> Option<Key> {
    let operands = node.inputs.iter().map(|&input| uid(input)).collect::<Option<_>>()?;
    Some((node.op, operands, plain_attrs(node), node.ty.clone(), bodies_of(graph, node)))
}

/// Whether one may stand for the other, whatever their operands.
fn alike(a: &Node, b: &Node) -> bool {
    a.op == b.op && a.inputs.len() == b.inputs.len() && a.ty == b.ty && plain_attrs(a) == plain_attrs(b)
}

/// The outputs of two graphs that are for the same, and their checks in order.
fn roots(old: &Graph, new: &Graph) -> Vec<(NodeId, NodeId)> {
    let key = |output: &Output| (Arc::clone(&output.name), output.role == Role::Result);
    let before: HashMap<_, NodeId> = old.outputs().iter().map(|output| (key(output), output.value)).collect();
    let outputs = new.outputs().iter().filter_map(|output| Some((*before.get(&key(output))?, output.value)));
    outputs.chain(old.checks().iter().copied().zip(new.checks().iter().copied())).collect()
}

/// Matches a graph with what it was before; without that, all its nodes are new. What is `taken` already stands for other nodes.
pub(crate) fn matched(old: Option<&Sheet>, new: &Sheet, taken: &mut HashSet<Uid>, n_uids: &mut usize) -> Matched {
    let graph = &*new.graph;
    let mut uids: Vec<Option<Uid>> = vec![None; graph.n_nodes()];
    let mut known: FxHashMap<Key, Uid> = FxHashMap::default();
    let mut replaced = Vec::new();
    if let Some(old) = old {
        let uid = |id: NodeId| old.uids[old.number[&id]];
        for &id in &old.order {
            known.extend(key(&old.graph, old.graph.node(id), |input| Some(uid(input))).map(|key| (key, uid(id))));
        }
        from_below(new, &known, &mut uids, taken);
        let mut open = roots(&old.graph, graph);
        open.reverse();
        while let Some((was, is)) = open.pop() {
            let (a, b) = (old.graph.node(was), graph.node(is));
            if uids[is.index()] == Some(uid(was)) {
                continue;
            }
            if uids[is.index()].is_none() && !taken.contains(&uid(was)) && alike(a, b) {
                uids[is.index()] = Some(uid(was));
                taken.insert(uid(was));
                let known = |was: NodeId, is: NodeId| match uids[is.index()] {
                    Some(found) => 2 * usize::from(found == uid(was)),
                    None => usize::from(alike(old.graph.node(was), graph.node(is))),
                };
                open.extend(paired(a, b, known).into_iter().rev());
            } else {
                replaced.push((uid(was), new.number[&is]));
            }
        }
    }
    // What is left behind something that was replaced: by where it comes from, in order.
    let kind = |node: &Node| (node.op, plain_attrs(node), node.ty.clone(), node.origin.lines.clone(), node.origin.rule);
    let mut left: FxHashMap<_, VecDeque<Uid>> = FxHashMap::default();
    for (&id, uid) in old.iter().flat_map(|old| old.order.iter().zip(&old.uids)).filter(|(_, uid)| !taken.contains(uid))
    {
        let node = old.map(|old| old.graph.node(id));
        node.into_iter().for_each(|node| left.entry(kind(node)).or_default().push_back(*uid));
    }
    let mut fresh = Vec::new();
    for &id in &new.order {
        if uids[id.index()].is_some() {
            continue;
        }
        let same = key(graph, graph.node(id), |input| uids[input.index()]).and_then(|key| known.get(&key).copied());
        let mut akin = || {
            let akin = left.get_mut(&kind(graph.node(id)))?;
            std::iter::from_fn(|| akin.pop_front()).find(|uid| !taken.contains(uid))
        };
        let uid = same.filter(|uid| !taken.contains(uid)).or_else(&mut akin).filter(|uid| taken.insert(*uid));
        let uid = uid.unwrap_or_else(|| {
            fresh.push(Uid(*n_uids as u32));
            *n_uids += 1;
            fresh[fresh.len() - 1]
        });
        uids[id.index()] = Some(uid);
    }
    let uids: Vec<Uid> = new.order.iter().filter_map(|id| uids[id.index()]).collect();
    let bodies = old.map_or_else(Vec::new, |old| kept_bodies(old, new, &uids));
    Matched { uids, fresh, replaced, bodies }
}

/// The operands of two nodes that are the same, each with the one that takes its place: two that commute crosswise, where that makes
/// more of them the same.
fn paired(a: &Node, b: &Node, same: impl Fn(NodeId, NodeId) -> usize) -> SmallVec<[(NodeId, NodeId); 3]> {
    if let ([a0, a1], [b0, b1]) = (&a.inputs[..], &b.inputs[..])
        && a.op.traits.has(OpTraits::COMMUTATIVE)
        && same(*a0, *b1) + same(*a1, *b0) > same(*a0, *b0) + same(*a1, *b1)
    {
        return SmallVec::from_iter([(*a0, *b1), (*a1, *b0)]);
    }
    a.inputs.iter().copied().zip(b.inputs.iter().copied()).collect()
}

/// Gives a uid to every node that is the same over operands that are the same.
fn from_below(new: &Sheet, known: &FxHashMap<Key, Uid>, uids: &mut [Option<Uid>], taken: &mut HashSet<Uid>) {
    for &id in &new.order {
        let key = key(&new.graph, new.graph.node(id), |input| uids[input.index()]);
        if let Some(&uid) = key.and_then(|key| known.get(&key)).filter(|uid| !taken.contains(uid)) {
            taken.insert(uid);
            uids[id.index()] = Some(uid);
        }
    }
}

/// The bodies of the nodes that both graphs have.
fn kept_bodies(old: &Sheet, new: &Sheet, uids: &[Uid]) -> Vec<(Arc<Graph>, Arc<Graph>)> {
    let before: HashMap<Uid, NodeId> = old.uids.iter().copied().zip(old.order.iter().copied()).collect();
    let bodies = |graph: &Graph, node: &Node| -> Vec<Arc<Graph>> {
        let ids = node.attrs.iter().filter_map(|(_, attr)| if let Attr::Body(id) = attr { Some(*id) } else { None });
        ids.map(|id| Arc::clone(graph.body(id))).collect()
    };
    let mut pairs = Vec::new();
    for (uid, &id) in uids.iter().zip(&new.order) {
        let Some(&was) = before.get(uid) else { continue };
        let (was, is) = (bodies(&old.graph, old.graph.node(was)), bodies(&new.graph, new.graph.node(id)));
        pairs.extend(was.into_iter().zip(is));
    }
    pairs
}
