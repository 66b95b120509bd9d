//! From what a user types to a node or a buffer.
//!
//! Nodes are those of the optimized graph: `%7` by its number, `w` by the name of an input, parameter, state or output, `tanh` by
//! the op if only one node has it; in a loop's body `@body%7` and `@body:name`. Buffers go by name or number (`b3`).

use cotangent_graph::{Code, Diag, Loc, NodeId};
use cotangent_kernel::{BufferId, Home, Plan, Step};
use cotangent_scalar::plain;

use crate::Inside;
use crate::trace::Sheet;

/// A graph that is planned as a whole: the program, or the body of a loop.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) sheet: &'a Sheet,
    /// Its place among the sheets of the last stage.
    pub(crate) number: usize,
    pub(crate) plan: &'a Plan,
    /// The steps that lead to it, from the program's on.
    pub(crate) depth: usize,
}

impl<'a> Part<'a> {
    /// The kernel of a node, by the number that `explain` has for it.
    pub(crate) fn kernel(&self, id: NodeId) -> Option<usize> {
        self.plan.clusters.iter().position(|nodes| nodes.contains(&id))
    }

    /// The step that makes a node.
    pub(crate) fn step(&self, id: NodeId) -> Option<usize> {
        let makes = |s: &usize| self.plan.step_values[*s].iter().any(|(node, _)| *node == id);
        let in_kernel = self.kernel(id).map(|k| &self.plan.clusters[k]);
        let is_of = |node: &NodeId| *node == id || in_kernel.is_some_and(|nodes| nodes.contains(node));
        (0..self.plan.step_values.len()).find(makes).or_else(|| self.plan.step_nodes.iter().position(is_of))
    }

    /// A node in a line: number, op, name, type, the user's lines, the rule that made it.
    pub(crate) fn line(&self, id: NodeId) -> String {
        line(self.sheet, id)
    }

    /// The first step that makes a value in a buffer, and the value.
    pub(crate) fn made(&self, id: BufferId) -> Option<(usize, NodeId)> {
        let value =
            |values: &[(NodeId, BufferId)]| values.iter().find(|(_, buffer)| *buffer == id).map(|(node, _)| *node);
        self.plan.step_values.iter().enumerate().find_map(|(s, values)| Some((s, value(values)?)))
    }

    /// What a buffer is called: what lies in the arena by the value that is made there.
    pub(crate) fn buffer_name(&self, id: BufferId) -> String {
        let decl = &self.plan.buffers[id.index()];
        let made = self.made(id).filter(|_| matches!(decl.home, Home::Arena { .. }));
        made.map_or_else(|| plain(&decl.name).to_string(), |(_, node)| self.short(node))
    }

    /// A node in a word or two.
    pub(crate) fn short(&self, id: NodeId) -> String {
        short(self.sheet, id)
    }
}

/// A node in a line.
pub(crate) fn line(sheet: &Sheet, id: NodeId) -> String {
    let node = sheet.graph.node(id);
    let lines: Vec<String> = node.origin.lines.iter().map(ToString::to_string).collect();
    let at = if lines.is_empty() { String::new() } else { format!("  at {}", lines.join(", ")) };
    let rule = node.origin.rule.map_or(String::new(), |rule| format!("  ({rule})"));
    format!("{} : {}{at}{rule}", short(sheet, id), node.ty)
}

/// A node in a word or two; of a body with its name.
pub(crate) fn short(sheet: &Sheet, id: NodeId) -> String {
    let node = sheet.graph.node(id);
    let number = sheet.number.get(&id).map_or("?".to_owned(), ToString::to_string);
    let name = node.name().map_or(String::new(), |name| format!(" `{name}`"));
    format!("%{number} {}{name}", node.op.name)
}

/// A node that was asked for.
pub(crate) struct FoundNode<'a> {
    pub(crate) part: Part<'a>,
    pub(crate) id: NodeId,
}

