//! A model in several files, which tools of PyTorch write beside an index of them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::archive::MAX_HEADER;
use super::source::Source;
use super::unread::Unread;
use super::{Archive, clipped, label};
use crate::DataError;
use crate::reading::Kind;

/// The index in a folder.
const INDEX: &str = "model.safetensors.index.json";

/// Tensors with the names of their files.
type Merged = BTreeMap<String, (String, Unread<'static>)>;

impl Archive<'static> {
    /// Opens a model in several files. The path is that of an index, as `model.safetensors.index.json`, which lists tensors with the
    /// names of files beside it; or that of a folder, which has such an index, or whose files `*.safetensors` are taken as
    /// they are. The metadata is that of the index, but for what is no text; without an index there is none.
    ///
    /// # Errors
    /// As [`Archive::open`]; [`DataError::Malformed`] if the index is not one, names a file that is not beside it, lists a tensor twice or
    /// other tensors than the files have, or if a tensor is in two files; [`DataError::Missing`] for a folder without such files.
    pub fn open_shards(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        if !fs::metadata(path).is_ok_and(|metadata| Kind::of(&metadata) == Kind::Folder) {
            return of_index(path);
        }
        let index = path.join(INDEX);
        match index.exists() {
            true => of_index(&index),
            false => of_folder(path),
        }
    }
}

/// The index. Names that come twice are kept.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    metadata: Map<String, Value>,
    weight_map: Pairs,
}

/// The entries of a map of texts, in order.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names of files by names of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn of_index(path: &Path) -> Result<Archive<'static>, DataError> {
    let source = Source::open(path)?;
    let wrong = |required: String, got: String| source.malformed("index", required, got);
    if source.n_bytes > MAX_HEADER {
        return Err(wrong(format!("at most {MAX_HEADER} bytes"), source.n_bytes.to_string()));
    }
    let Index { metadata, weight_map } = serde_json::from_slice(&source.bytes(source.n_bytes, 0, "index")?)
        .map_err(|error| wrong("a JSON object with `weight_map`".to_owned(), clipped(&error.to_string())))?;
    let mut listed: BTreeMap<String, String> = BTreeMap::new();
    for (tensor, file) in weight_map.0 {
        // A path out of the folder is not the index's to name.
        if Path::new(&file).file_name() != Some(file.as_ref()) {
            return Err(wrong("names of files beside it".to_owned(), format!("{:?}", clipped(&file))));
        }
        if let Some(other) = listed.get(&tensor) {
            return Err(wrong("each tensor once".to_owned(), twice(&tensor, other, &file)));
        }
        listed.insert(tensor, file);
    }
    let mut files: Vec<&String> = listed.values().collect();
    files.sort_unstable();
    files.dedup();
    let mut merged = Merged::new();
    files.into_iter().try_for_each(|file| merge(&mut merged, path, file))?;
    let as_it_has_them = |file: &str| format!("the tensors of {:?} as the file has them", clipped(file));
    for (tensor, file) in &listed {
        let got = match merged.get(tensor) {
            Some((other, _)) if other == file => continue,
            Some((other, _)) => format!("{} in {:?} instead", label(tensor), clipped(other)),
            None => format!("{} in one of the two only", label(tensor)),
        };
        return Err(wrong(as_it_has_them(file), got));
    }
    if let Some((tensor, (file, _))) = merged.iter().find(|(tensor, _)| !listed.contains_key(*tensor)) {
        return Err(wrong(as_it_has_them(file), format!("{} in one of the two only", label(tensor))));
    }
    let text = |(key, value): (String, Value)| Some((key, value.as_str()?.to_owned()));
    Ok(archive(metadata.into_iter().filter_map(text).collect(), merged))
}

fn of_folder(folder: &Path) -> Result<Archive<'static>, DataError> {
    let failed = |source| DataError::io(folder, "read", source);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") {
            files.push(name);
        }
    }
    if files.is_empty() {
        let fix = "name an index, or a folder that has one or files that end in `.safetensors`".to_owned();
        return Err(DataError::Missing { path: folder.join(INDEX), fix });
    }
    files.sort_unstable();
    let mut merged = Merged::new();
    files.iter().try_for_each(|file| merge(&mut merged, &folder.join(INDEX), file))?;
    Ok(archive(BTreeMap::new(), merged))
}

/// Adds the tensors of a file beside an index, of which there are none yet.
fn merge(merged: &mut Merged, index: &Path, file: &str) -> Result<(), DataError> {
    let path = index.with_file_name(file);
    for (tensor, unread) in Archive::open(&path)?.tensors {
        if let Some((other, _)) = merged.get(&tensor) {
            return Err(DataError::Malformed {
                name: path.display().to_string(),
                part: "header",
                required: "tensors that no other file of the model has".to_owned(),
                got: twice(&tensor, other, file),
                fix: "fetch the files again, or open the one that is meant".to_owned(),
            });
        }
        merged.insert(tensor, (file.to_owned(), unread));
    }
    Ok(())
}

fn twice(tensor: &str, first: &str, second: &str) -> String {
    format!("{} in {:?} and in {:?}", label(tensor), clipped(first), clipped(second))
}

fn archive(metadata: BTreeMap<String, String>, merged: Merged) -> Archive<'static> {
    Archive { metadata, tensors: merged.into_iter().map(|(tensor, (_, unread))| (tensor, unread)).collect() }
}
