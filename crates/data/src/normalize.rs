//! Feature normalization and whitening: fitted on the training part, applied to every part.
//!
//! Why it exists: nets learn faster from features of mean 0 and variance 1, and faster still from uncorrelated ones. What
//! is subtracted and divided by belongs to the model: it comes from the training examples alone, or the held-out error is
//! not what new examples will show.
//!
//! Assumes: features `[n, ..]`; all axes but the first are one row of features. Promises: sums run in f64 over rows in
//! order, under the default floating-point environment, so the result has the same bits everywhere; a feature that does not
//! vary becomes 0 and never a NaN.
//!
//! ```
//! use cotangent_data::{Order, Standardizer, synthetic::two_moons};
//!
//! # fn main() -> Result<(), cotangent_data::DataError> {
//! let (train, validation) = two_moons(200, 0.1, 1).split(0.2, Order::Stratified, 1)?;
//! let standard = Standardizer::fit(train.features())?;
//! let (train, validation) = (standard.apply_to(&train)?, standard.apply_to(&validation)?);
//! # assert_eq!(train.len() + validation.len(), 200);
//! # Ok(())
//! # }
//! ```

use cotangent_host::Memory;
use cotangent_host::float::in_default;
use ndarray::{Array1, Array2, ArrayD, ArrayViewD, Axis, Ix2};

use crate::eigen::symmetric_eigen;
use crate::{DataError, Dataset};

/// Rows that are converted to f64 and multiplied at once.
const ROWS: usize = 512;

/// `(x - mean) / deviation`, feature by feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Standardizer {
    /// The mean of each feature.
    pub mean: Array1<f64>,
    /// The standard deviation of each feature, over n; 1 for a feature that does not vary.
    pub deviation: Array1<f64>,
}

impl Standardizer {
    /// Measures features `[n, ..]`.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if there is no row, or a value is not finite.
    pub fn fit(features: ArrayViewD<'_, f32>) -> Result<Self, DataError> {
        in_default(|| Standardizer::of_rows(&checked_rows(features)?))
    }

    fn of_rows(rows: &Array2<f32>) -> Result<Self, DataError> {
        let mean = mean(rows);
        let mut squares = Array1::<f64>::zeros(rows.ncols());
        for row in rows.rows() {
            ndarray::Zip::from(&mut squares)
                .and(&row)
                .and(&mean)
                .for_each(|s, &x, &m| *s += (f64::from(x) - m).powi(2));
        }
        let n = rows.nrows() as f64;
        // What rounding alone makes of equal values is no variation.
        let noise = |m: f64| 1e-6 * m.abs();
        let deviation = ndarray::Zip::from(&squares).and(&mean).map_collect(|s, &m| {
            let deviation = (s / n).sqrt();
            if deviation > noise(m) { deviation } else { 1.0 }
        });
        Ok(Standardizer { mean, deviation })
    }

    /// The features normalized, in their shape.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if there are not as many features in a row as were measured, or as many deviations as means.
    pub fn apply(&self, features: ArrayViewD<'_, f32>) -> Result<ArrayD<f32>, DataError> {
        let shape = features.raw_dim();
        as_many("deviations", self.deviation.len(), self.mean.len())?;
        let mut rows = rows_of(features, Some(self.mean.len()))?;
        in_default(|| {
            for mut row in rows.rows_mut() {
                ndarray::Zip::from(&mut row)
                    .and(&self.mean)
                    .and(&self.deviation)
                    .for_each(|x, m, d| *x = ((f64::from(*x) - m) / d) as f32);
            }
        });
        Ok(reshaped(rows, shape))
    }

    /// A dataset with its features normalized.
    ///
    /// # Errors
    /// As [`Standardizer::apply`].
    pub fn apply_to<T: Copy + PartialOrd>(&self, set: &Dataset<T>) -> Result<Dataset<T>, DataError> {
        Dataset::new(self.apply(set.features())?, set.labels().to_owned())
    }
}

/// `(x - mean) · matrix`: features without correlations and of variance 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Whitening {
    /// The mean of each feature.
    pub mean: Array1<f64>,
    /// What centered rows are multiplied by, `[n_features, n_components]`.
    pub matrix: Array2<f64>,
    /// The variance along each component before, largest first.
    pub variances: Array1<f64>,
}

