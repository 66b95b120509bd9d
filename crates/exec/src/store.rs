//! The store: parameters, states, hyper-parameters and counters, in row-major order, apart from any program.
//!
//! Programs for training, evaluation and other batch sizes work on one store. Setting a value copies it in; memory never
//! moves, so programs keep their pointers. A store that programs work on is changed through a [`StoreMut`], which nobody can
//! put another store in the place of.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Deref;

use cotangent_graph::{Code, DType, Diag, TensorData, Type};
use cotangent_host::Block;

use crate::compile::Executable;
use crate::memory::{in_le, no_memory, tensor_of, write_bits, write_tensor};

/// The seed of a run: everything random follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Seed(pub u64);

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) ty: Type,
    pub(crate) data: Block,
    pub(crate) version: u64,
}

impl Slot {
    /// Zeros of a type.
    #[track_caller]
    fn zeroed(name: &str, ty: &Type) -> Result<Self, Diag> {
        match Block::zeroed(ty.n_bytes()) {
            Ok(data) => Ok(Slot { ty: ty.clone(), data, version: 0 }),
            Err(refused) => Err(no_memory(format!("`{name}` of type {ty}"), refused)),
        }
    }
}

/// Parameters, states and counters by name.
#[derive(Debug)]
pub struct Store {
    slots: BTreeMap<String, Slot>,
    seed: Seed,
    step: u32,
}

impl Store {
    /// An empty store; programs fill it with starting values that follow from the seed.
    pub fn new(seed: Seed) -> Self {
        Store { slots: BTreeMap::new(), seed, step: 0 }
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

    /// All names and types.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Type)> {
        self.slots.iter().map(|(name, slot)| (name.as_str(), &slot.ty))
    }

    /// A copy of a value.
    ///
    /// # Errors
    /// `E0304` if there is none of this name.
    #[track_caller]
    pub fn get(&self, name: &str) -> Result<TensorData, Diag> {
        match self.slots.get(name) {
            Some(slot) => Ok(tensor_of(slot.data.bytes(), slot.ty.dtype(), slot.ty.shape())),
            None => Err(self.unknown(name)),
        }
    }

    /// Replaces a value by one of the same type.
    ///
    /// # Errors
    /// `E0304` if there is none of this name, `E0302` if the type differs; the old value stays.
    #[track_caller]
    pub fn set(&mut self, name: &str, value: impl Into<TensorData>) -> Result<(), Diag> {
        let value = value.into();
        if !self.slots.contains_key(name) {
            return Err(self.unknown(name));
        }
        let Some(slot) = self.slots.get_mut(name) else { return Ok(()) };
        if value.ty() != slot.ty {
            let text = format!("`{name}` requires {}, got {}", slot.ty, value.ty());
            return Err(Diag::new(Code::InputType, text));
        }
        write_tensor(&mut slot.data, &value);
        slot.version += 1;
        Ok(())
    }

    /// The type of a value, if there is one of this name.
    pub fn type_of(&self, name: &str) -> Option<&Type> {
        self.slots.get(name).map(|slot| &slot.ty)
    }

    /// A copy of a value as bytes: the elements in row-major order, little-endian; `bool` as bytes of 0 and 1.
    ///
    /// # Errors
    /// `E0304` if there is none of this name.
    #[track_caller]
    pub fn to_bytes(&self, name: &str) -> Result<Vec<u8>, Diag> {
        match self.slots.get(name) {
            Some(slot) => {
                let mut bytes = slot.data.bytes().to_vec();
                in_le(&mut bytes, slot.ty.dtype().size_bytes());
                Ok(bytes)
            }
            None => Err(self.unknown(name)),
        }
    }

