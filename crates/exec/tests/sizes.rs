//! Sizes and numbers at the ends of what their types hold: they are right, or an error, never wrapped.

use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
use cotangent_graph::interp::{interpret, interpret_named};
use cotangent_graph::op::OpDef;
use cotangent_graph::{Attr, Attrs, Code, DType, Env, Graph, GraphBuilder, Tensor, TensorData, Type, build, ops};
use cotangent_nn::summary;

const F32: DType = DType::F32;

fn graph(f: impl FnOnce(&GraphBuilder)) -> Graph {
    build(f).unwrap_or_else(|diags| panic!("{diags}"))
}

fn x(shape: &[usize]) -> TensorData {
    let n: usize = shape.iter().product();
    let bits: Vec<u64> = (0..n).map(|i| u64::from((i as f32 + 1.0).to_bits())).collect();
    TensorData::from_bits(F32, &shape.into(), &bits)
}

/// Runs a graph with the input `x`, fused or not, and compares with the interpreter and with what is expected of `y`.
#[track_caller]
fn check(graph: &Graph, x: TensorData, expected: &[f64]) {
    let env = Env::default().with("x", x);
    assert_eq!(interpret(graph, &env).unwrap_or_else(|diag| panic!("{diag}"))[0].to_f64(), expected);
    for fuse in [true, false] {
        let program = Compiler::new().fuse(fuse).compile(graph).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program.clone(), Seed(0)).unwrap();
        let out = session.step(program.inputs_of(&env)).unwrap();
        for (name, value) in interpret_named(program.optimized(), &env).unwrap() {
            assert!(out.tensor(&name).unwrap().same_bits(&value), "{name}");
        }
    }
}

/// Every `step`-th element of both axes, whatever the step.
fn strided<'g>(x: Tensor<'g>, limit: [usize; 2], step: i64) -> Tensor<'g> {
    let ints = |list: [i64; 2]| Attr::Ints(list.into_iter().collect());
    let limit = limit.map(|n| n as i64);
    let attrs = Attrs::none().with("start", ints([0, 0])).with("limit", ints(limit)).with("step", ints([step; 2]));
    x.unary_with(&ops::view::SLICE, attrs)
}

#[test]
fn steps_of_slices_may_be_as_large_as_any_number() {
    let first = |g: &GraphBuilder| {
        let x = g.input("x", F32, [3, 1 << 10]);
        let y = strided(x, [3, 1 << 10], i64::MAX);
        // Of a slice, and of a slice of which there is nothing.
        g.output("y", strided(y, [1, 1], i64::MAX));
        g.output("dx", g.grad(y.sum(), &[x])[0].slice(&[0, 0], &[2, 2]));
        g.output("empty", strided(x.t().exp(), [0, 3], i64::MAX));
        g.output("nothing", g.grad(strided(x, [0, 3], 1 << 62).sum(), &[x])[0].sum());
        g.output("twice", strided(strided(x, [3, 1 << 10], 2), [2, 1 << 9], i64::MAX - 1));
    };
    check(&graph(first), x(&[3, 1 << 10]), &[1.0]);
}

#[test]
fn what_no_index_can_be_is_an_error() {
    let error = build(|g| {
        let index = g.input("i", DType::I64, [2]);
        g.output("y", index.unary_with(&ops::index::CHECK_INDEX, Attrs::none().with("bound", i64::MIN)));
    });
    assert_eq!(error.unwrap_err().0[0].code, Code::BadAttribute);
    // A bound of 0 lets nothing pass, and of nothing everything.
    let empty = graph(|g| g.output("y", g.input("x", DType::I64, [0]).check_index(0)));
    check(&empty, TensorData::zeros(DType::I64, &[0].into()), &[]);
}

