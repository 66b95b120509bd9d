//! Sessions: programs, their store and their arenas, step by step.

use std::sync::Arc;

use cotangent_graph::{Code, Diag, Element, Env, TensorData, Type};
use ndarray::ArrayViewD;

use crate::check;
use crate::compile::{Executable, Identity};
use crate::input::{Inputs, StepInputs};
use crate::machine::{Machine, give_back, runs_here};
use crate::memory::ask_for_copy;
use crate::needs::Needs;
use crate::runtime::Runtime;
use crate::store::{OWN_SCOPE, Seed, Store, StoreMut};
use crate::tuning::{Tuning, Ways};

/// A program of a session. It is that session's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramId {
    session: Identity,
    at: usize,
}

/// Runs programs on one store, with the threads of a runtime.
///
/// The first program is the main one, run by [`Session::step`]; others (evaluation, other batch sizes) are added with
/// [`Session::load`]. A step is transactional: if it returns an error, no parameter, state or counter has changed.
#[derive(Debug)]
pub struct Session {
    id: Identity,
    // Programs hold addresses into the store, so they are declared, and dropped, first.
    pub(crate) programs: Vec<Machine>,
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
    checked: bool,
    tuning: Tuning,
}

impl Session {
    /// A session whose parameters and states start as the program's initialisers say under this seed.
    ///
    /// # Errors
    /// `E0309` if there is no memory for it.
    pub fn new(runtime: &Runtime, program: Arc<Executable>, seed: Seed) -> Result<Self, Diag> {
        Session::with_store(runtime, program, Store::new(seed))
    }

    /// A session that goes on with a store.
    ///
    /// # Errors
    /// `E0306` if the store has a name of the program with another type, `E0309` if there is no memory for the session. The
    /// store is lost then; [`Session::try_with_store`] gives it back.
    pub fn with_store(runtime: &Runtime, program: Arc<Executable>, store: Store) -> Result<Self, Diag> {
        Session::try_with_store(runtime, program, store).map_err(|(diag, _)| diag)
    }

    /// [`Session::with_store`] that gives the store back, unchanged, if there is no session.
    ///
    /// # Errors
    /// As [`Session::with_store`].
    #[expect(clippy::result_large_err, reason = "the store is what must not be lost")]
    pub fn try_with_store(runtime: &Runtime, program: Arc<Executable>, store: Store) -> Result<Self, (Diag, Store)> {
        let checked = std::env::var_os("COTANGENT_CHECK").is_some_and(|v| v == "1");
        let runtime = runtime.clone();
        let mut session =
            Session { id: Identity::new(), programs: Vec::new(), store, runtime, checked, tuning: Tuning::default() };
        match session.load(program) {
            Ok(_) => {
                give_back();
                Ok(session)
            }
            Err(diag) => Err((diag, session.store)),
        }
    }

    /// A session that starts where an environment is: its seed and step, and its values of parameters and states. What it does
    /// not name starts as the program says. [`Executable::inputs_of`] gives the inputs.
    ///
    /// # Errors
    /// `E0302` if a value has another type than the program says.
    pub fn with_env(runtime: &Runtime, program: Arc<Executable>, env: &Env) -> Result<Self, Diag> {
        let mut store = Store::new(Seed(env.counters.seed));
        store.set_step(env.counters.step);
        let mut session = Session::with_store(runtime, Arc::clone(&program), store)?;
        for (name, ..) in &program.interface.stored {
            if let Some(value) = env.values.get(name) {
                session.store.set(name, value.clone())?;
            }
        }
        Ok(session)
    }

