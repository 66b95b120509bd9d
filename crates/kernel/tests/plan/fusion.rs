//! What fuses with what: the verdict on every edge of small graphs, and the kernels that come out.

use cotangent_graph::{DType, Graph, GraphBuilder, Init};
use cotangent_kernel::ir::{Space, Sweep};
use cotangent_kernel::{Plan, Step, explain, plan};

use crate::common::{fusion, optimized, planned, primitive};

const F32: DType = DType::F32;
const F64: DType = DType::F64;

/// The verdicts on all edges, a line each: `producer → reader verdict`.
fn verdicts(graph: &Graph, plan: &Plan) -> Vec<String> {
    let op = |id| graph.node(id).op.name;
    plan.edges.iter().map(|e| format!("{} → {} {}", op(e.from), op(e.to), e.verdict)).collect()
}

fn check(graph: &Graph, expected: &[&str]) -> Plan {
    let plan = planned(graph);
    assert_eq!(verdicts(graph, &plan), expected, "\n{graph}\n{plan}");
    plan
}

fn sweeps(plan: &Plan) -> Vec<Sweep> {
    plan.calls().map(|call| plan.kernels[call.kernel].sweep).collect()
}

#[test]
fn a_pointwise_chain_is_one_flat_loop() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [6, 5]);
        g.output("y", x.tanh().exp().sigmoid());
    });
    let plan = check(
        &graph,
        &[
            "tanh → exp fuse same-elements: both run over the same elements",
            "exp → sigmoid fuse same-elements: both run over the same elements",
        ],
    );
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.kernels[0].dims.as_slice(), [30]);
}

#[test]
fn a_tree_with_several_outputs_is_one_kernel() {
    let graph = primitive(|g| {
        let (x, y) = (g.input("x", F32, [8]), g.input("y", F32, [8]));
        let (a, b) = (x.tanh(), y.exp());
        g.output("a", a);
        g.output("sum", a + b);
        g.output("product", (a + b).sin() * b);
    });
    let plan = planned(&graph);
    assert_eq!(plan.steps.len(), 1, "{plan}");
    assert_eq!(plan.kernels[0].phases[0].stores.len(), 3);
}

#[test]
fn bias_and_relu_finish_the_product() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [4, 3]);
        let w = g.param("w", F32, [3, 5], Init::GlorotUniform);
        let b = g.param("b", F32, [5], Init::ZEROS);
        g.output("y", (x.matmul(w) + b).relu().tanh());
    });
    let plan = planned(&graph);
    assert!(matches!(&plan.steps[..], [Step::Product { epilogue: Some(_), .. }]), "{plan}");
    assert_eq!(plan.kernels[0].dims.as_slice(), [4, 5]);
    // The tiles are made where the result is.
    assert_eq!(plan.buffers.iter().filter(|b| b.name.contains("matmul")).count(), 0, "{plan}");
}

#[test]
fn the_mask_of_relu_finishes_the_product_that_makes_the_gradient() {
    let graph = optimized(&primitive(|g| {
        let x = g.input("x", F32, [4, 3]);
        let w1 = g.param("w1", F32, [3, 6], Init::GlorotUniform);
        let w2 = g.param("w2", F32, [6, 5], Init::GlorotUniform);
        let loss = x.matmul(w1).relu().matmul(w2).square().sum();
        for (w, dw) in [w1, w2].into_iter().zip(g.grad(loss, &[w1, w2])) {
            g.update(w, w - dw * 0.1);
        }
        g.output("loss", loss);
    }));
    let plan = planned(&graph);
    let products = plan.steps.iter().filter(|s| matches!(s, Step::Product { .. })).count();
    let finished = plan.steps.iter().filter(|s| matches!(s, Step::Product { epilogue: Some(_), .. })).count();
    // Relu, the derivative of the square, the mask, and two updates in place.
    assert_eq!((products, finished), (5, 5), "{plan}\n{}", explain(&graph, &plan));
    // The mask is not stored: the activation is, for the second product, and says as much.
    assert!(plan.buffers.iter().all(|b| b.dtype == F32), "{plan}");
    assert_eq!(plan.figures().n_copies, 0, "{plan}");
}

