//! A file whose rows are read when a batch needs them.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use cotangent_graph::TensorData;
use cotangent_host::float::in_default;

use super::CsvReader;
use super::cells::{Buffers, Cells};
use crate::DataError;
use crate::batches::{Order, places_in_epoch};
use crate::reading::open;
use crate::table::{Examples, Field, check_places};

/// The rows of a file that need not fit into memory: sixteen bytes are kept for each, and eight for its label. They are the
/// same, in the same order, as those that [`CsvReader::read`] reads.
pub struct CsvRows {
    reader: CsvReader,
    path: PathBuf,
    cells: Mutex<Cells<File>>,
    /// The places of the columns in the file.
    places: Vec<usize>,
    /// Byte and line of each row that is not left out.
    rows: Vec<(u64, u64)>,
    labels: Option<Vec<f64>>,
    /// The file as it was opened.
    stamp: (u64, Option<SystemTime>),
}

impl std::fmt::Debug for CsvRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CsvRows({} rows of {})", self.rows.len(), self.path.display())
    }
}

fn stamp(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

impl CsvRows {
    pub(super) fn new(reader: CsvReader, path: &Path) -> Result<Self, DataError> {
        let (file, _) = open(path)?;
        let metadata = file.metadata().map_err(|source| DataError::io(path, "read", source))?;
        let mut cells = Cells::new(file, &path.display().to_string(), &reader.csv)?;
        let places = cells.places(&reader.csv)?;
        let mut buffers = Buffers::new(&reader.csv);
        let by = reader.csv.labels.as_ref().and_then(|name| reader.csv.fields.iter().position(|f| f.name == *name));
        let (mut rows, mut labels) = (Vec::new(), by.map(|_| Vec::new()));
        in_default(|| {
            while cells.next()? {
                buffers.clear();
                if buffers.push(&reader.csv, &places, &cells)? {
                    rows.push(cells.position());
                    if let (Some(labels), Some(by)) = (&mut labels, by) {
                        labels.push(buffers.last_of(by));
                    }
                }
            }
            Ok::<(), DataError>(())
        })?;
        let (path, stamp) = (path.to_owned(), stamp(&metadata));
        Ok(CsvRows { reader, path, cells: Mutex::new(cells), places, rows, labels, stamp })
    }

    /// That the file is still the one that was opened.
    fn check(&self) -> Result<(), DataError> {
        let metadata = std::fs::metadata(&self.path).map_err(|source| DataError::io(&self.path, "read", source))?;
        if stamp(&metadata) == self.stamp {
            return Ok(());
        }
        Err(DataError::Malformed {
            name: self.path.display().to_string(),
            part: "file",
            required: "a file that does not change while it is read".to_owned(),
            got: "one that was changed since it was opened".to_owned(),
            fix: "open it again".to_owned(),
        })
    }
}

impl Examples for CsvRows {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn fields(&self) -> Vec<Field> {
        self.reader.fields()
    }

    fn places(&self, order: Order, seed: u64, epoch: u64) -> Result<Vec<usize>, DataError> {
        match &self.labels {
            Some(labels) => Ok(places_in_epoch(order, labels, seed, epoch)),
            None => {
                order.without_labels("a file whose columns name none (`Csv::labels`)")?;
                Ok(places_in_epoch(order, &vec![0u8; self.len()], seed, epoch))
            }
        }
    }

    fn gather(&self, _epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        check_places(places, self.len())?;
        self.check()?;
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = Buffers::new(&self.reader.csv);
        in_default(|| {
            for &place in places {
                cells.seek(self.rows[place])?;
                buffers.push(&self.reader.csv, &self.places, &cells)?;
            }
            Ok::<(), DataError>(())
        })?;
        batch.clear();
        batch.extend(buffers.take(&self.fields()));
        Ok(())
    }

    fn is_slow(&self) -> bool {
        true
    }
}
