//! How much memory a plan takes.

use std::collections::HashMap;

use cotangent_graph::ops::windows::Windows;
use cotangent_graph::{DType, GraphBuilder, Init, Tensor};
use cotangent_kernel::{ClusterOptions, CostModel, plan};
use cotangent_testkit::random;

use crate::common::{compare_by, fusion, optimized, planned, primitive};

const F32: DType = DType::F32;

#[test]
fn a_chain_of_products_needs_two_buffers() {
    let graph = primitive(|g| {
        let mut x = g.input("x", F32, [16, 16]);
        for i in 0..12 {
            x = x.matmul(g.param(&format!("w{i}"), F32, [16, 16], Init::GlorotUniform)).tanh();
        }
        g.output("y", x);
    });
    let plan = planned(&graph);
    assert_eq!(plan.arena_bytes, 2 * 16 * 16 * 4, "{plan}");
    assert_eq!(plan.figures().unshared_bytes, 12 * 16 * 16 * 4);
}

#[test]
fn unfused_chains_run_in_place() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [1000]);
        g.output("y", x.tanh().exp().sin().cos().sqrt());
    });
    let plan = plan(&graph, &fusion(false)).unwrap();
    assert_eq!(plan.steps.len(), 5);
    assert_eq!(plan.arena_bytes, 4032, "one buffer\n{plan}");
    assert_eq!(plan.in_place().len(), 4, "{plan}");
}

#[test]
fn what_is_read_elsewhere_is_not_overwritten() {
    // The turned reader cannot take over its operand's memory.
    let graph = primitive(|g| {
        let x = g.input("x", F32, [32, 32]);
        let y = x.exp();
        g.output("z", (y + y.t()).tanh());
    });
    let plan = plan(&graph, &fusion(false)).unwrap();
    assert!(plan.in_place().len() <= 1, "{plan}");
    planned(&graph);
}

#[test]
fn wider_results_do_not_take_over_narrower_operands() {
    let graph = primitive(|g| {
        let x = g.input("x", DType::I32, [64]);
        let y = (x + x).cast(DType::F64).exp().cast(F32);
        g.output("y", y.tanh());
        g.output("odd", x.cast(DType::U8).cast(DType::I64));
    });
    planned(&graph);
}

#[test]
fn the_peak_of_a_training_step_is_its_activations() {
    // The slope of ReLU is that of its value; of a tanh close to 1 the value does not show the slope, which is kept beside it.
    peak_of_a_training_step(|x| x.relu(), 1);
    peak_of_a_training_step(|x| x.tanh(), 2);
}

fn peak_of_a_training_step(activate: for<'g> fn(Tensor<'g>) -> Tensor<'g>, n_kept: usize) {
    let depth = 10;
    let graph = crate::common::optimized(&primitive(|g| {
        let mut x = g.input("x", F32, [64, 16]);
        let mut weights = Vec::new();
        for i in 0..depth {
            let w = g.param(&format!("w{i}"), F32, [16, 16], Init::GlorotUniform);
            weights.push(w);
            x = activate(x.matmul(w));
        }
        let loss = x.sum();
        g.output("loss", loss);
        for (w, dw) in weights.iter().zip(g.grad(loss, &weights)) {
            g.update(*w, *w - dw * 0.1);
        }
    }));
    let plan = planned(&graph);
    let activation = 64 * 16 * 4;
    // Activations, two gradients under way, one weight-sized product, and the loss.
    assert!(plan.arena_bytes <= (n_kept * depth + 2) * activation + 2 * 16 * 16 * 4 + 64, "{plan}");
    assert_eq!(plan.figures().n_copies, 0, "{plan}");
}

