//! Eigenvalues and eigenvectors of a symmetric matrix.
//!
//! Householder's reduction to tridiagonal form, then the QL method with implicit shifts (Bowdler, Martin, Reinsch and
//! Wilkinson 1968; Golub and Van Loan, chapter 8): about 5 n³ multiplications, a second for the 784 pixels of MNIST. The
//! eigenvectors are rows all along, so that every inner loop runs over adjacent memory.

/// Eigenvalues, largest first, and the unit eigenvectors as rows in that order, of a symmetric row-major `n × n` matrix.
/// The largest component of each vector is positive, so that they do not depend on rounding. `None` if the method does
/// not converge, which needs a matrix with infinities or NaNs.
pub(crate) fn symmetric_eigen(mut a: Vec<f64>, n: usize) -> Option<(Vec<f64>, Vec<f64>)> {
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let (mut diagonal, mut beside) = tridiagonal(&mut a, &mut vectors, n);
    ql(&mut diagonal, &mut beside, &mut vectors, n)?;

    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| diagonal[j].total_cmp(&diagonal[i]));
    let values = order.iter().map(|&i| diagonal[i]).collect();
    let mut sorted = Vec::with_capacity(n * n);
    for row in order.iter().map(|&i| &vectors[i * n..(i + 1) * n]) {
        let largest = row.iter().fold(0.0, |best: f64, &v| if v.abs() > best.abs() { v } else { best });
        sorted.extend(row.iter().map(|v| v * largest.signum()));
    }
    Some((values, sorted))
}

/// Reduces `a` to tridiagonal form by reflections `1 - scale v vᵀ`, and multiplies them onto the rows of `vectors`: the
/// diagonal, and the entries beside it (the last is 0).
fn tridiagonal(a: &mut [f64], vectors: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut reflections = Vec::new();
    let (mut diagonal, mut beside) = (vec![0.0; n], vec![0.0; n]);
    // What is shorter is the rounding of a matrix that has no rank left, smaller from step to step until it would underflow.
    let nothing = f64::EPSILON * f64::EPSILON * dot(a, a).sqrt();
    for k in 0..n {
        diagonal[k] = a[k * n + k];
        if k + 1 == n {
            break;
        }
        let mut v: Vec<f64> = a[k * n + k + 1..(k + 1) * n].to_vec();
        let norm = dot(&v, &v).sqrt();
        if norm <= nothing {
            continue;
        }
        let alpha = if v[0] > 0.0 { -norm } else { norm };
        beside[k] = alpha;
        v[0] -= alpha;
        let scale = 2.0 / dot(&v, &v);
        // The rest R becomes R - v wᵀ - w vᵀ with p = scale R v and w = p - (scale / 2) (pᵀ v) v.
        let m = n - k - 1;
        let row = |i: usize| (k + 1 + i) * n + k + 1;
        let mut w: Vec<f64> = (0..m).map(|i| scale * dot(&a[row(i)..row(i) + m], &v)).collect();
        let along = 0.5 * scale * dot(&w, &v);
        w.iter_mut().zip(&v).for_each(|(w, v)| *w -= along * v);
        for i in 0..m {
            let (vi, wi) = (v[i], w[i]);
            let entries = a[row(i)..row(i) + m].iter_mut();
            entries.zip(v.iter().zip(&w)).for_each(|(entry, (v, w))| *entry -= vi * w + wi * v);
        }
        reflections.push((k, scale, v));
    }
    // The last reflection first: then only the rows and columns behind its own place are not those of the unit matrix.
    for (k, scale, v) in reflections.into_iter().rev() {
        for i in k + 1..n {
            let row = &mut vectors[i * n + k + 1..(i + 1) * n];
            let along = scale * dot(row, &v);
            row.iter_mut().zip(&v).for_each(|(entry, v)| *entry -= along * v);
        }
    }
    (diagonal, beside)
}

