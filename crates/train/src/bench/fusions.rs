//! What each kind of fusion brings to a workload.
//!
//! The same graph is compiled several times: with every kind of fusion, without each kind that it uses, and without any.
//! The programs share a session, hence parameters and states, and take turns, a few steps each, so that what else happens
//! on the machine meets all of them alike. Compare medians of one table only.

use std::time::{Duration, Instant};

use cotangent_exec::{Fusion, Fusions, ProgramId, Runtime, Seed, Session};
use cotangent_graph::Diag;

use super::{BenchOptions, Runner, StepTimes};
use crate::TrainError;
use crate::workloads::Workload;

/// How often every program gets its turn, unless the options say how many steps to time.
const N_TURNS: usize = 12;
/// Such a turn lasts at least this long, and one step.
const TURN: Duration = Duration::from_millis(50);

/// A choice of fusions that is compared with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Every kind that the options allow.
    Fused,
    /// Without each of the kinds that the fused program uses, one after the other.
    Each,
    /// Without any.
    Unfused,
}

impl Variant {
    /// All of them, in the order of a table.
    pub const ALL: [Variant; 3] = [Variant::Fused, Variant::Each, Variant::Unfused];
}

/// A program and its figures.
#[derive(Clone, Debug)]
pub struct FusionTimes {
    /// What was forbidden: nothing, one kind, or all.
    pub without: Option<Vec<Fusion>>,
    /// Steps of the plan.
    pub n_plan_steps: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes that a step moves, caches not counted.
    pub bytes_moved: u64,
    /// The timed steps.
    pub times: StepTimes,
}

/// Times a workload by the choices of fusions that are asked for, in the order of [`Variant::ALL`].
/// If the protocol has an exact number of steps, each program gets so many turns of one step.
///
/// # Errors
/// As [`super::bench`].
pub fn bench_fusions(
    workload: &Workload,
    options: &BenchOptions,
    variants: &[Variant],
) -> Result<Vec<FusionTimes>, TrainError> {
    let graph = workload.build()?;
    let compile = |fusions| options.compiler(fusions).compile(&graph);
    let whole = compile(options.fusions)?;
    let mut choices: Vec<(Option<Vec<Fusion>>, Fusions)> = Vec::new();
    for variant in Variant::ALL.into_iter().filter(|variant| variants.contains(variant)) {
        match variant {
            Variant::Fused => choices.push((None, options.fusions)),
            Variant::Each => {
                let used = whole.plan().fusions().into_iter();
                choices.extend(used.map(|kind| (Some(vec![kind]), options.fusions.without(kind))));
            }
            Variant::Unfused => choices.push((Some(Fusion::ALL.to_vec()), Fusions::none())),
        }
    }
    let runtime = Runtime::new(options.threads);
    let mut session = Session::new(&runtime, whole.clone(), Seed(options.seed))?;
    session.set_tuning(options.tuning.clone());
    if let Some(arrays) = &options.arrays {
        workload.load_params(session.store_mut(), &graph, arrays)?;
    }
    let mut programs = Vec::new();
    for (without, fusions) in choices {
        let (program, id) = match without {
            None => (whole.clone(), session.main()),
            Some(_) => {
                let program = compile(fusions)?;
                (program.clone(), session.load(program)?)
            }
        };
        programs.push((without, program, id));
    }
    let feeds = workload.batches(&graph, options.arrays.as_ref(), options.seed)?;
    let mut runner = Runner::new(session, feeds);
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); programs.len()];
    let (n_turns, length) = options.protocol.exact_steps.map_or((N_TURNS, TURN), |n| (n, Duration::ZERO));
    // The first turn warms up.
    for turn in 0..=n_turns {
        for ((.., id), times) in programs.iter().zip(&mut times) {
            while turn == 0 && !length.is_zero() && !runner.session.is_settled(*id)? {
                runner.run(*id, None)?;
            }
            let of_turn = take_turn(&mut runner, *id, length)?;
            if turn > 0 {
                times.extend(of_turn);
            }
        }
    }
    let figures = programs.into_iter().zip(times).map(|((without, program, _), times)| FusionTimes {
        without,
        n_plan_steps: program.plan().steps.len(),
        arena_bytes: program.arena_bytes(),
        bytes_moved: program.plan().bytes_moved(),
        times: StepTimes::of(times),
    });
    Ok(figures.collect())
}

fn take_turn(runner: &mut Runner, program: ProgramId, length: Duration) -> Result<Vec<Duration>, Diag> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || start.elapsed() < length {
        times.push(runner.run(program, None)?.0);
    }
    Ok(times)
}
