//! From a trained net to a [`Model`]: what is put around the net, and its graphs for several numbers of rows.

use std::collections::BTreeSet;
use std::fmt;

use cotangent_data::safetensors::Tensors;
use cotangent_data::{Examples, Field, Standardizer};
use cotangent_exec::Runtime;
use cotangent_graph::DType::{F32, F64};
use cotangent_graph::{Graph, GraphBuilder, Init, Loc, Origin, Tensor, build};
use cotangent_scalar::DType;

use super::{About, Decision, Form, Model, PROBABILITIES, ROWS, classifies, file};
use crate::TrainError;
use crate::checkpoint::{Load, Wanted, check, types_of};
use crate::named::{ByName, Named, Net, OUTPUTS};

/// What a [`Model`] is made of; see there.
pub struct Export<M> {
    net: M,
    fields: Vec<Field>,
    standardizers: Vec<(String, Standardizer)>,
    about: About,
    made_at: Loc,
}

impl<M> fmt::Debug for Export<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Export({:?})", self.about)
    }
}

impl<M: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>> Export<M> {
    /// A model of the field `x`, as [`Trainer::new`](crate::Trainer::new) takes it, for examples of these fields. None but those
    /// that the net asks for become inputs.
    #[track_caller]
    pub fn new(net: M, set: &impl Examples) -> Self {
        Export::of(net, set.fields())
    }
}

impl<F: for<'g> Fn(&'g GraphBuilder, &Named<'g>) -> Named<'g>> Export<ByName<F>> {
    /// A model of named fields, as [`Trainer::named`](crate::Trainer::named) takes it.
    #[track_caller]
    pub fn named(net: F, set: &impl Examples) -> Self {
        Export::of(ByName(net), set.fields())
    }
}

impl<M: Net> Export<M> {
    #[track_caller]
    fn of(net: M, fields: Vec<Field>) -> Self {
        Export { net, fields, standardizers: Vec::new(), about: About::default(), made_at: Loc::here() }
    }

    /// Has the program do with a field of f32 what [`Standardizer::apply`] does, bit for bit.
    pub fn standardized(mut self, field: &str, by: &Standardizer) -> Self {
        self.standardizers.push((field.to_owned(), by.clone()));
        self
    }

    /// Says what rows are made of, for whoever makes them of files.
    pub fn form(mut self, form: Form) -> Self {
        self.about.form = form;
        self
    }

    /// The names of the classes that `outputs` has logits of: as many as these, or one logit for the second of two. The model then
    /// has an output `probabilities` as well.
    pub fn labels<S: Into<String>>(mut self, labels: impl IntoIterator<Item = S>) -> Self {
        self.about.labels = labels.into_iter().map(Into::into).collect();
        self
    }

    /// A text that travels with the model.
    pub fn note(mut self, name: &str, text: &str) -> Self {
        self.about.notes.insert(name.to_owned(), text.to_owned());
        self
    }

    /// The model with weights, of which those that it does not ask for are left out.
    ///
    /// # Errors
    /// What is wrong with the net; [`TrainError::Differs`] if weights are missing or of another type; [`TrainError::Invalid`] if
    /// labels, forms or statistics do not fit, the net draws random numbers, or an output is not of a row for each example.
    pub fn model(self, runtime: &Runtime, weights: Tensors) -> Result<Model, TrainError> {
        let graphs = ROWS.iter().map(|&rows| Ok((rows, self.graph(rows)?)));
        let graphs: Vec<(usize, Graph)> = graphs.collect::<Result<_, TrainError>>()?;
        let mut weights = weights;
        self.standardizers.iter().for_each(|(field, by)| weights.extend(statistics(field, by)));
        let mut wanted = Wanted::default();
        graphs.iter().for_each(|(_, graph)| wanted.add(super::stored_of(graph), true));
        let loaded = wanted.compare(&types_of(&weights), &BTreeSet::new());
        let loaded = check(loaded, Load::Complete, "the weights of a model")?;
        weights.retain(|name, _| loaded.taken.binary_search(name).is_ok());
        file::check_parts(&self.about, &graphs, "model")?;
        Model::new(self.about, graphs, &weights, runtime)
    }

