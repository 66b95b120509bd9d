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
                let clusters = self.plan.drawn_clusters(&self.optimized).into_iter().enumerate().map(label).collect();
                (&self.optimized, DotOptions { clusters, ..DotOptions::default() })
            }
        }
    }

    /// The graph at a stage in text form, with the user's lines as comments.
    pub fn text(&self, stage: StageView) -> String {
        let graph = if stage == StageView::Source { &self.source } else { &self.optimized };
        print(graph, Style { origins: true })
    }
}