#[test]
fn the_largest_tensors_are_planned() {
    // 2^48 elements, and products with as many terms: nobody runs them, and no number about them wraps.
    let largest = graph(|g| {
        let (a, b) = (g.input("a", F32, [1 << 24, 1]), g.input("b", F32, [1, 1 << 24]));
        let product = a.matmul(b);
        g.output("sum", (product * 2.0).tanh().sum());
        let (long, wide) = (g.input("long", DType::F64, [1, 1 << 47]), g.input("wide", DType::F64, [1 << 47, 2]));
        g.output("dot", long.matmul(wide));
        g.output("scaled", long.softmax(1));
    });
    assert_eq!(summary(&largest).flops(), 2 * (1 << 48) + 4 * (1 << 47));
    for fuse in [true, false] {
        match Compiler::new().fuse(fuse).compile(&largest) {
            Ok(program) => assert!(program.plan_text().contains("arena") && !program.explain().is_empty()),
            Err(error) => assert!(!error.to_string().contains("bug in the compiler"), "{error}"),
        }
    }
    // One element more is refused where it is made, and so are the sizes that would wrap to small ones.
    for [m, n] in [[1 << 24, (1 << 24) + 1], [1 << 32, 1 << 32], [1 << 61, 8], [usize::MAX, usize::MAX]] {
        let error = build(|g| {
            let (a, b) = (g.input("a", F32, [m, 1]), g.input("b", F32, [1, n]));
            g.output("y", a.matmul(b));
        });
        assert_eq!(error.unwrap_err().0[0].code, Code::TooLarge, "{m} x {n}");
        assert_eq!(Type::tensor(F32, [m, n]).shape().checked_elements(), None);
    }
}

/// An operand of a window op, its attributes, and what the gradient of the result's sum is.
fn views(attrs: Attrs, op: &'static OpDef, shape: &[usize]) -> Result<Graph, cotangent_graph::Diags> {
    build(|g| {
        let x = g.input("x", F32, shape);
        let y = x.unary_with(op, attrs);
        g.output("dx", g.grad(y.square().sum(), &[x])[0]);
    })
}

/// Borders so large that there is no such tensor, although its few windows are one: the user is told, not blamed on the compiler.
#[test]
fn a_border_beyond_the_limits_is_an_error_of_the_user() {
    let ints = |n: i64| Attr::Ints(std::iter::once(n).collect());
    let pool = |axis: &[usize], size: i64, stride: i64, high: i64| {
        let attrs = Attrs::none().with("axes", axis).with("size", ints(size)).with("stride", ints(stride));
        attrs.with("dilation", ints(1)).with("low", ints(0)).with("high", ints(high))
    };
    let cases = [
        // The padded tensor, and what a gradient makes of windows in memory.
        (pool(&[0], 2, 1 << 60, 1 << 60), &[5_usize, 6][..]),
        (pool(&[0], 1 << 23, 3, 0), &[1 << 40]),
    ];
    for (attrs, shape) in cases {
        for op in [&ops::pool::MEAN_POOL, &ops::pool::MAX_POOL] {
            let graph = views(attrs.clone(), op, shape).unwrap_or_else(|diags| panic!("{diags}"));
            let error = Compiler::new().compile(&graph).expect_err("too large").to_string();
            assert!(error.starts_with("error[E0106]"), "{error}");
        }
    }
}

/// One window has no next one, so its distance may be any; so may the steps of a view along one element, and all of them if it has
/// none.
#[test]
fn what_says_nothing_of_an_element_may_be_any_number() {
    let ints = |list: &[i64]| Attr::Ints(list.iter().copied().collect());
    let window =
        Attrs::none().with("axes", [0_usize].as_slice()).with("size", ints(&[2])).with("stride", ints(&[i64::MAX]));
    let window = window.with("dilation", ints(&[1])).with("low", ints(&[1])).with("high", ints(&[0]));
    let strided = |shape: &[i64], offset: &[i64], steps: &[i64]| {
        Attrs::none().with("shape", ints(shape)).with("offset", ints(offset)).with("steps", ints(steps))
    };
    let most = i64::MAX;
    let cases = [
        (&ops::pool::MEAN_POOL, window, [0.5, 0.0, 0.0]),
        (&ops::view::STRIDED, strided(&[1, 1], &[1], &[most, -most]), [0.0, 4.0, 0.0]),
        (&ops::view::STRIDED, strided(&[1, 0], &[most], &[most, 2]), [0.0; 3]),
    ];
    for (op, attrs, expected) in cases {
        let graph = views(attrs, op, &[3]).unwrap_or_else(|diags| panic!("{diags}"));
        let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
        let env = Env::default().with("x", x(&[3]));
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program.clone(), Seed(0)).unwrap();
        let out = session.step(program.inputs_of(&env)).unwrap();
        assert_eq!(out.tensor("dx").unwrap().to_f64(), expected, "{}", op.name);
    }
}
