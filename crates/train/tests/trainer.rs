//! The trainer learns, sees every example, gives the same bits for any number of threads, and refuses what it must.

use std::ops::ControlFlow;

use cotangent_data::synthetic::{linear_regression, two_moons, xor};
use cotangent_data::{Dataset, Examples};
use cotangent_exec::{Compiler, Runtime, Seed, Threads};
use cotangent_graph::{GraphBuilder, Tensor};
use cotangent_nn::{Adam, Layers, Momentum, Optimizer, Recipe, Sgd};
use cotangent_train::callbacks::after_epoch;
use cotangent_train::{
    BinaryCrossEntropy, CrossEntropy, MeanSquared, Objective, Options, TrainError, Trainer, checksum_all,
};
use ndarray::{Array, Array1, ArrayD, Axis, IxDyn};

fn runtime(n_threads: usize) -> Runtime {
    Runtime::new(Threads::Exactly(n_threads))
}

fn options(epochs: usize, batch_size: usize) -> Options {
    Options { epochs, batch_size, eval_batch_size: 16, seed: Seed(5), progress: false, ..Options::default() }
}

fn classifier<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hidden", 16).tanh().dropout("hidden", 0.1).dense("out", 2)
}

#[test]
fn xor_is_learned_with_one_output() {
    let mut trainer = Trainer::new(
        &runtime(1),
        |_, x| x.dense("hidden", 8).tanh().dense("out", 1),
        BinaryCrossEntropy,
        Adam::new(0.05),
        options(300, 4),
    );
    let table = xor(4, 0.0, 0);
    let history = trainer.fit(&table, Some(&table)).unwrap();
    let last = history.last().unwrap();
    assert_eq!((history.len(), last.number, last.validation_accuracy), (300, 300, Some(1.0)));
    assert!(last.train_loss < 0.05 && last.validation_loss.unwrap() < 0.05, "{last}");
}

#[test]
fn two_moons_are_learned_with_a_partial_batch() {
    // 110 = 3 · 32 + 14 in training, 75 = 4 · 16 + 11 in evaluation.
    let mut trainer = Trainer::new(&runtime(1), classifier, CrossEntropy, Adam::new(0.02), options(150, 32));
    let (train, test) = (two_moons(110, 0.1, 1), two_moons(75, 0.1, 2));
    let history = trainer.fit(&train, Some(&test)).unwrap();
    let last = history.last().unwrap();
    assert!(last.validation_accuracy.unwrap() > 0.95, "{last}");
    // The loss without dropout: that of training stays noisy.
    assert!(last.validation_loss.unwrap() < history[0].validation_loss.unwrap() / 4.0, "{last}");
    assert_eq!(trainer.store().step(), 150 * 4);

    // Prediction agrees with the accuracy that evaluation counted.
    let outputs = trainer.predict(test.features()).unwrap();
    assert_eq!(outputs.shape(), [75, 2]);
    let hits = outputs.outer_iter().zip(test.labels()).filter(|(row, label)| i64::from(row[1] > row[0]) == **label);
    assert_eq!(hits.count() as f64 / 75.0, last.validation_accuracy.unwrap());
}

#[test]
fn a_linear_model_recovers_its_weights() {
    let mut trainer = Trainer::new(&runtime(1), |_, x| x.dense("out", 1), MeanSquared, Sgd::new(0.1), options(60, 50));
    let history = trainer.fit(&linear_regression(130, &[2.0, -1.0], 0.5, 0.0, 3), None).unwrap();
    let last = history.last().unwrap();
    assert!(last.train_loss < 1e-8 && last.validation_loss.is_none() && last.validation_accuracy.is_none(), "{last}");
    let weights = trainer.store().get("out.weight").unwrap().to_f64();
    assert!((weights[0] - 2.0).abs() < 1e-3 && (weights[1] + 1.0).abs() < 1e-3, "{weights:?}");
}

/// Losses, checksum of the weights and checksum of everything.
fn fingerprint(n_threads: usize, fuse: bool, seed: u64) -> (Vec<u64>, u64, u64) {
    let options = Options { seed: Seed(seed), compiler: Compiler::new().fuse(fuse), ..options(3, 32) };
    let mut trainer = Trainer::new(&runtime(n_threads), classifier, CrossEntropy, Momentum::new(0.1, 0.9), options);
    let history = trainer.fit(&two_moons(110, 0.2, 1), Some(&two_moons(50, 0.2, 2))).unwrap();
    let losses = history.iter().flat_map(|e| [e.train_loss.to_bits(), e.validation_loss.unwrap().to_bits()]).collect();
    (losses, trainer.weights_checksum().unwrap(), checksum_all(trainer.store()).unwrap())
}

