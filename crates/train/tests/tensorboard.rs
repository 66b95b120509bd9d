//! Event files: read back by a reader of its own, which knows the format from its description and none of the writer's code.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cotangent_data::synthetic::two_moons;
use cotangent_exec::{Runtime, Threads};
use cotangent_graph::{GraphBuilder, Tensor};
use cotangent_nn::{Adam, Layers};
use cotangent_train::{CrossEntropy, Options, TensorBoard, Trainer};

/// CRC-32C by the remainder of a division, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut remainder = u32::MAX;
    for byte in bytes {
        for k in 0..8 {
            let bit = u32::from(byte >> k & 1);
            let is_one = (remainder & 1) ^ bit == 1;
            remainder >>= 1;
            if is_one {
                remainder ^= 0x82f6_3b78;
            }
        }
    }
    u32::MAX - remainder
}

fn unmasked(masked: u32) -> u32 {
    masked.wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// The messages of a file of records.
fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(unmasked(word(8)), crc32c(&bytes[..8]));
        assert_eq!(unmasked(word(12 + n)), crc32c(&bytes[12..12 + n]));
        all.push(&bytes[12..12 + n]);
        bytes = &bytes[16 + n..];
    }
    all
}

/// A field of a message.
#[derive(Debug)]
enum Part<'a> {
    Varint(u64),
    Eight(f64),
    Four(f32),
    Bytes(&'a [u8]),
}

/// The fields of a message, in their order.
fn parts(mut bytes: &[u8]) -> Vec<(u64, Part<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        unreachable!()
    }
    fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (head, tail) = bytes.split_at(n);
        *bytes = tail;
        head
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let part = match key & 7 {
            0 => Part::Varint(varint(&mut bytes)),
            1 => Part::Eight(f64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
            2 => {
                let n = varint(&mut bytes) as usize;
                Part::Bytes(take(&mut bytes, n))
            }
            5 => Part::Four(f32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap())),
            other => panic!("wire type {other}"),
        };
        all.push((key >> 3, part));
    }
    all
}

fn net<'g>(_: &'g GraphBuilder, x: Tensor<'g>) -> Tensor<'g> {
    x.dense("hidden", 8).relu().dense("out", 2)
}

#[test]
fn event_files_hold_the_history_and_the_weights() {
    let folder: PathBuf = std::env::temp_dir().join(format!("cotangent-tensorboard-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let (train, validation) = (two_moons(100, 0.1, 1), two_moons(50, 0.1, 2));
    let options = Options { epochs: 3, statistics: Some(2), progress: false, ..Options::default() };
    let mut trainer = Trainer::new(&Runtime::new(Threads::Exactly(1)), net, CrossEntropy, Adam::new(0.02), options);
    let history = trainer.fit_with(&train, Some(&validation), TensorBoard::new(&folder)).unwrap();
    trainer.fit_with(&train, None, TensorBoard::new(&folder)).unwrap();

    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 2, "each call of `fit` has a file of its own");
    assert!(files[0].file_name().unwrap().to_string_lossy().contains("tfevents"));
    let bytes = std::fs::read(&files[0]).unwrap();
    let events = records(&bytes);
    assert_eq!(events.len(), 4);
    assert!(parts(events[0]).iter().any(|(field, part)| *field == 3 && matches!(part, Part::Bytes(b"brain.Event:2"))));

    let mut weights = BTreeMap::new();
    for (event, epoch) in events[1..].iter().zip(history.iter()) {
        let fields = parts(event);
        let Part::Eight(time) = fields[0].1 else { panic!("{fields:?}") };
        assert!(fields[0].0 == 1 && time > 1.6e9);
        assert!(matches!(fields[1], (2, Part::Varint(step)) if step == u64::from(epoch.step)));
        let (5, Part::Bytes(summary)) = fields[2] else { panic!("{fields:?}") };
        let mut scalars = BTreeMap::new();
        for (field, value) in parts(summary) {
            let Part::Bytes(value) = value else { panic!("{value:?}") };
            assert_eq!(field, 1);
            let value = parts(value);
            let (1, Part::Bytes(tag)) = value[0] else { panic!("{value:?}") };
            let tag = String::from_utf8(tag.to_vec()).unwrap();
            match value[1] {
                (2, Part::Four(number)) => drop(scalars.insert(tag, number)),
                (5, Part::Bytes(histogram)) => drop(weights.insert(tag, histogram.to_vec())),
                ref other => panic!("{other:?}"),
            }
        }
        assert_eq!(scalars["loss/train"], epoch.train_loss as f32);
        assert_eq!(scalars["loss/validation"], epoch.validation_loss.unwrap() as f32);
        assert_eq!(scalars["accuracy/validation"], epoch.validation_accuracy.unwrap() as f32);
        assert_eq!(scalars["rate"], 0.02);
        assert!((0.0..=1.0).contains(&scalars["dead/0.hidden"]) && scalars["gradient/out.weight"] > 0.0);
    }
    // The last histogram is not of the weights now, which a second call has trained on; counts and limits fit each other.
    assert_eq!(weights.keys().map(String::as_str).collect::<Vec<_>>().len(), 4);
    let histogram = parts(&weights["weights/hidden.weight"]);
    let number = |k: usize| match histogram[k] {
        (field, Part::Eight(value)) if field == k as u64 + 1 => value,
        ref other => panic!("{other:?}"),
    };
    let numbers = |k: usize| match histogram[k] {
        (field, Part::Bytes(bytes)) if field == k as u64 + 1 => {
            bytes.chunks(8).map(|eight| f64::from_le_bytes(eight.try_into().unwrap())).collect::<Vec<_>>()
        }
        ref other => panic!("{other:?}"),
    };
    let (limits, counts) = (numbers(5), numbers(6));
    assert_eq!((number(2), limits.len()), (16.0, counts.len()));
    assert_eq!(counts.iter().sum::<f64>(), 16.0);
    assert!(limits.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(number(0) >= -2.0 && number(1) <= *limits.last().unwrap() && number(4) >= number(3) * number(3) / 16.0);
    std::fs::remove_dir_all(&folder).unwrap();
}
