//! Mistakes of the user: each is an error with a stable code, the user's line and advice, never a panic, and a step that
//! returns one has changed nothing.

use cotangent::graph::HostTensor;
use cotangent::graph::{Code, Loc};
use cotangent::prelude::*;
use ndarray::{Array1, Array2, Array3, ShapeBuilder, array, s};

/// A mistake made while a graph is built. `build` returns the line on which the mistake stands.
struct Mistake {
    code: Code,
    /// What the message must name.
    says: &'static [&'static str],
    build: fn(&GraphBuilder) -> u32,
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        code: Code::ShapeMismatch,
        says: &["matmul", "f32[4,3]", "f32[5,2]"],
        build: |g| {
            let (a, b) = (g.input("a", F32, [4, 3]), g.input("b", F32, [5, 2]));
            let line = line!() + 1;
            g.output("c", a.matmul(b));
            line
        },
    },
    Mistake {
        code: Code::ShapeMismatch,
        says: &["add", "[4,3]", "[4,2]"],
        build: |g| {
            let (a, b) = (g.input("a", F32, [4, 3]), g.input("b", F32, [4, 2]));
            let line = line!() + 1;
            g.output("c", a + b);
            line
        },
    },
    Mistake {
        code: Code::DTypeMismatch,
        says: &["f32", "f64", "cast"],
        build: |g| {
            let (a, b) = (g.input("a", F32, [4]), g.input("b", F64, [4]));
            let line = line!() + 1;
            g.output("c", a * b);
            line
        },
    },
    Mistake {
        code: Code::DTypeMismatch,
        says: &["exp", "i32"],
        build: |g| {
            let a = g.input("a", I32, [4]);
            let line = line!() + 1;
            g.output("c", a.exp());
            line
        },
    },
    Mistake {
        code: Code::BadAxis,
        says: &["reduce_sum", "0 to 1", "[4,3]"],
        build: |g| {
            let a = g.input("a", F32, [4, 3]);
            let line = line!() + 1;
            g.output("c", a.sum_over([2]));
            line
        },
    },
    Mistake {
        code: Code::TooLarge,
        says: &["input", "2^48"],
        build: |g| {
            let line = line!() + 1;
            g.output("c", g.input("a", F32, [1 << 33, 1 << 33]));
            line
        },
    },
    Mistake {
        code: Code::TooLarge,
        says: &["broadcast", "2^48"],
        build: |g| {
            let a = g.input("a", F32, []);
            let line = line!() + 1;
            g.output("c", a.broadcast_to([1 << 33, 1 << 33]));
            line
        },
    },
    Mistake {
        code: Code::TooLarge,
        says: &["matmul", "2^48"],
        build: |g| {
            let (a, b) = (g.input("a", F32, [1 << 33, 1]), g.input("b", F32, [1, 1 << 33]));
            let line = line!() + 1;
            g.output("c", a.matmul(b));
            line
        },
    },
    Mistake {
        code: Code::DuplicateName,
        says: &["`layer.w`", "first used", "g.shared(name)"],
        build: |g| {
            g.output("w", g.scope("layer", || g.param("w", F32, [2, 8], Init::ZEROS)));
            let line = line!() + 1;
            g.output("x", g.input("layer.w", F32, [2, 8]));
            line
        },
    },
    Mistake {
        code: Code::UnknownName,
        says: &["`hiden.weight`", "did you mean `hidden.weight`?"],
        build: |g| {
            let x = g.input("x", F32, [2, 8]).dense("hidden", 8);
            let line = line!() + 1;
            g.output("y", x.matmul(g.shared("hiden.weight")));
            line
        },
    },
    Mistake {
        code: Code::BadUpdate,
        says: &["update", "input"],
        build: |g| {
            let x = g.input("x", F32, [2]);
            g.output("x", x);
            let line = line!() + 1;
            g.update(x, x + 1.0);
            line
        },
    },
    Mistake {
        code: Code::BadUpdate,
        says: &["`w`", "f32[2]", "f32[]"],
        build: |g| {
            let w = g.param("w", F32, [2], Init::ZEROS);
            let sum = w.sum();
            let line = line!() + 1;
            g.update(w, sum);
            line
        },
    },
    Mistake {
        code: Code::NotDifferentiable,
        says: &["scalar", "f32[2,8]", ".mean()"],
        build: |g| {
            let loss = g.input("x", F32, [2, 8]).dense("hidden", 8);
            let line = line!() + 1;
            g.minimize(loss, Sgd::new(0.1));
            line
        },
    },
    Mistake {
        code: Code::BadAttribute,
        says: &["adam", "learning rate"],
        build: |g| {
            let loss = g.input("x", F32, [2, 8]).dense("hidden", 8).mean();
            let line = line!() + 1;
            g.minimize(loss, Adam::new(f64::NAN));
            line
        },
    },
];

