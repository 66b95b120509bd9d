//! Opening and reading what a path names, within limits.
//!
//! Why it exists: a path may name a folder, a device without end, or a pipe that nobody writes to; and a compressed file of
//! a megabyte may expand to gigabytes. Whoever reads by path or expands comes here, so that the answer is one and the same.
//! Assumes: nobody replaces a file by a pipe between two calls. Promises: nothing here waits for ever for a writer, reads a
//! device, or holds more memory than a small multiple of a file, of the limits, or of what has arrived.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cotangent_host::Memory;
pub use cotangent_host::files::Kind;

use crate::DataError;

/// How many bytes may become of one file.
///
/// Unless told otherwise a compressed file expands to at most 64 times its size, and to 64 MiB in any case; and 256 MiB are
/// taken from a pipe. Real data rarely reach a ratio of 20 (the pictures of MNIST: 5), while deflate allows 1,032.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ReadLimits {
    max_bytes: Option<u64>,
}

impl ReadLimits {
    const RATIO: u64 = 64;
    const LEAST: u64 = 64 << 20;
    const PIPE: u64 = 256 << 20;

    /// So many bytes, whatever the size of the file.
    pub fn bytes(n: u64) -> Self {
        ReadLimits { max_bytes: Some(n) }
    }

    /// What a compressed file of so many bytes may expand to.
    pub fn expanded(self, n_bytes: u64) -> u64 {
        self.max_bytes.unwrap_or_else(|| n_bytes.saturating_mul(Self::RATIO).max(Self::LEAST))
    }

    /// What may come from a pipe.
    pub fn piped(self) -> u64 {
        self.max_bytes.unwrap_or(Self::PIPE)
    }

    /// The error if a file of so many bytes would expand to more than it may.
    pub(crate) fn check(self, name: &str, n_bytes: u64, expanded: u64) -> Result<(), DataError> {
        let most = self.expanded(n_bytes);
        if expanded <= most {
            return Ok(());
        }
        Err(DataError::TooLarge { name: name.to_owned(), expansion: Some((n_bytes, expanded)), most })
    }
}

/// Opens a regular file, through symbolic links; also its length.
///
/// # Errors
/// [`DataError::Missing`], [`DataError::Io`]; [`DataError::NotAFile`] if the path names something else, which is not opened:
/// that would wait for the other end of a pipe.
pub fn open(path: &Path) -> Result<(File, u64), DataError> {
    let io = |source| DataError::io(path, "read", source);
    let only_files = |metadata: Metadata| match Kind::of(&metadata) {
        Kind::File => Ok(metadata.len()),
        got => Err(DataError::NotAFile { path: path.to_owned(), got }),
    };
    only_files(fs::metadata(path).map_err(io)?)?;
    let file = File::open(path).map_err(io)?;
    let length = only_files(file.metadata().map_err(io)?)?;
    Ok((file, length))
}

/// All of a regular file (of any size, unless the limits say one), or what a pipe delivers within the limits: for paths that a command line is given, which may be
/// `/dev/stdin` or what a shell makes of `<(command)`.
///
/// # Errors
/// As [`open`]; [`DataError::TooLarge`] if a pipe delivers more, and [`DataError::Io`] if nobody begins to write to it within
/// two seconds, or if there is no memory for the file.
pub fn read_file_or_pipe(path: &Path, limits: ReadLimits) -> Result<Vec<u8>, DataError> {
    let io = |source| DataError::io(path, "read", source);
    if Kind::of(&fs::metadata(path).map_err(io)?) != Kind::Pipe {
        let (mut file, length) = open(path)?;
        if let Some(most) = limits.max_bytes.filter(|&most| length > most) {
            return Err(too_large(path, most));
        }
        ask(&path.display().to_string(), length)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        return Ok(bytes);
    }
    let pipe = Pipe { file: open_pipe(path).map_err(io)?, opened: Instant::now(), begun: false };
    read_at_most(pipe, path, limits.piped())
}

/// All that a stream delivers, within the limits of a pipe; errors call it `name`.
///
/// # Errors
/// [`DataError::TooLarge`] if it is more; [`DataError::Io`] if the system refuses.
pub fn read_stream(stream: impl Read, limits: ReadLimits, name: &str) -> Result<Vec<u8>, DataError> {
    read_at_most(stream, Path::new(name), limits.piped())
}

/// Asks for the memory of so many bytes that a file has, or expands to; errors call it `name`. A file may be larger than the
/// machine, if only by its holes.
pub(crate) fn ask(name: &str, n_bytes: u64) -> Result<(), DataError> {
    /// Less is not asked for from the allocator: that would take more time, and memory, than many a file.
    const MUCH: usize = 1 << 26;
    let refused = |refused| DataError::io(Path::new(name), "read", io::Error::new(io::ErrorKind::OutOfMemory, refused));
    let (memory, n_bytes) = (Memory::default(), usize::try_from(n_bytes).unwrap_or(usize::MAX));
    if n_bytes < MUCH { memory.may_need(n_bytes) } else { memory.ask(n_bytes) }.map_err(refused)
}

