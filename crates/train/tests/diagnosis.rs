//! Planted problems are named, healthy runs are not, and statistics are those of their definitions.

use cotangent_data::synthetic::two_moons;
use cotangent_data::{Dataset, Table};
use cotangent_exec::{Runtime, Seed, Store, Threads};
use cotangent_graph::{GraphBuilder, Init, Tensor, TensorData};
use cotangent_nn::{Adam, BatchNorm, Dense, Layer, Layers, Momentum, Optimizer, Sgd};
use cotangent_train::diagnosis::correlated;
use cotangent_train::statistics::Ends;
use cotangent_train::{CrossEntropy, Diagnosis, Options, Problem, RateRange, Trainer};
use ndarray::{Array1, Array2, Axis, concatenate};

const SEEDS: std::ops::Range<u64> = 0..10;

fn runtime() -> Runtime {
    Runtime::new(Threads::Exactly(1))
}

fn options(seed: u64, epochs: usize) -> Options {
    Options { epochs, batch_size: 32, statistics: Some(2), seed: Seed(seed), progress: false, ..Options::default() }
}

/// Trains, whatever comes of it, and asks what is wrong.
fn diagnosed<M: for<'g> Fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>>(
    model: M,
    optimizer: impl Optimizer,
    (train, validation): (&Dataset, &Dataset),
    options: Options,
) -> Diagnosis {
    let mut trainer = Trainer::new(&runtime(), model, CrossEntropy, optimizer, options);
    // A run that goes off ends with an error.
    let _ = trainer.fit(train, Some(validation));
    trainer.diagnose(train, Some(validation)).unwrap()
}

fn moons(seed: u64) -> (Dataset, Dataset) {
    (two_moons(300, 0.15, 2 * seed + 1), two_moons(100, 0.15, 2 * seed + 2))
}

/// The set with other features.
fn with_features(set: &Dataset, f: impl Fn(Array2<f32>, &Array1<i64>) -> Array2<f32>) -> Dataset {
    let (features, labels) = set.clone().into_parts();
    Dataset::new(f(features.into_dimensionality().unwrap(), &labels).into_dyn(), labels).unwrap()
}

fn relus<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("first", 16).relu().dense("second", 16).relu().dense("out", 2)
}

fn dead<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    let hidden = Dense::new(16).bias_init(Init::constant(-10.0)).apply("hidden", x).relu();
    hidden.dense("out", 2)
}

fn saturated<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    let hidden = Dense::new(16).init(Init::normal(0.0, 60.0)).apply("hidden", x).sigmoid();
    hidden.dense("out", 2)
}

fn of_three_classes<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("first", 16).relu().dense("out", 3)
}

fn wide<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("first", 64).tanh().dense("second", 64).tanh().dense("out", 2)
}

fn with_dropout<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("first", 16).relu().dropout("drop", 0.2).dense("out", 2).sigmoid()
}

fn of_two_kinds<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    let hidden = Dense::new(5).bias_init(Init::constant(-0.3)).apply("hidden", x).relu();
    hidden.dense("next", 4).tanh().dense("out", 2)
}

fn blind<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    (x * 0.0).dense("hidden", 16).relu().dense("out", 2)
}

fn named(problem: Problem, f: impl Fn(u64) -> Diagnosis) {
    for seed in SEEDS {
        let diagnosis = f(seed);
        assert!(diagnosis.has(problem), "seed {seed}: {problem:?} is not among\n{diagnosis}");
    }
}

#[test]
fn nothing_is_named_of_healthy_runs() {
    for seed in SEEDS {
        let (train, validation) = moons(seed);
        let sets = (&train, &validation);
        let diagnosis = match seed % 4 {
            0 => diagnosed(relus, Adam::new(0.01), sets, options(seed, 15)),
            1 => diagnosed(relus, Momentum::new(0.1, 0.9), sets, options(seed, 15)),
            2 => {
                diagnosed(|_, x| x.dense("first", 16).tanh().dense("out", 2), Adam::new(0.02), sets, options(seed, 15))
            }
            _ => diagnosed(
                |_, x| x.dense("first", 24).sigmoid().dense("out", 2),
                Momentum::new(0.3, 0.9),
                sets,
                options(seed, 20),
            ),
        };
        assert!(diagnosis.findings.is_empty(), "seed {seed}:\n{diagnosis}");
        assert_eq!(diagnosis.to_string(), "nothing unusual was found");
    }
}