#[test]
fn a_mistake_in_a_graph_is_reported_at_its_line() {
    for mistake in MISTAKES {
        let builder = GraphBuilder::new("mistake");
        let line = (mistake.build)(&builder);
        let Err(diags) = builder.finish() else { panic!("line {line}: no error") };
        assert_eq!(diags.0.len(), 1, "line {line}: one mistake, one error:\n{diags}");
        let text = diags.to_string();
        assert_eq!(diags.0[0].code, mistake.code, "{text}");
        assert!(text.starts_with(&format!("error[{}]: ", mistake.code)), "{text}");
        assert_eq!(diags.0[0].at.to_string(), format!("{}:{line}", file!()), "{text}");
        for part in mistake.says {
            assert!(text.contains(part), "{part:?} is missing:\n{text}");
        }
    }
}

/// What Rust prints of an error that `main` returns.
fn printed_by_main(error: impl Into<Box<dyn std::error::Error>>) -> String {
    format!("Error: {:?}", error.into())
}

#[test]
fn errors_print_as_text_from_main() {
    let diags = build(|g| g.output("y", g.input("x", F32, [2]).reshape([3]))).unwrap_err();
    let text = printed_by_main(diags.clone());
    assert!(text.starts_with("Error: error[E0101]: `reshape` requires"), "{text}");
    assert!(text.contains(&format!("\n  --> {}:", file!())), "{text}");
    assert_eq!(text, printed_by_main(diags.0[0].clone()));
    assert_eq!(text, printed_by_main(CompileError::User(diags.clone())));
    assert_eq!(text, printed_by_main(cotangent::train::TrainError::from(diags)));
    let missing = std::env::temp_dir().join("there/is/no/such.idx");
    let error = cotangent::data::idx::read_idx(&missing).unwrap_err();
    let text = printed_by_main(error);
    assert!(text.contains(&missing.display().to_string()) && !text.contains('{'), "{text}");
    let broken = std::env::temp_dir().join(format!("cotangent-errors-{}.idx", std::process::id()));
    std::fs::write(&broken, [1, 2, 3]).unwrap();
    let text = printed_by_main(cotangent::data::idx::read_idx(&broken).unwrap_err());
    std::fs::remove_file(&broken).unwrap();
    assert!(text.contains(&broken.display().to_string()) && text.contains("magic"), "{text}");
}

#[test]
fn all_mistakes_are_reported_at_once_and_each_once() {
    let first = line!() + 3;
    let diags = build(|g| {
        let (a, b) = (g.input("a", F32, [4, 3]), g.input("b", F32, [5, 2]));
        let c = a.matmul(b);
        let d = a.exp().reshape([5, 5]);
        // Silent: its operands are results of errors.
        g.output("e", (c + d).softmax(0).sum());
    })
    .unwrap_err();
    let lines: Vec<String> = diags.0.iter().map(|d| d.at.to_string()).collect();
    assert_eq!(lines, [format!("{}:{first}", file!()), format!("{}:{}", file!(), first + 1)]);
    // The operands' lines are there too.
    assert!(diags.0[0].notes.iter().all(|note| note.1.to_string() == format!("{}:{}", file!(), first - 1)));
}

#[test]
fn a_graph_without_outputs_is_an_error() {
    assert_eq!(build(|_| ()).unwrap_err().0[0].code, Code::NoOutputs);
}

const BATCH: usize = 4;

