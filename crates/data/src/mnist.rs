//! MNIST: 60,000 training and 10,000 test pictures of handwritten digits, 28 × 28.
//!
//! Why it exists: it is the set of the lecture's table of results, and what the examples train on.
//!
//! Assumes: a folder with the four published IDX files, gzip-compressed (`.gz`) or plain. They are in Cotangent's repository, in
//! `examples/data/mnist`, and not part of the crate.
//! Promises: pictures are rows of 784 values, gray level / 255, so in `[0, 1]`; labels are 0 to 9; counts agree.

use std::env;
use std::path::{Path, PathBuf};

use cotangent_graph::TensorData;
use cotangent_host::float::in_default;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::DataError;
use crate::batches::{Batches, Dataset};
use crate::idx;

/// Pixels per picture: 28 × 28.
pub const N_PIXELS: usize = 784;
/// The digits 0 to 9.
pub const N_CLASSES: usize = 10;
/// The environment variable that names the folder.
pub const FOLDER_VARIABLE: &str = "COTANGENT_MNIST";
/// Where the folder is in the repository.
pub const FOLDER: &str = "examples/data/mnist";

const SIDE: usize = 28;

/// Both splits.
#[derive(Debug, Clone, PartialEq)]
pub struct Mnist {
    train: Split,
    test: Split,
}

impl Mnist {
    /// Reads the set from the folder that the environment variable `COTANGENT_MNIST` names; without it from
    /// `examples/data/mnist` in the first folder that has one among the package that Cargo runs, the working folder, the program's
    /// own, and those that they are in. So examples find it wherever in the repository they are started.
    ///
    /// # Errors
    /// [`DataError::Missing`] if there is no such folder; otherwise as [`Mnist::load`].
    pub fn find() -> Result<Self, DataError> {
        let asked_for = env::var_os(FOLDER_VARIABLE).map(PathBuf::from);
        let starts =
            [env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from), env::current_dir().ok(), env::current_exe().ok()];
        let folder = asked_for.or_else(|| folder_near(starts.iter().flatten().map(PathBuf::as_path)));
        Self::load(folder.unwrap_or_else(|| PathBuf::from(FOLDER)))
    }

    /// Reads the set from `folder`.
    ///
    /// # Errors
    /// [`DataError::Missing`] if the folder or one of the four files is not there, [`DataError::Malformed`] if a file is
    /// not IDX, not of MNIST's shape, or has a label above 9, [`DataError::Mismatch`] if the counts of pictures and
    /// labels differ.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, DataError> {
        let folder = folder.as_ref();
        Ok(Self { train: Split::load(folder, "train")?, test: Split::load(folder, "t10k")? })
    }

    /// The 60,000 examples to train on.
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

/// One split: pictures `[n, 784]` in `[0, 1]` and labels `[n]` in 0 to 9. Invariant: as many labels as pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    dataset: Dataset,
}

impl Split {
    fn load(folder: &Path, prefix: &str) -> Result<Self, DataError> {
        let images_path = find(folder, &format!("{prefix}-images-idx3-ubyte"))?;
        let labels_path = find(folder, &format!("{prefix}-labels-idx1-ubyte"))?;
        Self::from_idx(
            (idx::read_idx(&images_path)?, &images_path.display().to_string()),
            (idx::read_idx(&labels_path)?, &labels_path.display().to_string()),
        )
    }

    /// Joins two parsed files, each with the name that errors call it.
    fn from_idx(
        (images, images_name): (TensorData, &str),
        (labels, labels_name): (TensorData, &str),
    ) -> Result<Self, DataError> {
        let images = match images {
            TensorData::U8(array) if matches!(array.shape(), [_, SIDE, SIDE]) => array,
            other => return Err(wrong_kind(images_name, "u8[n,28,28]", &other)),
        };
        let labels = match labels {
            TensorData::U8(array) if array.ndim() == 1 => array,
            other => return Err(wrong_kind(labels_name, "u8[n]", &other)),
        };
        let n_images = images.shape()[0];
        if n_images != labels.len() {
            return Err(DataError::Mismatch {
                of: labels_name.to_owned(),
                required: format!("{n_images} labels, one per picture of {images_name}"),
                got: labels.len().to_string(),
                fix: "fetch both files from the same source".to_owned(),
            });
        }
        if let Some((place, label)) = labels.iter().enumerate().find(|&(_, &label)| usize::from(label) >= N_CLASSES) {
            return Err(DataError::Malformed {
                name: labels_name.to_owned(),
                part: "labels",
                required: "labels of 0 to 9".to_owned(),
                got: format!("{label} at place {place}"),
                fix: "fetch the file again".to_owned(),
            });
        }
        let features = in_default(|| images.mapv(|level| f32::from(level) / 255.0));
        let shape = ndarray::IxDyn(&[n_images, N_PIXELS]);
        let features = features.into_shape_with_order(shape).map_err(|error| DataError::Mismatch {
            of: images_name.to_owned(),
            required: format!("pictures of {N_PIXELS} pixels"),
            got: error.to_string(),
            fix: "fetch the file again".to_owned(),
        })?;
        let labels: Array1<i64> = labels.iter().map(|&label| i64::from(label)).collect();
        Ok(Self { dataset: Dataset::new(features, labels)? })
    }

