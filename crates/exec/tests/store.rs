//! Values of a store: what is taken out is what was put in, and what does not fit is refused.

use cotangent_exec::{Compiler, Runtime, Seed, Session, Store, Threads};
use cotangent_graph::{Code, DType, Diag, Init, Shape, Type, build};
use ndarray::{ArrayD, array};

fn ty(dtype: DType, shape: &[usize]) -> Type {
    Type::tensor(dtype, Shape::new(shape))
}

#[test]
fn values_come_back_and_are_set_from_whatever_is_a_tensor() {
    let mut store = Store::new(Seed(1));
    // More than a cache line, and no multiple of one; borrowed and in another order than row-major.
    let values = ArrayD::from_shape_fn(vec![3, 7], |i| (i[0] * 7 + i[1]) as f64 - 1.5);
    let turned = values.t().as_standard_layout().into_owned();
    store.insert("f", turned.t()).unwrap();
    assert_eq!(store.get("f").unwrap(), values.into());
    let zeros = ArrayD::<f64>::zeros(vec![3, 7]);
    store.set("f", &zeros).unwrap();
    assert!(store.get("f").unwrap().to_f64().iter().all(|&v| v == 0.0));
    store.insert("n", vec![1i64, -2]).unwrap();
    store.insert("n", &[3i64, 4]).unwrap();
    assert_eq!(store.get("n").unwrap().to_f64(), [3.0, 4.0]);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut store = Store::new(Seed(1));
    store.insert("w", array![1f32, 2.0]).unwrap();
    let check = |text: String, says: &str| assert!(text.contains(says), "{text:?} should say {says:?}");
    check(store.get("v").unwrap_err().to_string(), "did you mean `w`?");
    check(store.check("w", &ty(DType::F32, &[3])).unwrap_err().to_string(), "requires f32[2], got f32[3]");
    check(store.check("v", &Type::Tuple(vec![])).unwrap_err().to_string(), "requires a tensor");
    check(store.insert("w", 1f32).unwrap_err().to_string(), "requires f32[2], got f32[]");
    assert_eq!((store.iter().count(), store.get("w").unwrap().to_f64()), (1, vec![1.0, 2.0]));
}

