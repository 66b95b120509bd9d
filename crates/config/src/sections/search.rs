//! Searches over values of other keys.

use toml::Spanned;
use toml::de::DeValue;

use crate::read::Reader;
use crate::schema::{Between, Doc, Entries, Range::*, Scalar, Setting, choice, section};

choice! {
    /// How trials are chosen, and how long each is trained.
    Method {
        /// Random values, for the budget each.
        Random = "random",
        /// Random values, for the budget each; then the best of them anew for `keep` times as long, and so on until one is left.
        Halving = "halving",
    }
}

choice! {
    /// What a trial is judged by.
    Measure {
        /// The loss on the validation set.
        Loss = "loss",
        /// The share of the validation set that is taken for a wrong class.
        Error = "error",
    }
}

section! {
    /// A search over values of keys: each trial is the configuration with other values, trained and judged on its validation set.
    Search {
        /// How trials are chosen, and how long each is trained.
        method: Method = Method::Random,
        /// How many values of the keys are tried.
        trials: usize = 20 => AtLeast(1.0),
        /// Epochs of a trial, with halving of one of the first round.
        budget: usize = 1 => AtLeast(1.0),
        /// With halving: of so many trials of a round one goes on to the next, for so many times the epochs.
        keep: usize = 3 => AtLeast(2.0),
        /// What a trial is judged by.
        measure: Measure = Measure::Loss,
        /// Which values are the random ones.
        seed: u64 = 0,
        /// The values of each key that is searched over: names with dots between them, and for an item of a list its number from 1 on, as
        /// in `"optimizer.rate"` and `"layers.2.units"`. A key need not be in the file.
        ranges: Entries<Values>,
    }
}

section! {
    /// The values of a key: one of these.
    Given {
        /// Numbers between two, all equally likely.
        uniform: Option<Between<f64>>,
        /// Numbers between two that are more than 0, each order of magnitude equally likely.
        log: Option<Between<f64>>,
        /// Whole numbers from one to another, both included.
        integer: Option<Between<i64>>,
        /// One of these.
        choice: Option<Vec<Spanned<Scalar>>>,
    }
}

/// The values of a key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Values {
    /// Numbers between two.
    Uniform(Between<f64>),
    /// Numbers between two, each order of magnitude equally likely.
    Log(Between<f64>),
    /// Whole numbers from one to another.
    Integer(Between<i64>),
    /// One of these.
    Choice(Vec<Spanned<Scalar>>),
}

impl Setting for Values {
    fn doc() -> Doc {
        Given::doc()
    }

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, what: &str) -> Option<Self> {
        let read = match Given::read(reader, value, what)? {
            Given { uniform: Some(of), log: None, integer: None, choice: None } => Ok(Values::Uniform(of)),
            Given { uniform: None, log: Some(of), integer: None, choice: None } => Ok(Values::Log(of)),
            Given { uniform: None, log: None, integer: Some(of), choice: None } => Ok(Values::Integer(of)),
            Given { uniform: None, log: None, integer: None, choice: Some(of) } => Ok(Values::Choice(of)),
            _ => Err("one of `uniform`, `log`, `integer` and `choice`"),
        };
        let fits = read.and_then(|values| match &values {
            Values::Uniform(Between(from, to)) if from < to => Ok(values),
            Values::Log(Between(from, to)) if 0.0 < *from && from < to => Ok(values),
            Values::Integer(Between(from, to)) if from < to => Ok(values),
            Values::Choice(of) if !of.is_empty() => Ok(values),
            Values::Choice(_) => Err("at least one value"),
            Values::Log(_) => Err("two numbers in order, more than 0"),
            Values::Uniform(_) | Values::Integer(_) => Err("two numbers in order"),
        });
        fits.map_err(|required| reader.wrong(value, what, required)).ok()
    }
}
