//! Reader for IDX files, the format that MNIST is published in.
//!
//! Layout: two zero bytes, a type code, the number of axes, one big-endian `u32` per axis, then the elements in
//! row-major order, big endian. The file may be gzip-compressed; that is recognized by its first two bytes, not by its
//! name. Integers of 8 bits with a sign and of 16 bits are read as i32, exactly.
//!
//! Assumes: the elements fit into memory.
//! Promises: no panic on any input; the element buffer grows with the bytes that arrive and never beyond what the
//! header promises, so a lying header costs no memory, nor beyond [`ReadLimits`], so a gzip bomb costs little; a file that is
//! too short and a file with trailing bytes are both errors; a gzip stream's checksum is verified.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use cotangent_graph::{Element, TensorData};
use flate2::bufread::MultiGzDecoder;
use ndarray::{ArrayD, IxDyn};

use crate::DataError;
use crate::reading::{self, ReadLimits};

/// The most axes that a file may have; MNIST has three, and no published set has more than five.
const MAX_AXES: u8 = 8;
/// The first two bytes of every gzip stream (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What to do about a file that is not what it should be.
const FETCH_AGAIN: &str = "check that this is the right file and fetch it again";

/// Reads the IDX file at `path`, gzip-compressed or plain.
///
/// # Errors
/// [`DataError::Missing`], [`DataError::NotAFile`] or [`DataError::Io`] if the file cannot be read, [`DataError::Malformed`]
/// if it is not IDX, [`DataError::TooLarge`] if it expands to more than [`ReadLimits::default`] allow.
pub fn read_idx(path: impl AsRef<Path>) -> Result<TensorData, DataError> {
    read_idx_within(path, ReadLimits::default())
}

/// [`read_idx`] within other limits.
///
/// # Errors
/// As [`read_idx`].
pub fn read_idx_within(path: impl AsRef<Path>, limits: ReadLimits) -> Result<TensorData, DataError> {
    let path = path.as_ref();
    let (file, length) = reading::open(path)?;
    parse_stream(BufReader::new(file), length, limits, &path.display().to_string())
}

/// Parses an IDX file held in memory, gzip-compressed or plain; `name` is what errors call it.
///
/// # Errors
/// [`DataError::Malformed`], with the part of the file that is wrong; [`DataError::TooLarge`] as for [`read_idx`].
pub fn parse_idx(bytes: &[u8], name: &str) -> Result<TensorData, DataError> {
    parse_idx_within(bytes, ReadLimits::default(), name)
}

/// [`parse_idx`] within other limits.
///
/// # Errors
/// As [`parse_idx`].
pub fn parse_idx_within(bytes: &[u8], limits: ReadLimits, name: &str) -> Result<TensorData, DataError> {
    parse_stream(bytes, bytes.len() as u64, limits, name)
}

fn parse_stream(mut file: impl BufRead, length: u64, limits: ReadLimits, name: &str) -> Result<TensorData, DataError> {
    let start = file.fill_buf().map_err(|error| broken(name, "magic", error))?;
    if start.starts_with(&GZIP_MAGIC) {
        // Several members in a row are legal gzip; reading them all also turns garbage after the stream into an error.
        parse(MultiGzDecoder::new(file), name, |n_bytes| {
            limits.check(name, length, n_bytes)?;
            reading::ask(name, n_bytes)
        })
    } else {
        // What is not there is not read.
        parse(file, name, |n_bytes| reading::ask(name, n_bytes.min(length)))
    }
}

/// The element type, by its code in the header.
#[derive(Clone, Copy)]
enum Code {
    U8,
    I8,
    I16,
    I32,
    F32,
    F64,
}

