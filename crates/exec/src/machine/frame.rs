//! A plan bound to memory, and the loop that runs its steps; loops in it are frames of their own. What the unsafe code relies on
//! is listed at the top of `machine.rs`; for loops also
//! * *iterations*: in every iteration what a body is given, and where its results go, lies inside of the buffers around it, of
//!   the same element types, and apart ([`LoopStep`], by the plan verifier); its arena is a buffer of the plan around it.

use std::ops::Range;
use std::slice;

use cotangent_codegen::LoopFn;
use cotangent_gemm::Workspace;
use cotangent_graph::interp::in_iteration;
use cotangent_graph::{Code, Counters, Diag, Element, Elements, ElementsMut, Loc, NodeId, OpRef, Origin, Type};
use cotangent_host::{Block, LINE, Refused};
use cotangent_kernel::ir::{Kernel, Sweep};
use cotangent_kernel::{BufferId, CheckWhat, Epilogue, Factors, Home, KernelCall, LoopStep, OpStep, Plan, Step};
use cotangent_pool::{Pool, split};
use cotangent_scalar::DType;
use smallvec::SmallVec;

use crate::compile::Executable;
use crate::memory::{block_of_tensor, no_memory};
use crate::place::{COUNTERS_BYTES, Place};
use crate::products::{AnyEngine, Engine};
use crate::ready::{Ready, bodies};
use crate::tuning::Turn;
use crate::turns::{Extra, moves};

/// A plan bound to memory.
#[derive(Debug)]
pub(super) struct Frame {
    counters: Block,
    #[expect(dead_code, reason = "owns the memory that `buffers` leads into")]
    constants: Vec<Block>,
    /// The address of each buffer; null for inputs outside of a step, and for what is kept row by row.
    pub(super) buffers: Vec<*mut u8>,
    /// For each step its kernel call's pointers, in `pointers`, and how far after them those of the next part are.
    calls: Vec<(Range<usize>, usize)>,
    pointers: Vec<*mut u8>,
    /// Where addresses that change go from `buffers`: (index into `pointers`, index into `buffers`).
    patches: Vec<(usize, usize)>,
    /// Those of them that change from iteration to iteration.
    moving: Vec<(usize, usize)>,
    /// For each step, the work of its kernel: how many parts, and along which loop.
    splits: Vec<Split>,
    /// For each step its body, if it is a loop.
    loops: Vec<Option<Frame>>,
    /// Of a loop's body: what runs all of its iterations, if that is one function.
    whole: Option<Whole>,
}

/// The function that runs all iterations of a loop.
#[derive(Debug)]
struct Whole {
    function: LoopFn,
    /// Where `pointers` holds the places that the loop's results go to: (place, number of the result).
    results: SmallVec<[(usize, usize); 2]>,
    /// Where it leads to counters.
    draws: SmallVec<[usize; 2]>,
    /// If there are such, the counters of some iterations, one behind the other.
    ahead: Block,
}

/// Iterations that draw random numbers, at most, in one call of a loop's function: for so many there are counters.
const AHEAD: usize = 256;

impl Whole {
    /// Sets the counters of the next iterations.
    fn count(&mut self, all: impl Iterator<Item = Counters>) {
        let words = all.flat_map(Counters::words);
        for (place, word) in self.ahead.bytes_mut().chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
    }
}

/// How a kernel is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    Whole,
    Rows(usize),
    Columns(usize),
}

/// What a plan is bound to beside its own memory.
pub(super) struct Site<'a> {
    pub(super) program: &'a Executable,
    pub(super) n_threads: usize,
    /// The rows that threads keep, and the bytes of each thread's share.
    pub(super) rows: &'a Block,
    pub(super) share: usize,
}

/// What a run has at hand.
pub(super) struct Hand<'a> {
    pub(super) program: &'a Executable,
    pub(super) pool: &'a Pool,
    pub(super) workspace: &'a mut Workspace,
}

/// For each thread, the bytes of the rows that it keeps.
pub(super) fn row_bytes(plan: &Plan) -> usize {
    let own = plan.steps.iter().map(|step| rows_of(plan, step).1);
    own.chain(bodies(plan).map(row_bytes)).max().unwrap_or(0)
}

