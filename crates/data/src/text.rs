//! Texts as numbers: vocabularies of characters, words or categories, and the pieces of a long text as examples.
//!
//! Why it exists: a model sees ids, and the same word must have the same id in training and years later. A [`Vocabulary`] is a
//! list in an order that follows from the entries alone, so that it does not depend on where in a file a word came first.
//!
//! Promises: ids are places in [`Vocabulary::entries`]; what has no place is an error, or the one id that was kept for it.
//!
//! ```
//! use cotangent_data::text::{Pieces, Unit, Vocabulary};
//! use cotangent_data::{Examples, Table};
//!
//! # fn main() -> Result<(), cotangent_data::DataError> {
//! let text = "to be or not to be";
//! let words = Vocabulary::of_text(text, Unit::Word);
//! assert_eq!(words.entries(), ["be", "not", "or", "to"]);
//! assert_eq!(words.encode(text, Unit::Word)?, [3, 0, 2, 1, 3, 0]);
//! assert_eq!(words.decode(&[3, 0])?, ["to", "be"]);
//!
//! // Four words each, and for each of them the one that follows.
//! let pieces = Pieces::new(words.encode(text, Unit::Word)?, 4, 1)?;
//! assert_eq!(pieces.len(), 2);
//! assert_eq!(Table::of(&pieces)?.get("y").map(|y| y.to_f64()[..4].to_vec()), Some(vec![0.0, 2.0, 1.0, 3.0]));
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use cotangent_graph::TensorData;
use cotangent_scalar::DType;
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::batches::{Order, places_in_epoch};
use crate::reading::{ask, open};
use crate::table::{Examples, Field, check_places};

/// What a text is a sequence of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Unit {
    /// Unicode scalar values, as they are.
    Character,
    /// Runs of letters, digits and marks of omission (`don't`), in lower case. Whatever else is seen is a word by itself.
    Word,
}

impl Unit {
    /// The parts of a text, in their order.
    pub fn split(self, text: &str) -> Vec<String> {
        let is_inside = |c: char| c.is_alphanumeric() || c == '\'' || c == '\u{2019}';
        match self {
            Unit::Character => text.chars().map(String::from).collect(),
            Unit::Word => {
                let mut words = Vec::new();
                let mut word = String::new();
                for c in text.chars() {
                    if is_inside(c) {
                        word.extend(c.to_lowercase());
                        continue;
                    }
                    if !word.is_empty() {
                        words.push(std::mem::take(&mut word));
                    }
                    if !c.is_whitespace() && !c.is_control() {
                        words.push(c.to_string());
                    }
                }
                words.extend(Some(word).filter(|word| !word.is_empty()));
                words
            }
        }
    }
}

/// Entries with ids: their places, from 0 on. With [`Vocabulary::with_unknown`] there is one more id behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Vocabulary {
    entries: Vec<String>,
    ids: HashMap<String, usize>,
    has_unknown: bool,
}

/// What of a vocabulary is written to files.
#[derive(Serialize, Deserialize)]
struct Stored {
    entries: Vec<String>,
    unknown: bool,
}

impl TryFrom<Stored> for Vocabulary {
    type Error = DataError;

    fn try_from(stored: Stored) -> Result<Self, DataError> {
        let vocabulary = Vocabulary::new(stored.entries)?;
        Ok(if stored.unknown { vocabulary.with_unknown() } else { vocabulary })
    }
}

impl From<Vocabulary> for Stored {
    fn from(vocabulary: Vocabulary) -> Self {
        Stored { entries: vocabulary.entries, unknown: vocabulary.has_unknown }
    }
}

impl Vocabulary {
    /// A vocabulary of these entries, in their order.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if one comes twice.
    pub fn new(entries: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, DataError> {
        let entries: Vec<String> = entries.into_iter().map(Into::into).collect();
        let mut ids = HashMap::with_capacity(entries.len());
        for (id, entry) in entries.iter().enumerate() {
            if let Some(first) = ids.insert(entry.clone(), id) {
                return Err(mismatch("entries that differ", format!("{entry:?} at places {first} and {id}")));
            }
        }
        Ok(Vocabulary { entries, ids, has_unknown: false })
    }

    /// All that occur, sorted by their code points: the order does not depend on where they stand.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let entries: BTreeSet<&str> = entries.into_iter().collect();
        let ids = entries.iter().enumerate().map(|(id, &entry)| (entry.to_owned(), id)).collect();
        Vocabulary { entries: entries.into_iter().map(str::to_owned).collect(), ids, has_unknown: false }
    }

    /// All characters or words of a text, sorted.
    pub fn of_text(text: &str, unit: Unit) -> Self {
        Vocabulary::of(unit.split(text).iter().map(String::as_str))
    }