impl Code {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x08 => Self::U8,
            0x09 => Self::I8,
            0x0b => Self::I16,
            0x0c => Self::I32,
            0x0d => Self::F32,
            0x0e => Self::F64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

fn parse(
    mut reader: impl Read,
    name: &str,
    check: impl FnOnce(u64) -> Result<(), DataError>,
) -> Result<TensorData, DataError> {
    let magic: [u8; 4] = read_array(&mut reader, name, "magic")?;
    let [0, 0, code_byte, n_axes] = magic else {
        return Err(malformed(
            name,
            "magic",
            "two zero bytes at the start",
            format!("{:#04x} {:#04x}", magic[0], magic[1]),
        ));
    };
    let Some(code) = Code::from_byte(code_byte) else {
        let required = "an element type code of 0x08, 0x09, 0x0b, 0x0c, 0x0d or 0x0e";
        return Err(malformed(name, "magic", required, format!("{code_byte:#04x}")));
    };
    if !(1..=MAX_AXES).contains(&n_axes) {
        return Err(malformed(name, "number of axes", format!("1 to {MAX_AXES}"), n_axes));
    }
    let mut shape = Vec::with_capacity(usize::from(n_axes));
    for _ in 0..n_axes {
        let axis = u32::from_be_bytes(read_array(&mut reader, name, "axis lengths")?);
        shape.push(usize::try_from(axis).unwrap_or(usize::MAX));
    }
    let Some(n_bytes) = checked_n_bytes(&shape, code.size()) else {
        return Err(malformed(name, "axis lengths", "a product that fits the address space", format!("{shape:?}")));
    };
    check(n_bytes as u64)?;
    let bytes = read_exactly(reader, n_bytes, name)?;
    let array = match code {
        Code::U8 => array(shape, bytes),
        Code::I8 => array(shape, from_be(&bytes, |b| i32::from(i8::from_be_bytes(b)))),
        Code::I16 => array(shape, from_be(&bytes, |b| i32::from(i16::from_be_bytes(b)))),
        Code::I32 => array(shape, from_be(&bytes, i32::from_be_bytes)),
        Code::F32 => array(shape, from_be(&bytes, f32::from_be_bytes)),
        Code::F64 => array(shape, from_be(&bytes, f64::from_be_bytes)),
    };
    array.map_err(|error| malformed(name, "axis lengths", "a shape that an array can have", error))
}

/// The number of bytes of an array, or `None` if its shape, with empty axes left out, overflows the address space.
///
/// Empty axes are left out because array libraries compute strides, which must not overflow even if nothing is stored.
pub(crate) fn checked_n_bytes(shape: &[usize], element_size: usize) -> Option<usize> {
    let nonzero = shape.iter().filter(|&&axis| axis != 0);
    let n_bytes = nonzero.into_iter().try_fold(element_size, |product, &axis| product.checked_mul(axis))?;
    if isize::try_from(n_bytes).is_err() {
        return None;
    }
    Some(if shape.contains(&0) { 0 } else { n_bytes })
}

fn read_array<const N: usize>(reader: &mut impl Read, name: &str, part: &'static str) -> Result<[u8; N], DataError> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).map_err(|error| broken(name, part, error))?;
    Ok(bytes)
}

/// Reads `n_bytes` and then the end of the stream; the buffer grows as bytes arrive.
fn read_exactly(reader: impl Read, n_bytes: usize, name: &str) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    // One byte more than promised tells "exact" from "too long" and, for gzip, reaches the checksum.
    let limit = u64::try_from(n_bytes).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(limit).read_to_end(&mut bytes).map_err(|error| broken(name, "elements", error))?;
    if bytes.len() != n_bytes {
        let got = if bytes.len() < n_bytes { bytes.len().to_string() } else { "more".to_owned() };
        return Err(malformed(name, "elements", format!("exactly {n_bytes} bytes, as the axis lengths say"), got));
    }
    bytes.shrink_to_fit();
    Ok(bytes)
}

fn from_be<T, const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| convert(chunk)).collect()
}

fn array<T: Element>(shape: Vec<usize>, elements: Vec<T>) -> Result<TensorData, ndarray::ShapeError> {
    ArrayD::from_shape_vec(IxDyn(&shape), elements).map(Into::into)
}

fn malformed(name: &str, part: &'static str, required: impl Into<String>, got: impl ToString) -> DataError {
    DataError::Malformed {
        name: name.to_owned(),
        part,
        required: required.into(),
        got: got.to_string(),
        fix: FETCH_AGAIN.to_owned(),
    }
}

