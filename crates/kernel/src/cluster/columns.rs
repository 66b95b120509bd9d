//! Reductions of columns in the kernel of a reduction of rows.
//!
//! Gradients of a gain or bias sum the columns of a matrix whose rows are normalized, or reduced otherwise: other loops than
//! those of the rows, but over the same elements, which are in cache then. The kernel of the rows carries sums from row to
//! row of a block of 64, and a second kernel combines the blocks, in the order of all column reductions.

use cotangent_graph::{DType, NodeId};
use cotangent_scalar::order::COLUMN_BLOCK;

use super::grow::{Clusterer, Group, Inside, Joint};
use super::{At, Fusion, Reason};

impl Clusterer<'_> {
    /// Joins clusters that reduce columns to clusters that reduce the rows of the same elements, if these make or read
    /// something that those read.
    pub(super) fn join_columns(&mut self) {
        for id in self.graph.ids() {
            let root = self.topology.find(id);
            if !self.roles.reduces[id.index()]
                || !self.topology.group(root).is_some_and(|group| self.is_carried_by_rows(group))
            {
                continue;
            }
            for rows in self.neighbors_in_elements(root) {
                if self.join_column(rows, root).is_ok() {
                    break;
                }
            }
        }
    }

    /// Whether rows can carry a cluster's reductions along.
    fn is_carried_by_rows(&self, group: &Group) -> bool {
        let Some(reduction) = &group.reduction else { return false };
        let loops = reduction.loops;
        let least = self.options.cost.min_blocks * COLUMN_BLOCK;
        let is_bool = |n: &NodeId| self.roles.reduces[n.index()] && self.graph.ty(*n).dtype() == DType::Bool;
        loops.outer == 1
            && loops.inner > 1
            && loops.reduced >= least
            && group.n_sweeps == 1
            && group.product.is_none()
            && !group.nodes.iter().any(is_bool)
    }

    /// The clusters that make or read, element by element, what a cluster reads element by element.
    fn neighbors_in_elements(&self, root: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let members = self.topology.group(root).map_or(&[][..], |group| &group.nodes);
        for read in members.iter().flat_map(|m| &self.topology.reads[m.index()]).filter(|read| read.at == At::Own) {
            let readers = self.topology.readers[read.node.index()].iter().filter(|reader| reader.at == At::Own);
            for node in std::iter::once(read.node).chain(readers.map(|reader| reader.node)) {
                let other = self.topology.find(node);
                if other != root && !found.contains(&other) {
                    found.push(other);
                }
            }
        }
        found
    }

    /// Joins a cluster that reduces columns to one that reduces rows.
    fn join_column(&mut self, rows: u32, columns: u32) -> Result<(), Reason> {
        let (Some(r), Some(c)) = (self.topology.group(rows), self.topology.group(columns)) else {
            return Err(Reason::OtherLoops);
        };
        let (Some(along), Some(down)) = (&r.reduction, &c.reduction) else { return Err(Reason::OtherLoops) };
        let across = r.domain == c.domain && along.axes == down.kept(&c.domain) && along.loops.inner == 1;
        if !across || r.product.is_some() {
            return Err(Reason::OtherLoops);
        }
        let mut inside_now = Inside::default();
        let mut sweeps_again = false;
        for &member in &c.nodes {
            let inside = |node: NodeId| self.topology.is_computed[node.index()] && self.topology.find(node) == rows;
            for read in self.topology.reads[member.index()].iter().filter(|read| inside(read.node)) {
                let again = self.is_reduced[read.node.index()] && !r.columns.contains(&read.node);
                let fits = match read.at {
                    At::Own => !self.is_reduced[read.node.index()],
                    _ => again && along.repeats(&r.domain, &read.at) && self.stays_in_cache(along),
                };
                if !fits || !self.is_full(member) {
                    return Err(Reason::OtherIndices);
                }
                self.may_join(read.node, member)?;
                sweeps_again |= again;
                *inside_now.reads.entry(read.node).or_insert(0) += 1;
            }
            for reader in self.topology.readers[member.index()].iter().filter(|reader| inside(reader.node)) {
                // What columns are reduced to comes when all rows are over.
                if self.is_reduced[member.index()] || reader.at != At::Own || !self.is_full(reader.node) {
                    return Err(Reason::OtherIndices);
                }
                self.may_join(member, reader.node)?;
                *inside_now.reads.entry(member).or_insert(0) += 1;
            }
        }
        inside_now.n_sweeps = r.n_sweeps + usize::from(sweeps_again);
        inside_now.is_forced = self.options.fusions.forces(Fusion::ColumnsWithRows);
        let reduced: Vec<NodeId> = c.nodes.iter().copied().filter(|n| self.is_reduced[n.index()]).collect();
        let (domain, reduction) = (r.domain.clone(), r.reduction.clone());
        let joint = Joint { domain, reduction, lowered: None, carries_columns: true };
        let seams = self.nest([rows, columns], &joint, inside_now.n_sweeps)?;
        self.merge((rows, columns), joint, seams, inside_now)?;
        let root = self.topology.find(reduced[0]);
        if let Some(group) = self.topology.groups[root as usize].as_mut() {
            group.columns.extend(reduced);
        }
        Ok(())
    }

    /// Whether an edge between the two clusters is of a kind that may be used.
    fn may_join(&self, from: NodeId, to: NodeId) -> Result<(), Reason> {
        let kind = self.kind(from, to, None, |n| self.is_reduced[n.index()]);
        if self.options.fusions.allows(kind) { Ok(()) } else { Err(Reason::Forbidden(kind)) }
    }
}
