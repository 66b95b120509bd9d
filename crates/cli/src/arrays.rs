//! Between archives of arrays (`.npz`) and tensors.
//!
//! Assumes archives that fit into memory, as the reader does. Promises: every element type that a graph can have is read
//! and written without a change of bits; `-` is the standard input.

use std::collections::BTreeMap;
use std::io::{self, Read};

use cotangent::data::npz::{NpzArray, parse_npz, read_npz, write_npz};
use cotangent::graph::TensorData;

use crate::Failure;

/// The arrays of an archive by name.
pub(crate) fn read(path: &str) -> Result<BTreeMap<String, TensorData>, Failure> {
    let arrays = if path == "-" {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(|error| Failure::Error(format!("could not read the standard input: {error}")))?;
        parse_npz(&bytes, "<stdin>")
    } else {
        read_npz(path)
    };
    Ok(arrays.map_err(Failure::error)?.into_iter().map(|(name, array)| (name, tensor(array))).collect())
}

/// Writes an archive; a file that is there is replaced when all is written.
pub(crate) fn write(path: &str, tensors: BTreeMap<String, TensorData>) -> Result<(), Failure> {
    let arrays = tensors.into_iter().map(|(name, tensor)| (name, array(tensor))).collect();
    write_npz(path, &arrays).map_err(Failure::error)
}

fn tensor(array: NpzArray) -> TensorData {
    // By way of `From`, which puts arrays in Fortran order into row-major order.
    match array {
        NpzArray::F32(array) => array.into(),
        NpzArray::F64(array) => array.into(),
        NpzArray::I32(array) => array.into(),
        NpzArray::I64(array) => array.into(),
        NpzArray::U8(array) => array.into(),
        NpzArray::Bool(array) => array.into(),
    }
}

fn array(tensor: TensorData) -> NpzArray {
    match tensor {
        TensorData::F32(array) => NpzArray::F32(array),
        TensorData::F64(array) => NpzArray::F64(array),
        TensorData::I32(array) => NpzArray::I32(array),
        TensorData::I64(array) => NpzArray::I64(array),
        TensorData::U8(array) => NpzArray::U8(array),
        TensorData::Bool(array) => NpzArray::Bool(array),
    }
}

/// The first elements as text.
pub(crate) fn preview(tensor: &TensorData) -> String {
    const SHOWN: usize = 6;
    let n = tensor.shape().n_elements();
    let mut items: Vec<String> = match tensor {
        TensorData::F32(array) => array.iter().take(SHOWN).map(|v| format!("{v:?}")).collect(),
        TensorData::F64(array) => array.iter().take(SHOWN).map(|v| format!("{v:?}")).collect(),
        TensorData::I32(array) => array.iter().take(SHOWN).map(ToString::to_string).collect(),
        TensorData::I64(array) => array.iter().take(SHOWN).map(ToString::to_string).collect(),
        TensorData::U8(array) => array.iter().take(SHOWN).map(ToString::to_string).collect(),
        TensorData::Bool(array) => array.iter().take(SHOWN).map(ToString::to_string).collect(),
    };
    if n > SHOWN {
        items.push("…".to_owned());
    }
    items.join(" ")
}
