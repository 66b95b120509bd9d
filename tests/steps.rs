//! What is not loops, against loops in plain Rust: running sums and products, recurrences, orders, slices and rows whose places
//! are known at run time; and what such a step touches.

use cotangent::graph::DType;
use cotangent::graph::op::{Lower, Registry};
use cotangent::kernel::{Home, Step};
use cotangent::prelude::*;
use ndarray::{Array1, Array2, ArrayD, IxDyn, array};

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

fn session(graph: &Graph, n_threads: usize) -> Session {
    let program = Compiler::new().compile(graph).unwrap_or_else(|error| panic!("{error}"));
    Session::new(&Runtime::new(Threads::Exactly(n_threads)), program, Seed(0)).unwrap()
}

fn numbers(n: usize) -> Vec<f32> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The lines along an axis, in order: for each the places of its elements.
fn lines(shape: &[usize], axis: usize, reverse: bool) -> Vec<Vec<usize>> {
    let inner: usize = shape[axis + 1..].iter().product();
    let (n, outer): (usize, usize) = (shape[axis], shape[..axis].iter().product());
    let line = |o: usize, i: usize| -> Vec<usize> {
        let places = (0..n).map(move |k| (o * n + k) * inner + i);
        if reverse { places.rev().collect() } else { places.collect() }
    };
    (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))).map(|(o, i)| line(o, i)).collect()
}

#[test]
fn running_sums_and_recurrences_go_in_order_along_the_axis() {
    let shapes =
        [vec![1], vec![100], vec![3, 70], vec![19, 7], vec![8, 33], vec![5, 6, 7], vec![4, 1], vec![0, 3], vec![3, 0]];
    for shape in shapes {
        for axis in 0..shape.len() {
            for (reverse, exclusive) in [(false, false), (true, false), (false, true), (true, true)] {
                let n = shape.iter().product();
                let (x, a) = (numbers(n), numbers(n).into_iter().rev().collect::<Vec<f32>>());
                let graph = build(|g| {
                    let (x, a) = (g.input("x", F32, &shape[..]), g.input("a", F32, &shape[..]));
                    g.output("sum", x.cumsum_with(axis, reverse, exclusive));
                    g.output("product", x.cumprod_with(axis, reverse, exclusive));
                    g.output("linear", x.linear_recurrence_with(a, axis, reverse));
                });
                let mut want = [vec![0.0f32; n], vec![0.0; n], vec![0.0; n]];
                for line in lines(&shape, axis, reverse) {
                    let (mut sum, mut product, mut before) = (0.0, 1.0, None);
                    for at in line {
                        if exclusive {
                            (want[0][at], want[1][at]) = (sum, product);
                        }
                        sum += x[at];
                        product *= x[at];
                        if !exclusive {
                            (want[0][at], want[1][at]) = (sum, product);
                        }
                        want[2][at] = before.map_or(x[at], |y: f32| a[at] * y + x[at]);
                        before = Some(want[2][at]);
                    }
                }
                let mut session = session(&graph.unwrap(), 2);
                let [x, a] = [x, a].map(|v| ArrayD::from_shape_vec(IxDyn(&shape), v).unwrap());
                let out = session.step((("x", &x), ("a", &a))).unwrap();
                for (name, want) in ["sum", "product", "linear"].into_iter().zip(&want) {
                    let got: Vec<f32> = out.view::<f32>(name).unwrap().iter().copied().collect();
                    assert_eq!(&got, want, "{name} of {shape:?} along {axis}, {reverse} {exclusive}");
                }
            }
        }
    }
}

