//! The pipeline: one straight list, and the driver that runs and checks it.

use std::collections::BTreeMap;
use std::time::Instant;

use cotangent_graph::expand::with_flat_bodies;
use cotangent_graph::{Code, CompilerBug, Diag, Graph, Loc, Lower, Stage, verify};
use cotangent_host::files::{WriteError, write_report};
use cotangent_host::float::in_default;
use cotangent_scalar::plain;

use crate::canonicalize::Canonicalize;
use crate::dce::Dce;
use crate::differentiate::Differentiate;
use crate::expand::Expand;
use crate::fold::{self, Fold};
use crate::hoist::Hoist;
use crate::interface::same_interface;
use crate::pass::{Pass, PassCx, PassError, PassOptions, PassReport, StopReason};
use crate::rules::Rule;
use crate::simplify::Simplify;
use crate::stabilize::{self, Stabilize};

/// Times the repeated passes may take turns.
const TURN_LIMIT: u32 = 16;

/// The passes in their order.
pub fn pipeline() -> Vec<&'static dyn Pass> {
    vec![
        &Stabilize, // on composites and before derivatives: no later rule can repair the derivative of an unstable form
        &Differentiate, // while composites still have their own stable derivatives
        &Expand,    // once nothing needs composites any more; everything after it sees primitives only
        &Canonicalize, // before folding, so that constants stand where folding looks for them
        &Fold,      // before simplification, which tests for constants
        &Simplify,  // with canonical forms and known constants; what it uncovers goes round these again
        &Hoist,     // with the forms that these leave; before what is left over goes
        &Dce,       // last: every pass before it leaves dead nodes behind
    ]
}

/// Every rule with the pass that it belongs to, in the order in which they are tried; for documentation and tools.
pub fn all_rules() -> Vec<(&'static str, &'static Rule)> {
    use crate::canonicalize::{arithmetic, broadcast, products, reduce, views};
    use crate::simplify::{algebra, indices};
    let tables = [
        ("stabilize", stabilize::COMPOSITE),
        ("stabilize", stabilize::PRIMITIVE),
        ("canonicalize", arithmetic::ROWS),
        ("canonicalize", views::ROWS),
        ("canonicalize", broadcast::ROWS),
        ("canonicalize", products::ROWS),
        ("canonicalize", reduce::ROWS),
        ("fold", fold::ROWS),
        ("simplify", algebra::ROWS),
        ("simplify", indices::ROWS),
    ];
    tables.into_iter().flat_map(|(pass, rows)| rows.iter().map(move |rule| (pass, rule))).collect()
}

/// A graph at the primitive stage, and how it got there.
#[derive(Clone, Debug)]
pub struct Optimized {
    /// The graph.
    pub graph: Graph,
    /// What each pass did, in the order of the pipeline.
    pub report: Vec<PassReport>,
    /// Why the repeated passes ended.
    pub stop: StopReason,
}

/// Runs the pipeline.
///
/// # Errors
/// [`PassError::Diags`] if the graph is not well formed, a derivative does not exist or an option is wrong,
/// [`PassError::Bug`] if a pass or the record of an op breaks a promise, [`PassError::Environment`] if a dump cannot be
/// written.
pub fn optimize(graph: &Graph, options: &PassOptions) -> Result<Optimized, PassError> {
    optimize_with(&pipeline(), graph, options)
}

/// Runs a pipeline of your own: neighbours that repeat take turns until nothing changes.
///
/// # Errors
/// As [`optimize`].
pub fn optimize_with(passes: &[&dyn Pass], graph: &Graph, options: &PassOptions) -> Result<Optimized, PassError> {
    in_default(|| run_all(passes, graph, options)).map_err(|error| match (error, &options.reproducer) {
        (PassError::Bug(bug), Some(file)) => {
            let is_pass = passes.iter().any(|pass| pass.name() == bug.pass);
            let only = if is_pass { format!(" --passes {}", bug.pass) } else { String::new() };
            bug.reproduce(file, || graph.to_string(), |file| format!("cotangent opt {file}{only} --verify")).into()
        }
        (error, _) => error,
    })
}

