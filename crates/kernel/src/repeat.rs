//! Loops in plans: a step that follows a plan of its own again and again.
//!
//! The body is planned once, as a program whose states are the carries and whose inputs are parts of slices and captures. So a
//! carry is updated where it stands if that is possible, by the same rules as a parameter, and the plan verifier proves of the
//! body what it proves of every program. What is left for the loop is where the body's memory lies in each iteration: captures
//! and carries where they are, parts of slices and of outputs a stride further each time, and the body's arena in a buffer of
//! the plan around it.

use std::collections::HashSet;
use std::sync::Arc;

use cotangent_graph::op::Fault;
use cotangent_graph::ops::compare::STOP_GRADIENT;
use cotangent_graph::ops::scan::Scan;
use cotangent_graph::ops::source::STATE;
use cotangent_graph::{Attrs, CompilerBug, DType, Graph, Init, NodeId, OpRef, Origin, Output, Role, Source};
use smallvec::SmallVec;

use crate::plan::{BufferDecl, BufferId, Home, Piece, Plan, Step};
use crate::verify_plan::verify_plan;

/// A body that is run again and again, with its memory.
#[derive(Clone, Debug)]
pub struct LoopStep {
    /// What happens in an iteration. Carries are its states; parts of slices and captures are its inputs.
    pub body: Arc<Plan>,
    /// Number of iterations.
    pub n: usize,
    /// Whether iterations go from the last to the first.
    pub reverse: bool,
    /// What goes from iteration to iteration.
    pub carries: Vec<Carry>,
    /// What iterations are given.
    pub inputs: Vec<Given>,
    /// Where the body's results go, in their order: part `i` of the buffer is that of iteration `i`.
    pub outputs: Vec<BufferId>,
    /// The memory of the body's arena.
    pub frame: BufferId,
    /// Where it comes from, for messages.
    pub origin: Origin,
}

/// A value that goes from iteration to iteration, in the memory of its last value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carry {
    /// Where its first value is.
    pub start: Piece,
    /// Where it is changed, and where its last value is.
    pub end: BufferId,
    /// The state of the body.
    pub state: BufferId,
}

/// What an iteration is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// What iteration 0 gets, or every iteration.
    pub from: Piece,
    /// The input of the body.
    pub to: BufferId,
    /// Whether iteration `i` gets what lies `i` times its size further.
    pub moves: bool,
}

impl LoopStep {
    /// The numbers of the iterations in their order.
    pub fn iterations(&self) -> impl Iterator<Item = usize> + use<> {
        let (n, reverse) = (self.n, self.reverse);
        (0..n).map(move |k| if reverse { n - 1 - k } else { k })
    }

    /// The buffers read.
    pub fn reads(&self) -> Vec<BufferId> {
        let starts = self.carries.iter().map(|carry| carry.start.buffer);
        starts.chain(self.inputs.iter().map(|given| given.from.buffer)).collect()
    }

    /// The buffers written.
    pub fn writes(&self) -> Vec<BufferId> {
        let ends = self.carries.iter().map(|carry| carry.end);
        ends.chain(self.outputs.iter().copied()).chain([self.frame]).collect()
    }

    /// The start in whose memory a last value may be made: of its carry, if nothing else is read there.
    pub fn in_place_of(&self, end: BufferId) -> Option<BufferId> {
        let start = self.carries.iter().find(|carry| carry.end == end)?.start.buffer;
        (self.reads().iter().filter(|read| **read == start).count() == 1).then_some(start)
    }

    /// Whether an iteration checks run-time values.
    pub fn checks(&self) -> bool {
        checks(&self.body)
    }

    /// Bytes read and written in all iterations.
    pub fn n_bytes(&self, plan: &Plan) -> u64 {
        let copied: u64 = self.carries.iter().map(|carry| 2 * plan.buffers[carry.end.index()].n_bytes() as u64).sum();
        self.body.bytes_moved().saturating_mul(self.n as u64).saturating_add(copied)
    }

