//! What configurations are made of: sections of keys, each defined in one place.
//!
//! Why it exists: the reader, its error messages and the reference page must say the same. A key is a line in one of the macros
//! below: its name, type, default, range and meaning. The struct that the program uses, the reader and the page follow from it.
//!
//! | macro | what it defines |
//! |---|---|
//! | `section!` | a table of keys, as a struct |
//! | `kinds!` | a table whose key `kind` says which section it is, as an enum of sections |
//! | `choice!` | one of some texts, as an enum |

use std::path::PathBuf;

use cotangent_scalar::plain;
use toml::Spanned;
use toml::de::{DeString, DeValue};

use crate::read::Reader;

/// What is known of a key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub doc: Doc,
    /// Which numbers it takes.
    pub range: Range,
    /// The text of its default; `None` if it must be given.
    pub default: Option<String>,
    /// What it means.
    pub about: &'static str,
}

/// What values are.
#[derive(Clone, Debug)]
pub enum Doc {
    /// A plain value, in words.
    Plain(String),
    /// One of some texts, with their meanings.
    Choice(Vec<(&'static str, &'static str)>),
    /// A table.
    Section(&'static str, Vec<Key>),
    /// A table of a kind: what all are, and each kind with its meaning and keys.
    Kinds(&'static str, Vec<(&'static str, &'static str, Vec<Key>)>),
    /// Several of them.
    List(Box<Doc>),
    /// A table whose keys are not known before, with what their values are.
    Map(Box<Doc>),
}

impl Doc {
    /// What is required, in words.
    pub fn required(&self) -> String {
        match self {
            Doc::Plain(text) => text.clone(),
            Doc::Choice(choices) => {
                let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                format!("one of {}", names.join(", "))
            }
            Doc::Section(..) | Doc::Kinds(..) | Doc::Map(_) => "a table".to_owned(),
            Doc::List(of) => match &**of {
                Doc::Plain(text) => format!("a list, each {text}"),
                Doc::Section(..) | Doc::Kinds(..) => "a list of tables".to_owned(),
                other => format!("a list, each {}", other.required()),
            },
        }
    }
}

/// Which numbers a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// All that its type holds.
    Any,
    /// This or more.
    AtLeast(f64),
    /// More than zero.
    Positive,
    /// From 0 to 1, both included.
    Unit,
    /// From 0 on, below 1.
    Share,
}

impl Range {
    /// Whether a number is in it.
    pub fn has(self, number: f64) -> bool {
        match self {
            Range::Any => true,
            Range::AtLeast(least) => number >= least,
            Range::Positive => number > 0.0,
            Range::Unit => (0.0..=1.0).contains(&number),
            Range::Share => (0.0..1.0).contains(&number),
        }
    }

    /// In words, behind what the value is.
    pub fn text(self) -> String {
        match self {
            Range::Any => String::new(),
            Range::AtLeast(least) => format!(", at least {least}"),
            Range::Positive => ", more than 0".to_owned(),
            Range::Unit => " from 0 to 1".to_owned(),
            Range::Share => " from 0 on, below 1".to_owned(),
        }
    }
}

/// What can be the value of a key.
pub trait Setting: Sized {
    /// What its values are.
    fn doc() -> Doc;

    /// The value of a TOML value, or a problem that the reader was told of. `what` names it in messages.
    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, what: &str) -> Option<Self>;

    /// What stands for a key of this type that is not given, if it need not be.
    fn preset() -> Option<Self> {
        None
    }

    /// The numbers in it.
    fn numbers(&self) -> Vec<f64> {
        Vec::new()
    }

    /// As TOML, where it is one value.
    fn text(&self) -> String {
        String::new()
    }
}

/// A table of keys.
pub trait Section: Sized {
    /// What it is.
    const ABOUT: &'static str;

    /// Its keys in order.
    fn keys() -> Vec<Key>;

    /// Reads the keys of a table that were not taken yet.
    fn of(record: &mut crate::read::Record<'_, '_>) -> Option<Self>;

    /// The section of which nothing is given, if no key must be.
    fn standard() -> Option<Self>;
}

macro_rules! preset {
    ($ty:ty) => {
        <$ty as $crate::schema::Setting>::preset()
    };
    ($ty:ty, $default:expr) => {{
        let value: $ty = $default;
        Some(value)
    }};
}

macro_rules! range {
    () => {
        $crate::schema::Range::Any
    };
    ($range:expr) => {
        $range
    };
}

