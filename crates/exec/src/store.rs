//! The store: parameters, states, hyper-parameters and counters, in row-major order, apart from any program.
//!
//! Programs for training, evaluation and other batch sizes work on one store. Setting a value copies it in; memory never
//! moves, so programs keep their pointers. A store that programs work on is changed through a [`StoreMut`], which nobody can
//! put another store in the place of.

use std::collections::BTreeMap;
use std::ops::Deref;

use cotangent_graph::tensor::write_native_bits;
use cotangent_graph::{Code, Counters, DType, Diag, HostTensor, Init, TensorData, Type};
use cotangent_host::{Block, Memory};

use crate::compile::Executable;
use crate::initial;
use crate::memory::{ask_for_copy, no_memory};
use crate::runtime::Runtime;

/// The seed of a run: everything random follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Seed(pub u64);

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) ty: Type,
    pub(crate) data: Block,
    pub(crate) version: u64,
    /// What a program that made it says that it starts as.
    start: Option<Init>,
}

impl Slot {
    /// Zeros of a type.
    #[track_caller]
    fn zeroed(name: &str, ty: &Type) -> Result<Self, Diag> {
        match Block::zeroed(ty.n_bytes()) {
            Ok(data) => Ok(Slot { ty: ty.clone(), data, version: 0, start: None }),
            Err(refused) => Err(no_memory(format!("`{name}` of type {ty}"), refused)),
        }
    }
}

/// What to do about two programs whose optimisers would share a state.
pub(crate) const OWN_SCOPE: &str = "give each optimiser a scope of its own, `g.scope(\"generator\", || g.minimize(..))`, or the \
                                    same settings if it is one; to change a setting, set it in the store";

/// Parameters, states and counters by name.
#[derive(Debug)]
pub struct Store {
    slots: BTreeMap<String, Slot>,
    seed: Seed,
    step: u32,
    draws: u64,
}

impl Store {
    /// An empty store; programs fill it with starting values that follow from the seed.
    pub fn new(seed: Seed) -> Self {
        Store { slots: BTreeMap::new(), seed, step: 0, draws: 0 }
    }

    /// The seed.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// The number of steps that changed something; random numbers depend on it.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// Sets the number of steps taken, for a run that is resumed.
    pub fn set_step(&mut self, step: u32) {
        self.step = step;
    }

    /// How often programs that have random numbers and update nothing were called. Each call draws anew: the key of its random
    /// numbers is the seed, mixed with this count unless that is 0.
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// Sets that count: calls draw again what they drew from there on.
    pub fn set_draws(&mut self, draws: u64) {
        self.draws = draws;
    }

    /// What the random numbers of a program's next step depend on.
    ///
    /// # Errors
    /// `E0310` if the step would be the last that a counter of 32 bits has: random numbers would repeat.
    #[track_caller]
    pub(crate) fn counters(&self, program: &Executable) -> Result<Counters, Diag> {
        if self.step == u32::MAX && program.updates() {
            let text =
                format!("the store has counted {} steps, all that there are; random numbers would repeat", self.step);
            let help = "go on with the values in a store of another seed, or set the counter back with `set_step`";
            return Err(Diag::new(Code::OutOfSteps, text).help(help));
        }
        let draws = if program.is_sampler() { self.draws } else { 0 };
        Ok(Counters { seed: self.seed.0, step: self.step }.draw(draws))
    }

