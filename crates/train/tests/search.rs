//! Searches over hyper-parameters: better than a grid of equal cost, resumable, and exact about what is wrong.

use std::cell::Cell;
use std::path::PathBuf;

use cotangent_data::synthetic::two_moons;
use cotangent_exec::{Runtime, Seed, Threads};
use cotangent_graph::{GraphBuilder, Tensor};
use cotangent_nn::{Layers, Momentum, Optimizer, Recipe};
use cotangent_train::checkpoint::put;
use cotangent_train::search::{Configuration, Value};
use cotangent_train::{CrossEntropy, Options, Search, Space, TrainError, Trainer};

fn space() -> Space {
    Space::new()
        .log_uniform("rate", 1e-6, 1.0)
        .and_then(|space| space.log_uniform("l2", 1e-8, 1e-2))
        .and_then(|space| space.log_uniform("clip", 1.0, 100.0))
        .and_then(|space| space.log_uniform("decay", 1e-8, 1e-2))
        .and_then(|space| space.log_uniform("l1", 1e-8, 1e-3))
        .unwrap()
}

fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hidden", 16).tanh().dense("out", 2)
}

/// The best validation losses of a grid, of random search and of successive halving, each for 384 epochs in all.
fn losses(seed: u64) -> [f64; 3] {
    let (train, validation) = (two_moons(128, 0.15, seed + 100), two_moons(200, 0.15, seed + 200));
    let options = Options { epochs: 1, batch_size: 32, seed: Seed(seed), progress: false, ..Options::default() };
    let recipe = Recipe::new().l2(1e-4).clip_norm(10.0).decay(1e-4).l1(1e-5);
    let optimizer = Momentum::new(0.1, 0.5).with(recipe);
    let mut trainer = Trainer::new(&Runtime::new(Threads::Exactly(1)), net, CrossEntropy, optimizer, options);
    trainer.fit(&train, Some(&validation)).unwrap();
    let names: Vec<String> = trainer.store().iter().map(|(name, _)| name.to_owned()).collect();
    assert!(
        ["lr", "l2", "l1", "clip_norm", "decay"].iter().all(|n| names.contains(&format!("optimizer.{n}"))),
        "{names:?}"
    );
    let start = trainer.checkpoint().unwrap();
    let mut score = |configuration: &Configuration, epochs: u64| {
        put(&start.tensors, trainer.store_mut())?;
        for (name, key) in [("lr", "rate"), ("l2", "l2"), ("l1", "l1"), ("clip_norm", "clip"), ("decay", "decay")] {
            trainer.store_mut().set(&format!("optimizer.{name}"), configuration.number(key)? as f32)?;
        }
        let mut loss = f64::INFINITY;
        for _ in 0..epochs {
            match trainer.fit(&train, Some(&validation)) {
                Ok(history) => loss = history.last().and_then(|epoch| epoch.validation_loss).unwrap_or(f64::NAN),
                // A run that goes off has no score.
                Err(TrainError::Step(_)) => return Ok(f64::INFINITY),
                Err(error) => return Err(error),
            }
        }
        Ok::<f64, TrainError>(loss)
    };
    [Search::grid(space(), 2, 12), Search::random(space(), 32, 12), Search::halving(space(), 32, 2, 2)].map(|search| {
        let trials = search.seed(seed).run(&mut score).unwrap();
        assert_eq!(trials.cost(), 384);
        trials.best().unwrap().score
    })
}

#[test]
fn random_search_and_successive_halving_beat_a_grid_of_equal_cost() {
    for seed in 0..10 {
        let [grid, random, halving] = losses(seed);
        assert!(random < grid && halving < grid, "seed {seed}: grid {grid}, random {random}, halving {halving}");
    }
}

/// A file of this test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cotangent-search-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn bowl(configuration: &Configuration) -> Result<f64, TrainError> {
    Ok((configuration.number("rate")?.log10() + 2.0).powi(2) + configuration.number("l2")?)
}

