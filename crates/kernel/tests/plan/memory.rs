//! How much memory a plan takes.

use cotangent_graph::ops::windows::Windows;
use cotangent_graph::{DType, GraphBuilder, Init, Tensor};
use cotangent_kernel::plan;

use crate::common::{fusion, optimized, planned, primitive};

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

/// Strided windows make short loops over phases, and each border's index is held inside once for all that load there. Code that
/// computes it once is for such kernels only.
#[test]
fn short_loops_are_outside_and_borders_are_shared() {
    let w = Windows::new([1, 2], &[3, 3]).stride(&[2, 2]).padding(&[(1, 1); 2]);
    let graph = optimized(&primitive(|g| {
        let (x, dy) = (g.input("x", F32, [2, 12, 12, 64]), g.input("dy", F32, [2, 6, 6, 64]));
        g.output("dx", g.grad((x.mean_pool(&w) * dy).sum(), &[x])[0]);
    }));
    let plan = planned(&graph);
    let kernel = &plan.kernels[0];
    assert_eq!((plan.kernels.len(), kernel.dims.as_slice()), (1, &[2, 6, 2, 2, 6, 64][..]), "{kernel}");
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
