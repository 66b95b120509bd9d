//! What kernels over rows do with memory: values kept from sweep to sweep, and stores past the caches.

use cotangent_graph::{DType, GraphBuilder, Init, Shape, Tensor};
use cotangent_host::{Costs, Target};
use cotangent_kernel::{BufferId, ClusterOptions, CostModel, Home, Plan, Step, plan, verify_plan};

use crate::common::{optimized, planned, primitive};

const F32: DType = DType::F32;

fn plan_of(f: impl FnOnce(&GraphBuilder)) -> Plan {
    planned(&optimized(&primitive(f)))
}

/// Elements of the rows that kernels keep.
fn kept(plan: &Plan) -> Vec<usize> {
    plan.buffers.iter().filter(|b| b.home == Home::Rows).map(|b| b.n_elements).collect()
}

#[test]
fn expensive_values_are_kept_from_sweep_to_sweep() {
    let cross_entropy = |shape: [usize; 2]| {
        plan_of(move |g| {
            let (x, y) = (g.input("x", F32, shape), g.input("y", DType::I64, [shape[0]]));
            let loss = x.cross_entropy(y).mean();
            g.output("loss", loss);
            g.output("dx", g.grad(loss, &[x])[0]);
        })
    };
    // The exponentials, of which the sum is known a sweep earlier than the gradient needs them.
    let whole = cross_entropy([6, 5]);
    assert_eq!(kept(&whole), [5], "{whole}");
    let graph = optimized(&primitive(|g| g.output("y", g.input("x", F32, [6, 5]).softmax(1))));
    let again =
        ClusterOptions { cost: CostModel { keep_ops: 1000, ..CostModel::default() }, ..ClusterOptions::default() };
    let (once, twice) = (planned(&graph), plan(&graph, &again).expect("a plan"));
    assert_eq!((kept(&once), kept(&twice)), (vec![5], vec![]));
    // An exponential of what is not above 0 is 17 instructions.
    assert!(counted(&once) + 17 <= counted(&twice), "{} and {}", counted(&once), counted(&twice));
    // With sums of columns beside, over several axes, and of a value that is an output too.
    let plan = plan_of(|g| {
        let y = g.input("x", F32, [130, 3, 7]).softmax(2);
        g.output("y", y);
        g.output("sum", y.sum_over([0, 1]));
    });
    assert_eq!(kept(&plan), [7], "{plan}");
    let plan = plan_of(|g| {
        let x = g.input("x", F32, [6, 5]).tanh();
        g.output("tanh", x);
        g.output("y", x.normalize([1], 1e-5));
    });
    assert_eq!(kept(&plan), [5], "{plan}");
}

/// Instructions of all kernels.
fn counted(plan: &Plan) -> usize {
    plan.kernels.iter().map(cotangent_kernel::ir::Kernel::n_ops).sum()
}

#[test]
fn only_what_is_below_its_own_maximum_has_the_short_exponential() {
    type Below = for<'g> fn([Tensor<'g>; 2], &Shape) -> Tensor<'g>;
    // A square, so that a maximum fits along the wrong axis too.
    let shape = Shape::new(&[6, 6]);
    let ops = |below: Below| {
        counted(&plan_of(|g| {
            let operands = ["x", "z"].map(|name| g.input(name, F32, shape.clone()));
            g.output("y", below(operands, &shape).exp());
        }))
    };
    let own = ops(|[x, _], shape| x - x.max_over([1]).repeat_along(shape, [1]));
    let others: [(&str, Below); 4] = [
        ("the other axis", |[x, _], shape| x - x.max_over([1]).broadcast_along(shape, [1])),
        ("another tensor", |[x, z], shape| x - z.max_over([1]).repeat_along(shape, [1])),
        ("the least", |[x, _], shape| x - x.min_over([1]).repeat_along(shape, [1])),
        ("the other way round", |[x, _], shape| x.max_over([1]).repeat_along(shape, [1]) - x),
    ];
    for (name, below) in others {
        assert_eq!(ops(below), own + 6, "{name}");
    }
}

