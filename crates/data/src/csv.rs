//! Tables of text: typed columns, missing values, categories with a vocabulary that stays.
//!
//! Why it exists: what a column means is a decision (is 3 a number or a name?), and what was learned of the training file, the
//! categories and what missing numbers are replaced by, must hold for every file after it. So a [`Csv`] says what to read,
//! [`Csv::fit`] learns from the training file, and the [`CsvReader`] that it makes reads any file in the same way; it can be
//! stored beside a model.
//!
//! Assumes: UTF-8, cells as RFC 4180 has them, one row of names on top (unless told otherwise), columns in any order. Promises: a
//! cell that does not fit is an error with file, line and column; nothing is guessed, dropped or replaced unless it was asked for.
//!
//! ```
//! use cotangent_data::csv::{Column, Csv, Missing};
//! use cotangent_data::Examples;
//!
//! # fn main() -> Result<(), cotangent_data::DataError> {
//! let columns = Csv::new()
//!     .field("x", [Column::number("age").missing(Missing::Mean), Column::one_hot("city")])
//!     .column("y", Column::category("bought"))
//!     .labels("y");
//! let training = "age,city,bought\n20,Rome,no\n,Oslo,yes\n40,Rome,yes\n";
//! let reader = columns.fit_bytes(training.as_bytes(), "training.csv")?;
//! let table = reader.read_bytes(training.as_bytes(), "training.csv")?;
//! assert_eq!(table.get("x").map(|x| x.to_f64()), Some(vec![20.0, 0.0, 1.0, 30.0, 1.0, 0.0, 40.0, 0.0, 1.0]));
//! assert_eq!(reader.names("x"), ["age", "city=Oslo", "city=Rome"]);
//!
//! let error = reader.read_bytes(&b"bought,city,age\nyes,Paris,30\n"[..], "new.csv").unwrap_err();
//! assert!(error.to_string().contains("line 2, column `city`"));
//! # Ok(())
//! # }
//! ```

mod cells;
mod quotes;
mod rows;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use cotangent_host::float::in_default;
use cotangent_scalar::{DType, plain};
use serde::{Deserialize, Serialize};

use self::cells::{Buffers, Cells};
pub use self::rows::CsvRows;
use crate::DataError;
use crate::reading::{ask, open};
use crate::table::{Field, Table};
use crate::text::{Unit, Vocabulary, shown};

/// What the cells of a column are.
#[derive(Clone, Debug, Default)]
struct Seen {
    n_numbers: usize,
    n_others: usize,
    /// The line and the text of the first that is no number.
    other: Option<(u64, String)>,
}

/// A column has many numbers from so many on, and few other cells if they are at most one in so many.
const MANY_NUMBERS: usize = 20;

/// The most categories that are spread over columns of zeros and ones.
pub const MOST_ONE_HOT: usize = 4096;

/// What becomes of a cell that is empty, or has a text that stands for a missing value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Missing {
    /// It is an error.
    #[default]
    Refuse,
    /// The row is left out.
    Row,
    /// Of a number: the mean of the file that was fitted.
    Mean,
    /// Of a number: this one.
    Value(f32),
    /// Of a category: a category of its own, the empty text.
    Category,
}

/// What the cells of a column are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Finite numbers, f32.
    Number,
    /// Whole numbers, i64.
    Integer,
    /// Names, as their ids, i64.
    Category,
    /// Names, as a column of zeros and ones for each, f32.
    OneHot,
    /// Texts, as the ids of their first parts, i64. Shorter texts are filled up with one more id, the number of all others.
    Text {
        /// What they are divided into.
        unit: Unit,
        /// How many ids.
        length: usize,
    },
}

/// A column of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    name: String,
    kind: Kind,
    missing: Missing,
    /// Whether names that were not in the fitted file have an id of their own.
    unknown: bool,
    /// At most so many names or words, the most frequent; 0 for all.
    most: usize,
    vocabulary: Option<Vocabulary>,
    mean: Option<f32>,
}

impl Column {
    fn new(name: impl Into<String>, kind: Kind) -> Self {
        let (missing, unknown, most) = (Missing::Refuse, false, 0);
        Column { name: name.into(), kind, missing, unknown, most, vocabulary: None, mean: None }
    }

    /// Finite numbers, f32.
    pub fn number(name: impl Into<String>) -> Self {
        Column::new(name, Kind::Number)
    }

