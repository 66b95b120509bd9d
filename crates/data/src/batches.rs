//! Datasets in memory and their batches, in order or shuffled.
//!
//! Why it exists: training visits every example once an epoch, in an order that must be reproducible from a key and
//! must not depend on how far an earlier epoch got; hence the permutation is a function of (seed, epoch) alone.
//!
//! Assumes: the whole set fits into memory. Promises: features are row-major, so that gathering a batch is one memory
//! copy per row (one per batch when in order), and [`Batches::next_into`] allocates nothing once its buffers have grown.

use std::mem;

use cotangent_graph::{Element, TensorData};
use cotangent_host::float::in_default;
use cotangent_scalar::philox::PhiloxRng;
use ndarray::{Array1, ArrayD, ArrayView1, ArrayViewD, Axis, IxDyn, Slice};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use crate::DataError;
use crate::table::{Examples, Field, check_places, nothing, rows_at};

/// Keeps the shuffles' random streams apart from every other use of the same seed; the epoch is combined with it.
const SHUFFLE_STREAM: u64 = u64::from_be_bytes(*b"shuffle\0");
/// The stream of [`Dataset::split`].
const SPLIT_STREAM: u64 = u64::from_be_bytes(*b"split\0\0\0");

/// In which order the examples of an epoch are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Order {
    /// As they stand.
    Given,
    /// Every permutation is equally likely.
    #[default]
    Shuffled,
    /// Shuffled so that every batch, of any size, has each label in its share of the whole set, up to two examples.
    Stratified,
    /// As many examples as the set has, every label equally often in every batch, up to one example: those of rare labels
    /// come several times, of frequent ones some are left out.
    Balanced,
}

impl Order {
    /// That an order goes without labels, which these examples have not.
    pub(crate) fn without_labels(self, of: &str) -> Result<(), DataError> {
        if matches!(self, Order::Given | Order::Shuffled) {
            return Ok(());
        }
        Err(DataError::Mismatch {
            of: "order of the examples".to_owned(),
            required: "a field of labels to go by".to_owned(),
            got: format!("Order::{self:?} of {of}"),
            fix: "name one, or take another order".to_owned(),
        })
    }
}

/// The features `[batch, ..]` and labels `[batch]` of one batch.
pub type Batch<T = i64> = (ArrayD<f32>, Array1<T>);

/// What becomes of the last batch when the batch size does not divide the number of examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
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

impl<T: Copy + PartialOrd> Dataset<T> {
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
        Batches::new(self, size, Order::Given, 0)
    }

    /// The batches of one pass, in an order keyed by `seed` and the epoch (0 unless set by [`Batches::epoch`]).
    /// A `size` of zero yields no batch. Other orders are chosen with [`Batches::order`].
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
        Batches::new(self, size, Order::Shuffled, seed)
    }

    /// A copy of the examples at these places, in their order; a place may come several times.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] for a place that the set has not.
    pub fn select(&self, places: &[usize]) -> Result<Self, DataError> {
        check_places(places, self.len())?;
        Ok(Self { features: self.features.select(Axis(0), places), labels: self.labels.select(Axis(0), places) })
    }

    /// Two disjoint parts: what is left to train on, and a share of the set (from 0 to 1, rounded to whole examples) to
    /// validate on, drawn as `order` says: [`Order::Stratified`] keeps the shares of the labels. Within each part the
    /// examples stand as before.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if the share is not in [0, 1], or for [`Order::Balanced`], which repeats examples.
    pub fn split(&self, share: f64, order: Order, seed: u64) -> Result<(Self, Self), DataError> {
        let mismatch = |required: &str, got: String| DataError::Mismatch {
            of: "split".to_owned(),
            required: required.to_owned(),
            got,
            fix: "split(0.1, Order::Shuffled, seed) keeps a tenth apart".to_owned(),
        };
        if !(0.0..=1.0).contains(&share) {
            return Err(mismatch("a share from 0 to 1", share.to_string()));
        }
        if order == Order::Balanced {
            return Err(mismatch("an order that takes every example once", "Order::Balanced".to_owned()));
        }
        let n = in_default(|| (share * self.len() as f64).round() as usize);
        let places =
            places_in(order, self.labels.as_slice().unwrap_or_default(), &mut PhiloxRng::new(seed, SPLIT_STREAM));
        let (held_out, kept) = places.split_at(n);
        let sorted = |places: &[usize]| {
            let mut places = places.to_vec();
            places.sort_unstable();
            places
        };
        Ok((self.select(&sorted(kept))?, self.select(&sorted(held_out))?))
    }
}

