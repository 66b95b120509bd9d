use cotangent_graph::Shape;
use ndarray::{Array1, ArrayD, IxDyn, array};

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
        let (sign, exponent, fraction) = (1.0 - 2.0 * f64::from(bits >> 15), bits >> 10 & 31, f64::from(bits & 1023));
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
        assert!(wanted.is_nan() || f64::from(short).to_bits() == wanted.to_bits(), "{bits:x}: {short} for {wanted}");
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
    let file =
        SafeTensors { tensors: tensors.map(|(name, value)| (name.to_owned(), value)).into(), ..SafeTensors::default() };
    assert_eq!(SafeTensors::parse(&bytes_of(&file), "f").unwrap(), file);
}

/// What `read_into` writes, as a tensor.
fn into_memory(tensor: &Unread<'_>) -> Result<TensorData, DataError> {
    let ty = tensor.ty();
    // What was there before is no part of it.
    let mut bytes = vec![0xa5; ty.n_bytes()];
    tensor.read_into(&mut bytes)?;
    let read = TensorData::from_native_bytes(ty.dtype(), ty.shape(), &bytes);
    assert_eq!(read, tensor.read()?);
    Ok(read)
}

/// A file of this test, gone when the test is over.
struct Temporary(std::path::PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        Temporary(std::env::temp_dir().join(format!("cotangent-archive-{}-{name}", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn tensors_are_read_one_by_one_from_a_file_that_is_replaced_meanwhile() {
    let (sample, path) = (sample(), Temporary::new("one-by-one"));
    sample.write(&path.0).unwrap();
    let archive = Archive::open(&path.0).unwrap();
    // Another file under the name: what was opened is still what it was.
    SafeTensors::default().write(&path.0).unwrap();
    assert_eq!(archive.metadata, sample.metadata);
    for (name, tensor) in archive.tensors.iter().rev() {
        assert_eq!(tensor.ty(), sample.tensors[name].ty());
        assert_eq!(into_memory(tensor).unwrap(), sample.tensors[name], "{name}");
    }
    let wrong = archive.tensors["i"].read_into(&mut [0; 15]).unwrap_err().to_string();
    assert!(wrong.contains("required 16 bytes for i64[2], got 15"), "{wrong}");
}

#[test]
fn a_file_that_becomes_shorter_is_an_error() {
    let path = Temporary::new("shorter");
    let tensor = |value: f32| Array1::from_elem(50_000, value).into();
    let tensors = [("a".to_owned(), tensor(1.0)), ("b".to_owned(), tensor(2.0))].into();
    SafeTensors { tensors, ..SafeTensors::default() }.write(&path.0).unwrap();
    let archive = Archive::open(&path.0).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path.0).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    assert!(archive.tensors["a"].read().is_ok());
    let error = archive.tensors["b"].read_into(&mut vec![0; 200_000]).unwrap_err().to_string();
    assert!(error.contains("shorter: elements: required as many bytes as the file had, got its end"), "{error}");
    assert!(archive.tensors["b"].transposed(&[0]).unwrap().read().is_err());
    // The header says more than there is when it is opened again.
    assert!(Archive::open(&path.0).unwrap_err().to_string().contains("as the header says"));
    file.set_len(20).unwrap();
    assert!(Archive::open(&path.0).unwrap_err().to_string().contains("no more than the file has"));
}

/// Nothing is read, and no memory taken, of what is not asked for. Elsewhere nobody says how much memory there is.
#[cfg(target_os = "linux")]
#[test]
fn a_small_tensor_of_a_huge_file_is_read_alone() {
    use std::io::Write;
    let path = Temporary::new("huge");
    const HUGE: u64 = 1 << 40;
    let header = format!(
        r#"{{"huge":{{"dtype":"U8","shape":[{HUGE}],"data_offsets":[0,{HUGE}]}},"last":{{"dtype":"BF16","shape":[2],"data_offsets":[{HUGE},{}]}}}}"#,
        HUGE + 4
    );
    let mut out = std::fs::File::create(&path.0).unwrap();
    out.write_all(&file(&header, &[])).unwrap();
    // Holes take no space on the device.
    if out.set_len(8 + header.len() as u64 + HUGE + 4).is_err() {
        println!("this file system has no files of {HUGE} bytes");
        return;
    }
    let archive = Archive::open(&path.0).unwrap();
    assert_eq!(into_memory(&archive.tensors["last"]).unwrap(), vec![0f32, 0.0].into());
    assert_eq!(
        into_memory(&archive.tensors["huge"].rows(12_345_678, 12_345_681).unwrap()).unwrap(),
        vec![0u8; 3].into()
    );
    let error = archive.tensors["huge"].read().unwrap_err().to_string();
    assert!(error.contains("of memory"), "{error}");
}

#[test]
fn overlaps_and_gaps_are_errors() {
    let header = |a: [u64; 2], b: [u64; 2]| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a:?}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b:?}}}}}"#
        )
    };
    for (a, b, n) in [([0, 8], [4, 12], 12), ([0, 8], [0, 8], 8), ([0, 8], [9, 17], 17), ([4, 12], [12, 20], 20)] {
        let error = Archive::parse(&file(&header(a, b), &vec![0; n]), "f").unwrap_err().to_string();
        assert!(error.contains("to begin where the one before ends"), "{a:?} {b:?}: {error}");
    }
    // In another order than that of names.
    let bytes = file(&header([8, 16], [0, 8]), &[[1; 8], [2; 8]].concat());
    let read = Archive::parse(&bytes, "f").unwrap();
    assert_eq!(read.tensors["a"].read().unwrap().bits(), [0x0202_0202; 2]);
}

