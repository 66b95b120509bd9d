//! What notebooks show of a graph: `evcxr`, the Rust kernel of Jupyter, asks a value that is the last line of a cell for
//! `evcxr_display`, and takes from its output whatever stands between marks.

use std::fmt::Write;

use crate::dot::DotOptions;
use crate::ir::Graph;
use crate::picture::svg;

/// Nodes of the largest graph that is drawn; a larger one is told in text.
const MOST_DRAWN: usize = 400;

/// What is printed for a notebook: a text, and a picture if there is one. The notebook shows the richest that it can.
pub fn display(text: &str, picture: Option<&str>) -> String {
    let mut out = String::new();
    let blocks = [("text/plain", Some(text)), ("image/svg+xml", picture)];
    for (kind, content) in blocks.into_iter().filter_map(|(kind, content)| Some((kind, content?))) {
        let _ = writeln!(out, "EVCXR_BEGIN_CONTENT {kind}\n{}\nEVCXR_END_CONTENT", content.trim_end());
    }
    out
}

/// Whether a graph is small enough to be drawn.
pub fn is_drawn(graph: &Graph) -> bool {
    graph.n_nodes() <= MOST_DRAWN
}

impl Graph {
    /// Shows the graph in a notebook, as a picture.
    pub fn evcxr_display(&self) {
        let picture = is_drawn(self).then(|| svg(self, &DotOptions::default()));
        print!("{}", display(&self.to_string(), picture.as_deref()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_stand_between_marks() {
        let text = display("a\nb\n", Some("<svg></svg>\n"));
        let expected = "EVCXR_BEGIN_CONTENT text/plain\na\nb\nEVCXR_END_CONTENT\n\
                        EVCXR_BEGIN_CONTENT image/svg+xml\n<svg></svg>\nEVCXR_END_CONTENT\n";
        assert_eq!(text, expected);
        assert_eq!(display("a", None).matches("EVCXR_BEGIN_CONTENT").count(), 1);
    }
}
