//! The gradient check for users: right models pass, wrong derivatives are named, kinks are no errors; and derivatives
//! along a direction.

use cotangent_graph::DType::{F32, F64, I64};
use cotangent_graph::interp::interpret;
use cotangent_graph::ops::arithmetic::pointwise;
use cotangent_graph::ops::infer_float;
use cotangent_graph::ops::scan::{Loop, Made};
use cotangent_graph::samples::{Kind, environment_of};
use cotangent_graph::{Attrs, Code, Env, Graph, GraphBuilder, Init, OpDef, OpTraits, Tensor, TensorData, Vjp, build};
use cotangent_passes::{GradCheck, PassError, PassOptions, Verdict, Wrt, check_gradients, optimize};

fn graph(f: impl FnOnce(&GraphBuilder)) -> Graph {
    build(f).unwrap_or_else(|diags| panic!("{diags}"))
}

fn vector(values: &[f64]) -> TensorData {
    let bits: Vec<u64> = values.iter().map(|v| v.to_bits()).collect();
    TensorData::from_bits(F64, &[values.len()].into(), &bits)
}

#[test]
fn a_model_with_dropout_and_normalization_passes_in_both_orders() {
    let model = graph(|g| {
        let (x, labels) = (g.input("x", F32, [5, 4]), g.input("labels", I64, [5]));
        let (w1, b1) = (g.param("w1", F32, [4, 6], Init::HeNormal), g.param("b1", F32, [6], Init::ZEROS));
        let (gain, bias) = (g.param("gain", F32, [6], Init::ONES), g.param("bias", F32, [6], Init::ZEROS));
        let w2 = g.param("w2", F32, [6, 3], Init::HeNormal);
        g.param("unused", F32, [2], Init::ZEROS);
        let hidden = (x.matmul(w1) + b1).layer_norm(gain, bias, 1e-5).silu();
        let mask = g.uniform("mask", F32, [5, 6]).gt(hidden.constant_like(0.4)).cast(F32);
        let loss = (hidden * mask * 2.0).matmul(w2).cross_entropy(labels).mean();
        g.output("logits", hidden);
        g.output("loss", loss);
        g.update(w1, w1 - g.grad(loss, &[w1])[0]);
    });
    let report = check_gradients(&model, &GradCheck { order: 2, seed: 4, ..GradCheck::default() });
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    assert!(report.passed(), "{report}");
    assert_eq!((report.loss.as_str(), report.entries.len()), ("loss", 12), "{report}");
    assert!(report.entries.iter().all(|e| e.verdict == Verdict::Agrees && e.n_kinks == 0), "{report}");
    assert!(report.entries.iter().all(|e| e.worst_relative < 1e-6 && e.n_checked <= 16), "{report}");
    let text = report.to_string();
    assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("order  source")), "{text}");
    assert!(text.contains("16/24") && text.contains("agrees"), "{text}");
}

/// `x²` with the derivative `3x`.
static WRONG: OpDef = pointwise(
    "wrong_square",
    "Square with a wrong derivative.",
    1,
    OpTraits::NONE,
    infer_float,
    |s, v, _| s.mul(v[0], v[0]),
    Vjp::Rule(|cx| [Some(cx.dy * cx.x() * 3.0)].into_iter().collect()),
    |_| Vec::new(),
);

#[test]
fn a_wrong_derivative_is_named_with_its_line() {
    let model = graph(|g| {
        g.register(&WRONG);
        let (a, b) = (g.param("a", F32, [3], Init::ONES), g.param("b", F32, [3], Init::ONES));
        let y = g.op(&WRONG, &[a.tanh()], Attrs::none(), None) + b.exp();
        g.output("loss", y.softmax(0).log().sum());
    });
    let report = check_gradients(&model, &GradCheck::default()).unwrap_or_else(|error| panic!("{error}"));
    assert!(!report.passed());
    let verdicts: Vec<_> = report.entries.iter().map(|e| (e.name.as_str(), e.verdict)).collect();
    assert_eq!(verdicts, [("a", Verdict::Disagrees), ("b", Verdict::Agrees)], "{report}");
    assert_eq!(report.suspects.len(), 1, "{report}");
    assert_eq!((report.suspects[0].op, report.suspects[0].operand), ("wrong_square", 0));
    assert!(report.to_string().contains("gradcheck.rs:"), "{report}");
}

#[test]
fn kinks_are_counted_and_not_judged() {
    let model = graph(|g| {
        let x = g.input("x", F64, [4]);
        g.output("y", (x.abs() + x.relu()).sum());
    });
    let check = |values: &[f64]| {
        let env = Env::default().with("x", vector(values));
        let wrt = Wrt::Named(vec!["x".into()]);
        check_gradients(&model, &GradCheck { wrt, env: Some(env), ..GradCheck::default() }).unwrap().entries.remove(0)
    };
    let some = check(&[0.0, 1.0, -2.0, 0.0]);
    assert_eq!((some.verdict, some.n_kinks, some.n_checked), (Verdict::Agrees, 2, 4));
    assert_eq!(check(&[0.0; 4]).verdict, Verdict::Kinks);
    // A kink nearby is got out of the way of.
    let near = check(&[1e-5, -3e-6, 0.5, -1e-4]);
    assert_eq!((near.verdict, near.n_kinks), (Verdict::Agrees, 0));
}

