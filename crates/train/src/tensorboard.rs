//! Event files for TensorBoard: figures of every epoch, and histograms of the weights.
//!
//! Why it exists: people have their curves of many runs side by side there. The format is that of TensorFlow: records with
//! their length and masked CRC-32C around messages of protocol buffers (`Event` with a `Summary`), of which four kinds are written.
//! Promises: a record is whole or not there; one is written at each epoch's end, so a run that is killed leaves what it had.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cotangent_data::DataError;

use crate::TrainError;
use crate::callbacks::{Callback, Context, Flow};
use crate::history::Epoch;

/// A callback that writes an event file into a folder: `loss/train`, `loss/validation`, `accuracy/validation`, the metrics under `metric/`,
/// `rate`, histograms of the parameters under `weights/`, and, where [`Options::statistics`](crate::Options::statistics) asks for them, the
/// statistics of layers. One folder for each run; TensorBoard is started on the folder above.
///
/// ```
/// # use cotangent_train::TensorBoard;
/// let callback = TensorBoard::new("runs/first").without_weights();
/// # let _: &dyn cotangent_train::Callback = &callback;
/// ```
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    has_weights: bool,
    file: Option<(File, PathBuf)>,
}

impl TensorBoard {
    /// Event files in a folder, which is made if it is not there.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        TensorBoard { folder: folder.as_ref().to_owned(), has_weights: true, file: None }
    }

    /// No histograms of the weights.
    pub fn without_weights(mut self) -> Self {
        self.has_weights = false;
        self
    }

    /// Opens a file of its own: others in the folder, of runs that this one goes on with, stay.
    fn open(&mut self) -> Result<(), DataError> {
        let io = |path: &Path, source| DataError::Io { path: path.to_owned(), action: "write", source };
        fs::create_dir_all(&self.folder).map_err(|source| io(&self.folder, source))?;
        let seconds = now() as u64;
        for k in 0.. {
            let path = self.folder.join(format!("events.out.tfevents.{seconds}.cotangent.{}.{k}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    self.file = Some((file, path));
                    break;
                }
                Err(source) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(io(&path, source)),
            }
        }
        let mut event = Message::default();
        event.double(1, now());
        event.bytes(3, b"brain.Event:2");
        self.record(&event.0)
    }

    fn record(&mut self, message: &[u8]) -> Result<(), DataError> {
        let Some((file, path)) = &mut self.file else { return Ok(()) };
        file.write_all(&framed(message)).map_err(|source| DataError::Io { path: path.clone(), action: "write", source })
    }

    /// Writes an event with these values of a step.
    fn event(&mut self, step: u64, values: Vec<Message>) -> Result<(), DataError> {
        let mut summary = Message::default();
        values.iter().for_each(|value| summary.bytes(1, &value.0));
        let mut event = Message::default();
        event.double(1, now());
        event.integer(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0)
    }
}

impl Callback for TensorBoard {
    fn on_start(&mut self, _cx: &mut Context<'_>) -> Flow {
        self.open()?;
        Ok(Continue(()))
    }

    fn on_epoch(&mut self, epoch: &Epoch, cx: &mut Context<'_>) -> Flow {
        let mut values = vec![scalar("loss/train", epoch.train_loss)];
        values.extend(epoch.validation_loss.map(|loss| scalar("loss/validation", loss)));
        values.extend(epoch.validation_accuracy.map(|accuracy| scalar("accuracy/validation", accuracy)));
        values.extend(epoch.rate.map(|rate| scalar("rate", rate)));
        values.extend(epoch.metrics.iter().map(|(name, figure)| scalar(&format!("metric/{name}"), *figure)));
        for (k, activation) in cx.statistics.activations.iter().enumerate() {
            let name = &activation.layer;
            values.push(scalar(&format!("dead/{k}.{name}"), activation.dead()));
            values.push(scalar(&format!("inactive/{k}.{name}"), activation.inactive()));
        }
        for parameter in &cx.statistics.parameters {
            values.push(scalar(&format!("gradient/{}", parameter.name), parameter.gradient));
            values.extend(parameter.ratio().map(|ratio| scalar(&format!("change/{}", parameter.name), ratio)));
        }
        if self.has_weights {
            for name in cx.model {
                values.push(histogram(&format!("weights/{name}"), &cx.store.get(name)?.to_f64()));
            }
        }
        self.event(u64::from(epoch.step), values)?;
        Ok(Continue(()))
    }

