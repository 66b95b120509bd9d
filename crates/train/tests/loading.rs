//! Values go from a file into a store: all of them, or none.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};

use cotangent_data::safetensors::Archive;
use cotangent_exec::{Compiler, Seed, Store};
use cotangent_graph::DType::{F32, I64};
use cotangent_graph::{Init, build};
use cotangent_train::checkpoint::{Load, load_for};
use cotangent_train::{Checkpoint, TrainError, checksum_all};

#[test]
fn a_value_that_cannot_be_read_leaves_all_as_they_were() {
    let path = std::env::temp_dir().join(format!("cotangent-loading-{}.safetensors", std::process::id()));
    let filled = |value: f32| {
        let mut store = Store::new(Seed(0));
        store.insert("a", vec![value; 70_000]).unwrap();
        store.insert("none", Vec::<f32>::new()).unwrap();
        store.insert("z", vec![value as i64; 3]).unwrap();
        store
    };
    let graph = build(|g| {
        let (a, none) = (g.param("a", F32, [70_000], Init::ZEROS), g.param("none", F32, [0], Init::ZEROS));
        g.output("y", a.sum() + none.sum());
        g.output("z", g.state("z", I64, [3], Init::ZEROS));
    });
    let program = Compiler::new().compile(&graph.unwrap()).unwrap();
    let mut saved = filled(2.0);
    saved.set_step(7);
    Checkpoint::of_store(&saved).unwrap().write(&path).unwrap();
    let whole = fs::read(&path).unwrap();

    let mut store = filled(1.0);
    let before = checksum_all(&store).unwrap();
    let last_byte = |mut file: &File| {
        file.seek(SeekFrom::End(-1)).unwrap();
        file.write_all(&[0x55]).unwrap();
    };
    let cut = |file: &File| file.set_len(whole.len() as u64 - 1).unwrap();
    for (spoil, says) in [
        (&cut as &dyn Fn(&File), "got its end"),
        (&last_byte, "required the checksum of the elements of `a`, got another"),
    ] {
        // What is opened is in order; then it changes.
        fs::write(&path, &whole).unwrap();
        let opened = Checkpoint::open(&path).unwrap();
        spoil(&OpenOptions::new().write(true).open(&path).unwrap());
        let error = opened.load(Load::Strict, &mut store).unwrap_err();
        assert!(matches!(&error, TrainError::Data(_)) && error.to_string().contains(says), "{error}");
        assert_eq!((checksum_all(&store).unwrap(), store.step()), (before, 0));
        // Nor are any made where there were none.
        let mut empty = Store::new(Seed(0));
        assert!(load_for(&opened.tensors, Load::Strict, &program, &mut empty).is_err());
        assert_eq!(empty.iter().count(), 0);
        assert!(Checkpoint::read(&path).is_err());
    }

    fs::write(&path, &whole).unwrap();
    let opened = Checkpoint::open(&path).unwrap();
    assert!(opened.load(Load::Strict, &mut store).unwrap().is_exact());
    assert_eq!((checksum_all(&store).unwrap(), store.step()), (checksum_all(&saved).unwrap(), 7));
    // As any file of the format; what has another type is told before something is read.
    let mut fresh = Store::new(Seed(0));
    let tensors = Archive::open(&path).unwrap().tensors;
    load_for(&tensors, Load::Strict, &program, &mut fresh).unwrap();
    assert_eq!(checksum_all(&fresh).unwrap(), checksum_all(&saved).unwrap());
    let mut other = Store::new(Seed(0));
    other.insert("z", vec![1f32]).unwrap();
    let error = load_for(&tensors, Load::Strict, &program, &mut other).unwrap_err().to_string();
    assert!(error.contains("`z` requires f32[1], got i64[3]") && other.iter().count() == 1, "{error}");
    fs::remove_file(&path).unwrap();
}
