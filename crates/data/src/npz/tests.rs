//! Tests of the archive reader and writer: round trips, NumPy's own layout, and hostile archives.
//!
//! The hostile ones are made by a small zip writer that states whatever it is told.

use std::env;
use std::fs;
use std::io::Write as _;
use std::process;

use flate2::Compression;
use flate2::Crc;
use flate2::write::DeflateEncoder;
use ndarray::{IxDyn, ShapeBuilder};

use super::*;

const NUMPY_LAYOUT: &[u8] = include_bytes!("../../fixtures/numpy_layout.npz");

/// What an entry's headers state; the checksum is always that of `contents`.
struct Stated<'a> {
    name: &'a str,
    contents: &'a [u8],
    deflate: bool,
    n_bytes: Option<u32>,
    n_compressed: Option<u32>,
    flags: u16,
    local: Option<u32>,
}

fn entry<'a>(name: &'a str, contents: &'a [u8]) -> Stated<'a> {
    Stated { name, contents, deflate: false, n_bytes: None, n_compressed: None, flags: 0, local: None }
}

fn archive(entries: &[Stated]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for stated in entries {
        let mut crc = Crc::new();
        crc.update(stated.contents);
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(stated.contents).unwrap();
        let data = if stated.deflate { encoder.finish().unwrap() } else { stated.contents.to_vec() };
        let method = if stated.deflate { 8u16 } else { 0 };
        let name_len = u16::try_from(stated.name.len()).unwrap();
        let local = stated.local.unwrap_or(u32::try_from(bytes.len()).unwrap());
        // Version, flags, method, time and date, checksum, two sizes, name length, extra length: the same in both.
        let mut common = Vec::new();
        for field in [20, stated.flags, method, 0, 0] {
            common.extend(field.to_le_bytes());
        }
        let n_compressed = stated.n_compressed.unwrap_or(u32::try_from(data.len()).unwrap());
        let n_bytes = stated.n_bytes.unwrap_or(u32::try_from(stated.contents.len()).unwrap());
        for field in [crc.sum(), n_compressed, n_bytes] {
            common.extend(field.to_le_bytes());
        }
        common.extend(name_len.to_le_bytes());
        common.extend([0, 0]);
        bytes.extend(b"PK\x03\x04".iter().chain(&common).chain(stated.name.as_bytes()).chain(&data));
        directory.extend(b"PK\x01\x02\x14\x00".iter().chain(&common).chain(&[0; 10]));
        directory.extend(local.to_le_bytes());
        directory.extend(stated.name.as_bytes());
    }
    let start = u32::try_from(bytes.len()).unwrap();
    let n_entries = u16::try_from(entries.len()).unwrap();
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([n_entries.to_le_bytes(), n_entries.to_le_bytes()].as_flattened());
    bytes.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// An `.npy` file of version 1 with that header text.
fn npy(header: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len() + 1).unwrap().to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.push(b'\n');
    bytes.extend(payload);
    bytes
}

fn good_npy() -> Vec<u8> {
    npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0, 0, 128, 63, 0, 0, 0, 64])
}

fn message(bytes: &[u8]) -> String {
    parse_npz(bytes, "t.npz").unwrap_err().to_string()
}

fn npy_message(contents: &[u8]) -> String {
    message(&archive(&[entry("a.npy", contents)]))
}

fn samples() -> BTreeMap<String, TensorData> {
    let mut fortran = ArrayD::<f64>::zeros(IxDyn(&[2, 3]).f());
    fortran.indexed_iter_mut().for_each(|(idx, value)| *value = (10 * idx[0] + idx[1]) as f64 - 0.1);
    let shaped = |shape: &[usize]| IxDyn(shape);
    BTreeMap::from([
        ("hidden.weight".to_owned(), ArrayD::from_shape_fn(shaped(&[2, 3, 4]), |idx| idx[2] as f32 - 0.5).into()),
        ("fortran".to_owned(), fortran.into()),
        ("i32".to_owned(), ArrayD::from_elem(shaped(&[3]), i32::MIN).into()),
        ("scalar".to_owned(), ArrayD::from_elem(shaped(&[]), i64::MIN).into()),
        ("größe".to_owned(), ArrayD::from_elem(shaped(&[1, 1]), 200u8).into()),
        ("mask".to_owned(), ArrayD::from_shape_fn(shaped(&[5]), |idx| idx[0] % 2 == 0).into()),
        ("empty".to_owned(), ArrayD::<f32>::zeros(shaped(&[0, 7])).into()),
    ])
}

