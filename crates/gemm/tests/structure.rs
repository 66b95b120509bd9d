//! The files of this crate stand one on top of the other: none imports, even through others, one that imports it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The modules that a source text imports: what follows `crate::` up to the end of a name or group, by module, or by the module
/// that `exports` says a name comes from. Comments do not count.
fn imports(text: &str, exports: &BTreeMap<String, String>) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let word =
        |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let group = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        for name in group.unwrap_or(rest).split(", ").take(if group.is_some() { usize::MAX } else { 1 }) {
            let name = word(name.trim());
            found.insert(exports.get(&name).unwrap_or(&name).clone());
        }
    }
    found
}

/// The modules of circles: what is left once everything has gone that imports, or that is imported by, only what has gone.
fn circle(mut imports: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    loop {
        let left: BTreeSet<String> = imports.keys().cloned().collect();
        let imported: BTreeSet<String> = imports.values().flatten().cloned().collect();
        imports.retain(|module, of| imported.contains(module) && of.iter().any(|other| left.contains(other)));
        if imports.len() == left.len() {
            return left.into_iter().collect();
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let lib = read(&folder.join("lib.rs"));
    // `pub use module::{A, b};`: whoever imports `crate::A` imports the module.
    let mut exports = BTreeMap::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("pub use ")?.strip_suffix(';')) {
        let (module, names) = line.split_once("::").unwrap();
        for name in names.trim_matches(['{', '}']).split(", ") {
            exports.insert(name.to_owned(), module.to_owned());
        }
    }
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for module in lib.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')) {
        // A folder is one module.
        let inside = std::fs::read_dir(folder.join(module)).into_iter().flatten().map(|entry| entry.unwrap().path());
        let files = std::iter::once(folder.join(format!("{module}.rs"))).chain(inside).filter(|path| path.exists());
        let mut of: BTreeSet<String> = files.flat_map(|path| imports(&read(&path), &exports)).collect();
        of.remove(module);
        all.insert(module.to_owned(), of);
    }
    assert!(all["gemm"].contains("drive") && all["drive"].contains("kernel") && all["kernel"].contains("number"));
    assert_eq!(circle(all), Vec::<String>::new(), "these files import each other in a circle");
}

#[test]
fn a_circle_is_found_and_a_tower_is_none() {
    let graph = |edges: &[(&str, &str)]| {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in edges {
            all.entry((*to).to_owned()).or_default();
            all.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        all
    };
    assert!(circle(graph(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
    assert_eq!(circle(graph(&[("a", "b"), ("b", "c"), ("c", "b"), ("d", "b")])), ["b", "c"]);
    let exports = BTreeMap::from([("Gemm".to_owned(), "gemm".to_owned())]);
    let text = "use crate::way::{Way, Case};\n// crate::none\nuse crate::{Gemm, pack};\ncrate::drive::run();";
    assert_eq!(imports(text, &exports).into_iter().collect::<Vec<_>>(), ["drive", "gemm", "pack", "way"]);
}