    /// Whole numbers, i64.
    pub fn integer(name: impl Into<String>) -> Self {
        Column::new(name, Kind::Integer)
    }

    /// Names, as ids from 0 on, i64: numbers by size, then texts by their code points.
    pub fn category(name: impl Into<String>) -> Self {
        Column::new(name, Kind::Category)
    }

    /// Names, as a column of zeros and ones for each of them, f32.
    pub fn one_hot(name: impl Into<String>) -> Self {
        Column::new(name, Kind::OneHot)
    }

    /// Texts, as so many ids of characters or words, i64. What goes beyond is left out; what is shorter is filled up with one
    /// more id, the number of all others: an embedding needs a row for it, too.
    pub fn text(name: impl Into<String>, unit: Unit, length: usize) -> Self {
        Column::new(name, Kind::Text { unit, length })
    }

    /// What becomes of missing values; they are refused at first.
    pub fn missing(mut self, missing: Missing) -> Self {
        self.missing = missing;
        self
    }

    /// Gives all names or words that the fitted file has not one id of their own, instead of refusing them.
    pub fn unknown(mut self) -> Self {
        self.unknown = true;
        self
    }

    /// Keeps only so many names or words, the most frequent; the others are unknown, and have one id of their own.
    pub fn most(mut self, most: usize) -> Self {
        (self.most, self.unknown) = (most, true);
        self
    }

    /// Uses a vocabulary instead of fitting one.
    pub fn vocabulary(mut self, vocabulary: Vocabulary) -> Self {
        self.vocabulary = Some(vocabulary);
        self
    }

    /// The name of the column.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its cells are.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Its names or words, once they are known.
    pub fn entries(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    fn has_names(&self) -> bool {
        matches!(self.kind, Kind::Category | Kind::OneHot | Kind::Text { .. })
    }

    fn dtype(&self) -> DType {
        if matches!(self.kind, Kind::Number | Kind::OneHot) { DType::F32 } else { DType::I64 }
    }

    /// How many numbers a cell becomes.
    fn width(&self) -> usize {
        match self.kind {
            Kind::Number | Kind::Integer | Kind::Category => 1,
            Kind::OneHot => self.vocabulary.as_ref().map_or(0, Vocabulary::len),
            Kind::Text { length, .. } => length,
        }
    }
}

/// A field of the table that is made, of one or more columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Made {
    name: String,
    columns: Vec<Column>,
    /// Whether it is `[n]`, of one column of one number.
    is_scalar: bool,
}

impl Made {
    fn width(&self) -> usize {
        self.columns.iter().map(Column::width).sum()
    }

    fn field(&self) -> Field {
        let shape = if self.is_scalar { Vec::new() } else { vec![self.width()] };
        Field { name: self.name.clone(), dtype: self.columns.first().map_or(DType::F32, Column::dtype), shape }
    }
}

/// Which columns of a file make which fields of a table. See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Csv {
    fields: Vec<Made>,
    delimiter: u8,
    has_names: bool,
    missing: Vec<String>,
    labels: Option<String>,
}

impl Default for Csv {
    fn default() -> Self {
        Csv::new()
    }
}

fn mismatch(required: impl Into<String>, got: impl Into<String>, fix: &str) -> DataError {
    DataError::Mismatch {
        of: "columns to read".to_owned(),
        required: required.into(),
        got: got.into(),
        fix: fix.to_owned(),
    }
}

impl Csv {
    /// No field yet; commas between cells, a row of names, and missing values that are empty or `NA`, `NaN`, `nan`, `null`.
    pub fn new() -> Self {
        let missing = ["", "NA", "NaN", "nan", "null"].map(str::to_owned).to_vec();
        Csv { fields: Vec::new(), delimiter: b',', has_names: true, missing, labels: None }
    }

    /// Makes a field `[n, width]` of columns side by side.
    pub fn field(mut self, name: &str, columns: impl IntoIterator<Item = Column>) -> Self {
        let columns = columns.into_iter().collect();
        self.fields.push(Made { name: name.to_owned(), columns, is_scalar: false });
        self
    }

    /// Makes a field `[n]` of one column: of names their ids.
    pub fn column(mut self, name: &str, column: Column) -> Self {
        self.fields.push(Made { name: name.to_owned(), columns: vec![column], is_scalar: true });
        self
    }

