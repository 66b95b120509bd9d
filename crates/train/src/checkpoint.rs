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
//! | `note.NAME` | a text of the trainer's or the user's: epoch, place in the data, history |
//! | `checksum.TENSOR` | FNV-1a of the tensor's bytes, 16 hexadecimal digits |
//! | `checksum` | the same of all other metadata, and of names, types and shapes |
//!
//! Assumes: one process writes to a folder at a time. Promises: whatever single byte of a file changes, it is an error or
//! the file means the same; a file appears under its name whole and synced, or not at all; the one just written is never
//! deleted, nor are files of later steps.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cotangent_data::DataError;
use cotangent_data::files::PARTIAL;
use cotangent_data::safetensors::{RawTensor, SafeTensors, Tensors};
use cotangent_exec::{Seed, Store, StoreMut};
use cotangent_graph::{Diag, Shape, Type};

use crate::TrainError;
use crate::checksum::Fnv;

const FORMAT: &str = "cotangent checkpoint";
const VERSION: u32 = 1;
const CHECKSUM: &str = "checksum";
const NOTE: &str = "note.";
/// What to do about a file that is damaged.
const USE_ANOTHER: &str = "use an earlier checkpoint";

/// The values of a store, its counters, and notes of whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Parameters, states, hyper-parameters, by name.
    pub tensors: Tensors,
    /// The seed that all randomness follows from.
    pub seed: Seed,
    /// Steps taken.
    pub step: u32,
    /// Texts by name.
    pub notes: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Everything in a store, without notes.
    pub fn of_store(store: &Store) -> Self {
        let names = store.iter().map(|(name, _)| name);
        Checkpoint { tensors: tensors_of(store, names), seed: store.seed(), step: store.step(), notes: BTreeMap::new() }
    }

    /// Puts all values and the step counter into a store. What the store has besides stays as it is.
    ///
    /// # Errors
    /// `E0302` if the store has a value of that name with another type; nothing has changed then.
    pub fn restore<'s>(&self, store: impl Into<StoreMut<'s>>) -> Result<(), Diag> {
        let mut store = store.into();
        put(&self.tensors, &mut store)?;
        store.set_step(self.step);
        Ok(())
    }

    /// Writes a file, durably; the file that was there before stays until the new one is on the device.
    ///
    /// # Errors
    /// [`DataError::Io`] if the system refuses, for example because the disk is full.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), DataError> {
        self.clone().into_file().write(path)
    }

    /// Reads a file and checks it.
    ///
    /// # Errors
    /// [`DataError::Missing`] or [`DataError::Io`] if it cannot be read, [`DataError::Malformed`] if it is damaged or no
    /// checkpoint, [`DataError::Unsupported`] if a newer version wrote it.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        Self::from_file(SafeTensors::read(path)?, &path.display().to_string())
    }

    /// [`Checkpoint::read`] from memory; errors call the file `name`.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        Self::from_file(SafeTensors::parse(bytes, name)?, name)
    }

    /// The file as it is written.
    pub fn into_file(self) -> SafeTensors {
        let mut metadata: BTreeMap<String, String> = BTreeMap::new();
        metadata.insert("format".to_owned(), FORMAT.to_owned());
        metadata.insert("version".to_owned(), VERSION.to_string());
        metadata.insert("seed".to_owned(), self.seed.0.to_string());
        metadata.insert("step".to_owned(), self.step.to_string());
        metadata.extend(self.notes.into_iter().map(|(name, text)| (format!("{NOTE}{name}"), text)));
        for (name, tensor) in &self.tensors {
            metadata.insert(checksum_key(name), Fnv::of(&tensor.bytes).to_string());
        }
        metadata.insert(CHECKSUM.to_owned(), checksum_of_header(&metadata, &self.tensors));
        SafeTensors { metadata, tensors: self.tensors }
    }

    fn from_file(file: SafeTensors, name: &str) -> Result<Self, DataError> {
        let SafeTensors { metadata, tensors } = file;
        let malformed = |part: &'static str, required: String, got: String| DataError::Malformed {
            name: name.to_owned(),
            part,
            required,
            got,
            fix: USE_ANOTHER.to_owned(),
        };
        let text = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
        if text("format") != FORMAT {
            return Err(malformed("format", format!("{FORMAT:?}"), "a file of another kind, or damaged".to_owned()));
        }
        if let Some(version) = text("version").parse::<u32>().ok().filter(|version| *version > VERSION) {
            return Err(DataError::Unsupported {
                name: name.to_owned(),
                what: format!("version {version} of the format; this program knows {VERSION}"),
                fix: "use the newer version that wrote it".to_owned(),
            });
        }
        if text(CHECKSUM) != checksum_of_header(&metadata, &tensors) {
            return Err(malformed(
                "checksum of the header",
                "what the header comes to".to_owned(),
                "another".to_owned(),
            ));
        }
        for (tensor, value) in &tensors {
            if text(&checksum_key(tensor)) != Fnv::of(&value.bytes).to_string() {
                let required = format!("the checksum of the elements of `{tensor}`");
                return Err(malformed("elements", required, "another: they are damaged".to_owned()));
            }
        }
        let number = |key: &'static str| malformed(key, "a number".to_owned(), "something else".to_owned());
        let seed = text("seed").parse().map_err(|_| number("seed"))?;
        let step = text("step").parse().map_err(|_| number("step"))?;
        let note = |(key, text): (String, String)| Some((key.strip_prefix(NOTE)?.to_owned(), text));
        Ok(Checkpoint { tensors, seed: Seed(seed), step, notes: metadata.into_iter().filter_map(note).collect() })
    }
}

