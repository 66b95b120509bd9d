//! Configurations: what is wrong is told with its line and the nearest right spelling; what is right trains, goes on after an
//! interruption with the same bits, and leaves a model that predicts as the trainer did.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use cotangent_config::examples::Sets;
use cotangent_config::predict::rows;
use cotangent_config::{Config, Run};
use cotangent_data::npz::write_npz;
use cotangent_exec::{Runtime, Threads};
use cotangent_graph::TensorData;
use cotangent_train::Model;
use ndarray::{Array1, Array2, Array3};

/// A folder of this test that is empty.
fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn errors(text: &str) -> String {
    Config::parse(text, "c.toml", Path::new("")).unwrap_err().to_string()
}

const DATA: &str = "[data]\nkind = \"mnist\"\n[optimizer]\nkind = \"adam\"\n";

#[test]
fn every_mistake_has_its_line_and_advice() {
    let layers = |layers: &str| format!("layers = [\n{layers}\n]\n{DATA}");
    for (text, says) in [
        (
            layers("{ kind = \"dense\", unit = 3 }"),
            "`layers`, number 1 of kind \"dense\" has no key `unit`\n  --> c.toml:2:19\n  help: did you mean `units`?",
        ),
        (
            layers("{ knd = \"dense\", units = 3 }"),
            "`layers`, number 1 has no key `knd`\n  --> c.toml:2:3\n  help: did you mean `kind`?",
        ),
        (
            layers("{ kind = \"dense\" }"),
            "`units` of `layers`, number 1 of kind \"dense\" is missing: it requires a whole number, at least 1\n  --> c.toml:2:1",
        ),
        (layers("{ kind = \"dnese\", units = 3 }"), "c.toml:2:10\n  help: did you mean `dense`?"),
        (layers("{ units = 3 }"), "`kind` of `layers`, number 1 is missing"),
        (layers("{ kind = \"dense\", units = 0 }"), "requires a whole number, at least 1, got 0"),
        (layers("{ kind = \"dense\", units = -3 }"), "requires a whole number, got -3"),
        (layers("{ kind = \"dense\", units = 3.5 }"), "requires a whole number, got 3.5"),
        (layers("{ kind = \"dense\", units = \"3\" }"), "requires a whole number, got \"3\""),
        (layers("{ kind = \"dense\", units = 99999999999999999999 }"), "requires a whole number"),
        (layers("{ kind = \"dense\", units = 3, activation = \"rleu\" }"), "help: did you mean `relu`?"),
        (layers("{ kind = \"dropout\", probability = 1.0 }"), "requires a number from 0 on, below 1, got 1"),
        (layers("{ kind = \"dropout\", probability = nan }"), "requires a number, got nan"),
        (layers("3"), "`layers`, number 1 requires a table, got 3"),
        ("layers = 3\n".to_owned() + DATA, "`layers` requires a list of tables, got 3\n  --> c.toml:1:10"),
        (
            layers("") + "[trainng]\nepochs = 3\n",
            "a configuration has no key `trainng`\n  --> c.toml:8:2\n  help: did you mean `training`?",
        ),
        (layers("") + "[training]\nepoch = 3\n", "help: did you mean `epochs`?"),
        ("seed = 1\nseed = 2\n".to_owned(), "this is not TOML"),
        ("a = [".to_owned(), "this is not TOML"),
        (String::new(), "`data` is missing"),
        (format!("a = {}1{}", "[".repeat(5000), "]".repeat(5000)), "this is not TOML"),
    ] {
        let errors = errors(&text);
        assert!(errors.contains(says), "{text}\n{says}\n{errors}");
    }
    // One mistake is told once: a key that is meant by another name is not missing, too.
    for text in [
        layers("{ kind = \"dense\", unit = 3 }"),
        layers("{ knd = \"dense\", units = 3 }"),
        layers("").replace("[data]", "[dta]"),
        layers("").replace("layers", "layer"),
    ] {
        let errors = errors(&text);
        assert!(errors.matches("E0401").count() == 1 && errors.contains("did you mean"), "{text}\n{errors}");
    }
    // Of two names one is meant, and what is not meant by any is missing.
    let two = errors(&layers("{ kind = \"conv\", filter = 3, filterz = 4 }, { kind = \"dense\", uuu = 3 }"));
    assert!(
        two.contains("no key `filter`") && two.contains("no key `filterz`") && !two.contains("`filters` of"),
        "{two}"
    );
    assert!(two.contains("`units` of `layers`, number 2 of kind \"dense\" is missing"), "{two}");
    // All at once.
    let all = errors(
        "layers = [{ kind = \"dense\", unit = 3 }]\n[data]\nkind = \"mnst\"\n[optimizer]\nkind = \"adam\"\nrate = -1\n",
    );
    for says in [
        "`unit`",
        "did you mean `mnist`?",
        "`rate` of `optimizer` of kind \"adam\" requires a number, more than 0, got -1",
    ] {
        assert!(all.contains(says), "{says}\n{all}");
    }
}

