//! The convolutional networks compute what arrays of other systems mean, channels first: beside plain loops in f64.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use cotangent_exec::{Compiler, Each, Runtime, Seed, Session, Threads};
use cotangent_graph::{Graph, TensorData};
use cotangent_train::bench::{BenchOptions, Protocol, bench};
use cotangent_train::workloads::Workload;
use ndarray::{Array, ArrayD, IxDyn};

type Arrays = BTreeMap<String, TensorData>;

/// An array of uniform numbers around 0 of this deviation, another one for each name.
fn noise(name: &str, shape: &[usize], deviation: f64) -> TensorData {
    let mut state = name.bytes().fold(1u64, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
    let value = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (((state >> 33) as f64 / f64::from(1u32 << 31) - 0.5) * 12.0f64.sqrt() * deviation) as f32
    };
    Array::from_iter((0..shape.iter().product()).map(value)).into_shape_with_order(IxDyn(shape)).unwrap().into()
}

fn batches(arrays: &mut Arrays, shape: &[usize]) {
    for i in 0..4 {
        arrays.insert(format!("x{i}"), noise(&format!("x{i}"), shape, 1.0));
        let labels: ArrayD<i64> = Array::from_iter((0..shape[0]).map(|k| ((k * 7 + i) % 10) as i64)).into_dyn();
        arrays.insert(format!("y{i}"), labels.into());
    }
}

fn filters(arrays: &mut Arrays, name: &str, [o, c, size]: [usize; 3]) {
    let deviation = (2.0 / (c * size * size) as f64).sqrt();
    arrays.insert(name.to_owned(), noise(name, &[o, c, size, size], deviation));
}

static LENET: LazyLock<Arrays> = LazyLock::new(|| {
    let mut arrays = Arrays::new();
    filters(&mut arrays, "c0", [20, 1, 5]);
    filters(&mut arrays, "c1", [50, 20, 5]);
    for (name, ends) in [("f0", [800, 500]), ("f1", [500, 10])] {
        arrays.insert(name.to_owned(), noise(name, &ends, (2.0 / ends[0] as f64).sqrt()));
    }
    for (name, n) in [("c0b", 20), ("c1b", 50), ("f0b", 500), ("f1b", 10)] {
        arrays.insert(name.to_owned(), noise(name, &[n], 0.1));
    }
    batches(&mut arrays, &[64, 1, 28, 28]);
    arrays
});

/// Blocks of ResNet-20: name, channels, filters, stride.
fn blocks() -> Vec<(String, usize, usize, usize)> {
    let mut channels = 16;
    let mut blocks = Vec::new();
    for (stage, filters) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..3 {
            let stride = if filters == channels { 1 } else { 2 };
            blocks.push((format!("s{stage}b{block}"), channels, filters, stride));
            channels = filters;
        }
    }
    blocks
}

static RESNET20: LazyLock<Arrays> = LazyLock::new(|| {
    let mut arrays = Arrays::new();
    let mut normalized = |name: &str, sizes: [usize; 3]| {
        filters(&mut arrays, name, sizes);
        let gain = values(&noise(&format!("{name}.g"), &[sizes[0]], 0.2)).into_iter().map(|x| 1.0 + x as f32);
        arrays.insert(format!("{name}.g"), Array::from_iter(gain).into_dyn().into());
        arrays.insert(format!("{name}.h"), noise(&format!("{name}.h"), &[sizes[0]], 0.2));
    };
    normalized("stem", [16, 3, 3]);
    for (name, channels, filters, stride) in blocks() {
        normalized(&format!("{name}.a"), [filters, channels, 3]);
        normalized(&format!("{name}.b"), [filters, filters, 3]);
        if stride == 2 {
            normalized(&format!("{name}.s"), [filters, channels, 1]);
        }
    }
    arrays.insert("fc".to_owned(), noise("fc", &[64, 10], 0.125));
    // The same for all classes, so that it changes no probability, and so large that its decay shows.
    arrays.insert("fcb".to_owned(), Array::from_elem(IxDyn(&[10]), 1000.0f32).into());
    batches(&mut arrays, &[32, 3, 32, 32]);
    arrays
});

fn values(array: &TensorData) -> Vec<f64> {
    match array {
        TensorData::F32(array) => array.iter().map(|&x| x.into()).collect(),
        TensorData::I64(array) => array.iter().map(|&x| x as f64).collect(),
        _ => panic!("arrays are f32 or i64"),
    }
}

// ---- plain loops, channels first ---------------------------------------------------------------------------------------

