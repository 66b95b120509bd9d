//! How much memory the process holds, and the most it has held since a mark.
//!
//! It exists so that readers of files can be held to what they promise: memory in proportion to the file. The allocator of
//! the binary keeps the record; it assumes that one case runs at a time.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Larger requests are refused: no case needs them, and the machine should live.
const MOST: usize = 1 << 32;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static CASE: AtomicUsize = AtomicUsize::new(0);

/// Records an allocation; false if it must be refused, which ends the process, so that the case is named first.
pub fn take(n_bytes: usize) -> bool {
    if n_bytes > MOST {
        eprintln!("case {} asks for {n_bytes} bytes at once", CASE.load(Relaxed));
        return false;
    }
    let held = HELD.fetch_add(n_bytes, Relaxed).wrapping_add(n_bytes);
    PEAK.fetch_max(held, Relaxed);
    true
}

/// Records that memory was given back.
pub fn give(n_bytes: usize) {
    HELD.fetch_sub(n_bytes, Relaxed);
}

/// Names the case that runs.
pub fn start_case(seed: u64) {
    CASE.store(seed as usize, Relaxed);
}

/// Runs something and says how much more than before it held at most.
pub fn measured<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = f();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}

/// The most memory that the process ever had resident, in kibibytes; 0 where the system does not say.
pub fn resident_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}