/// A dense layer's product that makes a gradient, its mask, and the sum of its columns.
fn masked_columns(m: usize) -> Graph {
    primitive(|g| {
        let (dy, w) = (g.input("dy", F32, [m, 3]), g.input("w", F32, [3, 5]));
        let mask = g.input("mask", F32, [m, 5]);
        let dx = dy.matmul(w) * mask;
        g.output("dx", dx);
        g.output("db", dx.sum_over([0]).sin());
    })
}

#[test]
fn sums_of_columns_finish_the_product() {
    // In one block of rows, in several, and with a last one that is not whole.
    for (m, n_kernels) in [(50, 1), (64, 1), (128, 2), (200, 3), (4200, 3)] {
        let graph = masked_columns(m);
        let plan = planned(&graph);
        let Step::Product { epilogue: Some(epilogue), .. } = &plan.steps[0] else { panic!("{plan}") };
        assert_eq!(plan.kernels[epilogue.call.kernel].sweep, Sweep::Column, "{plan}");
        assert_eq!(epilogue.last.is_some(), m % 64 != 0 && m > 64, "{plan}");
        assert_eq!(plan.calls().count(), n_kernels, "{plan}");
        let expected = "mul → reduce_sum fuse column-sums: sums the product's columns while its tiles are in cache";
        assert!(verdicts(&graph, &plan).iter().any(|v| v == expected), "{:?}", verdicts(&graph, &plan));
    }
}

#[test]
fn an_update_whose_columns_are_summed_finishes_its_product() {
    // 200 rows: the last block is not whole, and is finished by a call of its own, which writes the same buffers.
    for m in [64, 200] {
        let graph = primitive(|g| {
            let (x, dy) = (g.input("x", F32, [8, m]), g.input("dy", F32, [8, 5]));
            let w = g.param("w", F32, [m, 5], Init::GlorotUniform);
            let new = w - x.matmul_with(dy, true, false);
            g.output("norm", new.square().sum_over([0]).sqrt());
            g.update(w, new);
        });
        let plan = planned(&graph);
        let Step::Product { epilogue: Some(epilogue), .. } = &plan.steps[0] else { panic!("{plan}") };
        assert_eq!(epilogue.last.is_some(), m == 200, "{plan}");
    }
}

#[test]
fn sums_of_no_columns_are_planned() {
    for (m, n) in [(100, 0), (64, 0), (0, 5)] {
        let graph = primitive(|g| {
            let (x, dy) = (g.input("x", F32, [8, m]), g.input("dy", F32, [8, n]));
            let w = g.param("w", F32, [m, n], Init::ZEROS);
            let new = w - x.matmul_with(dy, true, false);
            g.output("sums", new.sum_over([0]));
            g.update(w, new);
        });
        planned(&graph);
    }
}

#[test]
fn other_sums_do_not_finish_a_product() {
    let why = |m: usize, axes: &'static [usize]| {
        let graph = primitive(|g| {
            let product = g.input("x", F32, [m, 3]).matmul(g.input("w", F32, [3, 5]));
            g.output("product", product);
            g.output("sum", product.sum_over(axes));
        });
        verdicts(&graph, &planned(&graph)).join("; ")
    };
    let start = "matmul → reduce_sum keep: a product's epilogue";
    assert_eq!(why(8, &[1]), format!("{start} reduces whole columns only: rows are finished piece by piece"));
}

#[test]
fn reductions_take_in_what_they_reduce() {
    let sum_of = |axes: &'static [usize]| {
        primitive(move |g| {
            let (x, y) = (g.input("x", F32, [70, 9]), g.input("y", F32, [70, 9]));
            g.output("s", (x.tanh() * y.exp()).sum_over(axes));
        })
    };
    let expected = [
        "tanh → mul fuse same-elements: both run over the same elements",
        "exp → mul fuse same-elements: both run over the same elements",
        "mul → reduce_sum fuse into-reduction: reduced as it is made",
    ];
    for (axes, sweep, dims) in
        [(&[1][..], Sweep::Row, &[70, 9][..]), (&[0], Sweep::Column, &[70, 9]), (&[0, 1], Sweep::Row, &[630])]
    {
        let plan = check(&sum_of(axes), &expected);
        assert_eq!(sweeps(&plan), [sweep], "{axes:?}");
        assert_eq!(plan.kernels[0].dims.as_slice(), dims);
    }
}