impl Whitening {
    /// Principal components (Pearson 1901) of features `[n, ..]`: the `n_components` directions of the largest variance,
    /// each divided by `√(variance + eps)`. A small `eps` keeps directions without variance from being blown up.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if there is no row, a value is not finite, there are more components than features, `eps` is
    /// negative, or 0 where a direction has no variance, or there is no memory for the covariance of so many features.
    pub fn pca(features: ArrayViewD<'_, f32>, n_components: usize, eps: f64) -> Result<Self, DataError> {
        in_default(|| Components::of(features, eps)?.principal(n_components, eps))
    }

    /// Whitening that changes the features least (Bell and Sejnowski 1997): PCA whitening turned back, so that a picture
    /// stays a picture.
    ///
    /// # Errors
    /// As [`Whitening::pca`].
    pub fn zca(features: ArrayViewD<'_, f32>, eps: f64) -> Result<Self, DataError> {
        in_default(|| Components::of(features, eps)?.zero_phase(eps))
    }

    /// The features whitened: `[n, n_components]`, or in their own shape if no component was left out.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if there are not as many features in a row as were measured, or as many rows of the matrix
    /// as means.
    pub fn apply(&self, features: ArrayViewD<'_, f32>) -> Result<ArrayD<f32>, DataError> {
        let shape = features.raw_dim();
        as_many("rows of the matrix", self.matrix.nrows(), self.mean.len())?;
        let rows = rows_of(features, Some(self.mean.len()))?;
        let mut result = Array2::<f32>::zeros((rows.nrows(), self.matrix.ncols()));
        in_default(|| {
            let pieces = result.axis_chunks_iter_mut(Axis(0), ROWS).zip(rows.axis_chunks_iter(Axis(0), ROWS));
            for (mut out, rows) in pieces {
                let centered = rows.mapv(f64::from) - &self.mean;
                out.assign(&centered.dot(&self.matrix).mapv(|v| v as f32));
            }
        });
        Ok(if self.matrix.ncols() == self.mean.len() { reshaped(result, shape) } else { result.into_dyn() })
    }

    /// A dataset with its features whitened.
    ///
    /// # Errors
    /// As [`Whitening::apply`].
    pub fn apply_to<T: Copy + PartialOrd>(&self, set: &Dataset<T>) -> Result<Dataset<T>, DataError> {
        Dataset::new(self.apply(set.features())?, set.labels().to_owned())
    }
}

/// The principal directions of features.
struct Components {
    mean: Array1<f64>,
    /// The variance along each, largest first.
    variances: Vec<f64>,
    /// The directions as rows.
    vectors: Vec<f64>,
}

impl Components {
    fn of(features: ArrayViewD<'_, f32>, eps: f64) -> Result<Self, DataError> {
        if !(eps >= 0.0 && eps.is_finite()) {
            return Err(mismatch("eps to be finite and not negative", eps.to_string()));
        }
        let rows = checked_rows(features)?;
        let mean = mean(&rows);
        let n = mean.len();
        // The covariance, its eigenvectors, and what is made of them.
        let n_bytes = n.saturating_mul(n).saturating_mul(4 * size_of::<f64>());
        if let Err(refused) = Memory::default().ask(n_bytes) {
            return Err(mismatch("features whose covariance fits in memory", format!("{n}: it takes {refused}")));
        }
        let mut covariance = Array2::<f64>::zeros((n, n));
        for rows in rows.axis_chunks_iter(Axis(0), ROWS) {
            let centered = rows.mapv(f64::from) - &mean;
            covariance += &centered.t().dot(&centered);
        }
        covariance /= rows.nrows() as f64;
        let (covariance, _) = covariance.into_raw_vec_and_offset();
        let not_converged = || mismatch("features whose products are finite", "larger ones");
        let (mut variances, vectors) = symmetric_eigen(covariance, n).ok_or_else(not_converged)?;
        // Rounding makes zeros negative.
        variances.iter_mut().for_each(|v| *v = v.max(0.0));
        Ok(Components { mean, variances, vectors })
    }

    fn principal(self, n_components: usize, eps: f64) -> Result<Whitening, DataError> {
        let Components { mean, variances, vectors } = self;
        let n = mean.len();
        if n_components > n {
            return Err(mismatch(format!("at most {n} components, one for each feature"), n_components.to_string()));
        }
        let scale = scales(&variances[..n_components], eps)?;
        let matrix = Array2::from_shape_fn((n, n_components), |(i, c)| vectors[c * n + i] * scale[c]);
        Ok(Whitening { mean, matrix, variances: variances[..n_components].to_vec().into() })
    }

