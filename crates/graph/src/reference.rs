//! The op reference: what the records of a registry say, as a page in Markdown.
//!
//! It exists so that `docs/ops.md` and the command line's `ops` print the same text. It assumes nothing of an op but its
//! record, so ops from outside have sections too; the same registry gives the same text.

use std::fmt::Write;

use crate::attrs::AttrKind;
use crate::op::{Lower, OpDef, OpTraits, Registry, Source, Vjp};

/// The whole page: a table of all ops, then a section for each, by name.
pub fn reference(registry: &Registry) -> String {
    let ops: Vec<&'static OpDef> = registry.iter().map(|op| op.0).collect();
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
        let _ = write!(out, "\n{}", section(op));
    }
    out
}

/// The section of one op.
pub fn section(op: &OpDef) -> String {
    let mut out = format!("## {}\n\n{}\n\n", op.name, op.doc);
    let _ = writeln!(out, "* Operands: {}.", op.arity);
    let _ = writeln!(out, "* Lowers as: {}.", lowering(op));
    let (what, why) = slope(op);
    let _ = match why {
        Some(why) => writeln!(out, "* Derivative: {what}; {why}."),
        None => writeln!(out, "* Derivative: {what}."),
    };
    let properties = properties(op);
    if !properties.is_empty() {
        let _ = writeln!(out, "* Properties: {}.", properties.join(", "));
    }
    if !op.attrs.is_empty() {
        out.push_str("\n| attribute | kind | meaning |\n|---|---|---|\n");
        for attr in op.attrs {
            let _ = writeln!(out, "| `{}` | {} | {} |", attr.name, attr_kind(attr.kind), escaped(attr.doc));
        }
    }
    out
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
        Lower::Gemm | Lower::Conv(_) => "product",
        Lower::Step(_) => "step",
        Lower::Loop => "loop",
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
        Lower::Conv(_) => "sums of products without windows in memory, with what follows them as their epilogue".into(),
        Lower::Step(step) => format!("a step that {}", step.doc()),
        Lower::Loop => "a loop around the plan of the body, which is made once".into(),
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

fn properties(op: &OpDef) -> Vec<&'static str> {
    let all = [
        (OpTraits::POINTWISE, "pointwise"),
        (OpTraits::COMMUTATIVE, "commutative"),
        (OpTraits::ODD, "odd"),
        (OpTraits::EVEN, "even"),
        (OpTraits::MONOTONE, "monotone"),
        (OpTraits::ZERO_PRESERVING, "keeps zero"),
        (OpTraits::IDEMPOTENT, "idempotent"),
        (OpTraits::POLE, "has a pole in its derivative"),
    ];
    let facts = [(op.source().is_some(), "source"), (op.is_named(), "identified by name")];
    all.into_iter().map(|(bit, name)| (op.traits.has(bit), name)).chain(facts).filter(|f| f.0).map(|f| f.1).collect()
}

fn attr_kind(kind: AttrKind) -> &'static str {
    match kind {
        AttrKind::Int => "whole number",
        AttrKind::Ints => "whole numbers",
        AttrKind::Float => "real number",
        AttrKind::Number => "number",
        AttrKind::Bool => "truth value",
        AttrKind::Str => "text",
        AttrKind::DType => "element type",
        AttrKind::Tensor => "tensor",
        AttrKind::Init => "initialiser",
        AttrKind::Body => "body",
    }
}
