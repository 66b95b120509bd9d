//! Loops against the same iterations written out, against differences, and what is left of them.

use cotangent_graph::DType::{F32, F64, I64};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::ops::index::GATHER;
use cotangent_graph::ops::math::EXP;
use cotangent_graph::ops::scan::{Checkpoint, Iteration, Loop, Looped, Made};
use cotangent_graph::{Env, Graph, GraphBuilder, Lower, OpDef, Registry, Tensor, TensorData, build, text};
use cotangent_passes::{PassOptions, optimize};

/// A recurrent cell: h ← tanh(x·w + h·u + b), and an output beside it.
fn cell<'b>(_: &'b GraphBuilder, i: &Iteration<'b>) -> Made<'b> {
    let [w, u, b] = [0, 1, 2].map(|k| i.captures[k]);
    let h = (i.slices[0].matmul(w) + i.carries[0].matmul(u) + b).tanh();
    Made { carries: vec![h], outputs: vec![h * i.slices[0].sum()] }
}

/// The iterations of a loop one by one.
fn written_out<'g>(
    g: &'g GraphBuilder,
    n: usize,
    reverse: bool,
    operands: [&[Tensor<'g>]; 3],
    f: impl Fn(&'g GraphBuilder, &Iteration<'g>) -> Made<'g>,
) -> Looped<'g> {
    let [carries, slices, captures] = operands;
    let mut carries = carries.to_vec();
    let mut outputs: Vec<Vec<Tensor<'g>>> = Vec::new();
    for k in 0..n {
        let i = if reverse { n - 1 - k } else { k };
        let part = |slice: &Tensor<'g>| {
            let shape = slice.shape();
            let (mut start, mut limit) = (vec![0; shape.rank()], shape.to_vec());
            (start[0], limit[0]) = (i, i + 1);
            slice.slice(&start, &limit).reshape(&shape[1..])
        };
        let slices = slices.iter().map(part).collect();
        let made = f(g, &Iteration { carries, slices, captures: captures.to_vec() });
        carries = made.carries;
        outputs.resize(made.outputs.len(), Vec::new());
        for (all, one) in outputs.iter_mut().zip(made.outputs) {
            all.push(one);
        }
    }
    let stack = |mut all: Vec<Tensor<'g>>| {
        if reverse {
            all.reverse();
        }
        let rows: Vec<Tensor<'g>> =
            all.iter().map(|t| t.reshape([1].into_iter().chain(t.shape().to_vec()).collect::<Vec<usize>>())).collect();
        g.concat(&rows, 0)
    };
    Looped { carries, outputs: outputs.into_iter().map(stack).collect() }
}

/// A sum of squares of everything that a recurrent net makes, and its derivatives of an order with respect to everything.
fn net(
    n: usize,
    reverse: bool,
    order: usize,
    is_loop: bool,
    checkpoint: Checkpoint,
    dtype: cotangent_graph::DType,
) -> Graph {
    let graph = build(|g| {
        let x = g.input("x", dtype, [n, 2, 3]);
        let h = g.input("h", dtype, [2, 4]);
        let weights = [g.input("w", dtype, [3, 4]), g.input("u", dtype, [4, 4]), g.input("b", dtype, [4])];
        let made = if is_loop {
            let over = Loop::new().carry(h).slice(x).checkpoint(checkpoint);
            let over = weights.iter().fold(over, |over, &w| over.capture(w));
            g.scan("net", if reverse { over.reversed() } else { over }, cell)
        } else {
            written_out(g, n, reverse, [&[h], &[x], &weights], cell)
        };
        let mut loss = made.carries[0].square().sum();
        if let Some(y) = made.outputs.first() {
            g.output("y", *y);
            loss += y.square().sum();
        }
        g.output("h_n", made.carries[0]);
        g.output("loss", loss);
        let wrt = [x, h, weights[0], weights[1], weights[2]];
        for order in 1..=order {
            let grads = g.grad(loss, &wrt);
            for (name, grad) in ["dx", "dh", "dw", "du", "db"].iter().zip(&grads) {
                g.output(&format!("{name}{order}"), *grad);
            }
            loss = grads.iter().fold(loss.constant_like(0.0), |sum, grad| sum + grad.square().sum());
        }
    });
    graph.unwrap_or_else(|diags| panic!("{diags}"))
}

