//! What shows in data alone: scales, labels that features give away, classes without examples.

use std::collections::{BTreeMap, HashSet};

use cotangent_data::{Examples, Field, Order};
use cotangent_graph::{DType, TensorData};

use super::{Diagnosis, Layout, Problem};
use crate::TrainError;
use crate::checksum::Fnv;

/// Examples that are looked at, of larger sets a random part.
const MOST_EXAMPLES: usize = 20_000;
/// Features times classes of which sums are kept.
const MOST_SUMS: usize = 1 << 22;
/// The root of the mean square of a feature.
const LARGE: f64 = 20.0;
const SMALL: f64 = 1e-3;
/// The share of a feature's variance that a label leaves unexplained.
const GIVEN_AWAY: f64 = 0.02;
/// The same for numbers as labels.
const GIVEN_AWAY_NUMBER: f64 = 1e-4;
/// The share of validation examples that are training examples.
const REPEATED: f64 = 0.02;
/// How many times rarer a class is than the most frequent one.
const RARE: usize = 20;

/// Sums of one field of numbers, element by element of a row.
struct Sums {
    field: Field,
    at: usize,
    n: usize,
    sum: Vec<f64>,
    squares: Vec<f64>,
    /// With the label, for numbers as labels.
    products: Vec<f64>,
    /// By class.
    by_class: BTreeMap<i64, (usize, Vec<f64>)>,
}

impl Sums {
    fn width(field: &Field) -> usize {
        field.shape.iter().product()
    }

    fn of(field: &Field, at: usize) -> Self {
        let zeros = || vec![0.0; Sums::width(field)];
        Sums {
            field: field.clone(),
            at,
            n: 0,
            sum: zeros(),
            squares: zeros(),
            products: zeros(),
            by_class: BTreeMap::new(),
        }
    }