    fn zero_phase(self, eps: f64) -> Result<Whitening, DataError> {
        let Components { mean, variances, vectors } = self;
        let n = mean.len();
        let scale = scales(&variances, eps)?;
        let rows = Array2::from_shape_fn((n, n), |(c, i)| vectors[c * n + i]);
        let scaled = Array2::from_shape_fn((n, n), |(c, i)| vectors[c * n + i] * scale[c]);
        Ok(Whitening { mean, matrix: rows.t().dot(&scaled), variances: variances.into() })
    }
}

fn scales(variances: &[f64], eps: f64) -> Result<Vec<f64>, DataError> {
    let largest = variances.first().copied().unwrap_or(0.0);
    if eps == 0.0 && variances.iter().any(|&v| v <= 1e-12 * largest) {
        let required = "eps above 0, or fewer components: some directions have no variance";
        return Err(mismatch(required, "0"));
    }
    Ok(variances.iter().map(|v| 1.0 / (v + eps).sqrt()).collect())
}

fn mean(rows: &Array2<f32>) -> Array1<f64> {
    let mut sum = Array1::<f64>::zeros(rows.ncols());
    for row in rows.rows() {
        ndarray::Zip::from(&mut sum).and(&row).for_each(|s, &x| *s += f64::from(x));
    }
    sum / rows.nrows() as f64
}

/// All axes but the first as one; a copy.
fn rows_of(features: ArrayViewD<'_, f32>, n_features: Option<usize>) -> Result<Array2<f32>, DataError> {
    let shape = features.shape().to_vec();
    let Some((&n_rows, rest)) = shape.split_first() else {
        return Err(mismatch("features [n, ..]", "a scalar"));
    };
    let n_columns: usize = rest.iter().product();
    if let Some(n) = n_features.filter(|&n| n != n_columns) {
        return Err(mismatch(format!("{n} features in a row, as were measured"), n_columns.to_string()));
    }
    let rows = features.as_standard_layout().into_owned().into_shape_with_order((n_rows, n_columns));
    let rows = rows.and_then(|rows| rows.into_dimensionality::<Ix2>());
    rows.map_err(|error| mismatch("features [n, ..]", error.to_string()))
}

/// The fields are the caller's too.
fn as_many(what: &str, n: usize, n_means: usize) -> Result<(), DataError> {
    if n == n_means { Ok(()) } else { Err(mismatch(format!("{n_means} {what}, as many as means"), n.to_string())) }
}

fn checked_rows(features: ArrayViewD<'_, f32>) -> Result<Array2<f32>, DataError> {
    let rows = rows_of(features, None)?;
    if rows.nrows() == 0 {
        return Err(mismatch("at least one row", "none"));
    }
    match rows.indexed_iter().find(|(_, v)| !v.is_finite()) {
        Some(((row, column), _)) => Err(mismatch("finite features", format!("another in row {row}, column {column}"))),
        None => Ok(rows),
    }
}

fn reshaped(rows: Array2<f32>, shape: ndarray::IxDyn) -> ArrayD<f32> {
    // Both have the same number of elements, so nothing is left to go wrong.
    rows.clone().into_shape_with_order(shape).unwrap_or_else(|_| rows.into_dyn())
}

