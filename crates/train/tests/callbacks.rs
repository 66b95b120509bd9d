//! Callbacks and weights: early stopping gives the best weights back, rates fall on a plateau, snapshots and weights of other
//! models do what they say.

use std::ops::ControlFlow::Continue;

use cotangent_data::Dataset;
use cotangent_data::synthetic::two_moons;
use cotangent_exec::{Runtime, Seed, Threads};
use cotangent_graph::{GraphBuilder, Tensor};
use cotangent_nn::{Adam, Group, Layers, Optimizer, Recipe, Sgd};
use cotangent_train::callbacks::{after_epoch, after_step};
use cotangent_train::checkpoint::{renamed, tensors_under};
use cotangent_train::{
    Callback, CrossEntropy, EarlyStopping, Epoch, Options, ReduceOnPlateau, Snapshots, TrainError, Trainer,
};

type Net = for<'g> fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>;

fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hidden", 16).tanh().dense("out", 2)
}

fn trainer<O: Optimizer>(net: Net, optimizer: O, epochs: usize) -> Trainer<Net, CrossEntropy, O> {
    let options = Options { epochs, batch_size: 16, seed: Seed(3), progress: false, ..Options::default() };
    Trainer::new(&Runtime::new(Threads::Exactly(1)), net, CrossEntropy, optimizer, options)
}

/// Few noisy examples, so that the validation loss rises again.
fn sets() -> (Dataset, Dataset) {
    (two_moons(24, 0.4, 1), two_moons(200, 0.4, 2))
}

#[test]
fn early_stopping_ends_the_run_and_gives_the_best_weights_back() {
    let (train, validation) = sets();
    let mut trainer = trainer(net, Adam::new(0.05), 500);
    let history = trainer.fit_with(&train, Some(&validation), EarlyStopping::new(7)).unwrap();
    let loss = |epoch: &Epoch| epoch.validation_loss.unwrap();
    let best = history.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap();
    let last = history.last().unwrap();
    assert!(history.len() < 500 && last.number == best.number + 7, "best {}, last {}", best.number, last.number);
    assert!(loss(last) > loss(best));
    assert_eq!(trainer.evaluate(&validation).unwrap().loss, loss(best), "the best weights, to the bit");
    // Without a validation set there is nothing to watch.
    let error = self::trainer(net, Adam::new(0.05), 2).fit_with(&train, None, EarlyStopping::new(1)).unwrap_err();
    assert!(error.to_string().contains("required a validation set"), "{error}");
}

#[test]
fn another_call_of_fit_begins_anew() {
    let (train, validation) = sets();
    let mut trainer = trainer(net, Adam::new(0.05), 500);
    let first = trainer.fit_with(&train, Some(&validation), EarlyStopping::new(3)).unwrap();
    let second = trainer.fit_with(&train, Some(&validation), EarlyStopping::new(3)).unwrap();
    assert!(!second.is_empty() && second[0].number == first.last().unwrap().number + 1, "{second:?}");
    // Its weights are its own best ones, though those of the first call, on another set, had a far lower loss.
    let loss = |epoch: &Epoch| epoch.validation_loss.unwrap();
    let hard = two_moons(100, 2.0, 5);
    let third = trainer.fit_with(&train, Some(&hard), EarlyStopping::new(3)).unwrap();
    let best = third.iter().map(loss).fold(f64::INFINITY, f64::min);
    assert!(best > second.iter().map(loss).fold(f64::INFINITY, f64::min));
    assert_eq!(trainer.evaluate(&hard).unwrap().loss, best);
}

#[test]
fn the_rate_falls_on_a_plateau() {
    let (train, validation) = sets();
    // With a rate of zero the loss never falls: the first epoch is the best, and every second one after that is too much.
    let mut trainer = trainer(net, Sgd::new(0.5), 6);
    let mut set = false;
    let rates = trainer
        .fit_with(
            &train,
            Some(&validation),
            (
                after_step(|_, store| {
                    if !std::mem::replace(&mut set, true) {
                        store.set("optimizer.lr", 1e-30f32)?;
                    }
                    Ok(Continue(()))
                }),
                ReduceOnPlateau::new(0.5, 2).min_rate(3e-31),
            ),
        )
        .unwrap();
    assert!(set && rates.iter().all(|epoch| epoch.validation_loss == rates[0].validation_loss));
    let rate = trainer.store().get("optimizer.lr").unwrap().as_scalar().unwrap();
    assert!((rate - 3e-31).abs() < 1e-36, "halved after epochs 3 and 5, and not below the least: {rate}");
}

#[test]
fn snapshots_are_the_weights_of_their_epochs() {
    let (train, validation) = sets();
    let mut trainer = trainer(net, Adam::new(0.05), 7);
    let history = trainer.fit_with(&train, Some(&validation), Snapshots::every(3)).unwrap();
    let snapshots = Snapshots::taken(trainer.store());
    assert_eq!(snapshots.len(), 2);
    let before = trainer.weights_checksum();
    for (snapshot, epoch) in snapshots.iter().zip([3, 6]) {
        let loss = trainer.with_values(snapshot, |trainer| trainer.evaluate(&validation).unwrap().loss).unwrap();
        assert_eq!(Some(loss), history[epoch - 1].validation_loss, "epoch {epoch}");
        assert_eq!(trainer.weights_checksum(), before, "the old values are back");
    }
}

