//! The plan interpreter: the slow, obvious twin of the executor.
//!
//! It exists so that planning can be tested without code generation, and so that the executor has something to be
//! compared with. It follows a plan on real bytes: one arena with the plan's offsets, parameters and states changed where
//! they stand. Nothing is repaired on the way, so a mistake in lifetimes, sharing or order shows in the results. It
//! assumes nothing; a plan that [`crate::verify_plan()`] refuses gives an error or wrong numbers, never a panic. To show that
//! tiles and threads are independent, elementwise kernels and epilogues run in rectangles in reverse order, and a product's
//! tile is finished before the next one is begun.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use cotangent_graph::interp::in_iteration;
use cotangent_graph::op::EvalCx;
use cotangent_graph::tensor::{bits_of_native, write_native_bits};
use cotangent_graph::{Code, CompilerBug, Counters, DType, Diag, Loc, Shape, TensorData, Type};
use cotangent_host::Memory;
use cotangent_host::float::in_default;
use cotangent_scalar::{ScalarOp, eval::apply, order};
use smallvec::SmallVec;

use crate::interp::{self, Place};
use crate::ir::{Kernel, Sweep};
use crate::plan::{BufferDecl, BufferId, CheckWhat, Factors, Home, KernelCall, MatrixView, Piece, Plan, Step};
use crate::repeat::LoopStep;

/// What the arena is filled with before a step, so that nothing can rely on zeros.
const GARBAGE: u8 = 0xa5;

/// Why a step was not done.
#[derive(Clone)]
pub enum RunError {
    /// A mistake of the caller: names and types of tensors, or indices out of range.
    User(Diag),
    /// A mistake in the plan.
    Bug(CompilerBug),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::User(diag) => diag.fmt(f),
            RunError::Bug(bug) => bug.fmt(f),
        }
    }
}

/// The text of `Display`, so that `main` and `unwrap` print it.
impl fmt::Debug for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for RunError {}

impl From<Diag> for RunError {
    fn from(diag: Diag) -> Self {
        RunError::User(diag)
    }
}

fn bug(message: impl Into<String>) -> RunError {
    RunError::Bug(CompilerBug::new("plan interpreter", message))
}

/// Memory for one plan.
#[derive(Clone, Debug)]
pub struct PlanMachine<'p> {
    plan: &'p Plan,
    /// The arena first, then one piece of memory for each buffer that lives elsewhere.
    memory: Vec<Vec<u8>>,
    /// Where each buffer is.
    places: Vec<Place>,
    /// Of the step under way.
    counters: Counters,
}

impl<'p> PlanMachine<'p> {
    /// Memory for a plan, constants filled in.
    ///
    /// # Errors
    /// `E0309` if there is none.
    pub fn new(plan: &'p Plan) -> Result<Self, RunError> {
        let elsewhere = plan.buffers.iter().filter(|decl| !matches!(decl.home, Home::Arena { .. }));
        // A step makes tensors of its results and of what it updates.
        let handed_out = plan.outputs.iter().map(|output| output.buffer).chain(plan.updated.iter().copied());
        let handed_out = handed_out.filter_map(|id| plan.buffers.get(id.index()));
        let buffers = elsewhere.chain(handed_out).map(BufferDecl::n_bytes);
        // Operands and result of what is not loops are tensors, too.
        let of_op = |step: &Step| match step {
            Step::Op(op) => op.operands.iter().map(|(_, ty)| ty).chain([&op.ty]).map(Type::n_bytes).sum(),
            _ => 0,
        };
        let beside =
            plan.kernels.iter().map(interp::bytes_beside).chain(plan.steps.iter().map(of_op)).max().unwrap_or(0);
        let n_bytes = buffers.chain([beside]).fold(plan.arena_bytes, usize::saturating_add);
        Memory::default().ask(n_bytes).map_err(|refused| {
            let largest = plan.buffers.iter().max_by_key(|decl| decl.n_bytes()).map(|decl| &decl.name);
            let text = format!(
                "following the plan takes {refused}; its largest buffer is `{}`",
                largest.map_or("", |name| name)
            );
            RunError::User(Diag::new(Code::NoMemory, text).at(Loc::Internal))
        })?;
        let mut memory = vec![vec![GARBAGE; plan.arena_bytes]];
        let mut places = Vec::with_capacity(plan.buffers.len());
        for decl in &plan.buffers {
            if let Home::Arena { offset } = decl.home {
                places.push(Place { buffer: 0, byte_offset: offset });
                continue;
            }
            places.push(Place { buffer: memory.len(), byte_offset: 0 });
            memory.push(match &decl.home {
                Home::Const(data) => bytes_of(data),
                _ => vec![0; decl.n_bytes()],
            });
        }
        Ok(PlanMachine { plan, memory, places, counters: Counters::default() })
    }

