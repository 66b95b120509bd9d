//! What passes do to loops as a whole: keep the carries of each iteration, for derivatives, and leave out what nobody needs.

use std::collections::HashMap;
use std::sync::Arc;

use cotangent_graph::ops::scan::{SCAN, Scan, dear_values};
use cotangent_graph::{Graph, GraphBuilder, Lower, Node, NodeId, Output, Role, Tensor};

use crate::pass::PassError;
use crate::rebuild::{Copier, bottom_up, kept};

/// What a loop's derivative reads of each iteration instead of computing it again: for each carry as it is at the start of the
/// iteration, then for each of the body's [`dear_values`], its place among the loop's results, if it has one.
pub fn kept_values(scan: &Scan<'_>) -> Vec<Option<usize>> {
    let outputs = scan.body.outputs();
    let place = |id: NodeId| outputs.iter().skip(scan.n_carries).position(|output| output.value == id);
    keeps(scan.body, scan.n_carries).map(|id| Some(place(id)? + scan.n_carries)).collect()
}

/// What is kept of a body.
fn keeps(body: &Graph, n_carries: usize) -> impl Iterator<Item = NodeId> {
    body.inputs().take(n_carries).map(|(id, _)| id).chain(dear_values(body, n_carries))
}

/// A loop that hands out what derivatives read of each iteration, beside all that it handed out before. What of it nobody needs
/// is left out later ([`without_needless`]).
pub fn keeping_values<'g>(g: &'g GraphBuilder, value: Tensor<'g>) -> Result<Tensor<'g>, PassError> {
    let node = g.with_graph(|graph| graph.node(value.id()).clone());
    let body = g.with_graph(|graph| {
        let scan = graph.scan(&node)?;
        Some((Arc::clone(scan.body), scan.n_carries, kept_values(&scan)))
    });
    let Some((body, n_carries, known)) = body.filter(|(.., known)| known.contains(&None)) else { return Ok(value) };
    with_body(g, &node, &body, |copier, builder| {
        for id in copier.order() {
            copier.copy(id);
        }
        let missing = keeps(&body, n_carries).zip(&known).filter(|(_, known)| known.is_none());
        let more = missing.map(|(id, _)| copier.get(id).id());
        let before = body.outputs().iter().map(|output| copier.get(output.value).id());
        before.chain(more).enumerate().for_each(|(k, id)| builder.push_output(result(k, id)));
    })
}

/// A loop whose body reads inputs, by their numbers, where it had computed their values.
pub fn reading<'g>(g: &'g GraphBuilder, value: Tensor<'g>, given: &[(NodeId, usize)]) -> Result<Tensor<'g>, PassError> {
    let node = g.with_graph(|graph| graph.node(value.id()).clone());
    let body = g.with_graph(|graph| graph.scan(&node).map(|scan| Arc::clone(scan.body)));
    let Some(body) = body.filter(|_| !given.is_empty()) else { return Ok(value) };
    let inputs: Vec<NodeId> = body.inputs().map(|(id, _)| id).collect();
    with_body(g, &node, &body, |copier, builder| {
        inputs.iter().for_each(|&id| {
            copier.copy(id);
        });
        for id in copier.order().into_iter().filter(|id| !inputs.contains(id)) {
            match given.iter().find(|(value, _)| *value == id) {
                Some(&(_, k)) => copier.set(id, copier.get(inputs[k])),
                None => {
                    copier.copy(id);
                }
            }
        }
        let outputs = body.outputs().iter().enumerate();
        outputs.for_each(|(k, output)| builder.push_output(result(k, copier.get(output.value).id())));
    })
}

/// The loop of a node over what `f` copies of its body.
fn with_body<'g>(
    g: &'g GraphBuilder,
    node: &Node,
    body: &Graph,
    f: impl for<'b> FnOnce(&mut Copier<'b, '_>, &'b GraphBuilder),
) -> Result<Tensor<'g>, PassError> {
    let builder = GraphBuilder::like(body);
    f(&mut Copier::new(body, body.bodies(), &builder), &builder);
    let id = g.add_body(Arc::new(builder.into_graph()?));
    let operands: Vec<Tensor<'g>> = node.inputs.iter().map(|&input| g.tensor(input)).collect();
    let before = g.set_origin(Some(node.origin.clone()));
    let made = g.op(&SCAN, &operands, node.attrs.map_bodies(|_| id), None);
    g.set_origin(before);
    Ok(made)
}