#[test]
fn runs_have_the_same_bits_for_any_number_of_threads_and_differ_by_seed() {
    let reference = fingerprint(1, true, 7);
    assert_eq!(fingerprint(1, true, 7), reference);
    assert_eq!(fingerprint(2, true, 7), reference);
    assert_eq!(fingerprint(3, true, 7), reference);
    assert_eq!(fingerprint(2, false, 7), reference);
    let other = fingerprint(1, true, 8);
    assert!(other.0 != reference.0 && other.1 != reference.1);
    assert_ne!(reference.1, reference.2, "the second hash covers the momenta too");
}

#[test]
fn features_of_any_rank_are_accepted() {
    let x = Array::from_shape_fn(IxDyn(&[10, 2, 3]), |i| ((i[0] * 7 + i[1] * 3 + i[2]) % 5) as f32 - 2.0);
    let y = Array1::from_shape_fn(10, |i| (i % 3) as i64);
    let set = Dataset::new(x, y).unwrap();
    let mut trainer =
        Trainer::new(&runtime(1), |_, x| x.flatten().dense("out", 3), CrossEntropy, Sgd::new(0.1), options(1, 4));
    assert_eq!(trainer.fit(&set, Some(&set)).unwrap().len(), 1);
}

#[test]
fn evaluation_changes_nothing_and_is_the_mean_over_examples() {
    let set = two_moons(37, 0.1, 1);
    let mut trainer = Trainer::new(&runtime(1), classifier, CrossEntropy, Adam::new(0.1), options(1, 8));
    let in_parts = trainer.evaluate(&set).unwrap();
    let before = checksum_all(trainer.store()).unwrap();
    assert_eq!(trainer.evaluate(&set).unwrap(), in_parts);
    assert_eq!((checksum_all(trainer.store()).unwrap(), trainer.store().step()), (before, 0));
    let whole = Options { eval_batch_size: usize::MAX, ..options(1, 8) };
    let mut other = Trainer::new(&runtime(1), classifier, CrossEntropy, Adam::new(0.1), whole);
    let at_once = other.evaluate(&set).unwrap();
    assert!((at_once.loss - in_parts.loss).abs() < 1e-6 && at_once.accuracy == in_parts.accuracy);
}

#[test]
fn a_word_after_each_epoch_sets_the_rate_and_stops() {
    let set = two_moons(64, 0.1, 1);
    let mut trainer = Trainer::new(&runtime(1), classifier, CrossEntropy, Sgd::new(0.5), options(10, 16));
    let mut seen = Vec::new();
    let history = trainer
        .fit_with(
            &set,
            None,
            after_epoch(|epoch, store| {
                seen.push(epoch.number);
                store.set("optimizer.lr", 0.0f32)?;
                Ok(if epoch.number == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            }),
        )
        .unwrap();
    assert_eq!((seen, history.len()), (vec![1, 2, 3], 3));
    // With a rate of zero nothing moves any more; another call goes on where this one ended.
    let frozen = trainer.weights_checksum().unwrap();
    let more = trainer.fit(&set, None).unwrap();
    assert_eq!((trainer.weights_checksum().unwrap(), more[0].number), (frozen, 4));
}

fn refused(objective: impl Objective, options: Options, train: &impl Examples, test: Option<&dyn Examples>) -> String {
    let mut trainer = Trainer::new(&runtime(1), classifier, objective, Sgd::new(0.1), options);
    let error = trainer.fit(train, test).unwrap_err();
    assert_eq!(trainer.store().step(), 0, "nothing was trained");
    error.to_string()
}

#[test]
fn bad_arguments_and_sets_are_refused_before_the_first_step() {
    let good = two_moons(10, 0.1, 1);
    let empty = good.head(0);
    let labeled = |label: i64| {
        let (x, mut y) = good.clone().into_parts();
        y[7] = label;
        Dataset::new(x, y).unwrap()
    };
    let check = |text: String, expected: &str| assert!(text.contains(expected), "{text:?} should say {expected:?}");
    check(refused(CrossEntropy, options(1, 0), &good, None), "batch_size: required at least 1, got 0");
    check(refused(CrossEntropy, options(1, 4), &empty, None), "training set: required at least one example, got 0");
    check(refused(CrossEntropy, options(1, 4), &good, Some(&empty)), "evaluation set: required at least one example");
    let zero = Options { eval_batch_size: 0, ..options(1, 4) };
    check(refused(CrossEntropy, zero, &good, Some(&good)), "eval_batch_size: required at least 1, got 0");
    let class = "label of example 7: required a class in 0..2, got ";
    check(refused(CrossEntropy, options(1, 4), &labeled(2), None), &format!("{class}2"));
    check(refused(CrossEntropy, options(1, 4), &labeled(-1), None), &format!("{class}-1"));
    check(refused(CrossEntropy, options(1, 4), &good, Some(&labeled(9))), &format!("{class}9"));
    // A model with two outputs a row is no model for a binary objective: the graph's own error.
    check(refused(BinaryCrossEntropy, options(1, 4), &good, None), "error[E0101]");
    // Labels of floats are no classes.
    let (x, y) = good.clone().into_parts();
    let floats = Dataset::new(x, y.mapv(|label| label as f32)).unwrap();
    check(refused(CrossEntropy, options(1, 4), &floats, None), "error[E0102]");
}

#[test]
fn a_model_without_parameters_and_other_features_are_refused() {
    let set = two_moons(10, 0.1, 1);
    let mut trainer = Trainer::new(&runtime(1), |_, x| x, CrossEntropy, Sgd::new(0.1), options(1, 4));
    let error = trainer.fit(&set, None).unwrap_err();
    assert!(matches!(error, TrainError::Compile(_)) && error.to_string().contains("parameters"), "{error}");

    let mut trainer = Trainer::new(&runtime(1), classifier, CrossEntropy, Sgd::new(0.1), options(1, 4));
    trainer.fit(&set, None).unwrap();
    let wider = Dataset::new(ArrayD::zeros(IxDyn(&[4, 3])), Array1::<i64>::zeros(4)).unwrap();
    let error = trainer.evaluate(&wider).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, TrainError::Invalid { .. }) && text.contains("hidden.weight"), "{error}");
    assert!(
        text.starts_with(
            "field `x`: required f32 rows of shape [2], which this model was made for, got f32 rows of shape [3]"
        ),
        "{error}"
    );
    let error = trainer.predict(wider.features()).unwrap_err().to_string();
    assert!(error.starts_with("field `x`: required f32 rows of shape [2]"), "{error}");
    let none = set.features().slice_axis(Axis(0), ndarray::Slice::from(..0)).to_owned();
    assert!(matches!(trainer.predict(none.view()), Err(TrainError::Invalid { .. })));
}

