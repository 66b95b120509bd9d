//! How formulas are written: axes from the end, reductions that keep their axes; and what becomes of those with mistakes.

use cotangent_graph::DType::{Bool, F32, F64, I32, I64, U8};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::{
    Code, Diag, Env, GraphBuilder, Init, Loc, NodeId, Registry, Shape, Tensor, TensorData, Type, build, text,
};
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

type Mistake = fn(&GraphBuilder) -> Tensor<'_>;

/// A loss of predictions and targets.
type Loss = for<'g> fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>;

#[test]
fn losses_compare_equal_shapes_and_their_names_say_what_they_give_a_number_for() {
    let of_elements: [(&str, Loss); 6] = [
        ("squared_error", |a, y| a.squared_error(y)),
        ("absolute_error", |a, y| a.absolute_error(y)),
        ("huber", |a, y| a.huber(y, 1.0)),
        ("hinge", |a, y| a.hinge(y)),
        ("kl_divergence", |a, y| a.kl_divergence(y)),
        ("bce_with_logits", |a, y| a.bce_with_logits(y)),
    ];
    let of_rows: [(&str, Loss); 2] = [
        ("soft_cross_entropy", |a, y| a.soft_cross_entropy(y)),
        ("cross_entropy_of_probabilities", |a, y| a.cross_entropy_of_probabilities(y)),
    ];
    let means: [(&str, Loss); 2] = [("mse", |a, y| a.mse(y)), ("mae", |a, y| a.mae(y))];
    let all = of_elements.map(|l| (l, "f32[4,3]")).into_iter().chain(of_rows.map(|l| (l, "f32[4]")));
    for ((name, loss), ty) in all.chain(means.map(|l| (l, "f32[]"))) {
        build(|g| {
            let value = loss(g.input("a", F32, [4, 3]), g.input("y", F32, [4, 3]));
            assert_eq!(value.ty().to_string(), ty, "{name}");
            g.output("loss", value);
        })
        .unwrap();
        for (predictions, targets) in
            [(&[4, 1][..], &[4][..]), (&[4], &[4, 1]), (&[4, 3], &[3]), (&[4, 3], &[]), (&[2], &[3])]
        {
            let diag = only_error(|g| {
                let (a, y) = (g.input("a", F32, predictions), g.input("y", F32, targets));
                g.output("loss", loss(a, y));
            });
            assert_eq!(diag.code, Code::ShapeMismatch, "{name}: {diag}");
            let expected = format!("`{name}` requires targets of the predictions' type");
            assert!(diag.message.starts_with(&expected) && diag.notes.len() == 2, "{name}: {diag}");
            assert!(diag.help.is_some_and(|help| help.contains("`reshape`")));
        }
    }
    // Of classes the rows must fit.
    for loss in [|a, y| Tensor::cross_entropy(a, y), |a, y| Tensor::nll(a, y)] as [Loss; 2] {
        for labels in [&[4, 1][..], &[], &[3]] {
            let diag = only_error(|g| g.output("loss", loss(g.input("a", F32, [4, 3]), g.input("y", I64, labels))));
            assert_eq!(diag.code, Code::ShapeMismatch);
        }
    }
}