#[test]
fn gradients_stop_where_the_user_says_so() {
    let model = graph(|g| {
        let x = g.param("x", F64, [3], Init::uniform(0.5, 1.5));
        let body = g.body("straight_through", &[x.ty()], |_, v| vec![v[0] + (v[0].round() - v[0]).stop_gradient()]);
        g.output("loss", (g.call(&body, &[x])[0] * x * x.stop_gradient()).sum());
    });
    let report = check_gradients(&model, &GradCheck { order: 2, ..GradCheck::default() });
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    assert!(report.passed() && report.entries.iter().all(|e| e.verdict == Verdict::Agrees), "{report}");
}

#[test]
fn a_loop_that_stops_gradients_inside_is_refused_rather_than_judged() {
    let model = |stops: bool| {
        graph(|g| {
            let (h, x) = (g.param("h", F64, [2], Init::uniform(0.5, 1.5)), g.input("x", F64, [3, 2]));
            let made = g.scan("loop", Loop::new().carry(h).slice(x), |_, i| {
                let h = i.carries[0];
                let other = if stops { h.stop_gradient() } else { h };
                Made { carries: vec![other * h + i.slices[0]], outputs: Vec::new() }
            });
            g.output("loss", made.carries[0].sum());
        })
    };
    assert!(check_gradients(&model(false), &GradCheck::default()).is_ok_and(|report| report.passed()));
    match check_gradients(&model(true), &GradCheck::default()) {
        Err(PassError::Diags(diags)) => {
            assert_eq!(diags.0[0].code, Code::NotDifferentiable);
            assert!(diags.0[0].message.contains("a loop stops gradients inside of its body"), "{diags}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn penalties_of_gradients_are_checked_like_any_loss() {
    let model = graph(|g| {
        let (x, w) = (g.input("x", F32, [3, 2]), g.param("w", F32, [2, 4], Init::HeNormal));
        let y = x.matmul(w).tanh().sum();
        g.output("loss", y + g.grad(y, &[x])[0].square().sum());
    });
    let report = check_gradients(&model, &GradCheck { order: 2, ..GradCheck::default() });
    assert!(report.as_ref().is_ok_and(|r| r.passed() && r.entries.len() == 2), "{report:?}");
}

#[test]
fn mistakes_of_the_user_are_diagnostics() {
    let model = graph(|g| {
        g.input("k", I64, [2]);
        g.output("loss", g.param("w", F32, [2], Init::ONES).square().sum());
    });
    let code = |check: GradCheck| match check_gradients(&model, &check) {
        Err(PassError::Diags(diags)) => diags.0[0].code,
        other => panic!("{other:?}"),
    };
    let named = |name: &str| GradCheck { wrt: Wrt::Named(vec![name.into()]), ..GradCheck::default() };
    assert_eq!(code(GradCheck { loss: Some("lost".into()), ..GradCheck::default() }), Code::UnknownName);
    assert_eq!(code(named("v")), Code::UnknownName);
    assert_eq!(code(named("k")), Code::NotDifferentiable);
}

#[test]
fn what_is_not_finite_is_said() {
    let model = graph(|g| g.output("loss", g.param("w", F64, [2], Init::ZEROS).log().sum()));
    let env = Env::default().with("w", vector(&[-1.0, 2.0]));
    let report = check_gradients(&model, &GradCheck { env: Some(env), ..GradCheck::default() }).unwrap();
    assert!(!report.passed() && report.entries[0].verdict == Verdict::NotFinite, "{report}");
}

// ---- along a direction -------------------------------------------------------------------------------------------

/// The first output of a graph after the pipeline, on smooth values.
fn first(source: &Graph, env: &Env) -> Vec<f64> {
    let done = optimize(source, &PassOptions::checked(2)).unwrap_or_else(|error| panic!("{error}"));
    interpret(&done.graph, env).unwrap_or_else(|diag| panic!("{diag}"))[0].to_f64()
}

#[test]
fn directional_derivatives_of_simple_functions() {
    let along = |f: for<'g> fn(Tensor<'g>) -> Tensor<'g>| {
        let source = graph(|g| {
            let (x, v) = (g.input("x", F64, [3]), g.input("v", F64, [3]));
            g.output("jvp", g.jvp(f(x), x, v));
        });
        let env = Env::default().with("x", vector(&[1.0, -2.0, 0.5])).with("v", vector(&[1.0, 3.0, -2.0]));
        first(&source, &env)
    };
    assert_eq!(along(|x| x * x), [2.0, -12.0, -2.0]);
    assert_eq!(along(|x| x.sum()), [2.0]);
    assert_eq!(along(|x| x * 3.0), [3.0, 9.0, -6.0]);
    assert_eq!(along(|x| x.flip([0])), [-2.0, 3.0, 1.0]);
    assert_eq!(along(|x| x.constant_like(1.0)), [0.0; 3]);
}

#[test]
fn directional_derivatives_agree_with_central_differences() {
    let functions: [for<'g> fn(Tensor<'g>) -> Tensor<'g>; 6] = [
        |x| x.softmax(1),
        |x| x.tanh().matmul(x.t()),
        |x| (x.exp() + 1.0).log().mean_over([0]),
        |x| x.normalize([1], 1e-3).gelu(),
        |x| x.cross_entropy(x.builder().iota(I64, [2], 0)),
        |x| x.builder().concat(&[x.sin(), x.square()], 0).prod_over([1]),
    ];
    for (k, f) in functions.into_iter().enumerate() {
        let source = graph(|g| {
            let (x, v) = (g.input("x", F64, [2, 3]), g.input("v", F64, [2, 3]));
            g.output("jvp", g.jvp(f(x), x, v));
        });
        let value = graph(|g| g.output("y", f(g.input("x", F64, [2, 3]))));
        let env = environment_of(&source, k as u64, Kind::Smooth).unwrap();
        let (x, v) = (env.values["x"].to_f64(), env.values["v"].to_f64());
        let at = |t: f64| {
            let bits: Vec<u64> = x.iter().zip(&v).map(|(x, v)| (x + t * v).to_bits()).collect();
            let moved = TensorData::from_bits(F64, &[2, 3].into(), &bits);
            interpret(&value, &Env::default().with("x", moved)).unwrap_or_else(|diag| panic!("{diag}"))[0].to_f64()
        };
        let (high, low) = (at(1e-5), at(-1e-5));
        let jvp = first(&source, &env);
        assert_eq!(jvp.len(), high.len());
        for (j, (h, l)) in jvp.iter().zip(high.iter().zip(&low)) {
            let finite = (h - l) / 2e-5;
            assert!((j - finite).abs() < 1e-7 * finite.abs().max(1.0), "function {k}: {j} and {finite}");
        }
    }
}

