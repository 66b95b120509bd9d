//! A program at its stages: as text, as Graphviz text, as a picture.

use cotangent_graph::dot::{DotOptions, dot};
use cotangent_graph::picture::svg;
use cotangent_graph::text::print::{Style, print};
use cotangent_graph::{Graph, NodeId};

use crate::compile::Executable;

/// A stage of a program that can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StageView {
    /// As built.
    Source,
    /// After the passes.
    Optimized,
    /// After the passes, with boxes around what runs in one kernel.
    Fused,
}

impl Executable {
    /// The graph at a stage in Graphviz form.
    pub fn dot(&self, stage: StageView) -> String {
        let (graph, options) = self.drawn(stage);
        dot(graph, &options)
    }

    /// The graph at a stage as a picture in SVG, for which no other program is needed.
    pub fn svg(&self, stage: StageView) -> String {
        let (graph, options) = self.drawn(stage);
        svg(graph, &options)
    }

    fn drawn(&self, stage: StageView) -> (&Graph, DotOptions) {
        match stage {
            StageView::Source => (&self.source, DotOptions::default()),
            StageView::Optimized => (&self.optimized, DotOptions::default()),
            StageView::Fused => {
                let label = |(k, nodes): (usize, Vec<NodeId>)| (format!("kernel {k}"), nodes);
                let clusters = self.drawn_clusters().into_iter().enumerate().map(label).collect();
                (&self.optimized, DotOptions { clusters, ..DotOptions::default() })
            }
        }
    }

    /// The clusters, each with the views, constants and recomputed values that it alone reads.
    fn drawn_clusters(&self) -> Vec<Vec<NodeId>> {
        let graph = &self.optimized;
        let mut clusters = self.plan.clusters.clone();
        let mut of: Vec<Option<usize>> = vec![None; graph.n_nodes()];
        for (k, nodes) in clusters.iter().enumerate() {
            nodes.iter().for_each(|n| of[n.index()] = Some(k));
        }
        let readers = graph.readers();
        for id in graph.ids().rev() {
            let named = graph.node(id).op.is_named();
            let Some(&first) = readers[id.index()].first().filter(|_| !named && of[id.index()].is_none()) else {
                continue;
            };
            let Some(k) = of[first.index()] else { continue };
            if readers[id.index()].iter().all(|r| of[r.index()] == Some(k)) {
                of[id.index()] = Some(k);
                clusters[k].push(id);
            }
        }
        clusters
    }

    /// The graph at a stage in text form, with the user's lines as comments.
    pub fn text(&self, stage: StageView) -> String {
        let graph = if stage == StageView::Source { &self.source } else { &self.optimized };
        print(graph, Style { origins: true })
    }
}
