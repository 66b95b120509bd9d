//! Metrics against counts by hand.

use cotangent_graph::DType::{F32, F64, I32, I64};
use cotangent_graph::TensorData;
use cotangent_graph::interp::{Env, interpret_named};
use cotangent_nn::Metrics;
use ndarray::{Array, array};

use crate::{graph, value};

#[test]
fn accuracy_counts_rows_whose_largest_logit_is_at_the_label() {
    let g = graph(|g| {
        let (logits, labels) = (g.input("logits", F32, [4, 3]), g.input("labels", I64, [4]));
        g.output("accuracy", logits.accuracy(labels));
        g.output("n_correct", logits.n_correct(labels));
    });
    // Right, wrong, a tie that goes to the first, and a label that is no class.
    let logits = array![[0.1f32, 0.9, 0.3], [2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 5.0]];
    let env = Env::default().with("logits", logits).with("labels", array![1i64, 2, 0, -1]);
    let outputs = interpret_named(&g, &env).expect("runs");
    assert_eq!(*value(&outputs, "accuracy"), TensorData::from(0.5f32));
    assert_eq!(*value(&outputs, "n_correct"), TensorData::from(2i64));
}

#[test]
fn a_row_with_a_nan_is_no_hit() {
    let g = graph(|g| {
        let (logits, labels) = (g.input("logits", F32, [4, 2]), g.input("labels", I64, [4]));
        g.output("accuracy", logits.accuracy(labels));
        g.output("n_correct", logits.n_correct(labels));
    });
    // `argmax` names the first NaN, so three of these would count as right.
    let nan = f32::NAN;
    let logits = array![[nan, nan], [nan, 1.0], [0.0, nan], [f32::NEG_INFINITY, f32::INFINITY]];
    let env = Env::default().with("logits", logits).with("labels", array![0i64, 0, 1, 1]);
    let outputs = interpret_named(&g, &env).expect("runs");
    assert_eq!(*value(&outputs, "accuracy"), TensorData::from(0.25f32));
    assert_eq!(*value(&outputs, "n_correct"), TensorData::from(1i64));
}

#[test]
fn all_correct_is_exactly_one() {
    // 41 · (1/41) is not 1 in f32.
    let g = graph(|g| {
        let (logits, labels) = (g.input("logits", F64, [41, 2]), g.input("labels", I32, [41]));
        g.output("accuracy", logits.accuracy(labels));
    });
    let logits = Array::from_shape_fn((41, 2), |(_, j)| j as f64);
    let env = Env::default().with("logits", logits).with("labels", Array::from_elem(41, 1i32));
    assert_eq!(*value(&interpret_named(&g, &env).expect("runs"), "accuracy"), TensorData::from(1.0f32));
}

#[test]
fn accuracy_takes_leading_axes() {
    let g = graph(|g| {
        let (logits, labels) = (g.input("logits", F32, [2, 2, 2]), g.input("labels", I64, [2, 2]));
        g.output("n_correct", logits.n_correct(labels));
    });
    let logits = Array::from_shape_fn((2, 2, 2), |(i, j, k)| ((i + j + k) % 2) as f32);
    let env = Env::default().with("logits", logits).with("labels", array![[1i64, 0], [0, 0]]);
    assert_eq!(*value(&interpret_named(&g, &env).expect("runs"), "n_correct"), TensorData::from(3i64));
}
