//! The workloads compute what their rows say, from arrays or from the seed, and reports carry the figures.

use std::collections::BTreeMap;
use std::time::Duration;

use cotangent_exec::Threads;
use cotangent_graph::DType::F32;
use cotangent_graph::TensorData;
use cotangent_train::TrainError;
use cotangent_train::bench::{BenchOptions, Field, Protocol, Report, StepTimes, bench};
use cotangent_train::workloads::{SPECS, Sizes, What, Workload};
use ndarray::{Array, ArrayD, IxDyn};

fn quick() -> BenchOptions {
    let protocol = Protocol { warm_steps: 1, warm_time: Duration::ZERO, exact_steps: Some(3), ..Protocol::default() };
    BenchOptions { threads: Threads::Exactly(1), protocol, ..BenchOptions::default() }
}

fn field(report: &Report, name: &str) -> Field {
    report.fields().into_iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no field {name}")).1
}

fn array(shape: &[usize], value: impl Fn(usize) -> f32) -> TensorData {
    let n: usize = shape.iter().product();
    Array::from_iter((0..n).map(value)).into_shape_with_order(IxDyn(shape)).unwrap().into()
}

#[test]
fn every_workload_builds() {
    for spec in &SPECS {
        let workload = Workload::named(spec.name).unwrap();
        let graph = workload.build().unwrap();
        assert!(graph.inputs().next().is_some(), "{}", spec.name);
    }
    let error = Workload::named("mlp-x").unwrap_err().to_string();
    assert!(error.contains("required one of xor, mlp-s") && error.contains("did you mean"), "{error}");
}

#[test]
fn networks_have_the_parameters_of_the_peers() {
    let graph = Workload::named("mlp-s").unwrap().build().unwrap();
    let ty = |name: &str| graph.ty(graph.source(name).unwrap()).to_string();
    assert_eq!(
        ["W0", "b0", "W1", "b1", "x", "y"].map(ty),
        ["f32[784,128]", "f32[128]", "f32[128,10]", "f32[10]", "f32[32,784]", "i64[32]"]
    );
}

/// Two steps of the network 2-8-1 in f64, written out by hand: the losses.
fn xor_by_hand(w0: &[f64], w1: &[f64]) -> Vec<f64> {
    let (mut w0, mut w1) = (w0.to_vec(), w1.to_vec());
    let (mut b0, mut b1) = (vec![0.0; 8], 0.0);
    let mut losses = Vec::new();
    for _ in 0..5 {
        let (mut dw0, mut db0, mut dw1, mut db1, mut loss) = (vec![0.0; 16], vec![0.0; 8], vec![0.0; 8], 0.0, 0.0);
        for (x, y) in [([0.0, 0.0], 0.0), ([0.0, 1.0], 1.0), ([1.0, 0.0], 1.0), ([1.0, 1.0], 0.0)] {
            let h: Vec<f64> = (0..8).map(|j| (x[0] * w0[j] + x[1] * w0[8 + j] + b0[j]).tanh()).collect();
            let z: f64 = h.iter().zip(&w1).map(|(h, w)| h * w).sum::<f64>() + b1;
            let p: f64 = 1.0 / (1.0 + (-z).exp());
            loss -= (y * p.ln() + (1.0 - y) * (1.0 - p).ln()) / 4.0;
            let dz = (p - y) / 4.0;
            db1 += dz;
            for j in 0..8 {
                dw1[j] += dz * h[j];
                let da = dz * w1[j] * (1.0 - h[j] * h[j]);
                db0[j] += da;
                dw0[j] += da * x[0];
                dw0[8 + j] += da * x[1];
            }
        }
        losses.push(loss);
        let descend = |w: &mut [f64], d: &[f64]| w.iter_mut().zip(d).for_each(|(w, d)| *w -= 0.5 * d);
        descend(&mut w0, &dw0);
        descend(&mut b0, &db0);
        descend(&mut w1, &dw1);
        b1 -= 0.5 * db1;
    }
    losses
}

