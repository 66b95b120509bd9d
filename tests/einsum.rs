//! `einsum` against loops over all indices, for random formulas and those that people write; its gradients; its errors.

use std::collections::BTreeMap;

use cotangent::graph::interp::interpret_named;
use cotangent::graph::{Env, TensorData};
use cotangent::prelude::*;
use cotangent_testkit::Rng;
use ndarray::{ArrayD, IxDyn};

/// The sum over all indices, by definition; no ellipsis.
fn by_loops(formula: &str, operands: &[ArrayD<f64>]) -> ArrayD<f64> {
    let (inputs, output) = formula.split_once("->").expect("a result");
    let groups: Vec<Vec<char>> = inputs.split(',').map(|group| group.chars().collect()).collect();
    let mut extents: BTreeMap<char, usize> = BTreeMap::new();
    for (group, operand) in groups.iter().zip(operands) {
        extents.extend(group.iter().copied().zip(operand.shape().iter().copied()));
    }
    let letters: Vec<char> = extents.keys().copied().collect();
    let output: Vec<char> = output.chars().collect();
    let mut result = ArrayD::zeros(IxDyn(&output.iter().map(|letter| extents[letter]).collect::<Vec<_>>()));
    for index in ndarray::indices(IxDyn(&extents.values().copied().collect::<Vec<_>>())) {
        let of = |group: &[char]| {
            let place = |letter: &char| index[letters.iter().position(|known| known == letter).expect("a letter")];
            group.iter().map(place).collect::<Vec<_>>()
        };
        let product: f64 = groups.iter().zip(operands).map(|(group, x)| x[IxDyn(&of(group))]).product();
        result[IxDyn(&of(&output))] += product;
    }
    result
}

fn graph_of(formula: &str, operands: &[ArrayD<f64>], with_gradients: bool) -> Result<Graph, Diags> {
    build(|g| {
        let named = |(k, x): (usize, &ArrayD<f64>)| g.input(&format!("x{k}"), F64, x.shape());
        let inputs: Vec<Tensor<'_>> = operands.iter().enumerate().map(named).collect();
        let y = g.einsum(formula, &inputs);
        g.output("y", y);
        if with_gradients {
            for (k, d) in g.grad(y.square().sum(), &inputs).into_iter().enumerate() {
                g.output(&format!("d{k}"), d);
            }
        }
    })
}

fn run(graph: &Graph, operands: &[ArrayD<f64>]) -> BTreeMap<String, TensorData> {
    let env = operands.iter().enumerate().fold(Env::default(), |env, (k, x)| env.with(&format!("x{k}"), x.clone()));
    let program = Compiler::new().compile(graph).unwrap_or_else(|error| panic!("{error}\n{graph}"));
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program.clone(), Seed(0)).unwrap();
    let outputs = session.step(program.inputs_of(&env)).unwrap();
    let expected = interpret_named(program.optimized(), &env).unwrap();
    for (name, value) in &expected {
        assert!(value.same_bits(&outputs.tensor(name).unwrap()), "{name} of {graph}");
    }
    expected.into_iter().collect()
}

fn near(got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-10 * (1.0 + b.abs());
    assert!(got.iter().zip(want).all(close), "{what}: {got:?} {want:?}");
}

fn check(formula: &str, operands: &[ArrayD<f64>]) {
    let found = run(&graph_of(formula, operands, true).unwrap_or_else(|diags| panic!("{diags}")), operands);
    let y = by_loops(formula, operands);
    near(&found["y"].to_f64(), &y.iter().copied().collect::<Vec<_>>(), formula);
    assert_eq!(found["y"].shape()[..], *y.shape(), "{formula}");
    // The sum of squares by its definition, one element of an operand moved to and fro: exact up to rounding for polynomials of
    // degree 4 with two step widths.
    for (k, operand) in operands.iter().enumerate() {
        let slope = |place: usize, step: f64| {
            let loss = |sign: f64| {
                let mut moved = operands.to_vec();
                moved[k].as_slice_mut().expect("in order")[place] += sign * step;
                by_loops(formula, &moved).iter().map(|v| v * v).sum::<f64>()
            };
            (loss(1.0) - loss(-1.0)) / (2.0 * step)
        };
        let found = found[&format!("d{k}")].to_f64();
        for place in [0, operand.len() / 2, operand.len() - 1] {
            let want = (4.0 * slope(place, 0.05) - slope(place, 0.1)) / 3.0;
            assert!(
                (found[place] - want).abs() <= 1e-6 * (1.0 + want.abs()),
                "{formula}: d{k}[{place}] {} {want}",
                found[place]
            );
        }
    }
}

fn random_array(rng: &mut Rng, shape: &[usize]) -> ArrayD<f64> {
    ArrayD::from_shape_fn(IxDyn(shape), |_| rng.float(-1.0..1.0))
}

#[test]
fn formulas_that_people_write() {
    let mut rng = Rng::new(1);
    let extent = |letter: char| 2 + (letter as usize - 'a' as usize) % 3;
    for formula in [
        "ij->ji",
        "ij->",
        "ij->j",
        "ii->",
        "ii->i",
        "iij->j",
        "iji->ji",
        "i,i->",
        "i,j->ij",
        "ij,j->i",
        "ij,jk->ik",
        "ij,kj->ik",
        "bij,bjk->bik",
        "bij,jk->bik",
        "bqhd,bkhd->bhqk",
        "bhqk,bkhd->bqhd",
        "ij,ij->ij",
        "ij,ij->",
        "bi,bi->b",
        "ij,jk,kl->il",
        "i,j,k->ijk",
        "ab,bc,cd,de->ae",
        "ai,bi,ci->abc",
        "nchw,kc->nkhw",
        "ab,cd->",
        "a,a,a->a",
        "aab,abb->ab",
    ] {
        let groups = formula.split_once("->").unwrap().0.split(',');
        let operands: Vec<ArrayD<f64>> =
            groups.map(|group| random_array(&mut rng, &group.chars().map(extent).collect::<Vec<_>>())).collect();
        check(formula, &operands);
    }
}

