//! The safetensors format: named tensors behind a header in JSON, read and written.
//!
//! Why it exists: checkpoints are kept in it, and weights come and go in it between Cotangent and Python. The format is
//! eight bytes of header length (little-endian), the header, and the elements; it is written here rather than by the
//! `safetensors` crate because that one keeps metadata in a hash map, so that equal contents would not give equal files.
//!
//! Assumes: a file that fits into memory. Promises: no panic on any input; memory grows with the bytes that arrive, not
//! with the sizes stated; nothing is read of a file whose header does not fit its length; the elements of all tensors fill the file without gaps and overlaps, as the format demands; the
//! bytes written are a function of the contents, and elements are aligned to their size.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use cotangent_host::refusable;
use cotangent_scalar::DType;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, json};

use crate::DataError;
use crate::files::write_durably;
use crate::reading;

/// The longest header that is read, in bytes: that of the format's reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// The most axes of a tensor.
const MAX_AXES: usize = 32;
/// The entry of the header that is no tensor.
const METADATA: &str = "__metadata__";
/// Elements are written in pieces of so many bytes.
const PIECE: usize = 1 << 20;
/// What to do about a file that is not what it should be.
const MAKE_AGAIN: &str = "fetch or write the file again";

/// A tensor as bytes: the elements in row-major order, little-endian; `bool` as bytes of 0 and 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTensor {
    /// The element type.
    pub dtype: DType,
    /// The length of every axis.
    pub shape: Vec<usize>,
    /// The elements; as many bytes as type and shape ask for.
    pub bytes: Vec<u8>,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, RawTensor>;

/// The contents of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SafeTensors {
    /// Texts by name.
    pub metadata: BTreeMap<String, String>,
    /// The tensors.
    pub tensors: Tensors,
}

/// The names of element types in the format.
const DTYPES: [(&str, DType); 6] = [
    ("F64", DType::F64),
    ("F32", DType::F32),
    ("I64", DType::I64),
    ("I32", DType::I32),
    ("U8", DType::U8),
    ("BOOL", DType::Bool),
];

impl SafeTensors {
    /// Reads a file.
    ///
    /// # Errors
    /// As [`SafeTensors::parse`]; [`DataError::Missing`], [`DataError::NotAFile`] or [`DataError::Io`] if it cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let (file, length) = reading::open(path)?;
        Opened::new(BufReader::new(file), length, &path.display().to_string())?.tensors()
    }

    /// The texts of a file, without its tensors.
    ///
    /// # Errors
    /// As [`SafeTensors::read`].
    pub fn read_metadata(path: impl AsRef<Path>) -> Result<BTreeMap<String, String>, DataError> {
        let path = path.as_ref();
        let (file, length) = reading::open(path)?;
        Ok(Opened::new(BufReader::new(file), length, &path.display().to_string())?.metadata)
    }

    /// Reads the contents of a file, which errors call `name`.
    ///
    /// # Errors
    /// [`DataError::Malformed`] if a rule of the format is broken, [`DataError::Unsupported`] for element types that
    /// Cotangent has not.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, DataError> {
        Opened::new(bytes, bytes.len() as u64, name)?.tensors()
    }

    /// Writes a file, durably: see [`write_durably`].
    ///
    /// # Errors
    /// [`DataError::Io`] if the system refuses, or a tensor is called `__metadata__`, or its bytes do not fit its shape.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), DataError> {
        write_durably(path, |mut file| self.write_to(&mut file))
    }

    /// Writes the contents of a file.
    ///
    /// # Errors
    /// The writer's; `InvalidInput` if a tensor is called `__metadata__` or its bytes do not fit its shape.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        // Larger elements first, so that every tensor stands at a multiple of its element's size.
        let mut order: Vec<(&String, &RawTensor)> = self.tensors.iter().collect();
        order.sort_by_key(|(name, tensor)| (std::cmp::Reverse(tensor.dtype.size_bytes()), *name));
        let mut header = Map::new();
        if !self.metadata.is_empty() {
            header.insert(METADATA.to_owned(), json!(self.metadata));
        }
        let mut end = 0;
        for (name, tensor) in &order {
            let n_bytes = n_bytes(tensor.dtype, tensor.shape.iter().map(|&n| n as u64));
            if *name == METADATA || n_bytes != Some(tensor.bytes.len() as u64) {
                let text = format!("a tensor needs another name than {METADATA} and as many bytes as its shape has");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            let begin = end;
            end += tensor.bytes.len();
            let entry = json!({"dtype": dtype_name(tensor.dtype), "shape": tensor.shape, "data_offsets": [begin, end]});
            header.insert((*name).clone(), entry);
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for piece in order.iter().flat_map(|(_, tensor)| tensor.bytes.chunks(PIECE)) {
            out.write_all(piece)?;
        }
        Ok(())
    }
}

