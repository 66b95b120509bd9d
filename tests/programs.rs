//! Sessions: several programs on one store, values set and taken without recompilation, states carried, threads, drops.

use std::sync::Arc;
use std::thread;

use cotangent::graph::Code;
use cotangent::prelude::*;
use ndarray::{Array1, Array2, arr0, array, s};

const N_FEATURES: usize = 12;

fn logits(g: &GraphBuilder, batch: usize) -> Tensor<'_> {
    g.input("x", F32, [batch, N_FEATURES]).dense("hidden", 24).relu().dropout("drop", 0.25).dense("out", 4)
}

/// The train step of a batch size.
fn training(batch: usize) -> Arc<Executable> {
    compile(|g| {
        let logits = logits(g, batch);
        let loss = logits.cross_entropy(g.input("y", I64, [batch])).mean();
        g.output("loss", loss);
        g.minimize(loss, Adam::new(1e-2));
    })
}

/// Evaluation: no dropout, no updates.
fn evaluation(batch: usize) -> Arc<Executable> {
    compile(|g| {
        g.set_training(false);
        let logits = logits(g, batch);
        g.output("logits", logits);
        g.output("n_correct", logits.n_correct(g.input("y", I64, [batch])));
    })
}

fn compile(f: impl FnOnce(&GraphBuilder)) -> Arc<Executable> {
    Compiler::new()
        .compile(&build(f).unwrap_or_else(|diags| panic!("{diags}")))
        .unwrap_or_else(|error| panic!("{error}"))
}

fn one_thread() -> Runtime {
    Runtime::new(Threads::Exactly(1))
}

/// Rows whose label is the largest of their first four features.
fn data(n: usize) -> (Array2<f32>, Array1<i64>) {
    let x = Array2::from_shape_fn((n, N_FEATURES), |(i, j)| ((i * 37 + j * 61 + i * j * 3) % 101) as f32 / 50.0 - 1.0);
    let y = x.outer_iter().map(|row| (0..4).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as i64).collect();
    (x, y)
}

fn weights(store: &Store) -> Vec<(String, TensorData)> {
    store.iter().map(|(name, _)| (name.to_owned(), store.get(name).unwrap())).collect()
}

#[test]
fn training_evaluation_and_the_last_partial_batch_share_a_store() {
    const N: usize = 32 * 6 + 7;
    let (x, y) = data(N);
    let mut session = Session::new(&one_thread(), training(32), Seed(1)).unwrap();
    let partial = session.load(training(7)).unwrap();
    let evaluate = session.load(evaluation(N)).unwrap();
    let mut n_correct = Vec::new();
    for _ in 0..30 {
        for start in (0..N).step_by(32) {
            let end = (start + 32).min(N);
            let program = if end - start == 32 { session.main() } else { partial };
            let (x, y) = (x.slice(s![start..end, ..]), y.slice(s![start..end]));
            let loss = session.run(program, [("x", x.into()), ("y", y.into())]).unwrap().scalar("loss").unwrap();
            assert!(loss.is_finite());
        }
        let (step, before) = (session.store().step(), weights(session.store()));
        let results = session.run(evaluate, [("x", (&x).into()), ("y", (&y).into())]).unwrap();
        n_correct.push(results.scalar("n_correct").unwrap());
        assert_eq!((session.store().step(), weights(session.store())), (step, before), "evaluation changes nothing");
    }
    // Each step counts once, whatever its program.
    assert_eq!(session.store().step(), 30 * 7);
    assert_eq!(session.store().get("optimizer.t").unwrap().as_scalar(), Some(210.0));
    assert!(n_correct[29] > 0.8 * N as f64 && n_correct[29] > n_correct[0], "{n_correct:?}");
}

#[test]
fn a_program_for_other_sizes_computes_the_same_rows() {
    let (x, y) = data(32);
    let mut session = Session::new(&one_thread(), evaluation(32), Seed(1)).unwrap();
    let all = session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap().tensor("logits").unwrap().bits();
    for rows in [1, 2, 5, 31] {
        let program = session.load(evaluation(rows)).unwrap();
        let (x, y) = (x.slice(s![..rows, ..]), y.slice(s![..rows]));
        let some = session.run(program, [("x", x.into()), ("y", y.into())]).unwrap().tensor("logits").unwrap().bits();
        if rows == 1 {
            // A product with one row is a sum over a row, in lanes; its last bits are its own.
            let close = |(&x, &y): (&u64, &u64)| (f32::from_bits(x as u32) - f32::from_bits(y as u32)).abs() < 1e-5;
            assert!(some.len() == 4 && some.iter().zip(&all).all(close), "{some:?} {all:?}");
        } else {
            assert_eq!(some, all[..rows * 4], "{rows} rows");
        }
    }
}

