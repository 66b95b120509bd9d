//! How formulas are written: axes from the end, reductions that keep their axes.

use cotangent_graph::DType::{F32, I64};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::{Code, Diag, Env, GraphBuilder, Loc, Tensor, build};
use ndarray::{ArrayD, IxDyn};

/// The only error of a graph, which is somewhere in this file.
#[track_caller]
fn only_error(f: impl FnOnce(&GraphBuilder)) -> Diag {
    let diags = build(f).expect_err("the graph has an error");
    assert_eq!(diags.0.len(), 1, "{diags}");
    assert!(matches!(diags.0[0].at, Loc::Code(place) if place.file().ends_with("tests/formulas.rs")), "{diags}");
    diags.0[0].clone()
}

/// Shape and elements of a formula over an `x` of f32 of this shape, which holds 1, 2, 3, …
#[track_caller]
fn value(shape: &[usize], formula: impl for<'g> Fn(Tensor<'g>) -> Tensor<'g>) -> (Vec<usize>, Vec<f64>) {
    let graph = build(|g| g.output("y", formula(g.input("x", F32, shape)))).unwrap();
    let n = shape.iter().product::<usize>();
    let x = ArrayD::from_shape_vec(IxDyn(shape), (1..=n).map(|v| v as f32).collect()).unwrap();
    let y = interpret_named(&graph, &Env::default().with("x", x)).unwrap().remove(0).1;
    (y.shape().to_vec(), y.to_f64())
}

/// A formula, written in one way or another.
type Formula = for<'g> fn(Tensor<'g>) -> Tensor<'g>;

#[test]
fn an_axis_from_the_end_is_the_same_axis() {
    let pairs: [(Formula, Formula); 13] = [
        (|x| x.softmax(-1), |x| x.softmax(2)),
        (|x| x.log_softmax(-3), |x| x.log_softmax(0)),
        (|x| x.argmax(-2), |x| x.argmax(1)),
        (|x| x.log_sum_exp_over(-1), |x| x.log_sum_exp_over(2usize)),
        (|x| x.sum_over([0, -1]), |x| x.sum_over([0, 2])),
        (|x| x.max_over([-1, 0]), |x| x.max_over(&[0usize, 2][..])),
        (|x| x.mean_over(-1), |x| x.mean_over(2..3)),
        (|x| x.variance_over(vec![-1, -2]), |x| x.variance_over([1, 2])),
        (|x| x.flip(-1), |x| x.flip([2])),
        (|x| x.transpose([-1, 0, -2]), |x| x.transpose([2, 0, 1])),
        (|x| x.normalize([-1, -2], 1e-5), |x| x.normalize([1, 2], 1e-5)),
        (|x| x.builder().concat(&[x, x], -1), |x| x.builder().concat(&[x, x], 2)),
        (|x| x.builder().iota(I64, x.shape(), -1), |x| x.builder().iota(I64, x.shape(), 2)),
    ];
    for (k, (from_end, number)) in pairs.into_iter().enumerate() {
        let text =
            |formula: Formula| build(|g| g.output("y", formula(g.input("x", F32, [2, 3, 4])))).unwrap().to_string();
        assert_eq!(text(from_end), text(number), "pair {k}");
    }
    build(|g| {
        let x = g.input("x", F32, [2, 3, 4]);
        assert_eq!((x.dim(-1), x.dim(-3), x.dim(1)), (4, 2, 3));
        let column = g.input("c", F32, [3]);
        assert_eq!(column.broadcast_along(&x.shape(), -2).shape(), x.shape());
        assert_eq!(column.repeat_along(&x.shape(), [0, -1]).shape(), x.shape());
        g.output("y", x);
    })
    .unwrap();
}

#[test]
fn a_reduction_is_of_everything_or_over_axes_or_keeps_them() {
    assert_eq!(value(&[2, 3], |x| x.sum()), (vec![], vec![21.0]));
    assert_eq!(value(&[2, 3], |x| x.sum_over(-1)), (vec![2], vec![6.0, 15.0]));
    assert_eq!(value(&[2, 3], |x| x.sum_keep(-1)), (vec![2, 1], vec![6.0, 15.0]));
    assert_eq!(value(&[2, 3], |x| x.sum_keep([0, 1])), (vec![1, 1], vec![21.0]));
    assert_eq!(value(&[2, 3], |x| x.prod()), (vec![], vec![720.0]));
    assert_eq!(value(&[2, 3], |x| x.prod_keep(0)), (vec![1, 3], vec![4.0, 10.0, 18.0]));
    assert_eq!(value(&[2, 3], |x| x.max()), (vec![], vec![6.0]));
    assert_eq!(value(&[2, 3], |x| x.min()), (vec![], vec![1.0]));
    assert_eq!(value(&[2, 3], |x| x.min_keep(-2)), (vec![1, 3], vec![1.0, 2.0, 3.0]));
    assert_eq!(value(&[2, 3], |x| x.mean_keep(1)), (vec![2, 1], vec![2.0, 5.0]));
    assert_eq!(value(&[2, 3], |x| x.variance()), (vec![], vec![35.0 / 12.0]).map_f32());
    assert_eq!(value(&[2, 2], |x| x.variance_keep(-1)), (vec![2, 1], vec![0.25, 0.25]));
    assert_eq!(value(&[2, 1], |x| x.log_sum_exp_keep(-1)), (vec![2, 1], vec![1.0, 2.0]));
    // What keeps its axes broadcasts against the operand.
    assert_eq!(value(&[2, 3], |x| x - x.mean_keep(-1)), (vec![2, 3], vec![-1.0, 0.0, 1.0, -1.0, 0.0, 1.0]));
}

trait RoundedToF32 {
    fn map_f32(self) -> Self;
}

impl RoundedToF32 for (Vec<usize>, Vec<f64>) {
    fn map_f32(self) -> Self {
        (self.0, self.1.into_iter().map(|v| f64::from(v as f32)).collect())
    }
}

#[test]
fn an_axis_that_is_not_there_is_an_error_that_says_which_are() {
    let mistakes: [fn(Tensor<'_>) -> Tensor<'_>; 11] = [
        |x| x.softmax(2),
        |x| x.softmax(-3),
        |x| x.sum_over([0, -3]),
        |x| x.sum_over([1, -1]),
        |x| x.sum_keep(9),
        |x| x.argmax(-9),
        |x| x.flip(5),
        |x| x.transpose([0, -2]),
        |x| x.transpose(0),
        |x| x.builder().concat(&[x, x], -3),
        |x| x.log_sum_exp_keep(2),
    ];
    for (k, mistake) in mistakes.into_iter().enumerate() {
        let diag = only_error(|g| g.output("y", mistake(g.input("x", F32, [2, 3]))));
        assert_eq!(diag.code, Code::BadAxis, "mistake {k}: {diag}");
        assert!(diag.message.contains("[2,3]"), "mistake {k}: {diag}");
        assert!(diag.help.is_some_and(|help| help.contains("0 to 1")), "mistake {k}");
    }
    let diag = only_error(|g| {
        let x = g.input("x", F32, [2, 3]);
        assert_eq!(x.dim(9), 1);
        g.output("y", x);
    });
    assert_eq!(diag.code, Code::BadAxis);
    assert!(diag.message.contains("got 9") && diag.notes.len() == 1, "{diag}");
    let diag = only_error(|g| g.output("y", g.input("x", F32, []).softmax(-1)));
    assert_eq!(diag.help.as_deref(), Some("a scalar has no axes"));
}
