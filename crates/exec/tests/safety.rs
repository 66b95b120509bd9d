//! Memory safety from safe code: nothing that a caller can write reads or writes memory that is not its own.
//!
//! What must not compile stands as examples at `Session::store_mut`, `Trainer::store_mut` and `callbacks::Context`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cotangent_exec::{CompileError, Compiler, Each, Executable, HostTensor, Runtime, Seed, Session, Store, Threads};
use cotangent_graph::{Code, DType, Init, TensorData, Type, build};
use ndarray::{Array, Array1, Array2, ArrayD, Axis, Ix2, ShapeBuilder, arr0, array, s};

/// Adds 1 to the state `w` and gives `x + w`.
fn counting(n: usize) -> Arc<Executable> {
    let graph = build(|g| {
        let (x, w) = (g.input("x", DType::F32, [n]), g.param("w", DType::F32, [n], Init::ZEROS));
        g.output("y", x + w);
        g.update(w, w + 1.0);
    });
    Compiler::new().compile(&graph.unwrap()).unwrap()
}

fn session(program: Arc<Executable>) -> Session {
    Session::new(&Runtime::new(Threads::Exactly(2)), program, Seed(1)).unwrap()
}

// ---- the store -------------------------------------------------------------------------------------------------------

#[test]
fn a_bound_store_takes_new_values_and_never_moves_old_ones() {
    let mut session = session(counting(3));
    for k in 0..1000 {
        session.store_mut().insert(&format!("extra.{k}"), k as f32).unwrap();
        session.store_mut().insert(&format!("bytes.{k}"), &[1u8, 2]).unwrap();
    }
    session.store_mut().set("w", array![5.0f32, 6.0, 7.0]).unwrap();
    let x = array![1.0f32, 1.0, 1.0];
    let y = session.step([("x", (&x).into())]).unwrap().tensor("y").unwrap();
    assert_eq!(y, array![6.0f32, 7.0, 8.0].into());
    assert_eq!(session.store().get("w").unwrap(), array![6.0f32, 7.0, 8.0].into());
    // Refused: another type, or too many elements to be addressed.
    for value in [HostTensor::from(&[0f32; 4]), HostTensor::from(&[0f64; 3]), HostTensor::from(0f32)] {
        assert_eq!(session.store_mut().insert("w", &value).unwrap_err().code, Code::InputType);
        assert_eq!(session.store_mut().set("w", value).unwrap_err().code, Code::InputType);
    }
    let huge = Type::tensor(DType::F32, [usize::MAX, usize::MAX]);
    assert_eq!(session.store().check("new", &huge).unwrap_err().code, Code::InputType);
}

#[test]
fn sessions_and_stores_may_be_swapped_as_wholes() {
    let program = counting(2);
    let (mut first, mut second) = (session(program.clone()), session(program.clone()));
    second.store_mut().set("w", array![10.0f32, 20.0]).unwrap();
    let x = array![0.0f32, 0.0];
    std::mem::swap(&mut first, &mut second);
    let y = first.step([("x", (&x).into())]).unwrap().tensor("y").unwrap();
    assert_eq!(y, array![10.0f32, 20.0].into());
    // Handles are no more than borrows: swapping those changes which store is written to, and nothing else.
    {
        let (mut a, mut b) = (first.store_mut(), second.store_mut());
        std::mem::swap(&mut a, &mut b);
        a.set("w", array![100.0f32, 100.0]).unwrap();
    }
    assert_eq!(second.store().get("w").unwrap(), array![100.0f32, 100.0].into());
    assert_eq!(first.store().get("w").unwrap(), array![11.0f32, 21.0].into());
    // A store outlives its session and goes into another one.
    let store = first.into_store();
    let mut third = Session::with_store(&Runtime::new(Threads::Exactly(1)), program, store).unwrap();
    assert_eq!(third.step([("x", (&x).into())]).unwrap().tensor("y").unwrap(), array![11.0f32, 21.0].into());
}