/// Every element of the operand is counted once, whichever of the windows' loads touches it; a result that is only reshaped is
/// where it was made; and a gradient that only permutes what it is made of is one kernel.
#[test]
fn pooling_touches_each_element_once() {
    let windows = || Windows::new([1, 2], &[2, 2]).stride(&[2, 2]);
    let graph = optimized(&primitive(|g| {
        let x = g.input("x", F32, [2, 6, 8, 16]);
        g.output("y", x.max_pool(&windows()).reshape([2, 12, 16]));
    }));
    let pooled = planned(&graph);
    assert_eq!((pooled.steps.len(), pooled.bytes_moved()), (1, 4 * (1536 + 384)), "{pooled}");
    let graph = optimized(&primitive(|g| {
        let (x, dy) = (g.input("x", F32, [2, 6, 8, 16]), g.input("dy", F32, [2, 3, 4, 16]));
        g.output("dx", g.grad((x.mean_pool(&windows()) * dy).sum(), &[x])[0]);
    }));
    let gradient = planned(&graph);
    assert_eq!((gradient.steps.len(), gradient.bytes_moved()), (1, 4 * (1536 + 384)), "{gradient}");
}

/// Beside elementwise work a choice by row says which of a few tensors an element is of.
#[test]
fn long_runs_that_are_joined_take_no_buffer() {
    let joined = |rows: &[usize], row: usize, axis: usize| {
        optimized(&primitive(|g| {
            let shape = |n: usize| if axis == 0 { [n, row] } else { [row, n] };
            let part = |(k, &n): (usize, &usize)| g.input(&format!("x{k}"), F32, shape(n));
            let parts: Vec<_> = rows.iter().enumerate().map(part).collect();
            let whole = g.concat(&parts, axis);
            let scale = g.input("scale", F32, [1, whole.shape()[1]]);
            g.output("y", (whole * scale).tanh());
            // Some of it, from the middle of one to the middle of another.
            let (start, limit) = if axis == 0 { ([1, 0], [rows[0] + 1, row]) } else { ([0, 1], [row, rows[0] + 1]) };
            g.output("part", whole.slice(&start, &limit).flip([axis]).abs());
        }))
    };
    for rows in [&[5, 7][..], &[3, 2, 4], &[2, 0, 3], &[2, 2, 2]] {
        let plan = planned(&joined(rows, 72, 0));
        assert!(plan.steps.len() == 2 && plan.kernels.len() == 2, "{rows:?}\n{plan}");
    }
    // Not of short runs, many tensors, or along the loop that vectors run along.
    for (rows, row, axis) in [(&[5, 7][..], 40, 0), (&[2; 5], 72, 0), (&[65, 72], 6, 1)] {
        let plan = planned(&joined(rows, row, axis));
        assert!(plan.kernels.len() > 2, "{rows:?}\n{plan}");
    }
    // What rows are reduced of is copied: there an index is not held inside.
    let graph = primitive(|g| {
        let (x, y) = (g.input("x", F32, [5, 64]), g.input("y", F32, [7, 64]));
        g.output("s", g.concat(&[x, y.exp()], 0).square().sum_over([1]));
    });
    assert!(planned(&graph).steps.len() > 1);
}

