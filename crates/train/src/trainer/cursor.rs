//! How far a call of `fit` has come: what of a run is not in the store.
//!
//! Why it exists: a call that ended with an error goes on where it stopped, and so does a process that was killed; the
//! cursor is what both need to know, and it travels in the notes of a checkpoint.

use std::collections::BTreeMap;
use std::str::FromStr;

use cotangent_data::{Dataset, Order};
use cotangent_graph::DType;

use crate::TrainError;
use crate::history::History;
use crate::objective::Label;

/// Where the next step is taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cursor {
    /// Epochs that were done before the call of `fit` that is under way.
    pub(super) base: u64,
    /// Epochs done.
    pub(super) epochs: u64,
    /// Examples that the epoch under way has trained on.
    pub(super) examples: usize,
    /// The sum of their losses.
    pub(super) loss: f64,
    /// Those of them whose batches were passed over.
    pub(super) skipped: usize,
    /// Time spent on them.
    pub(super) seconds: f64,
    /// The division of the epoch under way into batches.
    pub(super) pass: String,
    /// Whether a callback ended the call.
    pub(super) stopped: bool,
    /// The epochs done, over all calls.
    pub(super) history: History,
    /// What the model was made for, once it was.
    pub(super) example: Option<Example>,
}

/// One example: the shape of its features, and the element type of its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Example {
    pub(super) features: Vec<usize>,
    pub(super) label: DType,
}

impl Example {
    fn to_note(&self) -> String {
        self.features.iter().map(|n| format!("{n} ")).collect::<String>() + self.label.name()
    }

    fn from_note(text: &str) -> Option<Self> {
        let mut words: Vec<&str> = text.split(' ').collect();
        let label = words.pop()?.parse().ok()?;
        let features = words.into_iter().map(|n| n.parse().ok()).collect::<Option<_>>()?;
        Some(Example { features, label })
    }
}

impl Cursor {
    /// The texts that a checkpoint keeps. Numbers read back to the same bits.
    pub(super) fn to_notes(&self) -> BTreeMap<String, String> {
        let Cursor { base, epochs, examples, loss, skipped, seconds, pass, stopped, history, example } = self;
        let notes = [
            ("base", base.to_string()),
            ("epochs", epochs.to_string()),
            ("examples", examples.to_string()),
            ("loss", loss.to_string()),
            ("skipped", skipped.to_string()),
            ("seconds", seconds.to_string()),
            ("pass", pass.clone()),
            ("stopped", stopped.to_string()),
            ("history", history.to_csv()),
        ];
        let example = example.iter().map(|example| ("example", example.to_note()));
        notes.into_iter().chain(example).map(|(name, text)| (name.to_owned(), text)).collect()
    }

    /// The cursor of a checkpoint.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if the notes are not those of a trainer.
    pub(super) fn from_notes(notes: &BTreeMap<String, String>) -> Result<Self, TrainError> {
        let cursor = Cursor {
            base: note(notes, "base")?,
            epochs: note(notes, "epochs")?,
            examples: note(notes, "examples")?,
            loss: note(notes, "loss")?,
            // Earlier checkpoints have none of them.
            skipped: if notes.contains_key("skipped") { note(notes, "skipped")? } else { 0 },
            seconds: note(notes, "seconds")?,
            pass: note(notes, "pass")?,
            stopped: note(notes, "stopped")?,
            history: History::from_csv(&note::<String>(notes, "history")?).ok_or_else(|| unreadable("history"))?,
            // Earlier checkpoints do not say.
            example: match notes.get("example") {
                Some(text) => Some(Example::from_note(text).ok_or_else(|| unreadable("example"))?),
                None => None,
            },
        };
        // Counters that no run gets to, and that sums of them would overflow.
        if cursor.base > cursor.epochs || cursor.epochs > MAX_EPOCHS || cursor.skipped > cursor.examples {
            return Err(unreadable("epochs"));
        }
        Ok(cursor)
    }

    /// Begins or goes on with an epoch that is divided like this.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if the epoch was begun with another division: the examples left would not be the right ones.
    pub(super) fn begin<T: Label>(&mut self, set: &Dataset<T>, size: usize, order: Order) -> Result<(), TrainError> {
        let pass = format!("{} examples by {size}, {order:?}", set.len());
        if self.examples > 0 && self.pass != pass {
            let required = format!("`{}`, as the epoch under way was begun with", self.pass);
            return Err(TrainError::invalid("training set", required, format!("`{pass}`")));
        }
        // All of them are what an error behind the last step leaves: then only the epoch's end is left.
        if self.examples > set.len() {
            let required = "no more examples of the epoch under way than there are";
            return Err(TrainError::invalid("checkpoint", required, self.examples));
        }
        self.pass = pass;
        Ok(())
    }
}

/// The most epochs that a checkpoint may have behind it.
const MAX_EPOCHS: u64 = 1 << 40;

fn note<T: FromStr>(notes: &BTreeMap<String, String>, name: &str) -> Result<T, TrainError> {
    notes.get(name).and_then(|text| text.parse().ok()).ok_or_else(|| unreadable(name))
}

fn unreadable(name: &str) -> TrainError {
    TrainError::invalid("checkpoint", format!("one that a trainer made, with a note `{name}`"), "none, or another")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_read_back_to_the_same_bits() {
        let cursor = Cursor {
            base: 3,
            epochs: 5,
            examples: 96,
            loss: 0.1 + 0.2,
            skipped: 32,
            stopped: true,
            ..Cursor::default()
        };
        let cursor = Cursor { example: Some(Example { features: vec![28, 28], label: DType::I64 }), ..cursor };
        let mut notes = cursor.to_notes();
        assert_eq!(Cursor::from_notes(&notes).unwrap(), cursor);
        notes.remove("example");
        assert_eq!(Cursor::from_notes(&notes).unwrap().example, None);
        for wrong in ["", "28", "x i64", "2 f23"] {
            notes.insert("example".to_owned(), wrong.to_owned());
            assert!(Cursor::from_notes(&notes).is_err(), "{wrong}");
        }
        notes.remove("example");
        for (base, epochs) in
            [("6", "5"), ("0", "18446744073709551615"), ("18446744073709551615", "18446744073709551615")]
        {
            notes.insert("base".to_owned(), base.to_owned());
            notes.insert("epochs".to_owned(), epochs.to_owned());
            assert!(Cursor::from_notes(&notes).is_err(), "{base} {epochs}");
        }
        let mut notes = cursor.to_notes();
        notes.insert("loss".to_owned(), "much".to_owned());
        let error = Cursor::from_notes(&notes).unwrap_err().to_string();
        assert!(error.contains("note `loss`"), "{error}");
    }
}
