//! The machine: a program's arena and pointers, and the loop that runs its steps. All unsafe code of this crate.
//!
//! What it relies on, by name:
//! * *instructions*: the CPU has the instruction set of the target that a program was compiled for: [`runs_here`];
//! * *bounds*: [`cotangent_kernel::ir::Kernel::check_bounds`] was proven for every call at compile time;
//! * *slices*: buffers of the arena that are alive together do not overlap (the plan verifier);
//! * *places*: each buffer has memory of its element type and number of elements: [`Place`] for what the program says, the
//!   comparison with the store's slots in [`Machine::new`], that with the inputs in [`Machine::bind`];
//! * *homes*: the store never moves a slot's memory or frees it while there is a session: nobody gets hold of the store itself
//!   ([`StoreMut`](crate::StoreMut)), and the session drops machines before it;
//! * *inputs*: a step borrows its inputs until it is over, and nobody reads their addresses afterwards;
//! * *parts*: parts of a kernel are disjoint ranges of its rows or columns, so they write disjoint elements; what a kernel
//!   keeps of the row under way has memory of its own for each part. Those of what is not loops are disjoint ranges of its result.

use std::ops::Range;
use std::slice;
use std::sync::Arc;

use cotangent_gemm::Workspace;
use cotangent_graph::tensor::bits_of_native;
use cotangent_graph::{
    Code, Counters, Diag, Element, Elements, ElementsMut, Loc, NodeId, OpRef, Origin, Shape, TensorData, Type,
};
use cotangent_host::float::in_default;
use cotangent_host::{Block, LINE, Target};
use cotangent_kernel::ir::{Kernel, Sweep};
use cotangent_kernel::{BufferId, CheckWhat, Epilogue, Factors, Home, KernelCall, OpStep, Plan, Step};
use cotangent_pool::{Pool, split};
use cotangent_scalar::DType;
use ndarray::{ArrayViewD, IxDyn};
use smallvec::SmallVec;

use crate::compile::Executable;
use crate::cores::Cores;
use crate::input::Inputs;
use crate::memory::{block_of_tensor, no_memory};
use crate::place::{COUNTERS_BYTES, Place};
use crate::products::{AnyEngine, Engine, ProductPlan};
use crate::runtime::Runtime;
use crate::store::Slot;
use crate::tuning::{Tuner, Tuning};

/// A program bound to memory.
#[derive(Debug)]
pub(crate) struct Machine {
    program: Arc<Executable>,
    runtime: Runtime,
    #[expect(dead_code, reason = "owns the memory that `buffers` leads into")]
    arena: Block,
    counters: Block,
    #[expect(dead_code, reason = "owns the memory that `buffers` leads into")]
    constants: Vec<Block>,
    /// The address of each buffer; null for inputs outside of a step, and for what is kept row by row.
    buffers: Vec<*mut u8>,
    /// Where inputs' addresses go: (index into `buffers`, number of the input).
    inputs: Vec<(usize, usize)>,
    /// For each step its kernel call's pointers, in `pointers`, and how far after them those of the next part are.
    calls: Vec<(Range<usize>, usize)>,
    pointers: Vec<*mut u8>,
    /// Where inputs' addresses go from there: (index into `pointers`, index into `buffers`).
    patches: Vec<(usize, usize)>,
    /// For each step, the work of its kernel: how many parts, and along which loop.
    splits: Vec<Split>,
    workspace: Workspace,
    /// Owns the memory that some of `pointers` lead into.
    rows: Block,
    cores: Cores,
    tuner: Tuner,
    /// It updates parameters and states which fit the second-level cache of a core.
    is_small: bool,
}

// SAFETY: the pointers lead into memory that the machine owns or that its session's store owns (*homes*), or to inputs
// that are bound only within `Session::run`; nothing depends on the thread.
unsafe impl Send for Machine {}

/// Called after each step of a run, with its number.
pub(crate) type Observer<'a> = dyn FnMut(&Machine, usize) -> Result<(), Diag> + 'a;

/// How a kernel is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    Whole,
    Rows(usize),
    Columns(usize),
}

/// Whether this CPU has the instructions of a program for a machine (*instructions*).
pub(crate) fn runs_here(target: &Target) -> Result<(), Diag> {
    let isa = target.isa();
    if isa.is_available() {
        return Ok(());
    }
    let text = format!("the program is for {}, which this CPU does not run", isa.name());
    Err(Diag::new(Code::OtherMachine, text)
        .at(Loc::Internal)
        .help("compile it for `Target::here()`, or run it elsewhere"))
}

