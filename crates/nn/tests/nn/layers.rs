//! Layers: names, types, values against a plain loop, and the statistics of the default initialiser.

use cotangent_graph::DType::{F32, F64, I64};
use cotangent_graph::interp::{Env, interpret_named};
use cotangent_graph::{Init, Tensor, TensorData, build};
use cotangent_nn::{BatchNorm, Dense, Dropout, Embedding, Layers, Minimize, Sgd, function};
use ndarray::{Array, Array2, ArrayD, Axis, IxDyn};

use crate::{errors, graph, value};

/// `x · w + b` over the last axis, by loops.
fn dense_by_loops(x: &ArrayD<f64>, w: &Array2<f64>, b: &[f64]) -> Vec<f64> {
    let (n_in, n_out) = w.dim();
    let rows = x.as_slice().expect("standard layout").chunks(n_in);
    let row = |row: &[f64]| -> Vec<f64> {
        (0..n_out).map(|j| row.iter().enumerate().map(|(i, v)| v * w[[i, j]]).sum::<f64>() + b[j]).collect()
    };
    rows.flat_map(row).collect()
}

#[test]
fn dense_takes_any_rank_from_one_and_keeps_the_leading_axes() {
    for shape in [vec![3], vec![4, 3], vec![2, 4, 3], vec![2, 1, 4, 3]] {
        let g = graph(|g| {
            let y = g.input("x", F64, shape.as_slice()).dense("hidden", 5);
            let expected: Vec<usize> = shape[..shape.len() - 1].iter().copied().chain([5]).collect();
            assert_eq!(y.shape().to_vec(), expected);
            g.output("y", y);
        });
        let n: usize = shape.iter().product();
        let x =
            ArrayD::from_shape_vec(IxDyn(&shape), (0..n).map(|i| (i as f64 * 0.37).sin()).collect()).expect("shape");
        let w = Array2::from_shape_fn((3, 5), |(i, j)| 0.1 * i as f64 - 0.2 * j as f64);
        let b = [0.5, -0.5, 0.25, 1.0, 0.0];
        let env = Env::default()
            .with("x", x.clone())
            .with("hidden.weight", w.clone())
            .with("hidden.bias", Array::from(b.to_vec()));
        let outputs = interpret_named(&g, &env).expect("runs");
        for (got, want) in value(&outputs, "y").to_f64().into_iter().zip(dense_by_loops(&x, &w, &b)) {
            assert!((got - want).abs() < 1e-12, "{got} {want} of {shape:?}");
        }
    }
}

#[test]
fn dense_takes_its_element_type_from_the_input_and_its_name_from_the_scopes() {
    let g = graph(|g| {
        let x = g.input("x", F32, [2, 3]);
        let y = g.scope("encoder", || x.dense("first", 4));
        g.output("y", y.cast(F64).dense("second", 2));
    });
    let ty = |name: &str| g.ty(g.source(name).unwrap_or_else(|| panic!("no `{name}`"))).to_string();
    assert_eq!(ty("encoder.first.weight"), "f32[3,4]");
    assert_eq!(ty("encoder.first.bias"), "f32[4]");
    assert_eq!(ty("second.weight"), "f64[4,2]");
    assert_eq!(ty("second.bias"), "f64[2]");
}

#[test]
fn dense_options_choose_initialisers_and_drop_the_bias() {
    let g = graph(|g| {
        let x = g.input("x", F32, [2, 3]);
        let plain = Dense::new(4).init(Init::HeNormal).without_bias();
        let shifted = Dense::new(4).bias_init(Init::constant(0.1));
        g.output("y", x.layer("a", plain).layer("b", shifted));
    });
    let init = |name: &str| g.node(g.source(name).unwrap_or_else(|| panic!("no `{name}`"))).attrs.init("init").copied();
    assert_eq!(init("a.weight"), Some(Init::HeNormal));
    assert_eq!(g.source("a.bias"), None);
    assert_eq!(init("b.weight"), Some(Init::GlorotUniform));
    assert_eq!(init("b.bias"), Some(Init::constant(0.1)));
}

