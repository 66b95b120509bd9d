//! What the steps of a program take, as a table and as a trace that browsers draw.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use cotangent_exec::{Executable, Profile, Runtime, Seed, Session, Span, Threads};
use cotangent_graph::samples::environment;
use cotangent_graph::{Diag, Env};
use cotangent_scalar::plain;
use serde_json::json;

/// Steps run to measure a plan, unless more are asked for.
pub const MEASURED_STEPS: usize = 50;

/// Times of the steps of a plan, on random inputs.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// What each step took.
    pub profile: Profile,
    /// The ways that the session tried, and what they took.
    pub tried: String,
}

/// The time of every step of a program's plan, on random inputs.
///
/// # Errors
/// As [`Session::new`] and [`Session::profile`], and what samples say of a graph that they have no values for.
pub fn measured(program: &Arc<Executable>, n_threads: usize, n_steps: usize) -> Result<Measured, Diag> {
    let (mut session, env) = session_of(program, n_threads)?;
    let main = session.main();
    let profile = session.profile(main, program.inputs_of(&env), n_steps)?;
    Ok(Measured { profile, tried: session.explain(main)? })
}

/// A session of a program, and random inputs.
pub(crate) fn session_of(program: &Arc<Executable>, n_threads: usize) -> Result<(Session, Env), Diag> {
    let env = environment(program.source(), 1)?;
    let runtime = Runtime::new(Threads::Exactly(n_threads));
    Ok((Session::new(&runtime, Arc::clone(program), Seed(1))?, env))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Measured {
    /// A row for each step: its median time and share, what it computes and moves in a second, its share of what the target's
    /// peaks allow on one thread, and what the cost model predicts for one thread.
    pub fn table(&self, program: &Executable) -> String {
        let Profile { n_threads, n_runs, wall, steps, .. } = &self.profile;
        let plan = program.plan();
        let total = micros(self.profile.total());
        let mut text = format!(
            "{:>3} {:>10} {:>6} {:>9} {:>8} {:>8} {:>10}\n",
            "", "µs", "%", "GFLOP/s", "GB/s", "roofline", "predicted"
        );
        let mut predicted_total = 0.0;
        for (s, (step, times)) in plan.steps.iter().zip(steps).enumerate() {
            let (work, time, predicted) = (program.work(s), micros(times.median), program.predicted_ns(s) * 1e-3);
            predicted_total += predicted;
            let per_second = |amount: f64| if time > 0.0 { amount / time * 1e-3 } else { 0.0 };
            let _ = writeln!(
                text,
                "{s:3} {time:10.2} {:6.1} {:9.1} {:8.1} {:6.0} % {predicted:10.2} {}",
                if total > 0.0 { 100.0 * time / total } else { 0.0 },
                per_second(work.flop),
                per_second(work.bytes as f64),
                100.0 * per_second(work.least_nanos),
                plan.step_text(step)
            );
        }
        let _ = writeln!(
            text,
            "    {total:10.2} µs in all, medians of {n_runs} steps; {:.2} µs by the clock; predicted {predicted_total:.2}; \
             {n_threads} thread{}",
            micros(wall.median),
            if *n_threads == 1 { "" } else { "s" }
        );
        if !self.tried.is_empty() {
            let tried = &self.tried;
            let _ = write!(
                text,
                "ways tried, and what each took at best with its epilogue; the session stays with *\n{tried}"
            );
        }
        text
    }

    /// The last steps in the trace event format, which `chrome://tracing` and Perfetto open: a row for each thread, on which a
    /// step of the plan is a box, or a thread's share of one that is divided.
    pub fn trace(&self, program: &Executable) -> String {
        let plan = program.plan();
        let name = format!("@{}", plain(program.source().name()));
        let mut events = vec![json!({ "ph": "M", "name": "process_name", "pid": 1, "args": { "name": name } })];
        for thread in 0..self.profile.n_threads {
            let name = if thread == 0 { "caller".to_owned() } else { format!("worker {thread}") };
            events.push(json!({ "ph": "M", "name": "thread_name", "pid": 1, "tid": thread, "args": { "name": name } }));
        }
        for Span { step, thread, is_part, start, end } in &self.profile.spans {
            let work = program.work(*step);
            let text = plan.steps.get(*step).map_or_else(String::new, |step| plan.step_text(step));
            let (what, _) = text.rsplit_once(": ").unwrap_or((&text, ""));
            events.push(json!({
                "ph": "X", "pid": 1, "tid": thread, "ts": micros(*start), "dur": micros(*end - *start),
                "name": if *is_part { format!("part of step {step}") } else { format!("{step} {what}") },
                "cat": if *is_part { "part" } else { "step" },
                "args": { "step": step, "text": text, "flop": work.flop, "bytes": work.bytes },
            }));
        }
        json!({ "traceEvents": events, "displayTimeUnit": "ns" }).to_string()
    }
}
