//! Matrix products of Cotangent beside other libraries; see the README of this folder.
//!
//! Each library has a process of its own, because idle workers of one thread pool spin and take the core from the
//! next. The driver asks them in turn, forwards and backwards, so that no library has the quieter moments.

#[path = "../../../crates/gemm/benches/gemm/limit.rs"]
mod limit;
mod serve;
#[path = "../../../crates/gemm/benches/gemm/shapes.rs"]
mod shapes;
#[path = "../../../crates/gemm/benches/gemm/time.rs"]
mod time;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use shapes::{SHAPES, Shape};
use time::Times;

const USAGE: &str = "usage: products [--threads 1,2] [--types f32,f64] [--rounds 2] [--milliseconds 50] \
                     [--python python3] [--libraries cotangent,gemm,matrixmultiply,numpy] [filter …]";

/// What the command line asks for.
struct Args {
    threads: Vec<usize>,
    types: Vec<String>,
    rounds: usize,
    milliseconds: usize,
    python: String,
    libraries: Vec<String>,
    filters: Vec<String>,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, Box<dyn Error>> {
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let mut args = Args {
            threads: vec![1, 2],
            types: list("f32,f64"),
            rounds: 2,
            milliseconds: 50,
            python: "python3".to_owned(),
            libraries: list("cotangent,gemm,matrixmultiply,numpy"),
            filters: Vec::new(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("`{word}` needs a value; {USAGE}"));
            match word.as_str() {
                "--threads" => args.threads = value()?.split(',').map(positive).collect::<Result<_, _>>()?,
                "--types" => args.types = list(&value()?),
                "--rounds" => args.rounds = positive(&value()?)?,
                "--milliseconds" => args.milliseconds = positive(&value()?)?,
                "--python" => args.python = value()?,
                "--libraries" => args.libraries = list(&value()?),
                option if option.starts_with("--") => return Err(format!("unknown option `{option}`; {USAGE}").into()),
                _ => args.filters.push(word),
            }
        }
        let known = |list: &[String], known: &[&str]| {
            let stranger = list.iter().find(|word| !known.contains(&word.as_str()));
            stranger.map_or(Ok(()), |word| Err(format!("one of {} required, got `{word}`", known.join(", "))))
        };
        known(&args.types, &["f32", "f64"])?;
        known(&args.libraries, &["cotangent", "gemm", "matrixmultiply", "numpy"])?;
        if args.libraries.first().is_none_or(|first| first != "cotangent") {
            return Err("`cotangent` must be the first library: the others are compared with it".into());
        }
        if !SHAPES.iter().any(|shape| shape.passes(&args.filters)) {
            return Err(format!("no group or shape is called {}", args.filters.join(" or ")).into());
        }
        Ok(args)
    }
}

/// A number of threads, rounds or milliseconds.
fn positive(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| format!("a whole number above 0 required, got `{text}`; {USAGE}"))
}

/// A library in its process.
struct Server {
    name: String,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    fn start(name: &str, n_threads: usize, python: &str) -> Result<Server, Box<dyn Error>> {
        let mut command;
        if name == "numpy" {
            command = Command::new(python);
            command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/numpy_server.py"));
        } else {
            command = Command::new(std::env::current_exe()?);
            command.args(["--serve", name, &n_threads.to_string()]);
        }
        for variable in ["OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "MATMUL_NUM_THREADS"] {
            command.env(variable, n_threads.to_string());
        }
        // NumPy asks the system for large pages. This makes `malloc` do so for the others.
        command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let (requests, answers) = requests.zip(answers).ok_or("no pipes")?;
        let mut server = Server { name: name.to_owned(), child, requests, answers: BufReader::new(answers) };
        if name == "numpy" {
            let hello = server.line()?;
            println!("{hello}");
        }
        Ok(server)
    }