#[test]
fn long_full_reductions_go_by_chunks() {
    let sum = |n: usize| {
        primitive(move |g| {
            let x = g.input("x", F32, [n]);
            g.output("y", x.tanh());
            g.output("s", x.tanh().sum().exp());
        })
    };
    let plan = planned(&sum(4096));
    assert_eq!((plan.kernels.len(), plan.kernels[0].dims.as_slice()), (1, &[4096][..]));
    let plan = planned(&sum(10_000));
    assert_eq!(plan.steps.len(), 2, "{plan}");
    assert_eq!((plan.kernels[0].dims.as_slice(), plan.kernels[0].total), (&[3, 4096][..], 10_000));
    assert_eq!(plan.kernels[1].dims.as_slice(), [3]);
}

#[test]
fn very_long_full_reductions_have_three_levels() {
    let n = 4096 * 4096 + 5000;
    let graph = primitive(|g| g.output("s", g.input("x", F32, [n]).tanh().sum()));
    let plan = plan(&graph, &fusion(true)).unwrap();
    assert!(cotangent_kernel::verify_plan(&plan).is_empty());
    let shapes: Vec<(&[usize], usize)> = plan.kernels.iter().map(|k| (k.dims.as_slice(), k.total)).collect();
    let rows = n.div_ceil(4096);
    assert_eq!(shapes, [(&[rows, 4096][..], n), (&[2, 4096], rows), (&[2], 2)]);
}

#[test]
fn readers_go_on_with_the_reductions_result() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [6, 5]);
        let s = x.exp().sum_over([1]);
        g.output("log", s.log());
        g.output("mean", s * 0.2);
    });
    let plan = planned(&graph);
    assert_eq!(plan.steps.len(), 1, "{plan}");
    let graph = primitive(|g| g.output("mean", g.input("x", F32, [6, 5]).sum_over([0]) * 0.25));
    let plan = check(&graph, &["reduce_sum → mul fuse out-of-reduction: continues with the reduction's result"]);
    assert_eq!(sweeps(&plan), [Sweep::Column]);
}

/// The kinds of phases of each kernel, `F` and `R`.
fn phases(plan: &Plan) -> Vec<String> {
    let letter = |p: &cotangent_kernel::ir::Phase| if p.space == Space::Full { 'F' } else { 'R' };
    plan.calls().map(|call| plan.kernels[call.kernel].phases.iter().map(letter).collect()).collect()
}

/// Optimizes and plans a graph whose kernels are to have these phases.
fn sweeps_of(expected: &[&str], f: impl FnOnce(&GraphBuilder)) -> Plan {
    let graph = optimized(&primitive(f));
    let plan = planned(&graph);
    assert_eq!(phases(&plan), expected, "{graph}\n{plan}\n{}", explain(&graph, &plan));
    plan
}

#[test]
fn whole_rows_are_swept_by_one_kernel() {
    let shapes = [[6, 5], [3, 70], [1, 9], [5, 1]];
    for [m, n] in shapes.into_iter().take(2) {
        let plan = sweeps_of(&["FFF"], |g| g.output("y", g.input("x", F32, [m, n]).softmax(1)));
        assert_eq!(sweeps(&plan), [Sweep::Row]);
        sweeps_of(&["FFF"], |g| g.output("y", g.input("x", F32, [m, n]).log_softmax(1)));
        sweeps_of(&["FFR"], |g| g.output("y", g.input("x", F32, [m, n]).log_sum_exp_over(1)));
        sweeps_of(&["FFR"], |g| g.output("y", g.input("x", F32, [m, n]).variance_over([1])));
        sweeps_of(&["FFF"], |g| g.output("y", g.input("x", F32, [m, n]).normalize([1], 1e-5)));
        sweeps_of(&["FF"], |g| g.output("y", g.input("x", F32, [m, n]).rms_norm([1], 1e-5)));
        sweeps_of(&["FFF"], |g| {
            let (gain, bias) = (g.input("gain", F32, [n]), g.input("bias", F32, [n]));
            g.output("y", g.input("x", F32, [m, n]).layer_norm(gain, bias, 1e-5));
        });
        // Columns likewise, a strip of them at a time.
        let plan = sweeps_of(&["FFF"], |g| g.output("y", g.input("x", F32, [m, n]).normalize([0], 1e-5)));
        assert_eq!(sweeps(&plan), [Sweep::Column]);
        sweeps_of(&["FFF"], |g| g.output("y", g.input("x", F32, [m, n]).softmax(0)));
    }
    for [m, n] in shapes {
        for axis in [0, 1] {
            let graph = optimized(&primitive(|g| g.output("y", g.input("x", F32, [m, n]).softmax(axis))));
            assert_eq!(planned(&graph).figures().n_kernels, 1, "{graph}");
        }
    }
}