/// The fields `x`, the features, and `y`, the labels.
impl<T: Element + PartialOrd> Examples for Dataset<T> {
    fn len(&self) -> usize {
        self.len()
    }

    fn fields(&self) -> Vec<Field> {
        let x = Field { name: "x".to_owned(), dtype: f32::DTYPE, shape: self.features.shape()[1..].to_vec() };
        vec![x, Field { name: "y".to_owned(), dtype: T::DTYPE, shape: Vec::new() }]
    }

    fn places(&self, order: Order, seed: u64, epoch: u64) -> Result<Vec<usize>, DataError> {
        Ok(places_in_epoch(order, self.labels.as_slice().unwrap_or_default(), seed, epoch))
    }

    fn gather(&self, _epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        check_places(places, self.len())?;
        batch.resize_with(2, nothing);
        let old = match mem::replace(&mut batch[0], nothing()) {
            TensorData::F32(old) => recycle(old.into_owned()),
            _ => Vec::new(),
        };
        batch[0] = rows_at(&self.features, places, old).into();
        batch[1] = TensorData::from(places.iter().map(|&place| self.labels[place]).collect::<Array1<T>>());
        Ok(())
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
    order: Order,
    seed: u64,
    epoch: u64,
    /// The places in their order, drawn when the first batch is taken; unused for [`Order::Given`].
    places: Option<Vec<usize>>,
    /// Examples taken so far.
    position: usize,
}

impl<'a, T: Copy + PartialOrd> Batches<'a, T> {
    fn new(dataset: &'a Dataset<T>, size: usize, order: Order, seed: u64) -> Self {
        const INVARIANT: &str = "Dataset::new makes both arrays row-major";
        let shape = dataset.features.shape().to_vec();
        Self {
            features: dataset.features.as_slice().expect(INVARIANT),
            labels: dataset.labels.as_slice().expect(INVARIANT),
            row_len: shape[1..].iter().product(),
            shape,
            size,
            last: LastBatch::default(),
            order,
            seed,
            epoch: 0,
            places: None,
            position: 0,
        }
    }

    /// Chooses the epoch, and with it the permutation. Without effect on [`Order::Given`].
    #[must_use]
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self.places = None;
        self
    }

    /// Chooses another order.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self.places = None;
        self
    }

    /// Passes over so many examples, for a run that goes on in the middle of an epoch.
    #[must_use]
    pub fn skip_examples(mut self, n: usize) -> Self {
        self.position = n.min(self.labels.len());
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
        if self.order == Order::Given {
            features.extend_from_slice(&self.features[start * self.row_len..end * self.row_len]);
            labels.extend_from_slice(&self.labels[start..end]);
        } else {
            let places =
                self.places.get_or_insert_with(|| places_in_epoch(self.order, self.labels, self.seed, self.epoch));
            features.reserve((end - start) * self.row_len);
            for &row in &places[start..end] {
                features.extend_from_slice(&self.features[row * self.row_len..(row + 1) * self.row_len]);
            }
            labels.extend(places[start..end].iter().map(|&row| self.labels[row]));
        }
        self.position = end;
        self.shape[0] = end - start;
        batch.0 =
            ArrayD::from_shape_vec(IxDyn(&self.shape), features).expect("as many rows were copied as the shape has");
        batch.1 = Array1::from_vec(labels);
        true
    }
}

impl<T: Copy + PartialOrd> Iterator for Batches<'_, T> {
    type Item = Batch<T>;

    fn next(&mut self) -> Option<Batch<T>> {
        let mut batch = (ArrayD::default(IxDyn(&[0])), Array1::from_vec(Vec::new()));
        self.next_into(&mut batch).then_some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.n_batches_left(), Some(self.n_batches_left()))
    }
}

