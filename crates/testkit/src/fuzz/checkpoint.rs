//! Checkpoints, damaged and forged, and folders full of what is none: no panic, no wait, memory in proportion.
//!
//! A checkpoint whose header or elements were changed after its checksums were made is an error or means the same. One whose
//! notes were forged before, so that all checksums are right, is resumed from: by an error, or by a run that ends. In a folder
//! lie files of later versions, half written ones, pipes without a writer, devices, folders and links to nothing, all under
//! the names of checkpoints; what is saved there can be read, and nobody else's file is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cotangent_data::Dataset;
use cotangent_data::safetensors::Tensors;
use cotangent_data::synthetic::two_moons;
use cotangent_exec::{Runtime, Seed, Threads};
use cotangent_graph::{DType, GraphBuilder, Shape, Tensor, TensorData};
use cotangent_nn::{Layers, Sgd};
use cotangent_testkit::Rng;
use cotangent_train::{Checkpoint, Checkpoints, CrossEntropy, Load, Options, TrainError, Trainer};

use super::mutate::mutate;
use super::{Fault, Limits, Mode, drive, keep, meter, replay};

/// The most places that a file is changed in.
const MOST: usize = 4;
/// What the reader may hold beyond what the file accounts for: messages, nodes of maps.
const SLACK: usize = 32 << 10;
/// Bytes that may be held for each byte of a file: as for safetensors files, and a copy of the metadata.
const FACTOR: usize = 24;
const TOKENS: [&[u8]; 10] = [
    b"\"version\":\"1\"",
    b"\"version\":\"2\"",
    b"\"version\":\"4294967296\"",
    b"\"format\":",
    b"\"step\":\"4294967295\"",
    b"\"seed\":\"-1\"",
    b"\"checksum\":\"0000000000000000\"",
    b"\"note.epochs\":\"18446744073709551615\"",
    b"\"checksum.w\":",
    b"\\u001b[2J",
];
/// What forged notes say.
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "2",
    "7",
    "8",
    "100",
    "4294967295",
    "9223372036854775807",
    "18446744073709551614",
    "18446744073709551615",
    "-1",
    "",
];
const TEXTS: [&str; 14] = [
    "NaN",
    "inf",
    "-1e308",
    "true",
    "false",
    "2 i64",
    "i64",
    "18446744073709551615 i64",
    "1099511627776 1099511627776 f32",
    "0 i64",
    "8 examples by 4, Shuffled",
    "epoch,step,batch_size,train_loss,validation_loss,validation_accuracy,rate,seconds\n",
    "epoch,step,batch_size,train_loss,validation_loss,validation_accuracy,rate,seconds\n9,9,9,NaN,,,,inf\n",
    "\u{1b}[2J\n",
];

type Net = for<'g> fn(&'g GraphBuilder, Tensor<'g>) -> Tensor<'g>;

fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("out", 2)
}

/// A trainer of the smallest model.
fn trainer(folder: &Path) -> Trainer<Net, CrossEntropy, Sgd> {
    let checkpoints = Some(Checkpoints::new(folder));
    let options =
        Options { epochs: 1, batch_size: 4, seed: Seed(3), progress: false, checkpoints, ..Options::default() };
    Trainer::new(&Runtime::new(Threads::Exactly(1)), net as Net, CrossEntropy, Sgd::new(0.1), options)
}

/// What the cases share: a whole checkpoint of a trainer, and a pipe that nobody writes to.
struct Kit {
    folder: PathBuf,
    whole: Checkpoint,
    set: Dataset,
    pipe: Option<PathBuf>,
}

