//! Layers, losses and ways of training, through the facade alone: derivatives of every layer, and what the lecture says that
//! each cure does.

use cotangent::data::{LastBatch, Mnist};
use cotangent::passes::{GradCheck, check_gradients};
use cotangent::prelude::*;
use ndarray::{Array1, Array2};

fn compiled(f: impl FnOnce(&GraphBuilder)) -> std::sync::Arc<Executable> {
    let graph = build(f).unwrap_or_else(|diags| panic!("{diags}"));
    Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"))
}

fn session(f: impl FnOnce(&GraphBuilder)) -> Session {
    Session::new(&Runtime::new(Threads::Exactly(1)), compiled(f), Seed(3)).unwrap()
}

/// Every layer, on features and, where it takes them, on features at several places.
fn layers() -> Vec<(&'static str, Box<dyn Layer>)> {
    vec![
        ("dense", Box::new(Dense::new(3))),
        ("drop_connect", Box::new(Dense::new(3).drop_connect(0.3).weight_noise(0.1))),
        ("prelu", Box::new(PRelu::new().per_feature())),
        ("dropout", Box::new(Dropout::new(0.3))),
        ("classic dropout", Box::new(Dropout::new(0.3).classic())),
        ("noise", Box::new(GaussianNoise::new(0.2))),
        ("batch_norm", Box::new(BatchNorm::new())),
        ("layer_norm", Box::new(LayerNorm::new())),
        ("rms_norm", Box::new(RmsNorm::new())),
        ("group_norm", Box::new(GroupNorm::new(2))),
        ("instance_norm", Box::new(InstanceNorm::new())),
        ("whitening", Box::new(Whitening::new().groups(2).iterations(4).eps(1e-2))),
        ("rnn", Box::new(Recurrent::rnn(3).layer_norm())),
        ("lstm", Box::new(Recurrent::lstm(3).layers(2).both_ways().dropout(0.3).variational())),
        ("lstm with norms", Box::new(Recurrent::lstm(3).layer_norm().recurrent_dropout(0.3))),
        ("gru", Box::new(Recurrent::gru(3).recurrent_dropout(0.2))),
        ("gru, reset before", Box::new(Recurrent::gru_reset_before(3).layer_norm())),
        ("sequential", Box::new(Sequential::new().add("a", Dense::new(5)).then(|x| x.mish()).add("b", Dense::new(2)))),
    ]
}

#[test]
fn every_layer_has_the_derivative_of_central_differences() {
    for (name, layer) in layers() {
        for mode in [Mode::Train, Mode::Evaluate] {
            let graph = build(|g| {
                g.set_mode(mode);
                // A layer before it, so that a parameter lies behind its operand too.
                let x = g.input("x", F32, [6, 2, 3]).layer("before", Dense::new(4)).tanh();
                let y = x.layer("l", &layer);
                g.output("loss", (y.sin() * y).mean());
            })
            .unwrap_or_else(|diags| panic!("{name}: {diags}"));
            let report = check_gradients(&graph, &GradCheck { seed: 5, ..GradCheck::default() });
            let report = report.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(report.passed() && report.entries.len() >= 2, "{name}, {mode:?}: {report}");
            assert!(report.entries.iter().all(|e| e.worst_relative < 1e-5), "{name}, {mode:?}: {report}");
        }
    }
}

#[test]
fn every_loss_has_the_derivative_of_central_differences() {
    type Loss = for<'g> fn(Tensor<'g>, Tensor<'g>, Tensor<'g>) -> Tensor<'g>;
    let losses: [(&str, Loss); 11] = [
        ("cross_entropy", |a, y, _| a.cross_entropy(y).mean()),
        ("smoothing, weights, ignored label", |a, y, t| {
            let weights = t.slice(&[0, 0], &[1, 4]).reshape([4]).sigmoid();
            a.mean_cross_entropy(y, CrossEntropyOptions::new().smoothing(0.2).weights(weights).ignore(1))
        }),
        ("soft targets", |a, _, t| a.soft_cross_entropy(t.softmax(1)).mean()),
        ("distillation", |a, _, t| a.mean_distillation(t, 3.0)),
        ("nll", |a, y, _| a.log_softmax(1).nll(y).mean()),
        ("bce_with_logits", |a, _, t| a.bce_with_logits(t.sigmoid()).mean()),
        ("mse", |a, _, t| a.mse(t)),
        ("mae", |a, _, t| a.mae(t)),
        ("huber", |a, _, t| a.huber(t, 0.5).mean()),
        ("hinge", |a, _, t| a.hinge(t.sign()).mean()),
        ("kl", |a, _, t| a.log_softmax(1).kl_divergence(t.softmax(1)).mean()),
    ];
    for (name, loss) in losses {
        let graph = build(|g| {
            let logits = g.input("x", F32, [5, 3]).dense("l", 4);
            g.output("loss", loss(logits, g.input("labels", I64, [5]), g.input("targets", F32, [5, 4])));
        })
        .unwrap_or_else(|diags| panic!("{name}: {diags}"));
        let report = check_gradients(&graph, &GradCheck { seed: 2, ..GradCheck::default() });
        let report = report.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(report.passed() && report.entries.len() == 2, "{name}: {report}");
    }
}

