//! Nanoseconds per element of typical kernels in each cache level, and what it costs to compile them, for every backend
//! that the machine runs.
//!
//! `cargo bench -p cotangent-codegen --bench kernels [-- part-of-a-name]`. Figures are the best of several short runs
//! on one thread. `-- from-memory` prints the second table alone: kernels over arrays that no cache holds, with ordinary
//! stores and with those past the caches, beside what bounds them: the time in cache, and the bytes that are of use at the
//! speed of a triad (two arrays read, one written) that stores in the same way.

use std::time::{Duration, Instant};

use cotangent_codegen::{Backend, BackendChoice, KernelFn, Options};
use cotangent_host::{Isa, Target};
use cotangent_kernel::ir::{Arg, ArgId, IndexMap, Input, Kernel, Phase, Reduce, Space, Store, Sweep};
use cotangent_scalar::{BodyBuilder, DType, ReduceOp, ValueId, math, philox};
use smallvec::SmallVec;

const F32: DType = DType::F32;

fn map(strides: &[i64]) -> IndexMap {
    IndexMap { offset: 0, strides: SmallVec::from_slice(strides) }
}

fn load(arg: u32, strides: &[i64]) -> Input {
    Input::Load { arg: ArgId(arg), map: map(strides) }
}

fn kernel(name: &str, sweep: Sweep, dims: &[usize], n_in: usize, n_out: usize, phases: Vec<Phase>) -> Kernel {
    let mut args = vec![Arg { dtype: F32, read: true, written: false }; n_in];
    args.extend(vec![Arg { dtype: F32, read: false, written: true }; n_out]);
    let total = dims.iter().product();
    Kernel { name: name.into(), sweep, dims: SmallVec::from_slice(dims), total, args, phases }
}

/// An elementwise kernel over `n` elements of `n_in` arrays.
fn pointwise(name: &str, n: usize, n_in: u32, f: impl Fn(&mut BodyBuilder, &[ValueId]) -> Vec<ValueId>) -> Kernel {
    let mut s = BodyBuilder::new();
    let x: Vec<ValueId> = (0..n_in).map(|k| s.input(k, F32)).collect();
    let values = f(&mut s, &x);
    let (body, roots) = s.finish(&values);
    let inputs = (0..n_in).map(|k| load(k, &[1])).collect();
    let stores = roots.iter().enumerate();
    let stores: Vec<Store> =
        stores.map(|(k, &value)| Store { value, arg: ArgId(n_in + k as u32), map: map(&[1]), stream: false }).collect();
    let n_out = stores.len();
    let phase = Phase { space: Space::Full, body, inputs, stores, reduces: vec![] };
    kernel(name, Sweep::Elementwise, &[n], n_in as usize, n_out, vec![phase])
}

/// relu(a·x + b) + c·y, with constants a, b, c.
fn cheap(n: usize) -> Kernel {
    pointwise("cheap", n, 2, |s, x| {
        let (a, b, c) = (s.like(1.5, x[0]), s.like(0.25, x[0]), s.like(-0.5, x[0]));
        let scaled = s.mul(x[0], a);
        let shifted = s.add(scaled, b);
        let zero = s.like(0.0, x[0]);
        let positive = s.max(zero, shifted);
        let other = s.mul(x[1], c);
        vec![s.add(positive, other)]
    })
}

/// gelu_tanh(tanh(x·w + b)·σ(v) + 0.5·x²)·exp(−x²) − v.
fn forward(n: usize) -> Kernel {
    pointwise("forward", n, 4, |s, a| {
        let [x, w, b, v] = [a[0], a[1], a[2], a[3]];
        let (half, one) = (s.like(0.5, x), s.like(1.0, x));
        let product = s.mul(x, w);
        let affine = s.add(product, b);
        let t = math::tanh(s, affine);
        let gate = math::sigmoid(s, v);
        let gated = s.mul(t, gate);
        let square = s.mul(x, x);
        let halved = s.mul(half, square);
        let u = s.add(gated, halved);
        let (k0, k1) = (s.like(0.797_884_560_802_865_4, x), s.like(0.044_715, x));
        let u2 = s.mul(u, u);
        let u3 = s.mul(u2, u);
        let scaled = s.mul(k1, u3);
        let sum = s.add(u, scaled);
        let inner = s.mul(k0, sum);
        let th = math::tanh(s, inner);
        let plus = s.add(one, th);
        let hu = s.mul(half, u);
        let gelu = s.mul(hu, plus);
        let negative = s.neg(square);
        let decay = math::exp(s, negative);
        let decayed = s.mul(gelu, decay);
        vec![s.sub(decayed, v)]
    })
}

