//! The numbers of the lecture behind this project: formulas, tables and small nets, compiled.

use cotangent::data::synthetic;
use cotangent::graph::HostTensor;
use cotangent::prelude::*;
use ndarray::{Array1, Array2, ArrayD, arr0, array};

/// A session of one thread.
fn session(f: impl FnOnce(&GraphBuilder)) -> Session {
    let graph = build(f).unwrap_or_else(|diags| panic!("{diags}"));
    let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
    Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(5)).unwrap()
}

/// The output `y` of a graph of one input `x`.
fn apply(x: &ArrayD<f32>, f: impl FnOnce(Tensor<'_>) -> Tensor<'_>) -> Vec<f32> {
    let mut session = session(|g| g.output("y", f(g.input("x", F32, x.shape()))));
    let results = session.step([("x", x.into())]).unwrap();
    results.view::<f32>("y").unwrap().iter().copied().collect()
}

/// The four corners of the unit square, a column for each: (0,0), (0,1), (1,0), (1,1).
fn corners() -> ArrayD<f32> {
    array![[0.0f32, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]].into_dyn()
}

fn row(x: Tensor<'_>, k: usize) -> Tensor<'_> {
    x.slice(&[k, 0], &[k + 1, 4]).reshape([4])
}

/// The threshold neuron: 1 above 0, else 0.
fn threshold(z: Tensor<'_>) -> Tensor<'_> {
    z.gt(z.constant_like(0.0)).cast(F32)
}

#[test]
fn softmax_gives_the_printed_numbers() {
    let table: [(&[f32], &[f32], f32); 3] = [
        (&[0.5, 0.5, 0.1, 0.7], &[0.257, 0.257, 0.172, 0.314], 1e-3),
        (&[-1.0, 0.0, 1.0, 0.0, -1.0], &[0.07, 0.18, 0.5, 0.18, 0.07], 1e-2),
        (&[1.0, 1.0, 1.0, 2.0, 1.0], &[0.15, 0.15, 0.15, 0.4, 0.15], 1e-2),
    ];
    for (x, printed, digit) in table {
        let y = apply(&Array1::from(x.to_vec()).into_dyn(), |x| x.softmax(0));
        assert!((y.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{y:?}");
        for (value, printed) in y.iter().zip(printed) {
            // The last printed digit may be rounded or cut off.
            assert!((value - printed).abs() < digit, "{x:?}: {y:?}");
        }
    }
}

#[test]
fn and_and_or_are_one_threshold_neuron_each() {
    assert_eq!(apply(&corners(), |x| threshold(row(x, 0) + row(x, 1) - 1.5)), [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(apply(&corners(), |x| threshold(row(x, 0) + row(x, 1) - 0.5)), [0.0, 1.0, 1.0, 1.0]);
}

/// th(th(x₁+x₂−1.5) + th(−x₁−x₂+0.5) − 0.5): "both or neither", which is the negation of XOR.
fn both_or_neither<'g>(x: Tensor<'g>, th: impl Fn(Tensor<'g>) -> Tensor<'g>) -> Tensor<'g> {
    let sum = row(x, 0) + row(x, 1);
    th(th(sum - 1.5) + th(-sum + 0.5) - 0.5)
}

/// The same with the last neuron's signs turned around: XOR.
fn exclusive_or<'g>(x: Tensor<'g>, th: impl Fn(Tensor<'g>) -> Tensor<'g>) -> Tensor<'g> {
    let sum = row(x, 0) + row(x, 1);
    th(-th(sum - 1.5) - th(-sum + 0.5) + 0.5)
}

#[test]
fn xor_is_two_layers_of_threshold_neurons() {
    assert_eq!(apply(&corners(), |x| both_or_neither(x, threshold)), [1.0, 0.0, 0.0, 1.0]);
    assert_eq!(apply(&corners(), |x| exclusive_or(x, threshold)), [0.0, 1.0, 1.0, 0.0]);
}

#[test]
fn steep_sigmoids_tend_to_thresholds() {
    let error = |c: f64| {
        let y = apply(&corners(), |x| exclusive_or(x, |z| (z * c).sigmoid()));
        y.iter().zip([0.0, 1.0, 1.0, 0.0]).map(|(y, t): (&f32, f32)| (y - t).abs()).fold(0.0, f32::max)
    };
    let errors = [2.0, 5.0, 10.0, 20.0, 40.0].map(error);
    assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
    assert!(errors[4] < 1e-6, "{errors:?}");
    assert_eq!(error(1000.0), 0.0);
}

#[test]
fn xor_is_learned_by_eight_hidden_neurons() {
    let mut session = session(|g| {
        let y = g.input("y", F32, [4, 1]);
        let logits = g.input("x", F32, [4, 2]).dense("hidden", 8).tanh().dense("out", 1);
        g.output("p", logits.sigmoid());
        g.minimize(logits.bce_with_logits(y).mean(), Sgd::new(0.5));
    });
    let x = array![[0.0f32, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]];
    let y = array![[0.0f32], [1.0], [1.0], [0.0]];
    for _ in 0..3000 {
        session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
    }
    let results = session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
    for (p, y) in results.view::<f32>("p").unwrap().iter().zip(&y) {
        assert!((p - y).abs() < 0.05, "{p} instead of {y}");
    }
}

#[test]
fn the_example_of_backpropagation() {
    for dtype in [F32, F64] {
        let mut session = session(|builder| {
            let [x, y, z] = ["x", "y", "z"].map(|name| builder.input(name, dtype, []));
            let (g, h) = (x + y, y - z);
            let f = g * h;
            for (name, value) in [("g", g), ("h", h), ("f", f)] {
                builder.output(name, value);
            }
            for (name, cotangent) in ["dx", "dy", "dz", "dg", "dh"].iter().zip(builder.grad(f, &[x, y, z, g, h])) {
                builder.output(name, cotangent);
            }
        });
        let (narrow, wide) = ([1.0f32, 2.0, 3.0].map(arr0), [1.0f64, 2.0, 3.0].map(arr0));
        let at = |k: usize| if dtype == F32 { HostTensor::from(&narrow[k]) } else { (&wide[k]).into() };
        let results = session.step([("x", at(0)), ("y", at(1)), ("z", at(2))]).unwrap();
        let printed = [("g", 3.0), ("h", -1.0), ("f", -3.0), ("dx", -1.0), ("dy", 2.0), ("dz", -3.0)];
        for (name, value) in printed.into_iter().chain([("dg", -1.0), ("dh", 3.0)]) {
            assert_eq!(results.scalar(name).unwrap(), value, "{name}");
        }
    }
}

#[test]
fn linear_regression_recovers_known_weights() {
    const N: usize = 256;
    let (known, bias) = ([2.0f32, -1.0, 0.5, 3.0], -0.75);
    let (x, y) = synthetic::linear_regression(N, &known, bias, 0.0, 7).into_parts();
    let y = y.into_shape_with_order((N, 1)).unwrap();
    let mut session = session(|g| {
        let loss = g.input("x", F32, [N, 4]).dense("linear", 1).mse(g.input("y", F32, [N, 1]));
        g.output("loss", loss);
        g.minimize(loss, Sgd::new(0.1));
    });
    let mut loss = f64::INFINITY;
    for _ in 0..400 {
        loss = session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap().scalar("loss").unwrap();
    }
    assert!(loss < 1e-9, "{loss}");
    let learned = session.store().get("linear.weight").unwrap().to_f64();
    for (learned, known) in learned.iter().zip(known) {
        assert!((learned - f64::from(known)).abs() < 1e-4, "{learned} instead of {known}");
    }
    let learned = session.store().get("linear.bias").unwrap().to_f64()[0];
    assert!((learned - f64::from(bias)).abs() < 1e-4, "{learned}");
}

#[test]
fn logistic_regression_separates_what_a_line_separates() {
    const N: usize = 200;
    // Points on either side of x₁ − 2x₂ + 0.3 = 0, at a distance from it.
    let side = |k: usize| if k.is_multiple_of(2) { 1.0f32 } else { -1.0 };
    let along = |k: usize| (k as f32 / N as f32) * 4.0 - 2.0;
    let x = Array2::from_shape_fn((N, 2), |(k, axis)| {
        let offset = side(k) * (0.2 + (k % 7) as f32 / 7.0);
        if axis == 0 { 2.0 * along(k) - 0.3 + offset } else { along(k) - 2.0 * offset }
    });
    let y = Array2::from_shape_fn((N, 1), |(k, _)| f32::from(side(k) > 0.0));
    let mut session = session(|g| {
        let logits = g.input("x", F32, [N, 2]).dense("linear", 1);
        let loss = logits.bce_with_logits(g.input("y", F32, [N, 1])).mean();
        g.output("loss", loss);
        g.output("p", logits.sigmoid());
        g.minimize(loss, Sgd::new(1.0));
    });
    for _ in 0..500 {
        session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
    }
    let results = session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
    assert!(results.scalar("loss").unwrap() < 0.1);
    assert!(results.view::<f32>("p").unwrap().iter().zip(&y).all(|(p, y)| (*p > 0.5) == (*y > 0.5)));
}

#[test]
fn cross_entropy_is_finite_for_extreme_logits() {
    // As one op and written out, because a pass repairs the written-out form: −log softmax at the label.
    for written_out in [false, true] {
        let mut session = session(|g| {
            let (a, y) = (g.input("a", F32, [4, 3]), g.input("y", I64, [4]));
            let loss =
                if written_out { -(a.softmax(1).log() * y.one_hot(3, F32)).sum_over([1]) } else { a.cross_entropy(y) };
            g.output("loss", loss);
            g.output("gradient", g.grad(loss.sum(), &[a])[0]);
        });
        let a = array![[1e4f32, -1e4, 0.0], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4]];
        let y = array![0i64, 1, 2, 0];
        let results = session.step([("a", (&a).into()), ("y", (&y).into())]).unwrap();
        let loss = results.tensor("loss").unwrap().to_f64();
        let expected = [0.0, 2e4, 3f64.ln(), 3f64.ln()];
        for (loss, expected) in loss.iter().zip(expected) {
            assert!((loss - expected).abs() <= 1e-6 * expected.max(1.0), "{loss} instead of {expected}");
        }
        let gradient = results.tensor("gradient").unwrap().to_f64();
        let third = 1.0 / 3.0;
        let expected = [0.0, 0.0, 0.0, 1.0, -1.0, 0.0, third, third, third - 1.0, third - 1.0, third, third];
        for (gradient, expected) in gradient.iter().zip(expected) {
            assert!((gradient - expected).abs() < 1e-6, "written out: {written_out}, {gradient} instead of {expected}");
        }
    }
}

#[test]
fn binary_cross_entropy_is_finite_for_extreme_logits() {
    let mut session = session(|g| {
        let (a, y) = (g.input("a", F32, [4]), g.input("y", F32, [4]));
        let loss = a.bce_with_logits(y);
        g.output("loss", loss);
        g.output("gradient", g.grad(loss.sum(), &[a])[0]);
    });
    let (a, y) = (array![1e4f32, 1e4, -1e4, -1e4], array![1.0f32, 0.0, 0.0, 1.0]);
    let results = session.step([("a", (&a).into()), ("y", (&y).into())]).unwrap();
    assert_eq!(results.tensor("loss").unwrap().to_f64(), [0.0, 1e4, 0.0, 1e4]);
    assert_eq!(results.tensor("gradient").unwrap().to_f64(), [0.0, 1.0, 0.0, -1.0]);
}
