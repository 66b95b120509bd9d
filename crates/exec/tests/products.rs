//! Products whose second operand a batch shares are one product, forward and in the gradients.

use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
use cotangent_graph::interp::interpret_named;
use cotangent_graph::{DType, Env, Graph, GraphBuilder, Tensor, TensorData, build};
use cotangent_kernel::Step;
use ndarray::{ArrayD, IxDyn};

fn array(shape: &[usize], salt: usize) -> TensorData {
    let mut k = salt;
    let value = || {
        k = (k * 1_103 + 12_345) % 65_521;
        k as f32 / 32_760.0 - 1.0
    };
    ArrayD::from_shape_simple_fn(IxDyn(shape), value).into()
}

/// A product with its gradients, of operands of these shapes; `apart` writes the repetition of `b` down, so that nothing is shared.
fn graph(a: &[usize], b: &[usize], tb: bool, apart: bool) -> Graph {
    let product = |g: &GraphBuilder| {
        let (x, w) = (g.input("a", DType::F32, a), g.input("b", DType::F32, b));
        let mut whole = w;
        if apart {
            let lead = x.shape()[..a.len() - 2].to_vec();
            let own = w.shape()[..b.len() - 2].to_vec();
            let joint: Vec<usize> = (0..lead.len().max(own.len()))
                .rev()
                .map(|i| {
                    let extent = |s: &[usize]| s.len().checked_sub(i + 1).map_or(1, |at| s[at]);
                    extent(&lead).max(extent(&own))
                })
                .collect();
            whole = w.broadcast_to([&joint[..], &b[b.len() - 2..]].concat());
        }
        let y = x.matmul_with(whole, false, tb);
        g.output("y", y);
        let scale: Tensor<'_> = g.iota(DType::I32, y.shape(), y.rank() - 1).cast(DType::F32) * 0.25;
        for (name, d) in ["da", "db"].into_iter().zip(g.grad((y * scale).sum(), &[x, w])) {
            g.output(name, d);
        }
    };
    build(product).unwrap()
}

#[test]
fn sharing_a_matrix_changes_the_order_of_sums_and_nothing_else() {
    let runtime = Runtime::new(Threads::Exactly(2));
    for (a, b, tb) in [
        (&[3, 4, 5][..], &[5, 6][..], false),
        (&[3, 4, 5], &[6, 5], true),
        (&[2, 3, 4, 5], &[5, 6], false),
        (&[2, 3, 4, 5], &[2, 1, 5, 6], false),
        (&[2, 3, 4, 5], &[1, 1, 5, 6], false),
        (&[3, 4, 5], &[2, 1, 5, 6], false),
        (&[2, 3, 4, 5], &[3, 5, 6], false),
        (&[1, 4, 5], &[5, 6], false),
        (&[3, 1, 5], &[5, 6], false),
        (&[3, 1, 5], &[5, 1], false),
        (&[3, 4, 0], &[0, 6], false),
        (&[0, 4, 5], &[5, 6], false),
    ] {
        let mut env = Env::default();
        env.values.insert("a".into(), array(a, 1));
        env.values.insert("b".into(), array(b, 2));
        let apart = Compiler::new().compile(&graph(a, b, tb, true)).unwrap();
        let expected = interpret_named(apart.optimized(), &env).unwrap();
        for fuse in [true, false] {
            let program = Compiler::new().fuse(fuse).compile(&graph(a, b, tb, false)).unwrap();
            let oracle = interpret_named(program.optimized(), &env).unwrap();
            let mut session = Session::new(&runtime, program.clone(), Seed(0)).unwrap();
            let results = session.step(program.inputs_of(&env)).unwrap();
            for ((name, value), (_, near)) in oracle.iter().zip(&expected) {
                let got = results.tensor(name).unwrap();
                assert!(got.same_bits(value), "{a:?} {b:?} {name}:\n{got}\nexpected\n{value}");
                let close =
                    got.to_f64().iter().zip(near.to_f64()).all(|(x, y)| (x - y).abs() <= 1e-5 * (1.0 + y.abs()));
                assert!(close && got.shape() == near.shape(), "{a:?} {b:?} {name}:\n{got}\nnot near\n{near}");
            }
        }
    }
}

