//! Models in one file: what they predict, and every way in which a file can be wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cotangent_data::csv::{Column, Missing};
use cotangent_data::safetensors::{SafeTensors, Tensors};
use cotangent_data::synthetic::two_moons;
use cotangent_data::{Csv, Dataset, Standardizer, Table};
use cotangent_exec::{Runtime, Threads};
use cotangent_graph::{GraphBuilder, Tensor, TensorData};
use cotangent_nn::{Adam, BatchNorm, Layers};
use cotangent_train::model::{Form, PROBABILITIES};
use cotangent_train::{
    BinaryCrossEntropy, CrossEntropy, Export, Model, Named, NonFinite, Options, Predictor, TrainError, Trainer, loss,
};
use ndarray::{Array2, Axis, s};

type Net = for<'g> fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>;

fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hidden", 16).layer("norm", BatchNorm::new()).relu().dropout("hidden", 0.2).dense("out", 2)
}

fn options() -> Options {
    Options { epochs: 2, batch_size: 16, progress: false, non_finite: NonFinite::Refuse, ..Options::default() }
}

fn runtime() -> Runtime {
    Runtime::new(Threads::Exactly(1))
}

fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// A trained model of features as they were measured, with what predicts in this process for features that were normalized.
fn trained(n: usize) -> (Dataset, Dataset, Model, Predictor<Net>) {
    let raw = two_moons(n, 0.2, 1);
    let standard = Standardizer::fit(raw.features()).unwrap();
    let set = standard.apply_to(&raw).unwrap();
    let mut trainer = Trainer::new(&runtime(), net as Net, CrossEntropy, Adam::new(0.02), options());
    trainer.fit(&set, None).unwrap();
    let weights = trainer.weights().unwrap();
    let export =
        Export::new(net as Net, &raw).standardized("x", &standard).labels(["upper", "lower"]).note("seed", "0");
    let model = export.model(&runtime(), weights.clone()).unwrap();
    (raw, set, model, Predictor::new(&runtime(), net as Net, weights))
}

#[test]
fn a_file_predicts_the_bits_of_the_process_that_trained_whatever_stands_beside_a_row() {
    // 171 = 128 + 32 + 8 + 2 + 1.
    let (raw, set, model, mut predictor) = trained(171);
    let path = fresh("bits.safetensors");
    model.save(&path).unwrap();
    let mut model = Model::load(&path, &runtime()).unwrap();
    let all = predictor.predict(set.features()).unwrap();
    assert_eq!(model.predict(raw.features()).unwrap(), all);
    for (from, to) in [(0, 1), (170, 171), (3, 5), (10, 50), (7, 140)] {
        let rows = raw.features().slice_axis(Axis(0), (from..to).into()).to_owned();
        let expected = all.slice_axis(Axis(0), (from..to).into());
        assert_eq!(model.predict(rows.view()).unwrap(), expected, "rows {from}..{to}");
    }
    // The file is a function of the model, and another load has the same.
    let again = fresh("again.safetensors");
    model.save(&again).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
    assert_eq!((model.notes()["seed"].as_str(), model.labels().len()), ("0", 2));
    assert_eq!(Model::load(&path, &Runtime::new(Threads::Exactly(2))).unwrap().predict(raw.features()).unwrap(), all);
}

#[test]
fn labels_come_with_probabilities() {
    let (raw, _, mut model, _) = trained(40);
    let table = Table::new().with("x", raw.features()).unwrap();
    let outputs = model.predict_named(&table).unwrap();
    let (TensorData::F32(p), TensorData::F32(logits)) = (&outputs[PROBABILITIES], &outputs["outputs"]) else {
        panic!()
    };
    for (p, z) in p.outer_iter().zip(logits.outer_iter()) {
        let expected = 1.0 / (1.0 + f64::from(z[1] - z[0]).exp());
        assert!((f64::from(p[0]) - expected).abs() < 1e-6 && (p[0] + p[1] - 1.0).abs() < 1e-6);
    }
    let answers = model.interface().answers(&outputs).unwrap();
    assert!(answers.iter().zip(logits.outer_iter()).all(|(&k, z)| (k == 1) == (z[1] > z[0])));
    // One logit says which of two.
    let one = cotangent_nn::model(|_, x| x.dense("out", 1));
    let mut trainer = Trainer::new(&runtime(), one, BinaryCrossEntropy, Adam::new(0.1), options());
    trainer.fit(&raw, None).unwrap();
    let export = Export::new(one, &raw).labels(["no", "yes"]);
    let mut model = export.model(&runtime(), trainer.weights().unwrap()).unwrap();
    let outputs = model.predict_named(&table).unwrap();
    let (TensorData::F32(p), TensorData::F32(z)) = (&outputs[PROBABILITIES], &outputs["outputs"]) else { panic!() };
    assert_eq!(p.shape(), [40, 2]);
    assert!((0..40).all(|k| (p[[k, 1]] > 0.5) == (z[[k, 0]] > 0.0)));
}

