//! Checkpoints: a run that is killed and resumed ends with the same bits; damage and a full disk are errors that lose nothing.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow::{Break, Continue};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cotangent_data::synthetic::two_moons;
use cotangent_data::{DataError, Dataset, Order};
use cotangent_exec::{Compiler, Runtime, Seed, Session, Threads};
use cotangent_graph::DType::F32;
use cotangent_graph::{GraphBuilder, Tensor, build};
use cotangent_nn::{Adam, BatchNorm, Layers, Optimizer, Sgd};
use cotangent_train::callbacks::{after_epoch, after_step};
use cotangent_train::checkpoint::load;
use cotangent_train::{
    Checkpoint, Checkpoints, CrossEntropy, EarlyStopping, Load, Loaded, Options, ReduceOnPlateau, Snapshots,
    TrainError, Trainer, checksum_all,
};

const EPOCHS: usize = 12;
/// Where the process of a run keeps its checkpoints; set by the test that kills it.
const FOLDER: &str = "COTANGENT_TEST_RUN";

type Net = for<'g> fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>;

/// Batch norm has running statistics, dropout random numbers, Adam slots and a counter.
fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hidden", 16).layer("norm", BatchNorm::new()).relu().dropout("hidden", 0.2).dense("out", 2)
}

fn sets() -> (Dataset, Dataset) {
    (two_moons(100, 0.2, 1), two_moons(40, 0.2, 2))
}

fn trainer(folder: Option<&Path>) -> Trainer<Net, CrossEntropy, Adam> {
    let options = Options {
        epochs: EPOCHS,
        batch_size: 16,
        batch_sizes: vec![(9, 24)],
        order: Order::Stratified,
        seed: Seed(3),
        progress: false,
        checkpoints: folder.map(|folder| Checkpoints::new(folder).every_steps(2)),
        ..Options::default()
    };
    Trainer::new(&Runtime::new(Threads::Exactly(1)), net as Net, CrossEntropy, Adam::new(0.02), options)
}

/// What keeps state of its own in the store. The patience is such that the run ends early.
fn callbacks() -> (EarlyStopping, ReduceOnPlateau, Snapshots) {
    (EarlyStopping::new(4), ReduceOnPlateau::new(0.5, 2), Snapshots::every(3))
}

/// The hash of the whole store, and the history without times.
fn outcome(trainer: &Trainer<Net, CrossEntropy, Adam>) -> String {
    let lines = trainer.history().to_csv();
    let lines = lines.lines().map(|line| line.rsplit_once(',').map_or("", |(figures, _)| figures));
    format!("{:016x}|{}", checksum_all(trainer.store()).unwrap(), lines.collect::<Vec<_>>().join(";"))
}

/// The outcome of a run that is not interrupted.
fn reference(folder: Option<&Path>) -> String {
    let (train, validation) = sets();
    let mut trainer = trainer(folder);
    trainer.fit_with(&train, Some(&validation), callbacks()).unwrap();
    outcome(&trainer)
}

/// A folder of this test that is not there yet.
fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checkpoints").join(name);
    let _ = fs::remove_dir_all(&folder);
    folder
}

/// Not a test: the process that the test below kills. It says each step, and in the end what came of the run.
#[test]
#[ignore = "the process that another test starts and kills"]
fn process_of_a_run() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (train, validation) = sets();
    let mut trainer = trainer(Some(Path::new(&folder)));
    let resumed = trainer.resume().unwrap();
    assert!(resumed.is_none_or(|resumed| resumed.damaged.is_empty()), "a kill must not leave a damaged file");
    let say = after_step(|step, _| {
        println!("\nstep {}", step.number);
        let _ = std::io::stdout().flush();
        Ok(Continue(()))
    });
    trainer.fit_with(&train, Some(&validation), (callbacks(), say)).unwrap();
    println!("\noutcome {}", outcome(&trainer));
}