#[test]
fn a_chain_and_its_gradient_are_one_kernel() {
    // The loss and its gradient: the largest element; the sums; the losses of rows; the gradient. Then their mean.
    sweeps_of(&["FFRF", "FR"], |g| {
        let (x, y) = (g.input("x", F32, [6, 5]), g.input("y", DType::I64, [6]));
        let loss = x.cross_entropy(y).mean();
        g.output("loss", loss);
        g.output("dx", g.grad(loss, &[x])[0]);
    });
    // Sum, variance, two sums that need the normalized row, and the gradient.
    sweeps_of(&["FFFF"], |g| {
        let (x, dy) = (g.input("x", F32, [6, 5]), g.input("dy", F32, [6, 5]));
        let y = x.normalize([1], 1e-5);
        g.output("y", y);
        g.output("dx", g.grad_with_seed(y, dy, &[x])[0]);
    });
    sweeps_of(&["FFF"], |g| {
        let (x, dy) = (g.input("x", F32, [6, 5]), g.input("dy", F32, [6, 5]));
        let y = x.rms_norm([1], 1e-5);
        g.output("y", y);
        g.output("dx", g.grad_with_seed(y, dy, &[x])[0]);
    });
    sweeps_of(&["FFFF"], |g| {
        let (x, dy) = (g.input("x", F32, [6, 5]), g.input("dy", F32, [6, 5]));
        let y = x.normalize([0], 1e-5);
        g.output("y", y);
        g.output("dx", g.grad_with_seed(y, dy, &[x])[0]);
    });
}

#[test]
fn an_update_waits_for_the_last_sweep_that_reads_the_old_value() {
    let graph = primitive(|g| {
        let (x, w) = (g.input("x", F32, [6, 5]), g.param("w", F32, [6], Init::GlorotUniform));
        let sum = x.exp().sum_over([1]);
        g.update(w, w - sum * 0.1);
        g.output("y", (x.exp() / sum.repeat_along(&[6, 5].into(), [1])).square().sum_over([1]) * w);
    });
    let plan = planned(&graph);
    assert_eq!(phases(&plan), ["FRFR"], "{plan}");
    assert_eq!(
        plan.figures().n_copies,
        1,
        "the new value is made after the first sweep, the old one read later\n{plan}"
    );
}

#[test]
fn rows_are_read_from_memory_once() {
    let (m, n) = (64, 48);
    let matrix = (m * n * 4) as u64;
    // Each matrix once: read, or written. Then labels, losses and what else has an element for each row or column.
    let plan = sweeps_of(&["FFRF", "FR"], |g| {
        let (x, y) = (g.input("x", F32, [m, n]), g.input("y", DType::I64, [m]));
        let loss = x.cross_entropy(y).mean();
        g.output("loss", loss);
        g.output("dx", g.grad(loss, &[x])[0]);
    });
    assert_eq!(plan.step_bytes(&plan.steps[1]), 2 * matrix + (8 + 4) * m as u64, "{plan}");
    let plan = sweeps_of(&["FFFF"], |g| {
        let (x, dy) = (g.input("x", F32, [m, n]), g.input("dy", F32, [m, n]));
        let (gain, bias) = (g.input("gain", F32, [n]), g.input("bias", F32, [n]));
        let y = x.layer_norm(gain, bias, 1e-5);
        g.output("y", y);
        g.output("dx", g.grad_with_seed(y, dy, &[x])[0]);
    });
    assert_eq!(plan.bytes_moved(), 4 * matrix + 2 * 4 * n as u64, "{plan}");
    let plan = sweeps_of(&["FFR"], |g| g.output("y", g.input("x", F32, [m, n]).log_sum_exp_over(1)));
    assert_eq!(plan.bytes_moved(), matrix + 4 * m as u64, "{plan}");
}

