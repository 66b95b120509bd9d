//! Growing clusters: every edge in topological order, then siblings, which no edge connects.

use std::collections::{HashMap, HashSet, VecDeque};

use cotangent_graph::eval::reduction_groups;
use cotangent_graph::{Graph, Lower, NodeId, Shape};
use smallvec::SmallVec;

use super::joins;
use super::order::{Neighbors, Obstacle, Order};
use super::parts::Roles;
use super::{At, Cluster, ClusterOptions, Clusters, Edge, Fusion, Loops, Part, Read, Reason, Verdict};
use crate::cost::MAX_SIBLINGS;
use crate::nest::{Frame, Nest, Seams};

/// The axes and loops of a reduction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reduction {
    pub(super) loops: Loops,
    pub(super) axes: SmallVec<[usize; 4]>,
}

/// A cluster under construction.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) nodes: Vec<NodeId>,
    pub(super) domain: Shape,
    pub(super) reduction: Option<Reduction>,
    /// Members that are reduced along the columns of a group that reduces rows, or go on with such results.
    pub(super) columns: Vec<NodeId>,
    pub(super) product: Option<NodeId>,
    /// Scalar operations of all members, once each.
    pub(super) n_ops: usize,
    /// Sweeps over the elements, at most: a member may be made again in each of them.
    pub(super) n_sweeps: usize,
    /// What the accesses of all members ask of the loops.
    seams: Seams,
    /// What members read of others.
    inputs: HashSet<NodeId>,
    /// Members that others need.
    n_stored: usize,
}

/// The clusters as nodes of a graph.
pub(super) struct Topology {
    parent: Vec<u32>,
    pub(super) groups: Vec<Option<Group>>,
    pub(super) reads: Vec<SmallVec<[Read; 4]>>,
    /// The computed readers of each node, and at which of their indices they read it.
    pub(super) readers: Vec<SmallVec<[Read; 4]>>,
    pub(super) is_computed: Vec<bool>,
}

impl Topology {
    pub(super) fn find(&self, id: NodeId) -> u32 {
        let mut root = id.0;
        while self.parent[root as usize] != root {
            root = self.parent[root as usize];
        }
        root
    }

    pub(super) fn group(&self, root: u32) -> Option<&Group> {
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

pub(super) struct Clusterer<'a> {
    pub(super) graph: &'a Graph,
    pub(super) options: &'a ClusterOptions,
    pub(super) roles: Roles,
    pub(super) topology: Topology,
    order: Order,
    /// Members that live at the reduced shape of their cluster, the reductions included.
    pub(super) is_reduced: Vec<bool>,
    /// For each node, the readers that are not in its cluster.
    n_outside: Vec<u32>,
}

/// What two clusters would be together.
pub(super) struct Joint {
    pub(super) domain: Shape,
    pub(super) reduction: Option<Reduction>,
    /// The cluster whose members become part of the reduced shape.
    pub(super) lowered: Option<u32>,
    /// Whether it reduces columns beside the rows.
    pub(super) carries_columns: bool,
}

/// What of two clusters is then in one.
#[derive(Default)]
pub(super) struct Inside {
    /// By member, the reads that are inside.
    pub(super) reads: HashMap<NodeId, u32>,
    /// Sweeps over the elements, at most.
    pub(super) n_sweeps: usize,
    /// Whether a kind of fusion between them is forced: then the kernel may be too large.
    pub(super) is_forced: bool,
}

impl Reduction {
    pub(super) fn kept(&self, domain: &Shape) -> SmallVec<[usize; 4]> {
        (0..domain.rank()).filter(|a| !self.axes.contains(a)).collect()
    }

    /// Whether a value of the reduced shape is read at the element that it belongs to.
    pub(super) fn repeats(&self, domain: &Shape, at: &At) -> bool {
        let kept = self.kept(domain);
        match at {
            At::Along(axes) => {
                axes.len() == kept.len() && axes.iter().zip(&kept).all(|(a, &k)| *a == k || domain[k] == 1)
            }
            _ => false,
        }
    }
}

pub(super) fn run(graph: &Graph, options: &ClusterOptions, mut roles: Roles) -> Clusters {
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
            topology.readers[read.node.index()].push(Read { node: id, at: read.at.clone() });
        }
    }
    let n_outside: Vec<u32> = topology.readers.iter().map(|r| r.len() as u32).collect();
    for id in graph.ids().filter(|id| matches!(roles.parts[id.index()], Part::Value | Part::Product)) {
        topology.groups[id.index()] = Some(Group::of_node(graph, id, &roles, &topology, n_outside[id.index()]));
    }
    let order = Order::new(n, options.cost.max_search);
    let is_reduced = roles.reduces.clone();
    Clusterer { graph, options, roles, topology, order, is_reduced, n_outside }.run()
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
            columns: Vec::new(),
            product: (roles.parts[id.index()] == Part::Product).then_some(id),
            n_ops: roles.ops[id.index()],
            n_sweeps: 1,
            seams: roles.seams[id.index()],
            inputs: topology.reads[id.index()].iter().map(|r| r.node).collect(),
            n_stored: usize::from(n_readers > 0 || roles.wanted[id.index()]),
        }
    }
}

