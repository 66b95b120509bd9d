//! The history of a run: a line for each epoch, as CSV, JSON and curves.
//!
//! Promises: CSV reads back to the same bits; a number that is missing or not finite is an empty field in CSV (`NaN` and
//! `inf` are kept) and `null` in JSON.

use std::fmt;
use std::fmt::Write;
use std::ops::Deref;
use std::path::Path;

use cotangent_data::DataError;
use cotangent_data::files::write_text;

use crate::plot::{Plot, grid};

/// What an epoch achieved.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    /// Its number, from 1 on, over all calls of `fit`.
    pub number: u64,
    /// Steps taken at its end, over all calls of `fit`.
    pub step: u32,
    /// Rows of a batch.
    pub batch_size: usize,
    /// The mean loss over the examples, each taken when its batch was trained on.
    pub train_loss: f64,
    /// The mean loss on the validation set after the epoch.
    pub validation_loss: Option<f64>,
    /// The share of the validation set that is predicted correctly after the epoch.
    pub validation_accuracy: Option<f64>,
    /// The trainer's metrics of the validation set after the epoch, by name.
    pub metrics: Vec<(String, f64)>,
    /// The learning rate `optimizer.lr` at its end, before a schedule's factor, if the store has one.
    pub rate: Option<f64>,
    /// Time spent on training, without compilation and evaluation.
    pub seconds: f64,
    /// Examples whose batches were passed over ([`NonFinite::Skip`](crate::NonFinite::Skip)); the mean is over the others.
    pub n_skipped: usize,
}

impl Epoch {
    /// A metric of the validation set.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|(known, _)| known == name).map(|(_, figure)| *figure)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}: train loss {:.4}", self.number, self.train_loss)?;
        if let Some(loss) = self.validation_loss {
            write!(f, ", validation loss {loss:.4}")?;
        }
        if let Some(accuracy) = self.validation_accuracy {
            write!(f, ", validation accuracy {:.2} %", 100.0 * accuracy)?;
        }
        for (name, figure) in &self.metrics {
            write!(f, ", {name} {figure:.4}")?;
        }
        if self.n_skipped > 0 {
            write!(f, ", {} examples passed over", self.n_skipped)?;
        }
        write!(f, ", {:.2} s", self.seconds)
    }
}

/// The columns of the CSV form, and the keys of the JSON form.
const COLUMNS: [&str; 9] = [
    "epoch",
    "step",
    "batch_size",
    "train_loss",
    "validation_loss",
    "validation_accuracy",
    "rate",
    "skipped",
    "seconds",
];

/// Epochs in order; a slice of [`Epoch`] with ways to keep it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct History(Vec<Epoch>);

impl Deref for History {
    type Target = [Epoch];

    fn deref(&self) -> &[Epoch] {
        &self.0
    }
}

impl History {
    pub(crate) fn push(&mut self, epoch: Epoch) {
        self.0.push(epoch);
    }

    /// The epochs after a number.
    pub(crate) fn after(&self, number: u64) -> History {
        History(self.0.iter().filter(|epoch| epoch.number > number).cloned().collect())
    }

