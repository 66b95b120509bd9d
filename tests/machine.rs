//! Facts about machines stand in one place, `crates/host/src/target.rs`: what decides how programs are compiled and run asks there.

use std::path::{Path, PathBuf};

/// The crates that make decisions for a machine.
const DECIDING: [&str; 5] = ["gemm", "kernel", "codegen", "exec", "pool"];

/// What a machine's facts look like in code, and what the line says that may have them all the same.
const FACTS: [(&str, &str); 8] = [
    // What Cranelift needs to make any code.
    ("is_x86_feature_detected", "sse4.1"),
    ("is_aarch64_feature_detected", ""),
    ("cpuid", ""),
    ("available_parallelism", ""),
    ("<< 10", ""),
    // The stack of a thread is the standard library's.
    ("<< 20", "STACK"),
    ("_ns: ", "fn "),
    ("NANOS", ""),
];

/// Source files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// The lines of a source with facts: code before the tests, comments left out.
fn strays(text: &str) -> Vec<&str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let is_fact = |line: &&str| {
        FACTS.iter().any(|(fact, unless)| line.contains(fact) && (unless.is_empty() || !line.contains(unless)))
    };
    code.lines().filter(is_code).filter(is_fact).collect()
}

#[test]
fn machines_are_described_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    DECIDING.iter().for_each(|name| sources(&root.join("crates").join(name).join("src"), &mut files));
    assert!(files.len() > 50);
    let mut found = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        found.extend(strays(&text).into_iter().map(|line| format!("{}: {}", path.display(), line.trim())));
    }
    assert!(found.is_empty(), "these belong in `Target`:\n{}", found.join("\n"));
    let target = std::fs::read_to_string(root.join("crates/host/src/target.rs")).unwrap();
    for (fact, _) in FACTS.iter().filter(|(fact, _)| !matches!(*fact, "is_aarch64_feature_detected" | "NANOS")) {
        assert!(target.contains(fact), "the test looks for {fact}, which is written otherwise");
    }
}

#[test]
fn a_stray_fact_is_found() {
    let text = "//! 4 << 10\nconst CACHE: usize = 32 << 10;\nif has!(\"x\") {}\n#[cfg(test)]\nlet x = 1 << 20;";
    assert_eq!(strays(text), ["const CACHE: usize = 32 << 10;"]);
    assert_eq!(strays("is_x86_feature_detected!(\"sse4.1\")"), [""; 0]);
    assert_eq!(strays("is_x86_feature_detected!(\"avx2\")").len(), 1);
}
