//! Questions about a program, answered from what the compiler recorded.
//!
//! Answers depend on the graph and the target alone, so they are the same in every run.

use std::fmt::Write;

use cotangent_graph::diag::nearest;
use cotangent_graph::ops::arithmetic::ADD;
use cotangent_graph::{Diag, Lower, NodeId, Role};
use cotangent_host::Bytes;
use cotangent_kernel::{BufferId, Edge, Home, Step};
use cotangent_passes::{all_rules, pipeline};

use crate::Inside;
use crate::find::{Part, line, node_of, short, unknown};
use crate::memory::Peak;
use crate::trace::Sheet;

/// What can be asked: the word, what follows it, and what is answered.
pub const QUESTIONS: [(&str, &str, &str); 5] = [
    (
        "fused",
        "NODE [NODE]",
        "why a node shares its kernel with its neighbors or does not, or why two nodes do or do not",
    ),
    ("copied", "BUFFER", "whether a step copies a buffer, and why"),
    ("peak", "", "where most memory is in use, and by what"),
    ("gradient", "PARAM", "what the gradient with respect to a parameter consists of"),
    ("rule", "NODE", "which pass and rule made a node, of what"),
];

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Why a node is fused as it is.
    Fused(String),
    /// Why two nodes are fused or not.
    FusedWith(String, String),
    /// Why a buffer is copied.
    Copied(String),
    /// Where the peak is.
    Peak,
    /// What a gradient consists of.
    Gradient(String),
    /// What made a node.
    Rule(String),
}

impl Question {
    /// The question in these words.
    ///
    /// # Errors
    /// What can be asked, with the nearest word.
    pub fn of(words: &[String]) -> Result<Self, String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["fused", node] => Ok(Question::Fused(node.into())),
            ["fused", one, other] => Ok(Question::FusedWith(one.into(), other.into())),
            ["copied", buffer] => Ok(Question::Copied(buffer.into())),
            ["peak"] => Ok(Question::Peak),
            ["gradient", param] => Ok(Question::Gradient(param.into())),
            ["rule", node] => Ok(Question::Rule(node.into())),
            _ => {
                let word = words.first().copied().unwrap_or_default();
                let form = |(word, rest, _): &(&str, &str, &str)| format!("{word} {rest}").trim_end().to_owned();
                if let Some(known) = QUESTIONS.iter().find(|(known, ..)| *known == word) {
                    return Err(format!("required '{}', got '{}'", form(known), words.join(" ")));
                }
                let near = nearest(word, QUESTIONS.iter().map(|(known, ..)| *known));
                let near = near.map_or(String::new(), |near| format!("; did you mean '{near}'?"));
                let all: Vec<String> = QUESTIONS.iter().map(form).collect();
                Err(format!("'{word}' is no question (those are {}){near}", all.join(", ")))
            }
        }
    }
}

impl Inside {
    /// The answer.
    ///
    /// # Errors
    /// `E0108` if a node, buffer or parameter is not known, with the nearest name.
    pub fn why(&self, question: &Question) -> Result<String, Diag> {
        match question {
            Question::Fused(node) => self.why_fused(node),
            Question::FusedWith(one, other) => self.why_fused_with(one, other),
            Question::Copied(buffer) => self.why_copied(buffer),
            Question::Peak => Ok(self.why_peak()),
            Question::Gradient(param) => self.why_gradient(param),
            Question::Rule(node) => self.why_rule(node),
        }
    }

    fn why_fused(&self, text: &str) -> Result<String, Diag> {
        let found = self.node(text)?;
        let (part, id) = (found.part, found.id);
        let mut out = format!("{}\n{}", part.line(id), place(&part, id));
        let edges = |title: &str, mine: fn(&Edge) -> NodeId, other: fn(&Edge) -> NodeId, out: &mut String| {
            let edges: Vec<&Edge> = part.plan.edges.iter().filter(|edge| mine(edge) == id).collect();
            if !edges.is_empty() {
                let _ = writeln!(out, "{title}");
            }
            for edge in edges {
                let _ = writeln!(out, "  {}\n    {}", part.line(other(edge)), edge.verdict);
            }
        };
        edges("reads", |edge| edge.to, |edge| edge.from, &mut out);
        edges("is read by", |edge| edge.from, |edge| edge.to, &mut out);
        for (_, why) in part.plan.forced.iter().filter(|(node, _)| *node == id) {
            let _ = writeln!(out, "has memory of its own: {why}");
        }
        Ok(out)
    }

