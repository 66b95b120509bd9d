//! Deep graphs on a small stack: chains of 10,000 nodes of every kind, some of 100,000, their gradients, and bodies nested as
//! deep as they may be, are built, printed, parsed, drawn, interpreted, differentiated, compiled, explained, run and dropped on a
//! thread with 256 KiB. Nothing aborts; what is deeper than the limits is an error. `work.rs` sees to it that the work grows no
//! faster than the chains.

use std::sync::Arc;

use cotangent::graph::interp::interpret;
use cotangent::graph::{Body, Code, Env, Registry, text};
use cotangent::prelude::*;
use ndarray::array;

const STACK: usize = 256 << 10;
const LENGTH: usize = 10_000;
const LONG: usize = 100_000;

/// Runs something on a thread with 256 KiB of stack, however deep the caller is.
fn on_a_small_stack<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(f).expect("a thread");
    thread.join().expect("no panic")
}

/// All that is done with a graph, fused and unfused. Running is compared with the interpreter on the optimized graph.
fn everything(graph: &Graph) {
    with_fusions(graph, &[true, false]);
}

fn with_fusions(graph: &Graph, choices: &[bool]) {
    let printed = graph.to_string();
    let parsed = text::parse(&printed, "deep.ct", &Registry::builtin()).unwrap_or_else(|diags| panic!("{diags}"));
    assert_eq!(parsed.to_string(), printed);
    let x = array![[0.5f32, -0.25], [0.125, 0.75]];
    let env = Env::default().with("x", x.clone());
    for &fuse in choices {
        let program = Compiler::new().fuse(fuse).compile(graph).unwrap_or_else(|error| panic!("{error}"));
        for stage in [StageView::Source, StageView::Optimized, StageView::Fused] {
            assert!(!program.dot(stage).is_empty() && !program.text(stage).is_empty());
        }
        assert!(!program.explain().is_empty() && !program.plan_text().is_empty());
        let expected = interpret(program.optimized(), &env).unwrap_or_else(|diag| panic!("{diag}"));
        let runtime = Runtime::new(Threads::Exactly(1));
        let mut session = Session::new(&runtime, program.clone(), Seed(0)).unwrap();
        let out = session.step([("x", (&x).into())]).unwrap();
        for (output, value) in program.optimized().outputs().iter().zip(&expected) {
            assert!(out.tensor(&output.name).unwrap().same_bits(value), "{}", output.name);
        }
    }
}

/// A chain of so many nodes, and its gradient if it is asked for.
fn chain(length: usize, gradient: bool, link: impl for<'g> Fn(usize, Tensor<'g>) -> Tensor<'g>) -> Graph {
    let graph = build(|g| {
        let x = g.input("x", F32, [2, 2]);
        let y = (0..length).fold(x, |y, k| link(k, y));
        g.output("y", y);
        if gradient {
            g.output("dx", g.grad(y.sum(), &[x])[0]);
        }
    });
    graph.unwrap_or_else(|diags| panic!("{diags}"))
}

macro_rules! chains {
    ($($name:ident: $length:expr, $gradient:expr, $link:expr;)*) => {
        $(#[test] fn $name() {
            on_a_small_stack(|| everything(&chain($length, $gradient, $link)));
        })*
    };
}

chains! {
    pointwise_ops: LENGTH, false, |k, y| if k % 2 == 0 { y.tanh() } else { y * 1.5 };
    gradients_of_pointwise_ops: LENGTH, true, |k, y| if k % 2 == 0 { y.tanh() } else { y * 1.5 };
    views: LENGTH, false, |k, y| if k % 2 == 0 { y.t() } else { y.flip([0]) };
    views_that_need_memory: LENGTH, false, through_memory;
    gradients_of_views_that_need_memory: LENGTH, true, through_memory;
    gradients_of_views: LENGTH, true, |k, y| if k % 2 == 0 { y.t() } else { y.flip([0]) };
    products: LENGTH, false, |_, y| y.matmul(y);
    gradients_of_products: LENGTH / 2, true, |_, y| y.matmul(y).tanh();
    reductions_and_broadcasts: LENGTH, false, |k, y| if k % 2 == 0 { y - y.max_over([1]).repeat_along(&[2, 2].into(), [1]) } else { y.tanh() };
    random_numbers: LENGTH, false, |k, y| if k % 2 == 0 { y + y.builder().uniform(&format!("u{k}"), F32, [2, 2]) } else { y.tanh() };
    gradients_of_reductions: LENGTH / 2, true, |k, y| if k % 2 == 0 { y - y.mean_over([1]).repeat_along(&[2, 2].into(), [1]) } else { y.tanh() };
    gradients_of_rows: LENGTH / 4, true, |k, y| if k % 2 == 0 { y.softmax(1) } else { y.tanh() };
    gradients_of_slices_and_joins: LENGTH / 4, true, |k, y| if k % 2 == 0 { turned(y) } else { y.tanh() };
    gradients_of_selections: LENGTH / 2, true, |k, y| if k % 2 == 0 { y.gt(0.1).select(y, y * 0.5) } else { y.tanh() };
    squares: LENGTH / 2, true, |_, y| y * y;
    sums_with_itself: LENGTH, true, |_, y| y + y;
    stops_of_gradients: LENGTH, false, |k, y| if k % 2 == 0 { y.stop_gradient() } else { y + 0.5 };
}