fn read_at_most(stream: impl Read, path: &Path, most: u64) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    let read = stream.take(most.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|source| DataError::Io { path: path.to_owned(), action: "read", source })?;
    if bytes.len() as u64 > most { Err(too_large(path, most)) } else { Ok(bytes) }
}

fn too_large(path: &Path, most: u64) -> DataError {
    DataError::TooLarge { name: path.display().to_string(), expansion: None, most }
}

/// Opens the reading end of a pipe without waiting for a writer.
#[cfg(unix)]
fn open_pipe(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(not(unix))]
fn open_pipe(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// The reading end of a pipe that does not block. Whoever writes slowly is waited for; whoever does not come at all is not.
struct Pipe {
    file: File,
    opened: Instant,
    /// Whether a writer has been there.
    begun: bool,
}

impl Pipe {
    const PATIENCE: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(1);
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.begun = true,
                Ok(0) if !self.begun && self.opened.elapsed() < Pipe::PATIENCE => {}
                Ok(0) if !self.begun => {
                    let text = "it is a pipe (FIFO), and nobody writes to it";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                got => {
                    self.begun = true;
                    return got;
                }
            }
            sleep(Pipe::PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_a_multiple_of_the_file_or_what_was_asked_for() {
        let limits = ReadLimits::default();
        assert_eq!(
            (limits.expanded(0), limits.expanded(1 << 20), limits.expanded(1 << 30)),
            (64 << 20, 64 << 20, 64 << 30)
        );
        assert_eq!(ReadLimits::bytes(5).expanded(1 << 40), 5);
        assert_eq!(limits.expanded(u64::MAX), u64::MAX);
        assert!(limits.check("a", 1 << 20, 64 << 20).is_ok());
        let error = limits.check("a.npz", 1_000_000, 2_000_000_000).unwrap_err().to_string();
        for says in ["a.npz", "2000000000 bytes from 1000000", "at most 67108864", "--max-bytes 2000000000"] {
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_stream_without_end_ends_at_the_limit() {
        let error = read_stream(io::repeat(0), ReadLimits::bytes(1000), "<stdin>").unwrap_err();
        assert!(matches!(&error, DataError::TooLarge { most: 1000, .. }), "{error}");
        assert_eq!(read_stream(&[7; 1000][..], ReadLimits::bytes(1000), "<stdin>").unwrap(), [7; 1000]);
    }

    #[cfg(unix)]
    mod on_unix {
        use std::path::PathBuf;
        use std::process::Command;
        use std::thread;

        use super::*;

        /// A path of this test that is not there yet.
        fn fresh(name: &str) -> PathBuf {
            let path = std::env::temp_dir().join(format!("cotangent-reading-{}-{name}", std::process::id()));
            let _ = fs::remove_file(&path);
            path
        }

        fn fifo(name: &str) -> PathBuf {
            let path = fresh(name);
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            path
        }

        #[test]
        fn what_is_no_file_is_not_opened_and_says_what_it_is() {
            let pipe = fifo("alone");
            let link = fresh("link");
            std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
            for (path, what) in [
                (Path::new("/dev/zero"), "a device"),
                (&std::env::temp_dir(), "a folder"),
                (&pipe, "a pipe (FIFO)"),
                (&link, "a device"),
            ] {
                let error = open(path).unwrap_err();
                let text = error.to_string();
                assert!(matches!(error, DataError::NotAFile { .. }) && text.contains(&format!("got {what}")), "{text}");
                if what != "a pipe (FIFO)" {
                    assert!(matches!(read_file_or_pipe(path, ReadLimits::default()), Err(DataError::NotAFile { .. })));
                }
            }
            assert!(matches!(open(&fresh("nothing")), Err(DataError::Missing { .. })));
            // A pipe without a writer is an error, too.
            let text = read_file_or_pipe(&pipe, ReadLimits::default()).unwrap_err().to_string();
            assert!(text.contains("nobody writes to it"), "{text}");
            fs::remove_file(pipe).unwrap();
            fs::remove_file(link).unwrap();
        }

        #[test]
        fn a_pipe_is_read_to_its_end_however_slow_its_writer() {
            use std::io::Write;
            let pipe = fifo("slow");
            let writer = {
                let pipe = pipe.clone();
                thread::spawn(move || {
                    sleep(Duration::from_millis(50));
                    let mut file = fs::OpenOptions::new().write(true).open(pipe).unwrap();
                    for _ in 0..3 {
                        sleep(Duration::from_millis(20));
                        file.write_all(&[1; 100_000]).unwrap();
                    }
                })
            };
            assert_eq!(read_file_or_pipe(&pipe, ReadLimits::default()).unwrap(), vec![1; 300_000]);
            writer.join().unwrap();
            fs::remove_file(pipe).unwrap();
        }
    }
}
