//! Rows: means of equal elements, rows with infinities, softmax written by hand in every form.

use cotangent::nn::{CrossEntropyOptions, Losses};
use cotangent::prelude::*;

use crate::{Function, assert_near, floats, gradient, run, value};

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

/// Equal elements whose sum is exact: their mean is the element, and nothing is left of them.
#[test]
fn the_mean_of_equal_elements_is_the_element() {
    for (n, x) in [(41, 1e6), (41, 123456.0), (1000, 1e6), (49, 3.0), (3, 1.0), (7, 1e6)] {
        for dtype in [F32, F64] {
            let row = floats(dtype, &[1, n], &vec![x; n]);
            let column = floats(dtype, &[n, 1], &vec![x; n]);
            let what = format!("{n} times {x}");
            assert_eq!(value(|x| x.mean(), row.clone()), [x], "{what}");
            assert_eq!(value(|x| x.mean_over([0]), column.clone()), [x], "{what}");
            assert_eq!(value(|x| x.variance_over([1]), row.clone()), [0.0], "{what}");
            let layer: Function = |x| {
                let one = x.constant_like(1.0).slice(&[0, 0], &[1, x.dim(-1)]).reshape([x.dim(-1)]);
                x.layer_norm(one, one * 0.0, 1e-5)
            };
            assert_eq!(value(layer, row.clone()), vec![0.0; n], "{what}");
            assert_eq!(value(|x| x.normalize([1], 1e-5), row.clone()), vec![0.0; n], "{what}");
            let batch: Function = |x| {
                let one = x.constant_like(1.0).slice(&[0, 0], &[1, 1]).reshape([1]);
                x.batch_norm(one, one * 0.0, [0], 1e-5)
            };
            assert_eq!(value(batch, column.clone()), vec![0.0; n], "{what}");
            // Of a square that is exact the mean square is too, so √ and quotient give 1 exactly.
            if x * x < 1e7 {
                assert_eq!(value(|x| x.rms_norm([1], 0.0), row.clone()), vec![1.0; n], "{what}");
            }
            assert_eq!(value(|x| (x + 1.0).mse(x), row.clone()), [1.0], "{what}");
        }
    }
}

/// The gradient of a mean is 1/n, correctly rounded.
#[test]
fn gradients_of_means_are_quotients() {
    for n in [3usize, 41, 49, 1000] {
        let x = floats(F32, &[n], &vec![0.5; n]);
        let share = f64::from(1.0f32 / n as f32);
        assert_eq!(gradient(|x| x.mean(), x.clone()), vec![share; n]);
    }
}

/// No rule makes a product of a quotient unless that is exact.
#[test]
fn quotients_stay_quotients() {
    let x = floats(F32, &[3], &[5.0, 7.0, 1e6]);
    for n in [3.0f32, 5.0, 10.0, 41.0] {
        let make = |g: &GraphBuilder| g.output("y", g.input("x", F32, [3]) / f64::from(n));
        let want: Vec<f64> = [5.0f32, 7.0, 1e6].iter().map(|v| f64::from(v / n)).collect();
        assert_eq!(run(make, &[("x", x.clone())])["y"].to_f64(), want);
    }
}

const ROWS: [f64; 14] = [-INF, -INF, INF, 0.0, -INF, 1.0, 1e30, -INF, NAN, 0.0, INF, INF, INF, -INF];
const SUMS: [f64; 7] = [-INF, INF, 1.0, 1e30, NAN, INF, INF];

#[test]
fn log_sum_exp_of_rows_with_infinities() {
    for dtype in [F32, F64] {
        let x = || floats(dtype, &[7, 2], &ROWS);
        assert_near("the op", &value(|x| x.log_sum_exp_over(1), x()), &SUMS, 1e-7);
        assert_near("by hand", &value(|x| x.exp().sum_over([1]).log(), x()), &SUMS, 1e-7);
        let columns = || {
            let turned: Vec<f64> = (0..14).map(|k| ROWS[k % 7 * 2 + k / 7]).collect();
            floats(dtype, &[2, 7], &turned)
        };
        assert_near("columns", &value(|x| x.log_sum_exp_over(0), columns()), &SUMS, 1e-7);
    }
    // Where it is finite, so is the gradient; elsewhere it is that of exp(x)/Σ exp(x), which is NaN.
    let x = floats(F64, &[3, 2], &[-INF, 1.0, 3.0, 3.0, 0.0, -INF]);
    for f in [(|x| x.log_sum_exp_over(1)) as Function, |x| x.exp().sum_over([1]).log()] {
        assert_near("gradient", &gradient(f, x.clone()), &[0.0, 1.0, 0.5, 0.5, 1.0, 0.0], 1e-15);
    }
}

/// What is masked out by -∞ counts as nothing, in values and in gradients.
#[test]
fn masked_classes_count_as_nothing() {
    let x = || floats(F32, &[2, 3], &[-INF, 1.0, 1.0, 2.0, -INF, -INF]);
    assert_near("softmax", &value(|x| x.softmax(1), x()), &[0.0, 0.5, 0.5, 1.0, 0.0, 0.0], 1e-6);
    let ln_half = -std::f64::consts::LN_2;
    let logs = [-INF, ln_half, ln_half, 0.0, -INF, -INF];
    assert_near("log_softmax", &value(|x| x.log_softmax(1), x()), &logs, 1e-6);
    let make = |g: &GraphBuilder| {
        let x = g.input("x", F32, [2, 3]);
        let y = g.constant(TensorData::from_bits(I64, &[2].into(), &[1, 0]));
        let loss = x.cross_entropy(y);
        g.output("hard", loss);
        g.output("d hard", g.grad(loss.sum(), &[x])[0]);
        let soft = x.soft_cross_entropy(x.stop_gradient().softmax(1));
        g.output("soft", soft);
        g.output("d soft", g.grad(soft.sum(), &[x])[0]);
    };
    let got = run(make, &[("x", x())]);
    assert_near("cross_entropy", &got["hard"].to_f64(), &[-ln_half, 0.0], 1e-6);
    assert_near("its gradient", &got["d hard"].to_f64(), &[0.0, -0.5, 0.5, 0.0, 0.0, 0.0], 1e-6);
    assert_near("soft_cross_entropy", &got["soft"].to_f64(), &[-ln_half, 0.0], 1e-6);
    assert_near("its gradient", &got["d soft"].to_f64(), &[0.0; 6], 1e-6);
}

