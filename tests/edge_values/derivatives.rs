//! Derivatives where zero meets infinity, and where a more exact form must not make them less exact.

use cotangent::graph::Registry;
use cotangent::graph::text::parse;
use cotangent::prelude::*;

use crate::{Function, assert_near, curvature, floats, gradient, run, value};

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

// ---- the branch taken ----------------------------------------------------------------------------------------------

/// `select(x > 0, f(x), 0)` of functions whose derivative at 0 is infinite or NaN.
#[test]
fn a_selection_has_the_derivative_of_the_branch_taken() {
    type Case = (&'static str, Function, fn(f64) -> f64, fn(f64) -> f64);
    let cases: [Case; 12] = [
        ("sqrt", |x| x.sqrt(), |x| 0.5 / x.sqrt(), |x| -0.25 * x.powf(-1.5)),
        ("log", |x| x.log(), |x| 1.0 / x, |x| -1.0 / (x * x)),
        ("rsqrt", |x| x.rsqrt(), |x| -0.5 * x.powf(-1.5), |x| 0.75 * x.powf(-2.5)),
        ("reciprocal", |x| 1.0 / x, |x| -1.0 / (x * x), |x| 2.0 / (x * x * x)),
        ("x/x²", |x| x / x.square(), |x| -1.0 / (x * x), |x| 2.0 / (x * x * x)),
        ("pow", |x| x.powf(0.3), |x| 0.3 * x.powf(-0.7), |x| -0.21 * x.powf(-1.7)),
        (
            "pow of both",
            |x| x.pow(x),
            |x| x.powf(x) * (x.ln() + 1.0),
            |x| x.powf(x) * ((x.ln() + 1.0).powi(2) + 1.0 / x),
        ),
        ("x·log", |x| x * x.log(), |x| x.ln() + 1.0, |x| 1.0 / x),
        (
            "log of log1p",
            |x| x.log1p().log(),
            |x| 1.0 / ((1.0 + x) * x.ln_1p()),
            |x| -(x.ln_1p() + 1.0) / ((1.0 + x) * x.ln_1p()).powi(2),
        ),
        ("through views", |x| x.reshape([2, 1]).log().t().reshape([2]), |x| 1.0 / x, |x| -1.0 / (x * x)),
        ("through arithmetic", |x| -(x.sqrt() * 3.0 - 1.0) / 2.0, |x| -0.75 / x.sqrt(), |x| 0.375 * x.powf(-1.5)),
        ("deep", |x| x.sqrt().sqrt().log(), |x| 0.25 / x, |x| -0.25 / (x * x)),
    ];
    for (what, f, slope, second) in cases {
        let (first, next) = of_branch(f, [0.0, 4.0]);
        assert_near(what, &first, &[0.0, slope(4.0)], 1e-12);
        assert_near(&format!("{what}, order 2"), &next, &[0.0, second(4.0)], 1e-12);
    }
}

/// First and second derivatives of `select(x > 0, f(x), 0)`, and of the same with the branches exchanged.
fn of_branch(f: Function, at: [f64; 2]) -> (Vec<f64>, Vec<f64>) {
    let make = |exchanged: bool| {
        move |g: &GraphBuilder| {
            let x = g.input("x", F64, [2]);
            let zero = x.constant_like(0.0);
            let y = if exchanged { x.le(zero).select(zero, f(x)) } else { x.gt(zero).select(f(x), zero) };
            let first = g.grad(y.sum(), &[x])[0];
            g.output("first", first);
            g.output("second", g.grad(first.sum(), &[x])[0]);
        }
    };
    let inputs = [("x", floats(F64, &[2], &at))];
    let (a, b) = (run(make(false), &inputs), run(make(true), &inputs));
    for name in ["first", "second"] {
        assert_near(name, &a[name].to_f64(), &b[name].to_f64(), 0.0);
    }
    (a["first"].to_f64(), a["second"].to_f64())
}

#[test]
fn what_is_not_taken_may_overflow() {
    // ELU by hand: e¹⁰⁰⁰ is infinite, and so is its derivative.
    let elu: Function = |x| x.gt(x.constant_like(0.0)).select(x, x.exp() - 1.0);
    let x = || floats(F32, &[3], &[1000.0, 0.5, -2.0]);
    assert_near("elu by hand", &gradient(elu, x()), &[1.0, 1.0, (-2f64).exp()], 1e-6);
    assert_near("order 2", &curvature(elu, x()), &[0.0, 0.0, (-2f64).exp()], 1e-6);
    // A NaN that is replaced.
    let mended: Function = |x| x.eq(x).select(x.tanh(), x.constant_like(7.0));
    assert_near("NaN replaced", &gradient(mended, floats(F32, &[2], &[NAN, 0.0])), &[0.0, 1.0], 0.0);
    let safe: Function = |x| x.abs().lt(x.constant_like(INF)).select(x * x, x.constant_like(0.0));
    assert_near("∞ replaced", &gradient(safe, floats(F32, &[2], &[INF, 3.0])), &[0.0, 6.0], 0.0);
}

/// The same through everything that drops elements: extremes, slices, gathers, borders, ignored rows.
#[test]
fn what_is_dropped_has_no_derivative() {
    let cases: [(&str, Function, [f64; 3], [f64; 3]); 12] = [
        ("maximum", |x| x.log().maximum(x.constant_like(0.5)), [0.0, 1.0, 4.0], [0.0, 0.0, 0.25]),
        ("minimum", |x| (1.0 / x).minimum(x.constant_like(9.0)), [0.0, 1.0, 4.0], [0.0, -1.0, -0.0625]),
        ("clamp", |x| x.log().clamp(-2.0, 5.0), [0.0, 1.0, 4.0], [0.0, 1.0, 0.25]),
        ("relu", |x| x.log().relu(), [0.0, 1.0, 4.0], [0.0, 0.0, 0.25]),
        ("relu6", |x| (1.0 / x).relu6(), [0.0, 1.0, 4.0], [0.0, -1.0, -0.0625]),
        ("reduce_max", |x| x.log().max_over([0]), [0.0, 1.0, 4.0], [0.0, 0.0, 0.25]),
        ("slice", |x| x.sqrt().slice(&[1], &[3]), [0.0, 1.0, 4.0], [0.0, 0.5, 0.25]),
        ("slice by 2", |x| x.sqrt().slice_steps(&[0], &[3], &[2]), [1.0, 0.0, 4.0], [0.5, 0.0, 0.25]),
        ("threshold", |x| x.log().threshold(), [0.0, 1.0, 4.0], [0.0, 0.0, 0.0]),
        (
            "gather",
            |x| {
                let rows = x.builder().constant(TensorData::from_bits(I64, &[2].into(), &[1, 2]));
                x.log().gather(rows)
            },
            [0.0, 1.0, 4.0],
            [0.0, 1.0, 0.25],
        ),
        (
            "a repeated value",
            |x| {
                let all = x.slice(&[0], &[1]).sqrt().broadcast_to([3]);
                (x.gt(x.constant_like(9.0)) & all.ge(all)).select(all, x)
            },
            [0.0, 1.0, 4.0],
            [1.0, 1.0, 1.0],
        ),
        ("hinge", |x| (1.0 / x).hinge(x.constant_like(1.0)), [0.0, 1.0, 4.0], [0.0, 0.0, 0.0625]),
    ];
    for (what, f, at, want) in cases {
        assert_near(what, &gradient(f, floats(F64, &[3], &at)), &want, 1e-14);
    }
}

/// A row that does not count may hold anything.
#[test]
fn ignored_rows_have_no_derivative() {
    let make = |g: &GraphBuilder| {
        let x = g.input("x", F32, [2, 3]);
        let labels = g.constant(TensorData::from_bits(I64, &[2].into(), &[1, -1i64 as u64]));
        let loss = x.mean_cross_entropy(labels, CrossEntropyOptions::new().ignore(-1));
        g.output("loss", loss);
        g.output("d", g.grad(loss, &[x])[0]);
        // The same by hand, through a layer norm and a selection of whole rows.
        let counts = g.constant(TensorData::from_bits(Bool, &[2, 1].into(), &[1, 0])).broadcast_to([2, 3]);
        let y = counts.select(x.normalize([1], 1e-5).exp(), x.constant_like(0.0));
        g.output("d rows", g.grad(y.square().sum(), &[x])[0]);
    };
    let got = run(make, &[("x", floats(F32, &[2, 3], &[0.0, 0.0, 0.0, NAN, INF, 0.0]))]);
    assert_near("loss", &got["loss"].to_f64(), &[3f64.ln()], 1e-6);
    let third = 1.0 / 3.0;
    assert_near("gradient", &got["d"].to_f64(), &[third, -2.0 * third, third, 0.0, 0.0, 0.0], 1e-6);
    assert_eq!(got["d rows"].to_f64()[3..], [0.0; 3]);
}

/// A zero that arithmetic makes is no branch that is not taken: 0 · ∞ stays NaN, as by hand.
#[test]
fn masks_by_multiplication_keep_their_meaning() {
    let masked: Function = |x| x.gt(x.constant_like(0.0)).cast(F64) * x.sqrt();
    assert_near("gradient", &gradient(masked, floats(F64, &[2], &[0.0, 4.0])), &[NAN, 0.25], 1e-14);
    assert_near("value", &value(|x| x * (1.0 / x), floats(F64, &[1], &[0.0])), &[NAN], 0.0);
}

/// A function and derivative along a direction, forward through the same places.
#[test]
fn directional_derivatives_take_the_branch_as_well() {
    let make = |g: &GraphBuilder| {
        let (x, v) = (g.input("x", F64, [2]), g.input("v", F64, [2]));
        let y = x.gt(x.constant_like(0.0)).select(x.sqrt(), x.constant_like(0.0));
        g.output("jvp", g.jvp(y, x, v));
    };
    let got = run(make, &[("x", floats(F64, &[2], &[0.0, 4.0])), ("v", floats(F64, &[2], &[1.0, 2.0]))]);
    assert_near("jvp", &got["jvp"].to_f64(), &[0.0, 0.5], 1e-14);
}

// ---- products, powers, roots ---------------------------------------------------------------------------------------

#[test]
fn products_with_zeros_are_differentiated() {
    let product: Function = |x| x.prod_over([1]);
    let x = || floats(F64, &[4, 3], &[2.0, 3.0, 4.0, 0.0, 3.0, 4.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0]);
    let want = [12.0, 8.0, 6.0, 12.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert_near("order 1", &gradient(product, x()), &want, 1e-15);
    // The sum of a row of the matrix of second derivatives: products of all factors but two.
    let want = [7.0, 6.0, 5.0, 7.0, 4.0, 3.0, 4.0, 4.0, 0.0, 0.0, 0.0, 0.0];
    assert_near("order 2", &curvature(product, x()), &want, 1e-15);
    let all: Function = |x| x.prod_over([0, 2]);
    let cube = floats(F64, &[2, 1, 3], &[1.0, 2.0, 3.0, 0.5, 0.0, 4.0]);
    assert_near("two axes", &gradient(all, cube), &[0.0, 0.0, 0.0, 0.0, 12.0, 0.0], 1e-15);
    let huge = floats(F32, &[1, 4], &[1e30, 1e30, 1e-30, 1e-30]);
    assert_near("large factors", &gradient(|x| x.prod_over([1]), huge), &[1e-30, 1e-30, 1e30, 1e30], 1e-6);
    assert_near("one factor", &gradient(|x| x.prod_over([1]), floats(F64, &[2, 1], &[0.0, 5.0])), &[1.0, 1.0], 0.0);
}

#[test]
fn powers_at_zero() {
    let x = || floats(F64, &[3], &[0.0, 2.0, -2.0]);
    assert_near("x⁰", &gradient(|x| x.powf(0.0), x()), &[0.0, 0.0, 0.0], 0.0);
    assert_near("x³", &gradient(|x| x.powf(3.0), x()), &[0.0, 12.0, 12.0], 1e-15);
    assert_near("x³, order 2", &curvature(|x| x.powf(3.0), x()), &[0.0, 12.0, -12.0], 1e-15);
    assert_near("x³, order 2 by pow", &curvature(|x| x.pow(x.constant_like(2.0)), x()), &[2.0, 2.0, 2.0], 1e-15);
    let by_exponent = |g: &GraphBuilder| {
        let (a, b) = (g.input("a", F64, [5]), g.input("b", F64, [5]));
        g.output("y", a.pow(b));
        for (name, d) in ["da", "db"].into_iter().zip(g.grad(a.pow(b).sum(), &[a, b])) {
            g.output(name, d);
        }
    };
    let inputs =
        [("a", floats(F64, &[5], &[0.0, 0.0, 0.0, -2.0, 1.0])), ("b", floats(F64, &[5], &[0.0, 2.0, -1.0, 3.0, 5.0]))];
    let got = run(by_exponent, &inputs);
    assert_near("pow", &got["y"].to_f64(), &[1.0, 0.0, INF, -8.0, 1.0], 0.0);
    assert_near("by the base", &got["da"].to_f64(), &[0.0, 0.0, -INF, 12.0, 5.0], 1e-15);
    assert_near("by the exponent", &got["db"].to_f64(), &[0.0, 0.0, -INF, NAN, 0.0], 1e-15);
}

/// Lengths at 0 have the derivative 0, as |x| has, whatever their extents and however they are written.
#[test]
fn lengths_at_zero_have_the_derivative_of_a_magnitude() {
    let lengths: [(&str, Function); 8] = [
        ("of x·x", |x| (x * x).sqrt()),
        ("of all", |x| x.square().sum().sqrt()),
        ("of rows", |x| x.square().sum_over([1]).sqrt()),
        ("of columns", |x| x.square().sum_over([0]).sqrt()),
        ("root mean square", |x| x.square().mean().sqrt()),
        ("of powers", |x| x.powf(2.0).sum_over([0]).sqrt()),
        ("of two", |x| (x * x + (x * 2.0).square() * 0.5).sqrt()),
        ("deviation", |x| x.variance_over([0, 1]).sqrt()),
    ];
    for shape in [[1, 3], [3, 1], [2, 2], [1, 1]] {
        let n = shape.iter().product();
        for (what, f) in lengths {
            let zeros = floats(F64, &shape, &vec![0.0; n]);
            assert_near(&format!("{what} of {shape:?}"), &gradient(f, zeros.clone()), &vec![0.0; n], 0.0);
            assert!(curvature(f, zeros).iter().all(|v| v.is_finite()), "{what} of {shape:?}");
        }
    }
    let x = floats(F64, &[1, 2], &[3.0, 4.0]);
    assert_near("elsewhere", &gradient(|x| x.square().sum().sqrt(), x), &[0.6, 0.8], 1e-15);
    // √ of something else keeps its infinite slope.
    assert_near("√ at 0", &gradient(|x| x.sqrt(), floats(F64, &[1], &[0.0])), &[INF], 0.0);
}

// ---- exactness -----------------------------------------------------------------------------------------------------

#[test]
fn the_derivative_of_exp_minus_one_keeps_its_digits() {
    let at = [-10.0, -15.0, -17.0, -20.0, -80.0];
    let x = || floats(F32, &[5], &at);
    let want: Vec<f64> = at.iter().map(|x| x.exp()).collect();
    assert_near("exp(x) - 1", &gradient(|x| x.exp() - 1.0, x()), &want, 3e-7);
    assert_near("expm1", &gradient(|x| x.expm1(), x()), &want, 3e-7);
    assert_near("elu", &gradient(|x| x.elu(1.0), x()), &want, 3e-7);
    assert_near("elu, order 2", &curvature(|x| x.elu(1.0), x()), &want, 3e-7);
    assert_near("celu", &gradient(|x| x.celu(1.0), x()), &want, 3e-7);
    let selu: Vec<f64> = want.iter().map(|v| v * 1.050_700_987_355_480_5 * 1.673_263_242_354_377_2).collect();
    assert_near("selu", &gradient(|x| x.selu(), x()), &selu, 5e-7);
    assert_near("softplus", &gradient(|x| x.softplus(), x()), &want, 5e-5);
}

/// Derivatives of functions that level off, in f32, to a few units in the last place in both tails.
#[test]
fn derivatives_of_functions_that_level_off_keep_their_digits() {
    let at = [-40.0, -20.0, -10.0, -5.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 5.0, 10.0, 20.0, 40.0];
    let x = || floats(F32, &[13], &at);
    let exact: Vec<f64> = x().to_f64();
    let sech2 = |x: f64| {
        let e = (-2.0 * x.abs()).exp();
        4.0 * e / ((1.0 + e) * (1.0 + e))
    };
    let of = |f: &dyn Fn(f64) -> f64| -> Vec<f64> { exact.iter().map(|&x| f(x)).collect() };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    assert_near("tanh", &gradient(|x| x.tanh(), x()), &of(&sech2), 1e-6);
    assert_near("tanh, order 2", &curvature(|x| x.tanh(), x()), &of(&|x| -2.0 * x.tanh() * sech2(x)), 1e-6);
    assert_near("sigmoid", &gradient(|x| x.sigmoid(), x()), &of(&|x| 0.25 * sech2(0.5 * x)), 1e-6);
    let second = of(&|x| -0.25 * sech2(0.5 * x) * (0.5 * x).tanh());
    assert_near("sigmoid, order 2", &curvature(|x| x.sigmoid(), x()), &second, 1e-6);
    assert_near("softplus", &gradient(|x| x.softplus(), x()), &of(&sigmoid), 1e-6);
    assert_near("softplus, order 2", &curvature(|x| x.softplus(), x()), &of(&|x| 0.25 * sech2(0.5 * x)), 1e-6);
    assert_near("log_sigmoid", &gradient(|x| x.log_sigmoid(), x()), &of(&|x| sigmoid(-x)), 1e-6);
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let tame: Vec<f64> = exact.iter().map(|x| x / 4.0).collect();
    let quarter = || floats(F32, &[13], &tame);
    let of_tame = |f: &dyn Fn(f64) -> f64| -> Vec<f64> { tame.iter().map(|&x| f(x)).collect() };
    assert_near("normal_cdf", &gradient(|x| x.normal_cdf(), quarter()), &of_tame(&density), 1e-6);
}

/// Far out the derivatives of the GELUs are 0 and 1, also where a square overflows.
#[test]
fn activations_far_out() {
    let x = || floats(F32, &[4], &[-1e20, 1e20, -3e38, 3e38]);
    let step = [0.0, 1.0, 0.0, 1.0];
    for (what, f) in [("gelu", (|x| x.gelu()) as Function), ("gelu_tanh", |x| x.gelu_tanh()), ("silu", |x| x.silu())] {
        assert_near(what, &gradient(f, x()), &step, 0.0);
        assert_near(what, &curvature(f, x()), &[0.0; 4], 0.0);
    }
    assert_near("mish", &gradient(|x| x.mish(), x()), &step, 0.0);
    assert_near("softsign", &gradient(|x| x.softsign(), floats(F32, &[2], &[1e15, -1e18])), &[1e-30, 1e-36], 1e-6);
}

/// Functions written as they are defined, where an exponential overflows: the value and the derivatives are those of the op.
#[test]
fn sigmoids_by_hand_level_off() {
    let by_hand: [(&str, Function, Function); 4] = [
        ("1/(1 + e^-x)", |x| 1.0 / (1.0 + (-x).exp()), |x| x.sigmoid()),
        ("1/(e^x + 1)", |x| 1.0 / (x.exp() + 1.0), |x| (-x).sigmoid()),
        ("e^x/(1 + e^x)", |x| x.exp() / (1.0 + x.exp()), |x| x.sigmoid()),
        ("tanh", |x| (x.exp() - (-x).exp()) / ((-x).exp() + x.exp()), |x| x.tanh()),
    ];
    for dtype in [F32, F64] {
        let x = || floats(dtype, &[7], &[-2000.0, -200.0, -66.6, 0.0, 1.0, 200.0, 2000.0]);
        for (what, hand, op) in by_hand {
            assert_near(what, &value(hand, x()), &value(op, x()), 0.0);
            assert_near(what, &gradient(hand, x()), &gradient(op, x()), 0.0);
            assert_near(what, &curvature(hand, x()), &curvature(op, x()), 0.0);
        }
    }
}

// ---- losses --------------------------------------------------------------------------------------------------------

#[test]
fn only_a_target_of_zero_counts_as_nothing() {
    let make = |g: &GraphBuilder| {
        let (q, y) = (g.input("q", F64, [6]), g.input("y", F64, [6]));
        let loss = q.kl_divergence(y);
        g.output("loss", loss);
        for (name, d) in ["dq", "dy"].into_iter().zip(g.grad(loss.sum(), &[q, y])) {
            g.output(name, d);
        }
    };
    let q = floats(F64, &[6], &[-1.0, -1.0, -1.0, -INF, -INF, -1.0]);
    let y = floats(F64, &[6], &[NAN, -2.0, 0.0, 0.0, 1.0, 1.0]);
    let got = run(make, &[("q", q), ("y", y)]);
    assert_near("terms", &got["loss"].to_f64(), &[NAN, NAN, 0.0, 0.0, INF, 1.0], 1e-15);
    assert_near("by q", &got["dq"].to_f64(), &[NAN, 2.0, 0.0, 0.0, -1.0, -1.0], 1e-15);
    assert_near("by y", &got["dy"].to_f64(), &[NAN, NAN, 0.0, 0.0, INF, 2.0], 1e-15);
}

/// Infinite logits, as masks make them, cost nothing where they are right; of large ones no digits cancel.
#[test]
fn binary_cross_entropy_of_large_logits() {
    let make = |g: &GraphBuilder| {
        let (z, y) = (g.input("z", F64, [10]), g.input("y", F64, [10]));
        let loss = z.bce_with_logits(y);
        g.output("loss", loss);
        let d = g.grad(loss.sum(), &[z, y]);
        g.output("dz", d[0]);
        g.output("dy", d[1]);
        g.output("second", g.grad(d[0].sum(), &[z])[0]);
    };
    let z = floats(F64, &[10], &[INF, -INF, INF, -INF, INF, 50.0, -50.0, 0.0, 2.0, NAN]);
    let y = floats(F64, &[10], &[1.0, 0.0, 0.0, 1.0, 0.5, 1.0, 0.0, 0.25, 3.0, 0.0]);
    let got = run(make, &[("z", z), ("y", y)]);
    let (tail, log2, sigmoid) = ((-50f64).exp(), std::f64::consts::LN_2, 1.0 / (1.0 + (-2f64).exp()));
    let loss = [0.0, 0.0, INF, INF, INF, tail, tail, log2, 2.0 + (-2f64).exp().ln_1p() - 6.0, NAN];
    assert_near("loss", &got["loss"].to_f64(), &loss, 1e-15);
    let slopes = [0.0, 0.0, 1.0, -1.0, 0.5, -tail, tail, 0.25, sigmoid - 3.0, NAN];
    assert_near("by z", &got["dz"].to_f64(), &slopes, 1e-15);
    assert_near("by y", &got["dy"].to_f64(), &[0.0, 0.0, -INF, INF, -INF, -50.0, 50.0, 0.0, -2.0, NAN], 0.0);
    let second = [0.0, 0.0, 0.0, 0.0, 0.0, tail, tail, 0.25, sigmoid * (1.0 - sigmoid), NAN];
    assert_near("order 2", &got["second"].to_f64(), &second, 1e-14);
}

#[test]
fn impossible_classes_that_are_not_wanted_count_as_nothing() {
    let make = |g: &GraphBuilder| {
        let (p, y) = (g.input("p", F64, [2, 2]), g.input("y", F64, [2, 2]));
        let loss = p.cross_entropy_of_probabilities(y);
        g.output("loss", loss);
        for (name, d) in ["dp", "dy"].into_iter().zip(g.grad(loss.sum(), &[p, y])) {
            g.output(name, d);
        }
    };
    let p = floats(F64, &[2, 2], &[0.0, 1.0, 0.0, 1.0]);
    let y = floats(F64, &[2, 2], &[0.0, 1.0, 0.5, NAN]);
    let got = run(make, &[("p", p), ("y", y)]);
    assert_near("loss", &got["loss"].to_f64(), &[0.0, NAN], 0.0);
    assert_near("by p", &got["dp"].to_f64(), &[0.0, -1.0, -INF, NAN], 0.0);
    assert_near("by y", &got["dy"].to_f64(), &[0.0, 0.0, INF, 0.0], 0.0);
}

// ---- tails ---------------------------------------------------------------------------------------------------------

#[test]
fn tails_of_the_gelus_do_not_cancel() {
    let at32 = floats(F32, &[3], &[-5.0, -5.5, -13.0]);
    let want = [-1.433_257_859_395_969_6e-6, -1.044_425_935_623_824_6e-7, -7.952_313_719_414_844e-38];
    assert_near("gelu in f32", &value(|x| x.gelu(), at32), &want, 6e-7);
    let at64 = floats(F64, &[4], &[-5.0, -8.5, -20.0, -37.5]);
    let want = [
        -1.433_257_859_395_969_6e-6,
        -8.057_604_598_872_82e-17,
        -5.507_248_237_212_467e-88,
        -1.727_007_378_593_233e-306,
    ];
    assert_near("gelu in f64", &value(|x| x.gelu(), at64), &want, 2e-15);
    let near = f64::from(-5.06f32);
    let z = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (near + 0.044715 * near.powi(3));
    let want = near / (1.0 + (-z).exp());
    assert!((want + 1.5228e-7).abs() < 1e-11, "{want}");
    assert_near("gelu_tanh", &value(|x| x.gelu_tanh(), floats(F32, &[1], &[-5.06])), &[want], 1e-5);
}

/// Equal values are one value, in Rust and in the text form alike: the derivative with respect to one of two equal operands is that
/// with respect to both.
#[test]
fn the_derivative_with_respect_to_one_of_equal_values_is_that_of_both() {
    let text = "cotangent 1\ngraph @main {\n  %0 = input \"x\" : f32[]\n  %1 = neg %0 : f32[]\n  %2 = neg %0 : f32[]\n  \
                %3 = mul %1, %2 : f32[]\n  %4 = grad %3, %1 : f32[]\n  output \"d\" = %4\n}\n";
    let read = parse(text, "equal.ct", &Registry::builtin()).unwrap_or_else(|diags| panic!("{diags}"));
    let made = build(|g| {
        let x = g.input("x", F32, []);
        let (a, b) = (-x, -x);
        assert_eq!(a.id(), b.id());
        g.output("d", g.grad(a * b, &[a])[0]);
    })
    .unwrap();
    for graph in [made, read] {
        let program = Compiler::new().compile(&graph).unwrap();
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
        assert_eq!(session.step(("x", &ndarray::arr0(3.0f32))).unwrap().scalar("d").unwrap(), 2.0 * -3.0);
    }
}

// ---- what dual numbers have found ----------------------------------------------------------------------------------

/// Where a bell has vanished, its derivatives are 0, of any order, and not 0 times an infinity.
#[test]
fn bells_are_flat_at_infinity() {
    let at = || floats(F64, &[4], &[INF, -INF, 50.0, NAN]);
    let want = [0.0, 0.0, 0.0, NAN];
    let functions: [(&str, Function); 3] =
        [("erf", |x| x.erf()), ("normal_cdf", |x| x.normal_cdf()), ("normal_pdf", |x| x.normal_pdf())];
    for (what, f) in functions {
        assert_near(what, &gradient(f, at()), &want, 0.0);
        assert_near(&format!("{what}, order 2"), &curvature(f, at()), &want, 0.0);
    }
}

/// A NaN stays one in the derivatives of what is below 0 by its own formula, as by hand.
#[test]
fn derivatives_at_nan() {
    let functions: [Function; 5] = [
        |x| x.elu(0.7),
        |x| x.ge(x.constant_like(0.0)).select(x, x.expm1() * 0.7),
        |x| x.celu(0.8),
        |x| x.selu(),
        |x| x.gelu_tanh(),
    ];
    for (k, f) in functions.into_iter().enumerate() {
        let at = || floats(F32, &[1], &[NAN]);
        assert_near(&format!("form {k}"), &gradient(f, at()), &[NAN], 0.0);
        assert_near(&format!("form {k}, order 2"), &curvature(f, at()), &[NAN], 0.0);
    }
}

/// The derivative of a power by its base is 0 at the exponent 0, but changes with the exponent there.
#[test]
fn the_slope_of_a_power_changes_at_the_exponent_zero() {
    let make = |g: &GraphBuilder| {
        let (a, b) = (g.input("a", F64, [4]), g.input("b", F64, [4]));
        let by_base = g.grad(a.pow(b).sum(), &[a])[0];
        g.output("by base", by_base);
        g.output("mixed", g.grad(by_base.sum(), &[b])[0]);
    };
    let inputs = [("a", floats(F64, &[4], &[2.0, 0.0, INF, NAN])), ("b", floats(F64, &[4], &[0.0; 4]))];
    let got = run(make, &inputs);
    assert_near("by base", &got["by base"].to_f64(), &[0.0; 4], 0.0);
    assert_near("mixed", &got["mixed"].to_f64(), &[0.5, 0.0, 0.0, 0.0], 1e-15);
}

/// What is dropped has no derivative: through an axis of one element, of a slice with steps, of products in rows, and at order 2
/// behind masks that an earlier derivative has made.
#[test]
fn dropped_elements_have_no_derivative_behind_more_masks() {
    let one_axis: Function = |x| x.tanh_slope().reshape([2, 1]).repeat_along(&Shape::new(&[2, 1, 1]), [2]).relu();
    assert_near("an axis of one element", &gradient(one_axis, floats(F32, &[2], &[NAN, 1.0]))[..1], &[0.0], 0.0);
    let steps: Function = |x| {
        let y = x.slice(&[0], &[1]).broadcast_to([5]) * x;
        y.slice_steps(&[0], &[5], &[4])
    };
    assert_near("steps", &gradient(steps, floats(F32, &[5], &[NAN, 1.0, 2.0, 3.0, 4.0]))[1..4], &[0.0; 3], 0.0);
    let rows: Function = |x| {
        let taken = x.slice(&[0], &[1]).reshape([]).gt(x.builder().scalar(9.0, x.dtype()));
        taken.select(x.prod(), x.builder().scalar(1.0, x.dtype()))
    };
    assert_near("products", &gradient(rows, floats(F32, &[3], &[-0.2, -0.0, -INF])), &[0.0; 3], 0.0);
    let loss: Function = |x| {
        let class = x.builder().scalar(1, I64);
        x.log_softmax(0).nll(class).maximum(x.builder().scalar(-3.0, x.dtype()))
    };
    // A class that is impossible and wanted; the mask of those that are not wanted does not hide that all is dropped.
    let repeated: Function = |x| {
        let loss = x.softmax(0).cross_entropy_of_probabilities(x.maximum(0.0) + 0.5);
        loss.broadcast_to([3]).minimum(1.0)
    };
    assert_near("a repeated loss", &gradient(repeated, floats(F64, &[2], &[-INF, 1.0])), &[0.0; 2], 0.0);
    assert_near("a loss of order 2", &curvature(loss, floats(F32, &[3], &[1.0, NAN, 2.0])), &[0.0; 3], 0.0);
}