    fn add(&mut self, rows: &TensorData, labels: Option<&[f64]>, are_classes: bool) {
        let (values, width) = (rows.to_f64(), self.sum.len());
        for (row, values) in values.chunks_exact(width.max(1)).enumerate() {
            self.n += 1;
            let label = labels.map_or(0.0, |labels| labels[row]);
            let own = are_classes.then(|| self.by_class.entry(label as i64).or_insert_with(|| (0, vec![0.0; width])));
            for (k, &value) in values.iter().enumerate() {
                self.sum[k] += value;
                self.squares[k] += value * value;
                self.products[k] += value * label;
            }
            if let Some((n, sums)) = own {
                *n += 1;
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
    }

    fn name(&self, k: usize) -> String {
        if self.sum.len() == 1 {
            format!("`{}`", self.field.name)
        } else {
            format!("number {k} of `{}`", self.field.name)
        }
    }

    fn mean(&self, k: usize) -> f64 {
        self.sum[k] / self.n as f64
    }

    fn mean_square(&self, k: usize) -> f64 {
        self.squares[k] / self.n as f64
    }

    fn variance(&self, k: usize) -> f64 {
        let variance = self.mean_square(k) - self.mean(k).powi(2);
        // What is left of rounding is no variance.
        if variance > 1e-10 * self.mean_square(k) { variance } else { 0.0 }
    }

    /// The share of a feature's variance that is within classes (one minus the correlation ratio η²).
    fn within(&self, k: usize) -> f64 {
        let between: f64 =
            self.by_class.values().map(|(n, sums)| *n as f64 * (sums[k] / *n as f64 - self.mean(k)).powi(2)).sum();
        let share = 1.0 - between / self.n as f64 / self.variance(k);
        // Many classes of few examples explain much by chance.
        share * (self.n as f64 - 1.0) / (self.n as f64 - self.by_class.len() as f64)
    }
}

pub(super) fn look(
    diagnosis: &mut Diagnosis,
    train: &dyn Examples,
    validation: Option<&dyn Examples>,
    layout: &Layout,
    seed: u64,
) -> Result<(), TrainError> {
    let fields = train.fields();
    let label = fields.iter().position(|f| f.name == "y" && f.shape.iter().product::<usize>() == 1);
    let is_float = |field: &Field| field.dtype.is_float();
    // Labels that are whole numbers, of few kinds, are classes.
    let mut classes: BTreeMap<i64, usize> = BTreeMap::new();
    let mut are_classes = label.is_some();
    let (mut labels_seen, mut label_squares, mut n_labels) = (0.0, 0.0, 0usize);
    each_part(train, seed, |batch| {
        for &value in label.map(|at| batch[at].to_f64()).iter().flatten() {
            are_classes &= value.fract() == 0.0 && classes.len() <= 1000;
            if are_classes {
                *classes.entry(value as i64).or_default() += 1;
            }
            (labels_seen, label_squares, n_labels) = (labels_seen + value, label_squares + value * value, n_labels + 1);
        }
    })?;
    are_classes &= layout.n_classes.is_some() || label.is_some_and(|at| !is_float(&fields[at]));
    are_classes &= 2 * classes.len() <= n_labels;
    let inputs = fields.iter().enumerate().filter(|(at, field)| is_float(field) && Some(*at) != label);
    let few = |field: &Field| Sums::width(field).saturating_mul(classes.len().max(1)) <= MOST_SUMS;
    let mut all: Vec<Sums> = inputs.filter(|(_, f)| few(f)).map(|(at, field)| Sums::of(field, at)).collect();
    each_part(train, seed, |batch| {
        let labels = label.map(|at| batch[at].to_f64());
        all.iter_mut().for_each(|sums| sums.add(&batch[sums.at], labels.as_deref(), are_classes));
    })?;
    scales(diagnosis, &all);
    if label.is_some() {
        let (mean, n) = (labels_seen / n_labels as f64, n_labels as f64);
        let variance = label_squares / n - mean * mean;
        for sums in &all {
            let left = |k: usize| match are_classes {
                true => sums.within(k),
                false => 1.0 - (sums.products[k] / n - sums.mean(k) * mean).powi(2) / (sums.variance(k) * variance),
            };
            let limit = if are_classes { GIVEN_AWAY } else { GIVEN_AWAY_NUMBER };
            let varies = |k: &usize| sums.variance(*k) > 0.0 && variance > 0.0;
            if let Some(k) = (0..sums.sum.len()).filter(varies).find(|&k| left(k) < limit) {
                let seen =
                    format!("{} alone says what the label is ({:.1} % of it)", sums.name(k), 100.0 * (1.0 - left(k)));
                let advice = "if it is not known when the model is used, take it out";
                diagnosis.add(Problem::LeakedLabels, seen, advice);
            }
        }
    }
    if are_classes && layout.n_classes.is_some() {
        count_classes(diagnosis, &classes, layout, validation, seed)?;
    }
    if let Some(validation) = validation {
        repeated(diagnosis, train, validation, label)?;
    }
    Ok(())
}

/// Calls a function with batches of a set, or of a random part of it.
fn each_part(set: &dyn Examples, seed: u64, mut f: impl FnMut(&[TensorData])) -> Result<(), TrainError> {
    let order = if set.len() > MOST_EXAMPLES { Order::Shuffled } else { Order::Given };
    let mut places = set.places(order, seed, 0)?;
    places.truncate(MOST_EXAMPLES);
    let mut batch = Vec::new();
    for places in places.chunks(1024) {
        set.gather(0, places, &mut batch)?;
        f(&batch);
    }
    Ok(())
}

fn scales(diagnosis: &mut Diagnosis, all: &[Sums]) {
    let advice = "fit a `Standardizer` on the training part, and apply it to all parts";
    for sums in all.iter().filter(|sums| sums.n > 0) {
        let varying = || (0..sums.sum.len()).filter(|&k| sums.variance(k) > 0.0);
        let Some(largest) = varying().max_by(|&a, &b| sums.mean_square(a).total_cmp(&sums.mean_square(b))) else {
            continue;
        };
        let size = sums.mean_square(largest).sqrt();
        let smallest = varying().map(|k| sums.mean_square(k)).fold(f64::INFINITY, f64::min).sqrt();
        if size > LARGE {
            let seen = format!(
                "{} has a mean of {:.4} and a deviation of {:.4}; the smallest feature has a size of {smallest:.4}",
                sums.name(largest),
                sums.mean(largest),
                sums.variance(largest).sqrt()
            );
            diagnosis.add(Problem::UnnormalizedInputs, seen, advice);
        } else if size < SMALL {
            let seen = format!("all numbers of `{}` are small: {size:.1e} at most", sums.field.name);
            diagnosis.add(Problem::UnnormalizedInputs, seen, advice);
        }
    }
}

fn count_classes(
    diagnosis: &mut Diagnosis,
    classes: &BTreeMap<i64, usize>,
    layout: &Layout,
    validation: Option<&dyn Examples>,
    seed: u64,
) -> Result<(), TrainError> {
    let mut wanted: Vec<i64> = layout.n_classes.map_or(Vec::new(), |n| (0..n.min(1000) as i64).collect());
    if let Some(validation) = validation
        && let Some(at) = validation.fields().iter().position(|field| field.name == "y")
    {
        each_part(validation, seed, |batch| {
            wanted
                .extend(batch[at].to_f64().into_iter().filter(|label| label.fract() == 0.0).map(|label| label as i64));
        })?;
    }
    wanted.sort_unstable();
    wanted.dedup();
    let missing: Vec<String> = wanted.iter().filter(|c| !classes.contains_key(c)).map(i64::to_string).collect();
    if !missing.is_empty() {
        let which = missing.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        let more = if missing.len() > 8 { ", ..." } else { "" };
        let seen = format!("no example to train on has class {which}{more}");
        let advice = "get examples of it, shuffle before you split (`Order::Stratified` keeps shares), or give the model fewer outputs";
        diagnosis.add(Problem::MissingClass, seen, advice);
    }
    let most = classes.iter().max_by_key(|(_, n)| **n);
    let least = classes.iter().min_by_key(|(_, n)| **n);
    if let (Some((most, n_most)), Some((least, n_least))) = (most, least)
        && *n_most > RARE * n_least
    {
        let seen = format!("class {least} has {n_least} examples and class {most} has {n_most}");
        let advice = "take balanced batches (`Order::Balanced`) or weights for classes (`WeightedCrossEntropy`), and look at F1 instead \
                      of accuracy";
        diagnosis.add(Problem::RareClass, seen, advice);
    }
    Ok(())
}

/// Looks for validation examples that are training examples.
fn repeated(
    diagnosis: &mut Diagnosis,
    train: &dyn Examples,
    validation: &dyn Examples,
    label: Option<usize>,
) -> Result<(), TrainError> {
    let fields = train.fields();
    if fields != validation.fields() {
        return Ok(());
    }
    // Inputs of few numbers come twice by chance.
    let inputs: Vec<usize> =
        (0..fields.len()).filter(|at| Some(*at) != label && fields[*at].dtype == DType::F32).collect();
    if inputs.is_empty() {
        return Ok(());
    }
    let hashes = |batch: &[TensorData], into: &mut dyn FnMut(u64)| {
        let n = cotangent_data::table::n_rows(batch);
        let values: Vec<Vec<u64>> = inputs.iter().map(|&at| batch[at].bits()).collect();
        for row in 0..n {
            let mut hash = Fnv::new();
            for bits in &values {
                let width = bits.len() / n.max(1);
                bits[row * width..(row + 1) * width].iter().for_each(|word| hash.write(&word.to_le_bytes()));
            }
            into(hash.finish());
        }
    };
    let mut known = HashSet::new();
    let mut batch = Vec::new();
    let all: Vec<usize> = (0..train.len().min(10 * MOST_EXAMPLES)).collect();
    for places in all.chunks(1024) {
        train.gather(0, places, &mut batch)?;
        hashes(&batch, &mut |hash| known.extend([hash]));
    }
    let (mut n, mut again) = (0usize, 0usize);
    let all: Vec<usize> = (0..validation.len().min(MOST_EXAMPLES)).collect();
    for places in all.chunks(1024) {
        validation.gather(0, places, &mut batch)?;
        hashes(&batch, &mut |hash| (n, again) = (n + 1, again + usize::from(known.contains(&hash))));
    }
    if again as f64 > REPEATED * n as f64 {
        let seen = format!("{again} of {n} validation examples are training examples");
        diagnosis.add(
            Problem::LeakedLabels,
            seen,
            "split so that no example is in both parts; take repeated ones out first",
        );
    }
    Ok(())
}

/// Pairs of numbers of a field that are correlated by more than `least` in size (Pearson's r), the strongest first: places in a row, and r.
/// Numbers that do not vary have none.
///
/// # Errors
/// [`TrainError::Invalid`] for a field that there is not, or rows of more than 2,000 numbers; data that cannot be read.
pub fn correlated(set: &dyn Examples, field: &str, least: f64) -> Result<Vec<(usize, usize, f64)>, TrainError> {
    const MOST_WIDTH: usize = 2000;
    let fields = set.fields();
    let known = || fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ");
    let at = fields
        .iter()
        .position(|f| f.name == field)
        .ok_or_else(|| TrainError::invalid("field", known(), format!("`{field}`")))?;
    let width = Sums::width(&fields[at]);
    if width > MOST_WIDTH {
        return Err(TrainError::invalid("correlated numbers", format!("rows of at most {MOST_WIDTH}"), width));
    }
    let mut sums = Sums::of(&fields[at], at);
    each_part(set, 0, |batch| sums.add(&batch[at], None, false))?;
    let inverse: Vec<f64> =
        (0..width).map(|k| sums.variance(k)).map(|v| if v > 0.0 { 1.0 / v.sqrt() } else { 0.0 }).collect();
    let mut products = vec![0.0; width * width];
    each_part(set, 0, |batch| {
        for row in batch[at].to_f64().chunks_exact(width.max(1)) {
            let normal: Vec<f64> = row.iter().enumerate().map(|(k, v)| (v - sums.mean(k)) * inverse[k]).collect();
            for (a, x) in normal.iter().enumerate().filter(|(_, x)| **x != 0.0) {
                let line = &mut products[a * width + a + 1..(a + 1) * width];
                line.iter_mut().zip(&normal[a + 1..]).for_each(|(sum, y)| *sum += x * y);
            }
        }
    })?;
    let pairs = (0..width).flat_map(|a| (a + 1..width).map(move |b| (a, b)));
    let mut found: Vec<(usize, usize, f64)> =
        pairs.map(|(a, b)| (a, b, products[a * width + b] / sums.n as f64)).filter(|(.., r)| r.abs() > least).collect();
    found.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()));
    Ok(found)
}