/// Maps `[n, c, h, h]`.
struct Maps {
    n: usize,
    c: usize,
    h: usize,
    x: Vec<f64>,
}

impl Maps {
    fn pictures(arrays: &Arrays, name: &str, n: usize, c: usize, h: usize) -> Self {
        let mut x = values(&arrays[name]);
        x.truncate(n * c * h * h);
        Maps { n, c, h, x }
    }

    fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        self.x.iter_mut().for_each(|x| *x = f(*x));
        self
    }

    fn relu(self) -> Self {
        self.map(|x| x.max(0.0))
    }

    fn conv(&self, weight: &TensorData, stride: usize, border: usize) -> Self {
        let TensorData::F32(shaped) = weight else { panic!("weights are f32") };
        let (o, size, w) = (shaped.shape()[0], shaped.shape()[2], values(weight));
        let h = (self.h + 2 * border - size) / stride + 1;
        let padded = self.h + 2 * border;
        let mut out = Maps { n: self.n, c: o, h, x: vec![0.0; self.n * o * h * h] };
        for example in 0..self.n {
            let mut wide = vec![0.0; self.c * padded * padded];
            for (row, x) in
                self.x[example * self.c * self.h * self.h..].chunks(self.h).take(self.c * self.h).enumerate()
            {
                let start = (row / self.h * padded + row % self.h + border) * padded + border;
                wide[start..start + self.h].copy_from_slice(x);
            }
            for filter in 0..o {
                let maps = &mut out.x[(example * o + filter) * h * h..][..h * h];
                for tap in 0..self.c * size * size {
                    let (channel, dy, dx) = (tap / (size * size), tap / size % size, tap % size);
                    let weight = w[filter * self.c * size * size + tap];
                    for (y, row) in maps.chunks_mut(h).enumerate() {
                        let from = &wide[(channel * padded + y * stride + dy) * padded + dx..];
                        row.iter_mut().zip(from.iter().step_by(stride)).for_each(|(sum, x)| *sum += weight * x);
                    }
                }
            }
        }
        out
    }

    fn for_channels(&mut self, mut f: impl FnMut(usize, &mut [f64])) {
        let c = self.c;
        self.x.chunks_mut(self.h * self.h).enumerate().for_each(|(i, map)| f(i % c, map));
    }

    fn plus_bias(mut self, bias: &TensorData) -> Self {
        let bias = values(bias);
        self.for_channels(|c, map| map.iter_mut().for_each(|x| *x += bias[c]));
        self
    }

    fn max_pool(&self) -> Self {
        let (h, half) = (self.h, self.h / 2);
        let mut x = Vec::new();
        for map in self.x.chunks(h * h) {
            for at in (0..half * half).map(|i| 2 * (i / half) * h + 2 * (i % half)) {
                x.push(map[at].max(map[at + 1]).max(map[at + h]).max(map[at + h + 1]));
            }
        }
        Maps { h: half, x, ..*self }
    }

    fn moments(&mut self) -> (Vec<f64>, Vec<f64>) {
        let (mut mean, mut square) = (vec![0.0; self.c], vec![0.0; self.c]);
        let count = (self.n * self.h * self.h) as f64;
        self.for_channels(|c, map| mean[c] += map.iter().sum::<f64>() / count);
        self.for_channels(|c, map| square[c] += map.iter().map(|x| (x - mean[c]).powi(2)).sum::<f64>() / count);
        (mean, square)
    }

    /// Batch norm by its own moments, or by mean 0 and variance 1.
    fn norm(mut self, arrays: &Arrays, name: &str, trains: bool) -> Self {
        let (gain, bias) = (values(&arrays[&format!("{name}.g")]), values(&arrays[&format!("{name}.h")]));
        let (mean, variance) = if trains { self.moments() } else { (vec![0.0; self.c], vec![1.0; self.c]) };
        let scale: Vec<f64> = variance.iter().zip(gain).map(|(v, gain)| gain / (v + 1e-5).sqrt()).collect();
        self.for_channels(|c, map| map.iter_mut().for_each(|x| *x = (*x - mean[c]) * scale[c] + bias[c]));
        self
    }
}

/// `[n, k] · [k, m] + [m]`.
fn dense(x: &[f64], arrays: &Arrays, name: &str, n_in: usize) -> Vec<f64> {
    let (w, b) = (values(&arrays[name]), values(&arrays[&format!("{name}b")]));
    let row = |x: &[f64]| {
        let mut out = b.clone();
        x.iter().zip(w.chunks(b.len())).for_each(|(x, w)| out.iter_mut().zip(w).for_each(|(sum, w)| *sum += x * w));
        out
    };
    x.chunks(n_in).flat_map(row).collect()
}