    fn graph(&self, rows: usize) -> Result<Graph, TrainError> {
        let origin = || Origin::at(self.made_at.clone());
        for (field, by) in &self.standardizers {
            let known = self.fields.iter().find(|known| known.name == *field);
            let n: usize = known.map_or(0, |field| field.shape.iter().product());
            if known.is_none_or(|known| known.dtype != F32) || (by.mean.len(), by.deviation.len()) != (n, n) {
                let required = "a field of f32 with as many features as were measured";
                let got = match known {
                    None => "no such field".to_owned(),
                    Some(known) => format!("{} rows of shape {:?} for {}", known.dtype, known.shape, by.mean.len()),
                };
                return Err(TrainError::invalid(format!("standardized field `{field}`"), required, got));
            }
        }
        let mut decision = None;
        let n_labels = self.about.labels.len();
        let graph = build(|g| {
            g.set_training(false);
            let batch = Named::batch(g, &self.fields, rows, origin());
            g.set_origin(Some(origin()));
            for (field, _) in &self.standardizers {
                let x = batch.get(field);
                batch.replace(field, standardized(g, field, x));
            }
            let outputs = self.net.outputs(g, &batch).tensors();
            outputs.iter().for_each(|(name, tensor)| g.output(name, *tensor));
            g.set_origin(Some(origin()));
            let row = |tensor: &Tensor<'_>| tensor.shape().get(1..).unwrap_or_default().to_vec();
            let rows: Vec<(String, DType, Vec<usize>)> =
                outputs.iter().map(|(name, tensor)| (name.clone(), tensor.dtype(), row(tensor))).collect();
            decision = classifies(&rows, n_labels);
            let logits = outputs.iter().find(|(name, _)| name == OUTPUTS);
            if let (Some(decision), Some((_, logits))) = (decision, logits) {
                g.output(PROBABILITIES, probabilities(*logits, decision));
            }
        })?;
        Ok(graph)
    }
}

/// The name of a statistic of a field among the weights.
fn statistic(field: &str, name: &str) -> String {
    format!("standardizer.{field}.{name}")
}

/// The values that [`standardized`] reads for a field.
pub fn statistics(field: &str, by: &Standardizer) -> Tensors {
    [("mean", &by.mean), ("deviation", &by.deviation)]
        .map(|(name, values)| (statistic(field, name), values.clone().into()))
        .into()
}

/// `(x - mean) / deviation` in f64, as [`Standardizer::apply`] computes it, bit for bit; mean and deviation are states of the
/// program, whose values [`statistics`] makes.
#[track_caller]
pub fn standardized<'g>(g: &'g GraphBuilder, field: &str, x: Tensor<'g>) -> Tensor<'g> {
    let shape = x.shape();
    let row: Vec<usize> = shape.get(1..).unwrap_or_default().to_vec();
    let of = |name: &str| {
        let values = g.state(&statistic(field, name), F64, [row.iter().product::<usize>()], Init::ZEROS);
        values.reshape(&row[..]).broadcast_to(shape.clone())
    };
    ((x.cast(F64) - of("mean")) / of("deviation")).cast(F32)
}

/// A probability for each of the labels.
fn probabilities(logits: Tensor<'_>, decision: Decision) -> Tensor<'_> {
    match decision {
        Decision::Softmax => logits.softmax(-1),
        Decision::Sigmoid => {
            let rows = logits.shape()[0];
            let second = logits.reshape([rows, 1]);
            // Both from logits, so that neither is 1 minus a rounded number.
            logits.builder().concat(&[(-second).sigmoid(), second.sigmoid()], 1)
        }
    }
}
