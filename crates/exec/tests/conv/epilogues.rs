//! What shares a kernel with a convolution, and what it reads where it lies.

use cotangent_exec::Compiler;
use cotangent_graph::DType::F32;
use cotangent_graph::ops::conv::Convolution;
use cotangent_graph::samples::environment;
use cotangent_graph::{Graph, GraphBuilder, Init, NodeId, Shape, Tensor, build};
use cotangent_kernel::ir::Sweep;
use cotangent_kernel::{Factors, Home, Plan, Step};
use cotangent_nn::{Adam, BatchNorm, Conv, Layers, MeanPool, Minimize, Momentum, Padding, Sgd};

use super::common::agreed;

fn made(make: impl for<'g> FnOnce(&'g GraphBuilder)) -> Graph {
    build(make).unwrap_or_else(|diags| panic!("{diags}"))
}

/// The plan of a graph, once all programs of it agree.
fn planned(graph: &Graph) -> Plan {
    agreed(graph, &environment(graph, 5).unwrap(), &graph.to_string());
    Compiler::new().compile(graph).unwrap().plan().clone()
}

fn count(plan: &Plan, of: impl Fn(&Step) -> bool) -> usize {
    plan.steps.iter().filter(|step| of(step)).count()
}

fn is_conv(step: &Step) -> bool {
    matches!(step, Step::Product { factors: Factors::Conv { .. }, .. })
}

fn same(x: Tensor<'_>) -> Convolution {
    Convolution::new().padding(&vec![(1, 1); x.rank() - 2])
}

#[test]
fn bias_residual_and_activation_are_an_epilogue() {
    let graph = made(|g| {
        let x = g.input("x", F32, [2, 9, 8, 16]);
        let (w, b) =
            (g.param("w", F32, [3, 3, 16, 16], Init::HeNormal), g.param("b", F32, [16], Init::normal(0.0, 1.0)));
        g.output("y", (x.conv(w, &same(x)) + b + x).relu());
    });
    let plan = planned(&graph);
    assert!(matches!(&plan.steps[..], [Step::Product { epilogue: Some(_), .. }]), "{plan}");
    // The sum itself is made where the result is.
    let Step::Product { c, .. } = &plan.steps[0] else { return };
    assert_eq!(*c, plan.outputs[0].buffer, "{plan}");
}

#[test]
fn the_mask_of_an_activation_is_an_epilogue_of_the_gradient() {
    let graph = made(|g| {
        let x = g.input("x", F32, [2, 7, 7, 8]);
        let w = [0, 1].map(|k| g.param(&format!("w{k}"), F32, [3, 3, 8, 8], Init::HeNormal));
        let h = x.conv(w[0], &same(x)).relu();
        let y = h.conv(w[1], &same(x));
        g.minimize((y * y).mean(), Sgd::new(0.1));
    });
    let plan = planned(&graph);
    // Two forward, the data of the second, the weights of both; what is left is the loss.
    assert_eq!(count(&plan, is_conv), 5, "{plan}");
    assert!(count(&plan, |step| matches!(step, Step::Kernel(_))) <= 2, "{plan}");
}

/// Sums of columns, as batch normalization takes them, of all leading axes.
#[test]
fn columns_are_summed_while_they_are_made() {
    for n in [2, 3, 30] {
        let graph = made(|g| {
            let x = g.input("x", F32, [n, 6, 5, 4]);
            let y = x.layer("conv", Conv::new(12, &[3, 3]).padding(Padding::Same).without_bias());
            g.output("y", y);
            g.output("sums", y.sum_over([0, 1, 2]));
        });
        let plan = planned(&graph);
        let [Step::Product { epilogue: Some(epilogue), .. }, ..] = &plan.steps[..] else { panic!("{plan}") };
        assert_eq!(plan.kernels[epilogue.call.kernel].sweep, Sweep::Column, "{plan}");
    }
    let graph = made(|g| {
        let x = g.input("x", F32, [4, 6, 5, 4]);
        let y = x.layer("conv", Conv::new(12, &[3, 3]).padding(Padding::Same)).layer("norm", BatchNorm::new()).relu();
        g.minimize((y * y).mean(), Sgd::new(0.1));
    });
    planned(&graph);
}

/// The gradient of filters that only their update reads is nowhere in memory.
#[test]
fn updates_are_epilogues_of_the_gradients() {
    let step = |g: &GraphBuilder, adam: bool| {
        let x = g.input("x", F32, [3, 20, 20, 4]);
        let y = x.layer("conv", Conv::new(8, &[3, 3]).without_bias());
        let loss = (y * y).mean();
        if adam {
            g.minimize(loss, Adam::new(0.01))
        } else {
            g.minimize(loss, Momentum::new(0.1, 0.9))
        };
    };
    for adam in [false, true] {
        let plan = planned(&made(|g| step(g, adam)));
        let updates = |step: &Step| match step {
            Step::Product { c, epilogue: Some(epilogue), .. } if is_conv(step) => {
                let written = plan.kernels[epilogue.call.kernel].args.iter().zip(&epilogue.call.args);
                let mut stored = written.filter(|(arg, _)| arg.written).map(|(_, id)| &plan.buffers[id.index()].home);
                plan.buffers[c.index()].home == Home::Rows && stored.any(|home| *home == Home::Param)
            }
            _ => false,
        };
        assert_eq!(count(&plan, updates), 1, "{plan}");
    }
}