    /// One step: binds the inputs, takes parameters and states from the store, follows the plan, and puts what the plan
    /// made of parameters and states back, also after an error (the plan sees to it that nothing has changed by then).
    ///
    /// # Errors
    /// Missing tensors, or tensors of other types than declared; an index that a check finds out of range; a broken plan.
    pub fn run(
        &mut self,
        inputs: &HashMap<String, TensorData>,
        store: &mut HashMap<String, TensorData>,
        counters: Counters,
    ) -> Result<Vec<(String, TensorData)>, RunError> {
        self.memory[0].fill(GARBAGE);
        self.counters = counters;
        for (i, decl) in self.plan.buffers.iter().enumerate() {
            let source = match decl.home {
                Home::Input => inputs,
                Home::Param | Home::State => &*store,
                Home::Counters => {
                    self.memory[self.places[i].buffer] =
                        counters.words().iter().flat_map(|w| w.to_ne_bytes()).collect();
                    continue;
                }
                Home::Const(_) | Home::Arena { .. } | Home::Rows | Home::Output => continue,
            };
            let name = &decl.name;
            let missing = || Diag::new(Code::InputNames, format!("`{name}` has no value"));
            let value = source.get(name).ok_or_else(missing)?;
            if value.dtype() != decl.dtype || value.shape().n_elements() != decl.n_elements {
                let text =
                    format!("`{name}` requires {} elements of {}, got {}", decl.n_elements, decl.dtype, value.ty());
                return Err(Diag::new(Code::InputType, text).into());
            }
            self.memory[self.places[i].buffer] = bytes_of(value);
        }
        let done = in_default(|| self.plan.steps.iter().try_for_each(|step| self.step(step)));
        for &id in &self.plan.updated {
            let decl = &self.plan.buffers[id.index()];
            if let Some(shape) = store.get(&decl.name).map(TensorData::shape) {
                let value = self.tensor(id, decl.dtype, &shape)?;
                store.insert(decl.name.clone(), value);
            }
        }
        done?;
        let output =
            |o: &crate::plan::PlanOutput| Ok((o.name.to_string(), self.tensor(o.buffer, o.ty.dtype(), o.ty.shape())?));
        self.plan.outputs.iter().map(output).collect()
    }

    fn tensor(&self, id: BufferId, dtype: DType, shape: &Shape) -> Result<TensorData, RunError> {
        let (memory, range) = self.range(id, shape.n_elements().saturating_mul(dtype.size_bytes()), 0)?;
        Ok(TensorData::from_native_bytes(dtype, shape, &self.memory[memory][range]))
    }

    /// The bytes of an element of so many.
    fn range(&self, id: BufferId, size: usize, index: i64) -> Result<(usize, Range<usize>), RunError> {
        let place = self.places.get(id.index()).ok_or_else(|| bug("no such buffer"))?;
        let start = usize::try_from(index).ok().and_then(|i| i.checked_mul(size)?.checked_add(place.byte_offset));
        let range = start.and_then(|s| Some(s..s.checked_add(size)?));
        let length = self.memory[place.buffer].len();
        let inside = range.filter(|r| r.end <= length);
        inside.map(|r| (place.buffer, r)).ok_or_else(|| bug(format!("element {index} of {} bytes is outside", length)))
    }

    fn read(&self, id: BufferId, dtype: DType, index: i64) -> Result<u64, RunError> {
        let (memory, range) = self.range(id, dtype.size_bytes(), index)?;
        Ok(bits_of_native(&self.memory[memory][range]))
    }