fn checksum_key(tensor: &str) -> String {
    format!("{CHECKSUM}.{tensor}")
}

fn checksum_of_header(metadata: &BTreeMap<String, String>, tensors: &Tensors) -> String {
    let mut hash = Fnv::new();
    // Lengths keep the texts apart.
    let mut text = |text: &str| {
        hash.write(&(text.len() as u64).to_le_bytes());
        hash.write(text.as_bytes());
    };
    for (key, value) in metadata.iter().filter(|(key, _)| *key != CHECKSUM) {
        text(key);
        text(value);
    }
    for (name, tensor) in tensors {
        text(name);
        text(&type_of(tensor).to_string());
    }
    hash.to_string()
}

/// The type of a tensor in a file.
pub(crate) fn type_of(tensor: &RawTensor) -> Type {
    Type::tensor(tensor.dtype, Shape::new(&tensor.shape))
}

/// Copies of the values of these names; names that the store has not are left out.
pub fn tensors_of<'a>(store: &Store, names: impl IntoIterator<Item = &'a str>) -> Tensors {
    let copy = |name: &str| {
        let (dtype, shape) = store.type_of(name)?.as_tensor()?;
        Some(RawTensor { dtype, shape: shape.to_vec(), bytes: store.to_bytes(name).ok()? })
    };
    names.into_iter().filter_map(|name| Some((name.to_owned(), copy(name)?))).collect()
}

/// Copies of the values whose names begin with `prefix.`, under the rest of their names: `tensors_under(store, "ema")`
/// has `ema.out.bias` as `out.bias`.
pub fn tensors_under(store: &Store, prefix: &str) -> Tensors {
    let start = format!("{prefix}.");
    let names = store.iter().map(|(name, _)| name).filter(|name| name.starts_with(&start));
    tensors_of(store, names).into_iter().map(|(name, value)| (name[start.len()..].to_owned(), value)).collect()
}

/// Weights under other names: `rename` says how each is called, or `None` to leave it out.
///
/// # Errors
/// [`TrainError::Invalid`] if two would be called the same.
pub fn renamed(tensors: Tensors, rename: impl Fn(&str) -> Option<String>) -> Result<Tensors, TrainError> {
    let mut result = Tensors::new();
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
/// `E0302` if the store has a value of a name with another type; nothing has changed then.
pub fn put<'s>(tensors: &Tensors, store: impl Into<StoreMut<'s>>) -> Result<(), Diag> {
    let mut store = store.into();
    for (name, tensor) in tensors {
        if let Some(known) = store.type_of(name).filter(|known| **known != type_of(tensor)) {
            let text = format!("`{name}` requires {known}, got {}", type_of(tensor));
            return Err(Diag::new(cotangent_graph::Code::InputType, text));
        }
    }
    tensors.iter().try_for_each(|(name, tensor)| store.insert_bytes(name, &type_of(tensor), &tensor.bytes))
}

