//! A program at its stages: as text, as Graphviz text, as a picture.

use std::fmt;

use cotangent_graph::dot::{DotOptions, dot};
use cotangent_graph::notebook::{display, is_drawn};
use cotangent_graph::picture::svg;
use cotangent_graph::text::print::{Style, print};
use cotangent_graph::{Graph, NodeId};
use cotangent_host::Bytes;
use cotangent_scalar::plain;

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

/// A line: what it takes, gives and changes in a step, and how.
impl fmt::Display for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = self.plan.figures();
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let stored = self.stored().map(|(_, ty)| ty.n_bytes()).sum();
        write!(
            f,
            "@{}: {} in, {} out, {} of parameters and states; {} ({}, {}), arena {}, {} code",
            plain(self.source.name()),
            count(self.inputs().count(), "input"),
            count(self.plan.outputs.len(), "result"),
            Bytes(stored),
            count(self.plan.steps.len(), "step"),
            count(figures.n_kernels, "kernel"),
            count(figures.n_products, "product"),
            Bytes(figures.arena_bytes),
            self.backend(),
        )
    }
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

    /// Shows the program in a notebook: its figures, and after the passes as a picture in which what shares a kernel has one color.
    pub fn evcxr_display(&self) {
        let picture = is_drawn(&self.optimized).then(|| self.svg(StageView::Fused));
        print!("{}", display(&format!("{self}\n{}", self.plan_text()), picture.as_deref()));
    }

    /// The graph at a stage in text form, with the user's lines as comments.
    pub fn text(&self, stage: StageView) -> String {
        let graph = if stage == StageView::Source { &self.source } else { &self.optimized };
        print(graph, Style { origins: true })
    }
}