    fn write(&mut self, id: BufferId, dtype: DType, index: i64, bits: u64) -> Result<(), RunError> {
        let size = dtype.size_bytes();
        let (memory, range) = self.range(id, size, index)?;
        write_native_bits(bits, &mut self.memory[memory][range]);
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), RunError> {
        let plan = self.plan;
        match step {
            Step::Kernel(call) => {
                let kernel = &plan.kernels[call.kernel];
                for (rows, cols) in rectangles(kernel) {
                    self.kernel(call, rows, cols)?;
                }
                Ok(())
            }
            Step::Product { factors, dtype, c, epilogue } => {
                let dims = factors.dims();
                let n_rows = dims.batch * dims.m;
                let block = epilogue.as_ref().map_or(1, |e| e.block.max(1));
                for blocks in halves(n_rows.div_ceil(block)) {
                    let rows = blocks.start * block..n_rows.min(blocks.end * block);
                    for cols in halves(dims.n) {
                        self.tile(factors, *dtype, *c, rows.clone(), cols.clone())?;
                        for (call, rows) in epilogue.iter().flat_map(|e| e.calls(rows.clone())) {
                            self.kernel(call, rows, cols.clone())?;
                        }
                    }
                }
                Ok(())
            }
            Step::Op(step) => {
                let value = |(id, ty): &(BufferId, Type)| self.tensor(*id, ty.dtype(), ty.shape());
                let operands = step.operands.iter().map(value).collect::<Result<Vec<_>, _>>()?;
                let operands: Vec<&TensorData> = operands.iter().collect();
                let counters = Counters::default();
                let cx = EvalCx { op: step.op.0, attrs: &step.attrs, ty: &step.ty, counters, bodies: &[] };
                let result = step.op.0.eval(&cx, &operands).map_err(|fault| bug(fault.message))?;
                for (i, bits) in result.bits().into_iter().enumerate() {
                    self.write(step.out, step.ty.dtype(), i as i64, bits)?;
                }
                Ok(())
            }
            Step::Loop(step) => self.repeat(step),
            Step::Copy { from, to, .. } => {
                let decl = &plan.buffers[to.index()];
                for i in 0..decl.n_elements as i64 {
                    let bits = self.read(*from, decl.dtype, i)?;
                    self.write(*to, decl.dtype, i, bits)?;
                }
                Ok(())
            }
            Step::Check { values, what: CheckWhat::Finite, op, origin } => {
                let decl = &self.plan.buffers[values.index()];
                for k in 0..decl.n_elements {
                    let value = decl.dtype.f64_of_bits(self.read(*values, decl.dtype, k as i64)?);
                    if !value.is_finite() {
                        let text = format!("`{op}` requires finite values, got {value} at element {k}");
                        return Err(Diag::new(Code::NotFinite, text).at(origin.loc()).into());
                    }
                }
                Ok(())
            }
            Step::Check { values, what: CheckWhat::Below(bound), op, origin } => {
                for (k, value) in self.indices(*values)?.into_iter().enumerate() {
                    if usize::try_from(value).map_or(true, |v| v >= *bound) {
                        let text = format!("`{op}` requires indices in 0..{bound}, got {value} at element {k}");
                        return Err(Diag::new(Code::IndexOutOfRange, text).at(origin.loc()).into());
                    }
                }
                Ok(())
            }
        }
    }

    /// A loop: a machine for its body, on copies of what the iterations are given.
    fn repeat(&mut self, step: &LoopStep) -> Result<(), RunError> {
        let body = &*step.body;
        let decl = |id: BufferId| body.buffers.get(id.index()).ok_or_else(|| bug("no such buffer of the body"));
        let mut inner = PlanMachine::new(body)?;
        let mut store = HashMap::new();
        for carry in &step.carries {
            let state = decl(carry.state)?;
            store.insert(state.name.clone(), self.piece(carry.start.buffer, carry.start.offset, state)?);
        }
        for i in step.iterations() {
            let mut inputs = HashMap::new();
            for given in &step.inputs {
                let to = decl(given.to)?;
                let moved = if given.moves { i.saturating_mul(to.n_elements) } else { 0 };
                let at = given.from.offset.saturating_add(moved);
                inputs.insert(to.name.clone(), self.piece(given.from.buffer, at, to)?);
            }
            let made = inner.run(&inputs, &mut store, self.counters.iteration(i)).map_err(|error| match error {
                RunError::User(diag) => RunError::User(in_iteration(diag, i, step.origin.loc())),
                bug => bug,
            })?;
            for ((_, value), &to) in made.iter().zip(&step.outputs) {
                self.put(to, i.saturating_mul(value.shape().n_elements()), value)?;
            }
        }
        for carry in &step.carries {
            if let Some(value) = store.get(&decl(carry.state)?.name) {
                self.put(carry.end, 0, value)?;
            }
        }
        Ok(())
    }

    /// As many elements of a buffer as another one has.
    fn piece(&self, id: BufferId, at: usize, of: &BufferDecl) -> Result<TensorData, RunError> {
        let read = |k: usize| self.read(id, of.dtype, at.saturating_add(k) as i64);
        let bits = (0..of.n_elements).map(read).collect::<Result<Vec<u64>, _>>()?;
        Ok(TensorData::from_bits(of.dtype, &Shape::new(&[of.n_elements]), &bits))
    }

