//! The folder that keeps the last few checkpoints of a run.
//!
//! Why it exists: a folder is shared with whoever else has access to it: other runs, later versions of this program, the user's
//! own files. Promises: one process writes at a time, where the file system has locks (most network file systems of today do;
//! where there are none, nobody is kept out); the checkpoint just written is never deleted, nor are files of later steps, of
//! later versions, or of anybody else; what is called like a checkpoint and is no file is passed over.

use std::cmp::Reverse;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cotangent_data::DataError;
use cotangent_data::files::{FolderLock, whole_of};
use cotangent_data::reading::Kind;
use cotangent_data::safetensors::Archive;

use super::{Checkpoint, FILE};
use crate::TrainError;

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

/// Files that are damaged, newest first, with what is wrong.
type Damaged = Vec<(PathBuf, DataError)>;

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
        let is_file = |path: &Path| fs::metadata(path).is_ok_and(|metadata| Kind::of(&metadata) == Kind::File);
        let is_checkpoint = |path: &PathBuf| step_of(path).is_some() && is_file(path);
        let mut paths: Vec<PathBuf> = self.entries()?.into_iter().filter(is_checkpoint).collect();
        paths.sort_by_key(|path| Reverse(step_of(path)));
        Ok(paths)
    }

    /// The step of the newest file, damaged or not.
    pub(crate) fn newest_step(&self) -> Result<Option<u32>, DataError> {
        Ok(self.paths()?.first().and_then(|path| step_of(path)))
    }

    /// Takes the folder for writing, so that no other process does until the writer is dropped, and removes what a process
    /// that was killed left half written.
    ///
    /// # Errors
    /// [`DataError::Locked`] if somebody else has it; [`DataError::Io`] if the system refuses.
    pub fn writer(&self) -> Result<Writer, DataError> {
        fs::create_dir_all(&self.folder).map_err(|source| io("make", &self.folder, source))?;
        let lock = FolderLock::new(&self.folder)?;
        let writer = Writer { checkpoints: self.clone(), lock };
        if writer.lock.is_exclusive() {
            // Whoever began them had the lock, and has it no more.
            let is_partial = |path: &PathBuf| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.and_then(whole_of).is_some_and(|whole| step_of(Path::new(whole)).is_some())
            };
            self.entries()?.iter().filter(|path| is_partial(path)).try_for_each(|path| delete(path))?;
        }
        Ok(writer)
    }

    /// Writes a checkpoint, durably, and deletes those before the last few.
    ///
    /// # Errors
    /// As [`Checkpoints::writer`] and [`Writer::save`].
    pub fn save(&self, checkpoint: Checkpoint) -> Result<PathBuf, DataError> {
        self.writer()?.save(checkpoint)
    }

    /// The newest checkpoint that is whole, `None` if there is no file.
    ///
    /// # Errors
    /// [`TrainError::NoCheckpoint`] if there are files and all are damaged; [`DataError::Unsupported`] if a later version of
    /// this program wrote a newer one; [`DataError::Io`] if the folder cannot be read.
    pub fn latest(&self) -> Result<Option<Found>, TrainError> {
        let found = self.newest(|path| Ok((Checkpoint::read(path)?, path.to_owned())))?;
        Ok(found.map(|((checkpoint, path), damaged)| Found { checkpoint, path, damaged }))
    }

    /// What is read of the newest file that is whole, and the files before it that are damaged.
    ///
    /// # Errors
    /// As [`Checkpoints::latest`], and what `read` says of more than a file's data.
    pub(crate) fn newest<T>(
        &self,
        mut read: impl FnMut(&Path) -> Result<T, TrainError>,
    ) -> Result<Option<(T, Damaged)>, TrainError> {
        let mut damaged = Vec::new();
        for path in self.paths()? {
            match read(&path) {
                Ok(read) => return Ok(Some((read, damaged))),
                // To fall back would be to lose what is there, without a word.
                Err(error @ TrainError::Data(DataError::Unsupported { .. })) => return Err(error),
                Err(TrainError::Data(error)) => damaged.push((path, error)),
                Err(error) => return Err(error),
            }
        }
        match damaged.is_empty() {
            true => Ok(None),
            false => Err(TrainError::NoCheckpoint { folder: self.folder.clone(), damaged }),
        }
    }

    /// All that is in the folder.
    fn entries(&self) -> Result<Vec<PathBuf>, DataError> {
        let failed = |source| io("read", &self.folder, source);
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
    }
}

/// The one writer of a folder of checkpoints; see [`Checkpoints::writer`].
#[derive(Debug)]
pub struct Writer {
    checkpoints: Checkpoints,
    lock: FolderLock,
}

impl Writer {
    /// Writes a checkpoint, durably, and deletes those before the last few.
    ///
    /// # Errors
    /// [`DataError::Io`] if the system refuses, for example because the disk is full; [`DataError::NotAFile`] if something
    /// else has the name of the file; [`DataError::Unsupported`] if a later version of this program wrote a checkpoint of this
    /// step. All older ones are there still.
    pub fn save(&self, checkpoint: Checkpoint) -> Result<PathBuf, DataError> {
        let step = checkpoint.step;
        let path = self.checkpoints.folder.join(format!("step-{step:010}.safetensors"));
        if let Ok(metadata) = fs::metadata(&path) {
            match Kind::of(&metadata) {
                Kind::File => of_later_version(&path).map_or(Ok(()), Err)?,
                got => return Err(DataError::NotAFile { path, got }),
            }
        }
        checkpoint.into_file().write(&path)?;
        let older = self.checkpoints.paths()?.into_iter().filter(|path| step_of(path).is_some_and(|s| s < step));
        // A link may lead to an older one, which then is what was just written.
        let written = fs::canonicalize(&path).ok();
        let others = older.filter(|older| fs::canonicalize(older).ok() != written);
        let mine = others.filter(|path| of_later_version(path).is_none());
        mine.skip(self.checkpoints.keep - 1).try_for_each(|path| delete(&path))?;
        Ok(path)
    }
}

/// The error that a later version of this program wrote a file, if one did; what it wrote this one may be unable to read.
fn of_later_version(path: &Path) -> Option<DataError> {
    let read = Archive::open(path).and_then(|file| FILE.check_format(&file.metadata, &path.display().to_string()));
    read.err().filter(|error| matches!(error, DataError::Unsupported { .. }))
}

fn delete(path: &Path) -> Result<(), DataError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(io("delete", path, source)),
        _ => Ok(()),
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> DataError {
    DataError::Io { path: path.to_owned(), action, source }
}

/// The step in the name of a checkpoint's file.
fn step_of(path: &Path) -> Option<u32> {
    let step = path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?;
    step.bytes().all(|b| b.is_ascii_digit()).then(|| step.parse().ok())?
}