/// The stream ended too early, or its compression is corrupt, or the system refused.
fn broken(name: &str, part: &'static str, error: io::Error) -> DataError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => malformed(name, part, "more bytes", "the end of the file"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            malformed(name, part, "an intact gzip stream", error)
        }
        _ => DataError::io(Path::new(name), "read", error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use cotangent_graph::{DType, Type};
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn idx(code: u8, shape: &[u32], elements: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, code, u8::try_from(shape.len()).unwrap()];
        shape.iter().for_each(|axis| bytes.extend(axis.to_be_bytes()));
        bytes.extend(elements);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn message(bytes: &[u8]) -> String {
        parse_idx(bytes, "t.idx").unwrap_err().to_string()
    }

    #[test]
    fn every_element_type_is_read_big_endian() {
        fn check(code: u8, elements: &[u8], dtype: DType, expected: [f64; 2]) {
            let plain = idx(code, &[2, 1], elements);
            for bytes in [plain.clone(), gzip(&plain)] {
                let parsed = parse_idx(&bytes, "t.idx").unwrap();
                assert_eq!(parsed.ty(), Type::tensor(dtype, [2, 1]));
                assert_eq!(parsed.to_f64(), expected);
            }
        }
        check(0x08, &[1, 255], DType::U8, [1.0, 255.0]);
        check(0x09, &[1, 255], DType::I32, [1.0, -1.0]);
        check(0x0b, &[1, 2, 0xff, 0xfe], DType::I32, [258.0, -2.0]);
        check(0x0c, &[0, 0, 1, 2, 0xff, 0xff, 0xff, 0xfe], DType::I32, [258.0, -2.0]);
        check(0x0d, &[1.5f32.to_be_bytes(), (-0.25f32).to_be_bytes()].concat(), DType::F32, [1.5, -0.25]);
        check(0x0e, &[1.5f64.to_be_bytes(), (-0.1f64).to_be_bytes()].concat(), DType::F64, [1.5, -0.1]);
    }

    #[test]
    fn a_bomb_is_not_expanded_unless_it_is_asked_for() {
        let n = 80 << 20;
        let bytes = gzip(&idx(0x08, &[n], &vec![0; n as usize]));
        assert!(bytes.len() < 200_000);
        let error = parse_idx(&bytes, "t.gz").unwrap_err();
        assert!(matches!(error, DataError::TooLarge { expansion: Some((_, to)), .. } if to == u64::from(n)), "{error}");
        assert_eq!(parse_idx_within(&bytes, ReadLimits::bytes(n.into()), "t.gz").unwrap().shape()[..], [n as usize]);
        assert!(parse_idx_within(&gzip(&idx(0x08, &[8], &[0; 8])), ReadLimits::bytes(7), "t.gz").is_err());
        // A header that promises little ends the stream there, whatever comes.
        let more = gzip(&idx(0x08, &[4], &vec![0; 80 << 20]));
        assert!(message(&more).contains("exactly 4 bytes"));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let plain = idx(0x0b, &[2, 3], &[7; 12]);
        for bytes in [plain.clone(), gzip(&plain)] {
            assert!(parse_idx(&bytes, "t").is_ok());
            for n_bytes in 0..bytes.len() {
                assert!(parse_idx(&bytes[..n_bytes], "t").is_err(), "a prefix of {n_bytes} bytes must not parse");
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_gzip_file_is_an_error_or_harmless() {
        let plain = idx(0x08, &[4], &[3, 1, 4, 1]);
        let expected = parse_idx(&plain, "t").unwrap();
        let packed = gzip(&plain);
        for bit in 0..packed.len() * 8 {
            let mut bytes = packed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // Some header bits (time, operating system) mean nothing to us; what parses must be the true contents.
            if let Ok(parsed) = parse_idx(&bytes, "t") {
                assert_eq!(parsed, expected, "bit {bit}");
            }
        }
        let mut bytes = packed.clone();
        let checksum = bytes.len() - 8;
        bytes[checksum] ^= 1;
        assert!(message(&bytes).contains("intact gzip stream"), "{}", message(&bytes));
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let plain = idx(0x08, &[2], &[1, 2]);
        assert!(message(&[&plain[..], &[0]].concat()).contains("exactly 2 bytes"));
        assert!(message(&gzip(&[&plain[..], &[0]].concat())).contains("exactly 2 bytes"));
        assert!(parse_idx(&[&gzip(&plain)[..], &[0]].concat(), "t").is_err());
        // A second gzip member whose contents are surplus is found, too.
        assert!(parse_idx(&[gzip(&plain), gzip(&[9])].concat(), "t").is_err());
        // Two members that together are the file are legal gzip.
        assert!(parse_idx(&[gzip(&plain[..5]), gzip(&plain[5..])].concat(), "t").is_ok());
    }

    #[test]
    fn wrong_headers_are_named() {
        assert!(message(&[1, 0, 8, 1, 0, 0, 0, 0]).contains("two zero bytes at the start, got 0x01 0x00"));
        assert!(message(&[0, 0, 10, 1, 0, 0, 0, 0]).contains("0x0a"));
        assert!(message(&idx(0x08, &[], &[1])).contains("number of axes: required 1 to 8, got 0"));
        assert!(message(&idx(0x08, &[1; 9], &[1])).contains("number of axes: required 1 to 8, got 9"));
        assert!(message(b"<!DOCTYPE html>").contains("t.idx: magic"));
    }

    #[test]
    fn lying_sizes_cost_no_memory() {
        // 4 GiB promised, then 2^64 elements, then more than any integer: all fail without being allocated.
        assert!(
            message(&idx(0x08, &[u32::MAX], &[1]))
                .contains("exactly 4294967295 bytes, as the axis lengths say, got 1;")
        );
        assert!(message(&gzip(&idx(0x08, &[u32::MAX], &[1]))).contains("expands to 4294967295 bytes"));
        assert!(message(&gzip(&idx(0x08, &[1 << 26], &[1]))).contains("got 1;"));
        assert!(message(&idx(0x0e, &[u32::MAX; 2], &[1])).contains("fits the address space"));
        assert!(message(&idx(0x08, &[u32::MAX; 8], &[1])).contains("fits the address space"));
        assert!(message(&idx(0x08, &[0, u32::MAX, u32::MAX, u32::MAX], &[])).contains("fits the address space"));
        // A bomb of 64 MiB behind a promise of 3 bytes is read up to the fourth byte.
        let mut bomb = idx(0x08, &[3], &[]);
        bomb.resize(64 << 20, 0);
        assert!(message(&gzip(&bomb)).contains("exactly 3 bytes, as the axis lengths say, got more"));
    }

    #[test]
    fn empty_axes_are_legal() {
        assert_eq!(parse_idx(&idx(0x0d, &[0, 28], &[]), "t").unwrap().shape()[..], [0, 28]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_idx("no/such/file.idx").unwrap_err();
        assert!(matches!(&error, DataError::Missing { path, .. } if path.ends_with("file.idx")), "{error}");
    }
}
