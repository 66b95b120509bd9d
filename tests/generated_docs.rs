//! The generated pages under `docs/` are what the code says: `ops.md` from the registry, `rules.md` from the passes,
//! `config.md` from the keys of configurations.
//!
//! A page that is out of date fails its test with the lines that differ. `COTANGENT_BLESS=1 cargo test -p cotangent --test
//! generated_docs` rewrites it. Nothing here looks at how the pages are written, only that they are fresh.

use std::fmt::Write;
use std::path::Path;

use cotangent::graph::Registry;
use cotangent::graph::reference::reference;
use cotangent::passes::{Safety, all_rules, pipeline};

#[test]
fn the_op_reference_is_fresh() {
    check_page("docs/ops.md", &reference(&Registry::builtin()));
}

#[test]
fn the_rule_reference_is_fresh() {
    check_page("docs/rules.md", &rule_reference());
}

#[test]
fn the_configuration_reference_is_fresh() {
    check_page("docs/config.md", &cotangent_config::reference());
}

/// Compares a page with what it should be, or rewrites it when asked to.
fn check_page(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    if old == text {
        return;
    }
    if std::env::var_os("COTANGENT_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {name}: {e}"));
        return;
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), text.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let mut hint = String::new();
    let shown = |lines: &[&str], sign: char, out: &mut String| {
        for line in lines.iter().take(12) {
            let _ = writeln!(out, "{sign} {line}");
        }
        if lines.len() > 12 {
            let _ = writeln!(out, "{sign} … {} lines more", lines.len() - 12);
        }
    };
    shown(&old[head..old.len() - tail], '-', &mut hint);
    shown(&new[head..new.len() - tail], '+', &mut hint);
    panic!(
        "{name} is out of date from line {} on (- page, + code):\n{hint}to rewrite it: COTANGENT_BLESS=1 cargo test -p \
         cotangent --test generated_docs",
        head + 1
    );
}

// ---- rules -----------------------------------------------------------------------------------------------------------

/// Text of a record as a cell of a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

fn rule_reference() -> String {
    let rules = all_rules();
    let mut out = String::from("# Passes and rules\n\n");
    out.push_str("<!-- Generated from the passes by tests/generated_docs.rs; change the code, not this page. -->\n\n");
    out.push_str("The passes in the order in which they run. Those that repeat take turns until nothing changes.\n\n");
    out.push_str("| pass | purpose | from stage | repeats |\n|---|---|---|---|\n");
    for pass in pipeline() {
        let repeats = if pass.repeats() { "yes" } else { "no" };
        let _ = writeln!(out, "| `{}` | {} | {:?} | {repeats} |", pass.name(), escaped(pass.purpose()), pass.stage().0);
    }
    let _ = writeln!(
        out,
        "\nThe {} rules, pass by pass, in the order in which they are tried. What the safety of a rule means stands in \
         [adding-a-pass.md](adding-a-pass.md); rules that are off by default are marked.",
        rules.len()
    );
    let mut current = "";
    for (pass, rule) in rules {
        if pass != current {
            let _ = writeln!(out, "\n## {pass}\n\n| rule | equation | safety |\n|---|---|---|");
            current = pass;
        }
        let off = matches!(rule.safety, Safety::FiniteOnly | Safety::Reassociates);
        let mark = if off { ", off by default" } else { "" };
        let _ = writeln!(out, "| `{}` | {} | {}{mark} |", rule.name, escaped(rule.equation), rule.safety);
    }
    out
}
