//! The one error type of this crate.
//!
//! Why it exists: a bad file, a missing file and a wrong argument call for different actions, so they are different
//! variants; each message names what was required, what was got, of what, and what to do.
//! Promises: messages carry names, sizes and counts, never the data
//! itself, but for a label, or the start of a cell of text, that is wrong.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use cotangent_host::files::WriteError;
use cotangent_scalar::plain;

use crate::reading::Kind;

/// Why data could not be read, written or used.
#[non_exhaustive]
pub enum DataError {
    /// A file or folder that is needed does not exist.
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// What to do about it.
        fix: String,
    },
    /// The operating system refused to read or write.
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What was being done: "read", "write", "rename".
        action: &'static str,
        /// The system's own report.
        source: io::Error,
    },
    /// The contents of a file break the rules of its format.
    Malformed {
        /// The file, or the entry of an archive.
        name: String,
        /// The part of the file that is wrong.
        part: &'static str,
        /// What the format requires there.
        required: String,
        /// What was found there.
        got: String,
        /// What to do about it.
        fix: String,
    },
    /// The file is legal, but uses a feature that this crate does not read.
    Unsupported {
        /// The file, or the entry of an archive.
        name: String,
        /// The feature, and what is supported instead.
        what: String,
        /// What to do about it.
        fix: String,
    },
    /// A path names something else than the file that is needed.
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        got: Kind,
    },
    /// More bytes would become of a file, or come from a pipe, than the limits allow.
    TooLarge {
        /// The file, or the entry of an archive.
        name: String,
        /// The bytes of a compressed file, and those that it expands to.
        expansion: Option<(u64, u64)>,
        /// What is allowed.
        most: u64,
    },
    /// Somebody else writes to a folder.
    Locked {
        /// The folder.
        folder: PathBuf,
        /// Who, as far as it is known.
        by: String,
    },
    /// Arrays or arguments that do not belong together.
    Mismatch {
        /// What was being built.
        of: String,
        /// What it requires.
        required: String,
        /// What was given.
        got: String,
        /// What to do about it.
        fix: String,
    },
}

impl DataError {
    /// A [`DataError::Io`], or [`DataError::Missing`] if the report says that nothing is there.
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        if action == "read" && source.kind() == io::ErrorKind::NotFound {
            return Self::Missing { path: path.to_owned(), fix: "check the path".to_owned() };
        }
        Self::Io { path: path.to_owned(), action, source }
    }
}

impl From<WriteError> for DataError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotAFile { path, got } => DataError::NotAFile { path, got },
            WriteError::Io { path, action, source } => DataError::io(&path, action, source),
        }
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path, fix } => {
                write!(
                    f,
                    "{}: required a file or folder, got nothing there; {}",
                    plain(&path.display().to_string()),
                    plain(fix)
                )
            }
            Self::Io { path, action, source } if source.kind() == io::ErrorKind::OutOfMemory => {
                write!(f, "{}: could not {action}: {source}", plain(&path.display().to_string()))
            }
            Self::Io { path, action, source } => write!(
                f,
                "{}: could not {action}: {source}; check the path, its permissions and the space on the device",
                plain(&path.display().to_string())
            ),
            Self::Malformed { name, part, required, got, fix } => {
                write!(f, "{}: {part}: required {}, got {}; {}", plain(name), plain(required), plain(got), plain(fix))
            }
            Self::NotAFile { path, got } => {
                write!(
                    f,
                    "{}: required a file, got {got}; check the path, or move what is there",
                    plain(&path.display().to_string())
                )
            }
            Self::TooLarge { name, expansion, most } => {
                let number = match expansion {
                    Some((from, to)) => {
                        write!(f, "{}: expands to {to} bytes from {from}; at most {most} are allowed", plain(name))?;
                        to.to_string()
                    }
                    None => {
                        write!(f, "{}: has more than the {most} bytes that are allowed", plain(name))?;
                        "N".to_owned()
                    }
                };
                write!(
                    f,
                    "; if it can be trusted, allow more: `ReadLimits::bytes({number})`, on the command line `--max-bytes \
                     {number}`"
                )
            }
            Self::Locked { folder, by } => write!(
                f,
                "{}: required a folder that nobody else writes to, got one in use by {}; give this run another folder, or \
                 wait",
                plain(&folder.display().to_string()),
                plain(by)
            ),
            Self::Unsupported { name, what, fix } => {
                write!(f, "{}: not supported: {}; {}", plain(name), plain(what), plain(fix))
            }
            Self::Mismatch { of, required, got, fix } => {
                write!(f, "{}: required {}, got {}; {}", plain(of), plain(required), plain(got), plain(fix))
            }
        }
    }
}

/// The text of `Display`, so that `main` and `unwrap` print it.
impl fmt::Debug for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for DataError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_do_not_act_on_a_terminal() {
        let name = "a\n\u{1b}[2J\u{202e}b".to_owned();
        let path = PathBuf::from(&name);
        let (some, part) = (|| name.clone(), "part");
        let errors = [
            DataError::Missing { path: path.clone(), fix: some() },
            DataError::Io { path: path.clone(), action: "read", source: io::Error::other("no") },
            DataError::Malformed { name: some(), part, required: some(), got: some(), fix: some() },
            DataError::Unsupported { name: some(), what: some(), fix: some() },
            DataError::NotAFile { path: path.clone(), got: Kind::Pipe },
            DataError::TooLarge { name: some(), expansion: Some((1, 2)), most: 1 },
            DataError::TooLarge { name: some(), expansion: None, most: 1 },
            DataError::Locked { folder: path, by: some() },
            DataError::Mismatch { of: some(), required: some(), got: some(), fix: some() },
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.contains("a\\n\\u{1b}[2J\\u{202e}b") && !text.contains('\n'), "{text:?}");
        }
    }

    #[test]
    fn messages_say_required_got_of_what_and_what_to_do() {
        let error = DataError::Malformed {
            name: "a.idx".to_owned(),
            part: "magic",
            required: "two zero bytes".to_owned(),
            got: "0x01 0x02".to_owned(),
            fix: "download it again".to_owned(),
        };
        assert_eq!(error.to_string(), "a.idx: magic: required two zero bytes, got 0x01 0x02; download it again");
        let error = DataError::io(Path::new("x"), "write", io::Error::other("full"));
        assert!(error.source().is_some() && error.to_string().contains("could not write: full"));
        let error = DataError::io(Path::new("x"), "read", io::Error::from(io::ErrorKind::NotFound));
        assert!(matches!(error, DataError::Missing { .. }));
    }
}
