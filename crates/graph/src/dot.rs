//! Graphs as Graphviz text.
//!
//! Our own writer, because clusters need subgraphs. Nodes carry the numbers of the text form, so a picture and a text can
//! be read side by side; equal graphs give equal text. The color tells what a node does, a dashed edge is an update.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use cotangent_scalar::plain::is_hidden;

use crate::attrs::Attr;
use crate::ir::{Graph, Node, NodeId, Role, Walk};
use crate::op::{Lower, OpTraits, Source};
use crate::ops::source::NAME;
use crate::text::print::{attr, post_order};

/// What is drawn besides the nodes.
#[derive(Clone, Debug, Default)]
pub struct DotOptions {
    /// Groups of nodes that are framed together, with their labels. A node in several groups stands in the first.
    pub clusters: Vec<(String, Vec<NodeId>)>,
    /// Further lines in the labels of nodes, for example values.
    pub annotations: HashMap<NodeId, String>,
}

/// The Graphviz text of a graph. Nodes that no output needs are left out, except inputs.
pub fn dot(graph: &Graph, options: &DotOptions) -> String {
    let mut out = format!("digraph {} {{\n", quoted(graph.name()));
    out.push_str("  rankdir=TB;\n");
    out.push_str("  node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", fontsize=10];\n");
    out.push_str("  edge [fontname=\"Helvetica\", fontsize=8, arrowsize=0.7];\n");
    // The prefixes of the graphs that are open: bodies are numbered through.
    let (mut prefixes, mut n_bodies, inside) = (Vec::new(), 0, DotOptions::default());
    graph.walk(|station| match station {
        Walk::Enter(_, None) => prefixes.push(String::new()),
        Walk::Enter(body, Some(k)) => {
            let label = quoted(&format!("body {k} @{}", body.name()));
            let _ = writeln!(out, "  subgraph \"cluster_body{n_bodies}\" {{\n  label={label};");
            prefixes.push(format!("b{n_bodies}_"));
            n_bodies += 1;
        }
        Walk::Leave(graph) => {
            let prefix = prefixes.pop().unwrap_or_default();
            draw(graph, if prefixes.is_empty() { options } else { &inside }, &prefix, "  ", &mut out);
            if !prefixes.is_empty() {
                out.push_str("  }\n");
            }
        }
    });
    out.push_str("}\n");
    out
}

fn draw(graph: &Graph, options: &DotOptions, prefix: &str, indent: &str, out: &mut String) {
    let order = post_order(graph);
    let number: HashMap<NodeId, usize> = order.iter().enumerate().map(|(n, &id)| (id, n)).collect();
    let mut placed = HashSet::new();
    for (k, (label, members)) in options.clusters.iter().enumerate() {
        let _ = writeln!(out, "{indent}subgraph \"cluster_{prefix}{k}\" {{");
        let _ = writeln!(out, "{indent}  label={};\n{indent}  color=\"#888888\";", quoted(label));
        for id in members.iter().filter(|id| number.contains_key(id)) {
            if placed.insert(*id) {
                draw_node(graph, *id, &number, options, prefix, &format!("{indent}  "), out);
            }
        }
        let _ = writeln!(out, "{indent}}}");
    }
    for id in order.iter().filter(|id| !placed.contains(*id)) {
        draw_node(graph, *id, &number, options, prefix, indent, out);
    }
    for id in &order {
        let node = graph.node(*id);
        let ordered = node.inputs.len() > 1 && !node.op.traits.has(OpTraits::COMMUTATIVE);
        for (k, input) in node.inputs.iter().enumerate() {
            let label = if ordered { format!(" [label=\"{k}\"]") } else { String::new() };
            let _ = writeln!(out, "{indent}\"{prefix}{}\" -> \"{prefix}{}\"{label};", number[input], number[id]);
        }
    }
    for (k, output) in graph.outputs().iter().enumerate() {
        let value = number[&output.value];
        let _ = match output.role {
            Role::Result => {
                let label = quoted(&output.name);
                let style = "shape=oval, fillcolor=\"#ffffff\"";
                let _ = writeln!(out, "{indent}\"{prefix}out{k}\" [label={label}, {style}];");
                writeln!(out, "{indent}\"{prefix}{value}\" -> \"{prefix}out{k}\";")
            }
            Role::Update(target) => {
                let style = "style=dashed, color=\"#c0392b\", constraint=false, label=\"update\"";
                writeln!(out, "{indent}\"{prefix}{value}\" -> \"{prefix}{}\" [{style}];", number[&target])
            }
        };
    }
}

fn draw_node(
    graph: &Graph,
    id: NodeId,
    number: &HashMap<NodeId, usize>,
    options: &DotOptions,
    prefix: &str,
    indent: &str,
    out: &mut String,
) {
    let (label, color) = (label(graph, id, number, options), color(graph.node(id)));
    let _ = writeln!(out, "{indent}\"{prefix}{}\" [label={}, fillcolor=\"{color}\"];", number[&id], quoted(&label));
}

/// What is written into a node's box: its number and op, its type, attributes, and what was added.
pub(crate) fn label(graph: &Graph, id: NodeId, number: &HashMap<NodeId, usize>, options: &DotOptions) -> String {
    let node = graph.node(id);
    let mut label = format!("%{} {}", number[&id], node.op.name);
    if let Some(name) = node.attrs.get(NAME.name).and(Some(node.attrs.str(NAME.name))) {
        let _ = write!(label, " {name}");
    }
    let attrs = attributes(graph, node);
    let _ = write!(label, "\n{}", node.ty);
    if !attrs.is_empty() {
        let _ = write!(label, "\n{attrs}");
    }
    if let Some(text) = options.annotations.get(&id) {
        let _ = write!(label, "\n{text}");
    }
    label
}

/// The attributes of a node in a line, but for its name and what is `false`; long constants are left out.
pub fn attributes(graph: &Graph, node: &Node) -> String {
    let shown = node.attrs.iter().filter(|(name, value)| *name != NAME.name && **value != Attr::Bool(false));
    shown.map(|(name, value)| format!("{name}={}", short(graph, value))).collect::<Vec<_>>().join(" ")
}

/// The color of a node, by what it does.
pub fn color(node: &Node) -> &'static str {
    match &node.op.lower {
        Lower::Source(Source::Input) => "#d4e6f1",
        Lower::Source(Source::Param | Source::State) => "#f9e79f",
        Lower::Source(_) => "#eaecee",
        Lower::Scalar(_) | Lower::Identity | Lower::Check(_) => "#d5f5e3",
        Lower::Reduce(_) => "#fadbd8",
        Lower::Gemm | Lower::Conv(_) => "#e8daef",
        Lower::View(_) | Lower::Join => "#f4f6f7",
        Lower::Step(_) | Lower::Loop => "#fdebd0",
        Lower::Expand(_) => "#d1f2eb",
        Lower::Tuple | Lower::Item | Lower::Grad => "#ffffff",
    }
}

/// An attribute's value; long ones are left out.
fn short(graph: &Graph, value: &Attr) -> String {
    match value {
        Attr::Tensor(data) if data.shape().rank() > 0 => "…".into(),
        Attr::Body(id) => graph.bodies().get(id.index()).map_or("?".into(), |body| format!("@{}", body.name())),
        other => attr(other),
    }
}

/// Text as a quoted Graphviz string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // Graphviz has no escape for these, and no label needs them.
            c if is_hidden(c) => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
