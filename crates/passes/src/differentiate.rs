//! `differentiate`: every `grad` becomes the graph of the derivative, by reverse accumulation (Linnainmaa 1970; Griewank
//! and Walther 2008, chapter 3).
//!
//! One reverse sweep serves all gradients of the same value and seed, and visits only what lies on a path from something
//! differentiated to it: the work is linear in the graph. Cotangents that are zero are never nodes; several of one value
//! are added in the order in which the sweep, from the last node to the first, makes them. `grad` nodes are replaced in
//! topological order, so that a sweep never meets one and derivatives nest to any order. A composite without a rule is
//! expanded where the sweep meets it, and the expansion is swept with the composite's operands as the ends.
//!
//! What is dropped on the way has a cotangent of zero, whatever its derivatives are (`support.rs`).
//!
//! A derivative with respect to an intermediate value is that of everything computed from that node ([`crate::anchor`]).

mod loops;

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

use cotangent_graph::expand::{MAX_EXPANSION_DEPTH, too_deep, watched};
use cotangent_graph::op::VjpCx;
use cotangent_graph::{
    Code, CompilerBug, Diag, Graph, GraphBuilder, Lower, Node, NodeId, OpTraits, Origin, Stage, Tensor, Type, Vjp,
};

use crate::anchor::{anchored, free_numbers, set_anchors, weigh_anchors};
use crate::loops::{keeping_values, without_needless};
use crate::pass::{Pass, PassCx, PassError, ill_typed};
use crate::pieces::side_by_side;
use crate::rebuild::{Copier, bottom_up, expand_in, origin_of};
use crate::rules::made_of;
use crate::support::{Support, Supports, bound};

const NAME: &str = "differentiate";

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct Differentiate;

impl Pass for Differentiate {
    fn name(&self) -> &'static str {
        NAME
    }

    fn purpose(&self) -> &'static str {
        "Replaces every `grad` by the graph of the derivative: one reverse sweep for each differentiated value."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Source, Stage::Differentiated)
    }

    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        cx.begin();
        differentiate(graph, cx)
    }
}

/// What is differentiated, and the seed.
type Key = (NodeId, Option<NodeId>);

/// `graph` without `grad`, or `None` if it has none; in bodies as well.
pub fn differentiate(graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
    let anchored = set_anchors(graph)?;
    let new = bottom_up(anchored.as_ref().unwrap_or(graph), |graph, bodies, changed| {
        replace_gradients(graph, bodies, changed, cx)?.map(weigh_anchors).transpose()
    })?;
    // Loops keep what derivatives read in case that somebody needs it.
    new.map(|new| Ok(without_needless(&new)?.unwrap_or(new))).transpose()
}

fn replace_gradients(
    graph: &Graph,
    bodies: &[Arc<Graph>],
    bodies_changed: bool,
    cx: &mut PassCx<'_>,
) -> Result<Option<Graph>, PassError> {
    let mut wanted: HashMap<Key, Vec<NodeId>> = HashMap::new();
    for (id, node) in graph.ids().zip(graph.nodes()).filter(|(_, node)| matches!(node.op.lower, Lower::Grad)) {
        debug_assert!(node.inputs.len() >= 2, "{id} is verified");
        wanted.entry(key_of(node)).or_default().push(node.inputs[1]);
    }
    if wanted.is_empty() && !bodies_changed {
        return Ok(None);
    }
    cx.rounds += 1;
    let builder = cx.builder(graph);
    let mut copier = Copier::new(graph, bodies, &builder);
    let mut found: HashMap<Key, HashMap<NodeId, Tensor<'_>>> = HashMap::new();
    let mut numbers = free_numbers(graph);
    let order = copier.order();
    let mut live = vec![false; graph.n_nodes()];
    for id in &order {
        live[id.index()] = true;
    }
    for id in order {
        let node = graph.node(id);
        if !matches!(node.op.lower, Lower::Grad) {
            let copied = copier.copy(id);
            if matches!(node.op.lower, Lower::Loop) && !wanted.is_empty() {
                copier.set(id, keeping_values(&builder, copied)?);
            }
            cx.check_room(&builder, node)?;
            continue;
        }
        cx.count("grad");
        let key = key_of(node);
        let (y, wrt) = (copier.get(key.0), copier.get(node.inputs[1]));
        if let Entry::Vacant(entry) = found.entry(key) {
            cx.count("sweep");
            // What does not come before y, y does not depend on: its gradient is zero.
            let ends = wanted[&key].iter().filter(|&&w| w <= key.0 && live[w.index()]);
            let ends: Vec<NodeId> = ends.map(|&w| copier.get(w).id()).collect();
            let seed = match key.1 {
                Some(seed) => copier.get(seed),
                None => {
                    builder.set_origin(Some(gradient_of(node)));
                    y.constant_like(1.0)
                }
            };
            builder.set_origin(Some(gradient_of(node)));
            let seed = anchored(seed, numbers.next().unwrap_or(i64::MAX));
            let supports = RefCell::default();
            let (depth, supports) = (MAX_EXPANSION_DEPTH, &supports);
            let sweep = Sweep { builder: &builder, cx, asked: node, cut: false, depth, supports };
            let found = sweep.run([(y.id(), Cotangent::of(seed, Support::Everywhere))], &ends)?;
            entry.insert(found.into_iter().map(|(id, cotangent)| (id, cotangent.value)).collect());
        }
        let cotangent = found[&key].get(&wrt.id()).copied();
        builder.set_origin(Some(gradient_of(node)));
        let value = cotangent.unwrap_or_else(|| wrt.constant_like(0.0));
        copier.set(id, value);
    }
    copier.outputs();
    cx.note_made(&builder);
    Ok(Some(builder.into_graph()?))
}

