//! Derivatives by finite differences, to hold symbolic ones against.
//!
//! Central differences with one step of Richardson extrapolation: the error is of fourth order in a step of about 1e-3, so
//! in f64 about 1e-11 of the function's scale; it means something only where the function is smooth. Graphs are
//! differentiated by a closure, so that this crate need not know the passes.

use std::sync::Arc;

use cotangent_graph::interp::interpret;
use cotangent_graph::{Env, Graph, GraphBuilder, Tensor, TensorData};

use crate::Rng;

pub use cotangent_graph::samples::{wide_data, wide_env};

/// [`cotangent_graph::samples::to_f64`] of a graph that is known to be well formed.
///
/// # Panics
/// If it is not.
pub fn to_f64(graph: &Graph) -> Graph {
    cotangent_graph::samples::to_f64(graph).unwrap_or_else(|diag| panic!("{diag}"))
}

/// How far a symbolic derivative is from the finite differences.
#[derive(Clone, Debug)]
pub struct Deviation {
    /// The source it was taken with respect to.
    pub wrt: String,
    /// 1 for the gradient, 2 for the derivative of a directional derivative.
    pub order: usize,
    /// The largest `|symbolic - finite| / max(|finite|, 0.1)` over the elements.
    pub worst: f64,
    /// Both numbers at that element.
    pub at: (f64, f64),
}

/// Compares symbolic derivatives of the first output of an f64 graph with central differences.
///
/// The output is contracted with fixed random numbers `s` to `L = Σ y·s`. Order 1 compares `∂L/∂x` for every source `x` of
/// `wrt`. Order 2 contracts these gradients with further random numbers to `M = Σ v·∂L/∂x` and compares `∂M/∂x`; the
/// differences of `M` are taken of the symbolic gradient, so order 1 is checked too. `differentiate` replaces the `grad`
/// nodes of a graph.
pub fn check_gradient(
    graph: &Graph,
    wrt: &[&str],
    env: &Env,
    order: usize,
    differentiate: impl Fn(&Graph) -> Result<Graph, String>,
) -> Result<Vec<Deviation>, String> {
    let show = |d: &dyn std::fmt::Display| d.to_string();
    let value_graph = with_gradients(graph, wrt, 0)?;
    let first = differentiate(&with_gradients(graph, wrt, 1)?)?;
    let mut out = Vec::new();
    let symbolic = interpret(&first, env).map_err(|d| show(&d))?;
    compare(&value_graph, wrt, env, 1, &symbolic[1..], &mut out)?;
    if order >= 2 {
        let directional = differentiate(&with_gradients(graph, wrt, 2)?)?;
        let symbolic = interpret(&directional, env).map_err(|d| show(&d))?;
        compare(&directional, wrt, env, 2, &symbolic[1..], &mut out)?;
    }
    Ok(out)
}

/// Order 0: the output `L`. Order 1: `L` and its gradients. Order 2: `M` and its gradients.
fn with_gradients(graph: &Graph, wrt: &[&str], order: usize) -> Result<Graph, String> {
    let builder = GraphBuilder::like(graph);
    let bodies: Vec<_> = graph.bodies().iter().map(|body| builder.add_body(Arc::clone(body))).collect();
    let mut map: Vec<Tensor<'_>> = Vec::with_capacity(graph.n_nodes());
    for node in graph.nodes() {
        let inputs = node.inputs.iter().map(|input| map[input.index()].id()).collect();
        let attrs = node.attrs.map_bodies(|body| bodies[body.index()]);
        map.push(builder.push_node(node.op, inputs, attrs, node.ty.clone(), node.origin.clone()));
    }
    let output = graph.outputs().first().ok_or("the graph has no outputs")?;
    let mut scalar = contract(map[output.value.index()], 11);
    let sources: Vec<Tensor<'_>> = wrt
        .iter()
        .map(|name| graph.source(name).map(|id| map[id.index()]).ok_or_else(|| format!("no source `{name}`")))
        .collect::<Result<_, _>>()?;
    if order == 2 {
        let parts = builder.grad(scalar, &sources).into_iter().enumerate();
        let parts = parts.map(|(k, gradient)| contract(gradient, 23 + k as u64));
        scalar = parts.reduce(|a, b| a + b).ok_or("no sources were named")?;
    }
    builder.output("value", scalar);
    if order > 0 {
        for (name, gradient) in wrt.iter().zip(builder.grad(scalar, &sources)) {
            builder.output(&format!("d {name}"), gradient);
        }
    }
    builder.finish().map_err(|diags| diags.to_string())
}

/// `Σ t·s` with random `s` of the given seed, away from zero.
fn contract(t: Tensor<'_>, seed: u64) -> Tensor<'_> {
    let mut rng = Rng::new(seed);
    let (dtype, shape) = (t.dtype(), t.shape());
    let number = |rng: &mut Rng| rng.float(0.5..1.5) * if rng.chance(0.5) { -1.0 } else { 1.0 };
    let bits: Vec<u64> = (0..shape.n_elements()).map(|_| dtype.bits_of_f64(number(&mut rng))).collect();
    let seed = t.builder().constant(TensorData::from_bits(dtype, &shape, &bits));
    (t * seed).sum()
}

fn compare(
    graph: &Graph,
    wrt: &[&str],
    env: &Env,
    order: usize,
    symbolic: &[TensorData],
    out: &mut Vec<Deviation>,
) -> Result<(), String> {
    // Only the scalar is evaluated at the moved points.
    let scalar_only = crate::copy::copy(graph, |k, output| (k == 0).then(|| output.clone()), |_, _, _| None);
    for (name, symbolic) in wrt.iter().zip(symbolic) {
        let finite = central_differences(&scalar_only, name, env)?;
        let mut deviation = Deviation { wrt: (*name).to_owned(), order, worst: 0.0, at: (0.0, 0.0) };
        for (s, f) in symbolic.to_f64().into_iter().zip(finite) {
            let error = (s - f).abs() / f.abs().max(0.1);
            if error > deviation.worst || error.is_nan() {
                deviation.worst = if error.is_nan() { f64::INFINITY } else { error };
                deviation.at = (s, f);
            }
        }
        out.push(deviation);
    }
    Ok(())
}

/// The derivative of a graph's first output, a scalar, with respect to every element of a source.
pub fn central_differences(graph: &Graph, wrt: &str, env: &Env) -> Result<Vec<f64>, String> {
    let base = env.values.get(wrt).ok_or_else(|| format!("`{wrt}` has no value"))?;
    let (dtype, shape, bits) = (base.dtype(), base.shape(), base.bits());
    let mut moved_env = env.clone();
    let mut derivative = |i: usize| -> Result<f64, String> {
        let at = dtype.f64_of_bits(bits[i]);
        let mut value = |delta: f64| -> Result<f64, String> {
            let mut moved = bits.clone();
            moved[i] = dtype.bits_of_f64(at + delta);
            moved_env.values.insert(wrt.to_owned(), TensorData::from_bits(dtype, &shape, &moved));
            let outputs = interpret(graph, &moved_env).map_err(|d| d.to_string())?;
            outputs.first().and_then(TensorData::as_scalar).ok_or_else(|| "the output is not a scalar".into())
        };
        let step = 1e-3 * at.abs().max(1.0);
        let mut slope = |h: f64| -> Result<f64, String> { Ok((value(h)? - value(-h)?) / (2.0 * h)) };
        Ok((4.0 * slope(step / 2.0)? - slope(step)?) / 3.0)
    };
    (0..bits.len()).map(&mut derivative).collect()
}