#[test]
fn the_learning_rate_is_set_without_compiling_again() {
    let (x, y) = data(32);
    let mut session = Session::new(&one_thread(), training(32), Seed(1)).unwrap();
    let step = |session: &mut Session| {
        session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
        session.store().get("hidden.weight").unwrap()
    };
    let start = session.store().get("hidden.weight").unwrap();
    let moved = step(&mut session);
    assert_ne!(start, moved);
    session.store_mut().set("optimizer.lr", 0.0f32).unwrap();
    assert_eq!(step(&mut session), moved, "a rate of 0 moves nothing");
    session.store_mut().set("optimizer.lr", 1e-3f32).unwrap();
    assert_ne!(step(&mut session), moved);
    assert_eq!(session.store().version("optimizer.lr"), Some(2));
}

#[test]
fn the_store_checks_names_and_types() {
    let mut session = Session::new(&one_thread(), training(32), Seed(1)).unwrap();
    let before = weights(session.store());
    let mut store = session.store_mut();
    let line = line!() + 1;
    let error = store.set("hidden.wieght", array![0.0f32]).unwrap_err();
    assert_eq!((error.code, error.help.as_deref()), (Code::NoSuchValue, Some("did you mean `hidden.weight`?")));
    assert_eq!(error.at.to_string(), format!("{}:{line}", file!()));
    assert_eq!(store.get("nothing of the kind").unwrap_err().code, Code::NoSuchValue);
    for wrong in [TensorData::from(array![0.0f32]), TensorData::from(Array2::<f64>::zeros((N_FEATURES, 24)))] {
        let error = store.set("hidden.weight", wrong).unwrap_err();
        assert_eq!(error.code, Code::InputType, "{error}");
        assert!(error.message.contains("`hidden.weight` requires f32[12,24]"), "{error}");
    }
    assert_eq!(weights(&store), before);
    // A transposed array is set in logical order.
    let value = Array2::from_shape_fn((24, N_FEATURES), |(i, j)| (i * 100 + j) as f32);
    store.set("hidden.weight", value.t().to_owned()).unwrap();
    assert_eq!(store.get("hidden.weight").unwrap(), value.t().as_standard_layout().into_owned().into());
}

#[test]
fn a_store_with_other_types_is_refused() {
    let store = Session::new(&one_thread(), training(32), Seed(1)).unwrap().into_store();
    let other = compile(|g| g.output("y", g.input("x", F32, [1, 3]).dense("hidden", 24)));
    let error = Session::with_store(&one_thread(), other, store).unwrap_err();
    assert_eq!(error.code, Code::StoreMismatch, "{error}");
    assert!(error.message.contains("`hidden.weight` of type f32[3,24], the store has f32[12,24]"), "{error}");
}

#[test]
fn a_run_that_is_interrupted_goes_on_bit_by_bit() {
    let (x, y) = data(32);
    let steps = |session: &mut Session, n: usize| {
        for _ in 0..n {
            session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
        }
    };
    let mut whole = Session::new(&one_thread(), training(32), Seed(4)).unwrap();
    steps(&mut whole, 10);
    let mut first = Session::new(&one_thread(), training(32), Seed(4)).unwrap();
    steps(&mut first, 4);
    // The values, the seed and the step counter are all there is.
    let (saved, step) = (weights(first.store()), first.store().step());
    let mut store = Store::new(Seed(4));
    store.set_step(step);
    let mut second = Session::with_store(&one_thread(), training(32), store).unwrap();
    for (name, value) in saved {
        second.store_mut().set(&name, value).unwrap();
    }
    steps(&mut second, 3);
    // A store that is handed on is worth as much.
    let mut third = Session::with_store(&one_thread(), training(32), second.into_store()).unwrap();
    steps(&mut third, 3);
    assert_eq!(weights(whole.store()), weights(third.store()));
}