/// Makes a tridiagonal matrix diagonal by rotations, and applies them to the rows of `vectors`.
fn ql(d: &mut [f64], e: &mut [f64], vectors: &mut [f64], n: usize) -> Option<()> {
    const MAX_ROUNDS: usize = 60;
    // Beside eigenvalues of zero there is nothing to be small against but the matrix as a whole.
    let largest = d.iter().chain(&*e).fold(0.0, |most: f64, v| most.max(v.abs()));
    for l in 0..n {
        for round in 0.. {
            let is_small =
                |m: &usize| e[*m].abs() <= f64::EPSILON * (d[*m].abs() + d[*m + 1].abs()).max(largest / 16.0);
            let m = (l..n - 1).find(is_small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if round == MAX_ROUNDS || !e[l].is_finite() {
                return None;
            }
            // Wilkinson's shift, from the leading two rows.
            let ratio = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut g = d[m] - d[l] + e[l] / (ratio + ratio.hypot(1.0).copysign(ratio));
            let (mut sine, mut cosine, mut shift) = (1.0, 1.0, 0.0);
            let mut split = false;
            for i in (l..m).rev() {
                let (f, b) = (sine * e[i], cosine * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    // The matrix falls apart here; the next round finds it out.
                    d[i + 1] -= shift;
                    e[m] = 0.0;
                    split = true;
                    break;
                }
                (sine, cosine) = (f / r, g / r);
                g = d[i + 1] - shift;
                let t = (d[i] - g) * sine + 2.0 * cosine * b;
                shift = sine * t;
                d[i + 1] = g + shift;
                g = cosine * t - b;
                let (upper, lower) = vectors[i * n..(i + 2) * n].split_at_mut(n);
                for (x, y) in upper.iter_mut().zip(lower) {
                    (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
                }
            }
            if !split {
                d[l] -= shift;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    Some(())
}

/// The inner product, summed in eight lanes so that it vectorizes.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        (0..8).for_each(|i| lanes[i] += x[i] * y[i]);
    }
    lanes.iter().sum::<f64>() + tail
}

#[cfg(test)]
mod tests {
    use cotangent_scalar::philox::PhiloxRng;
    use rand::RngExt;

    use super::*;

    fn check(a: &[f64], n: usize) -> Vec<f64> {
        let (values, vectors) = symmetric_eigen(a.to_vec(), n).unwrap();
        let size = a.iter().fold(1.0f64, |m, v| m.max(v.abs())) * n as f64;
        assert!(values.is_sorted_by(|a, b| a >= b));
        for i in 0..n {
            let v = &vectors[i * n..(i + 1) * n];
            for j in 0..n {
                let expected = f64::from(u8::from(i == j));
                assert!((dot(v, &vectors[j * n..(j + 1) * n]) - expected).abs() < 1e-12 * n as f64);
                let applied = dot(&a[j * n..(j + 1) * n], v);
                assert!((applied - values[i] * v[j]).abs() < 1e-13 * size, "{n}: {applied} {}", values[i] * v[j]);
            }
        }
        values
    }

    #[test]
    fn known_matrices() {
        assert_eq!(symmetric_eigen(vec![], 0), Some((vec![], vec![])));
        assert_eq!(check(&[3.0], 1), [3.0]);
        let values = check(&[2.0, 1.0, 1.0, 2.0], 2);
        assert!((values[0] - 3.0).abs() < 1e-14 && (values[1] - 1.0).abs() < 1e-14);
        assert_eq!(check(&[0.0; 25], 5), [0.0; 5]);
        assert_eq!(check(&[1.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, -2.0], 3), [5.0, 1.0, -2.0]);
        // The second difference: 2 - 2 cos(k π / (n + 1)).
        let n = 20;
        let second = |i: usize, j: usize| if i == j { 2.0 } else { -f64::from(u8::from(i.abs_diff(j) == 1)) };
        let values = check(&(0..n * n).map(|k| second(k / n, k % n)).collect::<Vec<_>>(), n);
        for (k, value) in values.iter().rev().enumerate() {
            let expected = 2.0 - 2.0 * ((k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64).cos();
            assert!((value - expected).abs() < 1e-13);
        }
        assert_eq!(symmetric_eigen(vec![f64::NAN; 9], 3), None);
    }

    #[test]
    fn random_matrices_of_any_rank() {
        let mut rng = PhiloxRng::new(1, 2);
        for n in [2, 3, 7, 16, 41] {
            for rank in [1, n / 2 + 1, n] {
                let factors: Vec<f64> = (0..n * rank).map(|_| rng.random::<f64>() - 0.5).collect();
                let entry = |k: usize| dot(&factors[k / n * rank..][..rank], &factors[k % n * rank..][..rank]);
                let values = check(&(0..n * n).map(entry).collect::<Vec<_>>(), n);
                assert!(values[rank..].iter().all(|v| v.abs() < 1e-13), "{values:?}");
            }
        }
    }
}
