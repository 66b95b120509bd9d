//! The plan verifier: what the executor, which runs without checks, may rely on.
//!
//! 1. Every id names something: kernels, buffers, one argument per kernel parameter; the lists by step have one entry each.
//!    No buffer is larger than what can be addressed.
//! 2. Kernels verify; each argument has its buffer's element type; every access is in bounds ([`Kernel::check_bounds`]).
//! 3. Stores hit distinct elements: no two iterations of a kernel and no two stores store to one, so threads may take any of them.
//!    An argument is stored to in one phase of the kernel, and no two arguments that are written are one buffer.
//! 4. Products: operand views stay inside their buffers; a convolution's numbers make one, and its operands lie whole in theirs; all element types are the product's, the result is as large as
//!    the product; the epilogue is one sweep, elementwise or down columns, over exactly the product's rows and columns, and
//!    writes none of the operands; it reads and writes the product's result at the element under way only. If it goes down
//!    columns, it does so block by block: of as many rows as the order of reductions has in a block, or all; no block
//!    reaches from one product of a batch into the next; a last block of fewer rows is finished by the same kernel over
//!    those; and each block stores its results apart.
//! 5. What is not loops: the buffers are of the types of an op's operands and of what the op infers from these, and a check of
//!    the very operands that are indices comes before, with no write to them between, unless they are constants in range.
//! 6. Copies are between buffers of one type and size; checks are of integers, or of floats.
//! 7. Results of products, of what is not loops, and of copies are none of their operands; but a result may be the operand that
//!    its op says it starts as, if no other operand is that.
//! 8. Nothing is read before all of it is written (inputs, constants, counters, parameters and states are there from the start).
//! 9. Inputs, constants and counters are never written, nor parameters and states that are not declared updated.
//! 10. Every declared update is written, all of it, by one step (or neighboring steps that make one value together).
//! 11. A parameter or state is written only after the last read of its old value; in the same step only by a
//!     kernel that visits each element once and reads the one it writes: elementwise, or after a reduction; or by what is not
//!     loops, as in 7.
//! 12. Every check comes before the first write to a parameter or state.
//! 13. A kernel's arguments that share memory with one it writes are read at the element under way only.
//! 14. Lifetimes cover every use; outputs live to the end, are written, all of them, and lie where they stay: not in memory that
//!     the caller has lent, nor in that of a thread.
//! 15. Arena slices are aligned, lie inside the arena, and do not overlap while both are alive, except that the result of
//!     an elementwise kernel may take over the memory of an operand that dies there, and what is not loops that of the operand
//!     of 7.
//! 16. What is kept row by row is used by one step only: the result of a product by its epilogue, in one argument; or a row by
//!     the kernel that sweeps it, which reads only what it has stored there before.
//! 17. Homes outside of the arena are distinct: one buffer for each name. Constants are of their types, counters three i32.
//! 18. Loops: of the body all this holds; each of its inputs and states is given once, of its type, and in every iteration inside of
//!     the buffer that it is from; results and last values of carries go, whole, to buffers of their own (a last value perhaps to its
//!     start's); its arena fits its buffer. A loop changes no parameter or state, and one that checks counts as a check.

mod stores;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use cotangent_graph::op::InferCx;
use cotangent_graph::{DType, Type};
use cotangent_scalar::order::COLUMN_BLOCK;

use crate::arena::{self, ALIGNMENT};
use crate::ir::{Input, Kernel, Space, Sweep};
use crate::lattice::Lattice;
use crate::plan::{
    BufferDecl, BufferId, CheckWhat, Epilogue, Factors, GemmDims, Home, KernelCall, MatrixView, OpStep, Plan, Step,
};
use stores::Coverage;

/// Everything that is wrong with a plan, as sentences; empty if it may be run.
pub fn verify_plan(plan: &Plan) -> Vec<String> {
    let mut verifier = Verifier { plan, errors: Vec::new(), checked: HashMap::new() };
    verifier.ids();
    if !verifier.errors.is_empty() {
        // Nothing further can be looked up.
        return verifier.errors;
    }
    verifier.kernels();
    if !plan.kernels.iter().all(has_shape) {
        // What follows looks at accesses dim by dim.
        return verifier.errors;
    }
    for (s, step) in plan.steps.iter().enumerate() {
        verifier.step(s, step);
        verifier.note_checks(step);
    }
    let stored = verifier.flow();
    verifier.updates(stored);
    verifier.arena();
    verifier.homes();
    verifier.errors
}

