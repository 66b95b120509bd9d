//! Texts whose words are replaced by others that mean the same, of a table that the user gives.

use std::collections::BTreeMap;
use std::fmt;

use cotangent_graph::TensorData;
use cotangent_scalar::{DType, plain};
use rand::RngExt;

use super::{Draw, drawn_for, mismatch, position};
use crate::DataError;
use crate::batches::Order;
use crate::table::{Examples, Field};
use crate::text::Vocabulary;

/// The stream of which words are replaced, and by what.
const WORDS_STREAM: u64 = u64::from_be_bytes(*b"words\0\0\0");

/// Examples with a field of ids of words, some of which are replaced at random in every epoch.
///
/// ```
/// use cotangent_data::augment::Synonyms;
/// use cotangent_data::text::Unit;
/// use cotangent_data::{Examples, Table, Vocabulary};
/// use ndarray::Array2;
///
/// # fn main() -> Result<(), cotangent_data::DataError> {
/// let words = Vocabulary::of_text("a big dog a large cat", Unit::Word);
/// let ids = Array2::from_shape_vec((1, 3), words.encode("a big dog", Unit::Word)?).expect("three words");
/// let set = Table::new().with("x", ids)?;
/// let changed = Synonyms::new(&set, "x", &words, 7)?.group(&["big", "large"])?.probability(1.0)?;
/// assert_eq!(Table::of(&changed)?.get("x").map(|x| x.to_f64()), Some(vec![0.0, 4.0, 3.0]));
/// # Ok(())
/// # }
/// ```
pub struct Synonyms<'a> {
    set: &'a dyn Examples,
    at: usize,
    vocabulary: &'a Vocabulary,
    seed: u64,
    probability: f32,
    /// For each id those that it is replaced by.
    others: BTreeMap<i64, Vec<i64>>,
}

impl fmt::Debug for Synonyms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Synonyms(of {} words)", self.others.len())
    }
}

impl<'a> Synonyms<'a> {
    /// Examples whose field of ids, of this vocabulary, is to be changed: no group yet, and a probability of 0.1.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if there is no such field of i64.
    pub fn new(set: &'a dyn Examples, field: &str, vocabulary: &'a Vocabulary, seed: u64) -> Result<Self, DataError> {
        let fields = set.fields();
        let at = position(&fields, field)?;
        if fields[at].dtype != DType::I64 {
            let of = format!("field `{}` to augment", plain(field));
            return Err(mismatch(&of, "ids of words, i64", fields[at].dtype.to_string()));
        }
        Ok(Synonyms { set, at, vocabulary, seed, probability: 0.1, others: BTreeMap::new() })
    }

    /// Words that may stand for each other. A word in several groups may become any word of them.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] for a word that the vocabulary has not.
    pub fn group(mut self, words: &[&str]) -> Result<Self, DataError> {
        let known = self.vocabulary.entries().len() as i64;
        let id = |word: &&str| match self.vocabulary.id(word).map(|id| id as i64).filter(|id| *id < known) {
            Some(id) => Ok(id),
            None => Err(mismatch("synonyms", "words of the vocabulary", format!("{word:?}"))),
        };
        let ids = words.iter().map(id).collect::<Result<Vec<i64>, _>>()?;
        for &id in &ids {
            let others = self.others.entry(id).or_default();
            others.extend(ids.iter().filter(|other| **other != id));
            others.sort_unstable();
            others.dedup();
        }
        Ok(self)
    }

    /// All groups of a text: one in each line, words between spaces or commas.
    ///
    /// # Errors
    /// As [`Synonyms::group`].
    pub fn groups(self, text: &str) -> Result<Self, DataError> {
        let words = |line: &'_ str| -> Vec<String> {
            line.split([' ', '\t', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        text.lines()
            .map(words)
            .try_fold(self, |all, words| all.group(&words.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// How likely a word that has others is replaced.
    ///
    /// # Errors
    /// [`DataError::Mismatch`] if it is not in [0, 1].
    pub fn probability(mut self, probability: f32) -> Result<Self, DataError> {
        if !(0.0..=1.0).contains(&probability) {
            return Err(mismatch("synonyms", "a probability from 0 to 1", probability.to_string()));
        }
        self.probability = probability;
        Ok(self)
    }

    fn replaced(&self, id: i64, draw: &mut Draw) -> i64 {
        match self.others.get(&id) {
            Some(others) if !others.is_empty() && draw.random::<f32>() < self.probability => {
                others[draw.random_range(0..others.len())]
            }
            _ => id,
        }
    }
}

impl Examples for Synonyms<'_> {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn fields(&self) -> Vec<Field> {
        self.set.fields()
    }

    fn places(&self, order: Order, seed: u64, epoch: u64) -> Result<Vec<usize>, DataError> {
        self.set.places(order, seed, epoch)
    }

    fn gather(&self, epoch: u64, places: &[usize], batch: &mut Vec<TensorData>) -> Result<(), DataError> {
        self.set.gather(epoch, places, batch)?;
        let TensorData::I64(rows) = &mut batch[self.at] else {
            return Err(mismatch("field to augment", "i64, as it was", batch[self.at].dtype().to_string()));
        };
        for (mut row, &place) in rows.outer_iter_mut().zip(places) {
            let mut draw = drawn_for(self.seed, WORDS_STREAM, epoch, place);
            row.mapv_inplace(|id| self.replaced(id, &mut draw));
        }
        Ok(())
    }

    fn is_slow(&self) -> bool {
        self.set.is_slow()
    }
}