    /// The field that stratified and balanced orders go by; it must have one number for each row.
    pub fn labels(mut self, field: &str) -> Self {
        self.labels = Some(field.to_owned());
        self
    }

    /// What stands between cells, if it is not a comma: `b';'`, `b'\t'`.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// The file has no row of names: columns are called `1`, `2`, and so on.
    pub fn without_names(mut self) -> Self {
        self.has_names = false;
        self
    }

    /// The texts of cells that stand for a missing value, beside those that are empty.
    pub fn missing_as<'a>(mut self, texts: impl IntoIterator<Item = &'a str>) -> Self {
        self.missing = [""].into_iter().chain(texts).map(str::to_owned).collect();
        self
    }

    /// What a file suggests: a field `x` of all columns but one, numbers where every cell is one, else a column of zeros and ones
    /// for each name, and the other column as the field `y`, by which stratified orders go. Missing numbers become the mean,
    /// missing names a name of their own. `among` names the columns of `x`, in their order; `None` for all.
    ///
    /// # Errors
    /// As [`Csv::fit`]; a column of at least 20 numbers of which at most one cell in 20 is none, for that is most likely a mistake in
    /// the cell; of `among` a name that no column has, that of the label, or one twice.
    pub fn suggested(path: impl AsRef<Path>, label: Column, among: Option<&[String]>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let (file, _) = open(path)?;
        let csv = Csv::new();
        let mut cells = Cells::new(file, &path.display().to_string(), &csv)?;
        let label_at = cells.place_of(&label.name)?;
        let taken: Vec<usize> = match among {
            None => (0..cells.names().len()).filter(|at| *at != label_at).collect(),
            Some(names) => names.iter().map(|name| cells.place_of(name)).collect::<Result<_, _>>()?,
        };
        if let Some(k) = (0..taken.len()).find(|&k| taken[k] == label_at || taken[..k].contains(&taken[k])) {
            let name = plain(&cells.names()[taken[k]]);
            let got = if taken[k] == label_at { "the label" } else { "it twice" };
            return Err(mismatch(format!("`{name}` once, and not to predict itself"), got, "name each column once"));
        }
        let mut seen = vec![Seen::default(); cells.names().len()];
        while cells.next()? {
            for (at, seen) in seen.iter_mut().enumerate() {
                let cell = cells.cell(at)?;
                if csv.is_missing(cell) {
                    continue;
                }
                match cell.parse::<f32>().is_ok_and(f32::is_finite) {
                    true => seen.n_numbers += 1,
                    false => {
                        seen.n_others += 1;
                        seen.other.get_or_insert_with(|| (cells.position().1, shown(cell)));
                    }
                }
            }
        }
        let mut columns = Vec::new();
        for at in taken {
            let (name, Seen { n_numbers, n_others, other }) = (&cells.names()[at], std::mem::take(&mut seen[at]));
            let n = n_numbers + n_others;
            columns.push(match other {
                None => Column::number(name).missing(Missing::Mean),
                Some((line, text)) if n_numbers >= MANY_NUMBERS && n_others * MANY_NUMBERS <= n => {
                    return Err(DataError::Mismatch {
                        of: format!("{}, line {line}, column `{}`", path.display(), plain(name)),
                        required: format!("a number, as {n_numbers} of {n} cells of the column are"),
                        got: text,
                        fix: "mend the cell, leave it empty, or leave the column out".to_owned(),
                    });
                }
                Some(_) => Column::one_hot(name).missing(Missing::Category),
            });
        }
        Ok(csv.field("x", columns).column("y", label).labels("y"))
    }

    fn is_missing(&self, cell: &str) -> bool {
        self.missing.iter().any(|text| text == cell)
    }

    fn columns(&self) -> impl Iterator<Item = &Column> {
        self.fields.iter().flat_map(|field| &field.columns)
    }

    /// That fields, columns and what they ask for belong together.
    fn check(&self) -> Result<(), DataError> {
        let fix = "say for each field of which columns it is made";
        if self.fields.is_empty() {
            return Err(mismatch("at least one field", "none", fix));
        }
        let mut names = BTreeSet::new();
        for field in &self.fields {
            let Some(first) = field.columns.first() else {
                return Err(mismatch(format!("at least one column for field `{}`", field.name), "none", fix));
            };
            if !names.insert(&field.name) {
                return Err(mismatch("fields of names that differ", format!("`{}` twice", field.name), fix));
            }
            if let Some(other) = field.columns.iter().find(|column| column.dtype() != first.dtype()) {
                let required = format!("columns of one element type for field `{}`", field.name);
                let got = format!("{} of `{}` beside {} of `{}`", other.dtype(), other.name, first.dtype(), first.name);
                return Err(mismatch(required, got, "make two fields, or columns of zeros and ones of the names"));
            }
            let is_wide = matches!(first.kind, Kind::OneHot | Kind::Text { .. });
            if field.is_scalar && (is_wide || field.columns.len() != 1) {
                let required = format!("one number for each row of field `{}`", field.name);
                return Err(mismatch(required, "several", "make it by `Csv::field`"));
            }
        }
        for column in self.columns() {
            let of = |what: &str| format!("{what} for column `{}`", column.name);
            let (has_names, is_number) = (column.has_names(), column.kind == Kind::Number);
            let fits = match column.missing {
                Missing::Refuse | Missing::Row => true,
                Missing::Mean => is_number,
                Missing::Value(value) => is_number && value.is_finite(),
                Missing::Category => matches!(column.kind, Kind::Category | Kind::OneHot),
            };
            if !fits {
                let fix = "numbers have a mean or a finite value in the place of missing ones, names a category";
                return Err(mismatch(of("a way with missing values that fits"), format!("{:?}", column.missing), fix));
            }
            if !has_names && (column.unknown || column.vocabulary.is_some()) {
                return Err(mismatch(of("names or texts"), "numbers", "numbers have no vocabulary"));
            }
            if matches!(column.kind, Kind::Text { length: 0, .. }) {
                return Err(mismatch(of("at least one id"), "a length of 0", "say how many ids"));
            }
        }
        let labels = self.labels.iter().find(|name| !self.fields.iter().any(|f| f.is_scalar && f.name == **name));
        if let Some(name) = labels {
            let required = "labels that are a field of one number for each row";
            return Err(mismatch(required, format!("`{name}`"), "make it by `Csv::column`"));
        }
        Ok(())
    }

    /// Learns categories, words and means from the file to train on, and makes a reader that has them.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] for fields that make no sense or columns that the file has not; [`DataError::Malformed`] with line
    /// and column for a cell or row that does not fit; as [`open`].
    pub fn fit(self, path: impl AsRef<Path>) -> Result<CsvReader, DataError> {
        let path = path.as_ref();
        let (file, _) = open(path)?;
        self.fit_bytes(file, &path.display().to_string())
    }

    /// [`Csv::fit`] of bytes; errors call them `name`.
    ///
    /// # Errors
    /// As [`Csv::fit`].
    pub fn fit_bytes(mut self, bytes: impl Read, name: &str) -> Result<CsvReader, DataError> {
        self.check()?;
        if self.columns().any(|column| column.needs_fit()) {
            in_default(|| self.learn(Cells::new(bytes, name, &self)?))?;
        }
        CsvReader::try_from(self)
    }

    fn learn<R: Read>(&mut self, mut cells: Cells<R>) -> Result<(), DataError> {
        let mut learners = Vec::new();
        for column in self.columns().filter(|column| column.needs_fit()) {
            learners.push((cells.place_of(&column.name)?, column.clone(), cells::Learner::default()));
        }
        while cells.next()? {
            if cells.is_left_out(self)? {
                continue;
            }
            for (at, column, learner) in &mut learners {
                learner
                    .learn(column, cells.cell(*at)?, |cell| self.is_missing(cell))
                    .map_err(|e| cells.error(*at, e))?;
            }
        }
        let mut learned = learners.into_iter().map(|(.., learner)| learner);
        for column in self.fields.iter_mut().flat_map(|field| &mut field.columns) {
            if column.needs_fit()
                && let Some(learner) = learned.next()
            {
                learner.give(column, cells.name())?;
            }
        }
        Ok(())
    }
}