/// Integers wrap; a sum of negative zeros is 0.
#[test]
fn running_sums_follow_the_conventions_of_sums() {
    let graph = build(|g| {
        g.output("small", g.input("small", U8, [3]).cumsum(0));
        g.output("wide", g.input("wide", I64, [2]).cumprod(0));
        g.output("zeros", g.input("zeros", F32, [2]).cumsum(0));
    });
    let (small, wide, zeros) = (array![200u8, 100, 1], array![i64::MAX, 2], array![-0.0f32, -0.0]);
    let mut session = session(&graph.unwrap(), 1);
    let out = session.step((("small", &small), ("wide", &wide), ("zeros", &zeros))).unwrap();
    assert_eq!(out.view::<u8>("small").unwrap().as_slice().unwrap(), [200, 44, 45]);
    assert_eq!(out.view::<i64>("wide").unwrap().as_slice().unwrap(), [i64::MAX, -2]);
    assert!(out.view::<f32>("zeros").unwrap().iter().all(|v| v.to_bits() == 0));
}

/// The gradient of a running product divides by nothing.
#[test]
fn running_products_have_gradients_at_zeros() {
    let graph = build(|g| {
        let x = g.input("x", F64, [4]);
        let dx = g.grad(x.cumprod(0).sum(), &[x])[0];
        g.output("dx", dx);
        g.output("ddx", g.grad(dx.sum(), &[x])[0]);
    });
    let x = [2.0f64, 0.0, 3.0, 5.0];
    // y = (a, ab, abc, abcd); the sum's derivatives by hand.
    let [a, b, c, d] = x;
    let first = [1.0 + b + b * c + b * c * d, a + a * c + a * c * d, a * b + a * b * d, a * b * c];
    let second = [
        (1.0 + c + c * d) + (b + b * d) + b * c,
        (1.0 + c + c * d) + (a + a * d) + a * c,
        (b + b * d) + (a + a * d) + a * b,
        b * c + a * c + a * b,
    ];
    let mut session = session(&graph.unwrap(), 1);
    let out = session.step(("x", &Array1::from(x.to_vec()))).unwrap();
    assert_eq!(out.view::<f64>("dx").unwrap().as_slice().unwrap(), first);
    assert_eq!(out.view::<f64>("ddx").unwrap().as_slice().unwrap(), second);
}

/// What an exclusive product does not use has no derivative and spoils none, whatever it is.
#[test]
fn the_last_factor_of_an_exclusive_product_is_not_looked_at() {
    let graph = build(|g| {
        let x = g.input("x", F64, [3]);
        for (name, reverse) in [("forward", false), ("reverse", true)] {
            g.output(name, g.grad(x.cumprod_with(0, reverse, true).sum(), &[x])[0]);
        }
    });
    let mut session = session(&graph.unwrap(), 1);
    let mut of = |x: [f64; 3], name: &str| {
        let out = session.step(("x", &Array1::from(x.to_vec()))).unwrap();
        out.view::<f64>(name).unwrap().iter().copied().collect::<Vec<f64>>()
    };
    assert_eq!(of([2.0, 3.0, f64::INFINITY], "forward"), [1.0 + 3.0, 2.0, 0.0]);
    assert_eq!(of([f64::NAN, 3.0, 2.0], "reverse"), [0.0, 2.0, 1.0 + 3.0]);
}

#[test]
fn orders_are_stable_with_nan_last() {
    let x = [3.0f32, NAN, -0.0, INF, 0.0, -INF, 3.0, -NAN, 1e-45, -1e-45, f32::MAX, f32::MIN];
    let up = [5i64, 11, 9, 2, 4, 8, 0, 6, 10, 3, 1, 7];
    let down = [3i64, 10, 0, 6, 8, 2, 4, 9, 11, 5, 1, 7];
    let graph = build(|g| {
        let x = g.input("x", F32, [12]);
        for (name, x) in [("f32", x), ("f64", x.cast(F64))] {
            g.output(&format!("{name} up"), x.argsort(0));
            g.output(&format!("{name} down"), x.argsort_with(0, true));
            for k in [0, 1, 5, 11, 12] {
                g.output(&format!("{name} {k}"), x.top_k(k, 0).1);
            }
        }
        g.output("values", x.top_k(3, 0).0);
    });
    let mut session = session(&graph.unwrap(), 1);
    let x = Array1::from(x.to_vec());
    let out = session.step(("x", &x)).unwrap();
    for name in ["f32", "f64"] {
        assert_eq!(out.view::<i64>(&format!("{name} up")).unwrap().as_slice().unwrap(), up, "{name}");
        assert_eq!(out.view::<i64>(&format!("{name} down")).unwrap().as_slice().unwrap(), down, "{name}");
        for k in [0, 1, 5, 11, 12] {
            assert_eq!(out.view::<i64>(&format!("{name} {k}")).unwrap().as_slice().unwrap(), &down[..k], "{name}");
        }
    }
    assert_eq!(out.view::<f32>("values").unwrap().as_slice().unwrap(), [INF, f32::MAX, 3.0]);
}