    fn on_end(&mut self, _cx: &mut Context<'_>) -> Result<(), TrainError> {
        if let Some((file, path)) = self.file.take() {
            file.sync_all().map_err(|source| DataError::Io { path, action: "write", source })?;
        }
        Ok(())
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A message of protocol buffers: fields one after the other.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    /// Packed numbers.
    fn doubles(&mut self, field: u64, values: &[f64]) {
        self.bytes(field, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    }
}

/// A `Summary.Value` of one number.
fn scalar(tag: &str, value: f64) -> Message {
    let mut message = Message::default();
    message.bytes(1, tag.as_bytes());
    message.float(2, value as f32);
    message
}

/// A `Summary.Value` of a histogram: limits grow by a tenth from 10⁻¹² on, to both sides of zero, as TensorFlow's own.
fn histogram(tag: &str, values: &[f64]) -> Message {
    let mut limits: Vec<f64> =
        std::iter::successors(Some(1e-12), |limit| Some(limit * 1.1)).take_while(|limit| *limit < 1e20).collect();
    limits.push(f64::MAX);
    let limits: Vec<f64> = limits.iter().rev().map(|limit| -limit).chain([0.0]).chain(limits.iter().copied()).collect();
    let mut counts = vec![0.0; limits.len()];
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    for value in &finite {
        // A bucket ends below its limit.
        counts[limits.partition_point(|limit| limit <= value).min(limits.len() - 1)] += 1.0;
    }
    let used = |at: &usize| counts[*at] > 0.0;
    let from = (0..counts.len()).find(used).unwrap_or(0).saturating_sub(1);
    let to = (0..counts.len()).rfind(used).unwrap_or(0);
    let fold = |f: fn(f64, f64) -> f64| finite.iter().copied().reduce(f).unwrap_or(0.0);
    let mut own = Message::default();
    own.double(1, fold(f64::min));
    own.double(2, fold(f64::max));
    own.double(3, finite.len() as f64);
    own.double(4, finite.iter().sum());
    own.double(5, finite.iter().map(|value| value * value).sum());
    own.doubles(6, &limits[from..=to]);
    own.doubles(7, &counts[from..=to]);
    let mut message = Message::default();
    message.bytes(1, tag.as_bytes());
    message.bytes(5, &own.0);
    message
}

/// A record: length, its checksum, the message, its checksum.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(message);
    record.extend(masked(message).to_le_bytes());
    record
}

/// CRC-32C, turned and shifted so that checksums of checksums are none.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bits reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut at = 0;
        while at < 256 {
            let (mut crc, mut bit) = (at as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[at] = crc;
            at += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |crc, &byte| TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limits and counts of a histogram that was written.
    fn counts(message: &Message, n: usize) -> Vec<f64> {
        let eights = message.0[message.0.len() - 8 * n..].chunks(8);
        eights.map(|eight| f64::from_le_bytes(eight.try_into().unwrap())).collect()
    }

    #[test]
    fn odd_values_have_a_record_too() {
        for values in [&[][..], &[f64::NAN], &[f64::INFINITY, f64::NEG_INFINITY], &[f64::NAN, f64::MAX, f64::MIN, 0.0]]
        {
            let n = values.iter().filter(|value| value.is_finite()).count() as f64;
            let message = histogram("weights/a/b//c", values);
            let last = counts(&message, 1)[0];
            assert!(last <= n && (last > 0.0) == (n > 0.0), "{values:?}: {last}");
        }
        for value in [f64::NAN, f64::INFINITY, -1e300] {
            let message = scalar("metric/a/b", value);
            let stored = f32::from_le_bytes(message.0[message.0.len() - 4..].try_into().unwrap());
            assert!(stored.to_bits() == (value as f32).to_bits() || stored.is_nan() == value.is_nan());
        }
    }

    #[test]
    fn checksums_are_those_of_the_published_vectors() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }
}
