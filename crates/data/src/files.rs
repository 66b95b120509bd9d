//! Writing files so that a reader never meets half of one.
//!
//! Why it exists: archives, checkpoints and reports are all written, and what must survive a crash should be written in
//! one way. Promises: after [`write_durably`] returns, the contents are on the device; if it fails, or the machine stops
//! at any moment, the file is as it was before.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::DataError;

/// How names of files end that are being written. Whoever finds one may delete it: its writer is gone.
pub const PARTIAL: &str = ".partial";

/// Writes a file by way of a temporary one beside it, which is synced and renamed; then the folder is synced. The closure should write in large pieces: nothing is buffered.
///
/// # Errors
/// [`DataError::Io`] if the system refuses a part of it; the temporary file is removed then.
pub fn write_durably(path: impl AsRef<Path>, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), DataError> {
    let path = path.as_ref();
    let partial = partial_of(path);
    let written = File::create(&partial).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    let written = written
        .map_err(|source| DataError::io(&partial, "write", source))
        .and_then(|()| fs::rename(&partial, path).map_err(|source| DataError::io(path, "rename", source)));
    if written.is_err() {
        // The first error is the one that matters; a leftover that cannot be removed is no second one.
        let _ = fs::remove_file(&partial);
        return written;
    }
    sync_folder_of(path)
}

/// Writes a text file that a run can make again, without syncing it. Folders on the way are made.
///
/// # Errors
/// [`DataError::Io`] if the system refuses.
pub fn write_text(path: impl AsRef<Path>, text: &str) -> Result<(), DataError> {
    let path = path.as_ref();
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(|source| DataError::io(folder, "make", source))?;
    fs::write(path, text).map_err(|source| DataError::io(path, "write", source))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    PathBuf::from(name)
}

/// Makes a rename durable. Only Unix opens folders for that; elsewhere the system is trusted.
fn sync_folder_of(path: &Path) -> Result<(), DataError> {
    if !cfg!(unix) {
        return Ok(());
    }
    let folder = folder_of(path);
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| DataError::io(folder, "sync", source))
}