#[test]
fn states_are_carried_and_updates_are_simultaneous() {
    let mut session = Session::new(
        &one_thread(),
        compile(|g| {
            let a = g.state("a", I64, [], Init::ZEROS);
            let b = g.state("b", I64, [], Init::ONES);
            g.output("a", a);
            g.update(a, b);
            g.update(b, a + b);
        }),
        Seed(0),
    )
    .unwrap();
    let fibonacci: Vec<f64> =
        (0..12).map(|_| session.step(Vec::<(&str, HostTensor<'_>)>::new()).unwrap().scalar("a").unwrap()).collect();
    assert_eq!(fibonacci, [0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 89.0]);
}

#[test]
fn two_parameters_are_exchanged() {
    for fuse in [true, false] {
        let graph = build(|g| {
            let a = g.param("a", F32, [5], Init::normal(0.0, 1.0));
            let b = g.param("b", F32, [5], Init::normal(0.0, 1.0));
            g.update(a, b);
            g.update(b, a);
        })
        .unwrap();
        let program = Compiler::new().fuse(fuse).compile(&graph).unwrap();
        let mut session = Session::new(&one_thread(), program, Seed(0)).unwrap();
        let (a, b) = (session.store().get("a").unwrap(), session.store().get("b").unwrap());
        assert_ne!(a, b);
        session.step(Vec::<(&str, HostTensor<'_>)>::new()).unwrap();
        assert_eq!((session.store().get("a").unwrap(), session.store().get("b").unwrap()), (b.clone(), a.clone()));
        session.step(Vec::<(&str, HostTensor<'_>)>::new()).unwrap();
        assert_eq!((session.store().get("a").unwrap(), session.store().get("b").unwrap()), (a, b));
    }
}

#[test]
fn an_output_shows_the_value_from_before_the_update() {
    let mut session = Session::new(
        &one_thread(),
        compile(|g| {
            let w = g.param("w", F32, [3], Init::ONES);
            g.output("w", w);
            g.output("twice", w * 2.0);
            g.update(w, w + g.input("x", F32, []));
        }),
        Seed(0),
    )
    .unwrap();
    let x = arr0(0.5f32);
    for k in 0..3 {
        let results = session.step([("x", (&x).into())]).unwrap();
        let w = 1.0 + 0.5 * k as f32;
        assert_eq!(results.tensor("w").unwrap(), array![w, w, w].into());
        assert_eq!(results.tensor("twice").unwrap(), array![2.0 * w, 2.0 * w, 2.0 * w].into());
    }
}

#[test]
fn a_session_moves_to_another_thread() {
    let (x, y) = data(32);
    let steps = |session: &mut Session| {
        for _ in 0..3 {
            session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
        }
    };
    let runtime = Runtime::new(Threads::Exactly(2));
    let mut stays = Session::new(&runtime, training(32), Seed(1)).unwrap();
    let mut moves = Session::new(&runtime, training(32), Seed(1)).unwrap();
    steps(&mut stays);
    steps(&mut moves);
    steps(&mut stays);
    let mut moves = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            steps(&mut moves);
            moves
        });
        worker.join().unwrap()
    });
    steps(&mut moves);
    steps(&mut stays);
    assert_eq!(weights(stays.store()), weights(moves.store()));
}

#[test]
fn two_sessions_step_at_the_same_time_on_one_runtime() {
    let (x, y) = data(256);
    let program = training(256);
    let run = |runtime: &Runtime, seed: u64| {
        let mut session = Session::new(runtime, program.clone(), Seed(seed)).unwrap();
        for _ in 0..50 {
            session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
        }
        weights(session.store())
    };
    let alone = [1, 2].map(|seed| run(&one_thread(), seed));
    assert_ne!(alone[0], alone[1]);
    let runtime = Runtime::new(Threads::Exactly(2));
    let together = thread::scope(|scope| {
        let workers = [1, 2].map(|seed| {
            let (runtime, run) = (&runtime, &run);
            scope.spawn(move || run(runtime, seed))
        });
        workers.map(|worker| worker.join().unwrap())
    });
    assert!(alone == together);
}

#[test]
fn parts_are_dropped_in_any_order() {
    let (x, y) = data(32);
    let runtime = Runtime::new(Threads::Exactly(2));
    let program = training(32);
    let mut first = Session::new(&runtime, program.clone(), Seed(1)).unwrap();
    let mut second = Session::new(&runtime, program.clone(), Seed(1)).unwrap();
    let evaluate = first.load(evaluation(32)).unwrap();
    drop(runtime);
    drop(program);
    first.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
    first.run(evaluate, [("x", (&x).into()), ("y", (&y).into())]).unwrap();
    let store = first.into_store();
    second.step([("x", (&x).into()), ("y", (&y).into())]).unwrap();
    assert_eq!(weights(&store), weights(second.store()));
    drop(second);
    assert_eq!(store.step(), 1);
}
