//! Every row of every table of rules: it applies to its pattern, keeps what its safety promises, and leaves the ops that
//! are expected.

use crate::common::{Values, assert_bits, assert_close, env, graph, only, ops, optimized, run};
use cotangent_graph::DType::{self, Bool, F32, F64, I32, I64, U8};
use cotangent_graph::ops;
use cotangent_graph::ops::arithmetic::{MAXIMUM, MINIMUM};
use cotangent_graph::{GraphBuilder, Tensor, TensorData};
use cotangent_passes::{PassOptions, Rule, Safety, canonicalize, fold, simplify, stabilize};

/// A graph on which a rule applies, and the ops that the passes named leave of it, inputs left out.
struct Case {
    rule: &'static str,
    make: fn(&GraphBuilder),
    left: &'static str,
}

const fn case(rule: &'static str, make: fn(&GraphBuilder), left: &'static str) -> Case {
    Case { rule, make, left }
}

fn x(g: &GraphBuilder) -> Tensor<'_> {
    g.input("x", F32, [2, 3])
}

fn y(g: &GraphBuilder) -> Tensor<'_> {
    g.input("y", F32, [2, 3])
}

fn int(g: &GraphBuilder, dtype: DType) -> Tensor<'_> {
    g.input("i", dtype, [2, 3])
}

fn out(g: &GraphBuilder, t: Tensor<'_>) {
    g.output("out", t);
}

/// Rows of `canonicalize`.
static CANONICAL: &[Case] = &[
    case("operand_order", |g| out(g, (2.0f64 * x(g)).exp() + y(g)), "constant broadcast mul exp add"),
    case("neg_of_neg", |g| out(g, (-(-x(g))).exp()), "exp"),
    case("add_of_neg", |g| out(g, -x(g) + y(g)), "sub"),
    case("sub_of_neg", |g| out(g, x(g) - -y(g)), "add"),
    case("signs_cancel", |g| out(g, -x(g) / -y(g)), "div"),
    case(
        "neg_into_constant",
        |g| out(g, -(x(g) * 3.0f64) + -(5.0f64 / y(g))),
        "constant broadcast div constant broadcast mul add",
    ),
    case("times_minus_one", |g| out(g, x(g) * -1.0f64), "neg"),
    case("neg_outwards", |g| out(g, (-x(g) * y(g)).exp()), "mul neg exp"),
    case("abs_of_neg", |g| out(g, (-x(g)).abs()), "abs"),
    case("gt_to_lt", |g| out(g, x(g).gt(y(g))), "lt"),
    case("ge_to_le", |g| out(g, x(g).ge(y(g))), "le"),
    case("not_of_not", |g| out(g, !!int(g, Bool)), ""),
    case("not_of_eq", |g| out(g, !x(g).eq(y(g))), "ne"),
    case("not_of_ne", |g| out(g, !x(g).ne(y(g))), "eq"),
    case("select_of_not", |g| out(g, (!int(g, Bool)).select(x(g), y(g))), "select"),
    case("cast_to_same", |g| out(g, raw_cast(x(g), F32).exp()), "exp"),
    case("cast_of_widening", |g| out(g, x(g).cast(F64).cast(I32)), "cast"),
    case(
        "identity_view",
        |g| out(g, x(g).transpose([0, 1]).slice(&[0, 0], &[2, 3]).pad(&[0, 0], &[0, 0], 1.0).exp()),
        "exp",
    ),
    case(
        "view_of_scalar",
        |g| out(g, g.scalar(2.0, F32).broadcast_to([2, 3]).t().flip([0]).reshape([6])),
        "constant broadcast",
    ),
    case("reshape_of_reshape", |g| out(g, x(g).reshape([6]).reshape([3, 2])), "reshape"),
    case(
        "transpose_of_transpose",
        |g| out(g, x(g).reshape([1, 2, 3]).transpose([2, 0, 1]).transpose([0, 2, 1])),
        "reshape transpose",
    ),
    case("transpose_to_reshape", |g| out(g, x(g).reshape([2, 1, 3]).transpose([1, 0, 2])), "reshape"),
    case(
        "transpose_of_broadcast",
        |g| out(g, x(g).broadcast_to([4, 2, 3]).transpose([2, 0, 1])),
        "transpose broadcast",
    ),
    case("broadcast_of_broadcast", |g| out(g, x(g).broadcast_to([4, 2, 3]).broadcast_to([5, 4, 2, 3])), "broadcast"),
    case("squeeze_broadcast", |g| out(g, x(g).reshape([2, 1, 3]).broadcast_to([2, 4, 3])), "broadcast"),
    case("broadcast_to_reshape", |g| out(g, x(g).broadcast_to([1, 2, 3])), "reshape"),
    case("reshape_of_broadcast", |g| out(g, x(g).broadcast_to([4, 2, 3]).reshape([4, 2, 1, 3])), "broadcast"),
    case("flip_of_flip", |g| out(g, x(g).flip([0, 1]).flip([1])), "flip"),
    case("slice_of_slice", |g| out(g, x(g).slice_steps(&[0, 1], &[2, 3], &[1, 1]).slice(&[1, 0], &[2, 2])), "slice"),
    case("slice_of_pad", |g| out(g, x(g).pad(&[1, 2], &[0, 1], 0.0).slice(&[1, 3], &[3, 5])), "slice"),
    case("slice_of_concat", |g| out(g, g.concat(&[x(g), y(g)], 1).slice(&[0, 3], &[2, 6])), ""),
    case("slice_limit", |g| out(g, x(g).slice_steps(&[0, 0], &[2, 2], &[1, 2])), "slice"),
    case("constant_to_scalar", |g| out(g, g.constant(TensorData::zeros(F32, &[4, 5].into()))), "constant broadcast"),
    case(
        "broadcast_outwards",
        |g| out(g, x(g).broadcast_to([4, 2, 3]).exp() * 2.0f64),
        "exp constant broadcast mul broadcast",
    ),
    case("extreme_of_broadcast", |g| out(g, x(g).broadcast_to([4, 2, 3]).max_over([0]).exp()), "exp"),
    case("transpose_into_matmul", |g| out(g, x(g).t().matmul(y(g).t().t()).matmul(g.shared("x").t())), "matmul matmul"),
    case("transpose_of_matmul", |g| out(g, x(g).matmul_with(y(g), false, true).t()), "matmul"),
    case("reduce_nothing", |g| out(g, x(g).reshape([2, 1, 3]).sum_over([1])), ""),
    case("squeeze_reduce", |g| out(g, x(g).reshape([2, 1, 3]).sum_over([0, 2]).reshape([])), "reduce_sum"),
    case(
        "split_reduce",
        |g| out(g, x(g).broadcast_to([4, 2, 3]).exp().sum_over([0, 2])),
        "exp broadcast reduce_sum reduce_sum",
    ),
];