/// A value that only a join reads is made in its memory, by as many kernels as make the parts.
#[test]
fn values_are_made_where_they_are_joined() {
    // The steps of a plan of parts of these extents along an axis.
    let steps = |shape: [usize; 2], parts: &[usize], axis: usize| {
        let graph = optimized(&primitive(|g| {
            let mut of = HashMap::new();
            let part = |(k, &n): (usize, &usize)| {
                let mut shape = shape;
                shape[axis] = n;
                // What is of one shape is made of one tensor.
                let first = parts.iter().position(|m| *m == n).unwrap_or(k);
                let x = *of.entry(first).or_insert_with(|| g.input(&format!("x{first}"), F32, shape));
                x.tanh() * (k + 2) as f64
            };
            let parts: Vec<_> = parts.iter().enumerate().map(part).collect();
            g.output("y", g.concat(&parts, axis));
        }));
        planned(&graph).steps.len()
    };
    // Parts of one shape are made by one kernel.
    assert_eq!(steps([32, 0], &[128; 4], 1), 1);
    assert_eq!(steps([32, 0], &[128, 64, 128, 128], 1), 2);
    assert_eq!(steps([0, 6], &[5, 3], 0), 2);
    assert_eq!(steps([1, 0], &[5, 3], 1), 2);
    steps([32, 0], &[128, 0, 64], 1);
    // Short runs are copied.
    assert_eq!(steps([32, 0], &[16, 48], 1), 4);
    // What several joins read, or one in several places, is stored in each of them.
    let graph = optimized(&primitive(|g| {
        let x = g.input("x", F32, [32, 64]);
        let (y, z) = (x.tanh(), x.exp());
        g.output("one", g.concat(&[y, z, y], 1));
        g.output("two", g.concat(&[z, y], 0));
        // Read by what is recomputed too, in the kernel that makes it.
        g.output("three", g.concat(&[(y + 1.0) * z, (y + 1.0).sin()], 1));
    }));
    assert_eq!(planned(&graph).steps.len(), 1);
    // So is copied what others read as well, or what a join looks at in another way too, what updates something, and what is reduced,
    // which is made by rows: how many kernels copy into joins?
    let copies = |f: fn(&GraphBuilder)| {
        let plan = planned(&optimized(&primitive(f)));
        plan.kernels.iter().filter(|kernel| kernel.name.starts_with("copy into")).count()
    };
    let read = |g: &GraphBuilder| {
        let z = g.input("x", F32, [32, 64]).sin();
        g.output("z", z);
        g.output("y", g.concat(&[z, z.tanh()], 1));
    };
    assert_eq!(copies(read), 1);
    let looked_at = |g: &GraphBuilder| {
        let y = g.input("x", F32, [32, 64]).exp();
        g.output("y", g.concat(&[y, y.flip([0])], 1));
    };
    assert_eq!(copies(looked_at), 2);
    let reduced = |g: &GraphBuilder| {
        let x = g.input("x", F32, [32, 64]);
        g.output("y", g.concat(&[x.tanh(), x.softmax(1)], 1));
        let means = x.mean_over([0]).reshape([1, 64]);
        g.output("means", g.concat(&[means, means.exp()], 0));
    };
    assert!(copies(reduced) >= 2);
    let updating = |g: &GraphBuilder| {
        let x = g.input("x", F32, [32, 64]);
        let state = g.state("s", F32, [32, 128], Init::ZEROS);
        g.update(state, g.concat(&[x.cos(), x.sin()], 1));
    };
    assert_eq!(copies(updating), 2);
    // The others of one kernel, at the distances of no repetition.
    let graph = optimized(&primitive(|g| {
        let x = g.input("x", F32, [8, 80]);
        let y = x.tanh();
        g.output("y", g.concat(&[y, y * 2.0, x, y * 3.0, x.slice(&[0, 1], &[8, 80]).exp()], 1));
    }));
    let plan = planned(&graph);
    assert_eq!(plan.steps.len(), 3, "{plan}");
}

/// What a phase of a stride adds up is known where its loop is written out, and all of them load each window's gradient once.
#[test]
fn loops_over_the_phases_of_a_stride_are_written_out() {
    let pooled = |size: usize, stride: usize, channels: usize| {
        let w = Windows::new([1, 2], &[size; 2]).stride(&[stride; 2]).padding(&[(1, 1); 2]);
        optimized(&primitive(|g| {
            let x = g.input("x", F32, [2, 24, 24, channels]);
            let y = x.mean_pool(&w);
            let dy = g.input("dy", F32, y.shape());
            g.output("dx", g.grad((y * dy).sum(), &[x])[0]);
        }))
    };
    let graph = pooled(3, 2, 64);
    let plan = planned(&graph);
    let [kernel] = &plan.kernels[..] else { panic!("{plan}") };
    assert_eq!(kernel.dims.as_slice(), [2, 12, 12, 64], "{kernel}");
    let phase = &kernel.phases[0];
    let n_loads = phase.inputs.iter().filter(|input| input.access().is_some()).count();
    assert_eq!((phase.stores.len(), n_loads), (4, 4), "two by two windows for two by two elements\n{kernel}");
    // Not where rows are short, iterations many, or the body would be too large.
    for (size, stride, channels) in [(3, 2, 8), (6, 5, 64)] {
        let kernel = &planned(&pooled(size, stride, channels)).kernels[0];
        assert!(kernel.phases[0].stores.len() == 1 && kernel.dims.len() == 6, "{kernel}");
    }
    let cost = CostModel { max_kernel_ops: kernel.n_ops() - 1, ..CostModel::default() };
    let options = ClusterOptions { cost, ..fusion(true) };
    compare_by(&graph, &random::env(&graph, 7), [&options]).unwrap_or_else(|e| panic!("{e}"));
    let small = cotangent_kernel::plan(&graph, &options).unwrap();
    assert!(small.kernels.len() == 1 && small.kernels[0].phases[0].stores.len() == 1, "{small}");
}