/// Mistakes of one message each, and the types that their results show.
const MISTAKES: &[(Mistake, &str)] = &[
    (|g| g.input("a", F32, [4, 3]) + g.input("b", F32, [5, 2]), "f32[5,3]"),
    (|g| g.input("a", F32, [4, 3]) * g.input("b", F64, [3]), "f64[4,3]"),
    (|g| g.input("a", F32, [4, 3]).gt(g.input("b", F32, [7])), "bool[4,7]"),
    (|g| g.input("a", F32, [4, 3]).matmul(g.input("b", F32, [5, 2])), "f32[4,2]"),
    (|g| g.input("a", F32, [2, 4, 3]).matmul_with(g.input("b", F32, [3, 5, 2]), true, true), "f32[3,3,5]"),
    (|g| g.input("a", F32, [4, 3]).reshape([7, 2]), "f32[7,2]"),
    (|g| g.input("a", F32, [4, 3]).broadcast_to([4, 5]), "f32[4,5]"),
    (|g| g.input("a", I32, [4, 3]).exp(), "f32[4,3]"),
    (|g| g.input("a", F32, [4, 3]).softmax(2), "f32[4,3]"),
    (|g| g.concat(&[g.input("a", F32, [4, 3]), g.input("b", F32, [5, 2])], 0), "f32[4,3]"),
    (|g| [g.input("a", F32, [4, 3]), g.input("a", F32, [9])][1], "f32[9]"),
    (|g| g.shared("nothing"), ""),
    (|g| g.input("a", F32, [3]).matmul(g.input("b", F32, [3, 2])), ""),
    (|g| g.input("a", F32, [4, 3]).gather(g.input("b", F32, [2])), ""),
    (|g| g.tensor(NodeId(7)), ""),
    (|g| g.input("a", F32, [4, 3]).item(1), ""),
    (
        |g| {
            let body = g.body("b", &[Type::tensor(F32, [2])], |_, x| vec![x[0].reshape([7, 2]), x[0].tanh()]);
            g.call(&body, &[g.input("a", F32, [2])])[0] + g.call(&body, &[g.input("b", F32, [2])])[1]
        },
        "f32[7,2]",
    ),
    (
        |g| {
            let body = g.body("b", &[Type::tensor(F32, [2])], |_, x| vec![x[0].sum(), x[0].tanh()]);
            g.call(&body, &[g.input("a", F32, [3])])[1]
        },
        "f32[2]",
    ),
];

/// What users do with a tensor of whose mistake they do not know.
fn go_on<'g>(g: &'g GraphBuilder, z: Tensor<'g>) -> Tensor<'g> {
    let (shape, rank) = (z.shape(), z.rank());
    let (_, _, _) = (z.dim(-1), z.dim(1), z.dim(9));
    let _ = (z.softmax(rank - 1), z.log_softmax(-1), z.argmax(rank - 1), z.sum_over(rank - 1), z.max_keep([0, -1]));
    let _ = (shape[0], &shape[..1], shape.last(), z.dtype(), z.ty(), z.made_at(), z.is_float());
    let weight = g.param("weight", F32, [shape[rank - 1], 3], Init::ONES);
    let _ = (z.matmul(weight), z.t(), z.transpose([1, 0]), z.flip(-1), z.reshape([2, 2]), z.broadcast_to([9, 9]));
    let _ = (z + 1.0, 1.0 - z, -z, z * z.sum_keep(-1), z & !z, z.gt(z), z.select(z, z), z.cast(F64), z.powf(2.5));
    let _ = (z.clamp(0.0, 1.0), z.constant_like(3.0), z.square(), z.gelu(), z.maxout(2), z.dropout("drop", 0.5));
    let _ = (z.normalize(-1, 1e-5), z.layer_norm(z, z, 1e-5), z.batch_norm(z, z, [0], 1e-5), z.log_sum_exp_keep(-1));
    let _ = (z.mse(z), z.cross_entropy(z), z.huber(z, 1.0), z.nll(z), z.soft_cross_entropy(z), z.is_class(4));
    let _ =
        (z.slice(&[0], &[1]), z.pad(&[0], &[1], 0.0), z.gather(z), z.scatter_add(z, 4), z.one_hot(3, F32), z.item(2));
    let _ = (z.broadcast_along(&[3].into(), 0), z.repeat_along(&Shape::default(), 1), z.stop_gradient());
    let _ = (g.concat(&[z, z], -1), g.jvp(z.sum(), z, z), g.grad(z, &[z, z])[1], g.iota(I64, z.shape(), -1));
    let body = g.body("body", &[z.ty()], |_, x| vec![x[0], x[0]]);
    let called = g.call(&body, &[z])[1];
    g.output("loss", z.mean());
    g.update(weight, z);
    called
}

