//! Values for the sources of a graph: those of [`cotangent_graph::samples`], of the kinds that random graphs are made for.

use cotangent_graph::samples::{Kind, environment_of};
use cotangent_graph::{Env, Graph};

/// Values for every input, parameter and state of a graph, indices in range, with some special numbers (zeros of either
/// sign, ones) among the floats.
///
/// # Panics
/// If there is no memory for them.
pub fn env(graph: &Graph, seed: u64) -> Env {
    environment_of(graph, seed, Kind::Mixed).unwrap_or_else(|diag| panic!("{diag}"))
}

/// The same without special numbers: floats stay away from 0, where many functions have a kink.
///
/// # Panics
/// If there is no memory for them.
pub fn smooth_env(graph: &Graph, seed: u64) -> Env {
    environment_of(graph, seed, Kind::Smooth).unwrap_or_else(|diag| panic!("{diag}"))
}