#[test]
fn a_store_that_does_not_fit_comes_back() {
    let mut store = Store::new(Seed(3));
    store.insert("w", array![1.0f64]).unwrap();
    let runtime = Runtime::new(Threads::Exactly(1));
    let (diag, store) = Session::try_with_store(&runtime, counting(3), store).unwrap_err();
    assert_eq!(diag.code, Code::StoreMismatch);
    assert_eq!(store.get("w").unwrap(), array![1.0f64].into());
    assert_eq!(store.seed(), Seed(3));
}

#[test]
fn sessions_of_one_runtime_run_on_many_threads() {
    let (runtime, program) = (Runtime::new(Threads::Exactly(2)), counting(100_000));
    std::thread::scope(|scope| {
        for k in 0..3 {
            let (runtime, program) = (&runtime, program.clone());
            scope.spawn(move || {
                let mut session = Session::new(runtime, program, Seed(k)).unwrap();
                let x = Array1::from_elem(100_000, k as f32);
                for step in 0..20 {
                    let y = session.step([("x", (&x).into())]).unwrap();
                    assert!(y.view::<f32>("y").unwrap().iter().all(|&v| v == (k + step) as f32));
                }
            });
        }
    });
}

// ---- inputs ----------------------------------------------------------------------------------------------------------

/// What `x * 1` makes of an input of this shape.
fn identity(program: &Arc<Executable>, view: HostTensor<'_>) -> TensorData {
    let mut session = session(program.clone());
    session.step([("x", view)]).unwrap().tensor("y").unwrap()
}

/// Whatever the order of the elements in memory, a step sees them in logical order.
#[test]
fn inputs_of_every_layout_are_read_in_order() {
    let program = |shape: &[usize]| {
        let graph = build(|g| {
            let x = g.input("x", DType::F32, shape);
            g.output("y", x * 1.0);
        });
        Compiler::new().compile(&graph.unwrap()).unwrap()
    };
    let base = Array::from_shape_fn((6, 8), |(i, j)| (i * 8 + j) as f32);
    let one = array![7.0f32];
    let fortran = Array2::from_shape_fn((3, 4).f(), |(i, j)| (10 * i + j) as f32);
    let mut reversed = base.slice(s![.., ..]);
    reversed.invert_axis(Axis(0));
    let single_reversed = base.slice(s![2..3;-1, ..]);
    let empty = Array2::<f32>::zeros((0, 5));
    let zero_d = arr0(3.5f32);
    let views: [ndarray::ArrayViewD<'_, f32>; 12] = [
        one.broadcast((1000,)).unwrap().into_dyn(),
        one.broadcast((5, 7)).unwrap().into_dyn(),
        base.t().into_dyn(),
        base.slice(s![..;2, 1..;3]).into_dyn(),
        base.slice(s![..;-1, ..;-2]).into_dyn(),
        reversed.into_dyn(),
        single_reversed.into_dyn(),
        fortran.view().into_dyn(),
        base.slice(s![.., 3]).into_dyn(),
        empty.view().into_dyn(),
        empty.broadcast((4, 0, 5)).unwrap().into_dyn(),
        zero_d.view().into_dyn(),
    ];
    for view in views {
        let expected = TensorData::from(view.to_owned());
        let program = program(view.shape());
        assert!(identity(&program, view.clone().into()).same_bits(&expected), "{:?}", view.strides());
        assert_eq!(HostTensor::from(view.clone()).into_owned(), expected);
        // Arrays of one's own, in whatever order, are no different.
        let owned: ArrayD<f32> = view.to_owned();
        assert!(identity(&program, (&owned).into()).same_bits(&expected));
    }
    // So do tensors whose array is not in row-major order, which anybody may make.
    let turned = TensorData::F32(base.clone().into_dyn().reversed_axes().into());
    assert_eq!(identity(&program(&[8, 6]), (&turned).into()), base.t().to_owned().into());
}

#[test]
fn truth_values_and_bytes_are_read_in_order_too() {
    let graph = build(|g| {
        let x = g.input("x", DType::Bool, [4]);
        g.output("y", !x);
    });
    let program = Compiler::new().compile(&graph.unwrap()).unwrap();
    let flags = array![true, false, false, true, true, false, false];
    let view = flags.slice(s![..;-2]);
    assert_eq!(identity(&program, view.into()), view.mapv(|v| !v).into());
}