/// Layer normalization with all its gradients.
fn layer_norm(g: &GraphBuilder, shape: &[usize]) {
    let (x, dy) = (g.input("x", F32, shape), g.input("dy", F32, shape));
    let n = shape[shape.len() - 1];
    let (gain, bias) = (g.param("gain", F32, [n], Init::ONES), g.param("bias", F32, [n], Init::ZEROS));
    let y = x.layer_norm(gain, bias, 1e-5);
    g.output("y", y);
    let grads = g.grad_with_seed(y, dy, &[x, gain, bias]);
    g.output("dx", grads[0]);
    g.output("dbias", grads[2]);
    g.update(gain, gain - grads[1] * 0.1);
}

#[test]
fn rows_take_sums_of_columns_along() {
    for m in [128, 130, 200] {
        let n = 48;
        let plan = sweeps_of(&["FFFF", "FR"], |g| layer_norm(g, &[m, n]));
        let kernel = &plan.kernels[0];
        assert_eq!((kernel.dims.as_slice(), kernel.n_rows()), (&[m.div_ceil(64), 64, n][..], m));
        assert_eq!(plan.figures().n_copies, 0, "the gain is updated where it stands\n{plan}");
        // Each matrix once; gain (twice), bias, and the new values of both gradients; partial sums of both written and read.
        let (matrix, row, partials) = (m * n * 4, n * 4, 2 * 2 * m.div_ceil(64) * n * 4);
        assert_eq!(plan.bytes_moved() as usize, 4 * matrix + 5 * row + partials, "{plan}");
    }
    // Rows of a batch are counted on.
    let plan = sweeps_of(&["FFFF", "FR"], |g| layer_norm(g, &[5, 30, 48]));
    assert_eq!(plan.kernels[0].dims.as_slice(), [3, 64, 48]);
    // Extremes likewise, and sums of what is only read by the rows.
    sweeps_of(&["FFF", "FR"], |g| {
        let x = g.input("x", F32, [150, 40]);
        let y = x.softmax(1);
        g.output("y", y);
        g.output("largest", y.max_over([0]));
        g.output("sum", x.sum_over([0]));
    });
}

#[test]
fn columns_that_rows_do_not_take_along() {
    let sweeps_of_graph = |f: &dyn Fn(&GraphBuilder)| sweeps(&planned(&optimized(&primitive(f))));
    let (row, column) = (Sweep::Row, Sweep::Column);
    // Less than two blocks, and more blocks than are in a block: both sums read the seed, so they are one kernel.
    assert_eq!(sweeps_of_graph(&|g| layer_norm(g, &[127, 8])), [row, column]);
    assert_eq!(sweeps_of_graph(&|g| layer_norm(g, &[64 * 64, 2])), [row, column]);
    assert_eq!(sweeps_of_graph(&|g| layer_norm(g, &[64 * 64 + 1, 2])), [row, column]);
    // Rows that wait for the columns' results.
    let waits = |g: &GraphBuilder| {
        let x = g.input("x", F32, [150, 8]);
        g.output("y", (x - x.mean_over([0])).softmax(1));
    };
    assert_eq!(sweeps_of_graph(&waits), [column, row]);
    // Rows that are read transposed.
    let transposed = |g: &GraphBuilder| {
        let x = g.input("x", F32, [150, 8]);
        g.output("y", x.transpose([1, 0]).softmax(0));
        g.output("sum", x.exp().sum_over([0]));
    };
    assert!(sweeps_of_graph(&transposed).contains(&column));
    // Other elements, which the rows neither make nor read.
    let apart = |g: &GraphBuilder| {
        g.output("y", g.input("x", F32, [150, 8]).softmax(1));
        g.output("sum", g.input("z", F32, [150, 8]).sum_over([0]));
    };
    assert_eq!(sweeps_of_graph(&apart), [row, column]);
}