impl<T: Copy + PartialOrd> ExactSizeIterator for Batches<'_, T> {}

/// The places of the labels in the order of an epoch; as many as there are labels.
pub(crate) fn places_in_epoch<T: Copy + PartialOrd>(order: Order, labels: &[T], seed: u64, epoch: u64) -> Vec<usize> {
    places_in(order, labels, &mut PhiloxRng::new(seed, SHUFFLE_STREAM.wrapping_add(epoch)))
}

fn places_in<T: Copy + PartialOrd, R: Rng + ?Sized>(order: Order, labels: &[T], rng: &mut R) -> Vec<usize> {
    in_default(|| ordered(order, labels, rng))
}

fn ordered<T: Copy + PartialOrd, R: Rng + ?Sized>(order: Order, labels: &[T], rng: &mut R) -> Vec<usize> {
    let shuffled = |rng: &mut R| permutation(labels.len(), rng);
    match order {
        Order::Given => (0..labels.len()).collect(),
        Order::Shuffled => shuffled(rng),
        Order::Stratified => {
            // Each class is spread evenly over the epoch, from a random start on, so that no stretch of it has too many.
            let mut keyed = Vec::with_capacity(labels.len());
            for class in classes(labels, shuffled(rng)) {
                let start: f64 = rng.random();
                let spread = |(j, &place): (usize, &usize)| ((j as f64 + start) / class.len() as f64, place);
                keyed.extend(class.iter().enumerate().map(spread));
            }
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            keyed.into_iter().map(|(_, place)| place).collect()
        }
        Order::Balanced => {
            let mut classes = classes(labels, shuffled(rng));
            let mut taken = vec![0; classes.len()];
            let mut places = Vec::with_capacity(labels.len());
            while places.len() < labels.len() {
                // One of each class, the classes in random order because the last round may be cut short.
                for class in permutation(classes.len(), rng) {
                    if taken[class] == classes[class].len() {
                        classes[class].shuffle(rng);
                        taken[class] = 0;
                    }
                    places.push(classes[class][taken[class]]);
                    taken[class] += 1;
                }
            }
            places.truncate(labels.len());
            places
        }
    }
}