    /// Adds a program that works on the same store; parameters and states that it alone has start as it says.
    ///
    /// # Errors
    /// `E0306` if the store has a name of the program with another type, or a state with another start ([`Store::accepts`]), or if
    /// an optimiser would count its steps together with another one's; `E0309` if there is no memory for the program; `E0311` if
    /// the CPU lacks its instruction set. Nothing has changed then.
    pub fn load(&mut self, program: Arc<Executable>) -> Result<ProgramId, Diag> {
        runs_here(program.target())?;
        self.store.accepts(&program)?;
        self.programs.iter().try_for_each(|known| shares_no_counter(known.program(), &program))?;
        let needs = Needs::of_session(&program, &self.store, &self.runtime);
        let granted = program.memory.ask(needs.total());
        granted.map_err(|refused| needs.refusal(refused, &program.plan, &program.optimized))?;
        let missing = self.store.missing(&program, &self.runtime)?;
        let slot = |name: &str| self.store.slot(name).or_else(|| missing.get(name));
        let machine = Machine::new(program, slot, &self.runtime, self.tuning.clone())?;
        self.store.adopt(missing);
        self.programs.push(machine);
        Ok(ProgramId { session: self.id, at: self.programs.len() - 1 })
    }

    /// Where a program of this session is.
    #[track_caller]
    pub(crate) fn position(&self, program: ProgramId) -> Result<usize, Diag> {
        if program.session == self.id && program.at < self.programs.len() {
            return Ok(program.at);
        }
        let diag = Diag::new(Code::ForeignId, "the id of a program is of another session");
        Err(diag.help("each session has ids of its own: `Session::load` gives them, and `Session::main`"))
    }

    /// Whether every step is recomputed by the interpreter and compared, bit for bit, as it runs. Slow; `COTANGENT_CHECK=1`
    /// turns it on for every session.
    pub fn set_checked(&mut self, checked: bool) {
        self.checked = checked;
    }