#[test]
fn verdicts_on_sweeps() {
    let softmax =
        |shape: [usize; 2], axis| optimized(&primitive(move |g| g.output("y", g.input("x", F32, shape).softmax(axis))));
    let graph = softmax([6, 5], 1);
    check(
        &graph,
        &[
            "sub → exp fuse recompute: cheap, recomputed by its reader",
            "reduce_max → exp fuse next-sweep: the next sweep over the elements that were reduced",
            "exp → reduce_sum fuse into-reduction: reduced as it is made",
            "exp → div fuse same-elements: both run over the same elements",
            "reduce_sum → div fuse next-sweep: the next sweep over the elements that were reduced",
        ],
    );
    // Rows and columns that do not stay in cache, and a reduction of everything by chunks.
    let kept = "keep: what was reduced is too long to be in cache for a second sweep";
    for (shape, axis) in [([2, 1 << 16], 1), ([1, 5000], 1), ([1 << 13, 2], 0)] {
        let graph = softmax(shape, axis);
        let plan = plan(&graph, &fusion(true)).unwrap();
        let text = verdicts(&graph, &plan).join("\n");
        assert!(text.contains(kept), "{text}");
        assert!(plan.figures().n_kernels >= 3, "{plan}");
    }
    planned(&softmax([1, 5000], 1));
    // The result repeated along another axis than the one that was reduced.
    let graph = primitive(|g| {
        let x = g.input("x", F32, [5, 5]);
        g.output("y", x.tanh() * x.exp().sum_over([1]).repeat_along(&[5, 5].into(), [0]));
    });
    let plan = planned(&graph);
    assert!(
        verdicts(&graph, &plan).contains(&"reduce_sum → mul keep: read at other indices than it is made".to_owned())
    );
}

#[test]
fn values_of_rows_join_the_kernel_of_their_rows() {
    // Weights of rows are made where the rows are reduced, and results of two chains over one axis share sweeps.
    sweeps_of(&["FR"], |g| {
        let (x, w) = (g.input("x", F32, [6, 5]), g.input("w", F32, [6]));
        g.output("y", x.exp().sum_over([1]) * w.tanh().exp().sin());
    });
    sweeps_of(&["FRFR"], |g| {
        let x = g.input("x", F32, [6, 5]).tanh();
        let most = x.max_over([1]);
        g.output("max", most);
        g.output("sum", (x - most.repeat_along(&[6, 5].into(), [1])).exp().sum_over([1]) + x.sum_over([1]));
    });
}

#[test]
fn views_are_strides() {
    let graph = primitive(|g| {
        let (x, b) = (g.input("x", F32, [4, 6]), g.input("b", F32, [6]));
        let turned = x.t().slice_steps(&[0, 1], &[6, 4], &[2, 1]).flip([0]);
        g.output("y", turned.exp());
        g.output("z", (x + b).tanh().reshape([2, 2, 6]).sin());
    });
    let plan = planned(&graph);
    assert_eq!(plan.figures().n_copies, 0);
    // One kernel each, and one that stores what the reshape shows.
    assert!(plan.steps.len() <= 3 && plan.forced.is_empty(), "{plan}");
    let k = &plan.kernels[plan.calls().next().unwrap().kernel];
    assert!(k.accesses().any(|m| m.strides.iter().any(|&s| s < 0)), "{k}");
}

#[test]
fn a_reshape_across_permuted_axes_is_copied() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [4, 6]);
        g.output("y", x.t().reshape([24]).exp());
    });
    let plan = planned(&graph);
    assert_eq!(plan.steps.len(), 2, "{plan}");
    assert!(graph.node(plan.forced[0].0).is(&cotangent_graph::ops::view::TRANSPOSE));
    assert!(plan.forced[0].1.contains("reshaped"), "{}", plan.forced[0].1);
}

