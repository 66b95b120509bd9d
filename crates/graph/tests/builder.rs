//! The builder's errors, bodies and calls, and the verifier on graphs that no builder makes.

use std::sync::Arc;

use cotangent_graph::attrs::{Attr, Attrs};
use cotangent_graph::interp::{interpret, interpret_named};
use cotangent_graph::ops::{arithmetic, region, source};
use cotangent_graph::{
    Code, DType, Diag, Env, Graph, GraphBuilder, Init, Inputs, Loc, NodeId, OpRef, Origin, Output, Role, Shape, Stage,
    TensorData, Type, build, verify,
};

const F32: DType = DType::F32;

/// The line of an error or note in this file.
fn line_of(loc: &Loc) -> u32 {
    match loc {
        Loc::Code(place) => {
            assert!(place.file().ends_with("tests/builder.rs"), "the error is said to be at {place}");
            place.line()
        }
        other => panic!("the error is said to be at {other}"),
    }
}

/// The only error of a graph.
#[track_caller]
fn only_error(f: impl FnOnce(&GraphBuilder)) -> Diag {
    let diags = build(f).expect_err("the graph has an error");
    assert_eq!(diags.0.len(), 1, "{diags}");
    diags.0[0].clone()
}

#[test]
fn shapes_and_element_types_must_fit() {
    let mut lines = (0, 0, 0);
    let diag = only_error(|g| {
        let a = g.input("a", F32, [2, 3]);
        lines.0 = line!() - 1;
        let b = g.input("b", F32, [2, 4]);
        lines.1 = line!() - 1;
        g.output("y", a + b);
        lines.2 = line!() - 1;
    });
    assert_eq!(diag.code, Code::ShapeMismatch);
    assert!(diag.message.contains("[2,3]") && diag.message.contains("[2,4]"), "{diag}");
    assert_eq!(line_of(&diag.at), lines.2);
    assert_eq!(diag.notes.iter().map(|n| line_of(&n.1)).collect::<Vec<_>>(), [lines.0, lines.1]);

    let diag = only_error(|g| {
        let mixed = g.input("a", F32, [2]) * g.input("b", DType::F64, [2]);
        g.output("y", mixed);
    });
    assert_eq!(diag.code, Code::DTypeMismatch);
    assert!(diag.help.is_some_and(|h| h.contains("cast")));

    type Mistake = (Code, fn(&GraphBuilder));
    let table: [Mistake; 18] = [
        (Code::ShapeMismatch, |g| g.output("y", g.input("a", F32, [2, 3]).matmul(g.input("b", F32, [2, 3])))),
        (Code::ShapeMismatch, |g| g.output("y", g.input("a", F32, [3]).matmul(g.input("b", F32, [3, 3])))),
        (Code::ShapeMismatch, |g| g.output("y", g.input("a", F32, [2, 3]).reshape([7]))),
        (Code::ShapeMismatch, |g| g.output("y", g.input("a", F32, [2]).broadcast_to([3]))),
        (Code::ShapeMismatch, |g| g.output("y", g.input("a", F32, [4]).slice(&[1], &[9]))),
        (Code::ShapeMismatch, |g| g.output("y", g.input("a", F32, [0]).mean())),
        (Code::ShapeMismatch, |g| {
            g.output("y", g.input("a", F32, [2, 3]).cross_entropy(g.input("b", DType::I64, [3])))
        }),
        (Code::ShapeMismatch, |g| {
            let parts = [g.input("a", F32, [2, 3]), g.input("b", F32, [3, 2])];
            g.output("y", g.concat(&parts, 0));
        }),
        (Code::BadAxis, |g| g.output("y", g.input("a", F32, [2, 3]).reduce_sum(&[2]))),
        (Code::BadAxis, |g| g.output("y", g.input("a", F32, [2, 3]).reduce_sum(&[1, 1]))),
        (Code::BadAxis, |g| g.output("y", g.input("a", F32, [2, 3]).transpose(&[0, 0]))),
        (Code::BadAxis, |g| g.output("y", g.input("a", F32, [2, 3]).softmax(2))),
        (Code::BadAxis, |g| g.output("y", g.iota(DType::I32, [2], 1))),
        (Code::BadAttribute, |g| g.output("y", g.input("a", F32, [2]).dropout("d", 1.0))),
        (Code::BadAttribute, |g| g.output("y", g.input("a", F32, [2]).dropout("d", f64::NAN))),
        (Code::DTypeMismatch, |g| g.output("y", g.input("a", DType::I32, [2]).exp())),
        (Code::DTypeMismatch, |g| g.output("y", g.input("a", F32, [2]).gather(g.input("b", F32, [2])))),
        (Code::NotDifferentiable, |g| {
            let x = g.input("a", F32, [2]);
            g.output("y", g.grad(x, &[x])[0]);
        }),
    ];
    for (k, (code, mistake)) in table.into_iter().enumerate() {
        let diag = only_error(mistake);
        assert_eq!(diag.code, code, "mistake {k}: {diag}");
        line_of(&diag.at);
    }
}

