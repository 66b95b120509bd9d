//! The written pages under `docs/` keep up with the code: every error code has its section, every knob its row, every
//! crate with tests its line, every row of the lecture its call, test and example, and every link leads somewhere.
//!
//! The examples on the pages are run as documentation tests of the facade; the generated pages have `generated_docs.rs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cotangent::graph::diag::Code;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

/// All files below a folder with one of the extensions; build results and hidden folders are left out.
fn files(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && (!name.starts_with('.') || name == ".ci") {
                files(&path, extensions, found);
            }
        } else if extensions.iter().any(|e| path.extension().is_some_and(|x| x == *e)) {
            found.push(path);
        }
    }
}

fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    files(&root().join("docs"), &["md"], &mut pages);
    pages.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)).into_iter().filter(|p| p.exists()));
    pages
}

/// The lines of a page that are not inside a code block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// The anchors that headings of a page make, as the usual renderers name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings.map(|line| slug(line.trim_start_matches('#').trim())).collect()
}

fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase()
}

/// Words of a text that are made of the given characters and start with a prefix.
fn words<'t>(text: &'t str, prefix: &'t str, part: fn(char) -> bool) -> impl Iterator<Item = &'t str> {
    text.match_indices(prefix).map(move |(at, _)| {
        let rest = &text[at..];
        &rest[..rest.find(|c: char| !part(c)).unwrap_or(rest.len())]
    })
}

#[test]
fn every_error_code_has_its_section() {
    let page = read("docs/errors.md");
    let headings: Vec<&str> = prose(&page).filter_map(|line| line.strip_prefix("## ")).collect();
    let expected: Vec<String> = Code::ALL.iter().map(|(code, _)| format!("{} · {code:?}", code.text())).collect();
    assert_eq!(headings, expected, "docs/errors.md needs a section `## E0000 · Name` for every code, in order");
    for section in page.split("\n## ").skip(1) {
        assert!(section.contains("What to do"), "a section of docs/errors.md says what to do: {section}");
    }
}

/// The blocks of the page are run as tests, so every code is exercised by the block that shows it.
#[test]
fn every_error_code_has_an_example_that_runs() {
    let page = read("docs/errors.md");
    for (section, (code, _)) in page.split("\n## ").skip(1).zip(Code::ALL) {
        let blocks: Vec<&str> =
            section.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        // A checked step that diverges is a bug of the compiler; tests beside the code plant one.
        let shown = blocks.iter().any(|block| block.contains(&format!("\"{}\"", code.text())));
        assert_eq!(
            shown,
            *code != Code::Diverged,
            "{} of docs/errors.md needs a block that meets the error",
            code.text()
        );
    }
    let planted = read("crates/exec/src/check.rs");
    assert!(
        planted.contains("assert_eq!(error.code, Code::Diverged);"),
        "E0307 is tested where broken kernels are planted"
    );
}

#[test]
fn codes_named_on_pages_exist() {
    let known: BTreeSet<&str> = Code::ALL.iter().map(|(code, _)| code.text()).collect();
    for path in pages() {
        let text = read(&path);
        for word in words(&text, "E0", |c| c.is_ascii_alphanumeric()).filter(|w| w.len() == 5) {
            let is_code = word[1..].bytes().all(|b| b.is_ascii_digit());
            let is_example = word == "E0000";
            assert!(
                !is_code || is_example || known.contains(word),
                "{} names {word}, which is no code",
                path.display()
            );
        }
    }
}

#[test]
fn every_knob_is_documented_and_every_documented_knob_exists() {
    let knob = |c: char| c.is_ascii_uppercase() || c == '_';
    let mut sources = Vec::new();
    for folder in ["crates", "tests", "examples", "benches", ".ci"] {
        files(&root().join(folder), &["rs", "sh"], &mut sources);
    }
    let mut used = BTreeSet::new();
    for path in sources {
        let text = read(&path);
        used.extend(words(&text, "COTANGENT_", knob).filter(|w| w.len() > "COTANGENT_".len()).map(str::to_owned));
    }
    let page = read("docs/knobs.md");
    let documented: BTreeSet<String> = prose(&page)
        .filter(|line| line.starts_with("| `COTANGENT_"))
        .filter_map(|line| words(line, "COTANGENT_", knob).next())
        .map(str::to_owned)
        .collect();
    assert_eq!(documented, used, "docs/knobs.md (left) and the sources (right) name different knobs");
}

#[test]
fn every_crate_with_tests_is_on_the_testing_page() {
    let page = read("docs/testing.md");
    let entries = std::fs::read_dir(root().join("crates")).unwrap_or_else(|e| panic!("no crates: {e}"));
    for entry in entries.filter_map(|e| e.ok()).filter(|e| e.path().join("tests").is_dir()) {
        let folder = format!("crates/{}/tests", entry.file_name().to_string_lossy());
        assert!(page.contains(&folder), "docs/testing.md does not say what {folder} proves");
    }
}

#[test]
fn the_readmes_first_net_is_the_crate_that_the_tests_run() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("it is there");
    let program = read("examples/first-net/src/main.rs");
    let (program, _) = program.split_once("\n#[test]").expect("a program and its test");
    assert!(read("README.md").contains(program.trim_end()), "README.md has another program than examples/first-net");
}

