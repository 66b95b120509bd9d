//! Whose a folder is: one process writes there at a time, over nothing that it reads, and a training goes on with what it began with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cotangent_data::DataError;
use cotangent_data::files::{FolderLock, write_text};
use cotangent_train::{Checkpoints, TrainError};
use toml_edit::{DocumentMut, TableLike};

use super::Run;
use crate::examples::{Set, Sets};
use crate::sections::Data;

/// The file with what the checkpoints beside it belong to: a line about the data, and the configuration.
const BEGUN: &str = "configuration.toml";

/// Files that a training writes.
const WRITTEN: [&str; 7] =
    ["model.safetensors", "report.html", "history.csv", "history.json", "curves.svg", "activations.svg", BEGUN];

/// What may be another when a training goes on: how long it takes, and where things are written.
const FREE: [&str; 3] = ["training.epochs", "output", "search"];

/// The longest value that a message shows.
const SHOWN: usize = 40;

impl Run {
    /// The right to write to the folder, in which no file that is read is in the place of one that is written.
    ///
    /// # Errors
    /// [`DataError::Locked`] if somebody else writes there; a folder, or a file that this run reads, in the place of a result.
    pub(super) fn taken(&self) -> Result<FolderLock, TrainError> {
        let folder = self.folder();
        let io = |source| DataError::Io { path: folder.clone(), action: "make", source };
        fs::create_dir_all(&folder).map_err(io)?;
        let lock = FolderLock::new(&folder)?;
        for path in WRITTEN.map(|name| folder.join(name)) {
            let refused = |got: &str| TrainError::Invalid {
                of: path.display().to_string(),
                required: "a place where a training can write a result".to_owned(),
                got: format!("{got}; give the run another folder by `output.folder`"),
            };
            if path.is_dir() {
                return Err(refused("a folder"));
            }
            let own = path.canonicalize().ok();
            if own.is_some() && self.reads().into_iter().any(|read| read.canonicalize().ok() == own) {
                return Err(refused("a file that this run reads"));
            }
        }
        Ok(lock)
    }

    /// The files that are read.
    fn reads(&self) -> Vec<&Path> {
        let mut files: Vec<&Path> = match &self.config.data.value {
            Data::Idx(of) => {
                let tests = of.test_examples.iter().chain(&of.test_labels);
                [&of.examples, &of.labels].into_iter().chain(tests).map(PathBuf::as_path).collect()
            }
            Data::Npz(of) => [&of.file].into_iter().chain(&of.test).map(PathBuf::as_path).collect(),
            Data::Csv(of) => [&of.file].into_iter().chain(&of.test).map(PathBuf::as_path).collect(),
            Data::Mnist(_) | Data::Cifar(_) | Data::Images(_) => Vec::new(),
        };
        files.push(&self.path);
        files
    }

    /// Writes down what a training begins with; or, where there are checkpoints, compares it with what those began with.
    ///
    /// # Errors
    /// What is another now.
    pub(super) fn begun(&self, sets: &Sets) -> Result<(), TrainError> {
        let path = self.folder().join(BEGUN);
        let data = format!("# training data {:016x}", fingerprint(&sets.train));
        let known = fs::read_to_string(&path).ok();
        let goes_on = !Checkpoints::new(self.checkpoints()).paths()?.is_empty();
        let Some(before) = known.filter(|_| goes_on) else {
            return Ok(write_text(&path, &format!("{data}\n{}", self.text))?);
        };
        let mut changes = changes(&before, &self.text);
        if changes.is_empty() && before.lines().next() != Some(&data) {
            changes.push("other training data".to_owned());
        }
        if changes.is_empty() {
            return Ok(());
        }
        Err(TrainError::Invalid {
            of: self.path.display().to_string(),
            required: format!("what the training in {} began with, but for `training.epochs`", self.folder().display()),
            got: format!("{}; begin anew by `--fresh`, or give the run another folder", changes.join(", ")),
        })
    }
}

/// The keys whose values differ, with both.
fn changes(before: &str, now: &str) -> Vec<String> {
    let (before, now) = (leaves(before), leaves(now));
    let is_free = |key: &str| {
        FREE.iter().any(|free| key.strip_prefix(free).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let differs = |key: &&&String| before.get(**key) != now.get(**key) && !is_free(key);
    let text = |key: &&String| {
        let shown = |of: &BTreeMap<String, String>| of.get(*key).cloned().unwrap_or_else(|| "nothing".to_owned());
        let (old, new) = (shown(&before), shown(&now));
        match old.chars().count().max(new.chars().count()) <= SHOWN {
            true => format!("another `{key}` ({old} before, {new} now)"),
            false => format!("another `{key}`"),
        }
    };
    keys.iter().filter(differs).map(text).collect()
}

/// The values of a configuration by their keys with dots, without comments and spaces.
fn leaves(text: &str) -> BTreeMap<String, String> {
    fn walk(of: &dyn TableLike, prefix: &str, into: &mut BTreeMap<String, String>) {
        for (key, item) in of.iter() {
            let key = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
            match item.as_table_like() {
                Some(inner) => walk(inner, &key, into),
                None => {
                    let text =
                        item.as_value().map_or_else(String::new, |value| value.clone().decorated("", "").to_string());
                    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
                    into.insert(key, lines.collect::<Vec<_>>().join(" "));
                }
            }
        }
    }
    let mut into = BTreeMap::new();
    if let Ok(document) = text.parse::<DocumentMut>() {
        walk(document.as_table(), "", &mut into);
    }
    into
}

/// A number for the examples of a set, another where any of them is another: FNV-1a, word by word.
fn fingerprint(set: &Set) -> u64 {
    let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    let start = set.features().shape().iter().fold(0xcbf2_9ce4_8422_2325, |hash, &n| step(hash, n as u64));
    let features = set.features().iter().fold(start, |hash, v| step(hash, u64::from(v.to_bits())));
    match set {
        Set::Classes(of) => of.labels().iter().fold(features, |hash, &label| step(hash, label as u64)),
        Set::Numbers(of) => of.labels().iter().fold(features, |hash, v| step(hash, u64::from(v.to_bits()))),
    }
}

#[cfg(test)]
mod tests {
    use super::changes;

    #[test]
    fn changes_are_named_with_both_values() {
        let before = "seed = 1 # a\n[training]\nepochs = 2\nbatch_size = 32\n[optimizer]\nrate = 0.1\n";
        assert_eq!(
            changes(before, &before.replace("epochs = 2", "epochs = 9").replace(" # a", "")),
            Vec::<String>::new()
        );
        let now = before
            .replace("rate = 0.1", "rate = 0.5\nmomentum = 0.9")
            .replace("[training]", "[output]\nfolder = \"x\"\n[training]");
        let expected = [
            "another `optimizer.momentum` (nothing before, 0.9 now)",
            "another `optimizer.rate` (0.1 before, 0.5 now)",
        ];
        assert_eq!(changes(before, &now), expected);
        assert_eq!(changes("a = 1", &format!("a = {:?}", "x".repeat(50))), ["another `a`"]);
    }
}