    /// What is done about the ways of products, of all programs, those to come as well; a trial starts anew. Without this, the first
    /// steps try.
    ///
    /// ```
    /// # use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads, Tuning};
    /// # use cotangent_graph::{DType::F32, Init, build};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let graph = build(|g| g.output("y", g.param("w", F32, [64, 64], Init::ONES).matmul(g.param("v", F32, [64, 64], Init::ONES))))?;
    /// # let program = Compiler::new().compile(&graph)?;
    /// let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(1))?;
    /// while !session.is_settled(session.main())? {
    ///     session.step(())?;
    /// }
    /// let ways = session.found();
    /// session.set_tuning(Tuning::Found(ways));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_tuning(&mut self, tuning: Tuning) {
        for machine in &mut self.programs {
            machine.tune(tuning.clone());
        }
        self.tuning = tuning;
    }

    /// Further steps of a program run on the same cores and go the same ways as the next one: what is measured from now on does not
    /// contain trials.
    ///
    /// # Errors
    /// `E0308` if the program is of another session.
    #[track_caller]
    pub fn is_settled(&self, program: ProgramId) -> Result<bool, Diag> {
        Ok(self.programs[self.position(program)?].is_settled())
    }

    /// The ways that the products of all programs were found to go fastest, as far as their trials are over.
    pub fn found(&self) -> Ways {
        let mut ways = Ways::default();
        for machine in &self.programs {
            ways.extend(machine.tuner().found(machine.program()));
        }
        ways
    }

    /// Which ways of a program's products were tried, what each took at best, and with a star the chosen one; nothing where there was
    /// no choice.
    ///
    /// # Errors
    /// `E0308` if the program is of another session.
    #[track_caller]
    pub fn explain(&self, program: ProgramId) -> Result<String, Diag> {
        let machine = &self.programs[self.position(program)?];
        Ok(machine.tuner().explain(machine.program()))
    }

    /// The main program.
    pub fn program(&self) -> &Arc<Executable> {
        self.programs[0].program()
    }

    /// The main program's id.
    pub fn main(&self) -> ProgramId {
        ProgramId { session: self.id, at: 0 }
    }

    /// Bytes that all programs hold besides their arenas: panels that products pack, and rows that threads keep while a step
    /// works on them.
    pub fn scratch_bytes(&self) -> usize {
        self.programs.iter().map(Machine::scratch_bytes).sum()
    }

    /// The parameters and states.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The parameters and states, to be changed.
    ///
    /// ```
    /// # use cotangent_exec::{Compiler, Runtime, Seed, Session, Store, Threads};
    /// # use cotangent_graph::{DType::F32, Init, build};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let graph = build(|g| g.output("y", g.param("w", F32, [], Init::ONES) * 2.0))?;
    /// # let program = Compiler::new().compile(&graph)?;
    /// let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(1))?;
    /// session.store_mut().set("w", 3.0f32)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The store stays where it is: programs hold addresses into it.
    ///
    /// ```compile_fail,E0594
    /// # use cotangent_exec::{Compiler, Runtime, Seed, Session, Store, Threads};
    /// # use cotangent_graph::{DType::F32, Init, build};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let graph = build(|g| g.output("y", g.param("w", F32, [], Init::ONES) * 2.0))?;
    /// # let program = Compiler::new().compile(&graph)?;
    /// let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(1))?;
    /// *session.store_mut() = Store::new(Seed(0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// ```compile_fail,E0596
    /// # use cotangent_exec::{Compiler, Runtime, Seed, Session, Store, Threads};
    /// # use cotangent_graph::{DType::F32, Init, build};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let graph = build(|g| g.output("y", g.param("w", F32, [], Init::ONES) * 2.0))?;
    /// # let program = Compiler::new().compile(&graph)?;
    /// let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(1))?;
    /// std::mem::swap::<Store>(&mut session.store_mut(), &mut Store::new(Seed(0)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn store_mut(&mut self) -> StoreMut<'_> {
        StoreMut::from(&mut self.store)
    }

    /// Takes the store out, for another session.
    pub fn into_store(self) -> Store {
        self.store
    }

    /// One step of the main program. The results are views that are valid until the next step.
    ///
    /// # Errors
    /// `E0301` for an unknown or missing input or one given twice, `E0302` for one of another type, `E0303` for an index out of range; nothing
    /// has changed then.
    #[track_caller]
    pub fn step<'a>(&mut self, inputs: impl StepInputs<'a>) -> Result<Outputs<'_>, Diag> {
        self.run(self.main(), inputs)
    }

    /// Where infinities or NaNs start in a step with these inputs: the first op, in order of computation, that makes one from
    /// finite operands, with the user's line, also inside of fused kernels. The step is interpreted, not run; nothing
    /// changes. `None` if every value is finite.
    ///
    /// # Errors
    /// `E0301`, `E0302` and `E0308` as for a step; `E0309` if there is no memory for the values of the step, all of which are
    /// looked at.
    #[track_caller]
    pub fn find_non_finite<'a>(&self, program: ProgramId, inputs: impl StepInputs<'a>) -> Result<Option<Diag>, Diag> {
        let executable = self.programs[self.position(program)?].program();
        let env = check::environment(executable, &self.store, &Inputs::new(executable, inputs)?)?;
        Ok(check::first_non_finite(executable, &env))
    }

    /// One step of a program of this session; see [`Session::step`].
    ///
    /// # Errors
    /// As [`Session::step`], and `E0308` if the program is of another session.
    #[track_caller]
    pub fn run<'a>(&mut self, program: ProgramId, inputs: impl StepInputs<'a>) -> Result<Outputs<'_>, Diag> {
        let at = self.position(program)?;
        let machine = &mut self.programs[at];
        let mut inputs = Inputs::new(machine.program(), inputs)?;
        inputs.in_order(machine.program())?;
        let counters = self.store.counters(machine.program())?;
        if self.checked {
            let executable = Arc::clone(machine.program());
            let env = check::environment(&executable, &self.store, &inputs)?;
            let oracle = check::Oracle::new(&executable, &env);
            let mut observe = |machine: &Machine, s: usize| oracle.compare(machine, s);
            let result = machine.run(&inputs, counters, Some(&mut observe));
            if result.as_ref().is_err_and(|diag| diag.code == Code::Diverged) {
                // Other steps may have updated something before: all of it goes back.
                for (name, ..) in &executable.interface.stored {
                    if let Some(value) = env.values.get(name) {
                        self.store.restore(name, value);
                    }
                }
            }
            result?;
        } else {
            machine.run(&inputs, counters, None)?;
        }
        self.store.advance(machine.program());
        Ok(Outputs { machine })
    }
}