#[test]
fn integers_and_truth_values_have_orders() {
    let graph = build(|g| {
        g.output("i32", g.input("i", I32, [5]).argsort(0));
        g.output("i64", g.input("l", I64, [5]).argsort_with(0, true));
        g.output("u8", g.input("u", U8, [5]).sort(0));
        g.output("bool", g.input("b", DType::Bool, [5]).argsort(0));
        g.output("least", g.input("l2", I64, [3]).top_k(1, 0).1);
    });
    let (i, l) = (array![i32::MAX, -1, i32::MIN, 0, -1], array![i64::MIN, 5, i64::MAX, 5, -5]);
    let (u, b, l2) =
        (array![3u8, 255, 0, 3, 1], array![true, false, true, false, true], array![i64::MIN, i64::MIN, i64::MIN]);
    let mut session = session(&graph.unwrap(), 1);
    let out = session.step((("i", &i), ("l", &l), ("u", &u), ("b", &b), ("l2", &l2))).unwrap();
    assert_eq!(out.view::<i64>("i32").unwrap().as_slice().unwrap(), [2, 1, 4, 3, 0]);
    assert_eq!(out.view::<i64>("i64").unwrap().as_slice().unwrap(), [2, 1, 3, 4, 0]);
    assert_eq!(out.view::<u8>("u8").unwrap().as_slice().unwrap(), [0, 1, 3, 3, 255]);
    assert_eq!(out.view::<i64>("bool").unwrap().as_slice().unwrap(), [1, 3, 0, 2, 4]);
    assert_eq!(out.view::<i64>("least").unwrap().as_slice().unwrap(), [0]);
}

/// Long rows with many equal elements, along every axis, on any number of threads.
#[test]
fn orders_of_long_rows_are_those_of_a_stable_sort() {
    let shape = [6, 500, 4];
    let x: Vec<f32> = numbers(12_000).into_iter().map(|v| (v * 40.0).round()).collect();
    for axis in 0..3 {
        let graph = build(|g| {
            let x = g.input("x", F32, shape);
            let sorted = x.sort_with(axis, true);
            g.output("places", x.argsort_with(axis, true));
            g.output("sorted", sorted);
            g.output("top", x.top_k(3, axis).1);
            // The gradient goes back to where each element came from.
            g.output("dx", g.grad((sorted * sorted.constant_like(2.0) * x.constant_like(0.5)).sum(), &[x])[0]);
        });
        let graph = graph.unwrap();
        for n_threads in [1, 3] {
            let mut session = session(&graph, n_threads);
            let x = ArrayD::from_shape_vec(IxDyn(&shape), x.clone()).unwrap();
            let out = session.step(("x", &x)).unwrap();
            let flat = |name: &str| out.view::<i64>(name).unwrap().iter().copied().collect::<Vec<i64>>();
            let (places, top) = (flat("places"), flat("top"));
            let sorted: Vec<f32> = out.view::<f32>("sorted").unwrap().iter().copied().collect();
            let x: Vec<f32> = x.iter().copied().collect();
            let mut cut = shape;
            cut[axis] = 3;
            for (line, first) in lines(&shape, axis, false).iter().zip(lines(&cut, axis, false)) {
                let mut order: Vec<usize> = (0..line.len()).collect();
                order.sort_by(|&a, &b| x[line[b]].partial_cmp(&x[line[a]]).unwrap());
                for (k, &from) in order.iter().enumerate() {
                    assert_eq!(places[line[k]], from as i64, "axis {axis}");
                    assert_eq!(sorted[line[k]], x[line[from]]);
                    if k < 3 {
                        assert_eq!(top[first[k]], from as i64);
                    }
                }
            }
            assert!(out.view::<f32>("dx").unwrap().iter().all(|&v| v == 1.0));
        }
    }
}

