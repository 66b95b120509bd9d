//! An op is its record: no code compares the name of one with a string, outside of the text form and its tests, so that an op
//! from outside is taken for no other and a new one needs no entry elsewhere.
//!
//! The source text is searched: the compiler cannot tell a name that is printed from one that is compared.

use std::path::{Path, PathBuf};

/// The text form names ops; here names mean something.
const TEXT_FORM: [&str; 3] = ["crates/graph/src/text/", "crates/graph/tests/text.rs", "tests/identity.rs"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| entry.ok().map(|e| e.path())) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether a line compares an op's name: `op.name == "…"`, `"…" != node.op.0.name`, `match op.name`, `matches!(op.name, …)`,
/// `known.contains(&op.name)` and the like.
fn compares_a_name(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["op.name", "op.0.name", "op().name"].iter().any(|name| {
        code.match_indices(name).any(|(at, _)| {
            let after = code[at + name.len()..].trim_start();
            let is_path = |c: char| c.is_alphanumeric() || "_.()[]&*:".contains(c);
            let before = code[..at].trim_end_matches(is_path).trim_end();
            // Calls are part of the path: what stands before the operand's own name is looked at as a whole.
            let call = code[..at].trim_end_matches(|c: char| c.is_alphanumeric() || "_.&*".contains(c));
            ["==", "!="].iter().any(|op| after.starts_with(op) || before.ends_with(op))
                || ["matches!(", "assert_eq!(", "assert_ne!(", "contains("].iter().any(|f| call.ends_with(f))
                || before.ends_with("match")
        })
    })
}

#[test]
fn the_search_finds_comparisons() {
    for line in [
        r#"graph.node(id).op.name == "input""#,
        r#"if "input" != node.op.0.name {"#,
        r#"matches!(node.op.name, "param" | "state")"#,
        "match cx.op.name {",
        "KNOWN.contains(&op.name)",
        r#"assert_eq!(graph.op.name, "exp");"#,
        "if x == graph.node(id).op.name {",
    ] {
        assert!(compares_a_name(line), "{line}");
    }
    for line in
        [r#"format!("{}", node.op.name)"#, "names.push(op.name); // op.name == here", "let name = node.op.name;"]
    {
        assert!(!compares_a_name(line), "{line}");
    }
}

#[test]
fn no_op_is_recognised_by_its_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["crates", "tests", "examples", "benches"] {
        sources(&root.join(folder), &mut files);
    }
    assert!(files.len() > 200, "{} files", files.len());
    let mut found = Vec::new();
    for file in &files {
        let name = file.strip_prefix(root).unwrap_or(file).to_string_lossy().replace('\\', "/");
        if TEXT_FORM.iter().any(|form| name.starts_with(form)) {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (n, line) in text.lines().enumerate().filter(|(_, line)| compares_a_name(line)) {
            found.push(format!("{name}:{}: {}", n + 1, line.trim()));
        }
    }
    assert!(found.is_empty(), "compare the record with `is`, or use an accessor of `Node`:\n{}", found.join("\n"));
}
