//! Integers and truth values: exact to the last bit, and refused where a type cannot hold them.

use cotangent::prelude::*;

use crate::run;

#[test]
fn argmax_of_truth_values_and_integers() {
    let x = crate::floats(F32, &[2, 3], &[-1.0, 2.0, -3.0, 4.0, -5.0, 6.0]);
    let make = |g: &GraphBuilder| {
        let x = g.input("x", F32, [2, 3]);
        let positive = x.gt(x.constant_like(0.0));
        g.output("bool", positive.argmax(1));
        g.output("bool columns", positive.argmax(0));
        for dtype in [U8, I32, I64] {
            g.output(&format!("{dtype}"), positive.cast(dtype).argmax(1));
        }
        g.output("no", (positive ^ positive).argmax(1));
    };
    let got = run(make, &[("x", x)]);
    for name in ["bool", "u8", "i32", "i64"] {
        assert_eq!(got[name].to_f64(), [1.0, 0.0], "{name}");
    }
    assert_eq!(got["bool columns"].to_f64(), [1.0, 0.0, 1.0]);
    assert_eq!(got["no"].to_f64(), [0.0, 0.0]);
}

/// 2⁵³ + 1, which no f64 is.
const ODD: i64 = 9_007_199_254_740_993;

#[test]
fn whole_numbers_keep_all_their_bits() {
    let graph = build(|g| {
        let s = g.state("s", I64, [2], Init::constant(ODD));
        let t = g.input("t", I64, [2]);
        g.output("plus", t + ODD);
        g.output("minus", ODD - t);
        g.output("pad", t.pad(&[1], &[0], ODD));
        g.output("like", t.constant_like(ODD));
        g.output("folded", g.scalar(ODD, I64).broadcast_to([2]) * g.scalar(1, I64));
        g.output("state", s);
        g.update(s, s + 1);
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    let text = graph.to_string();
    for line in ["init = constant(9007199254740993)", "value = 9007199254740993"] {
        assert!(text.contains(line), "{text}");
    }
    let again = cotangent::graph::text::parse(&text, "f.ct", &cotangent::graph::Registry::builtin());
    assert_eq!(again.unwrap_or_else(|diags| panic!("{diags}")).to_string(), text);
    for compiler in [Compiler::new(), Compiler::new().fuse(false)] {
        let program = compiler.compile(&graph).unwrap_or_else(|error| panic!("{error}"));
        let runtime = Runtime::new(Threads::Exactly(1));
        let mut session = Session::new(&runtime, program, Seed(0)).unwrap_or_else(|diag| panic!("{diag}"));
        let t = TensorData::from_bits(I64, &[2].into(), &[0, 2]);
        let out = session.step([("t", (&t).into())]).unwrap_or_else(|diag| panic!("{diag}"));
        let of = |name: &str| -> Vec<i64> {
            out.tensor(name).unwrap_or_else(|diag| panic!("{diag}")).bits().iter().map(|&b| b as i64).collect()
        };
        assert_eq!(of("plus"), [ODD, ODD + 2]);
        assert_eq!(of("minus"), [ODD, ODD - 2]);
        assert_eq!(of("pad"), [ODD, 0, 2]);
        assert_eq!(of("like"), [ODD, ODD]);
        assert_eq!(of("folded"), [ODD, ODD]);
        assert_eq!(of("state"), [ODD, ODD]);
        let state = session.store().get("s").unwrap_or_else(|diag| panic!("{diag}"));
        assert_eq!(state.bits(), [ODD as u64 + 1; 2]);
    }
}

#[test]
fn whole_numbers_are_rounded_once() {
    // Half-way between two f32 but for the last bit, which an f64 does not hold.
    let x = (1i64 << 62) + (1 << 38) + 1;
    let want = f64::from(x as f32);
    assert_ne!(want, f64::from(x as f64 as f32));
    let got = run(|g| g.output("y", g.input("x", F32, []) + x), &[("x", TensorData::from(0.0f32))]);
    assert_eq!(got["y"].to_f64(), [want]);
}

fn errors(text: &str) -> String {
    match cotangent::graph::text::parse(text, "f.ct", &cotangent::graph::Registry::builtin()) {
        Ok(graph) => panic!("{graph}"),
        Err(diags) => diags.to_string(),
    }
}

#[test]
fn indices_that_a_type_cannot_hold_are_refused() {
    let line = |dtype: &str, n: u64| {
        format!("cotangent 1\ngraph @g {{\n  %0 = iota {{axis = 0}} : {dtype}[{n}]\n  output \"y\" = %0\n}}\n")
    };
    let error = errors(&line("i32", (1 << 31) + 1));
    assert!(error.contains("use i64") && error.contains("2147483649"), "{error}");
    for fine in [line("i32", 1 << 31), line("i64", (1 << 31) + 1)] {
        let parsed = cotangent::graph::text::parse(&fine, "f.ct", &cotangent::graph::Registry::builtin());
        assert!(parsed.is_ok());
    }
    let error = errors(
        "cotangent 1\ngraph @g {\n  %0 = input \"x\" : i32[3]\n  %1 = check_index %0 {bound = -1}\n  output \"y\" = %1\n}\n",
    );
    assert!(error.contains("a bound of at least 0, got -1"), "{error}");
}

/// A check goes only where its range is proved: sums wrap, conversions cut off.
#[test]
fn checks_stay_where_nothing_is_proved() {
    let checks = |f: &dyn for<'g> Fn(&'g GraphBuilder) -> Tensor<'g>| {
        let graph = build(|g| g.output("y", f(g))).unwrap_or_else(|diags| panic!("{diags}"));
        let done = cotangent::passes::optimize(&graph, &cotangent::passes::PassOptions::default());
        done.unwrap_or_else(|error| panic!("{error}")).graph.checks().len()
    };
    assert_eq!(checks(&|g| g.iota(I32, [1 << 20], 0).check_index(1 << 20)), 0);
    assert_eq!(checks(&|g| g.iota(I32, [1 << 20], 0).check_index((1 << 20) - 1)), 1);
    // 2³⁰ + 2³⁰ wraps in i32 and does not in i64.
    assert_eq!(checks(&|g| (g.iota(I32, [1 << 30], 0) + (1 << 30) + 1).check_index(usize::MAX >> 1)), 1);
    assert_eq!(checks(&|g| (g.iota(I64, [1 << 30], 0) + (1 << 30) + 1).check_index(usize::MAX >> 1)), 0);
    // A conversion that cuts off what it cannot hold.
    assert_eq!(checks(&|g| (g.iota(I64, [4], 0) + (1i64 << 32)).cast(I32).check_index(4)), 1);
    assert_eq!(checks(&|g| g.iota(I64, [4], 0).cast(I32).check_index(4)), 0);
    assert_eq!(checks(&|g| (g.iota(I64, [300], 0)).cast(U8).cast(I32).check_index(256)), 1);
    // The greatest bound there is, of indices that cannot be proved.
    assert_eq!(checks(&|g| g.input("x", I64, [4]).check_index(i64::MAX as usize)), 1);
    assert_eq!(checks(&|g| g.input("x", I32, [4]).check_index(8).check_index(9)), 1);
}