    /// All names and types.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Type)> {
        self.slots.iter().map(|(name, slot)| (name.as_str(), &slot.ty))
    }

    /// A copy of a value.
    ///
    /// # Errors
    /// `E0304` if there is none of this name, `E0309` if there is no memory for it.
    #[track_caller]
    pub fn get(&self, name: &str) -> Result<TensorData, Diag> {
        let Some(slot) = self.slots.get(name) else { return Err(self.unknown(name)) };
        ask_for_copy(name, &slot.ty)?;
        Ok(TensorData::from_native_bytes(slot.ty.dtype(), slot.ty.shape(), slot.data.bytes()))
    }

    /// Replaces a value by one of the same type.
    ///
    /// # Errors
    /// `E0304` if there is none of this name, `E0302` if the type differs; the old value stays.
    #[track_caller]
    pub fn set<'a>(&mut self, name: &str, value: impl Into<HostTensor<'a>>) -> Result<(), Diag> {
        let value = value.into();
        if !self.slots.contains_key(name) {
            return Err(self.unknown(name));
        }
        self.check(name, &value.ty())?;
        let Some(slot) = self.slots.get_mut(name) else { return Ok(()) };
        value.write_native_bytes(slot.data.bytes_mut());
        slot.version += 1;
        Ok(())
    }

    /// The type of a value, if there is one of this name.
    pub fn type_of(&self, name: &str) -> Option<&Type> {
        self.slots.get(name).map(|slot| &slot.ty)
    }

    /// Whether [`Store::insert`] would take a value of this type: for whoever replaces several values, or none.
    ///
    /// # Errors
    /// `E0302`, as there.
    #[track_caller]
    pub fn check(&self, name: &str, ty: &Type) -> Result<(), Diag> {
        let required = match self.slots.get(name) {
            Some(slot) if slot.ty != *ty => slot.ty.to_string(),
            None if ty.as_tensor().is_none_or(|(_, shape)| shape.checked_elements().is_none()) => {
                "a tensor that can be addressed".to_owned()
            }
            _ => return Ok(()),
        };
        Err(Diag::new(Code::InputType, format!("`{name}` requires {required}, got {ty}")))
    }

    /// Replaces a value, or makes one if the name is new: [`Store::set`] for states of the caller's own.
    ///
    /// # Errors
    /// `E0302` if there is a value of another type, or the new one is too large to be addressed; `E0309` if there is no memory for
    /// a new one. Nothing has changed then.
    #[track_caller]
    pub fn insert<'a>(&mut self, name: &str, value: impl Into<HostTensor<'a>>) -> Result<(), Diag> {
        let value = value.into();
        self.check(name, &value.ty())?;
        if !self.slots.contains_key(name) {
            self.slots.insert(name.to_owned(), Slot::zeroed(name, &value.ty())?);
        }
        self.set(name, value)
    }

    /// Makes values, or replaces them by values of the same types: all of them, or none. The store makes memory for each type, zeroed
    /// and aligned, and `write` fills it with the elements in row-major order and the machine's byte order. What has a new name is
    /// written where it stays. What replaces a value is written beside it and copied once all are there, because programs hold the
    /// addresses of the old one. Of a name that comes twice the last type counts.
    ///
    /// # Errors
    /// `E0302` as for [`Store::insert`], and for a truth value that is neither 0 nor 1; `E0309` if there is no memory for all of them, or what `write` says. Nothing has changed then.
    #[track_caller]
    pub fn fill<'a, E: From<Diag>>(
        &mut self,
        values: impl IntoIterator<Item = (&'a str, Type)>,
        mut write: impl FnMut(&str, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let values: BTreeMap<&str, Type> = values.into_iter().collect();
        values.iter().try_for_each(|(name, ty)| self.check(name, ty))?;
        let n_bytes = values.values().fold(0usize, |sum, ty| sum.saturating_add(ty.n_bytes()));
        let granted = Memory::default().ask(n_bytes);
        granted.map_err(|refused| no_memory(format!("{} values for the store", values.len()), refused))?;
        let mut written = Vec::with_capacity(values.len());
        for (name, ty) in &values {
            let mut slot = Slot::zeroed(name, ty)?;
            write(name, slot.data.bytes_mut())?;
            // Programs, and who reads the store, rely on it.
            let odd = slot.data.bytes().iter().find(|byte| ty.dtype() == DType::Bool && **byte > 1);
            if let Some(odd) = odd {
                let text = format!("`{name}` requires truth values, bytes of 0 or 1, got a byte of {odd}");
                return Err(Diag::new(Code::InputType, text).into());
            }
            written.push(slot);
        }
        for (name, new) in values.into_keys().zip(written) {
            match self.slots.get_mut(name) {
                Some(slot) => {
                    slot.data.bytes_mut().copy_from_slice(new.data.bytes());
                    slot.version += 1;
                }
                None => drop(self.slots.insert(name.to_owned(), Slot { version: 1, ..new })),
            }
        }
        Ok(())
    }

    /// Puts back what was read from the same store before.
    pub(crate) fn restore(&mut self, name: &str, value: &TensorData) {
        if let Some(slot) = self.slots.get_mut(name) {
            value.write_native_bytes(slot.data.bytes_mut());
        }
    }

    /// Whether a program can work on this store: every parameter and state that both have is of one type, and a number of an
    /// optimiser (a state in a scope `optimizer`) that a program made starts as this one says: what it starts as is a setting, such as
    /// the learning rate. What is learned may start as it likes.
    ///
    /// # Errors
    /// `E0306` for the first that is not.
    pub fn accepts(&self, program: &Executable) -> Result<(), Diag> {
        program.interface.stored.iter().try_for_each(|(name, ty, init)| {
            let Some(slot) = self.slots.get(name) else { return Ok(()) };
            let differs = |text: String| Diag::new(Code::StoreMismatch, text).at(program.declared_at(name));
            if slot.ty != *ty {
                return Err(differs(format!("the program requires `{name}` of type {ty}, the store has {}", slot.ty)));
            }
            let is_setting = name.split('.').any(|part| part == "optimizer") && program.has_state(name);
            match slot.start.filter(|start| start != init && is_setting) {
                None => Ok(()),
                Some(start) => {
                    let text =
                        format!("the program starts `{name}` as {init}, but another program started it as {start}");
                    Err(differs(text).help(OWN_SCOPE))
                }
            }
        })
    }

    /// How often a value was replaced from outside.
    pub fn version(&self, name: &str) -> Option<u64> {
        self.slots.get(name).map(|s| s.version)
    }

    #[track_caller]
    fn unknown(&self, name: &str) -> Diag {
        let diag = Diag::new(Code::NoSuchValue, format!("the store has no parameter or state named `{name}`"));
        diag.suggest(name, self.slots.keys().map(String::as_str))
    }

    /// The parameters and states of a program that are not there yet, each as its initialiser says.
    ///
    /// # Errors
    /// `E0309` if there is no memory for them.
    pub(crate) fn missing(&self, program: &Executable, runtime: &Runtime) -> Result<BTreeMap<String, Slot>, Diag> {
        let stored = program.interface.stored.iter().filter(|(name, ..)| !self.slots.contains_key(name));
        let stored: Vec<_> = stored.collect();
        let mut missing = BTreeMap::new();
        for (name, ty, init) in &stored {
            let slot = Slot::zeroed(name, ty).map_err(|diag| diag.at(program.declared_at(name)))?;
            missing.insert(name.clone(), Slot { start: Some(*init), ..slot });
        }
        for (name, ty, init) in initial::compute(stored, &mut missing, self.seed, runtime) {
            let Some(slot) = missing.get_mut(name) else { continue };
            let mut places = slot.data.bytes_mut().chunks_exact_mut(ty.dtype().size_bytes());
            init.sample_blocks(self.seed.0, name, ty.dtype(), ty.shape(), |block| {
                // In this order, so that the end of a block takes no place with it.
                block.iter().zip(places.by_ref()).for_each(|(&bits, place)| write_native_bits(bits, place));
            });
        }
        Ok(missing)
    }

    /// Takes such values in.
    pub(crate) fn adopt(&mut self, slots: BTreeMap<String, Slot>) {
        self.slots.extend(slots);
    }

    pub(crate) fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots.get(name)
    }

    /// Counts a step of a program that succeeded.
    pub(crate) fn advance(&mut self, program: &Executable) {
        if program.updates() {
            self.step += 1;
        } else if program.is_sampler() {
            self.draws = self.draws.wrapping_add(1);
        }
    }
}

