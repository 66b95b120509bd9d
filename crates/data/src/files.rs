//! Writing files so that a reader never meets half of one, and folders that one process writes to at a time.
//!
//! Why it exists: archives, checkpoints, reports and what a command line is told to write should be written in one way. A
//! file is made beside its name and renamed when it is whole. Where a rename would change what the name stands for, it is
//! written to as other tools do: a device, a pipe, a file with several names or of another owner.
//!
//! Promises: after [`write_durably`] returns, the contents are on the device; if it fails, or the machine stops at any moment,
//! the file is as it was before (but for what is written to in place). Symbolic links stay links, an existing file keeps its
//! mode and its owner, one that may not be written to is not replaced, and what was half written is removed. Access lists and
//! other extended attributes are not kept.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::DataError;
use crate::reading::Kind;

/// How names of files end that are being written; before it stand a point, the number of the process and a number of its own.
pub const PARTIAL: &str = ".partial";

/// The file in a folder whose lock says that a process writes there.
const LOCK: &str = ".cotangent.lock";

/// What a file is written into: bytes in order, and back again where a format fills in sizes.
pub trait Out: Write + Seek {}

impl<T: Write + Seek + ?Sized> Out for T {}

/// Writes a file by way of a temporary one beside it, which is synced and renamed; then the folder is synced. The closure
/// should write in large pieces: nothing is buffered. What is no regular file gets the bytes when all are there.
///
/// # Errors
/// [`DataError::NotAFile`] for a folder; [`DataError::Io`] if the system refuses a part of it. The temporary file is removed
/// then.
pub fn write_durably(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Out) -> io::Result<()>,
) -> Result<(), DataError> {
    write_whole(path.as_ref(), true, write)
}

/// Writes a text file that a run can make again, without syncing it. Folders on the way are made.
///
/// # Errors
/// As [`write_durably`].
pub fn write_text(path: impl AsRef<Path>, text: &str) -> Result<(), DataError> {
    let path = path.as_ref();
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(|source| DataError::io(folder, "make", source))?;
    write_whole(path, false, |out| out.write_all(text.as_bytes()))
}

fn write_whole(
    path: &Path,
    durably: bool,
    write: impl FnOnce(&mut dyn Out) -> io::Result<()>,
) -> Result<(), DataError> {
    let io = |source| DataError::io(path, "write", source);
    let (target, old) = match target_of(path).map_err(io)? {
        Target::Replace(target, old) => (target, old),
        Target::InPlace => return write_in_place(path, write),
        Target::Folder => return Err(DataError::NotAFile { path: path.to_owned(), got: Kind::Folder }),
    };
    let mut partial = match Partial::new(&target, old.as_ref()) {
        Ok(partial) => partial,
        // The file may be written to, its folder may not.
        Err(error) if old.is_some() && is_refusal(&error) => return write_in_place(path, write),
        Err(source) => return Err(io(source)),
    };
    let broken = |source| DataError::io(&partial.path, "write", source);
    write(&mut partial.file).map_err(broken)?;
    if !old.is_none_or(|old| passes_on(&old, &partial.file)) {
        return partial.copy_to(&target).map_err(io);
    }
    if durably {
        partial.file.sync_all().map_err(broken)?;
    }
    partial.rename(&target).map_err(|source| DataError::io(path, "rename", source))?;
    if durably { sync_folder_of(&target) } else { Ok(()) }
}

/// What writing to a path means.
enum Target {
    /// This file, which may be there already, is replaced.
    Replace(PathBuf, Option<Metadata>),
    /// What is there is opened and written to.
    InPlace,
    Folder,
}

