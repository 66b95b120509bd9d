//! Loops whose bodies only hold kernels and copies: what the one function is told that runs all their iterations.
//!
//! The function works on a table of pointers: the arguments of the body's kernels, in the order of its steps, and after them what
//! else it needs, the *extras*.

use cotangent_codegen::{Act, LoopBody};
use cotangent_kernel::{BufferId, Home, LoopStep, Plan, Step};

/// What a place of the table is that is no argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extra {
    /// A buffer of the body.
    Buffer(BufferId),
    /// Where the iteration's part of a result goes, by the number of the result.
    Result(usize),
    /// The layout of a kernel of the body.
    Layout(usize),
}

/// A body that is one function.
#[derive(Debug)]
pub(crate) struct Turns {
    /// What code is made of.
    pub(crate) body: LoopBody,
    /// The places of the table behind those of arguments.
    pub(crate) extras: Vec<Extra>,
    /// The places of arguments that are counters: a function is handed those of some iterations, one behind the other.
    pub(crate) draws: Vec<usize>,
}

impl Turns {
    /// Of a loop whose body's kernels come after `first` others in the program; `None` if the body has other steps than kernels and
    /// copies.
    pub(crate) fn of(step: &LoopStep, first: usize) -> Option<Self> {
        let plan = &*step.body;
        if other_step(plan).is_some() {
            return None;
        }
        let arguments: Vec<BufferId> =
            plan.steps.iter().flat_map(Step::calls).flat_map(|call| call.args.iter().copied()).collect();
        let (mut acts, mut extras, mut n_args) = (Vec::new(), Vec::new(), 0);
        let mut extra = |extra: Extra| {
            extras.push(extra);
            arguments.len() + extras.len() - 1
        };
        for of_body in &plan.steps {
            match of_body {
                Step::Copy { from, to, .. } => {
                    let n_bytes = n_bytes(plan, *to);
                    acts.push(Act::Copy { from: extra(Extra::Buffer(*from)), to: extra(Extra::Buffer(*to)), n_bytes });
                }
                _ => {
                    for call in of_body.calls() {
                        if !plan.kernels[call.kernel].stores_nothing() {
                            let layout = extra(Extra::Layout(call.kernel));
                            acts.push(Act::Kernel { kernel: first + call.kernel, args: n_args, layout });
                        }
                        n_args += call.args.len();
                    }
                }
            }
        }
        for (number, output) in plan.outputs.iter().enumerate() {
            if plan.buffers[output.buffer.index()].home != Home::Output {
                let n_bytes = n_bytes(plan, output.buffer);
                let (from, to) = (extra(Extra::Buffer(output.buffer)), extra(Extra::Result(number)));
                acts.push(Act::Copy { from, to, n_bytes });
            }
        }
        let on = |id: BufferId| if step.reverse { -(n_bytes(plan, id) as i64) } else { n_bytes(plan, id) as i64 };
        let of_argument = |&id: &BufferId| match plan.buffers[id.index()].home {
            // One behind the other in the order of the iterations.
            Home::Counters => n_bytes(plan, id) as i64,
            _ if moves(step, id) => on(id),
            _ => 0,
        };
        let of_extra = |extra: &Extra| match *extra {
            Extra::Buffer(id) => of_argument(&id),
            Extra::Result(number) => on(plan.outputs[number].buffer),
            Extra::Layout(_) => 0,
        };
        let by = arguments.iter().map(of_argument).chain(extras.iter().map(of_extra)).enumerate();
        let moves = by.filter(|&(_, by)| by != 0).collect();
        let is_counters = |k: &usize| plan.buffers[arguments[*k].index()].home == Home::Counters;
        let draws = (0..arguments.len()).filter(is_counters).collect();
        Some(Turns { body: LoopBody { acts, moves, n_pointers: arguments.len() + extras.len() }, extras, draws })
    }
}

/// The first step of a body that keeps its iterations from being one function: it is neither a kernel nor a copy.
pub(crate) fn other_step(body: &Plan) -> Option<usize> {
    body.steps.iter().position(|step| !matches!(step, Step::Kernel(_) | Step::Copy { .. }))
}

/// Whether a buffer of a loop's body lies elsewhere in each iteration.
pub(crate) fn moves(step: &LoopStep, buffer: BufferId) -> bool {
    step.inputs.iter().any(|given| given.moves && given.to == buffer)
        || step.body.buffers[buffer.index()].home == Home::Output
}

fn n_bytes(plan: &Plan, buffer: BufferId) -> usize {
    plan.buffers[buffer.index()].n_bytes()
}

/// The bodies of all loops of a plan that are one function each, those in bodies after the loops around them. A program's kernels are
/// counted in the order of [`all_kernels`](crate::ready::all_kernels).
pub(crate) fn all_turns(plan: &Plan, first: usize) -> Vec<LoopBody> {
    let (mut all, mut next) = (Vec::new(), first + plan.kernels.len());
    for step in &plan.steps {
        let Step::Loop(step) = step else { continue };
        all.extend(Turns::of(step, next).map(|turns| turns.body));
        all.extend(all_turns(&step.body, next));
        next += crate::ready::n_kernels(&step.body);
    }
    all
}
