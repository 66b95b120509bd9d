//! Datasets in memory and their batches, in order or shuffled.
//!
//! Why it exists: training visits every example once an epoch, in an order that must be reproducible from a key and
//! must not depend on how far an earlier epoch got; hence the permutation is a function of (seed, epoch) alone.
//!
//! Assumes: the whole set fits into memory. Promises: features are row-major, so that gathering a batch is one memory
//! copy per row (one per batch when in order), and [`Batches::next_into`] allocates nothing once its buffers have grown.

use std::mem;

use cotangent_scalar::philox::PhiloxRng;
use ndarray::{Array1, ArrayD, ArrayView1, ArrayViewD, Axis, IxDyn, Slice};
use rand::Rng;
use rand::seq::SliceRandom;

use crate::DataError;

/// Keeps the shuffles' random streams apart from every other use of the same seed; the epoch is combined with it.
const SHUFFLE_STREAM: u64 = u64::from_be_bytes(*b"shuffle\0");

/// The features `[batch, ..]` and labels `[batch]` of one batch.
pub type Batch<T = i64> = (ArrayD<f32>, Array1<T>);

/// What becomes of the last batch when the batch size does not divide the number of examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LastBatch {
    /// It is yielded with fewer rows: every example is seen once an epoch.
    #[default]
    Keep,
    /// It is left out: every batch has the same size.
    Drop,
}

/// Examples in memory: features `[n, ..]` and one label per example, a class index (`i64`) unless stated otherwise.
///
/// Invariants: the features have at least one axis and are row-major; there are as many labels as rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset<T = i64> {
    features: ArrayD<f32>,
    labels: Array1<T>,
}

impl<T: Copy> Dataset<T> {
    /// Joins features `[n, ..]` with `n` labels; features in another memory order are copied to row-major.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if the features have no axis or the counts differ.
    pub fn new(features: ArrayD<f32>, labels: Array1<T>) -> Result<Self, DataError> {
        let mismatch = |required: String, got: String| DataError::Mismatch {
            of: "dataset".to_owned(),
            required,
            got,
            fix: "pass features of shape [n, ..] with n labels".to_owned(),
        };
        if features.ndim() == 0 {
            return Err(mismatch("features with at least one axis".to_owned(), "a scalar".to_owned()));
        }
        if features.len_of(Axis(0)) != labels.len() {
            let required = format!("{} labels, one per row of the features", features.len_of(Axis(0)));
            return Err(mismatch(required, labels.len().to_string()));
        }
        // An array can be row-major and yet be a window into a larger buffer; that is as good.
        let features =
            if features.is_standard_layout() { features } else { features.as_standard_layout().into_owned() };
        let labels = if labels.is_standard_layout() { labels } else { labels.iter().copied().collect() };
        Ok(Self { features, labels })
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The features, `[n, ..]`.
    pub fn features(&self) -> ArrayViewD<'_, f32> {
        self.features.view()
    }

    /// The labels, `[n]`.
    pub fn labels(&self) -> ArrayView1<'_, T> {
        self.labels.view()
    }

    /// Gives the two arrays away.
    pub fn into_parts(self) -> (ArrayD<f32>, Array1<T>) {
        (self.features, self.labels)
    }

    /// A copy of the first `n` examples, or of all if there are fewer: for overfitting a handful on purpose, and for
    /// quick runs.
    pub fn head(&self, n: usize) -> Self {
        let rows = Slice::from(..n.min(self.len()));
        Self {
            features: self.features.slice_axis(Axis(0), rows).to_owned(),
            labels: self.labels.slice_axis(Axis(0), rows).to_owned(),
        }
    }

    /// The batches of one pass, in the order of the set. A `size` of zero yields no batch.
    pub fn batches(&self, size: usize) -> Batches<'_, T> {
        Batches::new(self, size, None)
    }

    /// The batches of one pass, in an order keyed by `seed` and the epoch (0 unless set by [`Batches::epoch`]).
    /// A `size` of zero yields no batch.
    ///
    /// ```
    /// # use cotangent_data::synthetic;
    /// let moons = synthetic::two_moons(100, 0.1, 7);
    /// for epoch in 0..3 {
    ///     for (features, labels) in moons.shuffled_batches(32, 1).epoch(epoch) {
    ///         assert_eq!(features.shape(), [labels.len(), 2]);
    ///     }
    /// }
    /// ```
    pub fn shuffled_batches(&self, size: usize, seed: u64) -> Batches<'_, T> {
        Batches::new(self, size, Some(seed))
    }
}

/// One pass over a [`Dataset`], batch by batch: an iterator of owned `(features, labels)`.
///
/// [`Batches::epoch`] and [`Batches::last`] are meant to be called before the first batch is taken.
#[derive(Debug, Clone)]
pub struct Batches<'a, T = i64> {
    /// The rows, one after the other.
    features: &'a [f32],
    labels: &'a [T],
    /// The shape of a batch; the first entry is overwritten by its number of rows.
    shape: Vec<usize>,
    /// Elements per row.
    row_len: usize,
    size: usize,
    last: LastBatch,
    seed: Option<u64>,
    epoch: u64,
    /// The permutation, drawn when the first batch is taken; unused if in order.
    order: Option<Vec<usize>>,
    /// Examples taken so far.
    position: usize,
}

