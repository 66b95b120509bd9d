//! graph to graph passes.