/// A folder with the last few checkpoints of one run.
///
/// ```no_run
/// # fn main() -> Result<(), cotangent_train::TrainError> {
/// use cotangent_train::{Checkpoints, Options};
///
/// // After every epoch and every 500 steps; the last five are kept.
/// let checkpoints = Checkpoints::new("run-7/checkpoints").every_steps(500).keep(5);
/// let options = Options { checkpoints: Some(checkpoints), ..Options::default() };
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
    every: Option<u32>,
}

/// A checkpoint that was found, and what stood in front of it.
#[derive(Debug)]
pub struct Found {
    /// The newest that is whole.
    pub checkpoint: Checkpoint,
    /// Its file.
    pub path: PathBuf,
    /// Newer files that are damaged, newest first, with what is wrong.
    pub damaged: Vec<(PathBuf, DataError)>,
}

impl Checkpoints {
    /// Checkpoints in a folder, which is made when it is needed; after every epoch, the last three kept.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Checkpoints { folder: folder.into(), keep: 3, every: None }
    }

    /// How many are kept, at least 1. With 1 there is nothing to fall back on.
    pub fn keep(mut self, n: usize) -> Self {
        self.keep = n.max(1);
        self
    }

    /// One more after every so many steps of an epoch; 0 means none.
    pub fn every_steps(mut self, n: u32) -> Self {
        self.every = (n > 0).then_some(n);
        self
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether one is due after so many steps.
    pub(crate) fn is_due(&self, step: u32) -> bool {
        self.every.is_some_and(|every| step.is_multiple_of(every))
    }

    /// The files, newest first.
    ///
    /// # Errors
    /// [`DataError::Io`] if the folder cannot be read; one that is not there is empty.
    pub fn paths(&self) -> Result<Vec<PathBuf>, DataError> {
        let mut paths: Vec<PathBuf> = self.files()?.into_iter().filter(|path| step_of(path).is_some()).collect();
        paths.sort_by_key(|path| std::cmp::Reverse(step_of(path)));
        Ok(paths)
    }

    /// Writes a checkpoint, durably, and deletes those before the last few.
    ///
    /// # Errors
    /// [`DataError::Io`] if the system refuses, for example because the disk is full. All older ones are there still.
    pub fn save(&self, checkpoint: Checkpoint) -> Result<PathBuf, DataError> {
        let io = |action, path: &Path, source| DataError::Io { path: path.to_owned(), action, source };
        fs::create_dir_all(&self.folder).map_err(|source| io("make", &self.folder, source))?;
        let step = checkpoint.step;
        let path = self.folder.join(format!("step-{step:010}.safetensors"));
        checkpoint.into_file().write(&path)?;
        let older = self.paths()?.into_iter().filter(|path| step_of(path).is_some_and(|s| s < step));
        let abandoned = self.files()?.into_iter().filter(|path| path.to_string_lossy().ends_with(PARTIAL));
        for old in older.skip(self.keep - 1).chain(abandoned) {
            match fs::remove_file(&old) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(io("delete", &old, source)),
                _ => {}
            }
        }
        Ok(path)
    }

    /// The newest checkpoint that is whole, `None` if there is no file.
    ///
    /// # Errors
    /// [`TrainError::NoCheckpoint`] if there are files and all are damaged; [`DataError::Io`] if the folder cannot be read.
    pub fn latest(&self) -> Result<Option<Found>, TrainError> {
        let mut damaged = Vec::new();
        for path in self.paths()? {
            match Checkpoint::read(&path) {
                Ok(checkpoint) => return Ok(Some(Found { checkpoint, path, damaged })),
                Err(error) => damaged.push((path, error)),
            }
        }
        match damaged.is_empty() {
            true => Ok(None),
            false => Err(TrainError::NoCheckpoint { folder: self.folder.clone(), damaged }),
        }
    }

    /// All files of the folder.
    fn files(&self) -> Result<Vec<PathBuf>, DataError> {
        let io = |source| DataError::Io { path: self.folder.clone(), action: "read", source };
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(io)).collect()
    }
}

/// The step in the name of a checkpoint's file.
fn step_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()
}