struct Verifier<'p> {
    plan: &'p Plan,
    errors: Vec<String>,
    /// What the integers of a buffer are checked to be below, by the steps so far, unless they have changed since.
    checked: HashMap<BufferId, usize>,
}

/// The buffers that a step names, in no particular order.
fn named(step: &Step) -> Vec<BufferId> {
    match step {
        Step::Kernel(call) => call.args.clone(),
        Step::Product { factors, c, .. } => {
            factors.buffers().into_iter().chain([*c]).chain(step.calls().flat_map(|call| call.args.clone())).collect()
        }
        Step::Op(op) => op.operands.iter().map(|(id, _)| *id).chain([op.out]).collect(),
        Step::Loop(step) => step.reads().into_iter().chain(step.writes()).collect(),
        Step::Copy { from, to, .. } => vec![*from, *to],
        Step::Check { values, .. } => vec![*values],
    }
}

/// Whether a kernel has the dims of its sweep, accesses have one stride for each, and their arguments exist.
fn has_shape(kernel: &Kernel) -> bool {
    let least = if kernel.sweep == Sweep::Column { 2 } else { 1 };
    let inputs = kernel.phases.iter().flat_map(|p| p.inputs.iter().filter_map(Input::access).map(|(arg, _)| arg));
    let mut args = inputs.chain(kernel.phases.iter().flat_map(|p| p.stores.iter().map(|s| s.arg)));
    kernel.dims.len() >= least
        && kernel.accesses().all(|map| map.strides.len() == kernel.dims.len())
        && args.all(|arg| (arg.0 as usize) < kernel.args.len())
}

fn is_home(decl: &BufferDecl) -> bool {
    matches!(decl.home, Home::Param | Home::State)
}

