//! From a command line's FILE or WORKLOAD to a graph.
//!
//! A name of a workload stands for that workload; `-` is the standard input; a file whose name ends in `.toml` is a configuration and
//! stands for its training step; anything else is a file in the text form.
//! A file that is called like a workload is reached as `./name`.

use std::io;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use cotangent::data::reading::{read_file_or_pipe, read_stream};
use cotangent::data::{DataError, ReadLimits};
use cotangent::exec::Target;
use cotangent::graph::diag::nearest;
use cotangent::graph::text::parse;
use cotangent::graph::{Graph, Limits, Registry};
use cotangent::passes::PassOptions;
use cotangent::prelude::{BackendChoice, Choice, Compiler, Fusion, Fusions};
use cotangent::scalar::plain;
use cotangent_config::Run;
use cotangent_train::workloads::{Workload, names};

use crate::Failure;
use crate::failure::REPRODUCER;
use crate::last;
use crate::learn::failed;

/// What errors call the standard input.
pub(crate) const STDIN: &str = "<stdin>";

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

/// Which ops share kernels.
#[derive(Debug, Args)]
pub(crate) struct FusionArgs {
    /// Forbid some kinds of fusion, by the names that `explain` prints; all of them unless names are given, so that each op
    /// has a kernel of its own
    #[arg(long, value_name = "NAME,…", num_args = 0.., require_equals = true, value_delimiter = ',', value_parser = kinds())]
    no_fuse: Option<Vec<Fusion>>,
    /// Use some kinds of fusion wherever they are legal, whatever the cost model thinks of it
    #[arg(long, value_name = "NAME,…", require_equals = true, value_delimiter = ',', value_parser = kinds())]
    fuse: Vec<Fusion>,
}

/// The kinds of fusion by name.
fn kinds() -> impl TypedValueParser<Value = Fusion> {
    let names = Fusion::ALL.map(|fusion| PossibleValue::new(fusion.name()).help(fusion.doc()));
    PossibleValuesParser::new(names).try_map(|name| Fusion::named(&name).ok_or("no kind of fusion"))
}

impl FusionArgs {
    /// The choices.
    pub(crate) fn choices(&self) -> Result<Fusions, Failure> {
        let forbidden = self.no_fuse.as_deref();
        let start = if forbidden.is_some_and(<[_]>::is_empty) { Fusions::none() } else { Fusions::auto() };
        let fusions = forbidden.unwrap_or_default().iter().fold(start, |fusions, &kind| fusions.without(kind));
        self.fuse.iter().try_fold(fusions, |fusions, &kind| match forbidden {
            Some(names) if names.contains(&kind) => {
                Err(Failure::Usage(format!("the fusion '{kind}' is both forbidden and forced")))
            }
            _ => Ok(fusions.with(kind, Choice::Always)),
        })
    }
}

/// What files may expand to.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// The most bytes that a file may expand to, or a pipe deliver [default: 64 times the file and at least 64 MiB; 256 MiB
    /// from a pipe]
    #[arg(long, value_name = "N")]
    max_bytes: Option<u64>,
}

impl ReadArgs {
    /// The limits.
    pub(crate) fn limits(&self) -> ReadLimits {
        self.max_bytes.map_or(ReadLimits::default(), ReadLimits::bytes)
    }
}

/// What graphs may grow to, and files expand to.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// The most nodes that a pass may make of the graph
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_nodes)]
    max_nodes: usize,
}

impl LimitArgs {
    /// The limits.
    pub(crate) fn limits(&self) -> Limits {
        Limits { max_nodes: self.max_nodes }
    }

    /// The graph that `source` stands for.
    pub(crate) fn graph(&self, source: &str) -> Result<Graph, Failure> {
        graph(source, self.read.limits())
    }

    /// A compiler whose bugs leave their reproducer in the current folder.
    pub(crate) fn compiler(&self) -> Compiler {
        Compiler::new().reproducer(REPRODUCER).limits(self.limits())
    }

    /// The same, for programs that are looked at and not run: they may need more memory than there is.
    pub(crate) fn onlooker(&self) -> Compiler {
        self.compiler().memory_limit(usize::MAX)
    }

    /// Options of passes whose bugs leave their reproducer in the current folder.
    pub(crate) fn pass_options(&self) -> PassOptions {
        PassOptions { reproducer: Some(REPRODUCER.into()), limits: self.limits(), ..PassOptions::default() }
    }
}

