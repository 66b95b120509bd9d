//! What is drawn, and when: starting values, programs that have random numbers and update nothing, and the end of the counter.

use cotangent_exec::{Compiler, Runtime, Seed, Session, Store, Threads, inputs};
use cotangent_graph::{Code, DType, GraphBuilder, Init, Shape, TensorData, build};
use ndarray::array;

fn session(f: impl for<'g> Fn(&'g GraphBuilder), n_threads: usize) -> Session {
    let program = Compiler::new().compile(&build(f).unwrap()).unwrap();
    Session::new(&Runtime::new(Threads::Exactly(n_threads)), program, Seed(11)).unwrap()
}

/// Large parameters start as a compiled program says: with the bits of the definition.
#[test]
fn starting_values_are_those_of_the_definition_however_many() {
    let inits = [
        Init::uniform(-0.3, 0.7),
        Init::normal(0.5, 2.0),
        Init::GlorotUniform,
        Init::GlorotNormal,
        Init::HeUniform,
        Init::HeNormal,
        Init::LecunUniform,
        Init::LecunNormal,
        Init::truncated_normal(0.1, 0.5),
        Init::constant(0.3),
    ];
    for shape in [[3, 5], [257, 129]] {
        for n_threads in [1, 2] {
            let declare = |g: &GraphBuilder| {
                for (k, init) in inits.iter().enumerate() {
                    let single = g.param(&format!("layer.{k}"), DType::F32, shape, *init);
                    let double = g.state(&format!("wide.{k}"), DType::F64, shape, *init);
                    g.output(&format!("y{k}"), single.cast(DType::F64) + double);
                }
            };
            let session = session(declare, n_threads);
            for (k, init) in inits.iter().enumerate() {
                for (name, dtype) in [(format!("layer.{k}"), DType::F32), (format!("wide.{k}"), DType::F64)] {
                    let expected = init.sample(11, &name, dtype, &Shape::new(&shape));
                    assert!(session.store().get(&name).unwrap().same_bits(&expected), "{init} of {dtype} {shape:?}");
                }
            }
            assert_eq!(session.store().step(), 0);
        }
    }
}

/// A parameter that is there already keeps its value, beside large ones that are computed.
#[test]
fn values_that_are_there_stay() {
    let graph = build(|g| {
        let (a, b) = (
            g.param("a", DType::F32, [300, 300], Init::HeNormal),
            g.param("b", DType::F32, [300, 300], Init::HeNormal),
        );
        g.output("y", (a + b).sum());
    });
    let mut store = Store::new(Seed(3));
    let known = TensorData::zeros(DType::F32, &Shape::new(&[300, 300]));
    store.insert("a", known.clone()).unwrap();
    let program = Compiler::new().compile(&graph.unwrap()).unwrap();
    let session = Session::with_store(&Runtime::new(Threads::Exactly(1)), program, store).unwrap();
    assert!(session.store().get("a").unwrap().same_bits(&known));
    assert!(session.store().get("b").unwrap().same_bits(&Init::HeNormal.sample(
        3,
        "b",
        DType::F32,
        &Shape::new(&[300, 300])
    )));
}

#[test]
fn programs_that_update_nothing_draw_anew_at_each_call() {
    let noise = |g: &GraphBuilder| g.output("noise", g.normal("noise", DType::F32, [64]));
    let draw = |session: &mut Session| session.step(()).unwrap().tensor("noise").unwrap();
    let mut first = session(noise, 1);
    let draws: Vec<TensorData> = (0..4).map(|_| draw(&mut first)).collect();
    for (i, a) in draws.iter().enumerate() {
        assert!(draws[..i].iter().all(|b| !a.same_bits(b)), "draw {i} repeats another");
    }
    assert_eq!((first.store().draws(), first.store().step()), (4, 0));
    // The same seed gives the same draws, and a draw can be had again.
    let mut second = session(noise, 2);
    assert!((0..4).all(|k| draw(&mut second).same_bits(&draws[k])));
    second.store_mut().set_draws(2);
    assert!(draw(&mut second).same_bits(&draws[2]));
    // A checked session computes the same.
    second.set_checked(true);
    assert!(draw(&mut second).same_bits(&draws[3]));
}

/// Training draws by its steps alone: whatever is sampled in between changes nothing.
#[test]
fn sampling_does_not_change_training() {
    let train = |g: &GraphBuilder| {
        let w = g.param("w", DType::F32, [8], Init::ONES);
        g.update(w, w + g.normal("noise", DType::F32, [8]));
    };
    let sample = build(|g| g.output("noise", g.normal("noise", DType::F32, [8]))).unwrap();
    let (mut plain, mut mixed) = (session(train, 1), session(train, 1));
    let id = mixed.load(Compiler::new().compile(&sample).unwrap()).unwrap();
    for _ in 0..3 {
        plain.step(()).unwrap();
        mixed.run(id, ()).unwrap();
        mixed.step(()).unwrap();
    }
    assert!(plain.store().get("w").unwrap().same_bits(&mixed.store().get("w").unwrap()));
    assert_eq!((mixed.store().step(), mixed.store().draws()), (3, 3));
    // A program without random numbers counts nothing.
    let still = build(|g| g.output("y", g.param("w", DType::F32, [8], Init::ONES) * 2.0)).unwrap();
    let id = mixed.load(Compiler::new().compile(&still).unwrap()).unwrap();
    mixed.run(id, ()).unwrap();
    assert_eq!((mixed.store().step(), mixed.store().draws()), (3, 3));
}

#[test]
fn the_last_step_is_an_error_that_changes_nothing() {
    let mut session = session(
        |g| {
            let w = g.param("w", DType::F32, [], Init::ZEROS);
            g.update(w, w + 1.0);
        },
        1,
    );
    session.store_mut().set_step(u32::MAX - 1);
    session.step(()).unwrap();
    assert_eq!(session.step(()).unwrap_err().code, Code::OutOfSteps);
    assert_eq!(session.store().get("w").unwrap().to_f64(), [1.0]);
    assert_eq!(session.store().step(), u32::MAX);
}

#[test]
fn inputs_are_given_once_and_in_many_forms() {
    let mut session = session(
        |g| {
            let (x, k) = (g.input("x", DType::F32, [2]), g.input("k", DType::I64, [2]));
            g.output("y", x + k.cast(DType::F32));
        },
        1,
    );
    let (x, k) = (array![1.0f32, 2.0], array![3i64, 4]);
    let y = |out: cotangent_exec::Outputs<'_>| out.tensor("y").unwrap().to_f64();
    assert_eq!(y(session.step(inputs![x, k]).unwrap()), [4.0, 6.0]);
    assert_eq!(y(session.step(inputs!["k" => &k, x,]).unwrap()), [4.0, 6.0]);
    assert_eq!(y(session.step((("x", &x), ("k", k.view()))).unwrap()), [4.0, 6.0]);
    assert_eq!(y(session.step(vec![("x", (&x).into()), ("k", (&k).into())]).unwrap()), [4.0, 6.0]);
    let error = session.step((("x", &x), ("k", &k), ("x", &x))).unwrap_err();
    assert_eq!(error.code, Code::InputNames);
    assert!(error.message.contains("`x` requires one value, got two"), "{error}");
    assert_eq!(session.step(("x", &x)).unwrap_err().code, Code::InputNames);
    assert_eq!(session.step(()).unwrap_err().code, Code::InputNames);
    assert_eq!(session.step((("x", &k), ("k", &k))).unwrap_err().code, Code::InputType);
}