/// Code on a page that says which file it is from stands there, part by part where `// …` leaves something out.
#[test]
fn quoted_source_is_in_its_file() {
    let mut n_quoted = 0;
    for page in pages() {
        let text = read(&page);
        for block in text.split("```rust,ignore\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let Some((path, code)) = block.strip_prefix("// crates/").and_then(|rest| rest.split_once('\n')) else {
                continue;
            };
            let source = read(root().join("crates").join(path));
            let mut rest = source.as_str();
            let is_gap = |line: &&str| line.trim() == "// …";
            for part in code.lines().collect::<Vec<&str>>().split(|line| is_gap(line)) {
                let part = part.join("\n");
                let at = rest.find(&part);
                rest = at.map_or_else(
                    || panic!("{}: not in {path}:\n{part}", page.display()),
                    |at| &rest[at + part.len()..],
                );
            }
            n_quoted += 1;
        }
    }
    assert!(n_quoted >= 3, "{n_quoted}");
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for path in pages() {
        let text = read(&path);
        let folder = path.parent().unwrap_or(root());
        for line in prose(&text) {
            let inline = line.match_indices("](").filter_map(|(at, _)| line[at + 2..].split(')').next());
            let reference =
                line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target.trim());
            for target in inline.chain(reference).filter(|t| !t.contains("://")) {
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file = if file.is_empty() { path.clone() } else { folder.join(file) };
                if !file.exists() {
                    broken.push(format!("{}: {target}", path.display()));
                } else if !anchor.is_empty() && !anchors(&read(&file)).contains(anchor) {
                    broken.push(format!("{}: no heading for {target}", path.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

/// Links of a line whose text is a name in code: the name and the file, from the folder of the pages.
fn named_links(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.match_indices("[`").filter_map(|(at, _)| {
        let (name, rest) = line[at + 2..].split_once("`](")?;
        Some((name, rest.split(')').next()?))
    })
}

/// Whether a Rust file defines an item, a method or a variant of this name.
fn defines(source: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    source.lines().map(str::trim_start).any(|line| {
        let item =
            ["fn ", "struct ", "enum ", "trait "].iter().find_map(|kind| line.split_once(kind)).map(|(_, rest)| rest);
        let named = item.unwrap_or(line);
        let variant = item.is_none() && named.strip_prefix(name).is_some_and(|rest| rest.starts_with([',', '(', '{']));
        variant || item.is_some() && named.strip_prefix(name).is_some_and(ends)
    })
}

#[test]
fn every_row_of_the_lecture_has_a_call_a_test_and_an_example_that_exist() {
    let page = read("docs/lecture.md");
    let mut wrong = Vec::new();
    // Between the heading and the last section, which is a table of figures.
    let rows = page.split("## The lecture's net").next().unwrap_or_default();
    for line in rows.lines() {
        let mut has_test = false;
        for (name, target) in named_links(line) {
            let source = read(Path::new("docs").join(target));
            if target.contains("/examples/") {
                if !target.ends_with(&format!("/{name}.rs")) {
                    wrong.push(format!("`{name}` is not {target}"));
                }
            } else if !defines(&source, name) {
                wrong.push(format!("`{name}` is not in {target}"));
            }
            has_test |= source.contains(&format!("#[test]\nfn {name}()"))
                || source.contains(&format!("#[test]\n    fn {name}()"));
        }
        let is_row = line.starts_with("| ") && !line.starts_with("| item") && !line.starts_with("|---");
        if is_row && !has_test {
            wrong.push(format!("no test is linked: {line}"));
        }
        if is_row && !line.contains("](../examples/") {
            wrong.push(format!("no example is linked: {line}"));
        }
        if is_row && line.trim_matches('|').split('|').any(|cell| cell.trim().is_empty()) {
            wrong.push(format!("a cell is empty: {line}"));
        }
    }
    assert!(named_links(rows).count() > 100 && wrong.is_empty(), "docs/lecture.md:\n{}", wrong.join("\n"));
    // The check finds what is not there.
    assert!(defines("    pub fn abc(self)", "abc") && defines("    Abc,", "Abc") && defines("pub struct Abc {", "Abc"));
    assert!(!defines("fn abcd()", "abc") && !defines("// abc", "abc") && !defines("abc(1)", "ab"));
}

#[test]
fn slugs_are_those_of_renderers() {
    assert_eq!(slug("E0901 · Unsupported"), "e0901--unsupported");
    assert_eq!(slug("1 A graph of three nodes"), "1-a-graph-of-three-nodes");
    assert_eq!(slug("Matrix products: `gemm`"), "matrix-products-gemm");
}

/// The page for newcomers names an item and its file for every station: the file defines the item.
#[test]
fn stations_from_dense_to_the_instruction_are_where_the_page_says() {
    let page = read("docs/from-dense-to-instruction.md");
    // Line breaks may be anywhere.
    let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut n_stations = 0;
    for (at, _) in text.match_indices("` in [`") {
        let item = text[..at].rsplit('`').next().unwrap_or_default();
        let file = text[at + "` in [`".len()..].split('`').next().unwrap_or_default();
        let source = read(file);
        let kinds = ["fn", "struct", "enum", "trait", "static", "macro_rules!"];
        let is_defined = kinds.iter().any(|kind| {
            let definition = format!("{kind} {item}");
            source.match_indices(&definition).any(|(at, _)| {
                let next = source[at + definition.len()..].chars().next();
                !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
            })
        });
        assert!(is_defined, "docs/from-dense-to-instruction.md says that {file} defines `{item}`");
        n_stations += 1;
    }
    assert!(n_stations >= 25, "{n_stations}");
}
