//! Lengths of gradients and weights: no square over- or underflows.

use cotangent::prelude::*;

use crate::{assert_near, floats};

/// What one step of an optimiser changes weights by, given their gradient.
fn change(dtype: DType, start: &[f64], gradient: &[f64], optimizer: &dyn Fn() -> Box<dyn Optimizer>) -> Vec<f64> {
    let n = start.len();
    let graph = build(|g| {
        let w = g.param("w", dtype, [n, 1], Init::ZEROS);
        let d = g.constant(floats(dtype, &[n, 1], gradient));
        g.apply_gradients(&[(w, d)], optimizer());
    });
    let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
    let runtime = Runtime::new(Threads::Exactly(1));
    let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
    let mut session = Session::new(&runtime, program, Seed(0)).unwrap_or_else(|diag| panic!("{diag}"));
    let before = floats(dtype, &[n, 1], start);
    session.store_mut().set("w", before.clone()).unwrap_or_else(|diag| panic!("{diag}"));
    let none: [(&str, HostTensor<'_>); 0] = [];
    session.step(none).unwrap_or_else(|diag| panic!("{diag}"));
    let after = session.store().get("w").unwrap_or_else(|diag| panic!("{diag}"));
    after.to_f64().iter().zip(before.to_f64()).map(|(a, b)| a - b).collect()
}

fn clipped(limit: f64) -> Box<dyn Optimizer> {
    Box::new(Sgd::new(1.0).with(Recipe::new().clip_norm(limit)))
}

#[test]
fn gradients_of_any_size_are_clipped_to_their_direction() {
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let sizes: [(DType, f64, f64); 10] = [
        (F32, 1e20, 1.0),
        (F32, 1e-25, 1e-26),
        (F32, 3e38, 1e-20),
        (F32, 3e38, 1e-6),
        (F32, 1e-44, 1e-44),
        (F32, 2.0, 1.0),
        (F64, 1e200, 1.0),
        (F64, 1e-200, 1e-201),
        (F64, 1e-310, 1e-311),
        (F64, 1e308, 1e-10),
    ];
    for (dtype, size, limit) in sizes {
        let got = change(dtype, &[0.0, 0.0], &[size, size], &|| clipped(limit));
        // Subnormals have few digits.
        let tolerance = if limit < 1e-38 || (dtype == F64 && limit < 1e-307) { 0.2 } else { 3e-7 };
        assert_near(&format!("{size:e} to {limit:e} in {dtype}"), &got, &[-limit * half, -limit * half], tolerance);
    }
    // What is short enough stays as it is, to the bit.
    let small = [f64::from(0.1f32), f64::from(-0.7f32)];
    assert_eq!(change(F32, &[0.0, 0.0], &small, &|| clipped(1.0)), [-small[0], -small[1]]);
}

#[test]
fn the_length_of_all_gradients_is_a_metric_of_any_size() {
    let lengths = |dtype: DType, values: [f64; 2]| {
        let graph = build(|g| {
            let parts = [g.input("a", dtype, [1]), g.input("b", dtype, [1])];
            g.output("length", global_norm(g, &parts));
        });
        let graph = graph.unwrap_or_else(|diags| panic!("{diags}"));
        let runtime = Runtime::new(Threads::Exactly(1));
        let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(&runtime, program, Seed(0)).unwrap_or_else(|diag| panic!("{diag}"));
        let [a, b] = values.map(|v| floats(dtype, &[1], &[v]));
        let out = session.step([("a", (&a).into()), ("b", (&b).into())]).unwrap_or_else(|diag| panic!("{diag}"));
        out.scalar("length").unwrap_or_else(|diag| panic!("{diag}"))
    };
    let cases = [
        (F32, [3e20, 4e20], 5e20),
        (F32, [3e-30, 4e-30], 5e-30),
        (F32, [3.0, 4.0], 5.0),
        (F64, [3e200, 4e200], 5e200),
        (F64, [3e-200, 4e-200], 5e-200),
        (F64, [3e-320, 4e-320], 5e-320),
        (F64, [3.0, 4.0], 5.0),
        (F64, [0.0, 0.0], 0.0),
        (F64, [f64::INFINITY, 1.0], f64::INFINITY),
        (F64, [f64::NAN, 1.0], f64::NAN),
    ];
    for (dtype, values, want) in cases {
        let tolerance = if want < 1e-300 { 1e-3 } else { 1e-7 };
        assert_near(&format!("{values:?} in {dtype}"), &[lengths(dtype, values)], &[want], tolerance);
    }
}

#[test]
fn max_norm_and_lamb_hold_for_weights_of_any_size() {
    let limited = |dtype: DType, size: f64| {
        let start = [3.0 * size, 4.0 * size];
        let recipe = || Recipe::new().max_norm(1.0).group(Group::named("w").regularized(true));
        let moved = change(dtype, &start, &[0.0, 0.0], &|| Box::new(Sgd::new(0.0).with(recipe())));
        moved.iter().zip(floats(dtype, &[2], &start).to_f64()).map(|(d, s)| d + s).collect::<Vec<f64>>()
    };
    for (dtype, size) in [(F32, 1e20), (F32, 5e37), (F32, 1.0), (F64, 1e200)] {
        let got = limited(dtype, size);
        // The change is as large as the weight, so what is left has lost its digits; its sign and size are what counts.
        if size == 1.0 {
            assert_near("max-norm", &got, &[0.6, 0.8], 1e-6);
        }
        assert!(got.iter().all(|v| v.abs() < 1e-6 * size.max(1e7)), "{dtype} {size:e}: {got:?}");
    }
    // LAMB moves by the weights' own length, whatever it is.
    for (dtype, size) in [(F32, 1e25), (F32, 1e-25), (F64, 1e200), (F64, 1e-200), (F32, 1.0)] {
        let got = change(dtype, &[3.0 * size, 4.0 * size], &[1.0, 1.0], &|| Box::new(Lamb::new(0.5, 0.0)));
        let want = -0.5 * 5.0 * size * std::f64::consts::FRAC_1_SQRT_2;
        assert_near(&format!("LAMB in {dtype}, {size:e}"), &got, &[want, want], 1e-5);
    }
}
