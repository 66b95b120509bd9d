//! Checkpoints: everything that a run needs to go on, in one file; and the folder that keeps the last few of them.
//!
//! Why it exists: a run that is killed at any moment must end with the weights that it would have ended with, bit for
//! bit; a damaged file must be noticed; a full disk must cost nothing but the checkpoint that did not fit.
//!
//! A file is in the [safetensors](cotangent_data::safetensors) format, so other tools read the tensors. Its metadata:
//!
//! | key | value |
//! |---|---|
//! | `format` | `cotangent checkpoint` |
//! | `version` | `1`; a reader refuses what is newer |
//! | `seed`, `step` | the store's, decimal |
//! | `draws` | the store's calls of programs that draw and update nothing, decimal; 0 if it is not there |
//! | `note.NAME` | a text of the trainer's or the user's: epoch, place in the data, history, shape of an example |
//! | `note.other.NAME` | empty: the tensor of this name is a callback's or the user's, no program's |
//! | `checksum.TENSOR` | FNV-1a of the tensor's bytes, 16 hexadecimal digits |
//! | `checksum` | the same of all other metadata, and of names, types and shapes |
//!
//! Promises: whatever single byte of a file changes, it is an error or the file means the same; a file appears under its name
//! whole and synced, or not at all.

mod folder;
mod load;
pub mod pytorch;
pub(crate) mod sealed;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

use cotangent_data::DataError;
use cotangent_data::safetensors::{Archive, SafeTensors, Tensors};
use cotangent_exec::{Seed, Store, StoreMut};
use cotangent_graph::{Diag, TensorData};

pub use self::folder::{Checkpoints, Found, Writer};
pub use self::load::{Load, Loaded, load, load_for};
pub(crate) use self::load::{Wanted, check, types_of};
pub use self::sealed::Saved;
use self::sealed::Sealed;
pub use self::value::Value;
pub(crate) use self::value::fill;
use crate::TrainError;

const FILE: Sealed = Sealed {
    format: "cotangent checkpoint",
    version: 1,
    if_damaged: "use an earlier checkpoint",
    if_newer: "use the version that wrote it, or move it out of the folder to go on from an earlier one",
};
const NOTE: &str = "note.";

/// The values of a store, its counters, and notes of whoever made it. The values are in memory, or still in their file
/// ([`Checkpoint::open`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint<V = TensorData> {
    /// Parameters, states, hyper-parameters, by name.
    pub tensors: BTreeMap<String, V>,
    /// The seed that all randomness follows from.
    pub seed: Seed,
    /// Steps taken.
    pub step: u32,
    /// Calls of programs that draw random numbers and update nothing ([`Store::draws`]).
    pub draws: u64,
    /// Texts by name.
    pub notes: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Everything in a store, without notes.
    ///
    /// # Errors
    /// `E0309` if there is no memory for the copies.
    pub fn of_store(store: &Store) -> Result<Self, Diag> {
        Ok(Checkpoint {
            tensors: tensors_of(store, store.iter().map(|(name, _)| name))?,
            seed: store.seed(),
            step: store.step(),
            draws: store.draws(),
            notes: BTreeMap::new(),
        })
    }

    /// Writes a file, durably; the file that was there before stays until the new one is on the device.
    ///
    /// # Errors
    /// [`DataError::Io`] if the system refuses, for example because the disk is full.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), DataError> {
        self.clone().into_file().write(path)
    }

    /// Reads a file into memory and checks it.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and if a value is damaged.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, DataError> {
        Checkpoint::open(path)?.read_all()
    }

    /// [`Checkpoint::read`] from memory; errors call the file `name`.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        Checkpoint::of_archive(Archive::parse(bytes, name)?, name)?.read_all()
    }

    /// The file as it is written.
    pub fn into_file(self) -> SafeTensors {
        let mut metadata: BTreeMap<String, String> = BTreeMap::new();
        metadata.insert("seed".to_owned(), self.seed.0.to_string());
        metadata.insert("step".to_owned(), self.step.to_string());
        if self.draws > 0 {
            metadata.insert("draws".to_owned(), self.draws.to_string());
        }
        metadata.extend(self.notes.into_iter().map(|(name, text)| (format!("{NOTE}{name}"), text)));
        FILE.seal(metadata, self.tensors)
    }
}

