//! A newcomer's path: files, one configuration, two commands; then there is a trained model, a report, and what the model says.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Output;

use image::GrayImage;

use crate::{check_failure, run, text};

/// A folder of this test that is empty.
fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("learn").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The standard output of a command that succeeds.
fn done(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn path(of: &Path) -> &str {
    of.to_str().unwrap()
}

/// Trains by a configuration, and predicts: the two commands. The lines of the predictions.
fn two_commands(folder: &Path, configuration: &str, data: &Path) -> Vec<String> {
    let config = folder.join("net.toml");
    std::fs::write(&config, configuration).unwrap();
    let trained = run(&["train", path(&config), "--threads", "1"]);
    assert!(done(&trained).contains("report.html"), "{}", done(&trained));
    assert!(text(&trained.stderr).contains("epoch 1: train loss"), "{}", text(&trained.stderr));
    let report = std::fs::read_to_string(folder.join("runs/net/report.html")).unwrap();
    assert!(report.contains("<svg") && report.contains("Configuration"), "{report}");
    let model = folder.join("runs/net/model.safetensors");
    let said = run(&["predict", path(&model), path(data)]);
    done(&said).lines().map(str::to_owned).collect()
}

#[test]
fn from_mnist_to_a_model() {
    let folder = fresh("mnist");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data/mnist");
    let configuration = format!(
        "layers = [{{ kind = \"dense\", units = 32, activation = \"relu\" }}]\n[data]\nkind = \"mnist\"\nfolder = {:?}\n\
         [preparation]\nexamples = 2000\n[optimizer]\nkind = \"adam\"\nrate = 0.005\n[training]\nepochs = 2\n",
        path(&data)
    );
    let lines = two_commands(&folder, &configuration, &data.join("t10k-images-idx3-ubyte.gz"));
    assert_eq!((lines[0].as_str(), lines.len()), ("row,label,probability", 10_001));
    // The first pictures of the test are 7 2 1 0 4 1 4 9.
    let right = ["7", "2", "1", "0", "4", "1", "4", "9"].iter().zip(&lines[1..]);
    let right = right.enumerate().filter(|(row, (label, line))| line.starts_with(&format!("{row},{label},"))).count();
    assert!(right >= 6, "{:?}", &lines[1..9]);
    // The same file has its layers and its gradient looked at.
    let config = folder.join("net.toml");
    assert!(done(&run(&["summary", path(&config)])).contains("25,450"));
    assert!(done(&run(&["gradcheck", path(&config), "--elements", "2"])).contains("agrees"));
    // So is the program of its training step, by whatever looks at programs.
    assert!(done(&run(&["explore", path(&config)])).contains("</html>"));
    assert!(done(&run(&["why", path(&config), "peak"])).contains("KiB"));
    assert!(done(&run(&["explain", path(&config)])).contains("product 32×784×32"));
}

#[test]
fn from_a_folder_of_pictures_to_a_model() {
    let folder = fresh("pictures");
    for (class, is_wide) in [("bars", true), ("poles", false)] {
        let of = folder.join("shapes").join(class);
        std::fs::create_dir_all(&of).unwrap();
        for i in 0..24u32 {
            let picture = GrayImage::from_fn(8, 8, |x, y| {
                let along = if is_wide { y } else { x };
                image::Luma([if along == i % 8 { 220 } else { ((x * 5 + y * 3 + i) % 40) as u8 }])
            });
            picture.save(of.join(format!("{i:02}.png"))).unwrap();
        }
    }
    let configuration = "layers = [{ kind = \"conv\", filters = 6, activation = \"relu\" }, { kind = \"max_pool\", size = 8 }]\n[data]\n\
                         kind = \"images\"\nfolder = \"shapes\"\ngray = true\n[[augmentation]]\nkind = \"noise\"\ndeviation = 0.02\n\
                         [optimizer]\nkind = \"adam\"\nrate = 0.03\n[training]\nepochs = 25\nbatch_size = 8\n";
    let lines = two_commands(&folder, configuration, &folder.join("shapes"));
    let right = lines[1..].iter().filter(|line| {
        let mut cells = line.split(',');
        let (file, label) = (cells.next().unwrap(), cells.next().unwrap());
        Path::new(file).parent().is_some_and(|folder| folder.ends_with(label))
    });
    assert!(lines.len() == 49 && right.count() >= 44, "{lines:?}");
    let model = folder.join("runs/net/model.safetensors");
    let one = run(&["predict", path(&model), path(&folder.join("shapes/poles/03.png"))]);
    assert_eq!(done(&one).lines().count(), 2);
}

#[test]
fn from_a_table_to_a_model() {
    let folder = fresh("table");
    let mut csv = String::from("age,city,bought\n");
    for i in 0..90 {
        let (age, city) = (20 + i % 40, ["Oslo", "Rome", "Lima"][i % 3]);
        let bought = if (age > 40) == (city != "Lima") { "yes" } else { "no" };
        let _ = writeln!(csv, "{age},{city},{bought}");
    }
    std::fs::write(folder.join("people.csv"), csv).unwrap();
    let configuration = "layers = [{ kind = \"dense\", units = 24, activation = \"tanh\" }]\n[data]\nkind = \"csv\"\nfile = \"people.csv\"\n\
                         label = \"bought\"\n[preparation]\nnormalize = \"standardize\"\n[optimizer]\nkind = \"adam\"\nrate = 0.03\n\
                         [training]\nepochs = 60\n";
    std::fs::write(folder.join("new.csv"), "city,age\nRome,55\nLima,55\nRome,25\nLima,25\n").unwrap();
    let lines = two_commands(&folder, configuration, &folder.join("new.csv"));
    let labels: Vec<&str> = lines[1..].iter().map(|line| line.split(',').nth(1).unwrap()).collect();
    assert_eq!(labels, ["yes", "no", "no", "yes"], "{lines:?}");
    // What the model cannot know is an error with its place.
    let model = folder.join("runs/net/model.safetensors");
    std::fs::write(folder.join("odd.csv"), "city,age\nParis,55\n").unwrap();
    check_failure(&run(&["predict", path(&model), path(&folder.join("odd.csv"))]), 1, "line 2, column `city`");
    check_failure(&run(&["predict", path(&model), path(&folder)]), 1, "none of pictures");
    check_failure(&run(&["predict", path(&folder.join("people.csv")), path(&folder)]), 1, "people.csv");
    std::fs::write(folder.join("rows.json"), "{\"rows\": [{\"age\": 55, \"city\": \"Rome\"}]}").unwrap();
    let json = run(&["predict", path(&model), path(&folder.join("rows.json")), "--json"]);
    assert!(done(&json).starts_with("{\"labels\":[\"yes\"]"), "{}", done(&json));
}

#[test]
fn what_is_wrong_with_a_configuration_is_told_with_its_line() {
    let folder = fresh("wrong");
    let config = folder.join("net.toml");
    std::fs::write(
        &config,
        "layers = [{ kind = \"dense\", unit = 3 }]\n[data]\nkind = \"mnist\"\n[optimizer]\nkind = \"adm\"\n",
    )
    .unwrap();
    for command in ["train", "summary", "gradcheck"] {
        let output = run(&[command, path(&config)]);
        check_failure(&output, 1, "net.toml:1:29\n  help: did you mean `units`?");
        check_failure(&output, 1, "net.toml:5:8\n  help: did you mean `adam`?");
    }
    assert!(!folder.join("runs").exists());
    check_failure(&run(&["train", path(&folder.join("none.toml"))]), 1, "none.toml");
}