    /// Replaces a value, or makes one if the name is new, from bytes as [`Store::to_bytes`] gives them. Programs that are
    /// loaded later find it there.
    ///
    /// # Errors
    /// `E0302` if there is a value of another type, if the type is no tensor, or if the bytes are not those of such a
    /// value; `E0309` if there is no memory for a new one. Nothing has changed then.
    #[track_caller]
    pub fn insert_bytes(&mut self, name: &str, ty: &Type, bytes: &[u8]) -> Result<(), Diag> {
        let wrong = |required: String, got: String| {
            Err(Diag::new(Code::InputType, format!("`{name}` requires {required}, got {got}")))
        };
        let Some((dtype, _)) = ty.as_tensor().filter(|(_, shape)| shape.checked_elements().is_some()) else {
            return wrong("a tensor that can be addressed".to_owned(), ty.to_string());
        };
        if let Some(slot) = self.slots.get(name).filter(|slot| slot.ty != *ty) {
            return wrong(slot.ty.to_string(), ty.to_string());
        }
        if bytes.len() != ty.n_bytes() {
            return wrong(format!("{} bytes for {ty}", ty.n_bytes()), bytes.len().to_string());
        }
        if dtype == DType::Bool && bytes.iter().any(|&byte| byte > 1) {
            return wrong("truth values of 0 and 1".to_owned(), "another byte".to_owned());
        }
        let slot = match self.slots.entry(name.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Slot::zeroed(name, ty)?),
        };
        slot.data.bytes_mut().copy_from_slice(bytes);
        in_le(slot.data.bytes_mut(), dtype.size_bytes());
        slot.version += 1;
        Ok(())
    }

    /// Replaces a value, or makes one if the name is new: [`Store::set`] for states of the caller's own.
    ///
    /// # Errors
    /// `E0302` if there is a value of another type, `E0309` if there is no memory for a new one.
    #[track_caller]
    pub fn insert(&mut self, name: &str, value: impl Into<TensorData>) -> Result<(), Diag> {
        let value = value.into();
        if !self.slots.contains_key(name) {
            self.slots.insert(name.to_owned(), Slot::zeroed(name, &value.ty())?);
        }
        self.set(name, value)
    }

    /// Puts back what was read from the same store before.
    pub(crate) fn restore(&mut self, name: &str, value: &TensorData) {
        if let Some(slot) = self.slots.get_mut(name) {
            write_tensor(&mut slot.data, value);
        }
    }

    /// Whether a program can work on this store: every parameter and state that both have is of one type.
    ///
    /// # Errors
    /// `E0306` for the first that is not.
    pub fn accepts(&self, program: &Executable) -> Result<(), Diag> {
        program.interface.stored.iter().try_for_each(|(name, ty, _)| match self.slots.get(name) {
            Some(slot) if slot.ty != *ty => {
                let text = format!("the program requires `{name}` of type {ty}, the store has {}", slot.ty);
                Err(Diag::new(Code::StoreMismatch, text).at(program.declared_at(name)))
            }
            _ => Ok(()),
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
    pub(crate) fn missing(&self, program: &Executable) -> Result<BTreeMap<String, Slot>, Diag> {
        let mut missing = BTreeMap::new();
        for (name, ty, init) in program.interface.stored.iter().filter(|(name, ..)| !self.slots.contains_key(name)) {
            let mut slot = Slot::zeroed(name, ty).map_err(|diag| diag.at(program.declared_at(name)))?;
            let mut at = 0;
            init.sample_blocks(self.seed.0, name, ty.dtype(), ty.shape(), |block| {
                write_bits(&mut slot.data, at, block.iter().copied(), ty.dtype());
                at += block.len();
            });
            missing.insert(name.clone(), slot);
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

    pub(crate) fn advance(&mut self) {
        self.step = self.step.wrapping_add(1);
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
    pub fn set(&mut self, name: &str, value: impl Into<TensorData>) -> Result<(), Diag> {
        self.0.set(name, value)
    }

    /// [`Store::insert`].
    ///
    /// # Errors
    /// As [`Store::insert`].
    #[track_caller]
    pub fn insert(&mut self, name: &str, value: impl Into<TensorData>) -> Result<(), Diag> {
        self.0.insert(name, value)
    }

    /// [`Store::insert_bytes`].
    ///
    /// # Errors
    /// As [`Store::insert_bytes`].
    #[track_caller]
    pub fn insert_bytes(&mut self, name: &str, ty: &Type, bytes: &[u8]) -> Result<(), Diag> {
        self.0.insert_bytes(name, ty, bytes)
    }

    /// [`Store::set_step`].
    pub fn set_step(&mut self, step: u32) {
        self.0.set_step(step);
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