impl Checkpoint<Saved<'static>> {
    /// Opens a file and checks its header. Its values are read, and held against their checksums, when they are loaded: straight into the
    /// store.
    ///
    /// # Errors
    /// [`DataError::Missing`] or [`DataError::Io`] if it cannot be read, [`DataError::Malformed`] if its header is damaged or it is no
    /// checkpoint, [`DataError::Unsupported`] if a newer version wrote it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        Checkpoint::of_archive(Archive::open(path)?, &path.display().to_string())
    }
}

impl<'a> Checkpoint<Saved<'a>> {
    fn of_archive(archive: Archive<'a>, name: &str) -> Result<Self, DataError> {
        FILE.check_format(&archive.metadata, name)?;
        FILE.check_header(&archive, name)?;
        let Archive { metadata, tensors } = archive;
        let tensors = FILE.saved(&metadata, tensors);
        let text = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
        let number = |key: &'static str| FILE.malformed(name, key, "a number".to_owned(), "something else".to_owned());
        let seed = text("seed").parse().map_err(|_| number("seed"))?;
        let step = text("step").parse().map_err(|_| number("step"))?;
        let draws = match metadata.get("draws") {
            Some(draws) => draws.parse().map_err(|_| number("draws"))?,
            None => 0,
        };
        let note = |(key, text): (String, String)| Some((key.strip_prefix(NOTE)?.to_owned(), text));
        let notes = metadata.into_iter().filter_map(note).collect();
        Ok(Checkpoint { tensors, seed: Seed(seed), step, draws, notes })
    }

    fn read_all(self) -> Result<Checkpoint, DataError> {
        let Checkpoint { tensors, seed, step, draws, notes } = self;
        let read = tensors.into_iter().map(|(name, value)| Ok((name, value.read()?)));
        Ok(Checkpoint { tensors: read.collect::<Result<_, DataError>>()?, seed, step, draws, notes })
    }
}

impl<V: Value> Checkpoint<V> {
    /// Hands the values to a store, as [`load`] does, and sets its counters.
    ///
    /// # Errors
    /// As [`load`]; nothing has changed then.
    pub fn load<'s>(&self, how: Load, store: impl Into<StoreMut<'s>>) -> Result<Loaded, TrainError> {
        let mut store = store.into();
        let loaded = load(&self.tensors, how, &mut store)?;
        store.set_step(self.step);
        store.set_draws(self.draws);
        Ok(loaded)
    }
}

/// Copies of the values of these names; names that the store has not are left out.
///
/// # Errors
/// `E0309` if there is no memory for them.
pub fn tensors_of<'a>(store: &Store, names: impl IntoIterator<Item = &'a str>) -> Result<Tensors, Diag> {
    let known = names.into_iter().filter(|name| store.type_of(name).is_some());
    known.map(|name| Ok((name.to_owned(), store.get(name)?))).collect()
}

/// Copies of the values whose names begin with `prefix.`, under the rest of their names: `tensors_under(store, "ema")`
/// has `ema.out.bias` as `out.bias`.
///
/// # Errors
/// `E0309` if there is no memory for them.
pub fn tensors_under(store: &Store, prefix: &str) -> Result<Tensors, Diag> {
    let start = format!("{prefix}.");
    let names = store.iter().map(|(name, _)| name).filter(|name| name.starts_with(&start));
    let tensors = tensors_of(store, names)?;
    Ok(tensors.into_iter().map(|(name, value)| (name[start.len()..].to_owned(), value)).collect())
}

/// Weights under other names: `rename` says how each is called, or `None` to leave it out. They may be in memory or in a file.
///
/// # Errors
/// [`TrainError::Invalid`] if two would be called the same.
pub fn renamed<V>(
    tensors: BTreeMap<String, V>,
    rename: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, V>, TrainError> {
    let mut result = BTreeMap::new();
    for (name, tensor) in tensors {
        if let Some(new) = rename(&name)
            && result.insert(new.clone(), tensor).is_some()
        {
            return Err(TrainError::invalid("renamed weights", "a name for each", format!("`{new}` twice")));
        }
    }
    Ok(result)
}

/// Puts values into a store; those of names that are new are made.
///
/// # Errors
/// `E0302` if the store has a value of a name with another type; nothing has changed then. `E0309` if there is no memory for a new
/// one; others may have changed then.
pub fn put<'s>(tensors: &Tensors, store: impl Into<StoreMut<'s>>) -> Result<(), Diag> {
    let mut store = store.into();
    tensors.iter().try_for_each(|(name, tensor)| store.check(name, &tensor.ty()))?;
    tensors.iter().try_for_each(|(name, tensor)| store.insert(name, tensor))
}