    /// The names of all metrics, in the order in which they came up.
    fn metrics(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.0.iter().flat_map(|epoch| &epoch.metrics) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// A table with a line of names; metrics come last.
    pub fn to_csv(&self) -> String {
        let metrics = self.metrics();
        let mut out = COLUMNS.iter().chain(&metrics).copied().collect::<Vec<_>>().join(",") + "\n";
        for e in &self.0 {
            let option = |v: Option<f64>| v.map(|v| v.to_string()).unwrap_or_default();
            let figures: String = metrics.iter().map(|name| format!(",{}", option(e.metric(name)))).collect();
            let _ = writeln!(
                out,
                "{},{},{},{},{},{},{},{},{}{figures}",
                e.number,
                e.step,
                e.batch_size,
                e.train_loss,
                option(e.validation_loss),
                option(e.validation_accuracy),
                option(e.rate),
                e.n_skipped,
                e.seconds
            );
        }
        out
    }

    /// The history of a table as [`History::to_csv`] makes it, or made it before it had the column `skipped`; `None` if it is another.
    pub fn from_csv(text: &str) -> Option<History> {
        let mut lines = text.lines();
        let (columns, earlier) = (COLUMNS.join(","), COLUMNS.join(",").replace(",skipped", ""));
        let first = lines.next()?;
        let is_earlier = first == earlier;
        let metrics: Vec<&str> = match first.strip_prefix(&columns) {
            _ if is_earlier => Vec::new(),
            Some("") => Vec::new(),
            Some(names) => names.strip_prefix(',')?.split(',').collect(),
            None => return None,
        };
        let option = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
        let epoch = |line: &str| {
            let mut fields: Vec<&str> = line.split(',').collect();
            if is_earlier {
                fields.insert(fields.len().checked_sub(1)?, "0");
            }
            let figures = fields.split_off(COLUMNS.len().min(fields.len()));
            let fields: [&str; COLUMNS.len()] = fields.try_into().ok()?;
            let [number, step, batch_size, train_loss, loss, accuracy, rate, skipped, seconds] = fields;
            if figures.len() != metrics.len() {
                return None;
            }
            let figures = figures.into_iter().map(option).collect::<Option<Vec<Option<f64>>>>()?;
            Some(Epoch {
                number: number.parse().ok()?,
                step: step.parse().ok()?,
                batch_size: batch_size.parse().ok()?,
                train_loss: train_loss.parse().ok()?,
                validation_loss: option(loss)?,
                validation_accuracy: option(accuracy)?,
                metrics: metrics.iter().zip(figures).filter_map(|(name, v)| Some((name.to_string(), v?))).collect(),
                rate: option(rate)?,
                seconds: seconds.parse().ok()?,
                n_skipped: skipped.parse().ok()?,
            })
        };
        lines.map(epoch).collect::<Option<Vec<Epoch>>>().map(History)
    }

    /// An array of objects, one for each epoch.
    pub fn to_json(&self) -> String {
        let number = |v: Option<f64>| match v.filter(|v| v.is_finite()) {
            Some(v) => v.to_string(),
            None => "null".to_owned(),
        };
        let line = |e: &Epoch| {
            let values = [
                e.number.to_string(),
                e.step.to_string(),
                e.batch_size.to_string(),
                number(Some(e.train_loss)),
                number(e.validation_loss),
                number(e.validation_accuracy),
                number(e.rate),
                e.n_skipped.to_string(),
                number(Some(e.seconds)),
            ];
            let figures = e.metrics.iter().map(|(name, figure)| (name.as_str(), number(Some(*figure))));
            let pairs: Vec<String> = COLUMNS
                .into_iter()
                .zip(values)
                .chain(figures)
                .map(|(key, value)| format!("\"{key}\": {value}"))
                .collect();
            format!("  {{{}}}", pairs.join(", "))
        };
        let lines: Vec<String> = self.0.iter().map(line).collect();
        if lines.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", lines.join(",\n")) }
    }

    /// The learning curves: the losses, and the share of wrong predictions if the objective has that notion.
    pub fn curves(&self) -> Vec<Plot> {
        let of = |value: fn(&Epoch) -> Option<f64>| {
            self.0.iter().filter_map(move |e| Some((e.number as f64, value(e)?))).collect::<Vec<_>>()
        };
        let losses = Plot::new("Loss").x_label("epoch").y_label("loss").log_y();
        let mut losses = losses.line("training", of(|e| Some(e.train_loss)));
        let validation = of(|e| e.validation_loss);
        if !validation.is_empty() {
            losses = losses.line("validation", validation);
        }
        let errors = of(|e| e.validation_accuracy.map(|accuracy| 100.0 * (1.0 - accuracy)));
        let mut curves = vec![losses];
        if !errors.is_empty() {
            let plot = Plot::new("Error").x_label("epoch").y_label("wrong predictions, %");
            curves.push(plot.line("", []).line("validation", errors));
        }
        curves
    }

    /// Writes `history.csv`, `history.json` and `curves.svg` into a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`DataError::Io`] if one cannot be written.
    pub fn write(&self, folder: impl AsRef<Path>) -> Result<(), DataError> {
        let folder = folder.as_ref();
        let curves = self.curves();
        write_text(folder.join("history.csv"), &self.to_csv())?;
        write_text(folder.join("history.json"), &self.to_json())?;
        write_text(folder.join("curves.svg"), &grid("", curves.len(), &curves))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let epoch = |number| Epoch {
            number,
            step: 7 * number as u32,
            batch_size: 32,
            train_loss: 1.0 / 3.0 / number as f64,
            validation_loss: (number > 1).then_some(0.1 + 0.2),
            validation_accuracy: Some(if number == 3 { f64::NAN } else { 0.5 }),
            rate: None,
            seconds: 1e-9,
            n_skipped: number as usize - 1,
            metrics: if number == 1 { Vec::new() } else { vec![("f1".to_owned(), 0.1 * number as f64)] },
        };
        History((1..4).map(epoch).collect())
    }

    #[test]
    fn csv_reads_back_to_the_same_bits() {
        let csv = history().to_csv();
        let back = History::from_csv(&csv).unwrap();
        assert_eq!(back.to_csv(), csv);
        assert_eq!(back[1], history()[1]);
        assert!((back[0].metric("f1"), back[2].metric("f1")) == (None, history()[2].metric("f1")), "{csv}");
        assert!(back[2].validation_accuracy.unwrap().is_nan() && back[0].validation_loss.is_none());
        assert_eq!(History::from_csv(&History::default().to_csv()), Some(History::default()));
        let first = History(history()[..1].to_vec()).to_csv();
        let earlier = first.replace(",skipped", "").replace(",0,0.000000001", ",0.000000001");
        assert!(earlier.len() < first.len() && History::from_csv(&earlier).unwrap()[..] == back[..1], "{earlier}");
        for wrong in ["", "epoch\n1\n", &csv.replace("32", "many"), &format!("{csv}1,2\n")] {
            assert_eq!(History::from_csv(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn json_and_curves_hold_the_numbers() {
        let json = history().to_json();
        assert!(
            json.contains("\"f1\": 0.2}") && json.contains("\"epoch\": 2, \"step\": 14, \"batch_size\": 32"),
            "{json}"
        );
        assert!(json.contains("\"validation_accuracy\": null") && json.contains("0.30000000000000004"), "{json}");
        assert_eq!(History::default().to_json(), "[]\n");
        assert_eq!((history().curves().len(), History::default().curves().len()), (2, 1));
    }
}
