//! Searches over values of keys: what is wrong is told at the ranges, a search that was killed ends as it would have, and the best
//! configuration trains.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use cotangent_config::{Config, Found, Run};
use cotangent_data::npz::write_npz;
use cotangent_exec::Threads;
use cotangent_train::TrainError;
use ndarray::{Array1, Array2};

const BASE: &str = "# A comment that stays.\nseed = 3\nlayers = [\n  { kind = \"dense\", units = 4, activation = \"tanh\" }, # The \
                    first.\n  { kind = \"dropout\", probability = 0.1 },\n]\n[data]\nkind = \"npz\"\nfile = \"moons.npz\"\n\
                    [preparation]\nvalidation = 0.25\n[optimizer]\nkind = \"adam\"\n[training]\nepochs = 5\nbatch_size = 16\n";

/// A folder of this test with data, and nothing else.
fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("search").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let y: Array1<i64> = (0..80).map(|i| i % 2).collect();
    let x = Array2::from_shape_fn((80, 3), |(i, j)| (y[i] * 2 - 1) as f32 * 0.4 + ((i * 7 + j * 5) % 11) as f32 / 11.0);
    let arrays = [("x".to_owned(), x.into()), ("y".to_owned(), y.into())];
    write_npz(folder.join("moons.npz"), &BTreeMap::from(arrays)).unwrap();
    folder
}

fn write(folder: &Path, search: &str) -> PathBuf {
    let path = folder.join("net.toml");
    std::fs::write(&path, format!("{BASE}{search}")).unwrap();
    path
}

fn search(path: &Path, threads: usize) -> Result<(Found, Vec<String>), TrainError> {
    let mut said = Vec::new();
    let found = Run::load(path)?.search(Threads::Exactly(threads), |line| said.push(line.to_owned()))?;
    Ok((found, said))
}

const RANDOM: &str = "[search]\ntrials = 5\nbudget = 2\nseed = 7\n[search.ranges]\n\"optimizer.rate\" = { log = [1e-4, 1e-1] }\n\
                      \"layers.1.units\" = { integer = [2, 9] }\n\"layers.2.probability\" = { uniform = [0.0, 0.5] }\n\
                      \"layers.1.activation\" = { choice = [\"tanh\", \"relu\"] }\n\"regularization.l2\" = { choice = [0, 1e-3] }\n";

#[test]
fn the_best_of_random_trials_is_a_configuration_that_trains() {
    let folder = fresh("random");
    let path = write(&folder, RANDOM);
    let (found, said) = search(&path, 1).unwrap();
    assert_eq!(found.trials.0.len(), 5);
    assert_eq!(said.iter().filter(|line| line.starts_with("epoch ")).count(), 10, "{said:?}");
    let table = found.to_string();
    assert!(table.contains("optimizer.rate") && table.contains("best: trial"), "{table}");
    assert_eq!(found.best, folder.join("net.best.toml"));
    let text = std::fs::read_to_string(&found.best).unwrap();
    assert!(text.contains("# A comment that stays.") && text.contains("# The first."), "{text}");
    assert!(!text.contains("search]") && text.contains("[regularization]\nl2 = "), "{text}");
    // Its values are those of the best trial, exactly; it trains for as long as the configuration says.
    let best = found.trials.best().unwrap();
    let run = Run::load(&found.best).unwrap();
    let rate = format!("rate: {:?}", best.configuration.number("optimizer.rate").unwrap());
    assert!(format!("{:?}", run.config.optimizer).contains(&rate), "{rate}: {:?}", run.config.optimizer);
    let outcome = run.train(Threads::Exactly(1), |_| ()).unwrap();
    assert_eq!(outcome.history.len(), 5);
    // Trained for as long as the trial it has its score.
    let short = folder.join("short.toml");
    std::fs::write(&short, text.replace("epochs = 5", "epochs = 2")).unwrap();
    let outcome = Run::load(&short).unwrap().train(Threads::Exactly(2), |_| ()).unwrap();
    assert_eq!(outcome.judged.1.loss, best.score);
    // Nothing of the trials is left but their scores, and a second call only looks at these.
    let left: Vec<_> =
        std::fs::read_dir(folder.join("runs/net/search")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["trials.txt"]);
    let (again, said) = search(&path, 2).unwrap();
    assert_eq!((again.to_string(), said.len()), (table, 0));
    // Other settings are another search, unless it begins anew.
    std::fs::write(&path, format!("{BASE}{RANDOM}").replace("batch_size = 16", "batch_size = 20")).unwrap();
    let error = search(&path, 1).unwrap_err().to_string();
    assert!(error.contains("trials.txt") && error.contains("the file of this search"), "{error}");
    Run::load(&path).unwrap().forget_search().unwrap();
    assert!(search(&path, 1).is_ok());
}