fn run_all(passes: &[&dyn Pass], graph: &Graph, options: &PassOptions) -> Result<Optimized, PassError> {
    let chosen = choose(passes, options)?;
    // Passes and what follows rely on it, so it is looked at in release builds too.
    CompilerBug::guard("source", || graph.well_formed())??;
    let flat = with_flat_bodies(graph, options.limits)?;
    let graph = flat.as_ref().map_or(graph, |(flat, _)| flat);
    let mut run = Run {
        options,
        fuel: options.fuel.unwrap_or(u64::MAX),
        graph: graph.clone(),
        report: chosen.iter().map(|pass| blank(*pass, graph)).collect(),
        n_dumps: 0,
        stop: StopReason::Fixpoint,
    };
    run.dump("source")?;
    let mut next = 0;
    while next < chosen.len() {
        let n_repeating = chosen[next..].iter().take_while(|pass| pass.repeats()).count();
        if n_repeating == 0 {
            run.pass(next, chosen[next])?;
            next += 1;
        } else {
            run.take_turns(next, &chosen[next..next + n_repeating])?;
            next += n_repeating;
        }
    }
    if options.fuel.is_some() && run.fuel == 0 {
        run.stop = StopReason::OutOfFuel;
    }
    // What is bound by name is what the source declares, whatever expansions and derivative rules from outside did.
    same_interface(graph, &run.graph).map_err(|text| CompilerBug::new("passes", text))?;
    Ok(Optimized { graph: run.graph, report: run.report, stop: run.stop })
}

/// How far a graph has come.
pub fn stage_of(graph: &Graph) -> Stage {
    let of_node = |graph: &Graph, node: &cotangent_graph::Node| match node.op.lower {
        Lower::Grad => Stage::Source,
        Lower::Item if graph.is_of_loop(node) => Stage::Primitive,
        Lower::Expand(_) | Lower::Tuple | Lower::Item => Stage::Differentiated,
        _ => Stage::Primitive,
    };
    let graphs = graph.all_bodies().into_iter().map(AsRef::as_ref).chain([graph]);
    graphs.flat_map(|graph| graph.nodes().iter().map(|node| of_node(graph, node))).min().unwrap_or(Stage::Primitive)
}

/// The passes that the options ask for.
fn choose<'p>(passes: &[&'p dyn Pass], options: &PassOptions) -> Result<Vec<&'p dyn Pass>, PassError> {
    let Some(only) = &options.only else { return Ok(passes.to_vec()) };
    for name in only {
        if !passes.iter().any(|pass| pass.name() == name) {
            let diag = Diag::new(Code::UnknownName, format!("no pass is named `{name}`")).at(Loc::Internal);
            return Err(diag.suggest(name, passes.iter().map(|pass| pass.name())).into());
        }
    }
    Ok(passes.iter().copied().filter(|pass| only.iter().any(|name| name == pass.name())).collect())
}

fn blank(pass: &dyn Pass, graph: &Graph) -> PassReport {
    PassReport {
        name: pass.name(),
        before: graph.n_nodes(),
        after: graph.n_nodes(),
        changed: false,
        micros: 0,
        rounds: 0,
        stop: None,
        rules: BTreeMap::new(),
    }
}

/// A run of the pipeline.
struct Run<'a> {
    options: &'a PassOptions,
    fuel: u64,
    graph: Graph,
    report: Vec<PassReport>,
    n_dumps: usize,
    stop: StopReason,
}

