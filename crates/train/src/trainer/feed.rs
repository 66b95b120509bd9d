//! Batches for steps: gathered between them, or ahead of them on a thread, with the same bits.

use std::ops::ControlFlow;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use cotangent_data::{DataError, Examples};
use cotangent_graph::TensorData;
use cotangent_host::float::in_default;

use crate::TrainError;

/// How many batches a thread makes ahead.
const AHEAD: usize = 2;

/// Calls a function with the batches of these places, one after the other, until it says that it is enough.
pub(super) fn each_batch(
    set: &dyn Examples,
    epoch: u64,
    places: &[usize],
    size: usize,
    mut f: impl FnMut(&[TensorData]) -> Result<ControlFlow<()>, TrainError>,
) -> Result<(), TrainError> {
    if !set.is_slow() {
        let mut batch = Vec::new();
        for places in places.chunks(size) {
            set.gather(epoch, places, &mut batch)?;
            if f(&batch)?.is_break() {
                break;
            }
        }
        return Ok(());
    }
    thread::scope(|scope| {
        let (full, batches) = sync_channel::<Result<Vec<TensorData>, DataError>>(AHEAD);
        let (used, buffers) = channel();
        scope.spawn(move || {
            in_default(|| {
                for places in places.chunks(size) {
                    let mut batch = buffers.try_recv().unwrap_or_default();
                    let made = set.gather(epoch, places, &mut batch).map(|()| batch);
                    // Nobody takes any more when the steps have ended early.
                    if full.send(made).is_err() {
                        return;
                    }
                }
            });
        });
        for batch in batches {
            let batch = batch?;
            if f(&batch)?.is_break() {
                break;
            }
            // The thread has ended when the last batch was made.
            let _ = used.send(batch);
        }
        Ok(())
    })
}