#[test]
fn no_text_panics_and_all_that_is_refused_has_its_place() {
    let base = "seed = 1\nlayers = [\n  { kind = \"conv\", filters = 3 },\n  { kind = \"dense\", units = 4, activation = \"relu\" },\n]\n\
                [data]\nkind = \"csv\"\nfile = \"a.csv\"\nlabel = \"b\"\ncolumns = [\"c\"]\n[[augmentation]]\nkind = \"shift\"\nby = 1\n\
                [optimizer]\nkind = \"adam\"\nrate = 1e-3\n[schedule]\nkind = \"cosine\"\n[training]\nepochs = 3\n[search]\n\
                trials = 3\n[search.ranges]\n\"optimizer.rate\" = { log = [1e-4, 1] }\n";
    let tokens = [
        "[",
        "]",
        "{",
        "}",
        "=",
        "\"",
        "'",
        ",",
        "\n",
        ".",
        "[[",
        "\u{1b}[2J",
        "\u{202e}",
        "é",
        "\0",
        "1e999",
        "-1",
        "nan",
        "inf",
        "0x1f",
        "18446744073709551616",
        "1979-05-27",
        "kind = \"dense\"",
        "layers",
        "\"\"\"",
        "''",
        "true",
        "search",
        "#",
        "\\u0000",
        "{ kind = [] }",
        "[data]\n",
        "[[layers]]\n",
    ];
    // Marsaglia's xorshift.
    let mut state = 88_172_645_463_325_252_u64;
    let mut below = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let mut n_read = 0;
    for _ in 0..20_000 {
        let mut text: Vec<char> = base.chars().collect();
        for _ in 0..1 + below(4) {
            let (at, to) = (below(text.len()), below(12));
            let end = (at + to).min(text.len());
            match below(4) {
                0 => drop(text.drain(at..end)),
                1 => drop(text.splice(at..at, tokens[below(tokens.len())].chars())),
                2 => drop(text.splice(at..end, tokens[below(tokens.len())].chars())),
                _ => {
                    let piece = text[at..end].to_vec();
                    let place = below(text.len());
                    drop(text.splice(place..place, piece));
                }
            }
        }
        let text: String = text.into_iter().collect();
        match Config::parse(&text, "c.toml", Path::new("")) {
            Ok(_) => n_read += 1,
            Err(errors) => {
                let said = errors.to_string();
                assert!(!said.is_empty() && !said.contains(['\u{1b}', '\0', '\u{202e}']), "{text:?}\n{said:?}");
                assert!(errors.0.iter().all(|e| e.code.text() == "E0401" && e.at.to_string().starts_with("c.toml:")));
            }
        }
    }
    assert!((200..19_000).contains(&n_read), "{n_read}");
}

/// A small archive of pictures `[n, 6, 6]`: which half is bright.
fn archive(path: &Path, n: usize) {
    let y: Array1<i64> = (0..n).map(|i| (i % 2) as i64).collect();
    let x = Array3::from_shape_fn((n, 6, 6), |(i, r, c)| {
        let bright = (c < 3) == (y[i] == 0);
        f32::from(u8::from(bright)) * 0.8 + ((i * 7 + r * 5 + c * 3) % 10) as f32 / 50.0
    });
    let arrays = [("x".to_owned(), TensorData::from(x.into_dyn())), ("y".to_owned(), TensorData::from(y.into_dyn()))];
    write_npz(path, &BTreeMap::from(arrays)).unwrap();
}

