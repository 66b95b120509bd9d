//! What stands around the numbers of a model: what rows are made of, what classes are called.

use std::collections::BTreeMap;

use cotangent_data::CsvReader;
use serde::{Deserialize, Serialize};

/// What is known of a model beside graphs and weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// What rows are made of.
    pub form: Form,
    /// The names of classes.
    pub labels: Vec<String>,
    /// The maker's texts.
    pub notes: BTreeMap<String, String>,
}

/// What the rows of a model are made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Numbers as they are.
    #[default]
    Arrays,
    /// The field `x` is pictures, channels last: shares of the largest value that a channel can have.
    Pictures,
    /// Rows of a table of text, as this reader reads them: with the categories of the training file, and with what took the place of
    /// missing numbers there.
    Table(CsvReader),
}