    fn put(&mut self, id: BufferId, at: usize, value: &TensorData) -> Result<(), RunError> {
        let bits = value.bits().into_iter().enumerate();
        bits.into_iter().try_for_each(|(k, bits)| self.write(id, value.dtype(), at.saturating_add(k) as i64, bits))
    }

    fn indices(&self, id: BufferId) -> Result<Vec<i64>, RunError> {
        let decl = &self.plan.buffers[id.index()];
        let number = |bits: u64| if decl.dtype == DType::I32 { i64::from(bits as u32 as i32) } else { bits as i64 };
        (0..decl.n_elements).map(|k| Ok(number(self.read(id, decl.dtype, k as i64)?))).collect()
    }

    fn kernel(&mut self, call: &KernelCall, rows: Range<usize>, cols: Range<usize>) -> Result<(), RunError> {
        let kernel = &self.plan.kernels[call.kernel];
        let places: Vec<Place> = call.args.iter().map(|id| self.places[id.index()]).collect();
        let mut memory: Vec<&mut [u8]> = self.memory.iter_mut().map(Vec::as_mut_slice).collect();
        interp::run_unit(kernel, &mut memory, &places, rows, cols).map_err(|e| bug(format!("{}: {e}", kernel.name)))
    }

    /// A rectangle of a product.
    fn tile(
        &mut self,
        factors: &Factors,
        dtype: DType,
        c: BufferId,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> Result<(), RunError> {
        let at = |view: &MatrixView, batch: usize, row: usize, col: usize| {
            let term = |index: usize, stride: i64| (index as i64).wrapping_mul(stride);
            let start = view.offset.wrapping_add(term(batch, view.batch_stride));
            start.wrapping_add(term(row, view.row_stride)).wrapping_add(term(col, view.col_stride))
        };
        let dims = factors.dims();
        let n_lanes = match factors {
            Factors::Matrices { .. } => order::product_lanes([dims.m, dims.n, dims.k], dtype),
            Factors::Conv { .. } => 1,
        };
        for r in rows {
            for j in cols.clone() {
                let mut terms = SmallVec::<[(u64, u64); 64]>::new();
                match factors {
                    Factors::Matrices { a, b, .. } => {
                        let (batch, i) = (r / dims.m, r % dims.m);
                        for k in 0..dims.k {
                            let x = self.read(a.buffer, dtype, at(a, batch, i, k))?;
                            terms.push((x, self.read(b.buffer, dtype, at(b, batch, k, j))?));
                        }
                    }
                    Factors::Conv { conv, direction, a, b } => {
                        let element = |piece: &Piece, at: usize| {
                            self.read(piece.buffer, dtype, piece.offset.wrapping_add(at) as i64)
                        };
                        let mut done = Ok(());
                        conv.terms(*direction, r, j, |of_a, of_b| {
                            let x = of_a.map_or(Ok(0), |at| element(a, at));
                            match x.and_then(|x| Ok((x, element(b, of_b)?))) {
                                Ok(term) => terms.push(term),
                                Err(error) => done = Err(error),
                            }
                        });
                        done?;
                    }
                }
                let combine = |op| move |x, y, z| apply(op, dtype, dtype, x, y, z);
                let (fma, add) = (combine(ScalarOp::Fma), combine(ScalarOp::Add));
                let sum = order::product_element(n_lanes, 0, terms.into_iter(), fma, |x, y| add(x, y, 0));
                self.write(c, dtype, (r * dims.n + j) as i64, sum)?;
            }
        }
        Ok(())
    }
}

fn bytes_of(data: &TensorData) -> Vec<u8> {
    let mut bytes = vec![0; data.ty().n_bytes()];
    data.write_native_bytes(&mut bytes);
    bytes
}

/// A range in two parts, the later one first.
fn halves(n: usize) -> [Range<usize>; 2] {
    halves_of_blocks(n, 1)
}

/// The same, the later part from the start of a block.
fn halves_of_blocks(n: usize, block: usize) -> [Range<usize>; 2] {
    let middle = n.div_ceil(2).next_multiple_of(block.max(1)).min(n);
    [middle..n, 0..middle]
}

/// Work units of a kernel that cover it, in an unusual order.
fn rectangles(kernel: &Kernel) -> Vec<(Range<usize>, Range<usize>)> {
    let (rows, cols) = (halves_of_blocks(kernel.n_rows(), kernel.block()), halves(kernel.inner()));
    match kernel.sweep {
        Sweep::Row => rows.into_iter().map(|r| (r, 0..kernel.inner())).collect(),
        _ => rows.iter().flat_map(|r| cols.iter().map(|c| (r.clone(), c.clone()))).collect(),
    }
}
