//! Callbacks and weights: early stopping gives the best weights back, rates fall on a plateau, snapshots and weights of other
//! models do what they say.

use std::ops::ControlFlow::Continue;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use cotangent_data::Dataset;
use cotangent_data::synthetic::two_moons;
use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
use cotangent_graph::DType::F32;
use cotangent_graph::{GraphBuilder, Init, Tensor, TensorData, build};
use cotangent_nn::{Adam, Group, Layers, Minimize, Optimizer, Recipe, Sgd};
use cotangent_train::callbacks::{after_epoch, after_step};
use cotangent_train::checkpoint::{renamed, tensors_under};
use cotangent_train::{
    Callback, Checkpoint, CrossEntropy, EarlyStopping, Epoch, Options, ReduceOnPlateau, Snapshots, TrainError, Trainer,
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

/// A rate that a schedule or somebody has made smaller than the least one is not raised.
#[test]
fn a_plateau_never_raises_the_rate() {
    let graph = build(|g| g.minimize(g.param("w", F32, [], Init::ONES).square(), Sgd::new(1e-5))).unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(1)).unwrap();
    let plateau = ReduceOnPlateau::new(0.5, 1).min_rate(1e-3);
    for loss in [1.0, 1.0, f64::NAN, f64::INFINITY] {
        plateau.observe(loss, session.store_mut()).unwrap();
        assert_eq!(session.store().get("optimizer.lr").unwrap().as_scalar(), Some(f64::from(1e-5f32)));
    }
}

#[test]
fn snapshots_are_the_weights_of_their_epochs() {
    let (train, validation) = sets();
    let mut trainer = trainer(net, Adam::new(0.05), 7);
    let history = trainer.fit_with(&train, Some(&validation), Snapshots::every(3)).unwrap();
    let snapshots = Snapshots::taken(trainer.store()).unwrap();
    assert_eq!(snapshots.len(), 2);
    let before = trainer.weights_checksum().unwrap();
    for (snapshot, epoch) in snapshots.iter().zip([3, 6]) {
        let loss = trainer.with_values(snapshot, |trainer| trainer.evaluate(&validation).unwrap().loss).unwrap();
        assert_eq!(Some(loss), history[epoch - 1].validation_loss, "epoch {epoch}");
        assert_eq!(trainer.weights_checksum().unwrap(), before, "the old values are back");
    }
}