/// A train step with dropout, so that the step counter shows in the results; the line of its loss.
fn classifier(g: &GraphBuilder, batch: usize) -> u32 {
    let x = g.input("x", F32, [batch, 6]);
    let labels = g.input("labels", I64, [batch]);
    let logits = x.dense("hidden", 16).relu().dropout("drop", 0.5).dense("out", 3);
    let line = line!() + 1;
    let loss = logits.cross_entropy(labels).mean();
    g.output("loss", loss);
    g.output("logits", logits);
    g.minimize(loss, Adam::new(1e-2));
    line
}

fn session() -> (Session, u32) {
    let mut line = 0;
    let graph = build(|g| line = classifier(g, BATCH)).unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    (Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(3)).unwrap(), line)
}

fn data() -> (Array2<f32>, Array1<i64>) {
    (Array2::from_shape_fn((BATCH, 6), |(i, j)| ((i * 7 + j * 5) % 11) as f32 / 5.0 - 1.0), array![0, 2, 1, 2])
}

/// Everything that a step may change.
fn snapshot(session: &Session) -> (Vec<(String, TensorData)>, u32) {
    let store = session.store();
    (store.iter().map(|(name, _)| (name.to_owned(), store.get(name).unwrap())).collect(), store.step())
}

/// The error of a step that must fail, at the caller's line unless it says otherwise, and change nothing.
#[track_caller]
fn failure<'a>(session: &mut Session, inputs: &[(&'a str, HostTensor<'a>)]) -> Diag {
    let before = snapshot(session);
    let error = session.step(inputs.to_vec()).expect_err("the step must fail");
    assert_eq!(snapshot(session), before, "a failed step changed something: {error}");
    error
}

#[test]
fn inputs_of_a_step_are_checked() {
    let (mut session, _) = session();
    let (x, y) = data();
    session.step([("x", (&x).into()), ("labels", (&y).into())]).unwrap();

    let error = failure(&mut session, &[("x", (&x).into()), ("lables", (&y).into())]);
    assert_eq!((error.code, error.help.as_deref()), (Code::InputNames, Some("did you mean `labels`?")), "{error}");
    let error = failure(&mut session, &[("x", (&x).into()), ("quite other", (&y).into())]);
    assert_eq!(error.help.as_deref(), Some("known: labels, x"), "{error}");

    let error = failure(&mut session, &[("x", (&x).into())]);
    assert_eq!(error.code, Code::InputNames, "{error}");
    assert!(error.message.contains("`labels` of type i64[4], got none"), "{error}");
    let error = failure(&mut session, &[]);
    assert!(error.message.contains("`x`"), "{error}");

    let short = x.slice(s![..3, ..]);
    let error = failure(&mut session, &[("x", short.into()), ("labels", (&y).into())]);
    assert_eq!(error.code, Code::InputType, "{error}");
    assert!(error.message.contains("`x` requires f32[4,6], got f32[3,6]"), "{error}");
    let wide = x.mapv(f64::from);
    let error = failure(&mut session, &[("x", (&wide).into()), ("labels", (&y).into())]);
    assert!(error.message.contains("`x` requires f32[4,6], got f64[4,6]"), "{error}");
    let flat = x.flatten();
    let error = failure(&mut session, &[("x", (&flat).into()), ("labels", (&y).into())]);
    assert!(error.message.contains("f32[24]"), "{error}");

    // The last of two arrays for one input counts, and nothing of the failed steps is left.
    session.step([("x", (&x).into()), ("labels", (&y).into())]).unwrap();
}

#[test]
fn a_step_is_an_error_at_the_line_of_the_call() {
    let (mut session, _) = session();
    let line = line!() + 1;
    let error = session.step([("z", (&array![0.0f32]).into())]).unwrap_err();
    assert_eq!(error.at.to_string(), format!("{}:{line}", file!()));
}