fn key_of(node: &Node) -> Key {
    (node.inputs[0], node.inputs.get(2).copied())
}

/// A cotangent that reached a node.
#[derive(Clone)]
struct Cotangent<'g> {
    /// The member of the tuple that it belongs to; 0 for a tensor.
    member: usize,
    value: Tensor<'g>,
    support: Support<'g>,
}

impl<'g> Cotangent<'g> {
    fn of(value: Tensor<'g>, support: Support<'g>) -> Self {
        Cotangent { member: 0, value, support }
    }

    /// The sum of all cotangents of a tensor.
    fn sum(g: &'g GraphBuilder, cotangents: Reached<'g>) -> Option<Self> {
        let support = cotangents.iter().map(|c| c.support.clone()).reduce(Support::or)?;
        let terms = side_by_side(g, cotangents.into_iter().map(|c| c.value).collect());
        Some(Cotangent::of(terms.into_iter().reduce(|a, b| a + b)?, support))
    }
}

/// The cotangents that reached a node.
type Reached<'g> = SmallVec<[Cotangent<'g>; 2]>;

/// A reverse sweep over the graph under construction.
struct Sweep<'g, 'a> {
    builder: &'g GraphBuilder,
    cx: &'a PassCx<'a>,
    /// The `grad` that the sweep is made for.
    asked: &'a Node,
    /// Whether paths end at the first of the ends that they meet (the operands of an expansion) or pass through.
    cut: bool,
    /// How many expansions more may hold each other.
    depth: usize,
    supports: &'a RefCell<Supports<'g>>,
}

