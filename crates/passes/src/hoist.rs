//! `hoist`: what every iteration of a loop would compute alike, or could compute for all of them at once, leaves it.
//!
//! What depends on captures alone is computed once, before the loop, if it is more than a formula on elements that would then be
//! more memory than it is made of; so are products of a slice's parts with what depends on captures alone: one product over the
//! rows of all iterations. Bits stay: where a product has one row, and so is summed in lanes, but would have several, it
//! stays where it is. What depends on captures alone and is read across its rows by a product in the loop is turned once, before
//! it. (The gradients of captures that are products leave the loop in `differentiate`, which states their order.)
//! What may fail stays, for a loop that does not run must not fail.

mod explain;

use std::collections::HashMap;
use std::sync::Arc;

use cotangent_graph::op::Check;
use cotangent_graph::ops::matmul::MATMUL;
use cotangent_graph::ops::scan::{SCAN, Scan};
use cotangent_graph::{
    Graph, GraphBuilder, Lower, Node, NodeId, Origin, Output, Role, Shape, Source, Stage, StepCx, Tensor,
};
use cotangent_scalar::order::product_lanes;

use crate::loops::without_needless;
use crate::pass::{Pass, PassCx, PassError};
use crate::rebuild::{Copier, bottom_up, kept, origin_of};

pub use explain::explain;

/// What made a node that left a loop.
const RULE: &str = "hoist";

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct Hoist;

impl Pass for Hoist {
    fn name(&self) -> &'static str {
        RULE
    }

    fn purpose(&self) -> &'static str {
        "Takes out of loops what depends on captures alone, and products of all parts of a slice with it."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Primitive, Stage::Primitive)
    }

    fn repeats(&self) -> bool {
        // What left a loop is another operand of the body, whose order and rules are looked at again.
        true
    }

    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        cx.begin();
        let moved = bottom_up(graph, |graph, bodies, changed| hoisted(graph, bodies, changed, cx))?;
        // Loops get their last form here: the order of operands, which canonical forms have, goes by it.
        let smaller = without_needless(moved.as_ref().unwrap_or(graph))?;
        Ok(smaller.or(moved))
    }
}

/// What a node of a body depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    /// Nothing that is given.
    Constants,
    /// Captures, and nothing else that is given.
    Captures,
    /// The iteration, or it may fail.
    Iteration,
}

/// What leaves a loop, by node of the body.
#[derive(Default)]
struct Leaving {
    /// Computed once.
    once: Vec<NodeId>,
    /// Products of a slice's parts, with the number of the slice.
    products: Vec<(NodeId, usize)>,
    /// Second operands of products that read them across their rows: turned once.
    turned: Vec<NodeId>,
}

fn hoisted(
    graph: &Graph,
    bodies: &[Arc<Graph>],
    changed: bool,
    cx: &mut PassCx<'_>,
) -> Result<Option<Graph>, PassError> {
    let order = kept(graph);
    let mut leaving: HashMap<NodeId, Leaving> = HashMap::new();
    for &id in &order {
        // Of a body that has just changed what is left is looked at by the next run.
        let Some(scan) = graph.scan(graph.node(id)) else { continue };
        let body = graph.node(id).attrs.body("body").map(|body| &bodies[body.index()]);
        let Some(body) = body else { continue };
        let found = Leaving::of(&Scan { body, ..scan });
        if !found.once.is_empty() || !found.products.is_empty() || !found.turned.is_empty() {
            found.once.iter().for_each(|_| cx.count("once"));
            found.products.iter().for_each(|_| cx.count("product_of_slices"));
            found.turned.iter().for_each(|_| cx.count("turned"));
            leaving.insert(id, found);
        }
    }
    if leaving.is_empty() && !changed {
        return Ok(None);
    }
    let builder = cx.builder(graph);
    let mut copier = Copier::new(graph, bodies, &builder);
    for id in order {
        let node = graph.node(id);
        let body = node.attrs.body("body").map(|body| &bodies[body.index()]);
        match (leaving.get(&id), graph.scan(node), body) {
            (Some(leaving), Some(scan), Some(body)) => {
                builder.set_origin(Some(node.origin.clone()));
                let made = leaving.rebuild(&builder, &Scan { body, ..scan }, &copier.operands(id))?;
                builder.set_origin(None);
                copier.set(id, made);
            }
            _ => {
                copier.copy(id);
            }
        }
        cx.check_room(&builder, node)?;
    }
    copier.outputs();
    cx.finish(builder, "hoist").map(Some)
}