/// The state, in its scope, in which the steps of an optimiser are counted.
const STEPS: &str = "optimizer.t";

/// Two programs that train different parameters must not count the steps of their optimisers in one state.
///
/// # Errors
/// `E0306`, naming the state.
fn shares_no_counter(first: &Executable, second: &Executable) -> Result<(), Diag> {
    let [a, b] = [first, second].map(Executable::updated_by_kind);
    let apart = !a.params.is_empty() && !b.params.is_empty() && a.params.is_disjoint(&b.params);
    let is_counter =
        |state: &&&str| **state == STEPS || state.strip_suffix(STEPS).is_some_and(|scope| scope.ends_with('.'));
    match a.states.intersection(&b.states).find(is_counter) {
        Some(state) if apart => {
            let text = format!(
                "the program counts in `{state}`, in which another program counts that trains other parameters"
            );
            Err(Diag::new(Code::StoreMismatch, text).at(second.declared_at(state)).help(OWN_SCOPE))
        }
        _ => Ok(()),
    }
}

/// The results of a step: views valid until the next one.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'s> {
    machine: &'s Machine,
}

impl<'s> Outputs<'s> {
    /// Names and types.
    pub fn iter(&self) -> impl Iterator<Item = (&'s str, &'s Type)> + use<'s> {
        self.machine.program().plan.outputs.iter().map(|o| (&*o.name, &o.ty))
    }

    #[track_caller]
    fn find(&self, name: &str) -> Result<usize, Diag> {
        let outputs = &self.machine.program().plan.outputs;
        if let Some(at) = outputs.iter().position(|o| &*o.name == name) {
            return Ok(at);
        }
        let names = outputs.iter().map(|o| &*o.name);
        let diag = Diag::new(Code::NoSuchValue, format!("the program has no output `{name}`"));
        Err(diag.suggest(name, names))
    }

    /// A result as a view.
    ///
    /// # Errors
    /// `E0304` if there is no such output or its elements are of another type.
    #[track_caller]
    pub fn view<T: Element>(&self, name: &str) -> Result<ArrayViewD<'s, T>, Diag> {
        let at = self.find(name)?;
        let output = &self.machine.program().plan.outputs[at];
        if output.ty.dtype() != T::DTYPE {
            let text = format!("output `{name}` has elements of {}, not {}", output.ty.dtype(), T::DTYPE);
            return Err(Diag::new(Code::NoSuchValue, text));
        }
        match self.machine.view(at) {
            Some(view) => Ok(view),
            None => Err(Diag::new(Code::NoSuchValue, format!("output `{name}` has no memory"))),
        }
    }

    /// A result as a tensor of its own.
    ///
    /// # Errors
    /// `E0304` if there is no such output, `E0309` if there is no memory for it.
    #[track_caller]
    pub fn tensor(&self, name: &str) -> Result<TensorData, Diag> {
        let at = self.find(name)?;
        ask_for_copy(name, &self.machine.program().plan.outputs[at].ty)?;
        Ok(self.machine.tensor(at))
    }

    /// A result of one element, as f64.
    ///
    /// # Errors
    /// `E0304` if there is no such output or it has more than one element.
    #[track_caller]
    pub fn scalar(&self, name: &str) -> Result<f64, Diag> {
        let at = self.find(name)?;
        match self.machine.scalar(at) {
            Some(value) => Ok(value),
            None => {
                let ty = &self.machine.program().plan.outputs[at].ty;
                let text = format!("output `{name}` of type {ty} is not a single number");
                Err(Diag::new(Code::NoSuchValue, text).help("take it as a tensor with `.view()` or `.tensor()`"))
            }
        }
    }
}

/// A session moves between threads.
const _: fn() = || {
    fn assert<T: Send>() {}
    assert::<Session>();
};
