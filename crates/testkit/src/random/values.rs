//! Values for the sources of a graph: those of [`cotangent_graph::samples`], of the kinds that random graphs are made for.

use cotangent_graph::samples::{Kind, environment_of};
use cotangent_graph::{DType, Env, Graph, TensorData};

use crate::Rng;

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

/// The same with one to four floats of the whole graph at an edge: a zero of either sign, an infinity, a NaN, a subnormal, the
/// ends of the type, the roots of its ends, a whole number where functions have kinks, or the value of another element.
///
/// # Panics
/// If there is no memory for them.
pub fn edge_env(graph: &Graph, seed: u64) -> Env {
    let mut env = smooth_env(graph, seed);
    let mut rng = Rng::new(seed ^ 0xed9e);
    let is_float =
        |name: &&str| env.values.get(*name).is_some_and(|v| v.dtype().is_float() && v.shape().n_elements() > 0);
    let sources: Vec<&str> = graph.nodes().iter().filter_map(|node| node.name()).filter(is_float).collect();
    if sources.is_empty() {
        return env;
    }
    for _ in 0..1 + rng.below(4) {
        let name = *rng.pick(&sources);
        let Some(data) = env.values.get(name) else { continue };
        let mut values = data.to_f64();
        let (dtype, at) = (data.dtype(), rng.below(values.len()));
        values[at] = match rng.chance(0.2) {
            true => *rng.pick(&values),
            false => edge(&mut rng, dtype),
        };
        let bits: Vec<u64> = values.iter().map(|&v| dtype.bits_of_f64(v)).collect();
        let data = TensorData::from_bits(dtype, &data.shape(), &bits);
        env.values.insert(name.to_owned(), data);
    }
    env
}

fn edge(rng: &mut Rng, dtype: DType) -> f64 {
    let (most, normal, least) = match dtype {
        DType::F32 => (f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE), 1e-42),
        _ => (f64::MAX, f64::MIN_POSITIVE, 1e-312),
    };
    let sign = if rng.chance(0.5) { -1.0 } else { 1.0 };
    sign * match rng.below(14) {
        0..=4 => 0.0,
        5 => f64::INFINITY,
        6 => f64::NAN,
        7 => least,
        8 => *rng.pick(&[most, normal]),
        9 => most.sqrt(),
        10 => normal.sqrt(),
        11 => 100.0,
        _ => *rng.pick(&[1.0, 3.0, 6.0]),
    }
}