    /// The entries that come most often in these parts, at most so many; of those that come equally often the first by code
    /// points. They are sorted by how often they come.
    pub fn most_frequent<'a>(parts: impl IntoIterator<Item = &'a str>, most: usize) -> Self {
        let mut counts: HashMap<&str, u64> = HashMap::new();
        parts.into_iter().for_each(|part| *counts.entry(part).or_default() += 1);
        let mut counted: Vec<(&str, u64)> = counts.into_iter().collect();
        counted.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        counted.truncate(most);
        let ids = counted.iter().enumerate().map(|(id, (entry, _))| ((*entry).to_owned(), id)).collect();
        let entries = counted.into_iter().map(|(entry, _)| entry.to_owned()).collect();
        Vocabulary { entries, ids, has_unknown: false }
    }

    /// Keeps one id, behind all others, for what has none.
    pub fn with_unknown(mut self) -> Self {
        self.has_unknown = true;
        self
    }

    /// The entries by their ids.
    pub fn entries(&self) -> &[String] {
        &self.entries
    }

    /// The number of ids, the one for unknown entries included: what an embedding has rows for.
    pub fn len(&self) -> usize {
        self.entries.len() + usize::from(self.has_unknown)
    }

    /// Whether there is no id.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id of an entry, or the one for what has none, if that is kept.
    pub fn id(&self, entry: &str) -> Option<usize> {
        self.ids.get(entry).copied().or_else(|| self.has_unknown.then_some(self.entries.len()))
    }

    /// The ids of the parts of a text.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] for a part without one.
    pub fn encode(&self, text: &str, unit: Unit) -> Result<Vec<i64>, DataError> {
        let id = |(place, part): (usize, String)| {
            let required = || format!("one of the {} entries of the vocabulary", self.entries.len());
            self.id(&part)
                .map(|id| id as i64)
                .ok_or_else(|| mismatch(&required(), format!("{} at place {place}", shown(&part))))
        };
        unit.split(text).into_iter().enumerate().map(id).collect()
    }

    /// The entries of ids; that for unknown ones is shown as `\u{fffd}`.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] for an id that there is not.
    pub fn decode(&self, ids: &[i64]) -> Result<Vec<&str>, DataError> {
        let entry = |&id: &i64| match usize::try_from(id) {
            Ok(id) if id < self.entries.len() => Ok(self.entries[id].as_str()),
            Ok(id) if id < self.len() => Ok("\u{fffd}"),
            _ => Err(mismatch(&format!("ids of 0 to {}", self.len().saturating_sub(1)), id.to_string())),
        };
        ids.iter().map(entry).collect()
    }
}

/// A short piece of somebody's text, as errors show it.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 24;
    let short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() { format!("{short:?}...") } else { format!("{short:?}") }
}

fn mismatch(required: &str, got: String) -> DataError {
    DataError::Mismatch {
        of: "vocabulary".to_owned(),
        required: required.to_owned(),
        got,
        fix: "make it of the training text, `with_unknown` if others may have what that has not".to_owned(),
    }
}

/// Reads a text file whole.
///
/// # Errors
/// As [`open`]; [`DataError::Malformed`] if it is not UTF-8, with the place of the first byte that is not.
pub fn read_text(path: impl AsRef<Path>) -> Result<String, DataError> {
    let path = path.as_ref();
    let (mut file, length): (File, u64) = open(path)?;
    ask(&path.display().to_string(), length)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|source| DataError::io(path, "read", source))?;
    String::from_utf8(bytes).map_err(|error| DataError::Malformed {
        name: path.display().to_string(),
        part: "text",
        required: "UTF-8".to_owned(),
        got: format!("other bytes from byte {} on", error.utf8_error().valid_up_to()),
        fix: "save it as UTF-8".to_owned(),
    })
}

/// A long text as examples: fields `x`, so many ids one after the other, and `y`, for each of them the one that follows, both
/// `[length]` of i64. Only the ids are in memory; overlapping pieces take none of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    ids: Vec<i64>,
    length: usize,
    stride: usize,
}

impl Pieces {
    /// Pieces of a length, each beginning `stride` places after the one before.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] for a length or stride of 0, or a text that is shorter than one piece and the id that follows.
    pub fn new(ids: Vec<i64>, length: usize, stride: usize) -> Result<Self, DataError> {
        if length == 0 || stride == 0 || ids.len() <= length {
            return Err(DataError::Mismatch {
                of: "pieces of a text".to_owned(),
                required: "a length and a stride of at least 1, and a text longer than the length".to_owned(),
                got: format!("a length of {length}, a stride of {stride} and a text of {}", ids.len()),
                fix: "take shorter pieces, or a longer text".to_owned(),
            });
        }
        Ok(Pieces { ids, length, stride })
    }
}

impl Examples for Pieces {
    fn len(&self) -> usize {
        (self.ids.len() - self.length - 1) / self.stride + 1
    }

    fn fields(&self) -> Vec<Field> {
        ["x", "y"].map(|name| Field { name: name.to_owned(), dtype: DType::I64, shape: vec![self.length] }).into()
    }

