//! Random graphs through the pipeline: the same values, bit by bit up to the sign of zeros where no form is stabilized,
//! the same text when optimized again, and gradients that agree with central differences.

use cotangent_graph::DType::{Bool, F32, F64};
use cotangent_graph::samples::Sampler;
use cotangent_graph::text::parse;
use cotangent_graph::{DType, Graph, GraphBuilder, Registry, Tensor, build};

use crate::common::{Values, assert_bits, assert_close, env, optimized, run};

/// Which ops a random graph is made of.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Ops whose rules keep bits.
    Bits,
    /// Smooth ops, for gradients.
    Smooth,
    /// Those and composites, some in unstable forms.
    Composite,
}

/// Random tensors of shapes [3, 4] and below, from two inputs and a vector.
fn grow<'g>(g: &'g GraphBuilder, s: &mut Sampler, dtype: DType, kind: Kind, n: usize) -> Vec<Tensor<'g>> {
    let (x, y, v) = (g.input("x", dtype, [3, 4]), g.input("y", dtype, [3, 4]), g.input("v", dtype, [4]));
    let mut pool = vec![x, y, v.broadcast_to([3, 4])];
    let pick = |s: &mut Sampler, pool: &[Tensor<'g>]| pool[s.int(0..pool.len() as i64) as usize];
    for _ in 0..n {
        let (a, b) = (pick(s, &pool), pick(s, &pool));
        let constants = [0.0, -0.0, 1.0, -1.0, 2.0, 0.25, -3.0];
        let c = constants[s.int(0..constants.len() as i64) as usize];
        let smooth = match s.int(0..16) {
            0 => Some(a + b),
            1 => Some(a - b),
            2 => Some(a * b),
            3 => Some(-a),
            4 => Some(a + c),
            5 => Some(c - a),
            6 => Some(a * c),
            7 => Some(a / if c == 0.0 { 4.0 } else { c }),
            8 => Some(a.tanh()),
            9 => Some(a.t().flip([0]).t()),
            10 => Some(a.reshape([2, 6]).t().reshape([3, 4])),
            11 => Some(a.sum_over([1]).repeat_along(&[3, 4].into(), [1])),
            12 => Some(
                a.reshape([3, 2, 2])
                    .sum_over([0, 2])
                    .reshape([2, 1])
                    .broadcast_to([6, 2, 2])
                    .reshape([6, 4])
                    .slice(&[1, 0], &[4, 4]),
            ),
            13 => Some(g.concat(&[a, b], 0).slice_steps(&[0, 0], &[6, 4], &[2, 1])),
            14 => Some(a.sigmoid()),
            _ => Some(a.matmul_with(b, false, true).matmul(a.pad(&[0, 0], &[0, 0], 1.0)).tanh()),
        };
        let composite = match s.int(0..10) {
            0 => a.softmax(1),
            1 => a.softmax(0).log(),
            2 => a.sigmoid().log(),
            3 => (1.0f64 - a.sigmoid()).log(),
            4 => (a.exp() + 1.0f64).log(),
            5 => a.exp() - 1.0f64,
            6 => a.exp().sum_over([0]).log().broadcast_to([3, 4]),
            7 => a.square().sqrt() + b.gelu(),
            8 => a.mean_over([0]) - b,
            _ => a.bce_with_logits(b.sigmoid()),
        };
        let bits = match s.int(0..8) {
            0 => a.maximum(b),
            1 => a.relu(),
            2 => a.gt(b).select(a, b),
            3 => (!a.ge(b)).select(b, a.abs()),
            4 => a.max_over([0]).broadcast_to([3, 4]),
            5 => a.cast(Bool).select(a, b),
            6 => a.minimum(a).abs().abs(),
            _ => a.eq(b).select(a + c, a * c),
        };
        if kind == Kind::Composite && s.unit() < 0.5 {
            pool.push(composite);
            continue;
        }
        let next = smooth.filter(|_| kind != Kind::Bits || s.unit() < 0.6).unwrap_or(bits);
        pool.push(next);
    }
    pool
}

fn random_graph(seed: u64, dtype: DType, kind: Kind, gradient: bool) -> Graph {
    let mut s = Sampler::new(dtype, seed);
    let graph = build(|g| {
        let n = 4 + (s.unit() * 16.0) as usize;
        let pool = grow(g, &mut s, dtype, kind, n);
        let (last, before) = (pool[pool.len() - 1], pool[pool.len() - 2]);
        g.output("last", last);
        g.output("before", before.sum());
        if gradient {
            let y = last.tanh().mean() + before.tanh().sum() * 0.1f64;
            for (k, d) in g.grad(y, &[pool[0], pool[1], pool[3]]).into_iter().enumerate() {
                g.output(&format!("d{k}"), d);
            }
        }
    });
    graph.unwrap_or_else(|diags| panic!("{diags}"))
}

#[test]
fn values_keep_their_bits() {
    for seed in 0..200 {
        let source = random_graph(seed, F32, Kind::Bits, false);
        let done = optimized(&source);
        for run_seed in 0..3 {
            // No graph here divides by what can be zero, so the sign of a zero stays the sign of a zero.
            let env = env(&source, run_seed, Values::Wild);
            assert_bits(
                &run(&source, &env),
                &run(&done.graph, &env),
                true,
                &format!("seed {seed}:\n{source}{}", done.graph),
            );
        }
    }
}

#[test]
fn optimizing_twice_is_optimizing_once_on_random_graphs() {
    for seed in 0..200 {
        let kind = [Kind::Bits, Kind::Composite][seed as usize % 2];
        let source = random_graph(seed, F64, kind, seed % 4 < 2);
        let once = optimized(&source).graph;
        let twice = optimized(&once);
        assert_eq!(twice.graph.to_string(), once.to_string(), "seed {seed}:\n{source}\n{:?}", twice.report);
        // Nor does it matter that reading the text numbers nodes anew.
        let read =
            parse(&once.to_string(), "once", &Registry::builtin()).unwrap_or_else(|diags| panic!("{diags}\n{once}"));
        assert_eq!(optimized(&read).graph.to_string(), once.to_string(), "seed {seed}:\n{source}");
    }
}

#[test]
fn gradients_agree_with_central_differences_on_random_graphs() {
    for seed in 0..150 {
        let kind = [Kind::Smooth, Kind::Composite][seed as usize % 2];
        let source = random_graph(seed, F64, kind, true);
        let done = optimized(&source);
        let env = env(&source, seed, Values::Tame);
        let what = format!("seed {seed}:\n{source}");
        let (want, got) = (run(&source, &env), run(&done.graph, &env));
        // Values that grew make the differences coarse; such seeds say nothing about the gradient.
        if want.iter().all(|t| t.to_f64().iter().all(|v| v.abs() < 1e3)) {
            assert_close(&want, &got, 1e-5, &what);
        }
    }
}