impl Column {
    fn needs_fit(&self) -> bool {
        (self.has_names() && self.vocabulary.is_none()) || (self.missing == Missing::Mean && self.mean.is_none())
    }
}

/// Reads files as the one that it was fitted to. It can be written to a file beside a model (`serde`), and one that is read back
/// is checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Csv", into = "Csv")]
pub struct CsvReader {
    csv: Csv,
}

impl TryFrom<Csv> for CsvReader {
    type Error = DataError;

    /// A reader of columns for which nothing is to be learned.
    fn try_from(csv: Csv) -> Result<Self, DataError> {
        csv.check()?;
        if let Some(column) = csv.columns().find(|column| column.needs_fit()) {
            let required = format!("what column `{}` has in the training file", column.name);
            return Err(mismatch(required, "nothing yet", "call `Csv::fit` with that file"));
        }
        let too_many = |column: &&Column| column.kind == Kind::OneHot && column.width() > MOST_ONE_HOT;
        if let Some(column) = csv.columns().find(too_many) {
            let required = format!("at most {MOST_ONE_HOT} names in column `{}`", column.name);
            let fix = "take their ids, `Column::category`, and an embedding; or keep the most frequent, `Column::most`";
            return Err(mismatch(required, column.width().to_string(), fix));
        }
        Ok(CsvReader { csv })
    }
}