/// Strided windows make short loops over phases, and each border's index is held inside once for all that load there. Code that
/// computes it once is for such kernels only.
#[test]
fn short_loops_are_outside_and_borders_are_shared() {
    let w = Windows::new([1, 2], &[6, 6]).stride(&[5, 5]).padding(&[(1, 1); 2]);
    let graph = optimized(&primitive(|g| {
        let (x, dy) = (g.input("x", F32, [2, 35, 35, 64]), g.input("dy", F32, [2, 7, 7, 64]));
        g.output("dx", g.grad((x.mean_pool(&w) * dy).sum(), &[x])[0]);
    }));
    let plan = planned(&graph);
    let kernel = &plan.kernels[0];
    assert_eq!((plan.kernels.len(), kernel.dims.as_slice()), (1, &[2, 7, 5, 5, 7, 64][..]), "{kernel}");
    let firsts = kernel.first_clamps();
    let shared = firsts.iter().enumerate().filter(|(number, first)| number != *first).count();
    assert!(shared > 0 && shared < firsts.len(), "{firsts:?}\n{kernel}");
    // One of those that are equal is another: other code.
    let mut other = kernel.clone();
    let mut clamps = other.phases[0].inputs.iter_mut().flat_map(|input| input.clamps_mut().iter_mut());
    let number = firsts.iter().enumerate().position(|(number, first)| number != *first).expect("a shared one");
    clamps.nth(number).expect("there are as many").last -= 1;
    drop(clamps);
    assert_ne!(other.code_key(), kernel.code_key());
}

#[test]
fn what_is_reduced_to_one_number_needs_no_memory_however_it_repeats() {
    let normal: fn(&GraphBuilder, [usize; 2]) -> Tensor<'_> = |g, [m, n]| {
        let (x, mu, sigma) = (g.input("x", F32, [m, n]), g.input("mu", F32, [n]), g.input("sigma", F32, [m, 1]));
        ((x - mu) / sigma).square().mean()
    };
    let differences: fn(&GraphBuilder, [usize; 2]) -> Tensor<'_> =
        |g, [m, n]| (g.input("x", F32, [m]).reshape([m, 1]) - g.input("y", F32, [n]).reshape([1, n])).abs().mean();
    let largest: fn(&GraphBuilder, [usize; 2]) -> Tensor<'_> =
        |g, [m, n]| (g.input("x", F32, [m, n]) - g.input("mu", F32, [n])).max();
    // One number a row; what is small is run as well.
    for [m, n] in [[300_usize, 784], [8, 10_000], [3000, 3000], [100_000, 100_000]] {
        for made in [normal, differences, largest] {
            let graph = optimized(&primitive(|g| g.output("y", made(g, [m, n]))));
            let plan = if m < 3000 { planned(&graph) } else { plan(&graph, &fusion(true)).unwrap() };
            assert!(cotangent_kernel::verify_plan(&plan).is_empty());
            assert_eq!(plan.kernels.len(), if m > 4096 { 3 } else { 2 }, "{plan}");
            assert!(plan.arena_bytes <= 4 * (m + m.div_ceil(4096)) + 256, "{plan}");
        }
    }
    // The gradient of the differences: sums over rows and over columns of what is computed again.
    let graph = primitive(|g| {
        let x = g.input("x", F32, [3000]);
        let y = (x.reshape([3000, 1]) - x.reshape([1, 3000])).abs().mean();
        g.output("dx", g.grad(y, &[x])[0]);
    });
    let plan = plan(&optimized(&graph), &fusion(true)).unwrap();
    assert!(plan.arena_bytes <= 4 * 4 * 3000, "{plan}");
}