impl Leaving {
    fn of(scan: &Scan<'_>) -> Self {
        let body = scan.body;
        let inputs: Vec<NodeId> = body.inputs().map(|(id, _)| id).collect();
        let n_taken = scan.n_carries + scan.n_slices;
        let mut of: Vec<Of> = Vec::with_capacity(body.n_nodes());
        for id in body.ids() {
            let node = body.node(id);
            let own = match node.source() {
                Some(Source::Input) if inputs[n_taken..].contains(&id) => Of::Captures,
                Some(Source::Constant | Source::Iota) => Of::Constants,
                Some(_) => Of::Iteration,
                None if may_fail(body, node) => Of::Iteration,
                None => Of::Constants,
            };
            of.push(node.inputs.iter().map(|input| of[input.index()]).fold(own, Of::max));
        }
        let mut inside = vec![false; body.n_nodes()];
        body.outputs()
            .iter()
            .map(|output| output.value)
            .chain(body.checks().iter().copied())
            .for_each(|id| inside[id.index()] = true);
        let mut leaving = Leaving::default();
        for id in body.ids().rev() {
            let node = body.node(id);
            if !inside[id.index()] || node.source().is_some() {
                continue;
            }
            match of[id.index()] {
                Of::Captures if pays(body, id) => {
                    leaving.once.push(id);
                    continue;
                }
                Of::Iteration if node.is(&MATMUL) && of[node.inputs[1].index()] == Of::Captures => {
                    let slice = inputs[scan.n_carries..n_taken].iter().position(|slice| *slice == node.inputs[0]);
                    if let Some(slice) = slice.filter(|_| keeps_bits(body, node, scan.n)) {
                        leaving.products.push((id, slice));
                        continue;
                    }
                    if reads_across(body, node) && scan.n > 1 {
                        inside[node.inputs[0].index()] = true;
                        if !leaving.turned.contains(&node.inputs[1]) {
                            leaving.turned.push(node.inputs[1]);
                        }
                        continue;
                    }
                }
                _ => {}
            }
            node.inputs.iter().for_each(|input| inside[input.index()] = true);
        }
        leaving
    }

    /// The loop without what leaves it, after that.
    fn rebuild<'g>(
        &self,
        g: &'g GraphBuilder,
        scan: &Scan<'_>,
        operands: &[Tensor<'g>],
    ) -> Result<Tensor<'g>, PassError> {
        let body = scan.body;
        let inputs: Vec<NodeId> = body.inputs().map(|(id, _)| id).collect();
        let n_taken = scan.n_carries + scan.n_slices;
        let mut outside = Outside {
            g,
            body,
            made: inputs[n_taken..].iter().copied().zip(operands[n_taken..].iter().copied()).collect(),
        };
        let once: Vec<Tensor<'g>> = self.once.iter().map(|&id| outside.make(id)).collect();
        let mut products = Vec::with_capacity(self.products.len());
        for &(id, slice) in &self.products {
            let (node, all) = (body.node(id), operands[scan.n_carries + slice]);
            let (shape, weights) = (all.shape(), outside.make(node.inputs[1]));
            let rows = all.reshape([shape[0] * shape[1], shape[2]]).matmul_with(weights, false, node.attrs.bool("tb"));
            products
                .push(rows.reshape(std::iter::once(scan.n).chain(node.ty.shape().iter().copied()).collect::<Shape>()));
        }
        let turn = |&id: &NodeId| {
            let value = outside.make(id);
            let before = g.set_origin(Some(origin_of(body.node(id), RULE)));
            let turned = value.transpose([1, 0]);
            g.set_origin(before);
            turned
        };
        let turned: Vec<Tensor<'g>> = self.turned.iter().map(turn).collect();
        // Inputs anew: carries, slices, products, captures, what is computed once, and what is turned.
        let builder = GraphBuilder::like(body);
        let mut copier = Copier::new(body, body.bodies(), &builder);
        let moved = self.products.iter().map(|(id, _)| *id);
        let sources = inputs[..n_taken].iter().copied().chain(moved).chain(inputs[n_taken..].iter().copied());
        for (k, id) in sources.chain(self.once.iter().copied()).enumerate() {
            let node = body.node(id);
            builder.set_origin(Some(node.origin.clone()));
            copier.set(id, builder.input(&k.to_string(), node.ty.dtype(), node.ty.shape()));
        }
        let first = inputs.len() + self.products.len() + self.once.len();
        let turned_inputs: Vec<Tensor<'_>> =
            (first..).zip(&turned).map(|(k, t)| builder.input(&k.to_string(), t.dtype(), t.shape())).collect();
        let is_source = |id: &NodeId| {
            body.node(*id).source() == Some(Source::Input)
                || self.once.contains(id)
                || self.products.iter().any(|(p, _)| p == id)
        };
        for id in kept(body).into_iter().filter(|id| !is_source(id)) {
            let node = body.node(id);
            let turned = || self.turned.iter().position(|of| *of == node.inputs[1]);
            match node.is(&MATMUL).then(turned).flatten().filter(|_| reads_across(body, node)) {
                Some(k) => {
                    builder.set_origin(Some(node.origin.clone()));
                    copier.set(id, copier.get(node.inputs[0]).matmul(turned_inputs[k]));
                }
                None => {
                    copier.copy(id);
                }
            }
        }
        for output in body.outputs() {
            builder.push_output(Output {
                name: output.name.clone(),
                value: copier.get(output.value).id(),
                role: Role::Result,
            });
        }
        let id = g.add_body(Arc::new(builder.into_graph()?));
        let (before, captures) = operands.split_at(n_taken);
        let after = captures.iter().chain(&once).chain(&turned);
        let operands: Vec<Tensor<'g>> = before.iter().chain(&products).chain(after).copied().collect();
        let scan = Scan { n_slices: scan.n_slices + products.len(), ..*scan };
        Ok(g.op(&SCAN, &operands, scan.attrs(id), None))
    }
}