#[test]
fn default_weights_are_glorot_uniform_and_biases_zero() {
    let (n_in, n_out) = (300, 200);
    let g = graph(|g| g.output("y", g.input("x", F64, [1, n_in]).dense("layer", n_out)));
    let mut env = Env::default();
    env.initialize(&g, 7).unwrap();
    let weights = env.values["layer.weight"].to_f64();
    let limit = (6.0 / (n_in + n_out) as f64).sqrt();
    assert!(weights.iter().all(|w| w.abs() <= limit));
    // Near the bounds: of 60,000 draws the largest misses the bound by more than 1/1,000 with probability e^-30.
    let largest = weights.iter().fold(0.0f64, |m, w| m.max(w.abs()));
    assert!(largest > 0.999 * limit, "{largest} of {limit}");
    let n = weights.len() as f64;
    let mean = weights.iter().sum::<f64>() / n;
    let variance = weights.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / n;
    // Five standard errors: of the mean limit/√(3n), of the variance limit²/3 · √(0.8/n).
    assert!(mean.abs() < 5.0 * limit / (3.0 * n).sqrt(), "mean {mean}");
    let expected = 2.0 / (n_in + n_out) as f64;
    assert!((variance / expected - 1.0).abs() < 5.0 * (0.8 / n).sqrt(), "variance {variance}, expected {expected}");
    assert!(env.values["layer.bias"].to_f64().iter().all(|&b| b == 0.0));
}

#[test]
fn embedding_picks_rows() {
    let g = graph(|g| {
        let ids = g.input("ids", I64, [2, 2]);
        let rows: Tensor<'_> = ids.layer("words", Embedding::new(3, 2).dtype(F64));
        assert_eq!(rows.shape().to_vec(), [2, 2, 2]);
        assert_eq!(ids.embedding("other", 3, 4).ty().to_string(), "f32[2,2,4]");
        g.output("rows", rows);
    });
    let table = Array2::from_shape_vec((3, 2), vec![0.0, 1.0, 10.0, 11.0, 20.0, 21.0]).expect("shape");
    let ids = Array2::from_shape_vec((2, 2), vec![2i64, 0, 1, 1]).expect("shape");
    let outputs = interpret_named(&g, &Env::default().with("ids", ids).with("words.weight", table)).expect("runs");
    assert_eq!(value(&outputs, "rows").to_f64(), [20.0, 21.0, 0.0, 1.0, 10.0, 11.0, 10.0, 11.0]);
}

#[test]
fn flatten_keeps_the_first_axis() {
    let g = graph(|g| {
        assert_eq!(g.input("v", F32, [5]).flatten().shape().to_vec(), [5, 1]);
        g.output("y", g.input("x", F32, [2, 3, 4]).flatten());
    });
    let x = TensorData::from(Array::from_shape_fn((2, 3, 4), |(i, j, k)| (i * 12 + j * 4 + k) as f32));
    let v = Array::<f32, _>::zeros(5);
    let outputs = interpret_named(&g, &Env::default().with("x", x.clone()).with("v", v)).expect("runs");
    assert_eq!(value(&outputs, "y").shape().to_vec(), [2, 12]);
    assert_eq!(value(&outputs, "y").bits(), x.bits());
}

#[test]
fn a_model_applied_twice_in_a_shared_scope_has_one_set_of_weights() {
    let net = function(|x| x.builder().shared_scope("net", || x.dense("a", 4).tanh().dense("b", 1)));
    let graph = build(|g| {
        let (x, y) = (g.input("x", F32, [5, 3]), g.input("y", F32, [5, 3]));
        let loss = (net(x) - net(y)).square().mean();
        g.output("loss", loss);
        g.minimize(loss, Sgd::new(0.1));
    })
    .unwrap();
    let names: Vec<_> = graph.params().filter_map(|(_, node)| node.name()).collect();
    assert_eq!(names, ["net.a.weight", "net.a.bias", "net.b.weight", "net.b.bias"]);
    // Running averages are states with an update: a second use would update them a second time, which is told.
    let norm = function(|x| x.builder().shared_scope("net", || x.layer("norm", BatchNorm::new())));
    let error = build(|g| {
        let x = g.input("x", F32, [5, 3]);
        g.output("y", norm(norm(x)));
    });
    assert!(error.unwrap_err().to_string().contains("updated"), "batch norm applied twice");
}