fn exponential(n: usize) -> Kernel {
    pointwise("exp", n, 1, |s, a| vec![math::exp(s, a[0])])
}

/// x · 2 where a Philox bit is set, 0 elsewhere.
fn dropout(n: usize) -> Kernel {
    let mut s = BodyBuilder::new();
    let (x, index) = (s.input(0, F32), s.input(1, DType::I32));
    let [seed_lo, seed_hi, stream, step] = [1.0, 2.0, 3.0, 4.0].map(|v| s.constant(v, DType::I32));
    let word = philox::word_body(&mut s, seed_lo, seed_hi, stream, step, index);
    let zero = s.constant(0.0, DType::I32);
    let keep = s.lt(word, zero);
    let (two, nothing) = (s.like(2.0, x), s.like(0.0, x));
    let scaled = s.mul(x, two);
    let value = s.select(keep, scaled, nothing);
    let (body, roots) = s.finish(&[value]);
    let inputs = vec![load(0, &[1]), Input::Index { map: map(&[1]), dtype: DType::I32 }];
    let stores = vec![Store { value: roots[0], arg: ArgId(1), map: map(&[1]), stream: false }];
    let phase = Phase { space: Space::Full, body, inputs, stores, reduces: vec![] };
    kernel("dropout", Sweep::Elementwise, &[n], 1, 1, vec![phase])
}

fn transpose(rows: usize, inner: usize) -> Kernel {
    let mut s = BodyBuilder::new();
    let x = s.input(0, F32);
    let (body, roots) = s.finish(&[x]);
    let inputs = vec![load(0, &[1, rows as i64])];
    let stores = vec![Store { value: roots[0], arg: ArgId(1), map: map(&[inner as i64, 1]), stream: false }];
    let phase = Phase { space: Space::Full, body, inputs, stores, reduces: vec![] };
    kernel("transpose", Sweep::Elementwise, &[rows, inner], 1, 1, vec![phase])
}

fn row_sum(rows: usize, inner: usize) -> Kernel {
    let mut s = BodyBuilder::new();
    let x = s.input(0, F32);
    let (body, roots) = s.finish(&[x]);
    let reduces = vec![Reduce { value: roots[0], op: ReduceOp::Sum, slot: 0, chain: false }];
    let full = Phase { space: Space::Full, body, inputs: vec![load(0, &[inner as i64, 1])], stores: vec![], reduces };
    let mut s = BodyBuilder::new();
    let r = s.input(0, F32);
    let (body, roots) = s.finish(&[r]);
    let stores = vec![Store { value: roots[0], arg: ArgId(1), map: map(&[1, 0]), stream: false }];
    let last = Phase { space: Space::Reduced, body, inputs: vec![Input::Reduced(0)], stores, reduces: vec![] };
    kernel("row_sum", Sweep::Row, &[rows, inner], 1, 1, vec![full, last])
}

