//! Values handed to whoever wants them by name: what fits, what is missing, what is left over.
//!
//! Why it exists: a value under a name that nobody has, and a name without a value, are mistakes that cost a training run if
//! nobody says so: a renamed layer starts anew, an optimiser's memory is forgotten. Everything that loads values compares them
//! here first. Promises: nothing has changed unless the comparison is passed; then exactly what it lists as taken has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use cotangent_exec::{Executable, StoreMut};
use cotangent_graph::Type;
use cotangent_graph::diag::nearest;
use cotangent_scalar::plain;

use super::{Value, fill};
use crate::TrainError;

/// What is done about values that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Load {
    /// It is an error, which lists them; nothing changes.
    #[default]
    Strict,
    /// Every name must get its value, otherwise it is an error, which lists them; values that nobody asks for are left out: a
    /// program that predicts takes a model from a checkpoint of its training, which has the optimiser's values too.
    Complete,
    /// What fits is taken. The rest of the values is left out, and the rest of the names stays as it is or starts anew.
    Fitting,
}

/// What became of values that were handed to names.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Loaded {
    /// Names whose values were taken, sorted.
    pub taken: Vec<String>,
    /// Names that there was no value for, in the order in which they are asked for.
    pub missing: Vec<String>,
    /// Values whose names nobody has, sorted: they were left out.
    pub unused: Vec<String>,
    /// Names whose values have another type, with the type that is required and the one that was given: they were left out.
    pub differ: Vec<(String, Type, Type)>,
}

impl Loaded {
    /// Whether every name got a value, and every value a name.
    pub fn is_exact(&self) -> bool {
        self.is_complete() && self.unused.is_empty()
    }

    /// Whether every name got a value.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.differ.is_empty()
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More names of a kind are counted.
        const SHOWN: usize = 12;
        /// Longer names are compared with nothing.
        const MOST: usize = 64;
        let rest = |f: &mut fmt::Formatter<'_>, n: usize| match n.checked_sub(SHOWN) {
            Some(more @ 1..) => write!(f, "\n  and {more} more"),
            _ => Ok(()),
        };
        let near = |name: &str, others: &[String]| {
            let others = others.iter().map(String::as_str).filter(|other| other.len() <= MOST);
            let near = nearest(name, others).filter(|_| name.len() <= MOST)?;
            Some(plain(near).to_string())
        };
        for name in self.missing.iter().take(SHOWN) {
            write!(f, "\n  missing: `{}`", plain(name))?;
            if let Some(near) = near(name, &self.unused) {
                write!(f, " (there is `{near}`)")?;
            }
        }
        rest(f, self.missing.len())?;
        for name in self.unused.iter().take(SHOWN) {
            write!(f, "\n  not asked for: `{}`", plain(name))?;
            if let Some(near) = near(name, &self.missing) {
                write!(f, " (asked for is `{near}`)")?;
            }
        }
        rest(f, self.unused.len())?;
        for (name, required, got) in self.differ.iter().take(SHOWN) {
            write!(f, "\n  of another type: `{}` requires {required}, got {got}", plain(name))?;
        }
        rest(f, self.differ.len())
    }
}

/// Who wants values: names with their types, in order, and whether they must have one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    names: Vec<(String, Type, bool)>,
    places: HashMap<String, usize>,
}

impl Wanted {
    /// These names too; one that must have a value once must have one.
    pub(crate) fn add<'a>(&mut self, names: impl IntoIterator<Item = (&'a str, &'a Type)>, must: bool) {
        for (name, ty) in names {
            match self.places.get(name) {
                Some(&at) => self.names[at].2 |= must,
                None => {
                    self.places.insert(name.to_owned(), self.names.len());
                    self.names.push((name.to_owned(), ty.clone(), must));
                }
            }
        }
    }

    /// Holds the types of values against those wanted; the values of some names are nobody's business.
    pub(crate) fn compare(&self, given: &BTreeMap<&str, Type>, others: &BTreeSet<String>) -> Loaded {
        let mut loaded = Loaded::default();
        for (name, required, must) in &self.names {
            match given.get(name.as_str()) {
                Some(got) if got == required => loaded.taken.push(name.clone()),
                Some(got) => loaded.differ.push((name.clone(), required.clone(), got.clone())),
                None if *must => loaded.missing.push(name.clone()),
                None => {}
            }
        }
        loaded.taken.sort_unstable();
        let is_unused = |name: &&&str| !self.places.contains_key(**name) && !others.contains(**name);
        loaded.unused = given.keys().filter(is_unused).map(|name| (*name).to_owned()).collect();
        loaded
    }

    /// Hands values to a store, if they fit or need not.
    fn load<V: Value>(
        &self,
        values: &BTreeMap<String, V>,
        how: Load,
        store: &mut StoreMut<'_>,
    ) -> Result<Loaded, TrainError> {
        let loaded = check(self.compare(&types_of(values), &BTreeSet::new()), how, "values")?;
        fill(values, &loaded.taken, store)?;
        Ok(loaded)
    }
}

