//! The printer: equal graphs print equal text.
//!
//! Nodes are numbered by post-order from the outputs, so the numbers do not depend on the order of construction; nodes
//! that no output needs are not printed, except inputs and checks. Comments give the user's lines. Attributes that are
//! `false` are left out: that is what they are when absent.

use cotangent_host::float::in_default;
use std::fmt::{self, Write};

use cotangent_scalar::DType;

use crate::attrs::Attr;
use crate::ir::{Graph, NodeId, Role, Walk};
use crate::ops::source::NAME;
use crate::tensor::TensorData;

/// How a graph is printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Whether nodes carry their origin as a comment.
    pub origins: bool,
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self, Style::default()))
    }
}

/// The text form of a graph, version line included.
pub fn print(graph: &Graph, style: Style) -> String {
    let mut out = format!("cotangent {}\n", super::VERSION);
    // Constants are converted on the way.
    in_default(|| {
        let mut depth = 0;
        graph.walk(|station| match station {
            Walk::Enter(graph, number) => {
                let keyword = number.map_or("graph".to_owned(), |k| format!("body {k}"));
                let name = graph.name();
                let name = if super::is_plain(name) { name.to_string() } else { format!("{name:?}") };
                let _ = writeln!(out, "{}{keyword} @{name} {{", indent(depth));
                depth += 1;
            }
            Walk::Leave(graph) => {
                statements(graph, style, &indent(depth), &mut out);
                depth -= 1;
                let _ = writeln!(out, "{}}}", indent(depth));
            }
        });
    });
    out
}

/// The nodes that outputs and checks need, in post-order.
pub fn post_order(graph: &Graph) -> Vec<NodeId> {
    let mut order = Vec::new();
    let mut done = vec![false; graph.n_nodes()];
    let visit = |root: NodeId, done: &mut Vec<bool>, order: &mut Vec<NodeId>| {
        let mut stack = vec![(root, 0)];
        while let Some((id, next)) = stack.pop() {
            if done[id.index()] {
                continue;
            }
            match graph.node(id).inputs.get(next) {
                Some(&input) => {
                    stack.push((id, next + 1));
                    stack.push((input, 0));
                }
                None => {
                    done[id.index()] = true;
                    order.push(id);
                }
            }
        }
    };
    // The operands of a call are bound by position, so unused inputs of a body must be printed, and in order.
    for (id, _) in graph.inputs() {
        visit(id, &mut done, &mut order);
    }
    for output in graph.outputs() {
        visit(output.value, &mut done, &mut order);
        if let Role::Update(target) = output.role {
            visit(target, &mut done, &mut order);
        }
    }
    for &check in graph.checks() {
        visit(check, &mut done, &mut order);
    }
    order
}

/// The indentation of a block inside of so many: text would grow with the square of the depth.
fn indent(depth: usize) -> String {
    const MOST: usize = 16;
    "  ".repeat(depth.min(MOST))
}

fn statements(graph: &Graph, style: Style, inner: &str, out: &mut String) {
    let order = post_order(graph);
    let mut number = vec![0usize; graph.n_nodes()];
    for (n, id) in order.iter().enumerate() {
        number[id.index()] = n;
    }
    for &id in &order {
        let node = graph.node(id);
        let _ = write!(out, "{inner}%{} = {}", number[id.index()], node.op.name);
        if let Some(name) = node.name() {
            let _ = write!(out, " {name:?}");
        }
        for (k, input) in node.inputs.iter().enumerate() {
            let _ = write!(out, "{}%{}", if k == 0 { " " } else { ", " }, number[input.index()]);
        }
        let attrs: Vec<String> = node
            .attrs
            .iter()
            .filter(|(name, value)| !(node.op.is_named() && *name == NAME.name) && **value != Attr::Bool(false))
            .map(|(name, value)| format!("{name} = {}", attr(value)))
            .collect();
        if !attrs.is_empty() {
            let _ = write!(out, " {{{}}}", attrs.join(", "));
        }
        let _ = write!(out, " : {}", node.ty);
        if style.origins && !node.origin.lines.is_empty() {
            let lines: Vec<String> =
                node.origin.lines.iter().map(|l| l.to_string().replace(['\n', '\r'], " ")).collect();
            let rule = node.origin.rule.map(|r| format!(" ({r})")).unwrap_or_default();
            let _ = write!(out, "    ; {}{rule}", lines.join(", "));
        }
        out.push('\n');
    }
    for output in graph.outputs() {
        let value = number[output.value.index()];
        let _ = match output.role {
            Role::Result => writeln!(out, "{inner}output {:?} = %{value}", &*output.name),
            Role::Update(_) => writeln!(out, "{inner}update {:?} = %{value}", &*output.name),
        };
    }
}

/// The text of an attribute's value.
pub(crate) fn attr(value: &Attr) -> String {
    match value {
        Attr::Int(v) => v.to_string(),
        Attr::Ints(v) => format!("[{}]", v.iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")),
        Attr::Float(bits) => element(DType::F64, *bits),
        Attr::Number(v) => v.wide().map_or_else(|| element(DType::F64, v.value().to_bits()), |v| v.to_string()),
        Attr::Bool(v) => v.to_string(),
        Attr::Str(v) => format!("{v:?}"),
        Attr::DType(v) => v.to_string(),
        Attr::Tensor(v) => tensor(v),
        Attr::Init(v) => v.to_string(),
        Attr::Body(id) => format!("body {}", id.0),
    }
}

/// The elements of a constant: a single number, or a list in row-major order.
fn tensor(value: &TensorData) -> String {
    let dtype = value.dtype();
    let list: Vec<String> = value.bits().into_iter().map(|b| element(dtype, b)).collect();
    if value.shape().rank() == 0 { list.join("") } else { format!("[{}]", list.join(", ")) }
}

/// A number that reads back to the same bits (NaNs other than the usual one are written as bits).
fn element(dtype: DType, bits: u64) -> String {
    match dtype {
        DType::Bool => (bits != 0).to_string(),
        DType::F32 | DType::F64 => {
            let value = dtype.f64_of_bits(bits);
            if value.is_nan() {
                let usual = bits == dtype.bits_of_f64(f64::NAN);
                return if usual { "nan".into() } else { format!("bits({bits:#x})") };
            }
            if value.is_infinite() {
                return if value > 0.0 { "inf".into() } else { "-inf".into() };
            }
            match dtype {
                DType::F32 => format!("{:?}", f32::from_bits(bits as u32)),
                _ => format!("{value:?}"),
            }
        }
        DType::I32 => (bits as u32 as i32).to_string(),
        DType::I64 => (bits as i64).to_string(),
        DType::U8 => (bits as u8).to_string(),
    }
}
