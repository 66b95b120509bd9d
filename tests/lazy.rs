//! Lazy updates of tables: against an optimiser in plain Rust that knows rows alone, against the dense update where both are the
//! same, and by what a step moves.

use std::collections::BTreeMap;

use cotangent::kernel::Step;
use cotangent::nn::{
    AdaDelta, AdaGrad, AdamW, Group, Lamb, Lion, Momentum, NAdam, Nesterov, Optimizer, Recipe, RmsProp, Sgd,
};
use cotangent::prelude::*;
use ndarray::{Array1, Array2};

const ROWS: usize = 9;
const COLS: usize = 2;

/// Half the squared distance of picked rows from targets: the gradient of a pick is the difference.
fn distance<'g>(g: &'g GraphBuilder, twice: bool) -> Tensor<'g> {
    let indices = g.input("words", I64, [2, 3]);
    let table = g.param("table", F64, [ROWS, COLS], Init::normal(0.0, 1.0));
    let mut loss = (table.gather(indices) - g.input("targets", F64, [2, 3, COLS])).square().sum() * 0.5;
    if twice {
        // A second pick of the same table, by indices of another type and shape.
        loss += (table.gather(g.input("more", I32, [4])) - 0.5).square().sum() * 0.5;
    }
    loss
}

fn session(build_it: impl FnOnce(&GraphBuilder)) -> Session {
    let graph = build(build_it).unwrap_or_else(|diags| panic!("{diags}"));
    let program = Compiler::new().compile(&graph).unwrap_or_else(|error| panic!("{error}"));
    Session::new(&Runtime::new(Threads::Exactly(2)), program, Seed(3)).unwrap()
}

fn lazy(recipe: Recipe) -> Recipe {
    recipe.group(Group::named("table").lazy())
}

/// The indices of a step: some twice, others never.
fn words(step: usize) -> Vec<i64> {
    (0..6).map(|k| ((k * k + 3 * step) % 7) as i64).collect()
}

fn targets(step: usize) -> Vec<f64> {
    (0..6 * COLS).map(|k| ((k * 5 + step) as f64 * 0.7).sin()).collect()
}

fn inputs(step: usize) -> (ndarray::Array2<i64>, ndarray::Array3<f64>) {
    let words = Array2::from_shape_vec((2, 3), words(step)).unwrap();
    (words, ndarray::Array3::from_shape_vec((2, 3, COLS), targets(step)).unwrap())
}

fn stored(session: &Session, name: &str) -> Vec<f64> {
    session.store().get(name).unwrap_or_else(|diag| panic!("{diag}")).to_f64()
}

/// Adam on a table, row by row, as a program by hand would do it.
#[test]
fn lazy_adam_is_adam_on_the_rows_picked() {
    let (beta1, beta2, eps, rate) = (0.9, 0.999, 1e-8, 0.1);
    let mut session = session(|g| g.minimize(distance(g, true), Adam::new(rate).with(lazy(Recipe::new().l2(0.05)))));
    let mut w = stored(&session, "table");
    let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
    for step in 0..6 {
        let more = Array1::from(vec![1i32, 8, 1, (step % 3) as i32]);
        let (words_now, targets_now) = inputs(step);
        session.step((("words", &words_now), ("targets", &targets_now), ("more", &more))).unwrap();

        let mut sums: BTreeMap<usize, [f64; COLS]> = BTreeMap::new();
        let targets = targets(step);
        let picks = words(step).into_iter().enumerate().map(|(k, word)| (word as usize, Some(k)));
        for (row, k) in picks.chain(more.iter().map(|&row| (row as usize, None))) {
            for j in 0..COLS {
                sums.entry(row).or_default()[j] += w[row * COLS + j] - k.map_or(0.5, |k| targets[k * COLS + j]);
            }
        }
        assert!(sums.len() < ROWS, "some rows are not picked");
        let t = step as i32 + 1;
        for (row, grad) in sums {
            for (j, grad) in grad.into_iter().enumerate() {
                let at = row * COLS + j;
                let grad = grad + 2.0 * 0.05 * w[at];
                m[at] = beta1 * m[at] + (1.0 - beta1) * grad;
                v[at] = beta2 * v[at] + (1.0 - beta2) * grad * grad;
                let (mean, square) = (m[at] / (1.0 - beta1.powi(t)), v[at] / (1.0 - beta2.powi(t)));
                w[at] -= rate * mean / (square.sqrt() + eps);
            }
        }
        for (name, want) in [("table", &w), ("adam.m.table", &m), ("adam.v.table", &v)] {
            for (k, (got, want)) in stored(&session, name).iter().zip(want).enumerate() {
                assert!((got - want).abs() < 1e-6, "{name}[{k}] in step {step}: {got}, not {want}");
            }
        }
    }
}

/// What one step makes of the store, and its change.
fn one_step(optimizer: &dyn Optimizer) -> (Vec<f64>, Vec<f64>) {
    let mut session = session(|g| g.minimize(distance(g, false), optimizer));
    let before = stored(&session, "table");
    let (words, targets) = inputs(1);
    session.step((("words", &words), ("targets", &targets))).unwrap();
    (before, stored(&session, "table"))
}

