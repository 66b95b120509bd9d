//! Graphs as pictures in SVG, for whoever has no Graphviz: the nodes in layers, operands above what reads them.
//!
//! Labels and colors are those of the Graphviz text ([`dot()`](crate::dot::dot)). What is framed together there has a border of one
//! color here, and the name of its group above the box. The layout is the plain one of Sugiyama, Tagawa and Toda (1981): a node
//! stands below all its operands, and right above its first reader; layers are ordered by the places of what they are
//! connected with, to and fro; then boxes move towards their neighbors as far as the order lets them. It takes time near-linear in
//! the number of edges, and equal graphs give equal pictures.

use std::collections::HashMap;
use std::fmt::Write;

use crate::dot::{DotOptions, color, label};
use crate::ir::{Graph, NodeId, Role};
use crate::text::print::post_order;

/// Widths and heights, in pixels: of a character and a line of text, between text and border, between boxes, between layers.
const CHARACTER: f64 = 6.1;
const LINE: f64 = 13.0;
const PADDING: f64 = 6.0;
const GAP: f64 = 14.0;
const LAYER_GAP: f64 = 34.0;
/// How often the layers are gone through, down and up.
const SWEEPS: usize = 6;
/// Borders of groups, in turn.
const BORDERS: [&str; 8] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2", "#17becf"];

/// A box on its way to its place.
struct Drawn {
    layer: usize,
    /// The middle.
    x: f64,
    width: f64,
    height: f64,
    /// Boxes above and below that it is connected with.
    above: Vec<usize>,
    below: Vec<usize>,
}

impl Drawn {
    fn new(label: &str) -> Self {
        let longest = label.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let (width, height) =
            (longest as f64 * CHARACTER + 2.0 * PADDING, label.lines().count() as f64 * LINE + 2.0 * PADDING);
        Drawn { layer: 0, x: 0.0, width, height, above: Vec::new(), below: Vec::new() }
    }
}

/// A box of a layout, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Placed {
    /// Its left side.
    pub x: f64,
    /// Its upper side.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Placed {
    fn middle(&self) -> f64 {
        self.x + self.width / 2.0
    }
}

/// Where the boxes of a picture stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// The boxes, in the order of their labels.
    pub boxes: Vec<Placed>,
    /// What all of them take.
    pub width: f64,
    /// The same from top to bottom.
    pub height: f64,
}

/// The layout of boxes with these labels, each below those that edges come from. Edges go from smaller to larger numbers.
pub fn layout(labels: &[String], edges: &[(usize, usize)]) -> Layout {
    let mut boxes: Vec<Drawn> = labels.iter().map(|label| Drawn::new(label)).collect();
    for &(from, to) in edges {
        boxes[from].below.push(to);
        boxes[to].above.push(from);
    }
    let layers = place(&mut boxes);
    let mut tops = Vec::with_capacity(layers.len());
    let mut bottom = GAP;
    for layer in &layers {
        tops.push(bottom);
        bottom += layer.iter().map(|&at| boxes[at].height).fold(0.0, f64::max) + LAYER_GAP;
    }
    let width = boxes.iter().map(|b| b.x + b.width / 2.0).fold(0.0, f64::max) + GAP;
    let placed = |b: Drawn| Placed { x: b.x - b.width / 2.0, y: tops[b.layer], width: b.width, height: b.height };
    Layout { boxes: boxes.into_iter().map(placed).collect(), width, height: bottom }
}

/// The picture of a graph; its bodies stand below it. Nodes that no output needs are left out, except inputs.
///
/// ```
/// use cotangent_graph::DType::F32;
/// use cotangent_graph::dot::DotOptions;
/// use cotangent_graph::{build, picture::svg};
///
/// let graph = build(|g| g.output("y", g.input("x", F32, [8]).tanh().sum()))?;
/// let picture = svg(&graph, &DotOptions::default());
/// assert!(picture.starts_with("<svg") && picture.contains("tanh"));
/// # Ok::<(), cotangent_graph::Diags>(())
/// ```
pub fn svg(graph: &Graph, options: &DotOptions) -> String {
    let mut shapes = String::new();
    let (mut width, mut height) = draw(graph, options, 0.0, &mut shapes);
    for (k, body) in graph.bodies().iter().enumerate() {
        height += LINE;
        text(&mut shapes, GAP, height, "start", "#000000", &format!("body {k} @{}", body.name()));
        let (w, h) = draw(body, &DotOptions::default(), height + PADDING, &mut shapes);
        (width, height) = (width.max(w), h);
    }
    let head = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"10\">\n"
    );
    let arrow = "<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"6\" markerHeight=\"6\" \
                 orient=\"auto\"><path d=\"M0,0 L8,4 L0,8 z\" fill=\"#555555\"/></marker></defs>\n";
    format!("{head}{arrow}<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{shapes}</svg>\n")
}