#[test]
fn averaged_weights_are_evaluated_in_place_of_the_last() {
    let (train, validation) = sets();
    let mut trainer = trainer(net, Sgd::new(0.5).with(Recipe::new().average(0.9)), 20);
    trainer.fit(&train, None).unwrap();
    let last = trainer.evaluate(&validation).unwrap().loss;
    let averages = tensors_under(trainer.store(), "average").unwrap();
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
    let weights = renamed(teacher.checkpoint().unwrap().tensors, |name| {
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

/// A callback may fail, or panic, after any step, the last of an epoch included: the next call goes on as if it had not.
#[test]
fn a_run_goes_on_after_a_callback_that_failed() {
    let (train, validation) = sets();
    let whole = || trainer(net, Adam::new(0.05), 3);
    let mut expected = whole();
    let history = expected.fit(&train, Some(&validation)).unwrap();
    let losses = |history: &[Epoch]| history.iter().map(|e| (e.train_loss, e.validation_loss)).collect::<Vec<_>>();
    for panics in [false, true] {
        for bad in 1..=expected.store().step() {
            let mut trainer = whole();
            let fails = after_step(move |step, _| match step.number == bad {
                true if panics => panic!("on purpose"),
                true => {
                    Err(TrainError::Invalid { of: "step".into(), required: "another".into(), got: bad.to_string() })
                }
                false => Ok(Continue(())),
            });
            let failed = catch_unwind(AssertUnwindSafe(|| trainer.fit_with(&train, Some(&validation), fails)));
            assert_eq!(failed.is_err(), panics);
            assert!(failed.is_err() || failed.is_ok_and(|result| result.is_err()));
            let rest = trainer.fit(&train, Some(&validation)).unwrap_or_else(|e| panic!("after step {bad}: {e}"));
            assert_eq!(losses(&rest), losses(&history), "after step {bad}");
            assert_eq!(trainer.weights_checksum().unwrap(), expected.weights_checksum().unwrap(), "after step {bad}");
        }
    }
}

#[test]
fn values_are_back_after_a_panic() {
    let (train, _) = sets();
    let mut trainer = trainer(net, Adam::new(0.05), 1);
    trainer.fit(&train, None).unwrap();
    let before = trainer.weights_checksum().unwrap();
    let mut zeros = trainer.weights().unwrap();
    zeros.values_mut().for_each(|value| *value = TensorData::zeros(value.dtype(), &value.shape()));
    let panicked = catch_unwind(AssertUnwindSafe(|| trainer.with_values(&zeros, |_| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(trainer.weights_checksum().unwrap(), before);
}

#[test]
fn numbers_without_meaning_are_refused_before_the_first_step() {
    let (train, validation) = sets();
    let check = |callback: &mut dyn Callback, says: &str| {
        let mut trainer = trainer(net, Adam::new(0.05), 2);
        let error = trainer.fit_with(&train, Some(&validation), callback).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!(trainer.store().step(), 0, "{says}");
    };
    for wrong in [f64::NAN, f64::INFINITY, -1.0] {
        check(&mut EarlyStopping::new(1).min_change(wrong), "min_change of early_stopping");
        check(&mut ReduceOnPlateau::new(0.5, 1).min_change(wrong), "min_change of plateau");
        check(&mut ReduceOnPlateau::new(0.5, 1).min_rate(wrong), "min_rate on a plateau");
        check(&mut ReduceOnPlateau::new(wrong, 1), "factor of the rate on a plateau");
    }
}

/// As many epochs as a number can count, ended by a callback; and then once more.
#[test]
fn epochs_without_end_are_ended_by_callbacks() {
    let (train, validation) = sets();
    let mut trainer = trainer(net, Adam::new(0.05), usize::MAX);
    for calls in 1..=2 {
        trainer.fit_with(&train, Some(&validation), after_epoch(|_, _| Ok(std::ops::ControlFlow::Break(())))).unwrap();
        assert_eq!(trainer.history().len(), calls);
    }
}

/// Of several values one of which is wrong, none is put in.
#[test]
fn values_that_are_none_of_their_type_change_nothing() {
    let (train, _) = sets();
    let mut trainer = trainer(net, Adam::new(0.05), 1);
    trainer.fit(&train, None).unwrap();
    let before = trainer.weights_checksum().unwrap();
    let mut values = trainer.weights().unwrap();
    values.values_mut().for_each(|value| *value = TensorData::zeros(value.dtype(), &value.shape()));
    let (_, last) = values.iter_mut().next_back().unwrap();
    *last = vec![0f32; 31].into();
    let error = trainer.with_values(&values, |_| ()).unwrap_err().to_string();
    assert!(error.contains("requires f32[16,2], got f32[31]"), "{error}");
    assert_eq!(trainer.weights_checksum().unwrap(), before);
}

const LIMITED: &str = "TEST_OF_LIMITED_MEMORY";

/// In a process of its own, whose environment limits memory to less than the largest weight, which the compiler may take.
#[test]
fn values_that_there_is_no_memory_for_are_not_left_out() {
    if std::env::var_os(LIMITED).is_some() {
        let (train, _) = sets();
        let compiler = Compiler::new().memory_limit(1 << 30);
        let options = Options { epochs: 1, progress: false, compiler, ..Options::default() };
        let wide: Net = |_, x| x.dense("hidden", 400_000).tanh().dense("out", 2);
        let mut trainer = Trainer::new(&Runtime::new(Threads::Exactly(1)), wide, CrossEntropy, Sgd::new(0.1), options);
        trainer.fit(&train, None).unwrap();
        for error in [
            trainer.checkpoint().unwrap_err(),
            trainer.weights().unwrap_err(),
            trainer.weights_checksum().unwrap_err(),
            Checkpoint::of_store(trainer.store()).unwrap_err().into(),
            tensors_under(trainer.store(), "hidden").unwrap_err().into(),
        ] {
            assert!(error.to_string().contains("E0309") && error.to_string().contains("a copy of `"), "{error}");
        }
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "values_that_there_is_no_memory_for_are_not_left_out"]);
    let output = child.envs([(LIMITED, "1"), ("COTANGENT_MEMORY", "2000000")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
