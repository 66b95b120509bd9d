//! Recurrent layers against plain code in f64.

use cotangent_graph::DType::{F64, I64};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::{Env, Graph, Init, TensorData, build};
use cotangent_nn::{Layers, Recurrent, layers::Given};
use ndarray::{Array1, Array2, Array3, ArrayD, Axis, concatenate, s};

use crate::value;

const SIZES: [usize; 4] = [3, 5, 2, 4];

fn graph(layer: Recurrent, masked: bool) -> Graph {
    let [batch, time, n_in, _] = SIZES;
    let graph = build(|g| {
        let x = g.input("x", F64, [batch, time, n_in]);
        let given = Given::new();
        let lengths = g.input("lengths", I64, [batch]);
        let counts = g.iota(I64, [batch, time], 1).lt(lengths.broadcast_along(&[batch, time].into(), [0]));
        let made = x.layer("other", Recurrent::rnn(1));
        g.output("other", made);
        let made = layer.run("layer", x, &if masked { given.mask(counts) } else { given });
        g.output("all", made.outputs);
        made.states.iter().enumerate().for_each(|(k, state)| g.output(&format!("state{k}"), *state));
    });
    graph.unwrap_or_else(|diags| panic!("{diags}"))
}

fn env(graph: &Graph) -> Env {
    let mut env = Env::default();
    env.initialize(graph, 5).unwrap();
    let x = Array3::from_shape_fn((SIZES[0], SIZES[1], SIZES[2]), |(i, j, k)| ((i * 7 + j * 3 + k) as f64).sin());
    // Starts of biases are zeros, which would hide them.
    for (name, value) in &mut env.values {
        if name.ends_with("bias") {
            let shape = value.shape();
            let values = ArrayD::from_shape_fn(&shape[..], |at| (at[0] as f64 * 0.37).cos());
            *value = TensorData::from(values);
        }
    }
    env.with("x", x).with("lengths", ndarray::array![5i64, 2, 4])
}

fn two(env: &Env, name: &str) -> Array2<f64> {
    env.values[name].array::<f64>().unwrap().to_owned().into_dimensionality().unwrap()
}

fn one(env: &Env, name: &str) -> Array1<f64> {
    env.values[name].array::<f64>().unwrap().to_owned().into_dimensionality().unwrap()
}

fn sigmoid(x: &Array2<f64>) -> Array2<f64> {
    x.mapv(|v| 1.0 / (1.0 + (-v).exp()))
}

/// Outputs `[batch, time, n]` and last states of a direction, by a function of `x·W + b`, the states, and the recurrent weights.
fn plain(
    env: &Env,
    name: &str,
    (x, reverse, masked): (&Array3<f64>, bool, bool),
    n_states: usize,
    step: impl Fn(&Array2<f64>, &[Array2<f64>], &Array2<f64>) -> Vec<Array2<f64>>,
) -> (Array3<f64>, Vec<Array2<f64>>) {
    let (weight, recurrent, bias) = (
        two(env, &format!("{name}.weight")),
        two(env, &format!("{name}.recurrent")),
        one(env, &format!("{name}.bias")),
    );
    let (batch, time, n) = (x.shape()[0], x.shape()[1], recurrent.shape()[0]);
    let lengths = [5, 2, 4];
    let mut states = vec![Array2::zeros((batch, n)); n_states];
    let mut all = Array3::zeros((batch, time, n));
    for k in 0..time {
        let t = if reverse { time - 1 - k } else { k };
        let gates = x.index_axis(Axis(1), t).dot(&weight) + &bias;
        let next = step(&gates, &states, &recurrent);
        for row in (0..batch).filter(|row| !masked || t < lengths[*row]) {
            for (state, next) in states.iter_mut().zip(&next) {
                state.row_mut(row).assign(&next.row(row));
            }
            all.slice_mut(s![row, t, ..]).assign(&next[0].row(row));
        }
    }
    (all, states)
}