#[test]
fn xor_from_arrays_has_the_losses_of_the_formula() {
    let (w0, w1) = (|i: usize| ((i * 7 % 16) as f32 - 7.5) / 8.0, |i: usize| ((i * 5 % 8) as f32 - 3.5) / 4.0);
    let mut arrays = BTreeMap::from([
        ("W0".to_owned(), array(&[2, 8], w0)),
        ("b0".to_owned(), array(&[8], |_| 0.0)),
        ("W1".to_owned(), array(&[8, 1], w1)),
        ("b1".to_owned(), array(&[1], |_| 0.0)),
    ]);
    for i in 0..4 {
        arrays.insert(format!("x{i}"), array(&[4, 2], |i| [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0][i]));
        arrays.insert(format!("y{i}"), array(&[4, 1], |i| [0.0, 1.0, 1.0, 0.0][i]));
    }
    let options = BenchOptions { arrays: Some(arrays.clone()), ..quick() };
    let report = bench(&Workload::named("xor").unwrap(), &options).unwrap();
    let wide = |f: &dyn Fn(usize) -> f32, n| (0..n).map(|i| f64::from(f(i))).collect::<Vec<_>>();
    let expected = xor_by_hand(&wide(&w0, 16), &wide(&w1, 8));
    assert_eq!(report.loss_first5.len(), 5);
    for (got, expected) in report.loss_first5.iter().zip(&expected) {
        assert!((got - expected).abs() < 1e-5, "{:?} and {expected:?}", report.loss_first5);
    }

    // An array that is missing, or of another shape, is named.
    let refused = |arrays| {
        let error = bench(&Workload::named("xor").unwrap(), &BenchOptions { arrays: Some(arrays), ..quick() });
        let error = error.unwrap_err();
        assert!(matches!(error, TrainError::Invalid { .. }));
        error.to_string()
    };
    let mut wrong = arrays.clone();
    wrong.insert("W1".to_owned(), array(&[1, 8], w1));
    assert_eq!(refused(wrong), "array `W1`: required f32[8,1], got f32[1,8]");
    arrays.remove("y3");
    assert!(refused(arrays).starts_with("array `y3`: required f32[4,1], got an archive with W0, W1, b0"));
}

#[test]
fn losses_follow_from_the_seed_alone() {
    let run = |seed, n_threads, fuse: bool| {
        let options = BenchOptions { seed, threads: Threads::Exactly(n_threads), fusions: fuse.into(), ..quick() };
        bench(&Workload::named("mlp-s").unwrap(), &options).unwrap().loss_first5
    };
    let reference = run(1, 1, true);
    assert!(reference.iter().all(|loss| (0.5..8.0).contains(loss)), "{reference:?}");
    assert_eq!(run(1, 2, true), reference);
    assert_eq!(run(1, 1, false), reference);
    assert_ne!(run(2, 1, true), reference);
}

#[test]
fn elementwise_is_the_formula_and_its_gradient() {
    let n = 1000;
    let inputs = ["x", "w", "b", "v"].map(|name| {
        (name, (0..n).map(|i| ((i * 37 + name.len() * 11 + name.as_bytes()[0] as usize) % 41) as f64 / 10.0 - 2.0))
    });
    let inputs: Vec<(&str, Vec<f64>)> = inputs.into_iter().map(|(name, values)| (name, values.collect())).collect();
    let arrays: BTreeMap<String, TensorData> =
        inputs.iter().map(|(name, values)| (name.to_string(), array(&[n], |i| values[i] as f32))).collect();
    let f = |a: [f64; 4]| {
        let [x, w, b, v] = a;
        let u = (x * w + b).tanh() / (1.0 + (-v).exp()) + 0.5 * x * x;
        let gelu = 0.5 * u * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (u + 0.044715 * u * u * u)).tanh());
        gelu * (-x * x).exp() - v
    };
    let at = |i: usize| [0, 1, 2, 3].map(|k| f64::from(inputs[k].1[i] as f32));
    let value: f64 = (0..n).map(|i| f(at(i))).sum();
    let gradient: f64 = (0..n)
        .flat_map(|i| (0..4).map(move |k| (i, k)))
        .map(|(i, k)| {
            let (mut high, mut low) = (at(i), at(i));
            high[k] += 1e-5;
            low[k] -= 1e-5;
            (f(high) - f(low)) / 2e-5
        })
        .sum();
    for (what, expected, n_bytes) in [(What::Value, value, 20 * n), (What::Gradient, gradient, 32 * n + 4)] {
        let workload = Workload::named("elementwise").unwrap();
        let sizes = Sizes { n, what, ..workload.sizes() };
        let report = bench(&workload.sized(sizes), &BenchOptions { arrays: Some(arrays.clone()), ..quick() }).unwrap();
        let (_, _, check) = report.elementwise.unwrap();
        assert!((check - expected).abs() < 1e-3 * expected.abs().max(1.0), "{what:?}: {check} and {expected}");
        assert_eq!(field(&report, "what"), Field::Text(what.name()));
        assert_eq!(field(&report, "bytes_moved"), Field::Count(n_bytes as u64));
        assert!(matches!(field(&report, "ns_per_element"), Field::Real(ns) if ns > 0.0));
        assert_eq!(field(&report, "loss_first5"), Field::Reals(Vec::new()));
    }
}

