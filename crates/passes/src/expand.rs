//! `expand`: composites become what they are made of, until only primitives are left.
//!
//! Calls are inlined, tuples taken apart, and the ends of gradients (`stop_gradient`) have done their work. A composite
//! from another crate whose expansion holds `grad` is differentiated in turn.

use std::sync::Arc;

use cotangent_graph::expand::{MAX_EXPANSION_DEPTH, too_deep};
use cotangent_graph::ops::region::TUPLE;
use cotangent_graph::{Attrs, Graph, GraphBuilder, Lower, Stage, Tensor};

use crate::dce::without_dead;
use crate::differentiate::differentiate;
use crate::pass::{Pass, PassCx, PassError};
use crate::rebuild::{Copier, expand_in, kept, origin_of};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct Expand;

impl Pass for Expand {
    fn name(&self) -> &'static str {
        "expand"
    }

    fn purpose(&self) -> &'static str {
        "Replaces composites and calls by what they are made of; only primitives are left."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Differentiated, Stage::Primitive)
    }

    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        let expanded = expand(graph, cx)?;
        let current = expanded.as_ref().unwrap_or(graph);
        // Calls are gone; what bodies are left are those of loops.
        let mut bodies = Vec::with_capacity(current.bodies().len());
        let mut changed = false;
        for body in current.bodies() {
            let new = self.run(body, cx)?;
            changed |= new.is_some();
            bodies.push(new.map_or_else(|| Arc::clone(body), Arc::new));
        }
        if !changed {
            return Ok(expanded);
        }
        let builder = GraphBuilder::like(current);
        let mut copier = Copier::new(current, &bodies, &builder);
        for id in copier.order() {
            copier.copy(id);
        }
        copier.outputs();
        Ok(Some(builder.into_graph()?))
    }
}

/// Without its bodies.
fn expand(graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
    let mut current: Option<Graph> = None;
    for _ in 0..=MAX_EXPANSION_DEPTH {
        cx.begin();
        let graph = current.as_ref().unwrap_or(graph);
        let live = kept(graph);
        let lower = |f: fn(&Lower) -> bool| {
            live.iter().map(|&id| graph.node(id)).any(|node| f(&node.op.lower) && !graph.is_of_loop(node))
        };
        let next = if lower(|l| matches!(l, Lower::Grad)) {
            differentiate(graph, cx)?
        } else if lower(|l| matches!(l, Lower::Expand(_) | Lower::Tuple | Lower::Item | Lower::Identity)) {
            Some(expand_once(graph, cx)?)
        } else {
            // What is left over is dead, but the promise of the stage holds for every node.
            without_dead(graph)?
        };
        match next {
            Some(next) => current = Some(next),
            None => return Ok(current),
        }
    }
    Err(too_deep().into())
}

fn expand_once(graph: &Graph, cx: &mut PassCx<'_>) -> Result<Graph, PassError> {
    cx.rounds += 1;
    let builder = cx.builder(graph);
    let mut copier = Copier::new(graph, graph.bodies(), &builder);
    for id in copier.order() {
        let node = graph.node(id);
        let tensor = match &node.op.lower {
            Lower::Expand(_) => {
                cx.count(node.op.name);
                builder.set_origin(Some(origin_of(node, "expand")));
                let results = expand_in(&builder, node, graph.bodies(), &copier.operands(id))?;
                one_value(&builder, &results)
            }
            Lower::Identity => copier.operands(id)[0],
            Lower::Item => {
                builder.set_origin(Some(origin_of(node, "expand")));
                copier.operands(id)[0].item(node.attrs.size("index"))
            }
            _ => copier.copy(id),
        };
        cx.check_room(&builder, node)?;
        copier.set(id, tensor);
    }
    copier.outputs();
    // An ill-typed expansion is a mistake in the record of an op.
    cx.finish(builder, "expand")
}

/// Several results as one value; `item` takes the tuple apart again.
fn one_value<'g>(builder: &'g GraphBuilder, results: &[Tensor<'g>]) -> Tensor<'g> {
    match results {
        [one] => *one,
        several => builder.op(&TUPLE, several, Attrs::none(), None),
    }
}
