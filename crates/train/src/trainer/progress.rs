//! The progress bar of a trainer: examples done, examples a second, and the time left, on the standard error if that is a
//! terminal. Without the feature `progress` there is none.

use std::fmt;

use crate::history::Epoch;

#[cfg(feature = "progress")]
mod bar {
    pub(super) use indicatif::ProgressBar as Bar;
    use indicatif::{ProgressState, ProgressStyle};
    use std::fmt;
    use std::io::{IsTerminal, stderr};
    use std::time::Duration;

    /// A bar of so many examples, some of them done.
    pub(super) fn new(is_shown: bool, n_examples: u64, n_done: u64) -> Bar {
        if !is_shown || !stderr().is_terminal() {
            return Bar::hidden();
        }
        let bar = Bar::new(n_examples);
        bar.set_position(n_done);
        // What an interrupted call did does not count for the rate.
        bar.reset_elapsed();
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(200));
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{:.0}", state.per_sec());
        };
        match ProgressStyle::with_template("{bar:30} {percent} %, {rate} examples/s, {eta} left  {msg}") {
            Ok(style) => bar.with_style(style.with_key("rate", rate)),
            Err(_) => bar,
        }
    }
}

#[cfg(not(feature = "progress"))]
mod bar {
    /// No bar, with the calls of one.
    pub(super) struct Bar;

    impl Bar {
        pub(super) fn inc(&self, _: u64) {}
        pub(super) fn set_message(&self, _: String) {}
        pub(super) fn suspend<R>(&self, f: impl FnOnce() -> R) -> R {
            f()
        }
        pub(super) fn finish_and_clear(&self) {}
    }

    pub(super) fn new(_: bool, _: u64, _: u64) -> Bar {
        Bar
    }
}

/// The bar of a call of `fit`.
pub(super) struct Progress(bar::Bar);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    /// A bar of so many examples, some of them done.
    pub(super) fn new(is_shown: bool, n_examples: u64, n_done: u64) -> Self {
        Progress(bar::new(is_shown, n_examples, n_done))
    }

    /// Examples more are done.
    pub(super) fn add(&self, n_examples: u64) {
        self.0.inc(n_examples);
    }

    /// Says what the last epoch achieved, and calls what may print without tearing the bar.
    pub(super) fn after_epoch<R>(&self, epoch: &Epoch, f: impl FnOnce() -> R) -> R {
        self.0.set_message(epoch.to_string());
        self.0.suspend(f)
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        self.0.finish_and_clear();
    }
}
