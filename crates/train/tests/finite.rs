//! What is not finite is an error by default, is passed over if asked for, and spoils neither weights nor checkpoints.

use std::fs;
use std::path::Path;

use cotangent_data::Dataset;
use cotangent_data::synthetic::two_moons;
use cotangent_exec::{Runtime, Seed, Threads};
use cotangent_graph::{GraphBuilder, Tensor};
use cotangent_nn::{Adam, Layers, Optimizer, Recipe, Sgd};
use cotangent_train::{
    Checkpoint, Checkpoints, CrossEntropy, History, MeanSquared, NonFinite, Objective, Options, TrainError, Trainer,
};
use ndarray::{Array1, ArrayD};

type Net = for<'g> fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>;

fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hidden", 16).tanh().dense("out", 2)
}

fn options(epochs: usize, non_finite: NonFinite) -> Options {
    Options { epochs, batch_size: 8, seed: Seed(3), progress: false, non_finite, ..Options::default() }
}

fn trainer<L: Objective, O: Optimizer>(net: Net, objective: L, optimizer: O, options: Options) -> Trainer<Net, L, O> {
    Trainer::new(&Runtime::new(Threads::Exactly(1)), net, objective, optimizer, options)
}

/// Two moons, one of whose features is replaced.
fn moons_with(row: usize, column: usize, value: f32) -> Dataset {
    let set = two_moons(40, 0.1, 1);
    let mut features = set.features().to_owned();
    features[[row, column]] = value;
    Dataset::new(features, set.labels().to_owned()).unwrap()
}

fn weights_are_finite<L: Objective, O: Optimizer>(trainer: &Trainer<Net, L, O>) -> bool {
    trainer.store().iter().all(|(name, _)| trainer.store().get(name).unwrap().to_f64().iter().all(|v| v.is_finite()))
}

fn refused(result: Result<History, TrainError>, texts: &[&str]) {
    let error = result.unwrap_err().to_string();
    assert!(texts.iter().all(|text| error.contains(text)), "{error}");
}

#[test]
fn a_feature_that_is_no_number_is_refused_with_its_place() {
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let mut trainer = trainer(net, CrossEntropy, Adam::new(0.01), options(2, NonFinite::Refuse));
        refused(
            trainer.fit(&moons_with(17, 1, value), None),
            &["field `x` of the training set", &format!("got {text} in row 17, column 1")],
        );
        refused(
            trainer.fit(&two_moons(40, 0.1, 1), Some(&moons_with(3, 0, value))),
            &["field `x` of the evaluation set", "row 3, column 0"],
        );
        let error = trainer.evaluate(&moons_with(39, 0, value)).unwrap_err().to_string();
        assert!(error.contains("row 39, column 0"), "{error}");
        assert_eq!(trainer.store().step(), 0);
        // The trainer goes on with a set that is whole.
        trainer.fit(&two_moons(40, 0.1, 1), None).unwrap();
    }
    // Pictures have more axes.
    let mut pictures = ArrayD::zeros(vec![4, 2, 3]);
    pictures[[2, 1, 0]] = f32::NAN;
    let set = Dataset::new(pictures, Array1::from(vec![0i64, 1, 0, 1])).unwrap();
    let flat: Net = |_, x| x.flatten().dense("out", 2);
    refused(
        trainer(flat, CrossEntropy, Sgd::new(0.1), options(1, NonFinite::Refuse)).fit(&set, None),
        &["row 2 at [1, 0]"],
    );
}

