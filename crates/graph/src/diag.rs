//! Errors of the user: what was required, what was got, of what, where, and what to do.
//!
//! A [`Diag`] has a stable code with a section in `docs/errors.md`. Errors of one graph are collected in a [`Diags`] so
//! that all are reported at once. Bugs of the compiler are [`CompilerBug`], a different type that looks different. No
//! message contains the values of a tensor beyond the single offending index or label.

use std::any::Any;
use std::cmp::Reverse;
use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cotangent_host::files::write_text;
use cotangent_scalar::{plain, plain_lines};

/// A place in the user's code or in a text file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loc {
    /// A call in Rust code.
    Code(&'static Location<'static>),
    /// A place in a graph's text; line and column count from 1.
    Text {
        /// Name of the file.
        file: Arc<str>,
        /// Line.
        line: u32,
        /// Column.
        column: u32,
    },
    /// Made by the compiler, with no place of its own.
    Internal,
}

impl Loc {
    /// The place of the caller.
    #[track_caller]
    pub fn here() -> Self {
        Loc::Code(Location::caller())
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loc::Code(place) => write!(f, "{}:{}", place.file(), place.line()),
            Loc::Text { file, line, column } => write!(f, "{}:{line}:{column}", plain(file)),
            Loc::Internal => f.write_str("<compiler>"),
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal;)*) => {
        /// The stable code of an error; each has a section in `docs/errors.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code { $($(#[doc = $doc])* $name,)* }

        impl Code {
            /// Every code with its summary, in order.
            pub const ALL: &'static [(Code, &'static str)] = &[$((Code::$name, concat!($($doc),*)),)*];

            /// The code as printed, for example `E0101`.
            pub fn text(self) -> &'static str {
                match self { $(Code::$name => $code,)* }
            }
        }
    };
}

codes! {
    /// The shapes of the operands do not fit the op.
    ShapeMismatch = "E0101";
    /// The element types of the operands do not fit the op; nothing is promoted implicitly.
    DTypeMismatch = "E0102";
    /// An axis is out of range or named twice.
    BadAxis = "E0103";
    /// An attribute is missing, unknown, or has a value that the op does not allow.
    BadAttribute = "E0104";
    /// An op got the wrong number of operands.
    BadArity = "E0105";
    /// A tensor would have more elements than can be addressed.
    TooLarge = "E0106";
    /// A name is used by two inputs, parameters, states or outputs.
    DuplicateName = "E0107";
    /// A name is not known.
    UnknownName = "E0108";
    /// A tensor of one graph was used in another.
    ForeignTensor = "E0109";
    /// A result is not a tensor; or an update does not name a parameter or state, or its type differs, or there are two of it.
    BadUpdate = "E0110";
    /// The graph has no outputs.
    NoOutputs = "E0111";
    /// A gradient was asked of something that has none: a non-scalar without a seed, an integer, a non-differentiable op.
    NotDifferentiable = "E0112";
    /// A body of a region is not closed or does not fit its operands.
    BadBody = "E0113";
    /// The record of an op breaks a promise: what one of its functions makes is not what the others say of it.
    BadOp = "E0114";
    /// A graph that was put together node by node is not well formed.
    IllFormed = "E0115";
    /// More nodes would be made of a graph than the limits allow.
    TooManyNodes = "E0116";
    /// The text form is malformed.
    Syntax = "E0201";
    /// The registry does not have an op of this name, or has another one.
    UnknownOp = "E0202";
    /// The text form has a version that this program does not read.
    BadVersion = "E0203";
    /// A type written in the text is not the one that follows from the operands.
    TypeAnnotation = "E0204";
    /// A step was given an input it does not know, or was not given one it needs.
    InputNames = "E0301";
    /// A tensor given to a step or a store has another shape or element type than declared.
    InputType = "E0302";
    /// A run-time index or class label is out of range.
    IndexOutOfRange = "E0303";
    /// A value asked for by name is not there or has another type.
    NoSuchValue = "E0304";
    /// The loss, or another checked value, is not finite.
    NotFinite = "E0305";
    /// A program needs parameters or states that the store has with another type.
    StoreMismatch = "E0306";
    /// A checked step computed something else than the interpreter: a bug of the compiler.
    Diverged = "E0307";
    /// An id of a program or of an input was used with another session or program than the one that gave it.
    ForeignId = "E0308";
    /// More memory was asked for than the system gives, or than there is.
    NoMemory = "E0309";
    /// The step counter is at its end.
    OutOfSteps = "E0310";
    /// The program is for a machine whose instruction set this CPU lacks.
    OtherMachine = "E0311";
    /// A configuration is no TOML, or has a key or value that is not known or out of range, or layers that do not fit.
    Config = "E0401";
    /// Not supported yet; listed in `docs/limits.md`.
    Unsupported = "E0901";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// One error of the user.
#[derive(Clone, PartialEq, Eq)]
pub struct Diag {
    /// The stable code.
    pub code: Code,
    /// What was required and what was got.
    pub message: String,
    /// Where.
    pub at: Loc,
    /// Further places, for example where the operands were made.
    pub notes: Vec<(String, Loc)>,
    /// What to do.
    pub help: Option<String>,
}

impl Diag {
    /// An error at the caller's place.
    #[track_caller]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Diag { code, message: message.into(), at: Loc::here(), notes: Vec::new(), help: None }
    }

    /// The same error at another place.
    pub fn at(mut self, at: Loc) -> Self {
        self.at = at;
        self
    }

    /// The same error with a further place.
    pub fn note(mut self, text: impl Into<String>, at: Loc) -> Self {
        self.notes.push((text.into(), at));
        self
    }

    /// The same error with the known name that is nearest to an unknown one as advice; if none is near and there are few,
    /// with all of them.
    pub fn suggest<'a>(self, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        /// Longer names are compared with nothing: the comparison takes time in the product of the lengths.
        const MOST: usize = 64;
        /// More names than these are no advice.
        const FEW: usize = 12;
        let mut known: Vec<&str> = known.into_iter().filter(|known| known.len() <= MOST).collect();
        if let Some(near) = nearest(name, known.iter().copied()).filter(|_| name.len() <= MOST) {
            return self.help(format!("did you mean `{near}`?"));
        }
        known.sort_unstable();
        known.dedup();
        match known.len() {
            0 => self.help("there are none"),
            1..=FEW => self.help(format!("known: {}", known.join(", "))),
            _ => self,
        }
    }

    /// The same error with advice.
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names in a text that a user wrote must not look like messages; what is ill formed was put together in code.
        let message = if self.code == Code::IllFormed { plain_lines(&self.message) } else { plain(&self.message) };
        write!(f, "error[{}]: {message}", self.code)?;
        if self.at != Loc::Internal {
            write!(f, "\n  --> {}", self.at)?;
        }
        for (text, at) in &self.notes {
            write!(f, "\n  note: {}: {at}", plain(text))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {}", plain(help))?;
        }
        Ok(())
    }
}