/// Rows of `fold`.
static FOLDED: &[Case] = &[case(
    "constant_operands",
    |g| {
        let c = g.constant(TensorData::from_bits(F32, &[3].into(), &[1, 2, 3].map(|b: u64| b << 28)));
        out(g, x(g) + (c.exp().sum_over([0]) * c).broadcast_to([2, 3]));
    },
    "constant broadcast add",
)];

/// Rows of `simplify`, among canonical forms.
static SIMPLE: &[Case] = &[
    case("stop_gradient", |g| out(g, x(g).stop_gradient().exp()), "exp"),
    case("add_negative_zero", |g| out(g, ((x(g) + -0.0f64) - 0.0f64).exp()), "exp"),
    case("add_zero", |g| out(g, (0.0f64 + x(g)).exp()), "exp"),
    case("zero_minus", |g| out(g, 0.0f64 - x(g)), "neg"),
    case("neg_of_sub", |g| out(g, -(x(g) - y(g))), "sub"),
    case("sub_itself_integer", |g| out(g, int(g, I64) - g.shared("i")), "constant broadcast"),
    case("sub_itself", |g| out(g, x(g) - g.shared("x")), "constant broadcast"),
    case("add_constants", |g| out(g, x(g) + 0.7f64 + 1.3f64), "constant broadcast add"),
    case("add_constants_integer", |g| out(g, int(g, I32) + 2 + 5), "constant broadcast add"),
    case("times_one", |g| out(g, (x(g) * 1.0f64 / 1.0f64).exp()), "exp"),
    case("times_zero_integer", |g| out(g, int(g, U8) * g.scalar(0.0, U8)), "constant broadcast"),
    case("times_zero", |g| out(g, x(g) * 0.0f64), "constant broadcast"),
    case("div_itself", |g| out(g, x(g) / g.shared("x")), "constant broadcast"),
    case("div_by_power_of_two", |g| out(g, x(g) / 8.0f64), "constant broadcast mul"),
    case("div_by_constant", |g| out(g, x(g) / 3.0f64), "constant broadcast mul"),
    case("mul_constants", |g| out(g, x(g) * 0.7f64 * 1.3f64), "constant broadcast mul"),
    case("mul_constants_integer", |g| out(g, int(g, I64) * 3 * 5), "constant broadcast mul"),
    case(
        "pow_small",
        |g| out(g, x(g).pow(x1(g, 2.0)) + x1(g, 1.0) * y(g).pow(x1(g, -1.0))),
        "constant broadcast div mul add",
    ),
    case("pow_zero", |g| out(g, x(g).pow(x1(g, 0.0))), "constant broadcast"),
    case("pow_half", |g| out(g, x(g).abs().pow(x1(g, 0.5))), "abs sqrt"),
    case("idempotent", |g| out(g, x(g).relu().relu()), "relu"),
    case(
        "same_operands",
        |g| out(g, x(g).binary(&MAXIMUM, g.shared("x")).binary(&MINIMUM, g.shared("x")).exp()),
        "exp",
    ),
    case("logic_constants", |g| out(g, !((int(g, Bool) & truth(g, true)) ^ truth(g, true))), ""),
    case("lt_itself", |g| out(g, x(g).lt(g.shared("x"))), "constant broadcast"),
    case("compare_itself", |g| out(g, int(g, I64).le(g.shared("i"))), "constant broadcast"),
    case("select_same", |g| out(g, int(g, Bool).select(x(g), g.shared("x")).exp()), "exp"),
    case("select_constant", |g| out(g, truth(g, false).select(x(g), y(g)).exp()), "exp"),
    case(
        "select_of_select",
        |g| {
            let c = int(g, Bool);
            out(g, c.select(c.select(x(g), y(g)), g.shared("y")));
        },
        "select",
    ),
    case(
        "check_proved",
        |g| {
            let i = g.iota(I64, [2, 3], 1).broadcast_to([4, 2, 3]).check_index(3);
            out(g, i + int(g, I64).check_index(3).cast(I32).check_index(5).cast(I64));
        },
        "check_index cast cast iota add broadcast",
    ),
    case("check_of_check", |g| out(g, int(g, I64).check_index(5).check_index(4)), "check_index"),
];

