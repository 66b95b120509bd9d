//! `differentiate` against central differences, which the interpreter takes of the graph as it was built.

use crate::common::{Values, assert_close, env, graph, ops, optimized, run};
use cotangent_graph::DType::{F64, I64};
use cotangent_graph::{Code, Env, GraphBuilder, Init, Registry, Stage, Tensor, Type, Vjp, verify};
use cotangent_passes::{PassError, PassOptions, optimize};

/// Compares every output of the optimized graph with the interpreter's value of the source graph.
fn check(what: &str, f: impl FnOnce(&GraphBuilder)) {
    let source = graph(f);
    let done = optimized(&source);
    assert_eq!(verify(&done.graph, Stage::Primitive), Vec::<String>::new(), "{what}");
    for seed in 1..4 {
        let env = env(&source, seed, Values::Tame);
        assert_close(&run(&source, &env), &run(&done.graph, &env), 3e-7, what);
    }
}

/// The gradient of `Σ f(x)·w` with respect to x of shape [2, 3].
fn check_unary(what: &str, f: impl for<'g> FnOnce(Tensor<'g>) -> Tensor<'g>) {
    check(what, |g| {
        let x = g.input("x", F64, [2, 3]);
        let y = f(x);
        let w = g.input("w", F64, y.shape());
        g.output("dx", g.grad((y * w).sum(), &[x])[0]);
    });
}

#[test]
fn the_lecture_example_gives_minus_one_two_minus_three() {
    let source = graph(|g| {
        let [x, y, z] = ["x", "y", "z"].map(|name| g.input(name, F64, []));
        let f = (x + y) * (y - z);
        for (name, d) in ["dx", "dy", "dz"].into_iter().zip(g.grad(f, &[x, y, z])) {
            g.output(name, d);
        }
    });
    let done = optimized(&source);
    // With x + y = 3 and y - z = -1: df/dx = y - z, df/dy = (y - z) + (x + y), df/dz = -(x + y).
    let env = Env::default().with("x", 1.0).with("y", 2.0).with("z", 3.0);
    let values: Vec<f64> = run(&done.graph, &env).iter().filter_map(|t| t.as_scalar()).collect();
    assert_eq!(values, [-1.0, 2.0, -3.0]);
    assert!(!ops(&done.graph).contains(&"constant"), "{}", done.graph);
}

#[test]
fn composites_agree_with_central_differences() {
    check_unary("mean of squares", |x| x.square().mean());
    check_unary("softmax", |x| x.softmax(1));
    check_unary("log_softmax over axis 0", |x| x.log_softmax(0));
    check_unary("chain", |x| ((x * x + 1.0f64).log() * x.sin()).tanh());
    check_unary("shared", |x| {
        let s = x.sigmoid();
        s * s + s.exp() * s
    });
    check_unary("broadcast", |x| x.sum_over([1]).repeat_along(&x.shape(), [1]) * x);
    check_unary("transposed product", |x| x.t().matmul(x));
    check_unary("views", |x| x.t().reshape([6]).slice(&[1], &[5]).flip([0]).pad(&[2], &[1], 0.5).square());
    check_unary("concat", |x| x.builder().concat(&[x, x * 2.0, x.exp()], 1));
    check_unary("gelu and silu", |x| x.gelu() + x.silu() * x.gelu_tanh());
    check_unary("log-sum-exp", |x| x.exp().sum_over([1]).log());
    check_unary("entropy by hand", |x| {
        let p = x.softmax(1);
        -(p * p.log()).sum_over([1])
    });
    check_unary("bce by hand", |x| {
        let p = x.sigmoid();
        -(p.log() * 0.3f64 + (1.0f64 - p).log() * 0.7f64)
    });
    check_unary("mean of two groups", |x| x.reshape([2, 3, 1]).broadcast_to([2, 3, 4]).mean_over([0, 2]).exp());
    check_unary("extremes", |x| x.max_over([1]) * x.min_over([1]));
    check_unary("powers", |x| (x * x + 0.5f64).powf(1.7) + x.powf(3.0));
    check_unary("stop_gradient", |x| x * (x.stop_gradient() + x));
}