fn env(n: usize, dtype: cotangent_graph::DType) -> Env {
    let mut state = 7u64;
    let mut number = |_: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / f64::from(1 << 24) - 0.5
    };
    let mut env = Env::default();
    for (name, shape) in [("x", vec![n, 2, 3]), ("h", vec![2, 4]), ("w", vec![3, 4]), ("u", vec![4, 4]), ("b", vec![4])]
    {
        let shape = cotangent_graph::Shape::new(&shape);
        let bits: Vec<u64> = (0..shape.n_elements()).map(|k| dtype.bits_of_f64(number(k))).collect();
        env = env.with(name, TensorData::from_bits(dtype, &shape, &bits));
    }
    env
}

fn optimized(graph: &Graph) -> Graph {
    let options = PassOptions { verify: true, ..PassOptions::default() };
    optimize(graph, &options).unwrap_or_else(|error| panic!("{error}")).graph
}

fn n_loops(graph: &Graph) -> usize {
    let bodies = graph.all_bodies().into_iter().map(AsRef::as_ref).chain([graph]);
    bodies.flat_map(Graph::nodes).filter(|node| matches!(node.op.lower, Lower::Loop)).count()
}

fn close(name: &str, a: &TensorData, b: &TensorData, tolerance: f64) {
    assert_eq!(a.ty(), b.ty(), "{name}");
    for (x, y) in a.to_f64().into_iter().zip(b.to_f64()) {
        assert!((x - y).abs() <= tolerance * (1.0 + x.abs().max(y.abs())), "{name}: {x:e} and {y:e}");
    }
}

#[test]
fn a_loop_is_its_iterations_written_out() {
    for (n, reverse) in [(1, false), (5, false), (5, true)] {
        for order in [1, 2] {
            let looped = optimized(&net(n, reverse, order, true, Checkpoint::All, F64));
            let flat = optimized(&net(n, reverse, order, false, Checkpoint::All, F64));
            let (a, b) =
                (interpret_named(&looped, &env(n, F64)).unwrap(), interpret_named(&flat, &env(n, F64)).unwrap());
            for ((name, x), (_, y)) in a.iter().zip(&b) {
                let exact = ["y", "h_n", "dx1", "dh1"].contains(&name.as_str());
                match exact {
                    true => assert!(x.same_bits(y), "{name} of {n}, {reverse}: {x} and {y}"),
                    false => close(name, x, y, 1e-12),
                }
            }
        }
    }
}

#[test]
fn the_source_means_what_the_passes_make_of_it() {
    let graph = net(4, false, 1, true, Checkpoint::All, F64);
    let (source, done) =
        (interpret_named(&graph, &env(4, F64)).unwrap(), interpret_named(&optimized(&graph), &env(4, F64)).unwrap());
    for ((name, x), (_, y)) in source.iter().zip(&done) {
        // Central differences on the one side.
        close(name, x, y, 1e-7);
    }
}

#[test]
fn checkpoints_change_no_value() {
    for (n, reverse) in [(7, false), (7, true), (6, false)] {
        let all = optimized(&net(n, reverse, 1, true, Checkpoint::All, F64));
        for checkpoint in [Checkpoint::Every(3), Checkpoint::Every(100), Checkpoint::Budget(200)] {
            let some = optimized(&net(n, reverse, 1, true, checkpoint, F64));
            let (a, b) = (interpret_named(&all, &env(n, F64)).unwrap(), interpret_named(&some, &env(n, F64)).unwrap());
            for ((name, x), (_, y)) in a.iter().zip(&b) {
                match ["y", "h_n", "dx1", "dh1"].contains(&name.as_str()) {
                    true => assert!(x.same_bits(y), "{name} of {n} with {checkpoint:?}"),
                    false => close(name, x, y, 1e-12),
                }
            }
        }
    }
    assert_eq!(Checkpoint::Every(0).every(5, 1, 0), 1);
    // 100 iterations of 10 bytes: ten parts, and ten carries made again at a time.
    assert_eq!([1000, 999, 200, 1].map(|bytes| Checkpoint::Budget(bytes).every(100, 10, 0)), [1, 2, 10, 10]);
    assert_eq!([6000, 5999, 600, 1].map(|bytes| Checkpoint::Budget(bytes).every(100, 10, 50)), [1, 2, 3, 4]);
}