/// A cache of which each step writes a row: no copy of it, and no more bytes moved than rows take.
fn cache(g: &GraphBuilder) {
    let cache = g.state("cache", F32, [1000, 64], Init::ZEROS);
    let (row, position) = (g.input("row", F32, [1, 64]), g.input("position", I64, []));
    let next = cache.dynamic_update_slice(row, &[position, g.scalar(0, I64)]);
    g.update(cache, next);
    g.output("read", next.dynamic_slice(&[position, g.scalar(0, I64)], [1, 64]));
}

#[test]
fn a_cache_is_updated_where_it_stands() {
    let graph = build(cache).unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let plan = program.plan();
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::Copy { .. })), "{plan}");
    let in_arena = |decl: &&cotangent::kernel::BufferDecl| matches!(decl.home, Home::Arena { .. });
    let arena: Vec<usize> = plan.buffers.iter().filter(in_arena).map(|decl| decl.n_bytes()).collect();
    assert_eq!(arena, [256], "only the row that is read\n{plan}");
    assert!(plan.bytes_moved() < 8 * 256, "{} bytes\n{plan}", plan.bytes_moved());
    // The starts along the second axis are constants: nothing is left to check, and no kernel writes them down.
    assert_eq!(plan.steps.iter().filter(|step| matches!(step, Step::Check { .. })).count(), 1, "{plan}");
    assert_eq!(plan.figures().n_kernels, 0, "{plan}");
    assert_eq!(plan.in_place().len(), 1);

    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    let row = |k: usize| Array2::from_shape_fn((1, 64), |(_, j)| (k * 100 + j) as f32);
    for k in [3usize, 999, 0, 3] {
        let position = ndarray::arr0(k as i64);
        let out = session.step((("row", &row(k)), ("position", &position))).unwrap();
        assert_eq!(out.view::<f32>("read").unwrap(), row(k).into_dyn());
    }
    let stored = session.store().get("cache").unwrap().to_f64();
    let sum: f64 = stored.iter().sum();
    let want: f64 = [3usize, 999, 0].iter().map(|&k| row(k).sum() as f64).sum();
    assert_eq!(sum, want);
}

/// A start that leaves no room is an error before anything changes, also beside updates that would come first.
#[test]
fn starts_are_checked_and_not_clamped() {
    let graph = build(|g| {
        cache(g);
        let count = g.state("count", F32, [], Init::ZEROS);
        g.update(count, count + 1.0);
    });
    let mut session = session(&graph.unwrap(), 1);
    let row = Array2::<f32>::ones((1, 64));
    for bad in [-1i64, 1000, i64::MAX, i64::MIN] {
        let position = ndarray::arr0(bad);
        let error = session.step((("row", &row), ("position", &position))).unwrap_err().to_string();
        assert!(error.contains("0..1000") && error.contains(&bad.to_string()), "{error}");
    }
    for name in ["cache", "count"] {
        assert!(session.store().get(name).unwrap().to_f64().iter().all(|&v| v == 0.0), "{name}");
    }
}