#[test]
fn diamonds_and_several_targets_share_one_sweep() {
    let f = |g: &GraphBuilder| {
        let (x, y) = (g.input("x", F64, [3]), g.input("y", F64, [3]));
        let a = x * y;
        let b = a.sin() + a.cos() * x;
        let loss = (b * a).sum();
        // An intermediate value and the result itself are targets as well.
        for (k, d) in g.grad(loss, &[x, y, a, b, loss]).into_iter().enumerate() {
            g.output(&format!("d{k}"), d);
        }
    };
    check("diamond", f);
    let report = optimized(&graph(f)).report;
    let differentiate = report.iter().find(|r| r.name == "differentiate").expect("the pass");
    assert_eq!((differentiate.rules["sweep"], differentiate.rules["grad"]), (1, 5));
}

#[test]
fn seeds_and_gathers() {
    check("gather with seed", |g| {
        let table = g.param("table", F64, [4, 3], Init::normal(0.0, 1.0));
        let index = g.input("index", I64, [2, 2]);
        let seed = g.input("seed", F64, [2, 2, 3]);
        g.output("d", g.grad_with_seed(table.gather(index).tanh(), seed, &[table])[0]);
    });
    check("cross-entropy", |g| {
        let (x, w) = (g.input("x", F64, [4, 5]), g.param("w", F64, [5, 3], Init::GlorotUniform));
        let b = g.param("b", F64, [3], Init::ZEROS);
        let loss = (x.matmul(w) + b).cross_entropy(g.input("label", I64, [4])).mean();
        for (k, d) in g.grad(loss, &[w, b, x]).into_iter().enumerate() {
            g.output(&format!("d{k}"), d);
        }
    });
}

#[test]
fn what_is_not_on_a_path_has_a_zero_gradient() {
    check("no path", |g| {
        let (x, y) = (g.input("x", F64, [2]), g.input("y", F64, [2]));
        let later = (x * y).sum();
        let d = g.grad(x.sum(), &[y, later]);
        g.output("dy", d[0]);
        g.output("later", d[1]);
        g.output("stopped", g.grad((y.stop_gradient() * 3.0f64).sum(), &[y])[0]);
        g.output("floor", g.grad((y.floor() * 3.0f64).sum(), &[y])[0]);
    });
}

#[test]
fn dropout_is_differentiated_with_its_mask() {
    check("dropout", |g| {
        let x = g.input("x", F64, [3, 4]);
        let y = (x.dropout("drop", 0.4) * x).sum();
        g.output("d", g.grad(y, &[x])[0]);
    });
}

#[test]
fn derivatives_nest_to_the_third_order() {
    let source = graph(|g| {
        let x = g.input("x", F64, []);
        let mut y = x * x * x * x * x;
        for order in 1..=5 {
            y = g.grad(y, &[x])[0];
            g.output(&format!("d{order}"), y);
        }
        let s = x.sin();
        g.output("third of sin", g.grad(g.grad(g.grad(s, &[x])[0], &[x])[0], &[x])[0]);
    });
    let done = optimized(&source);
    let at: f64 = 0.7;
    let values: Vec<f64> =
        run(&done.graph, &Env::default().with("x", at)).iter().filter_map(|t| t.as_scalar()).collect();
    let want = [5.0 * at.powi(4), 20.0 * at.powi(3), 60.0 * at * at, 120.0 * at, 120.0, -at.cos()];
    for (got, want) in values.iter().zip(want) {
        assert!((got - want).abs() < 1e-12 * want.abs().max(1.0), "{got} and {want}");
    }
}