#[test]
fn after_a_mistake_the_users_code_goes_on_to_the_next_one() {
    for (k, (mistake, shown)) in MISTAKES.iter().enumerate() {
        let diags = build(|g| {
            let z = mistake(g);
            assert!(z.is_poisoned() && !g.is_ok(), "mistake {k}");
            if shown.is_empty() {
                assert_eq!(z.rank(), 16, "mistake {k}");
            } else {
                assert_eq!(z.ty().to_string(), *shown, "mistake {k}");
            }
            if z.ty().as_tensor().is_some_and(|(_, shape)| shape.rank() > 1) {
                g.output("y", go_on(g, z));
            }
            assert!(g.input("next", F32, [3]).reshape([7]).is_poisoned());
        })
        .unwrap_err();
        // Its own message and that of the mistake that comes after all of this.
        assert_eq!(diags.0.len(), 2, "mistake {k}: {diags}");
        assert!(diags.0[1].message.contains("[3] to [7]"), "mistake {k}: {diags}");
    }
}

#[test]
fn what_follows_from_a_mistake_shows_the_type_that_it_would_have() {
    let diags = build(|g| {
        let z = g.input("x", F32, [4, 3]) + g.input("y", F32, [5, 3]);
        let of = |t: Tensor<'_>| t.ty().to_string();
        assert_eq!(of(z.matmul(g.input("w", F32, [3, 7]))), "f32[5,7]");
        assert_eq!(of(z.gt(z)), "bool[5,3]");
        assert_eq!(of(z.sum_over(0).cast(F64)), "f64[3]");
        assert_eq!(of(z.argmax(-1).one_hot(9, F32)), "f32[5,9]");
        assert_eq!(of((z * 2.0).t().reshape([15])), "f32[15]");
        assert_eq!(of(z.mse(z)), "f32[]");
        assert_eq!(z.gt(z).select(z, z).dtype(), F32);
        assert_eq!(g.constant(true).dtype(), Bool);
    })
    .unwrap_err();
    assert_eq!(diags.0.len(), 1, "{diags}");
    // What is poisoned by nothing is a mistake of its own.
    assert_eq!(only_error(|g| g.output("y", g.tensor(NodeId(u32::MAX)))).code, Code::UnknownName);
}