    fn places(&self, order: Order, seed: u64, epoch: u64) -> Result<Vec<usize>, DataError> {
        order.without_labels("pieces of a text")?;
        Ok(places_in_epoch(order, &vec![0u8; self.len()], seed, epoch))
    }

    fn gather(&self, _epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        check_places(places, self.len())?;
        let rows = |ahead: usize| {
            Array2::from_shape_fn((places.len(), self.length), |(row, at)| {
                self.ids[places[row] * self.stride + at + ahead]
            })
        };
        batch.clear();
        batch.extend([rows(0).into(), rows(1).into()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    #[test]
    fn words_and_characters_are_what_is_seen() {
        assert_eq!(Unit::Word.split("Don't  stop, ÄPFEL—now!"), ["don't", "stop", ",", "äpfel", "—", "now", "!"]);
        assert_eq!(Unit::Character.split("aß\n"), ["a", "ß", "\n"]);
        assert_eq!(Unit::Word.split(" \t\n"), [""; 0]);
    }

    #[test]
    fn ids_do_not_depend_on_the_order_of_the_text() {
        let (a, b) = (Vocabulary::of_text("b a c a", Unit::Word), Vocabulary::of_text("c a b", Unit::Word));
        assert_eq!(a, b);
        assert_eq!(a.id("a"), Some(0));
        let frequent = Vocabulary::most_frequent(["x", "b", "a", "b", "a", "y"], 3);
        assert_eq!(frequent.entries(), ["a", "b", "x"]);
    }

    #[test]
    fn what_is_unknown_is_refused_or_has_the_last_id() {
        let vocabulary = Vocabulary::of_text("ab", Unit::Character);
        let error = vocabulary.encode("abz", Unit::Character).unwrap_err().to_string();
        assert!(error.contains("one of the 2 entries") && error.contains("\"z\" at place 2"), "{error}");
        let open = vocabulary.clone().with_unknown();
        assert_eq!((open.len(), open.encode("abz", Unit::Character).unwrap()), (3, vec![0, 1, 2]));
        assert_eq!(open.decode(&[1, 2]).unwrap(), ["b", "\u{fffd}"]);
        for wrong in [-1, 3, i64::MAX] {
            let error = open.decode(&[wrong]).unwrap_err().to_string();
            assert!(error.contains("ids of 0 to 2"), "{error}");
        }
        let twice = Vocabulary::new(["a", "b", "a"]).unwrap_err().to_string();
        assert!(twice.contains("\"a\" at places 0 and 2"), "{twice}");
    }

    #[test]
    fn vocabularies_read_back_and_damaged_ones_are_refused() {
        let vocabulary = Vocabulary::of_text("größe \"x\"", Unit::Word).with_unknown();
        let json = serde_json::to_string(&vocabulary).unwrap();
        assert_eq!(serde_json::from_str::<Vocabulary>(&json).unwrap(), vocabulary);
        assert!(serde_json::from_str::<Vocabulary>(r#"{"entries":["a","a"],"unknown":false}"#).is_err());
        assert!(serde_json::from_str::<Vocabulary>(r#"{"entries":["a"]}"#).is_err());
    }

    #[test]
    fn pieces_are_those_of_the_text() {
        for (length, stride) in [(1, 1), (3, 2), (4, 5), (9, 1)] {
            let pieces = Pieces::new((0..10).collect(), length, stride).unwrap();
            let starts: Vec<usize> = (0..10).step_by(stride).filter(|start| start + length < 10).collect();
            assert_eq!(pieces.len(), starts.len(), "{length} {stride}");
            let table = Table::of(&pieces).unwrap();
            let column = |name: &str| table.get(name).unwrap().to_f64();
            let all = |ahead: usize| -> Vec<f64> {
                starts.iter().flat_map(|start| (0..length).map(move |at| (start + at + ahead) as f64)).collect()
            };
            assert_eq!((column("x"), column("y")), (all(0), all(1)));
        }
        for (n, length, stride) in [(4, 4, 1), (4, 0, 1), (4, 2, 0), (0, 1, 1)] {
            assert!(Pieces::new(vec![0; n], length, stride).is_err());
        }
        let pieces = Pieces::new((0..10).collect(), 3, 1).unwrap();
        assert!(pieces.places(Order::Stratified, 0, 0).is_err());
        assert!(pieces.gather(0, &[7], &mut Vec::new()).is_err());
    }

    #[test]
    fn texts_are_utf_8() {
        let path = std::env::temp_dir().join(format!("cotangent-text-{}", std::process::id()));
        std::fs::write(&path, "größe").unwrap();
        assert_eq!(read_text(&path).unwrap(), "größe");
        std::fs::write(&path, b"ab\xffc").unwrap();
        let error = read_text(&path).unwrap_err().to_string();
        assert!(error.contains("required UTF-8") && error.contains("byte 2 on"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read_text(&path), Err(DataError::Missing { .. })));
    }
}
