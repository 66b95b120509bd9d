//! Where the bytes of an archive are: in a file that stays open, or in memory.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use cotangent_host::files::read_exact_at;
use cotangent_host::refusable;

use crate::{DataError, reading};

/// What to do about a file that is not what it should be.
const MAKE_AGAIN: &str = "fetch or write the file again";

/// Bytes that are read at places, and what errors call them.
pub(super) struct Source<'a> {
    pub(super) name: String,
    /// How many there were in the beginning.
    pub(super) n_bytes: u64,
    bytes: Bytes<'a>,
}

enum Bytes<'a> {
    File(File),
    Memory(&'a [u8]),
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({:?}, {} bytes)", self.name, self.n_bytes)
    }
}

impl Source<'static> {
    /// A file.
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let (file, n_bytes) = reading::open(path)?;
        Ok(Source { name: path.display().to_string(), n_bytes, bytes: Bytes::File(file) })
    }
}

impl<'a> Source<'a> {
    /// Memory.
    pub(super) fn of(bytes: &'a [u8], name: &str) -> Self {
        Source { name: name.to_owned(), n_bytes: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    /// Fills `to` with the bytes from `at` on. A file may have become shorter than it was.
    pub(super) fn fill(&self, to: &mut [u8], at: u64, part: &'static str) -> Result<(), DataError> {
        let read = match &self.bytes {
            Bytes::File(file) => read_exact_at(file, to, at),
            Bytes::Memory(bytes) => {
                let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..)?.get(..to.len()));
                from.map(|from| to.copy_from_slice(from)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        };
        read.map_err(|error| self.broken(part, error))
    }

    /// So many bytes from `at` on, which were there.
    pub(super) fn bytes(&self, n_bytes: u64, at: u64, part: &'static str) -> Result<Vec<u8>, DataError> {
        reading::ask(&self.name, n_bytes)?;
        let n = usize::try_from(n_bytes).unwrap_or(usize::MAX);
        let mut bytes = self.room(n, part)?;
        bytes.resize(n, 0);
        self.fill(&mut bytes, at, part)?;
        Ok(bytes)
    }

    /// A vector with room for so many elements.
    pub(super) fn room<T>(&self, n: usize, part: &'static str) -> Result<Vec<T>, DataError> {
        let mut room = Vec::new();
        refusable(|| room.try_reserve_exact(n))
            .map_err(|error| self.broken(part, io::Error::new(io::ErrorKind::OutOfMemory, error)))?;
        Ok(room)
    }

    fn broken(&self, part: &'static str, error: io::Error) -> DataError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.malformed(part, "as many bytes as the file had", "its end"),
            _ => DataError::io(Path::new(&self.name), "read", error),
        }
    }

    pub(super) fn malformed(
        &self,
        part: &'static str,
        required: impl Into<String>,
        got: impl Into<String>,
    ) -> DataError {
        DataError::Malformed {
            name: self.name.clone(),
            part,
            required: required.into(),
            got: got.into(),
            fix: MAKE_AGAIN.to_owned(),
        }
    }
}