/// Draws a graph from a height on; the width that it takes, and where it ends.
fn draw(graph: &Graph, options: &DotOptions, top: f64, out: &mut String) -> (f64, f64) {
    let order = post_order(graph);
    let number: HashMap<NodeId, usize> = order.iter().enumerate().map(|(n, &id)| (id, n)).collect();
    let mut labels: Vec<String> = order.iter().map(|&id| label(graph, id, &number, options)).collect();
    let mut groups: Vec<Option<usize>> = vec![None; order.len()];
    for (group, (_, members)) in options.clusters.iter().enumerate() {
        for at in members.iter().filter_map(|id| number.get(id)) {
            groups[*at].get_or_insert(group);
        }
    }
    let mut edges: Vec<(usize, usize)> = Vec::new();
    for (at, &id) in order.iter().enumerate() {
        edges.extend(graph.node(id).inputs.iter().map(|input| (number[input], at)));
    }
    let mut updates = Vec::new();
    for output in graph.outputs() {
        let value = number[&output.value];
        match output.role {
            Role::Update(target) => updates.push((value, number[&target])),
            Role::Result => {
                edges.push((value, labels.len()));
                labels.push(output.name.to_string());
            }
        }
    }
    let Layout { mut boxes, width, height } = layout(&labels, &edges);
    boxes.iter_mut().for_each(|b| b.y += top);
    for (from, to) in edges {
        let (a, b) = (&boxes[from], &boxes[to]);
        let (x, end_x, y, end) = (a.middle(), b.middle(), a.y + a.height, b.y);
        let middle = (y + end) / 2.0;
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1},{y:.1} C{x:.1},{middle:.1} {end_x:.1},{middle:.1} {end_x:.1},{end:.1}\" fill=\"none\" \
             stroke=\"#888888\" marker-end=\"url(#arrow)\"/>"
        );
    }
    for (from, to) in updates {
        let (a, b) = (&boxes[from], &boxes[to]);
        let (y, end) = (a.y + a.height / 2.0, b.y + b.height / 2.0);
        let (right, end_right) = (a.x + a.width, b.x + b.width);
        let side = right.max(end_right) + 2.0 * GAP;
        let _ = writeln!(
            out,
            "<path d=\"M{right:.1},{y:.1} C{side:.1},{y:.1} {side:.1},{end:.1} {end_right:.1},{end:.1}\" fill=\"none\" \
             stroke=\"#c0392b\" stroke-dasharray=\"4 3\" marker-end=\"url(#arrow)\"/>"
        );
    }
    for (at, (shape, lines)) in boxes.iter().zip(&labels).enumerate() {
        let group = groups.get(at).copied().flatten();
        let (fill, round) = order.get(at).map_or(("#ffffff", shape.height / 2.0), |&id| (color(graph.node(id)), 4.0));
        let border = group.map_or("#333333", |group| BORDERS[group % BORDERS.len()]);
        let thick = if group.is_some() { 2 } else { 1 };
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{round:.1}\" fill=\"{fill}\" stroke=\"{border}\" \
             stroke-width=\"{thick}\"/>",
            shape.x, shape.y, shape.width, shape.height
        );
        for (k, line) in lines.lines().enumerate() {
            text(out, shape.middle(), shape.y + PADDING + (k as f64 + 0.75) * LINE, "middle", "#000000", line);
        }
        if let Some((name, _)) = group.and_then(|group| options.clusters.get(group)) {
            text(out, shape.x, shape.y - 3.0, "start", border, name);
        }
    }
    (width + 2.0 * GAP, top + height)
}