#[test]
fn numbers_that_make_no_sense_are_errors() {
    let ops: [(&str, Formula); 16] = [
        ("finite and not negative, got -1", |x| x.normalize(-1, -1.0)),
        ("finite and not negative, got NaN", |x| x.rms_norm(-1, f64::NAN)),
        ("finite and not negative, got inf", |x| x.layer_norm(x.sum_over(0), x.sum_over(0), f64::INFINITY)),
        ("finite and not negative, got -0.1", |x| x.batch_norm(x.sum_over(0), x.sum_over(0), 0, -0.1)),
        ("finite `slope`, got NaN", |x| x.leaky_relu(f64::NAN)),
        ("finite `alpha`, got inf", |x| x.elu(f64::INFINITY)),
        ("positive, finite `alpha`, got 0", |x| x.celu(0.0)),
        ("positive, finite `alpha`, got inf", |x| x.celu(f64::INFINITY)),
        ("positive, finite `delta`, got 0", |x| x.huber(x, 0.0)),
        ("positive, finite `delta`, got -1", |x| x.huber(x, -1.0)),
        ("positive, finite `delta`, got NaN", |x| x.huber(x, f64::NAN)),
        ("does not end before it begins, got 1 to 0", |x| x.clamp(1.0, 0.0)),
        ("does not end before it begins, got NaN to 1", |x| x.clamp(f64::NAN, 1.0)),
        ("does not end before it begins, got 0 to NaN", |x| x.clamp(0.0, f64::NAN)),
        ("probability in [0, 1), got -0.1", |x| x.dropout("d", -0.1)),
        ("probability in [0, 1), got 1", |x| x.dropout("d", 1.0)),
    ];
    for (text, op) in ops {
        let diag = only_error(|g| g.output("y", op(g.input("x", F32, [4, 3]))));
        assert!(diag.code == Code::BadAttribute && diag.message.contains(text), "{text}: {diag}");
    }
    // What is at the edge of sense is allowed.
    build(|g| {
        let x = g.input("x", F32, [4, 3]);
        g.output("y", x.normalize(-1, 0.0).clamp(2.0, 2.0).clamp(f64::NEG_INFINITY, 0.0).leaky_relu(-2.0));
    })
    .unwrap();

    let starts = [
        (F32, Init::normal(0.0, -1.0), "deviation of f32 that is not below 0"),
        (F32, Init::normal(f64::NAN, 1.0), "finite mean"),
        (F64, Init::truncated_normal(0.0, f64::INFINITY), "finite deviation of f64"),
        (F32, Init::truncated_normal(0.0, -0.5), "not below 0"),
        (F32, Init::uniform(1.0, -1.0), "does not end before it begins"),
        (F32, Init::uniform(0.0, f64::NAN), "finite range"),
        (F32, Init::uniform(-1e39, 1e39), "finite range of f32"),
        (F64, Init::uniform(f64::MIN, f64::MAX), "finite range of f64"),
        (F32, Init::orthogonal(f64::INFINITY), "finite gain"),
        (F32, Init::forget_gate(f64::NAN), "finite value of f32"),
        (F32, Init::constant(f64::NAN), "requires a number"),
        (F32, Init::constant(1e39), "a number that f32 holds"),
        (F32, Init::constant(1e-50), "a number that f32 holds"),
        (I32, Init::constant(0.5), "a number that i32 holds (whole numbers from -2147483648"),
        (I32, Init::constant(5e9), "a number that i32 holds"),
        (Bool, Init::constant(2.0), "a number that bool holds (0 and 1)"),
        (I64, Init::normal(0.0, 1.0), "floats for random numbers, not i64"),
        (I32, Init::HeNormal, "floats for random numbers, not i32"),
    ];
    for (dtype, init, text) in starts {
        for param in [true, false] {
            let diag = only_error(|g| {
                let w = if param { g.param("w", dtype, [3], init) } else { g.state("w", dtype, [3], init) };
                assert_eq!(w.dtype(), dtype);
                g.output("y", w);
            });
            assert!(diag.code == Code::BadAttribute && diag.message.contains(text), "{init}: {diag}");
            assert!(diag.message.contains("the start of `w`") && diag.message.contains(&init.to_string()), "{diag}");
        }
        let source = format!(
            "cotangent 1\ngraph @f {{\n  %0 = state \"w\" {{init = {init}}} : {dtype}[3]\n  output \"y\" = %0\n}}"
        );
        let diags = text::parse(&source, "f.ct", &Registry::builtin()).unwrap_err();
        assert!(diags.0[0].message.contains(text), "{diags}");
    }
    build(|g| {
        g.output("best", g.state("best", F32, [], Init::constant(f64::INFINITY)));
        g.output("on", g.state("on", Bool, [], Init::ONES));
        g.output("same", g.param("w", F64, [2], Init::uniform(0.5, 0.5)));
    })
    .unwrap();
}

/// A mistake with a number, on a tensor.
type Numbers = for<'g> fn(Tensor<'g>) -> Tensor<'g>;