fn lenet(arrays: &Arrays, x: &Maps) -> Vec<f64> {
    let x = x.conv(&arrays["c0"], 1, 0).plus_bias(&arrays["c0b"]).max_pool();
    let x = x.conv(&arrays["c1"], 1, 0).plus_bias(&arrays["c1b"]).max_pool();
    let hidden: Vec<f64> = dense(&x.x, arrays, "f0", 800).into_iter().map(|x| x.max(0.0)).collect();
    dense(&hidden, arrays, "f1", 500)
}

fn resnet20(arrays: &Arrays, x: &Maps, trains: bool) -> Vec<f64> {
    let layer = |x: &Maps, name: &str, stride, border| x.conv(&arrays[name], stride, border).norm(arrays, name, trains);
    let mut x = layer(x, "stem", 1, 1).relu();
    for (name, _, _, stride) in blocks() {
        let inner = layer(&x, &format!("{name}.a"), stride, 1).relu();
        let mut inner = layer(&inner, &format!("{name}.b"), 1, 1);
        let shortcut = if stride == 2 { layer(&x, &format!("{name}.s"), 2, 0) } else { x };
        inner.x.iter_mut().zip(&shortcut.x).for_each(|(x, y)| *x += y);
        x = inner.relu();
    }
    let means: Vec<f64> = x.x.chunks(x.h * x.h).map(|map| map.iter().sum::<f64>() / map.len() as f64).collect();
    dense(&means, arrays, "fc", 64)
}

/// The softmax of rows of 10, and the mean cross-entropy.
fn softmax(logits: &[f64], labels: &TensorData) -> (Vec<f64>, f64) {
    let mut loss = 0.0;
    let labels = values(labels);
    let row = |(row, &label): (&[f64], &f64)| {
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
        loss += (most + sum.ln() - row[label as usize]) / labels.len() as f64;
        row.iter().map(|x| (x - most).exp() / sum).collect::<Vec<_>>()
    };
    let shares = logits.chunks(10).zip(&labels).flat_map(row).collect();
    (shares, loss)
}

fn mean_size(values: &[f64]) -> f64 {
    values.iter().map(|x| x.abs()).sum::<f64>() / values.len() as f64
}

// ---- the tests ------------------------------------------------------------------------------------------------------------

fn quick(arrays: &Arrays) -> BenchOptions {
    let protocol = Protocol { warm_steps: 1, warm_time: Duration::ZERO, exact_steps: Some(1), ..Protocol::default() };
    BenchOptions { threads: Threads::Exactly(2), protocol, arrays: Some(arrays.clone()), ..BenchOptions::default() }
}

fn workload(name: &str) -> Workload {
    Workload::named(name).unwrap()
}

fn assert_close(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() < 1e-4 * expected.abs().max(0.1), "{what}: {got} and {expected}");
}

/// The mean size of what a workload predicts for so many examples.
fn predicted(name: &str, batch: usize, arrays: &Arrays) -> f64 {
    let report = bench(&workload(name).inference(Some(batch)).unwrap(), &quick(arrays)).unwrap();
    assert!(report.loss_first5.is_empty());
    let (n, check) = report.inference.unwrap();
    assert_eq!(n, batch);
    check
}

#[test]
fn lenet_is_that_of_arrays_with_channels_first() {
    let arrays = &*LENET;
    let logits = lenet(arrays, &Maps::pictures(arrays, "x0", 64, 1, 28));
    let report = bench(&workload("lenet"), &quick(arrays)).unwrap();
    assert_close(report.loss_first5[0], softmax(&logits, &arrays["y0"]).1, "loss");
    assert!(report.loss_first5.iter().all(|loss| loss.is_finite()) && report.inference.is_none());

    // Examples of the second array follow those of the first.
    let more = lenet(arrays, &Maps::pictures(arrays, "x1", 6, 1, 28));
    assert_close(predicted("lenet", 1, arrays), mean_size(&logits[..10]), "one example");
    assert_close(predicted("lenet", 70, arrays), mean_size(&[logits, more].concat()), "70 examples");
}

