//! Ops from outside whose records are wrong, or posed to harm: whatever a record says, building, interpreting, compiling and
//! running a graph with it ends in an error that names the op, or does what the record means; nothing panics, and nothing
//! reads or writes memory that is not the program's.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cotangent::graph::interp::interpret;
use cotangent::graph::op::{Cotangents, ExpandCx, Lower, OpDef, OpTraits, Vjp, VjpCx};
use cotangent::graph::ops::arithmetic::{one, pointwise};
use cotangent::graph::ops::infer_float;
use cotangent::graph::{AttrKind, AttrSpec, Attrs, Env, NodeId, OpRef, eval};
use cotangent::prelude::*;
use cotangent::scalar::{BodyBuilder, ValueId};
use ndarray::array;

/// A sound op: the square root of what its operand says.
const fn sound(name: &'static str) -> OpDef {
    pointwise(
        name,
        "A test.",
        1,
        OpTraits::NONE,
        infer_float,
        |s, v, _| s.sqrt(v[0]),
        Vjp::Rule(|cx| [Some(cx.dy)].into_iter().collect()),
        one,
    )
}

/// An op with a scalar program.
const fn scalar(
    name: &'static str,
    program: fn(&mut BodyBuilder, &[ValueId], &cotangent::graph::op::ScalarCx<'_>) -> ValueId,
) -> OpDef {
    OpDef { lower: Lower::Scalar(program), ..sound(name) }
}

/// A composite.
const fn composite(
    name: &'static str,
    expand: for<'g, 'a> fn(&ExpandCx<'g, 'a>) -> smallvec::SmallVec<[Tensor<'g>; 1]>,
) -> OpDef {
    OpDef { lower: Lower::Expand(expand), eval: eval::unbound, vjp: Vjp::ViaExpansion, ..sound(name) }
}

/// An op with a derivative rule.
const fn derived(name: &'static str, rule: for<'g, 'a> fn(&VjpCx<'g, 'a>) -> Cotangents<'g>) -> OpDef {
    OpDef { vjp: Vjp::Rule(rule), ..sound(name) }
}

/// A tensor of a graph that nobody builds.
fn foreign<'g>() -> Tensor<'g> {
    let builder: &'static GraphBuilder = Box::leak(Box::new(GraphBuilder::new("another")));
    builder.input("x", F32, [3])
}

static OTHER_DTYPE: OpDef = scalar("other_dtype", |s, v, _| s.lt(v[0], v[0]));
static NO_VALUE: OpDef = scalar("no_value", |_, _, _| ValueId(99));
static OTHERS_INPUT: OpDef = scalar("others_input", |s, _, cx| s.input(7, cx.dtype));
static OTHERS_TYPE: OpDef = scalar("others_type", |s, _, _| {
    let wide = s.input(0, F64);
    s.cast(wide, F32)
});
static REPLACES_THE_BODY: OpDef = scalar("replaces_the_body", |s, v, _| {
    *s = BodyBuilder::new();
    v[0]
});
static ILL_TYPED: OpDef = scalar("ill_typed", |s, v, _| {
    let truth = s.lt(v[0], v[0]);
    let sum = s.combine(cotangent::scalar::ReduceOp::Sum, truth, truth);
    s.cast(sum, F32)
});
static PANICS: OpDef = scalar("panics", |_, _, _| panic!("on purpose"));
static LONG: OpDef = scalar("long", |s, v, _| {
    (0..5000).fold(v[0], |sum, k| {
        let c = s.like(f64::from(k), v[0]);
        s.fma(sum, v[0], c)
    })
});
static CHANGES_ITS_MIND: OpDef = scalar("changes_its_mind", |s, v, _| {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    if CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { v[0] } else { s.lt(v[0], v[0]) }
});

static EXPANDS_TO_NOTHING: OpDef = composite("expands_to_nothing", |_| [].into_iter().collect());
static EXPANDS_TO_TWO: OpDef = composite("expands_to_two", |cx| [cx.inputs[0], cx.inputs[0]].into_iter().collect());
static EXPANDS_TO_ANOTHER_TYPE: OpDef =
    composite("expands_to_another_type", |cx| [cx.inputs[0].sum()].into_iter().collect());
static EXPANDS_TO_POISON: OpDef = composite("expands_to_poison", |cx| [cx.builder.poisoned()].into_iter().collect());
static EXPANDS_ELSEWHERE: OpDef = composite("expands_elsewhere", |_| [foreign()].into_iter().collect());
static EXPANDS_TO_NO_NODE: OpDef =
    composite("expands_to_no_node", |cx| [cx.builder.tensor(NodeId(1 << 20))].into_iter().collect());
static EXPANDS_ILL_TYPED: OpDef =
    composite("expands_ill_typed", |cx| [cx.inputs[0].reshape([7])].into_iter().collect());
static EXPANDS_TO_ITSELF: OpDef = composite("expands_to_itself", |cx| {
    cx.builder.register(&EXPANDS_TO_ITSELF);
    [cx.inputs[0].unary(&EXPANDS_TO_ITSELF)].into_iter().collect()
});
static EXPANDS_TO_THE_UNKNOWN: OpDef =
    composite("expands_to_the_unknown", |cx| [cx.inputs[0].unary(&OTHER_DTYPE)].into_iter().collect());
static SMUGGLES_AN_INPUT: OpDef =
    composite("smuggles_an_input", |cx| [cx.builder.input("smuggled", F32, [3])].into_iter().collect());
static SMUGGLES_A_PARAM: OpDef =
    composite("smuggles_a_param", |cx| [cx.builder.param("w", F32, [3], Init::ONES)].into_iter().collect());
static SMUGGLES_AN_OUTPUT: OpDef = composite("smuggles_an_output", |cx| {
    cx.builder.output("smuggled", cx.inputs[0]);
    [cx.inputs[0]].into_iter().collect()
});

static DROPS_CHECKS: OpDef = composite("drops_checks", |cx| {
    let checks = cx.builder.with_graph(|graph| graph.checks().to_vec());
    checks.into_iter().for_each(|check| cx.builder.drop_check(cx.builder.tensor(check)));
    [cx.inputs[0]].into_iter().collect()
});

static TOO_FEW_COTANGENTS: OpDef = derived("too_few_cotangents", |_| Cotangents::new());
static TOO_MANY_COTANGENTS: OpDef =
    derived("too_many_cotangents", |cx| [Some(cx.dy), Some(cx.dy)].into_iter().collect());
static GRADIENT_OF_ANOTHER_TYPE: OpDef =
    derived("gradient_of_another_type", |cx| [Some(cx.dy.sum())].into_iter().collect());
static FOREIGN_COTANGENT: OpDef = derived("foreign_cotangent", |_| [Some(foreign())].into_iter().collect());
static RULE_PANICS: OpDef = derived("rule_panics", |_| panic!("on purpose"));
static POISONED_COTANGENT: OpDef =
    derived("poisoned_cotangent", |cx| [Some(cx.dy.builder().poisoned())].into_iter().collect());

static INFERS_A_SCALAR: OpDef = OpDef { infer: |_| Ok(Type::tensor(F32, [])), ..sound("infers_a_scalar") };
static INFERS_MUCH: OpDef = OpDef { infer: |_| Ok(Type::tensor(F32, [1 << 20])), ..sound("infers_much") };
static INFERS_A_TUPLE: OpDef =
    OpDef { infer: |cx| Ok(Type::Tuple(vec![cx.inputs[0].clone()])), ..sound("infers_a_tuple") };
static INFERS_TOO_MUCH: OpDef = OpDef {
    infer: |_| Ok(Type::tensor(F32, [1 << 40, 1 << 40])),
    ..composite("infers_too_much", |cx| [cx.inputs[0]].into_iter().collect())
};
static EVALUATES_TO_ANOTHER_TYPE: OpDef =
    OpDef { eval: |_, _| Ok(TensorData::zeros(I64, &[5].into())), ..sound("evaluates_to_another_type") };
static INFER_PANICS: OpDef = OpDef { infer: |_| panic!("on purpose"), ..sound("infer_panics") };
static INFER_PANICS_LATER: OpDef = OpDef {
    infer: |cx| {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let n = CALLS.fetch_add(1, Ordering::Relaxed);
        if n.is_multiple_of(3) { Ok(cx.inputs[0].clone()) } else { panic!("on purpose") }
    },
    ..sound("infer_panics_later")
};
static INFERS_NOW_THIS_NOW_THAT: OpDef = OpDef {
    infer: |cx| {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let n = CALLS.fetch_add(1, Ordering::Relaxed);
        Ok(Type::tensor(if n.is_multiple_of(2) { F32 } else { F64 }, cx.inputs[0].shape().clone()))
    },
    ..sound("infers_now_this_now_that")
};
static EVAL_PANICS: OpDef = OpDef { eval: |_, _| panic!("on purpose"), ..sound("eval_panics") };
static EXPAND_PANICS: OpDef = composite("expand_panics", |_| panic!("on purpose"));

/// A graph with an op on an input, on a constant and, if asked for, its gradient.
fn graph(op: &'static OpDef, gradient: bool) -> Result<Graph, Diags> {
    build(|g| {
        g.register(op);
        let x = g.input("x", F32, [3]);
        let w = g.param("w", F32, [3], Init::ONES);
        let y = x.check_finite().unary(op) * w + g.constant(array![1.0f32, 4.0, 9.0]).unary(op);
        g.output("y", y);
        if gradient {
            g.update(w, w - g.grad(y.sum(), &[x])[0]);
        }
    })
}

/// What comes of a graph: the first error, or the results.
fn outcome(graph: Result<Graph, Diags>, how: &str) -> Result<Vec<f64>, String> {
    let graph = graph.map_err(|diags| diags.to_string())?;
    let x = array![1.0f32, 4.0, 16.0];
    if how == "interpreted" {
        let mut env = Env::default().with("x", x);
        env.initialize(&graph, 0).unwrap();
        return Ok(interpret(&graph, &env).map_err(|diag| diag.to_string())?[0].to_f64());
    }
    let folder = std::env::temp_dir();
    let file = folder.join(format!("cotangent-outside-{}-{:?}.ct", std::process::id(), std::thread::current().id()));
    let compiler = Compiler::new().fuse(how == "fused").reproducer(&file);
    let program = compiler.compile(&graph);
    let _ = std::fs::remove_file(&file);
    let program = program.map_err(|error| error.to_string())?;
    let mut session = Session::new(&Runtime::new(Threads::Exactly(2)), program, Seed(0)).map_err(|e| e.to_string())?;
    let out = session.step([("x", (&x).into())]).map_err(|diag| diag.to_string())?;
    Ok(out.tensor("y").map_err(|diag| diag.to_string())?.to_f64())
}

/// Every way to use an op: none panics.
fn outcomes(op: &'static OpDef) -> Vec<(String, Result<Vec<f64>, String>)> {
    let mut all = Vec::new();
    for gradient in [false, true] {
        for how in ["interpreted", "fused", "unfused"] {
            let what = format!("{} {how}{}", op.name, if gradient { " with its gradient" } else { "" });
            let outcome = catch_unwind(AssertUnwindSafe(|| outcome(graph(op, gradient), how)));
            all.push((what, outcome.unwrap_or_else(|_| Err("it panics".into()))));
        }
    }
    all
}

#[test]
fn a_wrong_record_is_an_error_that_names_the_op() {
    let always: [&OpDef; 32] = [
        &OTHER_DTYPE,
        &NO_VALUE,
        &OTHERS_INPUT,
        &OTHERS_TYPE,
        &REPLACES_THE_BODY,
        &ILL_TYPED,
        &PANICS,
        &LONG,
        &CHANGES_ITS_MIND,
        &EXPANDS_TO_NOTHING,
        &EXPANDS_TO_TWO,
        &EXPANDS_TO_ANOTHER_TYPE,
        &EXPANDS_TO_POISON,
        &EXPANDS_ELSEWHERE,
        &EXPANDS_TO_NO_NODE,
        &EXPANDS_ILL_TYPED,
        &EXPANDS_TO_ITSELF,
        &EXPANDS_TO_THE_UNKNOWN,
        &SMUGGLES_AN_INPUT,
        &SMUGGLES_A_PARAM,
        &SMUGGLES_AN_OUTPUT,
        &DROPS_CHECKS,
        &INFERS_A_SCALAR,
        &INFERS_MUCH,
        &INFERS_A_TUPLE,
        &INFERS_TOO_MUCH,
        &EVALUATES_TO_ANOTHER_TYPE,
        &INFER_PANICS,
        &INFER_PANICS_LATER,
        &INFERS_NOW_THIS_NOW_THAT,
        &EVAL_PANICS,
        &EXPAND_PANICS,
    ];
    let mut wrong = Vec::new();
    for op in always {
        for (what, outcome) in outcomes(op) {
            match outcome {
                // The interpreter expands an op by itself, where there are no checks to drop.
                Ok(_) if std::ptr::eq(op, &DROPS_CHECKS) && what.contains("interpreted") => {}
                Ok(values) => wrong.push(format!("{what} gives {values:?}")),
                Err(text) if text.contains(&format!("`{op}`", op = OpRef(op))) => {}
                // These say what the op has brought about.
                Err(text) if ["more than 128 deep", "other_dtype"].iter().any(|t| text.contains(t)) => {}
                Err(text) => wrong.push(format!("{what} does not name the op: {text}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_derivative_rule_is_an_error_that_names_the_op() {
    let mut wrong = Vec::new();
    for op in [
        &TOO_FEW_COTANGENTS,
        &TOO_MANY_COTANGENTS,
        &GRADIENT_OF_ANOTHER_TYPE,
        &FOREIGN_COTANGENT,
        &POISONED_COTANGENT,
        &RULE_PANICS,
    ] {
        for (what, outcome) in outcomes(op) {
            match outcome {
                // The interpreter takes central differences.
                Ok(values) if !what.ends_with("gradient") || what.contains("interpreted") => {
                    assert_eq!(values, [2.0, 4.0, 7.0], "{what}");
                }
                Ok(values) => wrong.push(format!("{what} gives {values:?}")),
                Err(text) if text.contains(&format!("`{op}`", op = OpRef(op))) => {}
                Err(text) => wrong.push(format!("{what} does not name the op: {text}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What an op claims or calls its attributes changes nothing of what it is.
#[test]
fn claims_of_an_op_are_believed_only_where_they_can_do_no_harm() {
    const ALL: OpTraits = OpTraits::POINTWISE
        .with(OpTraits::COMMUTATIVE)
        .with(OpTraits::ODD)
        .with(OpTraits::EVEN)
        .with(OpTraits::MONOTONE)
        .with(OpTraits::ZERO_PRESERVING);
    static CLAIMS: OpDef = OpDef { traits: ALL, ..sound("claims") };
    for (what, outcome) in outcomes(&CLAIMS) {
        assert_eq!(outcome.unwrap_or_else(|text| panic!("{what}: {text}")), [2.0, 4.0, 7.0], "{what}");
    }
    const fn posing(name: &'static str, attrs: &'static [AttrSpec]) -> OpDef {
        OpDef { attrs, ..sound(name) }
    }
    static PARAM: OpDef = posing(
        "posing_as_param",
        &[
            AttrSpec { name: "name", kind: AttrKind::Str, doc: "" },
            AttrSpec { name: "init", kind: AttrKind::Init, doc: "" },
        ],
    );
    static CONSTANT: OpDef =
        posing("posing_as_constant", &[AttrSpec { name: "value", kind: AttrKind::Tensor, doc: "" }]);
    let graph = build(|g| {
        g.register(&PARAM);
        g.register(&CONSTANT);
        let x = g.input("x", F32, [3]);
        let y = x.unary_with(&PARAM, Attrs::none().with("name", "w").with("init", Init::ONES));
        g.output("y", y * x.unary_with(&CONSTANT, Attrs::none().with("value", TensorData::scalar(F32, 9.0))));
    });
    for how in ["interpreted", "fused", "unfused"] {
        assert_eq!(outcome(graph.clone(), how).unwrap(), [1.0, 4.0, 16.0], "{how}");
    }
}
