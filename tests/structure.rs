//! The rooms of the house: files stay short, crates use those that `docs/ARCHITECTURE.md` lets them use, and `unsafe` stands where it
//! says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Lines of a file at most.
const MOST_LINES: usize = 700;

/// Where `unsafe` may stand, beside tests and benchmarks: folders of whole crates, and files. The fuzzer counts allocations.
const UNSAFE: [&str; 7] = [
    "crates/exec/src/machine.rs",
    "crates/exec/src/machine/frame.rs",
    "crates/codegen/src/memory.rs",
    "crates/gemm/src/",
    "crates/pool/src/",
    "crates/host/src/",
    "crates/testkit/src/bin/fuzz.rs",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| entry.ok().map(|e| e.path())) {
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All sources by their path from the root, with their text.
fn all() -> BTreeMap<String, String> {
    let mut files = Vec::new();
    for folder in ["crates", "tests", "examples", "benches"] {
        sources(&root().join(folder), &mut files);
    }
    assert!(files.len() > 200, "{} files", files.len());
    let entry = |file: PathBuf| {
        let name = file.strip_prefix(root()).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        (name, std::fs::read_to_string(&file).unwrap())
    };
    files.into_iter().map(entry).collect()
}

/// Whether a line has `unsafe` code: the word, outside of comments and text, before a block or an item.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let items = ["{", "fn", "impl", "extern", "trait"];
    let starts = |at: usize| items.iter().any(|item| code[at + "unsafe ".len()..].starts_with(item));
    code.match_indices("unsafe ").any(|(at, _)| starts(at) && code[..at].matches('"').count().is_multiple_of(2))
}

#[test]
fn files_are_short() {
    let long = all().into_iter().map(|(name, text)| (name, text.lines().count())).filter(|file| file.1 > MOST_LINES);
    assert_eq!(
        long.collect::<Vec<_>>(),
        [],
        "at most {MOST_LINES} lines: take what stands on its own into a file of its own"
    );
}

#[test]
fn unsafe_code_stands_where_the_architecture_says() {
    let is_library = |name: &str| name.starts_with("crates/") && name.contains("/src/");
    let allowed = |name: &str| UNSAFE.iter().any(|room| name.starts_with(room));
    let (inside, outside): (Vec<_>, Vec<_>) = all()
        .into_iter()
        .filter(|(name, text)| is_library(name) && text.lines().any(is_unsafe))
        .map(|(name, _)| name)
        .partition(|n| allowed(n));
    assert_eq!(outside, Vec::<String>::new(), "`unsafe` outside of its rooms");
    for room in UNSAFE {
        assert!(inside.iter().any(|name| name.starts_with(room)), "{room} has no `unsafe` any more");
    }
    assert!(
        is_unsafe("    let x = unsafe { *p };") && is_unsafe("pub unsafe fn f() {") && is_unsafe("unsafe impl Send")
    );
    assert!(
        !is_unsafe("// unsafe { }")
            && !is_unsafe(r#"assert!(text.contains("unsafe {"));"#)
            && !is_unsafe("unsafe_code")
    );
}

/// The crates of this workspace that a manifest lists under `[dependencies]`.
fn uses(manifest: &str) -> BTreeSet<String> {
    let section = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let name = |line: &str| Some(line.strip_prefix("cotangent-")?.split(['.', ' ', '=']).next()?.to_owned());
    lines.filter_map(name).collect()
}

#[test]
fn crates_use_those_that_the_architecture_names() {
    let page = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let rows =
        page.lines().skip_while(|line| !line.starts_with("| crate |")).skip(2).take_while(|l| l.starts_with('|'));
    let quoted = |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    // What follows from others need not be named: an arrow reads "may use".
    let mut may: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, _, of, _] = cells[..] else { panic!("four columns: {row}") };
        let mut named = quoted(of);
        let through: Vec<BTreeSet<String>> = named.iter().filter_map(|other| may.get(other).cloned()).collect();
        named.extend(through.into_iter().flatten());
        may.insert(name.trim_matches('`').to_owned(), named);
    }
    assert!(may.len() > 10 && may["kernel"].contains("scalar") && !may["passes"].contains("kernel"), "{may:?}");
    for (name, may) in may.iter().filter(|(name, _)| *name != "testkit") {
        let manifest = std::fs::read_to_string(root().join(format!("crates/{name}/Cargo.toml"))).unwrap();
        let others: Vec<String> = uses(&manifest).difference(may).cloned().collect();
        assert_eq!(others, Vec::<String>::new(), "`{name}` uses what docs/ARCHITECTURE.md does not name");
    }
    assert_eq!(
        uses("[dependencies]\ncotangent-a.workspace = true\nb = \"1\"\n[dev-dependencies]\ncotangent-c = 1").len(),
        1
    );
}