/// Defines a [`Section`].
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $ty:ty $(= $default:expr)? $(=> $range:expr)?,)*
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[doc = $doc])+ pub $key: $ty,)*
        }

        impl $crate::schema::Section for $name {
            const ABOUT: &'static str = concat!($($about),+);

            fn keys() -> Vec<$crate::schema::Key> {
                vec![$($crate::schema::Key {
                    name: stringify!($key),
                    doc: <$ty as $crate::schema::Setting>::doc(),
                    range: $crate::schema::range!($($range)?),
                    default: $crate::schema::preset!($ty $(, $default)?)
                        .map(|value: $ty| $crate::schema::Setting::text(&value)),
                    about: concat!($($doc),+),
                },)*]
            }

            fn of(record: &mut $crate::read::Record<'_, '_>) -> Option<Self> {
                // All are read before any is missed, so that all mistakes are told at once.
                $(let $key: Option<$ty> = record.take(
                    stringify!($key),
                    $crate::schema::range!($($range)?),
                    || $crate::schema::preset!($ty $(, $default)?),
                );)*
                record.finish(&[$(stringify!($key)),*])?;
                Some($name { $($key: $key?),* })
            }

            fn standard() -> Option<Self> {
                Some($name { $($key: $crate::schema::preset!($ty $(, $default)?)?),* })
            }
        }

        impl $crate::schema::Setting for $name {
            fn doc() -> $crate::schema::Doc {
                use $crate::schema::Section;
                $crate::schema::Doc::Section(<$name>::ABOUT, <$name>::keys())
            }

            fn read(
                reader: &$crate::read::Reader<'_>,
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                what: &str,
            ) -> Option<Self> {
                <$name as $crate::schema::Section>::of(&mut reader.record(value, what)?)
            }

            fn preset() -> Option<Self> {
                <$name as $crate::schema::Section>::standard()
            }
        }
    };
}

/// Defines an enum of sections, told apart by the key `kind`.
macro_rules! kinds {
    ($(#[doc = $about:literal])+ $name:ident { $($variant:ident = $kind:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum $name {
            $(#[doc = concat!("Kind `", $kind, "`.")] $variant($variant),)+
        }

        impl $name {
            /// Its kind, as configurations spell it.
            pub fn kind(&self) -> &'static str {
                match self { $($name::$variant(_) => $kind,)+ }
            }
        }

        impl $crate::schema::Setting for $name {
            fn doc() -> $crate::schema::Doc {
                use $crate::schema::Section;
                let kinds = vec![$(($kind, <$variant>::ABOUT, <$variant>::keys())),+];
                $crate::schema::Doc::Kinds(concat!($($about),+), kinds)
            }

            fn read(
                reader: &$crate::read::Reader<'_>,
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                what: &str,
            ) -> Option<Self> {
                let mut record = reader.record(value, what)?;
                match record.kind(&[$($kind),+])? {
                    $($kind => <$variant as $crate::schema::Section>::of(&mut record).map($name::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

/// Defines an enum of texts.
macro_rules! choice {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $crate::schema::Setting for $name {
            fn doc() -> $crate::schema::Doc {
                $crate::schema::Doc::Choice(vec![$(($text, concat!($($doc),+))),+])
            }

            fn read(
                reader: &$crate::read::Reader<'_>,
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                what: &str,
            ) -> Option<Self> {
                match reader.choice(value, what, &[$($text),+], &Self::doc())? {
                    $($text => Some($name::$variant),)+
                    _ => None,
                }
            }

            fn text(&self) -> String {
                match self { $($name::$variant => concat!("\"", $text, "\"").to_owned(),)+ }
            }
        }
    };
}

pub(crate) use {choice, kinds, preset, range, section};

macro_rules! plain {
    ($($ty:ty, $what:literal, $value:ident => $read:expr, $shown:ident => $text:expr, $numbers:expr;)*) => {
        $(impl Setting for $ty {
            fn doc() -> Doc {
                Doc::Plain($what.to_owned())
            }

            fn read(reader: &Reader<'_>, given: &Spanned<DeValue<'_>>, what: &str) -> Option<Self> {
                let $value = given.get_ref();
                let read: Option<$ty> = $read;
                if read.is_none() {
                    reader.wrong(given, what, $what);
                }
                read
            }

            fn numbers(&self) -> Vec<f64> {
                let $shown = self;
                let _ = $shown;
                $numbers
            }

            fn text(&self) -> String {
                let $shown = self;
                $text
            }
        })*
    };
}

plain! {
    bool, "true or false", v => v.as_bool(), b => b.to_string(), Vec::new();
    f64, "a number", v => number(v), x => x.to_string(), vec![*x];
    usize, "a whole number", v => whole(v), n => n.to_string(), vec![*n as f64];
    u64, "a whole number", v => whole(v), n => n.to_string(), vec![*n as f64];
    i64, "a whole number", v => whole(v), n => n.to_string(), vec![*n as f64];
    String, "a text", v => v.as_str().map(str::to_owned), s => format!("{s:?}"), Vec::new();
}

impl Setting for PathBuf {
    fn doc() -> Doc {
        Doc::Plain("a path".to_owned())
    }

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, what: &str) -> Option<Self> {
        match value.get_ref().as_str() {
            Some(path) if !path.is_empty() => Some(reader.path(path)),
            _ => {
                reader.wrong(value, what, "a path");
                None
            }
        }
    }

    fn text(&self) -> String {
        format!("{:?}", self.display().to_string())
    }
}

impl<T: Setting> Setting for Option<T> {
    fn doc() -> Doc {
        T::doc()
    }

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, what: &str) -> Option<Self> {
        T::read(reader, value, what).map(Some)
    }

    fn preset() -> Option<Self> {
        Some(None)
    }

    fn numbers(&self) -> Vec<f64> {
        self.as_ref().map(T::numbers).unwrap_or_default()
    }

    fn text(&self) -> String {
        self.as_ref().map(T::text).unwrap_or_default()
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn doc() -> Doc {
        Doc::List(Box::new(T::doc()))
    }

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, what: &str) -> Option<Self> {
        let Some(items) = value.get_ref().as_array() else {
            reader.wrong(value, what, &Self::doc().required());
            return None;
        };
        // All are read before any is missed.
        let read: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(at, item)| T::read(reader, item, &format!("{what}, number {}", at + 1)))
            .collect();
        read.into_iter().collect()
    }

    fn numbers(&self) -> Vec<f64> {
        self.iter().flat_map(T::numbers).collect()
    }

    fn text(&self) -> String {
        format!("[{}]", self.iter().map(T::text).collect::<Vec<_>>().join(", "))
    }
}

/// From one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Between<T>(pub T, pub T);

impl<T: Setting + Copy> Setting for Between<T> {
    fn doc() -> Doc {
        Doc::Plain(format!("a list of two, each {}", T::doc().required()))
    }

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, what: &str) -> Option<Self> {
        match value.get_ref().as_array() {
            Some(items) if items.len() == 2 => match Vec::<T>::read(reader, value, what)?[..] {
                [from, to] => Some(Between(from, to)),
                _ => None,
            },
            _ => {
                reader.wrong(value, what, &Self::doc().required());
                None
            }
        }
    }
}

/// A value that is no table and no list, as TOML.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar(pub String);

impl Setting for Scalar {
    fn doc() -> Doc {
        Doc::Plain("a text, a number, true or false".to_owned())
    }

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, what: &str) -> Option<Self> {
        match value.get_ref() {
            DeValue::Array(_) | DeValue::Table(_) | DeValue::Datetime(_) => {
                reader.wrong(value, what, &Self::doc().required());
                None
            }
            DeValue::String(text) => Some(Scalar(toml_edit::Value::from(text.as_ref()).to_string())),
            DeValue::Integer(number) => Some(Scalar(number.to_string())),
            DeValue::Float(number) => Some(Scalar(number.to_string())),
            DeValue::Boolean(truth) => Some(Scalar(truth.to_string())),
        }
    }
}

impl<T: Setting> Setting for Spanned<T> {
    fn doc() -> Doc {
        T::doc()
    }

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, what: &str) -> Option<Self> {
        T::read(reader, value, what).map(|read| Spanned::new(value.span(), read))
    }
}

