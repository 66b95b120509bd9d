//! Other values for some keys of a configuration.
//!
//! Why it exists: a search tries values, and writes the best of them as a configuration. What it tries must be read as if it stood in
//! the file, with its mistakes told at the place where the search asks for it; what it writes must keep the comments of the file.
//!
//! A key is the way to a value: names with dots between them, and in a list the number of an item from 1 on, as messages count
//! (`layers.2.units`). Tables on the way that are not there are made.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_edit::{DocumentMut, Item, TableLike, Value};

/// Another value for a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The bytes of the text where the key is asked for.
    pub key_at: Range<usize>,
    /// The value, as TOML.
    pub value: String,
    /// The bytes of the text where the value is asked for.
    pub value_at: Range<usize>,
}

impl Change {
    /// Sets the value in a document that was read.
    ///
    /// # Errors
    /// What the key goes through that is no table, or an item that a list has not.
    pub(crate) fn apply<'i>(&'i self, document: &mut DeTable<'i>) -> Result<(), String> {
        let value = DeValue::parse(&self.value).map_err(|error| error.message().to_owned())?;
        let names: Vec<&str> = self.key.split('.').collect();
        self.put(document, &names, Spanned::new(self.value_at.clone(), value.into_inner()))
    }

    fn put<'i>(
        &'i self,
        table: &mut DeTable<'i>,
        names: &[&'i str],
        value: Spanned<DeValue<'i>>,
    ) -> Result<(), String> {
        let Some((&name, rest)) = names.split_first() else { return Ok(()) };
        let spanned = |value| Spanned::new(self.key_at.clone(), value);
        if !table.contains_key(name) {
            table.insert(Spanned::new(self.key_at.clone(), name.into()), spanned(DeValue::Table(DeTable::new())));
        }
        match table.get_mut(name) {
            Some(place) => self.put_at(place, rest, value),
            None => Ok(()),
        }
    }

    /// `names` is what is left of the key behind a place.
    fn put_at<'i>(
        &'i self,
        place: &mut Spanned<DeValue<'i>>,
        names: &[&'i str],
        value: Spanned<DeValue<'i>>,
    ) -> Result<(), String> {
        let Some((&number, rest)) = names.split_first() else {
            *place = value;
            return Ok(());
        };
        match place.get_mut() {
            DeValue::Table(table) => self.put(table, names, value),
            DeValue::Array(list) => {
                let n = list.len();
                match item(number, n).and_then(|at| list.get_mut(at)) {
                    Some(place) => self.put_at(place, rest, value),
                    None => Err(format!("`{}` requires the number of an item from 1 to {n}, got {number:?}", self.key)),
                }
            }
            _ => Err(format!("`{}` requires a table or a list in front of `.{number}`, got a value", self.key)),
        }
    }
}

/// The text of a configuration with other values for keys, and without a table.
///
/// # Errors
/// What is wrong with the text, or as [`crate::read::read_changed`] says it.
pub fn changed(text: &str, changes: &[Change], without: &str) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
    document.remove(without);
    for change in changes {
        let value: Value = change.value.parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
        let names: Vec<&str> = change.key.split('.').collect();
        set(document.as_table_mut(), &names, value).ok_or_else(|| format!("there is no place for `{}`", change.key))?;
    }
    Ok(document.to_string())
}

fn set(table: &mut dyn TableLike, names: &[&str], value: Value) -> Option<()> {
    let (name, rest) = names.split_first()?;
    let item = table.entry(name).or_insert_with(|| match rest {
        [] => Item::Value(value.clone()),
        _ => Item::Table(toml_edit::Table::new()),
    });
    set_in(item, rest, value)
}

fn set_in(place: &mut Item, names: &[&str], mut value: Value) -> Option<()> {
    match (place, names) {
        (place, []) => {
            if let Some(old) = place.as_value() {
                *value.decor_mut() = old.decor().clone();
            }
            *place = Item::Value(value);
            Some(())
        }
        (Item::ArrayOfTables(list), [number, rest @ ..]) => {
            let at = item(number, list.len())?;
            set(list.get_mut(at)?, rest, value)
        }
        (Item::Value(Value::Array(list)), [number, rest @ ..]) => {
            let at = item(number, list.len())?;
            let place = list.get_mut(at)?;
            match (rest, place) {
                ([], place) => {
                    *value.decor_mut() = place.decor().clone();
                    *place = value;
                    Some(())
                }
                (rest, Value::InlineTable(inner)) => set(inner, rest, value),
                _ => None,
            }
        }
        (place, names) => set(place.as_table_like_mut()?, names, value),
    }
}

/// The place of the item of a number that is counted from 1.
fn item(number: &str, n: usize) -> Option<usize> {
    number.parse::<usize>().ok()?.checked_sub(1).filter(|at| *at < n)
}