#[test]
fn products_count_their_operations() {
    let workload = Workload::named("matmul").unwrap();
    let sizes = Sizes { m: 6, n: 10, k: 7, ta: true, tb: true, ..workload.sizes() };
    let workload = workload.sized(sizes);
    let graph = workload.build().unwrap();
    assert_eq!(graph.ty(graph.source("a").unwrap()).to_string(), "f32[7,6]");
    let feeds = workload.batches(&graph, None, 1).unwrap();
    assert_eq!((feeds.len(), feeds[0].len(), feeds[0][1].1.dtype()), (1, 2, F32));
    let report = bench(&workload, &quick()).unwrap();
    assert_eq!(report.flops, 2.0 * 6.0 * 7.0 * 10.0);
    assert!(matches!(field(&report, "gflops_median"), Field::Real(_)));
}

#[test]
fn sizes_out_of_reach_are_an_error() {
    let workload = Workload::named("elementwise").unwrap();
    let sizes = Sizes { n: usize::MAX, ..workload.sizes() };
    assert!(matches!(workload.sized(sizes).build(), Err(TrainError::Compile(_))));
}

#[test]
fn times_are_the_middle_the_least_and_nine_of_ten() {
    let times = (1..=20).rev().map(Duration::from_millis).collect();
    assert_eq!(StepTimes::of(times), StepTimes { median_ms: 11.0, min_ms: 1.0, p90_ms: 19.0, steps: 20 });
    assert_eq!(StepTimes::of(Vec::new()), StepTimes::default());
}

#[test]
fn random_batches_are_normal_and_classes_cover_their_range() {
    let workload = Workload::named("mlp-s").unwrap();
    let feeds = workload.batches(&workload.build().unwrap(), None, 3).unwrap();
    assert_eq!(feeds.len(), 4);
    let x = feeds[0][0].1.array::<f32>().unwrap();
    let (mean, var) = (x.mean().unwrap(), x.var(0.0));
    assert!(mean.abs() < 0.03 && (var - 1.0).abs() < 0.05, "{mean} {var}");
    assert_ne!(feeds[0][0].1, feeds[1][0].1);
    let mut seen = [false; 10];
    feeds.iter().flat_map(|feed| feed[1].1.to_f64()).for_each(|class| seen[class as usize] = true);
    assert_eq!(seen, [true; 10]);
}

/// log Σ exp of a row in f64.
fn log_sum_exp(row: &[f64]) -> f64 {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + row.iter().map(|x| (x - most).exp()).sum::<f64>().ln()
}