/// A graph whose loops hand out what derivatives read of each iteration.
pub fn all_keeping_values(graph: &Graph) -> Result<Graph, PassError> {
    let builder = GraphBuilder::like(graph);
    let mut copier = Copier::new(graph, graph.bodies(), &builder);
    for id in copier.order() {
        let copied = copier.copy(id);
        if matches!(graph.node(id).op.lower, Lower::Loop) {
            copier.set(id, keeping_values(&builder, copied)?);
        }
    }
    copier.outputs();
    Ok(builder.into_graph()?)
}

fn result(number: usize, value: NodeId) -> Output {
    Output { name: number.to_string().into(), value, role: Role::Result }
}

/// The graph without carries, operands and outputs of loops that nothing needs, and outputs that are others, in bodies as well;
/// `None` if there are none.
pub fn without_needless(graph: &Graph) -> Result<Option<Graph>, PassError> {
    let mut current: Option<Graph> = None;
    // What a body no longer needs its caller may no longer need.
    while let Some(next) = sweep(current.as_ref().unwrap_or(graph))? {
        current = Some(next);
    }
    Ok(current)
}

/// Once through the graph and its bodies.
fn sweep(graph: &Graph) -> Result<Option<Graph>, PassError> {
    bottom_up(graph, |graph, bodies, changed| {
        let order = kept(graph);
        let used = used_results(graph, &order);
        let mut smaller: HashMap<NodeId, Smaller> = HashMap::new();
        for (&id, used) in &used {
            // Those whose bodies have just become smaller are looked at again, in the next sweep.
            let scan = graph.scan(graph.node(id)).filter(|_| !changed);
            if let Some(less) = scan.and_then(|scan| Smaller::of(&scan, used)) {
                smaller.insert(id, less);
            }
        }
        if smaller.is_empty() && !changed {
            return Ok(None);
        }
        let builder = GraphBuilder::like(graph);
        let mut copier = Copier::new(graph, bodies, &builder);
        for id in order {
            let node = graph.node(id);
            match (smaller.get(&id), node.inputs.first().and_then(|of| smaller.get(of))) {
                (Some(less), _) => {
                    let made = less.build(graph, node, &builder, &copier.operands(id))?;
                    copier.set(id, made);
                }
                (None, Some(less)) if graph.is_of_loop(node) => {
                    let result = less.same[node.attrs.size("index")];
                    let place = less.results.iter().position(|&k| k == result);
                    builder.set_origin(Some(node.origin.clone()));
                    let item = copier.operands(id)[0].item(place.unwrap_or(usize::MAX));
                    copier.set(id, item);
                }
                _ => {
                    copier.copy(id);
                }
            }
        }
        copier.outputs();
        Ok(Some(builder.into_graph()?))
    })
}

/// For each loop of which single results are used, and never all as one, which these are.
fn used_results(graph: &Graph, order: &[NodeId]) -> HashMap<NodeId, Vec<bool>> {
    let mut used: HashMap<NodeId, Vec<bool>> = HashMap::new();
    for &id in order {
        let node = graph.node(id);
        if let Some(scan) = graph.scan(node) {
            used.insert(id, vec![false; scan.body.outputs().len()]);
        }
        for input in &node.inputs {
            if !matches!(node.op.lower, Lower::Item) {
                used.remove(input);
            } else if let Some(results) = used.get_mut(input) {
                results[node.attrs.size("index")] = true;
            }
        }
    }
    used
}

/// What is left of a loop.
struct Smaller {
    n_carries: usize,
    n_slices: usize,
    /// The operands, and the body's inputs, that are left.
    operands: Vec<usize>,
    /// The results, and the body's outputs, that are left.
    results: Vec<usize>,
    /// For each result the first one that is the same: the value of one node of the body in all iterations.
    same: Vec<usize>,
}

