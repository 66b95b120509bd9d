//! Elements taken and put along an axis, against loops; their gradients are each other's.

use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::{Code, DType, Env, Init, build};
use ndarray::{ArrayD, Axis, IxDyn};

fn values(shape: &[usize]) -> ArrayD<f64> {
    let mut k = 0.0;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        k += 1.0;
        (k * 0.7_f64).sin()
    })
}

fn indices(shape: &[usize], below: i64) -> ArrayD<i64> {
    let mut k = 3;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        k = (k * 1_103 + 12_345) % 65_521;
        k % below
    })
}

#[test]
fn elements_are_taken_and_put_where_the_indices_say() {
    for (shape, axis, n) in
        [(&[3, 4][..], 1, 2), (&[3, 4], 0, 5), (&[2, 3, 4], 1, 7), (&[5], 0, 9), (&[2, 1, 3], 1, 3), (&[4, 2], 0, 0)]
    {
        let mut picked = shape.to_vec();
        picked[axis] = n;
        let (x, i, dy) = (values(shape), indices(&picked, shape[axis] as i64), values(&picked) * 2.0);
        let graph = build(|g| {
            let x = g.input("x", DType::F64, shape);
            let (i, dy) = (g.input("i", DType::I64, &picked[..]), g.input("dy", DType::F64, &picked[..]));
            let y = x.take_along_axis(i, axis);
            g.output("y", y);
            g.output("dx", g.grad((y * dy).sum(), &[x])[0]);
            let put = dy.scatter_along_axis(i, axis, shape[axis]);
            g.output("put", put);
            g.output("ddy", g.grad((put * x).sum(), &[dy])[0]);
        })
        .unwrap_or_else(|diags| panic!("{diags}"));
        let (mut taken, mut put) = (ArrayD::<f64>::zeros(IxDyn(&picked)), ArrayD::<f64>::zeros(IxDyn(shape)));
        for (place, index) in i.indexed_iter() {
            let mut from = place.clone();
            from[axis] = *index as usize;
            taken[&place] = x[&from];
            put[&from] += dy[&place];
        }
        let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program.clone(), Seed(0)).unwrap();
        let out = session.step((("x", &x), ("i", &i), ("dy", &dy))).unwrap();
        for (name, want) in [("y", &taken), ("dx", &put), ("put", &put), ("ddy", &taken)] {
            let got = out.view::<f64>(name).unwrap();
            assert_eq!(got.shape(), want.shape(), "{name}");
            assert!(
                got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15),
                "{name} of {shape:?} along {axis}: {got}"
            );
        }
        let env = Env::default().with("x", x).with("i", i).with("dy", dy);
        for (name, value) in interpret_named(&graph, &env).unwrap() {
            let got = out.tensor(&name).unwrap().to_f64();
            assert!(value.to_f64().iter().zip(&got).all(|(a, b)| (a - b).abs() < 1e-6), "{name} interpreted");
        }
    }
}

#[test]
fn the_largest_of_each_row_is_taken() {
    let graph = build(|g| {
        let x = g.input("x", DType::F64, [4, 6]);
        g.output("y", x.take_along_axis(x.argmax(-1).reshape([4, 1]), -1).reshape([4]));
        g.output("z", x.max_over(-1));
    })
    .unwrap();
    let mut session =
        Session::new(&Runtime::new(Threads::Exactly(1)), Compiler::new().compile(&graph).unwrap(), Seed(0)).unwrap();
    let x = values(&[4, 6]);
    let out = session.step(("x", &x)).unwrap();
    assert_eq!(out.view::<f64>("y").unwrap(), out.view::<f64>("z").unwrap());
    assert_eq!(out.view::<f64>("y").unwrap()[0], x.index_axis(Axis(0), 0).iter().copied().fold(f64::MIN, f64::max));
}

#[test]
fn an_index_of_another_line_and_shapes_that_differ_are_errors() {
    let program = |picked: [usize; 2]| {
        let graph = build(|g| {
            let x = g.param("x", DType::F32, [3, 4], Init::ONES);
            g.output("y", x.take_along_axis(g.input("i", DType::I64, picked), 1));
        })?;
        Ok::<_, cotangent_graph::Diags>(Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}")))
    };
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program([3, 2]).unwrap(), Seed(0)).unwrap();
    // 4 would be the first element of the second row.
    for wrong in [4i64, -1, i64::MAX, i64::MIN] {
        let mut i = indices(&[3, 2], 4);
        i[[0, 1]] = wrong;
        assert_eq!(session.step(("i", &i)).unwrap_err().code, Code::IndexOutOfRange, "{wrong}");
    }
    assert_eq!(program([2, 2]).unwrap_err().0[0].code, Code::ShapeMismatch);
    let put = |shape: [usize; 2], extent: usize| {
        build(|g| {
            let x = g.input("x", DType::F32, [3, 4]);
            g.output("y", x.scatter_along_axis(g.input("i", DType::I32, shape), 0, extent));
        })
    };
    assert!(put([3, 4], 2).is_ok());
    assert_eq!(put([3, 3], 2).unwrap_err().0[0].code, Code::ShapeMismatch);
}
