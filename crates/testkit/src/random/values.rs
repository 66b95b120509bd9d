//! Values for the sources of a graph.

use cotangent_graph::{DType, Env, Graph, NodeId, TensorData};

use crate::Rng;

/// Values for every input, parameter and state of a graph, indices in range, with some special numbers (zeros of either
/// sign, ones) among the floats.
pub fn env(graph: &Graph, seed: u64) -> Env {
    fill(graph, seed, 0.05)
}

/// The same without special numbers: floats stay away from 0, where many functions have a kink.
pub fn smooth_env(graph: &Graph, seed: u64) -> Env {
    fill(graph, seed, 0.0)
}

fn fill(graph: &Graph, seed: u64, special: f64) -> Env {
    const SPECIAL: [f64; 6] = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0];
    let bounds = index_bounds(graph);
    let mut rng = Rng::new(seed ^ 0x5eed);
    let mut env = Env::default();
    env.counters.seed = rng.bits();
    env.counters.step = rng.below(1000) as u32;
    for id in graph.ids() {
        let node = graph.node(id);
        if !matches!(node.op.name, "input" | "param" | "state") {
            continue;
        }
        let Some((dtype, shape)) = node.ty.as_tensor() else { continue };
        let number = |rng: &mut Rng| match (dtype, bounds[id.index()]) {
            (DType::F32 | DType::F64, _) if rng.chance(special) => *rng.pick(&SPECIAL),
            (DType::F32 | DType::F64, _) => rng.float(0.05..1.5) * if rng.chance(0.5) { -1.0 } else { 1.0 },
            (DType::Bool, _) => f64::from(u8::from(rng.chance(0.5))),
            (DType::I32 | DType::I64, Some(bound)) => rng.below(bound) as f64,
            (DType::U8, _) => rng.below(9) as f64,
            _ => rng.below(17) as f64 - 8.0,
        };
        let bits: Vec<u64> = (0..shape.n_elements()).map(|_| dtype.bits_of_f64(number(&mut rng))).collect();
        env.values.insert(node.attrs.str("name").to_owned(), TensorData::from_bits(dtype, shape, &bits));
    }
    env
}

/// For each node, the bound that its values must stay below because they are used as indices, as far as that can be seen
/// through ops that keep values.
fn index_bounds(graph: &Graph) -> Vec<Option<usize>> {
    let mut bounds: Vec<Option<usize>> = vec![None; graph.n_nodes()];
    for id in graph.ids().rev() {
        let node = graph.node(id);
        match node.op.name {
            "gather" => tighten(&mut bounds, node.inputs[1], Some(graph.ty(node.inputs[0]).shape()[0])),
            "scatter_add" => tighten(&mut bounds, node.inputs[1], Some(node.attrs.size("rows"))),
            "one_hot" => tighten(&mut bounds, node.inputs[0], Some(node.attrs.size("depth"))),
            "cross_entropy" => tighten(&mut bounds, node.inputs[1], graph.ty(node.inputs[0]).shape().last().copied()),
            "check_index" => {
                tighten(&mut bounds, node.inputs[0], Some(node.attrs.size("bound")));
                let own = bounds[id.index()];
                tighten(&mut bounds, node.inputs[0], own);
            }
            "reshape" | "transpose" | "broadcast" | "slice" | "flip" | "concat" | "cast" | "stop_gradient" => {
                let own = bounds[id.index()];
                node.inputs.iter().for_each(|&input| tighten(&mut bounds, input, own));
            }
            _ => {}
        }
    }
    bounds
}

fn tighten(bounds: &mut [Option<usize>], input: NodeId, bound: Option<usize>) {
    let known = &mut bounds[input.index()];
    *known = match (*known, bound) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}
