//! The same bits for any number of threads, fused or not: weights after 20 steps of Adam through dropout.

use cotangent::prelude::*;
use ndarray::{Array, Array1, Array2};

const N_STEPS: usize = 20;

/// A train step whose layers are long enough to be divided between threads, and whose parameters and states are too large
/// for one core's cache: smaller ones run on one thread whatever the runtime has.
fn net(g: &GraphBuilder, batch: usize) {
    let x = g.input("x", F32, [batch, 120]);
    let y = g.input("y", I64, [batch]);
    let hidden = x.dropout("noise", 0.1).dense("first", 700).tanh().dropout("drop", 0.3).dense("second", 70).gelu();
    let loss = hidden.dense("out", 10).cross_entropy(y).mean();
    g.output("loss", loss);
    g.minimize(loss, Adam::new(1e-2));
}

fn batch(batch: usize, step: usize) -> (Array2<f32>, Array1<i64>) {
    let x = Array::from_shape_fn((batch, 120), |(i, j)| ((i * 31 + j * 17 + step * 13) % 97) as f32 / 48.0 - 1.0);
    let y = Array::from_shape_fn(batch, |i| ((i * 7 + step) % 10) as i64);
    (x, y)
}

/// The losses, and everything in the store after the last step.
fn train(rows: usize, fuse: bool, n_threads: usize) -> (Vec<u64>, Vec<(String, TensorData)>) {
    let program = Compiler::new().fuse(fuse).compile(&build(|g| net(g, rows)).unwrap()).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(n_threads)), program, Seed(11)).unwrap();
    let stored: usize = session.store().iter().map(|(_, ty)| ty.n_bytes()).sum();
    assert!(stored > 1 << 20, "{stored} bytes run on one thread");
    let losses = (0..N_STEPS).map(|step| {
        let (x, y) = batch(rows, step);
        session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap().scalar("loss").unwrap().to_bits()
    });
    let losses = losses.collect();
    let store = session.store();
    (losses, store.iter().map(|(name, _)| (name.to_owned(), store.get(name).unwrap())).collect())
}

fn check(rows: usize) {
    let (losses, weights) = train(rows, true, 1);
    let first = f64::from_bits(losses[0]);
    assert!(losses.iter().all(|&loss| f64::from_bits(loss).is_finite()), "first loss {first}");
    for fuse in [true, false] {
        for n_threads in 1..=4 {
            let (other_losses, other_weights) = train(rows, fuse, n_threads);
            let what = format!("{n_threads} threads, fused: {fuse}, {rows} rows");
            assert_eq!(losses, other_losses, "losses, {what}");
            for ((name, value), other) in weights.iter().zip(&other_weights) {
                assert!(value.same_bits(&other.1), "`{name}`, {what}");
            }
        }
    }
}

#[test]
fn weights_have_the_same_bits_for_any_number_of_threads() {
    check(96);
}

#[test]
fn weights_have_the_same_bits_for_few_rows() {
    check(5);
}