/// The gradient of a matrix that 256 products share held 256 matrices, and summed them.
#[test]
fn the_gradient_of_a_shared_matrix_is_one_product() {
    let graph = graph(&[256, 1, 64], &[64, 32], false, false);
    let program = Compiler::new().compile(&graph).unwrap();
    let products: Vec<_> = program
        .plan()
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Product { factors, .. } => {
                let dims = factors.dims();
                Some((dims.batch, dims.m, dims.k, dims.n))
            }
            _ => None,
        })
        .collect();
    assert_eq!(products.len(), 3, "{products:?}");
    assert!(products.iter().all(|&(batch, ..)| batch == 1), "{products:?}");
    assert!(program.arena_bytes() < 256 * 64 * 32, "{} bytes", program.arena_bytes());
}

/// The plan knows the way of each product before it runs, and `explain` says it with reason and time.
#[test]
fn the_ways_of_products_are_explained() {
    let program = Compiler::new().compile(&graph(&[200, 100], &[100, 300], false, false)).unwrap();
    let text = program.explain();
    let mut n_products = 0;
    for (number, step) in program.plan().steps.iter().enumerate() {
        let way = program.way(number);
        assert_eq!(way.is_some(), matches!(step, Step::Product { .. }));
        let Some(choice) = way else { continue };
        n_products += 1;
        let [way, why] = [choice.way.to_string(), choice.why.unwrap().to_owned()];
        let time = format!("about {:.2} µs on one thread", choice.nanos * 1e-3);
        let told = text.split(&format!("step {number}, product ")).nth(1).unwrap();
        let told: String = told.lines().take(3).collect::<Vec<_>>().join("\n");
        assert!([way, why, time].iter().all(|part| told.contains(part)), "{told}");
    }
    assert_eq!(n_products, 3);
    assert!(program.way(program.plan().steps.len()).is_none());
}

/// Sums of a product's columns over more than 64 blocks of 64 rows, and over rows that carry columns along: the same bits as the
/// interpreter, fused and not, on every number of threads.
#[test]
fn long_columns_are_summed_in_their_order() {
    let graph = build(|g| {
        let (x, w) = (g.input("x", DType::F32, [4200, 3]), g.input("w", DType::F32, [3, 20]));
        let y = x.matmul(w);
        g.output("y", y);
        g.output("sums", y.sum_over([0]).exp());
        g.output("largest", y.max_over([0]));
        let rows = y.sin() / y.square().sum_over([1]).sqrt().repeat_along(&y.shape(), [1]);
        g.output("rows", rows);
        g.output("of_rows", rows.sum_over([0]));
    });
    let graph = graph.unwrap();
    let (x, w) = (array(&[4200, 3], 5), array(&[3, 20], 7));
    let env = Env::default().with("x", x.clone()).with("w", w.clone());
    let expected = interpret_named(&graph, &env).unwrap();
    let mut fused = 0;
    for fusions in [cotangent_exec::Fusions::auto(), cotangent_exec::Fusions::none()] {
        let program = Compiler::new().fuse(fusions).compile(&graph).unwrap();
        fused += usize::from(program.plan_text().contains("(blocks)"));
        for n_threads in [1, 2] {
            let runtime = Runtime::new(Threads::Exactly(n_threads));
            let mut session = Session::new(&runtime, program.clone(), Seed(0)).unwrap();
            let out = session.step(cotangent_exec::inputs!["x" => &x, "w" => &w]).unwrap();
            for (name, value) in &expected {
                assert!(out.tensor(name).unwrap().same_bits(value), "{name}");
            }
        }
    }
    assert_eq!(fused, 1, "the sums are an epilogue where fusion is allowed");
}
