//! Normalizations and noise layers: values, statistics at test time, and what the modes do.

use cotangent_graph::DType::{F32, F64, I64};
use cotangent_graph::interp::{Env, interpret_named};
use cotangent_graph::{Code, Graph, GraphBuilder, Init, Mode, Tensor, TensorData};
use cotangent_nn::{
    BatchNorm, Dense, Dropout, GaussianNoise, GroupNorm, InstanceNorm, Layer, LayerNorm, Layers, PRelu, RmsNorm,
    Statistics, Whitening,
};
use ndarray::{Array2, ArrayD, IxDyn};

use crate::optim::step;
use crate::{errors, graph, value};

/// A graph in a mode, whose output `y` is a layer of the input `x`.
fn layer(mode: Mode, shape: &[usize], layer: impl Layer) -> Graph {
    graph(|g| {
        g.set_mode(mode);
        g.output("y", g.input("x", F64, shape).layer("l", layer));
    })
}

fn run(graph: &Graph, env: &Env) -> Vec<f64> {
    value(&interpret_named(graph, env).expect("runs"), "y").to_f64()
}

fn assert_close(got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 1e-9, "{what}: {got}, not {want}");
    }
}

fn tensor(shape: &[usize], values: &[f64]) -> TensorData {
    TensorData::from(ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()).expect("shape"))
}

const X: [f64; 12] = [1.0, 2.0, 3.0, 2.0, 0.0, 1.0, 4.0, -1.0, 0.0, 0.0, 1.0, 5.0];

/// Expected numbers are those that PyTorch 2 prints for `BatchNorm1d` on the same data.
#[test]
fn batch_norm_is_pytorchs() {
    let train = layer(Mode::Train, &[4, 3], BatchNorm::new());
    let mut env = Env::default()
        .with("x", tensor(&[4, 3], &X))
        .with("l.gain", tensor(&[3], &[1.0, 2.0, 0.5]))
        .with("l.bias", tensor(&[3], &[0.0, 0.1, -0.2]));
    env.initialize(&train, 0).unwrap();
    let y = [
        -0.5070913937723917,
        2.783270839937854,
        -0.004716898319231055,
        0.16903046459079718,
        -0.794423613312618,
        -0.525471836134615,
        1.5212741813171748,
        -2.583270839937854,
        -0.785849305042307,
        -1.1832132521355805,
        0.994423613312618,
        0.5160380394961529,
    ];
    assert_close(&run(&train, &env), &y, "train");
    step(&train, &mut env);
    let doubled = X.map(|x| 2.0 * x + 1.0);
    env.values.insert("x".into(), tensor(&[4, 3], &doubled));
    step(&train, &mut env);
    assert_close(&env.values["l.mean"].to_f64(), &[0.6075, 0.245, 0.7525], "mean");
    let variance = [2.2391666666666667, 1.6266666666666667, 3.2191666666666667];
    assert_close(&env.values["l.variance"].to_f64(), &variance, "variance");
    env.values.insert("x".into(), tensor(&[4, 3], &X));
    let evaluate = layer(Mode::Evaluate, &[4, 3], BatchNorm::new());
    let y = [
        0.2622983031766492,
        2.852051127260706,
        0.42632146969072293,
        0.9305742348369019,
        -0.28418947360619545,
        -0.13102800278155557,
        2.2671260981574077,
        -1.8523097740396461,
        -0.40970273901769483,
        -0.4059776284836036,
        1.2839308268272553,
        0.9836709421630014,
    ];
    assert_close(&run(&evaluate, &env), &y, "evaluate");
    // Evaluation changes nothing.
    assert_eq!(evaluate.outputs().len(), 1);
}