impl Verifier<'_> {
    fn wrong(&mut self, text: impl Into<String>) {
        self.errors.push(text.into());
    }

    fn decl(&self, id: BufferId) -> &BufferDecl {
        &self.plan.buffers[id.index()]
    }

    fn name(&self, id: BufferId) -> String {
        format!("`{}`", self.decl(id).name)
    }

    // ---- 1 -------------------------------------------------------------------------------------------------------

    fn ids(&mut self) {
        let plan = self.plan;
        let n_buffers = plan.buffers.len();
        let unknown = |id: &BufferId| id.index() >= n_buffers;
        for (s, step) in plan.steps.iter().enumerate() {
            if let Some(id) = named(step).iter().find(|id| unknown(id)) {
                self.wrong(format!("step {s}: buffer {} of {n_buffers} is named", id.0));
            }
            for call in step.calls() {
                match plan.kernels.get(call.kernel) {
                    None => self.wrong(format!("step {s}: kernel {} of {} is called", call.kernel, plan.kernels.len())),
                    Some(kernel) if kernel.args.len() != call.args.len() => {
                        self.wrong(format!("step {s}: {} arguments for {}", call.args.len(), kernel.args.len()));
                    }
                    Some(_) => {}
                }
            }
        }
        if let Some(id) = plan.outputs.iter().map(|o| &o.buffer).chain(&plan.updated).find(|id| unknown(id)) {
            self.wrong(format!("an output or update names buffer {} of {n_buffers}", id.0));
        }
        if plan.old_reads.iter().flatten().any(unknown) {
            self.wrong("a read of an old value names no buffer");
        }
        if plan.step_values.iter().flatten().any(|(_, id)| unknown(id)) {
            self.wrong("the value of a step is in no buffer");
        }
        let lengths = [plan.step_nodes.len(), plan.old_reads.len(), plan.step_values.len()];
        if lengths.iter().any(|&n| n != plan.steps.len()) {
            self.wrong("the lists by step have other lengths than the list of steps");
        }
        for decl in plan.buffers.iter().filter(|decl| isize::try_from(decl.n_bytes()).is_err()) {
            self.wrong(format!("`{}` of {} elements is larger than what can be addressed", decl.name, decl.n_elements));
        }
    }

    // ---- 2 -------------------------------------------------------------------------------------------------------

    fn kernels(&mut self) {
        for (k, kernel) in self.plan.kernels.iter().enumerate() {
            for error in kernel.verify().err().into_iter().flatten() {
                self.wrong(format!("kernel {k} ({}): {error}", kernel.name));
            }
        }
    }

    fn call(&mut self, s: usize, call: &KernelCall) {
        let kernel = &self.plan.kernels[call.kernel];
        for (k, (arg, &id)) in kernel.args.iter().zip(&call.args).enumerate() {
            if arg.dtype != self.decl(id).dtype {
                let (got, name) = (self.decl(id).dtype, self.name(id));
                self.wrong(format!("step {s}: argument {k} of {} is bound to {name} of {got}", arg.dtype));
            }
        }
        let lengths: Vec<usize> = call.args.iter().map(|&id| self.decl(id).n_elements).collect();
        for error in kernel.check_bounds(&lengths).err().into_iter().flatten() {
            self.wrong(format!("step {s} ({}): {error}", kernel.name));
        }
        self.stores(s, call);
        // 13: arguments in one buffer. Different buffers in one place are the arena's matter.
        for (i, &to) in call.args.iter().enumerate() {
            for (j, &from) in call.args.iter().enumerate() {
                let shared = i != j && to == from && kernel.args[i].written;
                if shared && (kernel.args[j].written || !arena::aligned(kernel, j, i)) {
                    let name = self.name(to);
                    self.wrong(format!("step {s}: {name} is written and read at other elements by one kernel"));
                }
            }
            // An argument that is itself read and written.
            if kernel.args[i].written && kernel.args[i].read && !arena::aligned(kernel, i, i) {
                let name = self.name(to);
                self.wrong(format!("step {s}: {name} is written and read at other elements by one kernel"));
            }
        }
    }

    // ---- 4, 5, 6, 7 ----------------------------------------------------------------------------------------------

    fn step(&mut self, s: usize, step: &Step) {
        for call in step.calls() {
            self.call(s, call);
        }
        match step {
            Step::Kernel(_) => {}
            Step::Product { factors, dtype, c, epilogue } => {
                self.factors(s, factors, *dtype);
                self.product(s, factors, *dtype, *c, epilogue.as_ref());
            }
            Step::Op(op) => self.op(s, op),
            Step::Loop(step) => {
                step.errors(self.plan).into_iter().for_each(|error| self.wrong(format!("step {s}: {error}")));
            }
            Step::Copy { from, to, .. } => {
                self.same_dtype(s, *from, *to);
                self.apart(s, *to, &[*from]);
                if self.decl(*from).n_elements != self.decl(*to).n_elements {
                    let (from, to) = (self.name(*from), self.name(*to));
                    self.wrong(format!("step {s}: {from} and {to} are copied but not of one size"));
                }
            }
            Step::Check { values, what: CheckWhat::Below(_), .. } => self.integers(s, *values),
            Step::Check { values, what: CheckWhat::Finite, .. } => {
                if !self.decl(*values).dtype.is_float() {
                    let (name, got) = (self.name(*values), self.decl(*values).dtype);
                    self.wrong(format!("step {s}: {name} of {got} is checked to be finite"));
                }
            }
        }
    }

    /// The result of a step is none of its operands. That different buffers do not overlap is the arena's matter.
    fn apart(&mut self, s: usize, result: BufferId, operands: &[BufferId]) {
        if operands.contains(&result) {
            let name = self.name(result);
            self.wrong(format!("step {s}: {name} is the result of the step and one of its operands"));
        }
    }

    fn note_checks(&mut self, step: &Step) {
        match step {
            Step::Check { values, what: CheckWhat::Below(bound), .. } => {
                let known = self.checked.entry(*values).or_insert(*bound);
                *known = (*known).min(*bound);
            }
            _ if self.checked.is_empty() => {}
            _ => {
                for id in step.writes(self.plan) {
                    self.checked.remove(&id);
                }
            }
        }
    }

    fn same_dtype(&mut self, s: usize, from: BufferId, to: BufferId) {
        if self.decl(from).dtype != self.decl(to).dtype {
            let (from, to) = (self.name(from), self.name(to));
            self.wrong(format!("step {s}: {from} and {to} have different element types"));
        }
    }

    fn integers(&mut self, s: usize, indices: BufferId) {
        if !matches!(self.decl(indices).dtype, DType::I32 | DType::I64) {
            let (name, got) = (self.name(indices), self.decl(indices).dtype);
            self.wrong(format!("step {s}: indices {name} are {got}"));
        }
    }

    /// What a product multiplies lies inside of its buffers.
    fn factors(&mut self, s: usize, factors: &Factors, dtype: DType) {
        for id in factors.buffers() {
            if self.decl(id).dtype != dtype {
                let name = self.name(id);
                self.wrong(format!("step {s}: a product of {dtype} reads {name}"));
            }
        }
        match factors {
            Factors::Matrices { dims, a, b } => self.matrices(s, *dims, [a, b]),
            Factors::Conv { conv, direction, a, b } if conv.is_sound() => {
                for (piece, n) in [a, b].into_iter().zip(conv.operands(*direction)) {
                    let (length, offset) = (self.decl(piece.buffer).n_elements, piece.offset);
                    if n > 0 && offset.checked_add(n).is_none_or(|end| end > length) {
                        let name = self.name(piece.buffer);
                        self.wrong(format!(
                            "step {s}: {factors} reads {n} elements from {offset} of {name}, which has {length}"
                        ));
                    }
                }
            }
            Factors::Conv { .. } => self.wrong(format!("step {s}: {factors} is no convolution that can be counted")),
        }
    }

    fn matrices(&mut self, s: usize, dims: GemmDims, operands: [&MatrixView; 2]) {
        let extents = [(dims.m, dims.k), (dims.k, dims.n)];
        for (view, (rows, cols)) in operands.into_iter().zip(extents) {
            let length = self.decl(view.buffer).n_elements as i128;
            let steps = [(dims.batch, view.batch_stride), (rows, view.row_stride), (cols, view.col_stride)];
            let empty = steps.iter().any(|&(n, _)| n == 0) || dims.m == 0 || dims.n == 0;
            let reach = |(n, stride): (usize, i64)| (n as i128 - 1).saturating_mul(i128::from(stride));
            let (mut low, mut high) = (i128::from(view.offset), i128::from(view.offset));
            for step in steps {
                low = low.saturating_add(reach(step).min(0));
                high = high.saturating_add(reach(step).max(0));
            }
            if !empty && (low < 0 || high >= length) {
                let name = self.name(view.buffer);
                self.wrong(format!("step {s}: a product reads elements {low}..={high} of {name}, which has {length}"));
            }
        }
    }

    fn product(&mut self, s: usize, factors: &Factors, dtype: DType, c: BufferId, epilogue: Option<&Epilogue>) {
        let dims = factors.dims();
        let n_elements = dims.batch.checked_mul(dims.m).and_then(|rows| rows.checked_mul(dims.n));
        if self.decl(c).dtype != dtype || !dtype.is_float() || Some(self.decl(c).n_elements) != n_elements {
            let name = self.name(c);
            self.wrong(format!("step {s}: {name} is not a product of {dims:?} of {dtype}"));
        }
        let mut written = vec![c];
        if let Some(epilogue) = epilogue {
            let call = &epilogue.call;
            let kernel = &self.plan.kernels[call.kernel];
            let fits = match self.misfit(epilogue, dims) {
                None => true,
                Some(why) => {
                    let (got, block) = (kernel.dims.as_slice(), epilogue.block);
                    let what = format!("an epilogue of {:?} {got:?} by {block} rows finishes {dims:?}", kernel.sweep);
                    self.wrong(format!("step {s}: {what}: {why}"));
                    false
                }
            };
            for (k, (arg, &id)) in kernel.args.iter().zip(&call.args).enumerate() {
                if arg.written {
                    written.push(id);
                }
                // Tiles are made one after the other: another element of the result may not be there yet, or gone.
                if id == c && fits && !at_own_element(kernel, k) {
                    self.wrong(format!("step {s}: an epilogue touches its product's result at other elements"));
                }
            }
        }
        for id in factors.buffers().into_iter().filter(|id| written.contains(id)) {
            let name = self.name(id);
            self.wrong(format!("step {s}: {name} is an operand of a product and written by the same step"));
        }
    }

    /// Why an epilogue does not finish a product of these extents, block by block.
    fn misfit(&self, epilogue: &Epilogue, dims: GemmDims) -> Option<&'static str> {
        let kernel = &self.plan.kernels[epilogue.call.kernel];
        let (Some(rows), block) = (dims.batch.checked_mul(dims.m), epilogue.block) else {
            return Some("the rows cannot be counted");
        };
        if kernel.phases.iter().filter(|p| p.space == Space::Full).count() > 1 {
            return Some("it sweeps more than once");
        }
        match kernel.sweep {
            Sweep::Row => return Some("rows are finished piece by piece"),
            Sweep::Elementwise => {
                let fits = block == 1 && epilogue.last.is_none() && kernel.dims[..] == [rows, dims.n];
                return (!fits).then_some("the extents differ");
            }
            Sweep::Column => {}
        }
        let whole = rows.checked_div(block).unwrap_or(0);
        let in_one = kernel.dims[..] == [rows, dims.n] && block == rows;
        let in_blocks = kernel.dims[..] == [whole, block, dims.n] && whole > 0;
        if !in_one && !in_blocks {
            return Some("the extents differ");
        }
        if block != COLUMN_BLOCK && !(in_one && rows <= COLUMN_BLOCK) {
            return Some("its blocks are not those of the order of reductions");
        }
        if dims.batch > 1 && !dims.m.is_multiple_of(block) {
            return Some("a block reaches into the next product");
        }
        let left = rows % block;
        let last = epilogue.last.as_ref().map(|call| (&self.plan.kernels[call.kernel], &call.args));
        let expected = (left > 0).then(|| kernel.last_block(left));
        if last != expected.as_ref().map(|kernel| (kernel, &epilogue.call.args)) {
            return Some("the rows after the last whole block are not finished alike");
        }
        // Blocks without columns store nothing, wherever that would be.
        let alone = in_one || dims.n == 0 || whole + usize::from(left > 0) == 1;
        // The last block stores where the kernel would if it had one more.
        let mut with_last = kernel.clone();
        with_last.dims[0] += usize::from(left > 0);
        with_last.total = with_last.dims.iter().product();
        let stores = kernel.phases.iter().flat_map(|p| p.stores.iter().map(move |s| (p.space, &s.map)));
        let is_apart = |(space, map)| Lattice::of(&with_last, space, map, false).is_injective();
        (!alone && !stores.clone().all(is_apart)).then_some("its blocks store to the same places")
    }

    fn op(&mut self, s: usize, step: &OpStep) {
        let op = step.op.0;
        let Some(how) = step.how() else { return self.wrong(format!("step {s}: `{}` is done in loops", op.name)) };
        let operands: Vec<BufferId> = step.operands.iter().map(|(id, _)| *id).collect();
        let starts_as = how.starts_as().filter(|_| step.in_place_of() == Some(step.out));
        let others = operands.iter().enumerate().filter(|&(k, _)| Some(k) != starts_as);
        self.apart(s, step.out, &others.map(|(_, &id)| id).collect::<Vec<_>>());
        for (id, ty) in step.operands.iter().chain([&(step.out, step.ty.clone())]) {
            let decl = self.decl(*id);
            if ty.as_tensor().map(|(dtype, shape)| (dtype, shape.n_elements())) != Some((decl.dtype, decl.n_elements)) {
                let (name, got, n) = (self.name(*id), decl.dtype, decl.n_elements);
                return self.wrong(format!("step {s}: {name} of {n} elements of {got} is no {ty}"));
            }
        }
        let types: Vec<&Type> = step.operands.iter().map(|(_, ty)| ty).collect();
        let cx = InferCx { op, inputs: &types, attrs: &step.attrs, declared: None, bodies: &[] };
        let inferred = if op.arity.allows(types.len()) { (op.infer)(&cx).ok() } else { None };
        if inferred.as_ref() != Some(&step.ty) {
            let types = types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return self.wrong(format!("step {s}: `{}` of {types} is no {}", op.name, step.ty));
        }
        for (k, bound) in how.indices(&step.cx()) {
            let indices = operands[k];
            self.integers(s, indices);
            let known = match &self.decl(indices).home {
                Home::Const(value) => Some(value),
                _ => None,
            };
            if CheckWhat::Below(bound).holds_of(known) {
                continue;
            }
            let name = self.name(indices);
            match self.checked.get(&indices).copied() {
                None if self.decl(indices).n_elements > 0 => self.wrong(format!("step {s}: {name} are not checked")),
                Some(known) if known > bound => {
                    self.wrong(format!("step {s}: {name} are checked against {known}, not against {bound}"));
                }
                _ => {}
            }
        }
    }

    // ---- 8, 9, 10, 11, 12, 14 ------------------------------------------------------------------------------------

    /// Goes through the steps in order; returns what they have stored.
    fn flow(&mut self) -> Coverage {
        let plan = self.plan;
        let mut stored = Coverage::default();
        let is_there = |decl: &BufferDecl| !matches!(decl.home, Home::Arena { .. } | Home::Rows | Home::Output);
        let mut is_new = vec![false; plan.buffers.len()];
        let mut first_write: Option<usize> = None;
        let updated: HashSet<BufferId> = plan.updated.iter().copied().collect();
        for (s, step) in plan.steps.iter().enumerate() {
            let mut reads = step.reads(plan);
            if let Step::Product { c, .. } = step {
                // The step makes it before its epilogue reads it.
                reads.retain(|id| id != c);
            }
            for id in reads {
                let decl = self.decl(id);
                if !is_there(decl) && !stored.is_whole(id, decl.n_elements) {
                    let (name, part) = (self.name(id), if stored.has(id) { "all of " } else { "" });
                    self.wrong(format!("step {s}: {name} is read before {part}it is written"));
                }
            }
            self.note_stores(step, &mut stored);
            for &id in &plan.old_reads[s] {
                if is_new[id.index()] {
                    let name = self.name(id);
                    self.wrong(format!("step {s}: the old value of {name} is read after it was written"));
                }
            }
            let checks = matches!(step, Step::Check { .. }) || matches!(step, Step::Loop(step) if step.checks());
            if let (true, Some(first)) = (checks, first_write) {
                self.wrong(format!("step {s}: a check comes after step {first}, which changes a parameter or state"));
            }
            for id in step.writes(plan) {
                let decl = self.decl(id);
                match decl.home {
                    Home::Arena { .. } | Home::Rows | Home::Output => {}
                    Home::Param | Home::State if updated.contains(&id) => {
                        is_new[id.index()] = true;
                        first_write.get_or_insert(s);
                        let may_read = match step {
                            Step::Kernel(_) | Step::Product { .. } => true,
                            Step::Op(op) => op.in_place_of() == Some(id),
                            _ => false,
                        };
                        if plan.old_reads[s].contains(&id) && !may_read {
                            let name = self.name(id);
                            self.wrong(format!("step {s}: {name} is read and written by one step"));
                        }
                    }
                    _ => {
                        let name = self.name(id);
                        self.wrong(format!("step {s}: {name} is written, and must not change"));
                    }
                }
            }
        }
        for output in &plan.outputs {
            let decl = &plan.buffers[output.buffer.index()];
            if !is_there(decl) && !stored.is_whole(output.buffer, decl.n_elements) {
                let how = if stored.has(output.buffer) { "written only in parts" } else { "never written" };
                self.wrong(format!("output `{}` is {how}", output.name));
            }
            if matches!(decl.home, Home::Input | Home::Counters | Home::Rows) {
                self.wrong(format!("output `{}` is gone when the step is over", output.name));
            }
            if decl.dtype != output.ty.dtype() || decl.n_elements != output.ty.shape().n_elements() {
                self.wrong(format!("output `{}` of {} is in {}", output.name, output.ty, decl.name));
            }
        }
        stored
    }

    fn updates(&mut self, mut stored: Coverage) {
        let plan = self.plan;
        let mut writers: HashMap<BufferId, Vec<usize>> = HashMap::new();
        for (s, step) in plan.steps.iter().enumerate() {
            for id in step.writes(plan).into_iter().filter(|&id| is_home(self.decl(id))) {
                writers.entry(id).or_default().push(s);
            }
        }
        let mut seen = HashSet::new();
        for &id in &plan.updated {
            let name = self.name(id);
            if !seen.insert(id) || !is_home(self.decl(id)) {
                self.wrong(format!("{name} is declared updated twice, or is no parameter or state"));
            }
            let steps = writers.get(&id).map_or(&[][..], Vec::as_slice);
            let together = |w: &[usize]| w[1] == w[0] + 1 && plan.step_nodes[w[0]] == plan.step_nodes[w[1]];
            if steps.is_empty() {
                self.wrong(format!("{name} is declared updated but never written"));
            } else if !steps.windows(2).all(together) {
                self.wrong(format!("{name} is written by several steps: {steps:?}"));
            } else if !stored.is_whole(id, self.decl(id).n_elements) {
                self.wrong(format!("{name} is declared updated, and written only in parts"));
            }
        }
    }

    // ---- 14, 15, 16 ----------------------------------------------------------------------------------------------

    fn arena(&mut self) {
        let plan = self.plan;
        for (decl, needed) in plan.buffers.iter().zip(arena::lifetimes(plan)) {
            let covered = needed.is_empty() || decl.live.start <= needed.start && needed.end <= decl.live.end;
            if !covered {
                let text = format!("`{}` is declared alive in {:?}, but used in {needed:?}", decl.name, decl.live);
                self.wrong(text);
            }
        }
        for (i, decl) in plan.buffers.iter().enumerate().filter(|(_, decl)| decl.home == Home::Rows) {
            let id = BufferId(i as u32);
            // Over no elements nothing is loaded.
            let n_args = |call: &KernelCall| call.args.iter().filter(|arg| **arg == id).count();
            let fits = |n: usize| n == 1 || decl.n_elements == 0 && n == 0;
            let in_one_argument = |step: &Step| step.calls().all(|call| fits(n_args(call)));
            let of_product = |step: &Step| {
                let is_result = matches!(step, Step::Product { c, .. } if *c == id);
                is_result && arena::may_be_rows(plan, step) && in_one_argument(step)
            };
            let of_rows = |step: &Step| matches!(step, Step::Kernel(call) if self.keeps_row(call, id));
            let kept = plan.outputs.iter().any(|o| o.buffer == id);
            let step = plan.steps.get(decl.live.start);
            if kept || decl.live.len() != 1 || !step.is_some_and(|step| of_product(step) || of_rows(step)) {
                self.wrong(format!(
                    "`{}` is kept row by row, and others than its own step's kernel read it",
                    decl.name
                ));
            }
        }
        let mut slices: Vec<(usize, usize, BufferId)> = Vec::new();
        for (i, decl) in plan.buffers.iter().enumerate() {
            let Home::Arena { offset } = decl.home else { continue };
            if decl.live.is_empty() {
                continue;
            }
            // The size was checked with the ids.
            let end = offset.checked_add(decl.n_bytes());
            if offset % ALIGNMENT != 0 {
                self.wrong(format!("`{}` lies at {offset}, no multiple of {ALIGNMENT}", decl.name));
            }
            match end {
                Some(end) if end <= plan.arena_bytes => slices.push((offset, end, BufferId(i as u32))),
                _ => self.wrong(format!("`{}` leaves the arena of {} bytes", decl.name, plan.arena_bytes)),
            }
        }
        // By birth, against those still alive.
        slices.sort_unstable_by_key(|&(offset, _, id)| (self.decl(id).live.start, offset, id));
        // As long as nothing is wrong, those alive are disjoint, but for what is taken over, which is in one place. So what
        // overlaps a new slice begins inside of it, or is among the last that begin before it.
        let mut alive: BTreeMap<usize, Vec<(usize, BufferId)>> = BTreeMap::new();
        let mut ends: BinaryHeap<Reverse<(usize, usize, BufferId)>> = BinaryHeap::new();
        for &(offset, end, id) in &slices {
            let live = self.decl(id).live.clone();
            while let Some(&Reverse((_, at, dead))) = ends.peek().filter(|e| e.0.0 <= live.start) {
                ends.pop();
                if let Some(there) = alive.get_mut(&at) {
                    there.retain(|(_, other)| *other != dead);
                    if there.is_empty() {
                        alive.remove(&at);
                    }
                }
            }
            let before = alive.range(..offset).next_back();
            let others = before.into_iter().chain(alive.range(offset..end));
            let others: Vec<(usize, BufferId)> = others.flat_map(|(_, there)| there).copied().collect();
            for (e, other) in others {
                if offset < e && !self.is_taken_over(other, id) && !self.is_taken_over(id, other) {
                    let (a, b) = (self.name(other), self.name(id));
                    let (x, y) = (self.decl(other).live.clone(), self.decl(id).live.clone());
                    self.wrong(format!("{a} (alive in {x:?}) and {b} (alive in {y:?}) overlap in the arena"));
                }
            }
            alive.entry(offset).or_default().push((end, id));
            ends.push(Reverse((live.end, offset, id)));
        }
    }

    /// Whether a kernel uses a buffer for the row under way only: it sweeps whole rows, and loads nothing that it has not stored
    /// there before, in the same row.
    fn keeps_row(&self, call: &KernelCall, id: BufferId) -> bool {
        let kernel = &self.plan.kernels[call.kernel];
        let args = kernel.args.iter().zip(&call.args).filter(|(_, arg)| **arg == id);
        kernel.sweep == Sweep::Row && args.clone().count() == 1 && args.clone().all(|(arg, _)| arg.written && !arg.read)
    }

    /// Whether `to` is made where `from` dies, by an elementwise kernel that reads the element it writes, or by what is not loops
    /// and starts as `from`.
    fn is_taken_over(&self, from: BufferId, to: BufferId) -> bool {
        let (a, b) = (self.decl(from), self.decl(to));
        let place = |decl: &BufferDecl| match decl.home {
            Home::Arena { offset } => Some((offset, decl.n_bytes(), decl.dtype.size_bytes())),
            _ => None,
        };
        let s = b.live.start;
        let in_one_place = a.live.end == s + 1 && place(a) == place(b);
        let call = match self.plan.steps.get(s) {
            Some(Step::Kernel(call)) => call,
            Some(Step::Op(op)) => return in_one_place && op.out == to && op.in_place_of() == Some(from),
            Some(Step::Loop(step)) => return in_one_place && step.in_place_of(to) == Some(from),
            _ => return false,
        };
        let kernel = &self.plan.kernels[call.kernel];
        let find = |id: BufferId| {
            let mut at = call.args.iter().enumerate().filter(move |&(_, &arg)| arg == id).map(|(k, _)| k);
            at.next().filter(|_| at.next().is_none())
        };
        let (Some(j), Some(k)) = (find(from), find(to)) else { return false };
        let arg = |k: usize| &kernel.args[k];
        let roles = arg(j).read && !arg(j).written && arg(k).written && !arg(k).read;
        in_one_place && roles && arena::aligned(kernel, j, k)
    }

    // ---- 17 ------------------------------------------------------------------------------------------------------

    fn homes(&mut self) {
        let mut names = HashSet::new();
        for decl in &self.plan.buffers {
            let named = matches!(decl.home, Home::Input | Home::Param | Home::State);
            if named && !names.insert(&decl.name) {
                self.errors.push(format!("two buffers are named `{}`", decl.name));
            }
            if let Home::Const(data) = &decl.home
                && (data.dtype() != decl.dtype || data.shape().n_elements() != decl.n_elements)
            {
                self.errors.push(format!("`{}` is not of its constant's type", decl.name));
            }
            if decl.home == Home::Counters && (decl.dtype, decl.n_elements) != (DType::I32, 3) {
                self.errors.push(format!("`{}` are not the three words of counters", decl.name));
            }
        }
    }
}

/// Whether an argument of an epilogue is touched at the row-major element under way only.
fn at_own_element(kernel: &Kernel, arg: usize) -> bool {
    let own = |map: &crate::ir::IndexMap| {
        let mut stride = 1i64;
        let mut extents = kernel.dims.iter().zip(&map.strides).rev();
        let in_order = extents.all(|(&extent, &got)| {
            let expected = stride;
            stride = stride.saturating_mul(extent as i64);
            extent <= 1 || got == expected
        });
        map.offset == 0 && in_order
    };
    kernel.phases.iter().all(|phase| {
        let loads = phase.inputs.iter().all(|input| match input {
            crate::ir::Input::Load { arg: a, map } if a.0 as usize == arg => own(map),
            crate::ir::Input::Clamped { arg: a, .. } => a.0 as usize != arg,
            _ => true,
        });
        loads && phase.stores.iter().all(|s| s.arg.0 as usize != arg || own(&s.map))
    })
}