#[test]
fn errors_print_as_text_and_point_at_the_users_lines() {
    let set = two_moons(10, 0.1, 1);
    let place = |line: u32| format!("{}:{line}", file!());

    // A mistake in the model is at its line, and the features come from the call of `fit`.
    let (first, runtime) = (line!() + 1, runtime(1));
    let mut trainer = Trainer::new(&runtime, |_, x| x.reshape([7]), CrossEntropy, Sgd::new(0.1), options(1, 4));
    let (error, line) = (trainer.fit(&set, None).unwrap_err(), line!());
    let text = format!("{error:?}");
    assert_eq!(text, error.to_string(), "what `main` prints is what `Display` says");
    assert!(text.starts_with("error[E0101]: `reshape` requires as many elements"), "{text}");
    assert!(text.contains(&format!("--> {}", place(first))) && text.contains(&place(line)), "{text}");

    // Objective and optimizer were given where the trainer was made.
    let (mut trainer, line) =
        (Trainer::new(&runtime, classifier, BinaryCrossEntropy, Sgd::new(0.1), options(1, 4)), line!());
    let text = format!("{:?}", trainer.fit(&set, None).unwrap_err());
    assert!(text.contains(&format!("--> {}", place(line))), "{text}");
    let (mut trainer, line) =
        (Trainer::new(&runtime, classifier, CrossEntropy, Sgd::new(-0.1), options(1, 4)), line!());
    let text = format!("{:?}", trainer.fit(&set, None).unwrap_err());
    assert!(text.contains("learning rate") && text.contains(&format!("--> {}", place(line))), "{text}");
    let recipe = Recipe::new().clip_norm(f64::NAN);
    let (mut trainer, line) =
        (Trainer::new(&runtime, classifier, CrossEntropy, Sgd::new(0.1).with(recipe), options(1, 4)), line!());
    let text = format!("{:?}", trainer.fit(&set, None).unwrap_err());
    assert!(text.contains("clip_norm") && text.contains(&format!("--> {}", place(line))), "{text}");

    // No message names a file of this library.
    let mut trainer = Trainer::new(&runtime, classifier, CrossEntropy, Sgd::new(0.1), options(1, 4));
    trainer.fit(&set, None).unwrap();
    let wider = Dataset::new(ArrayD::zeros(IxDyn(&[4, 3])), Array1::<i64>::zeros(4)).unwrap();
    for error in [trainer.evaluate(&wider).unwrap_err(), trainer.predict(wider.features()).unwrap_err()] {
        assert!(!error.to_string().contains("src/"), "{error}");
    }
}

#[test]
fn an_optimizer_can_be_chosen_at_run_time() {
    for optimizer in [Box::new(Sgd::new(0.1)) as Box<dyn Optimizer>, Box::new(Adam::new(0.01))] {
        let mut trainer = Trainer::new(&runtime(1), classifier, CrossEntropy, optimizer, options(2, 8));
        let history = trainer.fit(&two_moons(20, 0.1, 1), None).unwrap();
        assert!(history[1].train_loss.is_finite());
    }
}
