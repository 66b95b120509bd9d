//! The graph: an append-only list of typed nodes, and its outputs.
//!
//! Invariants (checked by [`mod@crate::verify`]): every input id is smaller than the node's own id, so creation order is a
//! topological order and nothing dangles; passes rebuild into a fresh graph. Pure ops are hash-consed, so common
//! sub-expressions are shared by construction. Sources (inputs, parameters, states, random numbers) are not: they are
//! identified by name.
//!
//! What a step must do is what outputs need, and every check: an op that tests run-time values stays, whether or not a value
//! is computed from its result, so no optimization can take a check away by taking its readers away.

use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;

use crate::attrs::{Attr, Attrs};
use crate::diag::Loc;
use crate::op::{Lower, OpDef, OpTraits};
use crate::types::Type;

/// A node of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The index into [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// A body of a graph: a closed graph that region ops call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BodyId(pub u32);

impl BodyId {
    /// The index into [`Graph::bodies`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An op: a record that lives as long as the program, compared by name.
#[derive(Clone, Copy)]
pub struct OpRef(pub &'static OpDef);

impl std::ops::Deref for OpRef {
    type Target = OpDef;
    fn deref(&self) -> &OpDef {
        self.0
    }
}

impl PartialEq for OpRef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0) || self.0.name == other.0.name
    }
}

impl Eq for OpRef {}

impl std::hash::Hash for OpRef {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl fmt::Debug for OpRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

/// The operand list of a node.
pub type Inputs = SmallVec<[NodeId; 3]>;

/// Where a node comes from: the user's lines (several after merging) and the rule or pass that made it, if any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Lines of the user, at most [`Origin::MAX_LINES`].
    pub lines: SmallVec<[Loc; 1]>,
    /// The pass or rule that made the node.
    pub rule: Option<&'static str>,
}

impl Origin {
    /// Further lines are dropped.
    pub const MAX_LINES: usize = 4;

    /// A node that the user made here.
    pub fn at(loc: Loc) -> Self {
        Origin { lines: SmallVec::from_iter([loc]), rule: None }
    }

    /// Adds the lines of another origin.
    pub fn merge(&mut self, other: &Origin) {
        for line in &other.lines {
            if self.lines.len() < Origin::MAX_LINES && !self.lines.contains(line) {
                self.lines.push(line.clone());
            }
        }
    }

    /// The first line, or [`Loc::Internal`].
    pub fn loc(&self) -> Loc {
        self.lines.first().cloned().unwrap_or(Loc::Internal)
    }
}

/// One operation on values.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is computed.
    pub op: OpRef,
    /// The operands.
    pub inputs: Inputs,
    /// The static arguments.
    pub attrs: Attrs,
    /// The type of the value.
    pub ty: Type,
    /// Where it comes from.
    pub origin: Origin,
}

/// What an output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Handed to the caller.
    Result,
    /// Becomes the next value of this parameter or state.
    Update(NodeId),
}

/// An output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name; for an update that of the target.
    pub name: Arc<str>,
    /// The value.
    pub value: NodeId,
    /// What it is for.
    pub role: Role,
}