fn gate(gates: &Array2<f64>, k: usize) -> Array2<f64> {
    let n = SIZES[3];
    gates.slice(s![.., k * n..(k + 1) * n]).to_owned()
}

fn long(gates: &Array2<f64>, states: &[Array2<f64>], recurrent: &Array2<f64>) -> Vec<Array2<f64>> {
    let gates = gates + &states[0].dot(recurrent);
    let forget = sigmoid(&gate(&gates, 1));
    let c = forget * &states[1] + sigmoid(&gate(&gates, 0)) * gate(&gates, 2).mapv(f64::tanh);
    vec![sigmoid(&gate(&gates, 3)) * c.mapv(f64::tanh), c]
}

fn close(got: &TensorData, expected: &ArrayD<f64>, what: &str) {
    let got = got.array::<f64>().unwrap();
    assert_eq!(got.shape(), expected.shape(), "{what}");
    got.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{what}: {a} and {b}"));
}

fn check(layer: Recurrent, masked: bool, expected: impl Fn(&Env, &Array3<f64>) -> (Array3<f64>, Vec<Array2<f64>>)) {
    let graph = graph(layer, masked);
    let env = env(&graph);
    let x = env.values["x"].array::<f64>().unwrap().to_owned().into_dimensionality().unwrap();
    let values = interpret_named(&graph, &env).unwrap_or_else(|diag| panic!("{diag}"));
    let (all, states) = expected(&env, &x);
    close(&values[1].1, &all.into_dyn(), "outputs");
    assert_eq!(values.len(), 2 + states.len());
    for ((name, value), state) in values[2..].iter().zip(states) {
        close(value, &state.into_dyn(), name);
    }
}

#[test]
fn cells_are_their_formulas() {
    let n = SIZES[3];
    for masked in [false, true] {
        check(Recurrent::rnn(n), masked, |env, x| {
            plain(env, "layer", (x, false, masked), 1, |gates, h, u| vec![(gates + &h[0].dot(u)).mapv(f64::tanh)])
        });
        check(Recurrent::lstm(n), masked, |env, x| plain(env, "layer", (x, false, masked), 2, long));
        check(Recurrent::lstm(n).reversed(), masked, |env, x| plain(env, "layer", (x, true, masked), 2, long));
        check(Recurrent::gru(n), masked, |env, x| {
            let bias = one(env, "layer.recurrent_bias");
            plain(env, "layer", (x, false, masked), 1, |gates, h, u| {
                let product = h[0].dot(u) + &bias;
                let (r, z) =
                    (sigmoid(&(gate(gates, 0) + gate(&product, 0))), sigmoid(&(gate(gates, 1) + gate(&product, 1))));
                let new = (gate(gates, 2) + r * gate(&product, 2)).mapv(f64::tanh);
                vec![(1.0 - &z) * new + &z * &h[0]]
            })
        });
        check(Recurrent::gru_reset_before(n), masked, |env, x| {
            plain(env, "layer", (x, false, masked), 1, |gates, h, u| {
                let product = h[0].dot(u);
                let (r, z) =
                    (sigmoid(&(gate(gates, 0) + gate(&product, 0))), sigmoid(&(gate(gates, 1) + gate(&product, 1))));
                let new = (gate(gates, 2) + (r * &h[0]).dot(&gate(u, 2))).mapv(f64::tanh);
                vec![(1.0 - &z) * new + &z * &h[0]]
            })
        });
    }
}

#[test]
fn layers_stack_and_go_both_ways() {
    for masked in [false, true] {
        check(Recurrent::lstm(SIZES[3]).layers(2).both_ways(), masked, |env, x| {
            let (mut x, mut states) = (x.clone(), Vec::new());
            for layer in 0..2 {
                let of =
                    |way: &str, reverse| plain(env, &format!("layer.{layer}.{way}"), (&x, reverse, masked), 2, long);
                let ((forward, a), (backward, b)) = (of("forward", false), of("backward", true));
                states.extend(a.into_iter().chain(b));
                x = concatenate(Axis(2), &[forward.view(), backward.view()]).unwrap();
            }
            (x, states)
        });
    }
}

