//! Writing files so that a reader never meets half of one; reading them at places.
//!
//! Why it exists: archives, checkpoints, reports, dumps and what a command line is told to write should be written in one way. A
//! file is made beside its name and renamed when it is whole. Where a rename would change what the name stands for, it is
//! written to as other tools do: a device, a pipe, a file with several names or of another owner.
//!
//! Promises: after [`write_whole`] returns, and if it was to be durable, the contents are on the device; if it fails, or the machine
//! stops at any moment, the file is as it was before (but for what is written to in place). Symbolic links stay links, an existing
//! file keeps its mode and its owner, one that may not be written to is not replaced, and what was half written is removed. Access
//! lists and other extended attributes are not kept.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A named pipe, or one end of an unnamed one.
    Pipe,
    /// A character or block device.
    Device,
    /// A socket, or something that only this system has.
    Other,
}

impl Kind {
    /// What the metadata are of.
    pub fn of(metadata: &Metadata) -> Self {
        let kind = metadata.file_type();
        if kind.is_file() {
            return Kind::File;
        }
        if kind.is_dir() {
            return Kind::Folder;
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::FileTypeExt;
            if kind.is_fifo() {
                return Kind::Pipe;
            }
            if kind.is_char_device() || kind.is_block_device() {
                return Kind::Device;
            }
        }
        Kind::Other
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::File => "a file",
            Kind::Folder => "a folder",
            Kind::Pipe => "a pipe (FIFO)",
            Kind::Device => "a device",
            Kind::Other => "a socket or the like",
        })
    }
}

/// How names of files end that are being written; before it stand a point, the number of the process and a number of its own.
pub const PARTIAL: &str = ".partial";

/// What a file is written into: bytes in order, and back again where a format fills in sizes.
pub trait Out: Write + Seek {}

impl<T: Write + Seek + ?Sized> Out for T {}

/// Why a file was not written.
#[derive(Debug)]
pub enum WriteError {
    /// The path names something that cannot be written to.
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        got: Kind,
    },
    /// The system refuses.
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// What was being done: "write", "rename", "sync", "make".
        action: &'static str,
        /// The system's own report.
        source: io::Error,
    },
}

impl WriteError {
    fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        WriteError::Io { path: path.to_owned(), action, source }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::NotAFile { path, got } => {
                write!(f, "`{}` could not be written: it is {got}", path.display())
            }
            WriteError::Io { path, source, .. } => write!(f, "`{}` could not be written: {source}", path.display()),
        }
    }
}

impl std::error::Error for WriteError {}

/// Writes a text file that can be made again, without syncing it.
///
/// # Errors
/// As [`write_whole`].
pub fn write_text(path: impl AsRef<Path>, text: &str) -> Result<(), WriteError> {
    write_whole(path.as_ref(), false, |out| out.write_all(text.as_bytes()))
}

/// [`write_text`] that makes the folders on the way.
///
/// # Errors
/// As [`write_whole`].
pub fn write_report(path: impl AsRef<Path>, text: &str) -> Result<(), WriteError> {
    let folder = folder_of(path.as_ref());
    fs::create_dir_all(folder).map_err(|source| WriteError::io(folder, "make", source))?;
    write_text(path, text)
}

/// Writes a file by way of a temporary one beside it, which is renamed; if it is to be durable, file and folder are synced. The
/// closure should write in large pieces: nothing is buffered. What is no regular file gets the bytes when all are there.
///
/// # Errors
/// [`WriteError::NotAFile`] for a folder; [`WriteError::Io`] if the system refuses a part of it. The temporary file is removed
/// then.
pub fn write_whole(
    path: &Path,
    durably: bool,
    write: impl FnOnce(&mut dyn Out) -> io::Result<()>,
) -> Result<(), WriteError> {
    let io = |source| WriteError::io(path, "write", source);
    if path.as_os_str().is_empty() {
        return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "the path is empty")));
    }
    let (target, old) = match target_of(path).map_err(io)? {
        Target::Replace(target, old) => (target, old),
        Target::InPlace => return write_in_place(path, write),
        Target::Folder => return Err(WriteError::NotAFile { path: path.to_owned(), got: Kind::Folder }),
    };
    let mut partial = match Partial::new(&target, old.as_ref()) {
        Ok(partial) => partial,
        // The file may be written to, its folder may not.
        Err(error) if old.is_some() && is_refusal(&error) => return write_in_place(path, write),
        Err(source) => return Err(io(source)),
    };
    let broken = |source| WriteError::io(&partial.path, "write", source);
    write(&mut partial.file).map_err(broken)?;
    if !old.is_none_or(|old| passes_on(&old, &partial.file)) {
        return partial.copy_to(&target).map_err(io);
    }
    if durably {
        partial.file.sync_all().map_err(broken)?;
    }
    partial.rename(&target).map_err(|source| WriteError::io(path, "rename", source))?;
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
fn write_in_place(path: &Path, write: impl FnOnce(&mut dyn Out) -> io::Result<()>) -> Result<(), WriteError> {
    let io = |source| WriteError::io(path, "write", source);
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

/// Fills `to` with the bytes of a file from `at` on. Several threads may do so at once.
///
/// # Errors
/// The system's; [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the file ends before, for it may have become shorter since its
/// length was asked for.
pub fn read_exact_at(file: &File, to: &mut [u8], at: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_exact_at(file, to, at)
    }
    #[cfg(not(unix))]
    {
        let (mut to, mut at) = (to, at);
        while !to.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(file, to, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => (to, at) = (&mut std::mem::take(&mut to)[n..], at + n as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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

/// The name that a file has when it is whole, if this is a partial one of [`write_whole`].
pub fn whole_of(name: &str) -> Option<&str> {
    let (whole, id) = name.strip_suffix(PARTIAL)?.rsplit_once('.')?;
    let (process, number) = id.split_once('-')?;
    [process, number].iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())).then_some(whole)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename durable. Only Unix opens folders for that; elsewhere the system is trusted.
fn sync_folder_of(path: &Path) -> Result<(), WriteError> {
    if !cfg!(unix) {
        return Ok(());
    }
    let folder = folder_of(path);
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| WriteError::io(folder, "sync", source))
}