/// A piece of a tensor that lies in one place is read where it is; anything else is copied, and the plan says why.
#[test]
fn operands_are_read_where_they_lie_whole() {
    let conv = |view: &dyn for<'g> Fn(Tensor<'g>) -> Tensor<'g>, shape: &[usize]| {
        planned(&made(|g| {
            let x = view(g.input("x", F32, Shape::new(shape)));
            let w = g.param("w", F32, [3, 2, 5], Init::HeNormal);
            g.output("y", x.conv(w, &same(x)));
        }))
    };
    let plan = conv(&|x| x.slice(&[2, 0, 0], &[4, 6, 2]), &[5, 6, 2]);
    let [Step::Product { factors: Factors::Conv { a, .. }, .. }] = &plan.steps[..] else { panic!("{plan}") };
    assert_eq!(a.offset, 2 * 6 * 2);
    let plan = conv(&|x| x.reshape([2, 6, 2]), &[4, 6]);
    assert_eq!(plan.steps.len(), 1, "{plan}");
    let plan = conv(&|x| x.transpose([2, 1, 0]), &[2, 6, 2]);
    assert!(plan.steps.len() == 2 && plan.to_string().contains("side by side in memory"), "{plan}");
    let plan = conv(&|x| x.slice(&[0, 0, 1], &[2, 6, 3]), &[2, 6, 3]);
    assert!(plan.steps.len() == 2 && plan.to_string().contains("side by side in memory"), "{plan}");
}

#[test]
fn the_plan_says_what_is_convolved() {
    let graph = made(|g| {
        let x = g.input("x", F32, [2, 8, 9, 6]);
        let w = g.param("w", F32, [3, 2, 3, 4], Init::HeNormal);
        let settings = Convolution::new().stride(&[2, 1]).dilation(&[1, 3]).padding(&[(1, 0), (2, 2)]).groups(2);
        let y = x.conv(w, &settings);
        g.output("dw", g.grad((y * y).sum(), &[w])[0]);
    });
    let program = Compiler::new().compile(&graph).unwrap();
    let name = "2×8×9×6 · 3×2×3×4, stride 2×1, dilation 1×3, low 1×2, 2 groups of f32";
    for text in [program.plan_text(), program.explain()] {
        assert!(text.contains(&format!("conv {name}")) && text.contains(&format!("conv weights {name}")), "{text}");
    }
    let conv = program.plan().steps.iter().position(is_conv).unwrap();
    assert!(program.predicted_ns(conv) > 0.0 && program.way(conv).is_none());
}

#[test]
fn what_is_written_instead_fuses_as_well() {
    let graph = made(|g| {
        let x = g.input("x", F32, [2, 9, 8, 16]);
        let y = x.layer("point", Conv::new(16, &[1, 1])).relu() + x;
        g.output("y", y);
    });
    let plan = planned(&graph);
    assert!(matches!(&plan.steps[..], [Step::Product { epilogue: Some(_), .. }]), "{plan}");
    let graph = made(|g| {
        let x = g.input("x", F32, [2, 9, 8, 16]);
        let y = x.layer("depth", Conv::new(16, &[3, 3]).groups(16).padding(Padding::Same)).relu() + x;
        g.output("y", y);
    });
    let plan = planned(&graph);
    assert!(matches!(&plan.steps[..], [Step::Product { epilogue: Some(_), .. }]), "{plan}");
    // Windows are nowhere in memory, nor is what comes back to them.
    for width in [8, 40, 100] {
        let graph = made(|g| {
            let x = g.input("x", F32, [2, 5, width, 16]);
            let y = x.layer("depth", Conv::new(16, &[3, 3]).groups(16).padding(Padding::Same)).relu();
            let y = y.layer("point", Conv::new(24, &[1, 1])).relu();
            g.minimize((y * y).mean(), Momentum::new(0.1, 0.9));
        });
        let plan = planned(&graph);
        let largest = plan.buffers.iter().map(|decl| decl.n_elements).max();
        assert!(largest <= Some(2 * 7 * (width + 2) * 24), "{plan}");
        assert_eq!(count(&plan, |step| matches!(step, Step::Product { .. })), 5, "{plan}");
    }
}

/// Columns are summed of what windows are combined to, where that is: windows themselves are no loops that merge.
#[test]
fn sums_of_columns_do_not_bring_windows_into_memory() {
    let pooled = |x: Tensor<'_>| x.layer("pool", MeanPool::new(&[3, 3]).stride(&[1, 1]).padding(Padding::Same)).id();
    let depthwise = |x: Tensor<'_>| x.layer("depth", Conv::new(16, &[3, 3]).groups(16).padding(Padding::Same)).id();
    for layer in [pooled as fn(Tensor<'_>) -> NodeId, depthwise] {
        let graph = made(|g| {
            let x = g.input("x", F32, [2, 12, 12, 16]);
            let scale = g.param("scale", F32, [16], Init::normal(1.0, 0.1));
            let y = (g.tensor(layer(x * scale)) + g.param("shift", F32, [16], Init::ZEROS)).relu();
            g.minimize((y * y).mean(), Sgd::new(0.1));
        });
        let plan = planned(&graph);
        let largest = plan.buffers.iter().map(|decl| decl.n_elements).max();
        assert!(largest <= Some(2 * 12 * 12 * 16), "{plan}");
    }
}
