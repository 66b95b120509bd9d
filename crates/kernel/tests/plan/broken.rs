//! Plans broken on purpose: the verifier sees each.

use cotangent_graph::ops::arithmetic::ADD;
use cotangent_graph::ops::index::{GATHER, SCATTER_ADD};
use cotangent_graph::{DType, Graph, Init, OpRef, TensorData, Type};
use cotangent_kernel::{BufferId, CheckWhat, Factors, Home, OpStep, Plan, Step, verify_plan};

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
    let values = plan.step_values.remove(from);
    plan.steps.insert(to, step);
    plan.step_nodes.insert(to, node);
    plan.old_reads.insert(to, old);
    plan.step_values.insert(to, values);
}

/// Adds a step at the end, of which nothing else is said.
fn push_step(plan: &mut Plan, step: Step) {
    plan.steps.push(step);
    plan.step_nodes.push(cotangent_graph::NodeId(0));
    plan.old_reads.push(Vec::new());
    plan.step_values.push(Vec::new());
}

fn is_check(step: &Step) -> bool {
    matches!(step, Step::Check { .. })
}

fn is_gather(step: &Step) -> bool {
    matches!(step, Step::Op(op) if op.op.is(&GATHER))
}

fn is_kernel(step: &Step) -> bool {
    matches!(step, Step::Kernel(_))
}

fn is_finished_product(step: &Step) -> bool {
    matches!(step, Step::Product { epilogue: Some(_), .. })
}