impl Run<'_> {
    /// Repeated passes, until each in turn has nothing to do.
    fn take_turns(&mut self, first: usize, passes: &[&dyn Pass]) -> Result<(), PassError> {
        let mut n_idle = 0;
        for _ in 0..TURN_LIMIT {
            for (k, pass) in passes.iter().enumerate() {
                let changed = self.pass(first + k, *pass)?;
                n_idle = if changed { 0 } else { n_idle + 1 };
                if n_idle == passes.len() {
                    return Ok(());
                }
            }
        }
        self.stop = StopReason::RoundLimit;
        Ok(())
    }

    /// One pass; whether it changed the graph.
    fn pass(&mut self, index: usize, pass: &dyn Pass) -> Result<bool, PassError> {
        let (required, promised) = pass.stage();
        let stage = stage_of(&self.graph);
        if stage < required {
            let text = format!("the pass `{}` requires stage {required:?}, the graph is at {stage:?}", pass.name());
            let help = "run the passes before it as well";
            return Err(Diag::new(Code::Unsupported, text).at(Loc::Internal).help(help).into());
        }
        let mut cx = PassCx::new(self.options);
        cx.fuel = self.fuel;
        let start = Instant::now();
        let result = CompilerBug::guard(pass.name(), || pass.run(&self.graph, &mut cx))
            .map_err(|bug| CompilerBug { graph: Some(self.graph.to_string()), ..bug })?
            .map_err(|error| self.blamed(error, pass))?;
        let micros = start.elapsed().as_micros() as u64;
        self.fuel = cx.fuel;
        let before = self.graph.n_nodes();
        let changed = result.is_some();
        if let Some(new) = result {
            CompilerBug::guard(pass.name(), || self.check(pass, &new, promised))
                .map_err(|bug| CompilerBug { graph: Some(self.graph.to_string()), ..bug })?
                .map_err(|error| self.with_rule(error, pass, cx.counters.values().sum()))?;
            self.graph = new;
            self.dump(pass.name())?;
        }
        let report = &mut self.report[index];
        if report.rounds == 0 && report.micros == 0 && !report.changed {
            report.before = before;
        }
        report.after = self.graph.n_nodes();
        report.changed |= changed;
        report.micros += micros;
        report.rounds += cx.rounds;
        report.stop = cx.stop.or(report.stop);
        for (rule, n) in cx.counters {
            *report.rules.entry(rule).or_insert(0) += n;
        }
        Ok(changed)
    }

    /// A bug that a pass finds in itself, with the graph before the pass; rules call themselves by their own name.
    fn blamed(&self, error: PassError, pass: &dyn Pass) -> PassError {
        let PassError::Bug(mut bug) = error else { return error };
        if bug.pass != pass.name() {
            bug.message = format!("`{}`: {}", bug.pass, bug.message);
            bug.pass = pass.name().to_owned();
        }
        bug.graph.get_or_insert_with(|| self.graph.to_string());
        PassError::Bug(bug)
    }

    /// A bug that was found in a pass's result, with the rule that is to blame if one is: the pass is run again with less
    /// fuel, to find a last rule without which nothing is wrong.
    fn with_rule(&self, error: PassError, pass: &dyn Pass, n_rules: u64) -> PassError {
        let PassError::Bug(mut bug) = error else { return error };
        let attempt = |fuel: u64| {
            let mut cx = PassCx::new(self.options);
            cx.fuel = fuel;
            let result = CompilerBug::guard(pass.name(), || pass.run(&self.graph, &mut cx));
            let wrong = match result {
                Ok(Ok(Some(new))) => self.check(pass, &new, pass.stage().1).is_err(),
                _ => false,
            };
            (wrong, cx.counters)
        };
        let (mut right, mut wrong) = (0, n_rules);
        if n_rules == 0 || attempt(right).0 || !attempt(wrong).0 {
            return PassError::Bug(bug);
        }
        while wrong - right > 1 {
            let middle = right + (wrong - right) / 2;
            if attempt(middle).0 {
                wrong = middle;
            } else {
                right = middle;
            }
        }
        let (fewer, more) = (attempt(right).1, attempt(wrong).1);
        if let Some((rule, _)) = more.iter().find(|(rule, n)| fewer.get(*rule).unwrap_or(&0) < n) {
            bug.message = format!("the rule `{rule}` is to blame, application {wrong} of the pass: {}", bug.message);
        }
        PassError::Bug(bug)
    }

    /// Checks what a pass made: honest, well formed, and of the same meaning.
    fn check(&self, pass: &dyn Pass, new: &Graph, stage: Stage) -> Result<(), PassError> {
        let bug = |message: String| CompilerBug {
            graph: Some(self.graph.to_string()),
            ..CompilerBug::new(pass.name(), message)
        };
        if self.options.verify {
            // Dead nodes do not print, so leaving them out is a change that only the count shows.
            let n_nodes = |graph: &Graph| graph.all_bodies().iter().fold(graph.n_nodes(), |n, body| n + body.n_nodes());
            if n_nodes(new) == n_nodes(&self.graph) && new.to_string() == self.graph.to_string() {
                return Err(bug("it reports a change and has made none".into()).into());
            }
            let errors = verify(new, stage);
            if !errors.is_empty() {
                return Err(bug(format!("its result is not well formed:\n{}\n{new}", errors.join("\n"))).into());
            }
        }
        if let Some(validate) = &self.options.validate {
            validate(pass.name(), &self.graph, new)
                .map_err(|text| bug(format!("its result has another meaning: {text}\n{new}")))?;
        }
        Ok(())
    }

    /// Writes the graph into the dump directory, if there is one.
    fn dump(&mut self, name: &str) -> Result<(), PassError> {
        let Some(directory) = &self.options.dump else { return Ok(()) };
        let failed = |error: WriteError| PassError::Environment(format!("the dump: {}", plain(&error.to_string())));
        let stem = format!("{:02}-{name}", self.n_dumps);
        self.n_dumps += 1;
        write_report(directory.join(format!("{stem}.txt")), &self.graph.to_string()).map_err(failed)?;
        if let Some(dot) = &self.options.dot {
            write_report(directory.join(format!("{stem}.dot")), &dot(&self.graph)).map_err(failed)?;
        }
        Ok(())
    }
}