/// The places of each label, in the order given. Labels that are not even equal to themselves, NaN, are one class, the last.
fn classes<T: Copy + PartialOrd>(labels: &[T], mut places: Vec<usize>) -> Vec<Vec<usize>> {
    let is_nan = |a: T| a.partial_cmp(&a).is_none();
    let compare = |a: usize, b: usize| {
        let (a, b) = (labels[a], labels[b]);
        a.partial_cmp(&b).unwrap_or_else(|| is_nan(a).cmp(&is_nan(b)))
    };
    // The sort is stable, so that each class stays shuffled.
    places.sort_by(|&a, &b| compare(a, b));
    places.chunk_by(|&a, &b| compare(a, b).is_eq()).map(<[usize]>::to_vec).collect()
}

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

    /// 60 examples of label 0, 30 of 1, 10 of 2.
    fn unequal() -> Dataset {
        let labels: Vec<i64> = (0..100).map(|i| if i < 60 { 0 } else { 1 + i64::from(i >= 90) }).collect();
        let features = Array2::from_shape_fn((100, 1), |(row, _)| row as f32);
        Dataset::new(features.into_dyn(), labels.into()).unwrap()
    }

    fn counts(labels: &Array1<i64>) -> [usize; 3] {
        [0, 1, 2].map(|class| labels.iter().filter(|&&label| label == class).count())
    }

    #[test]
    fn stratified_batches_have_the_shares_of_the_set() {
        let set = unequal();
        for (size, epoch) in [(10, 0), (20, 1), (7, 2), (100, 3)] {
            let mut seen = Vec::new();
            for (features, labels) in set.shuffled_batches(size, 5).order(Order::Stratified).epoch(epoch) {
                for (count, share) in counts(&labels).into_iter().zip([0.6, 0.3, 0.1]) {
                    assert!((count as f64 - share * labels.len() as f64).abs() <= 2.0, "{labels}");
                }
                seen.extend(features.iter().map(|&v| v as usize));
            }
            assert_ne!(seen, (0..100).collect::<Vec<_>>());
            seen.sort_unstable();
            assert_eq!(seen, (0..100).collect::<Vec<_>>(), "every example once");
        }
    }

    #[test]
    fn balanced_batches_have_every_label_equally_often() {
        let set = unequal();
        let batches: Vec<_> = set.shuffled_batches(9, 5).order(Order::Balanced).collect();
        assert_eq!(batches.iter().map(|(_, labels)| labels.len()).sum::<usize>(), 100);
        for (_, labels) in &batches[..batches.len() - 1] {
            assert_eq!(counts(labels), [3, 3, 3]);
        }
        // All ten of the rare label come before one of them comes again.
        let rare = batches.iter().flat_map(|(x, y)| x.iter().zip(y).filter(|(_, y)| **y == 2).map(|(x, _)| *x as i64));
        let mut first: Vec<i64> = rare.take(10).collect();
        first.sort_unstable();
        assert_eq!(first, (90..100).collect::<Vec<_>>());
    }

    /// Labels that cannot be compared are a class, too; that they are no numbers is for others to say.
    #[test]
    fn labels_that_are_nan_are_one_class() {
        let labels: Array1<f32> = (0..999).map(|i| if i % 3 == 0 { f32::NAN } else { (i * 53 % 97) as f32 }).collect();
        let set = Dataset::new(Array2::zeros((999, 1)).into_dyn(), labels).unwrap();
        for (_, labels) in set.shuffled_batches(99, 1).order(Order::Stratified) {
            let n_nan = labels.iter().filter(|label| label.is_nan()).count();
            // The other classes have seven examples each, so how many of theirs a batch has is a matter of chance.
            assert!(n_nan.abs_diff(labels.len() / 3) <= 8, "{labels}");
        }
        let balanced: usize = set
            .shuffled_batches(980, 1)
            .order(Order::Balanced)
            .take(1)
            .map(|(_, labels)| labels.iter().filter(|label| label.is_nan()).count())
            .sum();
        assert_eq!(balanced, 10, "one of 98 classes");
    }

    #[test]
    fn batches_go_on_in_the_middle_of_an_epoch() {
        let set = set(10);
        for order in [Order::Given, Order::Shuffled, Order::Stratified, Order::Balanced] {
            let all: Vec<_> = set.shuffled_batches(4, 3).order(order).epoch(2).collect();
            let rest: Vec<_> = set.shuffled_batches(4, 3).order(order).epoch(2).skip_examples(4).collect();
            assert_eq!(all[1..], rest);
        }
        assert_eq!(set.batches(4).skip_examples(99).count(), 0);
    }

    #[test]
    fn splits_are_disjoint_and_may_keep_shares() {
        let set = unequal();
        for order in [Order::Given, Order::Shuffled, Order::Stratified] {
            let (train, rest) = set.split(0.2, order, 1).unwrap();
            assert_eq!((train.len(), rest.len()), (80, 20));
            let mut all: Vec<i64> = train.features().iter().chain(rest.features()).map(|&v| v as i64).collect();
            assert!(all[..80].is_sorted() && all[80..].is_sorted());
            all.sort_unstable();
            assert_eq!(all, (0..100).collect::<Vec<_>>());
            if order == Order::Stratified {
                let kept = counts(&rest.labels().to_owned());
                assert!(kept[0].abs_diff(12) <= 1 && kept[1].abs_diff(6) <= 1 && kept[2].abs_diff(2) <= 1, "{kept:?}");
            }
        }
        assert!(set.split(0.0, Order::Shuffled, 1).unwrap().1.is_empty());
        for (share, order) in [(1.5, Order::Shuffled), (f64::NAN, Order::Shuffled), (0.5, Order::Balanced)] {
            assert!(matches!(set.split(share, order, 1), Err(DataError::Mismatch { .. })));
        }
        assert!(set.select(&[0, 100]).is_err());
        assert_eq!(set.select(&[7, 7]).unwrap().features().iter().copied().collect::<Vec<_>>(), [7.0, 7.0]);
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
