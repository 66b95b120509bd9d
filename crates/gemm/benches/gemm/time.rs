//! How a product is timed: calls and the limit take turns.

use std::time::{Duration, Instant};

/// Seconds of a call, and the GFLOP/s of the limit in the same milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub median: f64,
    pub best: f64,
    /// Zero without a limit.
    pub limit_median: f64,
    pub limit_best: f64,
}

/// The shortest sample: long enough to dwarf the clock.
const SAMPLE: f64 = 50e-6;

/// The limit is measured again after so many seconds of calls.
const LIMIT_EVERY: f64 = 1e-3;

/// The fewest samples, however long a call takes.
const MIN_SAMPLES: usize = 5;

/// Calls for about `length`, at least [`MIN_SAMPLES`] samples; in between measures `limit`, in GFLOP/s.
pub fn time(length: Duration, mut limit: Option<&mut dyn FnMut() -> f64>, call: &mut dyn FnMut()) -> Times {
    let length = length.as_secs_f64();
    let mut sample = |n_calls: usize| {
        let start = Instant::now();
        for _ in 0..n_calls {
            call();
        }
        start.elapsed().as_secs_f64() / n_calls as f64
    };
    // Caches and the clock of the core settle during a sixth of the time.
    let start = Instant::now();
    let mut one = sample(1);
    while start.elapsed().as_secs_f64() < length / 6.0 {
        one = sample(((SAMPLE / one.max(1e-9)) as usize).clamp(1, 100_000));
    }
    let n_calls = ((SAMPLE / one.max(1e-9)).ceil() as usize).max(1);
    let (mut times, mut limits) = (Vec::new(), Vec::new());
    let (mut passed, mut since_limit) = (0.0, f64::INFINITY);
    while passed < length || times.len() < MIN_SAMPLES {
        if let Some(limit) = &mut limit
            && since_limit > LIMIT_EVERY
        {
            limits.push(limit());
            since_limit = 0.0;
        }
        let seconds = sample(n_calls);
        times.push(seconds);
        passed += seconds * n_calls as f64;
        since_limit += seconds * n_calls as f64;
    }
    times.sort_by(f64::total_cmp);
    limits.sort_by(f64::total_cmp);
    Times {
        median: times[times.len() / 2],
        best: times[0],
        limit_median: limits.get(limits.len() / 2).copied().unwrap_or_default(),
        limit_best: limits.last().copied().unwrap_or_default(),
    }
}
