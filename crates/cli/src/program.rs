//! From a command line's FILE or WORKLOAD to a graph.
//!
//! A name of a workload stands for that workload; `-` is the standard input; anything else is a file in the text form.
//! A file that is called like a workload is reached as `./name`.

use std::fs;
use std::io::{self, Read};

use std::sync::{Mutex, PoisonError};

use clap::ValueEnum;
use cotangent::graph::diag::nearest;
use cotangent::graph::text::parse;
use cotangent::graph::{Graph, Registry};
use cotangent::passes::PassOptions;
use cotangent::prelude::{BackendChoice, Compiler};
use cotangent_train::workloads::{Workload, names};

use crate::Failure;
use crate::failure::REPRODUCER;

/// The source that was read last, as the command line names it, and its text: what a panic happened on.
static LAST: Mutex<Option<(String, String)>> = Mutex::new(None);

fn keep(source: &str, text: &str) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some((source.to_owned(), text.to_owned()));
}

/// The name of the source that was read last.
pub(crate) fn last_source() -> Option<String> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|last| last.0.clone())
}

/// The text of the source that was read last.
pub(crate) fn last_text() -> Option<String> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|last| last.1.clone())
}

/// The code generator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// The wide one where the CPU has AVX2 or AVX-512, Cranelift elsewhere
    #[default]
    Auto,
    /// 128-bit vectors, on every platform
    Cranelift,
    /// AVX-512 or AVX2 (`COTANGENT_ISA` forces one); an error where the CPU has neither
    Wide,
}

impl From<Backend> for BackendChoice {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Auto => BackendChoice::Auto,
            Backend::Cranelift => BackendChoice::Cranelift,
            Backend::Wide => BackendChoice::Wide,
        }
    }
}

/// A compiler whose bugs leave their reproducer in the current folder.
pub(crate) fn compiler() -> Compiler {
    Compiler::new().reproducer(REPRODUCER)
}

/// Options of passes whose bugs leave their reproducer in the current folder.
pub(crate) fn pass_options() -> PassOptions {
    PassOptions { reproducer: Some(REPRODUCER.into()), ..PassOptions::default() }
}

/// The graph that `source` stands for.
pub(crate) fn graph(source: &str) -> Result<Graph, Failure> {
    if names().any(|name| name == source) {
        let graph = Workload::named(source).and_then(|workload| workload.build()).map_err(Failure::error)?;
        keep(source, &graph.to_string());
        return Ok(graph);
    }
    let (text, file) = if source == "-" {
        let mut text = String::new();
        let read = io::stdin().lock().read_to_string(&mut text);
        read.map_err(|error| Failure::Error(format!("could not read the standard input: {error}")))?;
        (text, "<stdin>")
    } else {
        let known = names().collect::<Vec<_>>().join(", ");
        let text = fs::read_to_string(source).map_err(|error| {
            let near = nearest(source, names()).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let known = format!("it is no workload either (those are {known}){near}");
            Failure::Error(format!("could not read `{source}`: {error}; {known}"))
        })?;
        (text, source)
    };
    keep(source, &text);
    parse(&text, file, &Registry::builtin()).map_err(Failure::error)
}
