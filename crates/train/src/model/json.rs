//! Rows and answers as JSON: what a server takes and gives.
//!
//! Promises: numbers of f32 go out as the shortest text that reads back to the same bits; hostile text is an error.

use std::collections::{BTreeMap, BTreeSet};

use cotangent_data::{Field, Table};
use cotangent_graph::{Shape, TensorData, with_array};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Form, Interface, PROBABILITIES};
use crate::TrainError;

/// Answers for rows: a label each, if the model has labels, and every output, a list of numbers a row.
#[derive(Serialize)]
struct Answers<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<&'a str>,
    #[serde(flatten)]
    outputs: BTreeMap<&'a str, Rows<'a>>,
}

/// The rows of a tensor, each a flat list.
struct Rows<'a>(&'a TensorData);

impl Serialize for Rows<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shape = self.0.shape();
        let n_rows = shape.first().copied().unwrap_or(0);
        let length = shape.n_elements().checked_div(n_rows).unwrap_or(0);
        with_array!(self.0, a => {
            let all: Vec<_> = a.iter().copied().collect();
            serializer.collect_seq((0..n_rows).map(|row| &all[row * length..(row + 1) * length]))
        })
    }
}

impl Interface {
    /// The place of the most probable label of each row.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if these are not outputs of a model with labels.
    pub fn answers(&self, outputs: &BTreeMap<String, TensorData>) -> Result<Vec<usize>, TrainError> {
        let probabilities = outputs.get(PROBABILITIES).map(|tensor| (tensor.shape(), tensor.to_f64()));
        let (Some((shape, values)), false) = (probabilities, self.labels().is_empty()) else {
            let required = format!("an output `{PROBABILITIES}`, as models with labels have");
            return Err(TrainError::invalid("outputs", required, format!("{:?}", outputs.keys())));
        };
        let n = shape.get(1).copied().unwrap_or(1).max(1);
        // The first of equal ones.
        let largest = |row: &[f64]| (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
        Ok(values.chunks(n).map(largest).collect())
    }

    /// Outputs as JSON: `{"labels": ["7"], "outputs": [[0.1, 2.5]], "probabilities": [[0.08, 0.92]]}`, a flat list for each row.
    ///
    /// # Errors
    /// As [`Interface::answers`], of a model with labels.
    pub fn to_json(&self, outputs: &BTreeMap<String, TensorData>) -> Result<String, TrainError> {
        let labels = match self.labels() {
            [] => Vec::new(),
            labels => self.answers(outputs)?.into_iter().map(|at| labels[at].as_str()).collect(),
        };
        let outputs = outputs.iter().map(|(name, tensor)| (name.as_str(), Rows(tensor))).collect();
        serde_json::to_string(&Answers { labels, outputs })
            .map_err(|error| TrainError::invalid("outputs", "what JSON can hold", error))
    }

    /// Rows for this model from JSON: an object with a list of rows for each field, `{"x": [[0.1, 0.2], [0.3, 0.4]]}`, nested as
    /// deep as the shape of a row or flat; of a [table](Form::Table) one with its rows, `{"rows": [{"age": 41, "city": "Oslo"}]}`.
    ///
    /// # Errors
    /// [`TrainError`] with the field and the row that is wrong.
    pub fn rows_of_json(&self, text: &[u8]) -> Result<Table, TrainError> {
        let names: Vec<&str> = match self.form() {
            Form::Table(_) => vec!["rows"],
            Form::Arrays | Form::Pictures => self.fields().iter().map(|field| field.name.as_str()).collect(),
        };
        let wrong = |got: String| TrainError::invalid("request", format!("a JSON object with {names:?}"), got);
        let object: Map<String, Value> = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
        if let Some(other) = object.keys().find(|key| !names.contains(&key.as_str())) {
            return Err(wrong(format!("{other:?} as well")));
        }
        let rows = |name: &str| {
            let rows = object.get(name).and_then(Value::as_array);
            rows.ok_or_else(|| wrong(format!("no list {name:?}")))
        };
        if let Form::Table(reader) = self.form() {
            return Ok(reader.read_bytes(csv_of(rows("rows")?)?.as_bytes(), "request")?);
        }
        self.fields()
            .iter()
            .try_fold(Table::new(), |table, field| Ok(table.with(&field.name, tensor(field, rows(&field.name)?)?)?))
    }
}

/// Objects as a table of text; what an object has not is an empty cell.
fn csv_of(rows: &[Value]) -> Result<String, TrainError> {
    let wrong = |at: usize, got: &str| {
        TrainError::invalid(format!("row {at} of the request"), "an object of numbers and texts", got)
    };
    let objects = rows.iter().enumerate().map(|(at, row)| row.as_object().ok_or_else(|| wrong(at, "something else")));
    let objects: Vec<&Map<String, Value>> = objects.collect::<Result<_, _>>()?;
    let names: BTreeSet<&String> = objects.iter().flat_map(|object| object.keys()).collect();
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let line = |cells: Vec<String>| cells.join(",") + "\n";
    let mut csv = line(names.iter().map(|name| quoted(name)).collect());
    for (at, object) in objects.into_iter().enumerate() {
        let cell = |name: &&String| match object.get(*name) {
            None | Some(Value::Null) => Ok(quoted("")),
            Some(Value::String(text)) => Ok(quoted(text)),
            Some(Value::Number(number)) => Ok(quoted(&number.to_string())),
            Some(Value::Bool(truth)) => Ok(quoted(&truth.to_string())),
            Some(_) => Err(wrong(at, "a list or an object in it")),
        };
        csv += &line(names.iter().map(cell).collect::<Result<_, _>>()?);
    }
    Ok(csv)
}

/// A tensor of rows.
fn tensor(field: &Field, rows: &[Value]) -> Result<TensorData, TrainError> {
    let length: usize = field.shape.iter().product();
    let mut values = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let of = || format!("row {at} of `{}`", field.name);
        let before = values.len();
        flatten(row, &mut values, field.shape.len().max(1))
            .map_err(|got| TrainError::invalid(of(), format!("{} of shape {:?}", field.dtype, field.shape), got))?;
        let n = values.len() - before;
        if n != length {
            let required = format!("{length} numbers, a row of shape {:?}", field.shape);
            return Err(TrainError::invalid(of(), required, n));
        }
        if let Some(wrong) = values[before..].iter().find(|value| !field.dtype.holds(**value)) {
            return Err(TrainError::invalid(of(), field.dtype.held(), wrong));
        }
    }
    let shape: Shape = [rows.len()].into_iter().chain(field.shape.iter().copied()).collect();
    let bits: Vec<u64> = values.into_iter().map(|value| field.dtype.bits_of_f64(value)).collect();
    Ok(TensorData::from_bits(field.dtype, &shape, &bits))
}

/// The numbers of lists in lists, at most so deep.
fn flatten(value: &Value, into: &mut Vec<f64>, depth: usize) -> Result<(), String> {
    match value {
        Value::Number(number) => into.extend(number.as_f64()),
        Value::Bool(truth) => into.push(f64::from(u8::from(*truth))),
        Value::Array(rows) if depth > 0 => rows.iter().try_for_each(|row| flatten(row, into, depth - 1))?,
        Value::Array(_) => return Err("lists that nest deeper".to_owned()),
        Value::Null => return Err("null".to_owned()),
        Value::String(_) => return Err("a text".to_owned()),
        Value::Object(_) => return Err("an object".to_owned()),
    }
    Ok(())
}
