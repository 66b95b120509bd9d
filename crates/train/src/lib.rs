//! the trainer and the named workloads.