/// A view says what it is of, and nothing else is taken.
#[test]
fn inputs_of_another_type_or_shape_are_errors() {
    let mut session = session(counting(3));
    let (short, wide, empty) = (array![1.0f32], array![[1.0f32, 2.0, 3.0]], Array1::<f32>::zeros(0));
    for view in [HostTensor::from(&short), (&wide).into(), (&empty).into()] {
        assert_eq!(session.step([("x", view)]).unwrap_err().code, Code::InputType);
    }
    assert_eq!(session.step([("x", (&array![1i32, 2, 3]).into())]).unwrap_err().code, Code::InputType);
    let none: [(&str, HostTensor<'_>); 0] = [];
    assert_eq!(session.step(none).unwrap_err().code, Code::InputNames);
    assert_eq!(session.store().step(), 0);
}

// ---- ids -------------------------------------------------------------------------------------------------------------

#[test]
fn ids_of_other_sessions_and_programs_are_errors() {
    let (small, large) = (counting(2), counting(3));
    let (mut first, mut second) = (session(small.clone()), session(small.clone()));
    let added = second.load(small.clone()).unwrap();
    let x = array![1.0f32, 2.0];
    // One that is beyond the other's list, and one that would name a program of it.
    for id in [added, second.main()] {
        assert_eq!(first.run(id, [("x", (&x).into())]).unwrap_err().code, Code::ForeignId);
        assert_eq!(first.profile(id, [("x", (&x).into())], 1).unwrap_err().code, Code::ForeignId);
        assert_eq!(first.find_non_finite(id, [("x", (&x).into())]).unwrap_err().code, Code::ForeignId);
    }
    let id = large.input_id("x").unwrap();
    let error = first.step([(id, (&x).into())]).unwrap_err();
    assert_eq!(error.code, Code::ForeignId);
    assert!(error.at.to_string().contains("safety.rs"), "{error}");
    assert_eq!(first.find_non_finite(first.main(), [(id, (&x).into())]).unwrap_err().code, Code::ForeignId);
    assert_eq!(first.store().step(), 0);
    // Even one that was made from the same graph.
    let twin = counting(2);
    assert_eq!(first.step([(twin.input_id("x").unwrap(), (&x).into())]).unwrap_err().code, Code::ForeignId);
    assert!(first.step([(small.input_id("x").unwrap(), (&x).into())]).is_ok());
    // Ids belong to the session, not to the place where it stands.
    let main = first.main();
    std::mem::swap(&mut first, &mut second);
    assert!(second.run(main, [("x", (&x).into())]).is_ok());
}

// ---- panics ----------------------------------------------------------------------------------------------------------

/// The code of the caller that hands the inputs in may panic halfway; the memory of those before is gone then.
#[test]
fn a_panic_while_inputs_are_handed_in_leaves_nothing_behind() {
    let graph = build(|g| {
        let (x, y) = (g.input("x", DType::F32, [4]), g.input("y", DType::F32, [4]));
        let w = g.param("w", DType::F32, [4], Init::ZEROS);
        g.output("sum", x + y);
        g.update(w, w + x);
    });
    let mut session = session(Compiler::new().compile(&graph.unwrap()).unwrap());
    let y = array![1.0f32, 2.0, 3.0, 4.0];
    for _ in 0..3 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let x = Array1::from_elem(4, 5.0f32);
            let inputs = (0..2).map(|k| if k == 0 { ("x", HostTensor::from(&x)) } else { panic!("on purpose") });
            session.step(Each(inputs)).map(|_| ())
        }));
        assert!(result.is_err());
        // What was bound before is not there any more.
        assert_eq!(session.step([("y", (&y).into())]).unwrap_err().code, Code::InputNames);
    }
    let x = array![1.0f32, 1.0, 1.0, 1.0];
    let sum = session.step([("x", (&x).into()), ("y", (&y).into())]).unwrap().tensor("sum").unwrap();
    assert_eq!(sum, array![2.0f32, 3.0, 4.0, 5.0].into());
    assert_eq!(session.store().get("w").unwrap(), x.into());
}