    fn line(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(format!("{} ended without an answer", self.name).into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, elem: &str, shape: &Shape, milliseconds: usize) -> Result<Times, Box<dyn Error>> {
        let &Shape { batch, m, k, n, a_t, b_t, .. } = shape;
        let (a_t, b_t) = (usize::from(a_t), usize::from(b_t));
        writeln!(self.requests, "{elem} {batch} {m} {k} {n} {a_t} {b_t} {milliseconds}")?;
        self.requests.flush()?;
        let line = self.line()?;
        let numbers = line.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        let [median, best, limit_median, limit_best] = numbers.try_into().map_err(|_| "four numbers required")?;
        Ok(Times { median, best, limit_median, limit_best })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only a process that hangs is still there; its exit status tells nothing more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, library, n_threads] = words.as_slice()
        && flag == "--serve"
    {
        return serve::serve(library, n_threads.parse()?);
    }
    let args = Args::parse(words.into_iter())?;
    for &n_threads in &args.threads {
        let mut servers = Vec::new();
        for name in &args.libraries {
            match Server::start(name, n_threads, &args.python) {
                Ok(server) => servers.push(server),
                Err(reason) if name == "numpy" => println!("without NumPy, which `{}` lacks: {reason}", args.python),
                Err(reason) => return Err(reason),
            }
        }
        for elem in &args.types {
            table(&args, elem, n_threads, &mut servers)?;
        }
    }
    Ok(())
}

/// All shapes of one element type. Peers' columns are their GFLOP/s and, behind it, how much faster Cotangent is.
fn table(args: &Args, elem: &str, n_threads: usize, servers: &mut [Server]) -> Result<(), Box<dyn Error>> {
    println!("\n{elem}, {n_threads} threads: GFLOP/s, median; shares of the limit, of the median and of the best");
    print!("{:<10} {:<28} {:>9} {:>6} {:>6}", "group", "shape", "cotangent", "share", "best");
    servers[1..].iter().for_each(|server| print!("  {:>14} {:>6}", server.name, "ahead"));
    println!("  {:>9}", "best peer");
    let mut ratios: Vec<(f64, String)> = Vec::new();
    for shape in SHAPES.iter().filter(|shape| shape.passes(&args.filters)) {
        let mut rounds = vec![Vec::new(); servers.len()];
        for round in 0..args.rounds {
            for turn in 0..servers.len() {
                let at = if round % 2 == 0 { turn } else { servers.len() - 1 - turn };
                rounds[at].push(servers[at].ask(elem, shape, args.milliseconds)?);
                if n_threads > 1 {
                    // Workers that wait for more work spin for a while.
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        let times: Vec<Times> = rounds.iter().map(|rounds| over_rounds(rounds)).collect();
        let speed = |time: f64| shape.flops() / time * 1e-9;
        let Times { median, best, limit_median, limit_best } = times[0];
        print!(
            "{:<10} {shape:<28} {:>9.1} {:>5.1}% {:>5.1}%",
            shape.group,
            speed(median),
            100.0 * speed(median) / limit_median,
            100.0 * speed(best) / limit_best
        );
        times[1..].iter().for_each(|peer| print!("  {:>14.1} {:>6.2}", speed(peer.median), peer.median / median));
        if let Some(fastest) = times[1..].iter().map(|peer| peer.median).min_by(f64::total_cmp) {
            let ratio = fastest / median;
            print!("  {ratio:>9.2}{}", if ratio < 0.95 { " <" } else { "" });
            ratios.push((ratio, shape.to_string()));
        }
        println!();
    }
    if let Some((worst, name)) = ratios.iter().min_by(|x, y| x.0.total_cmp(&y.0)) {
        let mean = (ratios.iter().map(|(ratio, _)| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
        let behind = ratios.iter().filter(|(ratio, _)| *ratio < 0.95).count();
        println!(
            "{elem}, {n_threads} threads, against the best peer of each shape: geometric mean {mean:.3}, {behind} of {} \
             shapes below 0.95, worst {worst:.2} ({name})",
            ratios.len()
        );
    }
    Ok(())
}

/// The median of the rounds' medians and the best of all.
fn over_rounds(rounds: &[Times]) -> Times {
    let median = |field: fn(&Times) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(field).collect();
        values.sort_by(f64::total_cmp);
        (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
    };
    Times {
        median: median(|times| times.median),
        best: rounds.iter().map(|times| times.best).fold(f64::INFINITY, f64::min),
        limit_median: median(|times| times.limit_median),
        limit_best: rounds.iter().map(|times| times.limit_best).fold(0.0, f64::max),
    }
}
