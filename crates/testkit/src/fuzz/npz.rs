//! NumPy archives, stored and deflated, whole and mutated: no panic, and memory in proportion to the archive.
//!
//! Arrays and archives are made here, byte by byte, so that the reader is not tested with its own writer. Arrays are also
//! mutated before they are packed, for an archive's checksums would stop most mutations of its contents. An archive that
//! was not mutated must be read, with all of its arrays.

use std::fmt;
use std::sync::LazyLock;

use cotangent_data::npz::{Npz, parse_npz};
use cotangent_data::{DataError, ReadLimits};
use cotangent_testkit::Rng;
use cotangent_testkit::archives::{Entry, npy_header, zip};

use super::mutate::mutate;
use super::{Fault, Limits, Mode, drive, keep, meter, replay};

const DESCRS: [(&str, usize); 8] =
    [("<f4", 4), (">f4", 4), ("<f8", 8), (">f8", 8), ("<i4", 4), ("<i8", 8), ("|u1", 1), ("|b1", 1)];
const NPY_TOKENS: [&[u8]; 14] = [
    b"'<f4'",
    b"'>i8'",
    b"'|b1'",
    b"'|O'",
    b"True",
    b"False",
    b"()",
    b"(,)",
    b"(4294967296, 4294967296,)",
    b"'shape': ",
    b"'descr': ",
    b"((((((",
    b"[",
    b"\x93NUMPY\x02\x00",
];
const ZIP_TOKENS: [&[u8]; 7] =
    [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"\x00\x00\xff\xff", b"\x08\x00", b"\xff\xff\xff\xff"];

/// The most places that a file is changed in, and each array again.
const MOST: usize = 5;
/// What a reader may hold beyond what a plain file accounts for: messages, the parser of array headers.
const SLACK: usize = 32 << 10;
/// The same for a compressed one: the tables and the window of the decoder.
const DECODER: usize = 128 << 10;
/// Bytes that may be held for each byte of a file: the contents, a buffer that doubles, the elements, names.
const FACTOR: usize = 8;
/// The most bytes of an array that is no bomb.
const MOST_OWN: usize = 200 * 200 * 8 + 4096;
/// The most that deflate expands.
const EXPANSION: usize = 1032;

/// The most memory that was needed for a byte of a file, beyond the slack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    plain: f64,
    compressed: f64,
}

impl Budget {
    /// Whether the peak of a case is within what its file accounts for.
    pub fn check(&mut self, n_bytes: usize, peak: usize, compressed: bool) -> Result<(), Fault> {
        let (slack, factor) = if compressed { (DECODER, FACTOR * EXPANSION) } else { (SLACK, FACTOR) };
        let ratio = peak.saturating_sub(slack) as f64 / n_bytes.max(1) as f64;
        let worst = if compressed { &mut self.compressed } else { &mut self.plain };
        *worst = worst.max(ratio);
        // The contents, whose buffer doubles, and the elements; and never more than what deflate can do.
        let allowed = ReadLimits::default().expanded(n_bytes as u64) as usize;
        if peak <= slack + (factor * n_bytes).min(4 * allowed) {
            return Ok(());
        }
        Err(Fault::new("memory", format!("{peak} bytes were held for a file of {n_bytes} (compressed: {compressed})")))
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "held at most {} KiB + {:.2} bytes per byte of a plain file, {} KiB + {:.2} of a compressed one",
            SLACK >> 10,
            self.plain,
            DECODER >> 10,
            self.compressed
        )
    }
}

fn npy(rng: &mut Rng) -> Vec<u8> {
    let (descr, size) = *rng.pick(&DESCRS);
    let mut shape: Vec<usize> = (0..rng.below(4)).map(|_| *rng.pick(&[0, 1, 2, 3, 7, 16, 25])).collect();
    if rng.chance(0.01) {
        shape = vec![1 + rng.below(200), 1 + rng.below(200)];
    }
    let mut bytes = npy_header(descr, rng.chance(0.3), &shape);
    let (uniform, is_bool) = (rng.chance(0.3), descr == "|b1");
    let element = |rng: &mut Rng| if uniform { 0 } else { rng.bits() as u8 & if is_bool { 1 } else { 255 } };
    bytes.extend((0..size * shape.iter().product::<usize>()).map(|_| element(rng)));
    bytes
}

/// An archive of a case, and its number of arrays if it is whole.
struct File {
    bytes: Vec<u8>,
    n_arrays: Option<usize>,
    compressed: bool,
    /// Whether it has bombs and is not mutated as a whole, so that the entry `array0` is what it was made as.
    has_bombs: bool,
}

