//! Mutations of bytes: what text, archives and IDX files have in common.

use cotangent_testkit::Rng;

/// Numbers at which sizes, offsets and counts go wrong.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    3,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// The most bytes that a mutated input has.
const MAX_BYTES: usize = 1 << 18;

/// Changes an input in one to `most` places. `other` is another valid input, `tokens` what the format is made of.
pub fn mutate(rng: &mut Rng, most: usize, bytes: &mut Vec<u8>, other: &[u8], tokens: &[&[u8]]) {
    for _ in 0..1 + rng.below(most) {
        let at = rng.below(bytes.len() + 1);
        let longest = if rng.chance(0.2) { 400 } else { 12 };
        let end = (at + 1 + rng.below(longest)).min(bytes.len());
        match rng.below(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = rng.bits() as u8,
            2 if rng.chance(0.4) => bytes.truncate(at),
            3 => {
                bytes.drain(at.min(end)..end);
            }
            4 => {
                let again = bytes[at.min(end)..end].to_vec();
                let to = rng.below(bytes.len() + 1);
                bytes.splice(to..to, again);
            }
            5 => {
                let from = rng.below(other.len() + 1);
                let until = (from + rng.below(64)).min(other.len());
                bytes.splice(at.min(end)..end, other[from..until].iter().copied());
            }
            6 if !tokens.is_empty() => {
                let token = *rng.pick(tokens);
                let until = if rng.chance(0.5) { at } else { (at + token.len()).min(bytes.len()) };
                bytes.splice(at..until, token.iter().copied());
            }
            7 | 8 => field(rng, bytes, at),
            _ => digits(rng, bytes, at),
        }
    }
    bytes.truncate(MAX_BYTES);
}

/// Overwrites a binary number, of either order of bytes.
fn field(rng: &mut Rng, bytes: &mut [u8], at: usize) {
    let n = *rng.pick(&[1, 2, 4, 8]);
    let Some(place) = at.checked_add(n).and_then(|end| bytes.get_mut(at..end)) else { return };
    let mut old = [0; 8];
    old[..n].copy_from_slice(place);
    let number = if rng.chance(0.6) {
        *rng.pick(&NUMBERS)
    } else {
        u64::from_le_bytes(old).wrapping_add(rng.below(9) as u64).wrapping_sub(4)
    };
    place.copy_from_slice(&number.to_le_bytes()[..n]);
    if rng.chance(0.3) {
        place.reverse();
    }
}

/// Replaces a number in digits, the next one from a place on.
fn digits(rng: &mut Rng, bytes: &mut Vec<u8>, at: usize) {
    let Some(start) = (at..bytes.len()).find(|&i| bytes[i].is_ascii_digit()) else { return };
    let end = (start..bytes.len()).find(|&i| !bytes[i].is_ascii_digit()).unwrap_or(bytes.len());
    let number = if rng.chance(0.5) { rng.below(70) as u64 } else { *rng.pick(&NUMBERS) };
    bytes.splice(start..end, number.to_string().into_bytes());
}
