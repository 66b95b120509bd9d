//! What graphs may grow to: every pass that makes more of a graph than it was ends within the limits.

use cotangent_graph::DType::F32;
use cotangent_graph::samples::environment;
use cotangent_graph::text::parse;
use cotangent_graph::{Code, Env, Graph, Limits, Loc, Registry, interp::interpret};
use cotangent_passes::{GradCheck, PassError, PassOptions, Wrt, check_gradients, optimize};
use cotangent_testkit::growing::{many_outputs, nested_calls, repeated_gradients, wide_concat};

use crate::common::graph;

fn read(text: &str) -> Graph {
    parse(text, "t.ct", &Registry::builtin()).unwrap_or_else(|diags| panic!("{diags}"))
}

fn limited(max_nodes: usize) -> PassOptions {
    PassOptions { limits: Limits { max_nodes }, ..PassOptions::default() }
}

/// The place of the error that too many nodes would be made.
fn refused(result: Result<impl Sized, PassError>) -> Loc {
    match result {
        Err(PassError::Diags(diags)) if diags.0[0].code == Code::TooManyNodes => diags.0[0].at.clone(),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("no error"),
    }
}

#[test]
fn calls_of_calls_and_gradients_of_gradients_end_within_the_limits() {
    for text in [nested_calls(15, 4), nested_calls(12, 9), repeated_gradients(20), repeated_gradients(400)] {
        let at = refused(optimize(&read(&text), &limited(20_000)));
        assert!(matches!(at, Loc::Text { .. }), "{at}");
    }
}

/// The limit is exact: a graph that needs so many nodes has them, and one less is too few.
#[test]
fn a_graph_may_grow_as_far_as_the_limits_say() {
    for text in [nested_calls(4, 4), repeated_gradients(4), wide_concat(300), many_outputs(30)] {
        let source = read(&text);
        let fits = |max_nodes| optimize(&source, &limited(max_nodes));
        let (mut too_few, mut enough) = (1, 100_000);
        assert!(fits(enough).is_ok());
        while enough - too_few > 1 {
            let middle = too_few.midpoint(enough);
            if fits(middle).is_ok() { enough = middle } else { too_few = middle }
        }
        refused(fits(too_few));
        let (least, most) = (fits(enough).unwrap(), fits(100_000).unwrap());
        assert_eq!(least.graph.to_string(), most.graph.to_string());
        assert!(enough >= most.graph.n_nodes(), "{enough} for {}", most.graph.n_nodes());
    }
    // Operands count: a `concat` becomes a copy of each.
    refused(optimize(&read(&wide_concat(300)), &limited(250)));
}

/// What is made and merged with what is there takes time as well.
#[test]
fn work_that_leaves_no_nodes_counts() {
    // 300 calls of a body of 300 constants: nothing of it depends on the operand.
    let lines: String = (0..300).map(|k| format!("%{} = constant {{value = {k}.5}} : f32[]\n", k + 1)).collect();
    let sums: String =
        (301..600).map(|k| format!("%{k} = add %{}, %{}\n", if k == 301 { 1 } else { k - 1 }, k - 299)).collect();
    let body = format!("body 0 @b {{\n%0 = input \"x\" : f32[]\n{lines}{sums}output \"y\" = %599\n}}\n");
    let mut text = format!("cotangent 1\ngraph @merged {{\n{body}%0 = input \"x\" : f32[]\n");
    for k in 0..300 {
        text += &format!(
            "%{} = exp %{}\n%{} = call %{} {{body = body 0}}\noutput \"{k}\" = %{}\n",
            2 * k + 1,
            if k == 0 { 0 } else { 2 * k - 1 },
            2 * k + 2,
            2 * k + 1,
            2 * k + 2
        );
    }
    let source = read(&(text + "}\n"));
    refused(optimize(&source, &limited(50_000)));
    assert!(optimize(&source, &limited(1_000_000)).unwrap().graph.n_nodes() < 2000);
    // Each of 1,000 gradients searches the chain before it, and finds nothing.
    let found_nothing = graph(|g| {
        let (z, x) = (g.input("z", F32, []), g.input("x", F32, []));
        let mut y = x;
        for k in 0..1000 {
            y = y.tanh();
            g.output(&k.to_string(), g.grad(y, &[z])[0]);
        }
    });
    refused(optimize(&found_nothing, &limited(100_000)));
}

/// Bodies share what there is: many small ones do not come to more than one large one.
#[test]
fn the_limits_are_those_of_a_graph_with_all_its_bodies() {
    let inner = "%0 = input \"x\" : f32[]\n%1 = tanh %0\n%2 = grad %1, %0\n%3 = grad %2, %0\n%4 = grad %3, %0\n";
    let mut text = "cotangent 1\ngraph @bodies {\n%0 = input \"x\" : f32[]\n".to_owned();
    for k in 0..50 {
        let scaled = format!("%5 = constant {{value = {k}.5}} : f32[]\n%6 = mul %4, %5\n");
        text += &format!(
            "body {k} @b {{\n{inner}{scaled}output \"y\" = %6\n}}\n%{} = call %0 {{body = body {k}}}\noutput \"{k}\" = %{}\n",
            k + 1,
            k + 1
        );
    }
    let source = read(&(text + "}\n"));
    let only = |max_nodes| PassOptions { only: Some(vec!["differentiate".to_owned()]), ..limited(max_nodes) };
    refused(optimize(&source, &only(1500)));
    assert!(optimize(&source, &only(10_000)).is_ok());
}

#[test]
fn the_interpreter_and_the_gradient_check_end_within_the_limits() {
    for text in [nested_calls(15, 4), repeated_gradients(20)] {
        let source = read(&text);
        let env = Env { limits: Limits { max_nodes: 20_000 }, ..environment(&source, 3).unwrap() };
        assert_eq!(interpret(&source, &env).unwrap_err().code, Code::TooManyNodes);
        let wrt = Wrt::Named(vec!["x".to_owned()]);
        let options = GradCheck { wrt, limits: Limits { max_nodes: 20_000 }, ..GradCheck::default() };
        refused(check_gradients(&source, &options));
        // With every change validated: the validator sees the same graphs.
        let checked = PassOptions { limits: Limits { max_nodes: 20_000 }, ..PassOptions::checked(1) };
        refused(optimize(&source, &checked));
    }
    // Small ones pass.
    let source = read(&nested_calls(3, 3));
    assert_eq!(interpret(&source, &environment(&source, 3).unwrap()).unwrap().len(), 1);
    assert!(optimize(&source, &PassOptions::checked(1)).is_ok());
}

/// The rule of `max_pool` compares elements one after the other, each with what the ones before gave, which it reads twice.
#[test]
fn terms_of_a_rule_are_looked_at_once_however_often_they_are_read() {
    let source = cotangent_graph::build(|g| {
        let x = g.input("x", cotangent_graph::DType::F64, [16, 16]);
        let y = x.max_pool(&cotangent_graph::ops::windows::Windows::new([0, 1], &[8, 8])).sum();
        g.output("dx", g.grad(y, &[x])[0]);
    })
    .unwrap();
    let done = optimize(&source, &limited(1 << 16)).unwrap_or_else(|error| panic!("{error}"));
    assert!(done.graph.n_nodes() < 4096, "{}", done.graph.n_nodes());
}