/// Softmax of rows in one kernel: maximum, sum of exponentials, quotient.
fn softmax(rows: usize, inner: usize) -> Kernel {
    let x = || load(0, &[inner as i64, 1]);
    let y = || map(&[inner as i64, 1]);
    let mut s = BodyBuilder::new();
    let v = s.input(0, F32);
    let (body, roots) = s.finish(&[v]);
    let reduces = vec![Reduce { value: roots[0], op: ReduceOp::Max, slot: 0, chain: false }];
    let maximum = Phase { space: Space::Full, body, inputs: vec![x()], stores: vec![], reduces };
    let mut s = BodyBuilder::new();
    let (v, m) = (s.input(0, F32), s.input(1, F32));
    let shifted = s.sub(v, m);
    let e = math::exp(&mut s, shifted);
    let (body, roots) = s.finish(&[e]);
    let reduces = vec![Reduce { value: roots[0], op: ReduceOp::Sum, slot: 1, chain: false }];
    let stores = vec![Store { value: roots[0], arg: ArgId(1), map: y(), stream: false }];
    let sum = Phase { space: Space::Full, body, inputs: vec![x(), Input::Reduced(0)], stores, reduces };
    let mut s = BodyBuilder::new();
    let (e, z) = (s.input(0, F32), s.input(1, F32));
    let one = s.like(1.0, z);
    let scale = s.div(one, z);
    let p = s.mul(e, scale);
    let (body, roots) = s.finish(&[p]);
    let stores = vec![Store { value: roots[0], arg: ArgId(1), map: y(), stream: false }];
    let inputs = vec![Input::Load { arg: ArgId(1), map: y() }, Input::Reduced(1)];
    let quotient = Phase { space: Space::Full, body, inputs, stores, reduces: vec![] };
    kernel("softmax", Sweep::Row, &[rows, inner], 1, 1, vec![maximum, sum, quotient])
}

/// x + 3·y: as little arithmetic as three arrays can have.
fn triad(n: usize) -> Kernel {
    pointwise("triad", n, 2, |s, x| {
        let three = s.like(3.0, x[0]);
        let scaled = s.mul(x[1], three);
        vec![s.add(x[0], scaled)]
    })
}

/// The kernel with all stores past the caches, or none.
fn storing(mut kernel: Kernel, stream: bool) -> Kernel {
    kernel.phases.iter_mut().flat_map(|p| &mut p.stores).for_each(|store| store.stream = stream);
    kernel
}

fn column_sum(rows: usize, inner: usize) -> Kernel {
    let mut s = BodyBuilder::new();
    let x = s.input(0, F32);
    let (body, roots) = s.finish(&[x]);
    let reduces = vec![Reduce { value: roots[0], op: ReduceOp::Sum, slot: 0, chain: false }];
    let full = Phase { space: Space::Full, body, inputs: vec![load(0, &[inner as i64, 1])], stores: vec![], reduces };
    let mut s = BodyBuilder::new();
    let r = s.input(0, F32);
    let (body, roots) = s.finish(&[r]);
    let stores = vec![Store { value: roots[0], arg: ArgId(1), map: map(&[0, 1]), stream: false }];
    let last = Phase { space: Space::Reduced, body, inputs: vec![Input::Reduced(0)], stores, reduces: vec![] };
    kernel("column_sum", Sweep::Column, &[rows, inner], 1, 1, vec![full, last])
}

/// The best time of one call, in nanoseconds.
fn best_ns(code: &KernelFn, kernel: &Kernel, arrays: &mut [Vec<f32>]) -> f64 {
    let layout = kernel.layout();
    // At the start of a cache line, as buffers of a plan are.
    let ptrs: Vec<*mut u8> =
        arrays.iter_mut().map(|a| a.as_mut_ptr()).map(|p| p.wrapping_add(p.align_offset(64)).cast()).collect();
    let mut best = f64::INFINITY;
    let deadline = Instant::now() + Duration::from_millis(120);
    let n_calls = (200_000 / kernel.total.max(1)).max(1);
    while Instant::now() < deadline {
        let start = Instant::now();
        for _ in 0..n_calls {
            // SAFETY: every array has an element for each of the kernel's from where it is aligned, which bounds all maps of
            // these kernels.
            unsafe { code.call(&ptrs, &layout, 0..kernel.n_rows(), 0..kernel.inner()) };
        }
        best = best.min(start.elapsed().as_nanos() as f64 / n_calls as f64);
    }
    best
}

/// An array for each argument, with room to start at a cache line.
fn arrays(kernel: &Kernel) -> Vec<Vec<f32>> {
    let lengths = vec![kernel.total; kernel.args.len()];
    assert_eq!(kernel.check_bounds(&lengths), Ok(()));
    let value = |k: usize, i: usize| ((i * 7 + k * 13) % 100) as f32 * 0.02 - 1.0;
    lengths.iter().enumerate().map(|(k, n)| (0..n + 16).map(|i| value(k, i)).collect()).collect()
}

