//! The fuzzer itself: every mode runs a few cases, finds nothing, and sums up; wrong commands are refused.

use std::process::{Command, Output};

fn fuzz(arguments: &[&str]) -> Output {
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/fuzz-failures");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fuzz"));
    command.args(arguments).args(["--out", folder]).output().unwrap_or_else(|error| panic!("{error}"))
}

fn check(mode: &str, count: u32) {
    let output = fuzz(&[mode, "--count", &count.to_string()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("{mode}: {count} cases from seed 0, 0 failures")), "{text}");
}

#[test]
fn graphs() {
    check("graphs", 12);
}

#[test]
fn duals() {
    check("duals", 300);
}

#[test]
fn kernels() {
    check("kernels", 12);
}

#[test]
fn text() {
    check("text", 300);
}

#[test]
fn npz() {
    check("npz", 3000);
}

#[test]
fn idx() {
    check("idx", 3000);
}

#[test]
fn safetensors() {
    check("safetensors", 3000);
}

#[test]
fn checkpoint() {
    check("checkpoint", 3000);
}

#[test]
fn records() {
    check("records", 1000);
}

/// A graph in a file is checked in place of random ones.
#[test]
fn a_file_is_checked() {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/square.ct");
    let text = "; a comment\ncotangent 1\ngraph @square {\n  %0 = input \"x\" : f32[3]\n  %1 = mul %0, %0\n  output \"y\" = %1\n}\n";
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{error}"));
    let output = fuzz(&["graphs", "--file", path, "--seed", "3"]);
    assert!(output.status.success(), "{output:?}");
    let missing = fuzz(&["graphs", "--file", "there-is-no-such-file"]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
}

#[test]
fn wrong_commands_are_refused() {
    for wrong in [&["graph"][..], &["idx", "npz"], &["--count", "many"], &["--speed", "9"], &["--count"]] {
        let output = fuzz(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage: fuzz"), "{output:?}");
    }
}
