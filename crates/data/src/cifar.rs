//! CIFAR-10: 50,000 training and 10,000 test pictures in color of ten kinds of things, 32 × 32 (Krizhevsky 2009).
//!
//! Why it exists: it is the set that residual networks of this size are measured on.
//!
//! Assumes: a folder with the six files of the binary version, unpacked: `data_batch_1.bin` to `data_batch_5.bin` and
//! `test_batch.bin`, each of 10,000 records of one byte for the label and 3,072 for the picture, a plane for each of red, green and
//! blue. They are not part of Cotangent's repository. Promises: pictures are channels last, labels are 0 to 9.

use std::io::Read;
use std::path::Path;

use cotangent_host::float::in_default;
use ndarray::{Array1, Array4, ArrayView1, ArrayView4, Axis, concatenate};

use crate::DataError;
use crate::batches::Dataset;
use crate::reading::{ask, open};

/// Rows and columns of a picture.
pub const SIDE: usize = 32;
/// Red, green, blue.
pub const N_CHANNELS: usize = 3;
/// What the labels 0 to 9 stand for.
pub const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + N_CHANNELS * PLANE;
const RECORDS: usize = 10_000;
const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: &str = "test_batch.bin";
const NEEDED: &str = "the files data_batch_1.bin to data_batch_5.bin and test_batch.bin of the binary version of CIFAR-10 belong \
                      into one folder; Alex Krizhevsky offers it at the University of Toronto (\"CIFAR-10 binary version, suitable \
                      for C programs\")";

/// Both splits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cifar10 {
    train: Split,
    test: Split,
}

/// One split: pictures `[n, 32, 32, 3]` of levels 0 to 255 (rows, columns; red, green, blue) and labels `[n]` in 0 to 9
/// ([`CLASSES`]). Invariant: as many labels as pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pictures: Array4<u8>,
    labels: Array1<i64>,
}

impl Cifar10 {
    /// Reads the set from `folder`.
    ///
    /// # Errors
    /// [`DataError::Missing`] if the folder or one of the six files is not there, [`DataError::Malformed`] if a file has another
    /// length than 10,000 records, or a label above 9; [`DataError::Io`] if the system refuses.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, DataError> {
        Self::load_records(folder.as_ref(), RECORDS)
    }

    /// The set in files of so many records.
    fn load_records(folder: &Path, n: usize) -> Result<Self, DataError> {
        // All are looked for before one is read.
        if let Some(absent) = TRAIN.into_iter().chain([TEST]).map(|name| folder.join(name)).find(|path| !path.exists())
        {
            return Err(DataError::Missing { path: absent, fix: NEEDED.to_owned() });
        }
        let parts = TRAIN.map(|name| Split::read(&folder.join(name), n)).into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Self { train: Split::joined(&parts), test: Split::read(&folder.join(TEST), n)? })
    }

    /// The 50,000 examples to train on.
    pub fn train(&self) -> &Split {
        &self.train
    }

    /// The 10,000 examples to test on.
    pub fn test(&self) -> &Split {
        &self.test
    }

    /// Gives both splits away: training, test.
    pub fn into_parts(self) -> (Split, Split) {
        (self.train, self.test)
    }
}

