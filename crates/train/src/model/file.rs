//! Model files: what is written, and everything that is checked before a model is made of what is read.

use std::collections::{BTreeMap, BTreeSet};

use cotangent_data::Field;
use cotangent_data::safetensors::{Archive, SafeTensors};
use cotangent_exec::Runtime;
use cotangent_graph::verify::{Stage, verify};
use cotangent_graph::{Graph, Registry, Role, text};
use cotangent_host::float::in_default;

use super::{About, Form, Model, PROBABILITIES, classifies, fields_of, outputs_of, stored_of};
use crate::TrainError;
use crate::checkpoint::sealed::Sealed;
use crate::checkpoint::{Wanted, types_of};

const FILE: Sealed = Sealed {
    format: "cotangent model",
    version: 1,
    if_damaged: "export the model again",
    if_newer: "use the version that wrote it",
};
const GRAPH: &str = "graph.";
const ABOUT: &str = "about";
const MADE_BY: &str = "made by";

/// The file of a model.
pub(super) fn of(model: &Model) -> Result<SafeTensors, TrainError> {
    let mut metadata: BTreeMap<String, String> = BTreeMap::new();
    for program in &model.programs {
        metadata.insert(format!("{GRAPH}{}", program.rows), program.graph.to_string());
    }
    metadata.insert(ABOUT.to_owned(), serde_json::to_string(&model.interface.about).unwrap_or_default());
    metadata.insert(MADE_BY.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    Ok(FILE.seal(metadata, model.weights()?))
}

/// The model of a file, which errors call `name`.
pub(super) fn opened(file: Archive<'_>, name: &str, runtime: &Runtime) -> Result<Model, TrainError> {
    FILE.check_format(&file.metadata, name)?;
    let unchanged = FILE.check_header(&file, name);
    let (about, graphs) = match parts(&file, name) {
        Ok(parts) => parts,
        // What damage has made of a part is of no interest.
        Err(error) => return Err(unchanged.map_or_else(Into::into, |()| error)),
    };
    // A weight that was renamed says more than that something was changed.
    let mut wanted = Wanted::default();
    graphs.iter().for_each(|(_, graph)| wanted.add(stored_of(graph), true));
    let loaded = wanted.compare(&types_of(&file.tensors), &BTreeSet::new());
    if !loaded.is_exact() {
        return Err(TrainError::invalid(name, "the values that its graph asks for", format!("others:{loaded}")));
    }
    unchanged?;
    check_parts(&about, &graphs, name)?;
    Model::new(about, graphs, &FILE.saved(&file.metadata, file.tensors), runtime)
}

/// The texts of a file as what they stand for.
fn parts(file: &Archive<'_>, name: &str) -> Result<(About, Vec<(usize, Graph)>), TrainError> {
    let mut graphs = Vec::new();
    for (key, text) in &file.metadata {
        let Some(rows) = key.strip_prefix(GRAPH) else { continue };
        let Ok(rows) = rows.parse::<usize>() else {
            return Err(TrainError::invalid(format!("{name}: {key}"), "a number of rows", rows));
        };
        let graph = in_default(|| text::parse(text, &format!("{name}: {key}"), &Registry::builtin()))?;
        graphs.push((rows, graph));
    }
    graphs.sort_by_key(|(rows, _)| *rows);
    if graphs.is_empty() {
        return Err(TrainError::invalid(name, "a graph", "none"));
    }
    let about = file.metadata.get(ABOUT).map(String::as_str).unwrap_or_default();
    let about = serde_json::from_str(about)
        .map_err(|error| TrainError::invalid(format!("{name}: {ABOUT}"), "forms, labels and notes in JSON", error))?;
    Ok((about, graphs))
}

/// That graphs are well formed, compute and change nothing else, fit each other, and what is said about them.
pub(super) fn check_parts(about: &About, graphs: &[(usize, Graph)], name: &str) -> Result<(), TrainError> {
    let Some((_, first)) = graphs.first() else {
        return Err(TrainError::invalid(name, "a graph", "none"));
    };
    for (rows, graph) in graphs {
        let of = format!("{name}: graph of {rows} rows");
        let wrong = |required: &str, got: String| Err(TrainError::invalid(&*of, required, got));
        if *rows < 2 {
            return wrong("at least 2 rows", rows.to_string());
        }
        if let Some(error) = verify(graph, Stage::Source).into_iter().next() {
            return wrong("a graph that is well formed", error);
        }
        if let Some(output) = graph.outputs().iter().find(|output| !matches!(output.role, Role::Result)) {
            return wrong("results only", format!("an update of `{}`", output.name));
        }
        let types = graph.inputs().filter_map(|(_, node)| Some((node.name()?, &node.ty)));
        let results = graph.outputs().iter().map(|output| (&*output.name, graph.ty(output.value)));
        for (what, ty) in types.chain(results) {
            if ty.as_tensor().is_none_or(|(_, shape)| shape.first() != Some(rows)) {
                return wrong(&format!("`{what}` with a row for each example, [{rows}, ..]"), ty.to_string());
            }
        }
        let parts = |graph| (fields_of(graph), outputs_of(graph), format!("{:?}", stored_of(graph)));
        if parts(graph) != parts(first) {
            return wrong("inputs, outputs and values of the first graph", "others".to_owned());
        }
    }
    let (fields, outputs) = (fields_of(first), outputs_of(first));
    if !about.labels.is_empty() && classifies(&outputs, about.labels.len()).is_none() {
        let n = about.labels.len();
        let required = format!("{n} logits for {n} labels, or one for two, as the output `outputs`");
        let shapes: Vec<String> = outputs.iter().map(|(name, dtype, row)| format!("{name}: {dtype} {row:?}")).collect();
        return Err(TrainError::invalid(name, required, shapes.join(", ")));
    }
    let has_probabilities = outputs.iter().any(|(output, ..)| output == PROBABILITIES);
    if !about.labels.is_empty() && !has_probabilities {
        return Err(TrainError::invalid(name, format!("an output `{PROBABILITIES}` beside labels"), "none"));
    }
    let row = |field: &Field| format!("{}: {} {:?}", field.name, field.dtype, field.shape);
    let rows = |fields: &[Field]| fields.iter().map(row).collect::<Vec<_>>().join(", ");
    let is_fine = match &about.form {
        Form::Arrays => true,
        Form::Pictures => fields.iter().any(|f| f.name == "x" && matches!(f.shape[..], [_, _] | [_, _, 1 | 3])),
        Form::Table(reader) => {
            let made = reader.fields();
            made.len() == fields.len() && fields.iter().all(|field| made.contains(field))
        }
    };
    if !is_fine {
        let required = match &about.form {
            Form::Table(reader) => format!("the fields that its table has, {}", rows(&reader.fields())),
            _ => "pictures `x`, [height, width] or with 1 or 3 channels".to_owned(),
        };
        return Err(TrainError::invalid(format!("{name}: inputs"), required, rows(&fields)));
    }
    Ok(())
}