#[test]
fn batch_norm_can_average_over_training_or_over_a_pass() {
    let average = BatchNorm::new().statistics(Statistics::Average);
    let train = layer(Mode::Train, &[4, 3], average);
    let mut env = Env::default();
    env.initialize(&train, 0).unwrap();
    for x in [X, X.map(|x| 2.0 * x + 1.0)] {
        env.values.insert("x".into(), tensor(&[4, 3], &x));
        step(&train, &mut env);
    }
    let (mean, variance) = ([3.125, 1.25, 3.875], [7.291666666666666, 4.166666666666667, 12.291666666666668]);
    assert_close(&env.values["l.mean"].to_f64(), &mean, "mean");
    assert_close(&env.values["l.variance"].to_f64(), &variance, "variance");
    assert_eq!(env.values["l.rows"], TensorData::from(8i64));
    // A pass over batches of other sizes, from whatever the averages were: rows weigh the same.
    let pass = |rows: usize| layer(Mode::Calibrate, &[rows, 3], BatchNorm::new());
    env.initialize(&pass(3), 0).unwrap();
    env.values.insert("l.rows".into(), TensorData::from(0i64));
    env.values.insert("l.mean".into(), tensor(&[3], &[1e9, 1e9, -1e9]));
    env.values.insert("x".into(), tensor(&[3, 3], &X[..9]));
    step(&pass(3), &mut env);
    env.values.insert("x".into(), tensor(&[1, 3], &X[9..]));
    step(&pass(1), &mut env);
    let means: Vec<f64> = (0..3).map(|j| (0..4).map(|i| X[3 * i + j]).sum::<f64>() / 4.0).collect();
    let got = env.values["l.mean"].to_f64();
    // 1e9 cancels to about 1e-7 of rounding.
    assert!(got.iter().zip(&means).all(|(got, want)| (got - want).abs() < 1e-6), "{got:?} {means:?}");
}

#[test]
fn batch_norm_takes_features_along_any_axis() {
    let x = ArrayD::from_shape_fn(IxDyn(&[2, 3, 4]), |i| ((5 * i[0] + 3 * i[1] + 7 * i[2]) as f64).sin());
    let middle = layer(Mode::Train, &[2, 3, 4], BatchNorm::new().axis(1));
    let mut env = Env::default().with("x", x.clone());
    env.initialize(&middle, 0).unwrap();
    let y = ArrayD::from_shape_vec(IxDyn(&[2, 3, 4]), run(&middle, &env)).expect("shape");
    for feature in 0..3 {
        let of = y.index_axis(ndarray::Axis(1), feature);
        assert!(of.mean().unwrap_or(1.0).abs() < 1e-12);
        assert!((of.mapv(|v| v * v).mean().unwrap_or(0.0) - 1.0).abs() < 1e-4);
    }
    assert_eq!(middle.ty(middle.source("l.mean").expect("state")).to_string(), "f64[3]");
}

/// Expected numbers are those that PyTorch 2 prints for `GroupNorm(2, 4)` and `InstanceNorm1d(4)`, features on axis 1.
#[test]
fn group_and_instance_norm_are_pytorchs() {
    let x: Vec<f64> = (0..24).map(|i| f64::from(i).sin()).collect();
    let check = |what: &str, graph: &Graph, start: &[f64]| {
        let mut env = Env::default().with("x", tensor(&[2, 4, 3], &x));
        env.initialize(graph, 0).unwrap();
        assert_close(&run(graph, &env)[..8], start, what);
    };
    let group = [
        -0.04123417420140971,
        1.1405449892322324,
        1.2358018398588264,
        0.15695766851175533,
        -1.1041031690172882,
        -1.3879671543841168,
        -0.4547265716585081,
        0.8818164876142478,
    ];
    check("group", &layer(Mode::Train, &[2, 4, 3], GroupNorm::new(2).axis(1)), &group);
    let instance = [
        -1.4109992219159553,
        0.6235044227796119,
        0.7874947991363436,
        1.3929607361419047,
        -0.4851047051813169,
        -0.9078560309605882,
        -1.3683298839647053,
        0.37480589917813706,
    ];
    check("instance", &layer(Mode::Evaluate, &[2, 4, 3], InstanceNorm::new().axis(1)), &instance);
}

#[test]
fn layer_and_rms_norm_work_on_rows() {
    let env = |graph: &Graph| {
        let mut env = Env::default().with("x", tensor(&[4, 3], &X));
        env.initialize(graph, 0).unwrap();
        env
    };
    let graph = layer(Mode::Train, &[4, 3], LayerNorm::new().eps(0.0));
    let y = run(&graph, &env(&graph));
    let root = 1.5f64.sqrt();
    assert_close(&y[..3], &[-root, 0.0, root], "layer");
    let graph = layer(Mode::Train, &[4, 3], RmsNorm::new().eps(0.0));
    let y = run(&graph, &env(&graph));
    let rms = (14.0f64 / 3.0).sqrt();
    assert_close(&y[..3], &[1.0 / rms, 2.0 / rms, 3.0 / rms], "rms");
    assert_eq!(graph.source("l.bias"), None);
}

