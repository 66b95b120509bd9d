//! Long fuzz runs in one command: `fuzz [graphs|duals|kernels|text|npz|idx|safetensors|checkpoint|records|all] [--count N]
//! [--seconds S] [--seed S]`.
//!
//! It exists for runs that are too long for `cargo test`. Cases are numbered: case `k` of a run with `--seed s` is case
//! `s + k` of any run, so `--seed K --count 1` is case `K` again. `--file F` (with `--seed`) checks a graph from a file in
//! place of random ones, and `--out DIR` is where failing cases are written. The exit code is 1 if anything failed and 2 if
//! the command was wrong.
//!
//! It assumes a Unix-like system for the process's peak memory, and shows 0 elsewhere. It promises that a run of the same
//! arguments does the same cases, but for `--seconds`, which ends it early.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::process::ExitCode;

#[path = "../fuzz/mod.rs"]
mod fuzz;

use fuzz::{Limits, Mode, meter};

/// The system's allocator, with a record of how much is held.
struct Metered;

// SAFETY: every call is handed on to the system's allocator, or refused with a null pointer, which the contract allows;
// the record is kept in atomic numbers and allocates nothing.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !meter::take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps `alloc`'s contract, which is the system's too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !meter::take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, n_bytes: usize) -> *mut u8 {
        if !meter::take(n_bytes) {
            return std::ptr::null_mut();
        }
        meter::give(layout.size());
        // SAFETY: `at` came from the system's allocator with this layout, because all calls go there.
        unsafe { System.realloc(at, layout, n_bytes) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        meter::give(layout.size());
        // SAFETY: as for `realloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Metered = Metered;

const USAGE: &str = "usage: fuzz [graphs|duals|kernels|text|npz|idx|safetensors|checkpoint|records|all] [--count N] [--seconds S] [--seed S] \
                     [--out DIR] [--file GRAPH]";

/// Cases of a mode where neither a count nor a time is given.
const DEFAULT_COUNT: u64 = 1000;

fn arguments(mut words: impl Iterator<Item = String>) -> Result<(Vec<Mode>, Limits), String> {
    let mut modes = None;
    let (mut count, mut seconds, mut seed, mut file) = (None, None, 0, None);
    let mut folder = PathBuf::from("fuzz-failures");
    fn number<T: std::str::FromStr>(option: &str, text: &str) -> Result<T, String> {
        text.parse().map_err(|_| format!("{option} requires a number, got `{text}`"))
    }
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            let named = Mode::named(&word).ok_or_else(|| format!("no mode is named `{word}`"))?;
            if modes.replace(named).is_some() {
                return Err("more than one mode was given".to_owned());
            }
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} requires a value"))?;
        match word.as_str() {
            "--count" => count = Some(number(&word, &value)?),
            "--seconds" => seconds = Some(number(&word, &value)?),
            "--seed" => seed = number(&word, &value)?,
            "--out" => folder = value.into(),
            "--file" => file = Some(PathBuf::from(value)),
            _ => return Err(format!("no option is named `{word}`")),
        }
    }
    let count = count.unwrap_or(if seconds.is_some() { u64::MAX } else { DEFAULT_COUNT });
    Ok((modes.unwrap_or_else(|| Mode::ALL.to_vec()), Limits { count, seconds, seed, folder, file }))
}

fn main() -> ExitCode {
    let (modes, limits) = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("{text}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    fuzz::keep_panics_quiet();
    let mut n_failures = 0;
    for mode in modes {
        n_failures += fuzz::run(mode, &limits);
    }
    if n_failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
