//! The builder's errors, bodies and calls, and the verifier on graphs that no builder makes.

use std::sync::Arc;

use cotangent_graph::attrs::{Attr, AttrKind, AttrSpec, Attrs};
use cotangent_graph::interp::{interpret, interpret_named};
use cotangent_graph::ops::{arithmetic, math, region, source};
use cotangent_graph::{
    Body, Code, DType, Diag, Env, Graph, GraphBuilder, Init, Inputs, Loc, NodeId, OpDef, OpRef, Origin, Output,
    Registry, Role, Shape, Source, Stage, Tensor, TensorData, Type, build, verify,
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
        (Code::BadAxis, |g| g.output("y", g.input("a", F32, [2, 3]).sum_over([2]))),
        (Code::BadAxis, |g| g.output("y", g.input("a", F32, [2, 3]).sum_over([1, 1]))),
        (Code::BadAxis, |g| g.output("y", g.input("a", F32, [2, 3]).transpose([0, 0]))),
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
    assert_eq!(graph.params().count(), 2);
    assert_eq!(graph.nodes().iter().filter(|n| n.is(&source::RNG)).count(), 2);
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
        g.output("b", x.max_over([9]));
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
    let value = graph.add(op, inputs, attrs, ty, Origin::default()).unwrap();
    graph.add_output(Output { name: "y".into(), value, role: Role::Result }).unwrap();
    graph
}

fn with_input() -> Graph {
    let mut graph = Graph::new("broken");
    let attrs = Attrs::none().with("name", "x");
    graph.add(OpRef(&source::INPUT), Inputs::new(), attrs, Type::tensor(F32, [2]), Origin::default()).unwrap();
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
    expect_error(
        &with_node(sum, &[0], negative, Type::tensor(F32, [])),
        Stage::Source,
        "ascending axes of a tensor of shape [2]",
    );

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
    graph.add_output(result("y", 0)).unwrap();
    graph.add_output(result("y", 0)).unwrap();
    expect_error(&graph, Stage::Source, "used twice");

    let mut graph = with_input();
    let attrs = Attrs::none().with("name", "w").with("init", Init::ZEROS);
    let w = graph.add(OpRef(&source::PARAM), Inputs::new(), attrs, Type::tensor(F32, [3]), Origin::default()).unwrap();
    let update = |value: NodeId, target: NodeId| Output { name: "w".into(), value, role: Role::Update(target) };
    graph.add_output(update(NodeId(0), w)).unwrap();
    expect_error(&graph, Stage::Source, "updates f32[3] with f32[2]");
    graph.add_output(update(w, w)).unwrap();
    expect_error(&graph, Stage::Source, "updated twice");
    graph.add_output(update(w, NodeId(0))).unwrap();
    expect_error(&graph, Stage::Source, "not a parameter or state");

    let mut open = Graph::new("open");
    let attrs = Attrs::none().with("name", "w").with("init", Init::ZEROS);
    let w = open.add(OpRef(&source::PARAM), Inputs::new(), attrs, Type::tensor(F32, [3]), Origin::default()).unwrap();
    open.add_output(Output { name: "0".into(), value: w, role: Role::Result }).unwrap();
    let mut graph = with_input();
    graph.add_body(Arc::new(open)).unwrap();
    graph.add_output(result("y", 0)).unwrap();
    expect_error(&graph, Stage::Source, "in body @open");
}