impl Kit {
    fn new() -> Result<Self, Fault> {
        let fault = |text: String| Fault::new("set up", text);
        let folder = std::env::temp_dir().join(format!("cotangent-fuzz-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| fault(error.to_string()))?;
        let set = two_moons(8, 0.1, 1);
        let mut trainer = trainer(&folder.join("whole"));
        trainer.fit(&set, None).map_err(|error| fault(error.to_string()))?;
        let pipe = folder.join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success());
        let whole = trainer.checkpoint().map_err(|error| fault(error.to_string()))?;
        Ok(Kit { whole, set, pipe: made.then_some(pipe), folder })
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        // A folder for temporary files; what cannot be removed is found by whoever cleans it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn bytes_of(checkpoint: Checkpoint) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory does not fail; a mistake would show as an unreadable whole file.
    let _ = checkpoint.into_file().write_to(&mut bytes);
    bytes
}

/// A random checkpoint.
fn random(rng: &mut Rng) -> Checkpoint {
    let tensor = |rng: &mut Rng| {
        let dtype = *rng.pick(&[DType::F32, DType::F64, DType::I64, DType::U8]);
        let shape: Vec<usize> = (0..rng.below(3)).map(|_| *rng.pick(&[0, 1, 2, 5])).collect();
        let n = shape.iter().product::<usize>() * dtype.size_bytes();
        let bytes: Vec<u8> = (0..n).map(|_| rng.bits() as u8).collect();
        TensorData::from_native_bytes(dtype, &Shape::new(&shape), &bytes)
    };
    let names = ["w", "out.weight", "optimizer.t", "a\u{1b}[2J", ""];
    let tensors: Tensors = (0..rng.below(4)).map(|_| ((*rng.pick(&names)).to_owned(), tensor(rng))).collect();
    let notes = (0..rng.below(4)).map(|_| ((*rng.pick(&TEXTS)).to_owned(), (*rng.pick(&NUMBERS)).to_owned())).collect();
    Checkpoint { tensors, seed: Seed(rng.bits()), step: rng.bits() as u32, draws: rng.bits(), notes }
}

/// A file that was changed behind the back of its checksums.
fn damaged(seed: u64) -> (Checkpoint, Vec<u8>) {
    let mut rng = Rng::new(seed ^ 0xc4ec);
    let (whole, other) = (random(&mut rng), random(&mut rng));
    let mut bytes = bytes_of(whole.clone());
    if rng.chance(0.95) {
        mutate(&mut rng, MOST, &mut bytes, &bytes_of(other), &TOKENS);
    }
    (whole, bytes)
}

/// What was done.
#[derive(Default)]
struct Counts {
    n_read: u64,
    n_bytes: u64,
    n_resumed: u64,
    n_refused: u64,
    n_folders: u64,
    worst: f64,
}

fn read(seed: u64, counts: &mut Counts) -> Result<(), Fault> {
    let (whole, bytes) = damaged(seed);
    let (result, peak) = meter::measured(|| Checkpoint::parse(&bytes, "fuzz"));
    counts.n_bytes += bytes.len() as u64;
    counts.worst = counts.worst.max(peak.saturating_sub(SLACK) as f64 / bytes.len().max(1) as f64);
    if peak > SLACK + FACTOR * bytes.len() {
        return Err(Fault::new("memory", format!("{peak} bytes were held for a file of {}", bytes.len())));
    }
    match result {
        Ok(read) => {
            counts.n_read += 1;
            (read == whole)
                .then_some(())
                .ok_or_else(|| Fault::new("damage", "a changed file reads as another checkpoint"))
        }
        Err(error) => {
            // Errors must also be printable.
            let text = error.to_string();
            let acts = text.contains(cotangent_scalar::plain::is_hidden);
            if acts { Err(Fault::new("message", format!("{text:?}"))) } else { Ok(()) }
        }
    }
}

/// Resumes from a checkpoint whose notes, names, types and counters were forged, with right checksums.
fn forged(seed: u64, kit: &Kit, counts: &mut Counts) -> Result<(), Fault> {
    let mut rng = Rng::new(seed ^ 0xf09e);
    let mut checkpoint = kit.whole.clone();
    let keys: Vec<String> = checkpoint.notes.keys().cloned().collect();
    for _ in 0..1 + rng.below(3) {
        let text = if rng.chance(0.6) { *rng.pick(&NUMBERS) } else { *rng.pick(&TEXTS) };
        match rng.below(8) {
            0 => drop(checkpoint.notes.remove(rng.pick(&keys))),
            1 => checkpoint.step = *rng.pick(&[0, 1, u32::MAX - 1, u32::MAX]),
            2 => {
                let name = checkpoint.tensors.keys().nth(rng.below(checkpoint.tensors.len().max(1))).cloned();
                let taken = name.and_then(|name| checkpoint.tensors.remove(&name));
                if let Some(value) = taken.filter(|_| rng.chance(0.7)) {
                    checkpoint.tensors.insert(text.to_owned(), value);
                }
            }
            3 => {
                if let Some(value) = checkpoint.tensors.values_mut().next() {
                    *value =
                        TensorData::from_native_bytes(value.dtype(), &value.shape(), &vec![0xff; value.ty().n_bytes()]);
                }
            }
            4 => drop(checkpoint.notes.insert(format!("other.{text}"), String::new())),
            _ => drop(checkpoint.notes.insert(rng.pick(&keys).clone(), text.to_owned())),
        }
    }
    let folder = kit.folder.join("forged");
    let _ = fs::remove_dir_all(&folder);
    let fault = |error: &dyn std::fmt::Display| Fault::new("set up", error.to_string());
    Checkpoints::new(&folder).save(checkpoint).map_err(|error| fault(&error))?;
    let mut trainer = trainer(&folder);
    let how = *rng.pick(&[Load::Strict, Load::Complete, Load::Fitting]);
    let resumed = trainer.resume_with(how).and_then(|_| trainer.fit(&kit.set, None));
    match resumed {
        Ok(_) => counts.n_resumed += 1,
        Err(TrainError::Compile(error)) if error.to_string().contains("internal compiler error") => {
            return Err(Fault::new("compiler", error.to_string()));
        }
        Err(error) => {
            counts.n_refused += 1;
            let _ = error.to_string();
        }
    }
    Ok(())
}

/// A folder of all kinds of things under the names of checkpoints.
fn folder(seed: u64, kit: &Kit, counts: &mut Counts) -> Result<(), Fault> {
    counts.n_folders += 1;
    let mut rng = Rng::new(seed ^ 0x401d);
    let place = kit.folder.join("folder");
    let _ = fs::remove_dir_all(&place);
    let io = |error: std::io::Error| Fault::new("set up", error.to_string());
    fs::create_dir_all(&place).map_err(io)?;
    let whole = bytes_of(kit.whole.clone());
    let mut later = kit.whole.clone().into_file();
    later.metadata.insert("version".to_owned(), "2".to_owned());
    let mut later_bytes = Vec::new();
    later.write_to(&mut later_bytes).map_err(io)?;
    let mut theirs: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for step in 0..rng.below(7) {
        let path = place.join(format!("step-{step:010}.safetensors"));
        match rng.below(9) {
            0 => fs::create_dir(&path),
            1 if let Some(pipe) = &kit.pipe => fs::hard_link(pipe, &path),
            #[cfg(unix)]
            2 => std::os::unix::fs::symlink(
                *rng.pick(&["/dev/zero", "nothing", "/", "step-0000000000.safetensors"]),
                &path,
            ),
            3 => {
                theirs.push((path.clone(), later_bytes.clone()));
                fs::write(&path, &later_bytes)
            }
            4 => {
                let name = *rng.pick(&["mine.partial", "step-0000000001.safetensors.partial", "notes"]);
                theirs.push((place.join(name), b"mine".to_vec()));
                fs::write(place.join(name), b"mine")
            }
            5 => fs::write(place.join(format!("step-{step:010}.safetensors.7-{step}.partial")), b"half"),
            6 => fs::write(&path, damaged(seed).1),
            _ => fs::write(&path, &whole),
        }
        .map_err(io)?;
    }
    let checkpoints = Checkpoints::new(&place).keep(1 + rng.below(3));
    // Errors are answers here; a wait or a panic is none.
    let _ = checkpoints.latest().map_err(|error| error.to_string());
    let step = rng.below(8) as u32;
    let saved = checkpoints.save(Checkpoint { step, ..kit.whole.clone() });
    if let Ok(path) = saved {
        let read = Checkpoint::read(&path).map_err(|error| Fault::new("saved", error.to_string()))?;
        if read.step != step {
            return Err(Fault::new("saved", format!("step {} was read, {step} was saved", read.step)));
        }
    }
    for (path, bytes) in theirs {
        // A link may have been written through; a file may not be gone.
        if fs::read(&path).map_err(|error| Fault::new("theirs", format!("{}: {error}", path.display())))? != bytes {
            return Err(Fault::new("theirs", format!("{} has changed", path.display())));
        }
    }
    Ok(())
}

/// Runs the mode; returns the number of failures.
pub fn run(limits: &Limits) -> usize {
    let kit = match Kit::new() {
        Ok(kit) => kit,
        Err(fault) => {
            println!("checkpoint: {}", fault.text);
            return 1;
        }
    };
    let mut counts = Counts::default();
    let case = |seed: u64| {
        read(seed, &mut counts)?;
        match seed % 64 {
            0 => forged(seed, &kit, &mut counts),
            1 | 33 => folder(seed, &kit, &mut counts),
            _ => Ok(()),
        }
    };
    let write = |seed: u64, _: &Fault| {
        let kept = keep(limits, &format!("checkpoint-{seed}.safetensors"), &damaged(seed).1);
        format!("{kept}; {}", replay(Mode::Checkpoint, &format!("--seed {seed} --count 1")))
    };
    let done = drive(Mode::Checkpoint, limits, case, write);
    let text = format!(
        "{} read without error, {} bytes, held at most {} KiB + {:.2} bytes per byte of a file; {} forged ones resumed from \
         and {} refused; {} folders",
        counts.n_read,
        counts.n_bytes,
        SLACK >> 10,
        counts.worst,
        counts.n_resumed,
        counts.n_refused,
        counts.n_folders
    );
    done.summary(Mode::Checkpoint, limits, &text);
    done.n_failures
}
