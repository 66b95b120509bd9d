//! `bench`: a workload, timed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use cotangent::data::ReadLimits;
use cotangent::exec::{Threads, Tuning, Ways};
use cotangent::graph::TensorData;
use cotangent_explore::chart;
use cotangent_train::bench::{BenchOptions, Field, FusionTimes, Protocol, Report, Variant, bench, bench_fusions};
use cotangent_train::workloads::{Kind, SPECS, What, Workload, names};
use serde_json::{Map, Value, json};

use crate::opt::write_or_print;
use crate::program::{Backend, FusionArgs, ReadArgs, TargetArgs};
use crate::{Failure, arrays, print};

/// Which of the elementwise programs.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum WhatArg {
    /// The expression
    Value,
    /// The sum of the expression, and its gradients
    Gradient,
}

/// What `--compare` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompareArg {
    /// As it is
    Fused,
    /// Without each kind of fusion that it uses
    Each,
    /// Nothing fused
    Unfused,
}

impl CompareArg {
    fn variant(self) -> Variant {
        match self {
            CompareArg::Fused => Variant::Fused,
            CompareArg::Each => Variant::Each,
            CompareArg::Unfused => Variant::Unfused,
        }
    }
}

/// What `bench` takes.
#[derive(Debug, Args)]
#[command(after_help = workload_help())]
pub(crate) struct BenchArgs {
    /// The workload
    #[arg(short, long, value_name = "NAME", value_parser = PossibleValuesParser::new(names()))]
    workload: String,
    /// The number of threads; all that the machine offers unless given
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    #[command(flatten)]
    fusion: FusionArgs,
    /// Time it in turn as it is fused, without each kind of fusion that it uses, and without any
    #[arg(long, value_name = "WHAT,…", value_enum, value_delimiter = ',', conflicts_with = "json")]
    compare: Vec<CompareArg>,
    /// --compare: also write the medians to this file, as bars in SVG
    #[arg(long, value_name = "FILE.svg", requires = "compare")]
    chart: Option<PathBuf>,
    /// The code generator
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    #[command(flatten)]
    target: TargetArgs,
    /// Time exactly so many steps, instead of at least 30 and 2.5 seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Products go as the compiler predicts: no other ways are tried
    #[arg(long)]
    no_trial: bool,
    /// Products go the ways that this file says; if there is none, ways are tried, and the fastest
    /// are written to it, once the trial is over
    #[arg(long, value_name = "FILE", conflicts_with = "no_trial")]
    ways: Option<PathBuf>,
    /// Networks: predict, instead of training
    #[arg(long)]
    infer: bool,
    /// --infer: the number of examples; as many as in training unless given
    #[arg(long, value_name = "N", requires = "infer", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Take weights (W0, b0, …; of convolutional networks c0, c0b, …, channels first) and batches (x0, y0, … x3, y3) from a NumPy
    /// archive
    #[arg(long, value_name = "FILE.npz")]
    load: Option<String>,
    #[command(flatten)]
    read: ReadArgs,
    /// The seed of what is random
    #[arg(long, value_name = "N", default_value_t = 1234)]
    seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// elementwise: the number of elements; matmul: columns of the result; work on rows: their length
    #[arg(long, value_name = "N")]
    n: Option<usize>,
    /// matmul: rows of the result; work on rows: their number
    #[arg(long, value_name = "N")]
    m: Option<usize>,
    /// matmul: length of the inner products
    #[arg(long, value_name = "N")]
    k: Option<usize>,
    /// matmul: the left operand is stored transposed
    #[arg(long)]
    ta: bool,
    /// matmul: the right operand is stored transposed
    #[arg(long)]
    tb: bool,
    /// elementwise: which program [default: gradient]
    #[arg(long, value_enum)]
    what: Option<WhatArg>,
}

fn workload_help() -> String {
    let mut text = String::from("Workloads:\n");
    for spec in &SPECS {
        let _ = writeln!(text, "  {:<12} {}", spec.name, spec.doc);
    }
    text
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let mut workload = sized(args, Workload::named(&args.workload).map_err(Failure::error)?)?;
    if args.infer {
        workload = workload.inference(args.batch.map(|n| n as usize)).map_err(Failure::error)?;
    }
    let options = BenchOptions {
        threads: args.threads.map_or(Threads::All, |n| Threads::Exactly(n.into())),
        fusions: args.fusion.choices()?,
        backend: args.backend.into(),
        target: args.target.target()?,
        tuning: tuning(args)?,
        protocol: Protocol { exact_steps: args.steps.map(|n| n as usize), ..Protocol::default() },
        arrays: args.load.as_ref().map(|path| load(path, &workload, args.read.limits())).transpose()?,
        seed: args.seed,
    };
    if !args.compare.is_empty() {
        let variants: Vec<Variant> = args.compare.iter().map(|compared| compared.variant()).collect();
        let rows = bench_fusions(&workload, &options, &variants).map_err(Failure::error)?;
        if let Some(file) = &args.chart {
            let bar =
                |row: &FusionTimes| (fusion_name(row), row.times.median_ms, format!("{:.3} ms", row.times.median_ms));
            let title = format!("{}: a step, median", args.workload);
            let bars: Vec<(String, f64, String)> = rows.iter().map(bar).collect();
            write_or_print(&chart::bars(&title, &bars), Some(file))?;
        }
        return print(&fusion_table(&rows));
    }
    let report = bench(&workload, &options).map_err(Failure::error)?;
    // Of a trial that was not over nothing is known.
    if let (Some(path), Tuning::Trial, false) = (&args.ways, &options.tuning, report.ways.is_empty()) {
        report.ways.save(path).map_err(Failure::error)?;
    }
    print(&if args.json { json_line(&report) } else { table(&report) })
}

