//! A stable 64-bit hash of weights.
//!
//! Why it exists: "the same bits for any number of threads" is a promise that a run should be able to show in one line.
//! Promises: the value depends on names, types and bits alone, in the order of the names, and is the same on every
//! platform and for ever (FNV-1a in 64 bits). It guards against accidents, not against an adversary.

use cotangent_exec::Store;
use cotangent_graph::Diag;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The hash of the values of these names. The order in which they are given does not matter.
///
/// # Errors
/// `E0304` if the store has no such name.
pub fn checksum<'a>(store: &Store, names: impl IntoIterator<Item = &'a str>) -> Result<u64, Diag> {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    let mut hash = OFFSET;
    for name in names {
        let value = store.get(name)?;
        // A zero byte ends each text, so that names cannot run into each other.
        let head = format!("{name}\0{}\0", value.ty());
        hash = head.bytes().fold(hash, step);
        hash = value.bits().into_iter().flat_map(u64::to_le_bytes).fold(hash, step);
    }
    Ok(hash)
}

/// The hash of everything in the store, the optimizer's states included.
///
/// # Errors
/// None; the names come from the store itself.
pub fn checksum_all(store: &Store) -> Result<u64, Diag> {
    checksum(store, store.iter().map(|(name, _)| name))
}

fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(PRIME)
}
