//! Parameters and states: in place where that is right, copied with a reason where not, and untouched by a failing step.

use std::collections::HashMap;

use cotangent_graph::{Code, Counters, DType, Graph, Init, Shape, TensorData};
use cotangent_kernel::{Home, Plan, PlanMachine, RunError, Step};
use cotangent_testkit::random;

use crate::common::{planned, primitive};

const F32: DType = DType::F32;

/// The reasons of all copies.
fn copies(plan: &Plan) -> Vec<&'static str> {
    let reason = |step: &Step| match step {
        Step::Copy { reason, .. } => Some(*reason),
        _ => None,
    };
    plan.steps.iter().filter_map(reason).collect()
}

fn two_params(
    f: impl Fn(&cotangent_graph::GraphBuilder, cotangent_graph::Tensor<'_>, cotangent_graph::Tensor<'_>),
) -> Graph {
    primitive(|g| {
        let a = g.param("a", F32, [3, 3], Init::GlorotUniform);
        let b = g.param("b", F32, [3, 3], Init::GlorotUniform);
        f(g, g.tensor(a.id()), g.tensor(b.id()));
    })
}

#[test]
fn an_optimizer_updates_in_place() {
    let graph = primitive(|g| {
        let x = g.input("x", F32, [8, 4]);
        let w = g.param("w", F32, [4, 4], Init::GlorotUniform);
        let v = g.state("v", F32, [4, 4], Init::ZEROS);
        let dw = x.matmul_with(x.matmul(w).tanh(), true, false);
        let next = v * 0.9 + dw;
        g.update(v, next);
        g.update(w, w - next * 0.1);
    });
    let plan = planned(&graph);
    assert_eq!(copies(&plan), [""; 0], "{plan}");
    assert_eq!(plan.steps.len(), 2, "both updates finish the gradient's product\n{plan}");
    assert_eq!(plan.in_place().len(), 2, "{plan}");
    assert_eq!(plan.updated.len(), 2);
}

#[test]
fn a_swap_keeps_both_old_values() {
    let plan = planned(&two_params(|g, a, b| {
        g.update(a, b);
        g.update(b, a);
    }));
    let kept = "its value at the start of the step is asked for";
    assert_eq!(copies(&plan), [kept, kept, "the new value is another tensor's", "the new value is another tensor's"]);
}

#[test]
fn a_rotation_with_computation() {
    planned(&two_params(|g, a, b| {
        g.update(a, b.tanh());
        g.update(b, a.exp());
        g.output("old", a);
        g.output("sum", a + b);
    }));
}

#[test]
fn a_new_value_that_depends_on_the_old_one_turned_is_copied() {
    let plan = planned(&two_params(|g, a, _| g.update(a, a + a.t())));
    assert_eq!(copies(&plan), ["its step reads the old value at other places"]);
}

#[test]
fn an_old_value_that_is_read_after_its_update_delays_or_copies() {
    // The reader does not need the new value: it goes first, and the update is in place.
    let plan = planned(&two_params(|g, a, b| {
        g.update(a, a.tanh());
        g.output("y", a.matmul(b));
    }));
    assert_eq!(copies(&plan), [""; 0], "{plan}");
    // It needs both.
    let plan = planned(&two_params(|g, a, b| {
        let next = a.matmul(b).tanh();
        g.update(a, next);
        g.update(b, next.matmul(b).matmul(a));
    }));
    let reasons = copies(&plan);
    assert!(!reasons.is_empty(), "{plan}");
}

#[test]
fn results_may_be_old_and_new_values() {
    let graph = two_params(|g, a, b| {
        let next = a.sin() * b;
        g.update(a, next);
        g.output("old", a);
        g.output("new", next);
        g.output("input", b);
    });
    let plan = planned(&graph);
    let new = plan.outputs.iter().find(|o| &*o.name == "new").unwrap();
    assert_eq!(plan.buffers[new.buffer.index()].home, Home::Param, "the new value is read from the parameter\n{plan}");
}

#[test]
fn one_value_for_two_targets_is_made_once() {
    let plan = planned(&two_params(|g, a, b| {
        let next = a.cos() + b;
        g.update(a, next);
        g.update(b, next);
    }));
    assert_eq!(copies(&plan), ["the new value is used by two updates"]);
}

#[test]
fn an_update_with_itself_is_nothing() {
    let plan = planned(&two_params(|g, a, b| {
        g.update(a, a);
        g.output("y", b.exp());
    }));
    assert!(plan.updated.is_empty() && plan.steps.len() <= 2, "{plan}");
}

#[test]
fn updates_that_are_put_together_from_parts() {
    planned(&two_params(|g, a, b| {
        let parts = [a.slice(&[0, 0], &[1, 3]), b.slice(&[1, 0], &[3, 3])];
        g.update(a, g.concat(&parts, 0));
        g.update(b, b.slice(&[1, 1], &[3, 3]).pad(&[1, 0], &[0, 1], 0.25));
    }));
}

#[test]
fn a_failing_check_changes_nothing() {
    let graph = primitive(|g| {
        let index = g.input("index", DType::I64, [4]);
        let table = g.param("table", F32, [5, 2], Init::GlorotUniform);
        let count = g.state("count", F32, [], Init::ZEROS);
        let rows = table.gather(index);
        g.update(table, table - rows.scatter_add(index, 5) * 0.1);
        g.update(count, count + 1.0);
        g.output("rows", rows);
    });
    let plan = planned(&graph);
    let env = random::env(&graph, 3);
    let before: HashMap<String, TensorData> = env.values.clone();
    let mut machine = PlanMachine::new(&plan).unwrap();
    let with = |index: i64| {
        let bits = [0, 1, 2, index as u64];
        HashMap::from([("index".to_owned(), TensorData::from_bits(DType::I64, &Shape::new(&[4]), &bits))])
    };
    for bad in [5, -1, i64::MIN, 1 << 40] {
        let mut store = before.clone();
        let error = machine.run(&with(bad), &mut store, Counters::default()).unwrap_err();
        let RunError::User(diag) = error else { panic!("{error}") };
        assert_eq!(diag.code, Code::IndexOutOfRange);
        assert!(diag.message.contains(&format!("got {bad} at element 3")), "{}", diag.message);
        assert_eq!(store, before);
    }
    let mut store = before.clone();
    machine.run(&with(4), &mut store, Counters::default()).unwrap();
    assert_ne!(store, before);
}

#[test]
fn wrong_tensors_are_errors() {
    let graph = primitive(|g| g.output("y", g.input("x", F32, [2]).exp()));
    let plan = planned(&graph);
    let mut machine = PlanMachine::new(&plan).unwrap();
    for (inputs, code) in [
        (HashMap::new(), Code::InputNames),
        (HashMap::from([("x".to_owned(), TensorData::zeros(F32, &Shape::new(&[3])))]), Code::InputType),
        (HashMap::from([("x".to_owned(), TensorData::zeros(DType::F64, &Shape::new(&[2])))]), Code::InputType),
    ] {
        match machine.run(&inputs, &mut HashMap::new(), Counters::default()) {
            Err(RunError::User(diag)) => assert_eq!(diag.code, code),
            other => panic!("{other:?}"),
        }
    }
}