#[test]
fn tensors_of_other_graphs_are_refused() {
    let other = GraphBuilder::new("other");
    let stranger = other.input("x", F32, [2]);
    let made = line!() - 1;
    let mistakes: [&dyn Fn(&GraphBuilder); 4] = [
        &|g| g.output("y", g.input("x", F32, [2]) + stranger),
        &|g| g.output("y", stranger),
        &|g| g.update(g.param("w", F32, [2], Init::ZEROS), stranger),
        &|g| g.output("y", g.input("x", F32, [2, 2]).matmul(stranger)),
    ];
    for (k, mistake) in mistakes.into_iter().enumerate() {
        let builder = GraphBuilder::new("main");
        mistake(&builder);
        let builder_diags = builder.finish().expect_err("a foreign tensor is an error");
        let foreign = &builder_diags.0[0];
        assert_eq!(foreign.code, Code::ForeignTensor, "{k}: {builder_diags}");
        assert_eq!(line_of(&foreign.notes[0].1), made);
    }
}

#[test]
fn names_are_unique_and_sharing_is_asked_for() {
    let mut first = 0;
    let diag = only_error(|g| {
        let a = g.param("w", F32, [2], Init::ONES);
        first = line!() - 1;
        g.param("w", F32, [2], Init::ONES);
        g.output("y", a);
    });
    assert_eq!(diag.code, Code::DuplicateName);
    assert_eq!(line_of(&diag.notes[0].1), first);
    assert_eq!(line_of(&diag.at), first + 2);

    let diag = only_error(|g| {
        let x = g.input("x", F32, []);
        g.output("y", x);
        g.output("y", x);
    });
    assert_eq!(diag.code, Code::DuplicateName);

    let diag = only_error(|g| {
        let w = g.scope("layer", || g.param("weight", F32, [2], Init::ONES));
        g.output("y", w + g.shared("layer.wieght"));
    });
    assert_eq!(diag.code, Code::UnknownName);
    assert!(diag.help.is_some_and(|h| h.contains("`layer.weight`")));

    let graph = build(|g| {
        let w = g.scope("layer", || g.param("weight", F32, [2], Init::ONES));
        g.output("y", w + g.scope("layer", || g.shared("weight")));
        // Streams make room for each other instead, and scopes keep names apart.
        g.output("a", g.uniform("noise", F32, [2]) + g.uniform("noise", F32, [2]));
        g.output("b", g.scope("other", || g.param("weight", F32, [2], Init::ONES)));
    });
    let graph = graph.unwrap();
    assert_eq!(graph.nodes().iter().filter(|n| n.op.name == "param").count(), 2);
    assert_eq!(graph.nodes().iter().filter(|n| n.op.name == "rng").count(), 2);
}

