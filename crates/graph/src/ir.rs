//! The graph: an append-only list of typed nodes, and its outputs.
//!
//! What holds of every graph, because nothing else can be added to one: operands, bodies and the values of outputs exist;
//! every operand's id is smaller than the node's own id, so creation order is a topological order; every op is one of the
//! graph's [`Registry`], so only built-in records lower as anything but `Scalar` and `Expand`; sizes are ones that arithmetic
//! on them need not fear; bodies nest at most [`MAX_BODY_DEPTH`] deep and have at most [`MAX_BODY_NODES`] nodes. That nodes
//! are what their ops make of their operands is what [`mod@crate::verify`] checks.
//!
//! Passes rebuild into a fresh graph. Pure ops are hash-consed, so common sub-expressions are shared by construction. Inputs,
//! parameters and states are not: they are identified by name.
//!
//! What a step must do is what outputs need, and every check: an op that tests run-time values stays, whether or not a value
//! is computed from its result, so no optimization can take a check away by taking its readers away.

use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::attrs::{Attr, Attrs};
use crate::diag::{Code, Diag, Loc};
use crate::init::Init;
use crate::op::{Fault, Lower, OpDef, Registry, Source};
use crate::ops::region::CALL;
use crate::ops::{source, view};
use crate::origin::Origin;
use crate::tensor::TensorData;
use crate::text::print::post_order;
use crate::types::Type;
use crate::verify::{Stage, verify};

/// How deep bodies may nest.
pub const MAX_BODY_DEPTH: usize = 4096;

/// How many nodes a graph may have: ids below are none that stands for something else.
const MAX_NODES: usize = u32::MAX as usize - 1;

/// How many nodes the bodies of a graph may have in all, those of their own bodies and one for each body included. A body that
/// stands in several bodies counts in each, as it does in the text.
pub const MAX_BODY_NODES: usize = 1 << 20;

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

/// An op: a record that lives as long as the program. Two are equal if they are the same record, whatever their names.
#[derive(Clone, Copy)]
pub struct OpRef(pub &'static OpDef);

impl OpRef {
    /// Whether it is this op.
    pub fn is(self, op: &'static OpDef) -> bool {
        std::ptr::eq(self.0, op)
    }

    /// Whether it is one of these ops.
    pub fn is_any(self, ops: &[&'static OpDef]) -> bool {
        ops.iter().any(|op| self.is(op))
    }
}

impl std::ops::Deref for OpRef {
    type Target = OpDef;
    fn deref(&self) -> &OpDef {
        self.0
    }
}

impl PartialEq for OpRef {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for OpRef {}

impl std::hash::Hash for OpRef {
    /// By address, which differs from run to run: good for tables to look things up in, never for an order.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::ptr::hash(self.0, state);
    }
}

impl fmt::Display for OpRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl fmt::Debug for OpRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

/// The operand list of a node.
pub type Inputs = SmallVec<[NodeId; 3]>;

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

impl Node {
    /// Whether it is made by this op.
    pub fn is(&self, op: &'static OpDef) -> bool {
        self.op.is(op)
    }

    /// Which source it is, if it is one.
    pub fn source(&self) -> Option<Source> {
        self.op.source()
    }

    /// Whether it is a parameter or state: what a store holds.
    pub fn is_stored(&self) -> bool {
        matches!(self.source(), Some(Source::Param | Source::State))
    }

    /// The name of an input, parameter or state.
    pub fn name(&self) -> Option<&str> {
        self.op.is_named().then(|| self.attrs.str(source::NAME.name))
    }

    /// How a parameter or state starts.
    pub fn init(&self) -> Option<&Init> {
        self.attrs.init(source::INIT.name).filter(|_| self.is_stored())
    }

    /// The elements of a constant.
    pub fn constant(&self) -> Option<&Arc<TensorData>> {
        self.attrs.tensor(source::VALUE.name).filter(|_| self.source() == Some(Source::Constant))
    }

    /// Whether it has its operand's elements in row-major order, in another shape.
    pub fn is_reshape(&self) -> bool {
        self.is(&view::RESHAPE)
    }
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
    registry: Registry,
    nodes: Vec<Node>,
    outputs: Vec<Output>,
    checks: Vec<NodeId>,
    bodies: Bodies,
    /// How deep its bodies nest, and how many nodes they have in all.
    depth: usize,
    n_body_nodes: usize,
    /// Inputs, parameters and states, and the first of each name; names of results, and targets of updates.
    named: Vec<NodeId>,
    by_name: FxHashMap<Arc<str>, NodeId>,
    results: FxHashSet<Arc<str>>,
    updated: FxHashSet<NodeId>,
    /// Pure nodes by the hash of what makes them equal.
    node_index: FxHashMap<u64, SmallVec<[NodeId; 1]>>,
    /// Bodies by their fingerprints.
    body_index: FxHashMap<u64, SmallVec<[BodyId; 1]>>,
    /// Of a graph that has become a body.
    fingerprint: OnceLock<u64>,
    /// What the verifier says of the graph as it is.
    errors: OnceLock<Vec<String>>,
}

/// The bodies of a graph. They nest deep, so they are dropped one by one.
#[derive(Clone, Default)]
struct Bodies(Vec<Arc<Graph>>);

impl Drop for Bodies {
    fn drop(&mut self) {
        let mut all = std::mem::take(&mut self.0);
        while let Some(body) = all.pop() {
            if let Ok(mut body) = Arc::try_unwrap(body) {
                all.append(&mut body.bodies.0);
            }
        }
    }
}

impl fmt::Debug for Bodies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|body| &body.name)).finish()
    }
}

