//! Plans broken on purpose: the verifier sees each.

use cotangent_graph::{DType, Graph, Init, TensorData};
use cotangent_kernel::{BufferId, CheckWhat, Home, Plan, Step, verify_plan};

use crate::common::{planned, primitive};

const F32: DType = DType::F32;

/// A plan with a bit of everything: a product with an epilogue, an update, a gather with its check, kernels.
fn everything() -> Graph {
    primitive(|g| {
        let x = g.input("x", F32, [6, 4]);
        let w = g.param("w", F32, [4, 5], Init::GlorotUniform);
        let table = g.param("table", F32, [7, 5], Init::GlorotUniform);
        let index = g.input("index", DType::I64, [6]);
        let constant = g.constant(TensorData::from_bits(F32, &[5].into(), &[0; 5]));
        let y = (x.matmul(w) + table.gather(index)).tanh() + constant;
        g.output("y", y);
        g.output("s", (y.t().exp() * y.t()).sum_over([1]).log());
        g.update(w, w.sin() - x.matmul_with(y, true, false));
        g.update(table, table.matmul_with(y.t().matmul(y).cos(), false, false));
    })
}

/// Breaks a good plan and expects a complaint that contains `text`.
#[track_caller]
fn refused(text: &str, break_it: impl FnOnce(&mut Plan)) {
    let mut plan = planned(&everything());
    assert_eq!(verify_plan(&plan), [""; 0]);
    break_it(&mut plan);
    let errors = verify_plan(&plan);
    assert!(errors.iter().any(|e| e.contains(text)), "expected `{text}` in {errors:#?}\n{plan}");
}

fn buffer(plan: &Plan, name: &str) -> BufferId {
    let at = plan.buffers.iter().position(|b| b.name == name);
    BufferId(at.unwrap_or_else(|| panic!("no `{name}` in\n{plan}")) as u32)
}

fn find(plan: &Plan, f: impl Fn(&Step) -> bool) -> usize {
    plan.steps.iter().position(f).unwrap_or_else(|| panic!("no such step in\n{plan}"))
}

/// Moves a step, with all that is said about it.
fn move_step(plan: &mut Plan, from: usize, to: usize) {
    let (step, node, old) = (plan.steps.remove(from), plan.step_nodes.remove(from), plan.old_reads.remove(from));
    plan.steps.insert(to, step);
    plan.step_nodes.insert(to, node);
    plan.old_reads.insert(to, old);
}

fn is_check(step: &Step) -> bool {
    matches!(step, Step::Check { .. })
}

fn is_gather(step: &Step) -> bool {
    matches!(step, Step::Gather { .. })
}

fn is_kernel(step: &Step) -> bool {
    matches!(step, Step::Kernel(_))
}

fn is_finished_product(step: &Step) -> bool {
    matches!(step, Step::Gemm { epilogue: Some(_), .. })
}

#[test]
fn ids() {
    refused("is named", |plan| {
        let s = find(plan, is_gather);
        if let Step::Gather { table, .. } = &mut plan.steps[s] {
            *table = BufferId(99);
        }
    });
    refused("is called", |plan| {
        let s = find(plan, is_kernel);
        if let Step::Kernel(call) = &mut plan.steps[s] {
            call.kernel = 99;
        }
    });
    refused("arguments for", |plan| {
        let s = find(plan, is_kernel);
        if let Step::Kernel(call) = &mut plan.steps[s] {
            call.args.pop();
        }
    });
    refused("lists by step", |plan| plan.step_nodes.truncate(1));
    refused("names buffer 77", |plan| plan.updated.push(BufferId(77)));
}

#[test]
fn kernels() {
    refused("total is", |plan| plan.kernels[0].total += 1);
    refused("spans elements", |plan| {
        let s = find(plan, is_kernel);
        let Step::Kernel(call) = &plan.steps[s] else { return };
        let small = call.args[0];
        plan.buffers[small.index()].n_elements -= 1;
    });
    refused("is bound to", |plan| {
        let s = find(plan, is_kernel);
        let Step::Kernel(call) = &plan.steps[s] else { return };
        let id = call.args[0];
        plan.buffers[id.index()].dtype = DType::I32;
    });
}