/// One name twice: the last value counts, and both live until the step is over.
#[test]
fn results_are_borrowed_from_the_session() {
    let mut session = session(counting(2));
    let x = array![1.0f32, 2.0];
    let outputs = session.step([("x", (&x).into())]).unwrap();
    drop(x);
    let view = outputs.view::<f32>("y").unwrap().into_dimensionality::<ndarray::Ix1>().unwrap();
    assert_eq!(view, array![1.0f32, 2.0]);
    assert!(
        outputs.view::<f64>("y").is_err() && outputs.view::<f32>("y").unwrap().into_dimensionality::<Ix2>().is_err()
    );
}

// ---- memory ----------------------------------------------------------------------------------------------------------

/// What a program takes is known to the byte before anything is allocated, and a refusal changes nothing.
#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let graph = |n: usize| {
        let graph = build(|g| {
            let (x, w) = (g.input("x", DType::F32, [n]), g.param("w", DType::F32, [n], Init::ZEROS));
            g.output("y", x + w);
        });
        graph.unwrap()
    };
    // Parameters and results of 4,000 bytes each, in whole lines.
    let error = Compiler::new().memory_limit(7_999).compile(&graph(1000)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, CompileError::Environment(_)), "{text}");
    assert!(
        text.contains("8032 B of memory, more than the limit of 7999 B: 4032 B for values between kernels"),
        "{text}"
    );
    assert!(text.contains("4000 B for parameters and states") && text.contains("safety.rs:"), "{text}");
    assert!(Compiler::new().memory_limit(8_032).compile(&graph(1000)).is_ok());

    // No machine has it, whatever the limit says; the session that was asked goes on as it was.
    let mut session = session(counting(2));
    session.store_mut().set("w", array![3.0f32, 4.0]).unwrap();
    let huge = Compiler::new().memory_limit(usize::MAX).compile(&{
        let graph = build(|g| g.output("big", g.param("big", DType::F32, [1 << 46], Init::ONES).sum()));
        graph.unwrap()
    });
    let huge = huge.unwrap();
    let error = session.load(huge.clone()).unwrap_err();
    assert_eq!(error.code, Code::NoMemory);
    assert!(session.store().get("big").is_err() && session.store().iter().count() == 1);
    let x = array![1.0f32, 1.0];
    let y = session.step([("x", (&x).into())]).unwrap().tensor("y").unwrap();
    assert_eq!(y, array![4.0f32, 5.0].into());
    let (error, store) =
        Session::try_with_store(&Runtime::new(Threads::Exactly(1)), huge, session.into_store()).unwrap_err();
    assert_eq!(error.code, Code::NoMemory);
    assert_eq!(store.get("w").unwrap(), array![4.0f32, 5.0].into());
}

/// A broadcast view of one number is as long as a program's input may be; copying it is refused like anything else.
#[test]
fn inputs_that_would_have_to_be_copied_ask_for_memory_too() {
    const N: usize = 1 << 46;
    // A program that takes none itself: it reads two elements.
    let graph = build(|g| g.output("y", g.input("x", DType::F32, [N]).slice(&[3], &[5]) * 1.0));
    let program = Compiler::new().memory_limit(usize::MAX).compile(&graph.unwrap()).unwrap();
    let one = array![7.0f32];
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    let view = one.broadcast((N,)).unwrap();
    let error = session.step([("x", view.into())]).unwrap_err();
    assert_eq!(error.code, Code::NoMemory);
    assert!(error.message.contains("a copy of input `x` in row-major order"), "{error}");
}

/// Of many rows without elements there is nothing to compute, and no time is taken for it.
#[test]
fn rows_of_no_elements_take_no_time() {
    let graph = build(|g| {
        let x = g.param("x", DType::F32, [1 << 36, 0], Init::ZEROS);
        g.output("softmax", x.softmax(-1));
        g.output("sums", x.exp().sum_over([0]));
    });
    let mut session = session(Compiler::new().compile(&graph.unwrap()).unwrap());
    let start = std::time::Instant::now();
    assert_eq!(session.step(()).unwrap().tensor("softmax").unwrap().shape()[..], [1 << 36, 0]);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}
