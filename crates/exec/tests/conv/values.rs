//! Values and derivatives, against windows times filters, and where nothing is finite.

use cotangent_graph::DType::{F32, F64};
use cotangent_graph::ops::conv::Convolution;
use cotangent_graph::samples::environment;
use cotangent_graph::{DType, Graph, Init, Tensor, TensorData, build};
use ndarray::{ArrayD, IxDyn};

use super::common::{Case, Numbers, agreed, is_near};

/// A convolution with its derivatives, by some way of writing it.
fn with_derivatives(
    case: &Case,
    dtype: DType,
    conv: impl for<'g> Fn(&Case, Tensor<'g>, Tensor<'g>) -> Tensor<'g>,
) -> Graph {
    let graph = build(|g| {
        let (x, w) = (g.input("x", dtype, &case.x()[..]), g.input("w", dtype, &case.w()[..]));
        let (dy, dx) = (g.input("dy", dtype, &case.y()[..]), g.input("dx", dtype, &case.x()[..]));
        let y = conv(case, x, w);
        let first = g.grad((y * dy).sum(), &[x, w]);
        // Of order 2, along a direction: a convolution of the direction, and its adjoint.
        let second = g.grad((first[0] * dx).sum(), &[w, dy]);
        g.output("y", y);
        for (name, value) in ["dx_", "dw_", "dw2", "ddy"].into_iter().zip(first.into_iter().chain(second)) {
            g.output(name, value);
        }
    });
    graph.unwrap_or_else(|diags| panic!("{case:?}: {diags}"))
}

#[test]
fn values_and_derivatives_are_those_of_windows_times_filters() {
    let mut numbers = Numbers(1);
    let (mut n_equal, mut n_empty) = (0, 0);
    for k in 0..70 {
        let (mut case, dtype) = (Case::random(&mut numbers), if k % 3 == 0 { F64 } else { F32 });
        if k % 10 == 0 {
            // A product of matrices.
            case.groups = 1;
            case.axes.iter_mut().for_each(|axis| (axis[1], axis[2], axis[4], axis[5]) = (1, 1, 0, 0));
        }
        let of_op = with_derivatives(&case, dtype, |case, x, w| case.op(x, w));
        let env = environment(&of_op, k).unwrap();
        let found = agreed(&of_op, &env, &case);
        let of_twin = with_derivatives(&case, dtype, |case, x, w| case.twin(x, w));
        let expected = cotangent_graph::interp::interpret_named(
            cotangent_exec::Compiler::new().compile(&of_twin).unwrap().optimized(),
            &env,
        )
        .unwrap();
        let tolerance = if dtype == F64 { 1e-12 } else { 1e-4 };
        let y = case.y();
        // Products with a vector are summed in lanes.
        let in_order = case.filters > 1 && y[..y.len() - 1].iter().product::<usize>() > 1;
        for ((name, got), (_, want)) in found.iter().zip(&expected) {
            assert!(is_near(got, want, tolerance), "{case:?} {name}:\n{got}\nnot near\n{want}");
            if in_order && name == "y" {
                assert!(got.same_bits(want), "{case:?}:\n{got}\nis not\n{want}");
                n_equal += 1;
            }
        }
        n_empty += usize::from(case.n == 0);
    }
    assert!(n_equal > 20 && n_empty > 5, "{n_equal} compared by bits, {n_empty} of no examples");
}

/// Several filters of one channel each are written as filters of repeated channels: the same sums, but for rounding.
#[test]
fn what_the_builder_writes_instead_means_the_same() {
    let case =
        |axes: &[[usize; 6]], groups, channels, filters| Case { n: 2, axes: axes.to_vec(), groups, channels, filters };
    let cases = [
        case(&[[7, 3, 2, 1, 1, 1], [6, 2, 1, 2, 0, 1]], 6, 1, 1),
        case(&[[9, 4, 3, 1, 2, 0]], 5, 1, 3),
        case(&[[3, 2, 1, 1, 1, 1], [3, 2, 1, 1, 0, 0], [4, 3, 2, 1, 1, 1]], 4, 1, 1),
    ];
    for case in &cases {
        let written = with_derivatives(case, F64, |case, x, w| x.conv(w, &case.settings()));
        let of_op = with_derivatives(case, F64, |case, x, w| case.op(x, w));
        let env = environment(&of_op, 3).unwrap();
        let (found, expected) = (agreed(&written, &env, case), agreed(&of_op, &env, case));
        for ((name, got), (_, want)) in found.iter().zip(&expected) {
            assert!(is_near(got, want, 1e-12), "{case:?} {name}:\n{got}\nnot near\n{want}");
        }
    }
}