impl<'a, T: Copy> Batches<'a, T> {
    fn new(dataset: &'a Dataset<T>, size: usize, seed: Option<u64>) -> Self {
        const INVARIANT: &str = "Dataset::new makes both arrays row-major";
        let shape = dataset.features.shape().to_vec();
        Self {
            features: dataset.features.as_slice().expect(INVARIANT),
            labels: dataset.labels.as_slice().expect(INVARIANT),
            row_len: shape[1..].iter().product(),
            shape,
            size,
            last: LastBatch::default(),
            seed,
            epoch: 0,
            order: None,
            position: 0,
        }
    }

    /// Chooses the epoch, and with it the permutation. Without effect on batches in order.
    #[must_use]
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self.order = None;
        self
    }

    /// Chooses what becomes of a last batch with fewer rows; [`LastBatch::Keep`] unless set.
    #[must_use]
    pub fn last(mut self, last: LastBatch) -> Self {
        self.last = last;
        self
    }

    /// The number of batches that are still to come.
    pub fn n_batches_left(&self) -> usize {
        let n_left = self.labels.len() - self.position;
        match self.last {
            _ if self.size == 0 => 0,
            LastBatch::Keep => n_left.div_ceil(self.size),
            LastBatch::Drop => n_left / self.size,
        }
    }

    /// Writes the next batch into `batch`, whose buffers are reused, and says whether there was one.
    /// When there was none, `batch` is left as it is.
    pub fn next_into(&mut self, batch: &mut Batch<T>) -> bool {
        if self.n_batches_left() == 0 {
            return false;
        }
        let start = self.position;
        let end = self.labels.len().min(start.saturating_add(self.size));
        let mut features = recycle(mem::take(&mut batch.0));
        let mut labels = recycle(mem::replace(&mut batch.1, Array1::from_vec(Vec::new())));
        match self.seed {
            None => {
                features.extend_from_slice(&self.features[start * self.row_len..end * self.row_len]);
                labels.extend_from_slice(&self.labels[start..end]);
            }
            Some(seed) => {
                let order = self.order.get_or_insert_with(|| {
                    let mut rng = PhiloxRng::new(seed, SHUFFLE_STREAM.wrapping_add(self.epoch));
                    permutation(self.labels.len(), &mut rng)
                });
                features.reserve((end - start) * self.row_len);
                for &row in &order[start..end] {
                    features.extend_from_slice(&self.features[row * self.row_len..(row + 1) * self.row_len]);
                }
                labels.extend(order[start..end].iter().map(|&row| self.labels[row]));
            }
        }
        self.position = end;
        self.shape[0] = end - start;
        batch.0 =
            ArrayD::from_shape_vec(IxDyn(&self.shape), features).expect("as many rows were copied as the shape has");
        batch.1 = Array1::from_vec(labels);
        true
    }
}

impl<T: Copy> Iterator for Batches<'_, T> {
    type Item = Batch<T>;

    fn next(&mut self) -> Option<Batch<T>> {
        let mut batch = (ArrayD::default(IxDyn(&[0])), Array1::from_vec(Vec::new()));
        self.next_into(&mut batch).then_some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.n_batches_left(), Some(self.n_batches_left()))
    }
}

impl<T: Copy> ExactSizeIterator for Batches<'_, T> {}

/// A permutation of `0..n`, every one equally likely (Fisher–Yates).
fn permutation<R: Rng + ?Sized>(n: usize, rng: &mut R) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(rng);
    order
}