    fn why_fused_with(&self, one: &str, other: &str) -> Result<String, Diag> {
        let (a, b) = (self.node(one)?, self.node(other)?);
        let mut out = format!("{}\n{}\n", a.part.line(a.id), b.part.line(b.id));
        if a.part.number != b.part.number {
            out += "not fused: one is in a loop's body and the other is not, and a kernel belongs to one of them\n";
            return Ok(out);
        }
        let part = a.part;
        let between = |edge: &&Edge| [(a.id, b.id), (b.id, a.id)].contains(&(edge.from, edge.to));
        let mut edges = part.plan.edges.iter().filter(between).peekable();
        if edges.peek().is_some() {
            for edge in edges {
                let _ = writeln!(out, "{} → {}: {}", part.short(edge.from), part.short(edge.to), edge.verdict);
            }
            return Ok(out);
        }
        match (part.kernel(a.id), part.kernel(b.id)) {
            (Some(k), Some(other)) if k == other => {
                let _ = writeln!(out, "both run in kernel {k}, though neither reads the other:\n{}", members(&part, k));
            }
            _ => {
                out += "not fused: neither reads the other, directly or through views\n";
                for id in [a.id, b.id] {
                    let _ = write!(out, "{}: {}", part.short(id), place(&part, id));
                }
            }
        }
        Ok(out)
    }

    fn why_copied(&self, text: &str) -> Result<String, Diag> {
        let (part, id) = self.buffer(text)?;
        let plan = part.plan;
        let mut out = format!("{}\n", buffer_line(&part, id));
        let mut is_copied = false;
        for (s, step) in plan.steps.iter().enumerate() {
            match step {
                Step::Copy { from, to, reason } if *from == id || *to == id => {
                    is_copied = true;
                    let _ = writeln!(out, "step {s} copies {} into {}: {reason}", name(&part, *from), name(&part, *to));
                }
                Step::Op(op) if op.start() == Some(id) => {
                    let in_place = plan.in_place().contains(&(s, id, op.out));
                    is_copied |= !in_place;
                    let what = format!(
                        "the result {} of step {s}, `{}`, starts as this buffer",
                        name(&part, op.out),
                        op.op.name
                    );
                    let _ = writeln!(
                        out,
                        "{what} and {}",
                        if in_place { "is made in its memory".to_owned() } else { kept(&part, id, s) }
                    );
                }
                Step::Loop(step) => {
                    for carry in step.carries.iter().filter(|carry| carry.start.buffer == id && carry.end != id) {
                        let shared = offset_of(&part, carry.start.buffer).is_some()
                            && offset_of(&part, carry.start.buffer) == offset_of(&part, carry.end);
                        is_copied |= !shared;
                        let what =
                            format!("the loop of step {s} starts its carry {} as this buffer", name(&part, carry.end));
                        let _ = writeln!(
                            out,
                            "{what} and {}",
                            if shared { "changes it where it stands".to_owned() } else { kept(&part, id, s) }
                        );
                    }
                }
                _ => {}
            }
        }
        for (s, ..) in plan.in_place().into_iter().filter(|(_, from, to)| *from == id && from == to) {
            let _ =
                writeln!(out, "step {s} updates it where it stands: every other reader of its old value comes before");
        }
        if !is_copied {
            out += "no step copies it\n";
        }
        Ok(out)
    }

    fn why_peak(&self) -> String {
        let part = self.parts()[0];
        let plan = part.plan;
        let peak = Peak::of(plan);
        let total = |is_home: fn(&Home) -> bool| {
            let sizes = plan.buffers.iter().filter(|decl| is_home(&decl.home)).map(|decl| decl.n_bytes());
            Bytes(sizes.fold(0, usize::saturating_add))
        };
        let mut out = String::new();
        let _ = writeln!(
            out,
            "beside the arena: parameters {}, states {}, constants {}, inputs {}",
            total(|home| *home == Home::Param),
            total(|home| *home == Home::State),
            total(|home| matches!(home, Home::Const(_))),
            total(|home| *home == Home::Input),
        );
        let Some(step) = plan.steps.get(peak.step).filter(|_| peak.n_bytes > 0) else {
            return out + "nothing is in the arena: no step makes anything but results of kernels in place\n";
        };
        let (arena, unshared) = (Bytes(plan.arena_bytes), Bytes(plan.figures().unshared_bytes));
        let _ = writeln!(out, "the arena has {arena}; without sharing it would have {unshared}");
        let _ = writeln!(out, "most is in use at step {}: {} by", peak.step, Bytes(peak.n_bytes));
        for &id in &peak.live {
            let _ = writeln!(out, "  {}", buffer_line(&part, id));
        }
        let _ = writeln!(out, "step {} is {}", peak.step, plan.step_text(step));
        out
    }