impl Frame {
    /// Memory for a plan whose arena starts at `arena`, beside what `find` finds of what lives elsewhere.
    pub(super) fn new(
        site: &Site<'_>,
        plan: &Plan,
        ready: &Ready,
        arena: *mut u8,
        find: &mut dyn FnMut(usize, &Place) -> Result<*mut u8, Diag>,
    ) -> Result<Self, Diag> {
        let refused = |what: &'static str| move |refused| no_memory(what, refused).at(Loc::Internal);
        let counters = Block::zeroed(COUNTERS_BYTES).map_err(refused("counters"))?;
        let mut constants = Vec::new();
        let mut buffers: Vec<*mut u8> = Vec::with_capacity(plan.buffers.len());
        for (k, place) in ready.places.iter().enumerate() {
            buffers.push(match place {
                Place::Nowhere | Place::Given => std::ptr::null_mut(),
                Place::Counters => counters.as_ptr(),
                // Inside: places were checked (*places*).
                Place::Arena(offset) => arena.wrapping_add(*offset),
                Place::Constant(value) => {
                    let block = block_of_tensor(value).map_err(refused("a constant"))?;
                    let address = block.as_ptr();
                    constants.push(block);
                    address
                }
                Place::Input(_) | Place::Stored(_) => find(k, place)?,
            });
        }
        let (mut calls, mut pointers, mut patches, mut splits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut loops = Vec::with_capacity(plan.steps.len());
        for (s, step) in plan.steps.iter().enumerate() {
            // The calls of one step have the same arguments.
            let args = step.calls().next().map_or(&[][..], |call| &call.args);
            let split = match step {
                Step::Kernel(call) => choose_split(site.program, &plan.kernels[call.kernel], site.n_threads),
                Step::Op(op) => split_op(site.program, plan, step, op, site.n_threads),
                _ => Split::Whole,
            };
            let (kept, _) = rows_of(plan, step);
            let n_parts = match split {
                Split::Rows(n) if !kept.is_empty() => n,
                _ => 1,
            };
            let start = pointers.len();
            for part in 0..n_parts {
                for (position, buffer) in args.iter().enumerate() {
                    if is_patched(&ready.places[buffer.index()]) {
                        patches.push((pointers.len(), buffer.index()));
                    }
                    let row = kept.iter().find(|(k, _)| *k == position);
                    pointers.push(match row {
                        Some((_, offset)) => site.rows.as_ptr().wrapping_add(part * site.share + offset),
                        None => buffers[buffer.index()],
                    });
                }
            }
            calls.push((start..start + args.len(), if n_parts > 1 { args.len() } else { 0 }));
            splits.push(split);
            loops.push(match (step, &ready.bodies[s]) {
                (Step::Loop(step), Some(ready)) => {
                    let missing = |_: usize, _: &Place| Ok(std::ptr::null_mut());
                    let arena = buffers[step.frame.index()];
                    let mut inner = Frame::new(site, &step.body, ready, arena, &mut { missing })?;
                    inner.whole = inner.as_a_whole(site, ready).map_err(refused("counters"))?;
                    let moves = |&(_, buffer): &(usize, usize)| moves(step, BufferId(buffer as u32));
                    inner.moving = inner.patches.iter().copied().filter(moves).collect();
                    Some(inner)
                }
                _ => None,
            });
        }
        let moving = Vec::new();
        Ok(Frame { counters, constants, buffers, calls, pointers, patches, moving, splits, loops, whole: None })
    }

    /// The function that runs all iterations of the loop whose body this is, if there is one and nothing of the body is divided. Then
    /// what the function needs beside the arguments of kernels joins `pointers`.
    fn as_a_whole(&mut self, site: &Site<'_>, ready: &Ready) -> Result<Option<Whole>, Refused> {
        let Some((turns, number)) = ready.turns.as_ref() else { return Ok(None) };
        if self.splits.iter().any(|split| *split != Split::Whole) {
            return Ok(None);
        }
        let mut results = SmallVec::new();
        for extra in &turns.extras {
            let place = self.pointers.len();
            self.pointers.push(match *extra {
                Extra::Buffer(id) => {
                    if is_patched(&ready.places[id.index()]) {
                        self.patches.push((place, id.index()));
                    }
                    self.buffers[id.index()]
                }
                Extra::Result(number) => {
                    results.push((place, number));
                    std::ptr::null_mut()
                }
                // Read only, and as long there as the program.
                Extra::Layout(kernel) => ready.layouts[kernel].as_ptr().cast_mut().cast(),
            });
        }
        let function = site.program.compiled.loops()[*number].clone();
        let ahead = Block::zeroed(if turns.draws.is_empty() { 0 } else { AHEAD * COUNTERS_BYTES })?;
        Ok(Some(Whole { function, results, draws: SmallVec::from_slice(&turns.draws), ahead }))
    }

    /// Takes addresses over that have changed since the last step.
    pub(super) fn patch(&mut self) {
        for &(pointer, buffer) in &self.patches {
            self.pointers[pointer] = self.buffers[buffer];
        }
    }

    /// What random numbers depend on.
    pub(super) fn count(&mut self, counters: Counters) {
        for (place, word) in self.counters.bytes_mut().chunks_exact_mut(4).zip(counters.words()) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
    }

    /// One step of the plan.
    pub(super) fn step(
        &mut self,
        hand: &mut Hand<'_>,
        (plan, ready): (&Plan, &Ready),
        (s, step): (usize, &Step),
        turn: &mut Turn<'_>,
        counters: Counters,
    ) -> Result<(), Diag> {
        match step {
            Step::Kernel(call) => self.kernel(hand, (plan, ready), s, call),
            Step::Product { factors, c, epilogue, .. } => {
                self.product(hand, ready, s, (factors, *c, epilogue.as_ref()), turn);
            }
            Step::Check { values, what: CheckWhat::Below(bound), op, origin } => {
                self.check_indices(hand.program, plan, *values, *bound, *op, origin)?;
            }
            Step::Check { values, what: CheckWhat::Finite, op, origin } => {
                self.check_finite(plan, *values, *op, origin)?;
            }
            Step::Copy { from, to, .. } => {
                let n = plan.buffers[to.index()].n_bytes();
                // SAFETY: both buffers have at least `n` bytes (equal types, *places*) and are distinct.
                unsafe { std::ptr::copy(self.buffers[from.index()], self.buffers[to.index()], n) };
            }
            Step::Op(op) => self.op(plan, hand.pool, s, op),
            Step::Loop(step) => {
                if let (Some(inner), Some(ready), Some(mut turn)) =
                    (&mut self.loops[s], &ready.bodies[s], turn.inside(s))
                {
                    repeat(hand, (step, ready), &self.buffers, inner, &mut turn, counters)?;
                }
            }
        }
        Ok(())
    }

    fn kernel(&self, hand: &Hand<'_>, (plan, ready): (&Plan, &Ready), step: usize, call: &KernelCall) {
        let kernel = &plan.kernels[call.kernel];
        if kernel.stores_nothing() {
            return;
        }
        let (range, apart) = &self.calls[step];
        let pointers = Shared(&self.pointers[range.start..]);
        let layout = &ready.layouts[call.kernel];
        let function = &hand.program.compiled.functions()[ready.first + call.kernel];
        let (rows, cols) = (kernel.n_rows(), kernel.inner());
        match self.splits[step] {
            // SAFETY: *instructions*; *bounds*; the layout is this kernel's; the whole range is inside of it; pointers are those of the
            // arguments (*slices*, *places*, *homes*, *inputs*), and nothing else runs.
            Split::Whole => unsafe { function.call(pointers.0, layout, 0..rows, 0..cols) },
            Split::Rows(n) => hand.pool.run(n, &|part| {
                let rows = split(rows, n, part, kernel.block().max(1));
                let pointers = &pointers;
                // SAFETY: as above, for the rows of this part, with pointers of its own (*parts*).
                unsafe { function.call(&pointers.0[part * apart..], layout, rows, 0..cols) }
            }),
            Split::Columns(n) => hand.pool.run(n, &|part| {
                let cols = split(cols, n, part, 64);
                let pointers = &pointers;
                // SAFETY: as above, for the columns of this part (*parts*).
                unsafe { function.call(pointers.0, layout, 0..rows, cols) }
            }),
        }
    }

    fn product(
        &mut self,
        hand: &mut Hand<'_>,
        ready: &Ready,
        step: usize,
        (factors, c, epilogue): (&Factors, BufferId, Option<&Epilogue>),
        turn: &mut Turn<'_>,
    ) {
        // Compiling fails where a product has no plan, so each one has.
        let Some(product) = &ready.products[step] else { return };
        let Hand { program, pool, workspace } = hand;
        let pointers = Shared(&self.pointers[self.calls[step].0.clone()]);
        let pointers = &pointers;
        let finish = |batch: usize, rows: Range<usize>, cols: Range<usize>, c: *mut u8| {
            let rows = batch * product.rows + rows.start..batch * product.rows + rows.end;
            let mut own = SmallVec::<[*mut u8; 16]>::new();
            let pointers = match product.rows_at {
                None => pointers.0,
                Some(at) => {
                    own.extend_from_slice(pointers.0);
                    // Kernels count rows over the batch.
                    own[at] = c.wrapping_sub(batch * product.bytes);
                    &own
                }
            };
            for (call, rows) in epilogue.iter().flat_map(|e| e.calls(rows.clone())) {
                let function = &program.compiled.functions()[ready.first + call.kernel];
                // SAFETY: *instructions*; *bounds*; rows are counted over the batch, as the kernel's are; the product hands out each
                // rectangle once, complete, and in whole blocks of rows (*parts*).
                unsafe { function.call(pointers, &ready.layouts[call.kernel], rows, cols.clone()) }
            }
        };
        let epilogue = epilogue.map(|_| &finish as &cotangent_gemm::Epilogue<'_>);
        macro_rules! multiply {
            ($engine:expr, $t:ty) => {{
                let offsets = match factors {
                    Factors::Matrices { a, b, .. } => [a.offset as isize, b.offset as isize],
                    Factors::Conv { a, b, .. } => [a.offset as isize, b.offset as isize],
                };
                let [a, b] = factors.buffers().map(|id| self.buffers[id.index()].cast::<$t>().cast_const());
                let operands = [a.wrapping_offset(offsets[0]), b.wrapping_offset(offsets[1])];
                let c = self.buffers[c.index()].cast();
                // SAFETY: the plan verifier proves the operands in bounds, whose extents and strides the product was made of; C
                // is a buffer of its own that is alive together with the operands (*slices*), and the epilogue's other
                // results are not operands; the product was made for this CPU (*instructions*).
                unsafe {
                    match $engine {
                        Engine::Matrices(gemm) => gemm.run(pool, operands, c, epilogue, workspace),
                        Engine::Conv(conv) => conv.run(pool, operands, c, epilogue, workspace),
                    }
                }
            }};
        }
        let (engine, start) = turn.engine(step).unwrap_or((&product.engine, None));
        match engine {
            AnyEngine::F32(engine) => multiply!(engine, f32),
            AnyEngine::F64(engine) => multiply!(engine, f64),
        }
        if let Some(start) = start {
            turn.took(step, start);
        }
    }

    /// The elements of a buffer.
    pub(super) fn elements<T: Element>(&self, plan: &Plan, buffer: BufferId) -> &[T] {
        let decl = &plan.buffers[buffer.index()];
        let address = self.buffers[buffer.index()];
        if decl.n_elements == 0 || address.is_null() || T::DTYPE != decl.dtype {
            return &[];
        }
        // SAFETY: the buffer has `n_elements` of this type (*slices*, *places*, *homes*, *inputs*), initialized (arenas and stores
        // start zeroed), and no kernel runs now. A `bool` is 0 or 1: kernels store nothing else.
        unsafe { slice::from_raw_parts(address.cast(), decl.n_elements) }
    }

    fn index(&self, plan: &Plan, indices: BufferId, at: usize) -> i64 {
        match plan.buffers[indices.index()].dtype {
            DType::I32 => self.elements::<i32>(plan, indices).get(at).map_or(-1, |&v| i64::from(v)),
            _ => self.elements::<i64>(plan, indices).get(at).copied().unwrap_or(-1),
        }
    }

    fn check_indices(
        &self,
        program: &Executable,
        plan: &Plan,
        indices: BufferId,
        bound: usize,
        op: OpRef,
        origin: &Origin,
    ) -> Result<(), Diag> {
        let bad = match plan.buffers[indices.index()].dtype {
            DType::I32 => {
                let good = |&v: &i32| usize::try_from(v).is_ok_and(|v| v < bound);
                self.elements::<i32>(plan, indices).iter().position(|v| !good(v))
            }
            _ => {
                let good = |&v: &i64| usize::try_from(v).is_ok_and(|v| v < bound);
                self.elements::<i64>(plan, indices).iter().position(|v| !good(v))
            }
        };
        let Some(at) = bad else { return Ok(()) };
        let value = self.index(plan, indices, at);
        let name = &plan.buffers[indices.index()].name;
        let text = format!("indices must lie in 0..{bound}, got {value} at element {at} of `{name}`");
        let place = origin.loc();
        let mut diag = Diag::new(Code::IndexOutOfRange, text).at(place);
        for line in origin.lines.iter().skip(1) {
            diag = diag.note("also asked for", line.clone());
        }
        // The last operand of whole numbers is the one with the indices, whichever op asked.
        let graph = &program.optimized;
        let asked = graph.nodes().iter().find(|node| node.op == op && node.origin == *origin);
        let is_index = |id: &&NodeId| matches!(graph.ty(**id).dtype(), DType::I32 | DType::I64);
        if let Some(indices) = asked.and_then(|node| node.inputs.iter().rfind(is_index)) {
            diag = diag.note("the indices were made", graph.node(*indices).origin.loc());
        }
        Err(diag.help(format!("asked for by `{op}`; nothing has been changed by this step")))
    }

    fn check_finite(&self, plan: &Plan, values: BufferId, op: OpRef, origin: &Origin) -> Result<(), Diag> {
        let bad = match plan.buffers[values.index()].dtype {
            DType::F64 => self.elements::<f64>(plan, values).iter().position(|v| !v.is_finite()),
            _ => self.elements::<f32>(plan, values).iter().position(|v| !v.is_finite()),
        };
        let Some(at) = bad else { return Ok(()) };
        let text = format!("`{op}` requires finite values, got NaN or an infinity at element {at}");
        let help = "nothing has been changed by this step; `Session::find_non_finite` names the op where it starts";
        Err(Diag::new(Code::NotFinite, text).at(origin.loc()).help(help))
    }

    /// What is not loops.
    fn op(&self, plan: &Plan, pool: &Pool, step: usize, op: &OpStep) {
        let Some(how) = op.how() else { return };
        let start = how.starts_as();
        let operand = |(k, (id, ty)): (usize, &(BufferId, Type))| match Some(k) == start {
            true => Elements::none(ty.dtype()),
            false => self.operand(plan, *id),
        };
        let operands: SmallVec<[Elements<'_>; 6]> = op.operands.iter().enumerate().map(operand).collect();
        if let Some(start) = op.start() {
            // SAFETY: both buffers are of the result's type (*places*); they may be one.
            unsafe { std::ptr::copy(self.buffers[start.index()], self.buffers[op.out.index()], op.ty.n_bytes()) };
        } else if op.ty.dtype() == DType::Bool && op.ty.n_bytes() > 0 {
            // What other buffers have left there need not be truth values, and a slice of these has no others.
            // SAFETY: the result's memory has so many bytes (*places*), and no operand lies there (*slices*).
            unsafe { std::ptr::write_bytes(self.buffers[op.out.index()], 0, op.ty.n_bytes()) };
        }
        let cx = op.cx();
        let (n_pieces, n_elements) = (how.n_pieces(&cx), op.ty.shape().n_elements());
        let length = n_elements.checked_div(n_pieces).unwrap_or(0);
        let out = Shared(std::slice::from_ref(&self.buffers[op.out.index()]));
        let run = |pieces: Range<usize>| {
            let (out, at) = (&out, pieces.start * length..pieces.end * length);
            macro_rules! part {
                ($($variant:ident $t:ty),*) => {
                    match op.ty.dtype() {
                        // SAFETY: the result's memory has all elements (*places*), no operand but the one left out lies there
                        // (*slices*), and each part gets elements of its own (*parts*).
                        $(DType::$variant => ElementsMut::$variant(unsafe { elements_at::<$t>(out.0[0], at) }),)*
                    }
                };
            }
            let out = part!(F32 f32, F64 f64, I32 i32, I64 i64, U8 u8, Bool bool);
            how.run(&cx, &operands, pieces, out);
        };
        match self.splits[step] {
            Split::Rows(n) => pool.run(n, &|part| run(split(n_pieces, n, part, 1))),
            _ => run(0..n_pieces),
        }
    }

    fn operand(&self, plan: &Plan, buffer: BufferId) -> Elements<'_> {
        macro_rules! elements {
            ($($variant:ident $t:ty),*) => {
                match plan.buffers[buffer.index()].dtype {
                    $(DType::$variant => Elements::$variant(self.elements::<$t>(plan, buffer)),)*
                }
            };
        }
        elements!(F32 f32, F64 f64, I32 i32, I64 i64, U8 u8, Bool bool)
    }

    /// The bytes of a buffer; none of an input outside of a step.
    pub(super) fn bytes(&self, plan: &Plan, buffer: BufferId) -> &[u8] {
        let (address, decl) = (self.buffers[buffer.index()], &plan.buffers[buffer.index()]);
        if decl.n_elements == 0 || address.is_null() {
            return &[];
        }
        // SAFETY: as for `elements`, as bytes.
        unsafe { slice::from_raw_parts(address, decl.n_bytes()) }
    }
}

/// Follows a loop's body again and again, in `inner`, with what lies in the buffers around it.
fn repeat(
    hand: &mut Hand<'_>,
    (step, ready): (&LoopStep, &Ready),
    buffers: &[*mut u8],
    inner: &mut Frame,
    turn: &mut Turn<'_>,
    counters: Counters,
) -> Result<(), Diag> {
    let body = &*step.body;
    let of = |id: BufferId| &body.buffers[id.index()];
    for carry in &step.carries {
        let (state, end) = (of(carry.state), buffers[carry.end.index()]);
        let start = buffers[carry.start.buffer.index()].wrapping_add(carry.start.offset * state.dtype.size_bytes());
        // SAFETY: both have the state's elements (*iterations*); they may be one.
        unsafe { std::ptr::copy(start, end, state.n_bytes()) };
        inner.buffers[carry.state.index()] = end;
    }
    let start = |given: &cotangent_kernel::Given| {
        buffers[given.from.buffer.index()].wrapping_add(given.from.offset * of(given.to).dtype.size_bytes())
    };
    for given in step.inputs.iter().filter(|given| !given.moves) {
        inner.buffers[given.to.index()] = start(given);
    }
    let aim = |inner: &mut Frame, i: usize| {
        for given in step.inputs.iter().filter(|given| given.moves) {
            inner.buffers[given.to.index()] = start(given).wrapping_add(i * of(given.to).n_bytes());
        }
        for (output, to) in body.outputs.iter().zip(&step.outputs) {
            if of(output.buffer).home == Home::Output {
                let place = buffers[to.index()].wrapping_add(i * of(output.buffer).n_bytes());
                inner.buffers[output.buffer.index()] = place;
            }
        }
    };
    if let (Some(mut whole), Some(first)) = (inner.whole.take(), step.iterations().next()) {
        aim(inner, first);
        inner.patch();
        for &(place, number) in &whole.results {
            let n_bytes = of(body.outputs[number].buffer).n_bytes();
            inner.pointers[place] = buffers[step.outputs[number].index()].wrapping_add(first * n_bytes);
        }
        let at_once = if whole.draws.is_empty() { step.n } else { AHEAD };
        for done in (0..step.n).step_by(at_once) {
            let n = at_once.min(step.n - done);
            if !whole.draws.is_empty() {
                whole.count(step.iterations().skip(done).take(n).map(|i| counters.iteration(i)));
                whole.draws.iter().for_each(|&place| inner.pointers[place] = whole.ahead.as_ptr());
            }
            // SAFETY: *instructions*; for each kernel *bounds* and that the layouts are theirs, whole, with the pointers of its
            // arguments (*slices*, *places*), in every iteration (*iterations*), and nothing else runs. The table stands where the
            // iteration `done` has it, and there are counters for `n` iterations. Copies go from a buffer of the body to another or
            // to one around it, of the same elements.
            unsafe { whole.function.call(&mut inner.pointers, n) }
        }
        inner.whole = Some(whole);
        return Ok(());
    }
    inner.patch();
    for i in step.iterations() {
        aim(inner, i);
        for &(pointer, buffer) in &inner.moving {
            inner.pointers[pointer] = inner.buffers[buffer];
        }
        let counters = counters.iteration(i);
        inner.count(counters);
        for (s, step_of) in body.steps.iter().enumerate() {
            let done = inner.step(hand, (body, ready), (s, step_of), turn, counters);
            done.map_err(|diag| in_iteration(diag, i, step.origin.loc()))?;
        }
        for (output, to) in body.outputs.iter().zip(&step.outputs) {
            let (decl, from) = (of(output.buffer), inner.buffers[output.buffer.index()]);
            if decl.home != Home::Output {
                let place = buffers[to.index()].wrapping_add(i * decl.n_bytes());
                // SAFETY: both have the result's elements (*iterations*), and the loop's buffers are none of the body's.
                unsafe { std::ptr::copy_nonoverlapping(from, place, decl.n_bytes()) };
            }
        }
    }
    Ok(())
}

/// Whether a buffer's address is known only when a step runs.
fn is_patched(place: &Place) -> bool {
    matches!(place, Place::Input(_) | Place::Given)
}

/// Pointers that the parts of one kernel share.
struct Shared<'a>(&'a [*mut u8]);

// SAFETY: the parts write disjoint elements (*parts*) and only read what others read.
unsafe impl Sync for Shared<'_> {}

/// Some elements of memory, to be written; empty if there are none.
///
/// # Safety
/// The memory has these elements, nobody else has them for as long as they are borrowed, and they are initialized: with truth
/// values, if they are such.
unsafe fn elements_at<'a, T: Element>(start: *mut u8, at: Range<usize>) -> &'a mut [T] {
    if at.is_empty() || start.is_null() {
        return &mut [];
    }
    // SAFETY: the caller's.
    unsafe { slice::from_raw_parts_mut(start.cast::<T>().add(at.start), at.len()) }
}

/// The arguments of a step's kernel that hold something of the row under way, with their places in a part's share of memory
/// for that, and the bytes of the share.
fn rows_of(plan: &Plan, step: &Step) -> (SmallVec<[(usize, usize); 2]>, usize) {
    let (mut rows, mut end) = (SmallVec::new(), 0);
    if let Step::Kernel(call) = step {
        for (k, id) in call.args.iter().enumerate() {
            let decl = &plan.buffers[id.index()];
            if decl.home == Home::Rows {
                rows.push((k, end));
                end += decl.n_bytes().next_multiple_of(LINE);
            }
        }
    }
    (rows, end)
}

/// Divides what is not loops if it takes long enough.
fn split_op(program: &Executable, plan: &Plan, step: &Step, op: &OpStep, n_threads: usize) -> Split {
    let n_parts = op.how().map_or(1, |how| n_threads.min(how.n_pieces(&op.cx())));
    let divides = n_parts > 1 && program.cost.divides_op(plan, step, op);
    if divides { Split::Rows(n_parts) } else { Split::Whole }
}

/// Divides a kernel if it is long enough.
fn choose_split(program: &Executable, kernel: &Kernel, n_threads: usize) -> Split {
    let (rows, cols) = (kernel.n_rows(), kernel.inner());
    if n_threads <= 1 || !program.cost.divides(kernel) {
        return Split::Whole;
    }
    match kernel.sweep {
        Sweep::Row if rows > kernel.block() => Split::Rows(n_threads.min(rows.div_ceil(kernel.block()))),
        Sweep::Row => Split::Whole,
        _ if rows >= 4 * n_threads || (rows >= n_threads && cols < 64 * n_threads) => Split::Rows(n_threads),
        _ if cols >= 64 * n_threads => Split::Columns(n_threads),
        _ => Split::Whole,
    }
}