    /// Everything that is wrong with the body, or else with the loop's memory.
    pub(crate) fn errors(&self, plan: &Plan) -> Vec<String> {
        let body = &*self.body;
        let mut errors = verify_plan(body);
        if !errors.is_empty() {
            return errors.into_iter().map(|error| format!("in the body: {error}")).collect();
        }
        let ids = self.carries.iter().map(|carry| carry.state).chain(self.inputs.iter().map(|given| given.to));
        if let Some(id) = ids.clone().find(|id| id.index() >= body.buffers.len()) {
            return vec![format!("buffer {} of {} of the body is named", id.0, body.buffers.len())];
        }
        if self.outputs.len() != body.outputs.len() {
            return vec![format!("{} places for {} results of the body", self.outputs.len(), body.outputs.len())];
        }
        let is_given = |decl: &BufferDecl| matches!(decl.home, Home::Input | Home::State | Home::Param);
        let mut seen = HashSet::new();
        for id in ids {
            if !seen.insert(id) || !is_given(&body.buffers[id.index()]) {
                errors.push(format!("`{}` of the body is given twice, or by nobody", body.buffers[id.index()].name));
            }
        }
        if seen.len() != body.buffers.iter().filter(|decl| is_given(decl)).count() {
            errors.push("an input or state of the body is given by nobody".into());
        }
        let of = |id: BufferId| &plan.buffers[id.index()];
        let mut fits = |what: &str, inner: &BufferDecl, outer: BufferId, offset: usize, times: usize| {
            let end = inner.n_elements.checked_mul(times).and_then(|n| n.checked_add(offset));
            if inner.dtype != of(outer).dtype || end.is_none_or(|end| end > of(outer).n_elements) {
                let text = format!(
                    "{what} `{}`, {times} times {} elements of {} from {offset}, is not inside of `{}` of {} of {}",
                    inner.name,
                    inner.n_elements,
                    inner.dtype,
                    of(outer).name,
                    of(outer).n_elements,
                    of(outer).dtype
                );
                errors.push(text);
            }
        };
        for carry in &self.carries {
            let inner = &body.buffers[carry.state.index()];
            fits("the carry", inner, carry.start.buffer, carry.start.offset, 1);
            fits("the carry", inner, carry.end, 0, 1);
        }
        for given in &self.inputs {
            let times = if given.moves { self.n } else { 1 };
            fits("the input", &body.buffers[given.to.index()], given.from.buffer, given.from.offset, times);
        }
        for (output, &to) in body.outputs.iter().zip(&self.outputs) {
            fits("the result", &body.buffers[output.buffer.index()], to, 0, self.n);
        }
        if self.carries.iter().any(|carry| body.buffers[carry.state.index()].home != Home::State)
            || self.inputs.iter().any(|given| body.buffers[given.to.index()].home != Home::Input)
        {
            errors.push("a carry is no state of the body, or an input no input".into());
        }
        for (k, decl) in body.buffers.iter().enumerate().filter(|(_, decl)| decl.home == Home::Output) {
            if body.outputs.iter().filter(|output| output.buffer.index() == k).count() != 1 {
                errors.push(format!("`{}` of the body lies where no result goes, or several", decl.name));
            }
        }
        let whole = |id: BufferId, n: usize| of(id).n_elements == n;
        let ends = self.carries.iter().map(|carry| (carry.end, body.buffers[carry.state.index()].n_elements));
        let outputs = body.outputs.iter().zip(&self.outputs);
        let outputs = outputs.map(|(o, &to)| (to, body.buffers[o.buffer.index()].n_elements.saturating_mul(self.n)));
        if let Some((id, _)) = ends.chain(outputs).find(|&(id, n)| !whole(id, n)) {
            errors.push(format!("`{}` is not written whole by the loop", of(id).name));
        }
        if of(self.frame).dtype != DType::U8 || of(self.frame).n_elements < body.arena_bytes {
            let (name, n) = (&of(self.frame).name, of(self.frame).n_elements);
            errors.push(format!("the body's arena of {} bytes does not fit `{name}` of {n}", body.arena_bytes));
        }
        let writes = self.writes();
        let distinct: HashSet<BufferId> = writes.iter().copied().collect();
        let reads = self.reads();
        if distinct.len() != writes.len() || reads.iter().any(|id| distinct.contains(id)) {
            errors.push("what the loop writes is not apart from all else".into());
        }
        if let Some(id) = writes.iter().find(|id| !matches!(of(**id).home, Home::Arena { .. } | Home::Output)) {
            errors.push(format!("`{}` is written by a loop, and not of the arena", of(*id).name));
        }
        errors
    }
}

/// Whether a plan checks run-time values.
pub(crate) fn checks(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| match step {
        Step::Check { .. } => true,
        Step::Loop(inner) => inner.checks(),
        _ => false,
    })
}

/// The body of a loop as a program: its carries are states, and their next values updates. Nodes keep their ids. A result that is a carry
/// too, before the iteration or after it, is a node of its own: the kernel that reads or makes the carry stores both.
pub(crate) fn program_of(scan: &Scan<'_>) -> Result<Graph, CompilerBug> {
    let body = scan.body;
    let bug = |fault: Fault| CompilerBug::new("plan", fault.message);
    let mut out = Graph::with_registry(body.name().clone(), body.registry());
    for inner in body.bodies() {
        out.add_body(Arc::clone(inner)).map_err(bug)?;
    }
    let carries: Vec<NodeId> = body.inputs().take(scan.n_carries).map(|(id, _)| id).collect();
    for (id, node) in body.ids().zip(body.nodes()) {
        let is_carry = node.source() == Some(Source::Input) && carries.contains(&id);
        let (op, attrs) = match node.name() {
            Some(name) if is_carry => (OpRef(&STATE), Attrs::none().with("name", name).with("init", Init::ZEROS)),
            _ => (node.op, node.attrs.clone()),
        };
        out.add(op, node.inputs.clone(), attrs, node.ty.clone(), node.origin.clone()).map_err(bug)?;
    }
    let is_carried =
        |value| carries.contains(&value) || body.outputs().iter().take(scan.n_carries).any(|next| next.value == value);
    for (k, output) in body.outputs().iter().enumerate() {
        let output = match carries.get(k) {
            Some(&target) => {
                let name = out.node(target).name().unwrap_or_default().into();
                Output { name, value: output.value, role: Role::Update(target) }
            }
            None if is_carried(output.value) => {
                let node = body.node(output.value);
                let inputs = SmallVec::from_slice(&[output.value]);
                let value = out.add(OpRef(&STOP_GRADIENT), inputs, Attrs::none(), node.ty.clone(), node.origin.clone());
                Output { value: value.map_err(bug)?, ..output.clone() }
            }
            None => output.clone(),
        };
        out.add_output(output).map_err(bug)?;
    }
    Ok(out)
}

/// Lets results of a body that are made in its arena, one of them in a buffer, lie where the loop wants them.
pub(crate) fn hand_out(plan: &mut Plan) {
    for k in 0..plan.outputs.len() {
        let buffer = plan.outputs[k].buffer;
        let alone = plan.outputs.iter().filter(|output| output.buffer == buffer).count() == 1;
        let decl = &mut plan.buffers[buffer.index()];
        if alone && matches!(decl.home, Home::Arena { .. }) {
            decl.home = Home::Output;
        }
    }
}