#[test]
fn a_search_that_is_interrupted_goes_on_as_if_it_had_not_been() {
    for search in [Search::random(space(), 10, 3), Search::halving(space(), 16, 1, 2), Search::grid(space(), 2, 1)] {
        let whole = search.run(|configuration, _| bowl(configuration)).unwrap();
        for stop in [0, 1, 7, 9] {
            let scratch = Scratch::new("resumed");
            let search = search.clone().file(&scratch.0);
            let calls = Cell::new(0);
            let counted = |configuration: &Configuration, limit: usize| {
                if calls.get() == limit {
                    return Err(TrainError::Invalid { of: "t".into(), required: "r".into(), got: "killed".into() });
                }
                calls.set(calls.get() + 1);
                bowl(configuration)
            };
            assert!(search.run(|configuration, _| counted(configuration, stop)).is_err());
            let resumed = search.run(|configuration, _| counted(configuration, usize::MAX)).unwrap();
            assert_eq!((&resumed, calls.get()), (&whole, whole.0.len()));
            // A third call has nothing to do.
            assert_eq!(search.run(|_, _| panic!("nothing is left")).unwrap(), whole);
        }
    }
}

#[test]
fn files_of_other_searches_and_damaged_ones_are_refused() {
    let scratch = Scratch::new("other");
    let search = Search::random(space(), 3, 1).file(&scratch.0);
    search.run(|configuration, _| bowl(configuration)).unwrap();
    let text = std::fs::read_to_string(&scratch.0).unwrap();
    for other in [
        search.clone().seed(1),
        Search::random(space(), 4, 1).file(&scratch.0),
        Search::grid(space(), 2, 1).file(&scratch.0),
    ] {
        let error = other.run(|_, _| panic!("not begun")).unwrap_err().to_string();
        assert!(error.contains("the file of this search"), "{error}");
    }
    std::fs::write(&scratch.0, text.replacen("\n1 1 ", "\n1 one ", 1)).unwrap();
    let error = search.run(|_, _| panic!("not begun")).unwrap_err().to_string();
    assert!(error.contains("number, budget, score and the configuration of that number in line 5"), "{error}");
    assert_eq!(std::fs::read_to_string(&scratch.0).unwrap(), text.replacen("\n1 1 ", "\n1 one ", 1));
}

/// A file that was cut off anywhere is refused, or has whole lines only.
#[test]
fn a_file_that_was_cut_off_is_never_taken_for_another() {
    let scratch = Scratch::new("cut");
    let search = Search::random(space(), 3, 1).file(&scratch.0);
    let whole = search.run(|configuration, _| bowl(configuration)).unwrap();
    let text = std::fs::read_to_string(&scratch.0).unwrap();
    let start = text.match_indices('\n').nth(2).unwrap().0 + 1;
    for n in start..text.len() {
        std::fs::write(&scratch.0, &text[..n]).unwrap();
        match search.run(|configuration, _| bowl(configuration)) {
            Ok(trials) => assert_eq!(trials, whole, "{n} bytes"),
            Err(error) => assert!(error.to_string().contains("remove the line"), "{error}"),
        }
    }
    for text in [&text.replacen("\n1 1 ", "\n2 1 ", 1), "", "\n\n\n", "cotangent search 2\n"] {
        std::fs::write(&scratch.0, text).unwrap();
        assert!(search.run(|_, _| panic!("not begun")).is_err(), "{text:?}");
    }
}

#[test]
fn plans_of_nothing_or_of_too_much_are_refused() {
    for search in [
        Search::random(space(), 0, 1),
        Search::random(space(), 1, 0),
        Search::random(space(), u64::MAX, 1),
        Search::halving(space(), u64::MAX, 1, 2),
        Search::halving(space(), 3, 0, 2),
        Search::halving(space(), 3, 1, 1),
        Search::halving(space(), 0, 1, 2),
        Search::grid(space(), 0, 1),
        Search::grid(space(), u64::MAX, 1),
    ] {
        assert!(search.run(|_, _| panic!("not begun")).is_err(), "{search:?}");
    }
    let dear = Search::random(space(), 3, u64::MAX).run(|_, _| Ok(0.0)).unwrap();
    assert_eq!(dear.cost(), u64::MAX);
    let failed = Search::random(space(), 3, 1).run(|configuration, _| configuration.number("no such"));
    assert!(failed.unwrap_err().to_string().contains("`no such`"));
}

