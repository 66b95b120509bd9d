//! Sessions: programs, their store and their arenas, step by step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cotangent_graph::{Code, Diag, Element, Env, TensorData, Type};
use ndarray::ArrayViewD;
use smallvec::SmallVec;

use crate::check;
use crate::compile::Executable;
use crate::input::{InputKey, InputView};
use crate::machine::{Machine, give_back};
use crate::runtime::Runtime;
use crate::store::{Seed, Store};

/// A program of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramId(usize);

/// Runs programs on one store, with the threads of a runtime.
///
/// The first program is the main one, run by [`Session::step`]; others (evaluation, other batch sizes) are added with
/// [`Session::load`]. A step is transactional: if it returns an error, no parameter, state or counter has changed.
#[derive(Debug)]
pub struct Session {
    // Programs hold addresses into the store, so they are declared, and dropped, first.
    programs: Vec<(Arc<Executable>, Machine)>,
    store: Store,
    runtime: Runtime,
    checked: bool,
}

impl Session {
    /// A session whose parameters and states start as the program's initialisers say under this seed.
    ///
    /// # Errors
    /// None with a fresh store; kept for programs that ask for one name with two types.
    pub fn new(runtime: &Runtime, program: Arc<Executable>, seed: Seed) -> Result<Self, Diag> {
        Session::with_store(runtime, program, Store::new(seed))
    }

    /// A session that goes on with a store.
    ///
    /// # Errors
    /// `E0306` if the store has a name of the program with another type.
    pub fn with_store(runtime: &Runtime, program: Arc<Executable>, store: Store) -> Result<Self, Diag> {
        let checked = std::env::var_os("COTANGENT_CHECK").is_some_and(|v| v == "1");
        let mut session = Session { programs: Vec::new(), store, runtime: runtime.clone(), checked };
        session.load(program)?;
        give_back();
        Ok(session)
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
    /// `E0306` if the store has a name of the program with another type; nothing has changed then.
    pub fn load(&mut self, program: Arc<Executable>) -> Result<ProgramId, Diag> {
        self.store.accepts(&program)?;
        for (name, ty, init) in &program.interface.stored {
            self.store.provide(name, ty, init);
        }
        let machine = Machine::new(&program, &mut self.store, &self.runtime)?;
        self.programs.push((program, machine));
        Ok(ProgramId(self.programs.len() - 1))
    }

    /// Whether every step is recomputed by the interpreter and compared, bit for bit, as it runs. Slow; `COTANGENT_CHECK=1`
    /// turns it on for every session.
    pub fn set_checked(&mut self, checked: bool) {
        self.checked = checked;
    }

    /// The main program.
    pub fn program(&self) -> &Arc<Executable> {
        &self.programs[0].0
    }

    /// The main program's id.
    pub fn main(&self) -> ProgramId {
        ProgramId(0)
    }

    /// Bytes that all programs hold besides their arenas: panels that products pack, and rows that threads keep while a step
    /// works on them.
    pub fn scratch_bytes(&self) -> usize {
        self.programs.iter().map(|(_, machine)| machine.scratch_bytes()).sum()
    }

    /// The parameters and states.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The parameters and states, to be changed.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Takes the store out, for another session.
    pub fn into_store(self) -> Store {
        self.store
    }

    /// One step of the main program. The results are views that are valid until the next step.
    ///
    /// # Errors
    /// `E0301` for an unknown or missing input, `E0302` for one of another type, `E0303` for an index out of range; nothing
    /// has changed then.
    #[track_caller]
    pub fn step<'a, K: InputKey>(
        &mut self,
        inputs: impl IntoIterator<Item = (K, InputView<'a>)>,
    ) -> Result<Outputs<'_>, Diag> {
        self.run(ProgramId(0), inputs)
    }

    /// Runs `n` steps of a program on the same inputs and measures each step of its plan: the median time of each, in plan
    /// order. These are steps like any other: they update parameters and states. A few more come first where a small program
    /// still tries whether one core is faster.
    ///
    /// # Errors
    /// As [`Session::step`].
    #[track_caller]
    pub fn profile<'a, K: InputKey>(
        &mut self,
        program: ProgramId,
        inputs: impl IntoIterator<Item = (K, InputView<'a>)>,
        n: usize,
    ) -> Result<Vec<Duration>, Diag> {
        let (executable, machine) = &mut self.programs[program.0];
        let held = bind(executable, machine, inputs)?;
        let mut times: Vec<Vec<Duration>> = vec![Vec::with_capacity(n); executable.plan.steps.len()];
        let mut left = n;
        while left > 0 {
            let counts = machine.is_settled();
            left -= usize::from(counts);
            let mut last = Instant::now();
            let mut observe = |_: &Machine, s: usize| {
                let now = Instant::now();
                if counts {
                    times[s].push(now - last);
                }
                last = now;
                Ok(())
            };
            let (seed, step) = (self.store.seed().0, self.store.step());
            machine.run(executable, &self.runtime, seed, step, Some(&mut observe))?;
            if executable.updates() {
                self.store.advance();
            }
        }
        machine.unbind();
        drop(held);
        let median = |mut t: Vec<Duration>| {
            t.sort_unstable();
            t.get(t.len() / 2).copied().unwrap_or_default()
        };
        Ok(times.into_iter().map(median).collect())
    }