/// The second table.
fn from_memory(backends: &[Box<dyn Backend>]) {
    const N: usize = 1 << 24;
    println!(
        "\n{:10} {:14} {:10} {:>10} {:>10} {:>10} {:>14} {:>12}",
        "kernel", "made by", "stores", "ns/element", "in cache", "GB/s", "bytes ÷ triad", "of the bound"
    );
    for backend in backends {
        // Cranelift has no stores past the caches.
        for stream in [false, true].into_iter().filter(|stream| !stream || backend.name() != "cranelift") {
            let ns = |kernel: Kernel| {
                let kernel = storing(kernel, stream);
                let compiled = backend.compile(&[&kernel]).expect("code");
                best_ns(&compiled.functions()[0], &kernel, &mut arrays(&kernel)) / kernel.total as f64
            };
            let mut per_byte = f64::INFINITY;
            for make in [triad, cheap, exponential, forward] {
                let (far, near) = (ns(make(N)), ns(storing(make(1 << 13), false)));
                let kernel = make(1);
                let bytes = 4.0 * kernel.args.len() as f64;
                // The best triad yet, this one among them.
                per_byte = if kernel.name == "triad" { far / bytes } else { per_byte.min(ns(triad(N)) / 12.0) };
                let (moved, name) = (bytes * per_byte, kernel.name);
                let stores = if stream { "past" } else { "ordinary" };
                println!(
                    "{name:10} {:14} {stores:10} {far:>10.3} {near:>10.3} {:>10.1} {moved:>14.3} {:>12.2}",
                    backend.name(),
                    bytes / far,
                    far / moved.max(near)
                );
            }
        }
    }
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let backend = |choice: BackendChoice, isa| {
        choice.backend(&Target::here().clone().with_isa(isa), Options::default()).expect("a code generator")
    };
    let mut backends = vec![backend(BackendChoice::Cranelift, Isa::Portable)];
    let isas = [Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available());
    backends.extend(isas.map(|isa| backend(BackendChoice::Wide, isa)));
    let sizes = [("L1", 1 << 10), ("L2", 1 << 15), ("L3", 1 << 19)];
    let mut kernels: Vec<(String, Kernel)> = Vec::new();
    for (level, n) in sizes {
        for kernel in [cheap(n), exponential(n), forward(n), dropout(n)] {
            kernels.push((format!("{} {level} [{n}]", kernel.name), kernel));
        }
    }
    for (level, rows, inner) in [("L1", 4, 256), ("L2", 32, 1024), ("L3", 512, 1024), ("memory", 4096, 1024)] {
        for kernel in [row_sum(rows, inner), softmax(rows, inner), column_sum(rows, inner), transpose(rows, inner)] {
            kernels.push((format!("{} {level} [{rows}, {inner}]", kernel.name), kernel));
        }
    }
    if filter == "from-memory" {
        return from_memory(&backends);
    }
    println!("{:32} {:>10} {:>12} {:>12} {:>10}  made by", "kernel", "ns/element", "µs/call", "compile µs", "bytes");
    let chosen = kernels.iter().filter(|(name, _)| name.contains(&filter));
    for ((name, kernel), backend) in chosen.flat_map(|kernel| backends.iter().map(move |backend| (kernel, backend))) {
        assert_eq!(kernel.verify(), Ok(()), "{kernel}");
        let compile = || backend.compile(&[kernel]).expect("code");
        let compiled = compile();
        let compile_time = (0..20).map(|_| compile().compile_time()).min().unwrap_or_default();
        let mut arrays = arrays(kernel);
        let ns = best_ns(&compiled.functions()[0], kernel, &mut arrays);
        println!(
            "{name:32} {:>10.3} {:>12.2} {:>12.0} {:>10}  {}",
            ns / kernel.total as f64,
            ns / 1000.0,
            compile_time.as_nanos() as f64 / 1000.0,
            compiled.code_bytes(),
            compiled.stats(0).made_by
        );
    }
    if filter.is_empty() {
        from_memory(&backends);
    }
}