#[test]
fn a_number_that_the_type_cannot_hold_is_an_error_and_never_bent() {
    let mistakes: [(_, Numbers, &str, &str); 18] = [
        (I32, |x| x * 0.5, "number 0.5: i32 holds whole numbers from -2147483648", ".cast(F32)"),
        (I32, |x| 0.5 * x, "number 0.5: i32 holds", ".cast(F32)"),
        (I32, |x| x * 0.5f32, "number 0.5: i32 holds", ".cast(F32)"),
        (U8, |x| x + 300, "number 300.0: u8 holds whole numbers from 0 to 255", ".cast(I32)"),
        (U8, |x| x - (-1), "number -1.0: u8 holds", ".cast(I32)"),
        (I32, |x| x + 5_000_000_000i64, "number 5000000000.0: i32 holds", ".cast(I64)"),
        (I64, |x| x + 1.5, "number 1.5: i64 holds", ".cast(F32)"),
        (I64, |x| x.maximum(f64::NAN), "number NaN: i64 holds", ".cast(F32)"),
        (I64, |x| x.minimum(1e19), "i64 holds", ".cast(F32)"),
        (I32, |x| x.gt(0.5).cast(I32), "number 0.5", ".cast(F32)"),
        (I32, |x| x.gt(0).select(x, 0.5), "number 0.5", ".cast(F32)"),
        (I32, |x| x.gt(0).select(2.5, x), "number 2.5", ".cast(F32)"),
        (I32, |x| x.clamp(-0.5, 7.0), "number -0.5", ".cast(F32)"),
        (I32, |x| x.constant_like(1e-3), "number 0.001", ".cast(F32)"),
        (Bool, |x| x.eq(2).cast(Bool), "number 2.0: bool holds 0 and 1", ".cast(I32)"),
        (F32, |x| x * 1e39, "f32 holds", ".cast(F64)"),
        (F32, |x| x + 1e-50, "number 1e-50: f32 holds", ".cast(F64)"),
        (I32, |x| x.pad(&[0], &[1], 0.5), "number 0.5: i32 holds", "`cast`"),
    ];
    for (k, (dtype, mistake, text, advice)) in mistakes.into_iter().enumerate() {
        let diag = only_error(|g| g.output("y", mistake(g.input("x", dtype, [3]))));
        assert_eq!(diag.code, Code::DTypeMismatch, "{k}: {diag}");
        assert!(diag.message.contains(text) && diag.message.contains(&format!("{dtype}[3]")), "{k}: {diag}");
        assert!(diag.help.as_ref().is_some_and(|help| help.contains(advice)), "{k}: {diag}");
        assert_eq!(diag.notes.len(), 1, "{k}: where the tensor was made: {diag}");
    }
    let without: [(Mistake, &str); 3] = [
        (|g| g.scalar(0.5, I32), "number 0.5: i32 holds"),
        (|g| g.full(U8, [2, 2], 256), "number 256.0: u8 holds"),
        (|g| g.full(F32, [], f64::MAX), "f32 holds"),
    ];
    for (mistake, text) in without {
        let diag = only_error(|g| g.output("y", mistake(g)));
        assert!(diag.code == Code::BadAttribute && diag.message.contains(text), "{diag}");
    }
    let diag = only_error(|g| g.output("y", g.input("x", F32, [3]).gt(0.0).select(1.0, 0.0)));
    assert!(diag.code == Code::BadAttribute && diag.message.contains("two numbers"), "{diag}");
    let source = "cotangent 1\ngraph @f {\n  %0 = input \"x\" : i32[3]\n  \
                  %1 = pad %0 {low = [0], high = [1], value = 0.5}\n  output \"y\" = %1\n}";
    let diags = text::parse(source, "f.ct", &Registry::builtin()).unwrap_err();
    assert!(diags.0[0].code == Code::DTypeMismatch && diags.0[0].message.contains("number 0.5"), "{diags}");
}