/// A Hessian-vector product against central differences of the symbolic gradient.
#[test]
fn second_order_through_composites() {
    type Net = for<'g> fn(Tensor<'g>) -> Tensor<'g>;
    let nets: [(&str, Net); 5] = [
        ("softmax", |x| (x.softmax(1) * x).sum()),
        ("log_softmax", |x| x.log_softmax(1).square().sum()),
        ("mean", |x| (x * x.mean_over([0])).exp().mean()),
        ("gelu", |x| x.gelu().matmul(x.t()).sum()),
        ("logistic", |x| (x.exp() + 1.0f64).log().square().sum()),
    ];
    for (what, net) in nets {
        let gradient = graph(|g| {
            let x = g.input("x", F64, [2, 3]);
            let d = g.grad(net(x), &[x])[0];
            g.output("vd", (d * g.input("v", F64, [2, 3])).sum());
        });
        let nested = graph(|g| {
            let x = g.input("x", F64, [2, 3]);
            let d = g.grad(net(x), &[x])[0];
            g.output("hv", g.grad((d * g.input("v", F64, [2, 3])).sum(), &[x])[0]);
        });
        // The differences are taken of the first derivative as a graph without `grad`.
        let (first, second) = (optimized(&gradient).graph, optimized(&nested).graph);
        let env = env(&nested, 5, Values::Tame);
        let hv = run(&second, &env)[0].to_f64();
        let x = env.values["x"].to_f64();
        for (i, hv) in hv.iter().enumerate() {
            let at = |delta: f64| {
                let mut moved = x.clone();
                moved[i] += delta;
                let bits: Vec<u64> = moved.iter().map(|v| v.to_bits()).collect();
                let moved = cotangent_graph::TensorData::from_bits(F64, &[2, 3].into(), &bits);
                run(&first, &env.clone().with("x", moved))[0].as_scalar().expect("a scalar")
            };
            let want = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((hv - want).abs() < 1e-6 * (1.0 + want.abs()), "{what}: {hv} and {want}");
        }
    }
}

#[test]
fn bodies_are_differentiated_through() {
    let types = [Type::tensor(F64, [3]), Type::tensor(F64, [3])];
    check("call with several results", |g| {
        let body = g.body("pair", &types, |_, t| vec![t[0] * t[1].sin(), t[0].mean_over([0]).exp()]);
        let (x, y) = (g.input("x", F64, [3]), g.input("y", F64, [3]));
        let once = g.call(&body, &[x, y]);
        let twice = g.call(&body, &[once[0], x]);
        let loss = (twice[0] * once[0]).sum() + twice[1] * once[1];
        for (k, d) in g.grad(loss, &[x, y, once[0]]).into_iter().enumerate() {
            g.output(&format!("d{k}"), d);
        }
    });
    check("call of a call, and only one result used", |g| {
        let inner = g.body("inner", &types[..1], |_, t| vec![t[0].tanh(), t[0] + 1.0]);
        let outer = g.body("outer", &types[..1], |b, t| {
            let inner = b.body("inner", &[Type::tensor(F64, [3])], |_, t| vec![t[0].tanh(), t[0] + 1.0]);
            vec![b.call(&inner, &[t[0].square()])[1]]
        });
        let x = g.input("x", F64, [3]);
        let y = g.call(&outer, &[x])[0] * g.call(&inner, &[x])[0];
        g.output("d", g.grad(y.sum(), &[x])[0]);
    });
    check("grad inside a body", |g| {
        let body = g.body("slope", &types[..1], |b, t| vec![b.grad((t[0].square() * t[0]).sum(), &[t[0]])[0]]);
        let x = g.input("x", F64, [3]);
        g.output("slope", g.call(&body, &[x])[0]);
    });
    let curvature = graph(|g| {
        let body = g.body("slope", &types[..1], |b, t| vec![b.grad((t[0].square() * t[0]).sum(), &[t[0]])[0]]);
        let x = g.input("x", F64, [3]);
        g.output("curvature", g.grad(g.call(&body, &[x])[0].sum(), &[x])[0]);
    });
    let env = env(&curvature, 1, Values::Tame);
    let got = run(&optimized(&curvature).graph, &env)[0].to_f64();
    for (got, x) in got.iter().zip(env.values["x"].to_f64()) {
        assert!((got - 6.0 * x).abs() < 1e-12, "{got}");
    }
}

#[test]
fn a_body_without_operands_is_inlined() {
    let source = graph(|g| {
        let body = g.body("constant", &[], |b, _| vec![b.scalar(2.0, F64) * 3.0]);
        g.output("six", g.call(&body, &[])[0]);
    });
    let done = optimized(&source);
    assert_eq!(ops(&done.graph), ["constant"]);
    assert_eq!(run(&done.graph, &Env::default())[0].as_scalar(), Some(6.0));
}

