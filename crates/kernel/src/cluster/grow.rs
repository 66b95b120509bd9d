//! Growing clusters: every edge in topological order, then tiny values that share nothing but their size.

use std::collections::{HashMap, HashSet};

use cotangent_graph::eval::reduction_groups;
use cotangent_graph::{Graph, NodeId, Shape};
use smallvec::SmallVec;

use super::order::{Neighbors, Obstacle, Order};
use super::parts::Roles;
use super::{Cluster, ClusterOptions, Clusters, Edge, Joined, Loops, Part, Read, Reason, Verdict};

/// Clusters of tiny values that the next one is tried with.
const OPEN_TINY: usize = 4;

/// The axes and loops of a reduction.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reduction {
    loops: Loops,
    axes: SmallVec<[usize; 4]>,
}

/// A cluster under construction.
#[derive(Clone, Debug)]
struct Group {
    nodes: Vec<NodeId>,
    domain: Shape,
    reduction: Option<Reduction>,
    product: Option<NodeId>,
    n_ops: usize,
    /// What members read of others.
    inputs: HashSet<NodeId>,
    /// Members that others need.
    n_stored: usize,
}

/// The clusters as nodes of a graph.
struct Topology {
    parent: Vec<u32>,
    groups: Vec<Option<Group>>,
    reads: Vec<SmallVec<[Read; 4]>>,
    /// The computed readers of each node, and whether each reads it at its own indices.
    readers: Vec<SmallVec<[Read; 4]>>,
    is_computed: Vec<bool>,
}

impl Topology {
    fn find(&self, id: NodeId) -> u32 {
        let mut root = id.0;
        while self.parent[root as usize] != root {
            root = self.parent[root as usize];
        }
        root
    }

    fn group(&self, root: u32) -> Option<&Group> {
        self.groups[root as usize].as_ref()
    }

    fn push_all(&self, root: u32, lists: &[SmallVec<[Read; 4]>], out: &mut Vec<u32>) {
        let alone = [NodeId(root)];
        let members: &[NodeId] = self.group(root).map_or(&alone, |g| &g.nodes);
        let others = members.iter().flat_map(|m| &lists[m.index()]).filter(|r| self.is_computed[r.node.index()]);
        out.extend(others.map(|r| self.find(r.node)).filter(|&other| other != root));
    }
}

impl Neighbors for Topology {
    fn readers(&self, root: u32, out: &mut Vec<u32>) {
        self.push_all(root, &self.readers, out);
    }

    fn operands(&self, root: u32, out: &mut Vec<u32>) {
        self.push_all(root, &self.reads, out);
    }
}

struct Clusterer<'a> {
    graph: &'a Graph,
    options: &'a ClusterOptions,
    forced: &'a HashSet<NodeId>,
    roles: Roles,
    topology: Topology,
    order: Order,
    /// Members that live at the reduced shape of their cluster, the reductions included.
    is_reduced: Vec<bool>,
    /// For each node, the readers that are not in its cluster.
    n_outside: Vec<u32>,
}

/// What two clusters would be together.
struct Joint {
    joined: Joined,
    domain: Shape,
    reduction: Option<Reduction>,
    /// The reader's cluster becomes part of the reduced shape.
    reader_is_reduced: bool,
}

pub(super) fn run(graph: &Graph, options: &ClusterOptions, forced: &HashSet<NodeId>, mut roles: Roles) -> Clusters {
    let n = graph.n_nodes();
    let reads = std::mem::take(&mut roles.reads);
    let mut topology = Topology {
        parent: (0..n as u32).collect(),
        groups: vec![None; n],
        reads,
        readers: vec![SmallVec::new(); n],
        is_computed: roles.parts.iter().map(|p| matches!(p, Part::Value | Part::Product | Part::Opaque)).collect(),
    };
    for id in graph.ids().filter(|id| topology.is_computed[id.index()]) {
        for read in &topology.reads[id.index()] {
            topology.readers[read.node.index()].push(Read { node: id, direct: read.direct });
        }
    }
    let n_outside: Vec<u32> = topology.readers.iter().map(|r| r.len() as u32).collect();
    for id in graph.ids().filter(|id| matches!(roles.parts[id.index()], Part::Value | Part::Product)) {
        topology.groups[id.index()] = Some(Group::of_node(graph, id, &roles, &topology, n_outside[id.index()]));
    }
    let order = Order::new(n, options.cost.max_search);
    let is_reduced = roles.reduces.clone();
    Clusterer { graph, options, forced, roles, topology, order, is_reduced, n_outside }.run()
}