/// What is done about the ways of products.
fn tuning(args: &BenchArgs) -> Result<Tuning, Failure> {
    Ok(match &args.ways {
        _ if args.no_trial => Tuning::Off,
        Some(path) if path.exists() => Tuning::Found(Ways::load(path).map_err(Failure::error)?),
        _ => Tuning::Trial,
    })
}

/// The arrays that a workload takes from an archive.
fn load(path: &str, workload: &Workload, limits: ReadLimits) -> Result<BTreeMap<String, TensorData>, Failure> {
    let names = workload.array_names(&workload.build().map_err(Failure::error)?);
    Ok(arrays::read(path, limits, |name| names.contains(name))?.arrays)
}

/// The workload with the sizes that were given; sizes that it does not have are a mistake.
fn sized(args: &BenchArgs, workload: Workload) -> Result<Workload, Failure> {
    let (kind, mut sizes) = (workload.spec().kind, workload.sizes());
    let is_matmul = matches!(kind, Kind::Matmul);
    let is_elementwise = matches!(kind, Kind::Elementwise);
    let is_rows = matches!(kind, Kind::Rows(_));
    let is_table = matches!(kind, Kind::Embedding { .. });
    let given = [
        ("--n", args.n.is_some(), is_matmul || is_elementwise || is_rows || is_table),
        ("--m", args.m.is_some(), is_matmul || is_rows || is_table),
        ("--k", args.k.is_some(), is_matmul || is_table),
        ("--ta", args.ta, is_matmul),
        ("--tb", args.tb, is_matmul),
        ("--what", args.what.is_some(), is_elementwise),
        ("--infer", args.infer, matches!(kind, Kind::Network(_))),
    ];
    if let Some((flag, ..)) = given.iter().find(|(_, given, applies)| *given && !applies) {
        return Err(Failure::Usage(format!("the workload '{}' has no option '{flag}'", args.workload)));
    }
    for (size, given) in [(&mut sizes.n, args.n), (&mut sizes.m, args.m), (&mut sizes.k, args.k)] {
        *size = given.unwrap_or(*size);
    }
    (sizes.ta, sizes.tb) = (args.ta, args.tb);
    sizes.what = match args.what {
        Some(WhatArg::Value) => What::Value,
        Some(WhatArg::Gradient) => What::Gradient,
        None => sizes.what,
    };
    Ok(workload.sized(sizes))
}

fn json_line(report: &Report) -> String {
    // A number that is not finite becomes `null`: JSON has none.
    let value = |field: Field| match field {
        Field::Text(text) => json!(text),
        Field::Flag(flag) => json!(flag),
        Field::Count(n) => json!(n),
        Field::Real(x) => json!(x),
        Field::Reals(xs) => json!(xs),
        Field::Unknown => Value::Null,
    };
    let object: Map<String, Value> = report.fields().into_iter().map(|(k, f)| (k.to_owned(), value(f))).collect();
    format!("{}\n", Value::Object(object))
}

/// What was forbidden, in words.
fn fusion_name(row: &FusionTimes) -> String {
    match row.without.as_deref() {
        None => "as it is".to_owned(),
        Some([kind]) => format!("without {kind}"),
        Some(_) => "nothing fused".to_owned(),
    }
}

fn fusion_table(rows: &[FusionTimes]) -> String {
    let mut text = String::new();
    let first = rows.first().map_or(0.0, |row| row.times.median_ms);
    let _ = writeln!(
        text,
        "{:<26} {:>10} {:>8} {:>10} {:>6} {:>11} {:>10}",
        "", "median ms", "against", "min ms", "steps", "moved MiB", "arena MiB"
    );
    for row in rows {
        let name = fusion_name(row);
        let mib = |bytes: f64| bytes / (1024.0 * 1024.0);
        let _ = writeln!(
            text,
            "{name:<26} {:>10.4} {:>8.3} {:>10.4} {:>6} {:>11.2} {:>10.2}",
            row.times.median_ms,
            row.times.median_ms / first,
            row.times.min_ms,
            row.n_plan_steps,
            mib(row.bytes_moved as f64),
            mib(row.arena_bytes as f64)
        );
    }
    text
}

fn table(report: &Report) -> String {
    // Four significant digits or more, so that a step of half a microsecond can be read too.
    let real = |x: f64| match x.abs() {
        size if size >= 1000.0 => format!("{x:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{x:.4}"),
        _ => format!("{x:.7}"),
    };
    let mut text = String::new();
    for (name, field) in report.fields() {
        let value = match field {
            Field::Text(text) => text.to_owned(),
            Field::Flag(flag) => if flag { "yes" } else { "no" }.to_owned(),
            Field::Count(n) => n.to_string(),
            Field::Real(x) => real(x),
            Field::Reals(xs) if xs.is_empty() => continue,
            Field::Reals(xs) => xs.into_iter().map(|x| format!("{x:.6}")).collect::<Vec<_>>().join("  "),
            Field::Unknown => "unknown".to_owned(),
        };
        let _ = writeln!(text, "{name:<20} {value}");
    }
    text
}