#[test]
fn every_op_with_a_derivative_agrees_on_its_samples() {
    let mut tried = 0;
    for op in Registry::builtin().iter() {
        if matches!(op.vjp, Vjp::None(_)) {
            continue;
        }
        for (k, sample) in (op.samples)(&mut cotangent_graph::samples::Sampler::new(F64, 11)).into_iter().enumerate() {
            if !sample.inputs.iter().any(|t| t.dtype() == F64) {
                continue;
            }
            let what = format!("{} sample {k}", op.name);
            let source = graph(|g| {
                let inputs: Vec<Tensor<'_>> = sample
                    .inputs
                    .iter()
                    .enumerate()
                    .map(|(i, t)| g.input(&format!("x{i}"), t.dtype(), t.shape()))
                    .collect();
                let y = g.op(op.0, &inputs, sample.attrs.clone(), sample.declared.clone());
                if !y.is_float() {
                    g.output("y", y);
                    return;
                }
                let y = y.cast(F64);
                let w = g.input("w", F64, y.shape());
                let loss = (y * w).sum();
                let floats: Vec<Tensor<'_>> = inputs.into_iter().filter(|t| t.is_float()).collect();
                for (i, d) in g.grad(loss, &floats).into_iter().enumerate() {
                    g.output(&format!("d{i}"), d);
                }
            });
            let mut env = env(&source, 3, Values::Tame);
            for (i, t) in sample.inputs.iter().enumerate() {
                env.values.insert(format!("x{i}"), t.clone());
            }
            assert_close(&run(&source, &env), &run(&optimized(&source).graph, &env), 1e-6, &what);
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
}

#[test]
fn what_has_no_derivative_is_the_users_error() {
    let tuple = Registry::builtin().get("tuple").expect("the op");
    let item = Registry::builtin().get("item").expect("the op");
    let attrs = |k: i64| cotangent_graph::Attrs::none().with("index", k);
    let source = graph(|g| {
        let x = g.input("x", F64, []);
        // A tuple in a tuple is the one thing that a gradient does not pass.
        let inner = g.op(tuple.0, &[x, x * x], cotangent_graph::Attrs::none(), None);
        let outer = g.op(tuple.0, &[inner, x], cotangent_graph::Attrs::none(), None);
        let back = g.op(item.0, &[g.op(item.0, &[outer], attrs(0), None)], attrs(1), None);
        g.output("d", g.grad(back, &[x])[0]);
    });
    match optimize(&source, &PassOptions::default()) {
        Err(PassError::Diags(diags)) => assert_eq!(diags.0[0].code, Code::Unsupported),
        other => panic!("{:?}", other.map(|o| o.graph.to_string())),
    }
}

#[test]
fn gradients_of_slices_lie_side_by_side() {
    // The parts of a split, out of order; with a gap; a grid; windows that overlap; beside a reader of the whole; by steps.
    type Parts = for<'g> fn(Tensor<'g>) -> Vec<Tensor<'g>>;
    let cases: [(&str, Parts, usize, usize); 6] = [
        ("split", |x| [2, 0, 1].map(|k| x.slice(&[0, 4 * k], &[6, 4 * k + 4])).to_vec(), 1, 0),
        ("gap", |x| [0, 8].map(|at| x.slice(&[1, at], &[5, at + 3])).to_vec(), 1, 0),
        (
            "grid",
            |x| {
                (0..12)
                    .map(|k| (k / 4, k % 4))
                    .map(|(i, j)| x.slice(&[2 * i, 3 * j], &[2 * i + 2, 3 * j + 3]))
                    .collect()
            },
            4,
            0,
        ),
        ("windows", |x| (0..10).map(|k| x.slice(&[0, k], &[6, k + 3])).collect(), 3, 2),
        ("whole", |x| [x, x.slice(&[0, 0], &[6, 5]), x.slice(&[0, 5], &[6, 12])].to_vec(), 1, 1),
        ("steps", |x| [0, 1].map(|k| x.slice_steps(&[0, k], &[6, 12], &[1, 2])).to_vec(), 0, 1),
    ];
    for (what, parts, joined, added) in cases {
        let f = |g: &GraphBuilder| {
            let x = g.input("x", F64, [6, 12]);
            let terms = parts(x).into_iter().enumerate().map(|(k, part)| {
                let w = g.input(&format!("w{k}"), F64, part.shape());
                (part * w).sum()
            });
            let loss = terms.reduce(|a, b| a + b).expect("there are parts");
            g.output("dx", g.grad(loss, &[x])[0]);
        };
        check(what, f);
        let ops = ops(&optimized(&graph(f)).graph);
        let count = |name: &str| ops.iter().filter(|op| **op == name).count();
        assert_eq!((count("concat"), count("add")), (joined, added), "{what}: {ops:?}");
    }
}