/// Rows of `stabilize` that make primitives.
static STABLE: &[Case] = &[
    case("log_of_exp", |g| out(g, x(g).exp().log()), ""),
    case("log_of_sigmoid", |g| out(g, x(g).sigmoid().log()), "neg softplus neg"),
    case("sigmoid_by_hand", |g| out(g, 1.0 / (1.0 + (-x(g)).exp())), "neg neg sigmoid"),
    case("sigmoid_by_hand", |g| out(g, with(x(g).exp(), |e| e / (e + 1.0f64))), "sigmoid"),
    case("tanh_by_hand", |g| out(g, with(x(g), |x| (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()))), "tanh"),
    case("log_of_one_minus_sigmoid", |g| out(g, (1.0f64 - x(g).sigmoid()).log()), "softplus neg"),
    case("log_of_one_plus_exp", |g| out(g, (1.0f64 + x(g).exp()).log()), "softplus"),
    case("log1p_of_exp", |g| out(g, x(g).exp().log1p()), "softplus"),
    case("log1p_of_minus_sigmoid", |g| out(g, (-x(g).sigmoid()).log1p()), "softplus neg"),
    case("log_of_one_plus", |g| out(g, (x(g).square() + 1.0f64).log()), "mul log1p"),
    case("log_of_one_minus", |g| out(g, (1.0f64 - x(g) * 0.25f64).log()), "constant broadcast mul neg log1p"),
    case("exp_minus_one", |g| out(g, x(g).exp() - 1.0f64), "expm1"),
    case("exp_plus_minus_one", |g| out(g, x(g).exp() + -1.0f64), "expm1"),
    case(
        "log_sum_exp",
        // Of axes that are no neighbours; of others, the composite takes its place.
        |g| out(g, x(g).reshape([1, 2, 3]).t().reshape([3, 2, 1]).broadcast_to([3, 2, 2]).exp().sum_over([0, 2]).log()),
        "reshape transpose reshape broadcast reduce_max stop_gradient abs constant broadcast lt broadcast sub exp reduce_sum \
         log add select",
    ),
    case("log_sum_exp_by_hand", |g| out(g, x(g).exp().sum_over([1]).log()), "log_sum_exp"),
    case(
        "sqrt_of_sum_of_squares",
        |g| out(g, (x(g).square().sum_over([1]) * 0.5f64).sqrt()),
        "mul reduce_sum constant broadcast mul sqrt_of_squares",
    ),
    case("sqrt_of_square", |g| out(g, x(g).square().sqrt()), "abs"),
    case("log_of_softmax", |g| out(g, x(g).softmax(1).log()), "log_softmax"),
    case(
        "softmax_by_hand",
        |g| {
            let e = x(g).exp();
            out(g, e / e.sum_over([1]).repeat_along(&[2, 3].into(), [1]));
        },
        "softmax",
    ),
];

