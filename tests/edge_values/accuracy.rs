//! How exact composite functions of f32 are: the bounds of numerics.md, over a sample of all f32 there are.

use std::f64::consts::PI;

use cotangent::graph::TensorData;
use ndarray::Array1;

use crate::{Function, value};

/// Every so many bit patterns; a prime.
const STRIDE: u32 = 4_099;

/// The distance between neighbouring f32 there.
fn ulp(of: f64) -> f64 {
    2f64.powf(of.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor() - 23.0)
}

/// Below this a factor of a result may be subnormal, and has fewer digits.
const SMALL: f64 = 1e-36;

/// The worst errors in units in the last place over finite operands whose result is a finite f32, and where they are: of results
/// that are not small, and of small ones.
fn worst(f: Function, reference: impl Fn(&[f64]) -> Vec<f64>) -> [(f64, f32); 2] {
    let all: Vec<f32> = (0..=u32::MAX / STRIDE).map(|k| f32::from_bits(k * STRIDE)).filter(|x| x.is_finite()).collect();
    let want = reference(&all.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
    let got = value(f, TensorData::from(Array1::from(all.clone()).into_dyn()));
    let error = |((&x, got), &want): ((&f32, &f64), &f64)| {
        let is_inside = want.abs() <= f64::from(f32::MAX);
        (want.abs() < SMALL, if is_inside { (got - want).abs() / ulp(want) } else { 0.0 }, x)
    };
    let errors: Vec<(bool, f64, f32)> = all.iter().zip(&got).zip(&want).map(error).collect();
    [false, true].map(|small| {
        let of = errors.iter().filter(|(is_small, ..)| *is_small == small).map(|&(_, error, x)| (error, x));
        of.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, 0.0))
    })
}

#[test]
fn composites_are_as_exact_as_the_page_says() {
    fn sigmoid(z: f64) -> f64 {
        if z >= 0.0 { 1.0 / (1.0 + (-z).exp()) } else { z.exp() / (1.0 + z.exp()) }
    }
    fn softplus(x: f64) -> f64 {
        x.max(0.0) + (-x.abs()).exp().ln_1p()
    }
    fn each(f: fn(f64) -> f64) -> impl Fn(&[f64]) -> Vec<f64> {
        move |all| all.iter().map(|&x| f(x)).collect()
    }
    // In f64 it is made of libm's `erfc`, which shares nothing with the expansion in f32.
    let wide = |all: &[f64]| value(|x| x.gelu(), TensorData::from(Array1::from(all.to_vec()).into_dyn()));
    let tanh_form = |x: f64| x * sigmoid((8.0 / PI).sqrt() * (x + 0.044_715 * x * x * x));
    let found = [
        ("gelu", worst(|x| x.gelu(), wide), [7.0, 16.0]),
        ("silu", worst(|x| x.silu(), each(|x| x * sigmoid(x))), [4.0, 64.0]),
        ("log_sigmoid", worst(|x| x.log_sigmoid(), each(|x| -softplus(-x))), [2.0, 2.0]),
        ("mish", worst(|x| x.mish(), each(|x| x * softplus(x).tanh())), [6.0, 64.0]),
        ("softplus", worst(|x| x.softplus(), each(softplus)), [2.0, 2.0]),
        ("gelu_tanh", worst(|x| x.gelu_tanh(), each(tanh_form)), [160.0, 160.0]),
    ];
    for (name, [(error, at), (small, there)], _) in found {
        println!("{name}: {error:.2} ulp at {at:e}, {small:.2} of small results at {there:e}");
    }
    for (name, [(error, at), (small, there)], bounds) in found {
        assert!(error <= bounds[0] && small <= bounds[1], "{name}: {error} ulp at {at:e}, {small} at {there:e}");
    }
}