#[test]
fn products() {
    refused("a product reads elements", |plan| {
        let s = find(plan, is_finished_product);
        if let Step::Gemm { a, .. } = &mut plan.steps[s] {
            a.offset += 1;
        }
    });
    refused("is not a product of", |plan| {
        let s = find(plan, is_finished_product);
        if let Step::Gemm { dims, .. } = &mut plan.steps[s] {
            dims.n += 1;
        }
    });
    refused("an epilogue of", |plan| {
        let s = find(plan, is_finished_product);
        let Step::Gemm { epilogue: Some(epilogue), .. } = &plan.steps[s] else { return };
        let k = epilogue.call.kernel;
        plan.kernels[k].dims.reverse();
    });
    refused("written by the same step", |plan| {
        let s = find(plan, is_finished_product);
        if let Step::Gemm { a, c, .. } = &mut plan.steps[s] {
            a.buffer = *c;
        }
    });
    refused("its product's result at other elements", |plan| {
        let s = find(plan, is_finished_product);
        let Step::Gemm { epilogue: Some(epilogue), c, .. } = &plan.steps[s] else { return };
        let arg = epilogue.call.args.iter().position(|id| id == c).unwrap();
        let k = epilogue.call.kernel;
        for input in &mut plan.kernels[k].phases[0].inputs {
            if let cotangent_kernel::ir::Input::Load { arg: a, map } = input
                && a.0 as usize == arg
            {
                map.strides[0] = 0;
            }
        }
    });
}

#[test]
fn results_kept_by_rows() {
    let first = planned(&everything()).buffers.iter().position(|b| b.home == Home::Rows);
    assert!(first.is_some(), "the gradient of `w` is only read by the update");
    refused("is kept row by row", |plan| {
        let output = plan.outputs[0].buffer;
        plan.buffers[output.index()].home = Home::Rows;
    });
    refused("is kept row by row", |plan| {
        let s = find(plan, |step| matches!(step, Step::Gemm { epilogue: None, .. }));
        if let Step::Gemm { c, .. } = plan.steps[s] {
            plan.buffers[c.index()].home = Home::Rows;
        }
    });
}

#[test]
fn rows_by_index() {
    refused("are not checked", |plan| {
        let s = find(plan, is_check);
        plan.steps.remove(s);
        plan.step_nodes.remove(s);
        plan.old_reads.remove(s);
    });
    refused("are checked against", |plan| {
        let s = find(plan, is_check);
        if let Step::Check { what: CheckWhat::Below(bound), .. } = &mut plan.steps[s] {
            *bound += 1;
        }
    });
    refused("does not hold", |plan| {
        let s = find(plan, is_gather);
        if let Step::Gather { row, .. } = &mut plan.steps[s] {
            *row -= 1;
        }
    });
    refused("indices `x` are f32", |plan| {
        let (s, x) = (find(plan, is_check), buffer(plan, "x"));
        if let Step::Check { values: indices, .. } = &mut plan.steps[s] {
            *indices = x;
        }
    });
}

#[test]
fn flow() {
    refused("is read before it is written", |plan| {
        let (s, last) = (find(plan, is_finished_product), plan.steps.len() - 1);
        move_step(plan, s, last);
    });
    refused("a check comes after", |plan| {
        let (s, last) = (find(plan, is_check), plan.steps.len() - 1);
        move_step(plan, s, last);
    });
    refused("and must not change", |plan| {
        let x = buffer(plan, "x");
        let s = find(plan, |step| matches!(step, Step::Gather { .. }));
        if let Step::Gather { out, .. } = &mut plan.steps[s] {
            *out = x;
        }
    });
    refused("the old value of `w` is read after it was written", |plan| {
        let (first, w) = (find(plan, is_finished_product), buffer(plan, "w"));
        let s = plan.steps.iter().position(|step| step.writes(plan).contains(&w)).unwrap();
        move_step(plan, s, first);
    });
    refused("is never written", |plan| {
        let name = plan.outputs[0].buffer;
        plan.outputs[0].buffer = BufferId(plan.buffers.len() as u32);
        let spare = plan.buffers[name.index()].clone();
        plan.buffers.push(spare);
    });
}