/// The error of values that do not fit, if they must.
pub(crate) fn check(loaded: Loaded, how: Load, of: impl Into<String>) -> Result<Loaded, TrainError> {
    match how {
        Load::Strict if !loaded.is_exact() => Err(TrainError::Differs { of: of.into(), loaded: Box::new(loaded) }),
        Load::Complete if !loaded.is_complete() => {
            // What nobody asks for is no mistake here, so it is not listed.
            let loaded = Loaded { unused: Vec::new(), ..loaded };
            Err(TrainError::Differs { of: of.into(), loaded: Box::new(loaded) })
        }
        _ => Ok(loaded),
    }
}

/// The types of values.
pub(crate) fn types_of<V: Value>(values: &BTreeMap<String, V>) -> BTreeMap<&str, Type> {
    values.iter().map(|(name, value)| (name.as_str(), value.ty())).collect()
}

/// Hands values to a store, whose names and types say what is wanted: for a session,
/// `load(&values, Load::Strict, session.store_mut())` once its programs are loaded. Values of a file
/// ([`Archive::tensors`](cotangent_data::safetensors::Archive)) are read into memory of the store's, beside the old ones until all are
/// there; [`load_for`] needs no room for old ones.
///
/// ```
/// use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
/// use cotangent_graph::{DType::F32, Init, build};
/// use cotangent_train::checkpoint::{Load, load, tensors_of};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let graph = build(|g| g.output("y", g.param("w", F32, [2], Init::ONES) * 2.0))?;
/// let runtime = Runtime::new(Threads::Exactly(1));
/// let mut session = Session::new(&runtime, Compiler::new().compile(&graph)?, Seed(0))?;
/// let values = tensors_of(session.store(), ["w"])?;
/// assert_eq!(load(&values, Load::Strict, session.store_mut())?.taken, ["w"]);
///
/// let renamed = [("v".to_owned(), values["w"].clone())].into();
/// assert!(load(&renamed, Load::Strict, session.store_mut()).is_err());
/// assert!(load(&renamed, Load::Complete, session.store_mut()).is_err());
/// assert_eq!(load(&renamed, Load::Fitting, session.store_mut())?.missing, ["w"]);
/// let both = values.into_iter().chain(renamed).collect();
/// assert_eq!(load(&both, Load::Complete, session.store_mut())?.unused, ["v"]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`TrainError::Differs`] if they do not fit and must, [`TrainError::Data`] if a file cannot be read, `E0309` if there is no memory for
/// them; nothing has changed then.
pub fn load<'s, V: Value>(
    values: &BTreeMap<String, V>,
    how: Load,
    store: impl Into<StoreMut<'s>>,
) -> Result<Loaded, TrainError> {
    let mut store = store.into();
    let mut wanted = Wanted::default();
    wanted.add(store.iter(), true);
    wanted.load(values, how, &mut store)
}

/// Hands values to a store that a session of a program is yet to be made with: the program's parameters and states say what is wanted.
/// What is read from a file is in memory once.
///
/// ```
/// use cotangent_data::safetensors::{Archive, SafeTensors};
/// use cotangent_exec::{Compiler, Runtime, Seed, Session, Store, Threads};
/// use cotangent_graph::{DType::F32, Init, build};
/// use cotangent_train::checkpoint::{Load, load_for};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = std::env::temp_dir().join(format!("cotangent-load-for-{}.safetensors", std::process::id()));
/// # let tensors = [("w".to_owned(), vec![2f32, 3.0].into())].into();
/// # SafeTensors { tensors, ..SafeTensors::default() }.write(&path)?;
/// let graph = build(|g| g.output("y", g.param("w", F32, [2], Init::ONES) * 2.0))?;
/// let program = Compiler::new().compile(&graph)?;
/// let mut store = Store::new(Seed(0));
/// load_for(&Archive::open(&path)?.tensors, Load::Strict, &program, &mut store)?;
/// let mut session = Session::with_store(&Runtime::new(Threads::Exactly(1)), program, store)?;
/// assert_eq!(session.step(())?.view::<f32>("y")?[1], 6.0);
/// # std::fs::remove_file(&path)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`load`]; also `E0302` if the store has a value of another type. Nothing has changed then.
pub fn load_for<'s, V: Value>(
    values: &BTreeMap<String, V>,
    how: Load,
    program: &Executable,
    store: impl Into<StoreMut<'s>>,
) -> Result<Loaded, TrainError> {
    let mut wanted = Wanted::default();
    wanted.add(program.stored(), true);
    wanted.load(values, how, &mut store.into())
}
