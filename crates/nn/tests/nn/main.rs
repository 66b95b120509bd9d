//! Tests of the crate through the interpreter, which evaluates `grad` by central differences: small f64 models train end
//! to end without the compiler's passes.

mod attention;
mod averages;
mod conv;
mod errors;
mod layers;
mod losses;
mod metrics;
mod norms;
mod optim;
mod places;
mod pytorch;
mod recipe;
mod recurrent;
mod schedules;
mod summary;

use cotangent_graph::{Diags, Graph, GraphBuilder, Loc, Stage, TensorData, build, verify};

/// A graph that is well formed, built by `f`.
fn graph(f: impl FnOnce(&GraphBuilder)) -> Graph {
    let graph = build(f).unwrap_or_else(|diags| panic!("{diags}"));
    assert_eq!(verify(&graph, Stage::Source), Vec::<String>::new());
    graph
}

/// The errors that `f` makes.
fn errors(f: impl FnOnce(&GraphBuilder)) -> Diags {
    build(f).err().unwrap_or_else(|| panic!("no error was recorded"))
}

/// Whether a place is in a file of this test, on the given line.
fn is_line(at: &Loc, file: &str, line: u32) -> bool {
    matches!(at, Loc::Code(place) if place.file() == file && place.line() == line)
}

/// The value of an output of an interpreted graph.
fn value<'a>(outputs: &'a [(String, TensorData)], name: &str) -> &'a TensorData {
    let found = outputs.iter().find(|(n, _)| n == name);
    &found
        .unwrap_or_else(|| panic!("no output `{name}` among {:?}", outputs.iter().map(|o| &o.0).collect::<Vec<_>>()))
        .1
}
