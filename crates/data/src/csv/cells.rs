//! Cells of a file: where they are, what they become, and what is learned of them.

use std::collections::HashMap;
use std::io::Read;

use cotangent_graph::TensorData;
use cotangent_scalar::DType;
use ndarray::{ArrayD, IxDyn};

use super::quotes::Quotes;
use super::{Column, Csv, Kind, Missing};
use crate::DataError;
use crate::table::Field;
use crate::text::{Vocabulary, shown};

/// What is wrong with a cell: required, got.
pub(super) type Wrong = (String, String);

/// The rows of a file, one after the other.
pub(super) struct Cells<R> {
    reader: ::csv::Reader<Quotes<R>>,
    record: ::csv::StringRecord,
    name: String,
    names: Vec<String>,
    /// For each name the place of its column; `None` for one that several have.
    places: HashMap<String, Option<usize>>,
    /// Whether the first row, of a file without names, waits to be taken.
    waits: bool,
}

impl<R: Read> Cells<R> {
    /// Reads the names of the columns.
    pub(super) fn new(bytes: R, name: &str, csv: &Csv) -> Result<Self, DataError> {
        let reader = ::csv::ReaderBuilder::new()
            .has_headers(false)
            .delimiter(csv.delimiter)
            .trim(::csv::Trim::All)
            .from_reader(Quotes::new(bytes, csv.delimiter));
        let (record, name) = (::csv::StringRecord::new(), name.to_owned());
        let (names, places) = (Vec::new(), HashMap::new());
        let mut cells = Cells { reader, record, name, names, places, waits: false };
        let is_there = cells.next()?;
        if !is_there {
            return Err(cells.malformed("a row of cells".to_owned(), "nothing".to_owned()));
        }
        cells.waits = !csv.has_names;
        cells.names = match csv.has_names {
            true => cells.record.iter().map(str::to_owned).collect(),
            false => (1..=cells.record.len()).map(|k| k.to_string()).collect(),
        };
        for (at, name) in cells.names.iter().enumerate() {
            cells.places.entry(name.clone()).and_modify(|place| *place = None).or_insert(Some(at));
        }
        Ok(cells)
    }

    /// What errors call the file.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Goes to the next row, if there is one.
    pub(super) fn next(&mut self) -> Result<bool, DataError> {
        if std::mem::take(&mut self.waits) {
            return Ok(true);
        }
        let is_there = self.reader.read_record(&mut self.record);
        if self.reader.get_ref().is_open() {
            let required = "a second quote behind one that begins a cell".to_owned();
            let got = format!("the end of the file, in the row that begins in line {}", self.position().1);
            return Err(self.malformed(required, got));
        }
        is_there.map_err(|error| from_csv(&self.name, error))
    }

    /// Where the row begins: byte, line.
    pub(super) fn position(&self) -> (u64, u64) {
        self.record.position().map_or((0, 0), |position| (position.byte(), position.line()))
    }

    /// A cell of the row.
    pub(super) fn cell(&self, at: usize) -> Result<&str, DataError> {
        self.record.get(at).ok_or_else(|| self.malformed(format!("{} cells", self.names.len()), "fewer".to_owned()))
    }

    /// The place of a column.
    pub(super) fn place_of(&self, column: &str) -> Result<usize, DataError> {
        let mismatch = |got: String| DataError::Mismatch {
            of: self.name.clone(),
            required: format!("one column `{column}`"),
            got,
            fix: "the first row has the names of the columns; take one of them".to_owned(),
        };
        let place = self.places.get(column).ok_or_else(|| {
            const MOST: usize = 20;
            let known: Vec<&str> = self.names.iter().take(MOST).map(String::as_str).collect();
            let more = if self.names.len() > MOST { ", ..." } else { "" };
            mismatch(format!("columns {}{more}", known.join(", ")))
        })?;
        place.ok_or_else(|| mismatch("two of that name".to_owned()))
    }