/// A file whose header was read and fits its length.
struct Opened<'a, R> {
    metadata: BTreeMap<String, String>,
    /// In the order of their elements, which follow in `rest`.
    places: Vec<TensorPlace>,
    rest: R,
    at: Place<'a>,
}

impl<'a, R: Read> Opened<'a, R> {
    /// Reads the header of a file of `n_bytes`, which errors call `name`.
    fn new(mut file: R, n_bytes: u64, name: &'a str) -> Result<Self, DataError> {
        let at = Place { name };
        let mut length = [0; 8];
        if n_bytes < 8 {
            return Err(at.malformed("length of the header", "8 bytes", format!("{n_bytes} bytes")));
        }
        file.read_exact(&mut length).map_err(|error| at.broken("length of the header", error))?;
        let (length, rest) = (u64::from_le_bytes(length), n_bytes - 8);
        if length > MAX_HEADER.min(rest) {
            let required = format!("at most {MAX_HEADER} bytes, and no more than the file has");
            return Err(at.malformed("length of the header", required, format!("{length} of {rest} bytes")));
        }
        let header = at.bytes(&mut file, length, "header")?;
        // The format's reference implementation asks for the brace at the very start too.
        if header.first() != Some(&b'{') {
            return Err(at.malformed("header", "a JSON object", "something else"));
        }
        let Header { metadata, entries } = serde_json::from_slice(&header)
            .map_err(|error| at.malformed("header", "a JSON object of tensors", clipped(&error.to_string())))?;
        drop(header);
        let places = entries.into_iter().map(|(tensor, entry)| TensorPlace::of(tensor, entry, at));
        let mut places: Vec<TensorPlace> = places.collect::<Result<_, _>>()?;
        places.sort_by_key(|place| (place.begin, place.end));
        let mut end = 0;
        for place in &places {
            if place.begin != end {
                let required = format!("{} to begin where the one before ends, at {end}", place.label());
                return Err(at.malformed("offsets", required, place.begin.to_string()));
            }
            end = place.end;
        }
        if end != rest - length {
            let got = (rest - length).to_string();
            return Err(at.malformed("elements", format!("{end} bytes, as the header says"), got));
        }
        Ok(Opened { metadata, places, rest: file, at })
    }

