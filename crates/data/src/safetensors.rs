//! The safetensors format: named tensors behind a header in JSON, read and written.
//!
//! Why it exists: checkpoints are kept in it, and weights come and go in it between Cotangent and Python. The format is
//! eight bytes of header length (little-endian), the header, and the elements; it is written here rather than by the
//! `safetensors` crate because that one keeps metadata in a hash map, so that equal contents would not give equal files.
//!
//! Assumes: a file that fits into memory. Promises: no panic on any input; memory grows with the bytes that arrive, not
//! with the sizes stated; nothing is read of a file whose header does not fit its length; the elements of all tensors fill
//! the file without gaps and overlaps, as the format demands; elements of 16 bits (BF16, F16) are read as f32, exactly; the bytes written are a function of the contents, and elements are aligned to their size.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use cotangent_graph::{Element, TensorData};
use cotangent_host::refusable;
use cotangent_scalar::DType;
use ndarray::{ArrayD, IxDyn};
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
/// Elements are read in pieces of so many bytes.
const PIECE: usize = 1 << 14;
/// What to do about a file that is not what it should be.
const MAKE_AGAIN: &str = "fetch or write the file again";

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

/// How elements stand in a file.
#[derive(Clone, Copy)]
enum Stored {
    /// As they are.
    Whole,
    /// As the upper half of an f32.
    Upper,
    /// As IEEE binary16.
    Half,
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

impl Stored {
    /// Bytes that so many bytes of elements take in a file.
    fn n_bytes(self, n: u64) -> u64 {
        if matches!(self, Stored::Whole) { n } else { n / 2 }
    }