impl<'g> Sweep<'g, '_> {
    /// The cotangents of `ends`, given those of `roots`; an end without one is not in the map.
    fn run(
        &self,
        roots: impl IntoIterator<Item = (NodeId, Cotangent<'g>)>,
        ends: &[NodeId],
    ) -> Result<HashMap<NodeId, Cotangent<'g>>, PassError> {
        let ends: HashSet<NodeId> = ends.iter().copied().collect();
        let mut reached: BTreeMap<NodeId, Reached<'g>> = BTreeMap::new();
        for (root, seed) in roots {
            reached.entry(root).or_default().push(seed);
        }
        let on_path = self.on_path(reached.keys().copied(), &ends);
        let mut found = HashMap::new();
        // New nodes have larger ids, but cotangents only ever reach operands, which have smaller ones.
        while let Some((id, cotangents)) = reached.pop_last() {
            if !on_path.contains(&id) {
                continue;
            }
            self.cx.check_room(self.builder, self.asked)?;
            let node = self.builder.with_graph(|graph| graph.node(id).clone());
            let origin = gradient_of(&node);
            self.builder.set_origin(Some(origin.clone()));
            let is_end = ends.contains(&id);
            if node.ty.as_tensor().is_none() {
                self.through_tuple(id, &node, cotangents, &on_path, &mut reached)?;
                continue;
            }
            let Some(dy) = Cotangent::sum(self.builder, cotangents) else { continue };
            if is_end {
                found.insert(id, dy.clone());
                if self.cut {
                    continue;
                }
            }
            self.through(id, &node, dy, origin, &on_path, &mut reached)?;
        }
        Ok(found)
    }

    /// The nodes that lie on a path from one of the ends to one of the roots, the ends and roots among them.
    fn on_path(&self, roots: impl Iterator<Item = NodeId>, ends: &HashSet<NodeId>) -> HashSet<NodeId> {
        let Some(&first) = ends.iter().min() else { return HashSet::new() };
        self.builder.with_graph(|graph| {
            let mut seen: HashSet<NodeId> = HashSet::new();
            let mut stack: Vec<NodeId> = roots.collect();
            let mut cone = Vec::new();
            while let Some(id) = stack.pop() {
                // Nothing before the first end depends on one.
                if id < first || !seen.insert(id) {
                    continue;
                }
                cone.push(id);
                if !(self.cut && ends.contains(&id)) {
                    stack.extend(&graph.node(id).inputs);
                }
            }
            self.builder.spend(cone.len());
            cone.sort_unstable();
            let mut on_path = HashSet::with_capacity(cone.len());
            for id in cone {
                if ends.contains(&id) || graph.node(id).inputs.iter().any(|i| on_path.contains(i)) {
                    on_path.insert(id);
                }
            }
            on_path
        })
    }

    /// Takes the cotangent of a tensor to the operands of its node.
    fn through(
        &self,
        id: NodeId,
        node: &Node,
        dy: Cotangent<'g>,
        origin: Origin,
        on_path: &HashSet<NodeId>,
        reached: &mut BTreeMap<NodeId, Reached<'g>>,
    ) -> Result<(), PassError> {
        if !node.inputs.iter().any(|i| on_path.contains(i)) {
            return Ok(());
        }
        if let (Lower::Item, [tuple]) = (&node.op.lower, node.inputs.as_slice()) {
            reached.entry(*tuple).or_default().push(Cotangent { member: node.attrs.size("index"), ..dy });
            return Ok(());
        }
        let inputs: SmallVec<[Tensor<'g>; 3]> = node.inputs.iter().map(|&i| self.builder.tensor(i)).collect();
        match &node.op.vjp {
            Vjp::Zero(_) => Ok(()),
            Vjp::None(reason) => {
                let text = format!("`{}` has no derivative: {reason}", node.op.name);
                let diag = Diag::new(Code::NotDifferentiable, text).at(origin.loc());
                let help = "take it off the path with `stop_gradient`, or differentiate something else";
                Err(diag.note("the gradient was asked for", self.asked.origin.loc()).help(help).into())
            }
            Vjp::ViaExpansion => {
                let results = self.expand(node, &inputs)?;
                let seeds = results.into_iter().map(|result| (result.id(), dy.clone()));
                self.through_expansion(node, seeds, on_path, reached)
            }
            Vjp::Rule(rule) => {
                let output = self.builder.tensor(id);
                let first = NodeId(self.builder.with_graph(Graph::n_nodes) as u32);
                let cx = VjpCx { inputs: inputs.clone(), output, dy: dy.value, attrs: &node.attrs };
                let cotangents = watched(self.builder, node.op, || rule(&cx))
                    .map_err(|fault| PassError::Bug(CompilerBug::new(NAME, fault.message)))?;
                if cotangents.len() != inputs.len() {
                    let made = format!("{} cotangents for {} operands", cotangents.len(), inputs.len());
                    return Err(wrong_rule(self.builder, node, &made));
                }
                let has_pole = node.op.traits.has(OpTraits::POLE);
                for (input, cotangent) in inputs.iter().zip(cotangents) {
                    let Some(cotangent) = cotangent.filter(|_| on_path.contains(&input.id())) else { continue };
                    if !input.is_float() {
                        continue;
                    }
                    if !self.builder.owns(cotangent) || cotangent.ty() != input.ty() {
                        let made = made_of(self.builder, cotangent);
                        return Err(wrong_rule(
                            self.builder,
                            node,
                            &format!("{made} for an operand of {}", input.ty()),
                        ));
                    }
                    let given = (dy.value, &dy.support, bound(node, &input.shape(), &dy.support));
                    let (value, support) = self.supports.borrow_mut().restore(cotangent, given, first, has_pole);
                    reached.entry(input.id()).or_default().push(Cotangent::of(value, support));
                }
                Ok(())
            }
        }
    }

    /// Takes the cotangents of the members of a tuple on.
    fn through_tuple(
        &self,
        id: NodeId,
        node: &Node,
        cotangents: Reached<'g>,
        on_path: &HashSet<NodeId>,
        reached: &mut BTreeMap<NodeId, Reached<'g>>,
    ) -> Result<(), PassError> {
        let inputs: SmallVec<[Tensor<'g>; 3]> = node.inputs.iter().map(|&i| self.builder.tensor(i)).collect();
        match &node.op.lower {
            Lower::Tuple => {
                for dy in cotangents {
                    reached.entry(inputs[dy.member].id()).or_default().push(Cotangent { member: 0, ..dy });
                }
                Ok(())
            }
            Lower::Loop => self.through_loop(id, node, cotangents, on_path, reached),
            Lower::Expand(_) => {
                let results = self.expand(node, &inputs)?;
                let seed = |dy: Cotangent<'g>| (results[dy.member].id(), Cotangent { member: 0, ..dy });
                self.through_expansion(node, cotangents.into_iter().map(seed), on_path, reached)
            }
            _ => {
                let text = format!("a gradient through a tuple inside a tuple (`{}`)", node.op.name);
                Err(Diag::new(Code::Unsupported, text).at(node.origin.loc()).into())
            }
        }
    }

    /// What a node expands to, in the graph under construction.
    fn expand(&self, node: &Node, inputs: &[Tensor<'g>]) -> Result<SmallVec<[Tensor<'g>; 1]>, PassError> {
        if matches!(node.op.lower, Lower::Grad) {
            let text = "a composite that is differentiated holds `grad` in its expansion; give it a derivative rule";
            return Err(Diag::new(Code::Unsupported, text).at(node.origin.loc()).into());
        }
        let bodies: Vec<Arc<Graph>> = self.builder.with_graph(|graph| graph.bodies().to_vec());
        expand_in(self.builder, node, &bodies, inputs)
    }

    /// Sweeps an expansion, with the operands of the composite as the ends.
    fn through_expansion(
        &self,
        node: &Node,
        seeds: impl IntoIterator<Item = (NodeId, Cotangent<'g>)>,
        on_path: &HashSet<NodeId>,
        reached: &mut BTreeMap<NodeId, Reached<'g>>,
    ) -> Result<(), PassError> {
        let is_tensor = |id: &NodeId| self.builder.with_graph(|graph| matches!(graph.ty(*id), Type::Tensor { .. }));
        let mut ends: Vec<NodeId> = node.inputs.iter().copied().filter(|i| on_path.contains(i)).collect();
        ends.retain(is_tensor);
        ends.sort_unstable();
        ends.dedup();
        self.cx.check_room(self.builder, self.asked)?;
        let depth = self.depth.checked_sub(1).ok_or_else(|| too_deep().at(node.origin.loc()))?;
        let inner = Sweep { cut: true, depth, ..*self };
        let mut found = inner.run(seeds, &ends)?;
        for end in ends {
            if let Some(cotangent) = found.remove(&end) {
                reached.entry(end).or_default().push(cotangent);
            }
        }
        Ok(())
    }
}

/// The origin of what is in the derivative of a node, in a scope beside the node's own.
fn gradient_of(node: &Node) -> Origin {
    const SCOPE: &str = "gradient";
    let scope = match node.origin.scope.as_deref() {
        // What asks for gradients is not what they are of.
        Some(scope) if !matches!(node.op.lower, Lower::Grad) => {
            // Derivatives of derivatives stand among them.
            if scope.split('.').next() == Some(SCOPE) { scope.to_owned() } else { format!("{SCOPE}.{scope}") }
        }
        _ => SCOPE.to_owned(),
    };
    origin_of(node, NAME).in_scope(scope)
}

fn wrong_rule(builder: &GraphBuilder, node: &Node, made: &str) -> PassError {
    let text = format!("the derivative rule of `{}` makes {made}", node.op.name);
    ill_typed(builder.error_of(Code::TooLarge), NAME, text)
}