/// The tensor that the derived rule multiplies with cancels out: nothing random is left.
#[test]
fn directional_derivatives_leave_no_random_numbers() {
    let source = graph(|g| {
        let (x, v) = (g.input("x", F64, [2, 3]), g.input("v", F64, [2, 3]));
        g.output("jvp", g.jvp(x.tanh().matmul(x.t()).softmax(1), x, v));
    });
    let done = optimize(&source, &PassOptions::checked(0)).unwrap_or_else(|error| panic!("{error}"));
    assert!(!done.graph.to_string().contains("rng"), "{}", done.graph);
}

/// A Hessian-vector product forward over reverse is the one reverse over reverse.
#[test]
fn hessian_vector_products_agree_both_ways() {
    fn slope<'g>(g: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
        g.grad((x.softmax(1) * x.sin()).square().sum() + x.exp().prod_over([0]).sum(), &[x])[0]
    }
    let product = |forward: bool| {
        graph(|g| {
            let (x, v) = (g.input("x", F64, [2, 3]), g.input("v", F64, [2, 3]));
            let slope = slope(g, x);
            g.output("hv", if forward { g.jvp(slope, x, v) } else { g.grad((slope * v).sum(), &[x])[0] });
        })
    };
    let (forward, reverse) = (product(true), product(false));
    for seed in 0..4 {
        let env = environment_of(&forward, seed, Kind::Smooth).unwrap();
        for (a, b) in first(&forward, &env).into_iter().zip(first(&reverse, &env)) {
            assert!((a - b).abs() < 1e-12 * a.abs().max(1.0), "{a} and {b}");
        }
    }
}

/// Numbers with which everything would agree, or nothing, are errors.
#[test]
fn a_check_that_cannot_fail_is_refused() {
    let model = graph(|g| {
        let w = g.param("w", F32, [3], Init::ONES);
        g.output("loss", w.square().sum());
    });
    let good = GradCheck::default;
    for (wrong, says) in [
        (GradCheck { tolerance: f64::NAN, ..good() }, "a tolerance that is finite and not negative, got NaN"),
        (GradCheck { tolerance: f64::INFINITY, ..good() }, "got inf"),
        (GradCheck { tolerance: -1.0, ..good() }, "got -1"),
        (GradCheck { max_elements_per_tensor: 0, ..good() }, "at least 1 element of each tensor, got 0"),
        (GradCheck { order: 0, ..good() }, "order 1 or 2, got 0"),
        (GradCheck { order: 3, ..good() }, "order 1 or 2, got 3"),
    ] {
        let error = check_gradients(&model, &wrong).map(|report| report.to_string()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}