/// A softmax that is written out is recognised whatever the extents are and however the sum is repeated.
#[test]
fn softmax_by_hand_is_found_in_every_form() {
    let kept: Function = |x| {
        let e = x.exp();
        let mut shape = x.shape().to_vec();
        let last = shape.len() - 1;
        shape[last] = 1;
        e / e.sum_over([last]).reshape(shape).broadcast_to(x.shape())
    };
    let repeated: Function = |x| {
        let e = x.exp();
        let last = x.rank() - 1;
        e / e.sum_over([last]).repeat_along(&x.shape(), [last])
    };
    let by_columns: Function = |x| {
        let e = x.t().exp();
        (e / e.sum_over([0]).broadcast_to(e.shape())).t()
    };
    let reciprocal: Function = |x| {
        let e = x.exp();
        let last = x.rank() - 1;
        e * (1.0 / e.sum_over([last])).repeat_along(&x.shape(), [last])
    };
    let forms: [(&str, Function); 4] =
        [("kept", kept), ("repeated", repeated), ("columns", by_columns), ("reciprocal", reciprocal)];
    for (rows, n) in [(1, 5), (2, 5), (5, 1), (1, 1), (5, 5)] {
        let x = || floats(F32, &[rows, n], &vec![1000.0; rows * n]);
        for (what, f) in forms {
            let what = format!("{what}, {rows} × {n}");
            assert_near(&what, &value(f, x()), &vec![1.0 / n as f64; rows * n], 1e-6);
            assert_near(&what, &gradient(f, x()), &vec![0.0; rows * n], 1e-6);
            assert_near(&what, &value(|x| x.softmax(1), x()), &vec![1.0 / n as f64; rows * n], 1e-6);
        }
    }
    // All axes at once, and axes of extent 1 anywhere.
    let all: Function = |x| {
        let e = x.exp();
        e / e.sum().broadcast_to(x.shape())
    };
    for shape in [&[5][..], &[1, 5], &[5, 1], &[1, 5, 1], &[2, 3], &[1, 2, 1, 3], &[1, 1]] {
        let n: usize = shape.iter().product();
        let x = || floats(F32, shape, &vec![1000.0; n]);
        assert_near(&format!("all of {shape:?}"), &value(all, x()), &vec![1.0 / n as f64; n], 1e-6);
    }
    let middle: Function = |x| {
        let e = x.exp();
        let [a, b, c] = [x.dim(0), x.dim(1), x.dim(2)];
        e / e.sum_over([1]).reshape([a, 1, c]).broadcast_to([a, b, c])
    };
    for shape in [[1, 5, 1], [2, 5, 1], [1, 5, 2], [1, 1, 5], [5, 1, 1], [2, 3, 4]] {
        let n = shape.iter().product();
        let x = floats(F32, &shape, &vec![1000.0; n]);
        assert_near(&format!("{shape:?}"), &value(middle, x), &vec![1.0 / shape[1] as f64; n], 1e-6);
    }
}

/// So is the logarithm of a sum of exponentials with its axis kept.
#[test]
fn log_sum_exp_by_hand_is_found_with_its_axis_kept() {
    let kept: Function = |x| {
        let mut shape = x.shape().to_vec();
        shape[1] = 1;
        x - x.exp().sum_over([1]).reshape(shape).log().broadcast_to(x.shape())
    };
    let before: Function = |x| {
        let sum = x.exp().sum_over([1]);
        x - sum.repeat_along(&x.shape(), [1]).log()
    };
    for (rows, n) in [(1, 5), (2, 5), (5, 1), (1, 1)] {
        for f in [kept, before] {
            let x = floats(F32, &[rows, n], &vec![1000.0; rows * n]);
            let want = if n == 1 { 0.0 } else { -(n as f64).ln() };
            let got = value(f, x.clone());
            assert!(got.iter().all(|v| (v - want).abs() < 1e-4), "{rows} × {n}: {got:?}");
        }
    }
}

/// A class without weight does not count, however wrong the logits are: 0 times infinity is nothing there.
#[test]
fn classes_without_weight_do_not_count() {
    for smoothing in [0.0, 0.1] {
        let of = |first: f64| {
            let make = |g: &GraphBuilder| {
                let (z, y) = (g.input("z", F64, [2, 3]), g.input("y", I64, [2]));
                let weights = g.constant(floats(F64, &[3], &[0.0, 1.0, 2.0]));
                let loss = z.mean_cross_entropy(y, CrossEntropyOptions::new().weights(weights).smoothing(smoothing));
                g.output("loss", loss);
                g.output("d", g.grad(loss, &[z])[0]);
            };
            let z = floats(F64, &[2, 3], &[first, 1.0, 0.0, first, 0.5, 1.0]);
            let out = run(make, &[("z", z), ("y", ndarray::array![0i64, 2].into_dyn().into())]);
            [out["loss"].to_f64(), out["d"].to_f64()].concat()
        };
        let masked = of(-INF);
        assert_near("masked", &masked, &of(-800.0), 0.0);
        assert!(masked.iter().all(|v| v.is_finite()), "{masked:?}");
    }
}
