//! Initialisers: moments, bounds and orthogonality of what they sample, and what they do to twenty layers.

use cotangent_graph::{DType, Init, Shape};

fn sample(init: Init, shape: &[usize]) -> Vec<f64> {
    init.sample(11, "layer.weight", DType::F64, &Shape::new(shape)).to_f64()
}

/// Asserts mean and variance within five standard errors, given the fourth central moment over the squared variance.
fn check_moments(init: Init, mean: f64, variance: f64, kurtosis: f64) -> Vec<f64> {
    let values = sample(init, &[300, 200]);
    let n = values.len() as f64;
    let got = values.iter().sum::<f64>() / n;
    assert!((got - mean).abs() < 5.0 * (variance / n).sqrt(), "{init}: mean {got}, not {mean}");
    let got = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let error = ((kurtosis - 1.0) / n).sqrt();
    assert!((got / variance - 1.0).abs() < 5.0 * error, "{init}: variance {got}, not {variance}");
    values
}

/// Of 300 inputs and 200 outputs.
#[test]
fn moments_are_those_of_the_formulas() {
    const UNIFORM: f64 = 1.8;
    const NORMAL: f64 = 3.0;
    for (init, variance, kurtosis) in [
        (Init::GlorotUniform, 2.0 / 500.0, UNIFORM),
        (Init::GlorotNormal, 2.0 / 500.0, NORMAL),
        (Init::HeUniform, 2.0 / 300.0, UNIFORM),
        (Init::HeNormal, 2.0 / 300.0, NORMAL),
        (Init::LecunUniform, 1.0 / 300.0, UNIFORM),
        (Init::LecunNormal, 1.0 / 300.0, NORMAL),
    ] {
        let values = check_moments(init, 0.0, variance, kurtosis);
        let largest = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let bound = (3.0 * variance).sqrt();
        // A uniform draw of 60,000 comes within a thousandth of its bound; a normal one goes beyond it.
        assert_eq!(kurtosis == UNIFORM, largest <= bound && largest > 0.999 * bound, "{init}: {largest} of {bound}");
    }
    check_moments(Init::uniform(-0.5, 1.5), 0.5, 4.0 / 12.0, UNIFORM);
    check_moments(Init::normal(1.0, 0.1), 1.0, 0.01, NORMAL);
    assert!(sample(Init::constant(0.3), &[5]).iter().all(|&v| v == 0.3));
}

/// Cut at two deviations: the variance is 1 − 2·2φ(2)/(2Φ(2) − 1) = 0.77373, the fourth moment 1.4161 (by integration).
#[test]
fn truncated_normals_have_no_tails() {
    let values = check_moments(Init::truncated_normal(0.2, 0.05), 0.2, 0.773_741 * 0.0025, 2.37);
    let largest = values.iter().fold(0.0f64, |m, v| m.max((v - 0.2).abs()));
    assert!(largest <= 0.1 + 1e-6 && largest > 0.0995, "{largest}");
    // Within one deviation lie (2Φ(1) − 1)/(2Φ(2) − 1) = 71.5 % of them.
    let near = values.iter().filter(|v| (*v - 0.2).abs() < 0.05).count() as f64 / values.len() as f64;
    assert!((near - 0.7152).abs() < 5.0 * (0.7152f64 * 0.2848 / values.len() as f64).sqrt(), "{near}");
}

#[test]
fn orthogonal_matrices_are_orthogonal_whatever_their_shape() {
    for (rows, columns) in [(1, 1), (40, 40), (100, 30), (30, 100), (7, 1), (1, 7)] {
        let values = sample(Init::orthogonal(1.5), &[rows, columns]);
        let (n, len) = (rows.min(columns), rows.max(columns));
        let at = |v: usize, i: usize| if columns > rows { values[v * columns + i] } else { values[i * columns + v] };
        for a in 0..n {
            for b in 0..n {
                let dot: f64 = (0..len).map(|i| at(a, i) * at(b, i)).sum();
                let expected = if a == b { 2.25 } else { 0.0 };
                assert!((dot - expected).abs() < 1e-12, "{rows}×{columns}: {a}·{b} = {dot}");
            }
        }
    }
    // More than two axes: the last one counts outputs.
    let values = sample(Init::orthogonal(1.0), &[3, 3, 4, 8]);
    let column = |j: usize| values.iter().skip(j).step_by(8).copied().collect::<Vec<f64>>();
    let dot = |a: usize, b: usize| column(a).iter().zip(column(b)).map(|(x, y)| x * y).sum::<f64>();
    assert!((dot(3, 3) - 1.0).abs() < 1e-12 && dot(3, 5).abs() < 1e-12);
    // Not always the same corner of the sphere: the first entries of many are centered, with variance 1/n.
    let firsts: Vec<f64> =
        (0..400).map(|seed| Init::orthogonal(1.0).sample(seed, "w", DType::F64, &[8, 8].into()).to_f64()[0]).collect();
    let mean = firsts.iter().sum::<f64>() / 400.0;
    let variance = firsts.iter().map(|v| v * v).sum::<f64>() / 400.0;
    assert!(mean.abs() < 5.0 * (1.0f64 / 8.0 / 400.0).sqrt(), "{mean}");
    assert!((variance * 8.0 - 1.0).abs() < 5.0 * (2.0f64 / 400.0).sqrt(), "{variance}");
}