/// In the first step no slot has a past: the rows picked have the very bits of the dense update, and the others stay.
#[test]
fn the_first_step_is_that_of_the_dense_update_on_the_rows_picked() {
    let settings: [(&str, Recipe); 5] = [
        ("plain", Recipe::new()),
        ("penalties", Recipe::new().l1(0.1).l2(0.2)),
        ("clipped", Recipe::new().clip_value(0.4)),
        ("finite", Recipe::new().check_gradients()),
        ("decay", Recipe::new().decay(0.1).plain_decay(0.01)),
    ];
    macro_rules! each {
        ($($optimizer:expr),*) => {
            $(for (name, recipe) in &settings {
                let (before, dense) = one_step(&$optimizer.with(recipe.clone()));
                let (_, rows) = one_step(&$optimizer.with(lazy(recipe.clone())));
                let picked = words(1);
                for at in 0..ROWS * COLS {
                    let want = if picked.contains(&((at / COLS) as i64)) { dense[at] } else { before[at] };
                    assert_eq!(rows[at].to_bits(), want.to_bits(), "{} {name} [{at}]", stringify!($optimizer));
                }
                assert_ne!(rows, before);
            })*
        };
    }
    each!(
        Sgd::new(0.1),
        Momentum::new(0.1, 0.9),
        Nesterov::new(0.1, 0.9),
        AdaGrad::new(0.1),
        RmsProp::new(0.1),
        AdaDelta::new(0.1),
        Adam::new(0.1),
        Adam::new(0.1).amsgrad(),
        AdamW::new(0.1, 0.01),
        NAdam::new(0.1),
        Lion::new(0.1, 0.01)
    );
}

/// The norm that clips counts a row that is picked twice once.
#[test]
fn the_global_norm_is_that_of_the_dense_gradient() {
    let clipped = Recipe::new().clip_norm(0.7);
    let (_, dense) = one_step(&Sgd::new(0.1).with(clipped.clone()));
    let (_, rows) = one_step(&Sgd::new(0.1).with(lazy(clipped)));
    assert!(dense.iter().zip(&rows).all(|(a, b)| (a - b).abs() < 1e-12), "{dense:?} {rows:?}");
}

/// Nothing of the table's size is made, copied or read.
#[test]
fn a_step_moves_the_rows_picked_alone() {
    let graph = build(|g| {
        let words = g.input("words", I64, [32, 4]).embedding("words", 100_000, 8);
        let loss = words.mean_over(1).dense("out", 3).cross_entropy(g.input("y", I64, [32])).mean();
        g.output("loss", loss);
        g.minimize(loss, Adam::new(1e-3).with(Recipe::new().group(Group::named("words").lazy())));
    });
    let program = Compiler::new().compile(&graph.unwrap()).unwrap();
    let plan = program.plan();
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::Copy { .. })), "{plan}");
    assert!(plan.bytes_moved() < 400_000, "{}\n{plan}", plan.bytes_moved());
    assert!(plan.arena_bytes < 200_000, "{}\n{plan}", plan.arena_bytes);
    let n_updated = plan.in_place().iter().filter(|(_, from, to)| from == to).count();
    assert!(n_updated >= 3, "the table and its two slots\n{plan}");
}

#[test]
fn what_needs_all_rows_is_refused() {
    fn said(f: impl FnOnce(&GraphBuilder)) -> String {
        build(f).expect_err("it is a mistake").to_string()
    }
    let refused = |optimizer: &dyn Optimizer, what: &str| {
        let text = said(|g| g.minimize(distance(g, false), optimizer));
        assert!(text.contains("lazy updates") && text.contains(what), "{text}");
    };
    refused(&Lamb::new(0.1, 0.0).with(lazy(Recipe::new())), "`lamb` needs all of a parameter");
    refused(&Sgd::new(0.1).with(lazy(Recipe::new().max_norm(1.0))), "`max_norm`");
    refused(&Sgd::new(0.1).with(lazy(Recipe::new().average(0.9))), "`average`");
    refused(&Sgd::new(0.1).with(lazy(Recipe::new().masked())), "`masked`");
    refused(&Sgd::new(0.1).with(lazy(Recipe::new().accumulate(2))), "`accumulate`");
    let text = said(|g| {
        let loss = distance(g, false);
        let tied = g.shared("table").square().mean();
        g.minimize(loss + tied, Sgd::new(0.1).with(lazy(Recipe::new())));
    });
    assert!(text.contains("`table` is read by `gather` alone"), "{text}");
    let text = said(|g| {
        let loss = distance(g, false);
        let table = g.shared("table");
        g.apply_gradients(&[(table, g.grad(loss, &[table])[0])], Sgd::new(0.1).with(lazy(Recipe::new())));
    });
    assert!(text.contains("`apply_gradients` has gradients of all rows"), "{text}");
}
