//! Toy sets made from formulas: what a first network is tried on.
//!
//! Why it exists: each shows one thing that the lecture claims, within seconds and without files. Two moons and spirals
//! need hidden layers, XOR is the classic set that no single neuron separates, and linear regression has known weights
//! to recover.
//!
//! Promises: a set is a function of its arguments; another seed gives other points of the same distribution. Points
//! stand in a fixed order (often sorted by class), so train on shuffled batches. Noise is Gaussian with the standard
//! deviation given; zero means none. The noise goes through the platform's logarithm and cosine, so its last bit may
//! differ between platforms.

use std::f64::consts::{PI, TAU};

use cotangent_host::float::in_default;
use cotangent_scalar::philox::PhiloxRng;
use ndarray::{Array1, ArrayD, IxDyn};
use rand::{Rng, RngExt};

use crate::Dataset;

/// The random stream of each set, so that one seed does not give two sets the same noise.
const MOONS_STREAM: u64 = u64::from_be_bytes(*b"twomoons");
const SPIRALS_STREAM: u64 = u64::from_be_bytes(*b"spirals\0");
const REGRESSION_STREAM: u64 = u64::from_be_bytes(*b"linear\0\0");
const XOR_STREAM: u64 = u64::from_be_bytes(*b"xor\0\0\0\0\0");

/// How often a spiral winds around the origin.
const SPIRAL_TURNS: f64 = 1.5;

/// `n` points `[n, 2]` on two interleaved half circles of radius 1, the upper one (class 0) around (0, 0), the lower one
/// (class 1) around (1, 0.5). Class 0 has the odd point if `n` is odd.
pub fn two_moons(n: usize, noise: f32, seed: u64) -> Dataset {
    let mut rng = PhiloxRng::new(seed, MOONS_STREAM);
    let n_upper = n.div_ceil(2);
    let points = (0..n).map(|place| {
        let (class, step, n_steps) =
            if place < n_upper { (0, place, n_upper) } else { (1, place - n_upper, n - n_upper) };
        let (sin, cos) = (PI * fraction(step, n_steps)).sin_cos();
        let point = if class == 0 { [cos, sin] } else { [1.0 - cos, 0.5 - sin] };
        (point, class)
    });
    in_default(|| classified(points, noise, &mut rng))
}

/// `n_classes` arms of `n_per_class` points each, `[n_classes * n_per_class, 2]`: arm k starts at the origin, winds
/// one and a half times around it out to radius 1, and is turned by k / `n_classes` of a full turn.
pub fn spirals(n_classes: usize, n_per_class: usize, noise: f32, seed: u64) -> Dataset {
    let mut rng = PhiloxRng::new(seed, SPIRALS_STREAM);
    let points = (0..n_classes).flat_map(|class| {
        (0..n_per_class).map(move |step| {
            let radius = fraction(step, n_per_class);
            let turn = SPIRAL_TURNS * radius + class as f64 / n_classes as f64;
            let (sin, cos) = (TAU * turn).sin_cos();
            ([radius * cos, radius * sin], class as i64)
        })
    });
    in_default(|| classified(points, noise, &mut rng))
}

/// `n` points `[n, 2]` at the corners of the unit square, taking turns in the order (0,0), (0,1), (1,0), (1,1); the
/// class is the exclusive or of the coordinates. `xor(4, 0.0, 0)` is the truth table.
pub fn xor(n: usize, noise: f32, seed: u64) -> Dataset {
    let mut rng = PhiloxRng::new(seed, XOR_STREAM);
    let points = (0..n).map(|place| {
        let (first, second) = (place >> 1 & 1, place & 1);
        ([first as f64, second as f64], (first ^ second) as i64)
    });
    in_default(|| classified(points, noise, &mut rng))
}

/// `n` points `[n, weights.len()]`, standard normal, with targets `bias + Σ weightsₜ xₜ + noise`.
pub fn linear_regression(n: usize, weights: &[f32], bias: f32, noise: f32, seed: u64) -> Dataset<f32> {
    let mut rng = PhiloxRng::new(seed, REGRESSION_STREAM);
    let mut features = Vec::new();
    let mut targets = Vec::new();
    in_default(|| {
        for _ in 0..n {
            let mut target = f64::from(bias);
            for &weight in weights {
                // The target is computed from the feature as stored, so that without noise it is exact to the last bit or so.
                let feature = normal(&mut rng) as f32;
                features.push(feature);
                target += f64::from(weight) * f64::from(feature);
            }
            targets.push((target + f64::from(noise) * normal(&mut rng)) as f32);
        }
    });
    dataset(features, weights.len(), targets)
}