#[test]
fn a_rate_that_is_too_high_is_named() {
    named(Problem::RateTooHigh, |seed| {
        let (train, validation) = moons(seed);
        match seed % 2 {
            0 => diagnosed(relus, Sgd::new(500.0), (&train, &validation), options(seed, 5)),
            _ => diagnosed(relus, Adam::new(20.0), (&train, &validation), options(seed, 5)),
        }
    });
}

#[test]
fn dead_units_are_named() {
    named(Problem::DeadUnits, |seed| {
        let (train, validation) = moons(seed);
        let diagnosis = diagnosed(dead, Adam::new(0.01), (&train, &validation), options(seed, 4));
        assert!(diagnosis.to_string().contains("after `hidden` are zero for every example"), "{diagnosis}");
        diagnosis
    });
}

#[test]
fn saturated_units_are_named() {
    named(Problem::SaturatedUnits, |seed| {
        let (train, validation) = moons(seed);
        diagnosed(saturated, Adam::new(0.01), (&train, &validation), options(seed, 4))
    });
}

#[test]
fn labels_that_a_feature_gives_away_are_named() {
    let leaked = |set: &Dataset| {
        with_features(set, |features, labels| {
            let wobble = |(k, label): (usize, &i64)| *label as f32 * 0.7 + 0.02 * ((k * 37 % 11) as f32 / 11.0 - 0.5);
            let column: Array1<f32> = labels.iter().enumerate().map(wobble).collect();
            concatenate(Axis(1), &[features.view(), column.insert_axis(Axis(1)).view()]).unwrap()
        })
    };
    named(Problem::LeakedLabels, |seed| {
        let (train, validation) = moons(seed);
        let diagnosis = diagnosed(relus, Adam::new(0.01), (&leaked(&train), &leaked(&validation)), options(seed, 3));
        assert!(diagnosis.to_string().contains("number 2 of `x` alone says what the label is"), "{diagnosis}");
        diagnosis
    });
    // Examples that are in both parts.
    let (train, _) = moons(0);
    let diagnosis = diagnosed(relus, Adam::new(0.01), (&train, &train.head(50)), options(0, 3));
    assert!(diagnosis.to_string().contains("50 of 50 validation examples are training examples"), "{diagnosis}");
}

#[test]
fn inputs_that_are_not_normalized_are_named() {
    let raw = |set: &Dataset| {
        with_features(set, |mut features, _| {
            features.column_mut(1).mapv_inplace(|value| 200.0 * value + 3000.0);
            features
        })
    };
    named(Problem::UnnormalizedInputs, |seed| {
        let (train, validation) = moons(seed);
        diagnosed(relus, Adam::new(0.01), (&raw(&train), &raw(&validation)), options(seed, 3))
    });
}

#[test]
fn a_class_without_examples_is_named() {
    named(Problem::MissingClass, |seed| {
        let (train, validation) = moons(seed);
        let diagnosis = diagnosed(of_three_classes, Adam::new(0.01), (&train, &validation), options(seed, 3));
        assert!(diagnosis.to_string().contains("no example to train on has class 2"), "{diagnosis}");
        diagnosis
    });
}

#[test]
fn curves_tell_over_from_underfitting() {
    // Twenty examples with shuffled labels are learned by heart, and of no use.
    let few = |seed| {
        let (features, labels) = two_moons(30, 0.3, seed).into_parts();
        let labels: Array1<i64> =
            labels.iter().enumerate().map(|(k, label)| (label + i64::from(k % 3 == 0)) % 2).collect();
        Dataset::new(features, labels).unwrap()
    };
    let diagnosis = diagnosed(wide, Adam::new(0.02), (&few(1), &two_moons(100, 0.3, 9)), options(1, 150));
    assert!(diagnosis.has(Problem::Overfitting), "{diagnosis}");
    let (train, validation) = moons(0);
    let diagnosis = diagnosed(relus, Sgd::new(1e-7), (&train, &validation), options(0, 3));
    assert!(diagnosis.has(Problem::RateTooLow), "{diagnosis}");
}