/// What no graph takes, so that nothing that has a graph need fear it: each is an error where it is added, and the builder
/// keeps it for `finish`.
#[test]
fn a_graph_refuses_what_would_make_it_unsound() {
    let (neg, two) = (OpRef(&arithmetic::NEG), || Type::tensor(F32, [2]));
    let mut graph = with_input();
    let mut refused = |op: OpRef, inputs: &[u32], attrs: Attrs, ty: Type| {
        let inputs: Inputs = inputs.iter().map(|&i| NodeId(i)).collect();
        let n_nodes = graph.n_nodes();
        let fault = graph.add(op, inputs, attrs, ty, Origin::default()).unwrap_err();
        assert_eq!(graph.n_nodes(), n_nodes);
        fault.code
    };
    assert_eq!(refused(neg, &[1], Attrs::none(), two()), Code::UnknownName, "an operand that is not there yet");
    assert_eq!(refused(neg, &[u32::MAX], Attrs::none(), two()), Code::UnknownName);
    let call = |body: u32| Attrs::none().with("body", cotangent_graph::BodyId(body));
    assert_eq!(refused(OpRef(&region::CALL), &[0], call(0), two()), Code::UnknownName);
    let axis = Attrs::none().with("axis", 0);
    for shape in [vec![1 << 61], vec![1 << 32, 1 << 32], vec![0, usize::MAX, 2], vec![1; 33]] {
        let ty = Type::tensor(DType::I64, shape);
        assert_eq!(refused(OpRef(&source::IOTA), &[], axis.clone(), ty.clone()), Code::TooLarge, "{ty}");
        // What is larger than any tensor has no wrong size either.
        assert!(ty.n_bytes() == usize::MAX || ty.n_bytes() <= 8, "{}", ty.n_bytes());
    }
    let deep = (0..17).fold(two(), |ty, _| Type::Tuple(vec![ty]));
    assert_eq!(refused(neg, &[0], Attrs::none(), deep), Code::TooLarge);
    let wide = Type::Tuple(vec![two(); 1 << 16]);
    assert_eq!(refused(neg, &[0], Attrs::none(), wide), Code::TooLarge);
    let result = |value: u32, role: Role| Output { name: "y".into(), value: NodeId(value), role };
    assert_eq!(graph.add_output(result(5, Role::Result)).unwrap_err().code, Code::UnknownName);
    assert_eq!(graph.add_output(result(0, Role::Update(NodeId(9)))).unwrap_err().code, Code::UnknownName);

    let diags = build(|g| {
        let x = g.input("x", F32, [2]);
        let ids = |ids: &[u32]| ids.iter().map(|&i| NodeId(i)).collect::<Inputs>();
        let dangling = g.push_node(neg, ids(&[7]), Attrs::none(), two(), Origin::default());
        assert!(dangling.is_poisoned() && g.tensor(NodeId(7)).is_poisoned());
        g.push_output(result(9, Role::Result));
        g.output("y", x);
    });
    let codes: Vec<Code> = diags.unwrap_err().0.iter().map(|diag| diag.code).collect();
    assert_eq!(codes, [Code::UnknownName; 3]);
}

/// Whatever the verifier says of a graph, reading, printing and interpreting it is no panic.
#[test]
fn an_ill_formed_graph_is_an_error_of_whoever_reads_it() {
    let (neg, three) = (OpRef(&arithmetic::NEG), Type::tensor(F32, [3]));
    let env = Env::default().with("x", TensorData::zeros(F32, &[2].into()));
    let no_operands = with_node(neg, &[], Attrs::none(), three.clone());
    let no_attributes = with_node(OpRef(&source::CONSTANT), &[], Attrs::none(), three.clone());
    let no_name = with_node(OpRef(&source::PARAM), &[], Attrs::none(), three.clone());
    for graph in [with_node(neg, &[0], Attrs::none(), three), no_operands, no_attributes, no_name] {
        assert!(graph.to_string().starts_with("cotangent"));
        assert_eq!(graph.well_formed().unwrap_err().code, Code::IllFormed);
        assert_eq!(interpret(&graph, &env).unwrap_err().code, Code::IllFormed);
        assert_eq!(cotangent_graph::samples::environment(&graph, 1).unwrap().values["x"].ty().n_bytes(), 8);
    }
}

