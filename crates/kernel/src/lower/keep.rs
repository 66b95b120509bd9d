//! Values that a row keeps from one sweep to a later one.
//!
//! A value that several sweeps need is computed in each, unless that takes longer than to store it and load it again: then the
//! first sweep stores it to a row of memory that belongs to the thread, stays in the first-level cache, and holds the next
//! row's values next.

use std::collections::{HashMap, HashSet};

use cotangent_graph::{Graph, Lower, NodeId, Source};

use crate::cluster::{At, Cluster, Clusters, Part};

/// A cluster with its values looked at from last to first.
struct Evaluations<'a> {
    graph: &'a Graph,
    clusters: &'a Clusters,
    index: usize,
    /// Operations that it takes to compute a node at an element again.
    work: HashMap<NodeId, usize>,
}

/// The members of a cluster that are kept, each with the first sweep that computes it.
pub(super) fn kept(
    graph: &Graph,
    clusters: &Clusters,
    index: usize,
    stored: &HashSet<NodeId>,
) -> HashMap<NodeId, usize> {
    let cluster = &clusters.clusters[index];
    let cost = &clusters.cost;
    let reduces_rows = cluster.loops.is_some_and(|loops| loops.inner == 1 && loops.reduced <= cost.keep_row());
    let n_sweeps = cluster.sweeps.iter().copied().max().unwrap_or(0) + 1;
    if !reduces_rows || n_sweeps < 2 || n_sweeps > u64::BITS as usize || cluster.product.is_some() {
        return HashMap::new();
    }
    let mut evaluations = Evaluations { graph, clusters, index, work: HashMap::new() };
    let mut kept: HashMap<NodeId, usize> = HashMap::new();
    // For each full member the sweeps that evaluate it, a bit each.
    let mut sweeps: HashMap<NodeId, u64> = HashMap::new();
    let is_full = full_members(cluster);
    for (k, &node) in cluster.nodes.iter().enumerate().rev() {
        let reduces = clusters.reduces[node.index()];
        let own = 1 << cluster.sweeps[k];
        if !is_full.contains(&node) {
            if reduces {
                evaluations.pass_on(node, own, &is_full, &mut sweeps);
            }
            continue;
        }
        let mut mine = sweeps.get(&node).copied().unwrap_or(0);
        if stored.contains(&node) {
            mine |= own;
        }
        if mine.count_ones() > 1 && evaluations.work(node) >= cost.keep_ops {
            kept.insert(node, mine.trailing_zeros() as usize);
            mine = 1 << mine.trailing_zeros();
        }
        evaluations.pass_on(node, mine, &is_full, &mut sweeps);
    }
    kept
}

/// The members that have a value for every element.
fn full_members(cluster: &Cluster) -> HashSet<NodeId> {
    cluster.nodes.iter().zip(&cluster.is_reduced).filter(|(_, is_reduced)| !**is_reduced).map(|(n, _)| *n).collect()
}

impl Evaluations<'_> {
    /// What evaluates a node evaluates what it reads element by element.
    fn pass_on(&self, node: NodeId, mine: u64, is_full: &HashSet<NodeId>, sweeps: &mut HashMap<NodeId, u64>) {
        for read in &self.clusters.reads[node.index()] {
            if read.at == At::Own && is_full.contains(&read.node) {
                *sweeps.entry(read.node).or_insert(0) |= mine;
            }
        }
    }

    /// Operations for each element of a node that memory does not hold.
    fn work(&mut self, root: NodeId) -> usize {
        // Operands first, however many views lie on each other.
        let mut stack = vec![root];
        while let Some(&id) = stack.last() {
            let is_loaded = self.is_loaded(id);
            let inputs = if is_loaded { &[][..] } else { &self.graph.node(id).inputs[..] };
            let n_before = stack.len();
            stack.extend(inputs.iter().filter(|input| !self.work.contains_key(input)));
            if stack.len() == n_before {
                let own = if is_loaded { 0 } else { crate::cluster::own_ops(self.graph, id) };
                let work = inputs.iter().fold(own, |work, input| work.saturating_add(self.work[input]));
                self.work.insert(id, work);
                stack.pop();
            }
        }
        self.work[&root]
    }

    /// Whether a node is loaded, or costs nothing, where it is read.
    fn is_loaded(&self, id: NodeId) -> bool {
        let (graph, clusters) = (self.graph, self.clusters);
        let node = graph.node(id);
        let is_member = clusters.of[id.index()] == Some(self.index);
        match clusters.parts[id.index()] {
            Part::Alias => graph.ty(node.inputs[0]).shape().n_elements() < node.ty.shape().n_elements(),
            Part::Virtual => matches!(node.op.lower, Lower::Source(Source::Constant | Source::Iota)),
            Part::Value => !is_member || clusters.reduces[id.index()],
            _ => true,
        }
    }
}