#[test]
fn sizes_are_checked() {
    let large = 1usize << 33;
    let diag = only_error(|g| g.output("y", g.input("x", F32, [large, large])));
    assert_eq!(diag.code, Code::TooLarge);
    let diag = only_error(|g| g.output("y", g.input("x", F32, []).broadcast_to([large, large])));
    assert_eq!(diag.code, Code::TooLarge);
    let diag = only_error(|g| g.output("y", g.input("x", F32, [0, large, large])));
    assert_eq!(diag.code, Code::TooLarge);
    let diag = only_error(|g| g.output("y", g.input("x", F32, [2]).pad(&[usize::MAX / 2], &[usize::MAX / 2], 0.0)));
    assert_eq!(diag.code, Code::TooLarge);
    let diag = only_error(|g| g.output("y", g.input("x", F32, vec![1; 33])));
    assert_eq!(diag.code, Code::TooLarge);
    assert_eq!(Shape::new(&[usize::MAX, 2]).checked_elements(), None);
    assert_eq!(Shape::new(&[0, 5]).checked_elements(), Some(0));
    assert_eq!(Shape::default().checked_elements(), Some(1));
}

#[test]
fn all_errors_come_at_once_and_do_not_cascade() {
    let mut lines = Vec::new();
    let diags = build(|g| {
        let x = g.input("x", F32, [2, 3]);
        let bad = x + g.input("y", F32, [5]);
        lines.push(line!() - 1);
        // Nothing that follows from a mistake is a mistake.
        let worse = (bad * 2.0f64).matmul(bad).softmax(7).reshape([1]).sum();
        g.output("a", worse);
        g.update(g.param("w", F32, [2], Init::ZEROS), worse);
        g.grad(worse, &[bad]).into_iter().for_each(|d| g.output("d", d));
        g.output("b", x.reduce_max(&[9]));
        lines.push(line!() - 1);
        g.update(x, x);
        lines.push(line!() - 1);
        g.output("c", g.shared("nothing"));
        lines.push(line!() - 1);
    });
    let diags = diags.expect_err("there are mistakes");
    let codes: Vec<Code> = diags.0.iter().map(|d| d.code).collect();
    assert_eq!(codes, [Code::ShapeMismatch, Code::BadAxis, Code::BadUpdate, Code::UnknownName], "{diags}");
    assert_eq!(diags.0.iter().map(|d| line_of(&d.at)).collect::<Vec<_>>(), lines);
}

#[test]
fn updates_must_fit_and_graphs_need_outputs() {
    assert_eq!(only_error(|_| {}).code, Code::NoOutputs);
    let diag = only_error(|g| g.update(g.param("w", F32, [2], Init::ZEROS), g.input("x", F32, [3])));
    assert_eq!(diag.code, Code::BadUpdate);
    let diag = only_error(|g| {
        let w = g.state("w", F32, [2], Init::ZEROS);
        g.update(w, w * 2.0);
        g.update(w, w * 3.0);
    });
    assert_eq!(diag.code, Code::BadUpdate);
    let diag = only_error(|g| {
        let x = g.input("x", F32, [2]);
        g.update(x + 1.0, x);
    });
    assert_eq!(diag.code, Code::BadUpdate);
}

#[test]
fn a_tuple_is_no_result() {
    let diag = only_error(|g| {
        let x = g.input("x", F32, [2]);
        g.output("pair", g.op(&cotangent_graph::ops::region::TUPLE, &[x, -x], Attrs::none(), None));
    });
    assert_eq!(diag.code, Code::BadUpdate);
    assert!(diag.to_string().contains("`item`"), "{diag}");
}

#[test]
fn equal_nodes_are_one_and_remember_both_lines() {
    let builder = GraphBuilder::new("main");
    let x = builder.input("x", F32, [2]);
    let a = x.tanh();
    let b = x.tanh();
    assert_eq!(a.id(), b.id());
    let lines: Vec<u32> = builder.with_graph(|g| g.node(a.id()).origin.lines.iter().map(line_of).collect());
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0] + 1, lines[1]);
    let (zero, minus) = (builder.scalar(0.0, F32), builder.scalar(-0.0, F32));
    assert_ne!(zero.id(), minus.id(), "constants are equal by bits");
}

// ---- bodies ------------------------------------------------------------------------------------------------------

