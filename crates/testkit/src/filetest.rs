//! Tests as text files: an input, a line `---- expect`, and the text that is expected of it.
//!
//! `COTANGENT_BLESS=1` rewrites what is expected. A failure prints a difference by lines and the next command to type.
//! Trailing white space at the ends of both parts does not count.

use std::fmt::Write;
use std::path::Path;

/// The line between input and expected text.
pub const SEPARATOR: &str = "---- expect";

/// Checks one file: `f` of its input part must be its expected part.
///
/// # Panics
/// If the file cannot be read, or differs and is not to be blessed.
#[track_caller]
pub fn check_file(path: impl AsRef<Path>, f: impl FnOnce(&str) -> String) {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let (input, expected) = match text.split_once(&format!("\n{SEPARATOR}\n")) {
        Some((input, expected)) => (input, expected),
        None => (text.trim_end_matches(SEPARATOR), ""),
    };
    let got = f(input);
    if got.trim_end() == expected.trim_end() {
        return;
    }
    if std::env::var_os("COTANGENT_BLESS").is_some_and(|v| v == "1") {
        let blessed = format!("{}\n{SEPARATOR}\n{}\n", input.trim_end(), got.trim_end());
        std::fs::write(path, blessed).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        return;
    }
    panic!(
        "{} differs (- expected, + got):\n{}\nif the new text is right: COTANGENT_BLESS=1 cargo test {}",
        path.display(),
        difference(expected.trim_end(), got.trim_end()),
        std::thread::current().name().unwrap_or_default(),
    );
}

/// Checks every file of a folder with the given extension; see [`check_file`].
///
/// # Panics
/// If there is no such file, or one of them fails; all are checked, and blessed, first.
#[track_caller]
pub fn check_files(folder: impl AsRef<Path>, extension: &str, f: impl Fn(&Path, &str) -> String) {
    let folder = folder.as_ref();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let mut paths: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no .{extension} files in {}", folder.display());
    let failed: Vec<String> = paths
        .iter()
        .filter_map(|path| {
            let check = std::panic::AssertUnwindSafe(|| check_file(path, |input| f(path, input)));
            std::panic::catch_unwind(check).is_err().then(|| path.display().to_string())
        })
        .collect();
    assert!(failed.is_empty(), "{} of {} files failed: {}", failed.len(), paths.len(), failed.join(", "));
}

/// The lines in which two texts differ, with their longest common subsequence as context.
pub fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    // Common ends first, so that the table stays small for the usual small change.
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut common = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    const CONTEXT: usize = 3;
    let mut out = String::new();
    let mut line = |sign: char, text: &str| {
        let _ = writeln!(out, "{sign} {text}");
    };
    old[head.saturating_sub(CONTEXT)..head].iter().for_each(|text| line(' ', text));
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            line(' ', a[i]);
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || common[i + 1][j] >= common[i][j + 1]) {
            line('-', a[i]);
            i += 1;
        } else {
            line('+', b[j]);
            j += 1;
        }
    }
    old[old.len() - tail..].iter().take(CONTEXT).for_each(|text| line(' ', text));
    out
}
