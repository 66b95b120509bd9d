//! Batches: the rows of several requests are computed together, and taken apart again.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

use cotangent::data::{DataError, Examples, Field, Order, Table};
use cotangent::graph::{Shape, TensorData};
use cotangent::prelude::DType;
use cotangent::train::Model;

use crate::{Counts, Job, Limits};

/// Computes what waits, together, until nobody sends any more. `others` says whether requests are being read.
pub(crate) fn predict(
    mut model: Model,
    limits: Limits,
    jobs: &Receiver<Job>,
    others: impl Fn() -> bool,
    counts: &Counts,
) {
    let mut left_over: Option<Job> = None;
    loop {
        let Some(first) = left_over.take().or_else(|| jobs.recv().ok()) else { return };
        let mut n_rows = first.table.len();
        let mut batch = vec![first];
        let until = Instant::now() + limits.batch_wait;
        while n_rows < limits.batch_rows {
            let next = match jobs.try_recv() {
                Err(TryRecvError::Empty) if others() => {
                    jobs.recv_timeout(until.saturating_duration_since(Instant::now()))
                }
                next => next.map_err(|_| RecvTimeoutError::Timeout),
            };
            match next {
                Ok(job) if n_rows + job.table.len() <= limits.batch_rows => {
                    n_rows += job.table.len();
                    batch.push(job);
                }
                Ok(job) => {
                    left_over = Some(job);
                    break;
                }
                Err(_) => break,
            }
        }
        counts.batches.fetch_add(1, Ordering::Relaxed);
        let outputs = model.predict_named(&Joined(batch.iter().map(|job| &job.table).collect()));
        let mut start = 0;
        let n_jobs = batch.len();
        for Job { table, answer } in batch {
            let rows = start..start + table.len();
            start = rows.end;
            let own = match &outputs {
                Ok(outputs) => Ok(outputs.iter().map(|(name, all)| (name.clone(), part(all, rows.clone()))).collect()),
                Err(error) if n_jobs == 1 => Err(error.to_string()),
                // A row of somebody else's may be wrong: each by itself.
                Err(_) => model.predict_named(&table).map_err(|error| error.to_string()),
            };
            // Whoever asked may be gone.
            let _ = answer.send(own);
        }
    }
}

/// The rows of several requests, one behind the other.
struct Joined<'a>(Vec<&'a Table>);

impl Joined<'_> {
    /// The request of a row, and its place there.
    fn at(&self, row: usize) -> (usize, usize) {
        let mut row = row;
        for (at, table) in self.0.iter().enumerate() {
            if row < table.len() {
                return (at, row);
            }
            row -= table.len();
        }
        (0, 0)
    }
}

impl Examples for Joined<'_> {
    fn len(&self) -> usize {
        self.0.iter().map(|table| table.len()).sum()
    }

    fn fields(&self) -> Vec<Field> {
        self.0.first().map(|table| table.fields()).unwrap_or_default()
    }

    fn places(&self, _: Order, _: u64, _: u64) -> Result<Vec<usize>, DataError> {
        Ok((0..self.len()).collect())
    }

    fn gather(&self, epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        let mut parts: Vec<Vec<TensorData>> = Vec::new();
        let mut next = 0;
        while next < places.len() {
            let (job, _) = self.at(places[next]);
            let run: Vec<usize> =
                places[next..].iter().map(|&row| self.at(row)).take_while(|at| at.0 == job).map(|at| at.1).collect();
            next += run.len();
            let mut part = Vec::new();
            self.0[job].gather(epoch, &run, &mut part)?;
            parts.push(part);
        }
        let n_fields = parts.first().map_or(0, Vec::len);
        *batch = (0..n_fields).map(|field| joined(parts.iter().map(|part| &part[field]), places.len())).collect();
        Ok(())
    }
}

/// Tensors of one type, one behind the other.
fn joined<'a>(parts: impl Iterator<Item = &'a TensorData>, n_rows: usize) -> TensorData {
    let (mut bits, mut of) = (Vec::new(), None);
    for part in parts {
        bits.extend(part.bits());
        of = Some((part.dtype(), part.shape()));
    }
    let (dtype, shape) = of.unwrap_or((DType::F32, Shape::new(&[0])));
    let shape: Shape = [n_rows].into_iter().chain(shape.iter().skip(1).copied()).collect();
    TensorData::from_bits(dtype, &shape, &bits)
}

/// Some rows of a tensor.
fn part(all: &TensorData, rows: std::ops::Range<usize>) -> TensorData {
    let shape = all.shape();
    let length = shape.n_elements() / shape[0].max(1);
    let bits = all.bits();
    let own: Shape = [rows.len()].into_iter().chain(shape.iter().skip(1).copied()).collect();
    TensorData::from_bits(all.dtype(), &own, &bits[rows.start * length..rows.end * length])
}
