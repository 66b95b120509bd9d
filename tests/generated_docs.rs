//! The generated pages under `docs/` are what the code says: `ops.md` from the registry, `rules.md` from the passes.
//!
//! A page that is out of date fails its test with the lines that differ. `COTANGENT_BLESS=1 cargo test -p cotangent --test
//! generated_docs` rewrites it. Nothing here looks at how the pages are written, only that they are fresh.

use std::fmt::Write;
use std::path::Path;

use cotangent::graph::attrs::AttrKind;
use cotangent::graph::op::{Lower, OpDef, OpTraits, Registry, Source, Vjp};
use cotangent::passes::{Safety, all_rules, pipeline};

#[test]
fn the_op_reference_is_fresh() {
    check_page("docs/ops.md", &op_reference());
}

#[test]
fn the_rule_reference_is_fresh() {
    check_page("docs/rules.md", &rule_reference());
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

// ---- ops -------------------------------------------------------------------------------------------------------------

fn op_reference() -> String {
    let ops: Vec<&'static OpDef> = Registry::builtin().iter().map(|op| op.0).collect();
    let mut out = String::from("# Ops\n\n");
    out.push_str(
        "<!-- Generated from the registry by tests/generated_docs.rs; change the records, not this page. -->\n\n",
    );
    let _ = writeln!(
        out,
        "Every op of the registry: {} in all. *Lowers as* says how the op becomes loops or steps; *composites* are \
         replaced by other ops before that. *Derivative* says how `differentiate` goes through it. \
         [adding-an-op.md](adding-an-op.md) explains the record behind each section.\n",
        ops.len()
    );
    out.push_str("| op | operands | lowers as | derivative |\n|---|---|---|---|\n");
    for op in &ops {
        let _ = writeln!(out, "| [`{0}`](#{0}) | {1} | {2} | {3} |", op.name, op.arity, kind(op), slope(op).0);
    }
    for op in &ops {
        section(&mut out, op);
    }
    out
}

fn section(out: &mut String, op: &OpDef) {
    let _ = writeln!(out, "\n## {}\n\n{}\n", op.name, op.doc);
    let _ = writeln!(out, "* Operands: {}.", op.arity);
    let _ = writeln!(out, "* Lowers as: {}.", lowering(op));
    let (what, why) = slope(op);
    let _ = match why {
        Some(why) => writeln!(out, "* Derivative: {what}; {why}."),
        None => writeln!(out, "* Derivative: {what}."),
    };
    let traits = properties(op.traits);
    if !traits.is_empty() {
        let _ = writeln!(out, "* Properties: {}.", traits.join(", "));
    }
    if !op.attrs.is_empty() {
        out.push_str("\n| attribute | kind | meaning |\n|---|---|---|\n");
        for attr in op.attrs {
            let _ = writeln!(out, "| `{}` | {} | {} |", attr.name, attr_kind(attr.kind), escaped(attr.doc));
        }
    }
}

/// Text of a record as a cell of a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The lowering in a word or two.
fn kind(op: &OpDef) -> &'static str {
    match &op.lower {
        Lower::Scalar(_) => "scalar program",
        Lower::Reduce(_) => "reduction",
        Lower::View(_) => "view",
        Lower::Join => "copies",
        Lower::Gemm => "product",
        Lower::Gather => "gather",
        Lower::ScatterAdd => "scatter",
        Lower::Check { .. } => "check",
        Lower::Identity => "nothing",
        Lower::Expand(_) => "composite",
        Lower::Source(_) => "source",
        Lower::Tuple | Lower::Item => "tuple",
        Lower::Grad => "derivative",
    }
}

fn lowering(op: &OpDef) -> String {
    match &op.lower {
        Lower::Scalar(_) => "a scalar program for each element; fuses with its neighbours".into(),
        Lower::Reduce(how) => {
            format!("a reduction ({}) over `axes`, in the order of [numerics.md](numerics.md)", how.name())
        }
        Lower::View(_) => "other indices into the same elements; costs nothing where a kernel reads it".into(),
        Lower::Join => "copies of the operands into places of the result".into(),
        Lower::Gemm => "a blocked matrix product, with what follows it as its epilogue".into(),
        Lower::Gather => "a step that copies rows, after a check of the indices".into(),
        Lower::ScatterAdd => "a step that adds rows in the order of the indices, after a check of the indices".into(),
        Lower::Check { .. } => "a check of the values before the step changes anything; they pass through".into(),
        Lower::Identity => "nothing: it is gone after differentiation".into(),
        Lower::Expand(_) => "other ops (a composite)".into(),
        Lower::Source(source) => match source {
            Source::Input => "a buffer that the caller hands in".into(),
            Source::Param | Source::State => "a buffer of the store".into(),
            Source::Constant => "a buffer of the program; a scalar becomes part of the code".into(),
            Source::Iota => "an index of the loop".into(),
            Source::Rng => "a scalar program of the element's index; recomputed, never stored".into(),
        },
        Lower::Tuple | Lower::Item => "nothing: tuples are taken apart before lowering".into(),
        Lower::Grad => "the graph of the derivative, made by the pass `differentiate`".into(),
    }
}

/// The derivative in a few words, and the reason if there is one.
fn slope(op: &OpDef) -> (&'static str, Option<&'static str>) {
    match op.vjp {
        Vjp::Rule(_) => ("own rule", None),
        Vjp::ViaExpansion => ("through its expansion", None),
        Vjp::Zero(why) => ("zero", Some(why)),
        Vjp::None(why) => ("none", Some(why)),
    }
}

fn properties(traits: OpTraits) -> Vec<&'static str> {
    let all = [
        (OpTraits::POINTWISE, "pointwise"),
        (OpTraits::COMMUTATIVE, "commutative"),
        (OpTraits::ODD, "odd"),
        (OpTraits::EVEN, "even"),
        (OpTraits::MONOTONE, "monotone"),
        (OpTraits::ZERO_PRESERVING, "keeps zero"),
        (OpTraits::IDEMPOTENT, "idempotent"),
        (OpTraits::SOURCE, "source"),
        (OpTraits::NAMED, "identified by name"),
    ];
    all.into_iter().filter(|(bit, _)| traits.has(*bit)).map(|(_, name)| name).collect()
}

fn attr_kind(kind: AttrKind) -> &'static str {
    match kind {
        AttrKind::Int => "whole number",
        AttrKind::Ints => "whole numbers",
        AttrKind::Float => "real number",
        AttrKind::Bool => "truth value",
        AttrKind::Str => "text",
        AttrKind::DType => "element type",
        AttrKind::Tensor => "tensor",
        AttrKind::Init => "initialiser",
        AttrKind::Body => "body",
    }
}

// ---- rules -----------------------------------------------------------------------------------------------------------

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