#[test]
fn scores_that_are_not_finite_are_the_worst() {
    let halving = Search::halving(space(), 9, 1, 3);
    let calls = Cell::new(0);
    let trials = halving.run(|_, budget| {
        calls.set(calls.get() + 1);
        Ok(if budget == 1 && calls.get() % 2 == 0 { f64::NAN } else { f64::from(calls.get()) })
    });
    let trials = trials.unwrap();
    let numbers: Vec<(u64, u64)> = trials.0[9..].iter().map(|trial| (trial.number, trial.budget)).collect();
    assert_eq!(numbers, [(0, 3), (2, 3), (4, 3), (0, 9)]);
    let none = Search::random(space(), 3, 1).run(|_, _| Ok(f64::NAN)).unwrap();
    assert!(none.best().is_none() && none.none().to_string().contains("none of 3"));
}

#[test]
fn spaces_give_what_they_say_and_refuse_what_makes_no_sense() {
    let space = Space::new().integer("n", -2, 2).unwrap().choice("rule", ["a", "b", "c"]).unwrap();
    let space = space.uniform("u", 1.0, 3.0).unwrap().log_uniform("l", 1e-4, 1.0).unwrap();
    let drawn: Vec<Configuration> = (0..2000).map(|number| space.draw(4, number)).collect();
    for n in -2..=2 {
        let count = drawn.iter().filter(|c| c.integer("n").unwrap() == n).count();
        assert!((300..500).contains(&count), "{n}: {count}");
    }
    for rule in ["a", "b", "c"] {
        let count = drawn.iter().filter(|c| c.choice("rule").unwrap() == rule).count();
        assert!((550..800).contains(&count), "{rule}: {count}");
    }
    assert!(drawn.iter().all(|c| (1.0..3.0).contains(&c.number("u").unwrap())));
    let small = drawn.iter().filter(|c| c.number("l").unwrap() < 1e-2).count();
    assert!((900..1100).contains(&small), "{small}");
    assert_eq!(drawn[7], space.draw(4, 7));
    assert!(matches!(drawn[0].values()[0].1, Value::Integer(_)));
    assert!(drawn[0].number("rule").is_err() && drawn[0].integer("u").is_err() && drawn[0].choice("n").is_err());
    assert!(drawn[0].number("none").unwrap_err().to_string().contains("rule="));

    let new = Space::new;
    for (space, part) in [
        (new().uniform("a", 1.0, 1.0), "two finite numbers in order"),
        (new().uniform("a", f64::NAN, 1.0), "two finite numbers in order"),
        (new().log_uniform("a", 0.0, 1.0), "two positive finite numbers"),
        (new().integer("a", 3, 2), "two whole numbers in order"),
        (new().integer("a", i64::MIN, i64::MAX), "two whole numbers in order"),
        (new().choice("a", []), "at least one name"),
        (new().uniform("a b", 0.0, 1.0), "a name of letters"),
        (new().uniform("a", 0.0, 1.0).and_then(|space| space.integer("a", 0, 1)), "`a` again"),
    ] {
        let error = space.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let one = || new().uniform("a", 0.0, 1.0).unwrap();
    let many = (0..11).fold(new(), |space, k| space.uniform(&format!("a{k}"), 0.0, 1.0).unwrap());
    for search in [
        Search::random(new(), 3, 1),
        Search::random(one(), 0, 1),
        Search::random(one(), 1, 0),
        Search::halving(one(), 8, 1, 1),
        Search::grid(many, 4, 1),
    ] {
        assert!(search.run(|_, _| panic!("not begun")).is_err(), "{search:?}");
    }
}
