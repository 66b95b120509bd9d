//! The safetensors format: named tensors behind a header in JSON, read and written.
//!
//! Why it exists: checkpoints are kept in it, and weights come and go in it between Cotangent and Python. The format is
//! eight bytes of header length (little-endian), the header, and the elements; it is written here rather than by the
//! `safetensors` crate because that one keeps metadata in a hash map, so that equal contents would not give equal files.
//!
//! An [`Archive`] is a file of which only the header was read; its tensors are read where they are to stand, one by one
//! ([`Unread`]). [`SafeTensors`] are a file's contents in memory. Files are not mapped: whoever shortens a file that is mapped ends
//! the process that looks at it, and no safe code can prevent that. Reads at places take as much memory, and end with an error.
//!
//! Promises: no panic on any input; memory grows with the bytes that arrive, not with the sizes stated; nothing is read of a file
//! whose header does not fit its length; the elements of all tensors fill the file without gaps and overlaps, as the format demands;
//! elements of 16 bits (BF16, F16) are read as f32, exactly; the bytes written are a function of the contents, and elements are
//! aligned to their size.

mod archive;
mod shards;
mod source;
#[cfg(test)]
mod tests;
mod unread;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use cotangent_graph::TensorData;
use cotangent_scalar::DType;
use serde_json::{Map, json};

pub use self::archive::Archive;
use self::unread::Stored;
pub use self::unread::Unread;
use crate::DataError;
use crate::files::write_durably;

/// The entry of the header that is no tensor.
const METADATA: &str = "__metadata__";

/// Tensors by name.
pub type Tensors = BTreeMap<String, TensorData>;

/// The contents of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SafeTensors {
    /// Texts by name.
    pub metadata: BTreeMap<String, String>,
    /// The tensors.
    pub tensors: Tensors,
}

/// The names of element types in the format, what they are read as, and how they are stored. The first of a type is written.
const DTYPES: [(&str, DType, Stored); 8] = [
    ("F64", DType::F64, Stored::Whole),
    ("F32", DType::F32, Stored::Whole),
    ("I64", DType::I64, Stored::Whole),
    ("I32", DType::I32, Stored::Whole),
    ("U8", DType::U8, Stored::Whole),
    ("BOOL", DType::Bool, Stored::Whole),
    ("BF16", DType::F32, Stored::Upper),
    ("F16", DType::F32, Stored::Half),
];

impl SafeTensors {
    /// Reads a file.
    ///
    /// # Errors
    /// As [`Archive::open`] and [`Unread::read`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, DataError> {
        Archive::open(path)?.read()
    }

    /// Reads the contents of a file, which errors call `name`.
    ///
    /// # Errors
    /// As [`Archive::parse`] and [`Unread::read`].
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        Archive::parse(bytes, name)?.read()
    }

    /// Writes a file, durably: see [`write_durably`].
    ///
    /// # Errors
    /// [`DataError::Io`] if the system refuses, or a tensor is called `__metadata__`.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), DataError> {
        write_durably(path, |mut file| self.write_to(&mut file))
    }

    /// Writes the contents of a file.
    ///
    /// # Errors
    /// The writer's; `InvalidInput` if a tensor is called `__metadata__`.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        // Larger elements first, so that every tensor stands at a multiple of its element's size.
        let mut order: Vec<(&String, &TensorData)> = self.tensors.iter().collect();
        order.sort_by_key(|(name, tensor)| (std::cmp::Reverse(tensor.dtype().size_bytes()), *name));
        let mut header = Map::new();
        if !self.metadata.is_empty() {
            header.insert(METADATA.to_owned(), json!(self.metadata));
        }
        let mut end = 0;
        for (name, tensor) in &order {
            if *name == METADATA {
                let text = format!("a tensor needs another name than {METADATA}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            let (dtype, shape, begin) = (dtype_name(tensor.dtype()), tensor.shape(), end);
            end += tensor.ty().n_bytes();
            let entry = json!({"dtype": dtype, "shape": shape[..], "data_offsets": [begin, end]});
            header.insert((*name).clone(), entry);
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        order.iter().try_for_each(|(_, tensor)| tensor.try_each_le(|piece| out.write_all(piece)))
    }
}

fn dtype_name(dtype: DType) -> &'static str {
    DTYPES.iter().find(|(_, known, _)| *known == dtype).map_or("F32", |(name, ..)| name)
}

/// Names are the file's own and may be anything, so only their beginning is shown.
fn label(name: &str) -> String {
    format!("tensor {:?}", clipped(name))
}

fn clipped(text: &str) -> String {
    text.chars().take(60).collect()
}