#[test]
fn statistics_change_no_bit_of_a_run() {
    let (train, _) = moons(3);
    let run = |statistics| {
        let options = Options { statistics, ..options(3, 3) };
        let mut trainer = Trainer::new(&runtime(), with_dropout, CrossEntropy, Adam::new(0.01), options);
        let losses: Vec<f64> = trainer.fit(&train, None).unwrap().iter().map(|epoch| epoch.train_loss).collect();
        (trainer.weights_checksum().unwrap(), losses, trainer.statistics().n_steps)
    };
    let (plain, often, all) = (run(None), run(Some(4)), run(Some(1)));
    assert_eq!((&plain.0, &plain.1), (&often.0, &often.1));
    assert_eq!((&plain.0, &plain.1), (&all.0, &all.1));
    // Of nine whole batches and a partial one, the first, fifth and ninth.
    assert_eq!((plain.2, often.2, all.2), (0, 3, 9));
}

#[test]
fn statistics_are_those_of_arrays() {
    let set = two_moons(64, 0.1, 5);
    let options = Options { batch_size: 64, statistics: Some(1), ..options(5, 1) };
    let rate = 0.5f32;
    let mut trainer = Trainer::new(&runtime(), of_two_kinds, CrossEntropy, Sgd::new(f64::from(rate)), options);
    // What the weights start with is there once something ran.
    trainer.predict(set.features()).unwrap();
    let value = |store: &Store, name: &str| -> Array2<f32> {
        let TensorData::F32(value) = store.get(name).unwrap() else { panic!("f32") };
        let value = value.into_owned();
        match value.ndim() {
            1 => value.insert_axis(Axis(0)).into_dimensionality().unwrap(),
            _ => value.into_dimensionality().unwrap(),
        }
    };
    let before = ["hidden.weight", "hidden.bias", "next.weight", "next.bias"].map(|name| value(trainer.store(), name));
    trainer.fit(&set, None).unwrap();
    let x: Array2<f32> = set.features().to_owned().into_dimensionality().unwrap();
    let hidden = (x.dot(&before[0]) + &before[1]).mapv(|z| z.max(0.0));
    let next = hidden.dot(&before[2]) + &before[3];
    let share = |z: &Array2<f32>, is_active: fn(f32) -> bool| -> Vec<f64> {
        z.columns().into_iter().map(|c| c.iter().filter(|z| is_active(**z)).count() as f64 / 64.0).collect()
    };
    let statistics = trainer.statistics();
    assert_eq!(statistics.n_steps, 1);
    let seen: Vec<_> = statistics.activations.iter().map(|a| (a.layer.as_str(), a.ends)).collect();
    assert_eq!(seen, [("hidden", Ends::One), ("next", Ends::Two)]);
    assert_eq!(statistics.activations[0].active, share(&hidden, |z| z > 0.0));
    assert_eq!(statistics.activations[1].active, share(&next, |z| 1.0 - z.tanh().powi(2) >= 0.02));
    let names: Vec<&str> = statistics.parameters.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["hidden.weight", "hidden.bias", "next.weight", "next.bias", "out.weight", "out.bias"]);
    let norm = |a: &Array2<f32>| f64::from(a.iter().map(|v| v * v).sum::<f32>()).sqrt();
    let after = value(trainer.store(), "hidden.weight");
    let parameter = &statistics.parameters[0];
    let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-4 * b.abs(), "{a} {b}");
    close(parameter.weight, norm(&before[0]));
    close(parameter.change, norm(&(&after - &before[0])));
    close(parameter.gradient, parameter.change / f64::from(rate));
    assert_eq!(parameter.ratio(), Some(parameter.change / parameter.weight));
}

