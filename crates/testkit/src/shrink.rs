//! Making a failing graph small: greedy delta debugging.
//!
//! Every candidate is well formed by construction, so that the failure seen is the failure sought. Sources keep their
//! names and types; a closure that needs values takes them from [`crate::random::env`].

use cotangent_graph::{Graph, NodeId, Output, Role};

use crate::copy::{add_input, clean, copy};

/// The most candidates that are tried.
const MAX_TRIALS: usize = 4000;

/// A graph that still `fails`, from which nothing more can be taken: no output, and no node by putting one of its operands
/// or an input in its place. The graph itself if it does not fail.
pub fn shrink(graph: &Graph, fails: impl Fn(&Graph) -> bool) -> Graph {
    let mut best = graph.clone();
    let mut trials = 0;
    let cleaned = clean(graph);
    if fails(&cleaned) {
        best = cleaned;
    } else if !fails(graph) {
        return best;
    }
    loop {
        let before = weight(&best);
        let mut accept = |candidate: Graph, best: &mut Graph| {
            trials += 1;
            let better = trials <= MAX_TRIALS && weight(&candidate) < weight(best) && fails(&candidate);
            if better {
                *best = candidate;
            }
            better
        };
        drop_outputs(&mut best, &mut accept);
        cut_nodes(&mut best, &mut accept);
        lift_outputs(&mut best, &mut accept);
        if weight(&best) == before {
            return best;
        }
    }
}

/// What shrinking lowers: computed nodes first, then sources, outputs and operands, then updates.
fn weight(graph: &Graph) -> (usize, usize, usize, usize) {
    let n_sources = graph.nodes().iter().filter(|n| n.inputs.is_empty()).count();
    let n_edges = graph.nodes().iter().map(|n| n.inputs.len()).sum::<usize>();
    let n_updates = graph.outputs().iter().filter(|o| o.role != Role::Result).count();
    (graph.n_nodes() - n_sources, n_sources + graph.outputs().len(), n_edges, n_updates)
}

type Accept<'a> = dyn FnMut(Graph, &mut Graph) -> bool + 'a;

fn drop_outputs(best: &mut Graph, accept: &mut Accept<'_>) {
    let mut k = 0;
    while best.outputs().len() > 1 && k < best.outputs().len() {
        let candidate = copy(best, |i, output| (i != k).then(|| output.clone()), |_, _, _| None);
        if !accept(candidate, best) {
            k += 1;
        }
    }
}

/// Puts an operand of equal type, or an input, in the place of each computed node, the last first; if what is below it is needed, an
/// input, with its operands as results.
fn cut_nodes(best: &mut Graph, accept: &mut Accept<'_>) {
    let mut next = best.n_nodes();
    while next > 0 {
        next -= 1;
        let id = NodeId(next as u32);
        let node = best.node(id).clone();
        if node.inputs.is_empty() {
            continue;
        }
        let operand = node.inputs.iter().position(|input| best.ty(*input) == &node.ty);
        let by_operand =
            operand.map(|k| copy(best, |_, o| Some(o.clone()), |_, at, node| (at == id).then(|| node.inputs[k])));
        let mut done = by_operand.is_some_and(|candidate| accept(candidate, best));
        if !done && node.ty.as_tensor().is_some() {
            let name = fresh_name(best);
            let mut operands = Vec::new();
            let mut by_input = copy(
                best,
                |_, o| Some(o.clone()),
                |out, at, node| {
                    (at == id).then(|| {
                        operands = node.inputs.to_vec();
                        add_input(out, &name, node.ty.clone())
                    })
                },
            );
            done = accept(clean(&by_input), best);
            operands.retain(|operand| by_input.ty(*operand).as_tensor().is_some());
            if !done && !operands.is_empty() {
                for (k, &value) in operands.iter().enumerate() {
                    // A graph that refuses a result is no smaller graph.
                    let name = format!("{name}_{k}").into();
                    let _ = by_input.add_output(Output { name, value, role: Role::Result });
                }
                done = accept(clean(&by_input), best);
            }
        }
        if done {
            next = next.min(best.n_nodes());
        }
    }
}

/// Makes a result of an update, and an operand of a result, or a check, the result.
fn lift_outputs(best: &mut Graph, accept: &mut Accept<'_>) {
    let mut k = 0;
    while k < best.outputs().len() {
        let output = best.outputs()[k].clone();
        let replacements: Vec<Output> = match output.role {
            Role::Update(_) => vec![Output { name: format!("update{k}").into(), role: Role::Result, ..output }],
            Role::Result => {
                let operands = best.node(output.value).inputs.iter().chain(best.checks());
                let operands = operands.filter(|id| best.ty(**id).as_tensor().is_some());
                operands.map(|&value| Output { value, ..output.clone() }).collect()
            }
        };
        let lifted = replacements.into_iter().any(|new| {
            let keep = |i: usize, o: &Output| Some(if i == k { new.clone() } else { o.clone() });
            let candidate = copy(best, keep, |_, _, _| None);
            accept(candidate, best)
        });
        k += usize::from(!lifted);
    }
}

fn fresh_name(graph: &Graph) -> String {
    let taken = |name: &str| graph.source(name).is_some();
    (0..).map(|k| format!("cut{k}")).find(|name| !taken(name)).unwrap_or_default()
}
