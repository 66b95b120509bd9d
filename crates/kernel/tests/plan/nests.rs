//! Which loops a kernel can have: what keeps an edge although both sides run over the same elements.

use cotangent_graph::{DType, Graph};
use cotangent_kernel::{Edge, Fusion, Plan, Verdict};

use crate::common::{planned, primitive};

const F32: DType = DType::F32;

fn check(graph: &Graph, expected: &[&str]) -> Plan {
    let plan = planned(graph);
    let op = |id| graph.node(id).op.name;
    let verdicts: Vec<String> =
        plan.edges.iter().map(|e| format!("{} → {} {}", op(e.from), op(e.to), e.verdict)).collect();
    assert_eq!(verdicts, expected, "\n{graph}\n{plan}");
    plan
}

#[test]
fn axes_that_cannot_be_one_loop_keep_an_edge_and_copy_nothing() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [6, 5, 4]);
        g.output("y", x.transpose([0, 2, 1]).tanh().sum_over([1, 2]));
    });
    let uneven = "tanh → reduce_sum keep: something is not read evenly along axes that would have to be one loop";
    let plan = check(&graph, &[uneven]);
    assert!(plan.steps.len() == 2 && plan.forced.is_empty(), "{plan}");
    // Rows need not be one loop.
    let graph = primitive(|g| {
        let x = g.input("x", F32, [6, 5, 4]);
        g.output("y", x.transpose([1, 0, 2]).tanh().sum_over([2]));
    });
    assert_eq!(check(&graph, &["tanh → reduce_sum fuse into-reduction: reduced as it is made"]).steps.len(), 1);
}

#[test]
fn a_border_is_not_reduced() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [4, 64]);
        g.output("y", x.pad(&[1, 0], &[1, 0], 0.5).tanh().sum_over([1]));
    });
    let plan = check(
        &graph,
        &[
            "pad → tanh fuse recompute: cheap, recomputed by its reader",
            "tanh → reduce_sum keep: a border is chosen for whole rows, which must not be reduced",
        ],
    );
    assert!(plan.steps.len() == 2 && plan.forced.is_empty(), "{plan}");
}

#[test]
fn what_is_reduced_is_found_through_reshapes_that_add_and_drop_axes() {
    let graph = primitive(|g| {
        let (x, y) = (g.input("x", F32, [64, 4, 1]), g.input("y", F32, [64, 1, 1]));
        let w = g.input("w", F32, [3, 64]);
        let sums = x.tanh().sum_over([1]).reshape([64, 1, 1]) + y;
        g.output("z", w.matmul(sums.reshape([64, 1])));
    });
    let plan = planned(&graph);
    assert_eq!(plan.forced.len(), 1, "{plan}");
    let fused = |edge: &&Edge| edge.verdict == Verdict::Fuse(Fusion::OutOfReduction);
    assert_eq!(plan.edges.iter().filter(fused).count(), 1, "{plan}");
}

#[test]
fn what_is_checked_lies_side_by_side() {
    let graph = primitive(|g| {
        let (x, index) = (g.input("x", F32, [9, 3]), g.input("index", DType::I64, []));
        let rows = (index + 1).repeat_along(&[4].into(), [0]).check_index(9);
        g.output("rows", x.gather(rows));
        g.output("index", rows);
    });
    let plan = planned(&graph);
    assert_eq!(plan.forced.len(), 1, "{plan}");
}