fn mismatch(required: impl Into<String>, got: impl Into<String>) -> DataError {
    DataError::Mismatch {
        of: "normalization".to_owned(),
        required: required.into(),
        got: got.into(),
        fix: "fit on the training part, and apply to features of the same kind".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, IxDyn};

    use super::*;
    use crate::synthetic::linear_regression;

    /// Normal features, mixed so that they correlate; the fourth is constant.
    fn features(n: usize, seed: u64) -> ArrayD<f32> {
        let x = linear_regression(n, &[0.0; 3], 0.0, 0.0, seed).into_parts().0;
        ArrayD::from_shape_fn(IxDyn(&[n, 2, 2]), |i| {
            let x = |j: usize| x[[i[0], j]];
            match (i[1], i[2]) {
                (0, 0) => 3.0 * x(0) + 10.0,
                (0, 1) => x(0) + 0.5 * x(1) - 2.0,
                (1, 0) => 0.1 * x(2) + 0.2 * x(1),
                _ => 7.0,
            }
        })
    }

    fn covariance(features: &ArrayD<f32>) -> Array2<f64> {
        let rows = rows_of(features.view(), None).unwrap();
        let centered = rows.mapv(f64::from) - &mean(&rows);
        centered.t().dot(&centered) / rows.nrows() as f64
    }

    #[test]
    fn standardized_features_have_mean_0_and_variance_1_and_constants_become_0() {
        let x = features(500, 1);
        let standard = Standardizer::fit(x.view()).unwrap();
        let y = standard.apply(x.view()).unwrap();
        assert_eq!(y.shape(), x.shape());
        let c = covariance(&y);
        for i in 0..3 {
            assert!((c[[i, i]] - 1.0).abs() < 1e-5, "{c}");
        }
        assert_eq!((c[[3, 3]], y[[0, 1, 1]]), (0.0, 0.0));
        assert!(mean(&rows_of(y.view(), None).unwrap()).iter().all(|m| m.abs() < 1e-6));
        // Another part is treated with the figures of the first.
        let other = features(50, 2);
        let expected = ((f64::from(other[[3, 0, 0]]) - standard.mean[0]) / standard.deviation[0]) as f32;
        assert_eq!(standard.apply(other.view()).unwrap()[[3, 0, 0]], expected);
    }

    #[test]
    fn whitened_features_are_uncorrelated() {
        let x = features(500, 1);
        let pca = Whitening::pca(x.view(), 3, 0.0).unwrap();
        let y = pca.apply(x.view()).unwrap();
        assert_eq!(y.shape(), [500, 3]);
        assert!((covariance(&y) - Array2::<f64>::eye(3)).iter().all(|v| v.abs() < 1e-4));
        assert!(pca.variances.to_vec().is_sorted_by(|a, b| a >= b) && pca.variances[0] > 9.0);
        let zca = Whitening::zca(x.view(), 1e-6).unwrap();
        let z = zca.apply(x.view()).unwrap();
        assert_eq!(z.shape(), x.shape());
        let mut expected = Array2::<f64>::eye(4);
        expected[[3, 3]] = 0.0;
        assert!((covariance(&z) - expected).iter().all(|v| v.abs() < 1e-3));
        // It changes features least: its matrix is symmetric, and each result resembles its own feature.
        assert!((&zca.matrix - &zca.matrix.t()).iter().all(|v| v.abs() < 1e-9));
        assert!((0..3).all(|i| zca.matrix[[i, i]] > 0.0));
    }

    #[test]
    fn pictures_with_pixels_that_never_vary_are_whitened() {
        // More pixels than pictures, and edges that are always white: most directions have no variance.
        let pictures = crate::Mnist::find().unwrap().train().dataset().head(200);
        let pca = Whitening::pca(pictures.features(), 20, 0.0).unwrap();
        let y = pca.apply(pictures.features()).unwrap();
        assert!((covariance(&y) - Array2::<f64>::eye(20)).iter().all(|v| v.abs() < 1e-4));
    }

    #[test]
    fn what_cannot_be_fitted_or_applied_is_refused() {
        let x = features(20, 1);
        let check = |result: Result<Whitening, DataError>, says: &str| {
            let text = result.unwrap_err().to_string();
            assert!(text.contains(says), "{text}");
        };
        check(Whitening::pca(x.view(), 5, 0.1), "at most 4 components");
        check(Whitening::pca(x.view(), 4, 0.0), "some directions have no variance");
        check(Whitening::zca(x.view(), -1.0), "not negative");
        check(Whitening::zca(ArrayD::zeros(IxDyn(&[0, 3])).view(), 0.1), "at least one row");
        check(Whitening::zca(ArrayD::zeros(IxDyn(&[])).view(), 0.1), "a scalar");
        check(Whitening::zca(ArrayD::from_elem(IxDyn(&[2, 2]), f32::NAN).view(), 0.1), "row 0, column 0");
        check(Whitening::zca(ArrayD::zeros(IxDyn(&[1, 1 << 21])).view(), 0.1), "it takes 128.0 TiB of memory");
        let standard = Standardizer::fit(x.view()).unwrap();
        let error = standard.apply(ArrayD::zeros(IxDyn(&[3, 5])).view()).unwrap_err();
        assert!(error.to_string().contains("4 features in a row"), "{error}");
        // What the fields hold need not have been measured.
        let error = Standardizer { deviation: Array1::ones(3), ..standard }.apply(x.view()).unwrap_err();
        assert!(error.to_string().contains("4 deviations, as many as means, got 3"), "{error}");
        let whitening = Whitening { matrix: Array2::zeros((5, 4)), ..Whitening::zca(x.view(), 0.1).unwrap() };
        let error = whitening.apply(x.view()).unwrap_err();
        assert!(error.to_string().contains("4 rows of the matrix, as many as means, got 5"), "{error}");
    }
}
