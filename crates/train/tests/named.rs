//! Models of named fields: several inputs of any element type, several outputs, labels for each pixel, metrics of one's own; and
//! figures that do not depend on how examples are divided into batches.

use cotangent_data::safetensors::Tensors;
use cotangent_data::synthetic::two_moons;
use cotangent_data::{Dataset, Examples, Order, Table};
use cotangent_exec::{Runtime, Seed, Threads};
use cotangent_graph::{GraphBuilder, Tensor, TensorData};
use cotangent_nn::{Adam, Layers, Optimizer, Recipe, Sgd};
use cotangent_train::callbacks::Watch;
use cotangent_train::metrics::{Accuracy, Auc, F1, MeanAbsolute, Perplexity, TopK, top_k};
use cotangent_train::{
    BinaryCrossEntropy, CrossEntropy, EarlyStopping, MeanSquared, Metric, Named, NonFinite, Options, Predictor,
    Trainer, WeightedCrossEntropy, loss,
};
use ndarray::{Array1, Array2, Array3, Array4, ArrayD, arr1, arr2};

fn runtime() -> Runtime {
    Runtime::new(Threads::Exactly(1))
}

fn options(epochs: usize, batch_size: usize) -> Options {
    Options { epochs, batch_size, eval_batch_size: 16, seed: Seed(5), progress: false, ..Options::default() }
}

/// Prices that follow from words and a size, and the word that comes first.
fn prices(n: usize) -> Table {
    let words = Array2::from_shape_fn((n, 3), |(i, j)| ((i * 7 + j * 5 + i / 9) % 10) as i64);
    let size = Array2::from_shape_fn((n, 1), |(i, _)| (i % 6) as f32 / 6.0);
    let price = Array2::from_shape_fn((n, 1), |(i, _)| size[[i, 0]] + 0.1 * words[[i, 0]] as f32);
    let first: Array1<i64> = words.column(0).to_owned();
    let table = Table::new().with("words", words).unwrap().with("size", size).unwrap();
    table.with("price", price).unwrap().with("first", first).unwrap().labels("first").unwrap()
}

/// A price and the first word, of words and size.
fn of_words<'g>(g: &'g GraphBuilder, batch: &Named<'g>) -> Named<'g> {
    let words = batch.get("words").embedding("words", 10, 4).flatten();
    let hidden = g.concat(&[words, batch.get("size")], 1).dense("hidden", 32).tanh();
    Named::outputs(g, [("price", hidden.dense("price", 1)), ("first", hidden.dense("first", 10))])
}

/// A metric that is nobody else's: the largest error.
struct Largest;

impl Metric for Largest {
    fn name(&self) -> String {
        "largest".to_owned()
    }

    fn observe<'g>(&self, outputs: &Named<'g>, batch: &Named<'g>) -> Vec<Tensor<'g>> {
        vec![(outputs.get("price") - batch.get("price")).abs()]
    }

    fn figure(&self, batches: &[Vec<TensorData>]) -> f64 {
        batches.iter().flatten().flat_map(TensorData::to_f64).fold(0.0, f64::max)
    }
}