#[test]
fn histograms_before_training_are_those_of_arrays() {
    let set = two_moons(100, 0.1, 5);
    let fresh = || {
        let options = Options { batch_size: 32, ..options(5, 2) };
        Trainer::new(&runtime(), of_two_kinds, CrossEntropy, Sgd::new(0.5), options)
    };
    let mut trainer = fresh();
    let histograms = trainer.histograms(&set, 1000).unwrap();
    assert_eq!((histograms.n_examples, trainer.store().step()), (100, 0));
    let value = |name: &str| trainer.store().get(name).unwrap().array::<f32>().unwrap().to_owned();
    let weight: Array2<f32> = value("hidden.weight").into_dimensionality().unwrap();
    let bias: Array1<f32> = value("hidden.bias").into_dimensionality().unwrap();
    let x: Array2<f32> = set.features().to_owned().into_dimensionality().unwrap();
    let given = x.dot(&weight) + &bias;
    let [hidden, next] = &histograms.layers[..] else { panic!("{histograms}") };
    assert_eq!((hidden.activation.layer.as_str(), hidden.function.as_str()), ("hidden", "relu"));
    assert_eq!((next.activation.layer.as_str(), next.function.as_str()), ("next", "tanh"));
    let close = |a: f64, b: f32| assert!((a - f64::from(b)).abs() < 1e-5, "{a} {b}");
    close(hidden.before.from, given.iter().copied().fold(f32::MAX, f32::min));
    close(hidden.before.to, given.iter().copied().fold(f32::MIN, f32::max));
    close(hidden.before.mean, given.mean().unwrap());
    close(hidden.before.deviation, given.std(0.0));
    close(hidden.after.mean, given.mapv(|z| z.max(0.0)).mean().unwrap());
    assert_eq!((hidden.before.counts.iter().sum::<u64>(), next.after.counts.iter().sum::<u64>()), (500, 400));
    let shares: Vec<f64> =
        given.columns().into_iter().map(|c| c.iter().filter(|z| **z > 0.0).count() as f64 / 100.0).collect();
    assert!(shares.iter().zip(&hidden.activation.active).all(|(a, b)| (a - b).abs() < 1e-12), "{shares:?}");
    assert!(histograms.to_svg().contains("`hidden` before relu") && histograms.plots().len() == 4);
    assert!(histograms.to_string().contains("units dead"), "{histograms}");

    // Looking changes no bit of a run that comes after, dropout included.
    let run = |looks: bool| {
        let mut trainer = Trainer::new(&runtime(), with_dropout, CrossEntropy, Adam::new(0.01), options(3, 2));
        let seen = looks.then(|| trainer.histograms(&set, 64).unwrap());
        assert!(seen.is_none_or(|seen| seen == trainer.histograms(&set, 64).unwrap()));
        trainer.fit(&set, None).unwrap();
        (trainer.weights_checksum().unwrap(), trainer.store().draws())
    };
    assert_eq!(run(false), run(true));
    assert!(fresh().histograms(&set, 0).is_err());
}

/// Also not what layers keep beside weights, and not the number of steps.
#[test]
fn looking_changes_no_state() {
    fn normed<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
        x.dense("hidden", 8).layer("norm", BatchNorm::new()).relu().dense("out", 2)
    }
    let set = two_moons(100, 0.1, 5);
    let mut trainer = Trainer::new(&runtime(), normed, CrossEntropy, Adam::new(0.01), options(3, 2));
    trainer.fit(&set, None).unwrap();
    let state = |trainer: &Trainer<_, _, _>| {
        let store = trainer.store();
        (cotangent_train::checksum_all(store).unwrap(), store.step(), store.draws())
    };
    let before = state(&trainer);
    trainer.histograms(&set, 77).unwrap();
    assert_eq!(state(&trainer), before);
    trainer.diagnose(&set, None).unwrap();
    assert_eq!(state(&trainer), before);
    // A diagnosis of a trainer that has seen no step looks for itself.
    let mut trainer = Trainer::new(&runtime(), normed, CrossEntropy, Adam::new(0.01), options(3, 2));
    trainer.histograms(&set, 10).unwrap();
    let before = state(&trainer);
    trainer.diagnose(&set, None).unwrap();
    assert_eq!((state(&trainer), before.1), (before, 0));
}

