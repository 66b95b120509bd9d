//! How much memory a plan takes.

use cotangent_graph::{DType, Init, Tensor};
use cotangent_kernel::plan;

use crate::common::{fusion, planned, primitive};

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
