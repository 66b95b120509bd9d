//! Gradients of orders 1 and 2 of random graphs against dual numbers, at operands some of which are at an edge: zeros,
//! infinities, NaN, subnormals, the ends of a type, ties.

use cotangent_graph::text::{parse, print, print::Style};
use cotangent_graph::{Graph, Registry};
use cotangent_testkit::duals::{Report, check};
use cotangent_testkit::random::{self, Options};
use cotangent_testkit::shrink;

use super::{Fault, Limits, Mode, drive, guarded, keep, replay};

/// What the graph of a seed is made of: few elements, so that each of them can be moved.
pub fn options(seed: u64) -> Options {
    // A cotangent that goes through a loop is a number, also where it is zero and meets an infinity.
    let fewer = Options { grads: false, loops: false, training: 0.0, ..Options::default() };
    let small = Options { max_elements: 24, n_ops: 8, doubles: 0.0, ..fewer };
    match seed % 8 {
        0 => Options { n_ops: 3, wild: 0.5, ..small },
        1 => Options { n_ops: 4, doubles: 1.0, ..small },
        2 => Options { n_ops: 14, ..small },
        3 => Options { doubles: 0.5, ..small },
        4 => Options { doubles: 1.0, wild: 0.2, ..small },
        5 => Options { composites: false, wild: 0.3, n_ops: 5, ..small },
        6 => Options { n_ops: 2, wild: 0.3, ..small },
        _ => small,
    }
}

fn compare(graph: &Graph, seed: u64) -> Result<Report, Fault> {
    let env = random::edge_env(graph, seed);
    let report = check(graph, &env, seed).map_err(|text| Fault::new("skipped", text))?;
    match report.mismatches.first() {
        Some(mismatch) => {
            let kind = if mismatch.order == 1 { "order 1" } else { "order 2" };
            let mut sources: Vec<String> = env.values.iter().map(|(name, v)| format!("{name} = {v}")).collect();
            sources.sort();
            Err(Fault::new(kind, format!("{mismatch}\n{}", sources.join("\n"))))
        }
        None => Ok(report),
    }
}

/// Runs the mode; returns the number of failures.
pub fn run(limits: &Limits) -> usize {
    if let Some(path) = &limits.file {
        let checked = std::fs::read_to_string(path).map_err(|error| Fault::new("file", error.to_string()));
        let checked = checked.and_then(|text| {
            let graph = parse(&text, &path.display().to_string(), &Registry::builtin());
            let graph = graph.map_err(|diags| Fault::new("file", diags.to_string()))?;
            guarded(|| compare(&graph, limits.seed))
        });
        return match checked {
            Ok(_) => {
                println!("duals: {} passes", path.display());
                0
            }
            Err(fault) => {
                println!("duals: {} fails ({}):\n{}", path.display(), fault.kind, fault.text);
                1
            }
        };
    }
    let mut orders = <[cotangent_testkit::duals::Counts; 2]>::default();
    let mut n_skipped = 0u64;
    let case = |seed| match compare(&random::graph(seed, &options(seed)), seed) {
        Ok(report) => {
            for (all, counts) in orders.iter_mut().zip(report.orders) {
                all.n_agree += counts.n_agree;
                all.n_finite += counts.n_finite;
                all.n_left_out += counts.n_left_out;
                all.n_open += counts.n_open;
            }
            Ok(())
        }
        Err(fault) if fault.kind == "skipped" => {
            n_skipped += 1;
            eprintln!("duals: case {seed} skipped: {}", fault.text);
            Ok(())
        }
        Err(fault) => Err(fault),
    };
    let write = |seed, fault: &Fault| {
        let graph = random::graph(seed, &options(seed));
        let fails = |graph: &Graph| guarded(|| compare(graph, seed)).is_err_and(|again| again.kind == fault.kind);
        let small = shrink(&graph, fails);
        let name = format!("duals-{seed}.ct");
        let command = replay(Mode::Duals, &format!("--seed {seed} --file {}", limits.folder.join(&name).display()));
        let found = guarded(|| compare(&small, seed)).err().map_or_else(String::new, |fault| fault.text);
        let text = format!("; {}\n; {command}\n{}", fault.kind, print(&small, Style::default()));
        format!("{}; {command}\n{small}\n{found}", keep(limits, &name, text.as_bytes()))
    };
    let done = drive(Mode::Duals, limits, case, write);
    let of = |k: usize| {
        let c = orders[k];
        let all = c.n_agree + c.n_left_out + c.n_open;
        format!(
            "order {}: {} elements agree, {} of them finite, {} left out ({:.2} %), {} open by the table of conventions",
            k + 1,
            c.n_agree,
            c.n_finite,
            c.n_left_out,
            100.0 * c.n_left_out as f64 / all.max(1) as f64,
            c.n_open
        )
    };
    done.summary(Mode::Duals, limits, &format!("{}; {}; {n_skipped} graphs skipped", of(0), of(1)));
    done.n_failures
}