    /// Reads the tensors.
    fn tensors(mut self) -> Result<SafeTensors, DataError> {
        let mut tensors = Tensors::new();
        for TensorPlace { name, dtype, shape, begin, end } in self.places {
            let bytes = self.at.bytes(&mut self.rest, end - begin, "elements")?;
            if dtype == DType::Bool && bytes.iter().any(|&byte| byte > 1) {
                return Err(self.at.malformed("elements", "truth values of 0 or 1", "another byte"));
            }
            tensors.insert(name, RawTensor { dtype, shape, bytes });
        }
        Ok(SafeTensors { metadata: self.metadata, tensors })
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

/// Where a tensor's elements stand, as the header says; the sizes agree with each other.
struct TensorPlace {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    begin: u64,
    end: u64,
}

impl TensorPlace {
    fn of(name: String, entry: Entry, at: Place<'_>) -> Result<Self, DataError> {
        let of = |required: &str| at.malformed("header", format!("{} with {required}", label(&name)), "something else");
        let Some(&(_, dtype)) = DTYPES.iter().find(|(known, _)| *known == entry.dtype) else {
            let known = DTYPES.map(|(name, _)| name).join(", ");
            return Err(DataError::Unsupported {
                name: at.name.to_owned(),
                what: format!("{} has elements of {}; there are {known}", label(&name), clipped(&entry.dtype)),
                fix: "convert it where it was made".to_owned(),
            });
        };
        if entry.shape.len() > MAX_AXES {
            return Err(of("at most 32 axes"));
        }
        let (begin, end) = entry.data_offsets;
        let n_bytes = n_bytes(dtype, entry.shape.iter().copied());
        if n_bytes.is_none() || n_bytes != end.checked_sub(begin) {
            return Err(of("`data_offsets` as far apart as its elements take"));
        }
        let shape: Option<Vec<usize>> = entry.shape.iter().map(|&n| usize::try_from(n).ok()).collect();
        Ok(TensorPlace { dtype, shape: shape.ok_or_else(|| of("lengths that fit into memory"))?, begin, end, name })
    }

    fn label(&self) -> String {
        label(&self.name)
    }
}

/// Names are the file's own and may be anything, so only their beginning is shown.
fn label(name: &str) -> String {
    format!("tensor {:?}", clipped(name))
}

fn clipped(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Bytes of so many elements; `None` beyond 2⁴⁸ elements, which no program takes.
fn n_bytes(dtype: DType, shape: impl Iterator<Item = u64>) -> Option<u64> {
    let mut n = 1u64;
    let mut is_empty = false;
    for length in shape {
        is_empty |= length == 0;
        n = n.checked_mul(length.max(1)).filter(|&n| n <= 1 << 48)?;
    }
    Some(if is_empty { 0 } else { n * dtype.size_bytes() as u64 })
}

fn dtype_name(dtype: DType) -> &'static str {
    DTYPES.iter().find(|(_, known)| *known == dtype).map_or("F32", |(name, _)| name)
}

/// What errors call the file.
#[derive(Clone, Copy)]
struct Place<'a> {
    name: &'a str,
}

impl Place<'_> {
    /// So many bytes of a file that has them.
    fn bytes(self, file: &mut impl Read, n_bytes: u64, part: &'static str) -> Result<Vec<u8>, DataError> {
        reading::ask(self.name, n_bytes)?;
        let n = usize::try_from(n_bytes).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        refusable(|| bytes.try_reserve_exact(n))
            .map_err(|error| self.broken(part, io::Error::new(io::ErrorKind::OutOfMemory, error)))?;
        file.take(n_bytes).read_to_end(&mut bytes).map_err(|error| self.broken(part, error))?;
        if bytes.len() < n {
            return Err(self.broken(part, io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(bytes)
    }

    fn broken(self, part: &'static str, error: io::Error) -> DataError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.malformed(part, "as many bytes as the file had", "its end"),
            _ => DataError::io(Path::new(self.name), "read", error),
        }
    }

    fn malformed(self, part: &'static str, required: impl Into<String>, got: impl Into<String>) -> DataError {
        DataError::Malformed {
            name: self.name.to_owned(),
            part,
            required: required.into(),
            got: got.into(),
            fix: MAKE_AGAIN.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SafeTensors {
        let tensor = |dtype: DType, shape: &[usize]| {
            let n = shape.iter().product::<usize>() * dtype.size_bytes();
            RawTensor { dtype, shape: shape.to_vec(), bytes: (0..n).map(|i| (i % 2) as u8).collect() }
        };
        let tensors = [
            ("b", tensor(DType::Bool, &[3])),
            ("scalar", tensor(DType::F64, &[])),
            ("empty", tensor(DType::F32, &[0, 7])),
            ("w \"quoted\" ε", tensor(DType::F32, &[2, 3])),
            ("i", tensor(DType::I64, &[2])),
            ("j", tensor(DType::I32, &[1, 1])),
            ("u", tensor(DType::U8, &[5])),
        ];
        SafeTensors {
            metadata: [("a".to_owned(), "b\n".to_owned())].into(),
            tensors: tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into(),
        }
    }

    fn bytes_of(file: &SafeTensors) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap();
        bytes
    }

    /// A file of a header and elements.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn what_is_written_is_read_and_aligned() {
        let sample = sample();
        let bytes = bytes_of(&sample);
        assert_eq!(SafeTensors::parse(&bytes, "f").unwrap(), sample);
        assert_eq!(bytes, bytes_of(&sample.clone()));
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(header % 8, 0, "elements start at a multiple of 8");
        let empty = SafeTensors::default();
        assert_eq!(SafeTensors::parse(&bytes_of(&empty), "f").unwrap(), empty);
    }

    /// What the reference implementation in Python wrote for `{"w": float32 [[1, 2]], "n": int64 7}`.
    #[test]
    fn a_file_of_the_reference_implementation_is_read() {
        let header = r#"{"n":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}    "#;
        let data = [7i64.to_le_bytes(), [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]].concat();
        let read = SafeTensors::parse(&file(header, &data), "f").unwrap();
        assert_eq!(read.tensors["n"].bytes, 7i64.to_le_bytes());
        assert_eq!((&read.tensors["w"].shape[..], read.tensors["w"].bytes.len()), (&[1usize, 2][..], 8));
    }

    #[test]
    fn every_truncation_and_surplus_byte_is_an_error() {
        let bytes = bytes_of(&sample());
        for n in 0..bytes.len() {
            assert!(SafeTensors::parse(&bytes[..n], "f").is_err(), "{n} bytes");
        }
        assert!(SafeTensors::parse(&[&bytes[..], &[0]].concat(), "f").is_err());
    }

    #[test]
    fn lying_headers_are_errors() {
        const U8: &str = "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}";
        let entry = |rest: &str| format!("{{\"a\":{{{rest}}}}}");
        for (header, n_bytes, says) in [
            ("[]".to_owned(), 0, "a JSON object"),
            ("{".to_owned(), 0, "a JSON object"),
            ("{\"a\":1}".to_owned(), 0, "invalid type: integer"),
            ("{\"a\":{}}".to_owned(), 0, "missing field `dtype`"),
            (entry("\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]"), 2, "has elements of BF16"),
            (entry("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, "invalid value: integer `-1`"),
            (entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]"), 4, "invalid length 1"),
            (entry("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), 4, "as far apart"),
            (entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]"), 4, "as far apart"),
            (entry("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0, "as far apart"),
            (entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]"), 8, "to begin where the one before ends"),
            (entry("\"dtype\":\"U8\",\"shape\":[1000000000],\"data_offsets\":[0,1000000000]"), 1, "as the header says"),
            (entry("\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "truth values"),
            ("{\"__metadata__\":{\"a\":1}}".to_owned(), 0, "expected a string"),
            (format!("{{\"a\":{U8},\"a\":{U8}}}"), 1, "comes twice"),
            (U8.replace("[1]", &format!("{:?}", [1; 33])).replace("{\"d", "{\"a\":{\"d") + "}", 1, "at most 32 axes"),
        ] {
            let error = SafeTensors::parse(&file(&header, &vec![7; n_bytes]), "x.safetensors").unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("x.safetensors"), "{header}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(SafeTensors::parse(&file(&format!("{{\"a\":{deep}"), &[]), "f").is_err());
        assert!(SafeTensors::parse(&u64::MAX.to_le_bytes(), "f").is_err());
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused() {
        for (name, n_bytes) in [(METADATA, 4), ("short", 3)] {
            let tensor = RawTensor { dtype: DType::F32, shape: vec![1], bytes: vec![0; n_bytes] };
            let file = SafeTensors { tensors: [(name.to_owned(), tensor)].into(), ..SafeTensors::default() };
            assert!(file.write_to(&mut Vec::new()).is_err());
        }
    }
}