#[test]
fn no_iterations_are_the_start() {
    let done = optimized(&net(0, false, 1, true, Checkpoint::All, F32));
    let env = env(0, F32);
    let values = interpret_named(&done, &env).unwrap();
    let value = |name: &str| &values.iter().find(|(known, _)| known == name).unwrap().1;
    assert!(value("h_n").same_bits(&env.values["h"]));
    assert_eq!(value("y").shape(), cotangent_graph::Shape::new(&[0, 2, 4]));
    assert!(value("dw1").to_f64().iter().all(|&v| v == 0.0));
    let twice: Vec<f64> = env.values["h"].to_f64().iter().map(|v| 2.0 * v).collect();
    assert_eq!(value("dh1").to_f64(), twice);
}

#[test]
fn a_gradient_is_one_loop_more_and_keeps_what_it_needs() {
    let done = optimized(&net(5, false, 1, true, Checkpoint::All, F32));
    assert_eq!(n_loops(&done), 2, "{done}");
    let scans: Vec<_> = done.nodes().iter().filter_map(|node| done.scan(node)).collect();
    assert_eq!((scans[0].n_carries, scans[0].reverse), (1, false));
    // The weights' gradients are products after the loop, so only the cotangent of the state is carried.
    assert_eq!((scans[1].n_carries, scans[1].reverse), (1, true), "{done}");
    // A loop that is not differentiated keeps nothing.
    let plain = optimized(&net(5, false, 0, true, Checkpoint::All, F32));
    let scan = plain.nodes().iter().find_map(|node| plain.scan(node)).unwrap();
    assert_eq!(scan.body.outputs().len(), 2);
    assert_eq!(scans[0].body.outputs().len(), 3);
}