impl Smaller {
    /// What is left of a loop of which these results are used; `None` if that is all.
    fn of(scan: &Scan<'_>, used: &[bool]) -> Option<Self> {
        let body = scan.body;
        let inputs: Vec<NodeId> = body.inputs().map(|(id, _)| id).collect();
        let outputs = body.outputs();
        let first = |k: usize| {
            let earlier = (scan.n_carries..k).find(|&j| outputs[j].value == outputs[k].value);
            earlier.unwrap_or(k)
        };
        let same: Vec<usize> = (0..outputs.len()).map(first).collect();
        let mut results = vec![false; outputs.len()];
        same.iter().zip(used).filter(|(_, used)| **used).for_each(|(&k, _)| results[k] = true);
        if !results.contains(&true) {
            // A loop that only checks must make something.
            *results.first_mut()? = true;
        }
        let operands = loop {
            let mut needed = vec![false; body.n_nodes()];
            body.checks().iter().for_each(|check| needed[check.index()] = true);
            let made = outputs.iter().zip(&results).filter(|(_, used)| **used);
            made.for_each(|(output, _)| needed[output.value.index()] = true);
            for id in body.ids().rev().filter(|id| needed[id.index()]).collect::<Vec<_>>() {
                mark(body, id, &mut needed);
            }
            let operands: Vec<bool> = inputs.iter().map(|id| needed[id.index()]).collect();
            let before = results.clone();
            // A carry that is read must be made, and one that is made must be kept between iterations.
            (0..scan.n_carries).for_each(|k| results[k] |= operands[k]);
            if results == before {
                break operands;
            }
        };
        let kept = |k: usize| if k < scan.n_carries { results[k] } else { operands[k] };
        let operands: Vec<usize> = (0..inputs.len()).filter(|&k| kept(k)).collect();
        let results: Vec<usize> = (0..results.len()).filter(|&k| results[k]).collect();
        let n_taken = scan.n_carries + scan.n_slices;
        let n_carries = operands.iter().filter(|&&k| k < scan.n_carries).count();
        let n_slices = operands.iter().filter(|&&k| (scan.n_carries..n_taken).contains(&k)).count();
        let is_smaller = operands.len() < inputs.len() || results.len() < used.len();
        is_smaller.then_some(Smaller { n_carries, n_slices, operands, results, same })
    }

    /// The smaller loop.
    fn build<'g>(
        &self,
        graph: &Graph,
        node: &Node,
        g: &'g GraphBuilder,
        operands: &[Tensor<'g>],
    ) -> Result<Tensor<'g>, PassError> {
        let Some(scan) = graph.scan(node) else { return Ok(g.poisoned()) };
        let body = scan.body;
        let mut live = vec![false; body.n_nodes()];
        body.checks().iter().for_each(|check| live[check.index()] = true);
        self.results.iter().for_each(|&k| live[body.outputs()[k].value.index()] = true);
        for id in body.ids().rev() {
            if live[id.index()] {
                body.node(id).inputs.iter().for_each(|input| live[input.index()] = true);
            }
        }
        for (k, (id, _)) in body.inputs().enumerate() {
            live[id.index()] = self.operands.contains(&k);
        }
        let builder = GraphBuilder::like(body);
        let mut copier = Copier::new(body, body.bodies(), &builder);
        for id in body.ids().filter(|id| live[id.index()]) {
            copier.copy(id);
        }
        for (k, &result_of) in self.results.iter().enumerate() {
            builder.push_output(result(k, copier.get(body.outputs()[result_of].value).id()));
        }
        let id = g.add_body(Arc::new(builder.into_graph()?));
        let operands: Vec<Tensor<'g>> = self.operands.iter().map(|&k| operands[k]).collect();
        let scan = Scan { n_carries: self.n_carries, n_slices: self.n_slices, ..scan };
        g.set_origin(Some(node.origin.clone()));
        let made = g.op(&SCAN, &operands, scan.attrs(id), None);
        g.set_origin(None);
        Ok(made)
    }
}

/// Marks what a node is made of.
fn mark(graph: &Graph, id: NodeId, needed: &mut [bool]) {
    let mut stack = vec![id];
    while let Some(id) = stack.pop() {
        for &input in &graph.node(id).inputs {
            if !std::mem::replace(&mut needed[input.index()], true) {
                stack.push(input);
            }
        }
    }
}