/// Correlated rows: covariance of the features, and how close it is to that of independent ones.
fn covariance(y: &Array2<f64>) -> Array2<f64> {
    let centered = y - &y.mean_axis(ndarray::Axis(0)).expect("rows");
    centered.t().dot(&centered) / y.nrows() as f64
}

#[test]
fn whitening_removes_correlations() {
    let (rows, n) = (256, 4);
    let mut x = Init::normal(0.0, 1.0).sample(1, "x", F64, &[rows, n].into()).to_f64();
    for row in x.chunks_mut(n) {
        row[1] += 0.8 * row[0];
        row[2] = 0.5 * row[2] - row[1] + 3.0;
    }
    let array = |v: &[f64]| Array2::from_shape_vec((rows, n), v.to_vec()).expect("shape");
    let before = covariance(&array(&x));
    assert!(before[[1, 2]].abs() > 0.5);
    let settings = Whitening::new().iterations(12).eps(1e-9);
    let train = layer(Mode::Train, &[rows, n], settings);
    let mut env = Env::default().with("x", tensor(&[rows, n], &x));
    env.initialize(&train, 0).unwrap();
    let y = run(&train, &env);
    let after = covariance(&array(&y));
    for i in 0..n {
        for j in 0..n {
            let expected = f64::from(u8::from(i == j));
            assert!((after[[i, j]] - expected).abs() < 1e-6, "{after}");
        }
    }
    // ZCA: the matrix from x to y is symmetric, so the covariance of x and y is, and it is positive.
    let centered = &array(&x) - &array(&x).mean_axis(ndarray::Axis(0)).expect("rows");
    let cross = centered.t().dot(&array(&y)) / rows as f64;
    assert!((&cross - &cross.t()).iter().all(|d| d.abs() < 1e-6) && cross.diag().iter().all(|&d| d > 0.0), "{cross}");
    // The first batch is the average, so evaluation gives the same.
    step(&train, &mut env);
    let evaluate = layer(Mode::Evaluate, &[rows, n], settings);
    assert_close(&run(&evaluate, &env), &y, "evaluate");
    // In two groups only neighbours are decorrelated.
    let grouped = layer(Mode::Train, &[rows, n], settings.groups(2));
    let mut env = Env::default().with("x", tensor(&[rows, n], &x));
    env.initialize(&grouped, 0).unwrap();
    let after = covariance(&array(&run(&grouped, &env)));
    assert!(after[[0, 1]].abs() < 1e-6 && after[[2, 3]].abs() < 1e-6 && after[[1, 2]].abs() > 0.3, "{after}");
}

#[test]
fn few_iterations_whiten_in_part() {
    let (rows, n) = (64, 3);
    let x = Init::normal(0.0, 1.0).sample(2, "x", F64, &[rows, n].into());
    let spread = |iterations: usize| {
        let graph = layer(Mode::Train, &[rows, n], Whitening::new().iterations(iterations));
        let mut env = Env::default().with("x", x.clone());
        env.initialize(&graph, 0).unwrap();
        let y = Array2::from_shape_vec((rows, n), run(&graph, &env)).expect("shape");
        (covariance(&y) - Array2::<f64>::eye(n)).iter().map(|d| d.abs()).fold(0.0, f64::max)
    };
    let spreads = [1, 3, 5, 8].map(spread);
    assert!(spreads.is_sorted_by(|a, b| a > b) && spreads[3] < 1e-3, "{spreads:?}");
}

