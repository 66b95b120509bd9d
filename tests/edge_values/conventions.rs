//! The table of conventions of `docs/numerics.md`, row by row: an op and what it is made of have the same derivative there.

use cotangent::prelude::*;

use crate::{Function, assert_near, curvature, floats, gradient, run, value};

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

/// Functions that are the same written in other ways, where they have a kink: the gradient of each of them.
#[test]
fn kinks_have_the_same_slope_however_they_are_written() {
    type Row = (&'static str, &'static [Function], &'static [f64], &'static [f64]);
    let rows: [Row; 13] = [
        (
            "relu",
            &[|x| x.relu(), |x| x.maximum(x.constant_like(0.0))],
            &[0.0, -0.0, NAN, -1.0, 2.0],
            &[0.0, 0.0, 0.0, 0.0, 1.0],
        ),
        (
            "relu by select",
            &[|x| x.relu(), |x| x.gt(x.constant_like(0.0)).select(x, x.constant_like(0.0))],
            &[0.0, -1.0, 2.0],
            &[0.0, 0.0, 1.0],
        ),
        ("relu6", &[|x| x.relu6(), |x| x.clamp(0.0, 6.0)], &[0.0, 6.0, NAN, 3.0, 7.0], &[0.0, 0.0, 0.0, 1.0, 0.0]),
        ("clamp", &[|x| x.clamp(-1.0, 1.0), |x| -((-x).clamp(-1.0, 1.0))], &[-1.0, 1.0, 0.5], &[0.0, 0.0, 1.0]),
        (
            "hard_sigmoid",
            &[|x| x.hard_sigmoid(), |x| (x / 6.0 + 0.5).clamp(0.0, 1.0)],
            &[-3.0, 3.0, 0.0],
            &[0.0, 0.0, 1.0 / 6.0],
        ),
        (
            "leaky_relu",
            &[|x| x.leaky_relu(0.25), |x| x.gt(x.constant_like(0.0)).select(x, x * 0.25)],
            &[0.0, 1.0, -1.0],
            &[0.25, 1.0, 0.25],
        ),
        (
            "elu",
            &[|x| x.elu(2.0), |x| x.ge(x.constant_like(0.0)).select(x, (x.exp() - 1.0) * 2.0)],
            &[0.0, 3.0, 1e4],
            &[1.0, 1.0, 1.0],
        ),
        ("abs", &[|x| x.abs(), |x| x.square().sqrt(), |x| (x * x + x * x).sqrt() * 0.5f64.sqrt()], &[0.0], &[0.0]),
        (
            "sign and steps",
            &[|x| x.sign(), |x| x.floor(), |x| x.ceil(), |x| x.round(), |x| x.threshold()],
            &[0.0, 0.5],
            &[0.0, 0.0],
        ),
        ("huber", &[|x| x.huber(x.constant_like(0.0), 1.0)], &[1.0, -1.0, 2.0, 0.5], &[1.0, -1.0, 1.0, 0.5]),
        ("sqrt", &[|x| x.sqrt(), |x| x.powf(0.5)], &[0.0], &[INF]),
        ("log", &[|x| x.log(), |x| (x - 1.0).log1p()], &[0.0], &[INF]),
        ("reciprocal", &[|x| 1.0 / x, |x| x.powf(-1.0)], &[0.0], &[-INF]),
    ];
    for (what, forms, at, want) in rows {
        for (k, f) in forms.iter().enumerate() {
            let got = gradient(*f, floats(F64, &[at.len()], at));
            assert_near(&format!("{what}, form {k}"), &got, want, 1e-15);
        }
    }
    // Of the loss of Huber the second derivative at `delta` is that of the square.
    let at = floats(F64, &[2], &[1.0, 1.5]);
    assert_near("huber, order 2", &curvature(|x| x.huber(x.constant_like(0.0), 1.0), at), &[1.0, 0.0], 0.0);
}