#[test]
fn steps_of_their_own_read_and_write_memory() {
    let graph = primitive(|g| {
        let table = g.param("table", F32, [7, 3], Init::GlorotUniform);
        let index = g.input("index", DType::I64, [4]).check_index(7);
        let rows = table.tanh().gather(index).exp();
        g.output("rows", rows);
        g.output("sums", rows.scatter_add(index, 7) * 2.0);
        g.output("both", g.concat(&[rows, rows.sin()], 0).tanh());
        g.output("padded", rows.pad(&[1, 2], &[0, 1], 0.5).tanh());
    });
    let plan = planned(&graph);
    let text = verdicts(&graph, &plan).join("\n");
    for expected in [
        "tanh → gather keep: `gather` reads its operands from memory",
        "gather → exp keep: `gather` writes its result to memory",
        "exp → scatter_add keep: `scatter_add` reads its operands from memory",
        "concat → tanh keep: `concat` writes its result to memory",
        "exp → pad keep: `pad` reads its operands from memory",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let checks = plan.steps.iter().filter(|s| matches!(s, Step::Check { .. })).count();
    assert_eq!(checks, 1, "one check for all uses of one index\n{plan}");
}

#[test]
fn checked_indices_that_are_computed_are_stored_for_the_check() {
    let graph = primitive(|g| {
        let index = g.input("index", DType::I64, [4]);
        let class = index.check_index(5).cast(DType::F64);
        g.output("y", class.exp());
        let sum = (index.cast(F64).tanh().exp() * 0.0).cast(DType::I64);
        g.output("z", sum.check_index(3).cast(F64).sin());
    });
    planned(&graph);
}

#[test]
fn a_diamond_through_a_product_is_no_circle() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [4, 4]);
        let w = g.param("w", F32, [4, 4], Init::GlorotUniform);
        let h = x.tanh().exp();
        g.output("y", h.matmul(w).sin() + h);
    });
    let plan = planned(&graph);
    let text = verdicts(&graph, &plan).join("\n");
    assert!(text.contains("exp → add keep: the kernel would wait for itself through `matmul`"), "{text}");
}

#[test]
fn a_residual_made_elsewhere_joins_the_epilogue() {
    let graph = primitive(|g| {
        let (x, r) = (g.input("x", F32, [4, 4]), g.input("r", F32, [4, 4]));
        let w = g.param("w", F32, [4, 4], Init::GlorotUniform);
        g.output("y", x.matmul(w).sin() + r.tanh().exp());
    });
    let plan = planned(&graph);
    assert_eq!(plan.steps.len(), 1, "{plan}");
}

#[test]
fn two_products_are_two_steps() {
    let graph = primitive(|g| {
        let (x, w) = (g.input("x", F32, [4, 4]), g.param("w", F32, [4, 4], Init::GlorotUniform));
        g.output("y", (x.matmul(w) + w.matmul(x)).tanh());
    });
    let plan = planned(&graph);
    assert_eq!(plan.figures().n_products, 2);
    assert_eq!(plan.figures().n_kernels, 1, "{plan}");
}

#[test]
fn batched_products_with_odd_operands() {
    let graph = primitive(|g| {
        let x = g.input("x", F64, [2, 3, 4]);
        let w = g.input("w", F64, [4, 5]);
        g.output("shared", x.matmul(w).tanh());
        g.output("heads", x.transpose([1, 0, 2]).matmul_with(x.transpose([1, 0, 2]), false, true).exp());
        let b = g.input("b", F64, [3, 5]);
        g.output("bias", (x.matmul(w) + b.repeat_along(&[2, 3, 5].into(), [0])).sin());
        g.output(
            "wide",
            x.reshape([2, 3, 2, 2]).transpose([0, 2, 1, 3]).reshape([4, 3, 2]).matmul_with(
                g.input("v", F64, [4, 3, 2]),
                true,
                false,
            ),
        );
    });
    planned(&graph);
}

#[test]
fn without_fusion_every_op_has_a_kernel() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [4, 6]);
        let y = (x.t().exp() + 1.0).tanh();
        g.output("y", y.sum_over([0]).log());
    });
    let plan = plan(&graph, &fusion(false)).unwrap();
    assert_eq!(plan.steps.len(), 5, "exp, add, tanh, reduce_sum, log\n{plan}");
    assert!(verdicts(&graph, &plan).iter().all(|v| v.contains("keep: fusion `")));
}

