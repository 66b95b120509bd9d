//! How a value reaches what it is made of, through views and through what is recomputed: whether it can, and what its accesses ask
//! of the loops that it is in.
//!
//! It goes the way that lowering goes, from a value's own indices down to memory. So what lowering needs is known before clusters
//! grow: what stands in the way is given memory, and the [`Seams`] of the rest say which loops the value fits.

use std::collections::HashSet;

use cotangent_graph::{Graph, Lower, NodeId, Source};
use smallvec::SmallVec;

use crate::index::{Affine, Index, flat, held, identity, is_inside, n_taps, pieces, tap, through_view};
use crate::memory::{Blocked, PAST_BORDER, Part, RESHAPED};
use crate::nest::{Frame, Nest, Seams};

const BORDERED: &str = "its border runs along the innermost loop, or its reader reduces";
const LOOPS: &str = "its reader reduces along axes that are no one loop in it";

/// What is known of a graph's nodes before clusters grow.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) graph: &'a Graph,
    pub(super) parts: &'a [Part],
    pub(super) reduces: &'a [bool],
    pub(super) unrolled: &'a [bool],
}

/// The accesses of a value in loops over its elements, or over those that it reduces.
struct Walk<'a> {
    known: Known<'a>,
    extents: Vec<usize>,
    seams: Seams,
    /// Accesses that are not even, or reach around a border, each with the outermost view on the way to it.
    blame: SmallVec<[(Seams, NodeId); 2]>,
    blocked: Vec<Blocked>,
}

impl Known<'_> {
    /// What a value that is to be computed asks of its loops, or all that must be in memory first.
    pub(super) fn of_value(&self, id: NodeId) -> Result<Seams, Vec<Blocked>> {
        let node = self.graph.node(id);
        if !self.reduces[id.index()] {
            let is_made = |input: &NodeId| self.parts[input.index()].is_made();
            if matches!(node.op.lower, Lower::Scalar(_)) && node.inputs.iter().all(is_made) {
                return Ok(Seams::default());
            }
            return self.walk(id, Some(id), &[]);
        }
        self.walk(node.inputs[0], None, &node.attrs.sizes("axes"))
    }

    /// The same of what is copied, element by element, to another place.
    pub(super) fn of_copy(&self, id: NodeId) -> Result<Seams, Vec<Blocked>> {
        self.walk(id, None, &[])
    }

    /// Follows what is read from a node's own indices. The root is computed though it is a value.
    fn walk(&self, start: NodeId, root: Option<NodeId>, axes: &[usize]) -> Result<Seams, Vec<Blocked>> {
        if root.is_none() && self.parts[start.index()].is_made() {
            return Ok(Seams::default());
        }
        let extents = self.graph.ty(start).shape().to_vec();
        let (seams, blocked) = (Seams::default(), Vec::new());
        let mut walk = Walk { known: *self, extents, seams, blame: SmallVec::new(), blocked };
        walk.follow(start, root);
        let Walk { extents, seams, blame, blocked, .. } = walk;
        if !blocked.is_empty() {
            return Err(blocked);
        }
        let frame = Frame { extents: &extents, axes, product: None, carries_columns: false, n_sweeps: 1 };
        if Nest::new(&frame, seams).is_ok() {
            return Ok(seams);
        }
        let stands = |(seams, _): &&(Seams, NodeId)| Nest::new(&frame, *seams).is_err();
        let blocked =
            |&(seams, node): &(Seams, NodeId)| Blocked::new(node, if seams.borders { BORDERED } else { LOOPS });
        Err(blame.iter().filter(stands).map(blocked).collect())
    }
}

impl Walk<'_> {
    fn follow(&mut self, start: NodeId, root: Option<NodeId>) {
        let Known { graph, parts, reduces, unrolled } = self.known;
        let n_loops = self.extents.len();
        let mut visited: HashSet<(NodeId, Index)> = HashSet::new();
        let mut stack: Vec<(NodeId, Index, Option<NodeId>)> = vec![(start, identity(n_loops), None)];
        while let Some((at, index, via)) = stack.pop() {
            if parts[at.index()].is_made() && Some(at) != root {
                self.load_at(at, &index, via);
                continue;
            }
            if !visited.insert((at, index.clone())) {
                continue;
            }
            let node = graph.node(at);
            match &node.op.lower {
                Lower::Reduce(_) if unrolled[at.index()] => {
                    let tap = |number| tap(graph, at, &index, number, n_loops);
                    stack.extend((0..n_taps(graph, at)).map(|number| (node.inputs[0], tap(number), via)));
                }
                Lower::View(_) | Lower::Reduce(_) if !reduces[at.index()] => {
                    let (operand, through) = (node.inputs[0], via.or(Some(at)));
                    // Row-major positions would run from one axis into the next.
                    if node.is_reshape() && !is_inside(&index, node.ty.shape(), &self.extents) {
                        self.blocked.push(Blocked::new(at, PAST_BORDER));
                        self.load_at(at, &index, via);
                    } else if node.is_reshape() && parts[operand.index()].is_made() {
                        self.access(&flat(&index, node.ty.shape(), n_loops), through);
                    } else if let Some(inner) = through_view(graph, at, &index, &self.extents) {
                        stack.push((operand, inner, through));
                    } else {
                        self.blocked.push(Blocked::new(operand, RESHAPED));
                        self.access(&flat(&index, node.ty.shape(), n_loops), through);
                    }
                }
                Lower::Join => {
                    for piece in pieces(graph, at, &index, &self.extents) {
                        piece.within.iter().for_each(|(affine, ..)| self.access(affine, Some(at)));
                        stack.push((node.inputs[piece.operand], piece.index, Some(at)));
                    }
                }
                Lower::Identity | Lower::Check(_) => stack.push((node.inputs[0], index, via)),
                Lower::Source(Source::Iota) => {
                    self.access(&index[node.attrs.size("axis")], via.or(Some(at)));
                }
                Lower::Source(Source::Rng) => {
                    self.access(&flat(&index, node.ty.shape(), n_loops), via.or(Some(at)));
                }
                Lower::Scalar(_) => stack.extend(node.inputs.iter().map(|&input| (input, index.clone(), via))),
                _ => {}
            }
        }
    }

    /// An access at a form of the loops.
    fn access(&mut self, place: &Affine, via: Option<NodeId>) {
        let seams = Seams::of_strides(&place.coeffs, &self.extents);
        self.seams = self.seams.and(seams);
        if let (true, Some(via)) = (seams != Seams::default(), via) {
            self.blame.push((seams, via));
        }
    }

    /// The element of a node in memory at an index, which is held inside of the node's shape.
    fn load_at(&mut self, node: NodeId, index: &Index, via: Option<NodeId>) {
        let (place, beyond) = held(index, self.known.graph.ty(node).shape(), &self.extents);
        self.access(&place, via);
        let inner = self.extents.iter().rposition(|&extent| extent != 1);
        for held in beyond {
            self.access(&held.of, via);
            self.seams = self.seams.and(Seams::border());
            let via = via.unwrap_or(node);
            if inner.is_some_and(|inner| held.of.coeffs[inner] != 0) {
                self.blocked.push(Blocked::new(via, BORDERED));
            }
            self.blame.push((Seams::border(), via));
        }
    }
}