/// The buffer of an array, emptied.
fn recycle<T, D: ndarray::Dimension>(array: ndarray::Array<T, D>) -> Vec<T> {
    let (mut buffer, _) = array.into_raw_vec_and_offset();
    buffer.clear();
    buffer
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, ShapeBuilder};

    use super::*;

    /// Row `i` is `[i, i + 0.5]` with label `i`.
    fn set(n: usize) -> Dataset {
        let features = Array2::from_shape_fn((n, 2), |(row, column)| row as f32 + 0.5 * column as f32);
        Dataset::new(features.into_dyn(), (0..n as i64).collect()).unwrap()
    }

    fn check_rows((features, labels): &Batch) {
        assert_eq!(features.shape(), [labels.len(), 2]);
        for (row, &label) in features.outer_iter().zip(labels) {
            assert_eq!(row.iter().copied().collect::<Vec<_>>(), [label as f32, label as f32 + 0.5]);
        }
    }

    fn order(set: &Dataset, seed: u64, epoch: u64) -> Vec<i64> {
        let batches: Vec<_> = set.shuffled_batches(3, seed).epoch(epoch).collect();
        batches.iter().for_each(check_rows);
        batches.iter().flat_map(|(_, labels)| labels.to_vec()).collect()
    }

    #[test]
    fn batches_in_order_cover_the_set() {
        let set = set(7);
        let batches: Vec<_> = set.batches(3).collect();
        batches.iter().for_each(check_rows);
        assert_eq!(
            batches.iter().map(|(_, labels)| labels.to_vec()).collect::<Vec<_>>(),
            [vec![0, 1, 2], vec![3, 4, 5], vec![6]]
        );
        assert_eq!(set.batches(3).len(), 3);
        assert_eq!(set.batches(3).last(LastBatch::Drop).len(), 2);
        assert_eq!(set.batches(3).last(LastBatch::Drop).count(), 2);
        assert_eq!(set.batches(usize::MAX).count(), 1);
        assert_eq!(set.batches(8).last(LastBatch::Drop).count(), 0);
    }

    #[test]
    fn a_size_of_zero_and_an_empty_set_yield_nothing() {
        assert_eq!(set(7).batches(0).count(), 0);
        assert_eq!(set(7).shuffled_batches(0, 1).count(), 0);
        assert_eq!(set(0).shuffled_batches(4, 1).count(), 0);
    }

    #[test]
    fn a_shuffled_epoch_is_a_permutation_keyed_by_seed_and_epoch() {
        let set = set(50);
        let first = order(&set, 1, 0);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_eq!(first, order(&set, 1, 0), "same key, same order");
        assert_ne!(first, order(&set, 1, 1), "another epoch, another order");
        assert_ne!(first, order(&set, 2, 0), "another seed, another order");
        assert_ne!(first, sorted);
        let one: Vec<i64> = set.shuffled_batches(50, 1).flat_map(|(_, labels)| labels.to_vec()).collect();
        assert_eq!(first, one, "the order does not depend on the batch size");
    }

    #[test]
    fn shuffles_are_close_to_uniform() {
        // Each of 4 examples stands at each of 4 places in about a quarter of 4,000 epochs (5 sigma = 137).
        let set = set(4);
        let mut counts = [[0i32; 4]; 4];
        for epoch in 0..4000 {
            for (place, label) in order(&set, 9, epoch).into_iter().enumerate() {
                counts[place][label as usize] += 1;
            }
        }
        assert!(counts.iter().flatten().all(|count| (count - 1000).abs() < 137), "{counts:?}");
    }

    #[test]
    fn buffers_are_reused() {
        let set = set(10);
        let mut batches = set.shuffled_batches(4, 3);
        let mut batch = batches.next().unwrap();
        let address = (batch.0.as_ptr(), batch.1.as_ptr());
        while batches.next_into(&mut batch) {
            check_rows(&batch);
            assert_eq!((batch.0.as_ptr(), batch.1.as_ptr()), address);
        }
        assert_eq!(batch.1.len(), 2, "the last batch stays in the buffer");
    }

    #[test]
    fn features_in_any_layout_give_the_same_batches() {
        let row_major = set(5);
        let (features, labels) = row_major.clone().into_parts();
        let mut fortran = ArrayD::zeros(IxDyn(&[5, 2]).f());
        fortran.assign(&features);
        assert!(!fortran.is_standard_layout());
        let mut reversed = features.clone();
        reversed.invert_axis(Axis(0));
        let flipped = Dataset::new(reversed, labels.iter().rev().copied().collect()).unwrap();
        assert_eq!(flipped.batches(5).next().unwrap().1.to_vec(), [4, 3, 2, 1, 0]);
        check_rows(&flipped.batches(5).next().unwrap());
        assert_eq!(Dataset::new(fortran, labels).unwrap(), row_major);
    }

    #[test]
    fn rows_keep_their_shape_and_head_cuts() {
        let set = Dataset::new(ArrayD::zeros(IxDyn(&[5, 3, 2])), Array1::<f32>::zeros(5)).unwrap();
        assert_eq!(set.batches(2).next().unwrap().0.shape(), [2, 3, 2]);
        assert_eq!((set.head(2).len(), set.head(9).len()), (2, 5));
        let set = Dataset::new(ArrayD::zeros(IxDyn(&[3])), Array1::<f32>::zeros(3)).unwrap();
        assert_eq!(set.shuffled_batches(2, 0).next().unwrap().0.shape(), [2]);
        let set = Dataset::new(ArrayD::zeros(IxDyn(&[3, 0])), Array1::<f32>::zeros(3)).unwrap();
        assert_eq!(set.shuffled_batches(2, 0).next().unwrap().0.shape(), [2, 0]);
    }

    #[test]
    fn mismatched_arrays_are_an_error() {
        let error = Dataset::new(ArrayD::zeros(IxDyn(&[3, 2])), Array1::<i64>::zeros(4)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "dataset: required 3 labels, one per row of the features, got 4; pass features of shape [n, ..] with n labels"
        );
        assert!(Dataset::new(ArrayD::zeros(IxDyn(&[])), Array1::<i64>::zeros(1)).is_err());
    }
}