/// Adds noise to points in the plane and joins them with their classes.
fn classified<R: Rng + ?Sized>(points: impl Iterator<Item = ([f64; 2], i64)>, noise: f32, rng: &mut R) -> Dataset {
    let mut features = Vec::new();
    let mut labels = Vec::new();
    for (point, label) in points {
        features.extend(point.map(|coordinate| (coordinate + f64::from(noise) * normal(rng)) as f32));
        labels.push(label);
    }
    dataset(features, 2, labels)
}

fn dataset<T: Copy + PartialOrd>(features: Vec<f32>, n_features: usize, labels: Vec<T>) -> Dataset<T> {
    let shape = IxDyn(&[labels.len(), n_features]);
    let features = ArrayD::from_shape_vec(shape, features).expect("every point brought as many features as the others");
    Dataset::new(features, Array1::from_vec(labels)).expect("every point brought one label")
}

/// `step` of `n_steps` as a number from 0 (first) to 1 (last).
fn fraction(step: usize, n_steps: usize) -> f64 {
    step as f64 / n_steps.saturating_sub(1).max(1) as f64
}

/// A standard normal number (Box and Muller 1958, the cosine branch).
fn normal<R: Rng + ?Sized>(rng: &mut R) -> f64 {
    // 1 - u is in (0, 1], where the logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xor_without_noise_is_the_truth_table() {
        let (features, labels) = xor(4, 0.0, 0).into_parts();
        assert_eq!(features.iter().copied().collect::<Vec<_>>(), [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
        assert_eq!(labels.to_vec(), [0, 1, 1, 0]);
    }

    #[test]
    fn moons_without_noise_lie_on_their_circles() {
        let (features, labels) = two_moons(101, 0.0, 0).into_parts();
        assert_eq!(labels.iter().filter(|&&label| label == 0).count(), 51);
        for (point, &label) in features.outer_iter().zip(&labels) {
            let (x, y) = if label == 0 { (point[0], point[1]) } else { (point[0] - 1.0, 0.5 - point[1]) };
            assert!((x.hypot(y) - 1.0).abs() < 1e-6 && y > -1e-6, "{point}");
        }
    }

    #[test]
    fn spirals_without_noise_reach_radius_one() {
        let set = spirals(3, 50, 0.0, 0);
        assert_eq!(set.len(), 150);
        for class in 0..3 {
            let last = set.features().index_axis_move(ndarray::Axis(0), class * 50 + 49);
            assert!((last[0].hypot(last[1]) - 1.0).abs() < 1e-6);
            assert_eq!(set.labels()[class * 50], class as i64);
        }
        assert!(spirals(0, 50, 0.1, 0).is_empty() && spirals(2, 0, 0.1, 0).is_empty());
    }

    #[test]
    fn regression_targets_follow_the_formula() {
        let (features, targets) = linear_regression(200, &[2.0, -1.0, 0.5], 3.0, 0.0, 5).into_parts();
        for (x, &target) in features.outer_iter().zip(&targets) {
            assert!((3.0 + 2.0 * x[0] - x[1] + 0.5 * x[2] - target).abs() < 1e-5);
        }
        assert_eq!(linear_regression(3, &[], 1.5, 0.0, 0).labels().to_vec(), [1.5; 3]);
    }

    #[test]
    fn noise_is_standard_normal_and_keyed_by_the_seed() {
        let (_, targets) = linear_regression(20_000, &[], 0.0, 1.0, 11).into_parts();
        let mean = targets.mean().unwrap();
        let variance = targets.mapv(|target| (target - mean).powi(2)).mean().unwrap();
        let kurtosis = targets.mapv(|target| (target - mean).powi(4)).mean().unwrap() / (variance * variance);
        // Five standard errors each: 1, sqrt(2) and sqrt(24), over sqrt(20,000).
        assert!(
            mean.abs() < 0.036 && (variance - 1.0).abs() < 0.05 && (kurtosis - 3.0).abs() < 0.18,
            "{mean} {variance} {kurtosis}"
        );
        assert_eq!(two_moons(20, 0.1, 1), two_moons(20, 0.1, 1));
        assert_ne!(two_moons(20, 0.1, 1), two_moons(20, 0.1, 2));
        assert_ne!(xor(20, 0.1, 1), xor(20, 0.1, 2));
        assert_ne!(spirals(2, 20, 0.1, 1), spirals(2, 20, 0.1, 2));
    }
}
