//! The one error type of this crate.
//!
//! Why it exists: training touches graphs, the compiler, steps and data; their errors are passed on whole, and what is
//! wrong between them (a batch size of zero, a label that is no class) is said here.
//! Promises: messages carry names, sizes, positions and class numbers, never features or weights.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use cotangent_data::DataError;
use cotangent_exec::CompileError;
use cotangent_graph::{Diag, Diags};
use cotangent_scalar::{plain, plain_lines};

use crate::checkpoint::Loaded;

/// Why something could not be trained or measured.
#[non_exhaustive]
pub enum TrainError {
    /// The graph is wrong, or could not be compiled.
    Compile(CompileError),
    /// A step refused its inputs, or the store its values.
    Step(Diag),
    /// Data could not be read or used.
    Data(DataError),
    /// An argument, or an array, is not what is needed.
    Invalid {
        /// The argument or array.
        of: String,
        /// What is required of it.
        required: String,
        /// What was given.
        got: String,
    },
    /// A label that the objective has no meaning for.
    Label {
        /// The example's place in its dataset.
        example: usize,
        /// What is required of labels.
        required: String,
        /// The label.
        got: String,
    },
    /// Values are not those of the names that want them: another model, another optimiser.
    Differs {
        /// The values.
        of: String,
        /// What fits and what does not; nothing was taken.
        loaded: Box<Loaded>,
    },
    /// There are checkpoints, and all of them are damaged.
    NoCheckpoint {
        /// The folder.
        folder: PathBuf,
        /// The files, newest first, with what is wrong.
        damaged: Vec<(PathBuf, DataError)>,
    },
}

impl TrainError {
    pub(crate) fn invalid(of: impl Into<String>, required: impl Into<String>, got: impl fmt::Display) -> Self {
        TrainError::Invalid { of: of.into(), required: required.into(), got: got.to_string() }
    }
}

impl fmt::Display for TrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrainError::Compile(error) => write!(f, "{error}"),
            TrainError::Step(diag) => write!(f, "{diag}"),
            TrainError::Data(error) => write!(f, "{error}"),
            TrainError::Invalid { of, required, got } => {
                write!(f, "{}: required {}, got {}", plain(of), plain(required), plain_lines(got))
            }
            TrainError::Label { example, required, got } => {
                write!(f, "label of example {example}: required {}, got {}", plain(required), plain(got))
            }
            TrainError::Differs { of, loaded } => write!(
                f,
                "{}: required the values of this model and its optimiser, got those of another:{loaded}\n  to take what fits, \
                 ask for `Load::Fitting`",
                plain(of)
            ),
            TrainError::NoCheckpoint { folder, damaged } => {
                let folder = folder.display().to_string();
                write!(f, "{}: required a checkpoint that is whole, got damaged ones only", plain(&folder))?;
                damaged.iter().try_for_each(|(_, error)| write!(f, "\n  {error}"))
            }
        }
    }
}

/// The text of `Display`, so that `main` and `unwrap` print it.
impl fmt::Debug for TrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for TrainError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            TrainError::Compile(error) => Some(error),
            TrainError::Step(diag) => Some(diag),
            TrainError::Data(error) => Some(error),
            TrainError::Invalid { .. }
            | TrainError::Label { .. }
            | TrainError::Differs { .. }
            | TrainError::NoCheckpoint { .. } => None,
        }
    }
}

impl From<CompileError> for TrainError {
    fn from(error: CompileError) -> Self {
        TrainError::Compile(error)
    }
}

impl From<Diags> for TrainError {
    fn from(diags: Diags) -> Self {
        TrainError::Compile(CompileError::User(diags))
    }
}

impl From<Diag> for TrainError {
    fn from(diag: Diag) -> Self {
        TrainError::Step(diag)
    }
}

impl From<DataError> for TrainError {
    fn from(error: DataError) -> Self {
        TrainError::Data(error)
    }
}
