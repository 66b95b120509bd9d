//! The order of units.
//!
//! It promises that values are made before they are read, that every check is done before a parameter or state changes,
//! and that a parameter or state changes only after the last read of its old value. Where an update in place would break
//! that, its new value is made beside and copied at the end.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};

use cotangent_graph::{CompilerBug, Graph, NodeId, Role};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use super::Bodies;
use super::build::Builder;
use super::units::{Unit, Work};
use crate::cluster::Clusters;
use crate::plan::Plan;

/// Orders the units, gives every value memory, and writes the steps down.
pub(super) fn schedule(
    graph: &Graph,
    clusters: Clusters,
    mut units: Vec<Unit>,
    (bodies, is_body): (&Bodies, bool),
) -> Result<Plan, CompilerBug> {
    units.sort_by_key(|u| (u.order, matches!(u.work, Work::Cluster(_) | Work::Opaque(_))));
    let maker = makers(&units);
    let dag = dependencies(&units, &maker);
    let updates = Updates::new(graph, &units, &maker);
    let (order, copied) = updates.order(&dag, &units)?;
    let plan = Builder::new(graph, &clusters, bodies).build(units, &order, (&updates.by_unit, &copied), is_body);
    let shown = |c: crate::cluster::Cluster| (c.nodes.len() > 1).then_some(c.nodes);
    let (edges, forced) = (clusters.edges, clusters.forced);
    Ok(Plan { edges, forced, clusters: clusters.clusters.into_iter().filter_map(shown).collect(), ..plan })
}

/// The unit that makes each node.
fn makers(units: &[Unit]) -> HashMap<NodeId, usize> {
    let mut maker = HashMap::new();
    for (i, unit) in units.iter().enumerate() {
        maker.extend(unit.writes.iter().map(|&n| (n, i)));
    }
    maker
}

/// An edge from each unit to those that read what it makes; rows picked by index wait for the check of the index.
fn dependencies(units: &[Unit], maker: &HashMap<NodeId, usize>) -> DiGraph<(), ()> {
    let mut dag: DiGraph<(), ()> = DiGraph::with_capacity(units.len(), units.len() * 2);
    let at: Vec<NodeIndex> = units.iter().map(|_| dag.add_node(())).collect();
    let mut checks: HashMap<NodeId, Vec<usize>> = HashMap::new();
    for (i, unit) in units.iter().enumerate() {
        if let Work::Check { values: indices, .. } = unit.work {
            checks.entry(indices).or_default().push(i);
        }
    }
    for (i, unit) in units.iter().enumerate() {
        let mut from: BTreeSet<usize> = unit.reads.iter().filter_map(|read| maker.get(read).copied()).collect();
        if matches!(unit.work, Work::Opaque(_)) {
            from.extend(unit.reads.iter().filter_map(|read| checks.get(read)).flatten());
        }
        from.remove(&i);
        for j in from {
            dag.add_edge(at[j], at[i], ());
        }
    }
    dag
}

/// Which units write which parameter or state in place.
struct Updates {
    /// For each unit, the (target, value) pairs that it would write in place.
    by_unit: Vec<Vec<(NodeId, NodeId)>>,
    /// Updates that cannot be in place, and why.
    never: HashMap<NodeId, &'static str>,
}

/// An order of units, and the updates that are copied at the end, with the reason.
type Ordered = (Vec<usize>, Copied);

/// Why updates are copied at the end.
pub(super) type Copied = HashMap<NodeId, &'static str>;

impl Updates {
    fn new(graph: &Graph, units: &[Unit], maker: &HashMap<NodeId, usize>) -> Self {
        let mut by_unit: Vec<Vec<(NodeId, NodeId)>> = vec![Vec::new(); units.len()];
        let mut never = HashMap::new();
        let mut used: HashSet<NodeId> = HashSet::new();
        for output in graph.outputs() {
            let Role::Update(target) = output.role else { continue };
            let value = output.value;
            if value == target {
                continue;
            }
            let why = match maker.get(&value) {
                None => "the new value is another tensor's",
                Some(&unit) if units[unit].is_loop => "a loop made the new value",
                Some(_) if !used.insert(value) => "the new value is used by two updates",
                Some(&unit) if !units[unit].can_update(target, value) => "its step reads the old value at other places",
                Some(&unit) => {
                    by_unit[unit].push((target, value));
                    continue;
                }
            };
            never.insert(target, why);
        }
        Updates { by_unit, never }
    }

    /// A topological order in which units that update in place come as soon as every reader of the old value and every
    /// check is done.
    fn order(&self, dag: &DiGraph<(), ()>, units: &[Unit]) -> Result<Ordered, CompilerBug> {
        let n = units.len();
        let is_check = |i: usize| units[i].checks;
        let is_update = |i: usize| !self.by_unit[i].is_empty();
        let mut waits: Vec<usize> = vec![0; n];
        for edge in dag.edge_references() {
            waits[edge.target().index()] += 1;
        }
        // What an update waits for besides its operands: other readers of the old value, and all checks as one.
        let updater: HashMap<NodeId, usize> =
            self.by_unit.iter().enumerate().flat_map(|(i, list)| list.iter().map(move |&(t, _)| (t, i))).collect();
        let mut checks_left = (0..n).filter(|&i| is_check(i)).count();
        let mut holds: Vec<usize> = (0..n).map(|i| usize::from(is_update(i) && checks_left > 0)).collect();
        let held_by = |i: usize| {
            let updaters = units[i].reads.iter().filter_map(|read| updater.get(read).copied());
            updaters.filter(move |&u| u != i).collect::<Vec<usize>>()
        };
        for i in 0..n {
            for u in held_by(i) {
                holds[u] += 1;
            }
        }
        // Checks and updates first: the one frees updates, the other memory.
        let rank = |i: usize| Reverse((!is_update(i) && !is_check(i), i));
        let mut ready: BinaryHeap<Reverse<(bool, usize)>> = BinaryHeap::new();
        let mut held: BTreeSet<usize> = BTreeSet::new();
        let mut copied = self.never.clone();
        let mut order = Vec::with_capacity(n);
        for i in (0..n).filter(|&i| waits[i] == 0) {
            if holds[i] == 0 {
                ready.push(rank(i));
            } else {
                held.insert(i);
            }
        }
        while order.len() < n {
            let next = match (ready.pop(), held.first().copied()) {
                (Some(Reverse((_, i))), _) => i,
                // Only updates that are held back are left: the first goes ahead and writes beside the old value.
                (None, Some(i)) => {
                    held.remove(&i);
                    let why = if checks_left > 0 { "a check comes later" } else { "the old value is read later" };
                    copied.extend(self.by_unit[i].iter().map(|&(target, _)| (target, why)));
                    i
                }
                (None, None) => return Err(CompilerBug::new("schedule", "the steps wait for each other")),
            };
            order.push(next);
            let mut freed: Vec<usize> = held_by(next);
            if is_check(next) {
                checks_left -= 1;
                if checks_left == 0 {
                    freed.extend((0..n).filter(|&i| is_update(i)));
                }
            }
            for u in freed {
                holds[u] -= 1;
                if holds[u] == 0 && held.remove(&u) {
                    ready.push(rank(u));
                }
            }
            for edge in dag.edges(NodeIndex::new(next)) {
                let target = edge.target().index();
                waits[target] -= 1;
                if waits[target] == 0 {
                    if holds[target] == 0 {
                        ready.push(rank(target));
                    } else {
                        held.insert(target);
                    }
                }
            }
        }
        Ok((order, copied))
    }
}