/// Identity is the record: a name, attributes of certain names, or the properties that an op claims make no other op of it.
#[test]
fn ops_from_outside_are_registered_or_refused() {
    const fn op(name: &'static str, attrs: &'static [AttrSpec]) -> OpDef {
        let plain = arithmetic::pointwise(
            name,
            "A test.",
            1,
            cotangent_graph::OpTraits::NONE,
            cotangent_graph::ops::infer_float,
            |_, v, _| v[0],
            cotangent_graph::Vjp::Zero("a test"),
            |_| Vec::new(),
        );
        OpDef { attrs, ..plain }
    }
    const NAME: AttrSpec = AttrSpec { name: "name", kind: AttrKind::Str, doc: "" };
    const INIT: AttrSpec = AttrSpec { name: "init", kind: AttrKind::Init, doc: "" };
    const VALUE: AttrSpec = AttrSpec { name: "value", kind: AttrKind::Tensor, doc: "" };
    static GOOD: OpDef = op("good", &[]);
    static INPUT: OpDef = op("input", &[]);
    static SECOND: OpDef = op("good", &[]);
    static BLANK: OpDef = op("two words", &[]);
    static TWINS: OpDef = op("twins", &[NAME, NAME]);
    static LIKE_PARAM: OpDef = op("like_param", &[NAME, INIT]);
    static LIKE_CONSTANT: OpDef = op("like_constant", &[VALUE]);
    static SOURCE: OpDef = OpDef { lower: cotangent_graph::Lower::Source(Source::Param), ..op("source", &[]) };
    static PRODUCT: OpDef = OpDef { lower: cotangent_graph::Lower::Gemm, ..op("product", &[]) };

    let registry = Registry::builtin().with(&GOOD).unwrap();
    assert!(registry.clone().with(&GOOD).unwrap().contains(OpRef(&GOOD)), "once more is no other op");
    let code = |op: &'static OpDef| registry.clone().with(op).unwrap_err().code;
    assert_eq!([code(&INPUT), code(&SECOND)], [Code::DuplicateName; 2]);
    assert_eq!([code(&BLANK), code(&TWINS)], [Code::BadAttribute; 2]);
    assert_eq!([code(&SOURCE), code(&PRODUCT)], [Code::Unsupported; 2]);

    // Used without being known, by every way into a graph.
    for op in [&GOOD, &INPUT, &SOURCE] {
        let diag = only_error(|g| g.output("y", g.input("x", F32, [2]).unary(op)));
        assert_eq!(diag.code, Code::UnknownOp, "{diag}");
        assert!(diag.help.is_some_and(|help| help.contains("register")));
        let diag = only_error(|g| {
            let inputs = [g.input("x", F32, [2]).id()].into_iter().collect();
            g.output("y", g.push_node(OpRef(op), inputs, Attrs::none(), Type::tensor(F32, [2]), Origin::default()));
        });
        assert_eq!(diag.code, Code::UnknownOp, "{diag}");
    }

    // A body brings its ops along, unless their names are taken by others.
    let body_of = |op: &'static OpDef| {
        let builder = GraphBuilder::new("b");
        builder.register(op);
        builder.output("0", builder.input("0", F32, [2]).unary(op));
        Body::from(Arc::new(builder.finish().unwrap()))
    };
    let graph = build(|g| g.output("y", g.call(&body_of(&GOOD), &[g.input("x", F32, [2])])[0])).unwrap();
    assert!(graph.registry().contains(OpRef(&GOOD)));
    let diag = only_error(|g| {
        g.register(&GOOD);
        g.output("y", g.call(&body_of(&SECOND), &[g.input("x", F32, [2])])[0]);
    });
    assert_eq!(diag.code, Code::DuplicateName);

    // What a node is, its record says.
    let graph = build(|g| {
        g.register(&LIKE_PARAM);
        g.register(&LIKE_CONSTANT);
        let x = g.input("x", F32, [2]);
        let attrs = Attrs::none().with("name", "w").with("init", Init::ONES);
        let w = x.unary_with(&LIKE_PARAM, attrs);
        let c = x.unary_with(&LIKE_CONSTANT, Attrs::none().with("value", TensorData::scalar(F32, 7.0)));
        g.output("y", w + c);
    });
    let graph = graph.unwrap();
    assert_eq!((graph.inputs().count(), graph.stored().count(), graph.source("w")), (1, 0, None));
    assert!(graph.nodes().iter().all(|node| node.constant().is_none() && node.init().is_none()));
    let x = TensorData::from_bits(F32, &[2].into(), &[1f32, 2.0].map(|v| u64::from(v.to_bits())));
    assert_eq!(interpret(&graph, &Env::default().with("x", x)).unwrap()[0].to_f64(), [2.0, 4.0]);
}