/// A store to be changed, also while programs work on it: values can be set, and new ones added. The store itself cannot be
/// replaced or taken away, because programs hold addresses into it.
///
/// It reads as a [`Store`]. Functions that change a store take `impl Into<StoreMut>`, so they can be given one, a `&mut` to
/// one, or a `&mut Store`.
#[derive(Debug)]
pub struct StoreMut<'s>(&'s mut Store);

impl StoreMut<'_> {
    /// [`Store::set`].
    ///
    /// # Errors
    /// As [`Store::set`].
    #[track_caller]
    pub fn set<'a>(&mut self, name: &str, value: impl Into<HostTensor<'a>>) -> Result<(), Diag> {
        self.0.set(name, value)
    }

    /// [`Store::insert`].
    ///
    /// # Errors
    /// As [`Store::insert`].
    #[track_caller]
    pub fn insert<'a>(&mut self, name: &str, value: impl Into<HostTensor<'a>>) -> Result<(), Diag> {
        self.0.insert(name, value)
    }

    /// [`Store::fill`].
    ///
    /// # Errors
    /// As [`Store::fill`].
    #[track_caller]
    pub fn fill<'a, E: From<Diag>>(
        &mut self,
        values: impl IntoIterator<Item = (&'a str, Type)>,
        write: impl FnMut(&str, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.0.fill(values, write)
    }

    /// [`Store::set_step`].
    pub fn set_step(&mut self, step: u32) {
        self.0.set_step(step);
    }

    /// [`Store::set_draws`].
    pub fn set_draws(&mut self, draws: u64) {
        self.0.set_draws(draws);
    }
}

impl Deref for StoreMut<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.0
    }
}

impl<'s> From<&'s mut Store> for StoreMut<'s> {
    fn from(store: &'s mut Store) -> Self {
        StoreMut(store)
    }
}

impl<'s> From<&'s mut StoreMut<'_>> for StoreMut<'s> {
    fn from(store: &'s mut StoreMut<'_>) -> Self {
        StoreMut(store.0)
    }
}
