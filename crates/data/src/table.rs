//! Examples with named fields: what batches are taken of, whatever a model asks for.
//!
//! Why it exists: not every example is a row of floats and a label. A model may want token ids and numbers, have several
//! targets, or a label for each pixel. [`Examples`] is all that who takes batches must know: fields with names, orders, and
//! rows at places. A [`Table`] has any fields; a [`Dataset`](crate::Dataset) is the case of two, `x` and `y`.
//!
//! Promises: the order of an epoch is a function of seed and epoch, and what stands in a row is a function of place and epoch.
//!
//! ```
//! use cotangent_data::{Examples, Table};
//! use ndarray::array;
//!
//! # fn main() -> Result<(), cotangent_data::DataError> {
//! let table = Table::new()
//!     .with("words", array![[3i64, 1, 4], [1, 5, 9]])?
//!     .with("price", array![0.5f32, 2.0])?;
//! assert_eq!((table.len(), table.fields().len()), (2, 2));
//! # Ok(())
//! # }
//! ```

use std::mem;

use cotangent_graph::{Element, HostTensor, TensorData, with_array};
use cotangent_scalar::{DType, plain};
use ndarray::{ArrayBase, ArrayD, Axis, Data, IxDyn};

use crate::DataError;
use crate::batches::{Order, places_in_epoch};

/// A field of examples.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The shape of one row.
    pub shape: Vec<usize>,
}

/// Examples that batches are taken of.
pub trait Examples: Sync {
    /// The number of examples.
    fn len(&self) -> usize;

    /// Whether there is no example.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The fields that every example has, in their order.
    fn fields(&self) -> Vec<Field>;

    /// The places of an epoch's examples in an order: as many as there are examples, a function of the arguments.
    ///
    /// # Errors
    /// [`DataError`] for an order that goes by labels where there are none.
    fn places(&self, order: Order, seed: u64, epoch: u64) -> Result<Vec<usize>, DataError>;

    /// Writes the rows at these places into a batch, a tensor `[places, ..]` for each field; its buffers are used again. What
    /// changes from epoch to epoch depends on `epoch`.
    ///
    /// # Errors
    /// [`DataError`] if a row cannot be read or made.
    fn gather(&self, epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError>;

    /// Whether rows take so long to make that a thread makes them ahead of the step.
    fn is_slow(&self) -> bool {
        false
    }
}

/// Examples in memory: named tensors of any element types with as many rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Row-major, each with at least one axis, all of as many rows.
    fields: Vec<(String, TensorData)>,
    /// The field that stratified and balanced orders go by.
    labels: Option<usize>,
}

impl Table {
    /// A table without fields.
    pub fn new() -> Self {
        Table::default()
    }

    /// Adds a field `[n, ..]`.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] for a second field of a name, a name of other characters than letters, digits, `_`, `-` and
    /// `.`, a scalar, or another number of rows than the fields before have.
    pub fn with<'a>(mut self, name: &str, values: impl Into<HostTensor<'a>>) -> Result<Self, DataError> {
        let mismatch = |required: String, got: String| DataError::Mismatch {
            of: format!("field `{}` of a table", plain(name)),
            required,
            got,
            fix: "every field is [n, ..] with the same n, under a name of its own".to_owned(),
        };
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(mismatch("a name of letters, digits, `_`, `-` and `.`".to_owned(), format!("{name:?}")));
        }
        if self.fields.iter().any(|(known, _)| known == name) {
            return Err(mismatch("a name that no field has yet".to_owned(), format!("{name:?} again")));
        }
        let values = values.into().into_owned();
        let Some(&rows) = values.shape().first() else {
            return Err(mismatch("at least one axis".to_owned(), "a scalar".to_owned()));
        };
        if !self.fields.is_empty() && rows != self.len() {
            return Err(mismatch(format!("{} rows, as the fields before have", self.len()), rows.to_string()));
        }
        self.fields.push((name.to_owned(), values));
        Ok(self)
    }

    /// Names the field that [`Order::Stratified`] and [`Order::Balanced`] go by: a number for each example.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if there is no such field `[n]`.
    pub fn labels(mut self, name: &str) -> Result<Self, DataError> {
        let at = self.fields.iter().position(|(known, values)| known == name && values.shape().rank() == 1);
        let Some(at) = at else {
            let known: Vec<&str> = self.fields.iter().map(|(name, _)| name.as_str()).collect();
            return Err(DataError::Mismatch {
                of: "labels of a table".to_owned(),
                required: "the name of a field with one number for each example".to_owned(),
                got: format!("{name:?}; there are {known:?}"),
                fix: "add the field first".to_owned(),
            });
        };
        self.labels = Some(at);
        Ok(self)
    }

    /// All of some examples, as they are in the first epoch.
    ///
    /// # Errors
    /// [`DataError`] if a row cannot be read or made.
    pub fn of(set: &dyn Examples) -> Result<Self, DataError> {
        let places: Vec<usize> = (0..set.len()).collect();
        let mut rows = Vec::new();
        set.gather(0, &places, &mut rows)?;
        set.fields().into_iter().zip(rows).try_fold(Table::new(), |table, (field, rows)| table.with(&field.name, rows))
    }

    /// A field's values, `[n, ..]`.
    pub fn get(&self, name: &str) -> Option<&TensorData> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, values)| values)
    }

    /// A copy of the examples at these places, in their order; a place may come several times.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] for a place that the table has not.
    pub fn select(&self, places: &[usize]) -> Result<Self, DataError> {
        let mut rows = Vec::new();
        self.gather(0, places, &mut rows)?;
        let fields = self.fields.iter().map(|(name, _)| name.clone()).zip(rows).collect();
        Ok(Table { fields, labels: self.labels })
    }
}

