//! How far a call of `fit` has come: what of a run is not in the store.
//!
//! Why it exists: a call that ended with an error goes on where it stopped, and so does a process that was killed; the
//! cursor is what both need to know, and it travels in the notes of a checkpoint.

use std::collections::BTreeMap;
use std::str::FromStr;

use cotangent_data::{Examples, Field, Order};
use cotangent_graph::DType;

use crate::TrainError;
use crate::history::History;

/// Where the next step is taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cursor {
    /// Epochs that were done before the call of `fit` that is under way.
    pub(super) base: u64,
    /// Epochs done.
    pub(super) epochs: u64,
    /// Examples that the epoch under way has trained on.
    pub(super) examples: usize,
    /// The sum of their losses, weighted.
    pub(super) loss: f64,
    /// The sum of the weights.
    pub(super) weight: f64,
    /// Gradients that are added up for a step to come.
    pub(super) pending: u32,
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
    pub(super) example: Option<Vec<Field>>,
}

/// The fields that the model was made for, as a note: `x f32 28 28, y i64`.
fn fields_note(fields: &[Field]) -> String {
    let field = |field: &Field| {
        let extents = field.shape.iter().map(|n| format!(" {n}")).collect::<String>();
        format!("{} {}{extents}", field.name, field.dtype.name())
    };
    fields.iter().map(field).collect::<Vec<_>>().join(", ")
}

/// The fields of a note. Earlier checkpoints have the extents of the one field `x` and the type of `y`: `28 28 i64`.
fn fields_of_note(text: &str) -> Option<Vec<Field>> {
    let extents = |words: &[&str]| words.iter().map(|n| n.parse().ok()).collect::<Option<Vec<usize>>>();
    let field = |name: &str, dtype: DType, shape| Field { name: name.to_owned(), dtype, shape };
    let words: Vec<&str> = text.split(' ').collect();
    if let [before @ .., label] = &words[..]
        && let (Some(shape), Ok(label)) = (extents(before), label.parse())
    {
        return Some(vec![field("x", DType::F32, shape), field("y", label, Vec::new())]);
    }
    let one = |text: &str| match &text.split(' ').collect::<Vec<_>>()[..] {
        [name, dtype, rest @ ..] if !name.is_empty() => Some(field(name, dtype.parse().ok()?, extents(rest)?)),
        _ => None,
    };
    text.split(", ").map(one).collect()
}

impl Cursor {
    /// The texts that a checkpoint keeps. Numbers read back to the same bits.
    pub(super) fn to_notes(&self) -> BTreeMap<String, String> {
        let Cursor { base, epochs, examples, loss, weight, pending, skipped, seconds, pass, stopped, history, example } =
            self;
        let notes = [
            ("base", base.to_string()),
            ("epochs", epochs.to_string()),
            ("examples", examples.to_string()),
            ("loss", loss.to_string()),
            ("weight", weight.to_string()),
            ("pending", pending.to_string()),
            ("skipped", skipped.to_string()),
            ("seconds", seconds.to_string()),
            ("pass", pass.clone()),
            ("stopped", stopped.to_string()),
            ("history", history.to_csv()),
        ];
        let example = example.iter().map(|fields| ("example", fields_note(fields)));
        notes.into_iter().chain(example).map(|(name, text)| (name.to_owned(), text)).collect()
    }

    /// The cursor of a checkpoint.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] if the notes are not those of a trainer.
    pub(super) fn from_notes(notes: &BTreeMap<String, String>) -> Result<Self, TrainError> {
        let has = |name: &str| notes.contains_key(name);
        let (examples, skipped) = (note(notes, "examples")?, if has("skipped") { note(notes, "skipped")? } else { 0 });
        let cursor = Cursor {
            base: note(notes, "base")?,
            epochs: note(notes, "epochs")?,
            examples,
            loss: note(notes, "loss")?,
            // Earlier checkpoints have none of these.
            weight: if has("weight") { note(notes, "weight")? } else { examples.saturating_sub(skipped) as f64 },
            pending: if has("pending") { note(notes, "pending")? } else { 0 },
            skipped,
            seconds: note(notes, "seconds")?,
            pass: note(notes, "pass")?,
            stopped: note(notes, "stopped")?,
            history: History::from_csv(&note::<String>(notes, "history")?).ok_or_else(|| unreadable("history"))?,
            // Earlier checkpoints do not say.
            example: match notes.get("example") {
                Some(text) => Some(fields_of_note(text).ok_or_else(|| unreadable("example"))?),
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
    pub(super) fn begin(&mut self, set: &dyn Examples, size: usize, order: Order) -> Result<(), TrainError> {
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

    /// An epoch is done. Gradients that wait for a step do so in the next one.
    pub(super) fn end_epoch(&mut self) {
        self.epochs += 1;
        (self.examples, self.skipped) = (0, 0);
        (self.loss, self.weight, self.seconds) = (0.0, 0.0, 0.0);
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
        let field = |name: &str, dtype, shape: &[usize]| Field { name: name.to_owned(), dtype, shape: shape.to_vec() };
        let fields = vec![field("x", DType::F32, &[28, 28]), field("y", DType::I64, &[])];
        let cursor = Cursor { example: Some(fields.clone()), weight: 0.25, pending: 2, ..cursor };
        let mut notes = cursor.to_notes();
        assert_eq!(Cursor::from_notes(&notes).unwrap(), cursor);
        notes.remove("example");
        assert_eq!(Cursor::from_notes(&notes).unwrap().example, None);
        // As earlier versions wrote it.
        notes.insert("example".to_owned(), "28 28 i64".to_owned());
        assert_eq!(Cursor::from_notes(&notes).unwrap().example, Some(fields));
        notes.retain(|name, _| name != "weight" && name != "pending");
        let earlier = Cursor::from_notes(&notes).unwrap();
        assert_eq!((earlier.weight, earlier.pending), (64.0, 0));
        for wrong in ["", "28", "x i64 y", "2 f23", "x f32 2, ", "x f32 2, y"] {
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
