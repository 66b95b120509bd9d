//! NumPy archives (`.npz`): named arrays in a zip file, read and written.
//!
//! Why it exists: weights and data sets travel between Cotangent and Python in this format. The `ndarray-npy` crate
//! encodes and decodes the arrays; before it sees a byte, this module has unpacked the archive with bounded memory and
//! checked the array's header, because a decoder allocates by the header.
//!
//! Assumes: an archive below 4 GiB, and arrays that fit into memory twice.
//! Promises: no panic on any input; only the arrays asked for are expanded, and never beyond [`ReadLimits`]; memory grows with
//! the bytes that arrive, not with the sizes stated; C and Fortran order and both byte orders are read, and arrays are in row-major order then; an archive is written beside its destination and then renamed, so that a reader
//! never meets half of one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek, Write};
use std::path::Path;

use cotangent_graph::{Element, TensorData, with_array};
use cotangent_scalar::DType;
use ndarray::ArrayD;
use ndarray_npy::npy::header::Header;
use ndarray_npy::{NpzWriter, ReadNpyExt, ReadableElement, WriteNpzError};

use crate::DataError;
use crate::files::write_durably;
use crate::idx::checked_n_bytes;
use crate::reading::{self, ReadLimits};
use crate::zip;

/// The longest array header that is parsed, in bytes; NumPy's own limit (`max_header_size`) is the same.
const MAX_HEADER: usize = 10_000;
/// The deepest nesting of brackets in an array header: a dictionary with a tuple in it has two.
const MAX_NESTING: usize = 2;
/// The most axes that an array may have, as in NumPy 1 (NumPy 2: 64).
const MAX_AXES: usize = 32;
/// The longest name that is written, in bytes; the format's limit is 65,535 with the suffix.
const MAX_NAME: usize = 4096;
/// The length of the magic string and the version that open an `.npy` file.
const PREFIX_LEN: usize = 8;
/// What to do about a file that is not what it should be.
const MAKE_AGAIN: &str = "save the array again with numpy.savez or write_npz";

/// An archive whose arrays are read one by one, when they are asked for.
///
/// ```no_run
/// # fn main() -> Result<(), cotangent_data::DataError> {
/// use cotangent_data::npz::Npz;
///
/// let mut archive = Npz::open("weights.npz")?;
/// let bias = archive.array("out.bias")?;
/// let hidden = archive.arrays(|name| name.starts_with("hidden."))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Npz<R> {
    archive: zip::Archive<R>,
    name: String,
    limits: ReadLimits,
}

impl Npz<BufReader<File>> {
    /// Opens the archive at `path` and reads the names of its arrays.
    ///
    /// # Errors
    /// [`DataError::Missing`], [`DataError::NotAFile`] or [`DataError::Io`] if the file cannot be read,
    /// [`DataError::Malformed`] if it is not an archive, [`DataError::Unsupported`] for zip64, encryption and other
    /// compression.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        Npz::new(BufReader::new(reading::open(path)?.0), &path.display().to_string())
    }
}

impl<'a> Npz<Cursor<&'a [u8]>> {
    /// An archive held in memory; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Npz::open`], without those of the file system.
    pub fn of_bytes(bytes: &'a [u8], name: &str) -> Result<Self, DataError> {
        Npz::new(Cursor::new(bytes), name)
    }
}

