//! Between archives of arrays (`.npz`) and tensors.
//!
//! Assumes arrays that fit into memory, as the reader does. Promises: every element type that a graph can have is read
//! and written without a change of bits; only arrays that are asked for are expanded; `-` is the standard input, and a path
//! may name a pipe.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Seek};
use std::path::Path;

use cotangent::data::npz::{Npz, NpzArray, write_npz};
use cotangent::data::reading::{Kind, read_file_or_pipe, read_stream};
use cotangent::data::{DataError, ReadLimits};
use cotangent::graph::TensorData;

use crate::Failure;
use crate::program::STDIN;

/// What was read of an archive.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// The arrays asked for, by name.
    pub(crate) arrays: BTreeMap<String, NpzArray>,
    /// The names of the others.
    pub(crate) others: BTreeSet<String>,
}

/// The arrays of an archive that are asked for.
pub(crate) fn read(path: &str, limits: ReadLimits, is_wanted: impl Fn(&str) -> bool) -> Result<Given, Failure> {
    fn given<R: BufRead + Seek>(
        npz: Npz<R>,
        limits: ReadLimits,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Given, DataError> {
        let mut npz = npz.limits(limits);
        let others = npz.names().filter(|name| !is_wanted(name)).map(str::to_owned).collect();
        Ok(Given { arrays: npz.arrays(is_wanted)?, others })
    }
    let is_pipe = |path: &str| std::fs::metadata(path).is_ok_and(|metadata| Kind::of(&metadata) == Kind::Pipe);
    let read = if path == "-" {
        let bytes = read_stream(io::stdin().lock(), limits, STDIN);
        bytes.and_then(|bytes| given(Npz::of_bytes(&bytes, STDIN)?, limits, is_wanted))
    } else if is_pipe(path) {
        let bytes = read_file_or_pipe(Path::new(path), limits);
        bytes.and_then(|bytes| given(Npz::of_bytes(&bytes, path)?, limits, is_wanted))
    } else {
        Npz::open(path).and_then(|npz| given(npz, limits, is_wanted))
    };
    read.map_err(Failure::error)
}

/// Writes an archive: a file when all is written, a device or a pipe as it is.
pub(crate) fn write(path: &str, tensors: BTreeMap<String, TensorData>) -> Result<(), Failure> {
    let arrays = tensors.into_iter().map(|(name, tensor)| (name, array(tensor))).collect();
    write_npz(path, &arrays).map_err(Failure::written)
}

/// An array as a tensor.
pub(crate) fn tensor(array: NpzArray) -> TensorData {
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
