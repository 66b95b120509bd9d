//! How the numbers before and after each activation function are distributed, as figures, text and picture.
//!
//! Why it exists: whether weights start well shows before the first step. Numbers before a sigmoid should lie where it is steep,
//! those before a rectifier on both sides of zero, and no layer should be much wider or narrower than the one before
//! it (Glorot and Bengio 2010, figures 6 and 7).

use std::fmt;

use cotangent_data::DataError;
use cotangent_exec::Outputs;
use cotangent_scalar::plain_lines;

use super::{Activation, Ends, GIVEN, MADE, activation_of};
use crate::TrainError;
use crate::plot::{self, Plot};

/// Bins of a histogram.
const N_BINS: usize = 40;

/// How often values fall into bins of equal width.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// The least finite value, where the first bin begins; 0 if there is none.
    pub from: f64,
    /// The largest, where the last bin ends.
    pub to: f64,
    /// How many values are in each bin: 40 of them, or one if all values are equal.
    pub counts: Vec<u64>,
    /// The mean of the finite values.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// How many values are NaN or infinite.
    pub n_not_finite: u64,
}

impl Histogram {
    /// That of some values.
    pub fn of(values: &[f64]) -> Self {
        let mut range = Range::default();
        values.iter().for_each(|&value| range.add(value));
        let mut histogram = range.histogram();
        values.iter().for_each(|&value| histogram.count(value));
        histogram
    }

    /// Counts a value that its range was told of.
    fn count(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        // Halves, whose difference is finite.
        let half_width = self.to / 2.0 - self.from / 2.0;
        let share = if half_width > 0.0 { (value / 2.0 - self.from / 2.0) / half_width } else { 0.0 };
        let bin = (share * self.counts.len() as f64) as usize;
        let last = self.counts.len() - 1;
        self.counts[bin.min(last)] += 1;
    }

    /// The middle of each bin, and the share of the finite values in it.
    pub fn shares(&self) -> impl Iterator<Item = (f64, f64)> {
        let n = self.counts.len() as f64;
        let total = self.counts.iter().sum::<u64>().max(1) as f64;
        let middle = move |k: usize| {
            let share = (k as f64 + 0.5) / n;
            self.from * (1.0 - share) + self.to * share
        };
        self.counts.iter().enumerate().map(move |(k, &count)| (middle(k), count as f64 / total))
    }
}

/// What a first look at values tells: where bins begin and end.
#[derive(Default)]
struct Range {
    ends: Option<(f64, f64)>,
    n: u64,
    mean: f64,
    /// The sum of squared distances from the mean.
    spread: f64,
    n_not_finite: u64,
}

impl Range {
    fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.n_not_finite += 1;
            return;
        }
        let (low, high) = self.ends.unwrap_or((value, value));
        self.ends = Some((low.min(value), high.max(value)));
        self.n += 1;
        // Welford 1962: squares of the values themselves would cancel where these lie far from zero.
        // In halves, whose difference is finite.
        let before = value / 2.0 - self.mean / 2.0;
        self.mean += before / self.n as f64 * 2.0;
        self.spread += 4.0 * (before * (value / 2.0 - self.mean / 2.0));
    }

    /// A histogram that has counted nothing yet.
    fn histogram(&self) -> Histogram {
        let (from, to) = self.ends.unwrap_or_default();
        let deviation = (self.spread / self.n.max(1) as f64).sqrt();
        let counts = vec![0; if from < to { N_BINS } else { 1 }];
        Histogram { from, to, counts, mean: self.mean, deviation, n_not_finite: self.n_not_finite }
    }
}

/// The numbers before and after an activation function, for some examples.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The layer, what its function does at its ends, and how often units are active.
    pub activation: Activation,
    /// The function's name.
    pub function: String,
    /// The numbers given to the function: pre-activations.
    pub before: Histogram,
    /// The numbers that it makes of them.
    pub after: Histogram,
}

/// The numbers before and after each activation function, as [`Trainer::histograms`](crate::Trainer::histograms) finds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histograms {
    /// In the order of the model.
    pub layers: Vec<Layer>,
    /// How many examples were looked at.
    pub n_examples: usize,
}

impl Histograms {
    /// How often units are active, layer by layer.
    pub(crate) fn activations(self) -> Vec<Activation> {
        self.layers.into_iter().map(|layer| layer.activation).collect()
    }

    /// Two plots for each layer: before its function, and after it.
    pub fn plots(&self) -> Vec<Plot> {
        let plots = self.layers.iter().flat_map(|layer| {
            let (name, function) = (&layer.activation.layer, &layer.function);
            let of = |title: String, of: &Histogram| {
                Plot::new(title).x_label("value").y_label("share of values").bars("", of.shares())
            };
            [
                of(format!("`{name}` before {function}"), &layer.before),
                of(format!("`{name}` after {function}"), &layer.after),
            ]
        });
        plots.collect()
    }

    /// The picture of all layers, as the text of an SVG file: a row for each, before its function and after it.
    pub fn to_svg(&self) -> String {
        plot::grid("Activations", 2, &self.plots())
    }

    /// Writes the picture to a file; folders on the way are made.
    ///
    /// # Errors
    /// [`DataError::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<(), DataError> {
        plot::save_grid(path, "Activations", 2, &self.plots())
    }
}

