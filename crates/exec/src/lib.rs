//! compiler driver, executables, runtime, store, sessions.