/// What is wrong with a request.
fn refused(model: &Model, request: &str) -> String {
    model.interface().rows_of_json(request.as_bytes()).unwrap_err().to_string()
}

#[test]
fn named_fields_come_as_json_and_numbers_keep_their_bits() {
    let words = Array2::from_shape_fn((30, 3), |(i, j)| ((i + j) % 5) as i64);
    let facts = Array2::from_shape_fn((30, 3), |(i, j)| (i * j % 4) as f32);
    let price = Array2::from_shape_fn((30, 1), |(i, _)| i as f32 / 30.0);
    let set = Table::new().with("words", words).unwrap().with("facts", facts).unwrap().with("price", price).unwrap();
    fn net<'g>(g: &'g GraphBuilder, batch: &Named<'g>) -> Named<'g> {
        let words = batch.get("words").embedding("words", 5, 4).flatten();
        Named::outputs(g, [("price", g.concat(&[words, batch.get("facts")], 1).dense("price", 1))])
    }
    let objective = loss(|outputs, batch| outputs.get("price").mse(batch.get("price")));
    let mut trainer = Trainer::named(&runtime(), net, objective, Adam::new(0.1), options());
    trainer.fit(&set, None).unwrap();
    let mut model = Export::named(net, &set).model(&runtime(), trainer.weights().unwrap()).unwrap();
    // Labels are no input of it.
    assert_eq!(model.fields().iter().map(|field| field.name.as_str()).collect::<Vec<_>>(), ["words", "facts"]);
    let rows = model
        .interface()
        .rows_of_json(br#"{"facts": [[1, 2, 3], [4, 5, 6.5]], "words": [[0, 1, 2], [[4], [4], [4]]]}"#);
    assert!(
        rows.unwrap_err()
            .to_string()
            .contains("row 1 of `words`: required i64 of shape [3], got lists that nest deeper")
    );
    let rows = model
        .interface()
        .rows_of_json(br#"{"facts": [[1, 2, 3], [4, 5, 6.5]], "words": [[0, 1, 2], [4, 4, 4]]}"#)
        .unwrap();
    assert_eq!(rows.get("facts").unwrap().to_f64(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.5]);
    let outputs = model.predict_named(&rows).unwrap();
    let json = model.interface().to_json(&outputs).unwrap();
    assert!(json.starts_with("{\"price\":[[") && !json.contains("labels"), "{json}");
    for (wrong, says) in [
        ("", "a JSON object with [\"words\", \"facts\"]"),
        ("[]", "a JSON object"),
        (r#"{"words": [[0, 1, 2]], "fact": []}"#, "\"fact\" as well"),
        (r#"{"words": [[0, 1, 2]]}"#, "no list \"facts\""),
        (r#"{"words": [[0, 1]], "facts": []}"#, "row 0 of `words`: required 3 numbers"),
        (r#"{"words": [[0, 1, 2.5]], "facts": []}"#, "whole numbers"),
        (r#"{"words": [[0, 1, null]], "facts": []}"#, "got null"),
        (r#"{"words": [[0, 1, "2"]], "facts": []}"#, "got a text"),
        (r#"{"words": [{}], "facts": []}"#, "got an object"),
        (r#"{"words": [[0, 1, 2]], "facts": [[1e60, 0, 0]]}"#, "row 0 of `facts`"),
        (r#"{"words": [[0, 1, 2], [0, 1, 2]], "facts": [[1, 2, 3]]}"#, "2 rows, as the fields before have"),
    ] {
        let error = refused(&model, wrong);
        assert!(error.contains(says), "{wrong}: {error}");
    }
    assert!(model.interface().rows_of_json("[".repeat(100_000).as_bytes()).is_err());
    // Numbers go out and come in with their bits.
    let x = TensorData::from(Array2::from_shape_fn((4, 3), |(i, j)| (0.1f32 + i as f32).sqrt() / (j as f32 + 0.3)));
    let words = TensorData::from(Array2::<i64>::zeros((4, 3)));
    let text =
        model.interface().to_json(&[("facts".to_owned(), x.clone()), ("words".to_owned(), words)].into()).unwrap();
    assert!(model.interface().rows_of_json(text.as_bytes()).unwrap().get("facts").unwrap().same_bits(&x), "{text}");
    assert!(model.predict(Array2::<f32>::zeros((1, 3)).into_dyn().view()).is_err());
}

#[test]
fn a_model_of_a_table_reads_rows_as_the_training_file_was_read() {
    let columns = [Column::number("age").missing(Missing::Mean), Column::one_hot("city")];
    let csv = Csv::new().field("x", columns).column("y", Column::category("bought")).labels("y");
    let training = "age,city,bought\n20,Rome,no\n,Oslo,yes\n40,Rome,yes\n30,\"Santa \"\"Fe\"\", New\",no\n";
    let reader = csv.fit_bytes(training.as_bytes(), "training.csv").unwrap();
    let set = reader.read_bytes(training.as_bytes(), "training.csv").unwrap();
    let mut trainer = Trainer::new(&runtime(), net as Net, CrossEntropy, Adam::new(0.1), options());
    trainer.fit(&set, None).unwrap();
    let labels = reader.columns("y")[0].entries().unwrap().entries().to_vec();
    let export = || Export::new(net as Net, &set).labels(labels.clone());
    let form = Form::Table(reader.clone().without(&["y"]).unwrap());
    let model = export().form(form).model(&runtime(), trainer.weights().unwrap()).unwrap();
    let path = fresh("table.safetensors");
    model.save(&path).unwrap();
    let mut model = Model::load(&path, &runtime()).unwrap();
    let text = r#"{"rows": [{"age": 20, "city": "Rome"}, {"city": "Oslo"}, {"city": "Santa \"Fe\", New", "age": 30, "more": true}]}"#;
    let rows = model.interface().rows_of_json(text.as_bytes()).unwrap();
    let expected = set.select(&[0, 1, 3]).unwrap();
    assert!(rows.get("x").unwrap().same_bits(expected.get("x").unwrap()));
    let outputs = model.predict_named(&rows).unwrap();
    let json = model.interface().to_json(&outputs).unwrap();
    assert!(json.starts_with("{\"labels\":[\"") && json.contains("\"probabilities\":[["), "{json}");
    for (wrong, says) in [
        (r#"{"x": [[1, 2, 3]]}"#, "a JSON object with [\"rows\"]"),
        (r#"{"rows": [[1, 2, 3]]}"#, "row 0 of the request: required an object"),
        (r#"{"rows": [{"age": [1], "city": "Rome"}]}"#, "a list or an object in it"),
        (r#"{"rows": [{"age": 1, "city": "Rome"}, {"age": "x", "city": "Rome"}]}"#, "line 3, column `age`"),
        (r#"{"rows": [{"age": 1, "city": "Paris"}]}"#, "line 2, column `city`"),
        (r#"{"rows": [{"age": 1}]}"#, "city"),
    ] {
        let error = refused(&model, wrong);
        assert!(error.contains(says), "{wrong}: {error}");
    }
    // A reader of other fields than the net asks for.
    let error =
        export().form(Form::Table(reader)).model(&runtime(), trainer.weights().unwrap()).unwrap_err().to_string();
    assert!(error.contains("the fields that its table has"), "{error}");
}

#[test]
fn what_does_not_belong_together_is_no_model() {
    let (raw, _, model, _) = trained(40);
    let weights = || -> Tensors { model.weights().unwrap() };
    let says = |export: Export<Net>, weights: Tensors, says: &str| {
        let error = export.model(&runtime(), weights).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    };
    let export = || Export::new(net as Net, &raw);
    let standard = Standardizer::fit(raw.features()).unwrap();
    says(export().labels(["a", "b", "c"]), weights(), "3 logits for 3 labels, or one for two");
    says(export().standardized("z", &standard), weights(), "standardized field `z`");
    let other = Standardizer::fit(two_moons(9, 0.1, 1).features().slice(s![.., 0..1]).into_dyn()).unwrap();
    says(export().standardized("x", &other), weights(), "as many features as were measured");
    says(export().form(Form::Pictures), weights(), "pictures `x`, [height, width]");
    let mut few = weights();
    few.remove("out.bias");
    says(export(), few, "missing: `out.bias`");
    fn random<'g>(g: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
        x + g.uniform("noise", x.dtype(), x.shape())
    }
    says(Export::new(random as Net, &raw), weights(), "draws no random numbers");
    fn mean<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
        x.mean()
    }
    says(Export::new(mean as Net, &raw), weights(), "a row for each example");
}

#[test]
fn damaged_renamed_and_foreign_files_are_refused_with_what_differs() {
    let (raw, _, model, _) = trained(40);
    let path = fresh("refused.safetensors");
    model.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| match Model::parse(bytes, "m.safetensors", &runtime()) {
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    };
    assert_eq!(refused(&bytes), None);
    // Cut anywhere.
    for n in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        let error = refused(&bytes[..n]).unwrap();
        assert!(error.starts_with("m.safetensors: "), "{n}: {error}");
    }
    // Any byte changed: it is refused, or it means the same.
    let mut model = Model::parse(&bytes, "m", &runtime()).unwrap();
    let expected = model.predict(raw.features()).unwrap();
    for at in (0..bytes.len()).step_by(53) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        if let Ok(mut same) = Model::parse(&changed, "m", &runtime()) {
            assert_eq!(same.predict(raw.features()).unwrap(), expected, "byte {at}");
        }
    }
    let whole = || SafeTensors::parse(&bytes, "m").unwrap();
    let changed = |change: &dyn Fn(&mut SafeTensors)| {
        let mut file = whole();
        change(&mut file);
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).unwrap();
        refused(&bytes).unwrap()
    };
    let renamed = changed(&|file| {
        let value = file.tensors.remove("out.weight").unwrap();
        file.tensors.insert("out.weights".to_owned(), value);
    });
    assert!(renamed.contains("missing: `out.weight` (there is `out.weights`)"), "{renamed}");
    let reshaped = changed(&|file| {
        file.tensors.insert("out.bias".to_owned(), vec![0f32; 3].into());
    });
    assert!(reshaped.contains("`out.bias` requires f32[2], got f32[3]"), "{reshaped}");
    let text = |file: &mut SafeTensors, key: &str, from: &str, to: &str| {
        let text = file.metadata[key].replace(from, to);
        file.metadata.insert(key.to_owned(), text);
    };
    let says = |change: &dyn Fn(&mut SafeTensors), says: &str| {
        let error = changed(change);
        assert!(error.contains(says), "{says}: {error}");
    };
    says(&|file| drop(file.tensors.insert("out.bias".to_owned(), vec![0f32, 1e-30].into())), "elements of `out.bias`");
    says(&|file| text(file, "graph.8", "graph @main", "graph  @main"), "checksum of the header");
    says(&|file| text(file, "about", "upper", "upped"), "checksum of the header");
    says(
        &|file| text(file, "format", "model", "checkpoint"),
        "required \"cotangent model\", got \"cotangent checkpoint\"",
    );
    says(&|file| file.metadata.clear(), "a file of another kind, or damaged");
    says(&|file| text(file, "version", "1", "2"), "version 2 of the format; this program knows 1");
    says(&|file| file.metadata.retain(|key, _| !key.starts_with("graph")), "checksum of the header");
    // A weight file of another tool, and a checkpoint.
    let foreign = SafeTensors { metadata: BTreeMap::new(), tensors: model.weights().unwrap() };
    let mut bytes = Vec::new();
    foreign.write_to(&mut bytes).unwrap();
    assert!(refused(&bytes).unwrap().contains("required \"cotangent model\""));
    assert!(matches!(Model::load(fresh("nowhere"), &runtime()), Err(TrainError::Data(_))));
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let (raw, _, mut model, _) = trained(40);
    let says = |result: Result<BTreeMap<String, TensorData>, TrainError>, says: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    };
    let table = |name: &str, values: TensorData| Table::new().with(name, values).unwrap();
    let wrong = TensorData::from(Array2::<f32>::zeros((2, 3)));
    says(
        model.predict_named(&table("x", wrong)),
        "field `x`: required f32 rows of shape [2], got f32 rows of shape [3]",
    );
    says(model.predict_named(&table("x", Array2::<f64>::zeros((2, 2)).into())), "got f64 rows");
    says(model.predict_named(&table("z", Array2::<f32>::zeros((2, 2)).into())), "required a field `x`, got [\"z\"]");
    says(model.predict_named(&table("x", Array2::<f32>::zeros((0, 2)).into())), "at least one row");
    // Labels that come along are of no matter.
    assert_eq!(model.predict_named(&raw).unwrap()["outputs"].shape()[..], [raw.len(), 2]);
}