#[test]
fn the_first_gradients_vanish_through_sigmoids_and_not_through_relus() {
    const DEPTH: usize = 12;
    let ratio = |init: Init, activation: fn(Tensor<'_>) -> Tensor<'_>| {
        let mut session = session(|g| {
            let mut x = g.input("x", F32, [32, 40]);
            for k in 0..DEPTH {
                x = activation(x.layer(&format!("l{k}"), Dense::new(40).init(init)));
            }
            let loss = x.square().mean();
            for (k, name) in [(0, "first"), (DEPTH - 1, "last")] {
                let gradient = g.grad(loss, &[g.shared(&format!("l{k}.weight"))])[0];
                g.output(name, gradient.square().sum().sqrt());
            }
        });
        let x = Array2::from_shape_fn((32, 40), |(i, j)| ((i * 37 + j * 11) as f32).sin());
        let results = session.step([("x", (&x).into())]).unwrap();
        results.scalar("first").unwrap() / results.scalar("last").unwrap()
    };
    assert!(ratio(Init::GlorotUniform, |z| z.sigmoid()) < 1e-5);
    assert!(ratio(Init::HeUniform, |z| z.relu()) > 0.05);
}

/// The largest error of the best of three nets on 64 points of [-1, 1].
fn largest_error(width: usize, scale: f64, activation: fn(Tensor<'_>) -> Tensor<'_>) -> f32 {
    let x = Array2::from_shape_fn((64, 1), |(i, _)| i as f32 / 31.5 - 1.0);
    let y = x.mapv(|x| (5.0 * x).sin());
    let error = |seed: u64| {
        let program = compiled(|g| {
            let start = Init::uniform(-scale, scale);
            let hidden = Dense::new(width).init(start).bias_init(start);
            let out = activation(g.input("x", F32, [64, 1]).layer("hidden", hidden)).dense("out", 1);
            let y = g.input("y", F32, [64, 1]);
            g.output("worst", (out - y).abs().max_over([0, 1]));
            g.minimize(out.mse(y), Adam::new(0.03).with(Recipe::new().schedule(Schedule::cosine(2000))));
        });
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(seed)).unwrap();
        let mut worst = f64::INFINITY;
        for _ in 0..2000 {
            worst = session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap().scalar("worst").unwrap();
        }
        worst as f32
    };
    (0..3).map(error).fold(f32::INFINITY, f32::min)
}

#[test]
fn wider_layers_come_closer_and_layers_of_polynomials_do_not() {
    let sigmoids = [1, 3, 24].map(|width| largest_error(width, 4.0 + width as f64, |z| z.sigmoid()));
    assert!(sigmoids.is_sorted_by(|a, b| *a > 1.5 * b) && sigmoids[2] < 0.1, "{sigmoids:?}");
    // The best parabola and the best cubic stay where they are, however many neurons they are made of.
    let powers: [fn(Tensor<'_>) -> Tensor<'_>; 2] = [|z| (z * 0.25).square(), |z| (z * 0.25).square() * (z * 0.25)];
    for power in powers {
        let errors = [4, 32].map(|width| largest_error(width, 4.0, power));
        assert!(errors.iter().all(|&e| e > 0.3), "{errors:?}");
    }
}

#[test]
fn programs_of_several_batch_sizes_share_parameters_and_optimizer() {
    let n = 96;
    let x = Array2::from_shape_fn((n, 3), |(i, j)| ((i * 29 + j * 13) % 17) as f32 / 8.0 - 1.0);
    let y = Array1::from_shape_fn(n, |i| i64::from(x[[i, 0]] + x[[i, 1]] > 0.0));
    let train = |rows: usize| {
        compiled(|g| {
            let logits = g.input("x", F32, [rows, 3]).dense("hidden", 8).tanh().dense("out", 2);
            let loss = logits.cross_entropy(g.input("y", I64, [rows])).mean();
            g.output("loss", loss);
            g.minimize(loss, Adam::new(0.02));
        })
    };
    // Larger batches instead of a smaller rate (Smith et al. 2017): each size is compiled once.
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), train(8), Seed(1)).unwrap();
    let programs =
        [(8, session.main()), (32, session.load(train(32)).unwrap()), (96, session.load(train(96)).unwrap())];
    let mut losses = Vec::new();
    for (rows, program) in programs {
        let mut mean = 0.0;
        for epoch in 0..20 {
            mean = 0.0;
            for start in (0..n).step_by(rows) {
                let (x, y) = (x.slice(ndarray::s![start..start + rows, ..]), y.slice(ndarray::s![start..start + rows]));
                let loss = session.run(program, [("x", x.into()), ("y", y.into())]).unwrap().scalar("loss").unwrap();
                mean += loss * rows as f64 / n as f64;
            }
            assert!(mean.is_finite(), "epoch {epoch}");
        }
        losses.push(mean);
    }
    assert!(losses.is_sorted_by(|a, b| a > b) && losses[2] < 0.2, "{losses:?}");
    // One optimiser counted all of the steps.
    assert_eq!(session.store().get("optimizer.t").unwrap().as_scalar(), Some(20.0 * (12.0 + 3.0 + 1.0)));
}