#[test]
fn what_is_written_is_read_back() {
    let path = env::temp_dir().join(format!("cotangent-npz-{}.npz", process::id()));
    let arrays = samples();
    // Twice: the second replaces the first.
    for _ in 0..2 {
        write_npz(&path, &arrays).unwrap();
        assert_eq!(read_npz(&path).unwrap(), arrays);
    }
    write_npz(&path, &BTreeMap::new()).unwrap();
    assert!(read_npz(&path).unwrap().is_empty());
    fs::remove_file(&path).unwrap();
    let mut partial = path.into_os_string();
    partial.push(".partial");
    assert!(!Path::new(&partial).exists());
}

#[test]
fn numpys_layout_is_read() {
    let arrays = parse_npz(NUMPY_LAYOUT, "numpy").unwrap();
    let counting = ArrayD::from_shape_fn(IxDyn(&[2, 3]), |idx| (3 * idx[0] + idx[1]) as f32);
    let expected = BTreeMap::from([
        ("w".to_owned(), counting.clone().into()),
        ("fortran".to_owned(), counting.mapv(f64::from).into()),
        ("big".to_owned(), TensorData::from(ArrayD::from_shape_vec(IxDyn(&[2]), vec![258, -2]).unwrap())),
        ("steps".to_owned(), ArrayD::from_elem(IxDyn(&[]), -7i64).into()),
        ("pixels".to_owned(), TensorData::from(ArrayD::from_shape_vec(IxDyn(&[3]), vec![0u8, 128, 255]).unwrap())),
        ("mask".to_owned(), TensorData::from(ArrayD::from_shape_vec(IxDyn(&[2]), vec![true, false]).unwrap())),
        ("empty".to_owned(), ArrayD::<f32>::zeros(IxDyn(&[0, 4])).into()),
    ]);
    assert_eq!(arrays, expected);
    assert_eq!((arrays["mask"].dtype(), &arrays["w"].shape()[..]), (DType::Bool, &[2, 3][..]));
}

#[test]
fn every_truncation_is_an_error() {
    for bytes in [NUMPY_LAYOUT.to_vec(), archive(&[entry("a.npy", &good_npy())])] {
        assert!(parse_npz(&bytes, "t").is_ok());
        for n_bytes in 0..bytes.len() {
            assert!(parse_npz(&bytes[..n_bytes], "t").is_err(), "a prefix of {n_bytes} bytes must not parse");
        }
        assert!(parse_npz(&[&bytes[..], &[0]].concat(), "t").is_err(), "a trailing byte");
    }
    let array = good_npy();
    for n_bytes in 0..array.len() {
        assert!(parse_npz(&archive(&[entry("a.npy", &array[..n_bytes])]), "t").is_err(), "{n_bytes} bytes of an array");
    }
}

#[test]
fn no_changed_byte_panics_or_alters_elements() {
    let expected = parse_npz(NUMPY_LAYOUT, "t").unwrap();
    for place in 0..NUMPY_LAYOUT.len() {
        for change in [1, 0x10, 0x80, 0xff] {
            let mut bytes = NUMPY_LAYOUT.to_vec();
            bytes[place] ^= change;
            if let Ok(arrays) = parse_npz(&bytes, "t") {
                // A changed name or date goes unnoticed; the arrays themselves are under a checksum.
                assert!(arrays.values().all(|array| expected.values().any(|other| other == array)), "byte {place}");
            }
        }
    }
    let array = good_npy();
    for place in 0..array.len() {
        for value in 0..=255 {
            let mut changed = array.clone();
            changed[place] = value;
            // The checksum is right, so this reaches the header's parser; any answer but a panic will do.
            let _ = parse_npz(&archive(&[entry("a.npy", &changed)]), "t");
        }
    }
}