#[test]
fn a_search_that_is_killed_anywhere_ends_as_it_would_have() {
    let halving = "[search]\nmethod = \"halving\"\ntrials = 5\nbudget = 1\nkeep = 2\nmeasure = \"error\"\n[search.ranges]\n\
                   \"optimizer.rate\" = { log = [1e-4, 1e-1] }\n\"optimizer.kind\" = { choice = [\"sgd\", \"adam\", \"lamb\"] }\n";
    let whole = write(&fresh("whole"), halving);
    let (expected, said) = search(&whole, 1).unwrap();
    // 5 trials for an epoch, 2 for two, 1 for four.
    assert_eq!(expected.trials.0.iter().map(|t| t.budget).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 2, 2, 4]);
    let best = std::fs::read(&expected.best).unwrap();
    for stop in (0..said.len()).step_by(3) {
        let path = write(&fresh("killed"), halving);
        let run = Run::load(&path).unwrap();
        let mut n = 0;
        // A process that ends in the middle: nothing is cleaned up, nothing more is written.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run.search(Threads::Exactly(1), |_| {
                n += 1;
                assert!(n <= stop, "killed");
            })
        }));
        assert!(killed.is_err());
        let (found, rest) = search(&path, 2).unwrap();
        assert_eq!(found.trials, expected.trials, "killed after {stop}");
        assert_eq!(std::fs::read(&found.best).unwrap(), best);
        // Of the trial that was under way all may be said again, and no other is trained twice.
        assert!(rest.len() <= said.len() + 5 - stop, "{stop} of {}: {rest:?}", said.len());
    }
}