#[test]
fn noise_is_for_training_alone() {
    let n = 40_000;
    let of = |mode: Mode, l: &dyn Layer| {
        let graph = layer(mode, &[n], l);
        let x = tensor(&[n], &vec![2.0; n]);
        run(&graph, &Env::default().with("x", x))
    };
    let (mean, share) = (
        |y: &[f64]| y.iter().sum::<f64>() / n as f64,
        |y: &[f64], v: f64| y.iter().filter(|&&y| y == v).count() as f64 / n as f64,
    );
    // Five standard errors of a share.
    let close = |share: f64, p: f64| (share - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt();
    let inverted = of(Mode::Train, &Dropout::new(0.3));
    assert!(close(share(&inverted, 0.0), 0.3) && close(share(&inverted, 2.0 * (1.0 / 0.7)), 0.7));
    assert!(of(Mode::Evaluate, &Dropout::new(0.3)).iter().all(|&y| y == 2.0));
    assert!(of(Mode::Calibrate, &Dropout::new(0.3)).iter().all(|&y| y == 2.0));
    let classic = of(Mode::Train, &Dropout::new(0.3).classic());
    assert!(close(share(&classic, 0.0), 0.3) && close(share(&classic, 2.0), 0.7));
    assert!(of(Mode::Evaluate, &Dropout::new(0.3).classic()).iter().all(|&y| y == 1.4));
    let noisy = of(Mode::Train, &GaussianNoise::new(0.5));
    let variance = mean(&noisy.iter().map(|y| (y - 2.0).powi(2)).collect::<Vec<_>>());
    assert!((mean(&noisy) - 2.0).abs() < 5.0 * 0.5 / (n as f64).sqrt());
    assert!((variance / 0.25 - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt(), "{variance}");
    assert!(of(Mode::Evaluate, &GaussianNoise::new(0.5)).iter().all(|&y| y == 2.0));
}

#[test]
fn drop_connect_drops_weights_and_keeps_biases() {
    let (n_in, n_out) = (50, 400);
    let build = |mode: Mode, dense: Dense| {
        graph(|g| {
            g.set_mode(mode);
            let x = g.input("x", F64, [1, n_in]);
            g.output("y", x.layer("l", dense));
        })
    };
    let ones = || Dense::new(n_out).init(Init::ONES).bias_init(Init::constant(100.0));
    let of = |graph: &Graph| {
        let mut env = Env::default().with("x", tensor(&[1, n_in], &vec![1.0; n_in]));
        env.initialize(graph, 0).unwrap();
        run(graph, &env)
    };
    let dropped = of(&build(Mode::Train, ones().drop_connect(0.5)));
    // Each output is 100 + 2 · (a binomial of 50 halves): on average 150.
    let mean = dropped.iter().sum::<f64>() / n_out as f64;
    assert!((mean - 150.0).abs() < 5.0 * (50.0 / n_out as f64).sqrt(), "{mean}");
    assert!(dropped.iter().any(|y| *y != dropped[0]) && dropped.iter().all(|y| *y >= 100.0 && y.fract() == 0.0));
    assert!(of(&build(Mode::Evaluate, ones().drop_connect(0.5))).iter().all(|&y| y == 150.0));
    let noisy = of(&build(Mode::Train, ones().weight_noise(0.1)));
    let variance = noisy.iter().map(|y| (y - 150.0).powi(2)).sum::<f64>() / n_out as f64;
    assert!((variance / (50.0 * 0.01) - 1.0).abs() < 5.0 * (2.0 / n_out as f64).sqrt(), "{variance}");
    assert!(of(&build(Mode::Evaluate, ones().weight_noise(0.1))).iter().all(|&y| y == 150.0));
}

#[test]
fn prelu_trains_its_slope() {
    let graph = graph(|g| {
        let y =
            g.input("x", F32, [2, 3]).layer("one", PRelu::new()).layer("each", PRelu::new().start(0.5).per_feature());
        g.output("y", y);
    });
    let ty = |name: &str| graph.ty(graph.source(name).unwrap_or_else(|| panic!("no `{name}`"))).to_string();
    assert_eq!((ty("one.slope").as_str(), ty("each.slope").as_str()), ("f32[]", "f32[3]"));
    let mut env = Env::default().with("x", ndarray::array![[-8.0f32, 2.0, 0.0], [4.0, -16.0, 1.0]]);
    env.initialize(&graph, 0).unwrap();
    assert_eq!(run(&graph, &env), [-1.0, 2.0, 0.0, 4.0, -2.0, 1.0]);
}

#[test]
fn what_a_layer_cannot_take_is_an_error() {
    fn refused(code: Code, text: &str, f: impl FnOnce(&GraphBuilder) -> Tensor<'_>) {
        let diags = errors(|g| {
            f(g);
        });
        assert_eq!(diags.0.len(), 1, "{diags}");
        assert!(diags.0[0].code == code && diags.0[0].message.contains(text), "{diags}");
    }
    fn floats<'g>(g: &'g GraphBuilder, shape: &[usize]) -> Tensor<'g> {
        g.input("x", F32, shape)
    }
    refused(Code::DTypeMismatch, "`batch_norm` requires floats", |g| {
        g.input("x", I64, [2, 3]).layer("n", BatchNorm::new())
    });
    for axis in [2, -3] {
        refused(Code::BadAxis, &format!("shape [2,3], got {axis} for layer `n`"), |g| {
            floats(g, &[2, 3]).layer("n", BatchNorm::new().axis(axis))
        });
    }
    // The variance of one is 0, and so is what would be made of it.
    let alone = "statistics over 2 elements or more";
    refused(Code::ShapeMismatch, alone, |g| floats(g, &[1, 3]).layer("n", BatchNorm::new()));
    refused(Code::ShapeMismatch, alone, |g| floats(g, &[4, 1]).layer("n", LayerNorm::new()));
    refused(Code::ShapeMismatch, alone, |g| floats(g, &[4, 6]).layer("n", GroupNorm::new(6)));
    refused(Code::ShapeMismatch, alone, |g| floats(g, &[4, 1, 6]).layer("n", InstanceNorm::new()));
    refused(Code::ShapeMismatch, "2 rows or more", |g| floats(g, &[1, 3]).layer("n", Whitening::new()));
    cotangent_graph::build(|g| {
        g.set_training(false);
        g.output("y", floats(g, &[1, 3]).layer("n", BatchNorm::new()).layer("w", Whitening::new()));
    })
    .unwrap();
    let not_negative = "finite and not negative, got -1";
    refused(Code::BadAttribute, not_negative, |g| floats(g, &[2, 3]).layer("n", BatchNorm::new().eps(-1.0)));
    refused(Code::BadAttribute, not_negative, |g| floats(g, &[2, 3]).layer("n", LayerNorm::new().eps(-1.0)));
    refused(Code::BadAttribute, not_negative, |g| floats(g, &[2, 3]).layer("n", RmsNorm::new().eps(-1.0)));
    refused(Code::BadAttribute, not_negative, |g| floats(g, &[2, 4]).layer("n", GroupNorm::new(2).eps(-1.0)));
    for momentum in [-0.1, 1.1, f64::NAN] {
        let norm = BatchNorm::new().statistics(Statistics::Exponential { momentum });
        refused(Code::BadAttribute, "a momentum in [0, 1]", |g| floats(g, &[2, 3]).layer("n", norm));
        let white = Whitening::new().momentum(momentum);
        refused(Code::BadAttribute, "a momentum in [0, 1]", |g| floats(g, &[2, 3]).layer("n", white));
    }
    refused(Code::BadAttribute, "an iteration or more", |g| {
        floats(g, &[2, 3]).layer("n", Whitening::new().iterations(0))
    });
    refused(Code::BadAttribute, "features and neurons, got 3 and 0", |g| floats(g, &[2, 3]).dense("n", 0));
    refused(Code::BadAttribute, "features and neurons, got 0 and 3", |g| floats(g, &[2, 0]).dense("n", 3));
    refused(Code::BadAttribute, "rows and columns, got 0 and 3", |g| g.input("x", I64, [2]).embedding("n", 0, 3));
    refused(Code::BadAttribute, "deviation of f32 that is not below 0", |g| {
        floats(g, &[2, 3]).layer("n", Dense::new(2).without_bias().init(Init::normal(0.0, -1.0)))
    });
    refused(Code::BadAttribute, "requires a number", |g| floats(g, &[2, 3]).layer("n", PRelu::new().start(f64::NAN)));
    refused(Code::ShapeMismatch, "of no elements", |g| floats(g, &[0, 3]).layer("n", BatchNorm::new()));
    refused(Code::ShapeMismatch, "`instance_norm` requires rank 3", |g| {
        floats(g, &[2, 3]).layer("n", InstanceNorm::new())
    });
    refused(Code::ShapeMismatch, "that 2 divides", |g| floats(g, &[2, 3]).layer("n", GroupNorm::new(2)));
    refused(Code::ShapeMismatch, "2 groups divide", |g| floats(g, &[2, 3]).layer("n", Whitening::new().groups(2)));
    refused(Code::BadAttribute, "[0, 1), got 1", |g| floats(g, &[2, 3]).layer("n", Dropout::new(1.0)));
    refused(Code::BadAttribute, "[0, 1), got NaN", |g| floats(g, &[2]).layer("n", Dropout::new(f64::NAN).classic()));
    refused(Code::BadAttribute, "got -1", |g| floats(g, &[2]).layer("n", GaussianNoise::new(-1.0)));
    refused(Code::BadAttribute, "`dense` requires DropConnect", |g| {
        floats(g, &[2, 3]).layer("n", Dense::new(2).drop_connect(1.5))
    });
}