#[test]
fn updates() {
    refused("is declared updated but never written", |plan| {
        // An update of a parameter that no step writes.
        let mut spare = plan.buffers[buffer(plan, "w").index()].clone();
        spare.name = "spare".into();
        plan.buffers.push(spare);
        plan.updated.push(BufferId(plan.buffers.len() as u32 - 1));
    });
    refused("is declared updated twice", |plan| {
        let id = plan.updated[0];
        plan.updated.push(id);
    });
    refused("`w` is written, and must not change", |plan| {
        let w = buffer(plan, "w");
        plan.updated.retain(|&id| id != w);
    });
    refused("is written by several steps", |plan| {
        let (w, n) = (buffer(plan, "w"), plan.steps.len());
        let other = plan.buffers.iter().position(|b| b.n_elements == 20 && b.home != Home::Param);
        let from = other.map_or_else(
            || {
                let mut spare = plan.buffers[w.index()].clone();
                (spare.name, spare.home) = ("spare".into(), Home::Input);
                plan.buffers.push(spare);
                BufferId(plan.buffers.len() as u32 - 1)
            },
            |i| BufferId(i as u32),
        );
        plan.steps.push(Step::Copy { from, to: w, reason: "" });
        plan.step_nodes.push(cotangent_graph::NodeId(0));
        plan.old_reads.push(Vec::new());
        assert!(n > 1);
    });
}

#[test]
fn shared_memory() {
    refused("written and read at other elements by one kernel", |plan| {
        // The kernel with a turned operand writes over it.
        let s = find(plan, |step| is_kernel(step) && step.reads(plan).len() == 1);
        let Step::Kernel(call) = &mut plan.steps[s] else { return };
        let (from, to) = (call.args[0], call.args.len() - 1);
        call.args[to] = from;
    });
    let arena = |plan: &Plan| -> Vec<usize> {
        let in_arena =
            |b: &usize| matches!(plan.buffers[*b].home, Home::Arena { .. }) && !plan.buffers[*b].live.is_empty();
        (0..plan.buffers.len()).filter(in_arena).collect()
    };
    refused("overlap in the arena", |plan| {
        for b in arena(plan) {
            plan.buffers[b].home = Home::Arena { offset: 0 };
        }
    });
    refused("leaves the arena", |plan| plan.arena_bytes -= 64);
    refused("no multiple of", |plan| {
        let b = arena(plan)[0];
        if let Home::Arena { offset } = &mut plan.buffers[b].home {
            *offset += 4;
        }
    });
    refused("is declared alive in", |plan| {
        let b = arena(plan)[0];
        plan.buffers[b].live.end -= 1;
    });
    refused("two buffers are named", |plan| {
        let again = plan.buffers[buffer(plan, "x").index()].clone();
        plan.buffers.push(again);
    });
    refused("is not of its constant's type", |plan| {
        let b = plan.buffers.iter().position(|b| matches!(b.home, Home::Const(_))).unwrap();
        plan.buffers[b].home = Home::Const(std::sync::Arc::new(TensorData::zeros(F32, &[4].into())));
    });
}

#[test]
fn copies() {
    refused("copied but not of one size", |plan| {
        let (from, to) = (buffer(plan, "x"), buffer(plan, "w"));
        plan.steps.push(Step::Copy { from, to, reason: "" });
        plan.step_nodes.push(cotangent_graph::NodeId(0));
        plan.old_reads.push(Vec::new());
    });
    refused("have different element types", |plan| {
        let (from, to) = (buffer(plan, "index"), buffer(plan, "w"));
        plan.steps.push(Step::Copy { from, to, reason: "" });
        plan.step_nodes.push(cotangent_graph::NodeId(0));
        plan.old_reads.push(Vec::new());
    });
}
