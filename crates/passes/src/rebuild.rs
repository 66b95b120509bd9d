//! Rebuilding a graph: how every pass makes its result.
//!
//! Graphs are append-only, so a pass copies what outputs and checks need into a fresh builder, node by node in topological
//! order, and puts something else in the place of what it replaces. Inputs are always copied, also unused ones: a step accepts what
//! its source declared, and the operands of a call are bound by position. Bodies follow the nodes that name them, so that
//! unused ones vanish.

use std::sync::Arc;

use smallvec::SmallVec;

use cotangent_graph::expand::expand_node;
use cotangent_graph::{
    BodyId, CompilerBug, Graph, GraphBuilder, Inputs, Node, NodeId, Origin, Output, Role, Source, Tensor,
};

use crate::pass::PassError;

/// The tensors that stand for a node's operands.
pub type Operands<'g> = SmallVec<[Tensor<'g>; 3]>;

/// A copy under construction: which tensor of the builder stands for which node of the graph.
pub struct Copier<'g, 'a> {
    graph: &'a Graph,
    builder: &'g GraphBuilder,
    bodies: &'a [Arc<Graph>],
    body_ids: Vec<Option<BodyId>>,
    map: Vec<Option<NodeId>>,
}

impl<'g, 'a> Copier<'g, 'a> {
    /// Starts a copy of `graph`, with `bodies` in the places of its own.
    pub fn new(graph: &'a Graph, bodies: &'a [Arc<Graph>], builder: &'g GraphBuilder) -> Self {
        builder.reserve(graph.n_nodes());
        Copier { graph, builder, bodies, body_ids: vec![None; bodies.len()], map: vec![None; graph.n_nodes()] }
    }

    /// The nodes to copy, in topological order: what outputs and checks need, and all inputs.
    pub fn order(&self) -> Vec<NodeId> {
        kept(self.graph)
    }

    /// What stands for the operands of a node.
    pub fn operands(&self, id: NodeId) -> Operands<'g> {
        self.graph.node(id).inputs.iter().map(|&i| self.get(i)).collect()
    }

    /// What stands for a node that has been copied.
    pub fn get(&self, id: NodeId) -> Tensor<'g> {
        match self.map[id.index()] {
            Some(new) => self.builder.tensor(new),
            None => self.builder.poisoned(),
        }
    }

    /// Lets `tensor` stand for a node.
    pub fn set(&mut self, id: NodeId, tensor: Tensor<'g>) {
        self.map[id.index()] = Some(tensor.id());
    }

    /// The node as it is, over what stands for its operands.
    pub fn copy(&mut self, id: NodeId) -> Tensor<'g> {
        let node = self.graph.node(id);
        let inputs: Inputs = node.inputs.iter().filter_map(|i| self.map[i.index()]).collect();
        let attrs = if self.bodies.is_empty() {
            node.attrs.clone()
        } else {
            let (ids, bodies, builder) = (&mut self.body_ids, self.bodies, self.builder);
            node.attrs.map_bodies(|b| {
                let id = ids[b.index()].unwrap_or_else(|| builder.add_body(Arc::clone(&bodies[b.index()])));
                ids[b.index()] = Some(id);
                id
            })
        };
        let tensor = self.builder.push_node(node.op, inputs, attrs, node.ty.clone(), node.origin.clone());
        self.map[id.index()] = Some(tensor.id());
        tensor
    }

    /// Declares the outputs.
    pub fn outputs(self) {
        for output in self.graph.outputs() {
            let new = |id: NodeId| self.get(id).id();
            let role = match output.role {
                Role::Result => Role::Result,
                Role::Update(target) => Role::Update(new(target)),
            };
            let output = Output { name: Arc::clone(&output.name), value: new(output.value), role };
            self.builder.push_output(output);
        }
    }
}

/// The nodes that a copy keeps, in topological order.
pub fn kept(graph: &Graph) -> Vec<NodeId> {
    let live = graph.live();
    let keep = |id: &NodeId| live[id.index()] || graph.node(*id).source() == Some(Source::Input);
    graph.ids().filter(keep).collect()
}

/// The origin of what a rule or pass makes of a node.
pub fn origin_of(node: &Node, rule: &'static str) -> Origin {
    Origin { rule: Some(rule), ..node.origin.clone() }
}

/// A copy of `graph` with what `replace` returns in the place of a node; nodes for which it returns `None` are copied.
/// New nodes inherit the lines of the node and are marked with `rule`. Bodies are copied as they are.
pub fn rebuild(
    graph: &Graph,
    rule: &'static str,
    mut replace: impl for<'g> FnMut(&'g GraphBuilder, NodeId, &Node, &[Tensor<'g>]) -> Option<Tensor<'g>>,
) -> Result<Graph, PassError> {
    let builder = GraphBuilder::like(graph);
    let mut copier = Copier::new(graph, graph.bodies(), &builder);
    for id in copier.order() {
        let node = graph.node(id);
        builder.set_origin(Some(origin_of(node, rule)));
        match replace(&builder, id, node, &copier.operands(id)) {
            Some(tensor) => copier.set(id, tensor),
            None => {
                copier.copy(id);
            }
        }
    }
    copier.outputs();
    Ok(builder.into_graph()?)
}

/// A graph on the way through its bodies: what became of the first of them, and whether any changed.
struct Level<'a> {
    graph: &'a Graph,
    bodies: Vec<Arc<Graph>>,
    changed: bool,
}

/// The one driver that takes a pass through a graph and its bodies, the innermost first: what `pass` makes of the graph. `pass` is
/// given a graph, what became of its bodies, in their places, and whether any of them changed.
pub fn bottom_up(
    graph: &Graph,
    mut pass: impl FnMut(&Graph, &[Arc<Graph>], bool) -> Result<Option<Graph>, PassError>,
) -> Result<Option<Graph>, PassError> {
    let level = |graph| Level { graph, bodies: Vec::new(), changed: false };
    let mut above: Vec<Level<'_>> = Vec::new();
    let mut current = level(graph);
    loop {
        if let Some(body) = current.graph.bodies().get(current.bodies.len()) {
            above.push(std::mem::replace(&mut current, level(body)));
            continue;
        }
        let new = pass(current.graph, &current.bodies, current.changed)?;
        let Some(outer) = above.pop() else { return Ok(new) };
        current = outer;
        current.changed |= new.is_some();
        let old = &current.graph.bodies()[current.bodies.len()];
        current.bodies.push(new.map_or_else(|| Arc::clone(old), Arc::new));
    }
}

/// The results of a composite's expansion in `builder`; `node` names bodies of `bodies`.
pub fn expand_in<'g>(
    builder: &'g GraphBuilder,
    node: &Node,
    bodies: &[Arc<Graph>],
    inputs: &[Tensor<'g>],
) -> Result<SmallVec<[Tensor<'g>; 1]>, PassError> {
    expand_node(builder, node, bodies, inputs).map_err(|fault| CompilerBug::new("expand", fault.message).into())
}
