//! datasets, readers and batches.