#[test]
fn numbers_that_the_type_holds_are_exact_on_either_side() {
    // Literals of any type beside a tensor of any other that holds them; floats round to nearest.
    let pairs: [(Formula, Formula); 6] = [
        (|x| x * 2.0f32, |x| x * 2.0),
        (|x| 2.0 * x, |x| x.constant_like(2.0) * x),
        (|x| (x + 1) * 3usize, |x| (x + 1.0) * 3.0),
        (|x| x.maximum(0).minimum(6), |x| x.clamp(0.0, 6.0)),
        (|x| x.gt(0.0).select(x, 0.1 * x), |x| x.gt(x.constant_like(0.0)).select(x, x.constant_like(0.1) * x)),
        (
            |x| {
                let mut y = x;
                y += 1.0;
                y *= x;
                y -= 2;
                y /= 4.0f32;
                y
            },
            |x| ((x + 1.0) * x - 2.0) / 4.0,
        ),
    ];
    for (k, (short, long)) in pairs.into_iter().enumerate() {
        let text = |formula: Formula| build(|g| g.output("y", formula(g.input("x", F32, [3])))).unwrap().to_string();
        assert_eq!(text(short), text(long), "pair {k}");
    }
    // Whole numbers of 64 bits keep every bit.
    let graph = build(|g| g.output("y", g.input("t", I64, []) + 9_007_199_254_740_993i64)).unwrap();
    let env = Env::default().with("t", TensorData::from(0i64));
    assert_eq!(interpret_named(&graph, &env).unwrap()[0].1, TensorData::from(9_007_199_254_740_993i64));
}

#[test]
fn tensors_are_made_stacked_and_split() {
    assert_eq!(value(&[2], |x| x.builder().zeros(F32, [2, 2]) + x), (vec![2, 2], vec![1.0, 2.0, 1.0, 2.0]));
    assert_eq!(value(&[2], |x| x.builder().ones(F32, [2]) + x), (vec![2], vec![2.0, 3.0]));
    assert_eq!(value(&[2], |x| x.builder().full(F32, [2], 5) * x), (vec![2], vec![5.0, 10.0]));
    let rows = vec![1.0, 2.0, 1.0, 2.0];
    assert_eq!(value(&[2], |x| x.builder().stack(&[x, x], 0)), (vec![2, 2], rows));
    assert_eq!(value(&[2], |x| x.builder().stack(&[x, x * 2], -1)), (vec![2, 2], vec![1.0, 2.0, 2.0, 4.0]));
    assert_eq!(value(&[2, 4], |x| x.split(2, -1)[1]), (vec![2, 2], vec![3.0, 4.0, 7.0, 8.0]));
    assert_eq!(value(&[4], |x| x.split_sizes(&[1, 0, 3], 0)[2]), (vec![3], vec![2.0, 3.0, 4.0]));
    // To split and to put together again is to do nothing.
    assert_eq!(value(&[2, 6], |x| x.builder().concat(&x.split(3, 1), 1) - x), (vec![2, 6], vec![0.0; 12]));

    let mistakes: [(Code, Formula); 7] = [
        (Code::ShapeMismatch, |x| x.split(2, -1)[1]),
        (Code::ShapeMismatch, |x| x.split_sizes(&[1, 1], 1)[1]),
        (Code::ShapeMismatch, |x| x.split_sizes(&[usize::MAX, 4], 1)[1]),
        (Code::BadAxis, |x| x.split(1, 2)[0]),
        (Code::BadAxis, |x| x.builder().stack(&[x, x], 3)),
        (Code::ShapeMismatch, |x| x.builder().stack(&[x, x.t()], 0)),
        (Code::BadArity, |x| x.builder().stack(&[], 0)),
    ];
    for (k, (code, mistake)) in mistakes.into_iter().enumerate() {
        let diag = only_error(|g| g.output("y", mistake(g.input("x", F32, [2, 3]))));
        assert_eq!(diag.code, code, "mistake {k}: {diag}");
    }
}

#[test]
fn tensors_know_their_names() {
    build(|g| {
        let w = g.scope("layer", || g.param("weight", F32, [2], Init::ONES));
        assert_eq!(w.name().as_deref(), Some("layer.weight"));
        assert_eq!(g.state("s", F32, [], Init::ZEROS).name().as_deref(), Some("s"));
        assert_eq!((w + 1.0).name(), None);
        g.output("y", w);
    })
    .unwrap();
}
