//! the thread pool of the executor.