/// The text of `Display`, so that `main` and `unwrap` print it.
impl fmt::Debug for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Diag {}

/// All errors of one graph or text, at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct Diags(pub Vec<Diag>);

impl fmt::Display for Diags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diag) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diag}")?;
        }
        Ok(())
    }
}

/// The text of `Display`, so that `main` and `unwrap` print it.
impl fmt::Debug for Diags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Diags {}

impl From<Diag> for Diags {
    fn from(diag: Diag) -> Self {
        Diags(vec![diag])
    }
}

/// Where a bug of the compiler can be seen again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reproducer {
    /// The file with the graph that shows it, in text form.
    pub file: PathBuf,
    /// The command that shows it.
    pub command: String,
}

/// A bug of the compiler: something that no input should be able to cause.
#[derive(Clone)]
pub struct CompilerBug {
    /// The pass or stage that found itself in an impossible state.
    pub pass: String,
    /// What was found.
    pub message: String,
    /// The graph before the pass, in text form, if there is one.
    pub graph: Option<String>,
    /// The file and the command that show it again, once they are written.
    pub reproducer: Option<Reproducer>,
}

impl CompilerBug {
    /// A bug found by `pass`.
    pub fn new(pass: impl Into<String>, message: impl Into<String>) -> Self {
        CompilerBug { pass: pass.into(), message: message.into(), graph: None, reproducer: None }
    }

    /// What a stage of the compiler computes; a panic in it is a bug of that stage. The panic's own message, with its place,
    /// goes where the panic hook sends it.
    ///
    /// # Errors
    /// The bug, if the stage panicked.
    pub fn guard<T>(stage: &str, f: impl FnOnce() -> T) -> Result<T, CompilerBug> {
        // What a panic leaves half done is never looked at again: the stage's result is lost with it.
        catch_unwind(AssertUnwindSafe(f))
            .map_err(|payload| CompilerBug::new(stage, format!("it panicked: {}", panic_text(&*payload))))
    }

    /// The same bug with a reproducer: the graph that the bug carries, or else `graph`, is written to `file`, and `command`
    /// says how a file of this name shows the bug. A bug that has a reproducer keeps it.
    pub fn reproduce(
        mut self,
        file: &Path,
        graph: impl FnOnce() -> String,
        command: impl FnOnce(&str) -> String,
    ) -> Self {
        if self.reproducer.is_some() {
            return self;
        }
        let text = self.graph.take().unwrap_or_else(graph);
        match write_text(file, &text) {
            Ok(()) => {
                let command = command(&file.display().to_string());
                self.reproducer = Some(Reproducer { file: file.to_owned(), command });
            }
            Err(error) => {
                self.message += &format!("\n  {error}");
            }
        }
        self.graph = Some(text);
        self
    }
}

/// What a panic says.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

impl fmt::Display for CompilerBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "internal compiler error in `{}`: {}", self.pass, plain_lines(&self.message))?;
        write!(f, "\n  this is a bug in the compiler, not in your program; please report it")?;
        match (&self.reproducer, &self.graph) {
            (Some(Reproducer { file, command }), _) => {
                let file = file.display();
                write!(
                    f,
                    " with the graph in {file}\n  replay: {command}\n  make it smaller: cotangent reduce {file} --verify"
                )
            }
            (None, Some(graph)) => write!(f, "\n  the graph before it:\n{graph}"),
            (None, None) => Ok(()),
        }
    }
}

/// The text of `Display`, so that `main` and `unwrap` print it.
impl fmt::Debug for CompilerBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for CompilerBug {}

/// The known name nearest to a misspelled one, for help texts; of equally near ones the one that begins most like it.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |a: &str, b: &str| {
        let b: Vec<char> = b.chars().collect();
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, ca) in a.chars().enumerate() {
            let mut diagonal = row[0];
            row[0] = i + 1;
            for (j, cb) in b.iter().enumerate() {
                let substitute = diagonal + usize::from(ca != *cb);
                diagonal = row[j + 1];
                row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
            }
        }
        row[b.len()]
    };
    let alike = |known: &str| name.chars().zip(known.chars()).take_while(|(a, b)| a == b).count();
    let (distance, _, best) = known.into_iter().map(|k| (distance(name, k), Reverse(alike(k)), k)).min()?;
    (distance <= 1 + name.chars().count() / 3).then_some(best)
}
