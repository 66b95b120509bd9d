//! Trainings in TOML: from files to a model that can be deployed, without a program.
//!
//! Why it exists: most trainings differ in their data, layers and numbers and in nothing else. A [`Config`] says these; [`run`]
//! trains, resumes, evaluates, reports and writes the model.
//!
//! | module | what it gives |
//! |---|---|
//! | [`sections`] | every key with its type, default and meaning, in one place |
//! | [`schema`] | what sections are made of; the reader, its messages and the page [`reference()`] follow from it |
//! | [`read`](mod@read) | from TOML text to sections, with line, column and the nearest right spelling of what is wrong |
//! | [`change`](mod@change) | other values for some keys of a text |
//! | [`examples`] | the data of a configuration |
//! | [`net`] | its layers, optimiser and augmentation |
//! | [`run`](mod@run) | training, from start to the files that it leaves |
//! | [`report`] | a page about it |
//! | [`predict`] | rows for a model from files |
//!
//! Promises: a configuration is refused as a whole, before anything is read or written, with all its mistakes; paths are relative to
//! its file; the same configuration gives the same bits.
#![forbid(unsafe_code)]

pub mod change;
pub mod examples;
pub mod net;
pub mod predict;
pub mod read;
mod reference;
pub mod report;
pub mod run;
pub mod schema;
pub mod sections;

use std::path::Path;

use cotangent_data::ReadLimits;
use cotangent_data::reading::read_file_or_pipe;
use cotangent_graph::{Code, Diag, Diags, Loc};

pub use self::reference::reference;
pub use self::run::{Found, Outcome, Run};
pub use self::sections::Config;

impl Config {
    /// Reads the text of a file, which errors call `file`; paths in it are relative to `folder`.
    ///
    /// # Errors
    /// `E0401` for everything that is wrong with it.
    pub fn parse(text: &str, file: &str, folder: &Path) -> Result<Self, Diags> {
        read::read(text, file, folder)
    }
}

/// The text of a file.
pub(crate) fn text_of(path: &Path) -> Result<String, Diags> {
    let wrong = |text: String| Diags::from(Diag::new(Code::Config, text).at(Loc::Internal));
    let bytes = read_file_or_pipe(path, ReadLimits::default()).map_err(|error| wrong(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| wrong(format!("{}: {error}", path.display())))
}
