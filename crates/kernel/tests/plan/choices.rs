//! Kinds of fusion, forbidden and forced by name.

use cotangent_graph::ops::windows::Windows;
use cotangent_graph::{DType, Graph, Init};
use cotangent_host::{Caches, Target};
use cotangent_kernel::{Choice, ClusterOptions, Fusion, Fusions, explain, plan};
use cotangent_testkit::random;

use crate::common::{compare_by, optimized, primitive};

const F32: DType = DType::F32;

/// The plan gives what the oracle gives.
fn check(graph: &Graph, options: &ClusterOptions) {
    compare_by(graph, &random::env(graph, 7), [options]).unwrap_or_else(|e| panic!("{e}"));
}

/// A train step with every kind of fusion in it: bias and activation, a derivative, sums of columns, an update, softmax.
fn every_kind() -> Graph {
    let graph = primitive(|g| {
        let (x, y) = (g.input("x", F32, [8, 5]), g.input("y", F32, [8, 3]));
        let param = |name: &str, shape: &[usize]| g.param(name, F32, shape, Init::ONES);
        let (w0, b0, w1) = (param("w0", &[5, 4]), param("b0", &[4]), param("w1", &[4, 3]));
        let p = (x.matmul(w0) + b0).tanh().matmul(w1).softmax(1);
        let loss = (p * (p - y).exp()).sum();
        g.output("loss", loss);
        let rows = g.input("rows", F32, [128, 6]);
        let shares = rows.exp() / rows.exp().sum_over([1]).reshape([128, 1]);
        g.output("shares", shares);
        g.output("columns", shares.sum_over([0]));
        g.output("pooled", x.windows(&Windows::new([1], &[3])).exp().sum_over([2]));
        let near = g.input("near", F32, [2, 80]);
        g.output("joined", g.concat(&[near.sin(), near.cos()], 1));
        g.output("loudness", (x * 2.0).exp());
        g.output("contrast", (x * 3.0).tanh());
        for (param, d) in [w0, b0, w1].into_iter().zip(g.grad(loss, &[w0, b0, w1])) {
            g.update(param, param - (d * d + 1e-8).sqrt() * 0.1);
        }
    });
    optimized(&graph)
}

#[test]
fn each_kind_of_fusion_can_be_forbidden() {
    let graph = every_kind();
    let used = plan(&graph, &ClusterOptions::default()).unwrap().fusions();
    for kind in Fusion::ALL {
        assert!(used.contains(&kind), "`{kind}` does not occur: {used:?}");
        let options = ClusterOptions { fusions: Fusions::auto().without(kind), ..ClusterOptions::default() };
        let without = plan(&graph, &options).unwrap();
        assert!(!without.fusions().contains(&kind), "{}", explain(&graph, &without));
        let edge =
            without.edges.iter().any(|edge| edge.verdict.to_string().contains(&format!("`{kind}` is turned off")));
        // What is not recomputed is one op more, what windows are made of is reduced otherwise; siblings have no edge.
        assert!(
            edge || matches!(kind, Fusion::Recompute | Fusion::ColumnsWithRows | Fusion::Windows | Fusion::Siblings),
            "{}",
            explain(&graph, &without)
        );
        check(&graph, &options);
    }
}

#[test]
fn limits_of_the_cost_model_do_not_hold_for_what_is_forced() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [2, 100]);
        let y = x.exp();
        g.output("y", (y / y.sum_over([1]).reshape([2, 1])).tanh());
    });
    let graph = optimized(&graph);
    let mut options = ClusterOptions::default();
    let (usual, l1) = (Target::usual(), 50 * 32);
    let caches = Caches { l1, l2: l1, l1_period: 1024, ..usual.caches() };
    options.cost.target = Target::new(usual.isa(), caches, 1, *usual.costs()).unwrap();
    options.cost.max_kernel_ops = 1;
    let n_kernels = |options: &ClusterOptions| {
        check(&graph, options);
        plan(&graph, options).unwrap().figures().n_kernels
    };
    assert!(n_kernels(&options) > 1);
    for kind in Fusion::ALL {
        options.fusions = options.fusions.with(kind, Choice::Always);
    }
    assert_eq!(n_kernels(&options), 1);
}
