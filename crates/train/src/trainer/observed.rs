//! What is seen of a call of `fit` besides its history: losses of steps, and statistics of layers.

use cotangent_exec::Outputs;

use crate::TrainError;
use crate::statistics::Statistics;

#[derive(Debug, Default)]
pub(super) struct Observed {
    every: Option<u64>,
    /// The rows of a batch that is looked at.
    rows: usize,
    /// Whole batches of the epoch under way.
    n_batches: u64,
    /// Of the epoch under way, and of the last whole one.
    now: Statistics,
    last: Statistics,
    /// The loss before the first step.
    first: Option<f64>,
    largest: f64,
    pub(super) is_not_finite: bool,
}

impl Observed {
    /// An epoch begins, or goes on.
    pub(super) fn begin(&mut self, every: Option<u64>, rows: usize) {
        (self.every, self.rows) = (every, rows);
    }

    /// Whether the next step works statistics out.
    pub(super) fn wants(&mut self, n_rows: usize) -> bool {
        let at = self.n_batches;
        self.n_batches += u64::from(n_rows == self.rows);
        n_rows == self.rows && self.every.is_some_and(|every| at.is_multiple_of(every))
    }

    /// Notes a step.
    pub(super) fn note(&mut self, loss: f64, out: Option<&Outputs<'_>>) -> Result<(), TrainError> {
        self.first.get_or_insert(loss);
        self.largest = self.largest.max(loss);
        self.is_not_finite |= !loss.is_finite();
        out.map_or(Ok(()), |out| self.now.add(out))
    }

    pub(super) fn note_not_finite(&mut self) {
        self.is_not_finite = true;
    }

    pub(super) fn end_epoch(&mut self) {
        self.n_batches = 0;
        if self.now.n_steps > 0 {
            self.last = std::mem::take(&mut self.now);
        }
    }

    /// Those of the epoch under way, or of the last one.
    pub(super) fn statistics(&self) -> &Statistics {
        if self.now.n_steps > 0 { &self.now } else { &self.last }
    }

    /// The loss of the first batch, before anything was changed.
    pub(super) fn first_loss(&self) -> Option<f64> {
        self.first
    }

    /// The largest loss of a step.
    pub(super) fn largest_loss(&self) -> f64 {
        self.largest
    }
}
