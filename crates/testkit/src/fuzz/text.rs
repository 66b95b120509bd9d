//! Mutated graph texts: the parser ends without a panic, and holds memory in proportion to the text.
//!
//! Some texts ask for graphs without end: passes and the interpreter must end within limits, and hold memory in proportion.
//! A text that parses must be a well-formed graph whose print parses back to itself; if its tensors are small, it also
//! goes through the checks of random graphs, validation of passes left out, for mutated graphs are unlike generated ones.

use std::ops::Range;

use cotangent_graph::interp::interpret;
use cotangent_graph::samples::environment;
use cotangent_graph::text::{parse, print, print::Style};
use cotangent_graph::{Code, Env, Graph, Registry, Stage, verify};
use cotangent_passes::{PassError, PassOptions, optimize};
use cotangent_testkit::random::{self, Options};
use cotangent_testkit::{Rng, growing};

use super::graphs::{Counts, Runtimes, check, round_trip};
use super::mutate::mutate;
use super::{Fault, Limits, Mode, drive, keep, meter, replay};

const TOKENS: [&[u8]; 34] = [
    b"%0",
    b"%1",
    b"%4294967296",
    b"=",
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[[[[[[[",
    b"(",
    b")",
    b":",
    b"@",
    b"\"",
    b"\\",
    b";",
    b"\n",
    b"-",
    b"1e9",
    b"1e-400",
    b"99999999999999999999",
    b"body 0",
    b"output",
    b"update",
    b"nan",
    b"inf",
    b"bits(0x7fc00000)",
    b"f32[4294967296, 4294967296]",
    b"f64[0]",
    b"i32[]",
    b"bool[3]",
    b"grad",
    b"\xc3\xbc",
];

/// The most places that a text is changed in without regard to its form.
const MOST: usize = 3;
/// What the parser may hold beyond what the text accounts for: the registry's tables, up to fifty messages.
const SLACK: usize = 64 << 10;
/// Bytes that may be held for each byte of a text.
const FACTOR: usize = 64;
/// Larger tensors are not computed with.
const MAX_ELEMENTS: usize = 20_000;

/// What a growing text's graph may grow to here, and the bytes that may be held for each of its nodes.
const LIMITS: cotangent_graph::Limits = cotangent_graph::Limits { max_nodes: 20_000 };
const BYTES_PER_NODE: usize = 2048;

/// A text that asks for much more than it says.
fn growing_source(rng: &mut Rng) -> String {
    match rng.below(4) {
        0 => growing::nested_calls(1 + rng.below(15), 1 + rng.below(5)),
        1 => growing::repeated_gradients(1 + rng.below(40)),
        2 => growing::wide_concat(1 + rng.below(2000)),
        _ => growing::many_outputs(1 + rng.below(200)),
    }
}

fn source(rng: &mut Rng) -> String {
    if rng.chance(0.08) {
        return growing_source(rng);
    }
    let all = Options { n_ops: 1 + rng.below(12), max_elements: 40, ..Options::default() };
    let graph = random::graph(rng.bits() >> 16, &all);
    print(&graph, Style { origins: rng.chance(0.2) })
}

fn text(seed: u64) -> String {
    let mut rng = Rng::new(seed ^ 0x7e87);
    let (mut text, other) = (source(&mut rng), source(&mut rng));
    let gentle = rng.chance(0.6);
    if gentle {
        for _ in 0..1 + rng.below(3) {
            text = exchange(&mut rng, &text, &other);
        }
    }
    if gentle && rng.chance(0.8) {
        return text;
    }
    let mut bytes = text.into_bytes();
    mutate(&mut rng, MOST, &mut bytes, other.as_bytes(), &TOKENS);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Puts a word (an op, a value, a number, a type) of the same kind in the place of another, so that more texts parse.
fn exchange(rng: &mut Rng, text: &str, other: &str) -> String {
    let words = words(text);
    if words.is_empty() {
        return text.to_owned();
    }
    let old = rng.pick(&words).clone();
    let kind = |word: &str| match word.as_bytes().first() {
        Some(b'%') => 0,
        Some(b'0'..=b'9') => 1,
        _ if ["f32", "f64", "i32", "i64", "u8", "bool"].contains(&word) => 2,
        _ => 3,
    };
    let source = if rng.chance(0.7) { text } else { other };
    let all = self::words(source).into_iter().map(|range| &source[range]);
    let alike: Vec<&str> = all.filter(|word| kind(word) == kind(&text[old.clone()])).collect();
    let new = if alike.is_empty() { "1" } else { rng.pick(&alike) };
    format!("{}{new}{}", &text[..old.start], &text[old.end..])
}

/// Where the words of a text are.
fn words(text: &str) -> Vec<Range<usize>> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'%' | b'.');
    let (bytes, mut out, mut start) = (text.as_bytes(), Vec::new(), None);
    for (at, &byte) in bytes.iter().enumerate() {
        match (is_word(byte), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                out.push(from..at);
                start = None;
            }
            _ => {}
        }
    }
    out
}

/// Passes and the interpreter end within the limits, whatever the graph asks for; whether the passes reach the end.
fn grow(graph: &Graph, seed: u64) -> Result<bool, Fault> {
    let options = PassOptions { limits: LIMITS, ..PassOptions::default() };
    let (done, peak) = meter::measured(|| optimize(graph, &options));
    if peak > SLACK + BYTES_PER_NODE * LIMITS.max_nodes {
        return Err(Fault::new("memory", format!("{peak} bytes were held by passes on {} nodes", graph.n_nodes())));
    }
    let fits = match done {
        Ok(_) => true,
        Err(PassError::Diags(diags)) if diags.0.iter().any(|diag| diag.code == Code::TooManyNodes) => false,
        // Mistakes that only passes find are the user's.
        Err(PassError::Diags(_)) => false,
        Err(error) => return Err(Fault::new("passes", error.to_string())),
    };
    if let Ok(env) = environment(graph, seed) {
        // An error is an answer, too.
        let _ = interpret(graph, &Env { limits: LIMITS, ..env });
    }
    Ok(fits)
}

/// Whether a graph is small enough to be run.
fn is_small(graph: &Graph) -> bool {
    let small = |node: &cotangent_graph::Node| {
        node.ty.as_tensor().is_none_or(|(_, shape)| {
            shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent)).is_some_and(|n| n <= MAX_ELEMENTS)
        })
    };
    graph.nodes().iter().all(small) && graph.bodies().iter().all(|body| is_small(body))
}

/// Runs the mode; returns the number of failures.
pub fn run(limits: &Limits) -> usize {
    let runtimes = Runtimes::new();
    let registry = Registry::builtin();
    let (mut n_parsed, mut n_run, mut n_refused, mut n_bytes, mut worst) = (0u64, 0u64, 0u64, 0u64, 0.0f64);
    let before = meter::resident_peak();
    let case = |seed: u64| {
        let text = text(seed);
        n_bytes += text.len() as u64;
        let (result, peak) = meter::measured(|| parse(&text, "fuzz.ct", &registry));
        worst = worst.max(peak.saturating_sub(SLACK) as f64 / text.len().max(1) as f64);
        if peak > SLACK + FACTOR * text.len() {
            return Err(Fault::new("memory", format!("{peak} bytes were held for a text of {}", text.len())));
        }
        let graph = match result {
            Ok(graph) => graph,
            Err(diags) => {
                // Errors must also be printable.
                let _ = diags.to_string();
                return Ok(());
            }
        };
        n_parsed += 1;
        let errors = verify(&graph, Stage::Source);
        if !errors.is_empty() {
            return Err(Fault::new("verifier", errors.join("\n")));
        }
        round_trip(&graph)?;
        if seed.is_multiple_of(4) && !graph.outputs().is_empty() && is_small(&graph) {
            if !grow(&graph, seed)? {
                n_refused += 1;
                return Ok(());
            }
            n_run += 1;
            check(&graph, seed, &runtimes, false, &mut Counts::default())?;
        }
        Ok(())
    };
    let write = |seed: u64, _: &Fault| {
        let kept = keep(limits, &format!("text-{seed}.ct"), text(seed).as_bytes());
        format!("{kept}; {}", replay(Mode::Text, &format!("--seed {seed} --count 1")))
    };
    let done = drive(Mode::Text, limits, case, write);
    let grown = (meter::resident_peak() - before) >> 10;
    let counts = format!(
        "{n_parsed} parsed, {n_run} compiled and run, {n_refused} that grew too far, {n_bytes} bytes, held at most {} KiB + {worst:.2} bytes per byte, \
         resident memory grew by {grown} MiB",
        SLACK >> 10
    );
    done.summary(Mode::Text, limits, &counts);
    done.n_failures
}
