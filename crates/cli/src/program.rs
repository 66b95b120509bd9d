//! From a command line's FILE or WORKLOAD to a graph.
//!
//! A name of a workload stands for that workload; `-` is the standard input; anything else is a file in the text form.
//! A file that is called like a workload is reached as `./name`.

use std::fs;
use std::io::{self, Read};

use cotangent::graph::text::parse;
use cotangent::graph::{Graph, Registry};
use cotangent_train::workloads::{Workload, names};

use crate::Failure;

/// The graph that `source` stands for.
pub(crate) fn graph(source: &str) -> Result<Graph, Failure> {
    if names().any(|name| name == source) {
        return Workload::named(source).and_then(|workload| workload.build()).map_err(Failure::error);
    }
    let (text, file) = if source == "-" {
        let mut text = String::new();
        let read = io::stdin().lock().read_to_string(&mut text);
        read.map_err(|error| Failure::Error(format!("could not read the standard input: {error}")))?;
        (text, "<stdin>")
    } else {
        let known = names().collect::<Vec<_>>().join(", ");
        let text = fs::read_to_string(source).map_err(|error| {
            Failure::Error(format!("could not read `{source}`: {error}; it is no workload either (those are {known})"))
        })?;
        (text, source)
    };
    parse(&text, file, &Registry::builtin()).map_err(Failure::error)
}
