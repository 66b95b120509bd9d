//! `dce`: what no output needs is left out.
//!
//! Checks of run-time values stay, whoever reads their results. Inputs stay, so that a step accepts every input that its
//! source declares; parameters and states that nothing reads or updates go.

use cotangent_graph::{Attr, Graph, GraphBuilder, NodeId, Stage};

use crate::loops::without_needless;
use crate::pass::{Pass, PassCx, PassError};
use crate::rebuild::{Copier, bottom_up, kept};

/// The pass.
#[derive(Clone, Copy, Debug)]
pub struct Dce;

impl Pass for Dce {
    fn name(&self) -> &'static str {
        "dce"
    }

    fn purpose(&self) -> &'static str {
        "Leaves out what no output needs."
    }

    fn stage(&self) -> (Stage, Stage) {
        (Stage::Source, Stage::Source)
    }

    fn run(&self, graph: &Graph, _: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        let smaller = without_needless(graph)?;
        let live = without_dead(smaller.as_ref().unwrap_or(graph))?;
        Ok(live.or(smaller))
    }
}

/// The graph without what no output needs, or `None` if there is nothing of the kind; in bodies as well.
pub fn without_dead(graph: &Graph) -> Result<Option<Graph>, PassError> {
    bottom_up(graph, |graph, bodies, changed| {
        let order = kept(graph);
        if !changed && order.len() == graph.n_nodes() && all_named(graph, &order) {
            return Ok(None);
        }
        let builder = GraphBuilder::like(graph);
        let mut copier = Copier::new(graph, bodies, &builder);
        for id in order {
            copier.copy(id);
        }
        copier.outputs();
        Ok(Some(builder.into_graph()?))
    })
}

/// Whether some kept node names each body.
fn all_named(graph: &Graph, order: &[NodeId]) -> bool {
    let mut named = vec![false; graph.bodies().len()];
    for &id in order {
        for (_, attr) in graph.node(id).attrs.iter() {
            if let Attr::Body(body) = attr {
                named[body.index()] = true;
            }
        }
    }
    !named.contains(&false)
}
