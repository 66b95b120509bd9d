//! the graph IR, its text form, verifier, ops, builder and interpreter.