    /// Where infinities or NaNs start in a step with these inputs: the first op, in order of computation, that makes one from
    /// finite operands, with the user's line, also inside of fused kernels. The step is interpreted, not run; nothing
    /// changes. `None` if every value is finite.
    ///
    /// # Errors
    /// `E0301` and `E0302` as for a step.
    #[track_caller]
    pub fn find_non_finite<'a, K: InputKey>(
        &self,
        program: ProgramId,
        inputs: impl IntoIterator<Item = (K, InputView<'a>)>,
    ) -> Result<Option<Diag>, Diag> {
        let executable = &self.programs[program.0].0;
        let mut given = Vec::new();
        for (key, view) in inputs {
            let position = executable.checked_input(&key, &view)?;
            given.push((executable.interface.input_names[position].clone(), view));
        }
        let env = check::environment(&self.store, given.iter().map(|(n, v)| (n.as_str(), v)));
        Ok(check::first_non_finite(executable, &env))
    }

    /// One step of a program of this session; see [`Session::step`].
    ///
    /// # Errors
    /// As [`Session::step`].
    #[track_caller]
    pub fn run<'a, K: InputKey>(
        &mut self,
        program: ProgramId,
        inputs: impl IntoIterator<Item = (K, InputView<'a>)>,
    ) -> Result<Outputs<'_>, Diag> {
        let (executable, machine) = &mut self.programs[program.0];
        let held = bind(executable, machine, inputs)?;
        let (seed, step) = (self.store.seed().0, self.store.step());
        let result = if self.checked {
            let names = &executable.interface.input_names;
            let env = check::environment(&self.store, held.iter().map(|(p, v)| (names[*p].as_str(), v)));
            let oracle = check::Oracle::new(executable, &env);
            let mut observe = |machine: &Machine, s: usize| oracle.compare(executable, machine, s);
            let result = machine.run(executable, &self.runtime, seed, step, Some(&mut observe));
            if result.as_ref().is_err_and(|diag| diag.code == Code::Diverged) {
                // Other steps may have updated something before: all of it goes back.
                for (name, ..) in &executable.interface.stored {
                    if let Some(value) = env.values.get(name) {
                        self.store.restore(name, value);
                    }
                }
            }
            result
        } else {
            machine.run(executable, &self.runtime, seed, step, None)
        };
        machine.unbind();
        drop(held);
        result?;
        if executable.updates() {
            self.store.advance();
        }
        Ok(Outputs { executable, machine })
    }
}

/// Binds the inputs of a step; the views must be held until it is over.
#[track_caller]
fn bind<'a, K: InputKey>(
    executable: &Executable,
    machine: &mut Machine,
    inputs: impl IntoIterator<Item = (K, InputView<'a>)>,
) -> Result<Held<'a>, Diag> {
    machine.unbind();
    let mut held = Held::new();
    for (key, view) in inputs {
        let position = executable.checked_input(&key, &view)?;
        machine.bind(position, &view);
        held.push((position, view));
    }
    match machine.first_unbound() {
        None => Ok(held),
        Some(missing) => {
            let name = &executable.interface.input_names[missing];
            let ty = &executable.interface.input_types[missing];
            let diag =
                Diag::new(Code::InputNames, format!("the program requires input `{name}` of type {ty}, got none"));
            Err(diag.note("the input was declared", executable.declared_at(name)))
        }
    }
}

/// Bound views by input; those that own a copy must outlive the step.
type Held<'a> = SmallVec<[(usize, InputView<'a>); 8]>;

/// The results of a step: views valid until the next one.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'s> {
    executable: &'s Executable,
    machine: &'s Machine,
}

impl<'s> Outputs<'s> {
    /// Names and types.
    pub fn iter(&self) -> impl Iterator<Item = (&'s str, &'s Type)> + use<'s> {
        self.executable.plan.outputs.iter().map(|o| (&*o.name, &o.ty))
    }

    #[track_caller]
    fn find(&self, name: &str) -> Result<usize, Diag> {
        let outputs = &self.executable.plan.outputs;
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
        let output = &self.executable.plan.outputs[at];
        if output.ty.dtype() != T::DTYPE {
            let text = format!("output `{name}` has elements of {}, not {}", output.ty.dtype(), T::DTYPE);
            return Err(Diag::new(Code::NoSuchValue, text));
        }
        match self.machine.view(output) {
            Some(view) => Ok(view),
            None => Err(Diag::new(Code::NoSuchValue, format!("output `{name}` has no memory"))),
        }
    }

    /// A result as a tensor of its own.
    ///
    /// # Errors
    /// `E0304` if there is no such output.
    #[track_caller]
    pub fn tensor(&self, name: &str) -> Result<TensorData, Diag> {
        let at = self.find(name)?;
        Ok(self.machine.tensor(&self.executable.plan.outputs[at]))
    }

    /// A result of one element, as f64.
    ///
    /// # Errors
    /// `E0304` if there is no such output or it has more than one element.
    #[track_caller]
    pub fn scalar(&self, name: &str) -> Result<f64, Diag> {
        let at = self.find(name)?;
        let output = &self.executable.plan.outputs[at];
        match self.machine.scalar(output) {
            Some(value) => Ok(value),
            None => {
                let text = format!("output `{name}` of type {} is not a single number", output.ty);
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