#[test]
fn resnet20_is_that_of_arrays_with_channels_first() {
    let arrays = &*RESNET20;
    let one = Maps::pictures(arrays, "x0", 2, 3, 32);
    assert_close(predicted("resnet20", 2, arrays), mean_size(&resnet20(arrays, &one, false)), "two examples");

    let x = Maps::pictures(arrays, "x0", 32, 3, 32);
    let (shares, loss) = softmax(&resnet20(arrays, &x, true), &arrays["y0"]);
    let workload = workload("resnet20");
    let graph = workload.build().unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(2)), program, Seed(1)).unwrap();
    workload.load_params(session.store_mut(), &graph, arrays).unwrap();
    let feed = workload.batches(&graph, Some(arrays), 1).unwrap().swap_remove(0);
    let inputs = Each(feed.iter().map(|(name, value)| (name.as_str(), value.into())));
    assert_close(session.step(inputs).unwrap().scalar("loss").unwrap(), loss, "loss");

    // A tenth of the batch's moments has come to the averages, of the variance in its unbiased form.
    let stored = |name: &str| session.store().get(name).unwrap().to_f64();
    let (mean, variance) = x.conv(&arrays["stem"], 1, 1).moments();
    let unbiased = 32768.0 / 32767.0;
    for c in 0..16 {
        assert_close(stored("stem.norm.mean")[c], 0.1 * mean[c], "mean");
        assert_close(stored("stem.norm.variance")[c], 0.9 + 0.1 * variance[c] * unbiased, "variance");
    }
    // Decay is for biases too: 0.1 · 0.0001 · 1000 of the last ones is gone, beside the gradient.
    let labels = values(&arrays["y0"]);
    for class in 0..10 {
        let of_class = |k: usize| shares[k * 10 + class] - f64::from(labels[k] == class as f64);
        let gradient = (0..32).map(of_class).sum::<f64>() / 32.0;
        let moved = 1000.0 - stored("fc.bias")[class];
        assert!((moved - 0.1 * (gradient + 0.1)).abs() < 2e-4, "class {class}: {moved} with the gradient {gradient}");
    }
}

#[test]
fn archives_have_the_names_and_shapes_of_other_systems() {
    let names = |name: &str| workload(name).array_names(&workload(name).build().unwrap());
    assert_eq!(names("lenet"), LENET.keys().cloned().collect());
    assert_eq!(names("resnet20"), RESNET20.keys().cloned().collect());

    let refused = |change: &dyn Fn(&mut Arrays)| {
        let mut arrays = LENET.clone();
        change(&mut arrays);
        bench(&workload("lenet"), &quick(&arrays)).unwrap_err().to_string()
    };
    let put = |name: &'static str, shape: &'static [usize]| {
        move |arrays: &mut Arrays| drop(arrays.insert(name.to_owned(), noise(name, shape, 1.0)))
    };
    assert_eq!(refused(&put("c0", &[5, 5, 1, 20])), "array `c0`: required f32[20,1,5,5], got f32[5,5,1,20]");
    assert_eq!(refused(&put("x2", &[64, 28, 28, 1])), "array `x2`: required f32[64,1,28,28], got f32[64,28,28,1]");
    assert_eq!(refused(&put("f0", &[500, 800])), "array `f0`: required f32[800,500], got f32[500,800]");
    let missing = refused(&|arrays| drop(arrays.remove("c1b")));
    assert!(missing.starts_with("array `c1b`: required f32[50], got an archive with c0, c0b, c1, f0"), "{missing}");
}

#[test]
fn inference_is_of_networks_and_of_examples_that_are_there() {
    let refused = |name: &str, batch| workload(name).inference(batch).unwrap_err().to_string();
    let networks = "xor, mlp-s, mlp-m, mlp-l, bn-mlp, lenet, resnet20, lstm-char, gru-char, gpt-nano";
    assert_eq!(refused("matmul", None), format!("inference: required a network: {networks}, got `matmul`"));
    assert_eq!(refused("lenet", Some(0)), "batch: required 1 example or more, got 0");
    let too_many = bench(&workload("lenet").inference(Some(257)).unwrap(), &quick(&LENET)).unwrap_err().to_string();
    assert_eq!(too_many, "batch: required at most 256, as many examples as the arrays of batches hold, got 257");
    // As many as in training unless said otherwise, without arrays as well, and without dropout.
    let predicts = workload("mlp-l").inference(None).unwrap();
    let graph = predicts.build().unwrap();
    assert_eq!((predicts.predicts(), predicts.trains()), (Some(256), false));
    assert_eq!(graph.ty(graph.source("x").unwrap()).to_string(), "f32[256,784]");
    let drops = |graph: &Graph| graph.to_string().contains("drop.0");
    assert!(drops(&workload("mlp-l").build().unwrap()) && !drops(&graph));
}