impl Inside {
    /// The program, then the bodies of its loops, those of a body right behind it.
    pub(crate) fn parts(&self) -> Vec<Part<'_>> {
        let last = self.trace.last();
        let mut parts = Vec::new();
        let mut open = vec![(0, self.program.plan(), 0)];
        while let Some((number, plan, depth)) = open.pop() {
            let sheet = &last.sheets[number];
            parts.push(Part { sheet, number, plan, depth });
            let mut bodies = Vec::new();
            for (step, &id) in plan.steps.iter().zip(&plan.step_nodes) {
                if let (Step::Loop(step), Some(scan)) = (step, sheet.graph.scan(sheet.graph.node(id)))
                    && let Some(number) = last.sheet_of(scan.body)
                {
                    bodies.push((number, &*step.body, depth + 1));
                }
            }
            open.extend(bodies.into_iter().rev());
        }
        parts
    }

    /// The node that a text stands for.
    pub(crate) fn node(&self, text: &str) -> Result<FoundNode<'_>, Diag> {
        let parts = self.parts();
        let (part, inner) = match text.strip_prefix('@') {
            None => (parts[0], text),
            Some(rest) => {
                let end = rest.find(['%', ':']).unwrap_or(rest.len());
                let (body, inner) = (&rest[..end], rest[end..].trim_start_matches(':'));
                let known = || parts[1..].iter().map(|part| &**part.sheet.graph.name());
                let Some(part) = parts[1..].iter().find(|part| &**part.sheet.graph.name() == body) else {
                    return Err(unknown(format!("no loop of the program has a body @{body}")).suggest(body, known()));
                };
                (*part, inner)
            }
        };
        Ok(FoundNode { id: node_of(part.sheet, inner)?, part })
    }

    /// The buffer that a text stands for.
    pub(crate) fn buffer(&self, text: &str) -> Result<(Part<'_>, BufferId), Diag> {
        let parts = self.parts();
        let numbered = text.strip_prefix('b').and_then(|number| number.parse::<u32>().ok()).map(BufferId);
        let in_plan = |plan: &Plan| {
            let named = plan.buffers.iter().position(|decl| decl.name == text);
            named.map(|at| BufferId(at as u32)).or(numbered.filter(|id| id.index() < plan.buffers.len()))
        };
        let names = parts.iter().flat_map(|part| part.plan.buffers.iter().map(|decl| decl.name.as_str()));
        parts.iter().find_map(|part| Some((*part, in_plan(part.plan)?))).ok_or_else(|| {
            let n = parts[0].plan.buffers.len();
            unknown(format!("the plan has no buffer `{text}`; required a name or b0 to b{}", n.saturating_sub(1)))
                .suggest(text, names)
        })
    }
}

/// An error about what a user typed, which has no place in code.
pub(crate) fn unknown(text: String) -> Diag {
    Diag::new(Code::UnknownName, text).at(Loc::Internal)
}

/// The node of a graph that a text stands for.
pub(crate) fn node_of(sheet: &Sheet, text: &str) -> Result<NodeId, Diag> {
    let graph = &*sheet.graph;
    if let Some(number) = text.strip_prefix('%') {
        return number.parse().ok().and_then(|number: usize| sheet.order.get(number)).copied().ok_or_else(|| {
            let most = sheet.order.len().saturating_sub(1);
            unknown(format!("@{} has no node `{text}`; its nodes are %0 to %{most}", graph.name()))
                .help("`cotangent opt` prints the graph with these numbers")
        });
    }
    let output = || graph.outputs().iter().find(|output| &*output.name == text).map(|output| output.value);
    if let Some(id) = graph.source(text).or_else(output) {
        return Ok(id);
    }
    let op = graph.registry().get(text);
    let of_op: Vec<NodeId> = sheet.order.iter().copied().filter(|&id| Some(graph.node(id).op) == op).collect();
    match of_op[..] {
        [one] => Ok(one),
        [] => {
            let names = graph.nodes().iter().filter_map(|node| node.name().or(Some(node.op.name)));
            let outputs = graph.outputs().iter().map(|output| &*output.name);
            let text_of = format!("@{} has no node `{text}`", graph.name());
            Err(unknown(text_of).suggest(text, names.chain(outputs)))
        }
        ref several => {
            const SHOWN: usize = 12;
            let shown: Vec<String> = several.iter().take(SHOWN).map(|id| format!("%{}", sheet.number[id])).collect();
            let more = if several.len() > SHOWN { ", …" } else { "" };
            let text = format!("{} nodes of @{} are `{text}`", several.len(), graph.name());
            Err(unknown(text).help(format!("say which one: {}{more}", shown.join(", "))))
        }
    }
}