fn target_of(path: &Path) -> io::Result<Target> {
    let old = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        old => Some(old?),
    };
    match old.as_ref().map(Kind::of) {
        None | Some(Kind::File) => {}
        Some(Kind::Folder) => return Ok(Target::Folder),
        Some(_) => return Ok(Target::InPlace),
    }
    // Where links lead to; one to nothing says where the file will be.
    let mut target = path.to_owned();
    for _ in 0..MOST_LINKS {
        // Links of the kernel (`/dev/stdout`, `/dev/fd/3`) stand for open files, which others hold open as well.
        if fs::canonicalize(folder_of(&target)).is_ok_and(|folder| folder.starts_with("/proc")) {
            return Ok(Target::InPlace);
        }
        match fs::read_link(&target) {
            Ok(to) => target = folder_of(&target).join(to),
            Err(_) => break,
        }
    }
    match &old {
        Some(old) if n_names(old) > 1 => Ok(Target::InPlace),
        Some(_) => {
            // Whoever may not write to a file shall not replace it.
            OpenOptions::new().write(true).open(&target)?;
            Ok(Target::Replace(target, old))
        }
        None => Ok(Target::Replace(target, None)),
    }
}

/// Longer chains of links are circles.
const MOST_LINKS: usize = 40;

/// Writes to what is there, when all bytes are.
fn write_in_place(path: &Path, write: impl FnOnce(&mut dyn Out) -> io::Result<()>) -> Result<(), DataError> {
    let io = |source| DataError::io(path, "write", source);
    let mut bytes = Cursor::new(Vec::new());
    write(&mut bytes).map_err(io)?;
    // A pipe is waited for here until somebody reads from it.
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).map_err(io)?;
    file.write_all(bytes.get_ref()).map_err(io)?;
    match Kind::of(&file.metadata().map_err(io)?) {
        Kind::File => file.sync_all().map_err(io),
        _ => Ok(()),
    }
}

fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

#[cfg(unix)]
fn n_names(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(file)
}

#[cfg(not(unix))]
fn n_names(_: &Metadata) -> u64 {
    1
}

/// Gives a new file the owner and the mode of the one that it replaces; whether that could be done.
fn passes_on(old: &Metadata, new: &File) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let Ok(made) = new.metadata() else { return false };
        let is_other = (made.uid(), made.gid()) != (old.uid(), old.gid());
        if is_other && fchown(new, Some(old.uid()), Some(old.gid())).is_err() {
            return false;
        }
    }
    new.set_permissions(old.permissions()).is_ok()
}

/// A file that is being written beside its name. Unless it is renamed it is removed, whatever happens.
struct Partial {
    path: PathBuf,
    file: File,
    is_renamed: bool,
}

impl Partial {
    /// For a file that is or is not there yet: what it hides the partial one hides, too.
    fn new(target: &Path, old: Option<&Metadata>) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        if let Some(old) = old {
            use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
            options.mode(old.mode() & 0o777);
        }
        loop {
            let path = partial_of(target, NEXT.fetch_add(1, Relaxed));
            match options.open(&path) {
                // Another process of this number has left it, or somebody has a file of this name: it is not ours.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => return Ok(Partial { file: file?, path, is_renamed: false }),
            }
        }
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.is_renamed = true;
        Ok(())
    }

    /// Puts the contents into a file that stays the one it is.
    fn copy_to(mut self, target: &Path) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut to = OpenOptions::new().write(true).truncate(true).open(target)?;
        io::copy(&mut self.file, &mut to)?;
        to.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_renamed {
            // The first error is the one that matters; a leftover that cannot be removed is no second one.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn partial_of(target: &Path, number: u64) -> PathBuf {
    /// Names of files have at most 255 bytes.
    const LONGEST: usize = 200;
    let mut name = OsString::new();
    match target.file_name() {
        Some(whole) if whole.len() <= LONGEST => name.push(whole),
        _ => name.push("long"),
    }
    name.push(format!(".{}-{number}{PARTIAL}", process::id()));
    target.with_file_name(name)
}

/// The name that a file has when it is whole, if this is a partial one of [`write_durably`].
pub fn whole_of(name: &str) -> Option<&str> {
    let (whole, id) = name.strip_suffix(PARTIAL)?.rsplit_once('.')?;
    let (process, number) = id.split_once('-')?;
    [process, number].iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())).then_some(whole)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