#[test]
fn what_is_wrong_with_a_search_is_told_at_its_line_before_anything_is_trained() {
    let folder = fresh("wrong");
    let line = BASE.lines().count() + 3;
    let ranges = |ranges: &str| format!("[search]\n[search.ranges]\n{ranges}\n");
    for (text, says) in [
        ("", "`search` is missing"),
        ("[search]\ntrials = 3\n", "`ranges` of `search` is missing"),
        (
            "[search]\ntrails = 3\nranges = {}\n",
            "`search` has no key `trails`\n  --> FILE:18:1\n  help: did you mean `trials`?",
        ),
        ("[search]\nranges = {}\n", "requires at least one key, got none"),
        ("[search]\ntrials = 9000000000000000000\nranges = {}\n", "`trials` of `search` requires at most 10000"),
        ("[search]\nmethod = \"halvin\"\nranges = {}\n", "did you mean `halving`?"),
        (
            &ranges("\"optimizer.rat\" = { log = [1e-4, 1e-1] }"),
            "`optimizer` of kind \"adam\" has no key `rat`\n  --> FILE:LINE:1\n  help: did you mean `rate`?",
        ),
        (
            &ranges("\"optimzer.rate\" = { log = [1e-4, 1e-1] }"),
            "a configuration has no key `optimzer`\n  --> FILE:LINE:1\n  help: did you mean `optimizer`?",
        ),
        (&ranges("\"optimizer.rate\" = { uniform = [-2, -1] }"), "requires a number, more than 0, got -1"),
        (&ranges("\"optimizer.rate\" = { uniform = [-2, -1] }"), "--> FILE:LINE:20"),
        (&ranges("\"layers.1.units\" = { uniform = [2, 9] }"), "requires a whole number, got "),
        (
            &ranges("\"layers.3.units\" = { integer = [2, 9] }"),
            "`layers.3.units` requires the number of an item from 1 to 2, got \"3\"\n  --> FILE:LINE:1",
        ),
        (&ranges("\"layers.0.units\" = { integer = [2, 9] }"), "from 1 to 2, got \"0\""),
        (&ranges("\"seed.x\" = { integer = [2, 9] }"), "requires a table or a list in front of `.x`"),
        (&ranges("\"optimizer\" = { integer = [2, 9] }"), "`optimizer` requires a table, got "),
        (
            &ranges("\"layers.1.activation\" = { choice = [\"tanh\", \"rleu\"] }"),
            "got \"rleu\"\n  --> FILE:LINE:45\n  help: did you mean `relu`?",
        ),
        (&ranges("\"training.epochs\" = { integer = [2, 9] }"), "`training.epochs` is none to search over"),
        (&ranges("\"output.folder\" = { choice = [\"a\"] }"), "`output.folder` is none to search over"),
        (
            &ranges("\"optimizer.rate\" = { lg = [1, 2] }"),
            "has no key `lg`\n  --> FILE:LINE:22\n  help: did you mean `log`?",
        ),
        (
            &ranges("\"optimizer.rate\" = { log = [1, 2], uniform = [1, 2] }"),
            "requires one of `uniform`, `log`, `integer` and `choice`",
        ),
        (&ranges("\"optimizer.rate\" = {}"), "requires one of `uniform`, `log`, `integer` and `choice`"),
        (&ranges("\"optimizer.rate\" = { log = [0, 2] }"), "requires two numbers in order, more than 0"),
        (&ranges("\"optimizer.rate\" = { uniform = [2, 1] }"), "requires two numbers in order"),
        (&ranges("\"optimizer.rate\" = { uniform = [2] }"), "requires a list of two, each a number, got a list"),
        (&ranges("\"optimizer.rate\" = { uniform = [nan, 1] }"), "requires a number, got nan"),
        (&ranges("\"optimizer.rate\" = { choice = [] }"), "requires at least one value"),
        (&ranges("\"optimizer.rate\" = { choice = [[1]] }"), "requires a text, a number, true or false, got a list"),
        (&ranges("\"optimizer.rate\" = 3"), "requires a table, got 3"),
        (&ranges("\"\" = { choice = [1] }"), "FILE:LINE:1"),
        (&ranges("\"a b\" = { choice = [1] }"), "FILE:LINE:1"),
        (&ranges("\"preparation.validation\" = { choice = [0.0] }"), "`search` requires a validation set"),
        (&ranges("\"layers.2.kind\" = { choice = [\"flatten\"] }"), "has no key `probability`"),
    ] {
        let path = write(&folder, text);
        let error = search(&path, 1).unwrap_err().to_string();
        let says = says.replace("FILE", &path.display().to_string()).replace("LINE", &line.to_string());
        assert!(error.contains(&says) && error.contains("E0401"), "{text}\n{says}\n{error}");
        assert!(!folder.join("runs").exists() && !folder.join("net.best.toml").exists());
    }
    // Layers that only some trials cannot have are an error before the first is trained, too.
    let path = write(
        &folder,
        &ranges("\"layers.2.kind\" = { choice = [\"max_pool\"] }\n\"layers.2.size\" = { integer = [50, 60] }"),
    );
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace(", probability = 0.1", "")).unwrap();
    assert!(search(&path, 1).is_err());
    assert!(!folder.join("runs").exists());
    // A place is told of once, however many trials it is wrong in.
    let path = write(&folder, &ranges("\"optimizer.rate\" = { uniform = [-2, -1] }"));
    assert_eq!(search(&path, 1).unwrap_err().to_string().matches("E0401").count(), 1);
    // The other commands pass the table over.
    assert!(Config::parse(&std::fs::read_to_string(&path).unwrap(), "c.toml", Path::new("")).is_ok());
}

#[test]
fn trials_that_run_away_are_the_worst_and_not_the_end() {
    let folder = fresh("away");
    let search_table = "[search]\ntrials = 4\n[search.ranges]\n\"optimizer.rate\" = { choice = [0.1, 1e38] }\n";
    let path = write(&folder, search_table);
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("\"adam\"", "\"sgd\"")).unwrap();
    let (found, _) = search(&path, 1).unwrap();
    let is_away = |trial: &&cotangent_train::search::Trial| !trial.score.is_finite();
    let n_away = found.trials.0.iter().filter(is_away).count();
    assert!((1..4).contains(&n_away), "{found}");
    assert!(found.trials.best().unwrap().score.is_finite());
    // None that is finite: an error, and no file.
    std::fs::remove_file(&found.best).unwrap();
    let text = std::fs::read_to_string(&path).unwrap().replace("[0.1, 1e38]", "[1e38]");
    std::fs::write(&path, text).unwrap();
    Run::load(&path).unwrap().forget_search().unwrap();
    let mut message = String::new();
    let _ = write!(message, "{}", search(&path, 1).unwrap_err());
    assert!(message.contains("a trial with a finite score") && !found.best.exists(), "{message}");
}