/// A station of a walk through a graph and its bodies.
pub enum Walk<'a> {
    /// At a graph, before its bodies: its number in its own graph, if it is a body.
    Enter(&'a Graph, Option<usize>),
    /// At the same graph, after them.
    Leave(&'a Graph),
}

impl Graph {
    /// Goes through this graph and, in every place where they are, its bodies, those of a body before those that follow it.
    pub fn walk<'a>(&'a self, mut visit: impl FnMut(Walk<'a>)) {
        let mut open = vec![(self, 0)];
        visit(Walk::Enter(self, None));
        while let Some((graph, next)) = open.last_mut() {
            match graph.bodies().get(*next) {
                Some(body) => {
                    visit(Walk::Enter(body, Some(*next)));
                    *next += 1;
                    open.push((body, 0));
                }
                None => {
                    visit(Walk::Leave(graph));
                    open.pop();
                }
            }
        }
    }

    /// All bodies, each once, the innermost first.
    pub fn all_bodies(&self) -> Vec<&Arc<Graph>> {
        let (mut seen, mut all): (FxHashSet<*const Graph>, Vec<&Arc<Graph>>) = Default::default();
        let mut open: Vec<(&[Arc<Graph>], usize)> = vec![(self.bodies(), 0)];
        while let Some((bodies, next)) = open.last_mut() {
            match bodies.get(*next) {
                Some(body) if seen.insert(Arc::as_ptr(body)) => open.push((body.bodies(), 0)),
                Some(_) => *next += 1,
                None => {
                    open.pop();
                    // What has ended is a body of the graph that is open now.
                    if let Some((bodies, next)) = open.last_mut() {
                        all.push(&bodies[*next]);
                        *next += 1;
                    }
                }
            }
        }
        all
    }

    /// How deep its bodies nest.
    pub fn body_depth(&self) -> usize {
        self.depth
    }

    /// An empty graph of built-in ops.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// An empty graph of these ops.
    pub fn with_registry(name: impl Into<Arc<str>>, registry: &Registry) -> Self {
        Graph { name: name.into(), registry: registry.clone(), ..Graph::default() }
    }

    /// The ops that its nodes may have.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Lets nodes have one more op.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub fn register(&mut self, op: &'static OpDef) -> Result<(), Fault> {
        self.registry.register(op)
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// All nodes in topological order; index = id.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node with its type, the user's lines, and the rule that made it.
    pub fn describe(&self, id: NodeId) -> String {
        let node = self.node(id);
        let lines: Vec<String> = node.origin.lines.iter().map(ToString::to_string).collect();
        let at = if lines.is_empty() { String::new() } else { format!("  at {}", lines.join(", ")) };
        let rule = node.origin.rule.map_or(String::new(), |rule| format!("  ({rule})"));
        format!("{id} {} : {}{at}{rule}", node.op.name, node.ty)
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
        &self.bodies.0
    }

    /// A body.
    pub fn body(&self, id: BodyId) -> &Arc<Graph> {
        &self.bodies.0[id.index()]
    }

    /// The body that a node calls, if it is a call.
    pub fn called(&self, node: &Node) -> Option<&Arc<Graph>> {
        let is_call = std::ptr::eq(node.op.0, &CALL);
        node.attrs.body("body").filter(|_| is_call).and_then(|id| self.bodies.0.get(id.index()))
    }

    /// Number of nodes.
    pub fn n_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Appends a node whose type has been inferred; an equal pure node is returned instead and gains the lines.
    ///
    /// # Errors
    /// `E0202` if the op is not of the graph's registry; `E0106` if the type is larger than any may be; `E0108` if an operand
    /// or a body does not exist.
    pub fn add(&mut self, op: OpRef, inputs: Inputs, attrs: Attrs, ty: Type, origin: Origin) -> Result<NodeId, Fault> {
        self.check_node(op, &inputs, &attrs, &ty)?;
        let id = NodeId(self.nodes.len() as u32);
        self.changed();
        if op.is_named() {
            self.named.push(id);
            if let Some(Attr::Str(name)) = attrs.get("name") {
                self.by_name.entry(Arc::clone(name)).or_insert(id);
            }
            self.nodes.push(Node { op, inputs, attrs, ty, origin });
            return Ok(id);
        }
        let hash = FxBuildHasher.hash_one((op, &inputs, &attrs, &ty));
        let same_hash = self.node_index.entry(hash).or_default();
        let is_equal = |node: &Node| node.op == op && node.inputs == inputs && node.attrs == attrs && node.ty == ty;
        if let Some(&known) = same_hash.iter().find(|k| is_equal(&self.nodes[k.index()])) {
            self.nodes[known.index()].origin.merge(&origin);
            return Ok(known);
        }
        same_hash.push(id);
        if self.is_check(op, &attrs) {
            self.checks.push(id);
        }
        self.nodes.push(Node { op, inputs, attrs, ty, origin });
        Ok(id)
    }

    fn check_node(&self, op: OpRef, inputs: &[NodeId], attrs: &Attrs, ty: &Type) -> Result<(), Fault> {
        if !self.registry.contains(op) {
            return Err(self.registry.unknown(op));
        }
        let missing = |what: fmt::Arguments<'_>| {
            Err(Fault::new(Code::UnknownName, format!("`{}` names {what}, which the graph does not have", op.name)))
        };
        if let Some(input) = inputs.iter().find(|input| input.index() >= self.nodes.len()) {
            return missing(format_args!("the operand {input}"));
        }
        for (_, attr) in attrs.iter() {
            if let Attr::Body(id) = attr
                && id.index() >= self.bodies.0.len()
            {
                return missing(format_args!("body {}", id.0));
            }
        }
        if self.nodes.len() >= MAX_NODES {
            return Err(Fault::new(Code::TooLarge, format!("a graph has at most {MAX_NODES} nodes")));
        }
        ty.check_size().map_err(|what| Fault::new(Code::TooLarge, format!("`{}` would make {what}", op.name)))
    }

    /// Makes room for so many more nodes.
    pub fn reserve(&mut self, n_nodes: usize) {
        self.nodes.reserve(n_nodes);
        self.node_index.reserve(n_nodes);
    }

    /// Whether an op tests run-time values: a check, or a call of a body that has one.
    fn is_check(&self, op: OpRef, attrs: &Attrs) -> bool {
        let body = |attr: &Attr| if let Attr::Body(id) = attr { self.bodies.0.get(id.index()) } else { None };
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

    /// Adds a body, and the ops that it may have; an equal one is returned instead.
    ///
    /// # Errors
    /// `E0106` if bodies would nest too deep or have too many nodes in all; `E0107` if it has an op of a name that is another
    /// op's here.
    pub fn add_body(&mut self, body: Arc<Graph>) -> Result<BodyId, Fault> {
        // A body counts as well: those without nodes may be in as many places.
        let n_added = 1 + body.n_nodes() + body.n_body_nodes;
        let (depth, n_nodes) = (body.depth + 1, self.n_body_nodes.saturating_add(n_added));
        let refuse = |text: String| Err(Fault::new(Code::TooLarge, text));
        if depth > MAX_BODY_DEPTH {
            return refuse(format!("the body @{} would make bodies nest more than {MAX_BODY_DEPTH} deep", body.name));
        }
        let id = BodyId(self.bodies.0.len() as u32);
        let same = self.body_index.entry(body.fingerprint()).or_default();
        let is_equal = |known: &Arc<Graph>| Arc::ptr_eq(known, &body) || known.to_string() == body.to_string();
        if let Some(&known) = same.iter().find(|known| is_equal(&self.bodies.0[known.index()])) {
            return Ok(known);
        }
        if n_nodes > MAX_BODY_NODES {
            return refuse(format!("with the body @{} bodies would have more than {MAX_BODY_NODES} nodes", body.name));
        }
        self.registry.merge(&body.registry)?;
        same.push(id);
        (self.depth, self.n_body_nodes) = (self.depth.max(depth), n_nodes);
        self.bodies.0.push(body);
        self.changed();
        Ok(id)
    }

    /// Forgets what was found out about the graph.
    fn changed(&mut self) {
        (self.fingerprint, self.errors) = (OnceLock::new(), OnceLock::new());
    }

    /// Whether every node is what its op makes of its operands, and all else holds that [`mod@crate::verify`] lists of a graph
    /// as built. It is looked at once.
    ///
    /// # Errors
    /// `E0115` with everything that is wrong.
    pub fn well_formed(&self) -> Result<(), Diag> {
        const SHOWN: usize = 20;
        let errors = self.errors.get_or_init(|| verify(self, Stage::Source));
        if errors.is_empty() {
            return Ok(());
        }
        let more = if errors.len() > SHOWN { format!("\nand {} more", errors.len() - SHOWN) } else { String::new() };
        let shown = errors[..errors.len().min(SHOWN)].join("\n");
        let text = format!("the graph @{} is not well formed:\n{shown}{more}", self.name);
        let help = "what `push_node`, `push_output` and `Graph::add` are given must be as the ops' records say; `GraphBuilder::op` \
                    and the methods of `Tensor` see to that";
        Err(Diag::new(Code::IllFormed, text).at(Loc::Internal).help(help))
    }

    /// A number that graphs of equal text have in common.
    fn fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.name.hash(&mut hasher);
            let order = post_order(self);
            let mut number = vec![0; self.nodes.len()];
            for (n, id) in order.iter().enumerate() {
                number[id.index()] = n;
            }
            for id in &order {
                let node = self.node(*id);
                node.op.name.hash(&mut hasher);
                node.inputs.iter().for_each(|input| number[input.index()].hash(&mut hasher));
                node.attrs.hash(&mut hasher);
                node.ty.hash(&mut hasher);
            }
            for output in &self.outputs {
                (&output.name, number[output.value.index()]).hash(&mut hasher);
            }
            self.bodies.0.iter().for_each(|body| body.fingerprint().hash(&mut hasher));
            hasher.finish()
        })
    }

    /// Declares an output.
    ///
    /// # Errors
    /// `E0108` if its value or target does not exist.
    pub fn add_output(&mut self, output: Output) -> Result<(), Fault> {
        let target = if let Role::Update(target) = output.role { Some(target) } else { None };
        if let Some(id) = [Some(output.value), target].into_iter().flatten().find(|id| id.index() >= self.nodes.len()) {
            let text = format!("output `{}` names {id}, which the graph does not have", output.name);
            return Err(Fault::new(Code::UnknownName, text));
        }
        self.changed();
        match target {
            None => self.results.insert(Arc::clone(&output.name)),
            Some(target) => self.updated.insert(target),
        };
        self.outputs.push(output);
        Ok(())
    }

    /// Whether a result has this name.
    pub fn has_result(&self, name: &str) -> bool {
        self.results.contains(name)
    }

    /// Whether there is an update of this parameter or state.
    pub fn is_updated(&self, target: NodeId) -> bool {
        self.updated.contains(&target)
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

    /// The input, parameter or state of this name.
    pub fn source(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(name).copied()
    }

    /// The inputs in their order.
    pub fn inputs(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.sources(|source| source == Source::Input)
    }

    /// The parameters.
    pub fn params(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.sources(|source| source == Source::Param)
    }

    /// The states.
    pub fn states(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.sources(|source| source == Source::State)
    }

    /// The parameters and states: what a store holds.
    pub fn stored(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.sources(|source| matches!(source, Source::Param | Source::State))
    }

    fn sources(&self, is_wanted: fn(Source) -> bool) -> impl Iterator<Item = (NodeId, &Node)> {
        let named = self.named.iter().map(|&id| (id, self.node(id)));
        named.filter(move |(_, node)| node.source().is_some_and(is_wanted))
    }
}