/// The entries of a table whose keys are not known before, with their places in the text, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Entries<T>(pub Vec<(Spanned<String>, Spanned<T>)>);

impl<T: Setting> Setting for Entries<T> {
    fn doc() -> Doc {
        Doc::Map(Box::new(T::doc()))
    }

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, what: &str) -> Option<Self> {
        let Some(table) = value.get_ref().as_table() else {
            reader.wrong(value, what, "a table");
            return None;
        };
        let entry = |(key, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| {
            let read = Spanned::read(reader, value, &format!("`{}` of {what}", plain(key.get_ref())))?;
            Some((Spanned::new(key.span(), key.get_ref().to_string()), read))
        };
        // All are read before any is missed.
        let read: Vec<Option<_>> = table.iter().map(entry).collect();
        read.into_iter().collect::<Option<_>>().map(Entries)
    }
}

/// A value with its place, for what is found wrong later.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: cotangent_graph::Loc,
}

impl<T: Setting> Setting for Placed<T> {
    fn doc() -> Doc {
        T::doc()
    }

    fn read(reader: &Reader<'_>, value: &Spanned<DeValue<'_>>, what: &str) -> Option<Self> {
        let at = reader.loc(value.span().start);
        T::read(reader, value, what).map(|value| Placed { value, at })
    }

    fn preset() -> Option<Self> {
        T::preset().map(|value| Placed { value, at: cotangent_graph::Loc::Internal })
    }

    fn numbers(&self) -> Vec<f64> {
        self.value.numbers()
    }

    fn text(&self) -> String {
        self.value.text()
    }
}

/// A finite number; whole ones count.
fn number(value: &DeValue<'_>) -> Option<f64> {
    let number = match value {
        DeValue::Float(float) => float.as_str().replace('_', "").parse().ok()?,
        DeValue::Integer(_) => whole::<i64>(value)? as f64,
        _ => return None,
    };
    f64::is_finite(number).then_some(number)
}

/// A whole number that the type holds.
fn whole<T: TryFrom<i128>>(value: &DeValue<'_>) -> Option<T> {
    let integer = value.as_integer()?;
    let digits = integer.as_str().replace('_', "");
    T::try_from(i128::from_str_radix(&digits, integer.radix()).ok()?).ok()
}