/// What of a body is computed outside.
struct Outside<'g, 'a> {
    g: &'g GraphBuilder,
    body: &'a Graph,
    made: HashMap<NodeId, Tensor<'g>>,
}

impl<'g> Outside<'g, '_> {
    /// A node of the body that depends on captures alone.
    fn make(&mut self, id: NodeId) -> Tensor<'g> {
        let mut stack = vec![id];
        while let Some(&at) = stack.last() {
            let node = self.body.node(at);
            let missing = node.inputs.iter().find(|input| !self.made.contains_key(input));
            match missing {
                Some(&input) if !self.made.contains_key(&at) => stack.push(input),
                _ => {
                    stack.pop();
                    if !self.made.contains_key(&at) {
                        let inputs = node.inputs.iter().map(|input| self.made[input].id()).collect();
                        let (bodies, g) = (self.body.bodies(), self.g);
                        let attrs = node.attrs.map_bodies(|body| g.add_body(Arc::clone(&bodies[body.index()])));
                        let origin = Origin { rule: Some(RULE), ..node.origin.clone() };
                        let made = g.push_node(node.op, inputs, attrs, node.ty.clone(), origin);
                        self.made.insert(at, made);
                    }
                }
            }
        }
        self.made[&id]
    }
}

/// Whether a node tests run-time values.
fn may_fail(body: &Graph, node: &Node) -> bool {
    match &node.op.lower {
        Lower::Check(Check::Index | Check::Finite) => true,
        Lower::Step(step) => !step.indices(&StepCx::of(body, node)).is_empty(),
        // Loops in loops stay where they are, with what they make.
        Lower::Loop | Lower::Item => true,
        _ => false,
    }
}

/// Whether computing a node once and reading it is better than computing it in each iteration.
fn pays(body: &Graph, id: NodeId) -> bool {
    let node = body.node(id);
    match &node.op.lower {
        Lower::Reduce(_) | Lower::Gemm | Lower::Conv(_) | Lower::Step(_) => true,
        // Of many elements made of few, readers make each again for less.
        Lower::Scalar(_) => {
            let n: usize = node.inputs.iter().map(|&input| source_elements(body, input)).sum();
            node.ty.shape().n_elements() <= n
        }
        _ => false,
    }
}

/// Whether a product of several rows reads a matrix across its rows: as it takes the other's rows, its own are far apart.
fn reads_across(body: &Graph, node: &Node) -> bool {
    let shape = node.ty.shape();
    node.attrs.bool("tb") && shape.rank() == 2 && shape[0] > 1 && body.ty(node.inputs[1]).shape().n_elements() > 0
}

/// Elements that a value is a view of.
fn source_elements(body: &Graph, mut id: NodeId) -> usize {
    while let (Lower::View(_), [input]) = (&body.node(id).op.lower, &body.node(id).inputs[..]) {
        id = *input;
    }
    body.ty(id).shape().n_elements()
}

/// Whether a product of a part's rows has the bits of the same rows in a product over the rows of all `n` parts.
fn keeps_bits(body: &Graph, node: &Node, n: usize) -> bool {
    let shape = body.ty(node.inputs[0]).shape();
    if node.attrs.bool("ta") || shape.rank() != 2 {
        return false;
    }
    let (m, k, columns) = (shape[0], shape[1], node.ty.shape()[1]);
    let lanes = |rows: usize| product_lanes([rows, columns, k], node.ty.dtype());
    lanes(m) == lanes(m.saturating_mul(n))
}