    fn why_gradient(&self, text: &str) -> Result<String, Diag> {
        let stages = &self.trace.stages;
        let has_grad =
            |sheet: &Sheet| sheet.order.iter().any(|&id| matches!(sheet.graph.node(id).op.lower, Lower::Grad));
        let at = stages.iter().rposition(|stage| has_grad(&stage.sheets[0]));
        let Some((at, next)) = at.and_then(|at| Some((at, stages.get(at + 1)?))) else {
            return Err(unknown(format!("the graph @{} asks for no gradient", self.program.source().name())));
        };
        let sheet = &stages[at].sheets[0];
        let graph = &*sheet.graph;
        let grads: Vec<NodeId> =
            sheet.order.iter().copied().filter(|&id| matches!(graph.node(id).op.lower, Lower::Grad)).collect();
        let wrt = |id: &NodeId| graph.node(*id).inputs[1];
        let target = match text.strip_prefix('%') {
            Some(_) => node_of(sheet, text)?,
            None => graph.source(text).ok_or_else(|| {
                let asked = grads.iter().filter_map(|id| graph.node(wrt(id)).name());
                unknown(format!("@{} has no input, parameter or state `{text}`", graph.name())).suggest(text, asked)
            })?,
        };
        let mine: Vec<NodeId> = grads.iter().copied().filter(|id| wrt(id) == target).collect();
        if mine.is_empty() {
            let asked = grads.iter().filter_map(|id| graph.node(wrt(id)).name());
            let text_of = format!("no gradient with respect to `{text}` is asked for");
            return Err(unknown(text_of).suggest(text, asked));
        }
        let mut out = String::new();
        for grad in mine {
            self.gradient(&mut out, at, (sheet, grad, target), &next.sheets[0]);
        }
        Ok(out)
    }

    /// What a `grad` of a stage became in the next one: its terms, and what is left of them in the program.
    fn gradient(&self, out: &mut String, at: usize, (sheet, grad, target): (&Sheet, NodeId, NodeId), next: &Sheet) {
        let graph = &*sheet.graph;
        let of = graph.node(grad).inputs[0];
        let _ = writeln!(out, "the gradient of {} with respect to {}", line(sheet, of), line(sheet, target));
        let uid = sheet.uids[sheet.number[&grad]];
        let made = self.trace.stages[at + 1].change.replaced.get(&uid).and_then(|made| next.of_uid(*made));
        let Some(made) = made.map(|number| next.order[number]) else {
            out.push_str("  nothing needs it, so it is not computed\n");
            return;
        };
        let lines = &graph.node(target).origin.lines;
        let mut terms = Vec::new();
        let mut open = vec![made];
        while let Some(id) = open.pop() {
            let node = next.graph.node(id);
            // A sum over the readers of the value has the lines of the value.
            if node.is(&ADD) && node.origin.rule.is_some() && node.origin.lines == *lines {
                open.extend(node.inputs.iter().rev());
            } else {
                terms.push(id);
            }
        }
        let n = terms.len();
        let _ =
            writeln!(out, "  {}", if n == 1 { "is one term".to_owned() } else { format!("is the sum of {n} terms") });
        for id in terms {
            let _ = writeln!(out, "  {}", line(next, id));
            let readers = sheet.order.iter().copied().filter(|&reader| {
                let node = graph.node(reader);
                let lines = &next.graph.node(id).origin.lines;
                node.inputs.contains(&target) && node.origin.lines.iter().any(|line| lines.contains(line))
            });
            for reader in readers.filter(|reader| *reader != grad) {
                let _ = writeln!(out, "    by way of {}", line(sheet, reader));
            }
            let uid = next.uids[next.number[&id]];
            out.push_str(&self.what_is_left(at + 1, uid, "    "));
        }
        let uid = next.uids[next.number[&made]];
        if n > 1 {
            let _ = writeln!(out, "  their sum is {}", line(next, made));
            out.push_str(&self.what_is_left(at + 1, uid, "  "));
        }
        let last = &self.trace.last().sheets[0];
        let Some(id) = self.trace.fate(at + 1, uid).and_then(|uid| last.of_uid(uid)).map(|number| last.order[number])
        else {
            return;
        };
        for reader in last.order.iter().copied().filter(|&reader| last.graph.node(reader).inputs.contains(&id)) {
            let _ = writeln!(out, "  read by {}", line(last, reader));
        }
        for output in last.graph.outputs().iter().filter(|output| output.value == id) {
            let kind = if output.role == Role::Result { "result" } else { "next value of" };
            let _ = writeln!(out, "  handed out as the {kind} `{}`", output.name);
        }
    }

    /// What the program has of a node of a stage, in a line.
    fn what_is_left(&self, stage: usize, uid: crate::Uid, indent: &str) -> String {
        let last = self.trace.last();
        let found = self.trace.fate(stage, uid).and_then(|uid| last.find(uid));
        let Some((sheet, number)) = found else {
            return format!("{indent}in the program: part of what its readers became\n");
        };
        let id = last.sheets[sheet].order[number];
        let parts = self.parts();
        let part = parts.iter().find(|part| part.number == sheet);
        let place = part.map_or(String::new(), |part| {
            format!(", {}", place(part, id).lines().next().unwrap_or_default().trim_end_matches(':'))
        });
        format!("{indent}in the program: {}{place}\n", short(&last.sheets[sheet], id))
    }