/// A static program over tensors.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    name: Arc<str>,
    nodes: Vec<Node>,
    outputs: Vec<Output>,
    checks: Vec<NodeId>,
    bodies: Vec<Arc<Graph>>,
    /// Pure nodes by the hash of what makes them equal.
    node_index: FxHashMap<u64, SmallVec<[NodeId; 1]>>,
    /// Bodies by the hash of their text.
    body_index: FxHashMap<u64, SmallVec<[BodyId; 1]>>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// All nodes in topological order; index = id.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All ids in topological order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The type of a node.
    pub fn ty(&self, id: NodeId) -> &Type {
        &self.nodes[id.index()].ty
    }

    /// The outputs in the order in which they were declared.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The bodies that region ops refer to.
    pub fn bodies(&self) -> &[Arc<Graph>] {
        &self.bodies
    }

    /// A body.
    pub fn body(&self, id: BodyId) -> &Arc<Graph> {
        &self.bodies[id.index()]
    }

    /// Number of nodes.
    pub fn n_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Appends a node whose type has been inferred; an equal pure node is returned instead and gains the lines.
    pub fn add(&mut self, op: OpRef, inputs: Inputs, attrs: Attrs, ty: Type, origin: Origin) -> NodeId {
        debug_assert!(inputs.iter().all(|i| i.index() < self.nodes.len()));
        let id = NodeId(self.nodes.len() as u32);
        if op.traits.has(OpTraits::NAMED) {
            self.nodes.push(Node { op, inputs, attrs, ty, origin });
            return id;
        }
        let hash = FxBuildHasher.hash_one((op, &inputs, &attrs, &ty));
        let same_hash = self.node_index.entry(hash).or_default();
        let is_equal = |node: &Node| node.op == op && node.inputs == inputs && node.attrs == attrs && node.ty == ty;
        if let Some(&known) = same_hash.iter().find(|k| is_equal(&self.nodes[k.index()])) {
            self.nodes[known.index()].origin.merge(&origin);
            return known;
        }
        same_hash.push(id);
        if self.is_check(op, &attrs) {
            self.checks.push(id);
        }
        self.nodes.push(Node { op, inputs, attrs, ty, origin });
        id
    }

    /// Makes room for so many more nodes.
    pub fn reserve(&mut self, n_nodes: usize) {
        self.nodes.reserve(n_nodes);
        self.node_index.reserve(n_nodes);
    }

    /// Whether an op tests run-time values: a check, or a call of a body that has one.
    fn is_check(&self, op: OpRef, attrs: &Attrs) -> bool {
        let body = |attr: &Attr| if let Attr::Body(id) = attr { self.bodies.get(id.index()) } else { None };
        let checks = |attr: &Attr| body(attr).is_some_and(|body| !body.checks.is_empty());
        matches!(op.lower, Lower::Check(_)) || attrs.iter().any(|(_, attr)| checks(attr))
    }

    /// The nodes that test run-time values and stay whatever outputs need: checks, and calls of bodies with checks.
    pub fn checks(&self) -> &[NodeId] {
        &self.checks
    }

    /// Says that a check has become needless: the value that stands for it is known to pass.
    pub fn drop_check(&mut self, id: NodeId) {
        self.checks.retain(|check| *check != id);
    }

    /// Adds a body; an equal one is returned instead.
    pub fn add_body(&mut self, body: Arc<Graph>) -> BodyId {
        let text = body.to_string();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let id = BodyId(self.bodies.len() as u32);
        let same_hash = self.body_index.entry(hasher.finish()).or_default();
        if let Some(&known) = same_hash.iter().find(|k| self.bodies[k.index()].to_string() == text) {
            return known;
        }
        same_hash.push(id);
        self.bodies.push(body);
        id
    }

    /// Declares an output.
    pub fn add_output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    /// For each node, whether an output or a check needs it.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for check in &self.checks {
            live[check.index()] = true;
        }
        for output in &self.outputs {
            live[output.value.index()] = true;
            if let Role::Update(target) = output.role {
                live[target.index()] = true;
            }
        }
        for i in (0..self.nodes.len()).rev() {
            if live[i] {
                for input in &self.nodes[i].inputs {
                    live[input.index()] = true;
                }
            }
        }
        live
    }

    /// For each node, the nodes that read it (each reader once per operand).
    pub fn readers(&self) -> Vec<SmallVec<[NodeId; 2]>> {
        let mut readers = vec![SmallVec::new(); self.nodes.len()];
        for id in self.ids() {
            for input in &self.node(id).inputs {
                readers[input.index()].push(id);
            }
        }
        readers
    }

    /// The named source (input, parameter or state) with this name.
    pub fn source(&self, name: &str) -> Option<NodeId> {
        self.ids().find(|&id| {
            let node = self.node(id);
            node.op.traits.has(OpTraits::SOURCE) && node.attrs.str("name") == name
        })
    }
}