/// Rows without mean and deviation, times a gain.
fn normal(x: &Array2<f64>, gain: &Array1<f64>) -> Array2<f64> {
    let mut y = x.clone();
    for mut row in y.rows_mut() {
        let mean = row.mean().unwrap();
        let variance = row.mapv(|v| (v - mean).powi(2)).mean().unwrap();
        row.mapv_inplace(|v| (v - mean) / (variance + 1e-5).sqrt());
    }
    y * gain
}

/// The formulas of Ba et al. 2016, with a mask on the state's numbers, the same at every step.
#[test]
fn norms_and_masks_inside_of_cells_are_their_formulas() {
    let [batch, time, n_in, n] = SIZES;
    for cell in [Recurrent::rnn(n), Recurrent::lstm(n), Recurrent::gru(n), Recurrent::gru_reset_before(n)] {
        let layer = cell.layer_norm().recurrent_dropout(0.4);
        let graph = build(|g| {
            g.output("y", g.input("x", F64, [batch, time, n_in]).layer("layer", layer));
        })
        .unwrap();
        // Of a stream of its name, in a program of its own.
        let of_mask =
            build(|g| g.output("mask", g.ones(F64, [batch, n]).dropout("layer.recurrent_dropout", 0.4))).unwrap();
        let mut env = env(&graph);
        for (name, value) in &mut env.values {
            if name.ends_with(".gain") {
                let shape = value.shape();
                *value = ArrayD::from_shape_fn(&shape[..], |at| 1.0 + (at[0] as f64 * 0.9).sin() / 2.0).into();
            }
        }
        let values = interpret_named(&graph, &env).unwrap();
        let mask = interpret_named(&of_mask, &env).unwrap();
        let mask: Array2<f64> = mask[0].1.array::<f64>().unwrap().to_owned().into_dimensionality().unwrap();
        assert!(mask.iter().any(|v| *v == 0.0) && mask.iter().all(|v| *v == 0.0 || (v - 1.0 / 0.6).abs() < 1e-12));
        let [weight, u] = ["layer.weight", "layer.recurrent"].map(|name| two(&env, name));
        let [bias, of_x, of_h] =
            ["layer.bias", "layer.input_norm.gain", "layer.recurrent_norm.gain"].map(|name| one(&env, name));
        let x: Array3<f64> = env.values["x"].array::<f64>().unwrap().to_owned().into_dimensionality().unwrap();
        let (mut h, mut c) = (Array2::zeros((batch, n)), Array2::zeros((batch, n)));
        let columns = |from: usize, to: usize| s![.., from * n..to * n];
        for t in 0..time {
            let gates = normal(&x.index_axis(Axis(1), t).dot(&weight), &of_x) + &bias;
            let product = |h: &Array2<f64>, from: usize, to: usize| {
                let gain = of_h.slice(s![from * n..to * n]).to_owned();
                normal(&(h * &mask).dot(&u.slice(columns(from, to))), &gain)
            };
            h = match u.ncols() / n {
                1 => (gates + product(&h, 0, 1)).mapv(f64::tanh),
                4 => {
                    let gates = gates + product(&h, 0, 4);
                    c = sigmoid(&gate(&gates, 1)) * &c + sigmoid(&gate(&gates, 0)) * gate(&gates, 2).mapv(f64::tanh);
                    let shown = normal(&c, &one(&env, "layer.cell_norm.gain")) + &one(&env, "layer.cell_norm.bias");
                    sigmoid(&gate(&gates, 3)) * shown.mapv(f64::tanh)
                }
                _ => {
                    let after = env.values.contains_key("layer.recurrent_bias");
                    let all =
                        if after { product(&h, 0, 3) + &one(&env, "layer.recurrent_bias") } else { product(&h, 0, 2) };
                    let [r, z] = [0, 1].map(|k| sigmoid(&(gate(&gates, k) + gate(&all, k))));
                    let of_state = if after { r * gate(&all, 2) } else { product(&(r * &h), 2, 3) };
                    let new = (gate(&gates, 2) + of_state).mapv(f64::tanh);
                    (1.0 - &z) * new + &z * &h
                }
            };
            let got = values[0].1.array::<f64>().unwrap().index_axis(Axis(1), t).to_owned();
            close(&got.into(), &h.clone().into_dyn(), &format!("step {t} of {cell:?}"));
        }
    }
}