fn train(path: &Path, threads: usize) -> (Vec<String>, cotangent_config::Outcome) {
    let mut said = Vec::new();
    let run = Run::load(path).unwrap();
    let outcome = run.train(Threads::Exactly(threads), |line| said.push(line.to_owned())).unwrap();
    (said, outcome)
}

#[test]
fn a_training_goes_on_where_it_was_and_its_model_predicts_as_it_did() {
    let folder = fresh("resume");
    archive(&folder.join("halves.npz"), 60);
    let text = |epochs: usize| {
        format!(
            "seed = 4\nlayers = [{{ kind = \"conv\", filters = 3, activation = \"relu\" }}, {{ kind = \"max_pool\" }}, {{ kind = \
             \"batch_norm\" }}, {{ kind = \"dropout\", probability = 0.1 }}]\n[data]\nkind = \"npz\"\nfile = \"halves.npz\"\n\
             [preparation]\nnormalize = \"standardize\"\nvalidation = 0.2\n[[augmentation]]\nkind = \"shift\"\nby = 1\n\
             [optimizer]\nkind = \"momentum\"\nrate = 0.05\n[schedule]\nkind = \"steps\"\nevery = 2\nfactor = 0.5\n\
             [regularization]\nl2 = 0.001\n[training]\nepochs = {epochs}\nbatch_size = 16\norder = \"stratified\"\n"
        )
    };
    let (whole, parts) = (folder.join("whole.toml"), folder.join("parts.toml"));
    std::fs::write(&whole, text(4)).unwrap();
    let (said, outcome) = train(&whole, 1);
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(outcome.judged.0 == "validation" && outcome.judged.1.accuracy.unwrap() > 0.9, "{outcome}");
    // Two epochs, and then two more, on another number of threads: the same file but for the text of the configuration.
    std::fs::write(&parts, text(2)).unwrap();
    train(&parts, 1);
    std::fs::write(&parts, text(4)).unwrap();
    let (said, resumed) = train(&parts, 2);
    assert!(said[0].starts_with("going on after epoch 2") && said.len() == 3, "{said:?}");
    let bytes = |path: &Path| std::fs::read(path).unwrap();
    assert_eq!(bytes(&outcome.model), bytes(&resumed.model));
    // Once it is done it is only looked at again.
    let done = bytes(&resumed.model);
    assert_eq!(train(&parts, 1).0.len(), 1);
    assert_eq!(bytes(&resumed.model), done);
    // With anything else that is another now, it does not go on, whatever it is, and nothing is lost.
    let refused = || Run::load(&parts).unwrap().train(Threads::Exactly(1), |_| ()).unwrap_err().to_string();
    for (from, to, part) in [
        ("rate = 0.05", "rate = 0.5", "another `optimizer.rate` (0.05 before, 0.5 now)"),
        ("\"relu\"", "\"tanh\"", "another `layers`"),
        ("validation = 0.2", "validation = 0.5", "another `preparation.validation`"),
        ("seed = 4", "seed = 5", "another `seed`"),
        ("l2 = 0.001\n", "", "another `regularization.l2` (0.001 before, nothing now)"),
    ] {
        std::fs::write(&parts, text(6).replace(from, to)).unwrap();
        let error = refused();
        assert!(error.contains(part) && error.contains("--fresh"), "{error}");
    }
    std::fs::write(&parts, text(4)).unwrap();
    archive(&folder.join("halves.npz"), 61);
    assert!(refused().contains("other training data"), "{}", refused());
    archive(&folder.join("halves.npz"), 60);
    // Nobody else writes there meanwhile, and nobody removes what is there.
    let lock = cotangent_data::files::FolderLock::new(&folder.join("runs/parts")).unwrap();
    assert!(refused().contains("a folder that nobody else writes to"), "{}", refused());
    assert!(Run::load(&parts).unwrap().forget().is_err());
    drop(lock);
    assert_eq!(train(&parts, 1).0.len(), 1);
    for name in ["activations.svg", "history.csv", "history.json", "curves.svg", "report.html", "model.safetensors"] {
        assert!(folder.join("runs/whole").join(name).exists(), "{name}");
    }
    // The model takes features as they are in the file.
    let mut model = Model::load(&outcome.model, &Runtime::new(Threads::Exactly(1))).unwrap();
    let read = rows(&model, &folder.join("halves.npz")).unwrap();
    let outputs = model.predict_named(&read.table).unwrap();
    let answers = model.interface().answers(&outputs).unwrap();
    let right = answers.iter().enumerate().filter(|(i, answer)| **answer == i % 2).count();
    assert!(right >= 54, "{right} of 60");
    // Of what is no number there is no answer.
    let mut broken = Array3::<f32>::zeros((3, 6, 6));
    broken[[1, 2, 3]] = f32::NAN;
    let arrays = [("x".to_owned(), TensorData::from(broken.into_dyn()))];
    write_npz(folder.join("broken.npz"), &BTreeMap::from(arrays)).unwrap();
    let error = rows(&model, &folder.join("broken.npz")).unwrap_err().to_string();
    assert!(error.contains("NaN or an infinity in row 1, number 15 of `x`"), "{error}");
    let report = std::fs::read_to_string(&outcome.report).unwrap();
    assert!(report.contains("<svg") && report.contains("Confusion") && report.contains("data:image/bmp;base64,"));
    assert!(report.contains("alt=\"filter 0\"") && report.contains("before relu"), "filters and histograms");
    assert!(!report.contains("http://") || !report.contains("src=\"http"));
    // Beginning anew gives the same bits.
    Run::load(&parts).unwrap().forget().unwrap();
    assert_eq!(train(&parts, 1).0.len(), 4);
    assert_eq!(bytes(&outcome.model), bytes(&resumed.model));
}