#[test]
fn two_inputs_with_token_ids_and_two_outputs_stop_early_on_a_metric_of_ones_own() {
    let set = prices(90);
    let objective = loss(|outputs, batch| {
        let price = outputs.get("price").mse(batch.get("price"));
        price + outputs.get("first").cross_entropy(batch.get("first")).mean()
    });
    let mut trainer = Trainer::named(&runtime(), of_words, objective, Adam::new(0.02), options(400, 16))
        .metric(Largest)
        .metric(MeanAbsolute::new("price", "price"))
        .metric(Accuracy::new("first", "first"))
        .metric(F1::new("first", "first"))
        .metric(Perplexity::new("first", "first"));
    let stop = EarlyStopping::new(15).watch(Watch::Least("largest".to_owned()));
    let history = trainer.fit_with(&set, Some(&set), stop).unwrap();
    let figures: Vec<f64> = history.iter().map(|epoch| epoch.metric("largest").unwrap()).collect();
    let best = figures.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(history.len() < 400 && best < 0.25 && figures[0] > 2.0 * best, "{} epochs, {figures:?}", history.len());
    // The best weights are back, and predictions have the same figure.
    let evaluation = trainer.evaluate(&set).unwrap();
    assert_eq!(evaluation.metrics[0], ("largest".to_owned(), best));
    assert!(evaluation.accuracy.is_none() && evaluation.metrics[2].1 > 0.9, "{evaluation:?}");
    assert!((evaluation.metrics[4].1 - 1.0).abs() < 1.0, "the perplexity of what is known is 1: {evaluation:?}");
    let outputs = trainer.predict_named(&set).unwrap();
    let TensorData::F32(predicted) = &outputs["price"] else { panic!("a price is f32") };
    let Some(TensorData::F32(price)) = set.get("price") else { panic!("a price is f32") };
    let largest = predicted.iter().zip(price).map(|(p, q)| f64::from((p - q).abs())).fold(0.0, f64::max);
    assert_eq!(largest, best);
    // A predictor asks for neither labels nor optimiser, and takes any number of rows.
    let mut predictor = Predictor::named(&runtime(), of_words, trainer.checkpoint().unwrap().tensors).batch_size(7);
    let Some(TensorData::I64(words)) = set.get("words") else { panic!("words are i64") };
    let Some(TensorData::F32(size)) = set.get("size") else { panic!("a size is f32") };
    let inputs = Table::new().with("words", words.clone()).unwrap().with("size", size.clone()).unwrap();
    let alone = predictor.predict_named(&inputs).unwrap();
    assert_eq!(alone["price"].shape()[..], [90, 1]);
    for (a, b) in alone["price"].to_f64().iter().zip(predicted) {
        assert!((a - f64::from(*b)).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn an_auto_encoder_trains_on_what_it_is_given() {
    let x = Array2::from_shape_fn((64, 6), |(i, j)| ((i % 8) as f32 - 3.5) * ((j % 2) as f32 - 0.5));
    let set = Table::new().with("x", x).unwrap();
    let objective = loss(|outputs, batch| outputs.get("outputs").mse(batch.get("x")));
    let mut trainer = Trainer::new(
        &runtime(),
        |_, x| x.dense("code", 1).dense("decoded", 6),
        objective,
        Adam::new(0.05),
        options(100, 20),
    );
    let history = trainer.fit(&set, Some(&set)).unwrap();
    assert!(history[99].validation_loss.unwrap() < 0.01 * history[0].validation_loss.unwrap(), "{}", history[99]);
    assert!(history[99].validation_accuracy.is_none());
}

/// Pictures of 4 by 4 and whether each pixel is bright; the last column has no label.
fn bright(n: usize) -> Table {
    let x = Array4::from_shape_fn((n, 4, 4, 1), |(i, r, c, _)| ((i * 13 + r * 7 + c * 5) % 11) as f32 / 11.0);
    let y = Array3::from_shape_fn((n, 4, 4), |(i, r, c)| if c == 3 { -1 } else { i64::from(x[[i, r, c, 0]] > 0.5) });
    Table::new().with("x", x).unwrap().with("y", y).unwrap()
}

#[test]
fn every_pixel_has_a_label_or_is_ignored() {
    let set = bright(30);
    let mut trainer = Trainer::new(
        &runtime(),
        |_, x| x.dense("hidden", 8).tanh().dense("out", 2),
        WeightedCrossEntropy::new().weights([1.0, 2.0]).ignore(-1),
        Adam::new(0.05),
        options(40, 8),
    );
    let history = trainer.fit(&set, Some(&set)).unwrap();
    let last = history.last().unwrap();
    assert!(last.validation_accuracy.unwrap() > 0.95 && last.validation_accuracy.unwrap() <= 1.0, "{last}");
    // Without the label that is ignored, it is an error that names the example.
    let mut strict = Trainer::new(&runtime(), |_, x| x.dense("out", 2), CrossEntropy, Adam::new(0.05), options(1, 8));
    let error = strict.fit(&set, None).unwrap_err().to_string();
    assert!(error.contains("label of example 0: required a class in 0..2, got -1"), "{error}");
    let labels = Table::new().with("x", Array2::<f32>::zeros((3, 2))).unwrap();
    let labels = labels.with("y", arr2(&[[0i64, 1], [1, 0], [1, 7]])).unwrap();
    let mut pixels = Trainer::new(
        &runtime(),
        |_, x| x.reshape([x.shape()[0], 2, 1]).dense("out", 2),
        CrossEntropy,
        Adam::new(0.05),
        options(1, 8),
    );
    let error = pixels.fit(&labels, None).unwrap_err().to_string();
    assert!(error.contains("label of example 2: required a class in 0..2, got 7"), "{error}");
}

#[test]
fn the_figure_of_a_weighted_loss_does_not_depend_on_the_batch_size() {
    let set = bright(30);
    let figure = |eval_batch_size: usize| {
        let objective = WeightedCrossEntropy::new().weights([0.25, 4.0]).ignore(-1);
        let options = Options { eval_batch_size, ..options(1, 8) };
        let mut trainer = Trainer::new(&runtime(), |_, x| x.dense("out", 2), objective, Sgd::new(0.0), options);
        let history = trainer.fit(&set, Some(&set)).unwrap();
        (history[0].train_loss, history[0].validation_loss.unwrap())
    };
    let all = figure(30);
    for size in [1, 4, 7, 16] {
        let (train, validation) = figure(size);
        assert!((validation - all.1).abs() < 1e-6 && (train - all.1).abs() < 1e-6, "{size}: {train} {validation}");
    }
    // The mean of the batches' means is another figure: otherwise this test shows nothing.
    let objective = WeightedCrossEntropy::new().weights([0.25, 4.0]).ignore(-1);
    let mut trainer = Trainer::new(&runtime(), |_, x| x.dense("out", 2), objective, Sgd::new(0.0), options(1, 8));
    let of =
        |trainer: &mut Trainer<_, _, _>, places: &[usize]| trainer.evaluate(&set.select(places).unwrap()).unwrap().loss;
    let means: f64 = (0..30).map(|i| of(&mut trainer, &[i])).sum::<f64>() / 30.0;
    assert!((means - all.1).abs() > 1e-4, "{means} {}", all.1);
}

fn classifier<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hidden", 8).tanh().dense("out", 2)
}

#[test]
fn accumulated_gradients_are_steps_on_larger_batches() {
    let set = two_moons(96, 0.2, 1);
    let order = Order::Given;
    let mut whole =
        Trainer::new(&runtime(), classifier, CrossEntropy, Adam::new(0.01), Options { order, ..options(3, 32) });
    let accumulate = Adam::new(0.01).with(Recipe::new().accumulate(4));
    let mut parts = Trainer::new(&runtime(), classifier, CrossEntropy, accumulate, Options { order, ..options(3, 8) });
    let (a, b) = (whole.fit(&set, Some(&set)).unwrap(), parts.fit(&set, Some(&set)).unwrap());
    for (a, b) in a.iter().zip(b.iter()) {
        assert!((a.validation_loss.unwrap() - b.validation_loss.unwrap()).abs() < 1e-5, "{a}\n{b}");
    }
    let weights = |name: &str| [whole.store().get(name).unwrap().to_f64(), parts.store().get(name).unwrap().to_f64()];
    let [w, v] = weights("hidden.weight");
    assert!(w.iter().zip(&v).all(|(w, v)| (w - v).abs() < 1e-4), "{w:?} {v:?}");
    // Of five batches an epoch, one waits for the next epoch: after four epochs none does.
    let accumulate = Adam::new(0.1).with(Recipe::new().accumulate(4));
    let mut odd = Trainer::new(&runtime(), classifier, CrossEntropy, accumulate, options(4, 20));
    odd.fit(&set, None).unwrap();
    assert_eq!(odd.store().get("optimizer.t").unwrap().as_scalar(), Some(5.0));
    assert!(odd.store().get("optimizer.accumulated.out.bias").unwrap().to_f64().iter().all(|&sum| sum == 0.0));
}

/// The figures of metrics for given outputs: a model that hands out what it is given.
fn figures(table: &Table, metric: impl Metric + 'static, eval_batch_size: usize) -> f64 {
    let options = Options { eval_batch_size, non_finite: NonFinite::Allow, ..options(1, 8) };
    let nothing = loss(|outputs, _| outputs.get("outputs").sum() * 0.0);
    let mut trainer = Trainer::new(&runtime(), |_, x| x, nothing, Sgd::new(0.1), options).metric(metric);
    trainer.evaluate(table).unwrap().metrics[0].1
}

#[test]
fn metrics_are_their_definitions_for_any_batch_size() {
    // Few distinct outputs, so that there are ties; NaN, infinities, and labels that are no class.
    let n = 53;
    let mut x = Array2::from_shape_fn((n, 4), |(i, j)| ((i * 31 + j * 17 + i * j) % 5) as f32 - 2.0);
    (x[[3, 1]], x[[4, 2]], x[[5, 0]]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let y: Array1<i64> = (0..n).map(|i| if i == 7 { 9 } else { (i % 4) as i64 }).collect();
    let table = Table::new().with("x", x.clone()).unwrap().with("y", y.clone()).unwrap();
    for size in [1, 10, 53] {
        for k in 1..=4 {
            let expected = top_k(x.view().into_dyn(), y.view(), k).unwrap();
            assert_eq!(figures(&table, TopK::new(k), size), expected, "top {k} by {size}");
        }
        assert_eq!(figures(&table, Accuracy::default(), size), top_k(x.view().into_dyn(), y.view(), 1).unwrap());
    }
    // AUC by all pairs.
    let scores: Array1<f32> = (0..n).map(|i| if i % 9 == 0 { -0.0 } else { ((i * 7) % 6) as f32 - 2.0 }).collect();
    let labels: Array1<i64> = (0..n).map(|i| i64::from((i * 5) % 3 == 0)).collect();
    let (mut area, mut pairs) = (0.0, 0.0);
    for (p, _) in scores.iter().zip(&labels).filter(|pair| *pair.1 == 1) {
        for (q, _) in scores.iter().zip(&labels).filter(|pair| *pair.1 == 0) {
            area += if p > q {
                1.0
            } else if p == q {
                0.5
            } else {
                0.0
            };
            pairs += 1.0;
        }
    }
    let table = Table::new().with("x", scores.clone()).unwrap().with("y", labels.clone()).unwrap();
    for size in [1, 10, 53] {
        assert_eq!(figures(&table, Auc::default(), size), area / pairs);
    }
    let one_kind = Table::new().with("x", scores.clone()).unwrap().with("y", labels.mapv(|_| 1i64)).unwrap();
    assert!(figures(&one_kind, Auc::default(), 8).is_nan());
    // F1: of class 0 two hits, one missed; of class 1 one hit, one wrongly; class 2 never.
    let x = arr2(&[[1.0f32, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]);
    let table = Table::new().with("x", x).unwrap().with("y", arr1(&[0i64, 0, 0, 1])).unwrap();
    for size in [1, 3, 4] {
        let expected = (2.0 * 2.0 / 5.0 + 2.0 * 1.0 / 3.0) / 2.0;
        assert!((figures(&table, F1::default(), size) - expected).abs() < 1e-15);
    }
}

#[test]
fn what_does_not_fit_is_refused_with_names() {
    let set = prices(20);
    let objective = loss(|outputs, batch| outputs.get("prise").mse(batch.get("price")));
    let mut trainer = Trainer::named(&runtime(), of_words, objective, Adam::new(0.1), options(1, 8));
    let unknown = trainer.fit(&set, None).unwrap_err().to_string();
    assert!(unknown.contains("no output `prise`") && unknown.contains("`price`, `first`"), "{unknown}");
    let objective = loss(|outputs, batch| outputs.get("price").mse(batch.get("cost")));
    let mut trainer = Trainer::named(&runtime(), of_words, objective, Adam::new(0.1), options(1, 8));
    let error = trainer.fit(&set, None).unwrap_err().to_string();
    assert!(error.contains("no field `cost`") && error.contains("`words`, `size`, `price`, `first`"), "{error}");
    assert!(error.contains("named.rs"), "the user's line: {error}");
    // A model of `x` needs that field.
    let mut plain = Trainer::new(&runtime(), classifier, MeanSquared, Adam::new(0.1), options(1, 8));
    assert!(plain.fit(&set, None).unwrap_err().to_string().contains("no field `x`"));
    // Metrics of one name, a metric that is not there, and outputs that do not fit.
    let moons = two_moons(20, 0.1, 1);
    let new = || Trainer::new(&runtime(), classifier, CrossEntropy, Adam::new(0.1), options(1, 8));
    let error = new().metric(TopK::new(1)).metric(TopK::new(1)).fit(&moons, None).unwrap_err().to_string();
    assert!(error.contains("each once"), "{error}");
    let watch = EarlyStopping::new(3).watch(Watch::Greatest("f2".to_owned()));
    let error = new().metric(F1::default()).fit_with(&moons, Some(&moons), watch).unwrap_err().to_string();
    assert!(error.contains("a metric `f2`") && error.contains("the metrics f1"), "{error}");
    let says = |metric: &dyn Fn() -> Trainer<_, _, _>, says: &str| {
        let error = metric().fit(&moons, Some(&moons)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    says(
        &|| new().metric(Auc::default()),
        "the metric `auc` requires floats, one for each label, got f32[16,2] and f32[16]",
    );
    says(&|| new().metric(MeanAbsolute::default()), "the metric `mean_absolute` requires floats, one for each label");
    says(&|| new().metric(F1::new("outputs", "x")), "the metric `f1` requires logits [.., classes] and labels [..]");
    says(&|| new().metric(TopK::new(0)), "`TopK` requires at least the largest logit, k of 1 or more, got 0");
    // Tables.
    let rows = |n: usize| Array2::<f32>::zeros((n, 2));
    assert!(Table::new().with("x", rows(3)).unwrap().with("x", rows(3)).is_err());
    assert!(Table::new().with("x", rows(3)).unwrap().with("y", rows(4)).is_err());
    assert!(Table::new().with("a b", rows(3)).is_err() && Table::new().with("x", 1.0f32).is_err());
    let unlabeled = Table::new().with("x", rows(3)).unwrap();
    assert!(unlabeled.clone().labels("x").is_err() && unlabeled.places(Order::Balanced, 0, 0).is_err());
    assert!(unlabeled.select(&[3]).is_err());
    // Weights of another model.
    let mut predictor = Predictor::new(&runtime(), classifier, Tensors::new());
    let error = predictor.predict(moons.features()).unwrap_err().to_string();
    assert!(error.contains("hidden.weight"), "{error}");
    assert!(predictor.predict(ArrayD::zeros(vec![0, 2]).view()).is_err());
}

#[test]
fn a_table_gives_the_same_run_as_a_dataset() {
    let set = two_moons(50, 0.2, 1);
    let (x, y) = set.clone().into_parts();
    let table = Table::new().with("x", x).unwrap().with("y", y).unwrap().labels("y").unwrap();
    for order in [Order::Given, Order::Shuffled, Order::Stratified, Order::Balanced] {
        let run = |set: &dyn Fn(&mut Trainer<_, _, _>)| {
            let options = Options { order, ..options(2, 16) };
            let mut trainer = Trainer::new(&runtime(), classifier, CrossEntropy, Sgd::new(0.1), options);
            set(&mut trainer);
            trainer.weights_checksum().unwrap()
        };
        let a = run(&|trainer| drop(trainer.fit(&set, None).unwrap()));
        let b = run(&|trainer| drop(trainer.fit(&table, None).unwrap()));
        assert_eq!(a, b, "{order:?}");
    }
    // Floats as labels, as before.
    let floats = Dataset::new(set.features().to_owned(), set.labels().mapv(|label| label as f32)).unwrap();
    let mut trainer =
        Trainer::new(&runtime(), |_, x| x.dense("out", 1), BinaryCrossEntropy, Sgd::new(0.1), options(1, 8));
    trainer.fit(&floats, Some(&floats)).unwrap();
}