/// A machine that is not this one, or this one as it was measured.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Compile for the machine that this file describes, as `cotangent calibrate` writes it; for this one unless given
    #[arg(long, value_name = "FILE")]
    target: Option<PathBuf>,
}

impl TargetArgs {
    /// The target, if one is given.
    pub(crate) fn target(&self) -> Result<Option<Target>, Failure> {
        let Some(file) = &self.target else { return Ok(None) };
        let bytes = read_file_or_pipe(file, ReadLimits::default()).map_err(Failure::error)?;
        let name = plain(&file.display().to_string()).to_string();
        let text = String::from_utf8(bytes).map_err(|_| Failure::Error(format!("{name}: it is no text in UTF-8")))?;
        Target::parse(&text).map(Some).map_err(|bad| Failure::Error(format!("{name}: {bad}")))
    }

    /// A compiler for the target, if one is given.
    pub(crate) fn compiler(&self, compiler: Compiler) -> Result<Compiler, Failure> {
        Ok(match self.target()? {
            Some(target) => compiler.target(target),
            None => compiler,
        })
    }
}

/// A program, and what it is compiled for.
#[derive(Debug, Args)]
pub(crate) struct ProgramArgs {
    /// A graph in text form (`-`: the standard input), the name of a workload: its training step, or with `@N` behind it what its
    /// network predicts for N examples; or a configuration (`.toml`): its training step
    #[arg(value_name = "FILE|WORKLOAD|CONFIG")]
    source: String,
    #[command(flatten)]
    fusion: FusionArgs,
    /// The code generator
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

impl ProgramArgs {
    /// The graph.
    pub(crate) fn graph(&self) -> Result<Graph, Failure> {
        self.limits.graph(&self.source)
    }

    /// The choice of fusions.
    pub(crate) fn fusions(&self) -> Result<Fusions, Failure> {
        self.fusion.choices()
    }

    /// The compiler, with everything that was chosen. What is looked at and not run may need more memory than there is.
    pub(crate) fn compiler(&self, runs: bool) -> Result<Compiler, Failure> {
        let compiler = if runs { self.limits.compiler() } else { self.limits.onlooker() };
        self.target.compiler(compiler.backend(self.backend.into()).fuse(self.fusions()?))
    }
}

/// A program that is looked at, and perhaps measured.
#[derive(Debug, Args)]
pub(crate) struct LookArgs {
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
    /// Also run it on random inputs and show the time of every step of the plan
    #[arg(long)]
    pub(crate) measure: bool,
    /// Threads to measure with
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) threads: usize,
}

/// The graph that `source` stands for: a workload's training step, or behind `@` what its network predicts for so many examples
/// (`lenet@1`), or a file: of a graph, or of a configuration (`.toml`), which stands for its training step.
pub(crate) fn graph(source: &str, limits: ReadLimits) -> Result<Graph, Failure> {
    let (name, batch) = source.split_once('@').map_or((source, None), |(name, batch)| (name, Some(batch)));
    if names().any(|known| known == name) {
        let mut workload = Workload::named(name).map_err(Failure::error)?;
        if let Some(batch) = batch {
            let n = batch.parse().map_err(|_| {
                Failure::Error(format!("`{source}`: behind `@` stands a number of examples, got `{batch}`"))
            })?;
            workload = workload.inference(Some(n)).map_err(Failure::error)?;
        }
        let graph = workload.build().map_err(Failure::error)?;
        last::keep(source, &graph.to_string());
        return Ok(graph);
    }
    if Path::new(source).extension().is_some_and(|extension| extension == "toml") {
        let run = Run::load(source).map_err(Failure::error)?;
        let (graph, _) = run.step(usize::MAX).map_err(failed)?;
        last::keep(source, &graph.to_string());
        return Ok(graph);
    }
    let (bytes, file) = if source == "-" {
        (read_stream(io::stdin().lock(), limits, STDIN).map_err(Failure::error)?, STDIN)
    } else {
        let bytes = read_file_or_pipe(Path::new(source), limits).map_err(|error| match error {
            DataError::Missing { .. } => {
                let known = names().collect::<Vec<_>>().join(", ");
                let near = nearest(source, names()).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                let known = format!("it is no workload either (those are {known}){near}");
                Failure::Error(format!("there is no file `{source}`; {known}"))
            }
            error => Failure::error(error),
        })?;
        (bytes, source)
    };
    let text = String::from_utf8(bytes).map_err(|_| Failure::Error(format!("{file}: it is no text in UTF-8")))?;
    last::keep(source, &text);
    parse(&text, file, &Registry::builtin()).map_err(Failure::error)
}