#[test]
fn what_nobody_needs_of_a_loop_is_left_out() {
    let graph = build(|g| {
        let x = g.input("x", F32, [4, 2]);
        let over = Loop::new().carry(g.zeros(F32, [2])).carry(g.zeros(F32, [2])).slice(x).slice(x * 2.0);
        let made = g.scan("two", over, |_, i| Made {
            carries: vec![i.carries[0] + i.slices[0], i.carries[1] * i.slices[1].exp()],
            outputs: vec![i.slices[1].tanh(), i.carries[0]],
        });
        g.output("sum", made.carries[0]);
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    let done = optimized(&graph);
    let scan = done.nodes().iter().find_map(|node| done.scan(node)).unwrap();
    assert_eq!((scan.n_carries, scan.n_slices, scan.body.outputs().len()), (1, 1, 1), "{done}");
    let env = Env::default().with("x", ndarray::Array2::from_shape_fn((4, 2), |(i, j)| (i * 2 + j) as f32));
    assert_eq!(interpret_named(&done, &env).unwrap(), interpret_named(&graph, &env).unwrap());
}

#[test]
fn loops_print_and_parse_and_nest() {
    let graph = build(|g| {
        let x = g.input("x", F64, [3, 2]);
        let outer = g.scan("outer", Loop::new().carry(g.scalar(1.0, F64)).slice(x), |g, i| {
            let inner = g.fori("inner", 4, Loop::new().carry(i.carries[0]).capture(i.slices[0]), |_, number, j| {
                let y = j.carries[0] * 0.5 + j.captures[0].sum() * number.cast(F64) + j.carries[0].sin();
                Made { carries: vec![y], outputs: vec![y] }
            });
            Made { carries: inner.carries, outputs: inner.outputs }
        });
        g.output("all", outer.outputs[0]);
        let loss = outer.carries[0] + outer.outputs[0].square().sum();
        let dx = g.grad(loss, &[x])[0];
        g.output("dx", dx);
        g.output("ddx", g.grad(dx.square().sum(), &[x])[0]);
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    let parsed = text::parse(&graph.to_string(), "loops.ct", &Registry::builtin()).unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(parsed.to_string(), graph.to_string());
    let done = optimized(&graph);
    let text = done.to_string();
    let again = text::parse(&text, "loops.ct", &Registry::builtin()).unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(again.to_string(), text);
    let env = Env::default().with("x", ndarray::array![[0.1, -0.2], [0.3, 0.05], [-0.4, 0.2]]);
    let at = |env: &Env| interpret_named(&done, env).unwrap();
    let (a, b) = (interpret_named(&graph, &env).unwrap(), at(&env));
    for ((name, x), (_, y)) in a.iter().zip(&b).filter(|((name, _), _)| name != "ddx") {
        close(name, x, y, 1e-7);
    }
    // Of order 2: the differences of Σ dx², element by element.
    let moved = |k: usize, step: f64| {
        let mut x = env.values["x"].to_f64();
        x[k] += step;
        let x = ndarray::Array2::from_shape_vec((3, 2), x).unwrap();
        at(&Env::default().with("x", x))[1].1.to_f64().iter().map(|v| v * v).sum::<f64>()
    };
    for (k, got) in b[2].1.to_f64().into_iter().enumerate() {
        let expected = (moved(k, 1e-6) - moved(k, -1e-6)) / 2e-6;
        assert!((got - expected).abs() < 1e-6 * (1.0 + expected.abs()), "element {k}: {got} and {expected}");
    }
}

#[test]
fn a_bounded_while_stops_where_its_condition_fails() {
    let graph = build(|g| {
        let x = g.input("x", F64, []);
        let run = |bound| {
            let over = Loop::new().carry(x);
            g.while_loop("double", bound, over, |_, i| i.carries[0].lt(100.0), |_, i| vec![i.carries[0] * 2.0])
        };
        let (value, count) = run(20);
        g.output("value", value[0]);
        g.output("count", count);
        g.output("slope", g.grad(value[0], &[x])[0]);
        g.output("cut", run(3).1);
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    let values = interpret_named(&optimized(&graph), &Env::default().with("x", 3.0)).unwrap();
    let numbers: Vec<f64> = values.iter().map(|(_, v)| v.as_scalar().unwrap()).collect();
    assert_eq!(numbers, [192.0, 6.0, 64.0, 3.0]);
    assert_eq!(values[1].1.dtype(), I64);
}

#[test]
fn iterations_draw_numbers_of_their_own() {
    let graph = build(|g| {
        let run = |name: &str| {
            let over = Loop::new().times(3);
            g.scan(name, over, |g, _| Made { carries: vec![], outputs: vec![g.uniform("noise", F64, [4])] }).outputs[0]
        };
        g.output("a", run("a"));
        g.output("b", run("a"));
        g.output("plain", g.uniform("noise", F64, [4]));
        let x = g.input("x", F64, [4]);
        let over = Loop::new().times(3).capture(x);
        let masked = g.scan("mask", over, |g, i| {
            let noise = g.uniform("noise", F64, [4]);
            Made { carries: vec![], outputs: vec![noise * i.captures[0], noise] }
        });
        // The derivative of Σ noise·x is the sum of the very numbers.
        g.output("noise", masked.outputs[1].sum_over(0));
        g.output("slope", g.grad(masked.outputs[0].sum(), &[x])[0]);
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    let values =
        interpret_named(&optimized(&graph), &Env::default().with("x", ndarray::Array1::from_elem(4, 1.0))).unwrap();
    let mut all: Vec<u64> = values[..3].iter().flat_map(|(_, v)| v.bits()).collect();
    let n = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), n, "numbers repeat");
    close("slope", &values[3].1, &values[4].1, 1e-14);
}

#[test]
fn results_that_are_the_same_in_every_iteration_are_one() {
    let graph = build(|g| {
        let x = g.input("x", F32, [4, 2]);
        let made = g.scan("twice", Loop::new().carry(g.zeros(F32, [2])).slice(x), |_, i| {
            let y = i.slices[0] + i.carries[0];
            // The last one is known to be the first only once both are simplified.
            Made { carries: vec![y], outputs: vec![y.exp(), y, y.exp(), y + 0.0] }
        });
        made.outputs.iter().zip(["a", "b", "c", "d"]).for_each(|(&value, name)| g.output(name, value));
        g.output("last", made.carries[0]);
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    let done = optimized(&graph);
    let scan = done.nodes().iter().find_map(|node| done.scan(node)).unwrap();
    // A carry's last value and its stacked values are different things.
    assert_eq!(scan.body.outputs().len(), 1 + 2, "{done}");
    let env = Env::default().with("x", ndarray::Array2::from_shape_fn((4, 2), |(i, j)| (i * 2 + j) as f32 - 3.0));
    assert_eq!(interpret_named(&done, &env).unwrap(), interpret_named(&graph, &env).unwrap());
}

#[test]
fn what_no_result_depends_on_has_no_gradient() {
    let graph = build(|g| {
        let (a, x) = (g.input("a", F64, [2]), g.input("x", F64, [3, 2]));
        let made = g.scan("apart", Loop::new().carry(a).slice(x), |_, i| Made {
            carries: vec![i.carries[0].tanh()],
            outputs: vec![i.slices[0].square()],
        });
        g.output("da", g.grad(made.outputs[0].sum(), &[a])[0]);
        g.output("dx", g.grad(made.outputs[0].sum() + made.carries[0].sum(), &[x])[0]);
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    let env = Env::default()
        .with("a", ndarray::array![0.1, 0.2])
        .with("x", ndarray::array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    let values = interpret_named(&optimized(&graph), &env).unwrap();
    assert_eq!(values[0].1.to_f64(), [0.0, 0.0]);
    assert_eq!(values[1].1.to_f64(), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
}

#[test]
fn what_does_not_depend_on_carries_leaves_the_loop() {
    let graph = |rows: usize| {
        let graph = build(|g| {
            let (x, h) = (g.input("x", F32, [6, rows, 3]), g.input("h", F32, [rows, 4]));
            let (w, u, rows_of) = (g.input("w", F32, [3, 4]), g.input("u", F32, [4, 4]), g.input("at", I64, [2]));
            let over = Loop::new().carry(h).slice(x).capture(w).capture(u).capture(rows_of);
            let made = g.scan("net", over, |_, i| {
                let scale = i.captures[0].exp().sum_over(0);
                let picked = i.captures[1].gather(i.captures[2]).sum_over(0);
                let h =
                    (i.slices[0].matmul(i.captures[0]) * scale + i.carries[0].matmul(i.captures[1]) + picked).tanh();
                Made { carries: vec![h], outputs: vec![h] }
            });
            g.output("all", made.outputs[0]);
        });
        graph.unwrap_or_else(|diags| panic!("{diags}"))
    };
    for (rows, n_products) in [(2, 1), (1, 0)] {
        let graph = graph(rows);
        let options = PassOptions { verify: true, ..PassOptions::default() };
        let done = optimize(&graph, &options).unwrap_or_else(|error| panic!("{error}"));
        let report = done.report.iter().find(|report| report.name == "hoist").unwrap();
        // One row is summed in lanes, several are not, so that product stays; and what may fail stays.
        assert_eq!(report.rules.get("product_of_slices").copied().unwrap_or(0), n_products, "{}", done.graph);
        assert_eq!(report.rules.get("once").copied(), Some(1), "{}", done.graph);
        let scan = done.graph.nodes().iter().find_map(|node| done.graph.scan(node)).unwrap();
        let has = |op: &'static OpDef| scan.body.nodes().iter().any(|node| node.is(op));
        assert!(has(&GATHER) && !has(&EXP), "{}", done.graph);
        let mut env = Env::default().with("at", ndarray::array![1i64, 3]);
        for (name, shape) in [("x", vec![6, rows, 3]), ("h", vec![rows, 4]), ("w", vec![3, 4]), ("u", vec![4, 4])] {
            let mut k = 0.0f32;
            let next = || {
                k += 1.0;
                (k * 0.7).sin()
            };
            env = env.with(name, ndarray::ArrayD::from_shape_simple_fn(shape, next));
        }
        assert!(
            interpret_named(&graph, &env).unwrap()[0].1.same_bits(&interpret_named(&done.graph, &env).unwrap()[0].1)
        );
    }
}