#[test]
fn empty_and_unit_axes() {
    for shape in [[0, 5], [5, 0], [1, 5], [5, 1], [1, 1]] {
        let graph = primitive(|g| {
            let x = g.input("x", F32, shape);
            let w = g.param("w", F32, [shape[1], 3], Init::GlorotUniform);
            g.output("y", (x.exp() + x.t().t()).tanh());
            for (name, axes) in [("rows", &[1][..]), ("columns", &[0]), ("all", &[0, 1]), ("none", &[])] {
                g.output(name, (x.tanh() * x).sum_over(axes));
                g.output(&format!("{name} max"), x.exp().max_over(axes).log());
            }
            g.output("product", (x.matmul(w) * 2.0).tanh());
            g.output("long", x.reshape([shape[0] * shape[1]]).exp().pad(&[1], &[0], 1.0));
        });
        planned(&graph);
    }
}

#[test]
fn minus_zero_survives_a_sum_over_one_element() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [3, 1, 2]);
        g.output("s", (-(x * 0.0)).sum_over([1]));
        g.output("t", (-(x * 0.0)).sum_over([1]).exp().reshape([2, 3]));
    });
    planned(&graph);
}

#[test]
fn broadcasts_inside_reductions() {
    let graph = primitive(|g| {
        let (x, b, c) = (g.input("x", F32, [3, 4, 5]), g.input("b", F32, [5]), g.input("c", F32, [3, 4]));
        let y = (x - b).square() * c.repeat_along(&[3, 4, 5].into(), [2]);
        g.output("full", y.tanh().sum());
        g.output("outer", y.exp().sum_over([0, 1]));
        g.output("middle", y.sin().sum_over([1]));
        g.output("inner", y.cos().sum_over([1, 2]));
    });
    planned(&graph);
}

#[test]
fn scalar_side_computations_share_kernels() {
    let graph = primitive(|g| {
        let t = g.state("t", F32, [], Init::ZEROS);
        let next = t + 1.0;
        g.update(t, next);
        let (lr, decay) = (g.input("lr", F32, []), g.input("decay", F32, []));
        for i in 0..6 {
            let w = g.param(&format!("w{i}"), F32, [10 + i, 8], Init::GlorotUniform);
            let (c1, c2) = (1.0 - next.tanh().pow(lr + i as f64), 1.0 - (next + 1.0).pow(decay).sin());
            g.update(w, w - w.tanh() * (lr * c2.sqrt() / c1));
        }
        g.output("norm", (lr.exp() + decay.tanh()).sin());
        g.output("other", (decay.exp() * 0.5).log());
    });
    let plan = planned(&graph);
    assert!(plan.figures().n_kernels <= 6 + 2, "{plan}");
}

#[test]
fn explain_names_every_edge() {
    let graph = optimized(&primitive(|g| {
        let x = g.input("x", F32, [4, 3]);
        let w = g.param("w", F32, [3, 5], Init::GlorotUniform);
        g.output("y", x.matmul(w).relu().softmax(1));
    }));
    let plan = planned(&graph);
    let text = explain(&graph, &plan);
    assert!(text.contains("fusion.rs:"), "{text}");
    assert!(text.contains("the next sweep") && text.contains("f32[4,5]"), "{text}");
    for edge in &plan.edges {
        assert!(text.contains(&format!("{} {}", edge.from, graph.node(edge.from).op.name)), "{text}");
        assert_eq!(plan.verdict(edge.from, edge.to), Some(&edge.verdict));
    }
    let report = plan.to_string();
    assert!(report.contains("totals:") && report.contains("memory: arena"), "{report}");
}

#[test]
fn fusion_moves_fewer_bytes() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [100]);
        g.output("y", x.tanh().exp().sin().cos());
    });
    let (fused, unfused) = (plan(&graph, &fusion(true)).unwrap(), plan(&graph, &fusion(false)).unwrap());
    assert_eq!((fused.bytes_moved(), unfused.bytes_moved()), (800, 3200));
}