/// What is wrong with weights shows before the first step, and without statistics of steps.
#[test]
fn layers_are_looked_at_before_training_too() {
    let (train, validation) = moons(1);
    let quiet = || Options { statistics: None, ..options(1, 1) };
    let problems = |model: for<'g> fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>| {
        let mut trainer = Trainer::new(&runtime(), model, CrossEntropy, Adam::new(0.01), quiet());
        let found = trainer.diagnose(&train, Some(&validation)).unwrap();
        found.findings.iter().map(|finding| finding.problem).collect::<Vec<_>>()
    };
    assert_eq!(problems(dead), [Problem::DeadUnits]);
    assert_eq!(problems(saturated), [Problem::SaturatedUnits]);
    assert_eq!(problems(relus), []);
}

#[test]
fn a_range_test_finds_a_rate_and_leaves_everything_as_it_was() {
    let (train, _) = moons(1);
    let fresh = |rate| Trainer::new(&runtime(), relus, CrossEntropy, Sgd::new(rate), options(1, 5));
    let mut trainer = fresh(0.01);
    trainer.fit(&train, None).unwrap();
    let before = trainer.checkpoint().unwrap();
    let test = trainer.lr_find(&train, RateRange::default()).unwrap();
    assert_eq!(trainer.checkpoint().unwrap(), before);
    assert!(test.rates.len() > 50 && test.rates.len() == test.losses.len());

    let mut trainer = fresh(0.01);
    let rate = trainer.lr_find(&train, RateRange::default()).unwrap().suggestion().unwrap();
    assert!((0.01..3.0).contains(&rate), "{rate}");
    let loss = |rate| fresh(rate).fit(&train, None).unwrap().last().unwrap().train_loss;
    assert!(loss(rate) < loss(rate / 100.0), "{rate}");
    for range in [
        RateRange { from: 0.0, ..RateRange::default() },
        RateRange { to: f64::INFINITY, ..RateRange::default() },
        RateRange { from: 1.0, to: 0.1, steps: 10 },
        RateRange { steps: 1, ..RateRange::default() },
    ] {
        assert!(trainer.lr_find(&train, range).unwrap_err().to_string().contains("rate range"));
    }
}

#[test]
fn a_few_examples_are_learned_by_heart_or_not() {
    let (train, _) = moons(2);
    let mut trainer = Trainer::new(&runtime(), relus, CrossEntropy, Adam::new(0.02), options(2, 1));
    let overfit = trainer.overfit(&train, 50, 600).unwrap();
    assert!(overfit.is_passed() && overfit.n_examples == 50, "{overfit}");
    assert_eq!(trainer.store().step(), 0);
    // A model that sees nothing of its input cannot.
    let mut trainer = Trainer::new(&runtime(), blind, CrossEntropy, Adam::new(0.02), options(2, 1));
    let overfit = trainer.overfit(&train, 50, 200).unwrap();
    assert!(!overfit.is_passed() && overfit.n_steps == 200, "{overfit}");
    assert!(trainer.overfit(&train, 0, 10).is_err() && trainer.overfit(&train, 10, 0).is_err());
}

#[test]
fn correlated_features_are_found() {
    let x = Array2::from_shape_fn((200, 4), |(i, j)| {
        let free = |k: usize| ((i * (2 * k + 7) * 31 + k * 17) % 101) as f32;
        [free(0), free(1), 3.0 - 2.0 * free(0), 1.0][j]
    });
    let set = Table::new().with("x", x).unwrap();
    let found = correlated(&set, "x", 0.9).unwrap();
    assert!(found.len() == 1 && (found[0].0, found[0].1) == (0, 2) && (found[0].2 + 1.0).abs() < 1e-6, "{found:?}");
    assert!(correlated(&set, "z", 0.9).unwrap_err().to_string().contains("required x"));
}