/// Where the old value is needed afterwards, it is kept; and an operand that dies lends its memory.
#[test]
fn an_old_value_that_is_read_stays() {
    let graph = build(|g| {
        let x = g.input("x", F32, [40, 3]);
        let (at, part) = (g.input("at", I64, []), g.input("part", F32, [2, 2]));
        let old = x * 2.0;
        let new = old.dynamic_update_slice(part, &[at, g.scalar(1, I64)]);
        g.output("both", old + new);
        let once = (x + 1.0).dynamic_update_slice(part, &[at, g.scalar(0, I64)]);
        g.output("once", once);
        // An operand is its own part.
        g.output("whole", (x - 1.0).dynamic_update_slice(x - 1.0, &[g.scalar(0, I64), g.scalar(0, I64)]));
        let state = g.state("state", F32, [40, 3], Init::ONES);
        g.update(state, state.dynamic_update_slice(part, &[at, g.scalar(1, I64)]));
        g.output("before", state.sum());
    });
    let program = Compiler::new().compile(&graph.unwrap()).unwrap();
    assert!(!program.plan().in_place().is_empty(), "{}", program.plan());
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    let x = Array2::from_shape_fn((40, 3), |(i, j)| (i * 3 + j) as f32);
    let (at, part) = (ndarray::arr0(38i64), array![[-1.0f32, -2.0], [-3.0, -4.0]]);
    let out = session.step((("x", &x), ("at", &at), ("part", &part))).unwrap();
    let pasted = |base: &Array2<f32>, column: usize| {
        let mut base = base.clone();
        base.slice_mut(ndarray::s![38..40, column..column + 2]).assign(&part);
        base
    };
    let old = &x * 2.0;
    assert_eq!(out.view::<f32>("both").unwrap(), (&old + &pasted(&old, 1)).into_dyn());
    assert_eq!(out.view::<f32>("once").unwrap(), pasted(&(&x + 1.0), 0).into_dyn());
    assert_eq!(out.view::<f32>("whole").unwrap(), (&x - 1.0).into_dyn());
    assert_eq!(out.scalar("before").unwrap(), 120.0);
    let state = session.store().get("state").unwrap().to_f64();
    assert_eq!(state, pasted(&Array2::ones((40, 3)), 1).iter().map(|&v| f64::from(v)).collect::<Vec<f64>>());
}