#[test]
fn cheap_values_and_those_of_one_sweep_are_not_kept() {
    assert!(kept(&plan_of(|g| g.output("y", g.input("x", F32, [6, 5]).normalize([1], 1e-5)))).is_empty());
    assert!(kept(&plan_of(|g| g.output("y", g.input("x", F32, [6, 5]).log_sum_exp_over(1)))).is_empty());
    // Columns, and rows that are long.
    assert!(kept(&plan_of(|g| g.output("y", g.input("x", F32, [6, 5]).softmax(0)))).is_empty());
    assert!(kept(&plan_of(|g| g.output("y", g.input("x", F32, [2, 1 << 14]).softmax(1)))).is_empty());
}

#[test]
fn only_the_kernel_of_a_kept_row_may_touch_it() {
    let whole = plan_of(|g| g.output("y", g.input("x", F32, [6, 5]).softmax(1)));
    let row = BufferId(whole.buffers.iter().position(|b| b.home == Home::Rows).expect("a row") as u32);
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = whole.clone();
        change(&mut plan);
        let errors = verify_plan(&plan);
        assert!(errors.iter().any(|e| e.contains("is kept row by row")), "{errors:#?}");
    };
    refused(&|plan| plan.outputs[0].buffer = row);
    refused(&|plan| {
        let out = plan.outputs[0].buffer;
        plan.buffers[out.index()].home = Home::Rows;
    });
    refused(&|plan| {
        let Step::Kernel(call) = &plan.steps[0] else { return };
        let at = call.args.iter().position(|&id| id == row).expect("an argument");
        plan.kernels[call.kernel].args[at].read = true;
    });
}

#[test]
fn large_results_go_past_the_caches() {
    let streamed = |f: &dyn Fn(&GraphBuilder), bytes: usize| {
        let graph = optimized(&primitive(f));
        let usual = Target::usual();
        let costs = Costs { stream_bytes: bytes, ..*usual.costs() };
        let cost = CostModel::new(Target::new(usual.isa(), usual.caches(), 1, costs).expect("a machine"));
        let plan = plan(&graph, &ClusterOptions { cost, ..ClusterOptions::default() }).expect("a plan");
        assert_eq!(verify_plan(&plan), [""; 0]);
        let stores = plan.kernels.iter().flat_map(|k| &k.phases).flat_map(|p| &p.stores);
        let streams: Vec<bool> = stores.map(|store| store.stream).collect();
        (streams, plan.kernels.len())
    };
    let layer = |g: &GraphBuilder| {
        let (x, gain) = (g.input("x", F32, [6, 50]), g.param("gain", F32, [50], Init::ONES));
        let y = x.softmax(1) * gain;
        g.output("y", y);
        g.output("sums", y.sum_over([1]));
    };
    // The result, but not the row that is kept, nor the sums of rows.
    let (streams, _) = streamed(&layer, 2400);
    assert_eq!(streams.iter().filter(|s| **s).count(), 1, "{streams:?}");
    assert!(streamed(&layer, 1 << 20).0.iter().all(|s| !s));
    // What is read and updated in place stays in cache.
    let update = |g: &GraphBuilder| {
        let w = g.param("w", F32, [1000], Init::ONES);
        g.update(w, w * 0.5);
    };
    assert!(streamed(&update, 1).0.iter().all(|s| !s));
    // Two steps of one kernel that store alike still share it.
    let twice = |g: &GraphBuilder| {
        let (a, b) = (g.input("a", F32, [2, 3]), g.input("b", F32, [2, 3]));
        g.output("a", a.t().exp().softmax(1));
        g.output("b", b.t().exp().softmax(1));
    };
    assert_eq!(streamed(&twice, 1).1, streamed(&twice, 1 << 20).1);
}