/// A constant like `x`.
fn x1(g: &GraphBuilder, value: f64) -> Tensor<'_> {
    g.scalar(value, F32).broadcast_to([2, 3])
}

fn truth(g: &GraphBuilder, value: bool) -> Tensor<'_> {
    g.scalar(f64::from(u8::from(value)), Bool).broadcast_to([2, 3])
}

fn raw_cast(t: Tensor<'_>, to: DType) -> Tensor<'_> {
    t.unary_with(&cotangent_graph::ops::compare::CAST, cotangent_graph::Attrs::none().with("to", to))
}

/// A function of a tensor that is named once.
fn with<'g>(t: Tensor<'g>, f: impl FnOnce(Tensor<'g>) -> Tensor<'g>) -> Tensor<'g> {
    f(t)
}

fn check(cases: &[Case], passes: &[&str], tables: &[&'static [Rule]]) {
    for rule in tables.iter().copied().flatten() {
        assert!(cases.iter().any(|c| c.rule == rule.name), "no case for the rule {}", rule.name);
    }
    for case in cases {
        let rule = tables.iter().copied().flatten().find(|r| r.name == case.rule);
        let rule = rule.unwrap_or_else(|| panic!("no rule {}", case.rule));
        let source = graph(case.make);
        let off = matches!(rule.safety, Safety::FiniteOnly | Safety::Reassociates);
        let options = PassOptions { finite_only: off, reassociate: off, ..PassOptions::default() };
        let done = only(&source, passes, options);
        let applied = done.report.iter().any(|r| r.rules.contains_key(rule.name));
        assert!(applied, "{} does not apply to\n{source}\nwhich becomes\n{}", rule.name, done.graph);
        let left: Vec<&str> = ops(&done.graph).into_iter().filter(|op| *op != "input").collect();
        assert_eq!(left.join(" "), case.left, "{}:\n{}", rule.name, done.graph);
        if off {
            let plain = only(&source, passes, PassOptions::default());
            let applied = plain.report.iter().any(|r| r.rules.contains_key(rule.name));
            assert!(!applied, "{} must be asked for", rule.name);
        }
        for seed in 1..6 {
            let bits = matches!(rule.safety, Safety::Exact | Safety::ZeroSign);
            let env = env(&source, seed, if bits { Values::Wild } else { Values::Tame });
            let (before, after) = (run(&source, &env), run(&done.graph, &env));
            match rule.safety {
                Safety::Exact => assert_bits(&before, &after, false, rule.name),
                Safety::ZeroSign => assert_bits(&before, &after, true, rule.name),
                _ => assert_close(&before, &after, 1e-5, rule.name),
            }
        }
    }
}

#[test]
fn canonical_rows() {
    use canonicalize::{arithmetic, broadcast, products, reduce, views};
    let tables = [arithmetic::ROWS, views::ROWS, broadcast::ROWS, products::ROWS, reduce::ROWS];
    check(CANONICAL, &["canonicalize", "dce"], &tables);
}

#[test]
fn folding() {
    check(FOLDED, &["canonicalize", "fold", "dce"], &[fold::ROWS]);
}

#[test]
fn simple_rows() {
    let passes = ["canonicalize", "fold", "simplify", "dce"];
    check(SIMPLE, &passes, &[simplify::algebra::ROWS, simplify::indices::ROWS]);
}

#[test]
fn stable_rows() {
    check(STABLE, &["stabilize", "dce"], &[stabilize::COMPOSITE, stabilize::PRIMITIVE]);
}

/// Extreme operands: the naive form gives infinities or NaN, the stable one and its gradient the right number.
#[test]
fn stable_forms_at_extremes() {
    type Form = for<'g> fn(Tensor<'g>) -> Tensor<'g>;
    type Want = fn(f64) -> (f64, f64);
    let forms: &[(&str, Form, Want)] = &[
        ("log σ", |x| x.sigmoid().log(), |x| (x.min(0.0), if x < 0.0 { 1.0 } else { 0.0 })),
        ("log(1 - σ)", |x| (1.0f64 - x.sigmoid()).log(), |x| (-x.max(0.0), if x > 0.0 { -1.0 } else { 0.0 })),
        ("log(1 + exp)", |x| (1.0f64 + x.exp()).log(), |x| (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 })),
        ("log exp", |x| x.exp().log(), |x| (x, 1.0)),
        ("log Σ exp", |x| x.exp().sum().log(), |x| (x, 1.0)),
        ("√x²", |x| x.square().sqrt(), |x| (x.abs(), x.signum())),
        (
            "bce of target 0.25",
            |x| {
                let p = x.sigmoid();
                -(p.log() * 0.25f64 + (1.0f64 - p).log() * 0.75f64)
            },
            |x| if x > 0.0 { (0.75 * x, 0.75) } else { (-0.25 * x, -0.25) },
        ),
    ];
    for &(name, form, want) in forms {
        let source = graph(|g| {
            let x = g.input("x", F32, [1]);
            let value = form(x).sum();
            g.output("value", value);
            g.output("slope", g.grad(value, &[x])[0]);
        });
        let done = optimized(&source);
        let naive = graph(|g| out(g, form(g.input("x", F32, [1])).sum()));
        let mut naive_fails = false;
        for at in [-500.0f32, 500.0, -1e25, 1e25] {
            let env = cotangent_graph::Env::default().with("x", ndarray::arr1(&[at]));
            let got: Vec<f64> = run(&done.graph, &env).iter().map(|t| t.to_f64()[0]).collect();
            let (value, slope) = want(f64::from(at));
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs();
            assert!(close(got[0], value) && close(got[1], slope), "{name} at {at}: {got:?}, not {value} and {slope}");
            naive_fails |= !run(&naive, &env)[0].to_f64()[0].is_finite();
        }
        assert!(naive_fails, "{name} needs no rule");
    }
}