#[test]
fn equal_bodies_are_one() {
    let body = |scale: f64| {
        let builder = GraphBuilder::new("b");
        builder.output("0", builder.input("0", F32, [2]) * scale);
        Arc::new(builder.finish().unwrap())
    };
    let mut graph = Graph::new("main");
    let [a, b, c] = [2.0, 2.0, 3.0].map(|scale| graph.add_body(body(scale)).unwrap());
    assert_eq!(a, b);
    assert_ne!(a, c);
    assert_eq!(graph.bodies().len(), 2);
}

#[test]
fn what_is_made_in_a_shared_scope_is_made_once() {
    let layer = |x: &Tensor<'_>, n: usize| {
        let g = x.builder();
        let n_in = x.dim(-1);
        let (w, b) = (g.param("weight", F32, [n_in, n], Init::ONES), g.state("shift", F32, [n], Init::ZEROS));
        (w.id(), b.id())
    };
    let graph = build(|g| {
        let x = g.input("x", F32, [2, 3]);
        let [first, second] = [0; 2].map(|_| g.shared_scope("a", || g.scope("b", || layer(&x, 4))));
        assert_eq!(first, second);
        // What was made in a plain scope may be shared later on, and the other way round it is a mistake as ever.
        g.scope("c", || layer(&x, 4));
        g.shared_scope("c", || layer(&x, 4));
        g.output("y", g.shared("a.b.weight").sum() + g.shared("c.weight").sum() + g.shared("a.b.shift").sum());
    })
    .unwrap();
    assert_eq!((graph.params().count(), graph.stored().count()), (2, 4));

    let messages = |f: &dyn Fn(&GraphBuilder)| build(f).unwrap_err().to_string();
    let differs = messages(&|g| {
        g.shared_scope("a", || g.param("w", F32, [2], Init::ONES));
        g.shared_scope("a", || g.param("w", F32, [3], Init::ONES));
        g.shared_scope("a", || g.param("w", F32, [2], Init::ZEROS));
        g.shared_scope("a", || g.state("w", F32, [2], Init::ONES));
    });
    for text in
        ["`a.w` is shared", "f32[2]", "got a param f32[3]", "that starts as", "got a state f32[2]", "first used"]
    {
        assert!(differs.contains(text), "{text}: {differs}");
    }
    let again = messages(&|g| {
        g.shared_scope("a", || g.param("w", F32, [2], Init::ONES));
        g.scope("a", || g.param("w", F32, [2], Init::ONES));
    });
    assert!(again.contains("already used") && again.contains("shared_scope"), "{again}");
    // Inputs are given, not made: two of a name are a mistake.
    let inputs = messages(&|g| {
        g.shared_scope("a", || g.input("x", F32, [2]));
        g.shared_scope("a", || g.input("x", F32, [2]));
    });
    assert!(inputs.contains("`a.x` is already used"), "{inputs}");
}

#[test]
fn nodes_remember_their_scope() {
    let graph = build(|g| {
        let x = g.input("x", F32, [2]);
        let deep = g.scope("block", || {
            let outer = g.enter("up");
            let up = x.exp();
            g.leave(outer);
            (up, g.scope("down", || x.tanh() + x.sin()), x.sqrt())
        });
        // An equal node of another layer of the block is the same node, and of the block; beside a node of none it stays where it is.
        let shared = g.scope("block", || g.scope("gate", || x.sin()));
        g.output("y", deep.0 + deep.1 + deep.2 + shared + x.tanh());
    });
    let graph = graph.unwrap();
    let scope = |op| graph.nodes().iter().find(|node| node.is(op)).unwrap().origin.scope.as_deref();
    let ops = [&source::INPUT, &math::EXP, &math::TANH, &math::SIN, &math::SQRT].map(scope);
    assert_eq!(ops, [None, Some("block.up"), Some("block.down"), Some("block"), Some("block")]);
    assert_eq!(graph.nodes().last().unwrap().origin.scope, None);
}