#[test]
fn a_mask_is_the_same_along_the_axes_that_share_it() {
    let net = |training: bool, layer: Dropout| {
        let g = graph(|g| {
            g.set_training(training);
            g.output("y", g.input("x", F64, [40, 6, 30]).layer("drop", layer));
        });
        let x = Array::from_elem((40, 6, 30), 2.0f64);
        let values = value(&interpret_named(&g, &Env::default().with("x", x)).expect("runs"), "y").to_f64();
        Array::from_shape_vec((40, 6, 30), values).unwrap()
    };
    let along_time = Dropout::new(0.25).shared_along([1]);
    let y = net(true, along_time.clone());
    let first = y.index_axis(Axis(1), 0);
    assert!(y.axis_iter(Axis(1)).all(|step| step == first));
    let dropped = first.iter().filter(|v| **v == 0.0).count() as f64 / first.len() as f64;
    // Five standard errors.
    assert!((dropped - 0.25).abs() < 5.0 * (0.25f64 * 0.75 / 1200.0).sqrt(), "{dropped}");
    assert!(first.iter().all(|v| *v == 0.0 || (*v - 2.0 / 0.75).abs() < 1e-12));
    // Rows and features have masks of their own.
    assert!(first.index_axis(Axis(0), 0) != first.index_axis(Axis(0), 1));
    assert!(net(false, along_time.clone()).iter().all(|v| *v == 2.0));
    let classic = along_time.classic();
    assert!(net(true, classic.clone()).iter().all(|v| *v == 0.0 || *v == 2.0));
    assert!(net(false, classic).iter().all(|v| *v == 1.5));
    let text = errors(|g| g.output("y", g.input("x", F64, [4, 3]).layer("drop", Dropout::new(0.5).shared_along([2]))));
    assert!(
        text.to_string().contains("`dropout` requires axes of a tensor of shape [4,3], got 2 for layer `drop`"),
        "{text}"
    );
}

#[test]
fn a_padding_index_stands_for_zeros_and_has_no_gradient() {
    let net = |table: Embedding| {
        let g = graph(|g| {
            let y = g.input("x", I64, [2, 3]).layer("words", table.dtype(F64));
            let weight = g.shared("words.weight");
            g.output("y", y);
            g.output("d", g.grad((y * y).sum() / 2.0, &[weight])[0]);
        });
        let x = Array2::from_shape_vec((2, 3), vec![1i64, 2, 0, 2, 2, 3]).unwrap();
        let weight = Array2::from_shape_fn((4, 2), |(i, j)| 1.0 + i as f64 + 0.5 * j as f64);
        let outputs = interpret_named(&g, &Env::default().with("x", x).with("words.weight", weight)).expect("runs");
        ["y", "d"].map(|name| value(&outputs, name).to_f64())
    };
    let [y, d] = net(Embedding::new(4, 2).padding(2));
    assert_eq!(y, [2.0, 2.5, 0.0, 0.0, 1.0, 1.5, 0.0, 0.0, 0.0, 0.0, 4.0, 4.5]);
    for (got, want) in d.iter().zip([1.0, 1.5, 2.0, 2.5, 0.0, 0.0, 4.0, 4.5]) {
        assert!((got - want).abs() < 1e-6, "{d:?}");
    }
    assert_eq!(d[4..6], [0.0, 0.0]);
    assert_eq!(net(Embedding::new(4, 2))[0][2..4], [3.0, 3.5]);
    let text = errors(|g| g.output("y", g.input("x", I64, [3]).layer("words", Embedding::new(4, 2).padding(4))));
    assert!(text.to_string().contains("a padding index below the 4 rows of the table, got 4"), "{text}");
}
