//! Rows for a model from files of any kind that trainings read.

use std::path::{Path, PathBuf};

use cotangent_data::idx::read_idx;
use cotangent_data::images::read_image;
use cotangent_data::npz::read_npz;
use cotangent_data::reading::read_file_or_pipe;
use cotangent_data::{Examples, ReadLimits, Table};
use cotangent_graph::{DType, TensorData};
use cotangent_train::model::Form;
use cotangent_train::{Model, TrainError};
use ndarray::{ArrayD, Axis, IxDyn};

/// Rows, and what each is called.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The fields that the model asks for.
    pub table: Table,
    /// The files of pictures, or numbers from 0 on.
    pub names: Vec<String>,
}

/// Reads rows for a model: of a table `.csv`; of any model `.json` (an object as [`Interface::rows_of_json`](cotangent_train::model::Interface::rows_of_json) takes it), `.npz` (an
/// array for each field) or, of the one field `x`, IDX; of pictures `.png`, `.jpg`, or a folder of them, which may be in folders by
/// their class.
///
/// # Errors
/// What is wrong with the file, or which rows the model asks for instead.
pub fn rows(model: &Model, path: &Path) -> Result<Rows, TrainError> {
    let rows = read(model, path)?;
    if rows.names.is_empty() {
        return Err(TrainError::Invalid {
            of: path.display().to_string(),
            required: "at least one row".to_owned(),
            got: "none".to_owned(),
        });
    }
    for field in model.fields() {
        let values = match rows.table.get(&field.name) {
            Some(TensorData::F32(values)) => values.iter().position(|v| !v.is_finite()),
            Some(TensorData::F64(values)) => values.iter().position(|v| !v.is_finite()),
            _ => None,
        };
        if let Some(at) = values {
            let length = field.shape.iter().product::<usize>().max(1);
            let row = rows.names.get(at / length).cloned().unwrap_or_default();
            return Err(TrainError::Invalid {
                of: path.display().to_string(),
                required: "finite numbers".to_owned(),
                got: format!("NaN or an infinity in row {row}, number {} of `{}`", at % length, field.name),
            });
        }
    }
    Ok(rows)
}

fn read(model: &Model, path: &Path) -> Result<Rows, TrainError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_lowercase();
    let refuse = |required: &str| {
        let got = if path.is_dir() { "a folder".to_owned() } else { format!("a file .{extension}") };
        Err(TrainError::Invalid { of: path.display().to_string(), required: required.to_owned(), got })
    };
    let numbered = |table: Table| Rows { names: (0..table.len()).map(|row| row.to_string()).collect(), table };
    match (extension.as_str(), model.form()) {
        _ if path.is_dir() => match model.form() {
            Form::Pictures => pictures(model, files(path, &mut Vec::new())?),
            _ => refuse("a file, as this model is none of pictures"),
        },
        ("png" | "jpg" | "jpeg", Form::Pictures) => pictures(model, vec![path.to_owned()]),
        ("png" | "jpg" | "jpeg", _) => refuse("rows of numbers, as this model is none of pictures"),
        ("csv", Form::Table(reader)) => Ok(numbered(reader.read(path)?)),
        ("csv", _) => refuse("a file .json, .npz or IDX, as this model is none of a table of text"),
        ("json", _) => Ok(numbered(model.interface().rows_of_json(&read_file_or_pipe(path, ReadLimits::default())?)?)),
        ("npz", _) => {
            let mut arrays = read_npz(path)?;
            let mut table = Table::new();
            for field in model.fields() {
                if let Some(array) = arrays.remove(&field.name) {
                    table = table.with(&field.name, converted(array, field.dtype))?;
                }
            }
            Ok(numbered(table))
        }
        _ => {
            let features: ArrayD<f32> = match read_idx(path)? {
                TensorData::U8(bytes) => bytes.mapv(|byte| f32::from(byte) / 255.0),
                TensorData::F32(a) => a.into_owned(),
                other => return refuse(&format!("IDX of bytes or f32, not {}", other.dtype())),
            };
            Ok(numbered(Table::new().with("x", features)?))
        }
    }
}

/// An array as trainings take it: bytes for a field of f32 are shares of 255, f64 is rounded.
fn converted(array: TensorData, dtype: DType) -> TensorData {
    match array {
        TensorData::U8(a) if dtype == DType::F32 => a.mapv(|v| f32::from(v) / 255.0).into(),
        TensorData::F64(a) if dtype == DType::F32 => a.mapv(|v| v as f32).into(),
        other => other,
    }
}

/// The pictures in a folder and in the folders in it, by name. `inside` are the folders that it is in.
fn files(folder: &Path, inside: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, TrainError> {
    let io = |source: std::io::Error| {
        TrainError::Data(cotangent_data::DataError::Io { path: folder.to_owned(), action: "read", source })
    };
    // A link may lead back to a folder that it is in.
    let own = folder.canonicalize().map_err(io)?;
    if inside.contains(&own) {
        let got = "a link back to a folder that it is in".to_owned();
        return Err(TrainError::Invalid {
            of: folder.display().to_string(),
            required: "a folder of pictures".to_owned(),
            got,
        });
    }
    inside.push(own);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if is_hidden {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, inside)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    inside.pop();
    Ok(found)
}

fn pictures(model: &Model, files: Vec<PathBuf>) -> Result<Rows, TrainError> {
    let field = model.fields().iter().find(|field| field.name == "x");
    let shape = match field.map(|field| &field.shape[..]) {
        Some(&[height, width]) => [height, width, 1],
        Some(&[height, width, channels]) => [height, width, channels],
        _ => [0, 0, 0],
    };
    let mut values = Vec::new();
    for file in &files {
        values.extend(read_image(file, shape)?);
    }
    let row = field.map(|field| field.shape.clone()).unwrap_or_default();
    let shape: Vec<usize> = [files.len()].into_iter().chain(row).collect();
    let array = ArrayD::from_shape_vec(IxDyn(&shape), values);
    let array = array.unwrap_or_else(|_| ArrayD::zeros(IxDyn(&[0])));
    debug_assert_eq!(array.len_of(Axis(0)), files.len());
    let names = files.iter().map(|file| file.display().to_string()).collect();
    Ok(Rows { table: Table::new().with("x", array)?, names })
}
