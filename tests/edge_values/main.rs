//! Values and derivatives at the edges: infinities, zeros, ties, subnormals, tails, huge steps, the ends of the integers.
//!
//! Every program here is compiled fused, unfused and by the reference backend, and all of them must give the bits of the
//! interpreter, so a right value is right everywhere.

mod accuracy;
mod conventions;
mod derivatives;
mod integers;
mod norms;
mod rows;
mod views;

use std::collections::BTreeMap;

use cotangent::graph::HostTensor;
use cotangent::graph::interp::interpret_named;
use cotangent::graph::{Env, TensorData};
use cotangent::prelude::*;

/// A tensor of floats of a type.
pub fn floats(dtype: DType, shape: &[usize], values: &[f64]) -> TensorData {
    let bits: Vec<u64> = values.iter().map(|&v| dtype.bits_of_f64(v)).collect();
    assert_eq!(bits.len(), shape.iter().product::<usize>());
    TensorData::from_bits(dtype, &Shape::new(shape), &bits)
}

/// What a graph of inputs alone computes, by name; all programs and the interpreter agree on it, or this panics.
pub fn run(f: impl Fn(&GraphBuilder), inputs: &[(&str, TensorData)]) -> BTreeMap<String, TensorData> {
    let graph = build(f).unwrap_or_else(|diags| panic!("{diags}"));
    let runtime = Runtime::new(Threads::Exactly(1));
    let env = inputs.iter().fold(Env::default(), |env, (name, value)| env.with(name, value.clone()));
    let mut found: Option<BTreeMap<String, TensorData>> = None;
    let compilers = [Compiler::new(), Compiler::new().fuse(false), Compiler::new().backend(BackendChoice::Cranelift)];
    for compiler in compilers {
        let program = compiler.compile(&graph).unwrap_or_else(|error| panic!("{error}\n{graph}"));
        let expected = interpret_named(program.optimized(), &env).unwrap_or_else(|diag| panic!("{diag}"));
        let mut session = Session::new(&runtime, program.clone(), Seed(0)).unwrap_or_else(|diag| panic!("{diag}"));
        let views: Vec<(&str, HostTensor<'_>)> = inputs.iter().map(|(name, value)| (*name, value.into())).collect();
        let outputs = session.step(views).unwrap_or_else(|diag| panic!("{diag}"));
        for (name, value) in &expected {
            let got = outputs.tensor(name).unwrap_or_else(|diag| panic!("{diag}"));
            assert!(value.same_bits(&got), "`{name}`: interpreted\n{value}\ncompiled\n{got}\n{}", program.optimized());
        }
        let expected: BTreeMap<String, TensorData> = expected.into_iter().collect();
        if let Some(found) = &found {
            let same = found.iter().zip(&expected).all(|(a, b)| a.0 == b.0 && a.1.same_bits(b.1));
            assert!(same, "{found:?}\n{expected:?}");
        }
        found = Some(expected);
    }
    found.unwrap_or_default()
}

/// A function of one tensor.
pub type Function = for<'g> fn(Tensor<'g>) -> Tensor<'g>;

/// The value of a function at a tensor, as f64.
pub fn value(f: Function, x: TensorData) -> Vec<f64> {
    let make = |g: &GraphBuilder| g.output("y", f(g.input("x", x.dtype(), x.shape())));
    run(make, &[("x", x.clone())])["y"].to_f64()
}

/// The gradient of the sum of a function at a tensor, as f64.
pub fn gradient(f: Function, x: TensorData) -> Vec<f64> {
    let make = |g: &GraphBuilder| {
        let x = g.input("x", x.dtype(), x.shape());
        g.output("d", g.grad(f(x).sum(), &[x])[0]);
    };
    run(make, &[("x", x.clone())])["d"].to_f64()
}

/// The derivative of the gradient's sum: for a function of each element, the second derivative.
pub fn curvature(f: Function, x: TensorData) -> Vec<f64> {
    let make = |g: &GraphBuilder| {
        let x = g.input("x", x.dtype(), x.shape());
        let slope = g.grad(f(x).sum(), &[x])[0];
        g.output("d", g.grad(slope.sum(), &[x])[0]);
    };
    run(make, &[("x", x.clone())])["d"].to_f64()
}

/// Panics unless numbers agree: NaN with NaN, infinities and zeros exactly, the rest within a relative tolerance.
#[track_caller]
pub fn assert_near(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: {got:?}, not {want:?}");
    for (g, w) in got.iter().zip(want) {
        let near = if w.is_finite() && *w != 0.0 { (g - w).abs() <= tolerance * w.abs() } else { g == w };
        assert!(near || (g.is_nan() && w.is_nan()), "{what}: {got:?}, not {want:?}");
    }
}
