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

mod frame;

use std::sync::Arc;

use cotangent_gemm::Workspace;
use cotangent_graph::tensor::bits_of_native;
use cotangent_graph::{Code, Counters, Diag, Element, Loc, Shape, TensorData};
use cotangent_host::float::in_default;
use cotangent_host::{Block, Target};
use cotangent_kernel::BufferId;
use cotangent_pool::Pool;
use ndarray::{ArrayViewD, IxDyn};

use crate::compile::Executable;
use crate::cores::Cores;
use crate::input::Inputs;
use crate::memory::no_memory;
use crate::place::Place;
use crate::runtime::Runtime;
use crate::store::Slot;
use crate::tuning::{Tuner, Tuning};
use frame::{Frame, Hand, Site, row_bytes};

/// A program bound to memory.
#[derive(Debug)]
pub(crate) struct Machine {
    program: Arc<Executable>,
    runtime: Runtime,
    #[expect(dead_code, reason = "owns the memory that `frame` leads into")]
    arena: Block,
    frame: Frame,
    /// Where inputs' addresses go: (number of the buffer, number of the input).
    inputs: Vec<(usize, usize)>,
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
    program.ready.panel_bytes(runtime.n_threads())
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
        let share = row_bytes(plan);
        let rows = Block::zeroed(share * runtime.n_threads()).map_err(refused("the rows that threads keep"))?;
        let mut inputs = Vec::new();
        let mut find = |buffer: usize, place: &Place| match place {
            Place::Stored(k) => {
                let (name, ty, _) = &program.interface.stored[*k];
                let n_bytes = plan.buffers[buffer].n_bytes();
                let slot = slot(name).filter(|slot| slot.ty == *ty && slot.data.n_bytes() == n_bytes);
                let text = || format!("the store has no `{name}` of type {ty}");
                let missing = || Diag::new(Code::StoreMismatch, text()).at(Loc::Internal);
                slot.map(|slot| slot.data.as_ptr()).ok_or_else(missing)
            }
            Place::Input(k) => {
                inputs.push((buffer, *k));
                Ok(std::ptr::null_mut())
            }
            _ => Ok(std::ptr::null_mut()),
        };
        let site = Site { program: &program, n_threads: runtime.n_threads(), rows: &rows, share };
        let frame = Frame::new(&site, plan, &program.ready, arena.as_ptr(), &mut find)?;
        let tuner = Tuner::new(&program, tuning, runtime.n_threads());
        let workspace =
            Workspace::with_bytes(panel_bytes(&program, runtime)).map_err(refused("the panels that products pack"))?;
        let stored: usize = program.interface.stored.iter().map(|(_, ty, _)| ty.n_bytes()).sum();
        let small = program.target().caches().l2;
        let is_small = program.updates() && stored <= small;
        let cores = Cores::new(is_small && tuner.tries(), runtime);
        let runtime = runtime.clone();
        Ok(Machine { program, runtime, arena, frame, inputs, workspace, rows, cores, tuner, is_small })
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
        counters: Counters,
        observer: Option<&mut Observer<'_>>,
    ) -> Result<(), Diag> {
        self.bind(inputs)?;
        self.frame.count(counters);
        // Ways are compared on the cores that steps stay on.
        let tunes = self.cores.is_settled();
        let mut cores = std::mem::replace(&mut self.cores, Cores::All);
        let (runtime, program) = (self.runtime.clone(), Arc::clone(&self.program));
        let done = in_default(|| cores.run(&runtime, |pool| self.run_on(pool, &program, (counters, tunes), observer)));
        self.cores = cores;
        if tunes && done.is_ok() {
            self.tuner.next_step();
        }
        // Nobody finds them there when the step is over.
        self.inputs.iter().for_each(|&(buffer, _)| self.frame.buffers[buffer] = std::ptr::null_mut());
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
            self.frame.buffers[buffer] = address.cast_mut();
        }
        self.frame.patch();
        Ok(())
    }

    /// The steps of the plan in order, on the threads of a pool.
    fn run_on(
        &mut self,
        pool: &Pool,
        program: &Executable,
        (counters, tunes): (Counters, bool),
        mut observer: Option<&mut Observer<'_>>,
    ) -> Result<(), Diag> {
        let (plan, ready) = (&program.plan, &program.ready);
        for (s, step) in plan.steps.iter().enumerate() {
            let mut hand = Hand { program, pool, workspace: &mut self.workspace };
            let mut turn = self.tuner.turn(tunes);
            self.frame.step(&mut hand, (plan, ready), (s, step), &mut turn, counters)?;
            if let Some(observer) = &mut observer {
                observer(self, s)?;
            }
        }
        Ok(())
    }

    /// The elements of a result.
    fn result<T: Element>(&self, output: usize) -> &[T] {
        self.frame.elements(&self.program.plan, self.program.plan.outputs[output].buffer)
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
        TensorData::from_native_bytes(dtype, shape, self.frame.bytes(&self.program.plan, buffer))
    }

    /// A result of one element; allocates nothing.
    pub(crate) fn scalar(&self, output: usize) -> Option<f64> {
        let output = &self.program.plan.outputs[output];
        let bytes = self.frame.bytes(&self.program.plan, output.buffer);
        let dtype = output.ty.dtype();
        (bytes.len() == dtype.size_bytes()).then(|| in_default(|| dtype.f64_of_bits(bits_of_native(bytes))))
    }
}
