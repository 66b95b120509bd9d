//! Schedules: the program's factor against the host's, and both against PyTorch's schedulers.

use cotangent_graph::DType::F64;
use cotangent_graph::interp::{Env, interpret_named};
use cotangent_graph::{Init, TensorData};
use cotangent_nn::{Minimize, Optimizer, Recipe, Schedule, Sgd};

use crate::optim::step;
use crate::{errors, graph, value};

fn all() -> Vec<Schedule> {
    vec![
        Schedule::constant(),
        Schedule::constant().warm_up(5),
        Schedule::step(3, 0.5),
        Schedule::milestones(&[2, 5, 5, 30], 0.1),
        Schedule::exponential(0.9),
        Schedule::linear(20).floor(0.2).warm_up(4),
        Schedule::cosine(25).floor(0.1),
        Schedule::cosine(25).warm_up(7),
        Schedule::warm_restarts(4, 1),
        Schedule::warm_restarts(3, 2).floor(0.05),
        Schedule::warm_restarts(7, 3).warm_up(2),
        Schedule::one_cycle(30),
        Schedule::one_cycle(40).peak_at(0.1),
    ]
}

#[test]
fn the_program_follows_the_schedule() {
    // With a gradient of 1 and a rate of 1 the parameter falls by the factor.
    for schedule in all() {
        let graph = graph(|g| {
            let w = g.param("w", F64, [], Init::ZEROS);
            g.apply_gradients(&[(w, g.scalar(1.0, F64))], Sgd::new(1.0).with(Recipe::new().schedule(schedule.clone())));
        });
        let mut env = Env::default();
        env.initialize(&graph, 0).unwrap();
        for t in 0..50u64 {
            let before = env.values["w"].to_f64()[0];
            step(&graph, &mut env);
            let factor = before - env.values["w"].to_f64()[0];
            let expected = schedule.factor(t);
            assert!((factor - expected).abs() < 1e-12, "{schedule:?} at {t}: {factor}, not {expected}");
            assert!((0.0..=1.0).contains(&expected));
        }
    }
}

#[test]
fn warm_restarts_restart_exactly_however_many_there_are() {
    let schedule = Schedule::warm_restarts(10, 2);
    let graph = graph(|g| {
        let w = g.param("w", F64, [], Init::ZEROS);
        g.output("w", w);
        g.apply_gradients(&[(w, g.scalar(1.0, F64))], Sgd::new(1.0).with(Recipe::new().schedule(schedule.clone())));
    });
    let mut env = Env::default();
    env.initialize(&graph, 0).unwrap();
    // Cycles of 10, 20, 40, … steps start at 10 · (2ⁿ − 1).
    for n in 0..20u32 {
        let start = 10 * ((1i64 << n) - 1);
        for (at, factor) in [(start, 1.0), (start - 1, f64::NAN)] {
            if at < 0 {
                continue;
            }
            env.values.insert("optimizer.t".into(), TensorData::from(at));
            env.values.insert("w".into(), TensorData::from(0.0));
            let outputs = interpret_named(&graph, &env).expect("runs");
            let got = -value(&outputs, "update w").to_f64()[0];
            if factor == 1.0 {
                assert_eq!(got, 1.0, "cycle {n}");
            } else {
                assert!(
                    got < 0.03 && schedule.ends_cycle(at as u64) && !schedule.ends_cycle(at as u64 + 1),
                    "{n}: {got}"
                );
            }
        }
    }
}

/// As PyTorch 2's schedulers print them.
#[test]
fn factors_are_those_of_pytorch() {
    let check = |schedule: Schedule, expected: &[f64]| {
        for (t, expected) in expected.iter().enumerate() {
            let got = schedule.factor(t as u64);
            assert!((got - expected).abs() < 1e-9, "{schedule:?} at {t}: {got}, not {expected}");
        }
    };
    check(Schedule::step(3, 0.5), &[1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]);
    check(Schedule::milestones(&[2, 5], 0.1), &[1.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01]);
    let cosine = [1.0, 0.9657457896, 0.8681980515, 0.7222075446, 0.55, 0.3777924554, 0.2318019485, 0.1342542104, 0.1];
    check(Schedule::cosine(8).floor(0.1), &cosine);
    let restarts = [1.0, 0.75, 0.25, 1.0, 0.9330127019, 0.75, 0.5, 0.25, 0.0669872981, 1.0, 0.9829629131, 0.9330127019];
    check(Schedule::warm_restarts(3, 2), &restarts);
    let one_cycle =
        [0.04, 0.52, 1.0, 0.950484632, 0.8117456539, 0.6112620219, 0.3887419781, 0.1882583461, 0.049519368, 4e-6];
    check(Schedule::one_cycle(10), &one_cycle);
}

#[test]
fn a_rate_in_the_store_scales_the_schedule() {
    let graph = graph(|g| {
        let w = g.param("w", F64, [], Init::ZEROS);
        let recipe = Recipe::new().schedule(Schedule::exponential(0.5));
        assert_eq!(recipe.rate_factor(2), 0.25);
        g.apply_gradients(&[(w, g.scalar(1.0, F64))], Sgd::new(1.0).with(recipe));
    });
    let mut env = Env::default();
    env.initialize(&graph, 0).unwrap();
    step(&graph, &mut env);
    env.values.insert("optimizer.lr".into(), TensorData::from(10.0));
    step(&graph, &mut env);
    assert_eq!(env.values["w"].to_f64(), [-1.0 - 10.0 * 0.5]);
}

#[test]
fn schedules_that_make_no_sense_are_errors() {
    for (schedule, text) in [
        (Schedule::step(0, 0.5), "steps of at least 1"),
        (Schedule::exponential(1.5), "gamma in (0, 1], got 1.5"),
        (Schedule::cosine(0), "length of at least 1"),
        (Schedule::cosine(9).floor(-0.1), "floor in [0, 1], got -0.1"),
        (Schedule::warm_restarts(0, 2), "period of at least 1"),
        (Schedule::warm_restarts(2, 0), "stretch of at least 1"),
        (Schedule::one_cycle(2), "peak comes after its first step"),
        (Schedule::one_cycle(20).peak_at(1.0), "peak comes after its first step"),
    ] {
        let diags = errors(|g| {
            let w = g.param("w", F64, [], Init::ONES);
            g.minimize(w, Sgd::new(1.0).with(Recipe::new().schedule(schedule)));
        });
        assert!(diags.0.len() == 1 && diags.0[0].message.contains(text), "{diags}");
    }
}