    /// The number of pictures.
    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.dataset.is_empty()
    }

    /// The pictures, `[n, 784]`, in `[0, 1]`.
    pub fn images(&self) -> ArrayView2<'_, f32> {
        self.dataset.features().into_dimensionality().expect("from_idx gives the pictures two axes")
    }

    /// The labels, `[n]`, 0 to 9.
    pub fn labels(&self) -> ArrayView1<'_, i64> {
        self.dataset.labels()
    }

    /// The same as a [`Dataset`].
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Gives the [`Dataset`] away.
    pub fn into_dataset(self) -> Dataset {
        self.dataset
    }

    /// Gives the pictures `[n, 784]` and the labels `[n]` away.
    pub fn into_parts(self) -> (Array2<f32>, Array1<i64>) {
        let (features, labels) = self.dataset.into_parts();
        (features.into_dimensionality().expect("from_idx gives the pictures two axes"), labels)
    }

    /// A copy of the first `n` pictures, or of all if there are fewer.
    #[must_use]
    pub fn head(&self, n: usize) -> Self {
        Self { dataset: self.dataset.head(n) }
    }

    /// See [`Dataset::batches`].
    pub fn batches(&self, size: usize) -> Batches<'_> {
        self.dataset.batches(size)
    }

    /// See [`Dataset::shuffled_batches`].
    pub fn shuffled_batches(&self, size: usize, seed: u64) -> Batches<'_> {
        self.dataset.shuffled_batches(size, seed)
    }
}

/// The folder of the set in or above one of these.
fn folder_near<'a>(starts: impl Iterator<Item = &'a Path>) -> Option<PathBuf> {
    starts.flat_map(Path::ancestors).map(|above| above.join(FOLDER)).find(|folder| folder.is_dir())
}

/// The file of that stem in `folder`: compressed if it is there, else plain.
fn find(folder: &Path, stem: &str) -> Result<PathBuf, DataError> {
    let compressed = folder.join(format!("{stem}.gz"));
    let plain = folder.join(stem);
    if compressed.is_file() {
        Ok(compressed)
    } else if plain.is_file() {
        Ok(plain)
    } else {
        Err(DataError::Missing {
            path: compressed,
            fix: format!(
                "set {FOLDER_VARIABLE} to a folder with the four MNIST files ({FOLDER} in Cotangent's repository has them)"
            ),
        })
    }
}

fn wrong_kind(name: &str, required: &str, got: &TensorData) -> DataError {
    DataError::Malformed {
        name: name.to_owned(),
        part: "array",
        required: required.to_owned(),
        got: got.ty().to_string(),
        fix: "check that the file is the one its name says".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, IxDyn};

    use super::*;

    fn bytes(shape: &[usize], value: u8) -> TensorData {
        ArrayD::from_elem(IxDyn(shape), value).into()
    }

    fn message(images: TensorData, labels: TensorData) -> String {
        Split::from_idx((images, "images"), (labels, "labels")).unwrap_err().to_string()
    }

    #[test]
    fn the_set_of_the_examples_is_mnist() {
        let mnist = Mnist::find().unwrap();
        let (train, test) = (mnist.train(), mnist.test());
        assert_eq!((train.images().dim(), train.labels().len()), ((60_000, 784), 60_000));
        assert_eq!((test.images().dim(), test.labels().len()), ((10_000, 784), 10_000));
        assert_eq!(train.labels().to_vec()[..5], [5, 0, 4, 1, 9]);
        assert_eq!(test.labels().to_vec()[..5], [7, 2, 1, 0, 4]);
        // How often each digit occurs, and the mean gray level that everybody normalizes by.
        let mut counts = [0; N_CLASSES];
        train.labels().iter().for_each(|&label| counts[label as usize] += 1);
        assert_eq!(counts, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
        let mean = train.images().iter().map(|&gray| f64::from(gray)).sum::<f64>() / (60_000.0 * 784.0);
        assert!((mean - 0.1307).abs() < 5e-5, "{mean}");
        assert!(train.images().iter().all(|gray| (0.0..=1.0).contains(gray)));
        let first = train.shuffled_batches(32, 1).next().unwrap();
        assert_eq!((first.0.shape(), first.1.len()), (&[32, 784][..], 32));
        assert_eq!(train.batches(64).len(), 938);
    }

    #[test]
    fn wrong_files_are_named() {
        assert!(Split::from_idx((bytes(&[3, 28, 28], 255), "images"), (bytes(&[3], 9), "labels")).is_ok());
        assert_eq!(
            message(bytes(&[3, 28, 28], 0), bytes(&[2], 0)),
            "labels: required 3 labels, one per picture of images, got 2; fetch both files from the same source"
        );
        assert!(message(bytes(&[3, 28, 28], 0), bytes(&[3], 10)).contains("labels of 0 to 9, got 10 at place 0"));
        assert!(message(bytes(&[3, 28, 27], 0), bytes(&[3], 0)).contains("required u8[n,28,28], got u8[3,28,27]"));
        assert!(message(bytes(&[3, 28, 28], 0), bytes(&[3, 1], 0)).contains("labels: array: required u8[n]"));
        assert!(message(ArrayD::<i32>::zeros(IxDyn(&[3, 28, 28])).into(), bytes(&[3], 0)).contains("got i32[3,28,28]"));
    }

    #[test]
    fn a_missing_folder_says_what_to_set() {
        let error = Mnist::load("no/such/folder").unwrap_err();
        assert!(matches!(error, DataError::Missing { .. }));
        assert!(error.to_string().contains(FOLDER_VARIABLE), "{error}");
    }

    #[test]
    fn the_folder_is_found_from_below() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let found = folder_near([Path::new("/no/such"), &here.join("src/npz")].into_iter()).unwrap();
        assert!(found.ends_with(FOLDER) && found.is_dir(), "{}", found.display());
        assert_eq!(folder_near([Path::new("/no/such/folder")].into_iter()), None);
    }
}