    /// Whether the row has a missing value for which rows are left out.
    pub(super) fn is_left_out(&self, csv: &Csv) -> Result<bool, DataError> {
        for column in csv.columns().filter(|column| column.missing == Missing::Row) {
            if csv.is_missing(self.cell(self.place_of(&column.name)?)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The places of all columns that are read.
    pub(super) fn places(&self, csv: &Csv) -> Result<Vec<usize>, DataError> {
        csv.columns().map(|column| self.place_of(&column.name)).collect()
    }

    fn malformed(&self, required: String, got: String) -> DataError {
        DataError::Malformed {
            name: self.name.clone(),
            part: "row",
            required,
            got,
            fix: "correct the file, or read it another way".to_owned(),
        }
    }

    /// The error of a cell.
    pub(super) fn error(&self, at: usize, (required, got): Wrong) -> DataError {
        DataError::Malformed {
            name: self.name.clone(),
            part: "cell",
            required,
            got: format!("{got} in line {}, column `{}`", self.position().1, self.names[at]),
            fix: "correct the cell, or say of the column what it has".to_owned(),
        }
    }
}

impl<R: Read + std::io::Seek> Cells<R> {
    /// Goes to a row that begins at a byte.
    pub(super) fn seek(&mut self, (byte, line): (u64, u64)) -> Result<(), DataError> {
        let mut position = ::csv::Position::new();
        position.set_byte(byte).set_line(line);
        self.waits = false;
        self.reader.seek(position).map_err(|error| from_csv(&self.name, error))?;
        match self.next()? {
            true => Ok(()),
            false => Err(self.malformed("the rows that it had when it was opened".to_owned(), "fewer".to_owned())),
        }
    }
}

/// What the parser says of a file.
fn from_csv(name: &str, error: ::csv::Error) -> DataError {
    let at = error.position().map_or(String::new(), |position| format!(" in line {}", position.line()));
    let malformed = |required: String, got: String, fix: &str| DataError::Malformed {
        name: name.to_owned(),
        part: "row",
        required,
        got,
        fix: fix.to_owned(),
    };
    match error.into_kind() {
        ::csv::ErrorKind::Io(source) => DataError::io(std::path::Path::new(name), "read", source),
        ::csv::ErrorKind::Utf8 { err, .. } => malformed(
            "UTF-8".to_owned(),
            format!("other bytes in cell {}{at}", err.field() + 1),
            "save the file as UTF-8",
        ),
        ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => malformed(
            format!("{expected_len} cells, as the first row has"),
            format!("{len}{at}"),
            "look for a delimiter inside of a cell, which then needs quotes, or a row that is cut off",
        ),
        other => malformed("rows of cells".to_owned(), format!("{other:?}"), "look at the file"),
    }
}

/// What is learned of a column.
#[derive(Default)]
pub(super) struct Learner {
    counts: HashMap<String, u64>,
    sum: f64,
    n: u64,
}

impl Learner {
    pub(super) fn learn(
        &mut self,
        column: &Column,
        cell: &str,
        is_missing: impl Fn(&str) -> bool,
    ) -> Result<(), Wrong> {
        if is_missing(cell) {
            match column.missing {
                Missing::Refuse => return Err(no_value(column)),
                Missing::Category => self.count(""),
                _ => {}
            }
            return Ok(());
        }
        match column.kind {
            Kind::Number | Kind::Integer => {
                self.sum += f64::from(number(cell)?);
                self.n += 1;
            }
            Kind::Category | Kind::OneHot => self.count(cell),
            Kind::Text { unit, .. } => unit.split(cell).iter().for_each(|part| self.count(part)),
        }
        Ok(())
    }

    fn count(&mut self, name: &str) {
        match self.counts.get_mut(name) {
            Some(n) => *n += 1,
            None => drop(self.counts.insert(name.to_owned(), 1)),
        }
    }

    /// Gives a column what was learned.
    pub(super) fn give(self, column: &mut Column, file: &str) -> Result<(), DataError> {
        if !column.has_names() {
            if self.n == 0 {
                return Err(DataError::Malformed {
                    name: file.to_owned(),
                    part: "column",
                    required: format!("at least one number in column `{}`, to take the mean of", column.name),
                    got: "missing values only".to_owned(),
                    fix: "leave the column out, or say which number stands for missing ones".to_owned(),
                });
            }
            column.mean = Some((self.sum / self.n as f64) as f32);
            return Ok(());
        }
        let mut names: Vec<(String, u64)> = self.counts.into_iter().collect();
        if column.most > 0 && names.len() > column.most {
            names.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            names.truncate(column.most);
        }
        let mut names: Vec<String> = names.into_iter().map(|(name, _)| name).collect();
        // Numbers by size, and before all texts.
        let key = |name: &String| name.parse::<f64>().ok().filter(|value| value.is_finite());
        names.sort_unstable_by(|a, b| match (key(a), key(b)) {
            (Some(x), Some(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
            (x, y) => y.is_some().cmp(&x.is_some()).then_with(|| a.cmp(b)),
        });
        let vocabulary = Vocabulary::new(names)?;
        column.vocabulary = Some(if column.unknown { vocabulary.with_unknown() } else { vocabulary });
        Ok(())
    }
}

fn no_value(column: &Column) -> Wrong {
    let ways = match column.kind {
        Kind::Number => "`Missing::Mean`, `Missing::Value` and `Missing::Row` are ways with missing ones",
        Kind::Category | Kind::OneHot => "`Missing::Category` and `Missing::Row` are ways with missing ones",
        _ => "`Missing::Row` is a way with missing ones",
    };
    (format!("a value ({ways})"), "none".to_owned())
}

fn number(cell: &str) -> Result<f32, Wrong> {
    let value = cell.parse::<f32>().ok().filter(|value| value.is_finite());
    value.ok_or_else(|| ("a finite number".to_owned(), shown(cell)))
}

/// What the rows become, field by field.
pub(super) struct Buffers(Vec<Buffer>);

enum Buffer {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Buffers {
    pub(super) fn new(csv: &Csv) -> Self {
        let buffer = |dtype: DType| if dtype == DType::F32 { Buffer::F32(Vec::new()) } else { Buffer::I64(Vec::new()) };
        Buffers(csv.fields.iter().map(|made| buffer(made.field().dtype)).collect())
    }

    /// Adds the row under way, and says whether it was not left out. `places` are those of all columns.
    pub(super) fn push<R: Read>(&mut self, csv: &Csv, places: &[usize], cells: &Cells<R>) -> Result<bool, DataError> {
        if cells.is_left_out(csv)? {
            return Ok(false);
        }
        let mut places = places.iter();
        for (made, buffer) in csv.fields.iter().zip(&mut self.0) {
            for (column, &at) in made.columns.iter().zip(&mut places) {
                let cell = cells.cell(at)?;
                buffer.push(column, cell, csv.is_missing(cell)).map_err(|wrong| cells.error(at, wrong))?;
            }
        }
        Ok(true)
    }

    /// The first number of the last row of a field.
    pub(super) fn last_of(&self, field: usize) -> f64 {
        match &self.0[field] {
            Buffer::F32(values) => values.last().copied().map_or(0.0, f64::from),
            Buffer::I64(values) => values.last().copied().map_or(0.0, |id| id as f64),
        }
    }

    /// Forgets the rows.
    pub(super) fn clear(&mut self) {
        self.0.iter_mut().for_each(|buffer| match buffer {
            Buffer::F32(values) => values.clear(),
            Buffer::I64(values) => values.clear(),
        });
    }

    /// The rows as tensors.
    pub(super) fn take(self, fields: &[Field]) -> Vec<TensorData> {
        let tensor = |(buffer, field): (Buffer, &Field)| {
            let row: usize = field.shape.iter().product();
            let rows = |n: usize| -> Vec<usize> {
                [n.checked_div(row).unwrap_or(0)].into_iter().chain(field.shape.iter().copied()).collect()
            };
            const INVARIANT: &str = "rows were pushed whole";
            match buffer {
                Buffer::F32(v) => ArrayD::from_shape_vec(IxDyn(&rows(v.len())), v).expect(INVARIANT).into(),
                Buffer::I64(v) => ArrayD::from_shape_vec(IxDyn(&rows(v.len())), v).expect(INVARIANT).into(),
            }
        };
        self.0.into_iter().zip(fields).map(tensor).collect()
    }
}

impl Buffer {
    fn push(&mut self, column: &Column, cell: &str, is_missing: bool) -> Result<(), Wrong> {
        if is_missing && matches!(column.missing, Missing::Refuse | Missing::Row) {
            return Err(no_value(column));
        }
        let id = |name: &str| {
            let names = column.vocabulary.as_ref();
            names.and_then(|names| names.id(name)).ok_or_else(|| {
                let n = names.map_or(0, |names| names.entries().len());
                let known = names.iter().flat_map(|names| names.entries()).take(6).map(|name| shown(name));
                let more = if n > 6 { ", ..." } else { "" };
                let known = known.collect::<Vec<_>>().join(", ");
                (format!("one of the {n} names that the training file has ({known}{more})"), shown(name))
            })
        };
        match (self, &column.kind) {
            (Buffer::F32(values), Kind::Number) => values.push(match (is_missing, column.missing) {
                (true, Missing::Value(value)) => value,
                (true, _) => column.mean.unwrap_or_default(),
                (false, _) => number(cell)?,
            }),
            (Buffer::F32(values), Kind::OneHot) => {
                let id = id(if is_missing { "" } else { cell })?;
                values.extend((0..column.width()).map(|k| f32::from(u8::from(k == id))));
            }
            (Buffer::I64(values), Kind::Category) => values.push(id(if is_missing { "" } else { cell })? as i64),
            (Buffer::I64(values), Kind::Integer) => {
                values.push(cell.parse::<i64>().map_err(|_| ("a whole number".to_owned(), shown(cell)))?);
            }
            (Buffer::I64(values), Kind::Text { unit, length }) => {
                let end = column.vocabulary.as_ref().map_or(0, Vocabulary::len) as i64;
                let ids: Vec<i64> = unit
                    .split(cell)
                    .iter()
                    .take(*length)
                    .map(|part| Ok(id(part)? as i64))
                    .collect::<Result<_, Wrong>>()?;
                values.extend(ids.into_iter().chain(std::iter::repeat(end)).take(*length));
            }
            // A field has columns of one element type.
            _ => return Err(("columns of one element type".to_owned(), "several".to_owned())),
        }
        Ok(())
    }
}
