//! A file whose header was read and checked, and whose tensors are read when somebody has room for them.
//!
//! Why it exists: a model's weights should be in memory once, where programs work on them.
//! Promises: an archive takes memory for its header, and none for elements. Whatever becomes of the file afterwards, a tensor is read
//! whole, or reading it is an error; a file that is replaced by another of its name is read as it was.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use cotangent_graph::Shape;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::source::Source;
use super::unread::Unread;
use super::{DTYPES, METADATA, SafeTensors, clipped, label};
use crate::DataError;

/// The longest header that is read, in bytes: that of the format's reference implementation.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// The most axes of a tensor.
const MAX_AXES: usize = 32;

/// A file, or several, of which only the headers were read. The lifetime is that of the bytes; files have none.
///
/// ```
/// use cotangent_data::safetensors::{Archive, SafeTensors};
/// use ndarray::array;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = std::env::temp_dir().join(format!("cotangent-archive-{}.safetensors", std::process::id()));
/// let tensors = [("w".to_owned(), array![[1f32, 2.0], [3.0, 4.0]].into())].into();
/// SafeTensors { tensors, ..SafeTensors::default() }.write(&path)?;
///
/// let archive = Archive::open(&path)?;
/// let w = &archive.tensors["w"];
/// assert_eq!(w.ty().to_string(), "f32[2,2]");
/// let mut memory = [0; 16];
/// w.read_into(&mut memory)?;
/// assert_eq!(memory[4..8], 2f32.to_ne_bytes());
/// # std::fs::remove_file(&path)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Archive<'a> {
    /// Texts by name.
    pub metadata: BTreeMap<String, String>,
    /// The tensors, which are still in their files.
    pub tensors: BTreeMap<String, Unread<'a>>,
}

impl Archive<'static> {
    /// Opens a file and reads its header. The file stays open as long as the archive or one of its tensors is kept.
    ///
    /// # Errors
    /// As [`Archive::parse`]; [`DataError::Missing`], [`DataError::NotAFile`] or [`DataError::Io`] if it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        Archive::new(Source::open(path.as_ref())?)
    }
}

impl<'a> Archive<'a> {
    /// [`Archive::open`] of a file in memory, which errors call `name`.
    ///
    /// # Errors
    /// [`DataError::Malformed`] if a rule of the format is broken, [`DataError::Unsupported`] for element types that
    /// Cotangent has not.
    pub fn parse(bytes: &'a [u8], name: &str) -> Result<Self, DataError> {
        Archive::new(Source::of(bytes, name))
    }

    /// Reads all tensors into memory of their own.
    ///
    /// # Errors
    /// As [`Unread::read`].
    pub fn read(self) -> Result<SafeTensors, DataError> {
        let read = self.tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.read()?)));
        Ok(SafeTensors { metadata: self.metadata, tensors: read.collect::<Result<_, DataError>>()? })
    }

    fn new(source: Source<'a>) -> Result<Self, DataError> {
        let source = Arc::new(source);
        let mut length = [0; 8];
        if source.n_bytes < 8 {
            return Err(source.malformed("length of the header", "8 bytes", format!("{} bytes", source.n_bytes)));
        }
        source.fill(&mut length, 0, "length of the header")?;
        let (length, rest) = (u64::from_le_bytes(length), source.n_bytes - 8);
        if length > MAX_HEADER.min(rest) {
            let required =
                format!("at most {MAX_HEADER} bytes, and no more than the file has, as safetensors files begin");
            return Err(source.malformed("length of the header", required, format!("{length} of {rest} bytes")));
        }
        let header = source.bytes(length, 8, "header")?;
        // The format's reference implementation asks for the brace at the very start too.
        if header.first() != Some(&b'{') {
            return Err(source.malformed("header", "a JSON object", "something else"));
        }
        let Header { metadata, entries } = serde_json::from_slice(&header)
            .map_err(|error| source.malformed("header", "a JSON object of tensors", clipped(&error.to_string())))?;
        drop(header);
        let placed = entries.into_iter().map(|(name, entry)| entry.placed(name, &source));
        let mut placed: Vec<Placed<'a>> = placed.collect::<Result<_, _>>()?;
        placed.sort_by_key(|placed| (placed.begin, placed.end));
        let mut end = 0;
        for next in &placed {
            if next.begin != end {
                let required = format!("{} to begin where the one before ends, at {end}", label(&next.name));
                return Err(source.malformed("offsets", required, next.begin.to_string()));
            }
            end = next.end;
        }
        if end != rest - length {
            let got = (rest - length).to_string();
            return Err(source.malformed("elements", format!("{end} bytes, as the header says"), got));
        }
        let tensors =
            placed.into_iter().map(|Placed { name, begin, tensor, .. }| (name, tensor.at(8 + length + begin)));
        Ok(Archive { metadata, tensors: tensors.collect() })
    }
}

/// The header. It is read into these types rather than into a tree of JSON values, which takes far more memory than its
/// text.
struct Header {
    metadata: BTreeMap<String, String>,
    entries: BTreeMap<String, Entry>,
}

/// The entry of a tensor.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A tensor whose entry agrees with itself, and where its elements begin and end behind the header.
struct Placed<'a> {
    name: String,
    begin: u64,
    end: u64,
    tensor: Unread<'a>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut metadata, mut entries) = (None, BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    let is_new = match name == METADATA {
                        true => metadata.replace(map.next_value()?).is_none(),
                        false => entries.insert(name, map.next_value()?).is_none(),
                    };
                    if !is_new {
                        return Err(A::Error::custom("a name comes twice"));
                    }
                }
                Ok(Header { metadata: metadata.unwrap_or_default(), entries })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl Entry {
    fn placed<'a>(self, name: String, source: &Arc<Source<'a>>) -> Result<Placed<'a>, DataError> {
        let of =
            |required: &str| source.malformed("header", format!("{} with {required}", label(&name)), "something else");
        let Some(&(_, dtype, stored)) = DTYPES.iter().find(|(known, ..)| *known == self.dtype) else {
            let known = DTYPES.map(|(name, ..)| name).join(", ");
            return Err(DataError::Unsupported {
                name: source.name.clone(),
                what: format!("{} has elements of {}; there are {known}", label(&name), clipped(&self.dtype)),
                fix: "convert it where it was made".to_owned(),
            });
        };
        if self.shape.len() > MAX_AXES {
            return Err(of("at most 32 axes"));
        }
        let (begin, end) = self.data_offsets;
        let n_bytes = n_elements(&self.shape).map(|n| n * stored.n_bytes(dtype) as u64);
        if n_bytes.is_none() || n_bytes != end.checked_sub(begin) {
            return Err(of("`data_offsets` as far apart as its elements take"));
        }
        let shape: Option<Shape> = self.shape.iter().map(|&n| usize::try_from(n).ok()).collect();
        let shape = shape.ok_or_else(|| of("lengths that fit into memory"))?;
        Ok(Placed { begin, end, tensor: Unread::new(Arc::clone(source), dtype, stored, shape), name })
    }
}

/// The elements of a shape; `None` beyond 2⁴⁸, which no program takes.
fn n_elements(shape: &[u64]) -> Option<u64> {
    let mut n = 1u64;
    for length in shape {
        n = n.checked_mul((*length).max(1)).filter(|&n| n <= 1 << 48)?;
    }
    Some(if shape.contains(&0) { 0 } else { n })
}