#[test]
fn random_formulas() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let extents: Vec<usize> = (0..5).map(|_| 1 + rng.below(3)).collect();
        let n = 1 + rng.below(4);
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for _ in 0..n {
            let rank = rng.below(4);
            groups.push((0..rank).map(|_| rng.below(5)).collect());
        }
        let mut used: Vec<usize> = groups.concat();
        used.sort_unstable();
        used.dedup();
        let mut result: Vec<usize> = used.into_iter().filter(|_| rng.chance(0.5)).collect();
        for k in (1..result.len()).rev() {
            result.swap(k, rng.below(k + 1));
        }
        let text = |letters: &[usize]| letters.iter().map(|&l| (b'a' + l as u8) as char).collect::<String>();
        let inputs: Vec<String> = groups.iter().map(|group| text(group)).collect();
        let formula = format!("{}->{}", inputs.join(","), text(&result));
        let operands: Vec<ArrayD<f64>> = groups
            .iter()
            .map(|group| random_array(&mut rng, &group.iter().map(|&l| extents[l]).collect::<Vec<_>>()))
            .collect();
        check(&formula, &operands);
    }
}

#[test]
fn an_ellipsis_stands_for_all_other_axes_and_broadcasts() {
    let mut rng = Rng::new(7);
    let mut value = |formula: &str, shapes: &[&[usize]]| {
        let operands: Vec<ArrayD<f64>> = shapes.iter().map(|shape| random_array(&mut rng, shape)).collect();
        let graph = graph_of(formula, &operands, true).unwrap_or_else(|diags| panic!("{formula}: {diags}"));
        (run(&graph, &operands)["y"].clone(), operands)
    };
    for (formula, shapes, same) in [
        ("...ij,...jk->...ik", [&[3, 2, 4][..], &[3, 4, 2]], "aij,ajk->aik"),
        ("...ij,jk", [&[3, 2, 4], &[4, 2]], "aij,jk->aik"),
        ("i...,i...->...", [&[3, 2], &[3, 2]], "ia,ia->a"),
        ("...,...", [&[2, 3], &[2, 3]], "ab,ab->ab"),
    ] {
        let (got, operands) = value(formula, &shapes);
        near(&got.to_f64(), &by_loops(same, &operands).iter().copied().collect::<Vec<_>>(), formula);
    }
    let (got, operands) = value("...i,...i->...", &[&[4, 1, 3], &[2, 3]]);
    let flat = operands[0].to_shape((4, 3)).unwrap().to_owned().into_dyn();
    near(
        &got.to_f64(),
        &by_loops("ai,bi->ab", &[flat, operands[1].clone()]).iter().copied().collect::<Vec<_>>(),
        "broadcast",
    );
    assert_eq!(got.shape()[..], [4, 2]);
}

#[test]
fn integers_are_summed_exactly_and_the_cheaper_order_is_taken() {
    let graph = build(|g| {
        let (a, b) = (g.input("a", I64, [2, 3]), g.input("b", I64, [3, 2]));
        g.output("y", g.einsum("ij,jk->ik", &[a, b]));
    })
    .unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let mut session = Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(0)).unwrap();
    let (a, b) = (ndarray::arr2(&[[1i64 << 60, 2, 3], [4, 5, 6]]), ndarray::arr2(&[[1i64, 0], [0, 1], [1, 1]]));
    let out = session.step(inputs![a, b]).unwrap();
    assert_eq!(out.view::<i64>("y").unwrap(), ndarray::arr2(&[[(1i64 << 60) + 3, 5], [10, 11]]).into_dyn());
    // [1000, 2] · [2, 1000] · [1000, 1]: from the right it takes 4,000 multiplications instead of 3,000,000.
    let graph = build(|g| {
        let [a, b, c] = [[1000, 2], [2, 1000], [1000, 1]].map(|shape| g.zeros(F32, shape) + 1.0);
        g.output("y", g.einsum("ij,jk,kl->il", &[a, b, c]));
    })
    .unwrap();
    assert!(graph.nodes().iter().all(|node| node.ty.n_bytes() < 4_000_000), "{graph}");
}

#[test]
fn formulas_that_do_not_fit_are_errors() {
    for (formula, shapes, text) in [
        ("ij,jk->ik", &[&[2usize, 3][..], &[4, 2]][..], "one extent for `j`, got 3 and 4"),
        ("ij->ik", &[&[2, 3]], "letters of the operands in the result, got `k`"),
        ("ij->ii", &[&[2, 3]], "distinct letters in the result"),
        ("ij", &[&[2, 3, 4]], "requires 2 axes of operand 0"),
        ("ij,jk", &[&[2, 3]], "requires 2 operands"),
        ("i1->i", &[&[2, 3]], "requires letters"),
        ("i->j->k", &[&[2]], "requires letters"),
        ("...i,...i->i", &[&[2, 3], &[2, 3]], "`...` in the result"),
        ("...i->...i...", &[&[2, 3]], "requires letters"),
        ("...,...", &[&[2, 3], &[4, 3]], "axes under `...` that broadcast"),
        ("", &[], "operands"),
    ] {
        let operands: Vec<ArrayD<f64>> = shapes.iter().map(|shape| ArrayD::zeros(IxDyn(shape))).collect();
        let error = graph_of(formula, &operands, false).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("tests/einsum.rs"), "{formula}: {error}");
    }
}
