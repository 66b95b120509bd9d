//! Files of tensors that notice damage: a format's name, its version, and checksums in the metadata.
//!
//! Promises: whatever single byte of such a file changes, opening it is an error or it means the same. The checksums find
//! accidents, not forgeries.

use std::collections::BTreeMap;
use std::convert::Infallible;

use cotangent_data::DataError;
use cotangent_data::safetensors::{SafeTensors, Tensors};
use cotangent_graph::TensorData;

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
        metadata.insert(CHECKSUM.to_owned(), of_header(&metadata, &tensors));
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

    /// That nothing was changed since the file was written.
    pub(crate) fn check(&self, file: &SafeTensors, name: &str) -> Result<(), DataError> {
        let text = |key: &str| file.metadata.get(key).map(String::as_str).unwrap_or_default();
        if text(CHECKSUM) != of_header(&file.metadata, &file.tensors) {
            let (required, got) = ("what the header comes to".to_owned(), "another".to_owned());
            return Err(self.malformed(name, "checksum of the header", required, got));
        }
        for (tensor, value) in &file.tensors {
            if text(&key(tensor)) != of_elements(value) {
                let required = format!("the checksum of the elements of `{tensor}`");
                return Err(self.malformed(name, "elements", required, "another: they are damaged".to_owned()));
            }
        }
        Ok(())
    }

    /// The error of a part of such a file.
    pub(crate) fn malformed(&self, name: &str, part: &'static str, required: String, got: String) -> DataError {
        DataError::Malformed { name: name.to_owned(), part, required, got, fix: self.if_damaged.to_owned() }
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

fn of_header(metadata: &BTreeMap<String, String>, tensors: &Tensors) -> String {
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
    for (name, tensor) in tensors {
        text(name);
        text(&tensor.ty().to_string());
    }
    hash.to_string()
}