/// A link that cannot be seen through: other loops than those of its reader go through the elements.
fn through_memory(k: usize, y: Tensor<'_>) -> Tensor<'_> {
    match k % 3 {
        0 => y.t(),
        1 => y.reshape([4]).flip([0]),
        _ => y.reshape([2, 2]),
    }
}

/// The rows in the other order, as two slices that are joined.
fn turned(y: Tensor<'_>) -> Tensor<'_> {
    let rows = y.split(2, 0);
    y.builder().concat(&[rows[1], rows[0]], 0)
}

macro_rules! long_chains {
    ($($name:ident: $gradient:expr, $link:expr;)*) => {
        $(#[test] fn $name() {
            on_a_small_stack(|| with_fusions(&chain(LONG, $gradient, $link), &[true]));
        })*
    };
}

long_chains! {
    a_hundred_thousand_functions: false, |k, y| if k % 2 == 0 { y.tanh() } else { y * 1.5 };
    a_hundred_thousand_sums: true, |_, y| y + y;
    a_hundred_thousand_views: true, |k, y| if k % 2 == 0 { y.t() } else { y.flip([0]) };
    a_hundred_thousand_views_that_need_memory: true, through_memory;
}

/// Views below reductions: what several sweeps over a row need is asked for through all of them.
#[test]
fn views_below_reductions() {
    on_a_small_stack(|| {
        let graph = build(|g| {
            let x = g.input("x", F32, [2, 2]);
            let y = (0..LENGTH).fold(x.exp(), |y, k| if k % 2 == 0 { y.t() } else { y.flip([0]) });
            g.output("y", y.softmax(1));
            g.output("z", y.softmax(0).log());
        });
        everything(&graph.unwrap_or_else(|diags| panic!("{diags}")));
    });
}

/// Bodies that call each other, `depth` deep; `link` makes the result of each from the one inside and its operand.
fn chain_of_bodies(
    g: &GraphBuilder,
    depth: usize,
    link: impl for<'g> Fn(&'g GraphBuilder, &Body, Tensor<'g>) -> Tensor<'g> + Copy,
) -> Body {
    let ty = Type::tensor(F32, [2, 2]);
    let innermost = g.body("b0", std::slice::from_ref(&ty), |_, v| vec![v[0].tanh()]);
    (1..depth).fold(innermost, |inner, k| {
        g.body(&format!("b{k}"), std::slice::from_ref(&ty), move |g, v| vec![link(g, &inner, v[0])])
    })
}

fn nested(depth: usize) -> Result<Graph, Diags> {
    build(|g| {
        let body = chain_of_bodies(g, depth, |g, inner, x| g.call(inner, &[x])[0] * 0.999);
        let x = g.input("x", F32, [2, 2]);
        let y = g.call(&body, &[x])[0];
        g.output("y", y);
        g.output("dx", g.grad(y.sum(), &[x])[0]);
    })
}

#[test]
fn bodies_nest_as_deep_as_they_may() {
    on_a_small_stack(|| {
        let graph = nested(1000).unwrap_or_else(|diags| panic!("{diags}"));
        everything(&graph);
        let x = array![[0.5f32, -0.25], [0.125, 0.75]];
        let value = interpret(&graph, &Env::default().with("x", x)).unwrap_or_else(|diag| panic!("{diag}"));
        assert_eq!(value.len(), 2);
        let check = cotangent::passes::gradcheck::GradCheck { loss: Some("s".into()), ..Default::default() };
        let graph = build(|g| {
            let body = chain_of_bodies(g, 1000, |g, inner, x| g.call(inner, &[x])[0] * 0.999);
            g.output("s", g.call(&body, &[g.param("w", F32, [2, 2], Init::normal(0.0, 1.0))])[0].sum());
        });
        let report = cotangent::passes::gradcheck::check_gradients(&graph.unwrap(), &check).unwrap();
        assert!(report.passed() && !report.entries.is_empty(), "{report}");
    });
}

#[test]
fn bodies_that_nest_deeper_are_an_error() {
    on_a_small_stack(|| {
        for depth in [4097, 5000] {
            let diags = nested(depth).expect_err("too deep");
            assert_eq!(diags.0[0].code, Code::TooLarge, "{diags}");
        }
        // So are gradients inside of deep ones.
        let graph = build(|g| {
            let body = chain_of_bodies(g, 65, |g, inner, x| g.grad(g.call(inner, &[x])[0].sum(), &[x])[0]);
            g.output("y", g.call(&body, &[g.input("x", F32, [2, 2])])[0]);
        })
        .unwrap();
        let error = Compiler::new().compile(&graph).expect_err("too deep").to_string();
        assert!(error.contains("takes a gradient inside of bodies that nest more than 64 deep"), "{error}");
        // In text as well: what is open is closed, and one error is reported.
        let open: String = (0..5000).map(|k| format!("body 0 @b{k} {{\n")).collect();
        let text = format!("cotangent 1\ngraph @deep {{\n{open}{}}}\n", "}\n".repeat(5000));
        let diags = text::parse(&text, "deep.ct", &Registry::builtin()).expect_err("too deep");
        assert_eq!(diags.0[0].code, Code::TooLarge, "{diags}");
    });
}

/// A body in many places counts in each, so what bodies of bodies come to is bounded.
#[test]
fn bodies_in_many_places_are_counted() {
    on_a_small_stack(|| {
        let diags = build(|g| {
            let ty = Type::tensor(F32, [2, 2]);
            let mut level: Vec<Body> = (0..2)
                .map(|k| g.body(&format!("b{k}"), std::slice::from_ref(&ty), move |_, v| vec![v[0] * f64::from(k)]))
                .collect();
            for depth in 0..40 {
                let inner = level.clone();
                level = (0..2)
                    .map(|k| {
                        let inner = inner.clone();
                        g.body(&format!("b{depth}.{k}"), std::slice::from_ref(&ty), move |g, v| {
                            let sum = inner.iter().map(|body| g.call(body, &[v[0]])[0]).reduce(|a, b| a + b);
                            vec![sum.unwrap_or(v[0]) * f64::from(k)]
                        })
                    })
                    .collect();
            }
            let x = g.input("x", F32, [2, 2]);
            g.output("y", g.call(&level[0], &[x])[0]);
        });
        assert!(diags.is_err_and(|diags| diags.0.iter().any(|diag| diag.code == Code::TooLarge)));
    });
}

/// Bodies that only call, or do not even that, make no nodes. They are counted all the same: what they come to doubles with each.
#[test]
fn bodies_that_make_nothing_are_counted() {
    on_a_small_stack(|| {
        let x = array![[0.5f32, -0.25], [0.125, 0.75]];
        for depth in [60, 100, 4000] {
            let graph = build(|g| {
                let ty = Type::tensor(F32, [2, 2]);
                let innermost = g.body("b0", std::slice::from_ref(&ty), |_, v| vec![v[0]]);
                let body = (1..depth).fold(innermost, |inner, k| {
                    g.body(&format!("b{k}"), std::slice::from_ref(&ty), move |g, v| {
                        vec![g.call(&inner, &[g.call(&inner, &[v[0]])[0]])[0]]
                    })
                });
                g.output("y", g.call(&body, &[g.input("x", F32, [2, 2])])[0]);
            })
            .unwrap_or_else(|diags| panic!("{diags}"));
            let error = Compiler::new().compile(&graph).expect_err("too many nodes").to_string();
            assert!(error.starts_with("error[E0116]"), "{error}");
            let diag = interpret(&graph, &Env::default().with("x", x.clone())).expect_err("too many nodes");
            assert_eq!(diag.code, Code::TooManyNodes, "{diag}");
        }
        let mut level = vec![Arc::new(Graph::new("leaf"))];
        let fault = (0..40).find_map(|depth| {
            let mut next = [Graph::new(format!("a{depth}")), Graph::new(format!("b{depth}"))];
            for graph in &mut next {
                for body in &level {
                    if let Err(fault) = graph.add_body(Arc::clone(body)) {
                        return Some(fault);
                    }
                }
            }
            level = next.map(Arc::new).to_vec();
            None
        });
        assert!(fault.is_some_and(|fault| fault.code == Code::TooLarge));
    });
}