#[test]
fn what_is_read_is_not_written_over_and_what_cannot_be_written_is_told_before_training() {
    let folder = fresh("places");
    archive(&folder.join("model.safetensors"), 60);
    archive(&folder.join("halves.npz"), 60);
    let text = |file: &str, output: &str| {
        format!(
            "layers = [{{ kind = \"dense\", units = 4 }}]\n[data]\nkind = \"npz\"\nfile = \"{file}\"\n[optimizer]\nkind = \"adam\"\n[training]\nepochs = 1\n[output]\nfolder = \"{output}\"\n"
        )
    };
    let path = folder.join("c.toml");
    let error = |text: String| {
        std::fs::write(&path, text).unwrap();
        let mut epochs = 0;
        let error = Run::load(&path).unwrap().train(Threads::Exactly(1), |_| epochs += 1).unwrap_err().to_string();
        assert_eq!(epochs, 0, "{error}");
        error
    };
    let before = std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(error(text("model.safetensors", ".")).contains("a file that this run reads"));
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), before);
    std::fs::create_dir_all(folder.join("out/history.csv")).unwrap();
    assert!(error(text("halves.npz", "out")).contains("history.csv: required a place where a training can write"));
}

#[test]
fn numbers_are_predicted_and_tables_keep_their_categories() {
    let folder = fresh("table");
    let mut csv = String::from("id,size,kind,price\n");
    for i in 0..80 {
        let (size, kind) = (i % 10, if i % 3 == 0 { "house" } else { "flat" });
        let price = size as f64 * 2.0 + if i % 3 == 0 { 5.0 } else { 0.0 };
        let _ = writeln!(csv, "{i},{},{kind},{price}", if i == 7 { String::new() } else { size.to_string() });
    }
    std::fs::write(folder.join("homes.csv"), csv).unwrap();
    let config = folder.join("homes.toml");
    let text = "layers = [{ kind = \"dense\", units = 16, activation = \"tanh\" }]\n[data]\nkind = \"csv\"\nfile = \"homes.csv\"\n\
                label = \"price\"\ntarget = \"number\"\ncolumns = [\"size\", \"kind\"]\n[preparation]\nnormalize = \"standardize\"\n\
                [optimizer]\nkind = \"adam\"\nrate = 0.05\n[training]\nepochs = 60\n";
    std::fs::write(&config, text).unwrap();
    let (_, outcome) = train(&config, 1);
    assert!(outcome.judged.1.loss < 4.0, "{outcome}");
    let mut model = Model::load(&outcome.model, &Runtime::new(Threads::Exactly(1))).unwrap();
    std::fs::write(folder.join("new.csv"), "kind,size\nhouse,5\nflat,5\n").unwrap();
    let read = rows(&model, &folder.join("new.csv")).unwrap();
    let TensorData::F32(prices) = &model.predict_named(&read.table).unwrap()["outputs"] else { panic!() };
    assert!((prices[[0, 0]] - 15.0).abs() < 3.0 && (prices[[1, 0]] - 10.0).abs() < 3.0, "{prices}");
    std::fs::write(folder.join("odd.csv"), "kind,size\nhut,5\n").unwrap();
    assert!(rows(&model, &folder.join("odd.csv")).unwrap_err().to_string().contains("line 2, column `kind`"));
    std::fs::write(&config, text.replace("\"size\"", "\"sice\"")).unwrap();
    let error = Sets::load(&Run::load(&config).unwrap().config).unwrap_err().to_string();
    assert!(error.contains("one column `sice`"), "{error}");
}