/// Numbers of 16 bits of every kind around the borders of pieces, at every place in a piece, row by row and turned.
#[test]
fn numbers_are_widened_across_pieces() {
    let n = 3 * (1 << 14) + 5;
    let kinds =
        [0x0001u16, 0x83ff, 0x7c00, 0xfc00, 0x7e01, 0xfd55, 0x0400, 0x8000, 0x3c00, 0x7bff, 0x7f80, 0xffc1, 0x0080];
    let halves: Vec<u16> = (0..2 * n).map(|i| kinds[i % kinds.len()]).collect();
    let data: Vec<u8> = halves.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    for dtype in ["F16", "BF16"] {
        // All numbers by themselves: what is right is tested elsewhere.
        let one = |bits: u16| {
            let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[],"data_offsets":[0,2]}}}}"#);
            SafeTensors::parse(&file(&header, &bits.to_le_bytes()), "f").unwrap().tensors["w"].bits()[0]
        };
        let wide = kinds.map(one);
        let header = format!(r#"{{"w":{{"dtype":"{dtype}","shape":[{n},2],"data_offsets":[0,{}]}}}}"#, data.len());
        let bytes = file(&header, &data);
        let tensor = &Archive::parse(&bytes, "f").unwrap().tensors["w"];
        let expected = |at: usize| wide[at % kinds.len()];
        let read = into_memory(tensor).unwrap().bits();
        assert!((0..2 * n).all(|i| read[i] == expected(i)), "{dtype}");
        let turned = into_memory(&tensor.transposed(&[1, 0]).unwrap()).unwrap();
        assert_eq!(turned.shape()[..], [2, n]);
        let turned = turned.bits();
        assert!((0..n).all(|i| [turned[i], turned[n + i]] == [expected(2 * i), expected(2 * i + 1)]), "{dtype}");
        let part = into_memory(&tensor.rows(1 << 14, n).unwrap()).unwrap().bits();
        assert!(part.iter().enumerate().all(|(i, &bits)| bits == expected((2 << 14) + i)), "{dtype}");
    }
}

/// Against `ndarray`, for all orders of axes, of sizes that are no divisors of a piece, and with axes of 0 and 1.
#[test]
fn axes_come_in_any_order() {
    fn check(tensor: TensorData) {
        let file = SafeTensors { tensors: [("t".to_owned(), tensor.clone())].into(), ..SafeTensors::default() };
        let bytes = bytes_of(&file);
        let unread = &Archive::parse(&bytes, "f").unwrap().tensors["t"];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let turned = unread.transposed(&order).unwrap();
            let array = cotangent_graph::map_array!(&tensor, a => a.view().permuted_axes(IxDyn(&order)));
            assert_eq!(into_memory(&turned).unwrap(), array.into_owned(), "{order:?}");
            // And once more: what comes out is as if it had been done in memory.
            let again = turned.transposed(&[2, 0, 1]).unwrap();
            let turned = turned.read().unwrap();
            let array = cotangent_graph::map_array!(&turned, a => a.view().permuted_axes(IxDyn(&[2, 0, 1])));
            assert_eq!(into_memory(&again).unwrap(), array.into_owned(), "{order:?}");
        }
        for wrong in [&[0, 1][..], &[0, 1, 1], &[0, 1, 3], &[0, 1, 2, 3]] {
            let error = unread.transposed(wrong).unwrap_err().to_string();
            assert!(error.contains("required each axis of"), "{error}");
        }
    }
    for shape in [[7, 5, 1013], [1013, 3, 11], [2, 1, 9001], [5, 0, 3], [1, 1, 1]] {
        let n: usize = shape.iter().product();
        let long =
            ArrayD::from_shape_vec(IxDyn(&shape), (0..n as i64).map(|k| k * 0x0123_4567_89ab).collect()).unwrap();
        check(long.mapv(|v| v as u8).into());
        check(long.mapv(|v| v as f32).into());
        check(long.mapv(|v| v % 3 == 0).into());
        check(long.into());
    }
}

#[test]
fn rows_are_those_of_the_file() {
    let all = ArrayD::from_shape_fn(vec![6, 4], |i| (i[0] * 4 + i[1]) as i32);
    let file = SafeTensors {
        tensors: [("t".to_owned(), all.into()), ("s".to_owned(), 1f32.into())].into(),
        ..SafeTensors::default()
    };
    let bytes = bytes_of(&file);
    let archive = Archive::parse(&bytes, "f").unwrap();
    let t = &archive.tensors["t"];
    assert_eq!(into_memory(&t.rows(4, 6).unwrap()).unwrap(), array![[16, 17, 18, 19], [20, 21, 22, 23]].into());
    let turned = t.rows(1, 3).unwrap().rows(1, 2).unwrap().transposed(&[1, 0]).unwrap();
    assert_eq!(into_memory(&turned).unwrap(), array![[8], [9], [10], [11]].into());
    assert_eq!(into_memory(&t.rows(6, 6).unwrap()).unwrap().shape()[..], [0, 4]);
    for (error, says) in [
        (t.rows(3, 7), "required some of i32[6,4], got 3..7"),
        (t.rows(3, 2), "got 3..2"),
        (archive.tensors["s"].rows(0, 0), "required some of f32[], got 0..0"),
        (t.transposed(&[1, 0]).unwrap().rows(0, 1), "take rows before axes change places"),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
