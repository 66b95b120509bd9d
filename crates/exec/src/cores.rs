//! Whether a small train step uses one core or all.
//!
//! Two cores that update parameters hand lines of their caches to and fro at every step. For a net that fits the cache of
//! one core, that may take longer than the second core saves, by how much depends on the machine: a 784-128-10 net took
//! 86 µs on one core and 127 on two on one CPU, 253 and 183 on another. So a session's first steps try both, in turns.
//! Bits do not depend on the choice, because they do not depend on the number of threads.

use std::time::{Duration, Instant};

use cotangent_pool::Pool;

use crate::runtime::Runtime;

/// Steps in a row that use the same cores: the first one finds the lines where the other way left them.
const TURN: usize = 8;

/// Steps of the whole trial.
const TRIAL: usize = 6 * TURN;

/// The cores of a session's steps.
#[derive(Debug)]
pub(crate) enum Cores {
    /// All that the runtime has.
    All,
    /// The calling thread.
    One(Pool),
    /// To be seen: steps so far, and the fastest on all cores and on one.
    Trial { alone: Pool, n_steps: usize, best: [Duration; 2] },
}

impl Cores {
    /// For a program that updates parameters and states which fit the second-level cache of a core, or for another one.
    pub(crate) fn new(is_small: bool, runtime: &Runtime) -> Self {
        if is_small && runtime.n_threads() > 1 {
            Cores::Trial { alone: Pool::new(1), n_steps: 0, best: [Duration::MAX; 2] }
        } else {
            Cores::All
        }
    }

    /// The trial is over, or there is none.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self, Cores::Trial { .. })
    }

    /// Runs one step on the cores whose turn it is.
    pub(crate) fn run<R>(&mut self, runtime: &Runtime, step: impl FnOnce(&Pool) -> R) -> R {
        let (alone, n_steps, best) = match self {
            Cores::All => return step(runtime.pool()),
            Cores::One(pool) => return step(pool),
            Cores::Trial { alone, n_steps, best } => (alone, n_steps, best),
        };
        let way = *n_steps / TURN % 2;
        let start = Instant::now();
        let result = step(if way == 0 { runtime.pool() } else { alone });
        best[way] = best[way].min(start.elapsed());
        *n_steps += 1;
        if *n_steps == TRIAL {
            let one = best[1] <= best[0];
            *self = if one { Cores::One(Pool::new(1)) } else { Cores::All };
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Threads;

    /// The way that takes longer is not used after the trial, whichever it is.
    #[test]
    fn a_trial_ends_with_the_faster_way() {
        let runtime = Runtime::new(Threads::Exactly(2));
        for slow in [1, 2] {
            let mut cores = Cores::new(true, &runtime);
            let mut seen = Vec::new();
            for _ in 0..TRIAL + 5 {
                let n = cores.run(&runtime, |pool| {
                    if pool.n_threads() == slow {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    pool.n_threads()
                });
                seen.push(n);
            }
            assert!(seen[..TRIAL].contains(&1) && seen[..TRIAL].contains(&2));
            assert!(seen[TRIAL..].iter().all(|&n| n == 3 - slow), "{seen:?}");
        }
    }

    /// Other programs than small train steps, and runtimes of one thread, have nothing to choose.
    #[test]
    fn only_small_train_steps_are_tried() {
        let (one, two) = (Runtime::new(Threads::Exactly(1)), Runtime::new(Threads::Exactly(2)));
        assert!(matches!(Cores::new(true, &two), Cores::Trial { .. }));
        assert!(matches!(Cores::new(false, &two), Cores::All));
        assert!(matches!(Cores::new(true, &one), Cores::All));
    }
}
