//! Tensors without elements: nothing is read or written beyond them, and reductions over nothing are the identity.

use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
use cotangent_graph::{DType, Init, build};
use ndarray::{Array, Array2, Ix1, Ix2, Ix3};

#[test]
fn programs_over_empty_tensors_run() {
    for fuse in [true, false] {
        let graph = build(|g| {
            let x = g.input("x", DType::F32, [0, 2]);
            let y = g.input("y", DType::F32, [5, 0]);
            let z = g.input("z", DType::F32, [3, 0, 4]);
            let w = g.param("w", DType::F32, [2, 3], Init::ONES);
            let b = g.param("b", DType::F32, [5], Init::ONES);
            let empty = g.param("empty", DType::F32, [0, 2], Init::ONES);
            g.output("relu", (empty.relu() + x).select_positive());
            g.output("product", x.matmul(w).relu());
            g.output("rows", (y.flip([1]) * b.repeat_along(&y.shape(), [1])).sum_over([1]) + b);
            g.output("columns", y.transpose([1, 0]).exp().max_over([0]));
            g.output("middle", z.tanh().sum_over([1]) + 1.0);
            g.output("all", z.prod_over([0, 1, 2]));
            g.output("chain", y.matmul(x) + 2.0);
            g.update(empty, empty * 2.0);
        })
        .unwrap();
        let program = Compiler::new().fuse(fuse).compile(&graph).unwrap_or_else(|e| panic!("{e}"));
        let mut session = Session::new(&Runtime::new(Threads::Exactly(2)), program, Seed(0)).unwrap();
        let (x, y) = (Array2::<f32>::zeros((0, 2)), Array2::<f32>::zeros((5, 0)));
        let z = Array::<f32, Ix3>::zeros((3, 0, 4));
        let out = session.step([("x", (&x).into()), ("y", (&y).into()), ("z", (&z).into())]).unwrap();
        assert_eq!(out.view::<f32>("relu").unwrap().shape(), [0, 2]);
        assert_eq!(out.view::<f32>("product").unwrap().shape(), [0, 3]);
        assert_eq!(out.view::<f32>("rows").unwrap().as_slice().unwrap(), [1.0; 5]);
        assert_eq!(out.view::<f32>("columns").unwrap().as_slice().unwrap(), [f32::NEG_INFINITY; 5]);
        assert_eq!(out.view::<f32>("middle").unwrap().as_slice().unwrap(), [1.0; 12]);
        assert_eq!(out.scalar("all").unwrap(), 1.0);
        let chain = out.view::<f32>("chain").unwrap().into_dimensionality::<Ix2>().unwrap();
        assert_eq!(chain, Array2::from_elem((5, 2), 2.0f32));
    }
}

/// What follows a reduction of rows loads nothing if there are no rows, from an empty tensor or from beyond the end of one.
#[test]
fn without_rows_nothing_is_loaded_for_them() {
    for fuse in [true, false] {
        let graph = build(|g| {
            let x = g.input("x", DType::F32, [4, 0]);
            let y = g.input("y", DType::F32, [5]);
            let none = g.input("none", DType::F32, [0, 3]);
            let other = x.slice(&[2, 0], &[3, 0]).reshape([0]);
            g.output("empty", none.exp().sum_over(1) + other * other);
            g.output("beyond", none.sin().sum_over(1) + y.slice(&[5], &[5]));
            g.output("columns", none.t().cos().sum_over(0) + y.slice(&[5], &[5]) * other);
        })
        .unwrap();
        let program = Compiler::new().fuse(fuse).compile(&graph).unwrap_or_else(|e| panic!("{e}"));
        let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
        let (x, none, y) = (Array2::<f32>::zeros((4, 0)), Array2::<f32>::zeros((0, 3)), Array::<f32, Ix1>::zeros(5));
        let out = session.step([("x", (&x).into()), ("none", (&none).into()), ("y", (&y).into())]).unwrap();
        assert!(["empty", "beyond", "columns"].iter().all(|name| out.view::<f32>(name).unwrap().is_empty()));
    }
}

trait SelectPositive {
    fn select_positive(self) -> Self;
}

impl SelectPositive for cotangent_graph::Tensor<'_> {
    /// The elements where they are positive, zero elsewhere.
    fn select_positive(self) -> Self {
        let zero = self.constant_like(0.0);
        self.gt(zero).select(self, zero)
    }
}