#[test]
fn calls_compute_what_their_bodies_say() {
    let graph = build(|g| {
        let x = g.input("x", F32, [2]);
        let body = g.body("sum_and_product", &[x.ty(), x.ty()], |g, v| {
            let inner = g.body("double", &[v[0].ty()], |_, v| vec![v[0] * 2.0]);
            vec![v[0] + v[1], g.call(&inner, &[v[0] * v[1]])[0]]
        });
        let first = g.call(&body, &[x, x * 3.0]);
        let second = g.call(&body, &[x, x * 3.0]);
        assert_eq!(first[0].id(), second[0].id(), "equal calls are one");
        g.output("sum", first[0]);
        g.output("product", first[1]);
    });
    let graph = graph.unwrap();
    assert_eq!(graph.bodies().len(), 1);
    assert_eq!(verify(&graph, Stage::Source), Vec::<String>::new());
    let x = TensorData::from_bits(F32, &[2].into(), &[2f32, -1.0].map(|v| u64::from(v.to_bits())));
    let values = interpret_named(&graph, &Env::default().with("x", x)).unwrap();
    assert_eq!(values[0].1.to_f64(), [8.0, -4.0]);
    assert_eq!(values[1].1.to_f64(), [24.0, 6.0]);
}

#[test]
fn bodies_are_closed_and_fit_their_operands() {
    let diag = only_error(|g| {
        let body = g.body("b", &[], |g, _| vec![g.param("w", F32, [2], Init::ONES)]);
        g.output("y", g.call(&body, &[])[0]);
    });
    assert_eq!(diag.code, Code::BadBody);
    let diag = only_error(|g| {
        let x = g.input("x", F32, [2]);
        let body = g.body("b", &[x.ty()], |_, v| vec![v[0].exp()]);
        g.output("y", g.call(&body, &[x, x])[0]);
    });
    assert_eq!(diag.code, Code::BadBody);
    let diag = only_error(|g| {
        let x = g.input("x", F32, [2]);
        let body = g.body("b", &[x.ty()], |_, v| vec![v[0].reshape([3])]);
        g.output("y", g.call(&body, &[x])[0]);
    });
    assert_eq!(diag.code, Code::ShapeMismatch);
    assert_eq!(line_of(&diag.at), line!() - 4);
}

#[test]
fn a_step_without_a_value_is_an_error() {
    let graph = build(|g| g.output("y", g.input("x", F32, [2]).exp())).unwrap();
    assert_eq!(interpret(&graph, &Env::default()).unwrap_err().code, Code::InputNames);
    let env = Env::default().with("x", 1f32);
    assert_eq!(interpret(&graph, &env).unwrap_err().code, Code::InputType);
}

// ---- the verifier ------------------------------------------------------------------------------------------------

/// A graph with `x: f32[2]` as node 0 and one more node, which need not be right, as its output.
fn with_node(op: OpRef, inputs: &[u32], attrs: Attrs, ty: Type) -> Graph {
    let mut graph = with_input();
    let inputs: Inputs = inputs.iter().map(|&i| NodeId(i)).collect();
    let value = graph.add(op, inputs, attrs, ty, Origin::default());
    graph.add_output(Output { name: "y".into(), value, role: Role::Result });
    graph
}

fn with_input() -> Graph {
    let mut graph = Graph::new("broken");
    let attrs = Attrs::none().with("name", "x");
    graph.add(OpRef(&source::INPUT), Inputs::new(), attrs, Type::tensor(F32, [2]), Origin::default());
    graph
}

#[track_caller]
fn expect_error(graph: &Graph, stage: Stage, part: &str) {
    let errors = verify(graph, stage);
    assert!(errors.iter().any(|e| e.contains(part)), "no error with `{part}` in {errors:?}");
}