#[test]
fn extremes_send_the_gradient_to_one_of_their_operands() {
    let make = |g: &GraphBuilder| {
        let (a, b) = (g.input("a", F64, [5]), g.input("b", F64, [5]));
        for (name, y) in [("max", a.maximum(b)), ("min", a.minimum(b))] {
            g.output(name, y);
            for (k, d) in g.grad(y.sum(), &[a, b]).into_iter().enumerate() {
                g.output(&format!("{name} {k}"), d);
            }
        }
    };
    let inputs =
        [("a", floats(F64, &[5], &[1.0, 2.0, NAN, 1.0, INF])), ("b", floats(F64, &[5], &[1.0, 1.0, 1.0, NAN, INF]))];
    let got = run(make, &inputs);
    assert_near("max", &got["max"].to_f64(), &[1.0, 2.0, NAN, NAN, INF], 0.0);
    assert_near("max by a", &got["max 0"].to_f64(), &[0.0, 1.0, 0.0, 0.0, 0.0], 0.0);
    assert_near("max by b", &got["max 1"].to_f64(), &[1.0, 0.0, 1.0, 1.0, 1.0], 0.0);
    assert_near("min by a", &got["min 0"].to_f64(), &[0.0, 0.0, 0.0, 0.0, 0.0], 0.0);
    assert_near("min by b", &got["min 1"].to_f64(), &[1.0, 1.0, 1.0, 1.0, 1.0], 0.0);
    // Over rows: to the first that attains it, or to the first NaN, which `argmax` names.
    let rows = || floats(F64, &[3, 3], &[1.0, 2.0, 2.0, 5.0, NAN, NAN, INF, INF, 0.0]);
    let want = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0];
    assert_near("max_over", &gradient(|x| x.max_over([1]), rows()), &want, 0.0);
    assert_near("maxout", &gradient(|x| x.maxout(3), rows()), &want, 0.0);
    assert_near("min_over", &gradient(|x| -(-x).min_over([1]), rows()), &want, 0.0);
    assert_near("argmax", &value(|x| x.argmax(1).cast(F64), rows()), &[1.0, 1.0, 0.0], 0.0);
    assert_near("argmin", &value(|x| (-x).argmin(1).cast(F64), rows()), &[1.0, 1.0, 0.0], 0.0);
    let zeros = floats(F64, &[2, 2], &[-0.0, 0.0, 0.0, -0.0]);
    assert_near("argmin of zeros", &value(|x| x.argmin(1).cast(F64), zeros), &[0.0, 0.0], 0.0);
}

#[test]
fn rows_and_products_at_infinity() {
    let rows = || floats(F64, &[2, 2], &[INF, 0.0, -INF, -INF]);
    assert_near("softmax", &value(|x| x.softmax(1), rows()), &[NAN; 4], 0.0);
    assert_near("log_softmax", &value(|x| x.log_softmax(1), rows())[..1], &[NAN], 0.0);
    assert_near("log_sum_exp", &gradient(|x| x.log_sum_exp_over(1), rows()), &[NAN; 4], 0.0);
    let forms: [Function; 3] = [|x| x.silu(), |x| x.gelu(), |x| x * x.sigmoid()];
    for f in forms {
        assert_near("x · f(x) at -∞", &value(f, floats(F64, &[1], &[-INF])), &[NAN], 0.0);
        assert_near("x · f(x) at ∞", &gradient(f, floats(F64, &[1], &[INF])), &[NAN], 0.0);
    }
    assert_near("pow(0, 0)", &value(|x| x.pow(x), floats(F64, &[1], &[0.0])), &[1.0], 0.0);
    let loss = |g: &GraphBuilder| {
        let z = g.input("z", F64, [2]);
        g.output("y", z.bce_with_logits(z.constant_like(3.0)));
    };
    let got = run(loss, &[("z", floats(F64, &[2], &[0.0, 1.0]))]);
    assert_near("bce", &got["y"].to_f64(), &[2f64.ln(), 1f64.exp().ln_1p() - 3.0], 1e-15);
}

#[test]
fn slopes_and_rows_that_the_table_names() {
    // `prelu` at 0 has the slope below, as `leaky_relu` has; `selu` at 0 the one above.
    let zeros = || floats(F64, &[3], &[0.0, -0.0, 1.0]);
    assert_near("leaky_relu", &gradient(|x| x.leaky_relu(0.25), zeros()), &[0.25, 0.25, 1.0], 0.0);
    let prelu: Function = |x| x.prelu(x.builder().full(F64, [3], 0.25));
    assert_near("prelu", &gradient(prelu, zeros()), &[0.25, 0.25, 1.0], 0.0);
    let above = 1.050_700_987_355_480_5;
    assert_near("selu", &gradient(|x| x.selu(), zeros()), &[above; 3], 1e-15);
    // The pole of `rsqrt` has the sign of the limit from above, for the op and by hand.
    let at = || floats(F64, &[2], &[0.0, 4.0]);
    for (name, f) in [("rsqrt", (|x| x.rsqrt()) as Function), ("1/√x", |x| 1.0 / x.sqrt())] {
        assert_near(name, &value(f, at()), &[INF, 0.5], 0.0);
        assert_near(name, &gradient(f, at()), &[-INF, -0.0625], 1e-15);
    }
    // A row whose largest is infinite has no cross-entropy; a single -∞ is a class that is impossible.
    let rows = || floats(F64, &[3, 2], &[INF, 0.0, -INF, -INF, -INF, 1.0]);
    let loss: Function = |x| {
        let labels = x.builder().iota(I64, [3], 0);
        x.cross_entropy(labels - labels + 1)
    };
    let got = value(loss, rows());
    assert!(got[0].is_nan() && got[1].is_nan() && got[2] == 0.0, "{got:?}");
    let by_hand: Function = |x| -x.log_softmax(1).slice(&[0, 1], &[3, 2]).reshape([3]);
    let got = value(by_hand, rows());
    assert!(got[0].is_nan() && got[1].is_nan() && got[2] == 0.0, "{got:?}");
}
