//! Files of tensors that notice damage: a format's name, its version, and checksums in the metadata.
//!
//! Promises: whatever single byte of such a file changes, opening it or reading the tensor is an error, or it means the same. The
//! checksums find accidents, not forgeries.

use std::collections::BTreeMap;
use std::convert::Infallible;

use cotangent_data::DataError;
use cotangent_data::safetensors::{Archive, SafeTensors, Tensors, Unread};
use cotangent_graph::tensor::bits_of_native;
use cotangent_graph::{TensorData, Type};

use super::{Value, types_of};
use crate::checksum::Fnv;

const CHECKSUM: &str = "checksum";

/// A kind of file: its name in the metadata, the version that this program writes, and what is to be done about damage and about
/// a newer version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed {
    pub(crate) format: &'static str,
    pub(crate) version: u32,
    pub(crate) if_damaged: &'static str,
    pub(crate) if_newer: &'static str,
}

impl Sealed {
    /// The file of these tensors and texts.
    pub(crate) fn seal(&self, mut metadata: BTreeMap<String, String>, tensors: Tensors) -> SafeTensors {
        metadata.insert("format".to_owned(), self.format.to_owned());
        metadata.insert("version".to_owned(), self.version.to_string());
        for (name, tensor) in &tensors {
            metadata.insert(key(name), of_elements(tensor));
        }
        metadata.insert(CHECKSUM.to_owned(), of_header(&metadata, &types_of(&tensors)));
        SafeTensors { metadata, tensors }
    }

    /// That a file is of this kind, of a version that this program knows.
    pub(crate) fn check_format(&self, metadata: &BTreeMap<String, String>, name: &str) -> Result<(), DataError> {
        let format = metadata.get("format").map(String::as_str);
        if format != Some(self.format) {
            let got = match format {
                Some(other) if other.starts_with("cotangent ") => format!("{other:?}"),
                _ => "a file of another kind, or damaged".to_owned(),
            };
            return Err(self.malformed(name, "format", format!("{:?}", self.format), got));
        }
        let version = metadata.get("version").and_then(|version| version.parse::<u32>().ok());
        match version.filter(|version| *version > self.version) {
            None => Ok(()),
            Some(version) => Err(DataError::Unsupported {
                name: name.to_owned(),
                what: format!("version {version} of the format; this program knows {}", self.version),
                fix: self.if_newer.to_owned(),
            }),
        }
    }

    /// That nothing but elements was changed since the file was written.
    pub(crate) fn check_header(&self, file: &Archive<'_>, name: &str) -> Result<(), DataError> {
        if file.metadata.get(CHECKSUM) == Some(&of_header(&file.metadata, &types_of(&file.tensors))) {
            return Ok(());
        }
        let (required, got) = ("what the header comes to".to_owned(), "another".to_owned());
        Err(self.malformed(name, "checksum of the header", required, got))
    }

    /// The tensors of such a file with the checksums of their elements.
    pub(crate) fn saved<'a>(
        &self,
        metadata: &BTreeMap<String, String>,
        tensors: BTreeMap<String, Unread<'a>>,
    ) -> BTreeMap<String, Saved<'a>> {
        let saved = |(name, tensor): (String, Unread<'a>)| {
            let checksum = metadata.get(&key(&name)).cloned().unwrap_or_default();
            (name.clone(), Saved { tensor, name, checksum, kind: *self })
        };
        tensors.into_iter().map(saved).collect()
    }

    /// The error of a part of such a file.
    pub(crate) fn malformed(&self, name: &str, part: &'static str, required: String, got: String) -> DataError {
        DataError::Malformed { name: name.to_owned(), part, required, got, fix: self.if_damaged.to_owned() }
    }
}

/// A tensor that is still in a file of this crate's, a checkpoint or a model: when it is read, it is held against its checksum.
#[derive(Clone, Debug)]
pub struct Saved<'a> {
    tensor: Unread<'a>,
    name: String,
    checksum: String,
    kind: Sealed,
}

impl Saved<'_> {
    /// Reads the tensor into memory of its own.
    ///
    /// # Errors
    /// As [`Unread::read`], and [`DataError::Malformed`] if its elements are damaged.
    pub fn read(&self) -> Result<TensorData, DataError> {
        let tensor = self.tensor.read()?;
        self.check(&of_elements(&tensor))?;
        Ok(tensor)
    }

    fn check(&self, checksum: &str) -> Result<(), DataError> {
        if checksum == self.checksum {
            return Ok(());
        }
        let required = format!("the checksum of the elements of `{}`", self.name);
        let got = "another: they are damaged".to_owned();
        Err(self.kind.malformed(self.tensor.file(), "elements", required, got))
    }
}

impl Value for Saved<'_> {
    fn ty(&self) -> Type {
        self.tensor.ty()
    }

    fn write(&self, to: &mut [u8]) -> Result<(), DataError> {
        self.tensor.read_into(to)?;
        let mut hash = Fnv::new();
        match cfg!(target_endian = "little") {
            true => hash.write(to),
            false => {
                let size = self.ty().dtype().size_bytes();
                to.chunks_exact(size).for_each(|place| hash.write(&bits_of_native(place).to_le_bytes()[..size]));
            }
        }
        self.check(&hash.to_string())
    }
}

fn key(tensor: &str) -> String {
    format!("{CHECKSUM}.{tensor}")
}

fn of_elements(tensor: &TensorData) -> String {
    let mut hash = Fnv::new();
    let Ok(()) = tensor.try_each_le::<Infallible>(|bytes| {
        hash.write(bytes);
        Ok(())
    });
    hash.to_string()
}

fn of_header(metadata: &BTreeMap<String, String>, types: &BTreeMap<&str, Type>) -> String {
    let mut hash = Fnv::new();
    // Lengths keep the texts apart.
    let mut text = |text: &str| {
        hash.write(&(text.len() as u64).to_le_bytes());
        hash.write(text.as_bytes());
    };
    for (key, value) in metadata.iter().filter(|(key, _)| *key != CHECKSUM) {
        text(key);
        text(value);
    }
    for (name, ty) in types {
        text(name);
        text(&ty.to_string());
    }
    hash.to_string()
}
