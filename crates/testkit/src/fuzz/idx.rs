//! IDX files, plain and compressed, whole and mutated: no panic, and memory in proportion to the file.
//!
//! A file that was not mutated must be read, with the shape it was made with.

use std::sync::LazyLock;

use cotangent_data::DataError;
use cotangent_data::idx::parse_idx;
use cotangent_testkit::Rng;
use cotangent_testkit::archives::{gzip, gzip_bomb};

use super::mutate::mutate;
use super::npz::Budget;
use super::{Fault, Limits, Mode, drive, keep, meter, replay};

/// The most places that a file is changed in.
const MOST: usize = 5;
const CODES: [(u8, usize); 6] = [(0x08, 1), (0x09, 1), (0x0b, 2), (0x0c, 4), (0x0d, 4), (0x0e, 8)];
const TOKENS: [&[u8]; 4] = [&[0, 0, 8, 3], &[0, 0, 0x0e, 1], &[0x1f, 0x8b, 8, 0], &[0xff, 0xff, 0xff, 0xff]];

/// A file of a case, and its shape if it is whole.
struct File {
    bytes: Vec<u8>,
    shape: Option<Vec<usize>>,
    compressed: bool,
}

fn plain(rng: &mut Rng) -> (Vec<u8>, Vec<usize>) {
    let (code, size) = *rng.pick(&CODES);
    let mut shape: Vec<usize> = (0..1 + rng.below(3)).map(|_| *rng.pick(&[0, 1, 2, 3, 7, 16, 28])).collect();
    if rng.chance(0.01) {
        shape = vec![1 + rng.below(200), 1 + rng.below(200)];
    }
    let mut bytes = vec![0, 0, code, shape.len() as u8];
    shape.iter().for_each(|&extent| bytes.extend((extent as u32).to_be_bytes()));
    let uniform = rng.chance(0.3);
    bytes.extend((0..size * shape.iter().product::<usize>()).map(|_| if uniform { 0 } else { rng.bits() as u8 }));
    (bytes, shape)
}

/// Files of zeros, which gzip to a thousandth: made once, for it takes a while. Some are within what readers allow, and the
/// last promises less than it holds.
static BOMBS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let bomb = |says: u32, mib: usize| gzip_bomb(&[&[0, 0, 8, 1][..], &says.to_be_bytes()].concat(), mib << 20);
    [5u32, 40, 80, 200].map(|mib| bomb(mib << 20, mib as usize)).into_iter().chain([bomb(1000, 200)]).collect()
});

fn file(seed: u64) -> File {
    let mut rng = Rng::new(seed ^ 0x1d78);
    if rng.chance(0.001) {
        let mut bytes = rng.pick(&BOMBS).clone();
        if rng.chance(0.3) {
            mutate(&mut rng, MOST, &mut bytes, &[], &TOKENS);
        }
        return File { bytes, shape: None, compressed: true };
    }
    let (mut bytes, shape) = plain(&mut rng);
    let (other, _) = plain(&mut rng);
    let whole = rng.chance(0.05);
    if !whole && rng.chance(0.7) {
        mutate(&mut rng, MOST, &mut bytes, &other, &TOKENS);
    }
    let compressed = rng.chance(0.5);
    if compressed {
        bytes = gzip(&bytes, rng.below(10) as u32);
        if !whole && rng.chance(0.6) {
            mutate(&mut rng, MOST, &mut bytes, &gzip(&other, 6), &TOKENS);
        }
    }
    // A mutation may make the two bytes that mark gzip.
    let compressed = compressed || bytes.starts_with(&[0x1f, 0x8b]);
    File { bytes, shape: whole.then_some(shape), compressed }
}

/// Runs the mode; returns the number of failures.
pub fn run(limits: &Limits) -> usize {
    let (mut n_read, mut n_too_large, mut n_bytes, mut worst) = (0u64, 0u64, 0u64, Budget::default());
    let case = |seed| {
        let file = file(seed);
        let (result, peak) = meter::measured(|| parse_idx(&file.bytes, "fuzz"));
        n_bytes += file.bytes.len() as u64;
        n_read += u64::from(result.is_ok());
        worst.check(file.bytes.len(), peak, file.compressed)?;
        n_too_large += u64::from(matches!(result, Err(DataError::TooLarge { .. })));
        match (&result, &file.shape) {
            (Err(error), Some(_)) => Err(Fault::new("whole file", error.to_string())),
            (Ok(array), Some(shape)) if array.shape()[..] != shape[..] => {
                Err(Fault::new("whole file", format!("its shape is {shape:?}, read as {:?}", array.shape())))
            }
            _ => Ok(()),
        }
    };
    let write = |seed: u64, _: &Fault| {
        let kept = keep(limits, &format!("idx-{seed}.idx"), &file(seed).bytes);
        format!("{kept}; {}", replay(Mode::Idx, &format!("--seed {seed} --count 1")))
    };
    let done = drive(Mode::Idx, limits, case, write);
    done.summary(
        Mode::Idx,
        limits,
        &format!("{n_read} read without error, {n_too_large} too large, {n_bytes} bytes, {worst}"),
    );
    done.n_failures
}
