//! When the threads of a pool worked, for those who want to draw it.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A thread at work on its parts of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The thread's number; the one that called [`Pool::run`](crate::Pool::run) is 0.
    pub thread: usize,
    /// Before its first part.
    pub start: Instant,
    /// After its last.
    pub end: Instant,
}

/// Spans that are noted while somebody asks for them. Neither field is of the pool's protocol, so no model looks at them.
#[derive(Default)]
pub(crate) struct Recorder {
    is_on: AtomicBool,
    spans: std::sync::Mutex<Vec<Span>>,
}

impl Recorder {
    /// The present time, if spans are noted.
    pub(crate) fn start(&self) -> Option<Instant> {
        self.is_on.load(Ordering::Relaxed).then(Instant::now)
    }

    /// A thread is done with what it began at `start`.
    pub(crate) fn end(&self, thread: usize, start: Option<Instant>) {
        if let Some(start) = start {
            let span = Span { thread, start, end: Instant::now() };
            self.spans.lock().unwrap_or_else(PoisonError::into_inner).push(span);
        }
    }

    /// Turns it on or off, and takes what was noted.
    pub(crate) fn turn(&self, on: bool) -> Vec<Span> {
        self.is_on.store(on, Ordering::Relaxed);
        std::mem::take(&mut self.spans.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
