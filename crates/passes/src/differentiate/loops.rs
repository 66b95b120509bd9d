//! The derivative of a loop: a loop over its iterations the other way round.
//!
//! It carries the cotangents of the carries. Its slices are the carries of the forward loop and what is dear of its products, which
//! that loop hands out, and the cotangents of its outputs; the body computes what else it needs of the forward body again.
//! Cotangents of slices are its outputs. Those of captures add up: what is a product or a sum over rows is one over the rows of
//! all iterations, made after the loop of what the loop hands out; everything else is a carry.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cotangent_graph::expand::{inline_body, too_deep};
use cotangent_graph::ops::arithmetic::ADD;
use cotangent_graph::ops::matmul::MATMUL;
use cotangent_graph::ops::reduce::REDUCE_SUM;
use cotangent_graph::ops::scan::{Iteration, Loop, Looped, Made};
use cotangent_graph::{Attrs, Graph, GraphBuilder, Node, NodeId, Shape, Tensor};

use super::{Cotangent, Reached, Sweep, gradient_of};
use crate::loops::{all_keeping_values, keeping_values, kept_values, reading};
use crate::pass::PassError;
use crate::support::Support;

/// A term of a capture's cotangent.
enum Term<'b> {
    /// Added iteration by iteration.
    Chain(Tensor<'b>),
    /// `Aᵀ·B` over rows.
    Product(Tensor<'b>, Tensor<'b>),
    /// A sum over the first axis.
    Sum(Tensor<'b>),
}

/// Where what a term needs after the loop is: an operand that is stacked already, or an output of the loop.
#[derive(Clone, Copy)]
enum Place {
    Slice(usize),
    Output(usize),
}

/// A term that is made after the loop.
enum Later {
    Product(Place, Place),
    Sum(Place),
}

/// What is differentiated of a loop, by number of carry, slice, capture, output.
struct Wanted {
    /// Carries whose cotangents go from iteration to iteration.
    carries: Vec<usize>,
    slices: Vec<usize>,
    captures: Vec<usize>,
    /// Outputs that have a cotangent.
    outputs: Vec<usize>,
}

/// What comes of building the body of the derivative beside the body.
#[derive(Default)]
struct Built {
    /// For each capture the terms that are made after the loop.
    later: Vec<Vec<Later>>,
    /// What the body computes though it is among its inputs, with the number of that.
    given: Vec<(NodeId, usize)>,
    failed: Option<PassError>,
}

impl<'g> Sweep<'g, '_> {
    /// Takes the cotangents of a loop's results to its operands.
    pub(super) fn through_loop(
        &self,
        id: NodeId,
        node: &Node,
        cotangents: Reached<'g>,
        on_path: &HashSet<NodeId>,
        reached: &mut BTreeMap<NodeId, Reached<'g>>,
    ) -> Result<(), PassError> {
        let g = self.builder;
        let depth = self.depth.checked_sub(1).ok_or_else(|| too_deep().at(node.origin.loc()))?;
        let kept = keeping_values(g, g.tensor(id))?;
        let node = &g.with_graph(|graph| graph.node(kept.id()).clone());
        let known = g.with_graph(|graph| {
            graph.scan(node).map(|scan| (Arc::clone(scan.body), kept_values(&scan), scan.n, scan.reverse))
        });
        let Some((body, places, n, reverse)) = known else { return Ok(()) };
        let (n_carries, n_slices) = (node.attrs.size("carries"), node.attrs.size("slices"));
        let operands: Vec<Tensor<'g>> = node.inputs.iter().map(|&input| g.tensor(input)).collect();
        let mut dys: BTreeMap<usize, Vec<Tensor<'g>>> = BTreeMap::new();
        for dy in cotangents {
            dys.entry(dy.member).or_default().push(dy.value);
        }
        let dys: BTreeMap<usize, Tensor<'g>> =
            dys.into_iter().filter_map(|(k, terms)| Some((k, terms.into_iter().reduce(|a, b| a + b)?))).collect();
        let asked: Vec<bool> = operands.iter().map(|x| x.is_float() && on_path.contains(&x.id())).collect();
        let wanted = Wanted::of(&body, (n_carries, n_slices), &asked, &dys);
        if wanted.is_nothing() {
            return Ok(());
        }
        // Carries and slices as the forward body takes them, then what else is kept, and the cotangents of outputs.
        let places: Vec<usize> = places.into_iter().flatten().collect();
        let (carried, dear) = places.split_at(n_carries);
        let item = |&place: &usize| kept.item(place);
        let stacked: Vec<Tensor<'g>> = carried
            .iter()
            .map(item)
            .chain(operands[n_carries..][..n_slices].iter().copied())
            .chain(dear.iter().map(item))
            .chain(wanted.outputs.iter().map(|k| dys[k]))
            .collect();
        let captures = &operands[n_carries + n_slices..];
        let mut over = Loop::new().times(n);
        for k in &wanted.carries {
            over = over.carry(dys.get(k).copied().unwrap_or_else(|| operands[*k].constant_like(0.0)));
        }
        let body = all_keeping_values(&body)?;
        // The terms of captures are not known before the body is built, so it has a carry for each.
        for &k in &wanted.captures {
            over = over.carry(captures[k].constant_like(0.0));
        }
        over = stacked.iter().fold(over, |over, &slice| over.slice(slice));
        over = captures.iter().fold(over, |over, &capture| over.capture(capture));
        over = if reverse { over } else { over.reversed() };
        let mut built = Built::default();
        let before = g.set_origin(Some(gradient_of(node)));
        let made = g.scan(&format!("{}_grad", body.name()), over, |inner, iteration| {
            inner.count_from(g.n_made(), g.limits());
            inner.set_origin(Some(gradient_of(node)));
            let supports = RefCell::default();
            let sweep = Sweep { builder: inner, cx: self.cx, asked: self.asked, cut: true, depth, supports: &supports };
            let made = sweep.body_of_loop(&body, (n_carries, n_slices), dear, &wanted, iteration, &mut built);
            g.spend(inner.n_made().saturating_sub(g.n_made()));
            made.unwrap_or_else(|error| {
                built.failed = Some(error);
                Made { carries: iteration.carries.clone(), outputs: Vec::new() }
            })
        });
        if let Some(error) = built.failed {
            return Err(error);
        }
        self.cx.check_room(g, self.asked)?;
        // Whoever differentiates this loop finds its carries.
        let made = match made.carries.iter().chain(&made.outputs).next().filter(|t| !t.is_poisoned()) {
            None => made,
            Some(of) => {
                let of = g.with_graph(|graph| graph.node(of.id()).inputs[0]);
                let kept = keeping_values(g, reading(g, g.tensor(of), &built.given)?)?;
                let items = |from: usize, n: usize| (from..from + n).map(|k| kept.item(k)).collect();
                let (n_carries, n_outputs) = (made.carries.len(), made.outputs.len());
                Looped { carries: items(0, n_carries), outputs: items(n_carries, n_outputs) }
            }
        };
        let mut reach = |operand: usize, value: Tensor<'g>| {
            reached.entry(node.inputs[operand]).or_default().push(Cotangent::of(value, Support::Everywhere));
        };
        for (place, &k) in wanted.carries.iter().enumerate().filter(|(_, k)| asked[**k]) {
            reach(k, made.carries[place]);
        }
        for (place, &k) in wanted.slices.iter().enumerate() {
            reach(n_carries + k, made.outputs[place]);
        }
        let rows = |place: Place| {
            let all = match place {
                Place::Slice(k) => stacked[k],
                Place::Output(k) => made.outputs[wanted.slices.len() + k],
            };
            let shape = all.shape();
            all.reshape([shape[0] * shape[1]].into_iter().chain(shape[2..].iter().copied()).collect::<Shape>())
        };
        for (place, (&k, later)) in wanted.captures.iter().zip(&built.later).enumerate() {
            let chain = made.carries[wanted.carries.len() + place];
            let terms = later.iter().map(|term| match *term {
                Later::Product(a, b) => rows(a).matmul_with(rows(b), true, false),
                Later::Sum(a) => rows(a).sum_over([0]),
            });
            // A chain without terms is its start, 0, which nothing adds.
            let sum = terms.reduce(|a, b| a + b);
            let is_chain = g.with_graph(|graph| carries_on(graph, chain.id(), wanted.carries.len() + place));
            let value = match sum {
                Some(sum) if is_chain => chain + sum,
                Some(sum) => sum,
                None if is_chain => chain,
                None => continue,
            };
            reach(n_carries + n_slices + k, value);
        }
        g.set_origin(before);
        Ok(())
    }

    /// One iteration of the derivative. `dear` are the places of what else is kept among the forward body's results.
    fn body_of_loop(
        &self,
        body: &Graph,
        (n_carries, n_slices): (usize, usize),
        dear: &[usize],
        wanted: &Wanted,
        iteration: &Iteration<'g>,
        built: &mut Built,
    ) -> Result<Made<'g>, PassError> {
        let g = self.builder;
        let inputs: Vec<Tensor<'g>> =
            iteration.slices[..n_carries + n_slices].iter().chain(&iteration.captures).copied().collect();
        let results = inline_body(g, body, &inputs);
        let carried = wanted.carries.iter().zip(&iteration.carries).map(|(&k, &dy)| (results[k].id(), dy));
        let given = &iteration.slices[n_carries + n_slices + dear.len()..];
        let given = wanted.outputs.iter().zip(given).map(|(&k, &dy)| (results[k].id(), dy));
        let seeds = carried.chain(given).map(|(id, dy)| (id, Cotangent::of(dy, Support::Everywhere)));
        let seeds: Vec<_> = seeds.collect();
        let places = wanted.carries.iter().copied().chain(wanted.slices.iter().map(|k| n_carries + k));
        let places: Vec<usize> = places.chain(wanted.captures.iter().map(|k| n_carries + n_slices + k)).collect();
        let mut ends: Vec<NodeId> = places.iter().map(|&k| inputs[k].id()).collect();
        ends.sort_unstable();
        ends.dedup();
        let found = self.run(seeds, &ends)?;
        let cotangent = |k: usize| found.get(&inputs[k].id()).map(|cotangent: &Cotangent<'g>| cotangent.value);
        let or_zero = |k: usize| cotangent(k).unwrap_or_else(|| inputs[k].constant_like(0.0));
        let mut carries: Vec<Tensor<'g>> = wanted.carries.iter().map(|&k| or_zero(k)).collect();
        let mut outputs: Vec<Tensor<'g>> = wanted.slices.iter().map(|&k| or_zero(n_carries + k)).collect();
        let n_before = outputs.len();
        let mut slices: HashMap<NodeId, usize> =
            iteration.slices.iter().enumerate().map(|(k, t)| (t.id(), k)).collect();
        for (k, &place) in dear.iter().enumerate() {
            slices.insert(results[place].id(), n_carries + n_slices + k);
            built
                .given
                .push((results[place].id(), wanted.carries.len() + wanted.captures.len() + n_carries + n_slices + k));
        }
        let mut place = |t: Tensor<'g>| {
            slices.get(&t.id()).map(|&k| Place::Slice(k)).unwrap_or_else(|| {
                let known = outputs[n_before..].iter().position(|other| other.id() == t.id());
                Place::Output(known.unwrap_or_else(|| {
                    outputs.push(t);
                    outputs.len() - 1 - n_before
                }))
            })
        };
        for (number, &k) in wanted.captures.iter().enumerate() {
            let (mut chain, mut made_later) = (iteration.carries[wanted.carries.len() + number], Vec::new());
            let mut todo: Vec<Tensor<'g>> = cotangent(n_carries + n_slices + k).into_iter().collect();
            while let Some(t) = todo.pop() {
                let (node, operands) = parts(g, t);
                if node.is(&ADD) {
                    todo.extend(operands.into_iter().rev());
                    continue;
                }
                match term(&node, t, &operands) {
                    Term::Chain(t) => chain += t,
                    Term::Product(a, b) => made_later.push(Later::Product(place(a), place(b))),
                    Term::Sum(a) => made_later.push(Later::Sum(place(a))),
                }
            }
            carries.push(chain);
            built.later.push(made_later);
        }
        Ok(Made { carries, outputs })
    }
}