#[test]
fn batches_that_are_not_finite_are_passed_over_if_asked_for() {
    // The logarithm of one row's feature is NaN: its batch, of 8 among 40, does not count.
    let logarithm: Net = |_, x| x.log().dense("out", 2);
    let set = two_moons(40, 0.1, 1);
    let mut features = set.features().mapv(|v| 2.0 + v.abs());
    features[[11, 0]] = -1.0;
    let set = Dataset::new(features, set.labels().to_owned()).unwrap();
    let mut strict = trainer(logarithm, CrossEntropy, Sgd::new(0.1), options(3, NonFinite::Refuse));
    refused(strict.fit(&set, None), &["E0305", "finite.rs", "nothing has been changed"]);
    assert!(weights_are_finite(&strict));
    let mut lenient = trainer(logarithm, CrossEntropy, Sgd::new(0.1), options(3, NonFinite::Skip));
    let history = lenient.fit(&set, None).unwrap();
    assert!(history.iter().all(|epoch| epoch.n_skipped == 8 && epoch.train_loss.is_finite()), "{history:?}");
    assert_eq!((lenient.store().step(), weights_are_finite(&lenient)), (3 * 4, true));
    assert!(history[0].to_string().contains("8 examples passed over"), "{}", history[0]);
    // Where no batch is left, going on would be no training.
    let hopeless = Dataset::new(set.features().mapv(|_| -1.0), set.labels().to_owned()).unwrap();
    let mut lenient = trainer(logarithm, CrossEntropy, Sgd::new(0.1), options(3, NonFinite::Skip));
    refused(lenient.fit(&hopeless, None), &["all were passed over"]);
    let mut blind = trainer(logarithm, CrossEntropy, Sgd::new(0.1), options(3, NonFinite::Allow));
    blind.fit(&set, None).unwrap();
    assert!(!weights_are_finite(&blind), "otherwise this test shows nothing");
}

#[test]
fn checkpoints_of_good_weights_stay_when_training_diverges() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("finite");
    let _ = fs::remove_dir_all(&folder);
    let set = two_moons(64, 0.1, 1);
    let targets = Dataset::new(set.features().to_owned(), set.labels().mapv(|v| v as f32)).unwrap();
    let deep: Net = |_, x| x.dense("a", 16).relu().dense("b", 16).relu().dense("out", 1);
    let checkpoints = Some(Checkpoints::new(&folder).every_steps(1));
    let mut trainer = trainer(
        deep,
        MeanSquared,
        Sgd::new(1e8),
        Options { checkpoints: checkpoints.clone(), ..options(50, NonFinite::Refuse) },
    );
    refused(trainer.fit(&targets, None), &["E0305", "finite.rs"]);
    let mut n_files = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let checkpoint = Checkpoint::read(&path).unwrap();
            let weights = checkpoint.tensors.iter().filter(|(name, _)| name.contains("weight"));
            for (name, tensor) in weights {
                assert!(tensor.to_f64().into_iter().all(f64::is_finite), "{name} in {}", path.display());
            }
            n_files += 1;
        }
    }
    assert!(n_files > 0, "it diverged before the first checkpoint: {:?}", fs::read_dir(&folder).unwrap().count());
}

#[test]
fn gradients_are_checked_if_asked_for() {
    // √(w·x) at w = 0: the loss is a number, its gradient is infinite.
    let pole: Net = |g, x| {
        let w = g.param("w", cotangent_graph::DType::F32, [2], cotangent_graph::Init::ZEROS);
        (x * w).sqrt()
    };
    let set = Dataset::new(two_moons(16, 0.1, 1).features().mapv(f32::abs), two_moons(16, 0.1, 1).labels().to_owned());
    let set = set.unwrap();
    let checked = || Sgd::new(0.1).with(Recipe::new().check_gradients());
    let mut blind = trainer(pole, CrossEntropy, Sgd::new(0.1), options(1, NonFinite::Refuse));
    refused(blind.fit(&set, None), &["E0305"]);
    assert!(!weights_are_finite(&blind), "otherwise this test shows nothing");
    let mut strict = trainer(pole, CrossEntropy, checked(), options(1, NonFinite::Refuse));
    refused(strict.fit(&set, None), &["E0305", "nothing has been changed"]);
    assert!(weights_are_finite(&strict) && strict.store().step() == 0);
}