impl<R: BufRead + Seek> Npz<R> {
    fn new(file: R, name: &str) -> Result<Self, DataError> {
        let archive = zip::Archive::open(file, name)?;
        let mut names: Vec<&str> = archive.entries().iter().map(|entry| short(&entry.name)).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let (required, got) = ("a different name for every array", format!("{:?} twice", twice[0]));
            return Err(malformed(name, "central directory", required, got));
        }
        Ok(Npz { archive, name: name.to_owned(), limits: ReadLimits::default() })
    }

    /// How much the arrays that are read at one go may expand to.
    pub fn limits(mut self, limits: ReadLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The names of the arrays (without the suffix `.npy`), in the order of the archive.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.archive.entries().iter().map(|entry| short(&entry.name))
    }

    /// Reads one array.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if there is none of this name, [`DataError::TooLarge`] if it would expand to more than the
    /// limits allow, [`DataError::Malformed`] if it is damaged, [`DataError::Unsupported`] for other element types.
    pub fn array(&mut self, name: &str) -> Result<TensorData, DataError> {
        const SHOWN: usize = 12;
        self.arrays(|other| other == name)?.remove(name).ok_or_else(|| {
            let mut names: Vec<&str> = self.names().take(SHOWN + 1).collect();
            if names.len() > SHOWN {
                names[SHOWN] = "…";
            }
            DataError::Mismatch {
                of: self.name.clone(),
                required: format!("an array named `{name}`"),
                got: if names.is_empty() { "none at all".to_owned() } else { names.join(", ") },
                fix: "check the name".to_owned(),
            }
        })
    }

    /// Reads the arrays of these names; nothing is expanded of the others, nor if all together would expand to more than the
    /// limits allow.
    ///
    /// # Errors
    /// As [`Npz::array`]; none if there are no such arrays.
    pub fn arrays(
        &mut self,
        mut is_wanted: impl FnMut(&str) -> bool,
    ) -> Result<BTreeMap<String, TensorData>, DataError> {
        let entries = self.archive.entries().iter().enumerate();
        let wanted: Vec<usize> = entries.filter(|(_, entry)| is_wanted(short(&entry.name))).map(|(k, _)| k).collect();
        let expanded = wanted.iter().map(|&k| self.archive.entries()[k].expanded()).sum();
        let name = match wanted[..] {
            [one] => format!("{}: {}", self.name, self.archive.entries()[one].name),
            _ => self.name.clone(),
        };
        self.limits.check(&name, self.archive.n_bytes(), expanded)?;
        let mut arrays = BTreeMap::new();
        for k in wanted {
            let name = self.archive.entries()[k].name.clone();
            let full_name = format!("{}: {name}", self.name);
            let array = parse_npy(&self.archive.contents(k, &full_name)?, &full_name)?;
            arrays.insert(short(&name).to_owned(), array);
        }
        Ok(arrays)
    }
}

/// The name of an array: that of its entry without the suffix.
fn short(entry: &str) -> &str {
    entry.strip_suffix(".npy").unwrap_or(entry)
}

/// Reads every array of the archive at `path`, by name (without the suffix `.npy`), within [`ReadLimits::default`].
///
/// # Errors
/// As [`Npz::open`] and [`Npz::array`].
pub fn read_npz(path: impl AsRef<Path>) -> Result<BTreeMap<String, TensorData>, DataError> {
    Npz::open(path)?.arrays(|_| true)
}

/// Parses an archive held in memory; `name` is what errors call it.
///
/// # Errors
/// As [`read_npz`], without those of the file system.
pub fn parse_npz(bytes: &[u8], name: &str) -> Result<BTreeMap<String, TensorData>, DataError> {
    Npz::of_bytes(bytes, name)?.arrays(|_| true)
}

/// Writes `arrays` as an uncompressed archive at `path`, replacing what is there only when all is written.
///
/// # Errors
/// [`DataError::Mismatch`] for a name that the format cannot hold, [`DataError::Io`] if the system refuses.
pub fn write_npz(path: impl AsRef<Path>, arrays: &BTreeMap<String, TensorData>) -> Result<(), DataError> {
    check_names(arrays)?;
    write_durably(path, |file| write_arrays(file, arrays).map(|_| ()).map_err(into_io))
}

fn check_names(arrays: &BTreeMap<String, TensorData>) -> Result<(), DataError> {
    for name in arrays.keys() {
        if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
            return Err(DataError::Mismatch {
                of: "npz archive".to_owned(),
                required: format!("names of 1 to {MAX_NAME} bytes without NUL"),
                got: format!("a name of {} bytes", name.len()),
                fix: "rename the array".to_owned(),
            });
        }
        // Readers, NumPy's included, drop one suffix, so "a" stored next to "a.npy" would come back as one.
        if name.strip_suffix(".npy").is_some_and(|short| arrays.contains_key(short)) {
            return Err(DataError::Mismatch {
                of: "npz archive".to_owned(),
                required: "names that differ by more than the suffix .npy".to_owned(),
                got: format!("{name:?} and the same name without it"),
                fix: "rename one of the two arrays".to_owned(),
            });
        }
    }
    Ok(())
}

fn write_arrays<W: Write + Seek>(writer: W, arrays: &BTreeMap<String, TensorData>) -> Result<W, WriteNpzError> {
    let mut npz = NpzWriter::new(writer);
    for (name, array) in arrays {
        with_array!(array, a => npz.add_array(name.as_str(), a))?;
    }
    npz.finish()
}

/// The system's report if there is one, else the writer's words.
fn into_io(error: WriteNpzError) -> std::io::Error {
    match error {
        WriteNpzError::Npy(ndarray_npy::WriteNpyError::Io(error)) => error,
        other => std::io::Error::other(other),
    }
}