#[test]
fn a_class_out_of_range_changes_nothing_and_names_row_value_and_line() {
    for (bad, row) in [(3, 0), (-1, 2), (i64::MAX, 3), (i64::MIN, 1)] {
        let (mut session, line) = session();
        let (mut reference, _) = self::session();
        let (x, y) = data();
        let mut wrong = y.clone();
        wrong[row] = bad;
        // Once before the first step that works, once after it.
        for _ in 0..2 {
            let error = failure(&mut session, &[("x", (&x).into()), ("labels", (&wrong).into())]);
            assert_eq!(error.code, Code::IndexOutOfRange, "{error}");
            assert!(error.message.contains(&format!("0..3, got {bad} at element {row}")), "{error}");
            assert_eq!(error.at.to_string(), format!("{}:{line}", file!()), "{error}");

            let works = [("x", HostTensor::from(&x)), ("labels", (&y).into())];
            let loss = session.step(works.clone()).unwrap().scalar("loss").unwrap();
            let expected = reference.step(works.clone()).unwrap().scalar("loss").unwrap();
            assert_eq!(loss.to_bits(), expected.to_bits(), "the failed step left a trace");
        }
        assert_eq!(snapshot(&session), snapshot(&reference));
    }
}

#[test]
fn a_gather_out_of_range_changes_nothing() {
    let graph = build(|g| {
        let rows = g.input("word", I32, [3]).embedding("table", 5, 2);
        let loss = rows.square().mean();
        g.output("loss", loss);
        g.minimize(loss, Sgd::new(0.1));
    })
    .unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    let (good, bad) = (array![0i32, 4, 4], array![0i32, 5, 4]);
    session.step([("word", (&good).into())]).unwrap();
    let error = failure(&mut session, &[("word", (&bad).into())]);
    assert_eq!(error.code, Code::IndexOutOfRange, "{error}");
    assert!(error.message.contains("0..5, got 5 at element 1"), "{error}");
    session.step([("word", (&good).into())]).unwrap();
}

#[test]
fn a_batch_of_no_rows_works() {
    let graph = build(|g| {
        let logits = g.input("x", F32, [0, 6]).dense("hidden", 16).relu().dense("out", 3);
        g.output("p", logits.softmax(1));
        g.output("sum", logits.sum());
        g.output("columns", logits.sum_over([0]));
    })
    .unwrap();
    for fuse in [true, false] {
        let program = Compiler::new().fuse(fuse).compile(&graph).unwrap();
        let mut session = Session::new(&Runtime::new(Threads::Exactly(2)), program, Seed(0)).unwrap();
        let results = session.step([("x", (&Array2::<f32>::zeros((0, 6))).into())]).unwrap();
        assert_eq!(results.view::<f32>("p").unwrap().shape(), [0, 3]);
        assert_eq!(results.scalar("sum").unwrap(), 0.0);
        assert_eq!(results.view::<f32>("columns").unwrap().as_slice(), Some(&[0.0f32; 3][..]));
    }
}

#[test]
fn an_empty_input_is_not_read() {
    // Loop-invariant operands are loaded before the loop: where the loop is empty, their memory may be none at all.
    let graph = build(|g| {
        let x = g.input("x", F32, [1, 0]);
        g.output("y", x.abs().reshape([0]).sigmoid());
        g.output("sum", x.tanh().reshape([0]).sum());
        g.output("w", g.param("w", F32, [1, 0], Init::ONES).exp().reshape([0]).tanh());
    })
    .unwrap();
    for fuse in [true, false] {
        let program = Compiler::new().fuse(fuse).compile(&graph).unwrap();
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
        let results = session.step([("x", (&Array2::<f32>::zeros((1, 0))).into())]).unwrap();
        assert_eq!(results.view::<f32>("y").unwrap().shape(), [0]);
        assert_eq!(results.view::<f32>("w").unwrap().shape(), [0]);
        assert_eq!(results.scalar("sum").unwrap(), 0.0);
    }
}

#[test]
fn the_mean_of_no_rows_is_an_error() {
    let mut line = 0;
    let diags = build(|g| line = classifier(g, 0)).unwrap_err();
    assert_eq!((diags.0.len(), diags.0[0].code), (1, Code::ShapeMismatch), "{diags}");
    assert!(diags.0[0].message.contains("`mean` of no elements"), "{diags}");
    assert_eq!(diags.0[0].at.to_string(), format!("{}:{line}", file!()), "{diags}");
}

