//! Safetensors files, whole and mutated: no panic, and memory in proportion to the file.
//!
//! Files are made here, byte by byte, so that the reader is not tested with its own writer. A file that was not mutated
//! must be read, with all of its tensors; one that is read must come out the same when it is written and read again.

use cotangent_data::safetensors::SafeTensors;
use cotangent_testkit::Rng;

use super::mutate::mutate;
use super::{Fault, Limits, Mode, drive, keep, meter, replay};

const DTYPES: [(&str, usize); 6] = [("F64", 8), ("F32", 4), ("I64", 8), ("I32", 4), ("U8", 1), ("BOOL", 1)];
const TOKENS: [&[u8]; 16] = [
    b"\"dtype\":",
    b"\"shape\":",
    b"\"data_offsets\":",
    b"\"__metadata__\":{",
    b"\"F32\"",
    b"\"BF16\"",
    b"[0,0]",
    b"[[[[[[[[",
    b"{\"\":{",
    b"\"\":\"\",",
    b"0,0,0,0,0,0,0,0,",
    b"18446744073709551615",
    b"-1",
    b"1e400",
    b"\\ud800",
    b"null",
];

/// The most places that a file is changed in.
const MOST: usize = 5;
/// What the reader may hold beyond what the file accounts for: messages, nodes of maps.
const SLACK: usize = 32 << 10;
/// Bytes that may be held for each byte of a file: elements once more; names and entries of the header, whose text may be
/// as short as `"a":"",`.
const FACTOR: usize = 16;

/// A file of a case, and its number of tensors if it is whole.
struct File {
    bytes: Vec<u8>,
    n_tensors: Option<usize>,
}

fn safetensors(rng: &mut Rng) -> (Vec<u8>, usize) {
    let n_tensors = rng.below(4);
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    if rng.chance(0.5) {
        let texts: Vec<String> = (0..rng.below(4)).map(|k| format!("\"key{k}\": \"{}\"", rng.bits())).collect();
        entries.push(format!("\"__metadata__\": {{{}}}", texts.join(", ")));
    } else if rng.chance(0.02) {
        // Many short entries: what takes most memory for its text.
        let texts: Vec<String> = (0..rng.below(6000)).map(|k| format!("\"{k:x}\":\"\"")).collect();
        entries.push(format!("\"__metadata__\":{{{}}}", texts.join(",")));
    }
    for k in 0..n_tensors {
        let (dtype, size) = *rng.pick(&DTYPES);
        let shape: Vec<usize> = (0..rng.below(4)).map(|_| *rng.pick(&[0, 1, 2, 3, 7, 16])).collect();
        let begin = data.len();
        let mask = if dtype == "BOOL" { 1 } else { 255 };
        data.extend((0..size * shape.iter().product::<usize>()).map(|_| rng.bits() as u8 & mask));
        let end = data.len();
        entries.push(format!(
            "\"tensor{k}\": {{\"dtype\": \"{dtype}\", \"shape\": {shape:?}, \"data_offsets\": [{begin}, {end}]}}"
        ));
    }
    if n_tensors == 0 && rng.chance(0.05) {
        let n = rng.below(3000);
        let entry = |k| format!("\"{k:x}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
        entries.extend((0..n).map(entry));
        let header = format!("{{{}}}", entries.join(","));
        return (with_header(&header, &data), n);
    }
    let header = format!("{{{}}}{}", entries.join(", "), " ".repeat(rng.below(8)));
    (with_header(&header, &data), n_tensors)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn file(seed: u64) -> File {
    let mut rng = Rng::new(seed ^ 0x5afe);
    let (mut bytes, n_tensors) = safetensors(&mut rng);
    if rng.chance(0.05) {
        return File { bytes, n_tensors: Some(n_tensors) };
    }
    let other = safetensors(&mut rng).0;
    if rng.chance(0.7) {
        // The header alone, with its length mended: otherwise most mutations end at the length.
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default()) as usize;
        let data = bytes.split_off(8 + length);
        let mut header = bytes.split_off(8);
        mutate(&mut rng, MOST, &mut header, &other[8..], &TOKENS);
        bytes = [&(header.len() as u64).to_le_bytes(), &header[..], &data].concat();
    } else {
        mutate(&mut rng, MOST, &mut bytes, &other, &TOKENS);
    }
    File { bytes, n_tensors: None }
}

/// Runs the mode; returns the number of failures.
pub fn run(limits: &Limits) -> usize {
    let (mut n_read, mut n_bytes, mut worst) = (0u64, 0u64, 0f64);
    let case = |seed| {
        let file = file(seed);
        let (result, peak) = meter::measured(|| SafeTensors::parse(&file.bytes, "fuzz"));
        let n = file.bytes.len();
        n_bytes += n as u64;
        n_read += u64::from(result.is_ok());
        worst = worst.max(peak.saturating_sub(SLACK) as f64 / n.max(1) as f64);
        if peak > SLACK + FACTOR * n {
            return Err(Fault::new("memory", format!("{peak} bytes were held for a file of {n}")));
        }
        match (result, file.n_tensors) {
            (Err(error), Some(_)) => Err(Fault::new("whole file", error.to_string())),
            (Ok(read), Some(n)) if read.tensors.len() != n => {
                Err(Fault::new("whole file", format!("it has {n} tensors, {} were read", read.tensors.len())))
            }
            (Ok(read), _) => written_again(&read),
            (Err(_), None) => Ok(()),
        }
    };
    let write = |seed: u64, _: &Fault| {
        let kept = keep(limits, &format!("safetensors-{seed}.safetensors"), &file(seed).bytes);
        format!("{kept}; {}", replay(Mode::SafeTensors, &format!("--seed {seed} --count 1")))
    };
    let done = drive(Mode::SafeTensors, limits, case, write);
    let held = format!("held at most {} KiB + {worst:.2} bytes per byte of a file", SLACK >> 10);
    done.summary(Mode::SafeTensors, limits, &format!("{n_read} read without error, {n_bytes} bytes, {held}"));
    done.n_failures
}

fn written_again(read: &SafeTensors) -> Result<(), Fault> {
    let mut bytes = Vec::new();
    read.write_to(&mut bytes).map_err(|error| Fault::new("write", error.to_string()))?;
    match SafeTensors::parse(&bytes, "written") {
        Ok(again) if again == *read => Ok(()),
        Ok(_) => Err(Fault::new("write", "it is another file when it is read again")),
        Err(error) => Err(Fault::new("write", error.to_string())),
    }
}