#[test]
fn lying_entries_cost_no_memory() {
    let array = good_npy();
    let lie = |n_bytes| Stated { deflate: true, n_bytes: Some(n_bytes), ..entry("a.npy", &array) };
    assert!(message(&archive(&[lie(u32::MAX - 1)])).contains("expands to 4294967294 bytes"));
    assert!(message(&archive(&[lie(1 << 26)])).contains("exactly 67108864 bytes"));
    let stored = Stated { n_bytes: Some(u32::MAX - 1), ..entry("a.npy", &array) };
    assert!(message(&archive(&[stored])).contains("exactly 4294967294 bytes"));
    assert!(message(&archive(&[lie(3)])).contains("exactly 3 bytes, as the directory says, got more"));
    let long = Stated { n_compressed: Some(u32::MAX - 1), ..entry("a.npy", &array) };
    assert!(message(&archive(&[long])).contains("local header"));
    let far = Stated { local: Some(u32::MAX - 1), ..entry("a.npy", &array) };
    assert!(message(&archive(&[far])).contains("local header"));
    // Many entries that share one compressed block: how small archives become petabytes.
    let shared = ["a", "b", "c"].map(|name| Stated { local: Some(0), ..entry(name, &array) });
    assert!(message(&archive(&shared)).contains("entries that do not overlap"));
}

#[test]
fn unsupported_archives_are_named() {
    let array = good_npy();
    assert!(
        message(&archive(&[Stated { flags: 1, ..entry("a.npy", &array) }]))
            .contains("t.npz: a.npy: not supported: an encrypted entry")
    );
    assert!(message(&archive(&[Stated { n_bytes: Some(u32::MAX), ..entry("a.npy", &array) }])).contains("zip64"));
    assert!(message(&archive(&[entry("a", &array), entry("a.npy", &array)])).contains("\"a\" twice"));
    assert!(message(b"not an archive at all, but long enough").contains("end record"));
    let mut corrupt = archive(&[entry("a.npy", &array)]);
    corrupt[30 + 5 + array.len() - 1] ^= 1;
    assert!(message(&corrupt).contains("CRC-32"));
}

#[test]
fn lying_array_headers_are_errors() {
    let with = |descr: &str, shape: &str| {
        npy(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), &[0; 8])
    };
    assert!(npy_message(&with("<f4", "(3,)")).contains("12 bytes of elements for f32[3], got 8"));
    assert!(npy_message(&with("<f4", "(1,)")).contains("4 bytes of elements"));
    assert!(npy_message(&with("<f4", "(4611686018427387904,)")).contains("fits the address space"));
    assert!(npy_message(&with("<f4", "(0, 4611686018427387904)")).contains("fits the address space"));
    assert!(npy_message(&with("<f4", &format!("(1{})", "0".repeat(200)))).contains("array header"));
    assert!(npy_message(&with("<f4", "(2, -1)")).contains("the byte 0x2d"));
    assert!(npy_message(&with("<f4", &format!("({})", "1,".repeat(33)))).contains("at most 32 axes"));
    assert!(npy_message(&with("<c8", "(1,)")).contains("\"<c8\""));
    assert!(npy_message(&with("|O", "(1,)")).contains("not supported"));
    assert!(npy_message(&npy(&"(".repeat(9000), &[])).contains("nested at most 2 deep"));
    assert!(npy_message(&npy(&" ".repeat(20_000), &[])).contains("at most 10000 bytes"));
    assert!(npy_message(&npy("[]", &[])).contains("array header"));
    assert!(npy_message(&npy("", &[])).contains("array header"));
    assert!(npy_message(b"PICKLE, not an array").contains("magic string"));
    let mut bad_bool = npy("{'descr': '|b1', 'fortran_order': False, 'shape': (1,), }", &[2]);
    assert!(npy_message(&bad_bool).contains("legal elements"));
    *bad_bool.last_mut().unwrap() = 1;
    assert!(parse_npz(&archive(&[entry("a.npy", &bad_bool)]), "t").is_ok());
}