#[test]
fn small_arguments_keep_their_digits() {
    let source = graph(|g| {
        let x = g.input("x", F32, []);
        g.output("log1p", (1.0f64 + x).log());
        g.output("expm1", x.exp() - 1.0f64);
    });
    let done = only(&source, &["stabilize", "dce"], PassOptions::default());
    let env = cotangent_graph::Env::default().with("x", 1e-10f32);
    assert!(run(&source, &env).iter().all(|t| t.as_scalar() == Some(0.0)));
    assert!(run(&done.graph, &env).iter().all(|t| (t.as_scalar().unwrap_or(0.0) - 1e-10).abs() < 1e-16));
}

#[test]
fn softmax_of_large_logits_and_its_logarithm() {
    let source = graph(|g| {
        let x = g.input("x", F32, [2, 3]);
        let e = x.exp();
        let p = e / e.sum_over([1]).reshape([2, 1]).broadcast_to([2, 3]);
        g.output("p", p);
        g.output("entropy", -(p * p.log()).sum());
        g.output("d", g.grad(p.log().sum_over([1]).sum(), &[x])[0]);
    });
    let done = optimized(&source);
    let env = cotangent_graph::Env::default().with("x", ndarray::arr2(&[[1e4f32, 0.0, -1e4], [300.0, 300.0, 300.0]]));
    let values = run(&done.graph, &env);
    assert!(values.iter().all(|t| t.to_f64().iter().all(|v| v.is_finite() || *v == 0.0)), "{values:?}\n{}", done.graph);
    assert_eq!(values[0].to_f64()[..3], [1.0, 0.0, 0.0]);
    assert_eq!(values[2].to_f64()[..3], [-2.0, 1.0, 1.0]);
}

