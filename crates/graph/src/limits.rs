//! What a graph may grow to.
//!
//! It exists because a short text can ask for a graph without end: bodies that call bodies multiply with every level, and so
//! do gradients of gradients. Whoever makes graphs of graphs (passes, the interpreter) counts what it makes, and ends with
//! an error of the user where that is more than these limits allow.

use crate::diag::{Code, Diag, Loc};

/// How large the graphs may become that are made of one graph.
///
/// ```
/// use cotangent_graph::Limits;
///
/// let more = Limits { max_nodes: 1 << 24, ..Limits::default() };
/// assert!(more.max_nodes > Limits::default().max_nodes);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes that a pass may make of a graph and its bodies at one go, those that are merged with equal ones included; an
    /// operand beyond a node's third counts like a node. Also the nodes that the interpreter may evaluate inside of calls,
    /// composites and differences.
    pub max_nodes: usize,
}

impl Default for Limits {
    /// 2²⁰ (about a million) nodes.
    fn default() -> Self {
        Limits { max_nodes: 1 << 20 }
    }
}

impl Limits {
    /// What a node of so many operands counts.
    pub fn cost(n_operands: usize) -> usize {
        1 + n_operands.saturating_sub(3)
    }

    /// The error that more nodes are asked for.
    pub fn too_many_nodes(&self, at: Loc) -> Diag {
        let text = format!("more than {} nodes would be made of this graph", self.max_nodes);
        let help = "calls of bodies that call bodies, and gradients of gradients, multiply; if it is meant to be so large, \
                    allow more: `Compiler::limits`, on the command line `--max-nodes`";
        Diag::new(Code::TooManyNodes, text).at(at).help(help)
    }
}