/// Of equal indices the last row stays, and it alone has a gradient.
#[test]
fn rows_are_set_in_the_order_of_the_indices() {
    let graph = build(|g| {
        let (x, rows) = (g.input("x", F32, [4, 2]), g.input("rows", F32, [3, 2]));
        let y = x.scatter_set(rows, g.input("at", I32, [3]));
        g.output("y", y);
        let weights = g.input("weights", F32, [4, 2]);
        for (name, dx) in ["dx", "drows"].into_iter().zip(g.grad((y * weights).sum(), &[x, rows])) {
            g.output(name, dx);
        }
    });
    let mut session = session(&graph.unwrap(), 2);
    let (x, rows) = (Array2::<f32>::zeros((4, 2)), array![[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    let (at, weights) = (array![2i32, 0, 2], array![[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]);
    let out = session.step((("x", &x), ("rows", &rows), ("at", &at), ("weights", &weights))).unwrap();
    let want = |name: &str, want: Array2<f32>| assert_eq!(out.view::<f32>(name).unwrap(), want.into_dyn(), "{name}");
    want("y", array![[3.0, 4.0], [0.0, 0.0], [5.0, 6.0], [0.0, 0.0]]);
    want("dx", array![[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [7.0, 8.0]]);
    want("drows", array![[0.0, 0.0], [1.0, 2.0], [5.0, 6.0]]);
}

/// Mistakes are errors with what was required and what was got.
#[test]
fn mistakes_are_errors() {
    let said = |f: &dyn Fn(&GraphBuilder)| build(|g| f(g)).expect_err("it is a mistake").to_string();
    let expect = |f: &dyn Fn(&GraphBuilder), what: &str| {
        let text = said(f);
        assert!(text.contains(what), "expected {what:?} in {text}");
    };
    expect(&|g| g.output("y", g.input("x", F32, [2]).cumsum(1)), "`cumsum` requires an axis");
    expect(&|g| g.output("y", g.input("x", DType::Bool, [2]).cumsum(0)), "requires numbers, got bool");
    expect(&|g| g.output("y", g.input("x", F32, [2, 3]).argsort(2)), "an order requires an axis");
    expect(&|g| g.output("y", g.input("x", F32, [2, 3]).sort(-3)), "an order requires an axis");
    expect(&|g| g.output("y", g.input("x", F32, []).argsort(0)), "an order requires an axis");
    expect(&|g| g.output("y", g.input("x", F32, [2, 3]).top_k(4, 1).0), "requires k in 0..=3, got 4");
    let start = |g: &GraphBuilder| g.input("at", I64, []).id();
    let with = move |g: &GraphBuilder, n: usize, sizes: [usize; 2]| {
        let at = g.tensor(start(g));
        g.output("y", g.input("x", F32, [2, 3]).dynamic_slice(&vec![at; n], sizes));
    };
    expect(&|g| with(g, 1, [1, 1]), "requires one start for each axis of [2,3], got 1");
    expect(&|g| with(g, 2, [1, 4]), "requires a part that fits into [2,3], got [1,4]");
    expect(
        &|g| {
            let at = g.input("at", F32, []);
            g.output("y", g.input("x", F32, [2]).dynamic_slice(&[at], [1]));
        },
        "requires i32 or i64 indices, got f32",
    );
    expect(
        &|g| {
            let (x, part) = (g.input("x", F32, [2]), g.input("part", F64, [1]));
            g.output("y", x.dynamic_update_slice(part, &[g.input("at", I64, [])]));
        },
        "one element type",
    );
    expect(
        &|g| {
            let (x, rows) = (g.input("x", F32, [2, 3]), g.input("rows", F32, [4, 2]));
            g.output("y", x.scatter_set(rows, g.input("at", I64, [4])));
        },
        "requires rows of shape [4,3], got [4,2]",
    );
    // A constant that is out of range is told as every other: when the step runs.
    let graph = build(|g| g.output("y", g.input("x", F32, [4]).dynamic_slice(&[g.scalar(3, I64)], [2])));
    let error = session(&graph.unwrap(), 1).step(("x", &Array1::<f32>::zeros(4))).unwrap_err().to_string();
    assert!(error.contains("0..3") && error.contains('3'), "{error}");
}

/// Every step of the registry has a sentence for the reference and runs divided as whole: the bits of the interpreter on many
/// threads are those of one.
#[test]
fn steps_are_divided_without_a_trace() {
    let n_steps = Registry::builtin().iter().filter(|op| matches!(op.lower, Lower::Step(_))).count();
    assert!(n_steps >= 10, "{n_steps}");
    let graph = build(|g| {
        let x = g.input("x", F32, [300, 200]);
        let indices = x.argsort(-1).slice(&[0, 0], &[300, 1]).reshape([300]);
        g.output("sum", x.cumsum(-1));
        g.output("product", x.cumprod_with(-1, true, true));
        g.output("top", x.top_k(20, -1).1);
        g.output("rows", x.gather(indices));
        g.output("added", x.scatter_add(indices, 200));
        g.output("part", x.dynamic_slice(&[g.scalar(7, I64), g.scalar(1, I64)], [280, 150]));
    });
    let graph = graph.unwrap();
    let x = Array2::from_shape_vec((300, 200), numbers(60_000)).unwrap();
    let run = |n_threads: usize| {
        let mut session = session(&graph, n_threads);
        let out = session.step(("x", &x)).unwrap();
        ["sum", "product", "top", "rows", "added", "part"].map(|name| out.tensor(name).unwrap())
    };
    let one = run(1);
    for n_threads in [2, 3, 7] {
        for (a, b) in one.iter().zip(&run(n_threads)) {
            assert!(a.same_bits(b), "{n_threads} threads");
        }
    }
}