impl Examples for Table {
    fn len(&self) -> usize {
        self.fields.first().map_or(0, |(_, values)| values.shape()[0])
    }

    fn fields(&self) -> Vec<Field> {
        let field = |(name, values): &(String, TensorData)| Field {
            name: name.clone(),
            dtype: values.dtype(),
            shape: values.shape()[1..].to_vec(),
        };
        self.fields.iter().map(field).collect()
    }

    fn places(&self, order: Order, seed: u64, epoch: u64) -> Result<Vec<usize>, DataError> {
        let labels = match self.labels {
            Some(at) => self.fields[at].1.to_f64(),
            None => {
                order.without_labels("a table that names none (`Table::labels`)")?;
                vec![0.0; self.len()]
            }
        };
        Ok(places_in_epoch(order, &labels, seed, epoch))
    }

    fn gather(&self, _epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        check_places(places, self.len())?;
        batch.resize_with(self.fields.len(), nothing);
        for ((_, from), to) in self.fields.iter().zip(batch) {
            gather_rows(from, places, to);
        }
        Ok(())
    }
}

/// A tensor of no elements, to be replaced.
pub(crate) fn nothing() -> TensorData {
    Vec::<u8>::new().into()
}

/// That there are examples at all of these places.
pub(crate) fn check_places(places: &[usize], n: usize) -> Result<(), DataError> {
    places.iter().find(|&&place| place >= n).map_or(Ok(()), |place| {
        Err(DataError::Mismatch {
            of: "selection".to_owned(),
            required: format!("places below {n}"),
            got: place.to_string(),
            fix: "select among the examples of the set".to_owned(),
        })
    })
}

/// Copies rows into a tensor, whose buffer is used again if it is of the same element type.
fn gather_rows(from: &TensorData, places: &[usize], to: &mut TensorData) {
    macro_rules! each {
        ($($variant:ident),*) => {
            match from {
                $(TensorData::$variant(rows) => {
                    let old = match mem::replace(to, nothing()) {
                        TensorData::$variant(old) => old.into_owned().into_raw_vec_and_offset().0,
                        _ => Vec::new(),
                    };
                    *to = rows_at(rows, places, old).into();
                })*
            }
        };
    }
    each!(F32, F64, I32, I64, U8, Bool);
}

/// The rows at these places, in a buffer.
pub(crate) fn rows_at<T: Element>(
    from: &ArrayBase<impl Data<Elem = T>, IxDyn>,
    places: &[usize],
    mut buffer: Vec<T>,
) -> ArrayD<T> {
    const INVARIANT: &str = "fields are row-major, and places were checked";
    let mut shape = from.shape().to_vec();
    let row_len: usize = shape[1..].iter().product();
    shape[0] = places.len();
    buffer.clear();
    buffer.reserve(places.len() * row_len);
    let all = from.as_slice().expect(INVARIANT);
    for &place in places {
        buffer.extend_from_slice(&all[place * row_len..(place + 1) * row_len]);
    }
    ArrayD::from_shape_vec(IxDyn(&shape), buffer).expect(INVARIANT)
}

/// The number of rows of a batch.
pub fn n_rows(batch: &[TensorData]) -> usize {
    batch.first().map_or(0, |values| with_array!(values, a => a.len_of(Axis(0))))
}