    /// The bits of an element, exactly.
    fn bits(self, bytes: &[u8]) -> u64 {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        match self {
            Stored::Whole => u64::from_le_bytes(word),
            Stored::Upper => u64::from_le_bytes(word) << 16,
            Stored::Half => u64::from(f32_of_half(u16::from_le_bytes([word[0], word[1]]))),
        }
    }
}

/// The bits of the f32 that an IEEE binary16 number is.
fn f32_of_half(bits: u16) -> u32 {
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, u32::from(bits >> 10) & 31, u32::from(bits) & 1023);
    sign | match exponent {
        // Subnormal: a multiple of 2⁻²⁴, which f32 holds as a normal number.
        0 => (fraction as f32 / 16_777_216.0).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    }
}

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

    /// Reads the tensors of several files, which `model.safetensors.index.json` beside them lists by name, as PyTorch's tools
    /// write large models. The metadata is that of the index, but for what is no text.
    ///
    /// # Errors
    /// As [`SafeTensors::read`]; [`DataError::Malformed`] if the index is not one, names a file that is not beside it, or lists
    /// other tensors than a file has.
    pub fn read_shards(index: impl AsRef<Path>) -> Result<Self, DataError> {
        #[derive(Deserialize)]
        struct Index {
            #[serde(default)]
            metadata: Map<String, serde_json::Value>,
            weight_map: BTreeMap<String, String>,
        }
        let path = index.as_ref();
        let name = path.display().to_string();
        let at = Place { name: &name };
        let (mut file, length) = reading::open(path)?;
        if length > MAX_HEADER {
            return Err(at.malformed("index", format!("at most {MAX_HEADER} bytes"), length.to_string()));
        }
        let Index { metadata, weight_map } = serde_json::from_slice(&at.bytes(&mut file, length, "index")?)
            .map_err(|error| at.malformed("index", "a JSON object with `weight_map`", clipped(&error.to_string())))?;
        let text = |(key, value): (String, serde_json::Value)| Some((key, value.as_str()?.to_owned()));
        let metadata = metadata.into_iter().filter_map(text).collect();
        let mut listed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        weight_map.iter().for_each(|(tensor, file)| {
            listed.entry(file).or_default().insert(tensor);
        });
        let mut tensors = Tensors::new();
        for (file, names) in listed {
            // A path out of the folder is not the index's to name.
            if Path::new(file).file_name() != Some(file.as_ref()) {
                return Err(at.malformed("index", "names of files beside it", format!("{:?}", clipped(file))));
            }
            let part = SafeTensors::read(path.with_file_name(file))?.tensors;
            let odd = names.iter().find(|name| !part.contains_key(**name)).copied();
            let odd = odd.or_else(|| part.keys().map(String::as_str).find(|name| !names.contains(name)));
            if let Some(odd) = odd {
                let required = format!("the tensors of {:?} as the file has them", clipped(file));
                return Err(at.malformed("index", required, format!("{} in one of the two only", label(odd))));
            }
            tensors.extend(part);
        }
        Ok(SafeTensors { metadata, tensors })
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
        for TensorPlace { name, dtype, stored, shape, begin, end } in self.places {
            let read = match dtype {
                DType::F32 => Place::elements::<f32>,
                DType::F64 => Place::elements::<f64>,
                DType::I32 => Place::elements::<i32>,
                DType::I64 => Place::elements::<i64>,
                DType::U8 => Place::elements::<u8>,
                DType::Bool => Place::elements::<bool>,
            };
            tensors.insert(name, read(self.at, &mut self.rest, end - begin, stored, &shape)?);
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
    stored: Stored,
    shape: Vec<usize>,
    begin: u64,
    end: u64,
}

impl TensorPlace {
    fn of(name: String, entry: Entry, at: Place<'_>) -> Result<Self, DataError> {
        let of = |required: &str| at.malformed("header", format!("{} with {required}", label(&name)), "something else");
        let Some(&(_, dtype, stored)) = DTYPES.iter().find(|(known, ..)| *known == entry.dtype) else {
            let known = DTYPES.map(|(name, ..)| name).join(", ");
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
        let n_bytes = n_bytes(dtype, entry.shape.iter().copied()).map(|n| stored.n_bytes(n));
        if n_bytes.is_none() || n_bytes != end.checked_sub(begin) {
            return Err(of("`data_offsets` as far apart as its elements take"));
        }
        let shape: Option<Vec<usize>> = entry.shape.iter().map(|&n| usize::try_from(n).ok()).collect();
        Ok(TensorPlace {
            dtype,
            stored,
            shape: shape.ok_or_else(|| of("lengths that fit into memory"))?,
            begin,
            end,
            name,
        })
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
    DTYPES.iter().find(|(_, known, _)| *known == dtype).map_or("F32", |(name, ..)| name)
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

    /// The elements of a tensor, in so many bytes of a file that has them.
    fn elements<T: Element>(
        self,
        file: &mut impl Read,
        n_bytes: u64,
        stored: Stored,
        shape: &[usize],
    ) -> Result<TensorData, DataError> {
        let size = stored.n_bytes(T::DTYPE.size_bytes() as u64) as usize;
        let n: usize = shape.iter().product();
        let no_memory = |error| self.broken("elements", io::Error::new(io::ErrorKind::OutOfMemory, error));
        reading::ask(self.name, n_bytes)?;
        let mut elements: Vec<T> = Vec::new();
        refusable(|| elements.try_reserve_exact(n)).map_err(no_memory)?;
        let mut piece = [0; PIECE];
        while elements.len() < n {
            let bytes = &mut piece[..PIECE.min((n - elements.len()) * size)];
            file.read_exact(bytes).map_err(|error| self.broken("elements", error))?;
            if T::DTYPE == DType::Bool && bytes.iter().any(|&byte| byte > 1) {
                return Err(self.malformed("elements", "truth values of 0 or 1", "another byte"));
            }
            elements.extend(bytes.chunks_exact(size).map(|element| T::from_bits(stored.bits(element))));
        }
        let array = ArrayD::from_shape_vec(IxDyn(shape), elements);
        array
            .map(Into::into)
            .map_err(|error| self.malformed("header", "a shape that an array can have", error.to_string()))
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
    use cotangent_graph::Shape;
    use ndarray::array;

    use super::*;

    fn sample() -> SafeTensors {
        let tensor = |dtype: DType, shape: &[usize]| {
            let n = shape.iter().product::<usize>() * dtype.size_bytes();
            let bytes: Vec<u8> = (0..n).map(|i| (i % 2) as u8).collect();
            TensorData::from_native_bytes(dtype, &Shape::new(shape), &bytes)
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
        assert_eq!(read.tensors["n"], 7i64.into());
        assert_eq!(read.tensors["w"], array![[1f32, 2.0]].into());
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
            (entry("\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "has elements of F8_E4M3"),
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

    /// Against what a number of 16 bits stands for, written out.
    #[test]
    fn elements_of_16_bits_are_widened_exactly() {
        let half = |bits: u16| {
            let (sign, exponent, fraction) =
                (1.0 - 2.0 * f64::from(bits >> 15), bits >> 10 & 31, f64::from(bits & 1023));
            match exponent {
                0 => sign * fraction * 2f64.powi(-24),
                31 if fraction == 0.0 => sign * f64::INFINITY,
                31 => f64::NAN,
                _ => sign * (1.0 + fraction / 1024.0) * 2f64.powi(i32::from(exponent) - 15),
            }
        };
        let data: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let read = |dtype: &str| {
            let header = format!("{{\"w\":{{\"dtype\":\"{dtype}\",\"shape\":[65536],\"data_offsets\":[0,131072]}}}}");
            let read = SafeTensors::parse(&file(&header, &data), "f").unwrap();
            let again = SafeTensors::parse(&bytes_of(&read), "f").unwrap();
            assert_eq!(again, read);
            read.tensors["w"].array::<f32>().unwrap().iter().copied().collect::<Vec<_>>()
        };
        for (bits, (short, brain)) in (0..=u16::MAX).zip(read("F16").into_iter().zip(read("BF16"))) {
            let wanted = half(bits);
            assert_eq!(short.is_nan(), wanted.is_nan(), "{bits:x}");
            assert!(
                wanted.is_nan() || f64::from(short).to_bits() == wanted.to_bits(),
                "{bits:x}: {short} for {wanted}"
            );
            assert_eq!(brain.to_bits(), u32::from(bits) << 16);
        }
    }

    #[test]
    fn what_the_format_cannot_hold_is_refused() {
        let file = SafeTensors { tensors: [(METADATA.to_owned(), 1f32.into())].into(), ..SafeTensors::default() };
        assert!(file.write_to(&mut Vec::new()).is_err());
    }

    /// More than a piece, of every size of elements, in other orders than row-major too.
    #[test]
    fn long_tensors_come_back() {
        let long = ArrayD::from_shape_fn(vec![3, 7000], |i| (i[0] * 7000 + i[1]) as i64 * 0x0123_4567_89ab);
        let tensors: [(&str, TensorData); 5] = [
            ("i64", long.clone().into()),
            ("i32", long.mapv(|v| v as i32).into()),
            ("f64", long.mapv(|v| v as f64).into()),
            ("u8", long.mapv(|v| v as u8).into()),
            ("turned", TensorData::I64(long.reversed_axes().into())),
        ];
        let file = SafeTensors {
            tensors: tensors.map(|(name, value)| (name.to_owned(), value)).into(),
            ..SafeTensors::default()
        };
        assert_eq!(SafeTensors::parse(&bytes_of(&file), "f").unwrap(), file);
    }
}