impl Clusterer<'_> {
    fn run(mut self) -> Clusters {
        let mut edges = Vec::new();
        for id in self.graph.ids() {
            edges.extend(self.roles.recomputes[id.index()].iter().map(|&from| {
                let of_window = self.roles.windows.inlined[from.index()];
                let fusion = if of_window { Fusion::Windows } else { Fusion::Recompute };
                Edge { from, to: id, verdict: Verdict::Fuse(fusion) }
            }));
            if self.topology.is_computed[id.index()] {
                for read in self.topology.reads[id.index()].clone() {
                    if self.topology.is_computed[read.node.index()] {
                        let verdict = self.decide(&read, id);
                        edges.push(Edge { from: read.node, to: id, verdict });
                    }
                }
            }
        }
        let siblings = if self.options.fusions.allows(Fusion::Siblings) { self.join_siblings() } else { Vec::new() };
        if self.options.fusions.allows(Fusion::ColumnsWithRows) {
            self.join_columns();
        }
        // Clusters may have met by another way after an edge was decided.
        for edge in &mut edges {
            if edge.verdict != Verdict::Fuse(Fusion::Recompute)
                && self.topology.find(edge.from) == self.topology.find(edge.to)
            {
                edge.verdict = Verdict::Fuse(self.joined(edge.from, edge.to));
            }
        }
        edges.extend(siblings);
        self.finish(edges)
    }

    fn finish(mut self, mut edges: Vec<Edge>) -> Clusters {
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
            let Group { nodes, domain, columns, product, .. } = group;
            let sweeps = self.sweeps(&nodes);
            let is_reduced = nodes.iter().map(|n| self.is_reduced[n.index()]).collect();
            let is_column = nodes.iter().map(|n| columns.contains(n)).collect();
            clusters.push(Cluster { nodes, sweeps, is_reduced, is_column, domain, loops, axes, product });
        }
        let known = (&self.roles, &self.topology);
        let placed = joins::placed(self.graph, &self.options.fusions, known, (&clusters, &of), &mut edges);
        let mut needed = self.roles.wanted;
        for id in self.graph.ids().filter(|id| self.topology.is_computed[id.index()]) {
            let own = of[id.index()];
            for read in &self.topology.reads[id.index()] {
                needed[read.node.index()] |= own.is_none() || of[read.node.index()] != own;
            }
        }
        let Topology { reads, .. } = self.topology;
        let cost = self.options.cost.clone();
        Clusters {
            parts: self.roles.parts,
            of,
            clusters,
            edges,
            reads,
            reduces: self.roles.reduces,
            unrolled: self.roles.windows.unrolled,
            cost,
            needed,
            placed,
            forced: self.roles.forced,
        }
    }

    /// The sweep that makes each of a cluster's members, which are in topological order.
    fn sweeps(&self, nodes: &[NodeId]) -> Vec<usize> {
        let mut known: HashMap<NodeId, usize> = HashMap::with_capacity(nodes.len());
        let mut sweeps = Vec::with_capacity(nodes.len());
        for &node in nodes {
            let of_read = |read: &Read| {
                let again = self.is_reduced[read.node.index()] && self.is_full(node);
                known.get(&read.node).map(|sweep| sweep + usize::from(again))
            };
            let sweep = self.topology.reads[node.index()].iter().filter_map(of_read).max().unwrap_or(0);
            known.insert(node, sweep);
            sweeps.push(sweep);
        }
        sweeps
    }

    fn decide(&mut self, read: &Read, to: NodeId) -> Verdict {
        let from = read.node;
        let (from_op, to_op) = (self.graph.node(from).op.name, self.graph.node(to).op.name);
        if self.roles.parts[to.index()] != Part::Value {
            return Verdict::Keep(Reason::ReadsMemory(to_op));
        }
        if self.roles.parts[from.index()] == Part::Opaque {
            return Verdict::Keep(Reason::WritesMemory(from_op));
        }
        if self.topology.find(from) == self.topology.find(to) {
            return Verdict::Fuse(self.joined(from, to));
        }
        let done = self.joint(read, to).and_then(|joint| {
            let (a, b) = (self.topology.find(from), self.topology.find(to));
            self.join(a, b, joint)
        });
        match done {
            Ok(()) => Verdict::Fuse(self.joined(from, to)),
            Err(reason) => Verdict::Keep(reason),
        }
    }

    /// How two members of a cluster are joined.
    fn joined(&self, from: NodeId, to: NodeId) -> Fusion {
        let group = self.topology.group(self.topology.find(from));
        if self.roles.reduces[to.index()] && group.is_some_and(|g| g.columns.contains(&to)) {
            return Fusion::ColumnsWithRows;
        }
        self.kind(from, to, group.and_then(|g| g.product), |n| self.is_reduced[n.index()])
    }

    /// The kind of fusion that an edge is inside of a cluster with this product and these members of the reduced shape.
    pub(super) fn kind(
        &self,
        from: NodeId,
        to: NodeId,
        product: Option<NodeId>,
        is_reduced: impl Fn(NodeId) -> bool,
    ) -> Fusion {
        let reduces = self.roles.reduces[to.index()];
        let finished = |n: NodeId| product.is_some() && self.roles.finishes[n.index()] == product;
        let with_others = || self.topology.reads[to.index()].iter().any(|r| r.at == At::Own && !finished(r.node));
        match (is_reduced(from), is_reduced(to) && !reduces) {
            (true, false) => Fusion::NextSweep,
            (true, true) => Fusion::OutOfReduction,
            (false, _) if !finished(to) && reduces => Fusion::IntoReduction,
            (false, _) if !finished(to) => Fusion::SameElements,
            (false, _) if reduces => Fusion::ColumnSums,
            (false, _) if self.roles.updates[to.index()] => Fusion::Update,
            (false, _) if with_others() => Fusion::Derivative,
            (false, _) => Fusion::Epilogue,
        }
    }

    /// Whether a node reads others at the elements of its cluster's domain.
    pub(super) fn is_full(&self, id: NodeId) -> bool {
        !self.is_reduced[id.index()] || self.roles.reduces[id.index()]
    }

    /// The cluster that `read.node` and `to` would make, if their loops fit.
    fn joint(&self, read: &Read, to: NodeId) -> Result<Joint, Reason> {
        let (root_a, root_b) = (self.topology.find(read.node), self.topology.find(to));
        let (Some(a), Some(b)) = (self.topology.group(root_a), self.topology.group(root_b)) else {
            return Err(Reason::OtherLoops);
        };
        let from_reduced = self.is_reduced[read.node.index()];
        // Whether a group without loops of its own can be made at the reduced shape of another.
        let fits_below = |low: &Group, high: &Group| {
            let plain = low.reduction.is_none() && low.product.is_none();
            plain && high.reduction.as_ref().is_some_and(|r| low.domain == high.domain.without(&r.axes))
        };
        let lowered = match (&read.at, from_reduced) {
            (At::Own, true) if fits_below(b, a) => Some(root_b),
            (At::Own, false) if !self.is_full(to) && fits_below(a, b) => Some(root_a),
            (At::Own, _) => None,
            (At::Along(_), true) => {
                let repeats = a.reduction.as_ref().is_some_and(|r| r.repeats(&a.domain, &read.at));
                if !repeats || !self.is_full(to) {
                    return Err(Reason::OtherIndices);
                }
                None
            }
            (At::Along(_) | At::Other, _) => return Err(Reason::OtherIndices),
        };
        let (domain, reduction) = if lowered == Some(root_b) {
            (a.domain.clone(), a.reduction.clone())
        } else if lowered == Some(root_a) {
            (b.domain.clone(), b.reduction.clone())
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
        if matches!(read.at, At::Along(_)) && !reduction.as_ref().is_some_and(|r| self.stays_in_cache(r)) {
            return Err(Reason::SecondSweep);
        }
        Ok(Joint { domain, reduction, lowered, carries_columns: !(a.columns.is_empty() && b.columns.is_empty()) })
    }

    /// What the accesses of two clusters ask of their loops together, if these can be so.
    pub(super) fn nest(&self, roots: [u32; 2], joint: &Joint, n_sweeps: usize) -> Result<Seams, Reason> {
        let axes = joint.reduction.as_ref().map_or(&[][..], |reduction| &reduction.axes);
        let (mut seams, mut product) = (Seams::default(), None);
        for root in roots {
            let Some(group) = self.topology.group(root) else { continue };
            product = product.or(group.product);
            let kept = joint.reduction.as_ref().filter(|_| joint.lowered == Some(root)).map(|r| r.kept(&joint.domain));
            seams = seams.and(kept.map_or(group.seams, |kept| group.seams.on_axes(&kept)));
        }
        let product = product.map(|product| matches!(self.graph.node(product).op.lower, Lower::Conv(_)));
        let frame = Frame { extents: &joint.domain, axes, product, carries_columns: joint.carries_columns, n_sweeps };
        Nest::new(&frame, seams)?;
        Ok(seams)
    }

    /// Whether what is reduced is still in cache when it is swept again.
    pub(super) fn stays_in_cache(&self, reduction: &Reduction) -> bool {
        let Loops { outer, reduced, inner } = reduction.loops;
        let any = self.options.fusions.forces(Fusion::NextSweep);
        self.options.cost.is_near([outer, reduced, inner], any)
    }

    /// Merges two clusters, `b` the reader's, unless members would read each other at other indices, the kernel would be
    /// too large, or it would wait for itself.
    fn join(&mut self, a: u32, b: u32, joint: Joint) -> Result<(), Reason> {
        let (small, large) = self.by_size((a, b));
        let (Some(s), Some(l)) = (self.topology.group(small), self.topology.group(large)) else {
            return Err(Reason::OtherLoops);
        };
        // The smaller one's edges are all edges between the two.
        let mut inside = Inside::default();
        let (mut sweeps_again, mut forbidden) = (false, None);
        let below = |n: NodeId| self.is_reduced[n.index()] || joint.lowered == Some(self.topology.find(n));
        for &member in &s.nodes {
            let reads = self.topology.reads[member.index()].iter().map(|r| (r.node, member, r));
            let readers = self.topology.readers[member.index()].iter().map(|r| (member, r.node, r));
            for (from, to, edge) in reads.chain(readers) {
                if !self.topology.is_computed[edge.node.index()] || self.topology.find(edge.node) != large {
                    continue;
                }
                if edge.at != At::Own {
                    let full = !below(to) || self.roles.reduces[to.index()];
                    let fits = joint.reduction.as_ref().filter(|r| r.repeats(&joint.domain, &edge.at));
                    match fits.filter(|_| below(from) && full) {
                        None => return Err(self.reads_elsewhere(to)),
                        Some(reduction) if !self.stays_in_cache(reduction) => return Err(Reason::SecondSweep),
                        Some(_) => sweeps_again = true,
                    }
                }
                let kind = self.kind(from, to, s.product.or(l.product), below);
                forbidden = forbidden.or((!self.options.fusions.allows(kind)).then_some(kind));
                inside.is_forced |= self.options.fusions.forces(kind);
                *inside.reads.entry(from).or_insert(0) += 1;
            }
        }
        // At most: the longest chain of sweeps in the one, then the other's.
        inside.n_sweeps = s.n_sweeps + l.n_sweeps - 1 + usize::from(sweeps_again);
        let seams = self.nest([a, b], &joint, inside.n_sweeps)?;
        match forbidden {
            Some(kind) => Err(Reason::Forbidden(kind)),
            None => self.merge((a, b), joint, seams, inside),
        }
    }

    /// The roots of two clusters, the one with fewer members first.
    fn by_size(&self, (a, b): (u32, u32)) -> (u32, u32) {
        let size = |root: u32| self.topology.group(root).map_or(0, |g| g.nodes.len());
        if size(a) < size(b) { (a, b) } else { (b, a) }
    }

    /// Merges two clusters whose loops fit, unless the kernel would be too large or would wait for itself.
    pub(super) fn merge(
        &mut self,
        (a, b): (u32, u32),
        joint: Joint,
        seams: Seams,
        inside: Inside,
    ) -> Result<(), Reason> {
        let Inside { reads: now_inside, n_sweeps, is_forced } = inside;
        let (small, large) = self.by_size((a, b));
        let (Some(s), Some(l)) = (self.topology.group(small), self.topology.group(large)) else {
            return Err(Reason::OtherLoops);
        };
        let n_new = s.inputs.iter().filter(|i| !l.inputs.contains(i) && self.topology.find(**i) != large).count();
        let n_gone = s.nodes.iter().filter(|m| l.inputs.contains(m)).count();
        let is_freed = |(n, k): &(&NodeId, &u32)| self.n_outside[n.index()] == **k && !self.roles.wanted[n.index()];
        let n_stored = s.n_stored + l.n_stored - now_inside.iter().filter(is_freed).count();
        let (n_ops, n_args) = (s.n_ops + l.n_ops, l.inputs.len() + n_new - n_gone + n_stored);
        if self.options.cost.is_too_large(n_ops * n_sweeps, n_args) && !is_forced {
            return Err(Reason::TooLarge);
        }
        self.order.merge(&self.topology, a, b, large).map_err(|obstacle| match obstacle {
            Obstacle::Path(root) => {
                let through = self.topology.group(root).and_then(|g| g.product).unwrap_or(NodeId(root));
                Reason::Cycle(self.graph.node(through).op.name)
            }
            Obstacle::TooFar => Reason::TooFarApart,
        })?;
        if let Some(root) = joint.lowered {
            let group = self.topology.groups[root as usize].as_ref();
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
            l.columns.extend(s.columns);
            l.product = l.product.or(s.product);
            (l.domain, l.reduction, l.seams) = (joint.domain, joint.reduction, seams);
            (l.n_ops, l.n_sweeps, l.n_stored) = (n_ops, n_sweeps, n_stored);
        }
        Ok(())
    }

    /// Why a member may not read another at other indices.
    fn reads_elsewhere(&self, to: NodeId) -> Reason {
        if self.roles.parts[to.index()] == Part::Product {
            Reason::Cycle(self.graph.node(to).op.name)
        } else {
            Reason::OtherIndices
        }
    }

    /// Joins clusters of the same loops although no edge connects them, where the cost model expects it to pay: what both
    /// read is loaded once, and what a kernel costs beside its elements is paid once. The scalar side computations of an
    /// optimizer end up together in this way. Returns an edge for each pair.
    fn join_siblings(&mut self) -> Vec<Edge> {
        let mut edges = Vec::new();
        let mut open: HashMap<(Shape, Option<Reduction>), VecDeque<NodeId>> = HashMap::new();
        for id in self.graph.ids().filter(|id| self.topology.groups[id.index()].is_some()).collect::<Vec<_>>() {
            // It may have become part of an earlier one.
            let Some(group) = self.topology.group(id.0).filter(|g| g.product.is_none()) else { continue };
            let key = (group.domain.clone(), group.reduction.clone());
            let mut tried: SmallVec<[NodeId; 16]> = SmallVec::new();
            for &input in group.inputs.iter().filter(|&&i| self.graph.ty(i).shape() == &group.domain) {
                let readers = self.topology.readers[input.index()].iter().map(|r| r.node).filter(|&r| r < id);
                tried.extend(readers.take(MAX_SIBLINGS));
            }
            // The order of a set's elements differs from run to run.
            tried.sort_unstable();
            let known = open.entry(key).or_default();
            tried.extend(known.iter().copied());
            known.push_back(id);
            if known.len() > MAX_SIBLINGS {
                known.pop_front();
            }
            for other in tried {
                let (a, b) = (self.topology.find(other), self.topology.find(id));
                let Some(joint) = self.siblings(a, b) else { continue };
                if self.join(a, b, joint).is_ok() {
                    edges.push(Edge { from: other, to: id, verdict: Verdict::Fuse(Fusion::Siblings) });
                }
            }
        }
        edges
    }

    /// What two clusters of the same loops would be together, if that pays.
    fn siblings(&self, a: u32, b: u32) -> Option<Joint> {
        let (x, y) = (self.topology.group(a)?, self.topology.group(b)?);
        let same_loops =
            x.domain == y.domain && x.reduction == y.reduction && x.product.is_none() && y.product.is_none();
        if a == b || !same_loops {
            return None;
        }
        let shared = x.inputs.intersection(&y.inputs).map(|&i| self.graph.ty(i));
        // What is larger than the loops is read by windows.
        let n_elements = x.domain.n_elements();
        let whole = shared.filter(|ty| ty.shape() == &x.domain || ty.shape().n_elements() > n_elements);
        let shared_bytes = whole.map(|ty| ty.n_bytes() as u64).sum();
        let time = |g: &Group| {
            let element_bytes = self.graph.ty(g.nodes[0]).dtype().size_bytes();
            self.options.cost.ops_time(g.n_ops, g.domain.n_elements(), element_bytes)
        };
        let pays = self.options.cost.joining_pays(shared_bytes, time(x).min(time(y)));
        let carries_columns = !(x.columns.is_empty() && y.columns.is_empty());
        let joint = Joint { domain: x.domain.clone(), reduction: x.reduction.clone(), lowered: None, carries_columns };
        (pays || self.options.fusions.forces(Fusion::Siblings)).then_some(joint)
    }
}