/// Two halves of sequences, with the states in the store, are the whole.
#[test]
fn carried_states_go_on_where_they_were() {
    let [batch, time, n_in, n] = SIZES;
    let whole = |time: usize, carried: bool| {
        build(|g| {
            let x = g.input("x", F64, [batch, time, n_in]);
            let starts = ["h", "c"].map(|name| g.state(name, F64, [batch, n], Init::ZEROS));
            let given = if carried { Given::new().states(&starts) } else { Given::new() };
            let made = Recurrent::lstm(n).run("layer", x, &given);
            starts.into_iter().zip(made.states).for_each(|(state, last)| g.update(state, last));
            g.output("y", made.outputs);
        })
        .unwrap()
    };
    let graph = whole(time, false);
    let env = env(&graph);
    let all = value(&interpret_named(&graph, &env).unwrap(), "y").array::<f64>().unwrap().to_owned();
    let x = env.values["x"].array::<f64>().unwrap().to_owned();
    let (mut at, mut env) = (0, env);
    for piece in [2, 3] {
        let part = s![.., at..at + piece, ..];
        env = env.with("x", x.slice(part).to_owned());
        let values = interpret_named(&whole(piece, true), &env).unwrap();
        assert_eq!(value(&values, "y").array::<f64>().unwrap(), all.slice(part).into_dyn());
        for (name, value) in values {
            if let Some(state) = name.strip_prefix("update ") {
                env = env.with(state, value);
            }
        }
        at += piece;
    }
}

#[test]
fn mistakes_say_what_is_required() {
    let errors = |f: &dyn Fn(&cotangent_graph::GraphBuilder)| build(|g| f(g)).unwrap_err().to_string();
    let text = errors(&|g| g.output("y", g.input("x", F64, [3, 4]).layer("lstm", Recurrent::lstm(2))));
    assert!(text.contains("`lstm` requires rank 3") && text.contains("[batch, time, features]"), "{text}");
    let text = errors(&|g| {
        let (x, mask) = (g.input("x", F64, [3, 5, 2]), g.input("mask", I64, [3, 5]));
        g.output("y", Recurrent::gru(2).run("gru", x, &Given::new().mask(mask)).outputs);
    });
    assert!(text.contains("requires a mask of type bool[3,5], got i64[3,5]"), "{text}");
    let text = errors(&|g| {
        let (x, h) = (g.input("x", F64, [3, 5, 2]), g.input("h", F64, [3, 2]));
        g.output("y", Recurrent::lstm(2).run("lstm", x, &Given::new().states(&[h])).outputs);
    });
    assert!(text.contains("requires 2 states, got 1"), "{text}");
    for (layer, says) in [
        (Recurrent::gru(3).forget_bias(1.0), "requires biases without forget gates, which LSTMs have"),
        (Recurrent::lstm(1).layer_norm(), "requires 2 neurons or more for layer norm, got 1"),
        (Recurrent::lstm(3).recurrent_dropout(1.0), "probabilities of dropout in [0, 1)"),
        (Recurrent::lstm(3).dropout(f64::NAN), "probabilities of dropout in [0, 1)"),
    ] {
        let text = errors(&|g| g.output("y", g.input("x", F64, [3, 5, 2]).layer("deep", layer)));
        assert!(text.contains(says) && text.contains("`deep`"), "{text}");
    }
}
