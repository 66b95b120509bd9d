//! From TOML text to sections, with a place for everything that is wrong.
//!
//! Promises: no input panics; all mistakes are told at once, each with its line and column, what is required, and for a
//! misspelled name the nearest right one.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cotangent_graph::diag::nearest;
use cotangent_graph::{Code, Diag, Diags, Loc};
use cotangent_scalar::plain;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::change::Change;
use crate::schema::{Doc, Range, Section, Setting};

/// Longer names are compared with nothing.
const LONGEST: usize = 64;

/// Reads one text.
#[derive(Debug)]
pub struct Reader<'a> {
    file: Arc<str>,
    folder: &'a Path,
    text: &'a str,
    problems: RefCell<Vec<Diag>>,
}

/// Reads a section that is a whole document; `folder` is what paths in it are relative to.
///
/// # Errors
/// `E0401` for everything that is wrong.
pub fn read<T: Section>(text: &str, file: &str, folder: &Path) -> Result<T, Diags> {
    read_changed(text, file, folder, &[])
}

/// [`read()`] with other values for some keys. What is wrong with one of these has the place where the change is asked for.
///
/// # Errors
/// As [`read()`]; a key that goes through what is no table, or to an item that a list has not.
pub fn read_changed<T: Section>(text: &str, file: &str, folder: &Path, changes: &[Change]) -> Result<T, Diags> {
    let reader = Reader { file: file.into(), folder, text, problems: RefCell::default() };
    let mut document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = reader.loc(error.span().map_or(0, |span| span.start));
            return Err(Diag::new(Code::Config, format!("this is not TOML: {}", error.message())).at(at).into());
        }
    };
    for change in changes {
        if let Err(text) = change.apply(document.get_mut()) {
            reader.problem(Diag::new(Code::Config, text).at(reader.loc(change.key_at.start)));
        }
    }
    let mut record = Record {
        reader: &reader,
        table: document.get_ref(),
        at: document.span().start,
        what: String::new(),
        kind: false,
        missing: Vec::new(),
    };
    let read = T::of(&mut record);
    match (read, reader.problems.into_inner()) {
        (Some(section), problems) if problems.is_empty() => Ok(section),
        (_, problems) => Err(Diags(problems)),
    }
}

/// The place of a byte of a text.
pub(crate) fn place(text: &str, file: &Arc<str>, at: usize) -> Loc {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Loc::Text { file: file.clone(), line: line as u32, column: column as u32 }
}

impl Reader<'_> {
    /// The place of a byte of the text.
    pub fn loc(&self, at: usize) -> Loc {
        place(self.text, &self.file, at)
    }

    /// A path as it is meant: relative to the folder of the file.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// Notes what is wrong.
    pub(crate) fn problem(&self, diag: Diag) {
        self.problems.borrow_mut().push(diag);
    }

    /// Notes that a value is not what is required.
    pub(crate) fn wrong(&self, value: &Spanned<DeValue<'_>>, what: &str, required: &str) {
        let text = format!("{what} requires {required}, got {}", shown(value.get_ref()));
        self.problem(Diag::new(Code::Config, text).at(self.loc(value.span().start)));
    }

    /// The table of a section.
    pub(crate) fn record<'v, 'i>(&'v self, value: &'v Spanned<DeValue<'i>>, what: &str) -> Option<Record<'v, 'i>> {
        let at = value.span().start;
        match value.get_ref().as_table() {
            Some(table) => {
                Some(Record { reader: self, table, at, what: what.to_owned(), kind: false, missing: Vec::new() })
            }
            None => {
                self.wrong(value, what, "a table");
                None
            }
        }
    }

    /// One of some texts.
    pub(crate) fn choice<'c>(
        &self,
        value: &Spanned<DeValue<'_>>,
        what: &str,
        choices: &[&'c str],
        doc: &Doc,
    ) -> Option<&'c str> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong(value, what, &doc.required());
            return None;
        };
        let found = choices.iter().find(|choice| **choice == text).copied();
        if found.is_none() {
            let message = format!("{what} requires {}, got {}", doc.required(), shown(value.get_ref()));
            let diag = Diag::new(Code::Config, message).at(self.loc(value.span().start));
            self.problem(diag.suggest(text, choices.iter().copied()));
        }
        found
    }
}