#[test]
fn a_classifier_starts_from_the_encoder_of_an_auto_encoder() {
    let mnist = Mnist::find().unwrap();
    let (few, many) = (mnist.train().dataset().head(60), mnist.train().dataset().head(1000));
    let test = mnist.test().dataset().head(500);
    fn encoder(pictures: Tensor<'_>) -> Tensor<'_> {
        pictures.dense("encoder", 64).relu()
    }
    fn logits(pictures: Tensor<'_>) -> Tensor<'_> {
        encoder(pictures).dense("head", 10)
    }
    let auto_encoder = || {
        compiled(|g| {
            let x = g.input("x", F32, [50, 784]);
            let decoded = encoder(x.dropout("holes", 0.3)).dense("decoder", 784);
            let loss = decoded.bce_with_logits(x).mean();
            g.output("loss", loss);
            g.scope("unsupervised", || g.minimize(loss, Adam::new(2e-3)));
        })
    };
    let classifier = |rows: usize, training: bool| {
        compiled(|g| {
            let (x, y) = (g.input("x", F32, [rows, 784]), g.input("y", I64, [rows]));
            let logits = logits(x);
            g.output("accuracy", logits.accuracy(y));
            if training {
                g.minimize(logits.cross_entropy(y).mean(), Adam::new(2e-3));
            }
        })
    };
    let runtime = Runtime::new(Threads::Exactly(1));
    let mut session = Session::new(&runtime, auto_encoder(), Seed(1)).unwrap();
    let mut losses = Vec::new();
    for epoch in 0..6 {
        for (x, _) in many.shuffled_batches(50, 1).epoch(epoch).last(LastBatch::Drop) {
            losses.push(session.step([("x", (&x).into())]).unwrap().scalar("loss").unwrap());
        }
    }
    assert!(losses[losses.len() - 1] < 0.5 * losses[0], "{losses:?}");
    // The encoder's weights are in the store already; the head is new, and so is the optimiser.
    let encoder = session.store().get("encoder.weight").unwrap().bits();
    let train = session.load(classifier(few.len(), true)).unwrap();
    let evaluate = session.load(classifier(test.len(), false)).unwrap();
    assert_eq!(session.store().get("encoder.weight").unwrap().bits(), encoder);
    let (x, y) = few.batches(few.len()).next().unwrap();
    for _ in 0..60 {
        session.run(train, [("x", (&x).into()), ("y", (&y).into())]).unwrap();
    }
    assert_ne!(session.store().get("encoder.weight").unwrap().bits(), encoder);
    assert_eq!(session.store().get("optimizer.t").unwrap().as_scalar(), Some(60.0));
    let (x, y) = test.batches(test.len()).next().unwrap();
    let results = session.run(evaluate, [("x", (&x).into()), ("y", (&y).into())]).unwrap();
    assert!(results.scalar("accuracy").unwrap() > 0.5);
}

/// The share of the test pictures that a program with the output `n_correct` reads wrongly, in percent.
fn test_error(session: &mut Session, program: ProgramId, mnist: &Mnist) -> f64 {
    let test = mnist.test().dataset();
    let (x, y) = test.batches(test.len()).next().unwrap();
    let n_correct =
        session.run(program, [("x", (&x).into()), ("y", (&y).into())]).unwrap().scalar("n_correct").unwrap();
    100.0 * (1.0 - n_correct / test.len() as f64)
}

#[test]
fn nine_tenths_of_the_weights_can_go_if_the_others_are_trained_on() {
    const BATCH: usize = 100;
    fn net(pictures: Tensor<'_>) -> Tensor<'_> {
        pictures.dense("hidden", 100).relu().dense("out", 10)
    }
    let mnist = Mnist::find().unwrap();
    let few = mnist.train().dataset().head(6000);
    let training = build(|g| {
        let (x, y) = (g.input("x", F32, [BATCH, 784]), g.input("y", I64, [BATCH]));
        g.minimize(net(x).cross_entropy(y).mean(), Adam::new(1e-3).with(Recipe::new().masked()));
    })
    .unwrap();
    let compile = |graph: &Graph| Compiler::new().compile(graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), compile(&training), Seed(1)).unwrap();
    let prune = session.load(compile(&pruning(&training).unwrap())).unwrap();
    let n = mnist.test().len();
    let evaluation = compiled(|g| {
        g.output("n_correct", net(g.input("x", F32, [n, 784])).n_correct(g.input("y", I64, [n])));
    });
    let evaluate = session.load(evaluation).unwrap();
    let mut epoch = 0;
    let mut train = |session: &mut Session| {
        for _ in 0..5 {
            for (x, y) in few.shuffled_batches(BATCH, 1).epoch(epoch) {
                session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
            }
            epoch += 1;
        }
    };
    train(&mut session);
    let whole = test_error(&mut session, evaluate, &mnist);
    let mut cut = Vec::new();
    for share in [0.6f32, 0.8, 0.9] {
        session.run(prune, [("share", (&ndarray::arr0(share)).into())]).unwrap();
        cut.push(test_error(&mut session, evaluate, &mnist));
        train(&mut session);
    }
    let tuned = test_error(&mut session, evaluate, &mnist);
    assert!(whole < 9.0 && tuned < whole + 0.5, "whole {whole}, cut {cut:?}, tuned {tuned}");
    for name in ["hidden.weight", "out.weight"] {
        let values = session.store().get(name).unwrap().to_f64();
        let n_left = values.iter().filter(|v| **v != 0.0).count();
        assert!(n_left * 10 <= values.len() + 10, "{n_left} of {} weights of `{name}` are left", values.len());
    }
}

#[test]
fn a_narrow_deep_net_learns_more_from_a_wide_shallow_one_than_from_labels() {
    const BATCH: usize = 50;
    fn teacher(pictures: Tensor<'_>) -> Tensor<'_> {
        pictures.dense("wide", 300).relu().dense("said", 10)
    }
    fn student(pictures: Tensor<'_>) -> Tensor<'_> {
        (0..3).fold(pictures, |x, layer| x.dense(&format!("narrow{layer}"), 32).relu()).dense("out", 10)
    }
    let mnist = Mnist::find().unwrap();
    let (few, many) = (mnist.train().dataset().head(500), mnist.train().dataset().head(10_000));
    fn inputs(g: &GraphBuilder) -> [Tensor<'_>; 2] {
        [g.input("x", F32, [BATCH, 784]), g.input("y", I64, [BATCH])]
    }
    let runtime = Runtime::new(Threads::Exactly(1));
    let teaching = compiled(|g| {
        let [x, y] = inputs(g);
        g.minimize(teacher(x).cross_entropy(y).mean(), Adam::new(1e-3));
    });
    let mut session = Session::new(&runtime, teaching, Seed(1)).unwrap();
    for epoch in 0..3 {
        for (x, y) in many.shuffled_batches(BATCH, 1).epoch(epoch) {
            session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
        }
    }
    // Both students live on the teacher's store, each in a scope of its own, and start from weights of the same kind.
    let mut errors = Vec::new();
    for taught in [false, true] {
        let scope = if taught { "taught" } else { "alone" };
        let step = session.load(compiled(|g| {
            let [x, y] = inputs(g);
            let said = teacher(x);
            g.scope(scope, || {
                let logits = student(x);
                let loss = if taught { logits.mean_distillation(said, 4.0) } else { logits.cross_entropy(y).mean() };
                g.minimize(loss, Adam::new(2e-3));
            });
        }));
        let step = step.unwrap();
        for epoch in 0..40 {
            for (x, y) in few.shuffled_batches(BATCH, 1).epoch(epoch) {
                session.run(step, [("x", (&x).into()), ("y", (&y).into())]).unwrap();
            }
        }
        let n = mnist.test().len();
        let evaluate = session.load(compiled(|g| {
            let (x, y) = (g.input("x", F32, [n, 784]), g.input("y", I64, [n]));
            g.scope(scope, || g.output("n_correct", student(x).n_correct(y)));
        }));
        errors.push(test_error(&mut session, evaluate.unwrap(), &mnist));
    }
    assert!(errors[1] < errors[0] - 1.0, "alone {}, taught {}", errors[0], errors[1]);
}