/// The adjoint: ⟨conv(x, w), y⟩ = ⟨x, conv_transposed(y, w)⟩, whichever way it is written.
#[test]
fn a_transposed_convolution_is_the_adjoint() {
    let mut numbers = Numbers(9);
    let mut n_repeated = 0;
    for k in 0..24 {
        let mut case = Case { n: 2, ..Case::random(&mut numbers) };
        if k % 2 == 0 {
            (case.groups, case.channels) = (4, 1);
        }
        let extents: Vec<usize> = case.axes.iter().map(|axis| axis[0]).collect();
        let graph = build(|g| {
            let (x, w) = (g.input("x", F64, &case.x()[..]), g.input("w", F64, &case.w()[..]));
            let y = g.input("y", F64, &case.y()[..]);
            let transposed = y.conv_transposed(w, &case.settings(), &extents);
            g.output("near", (x.conv(w, &case.settings()) * y).sum());
            g.output("far", (x * transposed).sum());
            g.output("dw", g.grad((x * transposed).sum(), &[w])[0]);
            g.output("dw_", g.grad((x.conv(w, &case.settings()) * y).sum(), &[w])[0]);
        })
        .unwrap_or_else(|diags| panic!("{case:?}: {diags}"));
        n_repeated += usize::from(case.groups > 1 && case.channels == 1 && case.filters > 1);
        let found = agreed(&graph, &environment(&graph, k).unwrap(), &case);
        for pair in found.chunks(2) {
            assert!(is_near(&pair[0].1, &pair[1].1, 1e-12), "{case:?}:\n{}\nnot near\n{}", pair[0].1, pair[1].1);
        }
    }
    assert!((6..18).contains(&n_repeated), "{n_repeated}");
}

fn vector(shape: &[usize], values: &[f64]) -> TensorData {
    let values = values.iter().map(|&v| v as f32).collect();
    ArrayD::from_shape_vec(IxDyn(shape), values).unwrap().into()
}

/// What is outside is a zero that takes part: times an infinity it is NaN, in values and in derivatives.
#[test]
fn padding_takes_part() {
    let graph = build(|g| {
        let (x, w) = (g.input("x", F32, [1, 3, 2]), g.param("w", F32, [3, 2, 2], Init::ZEROS));
        let dy = g.input("dy", F32, [1, 3, 2]);
        let y = x.conv(w, &Convolution::new().padding(&[(1, 1)]));
        let d = g.grad((y * dy).sum(), &[x, w]);
        g.output("y", y);
        g.output("dx", d[0]);
        g.output("dw", d[1]);
    })
    .unwrap();
    let inf = f64::INFINITY;
    let ones = |shape: &[usize]| vec![1.0; shape.iter().product()];
    let run = |x: &[f64], w: &[f64], dy: &[f64]| -> Vec<Vec<f64>> {
        let mut env = environment(&graph, 1).unwrap();
        env.values.insert("x".into(), vector(&[1, 3, 2], x));
        env.values.insert("w".into(), vector(&[3, 2, 2], w));
        env.values.insert("dy".into(), vector(&[1, 3, 2], dy));
        agreed(&graph, &env, &"padding").into_iter().map(|(_, value)| value.to_f64()).collect()
    };
    let (x, mut w, dy) = (ones(&[1, 3, 2]), ones(&[3, 2, 2]), ones(&[1, 3, 2]));
    // The first element of the first filter meets the zero before the first place, and the place behind the last one.
    w[0] = inf;
    let found = run(&x, &w, &dy);
    assert!(found[0][0].is_nan() && found[0][2] == inf && found[0][4] == inf, "{found:?}");
    assert!(found[0][1].is_finite() && found[0][3].is_finite(), "{found:?}");
    assert!(found[1][0] == inf && found[1][1].is_finite(), "{found:?}");
    // An infinite cotangent at the first place meets the zero there.
    let mut infinite = dy.clone();
    infinite[0] = inf;
    let found = run(&x, &ones(&[3, 2, 2]), &infinite);
    assert!(found[2][0].is_nan() && found[2][4] == inf && found[2][1].is_finite(), "{found:?}");
    // NaN goes where it is read, and zeros keep their signs: a chain starts from +0.
    let mut with_nan = x.clone();
    with_nan[0] = f64::NAN;
    let found = run(&with_nan, &ones(&[3, 2, 2]), &dy);
    assert!(found[0][..4].iter().all(|v| v.is_nan()) && found[0][4].is_finite(), "{found:?}");
    let zeros = run(&[-0.0; 6], &ones(&[3, 2, 2]), &dy);
    assert!(zeros[0].iter().all(|v| *v == 0.0 && v.is_sign_positive()), "{zeros:?}");
}