impl fmt::Display for Histograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.layers.is_empty() {
            return f.write_str("no activation function between two layers was found");
        }
        for (k, layer) in self.layers.iter().enumerate() {
            let Layer { activation, function, before, after } = layer;
            let (name, n) = (plain_lines(&activation.layer), activation.active.len());
            let gap = if k == 0 { "" } else { "\n" };
            write!(f, "{gap}`{name}`: {:.3} ± {:.3} before {function}, ", before.mean, before.deviation)?;
            write!(f, "{:.3} ± {:.3} after it; ", after.mean, after.deviation)?;
            match activation.ends {
                Ends::One => write!(f, "{:.0} of {n} units dead", activation.dead() * n as f64)?,
                Ends::Two => write!(f, "{:.0} % of all values saturated", 100.0 * activation.inactive())?,
            }
            match before.n_not_finite + after.n_not_finite {
                0 => {}
                n => write!(f, "; {n} numbers are not finite")?,
            }
        }
        Ok(())
    }
}

/// What a first pass over batches has shown; the second one counts.
#[derive(Default)]
pub(crate) struct Looking {
    layers: Vec<(Activation, String, [Range; 2])>,
    n_examples: usize,
}

/// An activation among the outputs of a program that looks.
struct Seen<'a> {
    ends: Ends,
    layer: String,
    active: &'a str,
    function: &'a str,
    /// The outputs with the numbers before and after it.
    numbers: [&'a str; 2],
}

/// All of them.
fn seen<'a>(names: &'a [&'a str]) -> impl Iterator<Item = Seen<'a>> {
    let found = names.iter().filter_map(|name| Some((*name, activation_of(name)?)));
    found.enumerate().filter_map(|(k, (active, (ends, layer)))| {
        let (before, after) = (format!("{GIVEN}{k}"), format!("{MADE}{k}."));
        let before = names.iter().find(|name| **name == before)?;
        let (after, function) = names.iter().find_map(|name| Some((*name, name.strip_prefix(&after)?)))?;
        Some(Seen { ends, layer, active, function, numbers: [before, after] })
    })
}

/// Does something with each number of an output.
fn each(out: &Outputs<'_>, name: &str, act: impl FnMut(f64)) -> Result<(), TrainError> {
    out.tensor(name)?.to_f64().into_iter().for_each(act);
    Ok(())
}

impl Looking {
    /// Adds what a program that looks gave for so many examples.
    pub(crate) fn add(&mut self, out: &Outputs<'_>, n: usize) -> Result<(), TrainError> {
        let names: Vec<&str> = out.iter().map(|(name, _)| name).collect();
        for (k, Seen { ends, layer, active, function, numbers }) in seen(&names).enumerate() {
            let active = out.tensor(active)?.to_f64();
            if self.layers.len() == k {
                let activation = Activation { layer, ends, active: vec![0.0; active.len()] };
                self.layers.push((activation, function.to_owned(), Default::default()));
            }
            let (activation, _, ranges) = &mut self.layers[k];
            let share = n as f64 / (self.n_examples + n) as f64;
            activation.active.iter_mut().zip(active).for_each(|(known, new)| *known += share * (new - *known));
            for (range, name) in ranges.iter_mut().zip(numbers) {
                each(out, name, |value| range.add(value))?;
            }
        }
        self.n_examples += n;
        Ok(())
    }

    /// The histograms, which have counted nothing yet.
    pub(crate) fn histograms(self) -> Histograms {
        let layer = |(activation, function, [before, after]): (Activation, String, [Range; 2])| Layer {
            activation,
            function,
            before: before.histogram(),
            after: after.histogram(),
        };
        Histograms { layers: self.layers.into_iter().map(layer).collect(), n_examples: self.n_examples }
    }
}

impl Histograms {
    /// Counts what a program that looks gave: the same as in the first pass.
    pub(crate) fn count(&mut self, out: &Outputs<'_>) -> Result<(), TrainError> {
        let names: Vec<&str> = out.iter().map(|(name, _)| name).collect();
        for (layer, Seen { numbers: [before, after], .. }) in self.layers.iter_mut().zip(seen(&names)) {
            each(out, before, |value| layer.before.count(value))?;
            each(out, after, |value| layer.after.count(value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bin_or_not_finite() {
        let values: Vec<f64> = (0..1000).map(|k| f64::from(k) / 10.0).chain([f64::NAN, f64::INFINITY]).collect();
        let of = Histogram::of(&values);
        assert_eq!((of.from, of.to, of.n_not_finite), (0.0, 99.9, 2));
        assert_eq!((of.counts.len(), of.counts.iter().sum::<u64>()), (N_BINS, 1000));
        assert!(of.counts.iter().all(|count| (24..=26).contains(count)), "{:?}", of.counts);
        assert!((of.mean - 49.95).abs() < 1e-9 && (of.deviation - 28.8675).abs() < 1e-3);
        let (middles, shares): (Vec<f64>, Vec<f64>) = of.shares().unzip();
        assert!((middles[0] - 99.9 / 80.0).abs() < 1e-9 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn odd_values_have_a_histogram_too() {
        assert_eq!(Histogram::of(&[]).counts, [0]);
        assert_eq!(Histogram::of(&[f64::NAN]).n_not_finite, 1);
        assert_eq!(Histogram::of(&[2.5; 7]).counts, [7]);
        // Far from zero squares would cancel.
        let far = Histogram::of(&[1e9, 1e9 + 1.0, 1e9, 1e9 + 1.0]);
        assert!((far.mean - (1e9 + 0.5)).abs() < 1e-6 && (far.deviation - 0.5).abs() < 1e-6, "{far:?}");
        let wide = Histogram::of(&[f64::MIN, 0.0, f64::MAX]);
        assert_eq!((wide.counts[0], wide.counts[N_BINS / 2], wide.counts[N_BINS - 1]), (1, 1, 1));
        assert!(wide.mean.is_finite() && !wide.deviation.is_nan(), "{wide:?}");
        assert!(wide.shares().all(|(middle, _)| middle.is_finite()));
    }
}
