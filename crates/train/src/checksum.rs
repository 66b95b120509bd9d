//! A stable 64-bit hash of weights.
//!
//! Why it exists: "the same bits for any number of threads" is a promise that a run should be able to show in one line;
//! and a checkpoint must notice when a byte of it has changed.
//! Promises: the value depends on names, types and bits alone, in the order of the names, and is the same on every
//! platform and for ever (FNV-1a in 64 bits). It guards against accidents, not against an adversary: any one changed byte
//! changes it, because each step of it is a bijection.

use std::fmt;

use cotangent_exec::Store;
use cotangent_graph::Diag;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a over bytes; prints as 16 hexadecimal digits.
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Fnv(OFFSET)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    }
}

impl Fnv {
    pub(crate) fn finish(&self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The hash of the values of these names. The order in which they are given does not matter.
///
/// # Errors
/// `E0304` if the store has no such name, `E0309` if there is no memory for a copy of a value.
pub fn checksum<'a>(store: &Store, names: impl IntoIterator<Item = &'a str>) -> Result<u64, Diag> {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    let mut hash = Fnv::new();
    for name in names {
        let value = store.get(name)?;
        // A zero byte ends each text, so that names cannot run into each other.
        hash.write(format!("{name}\0{}\0", value.ty()).as_bytes());
        value.bits().into_iter().for_each(|bits| hash.write(&bits.to_le_bytes()));
    }
    Ok(hash.0)
}

/// The hash of everything in the store, the optimizer's states included.
///
/// # Errors
/// `E0309` if there is no memory for a copy of a value.
pub fn checksum_all(store: &Store) -> Result<u64, Diag> {
    checksum(store, store.iter().map(|(name, _)| name))
}