fn start(folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "process_of_a_run", "--ignored", "--nocapture"]).env(FOLDER, folder);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills the process after it has said some steps and a little time more; its outcome if it was done before.
fn run_and_kill(folder: &Path, n_steps: u64, more: Duration) -> Option<String> {
    let mut child = start(folder);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = 0;
    while said < n_steps {
        match lines.next() {
            Some(Ok(line)) if line.starts_with("outcome ") => {
                assert!(child.wait().unwrap().success());
                return Some(line["outcome ".len()..].to_owned());
            }
            Some(Ok(line)) => said += u64::from(line.starts_with("step ")),
            _ => panic!("the process ended by itself: {:?}", child.wait()),
        }
    }
    std::thread::sleep(more);
    // On Unix this is SIGKILL: no destructor runs.
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_same_bits() {
    let wanted = std::env::var("COTANGENT_KILLS").map_or(60, |n| n.parse().unwrap());
    let expected = reference(None);
    assert_eq!(reference(Some(&fresh("whole"))), expected, "checkpoints change nothing");
    let mut bits = 1u64;
    let mut random = |n: u64| {
        bits = bits.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (bits >> 33) % n
    };
    let (mut n_kills, mut n_runs) = (0, 0);
    while n_kills < wanted {
        let folder = fresh(&format!("killed-{n_runs}"));
        // Some die before the first step, most within a few steps; the time after the step hits writing and renaming.
        let outcome = loop {
            match run_and_kill(&folder, random(9), Duration::from_micros(random(4000))) {
                Some(outcome) => break outcome,
                None => n_kills += 1,
            }
        };
        assert_eq!(outcome, expected, "run {n_runs}, {n_kills} kills so far");
        // Once it has ended, the run ends at once again.
        assert_eq!(run_and_kill(&folder, u64::MAX, Duration::ZERO).as_ref(), Some(&expected));
        n_runs += 1;
        fs::remove_dir_all(&folder).unwrap();
    }
    assert!(n_runs > 0);
}

/// A run that ends with an error in its seventh step, with checkpoints of steps 2, 4, 6 (the last three).
fn short_run(name: &str) -> (PathBuf, Vec<PathBuf>) {
    let folder = fresh(name);
    let (train, _) = sets();
    let fail = after_step(|step, store| {
        if step.number == 7 {
            store.get("no such value")?;
        }
        Ok(Continue(()))
    });
    let error = trainer(Some(&folder)).fit_with(&train, None, fail).unwrap_err();
    assert!(matches!(error, TrainError::Step(_)), "{error}");
    let paths = Checkpoints::new(&folder).paths().unwrap();
    assert_eq!(paths.len(), 3);
    (folder, paths)
}

#[test]
fn every_flipped_byte_is_noticed_or_harmless() {
    let (_, paths) = short_run("flipped");
    let bytes = fs::read(&paths[0]).unwrap();
    let whole = Checkpoint::parse(&bytes, "f").unwrap();
    let mut n_harmless = 0;
    for at in 0..bytes.len() {
        // A bit in turn, and all of them.
        for flip in [1 << (at % 8), 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            match Checkpoint::parse(&damaged, "f") {
                Ok(read) => {
                    assert_eq!(read, whole, "byte {at}");
                    n_harmless += 1;
                }
                Err(error) => assert!(error.to_string().starts_with("f: "), "{error}"),
            }
        }
    }
    assert!(n_harmless < 16, "{n_harmless} flips went unnoticed");
    for length in 0..bytes.len() {
        assert!(Checkpoint::parse(&bytes[..length], "f").is_err());
    }
}

#[test]
fn calls_that_draw_are_counted_in_a_checkpoint() {
    let graph = build(|g| g.output("noise", g.normal("noise", F32, [4]))).unwrap();
    let program = Compiler::new().compile(&graph).unwrap();
    let session = || Session::new(&Runtime::new(Threads::Exactly(1)), program.clone(), Seed(5)).unwrap();
    let draw = |session: &mut Session| session.step(()).unwrap().tensor("noise").unwrap();
    let mut first = session();
    draw(&mut first);
    let mut kept = Vec::new();
    Checkpoint::of_store(first.store()).unwrap().into_file().write_to(&mut kept).unwrap();
    let next = draw(&mut first);
    let mut second = session();
    assert_ne!(draw(&mut second), next);
    Checkpoint::parse(&kept, "kept").unwrap().load(Load::Strict, second.store_mut()).unwrap();
    assert_eq!(draw(&mut second), next);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_said() {
    let expected = {
        let (train, _) = sets();
        let mut whole = trainer(None);
        whole.fit(&train, None).unwrap();
        outcome(&whole)
    };
    let (folder, paths) = short_run("damaged");
    // The newest loses its end, the one before a bit of an element.
    let bytes = fs::read(&paths[0]).unwrap();
    fs::write(&paths[0], &bytes[..bytes.len() / 2]).unwrap();
    let mut bytes = fs::read(&paths[1]).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    fs::write(&paths[1], bytes).unwrap();

    let (train, _) = sets();
    let mut going_on = trainer(Some(&folder));
    let resumed = going_on.resume().unwrap().unwrap();
    assert_eq!((resumed.step, &resumed.path), (2, &paths[2]));
    let said: Vec<String> = resumed.damaged.iter().map(|(_, error)| error.to_string()).collect();
    assert!(said[0].contains("length of the header") && said[1].contains("checksum of the elements of"), "{said:?}");
    going_on.fit(&train, None).unwrap();
    assert_eq!(outcome(&going_on), expected);

    // If all are damaged, that is an error, and files and trainer stay as they are.
    let paths = Checkpoints::new(&folder).paths().unwrap();
    paths.iter().for_each(|path| fs::write(path, "nothing").unwrap());
    let before = outcome(&going_on);
    let error = going_on.resume().unwrap_err();
    assert!(matches!(&error, TrainError::NoCheckpoint { damaged, .. } if damaged.len() == 3), "{error}");
    assert!(error.to_string().contains("required a checkpoint that is whole"), "{error}");
    assert_eq!((outcome(&going_on), Checkpoints::new(&folder).paths().unwrap()), (before, paths));
}

/// Not a test: what the test below runs in a process of its own, which a signal about the size of files does not end. A limit
/// of that size refuses writes as a full disk does.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "the process that another test starts"]
fn process_of_a_full_disk() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let limit = |n: &str| {
        let limit = [format!("--pid={}", std::process::id()), format!("--fsize={n}:unlimited")];
        assert!(Command::new("prlimit").args(limit).status().unwrap().success());
    };
    let (train, _) = sets();
    let mut whole = trainer(None);
    whole.fit(&train, None).unwrap();

    let folder = Path::new(&folder);
    let mut full = trainer(Some(folder));
    let fill = after_step(|step, _| {
        if step.number == 5 {
            limit("3000");
        }
        Ok(Continue(()))
    });
    let error = full.fit_with(&train, None, fill).unwrap_err();
    limit("unlimited");
    assert!(matches!(&error, TrainError::Data(DataError::Io { .. })), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("could not write: File too large") && text.contains("space on the device"), "{text}");
    let partial =
        fs::read_dir(folder).unwrap().find(|e| e.as_ref().unwrap().path().extension() == Some("partial".as_ref()));
    assert!(partial.is_none(), "nothing half written stays");
    let found = Checkpoints::new(folder).latest().unwrap().unwrap();
    assert_eq!((found.checkpoint.step, full.store().step()), (4, 6), "the one before is whole");

    // Another process resumes from it, and this one goes on where it is: both end alike.
    let copy = fresh("full-copy");
    fs::create_dir_all(&copy).unwrap();
    fs::copy(&found.path, copy.join(found.path.file_name().unwrap())).unwrap();
    let mut other = trainer(Some(&copy));
    assert_eq!(other.resume().unwrap().unwrap().step, 4);
    for run in [&mut full, &mut other] {
        run.fit(&train, None).unwrap();
        assert_eq!(outcome(run), outcome(&whole));
    }
    println!("\ndone");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_the_run_goes_on_when_there_is_space() {
    let script = "trap '' XFSZ; exec \"$0\" --exact process_of_a_full_disk --ignored --nocapture";
    let mut command = Command::new("sh");
    let output = command.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(FOLDER, fresh("full"));
    let output = output.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("\ndone"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_last_few_are_kept_and_only_what_is_the_folders_own_is_removed() {
    let folder = fresh("kept");
    fs::create_dir_all(&folder).unwrap();
    // What a process that was killed has left, with its number and one of its own; and what is others'.
    let abandoned = folder.join("step-0000000001.safetensors.17-3.partial");
    let others =
        ["notes.txt", "mine.partial", "step-0000000001.safetensors.partial", "weights.safetensors.17-3.partial"];
    fs::write(&abandoned, "half").unwrap();
    others.iter().for_each(|name| fs::write(folder.join(name), "mine").unwrap());
    let checkpoints = Checkpoints::new(&folder).keep(2);
    let mut checkpoint = trainer(None).checkpoint().unwrap();
    for step in [5, 3, 9, 7] {
        checkpoint.step = step;
        checkpoints.save(checkpoint.clone()).unwrap();
    }
    // Files of later steps are not deleted, and the one just written never is.
    let steps =
        checkpoints.paths().unwrap().iter().map(|path| Checkpoint::read(path).unwrap().step).collect::<Vec<_>>();
    assert_eq!(steps, [9, 7, 5]);
    assert!(!abandoned.exists() && others.iter().all(|name| folder.join(name).exists()));
    // While a writer has the folder, what it is writing stays.
    let writer = checkpoints.writer().unwrap();
    fs::write(&abandoned, "half").unwrap();
    checkpoint.step = 11;
    writer.save(checkpoint).unwrap();
    assert!(abandoned.exists());
}

/// A checkpoint of a step as a later version writes it.
fn of_a_later_version(step: u32) -> Vec<u8> {
    let mut checkpoint = trainer(None).checkpoint().unwrap();
    checkpoint.step = step;
    let mut file = checkpoint.into_file();
    file.metadata.insert("version".to_owned(), "2".to_owned());
    file.metadata.insert("checksum".to_owned(), "as that version has it".to_owned());
    let mut bytes = Vec::new();
    file.write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn files_of_later_versions_are_neither_damaged_nor_overwritten_nor_deleted() {
    let (folder, paths) = short_run("later");
    let path = |step: u32| folder.join(format!("step-{step:010}.safetensors"));
    for step in [1, 8] {
        fs::write(path(step), of_a_later_version(step)).unwrap();
    }
    let later: Vec<Vec<u8>> = [1, 8].iter().map(|&step| fs::read(path(step)).unwrap()).collect();
    let mut resumed = trainer(Some(&folder));
    let error = resumed.resume().unwrap_err();
    assert!(matches!(error, TrainError::Data(DataError::Unsupported { .. })), "{error}");
    let text = error.to_string();
    assert!(text.contains("version 2 of the format; this program knows 1") && text.contains("move it out"), "{text}");
    // Nor is it overwritten by a run that gets there.
    let mut checkpoint = trainer(None).checkpoint().unwrap();
    for (step, refused) in [(7, false), (8, true), (9, false), (1, true)] {
        checkpoint.step = step;
        let saved = Checkpoints::new(&folder).keep(1).save(checkpoint.clone());
        assert_eq!(matches!(saved, Err(DataError::Unsupported { .. })), refused, "{step}: {saved:?}");
    }
    assert!(!paths[0].exists(), "the earlier ones of this version are deleted");
    assert_eq!([1, 8].map(|step| fs::read(path(step)).unwrap()).to_vec(), later);
}

/// Names of checkpoints that stand for something else hang nothing and break nothing.
#[cfg(unix)]
#[test]
fn what_is_called_like_a_checkpoint_and_is_no_file_is_passed_over() {
    let (folder, paths) = short_run("special");
    let name = |step: u32| folder.join(format!("step-{step:010}.safetensors"));
    fs::create_dir(name(1)).unwrap();
    assert!(Command::new("mkfifo").args([name(9), name(10)]).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", name(12)).unwrap();
    std::os::unix::fs::symlink("nothing", name(14)).unwrap();
    assert_eq!(Checkpoints::new(&folder).paths().unwrap(), paths);
    assert!(matches!(Checkpoint::read(name(9)), Err(DataError::NotAFile { .. })));
    let (train, _) = sets();
    let mut going_on = trainer(Some(&folder));
    assert_eq!(going_on.resume().unwrap().unwrap().step, 6);
    // The run comes to step 10, and says what is in its way.
    let text = going_on.fit(&train, None).unwrap_err().to_string();
    assert!(text.contains("step-0000000010.safetensors: required a file, got a pipe (FIFO)"), "{text}");
    [10, 12].iter().for_each(|&step| fs::remove_file(name(step)).unwrap());
    // A link is written through.
    going_on.fit(&train, None).unwrap();
    assert!(name(1).is_dir() && name(9).exists());
}

#[cfg(unix)]
#[test]
fn a_folder_may_be_a_link_and_must_be_a_folder() {
    let (folder, paths) = short_run("linked");
    let link = folder.with_file_name("link");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink("linked", &link).unwrap();
    let (train, _) = sets();
    let mut going_on = trainer(Some(&link));
    assert_eq!(going_on.resume().unwrap().unwrap().step, 6);
    going_on.fit(&train, None).unwrap();
    assert!(link.is_symlink() && !paths[2].exists());
    // Where nothing can be made, that is told before the first step.
    for place in [&folder.join("step-0000000001"), Path::new("/proc/self/fd")] {
        if !place.is_absolute() || !place.exists() {
            fs::write(place, "no folder").unwrap();
        }
        let mut nowhere = trainer(Some(place));
        let error = nowhere.fit(&train, None).unwrap_err();
        assert!(matches!(error, TrainError::Data(DataError::Io { .. })), "{error}");
        assert_eq!(nowhere.store().step(), 0);
    }
}

#[test]
fn the_second_run_in_a_folder_is_told() {
    let (folder, _) = short_run("two");
    let (train, validation) = sets();
    // Another process: it is stopped as it trains, and has the folder until it is killed.
    let mut child = start(&folder);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().starts_with("step ") {}
    assert!(Command::new("kill").args(["-STOP", &child.id().to_string()]).status().unwrap().success());
    let mut second = trainer(Some(&folder));
    second.resume().unwrap();
    let step = second.store().step();
    let text = second.fit_with(&train, Some(&validation), callbacks()).unwrap_err().to_string();
    assert!(
        text.contains(&format!("in use by process {}", child.id())) || text.contains("no checkpoint after"),
        "{text}"
    );
    assert_eq!(second.store().step(), step);
    assert!(matches!(Checkpoints::new(&folder).save(second.checkpoint().unwrap()), Err(DataError::Locked { .. })));
    child.kill().unwrap();
    child.wait().unwrap();
    // The lock went with the process, however it ended.
    let mut third = trainer(Some(&folder));
    third.resume().unwrap();
    third.fit_with(&train, Some(&validation), callbacks()).unwrap();
    // A run that was resumed before others wrote is told as well.
    if third.store().step() > step {
        let text = second.fit_with(&train, Some(&validation), callbacks()).unwrap_err().to_string();
        assert!(text.contains("no checkpoint after step"), "{text}");
    }
}

#[test]
fn a_run_is_not_mixed_up_with_another() {
    let (folder, _) = short_run("mixed");
    let (train, _) = sets();
    let check = |error: TrainError, says: &str| assert!(error.to_string().contains(says), "{error}");
    check(trainer(Some(&folder)).fit(&train, None).unwrap_err(), "or a call of `resume` before `fit`");
    check(trainer(None).resume().unwrap_err(), "a folder in the options");
    // The epoch under way was begun with other examples.
    let mut other = trainer(Some(&folder));
    other.resume().unwrap();
    check(other.fit(&train.head(90), None).unwrap_err(), "`100 examples by 16, Stratified`");
    // A run of another seed.
    let options = Options { seed: Seed(4), checkpoints: Some(Checkpoints::new(&folder)), ..Options::default() };
    let mut seeded =
        Trainer::new(&Runtime::new(Threads::Exactly(1)), net as Net, CrossEntropy, Adam::new(0.02), options);
    check(seeded.resume().unwrap_err(), "required seed 3");
    assert_eq!(seeded.store().iter().count(), 0);
    // A newer format, and a file of another kind.
    let mut file = trainer(None).checkpoint().unwrap().into_file();
    file.metadata.insert("version".to_owned(), "2".to_owned());
    let mut bytes = Vec::new();
    file.write_to(&mut bytes).unwrap();
    assert!(matches!(Checkpoint::parse(&bytes, "f"), Err(DataError::Unsupported { .. })));
    file.metadata.clear();
    let mut bytes = Vec::new();
    file.write_to(&mut bytes).unwrap();
    let error = Checkpoint::parse(&bytes, "f").unwrap_err().to_string();
    assert!(error.contains("cotangent checkpoint"), "{error}");
}

#[test]
fn more_epochs_may_be_asked_for_after_a_run_has_ended() {
    let folder = fresh("more");
    let (train, _) = sets();
    trainer(Some(&folder)).fit(&train, None).unwrap();
    let mut again = trainer(Some(&folder));
    assert_eq!(again.resume().unwrap().unwrap().epochs, EPOCHS as u64);
    assert_eq!(again.fit(&train, None).unwrap().len(), EPOCHS, "nothing is left to do");
    let mut whole = trainer(None);
    (0..2).for_each(|_| drop(whole.fit(&train, None).unwrap()));
    assert_eq!(again.fit(&train, None).unwrap().len(), EPOCHS);
    assert_eq!(outcome(&again), outcome(&whole));
}

#[test]
fn a_callback_that_ended_a_run_ends_it_after_a_resumption_too() {
    let folder = fresh("stopped");
    let (train, _) = sets();
    let stop = || after_epoch(|epoch, _| Ok(if epoch.number == 2 { Break(()) } else { Continue(()) }));
    let mut first = trainer(Some(&folder));
    first.fit_with(&train, None, stop()).unwrap();
    let mut again = trainer(Some(&folder));
    again.resume().unwrap();
    assert_eq!(again.fit_with(&train, None, stop()).unwrap().len(), 2);
    assert_eq!(outcome(&again), outcome(&first));
}

/// The same net with its first layer under another name.
fn renamed_net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hiden", 16).layer("norm", BatchNorm::new()).relu().dropout("hidden", 0.2).dense("out", 2)
}

/// The same net with a wider first layer.
fn wider_net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hidden", 20).layer("norm", BatchNorm::new()).relu().dropout("hidden", 0.2).dense("out", 2)
}

fn other_trainer<O: Optimizer>(folder: &Path, model: Net, optimizer: O) -> Trainer<Net, CrossEntropy, O> {
    let checkpoints = Some(Checkpoints::new(folder).every_steps(2));
    let batch_sizes = vec![(9, 24)];
    let (order, seed) = (Order::Stratified, Seed(3));
    let options = Options {
        epochs: EPOCHS,
        batch_size: 16,
        batch_sizes,
        order,
        seed,
        progress: false,
        checkpoints,
        ..Options::default()
    };
    Trainer::new(&Runtime::new(Threads::Exactly(1)), model, CrossEntropy, optimizer, options)
}

/// The error, which must leave a trainer as it was.
fn refused<O: Optimizer>(mut trainer: Trainer<Net, CrossEntropy, O>) -> (Loaded, String) {
    let error = trainer.resume().unwrap_err();
    assert_eq!((trainer.store().iter().count(), trainer.store().step(), trainer.history().len()), (0, 0, 0));
    let text = error.to_string();
    match error {
        TrainError::Differs { loaded, .. } => (*loaded, text),
        error => panic!("{error}"),
    }
}

#[test]
fn a_checkpoint_of_another_model_or_optimiser_is_an_error_that_lists_what_differs() {
    let folder = fresh("other-model");
    let (train, validation) = sets();
    // Callbacks keep values of their own, which are no model's.
    trainer(Some(&folder)).fit_with(&train, Some(&validation), callbacks()).unwrap();

    let (loaded, text) = refused(other_trainer(&folder, renamed_net, Adam::new(0.02)));
    for name in ["hiden.weight", "hiden.bias", "adam.m.hiden.weight"] {
        assert!(loaded.missing.iter().any(|missing| missing == name), "{loaded:?}");
    }
    assert!(loaded.unused.iter().all(|name| name.contains("hidden.")), "{loaded:?}");
    assert!(loaded.taken.iter().any(|name| name == "out.weight") && loaded.differ.is_empty());
    assert!(text.contains("missing: `hiden.weight` (there is `hidden.weight`)"), "{text}");
    assert!(text.contains("not asked for: `hidden.weight` (asked for is `hiden.weight`)"), "{text}");
    assert!(text.contains("step-") && text.contains("`Load::Fitting`"), "{text}");

    let (loaded, text) = refused(other_trainer(&folder, wider_net, Adam::new(0.02)));
    assert!(loaded.missing.is_empty() && loaded.unused.is_empty());
    assert!(text.contains("of another type: `hidden.weight` requires f32[2,20], got f32[2,16]"), "{text}");

    let (loaded, text) = refused(other_trainer(&folder, net, Sgd::new(0.02)));
    assert!(loaded.missing.is_empty() && text.contains("not asked for: `adam."), "{text}");
    assert!(loaded.unused.iter().all(|name| !name.starts_with("early_stopping") && !name.starts_with("plateau")));

    // And the other way: a memory that Sgd has not.
    let sgd = fresh("other-optimiser");
    other_trainer(&sgd, net, Sgd::new(0.02)).fit(&train, None).unwrap();
    let (loaded, _) = refused(trainer(Some(&sgd)));
    assert!(loaded.missing.iter().any(|name| name.starts_with("adam.")) && loaded.unused.is_empty(), "{loaded:?}");

    // The same model and optimiser get everything.
    let resumed = trainer(Some(&folder)).resume().unwrap().unwrap();
    assert!(resumed.loaded.is_exact() && resumed.loaded.taken.len() > 10, "{:?}", resumed.loaded);
}

#[test]
fn what_fits_is_taken_if_it_is_asked_for() {
    let folder = fresh("fitting");
    let (train, _) = sets();
    let mut first = trainer(Some(&folder));
    first.fit(&train, None).unwrap();
    let out = first.store().get("out.weight").unwrap();
    let step = first.store().step();

    let mut other = other_trainer(&folder, renamed_net, Sgd::new(0.02));
    let resumed = other.resume_with(Load::Fitting).unwrap().unwrap();
    assert_eq!((resumed.step, resumed.epochs), (step, EPOCHS as u64));
    assert!(resumed.loaded.missing.contains(&"hiden.weight".to_owned()));
    assert!(resumed.loaded.unused.contains(&"hidden.weight".to_owned()));
    assert!(other.store().get("out.weight").unwrap().same_bits(&out));
    // What was left out is not in the store, and what is new starts as the model says.
    assert!(other.store().type_of("hidden.weight").is_none());
    assert_eq!(other.fit(&train, None).unwrap().len(), EPOCHS, "the call before had done its epochs");
    other.fit(&train, None).unwrap();
    assert!(other.store().type_of("hiden.weight").is_some() && other.store().step() > step);
}

/// Checkpoints from before the trainer noted what its model was made for: the next call of `fit` compares.
#[test]
fn earlier_checkpoints_are_held_against_the_model_by_fit() {
    let (folder, paths) = short_run("earlier");
    for path in &paths {
        let mut checkpoint = Checkpoint::read(path).unwrap();
        checkpoint.notes.retain(|name, _| name != "example" && !name.starts_with("other."));
        checkpoint.write(path).unwrap();
    }
    let (train, _) = sets();
    let mut other = other_trainer(&folder, renamed_net, Adam::new(0.02));
    assert_eq!(other.resume().unwrap().unwrap().loaded, Loaded::default());
    let error = other.fit(&train, None).unwrap_err();
    assert!(matches!(&error, TrainError::Differs { loaded, .. } if loaded.missing.len() >= 2), "{error}");
    let mut whole = trainer(None);
    whole.fit(&train, None).unwrap();
    let mut same = trainer(Some(&folder));
    same.resume().unwrap();
    same.fit(&train, None).unwrap();
    assert_eq!(outcome(&same), outcome(&whole));
}

/// One mechanism for trainers, sessions and bare stores.
#[test]
fn a_session_is_loaded_strictly_or_with_what_fits() {
    let graph = |name: &str| build(|g| g.output("y", g.input("x", F32, [1, 2]).dense(name, 2))).unwrap();
    let session = |name: &str| {
        let program = Compiler::new().compile(&graph(name)).unwrap();
        Session::new(&Runtime::new(Threads::Exactly(1)), program, Seed(5)).unwrap()
    };
    let (source, mut target) = (session("out"), session("output"));
    let checkpoint = Checkpoint::of_store(source.store()).unwrap();
    let before = checksum_all(target.store()).unwrap();
    let error = checkpoint.load(Load::Strict, target.store_mut()).unwrap_err();
    assert!(error.to_string().contains("missing: `output.bias`"), "{error}");
    assert_eq!(checksum_all(target.store()).unwrap(), before);
    let loaded = checkpoint.load(Load::Fitting, target.store_mut()).unwrap();
    assert_eq!((loaded.taken.len(), loaded.missing.len(), loaded.unused.len()), (0, 2, 2));
    assert_eq!(target.store().iter().count(), 2, "nothing is made that nobody asked for");
    let mut same = session("out");
    assert!(checkpoint.load(Load::Strict, same.store_mut()).unwrap().is_exact());
    assert_eq!(checksum_all(same.store()).unwrap(), checksum_all(source.store()).unwrap());
    // Long lists are cut, and names do not act on a terminal.
    let many = (0..40).map(|k| (format!("a\u{1b}[2J{k}"), checkpoint.tensors["out.bias"].clone())).collect();
    let text = load(&many, Load::Strict, same.store_mut()).unwrap_err().to_string();
    assert!(text.contains("and 28 more") && !text.contains('\u{1b}'), "{text}");
}

/// What is saved under the name of a link to an older checkpoint is there afterwards.
#[cfg(unix)]
#[test]
fn a_save_deletes_not_what_it_wrote_through_a_link() {
    let folder = fresh("linked");
    let checkpoints = Checkpoints::new(&folder).keep(1);
    let checkpoint = trainer(None).checkpoint().unwrap();
    let first = checkpoints.save(Checkpoint { step: 0, ..checkpoint.clone() }).unwrap();
    std::os::unix::fs::symlink(first.file_name().unwrap(), folder.join("step-0000000004.safetensors")).unwrap();
    let saved = checkpoints.save(Checkpoint { step: 4, ..checkpoint }).unwrap();
    assert_eq!(Checkpoint::read(&saved).unwrap().step, 4);
    fs::remove_dir_all(&folder).unwrap();
}