#[test]
fn arrays_in_any_layout_are_the_same_input() {
    let run = |view: HostTensor<'_>| {
        let graph = build(|g| {
            let x = g.input("x", F32, [3, 4, 5]);
            g.output("y", x.sum_over([1]) + x.slice(&[0, 0, 0], &[3, 1, 5]).reshape([3, 5]));
        })
        .unwrap();
        let program = Compiler::new().compile(&graph).unwrap();
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
        session.step([("x", view)]).unwrap().tensor("y").unwrap()
    };
    let x = Array3::from_shape_fn((3, 4, 5), |(i, j, k)| (100 * i + 10 * j + k) as f32);
    let expected = run((&x).into());
    let transposed = x.t().to_owned();
    assert_eq!(run(transposed.t().into()), expected, "transposed");
    let mut fortran = Array3::zeros((3, 4, 5).f());
    fortran.assign(&x);
    assert_eq!(run((&fortran).into()), expected, "column-major");
    let reversed = x.slice(s![..;-1, .., ..;-1]).to_owned();
    assert_eq!(run(reversed.slice(s![..;-1, .., ..;-1]).into()), expected, "backwards");
    let mut wide = Array3::zeros((6, 4, 7));
    wide.slice_mut(s![..;2, .., 1..6]).assign(&x);
    assert_eq!(run(wide.slice(s![..;2, .., 1..6]).into()), expected, "a part of a larger array");
    let row = array![1.0f32, 2.0, 3.0, 4.0, 5.0];
    let repeated = row.broadcast((3, 4, 5)).unwrap();
    assert_eq!(run(repeated.into()), run((&repeated.to_owned()).into()), "repeated");
}

#[test]
fn results_are_asked_for_by_name_and_type() {
    let (mut session, _) = session();
    let (x, y) = data();
    let results = session.step([("x", (&x).into()), ("labels", (&y).into())]).unwrap();
    assert_eq!(results.view::<f32>("logits").unwrap().shape(), [4, 3]);
    let error = results.view::<f64>("logits").unwrap_err();
    assert_eq!(error.code, Code::NoSuchValue, "{error}");
    assert!(error.message.contains("f32") && error.message.contains("f64"), "{error}");
    let error = results.scalar("logits").unwrap_err();
    assert!(error.message.contains("f32[4,3]"), "{error}");
    let error = results.scalar("los").unwrap_err();
    assert_eq!(error.help.as_deref(), Some("did you mean `loss`?"), "{error}");
    assert!(results.tensor("no such thing at all").is_err());
}

#[test]
fn not_a_number_goes_through_without_harm() {
    for fuse in [true, false] {
        let graph = build(|g| {
            classifier(g, BATCH);
        })
        .unwrap();
        let program = Compiler::new().fuse(fuse).compile(&graph).unwrap();
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(3)).unwrap();
        let (mut x, y) = data();
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x.fill(poison);
            let results = session.step([("x", (&x).into()), ("labels", (&y).into())]).unwrap();
            assert!(!results.scalar("loss").unwrap().is_finite());
        }
        assert!(session.store().get("hidden.weight").unwrap().to_f64().iter().all(|w| w.is_nan()));
    }
}

#[test]
fn nan_converts_to_index_zero_and_is_in_range() {
    // Float to integer saturates and takes NaN to 0, so that no index is made of garbage.
    let graph = build(|g| {
        let at = g.input("at", F32, [3]).cast(I32);
        g.output("y", g.constant(array![10.0f32, 20.0]).gather(at));
    })
    .unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    let at = array![f32::NAN, 1.9, -0.9];
    let y = session.step([("at", (&at).into())]).unwrap().tensor("y").unwrap();
    assert_eq!(y, array![10.0f32, 20.0, 10.0].into());
    let at = array![0.0f32, f32::INFINITY, 0.0];
    let error = failure(&mut session, &[("at", (&at).into())]);
    assert!(error.message.contains(&format!("got {}", i32::MAX)), "{error}");
    assert_ne!(error.at, Loc::Internal, "{error}");
}
