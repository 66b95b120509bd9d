//! Sounds in WAV files. Needs the feature `sounds`.
//!
//! Why it exists: changes of sounds ([`augment`](crate::augment)) work on rows of samples, and these come in files.
//! Promises: a file that is no WAV, or is cut off, is an error that names it; what a header claims is not believed before it has arrived.
//!
//! ```
//! use cotangent_data::sounds::Sound;
//! use ndarray::array;
//!
//! // Two channels become one, and all sounds of a set one length.
//! let sound = Sound { samples: array![[0.5, 0.0], [0.25, 0.75]], rate: 8000 };
//! assert_eq!(sound.mono(3).to_vec(), [0.25, 0.5, 0.0]);
//! ```

use std::io::{Cursor, Read};
use std::path::Path;

use cotangent_host::float::in_default;
use hound::{SampleFormat, WavReader};
use ndarray::{Array1, Array2};

use crate::DataError;
use crate::reading::{ask, open};

/// Samples of a sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Sound {
    /// Samples, `[n, channels]`, finite; of integers from -1 to 1, while floats may go beyond.
    pub samples: Array2<f32>,
    /// Samples a second.
    pub rate: u32,
}

impl Sound {
    /// The mean of the channels, `[length]`: what is longer is cut off, behind what is shorter is silence.
    pub fn mono(&self, length: usize) -> Array1<f32> {
        let n_channels = self.samples.ncols().max(1) as f32;
        let mean = |at: usize| if at < self.samples.nrows() { self.samples.row(at).sum() / n_channels } else { 0.0 };
        in_default(|| (0..length).map(mean).collect())
    }
}

/// Reads a WAV file: integers of 8 to 32 bits, or floats of 32.
///
/// # Errors
/// As [`open`]; [`DataError::Malformed`] if it is no WAV, damaged or cut off; [`DataError::Unsupported`] for other kinds of samples.
pub fn read_wav(path: impl AsRef<Path>) -> Result<Sound, DataError> {
    let path = path.as_ref();
    let (mut file, length) = open(path)?;
    ask(&path.display().to_string(), length)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|source| DataError::io(path, "read", source))?;
    parse_wav(&bytes, &path.display().to_string())
}

/// [`read_wav`] from memory; errors call the file `name`.
///
/// # Errors
/// As [`read_wav`].
pub fn parse_wav(bytes: &[u8], name: &str) -> Result<Sound, DataError> {
    let failed = |error: hound::Error| match error {
        hound::Error::Unsupported => DataError::Unsupported {
            name: name.to_owned(),
            what: "this kind of samples; integers of 8 to 32 bits and floats of 32 are".to_owned(),
            fix: "convert it to WAV of 16 bits".to_owned(),
        },
        error => DataError::Malformed {
            name: name.to_owned(),
            part: "sound",
            required: "a whole WAV file".to_owned(),
            got: error.to_string(),
            fix: "save it again".to_owned(),
        },
    };
    let mut reader = WavReader::new(Cursor::new(bytes)).map_err(failed)?;
    let spec = reader.spec();
    let n_channels = usize::from(spec.channels).max(1);
    let values: Result<Vec<f32>, hound::Error> = in_default(|| match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().collect(),
        SampleFormat::Int => {
            let scale = 2f32.powi(1 - i32::from(spec.bits_per_sample));
            reader.samples::<i32>().map(|sample| Ok(sample? as f32 * scale)).collect()
        }
    });
    let mut values = values.map_err(failed)?;
    if values.iter().any(|value| !value.is_finite()) {
        return Err(DataError::Malformed {
            name: name.to_owned(),
            part: "samples",
            required: "finite numbers".to_owned(),
            got: "NaN or an infinity".to_owned(),
            fix: "save it again, as integers of 16 bits for example".to_owned(),
        });
    }
    // A last sample without all its channels is none.
    values.truncate(values.len() / n_channels * n_channels);
    let samples = Array2::from_shape_vec((values.len() / n_channels, n_channels), values);
    let samples = samples.expect("the channels divide the values");
    Ok(Sound { samples, rate: spec.sample_rate })
}

#[cfg(test)]
mod tests {
    use hound::{WavSpec, WavWriter};

    use super::*;

    fn wav(bits: u16, format: SampleFormat) -> Vec<u8> {
        let spec = WavSpec { channels: 2, sample_rate: 8000, bits_per_sample: bits, sample_format: format };
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = WavWriter::new(&mut bytes, spec).unwrap();
        for k in -3..=3 {
            match format {
                SampleFormat::Float => [k as f32 / 4.0, 0.125].map(|v| writer.write_sample(v).unwrap()),
                SampleFormat::Int => [k << (bits - 3), 1 << (bits - 4)].map(|v: i32| writer.write_sample(v).unwrap()),
            };
        }
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    #[test]
    fn samples_of_all_kinds_are_what_was_written() {
        for (bits, format) in [
            (8, SampleFormat::Int),
            (16, SampleFormat::Int),
            (24, SampleFormat::Int),
            (32, SampleFormat::Int),
            (32, SampleFormat::Float),
        ] {
            let sound = parse_wav(&wav(bits, format), "a.wav").unwrap();
            let expected = Array2::from_shape_fn((7, 2), |(k, c)| [(k as f32 - 3.0) / 4.0, 0.125][c]);
            assert_eq!((sound.samples.clone(), sound.rate), (expected, 8000), "{bits} {format:?}");
            let mono = sound.mono(9);
            assert_eq!((mono[0], mono[8], mono.len()), ((-0.75 + 0.125) / 2.0, 0.0, 9));
        }
    }

    #[test]
    fn what_is_no_whole_sound_is_named() {
        let whole = wav(16, SampleFormat::Int);
        for n in 0..whole.len() {
            let error = parse_wav(&whole[..n], "cut.wav").unwrap_err().to_string();
            assert!(error.contains("cut.wav"), "{n}: {error}");
        }
        let flipped = |at: usize, mask: u8| {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            bytes
        };
        // Whatever the header says, it is an error or a sound.
        for at in 0..44 {
            for mask in [1, 0x80, 0xff] {
                let _ = parse_wav(&flipped(at, mask), "bad.wav");
            }
        }
        let mut loud = wav(32, SampleFormat::Float);
        let at = loud.len() - 8;
        for odd in [f32::NAN, f32::INFINITY] {
            loud[at..at + 4].copy_from_slice(&odd.to_le_bytes());
            let error = parse_wav(&loud, "loud.wav").unwrap_err().to_string();
            assert!(error.contains("loud.wav: samples: required finite numbers"), "{error}");
        }
        assert!(parse_wav(b"OggS and so on", "other.ogg").unwrap_err().to_string().contains("a whole WAV file"));
        assert!(matches!(read_wav("no/such.wav"), Err(DataError::Missing { .. })));
    }
}