/// Entries of zeros, which deflate to a thousandth: made once, for it takes a while. Some are within what readers allow.
static BOMBS: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let zeros = |mib: usize| [npy_header("|u1", false, &[mib << 20]), vec![0; mib << 20]].concat();
    [5, 40, 80, 200].map(|mib| Entry::new(format!("bomb{mib}.npy"), &zeros(mib), true)).into()
});

/// Name, contents, whether they are deflated.
type Inner = (String, Vec<u8>, bool);

fn packed(entries: &[Inner], bombs: &[&Entry]) -> Vec<u8> {
    let own = entries.iter().map(|(name, contents, deflated)| Entry::new(name, contents, *deflated));
    zip(&own.chain(bombs.iter().map(|bomb| (*bomb).clone())).collect::<Vec<_>>())
}

fn entries(rng: &mut Rng) -> Vec<Inner> {
    let deflated = rng.chance(0.5);
    (0..rng.below(4)).map(|k| (format!("array{k}.npy"), npy(rng), deflated && rng.chance(0.8))).collect()
}

fn file(seed: u64) -> File {
    let mut rng = Rng::new(seed ^ 0x09b2);
    let mut inner = entries(&mut rng);
    let other = npy(&mut rng);
    let whole = rng.chance(0.05);
    if !whole && rng.chance(0.6) {
        for (_, contents, _) in &mut inner {
            mutate(&mut rng, MOST, contents, &other, &NPY_TOKENS);
        }
    }
    let with_bombs = rng.chance(0.002);
    let bombs: Vec<&Entry> =
        if with_bombs { (0..1 + rng.below(2)).map(|_| rng.pick(&BOMBS)).collect() } else { Vec::new() };
    let whole = whole && !with_bombs;
    let (n_arrays, mut bytes) = (inner.len(), packed(&inner, &bombs));
    let mutated = !whole && rng.chance(if with_bombs { 0.3 } else { 0.7 });
    if mutated {
        let other = packed(&entries(&mut rng), &[]);
        mutate(&mut rng, MOST, &mut bytes, &other, &ZIP_TOKENS);
    }
    let compressed = says_deflated(&bytes);
    File { bytes, n_arrays: whole.then_some(n_arrays), compressed, has_bombs: with_bombs && !mutated }
}

/// Whether a header of the directory, as mutated, says that its entry is deflated: then a decoder is set up.
fn says_deflated(bytes: &[u8]) -> bool {
    bytes.windows(12).any(|header| header.starts_with(b"PK\x01\x02") && header[10..] == [8, 0])
}

/// Runs the mode; returns the number of failures.
pub fn run(limits: &Limits) -> usize {
    let (mut n_read, mut n_too_large, mut n_bytes, mut worst) = (0u64, 0u64, 0u64, Budget::default());
    let case = |seed| {
        let file = file(seed);
        let (result, peak) = meter::measured(|| parse_npz(&file.bytes, "fuzz"));
        n_bytes += file.bytes.len() as u64;
        n_read += u64::from(result.is_ok());
        worst.check(file.bytes.len(), peak, file.compressed)?;
        n_too_large += u64::from(matches!(result, Err(DataError::TooLarge { .. })));
        if file.has_bombs
            && let Ok(mut npz) = Npz::of_bytes(&file.bytes, "fuzz")
        {
            // One array at a time: nothing of the others is expanded.
            let (_, peak) = meter::measured(|| npz.array("array0").map(drop));
            let most = DECODER + FACTOR * (file.bytes.len() + MOST_OWN);
            if peak > most {
                return Err(Fault::new("memory", format!("{peak} bytes were held for one array of a file")));
            }
        }
        match (&result, file.n_arrays) {
            (Err(error), Some(_)) => Err(Fault::new("whole file", error.to_string())),
            (Ok(arrays), Some(n)) if arrays.len() != n => {
                Err(Fault::new("whole file", format!("it has {n} arrays, {} were read", arrays.len())))
            }
            _ => Ok(()),
        }
    };
    let write = |seed: u64, _: &Fault| {
        let kept = keep(limits, &format!("npz-{seed}.npz"), &file(seed).bytes);
        format!("{kept}; {}", replay(Mode::Npz, &format!("--seed {seed} --count 1")))
    };
    let done = drive(Mode::Npz, limits, case, write);
    done.summary(
        Mode::Npz,
        limits,
        &format!("{n_read} read without error, {n_too_large} too large, {n_bytes} bytes, {worst}"),
    );
    done.n_failures
}