/// Gives freed memory back to the system, where the allocator does that when asked: compiling frees more than a program keeps.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it may be called at any time, by any thread.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Bytes that a program takes besides the plan's: panels that products pack, and rows that threads keep.
pub(crate) fn scratch_bytes(program: &Executable, runtime: &Runtime) -> usize {
    panel_bytes(program, runtime).saturating_add(row_bytes(&program.plan).saturating_mul(runtime.n_threads()))
}

fn panel_bytes(program: &Executable, runtime: &Runtime) -> usize {
    program.products.iter().flatten().map(|product| product.workspace_bytes(runtime.n_threads())).max().unwrap_or(0)
}

/// For each thread.
fn row_bytes(plan: &Plan) -> usize {
    plan.steps.iter().map(|step| rows_of(plan, step).1).max().unwrap_or(0)
}

impl Machine {
    /// Memory for a program, beside the parameters and states that `slot` finds.
    pub(crate) fn new<'s>(
        program: Arc<Executable>,
        slot: impl Fn(&str) -> Option<&'s Slot>,
        runtime: &Runtime,
        tuning: Tuning,
    ) -> Result<Self, Diag> {
        runs_here(program.target())?;
        let plan = &program.plan;
        let refused = |what: &'static str| move |refused| no_memory(what, refused).at(Loc::Internal);
        let arena = Block::zeroed(plan.arena_bytes).map_err(refused("values between the kernels of a step"))?;
        let counters = Block::zeroed(COUNTERS_BYTES).map_err(refused("counters"))?;
        let (mut constants, mut inputs) = (Vec::new(), Vec::new());
        let mut buffers: Vec<*mut u8> = Vec::with_capacity(plan.buffers.len());
        for (place, decl) in program.places.iter().zip(&plan.buffers) {
            buffers.push(match place {
                Place::Nowhere => std::ptr::null_mut(),
                Place::Input(k) => {
                    inputs.push((buffers.len(), *k));
                    std::ptr::null_mut()
                }
                Place::Counters => counters.as_ptr(),
                // Inside: places were checked (*places*).
                Place::Arena(offset) => arena.as_ptr().wrapping_add(*offset),
                Place::Constant(value) => {
                    let block = block_of_tensor(value).map_err(refused("a constant"))?;
                    let address = block.as_ptr();
                    constants.push(block);
                    address
                }
                Place::Stored(k) => {
                    let (name, ty, _) = &program.interface.stored[*k];
                    let slot = slot(name).filter(|slot| slot.ty == *ty && slot.data.n_bytes() == decl.n_bytes());
                    let text = || format!("the store has no `{name}` of type {ty}");
                    slot.ok_or_else(|| Diag::new(Code::StoreMismatch, text()).at(Loc::Internal))?.data.as_ptr()
                }
            });
        }
        let (mut calls, mut pointers, mut patches, mut splits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let share = row_bytes(plan);
        let rows = Block::zeroed(share * runtime.n_threads()).map_err(refused("the rows that threads keep"))?;
        for step in &plan.steps {
            // The calls of one step have the same arguments.
            let args = step.calls().next().map_or(&[][..], |call| &call.args);
            let split = match step {
                Step::Kernel(call) => choose_split(&program, &plan.kernels[call.kernel], runtime.n_threads()),
                Step::Op(op) => split_op(&program, step, op, runtime.n_threads()),
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
                    if matches!(program.places[buffer.index()], Place::Input(_)) {
                        patches.push((pointers.len(), buffer.index()));
                    }
                    let row = kept.iter().find(|(k, _)| *k == position);
                    pointers.push(match row {
                        Some((_, offset)) => rows.as_ptr().wrapping_add(part * share + offset),
                        None => buffers[buffer.index()],
                    });
                }
            }
            calls.push((start..start + args.len(), if n_parts > 1 { args.len() } else { 0 }));
            splits.push(split);
        }
        let tuner = Tuner::new(&program, tuning, runtime.n_threads());
        let workspace =
            Workspace::with_bytes(panel_bytes(&program, runtime)).map_err(refused("the panels that products pack"))?;
        let stored: usize = program.interface.stored.iter().map(|(_, ty, _)| ty.n_bytes()).sum();
        let small = program.target().caches().l2;
        let is_small = program.updates() && stored <= small;
        let cores = Cores::new(is_small && tuner.tries(), runtime);
        let runtime = runtime.clone();
        Ok(Machine {
            program,
            runtime,
            arena,
            counters,
            constants,
            buffers,
            inputs,
            calls,
            pointers,
            patches,
            splits,
            workspace,
            rows,
            cores,
            tuner,
            is_small,
        })
    }

    /// The program.
    pub(crate) fn program(&self) -> &Arc<Executable> {
        &self.program
    }

    /// Bytes of the memory for packed panels and of each thread's rows.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.workspace.bytes() + self.rows.n_bytes()
    }

    /// Further steps run on the same cores and go the same ways as the next one.
    pub(crate) fn is_settled(&self) -> bool {
        self.cores.is_settled() && self.tuner.is_settled()
    }

    /// The ways of the products.
    pub(crate) fn tuner(&self) -> &Tuner {
        &self.tuner
    }

    /// Starts with the ways of the products anew.
    pub(crate) fn tune(&mut self, tuning: Tuning) {
        self.tuner = Tuner::new(&self.program, tuning, self.runtime.n_threads());
        self.cores = Cores::new(self.is_small && self.tuner.tries(), &self.runtime);
    }

    /// Runs all steps. After each the observer, if there is one, may look at what is in memory and end the run.
    pub(crate) fn run(
        &mut self,
        inputs: &Inputs<'_>,
        Counters { seed, step }: Counters,
        observer: Option<&mut Observer<'_>>,
    ) -> Result<(), Diag> {
        self.bind(inputs)?;
        let words = [seed as u32, (seed >> 32) as u32, step];
        for (place, word) in self.counters.bytes_mut().chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        let mut cores = std::mem::replace(&mut self.cores, Cores::All);
        let (runtime, program) = (self.runtime.clone(), Arc::clone(&self.program));
        let done = in_default(|| cores.run(&runtime, |pool| self.run_on(pool, &program, observer)));
        self.cores = cores;
        if self.cores.is_settled() && done.is_ok() {
            self.tuner.next_step();
        }
        // Nobody finds them there when the step is over.
        self.inputs.iter().for_each(|&(buffer, _)| self.buffers[buffer] = std::ptr::null_mut());
        done
    }

    /// Takes the addresses of a step's inputs over, each of its buffer's type and size (*inputs*).
    fn bind(&mut self, inputs: &Inputs<'_>) -> Result<(), Diag> {
        for &(buffer, input) in &self.inputs {
            let decl = &self.program.plan.buffers[buffer];
            let place = inputs.place(input).filter(|&(_, dtype, n)| dtype == decl.dtype && n == decl.n_elements);
            let Some((address, ..)) = place else {
                let text =
                    format!("input `{}` is not {} elements of {} in order", decl.name, decl.n_elements, decl.dtype);
                return Err(Diag::new(Code::InputType, text).at(Loc::Internal));
            };
            self.buffers[buffer] = address.cast_mut();
        }
        for &(pointer, buffer) in &self.patches {
            self.pointers[pointer] = self.buffers[buffer];
        }
        Ok(())
    }

    /// The steps of the plan in order, on the threads of a pool.
    fn run_on(
        &mut self,
        pool: &Pool,
        program: &Executable,
        mut observer: Option<&mut Observer<'_>>,
    ) -> Result<(), Diag> {
        for (s, step) in program.plan.steps.iter().enumerate() {
            match step {
                Step::Kernel(call) => self.kernel(program, pool, s, call),
                Step::Product { factors, c, epilogue, .. } => {
                    // Compiling fails where a product has no plan, so each one has.
                    if let Some(product) = &program.products[s] {
                        self.product(program, pool, s, product, factors, *c, epilogue.as_ref());
                    }
                }
                Step::Check { values, what: CheckWhat::Below(bound), op, origin } => {
                    self.check_indices(program, *values, *bound, *op, origin)?;
                }
                Step::Check { values, what: CheckWhat::Finite, op, origin } => {
                    self.check_finite(program, *values, *op, origin)?;
                }
                Step::Copy { from, to, .. } => {
                    let n = program.plan.buffers[to.index()].n_bytes();
                    // SAFETY: both buffers have at least `n` bytes (equal types, *places*) and are distinct.
                    unsafe { std::ptr::copy(self.buffers[from.index()], self.buffers[to.index()], n) };
                }
                Step::Op(op) => self.op(program, pool, s, op),
            }
            if let Some(observer) = &mut observer {
                observer(self, s)?;
            }
        }
        Ok(())
    }

    fn kernel(&self, program: &Executable, pool: &Pool, step: usize, call: &KernelCall) {
        let kernel = &program.plan.kernels[call.kernel];
        if kernel.stores_nothing() {
            return;
        }
        let (range, apart) = &self.calls[step];
        let pointers = Shared(&self.pointers[range.start..]);
        let layout = &program.layouts[call.kernel];
        let function = &program.compiled.functions()[call.kernel];
        let (rows, cols) = (kernel.n_rows(), kernel.inner());
        match self.splits[step] {
            // SAFETY: *instructions*; *bounds*; the layout is this kernel's; the whole range is inside of it; pointers are those of the
            // arguments (*slices*, *places*, *homes*, *inputs*), and nothing else runs.
            Split::Whole => unsafe { function.call(pointers.0, layout, 0..rows, 0..cols) },
            Split::Rows(n) => pool.run(n, &|part| {
                let rows = split(rows, n, part, kernel.block().max(1));
                let pointers = &pointers;
                // SAFETY: as above, for the rows of this part, with pointers of its own (*parts*).
                unsafe { function.call(&pointers.0[part * apart..], layout, rows, 0..cols) }
            }),
            Split::Columns(n) => pool.run(n, &|part| {
                let cols = split(cols, n, part, 64);
                let pointers = &pointers;
                // SAFETY: as above, for the columns of this part (*parts*).
                unsafe { function.call(pointers.0, layout, 0..rows, cols) }
            }),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a product has factors, a result and an epilogue")]
    fn product(
        &mut self,
        program: &Executable,
        pool: &Pool,
        step: usize,
        product: &ProductPlan,
        factors: &Factors,
        c: BufferId,
        epilogue: Option<&Epilogue>,
    ) {
        let pointers = Shared(&self.pointers[self.calls[step].0.clone()]);
        let (pointers, dims) = (&pointers, factors.dims());
        let finish = |batch: usize, rows: Range<usize>, cols: Range<usize>, c: *mut u8| {
            let rows = batch * dims.m + rows.start..batch * dims.m + rows.end;
            let mut own = SmallVec::<[*mut u8; 16]>::new();
            let pointers = match product.rows_at {
                None => pointers.0,
                Some(at) => {
                    own.extend_from_slice(pointers.0);
                    // Kernels count rows over the batch.
                    own[at] = c.wrapping_sub(batch * dims.m * dims.n * product.size);
                    &own
                }
            };
            for (call, rows) in epilogue.iter().flat_map(|e| e.calls(rows.clone())) {
                let function = &program.compiled.functions()[call.kernel];
                // SAFETY: *instructions*; *bounds*; rows are counted over the batch, as the kernel's are; the product hands out each
                // rectangle once, complete, and in whole blocks of rows (*parts*).
                unsafe { function.call(pointers, &program.layouts[call.kernel], rows, cols.clone()) }
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
                let (c, workspace) = (self.buffers[c.index()].cast(), &mut self.workspace);
                let start = self.tuner.start(step);
                // SAFETY: the plan verifier proves the operands in bounds, whose extents and strides the product was made of; C
                // is a buffer of its own that is alive together with the operands (*slices*), and the epilogue's other
                // results are not operands; the product was made for this CPU (*instructions*).
                unsafe {
                    match $engine {
                        Engine::Matrices(gemm) => gemm.run(pool, operands, c, epilogue, workspace),
                        Engine::Conv(conv) => conv.run(pool, operands, c, epilogue, workspace),
                    }
                }
                if let Some(start) = start {
                    self.tuner.took(step, start);
                }
            }};
        }
        match self.tuner.engine(step).unwrap_or(&product.engine) {
            AnyEngine::F32(engine) => multiply!(engine, f32),
            AnyEngine::F64(engine) => multiply!(engine, f64),
        }
    }

    /// The elements of a buffer.
    fn elements<T: Element>(&self, program: &Executable, buffer: BufferId) -> &[T] {
        let decl = &program.plan.buffers[buffer.index()];
        let address = self.buffers[buffer.index()];
        if decl.n_elements == 0 || address.is_null() || T::DTYPE != decl.dtype {
            return &[];
        }
        // SAFETY: the buffer has `n_elements` of this type (*slices*, *places*, *homes*, *inputs*), initialized (arenas and stores
        // start zeroed), and no kernel runs now. A `bool` is 0 or 1: kernels store nothing else.
        unsafe { slice::from_raw_parts(address.cast(), decl.n_elements) }
    }

    fn index(&self, program: &Executable, indices: BufferId, at: usize) -> i64 {
        match program.plan.buffers[indices.index()].dtype {
            DType::I32 => self.elements::<i32>(program, indices).get(at).map_or(-1, |&v| i64::from(v)),
            _ => self.elements::<i64>(program, indices).get(at).copied().unwrap_or(-1),
        }
    }

    fn check_indices(
        &self,
        program: &Executable,
        indices: BufferId,
        bound: usize,
        op: OpRef,
        origin: &Origin,
    ) -> Result<(), Diag> {
        let bad = match program.plan.buffers[indices.index()].dtype {
            DType::I32 => {
                let good = |&v: &i32| usize::try_from(v).is_ok_and(|v| v < bound);
                self.elements::<i32>(program, indices).iter().position(|v| !good(v))
            }
            _ => {
                let good = |&v: &i64| usize::try_from(v).is_ok_and(|v| v < bound);
                self.elements::<i64>(program, indices).iter().position(|v| !good(v))
            }
        };
        let Some(at) = bad else { return Ok(()) };
        let value = self.index(program, indices, at);
        let name = &program.plan.buffers[indices.index()].name;
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

    fn check_finite(&self, program: &Executable, values: BufferId, op: OpRef, origin: &Origin) -> Result<(), Diag> {
        let bad = match program.plan.buffers[values.index()].dtype {
            DType::F64 => self.elements::<f64>(program, values).iter().position(|v| !v.is_finite()),
            _ => self.elements::<f32>(program, values).iter().position(|v| !v.is_finite()),
        };
        let Some(at) = bad else { return Ok(()) };
        let text = format!("`{op}` requires finite values, got NaN or an infinity at element {at}");
        let help = "nothing has been changed by this step; `Session::find_non_finite` names the op where it starts";
        Err(Diag::new(Code::NotFinite, text).at(origin.loc()).help(help))
    }

    /// What is not loops.
    fn op(&self, program: &Executable, pool: &Pool, step: usize, op: &OpStep) {
        let Some(how) = op.how() else { return };
        let start = how.starts_as();
        let operand = |(k, (id, ty)): (usize, &(BufferId, Type))| match Some(k) == start {
            true => Elements::none(ty.dtype()),
            false => self.operand(program, *id),
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

    fn operand(&self, program: &Executable, buffer: BufferId) -> Elements<'_> {
        macro_rules! elements {
            ($($variant:ident $t:ty),*) => {
                match program.plan.buffers[buffer.index()].dtype {
                    $(DType::$variant => Elements::$variant(self.elements::<$t>(program, buffer)),)*
                }
            };
        }
        elements!(F32 f32, F64 f64, I32 i32, I64 i64, U8 u8, Bool bool)
    }

    /// The elements of a result.
    fn result<T: Element>(&self, output: usize) -> &[T] {
        self.elements(&self.program, self.program.plan.outputs[output].buffer)
    }

    /// A result as a view that borrows the machine; `None` for another element type.
    pub(crate) fn view<T: Element>(&self, output: usize) -> Option<ArrayViewD<'_, T>> {
        ArrayViewD::from_shape(IxDyn(self.program.plan.outputs[output].ty.shape()), self.result(output)).ok()
    }

    /// A copy of a result.
    pub(crate) fn tensor(&self, output: usize) -> TensorData {
        let output = &self.program.plan.outputs[output];
        self.value(output.buffer, output.ty.shape())
    }

    /// A copy of a buffer's elements in a shape.
    pub(crate) fn value(&self, buffer: BufferId, shape: &Shape) -> TensorData {
        let dtype = self.program.plan.buffers[buffer.index()].dtype;
        TensorData::from_native_bytes(dtype, shape, self.bytes(buffer))
    }

    /// The bytes of a buffer; none of an input outside of a step.
    fn bytes(&self, buffer: BufferId) -> &[u8] {
        let (address, decl) = (self.buffers[buffer.index()], &self.program.plan.buffers[buffer.index()]);
        if decl.n_elements == 0 || address.is_null() {
            return &[];
        }
        // SAFETY: as for `elements`, as bytes.
        unsafe { slice::from_raw_parts(address, decl.n_bytes()) }
    }

    /// A result of one element; allocates nothing.
    pub(crate) fn scalar(&self, output: usize) -> Option<f64> {
        let output = &self.program.plan.outputs[output];
        let bytes = self.bytes(output.buffer);
        let dtype = output.ty.dtype();
        (bytes.len() == dtype.size_bytes()).then(|| in_default(|| dtype.f64_of_bits(bits_of_native(bytes))))
    }
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
fn split_op(program: &Executable, step: &Step, op: &OpStep, n_threads: usize) -> Split {
    let n_parts = op.how().map_or(1, |how| n_threads.min(how.n_pieces(&op.cx())));
    let divides = n_parts > 1 && program.cost.divides_op(&program.plan, step, op);
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