/// Gives every box a layer and a place in it; the layers, each from left to right.
fn place(boxes: &mut [Drawn]) -> Vec<Vec<usize>> {
    // Operands have smaller numbers, and so have values in front of results.
    for at in 0..boxes.len() {
        boxes[at].layer = boxes[at].above.iter().map(|&a| boxes[a].layer + 1).max().unwrap_or(0);
    }
    for at in (0..boxes.len()).rev() {
        if let Some(first) = boxes[at].below.iter().map(|&b| boxes[b].layer).min() {
            boxes[at].layer = first - 1;
        }
    }
    let n_layers = boxes.iter().map(|b| b.layer + 1).max().unwrap_or(0);
    let mut layers = vec![Vec::new(); n_layers];
    for (at, shape) in boxes.iter().enumerate() {
        layers[shape.layer].push(at);
    }
    layers.iter().for_each(|layer| pack(boxes, layer, |_| None));
    for sweep in 0..SWEEPS {
        let down = sweep % 2 == 0;
        let wish = |boxes: &[Drawn], at: usize| {
            let near = if down { &boxes[at].above } else { &boxes[at].below };
            let sum: f64 = near.iter().map(|&n| boxes[n].x).sum();
            (!near.is_empty()).then(|| sum / near.len() as f64)
        };
        let visit: Vec<usize> = if down { (0..n_layers).collect() } else { (0..n_layers).rev().collect() };
        for l in visit {
            let wishes: HashMap<usize, f64> =
                layers[l].iter().map(|&at| (at, wish(boxes, at).unwrap_or(boxes[at].x))).collect();
            layers[l].sort_by(|a, b| wishes[a].total_cmp(&wishes[b]));
            pack(boxes, &layers[l], |at| wishes.get(&at).copied());
        }
    }
    let left = boxes.iter().map(|b| b.x - b.width / 2.0).fold(f64::INFINITY, f64::min);
    boxes.iter_mut().for_each(|b| b.x += GAP - left);
    layers
}

/// Places the boxes of a layer in their order, as near to where they would be as they fit: the mean of packing them from both
/// sides.
fn pack(boxes: &mut [Drawn], layer: &[usize], wish: impl Fn(usize) -> Option<f64>) {
    let apart = |boxes: &[Drawn], a: usize, b: usize| (boxes[a].width + boxes[b].width) / 2.0 + GAP;
    let wished: Vec<f64> = layer.iter().map(|&at| wish(at).unwrap_or(0.0)).collect();
    let (mut from_left, mut from_right) = (wished.clone(), wished);
    for k in 1..layer.len() {
        from_left[k] = from_left[k].max(from_left[k - 1] + apart(boxes, layer[k - 1], layer[k]));
    }
    for k in (1..layer.len()).rev() {
        from_right[k - 1] = from_right[k - 1].min(from_right[k] - apart(boxes, layer[k - 1], layer[k]));
    }
    for (k, &at) in layer.iter().enumerate() {
        boxes[at].x = (from_left[k] + from_right[k]) / 2.0;
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, fill: &str, text: &str) {
    let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\">");
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if cotangent_scalar::plain::is_hidden(c) => out.push(' '),
            c => out.push(c),
        }
    }
    out.push_str("</text>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;
    use cotangent_scalar::DType::F32;

    fn placed(n: usize, edges: &[(usize, usize)]) -> Vec<Drawn> {
        let mut boxes: Vec<Drawn> = (0..n).map(|k| Drawn::new(&"x".repeat(1 + k % 7))).collect();
        for &(from, to) in edges {
            boxes[from].below.push(to);
            boxes[to].above.push(from);
        }
        place(&mut boxes);
        boxes
    }

    #[test]
    fn operands_stand_above_and_boxes_do_not_touch() {
        let n = 60;
        let edges: Vec<_> =
            (1..n).flat_map(|to| [(to * 7 % to.max(1), to), (to / 2, to)]).filter(|(a, b)| a < b).collect();
        let boxes = placed(n, &edges);
        assert!(edges.iter().all(|&(from, to)| boxes[from].layer < boxes[to].layer));
        for (a, one) in boxes.iter().enumerate() {
            for other in boxes[a + 1..].iter().filter(|other| other.layer == one.layer) {
                let apart = (one.x - other.x).abs() - (one.width + other.width) / 2.0;
                assert!(apart > 0.9 * GAP, "{apart}");
            }
            assert!(one.x - one.width / 2.0 >= 0.9 * GAP);
        }
    }

    #[test]
    fn names_are_escaped_and_every_node_is_drawn() {
        let graph = build(|g| {
            let x = g.input("a<b>&\u{1b}[31m", F32, [4]);
            g.output("y", x.tanh() + x);
        })
        .unwrap();
        let picture = svg(&graph, &DotOptions::default());
        assert!(picture.contains("a&lt;b&gt;&amp; [31m") && !picture.contains('\u{1b}'), "{picture}");
        // The sheet, three nodes and the result.
        assert_eq!(picture.matches("<rect").count(), 5);
    }
}