#[test]
fn names_that_cannot_be_stored_are_errors() {
    let path = env::temp_dir().join(format!("cotangent-npz-names-{}.npz", process::id()));
    let array = TensorData::from(ArrayD::<f32>::zeros(IxDyn(&[1])));
    for names in [
        vec![String::new()],
        vec!["x".repeat(70_000)],
        vec!["a\0b".to_owned()],
        vec!["a".to_owned(), "a.npy".to_owned()],
    ] {
        let arrays = names.into_iter().map(|name| (name, array.clone())).collect();
        assert!(matches!(write_npz(&path, &arrays), Err(DataError::Mismatch { .. })));
        assert!(!path.exists());
    }
    assert!(matches!(write_npz("no/such/folder/a.npz", &BTreeMap::new()), Err(DataError::Io { action: "write", .. })));
    assert!(matches!(read_npz("no/such/file.npz"), Err(DataError::Missing { .. })));
}

/// An archive of 100 KB with an array of 80 MiB of zeros, one of half as many, and a small one.
fn bombs() -> Vec<u8> {
    let zeros = |n: usize| npy(&format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({n},), }}"), &vec![0; n]);
    let (large, half) = (zeros(80 << 20), zeros(40 << 20));
    let deflated = |name, contents| Stated { deflate: true, ..entry(name, contents) };
    let small = good_npy();
    archive(&[deflated("large.npy", &large), entry("small.npy", &small), deflated("half.npy", &half)])
}

#[test]
fn only_what_is_named_is_expanded_and_never_beyond_the_limits() {
    let bytes = bombs();
    assert!(bytes.len() < 300_000, "{}", bytes.len());
    let mut npz = Npz::of_bytes(&bytes, "t.npz").unwrap();
    assert_eq!(npz.names().collect::<Vec<_>>(), ["large", "small", "half"]);
    assert_eq!(npz.array("small").unwrap(), ArrayD::from_shape_vec(IxDyn(&[2]), vec![1.0f32, 2.0]).unwrap().into());
    assert_eq!(npz.array("half").unwrap().shape()[..], [40 << 20]);
    let too_large = |error: DataError, name: &str| {
        let text = error.to_string();
        assert!(matches!(error, DataError::TooLarge { expansion: Some((from, _)), .. } if from == bytes.len() as u64));
        assert!(text.starts_with(&format!("{name}: expands to ")) && text.contains("`--max-bytes "), "{text}");
    };
    too_large(npz.array("large").unwrap_err(), "t.npz: large.npy");
    // Together they are more than each.
    too_large(npz.arrays(|name| name != "small").unwrap_err(), "t.npz");
    too_large(parse_npz(&bytes, "t.npz").unwrap_err(), "t.npz");
    assert!(Npz::of_bytes(&bytes, "t.npz").unwrap().limits(ReadLimits::bytes(0)).array("small").is_ok());
    // What is asked for explicitly is read.
    let mut npz = Npz::of_bytes(&bytes, "t.npz").unwrap().limits(ReadLimits::bytes(200 << 20));
    assert_eq!(npz.arrays(|_| true).unwrap().len(), 3);
    let missing = npz.array("smal").unwrap_err().to_string();
    assert!(missing.contains("an array named `smal`") && missing.contains("large, small, half"), "{missing}");
}

/// The sizes that a directory states are what is checked; what arrives is no more.
#[test]
fn a_directory_that_states_less_than_there_is_does_not_help_a_bomb() {
    let zeros = vec![0; 10 << 20];
    let lying = Stated { deflate: true, n_bytes: Some(1000), ..entry("a.npy", &zeros) };
    assert!(message(&archive(&[lying])).contains("exactly 1000 bytes"));
}