#[test]
fn ids() {
    refused("is named", |plan| {
        let s = find(plan, is_gather);
        if let Step::Op(op) = &mut plan.steps[s] {
            op.operands[0].0 = BufferId(99);
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
        if let Step::Product { factors: Factors::Matrices { a, .. }, .. } = &mut plan.steps[s] {
            a.offset += 1;
        }
    });
    refused("is not a product of", |plan| {
        let s = find(plan, is_finished_product);
        if let Step::Product { factors: Factors::Matrices { dims, .. }, .. } = &mut plan.steps[s] {
            dims.n += 1;
        }
    });
    refused("an epilogue of", |plan| {
        let s = find(plan, is_finished_product);
        let Step::Product { epilogue: Some(epilogue), .. } = &plan.steps[s] else { return };
        let k = epilogue.call.kernel;
        plan.kernels[k].dims.reverse();
    });
    refused("written by the same step", |plan| {
        let s = find(plan, is_finished_product);
        if let Step::Product { factors: Factors::Matrices { a, .. }, c, .. } = &mut plan.steps[s] {
            a.buffer = *c;
        }
    });
    refused("its product's result at other elements", |plan| {
        let s = find(plan, is_finished_product);
        let Step::Product { epilogue: Some(epilogue), c, .. } = &plan.steps[s] else { return };
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
        let s = find(plan, |step| matches!(step, Step::Product { epilogue: None, .. }));
        if let Step::Product { c, .. } = plan.steps[s] {
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
        plan.step_values.remove(s);
    });
    refused("are checked against", |plan| {
        let s = find(plan, is_check);
        if let Step::Check { what: CheckWhat::Below(bound), .. } = &mut plan.steps[s] {
            *bound += 1;
        }
    });
    refused("is no f32[2,3]", |plan| {
        let s = find(plan, is_gather);
        if let Step::Op(op) = &mut plan.steps[s] {
            op.ty = Type::tensor(DType::F32, [2, 3]);
        }
    });
    refused("`gather` of", |plan| {
        let s = find(plan, is_gather);
        if let Step::Op(op) = &mut plan.steps[s] {
            // As many elements, but not what the op makes of its operands.
            op.ty = Type::tensor(DType::F32, [op.ty.shape().n_elements()]);
        }
    });
    refused("`gather` of", |plan| {
        let s = find(plan, is_gather);
        if let Step::Op(op) = &mut plan.steps[s] {
            op.operands.pop();
        }
    });
    refused("is done in loops", |plan| {
        let s = find(plan, is_gather);
        if let Step::Op(op) = &mut plan.steps[s] {
            op.op = OpRef(&ADD);
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
        let s = find(plan, is_gather);
        if let Step::Op(op) = &mut plan.steps[s] {
            op.out = x;
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
        push_step(plan, Step::Copy { from, to: w, reason: "" });
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
        push_step(plan, Step::Copy { from, to, reason: "" });
    });
    refused("have different element types", |plan| {
        let (from, to) = (buffer(plan, "index"), buffer(plan, "w"));
        push_step(plan, Step::Copy { from, to, reason: "" });
    });
}

/// A plan with what `everything` lacks: parts that are joined, rows added by index, a copy, random numbers, a check of floats,
/// sums of columns block by block, a row that is kept.
fn more() -> Graph {
    primitive(|g| {
        let (x, z) = (g.input("x", F32, [6, 4]), g.input("z", F32, [200, 8]));
        let index = g.input("index", DType::I64, [6]);
        let (w, v) = (g.param("w", F32, [6, 4], Init::GlorotUniform), g.param("v", F32, [8, 40], Init::GlorotUniform));
        let (exp, double) = (x.exp(), x * 2.0);
        // Results have memory of their own, so all three are copied.
        g.output("exp", exp);
        g.output("double", double);
        let parts = g.concat(&[x, exp, double], 0);
        g.output("joined", parts.tanh().slice(&[2, 0], &[18, 4]));
        g.output("sums", x.scatter_add(index, 9));
        g.output("noise", g.uniform("noise", F32, [6, 4]) + x.check_finite());
        g.output("old", w);
        g.update(w, w * 0.5);
        // Block by block: 200 rows are three blocks and a part of one.
        g.output("columns", z.matmul(v).square().sum_over([0]));
        g.output("same", x);
    })
}

#[track_caller]
fn refused_of(graph: &Graph, text: &str, break_it: impl FnOnce(&mut Plan)) {
    let mut plan = planned(graph);
    assert_eq!(verify_plan(&plan), [""; 0]);
    break_it(&mut plan);
    let errors = verify_plan(&plan);
    assert!(errors.iter().any(|e| e.contains(text)), "expected `{text}` in {errors:#?}\n{plan}");
}

fn is_scatter(step: &Step) -> bool {
    matches!(step, Step::Op(op) if op.op.is(&SCATTER_ADD))
}

fn is_copy(step: &Step) -> bool {
    matches!(step, Step::Copy { .. })
}

/// The kernel of the first step that calls one alone, and some of whose results have more than one element.
fn storing(plan: &Plan) -> usize {
    let s = find(plan, |step| {
        let Step::Kernel(call) = step else { return false };
        let kernel = &plan.kernels[call.kernel];
        kernel.inner() > 1 && kernel.phases[0].stores.iter().any(|store| store.map.strides.iter().any(|&s| s != 0))
    });
    let Step::Kernel(call) = &plan.steps[s] else { unreachable!() };
    call.kernel
}

#[test]
fn stores() {
    // Two iterations, and so perhaps two threads, at one element.
    refused_of(&more(), "stores to some element of", |plan| {
        let k = storing(plan);
        let store = &mut plan.kernels[k].phases[0].stores[0];
        store.map.strides.fill(0);
    });
    refused_of(&more(), "stores to some element of", |plan| {
        let k = storing(plan);
        let inner = plan.kernels[k].dims.len() - 1;
        let store = &mut plan.kernels[k].phases[0].stores[0];
        // Neighbors of a row change places with those of the next.
        store.map.strides[inner] = 0;
    });
    refused_of(&more(), "stores to some element of", |plan| {
        let k = storing(plan);
        let phase = &mut plan.kernels[k].phases[0];
        let again = phase.stores[0].clone();
        phase.stores.push(again);
    });
    refused_of(&more(), "both store to", |plan| {
        let k = storing(plan);
        let again = plan.kernels[k].phases[0].clone();
        plan.kernels[k].phases.push(again);
    });
    // Blocks of rows, each of which stores its own sums.
    refused_of(&more(), "store to the same places", |plan| {
        let s = find(plan, |step| matches!(step, Step::Product { epilogue: Some(e), .. } if e.block > 1));
        let Step::Product { epilogue: Some(epilogue), .. } = &plan.steps[s] else { return };
        let (main, last) = (epilogue.call.kernel, epilogue.last.as_ref().unwrap().kernel);
        for store in plan.kernels[main].phases.iter_mut().flat_map(|p| &mut p.stores) {
            store.map.strides[0] = 1;
        }
        plan.kernels[last] = plan.kernels[main].last_block(200 % 64);
    });
}

#[test]
fn results_are_not_operands() {
    let text = "is the result of the step and one of its operands";
    refused(text, |plan| {
        let s = find(plan, is_gather);
        if let Step::Op(op) = &mut plan.steps[s] {
            op.out = op.operands[0].0;
        }
    });
    for k in 0..2 {
        refused_of(&more(), text, |plan| {
            let s = find(plan, is_scatter);
            if let Step::Op(op) = &mut plan.steps[s] {
                op.out = op.operands[k].0;
            }
        });
    }
    refused_of(&more(), text, |plan| {
        let s = find(plan, is_copy);
        if let Step::Copy { from, to, .. } = &mut plan.steps[s] {
            *to = *from;
        }
    });
    // A parameter that is declared updated is no exception.
    refused(text, |plan| {
        let table = buffer(plan, "table");
        let s = find(plan, is_gather);
        if let Step::Op(op) = &mut plan.steps[s] {
            op.out = table;
        }
        assert!(plan.updated.contains(&table));
    });
    // The parts of a join are kernels: what they read is not where they store, unless element by element.
    refused_of(&more(), "written and read at other elements", |plan| {
        let s = find(
            plan,
            |step| matches!(step, Step::Kernel(call) if plan.kernels[call.kernel].name.starts_with("copy into")),
        );
        let Step::Kernel(call) = &mut plan.steps[s + 1] else { return };
        let kernel = &plan.kernels[call.kernel];
        let (from, to) = (kernel.args.iter().position(|a| a.read), kernel.args.iter().position(|a| a.written));
        call.args[from.unwrap()] = call.args[to.unwrap()];
    });
    // Not even where the arena puts them into one place.
    refused_of(&more(), "overlap in the arena", |plan| {
        let s = find(plan, is_scatter);
        let Step::Op(OpStep { out, .. }) = plan.steps[s] else { return };
        let place = plan.buffers[out.index()].home.clone();
        let other = plan
            .buffers
            .iter()
            .position(|b| b.home != place && matches!(b.home, Home::Arena { .. }) && b.live.contains(&s));
        plan.buffers[other.expect("something is alive beside it")].home = place;
    });
}

#[test]
fn what_is_read_is_whole() {
    // One part of three is not written; or one is written twice in its place.
    let is_part = |plan: &Plan, step: &Step| matches!(step, Step::Kernel(call) if plan.kernels[call.kernel].name.starts_with("copy into"));
    refused_of(&more(), "is read before all of it is written", |plan| {
        let s = find(plan, |step| is_part(plan, step));
        plan.steps.remove(s);
        plan.step_nodes.remove(s);
        plan.old_reads.remove(s);
        plan.step_values.remove(s);
    });
    refused_of(&more(), "is read before all of it is written", |plan| {
        let parts: Vec<usize> = (0..plan.steps.len()).filter(|&s| is_part(plan, &plan.steps[s])).collect();
        assert_eq!(parts.len(), 3);
        plan.steps[parts[1]] = plan.steps[parts[0]].clone();
    });
    refused_of(&more(), "is written only in parts", |plan| {
        let s = find(plan, |step| is_part(plan, step));
        let Step::Kernel(call) = &plan.steps[s] else { return };
        let joined = *call.args.last().unwrap();
        let n = plan.buffers[joined.index()].n_elements;
        plan.steps.truncate(s + 1);
        plan.step_nodes.truncate(s + 1);
        plan.old_reads.truncate(s + 1);
        plan.step_values.truncate(s + 1);
        let ty = cotangent_graph::Type::tensor(F32, [n]);
        plan.outputs.retain(|_| false);
        plan.outputs.push(cotangent_kernel::PlanOutput { name: "part".into(), buffer: joined, ty });
        plan.buffers[joined.index()].live.end = s + 2;
    });
    refused_of(&more(), "written only in parts", |plan| {
        let w = buffer(plan, "w");
        let s = find(plan, |step| is_kernel(step) && step.writes(plan).contains(&w));
        let Step::Kernel(call) = &plan.steps[s] else { return };
        let kernel = &mut plan.kernels[call.kernel];
        kernel.dims[0] -= 1;
        kernel.total = kernel.dims.iter().product();
    });
}

#[test]
fn sizes_and_types() {
    refused("larger than what can be addressed", |plan| plan.buffers[0].n_elements = usize::MAX / 2);
    refused("is not a product of", |plan| {
        let s = find(plan, is_finished_product);
        if let Step::Product { factors: Factors::Matrices { dims, .. }, .. } = &mut plan.steps[s] {
            // They multiply to 0 if nobody looks.
            (dims.m, dims.n) = (1 << 32, 1 << 32);
        }
    });
    refused_of(&more(), "overflow", |plan| {
        let k = storing(plan);
        let kernel = &mut plan.kernels[k];
        kernel.dims.fill(0);
        kernel.dims[0] = usize::MAX;
        kernel.total = 0;
    });
    refused("is in no buffer", |plan| {
        let s = plan.step_values.iter().position(|values| !values.is_empty()).unwrap();
        plan.step_values[s][0].1 = BufferId(77);
    });
    refused_of(&more(), "three words of counters", |plan| {
        let at = plan.buffers.iter().position(|b| b.home == Home::Counters).unwrap();
        plan.buffers[at].n_elements = 4;
    });
    refused_of(&more(), "is checked to be finite", |plan| {
        let index = buffer(plan, "index");
        let s = find(plan, |step| matches!(step, Step::Check { what: CheckWhat::Finite, .. }));
        if let Step::Check { values, .. } = &mut plan.steps[s] {
            *values = index;
        }
    });
    // A sum of truth values.
    refused_of(&more(), "`scatter_add` of bool", |plan| {
        let s = find(plan, is_scatter);
        let Step::Op(op) = &mut plan.steps[s] else { return };
        let truth = |ty: &Type| Type::tensor(DType::Bool, ty.shape());
        (op.operands[0].1, op.ty) = (truth(&op.operands[0].1), truth(&op.ty));
        let changed = [op.operands[0].0, op.out];
        changed.iter().for_each(|id| plan.buffers[id.index()].dtype = DType::Bool);
    });
}

#[test]
fn outputs_stay() {
    refused_of(&more(), "is gone when the step is over", |plan| {
        let x = buffer(plan, "x");
        let at = plan.outputs.iter().position(|o| &*o.name == "same").unwrap();
        plan.outputs[at].buffer = x;
    });
    refused("is kept row by row", |plan| {
        // A second argument that is the product's result: only one gets the address of the rows.
        let s =
            find(plan, |step| matches!(step, Step::Product { c, .. } if plan.buffers[c.index()].home == Home::Rows));
        let Step::Product { c, epilogue: Some(epilogue), .. } = &mut plan.steps[s] else { return };
        let kernel = epilogue.call.kernel;
        let other = (0..epilogue.call.args.len())
            .find(|&k| epilogue.call.args[k] != *c && !plan.kernels[kernel].args[k].written);
        epilogue.call.args[other.expect("it reads the old value")] = *c;
    });
}

/// Loads that do not move along a loop are made before it, also if it has no iterations.
#[test]
fn loads_before_loops_without_iterations() {
    let graph = primitive(|g| {
        let (x, y) = (g.input("x", F32, [3, 4]), g.input("y", F32, [3]));
        g.output("sum", (x * y.repeat_along(&[3, 4].into(), [1])).sum_over([1]));
    });
    refused_of(&graph, "spans elements", |plan| {
        let x = buffer(plan, "x");
        let s = find(plan, is_kernel);
        let Step::Kernel(call) = &plan.steps[s] else { return };
        let kernel = &mut plan.kernels[call.kernel];
        let at = call
            .args
            .iter()
            .position(|&id| id != x && !kernel.args[call.args.iter().position(|a| *a == id).unwrap()].written);
        let small = call.args[at.unwrap()];
        let last = kernel.dims.len() - 1;
        kernel.dims[last] = 0;
        kernel.total = 0;
        plan.buffers[small.index()].n_elements = 0;
    });
}