/// Several values at once: all of them, or none, whether they are new or not.
#[test]
fn a_store_is_filled_as_a_whole_or_not_at_all() {
    let graph = build(|g| g.output("y", g.param("w", DType::F32, [2], Init::ONES) * 2.0)).unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    let (w, v) = (ty(DType::F32, &[2]), ty(DType::I64, &[3, 0]));
    let both = || [("v", v.clone()), ("w", w.clone())];
    let write = |name: &str, bytes: &mut [u8]| -> Result<(), Diag> {
        assert!((bytes.as_ptr() as usize).is_multiple_of(64) && bytes.iter().all(|&byte| byte == 0));
        assert_eq!(bytes.len(), if name == "w" { 8 } else { 0 });
        bytes.iter_mut().zip(3f32.to_ne_bytes().repeat(2)).for_each(|(place, byte)| *place = byte);
        Ok(())
    };
    let nothing: [(&str, cotangent_graph::HostTensor<'_>); 0] = [];
    let values = |session: &mut Session| {
        let y = session.step(nothing.clone()).unwrap().tensor("y").unwrap().to_f64();
        (session.store().iter().count(), session.store().version("w"), y)
    };
    assert_eq!(values(&mut session), (1, Some(0), vec![2.0, 2.0]));
    // The last fails after it was written.
    let refused = session.store_mut().fill(both(), |name, bytes| {
        write(name, bytes)?;
        if name == "w" { Err(Diag::new(Code::NoSuchValue, "no")) } else { Ok(()) }
    });
    assert_eq!((refused.unwrap_err().code, values(&mut session)), (Code::NoSuchValue, (1, Some(0), vec![2.0, 2.0])));
    let wrong = session.store_mut().fill([("v", v.clone()), ("w", v.clone())], write).unwrap_err();
    assert!(wrong.to_string().contains("`w` requires f32[2], got i64[3,0]"), "{wrong}");
    let huge = session.store_mut().fill([("w", w.clone()), ("v", ty(DType::F32, &[1 << 20, 1 << 25]))], write);
    assert_eq!((huge.unwrap_err().code, session.store().iter().count()), (Code::NoMemory, 1));
    let truth = [("truth", ty(DType::Bool, &[3]))];
    let odd = session.store_mut().fill(truth, |_, bytes| {
        bytes[1] = 2;
        Ok::<_, cotangent_graph::Diag>(())
    });
    assert!(odd.unwrap_err().to_string().contains("bytes of 0 or 1, got a byte of 2"));
    session.store_mut().fill([("v", w.clone())].into_iter().chain(both()), write).unwrap();
    assert_eq!(values(&mut session), (2, Some(1), vec![6.0, 6.0]));
}

#[test]
fn a_program_that_is_loaded_later_starts_with_what_was_put_in() {
    let graph = build(|g| g.output("w", g.param("w", DType::F32, [2], Init::ZEROS) + 1.0)).unwrap();
    let mut store = Store::new(Seed(0));
    store.insert("w", array![4f32, 5.0]).unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::with_store(&Runtime::new(Threads::Exactly(1)), program, store).unwrap();
    let nothing: [(&str, cotangent_graph::HostTensor<'_>); 0] = [];
    assert_eq!(session.step(nothing).unwrap().view::<f32>("w").unwrap().as_slice().unwrap(), [5.0, 6.0]);
}

/// The two steps of an adversarial pair, each with an optimiser, in scopes of their own or not.
fn adversaries(rates: [f64; 2], scoped: bool) -> [Result<std::sync::Arc<cotangent_exec::Executable>, ()>; 2] {
    use cotangent_nn::{Adam, Minimize};
    let program = |name: &'static str, rate: f64| {
        let graph = cotangent_graph::build(|g| {
            let w = g.param(name, DType::F32, [3], Init::ONES);
            let loss = w.square().sum();
            let minimize = || g.minimize(loss, Adam::new(rate));
            if scoped { g.scope(name, minimize) } else { minimize() }
        });
        Compiler::new().compile(&graph.unwrap()).map_err(|_| ())
    };
    [program("generator", rates[0]), program("critic", rates[1])]
}

#[test]
fn optimisers_of_two_programs_have_numbers_of_their_own_or_are_refused() {
    let runtime = Runtime::new(Threads::Exactly(1));
    let pair = |rates: [f64; 2], scoped: bool| {
        let [first, second] = adversaries(rates, scoped).map(Result::unwrap);
        let mut session = Session::new(&runtime, first, Seed(0)).unwrap();
        let second = session.load(second)?;
        session.step(()).unwrap();
        session.run(second, ()).unwrap();
        session.run(second, ()).unwrap();
        Ok(session)
    };
    // Another rate, and the same rate but other parameters.
    for (rates, what) in [([0.1, 0.001], "optimizer.lr"), ([0.1, 0.1], "optimizer.t")] {
        let error: cotangent_graph::Diag = pair(rates, false).map(|_| ()).unwrap_err();
        assert_eq!(error.code, Code::StoreMismatch);
        assert!(error.message.contains(what) && error.to_string().contains("scope"), "{error}");
    }
    let session = pair([0.1, 0.001], true).unwrap();
    let number = |name: &str| session.store().get(name).unwrap().to_f64()[0];
    assert_eq!((number("generator.optimizer.t"), number("critic.optimizer.t")), (1.0, 2.0));
    assert!((number("generator") - 0.9).abs() < 1e-3, "{}", number("generator"));
    assert!((number("critic") - 0.998).abs() < 1e-4, "{}", number("critic"));
}
