//! Files as this crate and its callers write them ([`cotangent_host::files`] has the way), and folders that one process writes to at
//! a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process;

use cotangent_host::files;
pub use cotangent_host::files::{Out, PARTIAL, whole_of};

use crate::DataError;
use crate::reading::Kind;

/// The file in a folder whose lock says that a process writes there.
const LOCK: &str = ".cotangent.lock";

/// Writes a file durably: see [`files::write_whole`].
///
/// # Errors
/// [`DataError::NotAFile`] for a folder; [`DataError::Io`] if the system refuses a part of it.
pub fn write_durably(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Out) -> io::Result<()>,
) -> Result<(), DataError> {
    Ok(files::write_whole(path.as_ref(), true, write)?)
}

/// Writes a text file that a run can make again: see [`files::write_report`].
///
/// # Errors
/// As [`write_durably`].
pub fn write_text(path: impl AsRef<Path>, text: &str) -> Result<(), DataError> {
    Ok(files::write_report(path, text)?)
}

/// The right to write to a folder, until it is dropped or its process ends in any way. It is a lock on the file
/// `.cotangent.lock` there, which stays.
#[derive(Debug)]
pub struct FolderLock {
    /// `None` where the file system has no locks: then nothing is promised.
    file: Option<File>,
}

impl FolderLock {
    /// Takes the folder, which must be there.
    ///
    /// # Errors
    /// [`DataError::Locked`] if another process, or another holder in this one, has it; [`DataError::Io`] if the system
    /// refuses.
    pub fn new(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join(LOCK);
        let io = |source| DataError::io(&path, "write", source);
        match fs::symlink_metadata(&path).as_ref().map(Kind::of) {
            Ok(Kind::File) | Err(_) => {}
            Ok(got) => return Err(DataError::NotAFile { path, got }),
        }
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is may not be written down yet.
                let _ = (&mut file).take(20).read_to_string(&mut holder);
                let by = match holder.trim().parse::<u32>() {
                    Ok(id) if id == process::id() => "this process already".to_owned(),
                    Ok(id) => format!("process {id}"),
                    Err(_) => "another process".to_owned(),
                };
                return Err(DataError::Locked { folder: folder.to_owned(), by });
            }
            Err(TryLockError::Error(_)) => return Ok(FolderLock { file: None }),
        }
        file.set_len(0).and_then(|()| file.write_all(process::id().to_string().as_bytes())).map_err(io)?;
        Ok(FolderLock { file: Some(file) })
    }

    /// Whether others are kept out.
    pub fn is_exclusive(&self) -> bool {
        self.file.is_some()
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that is being started holds it open, too, until its program runs. If the
        // system refuses, the lock goes with the last of them.
        if let Some(file) = &self.file {
            let _ = file.unlock();
        }
    }
}

#[cfg(test)]
mod tests;
