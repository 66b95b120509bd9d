//! Tests derived from the registry: inferred types are those of values, and values agree with references in f64 that are
//! written out here and share nothing with the ops' own definitions.

use cotangent_graph::interp::interpret;
use cotangent_graph::samples::Sampler;
use cotangent_graph::{Attrs, DType, Env, GraphBuilder, Registry, Stage, Tensor, TensorData, build, verify};

/// Evaluates a formula of some operands.
fn eval(inputs: &[TensorData], f: impl for<'g> Fn(&'g GraphBuilder, &[Tensor<'g>]) -> Tensor<'g>) -> TensorData {
    let graph = build(|g| {
        let name = |k: usize| format!("x{k}");
        let tensors: Vec<Tensor<'_>> =
            inputs.iter().enumerate().map(|(k, data)| g.input(&name(k), data.dtype(), data.shape())).collect();
        g.output("y", f(g, &tensors));
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    assert_eq!(verify(&graph, Stage::Source), Vec::<String>::new());
    let env = inputs.iter().enumerate().fold(Env::default(), |env, (k, data)| env.with(&format!("x{k}"), data.clone()));
    let value = interpret(&graph, &env).unwrap_or_else(|diag| panic!("{diag}\n{graph}")).remove(0);
    assert_eq!(&value.ty(), graph.ty(graph.outputs()[0].value), "{graph}");
    value
}

#[test]
fn inferred_types_are_those_of_values() {
    let mut n_samples = 0;
    for dtype in [DType::F32, DType::F64] {
        for op in Registry::builtin().iter() {
            for sample in (op.0.samples)(&mut Sampler::new(dtype, 1)) {
                n_samples += 1;
                eval(&sample.inputs, |g, x| g.op(op.0, x, sample.attrs.clone(), sample.declared.clone()));
            }
        }
    }
    assert!(n_samples > 150, "{n_samples} samples");
}

#[test]
fn every_op_is_documented() {
    for op in Registry::builtin().iter() {
        assert!(op.0.doc.ends_with('.'), "{}: a doc is a sentence", op.0.name);
        op.0.attrs.iter().for_each(|a| assert!(!a.doc.is_empty(), "{}.{}", op.0.name, a.name));
    }
}

// ---- references --------------------------------------------------------------------------------------------------

/// `erf` by its Taylor series up to 1.2, where terms hardly cancel, and by the continued fraction of `erfc` beyond.
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 1.2 {
        return x.signum() * (1.0 - erfc_of_large(x.abs()));
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// erfc(z) = e^(-z²)/√π · 1/(z + 1/2/(z + 1/(z + 3/2/(z + …)))) for `z` above 1.2.
fn erfc_of_large(z: f64) -> f64 {
    let fraction = (1..200).rev().fold(z, |tail, k| z + f64::from(k) / 2.0 / tail);
    (-z * z).exp() / std::f64::consts::PI.sqrt() / fraction
}

fn erf_inv(y: f64) -> f64 {
    if y.abs() > 1.0 || y.is_nan() {
        return f64::NAN;
    }
    if y == 0.0 {
        return y;
    }
    if y.abs() == 1.0 {
        return y * f64::INFINITY;
    }
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if erf(middle) < y { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

fn normal_cdf(x: f64) -> f64 {
    let z = x / 2f64.sqrt();
    if z < -1.2 { 0.5 * erfc_of_large(-z) } else { 0.5 * (1.0 + erf(z)) }
}

fn normal_pdf(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

fn softplus(x: f64) -> f64 {
    if x.is_nan() { x } else { x.max(0.0) + (-x.abs()).exp().ln_1p() }
}

/// Klambauer et al. 2017, with the two constants from their definition by the moments of a normal variable.
fn selu(x: f64) -> f64 {
    let (e, sqrt_e, erfc) = (1f64.exp(), 0.5f64.exp(), |x: f64| 1.0 - erf(x));
    let (pi, root2) = (std::f64::consts::PI, 2f64.sqrt());
    let alpha = -(2.0 / pi).sqrt() / (erfc(1.0 / root2) * sqrt_e - 1.0);
    let tails = e * e * erfc(root2) - 2.0 * sqrt_e * erfc(1.0 / root2);
    let scale = (2.0 / (alpha * alpha * (tails + 1.0) + 1.0)).sqrt();
    scale * if x > 0.0 { x } else { alpha * x.exp_m1() }
}

fn round_even(x: f64) -> f64 {
    x.round_ties_even()
}

fn sign(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        x
    }
}

type Unary = (&'static str, fn(f64) -> f64, f64);

/// Name, reference, and the largest error allowed in units of the type's epsilon, relative to max(|result|, 1e-3·|x|).
const UNARY: &[Unary] = &[
    ("neg", |x| -x, 0.0),
    ("abs", f64::abs, 0.0),
    ("sign", sign, 0.0),
    ("floor", f64::floor, 0.0),
    ("ceil", f64::ceil, 0.0),
    ("round", round_even, 0.0),
    ("exp", f64::exp, 2.0),
    ("expm1", f64::exp_m1, 4.0),
    ("log", f64::ln, 2.0),
    ("log1p", f64::ln_1p, 4.0),
    ("sqrt", f64::sqrt, 1.0),
    ("rsqrt", |x| 1.0 / x.sqrt(), 3.0),
    ("tanh", f64::tanh, 6.0),
    ("sigmoid", sigmoid, 6.0),
    ("erf", erf, 6.0),
    ("erf_inv", erf_inv, 12.0),
    ("softplus", softplus, 6.0),
    ("sin", f64::sin, 4.0),
    ("cos", f64::cos, 4.0),
    ("relu", |x| if x < 0.0 { 0.0 } else { x }, 0.0),
    ("silu", |x| x * sigmoid(x), 8.0),
    ("tanh_slope", |x| 4.0 * sigmoid(2.0 * x) * sigmoid(-2.0 * x), 6.0),
    ("sigmoid_slope", |x| sigmoid(x) * sigmoid(-x), 6.0),
    // The reference rounds x/√2, which in the tail counts x² times.
    ("normal_cdf", normal_cdf, 16.0),
    ("normal_pdf", normal_pdf, 4.0),
    ("sqrt_of_squares", f64::sqrt, 1.0),
    ("gelu", |x| x * normal_cdf(x), 16.0),
    ("gelu_tanh", |x| x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)), 16.0),
    ("stop_gradient", |x| x, 0.0),
    ("threshold", |x| if x > 0.0 { 1.0 } else { 0.0 }, 0.0),
    ("relu6", |x| x.clamp(0.0, 6.0), 0.0),
    // Next to -3 the sum cancels; the error is then one of its terms' scale.
    ("hard_sigmoid", |x| (x / 6.0 + 0.5).clamp(0.0, 1.0), 1e3),
    ("hard_swish", |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0), 3e3),
    ("selu", selu, 8.0),
    ("softsign", |x| x / (1.0 + x.abs()), 3.0),
    ("mish", |x| x * softplus(x).tanh(), 16.0),
    ("log_sigmoid", |x| -softplus(-x), 6.0),
];

type Binary = (&'static str, fn(f64, f64) -> f64, f64);

const BINARY: &[Binary] = &[
    ("add", |a, b| a + b, 1.0),
    ("sub", |a, b| a - b, 1.0),
    ("mul", |a, b| a * b, 1.0),
    ("div", |a, b| a / b, 1.0),
    ("maximum", |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }, 0.0),
    ("minimum", |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }, 0.0),
    ("pow", f64::powf, 40.0),
];

/// Numbers of every size, and the special ones.
fn grid(dtype: DType) -> Vec<f64> {
    let mut sampler = Sampler::new(dtype, 5);
    let mut grid: Vec<f64> =
        vec![0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    grid.extend(sampler.float_in(-1.0..1.0, [200]).to_f64());
    grid.extend(sampler.float_in(-9.0..9.0, [200]).to_f64());
    grid.extend(sampler.float_in(-80.0..80.0, [100]).to_f64());
    grid.extend((-20..20).map(|e| 1.1 * 2f64.powi(e)));
    grid.iter().map(|&v| dtype.f64_of_bits(dtype.bits_of_f64(v))).collect()
}

fn tensor(dtype: DType, values: &[f64]) -> TensorData {
    let bits: Vec<u64> = values.iter().map(|&v| dtype.bits_of_f64(v)).collect();
    TensorData::from_bits(dtype, &[values.len()].into(), &bits)
}

fn check(dtype: DType, what: &str, got: f64, exact: f64, scale: f64, ulps: f64) {
    let epsilon = if dtype == DType::F32 { f64::from(f32::EPSILON) } else { f64::EPSILON };
    let (largest, smallest) = match dtype {
        DType::F32 => (f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE)),
        _ => (f64::MAX, f64::MIN_POSITIVE),
    };
    let overflows = exact.abs() > largest * (1.0 - 8.0 * epsilon);
    let fine = match exact {
        _ if exact.is_nan() => got.is_nan(),
        _ if overflows => got == exact.signum() * f64::INFINITY || got.abs() >= 0.9 * largest,
        _ => (got - exact).abs() <= ulps * epsilon * scale.max(exact.abs()) + if ulps > 0.0 { smallest } else { 0.0 },
    };
    assert!(fine, "{what} in {dtype}: got {got:e}, exact {exact:e}");
}

#[test]
fn scalar_functions_agree_with_f64_references() {
    let registry = Registry::builtin();
    for dtype in [DType::F32, DType::F64] {
        let grid = grid(dtype);
        for (name, reference, ulps) in UNARY {
            let op = registry.get(name).unwrap_or_else(|| panic!("no op {name}"));
            let got = eval(&[tensor(dtype, &grid)], |g, x| g.op(op.0, x, Attrs::none(), None)).to_f64();
            for (&x, got) in grid.iter().zip(got) {
                if matches!(*name, "gelu" | "gelu_tanh" | "silu") && x.is_infinite() {
                    continue;
                }
                check(dtype, &format!("{name}({x:e})"), got, reference(x), 1e-3 * x.abs().min(1.0), *ulps);
            }
        }
        let lhs: Vec<f64> = grid.iter().flat_map(|&a| grid.iter().step_by(9).map(move |_| a)).collect();
        let rhs: Vec<f64> = grid.iter().flat_map(|_| grid.iter().step_by(9).copied()).collect();
        for (name, reference, ulps) in BINARY {
            let op = registry.get(name).unwrap_or_else(|| panic!("no op {name}"));
            let inputs = [tensor(dtype, &lhs), tensor(dtype, &rhs)];
            let got = eval(&inputs, |g, x| g.op(op.0, x, Attrs::none(), None)).to_f64();
            for ((&a, &b), got) in lhs.iter().zip(&rhs).zip(got) {
                check(dtype, &format!("{name}({a:e}, {b:e})"), got, reference(a, b), 0.0, *ulps);
            }
        }
    }
}

/// Every pointwise op of floats has a reference above or a test of its own below.
#[test]
fn no_scalar_function_lacks_a_reference() {
    const OWN_TEST: [&str; 19] = [
        "and",
        "or",
        "xor",
        "not",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "select",
        "cast",
        "leaky_relu",
        "elu",
        "celu",
        "prelu",
        "huber",
        "hinge",
        "kl_divergence",
    ];
    let registry = Registry::builtin();
    let names = UNARY.iter().map(|u| u.0).chain(BINARY.iter().map(|b| b.0)).chain(OWN_TEST).chain(["bce_with_logits"]);
    let known: Vec<_> = names.map(|name| registry.get(name).unwrap_or_else(|| panic!("no op {name}"))).collect();
    for op in registry.iter().filter(|op| op.traits.has(cotangent_graph::OpTraits::POINTWISE)) {
        assert!(known.contains(&op), "{op}");
    }
}

type Comparison = (&'static str, fn(f64, f64) -> bool);

#[test]
fn comparisons_selection_and_slopes() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let a = [0.0, -0.0, 1.0, 2.0, nan, nan, inf, -1.0];
    let b = [-0.0, 0.0, 2.0, 1.0, nan, 1.0, inf, -1.0];
    let compare: [Comparison; 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    for dtype in [DType::F32, DType::F64] {
        let inputs = [tensor(dtype, &a), tensor(dtype, &b)];
        for (name, reference) in compare {
            let op = Registry::builtin().get(name).unwrap();
            let got = eval(&inputs, |g, x| g.op(op.0, x, Attrs::none(), None)).to_f64();
            let exact: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| f64::from(u8::from(reference(a, b)))).collect();
            assert_eq!(got, exact, "{name}");
        }
        let picked = eval(&inputs, |_, x| x[0].lt(x[1]).select(x[0], x[1])).to_f64();
        assert_eq!(picked[2..4], [1.0, 1.0]);
        let x = [tensor(dtype, &[-2.0, 0.0, 3.0])];
        assert_eq!(eval(&x, |_, x| x[0].leaky_relu(0.25)).to_f64(), [-0.5, 0.0, 3.0]);
        let elu = eval(&x, |_, x| x[0].elu(0.5)).to_f64();
        assert!((elu[0] - 0.5 * (-2f64).exp_m1()).abs() < 1e-7 && elu[1..] == [0.0, 3.0]);
        let bce = eval(&[tensor(dtype, &[-100.0, 0.3, 200.0]), tensor(dtype, &[1.0, 0.25, 1.0])], |_, x| {
            x[0].bce_with_logits(x[1])
        });
        let exact = [100.0, 0.3f64.exp().ln_1p() - 0.075, 0.0];
        bce.to_f64().iter().zip(exact).for_each(|(b, e)| assert!((b - e).abs() < 1e-5, "{b} {e}"));
    }
}

#[test]
fn integers_wrap_and_conversions_saturate() {
    let ints = |dtype, values: &[f64]| tensor(dtype, values);
    let i32s = ints(DType::I32, &[f64::from(i32::MAX), f64::from(i32::MIN), -7.0, 5.0]);
    assert_eq!(eval(std::slice::from_ref(&i32s), |_, x| x[0] + 1).to_f64()[0], f64::from(i32::MIN));
    let by = ints(DType::I32, &[0.0, -1.0, 2.0, 3.0]);
    assert_eq!(eval(&[i32s, by], |_, x| x[0] / x[1]).to_f64()[2..], [-3.0, 1.0]);
    assert_eq!(eval(&[ints(DType::I32, &[4.0]), ints(DType::I32, &[0.0])], |_, x| x[0] / x[1]).to_f64(), [0.0]);
    let u8s = ints(DType::U8, &[250.0, 3.0]);
    assert_eq!(eval(std::slice::from_ref(&u8s), |_, x| x[0] + 10).to_f64(), [4.0, 13.0]);
    let floats = tensor(DType::F32, &[1e20, -1e20, f64::NAN, -1.9, 300.0]);
    let cast = |to| eval(std::slice::from_ref(&floats), |_, x| x[0].cast(to)).to_f64();
    assert_eq!(cast(DType::I32), [f64::from(i32::MAX), f64::from(i32::MIN), 0.0, -1.0, 300.0]);
    assert_eq!(cast(DType::U8), [255.0, 0.0, 0.0, 0.0, 255.0]);
    assert_eq!(cast(DType::Bool), [1.0, 1.0, 1.0, 1.0, 1.0]);
    let (a, b) = (ints(DType::U8, &[12.0, 255.0]), ints(DType::U8, &[10.0, 1.0]));
    let pair = [a, b];
    assert_eq!(eval(&pair, |_, x| x[0] & x[1]).to_f64(), [8.0, 1.0]);
    assert_eq!(eval(&pair, |_, x| x[0] | x[1]).to_f64(), [14.0, 255.0]);
    assert_eq!(eval(&pair, |_, x| x[0] ^ x[1]).to_f64(), [6.0, 254.0]);
    assert_eq!(eval(&pair, |_, x| !x[0]).to_f64(), [243.0, 0.0]);
}

/// Reductions, products and normalizations against loops in f64.
#[test]
fn reductions_and_products_agree_with_loops() {
    for dtype in [DType::F32, DType::F64] {
        let tolerance = if dtype == DType::F32 { 1e-5 } else { 1e-13 };
        let mut s = Sampler::new(dtype, 8);
        let close = |got: &TensorData, exact: &[f64], what: &str| {
            let got = got.to_f64();
            assert_eq!(got.len(), exact.len(), "{what}");
            for (g, e) in got.iter().zip(exact) {
                assert!((g - e).abs() <= tolerance * e.abs().max(1.0), "{what}: got {g}, exact {e}");
            }
        };
        for (rows, n) in [(1, 1), (3, 5), (2, 31), (4, 33), (2, 100), (1, 5000), (7, 0)] {
            let data = s.float_in(-1.0..1.0, [rows, n]);
            let values = data.to_f64();
            let row =
                |f: &dyn Fn(&[f64]) -> f64| -> Vec<f64> { (0..rows).map(|r| f(&values[r * n..(r + 1) * n])).collect() };
            let one = std::slice::from_ref(&data);
            let sum = row(&|v| v.iter().sum());
            close(&eval(one, |_, x| x[0].sum_over([1])), &sum, "reduce_sum");
            close(&eval(one, |_, x| x[0].transpose([1, 0]).sum_over([0])), &sum, "reduce_sum over rows");
            close(&eval(one, |_, x| x[0].sum()), &[values.iter().sum()], "full sum");
            let prod = row(&|v| v.iter().product());
            close(&eval(one, |_, x| x[0].prod_over([1])), &prod, "reduce_prod");
            let most = row(&|v| v.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            let least = row(&|v| v.iter().copied().fold(f64::INFINITY, f64::min));
            if n > 0 {
                close(&eval(one, |_, x| x[0].max_over([1])), &most, "reduce_max");
                close(&eval(one, |_, x| x[0].min_over([1])), &least, "reduce_min");
                let place = |v: &[f64]| v.iter().position(|x| *x == v.iter().copied().fold(f64::MIN, f64::max));
                let places = row(&|v| place(v).map_or(-1.0, |p| p as f64));
                assert_eq!(eval(one, |_, x| x[0].argmax(1)).to_f64(), places);
                let place = |v: &[f64]| v.iter().position(|x| *x == v.iter().copied().fold(f64::MAX, f64::min));
                let places = row(&|v| place(v).map_or(-1.0, |p| p as f64));
                assert_eq!(eval(one, |_, x| x[0].argmin(1)).to_f64(), places);
                close(&eval(one, |_, x| x[0].mean_over([1])), &row(&|v| v.iter().sum::<f64>() / n as f64), "mean");
                let soft: Vec<f64> = (0..rows)
                    .flat_map(|r| {
                        let v = &values[r * n..(r + 1) * n];
                        let total: f64 = v.iter().map(|x| x.exp()).sum();
                        v.iter().map(move |x| x.exp() / total).collect::<Vec<_>>()
                    })
                    .collect();
                close(&eval(one, |_, x| x[0].softmax(1)), &soft, "softmax");
                let logs: Vec<f64> = soft.iter().map(|p| p.ln()).collect();
                close(&eval(one, |_, x| x[0].log_softmax(1)), &logs, "log_softmax");
                let labels = TensorData::from_bits(DType::I64, &[rows].into(), &vec![n as u64 - 1; rows]);
                let loss: Vec<f64> = (0..rows).map(|r| -logs[r * n + n - 1]).collect();
                close(&eval(&[data.clone(), labels], |_, x| x[0].cross_entropy(x[1])), &loss, "cross_entropy");
            }
            let other = s.float_in(-1.0..1.0, [n, 4]);
            let b = other.to_f64();
            let product: Vec<f64> = (0..rows)
                .flat_map(|i| (0..4).map(move |j| (i, j)))
                .map(|(i, j)| (0..n).map(|k| values[i * n + k] * b[k * 4 + j]).sum())
                .collect();
            let pair = [data.clone(), other];
            close(&eval(&pair, |_, x| x[0].matmul(x[1])), &product, "matmul");
            close(&eval(&pair, |_, x| x[0].t().matmul_with(x[1].t(), true, true)), &product, "matmul, transposed");
        }
    }
}

/// Activations with operands or attributes of their own, and losses element by element, against formulas in f64.
#[test]
fn parametric_activations_and_losses_agree_with_formulas() {
    type Formula = (&'static str, for<'g> fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>, fn(f64, f64) -> f64);
    let formulas: [Formula; 7] = [
        ("celu", |x, _| x.celu(0.7), |x, _| x.max(0.0) + (0.7 * (x / 0.7).exp_m1()).min(0.0)),
        ("prelu", |x, y| x.prelu(y), |x, y| if x > 0.0 { x } else { x * y }),
        (
            "huber",
            |x, y| x.huber(y, 0.8),
            |x, y| {
                let d = (x - y).abs();
                if d <= 0.8 { d * d / 2.0 } else { 0.8 * (d - 0.4) }
            },
        ),
        ("hinge", |x, y| x.hinge(y), |x, y| (1.0 - x * y).max(0.0)),
        ("kl_divergence", |x, y| x.kl_divergence(y), |x, y| if y == 0.0 { 0.0 } else { y * (y.ln() - x) }),
        ("maxout", |x, y| maxout_of_pair(x, y), f64::max),
        ("check_finite", |x, _| x.check_finite(), |x, _| x),
    ];
    for dtype in [DType::F32, DType::F64] {
        let tolerance = if dtype == DType::F32 { 1e-5 } else { 1e-13 };
        let mut s = Sampler::new(dtype, 21);
        // Zeros of either sign and ties among them.
        let edges = tensor(dtype, &[0.0, -0.0, 1.0, -1.0, 0.8, -0.8, 6.0, 0.3]).to_f64();
        let pair = || -> Vec<f64> { edges.iter().flat_map(|&v| [v; 8]).collect() };
        let (mut a, mut b) = (pair(), edges.repeat(8));
        a.extend(s.float_in(-4.0..4.0, [300]).to_f64());
        b.extend(s.float_in(-4.0..4.0, [300]).to_f64());
        for (name, op, reference) in formulas {
            let got = eval(&[tensor(dtype, &a), tensor(dtype, &b)], |_, x| op(x[0], x[1])).to_f64();
            assert_eq!(got.len(), a.len());
            for ((&x, &y), got) in a.iter().zip(&b).zip(got) {
                let exact = reference(x, y);
                let close = (got - exact).abs() <= tolerance * exact.abs().max(1.0);
                assert!(close || (got.is_nan() && exact.is_nan()), "{name}({x}, {y}): {got}, not {exact}");
            }
        }
    }
}

/// The larger of two vectors, as `maxout` of their elements side by side.
fn maxout_of_pair<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
    let n = x.shape().n_elements();
    let side = |t: Tensor<'g>| t.reshape([n, 1]);
    x.builder().concat(&[side(x), side(y)], 1).maxout(2).reshape([n])
}

/// Statistics, normalizations and losses of rows against loops in f64.
#[test]
fn normalizations_and_losses_of_rows_agree_with_loops() {
    let (rows, n) = (3, 37);
    for dtype in [DType::F32, DType::F64] {
        let tolerance = if dtype == DType::F32 { 3e-5 } else { 1e-13 };
        let mut s = Sampler::new(dtype, 9);
        let data = s.float_in(-3.0..5.0, [rows, n]);
        let (gain, bias) = (s.float_in(0.5..1.5, [n]), s.float_in(-1.0..1.0, [n]));
        let (x, g, b) = (data.to_f64(), gain.to_f64(), bias.to_f64());
        let row = |r: usize| &x[r * n..(r + 1) * n];
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let variance = |v: &[f64]| v.iter().map(|x| (x - mean(v)).powi(2)).sum::<f64>() / v.len() as f64;
        let each = |f: &dyn Fn(&[f64], usize) -> f64| -> Vec<f64> {
            (0..rows).flat_map(|r| (0..n).map(move |j| (r, j))).map(|(r, j)| f(row(r), j)).collect()
        };
        let of_rows = |f: &dyn Fn(&[f64]) -> f64| -> Vec<f64> { (0..rows).map(|r| f(row(r))).collect() };
        let check = |what: &str, got: TensorData, exact: Vec<f64>| {
            let got = got.to_f64();
            assert_eq!(got.len(), exact.len(), "{what}");
            for (g, e) in got.iter().zip(exact) {
                assert!((g - e).abs() <= tolerance * e.abs().max(1.0), "{what}: got {g}, exact {e}");
            }
        };
        let one = std::slice::from_ref(&data);
        check("variance", eval(one, |_, x| x[0].variance_over([1])), of_rows(&variance));
        check("variance of all", eval(one, |_, x| x[0].variance_over([0, 1])), vec![variance(&x)]);
        let columns: Vec<f64> =
            (0..n).map(|j| variance(&(0..rows).map(|r| x[r * n + j]).collect::<Vec<f64>>())).collect();
        check("variance of columns", eval(one, |_, x| x[0].variance_over([0])), columns);
        let normal = |v: &[f64], j: usize| (v[j] - mean(v)) / (variance(v) + 0.01).sqrt();
        check("normalize", eval(one, |_, x| x[0].normalize([1], 0.01)), each(&normal));
        let squares = |v: &[f64]| mean(&v.iter().map(|x| x * x).collect::<Vec<f64>>());
        let root = |v: &[f64], j: usize| v[j] / (squares(v) + 0.01).sqrt();
        check("rms_norm", eval(one, |_, x| x[0].rms_norm([1], 0.01)), each(&root));
        let all = [data.clone(), gain, bias];
        let layer = eval(&all, |_, x| x[0].layer_norm(x[1], x[2], 0.01));
        check("layer_norm", layer, each(&|v, j| normal(v, j) * g[j] + b[j]));
        let columns_of = |j: usize| (0..rows).map(|r| x[r * n + j]).collect::<Vec<f64>>();
        let batch = eval(&all, |_, x| x[0].batch_norm(x[1], x[2], [0], 0.01));
        let of_column = |r: usize, j: usize| normal(&columns_of(j), r) * g[j] + b[j];
        check("batch_norm", batch, (0..rows).flat_map(|r| (0..n).map(move |j| of_column(r, j))).collect());
        let log_sum = |v: &[f64]| v.iter().map(|x| x.exp()).sum::<f64>().ln();
        check("log_sum_exp", eval(one, |_, x| x[0].log_sum_exp_over(1)), of_rows(&log_sum));
        // Far from zero as well: 700 + log Σ exp(x) with nothing overflowing.
        let far = tensor(dtype, &x.iter().map(|v| v + 700.0).collect::<Vec<f64>>());
        let far_rows: Vec<f64> = far
            .to_f64()
            .chunks(n)
            .map(|v| {
                let most = v.iter().copied().fold(f64::MIN, f64::max);
                most + v.iter().map(|x| (x - most).exp()).sum::<f64>().ln()
            })
            .collect();
        check("log_sum_exp, far", eval(&[far], |_, x| x[0].reshape([3, 37]).log_sum_exp_over(1)), far_rows);
        let labels = TensorData::from_bits(DType::I64, &[rows].into(), &[0, 36, 11]);
        let picked: Vec<f64> = [0, 36, 11].iter().enumerate().map(|(r, &j)| -row(r)[j]).collect();
        check("nll", eval(&[data.clone(), labels], |_, x| x[0].nll(x[1])), picked);
        // Target probabilities with exact zeros: their terms count as nothing, even where p is 0 too.
        let p = tensor(dtype, &[0.0, 0.25, 0.75, 0.5, 0.5, 0.0]);
        let y = tensor(dtype, &[0.0, 0.5, 0.5, 1.0, 0.0, 0.0]);
        let logits = tensor(dtype, &[1e4, 0.0, -1e4, 1.0, 2.0, 3.0]);
        let rows = [logits, y.clone()];
        let soft = eval(&rows, |_, x| x[0].reshape([2, 3]).soft_cross_entropy(x[1].reshape([2, 3])));
        let log_sum = (1f64.exp() + 2f64.exp() + 3f64.exp()).ln();
        check("soft_cross_entropy", soft, vec![0.5 * 1e4 + 0.5 * 2e4, log_sum - 1.0]);
        let loss = eval(&[p, y], |_, x| x[0].reshape([2, 3]).cross_entropy_of_probabilities(x[1].reshape([2, 3])));
        check("cross_entropy_of_probabilities", loss, vec![-0.5 * (0.25f64.ln() + 0.75f64.ln()), 2f64.ln()]);
    }
}

#[test]
fn what_is_not_finite_is_an_error_where_it_is_checked() {
    let graph = build(|g| g.output("y", g.input("x", DType::F32, [3]).check_finite())).unwrap();
    for (value, fine) in [(1.0, true), (f64::NAN, false), (f64::INFINITY, false), (f64::NEG_INFINITY, false)] {
        let env = Env::default().with("x", tensor(DType::F32, &[0.0, value, -2.0]));
        let got = interpret(&graph, &env).map_err(|diag| diag.code);
        assert_eq!(got.is_ok(), fine);
        assert!(fine || got == Err(cotangent_graph::Code::NotFinite));
    }
}

#[test]
fn moved_elements_are_where_they_should_be() {
    let x = [tensor(DType::F32, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])];
    let of = |f: for<'g> fn(Tensor<'g>) -> Tensor<'g>| eval(&x, |_, x| f(x[0].reshape([2, 3]))).to_f64();
    assert_eq!(of(|x| x.t()), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(of(|x| x.flip([1])), [2.0, 1.0, 0.0, 5.0, 4.0, 3.0]);
    assert_eq!(of(|x| x.slice(&[0, 1], &[2, 3])), [1.0, 2.0, 4.0, 5.0]);
    assert_eq!(of(|x| x.slice_steps(&[0, 0], &[2, 3], &[1, 2])), [0.0, 2.0, 3.0, 5.0]);
    assert_eq!(of(|x| x.pad(&[0, 1], &[1, 0], 9.0)), [9.0, 0.0, 1.0, 2.0, 9.0, 3.0, 4.0, 5.0, 9.0, 9.0, 9.0, 9.0]);
    assert_eq!(of(|x| x.builder().concat(&[x, x], 0)).len(), 12);
    assert_eq!(of(|x| x.slice(&[0, 0], &[2, 1]).broadcast_to([2, 2])), [0.0, 0.0, 3.0, 3.0]);
    let table = [x[0].clone(), TensorData::from_bits(DType::I32, &[3].into(), &[1, 1, 0])];
    assert_eq!(eval(&table, |_, x| x[0].reshape([2, 3]).gather(x[1])).to_f64()[..4], [3.0, 4.0, 5.0, 3.0]);
    assert_eq!(eval(&table, |_, x| x[0].reshape([3, 2]).scatter_add(x[1], 2)).to_f64(), [4.0, 5.0, 2.0, 4.0]);
    assert_eq!(eval(&table, |_, x| x[1].one_hot(2, DType::U8)).to_f64(), [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
}

#[test]
fn indices_out_of_range_are_errors() {
    let graph = build(|g| {
        let (table, index) = (g.input("t", DType::F32, [3]), g.input("i", DType::I64, [2]));
        g.output("y", table.gather(index));
    });
    let graph = graph.unwrap();
    let env = |bits: &[u64]| {
        let index = TensorData::from_bits(DType::I64, &[2].into(), bits);
        Env::default().with("t", tensor(DType::F32, &[1.0, 2.0, 3.0])).with("i", index)
    };
    assert!(interpret(&graph, &env(&[0, 2])).is_ok());
    for bad in [[0, 3], [u64::MAX, 0]] {
        let diag = interpret(&graph, &env(&bad)).unwrap_err();
        assert_eq!(diag.code, cotangent_graph::Code::IndexOutOfRange);
    }
}