#[test]
fn averaged_weights_are_evaluated_in_place_of_the_last() {
    let (train, validation) = sets();
    let mut trainer = trainer(net, Sgd::new(0.5).with(Recipe::new().average(0.9)), 20);
    trainer.fit(&train, None).unwrap();
    let last = trainer.evaluate(&validation).unwrap().loss;
    let averages = tensors_under(trainer.store(), "average");
    assert_eq!(averages.len(), 4);
    let averaged = trainer.with_values(&averages, |trainer| trainer.evaluate(&validation).unwrap().loss).unwrap();
    assert!(averaged.is_finite() && averaged != last);
    assert_eq!(trainer.evaluate(&validation).unwrap().loss, last);
}

#[test]
fn batches_grow_as_told_and_share_the_parameters() {
    let train = two_moons(48, 0.2, 1);
    let options = Options {
        epochs: 5,
        batch_size: 8,
        batch_sizes: vec![(4, 48), (2, 12)],
        progress: false,
        ..Options::default()
    };
    let mut trainer =
        Trainer::new(&Runtime::new(Threads::Exactly(1)), net as Net, CrossEntropy, Adam::new(0.02), options);
    let history = trainer.fit(&train, None).unwrap();
    let sizes: Vec<usize> = history.iter().map(|epoch| epoch.batch_size).collect();
    assert_eq!(sizes, [8, 12, 12, 48, 48]);
    assert_eq!(trainer.store().step(), 6 + 4 + 4 + 1 + 1);
    assert!(history[4].train_loss < history[0].train_loss);
}

#[test]
fn weights_go_to_another_model_under_other_names() {
    fn other<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
        x.dense("body.hidden", 16).tanh().dense("head", 2)
    }
    let (train, _) = sets();
    let mut teacher = trainer(net, Adam::new(0.05), 5);
    teacher.fit(&train, None).unwrap();
    let weights = renamed(teacher.checkpoint().tensors, |name| {
        let is_body = name.starts_with("hidden.") || name == "out.bias";
        is_body.then(|| format!("body.{name}"))
    })
    .unwrap();

    let frozen = Adam::new(0.05).with(Recipe::new().group(Group::named("body.").frozen()));
    let mut student = trainer(other, frozen, 5);
    let loaded = student.load_weights(&weights, &train).unwrap();
    assert_eq!(loaded.taken, ["body.hidden.bias", "body.hidden.weight"]);
    assert_eq!(loaded.missing, ["head.weight", "head.bias"]);
    assert_eq!(loaded.unused, ["body.out.bias"]);
    let history = student.fit(&train, None).unwrap();
    assert!(history[4].train_loss < history[0].train_loss, "the head learns");
    let value = |name: &str| student.store().get(name).unwrap();
    assert_eq!(value("body.hidden.weight"), teacher.store().get("hidden.weight").unwrap(), "what is frozen stays");

    // Mistakes: two of one name, another shape, no name in common.
    let check = |error: TrainError, says: &str| assert!(error.to_string().contains(says), "{error}");
    check(renamed(weights.clone(), |_| Some("w".to_owned())).unwrap_err(), "`w` twice");
    let mut fresh = trainer(other, Adam::new(0.05), 1);
    let mut wrong = weights.clone();
    wrong.insert("body.hidden.weight".to_owned(), weights["body.hidden.bias"].clone());
    check(fresh.load_weights(&wrong, &train).unwrap_err(), "weights of `body.hidden.weight`: required f32[2,16]");
    let nothing = renamed(weights, |name| Some(format!("x.{name}"))).unwrap();
    check(fresh.load_weights(&nothing, &train).unwrap_err(), "required names of the model, as body.hidden.weight");
    assert_eq!(fresh.store().iter().count(), 0);
}

#[test]
fn callbacks_run_in_order_and_their_errors_end_the_run() {
    let (train, _) = sets();
    let order = std::cell::RefCell::new(Vec::new());
    let note = |name: &'static str| {
        let order = &order;
        after_epoch(move |epoch, _| {
            order.borrow_mut().push((name, epoch.number));
            Ok(Continue(()))
        })
    };
    let boxed: Box<dyn Callback + '_> = Box::new(note("second"));
    trainer(net, Sgd::new(0.1), 2).fit_with(&train, None, (note("first"), boxed)).unwrap();
    assert_eq!(*order.borrow(), [("first", 1), ("second", 1), ("first", 2), ("second", 2)]);
    let fail = after_epoch(|_, store| {
        store.set("optimizer.rate", 0f32)?;
        Ok(Continue(()))
    });
    let mut failing = trainer(net, Sgd::new(0.1), 2);
    let error = failing.fit_with(&train, None, fail).unwrap_err();
    assert!(matches!(error, TrainError::Step(_)), "{error}");
    assert_eq!(failing.history().len(), 1, "the epoch is done");
    assert_eq!(failing.fit(&train, None).unwrap().len(), 2, "the next call finishes the one that was interrupted");
}
