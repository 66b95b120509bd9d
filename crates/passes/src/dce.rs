//! `dce`: what no output needs is left out.
//!
//! Inputs stay, so that a step accepts every input that its source declares; parameters and states that nothing reads or
//! updates go.

use cotangent_graph::{Graph, GraphBuilder, Stage};

use crate::pass::{Pass, PassCx, PassError};
use crate::rebuild::{Copier, kept, map_bodies};

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

    fn run(&self, graph: &Graph, cx: &mut PassCx<'_>) -> Result<Option<Graph>, PassError> {
        let (bodies, changed) = map_bodies(graph, |body| self.run(body, cx))?;
        let order = kept(graph);
        if !changed && order.len() == graph.n_nodes() {
            return Ok(None);
        }
        let builder = GraphBuilder::new(graph.name());
        let mut copier = Copier::new(graph, &bodies, &builder);
        for id in order {
            copier.copy(id);
        }
        copier.outputs();
        Ok(Some(builder.into_graph()?))
    }
}
