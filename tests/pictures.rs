//! What convolutional nets learn of pictures of digits: to read them, labels without meaning, to squeeze them, and what helps with
//! other digits.

use cotangent::data::safetensors::Tensors;
use cotangent::data::{Dataset, Mnist};
use cotangent::prelude::*;
use cotangent::train::{CrossEntropy, Options, Trainer};

/// Features of pictures `[n, 784]` by two convolutions: `[n, 128]`.
fn trunk(pictures: Tensor<'_>) -> Tensor<'_> {
    let halved = MaxPool::new(&[2, 2]);
    let x = pictures.reshape([pictures.dim(0), 28, 28, 1]).layer("first", Conv::new(4, &[5, 5])).relu();
    let x = x.layer("pool_first", &halved).layer("second", Conv::new(8, &[5, 5])).relu();
    x.layer("pool_second", &halved).flatten()
}

fn net<'g>(_: &'g GraphBuilder, pictures: Tensor<'g>) -> Tensor<'g> {
    trunk(pictures).dense("hidden", 64).relu().dense("out", 10)
}

fn options(epochs: usize) -> Options {
    Options { epochs, batch_size: 20, eval_batch_size: 500, seed: Seed(1), progress: false, ..Options::default() }
}

fn runtime() -> Runtime {
    Runtime::new(Threads::Exactly(2))
}

fn mnist(n_train: usize, n_test: usize) -> [Dataset; 2] {
    let (train, test) = Mnist::find().unwrap().into_parts();
    [train.into_dataset().head(n_train), test.into_dataset().head(n_test)]
}

#[test]
fn shuffled_labels_are_learned_by_heart_and_are_of_no_use() {
    let [train, test] = mnist(200, 500);
    let (_, labels) = train.shuffled_batches(train.len(), 1).next().unwrap();
    assert_ne!(labels, train.labels());
    let shuffled = Dataset::new(train.features().to_owned(), labels).unwrap();
    let accuracies = |set: &Dataset| {
        let mut trainer = Trainer::new(&runtime(), net, CrossEntropy, Adam::new(3e-3), options(60));
        trainer.fit(set, None).unwrap();
        [set, &test].map(|set| trainer.evaluate(set).unwrap().accuracy.unwrap())
    };
    let [known, guessed] = accuracies(&train);
    assert!(known == 1.0 && guessed > 0.75, "{known} {guessed}");
    let [known, guessed] = accuracies(&shuffled);
    assert!(known > 0.9 && guessed < 0.25, "{known} {guessed}");
}

/// Every element of `[n, h, w, c]` four times: `[n, 2h, 2w, c]`.
fn doubled(x: Tensor<'_>) -> Tensor<'_> {
    let [n, h, w, c] = [0, 1, 2, 3].map(|axis| x.dim(axis));
    x.reshape([n, h, 1, w, 1, c]).broadcast_to([n, h, 2, w, 2, c]).reshape([n, 2 * h, 2 * w, c])
}

#[test]
fn doubling_repeats_every_place_twice_along_both_axes() {
    let graph = build(|g| g.output("y", doubled(g.input("x", F32, [1, 2, 2, 2])))).unwrap();
    let mut session = Session::new(&runtime(), Compiler::new().compile(&graph).unwrap(), Seed(0)).unwrap();
    let x = ndarray::Array::from_iter((0..8u8).map(f32::from)).into_shape_with_order((1, 2, 2, 2)).unwrap().into_dyn();
    let y = session.step(("x", &x)).unwrap().tensor("y").unwrap();
    let expected = (0..32).map(|i| (i / 16 * 4 + i / 4 % 2 * 2 + i % 2) as f64);
    assert_eq!(y.shape()[..], [1, 4, 4, 2]);
    assert_eq!(y.to_f64(), expected.collect::<Vec<_>>());
}

#[test]
fn a_convolutional_auto_encoder_keeps_more_of_a_picture_than_the_mean_has() {
    let [train, test] = mnist(1000, 200);
    let conv = |n_filters| Conv::new(n_filters, &[3, 3]).padding(Padding::Same).init(Init::HeNormal);
    let compiled = |n: usize, training: bool| {
        let graph = build(|g| {
            let x = g.input("x", F32, [n, 784]);
            let halved = x.reshape([n, 28, 28, 1]).layer("in", conv(8)).relu().layer("pool", MaxPool::new(&[4, 4]));
            let code = halved.flatten().dense("code", 16);
            let small = code.layer("back", Dense::new(392).init(Init::HeNormal)).relu().reshape([n, 7, 7, 8]);
            let logits = doubled(doubled(small)).layer("out", conv(1)).flatten();
            if training {
                g.minimize(logits.bce_with_logits(x).mean(), Adam::new(3e-3));
            }
            g.output("error", logits.sigmoid().mse(x));
        });
        Compiler::new().compile(&graph.unwrap()).unwrap()
    };
    let mut session = Session::new(&runtime(), compiled(50, true), Seed(1)).unwrap();
    let evaluation = session.load(compiled(test.len(), false)).unwrap();
    for epoch in 0..6 {
        for (x, _) in train.shuffled_batches(50, 1).epoch(epoch) {
            session.step(("x", &x)).unwrap();
        }
    }
    let (x, _) = test.batches(test.len()).next().unwrap();
    let error = session.run(evaluation, ("x", &x)).unwrap().scalar("error").unwrap();
    let mean = train.features().mean_axis(ndarray::Axis(0)).unwrap();
    let of_mean = f64::from((&x - &mean).mapv(|d| d * d).mean().unwrap());
    assert!(error < 0.75 * of_mean, "{error} and {of_mean}");
}

/// The pictures of five digits from `first` on, labeled 0 to 4.
fn digits(set: &Dataset, first: i64) -> Dataset {
    let places: Vec<usize> = (0..set.len()).filter(|&i| (first..first + 5).contains(&set.labels()[i])).collect();
    let (x, y) = set.select(&places).unwrap().into_parts();
    Dataset::new(x, y - first).unwrap()
}

#[test]
fn a_trunk_that_learned_five_digits_serves_a_head_for_the_others() {
    let [train, test] = mnist(3000, 1000);
    let net = model(|g, x| g.scope("trunk", || trunk(x)).dense("head", 5));
    let mut teacher = Trainer::new(&runtime(), net, CrossEntropy, Adam::new(2e-3), options(4));
    teacher.fit(&digits(&train, 0), None).unwrap();
    let mut weights: Tensors = teacher.weights().unwrap();
    weights.retain(|name, _| name.starts_with("trunk."));
    assert_eq!(weights.len(), 4);

    let (few, test) = (digits(&train, 5).head(60), digits(&test, 5));
    let frozen = Adam::new(1e-2).with(Recipe::new().group(Group::named("trunk.").frozen()));
    let learner = |weights: Option<&Tensors>| {
        let mut trainer = Trainer::new(&runtime(), net, CrossEntropy, frozen.clone(), options(30));
        if let Some(weights) = weights {
            trainer.load_weights(weights, &few).unwrap();
        }
        trainer.fit(&few, None).unwrap();
        let stays = weights.is_none_or(|w| w["trunk.first.weight"] == trainer.weights().unwrap()["trunk.first.weight"]);
        assert!(stays, "what is frozen does not change");
        trainer.evaluate(&test).unwrap().accuracy.unwrap()
    };
    let (random, learned) = (learner(None), learner(Some(&weights)));
    assert!(learned > random + 0.05, "a random trunk {random}, one that learned {learned}");
}