/// Output and gradients of layer normalization in f64: the sum of their sizes.
fn layer_norm_by_hand(z: &[f64], g: &[f64], b: &[f64], dy: &[f64], n: usize) -> f64 {
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / n as f64;
    let (mut dg, mut db, mut sum) = (vec![0.0; n], vec![0.0; n], 0.0);
    for (z, dy) in z.chunks(n).zip(dy.chunks(n)) {
        let m = mean(&mut z.iter().copied());
        let scale = 1.0 / (mean(&mut z.iter().map(|z| (z - m) * (z - m))) + 1e-5).sqrt();
        let y: Vec<f64> = z.iter().map(|z| (z - m) * scale).collect();
        let d: Vec<f64> = dy.iter().zip(g).map(|(dy, g)| dy * g).collect();
        let (d_mean, dy_mean) = (mean(&mut d.iter().copied()), mean(&mut d.iter().zip(&y).map(|(d, y)| d * y)));
        for j in 0..n {
            dg[j] += dy[j] * y[j];
            db[j] += dy[j];
            sum += (y[j] * g[j] + b[j]).abs() + ((d[j] - d_mean - y[j] * dy_mean) * scale).abs();
        }
    }
    sum + dg.iter().chain(&db).map(|x| x.abs()).sum::<f64>()
}

#[test]
fn work_on_rows_is_the_formula() {
    let (m, n) = (70, 37);
    let value = |k: usize| move |i: usize| ((i * 7919 + k * 31) % 97) as f32 / 24.0 - 2.0;
    let wide = |k: usize, n: usize| (0..n).map(|i| f64::from(value(k)(i))).collect::<Vec<_>>();
    let class = |i: usize| (i * 5) % n;
    let labels: ArrayD<i64> = Array::from_iter((0..m).map(|i| class(i) as i64)).into_dyn();
    let arrays = BTreeMap::from([
        ("z".to_owned(), array(&[m, n], value(0))),
        ("y".to_owned(), labels.into()),
        ("g".to_owned(), array(&[n], value(1))),
        ("b".to_owned(), array(&[n], value(2))),
        ("dy".to_owned(), array(&[m, n], value(3))),
    ]);
    let z = wide(0, m * n);
    let (mut loss, mut gradient, mut sums) = (0.0, 0.0, 0.0);
    for (i, row) in z.chunks(n).enumerate() {
        let sum = log_sum_exp(row);
        loss += (sum - row[class(i)]) / m as f64;
        gradient += (0..n).map(|j| (((row[j] - sum).exp() - f64::from(j == class(i))) / m as f64).abs()).sum::<f64>();
        sums += sum.abs();
    }
    let normalized = layer_norm_by_hand(&z, &wide(1, n), &wide(2, n), &wide(3, m * n), n);
    for (name, expected) in [("softmax-xent", loss + gradient), ("layernorm", normalized), ("logsumexp", sums)] {
        let workload = Workload::named(name).unwrap();
        let workload = workload.clone().sized(Sizes { m, n, ..workload.sizes() });
        let report = bench(&workload, &BenchOptions { arrays: Some(arrays.clone()), ..quick() }).unwrap();
        let (_, _, check) = report.rows.unwrap();
        assert!((check - expected).abs() < 1e-4 * expected, "{name}: {check} and {expected}");
        assert_eq!(field(&report, "n"), Field::Count(n as u64));
        assert!(matches!(field(&report, "gb_per_s"), Field::Real(_)));
    }
}

/// Adam moves rows on that were picked before; lazily they wait. The fifth step sees the first batch again, and what became of it.
#[test]
fn embeddings_are_updated_where_they_are_picked() {
    let run = |name: &str| {
        let workload = Workload::named(name).unwrap();
        let workload = workload.clone().sized(Sizes { m: 50, n: 4, k: 8, ..workload.sizes() });
        bench(&workload, &quick()).unwrap()
    };
    let (lazy, dense) = (run("embedding"), run("embedding-dense"));
    let losses = |report: &Report| match field(report, "loss_first5") {
        Field::Reals(losses) => losses,
        other => panic!("{other:?}"),
    };
    let (lazy, dense) = (losses(&lazy), losses(&dense));
    assert_eq!((lazy.len(), lazy[0]), (5, dense[0]));
    assert_ne!(lazy[4], dense[4]);
    assert!(lazy.iter().chain(&dense).all(|loss| loss.is_finite()) && lazy[4] < lazy[0], "{lazy:?} {dense:?}");
}
