//! What the tests of this crate share: random environments and comparisons of graphs by value.

use cotangent_graph::interp::interpret;
use cotangent_graph::samples::Sampler;
use cotangent_graph::{DType, Env, Graph, GraphBuilder, Lower, Source, TensorData};
use cotangent_passes::{Optimized, PassOptions, optimize};

/// Floats at which careless rewriting shows.
pub const SPECIAL: [f64; 14] =
    [0.0, -0.0, 1.0, -1.0, 2.0, -3.5, 1e-40, -1e-40, 1e30, -1e30, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.3];

/// How inputs are chosen.
#[derive(Clone, Copy, PartialEq)]
pub enum Values {
    /// Random numbers and special ones.
    Wild,
    /// Random numbers between -2 and 2.
    Tame,
}

/// A graph from a closure; mistakes in a test's graph fail the test.
pub fn graph(f: impl FnOnce(&GraphBuilder)) -> Graph {
    cotangent_graph::build(f).unwrap_or_else(|diags| panic!("{diags}"))
}

/// Values for every named source of a graph.
pub fn env(graph: &Graph, seed: u64, values: Values) -> Env {
    let mut env = Env::default();
    env.counters.seed = seed;
    for (k, node) in graph.nodes().iter().enumerate() {
        if !matches!(node.op.lower, Lower::Source(Source::Input | Source::Param | Source::State)) {
            continue;
        }
        let (dtype, shape) = node.ty.as_tensor().expect("sources are tensors");
        let mut s = Sampler::new(dtype, seed * 1000 + k as u64);
        let tensor = match dtype {
            DType::F32 | DType::F64 => s.of(dtype, shape, |s| {
                let wild = values == Values::Wild && s.unit() < 0.5;
                if wild { SPECIAL[s.int(0..SPECIAL.len() as i64) as usize] } else { s.unit() * 4.0 - 2.0 }
            }),
            DType::Bool => s.bools(shape),
            _ => s.ints(dtype, 0..3, shape),
        };
        env.values.insert(node.attrs.str("name").to_owned(), tensor);
    }
    env
}

/// The outputs of a graph.
pub fn run(graph: &Graph, env: &Env) -> Vec<TensorData> {
    interpret(graph, env).unwrap_or_else(|diag| panic!("{diag}\n{graph}"))
}

/// The whole pipeline.
pub fn optimized(graph: &Graph) -> Optimized {
    optimize(graph, &PassOptions { verify: true, ..PassOptions::default() })
        .unwrap_or_else(|error| panic!("{error}\n{graph}"))
}

/// Some passes of the pipeline.
pub fn only(graph: &Graph, passes: &[&str], options: PassOptions) -> Optimized {
    let only = Some(passes.iter().map(|p| (*p).to_owned()).collect());
    optimize(graph, &PassOptions { verify: true, only, ..options }).unwrap_or_else(|error| panic!("{error}\n{graph}"))
}

/// The op of every live node, in the order of the text.
pub fn ops(graph: &Graph) -> Vec<&'static str> {
    cotangent_graph::text::print::post_order(graph).iter().map(|&id| graph.node(id).op.name).collect()
}

/// Whether two lists of tensors agree to a relative error.
pub fn assert_close(before: &[TensorData], after: &[TensorData], tolerance: f64, what: &str) {
    assert_eq!(before.len(), after.len(), "{what}");
    for (a, b) in before.iter().zip(after) {
        assert_eq!(a.ty(), b.ty(), "{what}");
        for (x, y) in a.to_f64().into_iter().zip(b.to_f64()) {
            let both_nan = x.is_nan() && y.is_nan();
            let close = x == y || (x - y).abs() <= tolerance * (1.0 + x.abs().max(y.abs()));
            assert!(both_nan || close, "{what}: {x} and {y}");
        }
    }
}

/// Whether two lists of tensors have the same bits, except for the signs of zeros if asked.
pub fn assert_bits(before: &[TensorData], after: &[TensorData], zero_sign: bool, what: &str) {
    assert_eq!(before.len(), after.len(), "{what}");
    for (a, b) in before.iter().zip(after) {
        let equal = a.same_bits(b) || (zero_sign && a.ty() == b.ty() && same_values(a, b));
        assert!(equal, "{what}:\n{a}\nand\n{b}");
    }
}

fn same_values(a: &TensorData, b: &TensorData) -> bool {
    a.to_f64().into_iter().zip(b.to_f64()).all(|(x, y)| x == y || (x.is_nan() && y.is_nan()))
}