#[test]
fn layers_that_do_not_fit_are_errors_at_their_lines() {
    let folder = fresh("shapes");
    archive(&folder.join("halves.npz"), 12);
    let config = folder.join("c.toml");
    let summary = |layers: &str, rest: &str| {
        let data = "[data]\nkind = \"npz\"\nfile = \"halves.npz\"\n[optimizer]\nkind = \"sgd\"\n";
        std::fs::write(&config, format!("layers = [\n{layers}\n]\n{data}{rest}")).unwrap();
        Run::load(&config).unwrap().summary().map(|summary| summary.to_string()).map_err(|error| error.to_string())
    };
    let table = summary("{ kind = \"dense\", units = 5, name = \"first\" },", "").unwrap();
    assert!(table.contains("first") && table.contains("out"), "{table}");
    for (layers, rest, says) in [
        ("{ kind = \"reshape\", shape = [7, 5] },", "", "c.toml:2:1"),
        ("{ kind = \"dense\", units = 5 },\n{ kind = \"conv\", filters = 3 },", "", "c.toml:3:1"),
        ("{ kind = \"conv\", filters = 3, size = 9, padding = \"valid\" },", "", "c.toml:2:1"),
        (
            "{ kind = \"dense\", units = 5, name = \"a\" },\n{ kind = \"dense\", units = 5, name = \"a\" },",
            "",
            "c.toml:3:1",
        ),
        (
            "{ kind = \"dense\", units = 5 },",
            "[training]\noutput = false\n",
            "the layers require 2 outputs for 2 classes, got rows of shape [5]",
        ),
    ] {
        let error = summary(layers, rest).unwrap_err();
        assert!(error.contains(says), "{layers}\n{says}\n{error}");
    }
    // What data cannot be is told, too.
    let load = |rest: &str| {
        std::fs::write(&config, format!("layers = []\n[optimizer]\nkind = \"sgd\"\n{rest}")).unwrap();
        let run = Run::load(&config).unwrap();
        run.train(Threads::Exactly(1), |_| ()).map(|_| ()).unwrap_err().to_string()
    };
    let data = "[data]\nkind = \"npz\"\nfile = \"halves.npz\"\n";
    assert!(load("[data]\nkind = \"npz\"\nfile = \"none.npz\"\n").contains("none.npz"));
    assert!(
        load(&format!("{data}[preparation]\nvalidation = 0.0\n[training]\npatience = 3\n"))
            .contains("require a validation set")
    );
    assert!(load(&format!("{data}[preparation]\nvalidate_on_test = true\n")).contains("requires a test set"));
    let vectors = Array2::<f32>::zeros((8, 3)).into_dyn();
    let y = Array1::<i64>::zeros(8).into_dyn();
    let arrays = [("x".to_owned(), TensorData::from(vectors)), ("y".to_owned(), TensorData::from(y))];
    write_npz(folder.join("vectors.npz"), &BTreeMap::from(arrays)).unwrap();
    let error = load("[[augmentation]]\nkind = \"shift\"\nby = 1\n[data]\nkind = \"npz\"\nfile = \"vectors.npz\"\n");
    assert!(error.contains("a shift of less than") && error.contains("c.toml:4:1"), "{error}");
}