impl Split {
    /// One file of so many records.
    fn read(path: &Path, n: usize) -> Result<Self, DataError> {
        let (mut file, length) = open(path)?;
        let malformed = |part, required: String, got: String| {
            DataError::Malformed {
            name: path.display().to_string(),
            part,
            required,
            got,
            fix: "unpack the binary version of CIFAR-10 again; CIFAR-100 and the versions for Python and Matlab are other formats"
                .to_owned(),
        }
        };
        let wrong_length = |got: u64| {
            let required = format!("{} bytes, {n} records of a label and {} levels", n * RECORD, RECORD - 1);
            malformed("length", required, format!("{got} bytes"))
        };
        if length != (n * RECORD) as u64 {
            return Err(wrong_length(length));
        }
        ask(&path.display().to_string(), length)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| DataError::io(path, "read", source))?;
        if bytes.len() != n * RECORD {
            return Err(wrong_length(bytes.len() as u64));
        }
        let label = |(place, record): (usize, &[u8])| match record[0] {
            label if usize::from(label) < CLASSES.len() => Ok(i64::from(label)),
            label => Err(malformed("labels", "labels of 0 to 9".to_owned(), format!("{label} at place {place}"))),
        };
        let labels = bytes.chunks_exact(RECORD).enumerate().map(label).collect::<Result<Array1<_>, _>>()?;
        let pictures = Array4::from_shape_fn((n, SIDE, SIDE, N_CHANNELS), |(i, y, x, channel)| {
            bytes[i * RECORD + 1 + channel * PLANE + y * SIDE + x]
        });
        Ok(Self { pictures, labels })
    }

    fn joined(parts: &[Self]) -> Self {
        let pictures: Vec<_> = parts.iter().map(|part| part.pictures.view()).collect();
        let labels: Vec<_> = parts.iter().map(|part| part.labels.view()).collect();
        let shapes = "files of one format have pictures of one shape";
        Self {
            pictures: concatenate(Axis(0), &pictures).expect(shapes),
            labels: concatenate(Axis(0), &labels).expect(shapes),
        }
    }

    /// The number of pictures.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pictures, `[n, 32, 32, 3]`, levels 0 to 255.
    pub fn pictures(&self) -> ArrayView4<'_, u8> {
        self.pictures.view()
    }

    /// The labels, `[n]`, 0 to 9.
    pub fn labels(&self) -> ArrayView1<'_, i64> {
        self.labels.view()
    }

    /// Gives pictures and labels away.
    pub fn into_parts(self) -> (Array4<u8>, Array1<i64>) {
        (self.pictures, self.labels)
    }

    /// The same as a [`Dataset`] of pictures `[n, 32, 32, 3]` in `[0, 1]`, the level / 255; four times as many bytes.
    pub fn to_dataset(&self) -> Dataset {
        let features = in_default(|| self.pictures.mapv(|level| f32::from(level) / 255.0));
        Dataset::new(features.into_dyn(), self.labels.clone()).expect("there are as many labels as pictures")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("cotangent-cifar-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        /// The set of two records in each file.
        fn with_files(name: &str) -> Self {
            let folder = Folder::new(name);
            for (file, name) in TRAIN.into_iter().chain([TEST]).enumerate() {
                fs::write(folder.0.join(name), records(file as u8, 2)).unwrap();
            }
            folder
        }

        fn message(&self) -> String {
            Cifar10::load_records(&self.0, 2).unwrap_err().to_string()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Records with the label of the file's number, and levels that say place, plane, row and column.
    fn level(file: u8, record: usize, channel: usize, y: usize, x: usize) -> u8 {
        (usize::from(file) * 131 + record * 83 + channel * 61 + y * 7 + x) as u8
    }

    fn records(file: u8, n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in 0..n {
            bytes.push(file);
            for (channel, y, x) in (0..RECORD - 1).map(|i| (i / PLANE, i / SIDE % SIDE, i % SIDE)) {
                bytes.push(level(file, record, channel, y, x));
            }
        }
        bytes
    }

    #[test]
    fn planes_become_channels_and_files_follow_each_other() {
        let folder = Folder::with_files("planes");
        let (train, test) = Cifar10::load_records(&folder.0, 2).unwrap().into_parts();
        assert_eq!((train.len(), test.len(), train.is_empty()), (10, 2, false));
        assert_eq!(train.labels().to_vec(), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(test.labels().to_vec(), [5, 5]);
        assert_eq!(train.pictures().shape(), [10, 32, 32, 3]);
        for ((i, y, x, channel), &got) in train.pictures().indexed_iter() {
            assert_eq!(got, level((i / 2) as u8, i % 2, channel, y, x), "{i} {y} {x} {channel}");
        }
        let set = test.to_dataset();
        assert_eq!(set.features().shape(), [2, 32, 32, 3]);
        assert_eq!(set.features()[[1, 31, 30, 2]], f32::from(level(5, 1, 2, 31, 30)) / 255.0);
        assert_eq!(test.clone().into_parts().1, test.labels());
    }

    #[test]
    fn what_is_missing_is_named_with_where_it_comes_from() {
        let folder = Folder::with_files("missing");
        fs::remove_file(folder.0.join("data_batch_4.bin")).unwrap();
        let message = folder.message();
        assert!(message.contains("data_batch_4.bin: required a file or folder"), "{message}");
        assert!(message.contains("data_batch_1.bin to data_batch_5.bin and test_batch.bin"), "{message}");
        assert!(message.contains("binary version of CIFAR-10") && message.contains("Krizhevsky"), "{message}");
        let nowhere = Cifar10::load("no/such/folder").unwrap_err();
        assert!(matches!(nowhere, DataError::Missing { .. }), "{nowhere}");
    }

    #[test]
    fn files_cut_off_and_foreign_ones_are_named() {
        let folder = Folder::with_files("foreign");
        let path = folder.0.join("data_batch_2.bin");
        for length in [0, 1, RECORD, 2 * RECORD - 1, 2 * RECORD + 1, 3 * RECORD, 2 * 3074] {
            let mut bytes = records(1, 3);
            bytes.truncate(length);
            fs::write(&path, bytes).unwrap();
            let message = folder.message();
            assert!(message.contains("data_batch_2.bin: length: required 6146 bytes, 2 records"), "{message}");
            assert!(message.contains(&format!("got {length} bytes")) && message.contains("CIFAR-100"), "{message}");
        }
        fs::write(&path, records(10, 2)).unwrap();
        assert!(folder.message().contains("labels: required labels of 0 to 9, got 10 at place 0"));
        // Small files are not the published ones.
        fs::write(&path, records(1, 2)).unwrap();
        let message = Cifar10::load(&folder.0).unwrap_err().to_string();
        assert!(message.contains("required 30730000 bytes, 10000 records"), "{message}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(Cifar10::load_records(&folder.0, 2), Err(DataError::NotAFile { .. })));
    }
}