impl Group {
    fn of_node(graph: &Graph, id: NodeId, roles: &Roles, topology: &Topology, n_readers: u32) -> Self {
        let node = graph.node(id);
        let mut domain = node.ty.shape().clone();
        let mut reduction = None;
        if roles.reduces[id.index()] {
            domain = graph.ty(node.inputs[0]).shape().clone();
            let axes = node.attrs.sizes("axes");
            if let Some(&(outer, reduced, inner)) = reduction_groups(&domain, &axes).first() {
                reduction = Some(Reduction { loops: Loops { outer, reduced, inner }, axes });
            }
        }
        Group {
            nodes: vec![id],
            domain,
            reduction,
            product: (roles.parts[id.index()] == Part::Product).then_some(id),
            n_ops: roles.ops[id.index()],
            inputs: topology.reads[id.index()].iter().map(|r| r.node).collect(),
            n_stored: usize::from(n_readers > 0 || roles.wanted[id.index()]),
        }
    }
}

impl Clusterer<'_> {
    fn run(mut self) -> Clusters {
        let mut edges = Vec::new();
        for id in self.graph.ids() {
            let verdict = Verdict::Fuse(Joined::Recomputed);
            edges.extend(self.roles.recomputes[id.index()].iter().map(|&from| Edge {
                from,
                to: id,
                verdict: verdict.clone(),
            }));
            if self.topology.is_computed[id.index()] {
                for read in self.topology.reads[id.index()].clone() {
                    if self.topology.is_computed[read.node.index()] {
                        let verdict = self.decide(read, id);
                        edges.push(Edge { from: read.node, to: id, verdict });
                    }
                }
            }
        }
        if self.options.fuse {
            self.join_tiny();
        }
        // Clusters may have met by another way after an edge was decided.
        for edge in &mut edges {
            if edge.verdict != Verdict::Fuse(Joined::Recomputed)
                && self.topology.find(edge.from) == self.topology.find(edge.to)
            {
                edge.verdict = Verdict::Fuse(self.joined(edge.from, edge.to));
            }
        }
        self.finish(edges)
    }

    fn finish(mut self, edges: Vec<Edge>) -> Clusters {
        let mut of = vec![None; self.graph.n_nodes()];
        let mut clusters = Vec::new();
        // Roots by the first member, so that numbers follow the program.
        for id in self.graph.ids() {
            let root = self.topology.find(id) as usize;
            let Some(mut group) = self.topology.groups[root].take() else { continue };
            group.nodes.sort_unstable();
            for node in &group.nodes {
                of[node.index()] = Some(clusters.len());
            }
            let (loops, axes) = group.reduction.map_or((None, SmallVec::new()), |r| (Some(r.loops), r.axes));
            let Group { nodes, domain, product, .. } = group;
            clusters.push(Cluster { nodes, domain, loops, axes, product });
        }
        let mut needed = self.roles.wanted;
        for id in self.graph.ids().filter(|id| self.topology.is_computed[id.index()]) {
            let own = of[id.index()];
            for read in &self.topology.reads[id.index()] {
                needed[read.node.index()] |= own.is_none() || of[read.node.index()] != own;
            }
        }
        let Topology { reads, .. } = self.topology;
        Clusters { parts: self.roles.parts, of, clusters, edges, reads, reduces: self.roles.reduces, needed }
    }

    fn decide(&mut self, read: Read, to: NodeId) -> Verdict {
        let from = read.node;
        let (from_op, to_op) = (self.graph.node(from).op.name, self.graph.node(to).op.name);
        if self.roles.parts[to.index()] != Part::Value {
            return Verdict::Keep(Reason::ReadsMemory(to_op));
        }
        if self.roles.parts[from.index()] == Part::Opaque {
            return Verdict::Keep(Reason::WritesMemory(from_op));
        }
        if !self.options.fuse {
            return Verdict::Keep(Reason::FusionOff);
        }
        if self.topology.find(from) == self.topology.find(to) {
            return Verdict::Fuse(self.joined(from, to));
        }
        if self.forced.contains(&from) || self.forced.contains(&to) {
            return Verdict::Keep(Reason::CannotMerge);
        }
        let done = self.joint(read, to).and_then(|joint| {
            let (a, b) = (self.topology.find(from), self.topology.find(to));
            let joined = joint.joined.clone();
            self.join(a, b, joint).map(|()| joined)
        });
        match done {
            Ok(joined) => Verdict::Fuse(joined),
            Err(reason) => Verdict::Keep(reason),
        }
    }

    /// How two members of a cluster are joined.
    fn joined(&self, from: NodeId, to: NodeId) -> Joined {
        if self.roles.parts[from.index()] == Part::Product {
            Joined::Epilogue
        } else if self.is_reduced[from.index()] {
            Joined::OutOfReduction
        } else if self.roles.reduces[to.index()] {
            Joined::IntoReduction
        } else {
            Joined::SameElements
        }
    }

    /// The cluster that `read.node` and `to` would make, if their loops fit.
    fn joint(&self, read: Read, to: NodeId) -> Result<Joint, Reason> {
        let missing = Reason::OtherLoops;
        let a = self.topology.group(self.topology.find(read.node)).ok_or(missing.clone())?;
        let b = self.topology.group(self.topology.find(to)).ok_or(missing)?;
        let from_reduced = self.is_reduced[read.node.index()];
        if !read.direct {
            return Err(if from_reduced && a.domain == b.domain { Reason::SecondSweep } else { Reason::OtherIndices });
        }
        let (domain, reduction) = if from_reduced {
            // The reader must be pointwise at the reduced shape, alone or with others like it.
            if b.reduction.is_some() || b.product.is_some() || b.domain != *self.graph.ty(read.node).shape() {
                return Err(Reason::OtherLoops);
            }
            (a.domain.clone(), a.reduction.clone())
        } else {
            let same_axes = match (&a.reduction, &b.reduction) {
                (Some(x), Some(y)) => x == y,
                _ => true,
            };
            if a.domain != b.domain || !same_axes {
                return Err(Reason::OtherLoops);
            }
            (a.domain.clone(), a.reduction.clone().or_else(|| b.reduction.clone()))
        };
        if a.product.is_some() && b.product.is_some() {
            return Err(Reason::TwoProducts);
        }
        if (a.product.is_some() || b.product.is_some()) && reduction.is_some() {
            return Err(Reason::ReducesProduct);
        }
        let joined = if from_reduced { Joined::OutOfReduction } else { self.joined(read.node, to) };
        Ok(Joint { joined, domain, reduction, reader_is_reduced: from_reduced })
    }

    /// Merges two clusters, `b` the reader's, unless members would read each other at other indices, the kernel would be
    /// too large, or it would wait for itself.
    fn join(&mut self, a: u32, b: u32, joint: Joint) -> Result<(), Reason> {
        let size = |root: u32| self.topology.group(root).map_or(0, |g| g.nodes.len());
        let (small, large) = if size(a) < size(b) { (a, b) } else { (b, a) };
        let (Some(s), Some(l)) = (self.topology.group(small), self.topology.group(large)) else {
            return Err(Reason::OtherLoops);
        };
        // The smaller one's edges are all edges between the two.
        let mut now_inside: HashMap<NodeId, u32> = HashMap::new();
        for &member in &s.nodes {
            let reads = self.topology.reads[member.index()].iter().map(|r| (r.node, member, r));
            let readers = self.topology.readers[member.index()].iter().map(|r| (member, r.node, r));
            for (from, to, edge) in reads.chain(readers) {
                if !self.topology.is_computed[edge.node.index()] || self.topology.find(edge.node) != large {
                    continue;
                }
                if !edge.direct {
                    return Err(self.reads_elsewhere(from, to));
                }
                *now_inside.entry(from).or_insert(0) += 1;
            }
        }
        let n_new = s.inputs.iter().filter(|i| !l.inputs.contains(i) && self.topology.find(**i) != large).count();
        let n_gone = s.nodes.iter().filter(|m| l.inputs.contains(m)).count();
        let is_freed = |(n, k): &(&NodeId, &u32)| self.n_outside[n.index()] == **k && !self.roles.wanted[n.index()];
        let n_stored = s.n_stored + l.n_stored - now_inside.iter().filter(is_freed).count();
        let (n_ops, n_args) = (s.n_ops + l.n_ops, l.inputs.len() + n_new - n_gone + n_stored);
        if n_ops > self.options.cost.max_ops || n_args > self.options.cost.max_args {
            return Err(Reason::TooLarge);
        }
        self.order.merge(&self.topology, a, b, large).map_err(|obstacle| match obstacle {
            Obstacle::Path(root) => {
                let through = self.topology.group(root).and_then(|g| g.product).unwrap_or(NodeId(root));
                Reason::Cycle(self.graph.node(through).op.name)
            }
            Obstacle::TooFar => Reason::TooFarApart,
        })?;
        if joint.reader_is_reduced {
            let group = self.topology.groups[b as usize].as_ref();
            for member in group.map_or(&[][..], |g| &g.nodes) {
                self.is_reduced[member.index()] = true;
            }
        }
        for (node, n) in now_inside {
            self.n_outside[node.index()] -= n;
        }
        self.topology.parent[small as usize] = large;
        let gone = self.topology.groups[small as usize].take();
        if let (Some(s), Some(l)) = (gone, self.topology.groups[large as usize].as_mut()) {
            for member in &s.nodes {
                l.inputs.remove(member);
            }
            let parent = &self.topology.parent;
            let inside = |mut node: u32| {
                while parent[node as usize] != node {
                    node = parent[node as usize];
                }
                node == large
            };
            l.inputs.extend(s.inputs.into_iter().filter(|i| !inside(i.0)));
            l.nodes.extend(s.nodes);
            l.product = l.product.or(s.product);
            (l.domain, l.reduction, l.n_ops, l.n_stored) = (joint.domain, joint.reduction, n_ops, n_stored);
        }
        Ok(())
    }

    /// Why a member may not read another at other indices.
    fn reads_elsewhere(&self, from: NodeId, to: NodeId) -> Reason {
        if self.roles.parts[to.index()] == Part::Product {
            Reason::Cycle(self.graph.node(to).op.name)
        } else if self.is_reduced[from.index()] {
            Reason::SecondSweep
        } else {
            Reason::OtherIndices
        }
    }

    /// Joins clusters of tiny values of one shape although no edge connects them: what a kernel costs beside its elements
    /// is then paid once. The scalar side computations of an optimizer end up together in this way.
    fn join_tiny(&mut self) {
        let mut open: HashMap<Shape, Vec<u32>> = HashMap::new();
        for id in self.graph.ids() {
            let root = self.topology.find(id);
            let Some(group) = self.topology.group(root).filter(|_| root == id.0) else { continue };
            let plain = group.reduction.is_none() && group.product.is_none();
            let free = !group.nodes.iter().any(|n| self.forced.contains(n));
            if !plain || !free || group.domain.n_elements() > self.options.cost.tiny_elements {
                continue;
            }
            let domain = group.domain.clone();
            let known = open.entry(domain.clone()).or_default();
            let mut done = false;
            for other in known.iter_mut() {
                let (a, b) = (self.topology.find(NodeId(*other)), root);
                let domain = domain.clone();
                let joint = Joint { joined: Joined::SameElements, domain, reduction: None, reader_is_reduced: false };
                if self.join(a, b, joint).is_ok() {
                    *other = self.topology.find(id);
                    done = true;
                    break;
                }
            }
            if !done {
                known.push(root);
                if known.len() > OPEN_TINY {
                    known.remove(0);
                }
            }
        }
    }
}