    fn why_rule(&self, text: &str) -> Result<String, Diag> {
        let found = self.node(text)?;
        let (sheet, id) = (found.part.sheet, found.id);
        let uid = sheet.uids[sheet.number[&id]];
        let first = self.trace.first_seen(uid);
        let stage = &self.trace.stages[first];
        let mut out = format!("{}\n", found.part.line(id));
        let Some(before) = first.checked_sub(1).map(|at| &self.trace.stages[at]) else {
            out += "it is of the source: no pass made it\n";
            return Ok(out);
        };
        let purpose = pipeline().into_iter().find(|pass| pass.name() == stage.pass).map_or("", |pass| pass.purpose());
        let _ = writeln!(
            out,
            "made by the pass `{}`, stage {first} of {}: {purpose}",
            stage.pass,
            self.trace.stages.len() - 1
        );
        let made = stage.find(uid).map(|(k, number)| (&stage.sheets[k], stage.sheets[k].order[number]));
        let rule = made.and_then(|(sheet, id)| sheet.graph.node(id).origin.rule).filter(|rule| *rule != stage.pass);
        if let Some(rule) = rule {
            match all_rules().into_iter().find(|(_, row)| row.name == rule) {
                Some((_, row)) => {
                    let _ = writeln!(out, "by the rule `{rule}`: {} ({})", row.equation, row.safety);
                }
                None => {
                    let _ = writeln!(out, "by the rule `{rule}`");
                }
            }
        }
        let mut replaced = stage.change.replaced.iter().filter(|(_, new)| **new == uid).map(|(old, _)| *old).peekable();
        if replaced.peek().is_none() {
            out += "it is part of what was put in the place of something else, or its operands changed\n";
        }
        for (k, number) in replaced.filter_map(|old| before.find(old)) {
            let sheet = &before.sheets[k];
            let _ = writeln!(out, "in the place of {}", line(sheet, sheet.order[number]));
        }
        Ok(out)
    }
}

/// Where a node is computed, in lines.
fn place(part: &Part<'_>, id: NodeId) -> String {
    let step = part.step(id).map_or(String::new(), |s| format!(", step {s} of the plan"));
    if let Some(k) = part.kernel(id) {
        return format!("runs in kernel {k}{step}:\n{}", members(part, k));
    }
    let node = part.sheet.graph.node(id);
    match (&node.op.lower, part.step(id)) {
        (Lower::Source(_), _) if node.op.is_named() => "in memory before the step begins\n".to_owned(),
        (_, Some(s)) => format!("a step of its own, {s} of the plan: {}\n", part.plan.step_text(&part.plan.steps[s])),
        _ => "has no memory: whoever reads it computes its indices or its elements\n".to_owned(),
    }
}

/// The nodes of a kernel.
fn members(part: &Part<'_>, kernel: usize) -> String {
    part.plan.clusters[kernel].iter().map(|&id| format!("  {}\n", part.line(id))).collect()
}

/// A buffer by number and name.
fn name(part: &Part<'_>, id: BufferId) -> String {
    format!("b{} `{}`", id.0, part.buffer_name(id))
}

fn offset_of(part: &Part<'_>, id: BufferId) -> Option<usize> {
    crate::memory::offset(part.plan, id)
}

/// Why a buffer that a step starts from is copied.
fn kept(part: &Part<'_>, id: BufferId, step: usize) -> String {
    let later = part.plan.steps.iter().enumerate().skip(step + 1).find(|(_, step)| step.reads(part.plan).contains(&id));
    match (later, offset_of(part, id)) {
        (Some((later, _)), _) => format!("is copied: step {later} still reads the buffer"),
        (None, None) => "is copied: the buffer is not the step's to change".to_owned(),
        (None, Some(_)) => {
            "is copied: the step reads the buffer elsewhere, or the result has its place elsewhere".to_owned()
        }
    }
}

/// A buffer in a line: size, home, lifetime, and what makes it.
fn buffer_line(part: &Part<'_>, id: BufferId) -> String {
    let plan = part.plan;
    let decl = &plan.buffers[id.index()];
    let made = part.made(id);
    let made = made.map_or(String::new(), |(s, node)| format!(", made by step {s}: {}", part.line(node)));
    let live = match decl.live.is_empty() {
        true => "never used".to_owned(),
        false => format!("steps {}..{}", decl.live.start, decl.live.end),
    };
    format!("{} {} × {} = {}, {live}{made}", name(part, id), decl.n_elements, decl.dtype, Bytes(decl.n_bytes()))
}