impl From<CsvReader> for Csv {
    fn from(reader: CsvReader) -> Self {
        reader.csv
    }
}

impl CsvReader {
    /// The fields of what is read.
    pub fn fields(&self) -> Vec<Field> {
        self.csv.fields.iter().map(Made::field).collect()
    }

    /// The columns that a field is made of, with what was learned of them.
    pub fn columns(&self, field: &str) -> &[Column] {
        self.csv.fields.iter().find(|made| made.name == field).map_or(&[], |made| &made.columns)
    }

    /// What the numbers of a row of a field are, one name for each.
    pub fn names(&self, field: &str) -> Vec<String> {
        let names = |column: &Column| match (&column.kind, &column.vocabulary) {
            (Kind::OneHot, Some(names)) => {
                let known = names.entries().iter().map(|entry| format!("{}={entry}", column.name));
                let other = (names.len() > names.entries().len()).then(|| format!("{}=?", column.name));
                known.chain(other).collect()
            }
            (Kind::Text { length, .. }, _) => (0..*length).map(|at| format!("{}[{at}]", column.name)).collect(),
            _ => vec![column.name.clone()],
        };
        self.columns(field).iter().flat_map(names).collect()
    }

    /// The same reader without some fields: for files without labels.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if none is left.
    pub fn without(mut self, fields: &[&str]) -> Result<Self, DataError> {
        self.csv.fields.retain(|made| !fields.contains(&made.name.as_str()));
        self.csv.labels = self.csv.labels.filter(|name| !fields.contains(&name.as_str()));
        CsvReader::try_from(self.csv)
    }

    /// Reads a file into memory.
    ///
    /// # Errors
    /// [`DataError::Malformed`] with line and column for a cell or row that does not fit, or [`DataError::Mismatch`] for a column
    /// that is missing; as [`open`].
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Table, DataError> {
        let path = path.as_ref();
        let (file, length): (File, u64) = open(path)?;
        ask(&path.display().to_string(), length)?;
        self.read_bytes(file, &path.display().to_string())
    }

    /// [`CsvReader::read`] of bytes; errors call them `name`.
    ///
    /// # Errors
    /// As [`CsvReader::read`].
    pub fn read_bytes(&self, bytes: impl Read, name: &str) -> Result<Table, DataError> {
        let mut cells = Cells::new(bytes, name, &self.csv)?;
        let places = cells.places(&self.csv)?;
        let mut buffers = Buffers::new(&self.csv);
        in_default(|| {
            while cells.next()? {
                buffers.push(&self.csv, &places, &cells)?;
            }
            Ok::<(), DataError>(())
        })?;
        let mut table = Table::new();
        for (field, values) in self.fields().iter().zip(buffers.take(&self.fields())) {
            table = table.with(&field.name, values)?;
        }
        self.csv.labels.iter().try_fold(table, |table, name| table.labels(name))
    }

    /// Opens a file that need not fit into memory: only the places of its rows do. All cells are looked at once.
    ///
    /// # Errors
    /// As [`CsvReader::read`].
    pub fn stream(&self, path: impl AsRef<Path>) -> Result<CsvRows, DataError> {
        CsvRows::new(self.clone(), path.as_ref())
    }
}

#[cfg(test)]
mod tests;