#[test]
fn patterns_do_not_reach_through_what_is_differentiated() {
    let source = graph(|g| {
        let x = g.input("x", F64, [3]);
        let p = x.softmax(0);
        let loss = p.log().sum();
        g.output("dp", g.grad(loss, &[p])[0]);
    });
    let done = optimized(&source);
    let env = env(&source, 1, Values::Tame);
    assert_close(&run(&source, &env), &run(&done.graph, &env), 1e-7, "with respect to the softmax");
}

#[test]
fn the_index_that_argmax_makes_is_proved() {
    let source = graph(|g| {
        let x = g.input("x", F32, [4, 5]);
        let table = g.input("table", F32, [5, 2]);
        g.output("rows", table.gather(x.argmax(1).check_index(5)));
        g.output("hot", x.argmax(1).one_hot(4, F32));
    });
    let done = optimized(&source);
    // The first check is proved; the second allows only four of five classes and stays.
    let checks: Vec<i64> =
        done.graph.nodes().iter().filter(|n| n.is(&ops::index::CHECK_INDEX)).map(|n| n.attrs.int("bound")).collect();
    assert_eq!(checks, [4], "{}", done.graph);
}

#[test]
fn folding_leaves_errors_to_the_step_and_growth_to_kernels() {
    let source = graph(|g| {
        g.output("bad", g.scalar(7.0, I64).check_index(3));
        g.output("wide", g.scalar(7.0, F32).broadcast_to([100, 100]));
        g.output("iota", g.iota(I64, [4], 0));
    });
    let done = optimized(&source);
    assert_eq!(ops(&done.graph), ["constant", "check_index", "constant", "broadcast", "iota"]);
}

#[test]
fn conversions_by_way_of_another_type_are_exact_for_every_triple() {
    let values = [0.0, -0.0, 1.0, -1.0, 2.5, -7.5, 255.0, 300.0, -300.0, 1e5, 3e9, -3e9, 1e20, -1e20, 1e300, f64::NAN];
    let infinite = [f64::INFINITY, f64::NEG_INFINITY, 16_777_217.0, 9_007_199_254_740_993.0];
    let values: Vec<f64> = values.into_iter().chain(infinite).collect();
    let mut direct = 0;
    for from in DType::ALL {
        let bits: Vec<u64> = values.iter().map(|&v| from.bits_of_f64(v)).collect();
        let x = TensorData::from_bits(from, &[bits.len()].into(), &bits);
        for (by, to) in DType::ALL.into_iter().flat_map(|by| DType::ALL.map(|to| (by, to))) {
            let source = graph(|g| out(g, raw_cast(raw_cast(g.input("x", from, [bits.len()]), by), to)));
            let done = optimized(&source);
            direct += usize::from(ops(&done.graph).len() < 3);
            let env = cotangent_graph::Env::default().with("x", x.clone());
            assert_bits(&run(&source, &env), &run(&done.graph, &env), false, &format!("{from} by {by} to {to}"));
        }
    }
    assert!(direct > 80, "{direct}");
}

#[test]
fn rules_have_names_of_their_own_and_equations() {
    let rules = cotangent_passes::all_rules();
    let names: std::collections::HashSet<&str> = rules.iter().map(|(_, rule)| rule.name).collect();
    assert_eq!(names.len(), rules.len());
    assert!(rules.iter().all(|(_, rule)| !rule.equation.is_empty()));
}
