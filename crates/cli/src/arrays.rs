//! Between archives of arrays (`.npz`) and tensors.
//!
//! Assumes arrays that fit into memory, as the reader does. Promises: every element type that a graph can have is read
//! and written without a change of bits; only arrays that are asked for are expanded; `-` is the standard input, and a path
//! may name a pipe.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Seek};
use std::path::Path;

use cotangent::data::npz::Npz;
use cotangent::data::reading::{Kind, read_file_or_pipe, read_stream};
use cotangent::data::{DataError, ReadLimits};
use cotangent::graph::TensorData;

use crate::Failure;
use crate::program::STDIN;

/// What was read of an archive.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// The arrays asked for, by name.
    pub(crate) arrays: BTreeMap<String, TensorData>,
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
