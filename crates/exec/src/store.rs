//! The store: parameters, states, hyper-parameters and counters, in row-major order, apart from any program.
//!
//! Programs for training, evaluation and other batch sizes work on one store. Setting a value copies it in; memory never
//! moves, so programs keep their pointers.

use std::collections::BTreeMap;

use cotangent_graph::{Code, DType, Diag, Init, TensorData, Type};

use crate::compile::Executable;
use crate::memory::AlignedBytes;

/// The seed of a run: everything random follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Seed(pub u64);

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) ty: Type,
    pub(crate) data: AlignedBytes,
    pub(crate) version: u64,
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
            Some(slot) => Ok(slot.data.read_tensor(slot.ty.dtype(), slot.ty.shape())),
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
        slot.data.write_tensor(&value);
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
            Some(slot) => Ok(slot.data.to_le_bytes(slot.ty.dtype().size_bytes())),
            None => Err(self.unknown(name)),
        }
    }

    /// Replaces a value, or makes one if the name is new, from bytes as [`Store::to_bytes`] gives them. Programs that are
    /// loaded later find it there.
    ///
    /// # Errors
    /// `E0302` if there is a value of another type, if the type is no tensor, or if the bytes are not those of such a
    /// value; nothing has changed then.
    #[track_caller]
    pub fn insert_bytes(&mut self, name: &str, ty: &Type, bytes: &[u8]) -> Result<(), Diag> {
        let wrong = |required: String, got: String| {
            Err(Diag::new(Code::InputType, format!("`{name}` requires {required}, got {got}")))
        };
        let Some((dtype, _)) = ty.as_tensor() else { return wrong("a tensor".to_owned(), ty.to_string()) };
        if let Some(slot) = self.slots.get(name).filter(|slot| slot.ty != *ty) {
            return wrong(slot.ty.to_string(), ty.to_string());
        }
        if bytes.len() != ty.n_bytes() {
            return wrong(format!("{} bytes for {ty}", ty.n_bytes()), bytes.len().to_string());
        }
        if dtype == DType::Bool && bytes.iter().any(|&byte| byte > 1) {
            return wrong("truth values of 0 and 1".to_owned(), "another byte".to_owned());
        }
        let new = || Slot { ty: ty.clone(), data: AlignedBytes::zeroed(ty.n_bytes()), version: 0 };
        let slot = self.slots.entry(name.to_owned()).or_insert_with(new);
        slot.data.write_le_bytes(bytes, dtype.size_bytes());
        slot.version += 1;
        Ok(())
    }

    /// Replaces a value, or makes one if the name is new: [`Store::set`] for states of the caller's own.
    ///
    /// # Errors
    /// `E0302` if there is a value of another type.
    #[track_caller]
    pub fn insert(&mut self, name: &str, value: impl Into<TensorData>) -> Result<(), Diag> {
        let value = value.into();
        if !self.slots.contains_key(name) {
            let zeros = vec![0; value.ty().n_bytes()];
            self.insert_bytes(name, &value.ty(), &zeros)?;
        }
        self.set(name, value)
    }

    /// Puts back what was read from the same store before.
    pub(crate) fn restore(&mut self, name: &str, value: &TensorData) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.data.write_tensor(value);
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

    /// Makes room for a parameter or state, starting as its initialiser says, unless it is there.
    pub(crate) fn provide(&mut self, name: &str, ty: &Type, init: &Init) {
        if !self.slots.contains_key(name) {
            let mut data = AlignedBytes::zeroed(ty.n_bytes());
            let (size, mut at) = (ty.dtype().size_bytes(), 0);
            init.sample_blocks(self.seed.0, name, ty.dtype(), ty.shape(), |block| {
                data.write_bits(at, block, size);
                at += block.len();
            });
            self.slots.insert(name.to_owned(), Slot { ty: ty.clone(), data, version: 0 });
        }
    }

    /// The address of a value's elements.
    pub(crate) fn address(&mut self, name: &str) -> Option<*mut u8> {
        self.slots.get_mut(name).map(|slot| slot.data.as_mut_ptr())
    }

    pub(crate) fn advance(&mut self) {
        self.step = self.step.wrapping_add(1);
    }
}