/// A node and its operands.
fn parts<'g>(g: &'g GraphBuilder, t: Tensor<'g>) -> (Node, Vec<Tensor<'g>>) {
    let node = g.with_graph(|graph| graph.node(t.id()).clone());
    let operands = node.inputs.iter().map(|&input| g.tensor(input)).collect();
    (node, operands)
}

/// What becomes of a term of a capture's cotangent.
fn term<'g>(node: &Node, t: Tensor<'g>, operands: &[Tensor<'g>]) -> Term<'g> {
    let flags = |attrs: &Attrs| (attrs.bool("ta"), attrs.bool("tb"));
    if node.is(&MATMUL) && flags(&node.attrs) == (true, false) && operands[0].rank() == 2 {
        return Term::Product(operands[0], operands[1]);
    }
    if node.is(&REDUCE_SUM) && node.attrs.ints("axes") == [0] && operands[0].rank() > 1 {
        return Term::Sum(operands[0]);
    }
    Term::Chain(t)
}

/// Whether a loop changes a carry at all, of which this is the last value.
fn carries_on(graph: &Graph, item: NodeId, carry: usize) -> bool {
    let scan = graph.node(item).inputs.first().and_then(|&of| graph.scan(graph.node(of)));
    scan.is_none_or(|scan| scan.body.inputs().nth(carry).map(|(id, _)| id) != Some(scan.body.outputs()[carry].value))
}

impl Wanted {
    /// Nothing comes in, or nothing goes out.
    fn is_nothing(&self) -> bool {
        self.carries.is_empty() && (self.outputs.is_empty() || self.slices.is_empty() && self.captures.is_empty())
    }

    /// What has a cotangent and something to hand it to.
    fn of(
        body: &Graph,
        (n_carries, n_slices): (usize, usize),
        asked: &[bool],
        dys: &BTreeMap<usize, Tensor<'_>>,
    ) -> Self {
        let inputs: Vec<NodeId> = body.inputs().map(|(id, _)| id).collect();
        let is_float = |k: usize| body.ty(inputs[k]).dtype().is_float();
        // Which inputs each output is made of.
        let made_of: Vec<Vec<bool>> =
            body.outputs().iter().map(|output| made_of(body, output.value, &inputs)).collect();
        let (mut moves, mut counts) = (asked.to_vec(), vec![false; n_carries]);
        for &k in dys.keys().filter(|k| **k < n_carries) {
            counts[k] = is_float(k);
        }
        loop {
            let before = (moves.clone(), counts.clone());
            for k in (0..n_carries).filter(|&k| is_float(k)) {
                moves[k] |= made_of[k].iter().zip(&before.0).any(|(reads, moves)| *reads && *moves);
                let feeds = |output: usize| made_of[output][k] && (output >= n_carries && dys.contains_key(&output));
                let carries_on = |output: usize| output < n_carries && made_of[output][k] && before.1[output];
                counts[k] |= (0..made_of.len()).any(|output| feeds(output) || carries_on(output));
            }
            if before == (moves.clone(), counts.clone()) {
                break;
            }
        }
        let carries: Vec<usize> = (0..n_carries).filter(|&k| moves[k] && counts[k]).collect();
        let outputs: Vec<usize> = dys.keys().copied().filter(|&k| k >= n_carries).collect();
        let ends = |from: usize, to: usize| (from..to).filter(|&k| asked[k]).map(|k| k - from).collect::<Vec<usize>>();
        let n_taken = n_carries + n_slices;
        Wanted { carries, outputs, slices: ends(n_carries, n_taken), captures: ends(n_taken, inputs.len()) }
    }
}

/// Which inputs of a body a value is made of.
fn made_of(body: &Graph, value: NodeId, inputs: &[NodeId]) -> Vec<bool> {
    let mut seen = vec![false; value.index() + 1];
    seen[value.index()] = true;
    for i in (0..seen.len()).rev().filter(|&i| seen[i]).collect::<Vec<_>>() {
        let mut stack = vec![NodeId(i as u32)];
        while let Some(id) = stack.pop() {
            for &input in &body.node(id).inputs {
                if !std::mem::replace(&mut seen[input.index()], true) {
                    stack.push(input);
                }
            }
        }
    }
    inputs.iter().map(|id| seen.get(id.index()).copied().unwrap_or(false)).collect()
}