#[test]
fn the_verifier_finds_what_is_broken() {
    let (two, three) = (Type::tensor(F32, [2]), Type::tensor(F32, [3]));
    let neg = OpRef(&arithmetic::NEG);
    let fine = with_node(neg, &[0], Attrs::none(), two.clone());
    assert_eq!(verify(&fine, Stage::Primitive), Vec::<String>::new());

    expect_error(&with_node(neg, &[0], Attrs::none(), three.clone()), Stage::Source, "is inferred");
    expect_error(&with_node(neg, &[0, 0], Attrs::none(), two.clone()), Stage::Source, "requires 1 operands, got 2");
    expect_error(&with_node(neg, &[0], Attrs::none().with("axis", 1), two.clone()), Stage::Source, "not `axis`");
    let sum = cotangent_graph::Registry::builtin().get("reduce_sum").unwrap();
    expect_error(&with_node(sum, &[0], Attrs::none(), Type::tensor(F32, [])), Stage::Source, "`axes` is missing");
    let wrong_kind = Attrs::none().with("axes", 0);
    expect_error(&with_node(sum, &[0], wrong_kind, Type::tensor(F32, [])), Stage::Source, "requires Ints");
    let negative = Attrs::none().with("axes", Attr::Ints([-1].into_iter().collect()));
    expect_error(&with_node(sum, &[0], negative, Type::tensor(F32, [])), Stage::Source, "axes below 1");

    let call = Attrs::none().with("body", cotangent_graph::BodyId(7));
    expect_error(&with_node(OpRef(&region::CALL), &[0], call, two.clone()), Stage::Source, "does not exist");
    let twin = with_node(OpRef(&source::INPUT), &[], Attrs::none().with("name", "x"), two.clone());
    expect_error(&twin, Stage::Source, "used twice");

    // Stages.
    let softmax = cotangent_graph::Registry::builtin().get("softmax").unwrap();
    let composite = with_node(softmax, &[0], Attrs::none().with("axis", 0), two.clone());
    assert_eq!(verify(&composite, Stage::Differentiated), Vec::<String>::new());
    expect_error(&composite, Stage::Primitive, "composite");
    let scalar = build(|g| {
        let x = g.input("x", F32, []);
        g.output("d", g.grad(x.exp(), &[x])[0]);
    });
    expect_error(&scalar.unwrap(), Stage::Differentiated, "`grad` after differentiation");
}

#[test]
fn the_verifier_checks_outputs_and_bodies() {
    let result = |name: &str, value: u32| Output { name: name.into(), value: NodeId(value), role: Role::Result };
    let mut graph = with_input();
    graph.add_output(result("y", 5));
    expect_error(&graph, Stage::Source, "does not exist");
    let mut graph = with_input();
    graph.add_output(result("y", 0));
    graph.add_output(result("y", 0));
    expect_error(&graph, Stage::Source, "used twice");

    let mut graph = with_input();
    let attrs = Attrs::none().with("name", "w").with("init", Init::ZEROS);
    let w = graph.add(OpRef(&source::PARAM), Inputs::new(), attrs, Type::tensor(F32, [3]), Origin::default());
    let update = |value: NodeId, target: NodeId| Output { name: "w".into(), value, role: Role::Update(target) };
    graph.add_output(update(NodeId(0), w));
    expect_error(&graph, Stage::Source, "updates f32[3] with f32[2]");
    graph.add_output(update(w, w));
    expect_error(&graph, Stage::Source, "updated twice");
    graph.add_output(update(w, NodeId(0)));
    expect_error(&graph, Stage::Source, "not a parameter or state");
    graph.add_output(update(w, NodeId(9)));
    expect_error(&graph, Stage::Source, "target does not exist");

    let mut open = Graph::new("open");
    let attrs = Attrs::none().with("name", "w").with("init", Init::ZEROS);
    let w = open.add(OpRef(&source::PARAM), Inputs::new(), attrs, Type::tensor(F32, [3]), Origin::default());
    open.add_output(Output { name: "0".into(), value: w, role: Role::Result });
    let mut graph = with_input();
    graph.add_body(Arc::new(open));
    graph.add_output(result("y", 0));
    expect_error(&graph, Stage::Source, "in body @open");
}

#[test]
fn equal_bodies_are_one() {
    let body = |scale: f64| {
        let builder = GraphBuilder::new("b");
        builder.output("0", builder.input("0", F32, [2]) * scale);
        Arc::new(builder.finish().unwrap())
    };
    let mut graph = Graph::new("main");
    let (a, b, c) = (graph.add_body(body(2.0)), graph.add_body(body(2.0)), graph.add_body(body(3.0)));
    assert_eq!(a, b);
    assert_ne!(a, c);
    assert_eq!(graph.bodies().len(), 2);
}
