//! Every op of the registry against what follows from its record, and derivatives through bodies.

use cotangent_graph::ops::arithmetic::{one, pointwise};
use cotangent_graph::ops::infer_float;
use cotangent_graph::ops::region::{CALL, GRAD, ITEM, TUPLE};
use cotangent_graph::ops::scan::SCAN;
use cotangent_graph::samples::Sampler;
use cotangent_graph::{DType, Env, Graph, OpDef, OpTraits, Registry, Vjp, build};
use cotangent_passes::{PassOptions, optimize};
use cotangent_testkit::derived::{TOLERANCE, check_op, check_values};
use cotangent_testkit::finite::check_gradient;

fn differentiate(graph: &Graph) -> Result<Graph, String> {
    let options = PassOptions { verify: true, ..PassOptions::default() };
    optimize(graph, &options).map(|optimized| optimized.graph).map_err(|error| error.to_string())
}

/// Ops of which no sample is possible: they mean something only with a body, a tuple or another node.
const WITHOUT_SAMPLES: [&OpDef; 5] = [&CALL, &GRAD, &ITEM, &SCAN, &TUPLE];

#[test]
fn every_op_satisfies_what_follows_from_its_record() {
    let (mut table, mut failures) = (String::new(), Vec::new());
    let (mut n_ops, mut n_differentiable, mut n_checked, mut n_types) = (0, 0, 0, [0; 2]);
    for op in Registry::builtin().iter().filter(|op| !op.is_any(&WITHOUT_SAMPLES)) {
        n_ops += 1;
        // A derivative that is zero by its kind (of a step, of integers) is compared as well; that of `stop_gradient` is
        // wrong on purpose, and sources have no operands.
        let differentiable = matches!(op.vjp, Vjp::Rule(_) | Vjp::ViaExpansion);
        n_differentiable += usize::from(differentiable);
        match check_op(op.0) {
            Err(texts) => failures.extend(texts),
            Ok(report) => {
                table += &format!("{report}\n");
                n_types = [n_types[0] + report.n_types[0], n_types[1] + report.n_types[1]];
                n_checked += usize::from(differentiable && report.n_derivatives > 0);
                if differentiable && report.n_derivatives == 0 {
                    failures.push(format!("no derivative of `{}` was compared", op.name));
                }
            }
        }
    }
    println!(
        "{table}{n_checked} of {n_differentiable} differentiable ops checked at orders 1 and 2, {n_ops} ops in all"
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(n_checked, n_differentiable);
    assert!(n_types[0] > 1000 && n_types[1] > 500, "{n_types:?}");
    assert!(n_ops > 90 && n_differentiable > 60, "{n_ops} ops, {n_differentiable} with derivatives");
}

/// `x²`, with a derivative and with values that are wrong on purpose.
const fn square(vjp: Vjp) -> OpDef {
    pointwise("my_square", "The square.", 1, OpTraits::EVEN, infer_float, |s, v, _| s.mul(v[0], v[0]), vjp, one)
}
static RIGHT: OpDef = square(Vjp::Rule(|cx| [Some(cx.dy * cx.x() * 2.0)].into_iter().collect()));
static WRONG: OpDef = square(Vjp::Rule(|cx| [Some(cx.dy * cx.x() * 3.0)].into_iter().collect()));

#[test]
fn an_op_from_outside_is_checked_and_its_mistakes_are_named() {
    let report = check_op(&RIGHT).unwrap_or_else(|failures| panic!("{}", failures.join("\n")));
    assert_eq!((report.n_samples, report.n_derivatives), (4, 4), "{report}");
    assert!(report.n_elements > 0 && report.worst.iter().all(|worst| *worst < TOLERANCE), "{report}");
    check_values(&RIGHT, |x, _| x[0] * x[0]).unwrap_or_else(|failures| panic!("{}", failures.join("\n")));
    assert!(check_values(&RIGHT, |x, _| x[0] * x[0] + 1e-4).is_err());
    let failures = check_op(&WRONG).unwrap_err().join("\n");
    assert!(failures.contains("`my_square`, sample 0 in f32") && failures.contains("derivative"), "{failures}");
    // A name that is taken by a built-in op is not one's own.
    static TAKEN: OpDef = OpDef { name: "exp", ..square(Vjp::Zero("a test")) };
    assert!(check_op(&TAKEN).unwrap_err()[0].contains("already registered"));
}

/// A body is differentiated through its call, and so is a body inside a body.
#[test]
fn derivatives_go_through_bodies() {
    let graph = build(|g| {
        let x = g.input("x", DType::F64, [3]);
        let w = g.param("w", DType::F64, [3], cotangent_graph::Init::ONES);
        let body = g.body("outer", &[x.ty(), w.ty()], |g, v| {
            let inner = g.body("inner", &[v[0].ty()], |_, v| vec![v[0].tanh(), v[0] * v[0]]);
            let results = g.call(&inner, &[v[0] * v[1]]);
            vec![results[0] * results[1], results[1].exp()]
        });
        let results = g.call(&body, &[x, w]);
        g.output("y", results[0] + results[1].sum());
    });
    let mut s = Sampler::new(DType::F64, 2);
    let env = Env::default().with("x", s.float_in(-1.0..1.0, [3])).with("w", s.float_in(0.5..1.5, [3]));
    let deviations = check_gradient(&graph.unwrap(), &["x", "w"], &env, 2, differentiate);
    let deviations = deviations.unwrap_or_else(|error| panic!("{error}"));
    assert!(deviations.iter().all(|d| d.worst < TOLERANCE), "{deviations:?}");
}