/// A table that is being read.
#[derive(Debug)]
pub struct Record<'a, 'i> {
    reader: &'a Reader<'a>,
    table: &'a DeTable<'i>,
    at: usize,
    /// What it is, in messages; empty for the document.
    what: String,
    /// Whether the key `kind` belongs to it.
    kind: bool,
    /// The keys that it must have and has not, with what they require.
    missing: Vec<(&'static str, String)>,
}

impl Record<'_, '_> {
    fn of(&self, key: &str) -> String {
        if self.what.is_empty() { format!("`{key}`") } else { format!("`{key}` of {}", self.what) }
    }

    fn value(&self, key: &str) -> Option<&Spanned<DeValue<'_>>> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// The names that it has and that are none of these.
    fn unknown(&self, known: &[&str]) -> impl Iterator<Item = &Spanned<DeString<'_>>> {
        self.table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()))
    }

    /// Tells that a name is not known. The nearest one that could be meant is advice: of those that are not given, if any is near.
    fn misspelled<'c>(&self, key: &Spanned<DeString<'_>>, known: &[&'c str]) -> Option<&'c str> {
        let name = key.get_ref().as_ref();
        let left: Vec<&'c str> = known.iter().copied().filter(|known| self.value(known).is_none()).collect();
        let near = nearest(name, left.iter().copied()).filter(|_| name.len() <= LONGEST);
        let of = if self.what.is_empty() { "a configuration" } else { &self.what };
        let diag = Diag::new(Code::Config, format!("{of} has no key `{}`", plain(name)));
        let diag = diag.at(self.reader.loc(key.span().start));
        self.reader.problem(diag.suggest(name, if near.is_some() { &left[..] } else { known }.iter().copied()));
        near
    }

    /// Tells which keys are missing, but for those that an unknown name is a misspelling of: of that it is said already.
    fn tell_missing(&self, meant: &[&str]) {
        for (key, required) in self.missing.iter().filter(|(key, _)| !meant.contains(key)) {
            let text = format!("{} is missing: it requires {required}", self.of(key));
            self.reader.problem(Diag::new(Code::Config, text).at(self.reader.loc(self.at)));
        }
    }

    /// Which of the kinds it is.
    pub(crate) fn kind<'c>(&mut self, kinds: &[&'c str]) -> Option<&'c str> {
        self.kind = true;
        let names: Vec<String> = kinds.iter().map(|kind| format!("\"{kind}\"")).collect();
        let doc = Doc::Plain(format!("one of {}", names.join(", ")));
        let Some(value) = self.value("kind") else {
            // Which other keys there are follows from the kind, so nothing can be said of them but this.
            let known = ["kind"];
            let near = self.unknown(&known).find(|key| nearest(key.get_ref(), known).is_some());
            match near {
                Some(key) => _ = self.misspelled(key, &known),
                None => {
                    self.missing.push(("kind", doc.required()));
                    self.tell_missing(&[]);
                }
            }
            return None;
        };
        let found = self.reader.choice(value, &self.of("kind"), kinds, &doc)?;
        self.what = format!("{} of kind \"{found}\"", self.what);
        Some(found)
    }

    /// The value of a key, or what stands for it.
    pub(crate) fn take<T: Setting>(
        &mut self,
        key: &'static str,
        range: Range,
        preset: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        let Some(value) = self.value(key) else {
            let preset = preset();
            if preset.is_none() {
                self.missing.push((key, format!("{}{}", T::doc().required(), range.text())));
            }
            return preset;
        };
        let read = T::read(self.reader, value, &self.of(key))?;
        if let Some(number) = read.numbers().into_iter().find(|number| !range.has(*number)) {
            let required = format!("{}{}", T::doc().required(), range.text());
            let text = format!("{} requires {required}, got {number}", self.of(key));
            self.reader.problem(Diag::new(Code::Config, text).at(self.reader.loc(value.span().start)));
            return None;
        }
        Some(read)
    }

    /// That there are no other keys, and none is missing.
    pub(crate) fn finish(&mut self, keys: &[&'static str]) -> Option<()> {
        let known: Vec<&str> = keys.iter().copied().chain(self.kind.then_some("kind")).collect();
        let (mut n_unknown, mut meant) = (0, Vec::new());
        for key in self.unknown(&known) {
            n_unknown += 1;
            meant.extend(self.misspelled(key, &known));
        }
        self.tell_missing(&meant);
        (n_unknown == 0 && self.missing.is_empty()).then_some(())
    }
}

/// A value in a message: clipped, and tables by their name alone.
fn shown(value: &DeValue<'_>) -> String {
    let clipped = |text: &str| match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    };
    match value {
        DeValue::String(text) => format!("{:?}", clipped(text)),
        DeValue::Integer(number) => clipped(number.as_str()),
        DeValue::Float(number) => clipped(number.as_str()),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