/// Decodes one `.npy` file whose header has passed [`check_header`].
fn parse_npy(bytes: &[u8], name: &str) -> Result<TensorData, DataError> {
    fn decode<T: ReadableElement + Element>(bytes: &[u8], name: &str) -> Result<TensorData, DataError> {
        let array = ArrayD::<T>::read_npy(bytes);
        array.map(Into::into).map_err(|error| malformed(name, "array", "legal elements", error))
    }
    match check_header(bytes, name)? {
        DType::F32 => decode::<f32>(bytes, name),
        DType::F64 => decode::<f64>(bytes, name),
        DType::I32 => decode::<i32>(bytes, name),
        DType::I64 => decode::<i64>(bytes, name),
        DType::U8 => decode::<u8>(bytes, name),
        DType::Bool => decode::<bool>(bytes, name),
    }
}

/// Checks all that the decoder would trust: the length of the header, its characters and nesting (the decoder's parser
/// is recursive), the element type, and that exactly as many bytes follow as the shape needs. Returns the element type.
fn check_header(bytes: &[u8], name: &str) -> Result<DType, DataError> {
    let cut_off = || malformed(name, "array header", "a complete header", "the end of the entry");
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_LEN>().ok_or_else(cut_off)?;
    if !prefix.starts_with(b"\x93NUMPY") {
        return Err(malformed(name, "array header", "the magic string of an .npy file", "other bytes"));
    }
    let (n_header, rest) = if prefix[6] == 1 {
        let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(cut_off)?;
        (usize::from(u16::from_le_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
        (usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX), rest)
    };
    if n_header > MAX_HEADER {
        return Err(malformed(name, "array header", format!("at most {MAX_HEADER} bytes"), n_header));
    }
    let (text, payload) = rest.split_at_checked(n_header).ok_or_else(cut_off)?;
    check_text(text, name)?;
    let header = Header::from_reader(&mut &bytes[..])
        .map_err(|error| malformed(name, "array header", "a dictionary of descr, fortran_order and shape", error))?;
    let descr = header.type_descriptor.as_string().map_or("a structured type", |descr| descr.as_str());
    let dtype = match descr {
        "<f4" | ">f4" => DType::F32,
        "<f8" | ">f8" => DType::F64,
        "<i4" | ">i4" => DType::I32,
        "<i8" | ">i8" => DType::I64,
        "|u1" | "u1" => DType::U8,
        "|b1" => DType::Bool,
        other => {
            return Err(DataError::Unsupported {
                name: name.to_owned(),
                what: format!("element type {other:?} (float32, float64, int32, int64, uint8 and bool are read)"),
                fix: "convert the array with astype before saving it".to_owned(),
            });
        }
    };
    if header.shape.len() > MAX_AXES {
        return Err(malformed(name, "array header", format!("at most {MAX_AXES} axes"), header.shape.len()));
    }
    match checked_n_bytes(&header.shape, dtype.size_bytes()) {
        Some(n_bytes) if n_bytes == payload.len() => Ok(dtype),
        Some(n_bytes) => {
            let required = format!("{n_bytes} bytes of elements for {dtype}{:?}", header.shape);
            Err(malformed(name, "array", required, payload.len()))
        }
        None => {
            Err(malformed(name, "array header", "a shape that fits the address space", format!("{:?}", header.shape)))
        }
    }
}

/// Allows only what a header of a plain array consists of, so that the parser meets neither escapes nor arithmetic nor
/// deep nesting.
fn check_text(text: &[u8], name: &str) -> Result<(), DataError> {
    let mut nesting = 0usize;
    for &byte in text {
        match byte {
            b'{' | b'(' | b'[' => nesting += 1,
            b'}' | b')' | b']' => nesting = nesting.saturating_sub(1),
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b' '
            | b'\n'
            | b'\''
            | b'"'
            | b','
            | b':'
            | b'<'
            | b'>'
            | b'|'
            | b'='
            | b'_' => {}
            other => {
                let required = "a dictionary of names, numbers and element types";
                return Err(malformed(name, "array header", required, format!("the byte {other:#04x}")));
            }
        }
        if nesting > MAX_NESTING {
            let required = format!("brackets nested at most {MAX_NESTING} deep (structured types are not supported)");
            return Err(malformed(name, "array header", required, "deeper nesting"));
        }
    }
    Ok(())
}

fn malformed(name: &str, part: &'static str, required: impl Into<String>, got: impl ToString) -> DataError {
    DataError::Malformed {
        name: name.to_owned(),
        part,
        required: required.into(),
        got: got.to_string(),
        fix: MAKE_AGAIN.to_owned(),
    }
}

#[cfg(test)]
mod tests;