#[test]
fn samples_depend_on_seed_and_name_alone() {
    for init in [Init::truncated_normal(0.0, 1.0), Init::orthogonal(1.0), Init::LecunUniform] {
        let of = |seed: u64, name: &str| init.sample(seed, name, DType::F32, &[6, 5].into());
        assert_eq!(of(1, "a"), of(1, "a"));
        assert_ne!(of(1, "a"), of(2, "a"));
        assert_ne!(of(1, "a"), of(1, "b"));
    }
    // No elements, no trouble.
    for init in [Init::orthogonal(1.0), Init::truncated_normal(0.0, 1.0)] {
        assert_eq!(init.sample(0, "a", DType::F32, &[0, 5].into()).to_f64(), []);
        assert_eq!(init.sample(0, "a", DType::F32, &[5, 0].into()).to_f64(), []);
    }
}

/// Standard deviations of the activations after each of twenty layers of 128 neurons, by plain loops.
fn deviations(init: Init, activation: impl Fn(f64) -> f64) -> Vec<f64> {
    let (rows, n) = (64, 128);
    let mut x = Init::normal(0.0, 1.0).sample(3, "x", DType::F64, &[rows, n].into()).to_f64();
    let layer = |x: &[f64], k: usize| -> Vec<f64> {
        let w = init.sample(5, &format!("layer{k}.weight"), DType::F64, &[n, n].into()).to_f64();
        let mut out = vec![0.0; rows * n];
        for (row, out) in x.chunks(n).zip(out.chunks_mut(n)) {
            for (x, w) in row.iter().zip(w.chunks(n)) {
                out.iter_mut().zip(w).for_each(|(o, w)| *o += x * w);
            }
            out.iter_mut().for_each(|o| *o = activation(*o));
        }
        out
    };
    let deviation = |x: &[f64]| {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
    };
    (0..20)
        .map(|k| {
            x = layer(&x, k);
            deviation(&x)
        })
        .collect()
}

#[test]
fn twenty_layers_neither_vanish_nor_saturate() {
    let relu = |v: f64| v.max(0.0);
    let last = |init: Init, activation: fn(f64) -> f64| deviations(init, activation)[19];
    for init in [Init::HeNormal, Init::HeUniform, Init::orthogonal(2f64.sqrt())] {
        let all = deviations(init, relu);
        assert!(all.iter().all(|d| (0.2..3.0).contains(d)), "{init} with ReLU: {all:?}");
    }
    for init in [Init::GlorotUniform, Init::GlorotNormal, Init::LecunNormal, Init::LecunUniform, Init::orthogonal(1.0)]
    {
        let all = deviations(init, f64::tanh);
        assert!(all.iter().all(|d| (0.1..0.9).contains(d)), "{init} with tanh: {all:?}");
    }
    // The wrong scale: ReLU halves the variance of what Glorot's weights pass on; small weights end the signal, large ones
    // drive tanh to its limits.
    assert!(last(Init::GlorotNormal, relu) < 2e-3);
    assert!(last(Init::normal(0.0, 0.01), f64::tanh) < 1e-15);
    assert!(last(Init::normal(0.0, 1.0), f64::tanh) > 0.95);
}

#[test]
fn biases_of_forget_gates_stand_in_the_second_of_four_blocks() {
    assert_eq!(sample(Init::forget_gate(1.5), &[8]), [0.0, 0.0, 1.5, 1.5, 0.0, 0.0, 0.0, 0.0]);
    let rows = sample(Init::forget_gate(1.0), &[3000, 4]);
    assert!(rows.chunks(4).all(|row| row == [0.0, 1.0, 0.0, 0.0]));
}
